"""The work cache as a whole: where it lies, which clones use what of it, and dropping what none of them does.

The place may be shared, by several clones and with folders that are not ours: only what bears our marks is ever removed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from brightfield.core.errors import ConfigError
from brightfield.core.files import write_json
from brightfield.core.keys import WITH_KEYS, read_keys
from brightfield.core.layout import DATA_DIR, REPORTS_DIR, SNAPSHOT_DIR
from brightfield.run.adopt import cache_root
from brightfield.run.claim import at_work
from brightfield.run.store import cells_in, files, remove_abandoned

PARTIAL = "partial"
"""Holds the downloads that were begun, as `<specimen id>-<first 16 digits of the key>`, each with a journal."""

ELSEWHERE_DAYS = 30
"""How long what a clone on another machine used last is kept for it."""

_CLONES = "clones"
_RECORD_NAME = re.compile(r"[0-9a-f]{16}-[a-z]+\.json")
_PARTIAL_NAME = re.compile(r"\d+-([0-9a-f]{16})")
_OURS = (".git", ".dvc", "conf", "src", DATA_DIR.name, REPORTS_DIR.name, SNAPSHOT_DIR.name)


def work_root(root: Path, work_dir: str | Path = ".work") -> Path:
    """Where finished cells lie: `work_dir` beside the DVC cache, so that an experiment in a temporary clone finds them too.

    Raises ConfigError for a place that holds the repository or a part of it.
    """
    cache = cache_root(root)
    beside = cache.parent.parent if cache.parent.name == ".dvc" else cache.parent
    home = (beside / Path(work_dir).expanduser()).resolve()
    here = root.resolve()
    taken = any(place.is_relative_to(home) for place in (here, beside.resolve(), cache))
    if taken or any(home.is_relative_to(here / name) for name in _OURS):
        raise ConfigError(
            f"compute.work_dir = {str(work_dir)!r} is {home}, which is not for finished cells alone; take .work or another folder"
        )
    return home


def register(root: Path, home: Path, step: str, keys: Mapping[int, str]) -> None:
    """Say that the clone at `root` uses these cells of a step, finished or not."""
    host, place = socket.gethostname(), str(root.resolve())
    name = hashlib.sha256(f"{host}:{place}".encode()).hexdigest()[:16]
    write_json(home / _CLONES / f"{name}-{step}.json", {"host": host, "root": place, "step": step, "keys": sorted(keys.values())})


def gc(root: Path, work_dir: str | Path = ".work", *, keep_bytes: int = 0) -> int:
    """Drop finished cells and begun downloads that no clone uses; returns the bytes that became free.

    keep_bytes: so much of the finished cells is kept all the same, of those used last. Files that the DVC cache links too stay on the
    disk and do not count. Raises BusyError while a clone builds with this work cache.
    """
    home = work_root(root, work_dir)
    if not home.is_dir():
        return 0
    with at_work(root, home, alone=True):
        used = {step: read_keys(root, step).values() for step in WITH_KEYS}
        in_use = {*(key for keys in used.values() for key in keys), *_registered(home)}
        for step in WITH_KEYS:
            remove_abandoned(home / step)
        idle = [cell for step in WITH_KEYS for cell in cells_in(home / step) if cell.name not in in_use]
        return _drop(idle, keep_bytes) + _drop(list(_begun(home, in_use)), 0)


def _registered(home: Path) -> Iterator[str]:
    """The keys that clones use; the records of clones that are gone are removed."""
    for path in sorted(path for path in (home / _CLONES).glob("*.json") if _RECORD_NAME.fullmatch(path.name)):
        record = json.loads(path.read_text(encoding="utf-8"))
        clone = Path(record["root"])
        if clone.is_dir():
            yield from read_keys(clone, record["step"]).values()
        elif _is_gone(record, path):
            path.unlink()
            continue
        yield from record["keys"]


def _is_gone(record: Mapping[str, Any], path: Path) -> bool:
    return record["host"] == socket.gethostname() or time.time() - path.stat().st_mtime > ELSEWHERE_DAYS * 86400


def _begun(home: Path, in_use: set[str]) -> Iterator[Path]:
    """Downloads that were begun and that no clone wants any more."""
    wanted = {key[:16] for key in in_use}
    for journal in (home / PARTIAL).glob("*/journal"):
        name = _PARTIAL_NAME.fullmatch(journal.parent.name)
        if name and name[1] not in wanted:
            yield journal.parent


def _drop(folders: list[Path], keep_bytes: int) -> int:
    """Remove folders, save `keep_bytes` of those used last."""
    freed = kept = 0
    for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime_ns, reverse=True):
        stats = [path.stat() for path in files(folder)]
        kept += sum(stat.st_size for stat in stats)
        if kept > keep_bytes or not keep_bytes:
            shutil.rmtree(folder)
            freed += sum(stat.st_size for stat in stats if stat.st_nlink == 1)
    return freed
