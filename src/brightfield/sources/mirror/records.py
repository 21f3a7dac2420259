"""Cells as the records that the Allen service would keep of them: the inverse of `allen/records.py`."""

from __future__ import annotations

from collections.abc import Iterable

from brightfield.core.cell import Cell, Stack
from brightfield.sources.allen.records import FILE_PATH, MARKER_FILE_TYPE_ID, PLANE_IMAGE_TYPE, PROJECTION_IMAGE_TYPE, SWC_FILE_TYPE_ID
from brightfield.sources.mirror.rma import Row

CELLS_MODEL = "ApiCellTypesSpecimenDetail"


def tables_of(cells: Iterable[Cell]) -> dict[str, list[Row]]:
    """The records that the service would keep of these cells: what `allen.AllenSource` reads back as the same cells."""
    cells = list(cells)
    return {
        CELLS_MODEL: [_detail_row(cell) for cell in cells],
        "NeuronReconstruction": [
            _reconstruction_row(cell) for cell in cells if cell.swc_file_id is not None or cell.reconstruction_id is not None
        ],
        "Specimen": [specimen_row(cell.specimen_id, cell.name, cell.donor_id, cell.stack) for cell in cells],
        "SubImage": [row for cell in cells if cell.stack for row in image_rows(cell.specimen_id, cell.stack)],
    }


def _detail_row(cell: Cell) -> Row:
    return {
        "specimen__id": cell.specimen_id,
        "specimen__name": cell.name,
        "specimen__hemisphere": cell.hemisphere,
        "donor__id": cell.donor_id,
        "donor__species": cell.species,
        "line_name": cell.line,
        "cell_reporter_status": cell.reporter,
        "structure__layer": cell.layer,
        "structure_parent__acronym": cell.structure,
        "tag__dendrite_type": cell.dendrite_type,
        "tag__apical": cell.apical,
        "nr__reconstruction_type": cell.reconstruction_type,
        "nrwkf__id": cell.swc_file_id,
        "si__width": cell.stack and float(cell.stack.width_px),
        "si__height": cell.stack and float(cell.stack.height_px),
        "csl__normalized_depth": cell.normalized_depth,
        **dict(zip(("csl__x", "csl__y", "csl__z"), cell.soma_xyz_um or (None,) * 3, strict=True)),
    }


def _reconstruction_row(cell: Cell) -> Row:
    # An own skeleton has no reconstruction id: the specimen's stands in, since the service finds files and plane spacing by one.
    reconstruction_id = cell.specimen_id if cell.reconstruction_id is None else cell.reconstruction_id
    return {
        "id": reconstruction_id,
        "specimen_id": cell.specimen_id,
        "neuron_reconstruction_type": cell.reconstruction_type,
        "superseded": False,
        "scale_factor_x": cell.stack and cell.stack.pixel_um,
        "scale_factor_y": cell.stack and cell.stack.pixel_um,
        "scale_factor_z": cell.stack and cell.stack.plane_um,
        "well_known_files": file_rows(reconstruction_id, cell.swc_file_id, cell.marker_file_id),
    }


def file_rows(reconstruction_id: int | None, swc_file_id: int | None, marker_file_id: int | None) -> list[Row]:
    """The well-known files of a reconstruction."""
    return [
        {
            "id": file_id,
            "attachable_id": reconstruction_id,
            "well_known_file_type_id": type_id,
            "download_link": FILE_PATH.format(file_id=file_id),
        }
        for file_id, type_id in ((swc_file_id, SWC_FILE_TYPE_ID), (marker_file_id, MARKER_FILE_TYPE_ID))
        if file_id is not None
    ]


def specimen_row(specimen_id: int, name: str, donor_id: int, stack: Stack | None) -> Row:
    """A Specimen with its image series."""
    data_sets = [{"id": stack.image_series_id, "specimen_id": specimen_id}] if stack else []
    return {"id": specimen_id, "name": name, "donor_id": donor_id, "data_sets": data_sets}


def image_rows(specimen_id: int, stack: Stack) -> Iterable[Row]:
    """The SubImages of a stack: its planes and its projection."""
    common = {
        "data_set_id": stack.image_series_id,
        "data_set": {"id": stack.image_series_id},
        "width": stack.width_px,
        "height": stack.height_px,
        "resolution": stack.pixel_um,
        "x": 0,
        "y": 0,
    }
    for plane in stack.planes:
        if plane.sub_image_id is not None:
            own = {"id": plane.sub_image_id, "specimen_id": None, "section_number": plane.section_number, "failed": not plane.usable}
            yield {**own, "image_type": PLANE_IMAGE_TYPE, **common}
    if stack.projection_id is not None:
        own = {"id": stack.projection_id, "specimen_id": specimen_id, "section_number": None, "failed": False}
        yield {**own, "image_type": PROJECTION_IMAGE_TYPE, **common}
