"""Which voxels of a grid were downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

    from brightfield.core.space import Shape, Window

type Point = NDArray[np.int64]


class Coverage:
    """Which voxels of a grid came, from the tiles: any set of boxes of one plane each that do not overlap."""

    def __init__(self, tiles: pd.DataFrame, shape_zyx: Shape) -> None:
        ok = tiles[tiles["state"] == "ok"]
        self.shape_zyx = shape_zyx
        self._boxes = ok[["z", "y0", "y1", "x0", "x1"]].to_numpy(np.int64)
        self._background = (ok["kind"] == "background").to_numpy()
        self._rows = np.unique(self._boxes[:, 1:3])
        self._columns = np.unique(self._boxes[:, 3:5])
        # Cells between all edges of tiles; counted up along z, so that a box is a difference of two planes.
        self._count = np.zeros((shape_zyx[0] + 1, max(len(self._rows) - 1, 0), max(len(self._columns) - 1, 0)), np.int32)
        self._mark()
        np.cumsum(self._count, axis=0, out=self._count)
        self._size = (self._boxes[:, 2] - self._boxes[:, 1]) * (self._boxes[:, 4] - self._boxes[:, 3])

    def __bool__(self) -> bool:
        return len(self._boxes) > 0

    def _mark(self) -> None:
        rows, columns = np.searchsorted(self._rows, self._boxes[:, 1:3]), np.searchsorted(self._columns, self._boxes[:, 3:5])
        for z, (y0, y1), (x0, x1) in zip(self._boxes[:, 0].tolist(), rows.tolist(), columns.tolist(), strict=True):
            self._count[z + 1, y0:y1, x0:x1] = 1

    def share(self, box: Window) -> float:
        """The share of a box's voxels that came."""
        (z0, z1), (y0, y1), (x0, x1) = box
        planes = self._count[z1] - self._count[z0]
        height, width = _overlap(self._rows, y0, y1), _overlap(self._columns, x0, x1)
        return float(height @ planes @ width) / ((z1 - z0) * (y1 - y0) * (x1 - x0))

    def has(self, voxel_zyx: Point) -> bool:
        """Whether one voxel came."""
        z, y, x = voxel_zyx.tolist()
        return self.share(((z, z + 1), (y, y + 1), (x, x + 1))) == 1.0

    def pick(self, draws: NDArray[np.float64], *, background: bool = False) -> Point:
        """A voxel that came, all alike likely; with `background` only among the background tiles, where there are any."""
        chosen = np.flatnonzero(self._background) if background and self._background.any() else np.arange(len(self._boxes))
        upto = np.cumsum(self._size[chosen])
        at = int(draws[0] * upto[-1])
        row = int(np.searchsorted(upto, at, side="right"))
        z, y0, _, x0, x1 = self._boxes[chosen[row]].tolist()
        dy, dx = divmod(at - (int(upto[row - 1]) if row else 0), x1 - x0)
        return np.array([z, y0 + dy, x0 + dx])

    def pick_face(self, draws: NDArray[np.float64]) -> tuple[Point, int, int]:
        """A voxel of an outermost tile, the axis on which it is outermost (0, 1, 2) and the side (0 low, 1 high)."""
        face = int(draws[3] * 6)
        axis, side = divmod(face, 2)
        columns = ((0, 0), (1, 2), (3, 4))[axis]
        edge = self._boxes[:, columns[side]]
        rows = np.flatnonzero(edge == (edge.max() if side else edge.min()))
        z, y0, y1, x0, x1 = self._boxes[rows[int(draws[0] * len(rows))]].tolist()
        voxel = np.array([z, y0 + int(draws[1] * (y1 - y0)), x0 + int(draws[2] * (x1 - x0))])
        if axis:
            voxel[axis] = (y0, y1 - 1, x0, x1 - 1)[2 * (axis - 1) + side]
        return voxel, axis, side


def _overlap(edges: Point, low: int, high: int) -> NDArray[np.int64]:
    """How much of each interval between `edges` lies in [low, high)."""
    lengths: NDArray[np.int64] = np.maximum(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0)
    return lengths
