"""Stage 4: whether every skeleton is on its stain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from brightfield.absorbance import Pixels
from brightfield.alignment import align_cell
from brightfield.compute import Engine
from brightfield.config import Config, section_digest
from brightfield.contrast import Gates
from brightfield.schema import ALIGNMENT, ALIGNMENT_CELLS, TILES, Grade, image_store, skeleton_file
from brightfield.source import Cell
from brightfield.stages.cells import downloaded_cells, file_digest, rows_digest, skeleton_on_stack
from brightfield.tables import frame_of, read_table, write_table
from brightfield.volume import open_volume
from brightfield.workcache import CellTask, WorkCache

if TYPE_CHECKING:
    import pandas as pd


def run(config: Config, root: Path) -> None:
    """Write the alignment of stretches and cells, and name the cells that are rejected."""
    cache = WorkCache(root, "align", (ALIGNMENT, ALIGNMENT_CELLS), config.compute.work_dir)
    tasks = {cell.specimen_id: _task(config, root, cell) for cell in downloaded_cells(root)}
    print(f"align: {cache.run(tasks, Engine.of(config.compute, 'alignment').map)}")
    graded = read_table(ALIGNMENT_CELLS, root)
    for _, row in graded[graded["grade"] == Grade.REJECTED].iterrows():
        print(f"align: cell {row['specimen_id']} is rejected: {row['reason']}")


def _task(config: Config, root: Path, cell: Cell) -> CellTask:
    tiles = read_table(TILES, root, specimen_id=cell.specimen_id)
    key = {
        "options": section_digest(config, ("align", "labels.r_min_um", "source.swc_origin", "image.level", "image.z_step")),
        "swc": file_digest(root / skeleton_file(cell.specimen_id)),
        "pixels": rows_digest(tiles),  # the ledger holds the hash of every tile's pixels
        "stack": repr(cell.stack),
    }
    return CellTask(key, measure_cell, (root.resolve(), cell, config, tiles))


def measure_cell(out: Path, root: Path, cell: Cell, config: Config, tiles: pd.DataFrame) -> None:
    """The alignment of one cell below `out`."""
    image = open_volume(root / image_store(cell.specimen_id))
    ok = tiles[tiles["state"] == "ok"]
    boxes = ok[["z", "y0", "y1", "x0", "x1"]].to_numpy(np.int64)
    found = align_cell(cell.specimen_id, skeleton_on_stack(root, cell, config), Pixels(image.grids[0], image.read, boxes), _gates(config))
    write_table(ALIGNMENT, frame_of(ALIGNMENT, found.stretches), out)
    write_table(ALIGNMENT_CELLS, frame_of(ALIGNMENT_CELLS, [found.cell]), out)


def _gates(config: Config) -> Gates:
    low, high = config.align.ring_um
    return Gates(**vars(config.align) | {"ring_um": (low, high), "r_min_um": config.labels.r_min_um})
