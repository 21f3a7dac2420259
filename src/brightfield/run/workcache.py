"""Per-cell incremental work: a finished cell is found by its key and linked, never computed twice.

DVC deletes a stage's outputs before it runs the stage, so finished cells are kept outside of them, in `.work/<stage>/<key>/`, with
key = sha256(code that computes, parameters that matter, digests of the cell's inputs). Such a directory is a small copy of the repository's
root that holds one cell's share of the stage's outputs: `data/images/<id>.zarr/...`, and of a table the rows of this cell. `store.py`
writes it whole or not at all. From all cells' directories the outputs are then put together: files by hard links (copies on another file
system), tables by joining rows. DVC sees ordinary, complete outputs.

A clone that has only pulled has no such directories. The keys of all cells are tracked with the outputs (`data/keys/<stage>.json`), so a
missing cell whose key is the tracked one is adopted: linked from the DVC cache, its rows taken from the tracked table.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from brightfield.config.options import OnFailure
from brightfield.core.errors import CellFailures
from brightfield.core.files import link
from brightfield.core.keys import finished_keys, read_keys, write_keys
from brightfield.core.layout import keys_file, owner_of
from brightfield.core.schema import Table
from brightfield.core.tables import join_tables
from brightfield.run.adopt import Share, Tracked, share_of
from brightfield.run.algorithm import algorithm_digest
from brightfield.run.collect import register, work_root
from brightfield.run.store import files, finish, is_finished, prune, remove_abandoned, unfinished, walk

_NOTES = "code.json"
"""In the work cache: what the code of the package is, see `algorithm_digest`."""

_REMEDY = (
    "mend the cause and run again: only these cells will be computed; or go on without them: brightfield config download.on_failure=exclude"
)
_NONE_LEFT = "every cell failed, so the dataset cannot go on without them; mend the cause and run again"
_OUT_OF_SIGHT = "its worker finished it where it cannot be seen: compute.work_dir must lie on a file system that all nodes see"


@dataclass(frozen=True, slots=True)
class CellTask:
    """The work of one cell: `function(root, *args)` writes the cell's outputs below `root`, an empty stand-in for the repository's root.

    `key_parts` is everything beside the code that decides the result: parameters and digests of inputs, as JSON. `function` and `args` must
    pickle; machine-specific things (paths, connections) belong in `args`, never in `key_parts`. `args` may be a function that gives them:
    it is called only for a cell that must be computed.
    """

    key_parts: Mapping[str, Any]
    function: Callable[..., object]
    args: tuple[Any, ...] | Callable[[], tuple[Any, ...]] = ()


class Mapper(Protocol):
    """What `compute.map_cells` is once its options are bound: results and failures of `function(*args)` per cell."""

    def __call__(self, function: Callable[..., Any], tasks: Mapping[int, tuple[Any, ...]]) -> tuple[dict[int, Any], dict[int, str]]:
        """Run every task; a failure is the reason in words."""
        ...


@dataclass(frozen=True, slots=True)
class Look:
    """Which cells a work cache has: found in it, adopted from the DVC cache, still missing; and the key of each."""

    keys: dict[int, str]
    found: tuple[int, ...]
    adopted: tuple[int, ...]
    missing: tuple[int, ...]
    home: Path

    @property
    def there(self) -> dict[int, Path]:
        """Where each finished cell lies."""
        return {i: self.home / key for i, key in self.keys.items() if i not in set(self.missing)}


@dataclass(frozen=True, slots=True)
class Done:
    """What a run did: cells computed, found finished, adopted from the DVC cache, where each finished cell lies, and why others failed."""

    computed: tuple[int, ...]
    found: tuple[int, ...]
    adopted: tuple[int, ...]
    directories: dict[int, Path]
    failures: dict[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{len(self.computed)} computed, {len(self.found)} found, {len(self.adopted)} adopted"]
        lines += [f"  went without cell {i}: {reason}" for i, reason in self.failures.items()]
        lines += ["  to try again what may have passed: `dvc repro -s -f` with this stage, then `dvc repro`"] if self.failures else []
        return "\n".join(lines)


@dataclass
class WorkCache:
    """The finished cells of one stage of the repository at `root`.

    `outputs` are the stage's outputs: directories and tables; every file a cell writes must belong to one of them, and in a directory be
    named after its cell (`layout.owner_of`). `algorithm` replaces the digest of the code where results must outlive edits of it, as those
    of a download.
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
        remove_abandoned(self._home)

    def run(
        self,
        tasks: Mapping[int, CellTask],
        mapper: Mapper,
        *,
        on_failure: OnFailure = OnFailure.stop,
        failed: Mapping[int, str] | None = None,
        look: Look | None = None,
    ) -> Done:
        """Compute what is missing, then put the outputs together; cells no longer named leave them.

        failed: cells that are wanted and have no task, as an earlier step failed; they count among those that fail here. look: where these
        cells were looked for already. A cell that fails keeps what an earlier run made of it, unless the dataset goes without it
        (`on_failure`): then its reason is recorded with the keys.

        Raises CellFailures when cells failed, with every other cell finished and kept; always where all of them failed.
        """
        look = look or self.look(tasks)
        work = {i: (self._home, look.keys[i], tasks[i].function, _args(tasks[i]), tuple(self.outputs)) for i in look.missing if i in tasks}
        failures = dict(failed or {})
        if work:
            failures |= mapper(compute_cell, work)[1]
            failures |= {i: _OUT_OF_SIGHT for i in work.keys() - failures.keys() if not is_finished(self._home / look.keys[i])}
        failures = dict(sorted(failures.items()))
        finished = {i: self._home / look.keys[i] for i in sorted(tasks) if i not in failures}
        if failures and (on_failure is OnFailure.stop or not finished):
            self._assemble({**self._earlier(failures), **finished}, spare=failures)
            raise CellFailures(self.stage, failures, remedy=_REMEDY if finished or on_failure is OnFailure.stop else _NONE_LEFT)
        self._assemble(finished)
        write_keys(self.root, self.stage, {i: path.name for i, path in finished.items()}, failures)
        return Done(tuple(work), look.found, look.adopted, finished, failures)

    def look(self, tasks: Mapping[int, CellTask]) -> Look:
        """Which cells are finished here, or were by others and can be adopted. The outputs stay as they are."""
        keys = {specimen_id: self.key(specimen_id, tasks[specimen_id]) for specimen_id in sorted(tasks)}
        register(self.root, self._home.parent, self.stage, keys)
        found = [i for i, key in keys.items() if is_finished(self._home / key)]
        adopted = self._adopt({i: key for i, key in keys.items() if i not in set(found)})
        missing = [i for i in keys if i not in {*found, *adopted}]
        return Look(keys, tuple(found), tuple(adopted), tuple(missing), self._home)

    def place(self, specimen_id: int, task: CellTask) -> Path:
        """Where the cell lies once it is finished."""
        return self._home / self.key(specimen_id, task)

    def key(self, specimen_id: int, task: CellTask) -> str:
        """The name of a cell's result: sha256 over stage, cell, code, parameters and inputs."""
        algorithm = self.algorithm or algorithm_digest(task.function, self._home.parent / _NOTES)
        parts = {"stage": self.stage, "specimen_id": specimen_id, "algorithm": algorithm, "parts": task.key_parts}
        return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()

    # ------------------------------------------------------------------------------------------------------- putting together

    def _assemble(self, finished: Mapping[int, Path], spare: Iterable[int] = ()) -> None:
        """Make the outputs of these cells; those of `spare` stay as they are where they are not among them."""
        kept = set(spare) - set(finished)
        for output in self.outputs:
            if isinstance(output, Table):
                join_tables(output, dict.fromkeys(kept, self.root) | dict(finished), self.root)
            else:
                self._link(output, finished, kept)

    def _link(self, output: Path, finished: Mapping[int, Path], kept: set[int]) -> None:
        target_root = self.root / output
        target_root.mkdir(parents=True, exist_ok=True)
        wanted = {name: entry for directory in finished.values() for name, entry in walk(str(directory / output))}
        owners = {str(i) for i in kept}
        orphans = [entry.path for name, entry in walk(str(target_root)) if name not in wanted and owner_of(name) not in owners]
        for path in orphans:
            os.unlink(path)
        if orphans:
            prune(target_root)
        for name, entry in wanted.items():
            link(entry, f"{target_root}{os.sep}{name}")

    # -------------------------------------------------------------------------------------------------------------- adopting

    def _earlier(self, failures: Iterable[int]) -> dict[int, Path]:
        """Where the earlier results of cells lie that the dataset had until now; DVC has removed them from the outputs."""
        tracked = next(Tracked.versions(self.root), None)
        told = tracked.json(keys_file(self.stage)) if tracked is not None else None
        keys = finished_keys(told) | read_keys(self.root, self.stage)
        wanted = {i: keys[i] for i in failures if i in keys}
        lost = {i: key for i, key in wanted.items() if not is_finished(self._home / key)}
        there = set(wanted) - set(lost) | set(self._adopt(lost))
        return {i: self._home / wanted[i] for i in sorted(there)}

    def _adopt(self, wanted: Mapping[int, str]) -> list[int]:
        adopted: list[int] = []
        for tracked in Tracked.versions(self.root) if wanted else ():
            keys = finished_keys(tracked.json(keys_file(self.stage)))
            candidates = {i: key for i, key in wanted.items() if i not in adopted and keys.get(i) == key}
            shares = [share_of(output, tracked) for output in self.outputs] if candidates else []
            adopted += [i for i, key in candidates.items() if self._adopt_cell(i, key, shares)]
            if len(adopted) == len(wanted):
                break
        return sorted(adopted)

    def _adopt_cell(self, specimen_id: int, key: str, shares: Sequence[Share | None]) -> bool:
        with unfinished(self._home) as directory:
            if not all(share is not None and share(specimen_id, directory) for share in shares):
                return False
            finish(directory, self._home / key)
            return True


