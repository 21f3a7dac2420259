"""How far from its stack a skeleton may lie before it is refused: what comes after is bounded by the stack, not by what a file says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from brightfield.core.errors import GridError
from brightfield.core.space import Grid

_FAR = 10
"""Sizes of the stack: a unit misread may put nodes so far outside, and is told better where it is noticed."""
_SMALL_UM = 1000.0
"""A smaller stack, cut out to try something, counts as so large."""


def refuse_far(node_id: NDArray[np.int64], position_zyx_um: NDArray[np.float64], radius_um: NDArray[np.float64], stack: Grid) -> None:
    """Raise GridError where a node lies farther from the stack than ten times the stack's size, or is thicker than the stack is large.

    node_id (n,), position_zyx_um (n, 3) and radius_um (n,) of a skeleton in the stack's frame.
    """
    low, high = np.asarray(stack.extent_zyx_um)
    size_um = max(float((high - low).max()), _SMALL_UM)
    away_um = np.maximum(low - position_zyx_um, position_zyx_um - high).max(axis=1, initial=0.0)
    odd = np.flatnonzero((away_um > _FAR * size_um) | (radius_um > size_um))
    if len(odd):
        z, y, x = position_zyx_um[odd[0]].tolist()
        place = f"z {z:.0f}, y {y:.0f}, x {x:.0f} um with a radius of {radius_um[odd[0]]:.6g} um"
        raise GridError(
            f"node {node_id[odd[0]]} of the SWC lies at {place}, too far out or too thick for a stack of {size_um:.0f} um ({len(odd)} such "
            "node(s)); correct the file or its unit (source.swc_unit), or leave the cell out with source.exclude_ids"
        )
