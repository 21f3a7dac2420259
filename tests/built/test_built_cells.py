from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from brightfield.built.cells import BuiltCell
from brightfield.config.options import Config, SwcAxes, SwcUnit
from brightfield.core.cell import Cell, Plane, Stack
from brightfield.core.swc import format_swc
from brightfield.testing.skeletons import cable

STACK = Stack(1, 200, 100, 0.125, 0.5, tuple(Plane(n, n, n) for n in range(20)))
SIZES = {SwcUnit.um: (1.0, 1.0, 1.0), SwcUnit.nm: (0.001, 0.001, 0.001), SwcUnit.px: (0.5, 0.125, 0.125)}


@pytest.mark.parametrize("unit", SwcUnit)
def test_a_skeleton_is_in_um_on_its_stack_whatever_its_file_counts(tmp_path: Path, unit: SwcUnit) -> None:
    skeleton = cable(10.0, start_zyx_um=(2.0, 3.0, 4.0))
    config = Config()
    config.source.swc_unit, config.source.swc_axes = unit, SwcAxes.zyx
    built = BuiltCell(tmp_path, Cell(7, "7", 7, "mouse", stack=STACK), config)
    built.skeleton_path.parent.mkdir(parents=True)
    written = skeleton.moved_to((skeleton.position_zyx_um / SIZES[unit])[:, ::-1])
    built.skeleton_path.write_bytes(format_swc(written).replace(b" in um", b""))
    before = built.skeleton_path.read_bytes()
    np.testing.assert_allclose(built.skeleton.position_zyx_um, skeleton.position_zyx_um, rtol=1e-12)
    assert built.skeleton_path.read_bytes() == before