def made_once(
    root: Path, stage: str, part: str, key_parts: object, function: Callable[..., object], args: tuple[Any, ...], work_dir: str | Path
) -> Path:
    """The directory of what `function(directory, *args)` makes of a whole dataset, kept beside the finished cells of a stage.

    It is found where `part`, the code and `key_parts` (plain values) are the same, and else made. `part` names the record that says who
    uses it, and is no step with cells.
    """
    home = work_root(root, work_dir) / stage
    home.mkdir(parents=True, exist_ok=True)
    parts = {"stage": stage, "part": part, "algorithm": algorithm_digest(function, home.parent / _NOTES), "parts": key_parts}
    key = hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()
    register(root, home.parent, part, {0: key})
    if not is_finished(home / key):
        with unfinished(home) as directory:
            function(directory, *args)
            finish(directory, home / key)
    return home / key


def compute_cell(home: Path, key: str, function: Callable[..., object], args: tuple[Any, ...], outputs: tuple[Path | Table, ...]) -> None:
    """Compute one cell into `home/key`; what a killed run leaves behind has another name. Raises OSError where a node has no `home`."""
    if not home.is_dir():
        raise FileNotFoundError(f"{socket.gethostname()} does not see the work cache {home}: all nodes must, see compute.work_dir")
    with unfinished(home) as directory:
        function(directory, *args)
        allowed = [output.path if isinstance(output, Table) else output for output in outputs]
        stray = [path for path in files(directory) if not any(path.relative_to(directory).is_relative_to(place) for place in allowed)]
        if stray:
            raise RuntimeError(f"{function.__qualname__} writes {stray[0].relative_to(directory)}, which is no output of its stage")
        finish(directory, home / key)


def _args(task: CellTask) -> tuple[Any, ...]:
    return task.args() if callable(task.args) else task.args
