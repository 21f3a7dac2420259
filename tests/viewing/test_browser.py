"""What a real browser draws, voxel by voxel: the client of Neuroglancer in headless Chromium, which renders in software."""

from __future__ import annotations

import io
import json
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from brightfield.core.codes import LABEL_COLOURS_RGB, VERDICT_COLOURS_RGB, Label
from brightfield.core.layout import image_store, label_store
from brightfield.testing.dataset import DATASET_CELLS
from brightfield.volumes.volume import open_volume
from servers import program_of

pytest.importorskip("neuroglancer", reason="needs Neuroglancer: pip install 'brightfield[view]'")

from brightfield.viewing.choice import Filters, listed
from brightfield.viewing.colours import LABEL_ALPHA, UNKNOWN_ALPHA
from brightfield.viewing.material import WorkingTree
from brightfield.viewing.server import Opened, Show

pytestmark = [pytest.mark.slow, pytest.mark.server]

CELL = DATASET_CELLS[0]
WIDTH_PX, HEIGHT_PX, PX_PER_VOXEL = 640, 400, 10
PLANE, ROW, COLUMN = 10, 48, 64
"""The voxel in the middle of the picture: on the neurite."""


@dataclass
class Browser:
    """The cell in a browser: `shot` is a picture of the xy plane through the middle voxel, with some layers shown."""

    opened: Opened
    log: Path

    def shot(self, *shown: str) -> NDArray[np.int64]:
        viewer = self.opened.viewer
        with viewer.txn() as state:
            for layer in state.layers:
                layer.visible = layer.name in shown
        found: list[bytes] = []
        size = [WIDTH_PX, HEIGHT_PX]
        asking = threading.Thread(target=lambda: found.append(viewer.screenshot(size=size).screenshot.image), daemon=True)
        asking.start()
        asking.join(120)
        assert found, "the browser did not draw"
        return np.asarray(Image.open(io.BytesIO(found[0])).convert("RGB")).astype(np.int64)


