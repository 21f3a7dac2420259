from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from brightfield.sources.http.curl import Broken, Connection

LARGEST = 2**20

type Answers = Callable[[bytes], bytes | None]


class Server:
    """Answers each request over plain sockets with what `answers` makes of its first line; None hangs up without a word."""

    def __init__(self, answers: Answers, context: ssl.SSLContext | None = None) -> None:
        self.answers, self._context = answers, context
        self.lines: list[bytes] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._answer, args=(plain,), daemon=True).start()

    def _answer(self, plain: socket.socket) -> None:
        try:
            connection = self._context.wrap_socket(plain, server_side=True) if self._context else plain
            with connection, connection.makefile("rb") as lines:
                while line := lines.readline():
                    while lines.readline() != b"\r\n":
                        pass
                    self.lines.append(line)
                    answer = self.answers(line)
                    if answer is None:
                        return
                    connection.sendall(answer)
        except OSError:
            pass

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(answers: Answers, context: ssl.SSLContext | None = None) -> Server:
        servers.append(Server(answers, context))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def ok(body: bytes = b"pixels") -> Answers:
    return lambda _: b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def a_certificate(folder: Path) -> ssl.SSLContext:
    """A server's context whose certificate for 127.0.0.1 is `folder / "certificate.pem"`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context


def test_https_is_believed_only_with_a_certificate_that_is_trusted(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(ok(), a_certificate(tmp_path))
    with pytest.raises(Broken, match="TLS failed"):
        Connection(5).get(f"https://127.0.0.1:{server.port}/", LARGEST)
    assert server.lines == []
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    assert Connection(5).get(f"https://127.0.0.1:{server.port}/", LARGEST).body == b"pixels"
    with pytest.raises(Broken, match="TLS failed"):  # the certificate is for another name
        Connection(5).get(f"https://localhost:{server.port}/", LARGEST)


def test_a_kept_connection_that_the_server_closed_costs_a_new_one_and_no_error(serve: Callable[..., Server]) -> None:
    server = serve(ok())
    connection = Connection(5)
    for _ in range(3):
        connection.get(f"http://127.0.0.1:{server.port}/a", LARGEST)
    assert server.connections == 1
    server.answers = lambda _: ok()(b"") if server.connections > 1 else None
    assert connection.get(f"http://127.0.0.1:{server.port}/b", LARGEST).status == 200
    assert server.connections == 2


def test_an_address_is_sent_with_what_must_not_stand_in_it_encoded_once(serve: Callable[..., Server]) -> None:
    server = serve(ok())
    Connection(5).get(f"http://127.0.0.1:{server.port}/query.json?q=model::A,rma::criteria,[name$eq'a b%20ü']", LARGEST)
    assert server.lines == [b"GET /query.json?q=model::A,rma::criteria,%5Bname$eq'a%20b%20%C3%BC'%5D HTTP/1.1\r\n"]


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/a", "file:///etc/passwd", "/etc/passwd", "http://", "http://127.0.0.1:port/", "http://hö\0st/"]
)
def test_what_is_no_web_address_is_refused_for_good(url: str) -> None:
    with pytest.raises(Broken, match="not a URL") as raised:
        Connection(1).get(url, LARGEST)
    assert raised.value.final


@pytest.mark.parametrize("said", [True, False])
def test_a_body_is_refused_as_soon_as_it_is_too_large(serve: Callable[..., Server], said: bool) -> None:
    length = b"Content-Length: %d\r\n" % (LARGEST + 1) if said else b"Connection: close\r\n"
    server = serve(lambda _: b"HTTP/1.1 200 OK\r\n" + length + b"\r\n" + bytes(LARGEST + 1))
    with pytest.raises(Broken, match=f"body larger than {LARGEST} bytes") as raised:
        Connection(5).get(f"http://127.0.0.1:{server.port}/", LARGEST)
    assert raised.value.final


def test_an_answer_that_takes_too_long_for_its_size_is_given_up_however_lively_it_is(serve: Callable[..., Server]) -> None:
    server = serve(lambda _: None)

    def drip(plain: socket.socket) -> None:
        with plain, contextlib.suppress(OSError):
            plain.recv(1000)
            plain.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            for _ in range(100):
                plain.sendall(bytes(1000))  # 20 kB/s: no stall
                time.sleep(0.05)

    server._answer = drip  # type: ignore[method-assign]
    started = time.monotonic()
    with pytest.raises(Broken, match=r"not here after 2 s") as raised:
        Connection(0.5).get(f"http://127.0.0.1:{server.port}/", 100_000)  # 0.5 s and 100 kB at 64 kB/s
    assert 1.5 < time.monotonic() - started < 4
    assert not raised.value.final


def test_a_body_in_the_smallest_pieces_takes_no_more_memory_than_its_bytes(serve: Callable[..., Server]) -> None:
    n = 200_000
    server = serve(lambda _: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * n + b"0\r\n\r\n")
    connection = Connection(5)
    tracemalloc.start()
    try:
        assert connection.get(f"http://127.0.0.1:{server.port}/", LARGEST).body == b"x" * n
        assert tracemalloc.get_traced_memory()[1] < 20 * n  # the server's own text is 6 n, sent and held; a list of pieces took 41 n
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("answer", [b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nab", b"\0" * 100])
def test_what_is_no_http_is_a_broken_connection_that_may_be_better_next_time(serve: Callable[..., Server], answer: bytes) -> None:
    server = serve(lambda _: answer)
    with pytest.raises(Broken, match="connection broken") as raised:
        Connection(1).get(f"http://127.0.0.1:{server.port}/", LARGEST)
    assert not raised.value.final


def test_the_environments_proxy_is_asked_except_for_this_machine(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, server = serve(ok(b"by proxy")), serve(ok(b"directly"))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("no_proxy", "inside.example")
    connection = Connection(5)
    assert connection.get("http://outside.example/a", LARGEST).body == b"by proxy"
    assert proxy.lines == [b"GET http://outside.example/a HTTP/1.1\r\n"]
    assert connection.get(f"http://127.0.0.1:{server.port}/a", LARGEST).body == b"directly"


def test_what_a_server_writes_in_other_encodings_is_no_failure(serve: Callable[..., Server]) -> None:
    server = serve(lambda _: b"HTTP/1.1 502 Bad\r\nContent-Type: text/html; charset=\xfc\r\nContent-Length: 0\r\n\r\n")
    reply = Connection(5).get(f"http://127.0.0.1:{server.port}/", LARGEST)
    assert (reply.status, reply.content_type) == (502, "text/html; charset=ü")


def test_the_proxy_of_one_scheme_is_not_that_of_the_other(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = serve(ok(b"by proxy"))
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.delenv("http_proxy", raising=False)
    connection = Connection(1)
    with pytest.raises(Broken):
        connection.get("http://outside.invalid/", LARGEST)
    assert proxy.lines == []
    with pytest.raises(Broken):
        connection.get("https://outside.invalid/", LARGEST)
    assert proxy.lines == [b"CONNECT outside.invalid:443 HTTP/1.1\r\n"]


def test_a_kept_connection_is_aborted_whatever_was_asked_elsewhere_meanwhile(serve: Callable[..., Server]) -> None:
    first, second = serve(ok()), serve(ok())
    connection = Connection(30)
    for server in (first, second):
        connection.get(f"http://127.0.0.1:{server.port}/", LARGEST)
    asked_again, silent = threading.Event(), threading.Event()

    def say_nothing(_: bytes) -> None:
        asked_again.set()
        silent.wait(60)

    def abort() -> None:
        asked_again.wait(60)
        connection.abort()

    first.answers = say_nothing
    threading.Thread(target=abort, daemon=True).start()
    started = time.monotonic()
    with ThreadPoolExecutor(1) as other:
        asked = other.submit(connection.get, f"http://127.0.0.1:{first.port}/", LARGEST)
        assert isinstance(asked.exception(), Broken)
    silent.set()
    assert time.monotonic() - started < 10, "the server is silent for 30 s"


def test_ctrl_c_is_heard_while_a_server_is_silent(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        lines = [
            "from brightfield.sources.http.curl import Connection",
            "print('asking', flush=True)",
            f"Connection(60).get('http://127.0.0.1:{silent.getsockname()[1]}/', 1000)",
        ]
        process = subprocess.Popen([sys.executable, "-c", "\n".join(lines)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ)
        assert process.stdout is not None
        assert process.stdout.readline() == b"asking\n"
        silent.settimeout(60)
        with silent.accept()[0] as asked:
            assert asked.recv(1) == b"G", "the request is on its way"
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=45)  # well before the 60 s after which it would give up
    assert b"KeyboardInterrupt" in said
