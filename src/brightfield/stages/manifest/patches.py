"""Where to sample: boxes of the downloaded grid, chosen along the path and by class, the same for ever.

A patch is decided by (seed, cell, kind, number) and the cell's own data alone, so that another cell in the dataset changes nothing. A kind
that a cell cannot give (an axon that was not traced, no dark background) leaves its places empty: there is no substitute of another kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brightfield.built.cells import BuiltCell
from brightfield.built.coverage import Coverage, Point
from brightfield.core.codes import LABEL_NAMES, NEURITE_LABELS, Label
from brightfield.core.errors import GridError
from brightfield.core.layout import REASON_GROUP
from brightfield.core.schema import ALIGNMENT, LABEL_STATS, PATCHES
from brightfield.core.tables import read_table
from brightfield.raster.voxels import rasterize
from brightfield.stages.manifest.quotas import quotas, weights

if TYPE_CHECKING:
    import pandas as pd

    from brightfield.config.options import LabelsConfig, PatchesConfig
    from brightfield.core.skeleton import Skeleton
    from brightfield.core.space import Grid, Shape, Window
    from brightfield.volumes.volume import Volume


CLASSES_OF = {
    "dendrite": (Label.BASAL_DENDRITE, Label.APICAL_DENDRITE),
    "axon": (Label.AXON,),
    "soma": (Label.SOMA,),
    "keypoint": NEURITE_LABELS,
}
"""What the voxel that a patch is placed by must be labelled."""

ATTEMPTS = {"hard_negative": 8}
"""Draws before a place stays empty, where they are not MAX_ATTEMPTS: these read pixels."""

MAX_ATTEMPTS = 24
JITTER = 0.5
"""A patch's centre is moved by up to half of this share of its size, either way."""

SEARCH = (1, 2, 2)
"""Box that is searched for dark background, in patches (z, y, x)."""

EASY_D_PRIME = 12.0
"""Contrast at which stain counts as obvious: 11.5 was measured on a well-registered real crop."""

DARK_RATIO, DARK_SIGMAS = 0.9608, 4.0
"""Dark: intensity below exp(-0.04) of the background, and below it by more than four robust standard deviations."""

