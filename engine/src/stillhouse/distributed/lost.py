"""A process of the run that is gone, as the others meet it: said in three lines in place of a collective's traceback."""

from __future__ import annotations

import re

import torch.distributed as dist

from stillhouse.distributed import processes as parallel
from stillhouse.errors import Fault, StillhouseError, first_line

__all__ = ["explain_lost_process"]

_SAYINGS = re.compile(
    r"Connection (closed|reset) by peer|Broken pipe|Socket Timeout|Timed out waiting|failed to pass monitoredBarrier"
    r"|Watchdog caught collective operation timeout|NCCL communicator was aborted|remote process exited"
    r"|Application timeout caused pair closure"
)
"""What gloo and NCCL say when another process does not answer."""


def explain_lost_process(error: BaseException, batch_size: int | None = None) -> StillhouseError | None:
    """The message for a collective's error where another process is gone; None for any other error.

    Args:
        error: what was raised.
        batch_size: the recipe's, for the number to lower.
    """
    if not parallel.is_distributed() or not isinstance(error, RuntimeError):
        return None
    if not isinstance(error, dist.DistError) and not _SAYINGS.search(str(error)):
        return None
    lower = "data.batch_size" if batch_size is None else f"data.batch_size = {batch_size}"
    return StillhouseError(
        faults=[
            Fault("", f"another process of this run has ended, or does not answer: {first_line(error)}"),
            Fault(
                "",
                "its own message says why; where it has left none, the system may have killed it for memory",
                f"lower {lower} or data.workers, or raise run.accumulate",
            ),
            Fault("", "what was trained until the last checkpoint is kept", "go on with --resume"),
        ]
    )
