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


def links(cells: pd.DataFrame, swc_sha256: Mapping[int, str]) -> list[Link]:
    """What the cells of different donors share: one entry per image series or SWC hash that more than one donor has."""
    holders: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for specimen_id, donor_id, series in tuples_of(cells, "specimen_id", "donor_id", "image_series_id"):
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


def tuples_of(frame: pd.DataFrame, *columns: str) -> Iterator[tuple[Any, ...]]:
    """Rows as plain Python values, absent ones as None."""
    plain = [frame[c].astype(object).where(frame[c].notna(), None).tolist() for c in columns]
    return zip(*plain, strict=True)
