"""A folder of experiments in the current one, and plans in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from stillhouse_experiments.home import DEFAULT, Home

LINEAR = {"use": "projector", "kind": "linear"}
TINY: dict[str, Any] = {
    "title": "Tiny",
    "recipe": "recipes/tiny.toml",
    "metric": "test/accuracy",
    "seeds": 2,
    "reference": "none",
}
"""What every plan says, of the recipe that :func:`make_home` writes."""


def make_home(recipe: Mapping[str, Any]) -> Home:
    """``docs/experiments`` with a recipe that plans call ``recipes/tiny.toml``."""
    home = Home(DEFAULT, DEFAULT)
    (home.plans / "recipes").mkdir(parents=True)
    (home.plans / "recipes" / "tiny.toml").write_text(tomli_w.dumps(recipe), encoding="utf-8")
    return home


def save_plan(home: Home, plan: Mapping[str, Any], **changes: Any) -> Path:
    """Write ``plans/plan.toml`` with these changes, None taking a key away; its path."""
    whole = {key: value for key, value in {**plan, **changes}.items() if value is not None}
    path = home.plans / "plan.toml"
    path.write_text(tomli_w.dumps(whole), encoding="utf-8")
    return path
