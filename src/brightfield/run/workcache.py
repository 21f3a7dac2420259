"""Per-cell incremental work: a finished cell is found by its key and linked, never computed twice.

DVC deletes a stage's outputs before it runs the stage, so finished cells are kept outside of them, in `.work/<stage>/<key>/`, with
key = sha256(code that computes, parameters that matter, digests of the cell's inputs). Such a directory is a small copy of the repository's
root that holds one cell's share of the stage's outputs: `data/images/<id>.zarr/...`, and of a table the rows of this cell. It is computed
under a temporary name, made read-only, synced and renamed into place, so it is whole or absent. From all cells' directories the outputs are
then put together: files by hard links (copies on another file system), tables by joining rows. DVC sees ordinary, complete outputs.

A clone that has only pulled has no such directories. The keys of all cells are tracked with the outputs (`data/keys/<stage>.json`), so a
missing cell whose key is the tracked one is adopted: linked from the DVC cache, its rows taken from the tracked table.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from brightfield.core.errors import CellFailures
from brightfield.core.files import link, write_json
from brightfield.core.layout import keys_file
from brightfield.core.schema import Table
from brightfield.core.tables import read_table, write_table
from brightfield.run.adopt import Share, Tracked, cache_root, share_of
from brightfield.run.algorithm import algorithm_digest

_RECORD = "cell.json"
_TEMPORARY = ".unfinished-"
_READ_ONLY = 0o444


@dataclass(frozen=True, slots=True)
class CellTask:
    """The work of one cell: `function(root, *args)` writes the cell's outputs below `root`, an empty stand-in for the repository's root.

    `key_parts` is everything beside the code that decides the result: parameters and digests of inputs, as JSON. `function` and `args` must
    pickle; machine-specific things (paths, connections) belong in `args`, never in `key_parts`.
    """

    key_parts: Mapping[str, Any]
    function: Callable[..., object]
    args: tuple[Any, ...] = ()


class Mapper(Protocol):
    """What `compute.map_cells` is once its options are bound: results and failures of `function(*args)` per cell."""

    def __call__(self, function: Callable[..., Any], tasks: Mapping[int, tuple[Any, ...]]) -> tuple[dict[int, Any], dict[int, str]]:
        """Run every task; a failure is the reason in words."""
        ...


@dataclass(frozen=True, slots=True)
class Done:
    """What a run did: cells computed, found finished, adopted from the DVC cache, and where each finished cell lies."""

    computed: tuple[int, ...]
    found: tuple[int, ...]
    adopted: tuple[int, ...]
    directories: dict[int, Path]

    def __str__(self) -> str:
        return f"{len(self.computed)} computed, {len(self.found)} found, {len(self.adopted)} adopted"


@dataclass
class WorkCache:
    """The finished cells of one stage of the repository at `root`.

    `outputs` are the stage's outputs: directories and tables; every file a cell writes must belong to one of them, and in a directory be
    named `<specimen id>.<anything>`. `algorithm` replaces the digest of the code where results must outlive edits of it (a download).
    """

    root: Path
    stage: str
    outputs: Sequence[Path | Table]
    work_dir: str | Path = ".work"
    algorithm: str | None = None
    _home: Path = field(init=False)

    def __post_init__(self) -> None:
        self._home = work_root(self.root, self.work_dir) / self.stage
        self._home.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(self._home)

    def run(self, tasks: Mapping[int, CellTask], mapper: Mapper) -> Done:
        """Compute what is missing, then put the outputs together; cells no longer named leave them.

        Raises CellFailures when cells failed, with every other cell finished and kept.
        """
        keys = {specimen_id: self.key(specimen_id, tasks[specimen_id]) for specimen_id in sorted(tasks)}
        found = [i for i, key in keys.items() if self._is_finished(key)]
        adopted = self._adopt({i: key for i, key in keys.items() if i not in set(found)})
        missing = [i for i in keys if i not in {*found, *adopted}]
        work = {i: (self._home, keys[i], tasks[i].function, tasks[i].args, tuple(self.outputs)) for i in missing}
        _, failures = mapper(compute_cell, work) if work else ({}, {})
        finished = {i: self._home / key for i, key in keys.items() if i not in failures}
        self._assemble(finished)
        if failures:
            raise CellFailures(self.stage, failures, remedy="mend the cause and run again: only these cells will be computed")
        write_json(self.root / keys_file(self.stage), {str(i): keys[i] for i in finished})
        return Done(tuple(missing), tuple(found), tuple(adopted), finished)

    def key(self, specimen_id: int, task: CellTask) -> str:
        """The name of a cell's result: sha256 over stage, cell, code, parameters and inputs."""
        algorithm = self.algorithm or algorithm_digest(task.function)
        parts = {"stage": self.stage, "specimen_id": specimen_id, "algorithm": algorithm, "parts": task.key_parts}
        return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()

    def has(self, specimen_id: int, task: CellTask) -> bool:
        """Whether the cell is finished, so that `run` would not compute it."""
        return self._is_finished(self.key(specimen_id, task))

    def _is_finished(self, key: str) -> bool:
        """Whether the cell is there as it was written; one that was edited through a link is dropped."""
        directory = self._home / key
        try:
            record = json.loads((directory / _RECORD).read_text())
        except (FileNotFoundError, ValueError):
            record = None
        if record is not None and record == _listing(directory):
            os.utime(directory)  # `gc` drops the cells that were used longest ago
            return True
        if directory.exists():
            shutil.rmtree(directory)
        return False

    # ------------------------------------------------------------------------------------------------------- putting together

    def _assemble(self, finished: Mapping[int, Path]) -> None:
        for output in self.outputs:
            if isinstance(output, Table):
                self._join(output, finished)
            else:
                self._link(output, finished)

    def _join(self, table: Table, finished: Mapping[int, Path]) -> None:
        import pandas as pd

        frames = [read_table(table, directory) for directory in finished.values() if (directory / table.path).is_file()]
        if frames:
            write_table(table, pd.concat(frames, ignore_index=True), self.root)
        else:
            write_table(table, table.arrow_schema.empty_table().to_pandas(), self.root)

    def _link(self, output: Path, finished: Mapping[int, Path]) -> None:
        target_root = self.root / output
        target_root.mkdir(parents=True, exist_ok=True)
        wanted = {name: entry for directory in finished.values() for name, entry in _walk(str(directory / output))}
        orphans = [entry.path for name, entry in _walk(str(target_root)) if name not in wanted]
        for path in orphans:
            os.unlink(path)
        if orphans:
            _prune(target_root)
        for name, entry in wanted.items():
            link(entry, f"{target_root}{os.sep}{name}")

    # -------------------------------------------------------------------------------------------------------------- adopting

    def _adopt(self, wanted: Mapping[int, str]) -> list[int]:
        adopted: list[int] = []
        for tracked in Tracked.versions(self.root) if wanted else ():
            keys = tracked.json(keys_file(self.stage)) or {}
            candidates = {i: key for i, key in wanted.items() if i not in adopted and keys.get(str(i)) == key}
            shares = [share_of(output, tracked) for output in self.outputs] if candidates else []
            adopted += [i for i, key in candidates.items() if self._adopt_cell(i, key, shares)]
            if len(adopted) == len(wanted):
                break
        return sorted(adopted)

    def _adopt_cell(self, specimen_id: int, key: str, shares: Sequence[Share | None]) -> bool:
        with _unfinished(self._home, key) as directory:
            if not all(share is not None and share(specimen_id, directory) for share in shares):
                return False
            _finish(directory, self._home / key)
            return True


