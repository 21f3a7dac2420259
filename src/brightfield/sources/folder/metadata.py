"""The metadata of own stacks: a CSV with a row per cell, judged where it is read.

What cannot be meant (an unknown column, a number that is none, a row for a directory that is not there) is a TableError with its line: read
on, it would make every cell its own donor, and put one animal on two sides of a split.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from brightfield.core.errors import TableError
from brightfield.core.urls import public_text, public_url

MAX_BYTES = 100_000_000
MAX_TEXT = 1000
"""Characters of a value."""

ALLEN_NAMES = {
    "specimen__id": "specimen_id",
    "specimen__name": "name",
    "specimen__hemisphere": "hemisphere",
    "donor__id": "donor_id",
    "donor__species": "species",
    "line_name": "line",
    "cell_reporter_status": "reporter",
    "structure_parent__acronym": "structure",
    "structure__layer": "layer",
    "tag__dendrite_type": "dendrite_type",
    "tag__apical": "apical",
    "csl__normalized_depth": "normalized_depth",
    "nr__reconstruction_type": "reconstruction_type",
}
"""Columns of the Allen cells table, which serves as it is: its other columns are left out, and it may list cells that are not here."""

type Values = Mapping[str, Any]
type Parse = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Metadata:
    """The rows by name of directory: line of the file, and values as their types (empty ones are left out).

    is_catalogue: an Allen cells table.
    """

    place: str
    rows: Mapping[str, tuple[int, Values]]
    is_catalogue: bool = False

    def of(self, directories: Iterable[str]) -> dict[str, Values]:
        """The values for each of the directories. Raises TableError for a row without a directory, or a directory without a row."""
        names = list(directories)
        here = set(names)
        for name, (line, _) in self.rows.items():
            if name not in here and not self.is_catalogue:
                raise TableError(f"there is no directory {name}{_did_you_mean(name, names)}", path=self.place, line=line)
        if lost := sorted(here - self.rows.keys()):
            told = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
            raise TableError(
                f"there is no row for {told}: each would be taken for an animal of its own; add a row, or move the directory away",
                path=self.place,
            )
        return {name: self.rows[name][1] for name in names}


def read_metadata(url: str) -> Metadata:
    """The rows of the CSV at a path or fsspec URL. Raises TableError naming file, line, column and value."""
    place = public_url(url)
    lines = _lines(_text(url, place), place)
    _, header = next(lines, (1, []))
    is_catalogue = "specimen__id" in header
    columns = _columns(header, place, is_catalogue=is_catalogue)
    rows: dict[str, tuple[int, Values]] = {}
    for line, cells in lines:
        if len(cells) != len(columns):
            raise TableError(f"{len(cells)} values for {len(columns)} columns; a text with a comma is quoted", path=place, line=line)
        values = _values(dict(zip(columns, cells, strict=True)), place, line)
        name = str(values.get("directory") or values.get("specimen_id", ""))
        if not name or name in rows:
            raise TableError(f"{name} is there twice" if name else "a row needs `directory` or `specimen_id`", path=place, line=line)
        rows[name] = (line, values)
    return Metadata(place, rows, is_catalogue)


def number_of(name: str) -> int:
    """The number of a cell or donor: a whole number as it is; of any other text 48 bits of its hash."""
    return int(name) if re.fullmatch(r"[0-9]{1,18}", name) else int.from_bytes(hashlib.sha256(name.encode()).digest()[:6])


# ------------------------------------------------------------------------------------------------------------------- the file


def _text(url: str, place: str) -> str:
    import fsspec

    try:
        with fsspec.open(url, "rb") as file:
            data: bytes = file.read() if (getattr(file, "size", None) or 0) <= MAX_BYTES else b" " * (MAX_BYTES + 1)
    except Exception as error:  # every file system has errors of its own
        raise TableError(f"source.metadata cannot be read: {error or type(error).__name__}", path=place) from error
    if len(data) > MAX_BYTES:
        raise TableError(f"source.metadata is larger than {MAX_BYTES:,} bytes: is it the right file?", path=place)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise TableError("this is not UTF-8 text; save the table as CSV in UTF-8", path=place, line=line) from error


def _lines(text: str, place: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, each with the number of its last line."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise TableError(f"this is not CSV: {error}", path=place, line=reader.line_num) from error


def _columns(header: Sequence[str], place: str, *, is_catalogue: bool) -> list[str]:
    """The names of the columns, ours; "" for one that is left out."""
    columns = []
    for name in (cell.strip() for cell in header):
        column = ALLEN_NAMES.get(name, name)
        if column in columns:
            raise TableError(f"column {column} is there twice", path=place, line=1)
        if column not in COLUMNS and not is_catalogue:
            hint = _did_you_mean(name, COLUMNS) or f"; columns are {', '.join(COLUMNS)}, separated by commas"
            raise TableError(f"unknown column {name[:MAX_TEXT]!r}{hint}", path=place, line=1)
        columns.append(column if column in COLUMNS else "")
    return columns


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


# ------------------------------------------------------------------------------------------------------------------- values


def _values(cells: Mapping[str, str], place: str, line: int) -> Values:
    values = {}
    for column, raw in cells.items():
        text = raw.strip().strip('"')
        if not column or not text:
            continue
        try:
            values[column] = COLUMNS[column](text)
        except ValueError as error:
            shown = text if len(text) <= 60 else f"{text[:60]}..."
            raise TableError(f"{column} = {shown!r}: {error}", path=place, line=line) from error
    return values


def _any_text(text: str) -> str:
    if len(text) > MAX_TEXT or not text.isprintable():
        raise ValueError(f"expected one line of at most {MAX_TEXT} characters")
    if public_text(text) != text:
        raise ValueError("this could be an address with a password or a token, and tables are published")
    return text


def _directory(text: str) -> str:
    if "/" in text or text in (".", ".."):
        raise ValueError("expected the name of a directory in source.path, without slashes")
    return _any_text(text)


def _id(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text) or not 0 < int(text) < 2**63:
        raise ValueError("expected a positive whole number below 2^63")
    return int(text)


def _donor(text: str) -> int:
    """A number or a name; what reads as a number must be one, or one animal written in two ways becomes two."""
    return _id(text) if _NUMBER.fullmatch(text) else number_of(_any_text(text))


_NUMBER = re.compile(r"[-+\d.,]+([eE][-+]?\d+)?|0[xX][0-9a-fA-F]+")
"""What a spreadsheet or a program may mean a number by: 5.0, 1e3, 0x10, digits of any script."""


def _number(low: float, high: float) -> Parse:
    def parse(text: str) -> float:
        number = float(text) if re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", text) else low - 1
        if not low <= number <= high:
            raise ValueError(f"expected a number from {low:g} to {high:g}, with a point")
        return number

    return parse


def _reconstruction_type(text: str) -> str:
    if text not in ("full", "dendrite-only"):
        raise ValueError("expected full or dendrite-only")
    return text


COLUMNS: dict[str, Parse] = {
    "directory": _directory,
    "specimen_id": _id,
    "donor_id": _donor,
    "group": _any_text,
    **dict.fromkeys(("name", "species", "line", "reporter", "structure", "layer", "hemisphere", "dendrite_type", "apical"), _any_text),
    "normalized_depth": _number(0, 1),
    "reconstruction_type": _reconstruction_type,
    "pixel_um": _number(0.001, 100),
    "plane_um": _number(0.001, 100),
}
"""The columns there may be, and how their values are read."""
