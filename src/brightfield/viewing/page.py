"""The page around the viewer: a list of cells beside it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from brightfield.viewing.choice import Row

_STYLE = """
html, body { margin: 0; height: 100%; background: #20252b; color: #dfe4ea; font: 13px system-ui, sans-serif }
body { display: flex }
nav { width: 16em; overflow: auto; padding: .5em; box-sizing: border-box }
iframe { flex: 1; border: 0 }
input { width: 100%; box-sizing: border-box; margin-bottom: .5em; position: sticky; top: 0 }
a, .absent { display: block; padding: .25em .4em; color: inherit; text-decoration: none }
a:hover { background: #343c46 }
a.shown { background: #0072b2 }
.absent { opacity: .45 }
nav [hidden] { display: none }
"""

_SCRIPT = """
const rows = [...document.querySelectorAll("nav a, nav span")];
const links = [...document.querySelectorAll("nav a")];
document.querySelector("a.shown")?.scrollIntoView({ block: "center" });
for (const link of links)
  link.onclick = () => links.forEach((other) => other.classList.toggle("shown", other === link));
document.querySelector("input").oninput = (event) => {
  const words = event.target.value.toLowerCase().split(" ");
  for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
};
"""


def html(rows: Sequence[Row], open_url: str, shown: str) -> str:
    """The page. open_url: what a specimen id is put behind, to open it. shown: the id of the cell that is open at first."""
    entries = "\n".join(_entry(row, open_url, shown) for row in rows)
    find = '<input placeholder="id, side, grade, finding" aria-label="filter">'
    frame = f'<iframe name="viewer" title="viewer" src="{escape(open_url + shown)}"></iframe>'
    head = f'<!doctype html><meta charset="utf-8"><title>brightfield view</title><style>{_STYLE}</style>'
    return f"{head}<nav>{find}{entries}</nav>{frame}<script>{_SCRIPT}</script>"


def sorry(message: str) -> str:
    """What stands in the place of a cell that cannot be shown."""
    return f'<!doctype html><meta charset="utf-8"><style>{_STYLE}</style><p>error: {escape(message)}'


def _entry(row: Row, open_url: str, shown: str) -> str:
    words = escape(" ".join([str(row.specimen_id), row.split, row.grade, *row.findings]))
    if not row.here:
        return f'<span class="absent" title="its volumes are not here">{words}</span>'
    marked = ' class="shown"' if str(row.specimen_id) == shown else ""
    return f'<a href="{escape(open_url)}{row.specimen_id}" target="viewer"{marked}>{words}</a>'
