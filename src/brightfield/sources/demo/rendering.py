"""Brightfield pictures of a `Phantom`: any crop of any plane at any level, without ever rendering more than the crop.

Stain absorbs (Beer-Lambert), each slab of it is seen through the blur of its distance from focus, the background is uneven, the tissue
has a texture, the camera makes noise. The stain is a list of small Gaussian pieces (position, mass, own width); a plane is the sum of the
pieces near it, each widened by defocus and by the pixel. So the cost follows the stain, a coarse level is computed as such, and a pixel
is the same sum in the same order whatever crop it is in: crops fit together exactly. Bits do not depend on the machine (see
`texture.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.core.errors import StackError
from brightfield.core.portable import exp
from brightfield.sources.demo.stain import Pieces, stain_of
from brightfield.sources.demo.texture import mix, normal, tissue, uniform

if TYPE_CHECKING:
    from brightfield.sources.demo.phantom import Phantom

_NEAR_UM = 3.0
"""Nearer to focus than this, stain is drawn at the level asked for; farther, it is so blurred that `_FAR_LEVEL` is enough."""
_FAR_UM = 12.0
_FAR_LEVEL = 3
_STITCH_PX, _STITCH_GAIN = 2048, 0.01
_CAMERA_SD = 0.85
_GREY = 189.0
_SUPPORT = 3.2
_SOFT_CAP = 2.0
_FLICKER = 1.08


def render_crop(phantom: Phantom, plane: int, top: int, left: int, height: int, width: int, level: int) -> NDArray[np.uint8]:
    """One rectangle of one plane, uint8 of shape (height >> level, width >> level); dark is stain.

    top, left, height, width: full-resolution pixels; top and left are taken down to a multiple of ``2**level``. Voxel (i, j) of the answer
    is the area average of full-resolution rows ``((top >> level) + i) << level`` and so on, to the accuracy of a Gaussian pixel.
    Raises StackError for a crop that is empty or leaves the stack, and for a level outside 0 to 6.
    """
    _check_crop(phantom, plane, top, left, height, width, level)
    while plane in phantom.faults.repeated and plane > 0:
        plane -= 1
    row, column, n_rows, n_columns = top >> level, left >> level, height >> level, width >> level
    if plane in phantom.faults.blank:
        return np.full((n_rows, n_columns), round(phantom.optics.background), np.uint8)
    seam = min(max((phantom.width_px >> level) // 2 - column, 0), n_columns) if phantom.faults.seam_px else n_columns
    left_part = _render(phantom, plane, row, column, (n_rows, seam), level)
    if seam == n_columns:
        return left_part
    displaced = row + (phantom.faults.seam_px >> level)
    return np.hstack([left_part, _render(phantom, plane, displaced, column + seam, (n_rows, n_columns - seam), level)])


def render_projection(phantom: Phantom, level: int) -> NDArray[np.uint8]:
    """The minimum along z of every second plane that has a picture, whole canvas, shape (height_px >> level, width_px >> level)."""
    without = phantom.faults.missing | phantom.faults.failed | phantom.faults.blank
    lowest = np.full((phantom.height_px >> level, phantom.width_px >> level), 255, np.uint8)
    for plane in range(0, phantom.n_planes, 2):
        if plane not in without:
            np.minimum(lowest, render_crop(phantom, plane, 0, 0, phantom.height_px, phantom.width_px, level), out=lowest)
    return lowest


def absorbance(phantom: Phantom, plane: int, row: int, column: int, shape_yx: tuple[int, int], level: int) -> NDArray[np.float64]:
    """The stain's blurred absorbance ``-ln(I / B)`` before saturation, noise and rounding; row and column are pixels of `level`."""
    near, far = _absorbance_parts(phantom, plane, row, column, shape_yx, level)
    return near.astype(np.float64) + _magnify(far, row, column, shape_yx, level)


# --------------------------------------------------------------------------------------------------------------------- composition


def _check_crop(phantom: Phantom, plane: int, top: int, left: int, height: int, width: int, level: int) -> None:
    if not 0 <= level <= 6:
        raise StackError(f"level {level} does not exist: a stack is served at levels 0 to 6")
    if not 0 <= plane < phantom.n_planes:
        raise StackError(f"plane {plane} does not exist: the stack has planes 0 to {phantom.n_planes - 1}")
    inside = min(top, left) >= 0 and top + height <= phantom.height_px and left + width <= phantom.width_px
    if not inside or height >> level < 1 or width >> level < 1:
        size = f"{phantom.height_px} rows and {phantom.width_px} columns"
        raise StackError(f"crop top={top} left={left} height={height} width={width} at level {level} does not fit a plane of {size}")


