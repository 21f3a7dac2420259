"""The first page of the report: the dataset in numbers and plots, and a table of all cells that can be sorted and filtered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brightfield.built.dataset import records
from brightfield.core.codes import LABEL_NAMES, Split
from brightfield.core.files import link, write_bytes, write_text
from brightfield.core.layout import REPORT_DIR, REPORT_FIGURES_DIR, REPORT_FILE, REPORT_STAGE, REPORT_STYLE_FILE, cell_page
from brightfield.core.schema import NODES, PATCHES
from brightfield.core.tables import read_table, row_digests
from brightfield.core.urls import web_link
from brightfield.run.workcache import made_once
from brightfield.sampling.mix import delivered
from brightfield.splitting.proof import MAX_DEVIATION_POINTS, MIN_STRATUM_CELLS
from brightfield.stages.report import figures
from brightfield.stages.report.cell import THUMBNAIL, Bar, lengths_by_verdict, verdicts
from brightfield.stages.report.material import Material, Row
from brightfield.stages.report.numbers import SIDES, metrics, plots
from brightfield.stages.report.pictures import colour
from brightfield.stages.report.rendering import asset, render

_COMPOSITION = {
    "reconstruction": "reconstruction_type",
    "dendrites": "dendrite_type",
    "layer": "layer",
    "line": "line",
    "species": "species",
    "split": "split",
}
_OF_NODES = ["label", "radius_um"]
FIGURES = {
    "composition": "Path length of each class, stacked by side",
    "radius": "Nodes by traced radius and class",
    "split": "Share of train, val and test, against what was asked for",
    "alignment": "Contrast against the share of the path on its stain, a mark per cell",
    "unknown": "Unknown voxels by reason",
}
"""The plots of the whole dataset, by the name of their file, and what they show."""

_LISTED = ("specimen_id", "name", "donor_id", "split", "reason", "alignment_grade", "reconstruction_type", "dendrite_type", "layer", "line")
_LISTED_NUMBERS = ("n_nodes", "voxels_fetched", "ignored_share_5um")


def write_index(material: Material, changes: str) -> Path:
    """Write plots, style and index of a report whose pages of cells are there; returns the index."""
    _put_figures(material)
    write_text(material.root / REPORT_STYLE_FILE, asset("style.css"))
    terms = ("license", "license_url", "citation", "source_url", "code_version", "config_sha256")
    first = {name: material.manifest[name].iloc[0] if len(material.manifest) else "" for name in terms}
    rows = cell_rows(material)
    text = render(
        "index.html.j2",
        title=f"{len(material.taken)} cells, {material.taken['donor_id'].nunique()} donors",
        metrics=metrics(material),
        figures=FIGURES,
        figures_dir=REPORT_FIGURES_DIR.relative_to(REPORT_DIR).as_posix(),
        composition=_composition(material.taken),
        classes=_classes(material),
        proof=material.proof,
        mix=records(delivered(read_table(PATCHES, material.root, columns=["kind", "split", "weight"]), material.config.patches)),
        strata=records(material.proof.strata),
        counts=records(material.proof.counts),
        limits={"points": MAX_DEVIATION_POINTS, "cells": MIN_STRATUM_CELLS},
        checks=material.checks,
        not_taken=_not_taken(material),
        cells=rows,
        choices={
            name: sorted({str(row[name]) for row in rows if row[name]}) for name in ("split", "alignment_grade", "reconstruction_type")
        },
        changes=changes,
        license_link=web_link(str(first["license_url"])),
        terms=first,
    )
    return write_text(material.root / REPORT_FILE, text)


def _put_figures(material: Material) -> None:
    """The plots of the whole dataset, drawn where what they show has changed since."""
    tables, rules, gate = plots(material), material.config.split, material.config.align.d_prime_min
    unknown = {row["reason"]: row["voxels"] for row in records(tables["unknown"])}
    shown = (tables["classes"], material.grades, unknown, _shares(material), (rules.test, rules.val), gate)
    parts = [repr(part.to_dict("list") if isinstance(part, pd.DataFrame) else part) for part in shown]
    key, args = [*parts, row_digests(NODES, material.root, _OF_NODES)], (material.root, *shown)
    drawn = made_once(material.root, REPORT_STAGE, "figures", key, draw_figures, args, material.config.compute.work_dir)
    for name in FIGURES:
        link(drawn / f"{name}.svg", material.root / REPORT_FIGURES_DIR / f"{name}.svg")


def draw_figures(
    out: Path,
    root: Path,
    classes: pd.DataFrame,
    grades: pd.DataFrame,
    unknown: Mapping[str, int],
    shares: Mapping[str, Sequence[float]],
    asked: tuple[float, float],
    gate: float,
) -> None:
    """The plots of the dataset below `root` as SVG in the directory `out`. asked: shares of test and val. gate: the least d'."""
    test, val = asked
    drawn = {
        "composition": figures.classes(classes),
        "radius": figures.radii(read_table(NODES, root, columns=_OF_NODES)),
        "split": figures.split_balance(shares, (1 - test - val, val, test)),
        "alignment": figures.alignment(grades, gate),
        "unknown": figures.unknown(unknown),
    }
    for name, svg in drawn.items():
        write_bytes(out / f"{name}.svg", svg)


