"""From `conf/` and overrides to `params.yaml`: composition by Hydra, sealed by our own rules.

`dvc exp run -S` composes without calling us, and `dvc repro` does not compose at all (treeverse/dvc#10750). So the rules sit in a
resolver: the last key of `conf/config.yaml`, `meta.overrides: ${brightfield.seal:}`, is resolved at the end of any composition, ours or
DVC's; it validates the whole and returns what differs from the committed defaults. `hydra_plugins/brightfield_options.py` registers it
wherever Hydra scans for plugins.
"""

from __future__ import annotations

import difflib
import json
import re
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers.oc import env as oc_env
from yaml import YAMLError

from brightfield.config.options import Config
from brightfield.config.params import load, plain
from brightfield.config.validate import group_names, options, unknown_key, validate
from brightfield.core.errors import ConfigError
from brightfield.core.files import write_text
from brightfield.core.layout import PARAMS_FILE
from brightfield.core.yaml import read_yaml

CONF_DIR = "conf"
_SEAL = "brightfield.seal"

_conf_dir: ContextVar[Path | None] = ContextVar("_conf_dir", default=None)
_composing_defaults: ContextVar[bool] = ContextVar("_composing_defaults", default=False)


def register() -> None:
    """Make the typed base configuration and the seal known to Hydra in this process."""
    ConfigStore.instance().store(name="brightfield_options", node=Config)
    OmegaConf.register_new_resolver(_SEAL, _seal, replace=True)
    OmegaConf.register_new_resolver("oc.env", _environment, replace=True)


def compose(overrides: Sequence[str] = (), root: Path | str = ".") -> Config:
    """The configuration that `conf/` below `root` gives under `overrides` as users write them: `labels=inside`, `split.test=0.2`.

    Raises ConfigError naming the key, the value, the allowed values and the closest known key.
    """
    return validate(_compose(list(overrides), _conf_below(Path(root))), origin="the configuration")


def dump(config: Config) -> str:
    """The text of `params.yaml`, byte for byte what `dvc exp run -S` writes for the same configuration."""
    text: str = OmegaConf.to_yaml(OmegaConf.create(plain(config)))
    return text


def write_params(config: Config, root: Path | str = ".") -> Path:
    """Write `params.yaml` below `root`, atomically."""
    return write_text(Path(root) / PARAMS_FILE, dump(config))


@dataclass(frozen=True, slots=True)
class Stale:
    """An option of `params.yaml` that is not what `conf/` and the recorded overrides give."""

    key: str
    found: Any
    composed: Any

    def __str__(self) -> str:
        return f"{self.key} is {self.found!r} in {PARAMS_FILE}, but {CONF_DIR}/ gives {self.composed!r}"


def check(root: Path | str = ".") -> list[Stale]:
    """Where `params.yaml` below `root` differs from what `conf/` gives under the overrides recorded in it; empty when fresh.

    Raises ConfigError when either breaks a rule.
    """
    found = load(Path(root) / PARAMS_FILE)
    composed = compose([*found.meta.overrides, *_without_local(_conf_below(Path(root)))], root)
    theirs, ours = flat(found), flat(composed)
    return [Stale(key, theirs[key], ours[key]) for key in theirs if theirs[key] != ours[key]]


def require_fresh(root: Path | str = ".") -> None:
    """Raise ConfigError, with the command that mends it, when `params.yaml` is stale."""
    stale = check(root)
    if not stale:
        return
    wanted = " ".join(assignment(item.key, item.found) for item in stale if item.key != "meta.overrides")
    recorded = " ".join(load(Path(root) / PARAMS_FILE).meta.overrides)
    remedy = f"to keep these values: brightfield config {recorded} {wanted}".replace("  ", " ")
    raise ConfigError(
        f"{PARAMS_FILE} is stale\n" + "\n".join(f"  {item}" for item in stale) + f"\n{remedy}\nto drop them: brightfield config {recorded}"
    )


