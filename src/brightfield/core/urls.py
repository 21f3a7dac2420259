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
_IN_TEXT = re.compile(r"[A-Za-z][\w.+:-]{0,255}://[^\s'\"<>]*[^\s'\"<>.,:;)]")

# Credentials in a text, which nothing like :// marks: what stands before the @ of a host. Signs may be percent-encoded.
_WORD = re.compile(r"[^\s\"'<>{}]+")
_LONGEST_WORD = 1024
_AT, _COLON = r"(?:@|%(?:25)*40)", r"(?::|%(?:25)*3A)"
_END = r",;()\[\]|="  # ends a name; may be within a password
_BEGIN = rf"(?<![^{_END}/:@%])"
_ALONE = r"(?:(?<![\w.+%~@/-])|(?<=//)|(?<=:/))"
_PLACE = r"(?:/|:/|:[0-9])"  # behind the host of an address, and not behind an e-mail address
_HOST_OR_MAIL = r"(?:\[[0-9A-Fa-f:.]+\]|\w[\w.-]*)"
_FULL_HOST = r"(?:[A-Za-z][\w.-]*|[0-9]+(?:\.[0-9]+){3}|\[[0-9A-Fa-f:.]+\])"
_MIXED = r"(?=[\w-]*[0-9])(?=[\w-]*[A-Za-z_])[\w-]"  # and so many of them
_NO_TIME = rf"(?![0-9]{{1,2}}:[0-9]{{2}}{_AT})"
_NO_MAIL = r"(?!(?:mailto|e-?mail|mail):[\w.+-]+@[\w-]+(?:\.[\w-]+)+(?![\w/]|:\S))"
_CREDENTIALS = re.compile(
    "|".join(
        (
            rf"{_BEGIN}{_NO_TIME}{_NO_MAIL}[^{_END}/:@%]*{_COLON}[^{_END}/]+{_AT}(?={_HOST_OR_MAIL})",  # user:password@host
            rf"{_BEGIN}[^{_END}/:@%]+{_COLON}[^/]+{_AT}(?={_HOST_OR_MAIL}{_PLACE})",  # u:p,w@host/path
            rf"{_ALONE}(?!git@)[\w.+~%-]+{_AT}(?={_FULL_HOST}{_PLACE})",  # token@host/path
            rf"{_ALONE}{_MIXED}{{8,}}{_AT}(?=[A-Za-z][\w-]*(?!\.?[\w-]|:\S))",  # t0k3n0f8@host
            rf"{_ALONE}{_MIXED}{{20,}}{_AT}(?={_FULL_HOST})",  # longer than a name before a mail's @
        )
    ),
    re.IGNORECASE | re.ASCII,
)


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
    """A text or message of somebody else's, with each address in it as `public_url` has it, and without what else could be credentials."""
    return _without_credentials(_IN_TEXT.sub(lambda found: public_url(found[0]), text))


def _without_credentials(text: str) -> str:
    return _WORD.sub(lambda word: _credentials_cut(word[0]), text) if re.search(_AT, text) else text


def _credentials_cut(word: str) -> str:
    """A word without what stands before the @ of a host; of one that nobody reads, and that might hide some, nothing."""
    if not re.search(_AT, word):
        return word
    return _CREDENTIALS.sub("", word) if len(word) <= _LONGEST_WORD else "..."


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
        return _without_credentials(_USER_IN_PATH.sub("", part))
    address, fragment, _ = rest.partition("#")
    place, question, query = address.partition("?")
    authority, slash, path = place.partition("/")
    host = authority.rpartition("@")[2]
    shown = [scheme, mark, host if _HOST.fullmatch(host) else "...", slash, re.sub(r";[^/]*", ";...", path), question]
    return "".join(shown) + "&".join(map(_parameter, query.split("&"))) + (fragment and "#...")


def _parameter(pair: str) -> str:
    name, _, value = pair.partition("=")
    return pair if not pair or (name in _HARMLESS and ";" not in value) else "..."
