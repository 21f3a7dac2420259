"""What the report is made of: the built dataset, each table read once, and of every cell what its page shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brightfield.built.dataset import Dataset, records
from brightfield.core.codes import LABEL_NAMES, Finding
from brightfield.core.layout import image_store, label_store
from brightfield.core.schema import ALIGNMENT, ALIGNMENT_CELLS, FINDINGS, LABEL_STATS, NODES, TILES, Table
from brightfield.core.tables import read_table, row_digests
from brightfield.splitting.proof import Proof, prove

if TYPE_CHECKING:
    import pandas as pd

    from brightfield.config.options import Config

type Row = dict[str, Any]

_CLASSES = tuple(LABEL_NAMES.values())
SHOWN = (
    *("specimen_id", "name", "donor_id", "reconstruction_type", "dendrite_type", "line", "layer", "split", "reason"),
    *("alignment_grade", "alignment_d_prime", "n_nodes", "n_trees", "voxels_unknown", "ignored_share_5um"),
    *(f"path_{name}_um" for name in _CLASSES),
    *(f"voxels_{name}" for name in _CLASSES),
    *(f"absent_{name}" for name in _CLASSES),
    *("shape_z", "shape_y", "shape_x", "voxel_z_um", "voxel_y_um", "voxel_x_um", "voxels_fetched", "n_tiles", "n_tiles_missing"),
    *("image_sha256", "label_sha256"),
)
"""The columns of the manifest that the page of a cell is made from; the others change no page."""

_SHOWN_ROWS: dict[str, tuple[Table, list[str] | None]] = {
    "nodes": (NODES, ["specimen_id", "node_id", "parent_id", "label", "radius_um", "z_vox", "y_vox", "x_vox"]),
    "tiles": (TILES, ["specimen_id", "z", "y0", "y1", "x0", "x1", "state"]),
    "stretches": (ALIGNMENT, None),
    "labels": (LABEL_STATS, None),
}
"""The tables, and their columns, whose rows of a cell its page is made from."""


@dataclass(frozen=True)
class CellMaterial:
    """What the page of one cell is made of, beside its volumes: rows of tables, and which of its volumes (image, labels) are there."""

    row: Row
    grade: Row
    nodes: pd.DataFrame
    tiles: pd.DataFrame
    stretches: pd.DataFrame
    labels: pd.DataFrame
    noticed: Sequence[Row]
    checks: Sequence[Row]
    has_volumes: bool

    @property
    def specimen_id(self) -> int:
        """The cell's id."""
        return int(self.row["specimen_id"])


class Material(Dataset):
    """The built dataset below `root` and what its checks found, each table read once."""

    def __init__(self, root: Path, config: Config, findings: Sequence[Finding]) -> None:
        super().__init__(root)
        self.config = config
        self.checks = findings

    @cached_property
    def alignment(self) -> pd.DataFrame:
        """Stretches."""
        return read_table(ALIGNMENT, self.root)

    @cached_property
    def grades(self) -> pd.DataFrame:
        """Alignment per cell."""
        return read_table(ALIGNMENT_CELLS, self.root)

    @cached_property
    def labels(self) -> pd.DataFrame:
        """What was painted."""
        return read_table(LABEL_STATS, self.root)

    @cached_property
    def noticed(self) -> pd.DataFrame:
        """What was noticed while reading and drawing."""
        return read_table(FINDINGS, self.root)

    @cached_property
    def proof(self) -> Proof:
        """Of the split."""
        return prove(self.manifest, self.config.split)

    @cached_property
    def told(self) -> dict[int, Row]:
        """What is said of each cell that has a page, beside rows of tables: all that have an image, the excluded ones too."""
        grades, noticed = _records_by_cell(self.grades), _records_by_cell(self.noticed)
        checks: dict[int | None, list[Row]] = {}
        for finding in self.checks:
            checks.setdefault(finding.specimen_id, []).append(asdict(finding))
        rows = {int(row["specimen_id"]): row for row in records(self.manifest.loc[self.manifest["image_path"].notna(), list(SHOWN)])}
        return {
            i: {
                "row": row,
                "grade": next(iter(grades.get(i, [])), {}),
                "noticed": noticed.get(i, []),
                "checks": checks.get(i, []),
                "has_volumes": all((self.root / store(i) / "zarr.json").is_file() for store in (image_store, label_store)),
            }
            for i, row in rows.items()
        }

    def keys(self) -> dict[int, Row]:
        """What the page of each cell is made of, as JSON, rows of tables as their digests: the same key, the same page."""
        digests = {name: row_digests(table, self.root, columns) for name, (table, columns) in _SHOWN_ROWS.items()}
        return {i: told | {name: of_cells.get(i) for name, of_cells in digests.items()} for i, told in self.told.items()}

    def cell(self, specimen_id: int) -> CellMaterial:
        """What the page of a cell is made of."""
        rows: dict[str, Any] = {name: of_cells.frame(specimen_id) for name, of_cells in self._rows.items()}
        return CellMaterial(**self.told[specimen_id], **rows)

    @cached_property
    def _rows(self) -> dict[str, _ByCell]:
        return {name: _by_cell(read_table(table, self.root, columns=columns)) for name, (table, columns) in _SHOWN_ROWS.items()}


@dataclass(frozen=True)
class _ByCell:
    """The rows of a table by cell."""

    cells: dict[int, pd.DataFrame]
    none: pd.DataFrame

    def frame(self, specimen_id: int) -> pd.DataFrame:
        return self.cells.get(specimen_id, self.none)


def _by_cell(frame: pd.DataFrame) -> _ByCell:
    return _ByCell({int(str(i)): rows for i, rows in frame.groupby("specimen_id", sort=False)}, frame.iloc[:0])


def _records_by_cell(frame: pd.DataFrame) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in records(frame):
        found.setdefault(int(row["specimen_id"]), []).append(row)
    return found
