"""The team remote, through DVC: opened with every object verified, its errors in words, its objects compared with their names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from brightfield.core.errors import BrightfieldError, ConfigError, TransferError

_NOT_LET_IN = ("credential", "permission denied", "access denied", "accessdenied", "forbidden", "signature", "authenticat", "access key")


@contextmanager
def team_repo(root: Path) -> Iterator[Any]:
    """DVC's view of the repository at `root`, which compares what arrives from a remote with its hash: by default it believes its remotes.

    Raises ConfigError where DVC finds no repository or the clone knows no remote, TransferError, in one line, for whatever a remote raises
    within the block.
    """
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            remotes = {name: {"verify": True} for name in repo.config["remote"]}
    except Exception as error:  # of DVC, of its configuration, of git
        raise ConfigError(
            f"no DVC repository can be opened here: {' '.join(str(error).split())}; run this in a clone, or say -C"
        ) from error
    if not remotes:
        raise ConfigError("this clone knows no remote; add the team's: dvc remote add -d team URL")
    with Repo(str(root), config={"remote": remotes}) as repo:
        try:
            yield repo
        except BrightfieldError:
            raise
        except Exception as error:  # each kind of remote brings exceptions of its own
            raise TransferError(in_words(error)) from error


def in_words(error: BaseException) -> str:
    """What a remote refused, in one line, and what to do."""
    told: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        text = " ".join(str(cause).split()) or type(cause).__name__
        told += [text] if text not in " ".join(told) else []
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    text = ": ".join(told[:2])[:500]
    if _is_refusal(" ".join(told)):
        return f"the remote does not let you in ({text}); its credentials go into the environment or `dvc remote modify --local`"
    return f"the remote does not do it: {text}; see `dvc remote list` and docs/how-to/team-remote.md"


def _is_refusal(text: str) -> bool:
    return any(word in text.lower() for word in _NOT_LET_IN)


def fault(files: Any, path: str, md5: str) -> str:
    """What is wrong with an object at `path` of a file system: absent, damaged or unreadable; empty where its bytes are those of `md5`."""
    digest = hashlib.md5(usedforsecurity=False)  # DVC's
    try:
        with files.open(path, "rb") as stream:
            for block in iter(lambda: stream.read(2**20), b""):
                digest.update(block)
    except FileNotFoundError:
        return "absent from the remote"
    except OSError:
        raise
    except Exception as error:  # each kind of remote brings exceptions of its own
        if _is_refusal(str(error)):
            raise
        return f"unreadable in the remote: {error}"
    return "" if digest.hexdigest() == md5.removesuffix(".dir") else "damaged in the remote"
