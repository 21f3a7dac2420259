"""What the image and the alignment say about voxels: the reasons why some are unknown, in runs for any level of the labels.

Works on the level of the image whose voxels are at most half a um wide, plane by plane, so cost and memory follow what was downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from brightfield.core.codes import Finding, Reason, Severity
from brightfield.core.skeleton import norm
from brightfield.raster.cones import Cones, cones_of, shell_spans_of
from brightfield.raster.runs import Runs, in_row_order, planes_of, union
from brightfield.stages.rasterize.calibre import GROUP_UM, radius_factors
from brightfield.stages.rasterize.chunks import coarser
from brightfield.stages.rasterize.joints import Joints
from brightfield.stages.rasterize.misregistered import Misregistered, StretchVerdict, nodes_near, nodes_on
from brightfield.stages.rasterize.planes import bad_planes
from brightfield.stages.rasterize.predicted import Held, Predicted, Shown
from brightfield.stages.rasterize.ridge import RidgeFit, moves_to_ridge
from brightfield.stages.rasterize.somata import Body, body_of, body_runs, shell_runs
from brightfield.stages.rasterize.staining import fitted
from brightfield.stages.rasterize.tube import FittedTube
from brightfield.stages.rasterize.unexplained import Disc, RidgeRules, long_objects, ridges, widened

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from brightfield.core.skeleton import Skeleton
    from brightfield.core.space import Grid, Window
    from brightfield.stages.rasterize.chunks import Boxes
    from brightfield.volumes.volume import Volume

LEAST_IOU = 0.6
"""A soma that overlaps its dark body less is a finding."""
WORK_UM = 0.5
"""Width of the widest voxels that stain is searched on: thinner neurites blur to about this."""
LARGEST_UM = 1.0
"""Thin stain cannot be seen in voxels wider than this."""
_SOMA_REACH = 1.2
"""Joints stay where they are within so many radii of the soma's middle: no ridge stands out there."""
_BESIDE_UM, _ABOVE_UM = 0.37, 0.84
"""Around the drawn tube and its radius: no stain is unexplained so near a trace."""
_HELD_BYTES = 2**27
"""Of pixels, and again of what is made of planes: a cell is looked at several times."""
_NONE: Runs = np.empty((0, 5), np.int32)


@dataclass(frozen=True, slots=True)
class Traced:
    """What is known of a cell before its image is looked at. verdicts: by number of the stretches of `stretch_um`.

    to_fit: the cones of the skeleton that are to be fitted to their stain; None: tubes stay as traced.
    """

    skeleton: Skeleton
    verdicts: Mapping[int, StretchVerdict]
    stretch_um: float
    r_min_um: float
    soma_from_image: bool = False
    to_fit: Cones | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was found. unexplained: runs of 1 on `grid`, a level of the image. bad_planes: of the finest level, with what is wrong.

    tube: fitted to its stain; None where tubes stay as traced.
    """

    traced: Traced
    grid: Grid
    unexplained: Runs
    misregistered: Misregistered
    body: Body | None
    bad_planes: Mapping[int, str]
    findings: tuple[Finding, ...]
    tube: FittedTube | None = None

    def reasons(self, grid: Grid) -> Runs:
        """Runs of `Reason` bits on a level of the labels."""
        parts = [
            (moved(self.unexplained, self.grid, grid), Reason.UNEXPLAINED),
            (self._shell(grid), Reason.SOMA_UNCERTAIN),
        ]
        found = [union(spans, int(reason)) for spans, reason in parts if len(spans)]
        return np.concatenate([_NONE, *found, self.misregistered.runs(grid)])

    def soma(self, grid: Grid) -> Runs:
        """Runs of `Label.SOMA` to be drawn beside the sphere: the dark body, where the soma's label is taken from the image."""
        return body_runs(self.body, grid) if self.body is not None and self.traced.soma_from_image else _NONE

    def _shell(self, grid: Grid) -> Runs:
        if self.body is None:
            return _NONE
        cones = cones_of(self.traced.skeleton, self.traced.r_min_um, "capsule") if self.tube is None else self.tube.cones
        return shell_runs(self.body, cones, grid, outer=not self.traced.soma_from_image)


