"""From stored grey values to what a network is given: scaled, holes filled, brightness augmented."""

from __future__ import annotations

from functools import lru_cache
from math import ceil, exp
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.core.codes import Reason
from brightfield.core.errors import ConfigError

if TYPE_CHECKING:
    from brightfield.core.space import Grid
    from brightfield.learn.augment import Plan

type Scale = Literal["stain", "grey", "absorbance"]
type Image = NDArray[np.float32]

SCALES: tuple[Scale, ...] = ("stain", "grey", "absorbance")
"""What the image holds, float32: stain is 1 - grey; grey is 0 black to 1 white; absorbance is -ln(grey / local background)."""

HOLE_REASONS = int(Reason.NOT_DOWNLOADED | Reason.BAD_PLANE)
"""Voxels that have one of these and the grey value 0 have no pixel."""

_SAMPLE = (2, 4, 4)
"""The background is the median of every so many-th voxel: tissue is most of any patch."""


def check_scale(scale: str) -> None:
    """Raise ConfigError for what is none of `SCALES`."""
    if scale not in SCALES:
        raise ConfigError(f"scale is one of {', '.join(SCALES)}, found {scale!r}")


def background_of(grey: NDArray[Any], holes: NDArray[np.bool_] | None = None) -> float:
    """The local background: the median grey value outside of holes; white where there is nothing else."""
    some = tuple(slice(None, None, step) for step in _SAMPLE)
    values = grey[some] if holes is None else grey[some][~holes[some]]
    white = 1.0 if grey.dtype.kind == "f" else float(np.iinfo(grey.dtype).max)
    return float(np.median(values)) if values.size else white


def filled(grey: NDArray[Any], holes: NDArray[np.bool_]) -> NDArray[Any]:
    """The grey values, in place, with the local background where there is no pixel: 0 would be the darkest stain there is."""
    if holes.any():
        grey[holes] = round(background_of(grey, holes))
    return grey


def scaled(grey: NDArray[Any], gain: float, background: float) -> Image:
    """Integer grey values as float32 from 0 to 1, their absorbance against `background` (a grey value) multiplied by `gain`."""
    return _looked_up(grey, _table(grey.dtype.str, gain, background if gain != 1.0 else 0.0))


def stain(grey: NDArray[Any]) -> Image:
    """1 - grey / white, float32, of integer grey values."""
    return _looked_up(grey, _stain_table(grey.dtype.str))


def brightened(image: Image, plan: Plan, grid: Grid) -> Image:
    """What the plan does to brightness after the warp: defocus, a missing plane, tilt; in place where it can be."""
    if plan.defocus_um > 0:
        image = defocused(image, plan.defocus_um, grid)
    if plan.missing_plane is not None:
        image[plan.missing_plane] = background_of(image)
    if plan.tilt_yx != (0.0, 0.0):
        _tilt(image, plan.tilt_yx, grid)
    return image


def finished(image: Image, scale: Scale) -> Image:
    """Grey from 0 to 1 as what the sample holds."""
    if scale == "grey":
        return np.clip(image, 0, 1, out=image)
    if scale == "stain":
        return np.clip(np.subtract(1, image, out=image), 0, 1, out=image)
    background = max(background_of(image), 1e-3)
    absorbance: Image = -np.log(np.maximum(image, 1 / 256) / np.float32(background))
    return absorbance


def defocused(image: Image, sigma_um: float, grid: Grid) -> Image:
    """The image blurred in its planes by a Gaussian of `sigma_um`; borders are continued."""
    _, size_y, size_x = grid.voxel_size_zyx_um
    out = np.empty_like(image)
    _blur(image, _gaussian(sigma_um / size_y), _gaussian(sigma_um / size_x), out)
    return out


def _tilt(image: Image, tilt_yx: tuple[float, float], grid: Grid) -> None:
    """Multiply by a ramp of exp(tilt) over 100 um, 1 at the centre."""
    for axis, tilt in zip((1, 2), tilt_yx, strict=True):
        n = image.shape[axis]
        along_um = (np.arange(n) - (n - 1) / 2) * grid.voxel_size_zyx_um[axis]
        image *= np.expand_dims(np.exp(tilt * along_um / 100.0), tuple(k for k in range(3) if k != axis)).astype(np.float32)


def _gaussian(sigma_px: float) -> NDArray[np.float32]:
    reach = max(1, ceil(3 * sigma_px))
    weights = [exp(-0.5 * (k / sigma_px) ** 2) for k in range(-reach, reach + 1)]
    return (np.array(weights) / sum(weights)).astype(np.float32)


def _looked_up(grey: NDArray[Any], table: Image) -> Image:
    """``table[grey]``, in a third of the time."""
    out = np.empty(grey.shape, np.float32)
    _look_up(grey.reshape(-1), table, out.reshape(-1))
    return out


@lru_cache(maxsize=8)
def _table(dtype: str, gain: float, background: float) -> Image:
    white = np.iinfo(dtype).max
    grey = np.arange(white + 1, dtype=np.float64)
    if gain != 1.0:
        grey = background * (np.maximum(grey, 0.5) / max(background, 1.0)) ** gain
    return (grey / white).astype(np.float32)


@lru_cache(maxsize=4)
def _stain_table(dtype: str) -> Image:
    return np.float32(1) - _table(dtype, 1.0, 0.0)


@njit(cache=True, nogil=True)
def _look_up(grey: Any, table: Any, out: Any) -> None:
    for i in range(len(grey)):
        out[i] = table[grey[i]]


@njit(cache=True, nogil=True)
def _blur(image: Any, kernel_y: Any, kernel_x: Any, out: Any) -> None:
    nz, ny, nx = image.shape
    reach_y, reach_x = len(kernel_y) // 2, len(kernel_x) // 2
    rows = np.empty((ny, nx), np.float32)
    padded = np.empty(nx + 2 * reach_x, np.float32)
    for z in range(nz):
        for y in range(ny):
            padded[:reach_x], padded[reach_x + nx :] = image[z, y, 0], image[z, y, nx - 1]
            padded[reach_x : reach_x + nx] = image[z, y]
            rows[y] = 0
            for k in range(len(kernel_x)):
                for x in range(nx):
                    rows[y, x] += kernel_x[k] * padded[k + x]
        for y in range(ny):
            out[z, y] = 0
            for k in range(len(kernel_y)):
                source = rows[min(max(y + k - reach_y, 0), ny - 1)]
                for x in range(nx):
                    out[z, y, x] += kernel_y[k] * source[x]
