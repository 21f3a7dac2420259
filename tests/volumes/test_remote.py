from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from brightfield.core.errors import BrightfieldError, TransferError
from brightfield.versions.pull import pull
from brightfield.versions.push import push
from brightfield.volumes.remote import remote_files
from repositories import command, commit_version, data_repository
from servers import Server, s3_server, ssh_server

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.usefixtures("at_home"),
    pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning"),  # DVC's use of pygtrie
]

CELLS = {1: {"split": "train"}, 2: {"split": "val"}, 3: {"split": "val"}}


@pytest.fixture(scope="module", params=[ssh_server, s3_server], ids=["ssh", "s3"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found, process = request.param(tmp_path_factory.mktemp("server"))
    with pytest.MonkeyPatch.context() as patch:
        # rclone answers a range with the checksum of the whole object, which botocore compares with the range's
        patch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
        yield found
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def origin(server: Server, tmp_path_factory: pytest.TempPathFactory, at_home: None) -> Path:
    """A repository whose versions v1.0.0 and v1.1.0 (a cell more) were pushed."""
    root = data_repository(tmp_path_factory.mktemp("origin"), CELLS)
    server.join(root)
    command(root, "git", "commit", "-q", "-am", "remote")
    command(root, "git", "tag", "v1.0.0")
    commit_version(root, {**CELLS, 4: {"split": "test"}}, tag="v1.1.0")
    command(root, "dvc", "push", "-q", "--all-tags")
    return root


@pytest.fixture
def clone(origin: Path, server: Server, tmp_path: Path) -> Path:
    command(tmp_path, "git", "clone", "-q", str(origin), "clone")
    server.log_in(tmp_path / "clone")
    return tmp_path / "clone"


def volumes(root: Path) -> set[str]:
    return {path.relative_to(root / "data").as_posix() for path in (root / "data").glob("*/*")}


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in (root / "data").rglob("*") if path.is_file()}


def test_another_clone_gets_everything_and_its_data_is_clean(origin: Path, clone: Path) -> None:
    command(clone, "dvc", "pull")
    assert content(clone) == content(origin)
    assert "up to date" in command(clone, "dvc", "status")


def test_one_cell_can_be_pulled_alone(clone: Path) -> None:
    command(clone, "dvc", "pull", "data/images/2.zarr")
    assert volumes(clone) == {"images/2.zarr"}
    assert (clone / "data/images/2.zarr/0/c").read_text() == "image 2"


def test_one_split_can_be_pulled_alone(clone: Path) -> None:
    pull(clone, split="val")
    assert volumes(clone) == {
        f"{kind}/{i}.{end}" for i in (2, 3) for kind, end in (("images", "zarr"), ("labels", "zarr"), ("skeletons", "swc"))
    }
    assert (clone / "data/manifest.parquet").is_file()


def test_labels_can_be_pulled_without_images(clone: Path) -> None:
    pull(clone, labels_only=True)
    assert volumes(clone) == {f"{kind}.{end}" for i in (1, 2, 3, 4) for kind, end in ((f"labels/{i}", "zarr"), (f"skeletons/{i}", "swc"))}


def test_a_version_can_be_had_and_imported_by_tag(origin: Path, server: Server, tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    command(study, "git", "init", "-q")
    command(study, "dvc", "init", "-q")
    words = [str(origin), "data/images", "--rev", "v1.0.0", "--remote", "team"]
    command(study, "dvc", "remote", "add", "--global", "team", server.url)
    try:
        for key, value in server.private.items():
            command(study, "dvc", "remote", "modify", "--global", "team", key, value)
        command(study, "dvc", "get", "-o", "got", *words)
        command(study, "dvc", "import", "-o", "imported", *words)
    finally:
        command(study, "dvc", "remote", "remove", "--global", "team")
    assert {path.name for path in (study / "got").iterdir()} == {"1.zarr", "2.zarr", "3.zarr"}
    assert {path.name for path in (study / "imported").iterdir()} == {"1.zarr", "2.zarr", "3.zarr"}
    committed = (study / "imported.dvc").read_text()
    assert yaml.safe_load(committed)["deps"][0]["repo"].keys() == {"url", "rev", "rev_lock", "remote"}
    assert not [key for key in server.private if f"{key}:" in committed]


def test_a_range_of_one_file_is_read_where_it_lies(clone: Path) -> None:
    files = remote_files(clone, "v1.0.0", PurePosixPath("data/images/2.zarr"))
    assert files["0/c"].read(2, 5) == b"age"
    assert not (clone / "data/images").exists()


@pytest.mark.parametrize("damage", ["damaged in", "absent from"])
def test_what_the_remote_lost_or_spoilt_is_named(clone: Path, server: Server, damage: str) -> None:
    (broken,) = [path for path in server.store.rglob("*") if path.is_file() and path.read_bytes() == b"image 3"]
    broken.chmod(0o644)
    broken.write_bytes(b"image X") if damage == "damaged in" else broken.unlink()
    try:
        with pytest.raises(TransferError, match=rf"data/images/3\.zarr/0/c: {damage} the remote") as failure:
            pull(clone)
        assert "images/2.zarr" not in str(failure.value)
        assert not (clone / "data/images/3.zarr/0/c").exists()
    finally:
        broken.write_bytes(b"image 3")
    pull(clone)
    assert (clone / "data/images/3.zarr/0/c").read_text() == "image 3"


def objects(server: Server) -> dict[str, Path]:
    """The files in the remote by the name of their object."""
    paths = (path for path in server.store.rglob("*") if path.is_file())
    return {path.parent.name + path.name: path for path in paths}


def spoil(path: Path, how: str) -> None:
    path.chmod(0o644)
    path.write_bytes(b"spoilt") if how == "damaged" else path.unlink()


@pytest.mark.parametrize("how", ["damaged", "absent"])
@pytest.mark.parametrize("which", ["file", "listing"])
def test_a_remote_is_mended_from_a_clone_that_has_what_it_lacks(origin: Path, clone: Path, server: Server, which: str, how: str) -> None:
    listing = next(out["md5"] for out in stages_of(origin)["build"]["outs"] if out["path"] == "data/images")
    name = listing if which == "listing" else hashlib.md5(b"image 3").hexdigest()
    before = {name: path.read_bytes() for name, path in objects(server).items()}
    spoil(objects(server)[name], how)
    assert "1 object(s) mended" in push(origin, repair=True)
    assert {name: path.read_bytes() for name, path in objects(server).items()} == before
    pull(clone)
    assert (clone / "data/images/3.zarr/0/c").read_text() == "image 3"


def test_what_this_clone_cannot_mend_is_named_and_left(origin: Path, clone: Path, server: Server) -> None:
    pull(clone, cells=[2])
    for text in (b"image 2", b"image 3"):
        spoil(objects(server)[hashlib.md5(text).hexdigest()], "damaged")
    lost = hashlib.md5(b"image 3").hexdigest()
    with pytest.raises(TransferError, match=rf"1 object\(s\) mended, .*does not have these either:\n  {lost}: damaged in the remote"):
        push(clone, repair=True)
    assert "1 object(s) mended" in push(origin, repair=True)
    assert "0 object(s) mended" in push(origin, repair=True)


def stages_of(root: Path) -> dict[str, Any]:
    stages: dict[str, Any] = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
    return stages


def test_what_is_here_is_not_asked_for(clone: Path) -> None:
    pull(clone)
    command(clone, "dvc", "remote", "add", "-q", "-d", "nowhere", "ssh://127.0.0.1:9/nowhere")
    pull(clone, cells=[2])
    (clone / "data/images/2.zarr/0/c").unlink()
    shutil.rmtree(clone / ".dvc/cache")
    with pytest.raises(TransferError):
        pull(clone, cells=[2])


def test_missing_credentials_are_told_in_one_line(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    command(tmp_path, "git", "clone", "-q", str(origin), "clone")
    done = subprocess.run(["brightfield", "pull"], cwd=tmp_path / "clone", capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: the remote does not let you in (")
    assert "Traceback" not in done.stderr


def test_a_stranger_is_not_let_in(clone: Path, server: Server, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger)], check=True)
    wrong = {"keyfile": str(stranger)} if "keyfile" in server.private else {"secret_access_key": "wrong"}
    for key, value in wrong.items():
        command(clone, "dvc", "remote", "modify", "--local", "team", key, value)
    command(clone, "dvc", "pull", ok=False)
    with pytest.raises(BrightfieldError):
        pull(clone)
    assert not (clone / "data/manifest.parquet").exists()
