from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models import open_ome_zarr
from ome_zarr_models.v05.image import Image
from ome_zarr_models.v05.image_label import ImageLabel

from brightfield.core.errors import GridError, StackError
from brightfield.core.space import Grid
from brightfield.testing.grids import array_specs, grids, sparse_voxels
from brightfield.volumes.ome import LabelMeta
from brightfield.volumes.shards import ArraySpec
from brightfield.volumes.volume import Volume, create_volume, open_volume

GRID = Grid((20, 70, 90), (0.28, 0.1144, 0.1144), (0.0, 0.0572, 0.0572))
META = LabelMeta({0: (0, 0, 0, 0), 2: (0, 114, 178, 255)}, "../../images/7.zarr", {0: "background", 2: "axon"})


def write(volume: Volume, level: int, voxels: np.ndarray, shards: Sequence[tuple[int, int, int]] | None = None, threads: int = 1) -> None:
    spec = volume.spec(level)
    for shard in shards or list(np.ndindex(spec.n_shards_zyx)):
        box = tuple(slice(*side) for side in spec.shard_window(shard))
        volume.write_dense_shard(level, shard, voxels[box], threads=threads)


def new(path: Path, grids: Sequence[Grid] = (GRID,), label: LabelMeta | None = None, **attributes: object) -> Volume:
    return create_volume(path, grids, "uint8", chunk_zyx=(8, 16, 16), shard_zyx=(16, 32, 64), label=label, attributes=attributes)


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 5, shape, np.uint8)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def in_tensorstore(path: Path) -> np.ndarray:
    array = tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}, read=True).result()
    return np.asarray(array.read().result())


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_two_readers_read_back_what_was_written(data: st.DataObject) -> None:
    spec = data.draw(array_specs())
    voxels = data.draw(sparse_voxels(spec))
    with tempfile.TemporaryDirectory() as folder:
        grid = Grid(spec.shape_zyx, (1.0, 1.0, 1.0))
        volume = create_volume(
            Path(folder), [grid], spec.dtype, chunk_zyx=spec.chunk_zyx, shard_zyx=spec.shard_zyx, fill_value=spec.fill_value
        )
        write(volume, 0, voxels, threads=data.draw(st.integers(1, 2)))
        np.testing.assert_array_equal(zarr.open_array(Path(folder) / "0", mode="r")[:], voxels)
        np.testing.assert_array_equal(in_tensorstore(Path(folder) / "0"), voxels)
        reopened = open_volume(folder)
        assert reopened.spec(0) == volume.spec(0) == ArraySpec.fitted(*spec_fields(spec))
        np.testing.assert_array_equal(reopened.stored_chunks(), chunks_that_differ(volume.spec(0), voxels))


def spec_fields(spec: ArraySpec) -> tuple[object, ...]:
    return spec.shape_zyx, spec.chunk_zyx, spec.shard_zyx, spec.dtype, spec.fill_value


def chunks_that_differ(spec: ArraySpec, voxels: np.ndarray) -> np.ndarray:
    differ = np.argwhere(voxels != spec.fill_value) // spec.chunk_zyx
    return np.unique(differ, axis=0) if len(differ) else differ.reshape(0, 3)


