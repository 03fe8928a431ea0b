"""The demo: a small student on a few labelled digits, alone and distilled, with a control, over paired seeds.

``make demo`` runs it. Each seed draws its own five images a class and its own initial student, which its three runs share:
*alone* has no teacher; *distilled* follows one that was trained without labels, on all images; the *control* follows one
that was never trained. So the difference of a pair is the method's, and the control's what is not the teacher's knowledge.

``python docs/demo.py --choose`` shows how learning rates and weights were chosen: each arm alike, by the validation split,
over seeds that the demo does not use.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from stillhouse import Recipe, Result, StillhouseError, load_recipe, train
from stillhouse.experiments.picture import draw_ablation
from stillhouse.experiments.run_groups import compare
from stillhouse.experiments.statistics import t_interval
from stillhouse.terminal import Terminal, make_table

RECIPE = Path(__file__).parent / "recipes" / "digits-demo.toml"
OTHER = RECIPE.with_name("digits-vkd.toml")
OUT = Path("runs") / "demo"
SEEDS = range(6)
ARMS: Mapping[str, tuple[str, ...]] = {
    "alone": ("optimizer.lr=5e-3",),
    "distilled": (),
    "control": ("optimizer.lr=2e-3", "plugins.tcs.weight=0.2"),
}
"""The arms, and what the validation split has chosen for each where it is not the recipe's."""

CHOICE_SEEDS = range(1000, 1004)
RATES, WEIGHTS = (5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 4e-2), (0.05, 0.2, 1, 5, 20)
SCORE = "accuracy"


def make_recipe(arm: str, overrides: list[str]) -> Recipe:
    """The recipe of an arm."""
    changed = [*ARMS[arm], f"run.name={arm}", "run.log_every=10", *overrides]
    if arm == "alone":
        return load_recipe(RECIPE, overrides=changed, plugins="")
    recipe = load_recipe(RECIPE, overrides=changed)
    if arm == "distilled":
        return recipe
    tables = recipe.to_dict()
    assert recipe.teacher is not None
    assert recipe.teacher.recipe is not None
    teacher = recipe.teacher.recipe["student"]
    tables["teacher"] = {"model": teacher["model"], "args": teacher["args"], "random": True}
    return Recipe.from_dict(tables, base=recipe.base)


def run(arm: str, seed: int) -> Result:
    """One run, in its folder; the second time it is found there."""
    return train(make_recipe(arm, [f"run.seed={seed}"]), out=OUT / arm / f"seed-{seed}", resume=True)


def choose(console: Terminal) -> None:
    """Show what the validation split says of each rate and weight, for each arm."""
    table = make_table(
        "arm", "weight", *(f"lr = {rate:g}" for rate in RATES), title="accuracy on the validation split, in percent"
    )
    cells = [(arm, weight) for arm in ARMS for weight in (WEIGHTS if arm != "alone" else (None,))]
    for arm, weight in track(cells, "choosing", console=console, transient=True):
        told = [] if weight is None else [f"plugins.tcs.weight={weight}"]
        means = []
        for rate in RATES:
            tried = [*told, f"optimizer.lr={rate}", "run.test=false"]
            runs = (train(make_recipe(arm, [*tried, f"run.seed={seed}"]), write=False) for seed in CHOICE_SEEDS)
            means.append(statistics.mean(one.metrics["val"][SCORE] * 100 for one in runs))
        table.add_row(arm, "-" if weight is None else str(weight), *(f"{mean:.2f}" for mean in means))
    console.print(table)


def draw(results: Mapping[str, list[Result]]) -> Path:
    """Draw the curves of the students alone and distilled, and the gains, into a file."""
    comparison = compare([OUT / arm for arm in ARMS], baseline=OUT / "alone" / f"seed-{SEEDS[0]}")
    curves: dict[str, dict[int, list[float]]] = {}
    for kind, arm in (("none", "alone"), ("full", "distilled")):
        histories = [result.summary["history"] for result in results[arm]]
        curves[kind] = {
            n: [entry[SCORE] for entry in entries] for n, entries in enumerate(zip(*histories, strict=True), 1)
        }
    file = OUT / "picture.svg"
    draw_ablation(comparison, curves, {}).savefig(file)
    return file


