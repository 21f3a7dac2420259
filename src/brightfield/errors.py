"""The exceptions, for scripts that catch them; they live in `core/errors.py`, which draws their tree."""

from __future__ import annotations

from brightfield.core.errors import (
    BrightfieldError,
    CapacityError,
    CellFailures,
    CheckError,
    ConfigError,
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
    "CapacityError",
    "CellFailures",
    "CheckError",
    "ConfigError",
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
