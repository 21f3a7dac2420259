"""The report: complete, repeatable, a page per cell that is found again, and usable in a browser without network."""

from __future__ import annotations

import json
import re
import shutil
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from brightfield.config.options import Config
from brightfield.core.codes import Finding, Severity
from brightfield.core.errors import CellFailures, FileError, TableError
from brightfield.core.layout import METRICS_FILE, PLOTS_DIR, REPORT_DIR, REPORT_FIGURES_DIR, REPORT_FILE, cell_page, image_store
from brightfield.core.schema import ALIGNMENT_CELLS, MANIFEST, NODES
from brightfield.core.tables import read_table, write_table
from brightfield.run.collect import gc
from brightfield.stages.report import figures
from brightfield.stages.report.numbers import number
from brightfield.stages.report.single import write_single
from brightfield.stages.report.stage import write_report
from brightfield.testing.dataset import DATASET_CELLS, make_dataset
from browser import content, rows_shown, screenshot

PAGES = DATASET_CELLS[:4]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    root = tmp_path_factory.mktemp("dataset")
    config = make_dataset(root)
    config.compute.workers = 1
    assert write_report(root, config, findings=[]).computed == PAGES
    return root, config


@pytest.fixture
def copied(built: tuple[Path, Config], tmp_path: Path) -> tuple[Path, Config]:
    return Path(shutil.copytree(built[0], tmp_path / "copy")), built[1]


def index_of(root: Path) -> str:
    return (root / REPORT_FILE).read_text("utf-8")


def page_of(root: Path, specimen_id: int) -> str:
    return (root / cell_page(specimen_id)).read_text("utf-8")


def hashes_of(root: Path) -> dict[str, str]:
    files = (path for path in (root / "reports").rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}


def edit(root: Path, table: object, specimen_id: int, column: str, value: object) -> None:
    frame = read_table(table, root)
    frame.loc[frame["specimen_id"] == specimen_id, column] = value
    write_table(table, frame, root)


def test_every_cell_with_an_image_has_its_page_and_every_other_its_reason(built: tuple[Path, Config]) -> None:
    index = index_of(built[0])
    for specimen_id in PAGES:
        assert f'href="cells/{specimen_id}/index.html"' in index
        assert f'id="cell-{specimen_id}"' in page_of(built[0], specimen_id)
    assert not (built[0] / cell_page(DATASET_CELLS[4])).exists()
    assert "the source has no image stack for it" in index
    assert "y flip fits better" in index
    assert "y flip fits better" in page_of(built[0], PAGES[3])


class _Loads(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "srcset", "data", "href")]


def test_pages_load_and_link_only_files_of_the_report_and_the_web_never_scripts(built: tuple[Path, Config]) -> None:
    pages = sorted((built[0] / REPORT_DIR).rglob("*.html"))
    assert len(pages) == 1 + len(PAGES)
    for page in pages:
        loads = _Loads()
        loads.feed(page.read_text("utf-8"))
        local = [name.partition("#")[0] for name in loads.found if not name.startswith(("#", "https://"))]
        assert local
        assert all((page.parent / name).resolve().is_relative_to(built[0] / REPORT_DIR) for name in local)
        assert all((page.parent / name).is_file() for name in local)
        assert not re.search(r"@import|url\(|<script [^>]|type=.?module", page.read_text("utf-8"))
        assert not [link for link in re.findall(r'(?:src|data)="(https?:[^"]*)"', page.read_text("utf-8")) if link]


def test_the_same_dataset_gives_the_same_bytes_whatever_the_workers(copied: tuple[Path, Config], tmp_path: Path) -> None:
    root, config = copied
    before = hashes_of(root)
    shutil.rmtree(root / "reports")
    shutil.rmtree(root / ".work")
    config.compute.workers = 2
    try:
        assert write_report(root, config, findings=[]).computed == PAGES
    finally:
        config.compute.workers = 1
    assert hashes_of(root) == before
    text = b"".join(path.read_bytes() for path in (root / "reports").rglob("*") if path.is_file())
    assert str(tmp_path).encode() not in text
    assert str(Path.home()).encode() + b"/" not in text


def test_nothing_changed_no_page_is_made_and_one_changed_cell_costs_one(copied: tuple[Path, Config]) -> None:
    root, config = copied
    before = hashes_of(root)
    shutil.rmtree(root / "reports")
    done = write_report(root, config, findings=[])
    assert (done.computed, done.found) == ((), PAGES)
    assert hashes_of(root) == before
    edit(root, NODES, 102, "radius_um", 0.31)
    edit(root, MANIFEST, 103, "config_sha256", "f" * 64)  # no page says it
    assert write_report(root, config, findings=[]).computed == (102,)
    edit(root, ALIGNMENT_CELLS, 103, "grade", "C")
    assert write_report(root, config, findings=[Finding(Severity.WARNING, "grids", "odd", 101)]).computed == (101, 103)


