"""Images with a file for each one's target: what is paired, what is read, what is said when something is wrong."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from support.dense_files import DEPTHS, MASKS, load, masked, ranged, save, scene
from torch import Tensor

from stillhouse.config.structure import structure, unstructure
from stillhouse.data import Data, DataSpec
from stillhouse.errors import StillhouseError, StillhouseWarning
from stillhouse.tasks import Task


def fault_of(name: str, **options: Any) -> str:
    return "\n".join(faults_of(name, **options))


def faults_of(name: str, **options: Any) -> list[str]:
    with pytest.raises(StillhouseError) as caught:
        load(name, **options)
    return [str(fault) for fault in caught.value.faults]


def ids_of(data: Data, split: str) -> list[int]:
    return [int(i) for batch in data.evaluation(split) for i in batch.id]


@attrs.frozen(kw_only=True)
class Grey(Task):
    """Grey inputs with noise; the target is the mask's share of ignored pixels beside the mask."""

    takes = ("mask",)
    score = "x"

    def sample(self, image: Tensor, target: Any) -> tuple[Tensor, Any]:
        """See Task.sample."""
        assert image.dtype == torch.float32
        assert 0 <= float(image.min()) <= float(image.max()) <= 1
        return image.mean(0, keepdim=True) + torch.rand(1), target


# --- what is read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_masks_are_read_with_their_images(tmp_path: Path, cache: str, mode: str) -> None:
    name = masked(tmp_path)
    if mode == "P":
        for path in tmp_path.glob("*annot/*.png"):
            image = Image.open(path).copy()
            palette = Image.fromarray(np.asarray(image), mode="P")
            palette.putpalette([200, 10, 10] * 256)
            palette.save(path)
    data = load(name, args=MASKS, normalize="none", batch_size=4, cache=cache)
    info = data.info
    assert (info.target, info.classes, info.class_names) == ("mask", 3, ("sky", "road", "car"))
    assert (info.input_shape, info.target_shape, info.ignore) == ((3, 10, 12), (10, 12), 11)
    assert info.sizes == {"train": 6, "val": 6, "test": 6}
    assert [ids_of(data, split) for split in data.splits] == [list(range(6)), list(range(6, 12)), list(range(12, 18))]
    batch = next(iter(data.evaluation("val")))
    for k in range(4):
        image, mask = scene(100 + k)
        np.testing.assert_allclose(batch.input[k], image.transpose(2, 0, 1) / 255, atol=1e-7)
        assert np.array_equal(batch.target[k], mask)
    assert batch.target.dtype == torch.int64
    assert batch.target.shape == (4, 10, 12)


def test_depths_are_metres_and_holes_are_zero(tmp_path: Path) -> None:
    data = load(ranged(tmp_path), args=DEPTHS, normalize="none", batch_size=16)
    assert data.info.target == "depth"
    assert data.info.classes == 0
    assert data.info.sizes == {"train": 16, "val": 2, "test": 2}
    batch = next(data.training())
    assert batch.target.dtype == torch.float32
    assert batch.target.shape == (16, 1, 8, 10)
    stored = np.stack([np.asarray(Image.open(tmp_path / f"frame-{i:04}.depth.png")) for i in batch.id])
    expected = np.where(np.isin(stored, [0, 65535]), 0, stored.astype(np.float64) / 1000)
    np.testing.assert_allclose(batch.target[:, 0], expected, rtol=1e-6)
    assert (expected == 0).any()
    red = (batch.input[:, :1] * 255).round() / 10
    np.testing.assert_allclose(red, batch.target, atol=1e-5)  # the image's own
    by_default = load(ranged(tmp_path), args={k: v for k, v in DEPTHS.items() if k != "scale"}, batch_size=16)
    assert torch.equal(next(by_default.training()).target, batch.target)  # whole numbers are millimetres


def test_paired_images_and_images_alone(tmp_path: Path) -> None:
    name = masked(tmp_path)
    args = {"images": "{split}/*.png", "labels": "{split}annot/*.png", "target": "image"}
    data = load(name, args=args, normalize="none", batch_size=3)
    batch = next(iter(data.evaluation("test")))
    assert batch.target.shape == (3, 1, 10, 12)
    np.testing.assert_allclose(batch.target[1, 0], scene(201)[1] / 255, atol=1e-7)
    save(tmp_path / "trainannot" / "002.png", scene(2)[0])  # one colour image among grey ones
    assert load(name, args=args).info.target_shape == (3, 10, 12)
    alone = load(f"photos:{tmp_path}", args={"images": "{split}/*.png"}, batch_size=3)
    assert alone.info.target == "none"
    assert next(alone.training()).target is None
    assert alone.info.sizes == data.info.sizes


