"""Planning the download of real cells, against the two seconds that four of them may take and against reading their skeletons.

Run: python benchmarks/plan.py [--repeats 3]. Prints a table and writes benchmarks/results/plan.json. Every four of the real reconstructions
(BRIGHTFIELD_SHARED, or ../shared/data beside the checkout) are planned together, as stacks of 500 planes of the size that the cells table
gives, at the default options, totals included. Reading is the time that parsing the same SWC files takes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from itertools import batched
from pathlib import Path

import numpy as np
import pandas as pd

from brightfield.config.options import ImageConfig
from brightfield.core.cell import Cell, Plane, Stack
from brightfield.core.skeleton import Skeleton
from brightfield.core.swc import read_swc
from brightfield.stages.download.estimate import CellSums, Pace, Plan
from brightfield.stages.download.plan import plan_cell

HERE = Path(__file__).parent
RESULT = HERE / "results" / "plan.json"
SHARED = Path(os.environ.get("BRIGHTFIELD_SHARED") or HERE.parent.parent / "shared" / "data")
LIMIT_S, CELLS, PLANES = 2.0, 4, 500


def a_cell(specimen_id: int, width_px: int, height_px: int) -> Cell:
    """A stack of `PLANES` planes."""
    planes = tuple(Plane(k, k, k) for k in range(PLANES))
    return Cell(specimen_id, str(specimen_id), 1, "Mus musculus", stack=Stack(1, width_px, height_px, 0.1144, 0.28, planes))


def plan_of(cells: list[Cell], skeletons: list[Skeleton]) -> Plan:
    """The plan of some cells, its sums and its text made."""
    plan = Plan(tuple(CellSums.of(plan_cell(cell, skeleton, ImageConfig())) for cell, skeleton in zip(cells, skeletons, strict=True)))
    plan.as_text(Pace())
    return plan


def best_s(repeats: int, run: Callable[[], object]) -> float:
    """Seconds of the quickest of several runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    table = pd.read_csv(SHARED / "cells" / "mouse_reconstructions_509.csv").set_index("specimen__id")
    paths = sorted((SHARED / "swc").glob("[0-9]*.swc"))
    rows = []
    for some in batched(paths, CELLS):
        ids = [int(path.stem) for path in some]
        cells = [a_cell(i, int(table.loc[i, "si__width"]), int(table.loc[i, "si__height"])) for i in ids]
        skeletons = [read_swc(path) for path in some]
        reading = best_s(repeats, lambda some=some: [read_swc(path) for path in some])
        planning = best_s(repeats, lambda cells=cells, skeletons=skeletons: plan_of(cells, skeletons))
        totals = plan_of(cells, skeletons).totals
        nodes = sum(len(skeleton.parent) for skeleton in skeletons)
        rows.append({"cells": ids, "nodes": nodes, "bytes": totals["bytes"], "plan_s": planning, "read_s": reading})
        print(f"{nodes:7,} nodes, {totals['bytes'] / 1e9:5.1f} GB: {planning:.3f} s, {planning / reading:.1f} x reading")
    worst = max(row["plan_s"] for row in rows)
    ratio = float(np.median([row["plan_s"] / row["read_s"] for row in rows]))
    print(
        f"the slowest {CELLS} cells take {worst / LIMIT_S:.2f} of {LIMIT_S:g} s; a plan takes {ratio:.1f} x reading its skeletons (median)"
    )
    RESULT.write_text(json.dumps({"rows": rows, "worst_of_limit": worst / LIMIT_S, "median_of_reading": ratio}, indent=2) + "\n")


if __name__ == "__main__":
    main()
