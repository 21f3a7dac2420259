from __future__ import annotations

import contextlib
import copy
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from brightfield.config.compose import dump, write_params
from brightfield.config.options import Config, LabelKind
from brightfield.config.params import load, plain, section_digest
from brightfield.config.validate import options, validate
from brightfield.core.errors import ConfigError
from brightfield.core.yaml import parse_yaml


def changed(**leaves: Any) -> dict[str, Any]:
    """The default configuration as a mapping, with options changed: `changed(split__test=0.5)`."""
    values = copy.deepcopy(plain(Config()))
    for key, value in leaves.items():
        group, name = key.split("__")
        values[group][name] = value
    return values


def test_the_defaults_are_valid_and_survive_a_round_trip() -> None:
    assert validate(plain(Config())) == Config()


def test_values_arrive_as_their_types() -> None:
    config = validate(changed(labels__kind="inside", labels__r_min_um=1))
    assert config.labels.kind is LabelKind.inside
    assert isinstance(config.labels.r_min_um, float)


@pytest.mark.parametrize("key", sorted(options()))
def test_every_option_has_a_meaning_and_takes_its_default(key: str) -> None:
    option = options()[key]
    assert option.description
    assert option.allowed
    assert option.parse(option.default) == option.default


def _limits(annotation: Any) -> set[str]:
    """The names of the bounds of an option's type, or of the items of its list."""
    base, *limits = typing.get_args(annotation) if typing.get_origin(annotation) is typing.Annotated else (annotation,)
    names = {
        name
        for limit in limits
        for bound in limit.metadata
        for name in ("le", "lt", "ge", "gt", "max_length", "pattern")
        if hasattr(bound, name)
    }
    return names | (_limits(typing.get_args(base)[0]) if typing.get_origin(base) is list else set())


@pytest.mark.parametrize("key", sorted(options()))
def test_every_number_has_two_ends_and_every_text_and_list_a_largest_length(key: str) -> None:
    option = options()[key]
    names, words = _limits(option.annotation), option.allowed
    if "number" in words and "whole number or null" not in words:
        assert names & {"ge", "gt"}
        assert names & {"le", "lt"}
    if "text" in words:
        assert names & {"max_length", "pattern"}
    if "list" in words:
        assert "max_length" in names


@pytest.mark.parametrize("key", sorted(options()))
@settings(max_examples=10)
@given(value=st.dictionaries(st.text(max_size=2), st.none(), max_size=1) | st.binary(max_size=2))
def test_no_option_takes_what_it_is_not(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        options()[key].parse(value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("split__test", 7, r"split\.test = 7 is not allowed; allowed: number >= 0, < 1"),
        ("split__test", "0.2", r'split\.test = "0\.2" is not allowed'),
        ("split__test", float("nan"), r"split\.test = NaN is not allowed"),
        ("image__level", 2.5, r"image\.level = 2\.5 is not allowed; allowed: whole number >= 0, <= 6"),
        ("image__level", True, r"image\.level = true is not allowed"),
        ("labels__kind", "insides", "one of inside, semantic, centerline, distance"),
        ("source__specimen_ids", [1, "2"], "list of whole numbers"),
        ("source__accept_terms", "yes", "true or false"),
        ("labels__connect", None, ""),
        ("source__path", "???", r"source\.path needs a value"),
    ],
)
def test_a_bad_value_is_refused_with_key_value_and_what_is_allowed(key: str, value: object, said: str) -> None:
    if not said:
        validate(changed(**{key: value}))
        return
    with pytest.raises(ConfigError, match=said):
        validate(changed(**{key: value}), origin="params.yaml")


