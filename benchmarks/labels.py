"""What labels that have looked at the image get right and wrong: untraced stain, blur, debris, misregistered stretches, the soma.

Run: python benchmarks/labels.py [--dataset ROOT] [--seed 8] [--cells ID ...] [--real FOLDER] [--jitter]. Writes results/labels.json.
The truth is the renderer's: what every neurite, its blur and every speck of debris absorb before texture and noise. Two sets of cells.
"dataset": the cells of a built demo, as its rasterize stage left them. "kept back": cells of a demo of another seed, and what lies around
real somata (`--real`), whose axon is withheld where it was traced, rendered at level 2, aligned and looked at here; with `--jitter` also
with traces beside their stain. Columns, in per cent of voxels:
found     of untraced neurite (outside of somata, contrast of at least 3 sd, objects of at least 5 um, more than the rim from a trace)
          what is not 0. Contrast as alignment measures it: absorbance less its mean in a ring of 1.4 to 1.7 um. sd: of absorbance in
          empty tissue, and of the rounding to grey values where the trace's own stain is dark
any       the same of all untraced stain that absorbs at least 3 sd, contrast or not, somata crossed by their stems included
bg        of true background (farther than 3 um from every neurite) what is UNEXPLAINED, and what is MISREGISTERED
blur      the same of the blur of traced neurites (3 sd, outside of tube and rim, 1.5 um from untraced ones)
traced    the same of the traced tubes
debris    the same of specks (absorbance 0.1, 1 um from every neurite)
iou       of the soma's sphere, and of the dark body found in the image, with the stained body, in the plane through its middle
false/axon  untraced axon labelled background, over axon labelled axon
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from brightfield.config.options import AlignConfig, LabelsConfig
from brightfield.core.codes import Label, Reason
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid, download_grid
from brightfield.core.swc import read_swc
from brightfield.raster.cones import cones_of, shell_spans_of, spans_of
from brightfield.raster.runs import in_row_order, planes_of
from brightfield.sources.demo import stain as demo_stain
from brightfield.sources.demo.cells import demo_cells
from brightfield.sources.demo.phantom import PIXEL_UM, PLANE_UM, Optics, Phantom, untraced_axon
from brightfield.sources.demo.rendering import absorbance, render_crop
from brightfield.stages.align.absorbance import Pixels
from brightfield.stages.align.cell import align_cell
from brightfield.stages.rasterize.evidence import Traced, evidence_of
from brightfield.stages.rasterize.labels import write_labels
from brightfield.stages.rasterize.misregistered import StretchVerdict
from brightfield.stages.rasterize.optics import saturated
from brightfield.stages.rasterize.plan import LabelPlan
from brightfield.testing.skeletons import jittered
from brightfield.volumes.volume import Volume, create_volume, open_volume

RESULT = Path(__file__).resolve().parent / "results" / "labels.json"
NOISE = 0.0115
"""Standard deviation of absorbance under a Gaussian of 0.8 voxels, of empty tissue at level 2."""
ROUNDING = 12**-0.5
"""Standard deviation of rounding, in grey values."""
RING_UM = (1.4, 1.7)
"""Contrast is measured against a ring so wide."""
REAL_UM, INSIDE_UM = (42.0, 140.0, 140.0), 2.0
"""What is rendered around a real soma, and how far inside of it nodes lie."""
WITHHELD_UM = 300.0
"""The axon of a real skeleton is withheld where so much of it lies there."""
EVERY = 3
"""Blur, background and debris are counted on every third plane."""
BITS = (int(Reason.UNEXPLAINED), int(Reason.MISREGISTERED))
R_MIN_UM = LabelsConfig().r_min_um


@dataclass(frozen=True, slots=True)
class Case:
    """A cell whose truth is known. skeleton: as traced; boxes: (n, 6) what was downloaded, in voxels of `grid`."""

    name: str
    phantom: Phantom
    skeleton: Skeleton
    grid: Grid
    level: int
    z_step: int
    boxes: np.ndarray

    def known(self, plane: int) -> np.ndarray:
        """Which pixels of a plane there are."""
        out = np.zeros(self.grid.shape_zyx[1:], bool)
        for _, _, y0, y1, x0, x1 in self.boxes[(self.boxes[:, 0] <= plane) & (self.boxes[:, 1] > plane)].tolist():
            out[y0:y1, x0:x1] = True
        return out

    def stain(self, phantom: Phantom, plane: int) -> np.ndarray:
        """What the stain of a phantom absorbs on a plane of the grid."""
        return absorbance(phantom, plane * self.z_step, 0, 0, self.grid.shape_zyx[1:], self.level)


# -------------------------------------------------------------------------------------------------------------------- the truth


def tube(skeletons: list[Skeleton], grid: Grid, more_um: float = 0.0) -> np.ndarray:
    """Runs of the tubes of some skeletons, grown."""
    parts = [spans_of(cones_of(s, R_MIN_UM, "capsule").grown(more_um), grid, merge=True, threads=1) for s in skeletons]
    return in_row_order(np.concatenate([np.empty((0, 5), np.int32), *parts]))


def painted(runs: np.ndarray, plane: int, shape_yx: tuple[int, int]) -> np.ndarray:
    """A plane of runs as a mask."""
    out = np.zeros(shape_yx, bool)
    for _, y, x0, x1, _ in planes_of(runs, plane, plane + 1).tolist():
        out[y, x0:x1] = True
    return out


def without_soma(skeleton: Skeleton) -> Skeleton:
    """The neurites alone: of a soma's sphere nothing is thin."""
    radius = np.where(skeleton.type == Label.SOMA, 0.1, skeleton.radius_um)
    return replace(skeleton, radius_um=radius)


