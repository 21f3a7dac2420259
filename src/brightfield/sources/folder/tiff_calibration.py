"""What a TIFF says of its voxels: OME-XML, ImageJ's notes, the notes of other programs as tifffile reads them, and the resolution tags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from brightfield.sources.folder.calibration import Statements, unit_um
from brightfield.sources.folder.ome_xml import OmeImage, OmeXml, parse_ome

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

_RESOLUTION_UNITS = {2: "inch", 3: "cm"}
_PLAIN = frozenset({"ome", "imagej", "shaped", "generic", "uniform"})
"""Kinds of series whose coordinates tifffile takes from what is read here already."""


def state_tiff(statements: Statements, tiff: TiffFile, series: TiffPageSeries, path: str) -> None:
    """Take down every statement of a file on the voxels of a series."""
    page = series.keyframe
    if tiff.ome_metadata:
        image = described_image(parse_ome(tiff.ome_metadata, path), path)
        if image is not None:
            image.state(statements)
    notes: dict[str, Any] = dict(tiff.imagej_metadata or {})
    if not notes and series.kind == "shaped":
        notes = dict((tiff.shaped_metadata or ({},))[0])
    _state_notes(statements, page, notes, "ImageJ" if tiff.is_imagej else "tifffile")
    _state_tags(statements, page)
    if series.kind not in _PLAIN:
        _state_coordinates(statements, series)


def described_image(xml: OmeXml, path: str) -> OmeImage | None:
    """The image whose planes are in the file at `path`: the only one, or the only one that says so. None where that is not clear."""
    name = path.rpartition("/")[2].lower()

    def here(image: OmeImage) -> bool:
        return any(not (run.uuid or run.file) or run.uuid == xml.uuid != "" or run.file.lower() == name for run in image.runs)

    images = [image for image in xml.images if here(image)] if len(xml.images) > 1 else list(xml.images)
    return images[0] if len(images) == 1 else None


def _state_notes(statements: Statements, page: TiffPage, notes: dict[str, Any], program: str) -> None:
    """ImageJ: pixels per unit in the resolution tags, planes' distance as `spacing`, the unit by name, else that of the tags."""
    unit = notes.get("unit")
    if unit is not None:
        for axis, key, tag in (("x", "unit", "XResolution"), ("y", "yunit", "YResolution")):
            named = str(notes.get(key, unit))
            if unit_um(named) is not None:
                statements.add(axis, _per_pixel(page, tag), named, f"{program} unit={named} with {tag}")
    z_unit = notes.get("zunit", unit) or _RESOLUTION_UNITS.get(_resolution_unit(page))
    if notes.get("spacing") is not None:
        statements.add("z", notes["spacing"], None if z_unit is None else str(z_unit), f"{program} spacing")


def _state_tags(statements: Statements, page: TiffPage) -> None:
    """The resolution tags, where they have a unit of length."""
    unit = _RESOLUTION_UNITS.get(_resolution_unit(page))
    if unit is not None:
        for axis, tag in (("x", "XResolution"), ("y", "YResolution")):
            statements.add(axis, _per_pixel(page, tag), unit, f"{tag} per {unit}")


def _state_coordinates(statements: Statements, series: TiffPageSeries) -> None:
    """The notes of other programs (LSM, STK, Micro-Manager and so on), as far as the installed tifffile knows their units."""
    scales, units = getattr(series, "coord_scales", {}), getattr(series, "coord_units", {})
    for axis in "ZYX":
        if axis in scales and unit_um(str(units.get(axis, ""))) is not None:
            statements.add(axis.lower(), scales[axis], str(units[axis]), f"the {series.kind} notes")


def _per_pixel(page: TiffPage, tag: str) -> float | None:
    """Units a pixel, from the tag's pixels a unit; None where there is no tag, or it is 0 or 1/0: nobody measured."""
    found = page.tags.get(tag)
    if found is None:
        return None
    value = found.value
    above, below = value if isinstance(value, tuple) else (value, 1)
    return float(below) / float(above) if above and below else None


def _resolution_unit(page: TiffPage) -> int:
    found = page.tags.get("ResolutionUnit")
    return int(found.value) if found is not None else 1
