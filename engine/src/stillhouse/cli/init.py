"""``stillhouse init``: looks at a folder and writes a commented recipe that runs."""

from __future__ import annotations

import argparse
import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import tomli_w

from stillhouse.cli.common import Commands, make_console
from stillhouse.errors import StillhouseError
from stillhouse.files import write_text

if TYPE_CHECKING:
    from stillhouse.cli.findings import Findings

__all__ = ["add"]

_TASKS = {
    "class": ("classification", "convnet", 24, 48),
    "vector": ("regression", "convnet", 24, 48),
    "mask": ("segmentation", "unet", 16, 32),
    "depth": ("depth", "unet", 16, 32),
    "image": ("image-to-image", "unet", 16, 32),
    "boxes": ("detection", "detector", 16, 0),
    "none": ("self-supervised", "convnet", 24, 0),
}
"""By the targets' kind: the task, the student, its width, and the teacher's; 0 for a run without one."""

_LARGEST = {"class": 64, "vector": 64, "none": 64, "boxes": 160}
"""Height and width of images, in pixels, that a CPU trains on in minutes; 96 for targets with the size of their image."""


_METHOD = ("", '# The method is this list of plugins: `stillhouse plugins` has more, and --plugins "" trains without.')
_PRETRAINED = (
    *_METHOD,
    *(
        "[[plugins]]",
        'use = "cache" # the teacher looks at each image once',
        "outputs = false # its classes are others",
    ),
    *("", "[[plugins]]", 'use = "features" # the angle between what the last layers see'),
    *(
        'links = [{ student = "stage4", teacher = "global_pool", pool = "mean" }]',
        'distance = "cosine"',
        "weight = 10.0",
    ),
    *("", "[[plugins]]", "use = \"projector\" # of the student's features to the teacher's width", 'kind = "linear"'),
)
"""The method of a pretrained teacher: the list of the tutorial with one's own photographs."""


def add(commands: Commands) -> None:
    """Add the command."""
    init = commands.add_parser("init", help="look at a folder of images, and write a recipe that trains on it")
    init.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        default=".",
        help="images, with or without masks; a table; annotations; tar shards; a Hugging Face data set on disk",
    )
    init.add_argument("--out", metavar="FILE", default="recipe.toml", help="the recipe (default: recipe.toml)")
    init.add_argument("--force", action="store_true", help="write over recipes that are there")
    init.set_defaults(function=_init)


def _init(arguments: argparse.Namespace) -> int:
    from stillhouse.cli.discovery import look_at

    place, out = Path(arguments.folder), Path(arguments.out)
    if out.suffix != ".toml":
        raise StillhouseError(f"must be a file .toml, got {arguments.out!r}", where="--out", hint="recipe.toml")
    found = look_at(place.resolve() if place.is_absolute() else place)
    extra = {}
    if found.box_files is not None:
        table = out.with_name(f"{out.stem}-boxes.csv")
        extra = {table: found.box_files.write_table()}
        found = attrs.evolve(found, name=f"table:{table}")
    pretrained = found.target == "class" and not found.gray and _has_pretrained()
    teacher = out.with_name(f"{out.stem}-teacher.toml")
    texts = {out: _write_student(found, out, teacher, pretrained=pretrained)}
    if _TASKS[found.target][3] and not pretrained:
        texts[teacher] = _write_teacher(found, out, teacher)
    texts |= extra
    there = [file for file in texts if file.exists()]
    if there and not arguments.force:
        raise StillhouseError(
            "is there already", where=str(there[0]), hint="--force writes over it, or --out names another"
        )
    for file, text in texts.items():
        write_text(file, text)
    console = make_console()
    console.print(f"found   {found.told}", soft_wrap=True)
    for file in texts:
        console.print(f"wrote   {file}", soft_wrap=True)
    name = shlex.quote(str(out))
    for what, command in (
        ("look", f"stillhouse explain {name}"),
        ("train", f"stillhouse train {name}"),
        ("export", f"stillhouse export runs/{out.stem} --to {out.stem}.onnx"),
    ):
        console.print(f"{what:<7} {command}", soft_wrap=True)
    return 0


def _has_pretrained() -> bool:
    from stillhouse.models.lite0 import has_lite0

    return has_lite0()


def _write_student(found: Findings, out: Path, teacher: Path, *, pretrained: bool) -> str:
    _, model, width, wider = _TASKS[found.target]
    parts = [
        f"# Found: {found.told}.",
        "# What it comes to, before anything is trained: stillhouse explain " + out.name,
    ]
    parts += _write_common(found, out, name=out.stem, epochs=40 if pretrained else 20, pretrained=pretrained)
    parts += ["", "[student]", f'model = "{model}" # or torchvision:resnet18, timm:NAME, your_module:function']
    parts += ["args = { width = 16, stages = 4, stride = 2 }" if pretrained else f"args = {{ width = {width} }}"]
    if pretrained:
        parts += [
            "",
            "[teacher]",
            'model = "lite0" # EfficientNet-Lite0 as ImageNet left it; or a checkpoint of your own',
        ]
        parts += ["pretrained = true", "size = [128, 128] # what it is shown; larger costs more and shows more"]
    elif wider:
        parts += [
            "",
            "[teacher]",
            f'recipe = "{teacher.name}" # trained once, then found again; or: checkpoint = "weights.pt", with model and args',
        ]
    else:
        parts += ["", '# [teacher] # recipe = "...", or checkpoint = "weights.pt" with model and args']
    parts += _write_training()
    parts += _PRETRAINED if pretrained else _write_plugins(found)
    return "\n".join(parts) + "\n"


