"""Augmentation of whole batches: what it computes, that it repeats, and what it is refused with."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import support
import torch
import torchvision.transforms.v2 as v2
from support import recipe
from torch import Tensor
from torch.utils.data import TensorDataset

from stillhouse import StillhouseError, prepare
from stillhouse.data import Batch, DataInfo
from stillhouse.data.batch_transforms import BatchTransforms, build_batch_transforms, transform_batches
from stillhouse.tasks import Classification

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def info(**changes: Any) -> DataInfo:
    given: dict[str, Any] = {
        "classes": 3,
        "class_names": ("a", "b", "c"),
        "input_shape": (3, 8, 8),
        "sizes": {"train": 6},
        "fingerprint": "",
        "mean": MEAN,
        "std": STD,
    }
    return DataInfo(**{**given, **changes})


def batch(n: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(n, 3, 8, 8, generator=generator)
    return Batch(_normalised(images), torch.arange(n) % 3, torch.arange(n))


def _normalised(images: Tensor) -> Tensor:
    return (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def build(*tables: dict[str, Any], seed: int = 0, **changes: Any) -> BatchTransforms:
    return build_batch_transforms(tables, info(**changes), seed, batch)


def test_mixup_is_zhangs_mixture_of_images_and_of_labels():
    given, out = batch(), build({"use": "MixUp", "alpha": 0.4})(batch(), 3, 1)
    x, before = given.input.double(), given.input.double().roll(1, 0)
    # lam from one pixel; then everything must be that mixture.
    lam = ((out.input.double() - before) / (x - before))[0, 0, 0, 0]
    assert 0 < lam < 1
    torch.testing.assert_close(out.input.double(), lam * x + (1 - lam) * before, rtol=1e-4, atol=1e-5)
    labels = np.eye(3)[given.target.numpy()]
    expected = lam.item() * labels + (1 - lam.item()) * np.roll(labels, 1, axis=0)
    np.testing.assert_allclose(out.target.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(out.id, given.id)
    assert given.target.dtype == torch.int64, "what was given stays"


def test_cutmix_pastes_one_box_and_weighs_labels_by_its_area():
    given = batch()
    found = set()
    for index in range(12):
        out = build({"use": "CutMix"})(given, 0, index)
        pasted = (out.input == given.input.roll(1, 0)).all(1) & (out.input != given.input).any(1)
        kept = (out.input == given.input).all(1)
        assert bool((pasted | kept).all())
        share = pasted.double().mean((1, 2))
        assert bool((share == share[0]).all()), "one box for the whole batch"
        labels = torch.eye(3, dtype=torch.float64)[given.target]
        expected = (1 - share[:, None]) * labels + share[:, None] * labels.roll(1, 0)
        torch.testing.assert_close(out.target.double(), expected, rtol=1e-5, atol=1e-6)
        found.add(float(share[0]))
    assert len(found) > 3


def test_the_soft_labels_loss_is_the_mixture_of_losses():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    out = build({"use": "MixUp"})(batch(), 0, 0)
    lam = float(out.target[0].max()) if float(out.target[0, 0]) > 0.5 else float(out.target[0, 0])
    task = Classification()
    hard = [torch.nn.functional.cross_entropy(logits, t) for t in (batch().target, batch().target.roll(1, 0))]
    expected = lam * hard[0] + (1 - lam) * hard[1]
    assert float(task.loss(logits, out.target)) == pytest.approx(float(expected), rel=1e-5)
    wider = torch.cat([logits, torch.full((6, 2), -1e4)], dim=1)  # a model with more outputs than there are classes
    assert float(task.loss(wider, out.target)) == pytest.approx(float(expected), rel=1e-5)


def test_a_flip_turns_the_whole_batch_or_none():
    flip = build({"use": "RandomHorizontalFlip"})
    turned = []
    for index in range(16):
        out = flip(batch(), 0, index).input
        assert torch.equal(out, batch().input) or torch.equal(out, batch().input.flip(-1))
        turned.append(torch.equal(out, batch().input.flip(-1)))
    assert 3 < sum(turned) < 13


def test_images_are_0_to_1_for_transforms_that_change_them():
    seen = []

    class Look(v2.Transform):
        def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
            seen.append(inpt.clone())
            return inpt

    made = BatchTransforms([("Look", Look())], info(), 0)
    out = made(batch(), 0, 0)
    assert 0.0 <= float(seen[0].min()) < float(seen[0].max()) <= 1.0
    torch.testing.assert_close(out.input, batch().input, rtol=1e-5, atol=1e-5)
    posterized = build({"use": "RandomPosterize", "bits": 1, "p": 1.0})(batch(), 0, 0).input
    levels = (posterized * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]).mul(255).round()
    assert set(levels.unique().tolist()) == {0.0, 128.0}


def test_erasing_blackens_one_rectangle_of_all_images():
    out = build({"use": "RandomErasing", "p": 1.0, "scale": [0.2, 0.3]})(batch(), 0, 0).input
    black = torch.isclose(out, _normalised(torch.zeros(6, 3, 8, 8)), atol=1e-5).all(1)
    assert bool((black == black[0]).all())
    rows, columns = black[0].any(1), black[0].any(0)
    assert bool((black[0] == rows[:, None] & columns[None, :]).all())
    assert 0.1 < float(black[0].float().mean()) < 0.4


ALL = ({"use": "RandAugment"}, {"use": "RandomErasing", "value": "random"}, {"use": "MixUp"}, {"use": "CutMix"})


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.input, b.input) and torch.equal(a.target, b.target)


def test_randomness_follows_from_seed_epoch_and_batch_alone():
    made = build(*ALL)
    first = made(batch(), 2, 5)
    torch.rand(7), np.random.rand(3), random.random()
    assert same(made(batch(), 2, 5), first)
    assert same(build(*ALL)(batch(), 2, 5), first), "whatever was drawn before"
    others = [made(batch(), 2, 4), made(batch(), 5, 2), build(*ALL, seed=1)(batch(), 2, 5)]
    assert not any(same(other, first) for other in others)


def test_the_global_generators_go_on_as_if_nothing_had_been_drawn():
    made = build(*ALL)
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())
    made(batch(), 0, 0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_the_stream_goes_on_from_any_step():
    made = build(*ALL)
    stream = [batch() for _ in range(7)]
    whole = list(transform_batches(stream, made, torch.device("cpu"), 0, 3))
    later = list(transform_batches(stream[4:], made, torch.device("cpu"), 4, 3))
    assert all(same(a, b) for a, b in zip(whole[4:], later, strict=True))
    assert not same(whole[0], whole[3]), "the same batch in another epoch is another one"


def test_masks_move_with_their_images():
    images = torch.rand(4, 2, 8, 8)
    masks = (images[:, 0] > 0.5).long()
    made = build_batch_transforms(
        [{"use": "RandomHorizontalFlip", "p": 1.0}, {"use": "RandomVerticalFlip", "p": 1.0}],
        info(target="mask"),
        0,
        lambda: Batch(images, masks, torch.arange(4)),
    )
    out = made(Batch(images, masks, torch.arange(4)), 0, 0)
    assert torch.equal(out.input, images.flip(-1, -2))
    assert torch.equal(out.target, masks.flip(-1, -2))
    assert out.target.dtype == torch.int64
    assert type(out.input) is type(out.target) is Tensor


@pytest.mark.parametrize(
    "table",
    [
        {"use": "MixUp"},
        {"use": "CutMix"},
        {"use": "RandomErasing", "p": 1.0},
        {"use": "RandomHorizontalFlip", "p": 1.0},
        {"use": "ColorJitter", "brightness": 0.5},
    ],
)
def test_no_value_of_the_batch_is_read(table: dict[str, Any]):
    """On torch's meta device tensors have shapes and no values: reading one raises."""
    given = batch()
    hollow = Batch(given.input.to("meta"), given.target.to("meta"), given.id)
    out = build(table)(hollow, 0, 0)
    assert out.input.device.type == "meta"
    assert out.input.shape == given.input.shape


