"""Every pair of first-party plugins on the digits: it trains, or is refused with a reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import torch

from stillhouse import StillhouseError, prepare
from stillhouse.loop.phases import Phase
from support.classics import LISTS, TEACHERLESS, VECTORS, digits

Tables = tuple[Mapping[str, Any], ...]

STAGE = {"student": "stage3", "teacher": "stage3"}
OWN: dict[str, Tables] = {
    "cache": ({"use": "cache"},),
    "features": (
        {"use": "features", "links": [STAGE]},
        {"use": "projector", "name": "of-features", "kind": "linear", "links": "features/*"},
    ),
    "logits": ({"use": "logits"},),
    "normalizer": (VECTORS, {"use": "normalizer", "kind": "layer"}, {"use": "sp", "name": "of-normalizer"}),
    "projector": (VECTORS, {"use": "projector"}, {"use": "sp", "name": "of-projector"}),
    "spectral": ({"use": "spectral", "layer": "stage2", "rank": 2},),
    "tcs": ({"use": "tcs", "layer": "pool"},),
}
"""The plugins of one distribution each, and what each needs to do something."""

PAIRS = list(combinations(sorted({**OWN, **LISTS}), 2))


def apart(name: str) -> Iterator[dict[str, Any]]:
    """A plugin with links of its own, so that what rewrites links rewrites no other's."""
    tables = [dict(table) for table in {**OWN, **LISTS}[name]]
    made = [table for table in tables if table["use"] == "features" and table.get("distance") == "none"]
    for table in made:
        table["name"] = f"links-of-{name}"
    for table in tables:
        rewrites = table["use"] in ("normalizer", "projector") or table["use"] in LISTS
        if made and table not in made and rewrites:
            table["links"] = f"links-of-{name}/*"
        if table["use"] == "projector":
            table.setdefault("name", "projector" if name == "projector" else f"projector-of-{name}")
        yield table


def outcome(first: str, second: str) -> str:
    """Why the two are refused; empty where they train for two steps, with finite terms of both."""
    tables = [*apart(first), *apart(second)]
    teacher = {"teacher": None} if {first, second} <= set(TEACHERLESS) else {}
    terms: list[Mapping[str, torch.Tensor]] = []
    try:
        training = prepare(digits(*tables, **teacher), write=False)
        training.run.trainer.add_event_handler(
            Phase.LOSSES_COMPUTED, lambda e: terms.append({k: v.detach() for k, v in e.state.step.losses.items()})
        )
        training.fit()
    except StillhouseError as error:
        return str(error)
    assert len(terms) == 2
    assert all(value.isfinite() for step in terms for value in step.values()), (first, second)
    given = {key.partition("/")[0] for key in terms[0]}
    assert {first, second} - {"cache", "normalizer", "projector"} <= given, (first, second)
    assert all(p.isfinite().all() for p in training.run.student.parameters()), (first, second)
    return ""
