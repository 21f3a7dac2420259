"""`brightfield check`: hashes against the limit of the same disk and cores, and memory as the dataset grows.

Run: python benchmarks/check.py [--cells 50 500]. Prints a table and writes benchmarks/results/check.json. The limit of hashing is `openssl
dgst -sha256` over the same files (in the page cache) with as many processes as there are threads. The grown dataset is the miniature one of
the tests, its first cell repeated under other names (volumes hard-linked), checked in a fresh process each time; read how memory changes.
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
from pathlib import Path

import pandas as pd

from brightfield.config.options import Config
from brightfield.core.layout import image_store, label_store, skeleton_file
from brightfield.core.schema import ALIGNMENT_CELLS, CELLS, MANIFEST, PATCHES, SPLITS, TABLES
from brightfield.core.tables import read_table, write_table
from brightfield.splitting.assign import assign
from brightfield.stages.manifest.card import write_card, write_croissant
from brightfield.stages.manifest.table import HASH_THREADS, StoreHasher, build_manifest
from brightfield.testing.dataset import make_dataset

RESULT = Path(__file__).parent / "results" / "check.json"
CHILD = (
    "import resource, sys, time; from pathlib import Path; from brightfield.stages.manifest.checks import run_checks; "
    "start = time.perf_counter(); "
    "found = run_checks(Path(sys.argv[1])); print(len([f for f in found if f.severity == 'error']), time.perf_counter() - start, "
    "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)"
)


def hash_rates(folder: Path, n_files: int = 48, megabytes: int = 16, repeats: int = 3) -> dict[str, float]:
    """MB/s of StoreHasher and of openssl on the same files (in the page cache), best of `repeats`."""
    block = os.urandom(megabytes * 1_000_000)
    for k in range(n_files):
        (folder / f"{k}").write_bytes(block[k:] + block[:k])
    total = n_files * megabytes
    ours, limit = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        with StoreHasher() as hash_store:
            hash_store(folder)
        ours.append(total / (time.perf_counter() - start))
        start = time.perf_counter()
        command = f"ls {folder} | xargs -P {HASH_THREADS} -n 4 openssl dgst -sha256 > /dev/null"
        subprocess.run(command, shell=True, cwd=folder, check=True)
        limit.append(total / (time.perf_counter() - start))
    return {"ours_mb_s": round(max(ours)), "openssl_mb_s": round(max(limit)), "ratio": round(max(ours) / max(limit), 2)}


def grow(root: Path, config: Config, n_cells: int) -> None:
    """Repeat the first cell of a miniature dataset under other names until there are `n_cells` more."""
    names = range(1001, 1001 + n_cells)
    for name in names:
        for store in (image_store, label_store):
            shutil.copytree(root / store(101), root / store(name), copy_function=os.link)
        (root / skeleton_file(name)).write_bytes((root / skeleton_file(101)).read_bytes() + f"# {name}\n".encode())
    for table in TABLES:
        if table in (SPLITS, MANIFEST):
            continue
        frame = read_table(table, root)
        one = frame[frame["specimen_id"] == 101]
        copies = [one.assign(specimen_id=name) for name in names]
        if table is CELLS:
            copies = [copy.assign(image_series_id=copy["specimen_id"] + 7000) for copy in copies]
        write_table(table, pd.concat([frame, *copies]), root)
    splits = assign(read_table(CELLS, root), config.split, alignment=read_table(ALIGNMENT_CELLS, root))
    write_table(SPLITS, splits, root)
    folds = splits.set_index("specimen_id")["fold"]
    patches = read_table(PATCHES, root)
    write_table(PATCHES, patches.assign(fold=patches["specimen_id"].map(folds).astype("Int32")), root)
    write_table(MANIFEST, build_manifest(root, config, source_url="benchmark"), root)
    write_card(root, config)
    write_croissant(root, config)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[50, 200])
    sizes = parser.parse_args().cells
    result: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "files").mkdir()
        result["hashes"] = hash_rates(Path(folder) / "files")
    print(result["hashes"])
    rows = []
    for n_cells in sizes:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            config = make_dataset(root)
            grow(root, config, n_cells)
            command = [sys.executable, "-c", CHILD, folder]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            errors, seconds, memory = (float(word) for word in said.split())
            rows.append({"cells": n_cells + 5, "errors": int(errors), "s": round(seconds, 1), "peak_mb": round(memory)})
            print(rows[-1])
    result["checks"] = rows
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
