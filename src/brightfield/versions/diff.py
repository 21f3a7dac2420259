"""Versions of the dataset: what differs between two of them and why, which number the next one deserves, and parts of one fetched.

A version is a git revision; its manifest is read from DVC's cache or remote. The rule for numbers: PATCH is the same data in another
serialisation, MINOR adds records or columns, MAJOR edits or removes records or moves them between splits.
"""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brightfield.core.codes import Split
from brightfield.core.errors import SourceError, TableError
from brightfield.core.layout import PARAMS_FILE
from brightfield.core.schema import CELLS, MANIFEST, TILES, Table
from brightfield.core.yaml import parse_yaml

if TYPE_CHECKING:
    import pandas as pd

WORKING_TREE = "the working tree"

_SERIALISATION = {"image.chunk_zyx", "image.shard_zyx"}
_HASHES = {"skeleton": "skeleton_sha256", "markers": "marker_sha256", "image": "image_sha256", "labels": "label_sha256"}
_PROVENANCE = {"image_bytes", "label_bytes", "snapshot_sha256", "config_sha256", "code_version", "split", *_HASHES.values()}
_GROUPS_OF = {"image": ("source", "image", "download"), "labels": ("source", "image", "download", "labels")}
_GROUPS_OF |= {"skeleton": ("source",), "markers": ("source",), "record": ("source", "image", "download", "labels", "align", "split")}


class Bump(StrEnum):
    """Which number of a version goes up."""

    PATCH = "PATCH"
    MINOR = "MINOR"
    MAJOR = "MAJOR"


@dataclass(frozen=True, slots=True)
class Change:
    """A cell that both versions have, and not alike: what differs, why, and whether the data itself does."""

    specimen_id: int
    what: tuple[str, ...]
    why: tuple[str, ...]
    is_edit: bool


@dataclass(frozen=True, slots=True)
class Move:
    """A cell that is on another side."""

    specimen_id: int
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """What differs between two versions of the dataset."""

    old: str
    new: str
    added: tuple[int, ...]
    removed: tuple[int, ...]
    changed: tuple[Change, ...]
    moved: tuple[Move, ...]
    columns_added: tuple[str, ...]
    columns_removed: tuple[str, ...]
    options: tuple[str, ...]
    numbers: tuple[tuple[str, float, float], ...]

    @property
    def bump(self) -> Bump:
        """The number that must go up from the old version to the new one."""
        if self.removed or self.moved or self.columns_removed or any(change.is_edit for change in self.changed):
            return Bump.MAJOR
        return Bump.MINOR if self.added or self.columns_added else Bump.PATCH

    def as_text(self) -> str:
        """For people: one line per fact."""
        return "\n".join(_lines(self))


def diff(root: Path, old: str, new: str | None = None) -> VersionDiff:
    """Compare the dataset of two revisions of the repository at `root`; without `new`, the working tree.

    Raises SourceError for a revision that git or DVC does not know, TableError where one has no manifest.
    """
    before, after = manifest_at(root, old), manifest_at(root, new)
    options = _option_changes(_params(root, old), _params(root, new))
    both = sorted(set(before.index) & set(after.index))
    same_pixels = _same_pixels(root, old, new, both) if any(_differs(before, after, i, _HASHES["image"]) for i in both) else set(both)
    code = _code(before, after)
    return VersionDiff(
        old=old,
        new=new or WORKING_TREE,
        added=tuple(sorted(set(after.index) - set(before.index))),
        removed=tuple(sorted(set(before.index) - set(after.index))),
        changed=tuple(_changes(before, after, both, options, code, same_pixels)),
        moved=tuple(Move(i, str(before["split"][i]), str(after["split"][i])) for i in both if _differs(before, after, i, "split")),
        columns_added=tuple(name for name in after.columns if name not in before.columns),
        columns_removed=tuple(name for name in before.columns if name not in after.columns),
        options=tuple(f"{key}: {a} -> {b}" for key, (a, b) in options.items()),
        numbers=tuple((name, *pair) for name, pair in numbers_of(before, after).items()),
    )


