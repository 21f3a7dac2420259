"""Who is at work: locks held by the operating system, which no killed process leaves behind, and children that end with their parent."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from brightfield.core.errors import BusyError

PATIENCE_S = 10.0
"""A run that was told to end needs a moment to do so."""

_POLL_S = 0.2


@contextlib.contextmanager
def at_work(root: Path, home: Path, *, alone: bool = False) -> Iterator[None]:
    """Within this, no other process builds the repository at `root`, and nobody collects garbage in the work cache at `home`.

    alone: nobody else, of any clone, builds with this work cache. Raises BusyError, naming who is at work.
    """
    with (
        locked(root / ".dvc" / "tmp" / "brightfield.lock", f"{root.resolve()} is being built"),
        locked(home / ".brightfield.lock", f"{home} is in use", shared=not alone),
    ):
        yield


@contextlib.contextmanager
def locked(path: Path, busy: str, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock file until the block or the process ends; waits `PATIENCE_S`, then raises BusyError saying `busy` and by whom.

    Where the file system knows no locks, there are none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _open(path)
    try:
        _wait_for(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, busy)
        if not shared:
            with contextlib.suppress(OSError):  # only told to those who wait
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(handle)


def try_lock(handle: int, mode: int) -> bool:
    """Lock an open file without waiting; False where another process holds it."""
    try:
        fcntl.flock(handle, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks on this file system
        pass
    return True


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:  # a colleague's file in a shared cache
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _wait_for(handle: int, mode: int, busy: str) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not try_lock(handle, mode):
        if time.monotonic() > give_up:
            who = os.pread(handle, 200, 0).decode(errors="replace") or "another process"
            raise BusyError(f"{busy} by {who}; wait for it, or end it")
        time.sleep(_POLL_S)


# ------------------------------------------------------------------------------------------------------------- ending with the parent


def end_with_parent(number: int) -> None:
    """From now on, signal `number` is sent to this process when its parent ends: by Linux at once, elsewhere by a thread that looks."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number, 0, 0, 0)  # PR_SET_PDEATHSIG
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def end_with_dvc() -> None:
    """As a stage under `dvc repro`: end when DVC is ended. SIGTERM interrupts as Ctrl-C does, so that nothing half done stays."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if "DVC_STAGE" in os.environ:
        end_with_parent(signal.SIGTERM)
