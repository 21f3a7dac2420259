"""The paths that alignment is measured along: stretches of a skeleton between its branches, as samples with a sideways direction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.core.skeleton import ROOT, Indices, Skeleton

type Reals = NDArray[np.float64]

SAMPLE_UM = 0.5
LEAST_PATH_UM = 10.0
"""A shorter stretch is judged together with the path that leads to it: too few samples prove nothing."""

_AHEAD_UM = 1.0


@dataclass(frozen=True, slots=True)
class Stretch:
    """Samples every `SAMPLE_UM`: position (m, 3) um, sideways unit vector (m, 2) in (y, x), tube radius (m,) um.

    nodes: indices of the nodes whose edges it follows. wall: (m,) um by which the tube is thicker than the thinnest that is drawn.
    """

    number: int
    label: int
    nodes: Indices
    length_um: float
    position: Reals
    normal: Reals
    radius: Reals
    wall: Reals

    def moved(self, position: Reals, normal: Reals) -> Stretch:
        """The same stretch at another place."""
        return Stretch(self.number, self.label, self.nodes, self.length_um, position, normal, self.radius, self.wall)


def stretches_of(skeleton: Skeleton, stretch_um: float, r_min_um: float) -> Iterator[Stretch]:
    """The stretches of a skeleton, about `stretch_um` long, by their number; radii are at least `r_min_um`."""
    number = skeleton.stretches(stretch_um)
    order = np.lexsort((skeleton.node_id, skeleton.depth, number))
    order = order[number[order] >= 0]
    if not len(order):
        return
    tree = (skeleton.parent, skeleton.n_children, skeleton.first_child)
    shape = (skeleton.position_zyx_um, skeleton.radius_um, skeleton.edge_length_um)
    soma = -1 if skeleton.soma is None else skeleton.soma
    first = np.append(np.flatnonzero(np.diff(number[order], prepend=-1)), len(order)).tolist()
    for low, high in pairwise(first):
        nodes = order[low:high]
        chain, length_um, position, normal, radius = _path_kernel(nodes, *tree, *shape, soma, r_min_um)
        label = int(skeleton.label[nodes[0]])
        yield Stretch(int(number[nodes[0]]), label, chain[1:], length_um, position, normal, radius, radius - r_min_um)


# ---------------------------------------------------------------------------------------------------------------------------------- kernels


@njit(cache=True, nogil=True)
def _path_kernel(  # type: ignore[no-untyped-def]  # numba infers the types, here and below
    nodes, parent, n_children, first_child, node_position, node_radius, edge_um, soma, r_min_um
):
    """The chain of nodes that a stretch is measured along (parents first), its own length, and its samples outside the soma."""
    length_um = 0.0
    for node in nodes:
        length_um += edge_um[node]
    chain = _lengthened(nodes, length_um, parent, n_children, first_child, node_radius, edge_um)
    arc = np.zeros(len(chain))
    for i in range(1, len(chain)):
        arc[i] = arc[i - 1] + edge_um[chain[i]]
    radius = np.maximum(node_radius[chain], r_min_um)
    radius[0] = min(radius[0], radius[1])  # a neurite does not begin as wide as the soma
    position, normal, wall = _sampled(arc, node_position[chain], radius)
    n = 0
    for i in range(len(position)):
        if soma < 0 or not _within(position[i], node_position[soma], node_radius[soma]):
            position[n], normal[n], wall[n] = position[i], normal[i], wall[i]
            n += 1
    return chain, length_um, position[:n].copy(), normal[:n].copy(), wall[:n].copy()


@njit(cache=True, nogil=True)
def _within(position, centre, radius):  # type: ignore[no-untyped-def]
    z, y, x = position[0] - centre[0], position[1] - centre[1], position[2] - centre[2]
    return z * z + y * y + x * x <= radius * radius


@njit(cache=True, nogil=True)
def _lengthened(nodes, length_um, parent, n_children, first_child, radius, edge_um):  # type: ignore[no-untyped-def]
    """The nodes of a stretch from its first edge's parent on; with what leads to it, or follows, where it is shorter than LEAST_PATH_UM."""
    before = [parent[nodes[0]]]
    visible_um = length_um
    if parent[before[-1]] == ROOT:
        visible_um -= radius[before[-1]]
    while visible_um < LEAST_PATH_UM and parent[before[-1]] != ROOT:
        visible_um += edge_um[before[-1]]
        before.append(parent[before[-1]])
    after = [nodes[-1]]
    while visible_um < LEAST_PATH_UM and n_children[after[-1]]:
        after.append(first_child[after[-1]])
        visible_um += edge_um[after[-1]]
    chain = np.empty(len(before) + len(nodes) + len(after) - 1, np.int64)
    for i in range(len(before)):
        chain[i] = before[len(before) - 1 - i]
    chain[len(before) : len(before) + len(nodes)] = nodes
    for i in range(1, len(after)):
        chain[len(before) + len(nodes) + i - 1] = after[i]
    return chain


@njit(cache=True, nogil=True)
def _sampled(arc, corner, radius):  # type: ignore[no-untyped-def]
    """Position (m, 3), sideways unit vector (m, 2) and radius (m,) of samples evenly along a path with corners at the lengths `arc`.

    Where the path runs along z it has no side in the plane; the last one before stands for it.
    """
    end = arc[-1]
    m = max(1, int(np.rint(end / SAMPLE_UM)))
    position, normal, wall = np.empty((m, 3)), np.empty((m, 2)), np.empty(m)
    side_y, side_x = 1.0, 0.0
    here = behind = before = 0
    for i in range(m):
        at = (i + 0.5) * (end / m)
        here = _segment(arc, here, at)
        behind = _segment(arc, behind, max(at - _AHEAD_UM, 0.0))
        before = _segment(arc, before, min(at + _AHEAD_UM, end))
        ahead = np.empty(3)
        for axis in range(3):
            position[i, axis] = _interpolated(arc, corner[:, axis], here, at)
            low = _interpolated(arc, corner[:, axis], behind, max(at - _AHEAD_UM, 0.0))
            ahead[axis] = _interpolated(arc, corner[:, axis], before, min(at + _AHEAD_UM, end)) - low
        wall[i] = _interpolated(arc, radius, here, at)
        flat = np.sqrt(ahead[1] * ahead[1] + ahead[2] * ahead[2])
        if flat > 0.3 * abs(ahead[0]) and flat > 0:
            side_y, side_x = ahead[2] / flat, -ahead[1] / flat
        normal[i, 0], normal[i, 1] = side_y, side_x
    return position, normal, wall


@njit(cache=True, nogil=True)
def _segment(arc, first, at):  # type: ignore[no-untyped-def]
    """The last corner, from `first` on, that is not farther along than `at`."""
    while first + 1 < len(arc) and arc[first + 1] <= at:
        first += 1
    return first


@njit(cache=True, nogil=True)
def _interpolated(arc, value, corner, at):  # type: ignore[no-untyped-def]
    """Linear between a corner and the next, written as numpy.interp has it."""
    if corner == len(arc) - 1 or arc[corner] == at:
        return value[corner]
    slope = (value[corner + 1] - value[corner]) / (arc[corner + 1] - arc[corner])
    return slope * (at - arc[corner]) + value[corner]
