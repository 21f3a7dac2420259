"""How tiles merge into pictures, against trying every way to cut a plane."""

from __future__ import annotations

from functools import cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from brightfield.stages.download.merging import REQUEST_TILES, merge

TILE = 10


def boxes_from(masks: np.ndarray, cut: int = 0) -> np.ndarray:
    """Tiles of masks (planes, rows, columns), the last row and column `cut` voxels short."""
    z, row, column = np.nonzero(masks)
    ends = [np.minimum((at + 1) * TILE, n * TILE - cut) for at, n in ((row, masks.shape[1]), (column, masks.shape[2]))]
    return np.stack([z, row * TILE, ends[0], column * TILE, ends[1]], axis=1).astype(np.int64)


def cost(boxes: np.ndarray, picture: np.ndarray, price: float) -> float:
    """Pixels and prices of all pictures."""
    total = 0.0
    for number in range(picture.max(initial=-1) + 1):
        own = boxes[picture == number]
        total += (own[:, 2].max() - own[:, 1].min()) * (own[:, 4].max() - own[:, 3].min()) + price
    return total


def least(mask: np.ndarray, price: float) -> float:
    """The oracle: of all ways to cut a plane from edge to edge, the least cost."""

    @cache
    def of(y0: int, y1: int, x0: int, x1: int) -> float:
        if not mask[y0:y1, x0:x1].any():
            return 0.0
        ways = [(y1 - y0) * (x1 - x0) * TILE**2 + price]
        ways += [of(y0, y, x0, x1) + of(y, y1, x0, x1) for y in range(y0 + 1, y1)]
        ways += [of(y0, y1, x0, x) + of(y0, y1, x, x1) for x in range(x0 + 1, x1)]
        return min(ways)

    return of(0, mask.shape[0], 0, mask.shape[1])


@settings(deadline=None, max_examples=60)
@given(mask=arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))))
def test_no_other_cuts_cost_less(mask: np.ndarray) -> None:
    boxes, price = boxes_from(mask[None]), REQUEST_TILES * TILE**2
    picture = merge(boxes, np.zeros(len(boxes), np.int64), TILE, 1000)
    assert cost(boxes, picture, price) == least(mask, price)


@settings(deadline=None, max_examples=60)
@given(
    masks=arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)), elements=st.booleans()),
    side=st.sampled_from([5, 10, 35, 1000]),
    cut=st.sampled_from([0, 4]),
    seed=st.integers(0, 99),
)
def test_every_tile_of_a_group_is_in_one_picture_of_its_plane_and_group(masks: np.ndarray, side: int, cut: int, seed: int) -> None:
    boxes = boxes_from(masks, cut)
    group = np.random.default_rng(seed).integers(-1, 2, len(boxes))
    picture = merge(boxes, group, TILE, side)
    assert ((picture >= 0) == (group >= 0)).all()
    assert set(picture[picture >= 0]) == set(range(picture.max(initial=-1) + 1))
    for number in range(picture.max(initial=-1) + 1):
        own = picture == number
        assert len(set(boxes[own, 0])) == len(set(group[own])) == 1
        assert boxes[own, 2].max() - boxes[own, 1].min() <= max(side, TILE)
        assert boxes[own, 4].max() - boxes[own, 3].min() <= max(side, TILE)
    again = merge(boxes, group, TILE, side)
    np.testing.assert_array_equal(picture, again)


def test_a_plane_that_is_wanted_whole_is_cut_into_as_few_pictures_as_fit() -> None:
    boxes = boxes_from(np.ones((2, 50, 70), bool), cut=3)
    assert merge(boxes, np.zeros(len(boxes), np.int64), TILE, 1000).max() == 1
    assert merge(boxes, np.zeros(len(boxes), np.int64), TILE, 400).max() + 1 == 2 * 2 * 2


def test_tiles_far_apart_are_not_joined_and_near_ones_are() -> None:
    mask = np.zeros((1, 1, 9), bool)
    mask[0, 0, [0, 2, 8]] = True
    assert merge(boxes_from(mask), np.zeros(3, np.int64), TILE, 1000).tolist() == [0, 0, 1]
