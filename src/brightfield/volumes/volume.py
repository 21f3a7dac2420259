"""Volumes on disk: OME-Zarr 0.5 (Zarr v3, sharded). The only package that knows Zarr.

A volume is a group with a multiscale image: arrays ``0``, ``1``, ... with axes (z, y, x) in micrometres, finest first. A label store has
`image-label` metadata and a sub-group `layout.REASON_GROUP`, which is a volume too. Written shard by shard; read by any Zarr v3 reader.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from brightfield.core.errors import GridError, StackError
from brightfield.core.files import atomic_stream, write_text
from brightfield.core.space import Grid, Shape, Window
from brightfield.volumes.ome import OME_VERSION, LabelMeta, datasets_of, grid_of, multiscale
from brightfield.volumes.shards import (
    ArraySpec,
    Chunk,
    Index,
    ShardFile,
    decode_index,
    read_tail,
    read_window,
    shard_parts,
    stored_in,
    to_json,
)

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store


_OWN_KEY = "brightfield"


class Volume:
    """A multiscale volume: `grids` and `specs` per level, finest first, and the caller's `attributes`.

    Made by `create_volume` (to be written) and `open_volume` (to be read); `path` is None for a volume that is not a local directory.
    """

    ndim = 3

    def __init__(
        self,
        store: Store | None,
        path: Path | None,
        group: str,
        grids: Sequence[Grid],
        specs: Sequence[ArraySpec],
        attributes: Mapping[str, Any],
    ) -> None:
        self._store = store
        self._group = group
        self.path = path
        self.grids = tuple(grids)
        self.specs = tuple(specs)
        self.attributes = dict(attributes)

    def __repr__(self) -> str:
        return f"Volume({self.path or self._store!s}, {self.specs[0].dtype} {self.grids[0].shape_zyx}, {len(self.grids)} levels)"

    def __getitem__(self, selection: Any) -> NDArray[Any]:
        """Voxels of the finest level, selected as from a zarr array."""
        return np.asarray(self.arrays[0][selection])

    @property
    def shape(self) -> Shape:
        """Shape (z, y, x) of the finest level."""
        return self.specs[0].shape_zyx

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of a voxel."""
        return self.specs[0].dtype

    @property
    def chunks(self) -> Shape:
        """Shape (z, y, x) of a chunk of the finest level: what is read at once."""
        return self.specs[0].chunk_zyx

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """The whole finest level, so that NumPy and others take a volume for an array. Raises ValueError for `copy=False`: it is read."""
        if copy is False:
            raise ValueError("a volume is on the disk, and becomes an array by being read: leave copy=False out")
        return self.read() if dtype is None else self.read().astype(dtype, copy=False)

    @property
    def grid(self) -> Grid:
        """Where the voxels of the finest level are, in micrometres."""
        return self.grids[0]

    def spec(self, level: int = 0) -> ArraySpec:
        """Shape, chunks, shards, dtype and fill value of a level."""
        return self.specs[level]

    @cached_property
    def arrays(self) -> tuple[zarr.Array[Any], ...]:
        """The levels as lazy zarr arrays, finest first."""
        import zarr

        return tuple(zarr.open_array(self.store, path=self.key(str(level)), mode="r") for level in range(len(self.specs)))

    @property
    def store(self) -> Store:
        """The zarr store that the volume is read from."""
        if self._store is None:
            self._store = _local_store(self._directory)
        return self._store

    def read(self, window: Window | None = None, level: int = 0) -> NDArray[Any]:
        """The voxels of a half-open box of a level (default: all), decoded; what is not stored is the fill value.

        Raises GridError for a box that is not within the level, StackError where what is stored fails its checksum.
        """
        shape = self.specs[level].shape_zyx
        box = self.grids[level].window if window is None else window
        if not all(0 <= lo <= hi <= n for (lo, hi), n in zip(box, shape, strict=True)):
            raise GridError(f"window {box} is not within level {level} of shape {shape}; cut it at the volume's end")
        if self._ours[level]:
            return read_window(self.specs[level], partial(self.shard_path, level), box)
        (z0, z1), (y0, y1), (x0, x1) = box
        try:
            return np.asarray(self.arrays[level][z0:z1, y0:y1, x0:x1])
        except (ValueError, RuntimeError) as error:
            where = f"{self.path or self._store}/{self.key(str(level))}"
            raise StackError(
                f"voxels {box} cannot be decoded: {error}; delete the volume and fetch it again with `dvc pull`", path=where
            ) from error

    @cached_property
    def _ours(self) -> tuple[bool, ...]:
        """Per level, whether it lies here and is laid out as `create_volume` does: its shards are then read directly."""
        if self.path is None:
            return (False,) * len(self.specs)
        files = [self.path / str(level) / "zarr.json" for level in range(len(self.specs))]
        return tuple(file.read_text(encoding="utf-8") == spec.metadata_json() for file, spec in zip(files, self.specs, strict=True))

    def shard_path(self, level: int, shard_index_zyx: Index) -> Path:
        """The file of a shard; it exists exactly when the shard is finished and not empty."""
        return self._directory.joinpath(str(level), "c", *map(str, shard_index_zyx))

    def write_shard(self, level: int, shard_index_zyx: Index, chunks: Mapping[Index, Chunk], *, threads: int = 1) -> int:
        """Store one shard, once and atomically, and return its bytes (0: nothing but fill values, so nothing is stored).

        `chunks` as in `shard_parts`: inner chunk index within the shard -> whole chunk, or the one number that fills it. Any number of
        processes may write shards of a volume, each shard by one of them.
        """
        path = self._path_of_new(level, shard_index_zyx)
        parts = shard_parts(self.specs[level], chunks, threads=threads)
        if parts:
            with atomic_stream(path) as file:
                file.writelines(parts)
        else:
            path.unlink(missing_ok=True)
        return sum(map(len, parts))

    def begin_shard(self, level: int, shard_index_zyx: Index, expected: Iterable[Index]) -> ShardFile:
        """A shard to be written as its chunks come, in any order; `expected` are their inner indices."""
        return ShardFile(self.specs[level], self._path_of_new(level, shard_index_zyx), expected)

    def _path_of_new(self, level: int, shard_index_zyx: Index) -> Path:
        counts = self.specs[level].n_shards_zyx
        if not all(0 <= i < n for i, n in zip(shard_index_zyx, counts, strict=True)):
            raise ValueError(f"shard {shard_index_zyx} is not in level {level} of {counts} shards")
        return self.shard_path(level, shard_index_zyx)

    def write_dense_shard(self, level: int, shard_index_zyx: Index, voxels: NDArray[Any], *, threads: int = 1) -> int:
        """Store one shard from an array of exactly `spec.shard_window` voxels; see `write_shard`."""
        spec = self.specs[level]
        shape = tuple(hi - lo for lo, hi in spec.shard_window(shard_index_zyx))
        if voxels.shape != shape:
            raise ValueError(f"shard {shard_index_zyx} of level {level} has {shape} voxels, found {voxels.shape}")
        chunks = {inner: _inner_chunk(spec, voxels, inner) for inner in spec.inner_indices(shard_index_zyx)}
        return self.write_shard(level, shard_index_zyx, chunks, threads=threads)

    def stored_chunks(self, level: int = 0) -> NDArray[np.int64]:
        """The chunk indices (n, 3) of a level that are stored, counted over the whole array, in C order; nothing is decoded."""
        spec = self.specs[level]
        found = [np.empty((0, 3), np.int64)]
        for shard in self.stored_shards(level):
            index = decode_index(spec, self._tail(level, shard, spec.index_bytes), f"{self!r} level {level} shard {shard}")
            found.append(stored_in(index) + np.multiply(shard, spec.chunks_per_shard_zyx))
        chunks = np.concatenate(found)
        return chunks[np.lexsort(chunks.T[::-1])]

    def stored_shards(self, level: int = 0) -> list[Index]:
        """The shards of a level that are stored, in C order."""
        nz, ny, nx = self.specs[level].n_shards_zyx
        indices = product(range(nz), range(ny), range(nx))
        if self.path is not None:
            return [index for index in indices if self.shard_path(level, index).is_file()]
        present = set(_list_keys(self.store, self.key(f"{level}/c")))
        return [index for index in indices if self.shard_key(level, index) in present]

    def create_sub(self, name: str, dtype: DTypeLike, *, fill_value: float = 0, label: LabelMeta | None = None) -> Volume:
        """A new volume below this one with the same grids, chunks and shards, such as the `reason` of labels."""
        finest = self.specs[0]
        return create_volume(
            self._directory / name,
            self.grids,
            dtype,
            fill_value=fill_value,
            chunk_zyx=finest.chunk_zyx,
            shard_zyx=finest.shard_zyx,
            label=label,
            name=name,
        )

    def sub(self, name: str) -> Volume:
        """The volume `name` below this one. Raises StackError where there is none."""
        if self.path is not None:
            return open_volume(self.path / name)
        return open_volume(self.store, group=self.key(name))

    @property
    def _directory(self) -> Path:
        if self.path is None:
            raise StackError("this volume is read from afar; only a volume in a local directory can be written")
        return self.path

    def key(self, name: str) -> str:
        """Where something of this volume is in its store."""
        return f"{self._group}/{name}" if self._group else name

    def shard_key(self, level: int, shard: Index) -> str:
        """Where a shard is in the store."""
        return self.key("/".join((str(level), "c", *map(str, shard))))

    def _tail(self, level: int, shard: Index, n_bytes: int) -> bytes:
        if self.path is not None:
            with self.shard_path(level, shard).open("rb") as file:
                return read_tail(file, n_bytes)
        from zarr.abc.store import SuffixByteRequest

        return _get(self.store, self.shard_key(level, shard), SuffixByteRequest(n_bytes))


