"""``predict`` reads an image as training does: turned, laid on the run's background, with all its bits, cut to the middle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.dense_files import save
from support.odd_images import save_turned
from torchvision.transforms.v2 import functional as F

from stillhouse import Recipe, StillhouseError, load_student, train
from stillhouse.students.prediction import predict


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("odd")
    generator = np.random.default_rng(0)
    for k, name in enumerate("ab"):
        for i in range(20):
            save(root / "set" / name / f"{i}.png", generator.integers(0, 128 + 127 * k, (8, 8), dtype=np.uint8))
    tables = {
        "run": {"epochs": 1, "threads": 1},
        "data": {"name": f"folder:{root / 'set'}", "background": 40},
        "student": {"model": "stillhouse.models:convnet", "args": {"width": 2}},
    }
    train(Recipe.from_dict(tables), plugins=[], out=root / "run")
    return root / "run"


def test_an_image_is_predicted_as_it_is_seen(run: Path, tmp_path: Path):
    seen = np.random.default_rng(1).integers(0, 256, (8, 8), dtype=np.uint8)
    seen[:3] = 40
    hidden = np.stack([seen, np.full_like(seen, 255)], 2)
    hidden[:3] = (200, 0)  # a level under pixels that nobody sees
    files = [
        save(tmp_path / "plain.png", seen),
        save_turned(tmp_path / "turned.png", np.rot90(seen, 1).copy(), 6),
        tmp_path / "alpha.png",
        save(tmp_path / "deep.png", seen.astype(np.uint16) * 257),
    ]
    Image.fromarray(hidden).save(files[2])
    said = [found.prediction for found in predict(run, files, out=None)]
    assert said[1:] == [said[0]] * 3


@pytest.mark.parametrize(("size", "resized"), [([20, 16], [20, 16]), (None, [24, 30])])
def test_an_image_is_cut_as_evaluation_cuts_it(size: list[int] | None, resized: list[int], tmp_path: Path):
    generator = np.random.default_rng(0)
    for name in "ab":
        for i in range(8):
            save(tmp_path / "set" / name / f"{i}.png", generator.integers(0, 256, (24, 30), dtype=np.uint8))
    shape = {"crop": 12} if size is None else {"crop": 12, "size": size}
    tables = {
        "run": {"epochs": 1, "threads": 1},
        "data": {"name": f"folder:{tmp_path / 'set'}", "normalize": "none", **shape},
        "student": {"model": "stillhouse.models:convnet", "args": {"width": 4}},
    }
    train(Recipe.from_dict(tables), plugins=[], out=tmp_path / "run")
    image = torch.from_numpy(np.array(Image.open(tmp_path / "set" / "a" / "0.png")))[None]
    middle = F.center_crop(F.resize(image, resized, antialias=True), [12, 12])
    with torch.no_grad():
        wanted = load_student(tmp_path / "run")(middle[None] / 255)[0].softmax(0)
    (found,) = predict(tmp_path / "run", [tmp_path / "set" / "a" / "0.png"], out=None)
    said = {each["class"]: each["probability"] for each in found.prediction["top"]}
    assert [said[name] for name in "ab"] == pytest.approx(wanted.tolist(), abs=1e-4)
    assert found.size == (12, 12)
    if size is None:  # what evaluation refuses as well
        small = save(tmp_path / "small.png", generator.integers(0, 256, (10, 30), dtype=np.uint8))
        with pytest.raises(StillhouseError, match=r"small.png: the image must be at least crop = \[12, 12\]"):
            predict(tmp_path / "run", [small], out=None)
