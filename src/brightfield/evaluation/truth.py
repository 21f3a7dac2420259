"""What predictions are scored against: the labels of a cell, its skeleton, and what of both may be held against a prediction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brightfield.core.codes import Label
from brightfield.core.errors import StackError, TableError
from brightfield.core.schema import MANIFEST, NODES
from brightfield.core.skeleton import ROOT, Skeleton
from brightfield.core.space import Grid, Window
from brightfield.core.tables import read_table
from brightfield.dataset import open_cell
from brightfield.evaluation.voxels import LEFT_OUT, Known, known_codes, truth_codes
from brightfield.raster import runs
from brightfield.raster.runs import Runs
from brightfield.raster.voxels import R_MIN_UM, label_runs

if TYPE_CHECKING:
    import pandas as pd

    from brightfield.volumes.volume import Volume

BLOCK_VOXELS = (64, 512, 512)
"""What is read and scored at once, whatever the size of the volume."""

KINDS = ("semantic", "inside")
"""Kinds of label that predictions can be scored against."""


@dataclass(frozen=True, eq=False)
class Truth:
    """One cell of a finished dataset. skeleton: in the frame of the stack. scored: (nodes,) `nodes.score` of the edge to the parent."""

    specimen_id: int
    split: str
    skeleton: Skeleton
    scored: NDArray[np.bool_]
    labels: Volume

    @cached_property
    def kind(self) -> str:
        """The kind of label. Raises StackError for one that predictions cannot be scored against."""
        kind = str(self._rules.get("kind", "semantic"))
        if kind not in KINDS:
            remedy = "build them with `brightfield config labels=semantic` and `dvc repro`"
            raise StackError(
                f"the labels are of the kind {kind}, predictions are scored on {' or '.join(KINDS)}; {remedy}", path=self.labels.path
            )
        return kind

    @cached_property
    def known(self) -> Known:
        """The codes whose absence is known."""
        return known_codes(self.labels.attributes.get("class_validity", {}))

    @property
    def _rules(self) -> dict[str, Any]:
        rules: dict[str, Any] = self.labels.attributes.get("labels", {})
        return rules

    def on_level(self, level: int) -> TruthVoxels:
        """The true voxels of a level of the pyramid."""
        grid = self.labels.grids[level]
        rules = {"r_min_um": self._rules.get("r_min_um", R_MIN_UM), "soma_edges": self._rules.get("soma_edges", "capsule")}
        rules["connect"] = self._rules.get("connect", 26)
        tubes = [
            label_runs(edges_of(self.skeleton, chosen), grid, "inside", **rules) if chosen.any() else np.empty((0, 5), np.int32)
            for chosen in (~self.scored & (self.skeleton.parent != ROOT), self.scored | (self.skeleton.parent == ROOT))
        ]
        line = label_runs(self.skeleton, grid, "centerline", connect=rules["connect"])
        return TruthVoxels(self.labels, level, truth_codes(self.kind), tubes[0], tubes[1], line)

    def labels_at(self, position_zyx_um: NDArray[np.float64]) -> NDArray[np.uint8]:
        """(n,) the labels of the voxels that hold positions (n, 3) um; UNKNOWN outside the image."""
        index = self.labels.grid.to_index(position_zyx_um)
        found = np.full(len(index), int(Label.UNKNOWN), np.uint8)
        inside = self.labels.grid.contains(position_zyx_um)
        chunk = index // self.labels.spec().chunk_zyx
        for corner in np.unique(chunk[inside], axis=0):
            here = np.flatnonzero(inside & (chunk == corner).all(axis=1))
            low, high = index[here].min(axis=0), index[here].max(axis=0) + 1
            box = self.labels.read(window_of(low, high))
            found[here] = box[tuple((index[here] - low).T)]
        return found


@dataclass(frozen=True, eq=False)
class TruthVoxels:
    """The true voxels of one level. unscored, kept: runs of the tubes of edges that may not be scored, and of those that may.

    centreline: runs of the traced axes.
    """

    labels: Volume
    level: int
    codes_of_labels: NDArray[np.uint8]
    unscored: Runs
    kept: Runs
    centreline: Runs

    @property
    def grid(self) -> Grid:
        """The grid of the level."""
        return self.labels.grids[self.level]

    def blocks(self) -> Iterator[Window]:
        """The windows that are scored one after the other: whole chunks."""
        steps = [max(n // c, 1) * c for n, c in zip(BLOCK_VOXELS, self.labels.spec(self.level).chunk_zyx, strict=True)]
        starts = [range(0, n, step) for n, step in zip(self.grid.shape_zyx, steps, strict=True)]
        for corner in product(*starts):
            high = np.minimum(np.add(corner, steps), self.grid.shape_zyx)
            yield window_of(np.asarray(corner), high)

    def codes(self, window: Window) -> NDArray[np.uint8]:
        """The true codes of a window (see `voxels`), LEFT_OUT where nothing may be scored."""
        codes: NDArray[np.uint8] = self.codes_of_labels[self.labels.read(window, self.level)]
        unscored = painted(self.unscored, window)
        if unscored.any():
            codes[(unscored > 0) & (painted(self.kept, window) == 0)] = LEFT_OUT
        return codes

    def axes(self, window: Window) -> NDArray[np.bool_]:
        """Where the traced axes run in a window."""
        return painted(self.centreline, window) > 0


def read_truth(root: Path, specimen_ids: list[int], split: str | None = None) -> Iterator[Truth]:
    """The truth of each cell; with `split` of those of that side.

    Raises TableError for a cell that the dataset does not hold, StackError for one whose labels are not here.
    """
    splits = read_table(MANIFEST, root).set_index("specimen_id")["split"]
    nodes = read_table(NODES, root)
    for specimen_id in specimen_ids:
        rows = nodes[nodes["specimen_id"] == specimen_id]
        if specimen_id not in splits.index or rows.empty:
            known = ", ".join(str(i) for i in sorted(set(nodes["specimen_id"])))
            raise TableError(f"holds no nodes of cell {specimen_id}; it has {known}", path=root / NODES.path)
        if split not in (None, splits[specimen_id]):
            continue
        skeleton, scored = _skeleton(rows)
        yield Truth(specimen_id, str(splits[specimen_id]), skeleton, scored, open_cell(specimen_id, root).labels)


def _skeleton(rows: pd.DataFrame) -> tuple[Skeleton, NDArray[np.bool_]]:
    """The skeleton of a cell from the nodes table, in the frame of the stack, and which edges may be scored."""
    node_id = rows["node_id"].to_numpy(np.int64)
    parent_id = rows["parent_id"].fillna(-1).to_numpy(np.int64)
    parent = np.where(parent_id < 0, ROOT, np.searchsorted(node_id, parent_id))
    position = rows[["z_um", "y_um", "x_um"]].to_numpy(np.float64)
    skeleton = Skeleton(node_id, rows["type"].to_numpy(np.int64), position, rows["radius_um"].to_numpy(np.float64), parent)
    return skeleton, rows["score"].to_numpy(np.bool_)


def edges_of(skeleton: Skeleton, chosen: NDArray[np.bool_]) -> Skeleton:
    """The chosen nodes with their edges to their parents; parents that are not chosen become roots."""
    kept = chosen.copy()
    kept[skeleton.parent[chosen & (skeleton.parent != ROOT)]] = True
    rank = np.where(kept, np.cumsum(kept) - 1, ROOT)
    parent = np.where(chosen & (skeleton.parent != ROOT), rank[skeleton.parent], ROOT)
    return Skeleton(skeleton.node_id[kept], skeleton.type[kept], skeleton.position_zyx_um[kept], skeleton.radius_um[kept], parent[kept])


def painted(of_level: Runs, window: Window) -> NDArray[np.uint8]:
    """A window of runs that may reach beyond it, as a dense array."""
    (z0, z1), (y0, y1), (x0, x1) = window
    rows = runs.planes_of(of_level, z0, z1)
    rows = rows[(rows[:, 1] >= y0) & (rows[:, 1] < y1) & (rows[:, 2] < x1) & (rows[:, 3] > x0)]
    rows[:, 2:4] = rows[:, 2:4].clip(x0, x1)
    return runs.paint(rows, window)


def window_of(low: NDArray[np.int64], high: NDArray[np.int64]) -> Window:
    """The half-open box between two corners (z, y, x)."""
    (z0, y0, x0), (z1, y1, x1) = low.tolist(), high.tolist()
    return ((z0, z1), (y0, y1), (x0, x1))
