"""An Allen-compatible HTTP server over a catalog: the embedded demo, an offline copy for a lab, and the partner of the tests.

It answers what AllenSDK asks: RMA queries as JSON, ``well_known_file_download`` and ``image_download``. It can be told to
misbehave (`Faults`), and it remembers every request.
"""

from __future__ import annotations

import io
import json
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np
from numpy.typing import NDArray

from brightfield.core.errors import ConfigError
from brightfield.sources.mirror import rma as mirror_rma
from brightfield.sources.mirror.catalog import Catalog, FolderCatalog, Picture
from brightfield.sources.mirror.faults import PICTURES_ONLY, Fault, Faults

_QUERY, _FILE, _IMAGE = "/api/v2/data/query.json", "/api/v2/well_known_file_download/", "/api/v2/image_download/"
_ERROR_PAGE = b"<!DOCTYPE html><html><head><title>Error</title></head><body><h1>We're sorry, but something went wrong.</h1></body></html>"
_PIECES_PER_S = 10  # of an answer that comes slowly
_QUALITY = 75  # where a request names none


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer before it is sent."""

    body: bytes
    content_type: str
    status: int = 200
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One request that the mirror has seen; path is everything after the host, attempt counts from 1."""

    path: str
    attempt: int
    fault: Fault | None


class Mirror:
    """A running mirror. `base_url` is where it is; `requests` is what it was asked so far, in order of arrival."""

    def __init__(self, catalog: Catalog, faults: Faults) -> None:
        self.catalog = catalog
        self.faults = faults
        self.base_url = ""
        self._started = time.monotonic()
        self._requests: list[Request] = []
        self._attempts: Counter[str] = Counter()
        self._recent: mirror_rma.Recent = deque(maxlen=4)
        self._lock = threading.Lock()

    @property
    def requests(self) -> tuple[Request, ...]:
        """What was asked so far."""
        with self._lock:
            return tuple(self._requests)

    def forget(self) -> None:
        """Start counting requests and attempts anew."""
        with self._lock:
            self._requests.clear()
            self._attempts.clear()

    def note(self, path: str) -> Request:
        """Count a request and decide its fault."""
        with self._lock:
            self._attempts[path] += 1
            attempt = self._attempts[path]
            request = Request(path, attempt, self.faults.of(path, attempt))
            self._requests.append(request)
        if (wait_s := self._started + self.faults.slow_start_s - time.monotonic()) > 0:
            time.sleep(wait_s)
        return request

    def reply(self, request: Request) -> Reply:
        """What the catalog has for a request; faults of the content are already in it."""
        url = urlsplit(request.path)
        parameters = dict(parse_qsl(url.query, keep_blank_values=True))
        if url.path == _QUERY:
            text = parameters.get("q", parameters.get("criteria", ""))
            envelope = mirror_rma.answer(self.catalog.tables, text, self._recent)
            return Reply(json.dumps(envelope).encode(), "application/json")
        if url.path.startswith(_FILE):
            return _file_reply(self.catalog, url.path.removeprefix(_FILE))
        if url.path.startswith(_IMAGE):
            return self._image_reply(request, url.path.removeprefix(_IMAGE), parameters)
        return Reply(_ERROR_PAGE, "text/html", 404)

    def _image_reply(self, request: Request, name: str, parameters: Mapping[str, str]) -> Reply:
        picture = self.catalog.picture(int(name)) if name.isdigit() else None
        if picture is None:
            return Reply(_ERROR_PAGE, "text/html")  # the service says 200 here
        if self.faults.chance(f"gone {name}") < self.faults.gone:
            return Reply(_ERROR_PAGE, "text/html", 404)
        try:
            asked = {key: int(value) for key, value in parameters.items()}
            pixels = _crop(picture, asked)
        except ValueError:
            return Reply(_ERROR_PAGE, "text/html")
        if self.faults.chance(f"changing {name}") < self.faults.changing:
            pixels = pixels ^ np.uint8(request.attempt % 2)
        if request.fault is Fault.wrong_size:
            pixels = pixels[: max(1, pixels.shape[0] - 2), : max(1, pixels.shape[1] - 2)]
        return Reply(_jpeg(pixels, asked.get("quality", _QUALITY)), "image/jpeg")


@contextmanager
def serve(catalog: Catalog, *, host: str = "127.0.0.1", port: int = 0, faults: Faults | None = None) -> Iterator[Mirror]:
    """A mirror of `catalog` for the length of a `with` block, on a free port unless one is given.

    Raises ConfigError where it cannot listen at the address.
    """
    mirror = Mirror(catalog, faults or Faults())
    try:
        server = _Server((host, port), mirror)
    except OSError as error:
        raise ConfigError(f"the mirror cannot listen at {host}:{port}: {error.strerror}; choose another --port") from error
    mirror.base_url = f"http://{host}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, name="mirror", daemon=True)
    thread.start()
    try:
        yield mirror
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()


