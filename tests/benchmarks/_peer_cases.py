"""What the systems of ``peers.py`` train: a case of sizes, its models and batch, and the method by hand."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from stillhouse import Recipe, prepare
from stillhouse.data import Batch

T = 4.0
FOREVER = 10**9
STILLHOUSE = "Stillhouse"


@attrs.frozen
class Case:
    """Sizes: widths of student and teacher, of images and batch; how many links, and their projection."""

    student: int
    teacher: int
    size: int
    batch: int
    links: int = 1
    projection: str = "linear"


class Method(nn.Module):
    """Student, teacher, projections and losses by hand."""

    def __init__(self, student: nn.Module, teacher: nn.Module, projections: list[nn.Linear]) -> None:
        super().__init__()
        self.student, self.teacher, self.projections = student, teacher, nn.ModuleList(projections)
        self.seen: dict[str, Tensor] = {}
        for name, model in (("student", student), ("teacher", teacher)):
            model.stage3.register_forward_hook(lambda _m, _i, out, name=name: self.seen.update({name: out}))

    def trained(self) -> list[nn.Parameter]:
        """The student's parameters, then the projections'."""
        return [*self.student.parameters(), *self.projections.parameters()]

    def answer(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both models' logits; the hooks keep their features."""
        out = self.student(x)
        with torch.no_grad():
            soft = self.teacher(x)
        return out, soft

    def total(self, out: Tensor, soft: Tensor, y: Tensor) -> Tensor:
        """The sum of all terms."""
        loss = F.cross_entropy(out, y)
        for projection in self.projections:
            z, t = self.seen["student"].mean((2, 3)), self.seen["teacher"].mean((2, 3))
            loss = loss + F.mse_loss(projection(z), F.layer_norm(t, t.shape[-1:]))
        log_q = F.log_softmax(soft / T, 1)
        return loss + F.kl_div(F.log_softmax(out / T, 1), log_q, log_target=True, reduction="batchmean") * T**2

    @torch.no_grad()
    def retract(self) -> None:
        """Make the projections orthogonal again after an optimizer's step, as anybody would: by QR, with a positive diagonal."""
        for projection in self.projections:
            wide = projection.weight.shape[0] < projection.weight.shape[1]
            q, r = torch.linalg.qr((projection.weight.T if wide else projection.weight).double())
            q = q * r.diagonal().sign()
            projection.weight.copy_(q.T if wide else q)


class Made:
    """A case with its models: everybody starts from the same weights and trains on the same batch.

    Attributes:
        sides: how many loops take turns on it.
    """

    sides = 1

    def __init__(self, case: Case) -> None:
        self.case = case
        training = self.prepare()
        run = training.run
        self.student, self.teacher = copy.deepcopy(run.student.cpu()), copy.deepcopy(run.teacher)
        self.weights = [p.detach().clone() for p in run.module("projector").parameters()]
        self.batch: Batch = next(iter(training.data.training()))
        for model in (self.student, self.teacher):
            for module in model.modules():
                module._forward_hooks.clear()
        training.close()

    def prepare(
        self,
        log_every: int = FOREVER,
        out: str | None = None,
        *,
        epochs: int = 1,
        watch: Mapping[str, Any] | None = None,
    ) -> Any:
        """Stillhouse's run of this case."""
        case = self.case
        links = [{"student": "stage3", "teacher": "stage3", "pool": "mean", "name": f"l{k}"} for k in range(case.links)]
        tables = {
            "run": {"epochs": epochs, "threads": 1, "device": "cpu", "log_every": log_every},
            "data": {"name": "sklearn:digits", "size": case.size, "channels": 3, "batch_size": case.batch},
            "student": {"model": "stillhouse.models:convnet", "args": {"width": case.student}},
            "teacher": {
                "model": "stillhouse.models:convnet",
                "args": {"width": case.teacher},
                "random": True,
            },
            "optimizer": {"name": "sgd", "lr": 0.05, "args": {"momentum": 0.9}},
            "watch": dict(watch or {}),
            "plugins": [
                {"use": "features", "links": links},
                {"use": "normalizer", "kind": "layer"},
                {"use": "projector", "kind": case.projection},
                {"use": "logits", "temperature": T},
            ],
        }
        return prepare(Recipe.from_dict(tables), write=out is not None, out=out)

    def method(self) -> Method:
        """The method by hand, from the same weights."""
        student, teacher = copy.deepcopy(self.student).train(), copy.deepcopy(self.teacher).eval()
        projections = []
        for weight in self.weights:
            projection = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
            projection.weight.data.copy_(weight)
            projections.append(projection)
        return Method(student, teacher, projections)

    def batch_for(self, system: str) -> Any:
        """What a system's stream gives."""
        return self.batch if system.startswith(STILLHOUSE) else (self.batch.input, self.batch.target)


def make_case(case: Case) -> Made:
    """The models and the batch of ``case``."""
    torch.manual_seed(0)
    return Made(case)


def fold(model: nn.Module) -> None:
    """Fold each batch normalisation that follows a convolution into it, by torch's own function: what is frozen can bear that."""
    for parts in model.modules():
        if not isinstance(parts, nn.Sequential):
            continue
        for index in range(len(parts) - 1):
            conv, norm = parts[index], parts[index + 1]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                parts[index], parts[index + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()


def sgd(parameters: list[nn.Parameter], *, fused: bool | None = None) -> torch.optim.Optimizer:
    """The optimizer of all systems; by default with the kernels that torch chooses."""
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, fused=fused)
