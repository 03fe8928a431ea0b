"""An exported program gives the run's answers on raw images, by what its metadata say of them and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stillhouse import Recipe, export, train
from stillhouse.students.prediction import predict

CLASSES = ("dark", "light", "striped")


def save(file: Path, k: int) -> None:
    """An image of one of three kinds, of a size of its own: now grey, now with transparent pixels."""
    rng = np.random.default_rng(k)
    height, width = rng.integers(24, 60, 2)
    pixels = rng.integers(0, 90, (height, width, 3))
    if k % 3 == 1:
        pixels += 130
    if k % 3 == 2:
        pixels[::6] = pixels[1::6] = 250
    picture = Image.fromarray(pixels.astype(np.uint8))
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.convert("L" if k % 10 == 0 else "RGB").save(file)


def prepared(file: Path, how: dict[str, Any]) -> np.ndarray:
    """The program's input (1, C, H, W), by PIL and numpy alone."""
    with Image.open(file) as picture:
        if how["channels"] == "grey" and picture.mode != "L":
            assert how["grey"]["rounded"] == "down"
            weighted = np.asarray(picture.convert("RGB"), dtype=np.float64) @ how["grey"]["of_rgb"]
            picture = Image.fromarray(np.floor(weighted).astype(np.uint8))
        picture = picture.convert({"RGB": "RGB", "grey": "L"}[how["channels"]])
        if how["resize"] is not None:
            assert how["resize"]["interpolation"] == "bilinear"
            assert how["resize"]["antialias"]
            height, width = how["resize"]["size"]
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)  # PIL's is antialiased
        if how["center_crop"] is not None:
            height, width = how["center_crop"]
            left, top = (picture.width - width + 1) // 2, (picture.height - height + 1) // 2
            picture = picture.crop((left, top, left + width, top + height))
        x = np.asarray(picture, dtype=np.float32) / 255
    x = x[None] if x.ndim == 2 else x.transpose(2, 0, 1)
    if how["mean"]:
        x = (x - np.float32(how["mean"])[:, None, None]) / np.float32(how["std"])[:, None, None]
    return x[None].astype(how["dtype"])


@pytest.mark.parametrize(
    ("data", "inside"),
    [
        ({"size": 24}, False),
        ({"size": [32, 28], "crop": 24}, True),
        ({"size": 24, "channels": 1, "normalize": "none"}, False),
    ],
)
def test_a_hundred_raw_images_get_the_runs_answers(data: dict[str, Any], inside: bool, tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    for k in range(60):
        save(tmp_path / "images" / CLASSES[k % 3] / f"{k}.png", k)
    files = [tmp_path / "new" / f"{k}.png" for k in range(100)]
    for k, file in enumerate(files):
        save(file, 1000 + k)
    tables = {
        "run": {"epochs": 6, "figures": False},
        "data": {"name": f"folder:{tmp_path / 'images'}", "batch_size": 16, "channels": 3, **data},
        "student": {"model": "convnet", "args": {"width": 8}},
        "optimizer": {"lr": 1e-2},
    }
    train(Recipe.from_dict(tables), out=tmp_path / "run")
    export(tmp_path / "run", tmp_path / "student.onnx", with_preprocessing=inside)
    props = onnx.load(tmp_path / "student.onnx").metadata_props
    told = json.loads(next(p.value for p in props if p.key == "stillhouse"))
    session = runtime.InferenceSession(tmp_path / "student.onnx", providers=["CPUExecutionProvider"])
    answers = [session.run(None, {"input": prepared(file, told["preprocessing"])})[0].argmax() for file in files]
    names = [told["class_names"][int(answer)] for answer in answers]
    assert len(set(names)) == 3, "a student that says one class would pass whatever its inputs"
    assert names == [found.prediction["class"] for found in predict(tmp_path / "run", files, out=None)]
