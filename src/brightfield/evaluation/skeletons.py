"""Skeleton metrics: path length within a tolerance, the substantial spatial distance, and the segments that true nodes lie in.

Paths are compared as lines, not as nodes: a trace is cut into pieces of at most `STEP_UM`, and a piece counts by its middle's exact
distance to the other trace's edges.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import fsum

import numpy as np
from numpy.typing import NDArray

from brightfield.core.codes import Label
from brightfield.core.errors import GridError
from brightfield.core.skeleton import ROOT, Skeleton
from brightfield.evaluation.runlength import NO_SEGMENT
from brightfield.evaluation.voxels import harmonic_mean, ratio

TOLERANCE_UM = 2.0
"""How far a path may lie from the truth and still be found: the usual threshold (PyNeval, DIADEM)."""

STEP_UM = 0.5
"""Longest piece that paths are cut into."""

MOST_PIECES = 1 << 22
"""Pieces of two metres of path: what lies far away is refused before it is cut up."""

_SAME_UM = 1e-6

type Points = NDArray[np.float64]
type Indices = NDArray[np.int64]
type Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pieces:
    """A path cut up. start_um, end_um: (m, 3) z, y, x. owner: (m,) index of the node whose edge to its parent each piece is part of."""

    start_um: Points
    end_um: Points
    owner: Indices

    @property
    def middle_um(self) -> Points:
        """(m, 3) the middle of each piece."""
        return (self.start_um + self.end_um) / 2

    @property
    def length_um(self) -> NDArray[np.float64]:
        """(m,) the length of each piece."""
        return _norm(self.end_um - self.start_um)


def pieces_of(skeleton: Skeleton, step_um: float = STEP_UM) -> Pieces:
    """Every edge in equal pieces of at most `step_um`, from the node to its parent; a lone root is one piece of length 0."""
    node = np.flatnonzero((skeleton.parent != ROOT) | (skeleton.n_children == 0))
    start = skeleton.position_zyx_um[node]
    end = skeleton.position_zyx_um[np.where(skeleton.parent == ROOT, np.arange(len(skeleton)), skeleton.parent)[node]]
    n_pieces = np.maximum(np.ceil(skeleton.edge_length_um[node] / step_um), 1).astype(np.int64)
    row, number = _numbered(n_pieces)
    share = ((end - start) / n_pieces[:, None])[row]
    return Pieces(start[row] + share * number[:, None], start[row] + share * (number[:, None] + 1), node[row])


@dataclass(frozen=True, slots=True)
class Near:
    """Pairs of a point and a piece that lie within a radius: point, piece (k,) indices, distance_um (k,)."""

    point: Indices
    piece: Indices
    distance_um: NDArray[np.float64]

    def nearest_um(self, n_points: int, among: Flags | None = None) -> NDArray[np.float64]:
        """(n_points,) the distance to the nearest piece (of those in `among`), infinite beyond the radius."""
        chosen = slice(None) if among is None else among[self.piece]
        nearest = np.full(n_points, np.inf)
        np.minimum.at(nearest, self.point[chosen], self.distance_um[chosen])
        return nearest


def near_pieces(points_um: Points, pieces: Pieces, radius_um: float) -> Near:
    """All pairs of points (n, 3) and pieces that are at most `radius_um` apart; distances are exact."""
    from scipy.spatial import KDTree

    if not len(points_um) or not len(pieces.owner):
        return Near(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    reach = radius_um + float(pieces.length_um.max()) / 2 + _SAME_UM
    found = KDTree(pieces.middle_um).query_ball_point(points_um, reach, return_sorted=True)
    point = np.repeat(np.arange(len(points_um)), [len(row) for row in found])
    piece = np.concatenate([np.asarray(row, np.int64) for row in found])
    distance = _to_segment(points_um[point], pieces.start_um[piece], pieces.end_um[piece])
    kept = distance <= radius_um
    return Near(point[kept], piece[kept], distance[kept])


# ------------------------------------------------------------------------------------------------------- what lies on the truth


@dataclass(frozen=True, slots=True)
class Fit:
    """How points lie to the true path.

    found: within the tolerance of it, and the nearest edge is scored. exempt: nearest to an edge that is not scored, so neither right
    nor wrong. The others are off the path.
    """

    found: Flags
    exempt: Flags


def fit_of(points_um: Points, truth: Pieces, scored: Flags, tolerance_um: float = TOLERANCE_UM) -> Fit:
    """How points (n, 3) lie to a true path; scored: (nodes,) whether each node's edge to its parent may be scored."""
    near = near_pieces(points_um, truth, tolerance_um)
    to_any = near.nearest_um(len(points_um))
    to_scored = near.nearest_um(len(points_um), scored[truth.owner])
    found = np.isfinite(to_scored) & (to_scored <= to_any + _SAME_UM)
    return Fit(found, np.isfinite(to_any) & ~found)


