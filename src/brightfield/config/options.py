"""The typed configuration: every option with its type, range, unit, default and meaning, and the rules between options.

Stages read `params.yaml` through `load`; `compose.py` makes that file from `conf/`. Both end in `validate`, so that an option is
judged by the same rule wherever it was written. Hydra refuses `Literal` and frozen dataclasses: the choices are enums, the groups plain
dataclasses.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import Enum, StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from brightfield.core.errors import ConfigError
from brightfield.core.schema import LICENSE_URL
from brightfield.core.urls import public_url


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


def _doc(text: str) -> Any:
    return Field(description=text)


_Fraction = Annotated[float, Field(ge=0, lt=1)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Size = Annotated[float, Field(ge=0, le=100)]
_Positive = Annotated[int, Field(ge=1)]


@dataclass
class SourceConfig:
    """Which cells, from where."""

    kind: Annotated[SourceKind, _doc("Where cells come from")] = SourceKind.demo
    base_url: Annotated[
        str, _doc("allen: address of the service; demo: of a mirror that runs already, empty: one is started on loopback")
    ] = ""
    accept_terms: Annotated[bool, _doc("allen, challenge: you have read the terms of use and will cite")] = False
    path: Annotated[str, _doc("folder, challenge: where the stacks are, a path or an fsspec URL")] = ""
    metadata: Annotated[str, _doc("folder: a CSV with a row per cell")] = ""
    pixel_um: Annotated[_Size, _doc("folder: pixel size in um; 0 reads it from the files")] = 0.0
    plane_um: Annotated[_Size, _doc("folder: plane spacing in um; 0 reads it from the files")] = 0.0
    license: Annotated[str, _doc("folder: the terms your data is under, a name or an SPDX identifier")] = ""
    citation: Annotated[str, _doc("folder: how to cite your data")] = ""
    species: Annotated[str, _doc("Only cells of this species; empty: any")] = "Mus musculus"
    reconstruction_types: Annotated[list[str], _doc("Only these types of reconstruction: full, dendrite-only")] = field(
        default_factory=lambda: ["full", "dendrite-only"]
    )
    require_images: Annotated[bool, _doc("Only cells whose image stack exists")] = True
    specimen_ids: Annotated[list[int], _doc("Only these cells; empty: all that match")] = field(default_factory=list)
    swc_origin: Annotated[SwcOrigin, _doc("What a whole SWC coordinate names on the pixel grid")] = SwcOrigin.centre
    seed: Annotated[int, Field(ge=0), _doc("demo: seed of the generated arbors and of the rendering")] = 7


@dataclass
class ImageConfig:
    """Which pixels of the stacks, at which resolution, in which chunks."""

    coverage: Annotated[Coverage, _doc("Which pixels are downloaded")] = Coverage.skeleton
    level: Annotated[int, Field(ge=0, le=6), _doc("2^level pixels become one, in y and x")] = 0
    z_step: Annotated[int, Field(ge=1, le=64), _doc("Every z_step-th plane")] = 1
    tile_px: Annotated[int, Field(ge=64, le=8192), _doc("Side of a tile in full-resolution pixels")] = 512
    radius_um: Annotated[float, Field(ge=0, le=1000), _doc("coverage=skeleton: tiles within this of the skeleton, um")] = 10.0
    background_share: Annotated[_Fraction, _doc("coverage=skeleton: background tiles, as a share of the skeleton tiles")] = 0.1
    margin_um: Annotated[float, Field(ge=0, le=10000), _doc("coverage=box: margin around the skeleton, um")] = 20.0
    quality: Annotated[int, Field(ge=0, le=100), _doc("JPEG quality asked of the service")] = 100
    max_gb: Annotated[float, Field(gt=0), _doc("Refuse a download beyond this, uncompressed GB")] = 50.0
    chunk_zyx: Annotated[list[int], _doc("Inner chunk of the volumes, voxels")] = field(default_factory=lambda: [32, 128, 128])
    shard_zyx: Annotated[list[int], _doc("Shard (one file) of the volumes, voxels")] = field(default_factory=lambda: [64, 1024, 1024])


@dataclass
class DownloadConfig:
    """What may be missing."""

    allow_missing: Annotated[bool, _doc("Keep a cell whose pixels cannot all be had, with its holes, instead of failing")] = False


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


@dataclass
class AlignConfig:
    """Gates of the alignment check."""

    d_prime_min: Annotated[float, _doc("Least contrast between tube and ring")] = 3.0
    max_shift_um: Annotated[float, Field(ge=0), _doc("Largest sideways shift of a stretch that is ON, um")] = 0.5
    alongside_um: Annotated[float, Field(ge=0), _doc("Largest sideways shift of a stretch that is ALONGSIDE, um")] = 3.0
    max_shift_z_um: Annotated[float, Field(ge=0), _doc("Largest axial shift, um")] = 1.0
    coverage_min: Annotated[_Share, _doc("Least share of samples that are darker than their ring")] = 0.5
    stretch_um: Annotated[float, Field(gt=0), _doc("Length of a stretch, um")] = 30.0
    ring_um: Annotated[list[float], _doc("Inner and outer radius of the ring, um")] = field(default_factory=lambda: [1.4, 1.7])


@dataclass
class SplitConfig:
    """Who is on which side."""

    strategy: Annotated[SplitStrategy, _doc("How cells are assigned to train, val and test")] = SplitStrategy.donor_hash
    salt: Annotated[str, _doc("donor_hash: frozen text hashed with each group; another salt moves cells")] = "brightfield-5390340"
    test: Annotated[_Fraction, _doc("Share of test")] = 0.15
    val: Annotated[_Fraction, _doc("Share of val")] = 0.15
    n_folds: Annotated[int, Field(ge=2, le=50), _doc("Cross-validation folds over train and val")] = 5
    fold: Annotated[int, Field(ge=0), _doc("kfold: the fold that is val")] = 0
    hold_out_line: Annotated[str, _doc("ood_line: the transgenic line that is test")] = ""
    hold_out_species: Annotated[str, _doc("species: the species that is test")] = ""
    min_test_grade: Annotated[str, _doc("Worst alignment grade of a test cell: A or B")] = "B"
    follow: Annotated[list[str], _doc("Pairs donor:leader: the donor takes the leader's side, where a shared file joins them")] = field(
        default_factory=list
    )


@dataclass
class PatchesConfig:
    """Where to sample: the shares of the mix sum to 1 at most."""

    size_zyx: Annotated[list[int], _doc("Patch, voxels of the downloaded grid")] = field(default_factory=lambda: [32, 128, 128])
    size_um: Annotated[list[float], _doc("Patch (z, y, x) in um; where given it replaces size_zyx")] = field(default_factory=list)
    per_cell: Annotated[int, Field(ge=0, le=100000), _doc("Patches of a cell")] = 200
    seed: Annotated[int, Field(ge=0), _doc("Seed of the draw")] = 0
    min_fetched: Annotated[_Share, _doc("Least share of a patch that was downloaded; 1: never outside of it")] = 1.0
    dendrite: Annotated[_Share, _doc("Share centred on dendrites, by path length")] = 0.35
    axon: Annotated[_Share, _doc("Share centred on axon, by path length")] = 0.25
    soma: Annotated[_Share, _doc("Share centred on the soma")] = 0.05
    keypoint: Annotated[_Share, _doc("Share centred on tips and branch points")] = 0.10
    hard_negative: Annotated[_Share, _doc("Share on dark, untraced, trusted background")] = 0.15
    edge: Annotated[_Share, _doc("Share on pia, edges and blanks")] = 0.05
    random: Annotated[_Share, _doc("Share anywhere")] = 0.05


@dataclass
class ComputeConfig:
    """How the work is run. Nothing here may change a byte of output: no stage depends on this group."""

    scheduler: Annotated[Scheduler, _doc("What maps the work over cells")] = Scheduler.local
    workers: Annotated[int, Field(ge=0, le=4096), _doc("Workers; 0: the cores of this machine; 1: in this process")] = 0
    memory_gb: Annotated[float, Field(ge=0), _doc("slurm: memory of a worker, GB; 0: 8")] = 0.0
    address: Annotated[str, _doc("dask: address of a running scheduler; empty: a cluster on this machine")] = ""
    partition: Annotated[str, _doc("slurm: partition; empty: the default one")] = ""
    account: Annotated[str, _doc("slurm: account to charge; empty: yours")] = ""
    walltime: Annotated[str, _doc("slurm: time limit of a worker")] = "04:00:00"
    prologue: Annotated[list[str], _doc("slurm: shell lines before a worker starts (modules, environment)")] = field(default_factory=list)
    connections: Annotated[int, Field(ge=1, le=256), _doc("Connections to the source, over all workers")] = 8
    requests_per_second: Annotated[float, Field(ge=0), _doc("Limit of requests to the source, over all workers; 0: none")] = 0.0
    timeout_s: Annotated[float, Field(gt=0), _doc("Give up an answer after this, s")] = 60.0
    retries: Annotated[int, Field(ge=0, le=100), _doc("Further attempts at a request or a cell that failed")] = 5
    retry_budget_s: Annotated[float, Field(ge=0), _doc("Time spent on further attempts in a run, s")] = 3600.0
    work_dir: Annotated[str, _doc("Where finished cells are kept between runs; relative to the DVC cache's parent")] = ".work"


@dataclass
class MetaConfig:
    """How this configuration came about; written by composition."""

    overrides: Annotated[list[str], _doc("What differs from the committed defaults")] = field(default_factory=list)


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


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its dotted key, type with limits, default and meaning."""

    key: str
    annotation: Any
    default: Any
    description: str

    @property
    def allowed(self) -> str:
        """The values it takes, in words: `one of inside, semantic` or `number >= 0, < 1`."""
        base, *limits = typing.get_args(self.annotation)
        if isinstance(base, type) and issubclass(base, Enum):
            return "one of " + ", ".join(base.__members__)
        words: dict[Any, str] = {
            bool: "true or false",
            int: "whole number",
            float: "number",
            str: "text",
            list[int]: "list of whole numbers",
        }
        words |= {list[float]: "list of numbers", list[str]: "list of texts", int | None: "whole number or null"}
        bounds = [f"{sign} {getattr(bound, name):g}" for bound in _bounds(limits) for name, sign in _SIGNS.items() if hasattr(bound, name)]
        return " ".join([words[base], ", ".join(bounds)]).strip()

    def parse(self, value: object) -> Any:
        """`value` as the option's type. Text is never taken for a number. Raises ConfigError naming key, value and allowed values."""
        if value == "???":
            raise ConfigError(f"{self.key} needs a value ({self.allowed}): {self.description}")
        base = typing.get_args(self.annotation)[0]
        strict = not (isinstance(base, type) and issubclass(base, Enum))
        try:
            return _adapter(self.key).validate_python(value, strict=strict)
        except ValidationError as error:
            raise ConfigError(f"{self.key} = {_show(value)} is not allowed; allowed: {self.allowed} ({self.description})") from error


