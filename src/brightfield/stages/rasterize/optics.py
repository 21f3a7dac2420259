"""The stain that a traced skeleton predicts: the absorbance of its tubes, seen through a defocus that differs above and below focus.

Absorbance adds up along the light's path (Beer-Lambert): a plane shows the sum of all stain near it, each slab widened by its distance
from focus. The stain is a list of small Gaussian pieces, so the cost follows the length of the skeleton and not the number of voxels.
Sums are taken piece after piece in one order, so a plane is the same whatever else is computed beside it.
"""

# mypy: disable-error-code="no-any-return"
# (numbers taken out of arrays, which is all that kernels do, have type Any)

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, pi
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.core.codes import Label
from brightfield.core.errors import CapacityError
from brightfield.core.portable import exp
from brightfield.core.skeleton import norm
from brightfield.raster.cones import cones_of
from brightfield.stages.rasterize.bands import Boxes, Plane
from brightfield.stages.rasterize.somata import N_ANGLES, Body

if TYPE_CHECKING:
    from brightfield.core.skeleton import Skeleton
    from brightfield.core.space import Grid

type Pieces = NDArray[np.float64]
"""(n, 6): z, y, x um, mass um2 per unit of strength, variance of the cross-section um2, number of the group; ordered by z."""

GROUP_UM = 12.0
"""Length of neurite that is taken to be stained evenly."""
_NEAR_UM, _FAR_UM = 2.0, 12.0
_COARSE = 2
_COARSE_SPACING_UM = 1.5
_LAYER_UM = 0.5
_SOMA_LATTICE_UM = 0.9
"""Near and far: layers of another lattice would count twice, or not at all, where near ends."""
_THICK_UM, _STEPS_OF_RADIUS = 25.0, 12
"""What has a larger radius, as no neuron has, is cut into pieces of that share of its radius."""
_MOST_PIECES = 1 << 24
_SUPPORT = 3.2
_RING_WIDTH = 0.55
_SOFT_CAP = 2.0
_STRENGTH = {Label.SOMA: 1.5, Label.AXON: 0.75}
_STRENGTH_OF_DENDRITES = 2.0


@dataclass(frozen=True, slots=True)
class Blur:
    """Defocus: standard deviation sqrt(focus_um**2 + (growth d)**2) at d um from focus, apart for stain above (larger z) and below.

    ring: weight c of the kernel ``(1 + c) G(sigma) - c G(0.55 sigma)``, which darkens a ring around what is out of focus.
    """

    growth: tuple[float, float] = (0.65, 0.65)
    ring: tuple[float, float] = (0.0, 0.0)
    focus_um: float = 0.10


