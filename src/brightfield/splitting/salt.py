"""The search of the salts whose split is closest to the shares in every stratum."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brightfield.config.options import SplitConfig
from brightfield.core.errors import SplitError
from brightfield.splitting.groups import draw
from brightfield.splitting.proof import MIN_STRATUM_CELLS, strata_of

if TYPE_CHECKING:
    import pandas as pd

type Stratum = tuple[tuple[tuple[str, int], ...], int]
"""Cells of each donor, and of all of them."""


@dataclass(frozen=True, slots=True)
class SaltSearch:
    """The best salts of a search, and how far their worst stratum is from the shares asked for, in points."""

    salt: str
    val_salt: str
    deviation_points: float
    candidates: int


def search_salt(
    cells: pd.DataFrame, rules: SplitConfig, *, prefix: str = "brightfield-", first: int = 0, candidates: int = 500
) -> SaltSearch:
    """Try the texts `prefix` + number: first as the salt of test, then, with the best of them, as the salt of val.

    The best is the one whose worst stratum deviates least, of equals the smallest number; a stratum of the second search deviates by what
    val or train does. cells: the selected rows of the `cells` table. Every stratum that `prove` will report is judged. Run it once, before
    anything is published: another salt moves cells. A candidate is dropped at its first stratum that is no better than the best so far;
    small strata come first, as they reject most and ask for few draws.
    """
    strata = [
        (tuple((str(d), int(n)) for d, n in members["donor_id"].value_counts().items()), len(members)) for _, members in strata_of(cells)
    ]
    strata.sort(key=lambda stratum: stratum[1])
    if not strata:
        raise SplitError(f"no stratum has {MIN_STRATUM_CELLS} cells or more, so no salt is better than another; found {len(cells)} cell(s)")
    salts = [f"{prefix}{number}" for number in range(first, first + candidates)]
    salt, off = _best(salts, strata, rules.test, frozenset(), 0.0)
    donors = {donor for members, _ in strata for donor, _ in members}
    test = frozenset(donor for donor in donors if draw(salt, donor) < rules.test)
    val_salt, off_val = _best(salts, strata, rules.val, test, rules.test)
    return SaltSearch(salt, val_salt, max(off, off_val), candidates)


def _best(salts: Iterable[str], strata: list[Stratum], share: float, placed: frozenset[str], share_placed: float) -> tuple[str, float]:
    """The salt that takes `share` of every stratum best, where the donors of `placed` are taken already, and by how much it misses."""
    best = ("", float("inf"))
    for salt in salts:
        deviation = _worst_deviation(salt, strata, share, placed, share_placed, best[1])
        if deviation < best[1]:
            best = (salt, deviation)
    return best


def _worst_deviation(salt: str, strata: list[Stratum], share: float, placed: frozenset[str], share_placed: float, limit: float) -> float:
    """Points by which the worst stratum misses; infinite as soon as one misses by `limit` or more."""
    worst, drawn = 0.0, dict[str, bool]()
    for donors, n_cells in strata:
        taken = before = 0
        for donor, count in donors:
            if donor in placed:
                before += count
                continue
            if (is_taken := drawn.get(donor)) is None:
                is_taken = drawn[donor] = draw(salt, donor) * (1 - share_placed) < share
            taken += count * is_taken
        off, off_both = taken / n_cells - share, (taken + before) / n_cells - share - share_placed
        worst = max(worst, round(100 * max(abs(off), abs(off_both)), 9))
        if worst >= limit:
            return float("inf")
    return worst
