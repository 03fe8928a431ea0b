"""A search with Optuna that ends hopeless trials early: each reports its validation score after every epoch.

Optuna is no dependency of Stillhouse: ``pip install optuna``. Ranges of a recipe's keys are searched on logarithmic scales; with
``--arms`` the trials are the arms that ``stillhouse ablate RECIPE`` has, each once::

    python optuna_search.py RECIPE FOLDER optimizer.lr=1e-4..1e-1 plugins.features.weight=0.01..100
    python optuna_search.py RECIPE FOLDER --arms

The same command goes on after an interruption; several of them at once, in one folder, share the work. No run measures the test
split: what is chosen here is to be compared by ``stillhouse ablate``, under other seeds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean

import attrs
import optuna
from ignite.engine import Engine, Events
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GridSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

from stillhouse import Recipe, Run, StillhouseError, prepare
from stillhouse.experiments.ablation import make_plan
from stillhouse.tasks.builder import build_task

DONE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def measure(trial: optuna.Trial, recipe: Recipe, seeds: int, folder: Path) -> float:
    """Train ``recipe`` under so many seeds, one after the other; the mean of the last validation scores.

    Raises:
        optuna.TrialPruned: Optuna ends the trial. Its last run is left like one that was interrupted.
    """
    scores = []
    for place in range(seeds):
        options = attrs.evolve(recipe.run, seed=recipe.run.seed + place, test=False)
        out = folder / f"trial-{trial.number}" / f"seed-{options.seed}"
        training = prepare(attrs.evolve(recipe, run=options), out=out)
        run = training.run
        run.trainer.add_event_handler(Events.EPOCH_COMPLETED, report, trial, run, place * options.epochs)
        scores.append(training.fit().metrics["val"][run.task.score])
    return fmean(scores)


def report(engine: Engine, trial: optuna.Trial, run: Run, before: int) -> None:
    """Tell Optuna the epoch's score, and end the trial where it says so.

    Epochs are counted through all seeds, ``before`` under those that are done: trials are compared after the same epoch of the
    same seed.
    """
    trial.report(run.metrics["val"][run.task.score], before + engine.state.epoch)
    if trial.should_prune():
        raise optuna.TrialPruned


def main(given: list[str] | None = None) -> int:
    """Search, and say what became of every trial; 1 where none came to its end."""
    parser = argparse.ArgumentParser(description="search a recipe's values, or its arms, with Optuna")
    parser.add_argument("recipe")
    parser.add_argument("folder", type=Path)
    parser.add_argument("ranges", nargs="*", metavar="KEY=LOW..HIGH")
    parser.add_argument("--arms", action="store_true", help="the full list, none, all but each plugin, each alone")
    parser.add_argument("--trials", type=int, default=20, help="of all that are to be in the folder")
    parser.add_argument("--seeds", type=int, default=2, help="of each trial, the same for all")
    options = parser.parse_args(given)
    whole = Recipe.load(options.recipe)
    ranges = {key: tuple(map(float, text.split(".."))) for key, _, text in (r.partition("=") for r in options.ranges)}
    arms: dict[str, Recipe] = {}
    sampler: BaseSampler = TPESampler(seed=0)
    if options.arms:
        plan, _ = make_plan(whole, seeds=options.seeds, out=options.folder / "arms")
        arms = {arm.name: arm.recipe for arm in plan.arms}
        sampler = GridSampler({"arm": list(arms)}, seed=0)

    def objective(trial: optuna.Trial) -> float:
        if arms:
            return measure(trial, arms[trial.suggest_categorical("arm", list(arms))], options.seeds, options.folder)
        values = {key: trial.suggest_float(key, *ends, log=True) for key, ends in ranges.items()}
        chosen = Recipe.load(options.recipe, overrides=[f"{key}={value:.4g}" for key, value in values.items()])
        return measure(trial, chosen, options.seeds, options.folder)

    options.folder.mkdir(parents=True, exist_ok=True)
    task = build_task(whole.task, whole.base)
    study = optuna.create_study(
        study_name="search",
        storage=JournalStorage(JournalFileBackend(str(options.folder / "optuna.log"))),
        load_if_exists=True,
        sampler=sampler,
        pruner=SuccessiveHalvingPruner(min_resource=max(1, whole.run.epochs // 8), reduction_factor=3),
        direction="maximize" if task.score_mode == "max" else "minimize",
    )
    trials = len(arms) or options.trials
    if len(study.get_trials(states=DONE)) < trials:
        # A run that diverges is a failed trial, and no reason to stop searching.
        study.optimize(objective, callbacks=[MaxTrialsCallback(trials, states=DONE)], catch=(StillhouseError,))
    return tell(study, whole.run.epochs * options.seeds)


def tell(study: optuna.Study, epochs: int) -> int:
    """Print every trial, the best first; one that was ended has no score, only after how many epochs it was."""
    ended = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    for trial in sorted(ended, key=lambda t: t.value, reverse=study.direction.name == "MAXIMIZE"):
        print(f"{trial.value:.4f}  trial-{trial.number}  {trial.params}")
    for trial in study.trials:
        if trial.state == TrialState.PRUNED:
            print(f"stopped after {trial.last_step} of {epochs} epochs  trial-{trial.number}  {trial.params}")
        elif trial.state == TrialState.FAIL:
            print(f"failed  trial-{trial.number}  {trial.params}")
    return 0 if ended else 1


if __name__ == "__main__":
    sys.exit(main())
