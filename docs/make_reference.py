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
    return {FOLDER / "configuration.md": _linked(configuration()), FOLDER / "tables.md": _linked(tables())}


def explained() -> dict[str, str]:
    """What the glossary explains, with the anchor of the word: columns (`absent_*`; `patches.kind` of one table alone) and options."""
    text = (FOLDER / "glossary.md").read_text(encoding="utf-8")
    entries = re.findall(r"^### (.+)\n((?:(?!#).*\n)*)", text, re.MULTILINE)
    return {
        name: _anchor(word) for word, entry in entries for name in re.findall(r"`([^`]+)`", "".join(re.split(r"In the \w+:", entry)[1:]))
    }


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def _linked(page: str) -> str:
    """The page with a link to the glossary from every column and option that it explains."""
    return "".join(_linked_lines(page, explained()))


def _linked_lines(page: str, known: dict[str, str]) -> Iterator[str]:
    table = ""
    for line in page.splitlines(keepends=True):
        if line.startswith("## "):
            table = line[3:].partition(":")[0]
        row = re.match(r"\| `([\w.]+)` \|", line)
        names = (row[1], f"{table}.{row[1]}") if row else ()
        anchors = [anchor for pattern, anchor in known.items() if any(fnmatchcase(name, pattern) for name in names)]
        yield line.replace(f"`{names[0]}`", f"[`{names[0]}`](glossary.md#{anchors[0]})", 1) if anchors else line


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
