from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import brightfield
from brightfield.core.codes import Label, Reason
from brightfield.core.errors import ConfigError, GridError, SourceError, StackError
from brightfield.core.layout import label_store
from brightfield.learn.augment import Augment
from brightfield.learn.patches import Patches
from brightfield.learn.targets import TARGETS, known
from brightfield.raster.voxels import rasterize
from brightfield.testing.dataset import dataset_config, make_dataset
from repositories import pushed_dataset

ALL = tuple(TARGETS)
UNKNOWN = Label.UNKNOWN


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dataset")
    make_dataset(root)
    return root


def same(one: dict, other: dict) -> bool:
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name], equal_nan=name not in ("specimen_id", "patch")) for name in one)


def keys(patches: Patches) -> list[tuple[int, int]]:
    return [(sample["specimen_id"], sample["patch"]) for sample in patches]


def test_a_sample_is_the_box_of_the_table_read_from_the_stores(root: Path) -> None:
    patches = brightfield.patches(root, "train", shuffle=False)
    cell = brightfield.open_cell(101, root)
    for index in range(len(patches)):
        box = tuple(slice(*side) for side in patches.rows.box[index].tolist())
        sample = patches[index]
        np.testing.assert_allclose(sample["image"][0], 1 - cell.image[box] / 255, atol=1e-6)
        np.testing.assert_array_equal(sample["semantic"], cell.labels[box])
        np.testing.assert_array_equal(sample["mask"], cell.labels[box] != UNKNOWN)
    with pytest.raises(IndexError):
        patches[len(patches)]
    assert same(patches[-1], patches[len(patches) - 1])


@pytest.mark.parametrize("kind", ["semantic", "inside", "centerline", "distance"])
def test_targets_do_not_depend_on_the_kind_of_the_stored_labels(tmp_path: Path, kind: str) -> None:
    make_dataset(tmp_path, dataset_config(kind))
    patches = brightfield.patches(tmp_path, "train", shuffle=False, targets=("semantic", "inside", "centerline", "distance"))
    skeleton = brightfield.read_swc(tmp_path / "data/skeletons/101.swc")
    cell = brightfield.open_cell(101, tmp_path)
    drawn = {target.name: rasterize(skeleton, cell.labels.grid, target.name) for target in patches.recipe.targets}
    for index in range(len(patches)):
        box = tuple(slice(*side) for side in patches.rows.box[index].tolist())
        sample = patches[index]
        visible = cell.labels[box] != UNKNOWN
        np.testing.assert_array_equal(sample["mask"], visible)
        for name, whole in drawn.items():
            np.testing.assert_array_equal(known(sample[name]), visible)
            np.testing.assert_array_equal(sample[name][visible], whole[box][visible])


def test_shapes_and_types_are_what_the_documentation_says(root: Path) -> None:
    for augment in (None, True):
        sample = brightfield.patches(root, targets=ALL, augment=augment)[0]
        box = (8, 16, 16)
        expected = {
            "image": ((1, *box), "float32"),
            "mask": (box, "bool"),
            "semantic": (box, "uint8"),
            "inside": (box, "uint8"),
            "centerline": (box, "uint8"),
            "distance": (box, "float32"),
            "direction": ((3, *box), "float32"),
            "affinities": ((3, *box), "uint8"),
            "keypoints": ((3, *box), "float32"),
            "absent": ((4,), "bool"),
        }
        assert {name: (value.shape, str(value.dtype)) for name, value in sample.items() if isinstance(value, np.ndarray)} == expected
        assert all(value.flags.c_contiguous and value.flags.writeable for value in sample.values() if isinstance(value, np.ndarray))


