from __future__ import annotations

import io
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from brightfield import cli
from brightfield.core.cell import Cell, Crop, Plane
from brightfield.core.errors import ConfigError, InputError, SourceError, TableError
from brightfield.sources.allen.service import AllenSource
from brightfield.sources.http.client import HttpClient
from brightfield.sources.mirror import rma as mirror_rma
from brightfield.sources.mirror.catalog import FolderCatalog, MemoryCatalog
from brightfield.sources.mirror.export import export
from brightfield.sources.mirror.faults import Fault, Faults
from brightfield.sources.mirror.records import tables_of
from brightfield.sources.mirror.server import Mirror, serve, serve_folder
from brightfield.testing.source import small_catalog, small_cell, small_picture
from brightfield.volumes.pyramid import block_mean
from repositories import REPOSITORY

CELLS = (small_cell(1), small_cell(2, missing=(2,)), small_cell(3, stack=None, marker_file_id=None, marker_url=None))
QUERY = "/api/v2/data/query.json?q="


@pytest.fixture(scope="module")
def catalog() -> MemoryCatalog:
    return small_catalog(*CELLS)


@pytest.fixture
def mirror(catalog: MemoryCatalog) -> Iterator[Mirror]:
    with serve(catalog) as running:
        yield running


def _get(mirror: Mirror, path: str, timeout: float = 5) -> tuple[int, str, bytes]:
    try:
        with urllib.request.urlopen(mirror.base_url + path, timeout=timeout) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read()


def _picture(mirror: Mirror, path: str) -> np.ndarray:
    status, kind, body = _get(mirror, "/api/v2/image_download/" + path)
    assert (status, kind) == (200, "image/jpeg")
    return np.asarray(Image.open(io.BytesIO(body)))


def _ask(catalog: MemoryCatalog, query: str) -> dict:
    return mirror_rma.answer(catalog.tables, query)


# ------------------------------------------------------------------------------------------------------------------ the queries


def test_a_query_over_http_has_the_envelope_of_the_service(mirror: Mirror) -> None:
    status, kind, body = _get(mirror, QUERY + quote("model::Specimen,rma::criteria,[id$in1,3],rma::include,data_sets"))
    assert (status, kind) == (200, "application/json")
    assert json.loads(body) == {
        "success": True,
        "id": 0,
        "start_row": 0,
        "num_rows": 2,
        "total_rows": 2,
        "msg": [
            {"id": 1, "name": "cell 1", "donor_id": 10, "data_sets": [{"id": 1999, "specimen_id": 1}]},
            {"id": 3, "name": "cell 3", "donor_id": 30, "data_sets": []},
        ],
    }


def test_the_parameter_may_be_called_criteria_too(mirror: Mirror) -> None:
    text = quote("model::Specimen,rma::criteria,[id$eq2]")
    assert _get(mirror, QUERY + text)[2] == _get(mirror, "/api/v2/data/query.json?criteria=" + text)[2]


@pytest.mark.parametrize(
    ("criteria", "ids"),
    [
        ("data_set[id$eq1999]", [1000, 1001, 1002, 1003, 1998]),
        ("data_set[id$in1999,2999][id$gt2000]", [2000, 2001, 2003, 2998]),  # both filters are of the association
        ("data_set[id$in1999,2999],[id$gt2000]", [2001, 2003, 2998]),
        ("[image_type$eq'min-xy']", [1998, 2998]),
        ("[image_type$nin'min-xy','other'][section_number$le8]", [1000, 1001, 2000, 2001]),
        ("[failed$eqtrue]", []),
        ("[specimen_id$eqnull],[section_number$ge10]", [1003, 2003]),
        ("[specimen_id$ne2][section_number$lt8]", [1000, 2000]),
    ],
)
def test_criteria_choose_rows(catalog: MemoryCatalog, criteria: str, ids: list[int]) -> None:
    found = _ask(catalog, f"model::SubImage,rma::criteria,{criteria},rma::options[num_rows$eq'all']")
    assert [row["id"] for row in found["msg"]] == ids


