"""The mix that was asked for is the mix that comes, drawn by weight, whatever single cells can give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brightfield.config.options import PatchesConfig
from brightfield.core.codes import SIDES
from brightfield.sampling.mix import MIX_POINTS, PATCH_KINDS, delivered, mix, quotas, weights

RULES = PatchesConfig(per_cell=40)


@given(st.integers(0, 1000), st.lists(st.floats(0, 1), min_size=7, max_size=7))
def test_quotas_add_up_and_are_within_one_of_the_mix(per_cell: int, shares: list[float]) -> None:
    rules = replace(RULES, per_cell=per_cell, **dict(zip(PATCH_KINDS, shares, strict=True)))
    counts, total = quotas(rules), sum(shares)
    assert sum(counts.values()) == (per_cell if total else 0)
    assert all(abs(counts[k] - (per_cell * s / total if total else 0)) < 1 + 1e-6 for k, s in zip(PATCH_KINDS, shares, strict=True))


def test_the_default_mix_is_the_published_one() -> None:
    expected = {"dendrite": 70, "axon": 50, "soma": 10, "keypoint": 20, "hard_negative": 30, "edge": 10, "random": 10}
    assert quotas(PatchesConfig()) == expected


CELLS = st.lists(
    st.tuples(st.sampled_from(["train", "val"]), st.lists(st.integers(0, 9), min_size=len(PATCH_KINDS), max_size=len(PATCH_KINDS))),
    min_size=1,
    max_size=8,
)
"""Of each cell its side, and how many patches of each kind it gives."""


def _patches(cells: list[tuple[str, list[int]]]) -> pd.DataFrame:
    rows = [
        (i, side, kind) for i, (side, counts) in enumerate(cells) for kind, n in zip(PATCH_KINDS, counts, strict=True) for _ in range(n)
    ]
    return pd.DataFrame(rows, columns=["specimen_id", "split", "kind"])


@given(CELLS)
def test_every_side_has_the_mix_by_weight_and_its_cells_share_each_kind_alike(cells: list[tuple[str, list[int]]]) -> None:
    patches = _patches(cells)
    patches["weight"] = weights(patches, RULES)
    asked = mix(RULES)
    for _, of in patches.groupby("split"):
        assert of["weight"].sum() == pytest.approx(of["specimen_id"].nunique())
        there = sum(asked[kind] for kind in set(of["kind"]))
        for kind, same in of.groupby("kind"):
            assert same["weight"].sum() / of["weight"].sum() == pytest.approx(asked[str(kind)] / there)
            by_cell = same.groupby("specimen_id")["weight"].sum()
            assert by_cell.max() == pytest.approx(by_cell.min())
            assert np.ptp(same.groupby("specimen_id")["weight"].agg(np.ptp)) == pytest.approx(0)


def test_one_full_cell_among_dendrite_only_ones_gives_its_side_all_of_the_axon_share() -> None:
    full, other = [14, 10, 2, 4, 6, 2, 2], [14, 0, 2, 4, 0, 2, 2]
    patches = _patches([("train", full), *[("train", other)] * 9, ("val", full)])
    patches["weight"] = weights(patches, RULES)
    frame = delivered(patches, RULES).set_index("kind")
    assert frame.loc["axon", "share"] == pytest.approx(20 / len(patches))
    for side in ("train", "val"):
        assert (frame[side] - frame["asked"]).abs().max() < MIX_POINTS / 100
    assert (frame["test"] == 0).all()
    assert frame["patches"].sum() == len(patches)


def test_a_table_without_patches_has_a_mix_of_nothing() -> None:
    empty = pd.DataFrame({"specimen_id": [], "split": [], "kind": [], "weight": []})
    assert len(weights(empty, RULES)) == 0
    assert np.allclose(delivered(empty, RULES)[["share", *SIDES]], 0)
