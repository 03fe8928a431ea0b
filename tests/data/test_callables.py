"""Data sets from callables: what they give is taken unchanged or refused with its sample's name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.loading import Given, Listed, faults_of, ids_of, load
from torch.utils.data import Subset, TensorDataset

from stillhouse.errors import StillhouseError, StillhouseWarning


def tensors(n: int = 40, classes: int = 4, shape: tuple[int, ...] = (1, 6, 6)) -> TensorDataset:
    generator = torch.Generator().manual_seed(n)
    inputs = torch.randint(0, 256, (n, *shape), generator=generator).to(torch.uint8)
    return TensorDataset(inputs, torch.arange(n) % classes)


def items(n: int = 20, *label: Any) -> list[Any]:
    """``n`` samples with this label, or 0 and 1 in turn."""
    return [(torch.full((1, 4, 4), k / n), *(label or (k % 2,))) for k in range(n)]


# --- callables -----------------------------------------------------------------------------------------------------


def test_one_data_set_is_split_by_class(given: Given) -> None:
    data = load(given(tensors()))
    assert data.info.sizes == {"train": 32, "val": 4, "test": 4}
    assert sorted(i for split in data.splits for i in ids_of(data, split)) == list(range(40))
    assert sorted(int(t) for b in data.evaluation("val") for t in b.target) == [0, 1, 2, 3]


def test_a_mapping_of_splits_is_taken_as_it_is(given: Given) -> None:
    data = load(given({"test": tensors(8), "validation": tensors(4), "odd": tensors(12), "train": tensors(40)}))
    assert data.splits == ("train", "val", "test", "odd")
    assert [ids_of(data, split)[0] for split in data.splits] == [0, 40, 44, 52]
    batch = next(iter(data.evaluation("test")))
    assert torch.equal(batch.target, tensors(8).tensors[1])
    without = load(given({"train": tensors(40)}))
    assert without.info.sizes == {"train": 36, "val": 4}
    assert load(given({"train": tensors(40)}), val_fraction=0.0).splits == ("train",)


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 5, 7), (6,), (2, 2, 2, 2)])
@pytest.mark.parametrize("cache", ["memory", "none"])
def test_tensors_arrive_unchanged(given: Given, shape: tuple[int, ...], cache: str) -> None:
    dataset = tensors(shape=shape)
    data = load(given(dataset), normalize="none", cache=cache)
    assert data.info.input_shape == shape
    for batch in data.evaluation("train"):
        assert torch.equal(batch.input, dataset.tensors[0][batch.id] / 255)
        assert torch.equal(batch.target, dataset.tensors[1][batch.id])
    floats = TensorDataset(dataset.tensors[0].double() * 3, dataset.tensors[1])
    batch = load(given(floats), normalize="none", cache=cache).example(9)
    assert batch.input.dtype == torch.float32
    assert torch.equal(batch.input, floats.tensors[0][batch.id].float())


def test_vectors_are_normalised_by_component(given: Given) -> None:
    inputs = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 9.0, 0.0]) + 5
    data = load(given(TensorDataset(inputs, torch.arange(50) % 2)))
    train = torch.cat([b.input for b in data.evaluation("train")])
    np.testing.assert_allclose(train.mean(0), [0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(train.std(0, unbiased=False), [1, 1, 0], atol=1e-5)  # constant: not divided by 0


@pytest.mark.filterwarnings("ignore:1 of 2 classes have no training sample")
@pytest.mark.parametrize(
    "label", [1, np.int32(1), np.array([1]), torch.tensor(1), torch.tensor([1], dtype=torch.uint8)]
)
def test_whole_numbers_are_labels(given: Given, label: Any) -> None:
    data = load(given(Listed(items(20, label))))
    assert data.info.classes == 2
    assert data.example().target.tolist() == [1, 1]


@pytest.mark.parametrize("label", [1.0, "cat", torch.tensor(1.5), True, torch.tensor([0, 1]), None])
def test_other_targets_are_no_labels(given: Given, label: Any) -> None:
    texts = faults_of(given(Listed(items(5) + items(5, label))))
    assert texts[0].startswith("sh_given:make, split 'train', sample 5: the target ")
    assert "must be a class index (a whole number >= 0), got" in texts[0]
    assert len(texts) == 5
    assert "--skip-bad" in texts[4]
    many = faults_of(given(Listed(items(5) + items(120, label))))
    assert (len(many), many[-1]) == (101, "data: ... 120 of 125 samples cannot be used")


def test_labels_outside_the_classes_name_their_samples(given: Given) -> None:
    (text,) = faults_of(given({"train": Listed(items()), "val": Listed(items(4) + items(1, 2))}))
    assert text == (
        "sh_given:make, split 'val', sample 4: the label 2 is not a class (labels are 0 to 1, by the training split; "
        "--skip-bad leaves such samples out)"
    )
    (text,) = faults_of(given(Listed(items() + items(1, -1))))
    assert "sample 20: the label -1 is not a class" in text
    (text,) = faults_of(given(Listed(items(), classes=["only"])))[:1]
    assert "the label 1 is not a class (labels are 0 to 0)" in text
    assert load(given(Listed(items(), classes=["cat", "dog", "none"]))).info.class_names == ("cat", "dog", "none")


def test_listed_labels_spare_reading_unless_they_are_wrong(given: Given) -> None:
    right = Listed(items(4000), targets=[k % 2 for k in range(4000)])
    load(given(right), normalize="none", batch_size=16)
    assert right.read < 2000
    wrong = Listed(items(4000), targets=[0] * 4000)
    assert load(given(wrong), normalize="none").info.classes == 2
    assert wrong.read > 4000
    inner = TensorDataset(torch.arange(8.0)[:, None], torch.tensor([0, 0, 0, 0, 1, 1, 2, 2]))
    subset = load(given({"train": Subset(inner, [6, 5, 4, 3]), "val": Subset(inner, [0])}), normalize="none")
    (batch,) = subset.evaluation("train")
    assert batch.target.tolist() == [2, 1, 1, 0]
    assert batch.input[:, 0].tolist() == [6, 5, 4, 3]


def test_a_target_that_changes_is_refused(given: Given) -> None:
    class Changing(Listed):
        shift = 0

        def __getitem__(self, i: int) -> Any:
            x, y = super().__getitem__(i)
            return x, (y + self.shift) % 2

    changing = Changing(items())
    data = load(given(changing), normalize="none")
    changing.shift = 1
    with pytest.raises(StillhouseError, match="give a sample the same target every time"):
        list(data.evaluation("train"))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3, "the split 'train' of sh_given:make must be a map-style data set of (input, target), got int"),
        (iter([]), "a map-style data set of (input, target), got list_iterator"),
        ({}, "sh_given:make has no split 'train'"),
        ({"tain": tensors()}, "has no split 'train' (did you mean 'tain'?)"),
        (
            {"val": tensors(), "valid": tensors(), "train": tensors()},
            "unknown or repeated split 'valid' from sh_given:make (each of",
        ),
        (Listed([]), "the split 'train' of sh_given:make is empty"),
        ({"train": tensors(), "test": Listed([])}, "the split 'test' of sh_given:make is empty"),
        (tensors(3), "too few samples to hold out the split 'val'"),
        (Listed([torch.zeros(3)]), "sample 0: a sample must be (input, target), got Tensor"),
        (Listed([(1, 2, 3)]), "sample 0: a sample must be (input, target), got 3 values"),
        (Listed([("text", 0)] * 9), "sample 0: the input must be a PIL image, a tensor or a numpy array, got str"),
        (
            Listed([(torch.zeros(4, dtype=torch.int32), 0)] * 9),
            "sample 0: the input must be uint8 (0 to 255) or floats, got int32",
        ),
        (
            Listed([(torch.tensor(3.0), 0)] * 9),
            "sample 0: the input must be an image (C, H, W) or a vector (D,), got a single number",
        ),
        (Listed([(np.zeros((5, 6, 7), np.uint8), 0)] * 9), "1, 3 or 4 channels, got an array (5, 6, 7)"),
        (
            Listed([*items(1), *[(torch.zeros(1, 4, 4).byte(), 0)] * 20]),
            "sample 0: the input must be uint8 as sh_given:make, split 'train', sample 1, got float32",
        ),
    ],
)
def test_other_values_are_refused(given: Given, value: Any, said: str) -> None:
    assert said in "\n".join(faults_of(given(value), cache="memory"))


def test_an_error_of_the_data_set_names_the_sample(given: Given) -> None:
    class Broken(Listed):
        def __getitem__(self, i: int) -> Any:
            if i == 7:
                raise KeyError("seven")
            return super().__getitem__(i)

    (text,) = faults_of(given({"train": tensors(), "val": Broken(items())}))
    assert (
        text
        == "sh_given:make, split 'val', sample 7: this sample cannot be read: KeyError: 'seven' (--skip-bad leaves such samples out)"
    )

    class Torn(Listed):
        def __getitem__(self, i: int) -> Any:
            if i in (0, 3):
                raise OSError(f"{i} is torn")
            return super().__getitem__(i)

    for more in ({}, {"targets": [k % 2 for k in range(20)]}):
        torn = given({"train": Torn(items() + items(1, 7), classes=["a", "b"], **more), "val": Listed(items())})
        texts = faults_of(torn)
        assert [text.partition(": ")[0].rpartition(" ")[2] for text in texts] == ["0", "3"]
        assert "OSError: 0 is torn" in texts[0]
        assert "--skip-bad" in texts[1]
        with pytest.warns(StillhouseWarning, match="3 of [0-9]+ samples are left out: .*0 is torn.*the label 7 is no"):
            data = load(torn, skip_bad=True)
        assert sorted(ids_of(data, "train")) == [i for i in range(20) if i not in (0, 3)]


def test_a_callables_arguments_are_checked() -> None:
    name = f"{__name__}:tensors"
    assert load(name, args={"n": 80}).info.sizes["train"] == 64
    (text,) = faults_of(name, args={"clases": 2})
    assert text.startswith("data.args.clases: unknown argument 'clases' (did you mean 'classes'?")
    (text,) = faults_of(name, args={"n": "many"})
    assert text.startswith("data.args: calling tensors failed: RuntimeError: manual_seed")
    assert "data.args.items: missing argument 'items' of Listed" in faults_of(f"{__name__}:Listed")
    assert faults_of("stillhouse:__version__") == ["data.name: 'stillhouse:__version__' must be callable, got str"]


# --- images --------------------------------------------------------------------------------------------------------


def test_the_first_sample_may_be_the_odd_one_in_channels(given: Given) -> None:
    sizes = [(9, 9), (12, 8), (8, 7)] * 4
    odd = [(torch.zeros(1, 8, 8), 0), *((torch.zeros(3, *size), k % 2) for k, size in enumerate(sizes))]
    (text,) = faults_of(given({"train": Listed(odd), "val": Listed(odd[1:])}), crop=6, cache="memory")
    assert text == (
        "sh_given:make, split 'train', sample 0: the input must have the shape (3, -1, -1) of sh_given:make, split 'train', "
        "sample 1, got (1, 8, 8) (set channels = 3 in [data])"
    )


@pytest.mark.parametrize("skip_bad", [True, False])
def test_a_label_far_off_makes_no_classes(given: Given, skip_bad: bool) -> None:
    odd = {"train": Listed([*items(20), *items(1, 1_000_000), *items(3)]), "val": Listed(items(4))}
    (text,) = faults_of(given(odd), skip_bad=skip_bad)
    assert text == (
        "sh_given:make, split 'train', sample 20: the label 1000000 would mean 1,000,001 classes, 999,998 of which have "
        "no sample (labels count from 0; or set the classes: classes = [...], or their number, in the args of [data])"
    )
    with pytest.warns(StillhouseWarning, match="1 of 1 classes have no training sample"):
        assert "the label -1 is not a class" in faults_of(given(Listed(items(9, -1))))[0]
    # Half of them is a matter of opinion, and a sample of another split is one.
    with pytest.warns(StillhouseWarning, match="2 of 4 classes have no training sample"):
        assert load(given(Listed(items(10, 0) + items(10, 3)))).info.classes == 4
    with pytest.warns(StillhouseWarning, match="3 of 5 classes have no training sample"):
        data = load(given({"train": Listed(items(10, 0) + items(10, 4)), "val": Listed(items(4, 2))}))
    assert data.info.classes == 5


def test_the_recipe_may_say_which_classes_there_are(given: Given) -> None:
    few = given(Listed(items(10, 0) + items(10, 7)))
    assert load(few, args={"classes": 9}).info.class_names == tuple("012345678")
    assert load(few, args={"classes": list("abcdefgh")}).info.class_names == tuple("abcdefgh")
    assert "the label 7 is not a class (labels are 0 to 6)" in faults_of(few, args={"classes": 7})[0]
    assert load(given(Listed(items(), classes=["a", "b"])), args={"classes": 3}).info.classes == 3
