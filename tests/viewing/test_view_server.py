from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from brightfield.cli import main
from brightfield.core.layout import image_store, label_store
from brightfield.testing.dataset import DATASET_CELLS

pytest.importorskip("neuroglancer", reason="needs Neuroglancer: pip install 'brightfield[view]'")

from brightfield.viewing.choice import Filters, listed
from brightfield.viewing.material import WorkingTree
from brightfield.viewing.server import Show

CELL = DATASET_CELLS[0]


@pytest.fixture(scope="module")
def show(stained: Path) -> Iterator[Show]:
    material = WorkingTree(stained)
    show = Show(material, listed(material, Filters()))
    show.open(CELL)
    yield show
    show.close()


def answer(url: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, reply.read(), dict(reply.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


def files_of(show: Show) -> str:
    return show.url.replace("/cells/", "/files/") + str(CELL)


def test_files_and_their_ranges_are_those_on_the_disk(show: Show, stained: Path) -> None:
    shard = stained / image_store(CELL) / "0" / "c" / "0" / "0" / "0"
    data, url = shard.read_bytes(), f"{files_of(show)}/image/0/c/0/0/0"
    assert answer(url)[:2] == (200, data)
    status, part, headers = answer(url, Range="bytes=10-29")
    assert (status, part, headers["Content-Range"]) == (206, data[10:30], f"bytes 10-29/{len(data)}")
    assert answer(url, Range=f"bytes={len(data) - 5}-{len(data) + 99}")[:2] == (206, data[-5:])
    assert answer(url, Range=f"bytes={len(data)}-")[0] == 416
    status, nothing, headers = answer(url, method="HEAD")
    assert (status, nothing, headers["Content-Length"]) == (200, b"", str(len(data)))


@pytest.mark.parametrize(
    "path",
    [
        "/image/0/c/9/9/9",
        "/image/../labels/zarr.json",
        "/image/%2e%2e/%2e%2e/manifest.parquet",
        "/image//etc/passwd",
        "/other/zarr.json",
        "/skeleton/9",
    ],
)
def test_nothing_else_is_served(show: Show, path: str) -> None:
    assert answer(files_of(show) + path)[0] == 404


def test_only_who_knows_the_token_is_served_and_only_on_loopback(show: Show) -> None:
    base, token = re.fullmatch(r"(http://127\.0\.0\.1:\d+)/cells/([0-9a-f]{40})/", show.url).groups()
    for path in (f"/cells/{token}/", f"/open/{token}/{CELL}", f"/files/{token}/{CELL}/labels/zarr.json"):
        assert answer(base + path)[0] == 200
        assert answer(base + path.replace(token, "0" * 40))[0] == 404


def test_the_skeleton_is_in_the_precomputed_format(show: Show) -> None:
    _, data, _ = answer(f"{files_of(show)}/skeleton/3")
    n_points, n_edges = np.frombuffer(data, "<u4", 2).tolist()
    points = np.frombuffer(data, "<f4", 3 * n_points, 8).reshape(-1, 3)
    edges = np.frombuffer(data, "<u4", 2 * n_edges, 8 + 12 * n_points).reshape(-1, 2)
    assert len(data) == 8 + 12 * n_points + 8 * n_edges
    assert edges.max() == n_points - 1
    np.testing.assert_allclose(points.min(axis=0), (15.25, 24.25, 10.5), err_msg="um, x first, half a voxel from the corner of voxel 0")


def test_the_page_lists_the_cells_and_says_why_one_cannot_be_opened(show: Show) -> None:
    text = answer(show.url)[1].decode()
    assert [int(i) for i in re.findall(r'href="[^"]*/(\d+)" target="viewer"', text)] == list(DATASET_CELLS[:4])
    assert "marker-tip" in text
    status, body, _ = answer(show.url.replace("/cells/", "/open/") + str(DATASET_CELLS[4]))
    assert status == 404
    assert b"is excluded" in body


def test_a_browser_cannot_ask_it_for_credentials(show: Show) -> None:
    url = show.open(CELL).viewer.get_viewer_url().replace("/v/", "/credentials/").rstrip("/")
    assert answer(url, method="POST")[0] == 403


# ---------------------------------------------------------------------------------------------------------------- the command


def test_the_command_prints_the_address_and_ends_with_ctrl_c(stained: Path) -> None:
    words = [sys.executable, "-c", "import sys; from brightfield.cli import main; sys.exit(main())", "-C", str(stained), "view", str(CELL)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert line.startswith(f"cell {CELL}, 5 in the list: http://127.0.0.1:")
        assert answer(line.split()[-1])[0] == 200
        process.send_signal(2)
        assert process.wait(timeout=60) == 0


def refusal(capsys: pytest.CaptureFixture[str], *words: object, code: int = 2) -> str:
    assert main([str(word) for word in words]) == code
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def test_what_cannot_be_shown_is_refused_in_one_line(stained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    view = ("-C", stained, "view")
    assert "there is no cell 5" in refusal(capsys, *view, 5, code=1)
    assert "say which" in refusal(capsys, *view, "--at", 3)
    assert "--split side: one of train, val, test, excluded" in refusal(capsys, *view, "--split", "side")
    assert "dvc pull" in refusal(capsys, "-C", tmp_path, "view", code=1)
    (tmp_path / f"{CELL}.npy").write_bytes(b"no array")
    assert "not a numpy array" in refusal(capsys, *view, CELL, "--layer", tmp_path / f"{CELL}.npy", code=1)


def test_a_port_in_use_is_said_so(stained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"--port {port} cannot be had" in refusal(capsys, "-C", stained, "view", CELL, "--port", port)


@pytest.mark.parametrize(("words", "library"), [([], "neuroglancer"), (["--napari"], "napari")])
def test_a_library_that_is_not_installed_is_named(
    stained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], library: str
) -> None:
    monkeypatch.setattr("brightfield.viewing.command.find_spec", lambda name: None)
    assert f"view needs {library}; install it with `pip install" in refusal(capsys, "-C", stained, "view", CELL, *words)


def test_no_cell_here_is_an_error_with_its_remedy(stained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(shutil.copytree(stained, tmp_path / "copy"))
    for specimen_id in DATASET_CELLS[:4]:
        shutil.rmtree(root / image_store(specimen_id))
        shutil.rmtree(root / label_store(specimen_id))
    assert "none of 5 cells is here; fetch some with `brightfield pull`" in refusal(capsys, "-C", root, "view")
