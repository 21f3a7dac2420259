"""The paths that alignment is measured along: stretches of a skeleton between its branches, as samples with a sideways direction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from brightfield.core.skeleton import ROOT, Skeleton

type Reals = NDArray[np.float64]

SAMPLE_UM = 0.5
LEAST_PATH_UM = 10.0
"""A shorter stretch is judged together with the path that leads to it: too few samples prove nothing."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Samples every `SAMPLE_UM`: position (m, 3) um, sideways unit vector (m, 2) in (y, x), tube radius (m,) um.

    nodes: indices of the nodes whose edges it follows.
    """

    number: int
    label: int
    nodes: list[int]
    length_um: float
    position: Reals
    normal: Reals
    radius: Reals

    def moved(self, position: Reals, normal: Reals) -> Stretch:
        """The same stretch at another place."""
        return Stretch(self.number, self.label, self.nodes, self.length_um, position, normal, self.radius)


def stretches_of(skeleton: Skeleton, stretch_um: float, r_min_um: float) -> Iterator[Stretch]:
    """The stretches of a skeleton, about `stretch_um` long, by their number; radii are at least `r_min_um`."""
    number = skeleton.stretches(stretch_um)
    order = np.lexsort((skeleton.node_id, skeleton.depth, number))
    order = order[number[order] >= 0]
    for nodes in np.split(order, np.flatnonzero(np.diff(number[order])) + 1):
        if len(nodes):
            yield _path(skeleton, nodes, int(number[nodes[0]]), r_min_um)


def _path(skeleton: Skeleton, nodes: NDArray[np.int64], number: int, r_min_um: float) -> Stretch:
    length_um = float(np.add.accumulate(skeleton.edge_length_um[nodes])[-1])
    chain = _lengthened(skeleton, nodes)
    corner = skeleton.position_zyx_um[chain]
    radius = np.maximum(skeleton.radius_um[chain], r_min_um)
    radius[0] = min(radius[0], radius[1])  # a neurite does not begin as wide as the soma
    arc = np.append(0.0, np.add.accumulate(skeleton.edge_length_um[chain[1:]]))
    m = max(1, round(arc[-1] / SAMPLE_UM))
    at = (np.arange(m) + 0.5) * (arc[-1] / m)
    position = _along(arc, corner, at)
    ahead = _along(arc, corner, np.minimum(at + 1.0, arc[-1])) - _along(arc, corner, np.maximum(at - 1.0, 0.0))
    outside = _outside_soma(skeleton, position)
    label = int(skeleton.label[nodes[0]])
    return Stretch(number, label, chain[1:], length_um, position[outside], _sideways(ahead)[outside], np.interp(at, arc, radius)[outside])


def _lengthened(skeleton: Skeleton, nodes: NDArray[np.int64]) -> list[int]:
    """The nodes of a stretch from its first edge's parent on; with what leads to it, or follows, where it is shorter than LEAST_PATH_UM."""
    chain = [int(skeleton.parent[nodes[0]]), *nodes.tolist()]
    visible_um = float(np.add.accumulate(skeleton.edge_length_um[chain[1:]])[-1])
    if skeleton.parent[chain[0]] == ROOT:
        visible_um -= float(skeleton.radius_um[chain[0]])
    while visible_um < LEAST_PATH_UM and skeleton.parent[chain[0]] != ROOT:
        visible_um += float(skeleton.edge_length_um[chain[0]])
        chain.insert(0, int(skeleton.parent[chain[0]]))
    while visible_um < LEAST_PATH_UM and skeleton.n_children[chain[-1]]:
        chain.append(skeleton.first_child[chain[-1]])
        visible_um += float(skeleton.edge_length_um[chain[-1]])
    return chain


def _along(arc: Reals, corner: Reals, at: Reals) -> Reals:
    return np.stack([np.interp(at, arc, corner[:, axis]) for axis in range(3)], axis=1)


def _sideways(ahead: Reals) -> Reals:
    """In-plane unit vectors across the path, (y, x); where the path runs along z, the last one before."""
    normal = np.empty((len(ahead), 2))
    last = (1.0, 0.0)
    for i, (z, y, x) in enumerate(ahead.tolist()):
        flat = sqrt(y * y + x * x)
        if flat > 0.3 * abs(z) and flat > 0:
            last = (x / flat, -y / flat)
        normal[i] = last
    return normal


def _outside_soma(skeleton: Skeleton, position: Reals) -> NDArray[np.bool_]:
    if skeleton.soma is None:
        return np.ones(len(position), np.bool_)
    away = position - skeleton.position_zyx_um[skeleton.soma]
    inside: NDArray[np.bool_] = (away * away).sum(axis=1) <= skeleton.radius_um[skeleton.soma] ** 2
    return ~inside