@cache
def _adapter(key: str) -> TypeAdapter[Any]:
    return TypeAdapter(options()[key].annotation, config=ConfigDict(allow_inf_nan=False))


_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def _bounds(limits: Iterable[Any]) -> Iterator[Any]:
    for limit in limits:
        yield from getattr(limit, "metadata", ())


def _show(value: object) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


@cache
def options() -> dict[str, Option]:
    """Every option by its dotted key, in the order of the dataclasses."""
    found = {}
    for group in fields(Config):
        factory = typing.cast("type", group.default_factory)
        hints, defaults = typing.get_type_hints(factory, include_extras=True), factory()
        for item in fields(factory):
            annotation = hints[item.name]
            texts = [limit.description for limit in typing.get_args(annotation)[1:] if getattr(limit, "description", None)]
            key = f"{group.name}.{item.name}"
            found[key] = Option(key, annotation, getattr(defaults, item.name), texts[-1])
    return found


def group_names() -> tuple[str, ...]:
    """The groups, in order."""
    return tuple(group.name for group in fields(Config))


def validate(values: object, *, origin: str = "the configuration") -> Config:
    """Parse a nested mapping into a Config; every key must be there, none may be unknown, and the rules between options must hold.

    Raises ConfigError naming `origin`, the key, the value, what is allowed, and for an unknown key the closest known one.
    """
    known = options()
    leaves = _leaves(values, origin)
    for key in leaves:
        if key not in known:
            raise unknown_key(key, origin)
    missing = [key for key in known if key not in leaves]
    if missing:
        raise ConfigError(f"{origin} lacks {', '.join(missing)}; write it anew with `brightfield config`")
    try:
        parsed = {key: option.parse(leaves[key]) for key, option in known.items()}
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error}") from error
    config = Config()
    for key, value in parsed.items():
        group, name = key.split(".")
        setattr(getattr(config, group), name, value)
    _check_rules(config, origin)
    return config