def create_volume(
    path: Path,
    grids: Sequence[Grid],
    dtype: DTypeLike,
    *,
    chunk_zyx: Shape,
    shard_zyx: Shape,
    fill_value: float = 0,
    label: LabelMeta | None = None,
    attributes: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> Volume:
    """A new volume at `path`, metadata only: one array per grid, finest first; shards follow by `Volume.write_shard`.

    `attributes` (provenance: plain JSON values) are kept under the key "brightfield". Chunks and shards shrink to fit small grids. Write
    into a directory that is not yet the finished one: what exists is not what is complete. Raises GridError for shapes that do not fit.
    """
    specs = [ArraySpec.fitted(grid.shape_zyx, _shape(chunk_zyx), _shape(shard_zyx), dtype, fill_value) for grid in grids]
    ome: dict[str, Any] = {"version": OME_VERSION, "multiscales": [multiscale(name or ("labels" if label else "image"), grids)]}
    if label is not None:
        ome["image-label"] = label.to_dict()
    own = dict(attributes or {})
    root = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome, _OWN_KEY: own}}
    documents = {f"{level}/zarr.json": spec.metadata_json() for level, spec in enumerate(specs)}
    for file, text in {**documents, "zarr.json": to_json(root)}.items():
        write_text(path / file, text)
    return Volume(None, path, "", grids, specs, own)


