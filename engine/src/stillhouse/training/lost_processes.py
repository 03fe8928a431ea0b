"""Processes that a run depends on and that are gone, said in words wherever the run meets it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stillhouse.config.recipe import Recipe
from stillhouse.data.readers import explain_dead_reader
from stillhouse.distributed.lost import explain_lost_process

__all__ = ["naming_lost_processes"]


@contextmanager
def naming_lost_processes(recipe: Recipe) -> Iterator[None]:
    """Turn an error that leaves the block because a process is gone into one that says which, and what to lower.

    Raises:
        StillhouseError: in place of a RuntimeError of torch's loader or of a collective; other errors pass.
    """
    try:
        yield
    except RuntimeError as error:
        data = recipe.data
        found = explain_dead_reader(error, data) or explain_lost_process(error, data.batch_size)
        if found is None:
            raise
        raise found from error
