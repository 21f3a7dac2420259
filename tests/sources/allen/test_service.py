from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from brightfield.config.options import ComputeConfig
from brightfield.core.cell import Cell, Crop, Plane
from brightfield.core.errors import SourceError, StackError, TransferError
from brightfield.sources.allen import service as allen
from brightfield.sources.allen.service import AllenSource
from brightfield.sources.http.client import HttpClient
from brightfield.sources.mirror.catalog import MemoryCatalog
from brightfield.sources.mirror.faults import Fault, Faults
from brightfield.sources.mirror.records import tables_of
from brightfield.sources.mirror.server import Mirror, serve
from brightfield.testing.source import small_catalog, small_cell, small_picture

CELLS = (
    small_cell(1, missing=(1,)),
    small_cell(2, marker_file_id=None, marker_url=None, reconstruction_type="dendrite-only"),
    small_cell(3, stack=None),
    small_cell(4, species="Homo Sapiens", line=None, layer=None, normalized_depth=None, soma_xyz_um=None),
)


@pytest.fixture
def client() -> Iterator[HttpClient]:
    with HttpClient(ComputeConfig(timeout_s=20, retries=2), backoff_s=0.001) as client:
        yield client


def _complete(catalog: MemoryCatalog, client: HttpClient) -> dict[int, Cell]:
    with serve(catalog) as mirror:
        source = AllenSource(client, mirror.base_url)
        return {cell.specimen_id: cell for cell in source.complete(source.cells())}


def _edited(cell: Cell, model: str, edit: Callable[[list[dict[str, Any]]], object]) -> MemoryCatalog:
    """The catalog of one cell after `edit` of the rows of one model."""
    tables = tables_of([cell])
    edit(tables[model])  # type: ignore[arg-type]
    return MemoryCatalog(tables)


# -------------------------------------------------------------------------------------------------------------- cells and stacks


def test_cells_come_back_as_they_were_recorded(client: HttpClient) -> None:
    assert tuple(_complete(small_catalog(*CELLS), client).values()) == CELLS


def test_the_list_of_cells_is_one_query_and_has_no_stacks(client: HttpClient) -> None:
    with serve(small_catalog(*reversed(CELLS))) as mirror:
        cells = AllenSource(client, mirror.base_url).cells()
        assert len(mirror.requests) == 1
    bare = {"reconstruction_id": None, "marker_file_id": None, "marker_url": None, "stack": None}
    assert tuple(cells) == tuple(replace(cell, **bare) for cell in CELLS)  # type: ignore[arg-type]


