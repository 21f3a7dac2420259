from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brightfield.core.codes import Label, Severity
from brightfield.core.errors import SkeletonError
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid
from brightfield.core.swc import format_swc, parse_swc
from brightfield.core.swc_convention import SwcConvention
from brightfield.raster import rasterize
from brightfield.testing.skeletons import forests, swc_bytes

NEURITE = ((90, 3, 30, 20, 10, 1, 1), (91, 3, 40, 20, 10, 1, 90))


def checks(skeleton: Skeleton) -> list[tuple[str, str]]:
    return [(finding.check, finding.severity.value) for finding in skeleton.findings]


# ------------------------------------------------------------------------------------------------------------------- the soma

CENTRE = (20.0, 20.0, 10.0)
RADIUS = 5.0


def three_points(order: tuple[int, ...] = (0, -1, 1), parents: tuple[int, ...] = (-1, 1, 1)) -> list[tuple[float, ...]]:
    x, y, z = CENTRE
    return [(n, 1, x, y + RADIUS * step, z, RADIUS, parent) for n, (step, parent) in enumerate(zip(order, parents, strict=True), start=1)]


def outline(n: int, *, squeeze: float = 1.0, pen: float = 0.0, closed: bool = False) -> list[tuple[float, ...]]:
    x, y, z = CENTRE
    angles = [2 * math.pi * i / n for i in range(n + closed)]
    return [
        (i, 1, x + RADIUS * math.cos(a), y + squeeze * RADIUS * math.sin(a), z, pen, i - 1 if i > 1 else -1)
        for i, a in enumerate(angles, 1)
    ]


SPHERES = {
    "three points": three_points(),
    "three points, rounded": [(n, k, x, round(y + 0.04, 1), z, r, p) for n, k, x, y, z, r, p in three_points()],
    "three points in a row": three_points((-1, 0, 1), (-1, 1, 2)),
    "outline of 10": outline(10),
    "outline of 40": outline(40),
    "outline of a pen": outline(12, pen=0.5),
    "closed outline": outline(16, closed=True),
    "outline as a star": [(n, k, x, y, z, r, -1 if n == 1 else 1) for n, k, x, y, z, r, _ in outline(10)],
}


@pytest.mark.parametrize("way", SPHERES)
def test_somata_that_mean_a_sphere_become_one(way: str) -> None:
    skeleton = parse_swc(swc_bytes(*SPHERES[way], *NEURITE))
    assert (len(skeleton), skeleton.n_stems, skeleton.n_trees) == (3, 1, 1)
    assert skeleton.soma is not None
    np.testing.assert_allclose(skeleton.position_zyx_um[skeleton.soma], CENTRE[::-1], atol=0.1)
    assert skeleton.radius_um[skeleton.soma] == pytest.approx(RADIUS, rel=0.01)
    assert skeleton.parent.tolist() == [-1, 0, 1]
    assert checks(skeleton) == [("swc-soma", "info")]
    labels = rasterize(skeleton, Grid((40, 80, 120), (0.5, 0.5, 0.5)), kind="semantic")
    volume_um3 = np.count_nonzero(labels == Label.SOMA) * 0.125
    assert volume_um3 == pytest.approx(4 / 3 * math.pi * RADIUS**3, rel=0.05)


def test_what_left_any_point_of_the_soma_leaves_the_sphere() -> None:
    rows = [*three_points(), (7, 3, 20, 30, 10, 1, 3), (8, 2, 20, 10, 10, 1, 2), *NEURITE]
    skeleton = parse_swc(swc_bytes(*rows))
    assert skeleton.node_id.tolist() == [1, 7, 8, 90, 91]
    assert skeleton.parent.tolist() == [-1, 0, 0, 0, 3]
    assert skeleton.n_stems == 2


CYLINDERS = {
    "two points": [(1, 1, 20, 20, 10, 5, -1), (2, 1, 20, 30, 10, 5, 1)],
    "three cylinders": [(1, 1, 20, 20, 10, 5, -1), (2, 1, 20, 12, 10, 4, 1), (3, 1, 20, 28, 10, 4, 1)],
    "a line without thickness": [(n, 1, 20 + n, 20, 10, 0, n - 1 if n > 1 else -1) for n in range(1, 9)],
    "two somata": [*three_points()[:2], (3, 1, 60, 60, 10, 5, -1)],
    "thick ring": outline(10, pen=3.0),
    "one point over and over": [(n, 1, 20, 20, 10, 0, n - 1 if n > 1 else -1) for n in range(1, 9)],
}


@pytest.mark.parametrize("way", CYLINDERS)
def test_other_somata_stay_as_they_are_and_are_no_stems(way: str) -> None:
    skeleton = parse_swc(swc_bytes(*CYLINDERS[way], *NEURITE))
    assert len(skeleton) == len(CYLINDERS[way]) + 2
    assert skeleton.n_stems == 1
    assert ("swc-soma", "warning") in checks(skeleton)


