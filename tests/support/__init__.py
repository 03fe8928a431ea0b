"""What tests share: a tiny data set and models, a recipe of them, and small plugins."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from stillhouse import Assembly, Link, Recipe
from stillhouse.contract.assembly import Rows
from support.forks import run

TESTS = Path(__file__).parents[1]
CLASSES = 3


def tiny_data(train: int = 24, val: int = 9, test: int = 9) -> dict[str, TensorDataset]:
    """Separable images (1, 6, 6) of three classes."""
    generator = torch.Generator().manual_seed(0)

    def split(n: int) -> TensorDataset:
        labels = torch.arange(n) % CLASSES
        images = torch.randn(n, 1, 6, 6, generator=generator) * 0.5
        images[torch.arange(n), 0, labels, labels] += 3.0
        return TensorDataset(images, labels)

    return {"train": split(train), "val": split(val), "test": split(test)}


class TinyNet(nn.Module):
    """Two convolutions and a head; features (B, width, 6, 6) at ``body``, BatchNorm and dropout on the way."""

    def __init__(self, num_classes: int = CLASSES, in_channels: int = 1, width: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.body = nn.Conv2d(width, width, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 6, 6) -> (B, num_classes)."""
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.body(x))
        return self.head(self.dropout(x.mean((2, 3))))


FEATURES = {"use": "features", "links": [{"student": "body", "teacher": "body"}]}
FIVE = {
    "features": FEATURES,
    "normalizer": {"use": "normalizer", "kind": "layer"},
    "projector": {"use": "projector"},
    "spectral": {"use": "spectral", "layer": "body", "rank": 2},
    "logits": {"use": "logits"},
}
"""The first-party plugins on TinyNet."""


def tables(**changes: Any) -> dict[str, Any]:
    """A recipe's tables: TinyNet of width 4, a random teacher of width 6, batches of 8, 2 epochs of 3 steps, no pictures.

    ``changes`` replace whole tables, or with ``table__key=value`` one key; ``None`` takes a table away.
    """
    run = {
        "name": "tiny",
        "epochs": 2,
        "seed": 3,
        "device": "cpu",
        "log_every": 2,
        "figures": False,
        "base": str(TESTS),
    }
    recipe: dict[str, Any] = {
        "run": run,
        "data": {"name": "support:tiny_data", "batch_size": 8, "normalize": "none"},
        "student": {"model": "support:TinyNet", "args": {"width": 4}},
        "teacher": {"model": "support:TinyNet", "args": {"width": 6}, "random": True},
        "optimizer": {"lr": 1e-2},
    }
    for key, value in changes.items():
        table, _, inner = key.partition("__")
        if inner:
            recipe.setdefault(table, {})[inner] = value
        elif value is None:
            recipe.pop(table, None)
        else:
            recipe[table] = value
    return recipe


def recipe(*plugins: Mapping[str, Any], **changes: Any) -> Recipe:
    """:func:`tables` as a recipe, with ``plugins``."""
    return Recipe.from_dict(tables(plugins=[dict(p) for p in plugins], **changes))


def assembly_of(
    links: Sequence[Link] = (),
    *,
    features: Mapping[str, Tensor] | None = None,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    batch_size: int = 64,
    device: str = "cpu",
) -> Assembly:
    """What a plugin's ``build`` gets, for a plugin tested by itself.

    Args:
        links: as they reach the plugin.
        features: the student's tapped layers.
        student: one with the layers of ``features`` where it is left out.
        teacher: None: a run without one.
        batch_size: the recipe's.
        device: where the models are said to be.
    """
    fake: Any = SimpleNamespace(samples_at_once=batch_size)
    features = dict(features or {})
    return Assembly(
        recipe=fake,
        seed=0,
        device=torch.device(device),
        student=nn.ModuleDict({name: nn.Identity() for name in features}) if student is None else student,
        teacher=teacher,
        task=fake,
        data=fake,
        rows=Rows(2),
        epochs=1,
        steps_per_epoch=1,
        features={"student": features, "teacher": {}},
        links={link.name: link for link in links},
    )


class FakeComposition:
    """What a step asks of the composition, for a plugin tested by itself.

    Args:
        links: the links' names.
        module: what any plugin built.
        taps: the tapped layers.
    """

    def __init__(self, links: Sequence[str] = (), module: Any = None, taps: Sequence[str] = ()) -> None:
        self._links, self._taps = list(links), list(taps)
        self.modules_of: Mapping[str, Any] = defaultdict(lambda: module)
        self.matched: dict[str, dict[str, list[str]]] = defaultdict(dict)

    def match(self, what: str, pattern: str) -> list[str]:
        """Names by glob."""
        if what == "links":
            return [name for name in self._links if fnmatchcase(name, pattern)]
        if what == "links of":
            return [name for name in self._links if name.startswith(f"{pattern}/")]
        return self._taps


class Killed(BaseException):
    """What a run that is killed dies of."""


def interrupted(training: Any, at: int) -> None:
    """Fit ``training`` and stop dead after step ``at``."""

    def stop() -> None:
        raise Killed

    training.run.trainer.add_event_handler(Events.ITERATION_STARTED(once=at + 1), stop)
    with pytest.raises(Killed):
        training.fit()


def with_scores(training: Any, scores: list[float]) -> None:
    """Have the epochs' validation accuracy be ``scores``, whatever the student does."""

    def replace() -> None:
        state = training.run.evaluator.state
        if state.split == "val":
            state.metrics["accuracy"] = scores[training.run.trainer.state.epoch - 1]

    training.run.evaluator.add_event_handler(Events.COMPLETED, replace)


def same_state(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two state dicts agree in every bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def command(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, one thread, no terminal."""
    return run("stillhouse.cli", *arguments, cwd=cwd or TESTS, **{"COLUMNS": "200", **environment})
