"""What the GPU proof trains: pairs of models, lists of plugins, and the recipes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from stillhouse import Recipe

__all__ = ["PAIRS", "SETS", "SMALL_PAIRS", "TARGET_SET", "Case", "Pair", "cases", "images", "recipe"]

CLASSES = 100
TARGET_SET = "features + normalizer + projector"
"""The list whose throughput has a target."""


@dataclass(frozen=True)
class Pair:
    """A student and its larger teacher.

    Attributes:
        name: of the pair.
        student: the recipe's model table.
        teacher: likewise.
        layers: the student's and the teacher's layer that are linked; widths differ, or a projector has nothing to do.
        alike: two layers of one width, for links without a projector; None where the models have none.
        prefix: tokens before the patches.
        size: height and width of the images.
        batch: images a step.
        channels_last: memory format of images and convolutions.
    """

    name: str
    student: dict[str, Any]
    teacher: dict[str, Any]
    layers: tuple[str, str]
    alike: tuple[str, str] | None
    prefix: int = 0
    size: int = 224
    batch: int = 256
    channels_last: bool = False


def _resnet(name: str) -> dict[str, Any]:
    return {"model": f"torchvision:{name}"}


def _vit(dim: int, heads: int, depth: int = 12, patch: int = 16) -> dict[str, Any]:
    # DeiT's dimensions; torchvision's registry has none below Base.
    return {"model": "stillhouse.models:vit", "args": {"dim": dim, "heads": heads, "depth": depth, "patch": patch}}


PAIRS = {
    p.name: p
    for p in (
        Pair(
            "ResNet-18 <- ResNet-50",
            _resnet("resnet18"),
            _resnet("resnet50"),
            ("layer4", "layer4"),
            ("layer4", "layer2"),
            channels_last=True,
        ),
        Pair(
            "ResNet-50 <- ResNet-101",
            _resnet("resnet50"),
            _resnet("resnet101"),
            ("layer4", "layer4"),
            ("layer4", "layer4"),
            channels_last=True,
        ),
        Pair("ViT-Tiny <- ViT-Small", _vit(192, 3), _vit(384, 6), ("norm", "norm"), None, prefix=1),
        Pair("ViT-Small <- ViT-Base", _vit(384, 6), _vit(768, 12), ("norm", "norm"), None, prefix=1),
    )
}
"""What is measured."""

SMALL_PAIRS = {
    "ResNet-18 <- ResNet-50": replace(PAIRS["ResNet-18 <- ResNet-50"], size=32, batch=4),
    # A link of 512 channels: a projection of 2,048 is most of a step on the CPU.
    "ResNet-50 <- ResNet-101": replace(
        PAIRS["ResNet-50 <- ResNet-101"], layers=("layer2", "layer2"), alike=("layer2", "layer2"), size=32, batch=4
    ),
    "ViT-Tiny <- ViT-Small": replace(
        PAIRS["ViT-Tiny <- ViT-Small"], student=_vit(24, 3, 2), teacher=_vit(48, 6, 2), size=64, batch=8
    ),
    "ViT-Small <- ViT-Base": replace(
        PAIRS["ViT-Small <- ViT-Base"], student=_vit(48, 6, 2), teacher=_vit(96, 12, 2), size=64, batch=8
    ),
}
"""The same at sizes that a CPU rehearses in seconds, and that tests use."""

SETS: dict[str, tuple[str, ...]] = {
    "none": (),
    "features": ("features",),
    "features + normalizer": ("features", "normalizer"),
    "features + projector": ("features", "projector"),
    TARGET_SET: ("features", "normalizer", "projector"),
    "logits": ("logits",),
    "spectral": ("spectral",),
    "spectral, warm": ("spectral warm",),
    "all five": ("features", "normalizer", "projector", "spectral warm", "logits"),
}
"""The lists of plugins. All five with the warm spectral term: the exact one waits for the device, by torch's eigh."""


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        kind: what it is there for: ``plugins``, ``precision``, ``compile``, ``step`` (all of it compiled) or ``loader``.
        pair: the models.
        plugins: a key of :data:`SETS`.
        precision: ``[run] precision``.
        speed: further keys of ``[speed]``.
        loader: ``memory`` or ``workers``: batches come from the run's own loader instead of lying on the device.
    """

    kind: str
    pair: Pair
    plugins: str
    precision: str = "bfloat16"
    speed: Mapping[str, Any] = field(default_factory=dict)
    loader: str = ""

    @property
    def id(self) -> str:
        """What a finished row is known by."""
        more = ", ".join(f"{key} = {value}" for key, value in self.speed.items() if key != "compile_args")
        return " | ".join(filter(None, (self.kind, self.pair.name, self.plugins, self.precision, more, self.loader)))


def cases(pairs: Mapping[str, Pair], backend: str = "inductor") -> list[Case]:
    """All rows, those with a target first: a run that is cut short has the ones that count."""
    resnet18, resnet50, tiny, _ = pairs.values()
    args = {} if backend == "inductor" else {"compile_args": {"backend": backend}}
    found = [Case("plugins", pair, plugins) for plugins in (TARGET_SET, "all five") for pair in pairs.values()]
    found += [
        Case("precision", resnet50, TARGET_SET, "float32"),
        Case("precision", resnet50, TARGET_SET, "float32", {"teacher_precision": "bfloat16"}),
        Case("precision", resnet50, TARGET_SET, "float16"),
    ]
    found += [
        Case("compile", pair, TARGET_SET, speed={"compile": which, **args})
        for pair in (resnet18, tiny)
        for which in ("student", "teacher", "both")
    ]
    whole = args or {"compile_args": {"mode": "reduce-overhead"}}
    found += [
        Case("step", replace(pair, batch=min(pair.batch, 64)), TARGET_SET, speed={"compile": "step", **whole})
        for pair in (resnet18, tiny)
    ]
    small = replace(resnet18, size=32)
    found += [Case("loader", small, TARGET_SET, loader=loader) for loader in ("memory", "workers")]
    rest = [name for name in SETS if name not in (TARGET_SET, "all five")]
    found += [
        Case("plugins", pair, plugins)
        for plugins in rest
        for pair in pairs.values()
        if pair.alike or not _needs_alike(plugins)
    ]
    return found


def _needs_alike(plugins: str) -> bool:
    """Whether a list makes links and has nothing that brings their two widths together."""
    return "features" in SETS[plugins] and "projector" not in SETS[plugins]


class Images(Dataset[tuple[Tensor, int]]):
    """``n`` uint8 images (3, size, size) of noise: 64 of them, again and again, so that any number fits in memory."""

    def __init__(self, n: int, size: int, classes: int) -> None:
        self.pool = torch.randint(0, 256, (64, 3, size, size), generator=torch.Generator().manual_seed(0)).byte()
        self.targets = [i % classes for i in range(n)]
        self.classes = [str(i) for i in range(classes)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.pool[i % len(self.pool)], self.targets[i]


def images(train: int, size: int, classes: int = CLASSES) -> dict[str, Images]:
    """The data of every recipe here."""
    classes = min(classes, train)  # a few steps of a rehearsal have not one sample of each
    return {split: Images(n, size, classes) for split, n in (("train", train), ("val", classes))}


CROPS = ({"use": "RandomCrop", "size": 32, "padding": 4}, {"use": "RandomHorizontalFlip"})
"""The augmentation of the rows with ``loader = "workers"``."""


def recipe(case: Case, device: str, *, steps: int = 200, workers: int = 8, **tables: Mapping[str, Any]) -> Recipe:
    """The recipe of ``case``; ``tables`` add keys to its tables."""
    pair = case.pair
    teacher = any(p in ("features", "logits") for p in SETS[case.plugins])
    made: dict[str, Any] = {
        "run": {"device": device, "precision": case.precision, "epochs": 1, "base": str(Path(__file__).parent)},
        "data": {
            "name": "_gpu_cases:images",
            "args": {"train": steps * pair.batch, "size": pair.size},
            "batch_size": pair.batch,
            "normalize": "none",
            "cache": "memory" if case.loader else "none",
        },
        "student": pair.student,
        "optimizer": {"name": "adamw", "lr": 1e-4, "args": {"fused": True}},
        "speed": {"channels_last": pair.channels_last, **case.speed},
        "plugins": [_plugin(name, case) for name in SETS[case.plugins]],
    }
    if case.loader == "workers":
        made["data"] |= {"workers": workers, "transforms": [dict(t) for t in CROPS]}
    if teacher:
        made["teacher"] = {**pair.teacher, "random": True}
    for table, keys in tables.items():
        made[table] = {**made.get(table, {}), **keys}
    return Recipe.from_dict(made)


def _plugin(name: str, case: Case) -> dict[str, Any]:
    pair = case.pair
    student, teacher = pair.layers
    if _needs_alike(case.plugins):
        assert pair.alike is not None  # such a case is not made
        student, teacher = pair.alike
    if name == "features":
        return {"use": "features", "links": [{"student": student, "teacher": teacher, "prefix": pair.prefix}]}
    if name.startswith("spectral"):
        method = "warm" if name.endswith("warm") else "exact"
        return {"use": "spectral", "layer": student, "rank": min(16, pair.batch // 2), "method": method}
    return {"use": name}
