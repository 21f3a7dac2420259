"""Files written whole or not at all, linked instead of copied, and named by their bytes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from brightfield.core.errors import FileError


@contextlib.contextmanager
def atomic(target: Path) -> Iterator[Path]:
    """The name of a file beside `target` to write to; it takes the place of `target` when the block ends, and is removed when it fails.

    Directories are made as needed. Raises FileError, which names `target`, where the operating system refuses (a full disk, no permission).
    """
    partial = target.with_name(f".{target.name}.part")  # one writer per file: what a killed run left is overwritten by the next
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        os.replace(partial, target)
    except OSError as error:
        raise FileError(f"cannot be written: {error.strerror or error}", path=target) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_stream(target: Path) -> Iterator[BinaryIO]:
    """`atomic`, opened for writing bytes."""
    with atomic(target) as partial, partial.open("wb") as stream:
        yield stream


def write_bytes(target: Path, data: bytes) -> Path:
    """Write `target` atomically; returns it."""
    with atomic_stream(target) as stream:
        stream.write(data)
    return target


def write_text(target: Path, text: str) -> Path:
    """Write `target` atomically as UTF-8, line ends as they are; returns it."""
    return write_bytes(target, text.encode("utf-8"))


def write_json(target: Path, value: object) -> Path:
    """Write JSON atomically, keys sorted, a line for each value; returns `target`."""
    return write_text(target, json.dumps(value, sort_keys=True, indent=0) + "\n")


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def link(source: Path | os.DirEntry[str], target: Path | str) -> None:
    """Make `target` the same file as `source`: a hard link, or a copy where the file system refuses one."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.stat(target), os.stat(source)):
            return
        os.unlink(target)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        with atomic(Path(target)) as partial:
            shutil.copy2(source, partial)
