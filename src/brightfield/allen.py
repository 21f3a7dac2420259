"""The Allen Cell Types Database as a source: AllenSDK builds the queries, our own client carries every byte.

AllenSDK's HTTP has no timeouts and no retries, so its one fetching method is replaced by `HttpClient`, the same that fetches files and
pixels. The same code runs against the real service and against a mirror of it.
"""

from __future__ import annotations

import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import batched, product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from brightfield import jpeg
from brightfield.client import Answer, HttpClient, public_url
from brightfield.errors import SourceError, StackError, TransferError
from brightfield.source import Cell, Crop, Plane, Stack

if TYPE_CHECKING:
    from allensdk.api.queries.cell_types_api import CellTypesApi

type Row = Mapping[str, Any]

BASE_URL = "http://api.brain-map.org"

# What this module believes of the service and no machine of the project could try on it. docs/reference/allen-assumptions.md says for
# each where it comes from and how to check it; a correction is made here and nowhere else.
SWC_FILE_TYPE_ID = 303941301
MARKER_FILE_TYPE_ID = 486753749
PLANE_IMAGE_TYPE = "Primary"
PROJECTION_IMAGE_TYPE = "min-xy"
FILE_PATH = "/api/v2/well_known_file_download/{file_id}"
PICTURE_PATH = "/api/v2/image_download/{image_id}?downsample={level}&left={left}&top={top}&width={width}&height={height}&quality={quality}"
IDS_PER_QUERY = 100  # about 1.2 kB of URL
ROWS_PER_PAGE = 5000  # a service that gives fewer at a time is followed to its end all the same
PICTURE_MAX_PX = 2048  # side of the largest picture asked for; the service may cap larger ones
SIZE_EXCESS_PX = 1  # a picture may be this much larger than asked for, in rows or columns: the surplus is cut off


