"""Finished cells on the disk: `<work cache>/<stage>/<key>/` holds one cell's share of the outputs, read-only, with a record of its files.

A cell is made in `.unfinished-<random>/cell` and renamed into place, so it is whole or absent. Who makes it stands in a file beside it that
stays locked until that process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from brightfield.run.claim import try_lock

_RECORD = "cell.json"
_OWNER = "owner.json"
_UNFINISHED = ".unfinished-"
_KEY = re.compile(r"[0-9a-f]{64}")
_READ_ONLY = 0o444


@contextlib.contextmanager
def unfinished(home: Path) -> Iterator[Path]:
    """A directory below `home` to make a cell in, removed at the end; `finish` moves it into place."""
    place = home / f"{_UNFINISHED}{secrets.token_hex(8)}"
    (place / "cell").mkdir(parents=True)
    try:
        with (place / _OWNER).open("w", encoding="utf-8") as owner:
            try_lock(owner.fileno(), fcntl.LOCK_EX)
            json.dump({"host": socket.gethostname(), "pid": os.getpid()}, owner)
            owner.flush()
            yield place / "cell"
    finally:
        shutil.rmtree(place, ignore_errors=True)


def finish(directory: Path, target: Path) -> None:
    """Make a cell read-only, sync it to the disk, record it, and move it to `target`; another's same cell that is there already stays."""
    for path in files(directory):
        path.chmod(_READ_ONLY)
        _sync(path)
    (directory / _RECORD).write_text(json.dumps(_listing(directory)))
    _sync(directory / _RECORD)  # directories need no sync: a name that a crash loses is missed by the record
    try:
        directory.rename(target)
    except OSError:
        if not target.is_dir():  # it is where another run has finished the same cell: the same bytes
            raise
    _sync(target.parent)


def is_finished(cell: Path) -> bool:
    """Whether a cell is there as it was written; one that was edited through a link is dropped."""
    try:
        record = json.loads((cell / _RECORD).read_text())
    except (FileNotFoundError, ValueError):
        record = None
    if record is not None and record == _listing(cell):
        with contextlib.suppress(PermissionError):  # a colleague's, in a shared cache
            os.utime(cell)  # `gc` drops the cells that were used longest ago
        return True
    if cell.exists():
        shutil.rmtree(cell)
    return False


def cells_in(home: Path) -> list[Path]:
    """The finished cells of a stage's directory: what bears our name and our record, whatever else lies there."""
    return [path for path in _children(home) if _KEY.fullmatch(path.name) and (path / _RECORD).is_file()]


def remove_abandoned(home: Path) -> None:
    """Remove the unfinished cells that dead processes of this machine left; those of other machines may be alive."""
    for place in _children(home):
        if place.name.startswith(_UNFINISHED) and _is_abandoned(place / _OWNER):
            shutil.rmtree(place, ignore_errors=True)


def _is_abandoned(owner: Path) -> bool:
    try:
        with owner.open("r+", encoding="utf-8") as stream:
            return json.load(stream)["host"] == socket.gethostname() and try_lock(stream.fileno(), fcntl.LOCK_EX)
    except (OSError, ValueError, KeyError, TypeError):  # none of ours, or just being made
        return False


def _children(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()] if folder.is_dir() else []


# ---------------------------------------------------------------------------------------------------------------------- files


def files(directory: Path) -> Iterator[Path]:
    """Every file below a directory."""
    for _, entry in walk(str(directory)):
        yield Path(entry.path)


def walk(directory: str, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every file below a directory in the order of names, with its relative name. Text, as paths are slow by the ten thousand."""
    try:
        with os.scandir(directory) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry


def prune(directory: Path) -> None:
    """Remove the empty directories below a directory."""
    for folder, _, _ in os.walk(directory, topdown=False):
        if Path(folder) != directory:
            with contextlib.suppress(OSError):  # not empty
                Path(folder).rmdir()


def _listing(directory: Path) -> list[list[Any]]:
    """Path, size and modification time of every file: shows an edit through a link, at the price of a stat."""
    stats = {name: entry.stat() for name, entry in walk(str(directory)) if name != _RECORD}
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()]


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
