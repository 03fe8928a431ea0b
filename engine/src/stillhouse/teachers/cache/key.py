"""What a cache follows from, so that another teacher's, transform's or data set's is never taken for it."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import threading
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from stillhouse.config.structure import unstructure
from stillhouse.contract.protocols import SamplesById
from stillhouse.contract.task import Task
from stillhouse.data.sampler import Ids
from stillhouse.teachers.cache.spec import CacheSpec
from stillhouse.teachers.cache.values import describe_value, hash_tensor
from stillhouse.teachers.code import hash_package

__all__ = ["cache_key", "differences", "digest_of", "hash_weights", "provenance"]

FORMAT = 2
"""Of the files; another one is another cache."""

_OF_TORCH = {*vars(nn.Module()), "_compiled_call_impl", "_stillhouse_notes", "stillhouse_convert"}
"""What every module holds: it is in the weights, or none of the architecture. So are words on a teacher's origin."""

_PARSING = threading.Lock()
"""inspect parses the source, and CPython 3.11's parser fails now and then where two threads do so at once (gh-106905)."""

_TRANSFORMING = ("torchvision", "pillow", "numpy")
"""What decodes, resizes and converts samples: another version may do so a little differently."""

_KNOWN = {
    "format": "the layout of the files",
    "data": "the samples (their ids, order or contents)",
    "transform": "what is done to a sample before the teacher sees it",
    "versions": "the versions of the libraries that do it",
    "task": "the task",
    "architecture": "the teacher's architecture",
    "weights": "the teacher's weights or buffers",
    "reading": "what is read of the teacher",
    "views": "the augmented views",
}


def cache_key(teacher: nn.Module, task: Task, passes: SamplesById, ids: Ids, spec: CacheSpec) -> dict[str, Any]:
    """Everything the cache's content follows from, as plain data by part.

    Torch's version and the device are no part of it: they change the last digits only, and are kept as provenance.

    Args:
        teacher: with its weights.
        task: calls it.
        passes: the samples.
        ids: which of them, in order (N,).
        spec: what is read.
    """
    return {
        "format": FORMAT,
        "data": passes.content(ids),
        "transform": passes.transform(),
        "versions": {name: _version(name) for name in _TRANSFORMING},
        "task": {"class": _path(type(task)), **json.loads(json.dumps(unstructure(task), default=repr))},
        "architecture": _architecture(teacher),
        "weights": hash_weights(teacher),
        "reading": {
            "taps": list(spec.taps),
            "pool": spec.pool,
            "outputs": spec.outputs,
            "precision": spec.precision,
            "store": spec.store,
            "moments": spec.moments,
        },
        "views": {"count": spec.views, **(passes.augmentation() if spec.views else {})},
    }


def digest_of(key: Mapping[str, Any]) -> str:
    """One hash of a key."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The parts in which two keys differ, in words, with both values where they are short."""
    texts = []
    for part in dict.fromkeys([*wanted, *found]):
        old, new = found.get(part), wanted.get(part)
        if old == new:
            continue
        text = _KNOWN.get(part, part)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changed = [k for k in dict.fromkeys([*new, *old]) if old.get(k) != new.get(k)]
            shown = [f"{k} was {_short(old.get(k))} and is {_short(new.get(k))}" for k in changed[:3]]
            text += f" ({'; '.join(shown)})"
        texts.append(text)
    return texts


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def provenance(device: torch.device) -> dict[str, Any]:
    """Where the values were computed."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"torch": torch.__version__, "device": name, "stillhouse": _version("stillhouse")}


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _path(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _architecture(model: nn.Module) -> str:
    """A hash of the modules' classes, their settings and hooks, and the code of classes that no library of a known version brings.

    Settings are all that a module holds besides parameters, buffers and modules, whether its ``repr`` shows them or not: a
    transformer's number of heads changes neither that nor a shape.
    """
    digest = hashlib.sha256(repr(model).encode())
    for name, module in model.named_modules():
        held = {key: value for key, value in vars(module).items() if key not in _OF_TORCH}
        hooks = [hook for table in _list_hooks(module) for hook in table.values() if not _is_ours(hook)]
        digest.update(f"\0{name} {json.dumps(describe_value([held, hooks]), sort_keys=True)}".encode())
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    for kind in sorted(kinds, key=_path):
        top = kind.__module__.partition(".")[0]
        known = top if top == "torch" else f"{top} {getattr(sys.modules.get(top), '__version__', '')}"
        digest.update(f"\0{_path(kind)}\0{known}\0{hash_package(kind.__module__)}".encode())
        if top not in ("torch", "torchvision", "timm", "transformers"):
            try:
                with _PARSING:
                    digest.update(inspect.getsource(kind).encode())
            except (OSError, TypeError):
                continue  # made in an interactive session
    return digest.hexdigest()


def _list_hooks(module: nn.Module) -> tuple[Mapping[int, Any], ...]:
    return module._forward_hooks, module._forward_pre_hooks


def _is_ours(hook: Any) -> bool:
    """Whether a hook is the engine's, which reads, or converts inputs as the key says elsewhere."""
    return type(hook).__module__.partition(".")[0] == "stillhouse"


def hash_weights(model: nn.Module) -> str:
    """A hash of all parameters and buffers, those that no state dict has included."""
    digest = hashlib.sha256()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"\0{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(hash_tensor(tensor).encode())
    return digest.hexdigest()
