"""Is the dataset what it says? A list of small checks over a built dataset, each yielding findings; one ERROR forbids a release.

Checks stream: hashes read every byte once in buffers of fixed size, voxels are looked at chunk by chunk, at most CHUNKS_PER_LEVEL of them
per level of a volume (all of a small one), evenly spread. A byte that changed anywhere is found by its hash.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from brightfield.built.dataset import Dataset, records
from brightfield.config.options import section_digest
from brightfield.core.errors import BrightfieldError, CheckError, StackError, TableError
from brightfield.core.files import sha256_file
from brightfield.core.schema import (
    ALIGNMENT_CELLS,
    CARD_FILE,
    CELLS,
    CROISSANT_FILE,
    EXPORTS_DIR,
    FINDINGS,
    IMAGES_DIR,
    LABEL_NAMES,
    LABEL_STATS,
    LABELS_DIR,
    NODES,
    PARAMS_FILE,
    PATCHES,
    REASON_GROUP,
    SKELETONS_DIR,
    SPLITS,
    TABLES,
    TILES,
    Finding,
    Label,
    Reason,
    Severity,
    Split,
    Table,
)
from brightfield.core.skeleton import read_swc
from brightfield.core.space import Grid, Shape, Window, download_grid, stack_grid
from brightfield.core.tables import read_table
from brightfield.splitting.assign import MAX_DEVIATION_POINTS, MIN_STRATUM_CELLS, assign, prove
from brightfield.stages.manifest import card
from brightfield.stages.manifest.patches import Fetched, centre_of
from brightfield.stages.manifest.table import DECIDING_GROUPS, NOT_STATED, StoreHasher, hash_and_size, named_files
from brightfield.volumes.volume import Volume, open_volume

if TYPE_CHECKING:
    import pandas as pd

CHUNKS_PER_LEVEL = 8
PATCHES_PER_CELL = 8
"""Patches of a cell whose voxels are counted again."""

REBUILD = "rebuild with `dvc repro`, or fetch what was published with `dvc checkout`"
KNOWN_CODES = {
    "inside": (0, 1, 255),
    "semantic": tuple(int(label) for label in Label),
    "centerline": tuple(int(label) for label in Label),
    "distance": tuple(range(256)),
}

type Check = Callable[[Dataset], Iterator[Finding]]


def run_checks(root: Path) -> list[Finding]:
    """Every finding about the dataset at `root`, errors first. A check whose table is not there leaves it to `check_schema`."""
    dataset = Dataset(root)
    findings: list[Finding] = []
    for check in CHECKS:
        try:
            findings += check(dataset)
        except TableError:
            continue
        except (BrightfieldError, OSError, ValueError, pa.ArrowException) as error:
            findings.append(_error(check.__name__.removeprefix("check_"), f"could not be finished: {error}"))
    order = list(reversed(Severity))
    return sorted(findings, key=lambda f: (order.index(f.severity), f.check, f.specimen_id or 0, f.message))


def refuse_errors(findings: list[Finding]) -> None:
    """Raise CheckError when a finding is an ERROR; the manifest stage calls this before it publishes."""
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if errors:
        raise CheckError(f"{len(errors)} finding(s) forbid to publish\n{as_text(errors)}")


def as_text(findings: list[Finding], per_remedy: int = 3) -> str:
    """Findings for people, with what to do, and a summary; of those that call for the same remedy the first `per_remedy` in words."""
    alike: dict[tuple[Severity, str, str], list[Finding]] = {}
    for finding in findings:
        alike.setdefault((finding.severity, finding.check, finding.remedy), []).append(finding)
    lines = []
    for (severity, check, remedy), group in alike.items():
        for finding in group[:per_remedy]:
            cell = "" if finding.specimen_id is None else f"cell {finding.specimen_id}: "
            lines.append(f"{severity.upper():<8}{check}: {cell}{finding.message}")
        if group[per_remedy:]:
            cells = len({finding.specimen_id for finding in group})
            lines.append(f"        and {len(group) - per_remedy} more such, {cells} cells in all (`brightfield check --json` lists them)")
        if remedy:
            lines.append(f"        -> {remedy}")
    counts = ", ".join(f"{sum(f.severity is severity for f in findings)} {severity}" for severity in reversed(Severity))
    return "\n".join([*lines, counts])


def _error(check: str, message: str, specimen_id: int | None = None, remedy: str = REBUILD) -> Finding:
    return Finding(Severity.ERROR, check, message, specimen_id, remedy)


def _warning(check: str, message: str, specimen_id: int | None = None, remedy: str = "") -> Finding:
    return Finding(Severity.WARNING, check, message, specimen_id, remedy)


# -------------------------------------------------------------------------------------------------------------------- tables


def check_schema(dataset: Dataset) -> Iterator[Finding]:
    """Every table is there, has the contract's columns with their units and descriptions, and its key orders its rows and is unique."""
    for table in TABLES:
        path = dataset.root / table.path
        if not path.is_file():
            yield _error("schema", f"{table.path} is not there")
            continue
        try:
            if not pq.read_schema(path).equals(table.arrow_schema, check_metadata=True):
                yield _error("schema", f"{table.path} does not have the columns, types, units and descriptions of the contract")
            elif not _is_ordered(table, path):
                yield _error("schema", f"rows of {table.path} are not ordered by {', '.join(table.key)}, or repeat")
        except (OSError, ValueError, pa.ArrowException) as error:
            yield _error("schema", f"{table.path} cannot be read: {error}")


