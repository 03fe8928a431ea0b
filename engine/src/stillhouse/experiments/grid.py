"""Grids: ``--grid projector.kind=linear,orthogonal spectral.rank=1,2,4`` to the settings of every cell, and switched plugins."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import attrs

from stillhouse.config.names import default_name
from stillhouse.config.overrides import apply_override
from stillhouse.config.recipe import Recipe
from stillhouse.errors import Fault, StillhouseError, did_you_mean, raise_faults

__all__ = ["Axis", "apply_cell", "explain_cell", "format_cell", "make_cells", "parse_factors", "parse_grid"]

_OFF, _ON = "off", "on"
_MOST_FACTORS = 6
"""Of a factorial: 64 arms."""
_OPEN, _CLOSE, _QUOTES = "[{", "]}", "\"'"


@attrs.frozen
class Axis:
    """One key of a grid.

    Attributes:
        key: in the form of ``--set``: ``plugins.projector.kind``, ``optimizer.lr``; or ``plugins.features+projector``, plugins
            that are in the list together or not.
        values: in the form of ``--set``, in the order given, without repetitions; of such a switch, off and on.
    """

    key: str
    values: tuple[str, ...]

    @property
    def of_plugin(self) -> bool:
        """Whether it sets a plugin's option, which does not change the run without plugins."""
        return self.key.startswith("plugins.")

    @property
    def is_switch(self) -> bool:
        """Whether it says if plugins are in the list."""
        return _is_switch(self.key)

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


def parse_factors(texts: Sequence[str], recipe: Recipe) -> list[Axis]:
    """Parse the texts of ``--factorial``: a plugin each, or several with a plus between that are there together or not.

    Raises:
        StillhouseError: no plugin of the recipe's, one that is named twice, more than six factors.
    """
    names = _name_plugins(recipe)
    faults: list[Fault] = []
    seen: list[str] = []
    for text in texts:
        for name in text.split("+"):
            if name not in names:
                what = f"the recipe's list has no plugin {name!r}"
                faults.append(Fault(f"--factorial {text}", what, did_you_mean(name, names)))
            elif name in seen:
                faults.append(Fault(f"--factorial {text}", f"{name!r} must be named once"))
            seen.append(name)
    if len(texts) > _MOST_FACTORS:
        arms = f"got {len(texts)}, which are {2 ** len(texts):,} arms"
        faults.append(
            Fault("--factorial", f"must be at most {_MOST_FACTORS} factors, {arms}", "join some: features+projector")
        )
    raise_faults(faults)
    return [Axis(f"plugins.{text}", (_OFF, _ON)) for text in texts]


def _name_plugins(recipe: Recipe) -> list[str]:
    return [str(table.get("name") or default_name(str(table.get("use", "")))) for table in recipe.plugins]


def _is_switch(key: str) -> bool:
    return key.startswith("plugins.") and key.count(".") == 1


def apply_cell(recipe: Recipe, settings: Mapping[str, str]) -> Recipe:
    """The recipe with a cell's settings.

    Raises:
        StillhouseError: a setting that no recipe has.
    """
    if not settings:
        return recipe
    gone = [
        name for key, value in settings.items() if _is_switch(key) and value == _OFF for name in _list_switched(key)
    ]
    kept = [table for table, name in zip(recipe.plugins, _name_plugins(recipe), strict=True) if name not in gone]
    tables = attrs.evolve(recipe, plugins=tuple(kept)).to_dict()
    for key, value in settings.items():
        if not _is_switch(key):
            apply_override(tables, f"{key}={value}")
    return Recipe.from_dict(tables, base=recipe.base)


def _list_switched(key: str) -> list[str]:
    return key.removeprefix("plugins.").split("+")


def explain_cell(error: StillhouseError, axes: Sequence[Axis]) -> StillhouseError:
    """The error of a cell that cannot be built; where plugins are switched, with what makes them switchable."""
    if not any(axis.is_switch for axis in axes):
        return error
    hint = "plugins that need one another are one factor: --factorial features+projector logits"
    return StillhouseError(faults=[attrs.evolve(fault, hint=hint) for fault in error.faults])


def format_cell(settings: Mapping[str, str]) -> str:
    """A cell's name."""
    return ",".join(f"{key.removeprefix('plugins.')}={value}" for key, value in settings.items())


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
