"""A run that is looked at in every step, for ``train --debug``: the first tensor that is not finite is named by its place."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.assembly.folded_norms import FoldedNorms
from stillhouse.assembly.watch import Watch
from stillhouse.contract.protocols import Named
from stillhouse.contract.step import Step
from stillhouse.errors import StillhouseError, first_line
from stillhouse.loop.composition import Composition
from stillhouse.loop.phases import Phase, place_of
from stillhouse.nested import list_tensors
from stillhouse.training.session import Result, Training

__all__ = ["fit_watched"]

_WATCHED = 2
"""The first steps, which any run watches."""
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_TORCH = Path(torch.__file__).parent


def fit_watched(training: Training) -> Result:
    """Train as :meth:`Training.fit` does, with the same numbers, and look at every step: several times slower.

    On are: the checks of hooks that otherwise watch the first two steps; a look at each layer's output, each link, loss
    term, gradient and weight for values that are not finite, at the first of which the run ends; and torch's anomaly
    detection, which names the operation whose gradient is NaN. In float16 gradients overflow as a matter of course, and
    are not looked at.

    Raises:
        StillhouseError: what :meth:`Training.fit` raises, or the place of the first value that is not finite.
    """
    if training.recipe.speed.compile != "none":
        raise StillhouseError(
            "a compiled model's layers cannot be looked at", where="speed.compile", hint="--set speed.compile=none"
        )
    composition = training.walk.composition
    checks_gradients = training.recipe.run.precision != "float16"
    with ExitStack() as stack:
        stack.enter_context(_watching_layers(training))
        stack.enter_context(_watching_hooks(composition))
        add = training.run.trainer.add_event_handler
        if checks_gradients:
            add(Phase.BACKWARD_COMPLETED, partial(_check_parameters, composition, "gradient"))
        add(Phase.OPTIMIZER_STEPPED, partial(_check_parameters, composition, "weight"))
        if checks_gradients:
            stack.enter_context(_naming_anomalies())
        return training.fit()


def _refuse(step: Step | None, what: str, hint: str) -> StillhouseError:
    return StillhouseError(what, where=place_of(step) if step is not None else "before the first step", hint=hint)


def _is_finite(tree: Any) -> bool:
    return all(bool(torch.isfinite(x).all()) for x in list_tensors(tree) if x.is_floating_point())


@contextmanager
def _watching_layers(training: Training) -> Iterator[None]:
    run, composition = training.run, training.walk.composition
    owners: dict[str, nn.Module] = {"student": run.student, **run.all_teachers}
    owners |= {f"plugin {name!r}": module for name, module in composition.modules_of.items()}
    handles = []

    def look(owner: str, path: str, _module: nn.Module, given: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or _is_finite(output):
            return
        step = getattr(run.trainer.state, "step", None)
        came = "its inputs are finite" if _is_finite(given) else "so are its inputs not"
        where = f"the layer {path!r} of {owner}" if path else owner
        raise _refuse(step, f"{where} gives the first values that are not finite", came)

    for owner, model in owners.items():
        for path, module in model.named_modules():
            handles.append(module.register_forward_hook(partial(look, owner, path)))
    with ExitStack() as overlooked:
        for tapped in composition.models.values():
            if isinstance(tapped.call, FoldedNorms):
                overlooked.enter_context(tapped.call.overlook_hooks())
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def _watching_hooks(composition: Composition) -> Iterator[None]:
    plain, watch, first = composition.hooks, Watch(composition), list[int]()

    def around(plugin: Named, hook: str, function: Callable[[Step], Any]) -> Callable[[Step], Any]:
        watched = watch.around(plugin, hook, function)

        def call(step: Step) -> Any:
            first[:] = first or [step.iteration]
            before = {name for name, link in step.links.items() if _is_finite((link.student, link.teacher))}
            found = (function if step.iteration < first[0] + _WATCHED else watched)(step)
            bad = [f"link {n!r}" for n in before if not _is_finite((step.links[n].student, step.links[n].teacher))]
            if hook == "losses" and isinstance(found, dict):
                bad += [f"loss term {name!r}" for name, value in found.items() if not _is_finite(value)]
            if bad:
                hint = "what it reads is finite: a logarithm, root, division or exponential in it is not"
                raise _refuse(step, f"plugin {plugin.name!r}, hook {hook!r}: the {bad[0]} is not finite", hint)
            return found

        return call

    composition.hooks = plain.wrapped(around)
    try:
        yield
    finally:
        composition.hooks = plain


def _check_parameters(composition: Composition, what: str, engine: Any) -> None:
    for name, parameter in composition.named_parameters():
        value: Tensor | None = parameter.grad if what == "gradient" else parameter.detach()
        if value is not None and not _is_finite(value):
            hint = "every loss term is finite; explain --gradients says which term is large"
            raise _refuse(engine.state.step, f"the {what} of {name} is the first that is not finite", hint)


@contextmanager
def _naming_anomalies() -> Iterator[None]:
    """torch's anomaly detection, whose warning has the operation's place and whose error has not."""
    with warnings.catch_warnings():
        shown, places = warnings.showwarning, list[str]()

        def show(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
            text = str(message)
            if "Anomaly Detection has been enabled" in text:
                return
            if "Traceback of forward call" in text:
                places.append(text)
            else:
                shown(message, category, *rest, **more)

        warnings.showwarning = show
        warnings.filterwarnings("always", category=UserWarning, module=r"torch\.autograd")
        try:
            with torch.autograd.detect_anomaly(check_nan=True):
                yield
        except RuntimeError as error:
            if "returned nan values" not in str(error):
                raise
            place = f", computed at {_find_line(places[-1])}" if places else ""
            found = StillhouseError(
                f"the gradient of an operation is NaN{place}: {first_line(error)}",
                hint="keep roots, norms and logarithms away from 0 by eps or clamp inside of them",
            )
            for note in getattr(error, "__notes__", []):
                found.add_note(note)
            raise found from error


def _find_line(text: str) -> str:
    """The innermost line of a forward call's traceback that is not torch's."""
    frames = [(Path(file), line, name) for file, line, name in _FRAME.findall(text)]
    own = [frame for frame in frames if _TORCH not in frame[0].parents]
    file, line, name = (own or frames or [(Path("?"), "?", "?")])[-1]
    return f"{file.name}:{line}, in {name}"
