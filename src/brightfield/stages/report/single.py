"""The report as one file: style, plots and pictures inlined, the pages of cells below the index. To be sent on, not to be worked with."""

from __future__ import annotations

import re
from base64 import b64encode
from pathlib import Path

from brightfield.core.errors import FileError
from brightfield.core.files import write_text
from brightfield.core.layout import REPORT_DIR, REPORT_FILE, REPORT_STYLE_FILE, cell_page

_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".svg": "image/svg+xml"}


def built_index(root: Path) -> Path:
    """The index of the built report of the dataset at `root`. Raises FileError where there is none."""
    _bytes(root / REPORT_FILE)
    return root / REPORT_FILE


def write_single(root: Path, target: Path) -> Path:
    """Write the built report of the dataset at `root` as one HTML file that loads nothing; returns `target`.

    Raises FileError where the report is not built, or a part of it is not here.
    """
    index = _inlined(_read(root / REPORT_FILE), root / REPORT_DIR)
    style = _read(root / REPORT_STYLE_FILE)
    index = index.replace('<link rel="stylesheet" href="style.css">', f"<style>\n{style}</style>")
    ids = re.findall(r'<a href="cells/(\d+)/index\.html">', index)
    index = re.sub(r'href="cells/(\d+)/index\.html"', r'href="#cell-\1"', index)
    return write_text(target, index.replace("</main>", "".join(_section(root, int(i)) for i in ids) + "</main>"))


def _section(root: Path, specimen_id: int) -> str:
    page = root / cell_page(specimen_id)
    return _inlined(_read(page).partition("<main>")[2].partition("</main>")[0], page.parent)


def _inlined(html: str, folder: Path) -> str:
    return re.sub(r'src="([^":]+)"', lambda found: f'src="{_uri(folder / found[1])}"', html)


def _uri(path: Path) -> str:
    return f"data:{_TYPES[path.suffix]};base64,{b64encode(_bytes(path)).decode('ascii')}"


def _read(path: Path) -> str:
    return _bytes(path).decode("utf-8")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise FileError("is not there; build the report with `dvc repro`, or fetch it with `dvc pull report`", path=path) from error
