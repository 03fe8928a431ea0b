"""LinkOptions: one entry of the option ``links``."""

from __future__ import annotations

from typing import Literal, get_args

import attrs

from stillhouse import Fault
from stillhouse.errors import did_you_mean, raise_faults

__all__ = ["LinkOptions", "Pool"]

Pool = Literal["mean", "cls", "none"]
"""Pooling of one side's positions: ``mean`` over them, ``cls`` the first token, ``none`` keeps all of them."""


@attrs.frozen(kw_only=True)
class LinkOptions:
    """A student layer (or several) paired with a teacher layer (or as many).

    Attributes:
        student: the student's layer as ``named_modules()`` has it, or a glob (``stages.*``).
        teacher: the teacher's; a glob must match as many layers as the student's, which pair in the models' order.
            ``NAME:layer`` is a further teacher's.
        pool: what both sides are pooled by, ``mean``, ``cls`` or ``none``. Vectors (B, C) have no positions and pass
            ``mean`` and ``none`` as they are.
        student_pool: instead of ``pool``, for the student.
        teacher_pool: instead of ``pool``, for the teacher.
        prefix: how many tokens before the patch tokens (class, distillation, registers) ``mean`` and ``none``
            leave out, on every side that gives tokens.
        student_prefix: instead of ``prefix``, for the student.
        teacher_prefix: instead of ``prefix``, for the teacher.
        student_channels_last: the student's maps are (B, H, W, C), as in Swin transformers.
        teacher_channels_last: the teacher's are.
        name: what the link is called; empty: the student's path. With a glob: what its links' names begin with.

    Raises:
        StillhouseError: with every option that is wrong.
    """

    student: str
    teacher: str
    pool: Pool = "mean"
    student_pool: Pool | None = None
    teacher_pool: Pool | None = None
    prefix: int = 0
    student_prefix: int | None = None
    teacher_prefix: int | None = None
    student_channels_last: bool = False
    teacher_channels_last: bool = False
    name: str = ""

    def __attrs_post_init__(self) -> None:
        # A recipe's tables come typed; an object made in Python has only these checks.
        faults = [
            Fault(key, f"must be text, got {getattr(self, key)!r}", "a layer's dotted path or a glob")
            for key in ("student", "teacher", "name")
            if not isinstance(getattr(self, key), str)
        ]
        pools = get_args(Pool)
        for key in ("pool", "student_pool", "teacher_pool"):
            value = getattr(self, key)
            if value not in pools and (value is not None or key == "pool"):
                faults.append(
                    Fault(key, f"must be one of {', '.join(pools)}, got {value!r}", did_you_mean(str(value), pools))
                )
        for key in ("prefix", "student_prefix", "teacher_prefix"):
            value = getattr(self, key)
            if value is None and key != "prefix":
                continue
            if type(value) is not int or value < 0:
                faults.append(Fault(key, f"must be a whole number >= 0, got {value!r}"))
        if isinstance(self.name, str) and set(self.name) & set("/*?[]"):
            faults.append(
                Fault("name", f"must not contain / * ? [ ], got {self.name!r}", "other plugins choose links by glob")
            )
        raise_faults(faults)

    def get_pool(self, side: Literal["student", "teacher"]) -> Pool:
        """Return the pooling of one side."""
        own = self.student_pool if side == "student" else self.teacher_pool
        return self.pool if own is None else own

    def get_prefix(self, side: Literal["student", "teacher"]) -> int:
        """Return the number of leading tokens that ``mean`` and ``none`` leave out on one side."""
        own = self.student_prefix if side == "student" else self.teacher_prefix
        return self.prefix if own is None else own
