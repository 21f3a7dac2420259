"""The manifest: one row per cell, everything joined, with the hash of every file it names and the terms it is under."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brightfield.built.cells import swc_convention
from brightfield.config.options import Config, SourceConfig, SourceKind
from brightfield.config.params import section_digest
from brightfield.core.codes import Split
from brightfield.core.errors import TableError
from brightfield.core.files import sha256_file
from brightfield.core.keys import read_failures
from brightfield.core.layout import image_store, label_store, marker_file, skeleton_file
from brightfield.core.schema import ALIGNMENT_CELLS, CELLS, CITATION, LABEL_STATS, LICENSE_NAME, LICENSE_URL, MANIFEST, SPLITS, TILES
from brightfield.core.swc import read_swc
from brightfield.core.tables import frame_of, read_table
from brightfield.core.version import __version__
from brightfield.run.progress import watched
from brightfield.run.store import walk
from brightfield.volumes.volume import open_volume

if TYPE_CHECKING:
    import pandas as pd

HASH_THREADS = 4
"""Enough to keep a disk busy; memory is this many buffers."""

HASH_ALONE_BYTES = 1 << 24
"""A store of less is hashed before threads have been told to."""

DECIDING_GROUPS = ("source", "image", "download", "labels", "align", "split", "patches")
"""Groups of the configuration that decide what the data is; `compute` and `meta` do not."""

NOT_STATED = "not stated by the owner of the stacks"

type Hasher = Callable[[Path], tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Terms:
    """What one may do with a cell's data, and whom to name."""

    license: str
    license_url: str
    citation: str


def terms(config: Config) -> Terms:
    """The terms of the configured source."""
    source = config.source
    if source.kind is SourceKind.folder:
        return Terms(source.license or NOT_STATED, "", source.citation or NOT_STATED)
    if source.kind is SourceKind.demo:
        return Terms(f"{LICENSE_NAME} for the real skeletons; BSD-3-Clause for all that is generated", LICENSE_URL, CITATION)
    return Terms(LICENSE_NAME, LICENSE_URL, CITATION)


# -------------------------------------------------------------------------------------------------------------------- hashes


def hash_and_size(path: Path) -> tuple[str, int]:
    """sha256 and size in bytes of a file."""
    return sha256_file(path), path.stat().st_size


class StoreHasher:
    """Hashes directories with `HASH_THREADS` threads; a context manager."""

    def __init__(self, threads: int = HASH_THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads)

    def __enter__(self) -> StoreHasher:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __call__(self, store: Path) -> tuple[str, int]:
        r"""Hash and size of a directory: sha256 of the `sha256sum` lines of its files, sorted by relative path.

        The same number comes from ``cd STORE && find . -type f -printf '%P\n' | LC_ALL=C sort | xargs sha256sum | sha256sum``.
        """
        paths = {name: Path(entry.path) for name, entry in walk(str(store))}
        names = sorted(paths)
        total = sum(path.stat().st_size for path in paths.values())
        hashed = (map if total < HASH_ALONE_BYTES else self._pool.map)(sha256_file, (paths[name] for name in names))
        listing = hashlib.sha256()
        for name, digest in zip(names, hashed, strict=True):
            listing.update(f"{digest}  {name}\n".encode())
        return listing.hexdigest(), total


# --------------------------------------------------------------------------------------------------------------------- rows


def build_manifest(root: Path, config: Config, *, source_url: str) -> pd.DataFrame:
    """The rows of `schema.MANIFEST` for the dataset at `root`: every cell of the cells table, excluded ones with what there is of them.

    source_url: public name of the source (no credentials). Hashes stream: memory does not grow with the volumes. Raises TableError where
    a table of an earlier stage is absent.
    """
    frame = read_table(CELLS, root).drop(columns=["selected", "reason"]).merge(read_table(SPLITS, root), on="specimen_id", how="left")
    if frame["split"].isna().any():
        lost = frame.loc[frame["split"].isna(), "specimen_id"].tolist()
        raise TableError(f"cells {lost} have no split; run the split stage again", path=root / SPLITS.path)
    for specimen_id, reason in read_failures(root, ("manifest",)).items():
        frame.loc[frame["specimen_id"] == specimen_id, ["split", "fold", "reason"]] = [Split.EXCLUDED.value, None, reason]
    for part in (_alignment(root), _label_stats(root), _tile_sums(root), _files(root, frame["specimen_id"])):
        frame = frame.merge(part, on="specimen_id", how="left")
    frame = _with_undrawn(root, frame, config.source)
    known = terms(config)
    common = {
        "license": known.license,
        "license_url": known.license_url,
        "citation": known.citation,
        "source_url": source_url,
        "snapshot_sha256": sha256_file(root / CELLS.path),
        "config_sha256": section_digest(config, DECIDING_GROUPS),
        "code_version": __version__,
    }
    return frame.assign(**common)[list(MANIFEST.column_names)]


