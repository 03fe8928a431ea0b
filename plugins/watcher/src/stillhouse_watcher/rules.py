"""What makes a run sick, as rules over the figures that are logged and measured; each says what to try."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from statistics import median_low

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stillhouse import Run
from stillhouse.distributed import processes as parallel
from stillhouse.training.alarms import Alarm, Alarms

__all__ = ["Rules"]

DWARFS, NOTHING = 100.0, 1e-3
"""A term's gradient beside the task's, from which on it is called too large, and up to which too small; over ``LOOKS``."""
LOOKS = 3
"""At a run's end two are enough: a short one has no more."""
OPPOSES, OPPOSED, OPPOSED_FOR = -0.2, -0.8, 0.25
"""Cosines below the first, without a break over this share of the run, are no chance of a batch where they sum up to the second.

So do four of -0.2, and two of -0.4: the two looks that any run has.
"""
COLLAPSED, ALIVE = 1.5, 3.0
"""Effective ranks: of a student's side that has collapsed, and of a teacher's that has not."""
DRIFTED = 1e-2
"""max |P^T P - I| of a map that is called orthogonal."""
STILL_EPOCHS = 4
FEW_SAMPLES = 8
TEACHER_MARGIN = 0.02
"""A student is better than its teacher where its score is, by more than this share of the teacher's."""


