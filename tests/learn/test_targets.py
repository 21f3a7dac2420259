from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from brightfield.core.codes import Label
from brightfield.core.errors import ConfigError
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid, Window
from brightfield.learn.cells import DrawingRules, Graph, Keypoints
from brightfield.learn.targets import (
    TARGETS,
    Affinities,
    Distance,
    KeypointMaps,
    Scene,
    as_targets,
    draw_codes,
    known,
)
from brightfield.learn.turn import Turn
from brightfield.raster.cones import cones_of
from brightfield.raster.voxels import rasterize
from brightfield.testing.grids import grids_within, windows
from brightfield.testing.skeletons import cable, neurons
from oracle import axis_distance, in_cone, round_cones, voxel_centres

UNKNOWN = Label.UNKNOWN
REACH_UM = 4.0
RULES = DrawingRules()


def graph_of(skeleton: Skeleton, rules: DrawingRules, stopped: tuple[int, ...] = ()) -> Graph:
    return Graph(cones_of(skeleton, rules.r_min_um, rules.soma_edges), Keypoints.of(skeleton, np.array(stopped, np.int64)))


def scene_of(skeleton: Skeleton, grid: Grid, window: Window, rules: DrawingRules = RULES, hidden: np.ndarray | None = None) -> Scene:
    """The scene of a window: codes as `rasterize` has them, unknown where `hidden`."""
    codes = rasterize(skeleton, grid, "semantic", rules.r_min_um, rules.soma_edges, rules.connect, window)
    if hidden is not None:
        codes[hidden] = UNKNOWN
    return Scene(graph_of(skeleton, rules).near(grid, window, REACH_UM), grid, window, codes, rules)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Skeleton, Scene]:
    """Neurons, a window of a grid over them, any rules, some voxels unknown."""
    skeleton = draw(neurons())
    grid = draw(grids_within(8.0))
    window = draw(windows(grid))
    assume(all(low < high for low, high in window))
    rules = DrawingRules("semantic", draw(st.sampled_from([0.0, 0.23])), draw(st.sampled_from(["capsule", "taper"])))
    rules = DrawingRules("semantic", rules.r_min_um, rules.soma_edges, draw(st.sampled_from([26, 6, None])))
    noise = np.random.default_rng(draw(st.integers(0, 9))).random([high - low for low, high in window])
    return skeleton, scene_of(skeleton, grid, window, rules, noise < draw(st.sampled_from([0.0, 0.3])))


def of_whole_grid(skeleton: Skeleton, scene: Scene, kind: str) -> np.ndarray:
    """What `rasterize` draws on the whole grid, cut to the window."""
    rules = scene.rules
    whole = rasterize(skeleton, scene.grid, kind, rules.r_min_um, rules.soma_edges, rules.connect, band_um=1.5)
    return whole[tuple(slice(*side) for side in scene.window)]


@settings(max_examples=150)
@given(scenes())
def test_targets_are_what_rasterize_draws_wherever_they_are_known(made: tuple[Skeleton, Scene]) -> None:
    skeleton, scene = made
    visible = scene.codes != UNKNOWN
    for target in (TARGETS["semantic"], TARGETS["inside"], TARGETS["centerline"], Distance(band_um=1.5)):
        found = target.finish(target.draw(scene))
        np.testing.assert_array_equal(known(found), visible)
        np.testing.assert_array_equal(found[visible], of_whole_grid(skeleton, scene, target.name)[visible], err_msg=target.name)
    np.testing.assert_array_equal(draw_codes(scene), of_whole_grid(skeleton, scene, "semantic"))


@settings(max_examples=100)
@given(scenes())
def test_the_direction_is_that_of_the_edge_that_gives_the_class(made: tuple[Skeleton, Scene]) -> None:
    skeleton, scene = made
    field = TARGETS["direction"].draw(scene)
    visible = scene.codes != UNKNOWN
    np.testing.assert_array_equal(known(field), np.broadcast_to(visible, field.shape))
    length = np.sqrt((np.where(visible, field, 0) ** 2).sum(axis=0))
    assert np.all((np.abs(length - 1) < 1e-5) | (length == 0))
    assert not length[scene.codes == Label.SOMA].any()
    assert not length[visible & (scene.codes == Label.BACKGROUND)].any()
    expected, sure = direction_oracle(skeleton, scene)
    sure &= visible
    np.testing.assert_allclose(np.moveaxis(field, 0, -1)[sure], expected[sure], atol=1e-5)


