from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from brightfield.core.errors import GridError
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid
from brightfield.core.swc import read_swc
from brightfield.raster import topology as connectivity
from brightfield.raster.cones import balls, cones_of, shell_spans_of, spans_of
from brightfield.raster.lines import lines_of
from brightfield.raster.runs import paint, union, voxels_by_value
from brightfield.raster.voxels import label_runs, rasterize
from brightfield.testing.grids import grids_within, windows
from brightfield.testing.skeletons import forests, neurons, reordered

BARE = {"kind": "inside", "r_min_um": 0.0, "soma_edges": "taper", "connect": None}
REAL_GRIDS = ((0.28, 0.1144, 0.1144), (0.28, 0.2288, 0.2288), (0.5, 0.5, 0.5))
GOAL_GRIDS = ((0.28, 0.1144, 0.1144), (0.28, 0.2288, 0.2288), (0.56, 0.4576, 0.4576), (1.12, 0.9152, 0.9152), (2.0, 2.0, 2.0))


def tree(positions, radii, types=None, parents=None) -> Skeleton:
    n = len(positions)
    return Skeleton(np.arange(1, n + 1), types or [3] * n, positions, radii, [i - 1 for i in range(n)] if parents is None else parents)


def grid_around(skeleton: Skeleton, size=(0.28, 0.1144, 0.1144), margin_um=2.0) -> Grid:
    reach = skeleton.radius_um.max() + margin_um
    low, high = skeleton.position_zyx_um.min(0) - reach, skeleton.position_zyx_um.max(0) + reach
    return Grid(tuple(int(v) for v in np.ceil((high - low) / size) + 1), size, tuple(low))


def real_grid(skeleton: Skeleton, size) -> Grid:
    return Grid(tuple(int(v) for v in np.ceil((skeleton.position_zyx_um.max(0) + 15) / size)), size)


# ------------------------------------------------------------------------------------------------------------ the bare definition


@given(forests() | neurons(), st.data())
def test_inside_is_the_definition_at_every_voxel(skeleton, data):
    grid = data.draw(grids_within(data.draw(st.sampled_from([8.0, 40.0]))))
    assert np.array_equal(rasterize(skeleton, grid, **BARE), oracle.inside(skeleton, grid, grid.window))


@given(neurons(), st.data())
def test_classes_are_soma_then_nearest_axis_then_lower_id(skeleton, data):
    grid = data.draw(grids_within(8.0))
    r_min, edges = data.draw(st.sampled_from([0.0, 0.23, 1.0])), data.draw(st.sampled_from(["taper", "capsule"]))
    found = rasterize(skeleton, grid, "semantic", r_min, edges, connect=None)
    assert np.array_equal(found, oracle.semantic(skeleton, grid, grid.window, r_min, edges))


@pytest.mark.parametrize(
    "skeleton",
    [
        tree([[2, 2, 2], [2, 2, 2]], [1, 1]),
        tree([[2, 2, 2], [2, 2, 2.1]], [1.5, 0.3]),
        tree([[2, 2, 2], [2, 2, 2.1]], [0.3, 1.5]),
        tree([[2, 2, 2], [2, 2, 3]], [1.5, 0.5]),
        tree([[1, 2, 1], [3, 2, 1]], [0.5, 0.5]),
        tree([[1, 1.144, 0], [1, 1.144, 3.432]], [0.1144, 0.1144]),
        tree([[1, 1.144, 0], [1, 1.144, 3.432]], [0.1144, 0.2288]),
        tree([[0.28, 1.144, 1.144], [0.28, 2.288, 2.288]], [0.1144, 0.1144]),
        tree([[2, 2, 2], [2.01, 2.02, 2.01]], [0.001, 0.002]),
        tree([[-30, -40, -50], [30, 40, 45]], [3, 0.1]),
        tree([[-30, 2, 2], [40, 2.05, 2]], [0.1144, 0.1144]),
        tree([[2, 2, 2], [2, 2, 3]], [0, 0]),
    ],
)
@pytest.mark.parametrize("size", REAL_GRIDS)
def test_degenerate_and_tied_cones_are_the_definition(skeleton, size):
    grid = Grid(tuple(int(v) for v in np.ceil(np.divide(4.5, size))), size)
    assert np.array_equal(rasterize(skeleton, grid, **BARE), oracle.inside(skeleton, grid, grid.window))


