from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from brightfield.volumes.rangecache import CachedObject, RangeCache


class Counted:
    """An object afar that counts how often it is asked."""

    def __init__(self, name: str, data: bytes) -> None:
        self.places, self.data, self.asked = ((None, name),), data, 0

    def read(self, start: int | None = None, stop: int | None = None) -> bytes:
        self.asked += 1
        return self.data[start:stop]


DATA = bytes(range(256)) * 40


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_range_is_fetched_once_by_whatever_process(tmp_path: Path) -> None:
    remote = Counted("ab/cd", DATA)
    for _ in range(2):
        cached = CachedObject(remote, RangeCache(tmp_path, 10**6))  # as another process would make it
        assert cached.read(100, 300) == DATA[100:300]
        assert cached.read(-10, None) == DATA[-10:]
        assert cached.read() == DATA
    assert remote.asked == 3


def test_objects_are_told_apart(tmp_path: Path) -> None:
    cache = RangeCache(tmp_path, 10**6)
    assert CachedObject(Counted("a", b"one"), cache).read() == b"one"
    assert CachedObject(Counted("b", b"two"), cache).read() == b"two"


def test_a_damaged_file_is_fetched_again(tmp_path: Path) -> None:
    remote = Counted("a", DATA)
    cached = CachedObject(remote, RangeCache(tmp_path, 10**6))
    cached.read(0, 50)
    (kept,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    for damaged in (kept.read_bytes()[:-9], b"", b"x" + kept.read_bytes()[1:]):
        kept.write_bytes(damaged)
        assert cached.read(0, 50) == DATA[:50]
    assert remote.asked == 4


def test_the_folder_stays_small_and_keeps_what_was_used_last(tmp_path: Path) -> None:
    limit = 200_000
    remote = Counted("a", bytes(10**6))
    cached = CachedObject(remote, RangeCache(tmp_path, limit))
    for number in range(300):
        cached.read(1000 * number, 1000 * number + 2000)
        cached.read(0, 10)  # used all the time
        assert size_of(tmp_path) <= limit * (1 + 1 / 16) + 5000
    asked = remote.asked
    cached.read(0, 10)
    assert remote.asked == asked


def test_a_folder_that_cannot_be_written_costs_speed_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cached = CachedObject(Counted("a", DATA), RangeCache(tmp_path / "file" / "below", 1000))
    assert cached.read(0, 2000) == DATA[:2000]


@pytest.mark.parametrize("n", [8])
def test_many_readers_share_a_folder(tmp_path: Path, n: int) -> None:
    def reader(number: int) -> bool:
        cached = CachedObject(Counted("a", DATA), RangeCache(tmp_path, 20_000))
        return all(cached.read(k, k + 500) == DATA[k : k + 500] for k in range(0, 9000, 37 + number))

    with ThreadPoolExecutor(n) as pool:
        assert all(pool.map(reader, range(n)))
