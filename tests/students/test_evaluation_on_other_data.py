"""`stillhouse evaluate` on other data, or on data that have changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import recipe, tiny_data
from torch.utils.data import TensorDataset

from stillhouse import StillhouseError, StillhouseWarning, evaluate, load_student, train

pytestmark = pytest.mark.usefixtures("in_tests")


def shifted_data() -> dict[str, TensorDataset]:
    """tiny_data on another scale: its own mean is 5 and its own deviation 3 times as great."""
    return {split: TensorDataset(3 * d.tensors[0] + 5, d.tensors[1]) for split, d in tiny_data().items()}


def test_other_data_are_normalised_as_in_training(trained: Path):
    lock = json.loads((trained / "lock.json").read_text())["data_info"]
    images, labels = shifted_data()["test"].tensors
    x = (images - torch.tensor(lock["mean"])) / torch.tensor(lock["std"])
    with torch.no_grad():
        logits = load_student(trained)(x)
    found = evaluate(trained, data="test_evaluation_on_other_data:shifted_data")
    assert found.samples == {"test": 9}
    assert found.metrics["test"]["loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5
    )
    own = evaluate(trained)
    assert abs(found.metrics["test"]["loss"] - own.metrics["test"]["loss"]) > 0.01


def test_other_data_from_a_recipe_and_the_same_data_by_another_name(trained: Path, tmp_path: Path):
    (tmp_path / "other.toml").write_text(recipe(data__name="test_evaluation_on_other_data:shifted_data").to_toml())
    by_recipe = evaluate(trained, data=str(tmp_path / "other.toml"))
    by_name = evaluate(trained, data="test_evaluation_on_other_data:shifted_data")
    assert by_recipe.metrics == by_name.metrics
    # The run's own data, read as others, give its own numbers: the two ways to normalise agree in every bit.
    assert evaluate(trained, data="support:tiny_data").metrics == evaluate(trained).metrics


def test_other_data_have_no_limit_but_their_own(tmp_path: Path):
    """The run's choice of training samples is not theirs, and --set is about them."""
    train(recipe(data__per_class=2, data__val_fraction=0.2, run__epochs=1), out=tmp_path / "run")
    (tmp_path / "other.toml").write_text(recipe(data__name="test_evaluation_on_other_data:shifted_data").to_toml())
    for other in ("test_evaluation_on_other_data:shifted_data", str(tmp_path / "other.toml")):
        assert evaluate(tmp_path / "run", data=other, split="train").samples == {"train": 24}
        limited = evaluate(tmp_path / "run", data=other, split="train", overrides=["data.limit=5"])
        assert limited.samples == {"train": 5}
        with pytest.raises(StillhouseError, match=r"data\.limit: must be >= 1, got 0"):
            evaluate(tmp_path / "run", data=other, overrides=["data.limit=0"])
        with pytest.raises(StillhouseError, match=r"must be data\.KEY=VALUE"):
            evaluate(tmp_path / "run", data=other, overrides=["optimizer.lr=1"])
    assert evaluate(tmp_path / "run", split="train").samples == {"train": 6}


def test_data_without_splits_are_measured_whole(trained: Path, tmp_path: Path):
    generator = np.random.default_rng(0)
    for name in "012":
        (tmp_path / "new" / name).mkdir(parents=True)
        for i in range(4):
            array = generator.integers(0, 256, (6, 6), dtype=np.uint8)
            Image.fromarray(array).save(tmp_path / "new" / name / f"{i}.png")
    assert evaluate(trained, data=f"folder:{tmp_path / 'new'}").samples == {"train": 12}


def test_changed_data_are_said_to_be(tmp_path: Path):
    from sklearn.datasets import load_digits

    digits = load_digits()
    for i in range(120):
        folder = tmp_path / "images" / str(digits.target[i])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i] * 15).astype(np.uint8)).save(folder / f"{i}.png")
    whole = recipe(data={"name": f"folder:{tmp_path / 'images'}", "batch_size": 16})
    train(whole, out=tmp_path / "run")
    before = evaluate(tmp_path / "run").metrics
    Image.fromarray(np.full((8, 8), 255, dtype=np.uint8)).save(next((tmp_path / "images" / "0").glob("*.png")))
    with pytest.warns(StillhouseWarning, match="the data have changed"):
        after = evaluate(tmp_path / "run").metrics
    assert before.keys() == after.keys()
