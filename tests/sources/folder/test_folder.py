from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tifffile
import zarr
from fsspec import AbstractFileSystem
from numpy.typing import NDArray
from PIL import Image

from brightfield.config.options import CoverageKind, ImageConfig, SourceConfig, SourceKind, SwcUnit
from brightfield.core.cell import Cell, Crop
from brightfield.core.codes import FULL_AXON_UM
from brightfield.core.errors import SourceError, StackError, TransferError
from brightfield.core.swc import format_swc, parse_swc
from brightfield.sources.allen.service import AllenSource
from brightfield.sources.folder.folder import FolderSource
from brightfield.sources.http.client import HttpClient
from brightfield.sources.mirror.catalog import FolderCatalog
from brightfield.sources.mirror.export import export
from brightfield.sources.mirror.server import serve
from brightfield.stages.download.plan import plan_cell
from brightfield.stages.download.transfer import IMAGE_NAME, download_cell
from brightfield.stages.query.selection import survey
from brightfield.testing.skeletons import cable
from brightfield.volumes.ranges import Ranges
from brightfield.volumes.volume import open_volume

PIXEL_UM, PLANE_UM = 0.1144, 0.28
SHAPE = (6, 150, 210)


def volume_of(dtype: str = "u1") -> NDArray[Any]:
    rng = np.random.default_rng(3)
    return rng.integers(1, 250 if dtype == "u1" else 60000, SHAPE).astype(dtype)


def config(path: Path | str, **fields: Any) -> SourceConfig:
    return SourceConfig(
        **{"kind": SourceKind.folder, "path": str(path), "pixel_um": PIXEL_UM, "plane_um": PLANE_UM, "species": ""} | fields
    )


def swc_of(axon_um: float = 0.0) -> bytes:
    return format_swc(cable(axon_um or 15.0, kind=2 if axon_um else 3, start_zyx_um=(0.8, 8.0, 4.0)))


def write_planes(directory: Path, voxels: NDArray[Any], name: Callable[[int], str], **options: Any) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{directory.name}.swc").write_bytes(swc_of())
    for number, plane in enumerate(voxels, start=1):
        path = directory / name(number)
        if path.suffix == ".tif":
            tifffile.imwrite(path, plane, **options)
        else:
            Image.fromarray(plane).save(path, **options)


def only_cell(source: FolderSource) -> Cell:
    (cell,) = source.complete(source.cells())
    return cell


def read_all(source: FolderSource, cell: Cell, level: int = 0) -> NDArray[Any]:
    assert cell.stack is not None
    side = 1 << level
    height, width = cell.stack.height_px // side * side, cell.stack.width_px // side * side
    return np.stack([source.pixels(cell, Crop(plane, 0, 0, height, width, level)) for plane in cell.stack.planes if plane.usable])


def write_zarr(path: Path, voxels: NDArray[Any], **layout: Any) -> None:
    """An OME-Zarr 0.5 of one level."""
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.create_array("0", shape=voxels.shape, dtype=voxels.dtype, **layout)[...] = voxels
    scale = [{"type": "scale", "scale": [PLANE_UM, PIXEL_UM, PIXEL_UM]}]
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}


TIFF_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "strips": {"rowsperstrip": 7},
    "lzw": {"compression": "lzw", "rowsperstrip": 16, "predictor": True},
    "one big lzw strip": {"compression": "lzw", "rowsperstrip": 150},
    "tiled": {"tile": (64, 48)},
    "tiled deflate": {"tile": (64, 64), "compression": "zlib"},
    "big-endian": {"byteorder": ">"},
    "bigtiff": {"bigtiff": True},
}


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("kind", TIFF_OPTIONS)
def test_planes_of_every_kind_of_tiff_come_back_box_by_box(tmp_path: Path, kind: str, dtype: str) -> None:
    voxels = volume_of(dtype)
    write_planes(tmp_path / "7", voxels, lambda n: f"{n}.tif", **TIFF_OPTIONS[kind])
    source = FolderSource(config(tmp_path))
    cell = only_cell(source)
    assert cell.stack is not None
    assert cell.stack.bits == 8 * voxels.itemsize
    np.testing.assert_array_equal(read_all(source, cell), voxels)
    rng = np.random.default_rng(0)
    for _ in range(20):
        y0, x0 = rng.integers(0, 140), rng.integers(0, 200)
        height, width = rng.integers(1, 150 - y0 + 1), rng.integers(1, 210 - x0 + 1)
        pixels = source.pixels(cell, Crop(cell.stack.planes[2], int(y0), int(x0), int(height), int(width), 0))
        np.testing.assert_array_equal(pixels, voxels[2, y0 : y0 + height, x0 : x0 + width])
        assert pixels.dtype == np.dtype(dtype)


