"""`brightfield` and `dvc` without the second that they take to start: each command is a fork of a process that has imported what they need.

The commands are the real ones, each in a process of its own with the caller's directory, environment, input and output; only their imports
are done already. What must begin as a user's own process does (what is killed, or runs under another locale) takes `without` this.

    with_warm_commands(folder, python)   makes `folder/brightfield` and `folder/dvc`; whoever has the folder on PATH uses them

`python warm.py FOLDER` is the process that forks. It ends when its standard input does.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import multiprocessing
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

SOCKET = "warm.socket"
MARK = "BRIGHTFIELD_WARM"
"""Environment variable with the folder of the warm commands."""

MAINS = {"brightfield": "brightfield.cli", "dvc": "dvc.cli"}
IMPORTS = [
    *("dvc.cli", "dvc.cli.parser", "dvc.repo", "dvc.repo.reproduce", "dvc.repo.experiments", "dvc.stage.cache", "dvc.dvcfile"),
    *("dvc.data_cloud", "dvc.config_schema", "dvc_data.index", "dvc_data.hashfile.build", "dvc_objects.fs.local"),
    *("numba", "pandas", "pyarrow.parquet", "numcodecs", "pydantic.types", "brightfield.config.compose", "brightfield.run.engine"),
    *(f"brightfield.stages.{name}.stage" for name in ("query", "download", "align", "rasterize", "split", "manifest", "report")),
    *("brightfield.cli", "brightfield.versions.pull", "brightfield.versions.release", "brightfield.versions.diff"),
]
DOWNLOADS = ["pytest", "numba", "pandas", "brightfield.cli", "brightfield.stages.download.stage", "brightfield.sources.allen.service"]
DOWNLOADS += ["brightfield.sources.mirror.server", "brightfield.planning", "brightfield.stages.query.stage", "brightfield.testing.source"]
BEFORE_THE_START = ("PYTHON", "LC_", "LANG", "LD_", "TZ", "NUMBA", "OMP", "OPENBLAS", "MKL", "BLOSC")
"""Beginnings of the variables that Python and libraries read when they start: under others a command starts by itself."""

CLIENT = """#!{python} -IS
import array, json, os, socket, sys
name = os.path.basename(sys.argv[0])
with socket.socket(socket.AF_UNIX) as warm:
    warm.connect({address!r})
    asked = json.dumps([name, sys.argv[1:], os.getcwd(), dict(os.environ)], ensure_ascii=True).encode()
    fds = array.array("i", [0, 1, 2])
    warm.sendmsg([len(asked).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    warm.sendall(asked)
    told = warm.recv(4)
if told == b"cold":
    real = os.path.join({binaries!r}, name)
    os.execv(real, [real, *sys.argv[1:]])
sys.exit(int(told) if told else 137)
"""


@contextlib.contextmanager
def with_warm_commands(folder: Path) -> Iterator[Path]:
    """A folder with `brightfield` and `dvc` for as long as the context lasts."""
    for name in MAINS:
        script = folder / name
        script.write_text(CLIENT.format(python=sys.executable, address=str(folder / SOCKET), binaries=str(Path(sys.executable).parent)))
        script.chmod(0o755)
    process = subprocess.Popen([sys.executable, __file__, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    try:
        yield folder
    finally:
        process.communicate()


def process_of(target: Callable[..., object], *args: object) -> BaseProcess:
    """A process that runs a function, begun: `multiprocessing` forks it from one that has imported what downloads need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(DOWNLOADS)
    process = context.Process(target=target, args=args)
    process.start()
    return process


def without(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a command that is to start by itself."""
    places = environment["PATH"].split(os.pathsep)
    return {**environment, "PATH": os.pathsep.join(place for place in places if place != environment.get(MARK))}


# ------------------------------------------------------------------------------------------------------------ the forking process


def _serve(folder: Path) -> None:
    for name in IMPORTS:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a fork would lose the other threads"
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the commands here
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / SOCKET))
        listening.listen(64)
        os.write(1, b"ready\n")
        while sys.stdin not in select.select([listening, sys.stdin], [], [])[0]:
            asked, _ = listening.accept()
            with asked:
                if not _fork():
                    listening.close()
                    os._exit(_answer(asked))


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the threads that are lost are those of OpenBLAS, which starts others
        return os.fork()


def _answer(asked: socket.socket) -> int:
    """In the fork: run one command, and tell its exit code."""
    name, words, folder, environment = _received(asked)
    if _start_of(environment) != _start_of(os.environ):
        asked.sendall(b"cold")
        return 0
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _end_with(asked)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    code = _run(name, words)
    fcntl.fcntl(asked, fcntl.F_SETFL, fcntl.fcntl(asked, fcntl.F_GETFL) & ~os.O_ASYNC)
    asked.sendall(b"%d" % code)
    return code


def _received(asked: socket.socket) -> Any:
    """What the client wants; its standard input, output and error become those of this process."""
    head, (parts,), _, _ = asked.recvmsg(8, socket.CMSG_SPACE(12))
    fds = array.array("i", parts[2])
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    with asked.makefile("rb") as stream:
        return json.loads(stream.read(int.from_bytes(head, "big")))


def _start_of(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(BEFORE_THE_START)}


def _end_with(asked: socket.socket) -> None:
    """The kernel ends this process when the client ends: SIGIO, which nobody handles, comes as its end of the socket closes."""
    fcntl.fcntl(asked, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(asked, fcntl.F_SETFL, fcntl.fcntl(asked, fcntl.F_GETFL) | os.O_ASYNC)


def _run(name: str, words: list[str]) -> int:
    sys.argv[:] = [name, *words]
    own = sys.modules["__main__"]
    own.__spec__, own.__file__ = None, None  # workers that are spawned have nothing to run again
    try:
        code = importlib.import_module(MAINS[name]).main(words)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return int(code or 0)


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).parent))
    _serve(Path(sys.argv[1]))
