"""Persistent worker processes, one thread each: a worker that dies costs its run alone, and none outlives its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import attrs

from stillhouse.distributed.signals import Terminated, raising
from stillhouse.experiments.job import Job, Outcome, run_job

__all__ = ["run_here", "run_in_workers"]

_LAST_STEP = 15
"""Seconds for a run that is to end to finish its step and to write its checkpoint."""

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_here(jobs: Iterable[Job]) -> Generator[Outcome]:
    """Run the jobs one after another in this process, and yield their outcomes."""
    from stillhouse.memo import share_memo

    with share_memo():
        for job in jobs:
            yield run_job(job)


def run_in_workers(jobs: Iterable[Job], count: int) -> Generator[Outcome]:
    """Run the jobs in up to ``count`` processes that live until the last one is done, and yield outcomes as they come.

    When the generator is closed early (an interruption, say), the workers are ended; their runs go on from the last
    checkpoint another time.

    Args:
        jobs: started in order, each when a process is free.
        count: processes; several may share one GPU.
    """
    waiting = iter(jobs)
    workers: list[_Worker] = []
    try:
        while True:
            for worker in workers:
                if worker.job is None and (job := next(waiting, None)) is not None:
                    worker.give(job)
            while len(workers) < count and (job := next(waiting, None)) is not None:
                workers.append(_Worker())
                workers[-1].give(job)
            busy = [worker for worker in workers if worker.job is not None]
            if not busy:
                return
            ready = wait([worker.connection for worker in busy])
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
    """One process and its current job."""

    job: Job | None = None
    alive: bool = True
    connection: Connection = attrs.field(init=False)
    process: Any = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # forking would copy torch's threads and CUDA's state
        self.connection, other = context.Pipe()
        # Not a daemon: those may not have children, and a run's data may be read by processes of its own.
        self.process = context.Process(target=_serve, args=(other,), name="stillhouse-worker", daemon=False)
        with _limit_threads():
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


def _serve(connection: Connection) -> None:
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
