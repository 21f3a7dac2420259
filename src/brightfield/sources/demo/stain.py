"""The stain of a phantom, cut into pieces that the microscope blurs: tubes, somata, debris."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, pi
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.core.codes import Label
from brightfield.core.portable import exp
from brightfield.sources.demo.texture import mix, normal, uniform

if TYPE_CHECKING:
    from brightfield.core.skeleton import Skeleton
    from brightfield.sources.demo.phantom import Phantom


type Pieces = NDArray[np.float64]
"""(n, 5): z, y, x um, mass um2 (absorption coefficient times volume), variance of the cross-section um2; ordered by z."""

_FAR_SPACING_UM = 2.0
_LAYER_UM = 0.4
_SOMA_LATTICE_UM = 0.45
_BOUTON_SHARE, _BOUTON_FACTOR, _BOUTON_UM = 0.14, 1.9, 0.5
_AXON_MU, _DENDRITE_MU, _SOMA_MU = 0.75, (1.0, 3.0), (1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Stain:
    """The pieces of a phantom: those near to focus at the level asked for, and coarser ones for what is far."""

    near: Pieces
    far: Pieces


_lock = Lock()


def stain_of(phantom: Phantom, level: int) -> Stain:
    """The pieces of a phantom, made once per level group: a finer pixel needs them closer together."""
    with _lock:
        return _prepare(phantom, min(level, 3))


@lru_cache(maxsize=64)
def _prepare(phantom: Phantom, level: int) -> Stain:
    size_um = phantom.pixel_um * 2**level
    in_focus = np.sqrt(phantom.optics.focus_um**2 + 0.1144**2 / 4 + size_um**2 / 12)
    stained = [(phantom.skeleton, 1.0), *phantom.others]
    near = [_debris(phantom)]
    far = []
    for number, (skeleton, strength) in enumerate(stained):
        seed = np.uint64(1000 * phantom.seed + number)
        near += [_tubes(skeleton, strength, 1.4 * in_focus, seed), _soma(skeleton, strength, _SOMA_LATTICE_UM, seed)]
        far += [_tubes(skeleton, strength, _FAR_SPACING_UM, seed), _soma(skeleton, strength, 4 * _SOMA_LATTICE_UM, seed)]
    return Stain(_by_depth(near), _by_depth(far))


def _by_depth(parts: list[Pieces]) -> Pieces:
    pieces = np.concatenate(parts)
    return pieces[np.argsort(pieces[:, 0], kind="stable")]


def _tubes(skeleton: Skeleton, strength: float, spacing_um: float, seed: np.uint64) -> Pieces:
    """Every edge as pieces; an edge from the soma has the child's radius, as the labels have it."""
    child = skeleton.edges[:, 1]
    parent = skeleton.edges[:, 0]
    radius = skeleton.radius_um
    start = np.where(skeleton.type[parent] == Label.SOMA, radius[child], radius[parent])
    ends = np.column_stack([skeleton.position_zyx_um[parent], start, skeleton.position_zyx_um[child], radius[child]])
    alone = np.flatnonzero((skeleton.parent < 0) & (skeleton.n_children == 0) & (skeleton.type != Label.SOMA))
    dots = np.column_stack([skeleton.position_zyx_um[alone], radius[alone]])
    lines = np.concatenate([ends, np.column_stack([dots, dots + np.array([0.0, 0.0, 2 * PIECE_DOT_UM, 0.0])])])
    kind = np.concatenate([skeleton.type[child], skeleton.type[alone]])
    pieces = _cut_tubes(lines, kind, np.concatenate([child, alone]), spacing_um, seed)
    pieces[:, 3] *= strength
    return pieces


PIECE_DOT_UM = 0.1
"""Half the length that a tree of a single node is drawn with."""


@njit(cache=True, nogil=True)
def _layers(radius_um: float) -> int:
    return 1 if radius_um < 0.25 else int(np.ceil(2.0 * radius_um / _LAYER_UM))


