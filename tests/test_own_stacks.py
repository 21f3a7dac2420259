"""The page that leads from three folders to a checked dataset works as it is written."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr

from brightfield.core.swc import format_swc
from brightfield.testing.skeletons import cable
from repositories import REPOSITORY

PAGE = REPOSITORY / "docs" / "how-to" / "own-stacks.md"
SMALL = "image.coverage=full image.chunk_zyx=[8,32,32] image.shard_zyx=[8,64,64] image.tile_px=64"
SMALL += " patches.size_zyx=[4,16,16] patches.per_cell=4 compute.workers=1"
DVC = """dvc() {
  [ $# -gt 1 ] && set -- query || set -- query download align rasterize split manifest report
  for stage; do brightfield stage $stage; done
}"""
"""What `dvc repro` runs; the tests of the pipeline prove that DVC knows when."""


def write_stacks(root: Path) -> None:
    rng = np.random.default_rng(1)
    for number, name in enumerate(("stacks/a", "stacks/b", "stacks/c", "more/d")):
        home = root / name
        home.mkdir(parents=True)
        voxels = rng.integers(190, 200, (12, 96, 128)).astype("u1")
        voxels[3:6, 38:43, 14:80] = 80
        (home / "cell.swc").write_bytes(format_swc(cable(12.0 + number, start_zyx_um=(2.0, 10.0, 4.0))))
        if name == "stacks/b":
            notes = {"axes": "ZYX", "spacing": 0.5, "unit": "micron"}
            tifffile.imwrite(home / "stack.tif", voxels, imagej=True, resolution=(4, 4), metadata=notes)
        elif name == "stacks/c":
            group = zarr.open_group(home / "image.ome.zarr", mode="w", zarr_format=3)
            group.create_array("0", data=voxels, chunks=(4, 32, 32))
            axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
            datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0.5, 0.25, 0.25]}]}]
            group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
        else:
            for z, plane in enumerate(voxels):
                tifffile.imwrite(home / f"z{z:03d}.tif", plane)


@pytest.mark.slow
@pytest.mark.usefixtures("at_home")
def test_the_page_leads_from_three_folders_to_a_checked_dataset(tmp_path: Path) -> None:
    write_stacks(tmp_path)
    shutil.copytree(REPOSITORY / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("local"))
    for name in ("dvc.yaml", "params.yaml", "DATA_CHANGELOG.md"):
        shutil.copy(REPOSITORY / name, tmp_path)
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    script = "\n".join(["set -eu", DVC, *blocks]).replace("source=folder", f"source=folder {SMALL}")
    script = script.replace("source.path=stacks", f"source.path={tmp_path}/stacks")
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "1 new" in done.stdout
    cells = pd.read_parquet(tmp_path / "data" / "cells.parquet").set_index("name")
    assert cells["selected"].tolist() == [True] * 4
    assert cells["layer"].to_dict() == {"a": "5", "b": "2/3", "c": "4", "d": "4"}
    assert (tmp_path / "look.png").is_file()
    assert (tmp_path / "reports" / "report" / "index.html").is_file()
    published = [path for folder in ("data", "reports") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert {"README.md", "index.html", "manifest.parquet", "zarr.json"} <= {path.name for path in published}
    assert [path for path in published if str(tmp_path) in _text_of(path)] == []


def _text_of(path: Path) -> str:
    return pd.read_parquet(path).to_csv() if path.suffix == ".parquet" else path.read_text(encoding="utf-8", errors="replace")


def test_every_message_on_the_page_is_one_that_the_code_gives() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## What a message means")[2].partition("\n## ")[0]
    quoted = re.findall(r"`([^`]+)`", " ".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)))
    assert len(quoted) > 10
    source = "".join(path.read_text() for path in (REPOSITORY / "src" / "brightfield").rglob("*.py"))
    for message in quoted:
        for words in re.split(r"\bN\b|\bM\b|\.\.\.|=nm|pixel_um|[,;()]", message):
            assert words.strip() in source, words
