"""Export as ONNX of 8-bit integers: calibrated on validation inputs, its figures beside those of the float program."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
import torch
from ignite.engine import Engine
from torch import Tensor, nn

from stillhouse.config.kept import KeptWeights
from stillhouse.contract.batch import Batch
from stillhouse.contract.task import Task
from stillhouse.errors import StillhouseError, first_line
from stillhouse.files import to_json
from stillhouse.nested import to_number
from stillhouse.students.data import MeasuredData, open_data
from stillhouse.students.export import Exported, check_target, export, put_in_place, refuse_existing
from stillhouse.students.formats import read_onnx, silence
from stillhouse.students.modules import Preprocessing
from stillhouse.students.saved_run import SavedRun, guarded, open_run
from stillhouse.teachers.origins import METADATA

__all__ = ["Quantized", "export_int8"]

_CALIBRATION = 256
"""Inputs that the ranges of activations are taken from."""


@attrs.frozen
class Quantized:
    """The result of :func:`export_int8`.

    Attributes:
        exported: the file, with its metadata; ``difference`` and ``tolerance`` are those of the float program that it was
            made of.
        calibration_split: where the ranges of activations are from.
        calibration_samples: how many inputs.
        split: what both programs were measured on.
        samples: how many that are.
        float_metrics: of the float program.
        int8_metrics: of the file.
        float_bytes: the size of the float program as a file.
    """

    exported: Exported
    calibration_split: str
    calibration_samples: int
    split: str
    samples: int
    float_metrics: dict[str, float]
    int8_metrics: dict[str, float]
    float_bytes: int


@guarded
def export_int8(
    run: str | Path,
    to: str | Path,
    *,
    weights: KeptWeights | None = None,
    averaged: bool = False,
    batch: int | None = None,
    with_preprocessing: bool = False,
    force: bool = False,
    fold_plugins: bool = True,
    trust: bool = False,
) -> Quantized:
    """Write a run's student as ONNX of 8-bit integers, by onnxruntime's static quantizer, and measure what that costs.

    Weights have a scale for each output channel, activations one for each tensor, from their least and greatest values on up
    to 256 inputs of the validation split (else of the training split, as they are in evaluation). Inputs and outputs of the
    program stay float32. What it is worth is said and not judged: both programs are measured on the test split, else the
    validation split, by the task's metrics.

    Args:
        run: the run's folder.
        to: the file, .onnx.
        weights: see :func:`stillhouse.export`, as for the other arguments.
        averaged: likewise.
        batch: likewise.
        with_preprocessing: likewise.
        force: likewise.
        fold_plugins: likewise.
        trust: likewise.

    Raises:
        StillhouseError: as :func:`stillhouse.export` does; another format; a student that gives more than one tensor, or that the
            quantizer cannot take.
    """
    path, form, _ = check_target(Path(to), None, force)
    if form != "onnx":
        raise StillhouseError("writes ONNX alone", where="--int8", hint="--to student.onnx")
    saved = open_run(run, weights=weights, averaged=averaged)
    if type(saved.task).program is not Task.program:
        raise StillhouseError("needs a student whose output is one tensor", where="--int8", hint="export it without")
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=path.parent, ignore_cleanup_errors=True) as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in ("float", "int8")}
        plain = export(
            run,
            files["float"],
            weights=weights,
            averaged=averaged,
            batch=batch,
            with_preprocessing=with_preprocessing,
            fold_plugins=fold_plugins,
            trust=trust,
        )
        data = open_data(saved)
        try:
            prepare = _choose_preparation(saved, with_preprocessing)
            calibration, split = (_choose(data, names) for names in (("val", "train"), ("test", "val", "train")))
            fed = _list_inputs(data, calibration, prepare, batch)
            samples = sum(map(len, fed))
            _quantize(files["float"], files["int8"], fed)
            metrics = {
                name: _measure(read_onnx(file), saved, data, split, prepare, batch) for name, file in files.items()
            }
        finally:
            data.close()
        about = {
            "weights": "int8, a scale for each output channel",
            "activations": "int8, a scale for each tensor",
            "calibration": {"split": calibration, "samples": samples},
            "metrics": {"split": split, **metrics},
        }
        metadata = {**plain.metadata, "quantization": about}
        try:
            _write_metadata(files["int8"], metadata)
            put_in_place(files["int8"], path, force)
        except FileExistsError:
            raise refuse_existing(path) from None
        except OSError as error:
            raise StillhouseError(f"cannot be written: {error.strerror or error}", where=str(path)) from error
        return Quantized(
            exported=attrs.evolve(plain, path=path, metadata=metadata),
            calibration_split=calibration,
            calibration_samples=samples,
            split=split,
            samples=data.info.sizes[split],
            float_metrics=metrics["float"],
            int8_metrics=metrics["int8"],
            float_bytes=files["float"].stat().st_size,
        )


def _choose(data: MeasuredData, names: Iterable[str]) -> str:
    return next((name for name in names if name in data.splits), data.splits[0])


def _choose_preparation(saved: SavedRun, with_preprocessing: bool) -> Callable[[Tensor], Tensor]:
    """How a normalised input (B, ...) becomes what the program takes."""
    info = saved.info
    if not (with_preprocessing and info.mean):
        return lambda x: x
    return Preprocessing(nn.Identity(), info.mean, info.std, 1 + len(info.input_shape)).undo


def _list_inputs(
    data: MeasuredData, split: str, prepare: Callable[[Tensor], Tensor], batch: int | None
) -> list[Tensor]:
    """256 inputs, spread evenly over the split, whose first ones may be of one class; or as many as there are.

    In batches of the program's size where it has one; what is left over is left out.
    """
    some = data.example(min(max(_CALIBRATION, batch or 1), data.info.sizes[split]), split)
    found = list(_cut([some], prepare, batch))
    if not found:
        raise StillhouseError("needs at least one whole batch to calibrate on", where="--batch", hint="a smaller one")
    return found


def _cut(batches: Iterable[Batch], prepare: Callable[[Tensor], Tensor], size: int | None) -> Iterator[Tensor]:
    for batch in batches:
        x = prepare(batch.input)
        if size is None:
            yield x
        else:
            yield from (part for part in torch.split(x, size) if len(part) == size)


def _quantize(source: Path, to: Path, batches: list[Tensor]) -> None:
    """Quantize an ONNX file, its ranges taken from ``batches`` of its inputs.

    Raises:
        StillhouseError: the quantizer cannot take it.
    """
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self._batches = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            found = next(self._batches, None)
            return None if found is None else {"input": found.numpy()}

    prepared = source.with_name("prepared.onnx")
    try:
        with silence():
            # Batch norms go into their convolutions first: otherwise each would be rounded by itself.
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            quantize_static(prepared, to, Reader(), per_channel=True)
    except Exception as error:
        what = f"onnxruntime cannot quantize this program: {first_line(error)}"
        raise StillhouseError(what, where="--int8", hint="export it without") from error


def _measure(
    program: Callable[[Tensor], Any],
    saved: SavedRun,
    data: MeasuredData,
    split: str,
    prepare: Callable[[Tensor], Tensor],
    batch: int | None,
) -> dict[str, float]:
    """The task's metrics of a program over a split."""

    def step(_engine: Engine, given: Batch) -> dict[str, Any]:
        output = _run(program, prepare(given.input), batch)
        return {"output": output, "target": given.target, "input": given.input, "features": {}}

    engine = Engine(step)
    for name, metric in saved.task.for_data(saved.info).metrics(data.info).items():
        metric.attach(engine, name)
    found = engine.run(data.evaluation(split), max_epochs=1).metrics
    return {name: number for name, value in found.items() if (number := to_number(value)) is not None}


def _run(program: Callable[[Tensor], Any], x: Tensor, size: int | None) -> Tensor:
    """A program's output for any number of inputs; one that takes ``size`` of them is fed the last one again and again."""
    if size is None:
        found: Tensor = program(x)[0]
        return found
    filled = torch.cat([x, x[-1:].expand(-len(x) % size, *x.shape[1:])])
    return torch.cat([program(part)[0] for part in torch.split(filled, size)])[: len(x)]


def _write_metadata(file: Path, metadata: dict[str, Any]) -> None:
    import onnx

    model = onnx.load(file)
    others = {prop.key: prop.value for prop in model.metadata_props if prop.key != METADATA}
    onnx.helper.set_model_props(model, {**others, METADATA: to_json(metadata, indent=None)})
    onnx.save(model, file)
