"""Other rasterizers and ours on the same voxels: each on the finest grid of a ladder that it can hold, in a process of its own.

Used by `rasterize.py`. A tool that needs more than 10 GB or 120 s for a grid is tried on the next coarser one; what stopped it is kept.
Ours are called once on every grid that some peer ended on, after compiling; a peer's import is not counted.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid
from brightfield.core.swc import read_swc
from brightfield.raster.runs import union
from brightfield.raster.topology import component_count

LADDER_UM = ((0.28, 0.1144, 0.1144), (0.28, 0.2288, 0.2288), (0.56, 0.4576, 0.4576), (1.12, 0.9152, 0.9152), (2.0, 2.0, 2.0))
PEERS = ("gunpowder", "navis", "swcgeom", "trimesh")
OURS = ("brightfield_bare", "brightfield_connected")
TIMEOUT_S, MEMORY_GB = 120, 10
MARGIN_UM = 10.0
_TOOL = Path(__file__).with_name("rasterize_peers.py")

type Row = dict[str, object]


def measure_peers(python: Path | None, swc: Path) -> list[Row]:
    """A row per peer with the grid it ended on, and a row for each of ours on each of those grids."""
    skeleton = read_swc(swc)
    skeleton = skeleton.moved_to(skeleton.position_zyx_um - skeleton.position_zyx_um.min(axis=0) + MARGIN_UM)
    rows: list[Row] = []
    ours: dict[tuple[float, ...], tuple[np.ndarray, list[Row]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for peer in PEERS:
            row, voxels, grid = climb_down(python, peer, skeleton, Path(folder))
            if grid is not None:
                if grid.voxel_size_zyx_um not in ours:
                    ours[grid.voxel_size_zyx_um] = measure_ours(skeleton, grid, Path(folder))
                exact, own_rows = ours[grid.voxel_size_zyx_um]
                row = described(voxels, row, exact, peer, grid)
                row["times_ours"] = {one["tool"]: row["seconds"] / one["seconds"] for one in own_rows}
            rows.append(row)
    return rows + [one for _, own_rows in ours.values() for one in own_rows]


def measure_ours(skeleton: Skeleton, grid: Grid, folder: Path) -> tuple[np.ndarray, list[Row]]:
    """The voxels of the bare definition, and our rows."""
    found = {name: run(sys.executable, name, skeleton, grid, folder) for name in OURS}
    exact = found[OURS[0]][0]
    return exact, [described(*one, exact, name, grid) for name, one in found.items()]


def climb_down(python: Path | None, peer: str, skeleton: Skeleton, folder: Path) -> tuple[Row, np.ndarray | None, Grid | None]:
    """The first grid of the ladder that a peer manages; why it did not manage the finer ones."""
    if python is None or subprocess.run([python, "-c", f"import {peer}"], capture_output=True, check=False).returncode:
        return {"tool": peer, "note": "not installed; see the head of rasterize.py"}, None, None
    stopped = []
    for voxel_um in LADDER_UM:
        shape = np.ceil((skeleton.position_zyx_um.max(axis=0) + MARGIN_UM) / voxel_um).astype(int)
        grid = Grid(tuple(shape.tolist()), voxel_um)
        voxels, row = run(python, peer, skeleton, grid, folder)
        if voxels is not None:
            return {**row, "stopped": stopped}, voxels, grid
        stopped.append({"voxel_um": voxel_um, **row})
    return {"tool": peer, "stopped": stopped}, None, None


def run(python: Path | str, tool: str, skeleton: Skeleton, grid: Grid, folder: Path) -> tuple[np.ndarray | None, Row]:
    """One tool on one grid: the voxels it set with seconds and memory, or None and what stopped it."""
    task, result = folder / "task.npz", folder / "result.npz"
    arrays = {name: getattr(skeleton, name) for name in ("type", "radius_um", "parent")}
    np.savez(task, position_um=skeleton.position_zyx_um, shape=grid.shape_zyx, voxel_um=grid.voxel_size_zyx_um, **arrays)
    limit = MEMORY_GB * 2**30
    limited = lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))  # noqa: E731
    command = [python, _TOOL, tool, task, result]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, preexec_fn=limited)
    except subprocess.TimeoutExpired:
        return None, {"note": f"not finished after {TIMEOUT_S} s"}
    if done.returncode:
        return None, {"note": (done.stderr.strip().splitlines() or [f"ended by signal {-done.returncode}"])[-1][:200]}
    with np.load(result) as found:
        return found["voxels"], {"seconds": float(found["seconds"]), "peak_mb": round(float(found["peak_mb"]))}


def described(voxels: np.ndarray, row: Row, exact: np.ndarray, tool: str, grid: Grid) -> Row:
    """The row of a tool that found voxels: agreement with the bare definition, and components."""
    z, y, x = np.unravel_index(voxels, grid.shape_zyx)
    runs = union(np.stack([z, y, x, x + 1, np.zeros_like(x)], axis=1).astype(np.int32), 1)
    shared = len(np.intersect1d(voxels, exact, assume_unique=True))
    return {
        "tool": tool,
        "voxel_um": grid.voxel_size_zyx_um,
        "gvoxel": grid.n_voxels / 1e9,
        **row,
        "voxels": len(voxels),
        "iou_with_definition": shared / (len(voxels) + len(exact) - shared),
        "components": component_count(runs, 26),
    }
