"""Makers, Hypothesis strategies and faults: what our tests are made of, for yours too. Needs the development dependencies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from brightfield.core.files import sha256_file
from brightfield.core.schema import Table
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid
from brightfield.testing.skeletons import cable

if TYPE_CHECKING:
    from pathlib import Path

    from brightfield.config.options import Config

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

    image = ImageConfig(level=0, z_step=1, tile_px=64, chunk_zyx=[12, 128, 192], shard_zyx=[24, 128, 192])
    labels = LabelsConfig(kind=LabelKind(label_kind))
    mix = {"axon": 0.0, "soma": 0.0, "hard_negative": 0.0}  # a cable of dendrite in noise has none of these
    return Config(image=image, labels=labels, patches=PatchesConfig(**{"size_zyx": [8, 16, 16], "per_cell": 20, **mix, **patches}))


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
    from brightfield.core.files import write_json
    from brightfield.core.keys import BY_CELL
    from brightfield.core.layout import CHECKS_FILE, SOURCE_KEY_FILE, keys_file, skeleton_file
    from brightfield.core.schema import ALIGNMENT_CELLS, CELLS, MANIFEST, PATCHES, SPLITS
    from brightfield.core.tables import read_table, write_table
    from brightfield.splitting.assign import assign
    from brightfield.stages.manifest.card import write_card, write_croissant
    from brightfield.stages.manifest.hub import write_hub
    from brightfield.stages.manifest.listing import write_listing
    from brightfield.stages.manifest.nodes import export_swc
    from brightfield.stages.manifest.patches import sample, weigh
    from brightfield.stages.manifest.table import build_manifest
    from brightfield.stages.manifest.voxels import voxels_of

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
    weigh(root, config.patches)
    for cell in built.values():
        export_swc(cell.specimen_id, cell.skeleton, cell.grid, root)
    write_hub(root)
    write_card(root, config)
    write_croissant(root, config)
    for file in (CHECKS_FILE, SOURCE_KEY_FILE, *map(keys_file, BY_CELL)):
        write_json(root / file, {})
    write_listing(root)


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
    from brightfield.core.swc import write_swc
    from brightfield.core.tables import frame_of, write_table
    from brightfield.stages.manifest.nodes import export_swc, nodes_frame

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
        export_swc(specimen_id, skeleton, grid, root)
        nodes.append(nodes_frame(specimen_id, skeleton, (), grid, 0.23, {}, stretch_um=config.align.stretch_um))
    for table, of_table in found.items():
        write_table(table, frame_of(table, of_table), root)
    write_table(NODES, pd.concat(nodes), root)


def _write_volumes(
    root: Path, config: Config, specimen_id: int, skeleton: Skeleton, grid: Grid
) -> tuple[list[dict[str, object]], dict[str, object]]:
    """Image, labels and reasons; the last 64 columns are not downloaded. Returns the rows of tiles and of label statistics."""
    from brightfield.core.layout import image_store, label_store
    from brightfield.core.schema import TILES
    from brightfield.core.tables import frame_of
    from brightfield.stages.rasterize.labels import downloaded_boxes, write_labels
    from brightfield.stages.rasterize.plan import LabelPlan
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
    rules = config.labels
    stats = write_labels(root / label_store(specimen_id), skeleton, grid, plan, rules, **layout)
    return tiles, stats.to_row(specimen_id)
