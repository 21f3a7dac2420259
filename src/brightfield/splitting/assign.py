"""Who is on which side, so that nothing leaks and nothing moves.

Cells that share a donor, an image series or the bytes of a skeleton form a GROUP, and a group is never parted. A group is named by one
of its donors, and that name alone, hashed with a salt, decides its side and its fold: cells that come later change nothing for those
that are there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from brightfield.config.options import SplitConfig, SplitStrategy
from brightfield.core.errors import SplitError
from brightfield.core.schema import SPLITS, Split

if TYPE_CHECKING:
    import pandas as pd

GRADES = ("A", "B", "C")
"""Grades of alignment a cell may have and still be taken, best first."""

STRATUM_COLUMNS = ("reconstruction_type", "dendrite_type", "layer")
MIN_STRATUM_CELLS = 20
MAX_DEVIATION_POINTS = 5.0

type Groups = dict[int, int]  # donor -> the donor whose name the group bears


@dataclass(frozen=True, slots=True)
class Link:
    """Why donors belong together: what their cells share, and which cells."""

    kind: str
    value: str
    specimen_ids: tuple[int, ...]
    donor_ids: tuple[int, ...]

    def __str__(self) -> str:
        """A line for an error message."""
        cells = ", ".join(str(i) for i in self.specimen_ids)
        return f"cells {cells} of donors {', '.join(str(d) for d in self.donor_ids)} share {self.kind} {self.value}"


def draw(salt: str, name: str) -> float:
    """A number in [0, 1) that depends on the salt and the name only: the first 64 bits of sha256("salt|name")."""
    return int(sha256(f"{salt}|{name}".encode()).hexdigest()[:16], 16) / 2**64


def side_of(group_id: str, rules: SplitConfig) -> Split:
    """The side that the hash gives a group: test below `rules.test`, val below `rules.test + rules.val`, else train."""
    u = draw(rules.salt, group_id)
    return Split.TEST if u < rules.test else Split.VAL if u < rules.test + rules.val else Split.TRAIN


def fold_of(group_id: str, rules: SplitConfig) -> int:
    """The cross-validation fold that a second, independent hash gives a group."""
    return int(draw(f"{rules.salt}|fold", group_id) * rules.n_folds)


def assign(
    cells: pd.DataFrame,
    rules: SplitConfig,
    *,
    swc_sha256: Mapping[int, str] | None = None,
    alignment: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Give every cell its group, side and fold.

    cells: the `cells` table, every row. Cells that are not selected take part in nothing and are excluded with their reason.
    swc_sha256: hash of the skeleton's bytes per specimen id, so that a file that comes twice under two names does not leak.
    alignment: the `alignment_cells` table: rejected cells, cells without a verdict, and test cells below `rules.min_test_grade` are
    excluded with a reason. None leaves this out (planning before anything was downloaded).

    Returns the rows of the `splits` table, in the order of `cells`. Raises SplitError where cells link groups of different sides or folds,
    and where the rules name a line, a species or a fold that does not exist.
    """
    if not 0 <= rules.fold < rules.n_folds or rules.test + rules.val >= 1 or rules.min_test_grade not in GRADES:
        raise SplitError(
            "the rules of the split need fold < n_folds, test + val < 1 and a min_test_grade of A, B or C; found "
            f"fold={rules.fold}, n_folds={rules.n_folds}, test={rules.test}, val={rules.val}, min_test_grade={rules.min_test_grade}"
        )
    out = cells[["specimen_id"]].copy()
    out["group_id"] = _group_ids(cells, rules, swc_sha256 or {})
    reasons = _unfit(cells, alignment)
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


# -------------------------------------------------------------------------------------------------------------------- groups


def links(cells: pd.DataFrame, swc_sha256: Mapping[int, str]) -> list[Link]:
    """What the cells of different donors share: one entry per image series or SWC hash that more than one donor has."""
    holders: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for specimen_id, donor_id, series in _tuples(cells, "specimen_id", "donor_id", "image_series_id"):
        if series is not None:
            holders["image series", str(series)].append((specimen_id, donor_id))
        if specimen_id in swc_sha256:
            holders["SWC sha256", swc_sha256[specimen_id]].append((specimen_id, donor_id))
    return [
        Link(kind, value, tuple(sorted(s for s, _ in pairs)), tuple(sorted({d for _, d in pairs})))
        for (kind, value), pairs in sorted(holders.items())
        if len({d for _, d in pairs}) > 1
    ]


def _group_ids(cells: pd.DataFrame, rules: SplitConfig, swc_sha256: Mapping[int, str]) -> list[str]:
    found = links(cells[cells["selected"].fillna(value=False).astype(bool)], swc_sha256)
    leaders = _follow(rules)
    groups: dict[int, list[int]] = defaultdict(list)
    donors = sorted(set(cells["donor_id"].tolist()))
    roots = _components(donors, [link.donor_ids for link in found])
    for donor in donors:
        groups[roots[donor]].append(donor)
    names: Groups = {}
    for members in groups.values():
        name = _name(members, leaders, rules, found, cells)
        names |= dict.fromkeys(members, name)
    return [str(names[donor]) for donor in cells["donor_id"].tolist()]


