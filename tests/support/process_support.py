"""Starting several processes that do what one does, and comparing: for tests of runs that are spread."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events

from stillhouse import Recipe, prepare
from support import TESTS
from support.forks import Fork

WORKER = TESTS / "support" / "processes.py"


def free_port(among: Iterable[int] = (0,)) -> int:
    """A port that nobody listens on; 0 is any."""
    for port in among:
        with socket.socket() as listening, suppress(OSError):
            listening.bind(("127.0.0.1", port))
            return int(listening.getsockname()[1])
    raise AssertionError("all are taken")


def start(
    recipes: Any, out: Path, *arguments: str, processes: int = 2, **environment: str
) -> list[tuple[int | None, str]]:
    """Exit code and output of each process."""
    out.mkdir(exist_ok=True)
    (out / "recipe.json").write_text(json.dumps(recipes))
    common = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        **environment,
    }
    return start_with([{**common, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(processes)], out, *arguments)


def start_with(environments: list[dict[str, str]], out: Path, *arguments: str) -> list[tuple[int | None, str]]:
    """Exit code and output of a process for each of ``environments``."""
    words = ("support.processes", str(out / "recipe.json"), str(out), *arguments)
    started = [Fork(*words, **environment) for environment in environments]
    outputs = ["".join(fork.communicate()) for fork in started]
    return [(fork.returncode, output) for fork, output in zip(started, outputs, strict=True)]


def found(out: Path, rank: int = 0) -> dict[str, Any]:
    return json.loads((out / f"rank{rank}.json").read_text())


def alone(recipe: dict[str, Any]) -> tuple[np.ndarray, Any]:
    """The same run in this process: the curve of the total and of each term, and the result."""
    training = prepare(Recipe.from_dict(recipe), write=False)
    trainer, curve = training.run.trainer, []

    def record() -> None:
        step = trainer.state.step
        curve.append([float(v.detach()) for v in (step.total, *step.losses.values())])

    trainer.add_event_handler(Events.ITERATION_COMPLETED, record)
    result = training.fit()
    return np.array(curve), result


def norm(student: torch.nn.Module) -> float:
    return float(sum(p.detach().double().square().sum() for p in student.parameters()))


def check_curves(curve: np.ndarray, expected: np.ndarray) -> None:
    """The total first, then each term; a term that is a difference of near numbers has float32's error of those."""
    np.testing.assert_allclose(curve[:, 0], expected[:, 0], rtol=1e-5)
    np.testing.assert_allclose(curve[:, 1:], expected[:, 1:], rtol=1e-4, atol=2e-6)
