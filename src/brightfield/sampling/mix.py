"""The mix of patches: how many of each kind a cell is asked for, what each weighs, and what the mix came to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from brightfield.core.codes import SIDES

if TYPE_CHECKING:
    import pandas as pd

    from brightfield.config.options import PatchesConfig


PATCH_KINDS = ("dendrite", "axon", "soma", "keypoint", "hard_negative", "edge", "random")

MET_SHARE = 0.8
"""Share of a quota that counts as met: below it there is a finding."""

MIX_POINTS = 2.0
"""How far the mix of a side, by weight, may be from the one that was asked for, in points."""


def mix(rules: PatchesConfig) -> dict[str, float]:
    """The share of each kind, scaled so that all add up to 1; all 0 where nothing is asked for."""
    shares = {kind: float(getattr(rules, kind)) for kind in PATCH_KINDS}
    total = sum(shares.values())
    return {kind: share / total if total else 0.0 for kind, share in shares.items()}


def quotas(rules: PatchesConfig) -> dict[str, int]:
    """Places per kind: the mix times `per_cell`, rounded by largest remainder."""
    exact = {kind: share * rules.per_cell for kind, share in mix(rules).items()}
    counts = {kind: int(value) for kind, value in exact.items()}
    by_remainder = sorted(PATCH_KINDS, key=lambda kind: (counts[kind] - exact[kind], PATCH_KINDS.index(kind)))
    for kind in by_remainder[: round(sum(exact.values())) - sum(counts.values())]:
        counts[kind] += 1
    return counts


def weights(patches: pd.DataFrame, rules: PatchesConfig) -> pd.Series[float]:
    """The weight of each patch, such that every side of the dataset has the mix, whatever its cells can give.

    patches: rows of the `patches` table (specimen_id, split, kind) of all cells. Within a side, each kind has its share of the mix (scaled
    where the side lacks a kind); within a kind, every cell that has it counts the same. The weights of a side add up to its cells.
    """
    shares = mix(rules)
    of_side, of_kind = patches.groupby("split"), patches.groupby(["split", "kind"])
    present = patches.drop_duplicates(["split", "kind"])
    whole = present.assign(share=present["kind"].map(shares).astype(float)).groupby("split")["share"].sum()
    cells = of_side["specimen_id"].transform("nunique")
    holders = of_kind["specimen_id"].transform("nunique")
    places = patches.groupby(["specimen_id", "kind"])["kind"].transform("size")
    share = patches["kind"].map(shares).astype(float) / patches["split"].map(whole).astype(float)
    return (share * cells / holders / places).astype(float).round(12)


def delivered(patches: pd.DataFrame, rules: PatchesConfig) -> pd.DataFrame:
    """The mix as it came: a row per kind with `kind`, `asked` (share), `patches`, `share` of them, and the share by weight of each side.

    patches: rows of the `patches` table (split, kind, weight). Shares of a side without patches are 0.
    """
    import pandas as pd

    frame = pd.DataFrame({"kind": PATCH_KINDS, "asked": list(mix(rules).values())})
    counts = patches["kind"].value_counts()
    frame["patches"] = [int(counts.get(kind, 0)) for kind in PATCH_KINDS]
    frame["share"] = frame["patches"] / max(len(patches), 1)
    for side in SIDES:
        weight = patches[patches["split"] == side].groupby("kind")["weight"].sum()
        whole = float(weight.sum()) or 1.0
        frame[side.value] = [float(weight.get(kind, 0.0)) / whole for kind in PATCH_KINDS]
    return frame
