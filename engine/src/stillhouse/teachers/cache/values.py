"""Values that a model holds, as plain data that is the same in every process, and another for another value."""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["describe_value", "hash_tensor"]

_DEEPEST = 12
"""How far into one another objects are followed."""


def describe_value(value: Any, _within: tuple[int, ...] = ()) -> Any:
    """Describe ``value`` by its content.

    Numbers and texts are as they are, tensors and arrays hashed, functions described by their code and what they close over,
    objects by their class and attributes. What has no content that can be told, as a lock, is described by its class.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if id(value) in _within or len(_within) > _DEEPEST:
        return "again"
    within = (*_within, id(value))
    inner = functools.partial(describe_value, _within=within)
    if isinstance(value, Mapping):
        return {str(key): inner(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [inner(one) for one in value]
    if isinstance(value, set | frozenset):
        return sorted(map(str, map(inner, value)))
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype} {hash_tensor(value)}"
    if isinstance(value, np.ndarray) and value.dtype == object:
        return inner(value.tolist())
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    if isinstance(value, np.generic | complex | bytes | torch.dtype | torch.device | torch.Size):
        return repr(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, functools.partial):
        return ["partial", inner(value.func), inner(value.args), inner(value.keywords)]
    return _describe_object(value, inner)


def _describe_object(value: Any, inner: Any) -> Any:
    function = inspect.unwrap(value) if inspect.isroutine(value) else value
    function = getattr(function, "__func__", function)
    named = value if hasattr(value, "__qualname__") else type(value)
    name = f"{getattr(named, '__module__', '')}:{named.__qualname__}"
    if isinstance(function, types.FunctionType):
        closed = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
        return [
            name,
            _hash_code(function.__code__),
            inner(closed),
            inner(function.__defaults__),
            inner(function.__kwdefaults__),
        ]
    if isinstance(value, type | types.ModuleType) or inspect.isroutine(value):
        return name
    held = getattr(value, "__dict__", None)
    names = getattr(type(value), "__slots__", ())
    slots = {key: getattr(value, key) for key in ((names,) if isinstance(names, str) else names) if hasattr(value, key)}
    return [name, inner({**(held if isinstance(held, dict) else {}), **slots})] if held or slots else name


def _is_filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _hash_code(code: types.CodeType) -> str:
    """A hash of what a function does; where it stands in its file is no part of it."""
    constants = [
        _hash_code(one)
        if isinstance(one, types.CodeType)
        else repr(sorted(map(repr, one)) if isinstance(one, frozenset) else one)
        for one in code.co_consts
    ]
    text = repr((code.co_name, code.co_code, constants, code.co_names, code.co_varnames))
    return hashlib.sha256(text.encode()).hexdigest()


def hash_tensor(tensor: Tensor) -> str:
    """A hash of a tensor's values; of one without any in memory its layout."""
    if tensor.is_meta:
        return str(tensor.layout)
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    elif tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    flat = tensor.detach().resolve_neg().resolve_conj().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"").hexdigest()