def evidence_of(image: Volume, boxes: Boxes, traced: Traced) -> Evidence:
    """Look at one cell. boxes: what was downloaded, in voxels of the image's finest level."""
    level = _work_level(image)
    grid, slabs = image.grids[level], _Slabs(image, level)
    wrong = bad_planes(image.read if level else slabs.read, image.grid.shape_zyx, boxes)
    planes = _Planes(slabs, boxes, frozenset(wrong))
    misregistered = Misregistered.of(traced.skeleton, traced.verdicts, traced.stretch_um, traced.r_min_um)
    is_fine = grid.voxel_size_zyx_um[2] <= LARGEST_UM
    body = body_of(traced.skeleton, grid, planes.read, planes.known) if is_fine else None
    tube = fitted_tube(planes, grid, traced) if is_fine else None
    if tube is not None:
        misregistered = replace(misregistered, trusted=tube.like(misregistered.trusted))
    found = unexplained_runs(planes, grid, traced, body, RidgeRules(), tube) if is_fine else _NONE
    findings = tuple(_findings(grid, wrong, body, to_fit=traced.to_fit is not None))
    return Evidence(traced, grid, found, misregistered, body, wrong, findings, tube)


def _findings(grid: Grid, wrong: Mapping[int, str], body: Body | None, *, to_fit: bool) -> Iterator[Finding]:
    for plane, what in sorted(wrong.items()):
        yield Finding(Severity.WARNING, "bad-plane", f"plane {plane} {what}", remedy="its voxels are unknown")
    if grid.voxel_size_zyx_um[2] > LARGEST_UM:
        message = f"voxels are {grid.voxel_size_zyx_um[2]:.2f} um wide: stain that nobody traced cannot be told from background"
        remedy = f"choose an image.level whose voxels are at most {LARGEST_UM:.0f} um wide, or trust no background near the cell"
        yield Finding(Severity.WARNING, "too-coarse-for-stain", message, remedy=remedy)
        if to_fit:
            message = f"voxels are {grid.voxel_size_zyx_um[2]:.2f} um wide: the tube cannot be fitted to its stain, and is as traced"
            remedy = f"choose an image.level whose voxels are at most {LARGEST_UM:.0f} um wide, or labels.tube=traced"
            yield Finding(Severity.WARNING, "tube-as-traced", message, remedy=remedy)
    if body is not None and body.iou < LEAST_IOU:
        message = f"the soma's sphere and the dark body around it overlap by {body.iou:.2f} (intersection over union) in the middle plane"
        yield Finding(Severity.WARNING, "soma-outline", message, remedy="what lies between them is unknown; see labels.soma=image")


def fitted_tube(planes: _Planes, grid: Grid, traced: Traced) -> FittedTube | None:
    """The tube where its stain is; None where it stays as traced. What is NOT ON its stain stays, and what lies in the soma."""
    if traced.to_fit is None or not planes.usable:
        return None
    joints, skeleton = Joints.of(traced.skeleton, traced.to_fit), traced.skeleton
    movable = nodes_near(skeleton, traced.verdicts, traced.stretch_um)[joints.node]
    if skeleton.soma is not None:
        away = norm(joints.position_zyx_um - skeleton.position_zyx_um[skeleton.soma])
        movable &= away > _SOMA_REACH * skeleton.radius_um[skeleton.soma]
    moves = moves_to_ridge(joints, movable, grid, planes.shown, planes.usable, RidgeFit())
    group = np.where(movable, skeleton.stretches(GROUP_UM)[joints.node], -1)
    return FittedTube(joints, moves, radius_factors(joints, moves, group, grid, planes.shown, planes.usable))


def unexplained_runs(
    planes: _Planes, grid: Grid, traced: Traced, body: Body | None, rules: RidgeRules, tube: FittedTube | None = None
) -> Runs:
    """Runs of 1 where stain is not explained by the skeleton, on `grid`; tube: where its edges are, if not as traced."""
    if not planes.usable:
        return _NONE
    on = nodes_on(traced.skeleton, traced.verdicts, traced.stretch_um)
    skeleton = traced.skeleton if tube is None else tube.skeleton(traced.skeleton)
    stain = fitted(skeleton, grid, on, planes.shown, planes.usable, body)
    near = cones_of(skeleton, traced.r_min_um, "capsule").grown(_BESIDE_UM)
    beside = union(shell_spans_of(near, _ABOVE_UM, grid, threads=1), 1)
    predicted, soma = Predicted(stain, planes.shown, planes.usable), _disc(traced.skeleton, grid)
    found = [ridges(predicted, planes.shown(z), planes.grey(z), z, planes_of(beside, z, z + 1), soma, rules) for z in planes.usable]
    return widened(long_objects(np.concatenate(found), grid, rules), grid, rules.margin_um)


def _disc(skeleton: Skeleton, grid: Grid) -> Disc:
    if skeleton.soma is None:
        return (0.0, 0.0, 0.0)
    _, y, x = grid.to_voxel(skeleton.position_zyx_um[[skeleton.soma]])[0].tolist()
    return (y, x, float(skeleton.radius_um[skeleton.soma]))


