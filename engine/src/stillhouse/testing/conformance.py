"""The conformance kit: all its checks, and :func:`check_plugin`, which makes them."""

from __future__ import annotations

import inspect
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import attrs

from stillhouse.config.recipe import Recipe
from stillhouse.config.structure import unstructure
from stillhouse.contract.plugin import Plugin
from stillhouse.errors import Fault, StillhouseError, StillhouseWarning, did_you_mean, raise_faults
from stillhouse.registry.plugins import kind_of, load, plugins_in_use
from stillhouse.testing.checks.circumstances import (
    check_accumulation,
    check_bfloat16,
    check_compilation,
    check_layouts,
    check_mixed_targets,
    check_small_batches,
    check_wider_teacher,
)
from stillhouse.testing.checks.gradients import check_parameters, check_terms
from stillhouse.testing.checks.models import check_frozen_parts, check_in_place, check_modes, check_teacher
from stillhouse.testing.checks.neighbours import check_neighbours, check_processes
from stillhouse.testing.checks.options import (
    check_documentation,
    check_recipe_form,
    check_types,
    check_wrong_options,
)
from stillhouse.testing.checks.state import check_globals, check_leftovers, check_module_state, check_outer_state
from stillhouse.testing.checks.training import (
    check_loading,
    check_repeatability,
    check_resume,
    check_training,
    check_weight_zero,
    say_error,
)
from stillhouse.testing.checks.versions import check_versions
from stillhouse.testing.checks.waiting import check_waiting
from stillhouse.testing.companions import Pairs, find_companions
from stillhouse.testing.cost import measure_cost
from stillhouse.testing.material import LAYERS, make_tables
from stillhouse.testing.report import Finding, Note, Outcome, Report
from stillhouse.testing.subject import Subject

__all__ = ["CHECKS", "check_plugin", "make_check", "make_subject", "name_of"]

Check = Callable[[Subject], Iterator[Finding | Note]]

_BEFORE: tuple[Callable[[Subject], Iterator[Any]], ...] = (
    check_documentation,
    check_types,
    check_recipe_form,
    check_training,
)
"""What is asked of a plugin whether it trains or not, and at last whether it does."""

_SLOW: tuple[Callable[[Subject], Iterator[Any]], ...] = (check_compilation, check_processes)
"""What takes half a minute each."""

CHECKS: tuple[Callable[[Subject], Iterator[Any]], ...] = (
    *_BEFORE,
    check_wrong_options,
    check_versions,
    check_repeatability,
    check_resume,
    check_loading,
    check_module_state,
    check_outer_state,
    check_leftovers,
    check_globals,
    check_teacher,
    check_frozen_parts,
    check_modes,
    check_in_place,
    check_terms,
    check_parameters,
    check_weight_zero,
    check_waiting,
    check_bfloat16,
    check_accumulation,
    check_small_batches,
    check_mixed_targets,
    check_layouts,
    check_wider_teacher,
    check_neighbours,
    *_SLOW,
)
"""Every check, in order."""


def name_of(check: Callable[..., Any]) -> str:
    """What a check is called: ``resume`` for ``check_resume``."""
    return check.__name__.removeprefix("check_").replace("_", "-")


def check_plugin(
    plugin: str | type[Plugin],
    *,
    options: Mapping[str, Any] | None = None,
    recipe: Recipe | str | Path | None = None,
    slow: bool = False,
    only: Sequence[str] = (),
) -> Report:
    """Try ``plugin`` in short runs, on the kit's own models or in a recipe's run, and say what it does wrong.

    Args:
        plugin: its name as recipes have it, ``package.module:Class``, or the class.
        options: as a recipe has them; by default those of the class variable ``example``, and with a recipe those of its table there.
        recipe: a run in which it has its place, for what needs other data, another task or other plugins. It is cut to two epochs
            of a few batches, and its teachers are left untrained.
        slow: check compiled models and two processes as well, half a minute each.
        only: the names of the checks to make; none: all.

    Raises:
        StillhouseError: there is no such plugin or check, an option is refused, or the recipe does not have it.
    """
    names = [name_of(check) for check in CHECKS]
    for name in only:
        if name not in names:
            raise StillhouseError(f"no check is called {name!r}", hint=did_you_mean(name, names))
    subject = make_subject(plugin, options=options, recipe=recipe, slow=slow)
    outcomes = []
    trains = True
    for check in CHECKS:
        wanted = not only or name_of(check) in only
        if wanted or (check is check_training and trains):
            asked = trains or check is check_terms  # a gradient that is not finite may be why it does not train
            outcome = make_check(check, subject) if asked else _leave_out(check, "the plugin does not train")
            trains = trains and not (check is check_training and outcome.findings)
            if wanted or outcome.findings:
                outcomes.append(outcome)
    with _quiet():
        cost = measure_cost(subject) if trains and not only else None
    origin = f"{subject.distribution} {subject.version}".strip() or subject.use
    return Report(f"{subject.name} ({origin})", tuple(outcomes), cost)


def make_check(check: Check, subject: Subject) -> Outcome:
    """Make one check; whatever it comes to grief by is a finding."""
    if check in _SLOW and not subject.slow:
        return _leave_out(check, "slow: asked for by --slow, or slow=True")
    started = time.perf_counter()
    said: list[Finding | Note] = []
    with _quiet():
        try:
            said += check(subject)
        except Exception as error:  # noqa: BLE001 - whatever the plugin raises is the finding
            said.append(Finding(f"the check ends in {say_error(error)}", "mend what the message names"))
    return Outcome(
        check=name_of(check),
        asks=_first_line(check),
        findings=tuple(dict.fromkeys(x for x in said if isinstance(x, Finding))),
        notes=tuple(x for x in said if isinstance(x, Note)),
        seconds=time.perf_counter() - started,
    )


def _leave_out(check: Check, why: str) -> Outcome:
    return Outcome(name_of(check), _first_line(check), notes=(Note(why),), ran=False)


def _first_line(check: Check) -> str:
    return (inspect.getdoc(check) or "").partition("\n")[0]


@contextmanager
def _quiet() -> Iterator[None]:
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
    """The plugin with its options and a run around it: see :func:`check_plugin`.

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
    with _quiet():
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
    tables["data"] = {**tables["data"], "batch_size": size, "limit": 3 * size, "workers": 0}
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
