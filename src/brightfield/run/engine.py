"""Map a function over cells: on this machine, on a Dask cluster, or through Slurm. Never decides what comes out, only where it is made.

Locally each cell runs in one of a few long-lived worker processes (importing numba takes a second). A worker that dies, say killed for its
memory, takes only its own cell along: it is replaced, and the cell is tried again, alone. A ProcessPoolExecutor loses all cells then.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from brightfield.config.options import ComputeConfig, Scheduler
from brightfield.run.attempt import THREAD_LIMITS, Event, Tasks, attempt
from brightfield.run.claim import end_with_parent
from brightfield.run.progress import progress

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess


type Outcome = tuple[dict[int, Any], dict[int, str]]


@dataclass(frozen=True, slots=True)
class Engine:
    """Where and how wide to run: the `compute` group, and what the work is called. `workers=1` runs in this process (for debugging)."""

    compute: ComputeConfig = field(default_factory=ComputeConfig)
    label: str = "cells"

    @property
    def retries(self) -> int:
        """Further attempts at a cell: at most two, as the transfer has its own."""
        return min(self.compute.retries, 2)

    def map(self, function: Callable[..., Any], tasks: Tasks) -> Outcome:
        """`map_cells` with these options: what `workcache` takes as its mapper."""
        return map_cells(function, tasks, self)


def map_cells(function: Callable[..., Any], tasks: Tasks, engine: Engine | None = None) -> Outcome:
    """`function(*args)` for every cell: (results, failures), both by specimen id in the order of `tasks`; a failure is its reason in words.

    An error of ours (BrightfieldError) or of the code fails the cell at once; a dead worker, a lack of memory or an error of the operating
    system is tried again. Raises ConfigError when the scheduler cannot be reached, or no worker comes.
    """
    engine = engine or Engine()
    results: dict[int, Any] = {}
    failures: dict[int, str] = {}
    with progress(len(tasks), engine.label, "cell") as advance:
        for specimen_id, is_result, value in _events(function, tasks, engine):
            (results if is_result else failures)[specimen_id] = value
            advance(1)
    order = list(tasks)
    return {i: results[i] for i in order if i in results}, {i: failures[i] for i in order if i in failures}


def _events(function: Callable[..., Any], tasks: Tasks, engine: Engine) -> Iterator[Event]:
    if engine.compute.scheduler is Scheduler.local:
        return _map_local(function, tasks, engine)
    from brightfield.run.clusters import map_on_cluster

    return map_on_cluster(function, tasks, engine.compute, engine.retries)


# ----------------------------------------------------------------------------------------------------------- this machine


def _map_local(function: Callable[..., Any], tasks: Tasks, engine: Engine) -> Iterator[Event]:
    if engine.compute.workers == 1:
        yield from _map_here(function, tasks, engine)
        return
    crew = _Crew(function, dict(tasks), engine)
    try:
        yield from crew.run()
    finally:
        crew.stop()


def _map_here(function: Callable[..., Any], tasks: Tasks, engine: Engine) -> Iterator[Event]:
    for specimen_id, args in tasks.items():
        for left in range(engine.retries, -1, -1):
            state, value = attempt(function, args)
            if state != "again" or not left:
                break
        yield specimen_id, state == "ok", value


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    specimen_id: int | None = None

    def give(self, specimen_id: int, args: tuple[Any, ...]) -> None:
        self.specimen_id = specimen_id
        self.pipe.send_bytes(pickle.dumps(args))


@dataclass
class _Crew:
    """A few worker processes, the cells that wait, and those that get another attempt, each alone."""

    function: Callable[..., Any]
    tasks: dict[int, tuple[Any, ...]]
    engine: Engine
    workers: list[_Worker] = field(default_factory=list)

    def __post_init__(self) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.size = min(self.engine.compute.workers or cores, len(self.tasks))
        self.threads = max(1, cores // max(1, self.size))
        self.waiting = deque(self.tasks)
        self.again: deque[int] = deque()
        self.attempts = dict.fromkeys(self.tasks, 0)

    def run(self) -> Iterator[Event]:
        while self.waiting or self.again or self._busy():
            self._hand_out()
            for worker, specimen_id in self._ready():
                event = self._collect(worker, specimen_id)
                if event is not None:
                    yield event

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self.workers if worker.specimen_id is not None]

    def _hand_out(self) -> None:
        while self.waiting and len(self._busy()) < self.size:
            self._give(self.waiting.popleft())
        if self.again and not self._busy():  # what failed for want of memory gets all of it
            self._give(self.again.popleft())

    def _give(self, specimen_id: int) -> None:
        idle = [worker for worker in self.workers if worker.specimen_id is None]
        worker = idle[0] if idle else self._hire()
        self.attempts[specimen_id] += 1
        with contextlib.suppress(OSError):  # it died while it was idle: its pipe will say so
            worker.give(specimen_id, self.tasks[specimen_id])

    def _hire(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, pickle.dumps(self.function), self.threads), daemon=True)
        process.start()
        theirs.close()
        self.workers.append(_Worker(process, ours))
        return self.workers[-1]

    def _ready(self) -> list[tuple[_Worker, int]]:
        busy = self._busy()
        signalled = wait([worker.pipe for worker in busy])
        return [(worker, worker.specimen_id) for worker in busy if worker.pipe in signalled and worker.specimen_id is not None]

    def _collect(self, worker: _Worker, specimen_id: int) -> Event | None:
        worker.specimen_id = None
        try:
            state, value = pickle.loads(worker.pipe.recv_bytes())  # noqa: S301 - from our own process
        except (EOFError, ConnectionError):
            state, value = "again", self._bury(worker)
        if state == "again" and self.attempts[specimen_id] <= self.engine.retries:
            self.again.append(specimen_id)
            return None
        return specimen_id, state == "ok", value

    def _bury(self, worker: _Worker) -> str:
        worker.process.join()
        worker.pipe.close()
        self.workers.remove(worker)
        code = worker.process.exitcode or 0
        if code == -signal.SIGKILL:
            return "its process was killed (signal 9), most often for want of memory: give it fewer compute.workers"
        return f"its process died ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"

    def stop(self) -> None:
        for worker in self.workers:
            if worker.specimen_id is not None:  # interrupted: nothing to wait for
                worker.process.terminate()
            worker.pipe.close()
        for worker in self.workers:
            worker.process.join()


def _serve(pipe: Connection, pickled: bytes, threads: int) -> None:
    """A worker's life: tasks come through `pipe` until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    end_with_parent(signal.SIGKILL)  # `_receive` does so, too, but must wait for native code that holds the interpreter
    for name in THREAD_LIMITS:  # before the function's modules are imported, which read them
        os.environ[name] = str(threads)
    inbox: deque[bytes] = deque()
    arrived = threading.Semaphore(0)
    threading.Thread(target=_receive, args=(pipe, inbox, arrived), daemon=True).start()
    function = pickle.loads(pickled)  # noqa: S301 - from our own parent
    while arrived.acquire():
        answer = attempt(function, pickle.loads(inbox.popleft()))  # noqa: S301 - from our own parent
        pipe.send_bytes(_pickled(answer))


def _receive(pipe: Connection, inbox: deque[bytes], arrived: threading.Semaphore) -> None:
    # its own thread, so that a worker whose parent was killed dies at once and not at the end of its cell
    try:
        while True:
            inbox.append(pipe.recv_bytes())
            arrived.release()
    except (EOFError, OSError):
        os._exit(0)


def _pickled(answer: tuple[str, Any]) -> bytes:
    try:
        return pickle.dumps(answer)
    except Exception as error:  # pickle raises anything
        return pickle.dumps(("failed", f"the result cannot be sent back: {error}"))