def moved(runs: Runs, grid: Grid, other: Grid) -> Runs:
    """Spans on another level of the same pyramid that cover the runs: any voxel that holds a part of one."""
    if not len(runs):
        return runs
    size, other_size = np.array(grid.voxel_size_zyx_um), np.array(other.voxel_size_zyx_um)
    low, high = np.stack([runs[:, 0], runs[:, 1], runs[:, 2]], axis=1), np.stack([runs[:, 0] + 1, runs[:, 1] + 1, runs[:, 3]], axis=1)
    if np.all(size <= 1.01 * other_size):
        factor = np.rint(other_size / size).astype(np.int64)
        low, high = low // factor, np.minimum(-(-high // factor), other.shape_zyx)
        spans = np.column_stack([low[:, 0], low[:, 1], low[:, 2], high[:, 2], np.ones(len(low), np.int64)])
        return in_row_order(np.unique(spans, axis=0).astype(np.int32))
    factor = np.rint(size / other_size).astype(np.int64)
    low, high = low * factor, np.minimum(high * factor, other.shape_zyx)
    parts = []
    for dz in range(int(factor[0])):
        for dy in range(int(factor[1])):
            inside = (low[:, 0] + dz < other.shape_zyx[0]) & (low[:, 1] + dy < other.shape_zyx[1])
            parts.append(np.column_stack([low[:, 0] + dz, low[:, 1] + dy, low[:, 2], high[:, 2], np.ones(len(low), np.int64)])[inside])
    return in_row_order(np.concatenate(parts).astype(np.int32))


def _work_level(image: Volume) -> int:
    """The coarsest level whose voxels are at most `WORK_UM` wide; else the finest."""
    fine = [k for k, grid in enumerate(image.grids) if grid.voxel_size_zyx_um[2] <= WORK_UM]
    return max(fine, default=0)


class _Slabs:
    """A level of an image, read in slabs of its chunks."""

    def __init__(self, image: Volume, level: int) -> None:
        self.image, self.level, self.grid = image, level, image.grids[level]
        spec = image.spec(level)
        self._depth = spec.chunk_zyx[0]
        slab_bytes = self._depth * self.grid.shape_zyx[1] * self.grid.shape_zyx[2] * spec.dtype.itemsize
        self._slab = Held(self._read, _HELD_BYTES // slab_bytes)

    def plane(self, plane: int) -> NDArray[Any]:
        """The pixels of a plane."""
        pixels: NDArray[Any] = self._slab(plane // self._depth)[plane % self._depth]
        return pixels

    def read(self, window: Window) -> NDArray[Any]:
        """The pixels of a window."""
        (z0, z1), y, x = window
        if z1 - z0 == 1:
            return self.plane(z0)[None, slice(*y), slice(*x)]
        return self.image.read(window, self.level)

    def _read(self, number: int) -> NDArray[Any]:
        _, y, x = self.grid.window
        first = number * self._depth
        return self.image.read(((first, min(first + self._depth, self.grid.shape_zyx[0])), y, x), self.level)


class _Planes:
    """The planes of a level of an image that have pixels and are in order."""

    def __init__(self, slabs: _Slabs, boxes: Boxes, wrong: frozenset[int]) -> None:
        grid, image = slabs.grid, slabs.image
        factor = np.rint(np.divide(grid.voxel_size_zyx_um, image.grid.voxel_size_zyx_um)).astype(int).tolist()
        self._boxes = boxes if slabs.level == 0 else coarser(boxes, factor, grid)
        spoilt = {plane // factor[0] for plane in wrong}
        held = np.zeros(grid.shape_zyx[0], np.bool_)
        for z0, z1 in self._boxes[:, :2].tolist():
            held[z0:z1] = True
        self.usable = [z for z in np.flatnonzero(held).tolist() if z not in spoilt]
        self._in_order = frozenset(self.usable)
        self._grid, self.grey, self.read = grid, slabs.plane, slabs.read
        self.shown = Held(self._shown, _HELD_BYTES // Shown.n_bytes(grid.shape_zyx[1:]))

    def known(self, window: Window) -> NDArray[np.bool_]:
        """Which voxels of a window were downloaded and are in order."""
        (z, end), (y, _), (x, _) = window
        found = np.zeros([high - low for low, high in window], np.bool_)
        for z0, z1, y0, y1, x0, x1 in self._boxes[(self._boxes[:, 0] < end) & (self._boxes[:, 1] > z)].tolist():
            found[max(z0 - z, 0) : z1 - z, max(y0 - y, 0) : max(y1 - y, 0), max(x0 - x, 0) : max(x1 - x, 0)] = True
        found[[k - z for k in range(z, end) if k not in self._in_order]] = False
        return found

    def _shown(self, plane: int) -> Shown:
        _, y, x = self._grid.window
        return Shown.of(self.grey(plane), self.known(((plane, plane + 1), y, x))[0], self._grid.voxel_size_zyx_um[2])