def test_figures_are_drawn_where_what_they_show_has_changed(copied: tuple[Path, Config], monkeypatch: pytest.MonkeyPatch) -> None:
    root, config = copied
    drawn = list[str]()
    original = figures.alignment
    monkeypatch.setattr(figures, "alignment", lambda *args: (drawn.append("alignment"), original(*args))[1])
    folder = root / REPORT_FIGURES_DIR
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    write_report(root, config, findings=[])
    gc(root)
    write_report(root, config, findings=[])
    assert drawn == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    edit(root, ALIGNMENT_CELLS, PAGES[0], "d_prime", 9.5)
    edit(root, ALIGNMENT_CELLS, PAGES[0], "share_on", 0.5)
    write_report(root, config, findings=[])
    assert drawn == ["alignment"]
    changed = {path.name for path in folder.iterdir() if path.read_bytes() != before[path.name]}
    assert changed == {"alignment.svg"}


def test_the_page_of_a_cell_that_left_the_dataset_is_gone(copied: tuple[Path, Config]) -> None:
    root, config = copied
    manifest = read_table(MANIFEST, root)
    write_table(MANIFEST, manifest[manifest["specimen_id"] != 102], root)
    write_report(root, config, findings=[])
    assert not (root / cell_page(102)).parent.exists()
    assert (root / cell_page(101)).is_file()


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
    assert alignment["specimen_id"].tolist() == list(PAGES)
    assert (pd.read_csv(built[0] / PLOTS_DIR / "unknown.csv")["voxels"] >= 0).all()


def test_findings_leaks_changes_and_names_are_shown_and_escaped(copied: tuple[Path, Config]) -> None:
    root, config = copied
    manifest = read_table(MANIFEST, root)
    manifest.loc[manifest["specimen_id"] == 102, "donor_id"] = manifest.loc[manifest["specimen_id"] == 101, "donor_id"].iloc[0]
    manifest.loc[manifest["specimen_id"] == 103, ["name", "line", "dendrite_type"]] = '"><script>alert(1)</script>'
    write_table(MANIFEST, manifest, root)
    write_report(
        root, config, findings=[Finding(Severity.ERROR, "hashes", "<b>5 bytes</b> differ", 101, "fetch it")], changes="moved: 7<i>"
    )
    for page in (index_of(root), page_of(root, 101)):
        assert "&lt;b&gt;5 bytes&lt;/b&gt; differ" in page
    assert "moved: 7&lt;i&gt;" in index_of(root)
    assert all("<script>alert" not in page for page in (index_of(root), page_of(root, 103)))
    assert "&lt;script&gt;alert(1)" in page_of(root, 103)
    assert re.search(r"donor \d+ is in several splits", index_of(root))
    assert json.loads((root / METRICS_FILE).read_text())["findings_error"] == 1


def test_a_cell_whose_volume_is_gone_is_said_so_and_is_pictured_once_it_is_back(copied: tuple[Path, Config], tmp_path: Path) -> None:
    root, config = copied
    shutil.move(root / image_store(101), tmp_path / "aside")
    assert write_report(root, config, findings=[]).computed == (101,)
    assert "The volumes of this cell are not there" in page_of(root, 101)
    assert '"cells/101/thumbnail.jpg"' not in index_of(root)
    shutil.move(tmp_path / "aside", root / image_store(101))
    assert write_report(root, config, findings=[]).found == PAGES
    assert '"cells/101/thumbnail.jpg"' in index_of(root)


def test_a_volume_that_cannot_be_read_fails_its_cell_and_leaves_no_page_behind_in_the_cache(copied: tuple[Path, Config]) -> None:
    root, config = copied
    shutil.rmtree(root / ".work")
    (root / image_store(102) / "zarr.json").write_text("{")
    with pytest.raises(CellFailures, match="102"):
        write_report(root, config, findings=[])


def test_a_missing_table_is_named(copied: tuple[Path, Config]) -> None:
    root, config = copied
    (root / MANIFEST.path).unlink()
    with pytest.raises(TableError, match="manifest"):
        write_report(root, config, findings=[])


