from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numcodecs import blosc

from brightfield.core.errors import GridError, StackError
from brightfield.testing.grids import array_specs
from brightfield.volumes.shards import ArraySpec, Chunk, Index, ShardFile, decode_index, encode_chunk, shard_parts, stored_in

SPEC = ArraySpec((8, 64, 64), (4, 16, 16), (8, 64, 64), np.dtype("uint8"))


def noisy_chunks(seed: int = 0) -> dict[Index, Chunk]:
    noise = np.random.default_rng(seed)
    return {(z, y, x): noise.integers(0, 9, SPEC.chunk_zyx, np.uint8) for z in range(2) for y in range(4) for x in range(4)}


def encode_shard(spec: ArraySpec, chunks: Mapping[Index, Chunk], *, threads: int = 1) -> bytes:
    return b"".join(shard_parts(spec, chunks, threads=threads))


def index_of(data: bytes) -> np.ndarray:
    return decode_index(SPEC, data[-SPEC.index_bytes :], "here")


@pytest.fixture
def _blosc_switch() -> Iterator[None]:
    before = blosc.use_threads
    yield
    blosc.use_threads = before


@given(st.permutations(sorted(noisy_chunks())), st.integers(1, 4))
def test_the_bytes_know_neither_the_order_of_the_chunks_nor_the_threads(order: list[Index], threads: int) -> None:
    chunks = noisy_chunks()
    assert encode_shard(SPEC, {inner: chunks[inner] for inner in order}, threads=threads) == encode_shard(SPEC, chunks)


@given(st.permutations(sorted(noisy_chunks())), st.integers(0, 32), st.integers(0, 32))
def test_a_shard_that_grows_chunk_by_chunk_has_the_same_bytes(order: list[Index], n_expected: int, n_empty: int) -> None:
    chunks = dict(list(noisy_chunks().items())[:n_expected]) | dict.fromkeys(order[:n_empty], 0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "c", "0")
        file = ShardFile(SPEC, path, chunks)
        for inner in (inner for inner in order if inner in chunks):
            file.add(inner, encode_chunk(SPEC, inner, chunks[inner]))
        stored = file.finish()
        expected = encode_shard(SPEC, chunks)
        assert stored == bool(expected)
        assert [found.read_bytes() for found in path.parent.iterdir()] == ([expected] if expected else [])
        assert (file.n_bytes, file.crc32c) == (len(expected), google_crc32c.value(expected))


def test_a_shard_that_is_not_complete_is_never_put_in_place(tmp_path: Path) -> None:
    path = tmp_path / "c" / "0"
    chunks = noisy_chunks()
    file = ShardFile(SPEC, path, chunks)
    for inner in sorted(chunks)[:-1]:
        file.add(inner, encode_chunk(SPEC, inner, chunks[inner]))
    with pytest.raises(ValueError, match="did not come"):
        file.finish()
    assert not path.exists()
    again = ShardFile(SPEC, path, chunks)  # what the first one left is not in the way
    for inner in chunks:
        again.add(inner, encode_chunk(SPEC, inner, chunks[inner]))
    assert again.finish()
    assert path.read_bytes() == encode_shard(SPEC, chunks)


def test_a_shard_that_could_not_be_written_is_never_put_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, chunks = tmp_path / "c" / "0", noisy_chunks()
    file = ShardFile(SPEC, path, chunks)
    encoded = {inner: encode_chunk(SPEC, inner, chunk) for inner, chunk in chunks.items()}
    first, *others = sorted(encoded)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Path, "open", refuse)
        with pytest.raises(OSError, match="No space"):
            file.add(first, encoded[first])
    for inner in others:
        file.add(inner, encoded[inner])
    with pytest.raises(ValueError, match="could not be written"):
        file.finish()
    assert not path.exists()


@pytest.mark.usefixtures("_blosc_switch")
def test_the_bytes_do_not_change_while_others_switch_blosc_to_threads() -> None:
    expected = encode_shard(SPEC, noisy_chunks())
    stop = threading.Event()

    def switch() -> None:
        while not stop.is_set():
            blosc.use_threads = True

    other = threading.Thread(target=switch)
    other.start()
    try:
        found = {encode_shard(SPEC, noisy_chunks(), threads=2) for _ in range(20)}
    finally:
        stop.set()
        other.join()
    assert found == {expected}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_number_is_the_chunk_that_it_fills(dtype: str) -> None:
    spec = ArraySpec((4, 8, 8), (2, 3, 3), (4, 9, 9), np.dtype(dtype))
    whole = np.full(spec.chunk_zyx, 200, dtype)
    assert encode_shard(spec, {(0, 0, 0): 200}) == encode_shard(spec, {(0, 0, 0): whole}) != b""


