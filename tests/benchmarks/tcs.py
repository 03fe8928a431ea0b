"""TCS: a step's time and memory against cross-entropy and against distilling from a live teacher; the pass's throughput.

Targets: without hashes at most 1.10 of a cross-entropy step of 30 ms or more, and at most half of a live teacher's step
where the teacher's forward takes at least 1.2 cross-entropy steps; peak memory at most cross-entropy's plus
16 (d_s + 1) d_t + 4 d_t k bytes, plus 5%; the pass at 95% of the throughput of the same loader and teacher without writing.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _bench import interleaved, ratio, report
from memory import peak_of
from torch import nn
from torch.utils.data import TensorDataset

from stillhouse import Assembly, Recipe, prepare
from stillhouse.data import Batch
from stillhouse.teachers.cache import CacheSpec
from stillhouse.teachers.cache.key import cache_key
from stillhouse.teachers.cache.reader import reading
from stillhouse.teachers.cache.writer import fill
from stillhouse.training.session import Training

ROWS, BATCH, SIDE, CLASSES = 768, 64, 32, 10
D_S, D_T = 128, 384
TCS: dict[str, Any] = {"use": "tcs", "layer": "stage3"}


def data() -> dict[str, TensorDataset]:
    """Noise with labels: what is timed does not depend on it."""
    g = torch.Generator().manual_seed(0)
    sizes = {"train": ROWS, "val": 16}
    return {
        name: TensorDataset(torch.randn(n, 3, SIDE, SIDE, generator=g), torch.arange(n) % CLASSES)
        for name, n in sizes.items()
    }


def recipe(*plugins: Mapping[str, Any], teacher: bool = True, pool: str = "none") -> Recipe:
    """A student of 128 features; a random teacher of 384."""
    tables: dict[str, Any] = {
        "run": {"name": "bench-tcs", "device": "cpu", "threads": 1, "base": str(Path(__file__).parent)},
        "data": {"name": "tcs:data", "batch_size": BATCH, "normalize": "none", "pool": pool},
        "student": {"model": "stillhouse.models:convnet", "args": {"width": D_S // 4}},
        "plugins": [dict(p) for p in plugins],
    }
    if teacher:
        tables["teacher"] = {"model": "stillhouse.models:convnet", "args": {"width": D_T // 4}, "random": True}
    return Recipe.from_dict(tables)


RUNS: dict[str, Callable[[], Recipe]] = {
    "cross-entropy": lambda: recipe(teacher=False),
    "path": lambda: recipe({**TCS, "mimic": "none"}),
    "path, pca_mse": lambda: recipe(TCS),
    "path, pca_mse, selection": lambda: recipe({**TCS, "select": "train"}),
    "cached logits": lambda: recipe({**TCS, "mimic": "logits", "path": "none", "weight": 1.0}),
    "path, elsh, 2,048 hashes": lambda: recipe({**TCS, "mimic": "elsh"}),
    "path, pca_mse, pool": lambda: recipe(TCS, pool="all"),
    "live teacher, logits": lambda: recipe({"use": "logits"}),
}
PLAIN = ("path", "path, pca_mse", "path, pca_mse, selection", "cached logits")


def stepping(training: Training, batch: Batch) -> Callable[[], object]:
    """One training step on one batch."""
    training.run.composition.train()
    trainer = training.run.trainer
    trainer.state.epoch = trainer.state.iteration = 1
    return lambda: trainer._process_function(trainer, batch)


def forward_only(teacher: nn.Module, batch: Batch) -> None:
    """The teacher's forward pass."""
    with torch.no_grad():
        teacher(batch.input)


