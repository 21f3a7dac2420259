"""Alignment of cells: against bare reading of the same image chunks, and against the same measures written out in numpy.

Run: python benchmarks/align.py [--dataset ROOT] [--data FOLDER] [--cells N]. Prints a table, writes results/align.json.
Two sets of cells. "level 2" (or what its configuration says): every cell of a built dataset, as its stage reads it; by default the demo in
this repository. "level 5": real skeletons rendered as phantoms, every 8th plane, the whole canvas. Each cell is measured in a process of
its own, kernels compiled before the clock starts. "bare" reads and decodes every stored chunk once, in the same process; "ratio" is the
CPU time of the cell over it. "oracle" is `tests/alignment_oracle.py` on a few stretches of the cell, per stretch, with the absorbance at
hand; "same" says whether its rows are those of the kernels. Times are the least of three turns, memory is the high-water mark of the whole
process in the first. Read the ratios: seconds are of this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from rasterize_peers import begin, resident_kb

from brightfield.config.options import AlignConfig, LabelsConfig
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid, download_grid
from brightfield.core.swc import read_swc, write_swc
from brightfield.sources.demo.phantom import ArborPlan, Optics, Phantom, canvas, grow
from brightfield.sources.demo.rendering import render_crop
from brightfield.stages.align.absorbance import Pixels
from brightfield.stages.align.cell import Alignment, align_cell
from brightfield.volumes.volume import Volume, create_volume, open_volume

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "align.json"
LEVEL, Z_STEP = 5, 8
TURNS, ORACLE_STRETCHES = 3, 4
R_MIN_UM = LabelsConfig().r_min_um
KEYS = ("cpu_s", "bare_cpu_s", "cpu_over_bare", "ms_per_stretch", "oracle_ms_per_stretch", "oracle_over_kernels", "peak_mb")


class Lazy:
    """The absorbance of a whole stack, computed where it is cut out: what the oracle takes for an array."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels

    def __getitem__(self, box: tuple[slice, slice, slice]) -> np.ndarray:
        z, y, x = ((int(axis.start), int(axis.stop)) for axis in box)
        return self.pixels.absorbance((z, y, x))


