"""Small truths: a skeleton and its labels on disk, as the pipeline writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from brightfield.config.options import LabelsConfig
from brightfield.core.skeleton import ROOT, Skeleton
from brightfield.core.space import Grid
from brightfield.evaluation.truth import Truth
from brightfield.stages.rasterize.labels import write_labels
from brightfield.stages.rasterize.plan import LabelPlan
from brightfield.volumes.volume import create_volume, open_volume

GRID = Grid((24, 96, 160), (1.0, 0.5, 0.5))


def make_truth(
    folder: Path,
    skeleton: Skeleton,
    grid: Grid = GRID,
    *,
    scored: np.ndarray | None = None,
    reconstruction_type: str = "full",
    rules: LabelsConfig | None = None,
    **plan: Any,
) -> Truth:
    """The truth of one cell; every edge is scored unless `scored` says otherwise, and every class is known unless the type does."""
    path = folder / "labels.zarr"
    layout: Any = {"chunk_zyx": (8, 32, 32), "shard_zyx": (16, 64, 64)}
    write_labels(path, skeleton, grid, LabelPlan(reconstruction_type=reconstruction_type, **plan), rules or LabelsConfig(), **layout)
    is_edge = skeleton.parent != ROOT
    return Truth(1, "test", skeleton, is_edge if scored is None else scored & is_edge, open_volume(path))


def knowing_all(truth: Truth) -> Truth:
    """The same truth with the absence of every class known, however little axon is traced."""
    truth.labels.attributes["class_validity"] = dict.fromkeys(("soma", "axon", "basal", "apical"), "absent")
    return truth


def neuron(grid: Grid = GRID) -> Skeleton:
    """A soma, a basal dendrite that branches, an apical one and an axon, in the middle of `grid`."""
    middle = np.asarray(grid.to_um(np.array(grid.shape_zyx) / 2))
    rows: list[tuple[int, tuple[float, float, float], int]] = [(1, (0, 0, 0), ROOT)]

    def branch(kind: int, start: int, direction: tuple[float, float, float], n: int) -> int:
        at = start
        for _ in range(n):
            rows.append((kind, tuple(np.add(rows[at][1], direction)), at))
            at = len(rows) - 1
        return at

    fork = branch(3, 0, (0.1, 0.3, 0.9), 14)
    branch(3, fork, (0.1, 0.8, 0.4), 12)
    branch(3, fork, (0.0, -0.7, 0.6), 12)
    branch(4, 0, (0.0, -0.9, -0.2), 18)
    branch(2, 0, (-0.2, 0.2, -1.0), 25)
    radius = {1: 3.0, 2: 0.25, 3: 0.6, 4: 0.9}
    kinds, places, parents = zip(*rows, strict=True)
    return Skeleton(
        np.arange(1, len(rows) + 1), np.array(kinds), np.array(places) + middle, np.array([radius[k] for k in kinds]), np.array(parents)
    )


def write_zarr(path: Path, voxels: np.ndarray, grid: Grid) -> Path:
    """Voxels as an OME-Zarr 0.5 of one level."""
    volume = create_volume(path, [grid], voxels.dtype, chunk_zyx=(8, 32, 32), shard_zyx=(16, 64, 64))
    for shard in np.ndindex(volume.spec(0).n_shards_zyx):
        volume.write_dense_shard(0, shard, voxels[tuple(slice(*side) for side in volume.spec(0).shard_window(shard))])
    return path
