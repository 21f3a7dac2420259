"""Where the trace is not on its stain: what alignment says of stretches, as places that are unknown (`Reason.MISREGISTERED`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from brightfield.core.codes import Reason, Verdict
from brightfield.raster.cones import Cones, cones_of, joined, spans_of
from brightfield.raster.runs import Runs, union
from brightfield.raster.sets import without

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from brightfield.core.skeleton import Skeleton
    from brightfield.core.space import Grid

NOT_ON_UM = 3.0
"""A stretch without stain under it is unknown so far around."""
_STEP_UM = 0.3
_MARGIN_UM = 0.3


_FAINT_UM, _FAINT_Z_UM, _FAINT_P = 0.25, 0.6, 0.05
_CHANCE_P, _OTHER_Z_UM = 0.1, 1.3


@dataclass(frozen=True, slots=True)
class StretchVerdict:
    """What `ALIGNMENT` says of one stretch: verdict, where the stain lies, sideways and axially, um, and how often chance does as well."""

    verdict: Verdict
    shift_um: float = 0.0
    shift_z_um: float = 0.0
    p_value: float = 1.0

    @classmethod
    def of(cls, row: Mapping[str, object]) -> StretchVerdict:
        """Of a row of `schema.ALIGNMENT`; what was not measured is 0, and chance does as well always."""
        shift, shift_z, p = (row[name] for name in ("shift_um", "shift_z_um", "p_value"))
        measured = [default if value is None else float(str(value)) for value, default in ((shift, 0.0), (shift_z, 0.0), (p, 1.0))]
        return cls(Verdict(str(row["verdict"])), *measured)

    @property
    def is_in_place(self) -> bool:
        """ON or UNCERTAIN, or too faint while no place within 3 um is darker: by a voxel at most, or by two and better than chance.

        Of paths without stain 5 % find their darkest place so near.
        """
        if self.verdict != Verdict.NOT_ON:
            return self.verdict in (Verdict.ON, Verdict.UNCERTAIN)
        reach = 2 if self.p_value <= _FAINT_P else 1
        return self._is_within(reach)

    @property
    def is_doubtful(self) -> bool:
        """NOT ON while nothing within 3 um is better than chance, or best at the depth of other neurites: of little weight alone."""
        return (self.verdict == Verdict.NOT_ON and self.p_value > _CHANCE_P) or abs(self.shift_z_um) >= _OTHER_Z_UM

    @property
    def is_partly_in_place(self) -> bool:
        """ALONGSIDE, though the best place is the traced one: a part of the stretch has no stain."""
        return self.verdict == Verdict.ALONGSIDE and self._is_within(1)

    def _is_within(self, reach: int) -> bool:
        return abs(self.shift_um) <= reach * _FAINT_UM and abs(self.shift_z_um) <= reach * _FAINT_Z_UM


@dataclass(frozen=True, slots=True)
class Misregistered:
    """Where a cell's trace is not on its stain. places: what is unknown; trusted: the tubes that lie in place and stay as they are."""

    places: Cones
    trusted: Cones

    @classmethod
    def of(cls, skeleton: Skeleton, verdicts: Mapping[int, StretchVerdict], stretch_um: float, r_min_um: float) -> Misregistered:
        """3 um around a stretch that is NOT ON; from the trace to the stain along one that is ALONGSIDE."""
        cones, number = cones_of(skeleton, r_min_um, "capsule"), skeleton.stretches(stretch_um)
        parts, trusted = [cones.take(np.zeros(0, np.int64))], np.ones(len(skeleton), np.bool_)
        for nodes, found in wrong_nodes(skeleton, number, verdicts):
            trusted[nodes] = False
            own = cones.take(nodes)
            parts += [own.grown(NOT_ON_UM)] if found.verdict == Verdict.NOT_ON else _swept(own.grown(_MARGIN_UM), found)
        return cls(joined(parts), cones.take(np.flatnonzero(trusted)))

    def runs(self, grid: Grid) -> Runs:
        """Runs of `Reason.MISREGISTERED` on a grid."""
        if not len(self.places.label):
            return np.empty((0, 5), np.int32)
        places, trusted = (union(spans_of(cones, grid, merge=True, threads=1), 1) for cones in (self.places, self.trusted))
        found = without(places, trusted)
        found[:, 4] = int(Reason.MISREGISTERED)
        return found


