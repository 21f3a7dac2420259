"""The numbers of a built dataset: flat ones for `dvc metrics`, tables for plots, and how numbers are written for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from brightfield.core.codes import LABEL_NAMES, Grade, Reason, Severity, Split
from brightfield.core.schema import PATCHES
from brightfield.core.tables import read_table

if TYPE_CHECKING:
    import pandas as pd

    from brightfield.stages.report.material import Material

SIDES = tuple(side for side in Split if side is not Split.EXCLUDED)


def metrics(material: Material) -> dict[str, float | int]:
    """Flat numbers: cells, donors, path length and voxels by class, alignment, split, findings."""
    taken = material.taken
    found: dict[str, float | int] = {
        "cells_known": len(material.cells),
        "cells_selected": int(material.cells["selected"].sum()),
        "donors": int(taken["donor_id"].nunique()),
        "patches": len(read_table(PATCHES, material.root, columns=["specimen_id"])),
        "split_leaks": len(material.proof.leaks),
        "split_max_deviation_points": round(material.proof.max_deviation_points, 3),
        "bytes_images": _sum(taken, "image_bytes"),
        "bytes_labels": _sum(taken, "label_bytes"),
        "voxels_fetched": _sum(taken, "voxels_fetched"),
        "voxels_unknown": _sum(taken, "voxels_unknown"),
    }
    found |= {f"cells_{side}": int((material.manifest["split"] == side).sum()) for side in Split}
    found |= {f"path_um_{name}": round(float(taken[f"path_{name}_um"].sum()), 1) for name in LABEL_NAMES.values()}
    found |= {f"voxels_{name}": _sum(taken, f"voxels_{name}") for name in LABEL_NAMES.values()}
    found |= {f"cells_grade_{grade}": int((material.grades["grade"] == grade).sum()) for grade in Grade}
    found |= {f"findings_{level}": sum(f.severity is level for f in material.checks) for level in Severity}
    medians = {"d_prime_median": taken["alignment_d_prime"], "ignored_share_5um_median": taken["ignored_share_5um"]}
    found |= {name: round(float(values.median()), 4) for name, values in medians.items() if values.notna().any()}
    return found


def _sum(frame: pd.DataFrame, column: str) -> int:
    return int(frame[column].fillna(0).sum())


def plots(material: Material) -> dict[str, pd.DataFrame]:
    """Tables for `dvc plots`: path length and voxels by split and class, alignment per cell, unknown voxels by reason."""
    import pandas as pd

    rows = [
        (side.value, name, round(float(of[f"path_{name}_um"].sum()), 1), _sum(of, f"voxels_{name}"))
        for side in SIDES
        for of in [material.taken[material.taken["split"] == side]]
        for name in LABEL_NAMES.values()
    ]
    classes = pd.DataFrame(rows, columns=["split", "class", "path_um", "voxels"])
    unknown = pd.DataFrame(list(unknown_by_reason(material.labels)), columns=["reason", "voxels"])
    aligned = material.grades[["specimen_id", "d_prime", "share_on", "grade"]].round(4)
    return {"classes": classes, "alignment": aligned, "unknown": unknown}


def unknown_by_reason(labels: pd.DataFrame) -> Iterator[tuple[str, int]]:
    """Reasons by name, and how many voxels of the cells in `labels` (`schema.LABEL_STATS`) are unknown for each."""
    for reason in Reason:
        name = str(reason.name).lower()
        yield name, _sum(labels, f"unknown_{name}")


# ------------------------------------------------------------------------------------------------------------------ for people


def number(value: float | None, digits: int | None = None) -> str:
    """A number for people: thousands apart, four figures or so many `digits` after the point, a dash where there is none."""
    if value is None:
        return "–"
    if digits is not None:
        return f"{value:.{digits}f}"
    if float(value).is_integer():
        return f"{int(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{value:.4g}"


def short(value: float) -> str:
    """A large number in thousands, millions or billions."""
    for unit, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return number(value)


def length(um: float | None) -> str:
    """A length in um or mm."""
    if um is None:
        return "–"
    return f"{um / 1000:.2f} mm" if um >= 1000 else f"{um:.0f} µm"


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 1 in percent."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"
