"""What a mirror serves: tables, files and pictures. `FolderCatalog` has them from a folder; docs/how-to/offline-mirror.md lays it out."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from brightfield.core.errors import InputError, TableError
from brightfield.sources.mirror.records import CELLS_MODEL
from brightfield.sources.mirror.rma import Row, Tables
from brightfield.volumes.pyramid import block_mean

MODELS = (CELLS_MODEL, "NeuronReconstruction", "Specimen", "SubImage")
TABLES_DIR, FILES_DIR, IMAGES_DIR = "tables", "well_known_files", "images"
CELLS_CSV = "cell_types_specimen_details*.csv"
"""The cells table as the website exports it."""

_PICTURE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
_TEXT_COLUMNS = frozenset(
    {"structure__layer", "specimen__name", "donor__name", "donor__age", "image_type", "path", "download_link", "name"}
)
_CACHED_PICTURES = 4  # a full-resolution plane is up to 170 MB


class Picture(Protocol):
    """A picture at full resolution, of which reduced boxes can be read."""

    @property
    def width_px(self) -> int:
        """Full-resolution columns."""
        ...

    @property
    def height_px(self) -> int:
        """Full-resolution rows."""
        ...

    def read(self, level: int, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """The box in full-resolution pixels, reduced by 2**level to (height >> level, width >> level)."""
        ...


class Catalog(Protocol):
    """Everything a mirror serves; each method may be called from many threads."""

    @property
    def tables(self) -> Tables:
        """Rows by model, associations nested (`mirror_rma`)."""
        ...

    def file(self, file_id: int) -> bytes | None:
        """The bytes of a well-known file, or None where there is none."""
        ...

    def picture(self, image_id: int) -> Picture | None:
        """A SubImage's picture, or None where there is none."""
        ...


@dataclass(frozen=True)
class MemoryCatalog:
    """Tables, files by id and pictures by id, all at hand."""

    tables: Tables
    files: Mapping[int, bytes] = field(default_factory=dict)
    pictures: Mapping[int, Picture] = field(default_factory=dict)

    def file(self, file_id: int) -> bytes | None:
        """The bytes of a well-known file, or None where there is none."""
        return self.files.get(file_id)

    def picture(self, image_id: int) -> Picture | None:
        """A SubImage's picture, or None where there is none."""
        return self.pictures.get(image_id)


class ArrayPicture:
    """A picture held as an array (rows, columns) of uint8."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._pixels = pixels
        self.height_px, self.width_px = pixels.shape

    def read(self, level: int, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """The box, reduced by averaging."""
        return block_mean(self._pixels[top : top + height, left : left + width], level)


class FolderCatalog:
    """A folder with tables, files and pictures.

    Raises TableError for a table that cannot be read, and InputError for a folder without cells.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._picture = lru_cache(_CACHED_PICTURES)(self._read_picture)
        if not self.tables[CELLS_MODEL]:
            raise InputError(
                f"no cells to serve: expected {TABLES_DIR}/{CELLS_MODEL}.csv or .json, or the website's {CELLS_CSV} beside {TABLES_DIR}/",
                path=folder,
            )

    @property
    def summary(self) -> str:
        """What is served, in one line."""
        return f"{self._folder}: " + ", ".join(f"{len(self.tables[model])} {model}" for model in MODELS)

    @cached_property
    def tables(self) -> Tables:
        """Every model's rows; models without a table are known but empty."""
        cells = self._table(CELLS_MODEL) or [row for path in sorted(self._folder.glob(CELLS_CSV)) for row in _rows_of(path)]
        specimens = self._table("Specimen") or [{"id": cell["specimen__id"], "name": cell["specimen__name"]} for cell in cells]
        images = self._table("SubImage")
        return {
            CELLS_MODEL: cells,
            "NeuronReconstruction": _joined(
                self._table("NeuronReconstruction"), "well_known_files", self._table("WellKnownFile"), "attachable_id"
            ),
            "Specimen": _joined(specimens, "data_sets", self._table("DataSet"), "specimen_id"),
            "SubImage": [{"data_set": {"id": row.get("data_set_id")}, **row} for row in images],
        }

    def file(self, file_id: int) -> bytes | None:
        """The bytes of ``well_known_files/<id>``, with or without a suffix."""
        path = self._named(FILES_DIR, file_id)
        return None if path is None else path.read_bytes()

    def picture(self, image_id: int) -> Picture | None:
        """The picture ``images/<id>`` with the suffix of PNG, TIFF or JPEG."""
        return self._picture(image_id)

    def _read_picture(self, image_id: int) -> Picture | None:
        path = self._named(IMAGES_DIR, image_id)
        return None if path is None else ArrayPicture(_pixels_of(path))

    def _named(self, kind: str, number: int) -> Path | None:
        """The file of a kind with a number for its stem; the first by name where there are several."""
        folder = self._folder / kind
        return next(iter(sorted([*folder.glob(f"{number}"), *folder.glob(f"{number}.*")])), None)

    def _table(self, model: str) -> list[Row]:
        paths = [self._folder / TABLES_DIR / f"{model}{suffix}" for suffix in (".json", ".csv")]
        return next((_rows_of(path) for path in paths if path.is_file()), [])


def _pixels_of(path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    if path.suffix.lower() not in _PICTURE_SUFFIXES:
        raise InputError(f"expected one of {', '.join(_PICTURE_SUFFIXES)}", path=path)
    if path.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        pixels = tifffile.imread(path)
    else:
        Image.MAX_IMAGE_PIXELS = 2**29  # a plane of 13,000 x 13,000 px is no attack
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("L"))
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise InputError(f"expected one grey plane of 8 bits, found {pixels.dtype} of shape {pixels.shape}", path=path)
    return np.ascontiguousarray(pixels)


def _joined(rows: Sequence[Row], association: str, others: Iterable[Row], key: str) -> list[Row]:
    """Rows with the `others` whose `key` is their id nested under `association`; what is nested already stays."""
    groups: dict[Any, list[Row]] = defaultdict(list)
    for other in others:
        groups[other.get(key)].append(other)
    return [{association: groups.get(row["id"], []), **row} for row in rows]


def _rows_of(path: Path) -> list[Row]:
    try:
        if path.suffix == ".json":
            found = json.loads(path.read_text("utf-8"))
            rows = found["msg"] if isinstance(found, dict) else found
            return [dict(row) for row in rows]
        with path.open(encoding="utf-8", newline="") as file:
            return _typed(list(csv.DictReader(file)))
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise TableError(f"cannot be read as a table: {error!r}", path=path) from error


def _typed(rows: Sequence[Mapping[str, str]]) -> list[Row]:
    """CSV rows as the service would send them: numbers are numbers, truths are truths, an empty field is null.

    The website's export puts some names in quotes of their own; the layer is text even where it looks like a number.
    """
    columns = {name: _converter(name, [row[name] for row in rows]) for name in (rows[0] if rows else ())}
    return [{name: convert(row[name]) if row[name] else None for name, convert in columns.items()} for row in rows]


def _converter(name: str, words: Sequence[str]) -> Callable[[str], object]:
    if name not in _TEXT_COLUMNS:
        for convert in (_truth, int, float):
            if all(_succeeds(convert, word) for word in words if word):
                return convert
    return lambda word: word.strip('"')


def _truth(word: str) -> bool:
    return {"true": True, "false": False}[word.lower()]


def _succeeds(convert: Callable[[str], object], word: str) -> bool:
    try:
        convert(word)
    except (ValueError, KeyError):
        return False
    return True
