from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiff_writers import CENTIMETRE, GREY, PIXEL_UM, PLANE_UM, STORED, WRITERS, appended, multipage, ome_xml

from brightfield.core.errors import StackError
from brightfield.sources.folder.axes import Choice
from brightfield.sources.folder.calibration import voxel_um
from brightfield.sources.folder.entry import Entry
from brightfield.sources.folder.stacks import OpenStack, open_stack


def opened(home: Path, choice: Choice | None = None) -> OpenStack:
    entries = [Entry(str(path), path.stat().st_size, path.is_dir()) for path in sorted(home.iterdir())]
    stack = open_stack(fsspec.filesystem("file"), entries, str(home), choice)
    assert stack is not None
    return stack


def read(stack: OpenStack) -> NDArray[Any]:
    height, width = stack.shape_yx
    return np.stack([stack.read(number, (0, height, 0, width)) for number in stack.numbers])


def random_voxels(seed: int, shape: tuple[int, int, int], dtype: str) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 255 if dtype == "u1" else 65535, shape).astype(dtype)


@settings(max_examples=120)
@given(
    seed=st.integers(0, 99),
    shape=st.tuples(st.integers(1, 6), st.integers(17, 40), st.integers(17, 40)),
    dtype=st.sampled_from(["u1", "u2"]),
    way=st.sampled_from(sorted(WRITERS)),
    stored=st.sampled_from(sorted(STORED)),
)
def test_a_stack_reads_back_as_it_was_written_or_not_at_all(
    seed: int, shape: tuple[int, int, int], dtype: str, way: str, stored: str
) -> None:
    voxels = random_voxels(seed, shape, dtype)
    with tempfile.TemporaryDirectory() as home:
        WRITERS[way](Path(home), voxels, STORED[stored])
        stack = opened(Path(home))
        np.testing.assert_array_equal(read(stack), voxels)
        size = voxel_um(stack.statements)
        assert size["x"].um == size["y"].um == pytest.approx(PIXEL_UM, rel=1e-3)
        assert "z" not in size or size["z"].um == PLANE_UM
        assert ("z" in size) == (way in {"imagej", "ome", "ome_any_order", "ome_file_per_plane", "pyramid"})


@pytest.mark.parametrize("way", ["multipage", "plain_pages", "ome_any_order", "pyramid"])
@pytest.mark.parametrize("stored", sorted(STORED))
def test_boxes_are_those_of_tifffiles_own_zarr_store(tmp_path: Path, way: str, stored: str) -> None:
    WRITERS[way](tmp_path, random_voxels(1, (3, 40, 37), "u2"), STORED[stored])
    stack = opened(tmp_path)
    (path,) = tmp_path.iterdir()
    with tifffile.TiffFile(path) as tiff:
        array: Any = zarr.open_array(tiff.series[0].aszarr(level=0), mode="r")
        for box in ((0, 40, 0, 37), (5, 23, 11, 12), (39, 40, 0, 37), (16, 33, 15, 34)):
            for number in stack.numbers:
                y0, y1, x0, x1 = box
                np.testing.assert_array_equal(stack.read(number, box), array[number, y0:y1, x0:x1])


