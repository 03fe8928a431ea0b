"""Draws from the global generators: found out, seeded by sample, and never left behind."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.loading import Given, Listed, load

from stillhouse.data import draws
from stillhouse.data.draws import Begin, Draws
from stillhouse.errors import StillhouseError
from stillhouse.seeds import OwnRandomness, capture, mix, mix_each

DRAWN: dict[str, Callable[[], float]] = {
    "nothing": lambda: 0.0,
    "torch": lambda: float(torch.rand(())),
    "numpy": np.random.rand,
    "numpy, in pairs": np.random.randn,
    "python": random.random,
    "python, in pairs": lambda: random.gauss(0, 1),
    "all": lambda: float(torch.randn(())) + np.random.rand() + random.random(),
}
SEEDS = [mix(7, i) for i in range(5)]


def by_sample(draw: Callable[[], float]) -> list[float]:
    """What each sample draws with its own seed."""
    with OwnRandomness() as randomness:
        values = []
        for seed in SEEDS:
            randomness.seed(seed)
            values.append(draw())
    return values


def batch(made: Draws, draw: Callable[[], float], calls: list[Begin | None] | None = None) -> list[float]:
    """What ``made`` lets five samples draw."""

    def make(begin: Begin | None) -> list[float]:
        if calls is not None:
            calls.append(begin)
        values = []
        for row in range(len(SEEDS)):
            if begin is not None:
                begin(row)
            values.append(draw())
        return values

    return made.make(lambda: SEEDS, make)


def same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(params=[True, False])
def readable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With Python's generator read from memory, and asked."""
    assert draws._IS_READABLE
    monkeypatch.setattr(draws, "_IS_READABLE", request.param)


@pytest.mark.usefixtures("readable")
@pytest.mark.parametrize("before", [lambda: None, lambda: (np.random.randn(), random.gauss(0, 1))])
@pytest.mark.parametrize("what", DRAWN)
def test_each_sample_draws_by_its_own_seed_and_the_generators_stay(what: str, before: Callable[[], Any]) -> None:
    with OwnRandomness() as randomness:
        randomness.seed(3)
        before()  # leaves the second number of a pair
        at_first = capture()
        made, calls = Draws(), []
        for _ in range(3):
            assert batch(made, DRAWN[what], calls) == by_sample(DRAWN[what])
            assert same(capture(), at_first)
    unseeded = [begin for begin in calls if begin is None]
    assert len(unseeded) == (3 if what == "nothing" else 1)  # the first batch, which is made again


def test_only_generators_that_are_drawn_from_are_seeded() -> None:
    with OwnRandomness() as randomness:
        randomness.seed(3)
        made, seen = Draws(), set()

        def draw() -> float:
            seen.add(random.getstate()[1][5])
            return float(torch.rand(()))

        batch(made, draw)
        assert len(seen) == 1
        assert batch(made, DRAWN["all"]) == by_sample(DRAWN["all"])  # found out later
        assert batch(pickle.loads(pickle.dumps(made)), draw) == by_sample(DRAWN["torch"])


@pytest.mark.usefixtures("readable")
def test_a_draw_of_one_sample_in_many_is_seen() -> None:
    with OwnRandomness() as randomness:
        randomness.seed(0)
        for what in ("numpy, in pairs", "python, in pairs"):
            for waiting in (False, True):
                if waiting:
                    DRAWN[what]()
                now = capture()
                count = iter(range(100))

                def draw(what: str = what, count: Any = count) -> float:
                    return DRAWN[what]() if next(count) == 3 else 0.0

                batch(Draws(), draw)
                assert same(capture(), now)


def test_an_error_is_raised_as_with_its_own_seed() -> None:
    """One that depends on what is drawn: without seeds it is another sample's."""
    with OwnRandomness() as randomness:
        randomness.seed(1)
        now = capture()

        def unlucky() -> float:
            drawn = random.random()
            if drawn > by_sample(random.random)[3] - 1e-12:
                raise ValueError(drawn)
            return drawn

        with pytest.raises(ValueError, match="0") as caught:
            batch(Draws(), unlucky)
        first = next(value for value in by_sample(random.random) if value >= by_sample(random.random)[3])
        assert caught.value.args == (first,)
        assert same(capture(), now)
        with pytest.raises(KeyboardInterrupt):
            batch(Draws(), lambda: (_ for _ in ()).throw(KeyboardInterrupt))


def test_another_generator_of_numpy_is_refused() -> None:
    usual = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(0))
    try:
        with pytest.raises(StillhouseError, match=r"must be MT19937, which can be seeded, got PCG64"):
            batch(Draws(), DRAWN["numpy"])
    finally:
        np.random.set_bit_generator(usual)


def test_ids_are_mixed_at_once_as_one_by_one() -> None:
    ids = np.array([0, 1, 2**40, -1, 2**63 - 1])
    for parts in ((), (7,), (-3, 2**70, 5)):
        assert mix_each(*parts, ids=ids).tolist() == [mix(*parts, int(i)) for i in ids]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_set_that_draws_resumes_exactly_with_any_number_of_workers(given: Given, workers: int) -> None:
    class Noisy(Listed):
        def __getitem__(self, i: int) -> Any:
            x, y = super().__getitem__(i)
            return x + DRAWN["all"]() if i % 7 == 3 else x, y  # some samples alone

    dataset = Noisy([(torch.full((4,), float(i)), i % 2) for i in range(40)])
    data = load(given({"train": dataset}), val_fraction=0.0, normalize="none", batch_size=8, seed=5, workers=workers)
    whole, later = data.training(), data.training(start_step=7)
    for step in range(12):
        batch = next(whole)
        with OwnRandomness() as randomness:
            for x, i in zip(batch.input, batch.id.tolist(), strict=True):
                randomness.seed(mix(5, step // 5, i))
                assert torch.equal(x, dataset[i][0])
        if step >= 7:
            assert torch.equal(next(later).input, batch.input)
    data.close()
