from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brightfield.core.errors import ConfigError
from brightfield.learn.order import MIXED_GROUPS, Order, Share
from brightfield.learn.rows import Rows
from brightfield.learn.state import restored, saved


def rows(n: int, weight: list[float] | None = None, holds: list[list[int]] | None = None) -> Rows:
    """n patches of one cell."""
    box = np.zeros((n, 3, 2), np.int64)
    marks = np.zeros((n, 4), bool)
    for row, classes in enumerate(holds or []):
        marks[row, classes] = True
    return Rows(np.ones(n, np.int64), np.arange(n), box, np.array(weight or [1.0] * n), marks, np.ones((n, 4), bool))


def seen(order: Order, epoch: int = 0) -> list[int]:
    return order.of_epoch(epoch)[:, 1].tolist()


@given(st.integers(1, 50), st.integers(0, 2**31), st.integers(0, 10), st.integers(1, 5), st.booleans(), st.booleans())
def test_ranks_see_as_many_patches_each_and_none_of_them_twice(
    n: int, seed: int, epoch: int, world: int, shuffle: bool, grouped: bool
) -> None:
    if n < world:
        return
    group = np.arange(n) // 3 if grouped else None
    parts = [seen(Order(rows(n), seed, "each", shuffle, Share(rank, world), group), epoch) for rank in range(world)]
    assert {len(part) for part in parts} == {n // world}
    everything = [row for part in parts for row in part]
    assert len(set(everything)) == len(everything)
    assert set(everything) <= set(range(n))


def test_an_epoch_is_the_same_for_ever_and_another_one_is_not() -> None:
    order = Order(rows(8), seed=3)
    assert seen(order, 0) == [2, 1, 6, 0, 5, 4, 7, 3]  # should numpy change its stream, saved states mean something else
    assert seen(Order(rows(8), seed=3), 0) == seen(order, 0)
    assert len({tuple(seen(order, epoch)) for epoch in range(5)}) == 5
    assert seen(Order(rows(8), seed=4), 0) != seen(order, 0)
    assert seen(Order(rows(8), shuffle=False), 7) == list(range(8))


def test_the_place_in_the_epoch_does_not_depend_on_the_number_of_ranks() -> None:
    alone = dict(Order(rows(12), seed=1).of_epoch(2).tolist())
    for world in (2, 3, 4):
        shares = [Order(rows(12), seed=1, share=Share(rank, world)).of_epoch(2).tolist() for rank in range(world)]
        assert {place: row for share in shares for place, row in share} == alone


@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=30), st.integers(0, 1000))
def test_weights_are_met_as_closely_as_whole_numbers_can(weight: list[float], epoch: int) -> None:
    order = Order(rows(len(weight), weight), draw="weight")
    times = np.bincount(seen(order, epoch), minlength=len(weight))
    expected = np.array(weight) / sum(weight) * len(weight)
    assert (np.abs(times - expected) < 1 + 1e-9).all()


def test_every_class_has_its_share_of_the_draws() -> None:
    holds = [[0]] * 1 + [[1]] * 4 + [[2, 3]] * 20 + [[]] * 75
    order = Order(rows(100, holds=holds), draw="class")
    times = np.bincount(np.concatenate([seen(order, epoch) for epoch in range(20)]), minlength=100) / 20
    # Soma, axon, basal, apical and "none of them" a fifth each; rows that hold basal and apical have both shares.
    assert np.allclose([times[:1].sum(), times[1:5].sum(), times[5:25].sum(), times[25:].sum()], [20, 20, 40, 20], atol=1)


def test_a_stream_stays_with_few_shards_at_a_time() -> None:
    group = np.random.default_rng(0).integers(0, 64, 1000)
    stream = group[seen(Order(rows(1000), group=group))]
    length = 1000 * MIXED_GROUPS // 64
    assert max(len(set(stream[i : i + length])) for i in range(0, 1000 - length, 10)) <= 2 * MIXED_GROUPS + 2
    shuffled = group[seen(Order(rows(1000)))]
    assert len(set(shuffled[:length])) > 4 * MIXED_GROUPS


def test_what_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 patches cannot be shared out to 4 ranks"):
        Order(rows(3), share=Share(0, 4))
    with pytest.raises(ConfigError, match="rank is 0 to world - 1, found rank 2 of a world of 2"):
        Share(2, 2)
    with pytest.raises(ConfigError, match="draw is one of each, weight, class, found 'random'"):
        Order(rows(3), draw="random")
    with pytest.raises(ConfigError, match="add up to 0"):
        Order(rows(2, [0.0, 0.0]), draw="weight").of_epoch(0)


def test_a_state_is_of_one_order_only() -> None:
    facts = Order(rows(8), seed=3).facts()
    state = saved(2, 5, facts)
    assert restored(state, 8, facts) == (2, 5)
    with pytest.raises(ConfigError, match="seed is 4, saved 3"):
        restored(state, 8, Order(rows(8), seed=4).facts())
    with pytest.raises(ConfigError, match="patches is"):
        restored(state, 9, Order(rows(9), seed=3).facts())
    with pytest.raises(ConfigError, match="position missing"):
        restored({"epoch": 1, **facts}, 8, facts)
    with pytest.raises(ConfigError, match="from 0 to 4"):
        restored(state, 4, facts)
