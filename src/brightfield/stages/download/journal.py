"""A journal of finished work beside an unfinished result: what it says was on disk before it was said, also after a kill.

One line per record: the sha256 of the JSON, a space, the JSON. The first line names the work; a torn last line is dropped.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self

import google_crc32c

from brightfield.core.errors import TransferError

_BLOCK_BYTES = 2**20

type Record = dict[str, Any]


class Journal:
    """The records of one piece of work, locked against other processes while open (use `with`).

    path: of the journal; its directory exists. work: digest of everything that decides the result. Records of other work are dropped,
    so `records` is what was finished of exactly this. Raises TransferError when another process holds it.
    """

    def __init__(self, path: Path, work: str) -> None:
        self._file: BinaryIO = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise TransferError(f"{path}: another process is at work here; wait for it, or end it") from None
        self.records = self._load(work)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record; on return it is on the disk."""
        self._write(record)
        self.records.append(dict(record))

    def rewrite(self, work: str, records: list[Record]) -> None:
        """Keep only these records."""
        self._file.truncate(0)
        for record in ({"work": work}, *records):
            self._write(record)
        self.records = records

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(_line(record))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _load(self, work: str) -> list[Record]:
        self._file.seek(0)
        records: list[Record] = []
        whole = 0
        for line in self._file:
            record = _parse(line)
            if record is None:
                break
            records.append(record)
            whole += len(line)
        self._file.truncate(whole)
        if not records or records[0] != {"work": work}:
            self.rewrite(work, [])
            return self.records
        return records[1:]


def file_record(path: Path, root: Path, n_bytes: int, crc32c: int) -> Record:
    """Name below `root`, size and crc32c of a file that is on the disk: enough to know by that it is whole and unchanged."""
    return {"file": path.relative_to(root).as_posix(), "bytes": n_bytes, "crc32c": crc32c}


def holds(record: Mapping[str, Any], root: Path) -> bool:
    """Whether the file of a `file_record` is still what it was."""
    path, checksum = root / record["file"], 0
    if not path.is_file() or path.stat().st_size != record["bytes"]:
        return False
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            checksum = google_crc32c.extend(checksum, block)
    return bool(checksum == record["crc32c"])


def _line(record: Mapping[str, Any]) -> bytes:
    text = json.dumps(record, sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest().encode() + b" " + text + b"\n"


def _parse(line: bytes) -> Record | None:
    digest, _, text = line.partition(b" ")
    if not line.endswith(b"\n") or hashlib.sha256(text[:-1]).hexdigest().encode() != digest:
        return None
    record: Record = json.loads(text)
    return record
