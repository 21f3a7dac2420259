"""One cell as its source describes it: what is known of the animal and the trace, its stack, and a rectangle of one of its planes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from brightfield.core.errors import StackError
from brightfield.core.space import Grid, stack_grid

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Plane:
    """One z plane: its index in the stack (section number minus the smallest), and where its pixels are."""

    plane: int
    section_number: int
    sub_image_id: int | None
    usable: bool = True
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Stack:
    """A z-stack at full resolution. `planes` lists every index from the first to the last, missing ones with `usable=False`."""

    image_series_id: int
    width_px: int
    height_px: int
    pixel_um: float
    plane_um: float
    planes: tuple[Plane, ...]
    projection_id: int | None = None
    bits: int = 8  # 8 or 16 per pixel

    @property
    def grid(self) -> Grid:
        """The full-resolution grid."""
        return stack_grid(len(self.planes), self.height_px, self.width_px, self.pixel_um, self.plane_um)


MAX_PLANES, MAX_SIDE_PX = 20_000, 200_000
"""Beyond this no microscope goes: a number that says so is a date, a checksum or damage."""


def check_stack_size(first: int, last: int, height_px: int, width_px: int) -> None:
    """Raise StackError, before anything is made of that size, for planes `first` to `last` of so many pixels that no stack has."""
    if not 0 <= last - first < MAX_PLANES:
        raise StackError(f"its planes are numbered from {first} to {last}; a stack has at most {MAX_PLANES} planes: mend the numbers")
    if not (0 < height_px <= MAX_SIDE_PX and 0 < width_px <= MAX_SIDE_PX):
        raise StackError(f"its planes are said to be {width_px} x {height_px} px; a side is 1 to {MAX_SIDE_PX} px")


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell as the source describes it; `stack` and the files are None where the source has none."""

    specimen_id: int
    name: str
    donor_id: int
    species: str
    line: str | None = None
    reporter: str | None = None
    structure: str | None = None
    layer: str | None = None
    hemisphere: str | None = None
    dendrite_type: str | None = None
    apical: str | None = None
    normalized_depth: float | None = None
    soma_xyz_um: tuple[float, float, float] | None = None
    reconstruction_id: int | None = None
    reconstruction_type: str | None = None
    swc_file_id: int | None = None
    swc_url: str | None = None
    marker_file_id: int | None = None
    marker_url: str | None = None
    stack: Stack | None = None
    group: str | None = None  # what must stay on one side of a split with it, where its owner says so
    swc_problem: str | None = None  # why the source's skeleton or markers cannot be used, where it has some
    stack_problem: str | None = None  # why the source's images make up no stack that can be used, where it has some


@dataclass(frozen=True, slots=True)
class Crop:
    """A rectangle of one plane: full-resolution pixels, and the level at which it is wanted.

    All four numbers are multiples of 2**level, so the answer has exactly ``height >> level`` rows and ``width >> level`` columns.
    """

    plane: Plane
    top: int
    left: int
    height: int
    width: int
    level: int

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Rows and columns of the answer."""
        return (self.height >> self.level, self.width >> self.level)


def cells_of(cells: pd.DataFrame, planes: pd.DataFrame) -> tuple[Cell, ...]:
    """The cells that the two tables describe, by specimen id: the inverse of `select`; only selected cells have a stack with planes."""
    planes_by_id: dict[int, list[Plane]] = {}
    for specimen_id, *facts in _rows(planes, ["specimen_id", *(field.name for field in fields(Plane))]):
        planes_by_id.setdefault(specimen_id, []).append(Plane(*facts))
    names = [str(name) for name in cells.columns]
    rows = [dict(zip(names, values, strict=True)) for values in _rows(cells, names)]
    return tuple(_cell_of(row, tuple(planes_by_id.get(row["specimen_id"], ()))) for row in rows)


def _cell_of(row: Mapping[str, Any], planes: tuple[Plane, ...]) -> Cell:
    soma = (row["soma_x_um"], row["soma_y_um"], row["soma_z_um"])
    plain = {field.name: row[field.name] for field in fields(Cell) if field.name in row}
    stack = Stack(planes=planes, **{field.name: row[field.name] for field in fields(Stack) if field.name in row}) if planes else None
    return Cell(**plain, soma_xyz_um=None if None in soma else soma, stack=stack)


def _rows(frame: pd.DataFrame, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """These columns of each row as plain Python values (null is None), by specimen id."""
    ordered = frame.sort_values("specimen_id", kind="stable")
    columns = (ordered[name].astype(object).where(ordered[name].notna(), None).tolist() for name in names)
    return zip(*columns, strict=True)
