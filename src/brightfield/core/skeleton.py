"""What was traced: SWC and marker text in, one immutable `Skeleton` out, and the questions that its graph answers.

An SWC file has one node per line: ``id type x y z radius parent``; x, y, z and radius are um, parent -1 is a root. Text has (x, y, z) here,
and only here; arrays have (z, y, x). What is no forest of nodes is a SkeletonError with its line; what is readable but odd, a Finding.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from math import fsum
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brightfield.core.codes import NEURITE_LABELS, Finding, Label, MarkerKind, Severity
from brightfield.core.errors import InputError, MarkerError, SkeletonError
from brightfield.core.files import write_bytes
from brightfield.core.space import Grid, Triple

type Indices = NDArray[np.int64]
type Reals = NDArray[np.float64]

ROOT = -1
"""The parent of a root, in the file and in `Skeleton.parent`."""

LARGEST_ID = 2**53
"""Ids are read as float64, exact up to here."""

FARTHEST_UM = 1e7
"""A coordinate beyond ten metres is not in micrometres; it also keeps squared distances finite."""


@dataclass(frozen=True, eq=False)
class Skeleton:
    """One reconstruction: a forest of nodes, in the order of the file. All arrays are read-only.

    node_id: (n,) int64, the ids of the file: unique, >= 0, gaps allowed.
    type: (n,) int64, SWC types as read: 1 soma, 2 axon, 3 basal dendrite, 4 apical dendrite; others are kept and have `label` UNKNOWN.
    position_zyx_um: (n, 3) float64, exactly the decimals of the file.
    radius_um: (n,) float64, >= 0, as traced; axon radii of Allen files are placeholders.
    parent: (n,) int64, INDEX of the parent in these arrays, or -1 for a root.
    findings: what is odd about the file but leaves it readable.

    Two skeletons are equal when their five arrays are. Whatever is numbered (trees, stretches) is numbered by node id, so that an
    answer never depends on the order of the lines.
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
        return _frozen(np.where(self.parent == ROOT, 0.0, _norm(step)))

    def path_length_um(self) -> dict[Label, float]:
        """Path length by class; an edge is of its child's class. Classes without nodes are there, with 0."""
        codes = (*NEURITE_LABELS, Label.UNKNOWN)
        return {code: fsum(self.edge_length_um[self.label == code]) for code in codes}

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
        if self.soma is None:
            return 0
        return int(np.count_nonzero((self.parent == self.soma) & (self.type != Label.AXON)))

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
        return float(_norm(others - self.position_zyx_um[self.soma]).max())

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


def _norm(step: Reals) -> Reals:
    """Euclidean length of rows, written out: the same bits on every machine, which a BLAS norm does not promise."""
    length: Reals = np.sqrt(step[:, 0] * step[:, 0] + step[:, 1] * step[:, 1] + step[:, 2] * step[:, 2])
    return length


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


# ----------------------------------------------------------------------------------------------------------------------- reading SWC

_SWC_COLUMNS = ("id", "type", "x", "y", "z", "radius", "parent")
_IS_UM = np.array([False, False, True, True, True, True, False])
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)


def read_swc(path: str | Path) -> Skeleton:
    """Read an SWC file.

    Reads any line ending, comments (also behind a node), blank lines, a UTF-8 mark, several trees, ids from 0 or with gaps, children
    before parents and nodes at one position. Raises SkeletonError, with file, line and remedy, for anything that is not a forest of
    finite nodes.
    """
    return parse_swc(_bytes_of(path, SkeletonError), path=path)


