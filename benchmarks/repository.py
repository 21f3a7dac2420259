"""How DVC fares with many cells: status, no-op repro, add, push and pull of 500 cells x 2 volumes.

Run: python benchmarks/repository.py. Prints one line per operation and writes the figures as JSON (--json FILE). Shards are dummies; what
counts here is the number of files.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from brightfield.core.layout import IMAGES_DIR, LABELS_DIR, image_store, label_store
from brightfield.run.workcache import CellTask, WorkCache

FILES = ("zarr.json", "0/zarr.json", "1/zarr.json", "0/c/0/0/0", "1/c/0/0/0")


def make_cell(root: Path, specimen_id: int, shard_kb: int) -> None:
    """Two volumes of five files; every cell's shards differ."""
    noise = random.Random(specimen_id)
    for store in (image_store(specimen_id), label_store(specimen_id)):
        for name in FILES:
            path = root / store / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(noise.randbytes(shard_kb * 1024 if "/c/" in name else 400))


def here(function: Callable[..., None], tasks: dict[int, tuple[object, ...]]) -> tuple[dict[int, None], dict[int, str]]:
    """A mapper without processes: the cells are tiny."""
    return {i: function(*args) for i, args in tasks.items()}, {}


def put_together(root: Path, cells: int, shard_kb: int) -> str:
    """What our side of a stage does: compute what is missing, link everything."""
    cache = WorkCache(root, "download", [IMAGES_DIR, LABELS_DIR], algorithm="1")
    return str(cache.run({i: CellTask({"kb": shard_kb}, make_cell, (i, shard_kb)) for i in range(1, cells + 1)}, here))


def repository(root: Path, url: Path) -> None:
    """An empty repository with a local remote and a stage that our command fills."""
    root.mkdir()
    run(root, "git", "init", "-q")
    run(root, "dvc", "init", "-q")
    run(root, "dvc", "config", "cache.type", "hardlink,symlink,copy")
    run(root, "dvc", "remote", "add", "-d", "team", str(url))
    (root / ".gitignore").write_text("/data/\n/.work/\n")
    (root / ".dvcignore").write_text("/.work\n")
    outs = ", ".join(path.as_posix() for path in (IMAGES_DIR, LABELS_DIR))
    (root / "dvc.yaml").write_text(f"stages:\n  download:\n    cmd: 'true'\n    outs: [{outs}]\n")


def run(root: Path, *words: str) -> None:
    """A command that must succeed."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    identity = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    subprocess.run(words, cwd=root, check=True, capture_output=True, env=environment | identity)


def disk_bytes(*folders: Path) -> int:
    """Bytes on the disk, a file with several names counted once."""
    stats = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                stat = path.stat()
                stats[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(stats.values())


def measure(folder: Path, cells: int, shard_kb: int, repeats: int) -> dict[str, float]:
    """Seconds per operation (minimum of `repeats` where an operation can be repeated), files and bytes."""
    root, clone = folder / "origin", folder / "clone"
    repository(root, folder / "remote")
    seconds: dict[str, float] = {}

    def timed(name: str, action: Callable[[], object], times: int = 1) -> None:
        found = []
        for _ in range(times):
            start = time.perf_counter()
            action()
            found.append(time.perf_counter() - start)
        seconds[name] = round(min(found), 2)
        print(f"{name:34s}{seconds[name]:8.2f} s", flush=True)

    timed("compute and link all cells", lambda: put_together(root, cells, shard_kb))
    timed("link all cells, none computed", lambda: put_together(root, cells, shard_kb), repeats)
    timed("dvc add (commit of the stage)", lambda: run(root, "dvc", "commit", "-q", "-f"))
    timed("dvc status", lambda: run(root, "dvc", "status"), repeats)
    timed("dvc repro, nothing to do", lambda: run(root, "dvc", "repro"), repeats)
    timed("dvc push", lambda: run(root, "dvc", "push", "-q"))
    timed("dvc push, nothing to do", lambda: run(root, "dvc", "push", "-q"), repeats)
    run(root, "git", "add", "-A")
    run(root, "git", "commit", "-q", "-m", "data")
    run(folder, "git", "clone", "-q", str(root), str(clone))
    timed("dvc pull of one cell", lambda: run(clone, "dvc", "pull", "-q", str(image_store(1))))
    timed("dvc pull", lambda: run(clone, "dvc", "pull", "-q"))
    data = disk_bytes(root / "data")
    seconds["files"] = sum(1 for path in (root / "data").rglob("*") if path.is_file())
    seconds["data_mb"] = round(data / 1e6, 1)
    seconds["disk_of_data_cache_and_work_per_data"] = round(disk_bytes(root / "data", root / ".dvc" / "cache", root / ".work") / data, 2)
    return seconds


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=500)
    parser.add_argument("--shard-kb", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), words.cells, words.shard_kb, words.repeats)
    print(json.dumps(figures, indent=1))
    if words.json:
        words.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
