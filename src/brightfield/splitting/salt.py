"""The search of the salt whose split is closest to the shares in every stratum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from brightfield.config.options import SplitConfig
from brightfield.core.errors import SplitError
from brightfield.splitting.groups import draw
from brightfield.splitting.proof import MIN_STRATUM_CELLS, strata_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class SaltSearch:
    """The best salt of a search, and how far its worst stratum is from the shares asked for, in points."""

    salt: str
    deviation_points: float
    candidates: int


def search_salt(
    cells: pd.DataFrame, rules: SplitConfig, *, prefix: str = "brightfield-", first: int = 0, candidates: int = 500
) -> SaltSearch:
    """Try the salts `prefix` + number and return the one whose worst stratum deviates least; of equals the smallest number.

    cells: the selected rows of the `cells` table. Every stratum that `prove` will report is judged. Run it once, before anything is
    published: another salt moves cells. A candidate is dropped at its first stratum that is no better than the best so far; small strata
    come first, as they reject most and ask for few draws, which makes a million candidates on 500 cells a matter of a minute.
    """
    strata = [(tuple(members["donor_id"].value_counts().items()), len(members)) for _, members in strata_of(cells)]
    strata.sort(key=lambda stratum: stratum[1])
    if not strata:
        raise SplitError(f"no stratum has {MIN_STRATUM_CELLS} cells or more, so no salt is better than another; found {len(cells)} cell(s)")
    best = SaltSearch("", float("inf"), candidates)
    for number in range(first, first + candidates):
        salt = f"{prefix}{number}"
        deviation = _worst_deviation(salt, strata, rules, best.deviation_points)
        if deviation < best.deviation_points:
            best = SaltSearch(salt, deviation, candidates)
    return best


def _worst_deviation(salt: str, strata: list[tuple[tuple[tuple[Any, int], ...], int]], rules: SplitConfig, limit: float) -> float:
    """Points by which the worst stratum misses; infinite as soon as one misses by `limit` or more."""
    worst, drawn = 0.0, dict[Any, float]()
    for donors, n_cells in strata:
        test = val = 0
        for donor, count in donors:
            if (u := drawn.get(donor)) is None:
                u = drawn[donor] = draw(salt, str(donor))
            if u < rules.test:
                test += count
            elif u < rules.test + rules.val:
                val += count
        off_test, off_val = test / n_cells - rules.test, val / n_cells - rules.val
        worst = max(worst, round(100 * max(abs(off_test), abs(off_val), abs(off_test + off_val)), 9))
        if worst >= limit:
            return float("inf")
    return worst
