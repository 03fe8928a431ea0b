"""The training loop in plain torch, as a practitioner writes it: what Stillhouse's throughput and memory are compared with.

Not one function of the project in a step: forward hooks, autocast, torch's own losses and decompositions. It runs on the very
modules and optimizer of the run that it is compared with, because where a model lies in memory moves a step's time as well;
what the run has hooked into them is set aside meanwhile.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from _gpu_cases import CROPS
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from stillhouse.data import Batch

__all__ = ["PlainLoop", "own_loader"]

T = 4.0
"""The temperature of the logits."""


class PlainLoop:
    """A training step on the modules of ``training``: called with a batch, it returns the total loss, on the device.

    Its own forward hooks have to be on: after :meth:`attach`, or within :meth:`alone`.
    """

    def __init__(self, training: Any) -> None:
        run, recipe = training.run, training.recipe
        plugins = {p.name: p for p in run.plugins}
        self.student, self.device, self.optimizer = run.student, run.device, training.optimizer
        self.teacher = run.teacher if "features" in plugins or "logits" in plugins else None
        self.normalizes, self.distils = "normalizer" in plugins, "logits" in plugins
        features, self.spectral = plugins.get("features"), plugins.get("spectral")
        self.link = features.links[0] if features else None
        self.projection = next(iter(run.module("projector").parameters())) if "projector" in plugins else None
        warm = self.spectral is not None and self.spectral.method == "warm"
        self.basis = next(iter(run.module("spectral").buffers())).clone() if warm else None
        self.precision = getattr(torch, recipe.run.precision)
        own = recipe.speed.teacher_precision
        self.teacher_precision = self.precision if own == "same" else getattr(torch, own)
        self.channels_last = recipe.speed.channels_last
        self.scaler = torch.amp.GradScaler(self.device.type) if self.precision is torch.float16 else None
        self.seen: dict[str, Tensor] = {}
        self._layers: list[tuple[str, nn.Module]] = []
        if self.link:
            self._layers += [("z", self.student.get_submodule(self.link.student))]
            self._layers += [("t", self.teacher.get_submodule(self.link.teacher))]
        if self.spectral:
            self._layers += [("spectral", self.student.get_submodule(self.spectral.layer))]

    def attach(self) -> None:
        """Hook into the layers, for good: what is compiled afterwards has the hooks in it."""
        for name, layer in self._layers:
            layer.register_forward_hook(lambda _m, _i, out, name=name: self.seen.__setitem__(name, out))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hook into the layers, in the place of what the run has there; put that back at the end."""
        tables = {id(layer): (layer._forward_hooks, dict(layer._forward_hooks)) for _, layer in self._layers}
        for table, _ in tables.values():
            table.clear()
        self.attach()
        try:
            yield
        finally:
            self.seen.clear()
            for table, before in tables.values():
                table.clear()
                table.update(before)

    def __call__(self, batch: Any) -> Tensor:
        """Train on ``batch``."""
        total = self.loss(batch)
        if self.scaler is None:
            total.backward()
            type(self.optimizer).step(
                self.optimizer
            )  # torch's own: the run has a way of its own to call the fused kernel
        else:
            self.scaler.scale(total).backward()
            self.scaler.unscale_(self.optimizer)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.projection is not None:
            retract(self.projection)
        self.optimizer.zero_grad(set_to_none=True)
        return total.detach()

    def loss(self, batch: Any) -> Tensor:
        """The sum of all terms."""
        x, target = batch[0].to(self.device, non_blocking=True), batch[1].to(self.device, non_blocking=True)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        with self._autocast(self.precision):
            out = self.student(x)
        if self.teacher is not None:
            with torch.no_grad(), self._autocast(self.teacher_precision):
                soft = self.teacher(x)
        total = F.cross_entropy(out.float(), target)
        if self.link is not None:
            z, t = pool(self.seen.pop("z"), self.link.prefix), pool(self.seen.pop("t"), self.link.prefix)
            if self.normalizes:
                t = F.layer_norm(t, t.shape[-1:])
            if self.projection is not None:
                z = F.linear(z, self.projection)
            total = total + F.mse_loss(z, t)
        if self.spectral is not None:
            rows = pool(self.seen.pop("spectral"))
            total = total + self._compute_tail(rows, self.spectral.rank)
        if self.distils:
            log_q = F.log_softmax(soft.float() / T, 1)
            log_p = F.log_softmax(out.float() / T, 1)
            total = total + F.kl_div(log_p, log_q, log_target=True, reduction="batchmean") * T**2
        return total

    def _autocast(self, precision: torch.dtype) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, dtype=precision, enabled=precision is not torch.float32)

    def _compute_tail(self, rows: Tensor, rank: int) -> Tensor:
        """The energy past the first directions: by torch's SVD, or past a basis that follows them."""
        if self.basis is None:
            return torch.linalg.svdvals(rows)[rank:].square().sum() / rows.numel()
        self.basis = follow(rows.detach(), self.basis)
        kept = self.basis[:, :rank]
        return (rows - rows @ kept @ kept.T).square().mean()


