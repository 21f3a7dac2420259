"""A dataset of many cells at the coarsest level, from generated skeletons through all seven stages, in a repository of its own.

Run: python benchmarks/whole.py [--cells 13 509] [--folder DIR] [--json FILE]. A mirror on loopback serves the cells: stacks of the demo's
sizes at level 5, every eighth plane, with the skeletons drawn dark, so that cells are graded and patches sampled. `dvc repro` builds
stage by stage; then come the plan, the checks, a run with nothing to do, another label option, what it changed, and one cell more. Of
each: seconds, seconds of the stage's own command and its processor time, peak memory of its largest process, requests, files. What DVC
takes is the difference of the first two. Read processor time where the machine has other work. With several numbers of cells, memory of
the last is compared with that of the first.
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
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from brightfield.core.cell import Cell, Plane, Stack
from brightfield.core.skeleton import Skeleton
from brightfield.core.swc import format_swc
from brightfield.sources.demo.phantom import PIXEL_UM, PLANE_UM, ArborPlan, canvas, grow
from brightfield.sources.mirror.catalog import Picture
from brightfield.sources.mirror.records import tables_of
from brightfield.sources.mirror.rma import Tables
from brightfield.sources.mirror.server import Mirror, serve

HERE = Path(__file__).resolve().parent
STAGES = ("query", "download", "align", "rasterize", "split", "manifest", "report")
LEAN = ("query", "plan", "manifest", "check", "report", "diff")
LEVEL, Z_STEP, FIRST_ID = 5, 8, 1001
WORDS = [f"image.level={LEVEL}", f"image.z_step={Z_STEP}", "image=full", "image.chunk_zyx=[16,64,64]", "image.shard_zyx=[32,512,512]"]
WORDS += ["patches.size_zyx=[4,16,16]", "source=allen", "source.accept_terms=true"]
SHIM = """#!{python}
import json, resource, subprocess, sys, time
started = time.perf_counter()
code = subprocess.call([{python!r}, "-c", "import sys; from brightfield import cli; sys.exit(cli.main())", *sys.argv[1:]])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open({log!r}, "a") as log:
    row = {{"words": sys.argv[1:], "wall_s": time.perf_counter() - started, "cpu_s": used.ru_utime + used.ru_stime}}
    log.write(json.dumps(row | {{"peak_mb": used.ru_maxrss / 1024}}) + "\\n")
