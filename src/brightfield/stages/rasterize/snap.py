"""The shift by which a cell is drawn on its stain, where `align.snap` asks for it: labels move, the SWC and its nodes never."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import hypot
from typing import TYPE_CHECKING

import numpy as np

from brightfield.core.codes import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from brightfield.core.markers import Marker
    from brightfield.core.skeleton import Skeleton
    from brightfield.core.space import Triple

FRAMES = ("identity", "shift")
"""The frames of `alignment_cells.best_transform` in which a shift means anything: a mirrored cell is not put right by moving it."""


@dataclass(frozen=True, slots=True)
class Snap:
    """How far the drawn skeleton is moved, (z, y, x) um. Not along z: the two sides of focus blur differently, which looks like a shift."""

    shift_zyx_um: Triple

    @classmethod
    def of(cls, row: Mapping[str, object] | pd.Series, max_shift_um: float) -> Snap | None:
        """What a row of `schema.ALIGNMENT_CELLS` measures, rounded to 1 nm; None where nothing was measured that can be trusted.

        max_shift_um: farther, a shift is only believed where it fits better than the given position.
        """
        y, x = row["shift_y_um"], row["shift_x_um"]
        if row["best_transform"] not in FRAMES or not isinstance(y, float) or not isinstance(x, float) or not np.isfinite([y, x]).all():
            return None
        if hypot(y, x) > max_shift_um and row["best_transform"] != "shift":
            return None
        return cls((0.0, round(y, 3), round(x, 3)))

    def skeleton(self, skeleton: Skeleton) -> Skeleton:
        """The skeleton where it is drawn."""
        return skeleton.moved_to(np.round(skeleton.position_zyx_um + self.shift_zyx_um, 6))

    def markers(self, markers: tuple[Marker, ...]) -> tuple[Marker, ...]:
        """The marks of the tracer, which lie on nodes, where they are drawn."""
        z, y, x = self.shift_zyx_um
        return tuple(
            replace(m, position_zyx_um=(m.position_zyx_um[0] + z, m.position_zyx_um[1] + y, m.position_zyx_um[2] + x)) for m in markers
        )

    @property
    def attributes(self) -> dict[str, object]:
        """What the label store says of it."""
        return {"snap": {"shift_zyx_um": list(self.shift_zyx_um)}}

    @property
    def finding(self) -> Finding:
        """The same in words."""
        _, y, x = self.shift_zyx_um
        message = f"the labels are drawn at y {y:+.3f}, x {x:+.3f} um from the skeleton, where its stain was measured"
        return Finding(Severity.INFO, "snapped", message, remedy="nodes and SWC keep their positions; align.snap=false draws labels there")