def pool(x: Tensor, prefix: int = 0) -> Tensor:
    """The mean (B, C) of maps or of tokens past the first ``prefix``, in float32."""
    return x.mean((2, 3), dtype=torch.float32) if x.ndim == 4 else x[:, prefix:].mean(1, dtype=torch.float32)


@torch.no_grad()
def retract(weight: Tensor) -> None:
    """Make a weight orthogonal again after an optimizer's step: QR with a positive diagonal, by Cholesky's factor of W^T W.

    The quickest way there is on a GPU: torch.linalg.qr takes many times as long, and Stillhouse would look the better for it.
    """
    wide = weight.shape[0] < weight.shape[1]
    tall = (weight.T if wide else weight).double()
    factor = torch.linalg.cholesky_ex(tall.T @ tall)[0]  # torch.linalg.cholesky would wait for the device
    q = torch.linalg.solve_triangular(factor.T, tall, upper=True, left=False)
    weight.copy_(q.T if wide else q)


@torch.no_grad()
def follow(rows: Tensor, basis: Tensor) -> Tensor:
    """A step of subspace iteration, its directions sorted by orthogonal iteration: nothing that waits for the device."""
    basis = torch.linalg.qr(((rows @ basis).T @ rows).T)[0]
    seen = (rows @ basis).double()
    energy = seen.T @ seen
    energy = energy / energy.diagonal().sum()
    energy = energy @ energy
    turn = torch.eye(len(energy), dtype=energy.dtype, device=energy.device)
    for _ in range(8):
        turn = torch.linalg.qr(energy @ turn)[0]
    return basis @ turn.float()


class _Augmented(Dataset[tuple[Tensor, int]]):
    def __init__(self, given: Any) -> None:
        self.given = given
        self.transforms = v2.Compose(
            [getattr(v2, t["use"])(**{k: w for k, w in t.items() if k != "use"}) for t in CROPS]
        )

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image, label = self.given[i]
        return self.transforms(image).float().div_(255), label


def own_loader(given: Any, batch: int, workers: int, pin: bool) -> Iterator[Any]:
    """Batches without end of the uint8 images of ``given``, shuffled: by look-up, or augmented by ``workers`` processes."""
    if workers:
        loader = DataLoader(
            _Augmented(given),
            batch,
            shuffle=True,
            num_workers=workers,
            pin_memory=pin,
            drop_last=True,
            persistent_workers=True,
        )
        return itertools.chain.from_iterable(itertools.repeat(loader))
    return _looked_up(given, batch, pin)


def _looked_up(given: Any, batch: int, pin: bool) -> Iterator[Batch]:
    images = torch.stack([given[i][0] for i in range(len(given))])
    labels = torch.as_tensor(given.targets)
    while True:
        for ids in torch.randperm(len(given)).split(batch):
            x, y = images[ids].float().div_(255), labels[ids]
            yield Batch(x.pin_memory(), y.pin_memory(), ids) if pin else Batch(x, y, ids)
