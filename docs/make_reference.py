"""Write the reference pages that are made from the code: `make reference`. A test compares them with what this would write."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from brightfield.config.compose import reference as configuration
from brightfield.core.tables import reference_page as tables

FOLDER = Path(__file__).parent / "reference"


def pages() -> dict[Path, str]:
    """Every generated page with its text."""
    return {FOLDER / "configuration.md": configuration(), FOLDER / "tables.md": _linked(tables())}


def glossary_columns() -> dict[str, str]:
    """The columns that the glossary explains, as patterns (`absent_*`; `patches.kind` for one table alone), with the anchor of the word."""
    text = (FOLDER / "glossary.md").read_text(encoding="utf-8")
    entries = re.findall(r"^### (.+)\n((?:(?!#).*\n)*)", text, re.MULTILINE)
    return {column: _anchor(word) for word, entry in entries for column in re.findall(r"`([^`]+)`", entry.partition("In the tables:")[2])}


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _linked(page: str) -> str:
    """The page of the tables, with a link to the glossary from every column that it explains."""
    return "".join(_linked_lines(page, glossary_columns()))


def _linked_lines(page: str, known: dict[str, str]) -> Iterator[str]:
    table = ""
    for line in page.splitlines(keepends=True):
        if line.startswith("## "):
            table = line[3:].partition(":")[0]
        column = re.match(r"\| `(\w+)` \|", line)
        names = (column[1], f"{table}.{column[1]}") if column else ()
        anchors = [anchor for pattern, anchor in known.items() if any(fnmatchcase(name, pattern) for name in names)]
        yield line.replace(f"`{names[0]}`", f"[`{names[0]}`](glossary.md#{anchors[0]})", 1) if anchors else line


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
