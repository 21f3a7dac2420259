from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from brightfield.config.options import CoverageKind, ImageConfig, SourceConfig
from brightfield.core.cell import Cell, cells_of
from brightfield.core.errors import ConfigError
from brightfield.core.schema import CELLS, PLANES
from brightfield.core.tables import read_table, write_table
from brightfield.sources.allen.service import AllenSource
from brightfield.sources.http.client import HttpClient
from brightfield.sources.mirror.catalog import FolderCatalog, MemoryCatalog
from brightfield.sources.mirror.records import tables_of
from brightfield.sources.mirror.server import serve
from brightfield.stages.query.selection import Change, ChangeKind, drift, reselect, select, survey
from brightfield.testing.source import small_cell

IMAGE = ImageConfig()


def _reasons(cells: Sequence[Cell], **wanted: Any) -> dict[int, str | None]:
    frame, _ = select(cells, SourceConfig(**wanted), IMAGE)
    return {int(i): None if pd.isna(reason) else str(reason) for i, reason in zip(frame["specimen_id"], frame["reason"], strict=True)}


class _Listed:
    """A source whose `cells` are bare, and which remembers for which cells it was asked to complete them."""

    base_url = "memory:"

    def __init__(self, *cells: Cell) -> None:
        self._cells = {cell.specimen_id: cell for cell in cells}
        self.completed: list[int] = []

    def cells(self) -> Sequence[Cell]:
        return [replace(cell, stack=None, marker_url=None) for cell in self._cells.values()]

    def complete(self, cells: Sequence[Cell]) -> Sequence[Cell]:
        self.completed = [cell.specimen_id for cell in cells]
        return [self._cells[i] for i in self.completed]


CELL = small_cell(1, missing=(1,))
DENDRITES = small_cell(2, reconstruction_type="dendrite-only")
BARE = small_cell(3, reconstruction_id=None, reconstruction_type=None, swc_file_id=None, swc_url=None)
HUMAN = small_cell(4, species="Homo Sapiens")
NO_STACK = small_cell(5, stack=None)
BROKEN = small_cell(6, stack=None, stack_problem="all planes of the stack failed")
NO_SWC = small_cell(7, swc_url=None, swc_file_id=None)
ALL = (CELL, DENDRITES, BARE, HUMAN, NO_STACK, BROKEN, NO_SWC)


def test_every_cell_that_is_not_taken_has_its_reason() -> None:
    assert _reasons(ALL) == {
        1: None,
        2: None,
        3: "no reconstruction",
        4: "species is Homo Sapiens",
        5: "no image stack",
        6: "all planes of the stack failed",
        7: "no SWC file",
    }


def test_filters_can_be_widened_and_narrowed() -> None:
    def taken(**wanted: Any) -> list[int]:
        return [specimen_id for specimen_id, reason in _reasons(ALL, **wanted).items() if reason is None]

    assert taken(species="") == [1, 2, 4]
    assert taken(species="homo sapiens") == [4]
    assert taken(reconstruction_types=["full"]) == [1]
    assert taken(require_images=False) == [1, 2, 5, 6]
    assert taken(specimen_ids=[2, 5]) == [2]
    assert _reasons(ALL, reconstruction_types=["full"])[2] == "reconstruction is dendrite-only"
    assert _reasons(ALL, specimen_ids=[2, 5])[1] == "not in source.specimen_ids"


def test_ids_that_the_source_does_not_know_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"source\.specimen_ids: the source knows no cell 8, 9"):
        _reasons(ALL, specimen_ids=[9, 1, 8])


def test_only_candidates_are_completed() -> None:
    source = _Listed(*ALL)
    cells, planes = survey(source, SourceConfig(), IMAGE)  # type: ignore[arg-type]
    assert source.completed == [1, 2, 5, 6, 7]
    expected_cells, expected_planes = select(
        [replace(c, stack=None, marker_url=None) if c in (BARE, HUMAN) else c for c in ALL], SourceConfig(), IMAGE
    )
    pd.testing.assert_frame_equal(cells, expected_cells)
    pd.testing.assert_frame_equal(planes, expected_planes)


def test_the_tables_keep_the_contract_and_come_back_the_same(tmp_path: Path) -> None:
    cells, planes = select(ALL, SourceConfig(), IMAGE)
    write_table(CELLS, cells, tmp_path)
    write_table(PLANES, planes, tmp_path)
    pd.testing.assert_frame_equal(read_table(CELLS, tmp_path), cells)
    pd.testing.assert_frame_equal(read_table(PLANES, tmp_path), planes)


def test_a_row_tells_what_the_source_says() -> None:
    row = select(ALL, SourceConfig(), IMAGE)[0].iloc[0]
    expected = {
        "specimen_id": 1,
        "donor_id": 10,
        "layer": "2/3",
        "soma_y_um": 1300.0,
        "reconstruction_id": 1900,
        "marker_url": "/api/v2/well_known_file_download/1902",
        "image_series_id": 1999,
        "n_planes": 4,
        "n_planes_missing": 1,
        "width_px": 400,
        "pixel_um": 0.1144,
        "bytes_full_est": 4 * 300 * 400,
        "selected": True,
    }
    assert {name: row[name] for name in expected} == expected