def path_found_um(truth: Pieces, trace: Pieces, tolerance_um: float = TOLERANCE_UM) -> NDArray[np.float64]:
    """(m,) for every piece of the truth its length where the trace is within the tolerance of its middle, else 0."""
    near = near_pieces(truth.middle_um, trace, tolerance_um)
    return np.where(np.isfinite(near.nearest_um(len(truth.owner))), truth.length_um, 0.0)


def bifurcations(skeleton: Skeleton) -> tuple[Indices, Indices]:
    """The nodes where a path branches, roots and somata excepted, and how often: k children are k - 1 bifurcations."""
    branches = (skeleton.n_children > 1) & (skeleton.parent != ROOT) & (skeleton.type != Label.SOMA)
    node = np.flatnonzero(branches)
    return node, skeleton.n_children[node] - 1


# ------------------------------------------------------------------------------------------------------ substantial spatial distance


@dataclass(frozen=True, slots=True)
class Substantial:
    """One direction of the substantial spatial distance, adding up over cells: n points, of them n_far at `distance_um` in all."""

    n: int = 0
    n_far: int = 0
    distance_um: float = 0.0

    def __add__(self, other: Substantial) -> Substantial:
        return Substantial(self.n + other.n, self.n_far + other.n_far, self.distance_um + other.distance_um)

    @property
    def mean_um(self) -> float:
        """Mean distance of the far points; 0 where none is far."""
        return self.distance_um / self.n_far if self.n_far else 0.0

    @property
    def share_near(self) -> float | None:
        """Share of points that are near: PyNeval's recall of the truth, and its precision of the prediction."""
        return ratio(self.n - self.n_far, self.n)


@dataclass(frozen=True, slots=True)
class Distance:
    """The substantial spatial distance of two skeletons (Peng et al. 2010, doi:10.1038/nbt.1612), as PyNeval computes it."""

    of_truth: Substantial = field(default_factory=Substantial)
    of_trace: Substantial = field(default_factory=Substantial)

    def __add__(self, other: Distance) -> Distance:
        return Distance(self.of_truth + other.of_truth, self.of_trace + other.of_trace)

    @property
    def ssd_um(self) -> float:
        """Mean of the two directions' mean distances over the points that are far from the other skeleton."""
        return (self.of_truth.mean_um + self.of_trace.mean_um) / 2

    @property
    def f1(self) -> float | None:
        """Harmonic mean of the shares of points that are near."""
        return harmonic_mean(self.of_truth.share_near, self.of_trace.share_near)


def sampled(skeleton: Skeleton, spacing_um: float = 2.0) -> tuple[Points, Indices]:
    """The nodes and points between them, as PyNeval adds them: an edge becomes floor(length / spacing) equal parts.

    Returns positions (m, 3) um and for each the index of the node whose edge it lies on (a root is its own).
    """
    n_parts = np.maximum(np.floor(skeleton.edge_length_um / spacing_um), 1).astype(np.int64)
    node, number = _numbered(n_parts)
    start = skeleton.position_zyx_um
    step = np.where((skeleton.parent == ROOT)[:, None], 0.0, start[skeleton.parent] - start) / n_parts[:, None]
    return start[node] + step[node] * number[:, None], node


