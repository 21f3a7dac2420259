from __future__ import annotations

import numpy as np
import pytest

from brightfield.core.errors import ConfigError
from brightfield.core.space import Grid
from brightfield.learn import pixels
from brightfield.learn.augment import Plan
from brightfield.learn.turn import Turn
from brightfield.learn.warp import Warp

GRID = Grid((6, 60, 80), (1.12, 0.5, 0.25))
GREY = np.random.default_rng(0).integers(100, 200, GRID.shape_zyx).astype(np.uint8)


def plan(**what: object) -> Plan:
    return Plan(Turn(), Warp((0.0, 0.0, 0.0)), **what)


def test_stain_is_bright_and_sixteen_bits_say_the_same_as_eight() -> None:
    stain = pixels.stain(GREY)
    assert stain.dtype == np.float32
    np.testing.assert_allclose(stain, 1 - GREY / 255, atol=1e-6)
    np.testing.assert_allclose(pixels.stain(GREY.astype(np.uint16) * 257), stain, atol=1e-6)
    np.testing.assert_allclose(pixels.finished(pixels.scaled(GREY, 1.0, 0.0), "stain"), stain, atol=1e-6)


def test_absorbance_is_of_the_local_background() -> None:
    grey = np.full((4, 16, 16), 180, np.uint8)
    grey[2, 5, 5] = 90
    absorbance = pixels.finished(pixels.scaled(grey, 1.0, 0.0), "absorbance")
    assert absorbance[2, 5, 5] == pytest.approx(np.log(2), abs=1e-5)
    assert absorbance[0, 0, 0] == pytest.approx(0, abs=1e-6)
    assert pixels.finished(np.zeros((2, 4, 4), np.float32), "absorbance").max() < np.inf


@pytest.mark.parametrize("gain", [0.7, 1.0, 1.3])
def test_gain_multiplies_the_absorbance_and_leaves_the_background(gain: float) -> None:
    image = pixels.scaled(GREY, gain, 180.0)
    before, after = -np.log(GREY / 180.0), -np.log(image * 255 / 180.0)
    np.testing.assert_allclose(after, gain * before, atol=1e-5)


def test_voxels_without_a_pixel_get_the_local_background() -> None:
    grey, holes = GREY.copy(), np.zeros(GREY.shape, bool)
    holes[:, 30:] = True
    grey[holes] = 0
    filled = pixels.filled(grey.copy(), holes)
    assert np.array_equal(filled[~holes], grey[~holes])
    assert (filled[holes] == np.median(grey[~holes])).mean() > 0.99 or abs(filled[holes][0] - np.median(grey[~holes])) <= 2
    assert (pixels.filled(grey.copy(), np.ones_like(holes)) == 255).all()  # nothing known: no stain


def test_tilt_is_a_ramp_in_micrometres() -> None:
    image = np.full(GRID.shape_zyx, 0.5, np.float32)
    tilted = pixels.brightened(image, plan(tilt_yx=(0.1, -0.2)), GRID)
    along_y = np.log(tilted[0, -1, 0] / tilted[0, 0, 0]) / (59 * 0.5) * 100
    along_x = np.log(tilted[0, 0, -1] / tilted[0, 0, 0]) / (79 * 0.25) * 100
    assert (along_y, along_x) == (pytest.approx(0.1, abs=1e-4), pytest.approx(-0.2, abs=1e-4))
    assert np.log(tilted / 0.5).mean() == pytest.approx(0, abs=1e-5)


def test_defocus_is_a_gaussian_in_micrometres_within_planes() -> None:
    image = np.zeros(GRID.shape_zyx, np.float32)
    image[3, 30, 40] = 1
    blurred = pixels.defocused(image, 0.6, GRID)
    assert blurred.sum() == pytest.approx(1, abs=1e-5)
    assert not blurred[[0, 1, 2, 4, 5]].any()
    y_um, x_um = (np.arange(60) - 30) * 0.5, (np.arange(80) - 40) * 0.25
    assert np.sqrt((blurred[3].sum(axis=1) * y_um**2).sum()) == pytest.approx(0.6, rel=0.03)
    assert np.sqrt((blurred[3].sum(axis=0) * x_um**2).sum()) == pytest.approx(0.6, rel=0.03)
    np.testing.assert_allclose(pixels.defocused(np.full_like(image, 0.7), 0.6, GRID), 0.7, atol=1e-6)


def test_a_missing_plane_is_background() -> None:
    image = pixels.scaled(GREY, 1.0, 0.0)
    before = image.copy()
    after = pixels.brightened(image, plan(missing_plane=2), GRID)
    assert (after[2] == pixels.background_of(before)).all()
    np.testing.assert_array_equal(np.delete(after, 2, axis=0), np.delete(before, 2, axis=0))


def test_an_unknown_scale_is_named() -> None:
    with pytest.raises(ConfigError, match="scale is one of stain, grey, absorbance, found 'dark'"):
        pixels.check_scale("dark")