def _shares(material: Material) -> Mapping[str, Sequence[float]]:
    """Shares of the sides: of what is counted, and of every stratum that is large enough to be judged."""
    counts = material.proof.counts
    names = {"cells": "cells", "donors": "donors", "path length": "path_um", "labelled voxels": "voxels"}
    found = {title: figures.shares_of(counts[column].fillna(0).to_numpy(np.float64)) for title, column in names.items()}
    strata = {f"{row['stratum']} ({row['cells']})": [row[side.value] for side in SIDES] for row in records(material.proof.strata)}
    return found | {title: shares for title, shares in strata.items() if title != f"all ({int(counts['cells'].sum())})"}


def cell_rows(material: Material) -> list[Row]:
    """A row per cell of the manifest: what the table shows, where its page and its small picture are, relative to the index."""
    grades = {int(row["specimen_id"]): row for row in records(material.grades)}
    lengths = lengths_by_verdict(material.alignment)
    told = Counter([*material.noticed["specimen_id"].tolist(), *(finding.specimen_id for finding in material.checks)])
    found = []
    paths = [f"path_{name}_um" for name in LABEL_NAMES.values()]
    for row in records(material.manifest):
        i = int(row["specimen_id"])
        grade: Mapping[str, Any] = grades.get(i, {})
        page = material.root / cell_page(i)
        beside = {"page": page, "thumbnail": page.with_name(THUMBNAIL)}
        places = {
            name: path.relative_to(material.root / REPORT_DIR).as_posix() if path.is_file() else None for name, path in beside.items()
        }
        shown = {name: row[name] for name in (*_LISTED, *_LISTED_NUMBERS)} | places
        shown |= {name: grade.get(name) for name in ("d_prime", "d_prime_dendrite", "d_prime_axon", "share_on")}
        shown["rejected"] = grade.get("reason")
        shown["verdicts"] = verdicts(lengths.get(i, {}))
        shown["path_um"] = sum(row[name] or 0.0 for name in paths)
        shown["n_findings"] = told[i]
        found.append(shown)
    return found


def _composition(taken: pd.DataFrame) -> dict[str, list[Bar]]:
    """Cells by what they are."""
    return {title: _counted(taken[column].fillna("not stated")) for title, column in _COMPOSITION.items()}


def _counted(values: pd.Series[Any]) -> list[Bar]:
    counts = sorted(values.value_counts().items(), key=lambda item: (-item[1], str(item[0])))
    return [Bar(str(name), str(n), n / len(values)) for name, n in counts]


def _classes(material: Material) -> list[Row]:
    """Path length and voxels of each class on each side, with its share of the class."""
    rows = records(plots(material)["classes"])
    names = {name: colour(label) for label, name in LABEL_NAMES.items()}
    for row in rows:
        same = [other for other in rows if other["class"] == row["class"]]
        for what in ("path_um", "voxels"):
            whole = sum(other[what] for other in same)
            row[f"{what}_share"] = row[what] / whole if whole else 0.0
        row["colour"] = names[row["class"]]
    return rows


def _not_taken(material: Material) -> list[tuple[str, list[int]]]:
    """Why cells are not in the dataset, with their ids: not selected by the query, or excluded by the split."""
    reasons: dict[str, list[int]] = {}
    left_out = material.cells[~material.cells["selected"].astype(bool)]
    excluded = material.manifest[material.manifest["split"] == Split.EXCLUDED]
    for frame in (left_out, excluded):
        for specimen_id, reason in zip(frame["specimen_id"].tolist(), frame["reason"].fillna("no reason given").tolist(), strict=True):
            ids = reasons.setdefault(reason, [])
            if specimen_id not in ids:
                ids.append(specimen_id)
    return sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0]))
