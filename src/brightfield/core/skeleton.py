"""One reconstruction as a forest of nodes, and the questions that its graph answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import fsum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brightfield.core.codes import LABEL_NAMES, NEURITE_LABELS, Finding, Label
from brightfield.core.errors import SkeletonError
from brightfield.core.space import Triple

type Indices = NDArray[np.int64]
type Reals = NDArray[np.float64]

ROOT = -1
"""The parent of a root, in the file and in `Skeleton.parent`."""

FARTHEST_UM = 1e10
"""No length of a skeleton is larger: voxel numbers of any grid, and squares, stay numbers."""


@dataclass(frozen=True, eq=False)
class Skeleton:
    """One reconstruction: a forest of nodes, in the order of the file. All arrays are read-only.

    - node_id: (n,) int64, the ids of the file: unique, >= 0, gaps allowed.
    - type: (n,) int64, SWC types as read: 1 soma, 2 axon, 3 basal dendrite, 4 apical dendrite; others are kept and have `label` UNKNOWN.
    - position_zyx_um: (n, 3) float64, exactly the decimals of the file.
    - radius_um: (n,) float64, >= 0, as traced; axon radii of Allen files are placeholders.
    - parent: (n,) int64, INDEX of the parent in these arrays, or -1 for a root.
    - findings: what is odd about the file but leaves it readable.

    Two skeletons are equal when their five arrays are. Whatever is numbered (trees, stretches) is numbered by node id, so that an
    answer never depends on the order of the lines. Raises SkeletonError for arrays that are no forest of finite nodes.
    """

    node_id: Indices
    type: Indices
    position_zyx_um: Reals
    radius_um: Reals
    parent: Indices
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.node_id)
        for name, dtype, shape in _FIELDS:
            array: NDArray[Any] = np.array(getattr(self, name), dtype)
            if array.shape != (n, *shape):
                raise SkeletonError(f"a skeleton of {n} nodes needs {name} of shape {(n, *shape)}, found {array.shape}")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        self._check()

    def _check(self) -> None:
        """Raise SkeletonError for arrays that no graph can be walked in."""
        lengths_um = np.column_stack([self.position_zyx_um, self.radius_um])
        self._refuse(~np.all(np.abs(lengths_um) < FARTHEST_UM, axis=1), "its position or radius is not a number of micrometres")
        self._refuse(self.radius_um < 0, "its radius is negative")
        first = np.unique(self.node_id, return_index=True)[1]
        self._refuse((self.node_id < 0) | ~np.isin(np.arange(len(self)), first), "its id is negative or that of another node")
        self._refuse((self.parent < ROOT) | (self.parent >= len(self)), f"its parent is no index of the {len(self)} nodes, and not {ROOT}")
        self._refuse(np.isin(np.arange(len(self)), on_cycles(self.parent)), "it is its own ancestor")

    def _refuse(self, bad: NDArray[np.bool_], problem: str) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            raise SkeletonError(f"node {self.node_id[row]} (index {row}) makes no skeleton: {problem}; correct the arrays")

    def __len__(self) -> int:
        return len(self.node_id)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Skeleton):
            return NotImplemented
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name, _, _ in _FIELDS)

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash

    # ------------------------------------------------------------------------------------------------------------- the forest

    @cached_property
    def label(self) -> NDArray[np.uint8]:
        """(n,) uint8: the label code of each node, and so of the edge to its parent; UNKNOWN (255) for types other than 1 to 4."""
        known = np.isin(self.type, [int(code) for code in NEURITE_LABELS])
        return _frozen(np.where(known, self.type, int(Label.UNKNOWN)).astype(np.uint8))

    @cached_property
    def roots(self) -> Indices:
        """Indices of the nodes without parent, by node id: one per tree."""
        return self._by_id(self.parent == ROOT)

    @cached_property
    def tree(self) -> Indices:
        """(n,) int64: number of each node's tree, 0 .. n_trees - 1 in the order of `roots`."""
        number = np.empty(len(self), np.int64)
        number[self.roots] = np.arange(len(self.roots))
        return _frozen(number[_follow(np.where(self.parent == ROOT, np.arange(len(self)), self.parent))])

    @property
    def n_trees(self) -> int:
        """How many roots there are."""
        return len(self.roots)

    @cached_property
    def n_children(self) -> Indices:
        """(n,) int64: how many nodes name this one as their parent."""
        return _frozen(np.bincount(self.parent[self.parent != ROOT], minlength=len(self)))

    @cached_property
    def first_child(self) -> Indices:
        """(n,) int64: index of each node's child with the lowest node id; -1 for tips."""
        first = np.full(len(self), -1, np.int64)
        parent, child = self.edges[::-1].T
        first[parent] = child  # the last assignment wins: the lowest id
        return _frozen(first)

    @cached_property
    def depth(self) -> Indices:
        """(n,) int64: edges between a node and its root; sorting by it puts parents before children."""
        return _frozen(_accumulate(self.parent, (self.parent != ROOT).astype(np.int64)))

    @cached_property
    def edges(self) -> Indices:
        """(n_edges, 2) int64: indices (parent, child) of every edge, by the child's node id."""
        child = self._by_id(self.parent != ROOT)
        return _frozen(np.stack([self.parent[child], child], axis=1))

    @cached_property
    def tips(self) -> Indices:
        """Indices of the nodes without children, roots excepted, by node id."""
        return self._by_id((self.n_children == 0) & (self.parent != ROOT))

    @cached_property
    def branch_points(self) -> Indices:
        """Indices of the nodes with two children or more, by node id."""
        return self._by_id(self.n_children > 1)

    @cached_property
    def soma(self) -> int | None:
        """Index of the soma: the type-1 node with the lowest (depth, node id); None where there is none."""
        candidates = np.flatnonzero(self.type == Label.SOMA)
        if not len(candidates):
            return None
        return int(candidates[np.lexsort((self.node_id[candidates], self.depth[candidates]))[0]])

    # ---------------------------------------------------------------------------------------------------------------- lengths

    @cached_property
    def edge_length_um(self) -> Reals:
        """(n,) float64: distance of each node to its parent; 0 for roots."""
        step = self.position_zyx_um - self.position_zyx_um[self.parent]
        return _frozen(np.where(self.parent == ROOT, 0.0, norm(step)))

    def path_length_um(self) -> dict[Label, float]:
        """Path length by class; an edge is of its child's class. Classes without nodes are there, with 0."""
        codes = (*NEURITE_LABELS, Label.UNKNOWN)
        return {code: fsum(self.edge_length_um[self.label == code]) for code in codes}

    @property
    def in_tables(self) -> dict[str, int | float]:
        """What the tables say of it: nodes, trees, and path length of each class, um."""
        lengths = self.path_length_um()
        paths = {f"path_{name}_um": round(lengths[label], 6) for label, name in LABEL_NAMES.items()}
        return {"n_nodes": len(self), "n_trees": self.n_trees, **paths}

    @property
    def bounding_box_um(self) -> tuple[Triple, Triple]:
        """Lowest and highest node position, (z, y, x) um."""
        low, high = self.position_zyx_um.min(axis=0).tolist(), self.position_zyx_um.max(axis=0).tolist()
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def stretches(self, stretch_um: float) -> Indices:
        """(n,) int64: number of the unbranched stretch that each node's edge belongs to; -1 for roots, which have no edge.

        A section is a maximal path without branch point, root or change of class inside. It is cut at nodes into
        ``ceil(length / stretch_um)`` pieces of about the same length: an edge belongs to the piece its middle lies in, so that no
        sliver is left over. A piece is longer than `stretch_um` by less than one edge. Numbers 0, 1, ... follow the lowest node id.
        """
        inner = (self.parent != ROOT) & (self.parent[self.parent] != ROOT)
        inner &= (self.n_children[self.parent] == 1) & (self.label == self.label[self.parent])
        upstream = np.where(inner, self.parent, ROOT)
        head = _follow(np.where(inner, self.parent, np.arange(len(self))))
        end_um = _accumulate(upstream, self.edge_length_um)
        section_um = np.zeros(len(self))
        np.maximum.at(section_um, head, end_um)
        n_pieces = np.maximum(np.ceil(section_um / stretch_um), 1.0)[head]
        share = (end_um - self.edge_length_um / 2) / np.where(section_um > 0, section_um, 1.0)[head]
        piece = np.minimum(np.floor(share * n_pieces), n_pieces - 1).astype(np.int64)
        return self._numbered(np.stack([head, piece], axis=1), self.parent != ROOT)

    # ------------------------------------------------------------------------- what the database says of it, to check our reading

    @property
    def n_stems(self) -> int:
        """Neurites other than axon that leave the soma: the database's `number_stems`. 0 without a soma."""
        leaves = (self.parent != ROOT) & (self.type[self.parent] == Label.SOMA)
        return int(np.count_nonzero(leaves & (self.type != Label.AXON) & (self.type != Label.SOMA)))

    @property
    def n_bifurcations(self) -> int:
        """Branchings of the non-axon subtree away from the soma, k children counting k - 1: the database's `number_bifurcations`."""
        child = np.flatnonzero((self.parent != ROOT) & (self.type != Label.AXON))
        parent = self.parent[child]
        n_children = np.bincount(parent[(self.type[parent] != Label.AXON) & (parent != self.soma)], minlength=len(self))
        return int(np.maximum(n_children - 1, 0).sum())

    @property
    def max_euclidean_distance_um(self) -> float:
        """Distance from the soma to the farthest non-axon node: the database's `max_euclidean_distance`. NaN without a soma."""
        if self.soma is None:
            return float("nan")
        others = self.position_zyx_um[self.type != Label.AXON]
        return float(norm(others - self.position_zyx_um[self.soma]).max())

    # ------------------------------------------------------------------------------------------------------------------ copies

    def moved_to(self, position_zyx_um: ArrayLike) -> Skeleton:
        """The same skeleton with its nodes at other positions, (n, 3) um."""
        return replace(self, position_zyx_um=np.asarray(position_zyx_um, np.float64))

    def parents_first(self) -> Skeleton:
        """The same nodes with every parent before its children and trees one after the other: how strict readers want them."""
        order = np.lexsort((self.node_id, self.depth, self.tree))
        rank = np.empty(len(self), np.int64)
        rank[order] = np.arange(len(self))
        parent = self.parent[order]
        arrays = {name: getattr(self, name)[order] for name, _, _ in _FIELDS}
        return Skeleton(**{**arrays, "parent": np.where(parent == ROOT, ROOT, rank[parent])}, findings=self.findings)

    def _by_id(self, chosen: NDArray[np.bool_]) -> Indices:
        index = np.flatnonzero(chosen)
        return _frozen(index[np.argsort(self.node_id[index], kind="stable")])

    def _numbered(self, key: Indices, chosen: NDArray[np.bool_]) -> Indices:
        """Rank equal rows of `key` by the lowest node id that has them; -1 for the nodes that are not chosen."""
        number = np.full(len(self), -1, np.int64)
        index = self._by_id(chosen)
        if len(index):
            _, first, group = np.unique(key[index], axis=0, return_index=True, return_inverse=True)
            rank = np.empty(len(first), np.int64)
            rank[np.argsort(first)] = np.arange(len(first))
            number[index] = rank[group.reshape(-1)]
        return _frozen(number)


