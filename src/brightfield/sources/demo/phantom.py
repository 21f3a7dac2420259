"""Neurons that never were: generated arbors, and the description of a stained stack that `rendering.py` can draw.

Generated arbors use random bits, ``+ - * / sqrt`` and rounding to 4 decimals only, so a seed gives the same SWC bytes everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil, sqrt

import numpy as np

from brightfield.core.codes import Label
from brightfield.core.errors import GridError
from brightfield.core.skeleton import ROOT, Skeleton
from brightfield.core.space import Grid, Triple, stack_grid
from brightfield.core.swc import format_swc

PIXEL_UM = 0.1144
PLANE_UM = 0.28
RADIUS_FLOOR_UM = 0.1144
"""One pixel: where the radii of 494 of 509 real files end."""

_STEP_UM = 1.15
_EDGE_UM = 12.0

# ----------------------------------------------------------------------------------------------------------------- the description


@dataclass(frozen=True, slots=True)
class Optics:
    """How the microscope sees: Gaussian defocus that differs above and below focus, and rings on the steep side.

    focus_um: standard deviation of the blur in focus. steep, shallow: growth of the blur per um of defocus on either side. steep_side: +1
    where stain above focus (larger z) is on the steep side. ring: weight c of ``(1 + c) G(sigma) - c G(0.55 sigma)``.
    background: grey value of empty tissue; tilt_yx, bow_yx: relative change of it at the rim of the canvas.
    """

    focus_um: float = 0.10
    steep: float = 0.90
    shallow: float = 0.47
    steep_side: int = 1
    ring: float = 0.35
    background: float = 189.0
    tilt_yx: tuple[float, float] = (0.0, 0.0)
    bow_yx: tuple[float, float] = (0.0, 0.0)
    texture: float = 1.0
    camera: float = 1.0

    @classmethod
    def drawn(cls, seed: int) -> Optics:
        """A plausible microscope: background 170-205, tilt up to 5 %, bow up to 3 %, either side steep."""
        u = np.random.Generator(np.random.PCG64(seed)).random(6).tolist()
        return cls(
            steep_side=1 if u[0] < 0.5 else -1,
            background=170 + 35 * u[1],
            tilt_yx=(0.1 * (u[2] - 0.5), 0.1 * (u[3] - 0.5)),
            bow_yx=(-0.03 * u[4], -0.03 * u[5]),
        )


@dataclass(frozen=True, slots=True)
class Faults:
    """What went wrong at the microscope. missing: planes that the source does not have; failed: planes it has and marks as failed.

    blank: planes without picture. repeated: planes that show the plane before. brighter: planes whose lamp flickered. seam_px: columns
    right of the canvas' middle show what lies so many full-resolution pixels lower (a stitching error).
    """

    missing: frozenset[int] = frozenset()
    failed: frozenset[int] = frozenset()
    blank: frozenset[int] = frozenset()
    repeated: frozenset[int] = frozenset()
    brighter: frozenset[int] = frozenset()
    seam_px: int = 0


@dataclass(frozen=True, slots=True)
class Band:
    """The pial surface: a dark line ``y = offset + slope x + bend x**2`` (um from the canvas' corner), brighter glass above it."""

    offset_um: float
    slope: float = 0.0
    bend_per_um: float = 0.0
    width_um: float = 4.0
    depth: float = 0.35
    glass: float = 0.12


@dataclass(frozen=True, eq=False)
class Phantom:
    """A stained neuron in a z-stack, ready to be rendered anywhere. Compared by identity: rendering caches what it prepares for it.

    skeleton: what is stained (the SWC that is given out may be another one). others: (skeleton, strength) of stain that nobody traced.
    width_px, height_px, n_planes, pixel_um, plane_um: the full-resolution stack; plane 0, row 0, column 0 is centred on the SWC's origin.
    debris_per_mm3: dark specks per volume of tissue.
    """

    skeleton: Skeleton
    n_planes: int
    height_px: int
    width_px: int
    seed: int
    others: tuple[tuple[Skeleton, float], ...] = ()
    pixel_um: float = PIXEL_UM
    plane_um: float = PLANE_UM
    optics: Optics = field(default_factory=Optics)
    band: Band | None = None
    debris_per_mm3: float = 20_000.0
    faults: Faults = field(default_factory=Faults)

    @property
    def grid(self) -> Grid:
        """The full-resolution grid of the stack."""
        return stack_grid(self.n_planes, self.height_px, self.width_px, self.pixel_um, self.plane_um)


def canvas(skeleton: Skeleton, *, margin_um: float = 25.0, margin_z_um: float = 6.0) -> tuple[int, int, int]:
    """(n_planes, height_px, width_px) of a full-resolution stack that begins at the origin and holds a skeleton and a margin."""
    if skeleton.bounding_box_um[0] < (0.0, 0.0, 0.0) or skeleton.position_zyx_um.min() < 0:
        raise GridError("a skeleton with negative coordinates is not in the frame of a stack; shift it before rendering")
    z, y, x = skeleton.bounding_box_um[1]
    return ceil((z + margin_z_um) / PLANE_UM), ceil((y + margin_um) / PIXEL_UM), ceil((x + margin_um) / PIXEL_UM)


def shifted(skeleton: Skeleton, shift_zyx_um: Triple) -> Skeleton:
    """The skeleton displaced as a whole; coordinates keep 4 decimals."""
    return skeleton.moved_to(np.round(skeleton.position_zyx_um + np.asarray(shift_zyx_um), 4))


# -------------------------------------------------------------------------------------------------------------------- SWC variants


def swc_file(skeleton: Skeleton, *, first_id: int = 1, newline: str = "\n", children_first: bool = False) -> bytes:
    """The SWC bytes of a skeleton the way one of the many tools would write them: ids from 0, CRLF, children before parents."""
    if children_first:
        last = len(skeleton) - 1
        parent = skeleton.parent[::-1]
        skeleton = Skeleton(
            skeleton.node_id[::-1],
            skeleton.type[::-1],
            skeleton.position_zyx_um[::-1],
            skeleton.radius_um[::-1],
            np.where(parent == ROOT, ROOT, last - parent),
        )
    renumbered = replace(skeleton, node_id=skeleton.node_id - skeleton.node_id.min() + first_id)
    return format_swc(renumbered).replace(b"\n", newline.encode("ascii"))


def marker_bytes(marks: Sequence[tuple[int, Triple]]) -> bytes:
    """A marker file of (kind, position in um in the frame of the SWC); the file counts positions from one voxel, as real ones do."""
    lines = ["##x,y,z,radius,shape,name,comment, color_r,color_g,color_b"]
    for kind, (z, y, x) in marks:
        lines.append(f"{x + PIXEL_UM:.4f},{y + PIXEL_UM:.4f},{z + PLANE_UM:.4f},0.0, 1, {kind}, , 214,93,101")
    return ("\n".join(lines) + "\n").encode("ascii")


# ------------------------------------------------------------------------------------------------------------------ generated arbors


@dataclass(frozen=True, slots=True)
class ArborPlan:
    """What to grow.

    extent_zyx_um: the box from the origin in which it stays. reach_um: about how long a basal dendrite is. axon_um: axon in total; a stub,
    as dendrite-only cells have it, is under 280 um. n_fragments: axon trees without connection to the soma.
    """

    seed: int
    extent_zyx_um: Triple = (45.0, 220.0, 220.0)
    n_basal: int = 5
    apical: bool = False
    reach_um: float = 90.0
    axon_um: float = 60.0
    n_fragments: int = 0


def grow(plan: ArborPlan) -> Skeleton:
    """Grow the arbor of a plan: a soma, basal stems, perhaps an apical one, an axon, perhaps fragments of it. Ids 1 .. n, parents first."""
    tree = _Growth(plan.seed, plan.extent_zyx_um)
    soma = tree.plant_soma()
    tree.stems(soma, plan)
    tree.axon(soma, plan.axon_um * (1.0 if not plan.n_fragments else 0.75))
    for number in range(plan.n_fragments):
        tree.fragment(0.0 if number == 1 else 0.25 * plan.axon_um / plan.n_fragments)
    return tree.skeleton()


def untraced_axon(skeleton: Skeleton, seed: int, extent_zyx_um: Triple, length_um: float) -> Skeleton:
    """How the axon goes on where the tracer stopped, as a tree of its own: stained in a dendrite-only cell, and absent from its SWC.

    It starts at the end of the traced axon (the tip farthest from the soma), or at the soma where no axon was traced.
    """
    start = skeleton.position_zyx_um[axon_end(skeleton)]
    tree = _Growth(seed, extent_zyx_um)
    root = tree.add(Label.AXON, ROOT, _triple(start), RADIUS_FLOOR_UM)
    tree.neurite(Label.AXON, root, tree.direction(), length_um, RADIUS_FLOOR_UM, 55.0, budget_um=length_um)
    return tree.skeleton()


def axon_end(skeleton: Skeleton) -> int:
    """Index of the axon tip farthest from the soma; the soma (or the first node) where there is no axon."""
    soma = 0 if skeleton.soma is None else skeleton.soma
    axon = skeleton.tips[skeleton.type[skeleton.tips] == Label.AXON]
    if not len(axon):
        return soma
    away = skeleton.position_zyx_um[axon] - skeleton.position_zyx_um[soma]
    return int(axon[np.argmax((away * away).sum(axis=1))])


class _Growth:
    """A tree under construction: nodes in the order in which they grew."""

    def __init__(self, seed: int, extent_zyx_um: Triple) -> None:
        self.random = np.random.Generator(np.random.PCG64(seed)).random
        self.extent = extent_zyx_um
        self.types: list[int] = []
        self.positions: list[Triple] = []
        self.radii: list[float] = []
        self.parents: list[int] = []

    def skeleton(self) -> Skeleton:
        n = len(self.types)
        return Skeleton(np.arange(1, n + 1), np.array(self.types), np.array(self.positions), np.array(self.radii), np.array(self.parents))

    def add(self, kind: Label, parent: int, position: Triple, radius_um: float) -> int:
        self.types.append(int(kind))
        self.positions.append((round(position[0], 4), round(position[1], 4), round(position[2], 4)))
        self.radii.append(round(max(radius_um, RADIUS_FLOOR_UM), 4))
        self.parents.append(parent)
        return len(self.types) - 1

    def plant_soma(self) -> int:
        """Near the middle of the box and on the voxel grid, as tracers click it."""
        share = [0.42 + 0.16 * self.random() for _ in range(3)]
        z, y, x = (s * e for s, e in zip(share, self.extent, strict=True))
        on_grid = (round(z / PLANE_UM) * PLANE_UM, round(y / PIXEL_UM) * PIXEL_UM, round(x / PIXEL_UM) * PIXEL_UM)
        return self.add(Label.SOMA, ROOT, on_grid, 5.0 + 2.5 * self.random())

    def stems(self, soma: int, plan: ArborPlan) -> None:
        for number in range(plan.n_basal):
            length = plan.reach_um * (0.6 + 0.5 * self.random())
            self.neurite(Label.BASAL_DENDRITE, soma, self.sector(number, plan.n_basal), length, 0.35 + 0.45 * self.random(), 32.0)
        if plan.apical:
            self.neurite(Label.APICAL_DENDRITE, soma, (0.1, -1.0, 0.3 * (self.random() - 0.5)), 1.5 * plan.reach_um, 0.9, 45.0)

    def axon(self, soma: int, length_um: float) -> None:
        down = (0.2 * (self.random() - 0.5), 1.0, self.random() - 0.5)
        self.neurite(Label.AXON, soma, down, length_um, RADIUS_FLOOR_UM, 55.0, budget_um=length_um)

    def fragment(self, length_um: float) -> None:
        """An axon tree that begins about 8 um from a traced axon node; of length 0: a single node."""
        axon = [i for i, kind in enumerate(self.types) if kind == Label.AXON]
        z, y, x = self.positions[axon[int(self.random() * len(axon))]]
        root = self.add(Label.AXON, ROOT, self.inside((z + 1.4, y + 8.0 * (self.random() - 0.5), x + 6.0)), RADIUS_FLOOR_UM)
        self.neurite(Label.AXON, root, self.direction(), length_um, RADIUS_FLOOR_UM, 60.0, budget_um=length_um)

    def neurite(
        self, kind: Label, parent: int, direction: Triple, length_um: float, radius_um: float, branch_um: float, *, budget_um: float = 1e9
    ) -> None:
        """Grow one neurite: a persistent random walk that branches about every `branch_um`, tapers, and turns back at the walls."""
        open_tips = [(parent, direction, length_um, radius_um)]
        grown_um = 0.0
        while open_tips and grown_um < budget_um:
            parent, direction, left_um, radius_um = open_tips.pop()
            while left_um > 0 and grown_um < budget_um:
                step_um = _STEP_UM * (0.6 + 0.8 * self.random())
                if self.types[parent] == Label.SOMA:
                    step_um = self.radii[parent] * (0.8 + 0.3 * self.random())
                direction = self.turn(direction, self.positions[parent])
                moved = tuple(p + step_um * d for p, d in zip(self.positions[parent], direction, strict=True))
                parent = self.add(kind, parent, self.inside(_triple(moved)), radius_um * (0.85 + 0.3 * self.random()))
                left_um, grown_um = left_um - step_um, grown_um + step_um
                radius_um = max(RADIUS_FLOOR_UM, radius_um * (1 - 0.012 * step_um))
                if self.random() < step_um / branch_um and left_um > 10:
                    side = _unit(tuple(a + 1.1 * b for a, b in zip(direction, self.direction(), strict=True)))
                    open_tips.append((parent, side, left_um * (0.5 + 0.4 * self.random()), 0.8 * radius_um))

    def turn(self, direction: Triple, position: Triple) -> Triple:
        """The next direction: mostly straight on, a little noise, and away from the walls of the box."""
        wander = self.direction()
        wall = [max(0.0, 1 - p / _EDGE_UM) - max(0.0, 1 - (e - p) / _EDGE_UM) for p, e in zip(position, self.extent, strict=True)]
        z, y, x = (d + 0.28 * w + 0.6 * push for d, w, push in zip(direction, wander, wall, strict=True))
        return _unit((0.93 * z, y, x))

    def sector(self, number: int, of: int) -> Triple:
        """A stem's direction: corners of a square walked in equal parts, so that stems spread around the soma."""
        along = 4.0 * (number + 0.5 * self.random()) / of
        side, part = int(along), 2.0 * (along - int(along)) - 1.0
        y, x = ((-1.0, part), (part, 1.0), (1.0, -part), (-part, -1.0))[side]
        return _unit((0.8 * (self.random() - 0.5), y, x))

    def direction(self) -> Triple:
        """A random unit vector: a point of the unit ball, scaled."""
        while True:
            z, y, x = (2.0 * self.random() - 1.0 for _ in range(3))
            if 0.01 < z * z + y * y + x * x < 1.0:
                return _unit((z, y, x))

    def inside(self, position: Triple) -> Triple:
        z, y, x = (min(max(p, 1.0), e - 1.0) for p, e in zip(position, self.extent, strict=True))
        return (z, y, x)


def _unit(vector: tuple[float, ...]) -> Triple:
    z, y, x = vector
    norm = sqrt(z * z + y * y + x * x)
    return (z / norm, y / norm, x / norm)


def _triple(values: Sequence[float] | np.ndarray) -> Triple:
    z, y, x = (float(v) for v in values)
    return (z, y, x)
