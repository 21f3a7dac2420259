"""The typed configuration: every option, its type, its range, its unit and its default."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

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


class Coverage(StrEnum):
    """Which pixels are downloaded."""

    full = "full"
    skeleton = "skeleton"
    box = "box"


class LabelKind(StrEnum):
    """What a label voxel says."""

    inside = "inside"
    semantic = "semantic"
    centerline = "centerline"
    distance = "distance"


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


@dataclass
class SourceConfig:
    """Which cells, from where."""

    kind: SourceKind = SourceKind.demo
    base_url: str = ""  # empty: the kind's own (demo: a mirror on loopback; allen: the Allen Institute)
    accept_terms: bool = False  # allen and challenge: you have read the terms and will cite
    path: str = ""  # folder, challenge: where the stacks are (a path or an fsspec URL)
    metadata: str = ""  # folder: a CSV with a row per cell
    pixel_um: Annotated[float, Field(ge=0, le=100)] = 0.0  # folder: 0 reads it from the files
    plane_um: Annotated[float, Field(ge=0, le=100)] = 0.0
    species: str = "Mus musculus"  # empty: any
    reconstruction_types: list[str] = field(default_factory=lambda: ["full", "dendrite-only"])
    require_images: bool = True
    specimen_ids: list[int] = field(default_factory=list)  # empty: all that match
    swc_origin: SwcOrigin = SwcOrigin.centre
    seed: Annotated[int, Field(ge=0)] = 7  # demo: of the generated arbors and of the rendering


@dataclass
class ImageConfig:
    """Which pixels of the stacks, at which resolution, in which chunks."""

    coverage: Coverage = Coverage.skeleton
    level: Annotated[int, Field(ge=0, le=6)] = 0  # 2^level pixels become one, in y and x
    z_step: Annotated[int, Field(ge=1, le=64)] = 1  # every z_step-th plane
    tile_px: Annotated[int, Field(ge=64, le=8192)] = 512  # full-resolution pixels
    radius_um: Annotated[float, Field(ge=0, le=1000)] = 10.0  # coverage=skeleton
    background_share: Annotated[float, Field(ge=0, lt=1)] = 0.1  # coverage=skeleton: of the skeleton tiles
    margin_um: Annotated[float, Field(ge=0, le=10000)] = 20.0  # coverage=box
    quality: Annotated[int, Field(ge=0, le=100)] = 100  # JPEG quality asked of the service
    max_gb: Annotated[float, Field(gt=0)] = 50.0  # refuse a download beyond this, uncompressed
    chunk_zyx: list[int] = field(default_factory=lambda: [32, 128, 128])
    shard_zyx: list[int] = field(default_factory=lambda: [64, 1024, 1024])


@dataclass
class LabelsConfig:
    """What is painted, and what is left unknown. Radii in um."""

    kind: LabelKind = LabelKind.semantic
    r_min_um: Annotated[float, Field(ge=0, le=10)] = 0.23
    soma_edges: SomaEdges = SomaEdges.capsule
    connect: int | None = 26  # 26, 6 or null
    distance_band_um: Annotated[float, Field(gt=0, le=20)] = 1.0
    rim_um: Annotated[float, Field(ge=0, le=10)] = 0.23
    rim_share: Annotated[float, Field(ge=0, le=2)] = 0.3  # of the radius
    rim_axial_um: Annotated[float, Field(ge=0, le=10)] = 0.84
    cut_ball_um: Annotated[float, Field(ge=0, le=100)] = 5.0
    untraced_ball_um: Annotated[float, Field(ge=0, le=200)] = 20.0
    face_planes: Annotated[int, Field(ge=0, le=100)] = 3


@dataclass
class AlignConfig:
    """Gates of the alignment check."""

    d_prime_min: float = 3.0
    max_shift_um: Annotated[float, Field(ge=0)] = 0.5
    alongside_um: Annotated[float, Field(ge=0)] = 3.0
    max_shift_z_um: Annotated[float, Field(ge=0)] = 1.0
    coverage_min: Annotated[float, Field(ge=0, le=1)] = 0.5
    stretch_um: Annotated[float, Field(gt=0)] = 30.0
    ring_um: list[float] = field(default_factory=lambda: [1.4, 1.7])


@dataclass
class SplitConfig:
    """Who is on which side."""

    strategy: SplitStrategy = SplitStrategy.donor_hash
    salt: str = "brightfield-1"
    test: Annotated[float, Field(ge=0, lt=1)] = 0.15
    val: Annotated[float, Field(ge=0, lt=1)] = 0.15
    n_folds: Annotated[int, Field(ge=2, le=50)] = 5
    fold: Annotated[int, Field(ge=0)] = 0  # kfold: the fold that is val
    hold_out_line: str = ""  # ood_line
    hold_out_species: str = ""  # species
    min_test_grade: str = "B"


@dataclass
class PatchesConfig:
    """Where to sample."""

    size_zyx: list[int] = field(default_factory=lambda: [32, 128, 128])  # voxels of the downloaded grid
    size_um: list[float] = field(default_factory=list)  # (z, y, x) um; where given it replaces size_zyx
    per_cell: Annotated[int, Field(ge=0, le=100000)] = 200
    seed: Annotated[int, Field(ge=0)] = 0
    dendrite: Annotated[float, Field(ge=0, le=1)] = 0.35
    axon: Annotated[float, Field(ge=0, le=1)] = 0.25
    soma: Annotated[float, Field(ge=0, le=1)] = 0.05
    keypoint: Annotated[float, Field(ge=0, le=1)] = 0.10
    hard_negative: Annotated[float, Field(ge=0, le=1)] = 0.15
    edge: Annotated[float, Field(ge=0, le=1)] = 0.05
    random: Annotated[float, Field(ge=0, le=1)] = 0.05


@dataclass
class DownloadConfig:
    """What may be missing."""

    allow_missing: bool = False  # a cell whose pixels cannot all be had is kept with its holes instead of failing


@dataclass
class ComputeConfig:
    """How the work is run. Nothing here may change a byte of output: no stage depends on this group."""

    scheduler: Scheduler = Scheduler.local
    workers: Annotated[int, Field(ge=0, le=4096)] = 0  # 0: the cores of this machine
    connections: Annotated[int, Field(ge=1, le=256)] = 8
    requests_per_second: Annotated[float, Field(ge=0)] = 0.0  # 0: no limit
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    retries: Annotated[int, Field(ge=0, le=100)] = 5
    retry_budget_s: Annotated[float, Field(ge=0)] = 3600.0
    work_dir: str = ".work"


@dataclass
class MetaConfig:
    """How this configuration came about; written by composition."""

    overrides: list[str] = field(default_factory=list)


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
