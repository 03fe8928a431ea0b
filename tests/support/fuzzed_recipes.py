"""Recipes mutated from all that are shipped, and from two that have every key."""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from stillhouse.config.recipe import Recipe
from stillhouse.memo import share_memo
from support.dense_files import save
from support.fuzzed_tables import Keys, mutate
from support.fuzzing import TESTS, Failure, attempt

DOCS = TESTS.parent / "docs"
SHIPPED = [*sorted(DOCS.glob("recipes/**/*.toml")), *sorted(DOCS.glob("experiments/plans/recipes/*.toml"))]

EVERY_KEY = """
[run]
name = "all"
epochs = 2
threads = 1
accumulate = 2
[data]
name = "sklearn:digits"
batch_size = 32
per_class = 8
transforms = [{ use = "RandomCrop", size = 8, padding = 1 }]
batch_transforms = [{ use = "MixUp", alpha = 0.2 }]
[student]
model = "convnet"
args = { width = 4 }
[teacher]
model = "convnet"
args = { width = 8 }
random = true
[teachers.second]
model = "mlp"
args = { width = 8 }
random = true
[optimizer]
name = "sgd"
lr = 0.01
weight_decay = 0.0
clip_norm = 1.0
args = { momentum = 0.9 }
[schedule]
warmup_steps = 3
decay = "linear"
final = 0.1
until = 0.9
[checkpoints]
every_steps = 3
keep_every = 2
[ema]
decay = 0.9
evaluate = "instead"
[early_stopping]
patience = 2
[speed]
channels_last = true
[distributed]
shard = "none"
[task]
name = "classification"
args = { label_smoothing = 0.1 }
[[plugins]]
use = "features"
links = [{ student = "stage3", teacher = "stage3", pool = "mean" }, { student = "stage2", teacher = "stage2" }]
distance = "smooth_l1"
weight = { peak = 2.0, until = 0.5, warmup = 0.1, decay = "cosine" }
[[plugins]]
use = "normalizer"
[[plugins]]
use = "projector"
kind = "mlp"
links = "features/stage3"
[[plugins]]
use = "projector"
name = "other"
kind = "linear"
links = "features/stage2"
[[plugins]]
use = "spectral"
layer = "stage3"
rank = 4
[[plugins]]
use = "logits"
temperature = 4.0
"""

COORDINATES = """
[run]
threads = 1
[data]
name = "sklearn:digits"
batch_size = 32
per_class = 8
[student]
model = "convnet"
args = { width = 4 }
[teacher]
model = "convnet"
args = { width = 8 }
random = true
[[plugins]]
use = "tcs"
layer = "stage3"
k = 0.9
mimic = "elsh"
select = "train"
[[plugins]]
use = "cache"
outputs = true
"""


def bases() -> list[tuple[str, dict[str, Any], Path]]:
    """Each recipe with its name and folder."""
    own = [("every-key", tomllib.loads(EVERY_KEY), DOCS), ("coordinates", tomllib.loads(COORDINATES), DOCS)]
    read = [(path.name, tomllib.loads(path.read_text(encoding="utf-8")), path.parent) for path in SHIPPED]
    return [*read, *own, *own, *own]  # these have most keys


def make_data(home: Path) -> None:
    """Small images where the shipped recipes look for real ones, under the home folder."""
    generator = np.random.default_rng(0)

    def image(*shape: int) -> Any:
        return generator.integers(0, 256, shape, dtype=np.uint8)

    street, kitchen, photos, ten, many = (
        home / "datasets" / name
        for name in ("camvid_240x180", "redkitchen_320x240", "bsds500", "cifar10_jpeg", "tinyimagenet100")
    )
    for split, count in (("train", 160), ("val", 4), ("test", 4)):
        for k in range(count):
            save(street / split / f"{k:03}.jpg", image(18, 24, 3))
            save(street / f"{split}annot" / f"{k:03}.png", (image(18, 24) % 12).astype(np.uint8))
        for k in range(4):
            save(photos / split / f"{k:03}.jpg", image(100, 100, 3))
            for folder, size in ((ten, 8), (many, 16)):
                for label in "ab":
                    save(folder / split / label / f"{k}.jpg", image(size, size, 3))
    for k in range(400):
        save(kitchen / f"{k:03}.color.jpg", image(12, 16, 3))
        save(kitchen / f"{k:03}.depth.png", image(12, 16).astype(np.uint16) * 20)


def list_keys() -> Keys:
    """List every key of the recipe's tables."""
    whole = Recipe.from_dict(tomllib.loads(EVERY_KEY))
    tables = {field.name: getattr(whole, field.name) for field in attrs.fields(Recipe)}
    specs = {name: spec for name, spec in tables.items() if attrs.has(type(spec))}
    return [(n, f.alias, getattr(spec, f.name)) for n, spec in specs.items() for f in attrs.fields(type(spec))]


def try_recipes(seed: int, count: int, *, build: bool = True) -> Iterator[Failure | None]:
    """Try ``count`` recipes: read, hashed and written; with ``build`` the run is built and explained as well.

    Small images lie where the shipped recipes look for data: the caller's home folder is a temporary one.
    """
    chance = random.Random(seed)
    keys, every = list_keys(), bases()
    if build:
        make_data(Path.home())
    with share_memo():
        for number in range(count):
            name, tables, folder = chance.choice(every)
            tables = mutate(tables, keys, chance)
            yield attempt(_tell(number, name, tables), lambda t=tables, f=folder, n=name: _try(t, f, n, build=build))  # type: ignore[misc]


def _tell(number: int, name: str, tables: dict[str, Any]) -> str:
    try:
        return f"{number} of {name}: {json.dumps(tables, default=repr)[:3000]}"
    except (RecursionError, ValueError):
        return f"{number} of {name}: deep or huge"


def _try(tables: dict[str, Any], folder: Path, name: str, *, build: bool) -> None:
    recipe = Recipe.from_dict(tables, base=folder, file=str(folder / name))
    digest = recipe.digest()
    again = Recipe.from_dict(tomllib.loads(recipe.to_toml()))
    assert again.digest() == digest, "written and read again it is another recipe"
    if not build:
        return
    from stillhouse.training.explanation import describe, render_text
    from stillhouse.training.preparation import prepare

    training = prepare(recipe, write=False, train_teacher=False)
    try:
        render_text(describe(training))
    finally:
        training.close()
