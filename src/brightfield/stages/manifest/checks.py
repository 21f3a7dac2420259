"""Is the dataset what it says? A list of small checks over a built dataset, each yielding findings; one ERROR forbids a release.

Checks stream: hashes read every byte once in buffers of fixed size, voxels are looked at chunk by chunk, at most CHUNKS_PER_LEVEL of them
per level of a volume (all of a small one), evenly spread. A byte that changed anywhere is found by its hash.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from math import hypot
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brightfield.built.dataset import Dataset, records
from brightfield.config.options import Config
from brightfield.config.params import section_digest
from brightfield.core.codes import Finding, Grade, Severity, Split
from brightfield.core.errors import BrightfieldError, TableError
from brightfield.core.files import sha256_file
from brightfield.core.keys import BEFORE_SPLIT, read_failures
from brightfield.core.layout import CARD_FILE, CROISSANT_FILE, PARAMS_FILE
from brightfield.core.schema import ALIGNMENT_CELLS, CELLS, FINDINGS, LABEL_STATS, SPLITS, TABLES, Table
from brightfield.core.tables import read_table
from brightfield.core.urls import web_link
from brightfield.run.progress import watched
from brightfield.splitting.assign import assign
from brightfield.splitting.proof import MAX_DEVIATION_POINTS, MIN_STRATUM_CELLS, leaks_of, prove
from brightfield.stages.manifest import card
from brightfield.stages.manifest.findings import error_of, warning_of
from brightfield.stages.manifest.hub import check_hub
from brightfield.stages.manifest.listing import check_files, check_orphans
from brightfield.stages.manifest.mix_checks import check_mix, check_quotas, check_weights
from brightfield.stages.manifest.table import DECIDING_GROUPS, NOT_STATED, StoreHasher, hash_and_size, named_files
from brightfield.stages.manifest.voxel_checks import check_codes, check_components, check_grids, check_nodes, check_patches, check_pyramids

type Check = Callable[[Dataset], Iterator[Finding]]


def run_checks(root: Path, checks: Sequence[Check] | None = None, config: Config | None = None) -> list[Finding]:
    """What `checks` (default: all) find about the dataset at `root`, errors first. config: that of the dataset, where it is known.

    A check whose table is not there leaves it to `check_schema`.
    """
    dataset = Dataset(root)
    if config is not None:
        dataset.config = config
    findings: list[Finding] = []
    for check in watched(CHECKS if checks is None else checks, "checks", "check"):
        try:
            findings += check(dataset)
        except TableError:
            continue
        except (BrightfieldError, OSError, ValueError, pa.ArrowException) as error:
            findings.append(error_of(check.__name__.removeprefix("check_"), f"could not be finished: {error}"))
    order = list(reversed(Severity))
    return sorted(findings, key=lambda f: (order.index(f.severity), f.check, f.specimen_id or 0, f.message))


# -------------------------------------------------------------------------------------------------------------------- tables


def check_schema(dataset: Dataset) -> Iterator[Finding]:
    """Every table is there, has the contract's columns with their units and descriptions, and its key orders its rows and is unique."""
    for table in TABLES:
        path = dataset.root / table.path
        if not path.is_file():
            yield error_of("schema", f"{table.path} is not there")
            continue
        try:
            if not pq.read_schema(path).equals(table.arrow_schema, check_metadata=True):
                yield error_of("schema", f"{table.path} does not have the columns, types, units and descriptions of the contract")
            elif not _is_ordered(table, path):
                yield error_of("schema", f"rows of {table.path} are not ordered by {', '.join(table.key)}, or repeat")
        except (OSError, ValueError, pa.ArrowException) as error:
            yield error_of("schema", f"{table.path} cannot be read: {error}")


def _is_ordered(table: Table, path: Path) -> bool:
    """Whether keys increase strictly; every column is read, batch by batch, so that damage shows."""
    last: list[pa.RecordBatch] = []
    for batch in pq.ParquetFile(path).iter_batches():
        keys = batch.select(list(table.key))
        if not _increase(pa.Table.from_batches([*last, keys])):
            return False
        last = [keys[-1:]] if len(keys) else last
    return True


def _increase(keys: pa.Table) -> bool:
    ordered: Any = pa.scalar(False)
    for column in reversed(keys.combine_chunks().columns):
        before, after = column[:-1], column[1:]
        ordered = pc.or_(pc.less(before, after), pc.and_(pc.equal(before, after), ordered))
    return pc.all(ordered, min_count=0).as_py() is True


