"""Checks that look at volumes, nodes and patches: chunk by chunk, a few of them per level, evenly spread."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brightfield.built.cells import BuiltCell, built_cells
from brightfield.built.coverage import Coverage
from brightfield.built.dataset import Dataset
from brightfield.config.options import Config
from brightfield.core.codes import LABEL_NAMES, Finding, Label, Reason
from brightfield.core.errors import StackError
from brightfield.core.layout import REASON_GROUP
from brightfield.core.schema import NODES, PATCHES, TILES
from brightfield.core.space import Grid, Window, download_grid, stack_grid
from brightfield.core.tables import frame_of, read_cells, read_table
from brightfield.stages.manifest.findings import error_of, warning_of
from brightfield.stages.manifest.places import centre_of
from brightfield.volumes.volume import Volume, open_volume

if TYPE_CHECKING:
    import pandas as pd


CHUNKS_PER_LEVEL = 8


PATCHES_PER_CELL = 8
"""Patches of a cell whose voxels are counted again."""


KNOWN_CODES = {
    "inside": (0, 1, 255),
    "semantic": tuple(int(label) for label in Label),
    "centerline": tuple(int(label) for label in Label),
    "distance": tuple(range(256)),
}


def check_grids(dataset: Dataset) -> Iterator[Finding]:
    """Image, labels and reasons of a cell share one grid at every level: the one that cells table and configuration say."""
    image, z_step = dataset.config.image, dataset.config.image.z_step
    for row in dataset.taken_rows:
        specimen_id = int(row["specimen_id"])
        try:
            found = {kind: open_volume(dataset.root / str(row[f"{kind}_path"])) for kind in ("image", "label")}
            found["reason"] = found["label"].sub(REASON_GROUP)
        except (StackError, OSError) as error:
            yield error_of("grids", f"a volume cannot be opened: {error}", specimen_id)
            continue
        full = stack_grid(*(row[name] for name in ("n_planes", "height_px", "width_px", "pixel_um", "plane_um")))
        expected = download_grid(full, image.level, z_step)
        for kind, volume in found.items():
            if not _same_grid(volume.grids[0], expected):
                yield error_of("grids", f"the {kind} is on {_brief(volume.grids[0])}, not on {_brief(expected)}", specimen_id)
            elif len(volume.grids) != len(found["image"].grids) or not all(map(_same_grid, volume.grids, found["image"].grids)):
                yield error_of("grids", f"coarser levels of the {kind} are not those of the image", specimen_id)


def _same_grid(one: Grid, other: Grid) -> bool:
    here, there = (np.array([*grid.voxel_size_zyx_um, *grid.origin_zyx_um]) for grid in (one, other))
    return one.shape_zyx == other.shape_zyx and bool(np.abs(here - there).max() < 1e-9)


def _brief(grid: Grid) -> str:
    size, origin = (tuple(round(v, 4) for v in triple) for triple in (grid.voxel_size_zyx_um, grid.origin_zyx_um))
    return f"{grid.shape_zyx} voxels of {size} um from {origin} um"


def check_codes(dataset: Dataset) -> Iterator[Finding]:
    """Labels hold codes of their kind, reasons hold known bits, and every unknown voxel has a reason."""
    for row, labels in dataset.volumes("label"):
        yield from _told("codes", row, _code_faults(labels, row["label_kind"]))


def _code_faults(labels: Volume, kind: str) -> Iterator[str]:
    """The first fault of each level."""
    reasons, known = labels.sub(REASON_GROUP), np.isin(np.arange(256), KNOWN_CODES.get(kind, ()))
    for level in range(len(labels.grids)):
        for box in _boxes(labels, level):
            codes, bits = labels.read(box, level), reasons.read(box, level)
            if not known[codes].all():
                strange = np.unique(codes[~known[codes]]).tolist()
                yield f"{kind} labels of level {level} hold the codes {strange} at {box}"
                break
            if (bits > sum(Reason)).any() or ((codes == Label.UNKNOWN) & (bits == 0)).any():
                yield f"unknown voxels of level {level} have no reason, or one that does not exist, at {box}"
                break


def check_pyramids(dataset: Dataset) -> Iterator[Finding]:
    """A voxel of a coarser image lies between the darkest and the brightest voxel that it covers; tubes are on every level of labels."""
    for row, image in dataset.volumes("image"):
        yield from _told("pyramids", row, _image_pyramid_faults(image))
    for row, labels in dataset.volumes("label"):
        bare = [level for level in range(len(labels.grids)) if not len(labels.stored_chunks(level))]
        if bare and sum(row[f"voxels_{name}"] or 0 for name in LABEL_NAMES.values()):
            yield error_of("pyramids", f"levels {bare} of the labels are empty", row["specimen_id"])


def _image_pyramid_faults(image: Volume) -> Iterator[str]:
    for level in range(1, len(image.grids)):
        wrong = next((box for box in _boxes(image, level) if not _is_between(image, level, box)), None)
        if wrong is not None:
            yield f"level {level} of the image is not the mean of level {level - 1} at {wrong}"


def _told(check: str, row: dict[str, Any], faults: Iterator[str]) -> Iterator[Finding]:
    """Faults of one volume as findings; a volume that cannot be decoded is one, and the others are looked at all the same."""
    try:
        for fault in faults:
            yield error_of(check, fault, row["specimen_id"])
    except (StackError, OSError, ValueError) as error:
        yield error_of(check, f"cannot be decoded: {error}", row["specimen_id"])


def _is_between(image: Volume, level: int, box: Window) -> bool:
    factor = np.rint(np.divide(image.grids[level].voxel_size_zyx_um, image.grids[level - 1].voxel_size_zyx_um)).astype(int).tolist()
    finer = image.spec(level - 1).shape_zyx
    z, y, x = ((lo * f, min(hi * f, n)) for (lo, hi), f, n in zip(box, factor, finer, strict=True))
    children, coarse = image.read((z, y, x), level - 1), image.read(box, level)
    low, high = children, children
    for axis, step in enumerate(factor):
        low, high = _folded(np.minimum, low, axis, step), _folded(np.maximum, high, axis, step)
    return bool(((low <= coarse) & (coarse <= high)).all())


def _folded(extreme: np.ufunc, values: NDArray[Any], axis: int, step: int) -> NDArray[Any]:
    """The extreme of every `step` neighbours along an axis; the last may be fewer. As `reduceat`, which is ten times slower here."""
    values = np.moveaxis(values, axis, 0)
    folded = values[::step].copy()
    for offset in range(1, step):
        part = values[offset::step]
        extreme(folded[: len(part)], part, out=folded[: len(part)])
    return np.moveaxis(folded, 0, axis)


def _boxes(volume: Volume, level: int) -> Iterator[Window]:
    """The voxel boxes of stored chunks, at most CHUNKS_PER_LEVEL, evenly spread."""
    spec, chunks = volume.spec(level), volume.stored_chunks(level)
    chosen = chunks[np.unique(np.linspace(0, len(chunks) - 1, CHUNKS_PER_LEVEL).round().astype(int))] if len(chunks) else chunks
    for chunk in chosen.tolist():
        z, y, x = ((i * c, min((i + 1) * c, n)) for i, c, n in zip(chunk, spec.chunk_zyx, spec.shape_zyx, strict=True))
        yield (z, y, x)


def check_components(dataset: Dataset) -> Iterator[Finding]:
    """A tree that lies in the volume is one connected piece of labels."""
    if dataset.config.labels.connect is None:
        return
    broken = dataset.taken[(dataset.taken["n_components"] > dataset.taken["n_trees"]).fillna(value=False)]
    built = {cell.specimen_id: cell for cell in built_cells(dataset.root, dataset.config)} if len(broken) else {}
    for row in broken.to_dict("records"):
        position = built[int(row["specimen_id"])].skeleton.position_zyx_um
        inside = bool(open_volume(dataset.root / str(row["image_path"])).grids[0].contains(position).all())
        message = f"{row['n_components']} pieces of labels for {row['n_trees']} tree(s)" + (
            "" if inside else "; some nodes lie outside the volume"
        )
        yield (error_of if inside else warning_of)("components", message, int(row["specimen_id"]))


def check_nodes(dataset: Dataset) -> Iterator[Finding]:
    """The nodes table has the nodes of every skeleton."""
    counts = read_table(NODES, dataset.root, columns=["specimen_id"])["specimen_id"].value_counts()
    for row in dataset.taken[["specimen_id", "n_nodes"]].to_dict("records"):
        found = int(counts.get(row["specimen_id"], 0))
        if found != row["n_nodes"]:
            yield error_of("nodes", f"{found} rows in {NODES.path}, {row['n_nodes']} nodes in the skeleton", int(row["specimen_id"]))


def check_patches(dataset: Dataset) -> Iterator[Finding]:
    """Patches lie in their volume and in what was downloaded, are centred on known voxels, count right, and follow their cell's side."""
    cells = {int(row["specimen_id"]): row for row in dataset.taken_rows}
    for specimen_id, patches, tiles in _patches_and_tiles(dataset.root):
        if specimen_id not in cells:
            yield error_of("patches", "there are patches of a cell that is excluded or unknown", specimen_id)
            continue
        cell = cells[specimen_id]
        fetched = Coverage(tiles, (cell["shape_z"], cell["shape_y"], cell["shape_x"]))
        labels = open_volume(dataset.root / str(cell["label_path"]))
        for message in _patch_faults(patches, fetched, labels, dataset.config, cell["split"]):
            yield error_of("patches", message, specimen_id)


