"""Where the bytes that a viewer asks for lie: in the working tree, or in the team remote at a revision, of which only those move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal, Protocol

from brightfield.core import layout
from brightfield.core.errors import SourceError, TableError, TransferError
from brightfield.core.schema import Table
from brightfield.core.tables import parse_table, read_table
from brightfield.core.yaml import parse_yaml

if TYPE_CHECKING:
    import pandas as pd

    from brightfield.volumes.remote import RemoteObject
    from brightfield.volumes.volume import Volume


class Readable(Protocol):
    """A file of which ranges can be read."""

    def size(self) -> int:
        """Bytes of the whole file."""

    def read(self, start: int | None = None, stop: int | None = None) -> bytes:
        """The bytes from `start` to `stop`, or all."""


type SwcOrigin = Literal["centre", "corner"]

type Shelf = Callable[[str], Readable | None]
"""Gives the file of a relative name with forward slashes; None where there is none."""


@dataclass(frozen=True, slots=True)
class Made:
    """A file that exists in memory alone."""

    data: bytes

    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.data)

    def read(self, start: int | None = None, stop: int | None = None) -> bytes:
        """The bytes from `start` to `stop`, or all."""
        return self.data[start:stop]


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A file of this machine."""

    path: Path

    def size(self) -> int:
        """Bytes of the whole file."""
        return self.path.stat().st_size

    def read(self, start: int | None = None, stop: int | None = None) -> bytes:
        """The bytes from `start` to `stop`, or all."""
        with self.path.open("rb") as file:
            file.seek(start or 0)
            return file.read() if stop is None else file.read(max(stop - (start or 0), 0))


@dataclass(frozen=True, slots=True)
class Afar:
    """A file of a revision, in DVC's cache or in a remote."""

    file: RemoteObject

    def size(self) -> int:
        """Bytes of the whole file. Raises TransferError when no place has it."""
        for system, path in self.file.places:
            try:
                return int(system.size(path))
            except FileNotFoundError:
                continue
        raise TransferError(f"{self.file.name} is known to DVC, but no remote holds it; ask its author to `dvc push`")

    def read(self, start: int | None = None, stop: int | None = None) -> bytes:
        """The bytes from `start` to `stop`, or all. Raises TransferError when no place has them."""
        return self.file.read(start, stop)


def folder(path: Path) -> Shelf:
    """The files below a directory, and nothing beside it."""

    def find(name: str) -> Readable | None:
        parts = PurePosixPath(name).parts
        file = path.joinpath(*parts)
        return OnDisk(file) if parts and ".." not in parts and not name.startswith("/") and file.is_file() else None

    return find


def shelf_of(files: Mapping[str, Readable]) -> Shelf:
    """The files of a mapping by name."""
    return files.get


@dataclass(frozen=True)
class WorkingTree:
    """A dataset in a directory."""

    root: Path

    def table(self, table: Table, specimen_id: int | None = None) -> pd.DataFrame:
        """A table, or the rows of one cell. Raises TableError where it is not here."""
        return read_table(table, self.root, specimen_id=specimen_id)

    def has(self, store: Path) -> bool:
        """Whether a volume is here."""
        return (self.root / store / "zarr.json").is_file()

    def shelf(self, store: Path) -> Shelf:
        """The files of a volume."""
        return folder(self.root / store)

    def volume(self, store: Path) -> Volume:
        """The volume, to be read. Raises StackError where it is not here, or none."""
        from brightfield.volumes.volume import open_volume

        return open_volume(self.root / store)

    def file(self, path: Path) -> bytes | None:
        """The bytes of a small file; None where there is none."""
        here = self.root / path
        return here.read_bytes() if here.is_file() else None

    @property
    def swc_origin(self) -> SwcOrigin:
        """What a coordinate of an SWC or marker file names: a voxel's ``centre`` or its ``corner``."""
        return _swc_origin(self.file(layout.PARAMS_FILE))


@dataclass(frozen=True)
class Revision:
    """A dataset at a revision of a repository: a directory or a git URL."""

    root: str
    rev: str
    _tables: dict[str, pd.DataFrame] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def files(self) -> dict[str, RemoteObject]:
        """Every file of the data, by its path below the data directory. Raises SourceError where the revision has none."""
        from brightfield.volumes.remote import remote_files

        found = remote_files(self.root, self.rev, layout.DATA_DIR)
        if not found:
            raise SourceError(f"revision {self.rev!r} of {self.root} has no data; `git log -- dvc.lock` lists the revisions that have")
        return found

    def table(self, table: Table, specimen_id: int | None = None) -> pd.DataFrame:
        """A table, or the rows of one cell. Raises TableError where the revision has none."""
        if table.name not in self._tables:
            data = self.file(table.path)
            if data is None:
                raise TableError(f"revision {self.rev!r} of {self.root} has no such table; choose one that has", path=table.path)
            self._tables[table.name] = parse_table(data)
        frame = self._tables[table.name]
        return frame if specimen_id is None else frame[frame["specimen_id"] == specimen_id].reset_index(drop=True)

    def has(self, store: Path) -> bool:
        """Whether the revision has a volume."""
        return f"{_below_data(store)}/zarr.json" in self.files

    def shelf(self, store: Path) -> Shelf:
        """The files of a volume."""
        return shelf_of({name: Afar(file) for name, file in self._below(store).items()})

    def volume(self, store: Path) -> Volume:
        """The volume, to be read. Raises StackError where it is none."""
        from brightfield.volumes.remote import ObjectStore
        from brightfield.volumes.volume import open_volume

        return open_volume(ObjectStore(self._below(store), f"{self.root}@{self.rev}:{store}"))

    def file(self, path: Path) -> bytes | None:
        """The bytes of a small file; None where there is none."""
        found = self.files.get(_below_data(path))
        return None if found is None else found.read()

    @cached_property
    def swc_origin(self) -> SwcOrigin:
        """What a coordinate of an SWC or marker file names: a voxel's ``centre`` or its ``corner``."""
        import dvc.api

        return _swc_origin(dvc.api.read(layout.PARAMS_FILE.as_posix(), repo=self.root, rev=self.rev, mode="rb"))

    def _below(self, store: Path) -> dict[str, RemoteObject]:
        prefix = f"{_below_data(store)}/"
        return {name.removeprefix(prefix): file for name, file in self.files.items() if name.startswith(prefix)}


type Material = WorkingTree | Revision


def _below_data(path: Path) -> str:
    return path.relative_to(layout.DATA_DIR).as_posix()


def _swc_origin(params: bytes | None) -> SwcOrigin:
    source = parse_yaml(params, layout.PARAMS_FILE.name)["source"] if params else {}
    return "corner" if source.get("swc_origin") == "corner" else "centre"