class Rules:
    """Looks at what is logged and measured, and raises alarms.

    Args:
        run: whose figures they are.
        alarms: takes what is found.
    """

    def __init__(self, run: Run, alarms: Alarms) -> None:
        self._run, self._alarms = run, alarms
        self._seen: defaultdict[str, list[float]] = defaultdict(list)
        self._opposed: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        self._scores: list[float] = []
        self._teacher: float | None = None

    def start(self, step: int) -> None:
        """What can be told from the run as it is set up: the size of the batches that statistics are taken of."""
        recipe = self._run.recipe
        samples = recipe.data.batch_size // (recipe.run.accumulate * parallel.count_launched())
        modules: dict[str, nn.Module] = {"the student": self._run.student}
        modules |= {f"plugin {name!r}": module for name, module in self._run.composition.modules_of.items()}
        for about, module in modules.items():
            moving = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
            if moving and samples < FEW_SAMPLES and not isinstance(moving[0], nn.SyncBatchNorm):
                what = f"{about} has BatchNorm, and a part of a batch has {samples} samples in a process"
                advice = "try a larger data.batch_size, a smaller run.accumulate, or a model with norm = 'group'"
                self._sound("small statistics", about, what, advice, step)

    def look_at(self, step: int, scalars: Mapping[str, float]) -> None:
        """Look at the figures of a step that was looked at."""
        for tag, value in scalars.items():
            kind, _, name = tag.partition("/")
            self._seen[tag].append(value)
            if kind == "gradient_norm" and name != "task":
                self._look_at_size(step, name, scalars)
            elif kind == "gradient_cosine":
                self._look_at_direction(step, name)
            elif kind == "rank_student":
                self._look_at_rank(step, name)
            elif kind == "singular_largest":
                self._look_at_matrix(step, name)
            elif kind == "plugin" and "orthogonality_error" in name:
                self._look_at_drift(step, tag, name)

    def measure(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Look at what a split gave: ``val``, and ``val_teacher``, which comes once."""
        score = metrics.get(self._run.task.score)
        if score is None or not math.isfinite(score):
            return
        if split == "val_teacher":
            self._teacher = score
        elif split == "val":
            self._scores.append(score)
            self._look_at_scores(step)

    def _look_at_size(self, step: int, term: str, scalars: Mapping[str, float]) -> None:
        own, task = self._seen[f"gradient_norm/{term}"], self._seen["gradient_norm/task"]
        needed = LOOKS if step < self._run.total_steps else 2
        if len(own) < needed or len(own) != len(task) or not max(task) > 0.0:
            return
        ratios = [a / b if b > 0.0 else math.inf for a, b in zip(own, task, strict=True)]
        middle, share = median_low(ratios), scalars.get(f"loss_share_percent/{term}", 0.0)
        if middle > DWARFS:
            what = f"the term {term!r} dwarfs the task: its gradient on the student is {_times(middle)} the task's"
            advice = f"try its weight divided by {middle:.0f}"
            self._sound("dwarfs the task", term, what, advice, step)
        elif max(ratios) < NOTHING:
            what = (
                f"the term {term!r} does nothing: its gradient on the student is at most {max(ratios):.1g} of the task's, "
                f"its share of the total {share:.2g}%"
            )
            factor = f"{0.1 / max(ratios):.0f} times its weight" if max(ratios) > 0.0 else "another layer or weight"
            self._sound("does nothing", term, what, f"try {factor}, or leave the plugin out", step)

    def _look_at_direction(self, step: int, term: str) -> None:
        cosine, streak = self._seen[f"gradient_cosine/{term}"][-1], self._opposed[term]
        if cosine >= OPPOSES:
            streak.clear()
            return
        streak.append((step, cosine))
        steps, total = step - streak[0][0], sum(value for _, value in streak)
        if total <= OPPOSED and steps >= OPPOSED_FOR * self._run.total_steps:
            mean = total / len(streak)
            what = f"the gradient of the term {term!r} opposes the task's: cosine {mean:.2f} over {steps} steps"
            advice = "try a smaller weight, one that decays, or a plugin that combines gradients"
            self._sound("opposes the task", term, what, advice, step)

    def _look_at_rank(self, step: int, link: str) -> None:
        student, teacher = self._seen[f"rank_student/{link}"], self._seen.get(f"rank_teacher/{link}", [])
        if len(student) >= 2 and max(student[-2:]) < COLLAPSED and teacher and teacher[-1] > ALIVE:
            what = (
                f"the student's features of the link {link!r} have collapsed: effective rank {student[-1]:.1f}, the "
                f"teacher's {teacher[-1]:.1f}"
            )
            advice = "try a smaller weight or learning rate, or normalizer with side = 'both'"
            self._sound("collapsed", link, what, advice, step)

    def _look_at_matrix(self, step: int, name: str) -> None:
        plugin, _, path = name.partition("/")
        module = self._run.composition.modules_of.get(plugin)
        if module is None or path in dict(module.named_buffers()) or any(self._seen[f"singular_largest/{name}"][-2:]):
            return
        if len(self._seen[f"singular_largest/{name}"]) >= 2:
            what = f"the matrix {path!r} of plugin {plugin!r} is exactly zero: nothing passes through it"
            advice = "try another kind of map, no weight decay on it, or a lower learning rate"
            self._sound("zero matrix", name, what, advice, step)

    def _look_at_drift(self, step: int, tag: str, name: str) -> None:
        errors = self._seen[tag]
        if len(errors) >= 2 and errors[-1] > max(DRIFTED, 10 * errors[0]):
            what = f"the orthogonality error {name!r} grows: {errors[0]:.1g} at first, {errors[-1]:.1g} now"
            advice = "try a lower learning rate for the map, map = 'retraction', and float32 products without TF32"
            self._sound("not orthogonal", name, what, advice, step)

    def _look_at_scores(self, step: int) -> None:
        name, scores = self._run.task.score, self._scores
        if len(scores) >= STILL_EPOCHS and len(set(scores)) == 1:
            what = f"val/{name} has not moved: {scores[-1]:.4f} in each of {len(scores)} measurements"
            advice = "try another learning rate, and look at train/ and loss_weighted/task: does the task itself learn?"
            self._sound("still", name, what, advice, step)
        if self._teacher is None:
            return
        sign = 1.0 if self._run.task.score_mode == "max" else -1.0
        if sign * (scores[-1] - self._teacher) > TEACHER_MARGIN * abs(self._teacher):
            what = f"the teacher is worse than the student: val/{name} {self._teacher:.4f} beside {scores[-1]:.4f}"
            advice = "try a better teacher, or a weight that decays to 0; compare with no teacher at all"
            self._sound("weak teacher", "teacher", what, advice, step)

    def _sound(self, kind: str, about: str, what: str, advice: str, step: int) -> None:
        self._alarms.sound(Alarm(kind, about, what, advice, step))


def _times(ratio: float) -> str:
    return f"{ratio:.0f} times" if math.isfinite(ratio) else "any number of times"
