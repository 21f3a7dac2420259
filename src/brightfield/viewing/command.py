"""`brightfield view`: its words, and what they open. Cheap to import: what shows cells is imported when cells are shown."""

from __future__ import annotations

import argparse
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from brightfield.core.errors import ConfigError

if TYPE_CHECKING:
    from brightfield.viewing.choice import Row
    from brightfield.viewing.material import Material


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of the command."""
    parser.add_argument("cell", type=int, nargs="?", metavar="CELL", help="the cell to begin with (default: the first of the list)")
    parser.add_argument("--at", metavar="ID", help="begin at a node of the SWC (7 or node:7) or at a patch (patch:7) of CELL")
    parser.add_argument(
        "--layer", type=Path, action="append", default=[], metavar="PATH", help="a prediction (OME-Zarr, npy, TIFF), or a directory of them"
    )
    parser.add_argument("--split", help="list the cells of this side: train, val, test, excluded")
    parser.add_argument("--grade", help="list the cells with this grade of alignment: A, B, C, rejected")
    parser.add_argument("--finding", metavar="CHECK", help="list the cells of which this check found something")
    parser.add_argument("--rev", help="a tag, branch or commit, read from the team remote without pulling")
    parser.add_argument("--repo", metavar="URL", help="the git repository of --rev (default: the data repository)")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--open", action="store_true", help="open the page in this machine's browser")
    parser.add_argument("--napari", action="store_true", help="show CELL in napari instead of a browser")


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown. text: for the user. wait: returns when the user has seen enough."""

    text: str
    wait: Callable[[], object]


@contextmanager
def shown(words: argparse.Namespace) -> Iterator[Shown]:
    """Show cells while the block runs. Raises ConfigError for words that do not go together, and what the cell raises."""
    from brightfield.viewing.choice import Filters, listed

    _require(words)
    material = _material(words)
    rows = listed(material, Filters(words.split, words.grade, words.finding))
    cell = words.cell if words.cell is not None else _first(rows)
    if words.napari:
        yield _in_napari(words, material, cell)
        return
    from brightfield.viewing.server import Show

    show = Show(material, rows, extra=words.layer, port=words.port)
    try:
        show.open(cell, words.at)
        url = f"{show.url}?cell={cell}"
        if words.open:
            webbrowser.open(url)
        yield Shown(f"cell {cell}, {len(rows)} in the list: {url}\nCtrl-C ends it", threading.Event().wait)
    except KeyboardInterrupt:
        return  # wherever it comes once the words above are printed, even just before the wait
    finally:
        show.close()


def _require(words: argparse.Namespace) -> None:
    library, package = ("napari", "napari[all]") if words.napari else ("neuroglancer", "brightfield[view]")
    if find_spec(library) is None:
        raise ConfigError(f"view needs {library}; install it with `pip install '{package}'`")
    if words.at is not None and words.cell is None:
        raise ConfigError("--at names a node or a patch of a cell: say which, `brightfield view CELL --at ID`")
    if not 0 <= words.port < 65536:
        raise ConfigError(f"--port {words.port}: a number from 1 to 65535, or leave it out for a free one")


def _material(words: argparse.Namespace) -> Material:
    from brightfield.viewing.material import Revision, WorkingTree

    if words.rev is None and words.repo is None:
        return WorkingTree(words.root)
    return Revision(words.repo or str(words.root), words.rev or "HEAD")


def _first(rows: list[Row]) -> int:
    here = [row.specimen_id for row in rows if row.here]
    if not here:
        raise ConfigError(
            f"none of {len(rows)} cells is here; fetch some with `brightfield pull`, or say --rev to read them where they lie"
        )
    return here[0]


def _in_napari(words: argparse.Namespace, material: Material, cell: int) -> Shown:
    from brightfield.viewing import in_napari
    from brightfield.viewing.scene import scene_of

    return Shown(f"cell {cell} in napari", in_napari.show(scene_of(material, cell, at=words.at, layers=words.layer)))