@dataclass(frozen=True, slots=True)
class Stain:
    """What is predicted of one cell on the planes of `grid`.

    near, far: the pieces used within 2 um of focus, and farther, where fewer do. strength: (n_groups,) absorption per um of each group.
    group: (n_nodes,) the group of each node's edge. label: (n_groups,) class of each group.
    """

    grid: Grid
    near: Pieces
    far: Pieces
    group: NDArray[np.int64]
    label: NDArray[np.int64]
    strength: NDArray[np.float64]
    blur: Blur = Blur()

    @classmethod
    def of(cls, skeleton: Skeleton, grid: Grid, body: Body | None = None) -> Stain:
        """Every class with the strength that is usual for it, and an average blur. body: the soma's outline; None: its sphere."""
        group, label = _groups(skeleton)
        strength = np.array([_STRENGTH.get(Label(value), _STRENGTH_OF_DENDRITES) for value in label.tolist()], np.float64)
        near, far = _near_and_far(skeleton, group, grid, body)
        return cls(grid, near, far, group, label, strength)

    @property
    def pixel_um(self) -> float:
        """Width of a pixel."""
        return self.grid.voxel_size_zyx_um[2]

    def scaled(self, factor: NDArray[np.float64]) -> Stain:
        """Every group's strength times its factor, kept within what stain can be."""
        return replace(self, strength=np.clip(self.strength * factor, 0.02, 8.0))

    def along(self, skeleton: Skeleton, body: Body | None) -> Stain:
        """The same strengths and blur of the same groups where the nodes, or the outline of the soma, lie elsewhere."""
        near, far = _near_and_far(skeleton, self.group, self.grid, body)
        return replace(self, near=near, far=far)

    def absorbance(self, plane: int, boxes: Boxes | None = None, *, side: int = 0, kernel: float = 1.0) -> Plane:
        """The absorbance of a plane, (ny, nx) float32, before saturation; right within the boxes (None: everywhere).

        side: +1 only what stain above the plane adds, -1 the rest, 0 all. kernel: other than 1, a plain Gaussian so many times as wide.
        """
        n_y, n_x = self.grid.shape_zyx[1:]
        fine, coarse = np.zeros((n_y, n_x), np.float32), np.zeros((n_y // _COARSE + 2, n_x // _COARSE + 2), np.float32)
        blur = np.array([*self.blur.growth, *self.blur.ring, self.blur.focus_um, kernel])
        z_um = self.grid.origin_zyx_um[0] + plane * self.grid.voxel_size_zyx_um[0]
        numbers = np.array([*self.grid.origin_zyx_um, *self.grid.voxel_size_zyx_um])
        _splat(fine, self.near, self.strength, z_um, numbers, 1, blur, side, 0.0, _NEAR_UM)
        _splat(coarse, self.far, self.strength, z_um, numbers, _COARSE, blur, side, _NEAR_UM, _FAR_UM)
        _add_magnified(coarse, _COARSE, np.array([[0, n_y, 0, n_x]]) if boxes is None else boxes, fine)
        return fine


def saturated(absorbance: Plane) -> Plane:
    """Absorbance as the camera sees it: beyond 2 stray light takes over, so that it ends at 3."""
    out = absorbance.copy()
    _saturate(out.ravel())
    return out


def _groups(skeleton: Skeleton) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The group of every node's edge, (n,), and the class of every group: pieces of neurite of about `GROUP_UM`; the soma is one."""
    of_stretch = skeleton.stretches(GROUP_UM)
    label = skeleton.label.astype(np.int64)
    key = np.where(of_stretch >= 0, of_stretch, -1 - label)
    values, group = np.unique(key, return_inverse=True)
    label_of = np.zeros(len(values), np.int64)
    label_of[group] = label
    return group.astype(np.int64), label_of


def _near_and_far(skeleton: Skeleton, group: NDArray[np.int64], grid: Grid, body: Body | None) -> tuple[Pieces, Pieces]:
    near, far = (_pieces(skeleton, group, um, body) for um in (0.6 * grid.voxel_size_zyx_um[2], _COARSE_SPACING_UM))
    return near, far


def _pieces(skeleton: Skeleton, group: NDArray[np.int64], spacing_um: float, body: Body | None) -> Pieces:
    cones = cones_of(skeleton, 0.0, "capsule").geometry
    roots = np.flatnonzero((skeleton.parent < 0) & (skeleton.label == Label.SOMA))
    _refuse_too_many(cones, skeleton.radius_um[roots], spacing_um, _SOMA_LATTICE_UM)
    bodies = [body if body is not None and root == skeleton.soma else _sphere(skeleton, root) for root in roots.tolist()]
    balls = [_ball(outline, int(group[root]), _SOMA_LATTICE_UM) for root, outline in zip(roots, bodies, strict=True)]
    pieces = np.concatenate([_cut(cones, group, spacing_um), *balls])
    return pieces[np.argsort(pieces[:, 0], kind="stable")]


def _refuse_too_many(cones: NDArray[np.float64], ball_um: NDArray[np.float64], spacing_um: float, balls_um: float) -> None:
    """Raise CapacityError for tubes and balls of more pieces than memory is meant for, before any is made."""
    length_um, radius_um = norm(cones[:, 4:7] - cones[:, :3]), np.maximum(cones[:, 3], cones[:, 7])
    tubes = np.ceil(length_um / spacing_um) * np.ceil(2 * np.minimum(radius_um, _THICK_UM) / _LAYER_UM)
    balls = (2 * np.ceil(np.minimum(ball_um, _THICK_UM) / balls_um) + 1) ** 3
    n_pieces = float(tubes.sum() + balls.sum())
    if n_pieces > _MOST_PIECES:
        raise CapacityError(
            f"the stain of {length_um.sum():.0f} um of path as thick as this takes {n_pieces:.3g} pieces, {_MOST_PIECES} are the most; "
            "correct the radii of the SWC, choose a larger image.level, or set labels.evidence=false"
        )


def _sphere(skeleton: Skeleton, node: int) -> Body:
    z, y, x = skeleton.position_zyx_um[node].tolist()
    return Body((z, y, x), float(skeleton.radius_um[node]), np.ones(N_ANGLES))


def _ball(body: Body, group: int, spacing_um: float) -> Pieces:
    """A filled body as a lattice of pieces."""
    spacing_um = max(spacing_um, _coarse(body.radius_um))
    n_steps = ceil(max(1.0, float(body.ratio.max())) * body.radius_um / spacing_um)
    steps = np.arange(-n_steps, n_steps + 1) * spacing_um
    offset = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    offset = offset[body.holds((offset[:, 0], offset[:, 1], offset[:, 2]))]
    n = len(offset)
    mass = body.volume_um3 / max(n, 1)
    return np.column_stack(
        [np.array(body.centre_zyx_um) + offset, np.full(n, mass), np.full(n, (0.5 * spacing_um) ** 2), np.full(n, float(group))]
    )


# ---------------------------------------------------------------------------------------------------------------------------- kernels


@njit(cache=True, nogil=True)
def _coarse(radius_um: float) -> float:
    """The least spacing of what is too thick to be cut finely; 0 for neurons."""
    return radius_um / _STEPS_OF_RADIUS if radius_um > _THICK_UM else 0.0


@njit(cache=True, nogil=True)
def _cut(cones: Any, group: Any, spacing_um: float) -> Any:
    """Edges as pieces no farther apart than the spacing; thick ones in layers along z, each as wide as its chord."""
    out = np.empty((1024, 6), np.float64)
    filled = 0
    for e in range(len(cones)):
        z, y, x = cones[e, 4] - cones[e, 0], cones[e, 5] - cones[e, 1], cones[e, 6] - cones[e, 2]
        length = np.sqrt(z * z + y * y + x * x)
        coarse = _coarse(max(cones[e, 3], cones[e, 7]))
        count = int(np.ceil(length / max(spacing_um, coarse)))
        for k in range(count):
            t = (k + 0.5) / count
            radius = cones[e, 3] + t * (cones[e, 7] - cones[e, 3])
            layers = 1 if radius < 0.3 else int(np.ceil(2.0 * radius / max(_LAYER_UM, coarse)))
            if filled + layers > len(out):
                out = np.concatenate((out, np.empty_like(out)))
            total = 0.0
            for m in range(layers):
                height = (2.0 * m + 1.0) / layers - 1.0
                total += np.sqrt(1.0 - height * height)
            for m in range(layers):
                height = (2.0 * m + 1.0) / layers - 1.0
                chord = np.sqrt(1.0 - height * height)
                out[filled, 0] = cones[e, 0] + t * z + (radius * height if layers > 1 else 0.0)
                out[filled, 1], out[filled, 2] = cones[e, 1] + t * y, cones[e, 2] + t * x
                out[filled, 3] = pi * radius * radius * length / count * chord / total
                out[filled, 4] = radius * radius * (chord * chord / 3.0 if layers > 1 else 0.25)
                out[filled, 5] = group[e]
                filled += 1
    return out[:filled].copy()


@njit(cache=True, nogil=True)
def _splat(
    field: Any, pieces: Any, strength: Any, z_um: float, numbers: Any, binning: int, blur: Any, side: int, d_min: float, d_max: float
) -> None:
    """Add to `field`, whose pixels are `binning` of the grid's wide, what the pieces at d_min to d_max um from focus add."""
    size_y, size_x = numbers[4] * binning, numbers[5] * binning
    first_y, first_x = numbers[1] + 0.5 * (binning - 1) * numbers[4], numbers[2] + 0.5 * (binning - 1) * numbers[5]
    wy, wx = np.empty(field.shape[0], np.float32), np.empty(field.shape[1], np.float32)
    for n in range(np.searchsorted(pieces[:, 0], z_um - d_max), np.searchsorted(pieces[:, 0], z_um + d_max)):
        d = pieces[n, 0] - z_um
        if abs(d) < d_min or abs(d) >= d_max or (side > 0 and d <= 0.0) or (side < 0 and d > 0.0):
            continue
        above = 0 if d > 0 else 1
        spread = blur[4] * blur[4] + (blur[above] * d) ** 2
        amount = pieces[n, 3] * strength[int(pieces[n, 5])] / (size_y * size_x)
        if abs(d) > 0.75 * _FAR_UM:
            amount *= (_FAR_UM - abs(d)) / (0.25 * _FAR_UM)
        own = pieces[n, 4] + size_y * size_x / 12.0
        y, x = (pieces[n, 1] - first_y) / size_y, (pieces[n, 2] - first_x) / size_x
        ring = blur[2 + above]
        if blur[5] == 1.0:
            _add(field, y, x, np.sqrt(spread + own) / size_y, (1.0 + ring) * amount, wy, wx)
            if ring > 0.0:
                _add(field, y, x, np.sqrt(_RING_WIDTH * _RING_WIDTH * spread + own) / size_y, -ring * amount, wy, wx)
        else:
            _add(field, y, x, np.sqrt(blur[5] * blur[5] * spread + own) / size_y, amount, wy, wx)


@njit(cache=True, nogil=True)
def _add(field: Any, y: float, x: float, sigma: float, amount: float, wy: Any, wx: Any) -> None:
    """Add a Gaussian of integral `amount`, what of it falls into the field."""
    y0, y1 = _profile(wy, y, sigma)
    x0, x1 = _profile(wx, x, sigma)
    for i in range(y0, y1):
        weight = np.float32(amount * wy[i])
        row = field[i, x0:x1]
        source = wx[x0:x1]
        for j in range(len(row)):
            row[j] += weight * source[j]


@njit(cache=True, nogil=True)
def _profile(out: Any, centre: float, sigma: float) -> tuple[int, int]:
    """Gaussian weights of integral 1 on the pixels of `out` within reach of `centre`; the first of them and the end."""
    first = max(int(np.ceil(centre - _SUPPORT * sigma)), 0)
    end = min(int(np.floor(centre + _SUPPORT * sigma)) + 1, len(out))
    if first >= end:
        return 0, 0
    inverse = 1.0 / (sigma * sigma)
    offset = first - centre
    value = exp(-0.5 * offset * offset * inverse) / (sigma * 2.5066282746310002)
    ratio = exp(max(-(offset + 0.5) * inverse, -12.0)) if -(offset + 0.5) * inverse < 8.0 else 0.0
    if ratio == 0.0:
        for i in range(first, end):
            out[i] = exp(-0.5 * (i - centre) * (i - centre) * inverse) / (sigma * 2.5066282746310002)
        return first, end
    bend = exp(max(-inverse, -12.0))
    for i in range(first, end):
        out[i] = value
        value *= ratio
        ratio *= bend
    return first, end


@njit(cache=True, nogil=True)
def _add_magnified(coarse: Any, factor: int, boxes: Any, fine: Any) -> None:
    """Add the coarse field, interpolated between the centres of its pixels, within the boxes."""
    line = np.empty(coarse.shape[1], np.float32)
    for box in range(len(boxes)):
        first, last = boxes[box, 2] // factor - 1, boxes[box, 3] // factor + 2
        for i in range(boxes[box, 0], boxes[box, 1]):
            at = (i + 0.5) / factor - 0.5
            cell = max(int(np.floor(at)), 0)
            weight = np.float32(max(at - cell, 0.0))
            for b in range(max(first, 0), min(last, len(line))):
                line[b] = coarse[cell, b] + weight * (coarse[cell + 1, b] - coarse[cell, b])
            for j in range(boxes[box, 2], boxes[box, 3]):
                along = (j + 0.5) / factor - 0.5
                c = max(int(np.floor(along)), 0)
                fine[i, j] += line[c] + np.float32(max(along - c, 0.0)) * (line[c + 1] - line[c])


@njit(cache=True, nogil=True)
def _saturate(values: Any) -> None:
    for i in range(len(values)):
        if values[i] > _SOFT_CAP:
            values[i] = _SOFT_CAP + (values[i] - _SOFT_CAP) / (1.0 + (values[i] - _SOFT_CAP))
