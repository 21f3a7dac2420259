from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tifffile
from test_tiff_ways import VOXELS, opened
from tiff_writers import GREY, ome_xml

from brightfield.core.errors import StackError
from brightfield.sources.folder.calibration import Statements, unit_um, voxel_um

PIXEL_UM, PLANE_UM = 0.25, 0.5
UNITS = {
    "µm": 1,
    "μm": 1,
    "um": 1,
    "\\u00B5m": 1,
    "micron": 1,
    "microns": 1,
    "micrometer": 1,
    "micrometers": 1,
    "Micrometre": 1,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "Å": 1e-4,
    "angstrom": 1e-4,
    "pm": 1e-6,
    "mm": 1e3,
    "cm": 1e4,
    "dm": 1e5,
    "m": 1e6,
    "km": 1e9,
    "inch": 25400,
    "in": 25400,
    "thou": 25.4,
    "ft": 304800,
    "Mm": 1e12,
    "Ym": 1e30,
    "yoctometer": 1e-18,
    "deckameter": None,
    "pixel": None,
    "px": None,
    "": None,
    "reference frame": None,
    "second": None,
}


@pytest.mark.parametrize("unit", UNITS)
def test_units_are_those_of_ome_ome_zarr_and_imagej(unit: str) -> None:
    found = unit_um(unit)
    assert found is None if UNITS[unit] is None else found == pytest.approx(UNITS[unit], rel=1e-12)


def size_of(home: Path, **configured: float) -> tuple[float | None, float | None]:
    """Pixel and plane size that the one file of a directory states."""
    size = voxel_um(opened(home).statements, **configured)
    return (size["x"].um if "x" in size else None, size["z"].um if "z" in size else None)


def write_imagej(home: Path, unit: str | None, factor: float, *, spacing: float = PLANE_UM, resolutionunit: int = 1) -> None:
    """`factor`: of the unit in um."""
    notes = {"axes": "ZYX", "spacing": spacing / factor, **({} if unit is None else {"unit": unit})}
    resolution = (factor / PIXEL_UM, factor / PIXEL_UM)
    tifffile.imwrite(home / "stack.tif", VOXELS, imagej=True, metadata=notes, resolution=resolution, resolutionunit=resolutionunit)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("micron", 1), ("um", 1), ("micrometers", 1), ("\\u00B5m", 1), ("nm", 1e-3), ("mm", 1e3), ("cm", 1e4), ("inch", 25400)],
)
def test_imagej_units(tmp_path: Path, unit: str, factor: float) -> None:
    write_imagej(tmp_path, unit, factor)
    assert size_of(tmp_path) == pytest.approx((PIXEL_UM, PLANE_UM), rel=1e-4)


@pytest.mark.parametrize(("tag", "factor"), [(2, 25400), (3, 1e4)])
def test_imagej_takes_the_unit_of_the_tags_where_it_names_none(tmp_path: Path, tag: int, factor: float) -> None:
    write_imagej(tmp_path, None, factor, resolutionunit=tag)
    assert size_of(tmp_path) == pytest.approx((PIXEL_UM, PLANE_UM), rel=1e-4)


@pytest.mark.parametrize("unit", ["pixel", "foo"])
def test_a_unit_that_is_no_length_says_nothing(tmp_path: Path, unit: str) -> None:
    write_imagej(tmp_path, unit, 1)
    assert size_of(tmp_path) == (None, None)
    assert unit in " ".join(opened(tmp_path).statements.notes)


@pytest.mark.parametrize("spacing", [0.0, -0.5, float("nan")])
def test_a_spacing_that_cannot_be_is_a_reason_unless_it_is_configured(tmp_path: Path, spacing: float) -> None:
    write_imagej(tmp_path, "micron", 1, spacing=spacing)
    with pytest.raises(StackError, match=r"ImageJ spacing states .* along z; correct it, or set source\.plane_um"):
        size_of(tmp_path)
    assert size_of(tmp_path, plane_um=2.0) == pytest.approx((PIXEL_UM, 2.0))


@pytest.mark.parametrize(("unit", "per_um"), [("CENTIMETER", 1e4), ("INCH", 25400.0), ("NONE", 1.0)])
def test_resolution_tags_by_their_unit(tmp_path: Path, unit: str, per_um: float) -> None:
    resolution = (per_um / PIXEL_UM, per_um / PIXEL_UM)
    tifffile.imwrite(tmp_path / "stack.tif", VOXELS, **GREY, resolution=resolution, resolutionunit=unit)
    assert size_of(tmp_path) == ((None, None) if unit == "NONE" else (pytest.approx(PIXEL_UM, rel=1e-5), None))


def write_ome(home: Path, sizes: str, **options: Any) -> None:
    text = ome_xml(VOXELS.shape, "uint8", ["<TiffData/>"], sizes=sizes)
    tifffile.imwrite(home / "stack.ome.tif", VOXELS, **GREY, metadata=None, description=text.encode(), **options)


