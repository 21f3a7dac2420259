"""Generated arbors and SWC variants: plausible, repeatable, readable."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brightfield.core.codes import Label
from brightfield.core.errors import GridError
from brightfield.core.markers import read_markers
from brightfield.core.swc import parse_swc
from brightfield.sources.demo.phantom import (
    PIXEL_UM,
    PLANE_UM,
    RADIUS_FLOOR_UM,
    ArborPlan,
    Phantom,
    axon_end,
    canvas,
    grow,
    marker_bytes,
    shifted,
    swc_file,
    untraced_axon,
)
from brightfield.testing.skeletons import flipped, z_scaled

FULL = ArborPlan(5, (42.0, 190.0, 210.0), 5, True, 75.0, 1200.0, 3)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(4, 7), st.booleans())
def test_arbors_of_any_seed_are_plausible(seed: int, n_basal: int, apical: bool) -> None:
    arbor = grow(ArborPlan(seed, FULL.extent_zyx_um, n_basal, apical, 75.0, 60.0))
    assert arbor.n_trees == 1
    assert arbor.n_stems == n_basal + apical
    assert 0 < arbor.path_length_um()[Label.AXON] < 280
    assert (arbor.position_zyx_um >= 1).all()
    assert (arbor.position_zyx_um <= np.array(FULL.extent_zyx_um) - 1).all()
    assert arbor.radius_um.min() >= RADIUS_FLOOR_UM
    assert parse_swc(swc_file(arbor)).findings == ()


def test_a_full_cell_has_a_long_axon_and_fragments_without_the_soma() -> None:
    arbor = grow(FULL)
    assert arbor.path_length_um()[Label.AXON] > 280
    assert arbor.n_trees == 4
    assert set(arbor.type[arbor.roots[1:]]) == {Label.AXON}
    assert 1 in np.bincount(arbor.tree)


def test_the_soma_lies_on_the_voxel_grid() -> None:
    soma = grow(FULL).position_zyx_um[0] / (PLANE_UM, PIXEL_UM, PIXEL_UM)
    assert np.abs(soma - np.round(soma)).max() < 1e-3


def test_a_seed_gives_the_bytes_of_the_day_this_was_written() -> None:
    assert sha256(swc_file(grow(FULL))).hexdigest()[:16] == "ca153577abdaa894"


def test_swc_variants_hold_the_same_skeleton() -> None:
    arbor = grow(FULL)
    plain = parse_swc(swc_file(arbor))
    assert plain == arbor
    from_zero = swc_file(arbor, first_id=0)
    assert parse_swc(from_zero).node_id.min() == 0
    crlf = swc_file(arbor, newline="\r\n")
    assert crlf.count(b"\r\n") == crlf.count(b"\n")
    assert parse_swc(crlf) == arbor
    reverse = parse_swc(swc_file(arbor, children_first=True))
    assert (reverse.parent > np.arange(len(reverse)))[reverse.parent >= 0].all()
    order = np.argsort(reverse.node_id)
    np.testing.assert_array_equal(reverse.position_zyx_um[order], arbor.position_zyx_um)


def test_markers_read_back_in_the_frame_of_the_skeleton(tmp_path: Path) -> None:
    path = tmp_path / "cell.marker"
    path.write_bytes(marker_bytes([(10, (1.4, 20.1, 30.2)), (20, (2.8, 3.0, 4.0))]))
    first, second = read_markers(path, (PLANE_UM, PIXEL_UM, PIXEL_UM))
    assert (first.kind, second.kind) == (10, 20)
    np.testing.assert_allclose(first.position_zyx_um, (1.4, 20.1, 30.2), atol=1e-4)


def test_an_untraced_axon_goes_on_where_the_traced_one_ends() -> None:
    arbor = grow(ArborPlan(4, FULL.extent_zyx_um))
    beyond = untraced_axon(arbor, 1, FULL.extent_zyx_um, 500.0)
    np.testing.assert_array_equal(beyond.position_zyx_um[0], arbor.position_zyx_um[axon_end(arbor)])
    assert set(beyond.type) == {Label.AXON}
    assert beyond.path_length_um()[Label.AXON] == pytest.approx(500, abs=5)


def test_the_canvas_holds_the_skeleton_and_its_margin() -> None:
    arbor = grow(FULL)
    n_planes, height_px, width_px = canvas(arbor, margin_um=20)
    grid = Phantom(arbor, n_planes, height_px, width_px, 1).grid
    assert grid.contains(arbor.position_zyx_um + np.array([0, 19.9, 19.9])).all()
    with pytest.raises(GridError, match="negative"):
        canvas(shifted(arbor, (0.0, -500.0, 0.0)))


def test_wrong_frames_are_what_they_say() -> None:
    arbor = grow(FULL)
    grid = Phantom(arbor, *canvas(arbor), 1).grid
    moved = shifted(arbor, (0, 1.8, 2.4)).position_zyx_um - arbor.position_zyx_um
    np.testing.assert_allclose(moved, [[0, 1.8, 2.4]] * len(arbor), atol=1e-4)
    twice = flipped(flipped(arbor, grid, 1), grid, 1)
    np.testing.assert_allclose(twice.position_zyx_um, arbor.position_zyx_um, atol=2e-4)
    assert z_scaled(arbor, 1.1).position_zyx_um[:, 0].max() > arbor.position_zyx_um[:, 0].max()
