"""Stage 6: the dataset's own account of itself: nodes, patches, manifest, card, Croissant; refused where a check finds an error."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pandas as pd

from brightfield.built.cells import BuiltCell, built_cells
from brightfield.config.options import Config
from brightfield.config.params import published_name, section_digest
from brightfield.core.cell import Cell
from brightfield.core.codes import Split
from brightfield.core.errors import CheckError
from brightfield.core.files import write_json
from brightfield.core.keys import BEFORE_SPLIT, read_failures, read_keys
from brightfield.core.layout import CHECKS_FILE, EXPORTS_DIR
from brightfield.core.schema import MANIFEST, NODES, PATCHES, SPLITS
from brightfield.core.tables import read_table, write_table
from brightfield.run.engine import Engine
from brightfield.run.workcache import CellTask, WorkCache
from brightfield.stages.manifest.card import write_card, write_croissant
from brightfield.stages.manifest.checks import WHILE_BUILDING, run_checks
from brightfield.stages.manifest.findings import REBUILD, as_text, refuse_errors
from brightfield.stages.manifest.hub import write_hub
from brightfield.stages.manifest.listing import write_listing
from brightfield.stages.manifest.nodes import export_swc, nodes_of
from brightfield.stages.manifest.patches import sample, weigh
from brightfield.stages.manifest.table import build_manifest
from brightfield.stages.manifest.voxel_checks import cell_faults

DECIDING = (
    "patches",
    "labels.r_min_um",
    "labels.face_planes",
    "align.stretch_um",
    "source.swc_origin",
    "source.swc_unit",
    "source.swc_axes",
    "image.level",
    "image.z_step",
)


def run(config: Config, root: Path) -> None:
    """Write nodes, patches, manifest, card and Croissant; raises CheckError naming every ERROR that the checks find."""
    cache = WorkCache(root, "manifest", (NODES, PATCHES, EXPORTS_DIR), config.compute.work_dir)
    done = cache.run(_tasks(config, root), Engine(config.compute, "patches").map, on_failure=config.download.on_failure)
    print(f"manifest: {done}")
    weigh(root, config.patches)
    write_table(MANIFEST, build_manifest(root, config, source_url=published_name(config.source)), root)
    write_hub(root)
    write_card(root, config)
    write_croissant(root, config)
    findings = run_checks(root, WHILE_BUILDING, config)
    print(as_text(findings))
    refuse_errors(findings)
    write_json(root / CHECKS_FILE, [asdict(finding) for finding in findings])
    write_listing(root)


def _tasks(config: Config, root: Path) -> dict[int, CellTask]:
    splits = {row["specimen_id"]: row for row in read_table(SPLITS, root).to_dict("records")}
    keys, failed = {stage: read_keys(root, stage) for stage in BEFORE_SPLIT}, read_failures(root, BEFORE_SPLIT)
    options = section_digest(config, DECIDING)
    tasks = {}
    for built in (cell for cell in built_cells(root.resolve(), config) if cell.specimen_id not in failed):
        specimen_id = built.specimen_id
        split, fold = splits[specimen_id]["split"], splits[specimen_id]["fold"]
        fold = None if pd.isna(fold) else int(fold)
        inputs = [keys[stage].get(specimen_id) for stage in BEFORE_SPLIT]
        key = {"options": options, "inputs": inputs, "split": split, "fold": fold}
        tasks[specimen_id] = CellTask(key, describe_cell, (built.root, built.cell, config, split, fold))
    return tasks


def describe_cell(out: Path, root: Path, cell: Cell, config: Config, split: str, fold: int | None) -> None:
    """Nodes, SWC exports and, unless it is excluded, patches of one cell below `out`. Raises CheckError for voxels that are not right."""
    built, patches = BuiltCell(root, cell, config), None
    write_table(NODES, nodes_of(built), out)
    export_swc(built.specimen_id, built.skeleton, built.grid, out)
    if split != Split.EXCLUDED:
        from brightfield.stages.manifest.voxels import voxels_of  # loads the compiler: most runs find all cells finished

        patches = sample(voxels_of(built), config.patches, split=split, fold=fold)
        write_table(PATCHES, patches, out)
    if fault := next(cell_faults(built, patches, split), None):
        raise CheckError(f"{fault}; {REBUILD}")
