"""The typed configuration: every option with its type, range, unit, default and meaning, and the rules between options.

Stages read `params.yaml` through `load`; `compose.py` makes that file from `conf/`. Both end in `validate`, so that an option is
judged by the same rule wherever it was written. Hydra refuses `Literal` and frozen dataclasses: the choices are enums, the groups plain
dataclasses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field


class SourceKind(StrEnum):
    """Where cells come from."""

    demo = "demo"
    allen = "allen"
    folder = "folder"
    challenge = "challenge"


class SwcOrigin(StrEnum):
    """What a whole SWC coordinate names on the pixel grid."""

    centre = "centre"
    corner = "corner"


class SwcUnit(StrEnum):
    """What the numbers of an SWC count."""

    um = "um"
    px = "px"
    nm = "nm"


class SwcAxes(StrEnum):
    """Which axes the three columns of an SWC's positions are."""

    xyz = "xyz"
    xzy = "xzy"
    yxz = "yxz"
    yzx = "yzx"
    zxy = "zxy"
    zyx = "zyx"


class CoverageKind(StrEnum):
    """Which pixels are downloaded."""

    full = "full"
    skeleton = "skeleton"
    box = "box"


class OnFailure(StrEnum):
    """What becomes of the dataset when a cell fails in a stage."""

    stop = "stop"
    exclude = "exclude"


class LabelKind(StrEnum):
    """What a label voxel says."""

    inside = "inside"
    semantic = "semantic"
    centerline = "centerline"
    distance = "distance"


class SomaOutline(StrEnum):
    """What is labelled soma. image needs labels.evidence."""

    sphere = "sphere"
    image = "image"


class TubeShape(StrEnum):
    """Where tubes are. fitted needs labels.evidence."""

    traced = "traced"
    fitted = "fitted"


class SomaEdges(StrEnum):
    """How the edge between the soma and its child is drawn."""

    capsule = "capsule"
    taper = "taper"


class SplitStrategy(StrEnum):
    """How cells are assigned to train, val and test."""

    donor_hash = "donor_hash"
    kfold = "kfold"
    stratified = "stratified"
    challenge = "challenge"
    ood_line = "ood_line"
    species = "species"


class Scheduler(StrEnum):
    """What maps the work over cells."""

    local = "local"
    dask = "dask"
    slurm = "slurm"


def _doc(text: str) -> Any:
    return Field(description=text)


MAX_ID = 2**63 - 1
"""Largest specimen id: what a column of the tables holds."""

