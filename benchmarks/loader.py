"""Loading training patches: ours beside tensorstore and zarr-python, through a DataLoader where PyTorch is installed; targets; memory.

Run: python benchmarks/loader.py [ROOT] [--patches 300] [--repeats 3] [--memory 10000]. ROOT is a built dataset (default: here). Prints a
table and writes benchmarks/results/loader.json. All readers read the same boxes (image and labels of the train patches) in turns, caches of
decoded data off, and every figure is the best of the repeats: patches per second of CPU time, of all threads. Read the ratios. --cellmap
takes an interpreter that has cellmap-data, which reads Zarr v2 only: it gets a copy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numcodecs
import psutil
import tensorstore
import zarr

import brightfield
from brightfield.core.layout import image_store, label_store
from brightfield.core.space import Window
from brightfield.learn.targets import TARGETS
from brightfield.volumes.reader import reader_of
from brightfield.volumes.volume import open_volume

RESULT = Path(__file__).parent / "results" / "loader.json"

type Way = Callable[[], None]


def boxes_of(root: Path, n: int) -> list[tuple[int, Window]]:
    """The first n patches of an epoch: cell and window."""
    patches = brightfield.patches(root)
    rows = patches.order.of_epoch(0)[:n, 1].tolist()
    return [(int(patches.rows.specimen_id[row]), tuple(map(tuple, patches.rows.box[row].tolist()))) for row in rows]


def readers(root: Path, boxes: list[tuple[int, Window]]) -> dict[str, Way]:
    """Ways to read image and labels of all boxes; the cells are open already."""
    cells = sorted({cell for cell, _ in boxes})
    stores = {(cell, kind): root / store(cell) for cell in cells for kind, store in (("image", image_store), ("labels", label_store))}
    volumes = {key: open_volume(path) for key, path in stores.items()}
    ours = {key: reader_of(volume) for key, volume in volumes.items()}
    arrays = {key: zarr.open_array(path / "0", mode="r") for key, path in stores.items()}
    context = tensorstore.Context({"data_copy_concurrency": {"limit": 1}, "cache_pool": {"total_bytes_limit": 0}})
    others = {key: _tensorstore(path, context) for key, path in stores.items()}

    def each(read: Callable[[tuple[int, str], Window], object]) -> Way:
        return lambda: used(read((cell, kind), window) for cell, window in boxes for kind in ("image", "labels"))

    return {
        "reader_of": each(lambda key, window: ours[key](window)),
        "Volume.read": each(lambda key, window: volumes[key].read(window)),
        "tensorstore": each(lambda key, window: others[key][_slices(window)].read().result()),
        "zarr-python": each(lambda key, window: arrays[key][_slices(window)]),
    }


def loaders(root: Path, n: int) -> dict[str, Way]:
    """Ways to get samples: float32 image, mask, semantic labels."""
    patches = brightfield.patches(root)
    ways: dict[str, Way] = {
        "brightfield.patches": lambda: used(patches[i] for i in range(n)),
        "open_cell at each item": lambda: used(_by_hand(root, cell, window) for cell, window in boxes_of(root, n)),
    }
    try:
        import torch
        from torch.utils.data import DataLoader, Subset

        from brightfield.torch import PatchDataset
    except ImportError:
        return ways
    torch.set_num_threads(1)  # as in a worker: with more, threads wait for each other and count as CPU time
    dataset = PatchDataset(root)
    ways["DataLoader(PatchDataset), batches of 4"] = lambda: used(DataLoader(Subset(dataset, range(n)), batch_size=4))
    return ways


def targets(root: Path, n: int) -> dict[str, Way]:
    """Samples with each target, with none, and with all."""
    wanted = {"none": (), **{name: (name,) for name in TARGETS}, "all seven": tuple(TARGETS)}
    made = {name: brightfield.patches(root, targets=chosen) for name, chosen in wanted.items()}
    augmented = brightfield.patches(root, augment=True)
    ways: dict[str, Way] = {name: (lambda patches=patches: used(patches[i] for i in range(n))) for name, patches in made.items()}
    return {**ways, "semantic, augmented": lambda: used(augmented[i] for i in range(n))}


def used(items: Iterable[object]) -> None:
    """Take every item, keep none: a training does not either."""
    deque(items, maxlen=0)


def rates(ways: dict[str, Way], n: int, repeats: int) -> dict[str, dict[str, float]]:
    """Patches per second of CPU time and of the clock, the best of `repeats` rounds in which every way has its turn."""
    best: dict[str, dict[str, float]] = {}
    for attempt in range(repeats + 1):  # the first round compiles and fills the disk cache
        for name, way in ways.items():
            cpu, clock = time.process_time(), time.perf_counter()
            way()
            figures = {"per_cpu_s": n / (time.process_time() - cpu), "per_s": n / (time.perf_counter() - clock)}
            if attempt:
                best[name] = {key: max(value, best.get(name, figures)[key]) for key, value in figures.items()}
    return best


def memory(root: Path, n: int) -> list[dict[str, float]]:
    """Resident MB after each tenth of `n` patches."""
    patches, process, found, done = brightfield.patches(root), psutil.Process(), [], 0
    while done < n:
        for index in range(min(len(patches), n - done)):
            patches[index]
            done += 1
            if done % max(n // 10, 1) == 0:
                found.append({"patches": done, "rss_mb": round(process.memory_info().rss / 1e6, 1)})
        patches.set_epoch(patches.epoch + 1)
    return found


def cellmap(root: Path, boxes: list[tuple[int, Window]], repeats: int, python: str) -> float:
    """Patches per CPU-second of cellmap-data on the boxes of the cell that has most of them, copied to what it reads: Zarr v2."""
    specimen_id = Counter(cell for cell, _ in boxes).most_common(1)[0][0]
    cell = brightfield.open_cell(specimen_id, root)
    windows = [window for other, window in boxes if other == specimen_id]
    job = {
        "shape": [high - low for low, high in windows[0]],
        "scale": cell.image.grid.voxel_size_zyx_um,
        "centres": [cell.image.grid.to_um([(low + high) / 2 for low, high in window]).tolist() for window in windows],
        "repeats": repeats,
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, volume in (("raw", cell.image), ("labels/neuron", cell.labels)):
            _copy_v2(volume, Path(folder) / name)
        command = [python, str(Path(__file__).with_name("loader_cellmap.py")), folder, json.dumps(job)]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return max(float(line.split()[0]) for line in lines[1:])


def _copy_v2(volume: Any, path: Path) -> None:
    group = zarr.open_group(path, mode="w", zarr_format=2)
    codec = numcodecs.Blosc("zstd", 1, numcodecs.Blosc.NOSHUFFLE)
    array = group.create_array("s0", shape=volume.shape, dtype=volume.dtype, chunks=volume.spec().chunk_zyx, compressors=codec)
    array[:] = volume[:]
    scale = {"type": "scale", "scale": list(volume.grid.voxel_size_zyx_um)}
    shift = {"type": "translation", "translation": list(volume.grid.origin_zyx_um)}
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    datasets = [{"path": "s0", "coordinateTransformations": [scale, shift]}]
    group.attrs["multiscales"] = [{"version": "0.4", "name": "", "axes": axes, "datasets": datasets}]


def _by_hand(root: Path, specimen_id: int, window: Window) -> tuple[Any, Any]:
    cell = brightfield.open_cell(specimen_id, root)
    return cell.image[_slices(window)], cell.labels[_slices(window)]


def _tensorstore(path: Path, context: Any) -> Any:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / "0")}}
    return tensorstore.open(spec, context=context, read=True).result()


def _slices(window: Window) -> tuple[slice, ...]:
    return tuple(slice(*side) for side in window)


def _versions() -> dict[str, str]:
    found = {}
    for name in ("zarr", "tensorstore", "numcodecs", "numpy", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _versions_in(python: str) -> dict[str, str]:
    """Of cellmap-data and the zarr that it reads with."""
    script = "from importlib.metadata import version; print(version('cellmap-data'), version('zarr'))"
    found = subprocess.run([python, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    return dict(zip(("cellmap-data", "zarr of cellmap-data"), found, strict=True))


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path())
    parser.add_argument("--patches", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=int, default=10_000)
    parser.add_argument("--cellmap", default="", help="an interpreter that has cellmap-data")
    args = parser.parse_args()
    boxes = boxes_of(args.root, args.patches)
    n = len(boxes)
    low, high = (tuple(side[k] for side in boxes[0][1]) for k in (0, 1))
    results: dict[str, Any] = {
        "memory": memory(args.root, args.memory),  # first: what follows opens the same cells for others
        "machine": {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
        "versions": _versions(),
        "patches": n,
        "patch_zyx": [b - a for a, b in zip(low, high, strict=True)],
        "read": rates(readers(args.root, boxes), n, args.repeats),
        "samples": rates(loaders(args.root, n), n, args.repeats),
        "targets": rates(targets(args.root, n), n, args.repeats),
    }
    if args.cellmap:
        results["samples"]["cellmap-data (Zarr v2 copy)"] = {"per_cpu_s": cellmap(args.root, boxes, args.repeats, args.cellmap)}
        results["versions"] |= _versions_in(args.cellmap)
    ours, other = (results["read"][name]["per_cpu_s"] for name in ("reader_of", "tensorstore"))
    results["ratio_to_tensorstore"] = ours / other
    for group in ("read", "samples", "targets"):
        print(f"{group}: patches of {results['patch_zyx']}")
        for name, figures in results[group].items():
            print(f"  {name:40} {figures['per_cpu_s']:7.1f} per CPU-second {figures.get('per_s', 0):7.1f} per second")
    print(f"reader_of / tensorstore: {results['ratio_to_tensorstore']:.2f}")
    print("memory:", ", ".join(f"{row['patches']}: {row['rss_mb']} MB" for row in results["memory"]))
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
