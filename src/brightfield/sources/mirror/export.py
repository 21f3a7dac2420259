"""Write a source as a folder that a mirror can serve: a lab's offline copy, or an own collection in the form of the Allen service."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from brightfield.core.cell import Cell, Crop, Plane, Stack
from brightfield.core.errors import SourceError
from brightfield.core.files import atomic, write_bytes
from brightfield.sources.mirror.catalog import FILES_DIR, IMAGES_DIR, TABLES_DIR
from brightfield.sources.mirror.records import tables_of
from brightfield.sources.source import Source, interruptible

_BLOCK_PX = 2048


def export(source: Source, cells: Sequence[Cell], folder: Path, *, pictures: bool = True, threads: int = 4) -> None:
    """Write tables and files of `cells`, and unless `pictures` is false their planes and projections at full resolution, as PNG.

    cells: as `source.complete` returns them. What is there already is not fetched again, so an interrupted export goes on where it was; the
    tables come last. Raises SourceError for stacks that are not 8 bits deep, and what the source raises.
    """
    if pictures and (deep := [cell.specimen_id for cell in cells if cell.stack and cell.stack.bits != 8]):
        raise SourceError(f"a mirror serves 8-bit pictures; the stack of cell {deep[0]} is deeper, export it without pictures")
    for name in (TABLES_DIR, FILES_DIR, IMAGES_DIR):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for cell in cells:
        for file_id, url in ((cell.swc_file_id, cell.swc_url), (cell.marker_file_id, cell.marker_url)):
            path = folder / FILES_DIR / str(file_id)
            if file_id is not None and url is not None and not path.exists():
                write_bytes(path, source.file(url))
        if pictures and cell.stack:
            _export_stack(source, cell, cell.stack, folder / IMAGES_DIR, threads)
    for model, rows in tables_of(cells).items():
        write_bytes(folder / TABLES_DIR / f"{model}.json", json.dumps(rows, indent=1).encode())


def _export_stack(source: Source, cell: Cell, stack: Stack, folder: Path, threads: int) -> None:
    wanted = [plane for plane in stack.planes if plane.usable and not (folder / f"{plane.sub_image_id}.png").exists()]
    with ThreadPoolExecutor(threads) as pool, interruptible(source):
        for _ in pool.map(lambda plane: _write_picture(folder / f"{plane.sub_image_id}.png", _whole(source, cell, stack, plane)), wanted):
            pass
    projection = folder / f"{stack.projection_id}.png"
    if stack.projection_id is not None and not projection.exists() and (pixels := source.projection(cell, 0)) is not None:
        _write_picture(projection, pixels)


def _whole(source: Source, cell: Cell, stack: Stack, plane: Plane) -> NDArray[np.uint8]:
    pixels = np.empty((stack.height_px, stack.width_px), np.uint8)
    for (top, height), (left, width) in product(_blocks(stack.height_px), _blocks(stack.width_px)):
        pixels[top : top + height, left : left + width] = source.pixels(cell, Crop(plane, top, left, height, width, 0))
    return pixels


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    """(first, length) of the blocks that make up `size` pixels."""
    return ((first, min(_BLOCK_PX, size - first)) for first in range(0, size, _BLOCK_PX))


def _write_picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    from PIL import Image

    with atomic(path) as partial:
        Image.fromarray(pixels).save(partial, "PNG", compress_level=1)
