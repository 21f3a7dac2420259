"""Stage 3: the labels of every cell, from its skeleton and its plan alone; images are not read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from brightfield.compute import Engine
from brightfield.config import Config, section_digest
from brightfield.labels import LabelPlan, LabelRules, downloaded_boxes, write_labels
from brightfield.schema import (
    FINDINGS,
    IMAGES_DIR,
    LABEL_STATS,
    LABELS_DIR,
    TILES,
    image_store,
    label_store,
    marker_file,
    skeleton_file,
)
from brightfield.source import Cell
from brightfield.stages.cells import (
    downloaded_cells,
    facts_digest,
    file_digest,
    grid_of,
    markers_on_stack,
    rows_digest,
    skeleton_on_stack,
    stack_of,
)
from brightfield.tables import frame_of, read_table, write_table
from brightfield.workcache import CellTask, WorkCache

if TYPE_CHECKING:
    import pandas as pd

GEOMETRY = ("image.level", "image.z_step", "image.chunk_zyx", "image.shard_zyx", "source.swc_origin")
"""The options beside `labels` that decide where voxels are and how they are stored."""


def run(config: Config, root: Path) -> None:
    """Write the label stores, their statistics and what was noticed."""
    cache = WorkCache(root, "rasterize", (LABELS_DIR, LABEL_STATS, FINDINGS), config.compute.work_dir)
    tasks = {cell.specimen_id: _task(config, root, cell) for cell in downloaded_cells(root)}
    print(f"rasterize: {cache.run(tasks, Engine.of(config.compute, 'labels').map)}")


def _task(config: Config, root: Path, cell: Cell) -> CellTask:
    tiles = read_table(TILES, root, specimen_id=cell.specimen_id)
    key = {
        "options": section_digest(config, ("labels", *GEOMETRY)),
        "cell": facts_digest(cell),
        "swc": file_digest(root / skeleton_file(cell.specimen_id)),
        "markers": file_digest(root / marker_file(cell.specimen_id)),
        "tiles": rows_digest(tiles[["z", "y0", "y1", "x0", "x1", "state"]]),
    }
    return CellTask(key, draw_cell, (root.resolve(), cell, config, tiles))


def draw_cell(out: Path, root: Path, cell: Cell, config: Config, tiles: pd.DataFrame) -> None:
    """The labels of one cell below `out`."""
    skeleton, stack = skeleton_on_stack(root, cell, config), stack_of(cell)
    chunk, shard = tuple(config.image.chunk_zyx), tuple(config.image.shard_zyx)
    plan = LabelPlan(
        stack=stack.grid,
        markers=markers_on_stack(root, cell, config),
        bad_planes=tuple(z for z, plane in enumerate(stack.planes[:: config.image.z_step]) if not plane.usable),
        downloaded=downloaded_boxes(tiles),
        reconstruction_type=cell.reconstruction_type,
    )
    stats = write_labels(
        out / label_store(cell.specimen_id),
        skeleton,
        grid_of(cell, config),
        plan,
        LabelRules.of(vars(config.labels)),
        chunk_zyx=(chunk[0], chunk[1], chunk[2]),
        shard_zyx=(shard[0], shard[1], shard[2]),
        source_image=f"../../{IMAGES_DIR.name}/{image_store(cell.specimen_id).name}",
        attributes={"specimen_id": cell.specimen_id, "swc_sha256": file_digest(root / skeleton_file(cell.specimen_id))},
    )
    write_table(LABEL_STATS, frame_of(LABEL_STATS, [stats.to_row(cell.specimen_id)]), out)
    findings = [asdict(f) | {"specimen_id": cell.specimen_id, "number": i} for i, f in enumerate((*skeleton.findings, *stats.findings))]
    write_table(FINDINGS, frame_of(FINDINGS, findings), out)
