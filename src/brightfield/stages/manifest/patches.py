"""Where to sample: boxes of the downloaded grid, chosen along the path and by class, the same for ever.

Where a patch lies is decided by (seed, cell, kind, number) and the cell's own data alone, so that another cell in the dataset moves none. A
kind that a cell cannot give (an axon that was not traced, no dark background) leaves its places empty: there is no substitute of another
kind, but the weights, which are those of the dataset, make up for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from brightfield.core.codes import LABEL_NAMES
from brightfield.core.errors import GridError
from brightfield.core.schema import PATCHES
from brightfield.core.tables import read_table, write_table
from brightfield.sampling.mix import quotas, weights
from brightfield.stages.manifest.places import Places

if TYPE_CHECKING:
    import pandas as pd

    from brightfield.config.options import PatchesConfig
    from brightfield.core.space import Grid, Shape
    from brightfield.stages.manifest.voxels import CellVoxels


def sample(cell: CellVoxels, rules: PatchesConfig, *, split: str = "train", fold: int | None = None) -> pd.DataFrame:
    """The patches of one cell: rows of the `patches` table.

    Every patch lies within the grid, at least `rules.min_fetched` of it was downloaded, and its centre voxel (lower corner + size // 2) is
    downloaded and known. Quotas are per cell and kind: shares of `rules.per_cell`. Weights are those of a dataset of this cell alone, see
    `sampling.mix.weights`. Raises GridError for a patch larger than the volume.
    """
    import pandas as pd

    shape = patch_shape(cell.grid, rules, cell.specimen_id)
    places = Places(cell, shape, rules)
    rows: list[dict[str, Any]] = []
    first = 0
    for kind, quota in quotas(rules).items():
        rows += [{"patch": first + index, "kind": kind, **fields} for index, fields in places.of_kind(kind, quota)]
        first += quota
    frame = pd.DataFrame(rows, columns=list(PATCHES.column_names))
    frame["specimen_id"], frame["split"] = cell.specimen_id, split
    for label, name in LABEL_NAMES.items():
        frame[f"absent_{name}"] = "absent" if label in cell.traced else "unknown"
    frame["weight"] = weights(frame, rules)
    frame["fold"] = pd.array([fold] * len(frame), "Int32")
    frame["node_id"] = frame["node_id"].astype("Int64")
    frame["difficulty"] = frame["difficulty"].astype("Float64")
    return frame[list(PATCHES.column_names)]


def weigh(root: Path, rules: PatchesConfig) -> None:
    """Give the patches of all cells the weights that restore the mix on each side: those of a cell alone are others."""
    patches = read_table(PATCHES, root)
    write_table(PATCHES, patches.assign(weight=weights(patches, rules)), root)


def patch_shape(grid: Grid, rules: PatchesConfig, specimen_id: int) -> Shape:
    """A patch in voxels of `grid`: `rules.size_um` where given, else `rules.size_zyx`. Raises GridError where it does not fit."""
    if rules.size_um:
        wanted = [max(1, round(um / voxel)) for um, voxel in zip(rules.size_um, grid.voxel_size_zyx_um, strict=True)]
    else:
        wanted = list(rules.size_zyx)
    if any(n > limit for n, limit in zip(wanted, grid.shape_zyx, strict=True)):
        raise GridError(
            f"cell {specimen_id}: a patch of {tuple(wanted)} voxels is larger than the volume of {grid.shape_zyx}; "
            "choose a smaller patches.size_zyx or patches.size_um, a finer image.level, or leave the cell out"
        )
    z, y, x = wanted
    return (z, y, x)
