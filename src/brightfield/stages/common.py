"""What several stages need: the source of a configuration, and the cells that are there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from brightfield.client import ClientOptions, HttpClient
from brightfield.config import Config, SourceConfig, SourceKind
from brightfield.schema import CELLS, PLANES, image_store, skeleton_file
from brightfield.selection import cells_of
from brightfield.space import swc_to_stack_um
from brightfield.tables import read_table

if TYPE_CHECKING:
    from brightfield.skeleton import Skeleton
    from brightfield.source import Cell, Source


@dataclass(frozen=True, slots=True)
class Address:
    """Where a source is and how to ask it; pickles, so that workers on other machines can connect on their own."""

    source: SourceConfig
    quality: int
    client: ClientOptions

    @contextmanager
    def connect(self) -> Iterator[Source]:
        """The source, for as long as the context lasts."""
        with ExitStack() as stack:
            if self.source.kind in (SourceKind.demo, SourceKind.allen):
                from brightfield.allen import BASE_URL, AllenSource

                yield AllenSource(stack.enter_context(HttpClient(self.client)), self.source.base_url or BASE_URL, quality=self.quality)
            else:
                from brightfield.folder import FolderSource

                yield FolderSource(self.source)


@contextmanager
def reachable(config: Config) -> Iterator[Address]:
    """The address of the configured source; for the demo, its mirror runs on a free loopback port for as long as the context lasts."""
    compute = config.compute
    options = ClientOptions(
        connections=compute.connections,
        requests_per_second=compute.requests_per_second,
        timeout_s=compute.timeout_s,
        retries=compute.retries,
        retry_budget_s=compute.retry_budget_s,
    )
    address = Address(config.source, config.image.quality, options)
    if config.source.kind != SourceKind.demo or config.source.base_url:
        yield address
        return
    from brightfield.demo import demo_catalog
    from brightfield.mirror import serve

    with serve(demo_catalog(config.source.seed)) as mirror:
        yield replace(address, source=replace(config.source, base_url=mirror.base_url))


def source_name(source: SourceConfig) -> str:
    """What the tables call the source: its URL or path, or `demo`, whose mirror has another port each time."""
    from brightfield.client import public_url

    if source.kind == SourceKind.demo:
        return "demo"
    if source.kind == SourceKind.allen:
        from brightfield.allen import BASE_URL

        return public_url(source.base_url or BASE_URL)
    return public_url(source.path)


def selected_cells(root: Path) -> tuple[Cell, ...]:
    """The cells that the dataset takes, from the tables of the query stage."""
    cells = read_table(CELLS, root)
    return cells_of(cells[cells["selected"]], read_table(PLANES, root))


def downloaded_cells(root: Path) -> tuple[Cell, ...]:
    """The selected cells whose skeleton and image are there; fewer than selected only under `download.allow_missing`."""
    return tuple(
        cell
        for cell in selected_cells(root)
        if (root / skeleton_file(cell.specimen_id)).is_file() and (root / image_store(cell.specimen_id)).is_dir()
    )


def skeleton_on_stack(root: Path, cell: Cell, config: Config) -> Skeleton:
    """The skeleton of a cell in the frame of its stack: what is drawn, compared with the stain and exported."""
    from brightfield.skeleton import read_swc

    skeleton = read_swc(root / skeleton_file(cell.specimen_id))
    if cell.stack is None:
        return skeleton
    position = swc_to_stack_um(skeleton.position_zyx_um, cell.stack.grid, config.source.swc_origin.value)
    return replace(skeleton, position_zyx_um=position)
