"""The metadata of own stacks: read as it is meant, or refused with its line."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brightfield.core.errors import TableError
from brightfield.sources.folder.metadata import COLUMNS, read_metadata


def read(tmp_path: Path, content: str | bytes, *directories: str) -> dict[str, dict[str, object]]:
    path = tmp_path / "cells.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return {name: dict(values) for name, values in read_metadata(str(path)).of(directories).items()}


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        ("directory,donor\n1,5\n", 1, "unknown column 'donor'; did you mean donor_id"),
        ("directory,weight\n1,5\n", 1, "unknown column 'weight'; columns are directory, specimen_id"),
        ("directory;donor_id\n1;5\n", 1, "separated by commas|did you mean"),
        ("directory,donor_id,donor_id\n1,5,5\n", 1, "donor_id is there twice"),
        ("directory,donor_id\nl,5\n", 2, "there is no directory l"),
        ("directory,donor_id\nl03,5\n", 2, "there is no directory l03; did you mean 103"),
        ("specimen_id\n1\n1\n", 3, "1 is there twice"),
        ("name\nx\n", 2, "a row needs `directory` or `specimen_id`"),
        ("directory,specimen_id\n1,x\n", 2, "specimen_id = 'x': expected a positive whole number"),
        ("directory,specimen_id\n1,99999999999999999999\n", 2, "specimen_id"),
        ("directory,specimen_id\n1,0\n", 2, "specimen_id"),
        ("directory,donor_id\n1,-5\n", 2, "donor_id = '-5'"),
        ("directory,donor_id\n1,5.0\n", 2, "donor_id = '5.0'"),
        ("directory,donor_id\n1,1e3\n", 2, "donor_id = '1e3'"),
        ("directory,donor_id\n1,0x10\n", 2, "donor_id = '0x10'"),
        ("directory,donor_id\n1,\u0661\u0662\n", 2, "donor_id = '\u0661\u0662'"),
        ("directory,name\n1,see u:hush@host:/stacks\n", 2, "could be an address with a password"),
        ("directory,normalized_depth\n1,abc\n", 2, "normalized_depth = 'abc': expected a number from 0 to 1"),
        ('directory,normalized_depth\n1,"0,5"\n', 2, "normalized_depth = '0,5'"),
        ("directory,normalized_depth\n1,inf\n", 2, "normalized_depth = 'inf'"),
        ("directory,normalized_depth\n1,nan\n", 2, "normalized_depth = 'nan'"),
        ("directory,normalized_depth\n1,1_0\n", 2, "normalized_depth = '1_0'"),
        ("directory,pixel_um\n1,0\n", 2, "pixel_um = '0': expected a number from 0.001 to 100"),
        ("directory,plane_um\n1,1e300\n", 2, "plane_um"),
        ("directory,reconstruction_type\n1,Full\n", 2, "expected full or dendrite-only"),
        ("directory,name\n1,a,b\n", 2, "3 values for 2 columns"),
        ("directory,name\n1\n", 2, "1 values for 2 columns"),
        ("directory,name\n1,a\0b\n", 2, "one line of at most"),
        ('directory,name\n1,"a\nb"\n', 3, "one line of at most"),
        ("directory,name\n../1,a\n", 2, "without slashes"),
        (b"directory,name\n1,caf\xe9\n", 2, "not UTF-8 text; save the table as CSV in UTF-8"),
        ("directory,name\n1,a\n".encode("utf-16"), 1, "not UTF-8"),
        ("directory,name\n1,a\n".encode("utf-16-le"), 1, "unknown column"),
        (b"directory,name\n1," + b"x" * 200000 + b"\n", 2, "not CSV|at most"),
        ("directory,name\n1," + "x" * 2000 + "\n", 2, "at most"),
        ('directory,name\n1,"a" b\n', 2, "not CSV"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(tmp_path: Path, content: str | bytes, line: int, said: str) -> None:
    with pytest.raises(TableError, match=said) as caught:
        read(tmp_path, content, "1", "103")
    assert caught.value.line == line
    assert len(str(caught.value)) < 600


def test_a_directory_without_a_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="there is no row for 2, 3: each would be taken for an animal of its own"):
        read(tmp_path, "directory,donor_id\n1,5\n", "1", "2", "3")


def test_values_arrive_as_their_types_and_empty_ones_not_at_all(tmp_path: Path) -> None:
    text = (
        '\ufeffdirectory,specimen_id,donor_id,group,normalized_depth,pixel_um,layer\na, 7 ,mouse A,litter 3,.5,0.1144,"2/3"\n\nb,,12,,,,\n'
    )
    rows = read(tmp_path, text, "a", "b")
    donor = rows["a"].pop("donor_id")
    assert isinstance(donor, int)
    assert 0 < donor < 2**48
    assert rows["a"] == {
        "directory": "a", "specimen_id": 7, "group": "litter 3", "normalized_depth": 0.5, "pixel_um": 0.1144, "layer": "2/3"
    }  # fmt: skip
    assert rows["b"] == {"directory": "b", "donor_id": 12}


def test_an_allen_table_may_have_other_columns_and_cells_that_are_not_here(tmp_path: Path) -> None:
    text = "specimen__id,donor__id,ef__ri,structure__layer\n7,1,3.5,5\n8,1,,5\n"
    assert read(tmp_path, text, "8") == {"8": {"specimen_id": 8, "donor_id": 1, "layer": "5"}}
    with pytest.raises(TableError, match="no row for 9"):
        read(tmp_path, text, "8", "9")


@pytest.mark.real
def test_the_real_allen_table_is_read(shared_data: Path) -> None:
    tables = sorted((shared_data / "cells").glob("cell_types_specimen_details_*.csv"))
    assert tables
    for table in tables:
        found = read_metadata(str(table))
        assert found.is_catalogue
        assert len(found.rows) > 600


@given(st.binary(max_size=80) | st.text('directory,_id"\n\r\t0123456789.-é\0', max_size=80).map(str.encode))
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    for head in (b"", ",".join(COLUMNS).encode() + b"\n"):
        path.write_bytes(head + data)
        with contextlib.suppress(TableError):
            read_metadata(str(path)).of([])
