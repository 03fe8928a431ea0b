"""Grids: ``--grid projector.kind=linear,orthogonal spectral.rank=1,2,4`` to the settings of every cell."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import attrs

from stillhouse.config.names import default_name
from stillhouse.config.recipe import Recipe
from stillhouse.errors import Fault, did_you_mean, raise_faults

__all__ = ["Axis", "make_cells", "parse_grid"]

_OPEN, _CLOSE, _QUOTES = "[{", "]}", "\"'"


@attrs.frozen
class Axis:
    """One key of a grid.

    Attributes:
        key: in the form of ``--set``: ``plugins.projector.kind``, ``optimizer.lr``.
        values: in the form of ``--set``, in the order given, without repetitions.
    """

    key: str
    values: tuple[str, ...]

    @property
    def of_plugin(self) -> bool:
        """Whether it sets a plugin's option, which does not change the run without plugins."""
        return self.key.startswith("plugins.")

    @property
    def short(self) -> str:
        """The key in tables."""
        return self.key.removeprefix("plugins.")


def parse_grid(texts: Sequence[str], recipe: Recipe) -> list[Axis]:
    """Parse the texts of ``--grid`` to axes.

    Args:
        texts: ``KEY=VALUE,VALUE,...`` each; the key as in ``--set``, where ``plugins.`` may be left out. Commas inside
            brackets and quotes belong to the value.
        recipe: the recipe of the plugins.

    Raises:
        StillhouseError: every text of another form, of an unknown table or plugin, or of the seed.
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
                Fault("--grid", f"must be KEY=VALUE,VALUE,..., got {text!r}", "--grid projector.kind=linear,orthogonal")
            )
            continue
        if first in plugins and first not in tables:
            key = f"plugins.{key}"
        elif first not in tables:
            faults.append(Fault(where, f"unknown table or plugin {first!r}", did_you_mean(first, {*tables, *plugins})))
            continue
        if key == "run.seed":
            faults.append(Fault(where, "must not be the seed, by which runs are paired", "--seeds sets their number"))
        if any(axis.key == key for axis in axes):
            faults.append(Fault(where, "must be given once", "with all of its values"))
        axes.append(Axis(key, values))
    raise_faults(faults)
    return axes


def make_cells(axes: Sequence[Axis]) -> list[dict[str, str]]:
    """Make every combination of the axes' values, the last axis fastest: ``{key: value}`` each; without axes one empty cell."""
    keys = [axis.key for axis in axes]
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(axis.values for axis in axes))]


def _split(text: str) -> list[str]:
    """Split at the commas outside brackets and quotes."""
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
