"""Stage 6: the dataset's own account of itself: nodes, patches, manifest, card, Croissant; refused where a check finds an error."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from brightfield import checks
from brightfield.card import write_card, write_croissant
from brightfield.compute import Engine
from brightfield.config import Config, section_digest
from brightfield.manifest_table import build_manifest
from brightfield.nodes import export_swc, nodes_frame
from brightfield.patches import load_cell, sample
from brightfield.schema import (
    ALIGNMENT,
    CHECKS_FILE,
    EXPORTS_DIR,
    LABEL_NAMES,
    LABEL_STATS,
    MANIFEST,
    NODES,
    PATCHES,
    SPLITS,
    Label,
    Split,
    keys_file,
)
from brightfield.source import Cell
from brightfield.stages.cells import downloaded_cells, grid_of, markers_on_stack, skeleton_on_stack, stack_of
from brightfield.stages.sources import source_name
from brightfield.tables import read_table, write_table
from brightfield.workcache import CellTask, WorkCache, write_json

DECIDING = ("patches", "labels.r_min_um", "labels.face_planes", "align.stretch_um", "source.swc_origin", "image.level", "image.z_step")
EARLIER = ("skeletons", "download", "rasterize", "align")


def run(config: Config, root: Path) -> None:
    """Write nodes, patches, manifest, card and Croissant; raises CheckError naming every ERROR that the checks find."""
    cache = WorkCache(root, "manifest", (NODES, PATCHES, EXPORTS_DIR), config.compute.work_dir)
    print(f"manifest: {cache.run(_tasks(config, root), Engine.of(config.compute, 'patches').map)}")
    write_table(MANIFEST, build_manifest(root, config, source_url=source_name(config.source)), root)
    write_card(root, config)
    write_croissant(root, config)
    findings = checks.run_checks(root)
    print(checks.as_text(findings))
    checks.refuse_errors(findings)
    write_json(root / CHECKS_FILE, [asdict(finding) for finding in findings])


def _tasks(config: Config, root: Path) -> dict[int, CellTask]:
    splits = {row["specimen_id"]: row for row in read_table(SPLITS, root).to_dict("records")}
    keys = {stage: json.loads((root / keys_file(stage)).read_text()) for stage in EARLIER}
    options = section_digest(config, DECIDING)
    tasks = {}
    for cell in downloaded_cells(root):
        specimen_id = cell.specimen_id
        split, fold = splits[specimen_id]["split"], splits[specimen_id]["fold"]
        fold = None if pd.isna(fold) else int(fold)
        inputs = [keys[stage].get(str(specimen_id)) for stage in EARLIER]
        key = {"options": options, "inputs": inputs, "split": split, "fold": fold}
        tasks[specimen_id] = CellTask(key, describe_cell, (root.resolve(), cell, config, split, fold))
    return tasks


def describe_cell(out: Path, root: Path, cell: Cell, config: Config, split: str, fold: int | None) -> None:
    """Nodes, SWC exports and, unless it is excluded, patches of one cell below `out`."""
    specimen_id, skeleton, grid = cell.specimen_id, skeleton_on_stack(root, cell, config), grid_of(cell, config)
    stretches = read_table(ALIGNMENT, root, columns=["stretch", "verdict"], specimen_id=specimen_id)
    stats = read_table(LABEL_STATS, root, specimen_id=specimen_id).iloc[0]
    nodes = nodes_frame(
        specimen_id,
        skeleton,
        markers_on_stack(root, cell, config),
        grid,
        config.labels.r_min_um,
        dict(zip(stretches["stretch"], stretches["verdict"], strict=True)),
        stretch_um=config.align.stretch_um,
        face_um=config.labels.face_planes * stack_of(cell).plane_um,
        axon_traced=stats[f"absent_{LABEL_NAMES[Label.AXON]}"] == "absent",
    )
    write_table(NODES, nodes, out)
    export_swc(specimen_id, skeleton, grid, out)
    if split != Split.EXCLUDED:
        write_table(PATCHES, sample(load_cell(root, specimen_id, config), config.patches, split=split, fold=fold), out)