# ---------------------------------------------------------------------------------------------------------- what a revision has


def manifest_at(root: Path, rev: str | None) -> pd.DataFrame:
    """The manifest of a revision by specimen id; None is the working tree."""
    return _table(root, rev, MANIFEST).set_index("specimen_id").sort_index()


def _table(root: Path, rev: str | None, table: Table, columns: list[str] | None = None) -> pd.DataFrame:
    """A table as that revision has it, of whatever columns: another version may have others than the contract of this one."""
    import pyarrow.parquet as pq

    from brightfield.volumes.remote import remote_files

    if rev is None:
        if not (root / table.path).is_file():
            raise TableError(
                "there is no such table in the working tree; build it with `dvc repro` or `dvc pull` it", path=root / table.path
            )
        content = (root / table.path).read_bytes()
    else:
        git_output(root, "rev-parse", "--verify", "--quiet", f"{rev}^{{commit}}", failure=f"{rev} is no revision of this repository")
        files = remote_files(root, rev, table.path)
        if "." not in files:
            raise TableError(f"revision {rev} has no {table.name} table", path=table.path)
        content = files["."].read()
    frame: pd.DataFrame = pq.read_table(io.BytesIO(content), columns=columns).to_pandas(integer_object_nulls=True)
    return frame


def _params(root: Path, rev: str | None) -> dict[str, Any]:
    text = (
        (root / PARAMS_FILE).read_text(encoding="utf-8")
        if rev is None
        else git_output(root, "show", f"{rev}:./{PARAMS_FILE}", failure=f"{rev} has no params")
    )
    groups = parse_yaml(text.encode(), PARAMS_FILE.name)
    return {f"{group}.{key}": value for group, inner in groups.items() for key, value in inner.items() if group not in ("compute", "meta")}


def git_output(root: Path, *words: str, failure: str = "") -> str:
    """What git says in the repository at `root`; raises SourceError, with `failure` in front, where it refuses."""
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)  # noqa: S603, S607 - our own words
    if done.returncode:
        raise SourceError(f"{failure or 'git ' + words[0] + ' failed'}: {done.stderr.strip() or 'see `git tag` and `git log`'}")
    return done.stdout.strip()


# ----------------------------------------------------------------------------------------------------------------- comparing


def _differs(before: pd.DataFrame, after: pd.DataFrame, specimen_id: int, column: str) -> bool:
    if column not in before.columns or column not in after.columns:
        return False
    old, new = before[column][specimen_id], after[column][specimen_id]
    return bool(old != new) and not (is_null(old) and is_null(new))


def is_null(value: object) -> bool:
    """Whether there is no value."""
    return value is None or bool(value != value)


def _option_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = [*before, *(key for key in after if key not in before)]
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def _code(before: pd.DataFrame, after: pd.DataFrame) -> str:
    old, new = (", ".join(sorted(set(frame["code_version"]))) for frame in (before, after))
    return f"code {old} -> {new}" if old != new else f"code between the two revisions (both call themselves {new})"


def _same_pixels(root: Path, old: str, new: str | None, cells: Sequence[int]) -> set[int]:
    """Cells whose downloaded pixels are the same, tile by tile."""
    columns = ["specimen_id", "z", "y0", "x0", "y1", "x1", "sha256"]
    before, after = (dict(iter(_table(root, rev, TILES, columns).groupby("specimen_id"))) for rev in (old, new))
    none = next(iter([*before.values(), *after.values()]), None)
    empty = None if none is None else none.iloc[:0]
    return {i for i in cells if before.get(i, empty) is after.get(i, empty) or _equal_rows(before.get(i, empty), after.get(i, empty))}


def _equal_rows(one: pd.DataFrame | None, other: pd.DataFrame | None) -> bool:
    return one is not None and other is not None and one.reset_index(drop=True).equals(other.reset_index(drop=True))


