"""The embedded demo as a catalog: its records, its skeletons, and its stacks rendered box by box as they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brightfield.core.cell import Plane, Stack
from brightfield.sources.demo.cells import DemoCell, demo_cells
from brightfield.sources.demo.phantom import Phantom
from brightfield.sources.mirror.catalog import MemoryCatalog, Picture
from brightfield.sources.mirror.records import CELLS_MODEL, file_rows, image_rows, specimen_row


def demo_catalog(seed: int = 7) -> MemoryCatalog:
    """The catalog of `demo.demo_cells`. Same seed, same records and pixels. Raises SourceError when bmtk is not installed."""
    cells = demo_cells(seed)
    stacks = {cell.specimen_id: _stack(cell, cell.phantom) for cell in cells if cell.phantom}
    tables: dict[str, list[Mapping[str, Any]]] = {
        CELLS_MODEL: [cell.row for cell in cells],
        "NeuronReconstruction": [_reconstruction(cell, cell.reconstruction) for cell in cells if cell.reconstruction],
        "Specimen": [_specimen(cell, stacks.get(cell.specimen_id)) for cell in cells],
        "SubImage": [row for specimen_id, stack in stacks.items() for row in image_rows(specimen_id, stack)],
    }
    texts = {cell.swc_file_id: cell.swc for cell in cells} | {cell.marker_file_id: cell.marker for cell in cells}
    pictures: dict[int, Picture] = {}
    for cell in cells:
        if cell.phantom:
            pictures[cell.projection_id] = _PhantomProjection(cell.phantom)
            pictures |= {
                plane.sub_image_id: _PhantomPlane(cell.phantom, plane.plane)
                for plane in stacks[cell.specimen_id].planes
                if plane.sub_image_id is not None
            }
    return MemoryCatalog(tables, {file_id: text for file_id, text in texts.items() if text is not None}, pictures)


def _reconstruction(cell: DemoCell, fields: Mapping[str, object]) -> Mapping[str, Any]:
    marker_file_id = None if cell.marker is None else cell.marker_file_id
    return {**fields, "well_known_files": file_rows(int(str(fields["id"])), cell.swc_file_id, marker_file_id)}


def _specimen(cell: DemoCell, stack: Stack | None) -> Mapping[str, Any]:
    return specimen_row(cell.specimen_id, str(cell.row["specimen__name"]), int(str(cell.row["donor__id"])), stack)


def _stack(cell: DemoCell, phantom: Phantom) -> Stack:
    return Stack(
        image_series_id=cell.data_set_id,
        width_px=phantom.width_px,
        height_px=phantom.height_px,
        pixel_um=phantom.pixel_um,
        plane_um=phantom.plane_um,
        planes=tuple(_plane(cell, phantom, k) for k in range(phantom.n_planes)),
        projection_id=cell.projection_id,
    )


def _plane(cell: DemoCell, phantom: Phantom, k: int) -> Plane:
    if k in phantom.faults.missing:
        return Plane(k, cell.first_section + k, None, usable=False)
    return Plane(k, cell.first_section + k, cell.sub_image_id(k), usable=k not in phantom.faults.failed)


class _PhantomPlane:
    """One plane of a phantom."""

    def __init__(self, phantom: Phantom, plane: int) -> None:
        self._phantom, self._plane = phantom, plane
        self.width_px, self.height_px = phantom.width_px, phantom.height_px

    def read(self, level: int, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """The box, rendered at the level."""
        from brightfield.sources.demo.rendering import render_crop  # loads the compiler, which records and skeletons do not need

        return render_crop(self._phantom, self._plane, top, left, height, width, level)


class _PhantomProjection:
    """The minimum projection of a phantom along z, rendered once for each level."""

    def __init__(self, phantom: Phantom) -> None:
        self._whole = lru_cache(2)(lambda level: _projection(phantom, level))
        self.width_px, self.height_px = phantom.width_px, phantom.height_px

    def read(self, level: int, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """The box of the projection."""
        row, column = top >> level, left >> level
        return self._whole(level)[row : row + (height >> level), column : column + (width >> level)]


def _projection(phantom: Phantom, level: int) -> NDArray[np.uint8]:
    from brightfield.sources.demo.rendering import render_projection

    return render_projection(phantom, level)
