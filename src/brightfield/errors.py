"""The exceptions, for scripts that catch them; they live in `core/errors.py`, which draws their tree."""

from __future__ import annotations

from brightfield.core.errors import (
    BrightfieldError,
    BusyError,
    CapacityError,
    CellFailures,
    CheckError,
    ConfigError,
    FileError,
    GridError,
    InputError,
    MarkerError,
    SkeletonError,
    SourceError,
    SplitError,
    StackError,
    TableError,
    TransferError,
)

__all__ = [
    "BrightfieldError",
    "BusyError",
    "CapacityError",
    "CellFailures",
    "CheckError",
    "ConfigError",
    "FileError",
    "GridError",
    "InputError",
    "MarkerError",
    "SkeletonError",
    "SourceError",
    "SplitError",
    "StackError",
    "TableError",
    "TransferError",
]
