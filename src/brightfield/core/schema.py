"""The contracts of the tables: columns with dtype, unit and description; and the terms that the data is under.

Nothing else in the project spells these. `tables.py` reads and writes the tables; the reference page of the docs is generated from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from brightfield.core.codes import LABEL_NAMES, Reason
from brightfield.core.layout import DATA_DIR

# --------------------------------------------------------------------------------------------------------------------- terms

LICENSE_NAME = "Allen Institute Terms of Use (non-commercial research, citation mandatory)"
LICENSE_URL = "https://alleninstitute.org/terms-of-use/"
CITATION = (
    "(c) Allen Institute for Brain Science. Allen Cell Types Database. celltypes.brain-map.org; "
    "Gouwens et al. 2019, doi:10.1038/s41593-019-0417-0 (mouse); Berg et al. 2021, doi:10.1038/s41586-021-03813-8 (human)"
)

# ------------------------------------------------------------------------------------------------------------------- tables

_INT, _SMALL, _FLOAT, _TEXT, _BOOL = pa.int64(), pa.int32(), pa.float64(), pa.string(), pa.bool_()


@dataclass(frozen=True, slots=True)
class Column:
    """One column: name, Arrow type, unit ("" where it has none) and what it says."""

    name: str
    type: pa.DataType
    unit: str
    description: str
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """One parquet file: where it lies, which columns, and the key that orders its rows (and is unique)."""

    name: str
    path: Path
    description: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(column.name for column in self.columns)

    @property
    def arrow_schema(self) -> pa.Schema:
        """The Arrow schema, with unit and description in each field's metadata."""
        fields = [pa.field(c.name, c.type, c.nullable, metadata={"unit": c.unit, "description": c.description}) for c in self.columns]
        return pa.schema(fields, metadata={"table": self.name, "description": self.description})


_SPECIMEN = Column("specimen_id", _INT, "", "Allen specimen id (or the number of a cell of your own): names the cell everywhere")

CELLS = Table(
    "cells",
    DATA_DIR / "cells.parquet",
    "Every cell that the source knows, selected or not.",
    ("specimen_id",),
    (
        _SPECIMEN,
        Column("name", _TEXT, "", "Specimen name as the source gives it"),
        Column("donor_id", _INT, "", "Animal (or patient) the cell was taken from: the unit of leakage"),
        Column("group", _TEXT, "", "What must stay on one side with it, beside its donor, as the owner says", nullable=True),
        Column("species", _TEXT, "", "Mus musculus or Homo Sapiens, as the source spells it"),
        Column("line", _TEXT, "", "Transgenic driver line", nullable=True),
        Column("reporter", _TEXT, "", "Reporter status", nullable=True),
        Column("structure", _TEXT, "", "Acronym of the parent brain structure", nullable=True),
        Column("layer", _TEXT, "", "Cortical layer, as text (2/3, 6a)", nullable=True),
        Column("hemisphere", _TEXT, "", "left or right", nullable=True),
        Column("dendrite_type", _TEXT, "", "spiny, aspiny or sparsely spiny", nullable=True),
        Column("apical", _TEXT, "", "State of the apical dendrite", nullable=True),
        Column("normalized_depth", _FLOAT, "1", "Depth of the soma between pia (0) and white matter (1)", nullable=True),
        Column("soma_x_um", _FLOAT, "um", "Soma in the common coordinate framework, x", nullable=True),
        Column("soma_y_um", _FLOAT, "um", "Soma in the common coordinate framework, y", nullable=True),
        Column("soma_z_um", _FLOAT, "um", "Soma in the common coordinate framework, z", nullable=True),
        Column("reconstruction_id", _INT, "", "The reconstruction that was chosen (not superseded)", nullable=True),
        Column("reconstruction_type", _TEXT, "", "full or dendrite-only", nullable=True),
        Column("swc_file_id", _INT, "", "Well-known file of the SWC", nullable=True),
        Column("swc_url", _TEXT, "", "Where the SWC is fetched from, relative to the source's base URL", nullable=True),
        Column("marker_file_id", _INT, "", "Well-known file of the markers", nullable=True),
        Column("marker_url", _TEXT, "", "Where the markers are fetched from, relative to the source's base URL", nullable=True),
        Column("image_series_id", _INT, "", "The data set that holds the z-stack", nullable=True),
        Column("projection_id", _INT, "", "SubImage of the minimum projection along z", nullable=True),
        Column("n_planes", _SMALL, "planes", "Planes of the stack, first to last section, gaps included", nullable=True),
        Column("n_planes_missing", _SMALL, "planes", "Planes within the stack that are absent or failed", nullable=True),
        Column("width_px", _SMALL, "px", "Width of the full-resolution stack", nullable=True),
        Column("height_px", _SMALL, "px", "Height of the full-resolution stack", nullable=True),
        Column("pixel_um", _FLOAT, "um", "Pixel size of the full-resolution stack", nullable=True),
        Column("plane_um", _FLOAT, "um", "Spacing of the planes", nullable=True),
        Column("bits", _SMALL, "bit", "Bits per pixel of the source", nullable=True),
        Column("bytes_full_est", _INT, "bytes", "The whole stack at full resolution, uncompressed (8 bit)", nullable=True),
        Column(
            "bytes_planned_est", _INT, "bytes", "The pixels that the configuration asks for, uncompressed, before tiling", nullable=True
        ),
        Column("selected", _BOOL, "", "Whether the dataset takes this cell"),
        Column("reason", _TEXT, "", "Why the cell is not taken; null where it is", nullable=True),
    ),
)

