"""The report: complete, self-contained, repeatable, and readable in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from brightfield.config.options import Config
from brightfield.core.codes import Finding, Severity
from brightfield.core.errors import TableError
from brightfield.core.layout import METRICS_FILE, PLOTS_DIR, REPORT_FILE, image_store
from brightfield.core.schema import MANIFEST, SPLITS
from brightfield.core.tables import read_table, write_table
from brightfield.stages.report.page import MAX_PICTURED, number, write_report
from brightfield.testing.dataset import DATASET_CELLS, make_dataset
from servers import program_of


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    root = tmp_path_factory.mktemp("dataset")
    config = make_dataset(root)
    write_report(root, config, findings=[])
    return root, config


@pytest.fixture
def copied(built: tuple[Path, Config], tmp_path: Path) -> tuple[Path, Config]:
    return Path(shutil.copytree(built[0], tmp_path / "copy")), built[1]


def page_of(root: Path) -> str:
    return (root / REPORT_FILE).read_text("utf-8")


def test_every_cell_with_an_image_has_its_page_and_every_other_its_reason(built: tuple[Path, Config]) -> None:
    page = page_of(built[0])
    for specimen_id in DATASET_CELLS[:4]:
        assert f'id="cell-{specimen_id}"' in page
    assert f'id="cell-{DATASET_CELLS[4]}"' not in page
    assert "the source has no image stack for it" in page
    assert "y flip fits better" in page


def test_the_page_needs_no_network(built: tuple[Path, Config]) -> None:
    class Loads(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.found += [value or "" for name, value in attrs if name in ("src", "srcset", "data") or (name == "href" and tag != "a")]

    parser = Loads()
    parser.feed(page_of(built[0]))
    assert parser.found
    assert all(value.startswith("data:image/png;base64,") for value in parser.found)
    assert not re.search(r"@import|url\(|<script", page_of(built[0]))


def test_the_same_dataset_gives_the_same_bytes(copied: tuple[Path, Config]) -> None:
    root, config = copied
    files = sorted(path for path in (root / "reports").rglob("*") if path.is_file())
    before = [sha256(path.read_bytes()).hexdigest() for path in files]
    write_report(root, config, findings=[])
    assert [sha256(path.read_bytes()).hexdigest() for path in files] == before
    assert str(root) not in page_of(root)


def test_metrics_are_flat_numbers_that_agree_with_the_manifest(built: tuple[Path, Config]) -> None:
    root, _ = built
    metrics = json.loads((root / METRICS_FILE).read_text())
    assert all(isinstance(value, int | float) for value in metrics.values())
    manifest = read_table(MANIFEST, root)
    taken = manifest[manifest["split"] != "excluded"]
    assert metrics["cells_train"] + metrics["cells_val"] + metrics["cells_test"] == len(taken) == 3
    assert metrics["voxels_basal"] == taken["voxels_basal"].sum()
    assert metrics["path_um_basal"] == pytest.approx(taken["path_basal_um"].sum(), abs=0.1)
    assert metrics["split_leaks"] == 0


def test_plots_are_tables_with_a_row_per_bar(built: tuple[Path, Config]) -> None:
    classes = pd.read_csv(built[0] / PLOTS_DIR / "classes.csv")
    assert len(classes) == 3 * 4
    alignment = pd.read_csv(built[0] / PLOTS_DIR / "alignment.csv")
    assert alignment["specimen_id"].tolist() == list(DATASET_CELLS[:4])
    assert (pd.read_csv(built[0] / PLOTS_DIR / "unknown.csv")["voxels"] >= 0).all()


def test_findings_leaks_and_changes_are_shown_and_escaped(copied: tuple[Path, Config]) -> None:
    root, config = copied
    splits = read_table(SPLITS, root)
    manifest = read_table(MANIFEST, root)
    manifest.loc[manifest["specimen_id"] == 102, "donor_id"] = manifest.loc[manifest["specimen_id"] == 101, "donor_id"].iloc[0]
    write_table(MANIFEST, manifest, root)
    assert len(splits) == len(DATASET_CELLS)
    write_report(root, config, findings=[Finding(Severity.ERROR, "hashes", "<b>5 bytes</b> differ", 101, "fetch it")], changes="moved: 7")
    page = page_of(root)
    assert "&lt;b&gt;5 bytes&lt;/b&gt; differ" in page
    assert "moved: 7" in page
    assert re.search(r"donor \d+ is in several splits", page)
    assert json.loads((root / METRICS_FILE).read_text())["findings_error"] == 1


def test_a_cell_whose_volume_is_gone_is_said_so(copied: tuple[Path, Config]) -> None:
    root, config = copied
    shutil.rmtree(root / image_store(101))
    write_report(root, config, findings=[])
    assert "The volumes of this cell cannot be read" in page_of(root)


def test_a_missing_table_is_named(copied: tuple[Path, Config]) -> None:
    root, config = copied
    (root / MANIFEST.path).unlink()
    with pytest.raises(TableError, match="manifest"):
        write_report(root, config, findings=[])


def test_of_many_cells_the_doubtful_ones_are_pictured() -> None:
    from brightfield.stages.report.page import _pictured

    n = MAX_PICTURED + 20
    sides = ["excluded" if i % 10 == 0 else "train" for i in range(n)]
    frame = pd.DataFrame({"specimen_id": range(n), "split": sides, "image_path": "x", "alignment_d_prime": np.arange(n, dtype=float)})
    chosen = [row["specimen_id"] for row in _pictured(frame)]
    assert len(chosen) == MAX_PICTURED
    assert {i for i in range(n) if i % 10 == 0} <= set(chosen)
    assert n - 1 not in chosen


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (3, "3"), (12345.0, "12\u202f345"), (0.12345, "0.1235")])
def test_numbers_read_well(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.slow
def test_a_browser_without_network_shows_it(built: tuple[Path, Config], tmp_path: Path) -> None:
    browser = program_of("chromium", "chromium-browser", "google-chrome", package="chromium")
    shot = tmp_path / "report.png"
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,4200", f"--screenshot={shot}"]
    subprocess.run([*command, (built[0] / REPORT_FILE).as_uri()], check=True, capture_output=True, timeout=120)
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    colourful = (pixels.max(axis=-1) - pixels.min(axis=-1)) > 60
    assert colourful[2300:].sum() > 2000  # arbors and labels below the tables
    assert (pixels[:200].min(axis=-1) < 100).any()  # the headline