def test_another_size_is_about_the_same_centre_and_within_the_cell(root: Path) -> None:
    wide, plain = (brightfield.patches(root, shuffle=False, size=size) for size in ((24, 40, 50), None))
    cell = brightfield.open_cell(101, root)
    for index in range(len(plain)):
        low, high = plain.rows.box[index].T
        first = np.clip((low + high) // 2 - (12, 20, 25), 0, np.array(cell.labels.shape) - (24, 40, 50))
        box = tuple(slice(a, a + n) for a, n in zip(first.tolist(), (24, 40, 50), strict=True))
        np.testing.assert_array_equal(wide[index]["semantic"], cell.labels[box])
    with pytest.raises(GridError, match=r"cell 101 has \(24, 96, 320\) voxels, a sample \(32, 128, 128\); choose a smaller size"):
        brightfield.patches(root, size=(32, 128, 128))[0]
    with pytest.raises(ConfigError, match="size is"):
        brightfield.patches(root, size=(0, 1, 1))


def test_what_was_not_downloaded_looks_like_background_and_is_masked(root: Path) -> None:
    patches = brightfield.patches(root, shuffle=False, size=(8, 16, 120), scale="grey")
    cell = brightfield.open_cell(101, root)
    seen = 0
    for index in range(len(patches)):
        sample = patches[index]
        (z0, z1), (y0, y1), (x0, x1) = patches._window(index)[1]
        holes = cell.reason[z0:z1, y0:y1, x0:x1] & Reason.NOT_DOWNLOADED > 0
        seen += holes.sum()
        assert not sample["mask"][holes].any()
        assert (sample["semantic"][holes] == UNKNOWN).all()
        assert sample["image"].min() > 170 / 255  # the tissue is 180 to 199; what is stored there is 0
    assert seen > 0


def test_augmentation_is_decided_by_seed_epoch_and_place(root: Path) -> None:
    options = {"targets": ALL, "augment": True, "seed": 5}
    one, other = brightfield.patches(root, **options), brightfield.patches(root, **options)
    for epoch in (0, 3):
        one.set_epoch(epoch)
        other.set_epoch(epoch)
        for index in reversed(range(len(one))):
            assert same(other[index], one[index])
    one.set_epoch(1)
    assert not same(one[0], other[0])
    assert brightfield.patches(root, **{**options, "seed": 6}).plan(0).gain != brightfield.patches(root, **options).plan(0).gain


def test_ranks_augment_as_one_process_would(root: Path) -> None:
    alone = brightfield.patches(root, augment=True)
    for rank in range(2):
        part = brightfield.patches(root, augment=True, rank=rank, world=2)
        for index in range(len(part)):
            assert same(part[index], alone[2 * index + rank])


def test_a_missing_plane_is_unknown_in_every_target(root: Path) -> None:
    patches = brightfield.patches(root, targets=ALL, augment=Augment(missing_plane=1.0))
    for index in range(len(patches)):
        plan, sample = patches.plan(index), patches[index]
        plane = 7 - plan.missing_plane if plan.turn.flip_zyx[0] else plan.missing_plane
        assert not sample["mask"][plane].any()
        for name in ALL:
            assert not known(sample[name])[..., plane, :, :].any()


def test_turns_turn_every_target_alike(root: Path) -> None:
    only_turns = Augment(warp=0, gain=0, tilt_per_100_um=0, defocus=0, missing_plane=0)
    patches = brightfield.patches(root, targets=ALL, augment=only_turns)
    plain = brightfield.patches(root, targets=ALL)
    for index in range(len(patches)):
        turn, sample, still = patches.plan(index).turn, patches[index], plain[index]
        np.testing.assert_allclose(sample["image"], turn.apply(still["image"]), atol=1e-6)
        for name in ("mask", "semantic", "inside", "centerline", "distance", "keypoints"):
            np.testing.assert_array_equal(sample[name], turn.apply(still[name]))
        np.testing.assert_array_equal(sample["direction"], turn.apply_vectors(still["direction"]))


def test_one_goes_on_where_one_left_off(root: Path) -> None:
    options = {"augment": True, "seed": 2}
    whole = [keys(epoch) for patches in [brightfield.patches(root, **options)] for epoch in [patches, patches, patches]]
    patches = brightfield.patches(root, **options)
    keys(patches)
    first = []
    for sample in patches:
        first.append((sample["specimen_id"], sample["patch"]))
        if len(first) == 7:
            break
    state = json.loads(json.dumps(patches.state_dict()))
    assert (state["epoch"], state["position"]) == (1, 7)
    resumed = brightfield.patches(root, **options)
    resumed.load_state_dict(state)
    assert len(resumed) == len(whole[1]) - 7
    assert resumed.state_dict() == state
    other = brightfield.patches(root, **options)
    other.set_epoch(1)
    assert same(resumed[0], other[7])
    assert first + keys(resumed) == whole[1]
    assert keys(resumed) == whole[2]
    with pytest.raises(ConfigError, match="draw is 'weight', saved 'each'"):
        brightfield.patches(root, **options, draw="weight").load_state_dict(state)


def test_patches_travel_to_other_processes(root: Path) -> None:
    patches = brightfield.patches(root, targets=ALL, augment=True)
    patches.set_epoch(4)
    before = patches[3]
    assert same(pickle.loads(pickle.dumps(patches))[3], before)


def test_cells_that_are_not_here_are_named(root: Path, tmp_path: Path) -> None:
    make_dataset(tmp_path)
    (tmp_path / label_store(101)).rename(tmp_path / "elsewhere")
    with pytest.raises(StackError, match=r"cell 101 is not here; fetch it with `dvc pull data/labels/101.zarr`"):
        brightfield.patches(tmp_path)[0]


def test_without_pytorch_only_its_face_is_missing(root: Path) -> None:
    script = f"""
import sys
sys.modules["torch"] = None
import brightfield
assert brightfield.patches({str(root)!r})[0]["image"].any()
try:
    import brightfield.torch
except ImportError as error:
    assert "pip install 'brightfield[learn]'" in str(error), error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)


@pytest.mark.usefixtures("at_home")
def test_a_revision_is_read_from_the_remote_as_it_was_here(root: Path, tmp_path: Path) -> None:
    repository = pushed_dataset(root, tmp_path)
    options = {"targets": ALL, "augment": True, "by_shard": True}
    here = brightfield.patches(root, **options)
    for cache in (None, tmp_path / "cache"):
        afar = pickle.loads(pickle.dumps(brightfield.patches(repository, rev="v1", cache=cache, **options)))
        assert len(afar) == len(here)
        for index in range(len(here)):
            assert same(afar[index], here[index])
    kept = brightfield.patches(repository, rev="v1", cache=tmp_path / "cache", **options)
    for number, (sample, expected) in enumerate(zip(kept, here, strict=True)):
        assert same(sample, expected)
        assert kept.epoch > 0 or kept.state_dict()["position"] == number + 1  # whatever is made ahead
    kept.set_epoch(0)
    here.set_epoch(0)
    (tmp_path / "store").rename(tmp_path / "gone")  # what was read before is still there
    assert same(kept[0], here[0])
    with pytest.raises(SourceError, match="v9"):
        brightfield.patches(repository, rev="v9")
