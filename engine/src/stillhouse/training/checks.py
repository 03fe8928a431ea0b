"""Options of a run that could not do what they say, found before anything is built on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stillhouse.config.home import find_path
from stillhouse.config.recipe import Recipe
from stillhouse.config.toml import check_tables, parse_toml
from stillhouse.contract.assembly import Facts
from stillhouse.errors import Fault, StillhouseError, first_line, raise_faults
from stillhouse.registry.order import CACHES_TEACHER, Active
from stillhouse.teachers.prerequisites import get_role
from stillhouse.training.compilation import check_compile
from stillhouse.training.early_stopping import check_stopping
from stillhouse.training.folder import flat
from stillhouse.training.predictions import check_predictions
from stillhouse.version import __version__

__all__ = ["check_options", "check_scaling", "check_sources", "list_facts_alike"]


def check_options(facts: Facts, actives: Sequence[Active]) -> None:
    """Refuse what ``run.keep_predictions``, ``[speed]``, ``[ema]``, ``[early_stopping]`` and ``[data] batch_transforms`` cannot do in this run.

    Raises:
        StillhouseError: with all such faults.
    """
    recipe = facts.recipe
    checks: list[Callable[[], None]] = [
        lambda: check_compile(recipe.speed, bool(facts.all_teachers)),
        lambda: check_predictions(facts),
        lambda: check_stopping(recipe.early_stopping, facts),
        lambda: _check_schedule(facts),
        lambda: _check_channels_last(facts),
        lambda: _check_sharding(facts),
        lambda: _check_cache(facts, actives),
        lambda: _check_parts(facts),
    ]
    faults: list[Fault] = []
    for check in checks:
        try:
            check()
        except StillhouseError as error:
            faults += error.faults
    raise_faults(faults)


def check_scaling(facts: Facts, modules: Mapping[str, nn.Module]) -> None:
    """Refuse float16 where the student is spread over the processes and a plugin's module is trained beside it, whole.

    torch's GradScaler unscales all gradients of a device at once, and cannot take both kinds.

    Args:
        facts: of the run.
        modules: what plugins built, by plugin.

    Raises:
        StillhouseError: it names the plugins.
    """
    recipe = facts.recipe
    if recipe.run.precision != "float16" or recipe.distributed.shard not in ("student", "both"):
        return
    names = [name for name, module in modules.items() if any(p.requires_grad for p in module.parameters())]
    if names:
        raise StillhouseError(
            f"float16 needs its losses scaled, which torch cannot do for a student that is spread over the processes and "
            f"the modules of {', '.join(map(repr, names))}, which are not",
            where="run.precision",
            hint='precision = "bfloat16"; or [distributed] shard = "none" or "teacher"',
        )


def check_sources(recipe: Recipe, folder: Path) -> None:
    """Refuse a run that takes a teacher, or its start, from the folder that it writes to.

    Raises:
        StillhouseError: with every table that does.
    """
    named = {get_role(name): spec.checkpoint for name, spec in recipe.all_teachers.items()}
    raise_faults(
        Fault(
            f"{table}.checkpoint",
            f"{checkpoint!r} lies in the run's own folder, so that the run would wait for itself",
            "another run's folder, or another --out",
        )
        for table, checkpoint in {**named, "student": recipe.student.checkpoint}.items()
        if checkpoint is not None and find_path(checkpoint, recipe.base).resolve().is_relative_to(folder.resolve())
    )


def check_written(recipe: Recipe) -> None:
    """Refuse a recipe that its run would write and nobody could read again: with what Python has handed to plugins, say.

    Raises:
        StillhouseError: with the keys that are the reason.
    """
    check_tables(recipe.to_dict())
    try:
        again = Recipe.from_dict(parse_toml(recipe.to_toml(), "recipe.toml"), base=recipe.base)
    except (TypeError, ValueError) as error:
        raise StillhouseError(f"cannot be written: {first_line(error)}", where="recipe.toml") from error
    if again.digest() != recipe.digest():
        old, new = flat(recipe.to_dict()), flat(again.to_dict())
        raise_faults(
            Fault(key, f"is {old.get(key)!r:.60}, and would be read again as {new.get(key)!r:.60}")
            for key in dict.fromkeys([*old, *new])
            if old.get(key) != new.get(key)
        )


def _check_channels_last(facts: Facts) -> None:
    shape = facts.data.input_shape
    if facts.recipe.speed.channels_last and len(shape) != 3:
        given = "(" + ", ".join(map(str, shape)) + ")"
        raise StillhouseError(
            f"it is for images (C, H, W), and the inputs are {given}", where="speed.channels_last", hint="leave it out"
        )


def _check_sharding(facts: Facts) -> None:
    sharded = facts.recipe.distributed.shard
    if facts.recipe.ema is not None and sharded in ("student", "both"):
        raise StillhouseError(
            "no average is kept of a student that is spread over the processes",
            where="ema",
            hint='[distributed] shard = "none" or "teacher"',
        )


def _check_parts(facts: Facts) -> None:
    parts, size = facts.recipe.run.accumulate, facts.recipe.data.batch_size
    if parts > 1 and size < 2 * parts:
        raise StillhouseError(
            f"a batch of {size} has no {parts} parts of at least two samples",
            where="run.accumulate",
            hint=f"at most {max(1, size // 2)}, or a larger [data] batch_size",
        )


def _check_cache(facts: Facts, actives: Sequence[Active]) -> None:
    if not facts.recipe.data.batch_transforms:
        return
    for active in actives:
        if CACHES_TEACHER in active.plugin.provides:
            raise StillhouseError(
                f"each batch is another one, and the plugin {active.name!r} remembers the teacher's answers by sample",
                where="data.batch_transforms",
                hint=f"leave out batch_transforms, or the plugin {active.name!r}",
            )


def _check_schedule(facts: Facts) -> None:
    if facts.recipe.schedule.name in ("plateau", "reducelronplateau") and not facts.data.sizes.get("val"):
        raise StillhouseError(
            "goes by the score of the validation split, and the data has none",
            where="schedule.name",
            hint="[data] val_fraction, or another scheduler",
        )


def list_facts_alike(recipe: Recipe, actives: Sequence[Active]) -> dict[str, Any]:
    """What every process of a run has to have alike."""
    facts: dict[str, Any] = {"stillhouse": __version__, "torch": torch.__version__}
    facts |= {f"plugin {a.name}": f"{a.use} of {a.distribution} {a.version}" for a in actives}
    tables = {f"the recipe's {key}": value for key, value in flat(recipe.to_dict()).items() if key != "run.base"}
    return {"the plugins' list": [a.name for a in actives], **facts, **tables}
