"""A small dataset whose first cell has stain around its skeleton."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from brightfield.core.codes import Verdict
from brightfield.core.layout import image_store
from brightfield.core.schema import ALIGNMENT, FINDINGS
from brightfield.core.tables import frame_of, read_table, write_table
from brightfield.testing.dataset import DATASET_CELLS, make_dataset, table_row
from brightfield.volumes.pyramid import build_pyramid
from brightfield.volumes.volume import open_volume

CELL = DATASET_CELLS[0]
MARKERS = "##x,y,z,radius,shape,name,comment, color_r,color_g,color_b\n105.5,24.5,11,0,1,10,,255,0,0\n15.5,24.5,11,0,1,30,,255,0,0\n"


def paint(root: Path) -> None:
    """Dark voxels within 1.2 um of the neurite, which runs along x from (z, y, x) = (10, 24, 15) um; darker ones in the soma."""
    image = open_volume(root / image_store(CELL))
    pixels = image.read()
    z, y, x = np.moveaxis(image.grid.to_um(np.moveaxis(np.indices(pixels.shape), 0, -1)), -1, 0)
    away = np.hypot(z - 10, y - 24)
    pixels[(away < 1.2) & (x >= 15) & (x <= 105)] = 60
    pixels[np.hypot(away, x - 15) < 4] = 30
    for shard in np.ndindex(image.spec(0).n_shards_zyx):
        image.write_dense_shard(0, shard, pixels[tuple(slice(*side) for side in image.spec(0).shard_window(shard))])
    build_pyramid(image)


def spoil(root: Path) -> None:
    """The first cell's second stretch is NOT ON, and the second cell has a finding."""
    alignment = read_table(ALIGNMENT, root)
    alignment.loc[(alignment["specimen_id"] == CELL) & (alignment["stretch"] == 1), "verdict"] = Verdict.NOT_ON.value
    write_table(ALIGNMENT, alignment, root)
    found = table_row(FINDINGS, specimen_id=DATASET_CELLS[1], check="marker-tip")
    write_table(FINDINGS, frame_of(FINDINGS, [found]), root)


@pytest.fixture(scope="session")
def stained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of the dataset; do not change it."""
    root = tmp_path_factory.mktemp("stained")
    make_dataset(root)
    paint(root)
    spoil(root)
    (root / "data" / "skeletons" / f"{CELL}.marker").write_text(MARKERS)
    return root