def test_thousands_of_roots_are_thousands_of_spheres():
    rng = np.random.default_rng(3)
    skeleton = tree(rng.uniform(0, 20, (3000, 3)), rng.uniform(0.05, 0.4, 3000), parents=[-1] * 3000)
    grid = Grid((20, 60, 60), (0.28, 0.3, 0.3), (3.0, 1.0, 2.0))
    assert np.array_equal(rasterize(skeleton, grid, **BARE), oracle.inside(skeleton, grid, grid.window))


def test_the_volume_of_a_cone_converges_to_the_formula():
    ra, rb, length = 1.2, 0.5, 3.0
    skeleton = tree([[3, 3, 3], [3 + length * 0.6, 3, 3 + length * 0.8]], [ra, rb])
    slope = (ra - rb) / length
    # Tangent frustum between two spherical caps: the contact circles lie at r * slope along the axis.
    h1, h2, c1, c2 = ra * slope, length + rb * slope, ra * np.sqrt(1 - slope**2), rb * np.sqrt(1 - slope**2)
    frustum = np.pi * (h2 - h1) * (c1 * c1 + c1 * c2 + c2 * c2) / 3
    cap_a, cap_b = ra * (1 + slope), rb * (1 - slope)
    exact = frustum + np.pi * cap_a**2 * (3 * ra - cap_a) / 3 + np.pi * cap_b**2 * (3 * rb - cap_b) / 3
    errors = []
    for size in (0.4, 0.1, 0.025):
        grid = grid_around(skeleton, (size * 1.3, size, size), 0.1)
        errors.append(abs(rasterize(skeleton, grid, **BARE).sum() * np.prod(grid.voxel_size_zyx_um) / exact - 1))
    assert errors[-1] < 5e-4
    assert errors[-1] < errors[0]


# --------------------------------------------------------------------------------------------------------------------- invariances


@given(neurons(), st.data())
def test_a_window_is_cut_from_the_whole(skeleton, data):
    grid = data.draw(grids_within(8.0))
    window = data.draw(windows(grid))
    cut = tuple(slice(lo, hi) for lo, hi in window)
    kind = data.draw(st.sampled_from(["inside", "semantic", "centerline", "distance"]))
    connect = data.draw(st.sampled_from([None, 6, 26]))
    whole = rasterize(skeleton, grid, kind, connect=connect)
    assert np.array_equal(rasterize(skeleton, grid, kind, connect=connect, window=window), whole[cut])


@given(neurons(), st.data())
def test_the_order_of_nodes_does_not_matter(skeleton, data):
    other = reordered(skeleton, data.draw(st.permutations(range(len(skeleton)))))
    grid = data.draw(grids_within(8.0))
    kind = data.draw(st.sampled_from(["inside", "semantic", "centerline", "distance"]))
    assert np.array_equal(rasterize(skeleton, grid, kind), rasterize(other, grid, kind))


@given(neurons(), st.data())
def test_only_the_order_of_node_ids_matters(skeleton, data):
    grid = data.draw(grids_within(8.0))
    other = replace(skeleton, node_id=skeleton.node_id * 7 + 100)
    assert np.array_equal(rasterize(skeleton, grid), rasterize(other, grid))


@given(neurons(), st.tuples(*[st.integers(-6, 6)] * 3), st.sampled_from([None, 6, 26]))
def test_moving_by_whole_voxels_moves_the_label(skeleton, shift, connect):
    # Sizes and positions in eighths: sums are exact, so that ties stay ties.
    eighths = replace(skeleton, position_zyx_um=np.round(skeleton.position_zyx_um * 8) / 8)
    size = (0.5, 0.25, 0.25)
    moved = replace(eighths, position_zyx_um=eighths.position_zyx_um + np.multiply(shift, size))
    here = Grid((40, 80, 80), size, (-10.0, -10.0, -10.0))
    there = Grid((40, 80, 80), size, tuple(np.add(here.origin_zyx_um, np.multiply(shift, size))))
    assert np.array_equal(rasterize(eighths, here, connect=connect), rasterize(moved, there, connect=connect))


