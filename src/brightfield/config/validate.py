"""Judging options: every value by its type and limits, then the rules between options."""

from __future__ import annotations

import difflib
import json
import math
import typing
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from enum import Enum
from functools import cache
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

from pydantic import ConfigDict, TypeAdapter, ValidationError

from brightfield.config.options import (
    SMALLEST_TILE,
    Config,
    LabelKind,
    LabelsConfig,
    SomaOutline,
    SourceConfig,
    SourceKind,
    SplitStrategy,
    TubeShape,
    suited_tile,
    tile_of,
)
from brightfield.core.errors import ConfigError
from brightfield.core.schema import LICENSE_URL
from brightfield.core.urls import is_public, public_text
from brightfield.core.yaml import parse_yaml

MAX_SHARD_VOXELS = 2**30
MAX_PATCH_VOXELS = 2**28
"""What a worker can hold in memory several times over."""

_ADDRESSES = ("source.path", "source.metadata", "source.base_url", "source.license_url", "compute.address", "compute.work_dir")
_NOT_FOR_WORK = ("data", "reports", "snapshot", "conf", "src", "tests", "docs", ".git", ".dvc")


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
        return _in_words(self.annotation)

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


_WORDS: dict[Any, str] = {bool: "true or false", int: "whole number", float: "number", str: "text", int | None: "whole number or null"}


def _in_words(annotation: Any, *, many: bool = False) -> str:
    """The values that a type with limits takes."""
    base, *limits = typing.get_args(annotation) if typing.get_origin(annotation) is typing.Annotated else (annotation,)
    if isinstance(base, type) and issubclass(base, Enum):
        return "one of " + ", ".join(base.__members__)
    found = [bound for limit in limits for bound in getattr(limit, "metadata", ())]
    if typing.get_origin(base) is list:
        lengths = {getattr(bound, name) for bound in found for name in ("min_length", "max_length") if hasattr(bound, name)}
        count = f"{lengths.pop()} " if len(lengths) == 1 and any(hasattr(bound, "min_length") for bound in found) else ""
        return f"list of {count}{_in_words(typing.get_args(base)[0], many=True)}"
    bounds = [f"{sign} {getattr(bound, name):g}" for bound in found for name, sign in _SIGNS.items() if hasattr(bound, name)]
    return " ".join([_WORDS[base] + "s" * many, ", ".join(bounds)]).strip()