sys.exit(code)
"""

# -------------------------------------------------------------------------------------------------------------------- the cells


@dataclass(frozen=True)
class Generated:
    """A catalog of `cells` generated cells; everything of one follows from its id."""

    cells: int

    @property
    def ids(self) -> range:
        """Of all cells."""
        return range(FIRST_ID, FIRST_ID + self.cells)

    @property
    def tables(self) -> Tables:
        """The service's records."""
        return _tables(self.cells)

    def file(self, file_id: int) -> bytes | None:
        """The SWC of a cell."""
        return format_swc(skeleton_of(file_id // 1000))

    def picture(self, image_id: int) -> Picture | None:
        """A plane, or the projection, as number 999."""
        return Drawn(*divmod(image_id, 1000))


@lru_cache(1)
def _tables(cells: int) -> Tables:
    return tables_of(cell_of(i) for i in range(FIRST_ID, FIRST_ID + cells))


@lru_cache(64)
def skeleton_of(specimen_id: int) -> Skeleton:
    """A small arbor; every other one has a long axon."""
    size = 1.0 + (specimen_id % 7) / 4
    axon_um = 900.0 if specimen_id % 2 else 60.0
    return grow(ArborPlan(specimen_id, (60.0, 300.0 * size, 280.0 * size), 5, bool(specimen_id % 3), 90.0 * size, axon_um))


def cell_of(specimen_id: int) -> Cell:
    """A mouse cell; two of three donors have one, the others two or more."""
    n_planes, height, width = canvas(skeleton_of(specimen_id))
    first = 1000 * specimen_id
    return Cell(
        specimen_id,
        f"cell {specimen_id}",
        specimen_id * 2 // 3,
        "Mus musculus",
        line=f"line {specimen_id % 5}",
        layer="2/3" if specimen_id % 4 else "5",
        dendrite_type="spiny" if specimen_id % 3 else "aspiny",
        reconstruction_id=first + 997,
        reconstruction_type="full" if specimen_id % 2 else "dendrite-only",
        swc_file_id=first + 998,
        swc_url=f"/api/v2/well_known_file_download/{first + 998}",
        stack=Stack(
            first + 996,
            width,
            height,
            PIXEL_UM,
            PLANE_UM,
            tuple(Plane(k, k, first + k) for k in range(n_planes)),
            projection_id=first + 999,
        ),
    )


class Drawn:
    """Nodes as dark spots on grey noise, at `LEVEL` alone."""

    def __init__(self, specimen_id: int, number: int) -> None:
        self._id, self._number = specimen_id, number
        _, self.height_px, self.width_px = canvas(skeleton_of(specimen_id))

    def read(self, level: int, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """The box."""
        if level != LEVEL:
            raise ValueError(f"drawn at level {LEVEL} alone, asked for {level}")
        rows, columns = -(-self.height_px >> level), -(-self.width_px >> level)
        grey = np.random.default_rng([self._id, self._number]).normal(185.0, 3.0, (rows, columns))
        skeleton = skeleton_of(self._id)
        position = skeleton.position_zyx_um / (PLANE_UM, PIXEL_UM * 2**level, PIXEL_UM * 2**level)
        near = np.abs(position[:, 0] - self._number) < 4.0 if self._number < 990 else np.ones(len(position), np.bool_)
        y, x = position[near, 1:].astype(int).T  # of the voxels that hold the nodes
        grey[np.minimum(y, rows - 1), np.minimum(x, columns - 1)] -= 70.0
        whole = np.clip(grey, 0, 255).astype(np.uint8)
        return whole[top >> level :, left >> level :][: height >> level, : width >> level]


# --------------------------------------------------------------------------------------------------------------- the repository


class Repository:
    """A clone of this working tree without its data, built against a mirror, with a shim that clocks our commands."""

    def __init__(self, root: Path, mirror: Mirror) -> None:
        self.root, self._mirror, self._log = root, mirror, root.parent / "commands.jsonl"
        names = subprocess.run(["git", "ls-files"], cwd=HERE.parent, check=True, capture_output=True, text=True).stdout.split("\n")
        for name in names:
            if name and not name.startswith(("data/", "reports/", "snapshot/data", "snapshot/source", "dvc.lock", "tests/")):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                if (HERE.parent / name).is_file():
                    shutil.copy(HERE.parent / name, root / name)
        for path in (root / "snapshot").rglob("*.parquet"):
            path.unlink()
        shim = root.parent / "bin" / "brightfield"
        shim.parent.mkdir()
        shim.write_text(SHIM.format(python=sys.executable, log=str(self._log)))
        shim.chmod(0o755)
        path = os.pathsep.join([str(shim.parent), str(Path(sys.executable).parent), os.environ["PATH"]])
        self._environment = {**os.environ, "PATH": path, "PYTHONPATH": str(HERE.parent / "src"), "DVC_NO_ANALYTICS": "1"}
        self.run("git", "init", "-q")
        self.commit("code")

    def run(self, *words: str) -> None:
        """A command that must succeed."""
        done = subprocess.run(words, cwd=self.root, env=self._environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")

    def commit(self, message: str) -> None:
        """Everything that git may see."""
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", message)

    @property
    def words(self) -> list[str]:
        """Of the configuration."""
        return [*WORDS, f"source.base_url={self._mirror.base_url}"]

    def configure(self, *words: str) -> None:
        """`brightfield config`."""
        self.run("brightfield", "config", *self.words, *words)

    def clocked(self, name: str, *words: str) -> dict[str, Any]:
        """What a command cost, and how much of that was ours."""
        self._log.unlink(missing_ok=True)
        self._mirror.forget()
        started = time.perf_counter()
        self.run(*words)
        wall_s = time.perf_counter() - started
        ours = [json.loads(line) for line in self._log.read_text().splitlines()] if self._log.is_file() else []
        row = {"what": name, "wall_s": wall_s, "ours_s": sum(step["wall_s"] for step in ours), "cpu_s": sum(step["cpu_s"] for step in ours)}
        row |= {"dvc_s": wall_s - row["ours_s"], "peak_mb": max((step["peak_mb"] for step in ours), default=0.0)}
        row |= {"requests": len(self._mirror.requests), "files": self._files()}
        print(
            f"{name:34} {wall_s:7.1f} s ({row['dvc_s']:5.1f} DVC's), ours {row['cpu_s']:7.1f} s CPU, {row['peak_mb']:5.0f} MB, "
            f"{row['requests']:6,} requests, {row['files']:6,} files",
            flush=True,
        )
        return row

    @property
    def tables_mb(self) -> float:
        """All tables, read into memory."""
        return sum(pq.read_table(path).nbytes for path in (self.root / "data").glob("*.parquet")) / 1e6

    @property
    def taken(self) -> dict[str, int]:
        """Cells that are not excluded, and patches."""
        splits = pq.read_table(self.root / "data" / "splits.parquet", columns=["split"])["split"].to_pylist()
        return {"cells": sum(s != "excluded" for s in splits), "patches": pq.read_metadata(self.root / "data" / "patches.parquet").num_rows}

    def _files(self) -> int:
        return sum(len(names) for folder in ("data", "reports") for _, _, names in os.walk(self.root / folder))


def measured(repository: Repository, cells: int) -> Iterator[Mapping[str, Any]]:
    """The rows, one after the other."""
    without = f"source.exclude_ids=[{FIRST_ID + cells}]"
    repository.configure(without)
    for stage in STAGES:
        yield repository.clocked(stage, "dvc", "repro", "--single-item", stage)
    yield repository.clocked("plan", "brightfield", "plan", *repository.words, without, "image.level=0", "image.coverage=skeleton")
    yield repository.clocked("check", "brightfield", "check")
    yield repository.clocked("nothing to do", "dvc", "repro")
    repository.commit("data")
    repository.configure(without, "labels.r_min_um=0.3")
    yield repository.clocked("another label option", "dvc", "repro")
    yield repository.clocked("diff", "brightfield", "diff", "HEAD")
    repository.configure("labels.r_min_um=0.3")
    yield repository.clocked("one cell more", "dvc", "repro")


def built(folder: Path, cells: int) -> dict[str, Any]:
    """Everything about so many cells."""
    catalog = Generated(cells + 1)
    print(f"{len(catalog.tables['Specimen'])} cells are drawn", flush=True)  # before the clock starts
    with serve(catalog) as mirror:
        repository = Repository(folder / "repository", mirror)
        rows = list(measured(repository, cells))
        tables_mb, taken = repository.tables_mb, repository.taken
    sums = {name: sum(row[name] for row in rows[: len(STAGES)]) for name in ("wall_s", "dvc_s", "cpu_s", "requests")}
    wall, dvc, cpu = (sums[name] / 60 for name in ("wall_s", "dvc_s", "cpu_s"))
    print(f"all stages of {cells} cells: {wall:.1f} min ({dvc:.1f} DVC's), ours {cpu:.1f} min CPU; the tables take {tables_mb:.0f} MB")
    print(f"{taken['cells']} cells were taken, {taken['patches']} patches sampled")
    if taken["cells"] < cells / 2:
        raise SystemExit("most cells were excluded: that is no dataset to measure")
    return {"cells": cells, "taken": taken, "load": os.getloadavg()[0], "rows": rows, "all_stages": sums, "tables_mb": tables_mb}


def compare(few: Mapping[str, Any], many: Mapping[str, Any]) -> dict[str, float]:
    """Per step without pixels: memory with many cells, less that of the tables, over memory with few."""
    before = {row["what"]: row["peak_mb"] for row in few["rows"]}
    ratios = {}
    for row in many["rows"]:
        if row["what"] in LEAN:
            ratios[row["what"]] = (row["peak_mb"] - many["tables_mb"]) / before[row["what"]]
            print(f"{row['what']:34} {row['peak_mb']:5.0f} MB, without the tables {ratios[row['what']]:.2f} of {few['cells']} cells'")
    return ratios


def main() -> None:
    """Build, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[13, 509])
    parser.add_argument("--folder", type=Path, help="an empty one to work in; default: a temporary one")
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    found = []
    with ExitStack() as stack:
        folder = words.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for cells in words.cells:
            (folder / str(cells)).mkdir(parents=True)
            found.append(built(folder / str(cells), cells))
            if words.json:
                ratios = compare(found[0], found[-1]) if len(found) > 1 else {}
                words.json.write_text(json.dumps({"cores": os.cpu_count(), "datasets": found, "memory_of_few": ratios}, indent=1) + "\n")


if __name__ == "__main__":
    main()