def clocked(function):
    """CPU seconds of a call, and what it returns."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def warm_up() -> None:
    """Every kernel compiled, on a cell of a few stretches."""
    grid = Grid((30, 120, 120), (0.56, 0.4576, 0.4576))
    tiles = np.array([(z, 0, 120, 0, 120) for z in range(30)])
    tissue = np.full(grid.shape_zyx, 189, np.uint8)
    arbor = grow(ArborPlan(8, (16.0, 50.0, 50.0), n_basal=2, reach_um=20.0, axon_um=20.0))
    align_cell(1, arbor, Pixels(grid, lambda box: tissue[tuple(slice(*axis) for axis in box)], tiles), AlignConfig(), R_MIN_UM)


def read_chunks(volume: Volume) -> None:
    """Every stored chunk of the finest level, once."""
    spec = volume.specs[0]
    for index in volume.stored_chunks():
        z, y, x = ((int(i * c), int(min((i + 1) * c, n))) for i, c, n in zip(index, spec.chunk_zyx, spec.shape_zyx, strict=True))
        volume.read((z, y, x))


def oracle_figures(specimen_id: int, skeleton: Skeleton, pixels: Pixels, found: Alignment) -> dict[str, float | bool]:
    """Seconds of the oracle per stretch, over a few stretches spread over the cell, and whether its rows are those found."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from alignment_oracle import Oracle, paths_of

    oracle = Oracle(skeleton, Lazy(pixels.holding()), pixels.grid, AlignConfig(), R_MIN_UM)
    paths = list(paths_of(skeleton, oracle.gates.stretch_um, R_MIN_UM))
    draws = np.random.Generator(np.random.PCG64(specimen_id)).random((len(paths), 60, 5))
    chosen = range(0, len(paths), -(-len(paths) // ORACLE_STRETCHES))
    seconds, rows = clocked(lambda: [{"specimen_id": specimen_id, **oracle.row(paths[k], draws[k])} for k in chosen])
    return {"oracle_ms_per_stretch": 1e3 * seconds / len(rows), "same": rows == [found.stretches[k] for k in chosen]}


def measure_cell(folder: Path, specimen_id: int) -> dict[str, float | int | str | bool]:
    """One cell, in this process: measured and read, by turns; the least of each, but memory as of the first."""
    skeleton, volume = read_swc(folder / "skeleton.swc"), open_volume(folder / "image.zarr")
    tiles = np.load(folder / "tiles.npy")
    warm_up()
    begin()
    turns, peak_mb = [], 0
    for _ in range(TURNS):
        pixels = Pixels(volume.grids[0], volume.read, tiles)
        cpu, found = clocked(lambda p=pixels: align_cell(specimen_id, skeleton, p, AlignConfig(), R_MIN_UM))
        peak_mb = peak_mb or resident_kb("VmHWM") // 1024
        turns.append((cpu, clocked(lambda: read_chunks(volume))[0]))
    cpu, bare = (min(column) for column in zip(*turns, strict=True))
    oracle = oracle_figures(specimen_id, skeleton, pixels, found)
    n = len(found.stretches)
    return {
        "cell": str(specimen_id),
        "voxel_um": volume.grids[0].voxel_size_zyx_um,
        "stretches": n,
        "path_um": round(float(skeleton.edge_length_um.sum())),
        "mvoxel": round(float(((tiles[:, 2] - tiles[:, 1]) * (tiles[:, 4] - tiles[:, 3])).sum()) / 1e6, 2),
        "cpu_s": cpu,
        "bare_cpu_s": bare,
        "cpu_over_bare": cpu / bare,
        "ms_per_stretch": 1e3 * cpu / n,
        **oracle,
        "oracle_over_kernels": oracle["oracle_ms_per_stretch"] / (1e3 * cpu / n),
        "peak_mb": peak_mb,
    }


def lay_out_rendered(swc: Path, folder: Path) -> None:
    """A real skeleton's whole canvas at a coarse level, in `folder` as `measure_cell` takes it."""
    skeleton = read_swc(swc)
    skeleton = skeleton.moved_to(skeleton.position_zyx_um + np.maximum(-skeleton.position_zyx_um.min(axis=0), 0))
    seed, (n_planes, height, width) = int(swc.stem) % 100_000, canvas(skeleton)
    phantom = Phantom(skeleton, n_planes, height, width, seed, optics=Optics.drawn(seed), debris_per_mm3=2000.0)
    grid = download_grid(phantom.grid, LEVEL, Z_STEP)
    n_z, n_y, n_x = grid.shape_zyx
    voxels = np.stack([render_crop(phantom, k * Z_STEP, 0, 0, n_y << LEVEL, n_x << LEVEL, LEVEL) for k in range(n_z)])
    volume = create_volume(folder / "image.zarr", [grid], np.uint8, chunk_zyx=(16, 64, 64), shard_zyx=(32, 512, 512))
    for shard in np.ndindex(volume.specs[0].n_shards_zyx):
        box = tuple(slice(*axis) for axis in volume.specs[0].shard_window(shard))
        volume.write_dense_shard(0, shard, voxels[box])
    write_swc(skeleton, folder / "skeleton.swc")
    np.save(folder / "tiles.npy", np.array([(z, 0, n_y, 0, n_x) for z in range(n_z)]))


def lay_out_built(root: Path, tiles: pd.DataFrame, specimen_id: int, folder: Path) -> None:
    """A cell of a built dataset, in `folder` as `measure_cell` takes it."""
    (folder / "image.zarr").symlink_to(root / "data" / "images" / f"{specimen_id}.zarr")
    (folder / "skeleton.swc").symlink_to(root / "data" / "skeletons" / f"{specimen_id}.swc")
    came = tiles[(tiles["specimen_id"] == specimen_id) & (tiles["state"] == "ok")]
    np.save(folder / "tiles.npy", came[["z", "y0", "y1", "x0", "x1"]].to_numpy(np.int64))


def measured(specimen_id: int, lay_out) -> dict[str, float | int | str | bool]:
    """One cell in a process of its own; its row is printed."""
    with tempfile.TemporaryDirectory() as folder:
        lay_out(Path(folder))
        command = [sys.executable, __file__, "--one", folder, "--specimen", str(specimen_id)]
        row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print("{cell:>10} {stretches:>9} {path_um:>7} {mvoxel:>7.1f} {cpu_s:>7.2f} {bare_cpu_s:>7.3f}".format(**row), end=" ")
    print("{cpu_over_bare:>6.1f} {ms_per_stretch:>11.2f} {oracle_ms_per_stretch:>7.0f}".format(**row), end=" ")
    print("{oracle_over_kernels:>6.0f} {same!s:>6} {peak_mb:>8}".format(**row), flush=True)
    return row


def summary(rows: list[dict]) -> dict[str, object]:
    """Median and highest of each figure."""
    return {
        "cells": rows,
        "median": {key: float(np.median([row[key] for row in rows])) for key in KEYS},
        "highest": {key: max(row[key] for row in rows) for key in KEYS},
        "all_same": all(row["same"] for row in rows),
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("BRIGHTFIELD_SHARED") or HERE.parent.parent / "shared" / "data"
    parser.add_argument("--dataset", type=Path, default=HERE.parent, help="a repository with a built dataset (default: this one)")
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with swc/")
    parser.add_argument("--cells", type=int, default=10, help="how many real skeletons to render, spread over all")
    parser.add_argument("--one", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--specimen", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure_cell(options.one, options.specimen)))
        return
    report: dict[str, object] = {
        "machine": {"cpu": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version(), "numba": version("numba")},
        "load_average": os.getloadavg(),
    }
    print("      cell stretches path um  Mvoxel   CPU s  bare s  ratio ms/stretch  oracle /kernel   same  peak MB")
    ledger = options.dataset / "data" / "tiles.parquet"
    if ledger.is_file():
        root, tiles = options.dataset.resolve(), pd.read_parquet(ledger)
        cells = sorted(int(path.stem) for path in (root / "data" / "images").glob("*.zarr"))
        report["dataset"] = summary([measured(i, lambda folder, i=i: lay_out_built(root, tiles, i, folder)) for i in cells])
    files = sorted((options.data / "swc").glob("*.swc"))
    files = files[:: max(1, len(files) // options.cells)][: options.cells]
    if files:
        report["level_5"] = summary([measured(int(swc.stem), lambda folder, swc=swc: lay_out_rendered(swc, folder)) for swc in files])
    for name in ("dataset", "level_5"):
        if name in report:
            print(name, {kind: {k: round(v, 2) for k, v in report[name][kind].items()} for kind in ("median", "highest")})
    RESULT.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