def _show(value: object) -> str:
    """A value for a message, cut where it is long."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


_SHOWN = 100


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


def source_of(overrides: Iterable[str]) -> SourceConfig:
    """The options of a source that is not configured, from words such as `source.channel=0`. Raises ConfigError."""
    source = SourceConfig(kind=SourceKind.folder, species="")
    for word in overrides:
        key, equals, text = word.partition("=")
        option = options().get(key)
        if option is None or not equals or not key.startswith("source."):
            raise unknown_key(key, "inspect") if option is None else ConfigError(f"inspect knows source.OPTION=VALUE, found {word!r}")
        value = option.parse(parse_yaml(text.encode(), word))
        setattr(source, key.removeprefix("source."), float(value) if isinstance(option.default, float) else value)
    return source


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


def _check_rules(config: Config, origin: str) -> None:
    rules = (_source_rules, _place_rules, _image_rules, _label_rules, _align_rules, _split_rules, _patch_rules, _compute_rules)
    broken = list(_secret_rules(config)) or [problem for rule in rules for problem in rule(config)]  # others may show the values
    if broken:
        raise ConfigError(f"{origin}: " + "\n".join(broken))


def _source_rules(config: Config) -> Iterator[str]:
    source = config.source
    if source.kind in (SourceKind.allen, SourceKind.challenge) and not source.accept_terms:
        yield (
            f"source={source.kind} needs source.accept_terms=true: the data is for non-commercial research and must be cited. "
            f"Read {LICENSE_URL}, then add source.accept_terms=true"
        )
    yield from _id_rules(source)
    if not source.reconstruction_types or not set(source.reconstruction_types) <= {"full", "dendrite-only"}:
        yield f"source.reconstruction_types = {source.reconstruction_types}: one or both of full, dendrite-only"


def _place_rules(config: Config) -> Iterator[str]:
    """Where cells come from."""
    source = config.source
    is_own = source.kind in (SourceKind.folder, SourceKind.challenge)
    if is_own and not source.path:
        yield f"source={source.kind} needs source.path: the folder or fsspec URL with the stacks"
    for key in ("path", "metadata"):
        if getattr(source, key) and not is_own:
            yield f"source.{key} is for your own stacks, and the source is {source.kind}: add source=folder, or leave source.{key} out"
    if source.kind is SourceKind.allen and not source.base_url:
        yield "source=allen needs source.base_url: the address of the service or of a mirror"
    if source.base_url and not _is_web_address(source.base_url):
        yield f"source.base_url = {source.base_url!r}: an http:// or https:// address with a host and perhaps a port, or empty"


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0) and " " not in url
    except ValueError:  # brackets that do not close, a port that is none
        return False


def _secret_rules(config: Config) -> Iterator[str]:
    """Texts that are addresses are judged whole, of others the addresses in them."""
    values = [(f"{group}.{name}", value) for group, options in asdict(config).items() for name, value in options.items()]
    for key, text in [(key, text) for key, value in values for text in (value if isinstance(value, list) else [value])]:
        if not isinstance(text, str) or (is_public(text) if key in _ADDRESSES else public_text(text) == text):
            continue
        yield (
            f"{key} carries a password, a token or a signature, or what could be one, and params.yaml is in git; leave it out: "
            "credentials are found in the environment and in the cloud's own configuration (see docs/how-to/own-stacks.md)"
        )


def _id_rules(source: SourceConfig) -> Iterator[str]:
    for key, ids in (("source.specimen_ids", source.specimen_ids), ("source.exclude_ids", source.exclude_ids)):
        if twice := sorted(number for number, times in Counter(ids).items() if times > 1):
            yield f"{key}: {_show(twice)} is given twice"
    if both := sorted(set(source.specimen_ids) & set(source.exclude_ids)):
        yield f"source.exclude_ids = {both} are in source.specimen_ids, too: name each in one of them"


def _image_rules(config: Config) -> Iterator[str]:
    image = config.image
    if math.prod(image.shard_zyx) > MAX_SHARD_VOXELS:
        yield f"image.shard_zyx = {image.shard_zyx} is {math.prod(image.shard_zyx):.1e} voxels, more than {MAX_SHARD_VOXELS:.1e}"
    if any(shard % chunk for shard, chunk in zip(image.shard_zyx, image.chunk_zyx, strict=True)):
        yield f"image.chunk_zyx = {image.chunk_zyx} must divide image.shard_zyx = {image.shard_zyx} in every axis"
    tile = tile_of(image)
    if tile < SMALLEST_TILE:
        yield (
            f"image.tile_px = {image.tile_px}: a tile of {tile} px is too small; give one of {SMALLEST_TILE} px at least, and "
            f"image.shard_zyx = {image.shard_zyx} rows and columns that are multiples of it"
        )
    elif tile > min(image.shard_zyx[1:]):
        yield f"a tile is larger than a shard: image.tile_px = {image.tile_px}, image.shard_zyx = {image.shard_zyx}"
    elif any(edge % tile for edge in image.shard_zyx[1:]):
        yield (
            f"image.shard_zyx = {image.shard_zyx} cuts through tiles of {tile} px (image.tile_px): "
            "rows and columns of a shard are multiples of that"
        )
    elif not image.tile_px and tile < min(suited_tile(image), *image.shard_zyx[1:]):
        yield (
            f"image.shard_zyx = {image.shard_zyx} cuts through tiles of {suited_tile(image)} px, which suit level and coverage: choose "
            f"multiples of that, or image.tile_px = {tile}, which makes more and smaller requests"
        )


def _label_rules(config: Config) -> Iterator[str]:
    if config.labels.connect not in (26, 6, None):
        yield f"labels.connect = {config.labels.connect} is not allowed: 26, 6 or null are"
    if config.labels.soma is SomaOutline.image and not config.labels.evidence:
        yield "labels.soma = image needs labels.evidence=true: the soma's outline is found in the image"
    if config.labels.tube is TubeShape.fitted:
        yield from _fitted_rules(config.labels)


def _fitted_rules(labels: LabelsConfig) -> Iterator[str]:
    if not labels.evidence:
        yield "labels.tube = fitted needs labels.evidence=true: the tube is fitted to the image"
    if labels.connect is None:
        yield "labels.tube = fitted needs labels.connect=26 or 6: a tube in pieces cannot be followed"
    if labels.kind not in (LabelKind.semantic, LabelKind.inside):
        yield f"labels.tube = fitted needs labels=semantic or labels=inside: {labels.kind} labels are geometry of the trace"


def _align_rules(config: Config) -> Iterator[str]:
    align = config.align
    if align.ring_um[0] >= align.ring_um[1]:
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
    if len(patches.size_um) not in (0, 3):
        yield f"patches.size_um = {patches.size_um}: three numbers (z, y, x) in um, or empty"
    if math.prod(patches.size_zyx) > MAX_PATCH_VOXELS:
        yield f"patches.size_zyx = {patches.size_zyx} is {math.prod(patches.size_zyx):.1e} voxels, more than {MAX_PATCH_VOXELS:.1e}"


def _compute_rules(config: Config) -> Iterator[str]:
    place = PurePath(config.compute.work_dir)
    if not place.parts or ".." in place.parts or place == PurePath(place.anchor) or place.parts[0] in _NOT_FOR_WORK:
        yield (
            f"compute.work_dir = {config.compute.work_dir!r}: a directory of its own, such as .work or /scratch/you/work, "
            f"and none of {', '.join(_NOT_FOR_WORK)}"
        )
