from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from brightfield.config.compose import assignment, check, compose, dump, register, require_fresh, write_params
from brightfield.config.params import load, plain
from brightfield.config.validate import validate
from brightfield.core.errors import ConfigError
from brightfield.core.yaml import parse_yaml
from repositories import command

REPOSITORY = Path(__file__).parents[2]
ALLEN = ["source=allen", "source.accept_terms=true"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(REPOSITORY / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("local"))
    return tmp_path


def test_the_default_is_the_demo_and_needs_no_network(root: Path) -> None:
    config = compose([], root)
    assert (config.source.kind, config.image.level, config.image.z_step, config.meta.overrides) == ("demo", 2, 2, [])


def test_overrides_are_taken_as_users_write_them(root: Path) -> None:
    config = compose([*ALLEN, "labels=inside", "split.test=0.2"], root)
    assert (config.source.kind, config.labels.kind, config.split.test, config.image.level) == ("allen", "inside", 0.2, 0)


@pytest.mark.parametrize(
    "path", sorted(p for p in (REPOSITORY / "conf").glob("*/*.yaml") if p.parent.name != "local"), ids=lambda p: f"{p.parent.name}={p.stem}"
)
def test_every_choice_of_every_group_composes(path: Path) -> None:
    needed = {
        "source=allen": ["source.accept_terms=true"],
        "source=challenge": ["source.accept_terms=true", "source.path=x"],
        "source=folder": ["source.path=x"],
        "split=ood_line": ["split.hold_out_line=x"],
        "split=species": ["split.hold_out_species=x"],
    }
    choice = f"{path.parent.name}={path.stem}"
    composed = plain(compose([choice, *needed.get(choice, [])], REPOSITORY))
    chosen = yaml.safe_load(path.read_text()) or {}
    chosen.pop("defaults", None)
    for group, values in chosen.items() if "@package _global_" in path.read_text() else [(path.parent.name, chosen)]:
        assert {key: composed[group][key] for key in values} == values


def test_what_was_recorded_composes_to_the_same(root: Path) -> None:
    config = compose([*ALLEN, "experiment=thin", "source.species='Homo Sapiens'", "source.specimen_ids=[3,1]", "labels.connect=6"], root)
    assert compose(config.meta.overrides, root) == config
    assert "source.specimen_ids=[3,1]" in config.meta.overrides


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), max_size=12)


@given(
    st.one_of(
        _SCALARS, _TEXT, st.lists(_TEXT, max_size=3), st.sampled_from(["true", "null", "1e3", "a'b", "\\", "a\\'b", "${x}", "\\${x}"])
    )
)
def test_a_recorded_value_parses_back_to_itself(value: object) -> None:
    parsed = OverridesParser.create().parse_overrides([assignment("a.b", value)])[0].value()
    found = OmegaConf.to_container(OmegaConf.create({"value": parsed}), resolve=True)
    assert found == {"value": value}


