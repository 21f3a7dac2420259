"""How far from its stack a skeleton may lie before it is refused: what comes after is bounded by the stack, not by what a file says."""

from __future__ import annotations

import numpy as np

from brightfield.core.errors import GridError
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid

_FAR = 10
"""Sizes of the stack: a unit misread may put nodes so far outside, and is told better where it is noticed."""
_SMALL_UM = 1000.0
"""A smaller stack, cut out to try something, counts as so large."""
_LONGEST_UM = 1e6
"""One metre: twice the longest neurons of a mouse's brain."""
_BROADEST = 5
"""Squares of the stack's size that all tubes may cover, each laid flat: real neurons cover a hundredth of one."""


def refuse_far(skeleton: Skeleton, stack: Grid) -> None:
    """Raise GridError for a skeleton (in the stack's frame) that is `beyond_reach`."""
    problem = beyond_reach(skeleton, stack)
    if problem:
        raise GridError(f"{problem}; correct the file or its unit (source.swc_unit), or leave the cell out with source.exclude_ids")


def beyond_reach(skeleton: Skeleton, stack: Grid) -> str:
    """What is too large about a skeleton for walks along it to be bounded by its stack; nothing where all is well.

    A node lies farther from the stack than ten times the stack's size, or is thicker than the stack is large; or all edges together are
    longer, or their tubes broader, than any neuron's.
    """
    low, high = np.asarray(stack.extent_zyx_um)
    size_um = max(float((high - low).max()), _SMALL_UM)
    away_um = np.maximum(low - skeleton.position_zyx_um, skeleton.position_zyx_um - high).max(axis=1, initial=0.0)
    odd = np.flatnonzero((away_um > _FAR * size_um) | (skeleton.radius_um > size_um))
    if len(odd):
        z, y, x = skeleton.position_zyx_um[odd[0]].tolist()
        place = f"z {z:.0f}, y {y:.0f}, x {x:.0f} um with a radius of {skeleton.radius_um[odd[0]]:.6g} um"
        return (
            f"node {skeleton.node_id[odd[0]]} of the SWC lies at {place}, too far out or too thick for a stack of {size_um:.0f} um "
            f"({len(odd)} such node(s))"
        )
    width_um = 2 * skeleton.radius_um
    length_um, area_um2 = float(skeleton.edge_length_um.sum()), float((width_um * (width_um + skeleton.edge_length_um)).sum())
    if length_um > _LONGEST_UM or area_um2 > _BROADEST * size_um**2:
        return f"the SWC has {length_um:.6g} um of path that covers {area_um2:.6g} um2, too much for a stack of {size_um:.0f} um"
    return ""
