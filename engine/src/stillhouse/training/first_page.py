"""TensorBoard's pages *Custom scalars* and *HParams*: the charts that answer first, and a line for each run."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import attrs

from stillhouse.config.home import shorten_home
from stillhouse.config.structure import unstructure
from stillhouse.contract.run import Run
from stillhouse.entries import installed

__all__ = ["list_settings", "make_layout", "sort_results"]

Setting = bool | int | float | str
_FIRST = "Is it learning?"
"""The row whose charts fill after the first epoch, if not before."""
_SEED = re.compile(r"seed-\d+")
_YES, _NO = "yes", "no"
"""How a switch is told: torch writes what is true as 1.0."""


def make_layout(score: str, tags: Collection[str]) -> dict[str, dict[str, list[Any]]]:
    """The charts by category, as torch's ``add_custom_scalars`` takes them: the score of the validation first.

    A chart's name ends with its unit or range, where it has one. It has all of the run's tags that one of its patterns matches.

    Args:
        score: the task's.
        tags: what the run has logged so far; a chart without any of them is left out, for nothing would be in it.
    """
    escaped = re.escape(score)

    def chart(*patterns: str) -> list[Any]:
        return ["Multiline", [f"^{pattern}$" for pattern in patterns]]

    charts = {
        _FIRST: {
            f"{score}: validation, train batch, teacher": chart(
                f"(val|val_ema|val_teacher)/{escaped}", f"train/{escaped}", f"(test|test_ema)/{escaped}"
            ),
            "the task's loss: validation, train batch": chart("(val|val_teacher|train)/loss", "loss_raw/task"),
        },
        "Which plugin does what?": {
            "loss terms, times their weights": chart("loss_weighted/.*"),
            "share of the total loss, %": chart("loss_share_percent/.*"),
            "norm of each term's weighted gradient on the student": chart("gradient_norm/.*"),
            "cosine of each term's gradient to the task's, -1 to 1": chart("gradient_cosine/.*"),
        },
        "What does it cost?": {
            "time of a step by plugin, ms": chart("cost_ms/.*"),
            "time of a step by part, ms": chart("cost_ms_of_step/.*"),
            "memory that a plugin's module holds, MB": chart("memory_mb/.*"),
            "memory of the device, or of the process, MB": chart("device/memory_mb"),
            "waiting for data, use of the device, %": chart("data/wait_percent", "device/use_percent"),
            "throughput, images/s": chart("speed/images_per_second"),
        },
        "Is something sick?": {
            "effective rank of both sides of a link, directions": chart("rank_student/.*", "rank_teacher/.*"),
            "CKA of both sides of a link, 0 to 1": chart("cka/.*"),
            "update of a step by part of the student, share of weights": chart("update_to_weight/.*"),
            "orthogonality error, max |P'P - I|": chart("plugin/.*orthogonality_error.*"),
            "singular values of the plugins' matrices, largest/least": chart("singular_condition/.*"),
            "condition of what is whitened, largest/least": chart("plugin/.*condition_(student|teacher)/.*"),
            "spectral tail, share of the energy, 0 to 1": chart("plugin/.*tail_fraction"),
            "dimensions that are alive": chart("plugin/.*live_dimensions"),
            "learning rate": chart("learning_rate/.*"),
        },
    }
    there = {
        category: {
            name: chart for name, chart in own.items() if category == _FIRST or any(_has(chart, tag) for tag in tags)
        }
        for category, own in charts.items()
    }
    return {category: own for category, own in there.items() if own}


def _has(chart: list[Any], tag: str) -> bool:
    return any(re.match(pattern, tag) for pattern in chart[1])


def list_settings(run: Run) -> dict[str, Setting]:
    """The run's line on the page *HParams*: its arm and seed, which plugins it has, and what is not as it is by default."""
    recipe, folder = run.recipe, run.folder
    arm = folder.parent.name if folder is not None and _SEED.fullmatch(folder.name) else recipe.run.name
    names = [plugin.name for plugin in run.plugins]
    found: dict[str, Setting] = {"arm": arm, "seed": recipe.run.seed, "plugins": ", ".join(names) or "none"}
    for name in sorted({*names, *(entry.use for entry in installed())}):
        found[f"with {name}"] = _YES if name in names else _NO
    for key, table in (("run", recipe.run), ("data", recipe.data), ("optimizer", recipe.optimizer)):
        for option, value in _list_changed(table).items():
            if (key, option) not in _BESIDE:
                found[f"{key}.{option}"] = value
    found |= {"student": recipe.student.model, "optimizer.lr": recipe.optimizer.lr}
    for plugin in run.plugins:
        found |= {f"{plugin.name}.{option}": v for option, v in _list_changed(plugin).items() if option != "name"}
    shortened: dict[str, Setting] = shorten_home(found)
    return {key: (_YES if value else _NO) if isinstance(value, bool) else value for key, value in shortened.items()}


def sort_results(results: Mapping[str, float], score: str) -> dict[str, float]:
    """Metrics by tag, the score of every split first: the page shows five of them until more are chosen."""
    return {tag: results[tag] for tag in sorted(results, key=lambda tag: tag.partition("/")[2] != score)}


_BESIDE = {
    ("run", "base"),
    ("run", "name"),
    ("run", "device"),
    ("run", "seed"),
    ("run", "log_every"),
    ("run", "figures"),
}


def _list_changed(options: Any) -> dict[str, Setting]:
    """The plain values of an attrs object that are not the defaults of their fields."""
    defaults = {field.name: field.default for field in attrs.fields(type(options))}
    return {
        name: value
        for name, value in unstructure(options).items()
        if isinstance(value, bool | int | float | str) and value != defaults.get(name, attrs.NOTHING)
    }