def check_join(dataset: Dataset) -> Iterator[Finding]:
    """The manifest says what the tables it was joined from say, about the same cells."""
    manifest = dataset.manifest.set_index("specimen_id")
    for table in (CELLS, SPLITS, LABEL_STATS):
        part = read_table(table, dataset.root).set_index("specimen_id")
        extra = part.index.difference(manifest.index)
        missing = manifest.index.difference(part.index) if table is not LABEL_STATS else extra[:0]
        for specimen_id in [*extra, *missing]:
            yield error_of("join", f"the cell is in only one of manifest and {table.name}", specimen_id)
        common = part.index.intersection(manifest.index)
        shared = [c for c in part.columns if c in manifest.columns and not (c == "reason" and table is CELLS)]
        left, right = part.loc[common, shared].astype(object), manifest.loc[common, shared].astype(object)
        unequal = (left != right) & ~(left.isna() & right.isna())
        for specimen_id in common[unequal.fillna(value=True).any(axis=1)]:
            names = ", ".join(c for c in shared if unequal.loc[specimen_id, c] is not False and unequal.loc[specimen_id, c])
            yield error_of("join", f"manifest and {table.name} disagree about {names}", specimen_id)


def check_configuration(dataset: Dataset) -> Iterator[Finding]:
    """The data was built from the configuration that lies beside it, and from the cells table that lies beside it."""
    try:
        digest = section_digest(dataset.config, DECIDING_GROUPS)
    except BrightfieldError as error:
        yield error_of("configuration", str(error), remedy="write params.yaml with `brightfield config`")
        return
    if set(dataset.manifest["config_sha256"]) - {digest}:
        yield error_of("configuration", f"the manifest was built from another configuration than {PARAMS_FILE}", remedy="run `dvc repro`")
    if set(dataset.manifest["snapshot_sha256"]) - {sha256_file(dataset.root / CELLS.path)}:
        yield error_of("configuration", f"the manifest was built from another {CELLS.path}", remedy="run `dvc repro`")


def check_terms(dataset: Dataset) -> Iterator[Finding]:
    """Every row carries licence and citation."""
    for url in sorted(url for url in set(dataset.manifest["license_url"]) if url and not web_link(url)):
        yield error_of("terms", f"license_url {url[:100]!r} is no http or https address")
    for row in dataset.manifest[["specimen_id", "license", "citation"]].itertuples():
        for what in ("license", "citation"):
            text = str(getattr(row, what)).strip()
            if not text:
                yield error_of("terms", f"no {what}", int(str(row.specimen_id)))
            elif text == NOT_STATED:
                yield warning_of("terms", f"{what} {NOT_STATED}", int(str(row.specimen_id)), f"set source.{what}")


def check_notes(dataset: Dataset) -> Iterator[Finding]:
    """What was noticed while the skeletons were read and drawn."""
    for row in records(read_table(FINDINGS, dataset.root)):
        yield Finding(Severity(row["severity"]), row["check"], row["message"], row["specimen_id"], row["remedy"])


# --------------------------------------------------------------------------------------------------------------------- files


def check_hashes(dataset: Dataset) -> Iterator[Finding]:
    """Every file and store that the manifest names is there, with the bytes that the manifest says."""
    with StoreHasher() as hash_store:
        for specimen_id, kind, path, expected in watched(list(named_files(dataset.manifest)), "hashes", "file"):
            target = dataset.root / path
            if not target.exists():
                yield error_of("hashes", f"{path} is not there", specimen_id, f"fetch it with `dvc pull {path}`")
            elif (hash_store if target.is_dir() else hash_and_size)(target)[0] != expected:
                yield error_of("hashes", f"the {kind} {path} does not have the bytes that the manifest says", specimen_id)


# -------------------------------------------------------------------------------------------------------------------- splits


