"""Stage `evaluate`: the network beside a threshold and a difference of Gaussians, scored by the same code."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from brightfield.core.errors import InputError
from brightfield.evaluation import CellScore, VoxelScore, evaluate
from brightfield.evaluation.baselines import score_baselines
from brightfield.evaluation.tables import POOLED, pooled
from brightfield.evaluation.voxels import NEURITE
from unet.predict import PREDICTIONS
from unet.settings import Settings, read_settings

SCORES = Path("scores.json")
TABLE = Path("scores.md")
NETWORK = "U-Net"
_SCORES = ("precision", "recall", "f1", "cldice")

type Numbers = dict[str, float | None]
type Table = dict[str, dict[str, dict[str, Numbers]]]


def main() -> None:
    """As `dvc.yaml` runs it."""
    table = score(read_settings(), PREDICTIONS)
    SCORES.write_text(json.dumps(table, indent=1) + "\n")
    TABLE.write_text(as_markdown(table))
    print(TABLE.read_text(), end="")


def score(settings: Settings, folder: Path) -> Table:
    """Method, side, class: precision, recall, F1 and clDice, of all cells of a side together; None where nobody can know."""
    root, sides = Path(settings.data), settings.predict.sides
    methods = _of_filters(root, sides)
    methods[NETWORK] = [one for side in sides for one in evaluate(root, folder, split=side)]
    return {name: {side: _numbers(total) for side, total in _by_side(scores)} for name, scores in methods.items()}


def _of_filters(root: Path, sides: Sequence[str]) -> dict[str, list[CellScore]]:
    """The scores of what does not learn; none, with a word why, where no training cell can judge it."""
    try:
        return {name: scores for name, (_, scores) in score_baselines(root, sides).items()}
    except InputError as error:
        print(f"no threshold and no difference of Gaussians beside it: {error}")
        return {}


def _by_side(scores: Sequence[CellScore]) -> Iterable[tuple[str, VoxelScore]]:
    return ((side, total) for side, total in pooled(scores) if side != POOLED and isinstance(total, VoxelScore))


def _numbers(total: VoxelScore) -> dict[str, Numbers]:
    found = {}
    for group, counts in total.voxels.items():
        line = total.centreline.get(group)
        found[group] = dict(zip(_SCORES, (counts.precision, counts.recall, counts.f1, None if line is None else line.f1), strict=True))
    return found


def as_markdown(table: Table) -> str:
    """The table of neurites, a row per method and side."""
    lines = ["| neurites | side | precision | recall | F1 | clDice |", "|---|---|--:|--:|--:|--:|"]
    for method, sides in table.items():
        for side, groups in sides.items():
            numbers = " | ".join("-" if value is None else f"{value:.2f}" for value in groups[NEURITE].values())
            lines.append(f"| {method} | {side} | {numbers} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