def _is_ordered(table: Table, path: Path) -> bool:
    """Whether keys increase strictly; every column is read, batch by batch, so that damage shows."""
    last: tuple[Any, ...] = ()
    for batch in pq.ParquetFile(path).iter_batches():
        keys = list(zip(*(batch.column(name).to_pylist() for name in table.key), strict=True))
        if any(b <= a for a, b in zip([last, *keys], keys, strict=False)):
            return False
        last = keys[-1] if keys else last
    return True


def check_join(dataset: Dataset) -> Iterator[Finding]:
    """The manifest says what the tables it was joined from say, about the same cells."""
    manifest = dataset.manifest.set_index("specimen_id")
    for table in (CELLS, SPLITS, LABEL_STATS):
        part = read_table(table, dataset.root).set_index("specimen_id")
        extra = part.index.difference(manifest.index)
        missing = manifest.index.difference(part.index) if table is not LABEL_STATS else extra[:0]
        for specimen_id in [*extra, *missing]:
            yield _error("join", f"the cell is in only one of manifest and {table.name}", specimen_id)
        common = part.index.intersection(manifest.index)
        shared = [c for c in part.columns if c in manifest.columns and not (c == "reason" and table is CELLS) and c != "n_trees"]
        left, right = part.loc[common, shared].astype(object), manifest.loc[common, shared].astype(object)
        unequal = (left != right) & ~(left.isna() & right.isna())
        for specimen_id in common[unequal.fillna(value=True).any(axis=1)]:
            names = ", ".join(c for c in shared if unequal.loc[specimen_id, c] is not False and unequal.loc[specimen_id, c])
            yield _error("join", f"manifest and {table.name} disagree about {names}", specimen_id)


def check_configuration(dataset: Dataset) -> Iterator[Finding]:
    """The data was built from the configuration that lies beside it, and from the cells table that lies beside it."""
    try:
        digest = section_digest(dataset.config, DECIDING_GROUPS)
    except BrightfieldError as error:
        yield _error("configuration", str(error), remedy="write params.yaml with `brightfield config`")
        return
    if set(dataset.manifest["config_sha256"]) - {digest}:
        yield _error("configuration", f"the manifest was built from another configuration than {PARAMS_FILE}", remedy="run `dvc repro`")
    if set(dataset.manifest["snapshot_sha256"]) - {sha256_file(dataset.root / CELLS.path)}:
        yield _error("configuration", f"the manifest was built from another {CELLS.path}", remedy="run `dvc repro`")


def check_terms(dataset: Dataset) -> Iterator[Finding]:
    """Every row carries licence and citation."""
    for row in dataset.manifest[["specimen_id", "license", "citation"]].itertuples():
        for what in ("license", "citation"):
            text = str(getattr(row, what)).strip()
            if not text:
                yield _error("terms", f"no {what}", int(str(row.specimen_id)))
            elif text == NOT_STATED:
                yield _warning("terms", f"{what} {NOT_STATED}", int(str(row.specimen_id)), f"set source.{what}")


def check_notes(dataset: Dataset) -> Iterator[Finding]:
    """What was noticed while the skeletons were read and drawn."""
    for row in records(read_table(FINDINGS, dataset.root)):
        yield Finding(Severity(row["severity"]), row["check"], row["message"], row["specimen_id"], row["remedy"])


