"""Reading what is scored: every format gives the same voxels, and what does not fit is refused by file, shape and voxel size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from making import GRID, write_zarr

from brightfield.core.errors import GridError, InputError, SkeletonError, StackError
from brightfield.core.space import Grid
from brightfield.core.swc import write_swc
from brightfield.evaluation import predictions
from brightfield.evaluation.predictions import open_trace, open_volume_prediction, prediction_files
from brightfield.evaluation.voxels import FOREGROUND
from brightfield.testing.skeletons import cable

CODES = np.random.default_rng(5).choice(np.array([0, 0, 0, 1, 2, 3, 4, 255], np.uint8), GRID.shape_zyx)
WINDOW = ((3, 20), (10, 70), (100, 160))
GRIDS = [GRID, Grid((24, 48, 80), (1.0, 1.0, 1.0), (0.0, 0.25, 0.25))]


def write_ome_zarr(path: Path, voxels: np.ndarray, axes: str = "zyx", version: str = "0.4", **changes: object) -> Path:
    """An OME-Zarr as other programs write it."""
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    group.create_array("s0", data=voxels, chunks=tuple(min(n, 40) for n in voxels.shape))
    size = dict(zip("zyx", GRID.voxel_size_zyx_um, strict=True))
    multiscale = {
        "version": version,
        "axes": [{"name": a, "type": "space", "unit": "micrometer"} if a in "zyx" else {"name": a, "type": "channel"} for a in axes],
        "datasets": [{"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": [size.get(a, 1.0) for a in axes]}]}],
    } | changes
    group.attrs.update({"multiscales": [multiscale]} if version == "0.4" else {"ome": {"version": version, "multiscales": [multiscale]}})
    return path


def written(folder: Path, form: str) -> Path:
    ome = {"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "PhysicalSizeZ": 1.0}
    match form:
        case "npy":
            np.save(folder / "7.npy", CODES)
            return folder / "7.npy"
        case "fortran npy":
            np.save(folder / "7.npy", np.asfortranarray(CODES.astype(">i4")))
            return folder / "7.npy"
        case "tiff":
            tifffile.imwrite(folder / "7.tif", CODES)
        case "compressed tiff":
            tifffile.imwrite(folder / "7.tif", CODES, compression="zlib", tile=(32, 32))
        case "ome tiff":
            tifffile.imwrite(folder / "7.tif", CODES, ome=True, metadata=ome, compression="zlib")
        case "imagej tiff":
            tifffile.imwrite(
                folder / "7.tif", CODES, imagej=True, resolution=(2.0, 2.0), metadata={"axes": "ZYX", "spacing": 1.0, "unit": "um"}
            )
        case "our zarr":
            return write_zarr(folder / "7.zarr", CODES, GRID)
        case "ome-zarr 0.4":
            return write_ome_zarr(folder / "7.zarr", CODES)
        case "ome-zarr 0.5 with channels":
            return write_ome_zarr(folder / "7.zarr", CODES[None, None], "tczyx", "0.5")
    return folder / "7.tif"


FORMS = [
    "npy",
    "fortran npy",
    "tiff",
    "compressed tiff",
    "ome tiff",
    "imagej tiff",
    "our zarr",
    "ome-zarr 0.4",
    "ome-zarr 0.5 with channels",
]


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_same_codes(tmp_path: Path, form: str) -> None:
    prediction = open_volume_prediction(written(tmp_path, form), GRIDS)
    part = CODES[tuple(slice(*side) for side in WINDOW)]
    found = prediction.read(WINDOW)
    assert found.dtype == np.uint8
    assert (found == np.where(part == 255, 0, part)).all()
    assert (prediction.level, prediction.is_mask) == (0, False)


def test_values_above_the_threshold_are_foreground(tmp_path: Path) -> None:
    values = np.random.default_rng(1).random(GRID.shape_zyx).astype(np.float32)
    np.save(tmp_path / "7.npy", values)
    prediction = open_volume_prediction(tmp_path / "7.npy", GRIDS, 0.7)
    assert prediction.is_mask
    assert (prediction.read(GRID.window) == np.where(values > 0.7, FOREGROUND, 0)).all()
    np.save(tmp_path / "8.npy", values > 0.7)
    assert (open_volume_prediction(tmp_path / "8.npy", GRIDS).read(GRID.window) == prediction.read(GRID.window)).all()


def test_a_coarser_level_is_known_by_its_shape(tmp_path: Path) -> None:
    np.save(tmp_path / "7.npy", np.zeros(GRIDS[1].shape_zyx, np.uint8))
    assert open_volume_prediction(tmp_path / "7.npy", GRIDS).level == 1


# ------------------------------------------------------------------------------------------------------------------- refusals


def refused(path: Path, error: type[Exception], *words: str, threshold: float | None = None) -> None:
    """One line that names the file and says all of the words."""
    with pytest.raises(error) as caught:
        open_volume_prediction(path, GRIDS, threshold).read(GRID.window)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    for word in words:
        assert word in message


def test_another_shape_is_refused_with_the_levels(tmp_path: Path) -> None:
    np.save(tmp_path / "7.npy", CODES[:-1])
    refused(tmp_path / "7.npy", GridError, "(23, 96, 160)", "no voxel size", "(24, 96, 160) with voxels of (1, 0.5, 0.5) um", "level 1")


def test_a_transposed_volume_is_told_so(tmp_path: Path) -> None:
    np.save(tmp_path / "7.npy", CODES.T)
    refused(tmp_path / "7.npy", GridError, "order x, y, z", "transpose")


def test_axes_in_another_order_are_refused(tmp_path: Path) -> None:
    refused(write_ome_zarr(tmp_path / "7.zarr", CODES.T, "xyz"), StackError, "axes are x, y, z", "in the order z, y, x")
    tifffile.imwrite(tmp_path / "7.tif", CODES, metadata={"axes": "CYX"}, ome=True)
    refused(tmp_path / "7.tif", StackError, "its axes are CYX")
    tifffile.imwrite(tmp_path / "8.tif", np.zeros((2, *GRID.shape_zyx), np.uint8))
    refused(tmp_path / "8.tif", StackError, "one channel, planes first")


def test_another_voxel_size_is_refused_with_both(tmp_path: Path) -> None:
    scale = [{"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": [0.5, 0.5, 1.0]}]}]
    refused(write_ome_zarr(tmp_path / "7.zarr", CODES, datasets=scale), GridError, "voxels of (0.5, 0.5, 1) um", "(1, 0.5, 0.5) um")
    tifffile.imwrite(tmp_path / "7.tif", CODES, imagej=True, resolution=(4.0, 4.0), metadata={"axes": "ZYX", "spacing": 1.0, "unit": "um"})
    refused(tmp_path / "7.tif", GridError, "voxels of (1, 0.25, 0.25) um")


def test_a_scale_in_nanometers_is_understood(tmp_path: Path) -> None:
    axes = [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]
    scale = [{"path": "s0", "coordinateTransformations": [{"type": "scale", "scale": [1000.0, 500.0, 500.0]}]}]
    path = write_ome_zarr(tmp_path / "7.zarr", CODES, axes="zyx", datasets=scale)
    attributes = json.loads((path / ".zattrs").read_text())
    attributes["multiscales"][0]["axes"] = axes
    (path / ".zattrs").write_text(json.dumps(attributes))
    assert open_volume_prediction(path, GRIDS).level == 0


def test_a_missing_scale_or_unit_is_refused(tmp_path: Path) -> None:
    refused(write_ome_zarr(tmp_path / "7.zarr", CODES, datasets=[{"path": "s0"}]), StackError, "no scale", "coordinateTransformations")
    axes = [{"name": a, "type": "space"} for a in "zyx"]
    path = write_ome_zarr(tmp_path / "8.zarr", CODES)
    attributes = json.loads((path / ".zattrs").read_text())
    attributes["multiscales"][0]["axes"] = axes
    (path / ".zattrs").write_text(json.dumps(attributes))
    refused(path, StackError, "no unit of length", "micrometer")


def test_another_place_is_refused(tmp_path: Path) -> None:
    elsewhere = write_zarr(tmp_path / "7.zarr", CODES, Grid(GRID.shape_zyx, GRID.voxel_size_zyx_um, (0.0, 100.0, 0.0)))
    refused(elsewhere, GridError, "its origin is (0, 100, 0) um")


def test_values_that_are_no_codes_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "7.npy", np.full(GRID.shape_zyx, 17, np.uint16))
    refused(tmp_path / "7.npy", StackError, "the value 17", "2 axon", "--threshold")
    np.save(tmp_path / "9.npy", np.zeros(GRID.shape_zyx, np.complex64))
    refused(tmp_path / "9.npy", StackError, "complex64", threshold=0.5)
    np.save(tmp_path / "8.npy", np.zeros(GRID.shape_zyx, np.float32))
    refused(tmp_path / "8.npy", StackError, "float32, not label codes", "--threshold")


@pytest.mark.parametrize("name", ["7.npy", "7.tif", "7.zarr"])
def test_what_is_no_volume_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"hello")
    refused(tmp_path / name, StackError)


# --------------------------------------------------------------------------------------------------------------------- traces


def test_what_is_no_swc_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "7.swc").write_text("# fine\n1 1 0 0 0 1 -1\n2 3 zero 0 0 1 1\n")
    with pytest.raises(SkeletonError, match=r"7\.swc:3: "):
        open_trace(tmp_path / "7.swc", GRID)


def test_a_trace_in_voxels_is_read_with_its_unit_and_refused_without(tmp_path: Path) -> None:
    grid = Grid((40, 400, 400), (0.28, 0.1144, 0.1144))
    skeleton = cable(30.0)
    write_swc(skeleton, tmp_path / "7.swc", grid)
    trace = open_trace(tmp_path / "7.swc", grid, "voxels")
    assert trace.position_zyx_um == pytest.approx(skeleton.position_zyx_um)
    with pytest.raises(GridError, match=r"7\.swc: .* say --unit voxels") as caught:
        open_trace(tmp_path / "7.swc", grid)
    assert "(0.28, 0.1144, 0.1144) um" in str(caught.value)


@pytest.mark.parametrize("n", [1, 9])
@pytest.mark.parametrize(("away_um", "radius_um"), [(1e6, 0.2), (-1e6, 0.2), (9.9e6, 0.2), (5.0, 1e6)])
def test_a_trace_that_reaches_far_beyond_its_image_is_refused_before_it_is_cut_up(
    tmp_path: Path, away_um: float, radius_um: float, n: int
) -> None:
    trace = cable(30.0)
    position, radius = trace.position_zyx_um.copy(), trace.radius_um.copy()
    position[-n:, 2], radius[-n:] = away_um, radius_um
    write_swc(replace(trace, position_zyx_um=position, radius_um=radius), tmp_path / "7.swc")
    with pytest.raises(GridError, match=rf"7\.swc: node {32 - n} of the SWC .*\({n} such node.*--unit") as caught:
        open_trace(tmp_path / "7.swc", GRID)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------- finding files


def test_predictions_are_found_by_the_number_in_their_name(tmp_path: Path) -> None:
    for name in ("314804042.npy", "900000009_um.swc", "notes.txt", "v2model.npy"):
        (tmp_path / name).touch()
    (tmp_path / "cell-12.zarr").mkdir()
    found = prediction_files(tmp_path)
    assert {i: path.name for i, path in found.items()} == {314804042: "314804042.npy", 900000009: "900000009_um.swc", 12: "cell-12.zarr"}
    assert list(prediction_files(tmp_path, 12)) == [12]
    assert prediction_files(tmp_path / "v2model.npy", 5) == {5: tmp_path / "v2model.npy"}


@pytest.mark.parametrize(
    ("names", "path", "cell", "words"),
    [
        ([], "nothing.npy", None, "no such prediction"),
        (["model.npy"], "model.npy", None, "say --cell ID"),
        (["7.png"], "7.png", None, "one of .zarr, .npy"),
        (["7.swc", "7.npy"], ".", None, "both of cell 7"),
        (["7.swc"], ".", 8, "no prediction of cell 8, only of 7"),
        (["notes.txt"], ".", None, "holds no prediction"),
    ],
)
def test_what_cannot_be_told_is_asked(tmp_path: Path, names: list[str], path: str, cell: int | None, words: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=words):
        prediction_files(tmp_path / path, cell)


def test_a_compressed_tiff_is_unpacked_to_disk(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "7.tif", CODES, compression="zlib")
    raw = predictions.open_raw(tmp_path / "7.tif")
    assert isinstance(raw.read(GRID.window), np.ndarray)
    assert [path.name for path in tmp_path.iterdir()] == ["7.tif"]
