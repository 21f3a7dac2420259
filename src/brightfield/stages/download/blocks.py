"""Tiles are laid into blocks: the smallest groups of chunks, one deep, whose tiles touch no other group."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from brightfield.core.space import Shape
from brightfield.volumes.shards import ArraySpec

type Pixels = NDArray[np.uint8] | NDArray[np.uint16]


class Blocks:
    """The blocks of an array whose tiles have an edge of `tile` voxels.

    A block is an array (rows, columns of chunks; z, y, x of a chunk). Their memory is used again and again: asking the system for it page
    by page takes longer than filling it.
    """

    def __init__(self, spec: ArraySpec, tile: int) -> None:
        _, *chunk_yx = spec.chunk_zyx
        counts = [min(math.lcm(tile, chunk) // chunk, n) for chunk, n in zip(chunk_yx, spec.n_chunks_zyx[1:], strict=True)]
        self._spec, self._counts = spec, (1, *counts)
        self._n_chunks, self._per_shard = spec.n_chunks_zyx, spec.chunks_per_shard_zyx
        self._edges = tuple(chunk * count for chunk, count in zip(spec.chunk_zyx, self._counts, strict=True))
        self._spare: list[Pixels] = []

    def place(self, voxel_zyx: Sequence[int]) -> Shape:
        """The number of the block that holds a voxel, along each axis."""
        (z, y, x), (deep, high, wide) = voxel_zyx, self._edges
        return z // deep, y // high, x // wide

    @property
    def size(self) -> int:
        """Voxels of a block, those beyond the end of the array included."""
        return math.prod(self._counts) * math.prod(self._spec.chunk_zyx)

    def blank(self, shape: tuple[int, ...]) -> Pixels:
        """Nothing but the fill value."""
        return np.full(shape, self._spec.fill_value, self._spec.dtype)

    def take(self, *, blank: bool) -> Pixels:
        """A block: of nothing but the fill value where it is to be `blank`, else of anything."""
        try:
            block = self._spare.pop()
        except IndexError:
            return self.blank((*self._counts[1:], *self._spec.chunk_zyx))
        if blank:
            block[...] = self._spec.fill_value
        return block

    def give_back(self, block: Pixels) -> None:
        """Let a block that is not needed any more be used again."""
        self._spare.append(block)

    def lay(self, pixels: Pixels, block: Pixels, corner_zyx: Sequence[int]) -> None:
        """Put a tile whose first voxel is `corner_zyx` into its block."""
        z, top, left = (voxel % edge for voxel, edge in zip(corner_zyx, self._edges, strict=True))
        (rows, columns), (height, width) = pixels.shape, self._spec.chunk_zyx[1:]
        if top % height or left % width or rows % height or columns % width:
            for row, there_y, here_y in _pieces(top, rows, height):
                for column, there_x, here_x in _pieces(left, columns, width):
                    block[row, column, z, there_y, there_x] = pixels[here_y, here_x]
        else:  # whole chunks, as most are, at one stroke
            there = block[top // height : (top + rows) // height, left // width : (left + columns) // width, z]
            there[...] = pixels.reshape(rows // height, height, columns // width, width).swapaxes(1, 2)

    def chunks(self, place: Shape) -> Iterator[tuple[Shape, Shape, tuple[int, int]]]:
        """Shard, index within it, and row and column in the block, of every chunk of a block that is in the array."""
        z, *corner = (i * count for i, count in zip(place, self._counts, strict=True))
        ends = (min(first + count, n) for first, count, n in zip(corner, self._counts[1:], self._n_chunks[1:], strict=True))
        rows, columns = (range(first, end) for first, end in zip(corner, ends, strict=True))
        deep, high, wide = self._per_shard
        for y, x in product(rows, columns):
            yield (z // deep, y // high, x // wide), (z % deep, y % high, x % wide), (y - rows.start, x - columns.start)


def _pieces(first: int, n: int, edge: int) -> Iterator[tuple[int, slice, slice]]:
    """How `n` voxels from `first` on fall into chunks of `edge`: the number of each chunk, which voxels of it, and which of the `n`."""
    for chunk in range(first // edge, -(-(first + n) // edge)):
        low, high = max(first, chunk * edge), min(first + n, (chunk + 1) * edge)
        yield chunk, slice(low - chunk * edge, high - chunk * edge), slice(low - first, high - first)
