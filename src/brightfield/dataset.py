"""Reading a finished dataset: its cells as lazy arrays, its manifest as a frame. Needs nothing of the pipeline; DVC only for a revision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from brightfield.core import layout
from brightfield.core.codes import Split
from brightfield.core.errors import ConfigError, SourceError, StackError
from brightfield.core.schema import MANIFEST
from brightfield.core.tables import parse_table, read_table

if TYPE_CHECKING:
    import pandas as pd

    from brightfield.volumes.volume import Volume


_SIDES = [side.value for side in Split if side is not Split.EXCLUDED]


@dataclass(frozen=True)
class CellData:
    """One cell: image, labels, and why labels are unknown. Each is a `Volume`, opened when it is first asked for.

    A volume is indexed as an array of its finest level (``cell.image[40:56, 100:228, 100:228]`` reads the chunks that it needs), and has
    the levels as lazy zarr arrays in `.arrays`, each with its place in micrometres in `.grids`.
    """

    specimen_id: int
    root: Path | str = "."
    rev: str | None = None

    @cached_property
    def image(self) -> Volume:
        """The stack: uint8 (or uint16), dark is stain. Pixels that were not downloaded are 0: the label there is 255, the reason 64."""
        return self._open(layout.image_store(self.specimen_id))

    @cached_property
    def labels(self) -> Volume:
        """The labels: `core.codes.Label` codes for the semantic kind; 255 is unknown."""
        return self._open(layout.label_store(self.specimen_id))

    @cached_property
    def reason(self) -> Volume:
        """Why a voxel is unknown: `core.codes.Reason` bits."""
        return self.labels.sub(layout.REASON_GROUP)

    @property
    def is_here(self) -> bool:
        """Whether one of its volumes, or both, is in the working tree."""
        return any(
            (Path(self.root) / store).is_dir() for store in (layout.image_store(self.specimen_id), layout.label_store(self.specimen_id))
        )

    def _open(self, store: Path) -> Volume:
        from brightfield.volumes.volume import open_volume

        if self.rev is None:
            return open_volume(Path(self.root) / store)
        from brightfield.volumes.remote import ObjectStore, remote_files

        files = remote_files(self.root, self.rev, store)
        if not files:
            raise SourceError(f"revision {self.rev!r} of {self.root} has no {store}; brightfield.manifest(rev=...) lists its cells")
        return open_volume(ObjectStore(files, f"{self.root}@{self.rev}:{store}"))


def open_cell(specimen_id: int, root: Path | str = ".", rev: str | None = None) -> CellData:
    """The cell `specimen_id` of the dataset at `root`, lazily.

    With `rev` (a tag, branch or commit) the cell of that revision is read from the DVC remote without pulling it: a read moves only the
    byte ranges that it needs. `root` may then be the URL of a git repository. Raises StackError when the cell is not here; SourceError when
    the revision has no such cell, as soon as a volume is asked for.
    """
    cell = CellData(int(specimen_id), root, rev)
    stores = (layout.image_store(cell.specimen_id), layout.label_store(cell.specimen_id))
    if rev is None and not cell.is_here:
        fetch = " ".join(map(str, stores))
        raise StackError(
            _why_not_taken(cell) or f"cell {specimen_id} is not here; fetch it with `dvc pull {fetch}`, or read it with rev=...", path=root
        )
    return cell


def cells(split: str | None = None, root: Path | str = ".", rev: str | None = None) -> Iterator[CellData]:
    """The cells that can be opened, by specimen id: those on the side `split` (train, val or test), or all that are not excluded.

    Without `rev` these are the cells whose volumes are here. Raises ConfigError for another side; TableError where there is no manifest;
    StackError where the side has cells and none of them is here.
    """
    if split is not None and split not in _SIDES:
        raise ConfigError(f"split={split!r}: one of {', '.join(_SIDES)}, or None for all that are not excluded")
    table = manifest(root, rev)
    wanted = table[table["split"].isin(_SIDES if split is None else [split])]
    found = [CellData(specimen_id, root, rev) for specimen_id in wanted["specimen_id"].tolist()]
    here = [cell for cell in found if rev is not None or cell.is_here]
    if found and not here:
        command = "brightfield pull" + (f" split={split}" if split else "")
        raise StackError(f"none of {len(found)} cells is here; fetch them with `{command}`, or read them with rev=...", path=root)
    return iter(here)


def _why_not_taken(cell: CellData) -> str:
    """Why there is nothing to fetch of a cell; empty where there is."""
    if not (Path(cell.root) / MANIFEST.path).is_file():
        return ""
    rows = manifest(cell.root).set_index("specimen_id")
    if cell.specimen_id not in rows.index:
        return f"the manifest has no cell {cell.specimen_id}; brightfield.manifest() lists the cells"
    if rows["split"][cell.specimen_id] in _SIDES:
        return ""
    reason = rows["reason"][cell.specimen_id]
    return f"cell {cell.specimen_id} is excluded ({reason}) and has no volumes; brightfield.cells() gives those that can be opened"


def manifest(root: Path | str = ".", rev: str | None = None) -> pd.DataFrame:
    """The manifest of the dataset at `root`: one row per cell, nullable dtypes.

    With `rev` that of a revision, read from the DVC remote, with the columns that it was built with. Raises TableError when the manifest is
    not here or its columns are not the contract's, SourceError when the revision has none.
    """
    if rev is None:
        return read_table(MANIFEST, Path(root))
    from brightfield.volumes.remote import remote_files

    files = remote_files(root, rev, MANIFEST.path)
    if not files:
        raise SourceError(f"revision {rev!r} of {root} has no {MANIFEST.path}; `git log -- dvc.lock` lists the revisions that have data")
    return parse_table(files["."].read())
