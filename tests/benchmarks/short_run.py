"""Where the processor time of one short run goes: 4 epochs of 1,500 JPEGs on one thread, sampled from its start to its end.

``--images FOLDER`` takes an image folder with ``train`` and ``val`` in place of the one that is generated.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from _bench import report
from _commands import run_python, write_photographs

RECIPE = """
[run]
name = "short"
epochs = 4
device = "cpu"
threads = 1

[data]
name = {data}
limit = 1500
batch_size = 64
size = 32
transforms = [{{ use = "RandomCrop", size = 32, padding = 4 }}, {{ use = "RandomHorizontalFlip" }}]

[student]
model = "convnet"
args = {{ width = 16 }}

[teacher]
model = "convnet"
args = {{ width = 32 }}
random = true

[[plugins]]
use = "features"
links = [{{ student = "stage3", teacher = "stage3", pool = "mean" }}]

[[plugins]]
use = "normalizer"

[[plugins]]
use = "projector"

[[plugins]]
use = "logits"
"""

KINDS = {
    "imports": ("<frozen importlib",),
    "pictures": (
        "/matplotlib/",
        "/tasks/pictures.py",
        "/tasks/confusion.py",
        "/training/preview.py",
        "/training/answers.py",
    ),
    "checkpoints": ("/training/checkpoints.py", "/models/checkpoint_file.py"),
    "events": ("/tensorboard/", "/training/tensorboard.py", "/training/scalars.py"),
    "plugins": ("/stillhouse_",),
    "reading images": ("/PIL/", "/data/images.py", "/data/memory.py", "/data/statistics.py", "/data/inspection.py"),
    "augmentation": ("/torchvision/transforms/", "/data/augmentation.py", "/data/draws.py", "/data/samples.py"),
    "other work on data": ("/stillhouse/data/",),
    "models' arithmetic": ("/torch/nn/", "/torch/autograd/", "/torch/optim/", "/loop/tapped_model.py"),
    "the loop": ("/loop/", "/ignite/", "/assembly/", "/training/", "/registry/", "/contract/"),
}
"""By kind, what is in the path of one of the files that are at work; the first kind that fits has the time."""

SAMPLED = """
import gc, json, signal, sys, time
seconds, last = {}, time.process_time()

def note(_number, frame):
    global last
    now = time.process_time()
    files = set()
    while frame is not None:
        files.add(frame.f_code.co_filename)
        frame = frame.f_back
    key = "\\n".join(sorted(files))
    seconds[key] = seconds.get(key, 0.0) + now - last
    last = time.process_time()

signal.signal(signal.SIGPROF, note)
signal.setitimer(signal.ITIMER_PROF, 0.002, 0.002)
from stillhouse.cli import main
code = main(sys.argv[1:])
signal.setitimer(signal.ITIMER_PROF, 0)
assert code == 0
print(json.dumps(seconds))
gc.freeze()  # as the command ends
"""
"""Looks every 2 ms of processor time at what is at work; a call into C that takes longer has all of its time."""


def classify(files: str) -> str:
    """The kind of work that a stack of these ``files`` does."""
    for kind, parts in KINDS.items():
        if any(part in file for file in files.split("\n") for part in parts):
            return kind
    return "other"


def main() -> None:
    """Run, and print the table."""
    given = sys.argv[sys.argv.index("--images") + 1] if "--images" in sys.argv else None
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if given is None:
            write_photographs(folder / "photographs", train=1500, val=300, classes=10)
        data = "photographs" if given is None else str(Path(given).resolve())
        (folder / "short.toml").write_text(RECIPE.format(data=json.dumps(f"folder:{data}")))
        ended = run_python("-c", SAMPLED, "train", "short.toml", "--quiet", folder=folder)
    seconds: dict[str, float] = {}
    for files, spent in json.loads(ended.output.splitlines()[-1]).items():
        seconds[classify(files)] = seconds.get(classify(files), 0.0) + spent
    seconds["the interpreter's start and end"] = ended.processor - sum(seconds.values())
    order = sorted(seconds.items(), key=lambda item: -item[1])
    report(
        "Where a short run's time goes",
        ("kind of work", "processor time", "share"),
        [(kind, f"{spent:.2f} s", f"{spent / ended.processor:.0%}") for kind, spent in order],
        [
            f"One run of `stillhouse train`, {ended.processor:.1f} s: 4 epochs of 1,500 JPEGs of 48 pixels, read once, resized to 32,",
            "cropped and flipped; a small convolutional student and a teacher of twice its width; features, normalizer, projector and",
            "logits; validation, checkpoints, events and pictures as by default. A call has the first kind in the order of the script",
            "that any file at work belongs to; the backward pass of the plugins' terms is among the models' arithmetic.",
        ],
    )


if __name__ == "__main__":
    main()
