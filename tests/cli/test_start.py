"""What a command imports before it does anything: the half of a short run's time that nobody sees."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from stillhouse.cli import main
from stillhouse.cli.common import importing
from stillhouse.entries import COMMANDS, installed

RECIPE = """
[run]
name = "small"
epochs = 1
device = "cpu"
threads = 1
[data]
name = "sklearn:digits"
batch_size = 8
limit = 16
[student]
model = "stillhouse.models:convnet"
args = { width = 2 }
[teacher]
model = "stillhouse.models:convnet"
args = { width = 2 }
random = true
[[plugins]]
use = "logits"
"""
SLOW = ("torch", "torchvision", "ignite", "sklearn", "scipy", "pandas", "matplotlib", "tensorboard")
SAYS_IMPORTS = f"""
import sys
from stillhouse.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as ended:
    code = ended.code
assert not code, code
print("imports:", *(name for name in {SLOW} if name in sys.modules))
"""


def imports_of(folder: Path, *words: str) -> set[str]:
    """The slow libraries that a command imports; it has a process of its own, in ``folder``."""
    (folder / "small.toml").write_text(RECIPE)
    command = [sys.executable, "-c", SAYS_IMPORTS, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].removeprefix("imports:").split())


def test_what_a_run_does_not_use_is_not_imported(tmp_path: Path):
    assert (
        imports_of(tmp_path, "train", "small.toml", "--quiet") & {"torchvision", "sklearn", "scipy", "pandas"} == set()
    )


def test_a_run_is_explained_without_pictures_and_events(tmp_path: Path):
    assert imports_of(tmp_path, "explain", "small.toml") == {"torch", "ignite"}


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("--version",),
        ("plugins",),
        ("plugins", "--json"),
        *((found.use, "--help") for found in installed(COMMANDS)),
        ("ablate", "small.toml", "--list", "--leave-one-out", "--grid", "logits.weight=1,2"),
    ],
    ids=" ".join,
)
def test_what_says_what_there_is_imports_nothing_slow(tmp_path: Path, words: tuple[str, ...]):
    assert imports_of(tmp_path, *words) == set()


def test_finished_runs_are_compared_and_listed_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(RECIPE)
    assert main(["ablate", "small.toml", "--seeds", "2", "--one-at-a-time", "--out", "runs", "--quiet"]) == 0
    assert imports_of(tmp_path, "compare", "runs") == {"scipy"}
    assert imports_of(tmp_path, "ablate", "small.toml", "--list", "--out", "runs") == set()


def test_a_recipe_is_read_without_torch(tmp_path: Path):
    (tmp_path / "small.toml").write_text(RECIPE)
    script = "import sys, stillhouse; stillhouse.Recipe.load('small.toml'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_what_is_imported_is_left_out_of_later_looks_for_garbage():
    before = gc.get_freeze_count()
    try:
        with importing():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()


def test_a_command_in_ones_own_process_leaves_the_collector_as_it_was(tmp_path: Path):
    (tmp_path / "small.toml").write_text(RECIPE)
    assert main(["explain", str(tmp_path / "small.toml")]) == 0
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