def test_stacks_of_many_cells_take_few_queries_with_short_addresses(client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [small_cell(600_000_000 + i, n_planes=20) for i in range(250)]
    monkeypatch.setattr(allen, "ROWS_PER_PAGE", 999)
    with serve(MemoryCatalog(tables_of(cells))) as mirror:
        source = AllenSource(client, mirror.base_url)
        assert list(source.complete(source.cells())) == cells
        kinds = Counter(unquote(request.path).partition("model::")[2].partition(",rma")[0] for request in mirror.requests)
        assert max(len(request.path) for request in mirror.requests) < 2000
    # 3 batches of ids; (250 x 21) images of 999 a page in batches of 100, 100, 50; their projections
    assert kinds == {"ApiCellTypesSpecimenDetail": 1, "NeuronReconstruction": 3, "Specimen": 3, "SubImage": 3 + 3 + 2 + 3}


def test_a_service_that_gives_fewer_rows_than_asked_is_followed_to_its_end(client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from brightfield.sources.mirror import rma as mirror_rma

    parse = mirror_rma.parse
    monkeypatch.setattr(mirror_rma, "parse", lambda text: replace(q, num_rows=3) if (q := parse(text)).num_rows == 5000 else q)
    assert tuple(_complete(small_catalog(*CELLS), client).values()) == CELLS


def test_a_service_that_stops_before_its_end_is_an_error(client: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    from brightfield.sources.mirror import rma as mirror_rma

    answer = mirror_rma.answer
    monkeypatch.setattr(
        mirror_rma, "answer", lambda tables, text, _: answer(tables, text) | ({"msg": [], "total_rows": 9} if "SubImage" in text else {})
    )
    with pytest.raises(SourceError, match="announced 9 rows of SubImage and stopped at 0"):
        _complete(small_catalog(*CELLS), client)


def test_a_refused_query_is_told_with_the_query_and_not_repeated(client: HttpClient) -> None:
    with serve(MemoryCatalog({})) as mirror:
        with pytest.raises(SourceError, match=r"Unknown model: ApiCellTypesSpecimenDetail.*query\.json\?q=model"):
            AllenSource(client, mirror.base_url).cells()
        assert len(mirror.requests) == 1


def test_the_plane_index_counts_sections_from_the_first_usable_one(client: HttpClient) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        rows[0]["failed"] = True  # section 7, the first
        rows[2]["failed"] = True  # section 9
        del rows[3]  # section 10

    stack = _complete(_edited(small_cell(1, n_planes=6), "SubImage", edit), client)[1].stack
    assert stack is not None
    assert stack.planes == (
        Plane(0, 8, 1001),
        Plane(1, 9, 1002, usable=False, reason="failed at the source"),
        Plane(2, 10, None, usable=False, reason="absent at the source"),
        Plane(3, 11, 1004),
        Plane(4, 12, 1005),
    )


def test_a_plane_of_another_size_offset_or_resolution_is_not_usable(client: HttpClient) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        rows[1]["width"] += 1
        rows[2]["x"] = 5
        rows[3]["resolution"] = 0.2

    stack = _complete(_edited(small_cell(1, n_planes=8), "SubImage", edit), client)[1].stack
    assert stack is not None
    assert [plane.usable for plane in stack.planes] == [True, False, False, False, True, True, True, True]
    assert stack.planes[1].reason == "size, offset or resolution differs from the stack's"


def test_of_two_images_of_a_section_the_later_usable_one_counts(client: HttpClient) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        rows += [{**rows[0], "id": 5000}, {**rows[1], "id": 5001, "failed": True}]

    stack = _complete(_edited(small_cell(1), "SubImage", edit), client)[1].stack
    assert stack is not None
    assert [plane.sub_image_id for plane in stack.planes] == [5000, 1001, 1002, 1003]


def test_the_finest_stack_is_taken_where_a_cell_has_several(client: HttpClient) -> None:
    tables = tables_of([small_cell(1)])
    coarse = {"data_set_id": 77, "data_set": {"id": 77}, "resolution": 0.5}
    tables["SubImage"] += [{**tables["SubImage"][0], "id": 5000 + k, "section_number": k, **coarse} for k in range(9)]
    tables["Specimen"][0]["data_sets"].append({"id": 77, "specimen_id": 1})
    stack = _complete(MemoryCatalog(tables), client)[1].stack
    assert stack is not None
    assert (stack.image_series_id, stack.pixel_um, len(stack.planes)) == (1999, 0.1144, 4)


def test_voxel_sizes_are_the_records_own(client: HttpClient) -> None:
    tables = tables_of([small_cell(1)])
    for row in tables["SubImage"]:
        row["resolution"] = 0.1
    tables["NeuronReconstruction"][0] |= {"scale_factor_x": 0.1, "scale_factor_y": 0.1, "scale_factor_z": 0.3}
    stack = _complete(MemoryCatalog(tables), client)[1].stack
    assert stack is not None
    assert stack.grid.voxel_size_zyx_um == (0.3, 0.1, 0.1)


@pytest.mark.parametrize(
    ("model", "edit", "problem"),
    [
        ("NeuronReconstruction", {"scale_factor_z": None}, "no pixel size or no plane spacing"),
        ("NeuronReconstruction", {"scale_factor_x": 0.2}, "the image says 0.1144 um a pixel, the reconstruction 0.2"),
        ("SubImage", {"resolution": None}, "no pixel size or no plane spacing"),
        ("SubImage", {"failed": True}, "all planes of the stack failed"),
    ],
)
def test_records_that_make_up_no_stack_say_why(client: HttpClient, model: str, edit: dict[str, Any], problem: str) -> None:
    cell = _complete(_edited(small_cell(1), model, lambda rows: [row.update(edit) for row in rows]), client)[1]
    assert cell.stack is None
    assert problem in (cell.stack_problem or "")


def test_images_that_are_no_planes_make_no_stack(client: HttpClient) -> None:
    catalog = _edited(small_cell(1), "SubImage", lambda rows: [row.update(image_type="Other") for row in rows])
    cell = _complete(catalog, client)[1]
    assert (cell.stack, cell.stack_problem) == (None, None)


@pytest.mark.parametrize("edit", [{"width": 399}, {"failed": True}, {"image_type": "max-xy"}])
def test_a_projection_that_does_not_lie_on_the_planes_is_none(client: HttpClient, edit: dict[str, Any]) -> None:
    stack = _complete(_edited(small_cell(1), "SubImage", lambda rows: rows[-1].update(edit)), client)[1].stack
    assert stack is not None
    assert stack.projection_id is None


def test_a_projection_may_be_named_by_function_and_axes(client: HttpClient) -> None:
    named = {"image_type": "Projection", "projection_function": "min", "axes": "xy"}
    stack = _complete(_edited(small_cell(1), "SubImage", lambda rows: rows[-1].update(named)), client)[1].stack
    assert stack is not None
    assert stack.projection_id == 1998


def test_files_are_chosen_by_type_and_superseded_reconstructions_left_out(client: HttpClient) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        files = rows[0]["well_known_files"]
        files.append({"id": 9999, "well_known_file_type_id": 480715721, "path": "thumbnail.png"})
        for file in files:
            file["path"] = "/x/cell_marker_m.swc"  # the suffix says nothing
        newer = [{**file, "id": file["id"] + 5000} for file in files]
        rows.append({**rows[0], "id": 7000, "superseded": True, "well_known_files": newer})

    cell = _complete(_edited(small_cell(1), "NeuronReconstruction", edit), client)[1]
    assert (cell.reconstruction_id, cell.swc_file_id, cell.marker_file_id) == (1900, 1901, 1902)


def test_of_several_current_reconstructions_the_one_named_by_the_cells_table_counts_else_the_newest(client: HttpClient) -> None:
    def edit(rows: list[dict[str, Any]]) -> None:
        rows.append({**rows[0], "id": 7000, "well_known_files": [{"id": 7001, "well_known_file_type_id": 303941301}]})
        for row in rows:
            del row["superseded"]  # the public service does not show the field

    catalog = _edited(small_cell(1), "NeuronReconstruction", edit)
    assert _complete(catalog, client)[1].swc_file_id == 1901
    catalog.tables["ApiCellTypesSpecimenDetail"][0]["nrwkf__id"] = None  # type: ignore[index]
    newest = _complete(catalog, client)[1]
    assert (newest.reconstruction_id, newest.swc_file_id) == (7000, 7001)
    assert newest.swc_url == "/api/v2/well_known_file_download/7001"
    assert newest.marker_url is None


@pytest.mark.real
def test_real_reconstruction_records_are_read(client: HttpClient, shared_data: Path) -> None:
    """Three real answers: a public one without `superseded`, an excerpt with three files, and a history with superseded releases."""
    public = json.loads((shared_data / "api" / "rma_NeuronalModel_472451419_response.json").read_text())
    (first,) = public["msg"][0]["specimen"]["neuron_reconstructions"]
    files = json.loads((shared_data / "api" / "rma_well_known_files_323865917_excerpt.json").read_text())["well_known_files"]
    second = {**first, "id": 492413272, "specimen_id": 323865917, "well_known_files": files}
    history = json.loads((shared_data / "api" / "lims_neuron_reconstructions_318733871.json").read_text())
    named = {386049446: None, 323865917: None, 318733871: None}
    tables = tables_of([small_cell(i, stack=None, swc_file_id=file_id) for i, file_id in named.items()])
    catalog = MemoryCatalog({**tables, "NeuronReconstruction": [first, second, *history]})
    found = {
        i: (c.reconstruction_id, c.swc_file_id, c.marker_file_id, c.reconstruction_type) for i, c in _complete(catalog, client).items()
    }
    assert found[386049446] == (491459171, 491459173, 496607103, "dendrite-only")
    assert found[323865917] == (492413272, 492413274, 496604572, "dendrite-only")
    current = [row for row in history if not row["superseded"]]
    assert [found[318733871][0]] == [row["id"] for row in current]


def test_names_in_quotes_and_empty_texts_are_tidied(client: HttpClient) -> None:
    edit = {"line_name": "", "structure__layer": '"6a"', "tag__apical": " NA "}
    cell = _complete(_edited(small_cell(1), "ApiCellTypesSpecimenDetail", lambda rows: rows[0].update(edit)), client)[1]
    assert (cell.line, cell.layer, cell.apical) == (None, "6a", "NA")


def test_a_cell_that_cannot_be_read_is_named(client: HttpClient) -> None:
    with pytest.raises(SourceError, match=r"specimen 1$"):
        _complete(_edited(small_cell(1), "ApiCellTypesSpecimenDetail", lambda rows: rows[0].update(donor__id=None)), client)


# -------------------------------------------------------------------------------------------------------------- files and pixels


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serve(small_catalog(*CELLS)) as running:
        yield running


def test_files_are_the_bytes_of_the_service(client: HttpClient, mirror: Mirror) -> None:
    source = AllenSource(client, mirror.base_url + "/")
    body = mirror.catalog.file(1901)
    assert (
        source.file("/api/v2/well_known_file_download/1901")
        == source.file(mirror.base_url + "/api/v2/well_known_file_download/1901")
        == body
    )


def test_no_file_is_fetched_from_another_host_or_port(client: HttpClient, mirror: Mirror) -> None:
    source = AllenSource(client, mirror.base_url)
    assert source.file(f"{mirror.base_url}/api/v2/well_known_file_download/1901") == mirror.catalog.file(1901)
    with serve(small_catalog(*CELLS)) as other:
        port = other.base_url.rpartition(":")[2]
        for link in (other.base_url, f"http://localhost:{port}", f"http://h@127.0.0.1:{port}", "file:///etc", "//127.0.0.1"):
            with pytest.raises(TransferError):
                source.file(f"{link}/api/v2/well_known_file_download/1901")
        assert not other.requests


def test_a_service_that_drips_is_given_up_in_the_time_of_a_stall() -> None:
    drips = Faults(drip_bytes_per_s=1500)
    with serve(small_catalog(*CELLS), faults=drips) as mirror, HttpClient(ComputeConfig(timeout_s=1, retries=0)) as client:
        source = AllenSource(client, mirror.base_url, quality=100)
        started = time.monotonic()
        with pytest.raises(TransferError, match="stalled"):
            source.projection(CELLS[0], 0)  # 15 kB: 10 s
        assert time.monotonic() - started < 5


def test_a_file_that_is_not_there_is_absent(client: HttpClient, mirror: Mirror) -> None:
    with pytest.raises(TransferError) as caught:
        AllenSource(client, mirror.base_url).file("/api/v2/well_known_file_download/5")
    assert caught.value.absent


@pytest.mark.parametrize("level", [0, 1, 3])
def test_pixels_are_those_of_the_crop(client: HttpClient, mirror: Mirror, level: int) -> None:
    source = AllenSource(client, mirror.base_url)
    crop = Crop(CELLS[1].stack.planes[2], top=64, left=128, height=96, width=160, level=level)  # type: ignore[union-attr]
    pixels = source.pixels(CELLS[1], crop)
    side = 2**level
    expected = small_picture(2002, 300, 400)[64:160, 128:288].reshape(96 // side, side, 160 // side, side).mean(axis=(1, 3))
    assert pixels.dtype == np.uint8
    assert pixels.shape == crop.shape_yx
    assert np.abs(pixels - expected).max() <= 3
    assert "quality=100" in mirror.requests[-1].path


def test_a_missing_plane_has_no_pixels_and_says_why(client: HttpClient, mirror: Mirror) -> None:
    crop = Crop(CELLS[0].stack.planes[1], 0, 0, 64, 64, 0)  # type: ignore[union-attr]
    with pytest.raises(StackError, match="cell 1: plane 1 has no image: absent at the source"):
        AllenSource(client, mirror.base_url).pixels(CELLS[0], crop)
    assert not mirror.requests


def test_the_projection_is_pieced_together(client: HttpClient, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allen, "PICTURE_MAX_PX", 64)
    source = AllenSource(client, mirror.base_url)
    whole = source.projection(CELLS[1], 1)
    planes = np.minimum.reduce([small_picture(2000 + k, 300, 400) for k in range(4)])
    assert whole is not None
    assert whole.shape == (150, 200)
    assert np.abs(whole - planes.reshape(150, 2, 200, 2).mean(axis=(1, 3))).max() <= 4
    assert len(mirror.requests) == 3 * 4
    assert source.projection(CELLS[2], 1) is None


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"wrong_size": 1}, "expected a picture of 160 x 96 px, found 158 x 94 px"),
        ({"cut": 1}, "cut short or damaged"),
        ({"corrupt": 1}, "cut short or damaged"),
        ({"html": 1}, "expected a picture, found text/html"),
        ({"truncate": 1}, "short body"),
        ({"error": 1}, "HTTP 50"),
        ({"gone": 1}, "HTTP 404"),
    ],
)
def test_pixels_that_cannot_be_believed_are_asked_for_again_and_then_refused(
    client: HttpClient, fault: dict[str, float], reason: str
) -> None:
    crop = Crop(CELLS[1].stack.planes[2], 64, 128, 96, 160, 0)  # type: ignore[union-attr]
    with serve(small_catalog(*CELLS), faults=Faults(**fault)) as mirror:  # type: ignore[arg-type]
        with pytest.raises(TransferError, match=reason):
            AllenSource(client, mirror.base_url).pixels(CELLS[1], crop)
        assert len(mirror.requests) == 3


