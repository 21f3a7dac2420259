"""Coarser levels of an image: the mean of the pixels that were fetched, level by level, shard by shard."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from brightfield.shards import Index
    from brightfield.space import Shape, Window
    from brightfield.volume import Volume

type Boxes = NDArray[np.int64]


def build_pyramid(volume: Volume, fetched_boxes: ArrayLike | None = None, *, threads: int = 1) -> None:
    """Compute and store levels 1, 2, ... of an image `volume` whose level 0 is complete; holds one shard of the output in memory.

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
    shape = tuple(-(-n // f) for n, f in zip(voxels.shape, factor_zyx, strict=True))
    wide = np.int32 if voxels.dtype.itemsize <= 2 else np.int64
    total, count = np.zeros(shape, wide), np.zeros(shape, wide)
    known = voxels if fetched is None else np.where(fetched, voxels, voxels.dtype.type(0))
    for start in product(*map(range, factor_zyx)):
        every = tuple(slice(s, None, f) for s, f in zip(start, factor_zyx, strict=True))
        part = known[every]
        covered = tuple(map(slice, part.shape))
        total[covered] += part
        count[covered] += 1 if fetched is None else fetched[every]
    mean = (2 * total + count) // np.maximum(2 * count, 1)
    return np.where(count > 0, mean, fill_value).astype(voxels.dtype)


def _factor(volume: Volume, level: int) -> Shape:
    ratio = np.divide(volume.grids[level].voxel_size_zyx_um, volume.grids[level - 1].voxel_size_zyx_um)
    z, y, x = np.rint(ratio).astype(int).tolist()
    return (z, y, x)


def _build_shard(volume: Volume, level: int, shard: Index, factor: Shape, boxes: Boxes, threads: int) -> None:
    spec = volume.spec(level)
    near = _touching(boxes, _finer(volume, level, spec.shard_window(shard), factor))
    if not len(near):
        return
    chunks: dict[Index, NDArray[Any]] = {}
    for inner in spec.inner_indices(shard):
        window = _finer(volume, level, spec.chunk_window(shard, inner), factor)
        within = _touching(near, window)
        if len(within):
            mean = masked_mean(volume.read(window, level - 1), _mask(within, window), factor, spec.fill_value)
            chunks[inner] = spec.empty_chunk()
            chunks[inner][tuple(map(slice, mean.shape))] = mean
    volume.write_shard(level, shard, chunks, threads=threads)


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
