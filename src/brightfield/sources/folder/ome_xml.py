"""OME-XML: the images it describes, which planes lie in which file, and how large their voxels are. Parsed, never searched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from xml.etree import ElementTree

from brightfield.core.errors import StackError
from brightfield.sources.folder.calibration import Statements

_DEFAULT_UNIT = "µm"
"""Of a physical size without a unit, by the OME schema."""


@dataclass(frozen=True, slots=True)
class TiffData:
    """A run of planes in a file. ifd: the first page. first: index along z, c and t. count: pages; None: all that follow.

    uuid, file: which file, empty for the one that holds the XML.
    """

    ifd: int
    first: Mapping[str, int]
    count: int | None
    uuid: str
    file: str


@dataclass(frozen=True, slots=True)
class OmeImage:
    """One image. sizes: by axis (x, y, z, c, t). order: the axes of its planes, fastest first, such as `zct`. pixels: the attributes."""

    name: str
    sizes: Mapping[str, int]
    order: str
    runs: tuple[TiffData, ...]
    pixels: Mapping[str, str]

    def state(self, statements: Statements) -> None:
        """Take down the physical sizes."""
        for axis in "ZYX":
            key = f"PhysicalSize{axis}"
            unit = self.pixels.get(f"{key}Unit", _DEFAULT_UNIT)
            statements.add(axis.lower(), self.pixels.get(key), unit, f"OME-XML {key}")

    def planes(self) -> Iterator[tuple[Mapping[str, int], TiffData, int]]:
        """Every plane that has a place: its index along z, c and t, the run, and its page of the file. Runs without a count give one."""
        for run in self.runs:
            start = self._number(run.first)
            for step in range(run.count or 1):
                yield self._index(start + step), run, run.ifd + step

    def _number(self, index: Mapping[str, int]) -> int:
        number, stride = 0, 1
        for axis in self.order:
            number += index.get(axis, 0) * stride
            stride *= self.sizes[axis]
        return number

    def _index(self, number: int) -> dict[str, int]:
        index: dict[str, int] = {}
        for axis in self.order:
            number, index[axis] = divmod(number, self.sizes[axis])
        return index


@dataclass(frozen=True, slots=True)
class OmeXml:
    """What an OME-XML says. uuid: of the file that it was found in. metadata_file: where it really is, if it is but a pointer."""

    uuid: str
    images: tuple[OmeImage, ...]
    metadata_file: str


def parse_ome(text: str | bytes, path: str) -> OmeXml:
    """Parse an OME-XML. Raises StackError where it is none, or lacks what it must have."""
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - expat itself bounds what entities expand to
        images = tuple(_image(element) for element in _children(root, "Image"))
        pointer = next((element.get("MetadataFile", "") for element in _children(root, "BinaryOnly")), "")
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise StackError(f"its OME-XML cannot be read ({type(error).__name__}: {error})", path=path) from error
    return OmeXml(_plain(root.get("UUID", "")), images, pointer)


def ome_uuid(text: str, path: str) -> str:
    """The id of the file that an OME-XML is in, from its first element alone; empty where it has none."""
    try:
        _, root = next(iter(ElementTree.iterparse(BytesIO(text.encode()), ("start",))))  # noqa: S314
    except (ElementTree.ParseError, StopIteration) as error:
        raise StackError(f"its OME-XML cannot be read ({error})", path=path) from error
    return _plain(root.get("UUID", ""))


def _image(element: ElementTree.Element) -> OmeImage:
    pixels = next(_children(element, "Pixels"), None)
    if pixels is None:
        raise ValueError("an Image without Pixels")
    sizes = {axis: int(pixels.attrib[f"Size{axis.upper()}"]) for axis in "xyzct"}
    samples = next((int(channel.get("SamplesPerPixel", 1)) for channel in _children(pixels, "Channel")), 1)
    sizes["c"] = max(sizes["c"] // samples, 1)
    runs = tuple(_run(data) for data in _children(pixels, "TiffData"))
    return OmeImage(element.get("Name", ""), sizes, pixels.attrib["DimensionOrder"][2:].lower(), runs, dict(pixels.attrib))


def _run(data: ElementTree.Element) -> TiffData:
    first = {axis: int(data.get(f"First{axis.upper()}", 0)) for axis in "zct"}
    count = data.get("PlaneCount", data.get("NumPlanes", "1" if "IFD" in data.attrib else None))
    uuid = next(_children(data, "UUID"), None)
    named, file = ("", "") if uuid is None else (uuid.text or "", uuid.get("FileName", ""))
    return TiffData(int(data.get("IFD", 0)), first, None if count is None else int(count), _plain(named), file)


def _children(element: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    """The children of a name, of whatever version of the schema."""
    return (child for child in element if child.tag.rpartition("}")[2] == name)


def _plain(uuid: str) -> str:
    return uuid.strip().lower().removeprefix("urn:uuid:")
