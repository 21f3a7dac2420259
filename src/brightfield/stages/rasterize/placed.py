"""Where the stain of a trace lies: nodes are moved, for the prediction only, until what they predict fits the planes.

Nodes are placed a few tenths of a um beside the middle of a neurite and up to a um above or below its focus, where its blur is another.
Stain that moves by u changes a plane by -u times the gradient of what it shows (Lucas and Kanade, IJCAI 1981), along z too, as planes are
predicted one after another. So all moves are one linear least-squares problem, in which the voxels around an edge speak for
the nodes at its ends, and which a tree solves exactly from its tips to its root. A node moves as far as its voxels can tell, else little.
"""

# mypy: disable-error-code="no-any-return"
# (numbers taken out of arrays, which is all that kernels do, have type Any)

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from brightfield.raster.cones import cones_of, grid_numbers, spans_of
from brightfield.raster.runs import in_row_order, planes_of
from brightfield.stages.rasterize.predicted import Predicted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from brightfield.core.skeleton import Skeleton
    from brightfield.raster.runs import Runs
    from brightfield.stages.rasterize.bands import Mask
    from brightfield.stages.rasterize.optics import Stain
    from brightfield.stages.rasterize.predicted import PlaneOf

_REACH_UM = 1.0
"""So far around an edge, beyond its radius, voxels speak for it."""
_SPREAD_UM = np.array([0.35, 0.12, 0.12])
"""How far a node may be expected from its stain, z, y, x: standard deviations."""
_MOST_UM = np.array([1.5, 0.6, 0.6])
_NOISE, _INEXACT = 0.012, 0.1
"""Standard deviation of absorbance in the bands, and the share of the prediction that it may be wrong by."""
_OUTLIER = 3.0
_INDEPENDENT = 0.1
"""The noise of voxels near each other is alike: so many of them count."""
_FIXED = 1e12


def placed(skeleton: Skeleton, start: Skeleton, on: Mask, stain: Stain, shown: PlaneOf, planes: Sequence[int]) -> Skeleton:
    """`start` with its nodes moved nearer to their stain by one step of Gauss and Newton; the soma, and what is not ON, stay.

    skeleton: as traced, from where no node moves far. on: (n_nodes,) whether the edge of a node lies on its stain. stain: of `start`.
    planes: the planes that have pixels and are in order.
    """
    edges = np.flatnonzero(on & (skeleton.parent >= 0))
    moved = start.position_zyx_um - skeleton.position_zyx_um
    equations = _Equations(len(skeleton))
    equations.gather(start, _voxels(start, edges, stain), Predicted(stain, shown, planes), shown, planes)
    free = np.zeros(len(skeleton), np.bool_)
    free[edges] = free[skeleton.parent[edges]] = True
    if skeleton.soma is not None:
        free[skeleton.soma] = False
    step = equations.solved(skeleton, moved, free)
    total = np.clip(moved + step, -_MOST_UM, _MOST_UM).round(4)
    return skeleton.moved_to(skeleton.position_zyx_um + total)


def _voxels(skeleton: Skeleton, edges: NDArray[np.int64], stain: Stain) -> Runs:
    """Runs of the voxels around each edge; their value is the node."""
    spans = spans_of(cones_of(skeleton, 0.0, "capsule").take(edges).grown(_REACH_UM), stain.grid, threads=1)
    spans[:, 4] = edges[spans[:, 4]]
    return in_row_order(spans)


class _Equations:
    """Normal equations of the moves of nodes: blocks of a node with itself and with its parent, and the right side."""

    def __init__(self, n_nodes: int) -> None:
        self.own, self.upward, self.aim = np.zeros((n_nodes, 3, 3)), np.zeros((n_nodes, 3, 3)), np.zeros((n_nodes, 3))

    def gather(self, skeleton: Skeleton, voxels: Runs, predicted: Predicted, shown: PlaneOf, planes: Sequence[int]) -> None:
        """Add what the planes say."""
        parent = np.maximum(skeleton.parent, 0)
        ends = np.concatenate([skeleton.position_zyx_um, skeleton.position_zyx_um[parent]], axis=1)
        numbers = grid_numbers(predicted.stain.grid)
        for plane in planes:
            rows = planes_of(voxels, plane, plane + 1)
            if len(rows):
                bands = (sum(shown(plane).bands), sum(predicted.bands(plane)), sum(predicted.slopes(plane)))
                _add_plane(rows, bands, shown(plane).known, plane, ends, parent, numbers, self.own, self.upward, self.aim)

    def solved(self, skeleton: Skeleton, moved: NDArray[np.float64], free: Mask) -> NDArray[np.float64]:
        """(n, 3) the step of every node, um, given how far it was moved already."""
        weight = _SPREAD_UM**-2.0
        own, aim = self.own + np.diag(weight), self.aim - weight * moved
        own[~free] += _FIXED * np.eye(3)
        aim[~free] = 0.0
        order = np.argsort(-skeleton.depth, kind="stable")
        return _solved(order, skeleton.parent, own, self.upward, aim)


