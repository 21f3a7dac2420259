"""Where the trace is not on its stain: what alignment says of stretches, as places that are unknown (`Reason.MISREGISTERED`)."""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True, slots=True)
class StretchVerdict:
    """What `ALIGNMENT` says of one stretch: verdict, where the stain lies, sideways and axially, um, and how often chance does as well."""

    verdict: Verdict
    shift_um: float = 0.0
    shift_z_um: float = 0.0
    p_value: float = 1.0

    @property
    def is_in_place(self) -> bool:
        """ON or UNCERTAIN, or too faint while no place within 3 um is darker: by a voxel at most, or by two and better than chance.

        Of paths without stain 5 % find their darkest place so near.
        """
        if self.verdict != Verdict.NOT_ON:
            return self.verdict in (Verdict.ON, Verdict.UNCERTAIN)
        reach = 2 if self.p_value <= _FAINT_P else 1
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
        wrong = {k: found for k, found in sorted(verdicts.items()) if found.verdict != Verdict.NO_DATA and not found.is_in_place}
        parts = [cones.take(np.zeros(0, np.int64))]
        for stretch, found in wrong.items():
            own = cones.take(np.flatnonzero(number == stretch))
            parts += [own.grown(NOT_ON_UM)] if found.verdict == Verdict.NOT_ON else _swept(own.grown(_MARGIN_UM), found)
        return cls(joined(parts), cones.take(np.flatnonzero(~np.isin(number, list(wrong)))))

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