@pytest.mark.parametrize(
    ("images", "labels", "files"),
    [
        ("*.color.png", "*.depth.png", [("a-1.color.png", "a-1.depth.png")]),
        ("rgb/**/*.png", "seg/**/*_ids.png", [("rgb/x/1.png", "seg/x/1_ids.png"), ("rgb/y/1.png", "seg/y/1_ids.png")]),
        ("{split}/img/*.png", "{split}/seg/*.png", [("Train/img/1.png", "Train/seg/1.png")]),
        ("{split}/*.png", "all/*.png", [("train/1.png", "all/1.png"), ("validation/2.png", "all/2.png")]),
    ],
)
def test_what_the_wildcards_stand_for_pairs_files(
    tmp_path: Path, images: str, labels: str, files: list[tuple[str, str]]
) -> None:
    for k, (image, label) in enumerate(files):
        save(tmp_path / image, scene(k)[0])
        save(tmp_path / label, scene(k)[1])
    data = load(
        f"pairs:{tmp_path}", args={**MASKS, "images": images, "labels": labels}, normalize="none", val_fraction=0.0
    )
    batches = [next(iter(data.evaluation(split))) for split in data.splits]
    found = torch.cat([b.input[:, 0] for b in batches]).mul(255).round()
    assert len(found) == len(files)
    assert torch.equal(found, torch.cat([b.target for b in batches]) * 20.0)
    if "validation" in files[-1][0]:
        assert data.splits == ("train", "val")


def test_sizes_are_resized_together_and_no_value_is_made_up(tmp_path: Path) -> None:
    data = load(masked(tmp_path / "m"), args=MASKS, size=[5, 30], batch_size=6)
    batch = next(data.training())
    assert batch.input.shape == (6, 3, 5, 30)
    assert batch.target.shape == (6, 5, 30)
    assert set(batch.target.unique().tolist()) <= {0, 1, 2, 11}
    # Halved: the middle of two pixels, the greater one by convention; doubled: each pixel twice.
    tall = load(masked(tmp_path / "m"), args=MASKS, size=[20, 24], batch_size=6)
    for row, i in zip(next(tall.training()).target, next(tall.training()).id, strict=True):
        assert np.array_equal(row, scene(int(i))[1].repeat(2, 0).repeat(2, 1))
    depths = load(ranged(tmp_path / "d"), args=DEPTHS, size=[4, 20])
    values = next(depths.training()).target
    assert bool((values == 0).any())
    np.testing.assert_allclose(values * 10, (values * 10).round(), atol=1e-5)  # every depth was stored in 0.1 m


# --- the task's inputs and targets ---------------------------------------------------------------------------------


def test_a_task_makes_inputs_and_targets(tmp_path: Path) -> None:
    name = masked(tmp_path)
    data = load(name, task=Grey(), args=MASKS, batch_size=6)
    assert data.info.input_shape == (1, 10, 12)
    assert len(data.info.mean) == 1
    train = torch.cat([b.input for b in data.evaluation("train")]).double()
    assert abs(float(train.mean())) < 1e-6  # statistics are those of what the task makes
    assert abs(float(train.std(unbiased=False)) - 1) < 1e-5
    again, other = load(name, task=Grey(), args=MASKS, batch_size=6), load(name, 1, Grey(), args=MASKS, batch_size=6)
    one, two = (next(iter(d.evaluation("val"))) for d in (again, other))
    assert torch.equal(one.input, two.input)  # in evaluation by the sample alone
    assert not torch.equal(next(again.training()).input, next(other.training()).input)
    assert load(name, args=MASKS).info.fingerprint != data.info.fingerprint


def test_a_task_that_does_not_take_the_kind_is_refused(tmp_path: Path) -> None:
    assert fault_of(ranged(tmp_path), task=Grey(), args=DEPTHS) == (
        "task.name: Grey needs targets of kind 'mask', got 'depth' (another task, or other data)"
    )


def test_errors_of_a_task_name_the_sample(tmp_path: Path) -> None:
    class Broken(Grey):
        def sample(self, image: Tensor, target: Any) -> tuple[Tensor, Any]:
            raise ValueError("no such thing")

    text = fault_of(masked(tmp_path), task=Broken(), args=MASKS)
    assert text.startswith(f"task.name: Broken.sample fails on {tmp_path / 'train' / '000.png'}: ValueError: no such")


