"""The dataset at another revision, read where it lies: from DVC's cache or remote, only the byte ranges that are asked for.

DVC keeps a file as an object named by its hash. Its own `DVCFileSystem` moves whole objects (for 8 blocks of a sharded volume on S3 it
moved 4,463 MB, where the ranges are 30 MB), so here DVC says which object a file is, and the object's file system is asked for the range.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from brightfield.core.errors import SourceError, TransferError
from brightfield.volumes.fetching import Readable, at_once
from brightfield.volumes.ranges import limits, read_range, without_whole_checksums

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


_METADATA = "zarr.json"


@dataclass(frozen=True, slots=True)
class RemoteObject:
    """One file of a revision: its name there, and the places that may hold its bytes, nearest first."""

    name: str
    places: tuple[tuple[AbstractFileSystem, str], ...]

    def read(self, start: int | None = None, stop: int | None = None) -> bytes:
        """The bytes from `start` (negative: from the end) to `stop`, or all. Raises TransferError when no place has them."""
        for system, path in self.places:
            try:
                return read_range(system, path, start, stop)
            except FileNotFoundError:
                continue
        raise TransferError(f"{self.name} is known to DVC, but no remote holds it; ask its author to `dvc push`")

    def kept(self, start: int, stop: int) -> None:
        """Nothing is."""

    def fetch(self, start: int, stop: int) -> bytes:
        """See `Readable`."""
        return self.read(start, stop)

    def keep(self, start: int, stop: int, data: bytes) -> None:
        """Nothing is kept."""


def remote_files(root: Path | str, rev: str, below: PurePosixPath | Path) -> dict[str, RemoteObject]:
    """Every file that revision `rev` of the repository at `root` (a directory or a git URL) tracks with DVC below a path.

    Keys are relative to `below` ("." where it is itself a file). Empty when the revision has no such path. Raises SourceError when DVC is
    not installed, `root` is no DVC repository, or it has no such revision.
    """
    try:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo
        from dvc_data.index import DataIndexDirError
    except ImportError as error:
        raise SourceError("reading another revision needs DVC: pip install 'brightfield[pipeline]'") from error
    prefix = tuple(below.parts)
    try:
        with Repo.open(str(root), rev=rev) as repo:
            index = repo.index.data["repo"]
            return {
                "/".join(key[len(prefix) :]) or ".": RemoteObject("/".join(key), _places(index, key, entry))
                for key, entry in index.iteritems(prefix)
                if not entry.isdir
            }
    except KeyError:
        return {}
    except DataIndexDirError as error:
        raise TransferError(f"the list of files in {below} is in no remote; ask its author to `dvc push` revision {rev}") from error
    except DvcException as error:
        raise SourceError(f"revision {rev!r} of {root} cannot be read with DVC: {error}") from error


class ObjectStore(Store):
    """A read-only zarr store over the files of `remote_files`."""

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, files: Mapping[str, Readable], name: str) -> None:
        super().__init__(read_only=True)
        self._files = dict(files)
        self._name = name
        self._documents: dict[str, bytes] = {}

    def file(self, key: str) -> Readable | None:
        """A file; None where there is no such one."""
        return self._files.get(key)

    def text(self, key: str) -> str:
        """The text of a file."""
        return self._read(key, None, None).decode()

    def _read(self, key: str, start: int | None, stop: int | None) -> bytes:
        """A range of a file. Metadata is small, and all of it is read on opening: it is fetched together."""
        if not key.endswith(_METADATA):
            return self._files[key].read(start, stop)
        if key not in self._documents:
            names = [name for name in self._files if name.endswith(_METADATA)]
            self._documents = dict(zip(names, at_once(lambda name: self._files[name].read(), names), strict=True))
        return self._documents[key][start:stop]

    def __str__(self) -> str:
        return self._name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectStore) and self._files == other._files

    __hash__ = None  # type: ignore[assignment]

    async def get(self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The bytes of a file, or of a range of it; None where there is no such file."""
        if key not in self._files:
            return None
        data = await asyncio.to_thread(self._read, key, *limits(byte_range))
        return (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Several `get` at once."""
        return list(await asyncio.gather(*(self.get(key, prototype, byte_range) for key, byte_range in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether the revision has the file."""
        return key in self._files

    async def list(self) -> AsyncIterator[str]:
        """Every file."""
        for key in self._files:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Every file whose name begins with `prefix`."""
        for key in self._files:
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """The names directly below a directory."""
        folder = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
        for name in dict.fromkeys(key[len(folder) :].split("/")[0] for key in self._files if key.startswith(folder)):
            yield name

    async def set(self, key: str, value: Buffer) -> None:  # noqa: ARG002 - zarr's signature
        """Refused: a revision does not change."""
        self._check_writable()

    async def delete(self, key: str) -> None:  # noqa: ARG002 - zarr's signature
        """Refused: a revision does not change."""
        self._check_writable()


def _places(index: Any, key: tuple[str, ...], entry: Any) -> tuple[tuple[AbstractFileSystem, str], ...]:
    info = index.storage_map[key]
    found = [storage.get(entry) for storage in (info.cache, info.remote) if storage is not None]
    return tuple((without_whole_checksums(system.fs), path) for system, path in found)
