"""Command lines of the engine's own commands, with odd files, options and values."""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import sys
from argparse import Action, ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillhouse.cli import main
from stillhouse.cli.parser import make_parser
from support.fuzzing import Failure, attempt

RECIPE = """
[run]
name = "plain"
epochs = 1
threads = 1
[data]
name = "sklearn:digits"
batch_size = 32
per_class = 4
[student]
model = "convnet"
args = { width = 4 }
[teacher]
model = "convnet"
args = { width = 4 }
random = true
[[plugins]]
use = "features"
links = [{ student = "stage3", teacher = "stage3", pool = "mean" }]
[[plugins]]
use = "projector"
"""

COMMANDS = ("train", "explain", "evaluate", "predict", "export", "ablate", "compare", "plugins")
ODD = [
    *[
        "",
        " ",
        "=",
        "-",
        "--",
        "x",
        "0",
        "-1",
        "1",
        "999999999999",
        "9" * 5000,
        "1e400",
        "nan",
        "inf",
        "1979-05-27",
        "0x10",
    ],
    *["nowhere", "a" * 5000, "/", "/dev/null", "/dev/zero", "/proc/self/mem", "https://x/y.toml", "~nobody/x", "../.."],
    *[
        "\0",
        "\n",
        "\x1b[31m",
        "\u202egnp",
        "\udcff",
        "[/x]",
        "[bold]",
        ":smile:",
        "%s",
        "{0}",
        "'''",
        "[" * 5000,
        "C:\\x",
    ],
    *[
        "best",
        "last",
        "own",
        "0x0",
        "9x9",
        "cpu",
        "cuda:99",
        "meta",
        "x.safetensors",
        "x.pt2",
        "x.png",
        "test",
        "val/x",
    ],
]
KEYS = [
    *["run.epochs", "run.seed", "run.name", "run.base", "run.threads", "run.device", "run", "run.", ".x", "", "run..x"],
    *[
        "data.name",
        "data.batch_size",
        "data.workers",
        "data.size",
        "data.transforms",
        "data.split",
        "data.val_fraction",
    ],
    *["student.args.width", "student.model", "student", "teacher", "teacher.recipe", "teacher.checkpoint", "task.name"],
    *["optimizer.name", "optimizer.lr", "optimizer.args", "schedule.warmup", "ema.decay", "speed.compile_args.backend"],
    *["plugins", "plugins.0.kind", "plugins.features.links", "plugins.features.weight", "plugins.features.name"],
    *["plugins.nope.x", "plugins.features.links.0.student", "plugins.projector.kind", "checkpoints.every_steps"],
]
VALUES = [
    *["os:system", "builtins:exit", "sys:exit", "builtins:dict", "builtins:print", "torch.optim:Optimizer", "lbfgs"],
    *["[[[", "[]", "{}", "[{use='Nope'}]", "[{use='RandomCrop',size=99}]", "[{}]", "{blocks=0}", "{betas=[2,3]}"],
    *["folder:", "folder:/nowhere", "sklearn:digits:x", "sklearn:nope", "sgd", "mlp", "convnet:x", "true", "0.5", "2"],
]
LISTS = [
    *["", ",", "features", "features,features", "features=", "=linear", "features,projector=nope", "projector", "nope"],
    *[
        "logits,logits",
        "logits:1",
        "os:system",
        "sys:exit",
        "logits," * 60,
        "features[0]",
        "tcs,cache",
        "spectral=stage3",
    ],
]
FILES = {
    "plain.toml": RECIPE.encode(),
    "bom.toml": b"\xef\xbb\xbf" + RECIPE.encode(),
    "crlf.toml": RECIPE.replace("\n", "\r\n").encode(),
    "wide.toml": RECIPE.encode("utf-16"),
    "bytes.toml": bytes(range(256)),
    "deep.toml": ("x = " + "[" * 3000 + "]" * 3000).encode(),
    "dotted.toml": ("[" + ".".join(["a"] * 3000) + "]\nx = 1").encode(),
    "own.toml": RECIPE.replace(
        'model = "convnet"\nargs = { width = 4 }\nrandom = true', 'recipe = "own.toml"'
    ).encode(),
    "windows.toml": RECIPE.replace("sklearn:digits", "folder:C:\\Users\\me").encode(),
    "huge.toml": RECIPE.replace("epochs = 1", "epochs = " + "9" * 5000).encode(),
    "markup.toml": RECIPE.replace('"plain"', '"[bold]x[/y] :smile:"').encode(),
    "picture.png": b"no picture",
}


