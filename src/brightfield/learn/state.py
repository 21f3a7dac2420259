"""Where in a training one is: the epoch and the patches seen in it, to go on from after a stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from brightfield.core.errors import ConfigError

type State = dict[str, Any]

_PLACE = ("epoch", "position")


def saved(epoch: int, position: int, facts: Mapping[str, Any]) -> State:
    """A place in a training, as plain JSON values; `facts` are what it depends on."""
    return {"epoch": int(epoch), "position": int(position), **facts}


def restored(state: Mapping[str, Any], length: int, facts: Mapping[str, Any]) -> tuple[int, int]:
    """Epoch and position of a saved place. Raises ConfigError, naming what differs, where it was saved for another order."""
    if missing := [name for name in (*_PLACE, *facts) if name not in state]:
        raise ConfigError(f"not the state of a patch dataset: {', '.join(missing)} missing")
    differing = [f"{name} is {facts[name]!r}, saved {state[name]!r}" for name in facts if facts[name] != state[name]]
    if differing:
        raise ConfigError(f"the state was saved for another order: {'; '.join(differing)}; make the dataset with the same arguments")
    epoch, position = int(state["epoch"]), int(state["position"])
    if epoch < 0 or not 0 <= position <= length:
        raise ConfigError(f"a state has an epoch from 0 on and a position from 0 to {length}, found {epoch} and {position}")
    return epoch, position
