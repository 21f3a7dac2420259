from __future__ import annotations

import numpy as np
import pytest

from brightfield.learn.turn import Turn

TURNS = [Turn(k, (a, b, c)) for k in range(4) for a in (False, True) for b in (False, True) for c in (False, True)]
N = 7


def matrix(turn: Turn) -> np.ndarray:
    """The turn as a matrix on (z, y, x) about the centre, found by following voxels."""
    columns = []
    for axis in range(3):
        marked = np.zeros((N, N, N))
        place = [N // 2] * 3
        place[axis] += 1
        marked[tuple(place)] = 1
        columns.append(np.argwhere(turn.apply(marked))[0] - N // 2)
    return np.array(columns).T


@pytest.mark.parametrize("turn", TURNS)
def test_vectors_turn_with_the_places_they_stand_at(turn: Turn) -> None:
    by = matrix(turn)
    assert abs(round(np.linalg.det(by))) == 1
    field = np.random.default_rng(1).normal(size=(3, N, N, N)).astype(np.float32)
    expected = np.einsum("ij,jzyx->izyx", by, turn.apply(field))
    np.testing.assert_allclose(turn.apply_vectors(field), expected, atol=1e-6)
    assert turn.apply_vectors(field).dtype == np.float32


@pytest.mark.parametrize("turn", TURNS)
def test_nothing_turns_into_z(turn: Turn) -> None:
    by = matrix(turn)
    assert abs(by[0, 0]) == 1
    assert not by[0, 1:].any()
    assert not by[1:, 0].any()


def test_a_turn_that_does_nothing_is_false() -> None:
    assert not Turn()
    assert not Turn(4)
    assert all(bool(turn) for turn in TURNS[1:])
