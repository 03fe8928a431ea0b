"""A forked program is what a new interpreter would be that was started with the same words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.forks import Fork, run

PROGRAM = """
import os, sys
import beside
print(__name__, sys.argv[1:], os.getcwd(), os.environ.get("ASKED"), sys.path, beside.__file__)
print("said of errors", file=sys.stderr)
"""
ENDS = {
    "none": "",
    "code": "sys.exit(3)",
    "bug": "1 / 0",
    "at once": "os._exit(4)",
    "killed": "os.kill(os.getpid(), 9)",
}


@pytest.mark.parametrize("end", ENDS)
def test_it_has_the_same_words_folder_environment_outputs_and_end(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "program.py").write_text(f"{PROGRAM}sys.stdout.flush()\n{ENDS[end]}\n")
    (tmp_path / "added").mkdir()
    (tmp_path / "added" / "beside.py").touch()
    monkeypatch.setenv("ASKED", "by the test")
    monkeypatch.syspath_prepend(str(tmp_path / "of the test alone"))
    added = {"PYTHONPATH": "added"}
    new = subprocess.run(
        [sys.executable, "-m", "program", "a word", "--option"],
        cwd=tmp_path,
        env={**os.environ, **added},
        capture_output=True,
        text=True,
        check=False,
    )
    forked = run("program", "a word", "--option", cwd=tmp_path, **added)
    assert forked.returncode == new.returncode
    assert forked.stdout == new.stdout
    assert forked.stderr.splitlines()[0] == new.stderr.splitlines()[0] == "said of errors"
    assert forked.stderr.splitlines()[-1] == new.stderr.splitlines()[-1]  # of a bug, what it was


def test_it_has_the_threads_that_it_is_told(tmp_path: Path):
    (tmp_path / "threads.py").write_text("import torch\nprint(torch.get_num_threads())\n")
    assert run("threads", cwd=tmp_path).stdout == "1\n"
    assert run("threads", cwd=tmp_path, OMP_NUM_THREADS="2").stdout == "2\n"


def test_it_can_be_signalled_and_one_that_takes_too_long_is_ended(tmp_path: Path):
    (tmp_path / "waits.py").write_text("import time\nprint('waits', flush=True)\ntime.sleep(600)\n")
    one, two = (Fork("waits", cwd=tmp_path) for _ in range(2))
    assert one.returncode is None
    one.send_signal(signal.SIGTERM)
    one.communicate()
    assert one.returncode == -signal.SIGTERM
    with pytest.raises(subprocess.TimeoutExpired):
        two.communicate(timeout=0.1)
    assert two.returncode == -signal.SIGKILL