# --- the order of random numbers -----------------------------------------------------------------------------------

AUGMENT = (
    {"use": "RandomHorizontalFlip"},
    {"use": "RandomRotation", "degrees": 30},
    {"use": "ColorJitter", "brightness": 0.5},
    {"use": "RandomCrop", "size": [6, 8]},
)


@pytest.mark.parametrize("kind", ["mask", "depth"])
def test_batches_are_the_same_with_workers_and_after_a_resume(tmp_path: Path, kind: str) -> None:
    name = masked(tmp_path, n=9) if kind == "mask" else ranged(tmp_path, n=12)
    task = Grey() if kind == "mask" else None
    options: dict[str, Any] = {"args": MASKS if kind == "mask" else DEPTHS, "batch_size": 4, "transforms": AUGMENT}

    def batches(start: int, n: int, **more: Any) -> list[Any]:
        data = load(name, task=task, **options, **more)
        found = [batch for _, batch in zip(range(n), data.training(start), strict=False)]
        data.close()
        return found

    whole = batches(0, 8)
    assert not torch.equal(whole[0].target, whole[3].target)
    for start, more in ((5, {}), (0, {"workers": 2, "prefetch": 1}), (5, {"workers": 2, "cache": "none"})):
        for a, b in zip(whole[start:], batches(start, 8 - start, **more), strict=True):
            assert torch.equal(a.id, b.id)
            assert torch.equal(a.input, b.input)
            assert torch.equal(a.target, b.target)


# --- subsets, blocks, fingerprints ---------------------------------------------------------------------------------


def test_limits_are_nested_and_seeded(tmp_path: Path) -> None:
    name = ranged(tmp_path, n=30)
    few, more = (load(name, args=DEPTHS, limit=n) for n in (5, 9))
    assert few.info.sizes == {"train": 5, "val": 3, "test": 3}
    assert set(ids_of(few, "train")) < set(ids_of(more, "train")) < set(ids_of(load(name, args=DEPTHS), "train"))
    assert ids_of(load(name, 1, args=DEPTHS, limit=5), "train") != ids_of(few, "train")
    assert few.info.mean == load(name, args=DEPTHS).info.mean
    assert (
        fault_of(name, args=DEPTHS, limit=25)
        == "data.limit: must be at most the number of training samples, 24, got 25"
    )
    assert fault_of(name, args=DEPTHS, per_class=2).startswith(
        "data.per_class: needs targets of kind 'class', got 'depth'"
    )
    assert fault_of(name, args=DEPTHS, per_class=2, limit=3).startswith("limit: cannot be combined with `per_class`")


def test_blocks_keep_neighbours_apart(tmp_path: Path) -> None:
    name = ranged(tmp_path, n=40, size=(2, 2))
    plan = ["train", "val", "train", "test", "train"]
    data = load(name, args=DEPTHS, split=structure({"blocks": plan, "gap": 2}, _block(), "split"))
    ids = {split: ids_of(data, split) for split in data.splits}
    assert ids["val"] == list(range(8, 16))
    assert ids["test"] == list(range(24, 32))
    assert ids["train"] == [*range(6), *range(18, 22), *range(34, 40)]
    counted = load(name, args=DEPTHS, split=_block()(blocks=10, gap=1))
    assert {split: ids_of(counted, split) for split in ("val", "test")} == {
        "val": [8, 9, 10, 11],
        "test": [28, 29, 30, 31],
    }
    for split in ("val", "test"):
        near = {i + d for i in ids_of(counted, split) for d in (-1, 1)} - set(ids_of(counted, split))
        assert not near & set(ids_of(counted, "train"))
    assert counted.info.fingerprint != load(name, args=DEPTHS, split=_block()(blocks=10, gap=2)).info.fingerprint


def _block() -> Any:
    from stillhouse.config.data import BlockSplit

    return BlockSplit


def test_blocks_of_train_replace_the_datas_own_val(tmp_path: Path) -> None:
    name = masked(tmp_path, n=9)
    data = load(name, args=MASKS, split=_block()(blocks=("train", "train", "val"), gap=1))
    assert {split: ids_of(data, split) for split in data.splits} == {
        "train": [0, 1, 2, 3, 4],
        "val": [6, 7, 8],
        "test": list(range(18, 27)),
    }
    text = fault_of(name, args=MASKS, split=_block()(blocks=("train", "val", "test")))
    assert text.startswith("data.split.blocks: must be of train and val: the data has a test split of its own")
    assert "block 0 has 3, got gap = 3" in fault_of(
        name, args=MASKS, split=_block()(blocks=("train", "val", "train"), gap=3)
    )
    with pytest.raises(StillhouseError, match="must name train and val, got"):
        _block()(blocks=("train", "test", "train"))