@given(neurons(), st.data())
def test_a_larger_floor_never_removes_a_voxel(skeleton, data):
    grid = data.draw(grids_within(8.0))
    small, large = sorted(data.draw(st.tuples(*[st.floats(0, 2)] * 2)))
    edges, connect = data.draw(st.sampled_from(["taper", "capsule"])), data.draw(st.sampled_from([None, 6, 26]))
    less = rasterize(skeleton, grid, "inside", small, edges, connect)
    assert not (less & ~rasterize(skeleton, grid, "inside", large, edges, connect)).any()


def test_threads_change_nothing():
    rng = np.random.default_rng(5)
    position = np.cumsum(rng.normal(0, 0.7, (5000, 3)), axis=0) + 30
    skeleton = tree(position, rng.uniform(0.1, 0.5, 5000), list(rng.integers(1, 5, 5000)))
    grid = grid_around(skeleton, (0.56, 0.4576, 0.4576))
    expected = label_runs(skeleton, grid, threads=1)
    for threads in (2, 3, None):
        assert np.array_equal(label_runs(skeleton, grid, threads=threads), expected)


def test_a_window_beyond_the_grid_is_refused():
    with pytest.raises(GridError, match="not within the grid"):
        rasterize(tree([[1, 1, 1]], [1]), Grid((4, 4, 4), (1, 1, 1)), window=((0, 5), (0, 4), (0, 4)))


def test_an_unknown_kind_or_connection_is_refused():
    skeleton, grid = tree([[1, 1, 1]], [1]), Grid((4, 4, 4), (1, 1, 1))
    with pytest.raises(ValueError, match="kind is inside, semantic"):
        rasterize(skeleton, grid, kind="mask")
    with pytest.raises(ValueError, match="connect is 26, 6 or None"):
        rasterize(skeleton, grid, connect=18)


# ---------------------------------------------------------------------------------------------------------------------- connection


@given(neurons(types=(2, 3)), st.sampled_from([6, 26]), st.sampled_from([0.0, 0.23]), st.data())
@settings(max_examples=60)
def test_each_tree_is_one_component(skeleton, connect, r_min, data):
    one_tree = replace(skeleton, parent=np.maximum(skeleton.parent, np.where(np.arange(len(skeleton)) == 0, -1, 0)))
    grid = grid_around(one_tree, data.draw(st.sampled_from([*GOAL_GRIDS, (0.3, 0.9, 0.9)])))
    runs = label_runs(one_tree, grid, "inside", r_min, connect=connect)
    assert connectivity.component_count(runs, connect) == 1
    if voxels_by_value(runs)[1] < 20000:
        assert oracle.n_components(paint(runs, grid.window) > 0, connect) == 1


@given(neurons(), st.sampled_from([6, 26]), st.data())
def test_every_node_lies_in_a_labelled_voxel(skeleton, connect, data):
    grid = grid_around(skeleton, data.draw(st.sampled_from(GOAL_GRIDS)), 1.0)
    kind = data.draw(st.sampled_from(["inside", "semantic", "centerline"]))
    label = rasterize(skeleton, grid, kind, connect=connect)
    assert (label[tuple(grid.to_index(skeleton.position_zyx_um).T)] > 0).all()


@given(neurons(), st.data())
def test_a_line_adds_only_voxels_that_the_axis_passes(skeleton, data):
    grid = data.draw(grids_within(8.0))
    bare = rasterize(skeleton, grid, "inside", connect=None)
    added = np.argwhere(rasterize(skeleton, grid, "inside", connect=6) & ~bare)
    reach = np.sqrt(np.square(grid.voxel_size_zyx_um).sum()) / 2 + 1e-9
    cones = oracle.round_cones(skeleton, 0.0, "taper")
    for voxel in added:
        assert min(oracle.axis_distance(grid.to_um(voxel), cone) for cone in cones) <= reach


def test_a_straight_centerline_is_one_voxel_wide():
    skeleton = tree([[3, 3, 3], [5, 9, 17]], [2, 2])
    line = rasterize(skeleton, Grid((20, 20, 20), (1, 1, 1)), "centerline")
    assert line.sum(axis=(0, 1)).max() == 3
    assert np.count_nonzero(line) == 15


# ------------------------------------------------------------------------------------------------------------------------ distance


