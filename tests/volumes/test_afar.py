from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_reader import GRID, NOISE, written

from brightfield.core.errors import StackError
from brightfield.testing.grids import windows
from brightfield.volumes import fetching
from brightfield.volumes.afar import reader_anywhere
from brightfield.volumes.fetching import at_once, read_at_once
from brightfield.volumes.rangecache import CachedObject, RangeCache
from brightfield.volumes.remote import ObjectStore, RemoteObject
from brightfield.volumes.volume import Volume, open_volume


@dataclass
class Counted:
    """A file system of one that counts: requests as (path, start, stop)."""

    protocol = ("counted",)
    requests: list[tuple[str, int | None, int | None]] = field(default_factory=list)

    def _cat_file(self, path: str, start: int | None = None, end: int | None = None) -> None:
        """What tells `ranges.takes_ranges` that ranges are fetched as such."""

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        self.requests.append((path, start, end))
        return Path(path).read_bytes()[start:end]


def away(folder: Path, cache: Path | None = None) -> tuple[Volume, Counted]:
    """The volume in a folder as one that lies afar, opened, and what counts its requests from now on."""
    system = Counted()
    files = {}
    for path in folder.rglob("*"):
        if path.is_file():
            remote = RemoteObject(path.name, ((system, str(path)),))  # type: ignore[arg-type]
            files[path.relative_to(folder).as_posix()] = remote if cache is None else CachedObject(remote, RangeCache(cache, 10**6))
    volume = open_volume(ObjectStore(files, "afar"))
    system.requests.clear()
    return volume, system


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written(tmp_path_factory.mktemp("v") / "v")
    return tmp_path_factory.getbasetemp() / "v0" / "v"


@pytest.fixture
def no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "GAP_BYTES", 0)


@settings(max_examples=40)
@given(st.data(), st.sampled_from([0, 100, 2**16]))
def test_any_window_holds_the_voxels_that_were_written(folder: Path, data: st.DataObject, gap: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetching, "GAP_BYTES", gap)
        read = reader_anywhere(away(folder)[0])
        for window in (data.draw(windows(GRID)) for _ in range(3)):
            np.testing.assert_array_equal(read(window), NOISE[tuple(slice(*side) for side in window)])


def test_opening_reads_each_document_once(folder: Path) -> None:
    volume, system = away(folder)
    reader_anywhere(volume)
    assert not system.requests


def test_the_index_of_a_shard_is_fetched_once_and_neighbours_together(folder: Path) -> None:
    volume, system = away(folder)
    read, window = reader_anywhere(volume), ((0, 8), (0, 32), (0, 32))
    read(window)
    assert len(system.requests) == 2  # its index, and its eight chunks
    read(window)
    assert len(system.requests) == 3


@pytest.mark.usefixtures("no_gap")
def test_what_lies_between_is_not_fetched(folder: Path) -> None:
    """Chunks of a shard are stored in C order: those of x = 0 are apart."""
    volume, system = away(folder)
    read = reader_anywhere(volume)
    read(((0, 8), (0, 32), (0, 16)))
    ranges = [(start, stop) for _, start, stop in system.requests if start is not None and start >= 0]
    assert len(ranges) == 4
    stored = sum(int(stop) - int(start) for start, stop in ranges if stop is not None)
    assert stored < 0.6 * (folder / "0/c/0/0/0").stat().st_size


def test_a_shard_that_is_not_there_is_not_asked_for(folder: Path) -> None:
    volume, system = away(folder)
    assert not reader_anywhere(volume)(((0, 8), (32, 64), (64, 96))).any()
    assert not system.requests


def test_chunks_are_kept_one_by_one(folder: Path, tmp_path: Path) -> None:
    volume, _ = away(folder, tmp_path / "cache")
    reader_anywhere(volume)(((0, 8), (0, 32), (0, 32)))
    again, system = away(folder, tmp_path / "cache")
    read = reader_anywhere(again)
    np.testing.assert_array_equal(read(((3, 5), (10, 20), (5, 25))), NOISE[3:5, 10:20, 5:25])
    assert not system.requests
    read(((0, 4), (0, 32), (16, 48)))
    assert {path for path, *_ in system.requests} == {str(folder / "0/c/0/0/1")}


def test_a_damaged_chunk_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "v")
    shard = tmp_path / "v/0/c/0/0/0"
    data = bytearray(shard.read_bytes())
    data[20] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StackError, match="checksum"):
        reader_anywhere(away(tmp_path / "v")[0])(((0, 4), (0, 16), (0, 16)))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 900), st.integers(0, 100)), max_size=30), st.sampled_from([0, 20]))
def test_ranges_come_in_the_order_of_the_question(tmp_path_factory: pytest.TempPathFactory, wanted: list, gap: int) -> None:
    folder = tmp_path_factory.getbasetemp()
    content = [os.urandom(1000), bytes(range(250)) * 4]
    for i, data in enumerate(content):
        (folder / f"file{i}").write_bytes(data)
    system = Counted()
    files = [RemoteObject("file", ((system, str(folder / f"file{i}")),)) for i in range(2)]  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetching, "GAP_BYTES", gap)
        found = read_at_once([(files[i], start, start + n) for i, start, n in wanted])
    assert found == [content[i][start : start + n] for i, start, n in wanted]
    assert len(system.requests) <= len(wanted)


def test_answers_come_in_order() -> None:
    assert at_once(lambda x: x * x, list(range(100))) == [x * x for x in range(100)]
