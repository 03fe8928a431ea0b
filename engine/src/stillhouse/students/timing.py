"""Latency, throughput and size: a run's student beside its teacher, and exported programs beside both."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs
import torch
from torch import Tensor, nn

from stillhouse.errors import StillhouseError
from stillhouse.students.formats import FORMATS, check_installed, read_onnx, read_torch
from stillhouse.students.loader import build_stand_in, load_student
from stillhouse.students.saved_run import guarded, open_run

__all__ = ["Timing", "list_columns", "measure"]

Call = Callable[[Tensor], object]

_ROUNDS = 7
_WARM_UP = 3


@attrs.frozen(kw_only=True)
class Timing:
    """What one model takes.

    Attributes:
        name: ``student``, a teacher's name, or the file's.
        parameters: its number; None for a program.
        mebibytes: of its weights as a file, or of the file.
        latency: milliseconds for one input, the median of the rounds.
        latency_range: the fastest and the slowest round's.
        throughput: inputs a second in batches, the median of the rounds.
        throughput_range: likewise.
    """

    name: str
    parameters: int | None
    mebibytes: float
    latency: float
    latency_range: tuple[float, float]
    throughput: float
    throughput_range: tuple[float, float]

    def format_cells(self) -> list[str]:
        """A table's row, under :func:`list_columns`."""
        low, high = self.latency_range
        slow, fast = self.throughput_range
        return [
            self.name,
            "-" if self.parameters is None else f"{self.parameters:,}",
            f"{self.mebibytes:.3g}",
            f"{self.latency:.3g} ({low:.3g} to {high:.3g})",
            f"{self.throughput:,.0f} ({slow:,.0f} to {fast:,.0f})",
        ]


def list_columns(batch: int) -> list[str]:
    """The columns of a table of timings; ``batch`` is the number of inputs in a batch."""
    return ["model", "parameters", "MiB", "ms for one", f"a second, in batches of {batch}"]


@guarded
def measure(
    run: str | Path,
    files: Sequence[str | Path] = (),
    *,
    batch: int = 32,
    threads: int = 1,
    device: str = "cpu",
    seconds: float = 0.3,
    trust: bool = False,
) -> list[Timing]:
    """Measure a run's student, its teachers, and exported programs of it, on inputs of the training's shape.

    The models take turns, round by round, so that what else the machine does meets all of them. Weights do not matter to
    time: a teacher is built and not trained.

    Args:
        run: the run's folder.
        files: programs that ``export`` wrote: ``.onnx`` or ``.pt2``; they run on the CPU.
        batch: inputs in a batch, for the throughput.
        threads: of torch, and of onnxruntime.
        device: of student and teachers.
        seconds: for each model in each round.
        trust: see :func:`stillhouse.load_student`.

    Raises:
        StillhouseError: no run, no such program, a teacher that cannot be built, inputs that a program does not take.
    """
    for name, value in (("--batch", batch), ("--threads", threads)):
        if value < 1:
            raise StillhouseError(f"must be >= 1, got {value}", where=name)
    saved = open_run(run)
    student = load_student(run, trust=trust)
    models: dict[str, nn.Module] = {"student": student}
    task = saved.task.for_data(saved.info)
    for name in saved.recipe.all_teachers:
        models[name] = build_stand_in(saved, name, task)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        one, many = (torch.rand(n, *saved.info.input_shape) for n in (1, batch))
        calls = {name: _make_call(model, torch.device(device)) for name, model in models.items()}
        calls |= {str(file): _read_program(Path(file)) for file in files}
        latencies = _time(calls, one, seconds, device)
        throughputs = _time(calls, many, seconds, device)
    finally:
        torch.set_num_threads(before)
    return [_sum_up(name, models.get(name), latencies[name], [batch / t for t in throughputs[name]]) for name in calls]


def _read_program(file: Path) -> Call:
    form = next((form for form, suffix in FORMATS.items() if suffix == file.suffix), "")
    if form not in ("torch", "onnx"):
        raise StillhouseError(
            "must be a program, .onnx or .pt2", where=str(file), hint="stillhouse export RUN --to FILE"
        )
    if not file.is_file():
        raise StillhouseError("file not found", where=str(file))
    check_installed(form)
    try:
        return read_torch(file) if form == "torch" else read_onnx(file)
    except Exception as error:
        raise StillhouseError(f"cannot be read: {str(error).splitlines()[0]}", where=str(file)) from error


def _make_call(model: nn.Module, device: torch.device) -> Call:
    model = model.to(device).eval()

    def call(x: Tensor) -> object:
        with torch.inference_mode():
            return model(x.to(device))

    return call


def _time(calls: Mapping[str, Call], x: Tensor, seconds: float, device: str) -> dict[str, list[float]]:
    """Seconds of one call of each model, by round."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for name, call in calls.items():
        try:
            for _ in range(_WARM_UP):
                call(x)
        except Exception as error:
            what = f"does not take inputs of {tuple(x.shape)}: {type(error).__name__}: {str(error).splitlines()[0]}"
            raise StillhouseError(what, where=name, hint="--batch as it was exported with") from error
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            found[name].append(_time_once(call, x, seconds / _ROUNDS, device))
    return found


def _time_once(call: Call, x: Tensor, seconds: float, device: str) -> float:
    done, started = 0, time.perf_counter()
    while True:
        call(x)
        done += 1
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        passed = time.perf_counter() - started
        if passed >= seconds:
            return passed / done


def _sum_up(name: str, model: nn.Module | None, latencies: Sequence[float], throughputs: Sequence[float]) -> Timing:
    parameters = None if model is None else sum(p.numel() for p in model.parameters())
    return Timing(
        name=name,
        parameters=parameters,
        mebibytes=(Path(name).stat().st_size if model is None else _weigh(model)) / 2**20,
        latency=statistics.median(latencies) * 1000,
        latency_range=(min(latencies) * 1000, max(latencies) * 1000),
        throughput=statistics.median(throughputs),
        throughput_range=(min(throughputs), max(throughputs)),
    )


def _weigh(model: nn.Module) -> int:
    """Bytes of its weights, saved."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell()
