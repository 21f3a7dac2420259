"""Byte ranges of remote objects, kept in a local folder of bounded size that any number of processes share.

A revision's objects are named by their hash and never change, so what is kept is never stale. What was used longest ago goes first.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import google_crc32c

if TYPE_CHECKING:
    from brightfield.volumes.remote import RemoteObject

_CHECKSUM_BYTES = 4
_KEPT_SHARE = 0.75
"""How full the folder is after a clean-up."""
_LOOK_SHARE = 1 / 16
"""A process looks at the whole folder after it added this share of the limit: others add too."""


class RangeCache:
    """A folder of at most about `max_bytes`: by a sixteenth more for each process that writes into it."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._added = 0

    def read(self, remote: RemoteObject, start: int | None, stop: int | None) -> bytes:
        """The range of an object, from the folder where it is there and whole, else fetched and kept."""
        if (data := self.kept(remote, start, stop)) is None:
            data = remote.read(start, stop)
            self.keep(remote, start, stop, data)
        return data

    def kept(self, remote: RemoteObject, start: int | None, stop: int | None) -> bytes | None:
        """The range of an object where it is in the folder, and whole."""
        return _whole(self._path(remote, start, stop))

    def keep(self, remote: RemoteObject, start: int | None, stop: int | None, data: bytes) -> None:
        """Keep the range of an object."""
        self._keep(self._path(remote, start, stop), data)

    def _path(self, remote: RemoteObject, start: int | None, stop: int | None) -> Path:
        name = sha256(f"{remote.places[-1][1]}|{start}|{stop}".encode()).hexdigest()
        return self.folder / name[:2] / name[2:]

    def _keep(self, path: Path, data: bytes) -> None:
        """Keep a range; a full disk costs speed, not the training."""
        partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data + _checksum(data))
            os.replace(partial, path)
        self._added += len(data)
        if self._added > self.max_bytes * _LOOK_SHARE:
            self._added = 0
            self._clean_up()

    def _clean_up(self) -> None:
        files = []
        for path in self.folder.rglob("*"):
            with contextlib.suppress(OSError):  # another process may clean up too
                if path.is_file():
                    files.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(size for _, size, _ in files)
        if total <= self.max_bytes:
            return
        for _, size, path in sorted(files):
            if total <= self.max_bytes * _KEPT_SHARE:
                break
            path.unlink(missing_ok=True)
            total -= size


@dataclass(frozen=True, slots=True)
class CachedObject:
    """A remote object that is read through a cache."""

    remote: RemoteObject
    cache: RangeCache

    def read(self, start: int | None = None, stop: int | None = None) -> bytes:
        """See `RemoteObject.read`."""
        return self.cache.read(self.remote, start, stop)

    def kept(self, start: int, stop: int) -> bytes | None:
        """See `Readable`."""
        return self.cache.kept(self.remote, start, stop)

    def fetch(self, start: int, stop: int) -> bytes:
        """See `Readable`."""
        return self.remote.read(start, stop)

    def keep(self, start: int, stop: int, data: bytes) -> None:
        """See `Readable`."""
        self.cache.keep(self.remote, start, stop, data)


def _whole(path: Path) -> bytes | None:
    """What a file of the cache holds, used now; None where it is not there, or damaged."""
    try:
        raw = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    data = raw[:-_CHECKSUM_BYTES]
    return data if raw[-_CHECKSUM_BYTES:] == _checksum(data) else None


def _checksum(data: bytes) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(_CHECKSUM_BYTES, "little")
