"""Whether a skeleton can belong to its grid, and whether its labels fit the disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brightfield.config.options import LabelsConfig
from brightfield.core.codes import Finding, Severity
from brightfield.core.errors import CapacityError, GridError
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid
from brightfield.stages.rasterize.plan import LabelPlan, cones_for, with_rim

if TYPE_CHECKING:
    pass


_BYTES_PER_ROW = 4.0


_BYTES_PER_EMPTY_VOXEL = 2e-4


_ENOUGH_PATH_UM = 200.0


_AXIAL_SHARE = (0.08, 0.6)
"""Real cells: 0.13 to 0.35 in 56 of 56, and one of 509 with 0.563; z in planes or scaled twice moves it by a factor of up to 3.6."""


_MISREAD_SHARE = 0.2
"""Of the nodes outside the image: fewer are a skeleton that leaves it, more are a unit misread."""


def check_fit(skeleton: Skeleton, grid: Grid) -> tuple[Finding, ...]:
    """Whether a skeleton can belong to a grid, before any work: findings for what is odd.

    Raises GridError, naming the better reading where there is one, when most nodes lie outside the grid.
    """
    position = skeleton.position_zyx_um
    n_out = int(np.count_nonzero(~grid.contains(position)))
    findings = []
    if n_out:
        message, remedy = _misfit(position, n_out, grid)
        if n_out * 2 > len(skeleton):
            raise GridError(f"{message}; {remedy}")
        findings.append(Finding(Severity.WARNING, "nodes-outside", message, remedy=remedy))
    steep = _axial_share(skeleton)
    if steep is not None and not _AXIAL_SHARE[0] <= steep <= _AXIAL_SHARE[1]:
        message = f"{steep:.0%} of the path runs along z, in real cells it is {_AXIAL_SHARE[0]:.0%} to {_AXIAL_SHARE[1]:.0%}"
        remedy = "check that z is in micrometres, neither in planes nor scaled twice"
        findings.append(Finding(Severity.WARNING, "z-scale", message, remedy=remedy))
    return tuple(findings)


def check_room(path: Path, skeleton: Skeleton, grid: Grid, plan: LabelPlan, rules: LabelsConfig) -> int:
    """The estimated bytes of a label store. Raises CapacityError when the disk of `path` has less room than that."""
    estimate = estimated_bytes(skeleton, grid, plan, rules)
    folder = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    if estimate > free:
        raise CapacityError(
            f"labels on a grid of {grid.shape_zyx} voxels of {grid.voxel_size_zyx_um} um need about {estimate / 1e9:.1f} GB, "
            f"{folder} has {free / 1e9:.1f} GB free; choose a larger image.level or image.z_step, or another disk"
        )
    return estimate


def estimated_bytes(skeleton: Skeleton, grid: Grid, plan: LabelPlan, rules: LabelsConfig) -> int:
    """Bytes of a label store, from above: voxel rows that the tubes and their rims meet, and chunks that hold one value."""
    cones = with_rim(cones_for(skeleton, rules), rules).geometry
    size_z, size_y, _ = grid.voxel_size_zyx_um
    reach = 2 * np.maximum(cones[:, 3], cones[:, 7])
    rows_z = np.minimum((reach + 2 * rules.rim_axial_um + np.abs(cones[:, 4] - cones[:, 0])) / size_z + 1, grid.shape_zyx[0])
    rows_y = np.minimum((reach + np.abs(cones[:, 5] - cones[:, 1])) / size_y + 1, grid.shape_zyx[1])
    in_boxes = 0 if plan.downloaded is None else int(np.prod(plan.downloaded[:, 1::2] - plan.downloaded[:, 0::2], axis=1).sum())
    return int(_BYTES_PER_ROW * (rows_z * rows_y).sum() + in_boxes * _BYTES_PER_EMPTY_VOXEL)


def _misfit(position: NDArray[np.float64], n_out: int, grid: Grid) -> tuple[str, str]:
    """How a skeleton does not fit an image, and what to do."""
    (low, high), (first, last) = (
        [tuple(round(float(v), 1) for v in corner) for corner in corners]
        for corners in ((position.min(axis=0), position.max(axis=0)), grid.extent_zyx_um)
    )
    message = (
        f"{n_out} of {len(position)} nodes lie outside the image: nodes span (z, y, x) {low} to {high} um, the image {first} to {last}"
    )
    hint = _better_scale(position, grid) if n_out > _MISREAD_SHARE * len(position) else ""
    if hint:
        return message, f"the coordinates look {hint}: convert them to micrometres"
    return message, "what lies outside is not painted; check that the SWC belongs to this image, and its frame"


def _better_scale(position: NDArray[np.float64], grid: Grid) -> str:
    """The unit in which (nearly) all nodes would lie within the grid; empty when there is none among the usual ones."""
    size_z, size_y, size_x = grid.voxel_size_zyx_um
    readings = {
        "as if z were in planes": (size_z, 1.0, 1.0),
        "as if x and y were in pixels": (1.0, size_y, size_x),
        "as if they were in voxels": (size_z, size_y, size_x),
        "right in x and y but scaled in z": (0.0, 1.0, 1.0),
        "as if they were in nanometres": (1e-3, 1e-3, 1e-3),
    }
    origin = np.asarray(grid.origin_zyx_um)
    for reading, factor in readings.items():
        scaled = position * factor + np.where(np.equal(factor, 0.0), origin, 0.0)
        if grid.contains(scaled).mean() > 0.99:
            return reading
    return ""


def _axial_share(skeleton: Skeleton) -> float | None:
    """The share of the path length that runs along z; None where there is too little path to say."""
    length = float(skeleton.edge_length_um.sum())
    edges = np.flatnonzero(skeleton.parent >= 0)
    rise = np.abs(skeleton.position_zyx_um[edges, 0] - skeleton.position_zyx_um[skeleton.parent[edges], 0]).sum()
    return float(rise) / length if length > _ENOUGH_PATH_UM else None
