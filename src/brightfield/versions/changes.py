"""A page about what differs between two versions: cells gained, lost and changed, with the labels of changed cells side by side."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brightfield.core.errors import BrightfieldError, SourceError
from brightfield.core.files import write_text
from brightfield.core.layout import CHANGES_DIR, IMAGES_DIR, LABELS_DIR, REPORT_DIR, cell_page, image_store, label_store
from brightfield.stages.report.comparison import compare
from brightfield.stages.report.numbers import number, percent
from brightfield.stages.report.pictures import Picture, save
from brightfield.stages.report.rendering import asset, render
from brightfield.versions.diff import WORKING_TREE, VersionDiff, diff, manifest_at
from brightfield.volumes.remote import ObjectStore, RemoteObject, remote_files
from brightfield.volumes.volume import Volume, open_volume

if TYPE_CHECKING:
    import pandas as pd

MAX_PICTURED = 100
"""Changed cells that are pictured, by id; the others are listed."""


@dataclass(frozen=True)
class Version:
    """The volumes of a revision of the repository at `root`; those of the working tree where `rev` is None. Nothing is pulled."""

    root: Path
    rev: str | None

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """Its manifest, by specimen id."""
        return manifest_at(self.root, self.rev)

    def image(self, specimen_id: int) -> Volume:
        """The stack of a cell. Raises StackError or SourceError where it is in no place."""
        return self._open(image_store(specimen_id), IMAGES_DIR)

    def labels(self, specimen_id: int) -> Volume:
        """The labels of a cell. Raises StackError or SourceError where they are in no place."""
        return self._open(label_store(specimen_id), LABELS_DIR)

    def _open(self, store: Path, folder: Path) -> Volume:
        if self.rev is None:
            return open_volume(self.root / store)
        below = f"{store.name}/"
        files = {name.removeprefix(below): of for name, of in self._files[folder].items() if name.startswith(below)}
        if not files:
            raise SourceError(f"revision {self.rev} has no {store}")
        return open_volume(ObjectStore(files, f"{self.rev}:{store}"))

    @cached_property
    def _files(self) -> dict[Path, dict[str, RemoteObject]]:
        return {folder: remote_files(self.root, str(self.rev), folder) for folder in (IMAGES_DIR, LABELS_DIR)}


@dataclass(frozen=True, slots=True)
class ChangedCell:
    """A changed cell as the page shows it: what and why, its pictures with what they show, or why there are none."""

    specimen_id: int
    what: str
    why: Sequence[str]
    pictures: Sequence[tuple[str, Picture]] = ()
    told: str = ""
    page: str | None = None


@dataclass(frozen=True)
class _Writer:
    difference: VersionDiff
    before: Version
    after: Version
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", self.after.root / CHANGES_DIR)

    def changed(self) -> Iterator[ChangedCell]:
        pictured = [change.specimen_id for change in self.difference.changed if "labels" in change.what][:MAX_PICTURED]
        for change in self.difference.changed:
            i, what = change.specimen_id, ", ".join(change.what) + ("" if change.is_edit else " (same data, other serialisation)")
            pictures, told = self._compared(i) if i in pictured else ([], "")
            yield ChangedCell(i, what, change.why, pictures, told, self.page_of(i))

    def _compared(self, specimen_id: int) -> tuple[list[tuple[str, Picture]], str]:
        try:
            found = compare(self.after.image(specimen_id), self.before.labels(specimen_id), self.after.labels(specimen_id))
        except BrightfieldError as error:  # a cell that was never pushed must not hide the others
            return [], str(error).replace(f"{self.after.root.resolve()}/", "")
        if found is None:
            return [], "the two versions are on different grids, so their voxels cannot be compared"
        titles = {"before": self.difference.old, "after": self.difference.new, "differing": "what differs, in red"}
        pictures = [
            (title, save(getattr(found, name), self.folder / str(specimen_id) / f"{name}.png", f"labels: {title}"))
            for name, title in titles.items()
        ]
        share = percent(found.n_differ / found.n_voxels, 3)
        return pictures, f"{number(found.n_differ)} voxels differ at level {found.level} ({share}); plane {found.plane} has the most"

    def page_of(self, specimen_id: int) -> str | None:
        """The page of a cell in the report beside; only the working tree has one."""
        page = self.after.root / cell_page(specimen_id)
        return None if self.after.rev is not None or not page.is_file() else f"../{page.relative_to(self.after.root / REPORT_DIR.parent)}"

    def listed(self, version: Version, cells: Sequence[int]) -> list[dict[str, Any]]:
        """Cells that only one version has."""
        columns = ("name", "split", "alignment_grade")
        rows = version.manifest
        return [
            {"specimen_id": i, "page": self.page_of(i)} | {name: _plain(rows[name][i]) if name in rows else "" for name in columns}
            for i in cells
        ]


def write_changes(root: Path, old: str, new: str | None = None) -> Path:
    """Write the page about what differs from revision `old` to `new`, the working tree where it is None; returns the page.

    It lies in `layout.CHANGES_DIR` with its pictures, and replaces what was there. Raises SourceError for a revision that git or DVC does
    not know, TableError where one has no manifest.
    """
    writer = _Writer(diff(root, old, new), Version(root, old), Version(root, new))
    if writer.folder.is_dir():
        shutil.rmtree(writer.folder)
    changed = list(writer.changed())
    text = render(
        "changes.html.j2",
        difference=writer.difference,
        gained=writer.listed(writer.after, writer.difference.added),
        lost=writer.listed(writer.before, writer.difference.removed),
        changed=changed,
        n_unpictured=max(0, sum("labels" in change.what for change in writer.difference.changed) - MAX_PICTURED),
        is_working_tree=writer.difference.new == WORKING_TREE,
    )
    write_text(writer.folder / "style.css", asset("style.css"))
    return write_text(writer.folder / "index.html", text)


def _plain(value: Any) -> str:
    return "" if value is None or value != value else str(value)
