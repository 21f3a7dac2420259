"""Makers, Hypothesis strategies and faults: what our tests are made of, for yours too. Needs the development dependencies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from brightfield.core.cell import Cell, Plane, Stack
from brightfield.core.files import sha256_file
from brightfield.core.schema import Table
from brightfield.core.skeleton import Skeleton, format_swc
from brightfield.core.space import Grid, Triple, Window
from brightfield.sources.mirror.catalog import ArrayPicture, MemoryCatalog, Picture
from brightfield.sources.mirror.records import tables_of
from brightfield.volumes.shards import ArraySpec

if TYPE_CHECKING:
    from pathlib import Path

    from brightfield.config.options import Config

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


# --------------------------------------------------------------------------------------------------------- a dataset in miniature

DATASET_CELLS = (101, 102, 103, 104, 105)
"""On train, val, test; excluded by alignment; not selected."""


def dataset_config(label_kind: str = "semantic", **patches: Any) -> Config:
    """The configuration of `make_dataset`."""
    from brightfield.config.options import Config, ImageConfig, LabelKind, LabelsConfig, PatchesConfig

    image = ImageConfig(level=0, z_step=1, tile_px=64, chunk_zyx=[12, 96, 160], shard_zyx=[24, 96, 160])
    labels = LabelsConfig(kind=LabelKind(label_kind))
    return Config(image=image, labels=labels, patches=PatchesConfig(**{"size_zyx": [8, 16, 16], "per_cell": 20, **patches}))


def make_dataset(root: Path, config: Config | None = None) -> Config:
    """A small finished dataset below `root`: every table, volumes with two levels, a part not downloaded, card and Croissant."""
    from brightfield.config import compose as composition
    from brightfield.core.schema import CELLS, PLANES
    from brightfield.core.tables import frame_of, write_table

    config = config or dataset_config()
    root.mkdir(parents=True, exist_ok=True)
    composition.write_params(config, root)
    donors = _donors_by_side(config)
    rows = [_dataset_cell(i, donor) for i, donor in zip(DATASET_CELLS, donors, strict=True)]
    write_table(CELLS, frame_of(CELLS, rows), root)
    planes = [table_row(PLANES, specimen_id=i, plane=k, section_number=k, usable=True) for i in DATASET_CELLS[:4] for k in range(24)]
    write_table(PLANES, frame_of(PLANES, planes), root)
    _write_cells(root, config, rows[:4])
    publish(root, config)
    return config


def publish(root: Path, config: Config) -> None:
    """Build what stands at the end of the pipeline again, from the tables and volumes below `root`."""
    import pandas as pd

    from brightfield.built.cells import built_cells
    from brightfield.core.layout import skeleton_file
    from brightfield.core.schema import ALIGNMENT_CELLS, CELLS, MANIFEST, PATCHES, SPLITS
    from brightfield.core.tables import read_table, write_table
    from brightfield.splitting.assign import assign
    from brightfield.stages.manifest.card import write_card, write_croissant
    from brightfield.stages.manifest.patches import sample, voxels_of
    from brightfield.stages.manifest.table import build_manifest

    hashes = {i: sha256_file(root / skeleton_file(i)) for i in DATASET_CELLS[:4]}
    splits = assign(read_table(CELLS, root), config.split, swc_sha256=hashes, alignment=read_table(ALIGNMENT_CELLS, root))
    write_table(SPLITS, splits, root)
    write_table(MANIFEST, build_manifest(root, config, source_url="test"), root)
    taken = [row for row in splits.to_dict("records") if row["split"] != "excluded"]
    folds = [None if pd.isna(row["fold"]) else row["fold"] for row in taken]
    built = {cell.specimen_id: cell for cell in built_cells(root, config)}
    cells = [
        sample(voxels_of(built[row["specimen_id"]]), config.patches, split=row["split"], fold=fold)
        for row, fold in zip(taken, folds, strict=True)
    ]
    write_table(PATCHES, pd.concat(cells), root)
    write_card(root, config)
    write_croissant(root, config)


def _donors_by_side(config: Config) -> list[int]:
    """Donors that draw train, val, test, train and train."""
    from brightfield.splitting.groups import side_of

    sides = {side: [d for d in range(1, 200) if side_of(str(d), config.split) == side] for side in ("train", "val", "test")}
    return [sides["train"][0], sides["val"][0], sides["test"][0], sides["train"][1], sides["train"][2]]


def _dataset_cell(specimen_id: int, donor_id: int) -> dict[str, object]:
    from brightfield.core.schema import CELLS

    taken = specimen_id != DATASET_CELLS[-1]
    stack = {"n_planes": 24, "n_planes_missing": 0, "width_px": 320, "height_px": 96, "pixel_um": 0.5, "plane_um": 1.0}
    return table_row(
        CELLS,
        specimen_id=specimen_id,
        donor_id=donor_id,
        species="Mus musculus",
        reconstruction_type="full",
        dendrite_type="spiny",
        layer="5",
        image_series_id=specimen_id + 7000 if taken else None,
        selected=taken,
        reason=None if taken else "the source has no image stack for it",
        **(stack if taken else {}),
    )


def _write_cells(root: Path, config: Config, rows: Sequence[dict[str, Any]]) -> None:
    """Skeletons, volumes, and the tables of download, labels, alignment and nodes."""
    import pandas as pd

    from brightfield.core.layout import SKELETONS_DIR, skeleton_file
    from brightfield.core.schema import ALIGNMENT, ALIGNMENT_CELLS, FINDINGS, LABEL_STATS, NODES, TILES
    from brightfield.core.skeleton import write_swc
    from brightfield.core.tables import frame_of, write_table
    from brightfield.stages.manifest.nodes import nodes_frame

    found: dict[Table, list[dict[str, object]]] = {table: [] for table in (TILES, LABEL_STATS, FINDINGS, ALIGNMENT, ALIGNMENT_CELLS)}
    nodes: list[pd.DataFrame] = []
    for number, row in enumerate(rows):
        specimen_id = row["specimen_id"]
        skeleton = cable(90.0, kind=3, start_zyx_um=(10.0 + number, 24.0, 15.0))
        grid = Grid((24, 96, 320), (1.0, 0.5, 0.5))
        (root / SKELETONS_DIR).mkdir(parents=True, exist_ok=True)
        write_swc(skeleton, root / skeleton_file(specimen_id))
        tiles, stats = _write_volumes(root, config, specimen_id, skeleton, grid)
        found[TILES] += tiles
        found[LABEL_STATS].append(stats)
        stretches = np.unique(skeleton.stretches(config.align.stretch_um))
        found[ALIGNMENT] += [
            table_row(ALIGNMENT, specimen_id=specimen_id, stretch=int(k), d_prime=6.0, verdict="ON") for k in stretches if k >= 0
        ]
        grade = {"grade": "rejected", "reason": "y flip fits better"} if specimen_id == DATASET_CELLS[3] else {"grade": "A"}
        found[ALIGNMENT_CELLS].append(table_row(ALIGNMENT_CELLS, specimen_id=specimen_id, best_transform="identity", **grade))
        nodes.append(nodes_frame(specimen_id, skeleton, (), grid, 0.23, {}, stretch_um=config.align.stretch_um))
    for table, of_table in found.items():
        write_table(table, frame_of(table, of_table), root)
    write_table(NODES, pd.concat(nodes), root)


def _write_volumes(
    root: Path, config: Config, specimen_id: int, skeleton: Skeleton, grid: Grid
) -> tuple[list[dict[str, object]], dict[str, object]]:
    """Image, labels and reasons; the last 64 columns are not downloaded. Returns the rows of tiles and of label statistics."""
    from dataclasses import asdict

    from brightfield.core.layout import image_store, label_store
    from brightfield.core.schema import TILES
    from brightfield.core.tables import frame_of
    from brightfield.stages.rasterize.labels import LabelPlan, LabelRules, downloaded_boxes, write_labels
    from brightfield.volumes.pyramid import build_pyramid
    from brightfield.volumes.volume import create_volume

    tiles = [
        table_row(TILES, specimen_id=specimen_id, z=z, y0=y, y1=min(y + 64, 96), x0=x, x1=x + 64, kind="skeleton", state="ok", bytes=4096)
        for z in range(24)
        for y in (0, 64)
        for x in (0, 64, 128, 192)
    ]
    boxes = downloaded_boxes(frame_of(TILES, tiles))
    layout: Any = {"chunk_zyx": tuple(config.image.chunk_zyx), "shard_zyx": tuple(config.image.shard_zyx)}
    image = create_volume(root / image_store(specimen_id), grid.pyramid(), "uint8", **layout)
    pixels = np.random.default_rng(specimen_id).integers(180, 200, grid.shape_zyx).astype(np.uint8)
    pixels[:, :, 256:] = 0
    for shard in np.ndindex(image.spec(0).n_shards_zyx):
        image.write_dense_shard(0, shard, pixels[tuple(slice(*side) for side in image.spec(0).shard_window(shard))])
    build_pyramid(image, boxes)
    plan = LabelPlan(downloaded=boxes, reconstruction_type="full")
    rules = LabelRules.of(asdict(config.labels))
    stats = write_labels(root / label_store(specimen_id), skeleton, grid, plan, rules, **layout)
    return tiles, stats.to_row(specimen_id)


# ---------------------------------------------------------------------------------------------------------------- stained tissue


def stain(skeleton: Skeleton, grid: Grid, seed: int = 0, *, darkness: float = 0.5, noise: float = 2.3) -> NDArray[np.uint8]:
    """A quick picture of a stained skeleton on a small grid: Gaussian tubes in noisy tissue of grey 189."""
    absorbed = np.zeros(grid.shape_zyx)
    for parent, child in skeleton.edges.tolist():
        start, end = skeleton.position_zyx_um[[parent, child]]
        radius = max(float(skeleton.radius_um[child]), 0.3)
        for share in np.linspace(0, 1, int(skeleton.edge_length_um[child] / 0.25) + 2):
            _darken(absorbed, grid, start + share * (end - start), np.array([0.7, radius, radius]), darkness)
    for index in np.flatnonzero(skeleton.type == 1):
        _darken(absorbed, grid, skeleton.position_zyx_um[index], np.full(3, skeleton.radius_um[index] / 1.5), 2.0)
    random = np.random.Generator(np.random.PCG64(seed))
    grey = 189 * np.exp(-absorbed) + noise * random.standard_normal(grid.shape_zyx)
    return np.clip(np.round(grey), 0, 255).astype(np.uint8)


def _darken(absorbed: NDArray[np.float64], grid: Grid, centre: NDArray[np.float64], sigma_um: NDArray[np.float64], peak: float) -> None:
    low = np.maximum(grid.to_index(centre - 3 * sigma_um), 0)
    high = np.minimum(grid.to_index(centre + 3 * sigma_um) + 1, grid.shape_zyx)
    if (low < high).all():
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        axes = np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij")
        away = (grid.to_um(np.stack(axes, axis=-1)) - centre) / sigma_um
        absorbed[box] = np.maximum(absorbed[box], peak * np.exp(-0.5 * (away**2).sum(axis=-1)))