@pytest.mark.parametrize(("suffix", "dtype"), [("png", "u1"), ("png", "u2"), ("jpg", "u1")])
def test_planes_as_pictures(tmp_path: Path, suffix: str, dtype: str) -> None:
    voxels = volume_of(dtype) if suffix == "png" else np.repeat(np.arange(40, 46, dtype="u1"), 150 * 210).reshape(SHAPE)
    write_planes(tmp_path / "7", voxels, lambda n: f"p{n:04d}.{suffix}")
    source = FolderSource(config(tmp_path))
    np.testing.assert_array_equal(read_all(source, only_cell(source)), voxels)


@pytest.mark.parametrize(
    "write",
    [
        lambda path, v: tifffile.imwrite(path, v, metadata={"axes": "ZYX"}),
        lambda path, v: tifffile.imwrite(path, v, compression="lzw", photometric="minisblack"),
        lambda path, v: tifffile.imwrite(path, v, imagej=True, metadata={"axes": "ZYX"}),
        lambda path, v: tifffile.imwrite(path, v, ome=True, tile=(64, 64), compression="zlib", metadata={"axes": "ZYX"}),
    ],
    ids=["multi-page", "multi-page lzw", "imagej", "ome tiled"],
)
def test_a_whole_stack_in_one_tiff(tmp_path: Path, write: Callable[[Path, NDArray[Any]], None]) -> None:
    voxels = volume_of("u2")
    (tmp_path / "7").mkdir()
    write(tmp_path / "7" / "stack.tif", voxels)
    source = FolderSource(config(tmp_path))
    np.testing.assert_array_equal(read_all(source, only_cell(source)), voxels)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_whole_stack_in_one_ome_zarr(tmp_path: Path, version: str) -> None:
    voxels = volume_of("u2")
    zarr_format = 2 if version == "0.4" else 3
    group = zarr.open_group(tmp_path / "7" / "stack.ome.zarr", mode="w", zarr_format=zarr_format)
    group.create_array("0", data=voxels[None], chunks=(1, 2, 64, 64))
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "nanometer"} for n in "zyx")]
    transforms = [{"type": "scale", "scale": [1, 1000 * PLANE_UM, 1000 * PIXEL_UM, 1000 * PIXEL_UM]}]
    multiscales = [{"version": version, "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": transforms}]}]
    group.attrs.update({"multiscales": multiscales} if version == "0.4" else {"ome": {"version": version, "multiscales": multiscales}})
    source = FolderSource(config(tmp_path, pixel_um=0, plane_um=0))
    cell = only_cell(source)
    assert cell.stack is not None
    assert (cell.stack.pixel_um, cell.stack.plane_um) == pytest.approx((PIXEL_UM, PLANE_UM))
    np.testing.assert_array_equal(read_all(source, cell), voxels)


@pytest.mark.parametrize("name", [lambda n: f"z{n}.tif", lambda n: f"cell2_s01_{n:04d}.tif", lambda n: f"{n:02d}_c1.tif"])
def test_planes_are_sorted_by_number_and_gaps_are_missing_planes(tmp_path: Path, name: Callable[[int], str]) -> None:
    voxels = np.random.default_rng(1).integers(1, 200, (14, 40, 50)).astype("u1")
    write_planes(tmp_path / "7", voxels, name)
    for number in (3, 10):
        (tmp_path / "7" / name(number)).unlink()
    source = FolderSource(config(tmp_path))
    cell = only_cell(source)
    assert cell.stack is not None
    assert [plane.section_number for plane in cell.stack.planes] == list(range(1, 15))
    assert [plane.plane for plane in cell.stack.planes if not plane.usable] == [2, 9]
    np.testing.assert_array_equal(read_all(source, cell), np.delete(voxels, [2, 9], axis=0))


