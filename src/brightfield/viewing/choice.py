"""Which cells are shown: those of a side, with a grade, with a finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brightfield.core.codes import Grade, Split
from brightfield.core.errors import ConfigError
from brightfield.core.layout import image_store, label_store
from brightfield.core.schema import FINDINGS, MANIFEST
from brightfield.viewing.material import Material

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Filters:
    """split: a side. grade: of the alignment. finding: the name of a check that found something. None takes all."""

    split: str | None = None
    grade: str | None = None
    finding: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A cell as it is listed. here: whether its volumes can be shown."""

    specimen_id: int
    split: str
    grade: str
    findings: tuple[str, ...]
    here: bool


def listed(material: Material, filters: Filters) -> list[Row]:
    """The cells of the manifest that pass, by specimen id.

    Raises ConfigError for a filter that no cell passes, naming what there is; TableError where there is no manifest.
    """
    findings = _findings(material)
    rows = [_row(material, record, findings) for record in _records(material.table(MANIFEST))]
    for name, value, known in (
        ("split", filters.split, list(Split)),
        ("grade", filters.grade, list(Grade)),
        ("finding", filters.finding, sorted({check for row in rows for check in row.findings})),
    ):
        if value is not None and value not in known:
            raise ConfigError(f"--{name} {value}: " + (f"one of {', '.join(known)}" if known else "no check found anything in these cells"))
    kept = [row for row in rows if _passes(row, filters)]
    if not kept:
        raise ConfigError(f"no cell of {len(rows)} passes {_said(filters)}; leave one of them out")
    return kept


def _passes(row: Row, filters: Filters) -> bool:
    return (
        filters.split in (None, row.split)
        and filters.grade in (None, row.grade)
        and (filters.finding is None or filters.finding in row.findings)
    )


def _said(filters: Filters) -> str:
    names = ("split", "grade", "finding")
    return " ".join(f"--{name} {value}" for name in names if (value := getattr(filters, name)) is not None)


def _row(material: Material, record: dict[str, Any], findings: dict[int, tuple[str, ...]]) -> Row:
    specimen_id = int(record["specimen_id"])
    here = any(material.has(store) for store in (image_store(specimen_id), label_store(specimen_id)))
    return Row(specimen_id, record["split"], record["alignment_grade"] or "", findings.get(specimen_id, ()), here)


def _records(manifest: pd.DataFrame) -> list[dict[str, Any]]:
    frame = manifest[["specimen_id", "split", "alignment_grade"]].astype(object)
    return [{str(name): value for name, value in row.items()} for row in frame.where(frame.notna(), None).to_dict("records")]


def _findings(material: Material) -> dict[int, tuple[str, ...]]:
    found = material.table(FINDINGS)[["specimen_id", "check"]].drop_duplicates()
    checks = zip(found["specimen_id"].tolist(), found["check"].tolist(), strict=True)
    by_cell: dict[int, tuple[str, ...]] = {}
    for specimen_id, check in sorted(checks):
        by_cell[specimen_id] = (*by_cell.get(specimen_id, ()), check)
    return by_cell
