"""In which order patches are seen: decided by (seed, epoch) alone, shared out to ranks and workers, cut where one left off."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from brightfield.core.errors import ConfigError
from brightfield.learn.rows import Rows

type Draw = Literal["each", "weight", "class"]

DRAWS: tuple[Draw, ...] = ("each", "weight", "class")
MIXED_GROUPS = 8
"""Shards that are mixed with each other in the order of a stream: what is fetched is used soon, and a batch is not of one neurite."""

_ORDER_STREAM = 0x0BDE
_NO_GROUP = -1


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of an epoch one process of a distributed training sees: rank `rank` of `world`."""

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"rank is 0 to world - 1, found rank {self.rank} of a world of {self.world}")


@dataclass(frozen=True, eq=False)
class Order:
    """The order of the rows in each epoch.

    draw: ``each`` sees every row once an epoch; ``weight`` draws as many rows by their weights, ``class`` such that every class that the
    rows hold (and "none of them") has the same share of the draws. shuffle: False keeps the order of the table.
    group: (n,) int64 or None; rows of one group are seen near each other (see `MIXED_GROUPS`), and ranks see different groups.
    """

    rows: Rows
    seed: int = 0
    draw: Draw = "each"
    shuffle: bool = True
    share: Share = Share()
    group: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.draw not in DRAWS:
            raise ConfigError(f"draw is one of {', '.join(DRAWS)}, found {self.draw!r}")
        if len(self) == 0:
            raise ConfigError(f"{len(self.rows)} patches cannot be shared out to {self.share.world} ranks; use fewer")

    def __len__(self) -> int:
        """Patches that this rank sees in an epoch: the same number on every rank."""
        return len(self.rows) // self.share.world

    def of_epoch(self, epoch: int) -> NDArray[np.int64]:
        """(len, 2) int64: place in the epoch of all ranks, and row, of what this rank sees, in order."""
        order = self._whole(epoch)
        n, rank, world = len(self), self.share.rank, self.share.world
        place = np.arange(rank, n * world, world) if self.group is None else np.arange(rank * n, (rank + 1) * n)
        return np.stack([place, order[place]], axis=1)

    def _whole(self, epoch: int) -> NDArray[np.int64]:
        """The rows in the order of the epoch, of all ranks."""
        random = _Random(self.seed, epoch)
        rows = np.arange(len(self.rows)) if self.draw == "each" else _drawn(self.probability, random)
        if not self.shuffle:
            return rows
        if self.group is None:
            return rows[random.permutation(len(rows))]
        return rows[_by_group(self.group[rows], random)]

    @cached_property
    def probability(self) -> NDArray[np.float64]:
        """(n,) the share of draws that each row is expected to have."""
        weight = (
            self.rows.weight if self.draw == "weight" else _class_weight(self.rows) if self.draw == "class" else np.ones(len(self.rows))
        )
        if not weight.sum() > 0:
            raise ConfigError("the weights of the patches add up to 0; use draw='each'")
        share: NDArray[np.float64] = weight / weight.sum()
        return share

    def facts(self) -> dict[str, Any]:
        """What must be the same for a saved position to mean something, as plain JSON values."""
        return {
            "patches": self.rows.digest,
            "seed": self.seed,
            "draw": self.draw,
            "shuffle": self.shuffle,
            "world": self.share.world,
            "by_shard": self.group is not None,
        }


class _Random:
    """Draws that are the same for ever: the raw stream of PCG64, which numpy promises not to change."""

    def __init__(self, seed: int, epoch: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence([seed, epoch, _ORDER_STREAM]))

    def uniform(self, n: int) -> NDArray[np.float64]:
        """(n,) in [0, 1)."""
        return (self._bits.random_raw(n) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def permutation(self, n: int) -> NDArray[np.int64]:
        """0 to n - 1, shuffled."""
        order: NDArray[np.int64] = np.argsort(self._bits.random_raw(n), kind="stable")
        return order


def _drawn(probability: NDArray[np.float64], random: _Random) -> NDArray[np.int64]:
    """As many rows as there are, each floor or ceil of its expected number of times: systematic resampling."""
    n = len(probability)
    upto = np.cumsum(probability)
    places = (np.arange(n) + random.uniform(1)) / n * upto[-1]
    rows: NDArray[np.int64] = np.minimum(np.searchsorted(upto, places, side="right"), n - 1).astype(np.int64)
    return rows


def _class_weight(rows: Rows) -> NDArray[np.float64]:
    """Every class that is there, and "none", shares out the same weight among the rows that hold it, by their own weights."""
    groups = np.concatenate([rows.holds, ~rows.holds.any(axis=1, keepdims=True)], axis=1)
    own = groups * rows.weight[:, None]
    total = own.sum(axis=0)
    shares: NDArray[np.float64] = (own[:, total > 0] / total[total > 0]).sum(axis=1)
    return shares


def _by_group(group: NDArray[np.int64], random: _Random) -> NDArray[np.int64]:
    """Rows shuffled among `MIXED_GROUPS` groups at a time; the groups come in random order."""
    _, number = np.unique(group, return_inverse=True)
    rank = random.permutation(int(number.max(initial=_NO_GROUP)) + 1)
    block = rank[number.reshape(-1)] // MIXED_GROUPS
    order: NDArray[np.int64] = np.lexsort((random.permutation(len(group)), block))
    return order
