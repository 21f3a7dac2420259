"""Stage 3: whether every skeleton is on its stain.

What measures a cell is imported where that is done: most runs find all cells finished.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from brightfield.built.cells import BuiltCell, built_cells, file_digest
from brightfield.config.options import Config
from brightfield.config.params import section_digest
from brightfield.core.cell import Cell
from brightfield.core.codes import Grade
from brightfield.core.schema import ALIGNMENT, ALIGNMENT_CELLS, TILES
from brightfield.core.tables import frame_of, read_table, row_digests, write_table
from brightfield.run.engine import Engine
from brightfield.run.workcache import CellTask, WorkCache

DECIDING = ("align", "labels.r_min_um", "source.swc_origin", "source.swc_unit", "source.swc_axes", "image.level", "image.z_step")
"""The options that decide a cell's verdicts."""


def run(config: Config, root: Path) -> None:
    """Write the alignment of stretches and cells, and name the cells that are rejected."""
    cache = WorkCache(root, "align", (ALIGNMENT, ALIGNMENT_CELLS), config.compute.work_dir)
    pixels = row_digests(TILES, root)  # the ledger holds the hash of every tile's pixels
    tasks = {built.specimen_id: _task(built, pixels.get(built.specimen_id)) for built in built_cells(root.resolve(), config)}
    done = cache.run(tasks, Engine(config.compute, "alignment").map, on_failure=config.download.on_failure)
    print(f"align: {done}")
    graded = read_table(ALIGNMENT_CELLS, root)
    for _, row in graded[graded["grade"] == Grade.REJECTED].iterrows():
        print(f"align: cell {row['specimen_id']} is rejected: {row['reason']}")


def _task(built: BuiltCell, pixels: str | None) -> CellTask:
    key = {
        "options": section_digest(built.config, DECIDING),
        "swc": file_digest(built.skeleton_path),
        "pixels": pixels,
        "stack": repr(built.cell.stack),
    }
    return CellTask(key, measure_cell, (built.root, built.cell, built.config))


def measure_cell(out: Path, root: Path, cell: Cell, config: Config) -> None:
    """The alignment of one cell below `out`."""
    from brightfield.stages.align.absorbance import Pixels
    from brightfield.stages.align.cell import align_cell

    built = BuiltCell(root, cell, config)
    fetched = built.tiles[built.tiles["state"] == "ok"][["z", "y0", "y1", "x0", "x1"]].to_numpy(np.int64)
    pixels = Pixels(built.image.grids[0], built.image.read, fetched)
    found = align_cell(built.specimen_id, built.skeleton, pixels, config.align, config.labels.r_min_um)
    write_table(ALIGNMENT, frame_of(ALIGNMENT, found.stretches), out)
    write_table(ALIGNMENT_CELLS, frame_of(ALIGNMENT_CELLS, [found.cell]), out)
