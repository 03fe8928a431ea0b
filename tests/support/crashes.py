"""Runs that are killed at any moment, and pairs of runs that are started at once: ``python crashes.py kills|pairs COUNT SEED DIR``.

What a run leaves is compared with that of one that nobody disturbed: every tensor of its checkpoints, summary, history, files,
and each step's scalars in TensorBoard. A parent that has imported everything forks the runs, so that a start costs no seconds.
Prints one JSON object a line for each disturbed run: what was done, and ``bad``, a list of what differs.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))
os.environ["OMP_NUM_THREADS"] = "1"

import ignite.handlers  # noqa: F401, E402 - imported before the forks
import matplotlib as mpl  # noqa: E402
import torch  # noqa: E402
import torch.utils.tensorboard  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402

import stillhouse.students.loader  # noqa: E402
import stillhouse.training.preparation  # noqa: F401, E402
from stillhouse import Recipe  # noqa: E402
from stillhouse.cli import main  # noqa: E402
from support import FIVE, tables  # noqa: E402

FLIPS = [{"use": "RandomHorizontalFlip"}]
TEACHER = {"recipe": tables(run__name="teacher", run__epochs=6, teacher=None, checkpoints={"every_steps": 2})}
VARIANTS: dict[str, dict[str, Any]] = {
    "five": {"plugins": list(FIVE.values()), "checkpoints": {"every_steps": 2, "keep_every": 5}, "run__accumulate": 2},
    "ema": {
        "ema": {"decay": 0.9, "evaluate": "instead"},
        "early_stopping": {"patience": 9},
        "checkpoints": {"every_seconds": 0.05},
        "schedule": {"warmup": 0.1, "decay": "cosine"},
    },
    "workers": {
        "data__workers": 2,
        "data__transforms": FLIPS,
        "run__figures": True,
        "plugins": [FIVE["logits"]],
        "checkpoints": {"every_seconds": 0},
    },
    "teacher": {
        "teacher": TEACHER,
        "plugins": [{"use": "cache"}, {"use": "logits"}],
        "checkpoints": {"every_steps": 3},
    },
    "schedule-free": {
        "optimizer": {"name": "support.schedule_free:ScheduleFreeSGD", "lr": 0.05},
        "checkpoints": {"every_steps": 1},
    },
}
EPOCHS = {"five": 10, "ema": 14, "workers": 8, "teacher": 10, "schedule-free": 14}


def write_recipe(variant: str, folder: Path, seed: int = 3) -> Path:
    """The recipe's file of a variant."""
    run = {
        "run__epochs": EPOCHS[variant],
        "run__seed": seed,
        "run__threads": 1,
        "run__figures": False,
        "run__log_every": 1,
        "watch": {"enabled": False},  # when it looks and what it measures are times
    }
    path = folder / f"{variant}-{seed}.toml"
    path.write_text(Recipe.from_dict(tables(**{**run, **VARIANTS[variant]})).to_toml())
    return path


def spawn(words: list[str], cache: Path, log: Path) -> int:
    """A process of its own group that runs the command line."""
    pid = os.fork()
    if pid:
        return pid
    code: Any = 99
    try:
        os.setsid()
        to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(to, 1)
        os.dup2(to, 2)
        os.environ["STILLHOUSE_CACHE"] = str(cache)
        os.chdir(TESTS)
        code = main(words)
    except BaseException:  # noqa: BLE001 - a fork must never go on as its parent
        traceback.print_exc()
    os._exit(code)


def is_alive(pid: int) -> bool:
    """Whether a child goes on; it is not asked for its exit code, which it keeps."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def end_of(pid: int, seconds: float = 300.0) -> int:
    """The exit code of a process, which has so long; -999 where it took longer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -999


