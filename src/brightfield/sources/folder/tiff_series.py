"""Which pages of a TIFF are the planes of its stack: tifffile's reading of the file (OME, ImageJ and many more), held against the file.

A page is not a plane: there are previews, thumbnails, pyramids, several images in one file, and pages in another order than the planes.
What tifffile is not sure of is refused, never guessed at.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from brightfield.core.errors import StackError
from brightfield.sources.folder.axes import told

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

_BELIEVED = frozenset({"ome", "imagej", "shaped"})
"""Kinds of series whose planes follow from notes in the file, which may contradict it."""


def stack_series(tiff: TiffFile, path: str) -> tuple[list[TiffPageSeries], list[str]]:
    """The series that make up the stack, and notes on what was left out.

    One series; or many of one plane each and of one shape, as a loop that appends planes writes them. Smaller images beside it (previews,
    thumbnails) are left out. Raises StackError for several images of which any may be meant.
    """
    with _complaints() as complaints:
        found = list(tiff.series)
    if not found:
        raise StackError("there is no image in the file", path=path)
    _refuse_doubts(tiff, found[0].kind, complaints, path)
    series, notes = _without_previews(found, path)
    if len(series) > 1 and not _is_appended(series):
        images = "; ".join(told(s.axes.lower(), s.shape) for s in series)
        raise StackError(f"{len(series)} images in one file ({images}); save the stack alone", path=path)
    for one in series:
        _refuse_other_count(tiff, one, path)
    return series, notes


def _without_previews(found: Sequence[TiffPageSeries], path: str) -> tuple[list[TiffPageSeries], list[str]]:
    """The images of the largest size, and notes on the smaller ones.

    Smaller is what the file flags as reduced, or what is at most half as large each way and has no more planes.
    """
    full = [s for s in found if not (s.keyframe.is_reduced or s.keyframe.is_mask)] or list(found)
    largest = max(full, key=lambda s: s.keyframe.imagelength * s.keyframe.imagewidth).keyframe
    kept = [s for s in full if _size(s) == (largest.imagelength, largest.imagewidth)]
    n_planes = sum(_n_planes(s) for s in kept)
    unclear = [s for s in full if s not in kept and (not _is_small(s, kept[0]) or _n_planes(s) > n_planes)]
    if unclear or (found[0].kind == "ome" and len(full) > 1):
        images = "; ".join(told(s.axes.lower(), s.shape) for s in full)
        raise StackError(f"{len(full)} images in one file ({images}); save the stack alone", path=path)
    return kept, [f"left out a smaller image: {told(s.axes.lower(), s.shape)}" for s in found if s not in kept]


def _size(series: TiffPageSeries) -> tuple[int, int]:
    return (series.keyframe.imagelength, series.keyframe.imagewidth)


def _is_small(series: TiffPageSeries, whole: TiffPageSeries) -> bool:
    return all(2 * n <= full for n, full in zip(_size(series), _size(whole), strict=True))


def _n_planes(series: TiffPageSeries) -> int:
    return int(series.size) // (series.keyframe.imagelength * series.keyframe.imagewidth)


def _is_appended(series: Sequence[TiffPageSeries]) -> bool:
    """Whether every series is one plane, all of one kind of values."""
    kinds = {(s.dtype, s.keyframe.photometric) for s in series}
    return len(kinds) == 1 and all(_n_planes(s) == 1 for s in series)


def _refuse_other_count(tiff: TiffFile, series: TiffPageSeries, path: str) -> None:
    """Raise where the file's notes count other planes than the file has."""
    n_planes, n_pages = _n_planes(series), len(tiff.pages)
    contradicts = n_pages != n_planes if series.kind == "imagej" else series.is_truncated
    if n_pages > 1 and contradicts:
        raise StackError(f"the notes in the file count {n_planes} planes, the file has {n_pages} pages; save it again", path=path)
    end = series.dataoffset + series.nbytes if series.dataoffset is not None else 0
    if end > tiff.filehandle.size:
        raise StackError(f"the file has {tiff.filehandle.size} bytes, its planes end at {end}: it is cut short", path=path)


def _refuse_doubts(tiff: TiffFile, kind: str, complaints: Sequence[str], path: str) -> None:
    """Raise where the order of the planes rests on notes that tifffile could not take as they are."""
    doubts = [complaint for complaint in complaints if "series" in complaint and kind in _BELIEVED]
    if doubts:
        raise StackError(f"which page is which plane is not clear: {doubts[0]}", path=path)
    for name, stated in (("ome", tiff.is_ome), ("imagej", tiff.is_imagej)):
        if stated and kind not in ("ome", "imagej", "mmstack"):
            raise StackError(f"its {name} notes cannot be followed, so which page is which plane is not clear; save it again", path=path)


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """What tifffile logs in this thread meanwhile, instead of printing it."""
    found: list[str] = []
    thread = threading.get_ident()

    def take(record: logging.LogRecord) -> bool:
        if record.thread != thread:
            return True
        found.append(record.getMessage().partition("> ")[2] or record.getMessage())
        return False

    logger: Any = logging.getLogger("tifffile")
    logger.addFilter(take)
    try:
        yield found
    finally:
        logger.removeFilter(take)
