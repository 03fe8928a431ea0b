"""The training loop as one would write it by hand: what Stillhouse's throughput is compared with.

It does the same tensor work: the same models and forward hooks, autocast, losses, optimizer and retraction, by the
plugins' own functions. It runs on the very modules and optimizer of the run it is compared with, because where a model
lies in memory moves a step's time as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from _gpu_cases import CROPS
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from stillhouse.data import Batch
from stillhouse_features.alignment import read_pair
from stillhouse_features.distances import distance
from stillhouse_logits import soft_target_divergence
from stillhouse_normalizer import normalize
from stillhouse_spectral import follow, tail_energy, to_feature_rows, warm_tail_energy

__all__ = ["by_hand", "own_loader"]


def by_hand(training: Any) -> Callable[[Any], Tensor]:
    """A training step on the modules of ``training``; it takes a batch and returns the total loss, on the device."""
    run, recipe, optimizer = training.run, training.recipe, training.optimizer
    student, device = run.student, run.device
    plugins = {p.name: p for p in run.plugins}
    features, spectral, logits = (plugins.get(name) for name in ("features", "spectral", "logits"))
    normalizes = "normalizer" in plugins
    projector = run.module("projector") if "projector" in plugins else None
    teacher = run.teacher if features or logits else None
    taps = [model.taps for model in run.composition.models.values()]
    options = features.links[0] if features else None
    link = f"features/{options.student}" if options else ""
    warm = run.module("spectral") if spectral and spectral.method == "warm" else None
    precision = getattr(torch, recipe.run.precision)
    own = recipe.speed.teacher_precision
    teacher_precision = precision if own == "same" else getattr(torch, own)
    last = recipe.speed.channels_last
    scaler = torch.amp.GradScaler(device.type) if precision is torch.float16 else None
    criterion = run.task.loss

    def losses(x: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype=precision, enabled=precision is not torch.float32):
            output = student(x)
        seen = taps[0].take()
        if teacher is not None:
            with (
                torch.no_grad(),
                torch.autocast(device.type, dtype=teacher_precision, enabled=teacher_precision is not torch.float32),
            ):
                expected = teacher(x)
            teacher_seen = taps[1].take()
        total: Tensor = criterion(output, target)
        if options is not None:
            z, t = read_pair(seen[options.student], teacher_seen[options.teacher], options)
            if normalizes:
                t = normalize(t, "layer", 1e-5, "cholesky")
            if projector is not None:
                z = projector(link, z)
            total = total + distance(z, t)
        if spectral is not None:
            rows = to_feature_rows(seen[spectral.layer], "mean")
            if warm is None:
                total = total + tail_energy(rows, spectral.rank)
            else:
                buffer = warm.basis(spectral.layer)
                basis = follow(rows, buffer)
                buffer.copy_(basis)
                total = total + warm_tail_energy(rows, basis, spectral.rank)
        if logits is not None:
            total = total + soft_target_divergence(output, expected, 4.0)
        return total

    def step(batch: Any) -> Tensor:
        x, target = batch[0].to(device, non_blocking=True), batch[1].to(device, non_blocking=True)
        if last:
            x = x.contiguous(memory_format=torch.channels_last)
        total = losses(x, target)
        if scaler is None:
            total.backward()
            optimizer.step()
        else:
            scaler.scale(total).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        if projector is not None:
            with torch.no_grad():
                projector.retract()
        optimizer.zero_grad(set_to_none=True)
        return total.detach()

    return step


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
