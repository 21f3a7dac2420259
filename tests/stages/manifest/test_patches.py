"""Patches: inside what came, known at the centre, by the mix, and the same for ever."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brightfield.built.cells import built_cells
from brightfield.built.coverage import Coverage
from brightfield.config.options import PatchesConfig
from brightfield.core.codes import NEURITE_LABELS, Label
from brightfield.core.errors import GridError
from brightfield.core.schema import PATCHES
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid, Window
from brightfield.core.tables import read_table, write_table
from brightfield.raster.voxels import rasterize
from brightfield.sampling.mix import PATCH_KINDS, quotas
from brightfield.stages.manifest.dark import dark_spots, median
from brightfield.stages.manifest.patches import patch_shape, sample
from brightfield.stages.manifest.places import CLASSES_OF
from brightfield.stages.manifest.voxels import CellVoxels, voxels_of
from brightfield.testing.dataset import dataset_config, make_dataset

GRID = Grid((24, 160, 160), (1.0, 0.5, 0.5))
DARK = [(20, 130), (70, 130), (8, 20), (140, 20), (140, 100), (30, 60), (8, 90), (110, 140), (146, 60)]
RULES = PatchesConfig(size_zyx=[8, 16, 16], per_cell=40)


def _skeleton() -> Skeleton:
    """A soma in the middle, a dendrite to the left, an axon to the right, an apical dendrite up with a fork."""
    rows = [(1, 1, 12.0, 40.0, 40.0, 4.0, 0)]
    rows += [(k, 3, 12.0, 40.0, 40.0 - 2 * (k - 1), 0.6, 1 if k == 2 else k - 1) for k in range(2, 18)]
    rows += [(k, 2, 12.0, 40.0, 40.0 + 2 * (k - 17), 0.3, 1 if k == 18 else k - 1) for k in range(18, 34)]
    rows += [(k, 4, 12.0 - 0.2 * (k - 33), 40.0 + 2 * (k - 33), 40.0, 0.8, 1 if k == 34 else k - 1) for k in range(34, 46)]
    rows += [(46, 4, 9.6, 66.0, 43.0, 0.8, 45), (47, 4, 9.6, 66.0, 37.0, 0.8, 45)]
    table = np.array(rows)
    parent = np.where(table[:, 6] == 0, -1, table[:, 6] - 1).astype(int)
    return Skeleton(table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2:5], table[:, 5], parent)


def _tiles(tile: int = 40, *, gone: Any = None) -> pd.DataFrame:
    """Every tile of the grid, minus those that `gone(z, y0, x0)` says are missing."""
    z, y0, x0 = (a.reshape(-1) for a in np.meshgrid(np.arange(24), np.arange(0, 160, tile), np.arange(0, 160, tile), indexing="ij"))
    frame = pd.DataFrame(
        {"specimen_id": 1, "z": z, "y0": y0, "y1": y0 + tile, "x0": x0, "x1": x0 + tile, "kind": "skeleton", "state": "ok"}
    )
    if gone is not None:
        frame.loc[gone(frame["z"], frame["y0"], frame["x0"]), "state"] = "missing"
    return frame


def _reader(array: np.ndarray) -> Any:
    def read(window: Window) -> np.ndarray:
        return array[tuple(slice(lo, hi) for lo, hi in window)]

    return read


def _cell(specimen_id: int = 1, *, tiles: pd.DataFrame | None = None, codes: np.ndarray | None = None, **fields: Any) -> CellVoxels:
    image = np.random.default_rng(0).integers(185, 196, GRID.shape_zyx).astype(np.uint8)
    for y, x in DARK:
        image[3:6, y : y + 6, x : x + 6] = 90
    labels = rasterize(_skeleton(), GRID) if codes is None else codes
    tiles = _tiles() if tiles is None else tiles
    return CellVoxels(specimen_id, GRID, _skeleton(), tiles, _reader(labels), _reader(image), **fields)


def _boxes(frame: pd.DataFrame) -> list[tuple[slice, slice, slice]]:
    return [tuple(slice(row[f"{a}0"], row[f"{a}1"]) for a in "zyx") for row in frame.to_dict("records")]  # type: ignore[misc]


# -------------------------------------------------------------------------------------------------------------------- the mix


def test_a_full_cell_fills_every_quota_but_the_dark_background() -> None:
    counts = sample(_cell(), RULES)["kind"].value_counts()
    assert {k: counts[k] for k in PATCH_KINDS if k != "hard_negative"} == {k: n for k, n in quotas(RULES).items() if k != "hard_negative"}
    assert 1 <= counts["hard_negative"] <= quotas(RULES)["hard_negative"]


def test_the_table_keeps_its_contract(tmp_path: Path) -> None:
    frame = sample(_cell(), RULES, split="val", fold=3)
    write_table(PATCHES, frame, tmp_path)
    assert len(read_table(PATCHES, tmp_path)) == len(frame)
    assert set(frame["split"]) == {"val"}
    assert set(frame["fold"]) == {3}


# --------------------------------------------------------------------------------------------------------- inside and known


def test_counts_are_those_of_the_labels_and_centres_are_known() -> None:
    codes = rasterize(_skeleton(), GRID)
    codes[:, 88:] = Label.UNKNOWN
    frame = sample(_cell(codes=codes), RULES)
    names = {"voxels_background": 0, "voxels_soma": 1, "voxels_axon": 2, "voxels_basal": 3, "voxels_apical": 4, "voxels_unknown": 255}
    for row, box in zip(frame.to_dict("records"), _boxes(frame), strict=True):
        inside = codes[box]
        assert {name: row[name] for name in names} == {name: (inside == code).sum() for name, code in names.items()}
        assert row["ignored_fraction"] == (inside == 255).mean()
        assert inside[4, 8, 8] != Label.UNKNOWN
    assert (frame["ignored_fraction"] > 0).any()


def test_patches_stay_inside_what_was_downloaded() -> None:
    gone = lambda z, y0, x0: (x0 >= 120) | (z == 2)  # noqa: E731
    frame = sample(_cell(tiles=_tiles(gone=gone)), replace(RULES, min_fetched=1.0))
    assert len(frame) > 20
    assert (frame["fetched_fraction"] == 1).all()
    assert (frame["x1"] <= 120).all()
    assert ((frame["z0"] > 2) | (frame["z1"] <= 2)).all()


def test_missing_planes_leave_a_cell_its_patches() -> None:
    """Every box of 8 planes has one that is missing: with all of it wanted there would be none."""
    tiles = _tiles(gone=lambda z, y0, x0: z % 8 == 3)
    assert len(sample(_cell(tiles=tiles), replace(RULES, min_fetched=1.0))) == 0
    frame = sample(_cell(tiles=tiles), replace(RULES, hard_negative=0))
    assert frame["kind"].value_counts().to_dict() == {k: n for k, n in quotas(replace(RULES, hard_negative=0)).items() if n}
    assert (frame["fetched_fraction"] == 0.875).all()


def test_a_lower_least_share_lets_patches_stick_out_with_their_centre_inside() -> None:
    tiles = _tiles(gone=lambda z, y0, x0: x0 >= 80)
    rules = replace(RULES, min_fetched=0.5, axon=0.0, hard_negative=0.0)
    frame = sample(_cell(tiles=tiles), rules)
    assert frame["fetched_fraction"].between(0.5, 1).all()
    assert (frame["fetched_fraction"] < 1).any()
    assert (frame["x0"] + 8 < 80).all()


def test_without_downloaded_pixels_there_are_no_patches() -> None:
    assert len(sample(_cell(tiles=_tiles(gone=lambda z, y0, x0: z >= 0)), RULES)) == 0


def test_a_patch_larger_than_the_volume_is_refused_and_the_cell_named() -> None:
    with pytest.raises(GridError, match=r"cell 77: .*\(32, 16, 16\).*\(24, 160, 160\)"):
        sample(_cell(77), replace(RULES, size_zyx=[32, 16, 16]))


def test_a_size_in_um_follows_the_voxels() -> None:
    assert patch_shape(GRID, replace(RULES, size_um=[8.0, 8.0, 8.0]), 1) == (8, 16, 16)


# ------------------------------------------------------------------------------------------------------------- by class


@pytest.mark.parametrize("kind", ["dendrite", "axon", "soma", "keypoint"])
def test_a_patch_holds_the_class_it_was_placed_by(kind: str) -> None:
    codes = rasterize(_skeleton(), GRID)
    frame = sample(_cell(codes=codes), RULES)
    chosen = frame[frame["kind"] == kind]
    assert len(chosen) == quotas(RULES)[kind]
    for box in _boxes(chosen):
        assert np.isin(codes[box], CLASSES_OF[kind]).any()
    assert chosen["node_id"].notna().all()


def test_dendrites_are_sampled_by_path_length() -> None:
    """The basal dendrite is 32 um long, the apical one 31 + 12 um: patches follow lengths, not voxels."""
    rules = replace(RULES, per_cell=1500, dendrite=1.0, axon=0, soma=0, keypoint=0, hard_negative=0, edge=0, random=0)
    skeleton = _skeleton()
    nodes = sample(_cell(), rules)["node_id"].to_numpy(int)
    label = dict(zip(skeleton.node_id.tolist(), skeleton.label.tolist(), strict=True))
    basal = np.mean([label[n] == Label.BASAL_DENDRITE for n in nodes])
    # What lies inside the soma (4 um of each stem) is labelled soma, and is no place for a dendrite.
    lengths = {c: skeleton.edge_length_um[skeleton.label == c].sum() - 4 for c in (3, 4)}
    assert basal == pytest.approx(lengths[3] / (lengths[3] + lengths[4]), abs=0.04)


def test_a_dendrite_only_cell_gives_no_axon_patches() -> None:
    traced = frozenset(NEURITE_LABELS) - {Label.AXON}
    frame = sample(_cell(traced=traced), RULES)
    assert "axon" not in set(frame["kind"])
    skeleton = _skeleton()
    keypoints = frame.loc[frame["kind"] == "keypoint", "node_id"]
    assert not set(keypoints) & set(skeleton.node_id[skeleton.label == Label.AXON])
    assert frame["weight"].sum() == pytest.approx(1)


HARD = replace(RULES, per_cell=60, hard_negative=1.0, dendrite=0, axon=0, soma=0, keypoint=0, edge=0, random=0)


def test_hard_negatives_are_dark_untraced_and_trusted() -> None:
    codes = rasterize(_skeleton(), GRID)
    cell = _cell(codes=codes)
    frame = sample(cell, HARD)
    assert len(frame) >= 5
    for box in _boxes(frame):
        dark = (cell.image(tuple((s.start, s.stop) for s in box)) == 90) & ~np.isin(codes[box], NEURITE_LABELS)  # type: ignore[arg-type]
        assert dark.any()
    blanked = codes.copy()
    for y, x in DARK:
        blanked[3:6, y - 1 : y + 7, x - 1 : x + 7] = Label.UNKNOWN
    assert len(sample(_cell(codes=blanked), HARD)) == 0


def test_a_cell_with_an_unknown_axon_gives_hard_negatives_only_where_the_labels_say_what_is_unexplained() -> None:
    traced = frozenset(NEURITE_LABELS) - {Label.AXON}
    assert len(sample(_cell(traced=traced), HARD)) == 0
    marked = rasterize(_skeleton(), GRID)
    marked[3:6, 70:76, 130:136] = Label.UNKNOWN  # the second dark spot is an axon that nobody traced
    frame = sample(_cell(traced=traced, explained=True, codes=marked), HARD)
    assert len(frame) >= 5
    pd.testing.assert_frame_equal(frame.iloc[:, 2:10], sample(_cell(codes=marked), HARD).iloc[:, 2:10])
    assert set(frame["absent_axon"]) == {"unknown"}
    assert set(frame["absent_basal"]) == {"absent"}


def test_edges_touch_the_outside_of_what_was_downloaded() -> None:
    rules = replace(RULES, edge=1.0, dendrite=0, axon=0, soma=0, keypoint=0, hard_negative=0, random=0)
    frame = sample(_cell(), rules)
    touches = (frame[["z0", "y0", "x0"]] == 0).any(axis=1) | (frame[["z1", "y1", "x1"]] == np.array(GRID.shape_zyx)).any(axis=1)
    assert touches.all()
    assert len(frame) == 40


def test_difficulty_is_the_lack_of_contrast_of_the_stretch() -> None:
    skeleton = _skeleton()
    d_prime = np.where(skeleton.label == Label.AXON, 3.0, 24.0)
    frame = sample(_cell(d_prime=d_prime), RULES).set_index("kind")
    assert set(frame.loc["axon", "difficulty"]) == {0.75}
    assert set(frame.loc["dendrite", "difficulty"]) == {0.0}
    assert frame.loc["random", "difficulty"].isna().all()


# -------------------------------------------------------------------------------------------------------------- for ever


def test_the_same_cell_gives_the_same_patches_whatever_else_there_is() -> None:
    pd.testing.assert_frame_equal(sample(_cell(5), RULES), sample(_cell(5), RULES))
    assert not sample(_cell(5), RULES)[["z0", "y0", "x0"]].equals(sample(_cell(6), RULES)[["z0", "y0", "x0"]])


def test_a_larger_quota_keeps_the_patches_that_were_there() -> None:
    few, many = sample(_cell(), RULES), sample(_cell(), replace(RULES, per_cell=80))
    corner = ["kind", "z0", "y0", "x0"]
    assert set(map(tuple, few[corner].to_numpy())) <= set(map(tuple, many[corner].to_numpy()))


# ------------------------------------------------------------------------------------------------------------ small parts


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_the_share_of_a_box_is_what_counting_voxels_gives(data: st.DataObject) -> None:
    missing = data.draw(st.sets(st.integers(0, 24 * 16 - 1), max_size=300))
    tiles = _tiles()
    tiles.loc[sorted(missing), "state"] = "missing"
    came = np.zeros(GRID.shape_zyx, bool)
    for row in tiles[tiles["state"] == "ok"].itertuples():
        came[row.z, row.y0 : row.y1, row.x0 : row.x1] = True
    box = tuple(tuple(sorted(data.draw(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))))) for n in GRID.shape_zyx)
    box = tuple((lo, hi + 1) for lo, hi in box)
    fetched = Coverage(tiles, GRID.shape_zyx)
    assert fetched.share(box) == pytest.approx(came[tuple(slice(*b) for b in box)].mean())
    if fetched:
        draws = np.array(data.draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=4, max_size=4)))
        assert came[tuple(fetched.pick(draws))]
        assert came[tuple(fetched.pick_face(draws)[0])]


def test_picks_are_even_over_the_voxels_that_came() -> None:
    fetched = Coverage(_tiles(gone=lambda z, y0, x0: z % 2 == 0), GRID.shape_zyx)
    draws = np.random.default_rng(1).random((4000, 4))
    picked = np.array([fetched.pick(d) for d in draws])
    assert (picked[:, 0] % 2 == 1).all()
    assert np.abs(np.histogram(picked[:, 2], bins=4, range=(0, 160))[0] / 4000 - 0.25).max() < 0.03


NEAR = np.array([1, 3, 3])


def _noise() -> np.ndarray:
    return np.random.default_rng(2).normal(189, 2.15, (16, 64, 64)).round().astype(np.uint8)


def test_noise_is_not_dark_and_a_speck_is() -> None:
    noise, codes = _noise(), np.zeros((16, 64, 64), np.uint8)
    assert len(dark_spots(noise, codes, NEAR)) == 0
    noise[7, 30:33, 20:23] = 150
    assert dark_spots(noise, codes, NEAR).tolist() == [[7, 31, 21]]


@pytest.mark.parametrize("what", [Label.UNKNOWN, Label.AXON])
def test_a_speck_near_a_neurite_or_unknown_voxels_is_no_hard_negative(what: Label) -> None:
    noise, codes = _noise(), np.zeros((16, 64, 64), np.uint8)
    noise[7, 30:33, 20:23] = 150
    codes[7, 31, 25] = what
    assert len(dark_spots(noise, codes, NEAR)) == 1
    codes[7, 31, 24] = what
    assert len(dark_spots(noise, codes, NEAR)) == 0


def test_the_blur_of_a_neurite_is_no_spot_wherever_the_trusted_background_begins() -> None:
    """Above a thick dark band the image darkens towards it, plane by plane: nothing culminates there."""
    image, codes = np.full((16, 64, 64), 189, np.uint8), np.zeros((16, 64, 64), np.uint8)
    image[:12] -= (10 * np.arange(12)).astype(np.uint8)[:, None, None]
    codes[11:] = Label.UNKNOWN
    assert len(dark_spots(image, codes, NEAR)) == 0


def test_voxels_without_a_pixel_are_not_dark() -> None:
    noise = _noise()
    noise[:, :, 40:] = 0
    codes = np.where(noise == 0, Label.UNKNOWN, Label.BACKGROUND).astype(np.uint8)
    assert len(dark_spots(noise, codes, NEAR)) == 0


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_the_median_of_counts_is_the_lower_median_of_the_values(values: list[int]) -> None:
    counts = np.bincount(values)
    assert median(np.arange(len(counts)), counts) == sorted(values)[(len(values) - 1) // 2]


# ------------------------------------------------------------------------------------------------------------- of a dataset


@pytest.mark.slow
def test_patches_do_not_depend_on_the_kind_of_label(tmp_path: Path) -> None:
    """Labels without classes give the patches that the semantic ones give: classes come from the skeleton, unknown from the reasons."""
    for kind in ("semantic", "inside", "distance"):
        make_dataset(tmp_path / kind, dataset_config(kind))
    semantic = read_table(PATCHES, tmp_path / "semantic")
    assert len(semantic) > 30
    for kind in ("inside", "distance"):
        pd.testing.assert_frame_equal(read_table(PATCHES, tmp_path / kind), semantic)


def test_a_cell_of_a_dataset_is_sampled_alone(tmp_path: Path) -> None:
    config = make_dataset(tmp_path / "dataset")
    whole = read_table(PATCHES, tmp_path / "dataset")
    of_cell = whole[whole["specimen_id"] == 102].reset_index(drop=True)
    fold = of_cell["fold"].iloc[0]
    (built,) = [cell for cell in built_cells(tmp_path / "dataset", config) if cell.specimen_id == 102]
    again = sample(voxels_of(built), config.patches, split="val", fold=int(fold))
    write_table(PATCHES, again, tmp_path / "out")
    pd.testing.assert_frame_equal(read_table(PATCHES, tmp_path / "out"), of_cell)
    assert set(of_cell["difficulty"].dropna()) == {0.5}
