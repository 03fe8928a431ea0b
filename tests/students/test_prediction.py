"""`stillhouse predict`: the same answer as the student's, whatever the file's channels; pictures; bad input named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from support import TESTS, recipe
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from stillhouse import StillhouseError, load_student, train
from stillhouse.cli import main
from stillhouse.students.prediction import predict
from stillhouse.tasks import Classification


def bytes_data() -> dict[str, TensorDataset]:
    """Grey images of uint8 (1, 6, 6), three classes by brightness."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(24) % 3
    noise = torch.randint(0, 60, (24, 1, 6, 6), generator=generator)
    images = (noise + 80 * labels[:, None, None, None]).to(torch.uint8)
    return {"train": TensorDataset(images, labels), "val": TensorDataset(images[:9], labels[:9])}


@attrs.frozen(kw_only=True)
class Told(Classification):
    """Says the logits, and draws the input's first channel."""

    def figures(self, data: Any, inputs: Any, output: Any, targets: Any) -> dict[str, Any]:
        return {}

    def prediction(self, data: Any, output: Any) -> dict[str, Any]:
        return {"logits": output.tolist()}

    def picture(self, data: Any, image: Tensor, output: Any) -> Image.Image:
        return Image.fromarray((image[0].numpy() * 255).round().astype(np.uint8))


@attrs.frozen(kw_only=True)
class Silent(Told):
    """Says nothing."""

    score: ClassVar[str] = "accuracy"

    def prediction(self, data: Any, output: Any) -> dict[str, Any]:
        raise NotImplementedError


class Flat(nn.Sequential):
    """Takes images of 6x6 only."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__(nn.Flatten(), nn.Linear(36, num_classes))


def photographs() -> dict[str, list[tuple[Tensor, None]]]:
    """Noise of uint8 (1, 18, 18)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, 1, 18, 18), generator=generator).to(torch.uint8)
    return {"train": [(image, None) for image in images], "val": [(image, None) for image in images[:4]]}


class Enlarging(nn.Sequential):
    """A picture ``factor`` times as large."""

    def __init__(self, num_classes: int, factor: int) -> None:
        super().__init__(nn.Conv2d(1, num_classes * factor**2, 1), nn.PixelShuffle(factor))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "told"
    torch.set_num_threads(1)
    data = {"name": "test_prediction:bytes_data", "batch_size": 8}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(TESTS)
        patch.syspath_prepend(str(TESTS / "students"))
        train(recipe(data=data, task={"name": "test_prediction:Told"}), out=folder)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Two of the data's images as PNG, the second in colour."""
    found = [tmp_path / "a.png", tmp_path / "b.png"]
    arrays = bytes_data()["train"].tensors[0][:2, 0].numpy()
    Image.fromarray(arrays[0]).save(found[0])
    Image.fromarray(np.repeat(arrays[1][:, :, None], 3, axis=2)).save(found[1])
    return found


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TESTS)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.syspath_prepend(str(TESTS / "students"))


def test_it_says_what_the_student_says(trained: Path, images: list[Path], tmp_path: Path):
    info = json.loads((trained / "lock.json").read_text())["data_info"]
    grey, colour = (torch.from_numpy(np.array(Image.open(path))) for path in images)
    assert colour.shape == (6, 6, 3)
    # By torchvision's weights, in whole levels: three equal channels may lose one level of 255.
    weighted = (colour.double() * torch.tensor([0.2989, 0.587, 0.114])).sum(2).floor()
    raw = torch.stack([grey.double(), weighted])[:, None] / 255
    x = ((raw - info["mean"][0]) / info["std"][0]).float()
    with torch.no_grad():
        wanted = load_student(trained)(x).double().numpy()
    found = predict(trained, images, out=tmp_path / "out")
    np.testing.assert_allclose([f.prediction["logits"] for f in found], wanted, atol=1e-5)
    for file, row in zip(("a", "b"), raw, strict=True):
        drawn = np.asarray(Image.open(tmp_path / "out" / f"{file}.png"))
        np.testing.assert_array_equal(drawn, (row[0] * 255).round().numpy())


def test_one_name_in_two_folders_gives_two_pictures(trained: Path, images: list[Path], tmp_path: Path):
    (tmp_path / "more").mkdir()
    other = tmp_path / "more" / "a.png"
    other.write_bytes(images[1].read_bytes())
    found = predict(trained, [images[0], other], out=tmp_path / "out")
    assert [Path(f.picture or "").name for f in found] == ["a.png", "a-2.png"]


