"""The plugin: one pass of the teacher before training, and its rows in every step."""

from __future__ import annotations

from typing import Literal

from torch import nn

from stillhouse import Assembly, Plugin, Step, StillhouseError, hookimpl, plugin
from stillhouse.contract.step import Side
from stillhouse.teachers.cache import OUTPUT, CacheSpec, TeacherCache, tap_name, teacher_cache

__all__ = ["Cache", "Served"]


class Served(nn.Module):
    """The module that :class:`Cache` builds: the open cache and the layers that other plugins read. It has no tensors.

    Args:
        cache: of the layers' outputs as they are, and of the model's.
        layers: the teacher's tapped layers.
    """

    def __init__(self, cache: TeacherCache, layers: tuple[str, ...]) -> None:
        super().__init__()
        self.cache, self.layers = cache, layers

    def side(self, step: Step) -> Side:
        """Return the teacher's side of ``step``: output and features, float32, on the step's device."""
        cache, device = self.cache, step.inputs.device
        features = {layer: cache.take(tap_name(layer), step.ids, step.epoch, device) for layer in self.layers}
        output = cache.take(OUTPUT, step.ids, step.epoch, device) if OUTPUT in cache.names else None
        return Side(output, features)


@plugin
class Cache(Plugin):
    """Read the teacher once, before training, and serve its features and outputs from the disk in every step.

    What the teacher gives for a sample is the same in every epoch, so one pass serves them all, this run's and those of
    other runs with the same teacher, data and layers. Every plugin that reads the teacher works as before; the teacher
    itself leaves memory. Features are kept as the layers give them, so that a link's own pooling applies.

    It serves ``[teacher]`` alone: further teachers (``[teachers.NAME]``) stay and run in every step. A plugin that requires
    a live teacher cannot be active beside it.

    The teacher sees each sample as in evaluation. Where the student's is augmented, the two sides show different crops of
    one image; with ``views`` they are the same.

    Attributes:
        views: how many augmented looks of each sample are kept, shown to the student as well, by epoch modulo ``views``;
            0: one look, as in evaluation.
        outputs: whether the model's output is kept besides the layers that are read.
        precision: dtype of the teacher's pass.
        store: dtype on the disk.
        folder: where the cache is kept; empty: found by its content.
    """

    requires = ("teacher",)
    provides = ("teacher cache",)
    conflicts = ("cache", "live teacher")
    shorthand = "views"

    views: int = 0
    outputs: bool = True
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    store: Literal["float16", "float32"] = "float16"
    folder: str = ""

    def __attrs_post_init__(self) -> None:
        if self.views < 0:
            raise StillhouseError(f"must be >= 0, got {self.views}", where="views")

    @hookimpl
    def build(self, assembly: Assembly) -> nn.Module | None:
        """Find the cache, or make it.

        Raises:
            StillhouseError: nothing is read of the teacher; or as :func:`stillhouse.teachers.cache.teacher_cache`.
        """
        if assembly.batches is None:  # a run that is loaded has no steps to serve
            return None
        layers = tuple(assembly.features["teacher"])
        if not layers and not self.outputs:
            raise StillhouseError("must be true where no plugin reads a layer of the teacher", where="outputs")
        spec = CacheSpec(
            taps=layers,
            pool="none",
            split="pool" if "unlabelled" in assembly.data.sizes else "train",
            outputs=self.outputs,
            views=self.views,
            precision=self.precision,
            store=self.store,
            folder=self.folder,
        )
        cache = teacher_cache(assembly, spec)
        assembly.release_teacher(self, for_all=True)
        where = "a look at a few samples" if cache.folder is None else str(cache.folder)
        how = "" if cache.folder is None else ", found" if cache.was_there else ", made"
        assembly.note(self, f"{len(cache):,} samples, {', '.join(cache.names)} ({where}{how})")
        if assembly.teachers:
            assembly.note(self, f"{', '.join(assembly.teachers)}: not served, and run in every step")
        return Served(cache, layers)

    @hookimpl
    def teacher_forward(self, step: Step) -> bool | None:
        """Fill ``step.teacher`` from the cache; before it is there, in the first forward pass, the teacher answers itself."""
        try:
            module: Served = step.module(self)
        except KeyError:
            return None
        step.teacher = module.side(step)
        return True