_Fraction = Annotated[float, Field(ge=0, lt=1)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Size = Annotated[float, Field(ge=0, le=100)]
_Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
_Id = Annotated[int, Field(ge=1, le=MAX_ID)]
_Edge = Annotated[int, Field(ge=1, le=65536)]
_PLAIN = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$"  # no control signs, ends of lines, or changes of direction
_LongText = Annotated[str, Field(max_length=4000, pattern=_PLAIN)]
_Text = Annotated[str, Field(max_length=1000, pattern=_PLAIN)]
_Box = Field(min_length=3, max_length=3)
_Several = Field(max_length=20000)


@dataclass
class SourceConfig:
    """Which cells, from where."""

    kind: Annotated[SourceKind, _doc("Where cells come from")] = SourceKind.demo
    base_url: Annotated[
        _Text, _doc("allen: address of the service; demo: of a mirror that runs already, empty: one is started on loopback")
    ] = ""
    accept_terms: Annotated[bool, _doc("allen, challenge: you have read the terms of use and will cite")] = False
    path: Annotated[_Text, _doc("folder, challenge: where the stacks are, a path or an fsspec URL")] = ""
    metadata: Annotated[_Text, _doc("folder: a CSV with a row per cell")] = ""
    pixel_um: Annotated[_Size, _doc("folder: pixel size in um; 0 reads it from the files")] = 0.0
    plane_um: Annotated[_Size, _doc("folder: plane spacing in um; 0 reads it from the files")] = 0.0
    channel: Annotated[
        int | None, Field(ge=0, le=1000), _doc("folder: the channel to read of several, counted from 0; null: there is one")
    ] = None
    time: Annotated[
        int | None, Field(ge=0, le=1000000), _doc("folder: the time point to read of several, counted from 0; null: there is one")
    ] = None
    swc_unit: Annotated[SwcUnit, _doc("folder: what the numbers of the SWC files count; px: pixels, and planes along z")] = SwcUnit.um
    swc_axes: Annotated[SwcAxes, _doc("folder: which axes the third to fifth column of the SWC files are")] = SwcAxes.xyz
    license: Annotated[_Text, _doc("folder: the terms your data is under, a name or an SPDX identifier")] = ""
    citation: Annotated[_LongText, _doc("folder: how to cite your data")] = ""
    species: Annotated[_Text, _doc("Only cells of this species; empty: any")] = "Mus musculus"
    reconstruction_types: Annotated[list[_Text], _Several, _doc("Only these types of reconstruction: full, dendrite-only")] = field(
        default_factory=lambda: ["full", "dendrite-only"]
    )
    require_images: Annotated[bool, _doc("Only cells whose image stack exists")] = True
    specimen_ids: Annotated[list[_Id], _Several, _doc("Only these cells; empty: all that match")] = field(default_factory=list)
    exclude_ids: Annotated[list[_Id], _Several, _doc("Never these cells")] = field(default_factory=list)
    swc_origin: Annotated[SwcOrigin, _doc("What a whole SWC coordinate names on the pixel grid")] = SwcOrigin.centre
    seed: Annotated[_Seed, _doc("demo: seed of the generated arbors and of the rendering")] = 7


@dataclass
class ImageConfig:
    """Which pixels of the stacks, at which resolution, in which chunks."""

    coverage: Annotated[CoverageKind, _doc("Which pixels are downloaded")] = CoverageKind.skeleton
    level: Annotated[int, Field(ge=0, le=6), _doc("2^level pixels become one, in y and x")] = 0
    z_step: Annotated[int, Field(ge=1, le=64), _doc("Every z_step-th plane")] = 1
    tile_px: Annotated[int, Field(ge=0, le=8192), _doc("Side of a tile in downloaded pixels; 0: as suits level and coverage")] = 0
    radius_um: Annotated[float, Field(ge=0, le=1000), _doc("coverage=skeleton: tiles within this of the skeleton, um")] = 10.0
    background_share: Annotated[_Fraction, _doc("coverage=skeleton: background tiles, as a share of the skeleton tiles")] = 0.1
    margin_um: Annotated[float, Field(ge=0, le=10000), _doc("coverage=box: margin around the skeleton, um")] = 20.0
    quality: Annotated[int, Field(ge=0, le=100), _doc("JPEG quality asked of the service")] = 100
    max_gb: Annotated[float, Field(gt=0, le=1e6), _doc("Refuse a download beyond this, uncompressed GB")] = 50.0
    chunk_zyx: Annotated[list[_Edge], _Box, _doc("Inner chunk of the volumes, voxels")] = field(default_factory=lambda: [32, 128, 128])
    shard_zyx: Annotated[list[_Edge], _Box, _doc("Shard (one file) of the volumes, voxels")] = field(
        default_factory=lambda: [64, 1024, 1024]
    )


SMALLEST_TILE = 8
"""Of a tile's side that is given."""


def tile_of(image: ImageConfig) -> int:
    """Side of a tile in downloaded pixels: `image.tile_px`, or where that is 0 what suits and fits whole into a shard."""
    return image.tile_px or math.gcd(suited_tile(image), *image.shard_zyx[1:])


def suited_tile(image: ImageConfig) -> int:
    """The side of a tile that suits, in downloaded pixels.

    That is 512 pixels of full resolution, but at least 64 downloaded ones, as less costs a request all the same; 512 downloaded ones where
    all pixels come anyway.
    """
    return 512 if image.coverage is CoverageKind.full else max(64, 512 >> image.level)


@dataclass
class DownloadConfig:
    """What may be missing."""

    allow_missing: Annotated[bool, _doc("Keep a cell whose pixels cannot all be had, with its holes, instead of failing")] = False
    on_failure: Annotated[
        OnFailure, _doc("In every stage: stop when a cell fails, or exclude it, with its reason, and go on without it")
    ] = OnFailure.stop


@dataclass
class LabelsConfig:
    """What is painted, and what is left unknown."""

    kind: Annotated[LabelKind, _doc("What a label voxel says")] = LabelKind.semantic
    r_min_um: Annotated[float, Field(ge=0, le=10), _doc("Smallest radius painted, um")] = 0.23
    soma_edges: Annotated[SomaEdges, _doc("How the edge between the soma and its child is drawn")] = SomaEdges.capsule
    connect: Annotated[int | None, _doc("Join each tree by lines so connected: 26, 6, or null for the bare tubes")] = 26
    distance_band_um: Annotated[float, Field(gt=0, le=20), _doc("kind=distance: distances are clipped here, um")] = 1.0
    rim_um: Annotated[float, Field(ge=0, le=10), _doc("Unknown shell around the tube, at least, um")] = 0.23
    rim_share: Annotated[float, Field(ge=0, le=2), _doc("Unknown shell around the tube, as a share of its radius")] = 0.3
    rim_axial_um: Annotated[float, Field(ge=0, le=10), _doc("Unknown shell above and below the tube, um")] = 0.84
    cut_ball_um: Annotated[float, Field(ge=0, le=100), _doc("Unknown ball around a cut dendrite, um")] = 5.0
    untraced_ball_um: Annotated[float, Field(ge=0, le=200), _doc("Unknown ball where the axon is not traced further, um")] = 20.0
    face_planes: Annotated[int, Field(ge=0, le=100), _doc("Unknown planes at either face of the stack")] = 3
    soma: Annotated[SomaOutline, _doc("What is labelled soma: the traced sphere, or the dark body of the image")] = SomaOutline.sphere
    tube: Annotated[TubeShape, _doc("Where tubes are: as traced, or moved to the ridge of stain beside the trace")] = TubeShape.traced
    evidence: Annotated[bool, _doc("Look at the image: unknown are untraced stain, misregistered stretches and bad planes")] = False


@dataclass
class AlignConfig:
    """Gates of the alignment check."""

    d_prime_min: Annotated[float, Field(ge=0, le=1000), _doc("Least contrast between tube and ring")] = 3.0
    max_shift_um: Annotated[_Size, _doc("Largest sideways shift of a stretch that is ON, um")] = 0.5
    alongside_um: Annotated[_Size, _doc("Largest sideways shift of a stretch that is ALONGSIDE, um")] = 3.0
    max_shift_z_um: Annotated[_Size, _doc("Largest axial shift, um")] = 1.0
    coverage_min: Annotated[_Share, _doc("Least share of samples that are darker than their ring")] = 0.5
    stretch_um: Annotated[float, Field(ge=1, le=10000), _doc("Length of a stretch, um")] = 15.0
    snap: Annotated[bool, _doc("Draw labels at the measured shift of each cell (y and x); the SWC and its nodes stay")] = False
    ring_um: Annotated[
        list[_Size],
        Field(min_length=2, max_length=2),
        _doc("Inner and outer radius of the ring, um; farther out where that is within 1.5 voxels"),
    ] = field(default_factory=lambda: [1.4, 1.7])


@dataclass
class SplitConfig:
    """Who is on which side."""

    strategy: Annotated[SplitStrategy, _doc("How cells are assigned to train, val and test")] = SplitStrategy.donor_hash
    salt: Annotated[_Text, _doc("donor_hash: frozen text hashed with each group; another salt moves cells")] = "brightfield-439978"
    val_salt: Annotated[_Text, _doc("donor_hash: the same for val, among what is not test; empty: val by the hash of test")] = (
        "brightfield-10911764"
    )
    test: Annotated[_Fraction, _doc("Share of test")] = 0.15
    val: Annotated[_Fraction, _doc("Share of val")] = 0.15
    n_folds: Annotated[int, Field(ge=2, le=50), _doc("Cross-validation folds over train and val")] = 5
    fold: Annotated[int, Field(ge=0, le=49), _doc("kfold: the fold that is val")] = 0
    hold_out_line: Annotated[_Text, _doc("ood_line: the transgenic line that is test")] = ""
    hold_out_species: Annotated[_Text, _doc("species: the species that is test")] = ""
    min_test_grade: Annotated[_Text, _doc("Worst alignment grade of a test cell: A or B")] = "B"
    follow: Annotated[
        list[Annotated[str, Field(pattern=r"^ *[0-9]{1,19} *: *[0-9]{1,19} *$")]],
        _Several,
        _doc("Pairs donor:leader: the donor takes the leader's side, where a shared file joins them"),
    ] = field(default_factory=list)


@dataclass
class PatchesConfig:
    """Where to sample: the shares of the mix sum to 1 at most."""

    size_zyx: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], _Box, _doc("Patch, voxels of the downloaded grid")] = field(
        default_factory=lambda: [32, 128, 128]
    )
    size_um: Annotated[
        list[Annotated[float, Field(ge=0.01, le=10000)]],
        Field(max_length=3),
        _doc("Patch (z, y, x) in um; where given it replaces size_zyx"),
    ] = field(default_factory=list)
    per_cell: Annotated[int, Field(ge=0, le=100000), _doc("Patches of a cell")] = 200
    seed: Annotated[_Seed, _doc("Seed of the draw")] = 0
    min_fetched: Annotated[_Share, _doc("Least share of a patch that was downloaded; 1: never outside of it")] = 0.85
    dendrite: Annotated[_Share, _doc("Share centred on dendrites, by path length")] = 0.35
    axon: Annotated[_Share, _doc("Share centred on axon, by path length")] = 0.25
    soma: Annotated[_Share, _doc("Share centred on the soma")] = 0.05
    keypoint: Annotated[_Share, _doc("Share centred on tips and branch points")] = 0.10
    hard_negative: Annotated[_Share, _doc("Share centred on dark, untraced, trusted background")] = 0.15
    edge: Annotated[_Share, _doc("Share on pia, edges and blanks")] = 0.05
    random: Annotated[_Share, _doc("Share anywhere")] = 0.05


