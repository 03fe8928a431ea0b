"""What flows through one iteration: Step, the two Sides, Links; and what plugins declare before training: Tap, LinkSpec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from torch import Tensor, nn

from stillhouse.contract.layers import Which, split_layer
from stillhouse.contract.protocols import Composed, Named
from stillhouse.contract.sealed import Features, Links, Losses, Teachers, put, refuse
from stillhouse.errors import StillhouseError, did_you_mean

__all__ = ["FORWARD_PHASES", "Link", "LinkSpec", "SealedLink", "SealedSide", "Side", "Step", "Tap", "seal_side"]

FORWARD_PHASES = ("transform", "sample_weights", "losses")
"""The hooks in which :meth:`Step.forward` may be called."""


@attrs.frozen
class Tap:
    """One layer to read: the output of ``layer`` in ``model``.

    Attributes:
        model: ``student``, ``teacher``, or the name of a further teacher.
        layer: the dotted path as ``named_modules()`` has it (``layer4.1.conv2``), or a glob over those paths
            (``stages.*``), which reads every layer it matches, in the model's order. The empty path is the model
            itself. ``NAME:layer`` of ``teacher`` is the further teacher NAME's ``layer``.
    """

    model: Which
    layer: str


@attrs.frozen
class LinkSpec:
    """A pair of features to be matched, as a plugin's ``add_links`` declares it.

    Attributes:
        name: unique within the plugin; the run knows the link as ``plugin/name``.
        student: the student's tap, a dotted path (no glob).
        teacher: the teacher's tap; ``NAME:layer`` is a further teacher's.
        read: what makes the pair from the two layers' outputs, ``(student, teacher) -> (student, teacher)``: pooling,
            say, or interpolation to a common grid. None takes the outputs as they are.
    """

    name: str
    student: str
    teacher: str
    read: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None


@attrs.define(eq=False)
class Link:
    """One matched pair on its way through the plugins; ``transform`` hooks replace its two tensors in turn.

    Attributes:
        name: ``plugin/name``, such as ``features/stage3``.
        student: vectors (B, C), tokens (B, N, C) or maps (B, C, H, W), with gradient.
        teacher: the same layouts; without gradient until a trainable module transforms it.
    """

    name: str
    student: Tensor
    teacher: Tensor


@attrs.define(eq=False)
class Side:
    """What one model gave for the batch.

    Attributes:
        output: what its ``forward`` returned.
        features: the tapped layers' outputs by dotted path.
    """

    output: Any = None
    features: Mapping[str, Tensor] = attrs.field(factory=dict)


class SealedLink(Link):
    """A link outside of ``transform``."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        refuse(f"link.{name}")


