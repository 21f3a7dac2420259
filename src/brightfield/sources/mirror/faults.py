"""How a mirror misbehaves on demand: which answer goes wrong, and how, follows from a seed, the address and the attempt."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from brightfield.core.errors import ConfigError


class Fault(StrEnum):
    """What can go wrong with one answer."""

    error = "error"  # 500, 502 or 503
    throttle = "throttle"  # 429 with Retry-After
    not_found = "not_found"  # 404 for something that is there
    html = "html"  # HTTP 200 with an error page
    truncate = "truncate"  # the connection closes before Content-Length is reached
    stall = "stall"  # the answer stops in the middle and does not go on
    reset = "reset"  # the connection is torn down
    cut = "cut"  # a complete answer that holds half a picture, or half a JSON document
    corrupt = "corrupt"  # a complete answer that holds a damaged picture
    wrong_size = "wrong_size"  # a proper picture that is smaller than asked for


PICTURES_ONLY = frozenset({Fault.cut, Fault.corrupt, Fault.wrong_size})
"""Nothing in a text file says that it was longer once; on files these faults do nothing (`cut` also works on JSON)."""


@dataclass(frozen=True, slots=True)
class Faults:
    """Shares (0 to 1) of the answers that go wrong in each way; they add up to at most 1.

    gone: share of the pictures that are never there, whatever the attempt. changing: share of the pictures whose pixels differ from one
    attempt to the next. slow_start_s: how long after its start the mirror leaves requests waiting. drip_bytes_per_s: the pace of all
    answers; 0 for as fast as it can.
    """

    seed: int = 0
    error: float = 0.0
    throttle: float = 0.0
    not_found: float = 0.0
    html: float = 0.0
    truncate: float = 0.0
    stall: float = 0.0
    reset: float = 0.0
    cut: float = 0.0
    corrupt: float = 0.0
    wrong_size: float = 0.0
    gone: float = 0.0
    changing: float = 0.0
    retry_after_s: int = 1
    stall_s: float = 30.0
    slow_start_s: float = 0.0
    drip_bytes_per_s: float = 0.0

    def __post_init__(self) -> None:
        shares = [getattr(self, fault) for fault in Fault]
        if min(*shares, self.gone, self.changing) < 0 or sum(shares) > 1 + 1e-9 or max(self.gone, self.changing) > 1:
            raise ConfigError(f"faults are shares between 0 and 1 that add up to at most 1, found {self}")

    @classmethod
    def everything(cls, share: float, *, seed: int = 0) -> Faults:
        """`share` of all answers goes wrong, every kind of fault equally often."""
        shares: dict[str, Any] = dict.fromkeys(map(str, Fault), share / len(Fault))
        return cls(seed=seed, **shares)

    @classmethod
    def parse(cls, text: str) -> Faults:
        """Read ``error=0.05,stall=0.01,seed=3``; ``all=0.1`` stands for `everything`. Raises ConfigError."""
        words = dict(word.partition("=")[::2] for word in text.replace(" ", "").split(",") if word)
        known = {f.name for f in fields(cls)} | {"all"}
        if unknown := set(words) - known:
            raise ConfigError(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
        try:
            numbers = {name: int(word) if name in ("seed", "retry_after_s") else float(word) for name, word in words.items()}
        except ValueError as error:
            raise ConfigError(f"a fault needs a number, as in error=0.05: {error}") from error
        start = cls.everything(numbers.pop("all", 0.0))
        return replace(start, **numbers)  # type: ignore[arg-type]

    def of(self, address: str, attempt: int) -> Fault | None:
        """What goes wrong with an attempt (from 1) at an address; the same on every run."""
        point = self.chance(f"{address} {attempt}")
        for fault in Fault:
            point -= getattr(self, fault)
            if point < 0:
                return fault
        return None

    def chance(self, key: str) -> float:
        """A number in [0, 1) that follows from the seed and `key`."""
        return int.from_bytes(hashlib.sha256(f"{self.seed} {key}".encode()).digest()[:7]) / 2**56
