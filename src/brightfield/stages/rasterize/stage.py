"""Stage 4: the labels of every cell, from its skeleton and its plan alone; images are not read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from brightfield.built.cells import BuiltCell, built_cells, facts_digest, file_digest, rows_digest
from brightfield.config.options import Config
from brightfield.config.params import section_digest
from brightfield.core.cell import Cell
from brightfield.core.layout import IMAGES_DIR, LABELS_DIR, image_store, label_store
from brightfield.core.schema import FINDINGS, LABEL_STATS
from brightfield.core.tables import frame_of, write_table
from brightfield.run.engine import Engine
from brightfield.run.workcache import CellTask, WorkCache
from brightfield.stages.rasterize.labels import downloaded_boxes, write_labels
from brightfield.stages.rasterize.plan import LabelPlan

DECIDING = (
    "labels",
    "image.level",
    "image.z_step",
    "image.chunk_zyx",
    "image.shard_zyx",
    "source.swc_origin",
    "source.swc_unit",
    "source.swc_axes",
)
"""The options that decide a cell's labels, where their voxels are, and how they are stored."""


def run(config: Config, root: Path) -> None:
    """Write the label stores, their statistics and what was noticed."""
    cache = WorkCache(root, "rasterize", (LABELS_DIR, LABEL_STATS, FINDINGS), config.compute.work_dir)
    tasks = {built.specimen_id: _task(built) for built in built_cells(root.resolve(), config)}
    done = cache.run(tasks, Engine(config.compute, "labels").map, on_failure=config.download.on_failure)
    print(f"rasterize: {done}")


def _task(built: BuiltCell) -> CellTask:
    key = {
        "options": section_digest(built.config, DECIDING),
        "cell": facts_digest(built.cell),
        "swc": file_digest(built.skeleton_path),
        "markers": file_digest(built.marker_path),
        "tiles": rows_digest(built.tiles[["z", "y0", "y1", "x0", "x1", "state"]]),
    }
    return CellTask(key, draw_cell, (built.root, built.cell, built.config))


def draw_cell(out: Path, root: Path, cell: Cell, config: Config) -> None:
    """The labels of one cell below `out`."""
    built = BuiltCell(root, cell, config)
    chunk, shard = tuple(config.image.chunk_zyx), tuple(config.image.shard_zyx)
    plan = LabelPlan(
        stack=built.stack.grid,
        markers=built.markers,
        bad_planes=tuple(z for z, plane in enumerate(built.stack.planes[:: config.image.z_step]) if not plane.usable),
        downloaded=downloaded_boxes(built.tiles),
        reconstruction_type=cell.reconstruction_type,
    )
    stats = write_labels(
        out / label_store(cell.specimen_id),
        built.skeleton,
        built.grid,
        plan,
        config.labels,
        chunk_zyx=(chunk[0], chunk[1], chunk[2]),
        shard_zyx=(shard[0], shard[1], shard[2]),
        source_image=f"../../{IMAGES_DIR.name}/{image_store(cell.specimen_id).name}",
        attributes={"specimen_id": cell.specimen_id, "swc_sha256": file_digest(built.skeleton_path)},
    )
    write_table(LABEL_STATS, frame_of(LABEL_STATS, [stats.to_row(cell.specimen_id)]), out)
    noticed = (*built.skeleton.findings, *stats.findings)
    findings = [asdict(finding) | {"specimen_id": cell.specimen_id, "number": i} for i, finding in enumerate(noticed)]
    write_table(FINDINGS, frame_of(FINDINGS, findings), out)
