"""The recipe's ``[schedule]``: of the learning rate, ours or one of torch's or timm's by name."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from stillhouse.errors import StillhouseError
from stillhouse.schedule import Schedule

__all__ = ["LearningRateSchedule"]


@attrs.frozen(kw_only=True)
class LearningRateSchedule(Schedule):
    """The recipe's ``[schedule]``: the keys of :class:`stillhouse.schedule.Schedule`, or ``name``.

    Attributes:
        name: a scheduler instead: a class of torch.optim.lr_scheduler in small letters, with or without its ``lr`` at the end
            (``plateau``, ``onecycle``, ``multistep``, ``cosineannealing``), or ``package.module:Class``, such as
            ``timm.scheduler:CosineLRScheduler``. Its state is in the checkpoint.
        args: its arguments. ``plateau`` goes by the score and knows which way is better; ``onecycle`` has the run's steps as
            ``total_steps`` and the optimizer's rate as ``max_lr``.
        per: it moves on after every ``step`` or ``epoch``; None: as it is meant to, onecycle and cyclic by step, others by
            epoch. ``plateau`` moves on where the validation split was measured.
    """

    name: str | None = None
    args: dict[str, Any] | None = None
    per: Literal["step", "epoch"] | None = None

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        for key in ("args", "per"):
            if self.name is None and getattr(self, key) is not None:
                raise StillhouseError("needs `name`", where=key, hint='name = "plateau"')
        if self.name is None:
            return
        own = [a.name for a in attrs.fields(Schedule) if getattr(self, a.name) != a.default]
        if own:
            raise StillhouseError(f"cannot be combined with `{own[0]}`", where="name", hint="leave one of them out")
