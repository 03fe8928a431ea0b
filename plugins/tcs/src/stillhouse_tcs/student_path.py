"""The path through the teacher's coordinates in the student: put in before training, folded at export."""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor, nn

from stillhouse import Assembly, StillhouseError
from stillhouse.contract.modes import keep_modes
from stillhouse.contract.protocols import Batches
from stillhouse.outputs import read_output
from stillhouse.teachers.cache import TeacherCache, teacher_cache
from stillhouse_tcs.axes import Axes, find_axes
from stillhouse_tcs.head import CoordinateHead, find_head, fold
from stillhouse_tcs.mimic import read_teacher_rows
from stillhouse_tcs.options import Options
from stillhouse_tcs.probe import MOST_ROWS, fit_probe, select_by_probe
from stillhouse_tcs.selection import ROUNDS, count_live

__all__ = ["adapt_student", "fold_student", "measure_axes"]

_TOLERANCE = 1e-5


def adapt_student(plugin: Options, assembly: Assembly, student: nn.Module) -> nn.Module | None:
    """Implement :meth:`stillhouse_tcs.TCS.adapt`."""
    data = assembly.batches
    if data is None:  # a run that is loaded: its checkpoint brings the shapes
        return None if plugin.path == "none" else _put_placeholder(plugin, assembly, student)
    cache = teacher_cache(assembly, plugin.make_cache_spec(assembly))
    assembly.release_teacher(plugin)
    axes = measure_axes(plugin, assembly, cache)
    assembly.note(plugin, _describe_cache(plugin, cache, axes))
    if plugin.path == "none":
        return None
    outputs = assembly.task.outputs(assembly.data)
    path = find_head(student, outputs, plugin.head)
    linear = student.get_submodule(path)
    assert isinstance(linear, nn.Linear)  # find_head gives no other
    _check_head(assembly, data, student, path)
    if plugin.keep > axes.k and plugin.selecting != "none" and not _is_sample(assembly, cache):
        raise StillhouseError(f"must be at most the {axes.k} axes, got {plugin.keep}", where="keep")
    head = _make_head(plugin, linear, axes)
    if plugin.init_head == "probe" or plugin.selecting == "probe":
        _start_from_probe(plugin, data, cache, axes, head)
    assembly.note(plugin, _describe_path(plugin, path, linear, head, axes))
    return _replace_layer(student, path, head)


def measure_axes(plugin: Options, assembly: Assembly, cache: TeacherCache) -> Axes:
    """Measure the axes of the cached features."""
    asked = partial(
        find_axes, cache.moments, k=plugin.k, match=plugin.match, precision=plugin.precision, base=assembly.recipe.base
    )
    try:
        return asked(kind=plugin.axes)
    except StillhouseError as error:
        if not _is_sample(assembly, cache) or any(fault.where != "k" for fault in error.faults):
            raise
        # A few samples, or a teacher that is not trained yet, span fewer dimensions than there will be: as many as asked for.
        return asked(kind="random")


def _is_sample(assembly: Assembly, cache: TeacherCache) -> bool:
    """Whether the cache has only the samples of an inspection, and not all of the run's."""
    return assembly.inspect_only and cache.folder is None


def _make_head(plugin: Options, linear: nn.Linear, axes: Axes) -> CoordinateHead:
    return CoordinateHead(
        linear.in_features,
        linear.out_features,
        axes,
        train_mask=plugin.selecting == "train",
        train_head=plugin.train_head,
        rounds=len(ROUNDS),
    )


def _put_placeholder(plugin: Options, assembly: Assembly, student: nn.Module) -> nn.Module:
    path = find_head(student, assembly.task.outputs(assembly.data), plugin.head)
    linear = student.get_submodule(path)
    assert isinstance(linear, nn.Linear)  # find_head gives no other
    d = linear.in_features
    one = torch.eye(d, dtype=torch.float64)
    axes = Axes(
        mean=one[0], vectors=one, scale=1.0, spectrum=one[0], rank=d, explained=1.0, energy=1.0, kind=plugin.axes
    )
    return _replace_layer(student, path, _make_head(plugin, linear, axes))


def _replace_layer(student: nn.Module, path: str, head: nn.Module) -> nn.Module:
    if not path:
        return head
    student.set_submodule(path, head)
    return student


