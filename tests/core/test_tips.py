"""How neurites end: one rule, the same whatever planes were downloaded."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brightfield.core.codes import MarkerKind, Reason, TipKind
from brightfield.core.markers import Marker, read_markers
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import download_grid, stack_grid
from brightfield.core.swc import read_swc
from brightfield.core.tips import cut_tips, tip_kinds
from brightfield.stages.manifest.nodes import nodes_frame
from brightfield.stages.rasterize import labels

STACK = stack_grid(100, 400, 400, 0.1144, 0.28)
LAST_UM = 99 * 0.28


def fan(*tips_z_um: float) -> Skeleton:
    """A soma in the middle with a straight dendrite to each of the depths."""
    position = [[14.0, 20.0, 20.0], *([z, 20.0, 22.0 + i] for i, z in enumerate(tips_z_um))]
    n = len(position)
    return Skeleton(np.arange(1, n + 1), [1] + [3] * (n - 1), position, [2.0] + [0.3] * (n - 1), [-1] + [0] * (n - 1))


@given(st.lists(st.floats(-2, LAST_UM + 2), min_size=1, max_size=6), st.integers(0, 5))
def test_a_tip_is_cut_within_so_many_planes_of_a_face_or_beyond_it(depths: list[float], face_planes: int) -> None:
    cut = set(cut_tips(fan(*depths), (), STACK, face_planes).tolist())
    reach = (face_planes + 1e-6) * 0.28
    expected = {i for i, z in enumerate(depths, start=1) if z <= reach or z >= LAST_UM - reach}
    assert cut == (expected if face_planes else set())


def test_a_surface_marker_cuts_what_ends_at_it_and_a_marker_on_the_tip_outranks_a_face() -> None:
    skeleton = fan(14.0, 0.1, 0.1)
    surface = Marker(MarkerKind.SOMA_SURFACE, (14.2, 30.0, 30.0))
    untraced = Marker(MarkerKind.UNTRACED_AXON, tuple(skeleton.position_zyx_um[2]))
    assert tip_kinds(skeleton, (), STACK)[1:] == [TipKind.NATURAL, TipKind.CUT, TipKind.CUT]
    assert tip_kinds(skeleton, (surface, untraced), STACK)[1:] == [TipKind.CUT, TipKind.UNTRACED, TipKind.CUT]


@pytest.mark.real
@pytest.mark.parametrize("z_step", [1, 4])
def test_labels_and_nodes_agree_on_the_real_markers(shared_data: Path, z_step: int) -> None:
    """Every tip that the nodes call cut has a ball of its own in the labels, and no other has one for a face."""
    seen = 0
    for path in sorted((shared_data / "markers").iterdir()):
        specimen = re.match(r"\d+", path.name)
        if specimen is None or not (shared_data / "swc" / f"{specimen[0]}.swc").is_file():
            continue
        skeleton = read_swc(shared_data / "swc" / f"{specimen[0]}.swc")
        stack = stack_grid(int(skeleton.position_zyx_um[:, 0].max() / 0.28) + 2, 9000, 9000, 0.1144, 0.28)
        markers = read_markers(path, stack.voxel_size_zyx_um)
        grid = download_grid(stack, 2, z_step)
        kinds = nodes_frame(1, skeleton, markers, grid, 0.23, {}, stretch_um=30.0, stack=stack).set_index("node_id")["tip"]
        cut = {node for node, kind in kinds.items() if kind == TipKind.CUT}
        balls = {why: set(map(tuple, cones.geometry[:, :3].round(6))) for cones, why in _balls(skeleton, markers, grid, stack)}
        places = {skeleton.node_id[tip]: tuple(skeleton.position_zyx_um[tip].round(6)) for tip in skeleton.tips}
        at_face = {node for node, place in places.items() if place in balls.get(Reason.BAD_PLANE, set())}
        marked = {node for node in places if _is_near(places[node], balls.get(Reason.MARKER, set()))}
        assert cut <= at_face | marked
        assert {node for node in at_face if node not in marked} <= cut
        seen += len(cut)
    assert seen > 20


def _balls(skeleton: Skeleton, markers: tuple[Marker, ...], grid: object, stack: object) -> list:  # type: ignore[type-arg]
    plan = labels.LabelPlan(stack=stack, markers=markers)  # type: ignore[arg-type]
    return labels._balls(skeleton, grid, plan, labels.LabelsConfig())  # type: ignore[arg-type]


def _is_near(place: tuple[float, ...], others: set[tuple[float, ...]]) -> bool:
    return any(np.linalg.norm(np.subtract(place, other)) < 0.02 for other in others)