def compute_cell(home: Path, key: str, function: Callable[..., object], args: tuple[Any, ...], outputs: tuple[Path | Table, ...]) -> None:
    """Compute one cell into `home/key`; what a killed run leaves behind has another name."""
    with _unfinished(home, key) as directory:
        function(directory, *args)
        allowed = [output.path if isinstance(output, Table) else output for output in outputs]
        stray = [path for path in _files(directory) if not any(path.relative_to(directory).is_relative_to(place) for place in allowed)]
        if stray:
            raise RuntimeError(f"{function.__qualname__} writes {stray[0].relative_to(directory)}, which is no output of its stage")
        _finish(directory, home / key)


# -------------------------------------------------------------------------------------------------------------- on the disk


def work_root(root: Path, work_dir: str | Path = ".work") -> Path:
    """Where finished cells lie: `work_dir` beside the DVC cache, so that an experiment in a temporary clone finds them too."""
    cache = cache_root(root)
    beside = cache.parent.parent if cache.parent.name == ".dvc" else cache.parent
    return beside / work_dir


def gc(root: Path, work_dir: str | Path = ".work", *, keep_bytes: int = 0) -> int:
    """Drop finished cells that no output below `root` uses, save `keep_bytes` of those used last; returns the bytes that became free.

    Files that the DVC cache links too stay on the disk and do not count.
    """
    home = work_root(root, work_dir)
    stages = [path for path in home.iterdir() if path.is_dir()] if home.is_dir() else []
    idle = []
    for stage in stages:
        _remove_unfinished(stage)
        used = _keys_in_use(root, stage.name)
        idle += [cell for cell in stage.iterdir() if cell.name not in used and not cell.name.startswith(_TEMPORARY)]
    freed = kept = 0
    for cell in sorted(idle, key=lambda cell: cell.stat().st_mtime_ns, reverse=True):
        stats = [path.stat() for path in _files(cell)]
        kept += sum(stat.st_size for stat in stats)
        if kept > keep_bytes:
            shutil.rmtree(cell)
            freed += sum(stat.st_size for stat in stats if stat.st_nlink == 1)
    return freed


def _keys_in_use(root: Path, stage: str) -> set[str]:
    with contextlib.suppress(FileNotFoundError):
        return set(json.loads((root / keys_file(stage)).read_text(encoding="utf-8")).values())
    return set()


def _files(directory: Path) -> Iterator[Path]:
    for _, entry in _walk(str(directory)):
        yield Path(entry.path)


def _walk(directory: str, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every file below a directory in the order of names, with its relative name. Text, as paths are slow by the ten thousand."""
    try:
        with os.scandir(directory) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry


def _listing(directory: Path) -> list[list[Any]]:
    """Path, size and modification time of every file: shows an edit through a link, at the price of a stat."""
    stats = {name: entry.stat() for name, entry in _walk(str(directory)) if name != _RECORD}
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()]


def _prune(directory: Path) -> None:
    for folder, _, _ in os.walk(directory, topdown=False):
        if Path(folder) != directory:
            with contextlib.suppress(OSError):  # not empty
                Path(folder).rmdir()


@contextlib.contextmanager
def _unfinished(home: Path, key: str) -> Iterator[Path]:
    directory = home / f"{_TEMPORARY}{socket.gethostname()}-{os.getpid()}-{key[:8]}-{secrets.token_hex(4)}"
    directory.mkdir()
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _finish(directory: Path, target: Path) -> None:
    for path in _files(directory):
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


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_unfinished(home: Path) -> None:
    """Remove what dead processes of this machine left; those of other machines may be alive."""
    prefix = f"{_TEMPORARY}{socket.gethostname()}-"
    for path in home.glob(f"{prefix}*"):
        if not _is_alive(int(path.name[len(prefix) :].split("-")[0])):
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