def serve_folder(folder: Path, host: str, port: int, faults: str = "") -> None:
    """Serve a folder until interrupted; `faults` as `Faults.parse` reads it."""
    catalog = FolderCatalog(folder)
    with serve(catalog, host=host, port=port, faults=Faults.parse(faults)) as mirror:
        print(f"{catalog.summary}\nserving at {mirror.base_url}; stop with Ctrl-C", flush=True)  # noqa: T201  (a command's output)
        threading.Event().wait()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], mirror: Mirror) -> None:
        self.mirror = mirror
        self.stopping = threading.Event()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Without the look-up of the host's name that the standard library does here."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are everyday life."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "brightfield-mirror"
    sys_version = ""
    disable_nagle_algorithm = True
    wbufsize = -1  # header and body in one go
    timeout = 120
    server: _Server

    def do_GET(self) -> None:
        """Answer one request."""
        request = self.server.mirror.note(self.path)
        if request.fault is Fault.reset:
            self._tear_down()
        else:
            self._send(request)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the standard library's name)
        """Nothing: `Mirror.requests` remembers."""

    def _send(self, request: Request) -> None:
        faults = self.server.mirror.faults
        reply = _refused(request, faults) or _damaged(self.server.mirror.reply(request), request.fault)
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(reply.body)))
        if reply.retry_after_s is not None:
            self.send_header("Retry-After", str(reply.retry_after_s))
        self.end_headers()
        if request.fault not in (Fault.truncate, Fault.stall):
            self._write(reply.body, faults.drip_bytes_per_s)
            return
        self.wfile.write(reply.body[: len(reply.body) // 2])
        self.wfile.flush()
        self.close_connection = True
        if request.fault is Fault.stall:
            self.server.stopping.wait(faults.stall_s)

    def _write(self, body: bytes, bytes_per_s: float) -> None:
        """Send a body, in pieces where it is to come slowly."""
        step = max(1, round(bytes_per_s / _PIECES_PER_S)) if bytes_per_s else len(body) or 1
        for first in range(0, len(body), step):
            self.wfile.write(body[first : first + step])
            if bytes_per_s:
                self.wfile.flush()
                self.server.stopping.wait(1 / _PIECES_PER_S)

    def _tear_down(self) -> None:
        """Close with a TCP reset instead of an orderly end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


def _refused(request: Request, faults: Faults) -> Reply | None:
    """The answer to a request that the mirror pretends it cannot serve."""
    if request.fault is Fault.error:
        return Reply(_ERROR_PAGE, "text/html", (500, 502, 503)[request.attempt % 3])
    if request.fault is Fault.throttle:
        return Reply(_ERROR_PAGE, "text/html", 429, faults.retry_after_s)
    if request.fault is Fault.not_found:
        return Reply(_ERROR_PAGE, "text/html", 404)
    return Reply(_ERROR_PAGE, "text/html") if request.fault is Fault.html else None


def _damaged(reply: Reply, fault: Fault | None) -> Reply:
    """The reply as a broken disk or cache behind the service would give it, complete by its Content-Length."""
    picture = reply.content_type == "image/jpeg"
    if fault not in PICTURES_ONLY or not (picture or (fault is Fault.cut and reply.content_type == "application/json")):
        return reply
    body = reply.body
    if fault is Fault.cut:
        return replace(reply, body=body[: len(body) // 2])
    return replace(reply, body=_with_lost_block(body)) if fault is Fault.corrupt else reply


def _with_lost_block(jpeg: bytes) -> bytes:
    """The picture with an eighth of its data, at least 32 bytes, replaced by zeros, as a lost disk block leaves it."""
    data_at = jpeg.index(b"\xff\xda")
    data_at += 2 + int.from_bytes(jpeg[data_at + 2 : data_at + 4])
    n_data = len(jpeg) - 2 - data_at
    first = data_at + n_data // 2
    last = min(first + max(32, n_data // 8), len(jpeg) - 2)
    return jpeg[:first] + bytes(last - first) + jpeg[last:]


def _file_reply(catalog: Catalog, name: str) -> Reply:
    body = catalog.file(int(name)) if name.isdigit() else None
    return Reply(_ERROR_PAGE, "text/html", 404) if body is None else Reply(body, "application/octet-stream")


def _crop(picture: Picture, asked: Mapping[str, int]) -> NDArray[np.uint8]:
    """The part of a picture that a request asks for, full-resolution pixels in, reduced pixels out. Raises ValueError for none."""
    level, top, left = asked.get("downsample", 0), asked.get("top", 0), asked.get("left", 0)
    height = min(asked.get("height", picture.height_px), picture.height_px - top)
    width = min(asked.get("width", picture.width_px), picture.width_px - left)
    if not 0 <= level <= 16 or min(top, left) < 0 or min(height >> level, width >> level) < 1:
        raise ValueError("the box is not in the picture")
    return picture.read(level, top, left, height, width)


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=min(100, max(1, quality)))
    return buffer.getvalue()
