"""The cells that a stage works on, from what the stages before it wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from brightfield.config import Config
from brightfield.schema import CELLS, PLANES, image_store, skeleton_file
from brightfield.selection import cells_of
from brightfield.space import swc_to_stack_um
from brightfield.tables import read_table

if TYPE_CHECKING:
    from brightfield.skeleton import Skeleton
    from brightfield.source import Cell


def selected_cells(root: Path) -> tuple[Cell, ...]:
    """The cells that the dataset takes, from the tables of the query stage."""
    cells = read_table(CELLS, root)
    return cells_of(cells[cells["selected"]], read_table(PLANES, root))


def downloaded_cells(root: Path) -> tuple[Cell, ...]:
    """The selected cells whose skeleton and image are there; fewer than selected only under `download.allow_missing`."""
    return tuple(
        cell
        for cell in selected_cells(root)
        if (root / skeleton_file(cell.specimen_id)).is_file() and (root / image_store(cell.specimen_id)).is_dir()
    )


def skeleton_on_stack(root: Path, cell: Cell, config: Config) -> Skeleton:
    """The skeleton of a cell in the frame of its stack: what is drawn, compared with the stain and exported."""
    from brightfield.skeleton import read_swc

    skeleton = read_swc(root / skeleton_file(cell.specimen_id))
    if cell.stack is None:
        return skeleton
    position = swc_to_stack_um(skeleton.position_zyx_um, cell.stack.grid, config.source.swc_origin.value)
    return replace(skeleton, position_zyx_um=position)
