"""What is known of a cell beside its skeleton, what its labels say of absence, and what was counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from brightfield.config.options import LabelKind, LabelsConfig, SomaEdges
from brightfield.core.codes import FULL_AXON_UM, LABEL_NAMES, Finding, Label, MarkerKind, Reason, Severity
from brightfield.core.markers import Marker
from brightfield.core.skeleton import Skeleton
from brightfield.core.space import Grid
from brightfield.raster.cones import Cones, cones_of
from brightfield.raster.topology import Topology
from brightfield.stages.rasterize.chunks import Boxes, Tally


@dataclass(frozen=True, slots=True)
class LabelPlan:
    """What is known of one cell beside its skeleton.

    stack: the full-resolution grid of the z-stack (where its faces are, and how thick a plane is); None: the labels' grid.
    markers: in the frame of the skeleton. bad_planes: planes of the labels' grid that are missing, failed or blank.
    downloaded: voxel boxes of the labels' grid, see `downloaded_boxes`; None: all of it.
    reconstruction_type: "full", "dendrite-only" or None, as the source has it.
    """

    stack: Grid | None = None
    markers: tuple[Marker, ...] = ()
    bad_planes: tuple[int, ...] = ()
    downloaded: Boxes | None = None
    reconstruction_type: str | None = None


@dataclass(frozen=True, slots=True)
class TubeChange:
    """How the fitted tube differs from the traced one on the finest level. overlap: Dice coefficient of the two, somata left out."""

    added: int
    removed: int
    overlap: float

    def to_row(self) -> dict[str, Any]:
        """Its columns of the table of label statistics."""
        return {"tube_overlap": round(self.overlap, 4), "tube_added": self.added, "tube_removed": self.removed}


@dataclass(frozen=True, slots=True)
class LabelStats:
    """What was painted on the finest level; `to_row` names it as the table `schema.LABEL_STATS`. skeleton: its `in_tables`."""

    kind: LabelKind
    skeleton: Mapping[str, int | float]
    tally: Tally
    ignored_share_5um: float | None
    topology: Topology
    class_validity: dict[str, str]
    findings: tuple[Finding, ...]
    soma_iou: float | None = None
    tube: TubeChange | None = None

    def to_row(self, specimen_id: int) -> dict[str, Any]:
        """One row of the table of label statistics."""
        by_label, by_reason = self.tally.by_label.tolist(), self.tally.by_reason.tolist()
        reasons = {f"unknown_{reason.name.lower()}": by_reason[reason.value.bit_length() - 1] for reason in Reason if reason.name}
        return {
            "specimen_id": specimen_id,
            "label_kind": self.kind,
            "voxels_background": by_label[Label.BACKGROUND],
            **{f"voxels_{name}": by_label[label] for label, name in LABEL_NAMES.items()},
            "voxels_unknown": by_label[Label.UNKNOWN],
            **reasons,
            "ignored_share_5um": self.ignored_share_5um,
            "soma_iou": self.soma_iou,
            **dict.fromkeys(("tube_overlap", "tube_added", "tube_removed")),
            **({} if self.tube is None else self.tube.to_row()),
            **self.skeleton,
            "n_components": self.topology.n_components,
            "n_loops": self.topology.n_loops,
            "n_contacts": self.topology.n_contacts,
            **{f"absent_{name}": validity for name, validity in self.class_validity.items()},
        }


def class_validity(skeleton: Skeleton, plan: LabelPlan) -> tuple[dict[str, str], tuple[Finding, ...]]:
    """For each class whether a voxel that is not labelled so is "absent" (does not belong to it) or "unknown" (may belong to it).

    The axon is unknown unless the source calls the cell full, more than 280 um of axon are traced, and no marker says that tracing
    stopped. Without a type from the source the length decides. A type that contradicts the length is a finding.
    """
    axon_um = skeleton.path_length_um()[Label.AXON]
    is_long = axon_um > FULL_AXON_UM
    kind = plan.reconstruction_type or ("full" if is_long else "dendrite-only")
    stopped = any(marker.kind == MarkerKind.UNTRACED_AXON for marker in plan.markers)
    validity = dict.fromkeys(LABEL_NAMES.values(), "absent")
    if kind != "full" or not is_long or stopped:
        validity[LABEL_NAMES[Label.AXON]] = "unknown"
    if (kind == "full") == is_long:
        return validity, ()
    message = f"the source calls the reconstruction {kind}, but {axon_um:.0f} um of axon are traced ({FULL_AXON_UM:.0f} um part the two)"
    remedy = "the axon counts as unknown where it is not traced; check the reconstruction's type"
    return validity, (Finding(Severity.WARNING, "reconstruction-type", message, remedy=remedy),)


def cones_for(skeleton: Skeleton, rules: LabelsConfig) -> Cones:
    """The cones of a skeleton as the `labels` group wants them."""
    return cones_of(skeleton, rules.r_min_um, "taper" if rules.soma_edges == SomaEdges.taper else "capsule")


def with_rim(cones: Cones, rules: LabelsConfig) -> Cones:
    """The cones grown by the rim, which is unknown."""
    return cones.grown(np.maximum(rules.rim_um, rules.rim_share * cones.radius_um))
