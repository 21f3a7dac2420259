"""The report: what is in the dataset, whether it can be believed, and what it looks like. One HTML file that needs no network.

Beside it: `metrics.json` (flat numbers for `dvc metrics`) and CSV files for `dvc plots`. All are functions of the built dataset alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brightfield.built.dataset import Dataset
from brightfield.core.codes import LABEL_NAMES, Finding, Label, Reason, Severity, Split
from brightfield.core.errors import StackError
from brightfield.core.files import write_text
from brightfield.core.layout import METRICS_FILE, PLOTS_DIR, REPORT_FILE, image_store, label_store
from brightfield.core.schema import ALIGNMENT, ALIGNMENT_CELLS, FINDINGS, LABEL_STATS, NODES, PATCHES, TILES
from brightfield.core.tables import read_table
from brightfield.core.urls import web_link
from brightfield.run.progress import watched
from brightfield.splitting.proof import MAX_DEVIATION_POINTS, MIN_STRATUM_CELLS, Proof, prove
from brightfield.stages.report.pictures import Overlay, Picture, centre_voxel, colour, overlay, projection, slices
from brightfield.volumes.volume import open_volume

if TYPE_CHECKING:
    import pandas as pd

    from brightfield.config.options import Config

type Row = dict[str, Any]

MAX_PICTURED = 60
"""Cells with a page of their own; a larger dataset shows the doubtful ones first and lists the others in the table."""

_RADIUS_EDGES_UM = (0.0, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 4.0, 8.0, 16.0)
_VERDICTS = ("ON", "ALONGSIDE", "NOT ON", "NO DATA")


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a chart: its name, value, share of the longest bar or of the whole (0 to 1), and colour."""

    name: str
    value: str
    share: float
    colour: str = "#5b7083"


@dataclass(frozen=True, slots=True)
class CellPage:
    """What is shown of one cell."""

    row: Row
    picture: Picture | None
    arbor: Overlay | None
    cuts: Sequence[tuple[Picture, Picture]]
    verdicts: Sequence[Bar]
    radii: Sequence[Bar]
    reasons: Sequence[Bar]
    facts: Mapping[str, str]
    findings: Sequence[Row]


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


