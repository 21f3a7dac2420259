"""Dark background: the spots that a network takes for neurites and that are none."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from brightfield.built.coverage import Point
from brightfield.core.codes import Label

DARK_RATIO, DARK_SIGMAS = 0.9608, 4.0
"""Dark: intensity below exp(-0.04) of the background, and below it by more than four robust standard deviations."""

_NEIGHBOURS = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)


def dark_spots(image: NDArray[Any], codes: NDArray[Any], clear_zyx: Point) -> Point:
    """(n, 3): voxels of trusted background in which stain-like darkness culminates, in the order of the voxels.

    image: (z, y, x) grey values. codes: labels of the same box. clear_zyx: so many voxels around a spot, all within the box, are background
    too: no tube, no rim, nothing unknown. A spot is dark after averaging 3 x 3 pixels of its plane (below DARK_RATIO of the box's median
    and DARK_SIGMAS robust standard deviations below it), and none of its 26 neighbours is darker: the blur around a neurite, which grows
    towards it, is none.
    """
    smooth = _smooth(image)
    trusted = codes[:, 1:-1, 1:-1] == Label.BACKGROUND
    dark = np.argwhere(trusted & (smooth < _limit(smooth)))
    low, high = np.maximum(clear_zyx - np.array([0, 1, 1]), 1), np.array(smooth.shape) - np.maximum(clear_zyx - np.array([0, 1, 1]), 1)
    dark = dark[((dark >= low) & (dark < high)).all(axis=1)]
    around = dark[:, None] + _NEIGHBOURS
    least = smooth[around[..., 0], around[..., 1], around[..., 2]].min(axis=1, initial=np.iinfo(smooth.dtype).max)
    spots: Point = dark[smooth[tuple(dark.T)] <= least] + np.array([0, 1, 1])
    return spots[[_is_clear(codes, spot, clear_zyx) for spot in spots]] if len(spots) else spots


def _is_clear(codes: NDArray[Any], spot: Point, clear_zyx: Point) -> bool:
    around = tuple(slice(at - n, at + n + 1) for at, n in zip(spot.tolist(), clear_zyx.tolist(), strict=True))
    return not codes[around].any()


def _smooth(image: NDArray[Any]) -> NDArray[np.int32]:
    """(z, y - 2, x - 2): sums over 3 x 3 pixels of each plane."""
    wide = image.astype(np.int32)
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    smooth: NDArray[np.int32] = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    return smooth


def _limit(smooth: NDArray[np.int32]) -> float:
    """What is darker than this is dark. Voxels without a pixel (0) are no background."""
    counts = np.bincount(smooth.reshape(-1))
    counts[0] = 0
    if not counts.any():
        return 0.0
    level = median(np.arange(len(counts)), counts)
    spread = 1.4826 * median(np.abs(np.arange(len(counts)) - level), counts)
    return min(DARK_RATIO * level, level - DARK_SIGMAS * spread)


def median(values: Point, counts: Point) -> int:
    """The (lower) median of whole numbers, from how often each comes: linear, where sorting two million voxels is not."""
    order = np.argsort(values, kind="stable")
    upto = np.cumsum(counts[order])
    return int(values[order][np.searchsorted(upto, (upto[-1] + 1) // 2)])