@given(neurons(max_nodes=3), st.data())
@settings(max_examples=15)
def test_distance_is_the_least_over_the_spheres_of_every_cone(skeleton, data):
    grid = data.draw(grids_within(8.0))
    window = tuple((0, min(n, 6)) for n in grid.shape_zyx)
    points = oracle.voxel_centres(grid, window)
    cones = oracle.round_cones(skeleton, 0.23, "capsule")
    expected = np.clip(np.min([oracle.surface_distance(points, cone, 2001) for cone in cones], axis=0), -1, 1)
    np.testing.assert_allclose(rasterize(skeleton, grid, "distance", window=window), expected, atol=2e-3)


@given(neurons(), st.data())
def test_distance_is_negative_exactly_inside(skeleton, data):
    grid = data.draw(grids_within(8.0))
    signed, inside = rasterize(skeleton, grid, "distance"), rasterize(skeleton, grid, "inside", connect=None)
    clear = np.abs(signed) > 1e-6
    assert np.array_equal((signed < 0)[clear], (inside > 0)[clear])


# ------------------------------------------------------------------------------------------------------------------ swept cones


@given(neurons(max_nodes=3), st.floats(0.05, 2.0), st.data())
@settings(max_examples=30)
def test_a_swept_cone_holds_what_the_cone_holds_at_some_shift(skeleton, axial, data):
    grid = data.draw(grids_within(8.0))
    cones = cones_of(skeleton)
    found = paint(union(shell_spans_of(cones, axial, grid), 1), grid.window) > 0
    points = oracle.voxel_centres(grid, grid.window)
    inner, outer = np.zeros(found.shape, bool), np.zeros(found.shape, bool)
    for cone in oracle.round_cones(skeleton, 0.0, "taper"):  # the oracle's shifts are samples, so it brackets
        for mask, by in ((inner, -1e-6), (outer, 1e-6 + axial / 100)):
            mask |= oracle.shell(cone | {"ra": cone["ra"] + by, "rb": cone["rb"] + by}, points, axial)
    assert not (inner & ~found).any()
    assert not (found & ~outer).any()


@given(neurons(max_nodes=12), st.floats(0.0, 3.0), st.data())
def test_joined_intervals_hold_the_same_voxels_in_fewer_rows(skeleton, grown_um, data):
    grid = data.draw(grids_within(8.0))
    cones = cones_of(skeleton).grown(grown_um)
    spans, joined = spans_of(cones, grid), spans_of(cones, grid, merge=True)
    assert len(joined) <= len(spans)
    assert np.array_equal(union(joined, 1), union(spans, 1))


def test_balls_are_balls():
    grid = Grid((20, 20, 20), (0.5, 0.25, 0.25))
    mask = paint(union(spans_of(balls(np.array([[4.0, 2.5, 2.5]]), np.array([2.0])), grid), 1), grid.window)
    expected = ((oracle.voxel_centres(grid, grid.window) - [4.0, 2.5, 2.5]) ** 2).sum(-1) <= 4.0
    assert np.array_equal(mask > 0, expected)


# ---------------------------------------------------------------------------------------------------------------- runs and topology


@given(neurons(types=(3,)), st.data())
@settings(max_examples=60)
def test_components_and_loops_from_runs_are_those_of_the_voxels(skeleton, data):
    grid = data.draw(grids_within(8.0))
    connect = data.draw(st.sampled_from([None, 6, 26]))
    mask = rasterize(skeleton, grid, "inside", 0.0, connect=connect) > 0
    runs = label_runs(skeleton, grid, "inside", 0.0, connect=connect)
    for connectivity_of in (6, 26):
        assert connectivity.component_count(runs, connectivity_of) == oracle.n_components(mask, connectivity_of)
    assert connectivity.loop_count(runs) == oracle.n_loops(mask)


def test_a_ring_is_one_loop_and_a_hollow_ball_none():
    turn = np.linspace(0, 2 * np.pi, 25)
    ring = tree(np.stack([np.full(25, 5.0), 8 + 4 * np.sin(turn), 8 + 4 * np.cos(turn)], axis=1), [0.6] * 25)
    grid = Grid((20, 64, 64), (0.5, 0.25, 0.25))
    assert connectivity.loop_count(label_runs(ring, grid, "inside")) == 1
    ball = np.argwhere(np.abs(np.sqrt(((np.indices((15, 15, 15)).T - 7.0) ** 2).sum(-1)) - 5) < 1)
    spans = np.column_stack([ball, ball[:, 2] + 1, np.zeros(len(ball))]).astype(np.int32)
    assert connectivity.loop_count(union(spans, 1)) == 0