@given(st.integers(5, 40), st.floats(0.5, 1), st.floats(0, 0.2))
def test_an_outline_is_as_large_as_its_line_is_far_from_its_middle(n: int, squeeze: float, pen: float) -> None:
    skeleton = parse_swc(swc_bytes(*outline(n, squeeze=squeeze, pen=pen * squeeze * RADIUS), *NEURITE))
    assert len(skeleton) == 3
    assert squeeze * RADIUS - 1e-9 <= skeleton.radius_um[0] <= RADIUS + 1e-9


# -------------------------------------------------------------------------------------------------- separators and columns

ROWS = [(1, 1, 20, 16, 2, 2, -1), (2, 3, 25.5, 16, 2, 0.5, 1), (3, 3, 30, 16, 2, 0.5, 2)]
PLAIN = parse_swc(swc_bytes(*ROWS))


@pytest.mark.parametrize("separator", [" ", "\t", ",", ", ", ";", "; ", " , "])
def test_fields_are_parted_by_spaces_commas_or_semicolons(separator: str) -> None:
    text = "# id, type; x\n" + "".join(separator.join(map(str, row)) + "\n" for row in ROWS)
    assert parse_swc(text.encode()) == PLAIN


@pytest.mark.parametrize("text", ["1 1 0,5 0,5 0,5 1 -1\n", "1;1;0,5;0;0;1;-1\n", "1,1,,0,0,0,1,-1\n", "1 1 0 0,5 0 1 -1\n"])
def test_a_decimal_comma_or_an_empty_field_is_refused(text: str) -> None:
    with pytest.raises(SkeletonError, match=r"is not a number|fields"):
        parse_swc(text.encode())


@pytest.mark.parametrize("extra", ["0 1", "1", "axon left", "0.5 nan 3 2023-01-01"])
def test_further_columns_are_left_out_with_a_finding(extra: str) -> None:
    text = "".join(" ".join(map(str, row)) + f" {extra}\n" for row in ROWS)
    skeleton = parse_swc(text.encode())
    assert skeleton == PLAIN
    assert checks(skeleton) == [("swc-columns", "info")]


def test_a_line_with_other_columns_than_the_first_is_refused() -> None:
    text = "".join(" ".join(map(str, row)) + ("" if n == 1 else " 7") + "\n" for n, row in enumerate(ROWS))
    with pytest.raises(SkeletonError, match="the first node has 8 fields, this line has 7") as raised:
        parse_swc(text.encode())
    assert raised.value.line == 2


# -------------------------------------------------------------------------------------------------------------- convention


@given(forests(), st.permutations("xyz"), st.sampled_from(["um", "nm", "px"]))
def test_units_and_axes_are_undone(skeleton: Skeleton, axes: list[str], unit: str) -> None:
    voxel = (0.28, 0.125, 0.125)
    size = {"um": (1.0, 1.0, 1.0), "nm": (0.001, 0.001, 0.001), "px": voxel}[unit]
    position = (skeleton.position_zyx_um / size)[:, ["zyx".index(axis) for axis in axes]]
    text = format_swc(Skeleton(skeleton.node_id, skeleton.type, position[:, ::-1], skeleton.radius_um / size[2], skeleton.parent))
    again = parse_swc(text.replace(b" in um", b""), convention=SwcConvention(unit, "".join(axes), voxel))
    np.testing.assert_allclose(again.position_zyx_um, skeleton.position_zyx_um, rtol=1e-12)
    np.testing.assert_allclose(again.radius_um, skeleton.radius_um, rtol=1e-12)


STATED = {
    "# SCALE 0.5 0.5 2.0": "not applied",
    "# SCALE: 0.5": "not applied",
    "# All positions and radii in microns": "",
    "# All positions and radii in nm": "source.swc_unit=nm",
    "# SCALE 1.0 1.0 1.0": "",
    "# units: nm": "source.swc_unit=nm",
    '# Meta: {"name": "a", "units": "1 nanometer"}': "source.swc_unit=nm",
    '# Meta: {"name": "a", "units": "8 nanometer"}': "convert",
    "# Units: µm": "",
    "# unit = pixels": "source.swc_unit=px",
    "# coordinates are in voxels": "source.swc_unit=px",
    "# distances in mm": "convert",
    "# cut into 40 nm sections in the lab": "",
    "# X Y Z Radius Parent": "",
}


@pytest.mark.parametrize("comment", STATED)
def test_what_the_file_says_of_its_numbers_is_never_ignored(comment: str) -> None:
    skeleton = parse_swc(comment.encode() + b"\n" + swc_bytes(*ROWS))
    assert skeleton == PLAIN
    found = [finding for finding in skeleton.findings if finding.check == "swc-unit"]
    assert len(found) == bool(STATED[comment])
    for finding in found:
        assert finding.severity == Severity.ERROR
        assert "line 1" in finding.message
        assert STATED[comment] in f"{finding.message} {finding.remedy}"


def test_a_unit_that_is_read_as_stated_is_no_finding() -> None:
    assert parse_swc(b"# units: nm\n" + swc_bytes(*ROWS), convention=SwcConvention("nm")).findings == ()