class SealedSide(Side):
    """What a model gave, once it is there."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        refuse(f"side.{name}")


def seal_side(side: Side) -> Side:
    """Let nobody write into ``side`` from now on; the same object."""
    if type(side) is Side:
        side.features = Features(side.features)
        side.__class__ = SealedSide
    return side


_EMPTY = seal_side(Side())
"""Before the forward pass and after the step."""


@attrs.define(eq=False)
class Step:
    """One iteration, or one part of it where ``run.accumulate`` has a batch go through in parts.

    The engine fills it phase by phase and clears it when the next one begins. In training it is sealed: a hook writes
    what is its own to write, and any other write raises. One that is made by hand, for a test, is open.

    Attributes:
        batch: the batch as the loader gave it, on the run's device.
        ids: the samples' ids (B,), int64, on the CPU: stable over epochs, whatever the order or augmentation.
        inputs: what the models are called with, for images (B, C, H, W).
        targets: what the task's loss compares with, for classification (B,), int64.
        student: the student's output and features.
        teacher: the teacher's; None in a run without one.
        teachers: the further teachers', by name.
        links: the matched pairs by name.
        losses: the raw terms, scalars on the device: ``task`` and ``plugin`` or ``plugin/term``.
        weights: the factor of each term in the total.
        total: their weighted sum, from ``losses_computed`` on.
        iteration: optimizer steps done before this one, from 0.
        epoch: epochs begun before this one, from 0.
        share: where the batch goes through in parts or is one of several processes': what the task's loss and the other
            terms count for in the mean over parts and processes; None otherwise.
        phase: the hook whose turn it is, from ``prepare_batch`` to ``losses``; empty otherwise.
        writable: the attributes that this hook may replace.
        memo: scratch for plugins: what one hook keeps for another, for this part of the batch.
        by_sample: what the task's ``loss_by_sample`` gave, once somebody has asked.
    """

    batch: Any
    ids: Tensor
    inputs: Any
    targets: Any
    iteration: int
    epoch: int
    composition: Composed
    student: Side = _EMPTY
    teacher: Side | None = None
    teachers: dict[str, Side] = attrs.field(factory=dict)
    links: dict[str, Link] = attrs.field(factory=dict)
    losses: dict[str, Tensor] = attrs.field(factory=dict)
    weights: dict[str, float] = attrs.field(factory=dict)
    total: Tensor | None = None
    share: tuple[Tensor | float, float] | None = None
    phase: str = ""
    writable: tuple[str, ...] = ()
    memo: dict[Any, Any] = attrs.field(factory=dict)
    by_sample: tuple[Tensor, Tensor | None] | None = None
    _parts: tuple[Step, ...] = ()

    @property
    def parts(self) -> tuple[Step, ...]:
        """The parts that the batch went through in, this one last, for the hooks that are called once a step.

        Of those before it ``ids`` and ``memo`` are left. A batch in one piece is its own part.
        """
        return self._parts or (self,)

    @property
    def sample_losses(self) -> Tensor:
        """The task's loss of each sample (B,), detached: what ``sample_weights`` multiplies.

        Raises:
            StillhouseError: the task has no losses by sample, or the student has not answered yet.
        """
        found: Tensor = self.composition.compute_sample_losses(self)[0].detach()
        return found

    def module(self, plugin: Named) -> Any:
        """What ``plugin``'s ``build`` returned, wherever the engine has moved or wrapped it.

        Raises:
            KeyError: the plugin built nothing.
        """
        return self.composition.modules_of[plugin.name]

    @property
    def parameters(self) -> tuple[tuple[str, nn.Parameter], ...]:
        """What the gradients of ``combine_gradients`` belong to, in their order: each parameter with its name.

        ``student.`` and the student's dotted path, or ``plugins.plugin_NAME.`` and the path in what that plugin built.
        Empty in a run in which no plugin combines gradients.
        """
        return self.composition.trained

    def forward(self, which: str | nn.Module, inputs: Any, targets: Any = None) -> Side:
        """Call a model once more, as the step's own pass calls it: its precision, its task's call, its tapped layers.

        Only in ``transform``, ``sample_weights`` and ``losses``. What the first pass gave stays as it was. The student's
        pass has gradient where the hook has; BatchNorm's statistics move again and dropout draws anew, as in plain torch.
        It is part of the step's forward pass, so that several processes need nothing more, provided that each of them
        calls it.

        Args:
            which: ``student``, ``teacher``, the name of a further teacher, or the module that a plugin's ``build`` returned, or a part of it: that is
                called in the student's precision, in its own mode, with its output read as the student's is and no
                features.
            inputs: of any number of samples (B, ...); they are moved to the run's device.
            targets: of the same samples, for a task whose models take them in training (a detector's); otherwise None.

        Raises:
            StillhouseError: called in another hook, a model that the run does not have, a teacher where no plugin
                requires a ``live teacher``.
        """
        side: Side = self.composition.forward_again(self, which, inputs, targets)
        return side

    def side(self, model: Which) -> Side | None:
        """What ``model`` gave: ``student``, ``teacher`` or a further teacher's name; None where nobody reads a teacher.

        Raises:
            StillhouseError: there are further teachers, and none of that name.
        """
        if model == "student":
            return self.student
        if model == "teacher" or self.teacher is None:
            return self.teacher
        if model not in self.teachers:
            hint = did_you_mean(model, ["teacher", *self.teachers]) if self.teachers else f"add [teachers.{model}]"
            raise StillhouseError(f"the run has no teacher {model!r}", hint=hint)
        return self.teachers[model]

    # Plugins ask these three several times a step, mostly for one thing, and a call, a list comprehension too, costs a microsecond.

    def tapped(self, model: Which, pattern: str) -> list[tuple[str, Tensor]]:
        """``(dotted path, output)`` of every tapped layer of ``model`` that the path or glob ``pattern`` matches."""
        if ":" in pattern:
            model, pattern = split_layer(model, pattern)
        side = self.student if model == "student" else self.side(model)
        if side is None:
            raise StillhouseError(
                f"step.tapped reads the {model}'s layer {pattern!r}, and no {model} has been called",
                hint='requires = ("teacher",), and a [teacher] table in the recipe',
            )
        names = self.composition.matched[model].get(pattern)
        if names is None:
            names = self.composition.match(model, pattern)
        features = side.features
        if len(names) == 1:
            return [(names[0], features[names[0]])]
        return list(zip(names, map(features.__getitem__, names), strict=True))

    def match(self, pattern: str) -> list[Link]:
        """The links whose name matches the glob ``pattern`` (``*``, ``features/*``), in the order they were made."""
        names = self.composition.matched["links"].get(pattern)
        if names is None:
            names = self.composition.match("links", pattern)
        return [self.links[names[0]]] if len(names) == 1 else list(map(self.links.__getitem__, names))

    def links_of(self, plugin: Named) -> list[Link]:
        """The links that ``plugin`` itself made, in order: those whose distance is its own to take."""
        names = self.composition.matched["links of"].get(plugin.name)
        if names is None:
            names = self.composition.match("links of", plugin.name)
        return [self.links[names[0]]] if len(names) == 1 else list(map(self.links.__getitem__, names))

    def let_go(self) -> None:
        """Let go of what belongs to the forward pass; ``ids``, ``memo`` and losses stay."""
        for name in ("batch", "inputs", "targets", "teacher", "total", "by_sample"):
            put(self, name, None)
        put(self, "student", _EMPTY)
        put(self, "teachers", Teachers())
        put(self, "links", Links())

    def clear(self) -> None:
        """Let go of every tensor, so that this step's features do not live through the next."""
        for part in self._parts:
            put(part, "memo", {})
        self.let_go()
        put(self, "losses", Losses())
        put(self, "memo", {})
        put(self, "_parts", ())
