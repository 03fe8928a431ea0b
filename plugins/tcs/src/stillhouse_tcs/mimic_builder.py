"""The builder of the mimicking term's module, with its hash or its probe."""

from __future__ import annotations

import torch
from torch import nn

from stillhouse import Assembly
from stillhouse.teachers.cache import teacher_cache
from stillhouse_tcs.head import CoordinateHead
from stillhouse_tcs.mimic import Mimic, read_teacher_rows
from stillhouse_tcs.options import Options
from stillhouse_tcs.probe import MOST_ROWS, fit_probe
from stillhouse_tcs.student_path import measure_axes

__all__ = ["build_mimic"]

MOST_HASHES = 2048


def build_mimic(plugin: Options, assembly: Assembly, paths: tuple[str, str] | None) -> nn.Module:
    """Implement :meth:`stillhouse_tcs.TCS.build`."""
    head = None
    if paths is not None:
        found = assembly.student.get_submodule(paths[0].removesuffix("lift").removesuffix("."))
        assert isinstance(found, CoordinateHead)  # it was looked for by its type
        head = found
    kind, data = plugin.mimicking, assembly.batches
    if data is None:  # a run that is loaded
        return _make_placeholder(plugin, head)
    cache = teacher_cache(assembly, plugin.make_cache_spec(assembly))
    axes = head.system if head is not None else measure_axes(plugin, assembly, cache)
    module = Mimic(
        kind,
        plugin.layer,
        cache,
        axes=axes,
        labelled_alone=not plugin.mimics_unlabelled(assembly),
        paths=paths,
        head=head,
        temperature=plugin.temperature,
    )
    module.hold(scale=torch.tensor(axes.scale))
    if kind == "elsh":
        d = cache.shape(cache.names[0])[0]
        count = plugin.hashes or min(32 * d, MOST_HASHES)
        module.hash_with(torch.randn(d, count) / d**0.5, plugin.layer)
    if kind == "logits":
        labelled = cache.ids if cache.folder is None else data.passes.ids("train")
        features, ids = read_teacher_rows(cache, plugin.layer, axes, MOST_ROWS, among=labelled)
        weight, bias = fit_probe(features, data.passes.labels(ids), assembly.task.outputs(assembly.data))
        module.hold(probe=weight, probe_bias=bias)
    return module


def _make_placeholder(plugin: Options, head: CoordinateHead | None) -> nn.Module:
    """Make a module with buffers of the right names, whose shapes come from a checkpoint."""
    module = Mimic(plugin.mimicking, plugin.layer, None, head=head)
    names = {"elsh": ("hash", "hash_bias"), "logits": ("probe", "probe_bias")}.get(plugin.mimicking, ())
    module.hold(scale=torch.ones(()), **{name: torch.zeros(1) for name in names})
    return module