def test_the_table_takes_blocks_and_gives_them_back() -> None:
    table = {"name": "pairs:x", "split": {"blocks": ["train", "val", "train"], "gap": 10}, "crop": [4, 6], "limit": 3}
    spec: DataSpec = structure(table, DataSpec, "data")
    assert spec.split == _block()(blocks=("train", "val", "train"), gap=10)
    assert spec.crop_height_and_width == (4, 6)
    assert structure(unstructure(spec), DataSpec, "data") == spec
    with pytest.raises(StillhouseError, match=r"data\.split\.blocks"):
        structure({"name": "pairs:x", "split": {"blocks": ["train", "vall"]}}, DataSpec, "data")


def test_the_fingerprint_follows_labels_and_options(tmp_path: Path) -> None:
    name = masked(tmp_path / "a")
    first = load(name, args=MASKS).info.fingerprint
    assert load(name, args=MASKS, workers=1, cache="none", prefetch=5).info.fingerprint == first
    others = [
        load(name, args=MASKS, size=8),
        load(name, args=MASKS, crop=8),
        load(name, args=MASKS, limit=3),
        load(name, args={**MASKS, "classes": ["a", "b", "c"]}),
    ]
    assert len({first, *(data.info.fingerprint for data in others)}) == 5
    (tmp_path / "a").rename(tmp_path / "b")
    moved = f"pairs:{tmp_path / 'b'}"
    assert load(moved, args=MASKS).info.fingerprint == first
    path = tmp_path / "b" / "valannot" / "003.png"
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert load(moved, args=MASKS).info.fingerprint == first  # a copy has other times
    save(path, scene(0)[1])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert load(moved, args=MASKS).info.fingerprint != first  # a mask belongs to the content


# --- what is wrong -------------------------------------------------------------------------------------------------


def test_faults_of_the_arguments(tmp_path: Path) -> None:
    name = masked(tmp_path)
    assert faults_of(name, args={"image": "*.png", "target": "masks"}) == [
        "data.args.image: unknown key 'image' (did you mean 'images'?)",
        'data.args.images: missing key (images = "{split}/*.jpg")',
        'data.args.labels: missing key (labels = "{split}annot/*.png")',
        "data.args.target: must be mask, depth or image, got 'masks'",
    ]
    without = {k: v for k, v in MASKS.items() if k != "classes"}
    assert "data.args.classes: mask targets need classes" in fault_of(name, args=without)
    assert "data.args.scale: needs a target of kind depth, got mask" in fault_of(name, args={**MASKS, "scale": 0.1})
    assert "data.args.ignore: must not be a class index, got 2" in fault_of(name, args={**MASKS, "ignore": 2})
    assert "data.args.ignore: must be a whole number, got '11'" in fault_of(name, args={**MASKS, "ignore": "11"})
    assert "'{split}/*.jpg' matches no file below" in fault_of(name, args={**MASKS, "images": "{split}/*.jpg"})
    assert "folder not found" in fault_of(f"pairs:{tmp_path / 'nowhere'}", args=MASKS)
    assert "must be a pattern with a *, got 'x.png'" in fault_of(name, args={**MASKS, "labels": "x.png"})
    assert "needs a split train, got val" in fault_of(
        name, args={**MASKS, "images": "{split}/000.p*g"} | _only_val(tmp_path)
    )


def _only_val(root: Path) -> dict[str, str]:
    save(root / "one" / "val" / "a.png", scene(0)[0])
    return {"images": "one/{split}/*.png", "labels": "one/{split}/*.png"}


def test_missing_partners_are_named_and_counted(tmp_path: Path) -> None:
    name = masked(tmp_path)
    for k in (1, 4):
        (tmp_path / "trainannot" / f"00{k}.png").unlink()
    (tmp_path / "val" / "005.png").unlink()
    assert faults_of(name, args=MASKS) == [
        "data.args.labels: 2 of 6 train images have no label: train/001.png, train/004.png "
        "(add them, or leave these out with --skip-bad)",
        "data.args.images: 1 of 6 val labels have no image: valannot/005.png (add them, or leave these out with --skip-bad)",
    ]
    with pytest.warns(StillhouseWarning, match=r"2 of 6 train images have no label: train/001.png"):
        data = load(name, args=MASKS, skip_bad=True)
    assert data.info.sizes == {"train": 4, "val": 5, "test": 6}
    none = {**MASKS, "labels": "{split}annot/0*.png"}
    assert "no image has a label (the wildcards" in fault_of(name, args=none)