def test_planes_are_those_of_the_selected_cells_with_their_gaps() -> None:
    planes = select(ALL, SourceConfig(reconstruction_types=["full"]), IMAGE)[1]
    assert planes["specimen_id"].tolist() == [1] * 4
    assert planes["plane"].tolist() == [0, 1, 2, 3]
    assert planes["section_number"].tolist() == [7, 8, 9, 10]
    assert planes["usable"].tolist() == [True, False, True, True]
    assert planes["sub_image_id"].isna().tolist() == [False, True, False, False]
    assert planes["reason"][1] == "absent at the source"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (ImageConfig(coverage=CoverageKind.full), 4 * 300 * 400),
        (ImageConfig(coverage=CoverageKind.full, level=2, z_step=3), 2 * 75 * 100),
        (ImageConfig(coverage=CoverageKind.box), 4 * 300 * 400),
        (ImageConfig(background_share=0.0), round(4 * 300 * 400 * 0.154)),
        (ImageConfig(background_share=0.5), round(4 * 300 * 400 * 0.231)),
    ],
)
def test_planned_bytes_follow_coverage_level_and_step(image: ImageConfig, expected: int) -> None:
    assert select([CELL], SourceConfig(), image)[0]["bytes_planned_est"][0] == expected


def test_the_tables_give_back_the_cells_that_were_selected() -> None:
    tables = select(ALL, SourceConfig(), IMAGE)
    cells = {cell.specimen_id: cell for cell in cells_of(*tables)}
    assert [cells[1], cells[2]] == [CELL, DENDRITES]
    assert all(cells[cell.specimen_id] == replace(cell, stack=None, stack_problem=None) for cell in ALL[2:])


@pytest.mark.parametrize("wanted", [SourceConfig(), SourceConfig(specimen_ids=[2, 5]), SourceConfig(reconstruction_types=["full"])])
def test_a_snapshot_gives_the_same_tables_as_the_source(wanted: SourceConfig) -> None:
    snapshot = select(ALL, SourceConfig(), IMAGE)
    expected = select([cell if cell in (CELL, DENDRITES) else replace(cell, stack=None) for cell in ALL], wanted, IMAGE)
    for found, table in zip(reselect(*snapshot, wanted, IMAGE), expected, strict=True):
        pd.testing.assert_frame_equal(found, table)


def test_a_snapshot_of_another_selection_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"knows no stack of 1 cell\(s\), 4 first; run `brightfield refresh --write`"):
        reselect(*select(ALL, SourceConfig(), IMAGE), SourceConfig(species=""), IMAGE)


# -------------------------------------------------------------------------------------------------------------------------- drift


def _frame(*cells: Cell) -> pd.DataFrame:
    return select(cells, SourceConfig(), IMAGE)[0]


def _drift(old: Sequence[Cell], new: Sequence[Cell]) -> tuple[Change, ...]:
    return drift(_frame(*old), _frame(*new)).changes


def test_nothing_changed_says_so() -> None:
    unchanged = drift(_frame(*ALL), _frame(*reversed(ALL)))
    assert unchanged.changes == ()
    assert str(unchanged) == "nothing changed at the source"


def test_nulls_and_noise_in_the_last_digits_are_no_change() -> None:
    noisy = replace(CELL, normalized_depth=math.nextafter(0.25, 1), soma_xyz_um=None)
    assert _drift([noisy], [replace(CELL, soma_xyz_um=None)]) == ()


def test_each_change_is_told_once_under_its_kind() -> None:
    old = [CELL, DENDRITES, BARE, HUMAN, NO_STACK]
    new = [
        replace(CELL, swc_file_id=5, swc_url="/5", layer="4", soma_xyz_um=(9000.5, 1300.0, 8001.0)),
        replace(DENDRITES, reconstruction_id=None, reconstruction_type=None, swc_file_id=None, swc_url=None, stack=None),
        small_cell(3, reconstruction_type="full"),
        replace(NO_STACK, stack=small_cell(5).stack),
        small_cell(9),
    ]
    changes = _drift(old, new)
    assert [(change.kind, change.specimen_id) for change in changes] == [
        (ChangeKind.NEW, 9),
        (ChangeKind.GONE, 4),
        (ChangeKind.RECONSTRUCTED, 3),
        (ChangeKind.UNRECONSTRUCTED, 2),
        (ChangeKind.RERELEASED, 1),
        (ChangeKind.MOVED, 1),
        (ChangeKind.EDITED, 1),
        (ChangeKind.EDITED, 5),
    ]
    rereleased, moved, edited, pictured = changes[4:]
    assert rereleased.fields == {"swc_file_id": (1901, 5), "swc_url": ("/api/v2/well_known_file_download/1901", "/5")}
    assert moved.fields == {"soma_z_um": (8000.25, 8001.0)}
    assert edited.fields == {"layer": ("2/3", "4")}
    assert pictured.fields["image_series_id"] == (None, 5999)


