"""Byte ranges of files that lie afar, many at the same time: waiting for an answer takes longer than the answer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Protocol

REQUESTS_AT_ONCE = 32
GAP_BYTES = 2**16
"""Ranges of an object that are no farther apart are fetched in one request: a chunk of pixels that nobody asked for, at most."""


class Readable(Protocol):
    """A file of which ranges can be read."""

    def read(self, start: int | None = None, stop: int | None = None) -> bytes:
        """The bytes from `start` (negative: from the end) to `stop`, or all."""

    def kept(self, start: int, stop: int) -> bytes | None:
        """A range that need not be fetched; None for one that must be."""

    def fetch(self, start: int, stop: int) -> bytes:
        """A range from where it lies, of which nothing is kept."""

    def keep(self, start: int, stop: int, data: bytes) -> None:
        """Keep a range that was fetched, or a part of one, where ranges are kept."""


type Wanted = tuple[Readable, int, int]


def read_at_once(wanted: Sequence[Wanted]) -> list[bytes]:
    """Ranges (object, start, stop) of any number of objects: what is kept here, else fetched, all at the same time."""
    found = [file.kept(start, stop) for file, start, stop in wanted]
    absent = sorted((i for i, data in enumerate(found) if data is None), key=lambda i: (id(wanted[i][0]), wanted[i][1]))
    groups = list(_neighbours(wanted, absent))
    requests = [(wanted[group[0]][0], wanted[group[0]][1], max(wanted[i][2] for i in group)) for group in groups]
    answers = at_once(lambda request: request[0].fetch(request[1], request[2]), requests)
    for group, (file, first, _), answer in zip(groups, requests, answers, strict=True):
        for i in group:
            _, start, stop = wanted[i]
            data = found[i] = answer[start - first : stop - first]
            file.keep(start, stop, data)
    return [data for data in found if data is not None]


def _neighbours(wanted: Sequence[Wanted], order: Sequence[int]) -> Iterator[list[int]]:
    """Those in `order` by object and start, in groups that are fetched together."""
    group: list[int] = []
    end = 0
    for i in order:
        file, start, stop = wanted[i]
        if group and (file is not wanted[group[0]][0] or start > end + GAP_BYTES):
            yield group
            group = []
        end = max(end, stop) if group else stop
        group.append(i)
    if group:
        yield group


def at_once[T, R](function: Callable[[T], R], arguments: Sequence[T]) -> list[R]:
    """What a function that waits for others gives for each argument, in order; it must not call `at_once` itself."""
    if len(arguments) < 2:
        return [function(argument) for argument in arguments]
    return list(_pool(os.getpid()).map(function, arguments))


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:  # noqa: ARG001 - threads do not outlive a fork
    return ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="brightfield-fetch")