def _write_teacher(found: Findings, out: Path, teacher: Path) -> str:
    _, model, _, wider = _TASKS[found.target]
    more = "A pretrained one teaches more" + (": pip install stillhouse[teachers]." if found.target == "class" else ".")
    parts = [f"# The teacher of {out.name}: a wider network on the same samples. {more}"]
    parts += _write_common(found, out, name=teacher.stem, epochs=10)
    parts += ["", "[student]", f'model = "{model}"', f"args = {{ width = {wider} }}"]
    return "\n".join([*parts, *_write_training()]) + "\n"


def _write_common(found: Findings, out: Path, *, name: str, epochs: int, pretrained: bool = False) -> list[str]:
    """``[run]``, ``[data]`` and ``[task]``, which student and teacher share.

    With a ``pretrained`` teacher, whose features say what an image shows, looks of it may differ more than with labels alone.
    """
    task = _TASKS[found.target][0]
    size = _shrink(found)
    scheme, _, path = found.name.partition(":")
    args = dict(found.args)
    for key in {"coco": ("images",), "table": ("root",)}.get(scheme, ()):
        if key in args:
            args[key] = _from_recipe(Path(args[key]), out)
    lines = ["", "[run]", f'name = "{name}"', f"epochs = {epochs}", "seed = 0"]
    lines += ["", "[data]", f"name = {_toml(f'{scheme}:{_from_recipe(Path(path), out)}')}"]
    if args:
        lines.append(f"args = {_toml(args)}")
    lines.append(
        f"size = {size} # the images have {found.size[0]} x {found.size[1]} pixels; larger costs more and shows more"
    )
    lines.append(f"channels = {1 if found.gray else 3}")
    lines.append("batch_size = " + ("8" if found.target == "boxes" else "32"))
    if found.target == "boxes":
        lines.append('normalize = "none" # detectors normalise by themselves')
    elif found.target == "class":
        crop: dict[str, Any] = {"use": "RandomCrop", "size": size, "padding": min(size) // 8}
        if pretrained:
            crop = {"use": "RandomResizedCrop", "size": size, "scale": [0.4, 1.0]}
        looks = [{"use": "RandomHorizontalFlip"}, crop]
        lines.append(f"transforms = {_toml(looks)} # of torchvision.transforms.v2")
    lines += ["", "[task]", f'name = "{task}"']
    if found.args.get("ignore") is not None:
        lines.append(f"args = {{ ignore_index = {found.args['ignore']} }}")
    return lines


def _shrink(found: Findings) -> list[int]:
    """Height and width in multiples of 8 that cost what a square costs; of classes the square, since photographs differ."""
    largest = _LARGEST.get(found.target, 96)
    height, width = found.size
    if found.target in ("class", "vector", "none"):
        return [min(largest, n - n % 8 or n) for n in found.size]
    scale = min(1.0, largest / math.sqrt(height * width))
    return [max(8, 8 * round(n * scale / 8)) if n >= 8 else n for n in found.size]


def _write_training() -> list[str]:
    return [
        *("", "[optimizer]", 'name = "adamw"', "lr = 2e-3"),
        *("", "[schedule]", "warmup = 0.1", 'decay = "cosine"'),
    ]


def _write_plugins(found: Findings) -> list[str]:
    """The method: the list that gained most for the kind of target in the project's own tables."""
    if not _TASKS[found.target][3]:
        return []
    stage = "encoder.stage3" if found.target in ("mask", "depth", "image") else "stage3"
    pool = "" if stage.startswith("encoder") else ', pool = "mean"'
    return [
        *_METHOD,
        *("[[plugins]]", 'use = "features" # the distance of a layer of each network'),
        *(f'links = [{{ student = "{stage}", teacher = "{stage}"{pool} }}]', "weight = 10"),
        *(
            "",
            "[[plugins]]",
            'use = "normalizer" # of the teacher\'s features',
            'kind = "layer"' if pool else 'kind = "batch"',
        ),
        *("", "[[plugins]]", "use = \"projector\" # of the student's to the teacher's width", 'kind = "linear"'),
    ]


def _from_recipe(path: Path, out: Path) -> str:
    """The path as the recipe names it: from its own folder on where it lies below, else absolute."""
    base, real = out.resolve().parent, path.resolve()
    return real.relative_to(base).as_posix() if real.is_relative_to(base) else str(real)


def _toml(value: Any) -> str:
    """A value in TOML, tables in one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").strip()