def test_criteria_reach_through_associations_and_keep_rows_that_have_one(catalog: MemoryCatalog) -> None:
    found = _ask(catalog, "model::NeuronReconstruction,rma::criteria,well_known_files[well_known_file_type_id$eq486753749]")
    assert [row["specimen_id"] for row in found["msg"]] == [1, 2]


def test_an_include_may_filter_what_it_includes(catalog: MemoryCatalog) -> None:
    found = _ask(catalog, "model::NeuronReconstruction,rma::include,well_known_files[well_known_file_type_id$eq303941301]")
    assert [[file["id"] for file in row["well_known_files"]] for row in found["msg"]] == [[1901], [2901], [3901]]


def test_associations_come_only_when_they_are_included(catalog: MemoryCatalog) -> None:
    assert all("data_set" not in row for row in _ask(catalog, "model::SubImage")["msg"])


def test_without_options_fifty_rows_come(catalog: MemoryCatalog) -> None:
    answer = mirror_rma.answer({"SubImage": [{"id": i} for i in range(80)]}, "model::SubImage")
    assert (answer["num_rows"], answer["total_rows"]) == (50, 80)


@given(total=st.integers(0, 30), rows=st.integers(1, 12))
def test_pages_join_to_the_whole(total: int, rows: int) -> None:
    tables = {"SubImage": [{"id": i, "section_number": i % 3} for i in range(total)]}
    order = "[order$eq'sub_images.section_number$desc','sub_images.id']"
    recent: mirror_rma.Recent = deque(maxlen=2)
    whole = mirror_rma.answer(tables, f"model::SubImage,rma::options[num_rows$eqall]{order}")["msg"]
    paged = [
        row
        for start in range(0, total, rows)
        for row in mirror_rma.answer(tables, f"model::SubImage,rma::options[num_rows$eq{rows}][start_row$eq{start}]{order}", recent)["msg"]
    ]
    others = {"SubImage": [{"id": i, "section_number": 0} for i in range(total + 1)]}  # the same query of another table
    assert mirror_rma.answer(others, f"model::SubImage,rma::options[num_rows$eqall]{order}", recent)["msg"] == others["SubImage"]
    assert paged == whole == sorted(tables["SubImage"], key=lambda row: (-row["section_number"], row["id"]))


@pytest.mark.parametrize(
    "query",
    [
        "",
        "Specimen",
        "model::Nonsense",
        "model::Specimen,rma::criteria,[nonsense$eq1]",
        "model::Specimen,rma::criteria,nonsense[id$eq1]",
        "model::Specimen,rma::include,nonsense",
        "model::Specimen,rma::criteria,[data_sets$eq1]",
        "model::Specimen,rma::criteria,[id$like1]",
        "model::Specimen,rma::criteria,[id$eq1",
        "model::Specimen,rma::criteria,data_sets(",
        "model::Specimen,rma::criteria,data_sets)",
        "model::Specimen,rma::criteria,[id$eqtwelve]",
        "model::Specimen,rma::options[num_rows$eqmany]",
        "model::Specimen,rma::options[nonsense$eq1]",
        "model::Specimen,rma::options nonsense",
    ],
)
def test_what_is_not_understood_is_refused_in_words(catalog: MemoryCatalog, query: str) -> None:
    answer = _ask(catalog, query)
    assert answer["success"] is False
    assert isinstance(answer["msg"], str)
    assert answer["msg"]


@given(st.text(max_size=60))
def test_no_query_text_breaks_the_mirror(text: str) -> None:
    assert isinstance(mirror_rma.answer({"A": [{"id": 1}]}, "model::A,rma::criteria," + text)["success"], bool)


# ------------------------------------------------------------------------------------------------------------ files and pictures


def test_files_come_as_they_are(mirror: Mirror, catalog: MemoryCatalog) -> None:
    assert _get(mirror, "/api/v2/well_known_file_download/1901") == (200, "application/octet-stream", catalog.files[1901])
    assert _get(mirror, "/api/v2/well_known_file_download/77")[0] == 404


