"""The manifest and the patches again, a file per side: what dataset hubs load as splits. Excluded cells are on no side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from brightfield.built.dataset import Dataset
from brightfield.core.codes import SIDES, Finding, Split
from brightfield.core.layout import hub_file
from brightfield.core.schema import MANIFEST, PATCHES, Table
from brightfield.core.tables import read_table, write_table
from brightfield.stages.manifest.findings import error_of

if TYPE_CHECKING:
    import pandas as pd

HUB_TABLES = (MANIFEST, PATCHES)


def hub_files() -> list[Path]:
    """The files, of each table and side."""
    return [hub_file(table.name, side) for table, side in product(HUB_TABLES, SIDES)]


def write_hub(root: Path) -> None:
    """Write them from the tables below `root`; a side without cells has a file without rows."""
    for table, side in product(HUB_TABLES, SIDES):
        write_table(_on(table, side), _rows(read_table(table, root), side), root)


def check_hub(dataset: Dataset) -> Iterator[Finding]:
    """Each file has the rows of its side, and no other."""
    for table, side in product(HUB_TABLES, SIDES):
        expected = _rows(read_table(table, dataset.root), side).sort_values(list(table.key), ignore_index=True)
        if not read_table(_on(table, side), dataset.root).equals(expected):
            yield error_of("hub", f"{hub_file(table.name, side)} has other rows than {table.path} on side {side}")


def _on(table: Table, side: Split) -> Table:
    return replace(table, path=hub_file(table.name, side))


def _rows(frame: pd.DataFrame, side: Split) -> pd.DataFrame:
    return frame[frame["split"] == side].reset_index(drop=True)