DEFAULT_WORKERS, DEFAULT_MEMORY_GB = 4, 8
"""Of a Slurm cluster where the configuration names none."""


@dataclass
class ComputeConfig:
    """How the work is run. Nothing here may change a byte of output: no stage depends on this group."""

    scheduler: Annotated[Scheduler, _doc("What maps the work over cells")] = Scheduler.local
    workers: Annotated[int, Field(ge=0, le=4096), _doc("Workers; 0: the cores of this machine; 1: in this process")] = 0
    memory_gb: Annotated[float, Field(ge=0, le=100000), _doc("slurm: memory of a worker, GB; 0: 8")] = 0.0
    address: Annotated[_Text, _doc("dask: address of a running scheduler; empty: a cluster on this machine")] = ""
    partition: Annotated[_Text, _doc("slurm: partition; empty: the default one")] = ""
    account: Annotated[_Text, _doc("slurm: account to charge; empty: yours")] = ""
    walltime: Annotated[
        str,
        Field(pattern=r"^([0-9]{1,3}-)?[0-9]{1,5}(:[0-9]{2}){0,2}$"),
        _doc("slurm: time limit of a worker, such as 04:00:00 or 2-00:00:00"),
    ] = "04:00:00"
    prologue: Annotated[list[_Text], Field(max_length=100), _doc("slurm: shell lines before a worker starts (modules, environment)")] = (
        field(default_factory=list)
    )
    connections: Annotated[int, Field(ge=1, le=256), _doc("Connections to the source, over all workers")] = 8
    requests_per_second: Annotated[float, Field(ge=0, le=100000), _doc("Limit of requests to the source, over all workers; 0: none")] = 0.0
    timeout_s: Annotated[float, Field(ge=0.1, le=86400), _doc("Give up an answer after this, s")] = 60.0
    retries: Annotated[int, Field(ge=0, le=100), _doc("Further attempts at a request or a cell that failed")] = 5
    retry_budget_s: Annotated[float, Field(ge=0, le=1e7), _doc("Time spent on further attempts in a run, s")] = 3600.0
    work_dir: Annotated[_Text, _doc("Where finished cells are kept between runs; relative to the DVC cache's parent")] = ".work"


@dataclass
class MetaConfig:
    """How this configuration came about; written by composition."""

    overrides: Annotated[
        list[Annotated[str, Field(max_length=500000)]], Field(max_length=1000), _doc("What differs from the committed defaults")
    ] = field(default_factory=list)


@dataclass
class Config:
    """The whole configuration, one group per concern."""

    source: SourceConfig = field(default_factory=SourceConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    download: DownloadConfig = field(default_factory=DownloadConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    patches: PatchesConfig = field(default_factory=PatchesConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    meta: MetaConfig = field(default_factory=MetaConfig)
