"""Byte ranges of files wherever they lie, and what was made of the last ones: one behaviour over file systems that differ in theirs.

Of those behind fsspec, S3 and most web servers send the range that is asked for; sshfs sends the whole file and says nothing, and so do web
servers that know no ranges, such as Python's own.
"""

from __future__ import annotations

import asyncio
import inspect
import io
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from brightfield.core.errors import StackError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

CONNECTIONS = 32
"""Requests to S3 at the same time; botocore's default is 10."""

_CACHE_BYTES = 2**28
_BUFFER_BYTES = 2**16


def read_range(system: AbstractFileSystem, path: str, start: int | None, stop: int | None) -> bytes:
    """Bytes `start` to `stop` of an object, moving no others."""
    if start is None or takes_ranges(system):
        whole_or_range: bytes = system.cat_file(path) if start is None else system.cat_file(path, start=start, end=stop)
        return whole_or_range
    with system.open(path, "rb") as file:
        file.seek(start, 0 if start >= 0 else 2)
        data: bytes = file.read(-1 if stop is None else stop - start)
    return data


def takes_ranges(system: AbstractFileSystem) -> bool:
    """Whether `cat_file` of a file system fetches ranges in one request; sshfs takes the arguments and returns the whole file."""
    fetch = getattr(type(system), "_cat_file", None)
    return fetch is not None and {"start", "end"} <= inspect.signature(fetch).parameters.keys()


def without_whole_checksums(system: AbstractFileSystem) -> AbstractFileSystem:
    """The file system, on S3 with `CONNECTIONS` and without botocore's check of answers against the object's checksum.

    Servers send the checksum of the whole object with a range of it too (Ceph until ceph#61901, rclone), and botocore then refuses the
    range. Chunks and indexes of a volume have checksums of their own.
    """
    if "s3" not in system.protocol:
        return system
    settings = {"max_pool_connections": CONNECTIONS, **(system.storage_options.get("config_kwargs") or {})}
    settings["response_checksum_validation"] = "when_required"
    return type(system)(*system.storage_args, **{**system.storage_options, "config_kwargs": settings})


def limits(byte_range: ByteRequest | None) -> tuple[int | None, int | None]:
    """Start and stop of what zarr asks for, as `read_range` takes them."""
    match byte_range:
        case RangeByteRequest(start, end):
            return start, end
        case OffsetByteRequest(offset):
            return offset, None
        case SuffixByteRequest(suffix):
            return -suffix, None
        case _:
            return None, None


class Ranges:
    """Byte ranges of the files of one file system, and the pieces made of them that were asked for last; used by many threads."""

    def __init__(self, system: AbstractFileSystem) -> None:
        self.system = system
        self._pieces: OrderedDict[tuple[Any, ...], Future[Any]] = OrderedDict()
        self._lock = threading.Lock()
        self._bytes = 0

    def whole(self, path: str) -> bytes:
        """All bytes of a file."""
        data: bytes = self.system.cat_file(path)
        return data

    def open(self, path: str) -> BinaryIO:
        """A file to look around in."""
        file: BinaryIO = io.BytesIO(self._kept(path)) if self._only_whole(path) else self.system.open(path, "rb", block_size=_BUFFER_BYTES)
        return file

    def read(self, path: str, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`. Raises StackError where the file ends before."""
        data = bytes(self._kept(path)[start:end]) if self._only_whole(path) else read_range(self.system, path, start, end)
        if len(data) != end - start:
            raise StackError(f"the file ends after {start + len(data)} bytes, expected {end}: it is cut short", path=path)
        return data

    def some(self, path: str, start: int | None, stop: int | None) -> bytes:
        """The bytes from `start` (negative: from the end) to `stop`, or all."""
        return bytes(self._kept(path)[start:stop]) if self._only_whole(path) else read_range(self.system, path, start, stop)

    def cached[T](self, key: tuple[Any, ...], make: Callable[[], T]) -> T:
        """What `make` gives, made once and kept while it is among the last; large strips are asked for by one tile after the other."""
        with self._lock:
            kept = self._pieces.get(key)
            mine = kept is None
            if kept is None:
                kept = self._pieces[key] = Future()
            self._pieces.move_to_end(key)
        if mine:
            self._make(key, kept, make)
        piece: T = kept.result()
        return piece

    def _make(self, key: tuple[Any, ...], place: Future[Any], make: Callable[[], Any]) -> None:
        try:
            place.set_result(make())
        except BaseException as error:
            with self._lock:
                del self._pieces[key]
            place.set_exception(error)
            return
        with self._lock:
            self._bytes += _size(place)
            for old in [key for key, piece in self._pieces.items() if piece.done()][:-1]:
                if self._bytes <= _CACHE_BYTES:
                    break
                self._bytes -= _size(self._pieces.pop(old))

    def _kept(self, path: str) -> memoryview:
        return memoryview(self.cached((path, "whole"), lambda: np.frombuffer(self.whole(path), np.uint8)))

    def _only_whole(self, path: str) -> bool:
        """Whether the file comes from a web server that says of itself that it sends no ranges."""
        if not {"http", "https"} & set(np.atleast_1d(self.system.protocol)):
            return False
        return self.cached((path, "only whole"), lambda: not self.system.info(path).get("partial"))


class RangeStore(Store):
    """A zarr store below a directory of any file system, read-only and never listed."""

    supports_writes = False
    supports_deletes = False
    supports_listing = False

    def __init__(self, ranges: Ranges, directory: str) -> None:
        super().__init__(read_only=True)
        self._ranges, self._directory = ranges, directory

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RangeStore) and (self._ranges, self._directory) == (other._ranges, other._directory)

    __hash__ = None  # type: ignore[assignment]

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The bytes of a file, or of a range of it; None where there is no such file."""
        try:
            data = await asyncio.to_thread(self._ranges.some, f"{self._directory}/{key}", *limits(byte_range))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        return prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Several `get` at once."""
        return list(await asyncio.gather(*(self.get(key, prototype, byte_range) for key, byte_range in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Whether there is such a file."""
        return bool(await asyncio.to_thread(self._ranges.system.exists, f"{self._directory}/{key}"))

    def list(self) -> AsyncIterator[str]:
        """Refused: nothing needs it."""
        raise NotImplementedError

    list_prefix = list_dir = list  # type: ignore[assignment]  # noqa: A003

    async def set(self, key: str, value: Buffer) -> None:  # noqa: ARG002 - zarr's signature
        """Refused: sources are read."""
        self._check_writable()

    async def delete(self, key: str) -> None:  # noqa: ARG002 - zarr's signature
        """Refused: sources are read."""
        self._check_writable()


def _size(piece: Future[Any]) -> int:
    return int(getattr(piece.result(), "nbytes", 0))
