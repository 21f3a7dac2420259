# mypy: disable-error-code="no-any-return"
# (numbers taken out of arrays, which is all that kernels do, have type Any)
"""What hangs together: components, loops and contacts between distant branches, from runs alone, without a dense volume."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import pi
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.raster.cones import Cones, SomaEdges, cones_of, spans_of
from brightfield.raster.lines import lines_of
from brightfield.raster.runs import Runs, in_row_order, row_bounds, union

if TYPE_CHECKING:
    from brightfield.core.skeleton import Skeleton
    from brightfield.core.space import Grid

_DISTANT_UM = 10.0


@dataclass(frozen=True, slots=True)
class Topology:
    """How a label hangs together, seen as a set of 26-connected voxels unless it was connected with 6.

    n_components: components of the whole label; fewer than trees where trees touch.
    n_components_by_tree: components of each tree's own voxels; all 1 is what `connect` promises.
    n_loops: holes of the label as a 26-connected solid (first Betti number).
    n_contacts: places where two branches touch that are farther apart along the tree than 10 um + pi (r1 + r2), or belong to two trees.
    """

    n_components: int
    n_components_by_tree: tuple[int, ...]
    n_loops: int
    n_contacts: int


def topology(
    skeleton: Skeleton, grid: Grid, *, r_min_um: float = 0.23, soma_edges: SomaEdges = "capsule", connect: int | None = 26
) -> Topology:
    """Components, loops and contacts of the label that `raster.rasterize` makes with the same arguments."""
    cones = cones_of(skeleton, r_min_um, soma_edges)
    spans = spans_of(cones, grid)
    if connect is not None:
        spans = np.concatenate([spans, lines_of(cones, grid, connect)])
    return topology_of(spans, cones, skeleton, connect)


def topology_of(spans: NDArray[np.int32], cones: Cones, skeleton: Skeleton, connect: int | None) -> Topology:
    """The same from the spans of tubes and lines; the last column of both is an index into `cones`, one per node."""
    whole = union(spans, 1)
    n_components = component_count(whole, _adjacency(connect))
    by_tree = (n_components,) if skeleton.n_trees == 1 else components_by_tree(spans, cones, skeleton.n_trees, connect)
    n_loops = loop_count(whole, n_components if _adjacency(connect) == 26 else None)
    return Topology(n_components, by_tree, n_loops, _contact_count(spans, cones, skeleton))


def components_by_tree(spans: NDArray[np.int32], cones: Cones, n_trees: int, connect: int | None) -> tuple[int, ...]:
    """Components of each tree's own voxels."""
    trees = cones.tree[spans[:, 4]]
    ordered = spans if n_trees == 1 else spans[np.argsort(trees, kind="stable")]
    ends = np.cumsum(np.bincount(trees, minlength=n_trees)).tolist()
    return tuple(component_count(union(ordered[lo:hi], 1), _adjacency(connect)) for lo, hi in pairwise([0, *ends]))


def _adjacency(connect: int | None) -> int:
    return 6 if connect == 6 else 26


def component_count(runs: Runs, connect: int) -> int:
    """Connected components of all the voxels in `runs`, whatever their values; `connect` is 6 or 26."""
    return int(_count_heads(component_of(runs, connect)))


def component_of(runs: Runs, connect: int = 26) -> NDArray[np.int64]:
    """(n,) for each run the index of the first run of its component; `connect` is 6 or 26."""
    if len(runs) == 0:
        return np.empty(0, np.int64)
    head: NDArray[np.int64] = _group_runs(runs, _row_table(runs)[0], connect == 26)
    return head


def loop_count(runs: Runs, n_components: int | None = None) -> int:
    """Independent loops of the voxels in `runs` as closed cubes: components + cavities - Euler characteristic.

    n_components: the 26-connected components of the runs, where they are counted already.
    """
    if len(runs) == 0:
        return 0
    table, low = _row_table(runs)
    n_solids = _count_heads(_group_runs(runs, table, True)) if n_components is None else n_components
    return int(n_solids + _count_cavities(runs, table, low) - _euler(runs, table))