# --------------------------------------------------------------------------------------------------------------------- files


def check_hashes(dataset: Dataset) -> Iterator[Finding]:
    """Every file and store that the manifest names is there, with the bytes that the manifest says."""
    with StoreHasher() as hash_store:
        for specimen_id, kind, path, expected in named_files(dataset.manifest):
            target = dataset.root / path
            if not target.exists():
                yield _error("hashes", f"{path} is not there", specimen_id, f"fetch it with `dvc pull {path}`")
            elif (hash_store if target.is_dir() else hash_and_size)(target)[0] != expected:
                yield _error("hashes", f"the {kind} {path} does not have the bytes that the manifest says", specimen_id)


def check_orphans(dataset: Dataset) -> Iterator[Finding]:
    """Nothing lies among the data that no table names."""
    manifest = dataset.manifest
    named = {path for _, _, path, _ in named_files(manifest)}
    stems = {str(specimen_id) for specimen_id in manifest["specimen_id"].tolist()}
    for folder in (IMAGES_DIR, LABELS_DIR, SKELETONS_DIR, EXPORTS_DIR):
        for path in sorted((dataset.root / folder).glob("*")):
            name = (folder / path.name).as_posix()
            known = path.name.split("_")[0] in stems if folder == EXPORTS_DIR else name in named
            if not known and path.name != ".gitignore":
                yield _warning("orphans", f"{name} is named by no table", remedy="remove it")


# ------------------------------------------------------------------------------------------------------------------- volumes


def check_grids(dataset: Dataset) -> Iterator[Finding]:
    """Image, labels and reasons of a cell share one grid at every level: the one that cells table and configuration say."""
    image, z_step = dataset.config.image, dataset.config.image.z_step
    for row in records(dataset.taken):
        specimen_id = int(row["specimen_id"])
        try:
            found = {kind: open_volume(dataset.root / str(row[f"{kind}_path"])) for kind in ("image", "label")}
            found["reason"] = found["label"].sub(REASON_GROUP)
        except (StackError, OSError) as error:
            yield _error("grids", f"a volume cannot be opened: {error}", specimen_id)
            continue
        full = stack_grid(*(row[name] for name in ("n_planes", "height_px", "width_px", "pixel_um", "plane_um")))
        expected = download_grid(full, image.level, z_step)
        for kind, volume in found.items():
            if not _same_grid(volume.grids[0], expected):
                yield _error("grids", f"the {kind} is on {_brief(volume.grids[0])}, not on {_brief(expected)}", specimen_id)
            elif len(volume.grids) != len(found["image"].grids) or not all(map(_same_grid, volume.grids, found["image"].grids)):
                yield _error("grids", f"coarser levels of the {kind} are not those of the image", specimen_id)


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
            yield _error("pyramids", f"levels {bare} of the labels are empty", row["specimen_id"])


def _image_pyramid_faults(image: Volume) -> Iterator[str]:
    for level in range(1, len(image.grids)):
        wrong = next((box for box in _boxes(image, level) if not _is_between(image, level, box)), None)
        if wrong is not None:
            yield f"level {level} of the image is not the mean of level {level - 1} at {wrong}"


def _told(check: str, row: dict[str, Any], faults: Iterator[str]) -> Iterator[Finding]:
    """Faults of one volume as findings; a volume that cannot be decoded is one, and the others are looked at all the same."""
    try:
        for fault in faults:
            yield _error(check, fault, row["specimen_id"])
    except (StackError, OSError, ValueError) as error:
        yield _error(check, f"cannot be decoded: {error}", row["specimen_id"])


def _is_between(image: Volume, level: int, box: Window) -> bool:
    factor = np.rint(np.divide(image.grids[level].voxel_size_zyx_um, image.grids[level - 1].voxel_size_zyx_um)).astype(int).tolist()
    finer = image.spec(level - 1).shape_zyx
    z, y, x = ((lo * f, min(hi * f, n)) for (lo, hi), f, n in zip(box, factor, finer, strict=True))
    children, coarse = image.read((z, y, x), level - 1), image.read(box, level)
    starts = [np.arange(0, n, f) for n, f in zip(children.shape, factor, strict=True)]
    low, high = children, children
    for axis, start in enumerate(starts):
        low, high = np.minimum.reduceat(low, start, axis), np.maximum.reduceat(high, start, axis)
    return bool(((low <= coarse) & (coarse <= high)).all())


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
    for row in broken.to_dict("records"):
        position = read_swc(dataset.root / str(row["skeleton_path"])).position_zyx_um
        inside = bool(open_volume(dataset.root / str(row["image_path"])).grids[0].contains(position).all())
        message = f"{row['n_components']} pieces of labels for {row['n_trees']} tree(s)" + (
            "" if inside else "; some nodes lie outside the volume"
        )
        yield (_error if inside else _warning)("components", message, int(row["specimen_id"]))