def unknown_key(key: str, origin: str) -> ConfigError:
    """The error for a key that is no option: names the closest one."""
    candidates = options() if "." in key else group_names()
    same_name = [known for known in options() if known.split(".")[1] == key.rsplit(".", 1)[-1]]
    close = same_name or difflib.get_close_matches(key, candidates, n=1, cutoff=0.0)
    return ConfigError(f"{origin}: {key} is not an option; did you mean {close[0]}?")


def _leaves(values: object, origin: str) -> dict[str, object]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{origin}: expected groups of options ({', '.join(group_names())}), found {type(values).__name__}")
    leaves: dict[str, object] = {}
    for group, inner in values.items():
        if group not in group_names():
            raise unknown_key(str(group), origin)
        if not isinstance(inner, Mapping):
            raise ConfigError(f"{origin}: {group} must hold options, found {_show(inner)}")
        leaves.update({f"{group}.{name}": value for name, value in inner.items()})
    return leaves


# ------------------------------------------------------------------------------------------------- rules between options


def _check_rules(config: Config, origin: str) -> None:
    broken = [
        problem
        for rule in (_source_rules, _image_rules, _label_rules, _align_rules, _split_rules, _patch_rules)
        for problem in rule(config)
    ]
    if broken:
        raise ConfigError(f"{origin}: " + "\n".join(broken))