def write_report(root: Path, config: Config, *, findings: Sequence[Finding], changes: str = "") -> Path:
    """Write the report, the metrics and the plots of the dataset below `root`; returns the page.

    findings: of the checks. changes: text of a comparison with an earlier version. Raises TableError where a table is missing.
    """
    material = Material(root, config, findings)
    for name, frame in plots(material).items():
        write_text(root / PLOTS_DIR / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n"))
    write_text(root / METRICS_FILE, json.dumps(metrics(material), indent=1, sort_keys=True) + "\n")
    return write_text(root / REPORT_FILE, _page(material, changes))


# ------------------------------------------------------------------------------------------------------------------------ numbers


def metrics(material: Material) -> dict[str, float | int]:
    """Flat numbers: cells, donors, path length and voxels by class, alignment, split, findings."""
    taken = material.taken
    found: dict[str, float | int] = {
        "cells_known": len(material.cells),
        "cells_selected": int(material.cells["selected"].sum()),
        "donors": int(taken["donor_id"].nunique()),
        "patches": len(read_table(PATCHES, material.root, columns=["specimen_id"])),
        "split_leaks": len(material.proof.leaks),
        "split_max_deviation_points": round(material.proof.max_deviation_points, 3),
        "bytes_images": _sum(taken, "image_bytes"),
        "bytes_labels": _sum(taken, "label_bytes"),
        "voxels_fetched": _sum(taken, "voxels_fetched"),
        "voxels_unknown": _sum(taken, "voxels_unknown"),
    }
    found |= {f"cells_{side}": int((material.manifest["split"] == side).sum()) for side in Split}
    found |= {f"path_um_{name}": round(float(taken[f"path_{name}_um"].sum()), 1) for name in LABEL_NAMES.values()}
    found |= {f"voxels_{name}": _sum(taken, f"voxels_{name}") for name in LABEL_NAMES.values()}
    found |= {f"cells_grade_{grade}": int((material.grades["grade"] == grade).sum()) for grade in ("A", "B", "C", "rejected")}
    found |= {f"findings_{level}": sum(f.severity is level for f in material.checks) for level in Severity}
    medians = {"d_prime_median": taken["alignment_d_prime"], "ignored_share_5um_median": taken["ignored_share_5um"]}
    found |= {name: round(float(values.median()), 4) for name, values in medians.items() if values.notna().any()}
    return found


def _sum(frame: pd.DataFrame, column: str) -> int:
    return int(frame[column].fillna(0).sum())


def plots(material: Material) -> dict[str, pd.DataFrame]:
    """Tables for `dvc plots`: path length and voxels by split and class, alignment per cell, unknown voxels by reason."""
    import pandas as pd

    sides = [side for side in Split if side is not Split.EXCLUDED]
    rows = [
        (side.value, name, round(float(of[f"path_{name}_um"].sum()), 1), _sum(of, f"voxels_{name}"))
        for side in sides
        for of in [material.taken[material.taken["split"] == side]]
        for name in LABEL_NAMES.values()
    ]
    classes = pd.DataFrame(rows, columns=["split", "class", "path_um", "voxels"])
    unknown = pd.DataFrame(list(_unknown(material.labels)), columns=["reason", "voxels"])
    aligned = material.grades[["specimen_id", "d_prime", "share_on", "grade"]].round(4)
    return {"classes": classes, "alignment": aligned, "unknown": unknown}


def _unknown(labels: pd.DataFrame) -> Iterator[tuple[str, int]]:
    for reason in Reason:
        name = str(reason.name).lower()
        yield name, _sum(labels, f"unknown_{name}")


# --------------------------------------------------------------------------------------------------------------------- the page


def _page(material: Material, changes: str) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("brightfield.stages.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "short": _short, "um": _length}
    pictured = _pictured(material.manifest)
    context = {
        "title": f"{len(material.taken)} cells, {material.taken['donor_id'].nunique()} donors",
        "metrics": metrics(material),
        "composition": _composition(material.taken),
        "legend": [(colour(label), name) for label, name in LABEL_NAMES.items()],
        "unknown_colour": colour(Label.UNKNOWN),
        "classes": _classes(material),
        "proof": material.proof,
        "strata": _records(material.proof.strata),
        "counts": _records(material.proof.counts),
        "limits": {"points": MAX_DEVIATION_POINTS, "cells": MIN_STRATUM_CELLS},
        "checks": material.checks,
        "alignment": _alignment(material),
        "not_taken": _not_taken(material),
        "cells": _records(material.manifest),
        "pages": [_cell_page(material, row) for row in watched(pictured, "pages")],
        "n_unpictured": int(material.manifest["image_path"].notna().sum()) - len(pictured),
        "changes": changes,
        "license_link": web_link(str(_first(material.manifest, ("license_url",))["license_url"])),
        "terms": _first(material.manifest, ("license", "license_url", "citation", "source_url", "code_version", "config_sha256")),
    }
    return environment.get_template("report.html.j2").render(context)


def _first(frame: pd.DataFrame, columns: Sequence[str]) -> Row:
    return {column: frame[column].iloc[0] if len(frame) else "" for column in columns}


def _records(frame: pd.DataFrame) -> list[Row]:
    """Rows with plain values, None where there is none."""
    plain = frame.astype(object).where(frame.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in plain.to_dict("records")]


def _pictured(manifest: pd.DataFrame) -> list[Row]:
    """The cells that get a page: all, or of many the doubtful ones (rejected, then lowest contrast), in the order of their ids."""
    has_image = manifest[manifest["image_path"].notna()]
    doubt = has_image.assign(sound=has_image["split"] != Split.EXCLUDED)
    chosen = doubt.sort_values(["sound", "alignment_d_prime", "specimen_id"], na_position="first").head(MAX_PICTURED)
    return _records(chosen.sort_values("specimen_id"))


def _composition(taken: pd.DataFrame) -> dict[str, list[Bar]]:
    """Cells by what they are."""
    columns = {
        "reconstruction": "reconstruction_type",
        "dendrites": "dendrite_type",
        "layer": "layer",
        "line": "line",
        "species": "species",
        "split": "split",
    }
    return {title: _counted(taken[column].fillna("not stated")) for title, column in columns.items()}


def _counted(values: pd.Series[Any]) -> list[Bar]:
    counts = sorted(values.value_counts().items(), key=lambda item: (-item[1], str(item[0])))
    return [Bar(str(name), str(n), n / len(values)) for name, n in counts]


def _classes(material: Material) -> list[Row]:
    """Path length and voxels of each class on each side, with its share of the class."""
    rows = _records(plots(material)["classes"])
    names = {name: colour(label) for label, name in LABEL_NAMES.items()}
    for row in rows:
        same = [other for other in rows if other["class"] == row["class"]]
        for what in ("path_um", "voxels"):
            whole = sum(other[what] for other in same)
            row[f"{what}_share"] = row[what] / whole if whole else 0.0
        row["colour"] = names[row["class"]]
    return rows


def _alignment(material: Material) -> list[Row]:
    """One row per cell, with the path length by verdict."""
    rows = _records(material.grades.sort_values("specimen_id"))
    for row in rows:
        row["verdicts"] = _verdicts(material.alignment[material.alignment["specimen_id"] == row["specimen_id"]])
    return rows


def _verdicts(stretches: pd.DataFrame) -> list[Bar]:
    tints = dict(zip(_VERDICTS, ("#2a9d5c", "#e0a526", "#c8442b", "#b5bcc4"), strict=True))
    whole = float(stretches["length_um"].sum()) or 1.0
    lengths = {verdict: float(stretches.loc[stretches["verdict"] == verdict, "length_um"].sum()) for verdict in _VERDICTS}
    return [Bar(verdict, _length(length), length / whole, tints[verdict]) for verdict, length in lengths.items() if length]


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


# --------------------------------------------------------------------------------------------------------------------- one cell


def _cell_page(material: Material, row: Row) -> CellPage:
    specimen_id = int(row["specimen_id"])
    nodes = read_table(NODES, material.root, specimen_id=specimen_id)
    stretches = material.alignment[material.alignment["specimen_id"] == specimen_id]
    labels = material.labels[material.labels["specimen_id"] == specimen_id]
    noticed = material.noticed[material.noticed["specimen_id"] == specimen_id]
    picture, arbor, cuts = _pictures(material.root, specimen_id, nodes)
    unknown = [(name, n) for name, n in _unknown(labels) if n and name != str(Reason.NOT_DOWNLOADED.name).lower()]
    most = max((n for _, n in unknown), default=1)
    return CellPage(
        row,
        picture,
        arbor,
        cuts,
        _verdicts(stretches),
        _radii(nodes),
        [Bar(name.replace("_", " "), number(n), n / most, colour(Label.UNKNOWN)) for name, n in unknown],
        _facts(row),
        _records(noticed),
    )


def _pictures(root: Path, specimen_id: int, nodes: pd.DataFrame) -> tuple[Picture | None, Overlay | None, list[tuple[Picture, Picture]]]:
    """Projection, arbor and slices; nothing where a volume cannot be read, which the checks tell."""
    try:
        image, labels = open_volume(root / image_store(specimen_id)), open_volume(root / label_store(specimen_id))
        tiles = read_table(TILES, root, specimen_id=specimen_id)
        cuts = slices(image, labels, centre_voxel(nodes, image.shape))
        return projection(image, tiles), overlay(nodes, image.shape[1:]), cuts
    except StackError:
        return None, None, []


def _radii(nodes: pd.DataFrame) -> list[Bar]:
    """Histogram of the traced radii of neurites (nodes without the soma)."""
    radius = nodes.loc[nodes["label"] != int(Label.SOMA), "radius_um"].to_numpy(np.float64)
    counts, edges = np.histogram(radius, _RADIUS_EDGES_UM)
    most = max(int(counts.max()), 1) if len(counts) else 1
    return [
        Bar(f"{low:g} to {high:g}", str(n), n / most)
        for n, low, high in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)
        if n
    ]


def _facts(row: Row) -> dict[str, str]:
    """The numbers of one cell, as text."""
    grid = [row["shape_z"], row["shape_y"], row["shape_x"]]
    size = [row["voxel_z_um"], row["voxel_y_um"], row["voxel_x_um"]]
    paths = ", ".join(f"{name} {_length(row[f'path_{name}_um'])}" for name in LABEL_NAMES.values() if row[f"path_{name}_um"])
    voxels = ", ".join(f"{name} {number(row[f'voxels_{name}'])}" for name in LABEL_NAMES.values() if row[f"voxels_{name}"])
    absent = ", ".join(name for name in LABEL_NAMES.values() if row[f"absent_{name}"] == "unknown")
    return {
        "donor": str(row["donor_id"]),
        "what": ", ".join(str(row[c]) for c in ("reconstruction_type", "dendrite_type", "line") if row[c]),
        "layer": str(row["layer"] or "not stated"),
        "side": str(row["split"]) + (f" ({row['reason']})" if row["reason"] else ""),
        "alignment": f"{row['alignment_grade'] or 'no grade'}, d' {number(row['alignment_d_prime'])}",
        "nodes, trees": f"{number(row['n_nodes'])}, {number(row['n_trees'])}",
        "path": paths,
        "voxels": voxels,
        "unknown": f"{number(row['voxels_unknown'])} voxels, {_percent(row['ignored_share_5um'])} within 5 um of the arbor",
        "absence is unknown for": absent or "no class",
        "grid (z, y, x)": " x ".join(number(n) for n in grid) + " voxels of " + " x ".join(number(v) for v in size) + " um",
        "downloaded": f"{number(row['voxels_fetched'])} voxels in {number(row['n_tiles'])} tiles, {number(row['n_tiles_missing'])} missing",
    }


def number(value: float | None) -> str:
    """A number for people: thousands apart, at most four digits after the point, a dash where there is none."""
    if value is None:
        return "–"
    if float(value).is_integer():
        return f"{int(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{value:.4g}"


def _short(value: float) -> str:
    """A large number in thousands, millions or billions."""
    for unit, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return number(value)


def _length(um: float | None) -> str:
    if um is None:
        return "–"
    return f"{um / 1000:.2f} mm" if um >= 1000 else f"{um:.0f} µm"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