def test_what_was_not_asked_for_before_is_no_change() -> None:
    """A wider selection completes more cells; their stacks are not news from the source."""
    listed = replace(HUMAN, reconstruction_id=None, marker_file_id=None, marker_url=None, stack=None)
    assert _drift([listed], [HUMAN]) == ()
    assert _drift([HUMAN], [listed]) == ()


def test_the_text_names_counts_fields_and_the_selection() -> None:
    text = str(drift(_frame(CELL, BARE), _frame(replace(CELL, layer=None, swc_file_id=5, swc_url="/5"), BARE, small_cell(9))))
    assert text.splitlines() == [
        "1 new, 1 reconstruction re-released, 1 metadata edited",
        "  9  new",
        "  1  reconstruction re-released: swc_file_id 1901 -> 5",
        "  1  metadata edited: layer 2/3 -> none",
        "selected: 1 cells before, 2 now",
    ]


# --------------------------------------------------------------------------------------------------------------------- real tables


def _folder(shared_data: Path, year: str, folder: Path) -> Path:
    name = f"cell_types_specimen_details_{year}.csv"
    folder.mkdir()
    (folder / name).symlink_to((shared_data / "cells" / name).resolve())
    return folder


@pytest.fixture(scope="module")
def surveys(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """The cells tables of 2020 and 2023 as a query through AllenSDK gives them, without asking for images."""
    return {year: _asked(_folder(shared_data, year, tmp_path_factory.mktemp("cells") / year)) for year in ("2020-03", "2023")}


def _asked(folder: Path) -> pd.DataFrame:
    with serve(FolderCatalog(folder)) as mirror, HttpClient() as client:
        return survey(AllenSource(client, mirror.base_url), SourceConfig(require_images=False), IMAGE)[0]


@pytest.mark.real
@pytest.mark.parametrize(
    ("year", "types"), [("2020-03", {"full": 188, "dendrite-only": 297}), ("2023", {"full": 211, "dendrite-only": 298})]
)
def test_the_real_tables_give_the_published_selection(surveys: dict[str, pd.DataFrame], year: str, types: dict[str, int]) -> None:
    cells = surveys[year]
    assert cells[cells["selected"]]["reconstruction_type"].value_counts().to_dict() == types


@pytest.mark.real
def test_with_images_required_only_cells_with_images_are_taken(shared_data: Path, tmp_path: Path) -> None:
    catalog = FolderCatalog(_folder(shared_data, "2020-03", tmp_path / "cells"))
    pictured = [small_cell(specimen_id) for specimen_id in (313861608, 314804042, 525011903)]  # the last one is human
    images = tables_of(pictured)
    specimens = {row["id"]: row for row in [*catalog.tables["Specimen"], *images["Specimen"]]}
    tables = {**images, "ApiCellTypesSpecimenDetail": catalog.tables["ApiCellTypesSpecimenDetail"], "Specimen": list(specimens.values())}
    with serve(MemoryCatalog(tables)) as mirror, HttpClient() as client:
        cells = survey(AllenSource(client, mirror.base_url), SourceConfig(), IMAGE)[0]
        assert len(mirror.requests) < 25
    assert cells[cells["selected"]]["specimen_id"].tolist() == [313861608, 314804042]
    assert Counter(cells["reason"].dropna())["no image stack"] == 483


@pytest.mark.real
def test_allensdks_own_filter_would_take_cells_without_images(shared_data: Path, tmp_path: Path) -> None:
    with serve(FolderCatalog(_folder(shared_data, "2020-03", tmp_path / "cells"))) as mirror, HttpClient() as client:
        api = AllenSource(client, mirror.base_url)._api
        found = api.filter_cells_api(api.list_cells_api(), require_morphology=True, require_reconstruction=True, species=["Mus musculus"])
    assert len(found) == 485


@pytest.mark.real
def test_between_2020_and_2023_the_database_changed_as_known(surveys: dict[str, pd.DataFrame]) -> None:
    changes = drift(surveys["2020-03"], surveys["2023"])
    assert Counter(change.kind for change in changes.changes) == {
        ChangeKind.NEW: 2,
        ChangeKind.RECONSTRUCTED: 30,
        ChangeKind.MOVED: 8,
        ChangeKind.EDITED: 3,
    }
    edited = {change.specimen_id: dict(change.fields) for change in changes.changes if change.kind is ChangeKind.EDITED}
    assert edited == {
        576095991: {"layer": ("1", "5")},
        576113488: {"layer": ("5", "3")},
        579283563: {"normalized_depth": (None, pytest.approx(0.593382, abs=1e-6))},
    }
    assert changes.n_selected == (485, 509)
