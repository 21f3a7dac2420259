from __future__ import annotations

import numpy as np
import pytest

from brightfield.core.errors import GridError
from brightfield.core.reach import refuse_far
from brightfield.core.space import Grid

STACK = Grid((500, 10000, 12000), (0.28, 0.1144, 0.1144))  # 140 x 1144 x 1373 um
SMALL = Grid((10, 10, 10), (0.28, 0.1144, 0.1144))


def _refuse(stack: Grid, position: tuple[float, float, float], radius_um: float = 0.2) -> None:
    refuse_far(np.array([3, 7]), np.array([(0.0, 0.0, 0.0), position]), np.array([5.0, radius_um]), stack)


@pytest.mark.parametrize("stack", [STACK, SMALL])
def test_what_sticks_out_of_the_stack_is_not_refused(stack: Grid) -> None:
    for position in ((0.0, 500.0, 500.0), (-900.0, 5000.0, -5000.0)):
        _refuse(stack, position, 13.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("away", [1e6, -1e6, 1e7])
def test_a_node_ten_stacks_away_is_refused_by_its_id(axis: int, away: float) -> None:
    position = [1.0, 1.0, 1.0]
    position[axis] = away
    for stack in (STACK, SMALL):
        with pytest.raises(GridError, match=r"^node 7 of the SWC lies at z .*source\.swc_unit.*source\.exclude_ids"):
            _refuse(stack, (position[0], position[1], position[2]))


def test_a_neurite_thicker_than_the_stack_is_refused() -> None:
    with pytest.raises(GridError, match=r"node 7 .* with a radius of 1e\+06 um"):
        _refuse(STACK, (1.0, 1.0, 1.0), 1e6)