class AllenSource:
    """Cells, files and pixels of the Allen service at `base_url`, or of a mirror of it.

    client: carries all requests; the caller closes it. quality: JPEG quality asked of the image service, 0 to 100.
    Every method raises TransferError for what could not be had and SourceError for what the service refused.
    """

    def __init__(self, client: HttpClient, base_url: str = BASE_URL, *, quality: int = 100) -> None:
        self._client = client
        self._url = base_url.rstrip("/")
        self._quality = quality

    @property
    def base_url(self) -> str:
        """Where the service is, without credentials."""
        return public_url(self._url)

    def cells(self) -> Sequence[Cell]:
        """Every cell of the database by specimen id: one query. Reconstruction, markers and stack come with `complete`."""
        rows = self._api.list_cells_api()
        return tuple(sorted((_cell(row) for row in rows), key=lambda cell: cell.specimen_id))

    def complete(self, cells: Sequence[Cell]) -> Sequence[Cell]:
        """The same cells in the same order, with reconstruction, files and stack: a few queries for every hundred cells."""
        ids = [cell.specimen_id for cell in cells]
        reconstructions = _grouped(self._related("NeuronReconstruction", "specimen_id", ids, "well_known_files"), "specimen_id")
        specimens = {row["id"]: row for row in self._related("Specimen", "id", ids, "data_sets")}
        data_sets = {specimen_id: [d["id"] for d in row.get("data_sets") or ()] for specimen_id, row in specimens.items()}
        planes = _grouped(self._sub_images("data_set[id$in{}]", [d for found in data_sets.values() for d in found]), "data_set_id")
        with_planes = [i for i in ids if any(d in planes for d in data_sets.get(i, ()))]
        projections = _grouped(self._sub_images("[specimen_id$in{}]", with_planes), "specimen_id")
        return tuple(
            _with_stack(
                _with_reconstruction(cell, chosen := _chosen_reconstruction(cell, reconstructions.get(cell.specimen_id, ()))),
                chosen,
                [row for data_set in data_sets.get(cell.specimen_id, ()) for row in planes.get(data_set, ())],
                projections.get(cell.specimen_id, ()),
            )
            for cell in cells
        )

    def file(self, url: str) -> bytes:
        """The bytes of the SWC or marker file at `url`, relative to the base URL or absolute."""
        return self._client.get(self._url + url if url.startswith("/") else url, verify=_text_body)

    def pixels(self, cell: Cell, crop: Crop) -> NDArray[np.uint8]:
        """The pixels of a crop, uint8, shape `crop.shape_yx`: decoded whole and of the size that was asked for."""
        if crop.plane.sub_image_id is None:
            raise StackError(f"cell {cell.specimen_id}: plane {crop.plane.plane} has no image: {crop.plane.reason}")
        return self._picture(crop.plane.sub_image_id, crop)

    def projection(self, cell: Cell, level: int) -> NDArray[np.uint8] | None:
        """The minimum projection along z at `level`, uint8 of the downloaded grid's shape, or None where there is none."""
        if cell.stack is None or cell.stack.projection_id is None:
            return None
        plane = Plane(0, 0, cell.stack.projection_id)
        rows, columns = cell.stack.height_px >> level, cell.stack.width_px >> level
        whole = np.empty((rows, columns), np.uint8)
        for top, left in product(range(0, rows, PICTURE_MAX_PX), range(0, columns, PICTURE_MAX_PX)):
            height, width = min(PICTURE_MAX_PX, rows - top), min(PICTURE_MAX_PX, columns - left)
            crop = Crop(plane, top << level, left << level, height << level, width << level, level)
            whole[top : top + height, left : left + width] = self._picture(cell.stack.projection_id, crop)
        return whole

    def _picture(self, image_id: int, crop: Crop) -> NDArray[np.uint8]:
        url = self._url + PICTURE_PATH.format(
            image_id=image_id,
            level=crop.level,
            left=crop.left,
            top=crop.top,
            width=crop.width,
            height=crop.height,
            quality=self._quality,
        )
        return self._client.get(url, verify=lambda answer: decode_picture(answer, crop.shape_yx))

    @cached_property
    def _api(self) -> CellTypesApi:
        api = _import_cell_types_api()(self._url)
        api.retrieve_parsed_json_over_http = self._json
        return api

    def _json(self, url: str, post: bool = False) -> dict[str, Any]:  # noqa: ARG002  (AllenSDK passes it)
        """The answer to an RMA query; stands in for AllenSDK's own fetching method."""
        envelope = self._client.get(url, verify=_json_body)
        if envelope.get("success") is not True:
            raise SourceError(f"the service refused a query: {envelope.get('msg')!r}; the query was {public_url(url)}")
        return envelope

    def _related(self, model: str, key: str, ids: Sequence[int], include: str) -> list[Row]:
        """Rows of `model` with what `include` names. Not paged: with an include, the service counts joined rows, not objects."""
        rows: list[Row] = []
        for some in batched(ids, IDS_PER_QUERY):
            criteria = f"[{key}$in{_listed(some)}]"
            rows += self._api.model_query(model, criteria=criteria, include=include, num_rows="all", count=False)
        return rows

    def _sub_images(self, criteria: str, ids: Sequence[int]) -> list[Row]:
        """SubImage rows by id, page after page; `criteria` has one place for the ids."""
        found: dict[int, Row] = {}
        for some in batched(ids, IDS_PER_QUERY):
            for row in self._pages("SubImage", criteria.format(_listed(some))):
                found[row["id"]] = row
        return [row for _, row in sorted(found.items())]

    def _pages(self, model: str, criteria: str) -> Iterator[Row]:
        start = 0
        while True:
            stage = self._api.model_stage(model, criteria=criteria, num_rows=ROWS_PER_PAGE, start_row=start, order=["'sub_images.id'"])
            envelope = self._json(self._api.build_query_url(stage))
            yield from envelope["msg"]
            start += len(envelope["msg"])
            if start >= envelope["total_rows"]:
                return
            if not envelope["msg"]:
                raise SourceError(
                    f"the service announced {envelope['total_rows']} rows of {model} and stopped at {start}; run the query again"
                )