def test_voxels_by_value_counts_every_voxel():
    skeleton = tree([[3, 3, 3], [3, 3, 9], [3, 9, 9]], [2, 1, 0.5], [1, 2, 3])
    grid = Grid((12, 24, 24), (0.5, 0.5, 0.5))
    dense = rasterize(skeleton, grid)
    assert np.array_equal(voxels_by_value(label_runs(skeleton, grid))[1:], np.bincount(dense.ravel(), minlength=256)[1:])


def test_two_branches_that_touch_far_from_their_fork_are_one_contact():
    out = [[5, 5, 5 + i] for i in range(12)]
    back = [[5, 5.5 + 0.1 * i, 9 - 0.2 * i] for i in range(8)]
    skeleton = tree([*out, [5, 8, 17], [5, 8, 9], *back], [0.3] * 22)
    apart = tree([*out, [5, 20, 17], [5, 20, 9], *([5, 19, 9 - i] for i in range(8))], [0.3] * 22)
    grid = Grid((20, 60, 60), (0.5, 0.5, 0.5))
    assert connectivity.topology(skeleton, grid).n_contacts == 1
    assert connectivity.topology(apart, grid).n_contacts == 0


# ------------------------------------------------------------------------------------------------------------------- real neurons


@pytest.mark.real
@pytest.mark.slow
def test_real_cells_are_the_definition_in_random_windows(shared_data):
    rng = np.random.default_rng(20)
    cells = sorted((shared_data / "swc").glob("*.swc"))
    assert len(cells) == 56
    for path in cells:
        skeleton = read_swc(path)
        for size in REAL_GRIDS:
            grid = real_grid(skeleton, size)
            centre = grid.to_index(skeleton.position_zyx_um[rng.integers(len(skeleton))])
            window = tuple((max(0, int(c - h)), min(n, int(c + h))) for c, h, n in zip(centre, (5, 16, 16), grid.shape_zyx, strict=True))
            assert np.array_equal(rasterize(skeleton, grid, window=window, **BARE), oracle.inside(skeleton, grid, window)), path.name
            classes = rasterize(skeleton, grid, connect=None, window=window)
            assert np.array_equal(classes, oracle.semantic(skeleton, grid, window, 0.23, "capsule")), path.name


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("connect", [26, 6])
def test_real_trees_are_one_component_each_on_every_grid(shared_data, connect):
    for path in sorted((shared_data / "swc").glob("*.swc")):
        skeleton = read_swc(path)
        for size in GOAL_GRIDS:
            found = connectivity.topology(skeleton, real_grid(skeleton, size), connect=connect)
            assert found.n_components_by_tree == (1,) * skeleton.n_trees, (path.name, size)


# ------------------------------------------------------------------------------------------------------------------ far away


@pytest.mark.parametrize("connect", [6, 26])
@pytest.mark.parametrize(
    "towards", [(0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.3, -0.5, 0.7), (-0.01, 0.02, 1.0), (0.5, 0.5, 0.5)]
)
def test_a_line_through_the_grid_costs_what_lies_in_it_however_long_it_is(connect, towards):
    grid, middle = Grid((20, 60, 50), (0.25, 0.125, 0.125)), np.array([2.5, 3.75, 3.125])

    def line(length_um: float) -> np.ndarray:
        ends = middle + length_um * np.array([[-1.0], [1.0]]) * np.array(towards)
        return paint(union(lines_of(cones_of(tree(ends, [0.1, 0.1])), grid, connect), 1), grid.window)

    near = line(2.0**5)
    tracemalloc.start()
    try:
        far = line(2.0**23)  # as many steps as fill gigabytes; so far out, a few voxels are taken for their neighbours
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert near.any()
    assert np.count_nonzero(far != near) <= 0.05 * np.count_nonzero(near)


def test_a_tube_of_a_kilometre_fills_the_grid():
    grid = Grid((20, 60, 50), (0.25, 0.125, 0.125))
    assert rasterize(tree([(2.0, 2.0, 2.0), (2.0, 2.0, 3.0)], [1e9, 0.1], [1, 3]), grid).all()
    assert rasterize(tree([(2.0, 2.0, 2.0), (1e7, 2.0, 3.0)], [1.0, 1e6], [3, 3]), grid).any()
