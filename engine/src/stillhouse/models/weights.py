"""Weights in files: read without running pickled code, and loaded strictly."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from stillhouse.config.kept import KeptWeights
from stillhouse.distributed.fsdp import fit_state
from stillhouse.errors import Fault, StillhouseError, first_line, raise_faults
from stillhouse.files import open_file
from stillhouse.models.checkpoint_file import read_checkpoint
from stillhouse.models.position_embeddings import fit_position_embeddings
from stillhouse.models.state_dicts import Choice, Found, find_state, find_tables
from stillhouse.nested import can_be_resized

__all__ = [
    "FoundWeights",
    "find_last_checkpoint",
    "find_weights",
    "is_student_of_run",
    "list_state_dicts",
    "load_state",
    "load_weights",
    "read_averaged_state",
    "read_checkpoint",
    "read_fitting",
    "read_weights",
    "select_model_state",
]


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_EXPECTED = "a state dict (torch.save(model.state_dict(), ...)), a .safetensors file, or a run's folder or checkpoint"


@attrs.frozen
class FoundWeights:
    """Weights that a run has kept.

    Attributes:
        kind: ``best`` or ``last``.
        step: the number of optimizer steps that they have.
        file: the checkpoint.
    """

    kind: KeptWeights
    step: int
    file: Path


def load_weights(model: nn.Module, path: Path, choice: Choice | None = None) -> list[str]:
    """Load a file of weights into ``model``: a state dict (.pt, .pth, .safetensors), or the student of a run's checkpoint.

    Position embeddings of another grid are interpolated, and other precisions converted.

    Args:
        model: filled in place.
        path: the file, or a run's folder.
        choice: which of several state dicts, and of a run's weights; None: see :class:`stillhouse.models.state_dicts.Choice`.

    Returns:
        What was done to make it fit, in words; empty for a plain state dict.

    Raises:
        StillhouseError: missing, damaged, pickled, or another model's.
    """
    state, told = read_fitting(model, path, choice)
    load_state(model, state, str(path))
    return told


def read_fitting(model: nn.Module, path: Path, choice: Choice | None = None) -> tuple[dict[str, Any], list[str]]:
    """Read what :func:`load_weights` loads, by the keys of ``model``; the same with what was done, in words.

    Raises:
        StillhouseError: as :func:`load_weights`, but for what does not fit.
    """
    own = model.state_dict()
    found = read_weights(path, own, choice)
    state, interpolated = fit_position_embeddings(model, found.state)
    kinds = {v.dtype for v in state.values() if isinstance(v, Tensor) and v.dtype in _FLOATS}
    wanted = {v.dtype for v in own.values() if isinstance(v, Tensor) and v.dtype in _FLOATS}
    precision = [] if kinds <= wanted else [f"{_list_dtypes(kinds)} in the file, {_list_dtypes(wanted)} here"]
    return state, [*found.describe(), *interpolated, *precision]


def _list_dtypes(kinds: set[torch.dtype]) -> str:
    return " and ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))


def read_weights(path: Path, own: Collection[str] = (), choice: Choice | None = None) -> Found:
    """Find the state dict of a model in a file, without unpickling code.

    Args:
        path: the file, or a run's folder.
        own: the model's keys; empty: they are not known.
        choice: which of several.

    Raises:
        StillhouseError: missing, damaged or pickled, or there is no such choice.
    """
    content = _read_content(path, None if choice is None else choice.weights)
    if is_student_of_run(content):
        averaged = None if choice is None else choice.averaged
        state = select_model_state(content, averaged=averaged, where=str(path))
        return Found({k.removeprefix("student."): v for k, v in state.items() if k.startswith("student.")})
    return find_state(content, own, choice)


def list_state_dicts(path: Path) -> dict[str, dict[str, Tensor]]:
    """List the tables of tensors in a file that may be a model's, by their place; empty: it is the file.

    Raises:
        StillhouseError: missing, damaged or pickled.
    """
    return dict(find_tables(_read_content(path)))


def _read_content(path: Path, weights: KeptWeights | None = None) -> dict[str, Any]:
    if path.is_dir():
        return read_checkpoint(find_weights(path, weights).file, _EXPECTED, own=True)
    if weights is not None:
        hint = "leave `weights` out, or name the run's folder"
        raise StillhouseError(f"is one file, and has no {weights} weights beside others", where=str(path), hint=hint)
    return _read_safetensors(path) if path.suffix == ".safetensors" else read_checkpoint(path, _EXPECTED)


def is_student_of_run(content: Mapping[str, Any]) -> bool:
    """Whether a file's ``content`` is a run's checkpoint: its model has the student's weights beside the plugins'."""
    model = content.get("model")
    return isinstance(model, Mapping) and any(str(key).startswith("student.") for key in model)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError:
        raise StillhouseError("needs safetensors", where=str(path), hint="pip install safetensors") from None
    try:
        open_file(path).close()  # a pipe would be waited for
        state: dict[str, Tensor] = load_file(path)
    except FileNotFoundError:
        raise StillhouseError("file not found", where=str(path)) from None
    except (SafetensorError, OSError) as error:
        raise StillhouseError(f"is damaged or not a safetensors file: {error}", where=str(path)) from None
    return state


def find_weights(run: Path, weights: KeptWeights | None = None) -> FoundWeights:
    """Find the weights of a run that are meant, whoever asks: to measure, export, show, teach or start from.

    Args:
        run: its folder.
        weights: ``best`` or ``last``; None: the best where the run has kept them, else the last.

    Raises:
        StillhouseError: the run has no such weights, or none yet.
    """
    found = {kind: told for kind in ("best", "last") if (told := _find_newest(run, kind)) is not None}
    if not found and not (run / "recipe.toml").is_file():
        raise StillhouseError(
            "is no run's folder", where=str(run), hint="a run's folder has its recipe.toml and checkpoints"
        )
    if not found:
        command = shlex.join(["stillhouse", "train", str(run / "recipe.toml"), "--out", str(run), "--resume"])
        hint = f"one is written at an epoch's end: {command}"
        raise StillhouseError("the run has no checkpoint yet", where=str(run), hint=hint)
    if weights is not None and weights not in found:
        other = next(iter(found))
        hint = f'take the {other} ones: --weights {other}; in a recipe, weights = "{other}"'
        raise StillhouseError(f"the run has no {weights} weights", where=str(run), hint=hint)
    return found[weights] if weights is not None else next(iter(found.values()))


def find_last_checkpoint(folder: Path, kind: str = "last") -> Path | None:
    """Find the newest ``last_STEP.pt`` in ``folder``, or another ``kind``'s; None when there is none."""
    found = [(int(m[1]), p) for p in folder.glob(f"{kind}_*.pt") if (m := re.fullmatch(rf"{kind}_(\d+)\.pt", p.name))]
    return max(found)[1] if found else None