@njit(cache=True, nogil=True)
def _stain_of_edge(kind: int, number: int, seed: np.uint64) -> float:
    """Absorption coefficient per um of a piece of neurite; it changes along a neurite, as filling does."""
    if kind == Label.AXON:
        return _AXON_MU * exp(0.4 * normal(mix(seed, 11, number // 12, 0)))
    low, high = _DENDRITE_MU
    return low + (high - low) * uniform(mix(seed, 12, number // 40, 0))


@njit(cache=True, nogil=True)
def _cut_tubes(
    lines: NDArray[np.float64], kind: NDArray[np.int64], number: NDArray[np.int64], spacing_um: float, seed: np.uint64
) -> Pieces:
    """Cut lines (n, 8: z, y, x, r of both ends) into slices no longer than the spacing, and thick slices into smaller pieces."""
    out = np.empty((1024, 5), np.float64)
    filled = 0
    for e in range(len(lines)):
        step = lines[e, 4:7] - lines[e, :3]
        length = np.sqrt(step[0] * step[0] + step[1] * step[1] + step[2] * step[2])
        flat = max(np.sqrt(step[1] * step[1] + step[2] * step[2]), 1e-9)
        mu = _stain_of_edge(kind[e], number[e], seed)
        count = max(1, int(np.ceil(length / spacing_um)))
        for k in range(count):
            t = (k + 0.5) / count
            radius = lines[e, 3] + t * (lines[e, 7] - lines[e, 3])
            is_bouton = uniform(mix(seed, 13, number[e], int(t * length / _BOUTON_UM))) < _BOUTON_SHARE
            if kind[e] == Label.AXON and is_bouton:
                radius *= _BOUTON_FACTOR
            while filled + (_layers(radius) + 1) ** 2 > len(out):
                out = np.concatenate((out, np.empty_like(out)))
            mass = mu * pi * radius * radius * length / count
            filled = _slice(out, filled, lines[e, :3] + t * step, radius, mass, -step[2] / flat, step[1] / flat)
    return out[:filled].copy()


@njit(cache=True, nogil=True)
def _slice(out: Pieces, filled: int, centre: NDArray[np.float64], radius: float, mass: float, side_y: float, side_x: float) -> int:
    """One slice of a tube: a single piece where it is thin, else layers along z, each of pieces along its chord; returns the new count."""
    layers = _layers(radius)
    if layers == 1:
        out[filled, :3] = centre
        out[filled, 3] = mass
        out[filled, 4] = 0.25 * radius * radius
        return filled + 1
    total = 0.0
    for m in range(layers):
        height = (2.0 * m + 1.0) / layers - 1.0
        total += np.sqrt(1.0 - height * height)
    for m in range(layers):
        height = (2.0 * m + 1.0) / layers - 1.0
        chord = np.sqrt(1.0 - height * height)
        across = int(np.ceil(layers * chord))
        for q in range(across):
            offset = radius * chord * ((2.0 * q + 1.0) / across - 1.0)
            out[filled, 0] = centre[0] + radius * height
            out[filled, 1] = centre[1] + offset * side_y
            out[filled, 2] = centre[2] + offset * side_x
            out[filled, 3] = mass * chord / (total * across)
            out[filled, 4] = (0.9 * radius * chord / across) ** 2
            filled += 1
    return filled


def _soma(skeleton: Skeleton, strength: float, spacing_um: float, seed: np.uint64) -> Pieces:
    """The soma as a slightly lobed ball, filled with a lattice of pieces."""
    if skeleton.soma is None:
        return np.empty((0, 5))
    centre, radius = skeleton.position_zyx_um[skeleton.soma], float(skeleton.radius_um[skeleton.soma])
    mu, lobes = soma_shape(seed)
    steps = np.arange(-ceil(1.3 * radius / spacing_um), ceil(1.3 * radius / spacing_um) + 1) * spacing_um
    offsets = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    inside = offsets[within_lobes(offsets, radius, lobes)]
    pieces = np.empty((len(inside), 5))
    pieces[:, :3] = centre + inside
    pieces[:, 3] = strength * mu * spacing_um**3
    pieces[:, 4] = (0.6 * spacing_um) ** 2
    return pieces


@njit(cache=True, nogil=True)
def soma_shape(seed: np.uint64) -> tuple[float, NDArray[np.float64]]:
    """Absorption coefficient per um, and three lobes: a direction (z, y, x) and a height each."""
    low, high = _SOMA_MU
    lobes = np.empty((3, 4), np.float64)
    for lobe in range(3):
        for axis in range(4):
            lobes[lobe, axis] = normal(mix(seed, 22, lobe, axis))
    return low + (high - low) * uniform(mix(seed, 21, 0, 0)), lobes


@njit(cache=True, nogil=True)
def within_lobes(offsets: NDArray[np.float64], radius_um: float, lobes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether points lie in ``|p| < radius (1 + sum of cubes and squares of direction cosines)``."""
    inside = np.zeros(len(offsets), np.bool_)
    for n in range(len(offsets)):
        z, y, x = offsets[n]
        distance = np.sqrt(z * z + y * y + x * x)
        if distance == 0.0:
            inside[n] = True
            continue
        limit = 1.0
        for m in range(len(lobes)):
            cosine = (lobes[m, 0] * z + lobes[m, 1] * y + lobes[m, 2] * x) / distance
            limit += 0.03 * lobes[m, 3] * cosine * cosine * cosine
        inside[n] = distance < radius_um * min(max(limit, 0.85), 1.15)
    return inside


def _debris(phantom: Phantom) -> Pieces:
    """Dark specks of 0.3 to 3 um, small ones by far the most, anywhere in the tissue."""
    extent = np.array([phantom.n_planes * phantom.plane_um, phantom.height_px * phantom.pixel_um, phantom.width_px * phantom.pixel_um])
    count = round(phantom.debris_per_mm3 * extent[0] * extent[1] * extent[2] * 1e-9)
    return _scatter(count, extent, np.uint64(phantom.seed))


@njit(cache=True, nogil=True)
def _scatter(count: int, extent: NDArray[np.float64], seed: np.uint64) -> Pieces:
    out = np.empty((max(16 * count, 1), 5), np.float64)
    filled = 0
    for n in range(count):
        share = uniform(mix(seed, 51, n, 3))
        radius = 0.15 + 1.35 * share * share * share * share
        mu = 0.5 + 1.5 * uniform(mix(seed, 51, n, 4))
        layers = _layers(radius)
        for m in range(layers):
            height = (2.0 * m + 1.0) / layers - 1.0
            disc = radius * radius * (1.0 - height * height)
            for axis in range(3):
                out[filled, axis] = extent[axis] * uniform(mix(seed, 51, n, axis))
            out[filled, 0] += radius * height
            out[filled, 3] = mu * pi * disc * 2.0 * radius / layers
            out[filled, 4] = disc / 4.0
            filled += 1
    return out[:filled].copy()
