from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brightfield.core.errors import StackError
from brightfield.core.space import Grid
from brightfield.testing.grids import array_specs, sparse_voxels, windows
from brightfield.volumes import reader
from brightfield.volumes.reader import WindowReader, reader_of
from brightfield.volumes.shards import ArraySpec
from brightfield.volumes.volume import Volume, create_volume, open_volume

GRID = Grid((8, 64, 96), (0.28, 0.1144, 0.1144))
NOISE = np.random.default_rng(0).integers(0, 255, GRID.shape_zyx, np.uint8)
NOISE[:, 32:, 64:] = 0  # a shard that holds nothing


def written(path: Path, voxels: np.ndarray = NOISE, fill_value: int = 0) -> Volume:
    """A volume of 2 x 3 shards of 8 chunks."""
    grid = Grid(voxels.shape, GRID.voxel_size_zyx_um)
    volume = create_volume(path, [grid], voxels.dtype, chunk_zyx=(4, 16, 16), shard_zyx=(8, 32, 32), fill_value=fill_value)
    _fill(volume, voxels)
    return open_volume(path)


def _fill(volume: Volume, voxels: np.ndarray) -> None:
    spec = volume.spec()
    for shard in np.ndindex(spec.n_shards_zyx):
        chunks = {}
        for inner in spec.inner_indices(shard):
            chunk = spec.empty_chunk()
            part = voxels[tuple(slice(*side) for side in spec.chunk_window(shard, inner))]
            chunk[tuple(map(slice, part.shape))] = part
            chunks[inner] = chunk
        volume.write_shard(0, shard, chunks)


@settings(max_examples=60)
@given(st.data())
def test_any_window_of_any_layout_holds_the_voxels_that_were_written(data: st.DataObject) -> None:
    spec: ArraySpec = data.draw(array_specs())
    voxels = data.draw(sparse_voxels(spec))
    with tempfile.TemporaryDirectory() as folder:
        grid = Grid(spec.shape_zyx, (1.0, 1.0, 1.0))
        layout = {"chunk_zyx": spec.chunk_zyx, "shard_zyx": spec.shard_zyx, "fill_value": spec.fill_value}
        volume = create_volume(Path(folder) / "v", [grid], spec.dtype, **layout)
        _fill(volume, voxels)
        read = reader_of(volume)
        for _ in range(3):
            window = data.draw(windows(grid))
            found = read(window)
            assert found.dtype == spec.dtype
            np.testing.assert_array_equal(found, voxels[tuple(slice(*side) for side in window)])
            np.testing.assert_array_equal(found, volume.read(window))


def test_what_is_read_is_the_callers_own(tmp_path: Path) -> None:
    read = reader_of(written(tmp_path / "v", np.full((8, 32, 32), 7, np.uint8)))
    read(((0, 8), (0, 32), (0, 32)))[:] = 0
    assert (read(((0, 8), (0, 32), (0, 32))) == 7).all()


def test_a_volume_that_others_wrote_is_read_as_zarr_reads_it(tmp_path: Path) -> None:
    volume = written(tmp_path / "v")
    file = tmp_path / "v" / "0" / "zarr.json"
    file.write_text(file.read_text() + "\n")
    read = reader_of(open_volume(tmp_path / "v"))
    assert getattr(read, "__self__", None).__class__ is not WindowReader
    np.testing.assert_array_equal(read(volume.grid.window), NOISE)


@pytest.mark.parametrize(("where", "what"), [(10, "a chunk fails"), (-10, "index fails")])
def test_a_damaged_shard_is_named(tmp_path: Path, where: int, what: str) -> None:
    volume = written(tmp_path / "v")
    path = volume.shard_path(0, (0, 0, 1))
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)
    with pytest.raises(StackError, match=what) as error:
        reader_of(volume)(volume.grid.window)
    assert error.value.path == path


def test_few_files_stay_open_however_many_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_OPEN", reader._OpenShards(3))
    before = len(os.listdir("/proc/self/fd"))
    reads = [reader_of(written(tmp_path / str(k))) for k in range(4)]
    for read in reads * 2:
        np.testing.assert_array_equal(read(GRID.window), NOISE)
    assert before < len(os.listdir("/proc/self/fd")) <= before + 3


def test_many_threads_read_while_files_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_OPEN", reader._OpenShards(1))
    reads = [reader_of(written(tmp_path / str(k), NOISE + k)) for k in range(3)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda k: reads[k % 3](GRID.window), range(60)))
    assert all((voxels == NOISE + k % 3).all() for k, voxels in enumerate(found))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # pytest's own threads are no danger to a child that only reads
def test_a_fork_reads_on_with_what_its_parent_opened(tmp_path: Path) -> None:
    read = reader_of(written(tmp_path / "v"))
    read(((0, 1), (0, 64), (0, 96)))
    shutil.rmtree(tmp_path / "v")  # so that only the open files can answer
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put(read(GRID.window)))
    child.start()
    np.testing.assert_array_equal(queue.get(timeout=60), NOISE)
    child.join()
