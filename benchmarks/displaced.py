"""Stretches of exact traces, and of traces that leave their stain in pieces: how often alignment says so, rightly and wrongly.

Run: python benchmarks/displaced.py [--seed 8] [--cells ID ...] [--plants N]. Prints a table, writes results/displaced.json.
Cells of the demo of another seed than the built one (7) are rendered at level 2, every second plane, and aligned with exact traces, and
with pieces of 40 um, 5 % of the path, moved sideways by 2 um. Per cent of path length, axon and other apart:
alarm      of an exact trace what is NOT ON or ALONGSIDE; uncertain: what is UNCERTAIN
found      of displaced pieces what labels that look at the image mask; pieces: the share of pieces of which at least half is
lost       of the path in place, beside displaced pieces, what is masked
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np

from brightfield.config.options import AlignConfig, LabelsConfig
from brightfield.core.codes import Label, Verdict
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import download_grid
from brightfield.sources.demo.cells import demo_cells
from brightfield.sources.demo.phantom import Phantom
from brightfield.sources.demo.rendering import render_crop
from brightfield.stages.align.absorbance import Pixels
from brightfield.stages.align.cell import align_cell
from brightfield.stages.rasterize.misregistered import StretchVerdict, wrong_nodes
from brightfield.testing.skeletons import displaced

RESULT = Path(__file__).resolve().parent / "results" / "displaced.json"
LEVEL, Z_STEP = 2, 2
CELLS = (900_000_001, 900_000_003, 900_000_009, 900_000_010, 900_000_012, 900_000_014)


def rendered(phantom: Phantom) -> Pixels:
    """The stack of a phantom, in memory."""
    grid = download_grid(phantom.grid, LEVEL, Z_STEP)
    n_z, n_y, n_x = grid.shape_zyx
    stack = np.stack([render_crop(phantom, z * Z_STEP, 0, 0, n_y << LEVEL, n_x << LEVEL, LEVEL) for z in range(n_z)])
    return Pixels(grid, lambda window: stack[tuple(slice(*axis) for axis in window)])


def verdicts_of(specimen_id: int, skeleton: Skeleton, pixels: Pixels) -> tuple[list[str], np.ndarray, str]:
    """The verdict of the edge of every node, whether it is masked, and the grade of the cell."""
    gates = AlignConfig()
    found = align_cell(specimen_id, skeleton, pixels, gates, LabelsConfig().r_min_um)
    of_stretch = {row["stretch"]: str(row["verdict"]) for row in found.stretches}
    number, masked = skeleton.stretches(gates.stretch_um), np.zeros(len(skeleton), bool)
    for nodes, _ in wrong_nodes(skeleton, number, {row["stretch"]: StretchVerdict.of(row) for row in found.stretches}):
        masked[nodes] = True
    return [of_stretch.get(k, "none") for k in number.tolist()], masked, str(found.cell["grade"])


def measure_cell(specimen_id: int, skeleton: Skeleton, pixels: Pixels, plants: int, total: Counter) -> list[str]:
    """Add the lengths of one cell to `total`, by (what, axon or other); the grades."""
    part = np.where(skeleton.label == Label.AXON, "axon", "other").tolist()
    verdicts, _, grade = verdicts_of(specimen_id, skeleton, pixels)
    grades = [grade]
    for name, verdict, um in zip(part, verdicts, skeleton.edge_length_um.tolist(), strict=True):
        total[f"exact {verdict}", name] += um * (verdict not in ("none", Verdict.NO_DATA))
    for plant in range(plants):
        moved, piece, between = displaced(skeleton, 1000 * plant + specimen_id % 1000)
        verdicts, flagged, grade = verdicts_of(specimen_id, moved, pixels)
        grades.append(grade)
        um = moved.edge_length_um
        for k in range(len(moved)):
            if not between[k] and verdicts[k] != "none":
                total[("displaced" if piece[k] else "in place") + (" flagged" if flagged[k] else " not"), part[k]] += um[k]
        for number in range(1, piece.max() + 1):
            own = piece == number
            total["piece found" if um[own & flagged].sum() >= um[own].sum() / 2 else "piece missed", "all"] += 1
    return grades


def share(total: Counter, chosen: tuple[str, ...], prefix: str, part: str) -> float:
    """Per cent of the lengths that begin with a prefix."""
    whole = sum(um for (what, name), um in total.items() if what.startswith(prefix) and part in (name, "all"))
    some = sum(um for (what, name), um in total.items() if what in chosen and part in (name, "all"))
    return round(100 * float(some) / max(float(whole), 1e-9), 2)


def summary(total: Counter) -> dict[str, dict[str, float]]:
    """The table."""
    return {
        part: {
            "alarm": share(total, ("exact NOT ON", "exact ALONGSIDE"), "exact", part),
            "uncertain": share(total, ("exact UNCERTAIN",), "exact", part),
            "found": share(total, ("displaced flagged",), "displaced", part),
            "pieces": share(total, ("piece found",), "piece", "all"),
            "lost": share(total, ("in place flagged",), "in place", part),
        }
        for part in ("axon", "other", "all")
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=8, help="of the demo whose cells are rendered (the built one has 7)")
    parser.add_argument("--cells", type=int, nargs="*", default=list(CELLS), help="specimen ids of the demo")
    parser.add_argument("--plants", type=int, default=2, help="how often pieces are displaced in every cell")
    options = parser.parse_args()
    total: Counter = Counter()
    grades: dict[str, list[str]] = {}
    for cell in demo_cells(options.seed):
        if cell.specimen_id in options.cells and cell.phantom is not None:
            skeleton = cell.phantom.skeleton
            grades[str(cell.specimen_id)] = measure_cell(cell.specimen_id, skeleton, rendered(cell.phantom), options.plants, total)
            print(cell.specimen_id, grades[str(cell.specimen_id)], flush=True)
    table = summary(total)
    for part, row in table.items():
        print(part, row)
    RESULT.write_text(json.dumps({"summary": table, "grades": grades}, indent=2) + "\n")


if __name__ == "__main__":
    main()
