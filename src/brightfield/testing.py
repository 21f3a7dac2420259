"""Makers, Hypothesis strategies and faults: what our tests are made of, for yours too. Needs the development dependencies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from brightfield.mirror_catalog import ArrayPicture, MemoryCatalog, Picture, tables_of
from brightfield.schema import Table
from brightfield.shards import ArraySpec
from brightfield.skeleton import Skeleton, format_swc
from brightfield.source import Cell, Plane, Stack
from brightfield.space import Grid, Triple, Window

# ----------------------------------------------------------------------------------------------------------- skeletons and SWC text


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
    return reordered(
        Skeleton(np.array(ids), np.array(kind), np.array(position), np.array(radius), np.array(parent)), draw(st.permutations(range(n)))
    )


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


# --------------------------------------------------------------------------------------------------------------------------- volumes

_SMALL_SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 30), st.integers(1, 30))


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Grids of any spacing that microscopes have, anisotropic, anywhere."""
    size = st.floats(0.05, 5.0)
    origin = st.floats(-1e4, 1e4)
    return Grid(draw(_SMALL_SHAPES), draw(st.tuples(size, size, size)), draw(st.tuples(origin, origin, origin)))


@st.composite
def array_specs(draw: st.DrawFn) -> ArraySpec:
    """Arrays whose chunks and shards divide nothing but each other."""
    chunk = draw(st.tuples(st.integers(1, 7), st.integers(1, 9), st.integers(1, 9)))
    shard = tuple(c * n for c, n in zip(chunk, draw(st.tuples(*[st.integers(1, 3)] * 3)), strict=True))
    dtype = draw(st.sampled_from(["uint8", "uint16", "int16", "float32"]))
    return ArraySpec(draw(_SMALL_SHAPES), chunk, (shard[0], shard[1], shard[2]), np.dtype(dtype), draw(st.sampled_from([0, 7])))


@st.composite
def sparse_voxels(draw: st.DrawFn, spec: ArraySpec) -> NDArray[Any]:
    """A whole array of `spec`: boxes of one value and of noise in the fill value."""
    voxels = np.full(spec.shape_zyx, spec.fill_value, spec.dtype)
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    for _ in range(draw(st.integers(0, 4))):
        box = tuple(slice(*sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n))))) for n in spec.shape_zyx)
        constant = draw(st.booleans())
        voxels[box] = draw(st.integers(0, 255)) if constant else noise.integers(0, 255, voxels[box].shape)
    return voxels


# ------------------------------------------------------------------------------------------------------- a source in miniature


def small_cell(
    specimen_id: int = 1, *, n_planes: int = 4, height_px: int = 300, width_px: int = 400, missing: Sequence[int] = (), **fields: Any
) -> Cell:
    """A mouse cell with a stack, an SWC and a marker file; `missing` planes are absent at the source. All ids follow from its own."""
    first = 1000 * specimen_id
    planes = tuple(
        Plane(k, 7 + k, None, usable=False, reason="absent at the source") if k in missing else Plane(k, 7 + k, first + k)
        for k in range(n_planes)
    )
    return Cell(
        **{
            "specimen_id": specimen_id,
            "name": f"cell {specimen_id}",
            "donor_id": 10 * specimen_id,
            "species": "Mus musculus",
            "line": "Pvalb-IRES-Cre",
            "layer": "2/3",
            "normalized_depth": 0.25,
            "soma_xyz_um": (9000.5, 1300.0, 8000.25),
            "reconstruction_id": first + 900,
            "reconstruction_type": "full",
            "swc_file_id": first + 901,
            "swc_url": f"/api/v2/well_known_file_download/{first + 901}",
            "marker_file_id": first + 902,
            "marker_url": f"/api/v2/well_known_file_download/{first + 902}",
            "stack": Stack(first + 999, width_px, height_px, 0.1144, 0.28, planes, projection_id=first + 998),
            **fields,
        }
    )


def small_picture(image_id: int, height_px: int, width_px: int) -> NDArray[np.uint8]:
    """Smooth grey values that differ from picture to picture and show any shift, flip or scaling."""
    y, x = np.mgrid[:height_px, :width_px]
    grey: NDArray[np.int64] = 40 + (7 * image_id + 2 * (y // 8) + 3 * (x // 16) + (y * x) // 4096) % 160
    return grey.astype(np.uint8)


def small_catalog(*cells: Cell) -> MemoryCatalog:
    """A mirror's catalog of `small_cell`s: `small_picture`s, their minimum as the projection, and one-branch skeletons."""
    files: dict[int, bytes] = {}
    pictures: dict[int, Picture] = {}
    for cell in cells:
        files |= {cell.swc_file_id: format_swc(cable(20.0))} if cell.swc_file_id else {}
        files |= {cell.marker_file_id: b"##x,y,z,radius,shape,name,comment,color_r,color_g,color_b\n"} if cell.marker_file_id else {}
        if cell.stack:
            size = (cell.stack.height_px, cell.stack.width_px)
            planes = {p.sub_image_id: small_picture(p.sub_image_id, *size) for p in cell.stack.planes if p.sub_image_id is not None}
            pictures |= {image_id: ArrayPicture(pixels) for image_id, pixels in planes.items()}
            if cell.stack.projection_id is not None:
                pictures[cell.stack.projection_id] = ArrayPicture(np.minimum.reduce(list(planes.values())))
    return MemoryCatalog(tables_of(cells), files, pictures)


# ------------------------------------------------------------------------------------------------- neurons on grids: the rasterizer


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


@st.composite
def grids_within(draw: st.DrawFn, reach_um: float) -> Grid:
    """Small, mostly anisotropic grids over a part of the space between 0 and `reach_um`."""
    size_z = draw(st.sampled_from([0.28, 0.5, 1.12, 2.0]) | st.floats(0.2, 3.0))
    size_xy = draw(st.sampled_from([0.1144, 0.2288, 0.5, 1.0]) | st.floats(0.1, 3.0))
    origin = draw(st.tuples(*[st.sampled_from([0.0, -3.0]) | st.floats(-5.0, reach_um - 3.0)] * 3))
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 24), st.integers(1, 24)))
    return Grid(shape, (size_z, size_xy, size_xy), origin)


@st.composite
def windows(draw: st.DrawFn, grid: Grid) -> Window:
    """Any box of voxels of a grid, empty ones too."""
    (z0, z1), (y0, y1), (x0, x1) = (sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in grid.shape_zyx)
    return ((z0, z1), (y0, y1), (x0, x1))


# ---------------------------------------------------------------------------------------------------------------------------- tables


def table_row(table: Table, **values: object) -> dict[str, object]:
    """A row that `table` accepts: `values`, and for columns that may not be null something of their type."""
    blank = {"string": "x", "bool": True, "double": 1.0}
    return {c.name: blank.get(str(c.type), 1) for c in table.columns if not c.nullable} | values