def _render(phantom: Phantom, plane: int, row: int, column: int, shape_yx: tuple[int, int], level: int) -> NDArray[np.uint8]:
    near, far = _absorbance_parts(phantom, plane, row, column, shape_yx, level)
    fine, coarse = tissue(level)
    optics, band = phantom.optics, phantom.band
    light = np.array(
        [
            optics.background * (_FLICKER if plane in phantom.faults.brighter else 1.0),
            *optics.tilt_yx,
            *optics.bow_yx,
            optics.texture / _GREY,
            optics.camera * _CAMERA_SD,
        ]
    )
    surface = (
        np.zeros(6) if band is None else np.array([band.offset_um, band.slope, band.bend_per_um, band.width_um, band.depth, band.glass])
    )
    size = (phantom.height_px, phantom.width_px, phantom.pixel_um)
    return _expose(near, far, fine, coarse, light, surface, size, np.uint64(phantom.seed), plane, row, column, level)


def _absorbance_parts(
    phantom: Phantom, plane: int, row: int, column: int, shape_yx: tuple[int, int], level: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    stain = stain_of(phantom, level)
    optics = phantom.optics
    blur = np.array([optics.focus_um, optics.steep, optics.shallow, float(optics.steep_side), optics.ring])
    z_um = plane * phantom.plane_um
    near = np.zeros(shape_yx, np.float32)
    _splat(near, stain.near, z_um, row, column, phantom.pixel_um, level, blur, 0.0, _NEAR_UM)
    far_level = max(level, _FAR_LEVEL)
    row_low, n_rows = _far_range(row, shape_yx[0], level)
    column_low, n_columns = _far_range(column, shape_yx[1], level)
    far = np.zeros((n_rows, n_columns), np.float32)
    _splat(far, stain.far, z_um, row_low, column_low, phantom.pixel_um, far_level, blur, _NEAR_UM, _FAR_UM)
    return near, far


def _far_range(first: int, n: int, level: int) -> tuple[int, int]:
    """First pixel and number of pixels of the far level between which `n` pixels of `level` from `first` on are interpolated."""
    low = _far_cell(first, level)
    return low, _far_cell(first + n, level) + 2 - low


@njit(cache=True, nogil=True)
def _far_coordinate(index: int, level: int) -> float:
    """Where the centre of a pixel of `level` lies on the far level's pixels (exact: powers of two)."""
    if level >= _FAR_LEVEL:
        return float(index)
    scale = 1.0 / (1 << (_FAR_LEVEL - level))
    return (index + 0.5) * scale - 0.5


@njit(cache=True, nogil=True)
def _far_cell(index: int, level: int) -> int:
    return int(np.floor(_far_coordinate(index, level)))


@njit(cache=True, nogil=True)
def _between(first: int, n: int, level: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For `n` pixels of `level` from `first` on: the far pixel before each, counted from the first one's, and the weight of the next."""
    cell, weight = np.empty(n, np.int64), np.empty(n, np.float64)
    for j in range(n):
        at = _far_coordinate(first + j, level)
        cell[j] = _far_cell(first + j, level) - _far_cell(first, level)
        weight[j] = at - np.floor(at)
    return cell, weight


@njit(cache=True, nogil=True)
def _far_line(far: NDArray[np.float32], cell: int, weight: float) -> NDArray[np.float64]:
    """The far field between two of its rows."""
    line = np.empty(far.shape[1], np.float64)
    for b in range(len(line)):
        line[b] = far[cell, b] + weight * (far[cell + 1, b] - far[cell, b])
    return line


@njit(cache=True, nogil=True)
def _magnify(far: NDArray[np.float32], row: int, column: int, shape_yx: tuple[int, int], level: int) -> NDArray[np.float64]:
    out = np.empty(shape_yx, np.float64)
    cell_y, weight_y = _between(row, shape_yx[0], level)
    cell_x, weight_x = _between(column, shape_yx[1], level)
    for i in range(shape_yx[0]):
        line = _far_line(far, cell_y[i], weight_y[i])
        for j in range(shape_yx[1]):
            out[i, j] = line[cell_x[j]] + weight_x[j] * (line[cell_x[j] + 1] - line[cell_x[j]])
    return out


# ---------------------------------------------------------------------------------------------------------------------- the optics


@njit(cache=True, nogil=True)
def _profile(out: NDArray[np.float32], centre: float, sigma: float) -> tuple[int, int]:
    """Gaussian weights on the pixels within 3.2 sigma of `centre` (pixels), of sum 1; returns first pixel and count."""
    first = int(np.ceil(centre - _SUPPORT * sigma))
    last = int(np.floor(centre + _SUPPORT * sigma))
    if last <= first:
        first = last = int(np.floor(centre + 0.5))
    inverse = 1.0 / (sigma * sigma)
    offset = first - centre
    value = exp(-0.5 * offset * offset * inverse)
    ratio = exp(-(offset + 0.5) * inverse)
    bend = exp(-inverse)
    n = last - first + 1
    total = 0.0
    for i in range(n):
        out[i] = value
        total += value
        value *= ratio
        ratio *= bend
    for i in range(n):
        out[i] /= total
    return first, n


@njit(cache=True, nogil=True)
def _add(
    field: NDArray[np.float32], y: float, x: float, sigma: float, amount: float, row: int, column: int,
    wy: NDArray[np.float32], wx: NDArray[np.float32],
) -> None:  # fmt: skip
    """Add a Gaussian of integral `amount` centred on (y, x) pixels; only what falls into the field."""
    reach = _SUPPORT * sigma + 1.0
    n_rows, n_columns = field.shape
    if y + reach < row or y - reach > row + n_rows or x + reach < column or x - reach > column + n_columns:
        return
    y0, n_y = _profile(wy, y, sigma)
    x0, n_x = _profile(wx, x, sigma)
    j_low, j_high = max(x0, column), min(x0 + n_x, column + n_columns)
    for i in range(max(y0, row), min(y0 + n_y, row + n_rows)):
        weight = np.float32(amount * wy[i - y0])
        target = field[i - row, j_low - column : j_high - column]
        source = wx[j_low - x0 : j_high - x0]
        for j in range(len(target)):
            target[j] += weight * source[j]


@njit(cache=True, nogil=True)
def _splat(
    field: NDArray[np.float32], pieces: Pieces, z_um: float, row: int, column: int, pixel_um: float, level: int,
    blur: NDArray[np.float64], d_min_um: float, d_max_um: float,
) -> None:  # fmt: skip
    """Add to `field` all pieces whose distance from focus lies in [d_min, d_max), in the order of the list."""
    focus, steep, shallow, steep_side, ring = blur
    scale = float(1 << level)
    size_um = pixel_um * scale
    wy, wx = np.empty(1024, np.float32), np.empty(1024, np.float32)
    depth = pieces[:, 0]
    for n in range(np.searchsorted(depth, z_um - d_max_um), np.searchsorted(depth, z_um + d_max_um)):
        d = pieces[n, 0] - z_um
        away = abs(d)
        if away < d_min_um or away >= d_max_um:
            continue
        is_steep = d * steep_side > 0
        growth = (steep if is_steep else shallow) * d
        spread = focus * focus + growth * growth
        own = pieces[n, 4] + size_um * size_um / 12.0
        y = ((pieces[n, 1] / pixel_um) + 0.5) / scale - 0.5
        x = ((pieces[n, 2] / pixel_um) + 0.5) / scale - 0.5
        amount = pieces[n, 3] / (size_um * size_um)
        if away > 0.75 * _FAR_UM:
            amount *= (_FAR_UM - away) / (0.25 * _FAR_UM)
        c = ring if is_steep else 0.0
        _add(field, y, x, np.sqrt(spread + own) / size_um, (1.0 + c) * amount, row, column, wy, wx)
        if c > 0.0:
            _add(field, y, x, np.sqrt(0.3025 * spread + own) / size_um, -c * amount, row, column, wy, wx)


@njit(cache=True, nogil=True)
def _surface_light(y_um: float, x_um: float, surface: NDArray[np.float64]) -> float:
    """Factor of the pial surface: a dark line with a bright rim below glass; 1 deep in the tissue."""
    offset, slope, bend, width, depth, glass = surface
    t = (y_um - (offset + slope * x_um + bend * x_um * x_um)) / width
    line = 1.0 / (1.0 + t * t)
    rim = 1.0 / (1.0 + 4.0 * (t - 1.6) * (t - 1.6))
    outside = 0.5 - 0.5 * t / np.sqrt(1.0 + t * t)
    factor: float = (1.0 - depth * line * line) * (1.0 + 0.25 * depth * rim * rim) * (1.0 + glass * outside)
    return factor


@njit(cache=True, nogil=True)
def _stitch_gain(seed: np.uint64, row_px: int, columns_px: NDArray[np.int64]) -> NDArray[np.float64]:
    """Gain of the camera tile that each full-resolution column of a row belongs to: 1 +- 1 %."""
    gain = np.empty(len(columns_px), np.float64)
    for j in range(len(columns_px)):
        gain[j] = 1.0 + _STITCH_GAIN * (2.0 * uniform(mix(seed, 71, row_px // _STITCH_PX, columns_px[j] // _STITCH_PX)) - 1.0)
    return gain


@njit(cache=True, nogil=True)
def _transmittance(a: float) -> float:
    """Beer-Lambert; beyond an absorbance of 2 stray light takes over, so that it saturates at 3."""
    if a > _SOFT_CAP:
        a = _SOFT_CAP + (a - _SOFT_CAP) / (1.0 + (a - _SOFT_CAP))
    return exp(-a)


@njit(cache=True, nogil=True)
def _expose(
    near: NDArray[np.float32], far: NDArray[np.float32], fine: NDArray[np.float32], coarse: NDArray[np.float32],
    light: NDArray[np.float64], surface: NDArray[np.float64], size: tuple[int, int, float], seed: np.uint64, plane: int, row: int,
    column: int, level: int,
) -> NDArray[np.uint8]:  # fmt: skip
    """What the camera sees: background, surface, stain, texture, noise, rounding."""
    background, tilt_y, tilt_x, bow_y, bow_x, texture, camera = light
    height, width, pixel_um = size
    shift = mix(seed, 31, 0, 0)
    dz = np.int64(shift & np.uint64(255))
    dy = np.int64((shift >> np.uint64(8)) & np.uint64(255))
    dx = np.int64((shift >> np.uint64(16)) & np.uint64(255))
    fine_z, coarse_z = fine[(plane + dz) % fine.shape[0]], coarse[(plane + dz) % coarse.shape[0]]
    n_rows, n_columns = near.shape
    out = np.empty((n_rows, n_columns), np.uint8)
    half = 0.5 * (1 << level) - 0.5
    columns = np.arange(column, column + n_columns)
    u = 2.0 * ((columns << level) + half) / width - 1.0
    along_x = 1.0 + tilt_x * u + bow_x * u * u
    fine_x, coarse_x = (columns + dx) % fine.shape[2], (columns + dx) % coarse.shape[2]
    cell_y, weight_y = _between(row, n_rows, level)
    cell_x, weight_x = _between(column, n_columns, level)
    averaged = camera / ((1 << level) * np.sqrt(_GREY))
    stitch_row = -1
    gain = along_x
    for i in range(n_rows):
        row_px = (row + i) << level
        v = 2.0 * (row_px + half) / height - 1.0
        if row_px // _STITCH_PX != stitch_row:
            stitch_row = row_px // _STITCH_PX
            gain = background * _stitch_gain(seed, row_px, columns << level)
        line = _far_line(far, cell_y[i], weight_y[i])
        fine_y, coarse_y = fine_z[(row + i + dy) % fine.shape[1]], coarse_z[(row + i + dy) % coarse.shape[1]]
        for j in range(n_columns):
            grey = gain[j] * (along_x[j] + tilt_y * v + bow_y * v * v)
            if surface[3] > 0.0:
                grey *= _surface_light((row_px + half) * pixel_um, ((columns[j] << level) + half) * pixel_um, surface)
            a = near[i, j] + line[cell_x[j]] + weight_x[j] * (line[cell_x[j] + 1] - line[cell_x[j]])
            if abs(a) > 1e-6:
                grey *= _transmittance(a)
            grey *= 1.0 + texture * (fine_y[fine_x[j]] + coarse_y[coarse_x[j]])
            grey += averaged * np.sqrt(grey) * normal(mix(seed, plane, row + i, columns[j]))
            out[i, j] = np.uint8(min(max(np.floor(grey + 0.5), 0.0), 255.0))
    return out
