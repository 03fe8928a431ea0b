"""What the tests of published methods share: a network of three stages, and the same training as a loop in plain torch."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stillhouse import Plugin, Recipe, Weight, hookimpl, plugin, prepare, seeds
from support import TESTS, tables

METHODS = TESTS / "methods"
LR = 0.1


class Stages(nn.Module):
    """Three stages with BatchNorm, 6 x 6 to 2 x 2, and a head."""

    def __init__(self, num_classes: int = 3, in_channels: int = 1, width: int = 4) -> None:
        super().__init__()

        def stage(channels: int, stride: int) -> nn.Module:
            conv = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())

        self.stage1, self.stage2, self.stage3 = stage(in_channels, 1), stage(width, 2), stage(width, 2)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 6, 6) -> (B, num_classes)."""
        return self.head(self.stage3(self.stage2(self.stage1(x))).mean((2, 3)))


@plugin
class Opposed(Plugin):
    """Wants other labels than the task: a term that conflicts with the task's, as KD on easy data never does."""

    weight: Weight = 1.0

    @hookimpl
    def losses(self, step):
        return {"": F.cross_entropy(step.student.output.float(), (step.targets + 1) % 3)}


def net(width: int) -> dict[str, Any]:
    """A model's table."""
    return {"model": "support.methods:Stages", "args": {"width": width}}


def method_recipe(*plugins: Mapping[str, Any], **changes: Any) -> Recipe:
    """Six steps of :class:`Stages` by SGD, with a random teacher, a checkpoint in each step, and ``plugins``."""
    given: dict[str, Any] = {
        "student": net(4),
        "teacher": {**net(6), "random": True},
        "optimizer": {"name": "sgd", "lr": LR},
        "checkpoints": {"every_steps": 1, "best": False},
        "plugins": [dict(p) for p in plugins],
        **changes,
    }
    return Recipe.from_dict(tables(**given))


class Hand:
    """A run's models as they start, trained in plain torch.

    Args:
        recipe: of the run.
        teacher: weights in the place of the run's teacher's.

    Attributes:
        student: in train mode.
        teacher: in eval mode; None in a run without one.
        teachers: further ones, by name.
        own: what the first plugin built that built something.
        s: what the student's layers give, by name.
        t: the teacher's.
        i: steps done; ``x``, ``y`` and ``ids`` are the batch, ``logits`` and ``wanted`` what the models answer.
    """

    def __init__(self, recipe: Recipe, teacher: Mapping[str, Tensor] | None = None) -> None:
        self._training = prepare(recipe, write=False)
        run = self._training.run
        self.student, self.teacher = copy.deepcopy(run.student).train(), copy.deepcopy(run.teacher)
        if self.teacher is not None:
            self.teacher.eval()
            if teacher is not None:
                self.teacher.load_state_dict(teacher)
        self.teachers = copy.deepcopy(run.teachers)
        self.own = copy.deepcopy(next(iter(run.composition.modules_of.values()), nn.Module()))
        self.s, self.t = _read(self.student), _read(self.teacher) if self.teacher is not None else {}
        self.steps = run.total_steps
        self.i = 0
        self.x = self.y = self.ids = self.logits = self.wanted = torch.empty(0)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained."""
        return [p for model in (self.student, self.own) for p in model.parameters() if p.requires_grad]

    def train(
        self,
        loss: Callable[[Hand], Tensor],
        after: Callable[[Hand], None] | None = None,
        before: Callable[[Hand], None] | None = None,
        task: Callable[[Hand], Tensor] | None = None,
        backward: Callable[[Hand, list[Tensor]], None] | None = None,
    ) -> list[float]:
        """Train by SGD on the run's batches.

        Args:
            loss: what a method adds to the task's cross-entropy.
            after: done when the optimizer has moved, without gradient.
            before: changes the batch.
            task: the task's loss; cross-entropy.
            backward: puts gradients of the terms into ``.grad``; those of their sum.

        Returns:
            The loss of each step.
        """
        optimizer = torch.optim.SGD(self.parameters, lr=LR)
        seeds.seed_everything(seeds.derive(self._training.run.seed, "training"))
        stream, losses = self._training.data.training(), []
        for _ in range(self.steps):
            batch = next(stream)
            self.x, self.y, self.ids = batch.input, batch.target, batch.id
            if before is not None:
                before(self)
            self.logits = self.student(self.x)
            if self.teacher is not None:
                with torch.no_grad():
                    self.wanted = self.teacher(self.x)
            terms = [task(self) if task is not None else F.cross_entropy(self.logits, self.y), loss(self)]
            optimizer.zero_grad()
            if backward is None:
                sum(terms).backward()
            else:
                backward(self, terms)
            optimizer.step()
            with torch.no_grad():
                if after is not None:
                    after(self)
            losses.append(float(sum(terms).detach()))
            self.i += 1
        self._training.close()
        return losses


def _read(model: nn.Module) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    for name in ("stage1", "stage2", "stage3"):
        model.get_submodule(name).register_forward_hook(lambda _m, _i, output, name=name: seen.update({name: output}))
    return seen


def source(name: str) -> tuple[str, str, ast.Module]:
    """A method's text, the name of its plugin's class, and its syntax tree."""
    text = Path(METHODS, f"{name}.py").read_text(encoding="utf-8")
    tree = ast.parse(text)
    (found,) = (
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(getattr(d, "id", "") == "plugin" for d in node.decorator_list)
    )
    return text, found, tree