def spoil(root: Path) -> list[str]:
    """Four bad samples, among them the first; how each one's fault begins."""
    path = root / "train" / "000.png"
    path.write_bytes(path.read_bytes()[:120])
    (root / "train" / "002.png").write_text("not an image")
    save(root / "valannot" / "001.png", scene(1)[1][:, :-1])
    wrong = scene(1)[1].copy()
    wrong[:2, 0] = (7, 200)
    save(root / "testannot" / "003.png", wrong)
    return [
        f"{path}: this image cannot be read: ",
        f"{root / 'train' / '002.png'}: this image cannot be read: ",
        f"{root / 'val' / '001.png'}: the mask {root / 'valannot' / '001.png'} must have its image's size, "
        "12x10 (width x height), got 11x10",
        f"{root / 'testannot' / '003.png'}: mask values must be class indices; 2 pixels are not: 7, 200 "
        "(classes are 0 to 2 and 11 is ignored",
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_named_and_counted(tmp_path: Path, workers: int) -> None:
    name = masked(tmp_path)
    said = spoil(tmp_path)
    faults = faults_of(name, args=MASKS, workers=workers)
    assert len(faults) == 4
    assert all(fault.startswith(start) for fault, start in zip(faults, said, strict=True))
    assert "--skip-bad" in faults[-1]
    (tmp_path / "test" / "005.png").write_bytes(b"")
    assert faults_of(name, args=MASKS)[-1].startswith(f"{tmp_path / 'test' / '005.png'}: this image cannot be read: ")


def test_a_bad_sample_that_is_met_in_a_run_says_how_to_go_on_without_it(tmp_path: Path) -> None:
    name = masked(tmp_path)
    data = load(name, args=MASKS, cache="none", workers=0)
    said = spoil(tmp_path)[2:]
    for split, start in zip(("val", "test"), said, strict=True):
        with pytest.raises(StillhouseError) as caught:
            ids_of(data, split)
        (fault,) = caught.value.faults
        assert start in str(fault)
        assert fault.hint.endswith("--skip-bad leaves such samples out")


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_skip_bad_leaves_them_out_with_one_warning(tmp_path: Path, cache: str) -> None:
    name = masked(tmp_path)
    spoil(tmp_path)
    with pytest.warns(StillhouseWarning) as caught:
        data = load(name, args=MASKS, skip_bad=True, cache=cache, limit=3, batch_size=2)
    (warning,) = caught
    text = str(warning.message)
    assert text.startswith("4 of 18 samples are left out: ")
    assert f"{tmp_path / 'train' / '002.png'}: this image cannot be read" in text
    assert data.info.sizes == {"train": 3, "val": 5, "test": 5}
    assert not {0, 2, 7, 15} & {i for split in data.splits for i in ids_of(data, split)}
    whole = set(ids_of(_quiet(name, cache=cache), "train"))
    assert whole == {1, 3, 4, 5}
    assert set(ids_of(data, "train")) < whole
    assert data.info.fingerprint != _quiet(name, cache=cache).info.fingerprint


def _quiet(name: str, **options: Any) -> Data:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StillhouseWarning)
        return load(name, args=MASKS, skip_bad=True, **options)


def test_a_set_without_a_usable_sample_says_so(tmp_path: Path) -> None:
    name = masked(tmp_path, n=3)
    for path in (tmp_path / "val").glob("*.png"):
        path.write_bytes(b"")
    faults = faults_of(name, args=MASKS, skip_bad=True)
    assert faults[0] == "data.skip_bad: no sample of the split 'val' can be used"
    assert "this image cannot be read" in faults[1]
    for path in (tmp_path / "train").glob("*.png"):
        path.write_bytes(b"")
    assert "none of the first 3 training samples can be used" in fault_of(name, args=MASKS, skip_bad=True)


def test_colour_masks_and_deep_ones_are_told_apart(tmp_path: Path) -> None:
    name = masked(tmp_path)
    save(tmp_path / "trainannot" / "001.png", scene(0)[0])
    assert "the mask must have one channel, got mode RGB (index images" in fault_of(name, args=MASKS)
    deep = {**MASKS, "classes": 300, "ignore": 65535}
    for path in tmp_path.glob("*annot/*.png"):
        save(path, np.full((10, 12), 299, dtype=np.uint16))
    assert int(next(load(name, args=deep).training()).target.max()) == 299