PLANES = Table(
    "planes",
    DATA_DIR / "planes.parquet",
    "The z planes of every selected cell; a gap in the sections is a missing plane, never a shift.",
    ("specimen_id", "plane"),
    (
        _SPECIMEN,
        Column("plane", _SMALL, "planes", "Index in the stack: section number minus the smallest one"),
        Column("sub_image_id", _INT, "", "SubImage id of the plane; null where the plane is missing", nullable=True),
        Column("section_number", _SMALL, "", "Section number as the source gives it"),
        Column("usable", _BOOL, "", "Whether pixels can be had"),
        Column("reason", _TEXT, "", "Why not; null where they can", nullable=True),
    ),
)

TILES = Table(
    "tiles",
    DATA_DIR / "tiles.parquet",
    "The ledger of the download: every tile that was planned, in voxels of the downloaded grid, and what came.",
    ("specimen_id", "z", "y0", "x0"),
    (
        _SPECIMEN,
        Column("z", _SMALL, "voxels", "Plane of the downloaded grid"),
        Column("y0", _SMALL, "voxels", "First row"),
        Column("y1", _SMALL, "voxels", "Row after the last"),
        Column("x0", _SMALL, "voxels", "First column"),
        Column("x1", _SMALL, "voxels", "Column after the last"),
        Column("kind", _TEXT, "", "skeleton, background, box or full: why the tile was planned"),
        Column("state", _TEXT, "", "ok, or missing where pixels could not be had"),
        Column("bytes", _INT, "bytes", "Uncompressed size of the tile"),
        Column("sha256", _TEXT, "", "Hash of the decoded pixels, row by row; null where missing", nullable=True),
        Column("reason", _TEXT, "", "Why the tile is missing; null where it came", nullable=True),
    ),
)

ALIGNMENT = Table(
    "alignment",
    DATA_DIR / "alignment.parquet",
    "Is the skeleton on its stain? One row per unbranched stretch of every cell.",
    ("specimen_id", "stretch"),
    (
        _SPECIMEN,
        Column("stretch", _SMALL, "", "Number of the stretch within the cell, in node order"),
        Column("label", _SMALL, "", "Label code of the stretch (soma, axon, basal, apical)"),
        Column("length_um", _FLOAT, "um", "Path length of the stretch"),
        Column("n_samples", _SMALL, "", "Samples along the stretch that lie in downloaded pixels"),
        Column("d_prime", _FLOAT, "1", "(mean absorbance inside - mean in the ring) / noise of the ring", nullable=True),
        Column("shift_um", _FLOAT, "um", "Sideways shift of the strongest stain", nullable=True),
        Column("shift_z_um", _FLOAT, "um", "Axial shift of the strongest stain", nullable=True),
        Column("coverage", _FLOAT, "1", "Share of samples that are individually darker than their ring", nullable=True),
        Column("p_value", _FLOAT, "1", "Share of random placements nearby that are as dark as this path or darker", nullable=True),
        Column("verdict", _TEXT, "", "ON, ALONGSIDE, NOT ON, UNCERTAIN or NO DATA"),
    ),
)