MIX = [{"use": "MixUp", "alpha": 0.2}, {"use": "RandomHorizontalFlip"}]


def refused(*tables: dict[str, Any], **changes: Any) -> dict[str, str]:
    with pytest.raises(StillhouseError) as caught:
        build(*tables, **changes)
    return {f.where: str(f) for f in caught.value.faults}


def test_every_table_that_cannot_be_used_is_said_at_once():
    found = refused(
        {"use": "MixUp", "alpha": 0},
        {"use": "CutMx"},
        {"alpha": 1.0},
        {"use": "MixUp", "num_classes": 10},
        {"use": "RandomErasing", "q": 1},
        {"use": "RandomHorizontalFlip"},
    )
    prefix = "data.batch_transforms"
    assert set(found) == {
        f"{prefix}[0].alpha",
        f"{prefix}[1].use",
        f"{prefix}[2].use",
        f"{prefix}[3].num_classes",
        f"{prefix}[4].q",
    }
    assert "did you mean 'CutMix'" in found[f"{prefix}[1].use"]


@pytest.mark.parametrize("kind", ["mask", "depth", "image", "vector"])
def test_only_classes_are_mixed(kind: str):
    assert f"needs targets of kind 'class', got {kind!r}" in refused({"use": "MixUp"}, target=kind).popitem()[1]


@pytest.mark.filterwarnings("ignore:.*Normalize changes what is trained on")
def test_transforms_that_do_not_suit_are_refused_before_training(monkeypatch):
    cropped = refused({"use": "CenterCrop", "size": 4})["data.batch_transforms[0]"]
    assert "became torch.float32 (6, 3, 4, 4)" in cropped
    assert "fails on a batch" in refused({"use": "Normalize", "mean": [0.0] * 2, "std": [1.0] * 2}).popitem()[1]
    assert "other than boxes" in refused({"use": "RandomHorizontalFlip"}, target="boxes").popitem()[1]
    vectors = TensorDataset(torch.randn(24, 36), torch.arange(24) % 3)
    monkeypatch.setattr(support, "vectors", lambda: vectors, raising=False)
    made = recipe(data__name="support:vectors", data__batch_transforms=MIX, teacher=None)
    with pytest.raises(StillhouseError, match=r"need images \(C, H, W\), got \(36,\)"):
        prepare(made, student=torch.nn.Linear(36, 3), write=False)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "table",
    [
        {"use": "MixUp"},
        {"use": "CutMix"},
        {"use": "RandomErasing", "p": 1.0},
        {"use": "RandomHorizontalFlip", "p": 1.0},
    ],
)
def test_nothing_waits_for_cuda(table: dict[str, Any]):
    device = torch.device("cuda")
    made = build(table)
    moved = Batch(batch().input.to(device), batch().target.to(device), batch().id)
    made(moved, 0, 0)
    torch.rand(1, device=device)
    state = torch.cuda.get_rng_state()
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = made(moved, 0, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(torch.cuda.get_rng_state(), state)
    torch.testing.assert_close(out.input.cpu(), made(batch(), 0, 1).input, rtol=1e-4, atol=1e-5)