def test_coarse_levels_are_means_with_halves_rounded_up(tmp_path: Path) -> None:
    voxels = volume_of("u2")
    write_planes(tmp_path / "7", voxels, lambda n: f"{n}.tif")
    source = FolderSource(config(tmp_path))
    coarse = read_all(source, only_cell(source), level=2)
    blocks = voxels[:, :148, :208].reshape(6, 37, 4, 52, 4).astype(np.float64)
    np.testing.assert_array_equal(coarse, np.floor(blocks.mean(axis=(2, 4)) + 0.5))


@pytest.mark.parametrize("kind", ["plain", "strips", "lzw", "tiled"])
def test_a_box_costs_the_rows_that_it_needs(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = np.random.default_rng(0).integers(0, 250, (2, 1024, 1024)).astype("u1")
    write_planes(tmp_path / "7", voxels, lambda n: f"{n}.tif", **TIFF_OPTIONS[kind])
    source = FolderSource(config(tmp_path))
    cell = only_cell(source)
    assert cell.stack is not None
    read: list[int] = []
    original = Ranges.read
    monkeypatch.setattr(Ranges, "read", lambda self, path, start, end: read.append(end - start) or original(self, path, start, end))
    source.pixels(cell, Crop(cell.stack.planes[0], 512, 256, 64, 128, 0))
    assert 0 < sum(read) < 0.15 * voxels[0].nbytes


# ----------------------------------------------------------------------------------------------------------------- pixel size

CENTIMETRE = {"resolution": (1e4 / PIXEL_UM, 1e4 / PIXEL_UM), "resolutionunit": "CENTIMETER"}


def test_pixel_size_from_resolution_tags(tmp_path: Path) -> None:
    write_planes(tmp_path / "7", volume_of(), lambda n: f"{n}.tif", **CENTIMETRE)
    cell = only_cell(FolderSource(config(tmp_path, pixel_um=0)))
    assert cell.stack is not None
    assert cell.stack.pixel_um == pytest.approx(PIXEL_UM, rel=1e-6)
    assert only_cell(FolderSource(config(tmp_path, pixel_um=0.5))).stack.pixel_um == 0.5  # type: ignore[union-attr]


@pytest.mark.parametrize("style", ["imagej", "ome", "ome nm"])
def test_voxel_size_from_the_notes_of_imagej_and_ome(tmp_path: Path, style: str) -> None:
    (tmp_path / "7").mkdir()
    path = tmp_path / "7" / "stack.ome.tif"
    if style == "imagej":
        notes: dict[str, Any] = {"axes": "ZYX", "spacing": PLANE_UM, "unit": "micron"}
        tifffile.imwrite(path, volume_of(), imagej=True, resolution=(1 / PIXEL_UM, 1 / PIXEL_UM), metadata=notes)
    else:
        factor, unit = (1000.0, "nm") if style == "ome nm" else (1.0, "µm")
        sizes = {"X": PIXEL_UM, "Y": PIXEL_UM, "Z": PLANE_UM}
        notes = {f"PhysicalSize{axis}": size * factor for axis, size in sizes.items()}
        notes |= {f"PhysicalSize{axis}Unit": unit for axis in sizes}
        tifffile.imwrite(path, volume_of(), ome=True, metadata={"axes": "ZYX", **notes})
    cell = only_cell(FolderSource(config(tmp_path, pixel_um=0, plane_um=0)))
    assert cell.stack is not None
    assert (cell.stack.pixel_um, cell.stack.plane_um) == pytest.approx((PIXEL_UM, PLANE_UM), rel=1e-5)


@pytest.mark.parametrize(("known", "missing"), [({"pixel_um": 0}, "source.pixel_um"), ({"plane_um": 0}, "source.plane_um")])
def test_an_unknown_size_is_a_problem_that_names_the_key(tmp_path: Path, known: dict[str, float], missing: str) -> None:
    write_planes(tmp_path / "7", volume_of(), lambda n: f"{n}.tif", resolution=(72, 72), resolutionunit="INCH")
    cell = only_cell(FolderSource(config(tmp_path, **known)))
    assert cell.stack is None
    assert missing in str(cell.stack_problem)


# ------------------------------------------------------------------------------------------------------------------- problems


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda d: (d / "01.tif").write_bytes(b"x"), "are both plane 1"),
        (lambda d: tifffile.imwrite(d / "thumbnail.tif", volume_of()[0]), "named alike"),
        (lambda d: tifffile.imwrite(d / "1.tif", np.zeros((9, 9, 3), "u1"), photometric="rgb"), "grey planes"),
        (lambda d: tifffile.imwrite(d / "1.tif", np.zeros((9, 9), "f4")), "grey planes"),
        (lambda d: tifffile.imwrite(d / "1.tif", volume_of()[0], photometric="miniswhite"), "0 is black"),
        (lambda d: (d / "1.tif").write_bytes(b"not a tiff"), "cannot be read"),
        (lambda d: (d / "x.zarr").mkdir(), "more than one stack"),
    ],
)
def test_what_is_no_stack_is_said_in_words(tmp_path: Path, spoil: Callable[[Path], object], problem: str) -> None:
    write_planes(tmp_path / "7", volume_of(), lambda n: f"{n}.tif")
    spoil(tmp_path / "7")
    cell = only_cell(FolderSource(config(tmp_path)))
    assert cell.stack is None
    assert problem in str(cell.stack_problem)