@pytest.mark.parametrize(
    ("leaves", "said"),
    [
        ({"source__kind": "allen"}, r"source\.accept_terms=true: .* Read https://alleninstitute\.org"),
        ({"source__kind": "challenge", "source__path": "s3://x"}, r"source\.accept_terms=true"),
        ({"source__kind": "challenge", "source__accept_terms": True}, r"needs source\.path"),
        ({"source__kind": "folder"}, r"source=folder needs source\.path"),
        ({"source__specimen_ids": [3, 0]}, "whole numbers >= 1"),
        ({"source__specimen_ids": [3, 3]}, "twice"),
        ({"source__reconstruction_types": ["fll"]}, "full, dendrite-only"),
        ({"source__reconstruction_types": []}, "full, dendrite-only"),
        ({"source__base_url": "ftp://x"}, "http"),
        ({"source__kind": "folder", "source__path": "s3://key:word@bucket"}, r"^(?!.*word@).*source\.path carries a password"),
        ({"source__kind": "folder", "source__path": "x", "source__metadata": "https://h/c.csv?sig=1"}, "source.metadata carries"),
        ({"source__kind": "folder", "source__path": "simplecache::https://word@h"}, r"^(?!.*word@).*source\.path carries a password"),
        ({"source__base_url": "https://h#sig=word"}, r"^(?!.*sig=word).*source\.base_url carries a password, a token or a signature"),
        ({"source__citation": "A 2020, https://h/a?token=word"}, r"^(?!.*token=word).*source\.citation carries"),
        ({"source__citation": "A 2020, u:word@host:"}, r"^(?!.*word@).*source\.citation carries"),
        ({"source__license": "CC0 (u%3Aword%40host/x)"}, r"^(?!.*word@).*source\.license carries"),
        ({"split__salt": "word4711@h"}, r"^(?!.*word4711).*split\.salt carries"),
        ({"compute__work_dir": "s3://u:word@h"}, r"^(?!.*word@).*compute\.work_dir carries"),
        ({"compute__address": "tcp://u:word@h:8786"}, r"^(?!.*word@).*compute\.address carries a password"),
        ({"image__chunk_zyx": [32, 100, 128]}, "must divide"),
        ({"image__shard_zyx": [64, 1024]}, "list of 3 whole numbers >= 1, <= 65536"),
        ({"image__chunk_zyx": [0, 128, 128]}, "list of 3 whole numbers >= 1"),
        ({"image__tile_px": 2048}, "a tile is larger than a shard"),
        ({"image__shard_zyx": [32, 640, 640], "image__tile_px": 256}, "cuts through tiles of 256 px"),
        ({"image__shard_zyx": [32, 640, 640], "image__level": 1}, "cuts through tiles of 256 px, .* image.tile_px = 128"),
        ({"image__shard_zyx": [65536, 65536, 65536]}, "is 2.8e\\+14 voxels, more than"),
        ({"patches__size_zyx": [4096, 4096, 4096]}, "more than"),
        ({"patches__size_um": [1.0, 2.0]}, "three numbers"),
        ({"source__path": "/stacks"}, "source.path is for your own stacks"),
        ({"source__base_url": "http://[::1"}, "an http:// or https:// address with a host"),
        ({"source__base_url": "http://h:99999999"}, "perhaps a port"),
        ({"source__base_url": "http://"}, "with a host"),
        ({"compute__work_dir": ""}, "a directory of its own"),
        ({"compute__work_dir": "/"}, "a directory of its own"),
        ({"compute__work_dir": "./data/x"}, "a directory of its own"),
        ({"compute__work_dir": "a/../.."}, "a directory of its own"),
        ({"image__tile_px": 4}, "a tile of 4 px is too small; give one of 8 px"),
        ({"image__shard_zyx": [32, 500, 500], "image__chunk_zyx": [32, 50, 50]}, "image.tile_px = 0: a tile of 4 px is too small"),
        ({"image__tile_px": 100}, "cuts through tiles of 100 px"),
        ({"labels__connect": 18}, "26, 6 or null"),
        ({"align__ring_um": [1.7, 1.4]}, "the outer one larger"),
        ({"align__alongside_um": 0.1}, r"less than align\.max_shift_um"),
        ({"split__test": 0.5, "split__val": 0.5}, "leaves nothing to train on"),
        ({"split__fold": 5}, "numbered from 0"),
        ({"split__strategy": "ood_line"}, "hold_out_line"),
        ({"split__strategy": "species"}, "hold_out_species"),
        ({"split__min_test_grade": "C"}, "A or B"),
        ({"patches__soma": 0.06}, "more than 1"),
        ({"patches__size_zyx": [1, 2]}, "list of 3 whole numbers"),
        ({"patches__size_um": [1.0, -2.0, 3.0]}, "list of numbers >= 0.01"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(leaves: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        validate(changed(**leaves))


def test_all_broken_rules_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"(?s)nothing to train on.*more than 1"):
        validate(changed(split__test=0.9, patches__soma=0.9))


@pytest.mark.parametrize(("key", "closest"), [("labels__rmin_um", "labels.r_min_um"), ("labels__salt", "split.salt")])
def test_an_unknown_key_names_the_closest_one(key: str, closest: str) -> None:
    with pytest.raises(ConfigError, match=rf"is not an option; did you mean {closest}\?"):
        validate(changed(**{key: 1}))


def test_an_unknown_group_names_the_closest_one() -> None:
    with pytest.raises(ConfigError, match=r"lables is not an option; did you mean labels\?"):
        validate({**plain(Config()), "lables": {}})


def test_a_missing_key_is_named_and_never_filled_in() -> None:
    values = plain(Config())
    del values["split"]["salt"]
    with pytest.raises(ConfigError, match=r"lacks split\.salt"):
        validate(values)


def test_a_hand_edited_file_is_judged_by_the_same_rules(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(changed(split__test=0.3)))
    assert load(path).split.test == 0.3
    path.write_text(yaml.safe_dump(changed(split__test=1.3)))
    with pytest.raises(ConfigError, match=r"params\.yaml: split\.test = 1\.3 is not allowed"):
        load(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "params.yaml:1: cannot be read as YAML"),
        ("- 1", "expected groups"),
        ("split: 3", "split must hold options"),
        ("", "expected groups"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load(path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("quality: 100", "quality: 100\n  quality: 0", r"params\.yaml:\d+: .*quality is there twice"),
        ("\ndownload:", "\ndownload:\n  allow_missing: true\ndownload:", "download is there twice"),
        ("quality: 100", "quality: 010", "no leading zeros"),
        ("quality: 100", "quality: 1:30", 'quality = "1:30" is not allowed'),
        ("quality: 100", "quality: 0o7", 'quality = "0o7" is not allowed'),
        ("accept_terms: false", "accept_terms: no", 'accept_terms = "no" is not allowed'),
        ("quality: 100", "quality: &a [*a]", "aliases are not allowed"),
        ("quality: 100", "quality: !!int '3'", "tags are not allowed"),
        ("quality: 100", "quality: " + "[" * 20000, "nested more than"),
        ("seed: 7", "seed: " + "9" * 5000, "at most 18 digits"),
        ("species: Mus musculus", 'species: "a\\0b"', r"source\.species"),
        ("species: Mus musculus", 'species: "a\u202eb"', r"source\.species"),
        ("species: Mus musculus", 'species: "a\\x9bb"', r"source\.species"),
        ("quality: 100", "quality: [" + "x," * 5000 + "]", r"image\.quality"),
    ],
)
def test_what_could_be_meant_in_two_ways_is_refused_in_one_short_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = write_params(Config(), tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=said) as caught:
        load(path)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


@given(text=st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=30))
@settings(max_examples=60)
def test_any_text_survives_the_file(text: str) -> None:
    config = Config()
    config.source.species = text
    assert validate(parse_yaml(dump(config).encode(), "params.yaml")) == config


@given(data=st.binary(max_size=60) | st.text("a:-[]{}&*!|>'\"#%@` \n0123456789~<?,", max_size=60).map(str.encode))
@settings(max_examples=300)
def test_no_bytes_break_the_reader(data: bytes) -> None:
    with contextlib.suppress(ConfigError):
        parse_yaml(data, "params.yaml")


def test_an_absent_file_says_how_to_write_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="brightfield config"):
        load(tmp_path / "params.yaml")


def test_the_digest_of_groups_sees_their_options_only() -> None:
    base = Config()
    other = validate(changed(labels__r_min_um=0.3))
    assert section_digest(base, ["labels", "image"]) == section_digest(Config(), ["image", "labels"])
    assert section_digest(base, ["labels"]) != section_digest(other, ["labels"])
    assert section_digest(base, ["labels.kind", "image"]) == section_digest(other, ["labels.kind", "image"])