def test_a_crop_is_asked_in_full_resolution_pixels_and_comes_reduced(mirror: Mirror) -> None:
    crop = _picture(mirror, "1002?downsample=2&left=64&top=32&width=128&height=96&quality=100")
    expected = small_picture(1002, 300, 400)[32:128, 64:192].reshape(24, 4, 32, 4).mean(axis=(1, 3))
    assert crop.shape == (24, 32)
    assert np.abs(crop - expected).max() <= 3  # JPEG at its best


def test_the_whole_picture_comes_without_a_box_and_a_box_ends_with_the_picture(mirror: Mirror) -> None:
    assert _picture(mirror, "1002").shape == (300, 400)
    assert _picture(mirror, "1002?left=390&top=290&width=64&height=64").shape == (10, 10)


def test_quality_decides_the_bytes(mirror: Mirror) -> None:
    sizes = [len(_get(mirror, f"/api/v2/image_download/1002?quality={q}")[2]) for q in (10, 50, 100)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]


@pytest.mark.parametrize("path", ["77", "1002?left=-1", "1002?left=400", "1002?width=0", "1002?downsample=9", "1002?top=x", "x"])
def test_a_picture_that_is_not_there_is_a_page_with_status_200(mirror: Mirror, path: str) -> None:
    status, kind, _ = _get(mirror, "/api/v2/image_download/" + path)
    assert (status, kind) == (200, "text/html")


def test_other_addresses_are_not_found(mirror: Mirror) -> None:
    assert _get(mirror, "/nothing")[0] == 404


@given(st.integers(0, 4), st.integers(16, 40), st.integers(16, 40), st.integers(0, 2**32 - 1))
def test_reduction_is_the_rounded_mean_of_whole_blocks(level: int, rows: int, columns: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype=np.uint8)
    side = 2**level
    expected = [
        [int(pixels[i : i + side, j : j + side].mean() + 0.5) for j in range(0, columns - side + 1, side)]
        for i in range(0, rows - side + 1, side)
    ]
    np.testing.assert_array_equal(block_mean(pixels, level), expected)


def test_one_connection_serves_many_requests(mirror: Mirror) -> None:
    request = b"GET /api/v2/well_known_file_download/1901 HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(mirror.base_url.rpartition(":")[2]))) as connection:
        answers = []
        for _ in range(3):
            connection.sendall(request)
            answers.append(connection.recv(65536)[:15])
    assert answers == [b"HTTP/1.1 200 OK"] * 3


def test_a_port_that_is_taken_is_told_with_a_remedy(mirror: Mirror, catalog: MemoryCatalog) -> None:
    with pytest.raises(ConfigError, match="choose another --port"), serve(catalog, port=int(mirror.base_url.rpartition(":")[2])):
        pass


# ------------------------------------------------------------------------------------------------------------------------ folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Cell 1 of the catalog as a lab would lay it out by hand: flat CSV tables, bare files, one picture each of PNG, TIFF and JPEG."""
    import pandas as pd
    import tifffile

    tables = tables_of([CELLS[0]])
    flat = {
        "ApiCellTypesSpecimenDetail": tables["ApiCellTypesSpecimenDetail"],
        "NeuronReconstruction": [{k: v for k, v in row.items() if k != "well_known_files"} for row in tables["NeuronReconstruction"]],
        "WellKnownFile": [file for row in tables["NeuronReconstruction"] for file in row["well_known_files"]],
        "DataSet": [data_set for row in tables["Specimen"] for data_set in row["data_sets"]],
        "SubImage": [{k: v for k, v in row.items() if k != "data_set"} for row in tables["SubImage"]],
    }
    for name in ("tables", "well_known_files", "images"):
        (tmp_path / name).mkdir()
    for model, rows in flat.items():
        pd.DataFrame(rows).to_csv(tmp_path / "tables" / f"{model}.csv", index=False)
    (tmp_path / "well_known_files" / "1901.swc").write_bytes(b"1 1 0 0 0 1 -1\n")
    Image.fromarray(small_picture(1000, 300, 400)).save(tmp_path / "images" / "1000.png")
    tifffile.imwrite(tmp_path / "images" / "1001.tif", small_picture(1001, 300, 400))
    Image.fromarray(small_picture(1002, 300, 400)).save(tmp_path / "images" / "1002.jpg", quality=100)
    return tmp_path


