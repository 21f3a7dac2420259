"""Where patches of each kind may be, in one cell: proposals drawn from the words that name them, and what makes one hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brightfield.built.coverage import Point
from brightfield.core.codes import LABEL_NAMES, NEURITE_LABELS, Label
from brightfield.stages.manifest.dark import dark_spots

if TYPE_CHECKING:
    from brightfield.config.options import PatchesConfig
    from brightfield.core.space import Shape, Window
    from brightfield.stages.manifest.voxels import CellVoxels

CLASSES_OF = {
    "dendrite": (Label.BASAL_DENDRITE, Label.APICAL_DENDRITE),
    "axon": (Label.AXON,),
    "soma": (Label.SOMA,),
    "keypoint": NEURITE_LABELS,
}
"""What the voxel that a patch is placed by must be labelled."""

MAX_ATTEMPTS = 24
"""Draws before a place stays empty."""

JITTER = 0.5
"""A patch's centre is moved by up to half of this share of its size, either way."""

EASY_D_PRIME = 12.0
"""Contrast at which stain counts as obvious: 11.5 was measured on a well-registered real crop."""

SEARCH = (1, 2, 2)
"""Box that is searched for dark background, in patches (z, y, x)."""

BOXES_PER_SPOT, SPOTS_PER_BOX = 4, 3
"""Boxes that are searched for each hard negative that is asked for, and how many of them one box may give."""

CLEAR_UM = 2.0
"""So far around a hard negative's spot all is trusted background."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Where a patch might be: its lower corner, and the voxel and node that it was placed by."""

    low: Point
    anchor: Point | None = None
    node: int | None = None


@dataclass(frozen=True, slots=True)
class _Path:
    """The edges of a kind, and the path length up to the end of each."""

    parent: Point
    child: Point
    upto_um: NDArray[np.float64]


