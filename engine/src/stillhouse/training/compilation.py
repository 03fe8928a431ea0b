"""torch.compile of the models: in place, after the taps, before training; a failure is named, or passed over when asked."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse import seeds as rng
from stillhouse.assembly.failures import is_out_of_memory
from stillhouse.config.run_options import SpeedSpec
from stillhouse.contract.assembly import Facts
from stillhouse.contract.batch import Batch
from stillhouse.contract.layers import Which
from stillhouse.contract.run import Run
from stillhouse.contract.step import Side
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, did_you_mean, first_line, raise_faults
from stillhouse.loop.composition import Composition
from stillhouse.registry.hooks import Hooks
from stillhouse.training.compiled_step import CompiledStep, refuse_uncompilable

__all__ = ["check_compile", "compile_models", "compile_step", "graph_breaks", "plain"]


def check_compile(spec: SpeedSpec, has_teacher: bool) -> None:
    """Refuse a ``[speed]`` that cannot be meant.

    Raises:
        StillhouseError: there is no such backend, or no teacher to compile.
    """
    faults = []
    if spec.compile == "none":
        return
    if spec.compiles("teacher") and not has_teacher:
        hint = 'compile = "student"' if spec.compile == "both" else 'compile = "none"'
        faults.append(Fault("speed.compile", "there is no teacher to compile", hint))
    backends = torch.compiler.list_backends(exclude_tags=())
    if spec.compile_args.backend not in backends:
        hint = did_you_mean(spec.compile_args.backend, backends)
        where = "speed.compile_args.backend"
        faults.append(Fault(where, f"torch.compile has no backend {spec.compile_args.backend!r}", hint))
    raise_faults(faults)


def compile_models(facts: Facts, composition: Composition, batch: Batch, spec: SpeedSpec) -> list[Which]:
    """Compile the models that ``spec`` names and run each once, forward and backward, so that a failure shows here.

    ``nn.Module.compile`` works in place: paths, state dict and hooks stay as they are, and the taps, which are attached
    already, become part of the compiled program. Parameters, gradients, buffers and generators are afterwards as before.

    Args:
        facts: of the run, with student, teachers and device.
        composition: assembled, and in train mode.
        batch: as large as those of the training: another size would be compiled again.
        spec: what to compile, and how.

    Returns:
        The models that are compiled now; one whose compilation failed is not among them.

    Raises:
        StillhouseError: it failed and ``compile_fallback`` is off; its hint says what can be done.
    """
    args = spec.compile_args
    options: dict[str, Any] = {"fullgraph": args.fullgraph, "dynamic": args.dynamic, "backend": args.backend}
    if args.mode != "default":  # a backend other than inductor takes no mode at all
        options["mode"] = args.mode
    # torch otherwise takes models with other hooks for the same: a second run of this process would have the first one's taps.
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    if composition.combiner is not None:
        # A compiled program otherwise reuses what it kept for its backward pass, and each term has a pass of its own.
        torch._functorch.config.donated_buffer = False
    compiled: list[Which] = []
    for which, model in {"student": facts.student, **facts.all_teachers}.items():
        if not spec.compiles("student" if which == "student" else "teacher"):
            continue
        if which != "student" and not composition.runs_teacher:
            continue
        try:
            model.compile(**options)
            _run_once(composition, batch, which)
        except Exception as error:
            plain(model)
            if is_out_of_memory(error):
                raise
            failure = _failure(error, which, spec)
            if not spec.compile_fallback:
                raise failure from error
            warnings.warn(f"{failure.faults[0].what}: it goes on without", StillhouseWarning, stacklevel=2)
            continue
        compiled.append(which)
    return compiled


def compile_step(
    run: Run, composition: Composition, hooks: Hooks, batch: Batch, spec: SpeedSpec
) -> CompiledStep | None:
    """Compile the whole step and run it once, forward and backward, which leaves no trace.

    Args:
        run: which it is a step of.
        composition: assembled, and in train mode.
        hooks: the plugins'.
        batch: as large as those of the training.
        spec: how to compile.

    Returns:
        What goes forward in the composition's place; None where it cannot be compiled and ``compile_fallback`` is on.

    Raises:
        StillhouseError: it cannot, and ``compile_fallback`` is off: each reason.
    """
    try:
        refuse_uncompilable(run, composition, hooks)
        compiled = CompiledStep(composition, spec.compile_args)
        compiled.try_out(batch)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        failure = _own(error) or _failure(error, "step", spec)
        if not spec.compile_fallback:
            raise failure from error
        what = "; ".join(f"{fault.where}: {fault.what}" for fault in failure.faults)
        warnings.warn(f"{what}: the step goes on without being compiled", StillhouseWarning, stacklevel=2)
        return None
    return compiled


def _own(error: BaseException | None) -> StillhouseError | None:
    """What we ourselves said within the compiler, which puts errors of its own around it."""
    while error is not None and not isinstance(error, StillhouseError):
        error = error.__cause__ or error.__context__
    return error


def _run_once(composition: Composition, batch: Batch, which: Which) -> None:
    """One forward pass and, for the student, one backward pass that leaves no trace."""
    tapped = composition.models[which]
    model = tapped.model
    assert model is not None  # it has just been compiled
    buffers = [(b, b.clone()) for b in model.buffers()]
    inputs, targets = composition.place(batch.input, batch.target)
    with rng.preserve_state():
        try:
            if tapped.frozen:
                tapped(inputs)
            else:
                with torch.enable_grad():
                    _backward(tapped(inputs, targets), [p for p in model.parameters() if p.requires_grad])
        finally:
            tapped.taps.take()
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)


def _backward(side: Side, parameters: list[nn.Parameter]) -> None:
    """The gradient of everything that the student gave; not into ``grad``, which others may watch."""
    given = [side.output, *side.features.values()]
    total = [x.float().mean() for x in given if isinstance(x, Tensor) and x.requires_grad]
    if total:
        torch.autograd.grad(torch.stack(total).sum(), parameters, allow_unused=True)


def _failure(error: Exception, which: str, spec: SpeedSpec) -> StillhouseError:
    ways = ["compile_fallback = true goes on without", 'compile = "none" does not try']
    if spec.compile_args.fullgraph:
        ways.insert(0, "fullgraph = false lets the graph break")
    return StillhouseError(
        f"torch.compile cannot compile the {which}: {first_line(error)}", where="speed.compile", hint="; ".join(ways)
    )


def plain(model: nn.Module, *, channels_last: bool = False) -> None:
    """Undo ``nn.Module.compile``: calls run the model's own code again; and, if so asked, ``channels_last``."""
    model._compiled_call_impl = None
    if channels_last:
        model.to(memory_format=torch.contiguous_format)


def graph_breaks(model: nn.Module, *inputs: Tensor) -> list[str]:
    """Why torch.compile has to break ``model``'s graph for these inputs, hooks included; empty: it is one graph.

    torch forgets what it has compiled before; a compiled model is compiled anew at its next call.
    """
    own, model._compiled_call_impl = model._compiled_call_impl, None
    try:
        # As a function that calls it: hooks of the model itself are run by its __call__.
        found = torch._dynamo.explain(lambda *x: model(*x))(*inputs)
        return [first_line(reason.reason) for reason in found.break_reasons]
    finally:
        model._compiled_call_impl = own
