"""Where the files of a dataset are read: in a folder, or at a revision of its repository, without pulling it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from brightfield.core.errors import SourceError, StackError
from brightfield.core.layout import DATA_DIR
from brightfield.core.tables import parse_table, read_table
from brightfield.learn.ahead import Lock
from brightfield.volumes.volume import Volume, open_volume

if TYPE_CHECKING:
    import pandas as pd

    from brightfield.core.schema import Table
    from brightfield.volumes.fetching import Readable
    from brightfield.volumes.rangecache import RangeCache


class Files(Protocol):
    """The files of a dataset, by their paths below its root."""

    def volume(self, store: Path) -> Volume:
        """The volume in a store. Raises StackError or SourceError where there is none."""

    def read(self, path: Path) -> bytes:
        """The bytes of a file."""

    def table(self, table: Table, specimen_id: int | None = None) -> pd.DataFrame:
        """A table, or the rows of one cell of it."""


class LocalFiles:
    """A dataset in a folder."""

    def __init__(self, root: Path | str) -> None:
        self._root = Path(root)

    def volume(self, store: Path) -> Volume:
        """See `Files`."""
        if not (self._root / store).is_dir():
            cell = f"cell {store.stem}"
            raise StackError(f"{cell} is not here; fetch it with `dvc pull {store}`, or read it with rev=...", path=self._root)
        return open_volume(self._root / store)

    def read(self, path: Path) -> bytes:
        """See `Files`."""
        try:
            return (self._root / path).read_bytes()
        except OSError as error:
            raise SourceError(f"{self._root / path} cannot be read: {error.strerror}; fetch it with `dvc pull {path}`") from error

    def table(self, table: Table, specimen_id: int | None = None) -> pd.DataFrame:
        """See `Files`."""
        return read_table(table, self._root, specimen_id=specimen_id)


class RemoteFiles:
    """A dataset at revision `rev` of the repository at `root` (a directory or a git URL): ranges come from the DVC remote as they are read.

    cache: where ranges are kept, None: nowhere. DVC is asked once a process; connections do not outlive a fork.
    """

    def __init__(self, root: Path | str, rev: str, cache: RangeCache | None = None) -> None:
        self._root, self._rev, self._cache = root, rev, cache
        self._known: tuple[int, Mapping[str, Readable]] | None = None

    def volume(self, store: Path) -> Volume:
        """See `Files`."""
        from brightfield.volumes.remote import ObjectStore

        return open_volume(ObjectStore(self._below(store), f"{self._root}@{self._rev}:{store}"))

    def read(self, path: Path) -> bytes:
        """See `Files`."""
        return self._below(path)["."].read()

    def table(self, table: Table, specimen_id: int | None = None) -> pd.DataFrame:
        """See `Files`."""
        frame = parse_table(self.read(table.path))
        return frame if specimen_id is None else frame[frame["specimen_id"] == specimen_id]

    def __getstate__(self) -> dict[str, object]:
        """For another process: it asks DVC itself."""
        return {**self.__dict__, "_known": None}

    def _below(self, path: Path) -> dict[str, Readable]:
        """The files below a path, by their names relative to it; "." where it is itself a file."""
        name = path.relative_to(DATA_DIR).as_posix()
        files = self._files()
        found = {key.removeprefix(f"{name}/"): file for key, file in files.items() if key.startswith(f"{name}/")}
        if name in files:
            found["."] = files[name]
        if not found:
            raise SourceError(f"revision {self._rev!r} of {self._root} has no {path}; `git log -- dvc.lock` lists the revisions with data")
        return found

    def _files(self) -> Mapping[str, Readable]:
        with _ASKING:  # one thread asks, the others wait for its answer
            if self._known is None or self._known[0] != os.getpid():
                from brightfield.volumes.rangecache import CachedObject
                from brightfield.volumes.remote import remote_files

                objects, cache = remote_files(self._root, self._rev, DATA_DIR), self._cache
                found = {key: remote if cache is None else CachedObject(remote, cache) for key, remote in objects.items()}
                self._known = (os.getpid(), found)
            return self._known[1]


_ASKING = Lock()
