"""What the whole cells table costs at full resolution: `brightfield plan` of its 509 mouse reconstructions, through a mirror on loopback.

Run: python benchmarks/terabyte.py [--level 0] [--z-step 1] [--json FILE]. The rows are those of the real table, the skeletons the real ones
(BRIGHTFIELD_SHARED, or ../shared/data beside the checkout): a cell whose skeleton is not there takes one of its own kind (full or
dendrite-only), in turn, with that one's stack. A stack ends 25 planes above the arbor. Prints the plan, with processor seconds and peak
memory of the command, the query of the mirror included.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brightfield.core.cell import Cell, Plane, Stack
from brightfield.core.swc import read_swc
from brightfield.sources.mirror.catalog import Picture
from brightfield.sources.mirror.records import tables_of
from brightfield.sources.mirror.rma import Tables
from brightfield.sources.mirror.server import serve

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("BRIGHTFIELD_SHARED") or HERE.parent.parent / "shared" / "data")
PIXEL_UM, PLANE_UM = 0.1144, 0.28
KEPT = ("cells", "planes", "tiles", "requests", "bytes", "bytes_asked", "wire_bytes_todo", "disk_bytes_todo", "seconds_todo", "pace")
BRIGHTFIELD = (sys.executable, "-c", "import sys; from brightfield import cli; sys.exit(cli.main())")


@dataclass(frozen=True)
class Grey:
    """A picture of its size without anything dark."""

    width_px: int
    height_px: int

    def read(self, level: int, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:  # noqa: ARG002 - a Picture
        """The box."""
        return np.full((height >> level, width >> level), 185, np.uint8)


@dataclass(frozen=True)
class Catalog:
    """What the mirror serves: the file of a cell has its number, its projection the next but one."""

    tables: Tables
    files: dict[int, Path]
    pictures: dict[int, Grey]

    def file(self, file_id: int) -> bytes | None:
        """An SWC."""
        return self.files[file_id].read_bytes() if file_id in self.files else None

    def picture(self, image_id: int) -> Picture | None:
        """A projection; planes are never asked for."""
        return self.pictures.get(image_id)


def cells_of_table() -> Iterator[tuple[Cell, Path]]:
    """Every row with the skeleton that it has or takes."""
    with (SHARED / "cells" / "mouse_reconstructions_509.csv").open(newline="") as file:
        rows = {int(row["specimen__id"]): row for row in csv.DictReader(file)}
    there = {int(path.stem): path for path in sorted((SHARED / "swc").glob("[0-9]*.swc")) if int(path.stem) in rows}
    planes = {i: int(np.ceil(read_swc(path).position_zyx_um[:, 0].max() / PLANE_UM)) + 26 for i, path in there.items()}
    alike = {kind: [i for i in there if rows[i]["nr__reconstruction_type"] == kind] for kind in ("full", "dendrite-only")}
    turn = {kind: count() for kind in alike}
    for i, row in rows.items():
        kind = row["nr__reconstruction_type"]
        own = i if i in there else alike[kind][next(turn[kind]) % len(alike[kind])]
        width, height = int(rows[own]["si__width"]), int(rows[own]["si__height"])
        first = 10_000 * i
        stack = Stack(first, width, height, PIXEL_UM, PLANE_UM, tuple(Plane(k, k, first + 3 + k) for k in range(planes[own])), first + 2)
        url = f"/api/v2/well_known_file_download/{first}"
        known = {"reconstruction_id": first, "reconstruction_type": kind, "swc_file_id": first, "swc_url": url}
        yield Cell(i, row["specimen__name"], int(row["donor__id"]), "Mus musculus", stack=stack, **known), there[own]


def main() -> None:
    """Serve, plan, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--level", type=int, default=0)
    parser.add_argument("--z-step", type=int, default=1)
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    cells, paths = zip(*cells_of_table(), strict=True)
    sizes = {cell.specimen_id: Grey(cell.stack.width_px, cell.stack.height_px) for cell in cells}
    files = {10_000 * cell.specimen_id: path for cell, path in zip(cells, paths, strict=True)}
    catalog = Catalog(tables_of(cells), files, {10_000 * i + 2: size for i, size in sizes.items()})
    with serve(catalog) as mirror, tempfile.TemporaryDirectory() as folder:
        shutil.copytree(HERE.parent / "conf", Path(folder) / "conf", ignore=shutil.ignore_patterns("local"))
        options = ["source=allen", "source.accept_terms=true", f"source.base_url={mirror.base_url}", "image.max_gb=1e6"]
        options += [f"image.level={words.level}", f"image.z_step={words.z_step}"]
        done = subprocess.run([*BRIGHTFIELD, "plan", "--json", *options], cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    plan = json.loads(done.stdout)
    details = plan.pop("cells_detail")
    plan = {name: value for name, value in plan.items() if name in KEPT}
    kinds = {cell.specimen_id: cell.reconstruction_type for cell in cells}
    for kind in ("full", "dendrite-only"):
        some = [cell["bytes"] for cell in details if kinds[cell["specimen_id"]] == kind]
        plan[kind] = {"cells": len(some), "mean_bytes": float(np.mean(some)), "median_bytes": float(np.median(some))}
    plan |= {"level": words.level, "z_step": words.z_step, "cpu_s": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024}
    plan |= {"load": os.getloadavg()[0]}
    print(json.dumps(plan, indent=1))
    if words.json:
        words.json.write_text(json.dumps(plan, indent=1) + "\n")


if __name__ == "__main__":
    main()
