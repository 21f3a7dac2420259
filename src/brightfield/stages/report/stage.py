"""Stage 7: pictures and numbers for people, metrics and plots for `dvc`."""

from __future__ import annotations

import json
from pathlib import Path

from brightfield.config.options import Config
from brightfield.core.codes import Finding, Severity
from brightfield.core.layout import CHANGELOG_FILE, CHECKS_FILE
from brightfield.stages.report.page import write_report


def run(config: Config, root: Path) -> None:
    """Write the report, with the newest entry of the data changelog as what changed."""
    told = json.loads((root / CHECKS_FILE).read_text(encoding="utf-8"))
    findings = [Finding(**row | {"severity": Severity(row["severity"])}) for row in told]
    print(f"report: {write_report(root, config, findings=findings, changes=_newest_changes(root))}")


def _newest_changes(root: Path) -> str:
    """The first section of the data changelog; empty before the first release."""
    path = root / CHANGELOG_FILE
    sections = path.read_text(encoding="utf-8").split("\n## ") if path.is_file() else []
    return "## " + sections[1].strip() if len(sections) > 1 else ""
