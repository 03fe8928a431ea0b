"""The three formats of exports: safetensors, torch and ONNX, each with a writer and a reader."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stillhouse.errors import Fault, StillhouseError, raise_faults
from stillhouse.files import to_json
from stillhouse.teachers.origins import METADATA

__all__ = ["FORMATS", "TOLERANCES", "check_installed", "read_onnx", "read_torch", "silence", "write_format"]

FORMATS = {"safetensors": ".safetensors", "torch": ".pt2", "onnx": ".onnx"}
"""The suffix of each format."""

TOLERANCES = {"safetensors": 1e-6, "torch": 1e-4, "onnx": 1e-4}
"""How far an output may be from the student's, as a share of its greatest number: the same operations on the same
weights, or the same function in other operations in float32."""

_NEEDS = {"safetensors": ("safetensors",), "torch": (), "onnx": ("onnx", "onnxscript", "onnxruntime")}


def check_installed(form: str) -> None:
    """Refuse a format whose packages are missing.

    Raises:
        StillhouseError: names each missing package.
    """
    faults = []
    for name in _NEEDS[form]:
        try:
            importlib.import_module(name)
        except ImportError as error:
            extra = f"pip install stillhouse[{form}]"
            faults.append(Fault("--format", f"{form} needs the package {name}: {error}", extra))
    raise_faults(faults)


def write_format(
    form: str,
    model: nn.Module,
    student: nn.Module,
    inputs: Tensor,
    dynamic: bool,
    metadata: Mapping[str, Any],
    to: Path,
    outputs: Sequence[str] = ("output",),
) -> None:
    """Write one format.

    Args:
        form: a key of :data:`FORMATS`.
        model: the module to trace: from an input to one tensor or a tuple of them, in eval mode, on the CPU.
        student: the module whose weights safetensors holds.
        inputs: an example (B, ...).
        dynamic: leave the number of samples open.
        metadata: kept in the file, as JSON.
        to: the file, with the format's suffix.
        outputs: the names of ``model``'s outputs.

    Raises:
        StillhouseError: the format cannot hold the model.
        OSError: the file cannot be written.
    """
    text = to_json(metadata, indent=None)
    if form == "safetensors":
        _write_safetensors(student, text, to)
    elif form == "torch":
        _write_torch(model, inputs, dynamic, text, to)
    else:
        _write_onnx(model, inputs, dynamic, text, to, outputs)


def _write_safetensors(student: nn.Module, metadata: str, to: Path) -> None:
    from safetensors.torch import save

    state = student.state_dict()
    strange = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if strange:
        raise StillhouseError(
            f"a state dict must hold tensors alone, got {', '.join(strange[:4])}",
            hint="take .pt2 or .onnx",
        )
    # Each tensor by itself: tied weights are written for each of their names, so that any reader finds every key.
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in state.items()}
    to.write_bytes(save(tensors, {"format": "pt", METADATA: metadata}))  # save_file would make it private


def _write_torch(model: nn.Module, inputs: Tensor, dynamic: bool, metadata: str, to: Path) -> None:
    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
    with _explain_errors("torch.export", dynamic), torch.no_grad():
        program = torch.export.export(model, (inputs,), dynamic_shapes=shapes)
    content = io.BytesIO()  # where torch writes to a disk that is full, it ends the process
    with silence():
        torch.export.save(program, content, extra_files={f"{METADATA}.json": metadata})
    to.write_bytes(content.getbuffer())


def _write_onnx(
    model: nn.Module, inputs: Tensor, dynamic: bool, metadata: str, to: Path, outputs: Sequence[str]
) -> None:
    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
    with _explain_errors("ONNX", dynamic), torch.no_grad():
        program = torch.onnx.export(
            model,
            (inputs,),
            dynamo=True,
            verbose=False,
            input_names=["input"],
            output_names=list(outputs),
            dynamic_shapes=shapes,
        )
    assert program is not None  # with dynamo it is one
    program.model.metadata_props[METADATA] = metadata
    with _explain_errors("ONNX", dynamic):
        program.save(to, external_data=False)


@contextmanager
def _explain_errors(form: str, dynamic: bool) -> Iterator[None]:
    """Raise a tracer's error about a model it cannot trace as one sentence."""
    try:
        with silence():
            yield
    except OSError:
        raise
    except Exception as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        hint = "take .safetensors, which holds the weights of any model"
        if dynamic:
            hint = f"a model that calls len(x) keeps to one number of samples, and x.shape[0] does not; --batch 1; or {hint}"
        if form == "ONNX" and torch.__version__.startswith("2.6."):
            hint = f'torch 2.6 writes ONNX with the onnxscript of its time, pip install "onnxscript<0.3"; or {hint}'
        raise StillhouseError(f"{form} cannot take this model: {first}", where="student", hint=hint) from error


@contextmanager
def silence() -> Iterator[None]:
    """Silence the tracers' warnings about their own insides, and torch's logging of the same."""
    import logging

    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def read_torch(path: Path) -> Callable[[Tensor], Any]:
    """Read the function that a .pt2 file holds."""
    with silence():
        module = torch.export.load(path).module()

    def function(x: Tensor) -> Any:
        with torch.no_grad():
            return module(x)

    return function


def read_onnx(path: Path) -> Callable[[Tensor], Any]:
    """Read the function that an .onnx file holds, computed by onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: [torch.from_numpy(value) for value in session.run(None, {name: x.numpy()})]