def _row_table(ordered: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """(nz + 2, ny + 3) table of where each row begins in `ordered`, the next entry being where it ends; and its (z, y) origin.

    A rim of empty rows on every side spares the kernels all tests of bounds.
    """
    (z0, y0), (z1, y1) = row_bounds(ordered)
    low = np.array([z0 - 1, y0 - 1])
    table = np.empty((z1 - z0 + 3, y1 - y0 + 4), np.int32)
    _fill_row_table(ordered, low, table)
    return table, low


def _contact_count(spans: NDArray[np.int32], cones: Cones, skeleton: Skeleton) -> int:
    """Groups of distant pairs of edges that touch; pairs of neighbouring edges are one place."""
    ordered = in_row_order(spans)
    table, low = _row_table(ordered)
    radius = cones.geometry[:, 3::4].max(axis=1)
    depth = skeleton.depth.astype(np.int64)
    pairs = _distant_pairs(ordered, table, low, skeleton.parent.copy(), depth, skeleton.edge_length_um.copy(), cones.tree, radius)
    places = {(int(a), int(b)) for a, b in np.unique(pairs, axis=0)}
    group = {pair: pair for pair in places}

    def head(pair: tuple[int, int]) -> tuple[int, int]:
        while group[pair] != pair:
            pair = group[pair]
        return pair

    parent = skeleton.parent
    for a, b in sorted(places):
        for above in ((a, int(parent[b])), (int(parent[a]), b), (int(parent[a]), int(parent[b]))):
            beside = (min(above), max(above))
            if beside in places:
                group[head((a, b))] = head(beside)
    return sum(group[pair] == pair for pair in places)


# ------------------------------------------------------------------------------------------------------------------ kernels


@njit(cache=True, nogil=True)
def _fill_row_table(ordered: Any, low: Any, table: Any) -> None:
    at = 0
    for z in range(len(table)):
        for y in range(table.shape[1] - 1):
            table[z, y] = at
            while at < len(ordered) and ordered[at, 1] - low[1] == y and ordered[at, 0] - low[0] == z:
                at += 1
        table[z, -1] = at


@njit(cache=True, nogil=True)
def _find(group: Any, i: int) -> int:
    while group[i] != i:
        group[i] = group[group[i]]
        i = group[i]
    return i


@njit(cache=True, nogil=True)
def _join(group: Any, i: int, j: int) -> None:
    i, j = _find(group, i), _find(group, j)
    group[max(i, j)] = min(i, j)


@njit(cache=True, nogil=True)
def _join_rows(runs: Any, group: Any, i: int, i_end: int, j: int, j_end: int, reach: int) -> None:
    """Join the runs of two rows that overlap, or touch within `reach` voxels."""
    while i < i_end and j < j_end:
        if runs[i, 2] < runs[j, 3] + reach and runs[j, 2] < runs[i, 3] + reach:
            _join(group, i, j)
        if runs[i, 3] < runs[j, 3]:
            i += 1
        else:
            j += 1


@njit(cache=True, nogil=True)
def _group_runs(runs: Any, table: Any, diagonal: bool) -> Any:
    group = np.arange(len(runs))
    reach = 1 if diagonal else 0
    for z in range(1, len(table)):
        for y in range(1, table.shape[1] - 1):
            i, i_end = table[z, y], table[z, y + 1]
            for k in range(i, i_end - 1):
                if runs[k, 3] == runs[k + 1, 2]:
                    _join(group, k, k + 1)
            if i == i_end:
                continue
            _join_rows(runs, group, i, i_end, table[z, y - 1], table[z, y], reach)
            for y_below in range(y - reach, y + reach + 1):
                _join_rows(runs, group, i, i_end, table[z - 1, y_below], table[z - 1, y_below + 1], reach)
    for i in range(len(runs)):
        group[i] = group[group[i]]  # heads come first, and stand for themselves
    return group


@njit(cache=True, nogil=True)
def _count_heads(group: Any) -> int:
    count = 0
    for i in range(len(group)):
        count += group[i] == i
    return count


@njit(cache=True, nogil=True)
def _intervals(runs: Any, at: Any, end: Any, n: int) -> int:
    """Intervals in the union of the closed runs of `n` rows; moves `at` to `end`."""
    count, reached = 0, 0
    while True:
        first = -1
        for row in range(n):
            if at[row] < end[row] and (first < 0 or runs[at[row], 2] < runs[at[first], 2]):
                first = row
        if first < 0:
            return count
        run = runs[at[first]]
        if count == 0 or run[2] > reached:
            count += 1
            reached = run[3]
        reached = max(reached, run[3])
        at[first] += 1


@njit(cache=True, nogil=True)
def _euler(runs: Any, table: Any) -> int:
    """Euler characteristic of the closed cubes: vertices - edges + faces - cubes.

    Along x, vertices less edges of a union of intervals is their number; so it is counted over lattice lines (4 rows meet), strips
    (2 rows meet) and rows.
    """
    at, end = np.empty(4, np.int64), np.empty(4, np.int64)
    total = 0
    for z in range(1, len(table)):
        for y in range(1, table.shape[1] - 1):
            if table[z, y - 1] == table[z, y + 1] and table[z - 1, y - 1] == table[z - 1, y + 1]:
                continue
            for dz, dy, sign in ((1, 1, 1), (0, 1, -1), (1, 0, -1), (0, 0, 1)):
                n = 0
                for above in range(dz + 1):
                    for beside in range(dy + 1):
                        at[n], end[n] = table[z - above, y - beside], table[z - above, y - beside + 1]
                        n += at[n] < end[n]
                total += sign * _intervals(runs, at, end, n)
    return total


@njit(cache=True, nogil=True)
def _count_cavities(runs: Any, table: Any, low: Any) -> int:
    """6-connected components of the background that do not reach the outside: joined gaps between two runs of a row."""
    outside = len(runs)
    group = np.arange(len(runs) + 1)
    for i in range(len(runs) - 1):
        if runs[i, 0] != runs[i + 1, 0] or runs[i, 1] != runs[i + 1, 1] or runs[i, 3] == runs[i + 1, 2]:
            continue
        z, y = runs[i, 0] - low[0], runs[i, 1] - low[1]
        for dz, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            j, j_end = table[z + dz, y + dy], table[z + dz, y + dy + 1]
            if j == j_end or runs[i, 3] < runs[j, 2] or runs[i + 1, 2] > runs[j_end - 1, 3]:
                group[_find(group, i)] = _find(group, outside)
            for k in range(j, j_end - 1):
                if max(runs[i, 3], runs[k, 3]) < min(runs[i + 1, 2], runs[k + 1, 2]):
                    one, other = _find(group, i), _find(group, k)
                    group[min(one, other)] = max(one, other)
    count = 0
    for i in range(len(runs) - 1):
        gap = runs[i, 0] == runs[i + 1, 0] and runs[i, 1] == runs[i + 1, 1] and runs[i, 3] < runs[i + 1, 2]
        count += gap and group[i] == i
    return count


@njit(cache=True, nogil=True)
def _distant(a: int, b: int, parent: Any, depth: Any, length: Any, limit: float) -> bool:
    """Whether the edges above nodes a and b of one tree are farther apart along it than `limit` um."""
    x, y, path = a, b, 0.0
    while x != y:
        if depth[x] >= depth[y]:
            path += 0.0 if x == a else length[x]
            x = parent[x]
        else:
            path += 0.0 if y == b else length[y]
            y = parent[y]
        if path > limit:
            return True
    return False


@njit(cache=True, nogil=True)
def _distant_pairs(spans: Any, table: Any, low: Any, parent: Any, depth: Any, length: Any, tree: Any, radius: Any) -> NDArray[np.int64]:
    pairs = np.empty((1024, 2), np.int64)
    n = 0
    for i in range(len(spans)):
        z, y = spans[i, 0] - low[0], spans[i, 1] - low[1]
        for dz, dy in ((0, 0), (0, -1), (-1, -1), (-1, 0), (-1, 1)):
            for j in range(table[z + dz, y + dy], table[z + dz, y + dy + 1]):
                if spans[j, 2] > spans[i, 3]:
                    break
                a, b = min(spans[i, 4], spans[j, 4]), max(spans[i, 4], spans[j, 4])
                if spans[j, 3] < spans[i, 2] or a == b or (n > 0 and pairs[n - 1, 0] == a and pairs[n - 1, 1] == b):
                    continue
                if parent[a] == b or parent[b] == a:  # most pairs, and never distant
                    continue
                if tree[a] == tree[b] and not _distant(a, b, parent, depth, length, _DISTANT_UM + pi * (radius[a] + radius[b])):
                    continue
                if n == len(pairs):
                    pairs = np.concatenate((pairs, np.empty_like(pairs)))
                pairs[n, 0], pairs[n, 1] = a, b
                n += 1
    return pairs[:n]