def check_nodes(dataset: Dataset) -> Iterator[Finding]:
    """The nodes table has the nodes of every skeleton."""
    counts = read_table(NODES, dataset.root, columns=["specimen_id"])["specimen_id"].value_counts()
    for row in dataset.taken[["specimen_id", "n_nodes"]].to_dict("records"):
        found = int(counts.get(row["specimen_id"], 0))
        if found != row["n_nodes"]:
            yield _error("nodes", f"{found} rows in {NODES.path}, {row['n_nodes']} nodes in the skeleton", int(row["specimen_id"]))


# -------------------------------------------------------------------------------------------------------------------- splits


def check_leaks(dataset: Dataset) -> Iterator[Finding]:
    """No donor, image series or skeleton is on two sides, and every cell is on the side that the rules give it."""
    for leak in prove(dataset.manifest, dataset.config.split).leaks:
        yield _error("splits", leak)
    known = dataset.manifest[dataset.manifest["skeleton_sha256"].notna()]
    hashes = dict(zip(known["specimen_id"].tolist(), known["skeleton_sha256"].tolist(), strict=True))
    expected = assign(dataset.cells, dataset.config.split, swc_sha256=hashes, alignment=read_table(ALIGNMENT_CELLS, dataset.root))
    both = dataset.splits.merge(expected, on="specimen_id", suffixes=("", "_expected"), how="outer")
    moved = both[(both["split"] != both["split_expected"]) | (both["fold"].fillna(-1) != both["fold_expected"].fillna(-1))]
    for row in moved.to_dict("records"):
        sides = [f"{row['split' + suffix]}, fold {row['fold' + suffix]}" for suffix in ("", "_expected")]
        yield _error("splits", f"the cell is on {sides[0]}; the rules give {sides[1]}", int(row["specimen_id"]))


def check_balance(dataset: Dataset) -> Iterator[Finding]:
    """Shares per stratum are within five points, every side has cells, and test has full reconstructions."""
    proof = prove(dataset.manifest, dataset.config.split)
    for row in proof.strata[proof.strata["deviation_points"] > MAX_DEVIATION_POINTS].to_dict("records"):
        message = f"stratum {row['stratum']} ({row['cells']} cells) is {row['deviation_points']:.1f} points off the shares asked for"
        remedy = "before anything is published: `brightfield salt`; afterwards say it, as another salt moves cells"
        yield _warning("balance", message, remedy=remedy)
    counts = proof.counts.set_index("split")
    for side in (Split.TRAIN, Split.VAL, Split.TEST):
        if not counts.loc[side, "cells"]:
            yield _warning(
                "balance", f"no cell is on side {side}", remedy="take more cells, or another split.salt before anything is published"
            )
    if counts.loc[Split.TEST, "cells"] and not counts.loc[Split.TEST, "full"] and counts["full"].sum() >= MIN_STRATUM_CELLS:
        yield _warning("balance", "test has no full reconstruction", remedy="take more cells")


# ------------------------------------------------------------------------------------------------------------------- patches


def check_patches(dataset: Dataset) -> Iterator[Finding]:
    """Patches lie in their volume and in what was downloaded, are centred on known voxels, count right, and follow their cell's side."""
    patches = read_table(PATCHES, dataset.root)
    cells = {int(row["specimen_id"]): row for row in records(dataset.taken)}
    for key, group in patches.groupby("specimen_id", sort=True):
        specimen_id = int(str(key))
        if specimen_id not in cells:
            yield _error("patches", "there are patches of a cell that is excluded or unknown", specimen_id)
            continue
        for message in _patch_faults(dataset, specimen_id, cells[specimen_id], group):
            yield _error("patches", message, specimen_id)


