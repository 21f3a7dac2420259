"""A built dataset as the checks and the report read it: configuration and tables, each read once, and the volumes that they name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brightfield.config.options import Config
from brightfield.config.params import load
from brightfield.core.codes import Split
from brightfield.core.errors import StackError
from brightfield.core.layout import PARAMS_FILE
from brightfield.core.schema import CELLS, MANIFEST, SPLITS
from brightfield.core.tables import read_table
from brightfield.volumes.volume import Volume, open_volume

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Dataset:
    """A built dataset, read lazily: each table once."""

    root: Path

    @cached_property
    def config(self) -> Config:
        """The configuration beside the data."""
        return load(self.root / PARAMS_FILE)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The cells table."""
        return read_table(CELLS, self.root)

    @cached_property
    def splits(self) -> pd.DataFrame:
        """The splits table."""
        return read_table(SPLITS, self.root)

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """The manifest."""
        return read_table(MANIFEST, self.root)

    @cached_property
    def taken(self) -> pd.DataFrame:
        """The rows of the manifest that are not excluded."""
        return self.manifest[self.manifest["split"] != Split.EXCLUDED]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the manifest with plain values."""
        return records(self.manifest)

    @property
    def taken_rows(self) -> list[dict[str, Any]]:
        """Those of them that are not excluded."""
        return [row for row in self.rows if row["split"] != Split.EXCLUDED]

    def volumes(self, kind: str) -> Iterator[tuple[dict[str, Any], Volume]]:
        """Rows of the manifest with their opened image or label; what cannot be opened is `check_grids`' to tell."""
        for row in (row for row in self.rows if row[f"{kind}_path"] is not None):
            try:
                yield row, open_volume(self.root / row[f"{kind}_path"])
            except StackError:
                continue


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows with plain values, None where there is none."""
    plain = frame.astype(object).where(frame.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in plain.to_dict("records")]