@pytest.fixture(scope="module")
def browser(stained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = program_of("chromium", "chromium-browser", "google-chrome", package="chromium")
    folder = tmp_path_factory.mktemp("browser")
    material = WorkingTree(stained)
    soft = folder / f"{CELL}.npy"
    np.save(soft, (open_volume(stained / label_store(CELL)).read() == Label.BASAL_DENDRITE).astype(np.float32))
    show = Show(material, listed(material, Filters()), extra=[soft])
    opened = show.open(CELL)
    with opened.viewer.txn() as state:
        state.layout = "xy"
        state.position = [COLUMN + 0.5, ROW + 0.5, PLANE + 0.5]
        state.cross_section_scale = 1 / PX_PER_VOXEL
        state.show_scale_bar = state.show_default_annotations = False
    command = [program, "--headless=new", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-extensions"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--log-net-log={folder / 'net.json'}"]
    command += [f"--user-data-dir={folder / 'profile'}", f"{show.url}?cell={CELL}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield Browser(opened, folder / "net.json")
    process.terminate()
    process.wait(timeout=60)
    show.close()


def windows(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """The voxels that the picture shows, (y, x)."""
    rows, columns = HEIGHT_PX // PX_PER_VOXEL, WIDTH_PX // PX_PER_VOXEL
    first_y, first_x = ROW - rows // 2 + 1, COLUMN - columns // 2 + 1
    return array[first_y : first_y + rows - 1, first_x : first_x + columns - 1]


def centres(picture: NDArray[np.int64]) -> NDArray[np.int64]:
    """The pixel in the middle of each of those voxels; the middle of the picture is the middle of a voxel."""
    return picture[PX_PER_VOXEL::PX_PER_VOXEL, PX_PER_VOXEL::PX_PER_VOXEL]


def greys(stained: Path, opened: Opened) -> NDArray[np.float64]:
    values = windows(open_volume(stained / image_store(CELL)).read()[PLANE]).astype(float)
    low, high = opened.scene.contrast
    return np.clip((values - low) / (high - low), 0, 1) * 255


def codes(stained: Path) -> NDArray[np.generic]:
    return windows(open_volume(stained / label_store(CELL)).read()[PLANE])


def test_the_stain_is_dark_and_every_voxel_where_it_belongs(browser: Browser, stained: Path) -> None:
    expected = greys(stained, browser.opened)
    np.testing.assert_allclose(centres(browser.shot("image")), np.repeat(expected[..., None], 3, axis=-1), atol=2)
    assert expected[19, 31] < 80 < 200 < expected[4, 31], "stain on the neurite, paper beside it"


def test_the_labels_lie_on_the_stain_in_their_own_colours(browser: Browser, stained: Path) -> None:
    drawn, under, found = centres(browser.shot("image", "labels", "unknown")), greys(stained, browser.opened), codes(stained)
    assert {int(code) for code in np.unique(found)} == {0, 1, 3, 255}
    for code in np.unique(found).tolist():
        alpha = {0: 0.0, int(Label.UNKNOWN): UNKNOWN_ALPHA}.get(code, LABEL_ALPHA)
        colour = np.array(LABEL_COLOURS_RGB[Label(code)])
        here = found == code
        np.testing.assert_allclose(drawn[here], alpha * colour + (1 - alpha) * under[here][:, None], atol=3)


def test_the_skeleton_runs_through_the_middle_of_its_label(browser: Browser, stained: Path) -> None:
    picture = browser.shot("image", "labels", "skeleton")
    basal = np.abs(picture - LABEL_COLOURS_RGB[Label.BASAL_DENDRITE]).max(axis=-1) < 40
    rows, columns = np.nonzero(basal[:, HEIGHT_PX // 2 :])
    assert len(rows) > 300
    assert abs(rows.mean() - (HEIGHT_PX / 2 - 0.5)) < 1.5, "the line is at y = 24 um, the middle of row 48"
    assert np.ptp(columns) > 300
    assert (codes(stained)[19, 10:] == Label.BASAL_DENDRITE).any()


def test_a_stretch_that_is_not_on_the_stain_is_red(browser: Browser) -> None:
    along_x = browser.opened.scene.verdicts["NOT ON"].points_zyx[:, 2]
    with browser.opened.viewer.txn() as state:
        state.position = [along_x.mean() + 0.5, ROW + 0.5, PLANE + 0.5]
    red = np.abs(browser.shot("image", "skeleton", "alignment") - VERDICT_COLOURS_RGB["NOT ON"]).max(axis=-1) < 40
    with browser.opened.viewer.txn() as state:
        state.position = [COLUMN + 0.5, ROW + 0.5, PLANE + 0.5]
    assert red[HEIGHT_PX // 2 - 2 : HEIGHT_PX // 2 + 2].any()


def test_a_prediction_that_the_browser_cannot_read_lies_on_the_labels(browser: Browser, stained: Path) -> None:
    drawn = centres(browser.shot(str(CELL)))
    green = drawn[..., 1] - drawn[..., 0] > 40
    np.testing.assert_array_equal(green, codes(stained) == Label.BASAL_DENDRITE)


def test_nothing_is_asked_of_other_machines(browser: Browser) -> None:
    browser.shot("image")
    text = browser.log.read_text().rstrip().rstrip(",")
    log = json.loads(text if text.endswith("]}") else text + "]}")
    told = [event["params"] for event in log["events"] if "initiator" in event.get("params", {})]
    asked = {urlsplit(request["url"]) for request in told if request["initiator"].startswith("http")}  # others are the browser's own
    assert {part for part in ("v", "events", "files") if any(f"/{part}/" in url.path for url in asked)} == {"v", "events", "files"}
    assert {url.hostname for url in asked} == {"127.0.0.1"}
