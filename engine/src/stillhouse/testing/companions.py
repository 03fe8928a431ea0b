"""The plugins that stand beside the one that is checked: what it requires, and the neighbours that it should get on with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor

from stillhouse.config.structure import structure
from stillhouse.contract.assembly import Assembly
from stillhouse.contract.plugin import Plugin, hookimpl, plugin
from stillhouse.contract.step import LinkSpec, Step, Tap
from stillhouse.entries import PLUGINS, Installed, installed
from stillhouse.errors import StillhouseError
from stillhouse.registry.order import ENGINE_CAPABILITIES
from stillhouse.registry.plugins import load_installed
from stillhouse.schedule import Weight

__all__ = ["Pairs", "find_companions", "make_example", "pairs_for"]


@plugin
class Pairs(Plugin):
    """Links between the layers of one name in student and teacher, with their squared distance as a term.

    Attributes:
        layers: the layers that are paired.
        weight: the term's factor.
    """

    requires = ("teacher",)
    provides = ("links",)

    layers: tuple[str, ...] = ("stage3",)
    weight: Weight = 1.0

    @hookimpl
    def add_taps(self, assembly: Assembly) -> Iterable[Tap]:
        """Both models' layers."""
        return [Tap(model, layer) for layer in self.layers for model in ("student", "teacher")]

    @hookimpl
    def add_links(self, assembly: Assembly) -> Iterable[LinkSpec]:
        """A link for each layer, called as it is."""
        return [LinkSpec(layer.replace(".", "-"), layer, layer) for layer in self.layers]

    @hookimpl
    def losses(self, step: Step) -> Mapping[str, Tensor]:
        """The mean squared distance over the links; of their means where transforms have made the two unlike."""
        pairs = [(link.student.float(), link.teacher.float()) for link in step.links_of(self)]
        alike = [F.mse_loss(s, t) if s.shape == t.shape else (s.mean() - t.mean()).square() for s, t in pairs]
        return {"": sum(alike[1:], alike[0]) / len(alike)}


def pairs_for(*classes: type[Plugin]) -> list[Plugin]:
    """The kit's own links, where one of ``classes`` requires links and none provides them."""
    needed = any("links" in cls.requires for cls in classes)
    return [Pairs(name="pairs")] if needed and not any("links" in cls.provides for cls in classes) else []


def make_example(cls: type[Plugin], name: str = "") -> Plugin:
    """An instance of ``cls`` with the options of its class variable ``example``.

    Raises:
        StillhouseError: it must be given options, and names none.
    """
    made: Plugin = structure({**cls.example, "name": name}, cls)
    return made


def find_companions(cls: type[Plugin]) -> list[Plugin]:
    """What stands before a plugin so that its ``requires`` is met: links, or what installed plugins provide.

    Raises:
        StillhouseError: no installed plugin provides it.
    """
    found = pairs_for(cls)
    own = {"links", "inputs", "targets", "ids", *ENGINE_CAPABILITIES}
    for need in cls.requires:
        if need in own or need.startswith("targets:"):
            continue
        provider = _find_provider(need, installed(PLUGINS))
        if provider is None:
            raise StillhouseError(
                f"requires {need!r}, and no installed plugin provides it",
                where=f"plugin class {cls.__name__}",
                hint="install one that does, or give a recipe in which it has its place",
            )
        found += [*pairs_for(provider), make_example(provider, need)]
    return found


def _find_provider(need: str, every: Sequence[Installed]) -> type[Plugin] | None:
    for entry in every:
        try:
            cls = load_installed(entry)
        except StillhouseError:  # a broken plugin of somebody else's
            continue
        if need == entry.use or need in cls.provides:
            return cls
    return None
