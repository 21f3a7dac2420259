"""Coarser levels of an image: the mean of the pixels that were fetched, level by level, shard by shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from brightfield.core.space import Shape, Window
    from brightfield.volumes.shards import Index
    from brightfield.volumes.volume import Volume

type Boxes = NDArray[np.int64]


def build_pyramid(volume: Volume, fetched_boxes: ArrayLike | None = None, *, threads: int = 1) -> None:
    """Compute and store levels 1, 2, ... of an image `volume` whose level 0 is complete; holds a few chunks in memory.

    A voxel becomes the mean, rounded half up, of the fetched voxels of the next finer level that it covers; it is fetched itself when one
    of them is. `fetched_boxes` (n, 6) are the fetched voxels of level 0 as half-open boxes (z0, z1, y0, y1, x0, x1), None for all: the
    others hold the fill value and count for nothing, so that no border darkens.

    Raises ValueError for a volume that does not hold integers.
    """
    if volume.spec(0).dtype.kind not in "ui":
        raise ValueError(f"a pyramid of means is for images of integers, found {volume.spec(0).dtype}")
    boxes = np.asarray([volume.grids[0].window] if fetched_boxes is None else fetched_boxes, np.int64).reshape(-1, 6)
    for level in range(1, len(volume.grids)):
        factor = _factor(volume, level)
        nz, ny, nx = volume.spec(level).n_shards_zyx
        for shard in product(range(nz), range(ny), range(nx)):
            _build_shard(volume, level, shard, factor, boxes, threads)
        low, high = boxes[:, 0::2] // factor, -(-boxes[:, 1::2] // factor)
        boxes = np.unique(np.stack([low, high], axis=-1).reshape(-1, 6), axis=0)


def masked_mean(voxels: NDArray[Any], fetched: NDArray[np.bool_] | None, factor_zyx: Shape, fill_value: float) -> NDArray[Any]:
    """The mean, rounded half up, of the fetched voxels in blocks of `factor_zyx`; `fill_value` where a block has none.

    `voxels` are integers (z, y, x); the last block of an axis may be ragged. `fetched` has their shape; None says all of them.
    """
    mean = np.full([-(-n // f) for n, f in zip(voxels.shape, factor_zyx, strict=True)], fill_value, voxels.dtype)
    known = np.empty((0, 0, 0), np.bool_) if fetched is None else fetched
    total, count = np.empty((2, voxels.shape[2]), np.int32 if voxels.itemsize <= 2 else np.int64)
    _average(voxels, known, fetched is None, factor_zyx, total, count, mean)
    return mean


def block_mean(pixels_yx: NDArray[Any], level: int) -> NDArray[Any]:
    """The means of 2**level by 2**level pixels, halves rounded up, in their dtype; an incomplete block at the far edge falls off."""
    side = 1 << level
    whole = pixels_yx[: pixels_yx.shape[0] // side * side, : pixels_yx.shape[1] // side * side]
    return masked_mean(np.ascontiguousarray(whole)[np.newaxis], None, (1, side, side), 0)[0] if level else pixels_yx


@njit(cache=True, nogil=True)
def _average(
    voxels: NDArray[Any],
    fetched: NDArray[np.bool_],
    all_fetched: bool,
    factor_zyx: Shape,
    total: NDArray[Any],
    count: NDArray[Any],
    mean: NDArray[Any],
) -> None:
    """Fill `mean`; `total` and `count` are room for a row of sums."""
    step_z, step_y, step_x = factor_zyx
    for k in range(mean.shape[0]):
        for j in range(mean.shape[1]):
            block = (slice(k * step_z, (k + 1) * step_z), slice(j * step_y, (j + 1) * step_y))
            if all_fetched:
                _sum(voxels[block], total)
                count[:] = voxels[block].shape[0] * voxels[block].shape[1]
            else:
                _sum_fetched(voxels[block], fetched[block], total, count)
            done = _mean_of_pairs(total, 2 * count[0], mean[k, j]) if all_fetched and step_x == 2 else 0
            for i in range(done, mean.shape[2]):
                value, n = 0, 0
                for x in range(i * step_x, min((i + 1) * step_x, len(total))):
                    value += total[x]
                    n += count[x]
                if n:
                    mean[k, j, i] = (2 * value + n) // (2 * n)


@njit(cache=True, nogil=True)
def _sum(voxels: NDArray[Any], total: NDArray[Any]) -> None:
    total[:] = 0
    for z in range(voxels.shape[0]):
        for y in range(voxels.shape[1]):
            for x in range(voxels.shape[2]):
                total[x] += voxels[z, y, x]


@njit(cache=True, nogil=True)
def _sum_fetched(voxels: NDArray[Any], fetched: NDArray[np.bool_], total: NDArray[Any], count: NDArray[Any]) -> None:
    total[:] = count[:] = 0
    for z in range(voxels.shape[0]):
        for y in range(voxels.shape[1]):
            for x in range(voxels.shape[2]):
                total[x] += fetched[z, y, x] * voxels[z, y, x]
                count[x] += fetched[z, y, x]


@njit(cache=True, nogil=True)
def _mean_of_pairs(total: NDArray[Any], n: int, mean: NDArray[Any]) -> int:
    """The means of all pairs in a row of sums, by shifts, where `n`, the voxels of a pair, is a power of two; how many were done."""
    shift = 0
    while 1 << shift < n:
        shift += 1
    if 1 << shift != n:
        return 0
    for i in range(len(total) // 2):
        mean[i] = (total[2 * i] + total[2 * i + 1] + (n >> 1)) >> shift
    return len(total) // 2


def _factor(volume: Volume, level: int) -> Shape:
    ratio = np.divide(volume.grids[level].voxel_size_zyx_um, volume.grids[level - 1].voxel_size_zyx_um)
    z, y, x = np.rint(ratio).astype(int).tolist()
    return (z, y, x)


def _build_shard(volume: Volume, level: int, shard: Index, factor: Shape, boxes: Boxes, threads: int) -> None:
    spec = volume.spec(level)
    near = _touching(boxes, _finer(volume, level, spec.shard_window(shard), factor))
    windows = {inner: _finer(volume, level, spec.chunk_window(shard, inner), factor) for inner in spec.inner_indices(shard) if len(near)}
    covered = {inner: window for inner, window in windows.items() if len(_touching(near, window))}
    volume.write_shard(level, shard, _Means(volume, level, factor, near, covered), threads=threads)


class _Means(Mapping["Index", "NDArray[Any]"]):
    """The chunks of a shard, each computed when it is asked for."""

    def __init__(self, volume: Volume, level: int, factor: Shape, boxes: Boxes, windows: dict[Index, Window]) -> None:
        self._volume, self._level, self._factor, self._boxes, self._windows = volume, level, factor, boxes, windows

    def __getitem__(self, inner: Index) -> NDArray[Any]:
        window, spec = self._windows[inner], self._volume.spec(self._level)
        fetched = _mask(_touching(self._boxes, window), window)
        mean = masked_mean(self._volume.read(window, self._level - 1), fetched, self._factor, spec.fill_value)
        chunk = spec.empty_chunk()
        chunk[tuple(map(slice, mean.shape))] = mean
        return chunk

    def __iter__(self) -> Iterator[Index]:
        return iter(self._windows)

    def __len__(self) -> int:
        return len(self._windows)


def _finer(volume: Volume, level: int, window: Window, factor: Shape) -> Window:
    """The voxels of the next finer level that a window of `level` covers."""
    shape = volume.spec(level - 1).shape_zyx
    z, y, x = ((lo * f, min(hi * f, n)) for (lo, hi), f, n in zip(window, factor, shape, strict=True))
    return (z, y, x)


def _touching(boxes: Boxes, window: Window) -> Boxes:
    low, high = np.transpose(window)
    return boxes[np.all((boxes[:, 0::2] < high) & (boxes[:, 1::2] > low), axis=1)]


def _mask(boxes: Boxes, window: Window) -> NDArray[np.bool_] | None:
    """Which voxels of a window lie in a box; None when all of them do."""
    low, high = np.transpose(window)
    mask = np.zeros(high - low, np.bool_)
    for z0, z1, y0, y1, x0, x1 in boxes:
        (z, y, x), (z_end, y_end, x_end) = np.maximum((z0, y0, x0) - low, 0), np.maximum((z1, y1, x1) - low, 0)
        mask[z:z_end, y:y_end, x:x_end] = True
    return None if mask.all() else mask
