"""The labels by their definition: every voxel against every cone, in plain numpy. Slow, obvious, and sharing no code with the package."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray


def voxel_centres(grid, window) -> NDArray[np.float64]:
    """(nz, ny, nx, 3) positions in um, z y x."""
    axes = [grid.origin_zyx_um[k] + np.arange(*window[k]) * grid.voxel_size_zyx_um[k] for k in range(3)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def round_cones(skeleton, r_min_um: float, soma_edges: str, children=None) -> list[dict]:
    """One cone per edge (a the parent, b the child) and a sphere per root, as the design document has them; those of some children."""
    cones = []
    for child in range(len(skeleton)) if children is None else children:
        parent = skeleton.parent[child]
        start = child if parent < 0 else int(parent)
        ra, rb = float(skeleton.radius_um[start]), float(skeleton.radius_um[child])
        if soma_edges == "capsule" and skeleton.type[start] == 1 and skeleton.type[child] != 1:
            ra = rb
        cones.append(
            {
                "a": skeleton.position_zyx_um[start],
                "b": skeleton.position_zyx_um[child],
                "ra": max(ra, r_min_um),
                "rb": max(rb, r_min_um),
                "raw": (ra, rb),
                "label": int(skeleton.type[child]),
                "node_id": int(skeleton.node_id[child]),
            }
        )
    return cones


def near(skeleton, r_min_um: float, low, high) -> list[int]:
    """Children whose cones may reach into a box in um, and some others: only spares time."""
    start = np.where(skeleton.parent < 0, np.arange(len(skeleton)), skeleton.parent)
    reach = np.maximum(np.maximum(skeleton.radius_um, skeleton.radius_um[start]), r_min_um)[:, None]
    ends = np.stack([skeleton.position_zyx_um, skeleton.position_zyx_um[start]])
    return np.flatnonzero(((ends.min(0) - reach <= high) & (ends.max(0) + reach >= low)).all(1)).tolist()


def in_cone(points, cone) -> NDArray[np.bool_]:
    """Inside iff |pa - u ba|² <= (ra + u dr)² at the u of the sphere that reaches farthest; nested spheres: the larger one."""
    pa, ba, dr = points - cone["a"], cone["b"] - cone["a"], cone["rb"] - cone["ra"]
    a = (ba * ba).sum() - dr * dr
    if a <= 0:
        centre, r = (cone["b"], cone["rb"]) if dr > 0 else (cone["a"], cone["ra"])
        return ((points - centre) ** 2).sum(-1) <= r * r
    u = np.clip(((pa * ba).sum(-1) + cone["ra"] * dr) / a, 0, 1)
    return ((pa - u[..., None] * ba) ** 2).sum(-1) <= (cone["ra"] + u * dr) ** 2


def axis_distance(points, cone) -> NDArray[np.float64]:
    """Distance in um to the segment; at an end, to that very end."""
    ba = cone["b"] - cone["a"]
    length2 = (ba * ba).sum()
    u = ((points - cone["a"]) * ba).sum(-1) / (length2 or 1.0)
    between = np.sqrt((((points - cone["a"]) - u[..., None] * ba) ** 2).sum(-1))
    to_a, to_b = (np.sqrt(((points - end) ** 2).sum(-1)) for end in (cone["a"], cone["b"]))
    return np.where(u <= 0, to_a, np.where(u >= 1, to_b, between))


def surface_distance(points, cone, samples: int = 20001) -> NDArray[np.float64]:
    """Signed distance to a cone as the least distance to the spheres along its axis, densely sampled."""
    best = np.full(points.shape[:-1], np.inf)
    for u in np.linspace(0, 1, samples):
        centre, r = cone["a"] + u * (cone["b"] - cone["a"]), cone["ra"] + u * (cone["rb"] - cone["ra"])
        best = np.minimum(best, np.sqrt(((points - centre) ** 2).sum(-1)) - r)
    return best


def inside(skeleton, grid, window, r_min_um=0.0, soma_edges="taper") -> NDArray[np.bool_]:
    """The bare definition over a window."""
    points = voxel_centres(grid, window)
    mask = np.zeros(points.shape[:-1], bool)
    for cone in round_cones(skeleton, r_min_um, soma_edges, near(skeleton, r_min_um, points[0, 0, 0], points[-1, -1, -1])):
        mask |= in_cone(points, cone)
    return mask


def semantic(skeleton, grid, window, r_min_um=0.0, soma_edges="taper") -> NDArray[np.uint8]:
    """Soma first, then the nearest axis among the cones that hold the voxel, then the lower node id."""
    points = voxel_centres(grid, window)
    shape = points.shape[:-1]
    label, nearest, owner = np.zeros(shape, np.uint8), np.full(shape, np.inf), np.full(shape, np.iinfo(np.int64).max)
    for cone in round_cones(skeleton, r_min_um, soma_edges, near(skeleton, r_min_um, points[0, 0, 0], points[-1, -1, -1])):
        distance = np.full(shape, -1.0) if cone["label"] == 1 else axis_distance(points, cone)
        better = (distance < nearest) | ((distance == nearest) & (cone["node_id"] < owner))
        better &= in_cone(points, cone)
        label[better], nearest[better], owner[better] = cone["label"], distance[better], cone["node_id"]
    return label


def shell(cone, points, axial_um: float, samples: int = 101) -> NDArray[np.bool_]:
    """A cone swept along z, by moving the points instead: inside for some shift within +-axial_um."""
    mask = np.zeros(points.shape[:-1], bool)
    for shift in np.linspace(-axial_um, axial_um, samples):
        mask |= in_cone(points + np.array([shift, 0.0, 0.0]), cone)
    return mask


def n_components(mask: NDArray[np.bool_], connectivity: int) -> int:
    """Connected components by flooding from voxel to voxel."""
    offsets = [o for o in np.ndindex(3, 3, 3) if 0 < sum(abs(v - 1) for v in o) <= (1 if connectivity == 6 else 3)]
    left = {tuple(int(i) for i in voxel) for voxel in np.argwhere(mask)}
    count = 0
    while left:
        count += 1
        queue = deque([left.pop()])
        while queue:
            z, y, x = queue.popleft()
            for dz, dy, dx in offsets:
                beside = (z + dz - 1, y + dy - 1, x + dx - 1)
                if beside in left:
                    left.remove(beside)
                    queue.append(beside)
    return count


def n_loops(mask: NDArray[np.bool_]) -> int:
    """First Betti number of the closed cubes: components + cavities - (vertices - edges + faces - cubes), cell by cell."""
    solid = np.pad(mask, 1)
    euler = 0
    for axes in np.ndindex(2, 2, 2):  # 0: the cell is a point along this axis, 1: an interval
        cells = solid
        for axis, extended in enumerate(axes):
            if not extended:
                cells = np.logical_or(cells.take(range(1, cells.shape[axis]), axis), cells.take(range(cells.shape[axis] - 1), axis))
        euler += (-1) ** sum(axes) * int(cells.sum())
    return n_components(mask, 26) + n_components(~solid, 6) - 1 - euler
