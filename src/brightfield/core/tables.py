"""Parquet in and out, by the contracts in `core/schema.py`: same rows, same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import batched, chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from brightfield.core.errors import TableError
from brightfield.core.files import atomic

if TYPE_CHECKING:
    import pandas as pd

    from brightfield.core.schema import Table

ROWS_PER_GROUP = 2**18
"""Of a parquet file: what is in memory at once while cells are joined, and what is read for the rows of one."""

_READERS = 2
"""Threads that open the tables of cells while they are joined."""

_FORMAT: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": False,
    "store_schema": True,
    "write_statistics": True,
}
"""Of a table of two million nodes: level 9 takes three times as long for 3 % less, and with dictionaries it is 7 to 20 % larger."""


def write_table(table: Table, frame: pd.DataFrame, root: Path) -> Path:
    """Write `frame` as `table` below `root`, atomically, rows ordered by key, columns as the contract has them.

    Raises TableError for a missing or extra column, a value that does not fit its type, a null where none may be, or a key that repeats.
    """
    target = root / table.path
    arrow = _conform(table, frame, target)
    with atomic(target) as partial, pq.ParquetWriter(partial, arrow.schema, **_FORMAT) as writer:
        writer.write_table(arrow, ROWS_PER_GROUP)
    return target


def join_tables(table: Table, directories: Mapping[int, Path], root: Path) -> Path:
    """Write as `table` below `root` the rows of cells, of each from the `table` below its directory: none where there is no such file.

    The bytes are those of `write_table` with all rows; memory is that of a row group. Raises TableError as `read_table` does.
    """
    target = root / table.path
    schema = table.arrow_schema
    there = [i for i in sorted(directories) if (directories[i] / table.path).is_file()]
    waiting, any_full = schema.empty_table(), False
    with atomic(target) as partial, pq.ParquetWriter(partial, schema, **_FORMAT) as writer, ThreadPoolExecutor(_READERS) as pool:
        of_cells = (pool.map(lambda i: _arrow_rows(table, directories[i], None, i), some) for some in batched(there, 8 * _READERS))
        for of_cell in chain.from_iterable(of_cells):
            waiting = pa.concat_tables([waiting, of_cell.replace_schema_metadata(schema.metadata)])
            while waiting.num_rows >= ROWS_PER_GROUP:
                writer.write_table(waiting.slice(0, ROWS_PER_GROUP).combine_chunks(), ROWS_PER_GROUP)
                waiting, any_full = waiting.slice(ROWS_PER_GROUP), True
        if waiting.num_rows or not any_full:
            writer.write_table(waiting.combine_chunks(), ROWS_PER_GROUP)
    return target


def read_table(table: Table, root: Path, *, columns: list[str] | None = None, specimen_id: int | None = None) -> pd.DataFrame:
    """Read `table` below `root` as a pandas frame with nullable dtypes (an absent integer is NA, never a float).

    With `specimen_id` only the rows of that cell are read. Raises TableError when the file is absent or its columns are not the contract's.
    """
    frame: pd.DataFrame = _arrow_rows(table, root, columns, specimen_id).to_pandas(types_mapper=_nullable_dtype)
    return frame


def row_digests(table: Table, root: Path, columns: Sequence[str] | None = None) -> dict[int, str]:
    """sha256 of each cell's rows of `table` below `root`, by specimen id; cells without rows have none.

    One pass, in the memory of a row group and a cell: to ask for every cell's rows alone would read a row group for each. Raises TableError
    as `read_table` does.
    """
    names = list(columns or table.column_names)
    return {specimen_id: _digest(rows.select(names)) for specimen_id, rows in _cells_rows(table, root, [*{*names, "specimen_id"}])}


def read_cells(table: Table, root: Path) -> Iterator[tuple[int, pd.DataFrame]]:
    """The rows of `table` below `root`, one cell after the other by specimen id, each as `read_table` gives them; in one pass."""
    for specimen_id, rows in _cells_rows(table, root, list(table.column_names)):
        yield specimen_id, rows.to_pandas(types_mapper=_nullable_dtype)


def _cells_rows(table: Table, root: Path, columns: list[str]) -> Iterator[tuple[int, pa.Table]]:
    """The rows of one cell after the other, as a table is ordered by them."""
    with _opened(table, root) as file:
        waiting = file.schema_arrow.empty_table().select(columns)
        for group in range(file.num_row_groups):
            waiting = pa.concat_tables([waiting, file.read_row_group(group, columns=columns)])
            ids = waiting["specimen_id"].to_numpy()
            starts = [0, *(np.flatnonzero(np.diff(ids)) + 1).tolist()] if len(ids) else []
            for start, end in pairwise(starts):
                yield int(ids[start]), waiting.slice(start, end - start)
            waiting = waiting.slice(starts[-1] if starts else 0)
        if waiting.num_rows:
            yield waiting["specimen_id"][0].as_py(), waiting


def _digest(rows: pa.Table) -> str:
    digest = hashlib.sha256()
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        digest.update(f"{name} {column.type} {len(column)} ".encode() + column.is_null().to_numpy().tobytes())
        if pa.types.is_string(column.type):
            digest.update(repr(column.to_pylist()).encode())
        else:
            digest.update(column.fill_null(pa.scalar(0).cast(column.type)).to_numpy().tobytes())
    return digest.hexdigest()


def _arrow_rows(table: Table, root: Path, columns: list[str] | None, specimen_id: int | None) -> pa.Table:
    with _opened(table, root) as file:
        return file.read(columns=columns) if specimen_id is None else _rows_of(file, specimen_id, columns or list(table.column_names))


@contextmanager
def _opened(table: Table, root: Path) -> Iterator[pq.ParquetFile]:
    path = root / table.path
    if not path.is_file():
        raise TableError(f"the {table.name} table is not there; build it with `dvc repro` or fetch it with `dvc pull`", path=path)
    with pq.ParquetFile(path) as file:  # not pq.read_table, which imports a query engine
        found = file.schema_arrow
        if not found.equals(table.arrow_schema, check_metadata=False):
            missing = sorted(set(table.column_names) ^ set(found.names))
            raise TableError(f"columns are not those of the {table.name} table (differing: {missing or 'types'}); rebuild it", path=path)
        yield file


def _rows_of(file: pq.ParquetFile, specimen_id: int, columns: list[str]) -> pa.Table:
    """The rows of one cell: only row groups that may hold it are read, and rows are in the order of their cells."""
    at = file.schema_arrow.get_field_index("specimen_id")
    known = [file.metadata.row_group(group).column(at).statistics for group in range(file.num_row_groups)]
    groups = [group for group, of in enumerate(known) if of is None or not of.has_min_max or of.min <= specimen_id <= of.max]
    if all(known[group] is not None and known[group].has_min_max and known[group].min == known[group].max for group in groups):
        return file.read_row_groups(groups, columns=columns)  # they hold this cell alone
    rows = file.read_row_groups(groups, columns=list({*columns, "specimen_id"}))
    return rows.filter(pa.compute.equal(rows["specimen_id"], specimen_id)).select(columns)


def parse_table(data: bytes) -> pd.DataFrame:
    """The bytes of a parquet file as `read_table` gives a table, whatever its columns: for a table of another version."""
    frame: pd.DataFrame = pq.read_table(pa.BufferReader(data)).to_pandas(types_mapper=_nullable_dtype)
    return frame


def frame_of(table: Table, rows: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """Rows as a frame of `table` with the dtypes that `read_table` gives; a column that a row does not name is null in it.

    Raises TableError for a value that does not fit its column, or a column that the table does not have.
    """
    columns = set(table.column_names)
    try:
        values = list(rows)
        if unknown := {name for row in values for name in row} - columns:
            raise TableError(f"{table.name} has no column {', '.join(sorted(unknown))}", path=table.path)
        arrow = pa.Table.from_pylist(values, schema=table.arrow_schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise TableError(f"a value does not fit the {table.name} table: {error}", path=table.path) from error
    frame: pd.DataFrame = arrow.to_pandas(types_mapper=_nullable_dtype)
    return frame


def _conform(table: Table, frame: pd.DataFrame, target: Path) -> pa.Table:
    names = list(table.column_names)
    if set(frame.columns) != set(names):
        raise TableError(f"{table.name} needs other columns: {sorted(set(frame.columns) ^ set(names))}", path=target)
    for column in table.columns:
        if not column.nullable and frame[column.name].isna().any():
            raise TableError(f"column {column.name} of {table.name} may not be empty", path=target)
    try:
        arrow = pa.Table.from_pandas(frame[names], schema=table.arrow_schema, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise TableError(f"a value does not fit the {table.name} table: {error}", path=target) from error
    arrow = arrow.sort_by([(name, "ascending") for name in table.key]).replace_schema_metadata(table.arrow_schema.metadata)
    if arrow.select(list(table.key)).group_by(list(table.key)).aggregate([]).num_rows != arrow.num_rows:
        raise TableError(f"rows of {table.name} repeat a key {table.key}", path=target)
    return arrow


def _nullable_dtype(arrow_type: pa.DataType) -> object:
    import pandas as pd

    if pa.types.is_int64(arrow_type):
        return pd.Int64Dtype()
    if pa.types.is_int32(arrow_type):
        return pd.Int32Dtype()
    if pa.types.is_boolean(arrow_type):
        return pd.BooleanDtype()
    return None


def reference_page() -> str:
    """The page of the docs about the tables, in Markdown: written from `core/schema.py`, so that it cannot differ from it."""
    from brightfield.core.codes import Label, Reason
    from brightfield.core.schema import TABLES

    parts = [_REFERENCE_HEAD]
    for table in TABLES:
        key = ", ".join(f"`{name}`" for name in table.key)
        rows = [
            f"| `{c.name}` | {c.type}{', nullable' if c.nullable else ''} | {'' if c.unit == '1' else c.unit} | {c.description} |"
            for c in table.columns
        ]
        parts.append(f"## {table.name}: `{table.path.as_posix()}`\n\n{table.description} Ordered by {key}, which is unique.")
        parts.append("\n".join(["| column | type | unit | what it says |", "| --- | --- | --- | --- |", *rows]))
    labels = [f"| {int(label)} | {label.name.lower().replace('_', ' ')} |" for label in Label]
    bits = [f"| {int(bit)} | {bit.name.lower().replace('_', ' ')} |" for bit in Reason if bit.name]
    parts.append("\n".join(["## Label codes", "", "| code | class |", "| --- | --- |", *labels]))
    parts.append("\n".join(["## Why a voxel is unknown: bits of the `reason` array", "", "| bit | reason |", "| --- | --- |", *bits]))
    return "\n\n".join(parts) + "\n"


_REFERENCE_HEAD = """# Tables

Written from `core/schema.py` by `core.tables.reference_page`; a test keeps it current. Every file is Parquet (zstd).
Unit and description of each column are in the field metadata, where pyarrow's `read_schema` finds them.

One line of SQL asks the manifest, here with DuckDB:

```sql
SELECT split, reconstruction_type, count(*) AS cells, sum(path_axon_um) / 1000 AS axon_mm FROM 'data/manifest.parquet' GROUP BY ALL
```

What was excluded, and why:

```sql
SELECT specimen_id, reason FROM 'data/manifest.parquet' WHERE split = 'excluded' ORDER BY specimen_id
```

Training patches with the cell they are from:

```sql
SELECT specimen_id, kind, z0, y0, x0, image_path
FROM 'data/patches.parquet' p JOIN 'data/manifest.parquet' m USING (specimen_id)
WHERE p.split = 'train' AND ignored_fraction < 0.5
```

The same with pandas:

```python
import pandas as pd

cells = pd.read_parquet("data/manifest.parquet", dtype_backend="numpy_nullable")
print(cells.groupby("split")["path_axon_um"].sum())
```

and with polars:

```python
import polars as pl

print(pl.read_parquet("data/manifest.parquet").group_by("split").agg(pl.col("path_axon_um").sum()))
```"""
