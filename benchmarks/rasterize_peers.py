"""One peer rasterizer, one skeleton, one grid: run by `rasterize.py` with the python of an environment that holds the peers.

Usage: python rasterize_peers.py NAME TASK.npz RESULT.npz. Writes the mask, the seconds of the peer's own call, and the peak memory.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np


def gunpowder(task):
    """RasterizeGraph: a ball of one radius along every edge (the median radius; it knows no other)."""
    import gunpowder as gp

    nm = np.round(task["voxel_um"] * 1000).astype(int)
    graph_key, array_key = gp.GraphKey("GRAPH"), gp.ArrayKey("MASK")
    roi = gp.Roi((0, 0, 0), tuple(int(v) for v in task["shape"] * nm))
    # Its voxel k covers [k, k + 1) voxel sizes, ours is centred on k.
    position = (task["position_um"] / task["voxel_um"] + 0.5) * nm
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

    radius = float(np.median(task["radius_um"])) * 1000
    settings = gp.RasterizationSettings(radius=radius, mode="ball")
    spec = gp.ArraySpec(voxel_size=gp.Coordinate(nm.tolist()), dtype=np.uint8, interpolatable=False)
    pipeline = Source() + gp.RasterizeGraph(graph_key, array_key, spec, settings)
    request = gp.BatchRequest()
    request[array_key] = gp.ArraySpec(roi=roi)
    with gp.build(pipeline):
        start = time.perf_counter()
        mask = pipeline.request_batch(request)[array_key].data > 0
        return mask, time.perf_counter() - start


def navis(task):
    """voxelize: the voxels of the nodes."""
    import navis as nv
    import pandas as pd

    table = pd.DataFrame(task["position_um"][:, ::-1], columns=["x", "y", "z"])
    table["node_id"], table["parent_id"], table["radius"] = np.arange(len(table)), task["parent"], task["radius_um"]
    neuron = nv.TreeNeuron(table, units="um")
    size = task["voxel_um"][::-1]
    high = task["shape"][::-1] * size
    start = time.perf_counter()
    grid = nv.voxelize(neuron, pitch=size.tolist(), bounds=np.stack([-size / 2, high - size / 2], axis=1)).grid
    seconds = time.perf_counter() - start
    mask = np.zeros(task["shape"], bool)
    found = np.asarray(grid).transpose(2, 1, 0)[: mask.shape[0], : mask.shape[1], : mask.shape[2]] > 0
    mask[: found.shape[0], : found.shape[1], : found.shape[2]] = found
    return mask, seconds


def trimesh(task):
    """A capsule mesh per edge (cylinder and two balls of the mean radius), each voxelized by `contains` in its bounding box."""
    import trimesh as tm

    size, mask = task["voxel_um"], np.zeros(task["shape"], bool)
    start = time.perf_counter()
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
    return mask, time.perf_counter() - start


if __name__ == "__main__":
    name, task_file, result_file = sys.argv[1:]
    with np.load(task_file) as loaded:
        task_arrays = dict(loaded)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result, taken_s = {"gunpowder": gunpowder, "navis": navis, "trimesh": trimesh}[name](task_arrays)
    peak_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    np.savez_compressed(result_file, mask=result, seconds=taken_s, peak_mb=peak_mb)