def show(console: Terminal, results: Mapping[str, list[Result]]) -> None:
    """Print each seed's accuracies, and the means of the differences with their intervals."""
    percent = {arm: [result.metrics["test"][SCORE] * 100 for result in found] for arm, found in results.items()}
    table = make_table("seed", *ARMS, "distilled - alone", title="accuracy on the test images, in percent")
    for k, seed in enumerate(SEEDS):
        gain = percent["distilled"][k] - percent["alone"][k]
        table.add_row(
            str(seed), *(f"{percent[arm][k]:.2f}" for arm in ARMS), f"{gain:+.2f}", end_section=k + 1 == len(SEEDS)
        )
    table.add_row(
        "mean", *(f"{statistics.mean(percent[arm]):.2f}" for arm in ARMS), say_gain(percent, "distilled", "alone")
    )
    console.print(table)
    console.print(
        f"distilled - alone    {say_gain(percent, 'distilled', 'alone')}   what the teacher and the other images bring"
    )
    console.print(
        f"distilled - control  {say_gain(percent, 'distilled', 'control')}   what of it is the teacher's knowledge"
    )
    console.print(f"The mean over {len(SEEDS)} pairs, and half of its 95% interval.\n")


def say_gain(percent: Mapping[str, list[float]], more: str, less: str) -> str:
    """The mean difference of two arms and half of its interval."""
    differences = [a - b for a, b in zip(percent[more], percent[less], strict=True)]
    interval = t_interval(differences)
    half = "" if interval is None else f" ± {(interval[1] - interval[0]) / 2:.2f}"
    return f"{statistics.mean(differences):+.2f}{half}"


def say_next(console: Terminal, picture: Path) -> None:
    """Say where the results lie, and what to type next."""
    programs = Path(sys.executable).parent
    shown = programs.relative_to(Path.cwd()) if programs.is_relative_to(Path.cwd()) else programs
    recipe = os.path.relpath(RECIPE)
    for what, command in (
        ("the picture", str(picture)),
        ("the runs in TensorBoard", f"{shown / 'tensorboard'} --logdir {OUT}"),
        ("what the method does", f"{shown / 'stillhouse'} explain {recipe}"),
        (
            "another method",
            f"{shown / 'stillhouse'} train {os.path.relpath(OTHER)} --plugins features,projector=linear --out runs/mine",
        ),
        ("your own photographs", f"{shown / 'stillhouse'} init PHOTOGRAPHS"),
    ):
        console.print(f"{what + ':':<25}{command}", soft_wrap=True)


def main(arguments: list[str]) -> int:
    """Train the arms and print the table."""
    parser = argparse.ArgumentParser(description="A student alone and distilled, on a few labelled digits.")
    parser.add_argument("--choose", action="store_true", help="show how rates and weights were chosen")
    torch.set_num_threads(1)  # these models are too small for a second thread to help
    console = Terminal()
    if parser.parse_args(arguments).choose:
        choose(console)
        return 0
    recipe = load_recipe(RECIPE)
    console.print(
        f"Recipe {RECIPE.name}: {recipe.data.per_class} labelled images a class, {recipe.run.epochs} epochs, plugins:"
    )
    for plugin in recipe.plugins:
        console.print("  " + ", ".join(f"{key} = {value}" for key, value in plugin.items()))
    started = time.perf_counter()
    with console.status("training the teacher, without labels"):
        results: dict[str, list[Any]] = {"distilled": [run("distilled", SEEDS[0])]}
    teacher = time.perf_counter() - started
    pairs = [(arm, seed) for seed in SEEDS for arm in ARMS if (arm, seed) != ("distilled", SEEDS[0])]
    for arm, seed in track(pairs, f"training {len(SEEDS)} seeds of {', '.join(ARMS)}", console=console, transient=True):
        results.setdefault(arm, []).append(run(arm, seed))
    show(console, results)
    seconds = time.perf_counter() - started
    console.print(f"{seconds:.0f} s, {teacher:.0f} of them the teacher's, {torch.get_num_threads()} thread\n")
    say_next(console, draw(results))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except StillhouseError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