def flat(config: Config) -> dict[str, Any]:
    """Every option by its dotted key, as plain values."""
    return {f"{group}.{name}": value for group, inner in plain(config).items() for name, value in inner.items()}


def assignment(key: str, value: object) -> str:
    """`key=value` in Hydra's grammar, quoted so that it parses back to the same value."""
    return f"{key}={_literal(value)}"


# --------------------------------------------------------------------------------------------------------------- the seal


def _seal(*, _root_: DictConfig) -> list[str]:
    """The resolver: validates the whole configuration, returns the options that differ from the committed defaults."""
    if _composing_defaults.get():
        return []
    groups = OmegaConf.masked_copy(_root_, [str(name) for name in _root_ if name != "meta"])
    config = _validated(OmegaConf.to_container(groups, resolve=True, enum_to_str=True), "the configuration")
    conf = _conf_dir.get() or _conf_below(Path.cwd())
    for file in sorted(conf.rglob("*.yaml")):
        read_yaml(file, file.relative_to(conf.parent).as_posix())  # Hydra reads them as YAML 1.1: refuse what that would take another way
    with _flag(_composing_defaults, True):
        defaults = _validated(_compose(_without_local(conf), conf), f"{CONF_DIR}/")
    base, values = flat(defaults), flat(config)
    return [assignment(key, value) for key, value in values.items() if value != base[key] and not key.startswith("meta.")]


def _environment(name: str, *default: Any, _root_: DictConfig) -> Any:
    """OmegaConf's own resolver, but not for our options: `params.yaml`, where the value would stand in clear, is in git."""
    meta = OmegaConf.to_container(_root_, resolve=False).get("meta")  # type: ignore[union-attr]
    if isinstance(meta, dict) and _SEAL in str(meta.get("overrides")):
        raise ConfigError(f"${{oc.env:{name}}} would write what the environment holds into {PARAMS_FILE}, which is in git: write the value")
    return oc_env(name, *default)


def _validated(groups: Any, origin: str) -> Config:
    return validate({**groups, "meta": {"overrides": []}}, origin=origin)


def _compose(overrides: list[str], conf: Path) -> dict[str, Any]:
    """Compose and resolve; every exception of Hydra becomes a ConfigError."""
    register()
    try:
        with _flag(_conf_dir, conf), _own_hydra(conf):
            composed = hydra_compose(config_name="config", overrides=overrides)
            OmegaConf.resolve(composed)
            values: dict[str, Any] = OmegaConf.to_container(composed, enum_to_str=True)  # type: ignore[assignment]
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        # Hydra raises plain ones for `=3`
        raise _explain(error, overrides, conf) from error
    return values


@contextmanager
def _own_hydra(conf: Path) -> Iterator[None]:
    # a composition inside another one (the seal's) must leave the outer one as it was
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = outer


@contextmanager
def _flag[T](variable: ContextVar[T], value: T) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def _without_local(conf: Path) -> list[str]:
    # `conf/local` is one user's own: what it changes is an override like any other. Hydra knows the group only where the folder is
    return ["~local"] if (conf / "local").is_dir() else []


def _conf_below(start: Path) -> Path:
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / CONF_DIR / "config.yaml").is_file():
            return folder / CONF_DIR
    raise ConfigError(f"no {CONF_DIR}/config.yaml in {start} or above; run in a clone of the data repository")


# -------------------------------------------------------------------------------------------------------- errors in words