def check_leaks(dataset: Dataset) -> Iterator[Finding]:
    """No donor, image series or skeleton is on two sides, and every cell is on the side that the rules give it."""
    for leak in leaks_of(dataset.manifest):
        yield error_of("splits", leak)
    known = dataset.manifest[dataset.manifest["skeleton_sha256"].notna()]
    hashes = dict(zip(known["specimen_id"].tolist(), known["skeleton_sha256"].tolist(), strict=True))
    alignment, failures = read_table(ALIGNMENT_CELLS, dataset.root), read_failures(dataset.root, BEFORE_SPLIT)
    expected = assign(dataset.cells, dataset.config.split, swc_sha256=hashes, alignment=alignment, failures=failures)
    both = dataset.splits.merge(expected, on="specimen_id", suffixes=("", "_expected"), how="outer")
    moved = both[(both["split"] != both["split_expected"]) | (both["fold"].fillna(-1) != both["fold_expected"].fillna(-1))]
    for row in moved.to_dict("records"):
        sides = [f"{row['split' + suffix]}, fold {row['fold' + suffix]}" for suffix in ("", "_expected")]
        yield error_of("splits", f"the cell is on {sides[0]}; the rules give {sides[1]}", int(row["specimen_id"]))


def check_balance(dataset: Dataset) -> Iterator[Finding]:
    """Shares per stratum are within five points, every side has cells, and test has full reconstructions."""
    proof = prove(dataset.manifest, dataset.config.split)
    for row in proof.strata[proof.strata["deviation_points"] > MAX_DEVIATION_POINTS].to_dict("records"):
        message = f"stratum {row['stratum']} ({row['cells']} cells) is {row['deviation_points']:.1f} points off the shares asked for"
        remedy = "before anything is published: `brightfield salt`; afterwards say it, as another salt moves cells"
        yield warning_of("balance", message, remedy=remedy)
    counts = proof.counts.set_index("split")
    for side in (Split.TRAIN, Split.VAL, Split.TEST):
        if not counts.loc[side, "cells"]:
            yield warning_of(
                "balance", f"no cell is on side {side}", remedy="take more cells, or another split.salt before anything is published"
            )
    if counts.loc[Split.TEST, "cells"] and not counts.loc[Split.TEST, "full"] and counts["full"].sum() >= MIN_STRATUM_CELLS:
        yield warning_of("balance", "test has no full reconstruction", remedy="take more cells")


# ----------------------------------------------------------------------------------------------------------------- alignment

SHIFT_WARNING_UM = 0.2
"""A cell this far beside its stain is told: a quarter of a um, less the 0.05 um that the measured shift may be off."""


def check_alignment(dataset: Dataset) -> Iterator[Finding]:
    """No cell that may be used lies beside its stain, in the plane, by more than SHIFT_WARNING_UM or a quarter of a voxel."""
    verdicts = read_table(ALIGNMENT_CELLS, dataset.root).merge(dataset.cells[["specimen_id", "pixel_um"]], on="specimen_id")
    for row in records(verdicts[verdicts["grade"] != Grade.REJECTED]):
        y, x = row["shift_y_um"] or 0.0, row["shift_x_um"] or 0.0
        quarter_um = (row["pixel_um"] or 0.0) * 2**dataset.config.image.level / 4
        if hypot(y, x) > max(SHIFT_WARNING_UM, quarter_um):
            message = f"the skeleton lies {hypot(y, x):.2f} um beside its stain (the stain is at y {y:+.2f}, x {x:+.2f} um)"
            remedy = "thin neurites miss their stain: look at the cell in the report; where all cells are off alike, see source.swc_origin"
            yield warning_of("alignment", message, int(row["specimen_id"]), remedy)


# --------------------------------------------------------------------------------------------------------------- description


def check_description(dataset: Dataset) -> Iterator[Finding]:
    """Card and Croissant say what the tables say now; the Croissant file holds the hash of every table."""
    for file, text_of in ((CARD_FILE, card.card), (CROISSANT_FILE, card.croissant_text)):
        path = dataset.root / file
        if not path.is_file():
            yield error_of("description", f"{file} is not there")
        elif path.read_text(encoding="utf-8") != (expected := text_of(dataset.root, dataset.config)):
            others = _other_tables(path, expected) if file == CROISSANT_FILE else ""
            yield error_of("description", f"{file} does not say what the tables say{others}")


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
    check_files,
    check_orphans,
    check_hub,
    check_grids,
    check_codes,
    check_pyramids,
    check_components,
    check_nodes,
    check_leaks,
    check_balance,
    check_alignment,
    check_patches,
    check_weights,
    check_mix,
    check_quotas,
    check_description,
)

WHILE_BUILDING: tuple[Check, ...] = tuple(
    check for check in CHECKS if check not in (check_files, check_hashes, check_hub, check_codes, check_patches, check_description)
)
"""The checks of a build: without those that compare files with what they were written from a moment ago, and those that look at one cell
after the other, which `describe_cell` has done."""
