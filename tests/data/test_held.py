"""Tensors that a source has in memory: taken as they are, without a copy, and as strictly as if each were read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.loading import Given, Listed, faults_of, ids_of, load
from torch.utils.data import Subset, TensorDataset

from stillhouse.data import Data, DataSpec, Source, load_data
from stillhouse.data.held import Memory
from stillhouse.data.sampler import Key
from stillhouse.data.samples import Samples
from stillhouse.data.sources import Part
from stillhouse.errors import StillhouseError, StillhouseWarning


def tensors(n: int = 40, shape: tuple[int, ...] = (1, 6, 6), dtype: torch.dtype = torch.float32) -> TensorDataset:
    generator = torch.Generator().manual_seed(n)
    inputs = torch.randint(0, 256, (n, *shape), generator=generator).to(dtype)
    return TensorDataset(inputs, torch.arange(n) % 4)


def memory_of(data: Data) -> Memory:
    memory = data._samples.memory
    assert memory is not None
    return memory


def places(data: Data) -> list[int]:
    """Where the memory's inputs lie."""
    return [part.inputs.data_ptr() for part in memory_of(data).parts if isinstance(part.inputs, torch.Tensor)]


def same_batches(a: Data, b: Data) -> bool:
    def all_of(data: Data) -> list[Any]:
        training = data.training()
        batches = [next(training) for _ in range(2 * data.steps_per_epoch)]
        return batches + [batch for split in data.splits for batch in data.evaluation(split)]

    pairs = zip(all_of(a), all_of(b), strict=True)
    return all(torch.equal(x, y) for one, other in pairs for x, y in zip(one[:3], other[:3], strict=True))