@pytest.mark.parametrize("damage", ["cut", "gone", "other size", "lzw"])
def test_a_damaged_plane_is_never_pixels(tmp_path: Path, damage: str) -> None:
    write_planes(tmp_path / "7", volume_of(), lambda n: f"{n}.tif", **(TIFF_OPTIONS["lzw"] if damage == "lzw" else {}))
    source = FolderSource(config(tmp_path))
    cell = only_cell(source)
    assert cell.stack is not None
    path = tmp_path / "7" / "4.tif"
    if damage == "gone":
        path.unlink()
    elif damage == "other size":
        tifffile.imwrite(path, volume_of()[0, :50])
    else:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
    with pytest.raises(TransferError, match="cell 7"):
        source.pixels(cell, Crop(cell.stack.planes[3], 0, 0, 150, 210, 0))


def test_a_place_that_is_not_there_is_said_without_credentials(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be listed"):
        FolderSource(config(tmp_path / "nowhere")).cells()
    assert FolderSource(config("https://me:hush@host/stacks?token=hush")).base_url == "https://host/stacks?..."


# ------------------------------------------------------------------------------------------------------- cells and metadata


def test_numbers_of_cells_are_those_of_their_directories_or_stable(tmp_path: Path) -> None:
    for name in ("12", "mouse A cell 3"):
        write_planes(tmp_path / name, volume_of(), lambda n: f"{n}.tif")
    cells = {cell.name: cell for cell in FolderSource(config(tmp_path)).cells()}
    assert cells["12"].specimen_id == 12
    assert cells["mouse A cell 3"].specimen_id == 246006833696041
    write_planes(tmp_path / "another", volume_of(), lambda n: f"{n}.tif")
    again = {cell.name: cell.specimen_id for cell in FolderSource(config(tmp_path)).cells()}
    assert {name: again[name] for name in cells} == {name: cell.specimen_id for name, cell in cells.items()}


def test_metadata_names_cells_and_donors(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_planes(tmp_path / "stacks" / name, volume_of(), lambda n: f"{n}.tif")
    table = tmp_path / "cells.csv"
    table.write_text("directory,specimen_id,donor_id,species,structure__layer,reconstruction_type\na,5,1,Mus musculus,2/3,full\nb,4,1,,,\n")
    first, second = FolderSource(config(tmp_path / "stacks", metadata=str(table))).cells()
    assert (first.specimen_id, first.name, first.donor_id, first.species) == (4, "b", 1, "unknown")
    assert (second.specimen_id, second.layer, second.species, second.reconstruction_type) == (5, "2/3", "Mus musculus", "full")


def test_the_metadata_says_how_large_a_pixel_of_a_cell_is(tmp_path: Path) -> None:
    for name in ("1", "2"):
        write_planes(tmp_path / "stacks" / name, volume_of(), lambda n: f"{n}.tif")
    (tmp_path / "cells.csv").write_text("directory,pixel_um,plane_um,group\n1,0.2,0.5,litter\n2,,,\n")
    source = FolderSource(config(tmp_path / "stacks", metadata=str(tmp_path / "cells.csv")))
    first, second = source.complete(source.cells())
    assert first.stack is not None
    assert second.stack is not None
    assert (first.stack.pixel_um, first.stack.plane_um, first.group) == (0.2, 0.5, "litter")
    assert (second.stack.pixel_um, second.stack.plane_um, second.group) == (PIXEL_UM, PLANE_UM, None)


def test_an_axon_makes_a_reconstruction_full_and_new_bytes_a_new_file(tmp_path: Path) -> None:
    write_planes(tmp_path / "7", volume_of(), lambda n: f"{n}.tif")
    first = only_cell(FolderSource(config(tmp_path)))
    (tmp_path / "7" / "7.swc").write_bytes(swc_of(FULL_AXON_UM + 10))
    (tmp_path / "7" / "7_marker_m.swc").write_bytes(b"##x,y,z\n")
    source = FolderSource(config(tmp_path))
    second = only_cell(source)
    assert (first.reconstruction_type, second.reconstruction_type) == ("dendrite-only", "full")
    assert first.swc_file_id != second.swc_file_id
    assert second.swc_url == "7/7.swc"
    assert source.file(second.swc_url) == swc_of(FULL_AXON_UM + 10)
    assert source.file(str(second.marker_url)) == b"##x,y,z\n"
    with pytest.raises(TransferError, match=r"7/8.swc") as raised:
        source.file("7/8.swc")
    assert raised.value.absent


def _two_skeletons(home: Path) -> None:
    for name in ("a.swc", "b.swc"):
        (home / name).write_bytes(swc_of())
    (home / "odd.swc").unlink()


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no SWC text": (lambda home: (home / "odd.swc").write_bytes(b"\x00\x01"), "odd.swc"),
    "an SWC in nm": (lambda home: (home / "odd.swc").write_bytes(b"# units: nm\n" + swc_of()), "source.swc_unit=nm"),
    "an SWC with a scale": (lambda home: (home / "odd.swc").write_bytes(b"# SCALE 2 2 2\n" + swc_of()), "not applied"),
    "two SWC files": (_two_skeletons, "a.swc and b.swc"),
    "a marker file that is none": (lambda home: (home / "odd.marker").write_bytes(b"1,2\n"), "odd.marker"),
    "an SWC that is a directory": (lambda home: ((home / "odd.swc").unlink(), (home / "odd.swc").mkdir()), "odd.swc"),
    "no TIFF": (lambda home: (home / "1.tif").write_bytes(b"II*\0nothing"), "1.tif"),
    "an empty TIFF": (lambda home: (home / "1.tif").write_bytes(b""), "1.tif"),
    "a TIFF of another shape": (
        lambda home: tifffile.imwrite(home / "1.tif", np.zeros((2, 3, 4, 5, 6), "u1"), photometric="minisblack"),
        "1.tif",
    ),
    "a broken OME-Zarr": (lambda home: ([p.unlink() for p in home.glob("*.tif")], (home / "x.zarr").mkdir()), "x.zarr"),
}


@pytest.mark.parametrize("case", ODD)
def test_one_odd_cell_never_stops_the_folder(tmp_path: Path, case: str) -> None:
    for name in ("good", "odd"):
        write_planes(tmp_path / name, volume_of(), lambda n: f"{n}.tif")
    spoil, says = ODD[case]
    spoil(tmp_path / "odd")
    cells, _ = survey(FolderSource(config(tmp_path)), config(tmp_path), ImageConfig())
    by_name = cells.set_index("name")
    assert by_name.loc["good", "selected"]
    assert not by_name.loc["odd", "selected"]
    assert says in by_name.loc["odd", "reason"]


def test_an_exception_that_nobody_foresaw_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_planes(tmp_path / "7", volume_of(), lambda n: f"{n}.tif")

    def fail(*_: object) -> None:
        raise ZeroDivisionError("of a reader")

    monkeypatch.setattr("brightfield.sources.folder.folder.open_stack", fail)
    assert only_cell(FolderSource(config(tmp_path))).stack_problem == "7: ZeroDivisionError: of a reader"


@pytest.mark.parametrize(("unit", "factor"), [("px", (PLANE_UM, PIXEL_UM, PIXEL_UM)), ("nm", (1e-3, 1e-3, 1e-3))])
def test_the_length_of_an_axon_is_counted_in_um(tmp_path: Path, unit: str, factor: tuple[float, float, float]) -> None:
    write_planes(tmp_path / "7", volume_of(), lambda n: f"{n}.tif")
    skeleton = parse_swc(swc_of(FULL_AXON_UM + 10))
    (tmp_path / "7" / "7.swc").write_bytes(format_swc(skeleton.moved_to(skeleton.position_zyx_um / factor)).replace(b"in um", b""))
    assert only_cell(FolderSource(config(tmp_path, swc_unit=SwcUnit(unit)))).reconstruction_type == "full"


def test_another_file_under_the_same_name_is_noticed(tmp_path: Path) -> None:
    write_planes(tmp_path / "7", volume_of(), lambda n: f"{n}.tif", compression="zlib")
    before = only_cell(FolderSource(config(tmp_path)))
    tifffile.imwrite(tmp_path / "7" / "3.tif", np.zeros(SHAPE[1:], "u1"), compression="zlib")
    after = only_cell(FolderSource(config(tmp_path)))
    assert before.stack is not None
    assert after.stack is not None
    assert [a.plane for a, b in zip(after.stack.planes, before.stack.planes, strict=True) if a != b] == [2]


@pytest.fixture
def memory() -> Iterator[str]:
    system = fsspec.filesystem("memory")
    yield "memory://bucket/stacks"
    system.rm("/bucket", recursive=True)


def test_a_remote_folder_becomes_a_volume(tmp_path: Path, memory: str) -> None:
    voxels = volume_of("u2")
    write_planes(tmp_path / "7", voxels, lambda n: f"{n}.tif", **TIFF_OPTIONS["lzw"])
    fsspec.filesystem("memory").put(str(tmp_path / "7"), "/bucket/stacks/7", recursive=True)
    source = FolderSource(config(memory))
    cell = only_cell(source)
    skeleton = parse_swc(source.file(str(cell.swc_url)))
    plan = plan_cell(cell, skeleton, ImageConfig(coverage=CoverageKind.full, tile_px=64, shard_zyx=[4, 128, 128]))
    ledger = download_cell(cell, plan, source, tmp_path / "work", chunk_zyx=(2, 64, 64))
    assert set(ledger["state"]) == {"ok"}
    np.testing.assert_array_equal(open_volume(tmp_path / "work" / IMAGE_NAME).read(), voxels)


def test_an_ome_zarr_is_decoded_once_for_the_planes_of_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = volume_of()
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "7.swc").write_bytes(swc_of())
    write_zarr(tmp_path / "7" / "image.zarr", voxels, chunks=(3, 64, 64))
    asked: list[str] = []
    some = Ranges.some
    monkeypatch.setattr(Ranges, "some", lambda self, path, *limits: (asked.append(path), some(self, path, *limits))[1])
    source = FolderSource(config(tmp_path))
    cell = only_cell(source)
    assert cell.stack is not None
    asked.clear()
    with ThreadPoolExecutor(4) as pool:
        boxes = list(pool.map(lambda plane: source.pixels(cell, Crop(plane, 0, 0, 64, 64, 0)), cell.stack.planes))
    np.testing.assert_array_equal(np.stack(boxes), voxels[:, :64, :64])
    assert len(asked) == 2


