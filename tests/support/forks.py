"""Programs in processes of their own that start at once: forks of one that has imported torch and ours already.

All else is such a process's own: arguments, folder, environment, outputs, signals and the end. A test of what is imported, or of
how an interpreter begins or ends, starts one anew instead.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

_TESTS = str(Path(__file__).parents[1])
_IMPORTS = [
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "pytest",
    "stillhouse.cli.train",
    "stillhouse.training.preparation",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.utils.tensorboard",
]
_CONTEXT: Any = multiprocessing.get_context("forkserver")


class Fork:
    """A running ``python -m MODULE ARGUMENTS``, to be asked as :class:`subprocess.Popen` is.

    Args:
        words: the module and its arguments.
        cwd: where it is started.
        environment: what differs from this process's.
    """

    def __init__(self, *words: str, cwd: str | Path = _TESTS, **environment: str) -> None:
        self.args = ["python", "-m", *words]
        self._outputs = tempfile.TemporaryDirectory(prefix="fork-")
        for name in ("out", "err"):
            Path(self._outputs.name, name).touch()
        _CONTEXT.set_forkserver_preload(_IMPORTS)
        whole = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        told = (words, str(cwd), whole, _default_path(), self._outputs.name)
        self._process = _CONTEXT.Process(target=_become, args=told)
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """Its exit code, or less than 0 the signal that has ended it; None while it runs."""
        code: int | None = self._process.exitcode
        return code

    def send_signal(self, number: int) -> None:
        """Signal it, where it still runs."""
        if self.returncode is None:
            os.kill(self._process.pid, number)

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        """Wait for its end; its output, and what it said of errors."""
        self._process.join(timeout)
        late = self.returncode is None
        if late:
            self.send_signal(signal.SIGKILL)
            self._process.join()
        output, errors = (Path(self._outputs.name, name).read_text(encoding="utf-8") for name in ("out", "err"))
        if late:
            raise subprocess.TimeoutExpired(self.args, timeout, output, errors)
        return output, errors


def run(*words: str, cwd: str | Path = _TESTS, **environment: str) -> subprocess.CompletedProcess[str]:
    """:class:`Fork` to its end."""
    fork = Fork(*words, cwd=cwd, **environment)
    output, errors = fork.communicate()
    return subprocess.CompletedProcess(fork.args, fork.returncode or 0, output, errors)


@cache
def _default_path() -> list[str]:
    """Where an interpreter looks for modules that is told nothing; this one has been told of the tests."""
    words = [sys.executable, "-c", "import json, sys; print(json.dumps(sys.path[1:]))"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found: list[str] = json.loads(subprocess.run(words, env=environment, capture_output=True, check=True).stdout)
    return found


def _become(words: tuple[str, ...], cwd: str, environment: dict[str, str], path: list[str], outputs: str) -> None:
    """Be the program ``words``, as a new interpreter would that was started so."""
    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(Path(outputs, name), os.O_WRONLY | os.O_APPEND), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    added = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [cwd, *map(os.path.abspath, added), *path]
    sys.argv = list(words)
    _limit_threads(environment)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


def _limit_threads(environment: dict[str, str]) -> None:
    import torch  # which has read the server's environment, and not this one

    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
