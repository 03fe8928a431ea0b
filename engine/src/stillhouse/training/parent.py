"""A run that goes on where another one has ended, in a folder of its own: with more epochs, another rate, another patience."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from stillhouse import seeds as rng
from stillhouse.config.home import find_path
from stillhouse.config.recipe import Recipe, is_beside_the_result
from stillhouse.contract.run import Run
from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.models.checkpoint_file import read_checkpoint
from stillhouse.models.weights import find_last_checkpoint, load_state
from stillhouse.training.folder import HISTORY, flat
from stillhouse.training.observers import Observers
from stillhouse.training.score import best_of

__all__ = ["begin", "check_parent", "go_on"]

_MAY_CHANGE = ("run.name", "run.base", "run.epochs", "run.parent", "run.threads", "run.validate_every", "run.test")
_TABLES = ("optimizer", "schedule", "early_stopping", "checkpoints", "distributed", "speed")
_HINT = "what changes a run's data, models or method starts another run: student.checkpoint takes its weights"


def check_parent(recipe: Recipe) -> None:
    """Refuse a parent that ``recipe``, resolved, is no continuation of.

    Raises:
        StillhouseError: no run, one without a checkpoint, or one of other data, models or method; all differences.
    """
    if recipe.run.parent is None:
        return
    parent = find_path(recipe.run.parent, recipe.base)
    where = "run.parent"
    if not (parent / "recipe.toml").is_file():
        raise StillhouseError("is no run's folder", where=f"{where}: {parent}", hint="--extend runs/NAME")
    old, new = flat(Recipe.load(parent / "recipe.toml").to_dict()), flat(recipe.to_dict())
    faults = [
        Fault(f"{where}: {parent}", f"{key} was {old.get(key, 'absent')!r} and is {new.get(key, 'absent')!r}", _HINT)
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
        and not is_beside_the_result(key)
        and key not in _MAY_CHANGE
        and (key == "optimizer.name" or key.partition(".")[0] not in _TABLES)
    ]
    raise_faults(faults)
    if find_last_checkpoint(parent / "checkpoints") is None:
        raise StillhouseError("has no checkpoint to go on from", where=f"{where}: {parent}")


def begin(run: Run, observers: Observers, scaler: GradScaler) -> int:
    """Begin a run that has no checkpoint yet: where its parent has ended, with another's optimizer state, or with nothing.

    Returns:
        The optimizer steps done.

    Raises:
        StillhouseError: as :func:`go_on`; or the state is of other parameters.
    """
    if run.recipe.run.parent is not None:
        return go_on(run, observers, scaler)
    if run.recipe.student.optimizer_state:
        _take_moments(run)
    return 0


def _take_moments(run: Run) -> None:
    path = find_path(str(run.recipe.student.checkpoint), run.recipe.base)
    where = "student.optimizer_state"
    file = find_last_checkpoint(path / "checkpoints") if path.is_dir() else path
    content = {} if file is None else read_checkpoint(file, "leave it out")
    if "optimizer" not in content:
        raise StillhouseError("needs a run's last checkpoint, which has one", where=where, hint=f"got {path}")
    shapes = [p.shape for group in run.optimizer.param_groups for p in group["params"]]
    theirs = content["optimizer"]["state"]
    tensors = [
        {t.shape for t in theirs.get(i, {}).values() if isinstance(t, Tensor) and t.ndim} for i in range(len(shapes))
    ]
    if len(theirs) > len(shapes) or any(found - {shape} for found, shape in zip(tensors, shapes, strict=True)):
        raise StillhouseError("is of other parameters than this run trains", where=where, hint="leave it out")
    try:
        _load_optimizer(run.optimizer, content["optimizer"])
    except (ValueError, KeyError, TypeError) as error:
        raise StillhouseError(
            f"does not fit this run's optimizer: {error}", where=where, hint="leave it out"
        ) from error


def go_on(run: Run, observers: Observers, scaler: GradScaler) -> int:
    """Bring a new run to where its parent has ended: weights, the optimizer's state, averages, generators, epochs, history.

    Its best weights are copied into the run's own folder, and float16's scale goes on.

    The optimizer's options and the schedule are the new recipe's: ours goes on at the parent's step of the new run's length, one
    by name begins. Early stopping waits anew.

    Returns:
        The optimizer steps that the parent had done.

    Raises:
        StillhouseError: the checkpoint is damaged, of another composition, or has all the epochs already.
    """
    parent = find_path(str(run.recipe.run.parent), run.recipe.base)
    path = find_last_checkpoint(parent / "checkpoints")
    if path is None:
        raise StillhouseError("has no checkpoint to go on from", where=f"run.parent: {parent}")
    content = read_checkpoint(path, "train the parent again", own=True)
    done = int(content["trainer"]["iteration"])
    if done >= run.total_steps:
        epochs = done // run.steps_per_epoch
        raise StillhouseError(
            f"must be more than the {epochs} epochs that the parent has done, got {run.epochs}",
            where="run.epochs",
            hint=f"--epochs {epochs + 10}",
        )
    load_state(run.composition, content["model"], str(path))
    try:
        _load_optimizer(run.optimizer, content["optimizer"])
        if observers.ema is not None and "ema" in content:
            observers.ema.load_state_dict(content["ema"])
        if scaler.is_enabled():
            scaler.load_state_dict(content["scaler"])
    except (ValueError, KeyError, RuntimeError, TypeError) as error:
        raise StillhouseError(f"its optimizer's state does not fit this run: {error}", where=str(path)) from error
    moves = observers.learning_rate
    if moves is not None and isinstance(moves.moves.scheduler, LambdaLR):
        _move_to(moves.moves.scheduler, run.optimizer, done)
    run.trainer.load_state_dict({"iteration": done, "max_epochs": run.epochs, "epoch_length": run.steps_per_epoch})
    if "rank0" in content["generators"]:
        rng.restore(content["generators"]["rank0"])
    observers.evaluation.history = _read_history(parent, content["history"])
    best, epoch = content["best"]["file"], best_of(run, observers.evaluation.history).epoch
    # Another score may have another best epoch, whose weights nobody has kept.
    if observers.checkpoints is not None and epoch is not None and best == f"best_{epoch * run.steps_per_epoch}.pt":
        observers.checkpoints.take_over_best(parent / "checkpoints" / best)
    if observers.early_stopping is not None:
        observers.early_stopping.wait_from(len(observers.evaluation.history))
    return done


def _load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Moments are the parent's, those that an optimizer keeps in its groups too; options, the rates among them, the new run's."""
    options = (*inspect.signature(type(optimizer)).parameters, "lr", "initial_lr", "name")
    kept = {"params", *(key for group in optimizer.param_groups for key in group if key not in options)}
    own = [{key: value for key, value in group.items() if key not in kept} for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for group, new in zip(optimizer.param_groups, own, strict=True):
        group.update(new)


def _move_to(scheduler: LambdaLR, optimizer: Optimizer, step: int) -> None:
    scheduler.last_epoch = step
    rates = [base * factor(step) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates


def _read_history(parent: Path, seen: Mapping[str, Any]) -> list[dict[str, float]]:
    """The epochs that the parent's checkpoint has seen; its file is read and left alone."""
    try:
        lines = (parent / HISTORY).read_text(encoding="utf-8").splitlines()[: int(seen["epochs"])]
        found = [json.loads(line) for line in lines]
    except (OSError, ValueError):
        found = []
    if len(found) < int(seen["epochs"]):
        raise StillhouseError("lacks epochs that its checkpoint has seen", where=str(parent / HISTORY))
    return [{name: math.nan if value is None else value for name, value in epoch.items()} for epoch in found]
