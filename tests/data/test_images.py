"""Images are read as they are seen and whole: 16 bits, EXIF orientation, transparency."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from support.dense_files import MASKS, load, masked, save, scene
from support.odd_images import save_deep_png, save_deep_tiff, save_turned

from stillhouse.data.images import decode, look_at, open_image, to_tensor
from stillhouse.errors import StillhouseError, StillhouseWarning

GENERATOR = np.random.default_rng(0)


def deep(*shape: int) -> NDArray[np.uint16]:
    return GENERATOR.integers(0, 65536, shape).astype(np.uint16)


# --- 16 bits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bits_of_grey_are_read_whole(tmp_path: Path, suffix: str):
    values = deep(5, 7)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    read = decode(tmp_path / f"a.{suffix}")
    assert read.dtype == torch.float32
    np.testing.assert_array_equal((read[0].double() * 65535).round(), values)
    assert look_at([tmp_path / f"a.{suffix}"])[:2] == (True, True)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_of_colour_and_alpha_are_read_whole(tmp_path: Path, channels: int):
    values = deep(5, 7, channels)
    read = decode(save_deep_png(tmp_path / "a.png", values), background=51).double()
    expected = values.astype(np.float64) / 65535
    if channels in (2, 4):
        alpha = expected[..., -1:]
        expected = expected[..., :-1] * alpha + 0.2 * (1 - alpha)
    np.testing.assert_allclose(read, expected.transpose(2, 0, 1), atol=1e-6)
    assert look_at([tmp_path / "a.png"])[:2] == (channels < 3, True)


@pytest.mark.parametrize("compressed", [False, True])
def test_16_bits_of_colour_in_a_tiff_are_read_whole(tmp_path: Path, compressed: bool):
    values = deep(5, 7, 3)
    read = decode(save_deep_tiff(tmp_path / "a.tif", values, compressed)).double()
    np.testing.assert_array_equal((read * 65535).round(), values.transpose(2, 0, 1))


def test_16_bits_that_cannot_be_read_whole_are_refused(tmp_path: Path):
    path = save_deep_tiff(tmp_path / "a.tif", deep(5, 7, 4), extra=1)
    with pytest.raises(StillhouseError, match="its 16 bits a channel, stored as RGBX;16L, cannot be read whole"):
        decode(path)
    with pytest.raises(StillhouseError, match="PIL keeps 8 of this image's 16 bits a channel"):
        to_tensor(Image.open(save_deep_png(tmp_path / "a.png", deep(5, 7, 3))))
    Image.fromarray(np.zeros((3, 2), dtype=np.int32)).save(tmp_path / "b.tif")
    with pytest.raises(StillhouseError, match="have no defined range"):
        decode(tmp_path / "b.tif")


def test_12_bits_in_16_are_no_constant_inputs(tmp_path: Path):
    for k, name in enumerate("ab"):
        for i in range(20):
            save(tmp_path / name / f"{i}.png", GENERATOR.integers(40 * k, 40 * k + 200, (6, 6)).astype(np.uint16))
    data = load(f"folder:{tmp_path}")
    values = data.example(20).input * data.info.std[0] + data.info.mean[0]
    assert len(np.unique((values * 65535).round())) > 150
    assert data.info.input_shape == (1, 6, 6)


def test_arrays_of_16_bits_are_0_to_1():
    values = deep(4, 6, 3)
    expected = torch.from_numpy(values.astype(np.float64).transpose(2, 0, 1) / 65535).float()
    assert torch.allclose(to_tensor(values), expected, atol=1e-7)
    assert torch.allclose(to_tensor(torch.from_numpy(values.transpose(2, 0, 1).copy())), expected, atol=1e-7)


def test_images_of_8_bits_among_16_are_floats_too_and_the_other_way_round_they_are_refused(tmp_path: Path):
    for k in range(40):
        save(tmp_path / "a" / f"{k:02}.png", GENERATOR.integers(0, 256, (4, 4), dtype=np.uint8))
        save(tmp_path / "b" / f"{k:02}.png", deep(4, 4))
    with pytest.warns(
        StillhouseWarning, match="some of the images looked at below .* hold 8 bits a channel and some 16"
    ):
        data = load(f"folder:{tmp_path}", normalize="none")
    batch = data.example(64)
    assert float(batch.input.max()) <= 1
    a = np.asarray(Image.open(tmp_path / "a" / f"{int(batch.id[0]):02}.png"))
    np.testing.assert_allclose(batch.input[0, 0], a / 255, atol=1e-7)
    for k in range(40):
        save(tmp_path / "b" / f"{k:02}.png", GENERATOR.integers(0, 256, (4, 4), dtype=np.uint8))
    data = load(f"folder:{tmp_path}", val_fraction=0.0, cache="none")
    save(tmp_path / "a" / "01.png", deep(4, 4))
    with pytest.raises(StillhouseError, match="has 16 bits a channel, and those that were looked at have 8"):
        list(data.evaluation("train"))


# --- EXIF ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_an_image_is_turned_as_its_exif_data_say(tmp_path: Path, orientation: int, suffix: str):
    array = GENERATOR.integers(0, 256, (8, 16, 3), dtype=np.uint8)
    path = save_turned(tmp_path / f"a.{suffix}", array, orientation)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(decode(path), expected.transpose(2, 0, 1))
    with open_image(path) as image:
        assert image.size == expected.shape[1::-1]
    assert torch.equal(to_tensor(Image.open(path)), decode(path))


def test_what_a_data_set_has_converted_is_taken_as_it_is_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = [
        save_turned(tmp_path / f"{k}.png", GENERATOR.integers(0, 256, (8, 16, 3), dtype=np.uint8), 6) for k in range(20)
    ]
    assert to_tensor(Image.open(paths[0]).convert("RGB")).shape == (3, 8, 16)  # it may have been turned already
    module = types.ModuleType("sh_turned")
    vars(module)["plain"] = lambda: [(Image.open(path).convert("RGB"), k % 2) for k, path in enumerate(paths)]
    vars(module)["turned"] = lambda: [
        (ImageOps.exif_transpose(Image.open(path)).convert("RGB"), k % 2) for k, path in enumerate(paths)
    ]
    monkeypatch.setitem(sys.modules, "sh_turned", module)
    with pytest.warns(StillhouseWarning, match="images of sh_turned:plain were to be turned by their EXIF orientation"):
        assert load("sh_turned:plain").info.input_shape == (3, 8, 16)
    assert load("sh_turned:turned").info.input_shape == (3, 16, 8)


def test_a_mask_fits_the_turned_image(tmp_path: Path):
    name = masked(tmp_path)
    image, mask = scene(3)
    save_turned(tmp_path / "train" / "003.png", np.rot90(image, 1).copy(), 6)
    data = load(name, args=MASKS, normalize="none", batch_size=6)
    batch = next(iter(data.evaluation("train")))
    assert torch.equal((batch.input[3, 0] * 255).round(), batch.target[3] * 20.0)
    save(tmp_path / "trainannot" / "003.png", np.rot90(mask, 1).copy())
    with pytest.raises(StillhouseError, match=r"got 10x12 \(images are turned by their EXIF orientation"):
        load(name, args=MASKS)


# --- transparency --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("background", [255, 0, 100])
def test_transparent_pixels_are_laid_on_the_background(tmp_path: Path, mode: str, background: int):
    array = GENERATOR.integers(0, 256, (6, 7, len(mode)), dtype=np.uint8)
    array[:2, :, -1], array[2:4, :, -1] = 0, 255
    Image.fromarray(array).save(tmp_path / "a.png")
    read = decode(tmp_path / "a.png", background).numpy().transpose(1, 2, 0)
    alpha = array[..., -1:] / 255
    np.testing.assert_allclose(read, array[..., :-1] * alpha + background * (1 - alpha), atol=1.0)
    assert (read[:2] == background).all()  # whatever colour is hidden there
    np.testing.assert_array_equal(read[2:4], array[2:4, :, :-1])


def test_a_colour_or_level_that_stands_for_no_paint_is_transparent(tmp_path: Path):
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8), mode="P")
    palette.putpalette([200, 10, 10, 20, 30, 40])
    palette.save(tmp_path / "p.png", transparency=1)
    palette.save(tmp_path / "p.gif", transparency=1)
    for path in (tmp_path / "p.png", tmp_path / "p.gif"):
        assert decode(path)[:, 0].tolist() == [[200, 255], [10, 255], [10, 255]]
    Image.fromarray(np.array([[0, 1000], [3, 4]], dtype=np.uint16)).save(tmp_path / "g.png", transparency=1000)
    assert (decode(tmp_path / "g.png")[0] * 65535).round().tolist() == [[0, 65535], [3, 4]]


def test_drawings_whose_colour_is_in_alpha_are_seen(tmp_path: Path):
    for name, size in (("a", 4), ("b", 6)):  # squares and bars
        for i in range(20):
            array = np.zeros((16, 16, 4), dtype=np.uint8)
            array[size : 16 - size, 4:12, 3] = 255
            save(tmp_path / name / f"{i}.png", array)
    data = load(f"folder:{tmp_path}", normalize="none")
    assert data.example(2).input.unique().tolist() == [0.0, 1.0]
    black = load(f"folder:{tmp_path}", normalize="none", background=200)
    assert black.info.fingerprint != data.info.fingerprint
    with pytest.raises(StillhouseError, match=r"background: must be in \[0, 255\], got 256"):
        load(f"folder:{tmp_path}", background=256)


def test_several_pictures_in_a_file_are_said(tmp_path: Path):
    for name in "ab":
        for i in range(20):
            save(tmp_path / name / f"{i}.gif", GENERATOR.integers(0, 256, (4, 4), dtype=np.uint8))
    frames: list[Any] = [Image.fromarray(GENERATOR.integers(0, 256, (4, 4), dtype=np.uint8)) for _ in range(3)]
    frames[0].save(tmp_path / "a" / "0.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(
        StillhouseWarning, match="1 of the images looked at below .* hold several pictures: the first is"
    ):
        load(f"folder:{tmp_path}", val_fraction=0.0)
