"""Every way in which people write a stack as TIFF, for tests: each writes `voxels` (z, y, x) into a directory."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

type Voxels = NDArray[Any]
type Writer = Callable[[Path, Voxels, dict[str, Any]], None]

PIXEL_UM, PLANE_UM = 0.25, 0.5
CENTIMETRE: dict[str, Any] = {"resolution": (1e4 / PIXEL_UM, 1e4 / PIXEL_UM), "resolutionunit": "CENTIMETER"}
GREY: dict[str, Any] = {"photometric": "minisblack"}

STORED: dict[str, dict[str, Any]] = {
    "plain": {},
    "strips": {"rowsperstrip": 3},
    "lzw": {"compression": "lzw", "rowsperstrip": 5, "predictor": True},
    "deflate": {"compression": "zlib"},
    "zstd": {"compression": "zstd", "rowsperstrip": 7},
    "tiled": {"tile": (16, 32)},
    "tiled deflate": {"tile": (32, 16), "compression": "zlib"},
}
"""How tifffile is told to store pages."""


def planes(home: Path, voxels: Voxels, stored: dict[str, Any]) -> None:
    for number, plane in enumerate(voxels):
        tifffile.imwrite(home / f"z{number}.tif", plane, **GREY, **CENTIMETRE, **stored)


def multipage(home: Path, voxels: Voxels, stored: dict[str, Any]) -> None:
    tifffile.imwrite(home / "stack.tif", voxels, **GREY, **CENTIMETRE, **stored)


def plain_pages(home: Path, voxels: Voxels, stored: dict[str, Any]) -> None:
    """As programs that know nothing of tifffile write them."""
    with tifffile.TiffWriter(home / "stack.tif") as writer:
        for plane in voxels:
            writer.write(plane, **GREY, **CENTIMETRE, **stored, metadata=None, contiguous=False)


def appended(home: Path, voxels: Voxels, stored: dict[str, Any]) -> None:
    for plane in voxels:
        tifffile.imwrite(home / "stack.tif", plane, append=True, **GREY, **CENTIMETRE, **stored)


def appended_in_one_go(home: Path, voxels: Voxels, stored: dict[str, Any]) -> None:
    with tifffile.TiffWriter(home / "stack.tif") as writer:
        for plane in voxels:
            writer.write(plane, **GREY, **CENTIMETRE, **stored)


def bigtiff(home: Path, voxels: Voxels, stored: dict[str, Any]) -> None:
    tifffile.imwrite(home / "stack.tif", voxels, bigtiff=True, byteorder=">", **GREY, **CENTIMETRE, **stored)


def imagej(home: Path, voxels: Voxels, stored: dict[str, Any]) -> None:
    del stored  # ImageJ stores pages one way only
    notes = {"axes": "ZYX", "spacing": PLANE_UM, "unit": "micron"}
    tifffile.imwrite(home / "stack.tif", voxels, imagej=True, resolution=(1 / PIXEL_UM, 1 / PIXEL_UM), metadata=notes)


OME_SIZES = {f"PhysicalSize{axis}": size for axis, size in zip("XYZ", (PIXEL_UM, PIXEL_UM, PLANE_UM), strict=True)}


def ome(home: Path, voxels: Voxels, stored: dict[str, Any]) -> None:
    tifffile.imwrite(home / "stack.ome.tif", voxels, **GREY, **stored, metadata={"axes": "ZYX", **OME_SIZES})


def ome_xml(shape: Sequence[int], dtype: str, tiff_data: Sequence[str], own: str = "", sizes: str = "", order: str = "XYZCT") -> str:
    """An OME-XML for planes (z, y, x) of an image, by hand."""
    n_planes, height, width = shape
    sizes = sizes or " ".join(f'{key}="{value}"' for key, value in OME_SIZES.items())
    pixels = f'SizeX="{width}" SizeY="{height}" SizeZ="{n_planes}" SizeC="1" SizeT="1" Type="{dtype}"'
    return (
        f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{own}><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="{order}" {pixels} {sizes}><Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
        f"{''.join(tiff_data)}</Pixels></Image></OME>"
    )


def ome_any_order(home: Path, voxels: Voxels, stored: dict[str, Any]) -> None:
    """Pages in another order than the planes."""
    order = np.random.default_rng(len(voxels)).permutation(len(voxels))
    data = [f'<TiffData IFD="{page}" FirstZ="{z}" FirstC="0" FirstT="0" PlaneCount="1"/>' for page, z in enumerate(order)]
    text = ome_xml(voxels.shape, voxels.dtype.name, data)
    with tifffile.TiffWriter(home / "stack.ome.tif") as writer:
        for page, z in enumerate(order):
            writer.write(voxels[z], **GREY, **stored, metadata=None, description=text if page == 0 else None, contiguous=False)


def ome_file_per_plane(home: Path, voxels: Voxels, stored: dict[str, Any]) -> None:
    """Names in another order than the planes."""
    order = np.random.default_rng(7).permutation(len(voxels))
    ids = [uuid.uuid5(uuid.NAMESPACE_URL, str(z)) for z in range(len(voxels))]
    names = [f"img_{n:03d}.ome.tif" for n in order]
    data = [
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="{names[z]}">urn:uuid:{ids[z]}</UUID></TiffData>'
        for z in range(len(voxels))
    ]
    for z, plane in enumerate(voxels):
        text = ome_xml(voxels.shape, voxels.dtype.name, data, own=f' UUID="urn:uuid:{ids[z]}"')
        tifffile.imwrite(home / names[z], plane, **GREY, **stored, metadata=None, description=text)


def pyramid(home: Path, voxels: Voxels, stored: dict[str, Any]) -> None:
    """Coarser levels as SubIFDs, as OME-TIFF has them."""
    with tifffile.TiffWriter(home / "stack.ome.tif") as writer:
        writer.write(voxels, subifds=1, **GREY, **stored, metadata={"axes": "ZYX", **OME_SIZES})
        writer.write(voxels[:, ::2, ::2], subfiletype=1, **GREY, **stored)


def preview_first(home: Path, voxels: Voxels, stored: dict[str, Any]) -> None:
    with tifffile.TiffWriter(home / "stack.tif") as writer:
        writer.write(voxels[0, ::4, ::4], **GREY, metadata=None)
        for plane in voxels:
            writer.write(plane, **GREY, **CENTIMETRE, **stored, metadata=None, contiguous=False)


def flagged_preview_last(home: Path, voxels: Voxels, stored: dict[str, Any]) -> None:
    with tifffile.TiffWriter(home / "stack.tif") as writer:
        for plane in voxels:
            writer.write(plane, **GREY, **CENTIMETRE, **stored, metadata=None, contiguous=False)
        writer.write(voxels[0, ::2, ::2], subfiletype=1, **GREY, metadata=None)


def thumbnails_between(home: Path, voxels: Voxels, stored: dict[str, Any]) -> None:
    """A thumbnail after every plane, as scanners write them."""
    with tifffile.TiffWriter(home / "stack.tif") as writer:
        for plane in voxels:
            writer.write(plane, **GREY, **CENTIMETRE, **stored, metadata=None, contiguous=False)
            writer.write(plane[::3, ::3], subfiletype=1, **GREY, metadata=None)


def preview_and_appended(home: Path, voxels: Voxels, stored: dict[str, Any]) -> None:
    tifffile.imwrite(home / "stack.tif", voxels[0, ::4, ::4], **GREY)
    appended(home, voxels, stored)


WRITERS: dict[str, Writer] = {
    writer.__name__: writer
    for writer in (
        *(planes, multipage, plain_pages, appended, appended_in_one_go, bigtiff, imagej, ome, ome_any_order, ome_file_per_plane),
        *(pyramid, preview_first, flagged_preview_last, thumbnails_between, preview_and_appended),
    )
}
