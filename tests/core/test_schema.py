from __future__ import annotations

import re
from pathlib import Path

import pytest

from brightfield.core.codes import LABEL_COLOURS_RGB, NEURITE_LABELS, Label, Reason
from brightfield.core.layout import DATA_DIR, image_store, label_store, marker_file, skeleton_file
from brightfield.core.schema import TABLES, Table

UNITS = {"", "1", "bit", "um", "px", "planes", "voxels", "bytes", "nodes"}


def test_label_codes_are_what_datasets_out_there_hold() -> None:
    assert {label.name: label.value for label in Label} == {
        "BACKGROUND": 0,
        "SOMA": 1,
        "AXON": 2,
        "BASAL_DENDRITE": 3,
        "APICAL_DENDRITE": 4,
        "UNKNOWN": 255,
    }
    assert tuple(NEURITE_LABELS) == (1, 2, 3, 4)


def test_reasons_are_single_bits_of_a_byte() -> None:
    assert [reason.value for reason in Reason] == [1 << bit for bit in range(len(Reason))]
    assert max(Reason) < 256
    assert (Reason.NOT_DOWNLOADED, Reason.RIM) == (64, 1)


def test_every_label_has_a_colour_of_its_own() -> None:
    assert set(LABEL_COLOURS_RGB) == set(Label)
    assert len(set(LABEL_COLOURS_RGB.values())) == len(Label)
    assert all(0 <= part <= 255 for colour in LABEL_COLOURS_RGB.values() for part in colour)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_table_is_well_formed(table: Table) -> None:
    assert re.fullmatch("[a-z_]+", table.name)
    assert table.path == DATA_DIR / f"{table.name}.parquet"
    assert table.description.endswith(".")
    assert len(set(table.column_names)) == len(table.columns)
    keys = [column for column in table.columns if column.name in table.key]
    assert len(keys) == len(table.key)
    assert not any(column.nullable for column in keys)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_column_says_what_it_holds_and_in_which_unit(table: Table) -> None:
    for column in table.columns:
        assert column.unit in UNITS, column
        assert column.description, column
        if column.name.endswith("_um"):
            assert column.unit == "um", column
        if column.name.endswith("_px"):
            assert column.unit == "px", column


def test_tables_are_named_once() -> None:
    assert len({table.name for table in TABLES}) == len({table.path for table in TABLES}) == len(TABLES)


def test_the_arrow_schema_carries_unit_and_description() -> None:
    for table in TABLES:
        for column, field in zip(table.columns, table.arrow_schema, strict=True):
            assert (field.name, field.type, field.nullable) == (column.name, column.type, column.nullable)
            assert field.metadata == {b"unit": column.unit.encode(), b"description": column.description.encode()}


def test_the_files_of_a_cell_are_named_by_it() -> None:
    files = (skeleton_file(7), marker_file(7), image_store(7), label_store(7))
    assert list(map(str, files)) == ["data/skeletons/7.swc", "data/skeletons/7.marker", "data/images/7.zarr", "data/labels/7.zarr"]
    assert not any(Path(file).is_absolute() for file in files)