@pytest.mark.parametrize(
    "sizes",
    [
        'PhysicalSizeX="0.25" PhysicalSizeY="0.25" PhysicalSizeZ="0.5"',
        'PhysicalSizeX="0.25" PhysicalSizeXUnit="&#181;m" PhysicalSizeY="0.25" PhysicalSizeYUnit="&#xB5;m" PhysicalSizeZ="0.5"',
        "PhysicalSizeX='0.25' PhysicalSizeXUnit='um' PhysicalSizeY='0.25' PhysicalSizeZ='500' PhysicalSizeZUnit='nm'",
        'PhysicalSizeX = "250"  PhysicalSizeXUnit="nm"\n PhysicalSizeY="2.5E-4" PhysicalSizeYUnit="mm" PhysicalSizeZ="0.5"',
    ],
    ids=["default unit", "entities", "single quotes", "spaces and other units"],
)
def test_ome_xml_is_parsed(tmp_path: Path, sizes: str) -> None:
    write_ome(tmp_path, sizes)
    assert size_of(tmp_path) == pytest.approx((PIXEL_UM, PLANE_UM), rel=1e-9)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ('PhysicalSizeX="0.25" PhysicalSizeY="0.25" PhysicalSizeZ="-0.5"', "states a voxel of -0.5 um along z"),
        ('PhysicalSizeX="0" PhysicalSizeY="0.25" PhysicalSizeZ="0.5"', "states a voxel of 0 um along x"),
        ('PhysicalSizeX="a" PhysicalSizeY="0.25" PhysicalSizeZ="0.5"', "along x"),
        ('PhysicalSizeX="0.25" PhysicalSizeY="0.5" PhysicalSizeZ="0.5"', "expected squares"),
    ],
)
def test_what_cannot_be_a_size_is_a_reason(tmp_path: Path, sizes: str, says: str) -> None:
    write_ome(tmp_path, sizes)
    with pytest.raises(StackError, match=says):
        size_of(tmp_path)


def test_a_size_stated_twice_must_agree(tmp_path: Path) -> None:
    sizes = 'PhysicalSizeX="0.25" PhysicalSizeY="0.25" PhysicalSizeZ="0.5"'
    write_ome(tmp_path, sizes, resolution=(1e4 / 0.25, 1e4 / 0.25), resolutionunit="CENTIMETER")
    assert size_of(tmp_path) == (PIXEL_UM, PLANE_UM)
    write_ome(tmp_path, sizes, resolution=(1e4 / 0.3, 1e4 / 0.3), resolutionunit="CENTIMETER")
    with pytest.raises(StackError, match=r"OME-XML PhysicalSizeY says 0\.25 um, YResolution per cm says 0\.3 um; set source\.pixel_um"):
        size_of(tmp_path)
    assert size_of(tmp_path, pixel_um=0.3) == (0.3, PLANE_UM)


def test_dots_per_inch_that_nobody_measured_are_a_note(tmp_path: Path) -> None:
    write_ome(tmp_path, 'PhysicalSizeX="352.7" PhysicalSizeY="352.7"', resolution=(72, 72), resolutionunit="INCH")
    assert size_of(tmp_path) == (None, None)
    assert len(opened(tmp_path).statements.notes) == 4


def test_the_sizes_are_those_of_the_image_that_is_in_the_file(tmp_path: Path) -> None:
    """An OME-XML of two images, of which another file holds the first."""
    text = ome_xml(VOXELS.shape, "uint8", ["<TiffData/>"])
    begin, image, end = text.partition("<Image")[0], text[text.index("<Image") : text.index("</OME>")], "</OME>"
    elsewhere = image.replace("0.25", "7").replace(
        "<TiffData/>", '<TiffData IFD="0" PlaneCount="6"><UUID FileName="b.tif">urn:uuid:b</UUID></TiffData>'
    )
    here = image.replace("<TiffData/>", '<TiffData IFD="0" PlaneCount="6"><UUID FileName="a.tif">urn:uuid:a</UUID></TiffData>')
    root = begin.replace("2016-06", '2016-06" UUID="urn:uuid:a')
    tifffile.imwrite(tmp_path / "a.tif", VOXELS, **GREY, metadata=None, description=root + elsewhere + here + end)
    assert size_of(tmp_path) == (PIXEL_UM, PLANE_UM)


def test_statements_name_their_places() -> None:
    statements = Statements()
    statements.add("x", 250, "nm", "here")
    statements.add("x", 0.2501, 1.0, "there")
    statements.add("x", 3, None, "nowhere")
    found = statements.size("x")
    assert found is not None
    assert (found.um, found.where) == (0.25, "here")
    assert statements.size("y") is None
    assert len(statements.notes) == 1