ALIGNMENT_CELLS = Table(
    "alignment_cells",
    DATA_DIR / "alignment_cells.parquet",
    "Alignment per cell: contrast, the global transform test, the grade.",
    ("specimen_id",),
    (
        _SPECIMEN,
        Column("d_prime", _FLOAT, "1", "Contrast of the whole arbor at the given position", nullable=True),
        Column("d_prime_dendrite", _FLOAT, "1", "The same for dendrites", nullable=True),
        Column("d_prime_axon", _FLOAT, "1", "The same for the axon", nullable=True),
        Column("best_transform", _TEXT, "", "identity, or the flip, z scale or shift that fits better"),
        Column(
            "identity_score",
            _FLOAT,
            "1",
            "How well the given frame fits: darkness in the tube above beside it, in sd of the ring",
            nullable=True,
        ),
        Column("best_score", _FLOAT, "1", "The same for the best transform", nullable=True),
        Column("shift_y_um", _FLOAT, "um", "Rigid shift in y that fits best", nullable=True),
        Column("shift_x_um", _FLOAT, "um", "Rigid shift in x that fits best", nullable=True),
        Column("shift_z_um", _FLOAT, "um", "Rigid shift in z that fits best", nullable=True),
        Column("share_on", _FLOAT, "1", "Share of path length with verdict ON", nullable=True),
        Column("share_on_dendrite", _FLOAT, "1", "The same for dendrites", nullable=True),
        Column("share_on_axon", _FLOAT, "1", "The same for the axon", nullable=True),
        Column("grade", _TEXT, "", "A, B, C or rejected"),
        Column("grade_dendrite", _TEXT, "", "The same for dendrites; null without any", nullable=True),
        Column("grade_axon", _TEXT, "", "The same for the axon; null without any", nullable=True),
        Column("reason", _TEXT, "", "Why the cell is rejected; null where it is not", nullable=True),
    ),
)

NODES = Table(
    "nodes",
    DATA_DIR / "nodes.parquet",
    "Every skeleton node, for evaluators: where it is, how it ends, and whether a missed edge may be held against a tracer.",
    ("specimen_id", "node_id"),
    (
        _SPECIMEN,
        Column("node_id", _INT, "", "Node id of the SWC"),
        Column("parent_id", _INT, "", "Node id of the parent; null for a root", nullable=True),
        Column("type", _SMALL, "", "SWC type as traced"),
        Column("label", _SMALL, "", "Label code of the node and of the edge to its parent"),
        Column("tree", _SMALL, "", "Number of the tree within the cell, by the node id of its root"),
        Column("z_um", _FLOAT, "um", "Position in the frame of the stack, z"),
        Column("y_um", _FLOAT, "um", "Position in the frame of the stack, y"),
        Column("x_um", _FLOAT, "um", "Position in the frame of the stack, x"),
        Column("z_vox", _FLOAT, "voxels", "Position on the downloaded grid, z; whole numbers are voxel centres"),
        Column("y_vox", _FLOAT, "voxels", "Position on the downloaded grid, y"),
        Column("x_vox", _FLOAT, "voxels", "Position on the downloaded grid, x"),
        Column("radius_um", _FLOAT, "um", "Radius as traced; a placeholder on axons"),
        Column("r_eff_um", _FLOAT, "um", "Radius as drawn: never below labels.r_min_um"),
        Column("tip", _TEXT, "", "How a tip ends: natural, cut (slice surface) or untraced; null where it is no tip", nullable=True),
        Column("stretch", _SMALL, "", "Alignment stretch of the edge to the parent; null for a root", nullable=True),
        Column("score", _BOOL, "", "Whether recall may be scored on the edge to the parent: its stretch is ON"),
    ),
)

SPLITS = Table(
    "splits",
    DATA_DIR / "splits.parquet",
    "Which side every cell is on; cells of one group are never parted.",
    ("specimen_id",),
    (
        _SPECIMEN,
        Column("group_id", _TEXT, "", "Leakage group: connected through donor, group, image series or SWC bytes"),
        Column("split", _TEXT, "", "train, val, test or excluded"),
        Column("fold", _SMALL, "", "Cross-validation fold of train and val cells; null elsewhere", nullable=True),
        Column("reason", _TEXT, "", "Why the cell is excluded; null where it is not", nullable=True),
    ),
)


