"""Augmentation that knows micrometres: decided by (seed, epoch, index), stored as a plan, then done.

Geometry: flips, quarter turns in the plane (never into z: planes are farther apart than pixels are wide), small rotations about z, zoom,
elastic deformation within planes. Brightness: more or less stain (Beer-Lambert), uneven illumination, defocus, a missing plane.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from math import ceil, exp, radians
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brightfield.core.errors import ConfigError
from brightfield.core.space import Grid, Window
from brightfield.learn.turn import Turn
from brightfield.learn.warp import Warp

_AUGMENT_STREAM = 0xA9
_ELASTIC_LIMIT = 1 / 12
"""Largest displacement, as a share of the spacing of knots, at which the deformation surely does not fold."""


@dataclass(frozen=True, slots=True)
class Augment:
    """How far augmentation may go. Every number at 0 (or False) switches its part off.

    - flip, quarter_turns: each of the axes, with even chances; turns by 90 degrees only where the patch and its pixels are square.
    - warp: share of patches that are rotated by up to `rotate_deg`, zoomed by up to a factor of ``1 + zoom`` either way, and deformed by
      up to `elastic_um` at knots `elastic_spacing_um` apart.
    - gain: absorbance is multiplied by up to ``1 + gain`` either way.
    - tilt_per_100_um: brightness changes by up to this share over 100 um.
    - defocus: share of patches that are blurred in the plane by a Gaussian of up to `defocus_um`.
    - missing_plane: share of patches that lose a plane: background in the image, unknown in the labels.
    """

    flip: bool = True
    quarter_turns: bool = True
    warp: float = 0.5
    rotate_deg: float = 15.0
    zoom: float = 0.1
    elastic_um: float = 0.5
    elastic_spacing_um: float = 8.0
    gain: float = 0.3
    tilt_per_100_um: float = 0.1
    defocus: float = 0.2
    defocus_um: float = 0.6
    missing_plane: float = 0.1

    def __post_init__(self) -> None:
        for name in ("warp", "defocus", "missing_plane"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"augment.{name} is a share from 0 to 1, found {getattr(self, name)}")
        numbers = [f.name for f in fields(self) if f.name not in ("flip", "quarter_turns")]
        if wrong := [name for name in numbers if not 0 <= getattr(self, name) < np.inf]:
            raise ConfigError(f"augment.{wrong[0]} is a number from 0 on, found {getattr(self, wrong[0])}")
        if self.elastic_um > self.elastic_spacing_um * _ELASTIC_LIMIT:
            limit = self.elastic_spacing_um * _ELASTIC_LIMIT
            raise ConfigError(f"augment.elastic_um is at most {limit:.3g} (a twelfth of elastic_spacing_um), found {self.elastic_um}")

    def plan(self, seed: int, epoch: int, index: int, grid: Grid, window: Window) -> Plan:
        """What is done to the patch at place `index` of an epoch, in whatever process and order that is asked."""
        uniform = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch, index, _AUGMENT_STREAM]))).random
        draws = uniform(16)
        return Plan(
            self._turn(draws[:5], grid, window),
            self._warp(draws[5:8], uniform, grid, window),
            _either_way(self.gain, draws[8]),
            ((2 * draws[9] - 1) * self.tilt_per_100_um, (2 * draws[10] - 1) * self.tilt_per_100_um),
            draws[12] * self.defocus_um if draws[11] < self.defocus else 0.0,
            int(draws[14] * (window[0][1] - window[0][0])) if draws[13] < self.missing_plane else None,
        )

    def _turn(self, draws: NDArray[np.float64], grid: Grid, window: Window) -> Turn:
        _, (y0, y1), (x0, x1) = window
        _, size_y, size_x = grid.voxel_size_zyx_um
        step = 1 if y1 - y0 == x1 - x0 and size_y == size_x else 2
        quarters = int(draws[0] * 4) // step * step if self.quarter_turns else 0
        flips = [self.flip and bool(draw < 0.5) for draw in draws[1:4]]
        return Turn(quarters, (flips[0], flips[1], flips[2]))

    def _warp(self, draws: NDArray[np.float64], uniform: Callable[..., Any], grid: Grid, window: Window) -> Warp:
        low, high = np.array(window).T
        centre = grid.to_um((low + high - 1) / 2).tolist()
        if draws[0] >= self.warp:
            return Warp((centre[0], centre[1], centre[2]))
        # A B-spline needs one knot more than it has intervals on either side; the wider box of a zoomed-out patch is clamped to the last.
        extent = (high - low) * grid.voxel_size_zyx_um
        counts = [ceil(um / self.elastic_spacing_um) + 3 for um in extent]
        knots = (2 * uniform((*counts, 2)) - 1) * self.elastic_um
        angle = radians((2 * draws[1] - 1) * self.rotate_deg)
        return Warp((centre[0], centre[1], centre[2]), angle, _either_way(self.zoom, draws[2]), knots, self.elastic_spacing_um)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What is done to one patch, in this order: gain, warp, defocus, missing plane, tilt, turn.

    gain: factor on the absorbance. tilt_yx: change of brightness over 100 um. defocus_um: standard deviation of the blur.
    missing_plane: the plane, counted within the patch before it is turned.
    """

    turn: Turn
    warp: Warp
    gain: float = 1.0
    tilt_yx: tuple[float, float] = (0.0, 0.0)
    defocus_um: float = 0.0
    missing_plane: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a log."""
        return {
            "quarters": self.turn.quarters,
            "flip_zyx": list(self.turn.flip_zyx),
            "angle_rad": self.warp.angle_rad,
            "zoom": self.warp.zoom,
            "knots_um": self.warp.knots_um.tolist(),
            "spacing_um": self.warp.spacing_um,
            "gain": self.gain,
            "tilt_yx": list(self.tilt_yx),
            "defocus_um": self.defocus_um,
            "missing_plane": self.missing_plane,
        }


def no_change(grid: Grid, window: Window) -> Plan:
    """The plan of a patch that is left as it is."""
    low, high = np.array(window).T
    centre = grid.to_um((low + high - 1) / 2).tolist()
    return Plan(Turn(), Warp((centre[0], centre[1], centre[2])))


def _either_way(amount: float, draw: float) -> float:
    """A factor between 1 / (1 + amount) and 1 + amount, its logarithm uniform."""
    return exp((2 * draw - 1) * float(np.log1p(amount)))
