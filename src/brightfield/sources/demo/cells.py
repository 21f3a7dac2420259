"""What the embedded demo consists of: five real Allen skeletons and generated ones, each with its story, their stacks rendered.

The real skeletons are superseded releases that ship inside the PyPI package bmtk; their donors, lines and layers are those of the Allen
Cell Types Database. Everything else is made up and says so: ids from 900,000,001 on, names that begin with "Synthetic". No stack is real.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np

from brightfield.core.codes import FULL_AXON_UM, Label, MarkerKind
from brightfield.core.errors import SourceError
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Triple
from brightfield.core.swc import parse_swc
from brightfield.sources.demo.phantom import (
    PIXEL_UM,
    PLANE_UM,
    ArborPlan,
    Band,
    Faults,
    Optics,
    Phantom,
    axon_end,
    canvas,
    grow,
    marker_bytes,
    shifted,
    swc_file,
    untraced_axon,
)

type Row = dict[str, object]

PLANTED_SHIFT_ZYX_UM: Triple = (0.0, 1.8, 2.4)
"""How far the SWC of `MISREGISTERED_ID` lies beside its stain: 3 um."""
MISREGISTERED_ID = 900_000_008
WITHOUT_STACK_ID = 900_000_006
MISSING_PLANES_ID = 900_000_005
MARKER_ID = 900_000_002
HUMAN_ID = 900_000_007

_BMTK_FOLDER = "bmtk/utils/scripts/bionet/morphologies"
_DATA_SETS, _SUB_IMAGES, _FILES, _RECONSTRUCTIONS = 920_000_000, 930_000_000, 940_000_000, 950_000_000
_IMAGES_PER_CELL = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class DemoCell:
    """One cell as the demo's service knows it.

    row: fields of ApiCellTypesSpecimenDetail. reconstruction: fields of NeuronReconstruction, None where nothing was traced. swc, marker:
    the files' bytes. phantom: the stack; None where the cell has no images. Missing and failed planes are `phantom.faults`.
    """

    number: int
    specimen_id: int
    row: Mapping[str, object]
    reconstruction: Mapping[str, object] | None = None
    swc: bytes | None = None
    marker: bytes | None = None
    phantom: Phantom | None = None

    @property
    def swc_file_id(self) -> int:
        """Well-known file id of the SWC."""
        return _FILES + 10 * self.number + 1

    @property
    def marker_file_id(self) -> int:
        """Well-known file id of the marker file."""
        return _FILES + 10 * self.number + 2

    @property
    def data_set_id(self) -> int:
        """Id of the image series."""
        return _DATA_SETS + self.number

    @property
    def projection_id(self) -> int:
        """SubImage id of the minimum projection along z."""
        return self.sub_image_id(_IMAGES_PER_CELL - 1)

    @property
    def first_section(self) -> int:
        """Section number of plane 0; it differs between cells, as in the database."""
        return 1 + self.number % 3

    def sub_image_id(self, plane: int) -> int:
        """SubImage id of a plane."""
        return _SUB_IMAGES + _IMAGES_PER_CELL * self.number + plane


@dataclass(frozen=True, slots=True)
class _Real:
    """A reconstruction inside bmtk with the facts of the cells table (2023) about its cell."""

    specimen_id: int
    file: str
    reconstruction_id: int
    name: str
    line: str
    hemisphere: str
    donor_id: int
    donor_name: str
    layer: str
    structure_id: int
    apical: str
    dendrite_type: str
    csl_xyz_depth: tuple[float, float, float, float]


_REAL = (
    _Real(
        314804042, "Rorb_325404214_m.swc", 325404214, "Rorb-IRES2-Cre-D;Ai14-168053.05.01.01", "Rorb-IRES2-Cre", "left",
        313403626, "Rorb-IRES2-Cre-D;Ai14(IVSCC)-168053", "5", 778, "intact", "spiny", (8766.93, 1245.06, 8245.15, 0.494978),
    ),
    _Real(
        318331342, "Pvalb_469628681_m.swc", 469628681, "Pvalb-IRES-Cre;Ai14-169125.03.01.01", "Pvalb-IRES-Cre", "left",
        314059203, "Pvalb-IRES-Cre;Ai14(IVSCC)-169125", "4", 721, "NA", "aspiny", (9116.44, 1473.63, 8737.69, 0.547339),
    ),
    _Real(
        318808427, "Nr5a1_471087815_m.swc", 471087815, "Nr5a1-Cre;Ai14-169250.03.02.01", "Nr5a1-Cre", "left",
        318293733, "Nr5a1-Cre;Ai14(IVSCC)-169250", "2/3", 821, "intact", "spiny", (9163.04, 1121.30, 8371.15, 0.336104),
    ),
    _Real(
        330080937, "Pvalb_470522102_m.swc", 470522102, "Pvalb-IRES-Cre;Ai14-176847.04.02.01", "Pvalb-IRES-Cre", "right",
        329549804, "Pvalb-IRES-Cre;Ai14(IVSCC)-176847", "5", 778, "NA", "aspiny", (8650.43, 1202.98, 3459.31, 0.779447),
    ),
    _Real(
        395830185, "Scnn1a_473845048_m.swc", 473845048, "Scnn1a-Tg3-Cre;Ai14-177300.01.02.01", "Scnn1a-Tg3-Cre", "right",
        339692419, "Scnn1a-Tg3-Cre;Ai14(IVSCC)-177300", "4", 721, "intact", "spiny", (9742.0, 1399.68, 2981.24, 0.410976),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Made:
    """A generated cell and what is special about it."""

    specimen_id: int
    donor_id: int
    plan: ArborPlan
    line: str
    layer: str
    dendrite_type: str
    human: bool = False
    first_id: int = 1
    newline: str = "\n"
    children_first: bool = False
    faults: Faults = field(default_factory=Faults)
    band: Band | None = None
    neighbour: bool = False

    @property
    def is_full(self) -> bool:
        return self.plan.axon_um > FULL_AXON_UM


_SMALL: Triple = (42.0, 190.0, 210.0)
# Donors are numbered so that the frozen salts put cells with every class on each side; tests/sources/demo/test_cells.py tells if not.
_MADE = (
    _Made(900_000_001, 900_100_012, ArborPlan(1, (46.0, 240.0, 220.0), 5, True, 80.0, 1600.0, 3), "Rbp4-Cre_KL100", "5", "spiny"),
    _Made(MARKER_ID, 900_100_012, ArborPlan(2, (36.0, 200.0, 220.0), 6, False, 95.0, 70.0), "Rbp4-Cre_KL100", "5", "sparsely spiny"),
    _Made(900_000_003, 900_100_014, ArborPlan(3, _SMALL, 5, False, 75.0, 2200.0, 5), "Sst-IRES-Cre", "2/3", "aspiny", first_id=0),
    _Made(900_000_004, 900_100_014, ArborPlan(4, _SMALL, 4, False, 85.0, 45.0), "Sst-IRES-Cre", "4", "aspiny", newline="\r\n"),
    _Made(
        MISSING_PLANES_ID, 900_100_017, ArborPlan(5, _SMALL, 6, False, 80.0, 1200.0, 2), "Htr3a-Cre_NO152", "1", "aspiny",
        children_first=True,
        faults=Faults(missing=frozenset({40, 41, 42, 78}), failed=frozenset({96}), blank=frozenset({110}), repeated=frozenset({64})),
    ),
    _Made(WITHOUT_STACK_ID, 900_100_004, ArborPlan(6, _SMALL, 5, False, 80.0, 40.0), "Ntsr1-Cre_GN220", "6a", "spiny"),
    _Made(HUMAN_ID, 900_100_005, ArborPlan(7, _SMALL, 5, True, 75.0, 700.0, 1), "", "3", "spiny", human=True),
    _Made(MISREGISTERED_ID, 900_100_007, ArborPlan(8, _SMALL, 5, False, 85.0, 50.0), "Cux2-CreERT2", "4", "spiny"),
    _Made(
        900_000_009, 900_100_013, ArborPlan(9, (44.0, 220.0, 200.0), 5, True, 70.0, 1500.0, 1), "Cux2-CreERT2", "2/3", "spiny",
        band=Band(14.0, 0.05, 0.0002), neighbour=True,
    ),
    _Made(900_000_010, 900_100_010, ArborPlan(10, _SMALL, 4, False, 90.0, 1300.0, 0), "Vip-IRES-Cre", "2/3", "sparsely spiny"),
    _Made(900_000_012, 900_100_011, ArborPlan(11, _SMALL, 4, True, 65.0, 1000.0, 1), "Ntsr1-Cre_GN220", "6a", "spiny"),
    _Made(900_000_013, 900_100_016, ArborPlan(12, _SMALL, 5, True, 65.0, 60.0), "Rbp4-Cre_KL100", "5", "spiny"),
    _Made(900_000_014, 900_100_019, ArborPlan(13, _SMALL, 5, True, 65.0, 1000.0, 2), "Nr5a1-Cre", "4", "spiny", newline="\r\n"),
    _Made(900_000_015, 900_100_015, ArborPlan(14, _SMALL, 5, False, 70.0, 50.0), "Pvalb-IRES-Cre", "2/3", "aspiny"),
)  # fmt: skip

_NOT_TRACED_ID, _NOT_TRACED_DONOR = 900_000_011, 900_100_008
_STRUCTURES = {"1": 593, "2/3": 821, "4": 721, "5": 778, "6a": 33, "3": 12141}


@lru_cache(maxsize=2)
def demo_cells(seed: int = 7) -> tuple[DemoCell, ...]:
    """Every cell of the demo, by specimen id; `seed` changes all that is generated. Same seed, same bytes.

    Raises SourceError when bmtk is not installed.
    """
    real = [_real_cell(number, facts, seed) for number, facts in enumerate(_REAL)]
    made = [_made_cell(len(real) + number, made, seed) for number, made in enumerate(_MADE)]
    return tuple(sorted((*real, *made, _not_traced_cell(len(real) + len(made))), key=lambda cell: cell.specimen_id))


# ------------------------------------------------------------------------------------------------------------------------ real ones


def _real_cell(number: int, facts: _Real, seed: int) -> DemoCell:
    swc = _bmtk_file(facts.file)
    skeleton = parse_swc(swc, facts.file)
    x, y, z, depth = facts.csl_xyz_depth
    row = _row(facts.specimen_id, facts.name, facts.line, facts.layer, facts.structure_id, facts.dendrite_type, facts.apical) | {
        "specimen__hemisphere": facts.hemisphere,
        "donor__id": facts.donor_id,
        "donor__name": facts.donor_name,
        "csl__x": x,
        "csl__y": y,
        "csl__z": z,
        "csl__normalized_depth": depth,
    }
    cell_seed = 100 * seed + number
    extent = _extent(skeleton)
    others = ((untraced_axon(skeleton, cell_seed, extent, 900.0), 1.0),)
    return _traced(number, row, skeleton, swc, facts.reconstruction_id, _phantom(skeleton, cell_seed, others), "dendrite-only")


def _bmtk_file(name: str) -> bytes:
    try:
        path = distribution("bmtk").locate_file(f"{_BMTK_FOLDER}/{name}")
        with open(str(path), "rb") as file:
            return file.read()
    except (PackageNotFoundError, OSError) as error:
        raise SourceError(f"the demo's real skeletons come with the package bmtk, which lacks {name}: pip install 'bmtk>=1.2'") from error


# ------------------------------------------------------------------------------------------------------------------- generated ones


def _made_cell(number: int, made: _Made, seed: int) -> DemoCell:
    cell_seed = 100 * seed + number
    stained = grow(_seeded(made.plan, cell_seed))
    others = () if made.is_full else ((untraced_axon(stained, cell_seed, made.plan.extent_zyx_um, 700.0), 1.0),)
    if made.neighbour:
        others = (*others, (_neighbour(made.plan, cell_seed), 0.2))
    phantom = _phantom(stained, cell_seed, others, band=made.band, faults=made.faults)
    given = shifted(stained, PLANTED_SHIFT_ZYX_UM) if made.specimen_id == MISREGISTERED_ID else stained
    swc = swc_file(given, first_id=made.first_id, newline=made.newline, children_first=made.children_first)
    apical = "intact" if made.plan.apical else "NA"
    name = f"Synthetic-{made.line or 'human'};{made.donor_id - 900_100_000}.{number:02d}"
    row = _row(made.specimen_id, name, made.line, made.layer, _STRUCTURES[made.layer], made.dendrite_type, apical) | {
        "donor__id": made.donor_id,
        "donor__name": f"Synthetic-{made.donor_id}",
    }
    if made.human:
        row |= {"donor__species": "Homo Sapiens", "cell_reporter_status": None, "donor__age": "40 yrs", "donor__sex": "Female"}
        row |= {"structure_parent__id": 12141, "structure_parent__acronym": "MTG", "structure__name": "middle temporal gyrus"}
    kind = "full" if made.is_full else "dendrite-only"
    marker = _markers(given, phantom) if made.specimen_id == MARKER_ID else None
    stack = None if made.specimen_id == WITHOUT_STACK_ID else phantom
    return _traced(number, row, given, swc, _RECONSTRUCTIONS + number, stack, kind, marker)


def _seeded(plan: ArborPlan, cell_seed: int) -> ArborPlan:
    return ArborPlan(cell_seed, plan.extent_zyx_um, plan.n_basal, plan.apical, plan.reach_um, plan.axon_um, plan.n_fragments)


def _neighbour(plan: ArborPlan, cell_seed: int) -> Skeleton:
    """A faint second neuron whose soma lies at the side of the canvas."""
    other = grow(ArborPlan(cell_seed + 50_000, plan.extent_zyx_um, 4, reach_um=60.0))
    z, y, x = plan.extent_zyx_um
    position = other.position_zyx_um + np.array([0.1 * z, 0.25 * y, 0.3 * x])
    return other.moved_to(np.round(position, 4))


def _markers(skeleton: Skeleton, phantom: Phantom) -> bytes:
    """The three dendrite tips nearest to a face of the slice are cut, the axon's end is untraced, the soma's mark gives the surface."""
    tips = [i for i in skeleton.tips.tolist() if skeleton.type[i] != Label.AXON]
    depth = skeleton.position_zyx_um[:, 0]
    middle = phantom.n_planes * PLANE_UM / 2
    tips.sort(key=lambda i: (-abs(float(depth[i]) - middle), i))
    soma = 0 if skeleton.soma is None else skeleton.soma
    surface = (0.0, *skeleton.position_zyx_um[soma, 1:].tolist())
    return marker_bytes(
        [
            *((int(MarkerKind.CUT_DENDRITE), _position(skeleton, i)) for i in tips[:3]),
            (int(MarkerKind.UNTRACED_AXON), _position(skeleton, axon_end(skeleton))),
            (int(MarkerKind.SOMA_SURFACE), surface),
        ]
    )


def _position(skeleton: Skeleton, node: int) -> Triple:
    z, y, x = skeleton.position_zyx_um[node].tolist()
    return (z, y, x)


def _not_traced_cell(number: int) -> DemoCell:
    """A cell that was recorded and never reconstructed: most of the database."""
    row = _row(_NOT_TRACED_ID, "Synthetic-not-reconstructed", "Sst-IRES-Cre", "4", 721, "aspiny", "NA")
    donor = {"donor__id": _NOT_TRACED_DONOR, "donor__name": f"Synthetic-{_NOT_TRACED_DONOR}"}
    return DemoCell(number, _NOT_TRACED_ID, row | donor | {"nr__reconstruction_type": None, "nrwkf__id": None})


# --------------------------------------------------------------------------------------------------------------------------- shared


def _phantom(
    skeleton: Skeleton, cell_seed: int, others: tuple[tuple[Skeleton, float], ...], band: Band | None = None, faults: Faults | None = None
) -> Phantom:
    n_planes, height_px, width_px = canvas(skeleton)
    return Phantom(
        skeleton, n_planes, height_px, width_px, cell_seed, others, optics=Optics.drawn(cell_seed), band=band, faults=faults or Faults()
    )


def _extent(skeleton: Skeleton) -> Triple:
    n_planes, height_px, width_px = canvas(skeleton)
    return (n_planes * PLANE_UM, height_px * PIXEL_UM, width_px * PIXEL_UM)


def _row(specimen_id: int, name: str, line: str, layer: str, structure_id: int, dendrite_type: str, apical: str) -> Row:
    return {
        "specimen__id": specimen_id,
        "specimen__name": name,
        "specimen__hemisphere": "left",
        "structure__id": structure_id,
        "structure__name": f"Primary visual area, layer {layer}",
        "structure__acronym": f"VISp{layer}",
        "structure__layer": layer,
        "structure_parent__id": 385,
        "structure_parent__acronym": "VISp",
        "line_name": line,
        "cell_reporter_status": "positive",
        "donor__species": "Mus musculus",
        "donor__sex": None,
        "donor__age": None,
        "donor__disease_state": None,
        "tag__dendrite_type": dendrite_type,
        "tag__apical": apical,
        "csl__x": None,
        "csl__y": None,
        "csl__z": None,
        "csl__normalized_depth": None,
    }


def _traced(
    number: int,
    row: Row,
    skeleton: Skeleton,
    swc: bytes,
    reconstruction_id: int,
    phantom: Phantom | None,
    kind: str,
    marker: bytes | None = None,
) -> DemoCell:
    """A reconstructed cell: what the database says about the tracing is computed from the SWC that the demo serves."""
    low, high = skeleton.bounding_box_um
    specimen_id = int(str(row["specimen__id"]))
    reconstruction = {
        "id": reconstruction_id,
        "specimen_id": specimen_id,
        "number_nodes": len(skeleton),
        "number_stems": skeleton.n_stems,
        "total_length": round(sum(skeleton.path_length_um().values()), 4),
        "overall_width": round(high[2] - low[2], 4),
        "overall_height": round(high[1] - low[1], 4),
        "overall_depth": round(high[0] - low[0], 4),
        "scale_factor_x": PIXEL_UM,
        "scale_factor_y": PIXEL_UM,
        "scale_factor_z": PLANE_UM,
        "neuron_reconstruction_type": kind,
        "superseded": False,
    }
    cell = DemoCell(number, specimen_id, row, reconstruction, swc, marker, phantom)
    traced = {
        "nr__reconstruction_type": kind,
        "nrwkf__id": cell.swc_file_id,
        "nr__number_stems": skeleton.n_stems,
        "nr__number_bifurcations": skeleton.n_bifurcations,
        "nr__max_euclidean_distance": round(skeleton.max_euclidean_distance_um, 6),
        "si__width": None if phantom is None else phantom.width_px,
        "si__height": None if phantom is None else phantom.height_px,
    }
    return DemoCell(number, specimen_id, row | traced, reconstruction, swc, marker, phantom)
