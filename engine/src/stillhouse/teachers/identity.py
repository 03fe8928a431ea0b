"""Identity of weights: hashes of what a run learns from and starts from, by which two runs can be told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from torch import nn

from stillhouse.config.home import find_path
from stillhouse.config.kept import KeptWeights
from stillhouse.config.model import ModelSpec
from stillhouse.config.recipe import Recipe
from stillhouse.config.teacher import TeacherSpec
from stillhouse.errors import StillhouseError
from stillhouse.files import open_file
from stillhouse.models.weights import find_weights
from stillhouse.teachers.cache.key import hash_weights
from stillhouse.teachers.prerequisites import Prerequisite, get_role

__all__ = ["identify_sources"]

_WHOLE = 1 << 30
"""Bytes of a file that is hashed whole; of a larger one its size and pieces are."""
_PIECE, _PIECES = 1 << 20, 256


def identify_sources(
    recipe: Recipe, needs: Sequence[Prerequisite], student: nn.Module, teachers: Mapping[str, nn.Module]
) -> dict[str, str]:
    """Hashes of the weights that other recipes, files and Python give a run, by the recipe's table that names them.

    What is published or random has none: its name, or the seed, says what it is.

    Args:
        recipe: the run's, resolved.
        needs: the recipes that it names, known by their content.
        student: as it starts; hashed where it came from Python.
        teachers: by name; likewise.

    Raises:
        StillhouseError: a file that cannot be read.
    """
    found = {need.role: need.identity for need in needs}
    specs: dict[str, tuple[ModelSpec | TeacherSpec, nn.Module | None]] = {"student": (recipe.student, student)}
    specs |= {get_role(name): (spec, teachers.get(name)) for name, spec in recipe.all_teachers.items()}
    for role, (spec, model) in specs.items():
        if spec.checkpoint is not None:
            asked = spec.asked_weights if isinstance(spec, ModelSpec) else spec.weights
            found[role] = _hash_file(find_path(spec.checkpoint, recipe.base), asked)
        elif spec.given and model is not None:
            found[role] = hash_weights(model)
    return found


def _hash_file(path: Path, weights: KeptWeights | None = None) -> str:
    if path.is_dir():
        path = find_weights(path, weights).file
    digest = hashlib.sha256()
    try:
        size = path.stat().st_size
        digest.update(str(size).encode())
        with open_file(path) as file:
            for start in _choose_pieces(size):
                file.seek(start)
                digest.update(file.read(_PIECE))
    except OSError as error:
        raise StillhouseError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    return digest.hexdigest()


def _choose_pieces(size: int) -> Iterator[int]:
    if size <= _WHOLE:
        yield from range(0, size, _PIECE)
        return
    for number in range(_PIECES):
        yield number * (size - _PIECE) // (_PIECES - 1)
