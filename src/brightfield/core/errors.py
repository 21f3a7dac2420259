"""The exception tree. Every message says what was expected, what was found, and what to do next.

BrightfieldError                 exit code 1
├── ConfigError                  exit code 2: a key, value or combination that is not allowed
├── InputError                   a file that we were given is not what it should be
│   ├── SkeletonError            an SWC file, with its line
│   ├── MarkerError              a marker file, with its line
│   ├── StackError               an image plane or stack
│   └── TableError               a parquet or CSV table that breaks its contract
├── FileError                    a file that could not be written: a full disk, no permission
├── GridError                    a skeleton and an image grid that cannot belong together
├── SourceError                  the data source refused or contradicted itself
│   └── TransferError            bytes that could not be had, or could not be believed
├── CapacityError                the work would not fit the disk or the limit that was set
├── BusyError                    another process is at work on the same files
├── SplitError                   the split would leak, or would move a cell
├── CheckError                   a finding of severity ERROR forbids to go on
└── CellFailures                 some cells failed; the others are finished

`docs/reference/errors.md` has a section of each: what to do where one line is not enough.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

ERRORS_PAGE = "docs/reference/errors.md"
_SAYS_IT_ALL = re.compile(r"\bdocs/[\w/-]+\.md\b|`(brightfield|dvc|git|pip) ")
"""A message that names a page, or the command to run."""


class BrightfieldError(Exception):
    """Root of all errors that are the world's fault or the user's, never ours."""

    exit_code = 1
    has_more = False
    """Whether `ERRORS_PAGE` says more than a message of this class can."""


class ConfigError(BrightfieldError):
    """A configuration key, value or combination that is not allowed."""

    exit_code = 2


class InputError(BrightfieldError):
    """A file that is not what it should be; knows the file and, for text, the line."""

    def __init__(self, message: str, *, path: str | Path | None = None, line: int | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.line = line
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(f"{where}{message}")


class SkeletonError(InputError):
    """An SWC file that is not a skeleton."""

    has_more = True


class MarkerError(InputError):
    """A marker file that cannot be read."""

    has_more = True


class StackError(InputError):
    """An image plane or stack that cannot be read, or whose pixel size is unknown."""

    has_more = True


class TableError(InputError):
    """A table that breaks the contract in `core/schema.py`."""


class FileError(InputError):
    """A file that could not be written: a full disk, no permission."""


class GridError(BrightfieldError):
    """A skeleton and an image grid that cannot belong together, or a grid that makes no sense."""

    has_more = True


class SourceError(BrightfieldError):
    """The data source refused a query or contradicted itself."""

    has_more = True


class TransferError(SourceError):
    """Bytes that could not be had, or that arrived and could not be believed.

    reason: the last reason alone, without address or counts, so that it may enter a table. absent: the server insists that there is
    no such thing.
    """

    def __init__(self, message: str, *, reason: str | None = None, absent: bool = False) -> None:
        super().__init__(message)
        self.reason = message if reason is None else reason
        self.absent = absent


class CapacityError(BrightfieldError):
    """The work would not fit the disk, the memory or the limit that was set."""

    has_more = True


class BusyError(BrightfieldError):
    """Another process is at work on the same files."""


class SplitError(BrightfieldError):
    """The split would leak between train and test, or would move a cell."""

    has_more = True


class CheckError(BrightfieldError):
    """A finding of severity ERROR forbids to go on."""

    has_more = True


class CellFailures(BrightfieldError):
    """Some cells failed; every other cell is finished and kept. Maps specimen id to the reason."""

    has_more = True

    def __init__(self, stage: str, reasons: Mapping[int, str], *, remedy: str) -> None:
        self.stage = stage
        self.reasons = dict(sorted(reasons.items()))
        rows = "\n".join(f"  {specimen_id}  {reason}" for specimen_id, reason in self.reasons.items())
        super().__init__(f"{stage}: {len(self.reasons)} cell(s) failed, the others are finished and kept\n{rows}\n{remedy}")


def more_about(error: BrightfieldError) -> str:
    """Where the documentation says more of an error, e.g. `docs/reference/errors.md#stackerror`; "" where its message says what to run."""
    if not error.has_more or _SAYS_IT_ALL.search(str(error)):
        return ""
    return f"{ERRORS_PAGE}#{type(error).__name__.lower()}"


def with_page(error: BrightfieldError) -> str:
    """The message, and where the documentation says more: at the end of a line, or as a last line of several."""
    text, page = str(error), more_about(error)
    if not page:
        return text
    return f"{text}\nsee {page}" if "\n" in text else f"{text} (see {page})"