def _changes(
    before: pd.DataFrame,
    after: pd.DataFrame,
    cells: Sequence[int],
    options: Mapping[str, tuple[Any, Any]],
    code: str,
    same_pixels: set[int],
) -> Iterator[Change]:
    facts = [name for name in before.columns if name in after.columns and name not in _PROVENANCE]
    for i in cells:
        stores = [what for what, column in _HASHES.items() if _differs(before, after, i, column)]
        columns = [name for name in facts if _differs(before, after, i, name)]
        if stores or columns:
            why = _why(before, after, i, stores, columns, options) or (code,)
            only_serialised = set(options) <= _SERIALISATION and bool(options) and set(stores) <= {"image", "labels"} and i in same_pixels
            yield Change(i, (*stores, *columns), why, is_edit=bool(columns) or not only_serialised)


def _why(
    before: pd.DataFrame,
    after: pd.DataFrame,
    specimen_id: int,
    stores: Sequence[str],
    columns: Sequence[str],
    options: Mapping[str, tuple[Any, Any]],
) -> tuple[str, ...]:
    """The source's own edits of this cell, then the options that what changed depends on."""
    source_columns = {column.name for column in CELLS.columns} - {"bytes_planned_est"}
    reasons = [f"source: {name} {before[name][specimen_id]} -> {after[name][specimen_id]}" for name in columns if name in source_columns]
    for what in ("skeleton", "markers"):
        if what in stores:
            old, new = (str(frame[_HASHES[what]][specimen_id])[:12] for frame in (before, after))
            reasons.append(f"source: {what} {old} -> {new}")
    kinds = [*stores, *(["record"] if set(columns) - source_columns else [])]
    groups = {group for kind in kinds for group in _GROUPS_OF[kind]}
    reasons += [f"option: {key} {old} -> {new}" for key, (old, new) in options.items() if key.split(".")[0] in groups]
    return tuple(reasons)


def numbers_of(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """The totals of a version before and after, by name."""

    def count(frame: pd.DataFrame) -> dict[str, float]:
        numbers: dict[str, float] = {"cells": len(frame), "donors": frame["donor_id"].nunique()}
        numbers |= {f"{side} cells": int((frame["split"] == side).sum()) for side in Split}
        for column, name, unit in (("image_bytes", "images, GB", 1e9), ("label_bytes", "labels, GB", 1e9)):
            numbers[name] = round(float(frame[column].sum()) / unit, 3)
        paths = [name for name in frame.columns if name.startswith("path_") and name.endswith("_um")]
        return numbers | {"path, mm": round(float(frame[paths].sum().sum()) / 1000, 3)}

    old, new = count(before), count(after)
    return {name: (old[name], new[name]) for name in new}


def _lines(difference: VersionDiff) -> Iterator[str]:
    yield f"{difference.old} -> {difference.new}: {difference.bump}"
    for title, cells in (("added", difference.added), ("removed", difference.removed)):
        if cells:
            yield f"{len(cells)} cell(s) {title}: {', '.join(map(str, cells))}"
    for title, columns in (("added", difference.columns_added), ("removed", difference.columns_removed)):
        if columns:
            yield f"column(s) {title}: {', '.join(columns)}"
    if difference.options:
        yield "options:"
        yield from (f"  {option}" for option in difference.options)
    if difference.moved:
        yield f"{len(difference.moved)} cell(s) moved between splits:"
        yield from (f"  {move.specimen_id}  {move.old} -> {move.new}" for move in difference.moved)
    if difference.changed:
        yield f"{len(difference.changed)} cell(s) changed:"
        yield from _grouped(difference.changed)
    yield "numbers:"
    yield from (f"  {name}: {old:g} -> {new:g}" if old != new else f"  {name}: {new:g}" for name, old, new in difference.numbers)


def _grouped(changes: Sequence[Change]) -> Iterator[str]:
    """Cells that changed alike share a line: after a change of an option all do."""
    alike: dict[tuple[tuple[str, ...], tuple[str, ...], bool], list[int]] = {}
    for change in changes:
        alike.setdefault((change.what, change.why, change.is_edit), []).append(change.specimen_id)
    for (what, why, is_edit), cells in alike.items():
        note = "" if is_edit else " (same data, other serialisation)"
        yield f"  {', '.join(map(str, cells))}: {', '.join(what)}{note} because of {'; '.join(why)}"