def cell_faults(built: BuiltCell, patches: pd.DataFrame | None, split: str) -> Iterator[str]:
    """What `check_codes` and `check_patches` would say of one cell, whose patches are of the side `split`."""
    kind = built.config.labels.kind
    yield from _code_faults(built.labels, kind)
    if patches is not None and len(patches):
        fetched = Coverage(built.tiles, built.grid.shape_zyx)
        yield from _patch_faults(Patches.of(patches), fetched, built.labels, built.config, split)


@dataclass(frozen=True, slots=True)
class Patches:
    """What is checked of n patches: number (n,), side (n,), voxel box (n, 3, 2), share that was downloaded (n,), voxels by code (n, k)."""

    number: NDArray[np.int64]
    split: NDArray[np.object_]
    box: NDArray[np.int64]
    fetched: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Patches:
        """Of rows of the `patches` table."""
        return cls(
            frame["patch"].to_numpy(np.int64),
            frame["split"].to_numpy(object),
            frame[_CORNERS].to_numpy(np.int64).reshape(-1, 3, 2),
            frame["fetched_fraction"].to_numpy(np.float64),
            frame[list(_COUNTED.values())].to_numpy(np.int64),
        )

    def rows(self, start: int, end: int) -> Patches:
        """Some of them."""
        return Patches(*(getattr(self, field.name)[start:end] for field in fields(self)))