def test_flat_tables_of_a_folder_answer_like_nested_ones(folder: Path, catalog: MemoryCatalog) -> None:
    for query in (
        "model::NeuronReconstruction,rma::criteria,[specimen_id$eq1],rma::include,well_known_files",
        "model::SubImage,rma::criteria,data_set[id$eq1999]",
    ):
        assert mirror_rma.answer(FolderCatalog(folder).tables, query) == _ask(catalog, query)


def test_a_folder_serves_its_files_and_pictures(folder: Path) -> None:
    catalog = FolderCatalog(folder)
    assert catalog.file(1901) == b"1 1 0 0 0 1 -1\n"
    assert catalog.file(190) is None
    for image_id, tolerance in ((1000, 0), (1001, 0), (1002, 3)):
        picture = catalog.picture(image_id)
        assert picture is not None
        crop = picture.read(0, 10, 20, 50, 60)
        assert np.abs(crop.astype(int) - small_picture(image_id, 300, 400)[10:60, 20:80]).max() <= tolerance
    assert catalog.picture(1003) is None


def test_the_layer_stays_text_even_where_all_layers_are_numbers(folder: Path) -> None:
    table = folder / "tables" / "ApiCellTypesSpecimenDetail.csv"
    table.write_text(table.read_text().replace("2/3", "5"))
    assert FolderCatalog(folder).tables["ApiCellTypesSpecimenDetail"][0]["structure__layer"] == "5"


def test_a_folder_without_cells_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no cells to serve: expected tables/ApiCellTypesSpecimenDetail"):
        FolderCatalog(tmp_path)


def test_a_table_that_is_none_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "SubImage.json").write_text("[{")
    with pytest.raises(TableError, match=r"SubImage\.json: cannot be read as a table"):
        FolderCatalog(tmp_path)


@pytest.mark.parametrize("pixels", [np.zeros((4, 4), np.uint16), np.zeros((2, 4, 4), np.uint8)])
def test_a_tiff_that_is_not_one_grey_plane_is_refused(folder: Path, pixels: np.ndarray) -> None:
    import tifffile

    tifffile.imwrite(folder / "images" / "1003.tif", pixels)
    with pytest.raises(InputError, match="one grey plane of 8 bits"):
        FolderCatalog(folder).picture(1003)


def test_serve_folder_tells_its_address(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threading.Thread(target=serve_folder, args=(folder, "127.0.0.1", 0, ""), daemon=True).start()
    told, end = "", time.monotonic() + 60
    while "serving at http://127.0.0.1:" not in told and time.monotonic() < end:
        time.sleep(0.01)
        told += capsys.readouterr().out
    assert "1 ApiCellTypesSpecimenDetail, 1 NeuronReconstruction, 1 Specimen, 5 SubImage" in told
    address = told.partition("serving at ")[2].partition(";")[0]
    with urllib.request.urlopen(f"{address}/api/v2/well_known_file_download/1901") as answer:
        assert answer.read() == b"1 1 0 0 0 1 -1\n"


# ------------------------------------------------------------------------------------------------------------------------- faults


def test_faults_follow_from_seed_address_and_attempt_and_come_in_the_shares_asked_for() -> None:
    faults = Faults.everything(0.5, seed=3)
    drawn = [faults.of(f"/{i}", 1) for i in range(4000)]
    assert drawn == [Faults.everything(0.5, seed=3).of(f"/{i}", 1) for i in range(4000)]
    assert drawn != [Faults.everything(0.5, seed=4).of(f"/{i}", 1) for i in range(4000)]
    assert drawn != [faults.of(f"/{i}", 2) for i in range(4000)]
    counts = Counter(drawn)
    assert set(counts) == {None, *Fault}
    assert all(140 < counts[fault] < 260 for fault in Fault)


def test_faults_are_read_from_words() -> None:
    assert Faults.parse("") == Faults()
    assert Faults.parse("error=0.1, truncate=0.05,seed=1") == Faults(seed=1, error=0.1, truncate=0.05)
    mixed = Faults.parse("all=0.1,seed=2,stall_s=0.5")
    assert mixed == replace(Faults.everything(0.1, seed=2), stall_s=0.5)
    assert [getattr(mixed, fault) for fault in Fault] == [0.01] * len(Fault)


@pytest.mark.parametrize("text", ["nonsense=1", "error=lots", "error", "error=1.5", "error=-0.1", "error=0.6,html=0.6", "gone=2"])
def test_faults_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"fault"):
        Faults.parse(text)


