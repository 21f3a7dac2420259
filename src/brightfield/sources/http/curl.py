"""One GET at a time over a connection that is kept alive. libcurl does the talking, and lets other threads work meanwhile.

What to make of an answer, and whether to ask again, is for `http/client.py` to decide.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import pycurl

from brightfield.core.version import __version__

_STALL_BYTES_PER_S = 4096  # slower than this for `timeout_s` is a stall, even when bytes trickle in
_SLOWEST_BYTES_PER_S = 2**16  # an answer may take as long as the largest one that is allowed would at this pace, and `timeout_s`
_BUFFER_BYTES = 2**19  # holds most tiles: libcurl hands over what has come in pieces of at most this
_HEADERS = [f"User-Agent: brightfield/{__version__}", "Accept-Encoding: identity"]
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_SCHEMES = ("http", "https")
_TO_QUOTE = re.compile(r"[^A-Za-z0-9\-._~!$%&'()*+,/:;=?@]+")

_REASONS = {
    pycurl.E_COULDNT_RESOLVE_PROXY: "could not connect",
    pycurl.E_COULDNT_RESOLVE_HOST: "could not connect",
    pycurl.E_COULDNT_CONNECT: "could not connect",
    pycurl.E_PARTIAL_FILE: "short body",
    pycurl.E_SSL_CONNECT_ERROR: "TLS failed: check the certificate store and the clock",
    pycurl.E_PEER_FAILED_VERIFICATION: "TLS failed: check the certificate store and the clock",
    pycurl.E_SSL_CACERT_BADFILE: "TLS failed: check the certificate store and the clock",
}
"""Short, and the same for the same trouble; whatever else goes wrong is a broken connection."""


class Broken(Exception):
    """No complete answer came. final: none can, whatever the attempt."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer of any status.

    content_type: as the server wrote it, may be empty. retry_after_s: what the server asked for, 0 for nothing. redirect_url: absolute;
    empty where the server redirects nowhere.
    """

    status: int
    content_type: str
    body: bytes
    retry_after_s: float
    redirect_url: str


class Connection:
    """Asks one thing after the other, in one thread at a time, and keeps the connection to the host where it can.

    timeout_s: for connecting, and of silence. Redirects are not followed. Proxies are those of the environment; certificates are checked
    against the system's, or SSL_CERT_FILE and SSL_CERT_DIR.

    Any thread may `abort` what is asked. Where a kept connection turns out to be closed before a byte of the answer came, libcurl asks once
    more over a new one.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._curl = pycurl.Curl()
        self._proxies: dict[str, str] = {}
        self._sockets: list[socket.socket] = []  # our hold on those of the request under way
        self._lock = threading.Lock()
        self.aborted = False
        options = {
            pycurl.NOSIGNAL: 1,  # signals belong to the main thread
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
            pycurl.HTTPHEADER: _HEADERS,
            pycurl.BUFFERSIZE: _BUFFER_BYTES,
            pycurl.MAXCONNECTS: 1,  # so that the one that is kept is the one that `_hold_kept` holds
            pycurl.CONNECTTIMEOUT_MS: math.ceil(timeout_s * 1000),
            pycurl.LOW_SPEED_LIMIT: _STALL_BYTES_PER_S,
            pycurl.LOW_SPEED_TIME: math.ceil(timeout_s),
            pycurl.OPENSOCKETFUNCTION: self._open_socket,
        }
        for variable, option in (("SSL_CERT_FILE", pycurl.CAINFO), ("SSL_CERT_DIR", pycurl.CAPATH)):
            if os.environ.get(variable):
                options[option] = os.environ[variable]
        for option, value in options.items():
            self._curl.setopt(option, value)

    def get(self, url: str, max_body_bytes: int) -> Reply:
        """The answer to a GET; raises Broken where none came, or not all of it, or more than `max_body_bytes`, or not in their time."""
        received = io.BytesIO()  # one buffer, however small the pieces are in which the body comes
        longest_s = self._timeout_s + max_body_bytes / _SLOWEST_BYTES_PER_S
        try:
            self._curl.setopt(pycurl.URL, _quoted(url))
            self._curl.setopt(pycurl.PROXY, self._proxy(url))
        except ValueError as error:
            raise Broken("not a URL that can be fetched", final=True) from error
        self._curl.setopt(pycurl.MAXFILESIZE_LARGE, max_body_bytes)
        self._curl.setopt(pycurl.TIMEOUT_MS, math.ceil(longest_s * 1000))
        self._curl.setopt(pycurl.WRITEFUNCTION, received.write)
        self._hold_kept()
        try:
            self._perform()
        except pycurl.error as error:
            raise self._broken(error.args[0], max_body_bytes, longest_s) from error
        finally:
            with self._lock:
                while self._sockets:
                    self._sockets.pop().close()
        body = received.getvalue()
        received.close()  # libcurl's handle still knows it
        return Reply(
            self._curl.getinfo(pycurl.RESPONSE_CODE),
            self._text(pycurl.CONTENT_TYPE),
            body,
            float(self._curl.getinfo(pycurl.RETRY_AFTER)),
            self._text(pycurl.REDIRECT_URL),
        )

    def abort(self) -> None:
        """Let the request under way fail at once, and every later one."""
        self.aborted = True
        with self._lock:
            for opened in self._sockets:
                with contextlib.suppress(OSError):  # the other side was quicker
                    opened.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up."""
        self._curl.close()

    def _hold_kept(self) -> None:
        kept = self._curl.getinfo(pycurl.ACTIVESOCKET)
        with self._lock:
            if self.aborted:
                raise Broken("aborted", final=True)
            if kept >= 0:
                self._sockets.append(socket.socket(fileno=os.dup(kept)))

    def _open_socket(self, _: int, address: tuple[int, int, int, object]) -> socket.socket | int:
        with self._lock:
            if self.aborted:
                return int(pycurl.SOCKET_BAD)
            opened = socket.socket(*address[:3])
            self._sockets.append(opened)  # libcurl works with a copy
            return opened

    def _perform(self) -> None:
        """In the main thread by another one: Python sees no Ctrl-C while libcurl waits."""
        if threading.current_thread() is not threading.main_thread():
            self._curl.perform()
            return
        with ThreadPoolExecutor(1) as helper:
            try:
                helper.submit(self._curl.perform).result()
            except KeyboardInterrupt:
                self.abort()
                raise

    def _text(self, info: int) -> str:
        """What the server wrote, whatever its encoding."""
        return (self._curl.getinfo_raw(info) or b"").decode("latin-1")

    def _proxy(self, url: str) -> str:
        """The proxy for `url`, empty for none; what the environment says is asked once a scheme and host."""
        scheme, _, rest = url.partition("://")
        host = f"{scheme}://{rest.partition('/')[0]}"
        if host not in self._proxies:
            self._proxies[host] = _proxy_of(url)
        return self._proxies[host]

    def _broken(self, code: int, max_body_bytes: int, longest_s: float) -> Broken:
        if code == pycurl.E_FILESIZE_EXCEEDED:
            return Broken(f"body larger than {max_body_bytes} bytes", final=True)
        if code == pycurl.E_URL_MALFORMAT:
            return Broken("not a URL that can be fetched", final=True)
        if code == pycurl.E_OPERATION_TIMEDOUT:
            if self._curl.getinfo(pycurl.TOTAL_TIME) >= longest_s:
                return Broken(f"not here after {longest_s:.0f} s")
            return Broken("stalled" if self._curl.getinfo(pycurl.PRETRANSFER_TIME) else "could not connect in time")
        return Broken(_REASONS.get(code, "connection broken"))


def _quoted(url: str) -> str:
    """`url` with what must not stand in its path or query percent-encoded; what is encoded already stays as it is."""
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in _SCHEMES:
        raise Broken("not a URL that can be fetched: expected http:// or https://", final=True)
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}{slash}{_TO_QUOTE.sub(lambda found: quote(found[0], safe=''), path)}"


def _proxy_of(url: str) -> str:
    host = urlsplit(url).hostname or ""
    if host in _LOOPBACK or proxy_bypass(host):
        return ""
    return getproxies().get(urlsplit(url).scheme, "")
