from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brightfield.core import tables
from brightfield.core.errors import TableError
from brightfield.core.schema import PLANES, TABLES, Column, Table
from brightfield.core.tables import frame_of, join_tables, parse_table, read_cells, read_table, row_digests, write_table
from brightfield.testing.dataset import table_row

SMALL = Table(
    "small",
    Path("data/small.parquet"),
    "A table of all types.",
    ("specimen_id", "z"),
    (
        Column("specimen_id", pa.int64(), "", "Key"),
        Column("z", pa.int32(), "planes", "Key too"),
        Column("length_um", pa.float64(), "um", "A length", nullable=True),
        Column("layer", pa.string(), "", "A text", nullable=True),
        Column("usable", pa.bool_(), "", "A flag", nullable=True),
        Column("n", pa.int64(), "", "A count", nullable=True),
    ),
)
ROWS = [
    {"specimen_id": 2**53 + 1, "z": 0, "length_um": 1.5, "layer": "2/3", "usable": True, "n": 2**53 + 1},
    {"specimen_id": 7, "z": 3},
    {"specimen_id": 7, "z": 1, "length_um": 0.1, "layer": "6a", "usable": False, "n": 0},
]


def frame(rows: list[dict[str, object]] | None = None) -> pd.DataFrame:
    return frame_of(SMALL, ROWS if rows is None else rows)


def test_rows_come_back_ordered_by_key_with_nulls_as_nulls(tmp_path: Path) -> None:
    write_table(SMALL, frame(), tmp_path)
    found = read_table(SMALL, tmp_path)
    assert found[["specimen_id", "z"]].to_numpy().tolist() == [[7, 1], [7, 3], [2**53 + 1, 0]]
    assert found.n.tolist() == [0, pd.NA, 2**53 + 1]
    assert found.usable.tolist() == [False, pd.NA, True]
    assert found.layer.isna().tolist() == [False, True, False]
    assert [str(found[name].dtype) for name in ("specimen_id", "z", "n", "usable")] == ["Int64", "Int32", "Int64", "boolean"]


def test_a_frame_that_was_read_writes_the_same_bytes(tmp_path: Path) -> None:
    first = write_table(SMALL, frame(), tmp_path / "a").read_bytes()
    assert write_table(SMALL, read_table(SMALL, tmp_path / "a"), tmp_path / "b").read_bytes() == first


@given(order=st.permutations(range(3)), columns=st.permutations(SMALL.column_names), index=st.booleans())
def test_the_bytes_know_neither_the_order_of_rows_and_columns_nor_the_index(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], columns: list[str], index: bool
) -> None:
    shuffled = frame().iloc[order][columns]
    shuffled = shuffled if index else shuffled.reset_index(drop=True)
    root = tmp_path_factory.mktemp("tables")
    assert write_table(SMALL, shuffled, root / "b").read_bytes() == write_table(SMALL, frame(), root / "a").read_bytes()


def test_the_bytes_are_the_same_in_another_process_time_zone_and_locale(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom brightfield.core.schema import PLANES\nfrom brightfield.core.tables import frame_of, write_table\n"
        "from brightfield.testing.dataset import table_row\n"
        f"write_table(PLANES, frame_of(PLANES, [table_row(PLANES, plane=i) for i in range(9)]), Path({str(tmp_path)!r}))"
    )
    hashes = set()
    for zone, threads in (("UTC", "1"), ("Asia/Kolkata", "2")):
        environment = os.environ | {"TZ": zone, "LC_ALL": "C", "OMP_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
        hashes.add(hashlib.sha256((tmp_path / PLANES.path).read_bytes()).hexdigest())
    assert len(hashes) == 1


def test_units_and_descriptions_travel_with_the_file(tmp_path: Path) -> None:
    stored = pq.read_schema(write_table(SMALL, frame(), tmp_path))
    assert stored.field("length_um").metadata == {b"unit": b"um", b"description": b"A length"}
    assert stored.metadata[b"description"] == b"A table of all types."
    assert not stored.field("z").nullable


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"z": None}, "column z of small may not be empty"),
        ({"z": 2**40}, "does not fit the small table"),
        ({"length_um": "long"}, "does not fit the small table"),
        ({"layer": 4}, "does not fit the small table"),
    ],
)
def test_a_value_that_breaks_the_contract_is_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    broken = frame().astype(object)
    for name, value in change.items():
        broken[name] = pd.Series([value] * len(broken), dtype=object)
    with pytest.raises(TableError, match=said):
        write_table(SMALL, broken, tmp_path)
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_key_that_repeats_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"repeat a key \('specimen_id', 'z'\)"):
        write_table(SMALL, frame([ROWS[1], ROWS[1]]), tmp_path)


