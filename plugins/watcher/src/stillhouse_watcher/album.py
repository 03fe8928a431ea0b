"""What looks keep to be shown at the run's end: singular values over time, and both sides of each link in the last look."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stillhouse import Run, Step
from stillhouse_watcher.embedding import join_sides, reduce_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["Album", "pool"]

SPECTRA = 30
"""Looks of a run whose singular values are kept, about; evenly spaced."""
SAMPLES = 64
LINKS = 4
"""As many links as can be read side by side."""
THUMBNAIL = 24
"""Pixels of a side, at most."""
_BINS = 30
_FLOOR, _LEAST = 1e-4, 1e-12
"""A smaller share of the largest value is drawn as this one, and 0 as the other: a rank that is lacking shows, and the rest stays wide."""


class Spectra(NamedTuple):
    """Singular values by tag, after optimizer step ``step`` and at ``at``, seconds since 1970."""

    step: int
    at: float
    values: Mapping[str, Tensor]


class Sides(NamedTuple):
    """Both sides (B, C) and (B, D) of links by name, with the samples' thumbnails (B, C, h, w) and labels (B,), after ``step``."""

    step: int
    links: Mapping[str, tuple[Tensor, Tensor]]
    thumbnails: Tensor | None
    labels: Tensor | None
    ids: Tensor


def pool(x: Tensor) -> Tensor:
    """Features as one vector (B, C) a sample, in float32: the mean over a map's positions, or over tokens."""
    x = x.detach().float()
    if x.ndim == 4:
        return x.mean((2, 3))
    return x.mean(1) if x.ndim == 3 else x


class Album:
    """Takes in looks; :meth:`draw` and :meth:`show` are called once there is no other to come.

    Args:
        total: steps of the run.
    """

    def __init__(self, total: int) -> None:
        self._spacing = total // SPECTRA
        self._spectra: list[Spectra] = []
        self._sides: Sides | None = None

    def take_in(self, step: Step, spectra: Mapping[str, Tensor]) -> None:
        """Keep the singular values, unless others were kept shortly before, and both sides of the links in place of those before."""
        done = step.iteration + 1
        if not self._spectra or done - self._spectra[-1].step >= self._spacing:
            self._spectra.append(Spectra(done, time.time(), {name: v.float().cpu() for name, v in spectra.items()}))
        chosen = slice(SAMPLES)
        links = {
            name: (pool(link.student[chosen]), pool(link.teacher[chosen]))
            for name, link in list(step.links.items())[:LINKS]
            if link.student.is_floating_point() and len(link.student) == len(link.teacher) == len(step.ids)
        }
        targets = step.targets
        labelled = isinstance(targets, Tensor) and targets.ndim == 1 and not targets.is_floating_point()
        self._sides = Sides(
            done, links, _shrink(step.inputs, chosen), targets[chosen] if labelled else None, step.ids[chosen]
        )

    def draw(self, run: Run) -> dict[str, Figure]:
        """The Gram matrices of each link's two sides; none without links."""
        if self._sides is None or not self._sides.links:
            return {}
        from stillhouse_watcher.grams import draw_grams

        labels = self._sides.labels
        order = torch.arange(len(self._sides.ids)) if labels is None else labels.cpu().argsort(stable=True)
        sides = {name: (s.cpu()[order], t.cpu()[order]) for name, (s, t) in self._sides.links.items()}
        return {"gram_matrices": draw_grams(sides, "samples by class" if labels is not None else "samples")}

    def show(self, writer: SummaryWriter, run: Run) -> None:
        """Write the singular values as histograms over time, and the links for the projector."""
        for spectra in self._spectra:
            for name, values in spectra.values.items():
                if bool(values.isfinite().all()):
                    floor = max(_LEAST, _FLOOR * float(values.max()))
                    logarithms = values.clamp_min(floor).log10().numpy()
                    tag = f"singular_values_log10/{name}"
                    writer.add_histogram(tag, logarithms, spectra.step, bins=_BINS, walltime=spectra.at)
        self._spectra = []
        sides, self._sides = self._sides, None
        if sides is None:
            return
        from stillhouse.tasks.pictures import plain, unnormalise

        thumbnails = None
        if sides.thumbnails is not None:
            thumbnails = torch.stack([unnormalise(image, run.data) for image in sides.thumbnails.cpu()])
        about = [[plain(_name(sides, i, run)), int(sides.ids[i])] for i in range(len(sides.ids))]
        for link, (student, teacher) in sides.links.items():
            for tag, rows, names in join_sides(link, student.cpu(), teacher.cpu()):
                repeats = len(rows) // len(about)
                writer.add_embedding(
                    reduce_width(rows),
                    [[name, *about[i % len(about)]] for i, name in enumerate(names)],
                    None if thumbnails is None else thumbnails.repeat(repeats, 1, 1, 1),
                    sides.step,
                    tag,
                    ["side", "class", "sample"],
                )


def _shrink(inputs: Any, chosen: slice) -> Tensor | None:
    """Small pictures of inputs (B, C, H, W) of one or three channels; None of others."""
    if not isinstance(inputs, Tensor) or inputs.ndim != 4 or inputs.shape[1] not in (1, 3):
        return None
    height, width = inputs.shape[-2:]
    factor = min(1.0, THUMBNAIL / max(height, width))
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    return F.adaptive_avg_pool2d(inputs[chosen].detach().float(), size)


def _name(sides: Sides, i: int, run: Run) -> str:
    if sides.labels is None:
        return ""
    label, names = int(sides.labels[i]), run.task.class_names(run.data)
    if label < 0:  # of data without classes
        return ""
    return names[label] if label < len(names) else str(label)