def _check_head(assembly: Assembly, data: Batches, student: nn.Module, path: str) -> None:
    """Check that the layer is called once, on vectors, and that its output is the student's."""
    seen: list[tuple[Tensor, Tensor]] = []
    layer = student.get_submodule(path)
    handle = layer.register_forward_hook(lambda _module, given, gave: seen.append((given[0], gave)))
    try:
        with keep_modes(student, training=False), torch.no_grad():
            output = assembly.task.call(student, data.example().input.to(assembly.device), None)
    finally:
        handle.remove()
    logits = read_output(output, "student")
    others = [n for n, m in student.named_modules() if isinstance(m, nn.Linear) and n != path]
    hint = "name the last layer with `head`; linear layers besides: " + (", ".join(others) or "none")
    if len(seen) != 1:
        raise StillhouseError(
            f"the layer {path!r} must be called once in a forward pass, got {len(seen)} times", where="head", hint=hint
        )
    if not isinstance(logits, Tensor) or logits.shape != seen[0][1].shape or not torch.equal(logits, seen[0][1]):
        raise StillhouseError(f"the output of the layer {path!r} must be the student's output", where="head", hint=hint)
    if seen[0][0].ndim != 2:
        raise StillhouseError(
            f"the layer {path!r} must get vectors (B, features), got {tuple(seen[0][0].shape)}",
            where="head",
            hint=hint,
        )


def _start_from_probe(plugin: Options, data: Batches, cache: TeacherCache, axes: Axes, head: CoordinateHead) -> None:
    labelled = data.passes.ids("train")
    if cache.folder is None:  # a look at a few samples
        labelled = cache.ids
    features, ids = read_teacher_rows(cache, plugin.layer, axes, MOST_ROWS, among=labelled)
    coordinates = head.project(features)
    labels = data.passes.labels(ids)
    outputs, k = len(head.readout.bias), coordinates.shape[1]
    try:
        if plugin.selecting == "probe":
            counts = [count_live(k, n + 1, plugin.keep) for n in range(len(ROUNDS))]
            head.readout.live.copy_(select_by_probe(coordinates, labels, outputs, counts))
            head.readout.history.copy_(torch.tensor([k, *counts]))
        if plugin.init_head == "probe":
            weight, bias = fit_probe(coordinates * head.readout.live, labels, outputs)
            with torch.no_grad():
                head.readout.weight.copy_(weight)
                head.readout.bias.copy_(bias)
    except StillhouseError as error:
        raise error.within("init_head" if plugin.init_head == "probe" else "select") from None


def _describe_cache(plugin: Options, cache: TeacherCache, axes: Axes) -> str:
    where = "a look at a few samples; the run makes the cache" if cache.folder is None else str(cache.folder)
    how = "" if cache.folder is None else ", found" if cache.was_there else ", made"
    return (
        f"teacher's layer {plugin.layer or '(its output)'!r}: {len(axes.mean)} features of {len(cache):,} samples, "
        f"rank {axes.rank} ({where}{how})"
    )


def _describe_path(plugin: Options, path: str, linear: nn.Linear, head: CoordinateHead, axes: Axes) -> str:
    d_t = len(axes.mean)
    lift = f"A z + b ({d_t})" if head.lift.weight is not None else f"z + b ({d_t})"
    mask = "m * c, m trained" if plugin.selecting == "train" else f"{int(head.readout.live.sum())} live"
    return (
        f"student's path at {path or '(the student)'!r}: z ({linear.in_features}) -> {lift} -> V^T(. - mu): {axes.k} "
        f"{plugin.axes} axes, {100 * axes.explained:.1f}% of the variance -> {mask} -> W c + b' ({linear.out_features}); "
        f"folded to one Linear({linear.in_features}, {linear.out_features}) at export"
    )


@torch.no_grad()
def fold_student(assembly: Assembly, student: nn.Module) -> nn.Module:
    """Implement :meth:`stillhouse_tcs.TCS.export`."""
    found = [(name, module) for name, module in student.named_modules() if isinstance(module, CoordinateHead)]
    if not found:
        return student
    path, head = found[0]
    d_s = len(head.lift.bias) if head.lift.weight is None else head.lift.weight.shape[1]
    linear = fold(head, d_s)
    z = torch.randn(64, d_s, device=linear.weight.device)
    if assembly.batches is not None:
        z = _capture_inputs(assembly, assembly.batches, student, head)
    expected, got = head(z), linear(z)
    error, largest = float((expected - got).abs().max()), float(expected.abs().max())
    if not error <= _TOLERANCE * max(1.0, largest):
        raise StillhouseError(
            f"the folded layer's logits must be the path's, got a difference of {error:.2g}, the largest logit being {largest:.3g}",
            where=f"student, layer {path!r}",
        )
    kept = copy.deepcopy(student)
    return _replace_layer(kept, path, linear)


def _capture_inputs(assembly: Assembly, data: Batches, student: nn.Module, head: CoordinateHead) -> Tensor:
    """Capture the path's inputs for up to 64 training samples."""
    seen: list[Tensor] = []
    handle = head.register_forward_hook(lambda _module, given, _gave: seen.append(given[0]))
    try:
        with keep_modes(student, training=False):
            assembly.task.call(student, data.example(64).input.to(assembly.device), None)
    finally:
        handle.remove()
    return seen[0]
