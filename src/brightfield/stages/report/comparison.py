"""Two versions of a cell's labels side by side, in the plane where they differ most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brightfield.core.space import Window
from brightfield.stages.report.pictures import SLICE_PX, Colours, Grey, as_grey, box_about, hatched, tinted
from brightfield.volumes.volume import Volume

_MOST_VOXELS = 64_000_000
_RED = (214, 40, 40)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A cut through z as three pictures (h, w, 3) uint8: labels before, labels after, and in red what differs.

    n_differ, n_voxels: of the whole cell, at `level`. plane: of the finest level.
    """

    before: Colours
    after: Colours
    differing: Colours
    plane: int
    n_differ: int
    n_voxels: int
    level: int


def compare(image: Volume, before: Volume, after: Volume) -> Comparison | None:
    """The plane with the most voxels that differ, about their middle; None where the grids are not the same.

    Voxels are compared at the finest level that has at most 64 million of them.
    """
    if before.grids != after.grids or image.shape != after.shape:
        return None
    level = next((k for k, spec in enumerate(after.specs) if np.prod(spec.shape_zyx) <= _MOST_VOXELS), len(after.specs) - 1)
    differs = _differing(before, after, level)
    z, y, x = _centre(differs)
    steps = [coarse / fine for coarse, fine in zip(after.grids[level].voxel_size_zyx_um, after.grid.voxel_size_zyx_um, strict=True)]
    centre = tuple(min(int((at + 0.5) * step), n - 1) for at, step, n in zip((z, y, x), steps, after.shape, strict=True))
    _, rows, columns = box_about((centre[0], centre[1], centre[2]), after.shape, SLICE_PX)
    plane: Window = ((centre[0], centre[0] + 1), rows, columns)
    grey, old, new = as_grey(image.read(plane), image)[0], before.read(plane)[0], after.read(plane)[0]
    paper = hatched(grey, grey > 0)
    red = _marked(paper, old != new)
    return Comparison(tinted(paper, old), tinted(paper, new), red, centre[0], int(differs.sum()), differs.size, level)


def _differing(before: Volume, after: Volume, level: int) -> NDArray[np.bool_]:
    """Which voxels of a level differ, slab by slab."""
    depth, height, width = after.specs[level].shape_zyx
    slab = after.specs[level].chunk_zyx[0]
    windows: list[Window] = [((z, min(z + slab, depth)), (0, height), (0, width)) for z in range(0, depth, slab)]
    return np.concatenate([before.read(window, level) != after.read(window, level) for window in windows])


def _centre(differs: NDArray[np.bool_]) -> tuple[int, int, int]:
    """The plane with the most, and the voxel in it that is nearest to their median; the middle of the volume where there are none."""
    by_plane = differs.sum(axis=(1, 2))
    if not by_plane.any():
        return (differs.shape[0] // 2, differs.shape[1] // 2, differs.shape[2] // 2)
    z = int(by_plane.argmax())
    found = np.argwhere(differs[z])
    y, x = found[np.abs(found - np.median(found, axis=0)).sum(axis=1).argmin()].tolist()
    return (z, y, x)


def _marked(paper: Grey, where: NDArray[np.bool_]) -> Colours:
    colours: Colours = np.repeat(paper[..., None], 3, axis=-1)
    colours[where] = _RED
    return colours
