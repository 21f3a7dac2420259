"""The Allen Cell Types Database as a source: AllenSDK builds the queries, our own client carries every byte.

AllenSDK's HTTP has no timeouts and no retries, so its one fetching method is replaced by `HttpClient`, the same that fetches files and
pixels. The same code runs against the real service and against a mirror of it.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import batched, product
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brightfield.core.cell import Cell, Crop, Plane
from brightfield.core.errors import SourceError, StackError, TransferError
from brightfield.core.urls import public_url, same_origin
from brightfield.sources.allen.picture import decode_picture
from brightfield.sources.allen.records import (
    IDS_PER_QUERY,
    PICTURE_BYTES_PER_PX,
    PICTURE_HEAD_BYTES,
    PICTURE_MAX_PX,
    PICTURE_PATH,
    ROWS_PER_PAGE,
    Row,
    cell_of,
    completed,
)
from brightfield.sources.allen.rows import grouped, shown, typed
from brightfield.sources.http.client import Answer, HttpClient, Traffic

if TYPE_CHECKING:
    from allensdk.api.queries.cell_types_api import CellTypesApi


class AllenSource:
    """Cells, files and pixels of the Allen service at `base_url`, or of a mirror of it.

    client: carries all requests; the caller closes it. quality: JPEG quality asked of the image service, 0 to 100.
    Every method raises TransferError for what could not be had and SourceError for what the service refused.
    """

    def __init__(self, client: HttpClient, base_url: str, *, quality: int = 100) -> None:
        self._client = client
        self._url = base_url.rstrip("/")
        self._quality = quality

    @property
    def base_url(self) -> str:
        """Where the service is, without credentials."""
        return public_url(self._url)

    def cells(self) -> Sequence[Cell]:
        """Every cell of the database by specimen id: one query. Reconstruction, markers and stack come with `complete`."""
        found: dict[int, Cell] = {}
        for cell in map(cell_of, self._api.list_cells_api()):
            if found.setdefault(cell.specimen_id, cell) != cell:
                raise SourceError(f"the service has two records of specimen {cell.specimen_id} that differ; run the query again")
        return tuple(cell for _, cell in sorted(found.items()))

    def complete(self, cells: Sequence[Cell]) -> Sequence[Cell]:
        """The same cells in the same order, with reconstruction, files and stack: a few queries for every hundred cells."""
        ids = [cell.specimen_id for cell in cells]
        reconstructions = grouped(self._related("NeuronReconstruction", "specimen_id", ids, "well_known_files"), "specimen_id")
        specimens = {row["id"]: row for row in self._related("Specimen", "id", ids, "data_sets")}
        data_sets = {specimen_id: [d["id"] for d in row.get("data_sets") or ()] for specimen_id, row in specimens.items()}
        planes = grouped(self._sub_images("data_set[id$in{}]", [d for found in data_sets.values() for d in found]), "data_set_id")
        with_planes = [i for i in ids if any(d in planes for d in data_sets.get(i, ()))]
        projections = grouped(self._sub_images("[specimen_id$in{}]", with_planes), "specimen_id")
        return tuple(
            completed(
                cell,
                reconstructions.get(cell.specimen_id, ()),
                [row for data_set in data_sets.get(cell.specimen_id, ()) for row in planes.get(data_set, ())],
                projections.get(cell.specimen_id, ()),
            )
            for cell in cells
        )

    def file(self, url: str) -> bytes:
        """The bytes of the SWC or marker file at `url`: a path below the base URL, or an address of the same host and port."""
        address = self._url + url if url.startswith("/") else url
        if not same_origin(self._url, address):
            reason = f"the file's link leads away from {self.base_url}"
            raise TransferError(f"{public_url(address)}: {reason}: nothing is fetched from elsewhere", reason=reason)
        return self._client.get(address, verify=_text_body)

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

    @property
    def traffic(self) -> Traffic:
        """What the client asked and received so far."""
        return self._client.traffic

    def close(self) -> None:
        """Close the client: requests that are under way fail at once."""
        self._client.close()

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
        largest = PICTURE_BYTES_PER_PX * crop.shape_yx[0] * crop.shape_yx[1] + PICTURE_HEAD_BYTES
        return self._client.get(url, verify=lambda answer: decode_picture(answer, crop.shape_yx), max_body_bytes=largest)

    @cached_property
    def _api(self) -> CellTypesApi:
        api = _import_cell_types_api()(self._url)
        api.retrieve_parsed_json_over_http = self._json
        return api

    def _json(self, url: str, post: bool = False) -> dict[str, Any]:  # noqa: ARG002  (AllenSDK passes it)
        """The answer to an RMA query; stands in for AllenSDK's own fetching method."""
        envelope = self._client.get(url, verify=_json_body)
        if envelope.get("success") is not True:
            raise SourceError(f"the service refused a query: {shown(envelope.get('msg'))}; the query was {public_url(url)}")
        rows = envelope.get("msg")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise SourceError(f"the service answered without a list of records; the query was {public_url(url)}")
        return envelope

    def _related(self, model: str, key: str, ids: Sequence[int], include: str) -> list[Row]:
        """Rows of `model` with what `include` names. Not paged: with an include, the service counts joined rows, not objects."""
        rows: list[Row] = []
        for some in batched(ids, IDS_PER_QUERY):
            criteria = f"[{key}$in{_listed(some)}]"
            rows += typed(model, self._api.model_query(model, criteria=criteria, include=include, num_rows="all", count=False))
        return rows

    def _sub_images(self, criteria: str, ids: Sequence[int]) -> list[Row]:
        """SubImage rows by id, page after page; `criteria` has one place for the ids."""
        found: dict[int, Row] = {}
        for some in batched(ids, IDS_PER_QUERY):
            for row in typed("SubImage", self._pages("SubImage", criteria.format(_listed(some)))):
                found[row["id"]] = row
        return [row for _, row in sorted(found.items())]

    def _pages(self, model: str, criteria: str) -> Iterator[Row]:
        start, previous = 0, None
        while True:
            stage = self._api.model_stage(model, criteria=criteria, num_rows=ROWS_PER_PAGE, start_row=start, order=["'sub_images.id'"])
            envelope = self._json(self._api.build_query_url(stage))
            if not isinstance(envelope.get("total_rows"), int):
                raise SourceError(f"the service does not say how many rows of {model} there are; run the query again")
            if envelope["msg"] and envelope["msg"] == previous:
                raise SourceError(f"the service gives the same page of {model} again at row {start}; run the query again")
            previous = envelope["msg"]
            yield from previous
            start += len(previous)
            if start >= envelope["total_rows"]:
                return
            if not previous:
                raise SourceError(
                    f"the service announced {envelope['total_rows']} rows of {model} and stopped at {start}; run the query again"
                )


def _import_cell_types_api() -> Any:
    """AllenSDK's client class, which the query stage alone pays for."""
    import brightfield_allensdk  # noqa: F401  (lets it be imported on numpy 2)

    with warnings.catch_warnings(), _bare("allensdk.core"):
        warnings.simplefilter("ignore")  # its invalid escape sequences and its imports are not ours to mend
        from allensdk.api.queries.cell_types_api import CellTypesApi
    return CellTypesApi


@contextmanager
def _bare(package: str) -> Iterator[None]:
    """Within this, a module of `package` is imported without the package's own code: AllenSDK's loads NWB, ITK and HDF5 for seconds.

    Whoever imports the package afterwards gets it whole.
    """
    if package in sys.modules:
        yield
        return
    spec, stand_in = importlib.util.find_spec(package), ModuleType(package)
    stand_in.__path__ = list((spec and spec.submodule_search_locations) or ())
    sys.modules[package] = stand_in
    try:
        yield
    finally:
        del sys.modules[package]


def _json_body(answer: Answer) -> dict[str, Any]:
    try:
        envelope = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
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