def _find_newest(run: Path, kind: KeptWeights) -> FoundWeights | None:
    file = find_last_checkpoint(run / "checkpoints", kind)
    return None if file is None else FoundWeights(kind, int(file.stem.rpartition("_")[2]), file)


def load_state(module: nn.Module, state: Mapping[str, Any], where: str) -> None:
    """Load a state dict strictly.

    Raises:
        StillhouseError: it does not fit, or holds NaN; names missing keys, unexpected keys and other shapes. Nothing is
            loaded then.
    """
    for name, part in module.named_modules():
        if callable(fit_to := getattr(part, "fit_to", None)):  # shapes that follow from the data: see the hook `adapt`
            prefix = f"{name}." if name else ""
            fit_to({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})
    own = module.state_dict()
    buffers = {name for name, _ in module.named_buffers()}
    faults = []
    missing = [key for key in own if key not in state]
    extra = [key for key in state if key not in own]
    shapes = [
        f"{key}: {tuple(state[key].shape)} in the file, {tuple(own[key].shape)} here"
        for key in own
        if isinstance(state.get(key), Tensor)
        and isinstance(own[key], Tensor)
        and not is_lazy(own[key])  # takes the file's shape
        and state[key].shape != own[key].shape
        and not (key in buffers and can_be_resized(module, key))
    ]
    for title, keys in (("missing keys", missing), ("unexpected keys", extra), ("other shapes", shapes)):
        if keys:
            more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
            faults.append(Fault(where, f"does not fit the model: {title}: {', '.join(keys[:4])}{more}"))
    broken = [key for key, value in state.items() if _has_nan(value)]
    if broken:
        more = f" and {len(broken) - 4} more" if len(broken) > 4 else ""
        what = f"holds NaN in {', '.join(broken[:4])}{more}"
        faults.append(Fault(where, what, "it is damaged, or of a training that diverged"))
    raise_faults(faults)
    try:
        module.load_state_dict(fit_state(state, own))
    except RuntimeError as error:  # what a module loads in a way of its own
        raise StillhouseError(f"does not fit the model: {first_line(error)}", where=where) from error


def _has_nan(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in _FLOATS and bool(value.isnan().any())


def read_averaged_state(checkpoint: Mapping[str, Any], where: str = "") -> dict[str, Tensor]:
    """Read the student's averaged weights in a run's checkpoint, by the keys of the student's own state dict.

    Args:
        checkpoint: as :func:`stillhouse.models.weights.read_checkpoint` gives it.
        where: the file, for the message.

    Raises:
        StillhouseError: the run had no ``[ema]``.
    """
    found = checkpoint.get("ema")
    if not (isinstance(found, Mapping) and isinstance(found.get("weights"), Mapping)):
        raise StillhouseError("has no averaged weights", where=where, hint="the run's recipe needs an [ema] table")
    return dict(found["weights"])


def select_model_state(
    checkpoint: Mapping[str, Any], *, averaged: bool | None = None, where: str = ""
) -> Mapping[str, Any]:
    """Select a checkpoint's ``model``, with the student's weights averaged or as they were trained.

    Args:
        checkpoint: as returned by :func:`stillhouse.models.weights.read_checkpoint`; without a ``model`` it is returned.
        averaged: None: the weights that the run measured, averaged with ``[ema] evaluate = "instead"``.
        where: the file, for the message.

    Raises:
        StillhouseError: ``averaged`` of a run without ``[ema]``.
    """
    model = checkpoint.get("model")
    if averaged is None:
        ema = checkpoint.get("ema")
        averaged = isinstance(ema, Mapping) and bool(ema.get("instead"))
    if not averaged or not isinstance(model, Mapping):
        return model if isinstance(model, Mapping) else checkpoint
    return {**model, **{f"student.{key}": value for key, value in read_averaged_state(checkpoint, where).items()}}
