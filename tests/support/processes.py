"""What test_parallel starts in several processes: ``python processes.py RECIPE.json OUT [--resume] [--stop N]``.

Each process trains the recipe's tables and writes its curve of losses and its results to OUT/rankN.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch
from ignite.engine import Events
from torch import Tensor, nn

from stillhouse import Plugin, Recipe, StillhouseError, Tap, Weight, hookimpl, plugin, prepare
from stillhouse.distributed import processes as parallel


class PlainNet(nn.Module):
    """A stem, two blocks and a head, without batch statistics or dropout: features (B, width, 6, 6) at ``body.1``."""

    def __init__(self, num_classes: int, in_channels: int = 1, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)
        self.body = nn.Sequential(*(nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.Tanh()) for _ in range(2)))
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 6, 6) -> (B, num_classes)."""
        return self.head(self.body(torch.tanh(self.stem(x))).mean((2, 3)))


@plugin
class SecondView(Plugin):
    """The student's features of the batch mirrored are to be those of the batch, and its teacher's outputs its own."""

    requires = ("live teacher",)

    weight: Weight = 1.0

    @hookimpl
    def add_taps(self, assembly):
        return [Tap("student", "body.1")]

    @hookimpl
    def losses(self, step):
        mirrored = step.inputs.flip(-1)
        student, teacher = step.forward("student", mirrored), step.forward("teacher", mirrored)
        moved = student.features["body.1"].flip(-1) - step.student.features["body.1"]
        return {"features": moved.square().mean(), "output": (student.output - teacher.output).square().mean()}


def work(arguments: argparse.Namespace) -> int:
    """Train, and write what came out."""
    rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))
    tables = json.loads(arguments.recipe.read_text())
    tables = tables[rank] if isinstance(tables, list) else tables
    recipe = Recipe.from_dict(tables)
    training = prepare(recipe, out=arguments.out / "run", resume=arguments.resume)
    trainer, curve = training.run.trainer, []

    def record() -> None:
        step = trainer.state.step
        values = torch.stack([step.total.detach(), *(v.detach() for v in step.losses.values())]).double()
        curve.append(parallel.mean_over_processes(values).tolist())
        if trainer.state.iteration == arguments.stop and rank == 1:
            os._exit(7)

    trainer.add_event_handler(Events.ITERATION_COMPLETED, record)
    result = training.fit()
    norm = sum(p.detach().double().square().sum() for p in result.student.parameters())
    found = {"curve": curve, "metrics": result.metrics, "norm": float(norm), "summary": result.summary}
    (arguments.out / f"rank{rank}.json").write_text(json.dumps(found))
    return 0


def main() -> int:
    """Errors leave as the command line's do."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--stop", type=int, default=0)
    code = None
    try:
        code = work(parser.parse_args())
    except StillhouseError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    finally:
        parallel.leave(done=code == 0)
    return code


if __name__ == "__main__":
    parallel.end(main())
