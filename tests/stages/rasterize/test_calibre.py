"""A radius is corrected where the width of the stain tells it, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray

from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid, download_grid
from brightfield.raster.cones import cones_of
from brightfield.sources.demo.phantom import Optics, Phantom, canvas
from brightfield.sources.demo.rendering import render_crop
from brightfield.stages.rasterize.calibre import radius_factors
from brightfield.stages.rasterize.joints import Joints
from brightfield.stages.rasterize.predicted import Shown


def line(radius_um: float) -> Skeleton:
    """40 um of dendrite along x."""
    n = 21
    position = np.column_stack([np.full(n, 6.0), np.full(n, 10.0), 4.0 + 2.0 * np.arange(n)])
    return Skeleton(np.arange(n), [3] * n, position, [radius_um] * n, np.arange(n) - 1)


@lru_cache
def stained_line(radius_um: float) -> list[Shown]:
    """`line` rendered with a radius, in pixels of 0.23 um."""
    cell = Phantom(line(radius_um), *canvas(line(radius_um)), 1, optics=Optics.drawn(1))
    n_z, n_y, n_x = download_grid(cell.grid, 1, 1).shape_zyx
    planes = [render_crop(cell, z, 0, 0, n_y << 1, n_x << 1, 1) for z in range(n_z)]
    return [Shown.of(plane, np.ones(plane.shape, bool), 2 * cell.pixel_um) for plane in planes]


def factors(traced_um: float, planes: list[Shown], usable: range | None = None) -> NDArray[np.float64]:
    """What the radius of a line is multiplied by, that was traced with one radius and stained with another."""
    joints = Joints.of(line(traced_um), cones_of(line(traced_um)))
    group = np.where(joints.up >= 0, joints.node // 7, -1)
    grid = Grid((len(planes), *planes[0].known.shape), (0.28, 0.2288, 0.2288), (0.0, 0.0572, 0.0572))
    still = np.zeros((len(joints), 3))
    return radius_factors(joints, still, group, grid, planes.__getitem__, usable or range(len(planes)))[joints.up >= 0]


@pytest.mark.parametrize(("stained_um", "traced_um"), [(1.3, 0.8), (0.5, 0.8), (0.8, 1.25)])
def test_a_radius_that_is_far_off_comes_near_to_that_of_the_stain(stained_um: float, traced_um: float) -> None:
    found = traced_um * factors(traced_um, stained_line(stained_um))
    assert np.all(np.abs(np.log(found / stained_um)) < 0.4 * abs(np.log(traced_um / stained_um)))


@pytest.mark.parametrize(("stained_um", "traced_um"), [(0.9, 0.9), (0.8, 0.65), (0.12, 0.23), (0.25, 0.5)])
def test_a_radius_that_is_about_right_or_too_thin_to_be_seen_stays(stained_um: float, traced_um: float) -> None:
    assert np.all(factors(traced_um, stained_line(stained_um)) == 1)


def test_a_radius_whose_plane_or_pixels_are_missing_stays() -> None:
    planes = stained_line(0.9)
    assert np.all(factors(0.5, planes, range(12)) == 1)
    unknown = [replace(plane, known=np.zeros_like(plane.known)) for plane in planes]
    assert np.all(factors(0.5, unknown) == 1)
