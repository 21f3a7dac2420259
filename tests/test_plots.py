"""`dvc plots show` draws everything without a network; a page that was moved away from the repository says what it lacks."""

from __future__ import annotations

import configparser
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from brightfield.core.layout import REPORT_FIGURES_DIR
from brightfield.stages.report.index import FIGURES
from browser import content, screenshot

ROOT = Path(__file__).resolve().parent.parent


def template(repository: Path) -> Path:
    """The page that a DVC repository draws its plots into."""
    config = configparser.ConfigParser()
    config.read(repository / ".dvc" / "config")
    return (repository / ".dvc" / config.get("plots", "html_template")).resolve()


def test_the_figures_are_plots_and_their_pages_stay_out_of_git() -> None:
    said: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    assert REPORT_FIGURES_DIR.as_posix() in said["plots"]
    assert REPORT_FIGURES_DIR.as_posix() in said["stages"]["report"]["outs"]
    assert "/dvc_plots/" in (ROOT / ".gitignore").read_text().splitlines()
    assert len(FIGURES) == 5


def draw(page: Path) -> None:
    """The page of an interactive plot and of a red picture of 300 x 200."""
    from dvc_render import ImageRenderer, VegaRenderer
    from dvc_render.html import render_html

    page.parent.mkdir(parents=True, exist_ok=True)
    red = '<svg xmlns="http://www.w3.org/2000/svg" width="300" height="200"><rect width="300" height="200" fill="#f00"/></svg>'
    (page.parent / "red.svg").write_text(red)
    points = [{"x": x, "y": 2, "rev": "workspace", "filename": "a.csv", "field": "y"} for x in (1, 2)]
    drawn = [
        VegaRenderer(points, "interactive", x="x", y="y", template="linear", anchors_y_definitions=[{"filename": "a.csv", "field": "y"}]),
        ImageRenderer([{"rev": "workspace", "src": "red.svg", "filename": "red.svg"}], "red.svg"),
    ]
    render_html(drawn, page, template(ROOT))


def test_this_repository_and_the_baseline_have_one_template() -> None:
    assert template(ROOT) == template(ROOT / "baseline") == ROOT / ".dvc" / "plots.html"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["dvc_plots", "baseline/dvc_plots"])
def test_interactive_plots_are_drawn_without_a_network(place: str, tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "vega.js", tmp_path / ".dvc")
    page = tmp_path / place / "index.html"
    draw(page)
    text = content(page.as_uri(), tmp_path).partition('<div id="plots">')[2]
    assert 'class="vega-embed' in text
    assert "<svg" in text
    assert "An interactive plot is here" not in text
    shown, _, spare = text.partition("<template")
    assert not re.search(r"<script[^>]* src=", shown + spare.partition("</template>")[2])  # nothing is asked of a network


@pytest.mark.slow
def test_away_from_the_repository_and_without_a_network_figures_come_first_and_a_line_says_what_is_lacking(tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    draw(page)
    text = content(page.as_uri(), tmp_path)
    assert text.count("An interactive plot is here where the page lies in its repository") == 2  # in the script, and in its place
    pixels = screenshot(page.as_uri(), tmp_path, (900, 500))
    reddish = (pixels[..., 0] > 200) & (pixels[..., 1] < 50)
    assert reddish.sum() >= 300 * 200
    assert first_row(reddish) < 200


def first_row(mask: Any) -> int:
    """The first row of a picture that has any of it."""
    return int(mask.any(axis=1).argmax())
