"""From runs to chunks: a slab of a label volume and of its reasons, painted chunk by chunk, never held as a whole.

What was not downloaded is unknown whatever else is there. Where only a part of a stack was downloaded, UNKNOWN is the fill value, so
chunks outside cost nothing; where all of it was, BACKGROUND is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from brightfield.core.codes import Label, Reason
from brightfield.raster.runs import Runs, by_chunk, paint_distance

if TYPE_CHECKING:
    from brightfield.core.space import Grid
    from brightfield.raster.cones import Cones
    from brightfield.volumes.shards import ArraySpec, Chunk, Index
    from brightfield.volumes.volume import Volume

type Boxes = NDArray[np.int64]
"""(n, 6) half-open voxel boxes z0, z1, y0, y1, x0, x1."""

SURFACE_CODE = 127
"""Distance labels: code = 127 + 127 distance / band, so 0 is the clip inside, 127 the surface, 254 the clip outside, 255 unknown."""

_UNKNOWN = int(Label.UNKNOWN)
_NOWHERE, _PARTLY, _WHOLLY = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Band:
    """What a distance label needs beside the unknown: the cones, the spans of the cones grown by the band, and the band in um.

    numbers: see `cones.grid_numbers`. first_plane: the plane of that grid at which the slab, and so the z of the spans, begins.
    """

    cones: Cones
    spans: NDArray[np.int32]
    band_um: float
    numbers: NDArray[np.float64]
    first_plane: int


@dataclass
class Tally:
    """Downloaded voxels by label code, 0 being background, and voxels by reason bit (bit k at index k)."""

    by_label: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    by_reason: NDArray[np.int64] = field(default_factory=lambda: np.zeros(8, np.int64))

    def add(self, value: int, n_voxels: int) -> None:
        """Count voxels of one value of `runs.overlay`."""
        self.by_label[value & 255] += n_voxels
        self.by_reason[[bool(value >> 8 + bit & 1) for bit in range(8)]] += n_voxels

    def include(self, other: Tally) -> None:
        """Count what another part of the volume holds."""
        self.by_label += other.by_label
        self.by_reason += other.by_reason


class SlabPainter:
    """Planes of one level of a label volume: what `runs` (see `runs.overlay`) say, in the boxes that were downloaded (None: everywhere).

    spec: of the slab as if it were an array of its own; z counts from its first plane everywhere here. bad: (nz,) bool, planes that are
    unknown as a whole. band: what paints a distance label; its runs hold reasons only.
    """

    def __init__(self, spec: ArraySpec, runs: Runs, *, bad: NDArray[np.bool_], boxes: Boxes | None, band: Band | None = None) -> None:
        self.spec, self._bad, self._boxes, self._band = spec, bad, boxes, band
        self._n_chunks_zyx = spec.n_chunks_zyx
        self._bad_planes = np.flatnonzero(bad).tolist()
        self._pieces, self._starts = self._by_chunk(runs)
        if self._bad_planes:
            in_bad = bad[self._pieces[:, 0]]
            self._pieces[in_bad, 4] = _UNKNOWN + 256 * ((self._pieces[in_bad, 4] >> 8) | int(Reason.BAD_PLANE))
        self._band_pieces, self._band_starts = self._by_chunk(runs[:0] if band is None else band.spans)
        self._state, self._box_of, self._box_starts = _coverage(boxes, spec)

    def write(self, labels: Volume, reasons: Volume, level: int, first_shard_z: int) -> None:
        """Store every shard that holds anything, in both volumes; one chunk of one of them is in memory at a time."""
        scratch = _Scratch(self.spec)
        for (z, y, x), inner in self.shards().items():
            for volume, of_reason in ((labels, False), (reasons, True)):
                volume.write_shard(level, (first_shard_z + z, y, x), _Chunks(self, (z, y, x), inner, of_reason, scratch))

    def shards(self) -> dict[Index, list[Index]]:
        """Shard index -> inner indices of its chunks that may differ from the fill value."""
        found: dict[Index, list[Index]] = {}
        chunks = np.argwhere(self._worth_storing().reshape(self.spec.n_chunks_zyx))
        for shard, inner in zip(*map(np.ndarray.tolist, np.divmod(chunks, self.spec.chunks_per_shard_zyx)), strict=True):
            found.setdefault(tuple(shard), []).append(tuple(inner))
        return found

    def chunk(self, chunk_zyx: Index, *, of_reason: bool = False, scratch: _Scratch | None = None) -> Chunk:
        """One chunk of the labels (or the reasons): an array of the chunk's shape, or the one value that fills it."""
        number, low, inside = self._place(chunk_zyx)
        unseen = int(Reason.NOT_DOWNLOADED) if of_reason else _UNKNOWN
        background = 0 if self._band is None or of_reason else 2 * SURFACE_CODE
        bad = self._bad_in(low[0], inside[0])
        pieces = self._pieces[self._starts[number] : self._starts[number + 1]]
        band = self._band_pieces[self._band_starts[number] : self._band_starts[number + 1]] if not of_reason else pieces[:0]
        if self._state[number] == _NOWHERE:
            return unseen
        complete = self._state[number] == _WHOLLY and inside == self.spec.chunk_zyx
        if complete and not (len(pieces) or len(band) or len(bad)):
            return background
        scratch = scratch or _Scratch(self.spec)
        only_runs = (complete or self._boxes is None) and not (len(band) or bad)
        scratch.blank(background if complete or self._boxes is None else unseen, (pieces, low) if only_runs else None)
        voxels = scratch.chunk[: inside[0], : inside[1], : inside[2]]
        if not (complete or self._boxes is None):
            voxels.fill(background)
        if self._band is not None and len(band):
            _paint_band(band, self._band, low, scratch)
        if bad:
            voxels[bad] = int(Reason.BAD_PLANE) if of_reason else _UNKNOWN
        _paint_pieces(pieces, *low, 8 if of_reason else 0, scratch.chunk)
        if self._state[number] == _PARTLY:
            voxels[~self._seen(chunk_zyx)] = unseen
        return scratch.chunk

    def tally(self) -> Tally:
        """Downloaded voxels by label and by reason, counted from the runs. In a distance label only the unknown are told apart."""
        lengths, n_seen, n_seen_bad = self._downloaded()
        tally = Tally()
        counts = np.bincount(self._pieces[:, 4], weights=lengths).astype(np.int64)
        for value in np.flatnonzero(counts).tolist():
            tally.add(value, int(counts[value]))
        drawn_in_bad = int(lengths[self._bad[self._pieces[:, 0]]].sum()) if self._bad_planes else 0
        tally.add(_UNKNOWN + 256 * int(Reason.BAD_PLANE), n_seen_bad - drawn_in_bad)
        tally.by_label[0] = n_seen - int(tally.by_label[1:].sum())
        tally.by_reason[int(Reason.NOT_DOWNLOADED).bit_length() - 1] = int(np.prod(self.spec.shape_zyx)) - n_seen
        return tally

    def unknown_share(self, near: Runs) -> float | None:
        """The share of the voxels in `near` that are unknown; None where there are none."""
        pieces, starts = self._by_chunk(near)
        scratch = _Scratch(self.spec)
        unknown = 0
        for number in np.flatnonzero(np.diff(starts)).tolist():
            chunk = _index(np.unravel_index(number, self.spec.n_chunks_zyx))
            voxels = self.chunk(chunk, scratch=scratch)
            part = pieces[starts[number] : starts[number + 1]]
            if isinstance(voxels, np.ndarray):
                unknown += _count_value(part, *self._place(chunk)[1], voxels, _UNKNOWN)
            else:
                unknown += int((part[:, 3] - part[:, 2]).sum()) if voxels == _UNKNOWN else 0
        total = int((near[:, 3] - near[:, 2]).sum())
        return unknown / total if total else None

    def _by_chunk(self, runs: Runs) -> tuple[Runs, NDArray[np.int64]]:
        return by_chunk(runs, self.spec.chunk_zyx, self.spec.n_chunks_zyx)

    def _place(self, chunk_zyx: Index) -> tuple[int, Index, Index]:
        """Number of a chunk in C order, its first voxel, and its extent within the array."""
        (z, y, x), (c_z, c_y, c_x), (n_z, n_y, n_x) = chunk_zyx, self.spec.chunk_zyx, self.spec.shape_zyx
        low = (z * c_z, y * c_y, x * c_x)
        inside = (min(c_z, n_z - low[0]), min(c_y, n_y - low[1]), min(c_x, n_x - low[2]))
        _, rows, columns = self._n_chunks_zyx
        return (z * rows + y) * columns + x, low, inside

    def _bad_in(self, z0: int, depth: int) -> list[int]:
        return [z - z0 for z in self._bad_planes if z0 <= z < z0 + depth]

    def _worth_storing(self) -> NDArray[np.bool_]:
        if self._boxes is not None:
            return np.asarray(self._state != _NOWHERE)
        worth = (np.diff(self._starts) > 0) | (np.diff(self._band_starts) > 0)
        slabs = np.add.reduceat(self._bad.astype(np.int64), np.arange(0, len(self._bad), self.spec.chunk_zyx[0])) > 0
        return worth | np.repeat(slabs, len(worth) // len(slabs))

    def _seen(self, chunk_zyx: Index) -> NDArray[np.bool_]:
        """Which voxels of a chunk were downloaded."""
        number, low, inside = self._place(chunk_zyx)
        mask = np.zeros(inside, np.bool_)
        if self._boxes is not None:
            _fill_boxes(self._boxes, self._box_of[self._box_starts[number] : self._box_starts[number + 1]], *low, mask)
        return mask

    def _downloaded(self) -> tuple[NDArray[np.int64], int, int]:
        """Downloaded voxels: of each piece, of the level, and of its bad planes."""
        lengths = (self._pieces[:, 3] - self._pieces[:, 2]).astype(np.int64)
        lengths[np.repeat(self._state == _NOWHERE, np.diff(self._starts))] = 0
        depths, heights, widths = (
            np.minimum(np.arange(1, n + 1) * c, size) - np.arange(n) * c
            for n, c, size in zip(self.spec.n_chunks_zyx, self.spec.chunk_zyx, self.spec.shape_zyx, strict=True)
        )
        bad_depths = np.add.reduceat(self._bad.astype(np.int64), np.arange(0, len(self._bad), self.spec.chunk_zyx[0]))
        area = np.multiply.outer(heights, widths)
        wholly = (self._state == _WHOLLY).reshape(self.spec.n_chunks_zyx)
        areas = np.where(wholly, area, 0).sum(axis=(1, 2))
        seen, seen_bad = int((areas * depths).sum()), int((areas * bad_depths).sum())
        for number in np.flatnonzero(self._state == _PARTLY).tolist():
            chunk = _index(np.unravel_index(number, self.spec.n_chunks_zyx))
            mask, low = self._seen(chunk), self._place(chunk)[1]
            part = slice(self._starts[number], self._starts[number + 1])
            _seen_lengths(self._pieces[part], *low, mask, lengths[part])
            seen += int(np.count_nonzero(mask))
            seen_bad += int(np.count_nonzero(mask[self._bad[low[0] : low[0] + len(mask)]]))
        return lengths, seen, seen_bad


class _Scratch:
    """Buffers of one thread: a chunk, and for distances the same in um."""

    def __init__(self, spec: ArraySpec) -> None:
        self.chunk = np.empty(spec.chunk_zyx, np.uint8)
        self.distance_um = np.empty((0, 0, 0), np.float32)
        self._value = -1
        self._painted: tuple[Runs, Index] | None = None

    def blank(self, value: int, to_paint: tuple[Runs, Index] | None) -> None:
        """Give the whole chunk one value. to_paint: the runs and first voxel of all that will be painted on it, None if there is more.

        Runs cover little of a chunk, so where they were all, painting them over is quicker than filling it.
        """
        if self._value == value and self._painted is not None:
            pieces, low = self._painted
            _fill_pieces(pieces, *low, value, self.chunk)
        else:
            self.chunk.fill(value)
        self._value, self._painted = value, to_paint


class _Chunks(Mapping[Any, Any]):
    """The chunks of a shard, painted when asked for, into one buffer: each is compressed before the next is painted."""

    def __init__(self, painter: SlabPainter, shard: Index, inner: Sequence[Index], of_reason: bool, scratch: _Scratch) -> None:
        self._painter, self._inner, self._of_reason = painter, inner, of_reason
        self._first = np.multiply(shard, painter.spec.chunks_per_shard_zyx).tolist()
        self._scratch = scratch

    def __iter__(self) -> Iterator[Index]:
        return iter(self._inner)

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, inner: Index) -> Chunk:
        (z, y, x), (first_z, first_y, first_x) = inner, self._first
        return self._painter.chunk((first_z + z, first_y + y, first_x + x), of_reason=self._of_reason, scratch=self._scratch)


