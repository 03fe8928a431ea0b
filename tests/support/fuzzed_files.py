"""A finished run, an ablation and an exported file with damaged contents, read by whatever reads them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stillhouse.cli import main
from stillhouse.students.loader import load_student
from support.fuzzed_commands import RECIPE, run_line
from support.fuzzed_tables import ODD
from support.fuzzing import Failure, attempt

STORED = ("recipe.toml", "lock.json", "summary.json", "composition.txt")
CONTENTS = [
    b"",
    b"null",
    b"[]",
    b"3",
    b"{}",
    b'"x"',
    b"[" * 100_000,
    b'{"a":"\xff"}',
    b"\0" * 50,
    b"NaN",
    b"\xef\xbb\xbf{}",
]


def make_runs(folder: Path) -> None:
    """Train a run and an ablation in ``folder``, and export the run."""
    (folder / "plain.toml").write_text(RECIPE)
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["train", "plain.toml", "--quiet", "--out", "done"]) == 0
        assert main(["export", "done", "--to", "done.safetensors"]) == 0
        assert main(["ablate", "plain.toml", "--seeds", "1", "--leave-one-out", "--quiet", "--out", "arms"]) == 0


def damage(content: bytes, chance: random.Random) -> bytes:
    """Cut, flip, repeat, or replace the content of a file."""
    if not content or chance.random() < 0.2:
        return chance.choice(CONTENTS)
    data, at = bytearray(content), chance.randrange(len(content))
    how = chance.choice(["cut", "flip", "flip", "flips", "repeat", "noise"])
    if how == "cut":
        del data[at:]
    elif how == "flip":
        data[at] ^= 1 << chance.randrange(8)
    elif how == "flips":
        for _ in range(20):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif how == "repeat":
        data[at:at] = data[max(0, at - 50) : at]
    else:
        data[at : at + 16] = chance.randbytes(16)
    return bytes(data)


def damage_json(content: bytes, chance: random.Random) -> bytes:
    """Take a key away, or give it an odd value; a few levels down as well."""
    tables: Any = json.loads(content)
    place = tables
    while isinstance(place, dict) and place:
        key = chance.choice(list(place))
        inner = place[key]
        if isinstance(inner, dict) and inner and chance.random() < 0.6:
            place = inner
            continue
        if chance.random() < 0.3:
            del place[key]
        else:
            place[key] = chance.choice([None, *ODD])
        break
    try:
        return json.dumps(tables).encode()
    except ValueError:  # more digits than Python writes
        return b"9" * 5000


def _damaged(content: bytes, name: str, chance: random.Random) -> bytes:
    return damage_json(content, chance) if name.endswith(".json") and chance.random() < 0.6 else damage(content, chance)


def _in_run(folder: Path, chance: random.Random) -> tuple[str, Callable[[], object]]:
    name = chance.choice([*STORED, *STORED[:3]])
    (folder / name).write_bytes(_damaged((folder / name).read_bytes(), name, chance))
    lines = [
        ["evaluate", "run"],
        ["evaluate", "run", "--data", "sklearn:digits"],
        ["compare", "run", "done"],
        ["train", "plain.toml", "--out", "run", "--resume", "--quiet"],
        ["train", "run/recipe.toml", "--out", "run", "--resume", "--quiet"],
        ["export", "run", "--to", "run/x.safetensors"],
        ["explain", "plain.toml", "--set", "teacher={checkpoint='run'}"],
    ]
    words = chance.choice(lines)
    return f"{name}, {' '.join(words)}", lambda: run_line(words)


def _in_checkpoint(folder: Path, chance: random.Random) -> tuple[str, Callable[[], object]]:
    file = chance.choice(sorted((folder / "checkpoints").glob("*.pt")))
    file.write_bytes(damage(file.read_bytes(), chance))
    words = chance.choice([["evaluate", "run"], ["train", "plain.toml", "--out", "run", "--resume", "--quiet"]])
    return f"{file.name}, {' '.join(words)}", lambda: run_line(words)


def _of_another_kind(folder: Path, chance: random.Random) -> tuple[str, Callable[[], object]]:
    """Put a folder in a file's place, or the other way round, or a link that leads nowhere."""
    name = chance.choice([*STORED, "checkpoints", "tensorboard"])
    if (folder / name).is_dir():
        shutil.rmtree(folder / name)
        (folder / name).write_text("x")
    else:
        (folder / name).unlink()
        if chance.random() < 0.5:
            (folder / name).mkdir()
        else:
            (folder / name).symlink_to("nowhere")
    resumed = ["train", "plain.toml", "--out", "run", "--resume", "--quiet"]
    words = chance.choice([["evaluate", "run"], ["compare", "run", "done"], resumed])
    return f"{name} of another kind, {' '.join(words)}", lambda: run_line(words)


def _in_ablation(folder: Path, chance: random.Random) -> tuple[str, Callable[[], object]]:
    files = sorted(p for p in Path("ablation").rglob("*") if p.suffix in (".json", ".toml"))
    file = chance.choice([*files, Path("ablation/ablation.json"), Path("ablation/ablation.json")])
    file.write_bytes(_damaged(file.read_bytes(), file.name, chance))
    words = ["ablate", "plain.toml", "--seeds", "1", "--leave-one-out", "--out", "ablation", "--list"]
    words = chance.choice([["compare", "ablation"], words])
    return f"{file}, {' '.join(words)}", lambda: run_line(words)


def _in_export(folder: Path, chance: random.Random) -> tuple[str, Callable[[], object]]:
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    if chance.random() < 0.5:
        Path("x.safetensors").write_bytes(damage(Path("done.safetensors").read_bytes(), chance))
    else:
        with safe_open("done.safetensors", "pt") as file:
            told = dict(file.metadata())
        told["stillhouse"] = damage_json(told["stillhouse"].encode(), chance).decode()
        save_file(load_file("done.safetensors"), "x.safetensors", told)
    assert torch.get_num_threads() == 1
    return "an exported file", lambda: load_student("x.safetensors")


def try_files(seed: int, count: int) -> Iterator[Failure | None]:
    """Try ``count`` damaged files in a new folder below the current one."""
    folder = Path(f"files-{seed}").resolve()
    folder.mkdir()
    os.chdir(folder)
    make_runs(folder)
    chance = random.Random(seed)
    kinds = [*[_in_run] * 6, _in_checkpoint, _of_another_kind, _in_ablation, _in_ablation, _in_export]
    for number in range(count):
        for name, source in (("run", "done"), ("ablation", "arms")):
            shutil.rmtree(folder / name, ignore_errors=True)
            shutil.copytree(folder / source, folder / name)
        what, function = chance.choice(kinds)(folder / "run", chance)
        yield attempt(f"{number}: {what}", function)
