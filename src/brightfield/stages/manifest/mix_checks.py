"""Checks of the mix of patches: does every cell give what was asked of it, and does every side of the dataset have the mix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from brightfield.built.dataset import Dataset, records
from brightfield.core.codes import SIDES, Finding, Severity
from brightfield.core.schema import LABEL_STATS, PATCHES
from brightfield.core.tables import read_table
from brightfield.sampling.mix import MET_SHARE, MIX_POINTS, delivered, quotas, weights
from brightfield.stages.manifest.findings import error_of, warning_of

if TYPE_CHECKING:
    import pandas as pd

NAMED_CELLS = 5
"""Cells that a finding about many names."""

_MADE_UP_FOR = "nothing: the weights make up for it within a side (draw by weight)"
_MORE_PLACES = "lower patches.min_fetched, take smaller patches, or download more (image.radius_um, image.background_share)"


def check_weights(dataset: Dataset) -> Iterator[Finding]:
    """Every patch has the weight that restores the mix."""
    patches = read_table(PATCHES, dataset.root)
    wrong = ~np.isclose(patches["weight"].to_numpy(float), weights(patches, dataset.config.patches).to_numpy(float), rtol=0, atol=1e-9)
    for specimen_id, of in patches[wrong].groupby("specimen_id"):
        message = f"patches {of['patch'].tolist()[:NAMED_CELLS]} do not have the weights that restore the mix"
        yield error_of("patches", message, int(str(specimen_id)))


def check_mix(dataset: Dataset) -> Iterator[Finding]:
    """Drawn by the weights that they should have, the patches of every side have the mix that was asked for."""
    rules, sides = dataset.config.patches, dataset.taken.set_index("specimen_id")["split"]
    patches = read_table(PATCHES, dataset.root)
    patches = patches[patches["specimen_id"].isin(sides.index)]
    patches = patches.assign(split=patches["specimen_id"].map(sides))  # of their cells: a patch on another side is told by `check_patches`
    frame = delivered(patches.assign(weight=weights(patches, rules)), rules)
    for side in (side for side in SIDES if (patches["split"] == side).any()):
        off = frame[(frame[side] - frame["asked"]).abs() > MIX_POINTS / 100 + 1e-9]
        if len(off):
            words = ", ".join(f"{r['kind']} {100 * r[side]:.1f} % ({100 * r['asked']:.1f} asked)" for r in records(off))
            lacking = ", ".join(off.loc[off[side] == 0, "kind"])
            what = f"gives no {lacking}" if lacking else "has another mix of patches than was asked for"
            yield warning_of("mix", f"side {side} {what}: {words}", remedy="take more cells, or ask for what there is (patches.*)")


def check_quotas(dataset: Dataset) -> Iterator[Finding]:
    """Every cell gives at least MET_SHARE of each kind that it is asked for; where it cannot, the reason is said once for all of them."""
    asked = quotas(dataset.config.patches)
    counts = read_table(PATCHES, dataset.root, columns=["specimen_id", "kind"]).value_counts()
    explained: dict[tuple[str, str], list[int]] = {}
    for cell in _cells(dataset):
        specimen_id = int(cell["specimen_id"])
        for kind, quota in asked.items():
            count = int(counts.get((specimen_id, kind), 0))
            if count >= MET_SHARE * quota:
                continue
            if why := _why_few(kind, cell):
                explained.setdefault((kind, why), []).append(specimen_id)
            else:
                message = f"{count} of {quota} {kind} patches: so few places are downloaded and known"
                yield warning_of("quotas", message, specimen_id, _MORE_PLACES)
    for (kind, why), cells in explained.items():
        named = ", ".join(map(str, cells[:NAMED_CELLS])) + (", ..." if len(cells) > NAMED_CELLS else "")
        message = f"{len(cells)} cell(s) give fewer than {MET_SHARE:.0%} of their {kind} patches: {why} ({named})"
        yield Finding(Severity.INFO, "quotas", message, None, _MADE_UP_FOR)


def _cells(dataset: Dataset) -> list[dict[str, Any]]:
    """The cells that give patches, with what their labels are."""
    stats = read_table(LABEL_STATS, dataset.root, columns=["specimen_id", "unknown_unexplained"])
    joined: pd.DataFrame = dataset.taken.merge(stats, on="specimen_id")
    return records(joined)


def _why_few(kind: str, cell: dict[str, Any]) -> str | None:
    """Why a cell cannot give many patches of a kind; None where it should."""
    if kind == "axon":
        return "the axon is unknown where it is not traced" if cell["absent_axon"] == "unknown" else _none(cell["path_axon_um"], "axon")
    if kind == "dendrite":
        return _none(cell["path_basal_um"] + cell["path_apical_um"], "dendrite")
    if kind == "soma":
        return _none(cell["voxels_soma"], "soma")
    if kind == "hard_negative":
        if cell["absent_axon"] == "unknown" and not cell["unknown_unexplained"]:
            return "the axon is unknown, and no stain of it is marked as unexplained"
        return "so little dark background is far enough from neurites and from unknown voxels"
    return None


def _none(amount: float, what: str) -> str | None:
    return None if amount else f"no {what} was traced"
