"""The configured source, reached from a stage or from one of its workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from brightfield.config.options import Config, SourceConfig, SourceKind
from brightfield.sources.http.client import ClientOptions, HttpClient

if TYPE_CHECKING:
    from brightfield.sources.source import Source


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
                from brightfield.sources.allen.service import AllenSource

                yield AllenSource(stack.enter_context(HttpClient(self.client)), self.source.base_url, quality=self.quality)
            else:
                from brightfield.sources.folder.folder import FolderSource

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
    from brightfield.sources.demo.catalog import demo_catalog
    from brightfield.sources.mirror.server import serve

    with serve(demo_catalog(config.source.seed)) as mirror:
        yield replace(address, source=replace(config.source, base_url=mirror.base_url))