def _name(members: list[int], leaders: Groups, rules: SplitConfig, found: list[Link], cells: pd.DataFrame) -> int:
    """The donor that names a group: the smallest, once all of them draw the same side and fold."""
    candidates = sorted({leaders.get(donor, donor) for donor in members})
    drawn = {donor: (side_of(str(donor), rules), fold_of(str(donor), rules)) for donor in candidates}
    folds = {fold if side is not Split.TEST else None for side, fold in drawn.values()}
    if rules.strategy is SplitStrategy.stratified or (len({side for side, _ in drawn.values()}) == 1 and len(folds) == 1):
        return candidates[0]
    shared = "\n".join(f"  {link}" for link in found if set(link.donor_ids) <= set(members))
    first, *others = candidates
    specimens = {donor: cells.loc[cells["donor_id"] == donor, "specimen_id"].tolist() for donor in members}
    sides = "\n".join(f"  donor {d}: {side}, fold {fold}; cells {specimens.get(d, [])}" for d, (side, fold) in drawn.items())
    follow = ",".join(f"{donor}:{first}" for donor in others)
    raise SplitError(
        f"groups on different sides became one group, and no cell is moved without being told:\n{shared}\n{sides}\n"
        f"Say which donor's side the others take (split.follow=[{follow}], or the other way round: their cells move, a MAJOR version), "
        "take the linking cells out of the selection, or choose another split.salt (everything moves)."
    )


def _follow(rules: SplitConfig) -> Groups:
    leaders: Groups = {}
    for pair in rules.follow:
        donor, _, leader = pair.partition(":")
        if not (donor.strip().isdigit() and leader.strip().isdigit()):
            raise SplitError(f"split.follow holds entries `donor:leader` with two donor ids, found {pair!r}")
        leaders[int(donor)] = int(leader)
    chained = sorted(set(leaders) & set(leaders.values()))
    if chained:
        raise SplitError(f"split.follow: donor(s) {chained} lead and follow at once; name the last leader for all of them")
    return leaders


def _components(items: Iterable[int], joined: Iterable[tuple[int, ...]]) -> dict[int, int]:
    """Connected components: each item -> the root of its tree (union-find)."""
    parent = {item: item for item in items}

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = item = parent[parent[item]]
        return item

    for first, *rest in joined:
        for other in rest:
            parent[root(other)] = root(first)
    return {item: root(item) for item in parent}


# ---------------------------------------------------------------------------------------------------------------- strategies


@dataclass(frozen=True, slots=True)
class _Side:
    split: Split
    fold: int | None = None
    reason: str | None = None


def _unfit(cells: pd.DataFrame, alignment: pd.DataFrame | None) -> list[str | None]:
    """Why each cell cannot be taken at all; None where it can."""
    verdicts = {} if alignment is None else {i: (g, r) for i, g, r in _tuples(alignment, "specimen_id", "grade", "reason")}
    reasons: list[str | None] = []
    for specimen_id, selected, why in _tuples(cells, "specimen_id", "selected", "reason"):
        if not selected:
            reasons.append(why or "not selected")
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
    for specimen_id, group in _tuples(cells, "specimen_id", "group_id"):
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

# --------------------------------------------------------------------------------------------------------------------- proof


@dataclass(frozen=True, slots=True)
class Proof:
    """What makes a split believable.

    leaks: things that sit on two sides (or in two folds) at once; none, for a split that is sound.
    strata: one row per stratum of at least MIN_STRATUM_CELLS cells (all cells, each value of the STRATUM_COLUMNS, each combination of
    them): stratum, cells, train, val, test (shares), deviation_points (largest distance from the shares asked for, in points).
    counts: one row per side: split, cells, donors, full, path_um, voxels (the last two where the table has them).
    """

    leaks: tuple[str, ...]
    strata: pd.DataFrame
    counts: pd.DataFrame

    @property
    def max_deviation_points(self) -> float:
        """The worst stratum; 0 where no stratum is large enough to be judged."""
        return float(self.strata["deviation_points"].max()) if len(self.strata) else 0.0


def prove(manifest: pd.DataFrame, rules: SplitConfig) -> Proof:
    """Examine a finished split. `manifest` needs the columns of `splits`, `cells` and, where known, `skeleton_sha256`, paths and voxels."""
    taken = manifest[manifest["split"] != Split.EXCLUDED]
    return Proof(tuple(_leaks(taken)), _strata_table(taken, rules), _counts(taken))


def _leaks(taken: pd.DataFrame) -> Iterator[str]:
    kinds = {"group_id": "group", "donor_id": "donor", "image_series_id": "image series", "skeleton_sha256": "skeleton (sha256)"}
    for column, kind in kinds.items():
        if column not in taken:
            continue
        known = taken[taken[column].notna()]
        for where in ("split", "fold"):
            sides = known.dropna(subset=[where]).groupby(column, sort=True)[where].nunique()
            for value in sides.index[sides > 1]:
                rows = known[known[column] == value].sort_values("specimen_id")
                cells = ", ".join(f"{i} ({s})" for i, s in _tuples(rows, "specimen_id", where))
                yield f"{kind} {value} is in several {where}s: cells {cells}"