def nodes_on(skeleton: Skeleton, verdicts: Mapping[int, StretchVerdict], stretch_um: float) -> NDArray[np.bool_]:
    """(n,) whether the edge of each node lies on its stain; all of them where nothing was measured."""
    number = skeleton.stretches(stretch_um)
    if not verdicts:
        return number >= 0
    return np.isin(number, [stretch for stretch, found in verdicts.items() if found.is_in_place])


def nodes_near(skeleton: Skeleton, verdicts: Mapping[int, StretchVerdict], stretch_um: float) -> NDArray[np.bool_]:
    """(n,) whether the edge of each node has its stain near: those that do not are NOT ON it."""
    lost = [stretch for stretch, found in verdicts.items() if found.verdict == Verdict.NOT_ON and not found.is_in_place]
    return ~np.isin(skeleton.stretches(stretch_um), lost)


def wrong_nodes(
    skeleton: Skeleton, number: NDArray[np.int64], verdicts: Mapping[int, StretchVerdict]
) -> Iterator[tuple[NDArray[np.int64], StretchVerdict]]:
    """The nodes whose edges are not on their stain, stretch by stretch. number: (n,) the stretch of each node.

    A trace that leaves its stain does so for more than a stretch, or leaves a part of it: a doubtful verdict between stretches that are in
    place is none, and of a stretch that is partly in place the half next to one that is wrong is wrong.
    """
    wrong = {k: found for k, found in sorted(verdicts.items()) if found.verdict != Verdict.NO_DATA and not found.is_in_place}
    known = [k for k, found in verdicts.items() if found.verdict != Verdict.NO_DATA]
    before = np.where(skeleton.parent >= 0, number[skeleton.parent], -1)
    joints = np.unique(np.stack([before, number], axis=1)[(before != number) & np.isin(before, known) & np.isin(number, known)], axis=0)
    for stretch, found in wrong.items():
        up, down = joints[joints[:, 1] == stretch, 0].tolist(), joints[joints[:, 0] == stretch, 1].tolist()
        nodes, is_wrong = np.flatnonzero(number == stretch), [any(k in wrong for k in side) for side in (up, down)]
        if found.is_doubtful and up + down and not any(is_wrong):
            continue
        if found.is_partly_in_place and any(is_wrong) and not all(is_wrong):
            nodes = _half(skeleton, nodes, first=is_wrong[0])
        yield nodes, found


def _half(skeleton: Skeleton, nodes: NDArray[np.int64], *, first: bool) -> NDArray[np.int64]:
    """The nodes of a stretch whose edges begin in its first half, or the others."""
    nodes = nodes[np.argsort(skeleton.depth[nodes], kind="stable")]
    along: NDArray[np.float64] = np.cumsum(skeleton.edge_length_um[nodes]) - skeleton.edge_length_um[nodes]
    chosen: NDArray[np.int64] = nodes[(along < along[-1] / 2) == first]
    return chosen


def _swept(cones: Cones, found: StretchVerdict) -> list[Cones]:
    """The cones at every step between the trace and its stain; sideways is to the right of the path as the plane shows it."""
    geometry = cones.geometry
    along = geometry[:, 5:7] - geometry[:, 1:3]
    flat = np.maximum(np.hypot(along[:, 0], along[:, 1]), 1e-9)
    sideways = np.stack([np.zeros(len(flat)), along[:, 1] / flat, -along[:, 0] / flat], axis=1)
    shift = sideways * found.shift_um + np.array([found.shift_z_um, 0.0, 0.0])
    n = max(1, ceil(float(np.hypot(found.shift_um, found.shift_z_um)) / _STEP_UM))
    moved = []
    for share in np.linspace(0.0, 1.0, n + 1).tolist():
        copy = geometry.copy()
        copy[:, 0:3] += share * shift
        copy[:, 4:7] += share * shift
        moved.append(Cones(copy, cones.label, cones.node_id, cones.tree, cones.radius_um))
    return moved
