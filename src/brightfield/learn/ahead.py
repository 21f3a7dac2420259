"""Samples of data that lies afar: several are made at the same time, as most of the time is waiting for answers."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

AHEAD = 8
"""Samples that are made at the same time: with fewer a process waits, with more it holds more of them."""


def ahead[R](make: Callable[[int], R], indices: Iterable[int], n: int = AHEAD) -> Iterator[R]:
    """``make`` of each index, in order, by threads that are up to `n` of them ahead; an error comes when its turn does."""
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(n, thread_name_prefix="brightfield-ahead")
    try:
        for index in indices:
            waiting.append(pool.submit(make, index))
            if len(waiting) == n:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Lock:
    """A lock that is open after a fork, though a thread of the parent may have held it."""

    def __init__(self) -> None:
        self._open()
        os.register_at_fork(after_in_child=self._open)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _open(self) -> None:
        self._lock = threading.Lock()


class Once[T]:
    """A property that is made when it is first asked for; meanwhile other threads wait. Its object has an RLock as `lock`."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._key = f"_once_{name}"

    def __get__(self, instance: Any, owner: type | None = None) -> T:
        made = instance.__dict__
        if self._key not in made:
            with instance.lock:
                if self._key not in made:
                    made[self._key] = self._make(instance)
        value: T = made[self._key]
        return value
