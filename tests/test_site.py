"""The documentation as a site: no link leads nowhere, every page opens from disk, and none asks the network for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import brightfield
from repositories import REPOSITORY

DOCS = REPOSITORY / "docs"
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
"""What a browser fetches by itself."""


class _Loads(HTMLParser):
    """The addresses that a page loads when it is opened."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in LOADING and given.get("rel") not in ("prev", "next", "canonical"):
            self.addresses += [given.get(LOADING[tag]) or ""]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a link or an anchor that leads nowhere, or a page outside of the navigation, stops the build."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        words, cwd=REPOSITORY, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_there_and_loads_only_files_of_the_site(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) == len(list(DOCS.rglob("*.md"))) + 1  # 404.html
    for page in pages:
        addresses = [address for address in _Loads(page).addresses if address]
        assert addresses
        for address in addresses:
            assert not re.match(r"(\w+:)?//", address), f"{page.name} loads {address}"
            if page.name != "404.html":  # its addresses are those of a server
                assert (page.parent / address.split("?")[0]).is_file(), f"{page.name} loads {address}"


@pytest.mark.slow
def test_the_search_has_the_words_of_the_pages_without_a_server(site: Path) -> None:
    index = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    assert index.startswith("var __index")
    assert "Minkowski" in index
    assert 'src="javascripts/iframe-worker.js"' in (site / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_python_reference_has_signatures_and_docstrings(site: Path) -> None:
    page = (site / "reference" / "python.html").read_text(encoding="utf-8")
    for name in (name for name in brightfield.__all__ if not name.startswith("_")):
        assert f'id="brightfield.{name}"' in page
        first_line = (getattr(brightfield, name).__doc__ or "").split("\n")[0]
        assert first_line.split("`")[0].strip().rstrip(":") in page
