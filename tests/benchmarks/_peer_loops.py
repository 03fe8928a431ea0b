"""One distillation step as each system has it, for ``peers.py``: a loop takes a side and a case, and trains on."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from _peer_cases import FOREVER, STILLHOUSE, Made, T, fold, sgd
from _turns import Side
from ignite.engine import Engine, Events
from torch import Tensor, nn

from stillhouse.config.run_options import WatchSpec

__all__ = ["LOOPS", "follow"]


def by_hand(side: Side, made: Made, *, fused: bool | None = None, folded: bool = False) -> None:
    """Plain torch; ``fused`` with the kernels that Stillhouse chooses on a CPU, ``folded`` with the teacher that it calls."""
    method = made.method()
    if folded:
        fold(method.teacher)
    optimizer = sgd(method.trained(), fused=fused)
    orthogonal = made.case.projection == "orthogonal"
    for x, y in side.stream():
        loss = method.total(*method.answer(x), y)
        loss.backward()
        optimizer.step()
        if orthogonal:
            method.retract()
        optimizer.zero_grad()
        side.note(loss)


def bare_ignite(side: Side, made: Made) -> None:
    """The same under ignite's engine, without handlers."""
    method = made.method()
    optimizer = sgd(method.trained())

    def step(_engine: Engine, batch: Any) -> Tensor:
        x, y = batch
        loss = method.total(*method.answer(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        side.note(loss)
        return loss.detach()

    Engine(step).run(side.stream(), max_epochs=1, epoch_length=FOREVER)


def stillhouse(side: Side, made: Made, *, log_every: int | None = None) -> None:
    """A list of four plugins; with ``log_every`` into a folder, with TensorBoard's events.

    The watcher has a share of the time that goes by, which is the others' as well here: so it gets a share of its share.
    """
    watch = {"budget": WatchSpec().budget / made.sides}
    if log_every is None:
        follow(side, made, made.prepare(watch=watch))
        return
    follow(side, made, made.prepare(log_every, tempfile.mkdtemp(), watch=watch))


def follow(side: Side, made: Made, training: Any) -> None:
    """Train the prepared run, from the weights that everybody starts from, as its session would: one epoch without an end."""
    run = training.run
    run.student.load_state_dict(made.student.state_dict())
    run.teacher.load_state_dict(made.teacher.state_dict())
    with torch.no_grad():
        for parameter, weight in zip(run.module("projector").parameters(), made.weights, strict=True):
            parameter.copy_(weight)
    run.composition.train()
    trainer = run.trainer

    def note(engine: Engine) -> None:
        side.note(engine.state.output)
        if len(side.losses) == Side.NOTED:
            trainer.remove_event_handler(note, Events.ITERATION_COMPLETED)

    trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    trainer.run(training.clock.read(side.stream(), 0), max_epochs=1, epoch_length=FOREVER)


def torchdistill(side: Side, made: Made) -> None:
    """torchdistill's DistillationBox, the projection in an auxiliary wrapper."""
    from torchdistill.core.distillation import DistillationBox
    from torchdistill.losses.registry import register_mid_level_loss
    from torchdistill.models.registry import register_auxiliary_model_wrapper
    from torchdistill.models.wrapper import AuxiliaryModelWrapper

    student, teacher = copy.deepcopy(made.student), copy.deepcopy(made.teacher)
    projection = made.method().projections[0]

    @register_auxiliary_model_wrapper(key="ProjectedStudent")
    class ProjectedStudent(AuxiliaryModelWrapper):
        def __init__(self, student_model: nn.Module, **_more: Any) -> None:
            super().__init__()
            self.student_model, self.projection = student_model, projection

        def forward(self, x: Tensor) -> Tensor:
            return self.student_model(x)

        def secondary_forward(self, io_dict: Any) -> None:
            self.projection(io_dict["student_model.stage3"]["output"].mean((2, 3)))

    @register_mid_level_loss(key="ProjectedMSE")
    class ProjectedMSE(nn.Module):
        def forward(self, student_io: Any, teacher_io: Any, *_more: Any, **_named: Any) -> Tensor:
            t = teacher_io["stage3"]["output"].mean((2, 3))
            return F.mse_loss(student_io["projection"]["output"], F.layer_norm(t, t.shape[-1:]))

    ends = {"student_module_path": ".", "student_module_io": "output"}
    ends |= {"teacher_module_path": ".", "teacher_module_io": "output"}
    # KDLoss is alpha x cross-entropy + beta x T^2 x divergence.
    soft = {**ends, "temperature": T, "alpha": 1.0, "beta": 1.0, "reduction": "batchmean"}
    terms = {
        "kd": {"criterion": {"key": "KDLoss", "kwargs": soft}, "weight": 1.0},
        "feature": {"criterion": {"key": "ProjectedMSE", "kwargs": {}}, "weight": 1.0},
    }
    config = {
        "num_epochs": 1,
        "teacher": {
            "requires_grad": False,
            "forward_proc": "forward_batch_only",
            "forward_hook": {"input": [], "output": ["stage3"]},
        },
        "student": {
            "forward_proc": "forward_batch_only",
            "auxiliary_model_wrapper": {"key": "ProjectedStudent", "kwargs": {}},
            "forward_hook": {"input": [], "output": ["student_model.stage3", "projection"]},
        },
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.05, "momentum": 0.9}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
    }
    box = DistillationBox(teacher, student, {}, config, torch.device("cpu"), None, False, 1)
    box.pre_epoch_process(epoch=0)
    for x, y in side.stream():
        box.pre_forward_process()
        loss = box.forward_process(x, y, None)
        box.post_forward_process(loss=loss)
        side.note(loss)


def lightning(side: Side, made: Made, *, default: bool = False) -> None:
    """Lightning's Trainer, with all that can be switched off off, or at its defaults with each term logged."""
    import lightning as L

    method = made.method()

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.method = method

        def training_step(self, batch: Any, _index: int) -> Tensor:
            x, y = batch
            loss = self.method.total(*self.method.answer(x), y)
            if default:
                self.log("loss", loss)
            side.note(loss)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return sgd(self.method.trained())

    class Loader:
        def __iter__(self) -> Any:
            return side.stream()

    options: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 1, "max_steps": FOREVER}
    options |= {"default_root_dir": tempfile.mkdtemp(), "enable_model_summary": False}
    if not default:
        options |= {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    L.Trainer(**options).fit(Module(), Loader())


def composer(side: Side, made: Made) -> None:
    """Composer's Trainer, without loggers."""
    from composer import Trainer
    from composer.core import DataSpec
    from composer.models import ComposerModel

    method = made.method()

    class Model(ComposerModel):
        def __init__(self) -> None:
            super().__init__()
            self.method = method

        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            self.method.teacher.eval()  # Composer puts all of a model into train mode, BatchNorm's statistics of the teacher with it
            return self

        def forward(self, batch: Any) -> Any:
            return self.method.answer(batch[0])

        def loss(self, outputs: Any, batch: Any) -> Tensor:
            total = self.method.total(*outputs, batch[1])
            side.note(total)
            return total

    class Loader:
        batch_size = made.case.batch

        def __iter__(self) -> Any:
            return side.stream()

    Trainer(
        model=Model(),
        train_dataloader=DataSpec(Loader(), num_samples=None),
        train_subset_num_batches=FOREVER,
        max_duration=f"{FOREVER}ba",
        optimizers=sgd(method.trained()),
        device="cpu",
        progress_bar=False,
        log_to_console=False,
        loggers=[],
        auto_log_hparams=False,
        save_folder=None,
    ).fit()


LOOPS: dict[str, Callable[[Side, Made], None]] = {
    "by hand": by_hand,
    "by hand, fused": lambda side, made: by_hand(side, made, fused=True),
    "by hand, fused and folded": lambda side, made: by_hand(side, made, fused=True, folded=True),
    "bare ignite": bare_ignite,
    STILLHOUSE: stillhouse,
    f"{STILLHOUSE}, into a folder": lambda side, made: stillhouse(side, made, log_every=50),
    f"{STILLHOUSE}, log_every = 1": lambda side, made: stillhouse(side, made, log_every=1),
    "torchdistill": torchdistill,
    "Lightning, bare": lightning,
    "Lightning, default": lambda side, made: lightning(side, made, default=True),
    "Composer": composer,
}
