"""Which patches one learns from: rows of `schema.PATCHES`, filtered, as plain arrays that cost a worker process nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brightfield.core.codes import LABEL_NAMES, SIDES, Split
from brightfield.core.errors import ConfigError, TableError
from brightfield.core.schema import PATCHES

if TYPE_CHECKING:
    import pandas as pd

    from brightfield.learn.files import Files


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Patches, one per row, in the order of the table.

    specimen_id, patch: (n,) int64, the key. box: (n, 3, 2) int64, half-open voxel box (z, y, x) of the downloaded grid.
    weight: (n,) float64, gives the mix of kinds to each side. holds: (n, 4) bool, whether any voxel is soma, axon, basal, apical.
    absent: (n, 4) bool, whether a voxel that is not labelled so is of no such class; False where it may be.
    """

    specimen_id: NDArray[np.int64]
    patch: NDArray[np.int64]
    box: NDArray[np.int64]
    weight: NDArray[np.float64]
    holds: NDArray[np.bool_]
    absent: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.patch)

    @property
    def digest(self) -> str:
        """A hash of which patches these are and where: a saved position means something for the same rows only."""
        hashed = sha256()
        for array in (self.specimen_id, self.patch, self.box):
            hashed.update(np.ascontiguousarray(array, "<i8").tobytes())
        return hashed.hexdigest()[:16]


def read_rows(files: Files, split: str, *, fold: int | None = None, kinds: Collection[str] | None = None, max_ignored: float = 1.0) -> Rows:
    """The patches of one side of a dataset.

    fold: with it, val is the cells of that cross-validation fold and train those of all the others. kinds: only patches of these kinds.
    max_ignored: only patches of which at most this share is unknown.

    Raises ConfigError for a side, fold or kind that the table does not have, TableError where no patch is left.
    """
    if split not in SIDES:
        raise ConfigError(f"split is one of {', '.join(SIDES)}, found {split!r}")
    frame = files.table(PATCHES)
    chosen = frame[_on_side(frame, split, fold) & _of_kinds(frame, kinds) & (frame["ignored_fraction"] <= max_ignored)]
    if chosen.empty:
        wanted = f"split {split!r}" + f", fold {fold}" * (fold is not None) + f", kinds {sorted(kinds or ())}" * (kinds is not None)
        remedy = "allow more with max_ignored, or build a larger dataset"
        raise TableError(f"no patch of {wanted} has at most {max_ignored:g} of it unknown; {remedy}", path=PATCHES.path)
    return _rows(chosen)


def _on_side(frame: pd.DataFrame, split: str, fold: int | None) -> pd.Series[bool]:
    if fold is None:
        return frame["split"] == split
    folds = sorted(int(number) for number in frame["fold"].dropna().unique())
    if split == Split.TEST or fold not in folds:
        raise ConfigError(f"fold is one of {folds} for train and val, found {fold} for {split}; build folds with `split=kfold`")
    in_fold = (frame["fold"] == fold).fillna(False).astype(bool)
    return in_fold if split == Split.VAL else frame["fold"].notna() & ~in_fold


def _of_kinds(frame: pd.DataFrame, kinds: Collection[str] | None) -> pd.Series[bool]:
    known = sorted(frame["kind"].unique())
    wanted = known if kinds is None else kinds
    if unknown := sorted(set(wanted) - set(known)):
        raise ConfigError(f"the table has patches of the kinds {', '.join(known)}, found {', '.join(unknown)}")
    return frame["kind"].isin(list(wanted))


def _rows(frame: pd.DataFrame) -> Rows:
    corners = [frame[f"{axis}{end}"].to_numpy(np.int64) for axis in "zyx" for end in (0, 1)]
    counts = [frame[f"voxels_{name}"].to_numpy(np.int64) for name in LABEL_NAMES.values()]
    return Rows(
        frame["specimen_id"].to_numpy(np.int64),
        frame["patch"].to_numpy(np.int64),
        np.stack(corners, axis=1).reshape(-1, 3, 2),
        frame["weight"].to_numpy(np.float64),
        np.stack(counts, axis=1) > 0,
        np.stack([frame[f"absent_{name}"].to_numpy() == "absent" for name in LABEL_NAMES.values()], axis=1),
    )