def _with(catalog: MemoryCatalog, faults: Faults, path: str) -> tuple[int, str, bytes]:
    with serve(catalog, faults=faults) as mirror:
        return _get(mirror, path, timeout=0.5 if faults.stall else 60)


PICTURE = "/api/v2/image_download/1002?quality=100"


def test_errors_throttling_missing_and_pages_are_what_they_say(catalog: MemoryCatalog) -> None:
    assert _with(catalog, Faults(error=1), PICTURE)[0] in (500, 502, 503)
    assert _with(catalog, Faults(throttle=1), PICTURE)[0] == 429
    assert _with(catalog, Faults(not_found=1), PICTURE)[0] == 404
    assert _with(catalog, Faults(html=1), PICTURE)[:2] == (200, "text/html")
    assert _with(catalog, Faults(gone=1), PICTURE)[0] == 404
    assert _with(catalog, Faults(gone=1), "/api/v2/well_known_file_download/1901")[0] == 200


@pytest.mark.parametrize("faults", [Faults(truncate=1), Faults(reset=1), Faults(stall=1, stall_s=2)])
def test_broken_connections_break(catalog: MemoryCatalog, faults: Faults) -> None:
    with pytest.raises((OSError, HTTPException)):
        _with(catalog, faults, PICTURE)


