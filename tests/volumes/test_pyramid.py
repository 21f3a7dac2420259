from __future__ import annotations

from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brightfield.core.space import Grid
from brightfield.volumes.pyramid import build_pyramid, masked_mean
from brightfield.volumes.volume import Volume, create_volume

FULL = Grid((9, 150, 130), (0.28, 0.1144, 0.1144))


def slow_mean(voxels: np.ndarray, fetched: np.ndarray, factor: tuple[int, int, int], fill: int) -> np.ndarray:
    """The definition, voxel by voxel, in exact fractions."""
    shape = [-(-n // f) for n, f in zip(voxels.shape, factor, strict=True)]
    out = np.full(shape, fill, voxels.dtype)
    for index in product(*map(range, shape)):
        box = tuple(slice(i * f, (i + 1) * f) for i, f in zip(index, factor, strict=True))
        known = [int(v) for v in voxels[box][fetched[box]]]
        if known:
            out[index] = (Fraction(sum(known), len(known)) + Fraction(1, 2)).__floor__()
    return out


def image(path: Path, voxels: np.ndarray, grid: Grid) -> Volume:
    levels = grid.pyramid(min_size_px=40)
    volume = create_volume(path, levels, voxels.dtype, chunk_zyx=(4, 16, 16), shard_zyx=(8, 32, 64))
    for shard in np.ndindex(volume.spec(0).n_shards_zyx):
        volume.write_dense_shard(0, shard, voxels[tuple(slice(*side) for side in volume.spec(0).shard_window(shard))])
    return volume


@given(
    st.tuples(*[st.integers(1, 5)] * 3), st.tuples(*[st.integers(1, 3)] * 3), st.integers(0, 2**32 - 1), st.sampled_from(["u1", "u2", "i2"])
)
@settings(max_examples=80, deadline=None)
def test_the_mean_is_the_definition(shape: tuple[int, int, int], factor: tuple[int, int, int], seed: int, dtype: str) -> None:
    random = np.random.default_rng(seed)
    limits = np.iinfo(dtype)
    voxels = random.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    fetched = random.random(shape) < 0.5
    np.testing.assert_array_equal(masked_mean(voxels, fetched, factor, 9), slow_mean(voxels, fetched, factor, 9))
    everything = np.ones(shape, np.bool_)
    np.testing.assert_array_equal(masked_mean(voxels, None, factor, 9), slow_mean(voxels, everything, factor, 9))


def test_every_level_is_the_mean_of_the_fetched_pixels_below(tmp_path: Path) -> None:
    boxes = [(0, 4, 0, 50, 0, 33), (4, 9, 25, 76, 16, 83), (2, 3, 140, 150, 127, 130)]
    fetched = np.zeros(FULL.shape_zyx, np.bool_)
    for z0, z1, y0, y1, x0, x1 in boxes:
        fetched[z0:z1, y0:y1, x0:x1] = True
    voxels = np.random.default_rng(1).integers(0, 256, FULL.shape_zyx, np.uint8) * fetched
    volume = image(tmp_path, voxels, FULL)
    build_pyramid(volume, boxes)
    assert [grid.shape_zyx for grid in volume.grids] == [(9, 150, 130), (9, 75, 65), (5, 38, 33)]
    for level, factor in ((1, (1, 2, 2)), (2, (2, 2, 2))):
        padded = slow_mean(voxels, fetched, factor, 0)
        np.testing.assert_array_equal(volume.read(level=level), padded)
        voxels, fetched = padded, slow_mean(fetched.astype(np.uint8), fetched, factor, 0).astype(np.bool_)


def test_a_border_of_unfetched_pixels_does_not_darken(tmp_path: Path) -> None:
    voxels = np.zeros(FULL.shape_zyx, np.uint8)
    voxels[:, 21:83, 17:101] = 189
    volume = image(tmp_path, voxels, FULL)
    build_pyramid(volume, [(0, 9, 21, 83, 17, 101)])
    for level in (1, 2):
        assert set(np.unique(volume.read(level=level))) == {0, 189}


def test_everything_counts_where_no_boxes_are_given(tmp_path: Path) -> None:
    voxels = np.random.default_rng(2).integers(0, 2**16, (5, 70, 60), np.uint16)
    volume = image(tmp_path, voxels, Grid((5, 70, 60), (0.28, 0.1144, 0.1144)))
    build_pyramid(volume)
    np.testing.assert_array_equal(volume.read(level=1), slow_mean(voxels, np.ones(voxels.shape, np.bool_), (1, 2, 2), 0))


def test_nothing_fetched_stores_nothing(tmp_path: Path) -> None:
    volume = image(tmp_path, np.zeros(FULL.shape_zyx, np.uint8), FULL)
    build_pyramid(volume, np.empty((0, 6)))
    assert [volume.stored_shards(level) for level in range(3)] == [[], [], []]


def test_threads_do_not_change_the_files(tmp_path: Path) -> None:
    voxels = np.random.default_rng(3).integers(0, 256, FULL.shape_zyx, np.uint8)
    stored = []
    for threads in (1, 2):
        volume = image(tmp_path / str(threads), voxels, FULL)
        build_pyramid(volume, threads=threads)
        stored.append([path.read_bytes() for path in sorted((tmp_path / str(threads)).rglob("*")) if path.is_file()])
    assert stored[0] == stored[1]


def test_labels_in_floats_have_no_mean(tmp_path: Path) -> None:
    volume = create_volume(tmp_path, [FULL], "float32", chunk_zyx=(4, 16, 16), shard_zyx=(8, 32, 64))
    with pytest.raises(ValueError, match="images of integers"):
        build_pyramid(volume)
