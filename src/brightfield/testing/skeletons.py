"""Skeletons and SWC text: makers and strategies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from brightfield.core.skeleton import Skeleton
from brightfield.core.soma import with_one_soma
from brightfield.core.space import Grid, Triple
from brightfield.core.swc import format_swc

if TYPE_CHECKING:
    from numpy.typing import NDArray


def swc_bytes(*rows: tuple[float, ...], newline: str = "\n", header: str = "# id,type,x,y,z,r,pid") -> bytes:
    """SWC text of rows (id, type, x, y, z, radius, parent id)."""
    return newline.join(
        [header, *(" ".join(f"{value:g}" if value == int(value) else repr(value) for value in row) for row in rows), ""]
    ).encode()


def cable(
    length_um: float, step_um: float = 1.0, kind: int = 3, radius_um: float = 0.4, start_zyx_um: Triple = (5.0, 10.0, 10.0)
) -> Skeleton:
    """A soma and one straight neurite along x: `length_um` long, a node every `step_um`."""
    n = round(length_um / step_um)
    position = np.asarray(start_zyx_um) + np.arange(n + 1)[:, None] * (0.0, 0.0, step_um)
    return Skeleton(
        node_id=np.arange(1, n + 2),
        type=np.array([1] + [kind] * n),
        position_zyx_um=position,
        radius_um=np.array([4.0] + [radius_um] * n),
        parent=np.arange(n + 1) - 1,
    )


def reordered(skeleton: Skeleton, order: Sequence[int]) -> Skeleton:
    """The same forest with its nodes in another order: what a file with other lines order would give."""
    index = np.asarray(order)
    rank = np.empty(len(index), np.int64)
    rank[index] = np.arange(len(index))
    parent = skeleton.parent[index]
    return Skeleton(
        skeleton.node_id[index],
        skeleton.type[index],
        skeleton.position_zyx_um[index],
        skeleton.radius_um[index],
        np.where(parent == -1, -1, rank[parent]),
    )


@st.composite
def forests(draw: st.DrawFn, *, max_nodes: int = 25, types: Sequence[int] = (1, 2, 3, 4)) -> Skeleton:
    """Skeletons of any shape: several trees, ids with gaps and from 0, any order of the nodes, coincident nodes, radius 0."""
    n = draw(st.integers(1, max_nodes))
    ids = draw(st.lists(st.integers(0, 10 * max_nodes), min_size=n, max_size=n, unique=True))
    parent = [draw(st.integers(-1, i - 1)) for i in range(n)]
    coordinate = st.one_of(st.integers(0, 40).map(float), st.floats(0, 40, allow_subnormal=False))
    position = draw(st.lists(st.tuples(coordinate, coordinate, coordinate), min_size=n, max_size=n))
    radius = draw(st.lists(st.floats(0, 4, allow_subnormal=False), min_size=n, max_size=n))
    kind = draw(st.lists(st.sampled_from(types), min_size=n, max_size=n))
    skeleton = Skeleton(np.array(ids), np.array(kind), np.array(position), np.array(radius), np.array(parent))
    assume(with_one_soma(skeleton)[1].all())  # several nodes that mean one sphere are read as one
    return reordered(skeleton, draw(st.permutations(range(n))))


@st.composite
def swc_documents(draw: st.DrawFn) -> tuple[bytes, Skeleton]:
    """SWC text as people write it (comments, blank lines, tabs, any line end, a UTF-8 mark), and the skeleton that it says."""
    skeleton = draw(forests())
    newline = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    gap = draw(st.sampled_from([b" ", b"\t", b"  "]))
    noise = st.sampled_from([b"", b"   ", b"# a comment with 1 2 3", "# µm".encode("latin-1")])
    lines = []
    for line in format_swc(skeleton).splitlines():
        lines += [draw(noise)] * draw(st.booleans())
        lines.append(
            line
            if line.startswith(b"#")
            else draw(st.sampled_from([b"", b" "])) + line.replace(b" ", gap) + draw(st.sampled_from([b"", b" # end"]))
        )
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + newline.join([*lines, b""]), skeleton


@st.composite
def neurons(draw: st.DrawFn, *, max_nodes: int = 12, types: Sequence[int] = (1, 2, 3, 4)) -> Skeleton:
    """Forests as dense as real ones: short, thin, oblique edges, some on the voxel lattice, some with one end inside the other."""
    n = draw(st.integers(1, max_nodes))
    parent = [draw(st.integers(-1 if draw(st.booleans()) else max(0, i - 3), i - 1)) if i else -1 for i in range(n)]
    step = st.tuples(*[st.floats(-3.0, 3.0) | st.integers(-20, 20).map(lambda k: k * 0.1144)] * 3)
    position = [np.array(draw(st.tuples(*[st.floats(0.0, 4.0)] * 3))) for _ in range(n)]
    for i, above in enumerate(parent):
        if above >= 0:
            position[i] = position[above] + np.array(draw(step))
    radius = draw(st.lists(st.sampled_from([0.1144, 0.2288]) | st.floats(0.01, 2.0), min_size=n, max_size=n))
    kind = draw(st.lists(st.sampled_from(types), min_size=n, max_size=n))
    return Skeleton(np.arange(1, n + 1), np.array(kind), np.array(position), np.array(radius), np.array(parent))


def flipped(skeleton: Skeleton, grid: Grid, axis: int) -> Skeleton:
    """The skeleton mirrored within a stack along axis 0 (z), 1 (y) or 2 (x): the classic wrong frame."""
    position = skeleton.position_zyx_um.copy()
    position[:, axis] = (grid.shape_zyx[axis] - 1) * grid.voxel_size_zyx_um[axis] - position[:, axis]
    return skeleton.moved_to(np.round(position, 4))


def z_scaled(skeleton: Skeleton, factor: float) -> Skeleton:
    """The skeleton stretched along z: a shrinkage correction or a wrong plane spacing."""
    return skeleton.moved_to(np.round(skeleton.position_zyx_um * (factor, 1.0, 1.0), 4))


def jittered(skeleton: Skeleton, seed: int, xy_um: float = 0.15, z_um: float = 0.5) -> Skeleton:
    """A trace as people place it: every node a little beside its neurite, by so many um (standard deviation) along each axis."""
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(skeleton.position_zyx_um.shape)
    return skeleton.moved_to(np.round(skeleton.position_zyx_um + noise * np.array([z_um, xy_um, xy_um]), 4))


def displaced(
    skeleton: Skeleton, seed: int, *, off_um: float = 2.0, piece_um: float = 40.0, share: float = 0.05
) -> tuple[Skeleton, NDArray[np.int64], NDArray[np.bool_]]:
    """A trace that leaves its stain in pieces, outside the soma: moved sideways in the plane until they are a share of the path.

    Returns the skeleton, (n,) the number of the piece that the edge of each node lies in, 0 where it is in place, and (n,) whether the edge
    leads from the one to the other.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    position, piece = skeleton.position_zyx_um.copy(), np.zeros(len(skeleton), np.int64)
    from_soma = np.linalg.norm(position - position[skeleton.soma or 0], axis=1) - skeleton.radius_um[skeleton.soma or 0]
    left_um, n = share * float(skeleton.edge_length_um.sum()), 0
    for start in random.permutation(len(skeleton)).tolist():
        chain = _upward(skeleton, start, piece_um)
        along = position[chain[0]] - position[chain[-1]]
        flat_um = float(np.hypot(along[1], along[2]))
        if left_um > 0 and len(chain) > 1 and not piece[chain].any() and from_soma[chain].min() > 1.0 and flat_um > piece_um / 4:
            n += 1
            piece[chain] = n
            position[chain] += off_um * random.choice([-1.0, 1.0]) * np.array([0.0, along[2], -along[1]]) / flat_um
            left_um -= piece_um
    parent = np.maximum(skeleton.parent, 0)
    inside = np.where((piece[parent] == piece) & (skeleton.parent >= 0), piece, 0)
    return skeleton.moved_to(np.round(position, 4)), inside, (inside == 0) & ((piece > 0) | (piece[parent] > 0))


def _upward(skeleton: Skeleton, start: int, length_um: float) -> list[int]:
    """The nodes from one towards its root, for a length; none where the path is shorter."""
    chain, there_um = [start], 0.0
    while there_um < length_um:
        if skeleton.parent[chain[-1]] < 0:
            return [start]
        there_um += float(skeleton.edge_length_um[chain[-1]])
        chain.append(int(skeleton.parent[chain[-1]]))
    return chain
