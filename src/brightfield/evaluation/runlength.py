"""Expected run length, splits and merges, as funlib.evaluate defines them (Januszewski et al. 2018, doi:10.1038/s41592-018-0049-4).

Every node of the true skeletons carries the number of the predicted segment it lies in. An edge is correct when both its ends lie in one
segment and that segment holds nodes of no other skeleton. Per skeleton and segment the correct edges make one run; the expected run length
is the mean length of the run that a random point of the true path lies in, runs of wrong edges having length 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum

import numpy as np
from numpy.typing import NDArray

from brightfield.evaluation.voxels import ratio

NO_SEGMENT = 0
"""The segment of a node that was not found."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Counts that add up over cells.

    path_um: true path length. squared_um2: sum of the squares of the correct runs; perfect_um2: the same where every skeleton is one run.
    n_correct, n_split, n_merged, n_omitted: edges by what became of them. n_merges: segments that hold nodes of several skeletons.
    """

    path_um: float = 0.0
    squared_um2: float = 0.0
    perfect_um2: float = 0.0
    n_correct: int = 0
    n_split: int = 0
    n_merged: int = 0
    n_omitted: int = 0
    n_merges: int = 0

    def __add__(self, other: Runs) -> Runs:
        return Runs(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    @property
    def erl_um(self) -> float | None:
        """Expected run length in um; None without a path."""
        return ratio(self.squared_um2, self.path_um)

    @property
    def largest_erl_um(self) -> float | None:
        """The expected run length of a prediction without errors."""
        return ratio(self.perfect_um2, self.path_um)


def run_lengths(
    edges: NDArray[np.int64],
    length_um: NDArray[np.float64],
    skeleton: NDArray[np.int64],
    segment: NDArray[np.int64],
    apart: NDArray[np.int64] | None = None,
) -> Runs:
    """Run lengths, splits and merges of true skeletons in predicted segments.

    edges: (m, 2) node indices. length_um: (m,). skeleton: (n,) number of each node's skeleton. segment: (n,) number of the segment that
    each node lies in, `NO_SEGMENT` where in none. apart: (n,) number of the object that each node belongs to when merges are counted: one
    or more whole skeletons (default: each is one). Nodes without an edge count for merges too, as in funlib.
    """
    first, second = segment[edges[:, 0]], segment[edges[:, 1]]
    merging = merging_segments(skeleton if apart is None else apart, segment)
    omitted = (first == NO_SEGMENT) | (second == NO_SEGMENT)
    split = ~omitted & (first != second)
    merged = ~omitted & ~split & np.isin(first, merging)
    correct = ~(omitted | split | merged)
    owner = skeleton[edges[:, 0]]
    run_um = _sums(np.stack([owner, first], axis=1)[correct], length_um[correct])
    whole_um = _sums(owner[:, None], length_um)
    return Runs(
        path_um=fsum(length_um),
        squared_um2=fsum(run_um**2),
        perfect_um2=fsum(whole_um**2),
        n_correct=int(correct.sum()),
        n_split=int(split.sum()),
        n_merged=int(merged.sum()),
        n_omitted=int(omitted.sum()),
        n_merges=int(np.count_nonzero(merging != NO_SEGMENT)),
    )


def merging_segments(skeleton: NDArray[np.int64], segment: NDArray[np.int64]) -> NDArray[np.int64]:
    """The segments that hold nodes of two skeletons or more, `NO_SEGMENT` perhaps among them."""
    pairs = np.unique(np.stack([segment, skeleton], axis=1), axis=0)
    segments, n_skeletons = np.unique(pairs[:, 0], return_counts=True)
    return segments[n_skeletons > 1]


def _sums(keys: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of the values of every distinct row of keys."""
    if not len(keys):
        return np.empty(0)
    _, group = np.unique(keys, axis=0, return_inverse=True)
    sums: NDArray[np.float64] = np.bincount(group.reshape(-1), weights=values)
    return sums