type Reader = Callable[[Window], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class CellVoxels:
    """What sampling looks at, of one cell. All voxels are those of the downloaded grid.

    skeleton: in the stack's frame (see `space.swc_to_stack_um`).
    tiles: the rows of `tiles` of this cell. labels, image: read a window; labels as codes of `codes.Label`.
    traced: the classes whose absence means background; others (the axon of a dendrite-only cell) give no patches.
    d_prime: (n,) contrast at each node's edge, NaN where it is not known.
    """

    specimen_id: int
    grid: Grid
    skeleton: Skeleton
    tiles: pd.DataFrame
    labels: Reader
    image: Reader
    traced: frozenset[Label] = frozenset(NEURITE_LABELS)
    d_prime: NDArray[np.float64] | None = None

    @cached_property
    def fetched(self) -> Coverage:
        """Where pixels are."""
        return Coverage(self.tiles, self.grid.shape_zyx)

    @cached_property
    def node_voxel_zyx(self) -> Point:
        """(n, 3): the voxel of each node; may lie outside of the grid."""
        return self.grid.to_index(self.skeleton.position_zyx_um)


def sample(cell: CellVoxels, rules: PatchesConfig, *, split: str = "train", fold: int | None = None) -> pd.DataFrame:
    """The patches of one cell: rows of the `patches` table.

    Every patch lies within the grid, at least `rules.min_fetched` of it was downloaded, and its centre voxel (lower corner + size // 2) is
    downloaded and known. Quotas are per cell and kind: shares of `rules.per_cell`. Raises GridError for a patch larger than the volume.
    """
    import pandas as pd

    shape = patch_shape(cell.grid, rules, cell.specimen_id)
    places = _Places(cell, shape, rules)
    rows: list[dict[str, Any]] = []
    first = 0
    for kind, quota in quotas(rules).items():
        found = ((first + index, places.find(kind, index)) for index in range(quota if places.possible(kind) else 0))
        rows += [{"patch": patch, "kind": kind, **fields} for patch, fields in found if fields is not None]
        first += quota
    frame = pd.DataFrame(rows, columns=[c for c in PATCHES.column_names if c not in ("specimen_id", "split", "fold", "weight")])
    frame["specimen_id"], frame["split"], frame["weight"] = cell.specimen_id, split, weights(frame["kind"], rules)
    frame["fold"] = pd.array([fold] * len(frame), "Int32")
    frame["node_id"] = frame["node_id"].astype("Int64")
    frame["difficulty"] = frame["difficulty"].astype("Float64")
    return frame[list(PATCHES.column_names)]


def voxels_of(built: BuiltCell) -> CellVoxels:
    """A cell of the dataset, ready to be sampled: tables are read for this cell only, volumes by windows.

    Raises TableError or StackError where the download, the labels or the alignment are not there.
    """
    (stats,) = read_table(LABEL_STATS, built.root, specimen_id=built.specimen_id).to_dict("records")
    traced = frozenset(label for label, name in LABEL_NAMES.items() if stats[f"absent_{name}"] == "absent")
    stretches = read_table(ALIGNMENT, built.root, columns=["stretch", "d_prime"], specimen_id=built.specimen_id)
    return CellVoxels(
        built.specimen_id,
        built.grid,
        built.skeleton,
        built.tiles,
        _class_reader(built.labels, built.skeleton, stats["label_kind"], built.config.labels),
        built.image.read,
        traced | {Label.SOMA},
        _by_node(built.skeleton.stretches(built.config.align.stretch_um), stretches),
    )


def _by_node(stretch: NDArray[np.int64], stretches: pd.DataFrame) -> NDArray[np.float64]:
    """(n,) d' of each node's stretch, NaN where there is none (roots are in stretch -1)."""
    d_prime = np.full(max(int(stretch.max()) + 2, 1), np.nan)
    d_prime[stretches["stretch"].to_numpy(np.int64)] = stretches["d_prime"].to_numpy(np.float64, na_value=np.nan)
    d_prime[-1] = np.nan
    return d_prime[stretch]


def _class_reader(labels: Volume, skeleton: Skeleton, kind: str, rules: LabelsConfig) -> Reader:
    """Class codes in a window: the labels themselves, or for kinds without classes what `semantic` would say, with the same unknown."""
    if kind in ("semantic", "centerline"):
        return labels.read
    reason = labels.sub(REASON_GROUP)

    def read(window: Window) -> NDArray[Any]:
        codes = rasterize(
            skeleton, labels.grids[0], r_min_um=rules.r_min_um, soma_edges=rules.soma_edges.value, connect=26, window=window, threads=1
        )
        codes[(codes == Label.BACKGROUND) & (reason.read(window) > 0)] = Label.UNKNOWN
        return codes

    return read


def patch_shape(grid: Grid, rules: PatchesConfig, specimen_id: int) -> Shape:
    """A patch in voxels of `grid`: `rules.size_um` where given, else `rules.size_zyx`. Raises GridError where it does not fit."""
    if rules.size_um:
        wanted = [max(1, round(um / voxel)) for um, voxel in zip(rules.size_um, grid.voxel_size_zyx_um, strict=True)]
    else:
        wanted = list(rules.size_zyx)
    if any(n > limit for n, limit in zip(wanted, grid.shape_zyx, strict=True)):
        raise GridError(
            f"cell {specimen_id}: a patch of {tuple(wanted)} voxels is larger than the volume of {grid.shape_zyx}; "
            "choose a smaller patches.size_zyx or patches.size_um, a finer image.level, or leave the cell out"
        )
    z, y, x = wanted
    return (z, y, x)


def centre_of(shape_zyx: Sequence[int]) -> Shape:
    """The voxel of a patch that counts as its centre: half its size, rounded down."""
    z, y, x = (n // 2 for n in shape_zyx)
    return (z, y, x)


# ------------------------------------------------------------------------------------------------------------------- places


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


class _Places:
    """Finds the place of each patch of a cell."""

    def __init__(self, cell: CellVoxels, shape: Shape, rules: PatchesConfig) -> None:
        self.cell = cell
        self.shape = np.array(shape)
        self.limit = np.array(cell.grid.shape_zyx) - self.shape
        self.rules = rules
        self.paths = {kind: self._path(kind) for kind in ("dendrite", "axon")}
        self.nodes = {"soma": self._soma(), "keypoint": self._keypoints()}

    def possible(self, kind: str) -> bool:
        """Whether the cell has anything of this kind."""
        if kind in self.paths:
            return bool(self.cell.fetched) and len(self.paths[kind].child) > 0
        return bool(self.cell.fetched) and len(self.nodes.get(kind, (0,))) > 0

    def find(self, kind: str, index: int) -> dict[str, Any] | None:
        """The first draw that holds, as a row; None when none of them does."""
        for attempt in range(ATTEMPTS.get(kind, MAX_ATTEMPTS)):
            draws = _draws(self.rules.seed, self.cell.specimen_id, kind, index, attempt)
            candidate = self._propose(kind, draws, attempt)
            if candidate is not None and (row := self._examine(kind, candidate)) is not None:
                return row
        return None

    def _propose(self, kind: str, draws: NDArray[np.float64], attempt: int) -> _Candidate | None:
        if kind in self.paths:
            return self._on_path(self.paths[kind], draws)
        if kind in self.nodes:
            node = int(self.nodes[kind][int(draws[0] * len(self.nodes[kind]))])
            return self._around(self.cell.node_voxel_zyx[node], draws, node)
        if kind == "edge":
            return self._at_face(draws)
        if kind == "hard_negative":
            return self._on_dark(draws, attempt)
        return _Candidate(self._low(self.cell.fetched.pick(draws)))

    def _examine(self, kind: str, candidate: _Candidate) -> dict[str, Any] | None:
        """The row of a candidate that holds: inside what came, centre known, placed by a voxel of its class."""
        box = _window(candidate.low, self.shape)
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

    def _on_dark(self, draws: NDArray[np.float64], attempt: int) -> _Candidate | None:
        """A box about the darkest trusted background voxel of a wider box without any tube."""
        grid_shape = np.array(self.cell.grid.shape_zyx)
        shape = np.minimum(self.shape * SEARCH, grid_shape)
        middle = self.cell.fetched.pick(draws, background=attempt % 2 == 0)
        box = _window(np.clip(middle - shape // 2, 0, grid_shape - shape), shape)
        codes = self.cell.labels(box)
        if np.isin(codes, NEURITE_LABELS).any():
            return None
        dark = darkest(self.cell.image(box), codes == Label.BACKGROUND)
        return None if dark is None else self._around(dark + np.array(box)[:, 0], draws, None)


def darkest(image: NDArray[Any], trusted: NDArray[np.bool_]) -> Point | None:
    """The darkest trusted voxel of a box after averaging 3 x 3 pixels of its plane, (z, y, x); None where nothing is dark.

    Dark is what `labels.py` calls unexplained: absorbance above 0.04 and above four robust standard deviations of the box.
    """
    inner = trusted[:, 1:-1, 1:-1]
    if not inner.any():
        return None
    wide = image.astype(np.int32)
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    smooth = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    counts = np.bincount(smooth.reshape(-1))
    level = _median(np.arange(len(counts)), counts)
    spread = 1.4826 * _median(np.abs(np.arange(len(counts)) - level), counts)
    candidates = np.where(inner, smooth, np.iinfo(np.int32).max)
    at = int(candidates.argmin())
    if candidates.reshape(-1)[at] >= min(DARK_RATIO * level, level - DARK_SIGMAS * spread):
        return None
    return np.add(np.unravel_index(at, smooth.shape), (0, 1, 1))


def _median(values: Point, counts: Point) -> int:
    """The (lower) median of whole numbers, from how often each comes: linear, where sorting two million voxels is not."""
    order = np.argsort(values, kind="stable")
    upto = np.cumsum(counts[order])
    return int(values[order][np.searchsorted(upto, (upto[-1] + 1) // 2)])


def _holds(kind: str, codes: NDArray[Any], candidate: _Candidate) -> bool:
    if kind == "hard_negative":
        return not np.isin(codes, NEURITE_LABELS).any()
    if candidate.anchor is None:
        return True
    return int(codes[tuple(candidate.anchor - candidate.low)]) in CLASSES_OF[kind]


def _window(low: Point, shape: Point) -> Window:
    (z, y, x), (dz, dy, dx) = low.tolist(), shape.tolist()
    return ((z, z + dz), (y, y + dy), (x, x + dx))


def _draws(seed: int, specimen_id: int, kind: str, index: int, attempt: int) -> NDArray[np.float64]:
    """Four numbers in [0, 1), from nothing but the words that name the draw."""
    digest = sha256(f"{seed}|{specimen_id}|{kind}|{index}|{attempt}".encode()).digest()
    return (np.frombuffer(digest, ">u8") >> np.uint64(11)).astype(np.float64) * 2.0**-53
