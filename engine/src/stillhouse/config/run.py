"""Tables of the recipe that a run always has: ``[run]``, ``[optimizer]``, ``[distributed]``, ``[checkpoints]``."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from stillhouse.config.fields import strict_fields
from stillhouse.errors import StillhouseError
from stillhouse.terminal import printable

__all__ = ["LONGEST_NAME", "CheckpointSpec", "DistributedSpec", "OptimizerSpec", "RunSpec"]

_MOST_THREADS = 4096

LONGEST_NAME = 200
"""Bytes of a folder's name that leave room for what is added to it; file systems take 255."""


def _check_positive(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and value <= 0:
        raise StillhouseError(f"must be > 0, got {value}", where=attribute.name)


def _check_not_negative(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value < 0:
        raise StillhouseError(f"must be >= 0, got {value}", where=attribute.name)


def _check_threads(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and value > _MOST_THREADS:
        raise StillhouseError(f"must be at most {_MOST_THREADS:,}, got {value}", where=attribute.name)


def _check_name(_instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    parts = value.split("/")
    if not value.strip() or "\\" in value or any(part in ("", ".", "..") for part in parts):
        what = f"must name a folder inside runs, got {value!r:.80}"
        raise StillhouseError(what, where=attribute.name, hint="another folder is named with --out")
    if any(len(part.encode(errors="replace")) > LONGEST_NAME for part in parts) or printable(value) != value:
        what = f"must have at most {LONGEST_NAME} bytes of text that can be shown in each part, got {value!r:.80}"
        raise StillhouseError(what, where=attribute.name)


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class RunSpec:
    """The recipe's ``[run]``.

    Attributes:
        name: the run's name; its folder is ``runs/NAME`` by default.
        epochs: passes over the training data.
        seed: every random number of the run follows from it.
        device: ``auto`` (CUDA when there is one, else CPU), ``cpu``, ``cuda``, ``cuda:1``, ...
        precision: dtype of the models' forward passes; ``bfloat16`` and ``float16`` run them under autocast, and
            ``float16`` scales the loss so that small gradients survive. Losses and methods are computed in float32
            either way.
        accumulate: number of parts of each batch that go through the models one after the other before an optimizer step:
            less memory for the same gradient. Batch statistics are those of a part.
        log_every: steps between two points in TensorBoard, and between two looks for non-finite losses.
        validate_every: epochs between two measurements of the validation split, for epochs that are short beside it; it
            is measured after the last epoch in any case. Only epochs that are measured can be the best one.
        figures: draw the pictures of task and plugins for TensorBoard, at the run's end, and before it within 2% of its time.
        loggers: who else is given what is logged and measured: names of installed loggers, or tables of a name and its options,
            ``["csv", { use = "mlflow", experiment = "digits" }]``. None: ``csv``, where the distribution ``stillhouse-loggers``
            is installed; ``[]``: nobody.
        threads: torch's CPU threads; None leaves torch's own choice, which the lock records. Sums in another order have
            other last digits, so that another number is another run.
        test: measure the test split at the end; false for runs that choose a setting, which must not see it.
        keep_predictions: keep what the student says of each test sample, in ``predictions.npz``, so that comparisons know how
            much of a difference is the choice of samples; of tasks with one class a sample.
        parent: a run's folder that this run goes on from, with all that its last checkpoint has, in a folder of its own: for
            more epochs (of both together), another optimizer's option, schedule or patience. ``--extend`` on the command line.
        base: folder that relative paths and modules of this recipe are found from; the recipe file's own by default.
    """

    name: str = attrs.field(default="run", validator=_check_name)
    epochs: int = attrs.field(default=20, validator=_check_positive)
    seed: int = attrs.field(default=0, validator=_check_not_negative)
    device: str = "auto"
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    accumulate: int = attrs.field(default=1, validator=_check_positive)
    log_every: int = attrs.field(default=50, validator=_check_positive)
    validate_every: int = attrs.field(default=1, validator=_check_positive)
    figures: bool = True
    loggers: tuple[str | dict[str, Any], ...] | None = None
    threads: int | None = attrs.field(default=None, validator=[_check_positive, _check_threads])
    test: bool = True
    keep_predictions: bool = False
    parent: str | None = None
    base: str = ""


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class OptimizerSpec:
    """The recipe's ``[optimizer]``.

    Attributes:
        name: a class of torch.optim in small letters (``adamw``, ``sgd``), or ``package.module:Class``.
        lr: learning rate, before the schedule.
        weight_decay: None leaves the optimizer's own default.
        clip_norm: gradients of all parameters together are scaled down to this Euclidean norm; None: as they are.
        layer_decay: the rate of each of the student's layers is this factor of the next one's, so that the head has ``lr`` and
            early layers less; 0.65 to 0.9 for fine-tuning transformers. None: all have ``lr``.
        spare_norms_and_biases: no weight decay of the student's norms, biases and other parameters of one dimension, nor of
            those that its ``no_weight_decay()`` names, as recipes of vision transformers have it. None: of all of them.
        args: further arguments: ``{ momentum = 0.9 }``.
    """

    name: str = "adamw"
    lr: float = attrs.field(default=1e-3, validator=_check_positive)
    weight_decay: float | None = None
    clip_norm: float | None = attrs.field(default=None, validator=_check_positive)
    layer_decay: float | None = attrs.field(default=None, validator=_check_positive)
    spare_norms_and_biases: bool | None = None
    args: dict[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class DistributedSpec:
    """The recipe's ``[distributed]``, for runs of several processes; one process takes no notice.

    Attributes:
        shard: the model whose parameters FSDP2 spreads over the processes, for one that is too large for one GPU:
            ``none``, ``teacher``, ``student`` or ``both``.
        find_unused: whether DDP looks in every step for parameters that got no gradient: ``auto`` where a loss weight
            follows a schedule, ``yes`` for a student with parts that its output does not depend on.
        sync_batchnorm: turn the student's BatchNorm into torch's SyncBatchNorm, whose statistics are those of the whole
            batch; CUDA only.
    """

    shard: Literal["none", "teacher", "student", "both"] = "none"
    find_unused: Literal["auto", "yes", "no"] = "auto"
    sync_batchnorm: bool = False


@attrs.frozen(kw_only=True, field_transformer=strict_fields)
class CheckpointSpec:
    """The recipe's ``[checkpoints]``. The last one is written at the ends of the first epoch, of the run, and of epochs between.

    Attributes:
        every_seconds: at an epoch's end the last one is written, and the best one before it, where so many seconds have gone
            by since it was. A kill loses the epoch that was under way and at most so many seconds of those that had ended;
            0: no epoch that had ended.
        every_steps: the last one is written every so many steps as well.
        keep_every: one that stays is written every so many epochs.
        best: keep the one with the best validation score.
        score: the validation metric that is the score, for the best checkpoint, early stopping and the summary:
            ``"val/f1"``; None: the task's own. Of equal scores the one with the lower ``loss`` is the best.
        score_mode: whether more or less of it is better, ``max`` or ``min``; None: the task's own of its own score, ``min``
            of losses and errors, else ``max``.
    """

    every_seconds: float = attrs.field(default=10.0, validator=_check_not_negative)
    every_steps: int | None = attrs.field(default=None, validator=_check_positive)
    keep_every: int | None = attrs.field(default=None, validator=_check_positive)
    best: bool = True
    score: str | None = None
    score_mode: Literal["max", "min"] | None = None

    def __attrs_post_init__(self) -> None:
        split, _, name = (self.score or "val/x").partition("/")
        if split != "val" or not name:
            raise StillhouseError(
                f'must be a metric of the validation split, such as "val/f1", got {self.score!r}', where="score"
            )
