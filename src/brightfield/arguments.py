"""Words of the command line: what a command is, and the kinds of numbers that options take."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

type Command = Callable[[argparse.Namespace], int]
type Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  (argparse has no public name for it)


def define(commands: Commands, name: str, command: Command, help_text: str) -> argparse.ArgumentParser:
    """Add a command; `command` is called with its words, and its answer is the exit code."""
    parser = commands.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
    parser.set_defaults(command=command)
    return parser


def positive(text: str) -> float:
    """A number > 0 of the command line: not nan, not inf."""
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError(text)
    return number


def not_negative(text: str) -> float:
    """A number >= 0 of the command line: not nan, not inf."""
    return 0.0 if float(text) == 0 else positive(text)


def whole(text: str) -> int:
    """A whole number >= 1 of the command line."""
    return int(positive(text)) if text.isdecimal() else int("")