@pytest.mark.parametrize("names", [["specimen_id"], [*SMALL.column_names, "more"]])
def test_other_columns_are_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(TableError, match="needs other columns"):
        write_table(SMALL, frame().reindex(columns=names), tmp_path)


def test_a_refused_frame_leaves_the_old_table(tmp_path: Path) -> None:
    before = write_table(SMALL, frame(), tmp_path).read_bytes()
    with pytest.raises(TableError):
        write_table(SMALL, frame([ROWS[1], ROWS[1]]), tmp_path)
    assert [(p.name, p.read_bytes()) for p in (tmp_path / "data").iterdir()] == [("small.parquet", before)]


def test_an_absent_table_and_one_of_another_version_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"small\.parquet: the small table is not there; build it with `dvc repro`"):
        read_table(SMALL, tmp_path)
    older = Table(SMALL.name, SMALL.path, SMALL.description, ("specimen_id",), SMALL.columns[:1])
    write_table(older, frame_of(older, [{"specimen_id": 7}]), tmp_path)
    with pytest.raises(TableError, match=r"differing: .*'layer'"):
        read_table(SMALL, tmp_path)
    assert parse_table((tmp_path / SMALL.path).read_bytes()).specimen_id.tolist() == [7]


def test_one_cell_and_some_columns_can_be_read(tmp_path: Path) -> None:
    write_table(SMALL, frame(), tmp_path)
    found = read_table(SMALL, tmp_path, columns=["z", "n"], specimen_id=7)
    assert found.columns.tolist() == ["z", "n"]
    assert found.z.tolist() == [1, 3]


@pytest.mark.parametrize("has_statistics", [True, False])
@pytest.mark.parametrize("rows_per_group", [1, 2, 3, 100])
def test_a_cell_has_all_its_rows_however_they_lie_in_the_file(tmp_path: Path, rows_per_group: int, has_statistics: bool) -> None:
    rows = [{"specimen_id": i, "z": z, "n": 10 * i + z} for i, planes in ((3, 1), (5, 4), (6, 2), (9, 3)) for z in range(planes)]
    path = write_table(SMALL, frame(rows), tmp_path)
    pq.write_table(pq.read_table(path), path, row_group_size=rows_per_group, write_statistics=has_statistics)
    assert pq.ParquetFile(path).num_row_groups == -(-len(rows) // rows_per_group)
    for i in (2, 3, 5, 6, 8, 9, 10):
        assert read_table(SMALL, tmp_path, columns=["n"], specimen_id=i)["n"].tolist() == [
            row["n"] for row in rows if row["specimen_id"] == i
        ]
    assert read_table(SMALL, tmp_path)["n"].tolist() == [row["n"] for row in rows]


cells_of_rows = st.dictionaries(
    st.integers(1, 30),
    st.lists(
        st.fixed_dictionaries(
            {
                "length_um": st.none() | st.floats(allow_nan=False),
                "layer": st.none() | st.text("ab,", max_size=3),
                "usable": st.none() | st.booleans(),
                "n": st.none() | st.integers(-(2**63), 2**63 - 1),
            }
        ),
        min_size=1,
        max_size=4,
    ),
    max_size=5,
)


type Cells = dict[int, list[dict[str, object]]]


def written(cells: Cells, folder: Path, per_group: int) -> Path:
    rows = [{"specimen_id": i, "z": z, **row} for i, of_cell in cells.items() for z, row in enumerate(of_cell)]
    path = write_table(SMALL, frame(rows), folder)
    pq.write_table(pq.read_table(path), path, row_group_size=per_group)
    return folder


@given(cells=cells_of_rows, per_group=st.integers(1, 7))
def test_cells_come_one_after_the_other_as_each_is_read_alone(
    tmp_path_factory: pytest.TempPathFactory, cells: Cells, per_group: int
) -> None:
    root = written(cells, tmp_path_factory.mktemp("cells"), per_group)
    found = list(read_cells(SMALL, root))
    assert [i for i, _ in found] == sorted(cells)
    for i, of_cell in found:
        pd.testing.assert_frame_equal(of_cell, read_table(SMALL, root, specimen_id=i))


@given(cells=cells_of_rows, others=cells_of_rows, per_group=st.integers(1, 7))
def test_two_cells_have_one_digest_where_their_rows_are_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    cells: Cells,
    others: Cells,
    per_group: int,
) -> None:
    folder = tmp_path_factory.mktemp("digests")
    one, two = row_digests(SMALL, written(cells, folder / "a", per_group)), row_digests(SMALL, written(others, folder / "b", 100))
    assert one == row_digests(SMALL, written(cells, folder / "c", 100)), "how rows lie in the file is no part of it"
    assert one.keys() == cells.keys()
    for i in cells.keys() & others.keys():
        assert (one[i] == two[i]) == (repr(cells[i]) == repr(others[i]))


