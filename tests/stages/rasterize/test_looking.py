"""The kernels that look at the image against slow oracles in numpy and scipy, which share no code with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from brightfield.core.codes import Label
from brightfield.core.space import Grid
from brightfield.raster.runs import paint
from brightfield.stages.rasterize.bands import Bands, bands_of, boxes_of, noise_of, smoothed
from brightfield.stages.rasterize.optics import Blur, Stain
from brightfield.stages.rasterize.predicted import Predicted, Shown
from brightfield.stages.rasterize.somata import Body
from brightfield.stages.rasterize.unexplained import RidgeRules, _linked, _row_starts, long_objects, ridges
from brightfield.testing.skeletons import cable

GRID = Grid((20, 60, 70), (0.56, 0.4576, 0.4576))
BANDS_UM = (0.37, 1.37, 3.7)


def gaussian(plane: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    half = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    weights /= weights.sum()
    along_y = ndimage.correlate1d(plane.astype(np.float64), weights, axis=0, mode="nearest")
    return np.asarray(ndimage.correlate1d(along_y, weights, axis=1, mode="nearest"))


def test_bands_are_differences_of_gaussians_the_widest_of_them_in_bins() -> None:
    plane = np.random.default_rng(6).normal(size=(171, 203))
    boxes = boxes_of(np.ones(plane.shape, bool))
    for size, most in ((GRID.voxel_size_zyx_um[2], 0.1), (2.0, 1e-5)):
        narrow, middle, wide = (gaussian(plane, um / size) for um in BANDS_UM)
        found = bands_of(plane.astype(np.float32), boxes, size)
        assert np.allclose(found.fine, narrow - middle, atol=2e-6)
        inner = (slice(24, -24), slice(24, -24))
        assert np.abs(found.coarse - (middle - wide))[inner].std() <= most * found.coarse.std()


@pytest.mark.parametrize("sigma", [0.8, 3.0, 8.1])
def test_smoothing_is_a_gaussian_whatever_the_boxes(sigma: float) -> None:
    plane = np.random.default_rng(1).normal(size=(70, 101)).astype(np.float32)
    expected = gaussian(plane, sigma)
    assert np.allclose(smoothed(plane, boxes_of(np.ones(plane.shape, bool)), sigma), expected, atol=2e-6)
    known = np.zeros(plane.shape, bool)
    known[5:20, 40:60] = known[60, 3] = True
    boxes = boxes_of(known)
    found = smoothed(plane, boxes, sigma)
    assert np.allclose(found[known], expected[known], atol=2e-6)


def test_noise_is_the_median_of_absolute_values_of_each_square() -> None:
    rng = np.random.default_rng(2)
    plane = (rng.normal(size=(130, 140)) * np.where(np.arange(140) < 64, 0.01, 0.03)).astype(np.float32)
    quiet = rng.random(plane.shape) < 0.8
    quiet[64:128, 64:128] = False
    sample = np.zeros(plane.shape, bool)
    sample[::2, ::2] = True
    overall = 1.4826 * np.median(np.abs(plane[quiet & sample]))
    found = noise_of(plane, quiet)
    for (i, j), value in np.ndenumerate(found):
        square = (slice(64 * i, 64 * i + 64), slice(64 * j, 64 * j + 64))
        some = np.abs(plane[square][(quiet & sample)[square]])
        own = 1.4826 * np.sort(some)[len(some) // 2] if len(some) >= 60 else overall
        assert value == pytest.approx(max(own, 0.85 * overall), rel=1e-5)


# ------------------------------------------------------------------------------------------------------------------------- the optics


def summed(stain: Stain, plane: int) -> NDArray[np.float64]:
    """Every piece as a whole Gaussian on every pixel."""
    z_um, (_, size_y, size_x) = plane * GRID.voxel_size_zyx_um[0], GRID.voxel_size_zyx_um
    y, x = np.arange(GRID.shape_zyx[1])[:, None] * size_y, np.arange(GRID.shape_zyx[2])[None, :] * size_x
    out = np.zeros(GRID.shape_zyx[1:])
    for piece_z, piece_y, piece_x, mass, own, group in stain.near.tolist():
        d = piece_z - z_um
        if abs(d) >= 12.0:
            continue
        side = 0 if d > 0 else 1
        spread, ring = stain.blur.focus_um**2 + (stain.blur.growth[side] * d) ** 2, stain.blur.ring[side]
        amount = mass * stain.strength[int(group)] * min(1.0, (12.0 - abs(d)) / 3.0)
        for weight, width in ((1 + ring, 1.0), (-ring, 0.55**2)):
            variance = width * spread + own + size_y * size_x / 12
            out += weight * amount / (2 * np.pi * variance) * np.exp(-((y - piece_y) ** 2 + (x - piece_x) ** 2) / (2 * variance))
    return out


def stain_of_a_cable(body: Body | None = None) -> Stain:
    line = cable(24.0)
    moved = line.moved_to(line.position_zyx_um - line.position_zyx_um.mean(axis=0) + np.array([5.6, 13.7, 16.0]))
    radius = np.where(moved.label == Label.SOMA, 2.0, moved.radius_um)
    return replace(Stain.of(replace(moved, radius_um=radius), GRID, body), blur=Blur((0.9, 0.47), (0.35, 0.0)))


@pytest.mark.parametrize(("plane", "share"), [(2, 0.1), (7, 0.03), (10, 0.03), (14, 0.1)])
def test_a_plane_is_the_sum_of_all_pieces_above_and_below(plane: int, share: float) -> None:
    """Within a share of its maximum: farther than 2 um from focus, fewer and wider pieces stand for the stain."""
    stain = stain_of_a_cable()
    found, expected = stain.absorbance(plane), summed(stain, plane)
    assert expected.max() > 0.02
    assert np.abs(found - expected).max() < share * expected.max()
    parts = stain.absorbance(plane, side=1) + stain.absorbance(plane, side=-1)
    assert np.allclose(parts, found, atol=1e-5)


def test_absorbance_of_a_plane_is_conserved_near_focus() -> None:
    stain = stain_of_a_cable()
    area = GRID.voxel_size_zyx_um[1] * GRID.voxel_size_zyx_um[2]
    mass = float((stain.near[:, 3] * stain.strength[stain.near[:, 5].astype(int)]).sum())
    for plane in (9, 10, 11):
        assert float(stain.absorbance(plane).sum()) * area == pytest.approx(mass, rel=0.03)


def test_a_soma_is_stained_within_its_outline() -> None:
    ratio = np.where(np.arange(72) < 36, 1.2, 0.8)
    line = stain_of_a_cable()
    soma = int(np.flatnonzero(line.label == Label.SOMA)[0])
    sphere = line.near[line.near[:, 5] == soma]
    centre = sphere[:, :3].mean(axis=0)
    body = Body((float(centre[0]), float(centre[1]), float(centre[2])), 2.0, ratio)
    outlined = stain_of_a_cable(body).near
    pieces = outlined[outlined[:, 5] == soma]
    assert pieces[:, 3].sum() == pytest.approx(4 / 3 * np.pi * 8 * (ratio**2).mean())
    assert pieces[:, 1].max() - centre[1] > centre[1] - pieces[:, 1].min()


# ------------------------------------------------------------------------------------------------------------------------- the ridges


def misplaced(known: Bands, slope_z: NDArray[np.float32], soma: tuple[float, float, float], rules: RidgeRules) -> NDArray[np.float64]:
    """How much a prediction changes where its stain lies a little elsewhere, the soma's outline most."""
    size = GRID.voxel_size_zyx_um[2]
    padded = np.pad(known.fine.astype(np.float64), 1, mode="edge")
    spans = [np.where(np.isin(np.arange(n), (0, n - 1)), 1, 2) * size for n in known.fine.shape]
    slope_y = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / spans[0][:, None]
    slope_x = (padded[1:-1, 2:] - padded[1:-1, :-2]) / spans[1]
    y, x = np.indices(known.fine.shape)
    away = np.hypot(y - soma[0], x - soma[1]) * size / soma[2]
    beside_um = rules.beside_um + rules.soma * soma[2] * np.clip(2.5 - away, 0, 1)
    return beside_um * np.hypot(slope_y, slope_x) + rules.above_um * np.abs(slope_z)


