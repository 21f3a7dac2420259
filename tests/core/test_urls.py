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
    f"u:{SECRET}%40host:/stacks",
)
CREDENTIALS = (
    f"u:{SECRET}@host:",
    f"u:{SECRET}@host:/stacks",
    f"u:{SECRET}@h/path",
    f"u:{SECRET}@h",
    f":{SECRET}@h/path",
    f"u:{SECRET}@lab.org",
    f"u:{SECRET}@10.0.0.1",
    f"u:{SECRET}@[::1]:/stacks",
    f"u:p@{SECRET}@host:/stacks",
    f"u:{SECRET},w@lab.org:/stacks",
    f"u:({SECRET})@lab.org/stacks",
    f"u%3A{SECRET}@host:/stacks",
    f"u%3a{SECRET}%40host:/stacks",
    f"u%253A{SECRET}%2540host:/stacks",
    f"u:{SECRET}%21%40lab.org",
    f"{SECRET}@h",
    f"{SECRET}@host/path",
    f"{SECRET}@lab.org/path",
    f"{SECRET}@lab.org:8080",
    f"{SECRET}@lab.org:/stacks",
    f"{SECRET}@10.0.0.1/stacks",
    f"ghp_{SECRET}{SECRET}{SECRET}@github.com",
    f"https:/u:{SECRET}@h/a",
    f"//{SECRET}@h/share",
    f"simplecache::u:{SECRET}@host:/stacks",
    f"https://lab.org/a,u:{SECRET}@host:/stacks",
)
FREE_TEXT = (
    "Jane Doe <jane.doe@lab.org>, 2024",
    "mail jane@lab.org: she knows",
    "mailto:jane@lab.org",
    "(e-mail:jane+stacks@imaging.lab.org)",
    "jane@lab.org,john@lab.org;jim@lab.org",
    "@article{smith:2019, author={Smith, J.}, title={Neurons @ 37C}, email={smith@lab.org}}",
    "@article{smith:2019,email={smith@lab.org}}",
    "from 10:30 at x",
    "10:30@room",
    "10:30 jane@lab.org",
    "20x@0.5NA, 5@37",
    "ratio 3:1, @ 2 mW",
    "git@github.com:lab/stacks.git",
    "/home/jane/clone@v1:data/images/101.zarr holds nothing",
    "clone@v1:data/images",
    "metadata.csv:3: owner 'jane@lab.org' is no column",
    "https://lab.org/@jane/post, https://lab.org:8080/stacks@2x/a",
    "doi:10.1038/nbt.1612, CC-BY-4.0; 100:40",
    "alice@host",
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


@pytest.mark.parametrize(
    "around", ["{}", "see {}", "see {}.", "({})", "[{}]", "a,{}", "key={}, 2024", "'{}'", "a: {}: denied", "jane@lab.org {}"]
)
@pytest.mark.parametrize("credentials", CREDENTIALS)
def test_credentials_within_a_text_are_not_shown_though_nothing_marks_an_address(credentials: str, around: str) -> None:
    shown = public_text(around.format(credentials))
    assert SECRET not in shown
    assert public_text(shown) == shown, "what is shown may be taken"


@pytest.mark.parametrize("text", FREE_TEXT)
def test_mail_addresses_references_and_times_are_no_credentials(text: str) -> None:
    assert public_text(text) == text


def test_a_word_that_nobody_reads_is_not_shown_where_it_may_hide_credentials() -> None:
    for word in (f"u:{SECRET * 1000}@h", "a" * 50_000 + "@", "a:" * 25_000 + "@b", "a@" * 25_000, "%40" * 17_000):
        assert public_text(f"see {word} there") == "see ... there"
    assert public_text("a" * 50_000) == "a" * 50_000


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
