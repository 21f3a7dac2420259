"""Which cells the dataset takes, with a reason for every one it does not; and what changed since the last time the source was asked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from itertools import batched
from typing import TYPE_CHECKING

from brightfield.core.cell import Cell, Stack, cells_of
from brightfield.core.errors import ConfigError
from brightfield.core.schema import CELLS, PLANES
from brightfield.core.space import download_grid
from brightfield.core.tables import frame_of
from brightfield.run.progress import progress
from brightfield.sources.source import Source

if TYPE_CHECKING:
    import pandas as pd

    from brightfield.config.options import ImageConfig, SourceConfig

SKELETON_SHARE = {"dendrite-only": 0.060, "full": 0.154}
"""Share of a stack's pixels within 10 um of the skeleton in tiles of 512 px of full resolution, for a first estimate before any skeleton is
read (`plan.py` counts the tiles): medians over all 509 mouse reconstructions of the 2023 cells table, counted by a script that shares no
code with the planner (1.24 and 2.97 GB a cell)."""

_ASKED_TOGETHER = 100  # a whole number of the service's own queries

# -------------------------------------------------------------------------------------------------------------------- choosing


def survey(source: Source, wanted: SourceConfig, image: ImageConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ask a source for all its cells, and for the stacks of those alone that may be taken; see `select` for what comes back."""
    cells = source.cells()
    candidates = [cell for cell in cells if _outside(cell, wanted) is None]
    complete: dict[int, Cell] = {}
    with progress(len(candidates), "stacks", "cell") as advance:
        for some in batched(candidates, _ASKED_TOGETHER):
            complete |= {cell.specimen_id: cell for cell in source.complete(some)}
            advance(len(some))
    return select([complete.get(cell.specimen_id, cell) for cell in cells], wanted, image)