@pytest.mark.parametrize(
    "change", [{"length_um": -0.0}, {"length_um": None}, {"layer": ""}, {"layer": "6a', '"}, {"usable": True}, {"n": None}]
)
def test_a_digest_sees_every_value_and_only_the_columns_that_are_asked_for(tmp_path: Path, change: dict[str, object]) -> None:
    plain: dict[str, object] = {"length_um": 0.0, "layer": None, "usable": False, "n": 0}
    one, two = (written({7: [row, plain]}, tmp_path / name, 100) for name, row in (("a", plain), ("b", plain | change)))
    assert row_digests(SMALL, one) != row_digests(SMALL, two)
    others = [name for name in SMALL.column_names if name not in change]
    assert row_digests(SMALL, one, others) == row_digests(SMALL, two, others)


@pytest.mark.parametrize("row", [{"specimen_id": 7, "z": 0, "depth": 1}, {"specimen_id": "seven", "z": 0}])
def test_a_row_that_does_not_fit_makes_no_frame(row: dict[str, object]) -> None:
    with pytest.raises(TableError, match="small"):
        frame_of(SMALL, [row])


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_table_of_the_contract_writes_and_reads(tmp_path: Path, table: Table) -> None:
    rows = [table_row(table), table_row(table, **{table.key[0]: "y" if table_row(table)[table.key[0]] == "x" else 2})]
    write_table(table, frame_of(table, rows), tmp_path)
    assert len(read_table(table, tmp_path)) == 2
    write_table(table, frame_of(table, []), tmp_path)
    assert len(read_table(table, tmp_path)) == 0


@given(cells=st.dictionaries(st.integers(1, 30), st.integers(0, 9), max_size=6), per_group=st.integers(1, 12), kept=st.integers(0, 3))
def test_joined_cells_have_the_bytes_of_one_table(
    tmp_path_factory: pytest.TempPathFactory, cells: dict[int, int], per_group: int, kept: int
) -> None:
    folder = tmp_path_factory.mktemp("join")
    rows = {i: [{"specimen_id": i, "z": z, "n": i * z, "layer": "x" * z} for z in range(n)] for i, n in cells.items()}
    earlier = sorted(rows)[:kept]  # these lie together in the table that is replaced
    write_table(SMALL, frame([row for i in earlier for row in rows[i]]), folder)
    for i in rows.keys() - set(earlier):
        write_table(SMALL, frame(rows[i]), folder / str(i))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "ROWS_PER_GROUP", per_group)
        whole = write_table(SMALL, frame([row for i in rows for row in rows[i]]), folder / "whole").read_bytes()
        places = {i: folder if i in earlier else folder / str(i) for i in rows}
        joined = join_tables(SMALL, {**places, 99: folder / "nothing"}, folder)
    assert joined.read_bytes() == whole
    assert all(pq.ParquetFile(joined).metadata.row_group(k).num_rows <= per_group for k in range(pq.ParquetFile(joined).num_row_groups))
