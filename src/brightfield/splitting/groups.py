"""Groups of cells that must stay on one side: what they share, and the name whose hash decides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from brightfield.config.options import SplitConfig, SplitStrategy
from brightfield.core.codes import Split
from brightfield.core.errors import SplitError

if TYPE_CHECKING:
    import pandas as pd


type Groups = dict[int, int]  # donor -> the donor whose side it takes


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
    """The side that the hashes give a group: test below `rules.test`; of the others val by a hash of their own, else train.

    Two salts, because each can then be searched alone: what is even in test and in val is found in thousands of tries, not in billions.
    Without a `val_salt` val is what the hash of test has below `rules.test + rules.val`.
    """
    u = draw(rules.salt, group_id)
    if u < rules.test:
        return Split.TEST
    if rules.val_salt:
        return Split.VAL if draw(rules.val_salt, group_id) * (1 - rules.test) < rules.val else Split.TRAIN
    return Split.VAL if u < rules.test + rules.val else Split.TRAIN


def fold_of(group_id: str, rules: SplitConfig) -> int:
    """The cross-validation fold that a second, independent hash gives a group."""
    return int(draw(f"{rules.salt}|fold", group_id) * rules.n_folds)


def links(cells: pd.DataFrame, swc_sha256: Mapping[int, str]) -> list[Link]:
    """What the cells of different donors share: one entry per group, image series or SWC hash that more than one donor has."""
    holders: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for specimen_id, donor_id, series, group in tuples_of(cells, "specimen_id", "donor_id", "image_series_id", "group"):
        if group is not None:
            holders["group", group].append((specimen_id, donor_id))
        if series is not None:
            holders["image series", str(series)].append((specimen_id, donor_id))
        if specimen_id in swc_sha256:
            holders["SWC sha256", swc_sha256[specimen_id]].append((specimen_id, donor_id))
    return [
        Link(kind, value, tuple(sorted(s for s, _ in pairs)), tuple(sorted({d for _, d in pairs})))
        for (kind, value), pairs in sorted(holders.items())
        if len({d for _, d in pairs}) > 1
    ]


def group_ids(cells: pd.DataFrame, rules: SplitConfig, swc_sha256: Mapping[int, str]) -> list[str]:
    """The name of each cell's group, in the order of `cells`. Raises SplitError where cells link groups of different sides or folds."""
    found = links(cells[cells["selected"].fillna(value=False).astype(bool)], swc_sha256)
    leaders = _follow(rules)
    groups: dict[int, list[int]] = defaultdict(list)
    donors = sorted(set(cells["donor_id"].tolist()))
    roots = _components(donors, [link.donor_ids for link in found])
    for donor in donors:
        groups[roots[donor]].append(donor)
    own_names = _own_names(cells, leaders)
    names: dict[int, str] = {}
    for members in groups.values():
        name = _name(members, own_names, rules, found, cells)
        names |= dict.fromkeys(members, name)
    return [names[donor] for donor in cells["donor_id"].tolist()]


def _own_names(cells: pd.DataFrame, leaders: Groups) -> dict[int, set[str]]:
    """By what each donor may be named: the groups that its owner gives its cells, else itself or the donor that it follows."""
    given: dict[int, set[str]] = defaultdict(set)
    for donor, group in tuples_of(cells, "donor_id", "group"):
        given[donor] |= set() if group is None else {f"group {group}"}
    return {donor: names or {str(leaders.get(donor, donor))} for donor, names in given.items()}


def _name(members: list[int], own_names: Mapping[int, set[str]], rules: SplitConfig, found: list[Link], cells: pd.DataFrame) -> str:
    """What names a group of donors: what its owner calls it, or the smallest donor, once all of these draw the same side and fold."""
    candidates = sorted({name for donor in members for name in own_names[donor]}, key=_order)
    drawn = {name: (side_of(name, rules), fold_of(name, rules)) for name in candidates}
    folds = {fold if side is not Split.TEST else None for side, fold in drawn.values()}
    if rules.strategy is SplitStrategy.stratified or (len({side for side, _ in drawn.values()}) == 1 and len(folds) == 1):
        return candidates[0]
    shared = "\n".join(f"  {link}" for link in found if set(link.donor_ids) <= set(members))
    first, *others = candidates
    specimens = {name: cells.loc[cells["donor_id"].isin([d for d in members if name in own_names[d]]), "specimen_id"] for name in drawn}
    sides = "\n".join(f"  {_called(d)}: {side}, fold {fold}; cells {specimens[d].tolist()}" for d, (side, fold) in drawn.items())
    follow = ",".join(f"{donor}:{first}" for donor in others)
    if not all(name.isdigit() for name in candidates):
        raise SplitError(f"groups that were given on different sides belong together:\n{shared}\n{sides}\nGive their cells one group.")
    raise SplitError(
        f"groups on different sides became one group, and no cell is moved without being told:\n{shared}\n{sides}\n"
        f"Say which donor's side the others take (split.follow=[{follow}], or the other way round: their cells move, a MAJOR version), "
        "take the linking cells out of the selection, or choose another split.salt (everything moves)."
    )


def _order(name: str) -> tuple[bool, int, str]:
    """Donors first, as numbers."""
    return (not name.isdigit(), int(name) if name.isdigit() else 0, name)


def _called(name: str) -> str:
    return f"donor {name}" if name.isdigit() else name


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


def tuples_of(frame: pd.DataFrame, *columns: str) -> Iterator[tuple[Any, ...]]:
    """Rows as plain Python values, absent ones as None."""
    plain = [frame[c].astype(object).where(frame[c].notna(), None).tolist() for c in columns]
    return zip(*plain, strict=True)
