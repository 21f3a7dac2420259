"""How a source is reached from a stage and from its workers."""

from __future__ import annotations

from dataclasses import replace

from brightfield.config.options import Config, Scheduler, SourceKind
from brightfield.sources.connect import reachable


def test_the_workers_of_a_cluster_share_the_limits_and_one_machine_has_them_all() -> None:
    config = Config()
    config.source.kind, config.source.path = SourceKind.folder, "/stacks"
    config.compute = replace(config.compute, connections=8, requests_per_second=10.0, workers=4)
    with reachable(config) as alone:
        assert (alone.compute.connections, alone.compute.requests_per_second) == (8, 10.0)
    config.compute = replace(config.compute, scheduler=Scheduler.slurm)
    with reachable(config) as shared:
        assert (shared.compute.connections, shared.compute.requests_per_second) == (2, 2.5)
    config.compute = replace(config.compute, workers=64)
    with reachable(config) as many:
        assert many.compute.connections == 1
