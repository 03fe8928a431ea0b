"""Data sets and loaders from Python."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import interrupted, recipe, same_state, tiny_data
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from stillhouse import Recipe, Result, StillhouseError, evaluate, export, prepare, train

CLASSES = {"classes": 3}


class Images(Dataset[Any]):
    """A map-style data set of one's own: dicts, with classes."""

    classes = ("left", "middle", "right")

    def __init__(self, of: TensorDataset) -> None:
        self.of = of

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, i: int) -> dict[str, Any]:
        image, label = self.of[i]
        return {"path": f"{i}.png", "image": image, "label": int(label)}


class Batches:
    """Batches that somebody else makes."""

    def __init__(self, batches: list[Any], length: int) -> None:
        self.batches, self.length = batches, length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(tiny_data()["train"][i] for i in range(24))


def plain(**data: Any) -> Recipe:
    made = recipe(teacher=None).to_dict()
    made["data"] = {"name": "given", "batch_size": 8, **data}
    return Recipe.from_dict(made)


def loaders(**options: Any) -> dict[str, DataLoader[Any]]:
    sets = tiny_data()
    return {
        "train": DataLoader(sets["train"], batch_size=8, shuffle=True, **options),
        "val": DataLoader(sets["val"], batch_size=4, **options),
    }


def same(first: Result, second: Result) -> bool:
    return same_state(first.student.state_dict(), second.student.state_dict()) and first.history == second.history


def test_data_sets_train_as_those_of_a_callable_do():
    own = recipe(teacher=None)
    by_name = train(own, write=False)
    for given in (tiny_data(), tuple(tiny_data().values())):
        assert same(train(own, data=given, write=False), by_name)


def test_one_data_set_is_split_and_names_its_fields(tmp_path: Path):
    made = plain(args={"fields": {"input": "image", "target": "label"}}, val_fraction=0.25)
    training = prepare(made, data=Images(tiny_data()["train"]), write=False)
    assert training.run.data.class_names == Images.classes
    assert training.run.data.sizes == {"train": 12, "val": 6, "test": 6}
    training.close()
    result = train(made, data=Images(tiny_data()["train"]), out=tmp_path / "run")
    written = Recipe.load(tmp_path / "run" / "recipe.toml").data
    assert (written.name, written.given) == ("Images", True)
    again = train(made, data=Images(tiny_data()["train"]), out=tmp_path / "run", resume=True)
    assert same(again, result)
    with pytest.raises(StillhouseError, match=r"these data, Images, were given from Python"):
        train(Recipe.load(tmp_path / "run" / "recipe.toml"), out=tmp_path / "run", resume=True)
    with pytest.raises(StillhouseError, match=r"these data, Images, were given from Python"):
        evaluate(tmp_path / "run", split="val")
    measured = evaluate(tmp_path / "run", split="val", data=Images(tiny_data()["train"]))
    assert measured.metrics["val"]["accuracy"] == result.metrics["val"]["accuracy"]
    assert measured.data == "Images"


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_are_taken_as_they_are_and_resume_exactly(tmp_path: Path, workers: int):
    made = plain(args=CLASSES, batch_size=64)
    training = prepare(made, data=loaders(num_workers=workers), write=False)
    assert training.recipe.data.batch_size == 8
    assert training.run.steps_per_epoch == 3
    taken = training.data.training()
    first = [next(taken) for _ in range(7)]
    for batch in first:
        assert batch.input.shape == (8, 1, 6, 6)
    later = training.data.training(start_step=4)
    for batch in first[4:]:
        assert torch.equal(next(later).input, batch.input)
    ordered = [batch.input for batch in training.data.evaluation("val")]
    assert torch.equal(torch.cat(ordered), tiny_data()["val"].tensors[0])
    assert [len(x) for x in ordered] == [4, 4, 1]
    training.close()
    whole = train(made, data=loaders(num_workers=workers), out=tmp_path / "run")
    assert same(train(made, data=loaders(), write=False), whole)
    assert same(train(made, data=loaders(), out=tmp_path / "run", resume=True), whole)


def test_a_loader_with_a_generator_of_its_own_says_so_when_the_run_goes_on():
    def make() -> dict[str, DataLoader[Any]]:
        sets = tiny_data()
        own = torch.Generator().manual_seed(3)
        return {"train": DataLoader(sets["train"], 8, shuffle=True, generator=own), "val": DataLoader(sets["val"], 8)}

    training = prepare(plain(args=CLASSES), data=make(), write=False)
    next(training.data.training())
    with pytest.warns(UserWarning, match="draws from a generator of its own"):
        next(training.data.training(start_step=1))
    training.close()


def test_batches_may_be_dicts_and_a_list_of_shapes_is_stacked():
    images, labels = tiny_data()["train"].tensors
    batches = [{"image": list(images[i : i + 8]), "label": labels[i : i + 8], "path": ["x"] * 8} for i in (0, 8, 16)]
    made = plain(args={"fields": {"input": "image", "target": "label"}, **CLASSES})
    given = {"train": Batches(batches, 3), "val": Batches(batches[:1], 1)}
    result = train(made, data=given, write=False)
    assert result.metrics["val"]["accuracy"] >= 0
    training = prepare(made, data=given, write=False)
    assert training.run.data.sizes == {"train": 24, "val": 8}
    training.close()