def _source_rules(config: Config) -> Iterator[str]:
    source = config.source
    if source.kind in (SourceKind.allen, SourceKind.challenge) and not source.accept_terms:
        yield (
            f"source={source.kind} needs source.accept_terms=true: the data is for non-commercial research and must be cited. "
            f"Read {LICENSE_URL}, then add source.accept_terms=true"
        )
    if source.kind in (SourceKind.folder, SourceKind.challenge) and not source.path:
        yield f"source={source.kind} needs source.path: the folder or fsspec URL with the stacks"
    if any(number < 1 for number in source.specimen_ids):
        yield f"source.specimen_ids = {source.specimen_ids}: a specimen id is a positive whole number"
    if len(set(source.specimen_ids)) != len(source.specimen_ids):
        yield f"source.specimen_ids = {source.specimen_ids}: an id is given twice"
    if not source.reconstruction_types or not set(source.reconstruction_types) <= {"full", "dendrite-only"}:
        yield f"source.reconstruction_types = {source.reconstruction_types}: one or both of full, dendrite-only"
    for key in ("path", "metadata", "base_url"):
        address = urlsplit(getattr(source, key))
        if address.scheme and (address.password or address.query):
            yield (
                f"source.{key} carries a password or a signature, and params.yaml is in git; leave it out: credentials are found in the "
                "environment and in the cloud's own configuration (see docs/how-to/own-stacks.md)"
            )
    if source.kind is SourceKind.allen and not source.base_url:
        yield "source=allen needs source.base_url: the address of the service or of a mirror"
    if source.base_url and not source.base_url.startswith(("http://", "https://")):
        yield f"source.base_url = {source.base_url!r}: an http:// or https:// address, or empty"


def _image_rules(config: Config) -> Iterator[str]:
    image = config.image
    sizes = {"image.chunk_zyx": image.chunk_zyx, "image.shard_zyx": image.shard_zyx}
    bad = [f"{key} = {value}: three positive whole numbers (z, y, x)" for key, value in sizes.items() if not _is_size(value)]
    yield from bad
    if bad:
        return
    if any(shard % chunk for shard, chunk in zip(image.shard_zyx, image.chunk_zyx, strict=True)):
        yield f"image.chunk_zyx = {image.chunk_zyx} must divide image.shard_zyx = {image.shard_zyx} in every axis"
    tile = image.tile_px >> image.level
    if image.tile_px % (1 << image.level):
        yield f"image.tile_px = {image.tile_px} must be a multiple of 2^image.level = {1 << image.level}"
    if tile > min(image.shard_zyx[1:]):
        yield (
            f"a tile is larger than a shard: image.tile_px = {image.tile_px} is {tile} voxels at image.level = {image.level}, "
            f"image.shard_zyx = {image.shard_zyx}"
        )


