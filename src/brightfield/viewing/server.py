"""The viewer on loopback: Neuroglancer's own server and client, the files of the cells, and a list of cells to switch between."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import neuroglancer
import neuroglancer.server
import tornado.web

from brightfield.core.codes import Verdict
from brightfield.core.errors import BrightfieldError, ConfigError
from brightfield.core.layout import image_store, label_store
from brightfield.viewing import layers, page, precomputed
from brightfield.viewing.choice import Row
from brightfield.viewing.material import Material, Readable, Shelf, folder
from brightfield.viewing.scene import Scene, scene_of

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Opened:
    """A cell that is shown: its scene, its viewer, and the files that the viewer asks for."""

    scene: Scene
    viewer: neuroglancer.Viewer
    shelves: dict[str, Shelf]


class Show:
    """Serves cells until `close`. `url` is the page with the list; it holds a token that changes with every start.

    rows: the cells that the page lists. layers: files or directories shown beside the dataset's own. Raises ConfigError for a port in use.
    """

    def __init__(self, material: Material, rows: Sequence[Row], *, extra: Sequence[Path] = (), port: int = 0) -> None:
        self._material = material
        self._extra = tuple(extra)
        self._opened: dict[int, Opened] = {}
        self.rows = tuple(rows)
        _require_free(port)
        neuroglancer.set_server_bind_address(LOOPBACK, port)
        neuroglancer.server.start()
        self._server: Any = neuroglancer.server.global_server
        token = self._server.token
        self.url = f"{self._server.server_url}/cells/{token}/"
        self._files_url = f"{self._server.server_url}/files/{token}"
        handlers = [
            (f"/cells/{token}/", _PageHandler, {"show": self}),
            (f"/open/{token}/([0-9]+)", _OpenHandler, {"show": self}),
            (f"/files/{token}/([0-9]+)/([a-z0-9]+)/(.+)", _FileHandler, {"show": self}),
        ]
        self._server.app.add_handlers(".*", handlers)

    def open(self, specimen_id: int, at: str | None = None) -> Opened:
        """The cell, opened when it is first asked for. Raises the errors of `scene_of`."""
        if specimen_id not in self._opened:
            scene = scene_of(self._material, specimen_id, at=at, layers=self._extra)
            viewer = neuroglancer.Viewer(allow_credentials=False)
            viewer.set_state(layers.state_of(scene, f"{self._files_url}/{specimen_id}"))
            self._opened[specimen_id] = Opened(scene, viewer, _shelves(self._material, scene))
        return self._opened[specimen_id]

    def file(self, specimen_id: int, shelf: str, name: str) -> Readable | None:
        """A file of an opened cell; None where there is none."""
        opened = self._opened.get(specimen_id)
        return None if opened is None or shelf not in opened.shelves else opened.shelves[shelf](name)

    def close(self) -> None:
        """Stop serving."""
        neuroglancer.stop()


def _require_free(port: int) -> None:
    """Asked first: where the port is taken, Neuroglancer leaves half a server behind."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will: a port that was just given up is free
            probe.bind((LOOPBACK, port))
    except OSError as error:
        raise ConfigError(f"--port {port} cannot be had ({error.strerror}); leave it out for a free one") from error


def _shelves(material: Material, scene: Scene) -> dict[str, Shelf]:
    codes = {layers.VERDICT_CODES[Verdict(verdict)]: lines for verdict, lines in scene.verdicts.items()}
    verdicts = {code: verdict.value for verdict, code in layers.VERDICT_CODES.items()}
    return {
        "image": material.shelf(image_store(scene.specimen_id)),
        "labels": material.shelf(label_store(scene.specimen_id)),
        "skeleton": precomputed.skeletons(scene.skeleton, layers.SEGMENT_NAMES, scene.grid),
        "alignment": precomputed.skeletons(codes, verdicts, scene.grid),
        **{f"extra{k}": folder(extra.store) for k, extra in enumerate(scene.extras) if extra.store is not None},
    }


class _Handler(tornado.web.RequestHandler):
    def initialize(self, show: Show) -> None:
        self.show = show

    async def apart[T](self, work: Any) -> Any:
        """Do what may take a while in a thread, so that the server goes on."""
        return await asyncio.get_running_loop().run_in_executor(None, work)


class _PageHandler(_Handler):
    def get(self) -> None:
        shown = self.get_query_argument("cell", str(self.show.rows[0].specimen_id))
        self.finish(page.html(self.show.rows, self.show.url.replace("/cells/", "/open/"), shown))


class _OpenHandler(_Handler):
    async def get(self, specimen_id: str) -> None:
        try:
            opened: Opened = await self.apart(partial(self.show.open, int(specimen_id)))
        except BrightfieldError as error:
            self.set_status(404)
            self.finish(page.sorry(str(error)))
        else:
            self.redirect(opened.viewer.get_viewer_url())


class _FileHandler(_Handler):
    """Files and ranges of them, as a static web server gives them."""

    async def head(self, specimen_id: str, shelf: str, name: str) -> None:
        await self.get(specimen_id, shelf, name)

    async def get(self, specimen_id: str, shelf: str, name: str) -> None:
        file = self.show.file(int(specimen_id), shelf, name)
        if file is None:
            raise tornado.web.HTTPError(404)
        size = await self.apart(file.size)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.request.headers.get("Range", ""))
        start, stop = (0, size) if asked is None else (int(asked[1]), min(int(asked[2] or size) + 1, size))
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Accept-Ranges", "bytes")
        if asked is not None:
            self.set_status(206 if start < stop else 416)
            self.set_header("Content-Range", f"bytes {start}-{stop - 1}/{size}" if start < stop else f"bytes */{size}")
        self.set_header("Content-Length", max(stop - start, 0))
        if self.request.method == "HEAD" or start >= stop:
            self.finish()
        else:
            self.finish(await self.apart(partial(file.read, start, stop)))
