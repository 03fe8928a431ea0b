"""One compiled region from a batch to its loss: both models, links, transforms and losses, and their backward pass.

What the plugins do is run as it is while torch records the operations, once for each size of a batch. So nothing of it need be
understood by torch.compile, and nothing of it may depend on the step: what would is refused in words, and never recorded.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from stillhouse import seeds as rng
from stillhouse.config.run_options import CompileArgs
from stillhouse.contract.batch import Batch
from stillhouse.contract.run import Run
from stillhouse.contract.sealed import Losses, Teachers, Weights, put
from stillhouse.contract.step import Side, Step, seal_side
from stillhouse.distributed import processes as parallel
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, raise_faults
from stillhouse.loop.composition import Composition
from stillhouse.loop.phases import Phase
from stillhouse.loop.step import new_step
from stillhouse.registry.hooks import Hooks

__all__ = ["CompiledStep", "refuse_uncompilable"]

_MODELS_ALONE = 'compile = "both" compiles the models alone'

_SEES_TENSORS = ("forward_completed", "losses_computed", "teacher_forward", "combine_gradients")
"""Hooks that are called between what becomes one region, or in place of a part of it."""


def refuse_uncompilable(run: Run, composition: Composition, hooks: Hooks) -> None:
    """Refuse a run whose step cannot be one compiled region.

    Raises:
        StillhouseError: every reason, with the plugin that it lies with.
    """
    faults = [
        Fault(f"plugin {owner.name!r}", f"{hook} is called within the step, which is compiled as a whole")
        for hook in _SEES_TENSORS
        for owner, _ in hooks.calls(hook)
    ]
    if run.trainer._event_handlers.get(Phase.FORWARD_COMPLETED):  # ignite has no public way to ask
        faults.append(Fault("speed.compile", "a handler of FORWARD_COMPLETED is called within the step"))
    if composition.terms.switch_off:
        faults.append(
            Fault("speed.compile", "a loss weight has a schedule, and a compiled step has numbers for weights")
        )
    if run.recipe.run.accumulate > 1:
        faults.append(
            Fault("speed.compile", "run.accumulate takes a batch in parts, and the step is compiled as a whole")
        )
    if parallel.is_distributed():
        faults.append(Fault("speed.compile", "several processes exchange gradients within the step"))
    raise_faults(Fault(fault.where, fault.what, _MODELS_ALONE) for fault in faults)


class CompiledStep:
    """A composition's forward pass as one program; called with a step, it fills in losses, weights and total.

    Hooks after the step find the models' outputs and tapped features, without gradient; links and memo stay inside.

    Args:
        composition: assembled, and in train mode.
        args: how to compile.
    """

    def __init__(self, composition: Composition, args: CompileArgs) -> None:
        self._composition = composition
        self._all = _Everything(composition)
        self._layouts: dict[Any, _Layout] = {}
        """What the outputs are, by the shapes that they were recorded for."""
        self._switches: dict[str, Any] = {}
        self._epoch = -1
        self._args = args
        named = {**dict(self._all.named_parameters()), **dict(self._all.named_buffers())}
        self._keys, self._tensors = list(named), list(named.values())
        for tensor in self._tensors:
            # CUDA graphs need not copy them before each replay, and may write buffers in place.
            torch._dynamo.mark_static_address(tensor)
        self._region = self._compile()

    def _compile(self) -> Callable[..., tuple[Tensor, ...]]:
        """The region, which is recorded when it is first called, and for each further size of a batch."""
        recorded = torch.compiler.allow_in_graph(self._record)  # type: ignore[no-untyped-call]  # torch gives it no types

        def region(tensors: list[Tensor], inputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
            found: tuple[Tensor, ...] = recorded(tensors, inputs, targets)
            return found

        # torch counts what it has compiled by code, and would stop at eight of all runs of a process.
        region.__code__ = region.__code__.replace()
        args = self._args
        options: dict[str, Any] = {"fullgraph": True, "dynamic": bool(args.dynamic), "backend": args.backend}
        if args.mode != "default":
            options["mode"] = args.mode
        made: Callable[..., tuple[Tensor, ...]] = torch.compile(region, **options)
        return made

    def _record(self, tensors: list[Tensor], inputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        """The plugins' own code on tensors that stand for the run's: the total, and each term."""
        step = new_step(Batch(inputs, targets, _Unknown(), _Unknown()), self._composition)  # type: ignore[arg-type]
        for name in ("iteration", "epoch"):
            put(step, name, _Unknown())
        drawn = _read_generators()
        total = torch.func.functional_call(self._all, dict(zip(self._keys, tensors, strict=True)), (step,))
        if _read_generators() != drawn:
            what = "a plugin or a model draws from Python's or numpy's generator, and its number would be recorded once"
            raise StillhouseError(what, where="speed.compile", hint=f"torch's is drawn from anew; {_MODELS_ALONE}")
        self._switches = _read_switches(self._all)
        sides = {"student": step.student, **({"teacher": step.teacher} if step.teacher else {}), **step.teachers}
        layers = {name: list(side.features) for name, side in sides.items()}
        self._layouts[_name_shapes(inputs, targets)] = _Layout(list(step.losses), dict(step.weights), layers)
        given = [x for side in sides.values() for x in (side.output, *side.features.values())]
        if not all(isinstance(x, Tensor) for x in given):
            what = "a model's output and its tapped layers must be a tensor each"
            raise StillhouseError(what, where="speed.compile", hint=_MODELS_ALONE)
        return (total, *(x.detach() for x in (*step.losses.values(), *given)))

    def __call__(self, step: Step) -> Tensor:
        """Fill ``step`` and return its total loss, a scalar on the device."""
        if step.epoch != self._epoch:
            self._epoch = step.epoch
            self._record_what_has_changed()
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # likewise
        try:
            total, *others = self._region(self._tensors, step.inputs, step.targets)
        except torch._dynamo.exc.FailOnRecompileLimitHit as error:
            config: Any = torch._dynamo.config
            most = (
                config.recompile_limit if hasattr(config, "recompile_limit") else config.cache_size_limit
            )  # before 2.7
            what = f"batches have more sizes than are compiled for, {most}"
            hint = "speed.compile_args.dynamic = true, or batches of one size"
            raise StillhouseError(what, where="speed.compile", hint=hint) from error
        layout = self._layouts.get(_name_shapes(step.inputs, step.targets)) or self._layouts[_ANY]
        given = iter(others)
        put(step, "losses", Losses({name: next(given) for name in layout.losses}))
        put(step, "weights", Weights(layout.weights))
        put(step, "total", total)
        sides = {
            model: seal_side(Side(next(given), {layer: next(given) for layer in layers}))
            for model, layers in layout.sides.items()
        }
        put(step, "student", sides.pop("student"))
        put(step, "teacher", sides.pop("teacher", None))
        put(step, "teachers", Teachers(sides))
        return total

    def _record_what_has_changed(self) -> None:
        """Record anew where modules are switched otherwise than when it was recorded: torch does not look at that here."""
        now = _read_switches(self._all)
        changed = [name for name in {**self._switches, **now} if self._switches.get(name) != now.get(name)]
        if not changed or not self._switches:
            return
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        what = f"{', '.join(changed[:3])}{more} changed since the step was compiled: it is compiled anew"
        warnings.warn(what, StillhouseWarning, stacklevel=2)
        self._layouts.clear()
        self._region = self._compile()

    def try_out(self, batch: Batch) -> None:
        """Compile for batches like ``batch``, forward and backward; parameters, buffers and generators stay as they are.

        Raises:
            StillhouseError: inputs or targets are no single tensors, or a plugin asks for what only a step knows.
        """
        inputs, targets = self._composition.place(batch.input, batch.target)
        if not (isinstance(inputs, Tensor) and isinstance(targets, Tensor)):
            raise StillhouseError("the step's inputs and targets must be a tensor each", where="speed.compile")
        kept = [(buffer, buffer.clone()) for buffer in self._all.buffers()]
        trained = [p for p in self._composition.parameters() if p.requires_grad]
        with rng.preserve_state(), torch.enable_grad():
            try:
                total, *_ = self._region(self._tensors, inputs, targets)
                torch.autograd.grad(total, trained, allow_unused=True)
            finally:
                with torch.no_grad():
                    for buffer, before in kept:
                        buffer.copy_(before)


@attrs.frozen
class _Layout:
    """What a recorded step gives after its total.

    Attributes:
        losses: the terms' names.
        weights: theirs.
        sides: by model, of those that are called, the layers that are tapped; its output comes before them.
    """

    losses: list[str]
    weights: dict[str, float]
    sides: dict[str, list[str]]


_ANY = "any"


def _name_shapes(inputs: Tensor, targets: Tensor) -> Any:
    """The shapes as a key; one for all where they are symbols."""
    shapes = (*inputs.shape, None, *targets.shape)
    return shapes if all(type(n) in (int, type(None)) for n in shapes) else _ANY


def _read_generators() -> tuple[Any, ...]:
    """The state of Python's and numpy's global generators."""
    state: Any = np.random.get_state()
    return random.getstate(), state[1].tobytes(), state[2:]


def _read_switches(module: nn.Module) -> dict[str, Any]:
    """What of modules is neither tensor nor module and may change what they compute: modes, flags, numbers, names."""
    return {
        f"{path}.{name}": value
        for path, inner in module.named_modules()
        for name, value in vars(inner).items()
        if type(value) in (bool, int, float, str)
    }


class _Everything(nn.Module):
    """Composition and teachers as one module, so that the tensors of all of them can be put in at once."""

    def __init__(self, composition: Composition) -> None:
        super().__init__()
        self.composition = composition
        models = [model.model for name, model in composition.models.items() if name != "student"]
        self.teachers = nn.ModuleList([model for model in models if model is not None])

    def forward(self, step: Step) -> Tensor:
        """The composition's, after which every buffer must be the one that was there: another would be lost."""
        before = dict(self.named_buffers())
        total = self.composition.forward(step)
        for name, buffer in self.named_buffers():
            if before.get(name) is not buffer:
                what = f"the buffer {name!r} is replaced in the step, which a compiled one would forget"
                raise StillhouseError(what, where="speed.compile", hint="write into it: buffer.copy_(new)")
        return total


class _Unknown:
    """What a program that is recorded once cannot know: which step it is, and of which samples."""

    def _refuse(self, *_arguments: Any) -> NoReturn:
        raise StillhouseError(
            "a plugin reads step.iteration, step.epoch, step.ids or the samples' weights, which a step that is compiled once does not know",
            where="speed.compile",
            hint=_MODELS_ALONE,
        )


for _name in (
    "add",
    "radd",
    "sub",
    "rsub",
    "mul",
    "rmul",
    "mod",
    "truediv",
    "floordiv",
    "lt",
    "le",
    "gt",
    "ge",
    "eq",
    "ne",
):
    setattr(_Unknown, f"__{_name}__", _Unknown._refuse)
for _name in ("index", "int", "float", "bool", "len", "iter", "getitem", "getattr", "hash"):
    setattr(_Unknown, f"__{_name}__", _Unknown._refuse)
