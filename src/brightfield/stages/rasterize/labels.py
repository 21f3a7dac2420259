"""Labels: what a voxel may claim. Kinds of label, the unknown rules with their reasons, and the label store of a cell.

Tubes come from `raster.py`. Around them and at their ends a voxel is UNKNOWN where the trace cannot say what it is; `codes.Reason` says
why. A traced tube wins over the rim and over markers; a bad plane, a misregistered stretch and what was not downloaded win over the tube.
Every level of the pyramid is rasterized from the skeleton by the same rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from brightfield.config.options import LabelKind, LabelsConfig, TubeShape
from brightfield.core.codes import LABEL_COLOURS_RGB, Label, MarkerKind, Reason
from brightfield.core.errors import CheckError
from brightfield.core.layout import REASON_GROUP
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid, Shape
from brightfield.core.tips import cut_tips
from brightfield.raster.cones import Cones, balls, grid_numbers, shell_spans_of, spans_of
from brightfield.raster.lines import lines_of
from brightfield.raster.runs import Runs, in_row_order, overlay, planes_of, settle, strokes, union
from brightfield.raster.topology import Topology, component_count, components_by_tree, loop_count, topology_of
from brightfield.stages.rasterize.chunks import SURFACE_CODE, Band, Boxes, SlabPainter, Tally, coarser, in_planes, merged
from brightfield.stages.rasterize.fit import check_fit, check_room
from brightfield.stages.rasterize.plan import LabelPlan, LabelStats, class_validity, cones_for, with_rim
from brightfield.volumes.ome import LabelMeta
from brightfield.volumes.shards import ArraySpec
from brightfield.volumes.volume import Volume, create_volume

if TYPE_CHECKING:
    import pandas as pd

    from brightfield.stages.rasterize.tube import DrawnTube, FittedTube

_NEAR_UM = 5.0
_NEAR_VOXEL_UM = 0.8
_NONE: Runs = np.empty((0, 5), np.int32)

type RunsOf = Callable[[Grid], Runs]


def write_labels(
    path: Path,
    skeleton: Skeleton,
    grid: Grid,
    plan: LabelPlan,
    rules: LabelsConfig,
    *,
    chunk_zyx: Shape = (32, 128, 128),
    shard_zyx: Shape = (64, 1024, 1024),
    source_image: str = "",
    attributes: Mapping[str, Any] | None = None,
    image_reasons: RunsOf | None = None,
    image_soma: RunsOf | None = None,
    tube: FittedTube | None = None,
    threads: int = 1,
) -> LabelStats:
    """Write the label store of a cell and its sub-group of reasons, level by level and shard by shard; return what was painted.

    path: a directory that is not yet the finished one. grid: of the downloaded image; its pyramid gives the levels.
    source_image: path of the image store relative to `path`. image_reasons: gives, for the grid of each level, runs of `codes.Reason`
    bits that were found in the image (misregistered, unexplained, soma uncertain); image_soma: runs of soma beside the sphere's. tube: the
    one to draw, of the same skeleton; None: as traced.

    Raises GridError for a skeleton that cannot belong to the grid, CapacityError where the disk is too small, both before any work, and
    CheckError when a tree inside the grid did not become one component.
    """
    findings = check_fit(skeleton, grid)
    if plan.downloaded is not None and np.array_equal(plan.downloaded.ravel(), np.ravel(grid.window)):
        plan = replace(plan, downloaded=None)  # all of it: background is the better fill value
    check_room(path, skeleton, grid, plan, rules)
    validity, type_findings = class_validity(skeleton, plan)
    grids = grid.pyramid()
    facts = {"labels": _rules_shown(rules), "class_validity": validity, **(attributes or {})}
    labels, reasons = _create(path, grids, plan, rules, chunk_zyx, shard_zyx, source_image, facts)
    cones = cones_for(skeleton, rules)
    from_image = [(_runs_of(image_reasons, g), _runs_of(image_soma, g)) for g in grids]
    draw = partial(_level, cones, skeleton, grid, plan, rules)
    with _mapping(threads) as map_in_order:
        traced = list(map_in_order(draw, range(len(grids)), grids, from_image))
        levels = traced if tube is None else list(map_in_order(partial(_refitted, tube, rules), traced))
        topology = _topology(levels[0], skeleton, rules)
        by_tree = [topology.n_components_by_tree, *map_in_order(partial(_components, skeleton, rules), levels[1:])]
        for number, n_components in enumerate(by_tree):
            _refuse_pieces(n_components, number, skeleton, grid, rules)
        tally = Tally()
        for of_slab in map_in_order(partial(_write_slab, labels, reasons, rules), *zip(*_slabs(levels, labels), strict=True)):
            tally.include(of_slab)
    share = _unknown_share(levels[_near_level(grids)], rules)
    change = None if levels[0].tube is None else levels[0].tube.change
    noticed = (*findings, *type_findings)
    return LabelStats(rules.kind, skeleton.in_tables, tally, share, topology, validity, noticed, tube=change)


def ignored_share(
    skeleton: Skeleton, grid: Grid, plan: LabelPlan, rules: LabelsConfig, *, image_reasons: RunsOf | None = None
) -> float | None:
    """The share of unknown voxels within 5 um of the arbor, tube voxels counted as known; None for an arbor outside the grid.

    Counted on the first level of the pyramid whose voxels are at least 0.8 um wide: a share, so it needs no finer grid.
    """
    grids = grid.pyramid()
    number = _near_level(grids)
    from_image = (_runs_of(image_reasons, grids[number]), _NONE)
    cones = cones_for(skeleton, rules)
    return _unknown_share(_level(cones, skeleton, grid, plan, rules, number, grids[number], from_image), rules)


def _rules_shown(rules: LabelsConfig) -> dict[str, Any]:
    """The rules as the store's attributes name them: those about the image where it was looked at."""
    hidden = () if rules.evidence else ("evidence", "soma")
    if rules.tube == TubeShape.traced:
        hidden = (*hidden, "tube")
    return {name: value for name, value in asdict(rules).items() if name not in hidden}


