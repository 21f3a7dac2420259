"""The command line: `brightfield --help` explains itself. Thin: every command parses its words and calls one function.

Exit codes: 0 done; 1 the data or the world is at fault; 2 the command or the configuration is; 130 interrupted. Imports are inside the
commands, so that help answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from brightfield.arguments import Command, Commands, define, not_negative, positive, whole
from brightfield.core.errors import BrightfieldError, CheckError, ConfigError, with_page
from brightfield.core.urls import public_text
from brightfield.core.version import __version__

if TYPE_CHECKING:
    from brightfield.config.options import Config

STAGES = ("query", "download", "align", "rasterize", "split", "manifest", "report")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Users' mistakes are told in words, with a traceback only under `-v`."""
    words = _parser().parse_args(arguments)
    command: Command = words.command
    try:
        return command(words)
    except BrightfieldError as error:
        if words.verbose:
            raise
        print(f"error: {public_text(with_page(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept, run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except (OSError, MemoryError) as error:  # a full disk, no permission, no memory: the world's fault wherever it is met
        if words.verbose:
            raise
        print(f"error: {public_text(_in_words(error))}; -v shows where", file=sys.stderr)
        return BrightfieldError.exit_code


def _in_words(error: OSError | MemoryError) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory ({error or 'the machine gives no more'}): take fewer compute.workers, or a machine with more"
    names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
    return f"{names}: {error.strerror}" if names and error.strerror else str(error) or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="brightfield",
        description="Make, version and share training data for neuron reconstruction.",
        epilog="The usual way to build is `dvc repro`; these commands are for everything around it.",
    )
    parser.add_argument("--version", action="version", version=f"brightfield {__version__}")
    parser.add_argument("-C", "--root", type=Path, default=Path(), metavar="DIR", help="the data repository (default: here)")
    parser.add_argument("-v", "--verbose", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (
        _add_config,
        _add_inspect,
        _add_plan,
        _add_stage,
        _add_refresh,
        _add_report,
        _add_check,
        _add_view,
        _add_evaluate,
        _add_salt,
        _add_versions,
        _add_mirror,
        _add_gc,
    ):
        add(commands)
    return parser


def _params(words: argparse.Namespace) -> Config:
    from brightfield.config.params import load
    from brightfield.core.layout import PARAMS_FILE

    return load(words.root / PARAMS_FILE)


def _composed(words: argparse.Namespace) -> Config:
    """What conf/ composes to with the overrides; without any, params.yaml as it is."""
    from brightfield.config import compose as composition

    return composition.compose(words.overrides, words.root) if words.overrides else _params(words)


# ------------------------------------------------------------------------------------------------------ configuration and plan


def _add_config(commands: Commands) -> None:
    parser = define(commands, "config", _config, "compose conf/ with overrides, check it, write params.yaml")
    example = "Hydra overrides, e.g. source=allen labels=inside split.test=0.2"
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=example)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="write nothing; fail if params.yaml is not what conf/ composes to")
    mode.add_argument("--show", action="store_true", help="write nothing; print the composed configuration")


def _config(words: argparse.Namespace) -> int:
    from brightfield.config import compose as composition
    from brightfield.run.collect import work_root

    if words.check:
        composition.require_fresh(words.root)
        print("params.yaml is what conf/ composes to")
        return 0
    composed = composition.compose(words.overrides, words.root)
    work_root(words.root, composed.compute.work_dir)  # refuses a place that is not for finished cells alone
    if words.show:
        print(composition.dump(composed), end="")
    else:
        print(f"wrote {composition.write_params(composed, words.root)}; now run `dvc repro`")
    return 0


def _add_plan(commands: Commands) -> None:
    parser = define(commands, "plan", _plan, "say what a download would fetch, before any byte of it")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides; without any, params.yaml as it is")
    parser.add_argument("--rate", type=positive, default=10.0, metavar="MB/S", help="believe in this rate of the network (default 10)")
    parser.add_argument("--latency", type=not_negative, default=100.0, metavar="MS", help="and that an answer takes so long (default 100)")
    parser.add_argument("--connections", type=whole, metavar="N", help="over so many connections (default: compute.connections)")
    limit = "and so many requests a second, 0: no limit (default: compute.requests_per_second)"
    parser.add_argument("--requests-per-second", type=not_negative, metavar="R", help=limit)
    parser.add_argument("--json", action="store_true", help="for programs")


def _plan(words: argparse.Namespace) -> int:
    from brightfield.planning import Pace, plan

    config = _composed(words)
    limit = config.compute.requests_per_second if words.requests_per_second is None else words.requests_per_second
    pace = Pace(words.rate, words.latency / 1000, words.connections or config.compute.connections, limit)
    found = plan(config, words.root)
    print(found.as_json(pace) if words.json else found.as_text(pace))
    return 0


