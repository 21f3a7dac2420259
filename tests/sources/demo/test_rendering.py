"""The rendered stacks: seams, physics, faults, and likeness to a real one."""

from __future__ import annotations

import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from io import BytesIO
from math import exp, sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brightfield.core.errors import StackError
from brightfield.core.skeleton import Skeleton
from brightfield.sources.demo import stain
from brightfield.sources.demo.phantom import PIXEL_UM, PLANE_UM, ArborPlan, Band, Faults, Optics, Phantom, grow, untraced_axon
from brightfield.sources.demo.rendering import absorbance, render_crop, render_projection

QUIET = Optics(texture=0.0, camera=0.0)


@lru_cache
def small_phantom() -> Phantom:
    """A cell of 60 x 60 x 20 um with everything switched on."""
    arbor = grow(ArborPlan(3, (20.0, 60.0, 60.0), 3, True, 25.0, 300.0, 2))
    return Phantom(arbor, 72, 525, 530, 3, optics=Optics.drawn(3), band=Band(10.0, 0.05))


def tube(radius_um: float, *, kind: int = 3, z_um: float = 11.2, slope: float = 0.0) -> Skeleton:
    """A straight neurite along x through the middle of a canvas of 60 um."""
    x = np.arange(15.0, 45.0, 1.0)
    position = np.column_stack([z_um + slope * (x - 30), np.full_like(x, 30.0), x])
    n = len(x)
    return Skeleton(np.arange(1, n + 1), np.full(n, kind), position, np.full(n, radius_um), np.arange(n) - 1)


def stack_of(skeleton: Skeleton, optics: Optics = QUIET, **fields: object) -> Phantom:
    return Phantom(skeleton, 80, 525, 525, 1, optics=optics, debris_per_mm3=0.0, **fields)  # type: ignore[arg-type]


def whole(phantom: Phantom, plane: int, level: int) -> np.ndarray:
    return render_crop(phantom, plane, 0, 0, phantom.height_px, phantom.width_px, level)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 6), st.integers(0, 71), st.data())
def test_any_crop_is_the_same_region_of_the_whole_plane(level: int, plane: int, data: st.DataObject) -> None:
    phantom = small_phantom()
    rows, columns = phantom.height_px >> level, phantom.width_px >> level
    top, left = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    height, width = data.draw(st.integers(1, rows - top)), data.draw(st.integers(1, columns - left))
    crop = render_crop(phantom, plane, top << level, left << level, height << level, width << level, level)
    np.testing.assert_array_equal(crop, whole(phantom, plane, level)[top : top + height, left : left + width])


def test_threads_and_order_do_not_change_a_byte() -> None:
    one, other = small_phantom(), replace(small_phantom())
    in_order = [whole(one, plane, 2).tobytes() for plane in range(0, 72, 9)]
    with ThreadPoolExecutor(4) as pool:
        shuffled = dict(pool.map(lambda plane: (plane, whole(other, plane, 2).tobytes()), reversed(range(0, 72, 9))))
    assert in_order == [shuffled[plane] for plane in range(0, 72, 9)]


def test_pixels_are_those_of_the_day_this_was_written() -> None:
    digest = sha256(b"".join(whole(small_phantom(), plane, level).tobytes() for plane, level in ((20, 0), (36, 1), (50, 2), (40, 5))))
    assert digest.hexdigest()[:16] == "84946cb10ea04235"


def test_seed_changes_the_noise_but_not_the_neuron() -> None:
    one = small_phantom()
    other = replace(one, seed=4)
    a, b = whole(one, 36, 0).astype(int), whole(other, 36, 0).astype(int)
    assert (a != b).mean() > 0.5


@pytest.mark.parametrize("radius_um", [0.8, 1.5])
def test_without_blur_light_is_absorbed_along_the_chord(radius_um: float) -> None:
    sharp = replace(QUIET, focus_um=1e-3, steep=0.0, shallow=0.0, ring=0.0)
    phantom = stack_of(tube(radius_um), sharp)
    mu = stain._stain_of_edge(3, 10, np.uint64(1000))
    row, column = round(30 / PIXEL_UM), round(24.5 / PIXEL_UM)
    intensity = render_crop(phantom, 40, row - 2, column - 20, 5, 40, 0).astype(float).mean()
    empty = render_crop(phantom, 40, 20, column - 20, 5, 40, 0).astype(float).mean()
    if 2 * radius_um * mu < 1.9:
        assert abs(intensity / empty - exp(-2 * radius_um * mu)) < 0.02
    measured = absorbance(phantom, 40, row - 2, column - 20, (5, 40), 0).mean()
    assert abs(measured / (2 * radius_um * mu) - 1) < 0.05


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_absorbance_of_a_faint_tube_is_conserved_through_focus(level: int) -> None:
    phantom = stack_of(tube(0.12, kind=2), Optics())
    shape = (525 >> level, 525 >> level)
    sums = [absorbance(phantom, plane, 0, 0, shape, level).sum() * 4**level for plane in range(31, 50)]
    assert max(sums) / min(sums) - 1 < 1e-3


def test_blur_grows_faster_on_the_steep_side() -> None:
    phantom = stack_of(tube(0.12, kind=2), Optics(steep_side=1, ring=0.0))
    below, above = (profile_sd_um(phantom, plane) for plane in (33, 47))
    assert abs(below - sqrt(0.1**2 + (0.90 * 7 * PLANE_UM) ** 2)) < 0.1
    assert abs(above - sqrt(0.1**2 + (0.47 * 7 * PLANE_UM) ** 2)) < 0.1