def test_params_yaml_survives_a_round_trip(root: Path) -> None:
    config = compose([*ALLEN, "split.salt='1e3'", "compute.walltime='12:00:00'", "source.license='null'"], root)
    assert load(write_params(config, root)) == config
    assert validate(parse_yaml(dump(config).encode(), "params.yaml")) == config


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("labels.rmin_um=3", r"labels\.rmin_um is not an option; did you mean labels\.r_min_um"),
        ("labels.r_min_um=abc", r'labels\.r_min_um = "abc" is not allowed; allowed: number >= 0, <= 10'),
        ("labels.r_min_um=11", r"labels\.r_min_um = 11\.0 is not allowed; allowed: number >= 0, <= 10"),
        ("labels.kind=foo", "one of inside, semantic, centerline, distance"),
        ("labels=insid", r"labels is one of centerline, distance, inside, semantic; did you mean labels=inside\?"),
        ("experiment=thn", "did you mean experiment=thin"),
        ("lables=inside", "did you mean labels"),
        ("+source.foo=1", r"source\.foo is not an option"),
        ("~source.kind", "neither added nor deleted"),
        ("labels.r_min_um=0.1,0.2", "dvc exp run --queue"),
        ("garbage", "not of the form key=value"),
        ("split.val=0.9", "leaves nothing to train on"),
        ("source=allen", r"source\.accept_terms=true"),
        ("source=folder", r"needs source\.path"),
        ("source.path='???'", "needs a value"),
        ("source.path=x", r"source\.path is for your own stacks, and the source is demo: add source=folder"),
        ("source.seed=" + "9" * 5000, "^[^\n]{1,1000}$"),
        ("compute.work_dir=data", "a directory of its own"),
    ],
)
def test_a_bad_override_is_told_in_words(root: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compose([override], root)


def test_the_soma_of_the_image_needs_a_look_at_it(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"labels\.soma = image needs labels\.evidence=true"):
        compose(["labels.soma=image", "labels.evidence=false"], root)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("labels.evidence=false", r"labels\.tube = fitted needs labels\.evidence=true"),
        ("labels.connect=null", r"labels\.tube = fitted needs labels\.connect=26 or 6"),
        ("labels=distance", r"labels\.tube = fitted needs labels=semantic or labels=inside: distance labels are geometry"),
        ("labels=centerline", r"labels\.tube = fitted needs labels=semantic or labels=inside: centerline labels are geometry"),
    ],
)
def test_a_fitted_tube_needs_what_it_is_fitted_with(root: Path, override: str, said: str) -> None:
    assert compose(["labels.evidence=true", "labels.tube=fitted"], root).labels.tube == "fitted"
    with pytest.raises(ConfigError, match=said):
        compose(["labels.evidence=true", override, "labels.tube=fitted"], root)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: semantic\nr_min_um: 010\n", "no leading zeros"),
        ("r_min_um: &x 0.2\nrim_um: *x\n", "aliases"),
        ("r_min_um: 1\nr_min_um: 2\n", "(?i)twice|duplicate"),
    ],
)
def test_a_file_in_conf_is_read_as_strictly_as_params_yaml(root: Path, text: str, said: str) -> None:
    (root / "conf" / "labels" / "semantic.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        compose([], root)


def test_what_the_environment_holds_is_not_written_into_params_yaml(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUSH", "hush4711")
    override = "source.base_url=${oc.env:HUSH}"
    with pytest.raises(ConfigError, match=r"oc\.env:HUSH.*params\.yaml, which is in git") as refused:
        compose([override], root)
    assert "hush4711" not in str(refused.value)
    with pytest.raises(Exception, match=r"oc\.env:HUSH.*which is in git"):
        dvc_compose(root, monkeypatch, override)
    register()
    assert OmegaConf.to_container(OmegaConf.create({"meta": {}, "a": "${oc.env:HUSH}", "b": "${oc.env:NOT_SET,7}"}), resolve=True) == {
        "meta": {},
        "a": "hush4711",  # other people's configurations in this environment are theirs
        "b": "7",
    }


def test_a_file_in_conf_is_judged_too(root: Path) -> None:
    (root / "conf" / "labels" / "semantic.yaml").write_text("kind: semantic\nr_min_um: 99\n")
    with pytest.raises(ConfigError, match=r"labels\.r_min_um = 99"):
        compose([], root)


def test_no_conf_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no conf/config\.yaml"):
        compose([], tmp_path)


def test_params_yaml_is_fresh_after_writing_and_stale_after_an_edit(root: Path) -> None:
    write_params(compose(["labels=inside"], root), root)
    assert check(root) == []
    path = root / "params.yaml"
    path.write_text(path.read_text().replace("r_min_um: 0.23", "r_min_um: 0.3"))
    assert [item.key for item in check(root)] == ["labels.r_min_um"]
    with pytest.raises(ConfigError, match=r"brightfield config labels\.kind=inside labels\.r_min_um=0\.3"):
        require_fresh(root)


def test_params_yaml_is_stale_when_conf_changes(root: Path) -> None:
    write_params(compose([], root), root)
    (root / "conf" / "align" / "default.yaml").write_text("stretch_um: 25.0\n")
    with pytest.raises(ConfigError, match=r"align\.stretch_um is 15\.0 in params\.yaml, but conf/ gives 25\.0"):
        require_fresh(root)


def test_ones_own_settings_are_recorded_so_that_others_can_check(root: Path) -> None:
    (root / "conf" / "local").mkdir()
    (root / "conf" / "local" / "default.yaml").write_text("# @package _global_\ncompute:\n  workers: 3\n")
    config = compose(["labels=inside"], root)
    assert (config.compute.workers, config.meta.overrides) == (3, ["labels.kind=inside", "compute.workers=3"])
    write_params(config, root)
    assert check(root) == []
    shutil.rmtree(root / "conf" / "local")
    assert check(root) == []


def test_the_committed_params_yaml_is_fresh() -> None:
    assert check(REPOSITORY) == []


def dvc_compose(root: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> str:
    """What `dvc exp run -S` does to params.yaml."""
    from dvc.utils.hydra import compose_and_dump

    monkeypatch.chdir(root)
    compose_and_dump(str(root / "params.yaml"), str(root / "conf"), None, "config", str(REPOSITORY / "src"), list(overrides))
    return (root / "params.yaml").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:.*version_base")
def test_dvc_composes_to_the_same_bytes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = [*ALLEN, "labels=inside", "split.test=0.2", "split.salt='1e3'"]
    assert dvc_compose(root, monkeypatch, *overrides) == dump(compose(overrides, root))


@pytest.mark.filterwarnings("ignore:.*version_base")
@pytest.mark.parametrize("override", ["+source.foo=1", "split.test=7", "source=allen", "split.val=0.9", "~source.kind"])
def test_our_rules_hold_when_dvc_composes(root: Path, monkeypatch: pytest.MonkeyPatch, override: str) -> None:
    with pytest.raises(Exception, match=r"source\.foo|split\.test|accept_terms|nothing to train on|source\.kind"):
        dvc_compose(root, monkeypatch, override)
    assert not (root / "params.yaml").exists()


@pytest.fixture
def repository(root: Path, at_home: None) -> Path:
    """A data repository with one stage that depends on the labels group."""
    (root / ".dvc").mkdir()
    for name in (".dvc/config", ".dvc/.gitignore"):
        shutil.copy(REPOSITORY / name, root / name)
    (root / ".gitignore").write_text("/.work/\n/conf/local/\n")
    stage = {"cmd": f'"{sys.executable}" copy.py', "deps": ["copy.py"], "params": ["labels"], "outs": ["out.txt"]}
    (root / "copy.py").write_text("import yaml; open('out.txt', 'w').write(str(yaml.safe_load(open('params.yaml'))['labels']))")
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"copy": stage}}))
    write_params(compose([], root), root)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        command(root, "git", *words)
    return root


