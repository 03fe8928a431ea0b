"""The run that a plugin is tried in: the kit's own, with what the plugin requires, or a recipe's, cut short."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import attrs

from stillhouse.config.recipe import Recipe
from stillhouse.config.structure import unstructure
from stillhouse.contract.plugin import Plugin
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, raise_faults
from stillhouse.registry.plugins import kind_of, load, plugins_in_use
from stillhouse.testing.companions import Pairs, find_companions
from stillhouse.testing.material import LAYERS, make_tables
from stillhouse.testing.subject import Subject

__all__ = ["make_subject", "quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, and no teacher's cache but one of its own: a check leaves nothing behind."""
    kept = os.environ.get("STILLHOUSE_CACHE")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", StillhouseWarning)
        warnings.simplefilter("ignore", UserWarning)
        os.environ["STILLHOUSE_CACHE"] = folder
        try:
            yield
        finally:
            if kept is None:
                del os.environ["STILLHOUSE_CACHE"]
            else:
                os.environ["STILLHOUSE_CACHE"] = kept


def make_subject(
    plugin: str | type[Plugin],
    *,
    options: Mapping[str, Any] | None = None,
    recipe: Recipe | str | Path | None = None,
    slow: bool = False,
) -> Subject:
    """The plugin with its options and a run around it: see :func:`stillhouse.testing.check_plugin`.

    Raises:
        StillhouseError: likewise.
    """
    cls, use = (load(plugin)[0], plugin) if isinstance(plugin, str) else (plugin, "")
    if not (isinstance(cls, type) and issubclass(cls, Plugin) and "__attrs_attrs__" in vars(cls)):
        raise StillhouseError(f"must be a plugin's name or class, got {cls!r}", hint="a class decorated with @plugin")
    if recipe is None:
        own = dict(cls.example if options is None else options)
        _check_given(cls, own)
        return _with_links_enough(Subject(cls, own, make_tables(), before=find_companions(cls), slow=slow, use=use))
    return _find_in_recipe(cls, options, recipe, slow=slow, use=use)


def _check_given(cls: type[Plugin], options: Mapping[str, Any]) -> None:
    fields: Any = attrs.fields(cast("Any", cls))
    raise_faults(
        Fault(
            f"the option {field.name!r}",
            "must be given",
            f"`example: ClassVar = {{{field.name!r}: ...}}` in the class, options=, --set or --recipe; "
            f"the models have the layers {', '.join(LAYERS)}",
        )
        for field in fields
        if field.default is attrs.NOTHING and field.name not in options
    )


def _with_links_enough(subject: Subject) -> Subject:
    """The same with a second link, where one is refused and two are not: a method may relate links to one another."""
    if not any(isinstance(plugin, Pairs) for plugin in subject.before):
        return subject
    more = [Pairs(name="pairs", layers=("stage2", "stage3")) if isinstance(p, Pairs) else p for p in subject.before]
    other = Subject(
        subject.cls, subject.options, subject.tables, before=more, slow=subject.slow, use=subject.use, base=subject.base
    )
    with quiet():
        if _is_refused(subject) and not _is_refused(other):
            return other
    return subject


def _is_refused(subject: Subject) -> bool:
    try:
        subject.prepare().close()
    except StillhouseError:
        return True
    except Exception:  # noqa: BLE001 - a check says what it is
        return False
    return False


def _find_in_recipe(
    cls: type[Plugin], options: Mapping[str, Any] | None, recipe: Recipe | str | Path, *, slow: bool, use: str
) -> Subject:
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    actives = plugins_in_use(recipe.plugins, recipe.base)
    kind = kind_of(cls)[0]
    place = next((i for i, active in enumerate(actives) if type(active.plugin) is cls), None)
    if place is None:
        listed = ", ".join(repr(active.use) for active in actives) or "none"
        raise StillhouseError(f"the recipe does not have the plugin {kind!r}", hint=f"it has {listed}")
    own = unstructure(actives[place].plugin) if options is None else options
    plugins = [active.plugin for active in actives]
    return Subject(
        cls,
        own,
        _shorten(recipe),
        before=plugins[:place],
        after=plugins[place + 1 :],
        own_models=False,
        slow=slow,
        use=use,
        base=recipe.base,
    )


def _shorten(recipe: Recipe) -> dict[str, Any]:
    """A recipe's tables for a run of a few steps, with untrained teachers."""
    tables = {name: value for name, value in recipe.to_dict().items() if name not in ("plugins", "early_stopping")}
    tables["run"] = {**tables["run"], "epochs": 2, "device": "cpu", "figures": False, "test": False, "log_every": 2}
    size = min(recipe.data.batch_size, 8)
    data = {key: value for key, value in tables["data"].items() if key != "per_class"}  # limit is its other form
    tables["data"] = {**data, "batch_size": size, "limit": 3 * size, "workers": 0}
    for name, table in {"teacher": tables.get("teacher"), **tables.get("teachers", {})}.items():
        if table is not None and isinstance(table.get("recipe"), dict):
            model = {
                key: table["recipe"]["student"][key] for key in ("model", "args") if key in table["recipe"]["student"]
            }
            short = {**{k: v for k, v in table.items() if k != "recipe"}, **model, "random": True}
            if name == "teacher":
                tables["teacher"] = short
            else:
                tables["teachers"] = {**tables["teachers"], name: short}
    return tables