class Places:
    """Finds the places of the patches of a cell."""

    def __init__(self, cell: CellVoxels, shape: Shape, rules: PatchesConfig) -> None:
        self.cell = cell
        self.shape = np.array(shape)
        self.limit = np.array(cell.grid.shape_zyx) - self.shape
        self.rules = rules
        self.paths = {kind: self._path(kind) for kind in ("dendrite", "axon")}
        self.nodes = {"soma": self._soma(), "keypoint": self._keypoints()}

    def of_kind(self, kind: str, quota: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number within the kind and row of each patch that was found, `quota` at most. A larger quota only adds some."""
        if not quota or not self._possible(kind):
            return
        if kind == "hard_negative":
            yield from enumerate(islice(self._on_dark(quota), quota))
        else:
            rows = ((index, self._find(kind, index)) for index in range(quota))
            yield from ((index, row) for index, row in rows if row is not None)

    def _possible(self, kind: str) -> bool:
        """Whether the cell has anything of this kind."""
        if not self.cell.fetched:
            return False
        if kind == "hard_negative":
            return self.cell.is_cleared
        return len(self.paths[kind].child if kind in self.paths else self.nodes.get(kind, (0,))) > 0

    def _find(self, kind: str, index: int) -> dict[str, Any] | None:
        """The first draw that holds, as a row; None when none of them does."""
        for attempt in range(MAX_ATTEMPTS):
            candidate = self._propose(kind, self._draws(kind, index, attempt))
            if candidate is not None and (row := self._examine(kind, candidate)) is not None:
                return row
        return None

    def _draws(self, *words: object) -> NDArray[np.float64]:
        return draws(self.rules.seed, self.cell.specimen_id, *words)

    def _propose(self, kind: str, draws: NDArray[np.float64]) -> _Candidate | None:
        if kind in self.paths:
            return self._on_path(self.paths[kind], draws)
        if kind in self.nodes:
            node = int(self.nodes[kind][int(draws[0] * len(self.nodes[kind]))])
            return self._around(self.cell.node_voxel_zyx[node], draws, node)
        if kind == "edge":
            return self._at_face(draws)
        return _Candidate(self._low(self.cell.fetched.pick(draws)))

    def _examine(self, kind: str, candidate: _Candidate) -> dict[str, Any] | None:
        """The row of a candidate that holds: enough of it came, centre known, placed by a voxel of its class."""
        box = window_of(candidate.low, self.shape)
        share = self.cell.fetched.share(box)
        centre = centre_of(self.shape.tolist())
        if share < self.rules.min_fetched or not self.cell.fetched.has(candidate.low + centre):
            return None
        codes = self.cell.labels(box)
        if codes[centre] == Label.UNKNOWN or not _holds(kind, codes, candidate):
            return None
        counts = np.bincount(codes.reshape(-1), minlength=256)
        return {
            **{f"{axis}{end}": value for axis, ends in zip("zyx", box, strict=True) for end, value in enumerate(ends)},
            "node_id": None if candidate.node is None else int(self.cell.skeleton.node_id[candidate.node]),
            "voxels_background": int(counts[Label.BACKGROUND]),
            **{f"voxels_{name}": int(counts[label]) for label, name in LABEL_NAMES.items()},
            "voxels_unknown": int(counts[Label.UNKNOWN]),
            "ignored_fraction": float(counts[Label.UNKNOWN]) / codes.size,
            "fetched_fraction": share,
            "difficulty": self._difficulty(candidate.node),
        }

    def _difficulty(self, node: int | None) -> float | None:
        if node is None or self.cell.d_prime is None or not np.isfinite(self.cell.d_prime[node]):
            return None
        return round(float(np.clip(1 - self.cell.d_prime[node] / EASY_D_PRIME, 0, 1)), 6)

    # -- proposals

    def _path(self, kind: str) -> _Path:
        skeleton = self.cell.skeleton
        wanted = [label for label in CLASSES_OF[kind] if label in self.cell.traced]
        parent, child = skeleton.edges.T
        chosen = np.isin(skeleton.label[child], wanted) & (skeleton.edge_length_um[child] > 0)
        return _Path(parent[chosen], child[chosen], np.cumsum(skeleton.edge_length_um[child[chosen]]))

    def _soma(self) -> Point:
        soma = self.cell.skeleton.soma
        return np.array([] if soma is None else [soma], np.int64)

    def _keypoints(self) -> Point:
        skeleton = self.cell.skeleton
        points = np.concatenate([skeleton.tips, skeleton.branch_points])
        traced: Point = points[np.isin(skeleton.label[points], list(self.cell.traced))]
        return traced

    def _on_path(self, path: _Path, draws: NDArray[np.float64]) -> _Candidate | None:
        """Around a point that is drawn uniformly over the path length."""
        skeleton = self.cell.skeleton
        at = draws[0] * path.upto_um[-1]
        row = min(int(np.searchsorted(path.upto_um, at, side="right")), len(path.child) - 1)
        parent, child = int(path.parent[row]), int(path.child[row])
        back = (path.upto_um[row] - at) / skeleton.edge_length_um[child]
        start, end = skeleton.position_zyx_um[parent], skeleton.position_zyx_um[child]
        return self._around(self.cell.grid.to_index(end + back * (start - end)), draws, child)

    def _around(self, anchor: Point, draws: NDArray[np.float64], node: int | None) -> _Candidate | None:
        """A box around `anchor`, its centre jittered; None where the anchor is outside of the volume."""
        if np.any(anchor < 0) or np.any(anchor >= self.cell.grid.shape_zyx):
            return None
        return _Candidate(self._low(anchor + self._jitter(draws)), anchor, node)

    def _jitter(self, draws: NDArray[np.float64]) -> Point:
        jitter: Point = np.floor((draws[1:] - 0.5) * JITTER * self.shape + 0.5).astype(np.int64)
        return jitter

    def _low(self, centre: Point) -> Point:
        """The lower corner of the box about `centre`, moved into the volume."""
        low: Point = np.clip(centre - self.shape // 2, 0, self.limit)
        return low

    def _at_face(self, draws: NDArray[np.float64]) -> _Candidate:
        """A box flush with an outermost face of what came: slice faces, pia, the stack's rim."""
        voxel, axis, side = self.cell.fetched.pick_face(draws)
        low = self._low(voxel)
        low[axis] = np.clip(voxel[axis] - side * (self.shape[axis] - 1), 0, self.limit[axis])
        return _Candidate(low)

    # -- hard negatives

    def _on_dark(self, quota: int) -> Iterator[dict[str, Any]]:
        """Rows of patches about dark spots of trusted background: every second box in a background tile, where there are any."""
        for number in range(BOXES_PER_SPOT * quota):
            found = 0
            for k, spot in enumerate(self._spots(number)):
                candidate = self._around(spot, self._draws("hard_negative", number, k), None)
                row = None if candidate is None else self._examine("hard_negative", candidate)
                if row is not None:
                    yield row
                    found += 1
                if found == SPOTS_PER_BOX:
                    break

    def _spots(self, number: int) -> Point:
        """(n, 3): the spots of one searched box, in drawn order."""
        grid_shape = np.array(self.cell.grid.shape_zyx)
        shape = np.minimum(self.shape * SEARCH, grid_shape)
        middle = self.cell.fetched.pick(self._draws("hard_negative", number), background=number % 2 == 0)
        box = window_of(np.clip(middle - shape // 2, 0, grid_shape - shape), shape)
        clear = np.ceil(CLEAR_UM / np.array(self.cell.grid.voxel_size_zyx_um)).astype(np.int64)
        spots: Point = dark_spots(self.cell.image(box), self.cell.labels(box), clear) + np.array(box)[:, 0]
        order = np.argsort([self._draws("spot", *spot)[0] for spot in spots.tolist()], kind="stable")
        return spots[order]


def _holds(kind: str, codes: NDArray[Any], candidate: _Candidate) -> bool:
    if candidate.anchor is None or kind not in CLASSES_OF:
        return True
    return int(codes[tuple(candidate.anchor - candidate.low)]) in CLASSES_OF[kind]


def centre_of(shape_zyx: Sequence[int]) -> Shape:
    """The voxel of a patch that counts as its centre: half its size, rounded down."""
    z, y, x = (n // 2 for n in shape_zyx)
    return (z, y, x)


def window_of(low: Point, shape: Point) -> Window:
    """The box of a shape whose lower corner is at `low`."""
    (z, y, x), (dz, dy, dx) = low.tolist(), shape.tolist()
    return ((z, z + dz), (y, y + dy), (x, x + dx))


def draws(*words: object) -> NDArray[np.float64]:
    """Four numbers in [0, 1), from nothing but the words that name the draw."""
    digest = sha256("|".join(map(str, words)).encode()).digest()
    return (np.frombuffer(digest, ">u8") >> np.uint64(11)).astype(np.float64) * 2.0**-53
