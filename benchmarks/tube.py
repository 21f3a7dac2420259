"""The tube fitted to its stain (`labels.tube=fitted`) against the bare geometry of the trace, where the truth is known.

Run: python benchmarks/tube.py [--seeds 1001 1002 ...] [--levels 1 2] [--real FOLDER]. Writes results/tube.json.
Rendered neurons of seeds that nothing was chosen on. Traces lie beside the stain as a tracer errs: the error of a node is mostly that of
the node before it (an Ornstein-Uhlenbeck walk along the path, 15 um). Each is rendered, aligned, looked at and labelled as in the pipeline.
Columns, somata left out:
traced, fitted  Dice coefficient of the tube with that of the stained skeleton (radii, floor and connection as the labels have them)
pieces, loops   components and loops of the fitted tube, of the traced one; and trees
align_s ...     CPU seconds of alignment, of the look at the image (without and with the fit), of drawing and writing all labels
`--real` draws the largest skeletons of a folder at full resolution, joints moved at random (1 um along z, 0.3 um in y and x), the worst
case: memory and CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from labels import Case, planes_of_boxes, rendered, rendered_case, verdict_of

from brightfield.config.options import AlignConfig, LabelsConfig, TubeShape
from brightfield.core.codes import Label
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import stack_grid
from brightfield.core.swc import read_swc
from brightfield.raster.cones import cones_of, spans_of
from brightfield.raster.lines import lines_of
from brightfield.raster.runs import Runs, union
from brightfield.raster.sets import clipped, n_voxels
from brightfield.raster.topology import component_count, loop_count
from brightfield.raster.voxels import label_runs
from brightfield.sources.demo.phantom import PIXEL_UM, PLANE_UM, ArborPlan, Optics, Phantom, canvas, grow
from brightfield.stages.align.absorbance import Pixels
from brightfield.stages.align.cell import align_cell
from brightfield.stages.rasterize.evidence import Traced, evidence_of
from brightfield.stages.rasterize.joints import Joints
from brightfield.stages.rasterize.labels import write_labels
from brightfield.stages.rasterize.plan import LabelPlan
from brightfield.stages.rasterize.tube import FittedTube

RESULT = Path(__file__).resolve().parent / "results" / "tube.json"
RULES = LabelsConfig(evidence=True, tube=TubeShape.fitted)
OFF = ((0.0, 0.0, 0.0), (0.15, 0.5, 0.0), (0.3, 1.0, 0.0), (0.0, 0.0, 0.4), (0.3, 1.0, 0.4))
"""Standard deviation of traces in y and x, and along z, um; and of the logarithm of their radii."""
NOISE = (1.0, 2.0)
"""Texture and camera noise, over what the rendered stacks usually have."""
OVER_UM = 15.0


def jittered(skeleton: Skeleton, seed: int, xy_um: float, z_um: float) -> Skeleton:
    """A trace beside its neurites; the soma is in place."""
    noise, error = np.random.default_rng(seed).standard_normal((len(skeleton), 3)), np.zeros((len(skeleton), 3))
    for i in np.argsort(skeleton.depth, kind="stable").tolist():
        alike = np.exp(-skeleton.edge_length_um[i] / OVER_UM)
        if skeleton.parent[i] >= 0:
            error[i] = alike * error[skeleton.parent[i]] + np.sqrt(1 - alike**2) * noise[i]
        elif skeleton.label[i] != Label.SOMA:
            error[i] = noise[i]
    return skeleton.moved_to(np.round(skeleton.position_zyx_um + error * np.array([z_um, xy_um, xy_um]), 4))


def dice(one: Runs, other: Runs) -> float:
    """Of runs of class codes, somata left out."""
    a, b = (runs[runs[:, 4] != Label.SOMA] for runs in (one, other))
    return 2 * n_voxels(clipped(a, b)) / max(n_voxels(a) + n_voxels(b), 1)


def misjudged(skeleton: Skeleton, seed: int, by: float) -> Skeleton:
    """The radii of every 12 um multiplied by one random number, log-normal with standard deviation `by`; the soma's stays."""
    piece = skeleton.stretches(12.0)
    factor = np.exp(by * np.random.default_rng(seed).standard_normal(piece.max() + 2))[piece]
    return replace(skeleton, radius_um=skeleton.radius_um * np.where(skeleton.label == Label.SOMA, 1.0, factor))


def case_of(seed: int, level: int, noise: float, off: tuple[float, float, float]) -> Case:
    """A rendered neuron and a trace of it. off: see `OFF`."""
    xy_um, z_um, radii = off
    stained = grow(ArborPlan(seed, (28.0, 70.0, 70.0), n_basal=3, reach_um=35.0, axon_um=150.0, n_fragments=seed % 3))
    optics = replace(Optics.drawn(seed), texture=noise, camera=noise)
    phantom = Phantom(stained, *canvas(stained), seed, optics=optics)
    return rendered_case(f"{seed}", phantom, misjudged(jittered(stained, seed, xy_um, z_um), seed, radii), level, 1)