def select(cells: Sequence[Cell], wanted: SourceConfig, image: ImageConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cells and planes tables (`schema.CELLS`: every cell, with `selected` and `reason`; `schema.PLANES`: planes of selected cells).

    Raises ConfigError when `source.specimen_ids` or `source.exclude_ids` names a cell that the source does not know.
    """
    known = {cell.specimen_id for cell in cells}
    for key, ids in (("specimen_ids", wanted.specimen_ids), ("exclude_ids", wanted.exclude_ids)):
        if unknown := sorted(set(ids) - known):
            raise ConfigError(f"source.{key}: the source knows no cell {', '.join(map(str, unknown))}; correct or remove it")
    reasons = {cell.specimen_id: _outside(cell, wanted) or _incomplete(cell, wanted) for cell in cells}
    taken = [cell for cell in cells if reasons[cell.specimen_id] is None]
    return (
        frame_of(CELLS, (_cell_row(cell, reasons[cell.specimen_id], image) for cell in cells)),
        frame_of(PLANES, (row for cell in taken for row in _plane_rows(cell))),
    )


def reselect(cells: pd.DataFrame, planes: pd.DataFrame, wanted: SourceConfig, image: ImageConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`select` from the tables of a snapshot, which knows the stacks only of cells that might have been taken when it was made.

    Raises ConfigError when the configuration asks for a cell whose stack was not asked for then.
    """
    reasons = dict(zip(cells["specimen_id"], cells["reason"].fillna(""), strict=True))
    known = [_with_problem(cell, reasons[cell.specimen_id]) for cell in cells_of(cells, planes)]
    unknown = [c.specimen_id for c in known if reasons[c.specimen_id].startswith(_OUTSIDE) and _outside(c, wanted) is None]
    if unknown:
        raise ConfigError(
            f"the snapshot was taken for another selection and knows no stack of {len(unknown)} cell(s), {unknown[0]} first; "
            "run `brightfield refresh --write` with this configuration"
        )
    return select(known, wanted, image)


def _with_problem(cell: Cell, reason: str) -> Cell:
    """A cell of a snapshot with what was wrong with it then; what was wrong with the selection is not."""
    if not reason or reason.startswith(_OUTSIDE):
        return cell
    return replace(cell, stack_problem=reason, swc_problem=reason if cell.swc_url is None else None)


_REFUSED, _UNNAMED, _SPECIES, _UNTRACED, _TRACED_AS = _OUTSIDE = (
    "in source.exclude_ids",
    "not in source.specimen_ids",
    "species is",
    "no reconstruction",
    "reconstruction is",
)


_REMEDIES = {
    _REFUSED: "take its id out of source.exclude_ids to take it",
    _UNNAMED: "source.specimen_ids=[] takes all that match",
    _SPECIES: "source.species names the species; '' takes any",
    _UNTRACED: "there is nothing to draw labels from",
    _TRACED_AS: "source.reconstruction_types names the types that are taken",
    "no SWC file": "the source has to add it",
    "no image stack": "source.require_images=false takes cells without images",
}
_MOST_REASONS = 12


def left_out(cells: pd.DataFrame) -> list[str]:
    """Why cells of the cells table are not taken: a line for each reason, the most frequent first, with what to do about it."""
    lines = [f"  {n} x {reason}{_remedy(reason)}" for reason, n in reasons_of(cells).items()]
    more = [f"  and {len(lines) - _MOST_REASONS} more reasons: column `reason` of {CELLS.path}"] if len(lines) > _MOST_REASONS else []
    return [*lines[:_MOST_REASONS], *more]


def reasons_of(cells: pd.DataFrame) -> dict[str, int]:
    """How many cells are not taken for each reason, the most frequent first; those that differ only in the file named are one."""
    told = cells.loc[~cells["selected"], "reason"].astype(str)
    alike = told.groupby(told.str.replace(r"^\S+: ", "", regex=True), sort=False)
    counts = {str(same.iloc[0]) if len(same) == 1 else str(kind): len(same) for kind, same in alike}
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _remedy(reason: str) -> str:
    """What to do about a reason; those that a source gives say it themselves."""
    return next((f" -> {remedy}" for start, remedy in _REMEDIES.items() if reason.startswith(start)), "")


def _outside(cell: Cell, wanted: SourceConfig) -> str | None:
    """Why a cell is not asked for, judged by what the source says of all cells."""
    if cell.specimen_id in wanted.exclude_ids:
        return _REFUSED
    if wanted.specimen_ids and cell.specimen_id not in wanted.specimen_ids:
        return _UNNAMED
    if wanted.species and cell.species.lower() != wanted.species.lower():
        return f"{_SPECIES} {cell.species}"
    if cell.reconstruction_type is None:
        return cell.swc_problem or _UNTRACED
    if wanted.reconstruction_types and cell.reconstruction_type not in wanted.reconstruction_types:
        return f"{_TRACED_AS} {cell.reconstruction_type}"
    return None


def _incomplete(cell: Cell, wanted: SourceConfig) -> str | None:
    """Why a cell that is asked for cannot be taken. A reconstruction does not prove that there are images: some cells have none."""
    if cell.swc_problem or cell.swc_url is None:
        return cell.swc_problem or "no SWC file"
    if wanted.require_images and cell.stack is None:
        return cell.stack_problem or "no image stack"
    return None


_SAME_NAMES = tuple(field.name for field in fields(Cell) if field.name in CELLS.column_names)


def _cell_row(cell: Cell, reason: str | None, image: ImageConfig) -> Mapping[str, object]:
    soma_x, soma_y, soma_z = cell.soma_xyz_um or (None, None, None)
    return {
        **{name: getattr(cell, name) for name in _SAME_NAMES},
        "soma_x_um": soma_x,
        "soma_y_um": soma_y,
        "soma_z_um": soma_z,
        "selected": reason is None,
        "reason": reason,
        **(_stack_row(cell, cell.stack, image) if cell.stack else {}),
    }


def _stack_row(cell: Cell, stack: Stack, image: ImageConfig) -> Mapping[str, object]:
    return {
        "image_series_id": stack.image_series_id,
        "projection_id": stack.projection_id,
        "n_planes": len(stack.planes),
        "n_planes_missing": sum(not plane.usable for plane in stack.planes),
        "width_px": stack.width_px,
        "height_px": stack.height_px,
        "pixel_um": stack.pixel_um,
        "plane_um": stack.plane_um,
        "bits": stack.bits,
        "bytes_full_est": stack.grid.n_voxels * stack.bits // 8,
        "bytes_planned_est": _planned_bytes(cell, stack, image),
    }


def _planned_bytes(cell: Cell, stack: Stack, image: ImageConfig) -> int:
    """The downloaded grid, and of it the share that skeleton coverage usually takes; a box may be as large as the stack."""
    n_bytes = download_grid(stack.grid, image.level, image.z_step).n_voxels * stack.bits // 8
    if image.coverage.value != "skeleton":
        return n_bytes
    share = SKELETON_SHARE.get(cell.reconstruction_type or "", max(SKELETON_SHARE.values()))
    return round(n_bytes * min(1.0, share * (1 + image.background_share)))


def _plane_rows(cell: Cell) -> Iterable[Mapping[str, object]]:
    for plane in cell.stack.planes if cell.stack else ():
        yield {
            "specimen_id": cell.specimen_id,
            "plane": plane.plane,
            "sub_image_id": plane.sub_image_id,
            "section_number": plane.section_number,
            "usable": plane.usable,
            "reason": plane.reason,
        }


# ----------------------------------------------------------------------------------------------------------------------- drift


class ChangeKind(StrEnum):
    """What happened to a cell between two snapshots of the source."""

    NEW = "new"
    GONE = "gone"
    RECONSTRUCTED = "gained a reconstruction"
    UNRECONSTRUCTED = "lost its reconstruction"
    RERELEASED = "reconstruction re-released"
    MOVED = "soma moved"
    EDITED = "metadata edited"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that happened to one cell; fields maps the columns concerned to their old and new value (None where there is none)."""

    kind: ChangeKind
    specimen_id: int
    fields: Mapping[str, tuple[object, object]]


@dataclass(frozen=True, slots=True)
class Drift:
    """What changed from one snapshot to the next: changes by kind and specimen id, and how many cells are selected before and after."""

    changes: tuple[Change, ...]
    n_selected: tuple[int, int]

    def __str__(self) -> str:
        """A summary and a line per change, for people."""
        if not self.changes:
            return "nothing changed at the source"
        counts = Counter(change.kind for change in self.changes)
        summary = ", ".join(f"{counts[kind]} {kind}" for kind in ChangeKind if counts[kind])
        lines = [f"  {change.specimen_id}  {change.kind}{_told(change)}" for change in self.changes]
        return "\n".join([summary, *lines, f"selected: {self.n_selected[0]} cells before, {self.n_selected[1]} now"])


_RECONSTRUCTION = frozenset({"reconstruction_id", "swc_file_id", "swc_url", "marker_file_id", "marker_url"})
_SOMA = frozenset({"soma_x_um", "soma_y_um", "soma_z_um"})
_STACK = frozenset(
    {"image_series_id", "projection_id", "n_planes", "n_planes_missing", "width_px", "height_px", "pixel_um", "plane_um", "bits"}
)
_OURS = frozenset({"specimen_id", "bytes_full_est", "bytes_planned_est", "selected", "reason"})
_ASKED_FOR = _STACK | {"reconstruction_id", "marker_file_id", "marker_url"}
"""Known only of cells that were candidates when the source was asked."""


def drift(old: pd.DataFrame, new: pd.DataFrame) -> Drift:
    """Compare two cells tables: cells that are new or gone, and for the others what the source now says differently of them.

    Nulls are equal, and so are numbers that differ by less than 1e-9 of their size.
    """
    before, after = _rows_by_id(old), _rows_by_id(new)
    changes = [Change(ChangeKind.NEW, i, {}) for i in after.keys() - before.keys()]
    changes += [Change(ChangeKind.GONE, i, {}) for i in before.keys() - after.keys()]
    for specimen_id in before.keys() & after.keys():
        changes += _changes(specimen_id, before[specimen_id], after[specimen_id])
    order = list(ChangeKind)
    changes.sort(key=lambda change: (order.index(change.kind), change.specimen_id))
    return Drift(tuple(changes), (int(old["selected"].sum()), int(new["selected"].sum())))


def _changes(specimen_id: int, old: Mapping[str, object], new: Mapping[str, object]) -> list[Change]:
    """What happened to one cell, each column in one change only."""
    comparable = set(CELLS.column_names) - _OURS
    if any(all(row[name] is None for name in _ASKED_FOR) for row in (old, new)):
        comparable -= _ASKED_FOR
    differing = {name: (old[name], new[name]) for name in CELLS.column_names if name in comparable and not _same(old[name], new[name])}
    parts: dict[ChangeKind, frozenset[str]] = {ChangeKind.MOVED: _SOMA}
    if gained := _appearance(old["reconstruction_type"], new["reconstruction_type"]):
        parts[gained] = _RECONSTRUCTION | _STACK | {"reconstruction_type"}
    else:
        parts[ChangeKind.RERELEASED] = _RECONSTRUCTION
    parts[ChangeKind.EDITED] = frozenset(differing).difference(*parts.values())
    grouped = {kind: {name: values for name, values in differing.items() if name in names} for kind, names in parts.items()}
    return [Change(kind, specimen_id, found) for kind, found in grouped.items() if found]


def _appearance(old: object, new: object) -> ChangeKind | None:
    if (old is None) == (new is None):
        return None
    return ChangeKind.RECONSTRUCTED if old is None else ChangeKind.UNRECONSTRUCTED


def _rows_by_id(frame: pd.DataFrame) -> dict[int, dict[str, object]]:
    plain = frame.astype(object).where(frame.notna(), None)
    return {int(row["specimen_id"]): {str(name): value for name, value in row.items()} for row in plain.to_dict("records")}


def _same(old: object, new: object) -> bool:
    if isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=1e-9)
    return old == new


def _told(change: Change) -> str:
    """The columns with old and new value; an address follows from its file id and is told only where it changed alone."""
    names = [
        name for name in change.fields if name.replace("_url", "_file_id") == name or name.replace("_url", "_file_id") not in change.fields
    ]
    told = [f"{name} {_value(change.fields[name][0])} -> {_value(change.fields[name][1])}" for name in names]
    return ": " + "; ".join(told) if told else ""


def _value(value: object) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