def differing(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """The places where two trees of tensors and plain data differ."""
    if isinstance(a, torch.Tensor):
        if not (isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)):
            yield where
    elif isinstance(a, dict) and isinstance(b, dict):
        for key in {**a, **b}:
            yield from differing(a.get(key), b.get(key), f"{where}.{key}")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for i, (one, two) in enumerate(zip(a, b, strict=True)):
            yield from differing(one, two, f"{where}[{i}]")
    elif a != b and not (a != a and b != b):
        yield f"{where}: {a!r} and {b!r}"


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Each step's scalars; a run that is killed between the test's metrics and its summary writes the former once more."""
    seen = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    seen.Reload()
    tags = [tag for tag in seen.Tags()["scalars"] if not tag.startswith("speed")]
    points = {tag: [(event.step, event.value) for event in seen.Scalars(tag)] for tag in tags}
    return {tag: list(dict.fromkeys(told)) if tag.startswith("test") else told for tag, told in points.items()}


def compare(whole: Path, run: Path) -> list[str]:
    """What of a run is not as in one that nobody disturbed."""
    files = [sorted(str(p.relative_to(r)) for p in r.rglob("*") if "tfevents" not in p.name) for r in (whole, run)]
    if files[0] != files[1]:
        return [f"files {sorted(set(files[0]) ^ set(files[1]))}"]
    bad = []
    for path in sorted((whole / "checkpoints").iterdir()):
        pair = [torch.load(r / "checkpoints" / path.name, weights_only=True) for r in (whole, run)]
        bad += [f"{path.name}{place}" for place in differing(*pair)]
    told = [json.loads((r / "summary.json").read_text()) for r in (whole, run)]
    for summary in told:
        for key in ("seconds", "resumed_at_step"):
            summary.pop(key)
    bad += differing(*told, "summary")
    if (whole / "history.jsonl").read_bytes() != (run / "history.jsonl").read_bytes():
        bad.append("history")
    lines = [(r / "metrics.csv").read_text().splitlines() for r in (whole, run)]
    if len({tuple(line for line in one if ",speed/" not in line) for one in lines}) == 2:
        bad.append("metrics.csv")  # where each number of a step has its place, once
    return bad + list(differing(scalars(whole), scalars(run), "TensorBoard"))


class Crashes:
    """Disturbed runs in ``folder``, drawn with ``seed``."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.draw = folder, random.Random(seed)
        self.seconds: dict[str, float] = {}

    def whole(self, variant: str, seed: int = 3) -> Path:
        """The run that nobody disturbs."""
        out, name = self.folder / f"whole-{variant}-{seed}", f"{variant}-{seed}"
        if name not in self.seconds:
            began = time.monotonic()
            words = ["train", str(write_recipe(variant, self.folder, seed)), "--out", str(out), "--quiet"]
            code = end_of(spawn(words, self.folder / f"cache-{name}", self.folder / f"{name}.log"))
            assert code == 0, (self.folder / f"{name}.log").read_text()
            self.seconds[name] = time.monotonic() - began
        return out

    def kills(self, count: int) -> Iterator[dict[str, Any]]:
        """Runs that are killed again and again, or signalled, and then left to go on to their end."""
        done = number = 0
        while done < count:
            variant = list(VARIANTS)[number % len(VARIANTS)]
            number += 1
            whole, seconds = self.whole(variant), self.seconds[f"{variant}-3"]
            out, cache, log = (self.folder / f"{what}-{number}" for what in ("run", "cache", "log"))
            words = ["train", str(self.folder / f"{variant}-3.toml"), "--out", str(out), "--quiet"]
            bad, hits = [], []
            for _ in range(self.draw.choice([1, 2, 3, 4])):
                pid = spawn(words, cache, log)
                kind = self.draw.choice([signal.SIGKILL] * 4 + [signal.SIGTERM])
                time.sleep(self.draw.uniform(0.0, seconds))
                with suppress(ProcessLookupError):  # it has just ended by itself
                    os.killpg(pid, kind) if self.draw.random() < 0.5 else os.kill(pid, kind)
                code = end_of(pid)
                words += [] if "--resume" in words else ["--resume"]
                hits.append((kind.name, code))
                if code == 0:
                    break
                done += 1
                # A signal before main listens ends the process as it always did.
                if code not in (-kind, 128 + kind):
                    bad.append(f"{kind.name} gave exit code {code}")
            code = end_of(spawn(words, cache, log))
            bad += [f"exit code {code}"] if code else compare(whole, out)
            yield self._report(variant, hits, bad, log, out, cache)

    def pairs(self, count: int) -> Iterator[dict[str, Any]]:
        """Two at once: begun in one folder with other seeds, resumed in one, resumed beside the living, with one cache."""
        for number in range(count):
            kind = ("begun", "resumed", "beside", "cache")[number % 4]
            variant = "teacher" if kind == "cache" else self.draw.choice(list(VARIANTS))
            seeds = (3, 4) if kind == "begun" else (3, 3)
            wholes = [self.whole(variant, seed) for seed in seeds]
            out, cache, log = (self.folder / f"{what}-p{number}" for what in ("run", "cache", "log"))
            outs = [out, out.with_name(f"{out.name}-b") if kind == "cache" else out]
            words = [
                ["train", str(self.folder / f"{variant}-{seed}.toml"), "--out", str(to), "--quiet"]
                for seed, to in zip(seeds, outs, strict=True)
            ]
            first = None
            if kind in ("resumed", "beside"):
                first = spawn(words[0], cache, log)
                while is_alive(first) and not list(out.glob("checkpoints/last_*.pt")):
                    time.sleep(0.001)
                words = [[*each, "--resume"] for each in words]
            if kind == "resumed":
                os.killpg(first, signal.SIGKILL)
                os.waitpid(first, 0)
            pids = [spawn(words[0], cache, log)] if first is None or kind == "resumed" else [first]
            time.sleep(self.draw.choice([0.0, 0.0, self.draw.uniform(0, 0.5)]))
            pids.append(spawn(words[1], cache, log))
            codes = [end_of(pid) for pid in pids]
            text = log.read_text()
            bad = ["a traceback"] if "Traceback" in text else []
            allowed = {"begun": [(0, 2), (2, 0)], "cache": [(0, 0)]}.get(kind, [(0, 0), (0, 2), (2, 0)])
            bad += [] if tuple(codes) in allowed else [f"exit codes {codes}"]
            if 2 in codes and "is training in this folder" not in text and "exists already" not in text:
                bad.append("the refusal names nobody")
            if 0 in codes:
                winner = codes.index(0)
                bad += compare(wholes[winner], outs[winner])
                own = Recipe.load(outs[winner] / "recipe.toml").run.seed
                bad += [] if own == seeds[winner] else [f"the recipe's seed is {own}"]
            if kind == "cache":
                bad += compare(wholes[1], outs[1])
            yield self._report(f"{kind} {variant}", codes, bad, log, *outs, cache)

    @staticmethod
    def _report(name: str, hits: list[Any], bad: list[str], log: Path, *folders: Path) -> dict[str, Any]:
        left = [str(p) for folder in folders for p in folder.rglob("*") if "tmp" in p.name]
        told = log.read_text() if log.exists() else ""
        if not bad:
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
        found = bad + [f"left {path}" for path in left]
        return {"run": name, "hits": hits, "bad": found, **({"log": told[-800:]} if found else {})}


if __name__ == "__main__":
    mpl.use("Agg")
    torch.set_num_threads(1)
    what, many, start, place = sys.argv[1:]
    crashes = Crashes(Path(place), int(start))
    for report in getattr(crashes, what)(int(many)):
        print(json.dumps(report), flush=True)
