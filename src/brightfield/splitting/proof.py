"""The proof of a split: what leaks, and how far each stratum is from the shares that were asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from brightfield.config.options import SplitConfig
from brightfield.core.codes import LABEL_NAMES, Split
from brightfield.splitting.groups import tuples_of

if TYPE_CHECKING:
    import pandas as pd


STRATUM_COLUMNS = ("reconstruction_type", "dendrite_type", "layer")
"""What a cell is: each value of these is a stratum, and each combination."""

LINE_COLUMN = "line"
"""The transgenic line: each value is a stratum. In no combination, which would leave few cells in each."""


MIN_STRATUM_CELLS = 20


MAX_DEVIATION_POINTS = 5.0


@dataclass(frozen=True, slots=True)
class Proof:
    """What makes a split believable.

    leaks: things that sit on two sides (or in two folds) at once; none, for a split that is sound.
    strata: one row per stratum of at least MIN_STRATUM_CELLS cells (all cells, each value of the STRATUM_COLUMNS and of the line, each
    combination of the STRATUM_COLUMNS): stratum, cells, train, val, test (shares), deviation_points (largest distance from the shares
    asked for, in points).
    counts: one row per side: split, cells, donors, full, path_um, voxels (labelled with a class; these two where the table has them).
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
    return Proof(leaks_of(taken), _strata_table(taken, rules), _counts(taken))


def leaks_of(manifest: pd.DataFrame) -> tuple[str, ...]:
    """The `leaks` of `prove` alone."""
    return tuple(_leaks(manifest[manifest["split"] != Split.EXCLUDED]))


def _leaks(taken: pd.DataFrame) -> Iterator[str]:
    kinds = {
        "group_id": "group",
        "group": "owner's group",
        "donor_id": "donor",
        "image_series_id": "image series",
        "skeleton_sha256": "skeleton (sha256)",
    }
    for column, kind in kinds.items():
        if column not in taken:
            continue
        known = taken[taken[column].notna()]
        for where in ("split", "fold"):
            sides = known.dropna(subset=[where]).groupby(column, sort=True)[where].nunique()
            for value in sides.index[sides > 1]:
                rows = known[known[column] == value].sort_values("specimen_id")
                cells = ", ".join(f"{i} ({s})" for i, s in tuples_of(rows, "specimen_id", where))
                yield f"{kind} {value} is in several {where}s: cells {cells}"


def _strata_table(taken: pd.DataFrame, rules: SplitConfig) -> pd.DataFrame:
    import pandas as pd

    wanted = {Split.TRAIN: 1 - rules.test - rules.val, Split.VAL: rules.val, Split.TEST: rules.test}
    rows = []
    for name, members in strata_of(taken):
        shares = {side: float((members["split"] == side).mean()) for side in wanted}
        off = max(abs(shares[side] - wanted[side]) for side in wanted)
        rows.append((name, len(members), *shares.values(), round(100 * off, 9)))
    return pd.DataFrame(rows, columns=["stratum", "cells", *(side.value for side in wanted), "deviation_points"])


def strata_of(cells: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Every stratum of MIN_STRATUM_CELLS cells or more: all cells, each value of each column, each combination of the three."""
    columns = (*STRATUM_COLUMNS, LINE_COLUMN)
    if len(cells) >= MIN_STRATUM_CELLS:
        yield "all", cells
    known = cells.assign(**{column: cells[column].fillna("unknown") for column in columns})
    for keys in (*([column] for column in columns), list(STRATUM_COLUMNS)):
        for values, members in known.groupby(keys, sort=True):
            if len(members) >= MIN_STRATUM_CELLS:
                yield " ".join(f"{c}={v}" if len(keys) == 1 else str(v) for c, v in zip(keys, values, strict=True)), members


def _counts(taken: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    paths = [f"path_{name}_um" for name in LABEL_NAMES.values() if f"path_{name}_um" in taken]
    voxels = [f"voxels_{name}" for name in LABEL_NAMES.values() if f"voxels_{name}" in taken]
    rows = []
    for side in (Split.TRAIN, Split.VAL, Split.TEST):
        of = taken[taken["split"] == side]
        full = int((of["reconstruction_type"] == "full").sum())
        lengths = of[paths].sum().sum() if paths else None
        rows.append((side.value, len(of), of["donor_id"].nunique(), full, lengths, of[voxels].sum().sum() if voxels else None))
    return pd.DataFrame(rows, columns=["split", "cells", "donors", "full", "path_um", "voxels"])