def test_a_chunk_of_the_fill_value_is_not_stored() -> None:
    noise = noisy_chunks()[0, 0, 0]
    chunks: dict[Index, Chunk] = {(0, 0, 0): SPEC.empty_chunk(), (0, 1, 2): noise, (1, 0, 0): 0}
    assert stored_in(index_of(encode_shard(SPEC, chunks))).tolist() == [[0, 1, 2]]
    assert encode_shard(SPEC, {(0, 0, 0): SPEC.empty_chunk(), (1, 0, 0): 0}) == b""


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (32, 128, 128), (64, 256, 256)])
def test_a_chunk_of_the_fill_value_is_not_stored_whatever_its_size(shape: Index, dtype: str) -> None:
    spec = ArraySpec(shape, shape, shape, np.dtype(dtype), 123)
    assert encode_shard(spec, {(0, 0, 0): spec.empty_chunk()}) == b""


def test_one_voxel_anywhere_is_enough_to_be_stored() -> None:
    for voxel in [(0, 0, 0), (1, 7, 9), (3, 15, 15)]:
        chunk = SPEC.empty_chunk()
        chunk[voxel] = 1
        assert encode_shard(SPEC, {(0, 0, 0): chunk}) != b""


def test_a_chunk_that_is_a_view_is_stored_as_what_it_shows() -> None:
    voxels = np.random.default_rng(0).integers(0, 9, (8, 32, 32), np.uint8)
    view = voxels[::2, ::2, ::2]
    assert encode_shard(SPEC, {(0, 0, 0): view}) == encode_shard(SPEC, {(0, 0, 0): view.copy()})


@pytest.mark.parametrize(
    ("inner", "chunk"),
    [((0, 0, 4), SPEC.empty_chunk()), ((0, 0, 0), np.zeros((4, 16, 15), np.uint8)), ((0, 0, 0), np.zeros(SPEC.chunk_zyx, np.int8))],
)
def test_a_chunk_that_does_not_belong_is_refused(inner: Index, chunk: np.ndarray) -> None:
    with pytest.raises(ValueError, match="inner chunk"):
        encode_shard(SPEC, {inner: chunk})


@given(st.integers(0, SPEC.index_bytes - 1), st.integers(1, 255))
def test_a_damaged_index_is_never_believed(position: int, change: int) -> None:
    tail = bytearray(encode_shard(SPEC, noisy_chunks())[-SPEC.index_bytes :])
    tail[position] ^= change
    with pytest.raises(StackError, match="here: the shard is damaged"):
        decode_index(SPEC, bytes(tail), "here")


def test_a_short_shard_is_never_believed() -> None:
    with pytest.raises(StackError, match="dvc pull"):
        decode_index(SPEC, b"", "here")


@given(array_specs())
def test_the_windows_of_all_inner_chunks_tile_the_array(spec: ArraySpec) -> None:
    hits = np.zeros(spec.shape_zyx, int)
    for shard in np.ndindex(spec.n_shards_zyx):
        for inner in spec.inner_indices(shard):
            box = tuple(slice(*side) for side in spec.chunk_window(shard, inner))
            assert hits[box].size
            hits[box] += 1
    assert (hits == 1).all()


@given(st.tuples(*[st.integers(1, 300)] * 3), st.tuples(*[st.integers(1, 40)] * 3), st.tuples(*[st.integers(1, 4)] * 3))
def test_a_fitted_spec_never_stores_whole_chunks_beyond_the_end(shape: Index, chunk: Index, per_shard: Index) -> None:
    shard = (chunk[0] * per_shard[0], chunk[1] * per_shard[1], chunk[2] * per_shard[2])
    spec = ArraySpec.fitted(shape, chunk, shard, "uint8")
    for n, c, s, c_max, s_max in zip(shape, spec.chunk_zyx, spec.shard_zyx, chunk, shard, strict=True):
        assert c == min(n, c_max)
        assert s % c == 0
        assert s <= max(s_max, c)
        assert s < n + c


@pytest.mark.parametrize(("chunk", "shard"), [((4, 4, 4), (4, 4, 6)), ((0, 4, 4), (4, 4, 4))])
def test_shapes_that_cannot_be_stored_are_refused(chunk: Index, shard: Index) -> None:
    with pytest.raises(GridError, match="chunk"):
        ArraySpec((8, 8, 8), chunk, shard, np.dtype("uint8"))
