"""What is shown of one cell, before any viewer: lines, marks, contrast, a place to begin. Positions are voxels of the finest level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from brightfield.core.codes import Label, MarkerKind
from brightfield.core.errors import ConfigError, StackError
from brightfield.core.layout import image_store, label_store, marker_file
from brightfield.core.markers import parse_markers
from brightfield.core.schema import ALIGNMENT, MANIFEST, NODES, PATCHES
from brightfield.core.space import Grid, Triple, Window, stack_grid, swc_to_stack_um
from brightfield.viewing.extra import Extra, extra_layers
from brightfield.viewing.material import Material

if TYPE_CHECKING:
    import pandas as pd

    from brightfield.volumes.volume import Volume

_CONTRAST_PLANES = 16
"""Planes of the coarsest level, around the soma, that the contrast is taken from."""
_CONTRAST_PERCENT = (0.1, 99.5)
_MARKERS = {
    MarkerKind.CUT_DENDRITE: "cut dendrite",
    MarkerKind.UNTRACED_AXON: "axon not traced further",
    MarkerKind.SOMA_SURFACE: "surface over the soma",
}


@dataclass(frozen=True, slots=True)
class Lines:
    """Edges of a skeleton. points_zyx: (n, 3) voxels, whole numbers are centres. edges: (m, 2) indices of points."""

    points_zyx: NDArray[np.float64]
    edges: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Mark:
    """A named point; `kind` of the marker file, 0 for the soma."""

    name: str
    kind: int
    at_zyx: Triple


@dataclass(frozen=True)
class Scene:
    """One cell as it is shown.

    image, labels: None where they are not here. contrast: the values that are black and white. skeleton: by label code. verdicts: by
    verdict. centre_zyx: where to begin. place: what `--at` asked for, a box. extras: the layers that were asked for beside the dataset's.
    """

    specimen_id: int
    grid: Grid
    image: Volume | None
    labels: Volume | None
    label_kind: str
    contrast: tuple[float, float]
    skeleton: dict[int, Lines]
    verdicts: dict[str, Lines]
    marks: tuple[Mark, ...]
    centre_zyx: Triple
    place: tuple[Triple, Triple] | None = None
    extras: tuple[Extra, ...] = field(default=())

    @property
    def extent_vox(self) -> float:
        """The longest side of the skeleton's box, or of the grid where there is no skeleton, in voxels of x."""
        points = [lines.points_zyx for lines in self.skeleton.values()]
        spans = np.ptp(np.concatenate(points), axis=0) if points else np.array(self.grid.shape_zyx)
        return float((spans * self.grid.voxel_size_zyx_um).max() / self.grid.voxel_size_zyx_um[2])


def scene_of(material: Material, specimen_id: int, *, at: str | None = None, layers: Sequence[Path] = ()) -> Scene:
    """What is shown of a cell. at: see `place_of`. layers: files, OME-Zarr, or directories with one of them per cell.

    Raises StackError for a cell that is unknown or not here, ConfigError for an unknown place, GridError for a layer on another grid.
    """
    image, labels = _volumes(material, specimen_id)
    grids = _grids(image, labels)
    manifest = material.table(MANIFEST)
    row = manifest[manifest["specimen_id"] == specimen_id].iloc[0]
    nodes = material.table(NODES, specimen_id).sort_values("node_id").reset_index(drop=True)
    centre = _soma(nodes, grids[0])
    place = None if at is None else place_of(material, specimen_id, nodes, at)
    begin = centre if place is None else _middle(*place)
    return Scene(
        specimen_id,
        grids[0],
        image,
        labels,
        str(row["label_kind"]),
        (0.0, 255.0) if image is None else _contrast(image, grids[0].to_um(centre)),
        _by_code(nodes, nodes["label"].to_numpy(np.int64)),
        _by_verdict(material, specimen_id, nodes),
        (Mark("soma", 0, centre), *_markers(material, specimen_id, row, grids[0])),
        begin,
        place,
        extra_layers(layers, specimen_id, grids, begin),
    )


def _volumes(material: Material, specimen_id: int) -> tuple[Volume | None, Volume | None]:
    stores = (image_store(specimen_id), label_store(specimen_id))
    image, labels = (material.volume(store) if material.has(store) else None for store in stores)
    if image is None and labels is None:
        raise StackError(_why_absent(material, specimen_id))
    return image, labels


def _grids(*volumes: Volume | None) -> tuple[Grid, ...]:
    return next(volume.grids for volume in volumes if volume is not None)


def _why_absent(material: Material, specimen_id: int) -> str:
    rows = material.table(MANIFEST).set_index("specimen_id")
    if specimen_id not in rows.index:
        first = ", ".join(map(str, rows.index[:3]))
        return f"there is no cell {specimen_id}; the manifest has {len(rows)} cells ({first}, ...): `brightfield view` lists them"
    if not isinstance(rows["image_path"][specimen_id], str):
        return f"cell {specimen_id} is excluded ({rows['reason'][specimen_id]}) and has no volumes"
    return f"cell {specimen_id} is not here; fetch it with `brightfield pull --cell {specimen_id}`, or say --rev to read it where it lies"


# -------------------------------------------------------------------------------------------------------------------- the skeleton


def _by_code(nodes: pd.DataFrame, code: NDArray[np.int64]) -> dict[int, Lines]:
    """The edges to the parents, each in the lines of its child's code."""
    index_of = {int(node): k for k, node in enumerate(nodes["node_id"])}
    parent = np.array([-1 if p is None else index_of[p] for p in _plain(nodes["parent_id"])], np.int64)
    points = nodes[["z_vox", "y_vox", "x_vox"]].to_numpy(np.float64)
    child = np.flatnonzero(parent >= 0)
    return {int(value): _lines(points, parent, child[code[child] == value]) for value in np.unique(code[child])}