def profile_sd_um(phantom: Phantom, plane: int) -> float:
    profile = absorbance(phantom, plane, 0, 0, (525, 525), 0)[:, 240:280].sum(axis=1)
    y_um = np.arange(525) * PIXEL_UM
    mean = (profile * y_um).sum() / profile.sum()
    return float(np.sqrt((profile * (y_um - mean) ** 2).sum() / profile.sum()))


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("plane", [40, 30])
def test_a_coarse_level_is_the_average_of_the_fine_one(level: int, plane: int) -> None:
    arbor = grow(ArborPlan(5, (20.0, 60.0, 60.0), 3, False, 25.0, 200.0))
    phantom = replace(stack_of(arbor), optics=QUIET)
    side = 2**level
    fine = whole(phantom, plane, 0)[: 525 // side * side, : 525 // side * side].astype(float)
    averaged = fine.reshape(525 // side, side, 525 // side, side).mean(axis=(1, 3))
    difference = averaged - whole(phantom, plane, level)
    assert abs(difference).mean() < 0.6
    assert np.corrcoef(averaged.ravel(), whole(phantom, plane, level).ravel())[0, 1] > 0.99


def test_a_stained_node_is_darkest_at_its_own_voxel() -> None:
    phantom = stack_of(tube(0.2))
    for level in (0, 2):
        profile = absorbance(phantom, 40, 0, 0, (525 >> level, 525 >> level), level)[:, 262 >> level]
        expected = (30.0 / PIXEL_UM + 0.5) / 2**level - 0.5
        assert abs(np.average(np.arange(len(profile)), weights=np.clip(profile, 0, None) ** 2) - expected) < 0.2


def test_faults_show_where_they_were_planted() -> None:
    sound = small_phantom()
    faulty = replace(sound, faults=Faults(blank=frozenset({30}), repeated=frozenset({41}), brighter=frozenset({50}), seam_px=16))
    assert np.unique(whole(faulty, 30, 2)).size == 1
    np.testing.assert_array_equal(whole(faulty, 41, 2), whole(faulty, 40, 2))
    assert np.median(whole(faulty, 50, 2)) > np.median(whole(sound, 50, 2)) + 6
    middle = (sound.width_px >> 2) // 2
    np.testing.assert_array_equal(whole(faulty, 20, 2)[:, :middle], whole(sound, 20, 2)[:, :middle])
    assert (whole(faulty, 20, 2)[:, middle:] != whole(sound, 20, 2)[:, middle:]).mean() > 0.5
    crop = render_crop(faulty, 20, 128, 200, 128, 256, 2)
    np.testing.assert_array_equal(crop, whole(faulty, 20, 2)[32:64, 50:114])


def test_the_projection_is_the_minimum_of_the_planes_it_has() -> None:
    phantom = replace(small_phantom(), faults=Faults(missing=frozenset({36}), blank=frozenset({10})))
    planes = [whole(phantom, plane, 3) for plane in range(0, 72, 2) if plane not in (36, 10)]
    np.testing.assert_array_equal(render_projection(phantom, 3), np.min(planes, axis=0))


@pytest.mark.parametrize(
    "crop", [(-1, 0, 0, 8, 8, 0), (72, 0, 0, 8, 8, 0), (0, 520, 0, 8, 8, 0), (0, 0, -8, 8, 8, 0), (0, 0, 0, 2, 2, 2), (0, 0, 0, 8, 8, 7)]
)
def test_crops_outside_the_stack_are_refused_with_its_size(crop: tuple[int, int, int, int, int, int]) -> None:
    with pytest.raises(StackError, match=r"level|plane"):
        render_crop(small_phantom(), *crop)


# ---------------------------------------------------------------------------------------------------------- likeness to a real stack


def correlation(stack: np.ndarray, axis: int, lag: int) -> float:
    """Autocorrelation over tissue without stain (grey above 183 in both)."""
    a = np.take(stack, range(stack.shape[axis] - lag), axis).astype(float)
    b = np.take(stack, range(lag, stack.shape[axis]), axis).astype(float)
    tissue = (a > 183) & (b > 183)
    return float(np.corrcoef(a[tissue], b[tissue])[0, 1])


@pytest.mark.real
def test_quantiles_and_autocorrelation_are_those_of_a_real_crop(shared_data: Path) -> None:
    import tifffile

    with tarfile.open(shared_data / "images" / "patchseq_example_2112_stack.tar.gz") as archive:
        files = {int(Path(m.name).stem): m for m in archive.getmembers() if m.name.endswith(".tif")}
        real = np.stack([tifffile.imread(BytesIO(archive.extractfile(files[n]).read())) for n in sorted(files)])  # type: ignore[union-attr]
    axon = tube(0.1144, kind=2, slope=0.1)
    phantom = Phantom(axon, 80, 525, 525, 3, ((untraced_axon(axon, 5, (22.0, 60.0, 60.0), 400.0), 1.0),))
    drawn = np.stack([render_crop(phantom, plane, 166, 166, 192, 192, 0) for plane in range(24, 56)])
    levels = [0.01, 0.05, 0.5, 0.95, 0.99]
    assert np.abs(np.quantile(drawn, levels) - np.quantile(real, levels)).max() <= 5
    assert abs(drawn[drawn > 183].std() / real[real > 183].std() - 1) < 0.2
    for axis, lags in ((2, (1, 2, 3, 4, 8)), (1, (1, 2, 3, 4, 8)), (0, (1, 2, 3, 4, 8))):
        for lag in lags:
            assert abs(correlation(drawn, axis, lag) - correlation(real, axis, lag)) < 0.12, (axis, lag)