@pytest.mark.slow
def test_under_a_tenth_of_faults_of_every_kind_pixels_are_those_of_a_clean_run(mirror: Mirror) -> None:
    stack = CELLS[1].stack
    assert stack is not None
    boxes = product(stack.planes, range(0, 192, 24), range(0, 320, 64), range(4))
    crops = [Crop(plane, top, left, 64, 64, level) for plane, top, left, level in boxes]
    options = ComputeConfig(timeout_s=0.3, retries=6)
    faults = replace(Faults.everything(0.1, seed=5), retry_after_s=0, stall_s=1)
    with HttpClient(options, backoff_s=0.005) as client, serve(mirror.catalog, faults=faults) as bad:
        clean, faulty = AllenSource(client, mirror.base_url), AllenSource(client, bad.base_url)
        for crop in crops:
            np.testing.assert_array_equal(faulty.pixels(CELLS[1], crop), clean.pixels(CELLS[1], crop))
        assert {request.fault for request in bad.requests} >= set(Fault)
        assert len(bad.requests) <= 1.3 * len(crops)


def test_queries_survive_faults(mirror: Mirror) -> None:
    options = ComputeConfig(timeout_s=0.5, retries=20)
    faults = replace(Faults.everything(0.5, seed=1), retry_after_s=0, stall_s=1)
    with HttpClient(options, backoff_s=0.005) as client, serve(mirror.catalog, faults=faults) as bad:
        source = AllenSource(client, bad.base_url)
        assert tuple(source.complete(source.cells())) == CELLS
        assert any(request.fault for request in bad.requests)
