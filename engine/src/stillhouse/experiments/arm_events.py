"""An ablation's arms for TensorBoard: of each arm the mean over its seeds as a run of its own, with the band that they span."""

from __future__ import annotations

import statistics
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stillhouse.config.home import shorten_home
from stillhouse.errors import StillhouseWarning, first_line
from stillhouse.experiments.comparison import Comparison, Group
from stillhouse.experiments.plan import MEAN
from stillhouse.experiments.settings import find_differing, flatten_settings, format_value
from stillhouse.training.first_page import make_layout

__all__ = ["average_curves", "write_events"]

_BAND = ("mean", "lowest", "highest")

Curves = dict[str, dict[int, float]]
"""By tag, values by step."""


def write_events(comparison: Comparison) -> None:
    """Write ``ARM/mean`` for each arm with runs of two seeds or more, in place of what an earlier call has written.

    What cannot be read or written is warned of: the runs and the table are there.
    """
    known = {row.group.name: row.group for row in comparison.rows if len(row.group.runs) > 1}
    if not known:
        return
    try:
        curves = {name: {run.recipe.run.seed: _read(run.folder) for run in of.runs} for name, of in known.items()}
        settings = _list_settings(known)
        for name, group in known.items():
            others = {title: curves[of] for title, of in group.against.items() if of in curves and of != name}
            _write(comparison.metric, group, curves[name], others, settings[name])
    except Exception as error:  # noqa: BLE001 - a full disk, a file that is half there: what it is, the warning says
        text = f"the arms' means for TensorBoard are not written: {first_line(error)}"
        warnings.warn(text, StillhouseWarning, stacklevel=2)


def average_curves(runs: Mapping[int, Curves]) -> Curves:
    """The mean over seeds of every tag at every step that all seeds have."""
    return {tag: {step: statistics.fmean(values) for step, values in of.items()} for tag, of in _gather(runs).items()}


def _gather(runs: Mapping[int, Curves]) -> dict[str, dict[int, list[float]]]:
    found: defaultdict[str, defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for curves in runs.values():
        for tag, values in curves.items():
            for step, value in values.items():
                found[tag][step].append(value)
    whole = {tag: {s: v for s, v in sorted(of.items()) if len(v) == len(runs)} for tag, of in found.items()}
    return {tag: of for tag, of in whole.items() if of}


def _subtract(runs: Mapping[int, Curves], others: Mapping[int, Curves], tag: str) -> dict[int, Curves]:
    """``tag`` less that of the other arm under the same seed, of the seeds that both have."""
    return {
        seed: {tag: {step: v - other[step] for step, v in curves.get(tag, {}).items() if step in other}}
        for seed, curves in runs.items()
        if seed in others and (other := others[seed].get(tag, {}))
    }


def _read(folder: Path) -> Curves:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def _list_settings(groups: Mapping[str, Group]) -> dict[str, dict[str, str]]:
    """Of each arm the settings that not all arms have alike, and how many seeds it has."""
    flat = {name: {} if of.recipe is None else flatten_settings(of.recipe) for name, of in groups.items()}
    lists = {name: str(of.get("plugins", "none")).split(", ") for name, of in flat.items()}
    some = [plugin for plugin in dict.fromkeys(p for own in lists.values() for p in own) if plugin != "none"]
    switches = [plugin for plugin in some if any(plugin not in own for own in lists.values())]
    told = {"plugins", *switches}
    keys = [key for key in find_differing(list(flat.values())) if key.partition(".")[0] not in told]
    return {
        name: {
            "arm": name,
            "seeds": ", ".join(str(run.recipe.run.seed) for run in groups[name].runs),
            **{f"with {plugin}": "yes" if plugin in lists[name] else "no" for plugin in switches},
            **{key: format_value(shorten_home(flat[name].get(key))) for key in keys},
        }
        for name in groups
    }


def _write(
    metric: str,
    group: Group,
    runs: Mapping[int, Curves],
    others: Mapping[str, Mapping[int, Curves]],
    about: dict[str, str],
) -> None:
    from torch.utils.tensorboard import SummaryWriter
    from torch.utils.tensorboard.summary import hparams

    folder = group.runs[0].folder.parent / MEAN
    if folder.is_dir():
        for old in folder.glob("*tfevents*"):
            old.unlink()
    score = metric.partition("/")[2]
    means, tag = average_curves(runs), f"val/{score}"
    bands = {score: runs, **{f"{score} less {title}": _subtract(runs, of, tag) for title, of in others.items()}}
    writer = SummaryWriter(str(folder))
    try:
        writer.add_custom_scalars(_lay_out(score, list(bands), means))
        for name, value, step in _list_points(means, bands, tag):
            writer.add_scalar(name, value, step)
        ends = {metric: statistics.fmean(group.values.values())} if group.values else {}
        events = writer._get_file_writer()  # type: ignore[no-untyped-call]  # torch gives it no types
        for summary in hparams(about, ends):  # type: ignore[no-untyped-call]  # likewise
            events.add_summary(summary)
    finally:
        writer.close()


def _list_points(
    means: Curves, bands: Mapping[str, Mapping[int, Curves]], tag: str
) -> Iterator[tuple[str, float, int]]:
    for name, values in means.items():
        for step, value in values.items():
            yield name, value, step
    for name, runs in bands.items():
        for step, values_of_seeds in _gather(runs).get(tag, {}).items():
            ends = (statistics.fmean(values_of_seeds), min(values_of_seeds), max(values_of_seeds))
            for end, value in zip(_BAND, ends, strict=True):
                yield f"seeds/{name}/{end}", value, step


def _lay_out(score: str, bands: list[str], means: Curves) -> dict[str, Any]:
    """Rows of what is compared, before those of a single run; a row has one kind of chart, for TensorBoard shows bands last."""
    differences = {
        f"validation {name}, same seeds: mean, lowest to highest": ["Margin", [f"seeds/{name}/{end}" for end in _BAND]]
        for name in sorted(bands, key=len, reverse=True)
    }
    costs = {
        "time of a step, ms": ["Multiline", ["^cost_ms_of_step/step$"]],
        "throughput, images/s": ["Multiline", ["^speed/images_per_second$"]],
        "memory that plugins' modules hold, MB": ["Multiline", ["^memory_mb/.*$"]],
    }
    looked = any(tag.startswith("cost_ms_of_step/") for tag in means)
    rows = {"Which part helps?": differences, **({"What does each arm cost?": costs} if looked else {})}
    return {**rows, **make_layout(score, list(means))}
