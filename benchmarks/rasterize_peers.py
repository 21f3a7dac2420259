"""One rasterizer, one skeleton, one grid, in a process of its own: run by `rasterize_ladder.py` with the python that has the tool.

Usage: python rasterize_peers.py NAME TASK.npz RESULT.npz. Writes the voxels found (flat indices into the grid), the seconds of the tool's
own call, and how much memory it took at its peak above what it began with: the kernel's own high-water mark, set back before the call.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np


def brightfield_bare(task):
    """The bare definition: what all are compared with (the tests compare it with an independent oracle)."""
    return _brightfield(task, None)


def brightfield_connected(task):
    """The bare definition and the voxel line that makes one component of it."""
    return _brightfield(task, 26)


def _brightfield(task, connect):
    from brightfield.core.skeleton import Skeleton
    from brightfield.core.space import Grid
    from brightfield.raster.voxels import rasterize
    from brightfield.testing.skeletons import cable

    rasterize(cable(40.0), Grid((30, 300, 300), (0.28, 0.3, 0.3)), "inside", 0.0, "taper", connect)  # compiles the kernels
    n = len(task["parent"])
    skeleton = Skeleton(np.arange(1, n + 1), task["type"], task["position_um"], task["radius_um"], task["parent"])
    grid = Grid(tuple(task["shape"].tolist()), tuple(task["voxel_um"].tolist()))
    start = begin()
    return rasterize(skeleton, grid, "inside", 0.0, "taper", connect), start


def gunpowder(task):
    """RasterizeGraph: a ball of one radius along every edge (the median radius; it knows no other)."""
    import gunpowder as gp

    unit = 1e4  # world units are whole numbers: tenths of a nanometre
    size = np.round(task["voxel_um"] * unit).astype(int)
    graph_key, array_key = gp.GraphKey("GRAPH"), gp.ArrayKey("MASK")
    roi = gp.Roi((0, 0, 0), tuple(int(v) for v in task["shape"] * size))
    # Its voxel k covers [k, k + 1) voxel sizes, ours is centred on k.
    position = (task["position_um"] / task["voxel_um"] + 0.5) * size
    nodes = [gp.Node(id=i, location=p) for i, p in enumerate(position)]
    edges = [gp.Edge(i, int(p)) for i, p in enumerate(task["parent"]) if p >= 0]

    class Source(gp.BatchProvider):
        def setup(self):
            self.provides(graph_key, gp.GraphSpec(roi=roi, directed=False))

        def provide(self, request):
            batch = gp.Batch()
            spec = gp.GraphSpec(roi=request[graph_key].roi, directed=False)
            batch[graph_key] = gp.Graph(nodes, edges, spec)
            return batch

    radius = float(np.median(task["radius_um"])) * unit
    settings = gp.RasterizationSettings(radius=radius, mode="ball")
    spec = gp.ArraySpec(voxel_size=gp.Coordinate(size.tolist()), dtype=np.uint8, interpolatable=False)
    pipeline = Source() + gp.RasterizeGraph(graph_key, array_key, spec, settings)
    request = gp.BatchRequest()
    request[array_key] = gp.ArraySpec(roi=roi)
    with gp.build(pipeline):
        start = begin()
        return pipeline.request_batch(request)[array_key].data, start


def navis(task):
    """voxelize: the voxels of the nodes."""
    import navis as nv
    import pandas as pd

    table = pd.DataFrame(task["position_um"][:, ::-1], columns=["x", "y", "z"])
    table["node_id"], table["parent_id"], table["radius"] = np.arange(len(table)), task["parent"], task["radius_um"]
    neuron = nv.TreeNeuron(table, units="um")
    size = task["voxel_um"][::-1]
    high = task["shape"][::-1] * size
    start = begin()
    grid = nv.voxelize(neuron, pitch=size.tolist(), bounds=np.stack([-size / 2, high - size / 2], axis=1)).grid
    return np.asarray(grid).transpose(2, 1, 0), start


def swcgeom(task):
    """ToImageStack: signed distances to round cones, sampled voxel by voxel, plane by plane."""
    from swcgeom.core import Tree
    from swcgeom.transforms import ToImageStack

    z, y, x = task["position_um"].T
    tree = Tree(len(z), id=np.arange(len(z)), type=task["type"], x=x, y=y, z=z, r=task["radius_um"], pid=task["parent"])
    size, shape = task["voxel_um"], task["shape"]
    ranges = tuple((size * edge)[::-1] for edge in (np.full(3, -0.5), shape - 0.5 - 1e-3))
    mask = np.zeros(shape, bool)
    start = begin()
    for plane, frame in zip(mask, ToImageStack(size[::-1]).transform(tree, verbose=False, ranges=ranges), strict=False):
        found = frame.T[: shape[1], : shape[2]] > 0
        plane[: found.shape[0], : found.shape[1]] = found
    return mask, start


def trimesh(task):
    """A capsule mesh per edge (cylinder and two balls of the mean radius), each voxelized by `contains` in its bounding box."""
    import trimesh as tm

    size, mask = task["voxel_um"], np.zeros(task["shape"], bool)
    start = begin()
    for child, parent in enumerate(task["parent"]):
        if parent < 0:
            continue
        a, b = task["position_um"][[parent, child]]
        radius, length = float(task["radius_um"][[parent, child]].mean()), float(np.linalg.norm(b - a))
        capsule = tm.creation.capsule(height=length, radius=radius, count=[12, 12])
        turn = tm.geometry.align_vectors([0, 0, 1], (b - a)[::-1]) if length else np.eye(4)
        capsule.apply_transform(tm.transformations.translation_matrix(a[::-1]) @ turn)
        low = np.maximum(np.ceil(capsule.bounds[0][::-1] / size), 0).astype(int)
        high = np.minimum(np.floor(capsule.bounds[1][::-1] / size) + 1, task["shape"]).astype(int)
        if (high <= low).any():
            continue
        voxels = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), axis=-1).reshape(-1, 3)
        inside = voxels[capsule.contains((voxels * size)[:, ::-1])]
        mask[tuple(inside.T)] = True
    return mask, start


TOOLS = {function.__name__: function for function in (brightfield_bare, brightfield_connected, gunpowder, navis, swcgeom, trimesh)}


def begin():
    """Time and resident memory (kB) before the tool's call; the high-water mark starts anew."""
    Path("/proc/self/clear_refs").write_text("5")
    return time.perf_counter(), resident_kb("VmRSS")


def resident_kb(field):
    """A memory field of this process, as the kernel counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def flat(mask, shape):
    """Flat indices, into an array of `shape`, of the voxels that are set; a mask may be a voxel larger or smaller."""
    found = [np.empty(0, np.int64)]
    for z, plane in enumerate(mask[: shape[0]]):
        y, x = np.nonzero(plane[: shape[1], : shape[2]])
        found.append((z * shape[1] + y) * shape[2] + x)
    return np.concatenate(found)


if __name__ == "__main__":
    name, task_file, result_file = sys.argv[1:]
    with np.load(task_file) as loaded:
        task_arrays = dict(loaded)
    result, (start_s, start_kb) = TOOLS[name](task_arrays)
    taken_s = time.perf_counter() - start_s
    peak_mb = (resident_kb("VmHWM") - start_kb) / 1024
    np.savez(result_file, voxels=flat(result, task_arrays["shape"]), seconds=taken_s, peak_mb=peak_mb)
