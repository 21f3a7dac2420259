"""How neurites end: of themselves, cut by a face of the slice, or where nobody traced on. Labels and nodes ask here, so that they agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from brightfield.core.codes import Label, MarkerKind, TipKind
from brightfield.core.markers import Marker, marker_nodes
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid

FACE_PLANES = 3
"""A tip within so many planes of a face was cut there."""


def cut_tips(skeleton: Skeleton, markers: Sequence[Marker], stack: Grid, face_planes: int = FACE_PLANES) -> NDArray[np.int64]:
    """Tips (node indices) that a face of the slice cuts.

    They lie within `face_planes` full-resolution planes of the stack's first or last plane or beyond it, or of the surface that a marker
    of kind 30 tells; 0 planes: none. stack: the full-resolution grid; faces are those of the stack, whatever planes of it were downloaded.
    """
    first, plane_um = stack.origin_zyx_um[0], stack.voxel_size_zyx_um[0]
    last = first + (stack.shape_zyx[0] - 1) * plane_um
    faces = [first, last, *(marker.position_zyx_um[0] for marker in markers if marker.kind == MarkerKind.SOMA_SURFACE)]
    z_um = skeleton.position_zyx_um[skeleton.tips, 0]
    away_um = np.abs(z_um[:, None] - np.array(faces)).min(axis=1)
    near = (away_um <= (face_planes + 1e-6) * plane_um) | (z_um < first) | (z_um > last)
    cut: NDArray[np.int64] = skeleton.tips[near & (face_planes > 0)]
    return cut


def tip_kinds(
    skeleton: Skeleton, markers: Sequence[Marker], stack: Grid, *, face_planes: int = FACE_PLANES, axon_traced: bool = True
) -> list[TipKind | None]:
    """How each node ends, None where it is no tip.

    Cut: a marker of kind 10 says so, or the tip is one of `cut_tips`. Untraced: a marker of kind 20 says so, or it is an axon tip of a cell
    whose axon was not traced (`axon_traced=False`: a dendrite-only reconstruction). A marker outranks geometry.
    """
    marked, _ = marker_nodes(skeleton, markers)
    by_marker = {MarkerKind.CUT_DENDRITE: TipKind.CUT, MarkerKind.UNTRACED_AXON: TipKind.UNTRACED}
    at_face = set(cut_tips(skeleton, markers, stack, face_planes).tolist())
    kinds: list[TipKind | None] = [None] * len(skeleton)
    for tip in skeleton.tips.tolist():
        if tip in marked:
            kinds[tip] = by_marker[MarkerKind(marked[tip])]
        elif tip in at_face:
            kinds[tip] = TipKind.CUT
        elif not axon_traced and skeleton.type[tip] == Label.AXON:
            kinds[tip] = TipKind.UNTRACED
        else:
            kinds[tip] = TipKind.NATURAL
    return kinds
