"""Where voxels are: the only code that turns micrometres into voxels and back.

Axes are (z, y, x). Voxel (k, j, i) has its CENTRE at ``origin + (k, j, i) * voxel_size`` micrometres, as OME-NGFF 0.5 has it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brightfield.core.errors import GridError

type Triple = tuple[float, float, float]
type Shape = tuple[int, int, int]
type Window = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Grid:
    """A regular voxel grid in micrometres.

    - shape_zyx: voxels per axis, all >= 1.
    - voxel_size_zyx_um: spacing of voxel centres in um, all > 0.
    - origin_zyx_um: the centre of voxel (0, 0, 0) in um.

    Raises GridError for a shape, size or origin that is not a grid.
    """

    shape_zyx: Shape
    voxel_size_zyx_um: Triple
    origin_zyx_um: Triple = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if any(len(axis) != 3 for axis in (self.shape_zyx, self.voxel_size_zyx_um, self.origin_zyx_um)):
            raise GridError(f"a grid needs three values per field in (z, y, x) order, found {self!r}")
        object.__setattr__(self, "shape_zyx", _as_shape(self.shape_zyx))
        object.__setattr__(self, "voxel_size_zyx_um", tuple(float(v) for v in self.voxel_size_zyx_um))
        object.__setattr__(self, "origin_zyx_um", tuple(float(v) for v in self.origin_zyx_um))
        if min(self.shape_zyx) < 1:
            raise GridError(f"every axis of a grid needs at least one voxel, found shape_zyx={self.shape_zyx}")
        if not all(isfinite(v) and v > 0 for v in self.voxel_size_zyx_um):
            raise GridError(f"voxel sizes are micrometres > 0, found voxel_size_zyx_um={self.voxel_size_zyx_um}")
        if not all(isfinite(v) for v in self.origin_zyx_um):
            raise GridError(f"the origin must be finite, found origin_zyx_um={self.origin_zyx_um}")

    @property
    def n_voxels(self) -> int:
        """Voxels in the whole grid."""
        z, y, x = self.shape_zyx
        return z * y * x

    @property
    def window(self) -> Window:
        """The half-open voxel box of the whole grid."""
        z, y, x = self.shape_zyx
        return ((0, z), (0, y), (0, x))

    @property
    def extent_zyx_um(self) -> tuple[Triple, Triple]:
        """Lower and upper corner of the grid in um: the outer FACES of its outermost voxels."""
        low = np.subtract(self.origin_zyx_um, np.divide(self.voxel_size_zyx_um, 2))
        high = low + np.multiply(self.shape_zyx, self.voxel_size_zyx_um)
        return _triple(low), _triple(high)

    def to_voxel(self, position_zyx_um: ArrayLike) -> NDArray[np.float64]:
        """Positions (..., 3) in um -> continuous voxel coordinates; an integer is a voxel's centre."""
        voxel: NDArray[np.float64] = (np.asarray(position_zyx_um, np.float64) - self.origin_zyx_um) / self.voxel_size_zyx_um
        return voxel

    def to_um(self, voxel_zyx: ArrayLike) -> NDArray[np.float64]:
        """Voxel coordinates (..., 3) -> positions in um; the inverse of `to_voxel`."""
        return np.asarray(voxel_zyx, np.float64) * self.voxel_size_zyx_um + self.origin_zyx_um

    def to_index(self, position_zyx_um: ArrayLike) -> NDArray[np.int64]:
        """Positions (..., 3) in um -> the voxel that holds them: the nearest centre, a tie goes up."""
        return np.floor(self.to_voxel(position_zyx_um) + 0.5).astype(np.int64)

    def contains(self, position_zyx_um: ArrayLike) -> NDArray[np.bool_]:
        """Whether each position (..., 3) in um lies in a voxel of this grid."""
        index = self.to_index(position_zyx_um)
        return np.all((index >= 0) & (index < np.asarray(self.shape_zyx)), axis=-1)

    def crop(self, window: Window) -> Grid:
        """The grid of a half-open voxel box of this grid; its voxels keep their positions."""
        low = tuple(lo for lo, _ in window)
        shape = _as_shape(tuple(hi - lo for lo, hi in window))
        return replace(self, shape_zyx=shape, origin_zyx_um=_triple(self.to_um(low)))

    def binned(self, factor_zyx: Shape, *, partial: Literal["keep", "drop"] = "keep") -> Grid:
        """The grid after averaging blocks of `factor_zyx` voxels.

        A block's centre is the mean of its voxels' centres, so the origin moves by (factor - 1) / 2 voxels. The last, incomplete block
        of an axis is kept (pyramids: nothing may fall off) or dropped (the image service: the size of a ragged block is not defined).
        """
        if partial == "keep":
            shape = tuple(-(-n // f) for n, f in zip(self.shape_zyx, factor_zyx, strict=True))
        else:
            shape = tuple(n // f for n, f in zip(self.shape_zyx, factor_zyx, strict=True))
        size = np.multiply(self.voxel_size_zyx_um, factor_zyx)
        origin = self.to_um((np.asarray(factor_zyx) - 1) / 2)
        return Grid(_as_shape(shape), _triple(size), _triple(origin))

    def picked(self, step_z: int) -> Grid:
        """The grid of every `step_z`-th plane, beginning with plane 0; planes are picked, not averaged, so the origin stays."""
        z, y, x = self.shape_zyx
        size_z, size_y, size_x = self.voxel_size_zyx_um
        return replace(self, shape_zyx=(-(-z // step_z), y, x), voxel_size_zyx_um=(size_z * step_z, size_y, size_x))

    def pyramid(self, *, min_size_px: int = 256) -> list[Grid]:
        """This grid and its coarser levels, until y and x both fit `min_size_px`.

        Each level halves y and x; z is halved too where voxels would otherwise become shorter than they are wide, so they approach cubes.
        """
        levels = [self]
        while max(levels[-1].shape_zyx[1:]) > min_size_px:
            levels.append(levels[-1].binned(levels[-1].next_factor_zyx))
        return levels

    @property
    def next_factor_zyx(self) -> Shape:
        """How the next coarser pyramid level bins this one."""
        size_z, _, size_x = self.voxel_size_zyx_um
        return (2 if size_z < 2 * size_x and self.shape_zyx[0] > 1 else 1, 2, 2)

    def to_dict(self) -> dict[str, list[float] | list[int]]:
        """Plain lists, for attributes and keys."""
        return {
            "shape_zyx": list(self.shape_zyx),
            "voxel_size_zyx_um": list(self.voxel_size_zyx_um),
            "origin_zyx_um": list(self.origin_zyx_um),
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Grid:
        """The inverse of `to_dict`."""
        return cls(tuple(fields["shape_zyx"]), tuple(fields["voxel_size_zyx_um"]), tuple(fields["origin_zyx_um"]))


def stack_grid(n_planes: int, height_px: int, width_px: int, pixel_um: float, plane_um: float) -> Grid:
    """The full-resolution grid of a z-stack: voxel (0, 0, 0) is centred on the origin of the SWC frame."""
    return Grid((n_planes, height_px, width_px), (plane_um, pixel_um, pixel_um))


def download_grid(full: Grid, level: int, z_step: int) -> Grid:
    """The grid of what the image service returns at ``downsample=level`` for every `z_step`-th plane."""
    factor = 2**level
    return full.binned((1, factor, factor), partial="drop").picked(z_step)


def swc_to_stack_um(position_zyx_um: NDArray[np.float64], full: Grid, swc_origin: Literal["centre", "corner"]) -> NDArray[np.float64]:
    """Where SWC positions (n, 3) in um lie on the stack: THE place of the half-voxel question.

    ``centre`` (default of the project): an SWC coordinate that is a whole multiple of the voxel size names a voxel's centre; 243 of
    509 somata lie exactly on the pixel grid and Vaa3D markers are 1-based pixel indices. ``corner``: it names a pixel's corner, as
    Allen's own label code assumes, so that centres lie half a pixel further in y and x.
    """
    if swc_origin == "centre":
        return position_zyx_um
    _, size_y, size_x = full.voxel_size_zyx_um
    shifted: NDArray[np.float64] = position_zyx_um - np.array([0.0, size_y / 2, size_x / 2])
    return shifted


def _as_shape(values: tuple[Any, ...]) -> Shape:
    z, y, x = (int(v) for v in values)
    return (z, y, x)


def _triple(values: ArrayLike) -> Triple:
    z, y, x = np.asarray(values, np.float64).tolist()
    return (z, y, x)