def test_web_servers_without_ranges_are_asked_for_a_file_once(tmp_path: Path) -> None:
    whole = bytes(range(200))
    system = WholeFiles(whole)
    ranges = Ranges(system)
    assert ranges.read("http://host/a", 20, 50) == whole[20:50]
    assert ranges.open("http://host/a").read() == whole
    assert ranges.some("http://host/a", -7, None) == whole[-7:]
    assert system.asked == 1
    with pytest.raises(StackError, match="cut short"):
        ranges.read("http://host/a", 190, 300)


class WholeFiles(AbstractFileSystem):
    """A web server that sends whole files, whatever range is asked for."""

    protocol = ("http", "https")
    cachable = False

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data, self.asked = data, 0

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": len(self.data), "type": "file"}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        self.asked += 1
        return self.data


# ------------------------------------------------------------------------------------------------------------------ challenge


def _bucket(root: Path) -> None:
    def name(number: int) -> str:
        return f"reconstruction_0_0539044533_639893239-{number:04d}.tif"

    write_planes(root / "647225829", volume_of()[:3], name)
    write_planes(root / "741428906", volume_of()[:4], name)
    write_planes(root / "TEST_DATA_SET" / "741428906", volume_of()[:4], name)
    write_planes(root / "TEST_DATA_SET" / "665856925", volume_of()[:2], name)
    for test in (root / "TEST_DATA_SET").iterdir():
        (test / f"{test.name}.swc").unlink()