@given(st.permutations(list(np.ndindex(2, 3, 2))), st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_any_order_of_the_shards_gives_the_same_files(order: list[tuple[int, int, int]], threads: int) -> None:
    voxels = noise(GRID.shape_zyx)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        write(new(Path(one), b=1, a=2), 0, voxels)
        write(new(Path(two), a=2, b=1), 0, voxels, order, threads)
        assert files(Path(one)) == files(Path(two))


def test_writing_a_shard_again_changes_nothing_and_leaves_nothing_behind(tmp_path: Path) -> None:
    volume = new(tmp_path)
    write(volume, 0, noise(GRID.shape_zyx))
    before = files(tmp_path)
    (tmp_path / "0/c/0/0/.0.part").write_bytes(b"killed here")
    write(volume, 0, noise(GRID.shape_zyx))
    assert files(tmp_path) == before


def test_a_shard_of_nothing_is_not_stored_even_after_something(tmp_path: Path) -> None:
    volume = new(tmp_path)
    assert volume.write_shard(0, (0, 0, 0), {(0, 0, 0): 3}) == volume.shard_path(0, (0, 0, 0)).stat().st_size
    assert volume.stored_shards() == [(0, 0, 0)]
    assert volume.write_shard(0, (0, 0, 0), {(0, 0, 0): 0}) == 0
    assert volume.stored_shards() == []
    assert volume.stored_chunks().shape == (0, 3)
    assert not volume.read().any()


def test_a_written_file_is_replaced_and_never_written_in_place(tmp_path: Path) -> None:
    volume = new(tmp_path / "a")
    volume.write_shard(0, (0, 0, 0), {(0, 0, 0): 3})
    shard = volume.shard_path(0, (0, 0, 0))
    os.link(shard, tmp_path / "linked")
    before = shard.read_bytes()
    volume.write_shard(0, (0, 0, 0), {(0, 0, 0): 4})
    assert (tmp_path / "linked").read_bytes() == before != shard.read_bytes()


def test_a_window_is_the_same_part_of_the_whole(tmp_path: Path) -> None:
    volume = new(tmp_path)
    voxels = noise(GRID.shape_zyx)
    write(volume, 0, voxels)
    np.testing.assert_array_equal(volume.read(((5, 19), (0, 70), (31, 33))), voxels[5:19, :, 31:33])
    assert volume.read(((3, 3), (0, 1), (0, 1))).shape == (0, 1, 1)


@pytest.mark.parametrize("window", [((0, 21), (0, 1), (0, 1)), ((-1, 2), (0, 1), (0, 1)), ((3, 2), (0, 1), (0, 1))])
def test_a_window_beyond_the_volume_is_refused(tmp_path: Path, window: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(GridError, match="cut it at the volume's end"):
        new(tmp_path).read(window)


@given(st.lists(grids(), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_grids_come_back_to_the_last_bit(levels: list[Grid]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        new(Path(folder), levels)
        assert open_volume(folder).grids == tuple(levels)


def test_attributes_come_back(tmp_path: Path) -> None:
    new(tmp_path, specimen_id=7, source={"url": "http://x/µ"})
    assert open_volume(tmp_path).attributes == {"specimen_id": 7, "source": {"url": "http://x/µ"}}


@pytest.mark.parametrize("position", [0, 30, -30])
def test_a_damaged_shard_is_detected_wherever_the_damage_is(tmp_path: Path, position: int) -> None:
    volume = new(tmp_path)
    write(volume, 0, noise(GRID.shape_zyx))
    shard = volume.shard_path(0, (0, 0, 0))
    data = bytearray(shard.read_bytes())
    data[position] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StackError, match=r"damaged.*dvc pull"):
        volume.read()


def test_ome_zarr_shows_the_labels_over_their_image(tmp_path: Path) -> None:
    levels = [GRID, GRID.binned((1, 2, 2))]
    image, labels = new(tmp_path / "images/7.zarr", levels), new(tmp_path / "labels/7.zarr", levels, META)
    for level, grid in enumerate(levels):
        write(image, level, noise(grid.shape_zyx))
        write(labels, level, noise(grid.shape_zyx, 1))
    below, top = Reader(parse_url(tmp_path / "labels/7.zarr"))()
    for node, seed in ((below, 0), (top, 1)):
        for array, grid in zip(node.data, levels, strict=True):
            np.testing.assert_array_equal(np.asarray(array), noise(grid.shape_zyx, seed))
    assert top.metadata["color"][2] == [0, 114 / 255, 178 / 255, 1]
    assert top.metadata["properties"][2] == {"name": "axon"}
    assert [axis["unit"] for axis in top.metadata["axes"]] == ["micrometer"] * 3


def test_the_metadata_pass_the_ome_models(tmp_path: Path) -> None:
    image, labels = new(tmp_path / "image", [GRID, GRID.binned((2, 2, 2))]), new(tmp_path / "labels", label=META)
    labels.create_sub("reason", "uint8")
    multiscale = Image.from_zarr(zarr.open_group(image.path, mode="r")).attributes.ome.multiscales[0]
    scale, translation = multiscale.datasets[1].coordinateTransformations
    np.testing.assert_allclose(scale.scale, (0.56, 0.2288, 0.2288))
    np.testing.assert_allclose(translation.translation, (0.14, 0.1144, 0.1144))
    assert isinstance(open_ome_zarr(zarr.open_group(labels.path, mode="r")), ImageLabel)
    assert isinstance(open_ome_zarr(zarr.open_group(labels.path / "reason", mode="r")), Image)


def test_a_sub_volume_lies_on_the_same_grids_and_shards(tmp_path: Path) -> None:
    labels = new(tmp_path, [GRID, GRID.binned((1, 2, 2))], META)
    reason = labels.create_sub("reason", "uint8")
    write(reason, 1, noise(labels.grids[1].shape_zyx))
    for opened in (open_volume(tmp_path).sub("reason"), open_volume(zarr.storage.LocalStore(tmp_path, read_only=True)).sub("reason")):
        assert opened.grids == labels.grids
        assert opened.specs == labels.specs
        np.testing.assert_array_equal(opened.read(level=1), noise(labels.grids[1].shape_zyx))
        np.testing.assert_array_equal(opened.stored_chunks(1), reason.stored_chunks(1))
        assert len(opened.stored_chunks(0)) == 0


def test_only_a_volume_in_a_directory_can_be_written(tmp_path: Path) -> None:
    new(tmp_path)
    with pytest.raises(StackError, match="local directory"):
        open_volume(zarr.storage.LocalStore(tmp_path, read_only=True)).write_shard(0, (0, 0, 0), {(0, 0, 0): 1})


def test_a_shard_that_does_not_belong_is_refused(tmp_path: Path) -> None:
    volume = new(tmp_path)
    with pytest.raises(ValueError, match="is not in level 0"):
        volume.write_shard(0, (2, 0, 0), {})
    with pytest.raises(ValueError, match="voxels"):
        volume.write_dense_shard(0, (0, 0, 0), np.zeros((1, 1, 1), np.uint8))


@pytest.mark.parametrize("level", ["", "1"])
def test_metadata_that_others_spelt_say_the_same_as_ours(tmp_path: Path, level: str) -> None:
    volume = new(tmp_path, [GRID, GRID.binned((1, 2, 2))], META, specimen_id=7)
    write(volume, 1, noise(volume.grids[1].shape_zyx))
    ours = open_volume(tmp_path)
    assert "arrays" not in vars(ours)  # zarr was not asked
    file = tmp_path / level / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | ({} if level else {"consolidated_metadata": None})))
    theirs = open_volume(tmp_path)
    assert "arrays" in vars(theirs)
    for found in (ours, theirs):
        assert (found.grids, found.specs, found.attributes) == (volume.grids, volume.specs, {"specimen_id": 7})
        assert [array.shape for array in found.arrays] == [grid.shape_zyx for grid in volume.grids]
        np.testing.assert_array_equal(found.read(level=1), noise(volume.grids[1].shape_zyx))
        np.testing.assert_array_equal(found.stored_chunks(1), volume.stored_chunks(1))


@given(array_specs())
def test_a_spec_is_read_back_from_its_metadata_and_from_no_other(spec: ArraySpec) -> None:
    text = spec.metadata_json()
    assert ArraySpec.from_json(text) == spec
    for other in (text.replace('"end"', '"start"'), text.replace("zstd", "lz4"), text.replace("\n", " "), text.replace('"/"', '"."')):
        with pytest.raises(ValueError, match="another way"):
            ArraySpec.from_json(other)


def test_what_is_no_volume_is_named(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=f"{tmp_path}/none: no volume here"):
        open_volume(tmp_path / "none")
    zarr.create_group(tmp_path / "other", attributes={"ome": {"version": "0.5", "multiscales": [{"axes": [{"name": "y"}]}]}})
    with pytest.raises(StackError, match="axes z, y, x in micrometres"):
        open_volume(tmp_path / "other")


def test_colours_and_names_are_for_the_same_labels() -> None:
    with pytest.raises(ValueError, match="OME-Zarr wants them equal"):
        LabelMeta({0: (0, 0, 0, 0)}, "x", {1: "soma"})


def test_a_window_read_directly_is_what_zarr_reads(tmp_path: Path) -> None:
    volume = new(tmp_path)
    write(volume, 0, noise(GRID.shape_zyx))
    volume.shard_path(0, volume.stored_shards()[-1]).unlink()  # an absent shard is fill value
    found = open_volume(tmp_path)
    random = np.random.default_rng(5)
    for _ in range(60):
        z, y, x = (tuple(sorted(random.integers(0, n + 1, 2).tolist())) for n in GRID.shape_zyx)
        assert np.array_equal(found.read((z, y, x)), found[slice(*z), slice(*y), slice(*x)])