def measured(case: Case, folder: Path, *, twice: bool) -> dict[str, float]:
    """One row. twice: look at the image without fitting, too."""
    image = rendered(case, folder / "image.zarr")
    start = time.process_time()
    pixels = Pixels(image.grids[0], image.read, np.delete(planes_of_boxes(case), 0, axis=1))
    aligned = align_cell(1, case.skeleton, pixels, AlignConfig(), RULES.r_min_um)
    align_s = time.process_time() - start
    verdicts = {row["stretch"]: verdict_of(row) for row in aligned.stretches}
    cones = cones_of(case.skeleton, RULES.r_min_um, "capsule")
    row = {"align_s": align_s}
    for name, to_fit in ((("without_s", None),) if twice else ()) + (("look_s", cones),):
        start = time.process_time()
        traced = Traced(case.skeleton, verdicts, AlignConfig().stretch_um, RULES.r_min_um, to_fit=to_fit)
        evidence = evidence_of(image, case.boxes, traced)
        row[name] = time.process_time() - start
    start = time.process_time()
    plan = LabelPlan(downloaded=case.boxes)
    write_labels(folder / "labels.zarr", case.skeleton, case.grid, plan, RULES, image_reasons=evidence.reasons, tube=evidence.tube)
    row["draw_s"] = time.process_time() - start
    return row | agreement(case, evidence.tube)


def agreement(case: Case, tube: FittedTube) -> dict[str, float]:
    """Dice coefficients and topology on the case's grid."""
    truth, traced = (label_runs(skeleton, case.grid) for skeleton in (case.phantom.skeleton, case.skeleton))
    cones = tube.joints.cones
    spans = np.concatenate([spans_of(cones, case.grid, threads=1), lines_of(cones, case.grid, 26)])
    fitted = tube.drawn(spans, case.grid, 26).classes
    whole = [union(runs, 1) for runs in (traced, fitted)]
    return {
        "traced": dice(traced, truth),
        "fitted": dice(fitted, truth),
        "pieces_traced": component_count(whole[0], 26),
        "pieces": component_count(whole[1], 26),
        "trees": case.skeleton.n_trees,
        "loops_traced": loop_count(whole[0]),
        "loops": loop_count(whole[1]),
    }


def drawn_at_full_resolution(path: Path) -> dict[str, float]:
    """Cost of the labels of a real skeleton whose joints are moved at random, traced and fitted."""
    skeleton = read_swc(path)
    skeleton = skeleton.moved_to(skeleton.position_zyx_um + np.maximum(5.0 - skeleton.position_zyx_um.min(axis=0), 0))
    grid = stack_grid(*canvas(skeleton), PIXEL_UM, PLANE_UM)
    joints = Joints.of(skeleton, cones_of(skeleton, RULES.r_min_um, "capsule"))
    offset = np.random.default_rng(1).standard_normal((len(joints), 3)) * np.array([1.0, 0.3, 0.3])
    offset = np.clip(offset, [-1.8, -0.6, -0.6], [1.8, 0.6, 0.6])
    offset[joints.cones.label[joints.node] == Label.SOMA] = 0.0
    row: dict[str, float] = {"path_um": float(skeleton.edge_length_um.sum()), "joints": len(joints)}
    for name, tube in (("traced", None), ("fitted", FittedTube(joints, offset, np.ones(len(joints))))):
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            stats = write_labels(Path(folder) / "1.zarr", skeleton, grid, LabelPlan(), RULES, tube=tube)
            row[f"{name}_s"] = time.process_time() - start
        row |= {
            f"{name}_pieces": stats.topology.n_components,
            f"{name}_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
    return row


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1001, 1002, 1003, 1004, 1005, 1006])
    parser.add_argument("--levels", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--real", type=Path, default=None, help="folder with SWC files")
    parser.add_argument("--n-real", type=int, default=2, help="how many of them, the largest first")
    options = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    for path in sorted(options.real.glob("*.swc"), key=lambda p: -p.stat().st_size)[: options.n_real] if options.real else ():
        rows[path.stem] = report(path.stem, drawn_at_full_resolution(path))
    for level in options.levels:
        for noise in NOISE:
            for off in OFF:
                for seed in options.seeds:
                    with tempfile.TemporaryDirectory() as folder:
                        name = f"level {level}, noise {noise:g}, off {' '.join(f'{value:g}' for value in off)}, seed {seed}"
                        twice = (noise, off) == (1.0, OFF[2])
                        rows[name] = report(name, measured(case_of(seed, level, noise, off), Path(folder), twice=twice))
    RESULT.write_text(json.dumps({"load_average": os.getloadavg(), "rows": rows}, indent=2) + "\n")


def report(name: str, row: dict[str, float]) -> dict[str, float]:
    """Print a row, rounded, and hand it on."""
    row = {key: round(value, 4) for key, value in row.items()}
    print(name, row, flush=True)
    return row


if __name__ == "__main__":
    main()
