"""The tube fitted to its stain: the traced tube, moved to the ridge of stain beside it by simple points alone (`labels.tube=fitted`).

The axes are moved first (`ridge.py`), radii corrected where the stain tells them (`calibre.py`), and both drawn. Then the traced tube is
grown along the way there and shrunk to what was drawn, voxel by voxel, each a simple point (`raster/warp.py`). So every level has the
components, loops and cavities of the traced tube, whatever was found in the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from brightfield.core.codes import Label
from brightfield.core.errors import CheckError
from brightfield.raster.cones import Cones, joined, spans_of
from brightfield.raster.lines import lines_of
from brightfield.raster.runs import Runs, in_row_order, settle, strokes, union
from brightfield.raster.sets import clipped, n_voxels, without
from brightfield.raster.topology import component_count
from brightfield.raster.warp import warped
from brightfield.stages.rasterize.plan import TubeChange

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from brightfield.core.skeleton import Skeleton
    from brightfield.core.space import Grid
    from brightfield.stages.rasterize.joints import Joints

_MOST_WAYPOINTS = 8
"""Between the trace and its ridge a piece is drawn so often at most: once per voxel that it moves, in halves, quarters or eighths."""
_NONE: Runs = np.empty((0, 5), np.int32)


@dataclass(frozen=True, slots=True)
class DrawnTube:
    """The tube on one grid. classes: runs of class codes. removed: runs of the traced tube that are not in this one."""

    classes: Runs
    removed: Runs
    change: TubeChange


@dataclass(frozen=True, eq=False)
class FittedTube:
    """A tube whose joints are moved. offset_um: (n, 3) of each joint; factor: (n,) of its radius."""

    joints: Joints
    offset_um: NDArray[np.float64]
    factor: NDArray[np.float64]

    @cached_property
    def _moves(self) -> NDArray[np.bool_]:
        """(n,) the joints whose edge has a joint that moves, or changes its radius."""
        changed = np.any(self.offset_um != 0, axis=1) | (self.factor != 1)
        changed |= changed[np.where(self.joints.up < 0, np.arange(len(changed)), self.joints.up)]
        edges = np.zeros(len(self.joints.cones), np.bool_)
        edges[self.joints.node[changed]] = True
        found: NDArray[np.bool_] = edges[self.joints.node]
        return found

    @cached_property
    def cones(self) -> Cones:
        """The moved cones; edges that do not move as one cone each, as they were."""
        stays = np.ones(len(self.joints.cones), np.bool_)
        stays[self.joints.node[self._moves]] = False
        return joined([self.joints.cones.take(stays), self.joints.moved(self.offset_um, self.factor, self._moves)])

    def like(self, some: Cones) -> Cones:
        """Of the moved cones those of the edges that are in `some`, which are cones of the skeleton."""
        return self.cones.take(np.isin(self.cones.node_id, some.node_id))

    def skeleton(self, traced: Skeleton) -> Skeleton:
        """The traced skeleton with its nodes where their joints are now."""
        return traced.moved_to(traced.position_zyx_um + self.offset_um[: len(traced)])

    def drawn(self, traced: Runs, grid: Grid, connect: int) -> DrawnTube:
        """The tube on a grid. traced: spans of the traced tube and of its connecting lines there, cones in the last column."""
        source = union(traced, 1)
        target = settle(_strokes(self.cones, grid, connect), self.cones, grid)
        ways = [(cones, _spans(cones, grid, connect)) for cones in self._waypoints(grid)]
        room = union(np.concatenate([_NONE, *(union(spans, 1) for _, spans in ways)]), 1)
        found = warped(source, target, room, connect)
        parts = [clipped(target, found)]
        if len(rest := without(found, target)):
            parts.append(_nearest(rest, [(self.joints.cones, traced), *ways], grid))
        classes, removed = in_row_order(np.concatenate(parts)), without(source, found)
        _refuse_torn(component_count(found, connect), component_count(source, connect))
        return DrawnTube(classes, removed, _change(source, classes, removed))

    def _waypoints(self, grid: Grid) -> list[Cones]:
        """The moving pieces at places between the trace and the ridge, so that each moves by about a voxel from one to the next."""
        up = np.where(self.joints.up < 0, np.arange(len(self.joints)), self.joints.up)
        voxels = np.abs(self.offset_um / np.array(grid.voxel_size_zyx_um)).max(axis=1)
        steps = np.maximum(voxels, voxels[up])
        n = np.where(steps <= 1, 1, np.where(steps <= 2, 2, np.where(steps <= 4, 4, _MOST_WAYPOINTS)))
        found = []
        for k in range(1, _MOST_WAYPOINTS):
            among = self._moves & (n * k % _MOST_WAYPOINTS == 0)
            if among.any():
                share = k / _MOST_WAYPOINTS
                found.append(self.joints.moved(share * self.offset_um, 1 + share * (self.factor - 1), among))
        return found


def _refuse_torn(n_now: int, n_traced: int) -> None:
    """The components are those of the traced tube by construction; should they not be, nobody may learn from the label."""
    if n_now != n_traced:
        message = f"the fitted tube has {n_now} components, the traced one {n_traced}"
        raise CheckError(f"{message}; please report it with the SWC file, and set labels.tube=traced until then")


def _change(traced: Runs, classes: Runs, removed: Runs) -> TubeChange:
    n_traced, n_removed, n_soma = n_voxels(traced), n_voxels(removed), n_voxels(classes[classes[:, 4] == Label.SOMA])
    n_kept, n_now = n_traced - n_removed, n_voxels(classes)
    return TubeChange(n_now - n_kept, n_removed, 2 * (n_kept - n_soma) / max(n_traced + n_now - 2 * n_soma, 1))


def _spans(cones: Cones, grid: Grid, connect: int) -> Runs:
    return np.concatenate([spans_of(cones, grid, threads=1), lines_of(cones, grid, connect)])


def _strokes(cones: Cones, grid: Grid, connect: int) -> Runs:
    return strokes(spans_of(cones, grid, threads=1), lines_of(cones, grid, connect), len(cones))


def _nearest(runs: Runs, drawn: list[tuple[Cones, Runs]], grid: Grid) -> Runs:
    """Runs of the class of the nearest axis, among all cones that were drawn over a voxel."""
    first = np.cumsum([0, *(len(cones) for cones, _ in drawn)])
    low, high = runs[:, :2].min(axis=0), runs[:, :2].max(axis=0)
    rows = np.zeros(high - low + 1, np.bool_)
    rows[tuple((runs[:, :2] - low).T)] = True
    parts = []
    for number, (_, spans) in enumerate(drawn):
        here = spans[np.all((spans[:, :2] >= low) & (spans[:, :2] <= high), axis=1)]
        here = here[rows[tuple((here[:, :2] - low).T)]]
        here[:, 4] += np.int32(first[number])
        parts.append(here)
    cones = joined([cones for cones, _ in drawn])
    return clipped(settle(strokes(_NONE, np.concatenate(parts), len(cones)), cones, grid), runs)
