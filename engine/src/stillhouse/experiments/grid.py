"""Grids: ``--grid projector.kind=linear,orthogonal spectral.rank=1,2,4`` as the settings of every cell."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import attrs

from stillhouse.config.names import default_name
from stillhouse.config.recipe import Recipe
from stillhouse.errors import Fault, did_you_mean, raise_faults

__all__ = ["Axis", "cells", "parse_grid"]

_OPEN, _CLOSE, _QUOTES = "[{", "]}", "\"'"


@attrs.frozen
class Axis:
    """One key of a grid.

    Attributes:
        key: as ``--set`` takes it: ``plugins.projector.kind``, ``optimizer.lr``.
        values: each as ``--set`` takes it, in the order given, none twice.
    """

    key: str
    values: tuple[str, ...]

    @property
    def of_plugin(self) -> bool:
        """Whether it sets an option of a plugin, and so leaves the run without plugins as it is."""
        return self.key.startswith("plugins.")

    @property
    def short(self) -> str:
        """The key as tables show it."""
        return self.key.removeprefix("plugins.")


def parse_grid(texts: Sequence[str], recipe: Recipe) -> list[Axis]:
    """The axes that the texts of ``--grid`` name.

    Args:
        texts: ``KEY=VALUE,VALUE,...`` each; the key as in ``--set``, where ``plugins.`` may be left out. Commas inside
            brackets and quotes belong to the value.
        recipe: whose plugins may be named.

    Raises:
        StillhouseError: every text that is of another form, names nothing of the recipe or sets the seed.
    """
    tables = [field.name for field in attrs.fields(Recipe)]
    plugins = {
        str(name)
        for table in recipe.plugins
        for name in (table.get("name"), default_name(table.get("use", "")))
        if name
    }
    faults: list[Fault] = []
    axes: list[Axis] = []
    for text in texts:
        key, separator, listed = (part.strip() for part in text.partition("="))
        values = tuple(dict.fromkeys(_split(listed)))
        first = key.partition(".")[0]
        where = f"--grid {key}"
        if not separator or not key or not all(values):
            faults.append(
                Fault("--grid", f"{text!r} is not KEY=VALUE,VALUE,...", "--grid projector.kind=linear,orthogonal")
            )
            continue
        if first in plugins and first not in tables:
            key = f"plugins.{key}"
        elif first not in tables:
            faults.append(
                Fault(
                    where, f"the recipe has no table and no plugin {first!r}", did_you_mean(first, {*tables, *plugins})
                )
            )
            continue
        if key == "run.seed":
            faults.append(Fault(where, "the seed is what runs are paired by", "--seeds says how many"))
        if any(axis.key == key for axis in axes):
            faults.append(Fault(where, "this key is given twice", "give all of its values at once"))
        axes.append(Axis(key, values))
    raise_faults(faults)
    return axes


def cells(axes: Sequence[Axis]) -> list[dict[str, str]]:
    """Every combination of the axes' values, the last axis fastest: ``{key: value}`` each; one empty cell of no axes."""
    keys = [axis.key for axis in axes]
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(axis.values for axis in axes))]


def _split(text: str) -> list[str]:
    """The values between the commas that stand outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES:
            quote = character
        elif character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth -= 1
        elif character == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += character
    return [part.strip() for part in parts]
