"""A browser without network, to look at pages as people do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

from servers import program_of

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def _run(scratch: Path, *words: str) -> str:
    browser = program_of(*BROWSERS, package="chromium")
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND"]
    done = subprocess.run([*command, f"--user-data-dir={scratch / 'profile'}", *words], check=True, capture_output=True, timeout=240)
    return done.stdout.decode()


def screenshot(page: str, scratch: Path, size: tuple[int, int]) -> np.ndarray:
    """The page as RGB (h, w, 3), int64."""
    shot = scratch / "page.png"
    _run(scratch, f"--window-size={size[0]},{size[1]}", f"--screenshot={shot}", page)
    return np.asarray(Image.open(shot).convert("RGB")).astype(int)


def content(page: str, scratch: Path) -> str:
    """The page's HTML once its scripts have run."""
    return _run(scratch, "--virtual-time-budget=4000", "--dump-dom", page)


def rows_shown(html: str) -> list[int]:
    """The ids of the cells in the rows that are not hidden, in their order."""
    body = html.partition("<tbody>")[2].partition("</tbody>")[0]
    rows = re.findall(r"<tr([^>]*)>(.*?)</tr>", body, re.DOTALL)
    return [int(match[1]) for attributes, row in rows if "hidden" not in attributes and (match := re.search(r'<td data-v="(\d+)">', row))]
