"""The demo teaches: every side has cells, every class and every kind of patch. Looks at what `make repro` built, where it did."""

from __future__ import annotations

import pandas as pd
import pytest

from brightfield.config.params import load
from brightfield.core.codes import LABEL_NAMES, SIDES, Reason
from brightfield.core.layout import PARAMS_FILE
from brightfield.core.schema import LABEL_STATS, MANIFEST, PATCHES
from brightfield.core.tables import read_table
from brightfield.sampling.mix import MET_SHARE, MIX_POINTS, PATCH_KINDS, delivered, quotas
from repositories import REPOSITORY

LEAST_CELLS = {"train": 8, "val": 3, "test": 3}


@pytest.fixture(scope="module")
def manifest() -> pd.DataFrame:
    if not (REPOSITORY / MANIFEST.path).is_file() or load(REPOSITORY / PARAMS_FILE).source.kind != "demo":
        pytest.skip("the demo is not built here; `make repro` builds it")
    frame = read_table(MANIFEST, REPOSITORY)
    return frame[frame["split"] != "excluded"]


@pytest.fixture(scope="module")
def patches(manifest: pd.DataFrame) -> pd.DataFrame:
    return read_table(PATCHES, REPOSITORY)


@pytest.mark.parametrize("side", SIDES)
def test_a_side_has_cells_of_both_types_to_learn_from_or_to_judge_by(manifest: pd.DataFrame, side: str) -> None:
    cells = manifest[manifest["split"] == side]
    assert len(cells) >= LEAST_CELLS[side]
    assert set(cells["reconstruction_type"]) == {"full", "dendrite-only"}


@pytest.mark.parametrize("side", SIDES)
def test_a_side_has_every_kind_of_patch_and_patches_with_every_class(patches: pd.DataFrame, side: str) -> None:
    of = patches[patches["split"] == side]
    assert set(of["kind"]) == set(PATCH_KINDS)
    assert {name: int((of[f"voxels_{name}"] > 0).sum()) >= 50 for name in LABEL_NAMES.values()} == dict.fromkeys(LABEL_NAMES.values(), True)


@pytest.mark.parametrize("side", SIDES)
def test_a_side_has_the_mix_by_weight(patches: pd.DataFrame, side: str) -> None:
    frame = delivered(patches, load(REPOSITORY / PARAMS_FILE).patches)
    assert (frame[side] - frame["asked"]).abs().max() <= MIX_POINTS / 100


def test_every_reason_occurs(manifest: pd.DataFrame) -> None:
    assert load(REPOSITORY / PARAMS_FILE).labels.evidence
    stats = read_table(LABEL_STATS, REPOSITORY).filter(regex="^unknown_").sum()
    assert len(stats) == len(Reason)
    assert stats[stats == 0].index.tolist() == []


def test_every_cell_gives_what_it_has(manifest: pd.DataFrame, patches: pd.DataFrame) -> None:
    asked = quotas(load(REPOSITORY / PARAMS_FILE).patches)
    counts = patches.value_counts(["specimen_id", "kind"])
    for cell in manifest.to_dict("records"):
        kinds = [kind for kind in PATCH_KINDS if cell["absent_axon"] == "absent" or kind not in ("axon", "hard_negative")]
        assert all(counts.get((cell["specimen_id"], kind), 0) >= MET_SHARE * asked[kind] for kind in kinds)


def test_no_hard_negative_where_an_axon_may_be(patches: pd.DataFrame) -> None:
    """Where the axon is unknown, a dark spot is trusted only where the labels say which stain nobody traced."""
    stats = read_table(LABEL_STATS, REPOSITORY).set_index("specimen_id")
    unknown = patches[patches["absent_axon"] == "unknown"]
    assert len(unknown)
    assert not (unknown["kind"] == "axon").any()
    dark = unknown.loc[unknown["kind"] == "hard_negative", "specimen_id"]
    assert (stats.loc[dark, "unknown_unexplained"] > 0).all()