def long_ones(points: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Which of the voxels belong to objects of at least 5 um."""
    if not len(points):
        return np.zeros(0, bool)
    um = points * size
    pairs = cKDTree(um).query_pairs(2.0 * float(np.hypot(*size[1:])), output_type="ndarray")
    links = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(len(points), len(points)))
    _, number = connected_components(links, directed=False)
    low, high = (np.full((number.max() + 1, 3), v) for v in (np.inf, -np.inf))
    np.minimum.at(low, number, um)
    np.maximum.at(high, number, um)
    return (np.linalg.norm(high - low, axis=1) >= 5.0)[number]


def stained_body(phantom: Phantom) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """The stained body in the plane through its middle as a mask, and offsets from there in um."""
    radius = float(phantom.skeleton.radius_um[phantom.skeleton.soma])
    away = np.arange(-1.8 * radius, 1.8 * radius, 0.1)
    y, x = np.meshgrid(away, away, indexing="ij")
    _, lobes = demo_stain.soma_shape(np.uint64(1000 * phantom.seed))
    points = np.stack([np.zeros_like(y), y, x], axis=-1).reshape(-1, 3)
    return demo_stain.within_lobes(points, radius, lobes).reshape(y.shape), (np.zeros_like(y), y, x)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    return round(float((a & b).sum() / max((a | b).sum(), 1)), 3)


# ------------------------------------------------------------------------------------------------------------------- the figures


def figures(case: Case, labels: Volume) -> dict[str, float]:
    """Every figure of one label store."""
    codes, reasons = labels, labels.sub("reason")
    counts = np.zeros((4, 3))
    near = _Near(case)
    for plane in range(0, case.grid.shape_zyx[0], EVERY):
        known = case.known(plane)
        if known.any():
            counts += near.counted(plane, known, _plane(reasons, plane))
    untraced = _untraced(case, near, codes, reasons)
    axon = sum(int((_plane(codes, z) == Label.AXON).sum()) for z in range(case.grid.shape_zyx[0]))
    names = ("bg", "blur", "traced", "debris")
    found = {k: [round(100 * part / max(row[2], 1), 3) for part in row[:2]] for k, row in zip(names, counts.tolist(), strict=True)}
    return {**untraced, **found, "axon": axon, "false_over_axon": round(untraced["false"] / max(axon, 1), 3)}


class _Near:
    """What lies near the neurites of a case, as runs."""

    def __init__(self, case: Case) -> None:
        self.case = case
        traced, others = case.phantom.skeleton, [s for s, _ in case.phantom.others]
        rim = cones_of(case.skeleton, R_MIN_UM, "capsule")
        rim = rim.grown(np.maximum(0.23, 0.3 * rim.radius_um))
        self.rim = in_row_order(shell_spans_of(rim, 0.84, case.grid, threads=1))
        self.traced, self.given = tube([traced], case.grid), tube([case.skeleton], case.grid)
        self.others = tube([without_soma(s) for s in others], case.grid)
        self.far, self.beside = tube([traced, *others], case.grid, 3.0), tube(others, case.grid, 1.5)
        self.around = tube([traced, *others], case.grid, 1.0)
        self.clean = replace(case.phantom, debris_per_mm3=0.0)
        self.alone = replace(self.clean, others=())

    def counted(self, plane: int, known: np.ndarray, reason: np.ndarray) -> np.ndarray:
        """(4, 3) unexplained, misregistered and all voxels of a plane that are background, blur of the trace, traced, debris."""
        shape = known.shape
        own, clean, full = (self.case.stain(phantom, plane) for phantom in (self.alone, self.clean, self.case.phantom))
        tubes, rim = painted(self.traced, plane, shape), painted(self.rim, plane, shape)
        background = known & ~painted(self.far, plane, shape)
        blur = known & (own > 3 * NOISE) & ~tubes & ~rim & ~painted(self.beside, plane, shape)
        debris = known & (full - clean > 0.1) & ~painted(self.around, plane, shape)
        which = (background, blur, known & painted(self.given, plane, shape), debris)
        masked = [(reason & bit) > 0 for bit in BITS]
        return np.array([[*(np.count_nonzero(m & voxels) for m in masked), np.count_nonzero(voxels)] for voxels in which], float)


def _plane(volume: Volume, plane: int) -> np.ndarray:
    (_, y, x) = volume.grids[0].window
    return volume.read(((plane, plane + 1), y, x))[0]


def _untraced(case: Case, near: _Near, codes: Volume, reasons: Volume) -> dict[str, float]:
    """Of untraced stain that can be seen: voxels, share that is unknown, and what is called background."""
    found = []
    for plane in np.unique(near.others[:, 0]).tolist():
        shape = case.grid.shape_zyx[1:]
        mask = painted(near.others, plane, shape) & ~painted(near.rim, plane, shape) & case.known(plane)
        if mask.any():
            own, both = case.stain(near.alone, plane), case.stain(near.clean, plane)
            y, x = np.nonzero(mask & (both - own >= 3 * NOISE))
            at = [_plane(codes, plane)[y, x], _plane(reasons, plane)[y, x], _is_seen(case, plane, own, both, (y, x))]
            found.append(np.column_stack([np.full(len(y), plane), y, x, *at]))
    voxels = np.concatenate([np.empty((0, 6), np.int64), *found])
    size = np.array(case.grid.voxel_size_zyx_um)
    everything, voxels = (some[long_ones(some[:, :3], size)] for some in (voxels, voxels[voxels[:, 5] > 0]))
    n, false = len(voxels), _n_background(voxels)
    by_stain = int(((voxels[:, 4] & sum(BITS)) > 0).sum())
    shares = {"found": false, "by_stain": n - by_stain}
    return {
        "untraced": n,
        **{name: round(100 * (1 - lost / max(n, 1)), 2) for name, lost in shares.items()},
        "any": round(100 * (1 - _n_background(everything) / max(len(everything), 1)), 2),
        "false": false,
    }


def _n_background(voxels: np.ndarray) -> int:
    return int((voxels[:, 3] == Label.BACKGROUND).sum())


def _is_seen(case: Case, plane: int, own: np.ndarray, both: np.ndarray, at: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Whether what others add to pixels of a plane stands out by 3 sd of noise, outside of their somata."""
    (y, x), size = at, case.grid.voxel_size_zyx_um
    reach = np.arange(-int(RING_UM[1] / size[2]) - 1, int(RING_UM[1] / size[2]) + 2)
    away = np.hypot(*np.meshgrid(reach * size[1], reach * size[2], indexing="ij"))
    beside = np.abs(away - sum(RING_UM) / 2)
    ring = np.argwhere(beside <= max((RING_UM[1] - RING_UM[0]) / 2, beside.min())) + reach[0]  # on coarse grids the nearest pixels to it
    others = saturated(both) - saturated(own)
    n_y, n_x = others.shape
    around = others[np.clip(y[:, None] + ring[:, 0], 0, n_y - 1), np.clip(x[:, None] + ring[:, 1], 0, n_x - 1)].mean(axis=1)
    grey = case.phantom.optics.background * np.exp(-saturated(both)[y, x])
    seen = others[y, x] - around >= 3 * np.hypot(NOISE, ROUNDING / grey)
    position = np.column_stack([np.full(len(y), plane), y, x]) * np.array(size)
    for soma in (s for s, _ in case.phantom.others if s.soma is not None):
        seen &= np.linalg.norm(position - soma.position_zyx_um[soma.soma], axis=1) > soma.radius_um[soma.soma]
    return seen


# ---------------------------------------------------------------------------------------------------------------------- the cells


def built_case(root: Path, specimen_id: int, seed: int) -> tuple[Case, Volume]:
    """A cell of a built demo."""
    cell = next(c for c in demo_cells(seed) if c.specimen_id == specimen_id)
    volume = open_volume(root / "data" / "labels" / f"{specimen_id}.zarr")
    tiles = pd.read_parquet(root / "data" / "tiles.parquet").query("specimen_id == @specimen_id and state == 'ok'")
    z, y0, y1, x0, x1 = (tiles[name].to_numpy(np.int64) for name in ("z", "y0", "y1", "x0", "x1"))
    skeleton = read_swc(root / "data" / "skeletons" / f"{specimen_id}.swc")
    boxes = np.stack([z, z + 1, y0, y1, x0, x1], axis=1)
    return Case(str(specimen_id), cell.phantom, skeleton, volume.grids[0], 2, 2, boxes), volume


def rendered_case(name: str, phantom: Phantom, skeleton: Skeleton, level: int, z_step: int) -> Case:
    """A phantom on a coarse grid, all of it downloaded."""
    grid = download_grid(phantom.grid, level, z_step)
    z, y, x = grid.shape_zyx
    return Case(name, phantom, skeleton, grid, level, z_step, np.array([[0, z, 0, y, 0, x]], np.int64))


def real_case(swc: Path) -> Case:
    """The surroundings of a real soma; the axon is withheld where enough of it was traced, else one that nobody traced is grown."""
    skeleton = read_swc(swc)
    centre = skeleton.position_zyx_um[skeleton.soma or 0]
    skeleton = skeleton.moved_to(np.round(skeleton.position_zyx_um - centre + np.array(REAL_UM) / 2, 4))
    position = skeleton.position_zyx_um
    skeleton = part_of(skeleton, ((position > INSIDE_UM) & (position < np.array(REAL_UM) - INSIDE_UM)).all(axis=1))
    is_axon, seed = skeleton.type == Label.AXON, int(swc.stem) % 100_000
    if skeleton.edge_length_um[is_axon].sum() >= WITHHELD_UM:
        skeleton, other = part_of(skeleton, ~is_axon), part_of(skeleton, is_axon)
    else:
        other = untraced_axon(skeleton, seed, REAL_UM, 600.0)
    n_z, n_y, n_x = (int(um / size) for um, size in zip(REAL_UM, (PLANE_UM, PIXEL_UM, PIXEL_UM), strict=True))
    phantom = Phantom(skeleton, n_z, n_y // 4 * 4, n_x // 4 * 4, seed, ((other, 1.0),), optics=Optics.drawn(seed))
    return rendered_case(swc.stem, phantom, skeleton, 2, 2)


def part_of(skeleton: Skeleton, keep: np.ndarray) -> Skeleton:
    """Some nodes of a skeleton; where a parent is left out, a tree begins."""
    index = np.cumsum(keep) - 1
    parent = np.where((skeleton.parent >= 0) & keep[skeleton.parent], index[skeleton.parent], -1)[keep]
    return Skeleton(skeleton.node_id[keep], skeleton.type[keep], skeleton.position_zyx_um[keep], skeleton.radius_um[keep], parent)


def rendered(case: Case, path: Path) -> Volume:
    """The image of a case in a store of its own."""
    n_z, n_y, n_x = case.grid.shape_zyx
    volume = create_volume(path, [case.grid], np.uint8, chunk_zyx=(16, 64, 64), shard_zyx=(16, 512, 512))
    for first in range(0, n_z, 16):
        planes = [
            render_crop(case.phantom, z * case.z_step, 0, 0, n_y << case.level, n_x << case.level, case.level)
            for z in range(first, min(first + 16, n_z))
        ]
        slab = np.stack(planes)
        for shard in np.ndindex(volume.specs[0].n_shards_zyx):
            (z0, z1), y, x = volume.specs[0].shard_window(shard)
            if z0 == first:
                volume.write_dense_shard(0, shard, slab[: z1 - z0, slice(*y), slice(*x)])
    return volume


def looked_at(case: Case, folder: Path) -> tuple[Volume, dict[str, float]]:
    """Render, align and label a case; the labels, and what it cost."""
    image = rendered(case, folder / "image.zarr")
    start = time.process_time()
    pixels = Pixels(image.grids[0], image.read, np.delete(planes_of_boxes(case), 0, axis=1))
    aligned = align_cell(1, case.skeleton, pixels, AlignConfig(), R_MIN_UM)
    align_s, start = time.process_time() - start, time.process_time()
    verdicts = {row["stretch"]: StretchVerdict.of(row) for row in aligned.stretches}
    evidence = evidence_of(image, case.boxes, Traced(case.skeleton, verdicts, AlignConfig().stretch_um, R_MIN_UM))
    look_s, start = time.process_time() - start, time.process_time()
    plan = LabelPlan(downloaded=case.boxes, bad_planes=tuple(evidence.bad_planes), reconstruction_type="dendrite-only")
    write_labels(folder / "labels.zarr", case.skeleton, case.grid, plan, LabelsConfig(), image_reasons=evidence.reasons)
    cost = {"align_s": align_s, "look_s": look_s, "draw_s": time.process_time() - start, "bad_planes": len(evidence.bad_planes)}
    if evidence.body is not None:
        body, offsets = stained_body(case.phantom)
        sphere = offsets[1] ** 2 + offsets[2] ** 2 <= evidence.body.radius_um**2
        cost |= {"iou_sphere": iou(sphere, body), "iou_body": iou(evidence.body.holds(offsets), body)}
    return open_volume(folder / "labels.zarr"), {k: round(v, 3) for k, v in cost.items()}


def planes_of_boxes(case: Case) -> np.ndarray:
    """(n, 6) the boxes plane by plane: specimen, z, y0, y1, x0, x1."""
    rows = [(0, z, *box[2:]) for box in case.boxes.tolist() for z in range(box[0], box[1])]
    return np.array(rows, np.int64)


def kept_back(options: argparse.Namespace) -> list[Case]:
    """The cells that are rendered here."""
    cells = [cell for cell in demo_cells(options.seed) if cell.specimen_id in options.cells and cell.phantom is not None]
    files = sorted(options.real.glob("*.swc")) if options.real else []
    chosen = files[:: max(1, len(files) // max(options.n_real, 1))][: options.n_real]
    cases = [rendered_case(f"{options.seed}:{cell.specimen_id}", cell.phantom, cell.phantom.skeleton, 2, 2) for cell in cells]
    cases += [real_case(path) for path in chosen]
    beside = [replace(case, name=f"{case.name} beside", skeleton=jittered(case.skeleton, case.phantom.seed)) for case in cases]
    return cases + (beside if options.jitter else [])


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, default=None, help="a repository with a built demo whose labels have looked at the image")
    parser.add_argument("--seed", type=int, default=8, help="of the demo whose cells are kept back (the built one has 7)")
    parser.add_argument("--cells", type=int, nargs="*", default=[], help="specimen ids of the demo")
    parser.add_argument("--real", type=Path, default=None, help="folder with SWC files")
    parser.add_argument("--n-real", type=int, default=2, help="how many of them, spread over all")
    parser.add_argument(
        "--jitter", action="store_true", help="kept back cells once more, their traces beside the stain: 0.15 um in y and x, 0.5 in z"
    )
    options = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    if options.dataset is not None:
        for specimen_id in options.cells:
            case, volume = built_case(options.dataset, specimen_id, 7)
            rows[f"dataset:{specimen_id}"] = report(case.name, figures(case, volume))
    else:
        for case in kept_back(options):
            with tempfile.TemporaryDirectory() as folder:
                labels, cost = looked_at(case, Path(folder))
                rows[case.name] = report(case.name, figures(case, labels) | cost)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    RESULT.write_text(json.dumps({"load_average": os.getloadavg(), "peak_mb": peak_mb, "cells": rows}, indent=2) + "\n")


def report(name: str, row: dict[str, float]) -> dict[str, float]:
    """Print a row and hand it on."""
    print(name, row, flush=True)
    return row


if __name__ == "__main__":
    main()