def _strata_table(taken: pd.DataFrame, rules: SplitConfig) -> pd.DataFrame:
    import pandas as pd

    wanted = {Split.TRAIN: 1 - rules.test - rules.val, Split.VAL: rules.val, Split.TEST: rules.test}
    rows = []
    for name, members in _strata(taken):
        shares = {side: float((members["split"] == side).mean()) for side in wanted}
        off = max(abs(shares[side] - wanted[side]) for side in wanted)
        rows.append((name, len(members), *shares.values(), round(100 * off, 9)))
    return pd.DataFrame(rows, columns=["stratum", "cells", *(side.value for side in wanted), "deviation_points"])


def _strata(cells: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every stratum of MIN_STRATUM_CELLS cells or more: all cells, each value of each column, each combination of the three."""
    if len(cells) >= MIN_STRATUM_CELLS:
        yield "all", cells
    known = cells.assign(**{column: cells[column].fillna("unknown") for column in STRATUM_COLUMNS})
    for columns in (*([column] for column in STRATUM_COLUMNS), list(STRATUM_COLUMNS)):
        for values, members in known.groupby(columns, sort=True):
            if len(members) >= MIN_STRATUM_CELLS:
                yield " ".join(f"{c}={v}" if len(columns) == 1 else str(v) for c, v in zip(columns, values, strict=True)), members


def _counts(taken: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    paths = [c for c in taken.columns if c.startswith("path_") and c.endswith("_um")]
    voxels = [c for c in taken.columns if c.startswith("voxels_") and c != "voxels_unknown"]
    rows = []
    for side in (Split.TRAIN, Split.VAL, Split.TEST):
        of = taken[taken["split"] == side]
        full = int((of["reconstruction_type"] == "full").sum())
        lengths = of[paths].sum().sum() if paths else None
        rows.append((side.value, len(of), of["donor_id"].nunique(), full, lengths, of[voxels].sum().sum() if voxels else None))
    return pd.DataFrame(rows, columns=["split", "cells", "donors", "full", "path_um", "voxels"])


# ---------------------------------------------------------------------------------------------------------------------- salt


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
    published: another salt moves cells. A candidate is dropped at its first stratum that is no better than the best so far, which makes
    a million candidates on 500 cells a matter of minutes.
    """
    strata = [(tuple(members["donor_id"].value_counts().items()), len(members)) for _, members in _strata(cells)]
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
    worst = 0.0
    for donors, n_cells in strata:
        test = val = 0
        for donor, count in donors:
            u = draw(salt, str(donor))
            if u < rules.test:
                test += count
            elif u < rules.test + rules.val:
                val += count
        off_test, off_val = test / n_cells - rules.test, val / n_cells - rules.val
        worst = max(worst, round(100 * max(abs(off_test), abs(off_val), abs(off_test + off_val)), 9))
        if worst >= limit:
            return float("inf")
    return worst


def _tuples(frame: pd.DataFrame, *columns: str) -> Iterator[tuple[Any, ...]]:
    """Rows as plain Python values, absent ones as None."""
    plain = [frame[c].astype(object).where(frame[c].notna(), None).tolist() for c in columns]
    return zip(*plain, strict=True)


# --------------------------------------------------------------------------------------------------- lists of the 2019 challenge

# fmt: off
CHALLENGE_2019_TRAIN = frozenset((
    647225829, 647244741, 647247980, 647278927, 647289876, 649052017, 650917845, 651511374, 651748297, 651790667, 651806289, 651829339,
    651834134, 652113069, 654221379, 654591451, 663523681, 663961066, 664466860, 668664690, 669371214, 672278613, 673066511, 674317065,
    676633030, 677326176, 677347027, 685884456, 687702530, 687746742, 688712523, 689485972, 691329423, 691830341, 692932326, 693441787,
    693978543, 694569649, 694613686, 696228200, 696560235, 697851947, 699189400, 699207642, 702233284, 704338365, 704353262, 704363712,
    706002308, 706065773, 707517873, 710114253, 710124691, 712951287, 712977942, 713016653, 713686035, 715273626, 715286106, 715328776,
    718476684, 718706617, 718987297, 719458528, 720463180, 720948812, 721065710, 722033195, 722603466, 724316403, 726555942, 726635182,
    728203498, 728251151, 729522604, 736979905, 739291676, 739383450, 741428906, 742421390, 743214898, 743274987, 743918700, 744609566,
    745145893, 757721211, 762275581, 762912832, 765078615, 766985763, 767485082, 768977785, 772239618, 774495631, 777467421, 777472440,
    797376860, 798631918, 815877776, 818150510, 821560343, 832210870, 836350796, 845142280, 861519869,
))
# fmt: on

# fmt: off
CHALLENGE_2019_TEST = frozenset((
    665856925, 687730329, 691311995, 715953708, 741428906, 751017870, 761936495, 827413048, 850675694, 878858275,
))
# fmt: on
