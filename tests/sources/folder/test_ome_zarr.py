from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tiff_ways import opened, random_voxels, read
from tiff_writers import ome_xml

from brightfield.core.errors import StackError
from brightfield.sources.folder.axes import Choice
from brightfield.sources.folder.calibration import voxel_um

VOXELS = random_voxels(3, (5, 40, 50), "u2")
SIZES = {"z": 0.5, "y": 0.25, "x": 0.25}


def write(home: Path, axes: str = "zyx", version: str = "0.5", place: str = "", voxels: Any = VOXELS, **options: Any) -> dict[str, Any]:
    """An OME-Zarr of one level; returns what it says, to be spoiled. `voxels` (z, y, x); other axes get length 1."""
    extra = {axis: 1 for axis in axes if axis not in "zyx"}
    data = np.transpose(voxels, ["zyx".index(axis) for axis in axes if axis in "zyx"]).reshape(
        [extra.get(axis, 0) or voxels.shape["zyx".index(axis)] for axis in axes]
    )
    group = zarr.open_group(home / "image.zarr" / place, mode="a", zarr_format=2 if version == "0.4" else 3)
    group.create_array("0", data=data, **options)
    named = [
        {"name": axis, "type": "space" if axis in "zyx" else "other"} | ({"unit": "micrometer"} if axis in "zyx" else {}) for axis in axes
    ]
    scale = [{"type": "scale", "scale": [SIZES.get(axis, 1.0) for axis in axes]}]
    image = {"version": version, "axes": named, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    state(home, image, place)
    return image


def state(home: Path, image: Any, place: str = "", **more: Any) -> None:
    """Write attributes in the way of the version."""
    group = zarr.open_group(home / "image.zarr" / place, mode="r+")
    images = {"multiscales": image if isinstance(image, list) else [image], **more}
    is_old = group.metadata.zarr_format == 2
    group.attrs.update(images if is_old else {"ome": {"version": "0.5", **images}})


def size_of(home: Path) -> dict[str, float]:
    return {axis: statement.um for axis, statement in voxel_um(opened(home).statements).items()}


@settings(max_examples=25)
@given(axes=st.permutations("zyx"), extra=st.sampled_from(["", "c", "tc"]), version=st.sampled_from(["0.4", "0.5"]), sharded=st.booleans())
def test_any_order_of_axes_chunks_and_shards_reads_back_by_name(
    tmp_path_factory: pytest.TempPathFactory, axes: list[str], extra: str, version: str, *, sharded: bool
) -> None:
    home = tmp_path_factory.mktemp("zarr")
    names = extra + "".join(axes)
    options: dict[str, Any] = {"chunks": tuple(8 if axis in "yx" else 2 if axis == "z" else 1 for axis in names)}
    if sharded and version == "0.5":
        options["shards"] = tuple(16 if axis in "yx" else 4 if axis == "z" else 1 for axis in names)
    write(home, names, version, **options)
    np.testing.assert_array_equal(read(opened(home)), VOXELS)
    assert size_of(home) == SIZES


@pytest.mark.parametrize(
    "options",
    [
        {"compressors": zarr.codecs.GzipCodec()},
        {"compressors": zarr.codecs.ZstdCodec()},
        {"compressors": zarr.codecs.BloscCodec(cname="lz4")},
        {"compressors": None},
    ],
    ids=["gzip", "zstd", "lz4", "none"],
)
def test_any_compressor(tmp_path: Path, options: dict[str, Any]) -> None:
    write(tmp_path, chunks=(2, 16, 16), **options)
    np.testing.assert_array_equal(read(opened(tmp_path)), VOXELS)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_scale_is_the_product_of_both_places(tmp_path: Path, version: str) -> None:
    image = write(tmp_path, version=version)
    image["datasets"][0]["coordinateTransformations"][0]["scale"] = [1.0, 1.0, 1.0]
    image["coordinateTransformations"] = [{"type": "scale", "scale": [0.5, 0.25, 0.25]}]
    state(tmp_path, image)
    assert size_of(tmp_path) == SIZES
    del image["datasets"][0]["coordinateTransformations"]
    state(tmp_path, image)
    assert size_of(tmp_path) == SIZES


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("listed", [True, False])
def test_the_layout_of_bioformats2raw(tmp_path: Path, version: str, *, listed: bool) -> None:
    write(tmp_path, "tczyx", version, place="0")
    root = zarr.open_group(tmp_path / "image.zarr", mode="a", zarr_format=2 if version == "0.4" else 3)
    root.attrs.update({"bioformats2raw.layout": 3} if version == "0.4" else {"ome": {"version": "0.5", "bioformats2raw.layout": 3}})
    if listed:
        root.create_group("OME").attrs.update({"series": ["0"]} if version == "0.4" else {"ome": {"version": "0.5", "series": ["0"]}})
    stack = opened(tmp_path)
    np.testing.assert_array_equal(read(stack), VOXELS)
    assert stack.kind == f"OME-Zarr {version}, image 0"
    (tmp_path / "image.zarr" / "OME").mkdir(exist_ok=True)
    (tmp_path / "image.zarr" / "OME" / "METADATA.ome.xml").write_text(ome_xml((5, 40, 50), "uint16", [], sizes='PhysicalSizeZ="0.7"'))
    with pytest.raises(StackError, match=r"scale of level 0, z says 0\.5 um, OME-XML PhysicalSizeZ says 0\.7 um"):
        size_of(tmp_path)
    write(tmp_path, "tczyx", version, place="1")
    if listed:
        root["OME"].attrs.update({"series": ["0", "1"]} if version == "0.4" else {"ome": {"version": "0.5", "series": ["0", "1"]}})
    with pytest.raises(StackError, match=r"2 images in one store \(0, 1\)"):
        opened(tmp_path)


def test_a_channel_is_read_by_choice(tmp_path: Path) -> None:
    image = write(tmp_path)
    both = np.stack([VOXELS, 9 + VOXELS], axis=1)
    group = zarr.open_group(tmp_path / "image.zarr", mode="r+")
    group.create_array("both", data=both, chunks=(2, 1, 16, 16))
    image["axes"].insert(1, {"name": "c", "type": "channel"})
    image["datasets"] = [{"path": "both", "coordinateTransformations": [{"type": "scale", "scale": [0.5, 1, 0.25, 0.25]}]}]
    state(tmp_path, image)
    with pytest.raises(StackError, match=r"axes z=5, c=2, y=40, x=50: 2 channels, expected one; choose one with source\.channel=0 to 1"):
        opened(tmp_path)
    np.testing.assert_array_equal(read(opened(tmp_path, Choice(channel=1))), 9 + VOXELS)


def _plate(image: dict[str, Any], home: Path) -> None:
    state(home, image, plate={"wells": []})


def _two_images(image: dict[str, Any], home: Path) -> None:
    state(home, [image, image])


def _coarse_first(image: dict[str, Any], home: Path) -> None:
    zarr.open_group(home / "image.zarr", mode="r+").create_array("1", data=VOXELS[:, ::2, ::2])
    state(home, {**image, "datasets": [{**image["datasets"][0], "path": "1"}, image["datasets"][0]]})


def _negative(image: dict[str, Any], home: Path) -> None:
    image["datasets"][0]["coordinateTransformations"][0]["scale"] = [-0.5, 0.25, 0.25]
    state(home, image)


def _affine(image: dict[str, Any], home: Path) -> None:
    image["datasets"][0]["coordinateTransformations"] = [{"type": "affine", "affine": []}]
    state(home, image)


def _axes_short(image: dict[str, Any], home: Path) -> None:
    state(home, {**image, "axes": image["axes"][1:]})


def _no_image(image: dict[str, Any], home: Path) -> None:
    state(home, [])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_plate, "plate of many fields"),
        (_two_images, "2 images in one group"),
        (_coarse_first, "larger than the first one"),
        (_negative, "states a voxel of -0.5 um along z"),
        (_affine, "'affine' is none of"),
        (_axes_short, "2 axes are named, the array has 3"),
        (_no_image, "not an OME-Zarr image"),
    ],
)
def test_what_is_not_surely_one_stack_is_refused(tmp_path: Path, spoil: Any, says: str) -> None:
    spoil(write(tmp_path), tmp_path)
    with pytest.raises(StackError, match=says):
        size_of(tmp_path)


def test_a_scale_without_a_unit_is_a_note(tmp_path: Path) -> None:
    image = write(tmp_path)
    del image["axes"][0]["unit"]
    state(tmp_path, image)
    assert size_of(tmp_path) == {"y": 0.25, "x": 0.25}
    assert "without a unit" in opened(tmp_path).statements.notes[0]
