"""The text of an SWC file as numbers: separators, columns, and the line to point at when something is wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from brightfield.core.errors import InputError, SkeletonError

type Reals = NDArray[np.float64]

SWC_COLUMNS = ("id", "type", "x", "y", "z", "radius", "parent")

FARTHEST_UM = 1e7
"""A coordinate beyond ten metres is not in micrometres; it also keeps squared distances finite."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)
_DECIMAL_COMMA = re.compile(rb"[+-]?\d+,\d+")


@dataclass(frozen=True)
class SwcText:
    """The text of one SWC file with Unix line ends: to parse at once, and to point at a line when that fails."""

    path: str | Path
    data: bytes

    @classmethod
    def of(cls, data: bytes, path: str | Path) -> SwcText:
        """The text in the bytes of a file. Raises SkeletonError for what is no plain text."""
        refuse_wide_text(data, path, SkeletonError)
        return cls(path, data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n"))

    def values(self) -> Reals:
        """All nodes as (n, 7) float64; points at the first line that does not have its seven numbers."""
        if self._first_row is None:
            raise SkeletonError("no node in the file: it is empty or holds only comments; fetch it again", path=self.path, line=1)
        try:
            values = np.loadtxt(BytesIO(self.spaced), np.float64, comments="#", ndmin=2, encoding="latin-1")
        except ValueError:
            return self._first_columns()
        if values.shape[1] < len(SWC_COLUMNS):
            self._name_bad_row()
        return values[:, : len(SWC_COLUMNS)]

    def _first_columns(self) -> Reals:
        """The first seven columns where there are further ones, the same number in every line, that may be words."""
        if self.n_columns == len(SWC_COLUMNS) or any(len(fields) != self.n_columns for _, fields in self.rows):
            self._name_bad_row()
        try:
            columns = range(len(SWC_COLUMNS))
            return np.loadtxt(BytesIO(self.spaced), np.float64, comments="#", ndmin=2, encoding="latin-1", usecols=columns)
        except ValueError:
            self._name_bad_row()

    @property
    def n_columns(self) -> int:
        """Fields of the first node's line, at least seven."""
        row = self._first_row or b""
        return max(len(row.replace(self._separator, b" ").split()), len(SWC_COLUMNS))

    @cached_property
    def _first_row(self) -> bytes | None:
        """The first line that holds something besides a comment."""
        return next((row for line in self.data.split(b"\n") if (row := line.split(b"#", 1)[0].strip())), None)

    @cached_property
    def _separator(self) -> bytes:
        """What is between fields: a semicolon, a comma, else white space. A comma within a number is none, and is refused with it."""
        row = self._first_row or b""
        fields = row.split()
        is_decimal = len(fields) >= len(SWC_COLUMNS) and any(_DECIMAL_COMMA.fullmatch(field) for field in fields)
        separator = b";" if b";" in row else b"," if b"," in row and not is_decimal else b" "
        is_empty = separator != b" " and re.search(separator + rb"\s*" + separator, row)
        return b" " if is_empty else separator

    @cached_property
    def spaced(self) -> bytes:
        """The text with white space between fields."""
        return self.data if self._separator == b" " else self.data.replace(self._separator, b" ")

    @cached_property
    def rows(self) -> list[tuple[int, list[str]]]:
        """Number and fields of every line that holds something besides a comment."""
        lines = enumerate(self.spaced.decode("latin-1").split("\n"), start=1)
        return [(number, fields) for number, line in lines if (fields := line.split("#", 1)[0].split())]

    def line(self, row: int) -> int:
        """The number, from 1, of a node's line."""
        return self.rows[row][0]

    def refuse(self, bad: NDArray[np.bool_], problem: str) -> None:
        """Raise for the first node that is bad."""
        if bad.any():
            self.fail(int(np.argmax(bad)), problem)

    def fail(self, row: int, problem: str) -> NoReturn:
        """Raise SkeletonError at a node's line, quoting it."""
        number, fields = self.rows[row]
        quote = " ".join(fields)[:120]
        raise SkeletonError(f"{problem} (found {quote!r}); fetch the file again or repair this line", path=self.path, line=number)

    def _name_bad_row(self) -> NoReturn:
        n = self.n_columns
        expected = f"a node has the 7 fields {' '.join(SWC_COLUMNS)}" if n == len(SWC_COLUMNS) else f"the first node has {n} fields"
        for row, (_, fields) in enumerate(self.rows):
            if len(fields) != n:
                cut = ", the file was cut off here" if row == len(self.rows) - 1 and len(fields) < n else ""
                self.fail(row, f"{expected}, this line has {len(fields)}{cut}")
            for name, field in zip(SWC_COLUMNS, fields, strict=False):
                if not _NUMBER.fullmatch(field):
                    self.fail(row, f"{name} is not a number: {field!r}")
        raise SkeletonError("not readable as SWC; save it as plain ASCII or UTF-8 text, or fetch it again", path=self.path, line=1)


def bytes_of(path: str | Path, error: type[InputError]) -> bytes:
    """The bytes of a file. Raises `error` where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as problem:
        raise error(f"cannot be read: {problem.strerror}; fetch it again", path=path) from problem


def refuse_wide_text(data: bytes, path: str | Path, error: type[InputError]) -> None:
    """Raise `error` for UTF-16 and for what is no text."""
    if b"\0" in data or data.startswith((b"\xff\xfe", b"\xfe\xff")):
        kind = "UTF-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "binary or UTF-16"
        remedy = "save it as plain ASCII or UTF-8 text, or fetch it again"
        raise error(f"not plain text but {kind}; {remedy}", path=path, line=1 + data[: data.find(b"\0")].count(b"\n"))
