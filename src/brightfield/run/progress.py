"""How far work is: a bar where somebody watches, a line a minute in a log."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, field

LINE_EVERY_S = 60.0
"""Between two lines of a log; what is done sooner says nothing."""

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


@contextlib.contextmanager
def progress(total: int, label: str, unit: str) -> Iterator[Callable[[int], object]]:
    """A function to call with what was done since, from any thread: it shows share, rate and the time that is left.

    unit: what is counted; bytes ("B") are shown in powers of 1000.
    """
    if not sys.stderr.isatty():
        yield _Log(total, label, unit).advance
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=label, unit=unit, unit_scale=unit == "B") as bar:
        yield bar.update


def watched[T](items: Iterable[T], label: str, unit: str = "cell", *, total: int | None = None) -> Iterator[T]:
    """The items, with `progress`; total: how many, where they cannot be counted before."""
    if total is None:
        total = len(items) if isinstance(items, Sized) else 0
    with progress(total, label, unit) as advance:
        for item in items:
            yield item
            advance(1)


@dataclass
class _Log:
    """Lines on stderr, which `dvc repro` passes on."""

    total: int
    label: str
    unit: str
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._started = self._told = self.clock()

    def advance(self, n: int) -> None:
        """Count, and say how far it is where a minute has passed since that was said last."""
        with self._lock:
            self.done += n
            now = self.clock()
            if now - self._told < LINE_EVERY_S:
                return
            self._told = now
            line = self.line(now - self._started)
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    def line(self, seconds: float) -> str:
        """How far it is after so long."""
        rate = self.done / seconds
        left_s = (self.total - self.done) / rate if self.total and rate else 0.0
        of = f" of {self._amount(self.total)} ({100 * self.done / self.total:.0f} %)" if self.total else ""
        left = f", {left_s / 60:.0f} min left" if left_s else ""
        return f"{self.label}: {self._amount(self.done)}{of}, {self._rate(rate)}{left}"

    def _amount(self, n: float) -> str:
        if self.unit != "B":
            return f"{n:,} {self.unit}{'' if n == 1 else 's'}"
        size, prefix = next((size, prefix) for size, prefix in _PREFIXES if n >= size or size == 1.0)
        return f"{n / size:.3g} {prefix}B"

    def _rate(self, rate: float) -> str:
        return f"{self._amount(rate)}/s" if self.unit == "B" else f"{60 * rate:.3g} a minute"
