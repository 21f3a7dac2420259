from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from brightfield.cli import main
from brightfield.core.swc import format_swc
from brightfield.testing.skeletons import cable

VOXELS = np.random.default_rng(5).integers(180, 200, (6, 90, 1200)).astype("u1")
NOTES = {"axes": "ZYX", "spacing": 0.5, "unit": "micron"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The directory of a cell: an ImageJ stack of 0.5 x 0.25 x 0.25 um with a stained line, and a skeleton in it."""
    voxels = VOXELS.copy()
    voxels[:, 40:44, 10:200] = 60
    folder = tmp_path / "cell"
    folder.mkdir()
    tifffile.imwrite(folder / "stack.tif", voxels, imagej=True, resolution=(4, 4), metadata=NOTES)
    (folder / "cell.swc").write_bytes(format_swc(cable(15.0, start_zyx_um=(1.0, 10.0, 4.0))))
    return folder


def test_what_is_believed_of_a_cell_is_printed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(home)]) == 0
    text = capsys.readouterr().out
    for words in ("TIFF, imagej", "z=6, y=90, x=1200", "ImageJ spacing", "bright background: dark is stain", "100.0% of the nodes"):
        assert words in text


def test_the_same_for_programs_and_as_a_picture(home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["inspect", str(home), "--json", "--png", str(tmp_path / "look.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {axis: size["um"] for axis, size in found["stack"]["voxel"].items()} == {"z": 0.5, "y": 0.25, "x": 0.25}
    assert (found["stack"]["planes"], found["stack"]["bits"], found["skeleton"]["trees"]) == (6, 8, 1)
    with Image.open(tmp_path / "look.png") as picture:
        assert max(picture.size) <= 512
        pixels = np.asarray(picture).astype(int)
    red = pixels[..., 0] - pixels[..., 1] > 100
    assert red.any()
    assert abs(np.nonzero(red)[0].mean() - 10) <= 4, "10 um down is row 40, and the picture has every fourth row"


def test_a_file_alone_and_options(home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["inspect", str(home / "cell.swc"), "--png", str(tmp_path / "swc.png")]) == 0
    assert (tmp_path / "swc.png").is_file()
    assert main(["inspect", str(home / "stack.tif"), "source.plane_um=2", "--json"]) == 0
    assert '"um": 2.0' in capsys.readouterr().out
    assert main(["inspect", str(home), "source.nothing=2"]) == 2
    assert main(["inspect", str(home), "image.level=2"]) == 2
    assert main(["inspect", str(home / "nowhere")]) == 1


def test_what_would_not_be_taken_is_an_error_with_its_reason(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tifffile.imwrite(home / "stack.tif", 255 - VOXELS.reshape(2, 3, 90, 1200), imagej=True, metadata={"axes": "TZYX"})
    assert main(["inspect", str(home)]) == 1
    assert "2 time points" in capsys.readouterr().out
    assert main(["inspect", str(home), "source.time=1", "source.pixel_um=0.25", "source.plane_um=0.5"]) == 0
    (home / "cell.swc").write_bytes(b"1 1 0 0 0\n")
    assert main(["inspect", str(home), "source.time=1"]) == 1
    text = capsys.readouterr().out
    assert "cell.swc:1: a node has the 7 fields" in text
    assert "the files do not say their voxel size along yx; set source.pixel_um" in text


@pytest.mark.parametrize("away_um", [1e6, -9.9e6])
def test_a_skeleton_that_a_build_would_refuse_is_named_and_not_drawn(
    home: Path, away_um: float, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture = tmp_path / "look.png"
    assert main(["inspect", str(home), "--png", str(picture)]) == 0
    drawn = picture.read_bytes()
    trace = cable(15.0, start_zyx_um=(1.0, 10.0, 4.0))
    position = trace.position_zyx_um.copy()
    position[-9:, 2] = away_um
    (home / "cell.swc").write_bytes(format_swc(trace.moved_to(position)))
    assert main(["inspect", str(home), "--png", str(picture)]) == 1
    assert "error: not taken: node 8 of the SWC lies at" in capsys.readouterr().out
    assert picture.read_bytes() != drawn
    with Image.open(picture) as seen:
        assert not np.ptp(np.asarray(seen), axis=2).any(), "grey: nothing is drawn in red"


def test_a_soma_far_larger_than_the_picture_is_drawn_no_larger(tmp_path: Path) -> None:
    (tmp_path / "one.swc").write_text("1 1 5 5 5 1000000 -1\n")
    assert main(["inspect", str(tmp_path / "one.swc"), "--png", str(tmp_path / "look.png")]) == 0
    assert (tmp_path / "look.png").is_file()


def test_a_dark_background_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dark = VOXELS // 20
    dark[:, 40:60, 10:200] = 250
    tifffile.imwrite(tmp_path / "stack.tif", dark, imagej=True, resolution=(4, 4), metadata=NOTES)
    assert main(["inspect", str(tmp_path / "stack.tif")]) == 0
    assert "dark background" in capsys.readouterr().out


@pytest.mark.real
def test_every_real_skeleton_can_be_looked_at(shared_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted((shared_data / "swc").glob("*.swc")):
        assert main(["inspect", str(path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["findings"] == []
        assert found["skeleton"]["soma"]["radius_um"] > 1
