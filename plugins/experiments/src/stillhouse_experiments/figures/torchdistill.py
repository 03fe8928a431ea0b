"""The same distillation by torchdistill (1.1.5) and by Stillhouse: does the accuracy agree?

torchdistill is installed for this alone: ``pip install --no-deps torchdistill``.

For each seed both start from the same student, with the same teacher, the same ten labelled digits a class and the same
optimizer; cross-entropy plus logit distillation at a temperature of 4. Orders of samples differ: each has its own loader.
Target: the 90% interval of the difference of accuracies lies within 1.5 points.
"""

from __future__ import annotations

import copy
import statistics
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import RandomSampler, TensorDataset

from stillhouse import Recipe, StillhouseError, load_recipe, prepare
from stillhouse.experiments.statistics import paired_difference, t_interval
from stillhouse_experiments.figures.figure import Figure, Request
from stillhouse_experiments.machine import machine

__all__ = ["both", "make"]

RECIPE = Path("recipes") / "digits-vkd.toml"
"""Beside the folder of experiments."""
SEEDS = 30
LIMIT, TEMPERATURE, RATE, BATCH, EPOCHS = 0.015, 4.0, 2e-3, 32, 50


def recipe(file: Path, seed: int) -> Recipe:
    """The digits with logit distillation, at a constant learning rate, whole batches only."""
    changes = [
        f"run.seed={seed}", f"run.epochs={EPOCHS}", f"data.batch_size={BATCH}", f"optimizer.lr={RATE}",
        "schedule.warmup=0.0", 'schedule.decay="none"', f"plugins.logits.temperature={TEMPERATURE}",
    ]  # fmt: skip
    return load_recipe(file, overrides=changes, plugins="logits")


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Of ``model`` in eval mode."""
    model.eval()
    with torch.no_grad():
        right: Tensor = model(images).argmax(1) == labels
    return right.float().mean().item()


def both(file: Path, seed: int) -> tuple[float, float]:
    """Test accuracy of Stillhouse and of torchdistill."""
    training = prepare(recipe(file, seed), write=False)
    run, data = training.run, training.data
    assert run.teacher is not None
    student, teacher = copy.deepcopy(run.student), copy.deepcopy(run.teacher)
    for module in (*student.modules(), *teacher.modules()):
        module._forward_hooks.clear()  # the run's own
    stream = data.training()
    seen = [next(stream) for _ in range(data.steps_per_epoch)]
    test = [(batch.input, batch.target) for batch in data.evaluation("test")]
    images, labels = torch.cat([x for x, _ in test]), torch.cat([y for _, y in test])
    training.fit()
    ours = accuracy(run.student, images, labels)
    few = TensorDataset(torch.cat([batch.input for batch in seen]), torch.cat([batch.target for batch in seen]))
    torch.manual_seed(seed)
    by_torchdistill(student, teacher, few)
    return ours, accuracy(student, images, labels)


def by_torchdistill(student: nn.Module, teacher: nn.Module, few: TensorDataset) -> None:
    """Train ``student`` in place, by torchdistill's own box, loss and loader."""
    from torchdistill.core.distillation import DistillationBox

    kd = {
        "student_module_path": ".", "student_module_io": "output", "teacher_module_path": ".",
        "teacher_module_io": "output", "temperature": TEMPERATURE, "alpha": 1.0, "beta": 1.0, "reduction": "batchmean",
    }  # fmt: skip
    config: dict[str, Any] = {
        "num_epochs": EPOCHS,
        "train_data_loader": {
            "dataset_id": "train", "sampler": {"class_or_func": RandomSampler, "kwargs": {}}, "kwargs": {"batch_size": BATCH},
        },
        "teacher": {"requires_grad": False, "forward_proc": "forward_batch_only"},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": RATE}},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": {"key": "KDLoss", "kwargs": kd}, "weight": 1.0}}},
        },
    }  # fmt: skip
    teacher.eval()
    box = DistillationBox(teacher, student, {"train": few}, config, torch.device("cpu"), None, False, 1)
    for epoch in range(EPOCHS):
        box.pre_epoch_process(epoch=epoch)
        for inputs, targets, extra in box.train_data_loader:
            box.pre_forward_process()
            box.post_forward_process(loss=box.forward_process(inputs, targets, extra))
        box.post_epoch_process()


def make(request: Request) -> Figure:
    """The table; of no experiment's runs.

    Raises:
        StillhouseError: torchdistill is not installed, or fewer than two seeds.
    """
    try:
        import torchdistill
    except ImportError as error:
        hint = "pip install --no-deps torchdistill"
        raise StillhouseError(f"torchdistill cannot be imported: {error}", hint=hint) from None
    seeds = request.seeds or SEEDS
    if seeds < 2:
        raise StillhouseError(f"must be >= 2 to have an interval, got {seeds}", where="--seeds")
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [both(request.home.folder.parent / RECIPE, seed) for seed in range(seeds)]
    ours, theirs = [a for a, _ in found], [b for _, b in found]
    difference, interval = paired_difference(ours, theirs), t_interval([a - b for a, b in found], 0.9)
    assert interval is not None
    met = max(abs(interval[0]), abs(interval[1])) <= LIMIT
    lines = [
        f"Command: `stillhouse experiment --figure torchdistill`. Machine: {machine()}. Seeds 0 to {seeds - 1}, {EPOCHS} epochs, "
        f"batches of {BATCH}, AdamW at {RATE:g}, T = {TEMPERATURE:g}.",
        "",
        "| trained by | test accuracy, mean ± sd |",
        "|---|---|",
        f"| Stillhouse | {statistics.mean(ours):.4f} ± {statistics.stdev(ours):.4f} |",
        f"| torchdistill {torchdistill.__version__} | {statistics.mean(theirs):.4f} ± {statistics.stdev(theirs):.4f} |",
        f"| difference, paired | {difference.mean:+.4f}, 90% interval [{interval[0]:+.4f}, {interval[1]:+.4f}] |",
        "",
        f"Target, within {LIMIT} either way: {'met' if met else 'MISSED'}.",
    ]
    return Figure("torchdistill", lines, met)
