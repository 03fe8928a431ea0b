"""Short forms of the keys that are changed most often, and the script that completes what is typed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from stillhouse.cli import main

ROOT = Path(__file__).parents[2]


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    recipe = ROOT / "docs/recipes/digits-teacher.toml"
    assert main(["explain", str(recipe), "--json", *arguments]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_short_forms_are_keys_and_set_is_stronger(capsys: pytest.CaptureFixture[str]):
    given = "--epochs 2 --lr 0.25 --batch-size 16 --device cpu --data sklearn:digits --set data.per_class=5"
    found = explained(capsys, *given.split())
    assert (found["epochs"], found["data"]["batch_size"], found["steps"], found["device"]) == (2, 16, 8, "cpu")
    assert found["optimizer"][0]["lr"] == 0.25
    assert explained(capsys, "--epochs", "2", "--set", "run.epochs=3")["epochs"] == 3


def test_a_wrong_short_form_names_the_key(capsys: pytest.CaptureFixture[str]):
    recipe = str(ROOT / "docs/recipes/digits-teacher.toml")
    for option, said in (("--epochs", "run.epochs: must be a whole number, got 'x'"), ("--data", "data.name: ")):
        assert main(["explain", recipe, option, "x"]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_script_completes_every_command(shell: str, capsys: pytest.CaptureFixture[str]):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in ("train", "compare", "completion", "epochs", "batch-size"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_commands_options_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "recipe.toml").touch()
    asked = """
        source ./script
        for line in "stillhouse tra" "stillhouse train --ep" "stillhouse train rec"; do
            COMP_WORDS=($line); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()
            "$(complete -p stillhouse | sed 's/.*-F //; s/ .*//')"
            echo "${COMPREPLY[@]}"
        done
    """
    done = subprocess.run(["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["train", "--epochs", "recipe.toml"]