def parse_swc(data: bytes, path: str | Path = "<bytes>") -> Skeleton:
    """Parse the bytes of an SWC file; `path` is only for messages. See `read_swc`."""
    _refuse_wide_text(data, path, SkeletonError)
    text = _Text(path, data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
    values = text.values()
    text.refuse(~np.all(np.abs(values) < FARTHEST_UM, axis=1, where=_IS_UM), "a coordinate or radius is not a number of micrometres")
    text.refuse(values[:, 5] < 0, "the radius is negative")
    for column in np.flatnonzero(~_IS_UM):
        whole = (values[:, column] == np.floor(values[:, column])) & (np.abs(values[:, column]) < LARGEST_ID)
        text.refuse(~whole, f"{_SWC_COLUMNS[column]} is not a whole number")
    node_id, kind, parent_id = values[:, ~_IS_UM].astype(np.int64).T
    text.refuse(node_id < 0, "the node id is negative")
    parent = _parent_index(text, node_id, parent_id)
    _refuse_cycles(text, node_id, parent)
    skeleton = Skeleton(node_id, kind, values[:, [4, 3, 2]], values[:, 5], parent)
    return replace(skeleton, findings=(*_line_end_findings(text, skeleton), *_findings(text, skeleton)))


@dataclass(frozen=True)
class _Text:
    """The text of one SWC file with Unix line ends: to parse at once, and to point at a line when that fails."""

    path: str | Path
    data: bytes

    def values(self) -> Reals:
        """All nodes as (n, 7) float64; points at the first line that does not have its seven numbers."""
        if not self.rows_exist():
            raise SkeletonError("no node in the file: it is empty or holds only comments; fetch it again", path=self.path, line=1)
        try:
            values = np.loadtxt(BytesIO(self.data), np.float64, comments="#", ndmin=2, encoding="latin-1")
        except ValueError:
            self._name_bad_row()
        if values.shape[1] != len(_SWC_COLUMNS):
            self._name_bad_row()
        return values

    def rows_exist(self) -> bool:
        """Whether any line holds something besides a comment."""
        return any(line.split(b"#", 1)[0].strip() for line in self.data.split(b"\n"))

    @cached_property
    def rows(self) -> list[tuple[int, list[str]]]:
        """Number and fields of every line that holds something besides a comment."""
        lines = enumerate(self.data.decode("latin-1").split("\n"), start=1)
        return [(number, fields) for number, line in lines if (fields := line.split("#", 1)[0].split())]

    def line(self, row: int) -> int:
        """The number, from 1, of a node's line."""
        return self.rows[row][0]

    def refuse(self, bad: NDArray[np.bool_], problem: str) -> None:
        """Raise for the first node that is bad."""
        if bad.any():
            self.fail(int(np.argmax(bad)), problem)

    def fail(self, row: int, problem: str) -> NoReturn:
        """Raise SkeletonError at a node's line, quoting it."""
        number, fields = self.rows[row]
        quote = " ".join(fields)[:120]
        raise SkeletonError(f"{problem} (found {quote!r}); fetch the file again or repair this line", path=self.path, line=number)

    def _name_bad_row(self) -> NoReturn:
        for row, (_, fields) in enumerate(self.rows):
            if len(fields) != len(_SWC_COLUMNS):
                cut = ", the file was cut off here" if row == len(self.rows) - 1 and len(fields) < len(_SWC_COLUMNS) else ""
                self.fail(row, f"a node has the 7 fields {' '.join(_SWC_COLUMNS)}, this line has {len(fields)}{cut}")
            for name, field in zip(_SWC_COLUMNS, fields, strict=True):
                if not _NUMBER.fullmatch(field):
                    self.fail(row, f"{name} is not a number: {field!r}")
        raise SkeletonError("not readable as SWC; save it as plain ASCII or UTF-8 text, or fetch it again", path=self.path, line=1)


def _bytes_of(path: str | Path, error: type[InputError]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as problem:
        raise error(f"cannot be read: {problem.strerror}; fetch it again", path=path) from problem


def _refuse_wide_text(data: bytes, path: str | Path, error: type[InputError]) -> None:
    if b"\0" in data or data.startswith((b"\xff\xfe", b"\xfe\xff")):
        kind = "UTF-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "binary or UTF-16"
        remedy = "save it as plain ASCII or UTF-8 text, or fetch it again"
        raise error(f"not plain text but {kind}; {remedy}", path=path, line=1 + data[: data.find(b"\0")].count(b"\n"))


def _parent_index(text: _Text, node_id: Indices, parent_id: Indices) -> Indices:
    order = np.argsort(node_id, kind="stable")
    by_id = node_id[order]
    repeats = order[1:][by_id[1:] == by_id[:-1]]
    if len(repeats):
        row = int(repeats.min())
        first = text.line(int(np.argmax(node_id == node_id[row])))
        text.fail(row, f"node id {node_id[row]} is already the one of line {first}")
    found = np.minimum(np.searchsorted(by_id, parent_id), len(order) - 1)
    is_root = parent_id == ROOT
    missing = ~is_root & (by_id[found] != parent_id)
    if missing.any():
        row = int(np.argmax(missing))
        text.fail(row, f"the parent {parent_id[row]} is not a node of the file (a root has parent -1)")
    return np.where(is_root, ROOT, order[found])


def _refuse_cycles(text: _Text, node_id: Indices, parent: Indices) -> None:
    n = len(parent)
    link = np.append(np.where(parent == ROOT, n, parent), n)
    for _ in range(n.bit_length()):
        link = link[link]
    on_cycle = link[:n][link[:n] != n]
    if len(on_cycle):
        row = int(on_cycle.min())
        members = [row]
        while (up := int(parent[members[-1]])) != row:
            members.append(up)
        chain = " -> ".join(str(node_id[i]) for i in [*members[:6], *([row] if len(members) <= 6 else [])])
        text.fail(row, f"nodes are their own ancestors: {chain}{' ...' if len(members) > 6 else ''}")


def _line_end_findings(text: _Text, skeleton: Skeleton) -> list[Finding]:
    """A last line without line end may be cut inside its parent id; certain when a continued id names a node ten times nearer."""
    if b"#" in (tail := text.data[text.data.rfind(b"\n") + 1 :]) or not tail.strip():
        return []
    last = len(skeleton) - 1
    stated = skeleton.parent[last]
    if stated != ROOT:
        digits = str(skeleton.node_id[stated])
        continued = np.array([str(i).startswith(digits) for i in skeleton.node_id]) & (np.arange(len(skeleton)) != last)
        away_um = _norm(skeleton.position_zyx_um[continued] - skeleton.position_zyx_um[last])
        if away_um.min() < skeleton.edge_length_um[last] / 10:
            text.fail(last, f"the file ends inside this line: node {digits} is no neighbour, a node whose id goes on like that is")
    message = f"line {text.line(last)}, the last one, has no line end: the file may be cut"
    return [Finding(Severity.WARNING, "swc-line-end", message, remedy="compare its size or its hash with the source")]


def _findings(text: _Text, skeleton: Skeleton) -> list[Finding]:
    somata = np.flatnonzero(skeleton.type == Label.SOMA)
    odd = [
        (
            "swc-type",
            skeleton.label == Label.UNKNOWN,
            "with a type other than 1 to 4",
            "they are labelled unknown; give them one to train on them",
        ),
        ("swc-radius", skeleton.radius_um == 0, "of radius 0", "they are drawn with `labels.r_min_um`"),
        ("swc-frame", (skeleton.position_zyx_um < 0).any(axis=1), "with a negative coordinate", "take the SWC in the frame of the image"),
    ]
    findings = []
    for check, bad, what, remedy in odd:
        if bad.any():
            message = f"{np.count_nonzero(bad)} node(s) {what}, first on line {text.line(int(np.argmax(bad)))}"
            findings.append(Finding(Severity.WARNING, check, message, remedy=remedy))
    if len(somata) != 1 or skeleton.parent[somata[0]] != ROOT:
        message = f"one soma node (type 1) that is a root is expected, found {len(somata)}" + (" with a parent" if len(somata) == 1 else "")
        findings.append(Finding(Severity.WARNING, "swc-soma", message, remedy="check the reconstruction"))
    return findings


# ----------------------------------------------------------------------------------------------------------------------- writing SWC


def format_swc(skeleton: Skeleton, grid: Grid | None = None) -> bytes:
    """The SWC text of a skeleton, nodes in array order.

    Without `grid`: um, with the shortest decimals that read back to the same float64. With `grid`: continuous voxel coordinates of it (an
    integer is a voxel's centre) and radii in voxels of x.
    """
    position = skeleton.position_zyx_um if grid is None else grid.to_voxel(skeleton.position_zyx_um)
    radius = skeleton.radius_um if grid is None else skeleton.radius_um / grid.voxel_size_zyx_um[2]
    unit = "um" if grid is None else f"voxels of (z, y, x) = {grid.voxel_size_zyx_um} um, radius in voxels of x"
    parent_id = np.where(skeleton.parent == ROOT, ROOT, skeleton.node_id[skeleton.parent])
    columns = (skeleton.node_id, skeleton.type, *position.T[::-1], radius, parent_id)
    rows = [" ".join(map(repr, row)) for row in zip(*(column.tolist() for column in columns), strict=True)]
    return "\n".join([f"# x, y, z in {unit}", f"# {' '.join(_SWC_COLUMNS)}", *rows, ""]).encode("ascii")


def write_swc(skeleton: Skeleton, path: str | Path, grid: Grid | None = None) -> Path:
    """Write `format_swc` atomically; `read_swc` of an export in um gives an equal skeleton."""
    return write_bytes(Path(path), format_swc(skeleton, grid))


# ------------------------------------------------------------------------------------------------------------------------- markers

_MARKER_COLUMNS = ("x", "y", "z", "radius", "shape", "name", "comment", "color_r", "color_g", "color_b")


@dataclass(frozen=True, slots=True)
class Marker:
    """One mark of the tracer. kind: the file's `name`, a `MarkerKind` where it is known. position_zyx_um: in the SWC's frame."""

    kind: int
    position_zyx_um: Triple


def read_markers(path: str | Path, voxel_size_zyx_um: Triple) -> tuple[Marker, ...]:
    """Read a marker file, in the order of the file.

    Positions in the file count voxels from one, so one voxel of the full-resolution stack is subtracted: they then coincide with SWC
    nodes. Raises MarkerError with file, line and remedy. A file that does not exist is an error here; a cell without one is not.
    """
    data = _bytes_of(path, MarkerError)
    _refuse_wide_text(data, path, MarkerError)
    markers = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        text = line.decode("utf-8", "replace").strip()
        if text and not text.startswith("#"):
            markers.append(_marker(text, voxel_size_zyx_um, path, number))
    return tuple(markers)


def _marker(text: str, voxel_size_zyx_um: Triple, path: str | Path, line: int) -> Marker:
    fields = [field.strip() for field in text.split(",")]
    if len(fields) != len(_MARKER_COLUMNS):
        expected = f"a marker has the {len(_MARKER_COLUMNS)} fields {','.join(_MARKER_COLUMNS)}"
        raise MarkerError(f"{expected}, this line has {len(fields)}; fetch the file again", path=path, line=line)
    try:
        x, y, z, kind = float(fields[0]), float(fields[1]), float(fields[2]), int(fields[_MARKER_COLUMNS.index("name")])
        if not all(abs(value) < FARTHEST_UM for value in (x, y, z)):
            raise ValueError
    except ValueError as problem:
        expected = f"x, y, z must be numbers of micrometres and name the kind ({', '.join(str(int(k)) for k in MarkerKind)})"
        raise MarkerError(f"{expected}, found {text!r}; fetch the file again", path=path, line=line) from problem
    size_z, size_y, size_x = voxel_size_zyx_um
    return Marker(kind, (z - size_z, y - size_y, x - size_x))


def nearest_nodes(skeleton: Skeleton, position_zyx_um: ArrayLike, among: Indices) -> tuple[Indices, Reals]:
    """For each position (m, 3) um the nearest node of `among` (indices) and its distance in um; a tie goes to the first of `among`."""
    positions = np.asarray(position_zyx_um, np.float64).reshape(-1, 3)
    away = [_norm(skeleton.position_zyx_um[among] - position) for position in positions]
    nearest = np.array([int(np.argmin(distance)) for distance in away], np.int64)
    return among[nearest], np.array([distance.min() for distance in away], np.float64)


def marker_nodes(skeleton: Skeleton, markers: Sequence[Marker], *, tolerance_um: float = 0.01) -> tuple[dict[int, int], list[Finding]]:
    """Which tip each cut (10) or untraced (20) marker means: {node index: kind}, and what does not fit.

    A marker is on a tip when it lies within `tolerance_um` of it (all real ones do). Soma markers (30) mark a surface, not a node.
    """
    marked: dict[int, int] = {}
    findings = []
    on_tip = [m for m in markers if m.kind in (MarkerKind.CUT_DENDRITE, MarkerKind.UNTRACED_AXON)]
    if on_tip and len(skeleton.tips):
        nodes, away_um = nearest_nodes(skeleton, [m.position_zyx_um for m in on_tip], skeleton.tips)
        for marker, node, distance in zip(on_tip, nodes.tolist(), away_um.tolist(), strict=True):
            if distance <= tolerance_um:
                marked[node] = marker.kind
            else:
                message = f"marker {marker.kind} at (z, y, x) {marker.position_zyx_um} um is {distance:.2f} um from the nearest tip"
                remedy = "check that the marker file and the SWC are of the same release"
                findings.append(Finding(Severity.WARNING, "marker-tip", message, remedy=remedy))
    known = {int(kind) for kind in MarkerKind}
    for kind in sorted({m.kind for m in markers} - known):
        message = f"marker kind {kind} is not one of {sorted(known)}: nothing is made of it"
        findings.append(Finding(Severity.WARNING, "marker-kind", message, remedy="tell us what it means"))
    return marked, findings