def open_volume(source: Path | str | Store, *, group: str = "") -> Volume:
    """The volume in a directory, or in a zarr store below `group`, to be read.

    Raises StackError when there is none, or when it is not an OME-Zarr 0.5 multiscale with axes (z, y, x) in micrometres.
    """
    path = Path(source) if isinstance(source, (str, Path)) else None
    if path is not None and not (path / "zarr.json").is_file():
        raise StackError("no volume here (zarr.json is absent); fetch it with `dvc pull` or build it with `dvc repro`", path=path)
    if path is not None and not group and (volume := _opened_here(path)) is not None:
        return volume
    store = cast("Store", source) if path is None else _local_store(path)
    try:
        return _opened_by_zarr(store, path, group)
    except (KeyError, IndexError, TypeError, ValueError, FileNotFoundError, GridError) as error:
        where = path or f"{store}/{group}"
        raise StackError(f"not a volume of this project: OME-Zarr 0.5, axes z, y, x in micrometres ({error})", path=where) from error


def _opened_here(path: Path) -> Volume | None:
    """A volume in a directory whose metadata are spelt as `create_volume` spells them; None for any other, whose ways zarr knows."""
    try:
        root = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
        if (root.pop("zarr_format"), root.pop("node_type"), *root) != (3, "group", "attributes"):
            return None
        attributes: dict[str, Any] = root["attributes"]
        datasets = datasets_of(attributes)
        specs = [ArraySpec.from_json((path / dataset["path"] / "zarr.json").read_text(encoding="utf-8")) for dataset in datasets]
        grids = [grid_of(spec.shape_zyx, dataset) for spec, dataset in zip(specs, datasets, strict=True)]
        return Volume(None, path, "", grids, specs, attributes.get(_OWN_KEY, {}))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OSError, GridError):
        return None


def _opened_by_zarr(store: Store, path: Path | None, group: str) -> Volume:
    import zarr

    node = zarr.open_group(store, path=group, mode="r", zarr_format=3)
    attributes: dict[str, Any] = dict(node.attrs)
    datasets = datasets_of(attributes)
    arrays = tuple(zarr.open_array(store, path=f"{group}/{dataset['path']}".lstrip("/"), mode="r") for dataset in datasets)
    grids = [grid_of(_shape(array.shape), dataset) for array, dataset in zip(arrays, datasets, strict=True)]
    volume = Volume(store, path, group, grids, [_spec_of(array) for array in arrays], attributes.get(_OWN_KEY, {}))
    volume.arrays = arrays
    return volume


def _spec_of(array: zarr.Array[Any]) -> ArraySpec:
    fill = np.asarray(array.fill_value).item()
    return ArraySpec(_shape(array.shape), _shape(array.chunks), _shape(array.shards or array.chunks), array.dtype, fill)


def _inner_chunk(spec: ArraySpec, voxels: NDArray[Any], inner: Index) -> NDArray[Any]:
    box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(inner, spec.chunk_zyx, strict=True))
    part = voxels[box]
    if part.shape == spec.chunk_zyx:
        return part
    chunk = spec.empty_chunk()
    chunk[tuple(map(slice, part.shape))] = part
    return chunk


def _local_store(path: Path) -> Store:
    from zarr.storage import LocalStore

    return LocalStore(path, read_only=True)


def _get(store: Store, key: str, byte_range: Any) -> bytes:
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    buffer = sync(store.get(key, default_buffer_prototype(), byte_range))
    return b"" if buffer is None else bytes(buffer.to_bytes())


def _list_keys(store: Store, prefix: str) -> list[str]:
    from zarr.core.sync import sync

    async def collect() -> list[str]:
        return [key async for key in store.list_prefix(prefix)]

    keys: list[str] = sync(collect())
    return keys


def _shape(values: Sequence[int]) -> Shape:
    z, y, x = (int(v) for v in values)
    return (z, y, x)
