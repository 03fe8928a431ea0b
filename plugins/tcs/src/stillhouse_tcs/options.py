"""The plugin's options, which its parts read: :class:`stillhouse_tcs.TCS` says what each means."""

from __future__ import annotations

from typing import Literal

from stillhouse import Assembly, Fault, Plugin, StillhouseError, plugin
from stillhouse.errors import raise_faults
from stillhouse.teachers.cache import CacheSpec
from stillhouse_tcs.axes import Match

__all__ = ["Options"]

MimicKind = Literal["pca_mse", "elsh", "logits", "none"]
Selection = Literal["none", "train", "probe"]


@plugin
class Options(Plugin):
    """The options of TCS but for its weight, checked, and what follows from them."""

    layer: str = ""
    pool: Literal["mean", "cls"] = "mean"
    head: str = ""
    preset: Literal["ours", "paper"] = "ours"
    axes: str = "pca"
    k: int | float = 0.99
    match: Match | None = None
    path: Literal["coordinates", "none"] = "coordinates"
    init_head: Literal["probe", "random"] = "probe"
    train_head: bool = True
    mimic: MimicKind | None = None
    mimic_on: Literal["labelled", "pool"] | None = None
    hashes: int | None = None
    temperature: float = 4.0
    select: Selection | None = None
    keep: int = 1
    views: int = 0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    store: Literal["float16", "float32"] = "float16"
    cache: str = ""

    def __attrs_post_init__(self) -> None:
        faults = [
            Fault(key, f"must be >= {least}, got {value}")
            for key, value, least in (("keep", self.keep, 1), ("views", self.views, 0), ("hashes", self.hashes, 1))
            if value is not None and value < least
        ]
        if self.k < 1 if isinstance(self.k, int) else not 0.0 < self.k <= 1.0:
            faults.append(Fault("k", f"must be a whole number >= 1 or a share in (0, 1.0], got {self.k}"))
        if not 0.0 < self.temperature <= 1e4:  # beyond, float32 no longer tells the classes' probabilities apart
            faults.append(Fault("temperature", f"must be > 0 and at most 10,000, got {self.temperature}"))
        if self.path == "none" and (self.mimicking != "logits" or self.selecting != "none"):
            faults.append(
                Fault(
                    "path",
                    f"must be 'coordinates' for mimic = {self.mimicking!r} and select = {self.selecting!r}, got 'none'",
                    'mimic = "logits" and select = "none"',
                )
            )
        raise_faults(faults)

    @property
    def mimicking(self) -> MimicKind:
        """``mimic``, or the preset's."""
        return self.mimic or ("elsh" if self.preset == "paper" else "pca_mse")

    @property
    def selecting(self) -> Selection:
        """``select``, or the preset's."""
        return self.select or ("train" if self.preset == "paper" else "none")

    def mimics_unlabelled(self, assembly: Assembly) -> bool:
        """Whether the run's unlabelled images are mimicked as well, and the axes come from all.

        Raises:
            StillhouseError: they are to be, and the run has none.
        """
        there = "unlabelled" in assembly.data.sizes
        if self.mimic_on == "pool" and not there:
            raise StillhouseError(
                "'pool' needs unlabelled images, and the run draws none",
                where="mimic_on",
                hint='[data] pool = "all", or unlabelled = "photos:PATH"',
            )
        return there and self.mimic_on != "labelled"

    def make_cache_spec(self, assembly: Assembly) -> CacheSpec:
        """Make the spec of the teacher cache."""
        return CacheSpec(
            taps=(self.layer,),
            pool=self.pool,
            split="pool" if self.mimics_unlabelled(assembly) else "train",
            views=self.views,
            precision=self.precision,
            store=self.store,
            moments=True,
            folder=self.cache,
        )
