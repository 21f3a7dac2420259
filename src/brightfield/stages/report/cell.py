"""The page of one cell: pictures, numbers, what was noticed. Made by that cell's own work, from nothing but its own material."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from brightfield.core.codes import LABEL_NAMES, VERDICT_COLOURS_RGB, Label, Reason, css
from brightfield.core.files import write_bytes, write_text
from brightfield.core.layout import cell_page, image_store, label_store
from brightfield.stages.report import figures
from brightfield.stages.report.material import CellMaterial, Row
from brightfield.stages.report.numbers import length, number, percent, unknown_by_reason
from brightfield.stages.report.pictures import (
    Overlay,
    Picture,
    centre_voxel,
    colour,
    overlay,
    projection,
    save,
    slices,
    thumbnail,
)
from brightfield.stages.report.rendering import render
from brightfield.volumes.volume import open_volume

if TYPE_CHECKING:
    import pandas as pd

THUMBNAIL = "thumbnail.jpg"
"""The small picture beside the page; absent where the volumes are not there."""

TEMPLATES = ("cell.html.j2", "macros.html.j2")


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its name, value, share of the longest bar or of the whole (0 to 1), and colour."""

    name: str
    value: str
    share: float
    colour: str = figures.BAR


@dataclass(frozen=True, slots=True)
class Seen:
    """The pictures of a cell: projection, arbor, cuts (raw, with labels)."""

    picture: Picture
    arbor: Overlay
    cuts: Sequence[tuple[Picture, Picture]]


def draw_cell(out: Path, root: Path, cell: CellMaterial) -> None:
    """The page of one cell below `out`, with its pictures. Raises StackError for a volume that is there and cannot be read."""
    page = out / cell_page(cell.specimen_id)
    unknown = [(name, n) for name, n in unknown_by_reason(cell.labels) if n and name != str(Reason.NOT_DOWNLOADED.name).lower()]
    most = max((n for _, n in unknown), default=1)
    write_bytes(page.with_name("radii.svg"), figures.radii(cell.nodes, width_in=4.4))
    text = render(
        TEMPLATES[0],
        row=cell.row,
        seen=_pictures(root, cell, page.parent) if cell.has_volumes else None,
        verdicts=verdicts(lengths_by_verdict(cell.stretches).get(cell.specimen_id, {})),
        reasons=[Bar(name.replace("_", " "), number(n), n / most, colour(Label.UNKNOWN)) for name, n in unknown],
        facts=_facts(cell.row) | _alignment(cell.grade),
        noticed=cell.noticed,
        checks=cell.checks,
        legend=[(colour(label), name) for label, name in LABEL_NAMES.items()],
        unknown_colour=colour(Label.UNKNOWN),
    )
    write_text(page, text)


def _pictures(root: Path, cell: CellMaterial, folder: Path) -> Seen:
    image, labels = open_volume(root / image_store(cell.specimen_id)), open_volume(root / label_store(cell.specimen_id))
    below = projection(image, cell.tiles)
    save(thumbnail(below, cell.nodes, image.shape[1:]), folder / THUMBNAIL, "")
    cuts = []
    for cut in slices(image, labels, centre_voxel(cell.nodes, image.shape)):
        raw = save(cut.raw, folder / f"image_{cut.name[-1]}.png", f"image {cut.name}")
        cuts.append((raw, save(cut.tinted, folder / f"labels_{cut.name[-1]}.png", f"labels {cut.name}")))
    picture = save(below, folder / "projection.png", "minimum projection along z")
    return Seen(picture, overlay(cell.nodes, image.shape[1:]), cuts)


def verdicts(lengths: Mapping[str, float]) -> list[Bar]:
    """Path length (um) by verdict, as shares of all of it."""
    whole = sum(lengths.values()) or 1.0
    found = [(verdict, lengths.get(verdict.value, 0.0)) for verdict in VERDICT_COLOURS_RGB]
    return [Bar(verdict.value, length(um), um / whole, css(VERDICT_COLOURS_RGB[verdict])) for verdict, um in found if um]


def lengths_by_verdict(stretches: pd.DataFrame) -> dict[int, dict[str, float]]:
    """Path length (um) by verdict, of every cell in `stretches` (`schema.ALIGNMENT`)."""
    found: dict[int, dict[str, float]] = {}
    columns = (stretches[name].tolist() for name in ("specimen_id", "verdict", "length_um"))
    for specimen_id, verdict, um in zip(*columns, strict=True):
        lengths = found.setdefault(specimen_id, {})
        lengths[verdict] = lengths.get(verdict, 0.0) + um
    return found


def _facts(row: Row) -> dict[str, str]:
    """The numbers of one cell, as text."""
    grid = [row["shape_z"], row["shape_y"], row["shape_x"]]
    size = [row["voxel_z_um"], row["voxel_y_um"], row["voxel_x_um"]]
    paths = ", ".join(f"{name} {length(row[f'path_{name}_um'])}" for name in LABEL_NAMES.values() if row[f"path_{name}_um"])
    voxels = ", ".join(f"{name} {number(row[f'voxels_{name}'])}" for name in LABEL_NAMES.values() if row[f"voxels_{name}"])
    absent = ", ".join(name for name in LABEL_NAMES.values() if row[f"absent_{name}"] == "unknown")
    return {
        "donor": str(row["donor_id"]),
        "what": ", ".join(str(row[c]) for c in ("reconstruction_type", "dendrite_type", "line") if row[c]),
        "layer": str(row["layer"] or "not stated"),
        "side": str(row["split"]) + (f" ({row['reason']})" if row["reason"] else ""),
        "nodes, trees": f"{number(row['n_nodes'])}, {number(row['n_trees'])}",
        "path": paths,
        "voxels": voxels,
        "unknown": f"{number(row['voxels_unknown'])} voxels, {percent(row['ignored_share_5um'])} within 5 µm of the arbor",
        "absence is unknown for": absent or "no class",
        "grid (z, y, x)": " x ".join(number(n) for n in grid) + " voxels of " + " x ".join(number(v) for v in size) + " µm",
        "downloaded": f"{number(row['voxels_fetched'])} voxels in {number(row['n_tiles'])} tiles, {number(row['n_tiles_missing'])} missing",
    }


def _alignment(grade: Row) -> dict[str, str]:
    """How the skeleton lies on the stain."""
    if not grade:
        return {"alignment": "not measured"}
    shifts = ", ".join(_signed(grade[f"shift_{axis}_um"]) for axis in "yxz")
    found = {
        "alignment": f"{grade['grade']}, d′ {number(grade['d_prime'], 1)}, {percent(grade['share_on'], 0)} of the path on its stain",
        "d′ of dendrite, axon": f"{number(grade['d_prime_dendrite'], 1)}, {number(grade['d_prime_axon'], 1)}",
        "best transform": str(grade["best_transform"]),
        "shift y, x, z": f"{shifts} µm",
    }
    return found | ({"why rejected": str(grade["reason"])} if grade["reason"] else {})


def _signed(um: float | None) -> str:
    return "–" if um is None else f"{round(um, 2) + 0.0:+.2f}"  # no -0.00
