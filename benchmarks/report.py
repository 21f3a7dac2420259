"""The report at scale: what the pages of many cells cost, what is found again, how large the index is, how fast a browser shows it.

Run: python benchmarks/report.py [--cells 509] [--workers 0] [--keep FOLDER]. Prints what it found and writes results/report.json. The
dataset is the miniature one of the tests, its first cell repeated under other names, with drawn grades, lines and layers; pictures are as
small as its volumes, so read the cost beside the pictures, and the size of the index. "a page alone" is a page drawn in a loop, in one
process, without work cache and index.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from check import grow

from brightfield.config.options import Config
from brightfield.core.layout import REPORT_DIR, REPORT_FILE
from brightfield.core.schema import ALIGNMENT_CELLS, MANIFEST, NODES
from brightfield.core.tables import read_table, write_table
from brightfield.stages.report.cell import draw_cell
from brightfield.stages.report.material import Material
from brightfield.stages.report.single import write_single
from brightfield.stages.report.stage import write_report
from brightfield.testing.dataset import make_dataset

RESULT = Path(__file__).parent / "results" / "report.json"
DRAWN = {
    "line": ["Rorb-IRES2-Cre", "Pvalb-IRES-Cre", "Sst-IRES-Cre", "Cux2-CreERT2"],
    "layer": ["1", "2/3", "4", "5", "6a"],
    "dendrite_type": ["spiny", "aspiny", "sparsely spiny"],
    "reconstruction_type": ["full", "dendrite-only"],
    "split": ["train", "val", "test"],
}


def vary(root: Path) -> None:
    """Draw what differs from cell to cell: grades, contrast, what the source says."""
    draw = np.random.default_rng(0)
    manifest, grades = read_table(MANIFEST, root), read_table(ALIGNMENT_CELLS, root)
    for column, values in DRAWN.items():
        manifest[column] = draw.choice(values, len(manifest))
    manifest["name"] = [f"{line};Ai14-{i}.04.02.01" for line, i in zip(manifest["line"], manifest["specimen_id"], strict=True)]
    grades["d_prime"] = draw.uniform(1, 40, len(grades)).round(3)
    grades["share_on"] = draw.uniform(0.5, 1, len(grades)).round(3)
    grades["grade"] = draw.choice(["A", "B", "C"], len(grades), p=[0.7, 0.2, 0.1])
    manifest["alignment_grade"] = manifest["specimen_id"].map(grades.set_index("specimen_id")["grade"])
    write_table(MANIFEST, manifest, root)
    write_table(ALIGNMENT_CELLS, grades, root)


def cost(root: Path, config: Config) -> dict[str, float]:
    """Pages made and found, seconds, CPU seconds of this process and of its workers."""
    start, before = time.perf_counter(), _cpu()
    done = write_report(root, config, findings=[])
    spent = {"s": round(time.perf_counter() - start, 2), "cpu_s": round(_cpu() - before, 2)}
    return {"made": len(done.computed), "found": len(done.found), **spent}


def written(root: Path) -> dict[str, str]:
    """The hash of every cell's page with its pictures, by its name."""
    pages = sorted((root / REPORT_DIR / "cells").iterdir())
    return {page.name: hashlib.sha256(b"".join(file.read_bytes() for file in sorted(page.iterdir()))).hexdigest() for page in pages}


def _cpu() -> float:
    return sum(of.ru_utime + of.ru_stime for of in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def alone(root: Path, config: Config, n_cells: int) -> float:
    """CPU seconds of a page, drawn in a loop in this process."""
    material = Material(root, config, [])
    cells = [material.cell(i) for i in list(material.told)[:n_cells]]
    with tempfile.TemporaryDirectory() as folder:
        before = _cpu()
        for cell in cells:
            draw_cell(Path(folder), root, cell)
        return round((_cpu() - before) / len(cells), 4)


def opening(page: Path, repeats: int = 3) -> float | None:
    """Seconds until a browser has run the page's scripts, beyond those of an empty page; the best of a few. None without a browser."""
    browser = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
    if browser is None:
        return None
    best = {}
    with tempfile.TemporaryDirectory() as folder:
        for address in ("about:blank", page.as_uri()):
            command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--dump-dom", address]
            for _ in range(repeats):
                start = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True, timeout=300)
                best[address] = min(best.get(address, 1e9), time.perf_counter() - start)
    return round(best[page.as_uri()] - best["about:blank"], 2)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=509)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="leave the dataset and its report here")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "dataset"
        config = make_dataset(root)
        config.compute.workers = words.workers
        grow(root, config, words.cells - 5)
        vary(root)
        result: dict[str, Any] = {"rows": words.cells, "built": cost(root, config), "again": cost(root, config)}
        nodes = read_table(NODES, root)
        nodes.loc[nodes["specimen_id"] == 1001, "radius_um"] = 0.5
        write_table(NODES, nodes, root)
        before = written(root)
        result["one changed"] = cost(root, config)
        after = written(root)
        result["one changed"]["pages rewritten"] = sum(after[page] != before[page] for page in after)
        result["a page alone, cpu_s"] = alone(root, config, 20)
        files = [path for path in (root / REPORT_DIR).rglob("*") if path.is_file()]
        result["index_bytes"] = (root / REPORT_FILE).stat().st_size
        result |= {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}
        result["single_bytes"] = write_single(root, root / "single.html").stat().st_size
        result["opening the index, s"] = opening(root / REPORT_FILE)
        if words.keep:
            shutil.move(root, words.keep)
    print(json.dumps(result, indent=1))
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