def merged(boxes: Boxes) -> Boxes:
    """Fewer boxes that hold the same voxels: neighbours of equal cross-section are joined, along x, then y, then z."""
    for axis in (2, 1, 0):
        if len(boxes) == 0:
            return boxes
        others = [column for column in range(6) if column // 2 != axis]
        lo, hi = 2 * axis, 2 * axis + 1
        boxes = boxes[np.lexsort([boxes[:, lo], *(boxes[:, column] for column in others)])]
        apart = (boxes[1:, others] != boxes[:-1, others]).any(axis=1) | (boxes[1:, lo] > boxes[:-1, hi])
        first = np.concatenate([[0], np.flatnonzero(apart) + 1])
        ends = np.maximum.reduceat(boxes[:, hi], first)
        boxes = boxes[first]
        boxes[:, hi] = ends
    return boxes


def in_planes(boxes: Boxes, z0: int, z1: int) -> Boxes:
    """What of the boxes lies in planes [z0, z1), z counted from z0."""
    met = boxes[(boxes[:, 0] < z1) & (boxes[:, 1] > z0)]
    met[:, :2] = np.clip(met[:, :2], z0, z1) - z0
    return met


def coarser(boxes: Boxes, factor_zyx: Sequence[int], grid: Grid) -> Boxes:
    """The boxes on a coarser grid: a voxel counts when any of the voxels it covers did, as in the image's pyramid."""
    factor, shape = np.asarray(factor_zyx), np.asarray(grid.shape_zyx)
    low, high = boxes[:, 0::2] // factor, np.minimum(-(-boxes[:, 1::2] // factor), shape)
    return merged(np.unique(np.stack([low, high], axis=-1).reshape(-1, 6), axis=0))


def _coverage(boxes: Boxes | None, spec: ArraySpec) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """For every chunk: whether it was downloaded, and which boxes meet it (indices and where each chunk's begin)."""
    n = int(np.prod(spec.n_chunks_zyx))
    if boxes is None:
        return np.full(n, _WHOLLY, np.uint8), np.zeros(0, np.int64), np.zeros(n + 1, np.int64)
    shape, chunk, n_chunks = (np.array(v, np.int64) for v in (spec.shape_zyx, spec.chunk_zyx, spec.n_chunks_zyx))
    state: NDArray[np.uint8]
    state, box_of, starts = _boxes_by_chunk(boxes, shape, chunk, n_chunks)
    return state, box_of, starts


def _index(values: Any) -> Index:
    z, y, x = (int(v) for v in values)
    return (z, y, x)


def _paint_band(spans: Runs, band: Band, low: Index, scratch: _Scratch) -> None:
    if scratch.distance_um.size == 0:
        scratch.distance_um = np.full(scratch.chunk.shape, band.band_um, np.float32)
    paint_distance(spans, band.first_plane, band.cones.geometry, band.numbers, band.band_um, *low, scratch.distance_um)
    _encode_band(spans, *low, band.band_um, scratch.distance_um, scratch.chunk)


# ------------------------------------------------------------------------------------------------------------------ kernels


@njit(cache=True, nogil=True)
def _paint_pieces(pieces: Any, z0: int, y0: int, x0: int, shift: int, out: Any) -> None:
    for i in range(len(pieces)):
        out[pieces[i, 0] - z0, pieces[i, 1] - y0, pieces[i, 2] - x0 : pieces[i, 3] - x0] = (pieces[i, 4] >> shift) & 255


@njit(cache=True, nogil=True)
def _fill_pieces(pieces: Any, z0: int, y0: int, x0: int, value: int, out: Any) -> None:
    for i in range(len(pieces)):
        out[pieces[i, 0] - z0, pieces[i, 1] - y0, pieces[i, 2] - x0 : pieces[i, 3] - x0] = value


@njit(cache=True, nogil=True, error_model="numpy")
def _encode_band(pieces: Any, z0: int, y0: int, x0: int, band_um: float, distance_um: Any, out: Any) -> None:
    """Codes of the distances under the pieces; and leaves the distances as they were before painting, for the next chunk."""
    for i in range(len(pieces)):
        z, y = pieces[i, 0] - z0, pieces[i, 1] - y0
        for x in range(pieces[i, 2] - x0, pieces[i, 3] - x0):
            out[z, y, x] = floor(SURFACE_CODE * (1.0 + distance_um[z, y, x] / band_um) + 0.5)
    for i in range(len(pieces)):
        distance_um[pieces[i, 0] - z0, pieces[i, 1] - y0, pieces[i, 2] - x0 : pieces[i, 3] - x0] = band_um


@njit(cache=True, nogil=True)
def _count_value(pieces: Any, z0: int, y0: int, x0: int, voxels: Any, value: int) -> int:
    count = 0
    for i in range(len(pieces)):
        for x in range(pieces[i, 2] - x0, pieces[i, 3] - x0):
            count += voxels[pieces[i, 0] - z0, pieces[i, 1] - y0, x] == value
    return count


@njit(cache=True, nogil=True)
def _seen_lengths(pieces: Any, z0: int, y0: int, x0: int, seen: Any, lengths: Any) -> None:
    for i in range(len(pieces)):
        count = 0
        for x in range(pieces[i, 2] - x0, pieces[i, 3] - x0):
            count += seen[pieces[i, 0] - z0, pieces[i, 1] - y0, x]
        lengths[i] = count


@njit(cache=True, nogil=True)
def _fill_boxes(boxes: Any, which: Any, z0: int, y0: int, x0: int, mask: Any) -> None:
    n_z, n_y, n_x = mask.shape
    for i in which:
        box = boxes[i]
        for z in range(max(box[0] - z0, 0), min(box[1] - z0, n_z)):
            for y in range(max(box[2] - y0, 0), min(box[3] - y0, n_y)):
                mask[z, y, max(box[4] - x0, 0) : min(box[5] - x0, n_x)] = True


@njit(cache=True, nogil=True)
def _boxes_by_chunk(boxes: Any, shape: Any, chunk: Any, n_chunks: Any) -> tuple[Any, Any, Any]:
    n = n_chunks[0] * n_chunks[1] * n_chunks[2]
    state, starts = np.zeros(n, np.uint8), np.zeros(n + 1, np.int64)
    at, box_of = starts, starts
    for fills in (False, True):
        if fills:
            starts = np.cumsum(starts)
            at, box_of = starts[:-1].copy(), np.empty(starts[-1], np.int64)
        for i in range(len(boxes)):
            box = boxes[i]
            for cz in range(box[0] // chunk[0], (box[1] - 1) // chunk[0] + 1):
                for cy in range(box[2] // chunk[1], (box[3] - 1) // chunk[1] + 1):
                    for cx in range(box[4] // chunk[2], (box[5] - 1) // chunk[2] + 1):
                        number = (cz * n_chunks[1] + cy) * n_chunks[2] + cx
                        if not fills:
                            starts[number + 1] += 1
                            continue
                        box_of[at[number]] = i
                        at[number] += 1
                        holds = True
                        for axis, c in enumerate((cz, cy, cx)):
                            ends = min((c + 1) * chunk[axis], shape[axis])
                            holds = holds and box[2 * axis] <= c * chunk[axis] and box[2 * axis + 1] >= ends
                        state[number] = _WHOLLY if holds else max(state[number], _PARTLY)
    return state, box_of, starts