def fine_tuning(teacher: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """A step of training the teacher on the task, which a live teacher needs beforehand and TCS does not."""
    optimizer.zero_grad()
    nn.functional.cross_entropy(teacher(batch.input), batch.target).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def held(training: Training) -> int:
    """Bytes of all tensors that live through a step: the models', the optimizer's."""
    seen: dict[int, int] = {}
    tensors: list[torch.Tensor] = [*training.run.composition.state_dict().values()]
    if training.run.teacher is not None:
        tensors += training.run.teacher.state_dict().values()
    for state in training.optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
    for tensor in tensors:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(seen.values())


def passes(assembly: Assembly, folder: Path, key: dict[str, Any], spec: CacheSpec) -> None:
    """The pass, written."""
    assert assembly.batches is not None
    target = folder / "cache"
    shutil.rmtree(target, ignore_errors=True)
    fill(assembly, assembly.batches.passes, assembly.batches.passes.ids("train"), spec, target, key)


def unwritten(assembly: Assembly, spec: CacheSpec, device: torch.device) -> None:
    """The same loader and teacher without writing."""
    assert assembly.batches is not None
    assert assembly.teacher is not None
    with reading(assembly.teacher, assembly.task, spec, device) as read:
        for batch in assembly.batches.passes.once(assembly.batches.passes.ids("train")):
            read(batch)


def shown(ms: Iterable[float]) -> str:
    """Median and range in milliseconds."""
    values = sorted(1e3 * v for v in ms)
    return f"{statistics.median(values):.1f} ({values[0]:.1f} to {values[-1]:.1f})"


def main() -> None:
    """Measure and report."""
    torch.set_num_threads(1)
    trainings = {name: prepare(make(), write=False) for name, make in RUNS.items()}
    first = trainings["cross-entropy"]
    batch = next(iter(first.data.training()))
    live = trainings["live teacher, logits"]
    teacher = live.run.teacher
    assert teacher is not None
    cases: dict[str, Callable[[], object]] = {name: stepping(t, t.first_batch()) for name, t in trainings.items()}
    cases["teacher's forward"] = partial(forward_only, teacher, batch)
    tuned = prepare(RUNS["live teacher, logits"](), write=False).run.teacher
    assert tuned is not None
    tuned.requires_grad_().train()
    cases["teacher's fine-tuning, a step"] = partial(fine_tuning, tuned, torch.optim.AdamW(tuned.parameters()), batch)
    spec = CacheSpec(taps=("stage3",), moments=True)
    with tempfile.TemporaryDirectory() as folder:
        assembly = live.assembly
        assert assembly.batches is not None
        by_id = assembly.batches.passes
        key = cache_key(teacher, assembly.task, by_id, by_id.ids("train"), spec)
        cases["the pass"] = partial(passes, assembly, Path(folder), key, spec)
        cases["the pass without writing"] = partial(unwritten, assembly, spec, assembly.device)
        seconds = interleaved(cases, repeats=9, calls=1, warmup=1)
    targets = {**dict.fromkeys(PLAIN, "at most 1.10"), "live teacher, logits": "", "cross-entropy": "30 ms or more"}
    rows = []
    for name in cases:
        if name.startswith("the pass"):
            continue
        over = "{1:.2f} ({0:.2f} to {2:.2f})".format(*ratio(seconds, name, "cross-entropy"))
        against = "{1:.2f} ({0:.2f} to {2:.2f})".format(*ratio(seconds, name, "live teacher, logits"))
        rows.append(
            [name, shown(seconds[name]), over, targets.get(name, ""), against, "at most 0.5" if name in PLAIN else ""]
        )
    through = {n: ROWS / statistics.median(seconds[n]) for n in ("the pass", "the pass without writing")}
    low, middle, high = ratio(seconds, "the pass without writing", "the pass")
    peaks = {name: peak_of(cases[name], live.run.device) + held(t) for name, t in trainings.items()}
    k = trainings["path, pca_mse"].run.student.get_submodule("head").project.axes.shape[1]
    extra = 16 * (D_S + 1) * D_T + 4 * D_T * k
    allowed = 1.05 * (peaks["cross-entropy"] + extra)
    memory = ", ".join(f"{name} {peak / 2**20:.2f} MiB" for name, peak in peaks.items())
    verdict = peaks["path, pca_mse"] / allowed
    report(
        "TCS: time and memory of a step, and the pass",
        ["what", "ms, median (range)", "of a cross-entropy step", "target", "of a live teacher's step", "target"],
        rows,
        [
            f"Batch {BATCH} of 3x{SIDE}x{SIDE}, student of {D_S} features, random teacher of {D_T}, k = {k}.",
            "",
            f"The pass: {through['the pass']:.0f} samples a second, {through['the pass without writing']:.0f} without "
            f"writing; {100 * middle:.1f}% ({100 * low:.1f} to {100 * high:.1f}) of its throughput, target 95%.",
            "",
            f"Peak of allocated tensors: {memory}. Allowed for `path, pca_mse`: {allowed / 2**20:.2f} MiB "
            f"(cross-entropy + {extra:,} bytes, + 5%); it takes {100 * verdict:.1f}% of that.",
        ],
    )


if __name__ == "__main__":
    main()
