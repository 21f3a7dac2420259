"""Text that others wrote, as data: what it says is shown, what it could do is not done."""

from __future__ import annotations

import re

_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def markdown(text: object) -> str:
    """A text as one line of Markdown that shows it letter by letter: no HTML, heading, link, table cell or emphasis comes of it."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return re.sub(r"[\\`*\[\]|~#$]|(?<!\w)_|_(?!\w)", r"\\\g<0>", re.sub("[&<>]", lambda found: _HTML[found[0]], line))


def markdown_code(text: object) -> str:
    """The same as code, where that is safe: digests and addresses."""
    return f"`{text}`" if re.fullmatch(r"[\w .,:;/@%+=~^()-]+", str(text), re.ASCII) else markdown(text)