def _alignment(root: Path) -> pd.DataFrame:
    verdicts = read_table(ALIGNMENT_CELLS, root, columns=["specimen_id", "grade", "d_prime"])
    return verdicts.rename(columns={"grade": "alignment_grade", "d_prime": "alignment_d_prime"})


def _label_stats(root: Path) -> pd.DataFrame:
    stats = read_table(LABEL_STATS, root)
    return stats[[c for c in stats.columns if c in MANIFEST.column_names]]


def _tile_sums(root: Path) -> pd.DataFrame:
    """Tiles and voxels that came, per cell; streamed, as the ledger of 500 full cells has millions of rows."""
    import pandas as pd
    import pyarrow.parquet as pq

    path = root / TILES.path
    if not path.is_file():
        raise TableError("the tiles table is not there; build it with `dvc repro` or fetch it with `dvc pull`", path=path)
    parts = []
    for batch in pq.ParquetFile(path).iter_batches(columns=["specimen_id", "y0", "y1", "x0", "x1", "state"]):
        tiles = batch.to_pandas()
        came = tiles["state"] == "ok"
        area = (tiles["y1"].astype("int64") - tiles["y0"]) * (tiles["x1"].astype("int64") - tiles["x0"])
        sums = pd.DataFrame({"specimen_id": tiles["specimen_id"], "voxels_fetched": area * came, "n_tiles": 1, "n_tiles_missing": ~came})
        parts.append(sums.groupby("specimen_id").sum())
    summed = pd.concat(parts).groupby(level=0).sum().astype("Int64") if parts else pd.DataFrame(columns=["voxels_fetched"])
    return summed.rename_axis("specimen_id").reset_index()


def _with_undrawn(root: Path, frame: pd.DataFrame, source: SourceConfig) -> pd.DataFrame:
    """The same frame with the skeletons that are here and were not drawn: cells that the dataset goes without."""
    frame = frame.set_index("specimen_id")
    for i in frame.index[frame["n_nodes"].isna() & frame["skeleton_path"].notna()].tolist():
        pixel_um, plane_um = frame.loc[i, ["pixel_um", "plane_um"]]
        facts = read_swc(root / skeleton_file(i), swc_convention(source, (plane_um, pixel_um, pixel_um))).in_tables
        frame.loc[i, list(facts)] = list(facts.values())
    return frame.reset_index()


def _files(root: Path, cells: pd.Series) -> pd.DataFrame:
    with StoreHasher() as hash_store:
        found = watched(cells.tolist(), "hashes", total=len(cells))
        frame = frame_of(MANIFEST, [{"specimen_id": i, **_skeleton(root, i), **_volumes(root, i, hash_store)} for i in found])
    return frame[[c for c in frame.columns if c == "specimen_id" or c.startswith(_FILE_COLUMNS)]]


_FILE_COLUMNS = (
    *(f"{kind}_{what}" for kind in ("skeleton", "marker", "image", "label") for what in ("path", "sha256", "bytes")),
    *("shape_", "voxel_"),
)
"""How the columns begin that `_files` fills."""


def _skeleton(root: Path, specimen_id: int) -> dict[str, Any]:
    swc, markers = skeleton_file(specimen_id), marker_file(specimen_id)
    row: dict[str, Any] = {}
    if (root / swc).is_file():
        row |= {"skeleton_path": swc.as_posix(), "skeleton_sha256": sha256_file(root / swc)}
    if (root / markers).is_file():
        row |= {"marker_path": markers.as_posix(), "marker_sha256": sha256_file(root / markers)}
    return row


def _volumes(root: Path, specimen_id: int, hash_store: Hasher) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for kind, store in (("image", image_store(specimen_id)), ("label", label_store(specimen_id))):
        if (root / store).is_dir():
            digest, size = hash_store(root / store)
            row |= {f"{kind}_path": store.as_posix(), f"{kind}_sha256": digest, f"{kind}_bytes": size}
    if "image_path" in row:
        grid = open_volume(root / row["image_path"]).grids[0]
        row |= dict(zip(("shape_z", "shape_y", "shape_x"), grid.shape_zyx, strict=True))
        row |= dict(zip(("voxel_z_um", "voxel_y_um", "voxel_x_um"), grid.voxel_size_zyx_um, strict=True))
    return row


def named_files(manifest: pd.DataFrame) -> Iterator[tuple[int, str, str, str]]:
    """Every file or store that the manifest names: (specimen id, what, path, sha256)."""
    for kind in ("skeleton", "marker", "image", "label"):
        there = manifest[manifest[f"{kind}_path"].notna()]
        yield from zip(
            there["specimen_id"].tolist(),
            [kind] * len(there),
            there[f"{kind}_path"].tolist(),
            there[f"{kind}_sha256"].tolist(),
            strict=True,
        )