@pytest.mark.parametrize("shape", [(1, 6, 6), (6, 6), (5,), (2, 2, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.uint16])
def test_tensors_are_taken_as_they_are(given: Given, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    splits = {"train": tensors(40, shape, dtype), "val": tensors(9, shape, dtype)}
    held = load(given(splits))
    own = [dataset.tensors[0].data_ptr() for dataset in splits.values()]
    assert (places(held) == own) == (dtype in (torch.uint8, torch.float32))
    read = load(given({name: list(dataset) for name, dataset in splits.items()}))
    assert held.info == read.info  # with the fingerprint
    assert same_batches(held, read)
    assert same_batches(held, load(given(splits), cache="none"))


def test_one_data_set_and_parts_of_it_share_its_tensors(given: Given) -> None:
    whole = tensors()
    order = np.random.default_rng(0).permutation(40)
    inner = Subset(whole, order[:36].tolist())
    for value in (whole, {"train": Subset(inner, range(-30, 0)), "val": Subset(whole, order[36:].tolist())}):
        data = load(given(value), val_fraction=0.2)
        assert set(places(data)) == {whole.tensors[0].data_ptr()}
        assert same_batches(data, load(given(value), val_fraction=0.2, cache="none"))


def test_a_batch_of_several_parts_is_put_together() -> None:
    first, second = torch.arange(6.0).reshape(3, 2), torch.arange(10.0, 18.0).reshape(4, 2)
    memory = Memory((Part(first), Part([*second])), starts=np.array([0, 3]), row_of=np.array([2, 1, 0, 3, 2, 1, 0]))
    ids = np.array([4, 0, 6])
    assert memory.take(ids).tolist() == [second[2].tolist(), first[2].tolist(), second[0].tolist()]
    assert memory.take(ids[1:2]).tolist() == [first[2].tolist()]
    assert memory.take(ids[::2]).tolist() == [second[2].tolist(), second[0].tolist()]


def test_a_later_write_changes_the_run_and_none_of_ours_does(given: Given) -> None:
    dataset = tensors()
    before = dataset.tensors[0].clone()
    data = load(given({"train": dataset}), val_fraction=0.0, transforms=[{"use": "RandomHorizontalFlip"}])
    list(data.evaluation("train"))
    assert torch.equal(dataset.tensors[0], before)
    dataset.tensors[0].zero_()
    assert float(data.example().input.std()) == 0
    copied = tensors()
    data = load(given({"train": copied}), val_fraction=0.0, cache="none")
    copied.tensors[0].zero_()
    assert float(data.example().input.std()) == 0  # read anew, it changes as well


def test_vectors_as_targets_are_taken_too(given: Given) -> None:
    inputs = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    dataset = TensorDataset(inputs, inputs[:, :3] * 2)
    held, read = (load(given({"train": value, "val": value})) for value in (dataset, list(dataset)))
    assert places(held)[0] == inputs.data_ptr()
    assert held.info == read.info
    assert same_batches(held, read)
    inputs[7, 1] = float("nan")
    (text,) = faults_of(given({"train": TensorDataset(torch.zeros(40, 5), inputs[:, :3]), "val": dataset}))
    assert text.startswith("sh_given:make, split 'train', sample 7: the target's numbers must be finite")


@pytest.mark.parametrize("cache", ["auto", "memory"])
def test_samples_that_cannot_be_used_are_named(given: Given, cache: str) -> None:
    dataset = tensors()
    dataset.tensors[0][3, 0, 2, 2] = float("nan")
    dataset.tensors[0][11] = float("inf")
    texts = faults_of(given({"train": dataset, "val": tensors(8)}), cache=cache)
    assert [text.partition(": ")[0].rpartition(" ")[2] for text in texts] == ["3", "11"]
    assert texts == faults_of(given({"train": list(dataset), "val": list(tensors(8))}), cache=cache)
    with pytest.warns(StillhouseWarning, match="2 of 48 samples are left out"):
        data = load(given({"train": dataset, "val": tensors(8)}), skip_bad=True)
    assert ids_of(data, "train") == [i for i in range(40) if i not in (3, 11)]
    assert places(data)[0] == dataset.tensors[0].data_ptr()
    dataset = tensors()
    dataset.tensors[1][5] = -1
    (text,) = faults_of(given({"train": dataset, "val": tensors(8)}))
    assert "sample 5: the label -1 is not a class" in text


@pytest.mark.parametrize(
    "options",
    [{"size": 8}, {"channels": 3}, {"crop": 8}, {"cache": "none"}, {"args": {"target": "mask", "classes": 4}}],
)
def test_what_must_be_read_is_read(given: Given, options: dict[str, Any]) -> None:
    dataset = tensors(dtype=torch.uint8)
    if "args" in options:
        dataset = TensorDataset(dataset.tensors[0], dataset.tensors[0][:, 0] % 4)
    splits = {"train": dataset, "val": dataset}
    if "crop" in options:
        assert "must be at least crop" in faults_of(given(splits), **options)[0]
        options = {"crop": 5}
    data = load(given(splits), **options)
    assert data._samples.memory is None or ("crop" in options) == (places(data)[0] == dataset.tensors[0].data_ptr())
    odd = {"train": tensors(), "val": tensors(9, (1, 5, 6))}
    (text, *_) = faults_of(given(odd))
    assert "split 'val', sample 0: the input must have the shape (1, 6, 6)" in text


def test_a_source_of_ones_own_may_hold_its_samples() -> None:
    class Held(Source):
        class_names = ("a", "b")
        labels = np.arange(6) % 2
        splits = {"train": np.arange(6)}  # noqa: RUF012 - of one instance
        images = torch.rand(6, 1, 4, 4)

        def read(self, i: int) -> torch.Tensor:
            raise StillhouseError("nothing is to be read")

        def place(self, i: int) -> str:
            return str(i)

        def hold(self) -> list[Part]:
            return [Part(self.images)]

    from stillhouse.data.memory import take_tensors
    from stillhouse.data.samples import Samples
    from stillhouse.data.shaping import Shaping

    samples = Samples(source=Held(), shaping=Shaping(), shape=(1, 4, 4), dtype=torch.float32, seed=0)
    taken = take_tensors(samples, Held.splits)
    assert taken is not None
    assert taken[0].take(np.array([4, 1])).equal(Held.images[[4, 1]])


def test_a_data_sets_own_batches_are_asked_for_and_checked(given: Given) -> None:
    class AtOnce(Listed):
        asked = 0

        def __getitems__(self, rows: list[int]) -> list[Any]:
            self.asked += 1
            return [self.items[i] for i in rows]

    items = list(tensors(64))
    dataset = AtOnce(items, targets=[int(y) for _, y in items])
    data = load(given({"train": dataset}), val_fraction=0.0, cache="none", batch_size=16)
    dataset.read = dataset.asked = 0
    batches = list(data.evaluation("train"))
    assert (dataset.read, dataset.asked) == (0, 4)
    assert torch.equal(torch.cat([b.target for b in batches]), torch.arange(64) % 4)
    dataset.items = [*items[:-1], (items[-1][0], 0)]
    with pytest.raises(StillhouseError, match=r"sample 63: the target must equal the listed label 3, got 0"):
        list(data.evaluation("train"))
    dataset.items = [*items[:-1], (items[-1][0] * torch.nan, 3)]
    with pytest.raises(StillhouseError, match=r"sample 63: the input must be finite"):
        list(data.evaluation("train"))


class Halved:
    """A task that halves its inputs; sample 7 it cannot take, where so made."""

    takes = ("vector",)

    def __init__(self, wrong: bool = False) -> None:
        self.wrong = wrong

    def sample(self, x: torch.Tensor, target: Any) -> tuple[torch.Tensor, Any]:
        if self.wrong and float(target[0]) == 7:
            raise ValueError("not 7")
        return x / 2, target

    collate = staticmethod(torch.stack)


def test_what_a_task_makes_is_measured_in_few_calls(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(64.0)[:, None].expand(-1, 3)
    keys: list[Key] = []
    make = Samples.make_pairs

    def counted(samples: Samples, key: Key) -> Any:
        keys.append(key)
        return make(samples, key)

    monkeypatch.setattr(Samples, "make_pairs", counted)
    spec = DataSpec(name=given(TensorDataset(inputs, targets)), args={"target": "vector"}, val_fraction=0.0)
    info = load_data(spec, seed=0, task=Halved()).info
    np.testing.assert_allclose(info.mean, (inputs / 2).mean(0), atol=1e-6)
    np.testing.assert_allclose(info.std, (inputs / 2).std(0, correction=0), atol=1e-6)
    assert [len(key.ids) for key in keys].count(16) == 64 // 16  # and not one by one
    with pytest.raises(StillhouseError, match="sample 7: ValueError: not 7") as caught:
        load_data(spec, seed=0, task=Halved(wrong=True))
    assert len(caught.value.faults) == 1
