"""The plugin: what is done when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from matplotlib.figure import Figure
from torch import Tensor, nn

from stillhouse import Assembly, Run, Step, Tap, Weight, hookimpl, plugin
from stillhouse_tcs.figures import draw_mask, draw_rounds, draw_spectrum
from stillhouse_tcs.head import CoordinateHead
from stillhouse_tcs.mimic import Mimic
from stillhouse_tcs.mimic_builder import build_mimic
from stillhouse_tcs.options import Options
from stillhouse_tcs.selection import WARM_UP, accumulate, drop, schedule_drops
from stillhouse_tcs.student_path import adapt_student, fold_student

__all__ = ["TCS"]


@plugin
class TCS(Options):
    """Train the student in the coordinate system of a teacher's features, which one pass of the teacher gives.

    Source: 2412.09388. The teacher, a self-supervised one as a rule, goes once over the training images; its features
    are cached and it leaves memory. The student's last linear layer becomes a path through the principal axes of those
    features, trained by the task's own loss and by mimicking the cached coordinates. At export the path is one linear
    layer again.

    Attributes:
        layer: the teacher's layer, a dotted path; empty: what the model itself returns.
        pool: how that layer's output becomes a vector: the ``mean`` over positions, or ``cls``, the first token.
        head: the student's last linear layer; empty: the last one that gives the task's outputs.
        preset: ``ours``, or ``paper``: ``mimic = "elsh"`` and ``select = "train"`` where they are not given.
        axes: ``pca``; the controls ``random`` (orthonormal) and ``identity``; or a file of axes, of other images say.
        k: how many axes, a whole number; or the share of the variance that they hold, up to 1.0.
        match: of axes that are not principal: the same ``number`` as there would be principal ones, or as few as hold the
            ``variance`` that those hold. Not given: by ``k``.
        path: ``coordinates``, or ``none``: the student stays as it is, and only ``mimic = "logits"`` can be used.
        init_head: W and b' start from a ``probe`` on the cached coordinates, or at ``random``.
        train_head: False leaves W and b' as they start.
        mimic: the term from the cache: ``pca_mse``, ``elsh``, ``logits`` (of a probe on the cached features) or
            ``none``. Not given: by ``preset``.
        mimic_on: ``labelled``: the images that have labels; ``pool``: the unlabelled ones that ``[data]`` draws besides, as
            well. The axes come from the same images: of a pool from the whole training split and what is unlabelled. Not
            given: all that the run draws.
        hashes: of ``elsh``; not given: 32 for each teacher feature, 2,048 at most.
        temperature: of ``logits``.
        select: drop dimensions: ``none``, while the student trains (``train``), or beforehand by a ``probe``. Not
            given: by ``preset``.
        keep: how many dimensions selection leaves at least.
        views: how many augmented looks of each image are cached, student and teacher seeing the same; 0: the teacher
            sees each image as in evaluation.
        precision: dtype of the teacher's pass.
        store: dtype of the cached features.
        cache: the cache's folder; empty: found by its content.
        weight: the mimicking term's factor.
    """

    requires = ("teacher",)
    provides = ("teacher cache",)
    shorthand = "preset"
    example: ClassVar[Mapping[str, Any]] = {"layer": "pool"}

    weight: Weight = 5.0

    @hookimpl
    def adapt(self, assembly: Assembly, student: nn.Module) -> nn.Module | None:
        """Read the teacher, find the axes and put the path in the place of the student's last layer.

        Raises:
            StillhouseError: no head that could be replaced, a cache of something else, too few or constant features.
        """
        return adapt_student(self, assembly, student)

    @hookimpl
    def add_taps(self, assembly: Assembly) -> Iterable[Tap]:
        """The student's features in the teacher's space, and its coordinates."""
        paths = _find_paths(assembly)
        return [] if paths is None or self.mimicking in ("logits", "none") else [Tap("student", p) for p in paths]

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module:
        """The mimicking term's module: its buffers, and the cache it looks things up in.

        Raises:
            StillhouseError: a probe that cannot be fitted.
        """
        if self.selecting == "train":
            assembly.exclude_from_best_until(max(schedule_drops(assembly.total_steps)))
        return build_mimic(self, assembly, _find_paths(assembly))

    @hookimpl
    def optimizer_options(self, assembly: Assembly) -> Mapping[str, Any]:
        """No weight decay on b, which starts at the mean, nor on the mask, which starts at one."""
        paths = _find_paths(assembly)
        if paths is None:
            return {}
        prefix = paths[0].removesuffix("lift")
        return {"weight_decay": 0.0, "student": [f"{prefix}lift.bias", f"{prefix}readout.mask"]}

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The mimicking term; none with ``mimic = "none"``."""
        module: Mimic = step.module(self)
        return {} if self.mimicking == "none" or module.cache is None else {"": module.term(step)}

    @hookimpl
    def backward_completed(self, run: Run, step: Step) -> None:
        """Sum up |m dL/dm|, once the warm-up is over."""
        head = step.module(self).head
        if self.selecting == "train" and step.iteration >= WARM_UP * run.total_steps:
            accumulate(head.readout)

    @hookimpl
    def optimizer_stepped(self, run: Run, step: Step) -> None:
        """At the end of a round, drop the dimensions of the lowest scores."""
        if self.selecting != "train":
            return
        rounds, done = schedule_drops(run.total_steps), step.iteration + 1
        before = sum(n for at, n in rounds.items() if at < done)
        for number in range(before, before + rounds[done]):
            readout = step.module(self).head.readout
            drop(readout, len(readout.live), number, self.keep)

    @hookimpl
    def scalars(self, step: Step) -> Mapping[str, Tensor]:
        """``explained_variance``, ``live_dimensions`` and, where it is trained, the mask's mean and least live value."""
        head: CoordinateHead | None = step.module(self).head
        if head is None:
            return {}
        found = {"explained_variance": head.explained, "live_dimensions": head.readout.live.sum()}
        if self.selecting == "train":
            mask, live = head.readout.mask.detach().abs(), head.readout.live
            found["mask_mean"] = (mask * live).sum() / live.sum()
            found["mask_least"] = (mask + (1 - live) * 1e9).min()
        return found

    @hookimpl
    def figures(self, run: Run) -> Mapping[str, Figure]:
        """The spectrum with the axes that are used; with selection the mask's values and the live dimensions by round."""
        head: CoordinateHead | None = run.module(self).head
        if head is None:
            return {}
        made = {"spectrum": draw_spectrum(head)}
        if self.selecting == "train":
            made |= {"mask": draw_mask(head), "rounds": draw_rounds(head)}
        return made

    @hookimpl
    def export(self, assembly: Assembly, student: nn.Module) -> nn.Module:
        """A copy of the student whose path is one nn.Linear again, under the name of the layer it took the place of.

        Raises:
            StillhouseError: the folded layer gives other logits, by more than 1e-5 of the largest.
        """
        return fold_student(assembly, student)


def _find_paths(assembly: Assembly) -> tuple[str, str] | None:
    """The dotted paths of the student's lift and of its projection."""
    for name, module in assembly.student.named_modules():
        if isinstance(module, CoordinateHead):
            prefix = f"{name}." if name else ""
            return f"{prefix}lift", f"{prefix}project"
    return None