def test_a_teachers_recipe_is_trained_on_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    own = plain(given=True).to_dict()
    made = recipe({"use": "logits"}, teacher={"recipe": own})
    result = train(made, data=tiny_data(), write=False)
    assert result.metrics["val"]["accuracy"] >= 0


BAD: list[tuple[Any, dict[str, Any], str]] = [
    (3, {}, r"data\['train'\]: must be a data set or a loader, got int"),
    ("digits", {}, r"got str .*a data set's name belongs into the recipe"),
    (torch.zeros(3), {}, r"got Tensor .*TensorDataset\(inputs, targets\)"),
    ({}, {}, r"data: has no split 'train', got nothing"),
    ({"trian": tiny_data()["train"]}, {}, r"data\['trian'\]: unknown split"),
    (TensorDataset(torch.zeros(0, 1, 6, 6), torch.zeros(0)), {}, r"the split 'train' of TensorDataset is empty"),
    (Images(tiny_data()["train"]), {}, r"sample must be \(input, target\), got a dict of 'path', 'image', 'label'"),
    (
        Images(tiny_data()["train"]),
        {"args": {"fields": {"input": "img", "target": "label"}}},
        r"a sample has no field 'img' .*'path', 'image', 'label'",
    ),
    (tiny_data(), {"args": {"root": "x"}}, r"data\.args\.root: unknown key 'root' of data from Python"),
    ((loaders()["train"], tiny_data()["val"]), {}, r"must be data sets or loaders, got both: train: DataLoader"),
    (Stream(), {}, r"Stream gives samples one after the other"),
    (DataLoader(Stream(), batch_size=8), {}, r"DataLoader has no length.*__len__"),
    (iter([]), {}, r"can be gone through once only"),
    (Batches([], 0), {}, r"is empty: it has no batch"),
    (Batches([], 2), {}, r"data\['train'\]: gives no batch .*its length is 2"),
    (Batches([(torch.zeros(2, 1, 6, 6), torch.zeros(2).long())], 1), {}, r"classes: nobody says which classes"),
    (loaders(), {"size": 8}, r"data\.size: a loader's batches are taken as they are, got 8"),
    (loaders(), {"transforms": [{"use": "RandomHorizontalFlip"}]}, r"data\.transforms: a loader's batches"),
    (loaders(), {"normalize": "imagenet"}, r"data\.normalize: a loader's batches"),
    (loaders(), {"batch_size": 16}, r"data\.batch_size: the loader makes batches of 8, got 16"),
    (Batches([(["a"], [0])], 1), {"args": CLASSES}, r"batch 0: the inputs of a batch must be a tensor .*got list"),
    (Batches([(torch.zeros(2, 1, 6, 6), torch.tensor([0, 7]))], 1), {"args": CLASSES}, r"from 0 to 2, got 7"),
    (Batches([(torch.zeros(2, 1, 6, 6), 1, 2)], 1), {"args": CLASSES}, r"a batch must be \(inputs, targets\), got 3 values"),
    (
        Batches([{"x": torch.zeros(2, 1, 6, 6)}], 1),
        {"args": {"fields": {"input": "x", "target": "y"}, **CLASSES}},
        r"has no field 'y' \(its fields are 'x'\)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("given", "data", "says"), BAD)
def test_what_cannot_be_trained_on_is_refused_in_words(given: Any, data: dict[str, Any], says: str):
    with pytest.raises(StillhouseError, match=says):
        prepare(plain(**{"batch_size": 64, **data}), data=given, write=False)


def test_a_loader_that_ends_early_is_named():
    images, labels = tiny_data()["train"].tensors
    given = {"train": Batches([(images[:8], labels[:8])], 2), "val": Batches([(images[:8], labels[:8])], 1)}
    with pytest.raises(StillhouseError, match=r"data\['train'\]: ended after 1 batches, and its length says 2"):
        train(plain(args=CLASSES), data=given, write=False)


def test_a_run_on_loaders_is_measured_and_exported_with_them_again(tmp_path: Path):
    pytest.importorskip("safetensors")
    result = train(plain(args=CLASSES), data=loaders(), out=tmp_path / "run")
    measured = evaluate(tmp_path / "run", split="val", weights="last", data=loaders())
    assert measured.metrics["val"] == pytest.approx(result.metrics["val"])
    others = evaluate(tmp_path / "run", split="val", data=tiny_data())
    assert others.samples == {"val": 9}
    export(tmp_path / "run", tmp_path / "student.safetensors", data=loaders())
    assert (tmp_path / "student.safetensors").exists()


@pytest.mark.parametrize("given", [loaders, tiny_data])
def test_a_run_that_is_killed_within_an_epoch_goes_on_exactly(given: Any, tmp_path: Path):
    made = plain(args=CLASSES if given is loaders else {}).to_dict()
    made["checkpoints"] = {"every_steps": 1}
    made = Recipe.from_dict(made)
    whole = train(made, data=given(), write=False)
    interrupted(prepare(made, data=given(), out=tmp_path / "run"), at=5)
    assert same(train(made, data=given(), out=tmp_path / "run", resume=True), whole)


def test_one_loader_alone_measures_nothing_and_says_so(capsys: pytest.CaptureFixture[str]):
    training = prepare(plain(args=CLASSES), data={"train": loaders()["train"]}, write=False, progress=True)
    training.fit()
    assert "the score is none: the data has no validation split" in " ".join(capsys.readouterr().err.split())
