"""A step whose terms go backward one by one, for a plugin that combines their gradients, against the ordinary step."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _bench import interleaved, ratio, report

sys.path.insert(0, str(Path(__file__).parents[1]))
from overhead import small_cnn

from stillhouse import Plugin, Recipe, hookimpl, plugin, prepare

LISTS = {"2 terms": ["logits"], "4 terms": ["features", "normalizer", "projector", "spectral", "logits"]}


@plugin
class Total(Plugin):
    """Adds the gradients up: nothing but what the hook itself costs."""

    @hookimpl
    def combine_gradients(self, step, gradients):
        return [torch.stack(own).sum(0) for own in zip(*gradients.values(), strict=True)]


def step_of(kinds: list[str], *, combined: bool) -> Callable[[], Any]:
    """A training step of the small CNN with the plugins ``kinds``, on one batch."""
    tables = small_cnn().to_dict()
    tables["plugins"] = [table for table in tables["plugins"] if table["use"] in kinds]
    if combined:
        tables["plugins"].append({"use": "gradients:Total", "name": "total"})
    recipe = Recipe.from_dict(tables, base=Path(__file__).parent)
    training = prepare(recipe, write=False)
    batch = next(iter(training.data.training()))
    training.run.composition.train()
    trainer = training.run.trainer
    trainer.state.epoch = trainer.state.iteration = 1
    return lambda: trainer._process_function(trainer, batch)


def main() -> None:
    """Measure and report."""
    torch.set_num_threads(1)
    rows = []
    for terms, kinds in LISTS.items():
        cases = {"one": step_of(kinds, combined=False), "each": step_of(kinds, combined=True)}
        low, middle, high = ratio(interleaved(cases), "each", "one")
        rows.append([terms, f"x{middle:.2f} ({low:.2f} to {high:.2f})"])
    report(
        "A step that combines gradients",
        ["what", "over the ordinary step: median (least to most)"],
        rows,
        [
            "The small CNN of [overhead](overhead.md) with its teacher, in batches of 32. The plugin adds the gradients up. "
            "The task's loss is one of the terms."
        ],
    )


if __name__ == "__main__":
    main()
