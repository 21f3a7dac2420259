"""Labels of real cells at full resolution: against compressing the same chunks, and against other rasterizers.

Run: python benchmarks/rasterize.py [--data FOLDER] [--cells N] [--peers PYTHON [--only-peers]]. Prints a table, writes
results/rasterize.json.
Each cell is written in a process of its own, kernels compiled before the clock starts: full resolution (0.1144 x 0.1144 x 0.28 um), the
canvas of the cells table, semantic labels with rim and reasons, all levels. "bare" is memset + blosc-zstd-1 of exactly the chunks that
were stored, in the same process; "ratio" is the CPU time of all but the file system's calls (open, write, rename) over it, "with files"
that of everything, each the least of three turns. Memory is the kernel's high-water mark above what the process held before. Read the
ratios: seconds are of this machine.

Peers live in an environment of their own, their dependencies are not ours:
    python -m venv peers && peers/bin/pip install gunpowder navis swcgeom trimesh rtree
    python benchmarks/rasterize.py --peers peers/bin/python
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import numpy as np
from numcodecs import blosc
from rasterize_ladder import measure_peers
from rasterize_peers import begin, resident_kb

from brightfield.config.options import LabelsConfig
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid, stack_grid
from brightfield.core.swc import read_swc
from brightfield.stages.rasterize.labels import write_labels
from brightfield.stages.rasterize.plan import LabelPlan
from brightfield.testing.skeletons import cable
from brightfield.volumes.shards import COMPRESSION_LEVEL
from brightfield.volumes.volume import Volume, _write_atomically, open_volume

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "rasterize.json"
PIXEL_UM, PLANE_UM, MARGIN_UM = 0.1144, 0.28, 10.0
TURNS = 3


def canvas(skeleton: Skeleton, row: dict[str, str]) -> Grid:
    """The cell's stack: width and height of the cells table; its planes are not there, so 10 um beyond the deepest node."""
    n_planes = int(np.ceil((skeleton.position_zyx_um[:, 0].max() + MARGIN_UM) / PLANE_UM))
    return stack_grid(n_planes, int(row["si__height"]), int(row["si__width"]), PIXEL_UM, PLANE_UM)


@contextmanager
def clocked_files():
    """CPU seconds that the calling threads spend in storing finished files, in the list that is given, one number per file."""
    seconds = []

    def store(target, parts):
        start = time.thread_time()
        _write_atomically(target, parts)
        seconds.append(time.thread_time() - start)

    with patch("brightfield.volumes.volume._write_atomically", store):
        yield seconds


