"""Skeleton nodes for evaluators: positions in um and voxels, how tips end, and where recall may be scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from brightfield.built.cells import BuiltCell
from brightfield.core.codes import LABEL_NAMES, Label, Verdict
from brightfield.core.layout import SwcUnit, swc_export_file
from brightfield.core.markers import Marker
from brightfield.core.schema import ALIGNMENT, LABEL_STATS
from brightfield.core.skeleton import ROOT, Skeleton
from brightfield.core.swc import write_swc
from brightfield.core.tables import read_table
from brightfield.core.tips import FACE_PLANES, tip_kinds

if TYPE_CHECKING:
    import pandas as pd

    from brightfield.core.space import Grid


def nodes_of(built: BuiltCell) -> pd.DataFrame:
    """`nodes_frame` of a built cell."""
    stretches = read_table(ALIGNMENT, built.root, columns=["stretch", "verdict"], specimen_id=built.specimen_id)
    stats = read_table(LABEL_STATS, built.root, specimen_id=built.specimen_id).iloc[0]
    return nodes_frame(
        built.specimen_id,
        built.skeleton,
        built.markers,
        built.grid,
        built.config.labels.r_min_um,
        dict(zip(stretches["stretch"], stretches["verdict"], strict=True)),
        stretch_um=built.config.align.stretch_um,
        stack=built.stack.grid,
        face_planes=built.config.labels.face_planes,
        axon_traced=stats[f"absent_{LABEL_NAMES[Label.AXON]}"] == "absent",
    )


def nodes_frame(
    specimen_id: int,
    skeleton: Skeleton,
    markers: Sequence[Marker],
    grid: Grid,
    r_min_um: float,
    verdicts: Mapping[int, str],
    *,
    stretch_um: float,
    stack: Grid | None = None,
    face_planes: int = FACE_PLANES,
    axon_traced: bool = True,
) -> pd.DataFrame:
    """One cell's rows of `schema.NODES`.

    skeleton: in the frame of the stack, as the labels are drawn from it. grid: the downloaded grid.
    verdicts: stretch number -> `Verdict`, from the alignment table made with the same `stretch_um`; absent stretches are not scored.
    stack (None: `grid`), face_planes, axon_traced: see `tips.tip_kinds`.
    """
    import pandas as pd

    stretch = skeleton.stretches(stretch_um)
    scored = [number for number, verdict in verdicts.items() if verdict == Verdict.ON]
    voxel = grid.to_voxel(skeleton.position_zyx_um)
    is_root = skeleton.parent == ROOT
    return pd.DataFrame(
        {
            "specimen_id": specimen_id,
            "node_id": skeleton.node_id,
            "parent_id": _absent_where(is_root, skeleton.node_id[skeleton.parent]),
            "type": skeleton.type,
            "label": skeleton.label,
            "tree": skeleton.tree,
            **{f"{axis}_um": skeleton.position_zyx_um[:, i] for i, axis in enumerate("zyx")},
            **{f"{axis}_vox": np.round(voxel[:, i], 6) for i, axis in enumerate("zyx")},
            "radius_um": skeleton.radius_um,
            "r_eff_um": np.maximum(skeleton.radius_um, r_min_um),
            "tip": tip_kinds(skeleton, markers, stack or grid, face_planes=face_planes, axon_traced=axon_traced),
            "stretch": _absent_where(is_root, stretch),
            "score": np.isin(stretch, scored) & ~is_root,
        }
    ).sort_values("node_id", ignore_index=True)


def export_swc(specimen_id: int, skeleton: Skeleton, grid: Grid, root: Path) -> list[Path]:
    """Write the skeleton as SWC in um and in voxels of `grid`, with the node ids of the nodes table; returns both paths."""
    strict = skeleton.parents_first()
    written = []
    units: tuple[tuple[SwcUnit, Grid | None], ...] = (("um", None), ("voxels", grid))
    for unit, in_grid in units:
        path = root / swc_export_file(specimen_id, unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        written.append(write_swc(strict, path, in_grid))
    return written


def _absent_where(absent: NDArray[np.bool_], values: NDArray[np.int64]) -> pd.arrays.IntegerArray:
    import pandas as pd

    return pd.arrays.IntegerArray(np.array(values, np.int64), np.array(absent))