def _explain(error: Exception, overrides: list[str], conf: Path) -> ConfigError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConfigError):
            return cause
        cause = cause.__cause__ or cause.__context__
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except (HydraException, ValueError, RecursionError) as malformed:
        return ConfigError(f"an override is not of the form key=value: {_one_line(malformed)}")
    for override in parsed:
        problem = _problem(override, conf)
        if problem is not None:
            return problem
    return ConfigError(f"{CONF_DIR}/ cannot be composed: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def _problem(override: Override, conf: Path) -> ConfigError | None:
    key, origin = override.key_or_group, "the configuration"
    if override.is_sweep_override():
        return ConfigError(f"{override.input_line}: several values are a sweep: dvc exp run --queue -S '{override.input_line}'")
    choices = sorted(path.stem for path in (conf / key).glob("*.yaml")) if "." not in key else []
    if choices and override.value() not in (*choices, None):
        close = difflib.get_close_matches(str(override.value()), choices, n=1, cutoff=0.0)[0]
        return ConfigError(f"{key}={override.value()}: {key} is one of {', '.join(choices)}; did you mean {key}={close}?")
    if choices or key == "local":
        return None
    if key not in options():
        return ConfigError(f"{unknown_key(key, origin)} (groups: {', '.join(group_names()[:-1])}, experiment)")
    if override.is_add() or override.is_delete():
        return ConfigError(f"{override.input_line}: options are neither added nor deleted; write {key}=value")
    try:
        options()[key].parse(override.value())
    except ConfigError as refused:
        return ConfigError(f"{origin}: {refused}")
    return None


_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_RESERVED = {"true", "false", "null", "inf", "nan", "on", "off", "yes", "no"}


def _literal(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(_literal(item) for item in value) + "]"
    if not isinstance(value, str):
        return repr(value)
    if _WORD.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    # "${" starts an interpolation unless escaped; in Hydra's quoted text a backslash counts only before a quote and at the end
    escaped = re.sub(r"(\\*)\$\{", lambda hit: hit[1] * 2 + "\\${", value)
    escaped = re.sub(r"(\\*)('|$)", lambda hit: hit[1] * 2 + ("\\'" if hit[2] else ""), escaped)
    return f"'{escaped}'"


# --------------------------------------------------------------------------------------------------- the reference page

_REFERENCE_HEAD = """# Configuration

Made from `config/options.py` and `conf/`. `brightfield config KEY=VALUE ...` composes, checks and writes `params.yaml`, which the
stages read; `dvc exp run -S KEY=VALUE` does the same and builds. A group name alone takes one of its choices (`labels=inside`), a dotted
key one value (`labels.r_min_um=0.3`). `brightfield config --check` says whether `params.yaml` is what `conf/` gives under the overrides
it records.

Good to know:

- `dvc repro` builds from `params.yaml` as it is; only `brightfield config` and `dvc exp run -S` compose.
- `brightfield config` without overrides, like `dvc exp run -S` with others, starts from the defaults: give all overrides that you want.
- What equals the default is not recorded in `meta.overrides`.
- `conf/local/default.yaml` (first line `# @package _global_`) holds your own settings, say `compute.workers`; git does not see it.
- `conf/experiment/` holds named sets of overrides: `experiment=NAME`.
- Several values are a sweep: `dvc exp run --queue -S 'labels.r_min_um=0.15,0.23,0.35'`, then `dvc queue start`.
"""


def reference(root: Path | str = ".") -> str:
    """The text of `docs/reference/configuration.md`."""
    conf = _conf_below(Path(root))
    parts = [_REFERENCE_HEAD, f"\n## experiment\n\nNamed sets of overrides.\n\n{_choices(conf, 'experiment')}"]
    defaults = flat(Config())
    for group in fields(Config):
        rows = [
            f"| `{key}` | {option.allowed} | `{json.dumps(defaults[key], ensure_ascii=False)}` | {option.description} |\n"
            for key, option in options().items()
            if key.startswith(f"{group.name}.")
        ]
        about = typing.cast("type", group.default_factory).__doc__
        table = "| option | values | default | meaning |\n|---|---|---|---|\n" + "".join(rows)
        parts.append(f"\n## {group.name}\n\n{about}\n\n{_choices(conf, group.name)}{table}")
    return "".join(parts)


def _choices(conf: Path, group: str) -> str:
    rows = [f"- `{group}={path.stem}`: {_comment(path)}\n" for path in sorted((conf / group).glob("*.yaml"))]
    return "".join(rows) + "\n" if rows else ""


def _comment(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next(line.partition("# ")[2] for line in lines if "# " in line and "@package" not in line)