def classes(here: Shown, predicted: Predicted, plane: int, grey: NDArray[np.uint8], rules: RidgeRules) -> NDArray[np.uint8]:
    """The rule of `ridges` in numpy, for a plane that is known everywhere."""
    known, model = predicted.bands(plane), predicted.model(plane)
    fine, coarse = (a.astype(np.float64) - b for a, b in zip(here.bands, known, strict=True))
    noise = noise_of(fine.astype(np.float32), model < 0.05)[np.ix_(np.arange(60) // 64, np.arange(70) // 64)]
    inside = np.zeros(fine.shape, bool)
    inside[5:-5, 5:-5] = True
    sd = np.hypot(noise, 0.18 / np.maximum(grey, 1)) * np.where(inside, 1.0, 1.6)
    over = fine - rules.explained * np.maximum(*(np.abs(band) for band in known)) - rules.beneath * model
    place = misplaced(known, predicted.slopes(plane).fine, SOMA, rules)
    found = np.where((over - place > rules.faint_sigmas * sd) & (1.3 * fine > coarse) & (fine > 0), 1, 0)
    narrow = (fine > coarse) & (fine > 0)
    found[narrow & (over - 0.12 * place > rules.sigmas * sd)] = 1
    found[narrow & (over - place > rules.sigmas * sd)] = 2
    found[narrow & (over - place > rules.sure_sigmas * sd)] = 3
    return found.astype(np.uint8)


SOMA = (40.0, 12.0, 3.0)


def test_ridges_are_where_the_rule_says() -> None:
    rng, rules, plane = np.random.default_rng(3), RidgeRules(), 10
    y, x = np.mgrid[:60, :70]
    line = 0.15 * np.exp(-0.5 * ((y - 0.4 * x - 20) / 1.2) ** 2)
    grey = np.round(190 * np.exp(-line) + rng.normal(size=line.shape) * 2).astype(np.uint8)
    shown, stain = Shown.of(grey, np.ones(grey.shape, bool), GRID.voxel_size_zyx_um[2]), stain_of_a_cable()
    predicted = Predicted(stain, lambda _: shown, range(plane - 1, plane + 2))
    found = ridges(predicted, shown, grey, plane, np.empty((0, 5), np.int32), SOMA, rules)
    painted = paint(found, ((plane, plane + 1), (0, 60), (0, 70)))[0]
    expected = classes(shown, predicted, plane, grey, rules)
    assert np.bincount(expected.ravel(), minlength=4)[1:].min() > 5
    assert np.count_nonzero(painted != expected) <= 3  # on the limit, float32 decides otherwise
    beside = np.array([[plane, 20, 0, 70, 1]], np.int32)
    assert not (ridges(predicted, shown, grey, plane, beside, SOMA, rules)[:, 1] == 20).any()


def test_objects_are_what_gaps_do_not_part() -> None:
    rng, shape = np.random.default_rng(4), (6, 20, 40)
    for reach in (np.array([1, 1, 1]), np.array([2, 3, 4])):
        voxels = np.unique(np.column_stack([rng.integers(0, n, 60) for n in shape]), axis=0)
        runs = np.column_stack([voxels, voxels[:, 2] + 1, np.full(len(voxels), 2)]).astype(np.int32)
        near = (np.abs(voxels[:, None] - voxels[None]) <= reach).all(axis=2)
        _, expected = connected_components(coo_matrix(near), directed=False)
        found = _linked(runs, _row_starts(runs, *shape[:2]), shape[1], reach, np.ones(len(runs), bool))
        assert np.array_equal(found[:, None] == found[None], expected[:, None] == expected[None])


def lines_of(*pieces: tuple[int, int, int, int]) -> NDArray[np.int32]:
    """Runs of one plane: y, x0, x1, class."""
    return np.array([[10, *piece] for piece in sorted(pieces)], np.int32)


def test_an_object_is_long_and_somewhere_beyond_doubt() -> None:
    rules = RidgeRules()
    long_um = round(6.0 / GRID.voxel_size_zyx_um[2])
    sure = lines_of((30, 20, 20 + long_um, 2), (30, 20 + long_um, 22 + long_um, 3))
    assert len(long_objects(sure, GRID, rules)) == 2
    assert not len(long_objects(lines_of((30, 20, 22 + long_um, 2)), GRID, rules))
    assert not len(long_objects(lines_of((30, 20, 26, 3)), GRID, rules))


def test_slender_pieces_reach_farther_than_specks() -> None:
    rules = RidgeRules()
    gap = round(2.3 / GRID.voxel_size_zyx_um[2])
    pieces = lines_of((30, 20, 28, 3), (30, 28 + gap, 36 + gap, 2))
    assert len(long_objects(pieces, GRID, rules)) == 2
    specks = lines_of(*((y, x, x + 3, 3) for y in (29, 30, 31) for x in (20, 23 + gap, 26 + 2 * gap)))
    assert not len(long_objects(specks, GRID, rules))