def make_files(folder: Path) -> None:
    """Make the files, and a finished run, in ``folder``."""
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["train", "plain.toml", "--quiet", "--out", "done"]) == 0


def list_options() -> dict[str, list[Action]]:
    """List each command's options but those for help."""
    (commands,) = (a for a in make_parser()._actions if isinstance(a.choices, dict))
    parsers: dict[str, ArgumentParser] = commands.choices  # type: ignore[assignment]
    return {n: [a for a in parsers[n]._actions if a.option_strings and a.dest != "help"] for n in COMMANDS}


def make_line(options: dict[str, list[Action]], chance: random.Random) -> list[str]:
    """Make one command line; nothing in it trains for long."""
    command = chance.choice([*COMMANDS, "explain", "explain"])
    words = [command]
    if command in ("train", "explain", "ablate"):
        words.append(chance.choice([*FILES, "plain.toml", "plain.toml", "plain.toml", "done/recipe.toml", *ODD[:3]]))
    elif command == "plugins":
        words += chance.choice([[], ["features"], [chance.choice(ODD)]])
    else:
        words.append(chance.choice(["done", "done", "done", "done/checkpoints", *ODD]))
    if command == "predict":
        words.append(chance.choice([*FILES, *ODD]))
    if command == "export":
        words += ["--to", chance.choice(["x.safetensors", "x.pt2", "nowhere/x.pt2", *ODD])]
    for _ in range(chance.choice([0, 1, 1, 2, 3])):
        words += _make_option(chance.choice(options[command]), chance)
    if command == "ablate":
        words.append("--list")
    return words if chance.random() < 0.95 else chance.sample(words, len(words))


def _make_option(option: Action, chance: random.Random) -> list[str]:
    name = option.option_strings[0]
    if option.nargs == 0:
        return [name]
    if option.dest == "overrides":
        if chance.random() < 0.2:
            return [name, chance.choice(ODD)]
        return [name, f"{chance.choice(KEYS)}={chance.choice([*VALUES, *ODD])}"]
    if option.dest == "plugins":
        return [name, chance.choice([*LISTS, *ODD])]
    if option.dest == "grid":
        return [name, chance.choice(["x", "projector.kind=linear,mlp", "run.seed=1,2", "projector.kind=", *ODD])]
    choices: list[Any] = [*option.choices] if option.choices else []
    return [name, str(chance.choice([*choices, *ODD]))]


def run_line(words: list[str]) -> None:
    """Run the command line; raises where it neither succeeds nor says what is wrong."""
    out, errors = io.StringIO(), io.StringIO()
    before, sys.stdin = sys.stdin, io.StringIO("")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            try:
                code: Any = main(words)
            except SystemExit as error:  # argparse ends what it cannot parse
                code = error.code
    finally:
        sys.stdin = before
    said = errors.getvalue()
    assert code in (0, 2), f"exit code {code!r}: {said[-500:]}"
    assert code == 0 or said.strip(), "it refused without a word"
    assert "Traceback" not in said, said
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", said + out.getvalue()), "control characters"
    assert len(said) < 20_000, "a message of a book's length"


def try_commands(seed: int, count: int) -> Iterator[Failure | None]:
    """Try ``count`` command lines in a new folder below the current one."""
    folder = Path(f"commands-{seed}").resolve()
    folder.mkdir()
    os.chdir(folder)
    make_files(folder)
    chance, options = random.Random(seed), list_options()
    for number in range(count):
        words = make_line(options, chance)
        told = f"{number}: {[word[:80] for word in words]}"
        yield attempt(told, lambda w=words: run_line(w))  # type: ignore[misc]
