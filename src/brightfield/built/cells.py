"""One cell as the stages before have built it, and the digests by which its work is found again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from brightfield.config.options import Config, SourceConfig
from brightfield.core.cell import Cell, Stack, cells_of
from brightfield.core.errors import StackError
from brightfield.core.files import sha256_file
from brightfield.core.keys import read_failures
from brightfield.core.layout import image_store, label_store, marker_file, skeleton_file
from brightfield.core.markers import Marker, read_markers
from brightfield.core.schema import CELLS, PLANES, TILES
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid, Triple, download_grid, swc_to_stack_um
from brightfield.core.swc import read_swc
from brightfield.core.swc_convention import SwcConvention
from brightfield.core.tables import read_table
from brightfield.volumes.volume import Volume, open_volume

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class BuiltCell:
    """A cell of the dataset at `root`: what the source says of it and what was written of it so far, each part read when first asked for.

    Parts raise the errors of their files (SkeletonError, MarkerError, TableError, StackError).
    """

    root: Path
    cell: Cell
    config: Config

    @property
    def specimen_id(self) -> int:
        """The cell's id."""
        return self.cell.specimen_id

    @property
    def stack(self) -> Stack:
        """The stack, which every downloaded cell has."""
        if self.cell.stack is None:
            raise StackError(f"cell {self.specimen_id} has no image stack; select cells with images (source.require_images=true)")
        return self.cell.stack

    @property
    def grid(self) -> Grid:
        """The downloaded grid: that of the image and of the labels."""
        return download_grid(self.stack.grid, self.config.image.level, self.config.image.z_step)

    @cached_property
    def skeleton(self) -> Skeleton:
        """The skeleton in the frame of the stack: what is drawn, compared with the stain and exported."""
        skeleton = read_swc(self.skeleton_path, swc_convention(self.config.source, self.stack.grid.voxel_size_zyx_um))
        return skeleton.moved_to(swc_to_stack_um(skeleton.position_zyx_um, self.stack.grid, self.config.source.swc_origin.value))

    @cached_property
    def markers(self) -> tuple[Marker, ...]:
        """The markers in the frame of the stack; none where the cell has no marker file."""
        if not self.marker_path.is_file():
            return ()
        full = self.stack.grid
        markers = read_markers(self.marker_path, full.voxel_size_zyx_um)
        positions = np.array([marker.position_zyx_um for marker in markers]).reshape(-1, 3)
        moved = swc_to_stack_um(positions, full, self.config.source.swc_origin.value)
        return tuple(replace(marker, position_zyx_um=(z, y, x)) for marker, (z, y, x) in zip(markers, moved.tolist(), strict=True))

    @cached_property
    def tiles(self) -> pd.DataFrame:
        """The rows of the ledger (`schema.TILES`) of this cell."""
        return read_table(TILES, self.root, specimen_id=self.specimen_id)

    @cached_property
    def image(self) -> Volume:
        """The downloaded stack."""
        return open_volume(self.root / image_store(self.specimen_id))

    @cached_property
    def labels(self) -> Volume:
        """The labels."""
        return open_volume(self.root / label_store(self.specimen_id))

    @property
    def skeleton_path(self) -> Path:
        """The file with the source's own bytes."""
        return self.root / skeleton_file(self.specimen_id)

    @property
    def marker_path(self) -> Path:
        """The file with the source's own bytes; cells without markers have none."""
        return self.root / marker_file(self.specimen_id)

    @property
    def is_downloaded(self) -> bool:
        """Whether skeleton and image are there; under `download.on_failure=exclude` some are not."""
        return self.skeleton_path.is_file() and (self.root / image_store(self.specimen_id)).is_dir()


def swc_convention(source: SourceConfig, voxel_size_zyx_um: Triple) -> SwcConvention:
    """How the SWC of a cell is meant, whose stack has voxels of this size."""
    return SwcConvention(source.swc_unit.value, source.swc_axes.value, voxel_size_zyx_um)


def selected_cells(root: Path) -> tuple[Cell, ...]:
    """The cells that the dataset takes, from the tables of the query stage."""
    cells = read_table(CELLS, root)
    return cells_of(cells[cells["selected"]], read_table(PLANES, root))


def built_cells(root: Path, config: Config) -> tuple[BuiltCell, ...]:
    """The selected cells that were downloaded, without those that the download went without.

    Raises StackError where others are not there: what is lost must not be taken for what is not wanted.
    """
    excluded = read_failures(root, ("skeletons", "download"))
    cells = [BuiltCell(root, cell, config) for cell in selected_cells(root) if cell.specimen_id not in excluded]
    pictured = [cell for cell in cells if cell.cell.stack is not None]
    if lost := [cell.specimen_id for cell in pictured if not cell.is_downloaded]:
        which = f"skeleton or image of {len(lost)} selected cell(s) not here, {lost[0]} first"
        raise StackError(f"{which}; fetch them with `dvc checkout` or `brightfield pull`, or run the download stage")
    return tuple(pictured)


# ---------------------------------------------------------------------------------------------------------------- digests, for keys


def file_digest(path: Path) -> str | None:
    """sha256 of a file; None where there is none."""
    return sha256_file(path) if path.is_file() else None


def facts_digest(cell: Cell) -> str:
    """sha256 of what the source says of a cell's geometry and planes."""
    return hashlib.sha256(repr((cell.specimen_id, cell.reconstruction_type, cell.stack)).encode()).hexdigest()
