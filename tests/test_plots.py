"""`dvc plots show` draws what can be drawn without a network, and says of the rest that it needs one."""

from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any

import pytest
import yaml

from brightfield.core.layout import REPORT_FIGURES_DIR
from brightfield.stages.report.index import FIGURES
from browser import content, screenshot

ROOT = Path(__file__).resolve().parent.parent


def template() -> Path:
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc" / "config")
    return ROOT / ".dvc" / config.get("plots", "html_template")


def test_the_figures_are_plots_and_their_pages_stay_out_of_git() -> None:
    said: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    assert REPORT_FIGURES_DIR.as_posix() in said["plots"]
    assert REPORT_FIGURES_DIR.as_posix() in said["stages"]["report"]["outs"]
    assert "/dvc_plots/" in (ROOT / ".gitignore").read_text().splitlines()
    assert len(FIGURES) == 5


@pytest.mark.slow
def test_without_a_network_figures_come_first_and_interactive_plots_say_why_they_are_not_there(tmp_path: Path) -> None:
    from dvc_render import ImageRenderer, VegaRenderer
    from dvc_render.html import render_html

    red = '<svg xmlns="http://www.w3.org/2000/svg" width="300" height="200"><rect width="300" height="200" fill="#f00"/></svg>'
    (tmp_path / "red.svg").write_text(red)
    points = [{"x": 1, "y": 2, "rev": "workspace", "filename": "a.csv", "field": "y"}]
    drawn = [
        VegaRenderer(points, "interactive", x="x", y="y", template="linear", anchors_y_definitions=[{"filename": "a.csv", "field": "y"}]),
        ImageRenderer([{"rev": "workspace", "src": "red.svg", "filename": "red.svg"}], "red.svg"),
    ]
    page = tmp_path / "index.html"
    render_html(drawn, page, template())
    text = content(page.as_uri(), tmp_path)
    assert text.count("An interactive plot is here when there is a network") == 2  # in the script, and in its place
    pixels = screenshot(page.as_uri(), tmp_path, (900, 500))
    reddish = (pixels[..., 0] > 200) & (pixels[..., 1] < 50)
    assert reddish.sum() >= 300 * 200
    assert first_row(reddish) < 200


def first_row(mask: Any) -> int:
    """The first row of a picture that has any of it."""
    return int(mask.any(axis=1).argmax())