@pytest.mark.slow
def test_dvc_exp_run_applies_overrides_and_rules(repository: Path) -> None:
    command(repository, "dvc", "exp", "run", "-S", "labels=inside", "-S", "labels.r_min_um=0.3")
    config = load(repository / "params.yaml")
    assert (config.labels.kind, config.labels.r_min_um) == ("inside", 0.3)
    assert config.meta.overrides == ["labels.kind=inside", "labels.r_min_um=0.3"]
    assert "inside" in (repository / "out.txt").read_text()
    assert "allowed: number" in command(repository, "dvc", "exp", "run", "-S", "labels.r_min_um=99", ok=False)
    assert "did you mean source.seed" in command(repository, "dvc", "exp", "run", "-S", "+labels.seed=9", ok=False)


@pytest.mark.slow
def test_a_sweep_queues_one_experiment_per_value(repository: Path) -> None:
    said = command(repository, "dvc", "exp", "run", "--queue", "-S", "labels.r_min_um=0.15,0.23,0.35")
    assert said.count("Queued experiment") == 3


@pytest.mark.slow
def test_the_compute_group_reruns_nothing(repository: Path) -> None:
    command(repository, "dvc", "repro")
    write_params(compose(["compute.workers=7"], repository), repository)
    assert "didn't change" in command(repository, "dvc", "repro")
    write_params(compose(["labels.r_min_um=0.5"], repository), repository)
    assert "Running stage 'copy'" in command(repository, "dvc", "repro")
