"""The links that plugins made: pairs of tapped layers, read in each step before any transform."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from stillhouse.contract.layers import match_names, split_layer
from stillhouse.contract.plugin import Plugin
from stillhouse.contract.step import Link, LinkSpec, Step
from stillhouse.contract.turns import add_links
from stillhouse.errors import StillhouseError, did_you_mean
from stillhouse.loop.tapped_model import TappedModel

__all__ = ["Links"]

_Features = tuple[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None, Tensor, Tensor]


class Links:
    """The links of a run, in the order in which they were made.

    Args:
        models: whose layers they pair, by name.

    Attributes:
        is_complete: every plugin has made its links, so that a glob that matches none is a mistake.
        matched: what :meth:`match` found before; a step looks here first.
    """

    def __init__(self, models: Mapping[str, TappedModel]) -> None:
        self._models = models
        self._specs: list[tuple[str, LinkSpec]] = []
        self.is_complete = False
        self._teachers: dict[str, tuple[str, str]] = {}
        self.matched: dict[str, dict[str, list[str]]] = defaultdict(dict)

    def add(self, plugin: Plugin, specs: Sequence[LinkSpec]) -> list[str]:
        """Take in what ``plugin`` links; the names under which the run knows them.

        Raises:
            StillhouseError: two links of one name, or a layer that no tap reads.
        """
        names = []
        for spec in specs:
            name = f"{plugin.name}/{spec.name}"
            if any(name == known for known, _ in self._specs):
                raise StillhouseError(f"makes two links called {spec.name!r}", hint="give one of them a name")
            for model, layer in (("student", spec.student), split_layer("teacher", spec.teacher)):
                if model not in self._models or layer not in self._models[model].taps.layers:
                    raise StillhouseError(
                        f"the link {spec.name!r} reads the {model}'s layer {layer!r}, which no tap reads",
                        hint="name it in add_taps",
                    )
            self._specs.append((name, spec))
            self._teachers[name] = split_layer("teacher", spec.teacher)
            names.append(name)
        self.matched.clear()
        return names

    def complete(self) -> None:
        """Say that every plugin has made its links."""
        self.is_complete = True
        self.matched.clear()

    def match(self, what: str, pattern: str) -> list[str]:
        """Names by glob, in their own order, remembered.

        Args:
            what: ``links``; ``links of`` a plugin, whose name is then ``pattern``; or a model, for its tapped layers.
            pattern: a path or glob.

        Raises:
            StillhouseError: the model has no such layer, or no link matches of those that are all there.
        """
        links = [name for name, _ in self._specs]
        if what == "links":
            found = match_names(pattern, links)
            if self.is_complete and not found:
                near = did_you_mean(pattern, links) if links else "no plugin makes links"
                raise StillhouseError(f"step.match({pattern!r}) matches no link", hint=near)
        elif what == "links of":
            found = [name for name in links if name.startswith(f"{pattern}/")]
        else:
            found = self._models[what].match(pattern)
        self.matched[what][pattern] = found
        return found

    def read(self, step: Step, specs: Sequence[tuple[str, LinkSpec]] | None = None) -> None:
        """Make the links, all or those of ``specs``, from the features of ``step``."""
        made = []
        for name, read, student, teacher in self.features(step, self._specs if specs is None else specs):
            pair = (student, teacher) if read is None else read(student, teacher)
            made.append(Link(name, *pair))
        add_links(step, made)

    def features(self, step: Step, specs: Sequence[tuple[str, LinkSpec]]) -> list[_Features]:
        """Name, ``read`` and what the two layers gave in ``step``, of each link of ``specs``."""
        features, found = step.student.features, []
        for name, spec in specs:
            model, layer = self._teachers[name]
            side: Any = step.teacher if model == "teacher" else step.teachers[model]
            try:
                student, teacher = features[spec.student], side.features[layer]
            except KeyError as error:
                what = f"the layer {error}, which link {name!r} reads, is another module than before training"
                hint = "a hook replaces it: adapt does that, once and before training"
                raise StillhouseError(what, hint=hint) from None
            found.append((name, spec.read, student, teacher))
        return found