def _lines(points: NDArray[np.float64], parent: NDArray[np.int64], child: NDArray[np.int64]) -> Lines:
    used, edges = np.unique(np.stack([parent[child], child], axis=1), return_inverse=True)
    return Lines(points[used], edges.reshape(-1, 2))


def _by_verdict(material: Material, specimen_id: int, nodes: pd.DataFrame) -> dict[str, Lines]:
    rows = material.table(ALIGNMENT, specimen_id)
    names = sorted(set(rows["verdict"]))
    verdict_of = dict(zip(rows["stretch"].tolist(), map(names.index, rows["verdict"]), strict=True))
    code = np.array([-1 if stretch is None else verdict_of.get(stretch, -1) for stretch in _plain(nodes["stretch"])], np.int64)
    return {names[value]: lines for value, lines in _by_code(nodes, code).items() if value >= 0}


def _plain(column: pd.Series) -> list[int | None]:
    found: list[int | None] = column.astype(object).where(column.notna(), None).tolist()
    return found


def _soma(nodes: pd.DataFrame, grid: Grid) -> Triple:
    """The soma: a root first; without any the first node, without nodes the middle of the grid. In voxels."""
    if nodes.empty:
        return _triple((np.array(grid.shape_zyx) - 1) / 2)
    somata = nodes[nodes["label"] == int(Label.SOMA)]
    roots = somata[somata["parent_id"].isna()]
    return _position((roots if len(roots) else somata if len(somata) else nodes).iloc[0])


def _markers(material: Material, specimen_id: int, row: pd.Series, grid: Grid) -> list[Mark]:
    name = marker_file(specimen_id)
    data = material.file(name)
    if data is None:
        return []
    full = stack_grid(int(row["n_planes"]), int(row["height_px"]), int(row["width_px"]), float(row["pixel_um"]), float(row["plane_um"]))
    markers = parse_markers(data, full.voxel_size_zyx_um, name)
    positions = np.array([marker.position_zyx_um for marker in markers]).reshape(-1, 3)
    moved = swc_to_stack_um(positions, full, material.swc_origin)
    names = [_MARKERS[MarkerKind(m.kind)] if m.kind in list(MarkerKind) else f"kind {m.kind}" for m in markers]
    return [Mark(n, m.kind, _triple(at)) for n, m, at in zip(names, markers, grid.to_voxel(moved), strict=True)]


# ------------------------------------------------------------------------------------------------------------ places and contrast


def place_of(material: Material, specimen_id: int, nodes: pd.DataFrame, at: str) -> tuple[Triple, Triple]:
    """The two corners of what `at` names, voxels: ``7`` or ``node:7`` is a node of the SWC, ``patch:7`` a row of the patches.

    Corners are voxel positions; a patch reaches from the lower face of its first voxel to the upper face of its last. Raises ConfigError.
    """
    kind, _, number = at.rpartition(":")
    if kind not in ("", "node", "patch") or not number.isdecimal():
        raise ConfigError(f"--at {at}: say node:ID (a node of the SWC, or the ID alone) or patch:N (a row of the patches table)")
    if kind == "patch":
        return _patch(material.table(PATCHES, specimen_id), specimen_id, int(number))
    found = nodes[nodes["node_id"] == int(number)]
    if found.empty:
        ids = nodes["node_id"]
        raise ConfigError(f"--at {at}: cell {specimen_id} has no node {number}; its {len(ids)} nodes are {ids.min()} to {ids.max()}")
    position = _position(found.iloc[0])
    return position, position


def _patch(patches: pd.DataFrame, specimen_id: int, number: int) -> tuple[Triple, Triple]:
    found = patches[patches["patch"] == number]
    if found.empty:
        most = "none" if patches.empty else f"0 to {patches['patch'].max()}"
        raise ConfigError(f"--at patch:{number}: cell {specimen_id} has no such patch; its patches are {most}")
    row = found.iloc[0]
    low, high = ([float(row[f"{axis}{end}"]) - 0.5 for axis in "zyx"] for end in (0, 1))
    return _triple(low), _triple(high)


def _contrast(image: Volume, around_zyx_um: NDArray[np.float64]) -> tuple[float, float]:
    """The values shown as black and white: of the coarsest level around the soma, without what was not downloaded (0)."""
    level = len(image.grids) - 1
    z, y, x = image.grids[level].shape_zyx
    middle = int(np.clip(image.grids[level].to_index(around_zyx_um)[0], 0, z - 1))
    window: Window = ((max(middle - _CONTRAST_PLANES // 2, 0), min(middle + _CONTRAST_PLANES // 2, z)), (0, y), (0, x))
    values = image.read(window, level)
    values = values[values > 0]
    if not values.size:
        return (0.0, float(np.iinfo(image.dtype).max))
    low, high = np.percentile(values, _CONTRAST_PERCENT).tolist()
    return (low, max(high, low + 1.0))


def _position(node: pd.Series) -> Triple:
    return _triple([node["z_vox"], node["y_vox"], node["x_vox"]])


def _middle(low: Triple, high: Triple) -> Triple:
    return _triple((np.array(low) + np.array(high)) / 2)


def _triple(values: ArrayLike) -> Triple:
    z, y, x = np.asarray(values, np.float64).tolist()
    return (z, y, x)
