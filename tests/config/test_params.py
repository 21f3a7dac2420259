from __future__ import annotations

import pytest

from brightfield.config.options import SourceConfig, SourceKind
from brightfield.config.params import published_name, source_name


@pytest.mark.parametrize(
    ("path", "published"),
    [
        ("/home/ada/stacks", "own stacks"),
        ("stacks", "own stacks"),
        ("file:///home/ada/stacks", "own stacks"),
        ("local:///home/ada/stacks", "own stacks"),
        ("simplecache::/home/ada/stacks", "own stacks"),
        ("zip://*.tif::/home/ada/stacks.zip", "own stacks"),
        ("zip://*.tif::file:///home/ada/stacks.zip", "own stacks"),
        ("s3://lab/stacks", "s3://lab/stacks"),
        ("simplecache::s3://lab/stacks", "simplecache::s3://lab/stacks"),
        ("ssh://ada@host/stacks", "ssh://host/stacks"),
    ],
)
@pytest.mark.parametrize("kind", [SourceKind.folder, SourceKind.challenge])
def test_a_place_on_somebodys_disk_is_published_nowhere(kind: SourceKind, path: str, published: str) -> None:
    assert published_name(SourceConfig(kind=kind, path=path)) == published
    assert source_name(SourceConfig(kind=kind, path=path)) == path.replace("ada@", "")  # in keys, which are digests


def test_services_keep_their_names() -> None:
    assert published_name(SourceConfig()) == "demo"
    assert published_name(SourceConfig(kind=SourceKind.allen, base_url="http://h:80")) == "http://h:80"