LABEL_STATS = Table(
    "labels",
    DATA_DIR / "labels.parquet",
    "What was painted: the skeleton, voxels by class and by reason, connectivity, and what a voxel without a label means.",
    ("specimen_id",),
    (
        _SPECIMEN,
        Column("label_kind", _TEXT, "", "inside, semantic, centerline or distance"),
        Column("voxels_background", _INT, "voxels", "Downloaded voxels labelled background"),
        *(Column(f"voxels_{name}", _INT, "voxels", f"Voxels labelled {name}") for name in LABEL_NAMES.values()),
        Column("voxels_unknown", _INT, "voxels", "Downloaded voxels labelled unknown"),
        *(
            Column(f"unknown_{reason.name.lower()}", _INT, "voxels", f"Voxels with the reason bit {reason.name}")
            for reason in Reason
            if reason.name
        ),
        Column(
            "ignored_share_5um",
            _FLOAT,
            "1",
            "Share of unknown voxels within 5 um of the arbor, tube voxels counted as known",
            nullable=True,
        ),
        Column("soma_iou", _FLOAT, "1", "Overlap of the soma's sphere with the dark body around it in the middle plane", nullable=True),
        Column(
            "tube_overlap",
            _FLOAT,
            "1",
            "Dice coefficient of the fitted tube with the traced one, somata left out; null where the tube is as traced",
            nullable=True,
        ),
        Column("tube_added", _INT, "voxels", "Voxels of the fitted tube that the traced one does not have", nullable=True),
        Column("tube_removed", _INT, "voxels", "Voxels of the traced tube that the fitted one does not have", nullable=True),
        Column("n_nodes", _SMALL, "nodes", "Nodes of the skeleton"),
        Column("n_trees", _SMALL, "", "Trees (roots) of the skeleton"),
        *(Column(f"path_{name}_um", _FLOAT, "um", f"Path length of class {name}") for name in LABEL_NAMES.values()),
        Column("n_components", _SMALL, "", "Connected components of the labelled voxels; n_trees at most"),
        Column("n_loops", _SMALL, "", "Loops that the labelled voxels close and the skeleton does not", nullable=True),
        Column("n_contacts", _SMALL, "", "Places where branches touch that are apart in the skeleton", nullable=True),
        *(
            Column(f"absent_{name}", _TEXT, "", f"What a voxel not labelled {name} means: absent or unknown")
            for name in LABEL_NAMES.values()
        ),
    ),
)

MANIFEST = Table(
    "manifest",
    DATA_DIR / "manifest.parquet",
    "One row per cell of the dataset: everything above joined, with paths, hashes, label statistics and terms.",
    ("specimen_id",),
    (
        *(c for c in CELLS.columns if c.name not in ("selected", "reason")),
        *(c for c in SPLITS.columns if c.name != "specimen_id"),
        Column("alignment_grade", _TEXT, "", "A, B, C or rejected", nullable=True),
        Column("alignment_d_prime", _FLOAT, "1", "Contrast of the whole arbor at the given position", nullable=True),
        Column("skeleton_path", _TEXT, "", "SWC, relative to the repository", nullable=True),
        Column("skeleton_sha256", _TEXT, "", "Hash of the SWC's bytes", nullable=True),
        Column("marker_path", _TEXT, "", "Marker file, relative to the repository", nullable=True),
        Column("marker_sha256", _TEXT, "", "Hash of the marker file's bytes", nullable=True),
        Column("image_path", _TEXT, "", "OME-Zarr of the image, relative to the repository", nullable=True),
        Column("image_sha256", _TEXT, "", "Hash of the image store: of its sorted `sha256sum` list", nullable=True),
        Column("image_bytes", _INT, "bytes", "Size of the image store on disk", nullable=True),
        Column("label_path", _TEXT, "", "OME-Zarr of the labels, relative to the repository", nullable=True),
        Column("label_sha256", _TEXT, "", "Hash of the label store: of its sorted `sha256sum` list", nullable=True),
        Column("label_bytes", _INT, "bytes", "Size of the label store on disk", nullable=True),
        Column("label_kind", _TEXT, "", "inside, semantic, centerline or distance", nullable=True),
        Column("voxels_fetched", _INT, "voxels", "Voxels that were downloaded", nullable=True),
        Column("n_tiles", _INT, "", "Tiles that were planned", nullable=True),
        Column("n_tiles_missing", _INT, "", "Tiles of them whose pixels could not be had", nullable=True),
        Column("shape_z", _SMALL, "voxels", "Planes of the downloaded grid", nullable=True),
        Column("shape_y", _SMALL, "voxels", "Rows of the downloaded grid", nullable=True),
        Column("shape_x", _SMALL, "voxels", "Columns of the downloaded grid", nullable=True),
        Column("voxel_z_um", _FLOAT, "um", "Voxel size in z", nullable=True),
        Column("voxel_y_um", _FLOAT, "um", "Voxel size in y", nullable=True),
        Column("voxel_x_um", _FLOAT, "um", "Voxel size in x", nullable=True),
        Column("n_nodes", _SMALL, "nodes", "Nodes of the skeleton", nullable=True),
        Column("n_trees", _SMALL, "", "Trees (roots) of the skeleton", nullable=True),
        Column("n_components", _SMALL, "", "Connected components of the labelled voxels", nullable=True),
        *(Column(f"path_{name}_um", _FLOAT, "um", f"Path length of class {name}", nullable=True) for name in LABEL_NAMES.values()),
        *(Column(f"voxels_{name}", _INT, "voxels", f"Voxels labelled {name}", nullable=True) for name in LABEL_NAMES.values()),
        Column("voxels_background", _INT, "voxels", "Downloaded voxels labelled background", nullable=True),
        Column("voxels_unknown", _INT, "voxels", "Downloaded voxels labelled unknown", nullable=True),
        Column(
            "ignored_share_5um",
            _FLOAT,
            "1",
            "Share of unknown voxels within 5 um of the arbor, tube voxels counted as known",
            nullable=True,
        ),
        *(
            Column(f"absent_{name}", _TEXT, "", f"What a voxel not labelled {name} means: absent or unknown", nullable=True)
            for name in LABEL_NAMES.values()
        ),
        Column("license", _TEXT, "", "Terms the cell's data is under"),
        Column("license_url", _TEXT, "", "Where the terms are"),
        Column("citation", _TEXT, "", "How to cite"),
        Column("source_url", _TEXT, "", "Base URL of the source the cell came from"),
        Column("snapshot_sha256", _TEXT, "", "Hash of the cells table: what the source answered when the dataset was defined"),
        Column("config_sha256", _TEXT, "", "Hash of the configuration that decides the data"),
        Column("code_version", _TEXT, "", "Version of brightfield that built the row"),
    ),
)

