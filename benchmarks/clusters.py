"""Whether a dataset comes out the same on a Dask cluster on which workers are killed and a node lacks the file system.

Run: python benchmarks/whole.py --cells 13 --folder DIR; python benchmarks/clusters.py DIR/13/repository [--json FILE]. A copy of that
repository, without finished cells, works on a scheduler of three workers of one thread. One has an empty folder where the repository is
(its own mount, for which this must run as root on Linux); one of the others is killed as soon as a tenth of the cells is done, and a fresh
one comes. Prints seconds of each stage and whether dvc.lock has the outputs that the local run wrote there.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from distributed import Client

HERE = Path(__file__).resolve().parent
STAGES = ("align", "rasterize", "manifest")
DASK = (sys.executable, "-m", "distributed.cli.dask_scheduler"), (sys.executable, "-m", "distributed.cli.dask_worker")

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parent / "src"), "DVC_NO_ANALYTICS": "1"}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


class Cluster:
    """A scheduler and its workers, processes of this machine."""

    def __init__(self, root: Path, logs: Path) -> None:
        self._root, self._logs, self._file = root, logs, logs / "scheduler.json"
        where = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(self._file))
        self._all = [self._start("scheduler", *DASK[0], *where, "--no-dashboard")]
        while not self._file.is_file():
            time.sleep(0.1)
        self.address: str = json.loads(self._file.read_text())["address"]
        self.workers = [self.hire("one"), self.hire("two")]
        hidden = f'mount -t tmpfs none {shlex.quote(str(root))} && exec "$@"'
        self.without = self.hire("without files", "unshare", "-m", "sh", "-c", hidden, "sh")

    def hire(self, name: str, *before: str) -> subprocess.Popen[bytes]:
        """A worker of one thread, without a nanny that would start it again."""
        words = (*DASK[1], self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0", "--name", name)
        self._all.append(self._start(name, *before, *words))
        return self._all[-1]

    def _start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self._logs / f"{name}.log").open("wb") as log:
            return subprocess.Popen(words, cwd=self._logs, env=ENVIRONMENT | ONE_THREAD, stdout=log, stderr=log)

    def tried_without_files(self) -> int:
        """How many tasks so far went to the node that lacks the file system."""
        with Client(self.address) as client:
            return dict(client.run(_begun).values())["without files"]

    def stop(self) -> None:
        """All of it."""
        for process in reversed(self._all):
            process.kill()
            process.wait()


def _begun(dask_worker: Any) -> tuple[str, int]:
    """A worker's name, and how many tasks it began."""
    return dask_worker.name, sum(entry[1:3] == ("ready", "executing") for entry in dask_worker.state.log)


def finished(root: Path, stage: str) -> int:
    """Finished cells of a stage in the work cache."""
    place = root / ".work" / stage
    return sum(path.is_dir() for path in place.iterdir()) if place.is_dir() else 0


@contextmanager
def killing(cluster: Cluster, root: Path, stage: str, after: int) -> Iterator[list[int]]:
    """A worker dies when `after` cells are done, and another comes; yields the list of the dead, by the cells that were done."""
    dead: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            if finished(root, stage) >= after:
                cluster.workers.pop(0).kill()
                dead.append(finished(root, stage))
                cluster.workers.append(cluster.hire(f"in place of the dead of {stage}"))
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield dead
    finally:
        over.set()
        thread.join()


def outputs(root: Path, stage: str) -> list[dict[str, Any]]:
    """Paths and hashes of what a stage wrote, by dvc.lock."""
    return yaml.safe_load((root / "dvc.lock").read_text())["stages"][stage]["outs"]


def unfinished(built: Path, root: Path, address: str) -> int:
    """A copy of a built repository without any finished cell to be found, set to a Dask cluster; the number of its cells."""
    shutil.copytree(built, root, symlinks=True, dirs_exist_ok=True, ignore=lambda _, names: set(names) & {".work", ".git", "cache", "tmp"})
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["compute"] |= {"scheduler": "dask", "address": address}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return len(json.loads((root / "data" / "keys" / "align.json").read_text()))


def worked(cluster: Cluster, root: Path, stage: str, cells: int) -> dict[str, Any]:
    """A stage run on the cluster: what it took and met."""
    with killing(cluster, root, stage, max(1, cells // 10)) as dead:
        started = time.perf_counter()
        command = ["dvc", "repro", "-f", "--single-item", stage]
        done = subprocess.run(command, cwd=root, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout[-3000:] + done.stderr[-3000:])
    return {"wall_s": time.perf_counter() - started, "killed_after": dead, "tried_without_files": cluster.tried_without_files()}


def main() -> None:
    """Copy, work, compare, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("built", type=Path, help="a repository that whole.py has built")
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=words.built.parent) as place:
        root, logs = Path(place) / "repository", Path(place) / "logs"
        root.mkdir()
        logs.mkdir()
        cluster = Cluster(root, logs)
        try:
            cells = unfinished(words.built, root, cluster.address)
            for stage in STAGES:
                rows.append({"stage": stage, "cells": cells, **worked(cluster, root, stage, cells)})
                rows[-1]["same_bytes"] = outputs(root, stage) == outputs(words.built, stage)
                print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
        finally:
            cluster.stop()
    if words.json:
        words.json.write_text(json.dumps({"cores": os.cpu_count(), "load": os.getloadavg()[0], "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
