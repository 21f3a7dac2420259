"""How many requests the real neurons cost, before and after neighbouring tiles merge in both axes.

Run: python benchmarks/tile_requests.py [--every N]. Prints a table and writes benchmarks/results/tile_requests.json. Every real
reconstruction (BRIGHTFIELD_SHARED, or ../shared/data beside the checkout) is planned as a stack of the size that the cells table gives,
which ends 25 planes above the arbor, at the default options (10 % of background with the coverage `skeleton`): level 0 with every plane,
level 2 with every second, level 5 with every eighth. The last line plans all 509 rows of the cells table with all pixels at level 5, every
eighth of 409 planes.

Before: tiles of 512 pixels of full resolution at every level, background in blocks of one tile column, and requests that join neighbours of
a row up to 8192 pixels of full resolution. Pixels are what the requests bring, over the pixels of the tiles before.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from brightfield.config.options import CoverageKind, ImageConfig
from brightfield.core.cell import Cell, Plane, Stack
from brightfield.core.skeleton import Skeleton
from brightfield.core.swc import read_swc
from brightfield.stages.download import tiling
from brightfield.stages.download.plan import CellPlan, plan_cell

HERE = Path(__file__).parent
RESULT = HERE / "results" / "tile_requests.json"
SHARED = Path(os.environ.get("BRIGHTFIELD_SHARED") or HERE.parent.parent / "shared" / "data")
LEVELS = {0: 1, 2: 2, 5: 8}  # level: z_step
TILE_PX, WIDEST_PX, PLANES = 512, 8192, 409


def a_cell(specimen_id: int, row: pd.Series, n_planes: int) -> Cell:
    """A stack of the size that the cells table gives."""
    planes = tuple(Plane(k, k, k) for k in range(n_planes))
    stack = Stack(1, int(row["si__width"]), int(row["si__height"]), 0.1144, 0.28, planes)
    return Cell(specimen_id, str(specimen_id), 1, "Mus musculus", stack=stack)


def before(cell: Cell, skeleton: Skeleton | None, image: ImageConfig) -> tuple[int, int]:
    """Requests and pixels by the rule that was: rows of tiles within rows of shards."""
    roomy, tiling.ROOMY_TILES = tiling.ROOMY_TILES, 10**9
    plan = plan_cell(cell, skeleton, replace(image, tile_px=TILE_PX >> image.level))
    tiling.ROOMY_TILES = roomy
    z, y0, x0, x1 = (plan.tiles[name].to_numpy() for name in ("z", "y0", "x0", "x1"))
    joins = (z[1:] == z[:-1]) & (y0[1:] == y0[:-1]) & (x0[1:] == x1[:-1])
    n, left = 0, 0
    for row, joined in enumerate([False, *joins.tolist()]):
        if not joined or x1[row] - left > WIDEST_PX >> image.level:
            n, left = n + 1, x0[row]
    return n, plan.n_bytes


def after(cell: Cell, skeleton: Skeleton | None, image: ImageConfig) -> CellPlan:
    """The plan as it is now."""
    return plan_cell(cell, skeleton, image)


def main() -> None:
    """Count, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every N-th neuron")
    every = parser.parse_args().every
    table = pd.read_csv(SHARED / "cells" / "mouse_reconstructions_509.csv").set_index("specimen__id")
    neurons = [(int(path.stem), read_swc(path)) for path in sorted((SHARED / "swc").glob("[0-9]*.swc"))[::every]]
    cells = [a_cell(i, table.loc[i], int(np.ceil(skeleton.position_zyx_um[:, 0].max() / 0.28)) + 26) for i, skeleton in neurons]
    rows = []
    for level, z_step in LEVELS.items():
        for coverage in CoverageKind:
            image = ImageConfig(coverage=coverage, level=level, z_step=z_step, shard_zyx=[32, 512, 512])
            old = np.zeros(2, np.int64)
            started, new = time.process_time(), np.zeros(4, np.int64)
            for cell, (_, skeleton) in zip(cells, neurons, strict=True):
                plan = after(cell, skeleton, image)
                new += [plan.n_requests, plan.n_bytes_asked, plan.n_bytes, plan.n_planes]
            seconds = time.process_time() - started
            for cell, (_, skeleton) in zip(cells, neurons, strict=True):
                old += before(cell, skeleton, image)
            row = {"level": level, "z_step": z_step, "coverage": coverage.value, "planes": int(new[3]), "before": int(old[0])}
            row |= {"after": int(new[0]), "of_before": new[0] / old[0], "a_plane": new[0] / new[3], "pixels": new[1] / old[1]}
            rows.append(row | {"kept": new[2] / old[1], "plan_cpu_s": seconds})
            print(
                f"level {level} {coverage.value:8} {new[3]:7,} planes: {old[0]:9,} -> {new[0]:9,} requests ({new[0] / old[0]:.3f}), "
                f"{new[0] / new[3]:5.2f} a plane, pixels x {new[1] / old[1]:.3f} ({new[2] / old[1]:.3f} kept), {seconds:.1f} s CPU",
                flush=True,
            )
    whole = ImageConfig(coverage=CoverageKind.full, level=5, z_step=8, shard_zyx=[32, 512, 512])
    started = time.process_time()
    plans = [plan_cell(a_cell(int(i), row, PLANES), None, whole) for i, row in table.iterrows()]
    requests, planes = sum(plan.n_requests for plan in plans), sum(plan.n_planes for plan in plans)
    seconds = time.process_time() - started
    print(f"all {len(plans)} cells, full at level 5: {requests:,} requests for {planes:,} planes, {requests / planes:.2f} a plane")
    result = {"neurons": len(neurons), "rows": rows, "all_cells": {"requests": requests, "planes": planes, "plan_cpu_s": seconds}}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
