"""Reading layers: find them by dotted path or glob, hook them, collect what they gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from stillhouse.contract.layers import Which
from stillhouse.errors import Fault, StillhouseError
from stillhouse.nested import count_writes

__all__ = ["TapHook", "Taps"]


class Taps:
    """Forward hooks on named layers of one model.

    Args:
        model: the module to read.
        which: ``student`` or ``teacher``, for messages.
        layers: dotted paths.

    Raises:
        StillhouseError: the model is compiled already. A hook that is added after compilation is not called, until a
            recompilation calls it.
    """

    def __init__(self, model: nn.Module, which: Which, layers: Iterable[str]) -> None:
        self.layers = list(dict.fromkeys(layers))
        self._which = which
        self.seen: dict[str, Any] = {}
        """What the layers gave in the forward pass just done; whoever takes it puts a new dict in its place."""
        self._versions: dict[str, list[int]] | None = None
        self.is_watched = False
        if self.layers and _is_compiled(model):
            raise StillhouseError(
                f"the {which} is compiled already, and a tap attached now would not be called",
                hint="hand over the model as it is and let the run compile it after the taps are attached",
            )
        modules = [model.get_submodule(layer) for layer in self.layers]  # a missing one raises before any is hooked
        readers = [TapHook(self, layer) for layer in self.layers]
        self.handles: list[Any] = [m.register_forward_hook(r) for m, r in zip(modules, readers, strict=True)]

    def note_version(self, layer: str, output: Any) -> None:
        """Remember what has been written into ``output`` by now, while :meth:`watch` asks for it."""
        if self._versions is not None:
            self._versions.setdefault(layer, []).append(count_writes(output))

    def watch(self) -> None:
        """Count calls and notice writes from now on, for :meth:`check`; a step need not bear that cost."""
        self._versions, self.is_watched = {}, True

    def take(self) -> dict[str, Tensor]:
        """What the layers gave in the forward pass just done; forgets it here."""
        features, self.seen = self.seen, {}
        return features

    def check(self, features: Mapping[str, Tensor]) -> list[Fault]:
        """After :meth:`watch` and one forward pass: the layers whose output is not what a method would want to read, and why."""
        seen_versions, self._versions, self.is_watched = self._versions or {}, None, False
        faults = []
        for layer in self.layers:
            where = f"{self._which} layer {layer!r}"
            versions, output = seen_versions.get(layer, []), features.get(layer)
            if not versions and layer in features:
                continue  # a plugin's teacher_forward gave it: the layer itself was not called
            if len(versions) != 1:
                times = f"{len(versions)} times" if versions else "not"
                faults.append(Fault(where, f"is {times} called in a forward pass", "read a layer that is called once"))
            elif not isinstance(output, Tensor):
                faults.append(
                    Fault(
                        where,
                        f"gives {type(output).__name__}, not a tensor",
                        "read a layer inside it that gives a tensor",
                    )
                )
            elif count_writes(output) != versions[0]:
                faults.append(
                    Fault(
                        where,
                        "is overwritten in place by a later layer, so its own output cannot be read",
                        "read the later layer (an inplace ReLU, say), or make that one inplace=False",
                    )
                )
        return faults

    def remove(self) -> None:
        """Take the hooks off again."""
        for handle in self.handles:
            handle.remove()
        self.handles = []
        self.take()


class TapHook:
    """The forward hook of one tapped layer, which changes nothing. In a copy of the model it reads nothing: its layer is not the run's."""

    def __init__(self, taps: Taps | None, layer: str) -> None:
        self._taps, self._layer = taps, layer

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        """Keep ``output``."""
        if self._taps is not None:
            self._taps.seen[self._layer] = output
            if self._taps.is_watched:
                self._taps.note_version(self._layer, output)

    def __reduce__(self) -> tuple[Any, ...]:
        return TapHook, (None, self._layer)  # for copy.deepcopy and pickle


def _is_compiled(model: nn.Module) -> bool:
    if any(hasattr(m, "_orig_mod") for m in model.modules()):
        return True
    return any(getattr(m, "_compiled_call_impl", None) is not None for m in model.modules())