FINDINGS = Table(
    "findings",
    DATA_DIR / "findings.parquet",
    "What was noticed while reading and drawing the skeletons.",
    ("specimen_id", "number"),
    (
        _SPECIMEN,
        Column("number", _SMALL, "", "Number of the finding within the cell"),
        Column("severity", _TEXT, "", "info, warning or error"),
        Column("check", _TEXT, "", "What was looked at"),
        Column("message", _TEXT, "", "What was found"),
        Column("remedy", _TEXT, "", "What to do"),
    ),
)

PATCHES = Table(
    "patches",
    DATA_DIR / "patches.parquet",
    "Where to sample: boxes of the downloaded grid, chosen along the path and by class, never centred on unknown.",
    ("specimen_id", "patch"),
    (
        _SPECIMEN,
        Column("patch", _SMALL, "", "Number of the patch within the cell"),
        Column("kind", _TEXT, "", "dendrite, axon, soma, keypoint, hard_negative, edge or random: why this place"),
        Column("split", _TEXT, "", "train, val or test: the side of the cell"),
        Column("fold", _SMALL, "", "Cross-validation fold of the cell; null for test", nullable=True),
        Column("z0", _SMALL, "voxels", "First plane"),
        Column("z1", _SMALL, "voxels", "Plane after the last"),
        Column("y0", _SMALL, "voxels", "First row"),
        Column("y1", _SMALL, "voxels", "Row after the last"),
        Column("x0", _SMALL, "voxels", "First column"),
        Column("x1", _SMALL, "voxels", "Column after the last"),
        Column("node_id", _INT, "", "SWC node (child of the edge) that the patch was placed by; null where by none", nullable=True),
        Column("voxels_background", _INT, "voxels", "Voxels of the patch labelled background"),
        *(Column(f"voxels_{name}", _INT, "voxels", f"Voxels of the patch labelled {name}") for name in LABEL_NAMES.values()),
        Column("voxels_unknown", _INT, "voxels", "Voxels of the patch labelled unknown"),
        Column("ignored_fraction", _FLOAT, "1", "Share of the patch that is unknown or was not downloaded"),
        Column("fetched_fraction", _FLOAT, "1", "Share of the patch that was downloaded"),
        Column(
            "difficulty", _FLOAT, "1", "0: stain stands out; 1: no contrast (1 - d'/12 of its stretch); null off the arbor", nullable=True
        ),
        *(
            Column(f"absent_{name}", _TEXT, "", f"What a voxel of the patch that is not labelled {name} means: absent or unknown")
            for name in LABEL_NAMES.values()
        ),
        Column("weight", _FLOAT, "1", "Sampling weight: gives each side the mix of kinds; those of a side add up to its cells"),
    ),
)

TABLES: tuple[Table, ...] = (CELLS, PLANES, TILES, LABEL_STATS, FINDINGS, ALIGNMENT, ALIGNMENT_CELLS, NODES, SPLITS, MANIFEST, PATCHES)
