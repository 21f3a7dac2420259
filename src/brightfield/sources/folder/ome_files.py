"""A stack in several OME-TIFF files, of which each repeats the OME-XML of all, or points to the file that has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from brightfield.core.errors import StackError
from brightfield.sources.folder.axes import Choice, plane_axes
from brightfield.sources.folder.calibration import Statements
from brightfield.sources.folder.entry import Entry
from brightfield.sources.folder.ome_xml import OmeImage, OmeXml, TiffData, ome_uuid, parse_ome
from brightfield.sources.folder.tiff_pages import Box, Pixels, PlaneReader, page_reader
from brightfield.volumes.ranges import Ranges


class OmeFiles:
    """The planes of one OME image over the files of a directory, each where the OME-XML says that it is."""

    def __init__(self, ranges: Ranges, image: OmeImage, files: Mapping[int, tuple[Entry, int]], axes: str) -> None:
        self._ranges, self._files = ranges, files
        self._planes: dict[int, PlaneReader] = {}
        self.kind, self.axes, self.statements = f"OME-TIFF, {len({entry.name for entry, _ in files.values()})} files", axes, Statements()
        image.state(self.statements)
        self.numbers = tuple(sorted(files))
        first = self._plane(self.numbers[0])
        self.shape_yx, self.dtype = first.shape_yx, first.dtype

    def stamp(self, number: int) -> str:
        """Changes when the plane's file does: its name and size, and the page."""
        entry, page = self._files[number]
        return f"{entry.name}:{entry.size}:{page}"

    def read(self, number: int, box: Box) -> Pixels:
        """The pixels of a box of a plane."""
        plane = self._plane(number)
        if (plane.shape_yx, plane.dtype) != (self.shape_yx, self.dtype):
            found, expected = f"{plane.dtype} {plane.shape_yx}", f"{self.dtype} {self.shape_yx}"
            raise StackError(f"the plane is {found}, the first one {expected}", path=self._files[number][0].path)
        return plane.read(box)

    def _plane(self, number: int) -> PlaneReader:
        import tifffile

        if number not in self._planes:
            entry, page = self._files[number]
            with self._ranges.open(entry.path) as file, tifffile.TiffFile(file, name=entry.name) as tiff:
                if page >= len(tiff.pages):
                    raise StackError(f"page {page} is not there, the file has {len(tiff.pages)}", path=entry.path)
                self._planes[number] = page_reader(self._ranges, entry.path, tiff.pages[page].aspage())
        return self._planes[number]


def ome_files(ranges: Ranges, tiffs: Sequence[Entry], others: Sequence[Entry], choice: Choice, where: str) -> OmeFiles | None:
    """The stack that the OME-XML of the first file spreads over several, or None where it does not.

    Raises StackError where files of it are absent, or several images are spread over the directory.
    """
    xml = _described(ranges, tiffs[0], others)
    if xml is None or not any(_is_elsewhere(run, xml, tiffs[0]) for image in xml.images for run in image.runs):
        return None
    uuids = {entry.name: _uuid(ranges, entry) for entry in tiffs}
    by_uuid = {uuids[entry.name]: entry for entry in tiffs if uuids[entry.name]}
    by_name = {entry.name.lower(): entry for entry in tiffs if not uuids[entry.name]}
    found = {n: _places(image, by_uuid, by_name) for n, image in enumerate(xml.images)}
    there = [n for n, (files, absent) in found.items() if files and not absent]
    partial = [n for n, (files, absent) in found.items() if files and absent]
    if len(there) != 1 or partial:
        names = sorted({name for files, absent in found.values() for name in absent})
        what = f"{len(there) + len(partial)} of the {len(xml.images)} images of its OME-XML are here"
        absent = f", {len(names)} files of them are not ({names[0]} first)" if names else ""
        raise StackError(f"{what}{absent}; expected all files of one image, under their own names", path=where)
    image = xml.images[there[0]]
    return _chosen(ranges, image, found[there[0]][0], tiffs, choice, where)


def _chosen(
    ranges: Ranges,
    image: OmeImage,
    files: Mapping[tuple[int, int, int], tuple[Entry, int]],
    tiffs: Sequence[Entry],
    choice: Choice,
    where: str,
) -> OmeFiles:
    """The planes of the channel and time point that are read. Raises StackError where some are nowhere, or files are left over."""
    order = "tcz"
    axes = plane_axes([*order, "y", "x"], [image.sizes[axis] for axis in (*order, "y", "x")], choice, where)
    t, c = axes.chosen[0], axes.chosen[1]
    planes = {z: files[t, c, z] for z in range(image.sizes["z"]) if (t, c, z) in files}
    if len(planes) != image.sizes["z"]:
        raise StackError(f"the OME-XML counts {image.sizes['z']} planes and places {len(planes)}; save the stack again", path=where)
    spare = {entry.name for entry in tiffs} - {entry.name for entry, _ in files.values()}
    if spare:
        raise StackError(f"{min(spare)} is none of the files of the stack; keep one stack per directory", path=where)
    return OmeFiles(ranges, image, planes, str(axes))


def _is_elsewhere(run: TiffData, xml: OmeXml, file: Entry) -> bool:
    return bool(run.uuid or run.file) and run.uuid != xml.uuid and run.file.lower() != file.name.lower()


def _places(
    image: OmeImage, by_uuid: Mapping[str, Entry], by_name: Mapping[str, Entry]
) -> tuple[dict[tuple[int, int, int], tuple[Entry, int]], set[str]]:
    """File and page of every plane (t, c, z) of an image, and the names of files that are not here."""
    files: dict[tuple[int, int, int], tuple[Entry, int]] = {}
    absent: set[str] = set()
    for index, run, page in image.planes():
        entry = by_uuid.get(run.uuid) or by_name.get(run.file.lower())
        if entry is None:
            absent.add(run.file or run.uuid)
        else:
            files[index["t"], index["c"], index["z"]] = (entry, page)
    return files, absent


def _described(ranges: Ranges, first: Entry, others: Sequence[Entry]) -> OmeXml | None:
    """The OME-XML of a file, or of the file beside it that it points to; None where it has none."""
    text = _ome_text(ranges, first)
    if text is None:
        return None
    xml = parse_ome(text, first.path)
    if not xml.metadata_file:
        return xml
    companion = next((entry for entry in others if entry.name == xml.metadata_file), None)
    if companion is None:
        raise StackError(f"its OME-XML is in {xml.metadata_file}, which is not here; put it beside the planes", path=first.path)
    is_tiff = companion.suffix in (".tif", ".tiff")
    return parse_ome(_ome_text(ranges, companion) or "" if is_tiff else ranges.whole(companion.path), companion.path)


def _uuid(ranges: Ranges, entry: Entry) -> str:
    text = _ome_text(ranges, entry)
    return "" if text is None else ome_uuid(text, entry.path)


def _ome_text(ranges: Ranges, entry: Entry) -> str | None:
    import tifffile

    try:
        with ranges.open(entry.path) as file, tifffile.TiffFile(file, name=entry.name) as tiff:
            text: str | None = tiff.ome_metadata
    except tifffile.TiffFileError:
        return None  # whoever reads its planes says so
    return text
