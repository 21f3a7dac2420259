"""Rendered neurons whose stain is known, small enough for tests."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brightfield.core.codes import Verdict
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid, Shape, download_grid
from brightfield.raster.cones import cones_of, spans_of
from brightfield.raster.runs import paint, union
from brightfield.sources.demo.phantom import ArborPlan, Optics, Phantom, canvas, grow, untraced_axon
from brightfield.sources.demo.rendering import absorbance, render_crop
from brightfield.stages.rasterize.chunks import Boxes
from brightfield.stages.rasterize.evidence import Traced, evidence_of
from brightfield.stages.rasterize.misregistered import StretchVerdict
from brightfield.volumes.pyramid import build_pyramid
from brightfield.volumes.volume import Volume, create_volume, open_volume

LEVEL, Z_STEP = 2, 2
EXTENT = (32.0, 80.0, 80.0)
NOISE = 0.0115
"""Standard deviation of the absorbance of empty tissue."""
R_MIN_UM = 0.23


@lru_cache
def phantom(seed: int = 21, noise: float = 1.0, steep_side: int | None = None, side_um: float = 80.0, axon_um: float = 250.0) -> Phantom:
    """A neuron of dendrites, an axon that nobody traced, specks, a slanting light. noise: how often the usual one."""
    extent = (EXTENT[0], side_um, side_um)
    traced = grow(ArborPlan(seed, extent, n_basal=4, reach_um=side_um / 2, axon_um=30.0))
    axon, optics = untraced_axon(traced, seed + 1, extent, axon_um), Optics.drawn(seed)
    optics = replace(optics, texture=noise, camera=noise, steep_side=steep_side or optics.steep_side)
    return Phantom(traced, *canvas(traced), seed, ((axon, 1.0),), optics=optics, debris_per_mm3=60_000.0)


def grid_of(cell: Phantom) -> Grid:
    return download_grid(cell.grid, LEVEL, Z_STEP)


@lru_cache
def pixels(cell: Phantom) -> NDArray[np.uint8]:
    n_z, n_y, n_x = grid_of(cell).shape_zyx
    return np.stack([render_crop(cell, Z_STEP * z, 0, 0, n_y << LEVEL, n_x << LEVEL, LEVEL) for z in range(n_z)])


def stored(path: Path, voxels: NDArray[np.uint8], grid: Grid, boxes: Boxes, chunk: Shape = (16, 64, 64)) -> Volume:
    volume = create_volume(path, grid.pyramid(), voxels.dtype, chunk_zyx=chunk, shard_zyx=(2 * chunk[0], 2 * chunk[1], 2 * chunk[2]))
    for shard in np.ndindex(volume.spec(0).n_shards_zyx):
        volume.write_dense_shard(0, shard, voxels[tuple(slice(*side) for side in volume.spec(0).shard_window(shard))])
    build_pyramid(volume, boxes)
    return volume


def whole(grid: Grid) -> Boxes:
    return np.array([[side for axis in grid.window for side in axis]], np.int64)


def on_everywhere(skeleton: Skeleton) -> dict[int, StretchVerdict]:
    return {number: StretchVerdict(Verdict.ON) for number in range(int(skeleton.stretches(30.0).max()) + 1)}


def traced_of(skeleton: Skeleton, **options: object) -> Traced:
    return Traced(skeleton, on_everywhere(skeleton), 30.0, R_MIN_UM, **options)  # type: ignore[arg-type]


def stain_of(cell: Phantom) -> NDArray[np.float64]:
    """The absorbance of every voxel without texture and noise."""
    grid = grid_of(cell)
    return np.stack([absorbance(cell, Z_STEP * z, 0, 0, grid.shape_zyx[1:], LEVEL) for z in range(grid.shape_zyx[0])])


def tube(skeletons: list[Skeleton], grid: Grid, more_um: float = 0.0) -> NDArray[np.bool_]:
    spans = [spans_of(cones_of(s, R_MIN_UM, "capsule").grown(more_um), grid, merge=True, threads=1) for s in skeletons]
    return paint(union(np.concatenate(spans), 1), grid.window) > 0


def unexplained_bytes(path: Path) -> bytes:
    """What is unexplained of a stored image of `phantom`: a function that another process can be given."""
    cell = phantom()
    found = evidence_of(open_volume(path), whole(grid_of(cell)), traced_of(cell.skeleton))
    return found.unexplained.tobytes()
