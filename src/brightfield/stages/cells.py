"""The cells that a stage works on, from what the stages before it wrote."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from brightfield.config import Config
from brightfield.errors import StackError
from brightfield.schema import CELLS, PLANES, image_store, marker_file, skeleton_file
from brightfield.selection import cells_of
from brightfield.space import Grid, download_grid, swc_to_stack_um
from brightfield.tables import read_table

if TYPE_CHECKING:
    import pandas as pd

    from brightfield.skeleton import Marker, Skeleton
    from brightfield.source import Cell, Stack


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
    return skeleton.moved_to(swc_to_stack_um(skeleton.position_zyx_um, stack_of(cell).grid, config.source.swc_origin.value))


def markers_on_stack(root: Path, cell: Cell, config: Config) -> tuple[Marker, ...]:
    """The markers of a cell in the frame of its stack; none where it has no marker file."""
    from brightfield.skeleton import read_markers

    path = root / marker_file(cell.specimen_id)
    if not path.is_file():
        return ()
    full = stack_of(cell).grid
    markers = read_markers(path, full.voxel_size_zyx_um)
    moved = swc_to_stack_um(np.array([marker.position_zyx_um for marker in markers]).reshape(-1, 3), full, config.source.swc_origin.value)
    return tuple(replace(marker, position_zyx_um=(z, y, x)) for marker, (z, y, x) in zip(markers, moved.tolist(), strict=True))


def stack_of(cell: Cell) -> Stack:
    """The stack of a cell that was downloaded, and so has one."""
    if cell.stack is None:
        raise StackError(f"cell {cell.specimen_id} has no image stack; select cells with images (source.require_images=true)")
    return cell.stack


def grid_of(cell: Cell, config: Config) -> Grid:
    """The downloaded grid of a cell."""
    return download_grid(stack_of(cell).grid, config.image.level, config.image.z_step)


def file_digest(path: Path) -> str | None:
    """sha256 of a file, for keys; None where there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def store_digest(path: Path) -> str:
    """sha256 over names and sizes and contents of a directory's files, for keys."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(path).as_posix()} {file_digest(file)}\n".encode())
    return digest.hexdigest()


def rows_digest(frame: pd.DataFrame) -> str:
    """sha256 of a table's rows, for keys."""
    return hashlib.sha256(frame.to_csv(index=False).encode()).hexdigest()


def facts_digest(cell: Cell) -> str:
    """sha256 of what the source says of a cell's geometry and planes, for keys."""
    return hashlib.sha256(repr((cell.specimen_id, cell.reconstruction_type, cell.stack)).encode()).hexdigest()