def decode_picture(answer: Answer, shape_yx: tuple[int, int]) -> NDArray[np.uint8]:
    """Grey pixels, uint8 of shape `shape_yx`, of a picture that is one, is whole and has the size that was asked for.

    A colour picture yields its luma, which for a grey picture stored in colour is the picture. One row or column more than asked for is
    cut off (the service rounded the far edge up); one less is refused, since pixels are never invented.

    Raises TransferError for anything else that arrives under the name of a picture.
    """
    from PIL import Image

    if not answer.content_type.startswith("image/"):
        raise TransferError(f"expected a picture, found {answer.content_type or 'no content type'}")
    if answer.body.startswith(jpeg.SIGNATURE) and jpeg.damage(answer.body):
        raise TransferError("the picture is cut short or damaged")
    try:
        picture = Image.open(io.BytesIO(answer.body), formats=("JPEG", "PNG"))
        rows, columns = picture.height, picture.width
        if not all(0 <= found - asked <= SIZE_EXCESS_PX for found, asked in zip((rows, columns), shape_yx, strict=True)):
            raise TransferError(f"expected a picture of {shape_yx[1]} x {shape_yx[0]} px, found {columns} x {rows} px")
        picture.draft("L", None)
        pixels = np.asarray(picture.convert("L"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise TransferError("the picture is cut short or damaged") from error
    return np.ascontiguousarray(pixels[: shape_yx[0], : shape_yx[1]])


def _import_cell_types_api() -> Any:
    """AllenSDK's client class; takes seconds to import, so only the query stage pays for it."""
    import warnings

    # AllenSDK 2.16.2 asks numpy for a name that numpy 2 has moved (AllenSDK#2744, AllenSDK#2754: fixed on its main branch, unreleased).
    np.VisibleDeprecationWarning = np.exceptions.VisibleDeprecationWarning  # type: ignore[attr-defined] # noqa: NPY201
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its invalid escape sequences and its imports are not ours to mend
        from allensdk.api.queries.cell_types_api import CellTypesApi
    return CellTypesApi


def _json_body(answer: Answer) -> dict[str, Any]:
    try:
        envelope = json.loads(answer.body)
    except ValueError as error:
        raise TransferError(f"expected JSON, found {answer.content_type or 'no content type'}") from error
    if not isinstance(envelope, dict) or "success" not in envelope:
        raise TransferError("expected an RMA envelope with `success`, found other JSON")
    return envelope


def _text_body(answer: Answer) -> bytes:
    """A file that is not an error page in disguise; whether it is a skeleton is for `skeleton.py` to say."""
    if answer.content_type in ("text/html", "text/xml", "application/xml") or answer.body.lstrip()[:1] in (b"", b"<"):
        raise TransferError(f"expected a text file, found {answer.content_type or 'an empty answer'}")
    return answer.body


def _listed(ids: Iterable[int]) -> str:
    return ",".join(map(str, ids))


def _grouped(rows: Iterable[Row], key: str) -> dict[int, list[Row]]:
    groups: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[key]].append(row)
    return dict(groups)


def _text(value: object) -> str | None:
    """Text as the database means it: an empty string or one in quotes is an artefact of its exports."""
    text = "" if value is None else str(value).strip().strip('"')
    return text or None


def _number(value: object) -> float | None:
    number = float(value) if value not in (None, "") else math.nan  # type: ignore[arg-type]
    return number if math.isfinite(number) else None


def _id(value: object) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _cell(row: Row) -> Cell:
    """A row of ApiCellTypesSpecimenDetail. The SWC's file id is in it; type and files are confirmed by `complete`."""
    try:
        specimen_id, donor_id = int(row["specimen__id"]), int(row["donor__id"])
        soma = tuple(_number(row.get(name)) for name in ("csl__x", "csl__y", "csl__z"))
        file_id = _id(row.get("nrwkf__id"))
        return Cell(
            specimen_id=specimen_id,
            name=str(row["specimen__name"]),
            donor_id=donor_id,
            species=str(row["donor__species"]),
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
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"a cell of the database cannot be read ({error!r}): specimen {row.get('specimen__id')!r}") from error


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
    stack = Stack(
        image_series_id=frame.data_set_id,
        width_px=frame.width_px,
        height_px=frame.height_px,
        pixel_um=frame.resolution_um,
        plane_um=plane_um,
        planes=_planes(planes, frame),
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
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"an image record cannot be read ({error!r}): SubImage {row.get('id')!r}") from error


def _planes(rows: Sequence[Row], frame: _Frame) -> tuple[Plane, ...]:
    """Every index between the first and the last usable plane; sections that are absent or failed stay as missing planes."""
    own = {int(row["section_number"]): row for row in sorted(rows, key=_precedence) if row["data_set_id"] == frame.data_set_id}
    usable = [section for section, row in own.items() if not row.get("failed") and _frame(row) == frame]
    first, last = min(usable), max(usable)
    return tuple(_plane(section - first, section, own.get(section), frame) for section in range(first, last + 1))


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
