"""The Allen service's records: what is believed of them, and how they become `Cell` and `Stack`. No network, no AllenSDK."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from brightfield.core.cell import Cell, Plane, Stack, check_stack_size
from brightfield.core.errors import SourceError, StackError
from brightfield.sources.allen.rows import MAX_ID, MAX_TEXT, shown

type Row = Mapping[str, Any]

# What this project believes of the service and none of its machines could try on it. docs/reference/allen-assumptions.md says for
# each where it comes from and how to check it; a correction is made here and nowhere else.
SWC_FILE_TYPE_ID = 303941301
MARKER_FILE_TYPE_ID = 486753749
PLANE_IMAGE_TYPE = "Primary"
PROJECTION_IMAGE_TYPE = "min-xy"
FILE_PATH = "/api/v2/well_known_file_download/{file_id}"
PICTURE_PATH = "/api/v2/image_download/{image_id}?downsample={level}&left={left}&top={top}&width={width}&height={height}&quality={quality}"
IDS_PER_QUERY = 100  # about 1.2 kB of URL
ROWS_PER_PAGE = 5000  # a service that gives fewer at a time is followed to its end all the same
PICTURE_BYTES_PER_PX = 5  # the most that is taken; a JPEG of coloured noise at quality 100 has 4.1
PICTURE_HEAD_BYTES = 2**16  # and what comes before the pixels
PICTURE_MAX_PX = 2048  # side of the largest picture asked for; the service may cap larger ones
SIZE_EXCESS_PX = 1  # a picture may be this much larger than asked for, in rows or columns: the surplus is cut off


def _text(value: object) -> str | None:
    """Text as the database means it, one line: an empty string or one in quotes is an artefact of its exports."""
    text = "" if value is None else "".join(c if c.isprintable() else " " for c in str(value)).strip().strip('"')
    if len(text) > MAX_TEXT:
        raise ValueError(f"a text of {len(text)} characters")
    return text or None


def _number(value: object) -> float | None:
    number = float(value) if value not in (None, "") else math.nan  # type: ignore[arg-type]
    return number if math.isfinite(number) else None


def _id(value: object) -> int | None:
    return None if value in (None, "") else _own_id(value)


def _own_id(value: object) -> int:
    """The id of a record: a whole number above 0 that 64 bits hold."""
    number = int(value)  # type: ignore[call-overload]
    if isinstance(value, bool) or (isinstance(value, float) and number != value) or not 0 < number <= MAX_ID:
        raise ValueError(f"{shown(value)} is no id")
    return int(number)


def cell_of(row: Row) -> Cell:
    """A row of ApiCellTypesSpecimenDetail. The SWC's file id is in it; type and files are confirmed by `complete`."""
    try:
        specimen_id, donor_id = _own_id(row["specimen__id"]), _own_id(row["donor__id"])
        if not (name := _text(row["specimen__name"])):
            raise ValueError("no name")
        soma = tuple(_number(row.get(name)) for name in ("csl__x", "csl__y", "csl__z"))
        file_id = _id(row.get("nrwkf__id"))
        return Cell(
            specimen_id=specimen_id,
            name=name,
            donor_id=donor_id,
            species=_text(row["donor__species"]) or "",
            line=_text(row.get("line_name")),
            reporter=_text(row.get("cell_reporter_status")),
            structure=_text(row.get("structure_parent__acronym")),
            layer=_text(row.get("structure__layer")),
            hemisphere=_text(row.get("specimen__hemisphere")),
            dendrite_type=_text(row.get("tag__dendrite_type")),
            apical=_text(row.get("tag__apical")),
            normalized_depth=_number(row.get("csl__normalized_depth")),
            soma_xyz_um=None if None in soma else soma,  # type: ignore[arg-type]
            reconstruction_type=_text(row.get("nr__reconstruction_type")),
            swc_file_id=file_id,
            swc_url=None if file_id is None else FILE_PATH.format(file_id=file_id),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SourceError(f"a cell of the database cannot be read ({shown(error)}): specimen {shown(row.get('specimen__id'))}") from error


def _chosen_reconstruction(cell: Cell, rows: Sequence[Row]) -> Row | None:
    """The current reconstruction: not superseded; the one whose SWC the cells table names, else the newest."""
    current = [row for row in rows if row.get("superseded") is not True and _file(row, SWC_FILE_TYPE_ID)]
    named = [row for row in current if (swc := _file(row, SWC_FILE_TYPE_ID)) and swc["id"] == cell.swc_file_id]
    return max(named or current, key=lambda row: int(row["id"]), default=None)


def _file(reconstruction: Row, type_id: int) -> Row | None:
    """The newest well-known file of a type; names are no help, since marker files too may end in .swc."""
    files = [f for f in reconstruction.get("well_known_files") or () if f.get("well_known_file_type_id") == type_id]
    return max(files, key=lambda f: int(f["id"]), default=None)


def _with_reconstruction(cell: Cell, row: Row | None) -> Cell:
    if row is None or (swc := _file(row, SWC_FILE_TYPE_ID)) is None:
        return cell
    marker = _file(row, MARKER_FILE_TYPE_ID)
    return replace(
        cell,
        reconstruction_id=row["id"],
        reconstruction_type=_text(row.get("neuron_reconstruction_type")) or cell.reconstruction_type,
        swc_file_id=swc["id"],
        swc_url=_link(swc),
        marker_file_id=None if marker is None else marker["id"],
        marker_url=None if marker is None else _link(marker),
    )


def _link(file: Row) -> str:
    return str(file.get("download_link") or FILE_PATH.format(file_id=file["id"]))


def completed(cell: Cell, reconstructions: Sequence[Row], images: Sequence[Row], projections: Sequence[Row]) -> Cell:
    """The cell with its current reconstruction, its files and its stack.

    reconstructions: rows of NeuronReconstruction with their files. images: SubImage rows of its data sets. projections: those of the
    specimen. A stack that cannot be used leaves its reason in `stack_problem`. Raises SourceError for a record that cannot be read.
    """
    chosen = _chosen_reconstruction(cell, reconstructions)
    return _with_stack(_with_reconstruction(cell, chosen), chosen, images, projections)


def _with_stack(cell: Cell, reconstruction: Row | None, images: Sequence[Row], projections: Sequence[Row]) -> Cell:
    """The cell with the stack that its Primary images make up, or with the reason why they make up none."""
    planes = [row for row in images if row.get("image_type") == PLANE_IMAGE_TYPE]
    usable = [row for row in planes if not row.get("failed")]
    if not usable:
        return replace(cell, stack_problem="all planes of the stack failed") if planes else cell
    frame = min(Counter(_frame(row) for row in usable).items(), key=lambda item: (item[0].resolution_um, -item[1], item[0]))[0]
    plane_um, scale_um = (_number((reconstruction or {}).get(f"scale_factor_{axis}")) for axis in "zx")
    if plane_um is None or plane_um <= 0 or frame.resolution_um <= 0:
        return replace(cell, stack_problem="the records give no pixel size or no plane spacing")
    if scale_um is not None and not math.isclose(scale_um, frame.resolution_um, rel_tol=1e-3):
        return replace(cell, stack_problem=f"the image says {frame.resolution_um} um a pixel, the reconstruction {scale_um}")
    try:
        sections = _planes(planes, frame)
    except StackError as error:
        return replace(cell, stack_problem=str(error))
    stack = Stack(
        image_series_id=frame.data_set_id,
        width_px=frame.width_px,
        height_px=frame.height_px,
        pixel_um=frame.resolution_um,
        plane_um=plane_um,
        planes=sections,
        projection_id=_projection_id(projections, frame),
    )
    return replace(cell, stack=stack)


class _Frame(NamedTuple):
    """What the planes of one stack have in common: they lie exactly above each other."""

    data_set_id: int
    width_px: int
    height_px: int
    x_px: int
    y_px: int
    resolution_um: float


def _frame(row: Row) -> _Frame:
    try:
        return _Frame(
            int(row["data_set_id"]),
            int(row["width"]),
            int(row["height"]),
            int(row.get("x") or 0),
            int(row.get("y") or 0),
            float(row.get("resolution") or 0),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SourceError(f"an image record cannot be read ({shown(error)}): SubImage {shown(row.get('id'))}") from error


def _planes(rows: Sequence[Row], frame: _Frame) -> tuple[Plane, ...]:
    """Every index between the first and the last usable plane; sections that are absent or failed stay as missing planes."""
    own = {_section(row): row for row in sorted(rows, key=_precedence) if row["data_set_id"] == frame.data_set_id}
    usable = [section for section, row in own.items() if not row.get("failed") and _frame(row) == frame]
    first, last = min(usable), max(usable)
    check_stack_size(first, last, frame.height_px, frame.width_px)
    return tuple(_plane(section - first, section, own.get(section), frame) for section in range(first, last + 1))


def _section(row: Row) -> int:
    try:
        return int(row["section_number"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SourceError(f"an image record has no section number ({shown(error)}): SubImage {shown(row.get('id'))}") from error


def _precedence(row: Row) -> tuple[bool, int]:
    """Of two images of one section the later one counts, and a failed one only where there is no other."""
    return (not row.get("failed"), int(row["id"]))


def _plane(index: int, section: int, row: Row | None, frame: _Frame) -> Plane:
    if row is None:
        return Plane(index, section, None, usable=False, reason="absent at the source")
    if row.get("failed"):
        return Plane(index, section, row["id"], usable=False, reason="failed at the source")
    if _frame(row) != frame:
        return Plane(index, section, row["id"], usable=False, reason="size, offset or resolution differs from the stack's")
    return Plane(index, section, row["id"])


def _projection_id(rows: Sequence[Row], frame: _Frame) -> int | None:
    """The newest minimum projection along z that covers the planes pixel by pixel."""
    size = (frame.width_px, frame.height_px)
    fitting = [row for row in rows if _is_min_xy(row) and not row.get("failed") and (row.get("width"), row.get("height")) == size]
    return max((int(row["id"]) for row in fitting), default=None)


def _is_min_xy(row: Row) -> bool:
    """The database names a projection by its type, or by function and axes."""
    return PROJECTION_IMAGE_TYPE in (row.get("image_type"), f"{row.get('projection_function')}-{row.get('axes')}")
