"""What a source of cells is: the value objects it yields, and the three questions it answers.

Two sources exist: `allen.py` (the Allen service or a mirror of it) and `folder.py` (your own stacks). Nothing else is known of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from brightfield.space import Grid, stack_grid


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


class Source(Protocol):
    """Where cells, files and pixels come from. Calls raise SourceError, TransferError or StackError; they never return a guess."""

    @property
    def base_url(self) -> str:
        """Where it is, without credentials: goes into the manifest."""
        ...

    def cells(self) -> Sequence[Cell]:
        """Every cell the source knows, ordered by specimen id, selected or not; what is costly to ask may still be absent."""
        ...

    def complete(self, cells: Sequence[Cell]) -> Sequence[Cell]:
        """The same cells in the same order, with reconstruction, files and stack as far as the source has them."""
        ...

    def file(self, url: str) -> bytes:
        """The bytes of an SWC or marker file."""
        ...

    def pixels(self, cell: Cell, crop: Crop) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """The decoded pixels of a crop, shape `crop.shape_yx`, verified."""
        ...

    def projection(self, cell: Cell, level: int) -> NDArray[np.uint8] | None:
        """The minimum projection along z at `level`, or None where the source has none."""
        ...

    def close(self) -> None:
        """Let go of connections: what is under way fails soon, and nothing can be asked any more."""
        ...


@contextmanager
def interruptible(source: Source) -> Iterator[None]:
    """Within this, Ctrl-C closes `source`, so that threads that wait for it need not be waited for."""
    try:
        yield
    except KeyboardInterrupt:
        source.close()
        raise