def test_planes_that_point_to_a_companion_are_in_its_order(tmp_path: Path) -> None:
    voxels = random_voxels(4, (3, 20, 30), "u1")
    data = [f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="p{2 - z}.tif">urn:uuid:{z}</UUID></TiffData>' for z in range(3)]
    (tmp_path / "all.companion.ome").write_text(ome_xml(voxels.shape, "uint8", data))
    for z, plane in enumerate(voxels):
        pointer = f'<?xml version="1.0"?><OME UUID="urn:uuid:{z}"><BinaryOnly MetadataFile="all.companion.ome" UUID="urn:uuid:c"/></OME>'
        tifffile.imwrite(tmp_path / f"p{2 - z}.tif", plane, **GREY, metadata=None, description=pointer)
    np.testing.assert_array_equal(read(opened(tmp_path)), voxels)
    (tmp_path / "all.companion.ome").unlink()
    with pytest.raises(StackError, match=r"its OME-XML is in all\.companion\.ome, which is not here"):
        opened(tmp_path)


# ------------------------------------------------------------------------------------------------------------- other axes

VOXELS = random_voxels(2, (2 * 3, 30, 40), "u1")
TWO = VOXELS.reshape(2, 3, 30, 40)


def hyperstack(home: Path, axes: str, kind: str) -> None:
    metadata = {"axes": axes, "PhysicalSizeX": PIXEL_UM, "PhysicalSizeY": PIXEL_UM} if kind == "ome" else {"axes": axes}
    options: dict[str, Any] = {} if kind == "imagej" else GREY
    name = "stack.ome.tif" if kind == "ome" else "stack.tif"
    tifffile.imwrite(home / name, TWO, imagej=kind == "imagej", metadata=metadata, **options)


@pytest.mark.parametrize("kind", ["imagej", "ome", "shaped"])
@pytest.mark.parametrize(("axes", "option"), [("TZYX", "time"), ("CZYX", "channel"), ("ZCYX", "channel"), ("ZTYX", "time")])
def test_one_of_several_channels_or_time_points_is_read_only_by_choice(tmp_path: Path, kind: str, axes: str, option: str) -> None:
    if kind == "imagej" and axes not in ("TZYX", "ZCYX"):
        pytest.skip("ImageJ's order is TZC")
    hyperstack(tmp_path, axes, kind)
    of_z = axes.index("Z")
    with pytest.raises(StackError, match=rf"source\.{option}=0 to {TWO.shape[1 - of_z] - 1}") as raised:
        opened(tmp_path)
    assert f"{axes[0].lower()}=2, {axes[1].lower()}=3" in str(raised.value) or f"z={TWO.shape[of_z]}" in str(raised.value)
    for number in range(TWO.shape[1 - of_z]):
        stack = opened(tmp_path, Choice(**{option: number}))
        np.testing.assert_array_equal(read(stack), TWO.take(number, axis=1 - of_z))
    with pytest.raises(StackError, match="is not there"):
        opened(tmp_path, Choice(**{option: 9}))


def test_the_same_file_read_for_another_channel_has_other_stamps(tmp_path: Path) -> None:
    hyperstack(tmp_path, "ZCYX", "imagej")
    stamps = [[stack.stamp(n) for n in stack.numbers] for stack in (opened(tmp_path, Choice(channel=n)) for n in (0, 1))]
    assert not set(stamps[0]) & set(stamps[1])


@pytest.mark.parametrize(("axes", "says"), [("TYX", "6 time points"), ("CYX", "6 channels")])
def test_a_series_without_z_is_no_stack(tmp_path: Path, axes: str, says: str) -> None:
    tifffile.imwrite(tmp_path / "stack.ome.tif", VOXELS, metadata={"axes": axes}, **GREY)
    with pytest.raises(StackError, match=f"{says}.*save them as z"):
        opened(tmp_path)


# ---------------------------------------------------------------------------------------------------------------- refused


def two_stacks(home: Path) -> None:
    tifffile.imwrite(home / "stack.tif", VOXELS, **GREY)
    tifffile.imwrite(home / "stack.tif", VOXELS, append=True, **GREY)


def two_ome_images(home: Path) -> None:
    with tifffile.TiffWriter(home / "stack.ome.tif") as writer:
        writer.write(VOXELS, **GREY, metadata={"axes": "ZYX"})
        writer.write(VOXELS, **GREY, metadata={"axes": "ZYX"})


def one_white_page(home: Path) -> None:
    with tifffile.TiffWriter(home / "stack.ome.tif") as writer:
        text = ome_xml(VOXELS.shape, "uint8", ["<TiffData/>"])
        for number, plane in enumerate(VOXELS):
            kind = "miniswhite" if number == 3 else "minisblack"
            writer.write(plane, photometric=kind, metadata=None, contiguous=False, description=text if not number else None)


def turned(home: Path) -> None:
    tifffile.imwrite(home / "stack.tif", VOXELS, **GREY, extratags=[(274, "H", 1, 3, True)])


def big_preview(home: Path) -> None:
    tifffile.imwrite(home / "stack.tif", np.zeros((100, 100), "u1"), **GREY)
    tifffile.imwrite(home / "stack.tif", VOXELS, append=True, **GREY)


def ome_lacks_planes(home: Path) -> None:
    text = ome_xml((9, 30, 40), "uint8", ["<TiffData/>"])
    tifffile.imwrite(home / "stack.ome.tif", VOXELS, **GREY, metadata=None, description=text)


def ome_file_is_gone(home: Path) -> None:
    WRITERS["ome_file_per_plane"](home, VOXELS, {})
    (home / "img_003.ome.tif").unlink()


def ome_is_broken(home: Path) -> None:
    text = ome_xml(VOXELS.shape, "uint8", ["<TiffData/>"]).replace("<Image ", "<Image <")
    tifffile.imwrite(home / "stack.ome.tif", VOXELS, **GREY, metadata=None, description=text)


def imagej_counts_fewer(home: Path) -> None:
    text = "ImageJ=1.53t\nimages=4\nslices=4\nunit=micron\nspacing=0.5\n"
    with tifffile.TiffWriter(home / "stack.tif") as writer:
        for number, plane in enumerate(VOXELS):
            writer.write(plane, **GREY, metadata=None, contiguous=False, description=text if not number else None)


def volumetric(home: Path) -> None:
    tifffile.imwrite(home / "stack.tif", random_voxels(1, (4, 32, 32), "u1"), volumetric=True, tile=(4, 16, 16), **GREY)


def cut_short(home: Path) -> None:
    multipage(home, VOXELS, {})
    data = (home / "stack.tif").read_bytes()
    (home / "stack.tif").write_bytes(data[: len(data) - 500])


REFUSED: dict[str, tuple[Any, str]] = {
    "two stacks": (two_stacks, "2 images in one file"),
    "two OME images": (two_ome_images, "2 images in one file"),
    "one page with white as 0": (one_white_page, "0 is black"),
    "turned": (turned, "turned or mirrored"),
    "a preview larger than the planes": (big_preview, "2 images in one file"),
    "OME counts more planes": (ome_lacks_planes, "not clear"),
    "a file of the OME set is gone": (ome_file_is_gone, r"img_003\.ome\.tif first"),
    "broken OME-XML": (ome_is_broken, "cannot be"),
    "ImageJ counts fewer": (imagej_counts_fewer, "count 4 planes, the file has 6 pages"),
    "volumetric tiles": (volumetric, "expected"),
    "cut short": (cut_short, "count 6 planes, the file has 3 pages"),
    "colour": (lambda home: tifffile.imwrite(home / "a.tif", np.zeros((9, 9, 3), "u1"), photometric="rgb"), "grey planes"),
    "floating point": (lambda home: tifffile.imwrite(home / "a.tif", np.zeros((9, 9), "f4")), "grey planes"),
    "signed": (lambda home: tifffile.imwrite(home / "a.tif", np.zeros((9, 9), "i2"), **GREY), "grey planes"),
    "palette": (
        lambda home: tifffile.imwrite(home / "a.tif", np.zeros((9, 9), "u1"), photometric="palette", colormap=np.zeros((3, 256), "u2")),
        "0 is black|grey planes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_surely_the_stack_is_refused_with_a_reason(tmp_path: Path, case: str) -> None:
    write, says = REFUSED[case]
    write(tmp_path)
    with pytest.raises(StackError, match=says) as raised:
        opened(tmp_path)
    assert str(tmp_path) in str(raised.value)


def test_tifffile_says_nothing_to_the_user(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    ome_lacks_planes(tmp_path)
    with pytest.raises(StackError):
        opened(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_planes_appended_one_by_one_are_planes(tmp_path: Path) -> None:
    appended(tmp_path, VOXELS, {})
    stack = opened(tmp_path)
    assert stack.axes == "z=6, y=30, x=40"
    assert CENTIMETRE["resolutionunit"] == "CENTIMETER"
    np.testing.assert_array_equal(read(stack), VOXELS)