def test_sizes(trained: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (big := Image.open(images[0]).resize((12, 9))).save(tmp_path / "big.png")
    assert big.size == (12, 9)
    (own,) = predict(trained, [tmp_path / "big.png"], out=None)
    assert own.size == (9, 12)  # the run's recipe has no size, and its student takes any
    assert own.picture is None
    (resized,) = predict(trained, [tmp_path / "big.png"], out=None, size=(6, 6))
    assert resized.size == (6, 6)
    assert resized.prediction != own.prediction
    assert main(["predict", str(trained), str(tmp_path / "big.png"), "--size", "7", "--json", "--no-pictures"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["size"] == [7, 7]


def test_a_recipes_size_is_kept_unless_told_otherwise(images: list[Path], tmp_path: Path):
    data = {"name": "test_prediction:bytes_data", "batch_size": 8, "size": [8, 10]}
    train(recipe(data=data, task={"name": "test_prediction:Told"}, run__epochs=1), out=tmp_path / "run")
    assert predict(tmp_path / "run", images[:1], out=None)[0].size == (8, 10)
    assert predict(tmp_path / "run", images[:1], out=None, own_size=True)[0].size == (6, 6)


def test_a_student_that_takes_one_size_says_which(images: list[Path], tmp_path: Path):
    data = {"name": "test_prediction:bytes_data", "batch_size": 8}
    student = {"model": "test_prediction:Flat"}
    train(
        recipe(data=data, student=student, task={"name": "test_prediction:Told"}, run__epochs=1), out=tmp_path / "run"
    )
    Image.new("L", (9, 9)).save(tmp_path / "nine.png")
    with pytest.raises(StillhouseError, match=r"nine.png: the student fails on this image of 9x9.*--size 6x6"):
        predict(tmp_path / "run", [tmp_path / "nine.png"], out=None)


class Normed(nn.Module):
    """Normalises maps of a third of the size: those of a single position cannot be."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.AvgPool2d(3), nn.InstanceNorm2d(1), nn.AdaptiveAvgPool2d(2))
        self.head = nn.Linear(4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1))


def test_images_that_the_student_does_not_take_are_all_named_and_no_picture_is_written(
    images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = {"name": "test_prediction:bytes_data", "batch_size": 8}
    student = {"model": "test_prediction:Normed"}
    train(
        recipe(data=data, student=student, task={"name": "test_prediction:Told"}, run__epochs=1), out=tmp_path / "run"
    )
    for size in (3, 4):
        Image.new("L", (size, size)).save(tmp_path / f"{size}.png")
    given = [str(path) for path in (images[0], tmp_path / "3.png", images[1], tmp_path / "4.png")]
    words = ["predict", str(tmp_path / "run"), *given, "--out", str(tmp_path / "out")]
    assert main(words) == 2
    printed = capsys.readouterr()
    assert [line.split(": ")[1] for line in printed.err.splitlines()] == [given[1], given[3]]
    assert "fails on this image of 3x3: Expected more than 1 spatial element" in printed.err
    assert printed.out == ""
    assert not (tmp_path / "out").exists()
    assert main([*words, "--size", "6"]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_pictures_that_cannot_all_be_written_leave_none(
    trained: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if "b." in self.name:
            raise OSError("no space left")
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StillhouseError, match=r"b\.png: cannot be written: no space left"):
        predict(trained, images, out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_all_images_are_read_before_any_is_looked_at(
    trained: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "cut.png").write_bytes(images[0].read_bytes()[:40])
    bad = [str(tmp_path / "cut.png"), str(tmp_path / "none.png")]
    code = main(["predict", str(trained), str(images[0]), *bad, "--out", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert code == 2
    assert [line.split(": ")[1] for line in printed.err.splitlines()] == bad
    assert printed.out == ""
    assert not (tmp_path / "out").exists()


def test_pictures_are_not_written_over_unless_told(trained: Path, images: list[Path], tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_text("precious")
    with pytest.raises(StillhouseError, match=r"a.png: the picture exists already .--force"):
        predict(trained, images, out=tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.png"]
    predict(trained, images, out=tmp_path / "out", force=True)
    assert Image.open(tmp_path / "out" / "a.png").size == (6, 6)


def test_a_table_for_the_terminal(
    trained: Path, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["predict", str(trained), *map(str, images), "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out
    assert "logits" in text
    assert str(tmp_path / "out" / "b.png") in text


@pytest.mark.parametrize("upscale", [True, False])
def test_a_picture_made_of_an_image_has_a_size_of_its_own(
    upscale: bool, images: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = {"name": "test_prediction:photographs", "args": {"target": "none"}, "batch_size": 8, "normalize": "none"}
    whole = recipe(
        data=data,
        task={"name": "super-resolution", "args": {"factor": 3, "upscale": upscale}},
        student={"model": "test_prediction:Enlarging", "args": {"factor": 1 if upscale else 3}},
        run__epochs=1,
    )
    train(whole, out=tmp_path / "run")
    Image.fromarray(np.zeros((8, 9), dtype=np.uint8)).save(tmp_path / "small.png")
    (said,) = predict(tmp_path / "run", [tmp_path / "small.png"], out=None)
    assert (said.size, said.prediction["output_size"]) == ((8, 9), [24, 27])
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "small.png"), "--no-pictures"]) == 0
    title, *rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert title == ["image", "size", "output_size", "mean"]
    assert ["8x9", "24,", "27"] in [row[1:4] for row in rows]


def test_the_engines_own_classification(tmp_path: Path, images: list[Path]):
    data = {"name": "test_prediction:bytes_data", "batch_size": 8}
    train(recipe(data=data, run__epochs=1), out=tmp_path / "run")
    (said,) = predict(tmp_path / "run", images[:1], out=tmp_path / "out")
    assert said.prediction["class"] in ("0", "1", "2")
    if said.picture is not None:
        assert Image.open(said.picture).size[0] > 6


def test_a_task_without_words_says_so(tmp_path: Path, images: list[Path]):
    data = {"name": "test_prediction:bytes_data", "batch_size": 8}
    train(recipe(data=data, task={"name": "test_prediction:Silent"}, run__epochs=1), out=tmp_path / "run")
    with pytest.raises(StillhouseError, match="Silent has no method `prediction`"):
        predict(tmp_path / "run", images, out=None)


def test_a_folder_that_cannot_be_made(trained: Path, images: list[Path], tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StillhouseError, match=r"must be a folder, got .*file, a file"):
        predict(trained, images, out=tmp_path / "file" / "pictures")
    with pytest.raises(StillhouseError, match="cannot be written"):
        predict(trained, images, out="/proc/pictures")
