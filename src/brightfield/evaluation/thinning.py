"""Centrelines of masks, block by block: what clDice counts on a prediction (Shit et al. 2021, arXiv:2003.07311).

The mask is thinned by Lee, Kashyap and Chu's algorithm (1994), as scikit-image has it and as clDice's authors use it. A block is thinned
with a margin around it, so that its centreline is that of the whole mask wherever the mask is thinner than the margin.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brightfield.core.space import Grid, Window

MARGIN_UM = 6.0
"""Twice the radius of the thickest dendrites."""


def thinned(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The centreline of a 3D mask: a thin subset of it with its topology, the same shape. Only the box that holds the mask is worked on."""
    from skimage.morphology import skeletonize

    line = np.zeros(mask.shape, np.bool_)
    if mask.any():
        box = _occupied(mask)
        line[box] = skeletonize(mask[box], method="lee")  # type: ignore[no-untyped-call]  # scikit-image is untyped here
    return line


def widened(window: Window, grid: Grid, margin_um: float = MARGIN_UM) -> Window:
    """A window with a margin on every side, cut at the grid's end."""
    margins = [int(np.ceil(margin_um / size)) for size in grid.voxel_size_zyx_um]
    z, y, x = ((max(lo - margin, 0), min(hi + margin, n)) for (lo, hi), margin, n in zip(window, margins, grid.shape_zyx, strict=True))
    return (z, y, x)


def inner(window: Window, wide: Window) -> tuple[slice, ...]:
    """Where a window lies in an array of a wider one."""
    return tuple(slice(lo - first, hi - first) for (lo, hi), (first, _) in zip(window, wide, strict=True))


def _occupied(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    box = []
    for axis in range(3):
        there = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(int(there[0]), int(there[-1]) + 1))
    return tuple(box)
