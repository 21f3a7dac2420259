"""Stage 7: pictures and numbers for people, metrics and plots for `dvc`.

The report is a folder that needs no network: an index, and a page per cell that is made by that cell's own work and found again when
nothing of the cell has changed. Beside it: `metrics.json` (flat numbers for `dvc metrics`) and CSV files. All are functions of the built
dataset alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from brightfield.config.options import Config
from brightfield.core.codes import Finding, Severity
from brightfield.core.files import write_text
from brightfield.core.layout import CHANGELOG_FILE, CHECKS_FILE, METRICS_FILE, PLOTS_DIR, REPORT_CELLS_DIR, REPORT_STAGE
from brightfield.run.engine import Engine
from brightfield.run.workcache import CellTask, Done, WorkCache
from brightfield.stages.report.cell import TEMPLATES, draw_cell
from brightfield.stages.report.index import write_index
from brightfield.stages.report.material import CellMaterial, Material, Row
from brightfield.stages.report.numbers import metrics, plots
from brightfield.stages.report.rendering import assets_digest


def run(config: Config, root: Path) -> None:
    """Write the report, with the newest entry of the data changelog as what changed."""
    told = json.loads((root / CHECKS_FILE).read_text(encoding="utf-8"))
    findings = [Finding(**row | {"severity": Severity(row["severity"])}) for row in told]
    print(f"report: {write_report(root, config, findings=findings, changes=_newest_changes(root))}")


def write_report(root: Path, config: Config, *, findings: Sequence[Finding], changes: str = "") -> Done:
    """Write the report, the metrics and the tables of plots of the dataset below `root`; says which pages were made and which found.

    findings: of the checks. changes: text of a comparison with an earlier version. Raises TableError where a table is missing, CellFailures
    where the volumes of a cell cannot be read.
    """
    material = Material(root, config, findings)
    for name, frame in plots(material).items():
        write_text(root / PLOTS_DIR / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n"))
    write_text(root / METRICS_FILE, json.dumps(metrics(material), indent=1, sort_keys=True) + "\n")
    cache = WorkCache(root, REPORT_STAGE, (REPORT_CELLS_DIR,), config.compute.work_dir)
    tasks = {i: _task(material, i, key) for i, key in material.keys().items()}
    done = cache.run(tasks, Engine(config.compute, "pages").map)
    write_index(material, changes)
    return done


def _task(material: Material, specimen_id: int, key: Row) -> CellTask:
    def args() -> tuple[Path, CellMaterial]:  # asked for a page that must be made: most runs find all
        return material.root.resolve(), material.cell(specimen_id)

    return CellTask(key | {"templates": assets_digest(*TEMPLATES)}, draw_cell, args)


def _newest_changes(root: Path) -> str:
    """The first section of the data changelog; empty before the first release."""
    path = root / CHANGELOG_FILE
    sections = path.read_text(encoding="utf-8").split("\n## ") if path.is_file() else []
    return "## " + sections[1].strip() if len(sections) > 1 else ""
