"""The conformance kit: all its checks, and :func:`check_plugin`, which makes them."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stillhouse.config.recipe import Recipe
from stillhouse.contract.plugin import Plugin
from stillhouse.errors import StillhouseError, did_you_mean
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
from stillhouse.testing.checks.models import (
    check_frozen_networks,
    check_frozen_parts,
    check_in_place,
    check_modes,
    check_structure,
    check_teacher,
)
from stillhouse.testing.checks.neighbours import check_neighbours, check_processes
from stillhouse.testing.checks.options import (
    check_documentation,
    check_recipe_form,
    check_types,
    check_wrong_options,
)
from stillhouse.testing.checks.remarks import check_remarks
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
from stillhouse.testing.cost import measure_cost
from stillhouse.testing.report import Finding, Note, Outcome, Report
from stillhouse.testing.setting import make_subject, quiet
from stillhouse.testing.subject import Subject

__all__ = ["CHECKS", "check_plugin", "make_check", "name_of"]

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
    check_remarks,
    check_repeatability,
    check_resume,
    check_loading,
    check_module_state,
    check_outer_state,
    check_leftovers,
    check_globals,
    check_teacher,
    check_frozen_parts,
    check_frozen_networks,
    check_modes,
    check_structure,
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
    with quiet():
        cost = measure_cost(subject) if trains and not only else None
    origin = f"{subject.distribution} {subject.version}".strip() or subject.use
    return Report(f"{subject.name} ({origin})", tuple(outcomes), cost)


def make_check(check: Check, subject: Subject) -> Outcome:
    """Make one check; whatever it comes to grief by is a finding."""
    if check in _SLOW and not subject.slow:
        return _leave_out(check, "slow: asked for by --slow, or slow=True")
    started = time.perf_counter()
    said: list[Finding | Note] = []
    with quiet():
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
