"""The configured source, reached from a stage or from one of its workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from brightfield.config.options import DEFAULT_WORKERS, ComputeConfig, Config, Scheduler, SourceConfig, SourceKind
from brightfield.sources.http.client import HttpClient

if TYPE_CHECKING:
    from brightfield.sources.source import Source


@dataclass(frozen=True, slots=True)
class Address:
    """Where a source is and how to ask it; pickles, so that workers on other machines can connect on their own."""

    source: SourceConfig
    quality: int
    compute: ComputeConfig

    @contextmanager
    def connect(self) -> Iterator[Source]:
        """The source, for as long as the context lasts."""
        with ExitStack() as stack:
            if self.source.kind in (SourceKind.demo, SourceKind.allen):
                from brightfield.sources.allen.service import AllenSource

                yield AllenSource(stack.enter_context(HttpClient(self.compute)), self.source.base_url, quality=self.quality)
            else:
                from brightfield.sources.folder.folder import FolderSource

                yield FolderSource(self.source)


@contextmanager
def reachable(config: Config) -> Iterator[Address]:
    """The address of the configured source; for the demo, its mirror runs on a free loopback port for as long as the context lasts."""
    address = Address(config.source, config.image.quality, _share_of_a_worker(config.compute))
    if config.source.kind != SourceKind.demo or config.source.base_url:
        yield address
        return
    from brightfield.sources.demo.catalog import demo_catalog
    from brightfield.sources.mirror.server import serve

    with serve(demo_catalog(config.source.seed)) as mirror:
        yield replace(address, source=replace(config.source, base_url=mirror.base_url))


def _share_of_a_worker(compute: ComputeConfig) -> ComputeConfig:
    """The connections and the rate of one process: on one machine all of them, on a cluster the share of each worker."""
    workers = 1 if compute.scheduler is Scheduler.local else compute.workers or DEFAULT_WORKERS
    return replace(compute, connections=max(1, compute.connections // workers), requests_per_second=compute.requests_per_second / workers)