def _add_inspect(commands: Commands) -> None:
    parser = define(commands, "inspect", _inspect, "say what is believed of one stack or skeleton of your own, and why")
    parser.add_argument("path", metavar="PATH", help="an image file, an OME-Zarr, an SWC, or the directory of a cell; also an fsspec URL")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="options of `source`, e.g. source.channel=0 source.pixel_um=0.1144"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write a small picture: the middle plane with the skeleton over it")


def _inspect(words: argparse.Namespace) -> int:
    from brightfield.config.validate import source_of
    from brightfield.inspection import look

    found = look.inspect_path(words.path, source_of(words.overrides))
    print(found.as_json() if words.json else found.as_text())
    if words.png is not None:
        from brightfield.inspection.picture import write_picture

        write_picture(found, words.png)
    return int(found.is_refused)


# -------------------------------------------------------------------------------------------------------------- building


def _add_stage(commands: Commands) -> None:
    parser = define(commands, "stage", _stage, "run one stage by hand, as `dvc repro` does")
    parser.add_argument("name", choices=STAGES)


def _stage(words: argparse.Namespace) -> int:
    from importlib import import_module

    from brightfield.run.claim import at_work, end_with_dvc
    from brightfield.run.collect import work_root

    config = _params(words)
    end_with_dvc()
    with at_work(words.root, work_root(words.root, config.compute.work_dir)):
        import_module(f"brightfield.stages.{words.name}.stage").run(config, words.root)
    return 0


def _add_refresh(commands: Commands) -> None:
    parser = define(commands, "refresh", _refresh, "ask the source again and say what changed since the snapshot")
    parser.add_argument("--write", action="store_true", help="take the new answer as the snapshot that is built from")


def _refresh(words: argparse.Namespace) -> int:
    from brightfield.stages.query import stage as query

    print(query.refresh(_params(words), words.root, write=words.write))
    return 0


def _add_gc(commands: Commands) -> None:
    parser = define(commands, "gc", _gc, "shrink the work cache to what the present outputs use")
    parser.add_argument("--keep-gb", type=not_negative, default=0.0, metavar="GB", help="keep up to this much of what is not in use")


def _gc(words: argparse.Namespace) -> int:
    from brightfield.run.collect import gc

    freed = gc(words.root, _params(words).compute.work_dir, keep_bytes=int(min(words.keep_gb, 1e9) * 1e9))
    print(f"freed {freed / 1e9:.2f} GB")
    return 0


# ------------------------------------------------------------------------------------------------------------------ report


def _add_report(commands: Commands) -> None:
    parser = define(commands, "report", _report, "say where the report is, export it as one file, or picture what changed since a version")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--single", type=Path, metavar="FILE", help="write the whole report as one HTML file, to be sent on")
    mode.add_argument("--since", metavar="REV", help="write a page about what differs from a version, labels side by side")


def _report(words: argparse.Namespace) -> int:
    from brightfield.stages.report.single import built_index, write_single

    if words.since is not None:
        from brightfield.versions.changes import write_changes

        print(write_changes(words.root, words.since))
    else:
        print(built_index(words.root) if words.single is None else write_single(words.root, words.single))
    return 0


# -------------------------------------------------------------------------------------------------------- checks and splits


def _add_check(commands: Commands) -> None:
    parser = define(commands, "check", _check, "prove a built dataset: hashes, grids, codes, splits, terms")
    parser.add_argument("--json", action="store_true", help="for programs")


def _check(words: argparse.Namespace) -> int:
    from dataclasses import asdict

    from brightfield.core.codes import Severity
    from brightfield.stages.manifest import checks
    from brightfield.stages.manifest.findings import as_text

    findings = checks.run_checks(words.root)
    if words.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        print(as_text(findings))
    return CheckError.exit_code if any(finding.severity == Severity.ERROR for finding in findings) else 0


def _add_view(commands: Commands) -> None:
    from brightfield.viewing.command import add_arguments

    add_arguments(define(commands, "view", _view, "show cells in a browser: stain, labels, skeleton, alignment, predictions"))


def _view(words: argparse.Namespace) -> int:
    from brightfield.viewing.command import shown

    with shown(words) as show:
        print(show.text, flush=True)
        show.wait()
    return 0


def _add_evaluate(commands: Commands) -> None:
    parser = define(commands, "evaluate", _evaluate, "score predictions against the dataset: voxels (OME-Zarr, npy, TIFF) or traces (SWC)")
    parser.add_argument("prediction", type=Path, metavar="PRED", help="a file, an OME-Zarr, or a directory with one of them per cell")
    parser.add_argument("--cell", type=int, metavar="ID", help="the cell it is of (default: the number in each name)")
    parser.add_argument("--split", choices=("train", "val", "test"), help="only the cells of this side")
    parser.add_argument("--threshold", type=float, metavar="T", help="volumes: values above T are foreground (default: label codes)")
    parser.add_argument("--unit", choices=("um", "voxels"), default="um", help="traces: the unit of their coordinates (default um)")
    parser.add_argument("--tolerance", type=float, default=2.0, metavar="UM", help="traces: how far a path may be off (default 2 um)")
    parser.add_argument("--json", action="store_true", help="for programs")


