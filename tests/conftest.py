"""One thread, no teacher cache but the test's own, no state of torch that lasts, no waiting for the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


def pytest_configure() -> None:
    """One thread for fixtures of a whole module as well, which are made before a test's own."""
    torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked ``gpu`` where there is none; tests/gpu have a fixture that says so, and can be rehearsed."""
    rehearsed = "device" in getattr(item, "fixturenames", ())
    if item.get_closest_marker("gpu") and not rehearsed and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.set_num_threads(1)
    monkeypatch.setenv("STILLHOUSE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    # A test's runs name the test's own models, as somebody's own runs do.
    monkeypatch.setenv("STILLHOUSE_TRUST", str(tmp_path_factory.getbasetemp()))
    # What a test writes need not outlive a loss of power, which is all that waiting for the disk is good for.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is read in this test was written by somebody else."""
    monkeypatch.delenv("STILLHOUSE_TRUST")


@pytest.fixture
def fake_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``make(name, entry points, module source)``: a distribution as pip leaves it, on the path for this test."""

    def make(
        name: str,
        points: dict[str, str],
        source: str = "",
        version: str = "1.0",
        group: str = "stillhouse.plugins",
        readme: str = "",
    ) -> Path:
        site = tmp_path / f"site-{name}"
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        info.joinpath("METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: what {name} does\n\n{readme}"
        )
        lines = "\n".join(f"{use} = {target}" for use, target in points.items())
        info.joinpath("entry_points.txt").write_text(f"[{group}]\n{lines}\n")
        for target in points.values():
            site.joinpath(target.split(":")[0] + ".py").write_text(source)
        monkeypatch.syspath_prepend(str(site))
        return site

    return make