_CORNERS = ["z0", "z1", "y0", "y1", "x0", "x1"]
_COUNTED = {
    Label.BACKGROUND: "voxels_background",
    **{k: f"voxels_{name}" for k, name in LABEL_NAMES.items()},
    Label.UNKNOWN: "voxels_unknown",
}


def _patches_and_tiles(root: Path) -> Iterator[tuple[int, Patches, pd.DataFrame]]:
    """Cell after cell that has patches: its id, its patches and its tiles. Both tables are in the order of cells."""
    columns = ["specimen_id", "patch", "split", *_CORNERS, "fetched_fraction", *_COUNTED.values()]
    frame = read_table(PATCHES, root, columns=columns)
    patches, ids = Patches.of(frame), frame["specimen_id"].to_numpy(np.int64)
    tiles, none = read_cells(TILES, root), (sys.maxsize, frame_of(TILES, []))
    cell, its_tiles = -1, none[1]
    starts = np.flatnonzero(np.diff(ids, prepend=-1)).tolist()
    for start, end in pairwise([*starts, len(ids)]):
        specimen_id = int(ids[start])
        while cell < specimen_id:
            cell, its_tiles = next(tiles, none)
        yield specimen_id, patches.rows(start, end), its_tiles if cell == specimen_id else none[1]


def _patch_faults(patches: Patches, fetched: Coverage, labels: Volume, config: Config, split: str) -> Iterator[str]:
    if sides := set(patches.split) - {split}:
        yield f"patches are on side {sorted(sides)}, the cell on {split}"
    low, high = patches.box[:, :, 0], patches.box[:, :, 1]
    outside = ((low < 0) | (high > fetched.shape_zyx) | (low >= high)).any(axis=1)
    if outside.any():
        yield f"patches {patches.number[outside].tolist()} are not within the volume"
        return
    shares = np.array([fetched.share(_window(box)) for box in patches.box])
    for problem, wrong in (
        ("reach outside of what was downloaded", shares < config.patches.min_fetched - 1e-9),
        ("have another downloaded share than they say", np.abs(shares - patches.fetched) > 1e-9),
    ):
        if wrong.any():
            yield f"patches {patches.number[wrong].tolist()} {problem}"
            break
    if config.labels.kind in ("semantic", "centerline"):
        yield from _count_faults(patches, labels)


def _count_faults(patches: Patches, labels: Volume) -> Iterator[str]:
    for at in np.unique(np.linspace(0, len(patches.number) - 1, PATCHES_PER_CELL).round().astype(int)).tolist():
        codes = labels.read(_window(patches.box[at]))
        if codes[centre_of(codes.shape)] == Label.UNKNOWN:
            yield f"patch {patches.number[at]} is centred on unknown"
        if (np.bincount(codes.reshape(-1), minlength=256)[list(_COUNTED)] != patches.counts[at]).any():
            yield f"patch {patches.number[at]} does not hold the voxels that its row counts"


def _window(box: NDArray[np.int64]) -> Window:
    (z0, z1), (y0, y1), (x0, x1) = box.tolist()
    return ((z0, z1), (y0, y1), (x0, x1))