def spatial_distance(
    truth: Skeleton, trace: Skeleton, *, far_um: float = TOLERANCE_UM, spacing_um: float = 2.0, counted: tuple[Flags, Flags] | None = None
) -> Distance:
    """The substantial spatial distance of a trace.

    A point is far when its nearest point of the other skeleton is `far_um` away or more. counted: which points of `sampled` count, of the
    truth and of the trace (default all). An empty skeleton is infinitely far, so that no point of the other counts as near.
    """
    truth_um, trace_um = sampled(truth, spacing_um)[0], sampled(trace, spacing_um)[0]
    of_truth, of_trace = counted or (np.ones(len(truth_um), np.bool_), np.ones(len(trace_um), np.bool_))
    return Distance(_substantial(truth_um[of_truth], trace_um, far_um), _substantial(trace_um[of_trace], truth_um, far_um))


def _substantial(from_um: Points, to_um: Points, far_um: float) -> Substantial:
    from scipy.spatial import KDTree

    if not len(from_um):
        return Substantial()
    away = KDTree(to_um).query(from_um)[0]
    far = away >= far_um
    return Substantial(len(from_um), int(far.sum()), fsum(away[far]))


# ---------------------------------------------------------------------------------------------------------------- true nodes in a trace


def tree_of_nodes(truth: Skeleton, trace: Skeleton, tolerance_um: float = TOLERANCE_UM) -> Indices:
    """(n,) for every node of the truth the number of the nearest tree of the trace, from 1; `NO_SEGMENT` beyond the tolerance.

    Trees equally near: the one that holds most nodes of the same true tree, then the lower number.
    """
    pieces = pieces_of(trace)
    near = near_pieces(truth.position_zyx_um, pieces, tolerance_um)
    nearest = near.nearest_um(len(truth))
    tied = near.distance_um <= nearest[near.point] + _SAME_UM
    node, tree = np.unique(np.stack([near.point[tied], trace.tree[pieces.owner[near.piece[tied]]] + 1]), axis=1)
    sure = np.bincount(node, minlength=len(truth))[node] == 1
    support = np.zeros((truth.n_trees, trace.n_trees + 1), np.int64)
    np.add.at(support, (truth.tree[node[sure]], tree[sure]), 1)
    order = np.lexsort((tree, -support[truth.tree[node], tree], node))
    chosen, first = np.unique(node[order], return_index=True)
    segment = np.full(len(truth), NO_SEGMENT, np.int64)
    segment[chosen] = tree[order][first]
    return segment


# --------------------------------------------------------------------------------------------------------------------------- geometry


def _numbered(counts: Indices) -> tuple[Indices, Indices]:
    """For counts 2, 1, 3: rows 0 0 1 2 2 2 and numbers 0 1 0 0 1 2. Raises GridError for more rows than any neuron has."""
    if counts.sum() > MOST_PIECES:
        raise GridError(f"a path of {counts.sum()} pieces is no neuron's, {MOST_PIECES} are the most; look for nodes that lie far away")
    row = np.repeat(np.arange(len(counts)), counts)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)


def _to_segment(points: Points, start: Points, end: Points) -> NDArray[np.float64]:
    """Distance of each point to its segment."""
    along = end - start
    squared = (along * along).sum(axis=1)
    share = np.clip(((points - start) * along).sum(axis=1) / np.where(squared > 0, squared, 1.0), 0.0, 1.0)
    return _norm(points - start - share[:, None] * along)


def _norm(step: Points) -> NDArray[np.float64]:
    length: NDArray[np.float64] = np.sqrt((step * step).sum(axis=1))
    return length
