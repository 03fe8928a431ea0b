"""Persistent worker processes, one thread each: a worker that dies costs its run alone, and none outlives its parent.

Where that is safe they are forked: a worker has what its parent has imported and loaded, and begins at once. Else they are
forked from a server that has imported torch once, and started nothing; where there are no forks, each is a new interpreter.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import attrs

from stillhouse.config.recipe import Recipe
from stillhouse.distributed.signals import Terminated, raising
from stillhouse.experiments.job import Job, Outcome, run_job

__all__ = ["can_fork", "run_here", "run_in_workers"]

_LAST_STEP = 15
"""Seconds for a run that is to end to finish its step and to write its checkpoint."""

_ALONE = 1.0
"""Seconds for which one worker works alone: each pays half a second for its first step, which a few short runs never pay back."""

_SERVER_IMPORTS = ["stillhouse.training.preparation"]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_here(jobs: Iterable[Job]) -> Generator[Outcome]:
    """Run the jobs one after another in this process, and yield their outcomes."""
    from stillhouse.memo import share_memo

    with share_memo():
        for job in jobs:
            yield run_job(job)


def can_fork(recipes: Iterable[Recipe]) -> bool:
    """Whether workers that train ``recipes`` may be forked from this process.

    On Linux, where no thread of Python's is under way, which would be gone in the middle of what it does; and where each
    run has one thread on a CPU: CUDA does not outlive a fork, nor do the threads that torch computes with.
    """
    import torch

    return (
        sys.platform == "linux"
        and threading.active_count() == 1
        and not torch.cuda.is_available()
        and all(recipe.run.threads == 1 for recipe in recipes)
    )


def run_in_workers(jobs: Iterable[Job], count: int, *, fork: bool = False) -> Generator[Outcome]:
    """Run the jobs in up to ``count`` processes that live until the last one is done, and yield outcomes as they come.

    When the generator is closed early (an interruption, say), the workers are ended; their runs go on from the last
    checkpoint another time.

    Args:
        jobs: started in order, each when a process is free.
        count: processes; several may share one GPU.
        fork: fork them, all of them now: see :func:`can_fork`. Else they are started one by one as there are jobs.
    """
    workers: list[_Worker] = []
    if fork:
        import torch.utils.tensorboard  # noqa: F401 - what every run imports is imported before there are many

        for _ in range(count):
            workers.append(_Worker(inherited=tuple(worker.connection for worker in workers)))
    return _run_jobs(iter(jobs), workers, count)


def _run_jobs(waiting: Iterator[Job], workers: list[_Worker], count: int) -> Generator[Outcome]:
    alone_until = time.monotonic() + _ALONE
    try:
        while True:
            alone_for = max(0.0, alone_until - time.monotonic())
            size = 1 if alone_for else count
            for worker in workers[:size]:
                if worker.job is None and (job := next(waiting, None)) is not None:
                    worker.give(job)
            # One that has died is replaced by none of this process's forks: by now there may be threads.
            while len(workers) < size and (job := next(waiting, None)) is not None:
                workers.append(_Worker())
                workers[-1].give(job)
            busy = [worker for worker in workers if worker.job is not None]
            if not busy:
                return
            ready = wait([worker.connection for worker in busy], alone_for or None)
            for worker in busy:
                if worker.connection in ready:
                    outcome = worker.take()
                    if not worker.alive:
                        workers.remove(worker)
                    yield outcome
    finally:
        for worker in workers:
            worker.ask_to_end()
        for worker in workers:
            worker.end()


@attrs.define(eq=False)
class _Worker:
    """One process and its current job.

    Attributes:
        inherited: of a process that is forked, the ends of pipes to those before it, which it has to close; None: it is
            no fork.
    """

    inherited: tuple[Connection, ...] | None = None
    job: Job | None = None
    alive: bool = True
    connection: Connection = attrs.field(init=False)
    process: Any = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        context = _make_context() if self.inherited is None else multiprocessing.get_context("fork")
        self.connection, other = context.Pipe()
        # A fork has the ends of all pipes: with one of them left open there, nobody would see that its owner is gone.
        others = () if self.inherited is None else (*self.inherited, self.connection)
        # Not a daemon: those may not have children, and a run's data may be read by processes of its own.
        words = (other, others, dict(os.environ))
        self.process = context.Process(target=_serve, args=words, name="stillhouse-worker", daemon=False)
        with _limit_threads(), warnings.catch_warnings():
            # Python 3.12 warns of threads, torch's own among them, which a worker does without.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        other.close()  # so that the end of the process is the end of the pipe

    def give(self, job: Job) -> None:
        self.job = job
        with suppress(OSError):  # it has died: take() says so
            self.connection.send(job)

    def take(self) -> Outcome:
        job, self.job = self.job, None
        assert job is not None
        try:
            outcome: Outcome = self.connection.recv()
        except (EOFError, OSError):
            self.alive = False
            self.process.join()
            code = self.process.exitcode
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            more = ": was there enough memory? --jobs says how many run at once" if code == -signal.SIGKILL else ""
            return Outcome(job, None, f"the worker process died ({how}){more}")
        return outcome

    def ask_to_end(self) -> None:
        self.connection.close()
        if self.job is not None:
            self.process.terminate()  # its run writes a checkpoint first

    def end(self) -> None:
        self.process.join(_LAST_STEP)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _make_context() -> Any:
    """Make the context of processes that are no forks of this one."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_SERVER_IMPORTS)
    return context


def _serve(connection: Connection, others: tuple[Connection, ...], environment: dict[str, str]) -> None:
    os.environ.update(environment | dict.fromkeys(_THREADS, "1"))  # a server has that of its own start
    for other in others:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all: the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    from stillhouse.memo import share_memo

    torch.set_num_threads(1)
    with suppress(EOFError, Terminated), raising(), share_memo():
        while True:
            connection.send(run_job(connection.recv()))


def _end_with_parent() -> None:
    """End at once when the parent is gone, even killed, so that nobody else writes to a resumed ablation's runs."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


@contextmanager
def _limit_threads() -> Iterator[None]:
    """Limit processes that are started in this context to one thread for each library."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
