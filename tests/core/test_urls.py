from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brightfield.core.urls import is_public, public_text, public_url, same_origin

SECRET = "hush4711"
WITH_SECRET = (
    f"https://{SECRET}@h/a",
    f"https://u:{SECRET}@h/a",
    f"simplecache::https://u:{SECRET}@h/a",
    f"simplecache::blockcache::https://{SECRET}@h/a",
    f"zip://inner.tif::https://h/a.zip?sig={SECRET}",
    f"https://h/a#sig={SECRET}",
    f"https://h/a;token={SECRET}/b",
    f"https://h/a?{SECRET}",
    f"https://h/a?left=1;token={SECRET}",
    f"https://h/a?sig=x::{SECRET}",
    f"https://h/a?sig=x::y:{SECRET}&left=1",
    f"https://h:{SECRET}/a",
    f"u:{SECRET}@host:/stacks",
    f"simplecache::u:{SECRET}@host:/stacks",
    f"ssh://alice:{SECRET}@host/stacks",
    f"ssh://alice%3A{SECRET}@host/stacks",
    f"https://u%40lab:{SECRET}%40@h/a",
    f"https:/u:{SECRET}@h/a",
    f"https:/{SECRET}@h/a",
    f"//u:{SECRET}@h/share",
    f"//{SECRET}@h/share",
    f"HTTPS://{SECRET}@h",
    f"https://h/a?sv=2024&sr=c&sp=r&sig={SECRET}%3D",
    f"https://b.s3.example/a?X-Amz-Credential=A%2Fx&X-Amz-Signature={SECRET}",
    f"https://storage.example/b/o?GoogleAccessId=x&Expires=1&Signature={SECRET}",
    f"s3://bucket/a?versionId=3&{SECRET}",
    f"http://u:{SECRET}@proxy:3128",
    f"zip://a.tif::simplecache::s3://{SECRET}:x@bucket/a.zip",
    f"hdfs://nn;password={SECRET}/a",
    f"tcp://u:{SECRET}@scheduler:8786",
)
HARMLESS = (
    "",
    "/data/stacks; old?/a@b#1",
    "stacks/2024::a",
    "C:\\data\\x",
    "s3://bucket/stacks@2x",
    "s3://bucket/stacks?versionId=3",
    "https://h:8080/a",
    "http://[::1]:80/a",
    "zip://*.tif::simplecache::s3://bucket/a.zip",
    "memory://x",
    "file:///data/x",
    "tcp://scheduler:8786",
    "scheduler:8786",
)
QUERY = "http://h/api/v2/data/query.json?q=model::A,rma::criteria,[id$in1,2],rma::options[num_rows$eq10]"


@pytest.mark.parametrize("url", WITH_SECRET)
def test_nothing_that_could_be_a_secret_is_shown_or_taken(url: str) -> None:
    assert SECRET not in public_url(url)
    assert "://" not in url or SECRET not in public_text(f"cannot open '{url}': denied")
    assert not is_public(url)


@pytest.mark.parametrize("url", [*HARMLESS, QUERY])
def test_harmless_addresses_and_paths_are_shown_as_they_are(url: str) -> None:
    assert public_url(url) == url
    assert is_public(url)


def test_a_name_to_log_in_with_is_no_secret_and_yet_not_shown() -> None:
    assert is_public("ssh://alice@host/stacks")
    assert public_url("simplecache::ssh://alice@host/stacks") == "simplecache::ssh://host/stacks"


def test_addresses_in_messages_of_others_lose_their_secrets() -> None:
    text = f"404, message='Not Found', url='https://h/x?sig={SECRET}', see (https://u:{SECRET}@h/y)."
    assert public_text(text) == "404, message='Not Found', url='https://h/x?...', see (https://h/y)."


@given(st.text(), st.text())
def test_every_text_can_be_shown(left: str, right: str) -> None:
    public_text(public_url(f"{left}://{right}"))
    same_origin(f"http://{left}", f"http://{right}")


@pytest.mark.parametrize(
    ("there", "same"),
    [
        ("http://h/x", True),
        ("http://h:80/x", True),
        ("https://h/x", True),
        ("http://h:81/x", False),
        ("https://h:81/x", False),
        ("http://g/x", False),
        ("http://h@g/x", False),
        ("http://g\\@h/x", False),
        ("http://u:p@h/x", False),
        ("ftp://h/x", False),
        ("//h/x", False),
        ("x", False),
        ("http://[::1/", False),
        ("http://h:99999/", False),
    ],
)
def test_an_address_elsewhere_is_of_another_origin(there: str, same: bool) -> None:
    assert same_origin("http://h/base", there) is same
    assert not same_origin("https://h", "http://h/x")
