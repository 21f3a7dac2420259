"""Grids, windows, sparse volumes and stained tissue: makers and strategies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid, Window
from brightfield.volumes.shards import ArraySpec

if TYPE_CHECKING:
    pass


_SMALL_SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 30), st.integers(1, 30))


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Grids of any spacing that microscopes have, anisotropic, anywhere."""
    size = st.floats(0.05, 5.0)
    origin = st.floats(-1e4, 1e4)
    return Grid(draw(_SMALL_SHAPES), draw(st.tuples(size, size, size)), draw(st.tuples(origin, origin, origin)))


@st.composite
def array_specs(draw: st.DrawFn) -> ArraySpec:
    """Arrays whose chunks and shards divide nothing but each other."""
    chunk = draw(st.tuples(st.integers(1, 7), st.integers(1, 9), st.integers(1, 9)))
    shard = tuple(c * n for c, n in zip(chunk, draw(st.tuples(*[st.integers(1, 3)] * 3)), strict=True))
    dtype = draw(st.sampled_from(["uint8", "uint16", "int16", "float32"]))
    return ArraySpec(draw(_SMALL_SHAPES), chunk, (shard[0], shard[1], shard[2]), np.dtype(dtype), draw(st.sampled_from([0, 7])))


@st.composite
def sparse_voxels(draw: st.DrawFn, spec: ArraySpec) -> NDArray[Any]:
    """A whole array of `spec`: boxes of one value and of noise in the fill value."""
    voxels = np.full(spec.shape_zyx, spec.fill_value, spec.dtype)
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    for _ in range(draw(st.integers(0, 4))):
        box = tuple(slice(*sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n))))) for n in spec.shape_zyx)
        constant = draw(st.booleans())
        voxels[box] = draw(st.integers(0, 255)) if constant else noise.integers(0, 255, voxels[box].shape)
    return voxels


@st.composite
def grids_within(draw: st.DrawFn, reach_um: float) -> Grid:
    """Small, mostly anisotropic grids over a part of the space between 0 and `reach_um`."""
    size_z = draw(st.sampled_from([0.28, 0.5, 1.12, 2.0]) | st.floats(0.2, 3.0))
    size_xy = draw(st.sampled_from([0.1144, 0.2288, 0.5, 1.0]) | st.floats(0.1, 3.0))
    origin = draw(st.tuples(*[st.sampled_from([0.0, -3.0]) | st.floats(-5.0, reach_um - 3.0)] * 3))
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 24), st.integers(1, 24)))
    return Grid(shape, (size_z, size_xy, size_xy), origin)


@st.composite
def windows(draw: st.DrawFn, grid: Grid) -> Window:
    """Any box of voxels of a grid, empty ones too."""
    (z0, z1), (y0, y1), (x0, x1) = (sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in grid.shape_zyx)
    return ((z0, z1), (y0, y1), (x0, x1))


def stain(skeleton: Skeleton, grid: Grid, seed: int = 0, *, darkness: float = 0.5, noise: float = 2.3) -> NDArray[np.uint8]:
    """A quick picture of a stained skeleton on a small grid: Gaussian tubes in noisy tissue of grey 189."""
    absorbed = np.zeros(grid.shape_zyx)
    for parent, child in skeleton.edges.tolist():
        start, end = skeleton.position_zyx_um[[parent, child]]
        radius = max(float(skeleton.radius_um[child]), 0.3)
        for share in np.linspace(0, 1, int(skeleton.edge_length_um[child] / 0.25) + 2):
            _darken(absorbed, grid, start + share * (end - start), np.array([0.7, radius, radius]), darkness)
    for index in np.flatnonzero(skeleton.type == 1):
        _darken(absorbed, grid, skeleton.position_zyx_um[index], np.full(3, skeleton.radius_um[index] / 1.5), 2.0)
    random = np.random.Generator(np.random.PCG64(seed))
    grey = 189 * np.exp(-absorbed) + noise * random.standard_normal(grid.shape_zyx)
    return np.clip(np.round(grey), 0, 255).astype(np.uint8)


def _darken(absorbed: NDArray[np.float64], grid: Grid, centre: NDArray[np.float64], sigma_um: NDArray[np.float64], peak: float) -> None:
    low = np.maximum(grid.to_index(centre - 3 * sigma_um), 0)
    high = np.minimum(grid.to_index(centre + 3 * sigma_um) + 1, grid.shape_zyx)
    if (low < high).all():
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        axes = np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij")
        away = (grid.to_um(np.stack(axes, axis=-1)) - centre) / sigma_um
        absorbed[box] = np.maximum(absorbed[box], peak * np.exp(-0.5 * (away**2).sum(axis=-1)))
