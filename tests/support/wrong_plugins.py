"""A plugin with one mistake, whose hooks do what a test gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from stillhouse import Plugin, Weight, hookimpl, plugin

Body = Callable[..., Any]
CALLED = {
    "add_taps": "assembly",
    "build": "assembly",
    "add_links": "assembly",
    "optimizer_options": "assembly",
    "metrics": "assembly",
    "adapt": "assembly, student",
    "transform": "step",
    "losses": "step",
    "scalars": "step",
    "get_batch_completed": "run",
    "backward_completed": "run, step",
    "optimizer_stepped": "run, step",
}


def wrong(requires: tuple[str, ...] = (), **bodies: Body) -> Plugin:
    """A plugin called ``wrong`` whose hooks do what ``bodies`` do, called with the plugin and the hook's arguments."""
    space: dict[str, Any] = {
        "__doc__": "One mistake.",
        "__module__": __name__,
        "requires": requires,
        "__annotations__": {},
    }
    for hook, body in bodies.items():
        scope: dict[str, Any] = {"body": body}
        exec(
            f"def {hook}(self, {CALLED[hook]}): return body(self, {CALLED[hook]})", scope
        )  # pluggy reads the arguments
        scope[hook].__module__ = __name__
        space[hook] = hookimpl(scope[hook])
    if "losses" in bodies:
        space["weight"], space["__annotations__"] = 1.0, {"weight": Weight}
    return plugin(type("Wrong", (Plugin,), space))(name="wrong")


def out(step: Any) -> torch.Tensor:
    return step.student.output.float()
