from __future__ import annotations

import threading
from itertools import islice
from typing import Any

import pytest

from brightfield.learn.ahead import Once, ahead


def test_samples_come_in_order_and_no_more_are_made_than_asked_for() -> None:
    made: list[int] = []

    def make(index: int) -> int:
        made.append(index)
        return index * index

    samples = ahead(make, range(100), n=4)
    assert list(islice(samples, 5)) == [0, 1, 4, 9, 16]
    samples.close()  # type: ignore[attr-defined]
    assert max(made) < 5 + 4
    assert list(ahead(make, range(3), n=4)) == [0, 1, 4]
    assert list(ahead(make, [], n=4)) == []


def test_an_error_comes_when_its_turn_does() -> None:
    samples = ahead(lambda index: 1 // (3 - index), range(10), n=8)
    assert [next(samples) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(samples)


def test_several_are_made_at_the_same_time() -> None:
    together = threading.Barrier(4, timeout=30)
    assert list(ahead(lambda _: together.wait() >= 0, range(8), n=4)) == [True] * 8


def test_what_many_threads_ask_for_is_made_once() -> None:
    made: list[Any] = []

    class Cell:
        def __init__(self) -> None:
            self.lock = threading.RLock()

        @Once
        def image(self) -> list[Any]:
            made.append(self)
            threading.Event().wait(0.05)
            return [self]

    cell, other = Cell(), Cell()
    found = list(ahead(lambda _: cell.image, range(16)))
    assert all(image is found[0] for image in found)
    assert other.image == [other]
    assert made == [cell, other]
