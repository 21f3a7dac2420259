"""Somata that are drawn with several nodes and mean one sphere.

neuromorpho.org writes a soma as three points: its centre and two points one radius away on opposite sides, all of that radius; as cylinders
they have the surface of the sphere (neuromorpho.org/SomaFormat.html). Tracing programs write its outline: a contour of nodes without
thickness. Either becomes one node; a soma of real cylinders stays as it is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from brightfield.core.codes import Label
from brightfield.core.skeleton import ROOT, Indices, Reals, Skeleton

TOLERANCE = 0.05
"""Relative to the radius: files are rounded to a few decimals."""

PEN_SHARE = 0.25
"""A node thicker than this share of the outline's radius is no part of an outline."""

ROUND_SHARE = 0.25
"""Least share of its circle's area that an outline encloses: 0 for a line, 0.64 for a square."""

FARTHEST_SHARE = 3.0
"""A point of an outline is at most so many times farther from its middle than the mean, or nearer."""

MIN_OUTLINE = 4
"""Places that an outline passes, at least."""


def with_one_soma(skeleton: Skeleton) -> tuple[Skeleton, NDArray[np.bool_]]:
    """The skeleton with its soma as one sphere where several nodes mean that, and which nodes (n,) were kept.

    What left the soma's other nodes leaves the sphere.
    """
    somata = np.flatnonzero(skeleton.type == Label.SOMA)
    kept = np.ones(len(skeleton), np.bool_)
    if len(somata) < 3 or not _is_one_piece(skeleton, somata):
        return skeleton, kept
    sphere = _three_points(skeleton, somata) or _outline(skeleton, somata)
    if sphere is None:
        return skeleton, kept
    centre, position_zyx_um, radius_um = sphere
    kept[somata] = somata == centre
    return _collapsed(skeleton, somata, centre, position_zyx_um, radius_um, kept), kept


def _is_one_piece(skeleton: Skeleton, somata: Indices) -> bool:
    """Whether the soma's nodes hang together below a root."""
    outside = ~np.isin(skeleton.parent[somata], somata)
    return np.count_nonzero(outside) == 1 and bool((skeleton.parent[somata[outside]] == ROOT).all())


def _three_points(skeleton: Skeleton, somata: Indices) -> tuple[int, Reals, float] | None:
    """The middle one of three nodes of one radius, of which the others are one radius away on opposite sides."""
    if len(somata) != 3:
        return None
    for centre in somata.tolist():
        radius_um = float(skeleton.radius_um[centre])
        others = somata[somata != centre]
        away = skeleton.position_zyx_um[others] - skeleton.position_zyx_um[centre]
        off = [abs(skeleton.radius_um[others] - radius_um), abs(np.linalg.norm(away, axis=1) - radius_um), abs(away.sum(axis=0))]
        if radius_um > 0 and all((value <= TOLERANCE * radius_um).all() for value in off):
            return centre, skeleton.position_zyx_um[centre], radius_um
    return None


def _outline(skeleton: Skeleton, somata: Indices) -> tuple[int, Reals, float] | None:
    """The first node of an outline, the middle of its line, and the mean distance of the line from there."""
    order = somata[np.lexsort((skeleton.node_id[somata], skeleton.depth[somata]))]
    points = skeleton.position_zyx_um[order]
    if len(np.unique(points, axis=0)) < MIN_OUTLINE:
        return None
    step = np.linalg.norm(np.roll(points, -1, axis=0) - points, axis=1)
    weight = (step + np.roll(step, 1)) / (2 * step.sum())
    centre: Reals = weight @ points
    away_um = np.linalg.norm(points - centre, axis=1)
    radius_um = float(weight @ away_um)
    area = np.linalg.norm(np.cross(points - centre, np.roll(points, -1, axis=0) - centre).sum(axis=0)) / 2
    thin = (skeleton.radius_um[order] <= PEN_SHARE * radius_um).all()
    around = (away_um >= radius_um / FARTHEST_SHARE).all() and (away_um <= radius_um * FARTHEST_SHARE).all()
    is_outline = thin and around and area >= ROUND_SHARE * np.pi * radius_um**2
    return (int(order[0]), centre, radius_um) if is_outline else None


def _collapsed(
    skeleton: Skeleton, somata: Indices, centre: int, position_zyx_um: Reals, radius_um: float, kept: NDArray[np.bool_]
) -> Skeleton:
    parent = np.where(np.isin(skeleton.parent, somata), centre, skeleton.parent)
    parent[centre] = ROOT
    index = np.cumsum(kept) - 1
    positions, radii = skeleton.position_zyx_um.copy(), skeleton.radius_um.copy()
    positions[centre], radii[centre] = position_zyx_um, radius_um
    return replace(
        skeleton,
        node_id=skeleton.node_id[kept],
        type=skeleton.type[kept],
        position_zyx_um=positions[kept],
        radius_um=radii[kept],
        parent=np.where(parent == ROOT, ROOT, index[parent])[kept],
    )
