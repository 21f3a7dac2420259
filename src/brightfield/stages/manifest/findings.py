"""What checks find, in words, and what forbids to publish."""

from __future__ import annotations

from brightfield.core.codes import Finding, Severity
from brightfield.core.errors import ERRORS_PAGE, CheckError

REBUILD = "rebuild with `dvc repro`, or fetch what was published with `dvc checkout`"


def refuse_errors(findings: list[Finding]) -> None:
    """Raise CheckError when a finding is an ERROR; the manifest stage calls this before it publishes."""
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if errors:
        raise CheckError(f"{len(errors)} finding(s) forbid to publish\n{as_text(errors)}")


def as_text(findings: list[Finding], per_remedy: int = 3) -> str:
    """Findings for people, with what to do, and a summary; of those that call for the same remedy the first `per_remedy` in words."""
    alike: dict[tuple[Severity, str, str], list[Finding]] = {}
    for finding in findings:
        alike.setdefault((finding.severity, finding.check, finding.remedy), []).append(finding)
    lines = []
    for (severity, check, remedy), group in alike.items():
        for finding in group[:per_remedy]:
            cell = "" if finding.specimen_id is None else f"cell {finding.specimen_id}: "
            lines.append(f"{severity.upper():<8}{check}: {cell}{finding.message}")
        if group[per_remedy:]:
            cells = len({finding.specimen_id for finding in group})
            lines.append(f"        and {len(group) - per_remedy} more such, {cells} cells in all (`brightfield check --json` lists them)")
        if remedy:
            lines.append(f"        -> {remedy}")
    counts = ", ".join(f"{sum(f.severity is severity for f in findings)} {severity}" for severity in reversed(Severity))
    lines += [f"what each means: {ERRORS_PAGE}#findings"] if findings else []
    return "\n".join([*lines, counts])


def error_of(check: str, message: str, specimen_id: int | None = None, remedy: str = REBUILD) -> Finding:
    """A finding that forbids to publish."""
    return Finding(Severity.ERROR, check, message, specimen_id, remedy)


def warning_of(check: str, message: str, specimen_id: int | None = None, remedy: str = "") -> Finding:
    """A finding that a person should look at."""
    return Finding(Severity.WARNING, check, message, specimen_id, remedy)