def direction_oracle(skeleton: Skeleton, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Every voxel against every tube: the direction of the nearest axis among those that hold it; and where that is not a close call."""
    points = voxel_centres(scene.grid, scene.window)
    shape = points.shape[:-1]
    best, second, field, in_soma = np.full(shape, np.inf), np.full(shape, np.inf), np.zeros(points.shape), np.zeros(shape, bool)
    owner = np.full(shape, np.iinfo(np.int64).max)
    for cone in round_cones(skeleton, scene.rules.r_min_um, scene.rules.soma_edges):
        inside, step = in_cone(points, cone), cone["b"] - cone["a"]
        if cone["label"] == Label.SOMA:
            in_soma |= inside
        if np.linalg.norm(step) == 0:
            continue
        distance = np.where(inside, axis_distance(points, cone), np.inf)
        tie = (distance == best) & np.isfinite(distance)
        nearer = (distance < best) | (tie & (cone["node_id"] < owner))
        second = np.where(tie, second, np.where(nearer, best, np.minimum(second, distance)))
        best[nearer], owner[nearer], field[nearer] = distance[nearer], cone["node_id"], step / np.linalg.norm(step)
    return field, ~in_soma & np.isfinite(best) & (second > np.where(np.isfinite(best), best, 0) + 1e-9)


@settings(max_examples=60)
@given(scenes(), st.lists(st.tuples(*[st.integers(-3, 3)] * 3).filter(any), min_size=1, max_size=4))
def test_affinities_say_whether_two_voxels_are_of_one_tree(made: tuple[Skeleton, Scene], offsets: list[tuple[int, int, int]]) -> None:
    _, scene = made
    target = Affinities(tuple(offsets))
    objects = target.draw(scene)
    np.testing.assert_array_equal(objects == UNKNOWN, scene.codes == UNKNOWN)
    np.testing.assert_array_equal(objects > 0, scene.codes > 0)
    found = target.finish(objects)
    for affinity, offset in zip(found, offsets, strict=True):
        expected = np.full(objects.shape, UNKNOWN)
        for voxel in np.ndindex(objects.shape):
            other = tuple(np.add(voxel, offset))
            if all(0 <= i < n for i, n in zip(other, objects.shape, strict=True)) and UNKNOWN not in (objects[voxel], objects[other]):
                expected[voxel] = objects[voxel] == objects[other] and objects[voxel] > 0
        np.testing.assert_array_equal(affinity, expected)


def test_two_trees_that_touch_are_two_objects() -> None:
    one = cable(10.0, start_zyx_um=(2.0, 3.0, 2.0))
    other = cable(10.0, start_zyx_um=(2.0, 3.8, 2.0))
    n = len(one)
    both = Skeleton(
        np.concatenate([one.node_id, other.node_id + n]),
        np.full(2 * n, 3),
        np.concatenate([one.position_zyx_um, other.position_zyx_um]),
        np.full(2 * n, 0.5),
        np.concatenate([one.parent, np.where(other.parent < 0, -1, other.parent + n)]),
    )
    grid = Grid((8, 30, 60), (0.5, 0.2, 0.2))
    scene = scene_of(both, grid, grid.window)
    upper, lower = scene.objects()[4, 15, 30], scene.objects()[4, 19, 30]
    assert upper != lower
    along_y = Affinities(((0, -1, 0),)).finish(scene.objects())[0]
    column = along_y[4, :, 30]
    assert list(column[14:20]) == [1, 1, 1, 0, 1, 1]
    assert (scene.codes[4, 14:20, 30] == 3).all()


def test_keypoints_are_gaussians_in_micrometres_and_cut_tips_are_unknown() -> None:
    skeleton = cable(20.0, step_um=5.0, start_zyx_um=(4.0, 6.0, 4.0))
    grid = Grid((9, 40, 80), (1.0, 0.4, 0.4), (0.0, -1.0, 0.5))
    window = ((2, 7), (5, 38), (3, 70))
    rules = DrawingRules()
    codes = np.zeros([hi - lo for lo, hi in window], np.uint8)
    centres = voxel_centres(grid, window)
    for stopped in ((), (5,)):
        scene = Scene(graph_of(skeleton, rules, stopped), grid, window, codes, rules)
        maps = KeypointMaps(sigma_um=1.5).draw(scene)
        for channel, node in ((0, 0), (2, 4)):
            away = np.sqrt(((centres - skeleton.position_zyx_um[node]) ** 2).sum(-1))
            expected = np.where(away <= 4.5, np.exp(-(away**2) / 4.5), 0)
            if channel == 2 and stopped:
                np.testing.assert_array_equal(known(maps[2]), away > 4.5)
            else:
                np.testing.assert_allclose(maps[channel], expected, atol=1e-6)
        assert not maps[1].any()


@settings(max_examples=40)
@given(scenes(), st.integers(0, 3), st.tuples(*[st.booleans()] * 3))
def test_affinities_after_a_turn_are_those_of_the_turned_patch(
    made: tuple[Skeleton, Scene], quarters: int, flips: tuple[bool, bool, bool]
) -> None:
    turn, target = Turn(quarters, flips), Affinities(((-1, 0, 0), (0, -2, 1)))
    objects = target.draw(made[1])
    found = target.finish(target.turned(objects, turn))
    np.testing.assert_array_equal(found, target.finish(np.ascontiguousarray(turn.apply(objects))))


def test_what_lies_far_from_the_patch_costs_nothing_and_changes_nothing() -> None:
    near, far = cable(20.0), cable(5000.0, step_um=0.5, start_zyx_um=(5.0, 400.0, 10.0))
    n = len(near)
    both = Skeleton(
        np.concatenate([near.node_id, far.node_id + n]),
        np.concatenate([near.type, far.type]),
        np.concatenate([near.position_zyx_um, far.position_zyx_um]),
        np.concatenate([near.radius_um, far.radius_um]),
        np.concatenate([near.parent, np.where(far.parent < 0, -1, far.parent + n)]),
    )
    grid, window = Grid((10, 2000, 20000), (1.0, 0.4, 0.4)), ((0, 10), (10, 60), (10, 80))
    rules = DrawingRules()
    alone, together = (
        Scene(graph_of(s, rules).near(grid, window, REACH_UM), grid, window, np.zeros((10, 50, 70), np.uint8), rules) for s in (near, both)
    )
    assert len(together.graph.cones) == len(alone.graph.cones) <= n
    for target in TARGETS.values():
        np.testing.assert_array_equal(target.finish(target.draw(alone)), target.finish(target.draw(together)))


def test_a_wrong_target_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"a target is one of semantic, inside, centerline, distance, .* found 'skeleton'"):
        as_targets(["skeleton"])
    with pytest.raises(ConfigError, match="several: distance"):
        as_targets(["distance", Distance(2.0)])
    with pytest.raises(ConfigError, match="band_um is a positive number"):
        Distance(0.0)
    with pytest.raises(ConfigError, match="offsets"):
        Affinities(((0, 0, 0),))
    assert as_targets("inside") == (TARGETS["inside"],)