def _evaluate(words: argparse.Namespace) -> int:
    from importlib.util import find_spec

    from brightfield.evaluation import scoring, tables

    if any(find_spec(library) is None for library in ("scipy", "skimage", "tifffile")):
        raise ConfigError("evaluate needs more libraries; install them with `pip install 'brightfield[evaluate]'`")
    options = scoring.Options(words.threshold, words.unit, words.tolerance)
    scores = scoring.evaluate(words.root, words.prediction, cell=words.cell, split=words.split, options=options)
    print(tables.as_json(scores) if words.json else tables.as_text(scores))
    return 0


def _add_salt(commands: Commands) -> None:
    parser = define(commands, "salt", _salt, "search the split's salt with the smallest deviation over strata")
    parser.add_argument("--candidates", type=whole, default=500, metavar="N", help="how many salts to try (default 500)")


def _salt(words: argparse.Namespace) -> int:
    from brightfield.stages.split import stage as split

    print(split.best_salt(_params(words), words.root, words.candidates))
    return 0


# --------------------------------------------------------------------------------------------------------------- versions


def _add_versions(commands: Commands) -> None:
    diff = define(commands, "diff", _diff, "compare two versions of the dataset: cells, reasons, splits, numbers")
    diff.add_argument("old", metavar="REV1")
    diff.add_argument("new", metavar="REV2", nargs="?", help="default: the working tree")
    release = define(commands, "release", _release, "check, propose PATCH/MINOR/MAJOR, write the data changelog and the tag")
    release.add_argument("--yes", action="store_true", help="do it; without it only say what would be done")
    pull = define(commands, "pull", _pull, "fetch a part of the dataset from the team remote")
    pull.add_argument("overrides", nargs="*", metavar="split=NAME", help="split=train, split=val or split=test")
    pull.add_argument("--cell", type=int, action="append", default=[], metavar="ID", help="only this cell; may be repeated")
    pull.add_argument("--labels-only", action="store_true", help="labels without images")
    push = define(commands, "push", _push, "send the dataset to the team remote")
    push.add_argument("--repair", action="store_true", help="read every object back first, and send again what is absent or damaged")


def _diff(words: argparse.Namespace) -> int:
    from brightfield.versions.diff import diff

    print(diff(words.root, words.old, words.new).as_text())
    return 0


def _release(words: argparse.Namespace) -> int:
    from brightfield.versions.release import release

    print(release(words.root, dry_run=not words.yes))
    return 0


def _pull(words: argparse.Namespace) -> int:
    from brightfield.versions.pull import pull

    wanted = dict(word.split("=", 1) for word in words.overrides if "=" in word)
    if set(wanted) - {"split"} or len(wanted) != len(words.overrides):
        raise ConfigError(f"pull knows split=NAME, found {' '.join(words.overrides)}; see `brightfield pull --help`")
    pull(words.root, split=wanted.get("split"), cells=words.cell, labels_only=words.labels_only)
    return 0


def _push(words: argparse.Namespace) -> int:
    from brightfield.versions.push import push

    print(push(words.root, repair=words.repair))
    return 0


# ----------------------------------------------------------------------------------------------------------------- mirror


def _add_mirror(commands: Commands) -> None:
    mirror = commands.add_parser(
        "mirror", help="an offline copy of the image service", description="An Allen-compatible server of your own."
    )
    actions = mirror.add_subparsers(title="actions", required=True, metavar="ACTION")
    serve = define(actions, "serve", _mirror_serve, "serve a folder as the Allen service would")
    serve.add_argument("folder", type=Path)
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=0, help="default: a free one")
    serve.add_argument("--faults", default="", metavar="KEY=RATE,...", help="misbehave on purpose, e.g. error=0.1,truncate=0.05,seed=1")

    export = define(actions, "export", _mirror_export, "copy the source's selected cells into a folder that `mirror serve` serves")
    export.add_argument("folder", type=Path)
    export.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides; without any, params.yaml as it is")
    export.add_argument("--no-pictures", action="store_true", help="tables, skeletons and markers alone")


def _mirror_serve(words: argparse.Namespace) -> int:
    from brightfield.sources.mirror import server as mirror

    mirror.serve_folder(words.folder, words.host, words.port, words.faults)
    return 0


def _mirror_export(words: argparse.Namespace) -> int:
    from brightfield.stages.query import offline

    print(offline.export_selected(_composed(words), words.folder, pictures=not words.no_pictures))
    return 0
