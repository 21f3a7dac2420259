from __future__ import annotations

import json
from dataclasses import fields, replace
from math import degrees, log

import numpy as np
import pytest

from brightfield.core.errors import ConfigError
from brightfield.core.space import Grid
from brightfield.learn.augment import Augment, Plan

GRID = Grid((40, 300, 300), (0.56, 0.45, 0.45))
WINDOW = ((4, 36), (100, 228), (100, 228))
AUGMENT = Augment(rotate_deg=20, zoom=0.2, gain=0.4)
OFF = Augment(**{f.name: False if f.type == "bool" else 0 if f.name != "elastic_spacing_um" else 8.0 for f in fields(Augment)})


def plans(augment: Augment, n: int = 300, window: tuple = WINDOW, grid: Grid = GRID) -> list[Plan]:
    return [augment.plan(0, 0, index, grid, window) for index in range(n)]


def test_a_plan_is_decided_by_seed_epoch_and_index_alone() -> None:
    named = {key: json.dumps(AUGMENT.plan(*key, GRID, WINDOW).to_dict()) for key in np.ndindex(3, 3, 3)}
    assert len(set(named.values())) == 27
    assert all(json.dumps(AUGMENT.plan(*key, GRID, WINDOW).to_dict()) == plan for key, plan in reversed(named.items()))


def test_plans_stay_within_their_limits_and_use_them() -> None:
    made = plans(AUGMENT)
    angle = np.array([degrees(p.warp.angle_rad) for p in made if p.warp])
    assert 0.4 < len(angle) / len(made) < 0.6
    assert 18 < np.abs(angle).max() <= 20
    for values, limit in ((np.array([p.warp.zoom for p in made]), 1.2), (np.array([p.gain for p in made]), 1.4)):
        assert 0.9 * log(limit) < np.abs(np.log(values)).max() <= log(limit) + 1e-12
    assert 0.9 < max(np.abs(p.tilt_yx).max() for p in made) / 0.1 <= 1
    blur = np.array([p.defocus_um for p in made])
    assert 0.12 < (blur > 0).mean() < 0.28
    assert 0.5 < blur.max() <= 0.6
    planes = [p.missing_plane for p in made if p.missing_plane is not None]
    assert 0.05 < len(planes) / len(made) < 0.15
    assert 0 <= min(planes) <= max(planes) < 32
    assert {p.turn.quarters for p in made} == {0, 1, 2, 3}
    assert all(0.4 < np.mean([p.turn.flip_zyx[axis] for p in made]) < 0.6 for axis in range(3))
    assert 0.45 < max(np.abs(p.warp.knots_um).max() for p in made) <= 0.5


@pytest.mark.parametrize(
    ("window", "grid"), [(((4, 36), (100, 228), (100, 200)), GRID), (WINDOW, replace(GRID, voxel_size_zyx_um=(0.56, 0.45, 0.5)))]
)
def test_what_is_not_square_is_turned_by_half_turns_only(window: tuple, grid: Grid) -> None:
    assert {p.turn.quarters for p in plans(AUGMENT, 60, window, grid)} == {0, 2}


def test_the_deformation_never_folds() -> None:
    wild = Augment(warp=1.0, elastic_um=8.0 / 12)
    for plan in plans(wild, 10):
        grid = plan.warp.grid(GRID, WINDOW)
        source = plan.warp.source(grid, GRID).astype(np.float64)
        by_y, by_x = np.diff(source, axis=1)[:, :, :-1], np.diff(source, axis=2)[:, :-1]
        assert (by_y[..., 0] * by_x[..., 1] - by_y[..., 1] * by_x[..., 0]).min() > 0.3


def test_everything_can_be_switched_off() -> None:
    for plan in plans(OFF, 20):
        assert not plan.turn
        assert not plan.warp
        assert (plan.gain, plan.tilt_yx, plan.defocus_um, plan.missing_plane) == (1.0, (0.0, 0.0), 0.0, None)


def test_limits_that_make_no_sense_are_named() -> None:
    with pytest.raises(ConfigError, match=r"augment.warp is a share from 0 to 1, found 1.5"):
        Augment(warp=1.5)
    with pytest.raises(ConfigError, match=r"augment.zoom is a number from 0 on, found -0.1"):
        Augment(zoom=-0.1)
    with pytest.raises(ConfigError, match=r"augment.elastic_um is at most 0.333"):
        Augment(elastic_um=1.0, elastic_spacing_um=4.0)
