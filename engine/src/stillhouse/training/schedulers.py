"""The learning rate's scheduler: ours, torch's or timm's, by the recipe's ``[schedule]``."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Literal, Protocol

import attrs
from torch.optim import Optimizer, lr_scheduler

from stillhouse.config.learning_rate import LearningRateSchedule
from stillhouse.config.references import import_object
from stillhouse.errors import StillhouseError, did_you_mean, first_line

__all__ = ["Moves", "Schedules", "build_scheduler"]

_BY_STEP = ("OneCycleLR", "CyclicLR")
_UNFIT = ("LRScheduler", "ChainedScheduler", "SequentialLR", "LambdaLR", "MultiplicativeLR")
"""Made of other schedulers, or of functions, which no recipe can name."""


def _list_known() -> dict[str, type[Any]]:
    found: dict[str, type[Any]] = {"plateau": lr_scheduler.ReduceLROnPlateau}
    for name, cls in vars(lr_scheduler).items():
        if inspect.isclass(cls) and issubclass(cls, lr_scheduler.LRScheduler) and name not in _UNFIT:
            found |= {name.lower(): cls, name.lower().removesuffix("lr"): cls}
    return found


_KNOWN = _list_known()


class Schedules(Protocol):
    """What a scheduler is here: something with a state, which sets the rates of an optimizer's groups."""

    def state_dict(self) -> dict[str, Any]:
        """Its state, for the checkpoint."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Go on from a state."""


@attrs.frozen(eq=False)
class Moves:
    """A scheduler, and when it moves on.

    Attributes:
        scheduler: torch's or timm's; its state belongs into the checkpoint.
        per: after which it does.
        by_score: it is told the validation score.
    """

    scheduler: Any
    per: Literal["step", "epoch"]
    by_score: bool = False

    def move(self, count: int, score: float | None = None) -> None:
        """Move on.

        Args:
            count: steps or epochs done.
            score: of the validation split, for one that goes by it.
        """
        if hasattr(self.scheduler, "step_update"):  # timm's, which is told where it is
            (self.scheduler.step_update if self.per == "step" else self.scheduler.step)(count, score)
        elif self.by_score:
            self.scheduler.step(score)
        else:
            self.scheduler.step()


def build_scheduler(
    schedule: LearningRateSchedule,
    optimizer: Optimizer,
    total_steps: int,
    steps_per_epoch: int,
    *,
    mode: str = "max",
    base: Path | None = None,
) -> Moves | None:
    """The scheduler that a recipe asks for; None for a constant learning rate.

    Args:
        schedule: the recipe's.
        optimizer: whose rates it sets.
        total_steps: of the run.
        steps_per_epoch: of the run.
        mode: whether more (``max``) or less of the score is better.
        base: the recipe's folder.

    Raises:
        StillhouseError: a warm-up that is longer than the run, no such scheduler, or arguments that it does not take.
    """
    if schedule.name is not None:
        return _build_named(schedule.name, schedule, optimizer, total_steps, mode, base)
    if schedule.constant and schedule.peak == 1.0:
        return None
    try:
        ours = schedule.to_steps(total_steps, steps_per_epoch)
    except StillhouseError as error:
        raise error.within("schedule") from None
    factor = lr_scheduler.LambdaLR(optimizer, lambda step: ours.at(min(step, total_steps - 1), total_steps))
    return Moves(factor, "step")


def _build_named(
    name: str, schedule: LearningRateSchedule, optimizer: Optimizer, total_steps: int, mode: str, base: Path | None
) -> Moves:
    cls: Any = _KNOWN.get(name.lower())
    if cls is None and ":" in name:
        cls = import_object(name, "schedule.name", base)
    if cls is None:
        raise StillhouseError(f"unknown scheduler {name!r}", where="schedule.name", hint=did_you_mean(name, _KNOWN))
    if not (isinstance(cls, type) and callable(getattr(cls, "step", None)) and hasattr(cls, "state_dict")):
        what = f"{name!r} must be a class of schedulers, got {type(cls).__name__}"
        raise StillhouseError(
            what, where="schedule.name", hint="one with step and state_dict, as torch's and timm's have"
        )
    args = dict(schedule.args or {})
    by_score = issubclass(cls, lr_scheduler.ReduceLROnPlateau)
    if by_score:
        args = {"mode": mode, **args}
    if cls is lr_scheduler.OneCycleLR:
        args = {"max_lr": [group["lr"] for group in optimizer.param_groups], **args}
        if "epochs" not in args:
            args = {"total_steps": total_steps, **args}
    takes = inspect.signature(cls).parameters
    for key in args:
        if key not in takes:
            hint = did_you_mean(key, [name for name in takes if name != "optimizer"])
            raise StillhouseError(f"{cls.__name__} has no argument {key!r}", where=f"schedule.args.{key}", hint=hint)
    try:
        made = cls(optimizer, **args)
    except (Exception, SystemExit) as error:  # its arguments may be anything, and it somebody's own
        given = ", ".join(f"{key} = {value!r}" for key, value in args.items())
        raise StillhouseError(f"{cls.__name__} with {given}: {first_line(error)}", where="schedule") from error
    by_step = cls.__name__ in _BY_STEP
    in_epochs = getattr(made, "t_in_epochs", None)  # timm's, which does nothing where it is told of the other
    if in_epochs is not None:
        by_step = not in_epochs
        if schedule.per is not None and (schedule.per == "step") != by_step:
            what = f"must be {'step' if by_step else 'epoch'!r}, as t_in_epochs = {str(in_epochs).lower()} has it"
            raise StillhouseError(f"{what}, got {schedule.per!r}", where="schedule.per", hint="leave it out")
    if by_score and schedule.per == "step":
        what = "must be 'epoch' of a scheduler that goes by the validation split's score, got 'step'"
        raise StillhouseError(what, where="schedule.per", hint="leave it out")
    per = schedule.per or ("step" if by_step else "epoch")
    if isinstance(made, lr_scheduler.OneCycleLR) and per == "step" and made.total_steps < total_steps:
        what = f"must be at least the run's {total_steps} steps, got {made.total_steps}"
        raise StillhouseError(what, where="schedule.args.total_steps", hint="leave it out")
    return Moves(made, per, by_score)
