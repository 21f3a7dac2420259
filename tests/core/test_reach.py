from __future__ import annotations

import numpy as np
import pytest

from brightfield.core.errors import GridError
from brightfield.core.reach import beyond_reach, refuse_far
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid

STACK = Grid((500, 10000, 12000), (0.28, 0.1144, 0.1144))  # 140 x 1144 x 1373 um
SMALL = Grid((10, 10, 10), (0.28, 0.1144, 0.1144))


def star(*ends: tuple[float, float, float], radius_um: float = 0.2) -> Skeleton:
    """A soma at the origin, and an edge to each end: nodes 7, 8, ..."""
    n = len(ends)
    radius = [5.0] + [radius_um] * n
    return Skeleton(np.array([3, *range(7, 7 + n)]), [1] + [3] * n, [(0.0, 0.0, 0.0), *ends], radius, [-1] + [0] * n)


@pytest.mark.parametrize("stack", [STACK, SMALL])
def test_what_sticks_out_of_the_stack_is_not_refused(stack: Grid) -> None:
    for position in ((0.0, 500.0, 500.0), (-900.0, 5000.0, -5000.0)):
        refuse_far(star(position, radius_um=13.0), stack)


@pytest.mark.parametrize("n", [1, 9])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("away", [1e6, -1e6, 1e7])
def test_a_node_ten_stacks_away_is_refused_by_its_id(axis: int, away: float, n: int) -> None:
    position = [1.0, 1.0, 1.0]
    position[axis] = away
    ends = [(position[0], position[1], position[2])] * n
    for stack in (STACK, SMALL):
        with pytest.raises(GridError, match=rf"^node 7 of the SWC lies at z .*\({n} such.*source\.swc_unit.*source\.exclude_ids"):
            refuse_far(star(*ends), stack)


def test_a_neurite_thicker_than_the_stack_is_refused() -> None:
    with pytest.raises(GridError, match=r"node 7 .* with a radius of 1e\+06 um"):
        refuse_far(star((1.0, 1.0, 1.0), radius_um=1e6), STACK)


def test_many_nodes_of_which_none_is_too_far_or_thick_are_refused_for_all_their_path() -> None:
    to_and_fro = np.array([(0.0, 0.0, 0.0), (100.0, 13000.0, 13000.0)] * 40)
    zigzag = Skeleton(np.arange(80), [3] * 80, to_and_fro, [0.2] * 80, np.arange(80) - 1)
    assert beyond_reach(zigzag, STACK).startswith("the SWC has 1.45")
    assert not beyond_reach(star(*map(tuple, to_and_fro)), STACK)


def test_many_tubes_that_would_each_fill_the_stack_are_refused() -> None:
    assert not beyond_reach(star((1.0, 1.0, 1.0), radius_um=900.0), SMALL)
    assert "too much" in beyond_reach(star(*[(1.0, 1.0, 1.0)] * 3, radius_um=900.0), SMALL)
