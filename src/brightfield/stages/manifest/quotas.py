"""How many patches of each kind a cell gets, and what each weighs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from brightfield.config.options import PatchesConfig


PATCH_KINDS = ("dendrite", "axon", "soma", "keypoint", "hard_negative", "edge", "random")


def quotas(rules: PatchesConfig) -> dict[str, int]:
    """Places per kind: the mix, scaled to add up to 1, times `per_cell`, rounded by largest remainder."""
    mix = _mix(rules)
    exact = {kind: share * rules.per_cell for kind, share in mix.items()}
    counts = {kind: int(value) for kind, value in exact.items()}
    by_remainder = sorted(PATCH_KINDS, key=lambda kind: (counts[kind] - exact[kind], PATCH_KINDS.index(kind)))
    for kind in by_remainder[: round(sum(exact.values())) - sum(counts.values())]:
        counts[kind] += 1
    return counts


def _mix(rules: PatchesConfig) -> dict[str, float]:
    shares = {kind: float(getattr(rules, kind)) for kind in PATCH_KINDS}
    total = sum(shares.values())
    return {kind: share / total if total else 0.0 for kind, share in shares.items()}


def weights(kinds: pd.Series[str], rules: PatchesConfig) -> pd.Series[float]:
    """Share of the kind in the mix / patches of the kind, scaled to add up to 1 over the kinds that the cell has."""
    counts = Counter(kinds.tolist())
    mix = _mix(rules)
    total = sum(mix[kind] for kind in counts)
    return kinds.map({kind: round(mix[kind] / total / n, 12) for kind, n in counts.items()}).astype(float)