def _patch_faults(dataset: Dataset, specimen_id: int, cell: dict[str, Any], patches: pd.DataFrame) -> Iterator[str]:
    if set(patches["split"]) != {cell["split"]}:
        yield f"patches are on side {sorted(set(patches['split']))}, the cell on {cell['split']}"
    if abs(float(patches["weight"].sum()) - 1) > 1e-6:
        yield f"weights add up to {patches['weight'].sum():.6f} instead of 1"
    boxes = patches[["z0", "z1", "y0", "y1", "x0", "x1"]].to_numpy(np.int64).reshape(-1, 3, 2)
    shape = (cell["shape_z"], cell["shape_y"], cell["shape_x"])
    outside = np.flatnonzero(((boxes[:, :, 0] < 0) | (boxes[:, :, 1] > shape) | (boxes[:, :, 0] >= boxes[:, :, 1])).any(axis=1))
    if len(outside):
        yield f"patches {patches['patch'].iloc[outside].tolist()} are not within the volume"
        return
    yield from _downloaded_faults(dataset, specimen_id, patches, boxes, shape)
    if cell["label_kind"] in ("semantic", "centerline"):
        yield from _count_faults(dataset, str(cell["label_path"]), patches, boxes)


def _downloaded_faults(dataset: Dataset, specimen_id: int, patches: pd.DataFrame, boxes: NDArray[np.int64], shape: Shape) -> Iterator[str]:
    fetched = Fetched(read_table(TILES, dataset.root, specimen_id=specimen_id), shape)
    least = dataset.config.patches.min_fetched
    shares = np.array([fetched.share(_window(box)) for box in boxes])
    for problem, wrong in (
        ("reach outside of what was downloaded", shares < least - 1e-9),
        ("have another downloaded share than they say", np.abs(shares - patches["fetched_fraction"].to_numpy(float)) > 1e-9),
    ):
        if wrong.any():
            yield f"patches {patches['patch'][wrong].tolist()} {problem}"
            return


def _count_faults(dataset: Dataset, label_path: str, patches: pd.DataFrame, boxes: NDArray[np.int64]) -> Iterator[str]:
    labels = open_volume(dataset.root / label_path)
    names = {Label.BACKGROUND: "background", **LABEL_NAMES, Label.UNKNOWN: "unknown"}
    for at in np.unique(np.linspace(0, len(patches) - 1, PATCHES_PER_CELL).round().astype(int)).tolist():
        row, codes = patches.iloc[at], labels.read(_window(boxes[at]))
        if codes[centre_of(codes.shape)] == Label.UNKNOWN:
            yield f"patch {row['patch']} is centred on unknown"
        counts = np.bincount(codes.reshape(-1), minlength=256)
        if any(counts[label] != row[f"voxels_{name}"] for label, name in names.items()):
            yield f"patch {row['patch']} does not hold the voxels that its row counts"


def _window(box: NDArray[np.int64]) -> Window:
    (z0, z1), (y0, y1), (x0, x1) = box.tolist()
    return ((z0, z1), (y0, y1), (x0, x1))


# --------------------------------------------------------------------------------------------------------------- description


def check_description(dataset: Dataset) -> Iterator[Finding]:
    """Card and Croissant say what the tables say now; the Croissant file holds the hash of every table."""
    for file, text_of in ((CARD_FILE, card.card), (CROISSANT_FILE, card.croissant_text)):
        path = dataset.root / file
        if not path.is_file():
            yield _error("description", f"{file} is not there")
        elif path.read_text(encoding="utf-8") != (expected := text_of(dataset.root, dataset.config)):
            others = _other_tables(path, expected) if file == CROISSANT_FILE else ""
            yield _error("description", f"{file} does not say what the tables say{others}")


def _other_tables(path: Path, expected: str) -> str:
    """Which tables have other bytes than a Croissant file says."""
    try:
        said, there = (
            {entry["@id"]: entry.get("sha256") for entry in json.loads(text)["distribution"]}
            for text in (path.read_text("utf-8"), expected)
        )
    except (ValueError, KeyError, TypeError):
        return ""
    names = [name for name in there if said.get(name) != there[name]]
    return f"; other bytes: {', '.join(names)}" if names else ""


CHECKS: tuple[Check, ...] = (
    check_schema,
    check_configuration,
    check_join,
    check_terms,
    check_notes,
    check_hashes,
    check_orphans,
    check_grids,
    check_codes,
    check_pyramids,
    check_components,
    check_nodes,
    check_leaks,
    check_balance,
    check_patches,
    check_description,
)