def test_the_single_file_has_all_and_loads_nothing(built: tuple[Path, Config], tmp_path: Path) -> None:
    page = write_single(built[0], tmp_path / "all.html").read_text("utf-8")
    loads = _Loads()
    loads.feed(page)
    assert [name for name in loads.found if name.startswith("data:")]
    assert all(name.startswith(("data:image/", "#", "https://")) for name in loads.found)
    assert {name for name in loads.found if name.startswith("#cell-")} == {f"#cell-{i}" for i in PAGES}
    assert all(page.count(f'id="cell-{i}"') == 1 for i in PAGES)
    assert page.count("data:image/png") == 7 * len(PAGES)
    assert write_single(built[0], tmp_path / "again.html").read_bytes() == (tmp_path / "all.html").read_bytes()


def test_a_report_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="dvc repro"):
        write_single(tmp_path, tmp_path / "all.html")


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (3, "3"), (12345.0, "12\u202f345"), (0.12345, "0.1235")])
def test_numbers_read_well(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (3, "3.0"), (41.27, "41.3"), (0.04, "0.0")])
def test_numbers_of_a_column_have_as_many_digits(value: float | None, text: str) -> None:
    assert number(value, 1) == text


@pytest.mark.slow
def test_a_browser_without_network_shows_index_and_pages(built: tuple[Path, Config], tmp_path: Path) -> None:
    pixels = screenshot((built[0] / REPORT_FILE).as_uri(), tmp_path, (1280, 3000))
    colourful = (pixels.max(axis=-1) - pixels.min(axis=-1)) > 60
    assert colourful[1000:].sum() > 2000  # plots below the table
    assert (pixels[:200].min(axis=-1) < 100).any()  # the headline
    pixels = screenshot((built[0] / cell_page(101)).as_uri(), tmp_path, (1280, 1400))
    assert ((pixels.max(axis=-1) - pixels.min(axis=-1)) > 60)[150:, :700].sum() > 300  # arbor and labels


CLICKS = """
<script>
(function () {
  const at = (id) => document.getElementById(id), said = [];
  const rows = () => [...at("table").tBodies[0].rows].filter((row) => !row.hidden);
  const shown = () => said.push(rows().map((row) => row.cells[1].dataset.v).join(" "));
  const buttons = [...document.querySelectorAll("th button")];
  const press = (text) => buttons.find((button) => button.textContent === text).click();
  function set(id, value) {
    at(id).value = value;
    at(id).dispatchEvent(new Event("input", {bubbles: true}));
  }
  press("cell"); shown(); press("cell"); shown(); press("d′"); shown();
  set("split", "train"); shown(); set("split", ""); set("q", "FLIP fits"); shown(); said.push(location.hash);
  at("clear").click(); shown();
  document.body.dataset.said = said.join("|");
})();
</script>
"""


@pytest.mark.slow
def test_a_browser_sorts_and_filters_by_clicks_and_by_the_address(copied: tuple[Path, Config], tmp_path: Path) -> None:
    root, config = copied
    edit(root, ALIGNMENT_CELLS, 101, "d_prime", 7.0)
    edit(root, ALIGNMENT_CELLS, 102, "d_prime", 30.0)
    edit(root, ALIGNMENT_CELLS, 103, "d_prime", 9.0)
    edit(root, ALIGNMENT_CELLS, 104, "d_prime", None)
    write_report(root, config, findings=[])
    page = (root / REPORT_FILE).as_uri()
    assert rows_shown(content(page, tmp_path)) == [101, 102, 103, 104, 105]
    assert rows_shown(content(f"{page}#sort=-d%E2%80%B2", tmp_path)) == [102, 103, 101, 104, 105]  # what is not known comes last
    assert rows_shown(content(f"{page}#sort=d%E2%80%B2&alignment_grade=A", tmp_path)) == [101, 103, 102]
    (root / REPORT_FILE).write_text(index_of(root).replace("</body>", f"{CLICKS}</body>"))
    said = re.search('data-said="([^"]*)"', content(page, tmp_path))
    train = read_table(MANIFEST, root).query("split == 'train'")["specimen_id"].tolist()
    assert said is not None
    ascending, descending, contrast, on_train, found, address, cleared = said[1].split("|")
    assert ascending.split() == descending.split()[::-1] == ["101", "102", "103", "104", "105"]
    assert contrast.split() == ["101", "103", "102", "104", "105"]
    assert [int(i) for i in on_train.split()] == train
    assert found == "104"
    assert address.startswith("#q=FLIP+fits&amp;sort=d")
    assert cleared.split() == ["101", "102", "103", "104", "105"]
