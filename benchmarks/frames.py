"""Planted shifts and wrong frames: what alignment says of cells whose skeleton was moved, scaled or mirrored.

Run: python benchmarks/frames.py [--dataset ROOT] [--cells N]. Prints a table, writes results/frames.json.
Every clean cell of a built dataset (by default the demo in this repository) is aligned as it is, and displaced in the plane by 0.25, 0.5
and 0.7 um in a direction of its own, in z by 3 um, with z scaled, mirrored, and with x and y exchanged. "flagged": rejected, or told by the
WARNING of the checks. "off": how far the measured shift is from the planted one. "named": the frame is called by its name, a z scale by its
number to 0.03.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from math import cos, hypot, pi, sin
from pathlib import Path

import numpy as np
import pandas as pd

from brightfield.config.options import AlignConfig, LabelsConfig
from brightfield.core.codes import Grade
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid
from brightfield.core.swc import read_swc
from brightfield.sources.demo.phantom import shifted
from brightfield.stages.align.absorbance import Pixels
from brightfield.stages.align.cell import align_cell
from brightfield.stages.manifest.checks import SHIFT_WARNING_UM
from brightfield.testing.skeletons import flipped, z_scaled
from brightfield.volumes.volume import open_volume

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "frames.json"
SHIFTS_UM = (0.0, 0.25, 0.5, 0.7)
Z_SCALES = (0.85, 0.9, 0.95, 1.05, 1.1, 1.15, 1.2)


def planted(skeleton: Skeleton, grid: Grid, direction: float) -> Iterator[tuple[str, str, Skeleton, tuple[float, float]]]:
    """Kind of fault, the name it should have, the skeleton that has it, and its shift (y, x) um."""
    for size_um in SHIFTS_UM:
        y, x = size_um * sin(direction), size_um * cos(direction)
        yield f"shift {size_um}", "shift" if size_um else "identity", shifted(skeleton, (0.0, y, x)), (y, x)
    yield "shift z 3", "shift", shifted(skeleton, (3.0, 0.0, 0.0)), (0.0, 0.0)
    for factor in Z_SCALES:
        yield f"z scale {factor}", f"z scale {1 / factor}", z_scaled(skeleton, factor), (0.0, 0.0)
    for axis, name in enumerate(("flip z", "flip y", "flip x")):
        yield name, name, flipped(skeleton, grid, axis), (0.0, 0.0)
    yield "transpose xy", "transpose xy", skeleton.moved_to(skeleton.position_zyx_um[:, [0, 2, 1]]), (0.0, 0.0)


def is_named(found: str, name: str) -> bool:
    """Whether a frame is called by its name; the number of a z scale may be off by 0.03."""
    if name.startswith("z scale"):
        return found.startswith("z scale") and abs(float(found.split()[-1]) - float(name.split()[-1])) <= 0.03
    return found == name


def measure_cell(specimen_id: int, skeleton: Skeleton, pixels: Pixels) -> list[dict[str, object]]:
    """What is said of one cell, clean and with every fault."""
    rows: list[dict[str, object]] = []
    for kind, name, moved, (y, x) in planted(skeleton, pixels.grid, 2 * pi * ((specimen_id * 0.618034) % 1.0)):
        cell = align_cell(specimen_id, moved, pixels, AlignConfig(), LabelsConfig().r_min_um).cell
        found_y, found_x = cell["shift_y_um"] or 0.0, cell["shift_x_um"] or 0.0
        rejected = cell["grade"] == Grade.REJECTED
        rows.append(
            {
                "cell": specimen_id,
                "planted": kind,
                "grade": str(cell["grade"]),
                "found": cell["best_transform"],
                "named": is_named(cell["best_transform"], name),
                "flagged": bool(rejected or hypot(found_y, found_x) > SHIFT_WARNING_UM),
                "off_um": round(hypot(found_y + y, found_x + x), 4),
            }
        )
    return rows


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, default=HERE.parent, help="a repository with a built dataset (default: this one)")
    parser.add_argument("--cells", type=int, default=None, help="only the first N cells")
    options = parser.parse_args()
    ledger = pd.read_parquet(options.dataset / "data" / "tiles.parquet")
    rows: list[dict[str, object]] = []
    for path in sorted((options.dataset / "data" / "images").glob("*.zarr"))[: options.cells]:
        specimen_id, volume = int(path.stem), open_volume(path)
        came = ledger[(ledger["specimen_id"] == specimen_id) & (ledger["state"] == "ok")]
        pixels = Pixels(volume.grids[0], volume.read, came[["z", "y0", "y1", "x0", "x1"]].to_numpy(np.int64))
        skeleton = read_swc(options.dataset / "data" / "skeletons" / f"{specimen_id}.swc")
        of_cell = measure_cell(specimen_id, skeleton, pixels)
        if of_cell[0]["grade"] != Grade.REJECTED:  # the demo has a cell that is misregistered on purpose
            rows += of_cell
    table = pd.DataFrame(rows).groupby("planted", sort=False)
    summary = table.agg(cells=("cell", "size"), flagged=("flagged", "sum"), named=("named", "sum"), off_um=("off_um", "max"))
    print(summary.to_string())
    RESULT.write_text(json.dumps({"summary": summary.reset_index().to_dict("records"), "cells": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