def test_the_layout_of_the_challenge_is_known(tmp_path: Path) -> None:
    _bucket(tmp_path)
    source = FolderSource(config(tmp_path, kind=SourceKind.challenge, pixel_um=0, plane_um=0))
    cells = {cell.specimen_id: cell for cell in source.complete(source.cells())}
    assert sorted(cells) == [647225829, 665856925, 741428906]
    assert cells[741428906].swc_url == "741428906/741428906.swc"
    assert cells[665856925].swc_url is None
    assert cells[665856925].reconstruction_type is None
    for cell in cells.values():
        assert cell.stack is not None
        assert (cell.stack.pixel_um, cell.stack.plane_um) == (0.1144, 0.28)
        assert cell.species == "Mus musculus"
        assert cell.stack.planes[0].section_number == 1
    np.testing.assert_array_equal(read_all(source, cells[741428906]), volume_of()[:4])


@pytest.mark.real
def test_every_stack_of_the_challenge_is_numbered_as_we_number(shared_data: Path, tmp_path: Path) -> None:
    from brightfield.sources.folder.entry import Entry
    from brightfield.sources.folder.stacks import _numbered

    with (shared_data / "challenge_manifest_summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({row["specimen_id"] for row in rows}) == 114
    for row in rows:
        first, last = int(row["plane_min"]), int(row["plane_max"])
        files = [Entry(f"{row['bucket_prefix']}{row['stack_base']}-{n:04d}.tif", 1, False) for n in range(first, last + 1)]
        assert sorted(_numbered(files, row["key"])) == list(range(first, last + 1))
        assert len(files) == int(row["n_planes"])


def test_two_directories_of_one_cell_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_planes(tmp_path / "stacks" / name, volume_of(), lambda n: f"{n}.tif")
    (tmp_path / "cells.csv").write_text("directory,specimen_id\na,5\nb,5\n")
    with pytest.raises(SourceError, match="a and b are both cell 5"):
        FolderSource(config(tmp_path / "stacks", metadata=str(tmp_path / "cells.csv"))).cells()


def test_a_stack_whose_cell_is_known_only_from_the_tables_can_be_read(tmp_path: Path) -> None:
    write_planes(tmp_path / "7", volume_of(), lambda n: f"{n}.tif")
    cell = only_cell(FolderSource(config(tmp_path)))
    np.testing.assert_array_equal(read_all(FolderSource(config(tmp_path)), replace(cell)), volume_of())


def test_a_cell_without_images_is_a_cell_without_a_stack(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "x.swc").write_bytes(swc_of())
    source = FolderSource(config(tmp_path))
    cell = only_cell(source)
    assert cell.stack is None
    with pytest.raises(StackError, match="there are no images"):
        source.pixels(cell, Crop(None, 0, 0, 1, 1, 0))  # type: ignore[arg-type]


def test_own_stacks_can_be_served_like_the_service(tmp_path: Path) -> None:
    voxels = {7: volume_of(), 8: 255 - volume_of()}
    for number, own in voxels.items():  # names, sizes and skeletons are the same: there is one SWC, for two reconstructions
        write_planes(tmp_path / "own" / str(number), own, lambda k: f"{k:03d}.tif")
    source = FolderSource(config(tmp_path / "own"))
    cells = source.complete(source.cells())
    export(source, cells, tmp_path / "mirror")
    with serve(FolderCatalog(tmp_path / "mirror")) as mirror, HttpClient() as client:
        served = AllenSource(client, mirror.base_url)
        copies = served.complete(served.cells())
        assert [(copy.specimen_id, copy.stack, copy.reconstruction_type) for copy in copies] == [
            (cell.specimen_id, cell.stack, cell.reconstruction_type) for cell in cells
        ]
        for copy in copies:
            assert copy.stack is not None
            assert served.file(copy.swc_url or "") == swc_of()
            pixels = served.pixels(copy, Crop(copy.stack.planes[2], 0, 0, 150, 210, 0))
            assert np.abs(pixels.astype(int) - voxels[copy.specimen_id][2]).max() <= 3  # JPEG of quality 100


def test_a_plane_number_that_is_a_date_is_the_cells_reason_and_costs_nothing(tmp_path: Path) -> None:
    for number in (1, 400_000_001):
        (tmp_path / "1").mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / "1" / f"z{number}.tif", np.zeros((64, 64), np.uint8))
    source = FolderSource(config(tmp_path))
    (cell,) = source.complete(source.cells())
    assert cell.stack is None
    assert "at most 20000 planes" in str(cell.stack_problem)
