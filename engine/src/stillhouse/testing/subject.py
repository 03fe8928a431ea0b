"""The plugin under test, in the run that it is tried in: what every check gets."""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from stillhouse.config.recipe import Recipe
from stillhouse.config.structure import structure, unstructure
from stillhouse.contract.hookspecs import hook_arguments
from stillhouse.contract.plugin import Plugin
from stillhouse.errors import StillhouseError
from stillhouse.registry.plugins import kind_of
from stillhouse.testing.frames import Author
from stillhouse.testing.material import change_tables
from stillhouse.training.preparation import prepare
from stillhouse.training.session import Training

__all__ = ["Subject", "Trained", "differences", "hooks_of", "is_finite"]

Changes = Mapping[str, Mapping[str, Any]]


def hooks_of(cls: type[Plugin]) -> list[str]:
    """The hooks that a plugin class implements, in the order of the contract."""
    return [name for name in hook_arguments() if hasattr(getattr(cls, name, None), "stillhouse_impl")]


@attrs.frozen(eq=False)
class Trained:
    """A run that has ended.

    Attributes:
        training: the run.
        state: the student's and the plugins' tensors at its end, by name, as a checkpoint has them.
        exported: the student as the run gave it.
    """

    training: Training
    state: dict[str, Tensor]
    exported: nn.Module

    @property
    def student(self) -> dict[str, Tensor]:
        """The student's part of :attr:`state`."""
        return {name: value for name, value in self.state.items() if name.startswith("student.")}


class Subject:
    """A plugin with its options, and the list and run that it is tried in.

    Args:
        cls: the plugin's class.
        options: as a recipe has them, without ``use``.
        tables: the run's recipe, without plugins.
        before: the plugins listed before it.
        after: those listed after it.
        own_models: the run is the kit's own, so that layouts and widths may be changed.
        slow: make the checks that take long as well.
        use: how a recipe names it; by default its entry point's name, else its import path.
        base: the folder of the recipe that it was found in.
    """

    def __init__(
        self,
        cls: type[Plugin],
        options: Mapping[str, Any],
        tables: Mapping[str, Any],
        *,
        before: Sequence[Plugin] = (),
        after: Sequence[Plugin] = (),
        own_models: bool = True,
        slow: bool = False,
        use: str = "",
        base: Path | None = None,
    ) -> None:
        self.cls, self.options, self.tables = cls, dict(options), dict(tables)
        self.before, self.after = list(before), list(after)
        self.own_models, self.slow, self.base = own_models, slow, base
        kind, self.distribution, self.version = kind_of(cls)
        self.use = use or (kind if self.distribution else f"{cls.__module__}:{cls.__qualname__}")
        self.name = str(self.options.get("name") or kind)
        self.hooks = hooks_of(cls)
        self.author = Author(cls)
        self._folders: list[tempfile.TemporaryDirectory[str]] = []

    def make(self, **changes: Any) -> Plugin:
        """An instance of its own, as a recipe with these options makes it.

        Raises:
            StillhouseError: an option is refused.
        """
        made: Plugin = structure({**copy.deepcopy(self.options), "name": self.name, **changes}, self.cls)
        return made

    def listed(self, **changes: Any) -> list[Plugin]:
        """The list that it is tried in."""
        return [*self.before, self.make(**changes), *self.after]

    def without(self) -> list[Plugin]:
        """The same list without it."""
        return [*self.before, *self.after]

    def recipe(self, changes: Changes | None = None) -> Recipe:
        """The run's recipe with ``changes``, by table and key; the plugins are handed over."""
        return Recipe.from_dict(change_tables(self.tables, changes or {}), base=self.base)

    def prepare(
        self,
        plugins: Sequence[Plugin] | None = None,
        changes: Changes | None = None,
        *,
        out: Path | None = None,
        resume: bool = False,
        **models: Any,
    ) -> Training:
        """The run, ready to start, of the list or of other ``plugins``; in memory unless ``out`` is a folder.

        Raises:
            StillhouseError: the run cannot be, in words.
        """
        return prepare(
            self.recipe(changes),
            plugins=self.listed() if plugins is None else plugins,
            out=out,
            write=out is not None,
            resume=resume,
            **models,
        )

    def fit(self, plugins: Sequence[Plugin] | None = None, changes: Changes | None = None, **options: Any) -> Trained:
        """Train the run to its end."""
        return finish(self.prepare(plugins, changes, **options))

    def finish(self, training: Training) -> Trained:
        """Train ``training`` to its end."""
        return finish(training)

    @cached_property
    def whole(self) -> Trained:
        """The run as it is, trained once."""
        return self.fit()

    @cached_property
    def plain(self) -> Trained | None:
        """The run without the plugin, trained once; None where the others cannot do without it."""
        try:
            return self.fit(self.without())
        except StillhouseError:
            return None

    def tensors(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The plugin's own tensors in a run's ``state``."""
        prefix = f"plugins.plugin_{self.name}."
        return {name: value for name, value in state.items() if name.startswith(prefix)}

    def has_recipe_name(self) -> bool:
        """Whether another process finds the class by :attr:`use`."""
        found: Any = sys.modules.get(self.cls.__module__)
        for part in self.cls.__qualname__.split("."):
            found = getattr(found, part, None)
        return found is self.cls

    def table(self) -> dict[str, Any]:
        """Its table in a recipe."""
        return {"use": self.use, **unstructure(self.make())}


def finish(training: Training) -> Trained:
    """Train ``training`` to its end, and keep the tensors."""
    result = training.fit()
    state = training.run.composition.state_dict()
    tensors = {name: value.detach().clone() for name, value in state.items() if _is_tensor(value)}
    return Trained(training, tensors, result.student)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def differences(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that are not the same in every bit, or that only one of the two has."""
    names = dict.fromkeys([*one, *other])
    return [name for name in names if name not in one or name not in other or not _same(one[name], other[name])]


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


def is_finite(state: Mapping[str, Tensor]) -> bool:
    """Whether every number of ``state`` is finite."""
    return all(bool(torch.isfinite(value).all()) for value in state.values() if value.is_floating_point())