def _runs_of(of: RunsOf | None, grid: Grid) -> Runs:
    return _NONE if of is None else of(grid)


@contextmanager
def _mapping(threads: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """`map` over threads: the results come in order. One thread is this one, whose memory is already there."""
    if threads == 1:
        yield map
    else:
        with ThreadPoolExecutor(threads) as pool:
            yield pool.map


def read_distance(codes: NDArray[np.uint8], band_um: float) -> NDArray[np.float32]:
    """Distance in um from the codes of a distance label: negative inside, clipped to +-band_um, NaN where unknown."""
    distance = (codes.astype(np.float32) - SURFACE_CODE) * np.float32(band_um / SURFACE_CODE)
    distance[codes == Label.UNKNOWN] = np.nan
    return distance


def downloaded_boxes(tiles: pd.DataFrame) -> Boxes:
    """The voxel boxes that hold pixels, from the rows of the `tiles` table of one cell; neighbours are joined."""
    ok = tiles[tiles["state"] == "ok"]
    z, y0, y1, x0, x1 = (ok[name].to_numpy(np.int64) for name in ("z", "y0", "y1", "x0", "x1"))
    return merged(np.stack([z, z + 1, y0, y1, x0, x1], axis=1))


# ------------------------------------------------------------------------------------------------------------ drawing one level


@dataclass(frozen=True, slots=True)
class _Level:
    """One level, ready to be drawn slab by slab: what is small enough to be known of all of it.

    rim: the cones with their shell, before the axial sweep. strokes: see `runs.strokes`; axes: the same of the lines alone.
    balls: positions and radii in um, and the reason they stand for. from_image: runs of reasons; soma: of somata. bad, boxes: of the level.
    tube: what is drawn where it is not the strokes.
    """

    number: int
    grid: Grid
    cones: Cones
    rim: Cones
    strokes: NDArray[np.int32]
    axes: NDArray[np.int32]
    balls: list[tuple[Cones, Reason]]
    from_image: Runs
    soma: Runs
    bad: NDArray[np.bool_]
    boxes: Boxes | None
    tube: DrawnTube | None = None

    def spans(self) -> NDArray[np.int32]:
        """The strokes as spans whose last column is an index into the cones."""
        spans = self.strokes.copy()
        spans[:, 4] %= len(self.cones)
        return spans

    def painter(self, z0: int, z1: int, spec: ArraySpec, runs: Runs, band: Band | None = None) -> SlabPainter:
        """What paints planes [z0, z1) of the level; z of the runs counts from z0."""
        boxes = None if self.boxes is None else in_planes(self.boxes, z0, z1)
        slab = replace(spec, shape_zyx=(z1 - z0, *spec.shape_zyx[1:]))
        return SlabPainter(slab, runs, bad=self.bad[z0:z1], boxes=boxes, band=band)


def _level(
    cones: Cones,
    skeleton: Skeleton,
    grid: Grid,
    plan: LabelPlan,
    rules: LabelsConfig,
    number: int,
    level_grid: Grid,
    from_image: tuple[Runs, Runs],
) -> _Level:
    axes = lines_of(cones, level_grid, rules.connect or 26) if rules.connect or rules.kind == "centerline" else _NONE
    tubes = spans_of(cones, level_grid, threads=1)
    return _Level(
        number,
        level_grid,
        cones,
        with_rim(cones, rules),
        strokes(tubes, axes if rules.connect else _NONE, len(cones)),
        strokes(_NONE, axes, len(cones)) if rules.kind == "centerline" else _NONE,
        _balls(skeleton, level_grid, plan, rules),
        in_row_order(from_image[0]),
        in_row_order(from_image[1]),
        _bad_planes(plan, grid, level_grid),
        _boxes_of_level(plan, grid, level_grid),
    )


def _refitted(tube: FittedTube, rules: LabelsConfig, level: _Level) -> _Level:
    """The level with the fitted tube. What was traced and is not in it is rim: trace and stain do not agree there."""
    drawn = tube.drawn(level.spans(), level.grid, rules.connect or 26)
    rim = _reason(drawn.removed, Reason.RIM)
    reasons = in_row_order(np.concatenate([level.from_image, rim]))
    return replace(level, tube=drawn, rim=with_rim(tube.cones, rules), from_image=reasons)


def _topology(level: _Level, skeleton: Skeleton, rules: LabelsConfig) -> Topology:
    """Of the traced tube; components and loops are counted again where another one is drawn."""
    found = topology_of(level.spans(), level.cones, skeleton, rules.connect)
    if level.tube is None:
        return found
    runs = union(level.tube.classes, 1)
    return replace(found, n_components=component_count(runs, rules.connect or 26), n_loops=loop_count(runs))


def _components(skeleton: Skeleton, rules: LabelsConfig, level: _Level) -> tuple[int, ...]:
    return components_by_tree(level.spans(), level.cones, skeleton.n_trees, rules.connect)


def _slabs(levels: Sequence[_Level], labels: Volume) -> list[tuple[_Level, int, int]]:
    """Every level cut into slabs one shard deep: what is drawn, and held in memory, at a time."""
    found = []
    for level, spec in zip(levels, labels.specs, strict=True):
        n, depth = spec.shape_zyx[0], spec.shard_zyx[0]
        found += [(level, z, min(z + depth, n)) for z in range(0, n, depth)]
    return found


def _write_slab(labels: Volume, reasons: Volume, rules: LabelsConfig, level: _Level, z0: int, z1: int) -> Tally:
    """Draw and store planes [z0, z1) of a level; what they hold, if it is the finest."""
    spec = labels.spec(level.number)
    classes, why = _classes(level, z0, z1, rules.kind), _unknown(level, z0, z1, rules)
    told = overlay(classes, why)
    painter = level.painter(z0, z1, spec, told)
    tally = painter.tally() if level.number == 0 else Tally()
    if rules.kind in ("inside", "distance"):
        classes[:, 4] = 1 if rules.kind == "inside" else 0
        painter = level.painter(z0, z1, spec, overlay(classes, why), _band(level, z0, z1, rules))
    painter.write(labels, reasons, level.number, z0 // spec.shard_zyx[0])
    return tally


def _unknown_share(level: _Level, rules: LabelsConfig) -> float | None:
    """See `ignored_share`."""
    z0, z1 = level.grid.window[0]
    spec = ArraySpec.fitted(level.grid.shape_zyx, (32, 128, 128), (32, 128, 128), np.uint8)
    runs = overlay(_classes(level, z0, z1, LabelKind.semantic), _unknown(level, z0, z1, rules))
    near = spans_of(level.cones.grown(_NEAR_UM), level.grid, merge=True, threads=1)
    return level.painter(z0, z1, spec, runs).unknown_share(union(near, 1))


def _near_level(grids: Sequence[Grid]) -> int:
    return next((k for k, g in enumerate(grids) if g.voxel_size_zyx_um[2] >= _NEAR_VOXEL_UM), len(grids) - 1)


def _classes(level: _Level, z0: int, z1: int, kind: LabelKind) -> Runs:
    """Runs of class codes in planes [z0, z1), z counted from z0; of a centreline along the axes only, 0 in the rest of the tube."""
    if level.tube is None:
        classes = settle(planes_of(level.strokes, z0, z1), level.cones, level.grid)
    else:
        classes = planes_of(level.tube.classes, z0, z1).copy()
    if kind == "centerline":
        classes[:, 4] = 0
        classes = np.concatenate([classes, settle(planes_of(level.axes, z0, z1), level.cones, level.grid)])
    elif len(level.soma):
        classes = np.concatenate([classes, planes_of(level.soma, z0, z1)])
    classes[:, 0] -= z0
    return classes


def _unknown(level: _Level, z0: int, z1: int, rules: LabelsConfig) -> Runs:
    """Runs of the reasons for which planes [z0, z1) are unknown, z counted from z0: the rim, the balls, what the image told."""
    _, y, x = level.grid.window
    window = ((z0, z1), y, x)
    found = [_reason(shell_spans_of(level.rim, rules.rim_axial_um, level.grid, window, threads=1), Reason.RIM)]
    found += [_reason(spans_of(ball, level.grid, window, merge=True, threads=1), reason) for ball, reason in level.balls]
    runs = np.concatenate([*found, planes_of(level.from_image, z0, z1)])
    runs[:, 0] -= z0
    return runs


def _band(level: _Level, z0: int, z1: int, rules: LabelsConfig) -> Band | None:
    if rules.kind != "distance":
        return None
    _, y, x = level.grid.window
    spans = spans_of(level.cones.grown(rules.distance_band_um), level.grid, ((z0, z1), y, x), threads=1)
    spans[:, 0] -= z0
    return Band(level.cones, spans, rules.distance_band_um, grid_numbers(level.grid), z0)


def _balls(skeleton: Skeleton, grid: Grid, plan: LabelPlan, rules: LabelsConfig) -> list[tuple[Cones, Reason]]:
    """What markers leave unknown around them, and the tips that a face cuts."""
    radius_of = {MarkerKind.CUT_DENDRITE: rules.cut_ball_um, MarkerKind.UNTRACED_AXON: rules.untraced_ball_um}
    marked = [(m.position_zyx_um, radius_of[MarkerKind(m.kind)]) for m in plan.markers if m.kind in radius_of]
    cut = [
        (tuple(skeleton.position_zyx_um[tip]), rules.cut_ball_um)
        for tip in cut_tips(skeleton, plan.markers, plan.stack or grid, rules.face_planes)
    ]
    found = []
    for places, reason in ((marked, Reason.MARKER), (cut, Reason.BAD_PLANE)):
        if places:
            position, radius = (np.array(column, np.float64) for column in zip(*places, strict=True))
            found.append((balls(position, radius), reason))
    return found


def _reason(spans: NDArray[np.int32], reason: Reason) -> Runs:
    spans[:, 4] = reason
    return spans


def _refuse_pieces(by_tree: Sequence[int], level: int, skeleton: Skeleton, grid: Grid, rules: LabelsConfig) -> None:
    """A tree that lies in the grid is one component by construction; should it not be, nobody may learn from the label."""
    broken = [tree for tree, n_components in enumerate(by_tree) if n_components != 1]
    if broken and rules.connect is not None and grid.contains(skeleton.position_zyx_um).all():
        raise CheckError(f"trees {broken} are not one component on level {level} of the labels; please report it with the SWC file")


# ------------------------------------------------------------------------------------------------------------------ the store


def _create(
    path: Path,
    grids: Sequence[Grid],
    plan: LabelPlan,
    rules: LabelsConfig,
    chunk_zyx: Shape,
    shard_zyx: Shape,
    source_image: str,
    attributes: Mapping[str, Any],
) -> tuple[Volume, Volume]:
    """The store's metadata. Where only a part was downloaded, unknown is the fill value, so the rest costs nothing."""
    everywhere = plan.downloaded is None
    background = 2 * SURFACE_CODE if rules.kind == "distance" else int(Label.BACKGROUND)
    labels = create_volume(
        path,
        grids,
        np.uint8,
        fill_value=background if everywhere else int(Label.UNKNOWN),
        chunk_zyx=chunk_zyx,
        shard_zyx=shard_zyx,
        label=None if rules.kind == "distance" else _label_meta(rules.kind, source_image),
        attributes=attributes,
    )
    return labels, labels.create_sub(REASON_GROUP, np.uint8, fill_value=0 if everywhere else int(Reason.NOT_DOWNLOADED))


def _label_meta(kind: LabelKind, source_image: str) -> LabelMeta:
    names = {int(label): label.name.lower().replace("_", " ") for label in Label if label != Label.BACKGROUND}
    colours = {int(label): (*rgb, 255) for label, rgb in LABEL_COLOURS_RGB.items() if label != Label.BACKGROUND}
    if kind == "inside":
        names = {1: "neuron", int(Label.UNKNOWN): names[Label.UNKNOWN]}
        colours = {value: colours[value] for value in names}
    return LabelMeta(colours, source_image, names)


def _factor(grid: Grid, level_grid: Grid) -> Shape:
    z, y, x = (round(a / b) for a, b in zip(level_grid.voxel_size_zyx_um, grid.voxel_size_zyx_um, strict=True))
    return (z, y, x)


def _boxes_of_level(plan: LabelPlan, grid: Grid, level_grid: Grid) -> Boxes | None:
    return None if plan.downloaded is None else coarser(plan.downloaded, _factor(grid, level_grid), level_grid)


def _bad_planes(plan: LabelPlan, grid: Grid, level_grid: Grid) -> NDArray[np.bool_]:
    """(nz,) planes of a level that hold a bad plane of the finest one."""
    bad = np.zeros(level_grid.shape_zyx[0], np.bool_)
    bad[np.array(plan.bad_planes, np.int64) // _factor(grid, level_grid)[0]] = True
    return bad