def test_cut_and_damaged_answers_are_complete_by_their_length(catalog: MemoryCatalog) -> None:
    sound = _with(catalog, Faults(), PICTURE)[2]
    assert _with(catalog, Faults(cut=1), PICTURE)[2] == sound[: len(sound) // 2]
    corrupt = _with(catalog, Faults(corrupt=1), PICTURE)[2]
    assert len(corrupt) == len(sound)
    assert corrupt != sound
    assert corrupt[:300] == sound[:300]
    smaller = Image.open(io.BytesIO(_with(catalog, Faults(wrong_size=1), PICTURE)[2]))
    assert smaller.size == (398, 298)


def test_changing_content_differs_from_attempt_to_attempt(catalog: MemoryCatalog) -> None:
    with serve(catalog, faults=Faults(changing=1)) as mirror:
        first, second, third = (_get(mirror, PICTURE)[2] for _ in range(3))
    assert first == third != second


def test_a_slow_start_keeps_requests_waiting_only_at_first(catalog: MemoryCatalog) -> None:
    with serve(catalog, faults=Faults(slow_start_s=0.3)) as mirror:
        start = time.monotonic()
        _get(mirror, PICTURE)
        first = time.monotonic() - start
        assert first > 0.2
        later = []
        for _ in range(5):
            start = time.monotonic()
            _get(mirror, PICTURE)
            later.append(time.monotonic() - start)
        assert min(later) < first


def test_every_request_is_remembered_with_its_attempt_and_fault(catalog: MemoryCatalog) -> None:
    with serve(catalog, faults=Faults(html=1)) as mirror:
        for _ in range(2):
            _get(mirror, PICTURE)
        assert [(r.path, r.attempt, r.fault) for r in mirror.requests] == [(PICTURE, 1, Fault.html), (PICTURE, 2, Fault.html)]
        mirror.forget()
        assert mirror.requests == ()


# ------------------------------------------------------------------------------------------------------------- export and the demo


def _source(mirror: Mirror, client: HttpClient) -> tuple[AllenSource, Sequence[Cell]]:
    source = AllenSource(client, mirror.base_url)
    return source, source.complete(source.cells())


def test_an_exported_folder_serves_the_same_cells_files_and_pixels(mirror: Mirror, tmp_path: Path) -> None:
    with HttpClient() as client:
        source, cells = _source(mirror, client)
        export(source, cells, tmp_path)
        with serve(FolderCatalog(tmp_path)) as copy:
            copied, copied_cells = _source(copy, client)
            assert tuple(copied_cells) == tuple(cells) == CELLS
            assert copied.file(CELLS[0].swc_url or "") == source.file(CELLS[0].swc_url or "")
            picture = copy.catalog.picture(2003)
            assert picture is not None
            np.testing.assert_array_equal(
                picture.read(0, 0, 0, 300, 400), source.pixels(CELLS[1], Crop(Plane(3, 10, 2003), 0, 0, 300, 400, 0))
            )
            assert copied.projection(CELLS[1], 2) is not None


def test_an_interrupted_export_goes_on_and_fetches_nothing_twice(mirror: Mirror, tmp_path: Path) -> None:
    with HttpClient() as client:
        source, cells = _source(mirror, client)
        export(source, cells, tmp_path)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        (tmp_path / "images" / "1002.png").unlink()
        mirror.forget()
        export(source, cells, tmp_path)
    assert [request.path.partition("?")[0] for request in mirror.requests] == ["/api/v2/image_download/1002"]
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_the_command_exports_the_selected_cells_and_refuses_too_much(
    mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with HttpClient() as client:
        source = AllenSource(client, mirror.base_url)
        cell = next(cell for cell in source.complete(source.cells()) if cell.stack and cell.swc_url)
    place = ["source=allen", f"source.base_url={mirror.base_url}", "source.accept_terms=true"]
    words = ["-C", str(REPOSITORY), "mirror", "export", str(tmp_path), *place, f"source.specimen_ids=[{cell.specimen_id}]"]
    assert cli.main([*words, "image.max_gb=1e-6"]) != 0
    assert "name fewer cells" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert cli.main([*words, "--no-pictures"]) == 0
    assert list((tmp_path / "images").iterdir()) == []
    assert cli.main(words) == 0
    assert "1 cells are in" in capsys.readouterr().out
    with serve(FolderCatalog(tmp_path)) as copy, HttpClient() as client:
        (copied,) = AllenSource(client, copy.base_url).cells()
        assert AllenSource(client, copy.base_url).complete([copied])[0].stack == cell.stack


def test_an_export_without_pictures_and_one_of_deep_stacks(mirror: Mirror, tmp_path: Path) -> None:
    with HttpClient() as client:
        source, cells = _source(mirror, client)
        deep = [replace(cell, stack=cell.stack and replace(cell.stack, bits=16)) for cell in cells]
        with pytest.raises(SourceError, match="8-bit pictures; the stack of cell 1 is deeper"):
            export(source, deep, tmp_path)
        export(source, deep, tmp_path, pictures=False)
    assert not list((tmp_path / "images").iterdir())


@pytest.mark.slow
def test_the_demo_answers_like_the_service() -> None:
    from brightfield.sources.demo import cells as demo
    from brightfield.sources.demo.catalog import demo_catalog

    with serve(demo_catalog()) as mirror, HttpClient() as client:
        source, cells = _source(mirror, client)
        by_id = {cell.specimen_id: cell for cell in cells}
        assert [cell.specimen_id for cell in demo.demo_cells()] == list(by_id)
        assert by_id[demo.WITHOUT_STACK_ID].stack is None
        assert by_id[demo.WITHOUT_STACK_ID].swc_url
        assert by_id[demo.HUMAN_ID].species == "Homo Sapiens"
        assert [c.specimen_id for c in cells if c.marker_url] == [demo.MARKER_ID]
        gaps = by_id[demo.MISSING_PLANES_ID].stack
        assert gaps is not None
        assert {p.plane: p.reason for p in gaps.planes if not p.usable} == {
            **dict.fromkeys((40, 41, 42, 78), "absent at the source"),
            96: "failed at the source",
        }
        cell = by_id[demo.MARKER_ID]
        assert cell.stack is not None
        assert source.file(cell.swc_url or "").startswith(b"#")
        crop = Crop(cell.stack.planes[50], 256, 256, 512, 256, 3)
        pixels = source.pixels(cell, crop)
        assert pixels.shape == (64, 32)
        assert 100 < pixels.mean() < 220
        projection = source.projection(cell, 4)
        assert projection is not None
        assert projection.shape == (cell.stack.height_px >> 4, cell.stack.width_px >> 4)
