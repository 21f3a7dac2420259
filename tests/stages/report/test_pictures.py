"""Pictures: what was not downloaded is never shown as tissue, and the arbor lies where the voxels are."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from brightfield.core.codes import LABEL_COLOURS_RGB, Label
from brightfield.core.space import Grid
from brightfield.stages.report import pictures
from brightfield.stages.report.pictures import centre_voxel, coverage, overlay, projection, save, slices, thumbnail, tinted
from brightfield.volumes.volume import Volume, create_volume


def volume_of(path: Path, voxels: np.ndarray) -> Volume:
    """A volume of one level in one shard."""
    grid = Grid(voxels.shape, (1.0, 0.5, 0.5))
    volume = create_volume(path, [grid], voxels.dtype, fill_value=0, chunk_zyx=(4, 8, 8), shard_zyx=(16, 64, 64))
    volume.write_dense_shard(0, (0, 0, 0), voxels)
    return volume


def tiles_of(*boxes: tuple[int, int, int, int]) -> pd.DataFrame:
    return pd.DataFrame([(0, *box, "ok") for box in boxes], columns=["z", "y0", "y1", "x0", "x1", "state"])


def test_a_projection_is_the_darkest_voxel_and_hatched_where_nothing_came(tmp_path: Path) -> None:
    voxels = np.full((8, 32, 48), 190, np.uint8)
    voxels[3, 10, 20] = 40
    voxels[:, :, 32:] = 0
    seen = projection(volume_of(tmp_path / "1.zarr", voxels), tiles_of((0, 32, 0, 32)))
    assert seen.shape == (32, 48)
    assert seen[10, 20] == 40
    assert (np.delete(seen[:, :32].ravel(), 10 * 32 + 20) == 190).all()
    assert set(np.unique(seen[:, 32:])) == {pictures._PAPER, pictures._HATCH}


def test_a_plane_that_did_not_come_does_not_darken_the_projection(tmp_path: Path) -> None:
    voxels = np.full((8, 16, 16), 190, np.uint8)
    voxels[2] = 0
    assert (projection(volume_of(tmp_path / "1.zarr", voxels), tiles_of((0, 16, 0, 16))) == 190).all()


def test_a_large_projection_is_shrunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "PROJECTION_PX", 20)
    voxels = np.random.default_rng(0).integers(1, 255, (4, 32, 50)).astype(np.uint8)
    seen = projection(volume_of(tmp_path / "1.zarr", voxels), tiles_of((0, 32, 0, 50)))
    lowest = voxels.min(axis=0)[:30, :48].reshape(10, 3, 16, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(seen, lowest, atol=0.5)


def test_coverage_counts_only_what_came() -> None:
    tiles = tiles_of((0, 8, 0, 8), (8, 16, 8, 16))
    tiles.loc[1, "state"] = "missing"
    covered = coverage(tiles, (8, 8), 2.0)
    assert covered[:4, :4].all()
    assert covered.sum() == 16


def test_the_overlay_has_every_edge_once_through_voxel_centres() -> None:
    nodes = pd.DataFrame(
        {
            "node_id": [1, 2, 3, 4, 5],
            "parent_id": pd.array([None, 1, 2, 2, 1], "Int64"),
            "label": [1, 3, 3, 3, 2],
            "x_vox": [0.0, 4.0, 8.0, 4.0, 9.0],
            "y_vox": [0.0, 0.0, 0.0, 6.0, 9.0],
        }
    )
    arbor = overlay(nodes, (20, 30))
    assert (arbor.width, arbor.height) == (30, 20)
    by_name = {name: data for _, name, data in arbor.paths}
    assert by_name == {"basal dendrite": "M0.5 0.5L4.5 0.5L8.5 0.5M4.5 0.5L4.5 6.5", "axon": "M0.5 0.5L9.5 9.5"}
    assert sum(len(re.findall("L", data)) for data in by_name.values()) == 4


def test_slices_show_the_voxel_asked_for_in_the_proportions_of_tissue(tmp_path: Path) -> None:
    voxels = np.full((8, 32, 48), 190, np.uint8)
    voxels[5, 12, 30] = 20
    codes = np.zeros_like(voxels)
    codes[5, 12, 30] = Label.AXON
    image, labels = volume_of(tmp_path / "1.zarr", voxels), volume_of(tmp_path / "2.zarr", codes)
    along_z, along_y, along_x = slices(image, labels, (5, 12, 30))
    assert along_z.raw.shape == (32, 48)
    assert along_z.raw[12, 30] == 20
    assert along_y.raw.shape == (16, 48)
    assert along_x.raw.shape == (16, 32)
    for cut in (along_z, along_y, along_x):
        assert cut.raw.min() == 20
        assert (cut.tinted.max(axis=-1) != cut.tinted.min(axis=-1)).sum() == (cut.raw == 20).sum()


def test_labels_tint_and_unknown_only_dims() -> None:
    grey = np.full((1, 3), 100, np.uint8)
    colours = tinted(grey, np.array([[0, int(Label.AXON), int(Label.UNKNOWN)]], np.uint8))
    np.testing.assert_array_equal(colours[0, 0], [100, 100, 100])
    np.testing.assert_allclose(colours[0, 1], 100 * 0.45 + np.array(LABEL_COLOURS_RGB[Label.AXON]) * 0.55, atol=0.5)
    assert len(set(colours[0, 2].tolist())) == 1


def test_the_centre_is_the_soma_and_lies_within_the_volume() -> None:
    nodes = pd.DataFrame({"node_id": [2, 1], "label": [3, 1], "z_vox": [1.0, 90.0], "y_vox": [1.0, 5.4], "x_vox": [1.0, 6.6]})
    assert centre_voxel(nodes, (10, 20, 30)) == (9, 5, 7)
    assert centre_voxel(nodes[nodes["label"] == 3], (10, 20, 30)) == (1, 1, 1)


def test_a_thumbnail_is_small_and_has_the_arbor_in_its_colour_where_it_lies() -> None:
    nodes = pd.DataFrame(
        {"node_id": [1, 2], "parent_id": pd.array([None, 1], "Int64"), "label": [1, 2], "x_vox": [0.0, 1999.0], "y_vox": [0.0, 999.0]}
    )
    seen = thumbnail(np.full((320, 640), 200, np.uint8), nodes, (1000, 2000)).astype(int)
    assert seen.shape == (66, pictures.THUMBNAIL_PX, 3)
    bluish = seen[..., 2] - seen[..., 0] > 60
    assert bluish[33, 66]
    assert not bluish[:20, 80:].any()
    assert not bluish[46:, :50].any()


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_pictures_carry_no_metadata(tmp_path: Path, name: str) -> None:
    found = save(np.zeros((2, 3), np.uint8), tmp_path / name, "x")
    assert (found.file, found.width, found.height) == (name, 3, 2)
    with Image.open(tmp_path / name) as picture:
        assert picture.size == (3, 2)
        assert not picture.getexif()
        assert set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