_FIELDS: tuple[tuple[str, type, tuple[int, ...]], ...] = (
    ("node_id", np.int64, ()),
    ("type", np.int64, ()),
    ("position_zyx_um", np.float64, (3,)),
    ("radius_um", np.float64, ()),
    ("parent", np.int64, ()),
)


def _frozen[A: NDArray[Any]](array: A) -> A:
    array.setflags(write=False)
    return array


def norm(step: Reals) -> Reals:
    """Euclidean length of rows, written out: the same bits on every machine, which a BLAS norm does not promise."""
    length: Reals = np.sqrt(step[:, 0] * step[:, 0] + step[:, 1] * step[:, 1] + step[:, 2] * step[:, 2])
    return length


def on_cycles(parent: Indices) -> Indices:
    """Indices of nodes that are their own ancestors, one for every node above which no root is; by doubling, in log2(n) steps."""
    n = len(parent)
    link = np.append(np.where(parent == ROOT, n, parent), n)
    for _ in range(n.bit_length()):
        link = link[link]
    found: Indices = link[link != n]
    return found


def _follow(link: Indices) -> Indices:
    """Where each node ends up when links are followed until they point to themselves; by doubling, in log2(depth) steps."""
    while not np.array_equal(farther := link[link], link):
        link = farther
    return link


def _accumulate[A: NDArray[Any]](parent: Indices, value: A) -> A:
    """Sum of `value` over each node and all its ancestors; by doubling, in log2(depth) steps."""
    n = len(parent)
    link = np.append(np.where(parent == ROOT, n, parent), n)
    total = np.append(value, value.dtype.type(0))
    while np.any(link[:n] != n):
        total = total + total[link]
        link = link[link]
    return total[:n]  # type: ignore[return-value]