def _label_rules(config: Config) -> Iterator[str]:
    if config.labels.connect not in (26, 6, None):
        yield f"labels.connect = {config.labels.connect} is not allowed: 26, 6 or null are"


def _align_rules(config: Config) -> Iterator[str]:
    align = config.align
    if len(align.ring_um) != 2 or not 0 <= align.ring_um[0] < align.ring_um[1]:
        yield f"align.ring_um = {align.ring_um}: inner and outer radius in um, the outer one larger"
    if align.alongside_um < align.max_shift_um:
        yield f"align.alongside_um = {align.alongside_um} must not be less than align.max_shift_um = {align.max_shift_um}"


def _split_rules(config: Config) -> Iterator[str]:
    split = config.split
    if split.test + split.val >= 1:
        yield f"split.test + split.val = {split.test:g} + {split.val:g} leaves nothing to train on: their sum must be less than 1"
    if split.fold >= split.n_folds:
        yield f"split.fold = {split.fold}: folds are numbered from 0 to split.n_folds - 1 = {split.n_folds - 1}"
    if split.strategy is SplitStrategy.ood_line and not split.hold_out_line:
        yield "split=ood_line needs split.hold_out_line: the transgenic line that is test"
    if split.strategy is SplitStrategy.species and not split.hold_out_species:
        yield "split=species needs split.hold_out_species: the species that is test"
    if split.min_test_grade not in ("A", "B"):
        yield f"split.min_test_grade = {split.min_test_grade!r} is not allowed: A or B are"


def _patch_rules(config: Config) -> Iterator[str]:
    patches = config.patches
    mix = {name: getattr(patches, name) for name in ("dendrite", "axon", "soma", "keypoint", "hard_negative", "edge", "random")}
    if sum(mix.values()) > 1 + 1e-9:
        yield f"the patch mix sums to {sum(mix.values()):g}, more than 1: " + ", ".join(f"patches.{k} = {v:g}" for k, v in mix.items())
    if not _is_size(patches.size_zyx):
        yield f"patches.size_zyx = {patches.size_zyx}: three positive whole numbers (z, y, x)"
    if patches.size_um and not _is_size(patches.size_um):
        yield f"patches.size_um = {patches.size_um}: three positive numbers (z, y, x) in um, or empty"


def _is_size(value: list[int] | list[float]) -> bool:
    return len(value) == 3 and all(number > 0 for number in value)


def source_name(source: SourceConfig) -> str:
    """What the tables call the source: its URL or path, or `demo`, whose mirror has another port each time."""
    if source.kind == SourceKind.demo:
        return "demo"
    return public_url(source.base_url if source.kind == SourceKind.allen else source.path)


# ------------------------------------------------------------------------------------------------------------ params.yaml


def load(params_path: Path | str) -> Config:
    """The configuration in a `params.yaml`, edited by hand or not, under the same rules as composition. Raises ConfigError."""
    path = Path(params_path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is not there; write it with `brightfield config`") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    return validate(values, origin=path.name)


def plain(config: Config) -> dict[str, dict[str, Any]]:
    """The configuration as nested dicts of plain values (an enum is its name), in the order of the dataclasses."""
    raw: dict[str, dict[str, Any]] = asdict(config)
    return {group: {name: str(v) if isinstance(v, Enum) else v for name, v in inner.items()} for group, inner in raw.items()}


def section_digest(config: Config, groups: Iterable[str]) -> str:
    """sha256 over the named groups (`source`) or single options (`image.level`); the order of naming does not matter. For keys."""
    values = plain(config)
    chosen: dict[str, Any] = {}
    for name in groups:
        group, _, leaf = name.partition(".")
        chosen[name] = values[group][leaf] if leaf else values[group]
    return hashlib.sha256(json.dumps(chosen, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
