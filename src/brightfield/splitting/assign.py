"""Who is on which side, so that nothing leaks and nothing moves.

Cells that share a donor, an image series or the bytes of a skeleton form a GROUP, and a group is never parted. A group is named by one
of its donors, and that name alone, hashed with a salt, decides its side and its fold: cells that come later change nothing for those
that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from brightfield.config.options import SplitConfig, SplitStrategy
from brightfield.core.codes import Split
from brightfield.core.errors import SplitError
from brightfield.core.schema import SPLITS
from brightfield.splitting.challenge_2019 import CHALLENGE_2019_TEST, CHALLENGE_2019_TRAIN
from brightfield.splitting.groups import fold_of, group_ids, side_of, tuples_of
from brightfield.splitting.proof import STRATUM_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

GRADES = ("A", "B", "C")
"""Grades of alignment a cell may have and still be taken, best first."""


def assign(
    cells: pd.DataFrame,
    rules: SplitConfig,
    *,
    swc_sha256: Mapping[int, str] | None = None,
    alignment: pd.DataFrame | None = None,
    failures: Mapping[int, str] | None = None,
) -> pd.DataFrame:
    """Give every cell its group, side and fold.

    cells: the `cells` table, every row. Cells that are not selected take part in nothing and are excluded with their reason.
    swc_sha256: hash of the skeleton's bytes per specimen id, so that a file that comes twice under two names does not leak.
    alignment: the `alignment_cells` table: rejected cells, cells without a verdict, and test cells below `rules.min_test_grade` are
    excluded with a reason. None leaves this out (planning before anything was downloaded).
    failures: why the dataset goes without cells that failed in an earlier stage (`download.on_failure=exclude`), by specimen id.

    Returns the rows of the `splits` table, in the order of `cells`. Raises SplitError where cells link groups of different sides or folds,
    and where the rules name a line, a species or a fold that does not exist.
    """
    if not 0 <= rules.fold < rules.n_folds or rules.test + rules.val >= 1 or rules.min_test_grade not in GRADES:
        raise SplitError(
            "the rules of the split need fold < n_folds, test + val < 1 and a min_test_grade of A, B or C; found "
            f"fold={rules.fold}, n_folds={rules.n_folds}, test={rules.test}, val={rules.val}, min_test_grade={rules.min_test_grade}"
        )
    out = cells[["specimen_id"]].copy()
    out["group_id"] = group_ids(cells, rules, swc_sha256 or {})
    reasons = _unfit(cells, alignment, failures or {})
    fit = [reason is None for reason in reasons]
    sides = _STRATEGIES[rules.strategy](cells.assign(group_id=out["group_id"], fit=fit), rules)
    grades = {} if alignment is None else dict(zip(alignment["specimen_id"].tolist(), alignment["grade"].tolist(), strict=True))
    rows = [
        _settle(_Side(Split.EXCLUDED, None, reason) if reason else side, grades.get(specimen_id), rules)
        for specimen_id, side, reason in zip(cells["specimen_id"].tolist(), sides, reasons, strict=True)
    ]
    out["split"] = [row.split.value for row in rows]
    out["fold"] = [row.fold for row in rows]
    out["reason"] = [row.reason for row in rows]
    return out.astype({"fold": "Int32"})[list(SPLITS.column_names)]


# ---------------------------------------------------------------------------------------------------------------- strategies


@dataclass(frozen=True, slots=True)
class _Side:
    split: Split
    fold: int | None = None
    reason: str | None = None


def _unfit(cells: pd.DataFrame, alignment: pd.DataFrame | None, failures: Mapping[int, str]) -> list[str | None]:
    """Why each cell cannot be taken at all; None where it can."""
    verdicts = {} if alignment is None else {i: (g, r) for i, g, r in tuples_of(alignment, "specimen_id", "grade", "reason")}
    reasons: list[str | None] = []
    for specimen_id, selected, why in tuples_of(cells, "specimen_id", "selected", "reason"):
        if not selected:
            reasons.append(why or "not selected")
        elif specimen_id in failures:
            reasons.append(failures[specimen_id])
        elif alignment is None:
            reasons.append(None)
        else:
            grade, fault = verdicts.get(specimen_id, ("none", "no alignment verdict"))
            reasons.append(None if grade in GRADES else f"alignment: {fault or grade}")
    return reasons


def _settle(side: _Side, grade: str | None, rules: SplitConfig) -> _Side:
    if side.split is Split.TEST and grade is not None and grade > rules.min_test_grade:
        return _Side(Split.EXCLUDED, None, f"alignment grade {grade}: test cells need {rules.min_test_grade} or better")
    return side if side.split in (Split.TRAIN, Split.VAL) else _Side(side.split, None, side.reason)


def _by_hash(cells: pd.DataFrame, rules: SplitConfig) -> list[_Side]:
    return [_Side(side_of(group, rules), fold_of(group, rules)) for group in cells["group_id"]]


def _kfold(cells: pd.DataFrame, rules: SplitConfig) -> list[_Side]:
    return [
        side if side.split is Split.TEST else _Side(Split.VAL if side.fold == rules.fold else Split.TRAIN, side.fold)
        for side in _by_hash(cells, rules)
    ]


def _held_out(column: str, option: str) -> Callable[[pd.DataFrame, SplitConfig], list[_Side]]:
    """A strategy whose test side is one value of `column`; groups that hold such a cell follow it whole."""

    def strategy(cells: pd.DataFrame, rules: SplitConfig) -> list[_Side]:
        wanted = getattr(rules, option)
        held = set(cells.loc[cells["fit"] & (cells[column] == wanted).fillna(value=False), "group_id"])
        if not held:
            known = ", ".join(sorted(cells.loc[cells["fit"], column].dropna().unique()))
            raise SplitError(f"split.{option}={wanted!r} names no cell of the dataset; {column} is one of: {known}")
        return [_Side(Split.TEST) if group in held else _not_test(group, rules) for group in cells["group_id"]]

    return strategy


def _not_test(group_id: str, rules: SplitConfig) -> _Side:
    """Val as `donor_hash` has it; what it would test is trained on."""
    side = side_of(group_id, rules)
    return _Side(Split.VAL if side is Split.VAL else Split.TRAIN, fold_of(group_id, rules))


def _challenge(cells: pd.DataFrame, rules: SplitConfig) -> list[_Side]:
    """The lists of 2019. Cell 741428906 is in both: it stays in test, out of train."""
    tested = set(cells.loc[cells["specimen_id"].isin(CHALLENGE_2019_TEST), "group_id"])
    sides = []
    for specimen_id, group in tuples_of(cells, "specimen_id", "group_id"):
        if specimen_id in CHALLENGE_2019_TEST:
            sides.append(_Side(Split.TEST))
        elif specimen_id not in CHALLENGE_2019_TRAIN:
            sides.append(_Side(Split.EXCLUDED, None, "not in the lists of the 2019 challenge"))
        elif group in tested:
            sides.append(_Side(Split.EXCLUDED, None, "in the 2019 training list, but shares donor, images or skeleton with a test cell"))
        else:
            sides.append(_not_test(group, rules))
    return sides


def _stratified(cells: pd.DataFrame, rules: SplitConfig) -> list[_Side]:
    """Balanced by construction, and reshuffled whenever the table grows: for studies that do not."""
    fit = cells[cells["fit"]]
    n_test, n_val = _parts(rules.test, 1.0), _parts(rules.val, 1.0 - rules.test)
    test = set(_stratified_folds(fit, n_test, rules)[0]) if n_test else set()
    rest = fit[~fit["group_id"].isin(test)]
    val = set(_stratified_folds(rest, n_val, rules)[0]) if n_val else set()
    folds = {group: k for k, groups in enumerate(_stratified_folds(rest, rules.n_folds, rules)) for group in groups}
    return [
        _Side(Split.TEST) if group in test else _Side(Split.VAL if group in val else Split.TRAIN, folds.get(group))
        for group in cells["group_id"]
    ]


def _parts(share: float, whole: float) -> int:
    """Into how many equal parts to cut, so that one of them is about `share` of `whole`; 0 where nothing is wanted."""
    return 0 if share == 0 else max(2, round(whole / share))


def _stratified_folds(cells: pd.DataFrame, n_folds: int, rules: SplitConfig) -> list[list[str]]:
    """The groups of each of `n_folds` parts."""
    from sklearn.model_selection import StratifiedGroupKFold

    n_groups = cells["group_id"].nunique()
    if n_groups < n_folds:
        raise SplitError(f"split.strategy=stratified needs at least {n_folds} groups for {n_folds} parts, found {n_groups}")
    strata = cells[list(STRATUM_COLUMNS)].fillna("unknown").agg("|".join, axis=1)
    counts = strata.map(strata.value_counts())
    strata = strata.where(counts >= n_folds, "rare")
    if (strata == "rare").sum() < n_folds:
        strata = strata.where(strata != "rare", strata.value_counts().idxmax())
    seed = int(sha256(rules.salt.encode()).hexdigest()[:8], 16)
    cut = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed).split(cells, strata, cells["group_id"])
    return [sorted(set(cells["group_id"].iloc[index])) for _, index in cut]


_STRATEGIES: dict[SplitStrategy, Callable[[pd.DataFrame, SplitConfig], list[_Side]]] = {
    SplitStrategy.donor_hash: _by_hash,
    SplitStrategy.kfold: _kfold,
    SplitStrategy.stratified: _stratified,
    SplitStrategy.challenge: _challenge,
    SplitStrategy.ood_line: _held_out("line", "hold_out_line"),
    SplitStrategy.species: _held_out("species", "hold_out_species"),
}
