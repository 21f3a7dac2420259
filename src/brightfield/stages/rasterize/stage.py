"""Stage 4: the labels of every cell, from its skeleton, its plan and, unless `labels.evidence` is off, its image and alignment.

What draws a cell is imported where that is done: most runs find all cells finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from brightfield.built.cells import BuiltCell, built_cells, facts_digest, file_digest
from brightfield.config.options import Config, SomaOutline, TubeShape
from brightfield.config.params import section_digest
from brightfield.core.cell import Cell
from brightfield.core.codes import Verdict
from brightfield.core.layout import IMAGES_DIR, LABELS_DIR, image_store, label_store
from brightfield.core.schema import ALIGNMENT, ALIGNMENT_CELLS, FINDINGS, LABEL_STATS, TILES
from brightfield.core.tables import frame_of, read_table, row_digests, write_table
from brightfield.run.engine import Engine
from brightfield.run.workcache import CellTask, WorkCache
from brightfield.stages.rasterize.snap import Snap

if TYPE_CHECKING:
    import pandas as pd

    from brightfield.core.skeleton import Skeleton
    from brightfield.stages.rasterize.chunks import Boxes
    from brightfield.stages.rasterize.evidence import Evidence
    from brightfield.stages.rasterize.plan import LabelPlan

DECIDING = (
    "labels",
    "image.level",
    "image.z_step",
    "image.chunk_zyx",
    "image.shard_zyx",
    "source.swc_origin",
    "source.swc_unit",
    "source.swc_axes",
)
"""The options that decide a cell's labels, where their voxels are, and how they are stored."""
WITH_EVIDENCE = (*DECIDING, "align.stretch_um")
"""The same where the image and the verdicts of alignment count."""


def run(config: Config, root: Path) -> None:
    """Write the label stores, their statistics and what was noticed."""
    cache = WorkCache(root, "rasterize", (LABELS_DIR, LABEL_STATS, FINDINGS), config.compute.work_dir)
    digests = {"tiles": row_digests(TILES, root, ["z", "y0", "y1", "x0", "x1", "state"])}
    if config.labels.evidence:
        digests |= {"pixels": row_digests(TILES, root), "alignment": row_digests(ALIGNMENT, root)}
    tasks = {built.specimen_id: _task(built, digests) for built in built_cells(root.resolve(), config)}
    done = cache.run(tasks, Engine(config.compute, "labels").map, on_failure=config.download.on_failure)
    print(f"rasterize: {done}")


def _task(built: BuiltCell, digests: Mapping[str, Mapping[int, str]]) -> CellTask:
    key: dict[str, object] = {
        "options": section_digest(built.config, WITH_EVIDENCE if built.config.labels.evidence else DECIDING),
        "cell": facts_digest(built.cell),
        "swc": file_digest(built.skeleton_path),
        "markers": file_digest(built.marker_path),
        **{what: of_cells.get(built.specimen_id) for what, of_cells in digests.items()},
    }
    if (snap := _snap(built)) is not None:
        key |= snap.attributes
    return CellTask(key, draw_cell, (built.root, built.cell, built.config))


def draw_cell(out: Path, root: Path, cell: Cell, config: Config) -> None:
    """The labels of one cell below `out`."""
    from brightfield.stages.rasterize.labels import downloaded_boxes, write_labels

    built = BuiltCell(root, cell, config)
    boxes, snap = downloaded_boxes(built.tiles), _snap(built)
    skeleton = built.skeleton if snap is None else snap.skeleton(built.skeleton)
    evidence = _evidence(built, skeleton, boxes) if config.labels.evidence else None
    chunk, shard = tuple(config.image.chunk_zyx), tuple(config.image.shard_zyx)
    stats = write_labels(
        out / label_store(cell.specimen_id),
        skeleton,
        built.grid,
        _plan(built, boxes, evidence, snap),
        config.labels,
        chunk_zyx=(chunk[0], chunk[1], chunk[2]),
        shard_zyx=(shard[0], shard[1], shard[2]),
        source_image=f"../../{IMAGES_DIR.name}/{image_store(cell.specimen_id).name}",
        attributes=_facts(built, snap),
        image_reasons=None if evidence is None else evidence.reasons,
        image_soma=None if evidence is None else evidence.soma,
        tube=None if evidence is None else evidence.tube,
    )
    stats = replace(stats, soma_iou=None if evidence is None or evidence.body is None else round(evidence.body.iou, 4))
    write_table(LABEL_STATS, frame_of(LABEL_STATS, [stats.to_row(cell.specimen_id)]), out)
    noticed = [*built.skeleton.findings, *stats.findings, *(() if evidence is None else evidence.findings)]
    noticed += [] if snap is None else [snap.finding]
    findings = [asdict(finding) | {"specimen_id": cell.specimen_id, "number": i} for i, finding in enumerate(noticed)]
    write_table(FINDINGS, frame_of(FINDINGS, findings), out)


def _snap(built: BuiltCell) -> Snap | None:
    """How far the cell is moved before it is drawn; None where `align.snap` is off."""
    if not built.config.align.snap:
        return None
    rows = read_table(ALIGNMENT_CELLS, built.root, specimen_id=built.specimen_id)
    return None if rows.empty else Snap.of(rows.iloc[0], built.config.align.max_shift_um)


def _facts(built: BuiltCell, snap: Snap | None) -> dict[str, object]:
    """What the label store says of the cell."""
    facts = {"specimen_id": built.specimen_id, "swc_sha256": file_digest(built.skeleton_path)}
    return facts | ({} if snap is None else snap.attributes)


def _plan(built: BuiltCell, boxes: Boxes, evidence: Evidence | None, snap: Snap | None) -> LabelPlan:
    from brightfield.stages.rasterize.plan import LabelPlan

    marked = {z for z, plane in enumerate(built.stack.planes[:: built.config.image.z_step]) if not plane.usable}
    return LabelPlan(
        stack=built.stack.grid,
        markers=built.markers if snap is None else snap.markers(built.markers),
        bad_planes=tuple(sorted(marked if evidence is None else marked | set(evidence.bad_planes))),
        downloaded=boxes,
        reconstruction_type=built.cell.reconstruction_type,
    )


def _evidence(built: BuiltCell, skeleton: Skeleton, boxes: Boxes) -> Evidence:
    from brightfield.stages.rasterize.evidence import Traced, evidence_of
    from brightfield.stages.rasterize.misregistered import StretchVerdict
    from brightfield.stages.rasterize.plan import cones_for

    rows = _alignment(built).fillna({"shift_um": 0.0, "shift_z_um": 0.0, "p_value": 1.0})
    measures = rows[["shift_um", "shift_z_um", "p_value"]].to_numpy(np.float64).tolist()
    found = zip(rows["stretch"].to_numpy(np.int64).tolist(), rows["verdict"].tolist(), measures, strict=True)
    verdicts = {stretch: StretchVerdict(Verdict(verdict), *measured) for stretch, verdict, measured in found}
    options = built.config.labels
    to_fit = cones_for(skeleton, options) if options.tube == TubeShape.fitted else None
    of_image = options.soma == SomaOutline.image
    traced = Traced(skeleton, verdicts, built.config.align.stretch_um, options.r_min_um, of_image, to_fit)
    return evidence_of(built.image, boxes, traced)


def _alignment(built: BuiltCell) -> pd.DataFrame:
    return read_table(ALIGNMENT, built.root, specimen_id=built.specimen_id)
