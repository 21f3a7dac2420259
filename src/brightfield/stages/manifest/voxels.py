"""A cell as sampling sees it: its voxels by windows, its graph, and which of its classes are labelled throughout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brightfield.built.cells import BuiltCell
from brightfield.built.coverage import Coverage, Point
from brightfield.core.codes import LABEL_NAMES, NEURITE_LABELS, Label, Reason
from brightfield.core.layout import REASON_GROUP
from brightfield.core.schema import ALIGNMENT, LABEL_STATS
from brightfield.core.tables import read_table
from brightfield.raster.voxels import rasterize

if TYPE_CHECKING:
    import pandas as pd

    from brightfield.config.options import LabelsConfig
    from brightfield.core.skeleton import Skeleton
    from brightfield.core.space import Grid, Window
    from brightfield.volumes.volume import Volume

type Reader = Callable[[Window], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class CellVoxels:
    """What sampling looks at, of one cell. All voxels are those of the downloaded grid.

    skeleton: in the stack's frame (see `space.swc_to_stack_um`).
    tiles: the rows of `tiles` of this cell. labels, image: read a window; labels as codes of `codes.Label`.
    traced: the classes whose absence means background; others (the axon of a dendrite-only cell) give no patches.
    explained: whether the labels say which stain nobody traced (reason UNEXPLAINED).
    d_prime: (n,) contrast at each node's edge, NaN where it is not known.
    """

    specimen_id: int
    grid: Grid
    skeleton: Skeleton
    tiles: pd.DataFrame
    labels: Reader
    image: Reader
    traced: frozenset[Label] = frozenset(NEURITE_LABELS)
    explained: bool = False
    d_prime: NDArray[np.float64] | None = None

    @cached_property
    def fetched(self) -> Coverage:
        """Where pixels are."""
        return Coverage(self.tiles, self.grid.shape_zyx)

    @property
    def is_cleared(self) -> bool:
        """Whether dark background may be trusted: all is traced, or what is stained and not traced is marked."""
        return self.explained or self.traced >= set(NEURITE_LABELS)

    @cached_property
    def node_voxel_zyx(self) -> Point:
        """(n, 3): the voxel of each node; may lie outside of the grid."""
        return self.grid.to_index(self.skeleton.position_zyx_um)


def voxels_of(built: BuiltCell) -> CellVoxels:
    """A cell of the dataset, ready to be sampled: tables are read for this cell only, volumes by windows.

    Raises TableError or StackError where the download, the labels or the alignment are not there.
    """
    (stats,) = read_table(LABEL_STATS, built.root, specimen_id=built.specimen_id).to_dict("records")
    traced = frozenset(label for label, name in LABEL_NAMES.items() if stats[f"absent_{name}"] == "absent")
    stretches = read_table(ALIGNMENT, built.root, columns=["stretch", "d_prime"], specimen_id=built.specimen_id)
    return CellVoxels(
        built.specimen_id,
        built.grid,
        built.skeleton,
        built.tiles,
        _class_reader(built.labels, built.skeleton, stats["label_kind"], built.config.labels),
        built.image.read,
        traced | {Label.SOMA},
        bool(stats[f"unknown_{str(Reason.UNEXPLAINED.name).lower()}"]),
        _by_node(built.skeleton.stretches(built.config.align.stretch_um), stretches),
    )


def _by_node(stretch: NDArray[np.int64], stretches: pd.DataFrame) -> NDArray[np.float64]:
    """(n,) d' of each node's stretch, NaN where there is none (roots are in stretch -1)."""
    d_prime = np.full(max(int(stretch.max()) + 2, 1), np.nan)
    d_prime[stretches["stretch"].to_numpy(np.int64)] = stretches["d_prime"].to_numpy(np.float64, na_value=np.nan)
    d_prime[-1] = np.nan
    return d_prime[stretch]


def _class_reader(labels: Volume, skeleton: Skeleton, kind: str, rules: LabelsConfig) -> Reader:
    """Class codes in a window: the labels themselves, or for kinds without classes what `semantic` would say, with the same unknown."""
    if kind in ("semantic", "centerline"):
        return labels.read
    reason = labels.sub(REASON_GROUP)

    def read(window: Window) -> NDArray[Any]:
        codes = rasterize(
            skeleton, labels.grids[0], r_min_um=rules.r_min_um, soma_edges=rules.soma_edges.value, connect=26, window=window, threads=1
        )
        codes[(codes == Label.BACKGROUND) & (reason.read(window) > 0)] = Label.UNKNOWN
        return codes

    return read
