"""What a terminal, and what a log, shows of a run."""

from __future__ import annotations

import re
from io import StringIO
from itertools import pairwise
from typing import Any

import pytest
from ignite.engine import Events
from support import recipe

from stillhouse import prepare
from stillhouse.terminal import Terminal


def shown(progress: Any, *, is_terminal: bool, epochs: int = 2) -> tuple[list[str], list[Any], Any]:
    """The lines that a run shows, its bar at the end of each epoch, and its result."""
    training = prepare(recipe(run__epochs=epochs), write=False, progress=progress)
    screen = StringIO()
    observer = training.observers.progress
    assert observer is not None
    observer._console = Terminal(file=screen, force_terminal=is_terminal, width=200)
    bars: list[Any] = []
    training.run.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: bars.append(observer._bar))
    result = training.fit()
    assert observer._bar is None, "it is gone when the run is"
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "\n", screen.getvalue()).replace("\r", "\n").splitlines()
    return lines, bars, result


@pytest.mark.parametrize("is_terminal", [True, False])
def test_each_epoch_leaves_a_line_with_loss_and_score(is_terminal: bool):
    lines, bars, result = shown(True, is_terminal=is_terminal)
    assert [bar is not None for bar in bars] == [is_terminal] * 2
    epochs = [line.rstrip() for line in lines if re.match(r"tiny: epoch \d/2", line)]
    assert [line[:15] for line in epochs] == ["tiny: epoch 1/2", "tiny: epoch 2/2"]
    assert re.fullmatch(
        rf"tiny: epoch 2/2  loss \d+\.\d{{4}}  val accuracy {result.metrics['val']['accuracy']:.4f}", epochs[-1]
    )


def test_a_log_has_some_dozens_of_lines_and_the_first_and_last_epoch():
    lines, _, _ = shown(True, is_terminal=False, epochs=130)
    epochs = [int(found[1]) for line in lines if (found := re.match(r"tiny: epoch (\d+)/130", line))]
    assert len(epochs) in (40, 41)
    assert (epochs[0], epochs[-1]) == (1, 130)
    assert max(b - a for a, b in pairwise(epochs)) == 4


def test_verbose_is_each_epoch_with_its_losses_and_metrics():
    lines, _, _ = shown("verbose", is_terminal=False, epochs=50)
    assert sum(line.startswith("tiny: epoch") for line in lines) == 50
    named = {line.split()[0] for line in lines if line.startswith("    ")}
    assert {"learning_rate/student", "val/loss"} <= named
