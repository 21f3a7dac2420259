"""Planes that show no tissue as it is, by their pixels alone: blank, repeated, under another light, with dead rows (`Reason.BAD_PLANE`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from brightfield.core.space import Shape, Window
    from brightfield.stages.rasterize.chunks import Boxes

LAMP_GREY = 6.0
"""The median of a plane may lie so far from that of its neighbours, of 255."""
_SIDE_PX = 256
_PATCHES = 4
_BLANK_SHARE = 0.25
_REPEATED_SHARE = 0.2
_DEAD_ROWS = 0.02
_LEAST_ROW_PX = 32

type Read = Callable[[Window], NDArray[Any]]


def bad_planes(read: Read, shape_zyx: Shape, boxes: Boxes) -> dict[int, str]:
    """Plane -> what is wrong with it. boxes: what was downloaded; a few squares of each plane are read.

    A plane is blank where pixels beside each other differ by less than a quarter of what they usually do, repeated where it differs
    from the plane before by less than a fifth of what planes usually differ.
    """
    n = shape_zyx[0]
    median, spread, change, dead = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan), np.zeros(n)
    before: dict[tuple[int, int, int, int], NDArray[Any]] = {}
    for plane in range(n):
        patches = {box: read(((plane, plane + 1), box[:2], box[2:]))[0] for box in _squares(boxes, plane)}
        if patches:
            values = [patch.astype(np.float32) for patch in patches.values()]
            median[plane] = np.median(np.concatenate([v.ravel() for v in values]))
            spread[plane] = np.mean([np.abs(np.diff(v, axis=1)).mean() for v in values if v.shape[1] > 1] or [np.nan])
            dead[plane] = np.mean(np.concatenate([_is_dead(v) for v in values]))
            shared = [float(np.abs(patches[k].astype(np.float32) - before[k]).mean()) for k in patches if k in before]
            change[plane] = np.median(shared) if shared else np.nan
        before = patches
    return _judged(median, spread, change, dead)


def _judged(
    median: NDArray[np.float64], spread: NDArray[np.float64], change: NDArray[np.float64], dead: NDArray[np.float64]
) -> dict[int, str]:
    found: dict[int, str] = {}
    seen = np.flatnonzero(~np.isnan(median))
    if len(seen) < 3:
        return found
    usual_spread = float(np.nanmedian(spread))
    usual_change = float(np.nanmedian(change)) if not np.isnan(change).all() else 0.0
    for place, plane in enumerate(seen.tolist()):
        around = np.delete(median[seen[max(place - 3, 0) : place + 4]], min(place, 3))
        if spread[plane] < _BLANK_SHARE * usual_spread:
            found[plane] = "is blank"
        elif change[plane] < _REPEATED_SHARE * usual_change:
            found[plane] = "repeats the plane before"
        elif abs(median[plane] - float(np.median(around))) > LAMP_GREY:
            found[plane] = "is under another light"
        elif dead[plane] > _DEAD_ROWS:
            found[plane] = "has rows of one value"
    return found


def _squares(boxes: Boxes, plane: int) -> list[tuple[int, int, int, int]]:
    """The middles of a few of the largest boxes of this plane, as (y0, y1, x0, x1): the same in planes with the same boxes."""
    here = boxes[(boxes[:, 0] <= plane) & (boxes[:, 1] > plane)][:, 2:]
    size = np.minimum(here[:, 1] - here[:, 0], _SIDE_PX) * np.minimum(here[:, 3] - here[:, 2], _SIDE_PX)
    chosen = here[np.lexsort([here[:, 2], here[:, 0], -size])[:_PATCHES]].tolist()
    return [(*_middle(y0, y1), *_middle(x0, x1)) for y0, y1, x0, x1 in chosen]


def _middle(low: int, high: int) -> tuple[int, int]:
    side = min(high - low, _SIDE_PX)
    start = low + (high - low - side) // 2
    return start, start + side


def _is_dead(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    if values.shape[1] < _LEAST_ROW_PX:
        return np.zeros(len(values), np.bool_)
    found: NDArray[np.bool_] = values.max(axis=1) == values.min(axis=1)
    return found