# ---------------------------------------------------------------------------------------------------------------------------- kernels


@njit(cache=True, nogil=True)
def _add_plane(
    rows: Any, bands: Any, known: Any, plane: int, ends: Any, parent: Any, numbers: Any, own: Any, upward: Any, aim: Any
) -> None:
    """Add the equations of the voxels of a plane. bands: what is seen, what is predicted, and its slope along z."""
    (seen, model, slope_z), (n_y, n_x) = bands, known.shape
    slope = np.empty(3)
    for i in range(len(rows)):
        y, node = rows[i, 1], rows[i, 4]
        if y < 1 or y + 1 >= n_y:
            continue
        for x in range(max(rows[i, 2], 1), min(rows[i, 3], n_x - 1)):
            if known[y, x]:
                slope[0] = -slope_z[y, x]
                slope[1] = (model[y - 1, x] - model[y + 1, x]) / (2.0 * numbers[4])
                slope[2] = (model[y, x - 1] - model[y, x + 1]) / (2.0 * numbers[5])
                share = _share(ends[node], numbers, plane, y, x)
                _add_voxel(own, upward, aim, node, parent[node], share, slope, seen[y, x] - model[y, x], model[y, x])


@njit(cache=True, nogil=True)
def _share(ends: Any, numbers: Any, plane: int, y: int, x: int) -> float:
    """How far from the node towards its parent a voxel lies, 0 to 1."""
    along, length2 = 0.0, 0.0
    for axis, index in enumerate((float(plane), float(y), float(x))):
        step = ends[3 + axis] - ends[axis]
        along += (numbers[axis] + index * numbers[3 + axis] - ends[axis]) * step
        length2 += step * step
    return min(max(along / length2, 0.0), 1.0) if length2 > 0.0 else 0.0


@njit(cache=True, nogil=True)
def _add_voxel(own: Any, upward: Any, aim: Any, node: int, up: int, share: float, slope: Any, rest: float, model: float) -> None:
    variance = _NOISE * _NOISE + (_INEXACT * model) ** 2
    weight = _INDEPENDENT / variance * min(1.0, _OUTLIER * np.sqrt(variance) / max(abs(rest), 1e-9))
    a, b = 1.0 - share, share
    for k in range(3):
        aim[node, k] += weight * a * slope[k] * rest
        aim[up, k] += weight * b * slope[k] * rest
        for m in range(3):
            product = weight * slope[k] * slope[m]
            own[node, k, m] += a * a * product
            own[up, k, m] += b * b * product
            upward[node, k, m] += a * b * product


@njit(cache=True, nogil=True)
def _solved(order: Any, parent: Any, own: Any, upward: Any, aim: Any) -> Any:
    """Solve blocks that are linked like a tree. order: children before parents. own and aim are used up."""
    inverse, coupling = np.empty_like(own), np.empty((3, 3))
    for i in order:
        _invert(own[i], inverse[i])
        up = parent[i]
        if up >= 0:
            for k in range(3):
                for m in range(3):
                    coupling[k, m] = _sum3(upward[i, :, k], inverse[i, :, m])
            for k in range(3):
                aim[up, k] -= _sum3(coupling[k], aim[i])
                for m in range(3):
                    own[up, k, m] -= _sum3(coupling[k], upward[i, :, m])
    step, rest = np.zeros_like(aim), np.empty(3)
    for i in order[::-1]:
        for k in range(3):
            rest[k] = aim[i, k] - (_sum3(upward[i, k], step[parent[i]]) if parent[i] >= 0 else 0.0)
        for k in range(3):
            step[i, k] = _sum3(inverse[i, k], rest)
    return step


@njit(cache=True, nogil=True)
def _sum3(a: Any, b: Any) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(cache=True, nogil=True)
def _invert(m: Any, out: Any) -> None:
    """The inverse of a symmetric positive definite 3 x 3 matrix, by its cofactors."""
    for i in range(3):
        for j in range(3):
            a, b, c, d = (i + 1) % 3, (i + 2) % 3, (j + 1) % 3, (j + 2) % 3
            out[j, i] = m[a, c] * m[b, d] - m[a, d] * m[b, c]
    determinant = m[0, 0] * out[0, 0] + m[0, 1] * out[1, 0] + m[0, 2] * out[2, 0]
    for i in range(3):
        for j in range(3):
            out[i, j] /= determinant
