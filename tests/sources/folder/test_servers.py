"""Own stacks on real servers, as a laboratory has them: credentials in the environment or the home directory and nowhere else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from test_folder import PIXEL_UM, PLANE_UM, config, swc_of, volume_of, write_planes, write_zarr

from brightfield.config.compose import compose, write_params
from brightfield.core.cell import Crop
from brightfield.core.layout import image_store
from brightfield.sources.folder.folder import FolderSource
from brightfield.stages.download import stage as download
from brightfield.stages.query import stage as query
from brightfield.volumes.volume import open_volume
from repositories import REPOSITORY
from servers import ACCESS, SECRET, s3_server, serving, ssh_server

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.usefixtures("at_home")]

EIGHT, SIXTEEN = volume_of("u1"), volume_of("u2")
VOXELS: dict[int, NDArray[Any]] = {7: EIGHT, 8: SIXTEEN, 9: EIGHT, 10: SIXTEEN, 11: EIGHT}


def write_stacks(root: Path) -> None:
    """A cell for each form: LZW planes of 8 bit, plain ones of 16, a tiled OME-TIFF, an OME-Zarr, a sharded OME-Zarr; and the metadata."""
    write_planes(root / "7", EIGHT, lambda n: f"z{n}.tif", compression="lzw", rowsperstrip=16)
    write_planes(root / "8", SIXTEEN, lambda n: f"z{n:04d}.tif")
    for number in (9, 10, 11):
        (root / str(number)).mkdir()
        (root / str(number) / f"{number}.swc").write_bytes(swc_of())
    sizes = {"PhysicalSizeX": PIXEL_UM, "PhysicalSizeY": PIXEL_UM, "PhysicalSizeZ": PLANE_UM}
    tifffile.imwrite(root / "9" / "stack.ome.tif", EIGHT, metadata={"axes": "ZYX", **sizes}, tile=(64, 64))
    write_zarr(root / "10" / "image.ome.zarr", SIXTEEN, chunks=(2, 64, 64))
    write_zarr(root / "11" / "image.ome.zarr", EIGHT, chunks=(2, 32, 32), shards=(4, 64, 64))
    (root / "cells.csv").write_text("directory,donor_id,layer\n" + "".join(f"{number},1,5\n" for number in VOXELS))


def over_ssh(folder: Path, patch: pytest.MonkeyPatch) -> tuple[str, Path, subprocess.Popen[bytes], bytes]:
    server, process = ssh_server(folder)
    keys = Path(os.environ["HOME"]) / ".ssh"
    keys.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(folder / "client", keys / "id_ed25519")
    return server.url, server.store, process, (folder / "client").read_bytes().splitlines()[1]


def over_s3(folder: Path, patch: pytest.MonkeyPatch) -> tuple[str, Path, subprocess.Popen[bytes], bytes]:
    server, process = s3_server(folder)
    environment = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**environment, "AWS_ENDPOINT_URL": server.public["endpointurl"]}.items():
        patch.setenv(name, value)
    return server.url, server.store, process, SECRET.encode()


def over_http(folder: Path, patch: pytest.MonkeyPatch) -> tuple[str, Path, subprocess.Popen[bytes], bytes]:
    """Python's web server, which lists directories and knows no ranges."""
    store = folder / "store"
    store.mkdir()
    words = [sys.executable, "-m", "http.server", "-b", "127.0.0.1", "-d", str(store)]
    port, process = serving(lambda port: subprocess.Popen([*words, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    return f"http://127.0.0.1:{port}", store, process, b"there is no secret"


@pytest.fixture(scope="module", params=[over_ssh, over_s3, over_http], ids=["ssh", "s3", "http"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, at_home: None) -> Iterator[tuple[str, bytes]]:
    """The address of stacks on a server, and what must not be seen of its credentials."""
    with pytest.MonkeyPatch.context() as patch:
        url, store, process, secret = request.param(tmp_path_factory.mktemp("server"), patch)
        try:
            store.mkdir(exist_ok=True)
            write_stacks(store)
            yield url, secret
        finally:
            process.terminate()
            process.wait()


def test_every_form_of_stack_is_read_box_by_box(place: tuple[str, bytes]) -> None:
    source = FolderSource(config(place[0]))
    cells = source.complete(source.cells())
    assert [cell.specimen_id for cell in cells] == list(VOXELS)
    for cell in cells:
        assert cell.stack is not None, cell.stack_problem
        for plane in cell.stack.planes:
            pixels = source.pixels(cell, Crop(plane, 32, 16, 64, 100, 0))
            np.testing.assert_array_equal(pixels, VOXELS[cell.specimen_id][plane.plane, 32:96, 16:116])


@pytest.mark.parametrize("metadata", ["", "cells.csv"])
def test_stacks_are_downloaded_and_no_credentials_are_written(
    place: tuple[str, bytes], tmp_path: Path, metadata: str, capfd: pytest.CaptureFixture[str]
) -> None:
    url, secret = place
    shutil.copytree(REPOSITORY / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("local"))
    words = ["source=folder", f"source.path={url}", f"source.pixel_um={PIXEL_UM}", f"source.plane_um={PLANE_UM}"]
    words += ["image.coverage=full", *([f"source.metadata={url}/{metadata}"] if metadata else [])]
    composed = compose(words, tmp_path)
    write_params(composed, tmp_path)
    query.refresh(composed, tmp_path, write=True)
    query.run(composed, tmp_path)
    download.run(composed, tmp_path)
    for number, voxels in VOXELS.items():
        np.testing.assert_array_equal(open_volume(tmp_path / image_store(number)).read(), voxels)
    said = capfd.readouterr()
    assert secret.decode() not in said.out + said.err
    assert [path for path in tmp_path.rglob("*") if path.is_file() and secret in path.read_bytes()] == []
