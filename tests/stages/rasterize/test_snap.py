from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from brightfield.built.cells import built_cells
from brightfield.config.options import AlignConfig, Config
from brightfield.core.layout import label_store
from brightfield.core.schema import ALIGNMENT_CELLS, FINDINGS
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid
from brightfield.core.tables import read_table, write_table
from brightfield.sources.demo.phantom import ArborPlan, grow, shifted
from brightfield.stages.align.absorbance import Pixels
from brightfield.stages.align.cell import align_cell
from brightfield.stages.manifest.checks import SHIFT_WARNING_UM
from brightfield.stages.rasterize.snap import Snap
from brightfield.stages.rasterize.stage import _task, draw_cell
from brightfield.testing.dataset import dataset_config, make_dataset
from brightfield.testing.grids import stain
from brightfield.volumes.volume import open_volume

CASES = {
    2: (Grid((60, 190, 190), (0.56, 0.4576, 0.4576)), ArborPlan(3, (32.0, 80.0, 80.0), n_basal=4, reach_um=40.0, axon_um=40.0)),
    0: (Grid((60, 300, 300), (0.28, 0.1144, 0.1144)), ArborPlan(4, (16.0, 33.0, 33.0), n_basal=4, reach_um=18.0, axon_um=20.0)),
}
STEPS = [(0.0, 0.0), (0.25, 0.0), (0.25, 45.0), (0.5, 45.0), (0.7, 45.0), (0.25, 200.0), (0.7, 290.0)]


@pytest.fixture(scope="module", params=sorted(CASES))
def stained(request: pytest.FixtureRequest) -> tuple[Skeleton, Pixels]:
    grid, plan = CASES[request.param]
    arbor = grow(plan)
    volume = stain(arbor, grid, seed=21)
    return arbor, Pixels(grid, lambda window: volume[tuple(slice(*axis) for axis in window)])


@pytest.mark.parametrize(("size_um", "degrees"), STEPS)
def test_a_planted_shift_is_told_and_taken_away_to_a_tenth_of_a_um(
    size_um: float, degrees: float, stained: tuple[Skeleton, Pixels]
) -> None:
    arbor, pixels = stained
    planted = shifted(arbor, (0.0, size_um * np.sin(np.radians(degrees)), size_um * np.cos(np.radians(degrees))))
    row = align_cell(11, planted, pixels, AlignConfig(), 0.23).cell
    snap = Snap.of(row, AlignConfig().max_shift_um)
    assert snap is not None
    off = (snap.skeleton(planted).position_zyx_um - arbor.position_zyx_um).mean(axis=0)
    assert np.hypot(*off[1:]) <= 0.1
    assert off[0] == 0
    told = row["grade"] == "rejected" or np.hypot(row["shift_y_um"], row["shift_x_um"]) > SHIFT_WARNING_UM
    assert told == (size_um > 0)


ROW = {"best_transform": "identity", "shift_y_um": 0.3, "shift_x_um": -0.2}


@pytest.mark.parametrize(
    "change",
    [{"best_transform": "flip x"}, {"best_transform": "z scale 0.9"}, {"shift_y_um": None}, {"shift_x_um": np.nan}, {"shift_y_um": 2.5}],
)
def test_a_shift_that_means_nothing_moves_nothing(change: dict[str, object]) -> None:
    assert Snap.of(ROW, 0.5) == Snap((0.0, 0.3, -0.2))
    assert Snap.of(ROW | change, 0.5) is None


def test_a_large_shift_counts_where_it_fits_better() -> None:
    assert Snap.of({"best_transform": "shift", "shift_y_um": -1.8, "shift_x_um": 2.4}, 0.5) == Snap((0.0, -1.8, 2.4))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dataset")
    make_dataset(root)
    rows = read_table(ALIGNMENT_CELLS, root)
    write_table(ALIGNMENT_CELLS, rows.assign(best_transform="identity", shift_y_um=0.5, shift_x_um=0.0), root)
    return root


def drawn(root: Path, out: Path, *, snap: bool) -> tuple[dict[str, object], np.ndarray]:
    """The attributes and voxels of the first cell's labels."""
    config = make_config(snap=snap)
    built = next(iter(built_cells(root, config)))
    swc = built.skeleton_path.read_bytes()
    draw_cell(out, root, built.cell, config)
    assert built.skeleton_path.read_bytes() == swc
    volume = open_volume(out / label_store(built.specimen_id))
    return volume.attributes, volume.read(volume.grids[0].window)


def make_config(*, snap: bool) -> Config:
    config = dataset_config()
    return replace(config, align=replace(config.align, snap=snap), labels=replace(config.labels, evidence=False))


def test_labels_move_and_say_so_and_the_swc_stays(dataset: Path, tmp_path: Path) -> None:
    plain, voxels = drawn(dataset, tmp_path / "plain", snap=False)
    snapped, moved = drawn(dataset, tmp_path / "snapped", snap=True)
    assert "snap" not in plain
    assert snapped["snap"] == {"shift_zyx_um": [0.0, 0.5, 0.0]}
    assert {k: v for k, v in snapped.items() if k != "snap"} == plain
    tubes = [(v > 0) & (v < 255) for v in (voxels, moved)]
    assert tubes[0].any()
    assert np.array_equal(tubes[0][:, :-1], tubes[1][:, 1:]), "half a um is a voxel of this dataset"
    assert "snapped" in read_table(FINDINGS, tmp_path / "snapped")["check"].tolist()


def test_without_snap_the_shift_is_no_part_of_what_decides_the_labels(dataset: Path) -> None:
    keys = []
    for snap, shift_y_um in ((False, 0.4), (False, 0.1), (True, 0.1), (True, 0.4)):
        rows = read_table(ALIGNMENT_CELLS, dataset)
        write_table(ALIGNMENT_CELLS, rows.assign(shift_y_um=shift_y_um), dataset)
        keys.append(_task(next(iter(built_cells(dataset, make_config(snap=snap)))), {}).key_parts)
    assert keys[0] == keys[1]
    assert keys[2] != keys[3]
