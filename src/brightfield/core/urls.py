"""Addresses as they may be shown: without secrets."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

_SECRET = re.compile(r"(?i)((?:^|&)[^=&]*(?:signature|token|secret|password|credential|key|sig|auth)[^=&]*=)[^&]*")


def web_link(url: str) -> str:
    """`url` where a page may link to it: an http or https address; else nothing."""
    return url if re.fullmatch(r"https?://[^\s\"'<>]+", url) else ""


def public_url(url: str) -> str:
    """`url` without user, password and signing parameters: fit for messages, logs and tables."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=_SECRET.sub(r"\1...", parts.query)))
