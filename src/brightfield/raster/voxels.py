"""Skeleton + grid -> voxels: the exact union of round cones, connected, classed, and the same in every window. Pure, no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from brightfield.core.errors import GridError
from brightfield.raster import runs as run
from brightfield.raster.cones import Cones, SomaEdges, cones_of, grid_numbers, spans_of
from brightfield.raster.lines import lines_of

if TYPE_CHECKING:
    from brightfield.core.skeleton import Skeleton
    from brightfield.core.space import Grid, Window
    from brightfield.raster.runs import Runs

type Kind = Literal["inside", "semantic", "centerline", "distance"]
type Connect = Literal[6, 26] | None

R_MIN_UM = 0.23
"""Default floor of radii: two full-resolution pixels across make a mask that thin-structure losses can work with."""
BAND_UM = 1.0
"""Default clip of the signed distance."""


def rasterize(
    skeleton: Skeleton,
    grid: Grid,
    kind: Kind = "semantic",
    r_min_um: float = R_MIN_UM,
    soma_edges: SomaEdges = "capsule",
    connect: Connect = 26,
    window: Window | None = None,
    threads: int | None = None,
    *,
    band_um: float = BAND_UM,
) -> NDArray[Any]:
    """The voxels of a skeleton on a grid, or on a window of it: a dense array of the window's shape (z, y, x).

    - kind: ``inside`` uint8 0 or 1; ``semantic`` uint8 codes of `codes.Label`; ``centerline`` the same codes along the axes only, one
      voxel wide; ``distance`` float32 um to the surface, negative inside, clipped to +-`band_um`.
    - r_min_um: floor of radii, um. soma_edges: see `cones.cones_of`.
    - connect: 26 or 6 adds the voxel line that makes one component of each tree, None does not (`centerline`: None means 26; `distance`
      is geometry and has no line).
    - window: half-open voxel box ((z0, z1), (y0, y1), (x0, x1)) of the grid; gives exactly the voxels of the whole.
    - threads: default all cores; changes nothing but the time.

    ``rasterize(skeleton, grid, "inside", r_min_um=0.0, soma_edges="taper", connect=None)`` is the bare definition in `cones`.
    Raises GridError for a window that is not in the grid.
    """
    box = _checked(window, grid)
    if kind == "distance":
        return distance(cones_of(skeleton, r_min_um, soma_edges), grid, box, band_um=band_um, threads=threads)
    runs = label_runs(skeleton, grid, kind, r_min_um, soma_edges, connect, box, threads)
    return run.paint(runs, box)


def label_runs(
    skeleton: Skeleton,
    grid: Grid,
    kind: Kind = "semantic",
    r_min_um: float = R_MIN_UM,
    soma_edges: SomaEdges = "capsule",
    connect: Connect = 26,
    window: Window | None = None,
    threads: int | None = None,
) -> Runs:
    """What `rasterize` paints for every kind but ``distance``, as runs (see `runs`): arguments and rules are the same."""
    if kind not in ("inside", "semantic", "centerline"):
        raise ValueError(f"kind is inside, semantic, centerline or distance, found {kind!r}")
    box = _checked(window, grid)
    cones = cones_of(skeleton, r_min_um, soma_edges)
    none = np.empty((0, 5), np.int32)
    if kind == "centerline":
        return run.settle(run.strokes(none, lines_of(cones, grid, connect or 26, box), len(cones)), cones, grid)
    tubes = spans_of(cones, grid, box, threads=threads)
    lines = none if connect is None else lines_of(cones, grid, connect, box)
    if kind == "inside":
        return run.union(np.concatenate([tubes, lines]), 1)
    return run.settle(run.strokes(tubes, lines, len(cones)), cones, grid)


def distance(cones: Cones, grid: Grid, window: Window, *, band_um: float = BAND_UM, threads: int | None = None) -> NDArray[np.float32]:
    """Signed distance in um to the union of cones, float32, clipped to +-`band_um`: the least of the distances to each cone.

    Outside this is exact. Inside it is minus the depth in the cone that holds the voxel deepest; a joint of cones may be deeper still.
    """
    out = np.full([hi - lo for lo, hi in window], band_um, np.float32)
    lower_to_distance(out, cones, grid, window, band_um=band_um, threads=threads)
    return out


def lower_to_distance(
    out: NDArray[np.float32], cones: Cones, grid: Grid, window: Window, *, band_um: float = BAND_UM, threads: int | None = None
) -> None:
    """The same, in place: lower `out` (the window's shape) to the distances, down to -`band_um`; NaN stays."""
    spans = spans_of(cones.grown(band_um), grid, window, threads=threads)
    run.paint_distance(spans, 0, cones.geometry, grid_numbers(grid), band_um, window[0][0], window[1][0], window[2][0], out)


def _checked(window: Window | None, grid: Grid) -> Window:
    if window is None:
        return grid.window
    if not all(0 <= lo <= hi <= n for (lo, hi), n in zip(window, grid.shape_zyx, strict=True)):
        raise GridError(f"window {window} is not within the grid of shape {grid.shape_zyx}; cut it at the grid's end")
    return window
