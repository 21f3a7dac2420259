"""A source in miniature: cells, pictures and a catalog for the mirror."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brightfield.core.cell import Cell, Plane, Stack
from brightfield.core.swc import format_swc
from brightfield.sources.mirror.catalog import ArrayPicture, MemoryCatalog, Picture
from brightfield.sources.mirror.records import tables_of
from brightfield.testing.skeletons import cable

if TYPE_CHECKING:
    pass


def small_cell(
    specimen_id: int = 1, *, n_planes: int = 4, height_px: int = 300, width_px: int = 400, missing: Sequence[int] = (), **fields: Any
) -> Cell:
    """A mouse cell with a stack, an SWC and a marker file; `missing` planes are absent at the source. All ids follow from its own."""
    first = 1000 * specimen_id
    planes = tuple(
        Plane(k, 7 + k, None, usable=False, reason="absent at the source") if k in missing else Plane(k, 7 + k, first + k)
        for k in range(n_planes)
    )
    return Cell(
        **{
            "specimen_id": specimen_id,
            "name": f"cell {specimen_id}",
            "donor_id": 10 * specimen_id,
            "species": "Mus musculus",
            "line": "Pvalb-IRES-Cre",
            "layer": "2/3",
            "normalized_depth": 0.25,
            "soma_xyz_um": (9000.5, 1300.0, 8000.25),
            "reconstruction_id": first + 900,
            "reconstruction_type": "full",
            "swc_file_id": first + 901,
            "swc_url": f"/api/v2/well_known_file_download/{first + 901}",
            "marker_file_id": first + 902,
            "marker_url": f"/api/v2/well_known_file_download/{first + 902}",
            "stack": Stack(first + 999, width_px, height_px, 0.1144, 0.28, planes, projection_id=first + 998),
            **fields,
        }
    )


def small_picture(image_id: int, height_px: int, width_px: int) -> NDArray[np.uint8]:
    """Smooth grey values that differ from picture to picture and show any shift, flip or scaling."""
    y, x = np.mgrid[:height_px, :width_px]
    grey: NDArray[np.int64] = 40 + (7 * image_id + 2 * (y // 8) + 3 * (x // 16) + (y * x) // 4096) % 160
    return grey.astype(np.uint8)


def small_catalog(*cells: Cell) -> MemoryCatalog:
    """A mirror's catalog of `small_cell`s: `small_picture`s, their minimum as the projection, and one-branch skeletons."""
    files: dict[int, bytes] = {}
    pictures: dict[int, Picture] = {}
    for cell in cells:
        files |= {cell.swc_file_id: format_swc(cable(20.0))} if cell.swc_file_id else {}
        files |= {cell.marker_file_id: b"##x,y,z,radius,shape,name,comment,color_r,color_g,color_b\n"} if cell.marker_file_id else {}
        if cell.stack:
            size = (cell.stack.height_px, cell.stack.width_px)
            planes = {p.sub_image_id: small_picture(p.sub_image_id, *size) for p in cell.stack.planes if p.sub_image_id is not None}
            pictures |= {image_id: ArrayPicture(pixels) for image_id, pixels in planes.items()}
            if cell.stack.projection_id is not None:
                pictures[cell.stack.projection_id] = ArrayPicture(np.minimum.reduce(list(planes.values())))
    return MemoryCatalog(tables_of(cells), files, pictures)
