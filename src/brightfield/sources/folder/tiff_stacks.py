"""A stack in one TIFF, and one plane of a TIFF of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from brightfield.core.errors import StackError
from brightfield.sources.folder.axes import Choice, PlaneAxes, plane_axes, told
from brightfield.sources.folder.calibration import Statements
from brightfield.sources.folder.entry import Entry
from brightfield.sources.folder.tiff_calibration import state_tiff
from brightfield.sources.folder.tiff_pages import Box, Pixels, PlaneReader, contiguous_reader, page_reader, refuse_odd_page
from brightfield.sources.folder.tiff_series import stack_series
from brightfield.volumes.ranges import Ranges

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries


@dataclass(frozen=True)
class TiffPlanes:
    """The planes of one file. frames: the number of each among all of its planes, other channels and time points counted too."""

    planes: tuple[PlaneReader, ...]
    frames: tuple[str, ...]
    kind: str
    axes: str
    statements: Statements


def tiff_planes(ranges: Ranges, entry: Entry, choice: Choice) -> TiffPlanes:
    """Open a TIFF. Raises StackError where it is not clear which of its pages are the planes, or they are no grey values."""
    import tifffile

    with ranges.open(entry.path) as file, tifffile.TiffFile(file, name=entry.name) as tiff:
        series, notes = stack_series(tiff, entry.path)
        statements = Statements(notes=notes)
        state_tiff(statements, tiff, series[0], entry.path)
        kind = f"TIFF, {series[0].kind}"
        if len(series) > 1:
            planes = tuple(_planes(ranges, entry, tiff, one, [0])[0] for one in series)
            shown = f"z={len(series)}, {told('yx', planes[0].shape_yx)}"
            return TiffPlanes(planes, tuple(map(str, range(len(series)))), f"{kind}, {len(series)} images", shown, statements)
        axes = _axes(series[0], choice, entry.path)
        frames = [axes.frame(number) for number in range(axes.n_planes)]
        planes = tuple(_planes(ranges, entry, tiff, series[0], frames))
        return TiffPlanes(planes, tuple(map(str, frames)), kind, str(axes), statements)


def _axes(series: TiffPageSeries, choice: Choice, path: str) -> PlaneAxes:
    refuse_odd_page(series.keyframe, path)
    axes = plane_axes(series.axes, series.shape, choice, path)
    if axes.names[-2:] != ("y", "x"):
        raise StackError(f"axes {axes}: expected rows and columns last", path=path)
    return axes


def _planes(ranges: Ranges, entry: Entry, tiff: TiffFile, series: TiffPageSeries, frames: list[int]) -> list[PlaneReader]:
    """The planes that are these frames of a series."""
    refuse_odd_page(series.keyframe, entry.path)
    shape_yx, stored = (int(series.shape[-2]), int(series.shape[-1])), series.dtype.newbyteorder(tiff.byteorder)
    start = series.dataoffset
    if start is not None:
        n_bytes = shape_yx[0] * shape_yx[1] * stored.itemsize
        return [contiguous_reader(ranges, entry.path, int(start) + frame * n_bytes, shape_yx, stored) for frame in frames]
    planes = []
    for number, frame in enumerate(frames):
        page = series[frame]
        if page is None:
            raise StackError(f"plane {number} of {len(frames)} is not in the file, though its notes count it", path=entry.path)
        planes.append(page_reader(ranges, entry.path, page.aspage()))
    odd = [number for number, plane in enumerate(planes) if plane.shape_yx != shape_yx or plane.dtype != planes[0].dtype]
    if odd:
        raise StackError(f"plane {odd[0]} is {planes[odd[0]].dtype} of {planes[odd[0]].shape_yx}, the first {shape_yx}", path=entry.path)
    return planes


class TiffStack:
    """A stack in one TIFF: multi-page, appended page by page, ImageJ, OME or another format that tifffile knows."""

    def __init__(self, ranges: Ranges, entry: Entry, choice: Choice) -> None:
        self._entry = entry
        opened = tiff_planes(ranges, entry, choice)
        self._planes, self._frames = opened.planes, opened.frames
        self.kind, self.axes, self.statements = opened.kind, opened.axes, opened.statements
        self.numbers = tuple(range(len(self._planes)))
        self.shape_yx, self.dtype = self._planes[0].shape_yx, self._planes[0].dtype

    def stamp(self, number: int) -> str:
        """Changes when the file does: its name and size, how it is read, and the frame."""
        return f"{self._entry.name}:{self._entry.size}:{self.kind}:{self._frames[number]}"

    def read(self, number: int, box: Box) -> Pixels:
        """The pixels of a box of a plane."""
        return self._planes[number].read(box)