def clocked(function):
    """Wall and CPU seconds of a call, and what it returns."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def bare_seconds(volumes: list[Volume]) -> tuple[float, float, int]:
    """Wall and CPU seconds of memset + compress of every stored chunk, and their number; reading them is not counted."""
    blosc.use_threads = False
    wall = cpu = 0.0
    n = 0
    for volume in volumes:
        for level, spec in enumerate(volume.specs):
            buffer = np.empty(spec.chunk_zyx, np.uint8)
            for chunk in volume.stored_chunks(level):
                window = [(int(i * c), int(min((i + 1) * c, m))) for i, c, m in zip(chunk, spec.chunk_zyx, spec.shape_zyx, strict=True)]
                content = spec.empty_chunk()
                part = volume.read(tuple(window), level)
                content[tuple(map(slice, part.shape))] = part
                more_wall, more_cpu, _ = clocked(lambda b=buffer: b.fill(0))
                wall, cpu = wall + more_wall, cpu + more_cpu
                more_wall, more_cpu, _ = clocked(lambda c=content: blosc.compress(c, b"zstd", COMPRESSION_LEVEL, blosc.NOSHUFFLE, c.nbytes))
                wall, cpu, n = wall + more_wall, cpu + more_cpu, n + 1
    return wall, cpu, n


def measure_cell(swc: Path, row: dict[str, str], threads: int) -> dict[str, float | int | str]:
    """One cell, in this process: it is written and the limit measured, by turns; the least of each, but memory as of the first."""
    skeleton = read_swc(swc)
    grid = canvas(skeleton, row)
    turns, peak_mb = [], None
    with tempfile.TemporaryDirectory() as folder:
        write_labels(
            Path(folder) / "warm", cable(40.0), Grid((30, 300, 300), (0.28, 0.3, 0.3)), LabelPlan(), LabelsConfig(), threads=threads
        )
        for turn in range(TURNS):
            path = Path(folder) / str(turn)
            with clocked_files() as file_seconds:
                _, before_kb = begin()
                wall, cpu, stats = clocked(lambda p=path: write_labels(p, skeleton, grid, LabelPlan(), LabelsConfig(), threads=threads))
                peak_mb = peak_mb or (resident_kb("VmHWM") - before_kb) // 1024
            labels = open_volume(path)
            bare_wall, bare_cpu, n_chunks = bare_seconds([labels, labels.sub("reason")])
            turns.append((wall, cpu, cpu - sum(file_seconds), bare_wall, bare_cpu))
        n_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    wall, cpu, cpu_without_files, bare_wall, bare_cpu = (min(column) for column in zip(*turns, strict=True))
    return {
        "cell": swc.stem,
        "nodes": len(skeleton),
        "gvoxel": grid.n_voxels / 1e9,
        "labelled_voxels": int(stats.tally.by_label[1:255].sum()),
        "unknown_voxels": int(stats.tally.by_label[255]),
        "trees": skeleton.n_trees,
        "one_component_per_tree": all(n == 1 for n in stats.topology.n_components_by_tree),
        "wall_s": wall,
        "cpu_s": cpu,
        "bare_wall_s": bare_wall,
        "bare_cpu_s": bare_cpu,
        "cpu_without_files_s": cpu_without_files,
        "compute_and_compress_over_bare": cpu_without_files / bare_cpu,
        "cpu_over_bare": cpu / bare_cpu,
        "chunks": n_chunks,
        "bytes": n_bytes,
        "peak_mb_above_imports": peak_mb,
    }


def write_all(files: list[Path], table: dict[str, dict[str, str]], threads: int) -> dict[str, float | int]:
    """Every cell written, one after the other in this process: seconds and the highest memory above the imports."""
    _, before_kb = begin()

    def write() -> int:
        connected = 0
        for swc in files:
            skeleton = read_swc(swc)
            with tempfile.TemporaryDirectory() as folder:
                grid = canvas(skeleton, table[swc.stem])
                stats = write_labels(Path(folder) / "1", skeleton, grid, LabelPlan(), LabelsConfig(), threads=threads)
            connected += stats.topology.n_components_by_tree == (1,) * skeleton.n_trees
        return connected

    wall, cpu, connected = clocked(write)
    peak_mb = (resident_kb("VmHWM") - before_kb) // 1024
    return {"cells": len(files), "connected": connected, "wall_s": wall, "cpu_s": cpu, "peak_mb_above_imports": int(peak_mb)}


def distance_over_inside(skeleton: Skeleton, grid: Grid, repeats: int = 3) -> dict[str, float]:
    """CPU seconds of label stores of kind inside and distance on one grid, the least of a few."""
    seconds = {}
    for kind in ("inside", "distance"):
        runs = []
        for _ in range(repeats + 1):
            with tempfile.TemporaryDirectory() as folder:
                write = lambda f=folder, k=kind: write_labels(Path(f) / "1", skeleton, grid, LabelPlan(), LabelsConfig(kind=k))  # noqa: E731
                runs.append(clocked(write)[1])
        seconds[kind] = min(runs[1:])
    return {**{f"{kind}_cpu_s": s for kind, s in seconds.items()}, "ratio": seconds["distance"] / seconds["inside"]}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("BRIGHTFIELD_SHARED") or HERE.parent.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default), help="folder with swc/ and cells/mouse_reconstructions_509.csv")
    parser.add_argument("--cells", type=int, default=None, help="measure only N cells, spread over all (default: every cell)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--peers", type=Path, default=None, help="the python of an environment with the peers; without it they are left out"
    )
    parser.add_argument("--only-peers", action="store_true", help="keep the figures of the cells as they are")
    parser.add_argument("--peer-cell", default="320207387")
    parser.add_argument("--one", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    table = {row["specimen__id"]: row for row in csv.DictReader((options.data / "cells" / "mouse_reconstructions_509.csv").open())}
    if options.one is not None:
        print(json.dumps(measure_cell(options.one, table[options.one.stem], options.threads)))
        return
    report = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    if not options.only_peers:
        report |= measure_cells(options.data, table, options.cells, options.threads)
        keep(report)
    if options.peers is not None:
        rows = measure_peers(options.peers, options.data / "swc" / f"{options.peer_cell}.swc")
        report["peers"] = {"load_average": os.getloadavg(), "cell": options.peer_cell, "rows": rows}
        keep(report)
        for row in rows:
            print(row)


def measure_cells(data: Path, table: dict[str, dict[str, str]], n_cells: int | None, threads: int) -> dict[str, object]:
    """Every cell in a process of its own, all in one process, and distance against inside; printed as they come."""
    everything = [p for p in sorted((data / "swc").glob("*.swc")) if p.stem in table]
    files = everything[:: max(1, len(everything) // n_cells)] if n_cells else everything
    rows = []
    print("      cell  nodes  Gvoxel  wall s   CPU s  bare s  ratio  with files  chunks     MB  peak MB  connected")
    for swc in files:
        command = [sys.executable, __file__, "--one", swc, "--data", data, "--threads", str(threads)]
        row = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        rows.append(row)
        print("{cell:>10} {nodes:>6} {gvoxel:>7.1f} {wall_s:>7.2f} {cpu_s:>7.2f} {bare_cpu_s:>7.2f}".format(**row), end=" ")
        print("{compute_and_compress_over_bare:>6.2f} {cpu_over_bare:>11.2f} {chunks:>7}".format(**row), end=" ")
        print(f"{row['bytes'] / 1e6:>6.2f} {row['peak_mb_above_imports']:>8} {row['one_component_per_tree']!s:>10}", flush=True)
    keys = ("wall_s", "cpu_s", "bare_cpu_s", "compute_and_compress_over_bare", "cpu_over_bare", "bytes", "peak_mb_above_imports")
    medians = {key: float(np.median([row[key] for row in rows])) for key in keys}
    highest = {key: max(row[key] for row in rows) for key in keys}
    for name, of in (("median", medians), ("highest", highest)):
        print(f"{name:>10}", {key: round(value, 2) for key, value in of.items()})
    together = write_all(everything, table, threads)
    print("all cells in one process:", {key: round(value, 1) for key, value in together.items()})
    middle = sorted(rows, key=lambda row: row["cpu_s"])[len(rows) // 2]["cell"]
    skeleton = read_swc(data / "swc" / f"{middle}.swc")
    ratio = distance_over_inside(skeleton, canvas(skeleton, table[middle]))
    print(f"distance / inside, cell {middle}: {ratio['ratio']:.2f}")
    return {
        "machine": {"cpu": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version(), "numba": version("numba")},
        "load_average": os.getloadavg(),
        "threads": threads,
        "cells": rows,
        "median": medians,
        "highest": highest,
        "all_cells": together,
        "distance_over_inside": {"cell": middle, **ratio},
    }


def keep(report: dict[str, object]) -> None:
    """Write the results file."""
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
