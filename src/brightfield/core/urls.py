"""Addresses as they may be shown: what is known to be harmless stays, all else may be a secret and goes.

The one place that knows which parts are harmless. An address may be a chain as fsspec has them (`simplecache::https://host/path`): each of
its parts is judged alone.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_QUERIES = ("q", "criteria", "include", "order", "num_rows", "start_row")
_PICTURES = ("downsample", "left", "top", "width", "height", "quality")
_HARMLESS = frozenset((*_QUERIES, *_PICTURES, "versionId"))
"""Parameters of a query whose values are shown: those of the Allen service, and an object's version."""

_HOST = re.compile(r"(?:[^@:\s;=&\\]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?")
_SSH_USER = re.compile(r"^((?:ssh|sftp|scp)://)[\w.-]+@")  # a name to log in with, no secret
_USER_IN_PATH = re.compile(r"^[^/]*@(?=[^/]*:)|(?:(?<=^//)|(?<=/)[^/]*:|^[^/]*:|^[A-Za-z][\w+.-]+:/)[^/]*@")
_IN_TEXT = re.compile(r"[A-Za-z][\w.+:-]*://[^\s'\"<>]*[^\s'\"<>.,:;)]")


def web_link(url: str) -> str:
    """`url` where a page may link to it: an http or https address; else nothing."""
    return url if re.fullmatch(r"https?://[^\s\"'<>]+", url) else ""


_PORTS = {"http": 80, "https": 443}


def same_origin(here: str, there: str) -> bool:
    """Whether `there` is on the same host and port as `here`, or is what `here` is behind TLS; never from https to http, nor for a user."""
    try:
        ours, theirs = urlsplit(here), urlsplit(there)
        from_port, to_port = (parts.port or _PORTS.get(parts.scheme) for parts in (ours, theirs))
    except ValueError:  # no address at all
        return False
    way = (ours.scheme, from_port, theirs.scheme, to_port)
    stays = way[:2] == way[2:] or way == ("http", 80, "https", 443)
    return stays and bool(ours.hostname) and ours.hostname == theirs.hostname and ("@" not in theirs.netloc or theirs.netloc == ours.netloc)


def public_url(url: str) -> str:
    """`url` without user, password, signature, fragment and whatever else is not known to be harmless: for messages, logs and tables."""
    return "::".join(_public(part) for part in _parts(url))


def is_public(url: str) -> bool:
    """Whether nothing in `url` could be a secret; the user's name of an SSH address is none."""
    return all(_public(part) == part for part in (_SSH_USER.sub(r"\1", part) for part in _parts(url)))


def public_text(text: str) -> str:
    """A message of somebody else's, with each address in it as `public_url` has it."""
    return _IN_TEXT.sub(lambda found: public_url(found[0]), text)


def _parts(url: str) -> list[str]:
    """The parts of a chain, cut as fsspec cuts it; but a `::` within a query belongs to the query."""
    parts: list[str] = []
    for piece in url.split("::"):
        if parts and "://" not in piece and re.search(r"://.*[?#;]", parts[-1]):
            parts[-1] += f"::{piece}"
        else:
            parts.append(piece)
    return parts


def _public(part: str) -> str:
    scheme, mark, rest = part.partition("://")
    if not mark:  # a path; or user:password@host:path, as scp has it
        return _USER_IN_PATH.sub("", part)
    address, fragment, _ = rest.partition("#")
    place, question, query = address.partition("?")
    authority, slash, path = place.partition("/")
    host = authority.rpartition("@")[2]
    shown = [scheme, mark, host if _HOST.fullmatch(host) else "...", slash, re.sub(r";[^/]*", ";...", path), question]
    return "".join(shown) + "&".join(map(_parameter, query.split("&"))) + (fragment and "#...")


def _parameter(pair: str) -> str:
    name, _, value = pair.partition("=")
    return pair if not pair or (name in _HARMLESS and ";" not in value) else "..."
