from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from brightfield.config.options import Config, LabelKind
from brightfield.config.params import load, plain, section_digest
from brightfield.config.validate import options, validate
from brightfield.core.errors import ConfigError


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
        ({"source__specimen_ids": [3, 0]}, "positive"),
        ({"source__specimen_ids": [3, 3]}, "twice"),
        ({"source__reconstruction_types": ["fll"]}, "full, dendrite-only"),
        ({"source__reconstruction_types": []}, "full, dendrite-only"),
        ({"source__base_url": "ftp://x"}, "http"),
        ({"source__kind": "folder", "source__path": "s3://key:word@bucket"}, r"^(?!.*word@).*source\.path carries a password"),
        ({"source__kind": "folder", "source__path": "x", "source__metadata": "https://h/c.csv?sig=1"}, "source.metadata carries"),
        ({"image__chunk_zyx": [32, 100, 128]}, "must divide"),
        ({"image__shard_zyx": [64, 1024]}, "three positive"),
        ({"image__chunk_zyx": [0, 128, 128]}, "three positive"),
        ({"image__tile_px": 2048}, "a tile is larger than a shard"),
        ({"image__tile_px": 100, "image__level": 3}, "multiple of 2"),
        ({"image__tile_px": 100}, "cuts through tiles of 100 voxels"),
        ({"labels__connect": 18}, "26, 6 or null"),
        ({"align__ring_um": [1.7, 1.4]}, "the outer one larger"),
        ({"align__alongside_um": 0.1}, r"less than align\.max_shift_um"),
        ({"split__test": 0.5, "split__val": 0.5}, "leaves nothing to train on"),
        ({"split__fold": 5}, "numbered from 0"),
        ({"split__strategy": "ood_line"}, "hold_out_line"),
        ({"split__strategy": "species"}, "hold_out_species"),
        ({"split__min_test_grade": "C"}, "A or B"),
        ({"patches__soma": 0.06}, "more than 1"),
        ({"patches__size_zyx": [1, 2]}, "three positive"),
        ({"patches__size_um": [1.0, -2.0, 3.0]}, "three positive"),
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
    [("a: [", "is not YAML"), ("- 1", "expected groups"), ("split: 3", "split must hold options"), ("", "expected groups")],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load(path)


def test_an_absent_file_says_how_to_write_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="brightfield config"):
        load(tmp_path / "params.yaml")


def test_the_digest_of_groups_sees_their_options_only() -> None:
    base = Config()
    other = validate(changed(labels__r_min_um=0.3))
    assert section_digest(base, ["labels", "image"]) == section_digest(Config(), ["image", "labels"])
    assert section_digest(base, ["labels"]) != section_digest(other, ["labels"])
    assert section_digest(base, ["labels.kind", "image"]) == section_digest(other, ["labels.kind", "image"])
