from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brightfield.config.options import ComputeConfig
from brightfield.core.errors import TransferError
from brightfield.core.urls import public_url
from brightfield.sources.http.client import Answer, HttpClient

BODY = bytes(range(256)) * 40
QUICK = ComputeConfig(connections=4, timeout_s=1.0, retries=3)
BACKOFF_S = 0.01

type Script = Callable[[BaseHTTPRequestHandler], None]


class ScriptedServer(ThreadingHTTPServer):
    """Answers the n-th request with the n-th script, and all later ones with BODY; records what was asked, and how."""

    daemon_threads = True

    def __init__(self, *scripts: Script) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scripts = list(scripts)
        self.lock = threading.Lock()
        self.paths: list[str] = []
        self.ports: set[int] = set()
        self.in_flight = self.most_in_flight = 0
        self.delay_s = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedServer

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.paths.append(self.path)
            self.server.ports.add(self.client_address[1])
            self.server.in_flight += 1
            self.server.most_in_flight = max(self.server.most_in_flight, self.server.in_flight)
            script = self.server.scripts.pop(0) if self.server.scripts else answer_with(200)
        try:
            time.sleep(self.server.delay_s)
            script(self)
        finally:
            with self.server.lock:
                self.server.in_flight -= 1

    def log_message(self, *_: object) -> None:
        pass


def answer_with(status: int, body: bytes = BODY, *, said: int | None = None, **headers: str) -> Script:
    """An answer whose Content-Length says `said` bytes."""

    def script(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if said is None else said))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = said is not None

    return script


def reset(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.connection.close()
    handler.close_connection = True


def stall(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(3 * QUICK.timeout_s)
    handler.close_connection = True


def trickle(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(10):
        handler.wfile.write(b"x")
        time.sleep(QUICK.timeout_s / 4)


def broken_chunks(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"10\r\n12345")
    handler.close_connection = True


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedServer]]:
    servers: list[ScriptedServer] = []

    def start(*scripts: Script) -> ScriptedServer:
        server = ScriptedServer(*scripts)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def body_of(answer: Answer) -> bytes:
    return answer.body


FAULTS: dict[str, Script] = {
    "HTTP 500": answer_with(500),
    "HTTP 503": answer_with(503, Retry_After="0"),
    "HTTP 429": answer_with(429),
    "HTTP 404": answer_with(404),
    "short body": answer_with(200, BODY[:100], said=len(BODY)),
    "connection broken": reset,
    "stalled": stall,
}


@pytest.mark.parametrize("script", [*FAULTS.values(), trickle, broken_chunks], ids=[*FAULTS, "trickle", "broken chunks"])
def test_one_fault_is_retried_and_leaves_no_trace(serve: Callable[..., ScriptedServer], script: Script) -> None:
    server = serve(script)
    with HttpClient(QUICK, backoff_s=BACKOFF_S) as client:
        assert client.get(f"{server.url}/a", verify=body_of) == BODY
    assert server.paths == ["/a", "/a"]
    assert client.traffic.retries == 1


@pytest.mark.parametrize("reason", FAULTS)
def test_a_lasting_fault_is_named_with_url_and_attempts(serve: Callable[..., ScriptedServer], reason: str) -> None:
    server = serve(*[FAULTS[reason]] * 10)
    options = replace(QUICK, retries=2)
    with HttpClient(options, backoff_s=BACKOFF_S) as client, pytest.raises(TransferError) as raised:
        client.get(f"{server.url}/plane?left=1", verify=body_of)
    assert str(raised.value) == f"{server.url}/plane?left=1: {reason} (3 attempts)"
    assert raised.value.reason == reason
    assert raised.value.absent == (reason == "HTTP 404")
    assert len(server.paths) == 3


@pytest.mark.parametrize(("status", "times"), [(404, 3), (410, 2)])
def test_a_thing_that_is_not_there_is_asked_for_no_more_often_than_it_takes_to_believe_it(
    serve: Callable[..., ScriptedServer], status: int, times: int
) -> None:
    server = serve(*[answer_with(status)] * 10)
    with (
        HttpClient(QUICK, backoff_s=BACKOFF_S) as client,
        pytest.raises(TransferError, match=rf"HTTP {status} \({times} attempts\)") as raised,
    ):
        client.get(server.url, verify=body_of)
    assert raised.value.absent
    assert len(server.paths) == times


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refusal_is_final_at_once(serve: Callable[..., ScriptedServer], status: int) -> None:
    server = serve(answer_with(status))
    with HttpClient(QUICK, backoff_s=BACKOFF_S) as client, pytest.raises(TransferError, match=rf"HTTP {status} \(1 attempt\)"):
        client.get(server.url, verify=body_of)
    assert len(server.paths) == 1


def test_an_answer_that_is_not_believed_is_asked_for_again(serve: Callable[..., ScriptedServer]) -> None:
    server = serve(answer_with(200, b"<html>busy</html>", Content_Type="text/html; charset=utf-8"))

    def not_html(answer: Answer) -> bytes:
        if answer.content_type == "text/html":
            raise TransferError("a page instead of a picture")
        return answer.body

    with HttpClient(QUICK, backoff_s=BACKOFF_S) as client:
        assert client.get(server.url, verify=not_html) == BODY
        server.scripts = [answer_with(200, b"", Content_Type="text/html")] * 9
        with pytest.raises(TransferError, match=r"a page instead of a picture \(4 attempts\)") as raised:
            client.get(server.url, verify=not_html)
    assert raised.value.reason == "a page instead of a picture"


@pytest.mark.parametrize("wish", ["1", lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)])
def test_retry_after_is_kept(serve: Callable[..., ScriptedServer], wish: str | Callable[[], str]) -> None:
    server = serve(answer_with(503, Retry_After=wish if isinstance(wish, str) else wish()))
    started = time.monotonic()
    with HttpClient(QUICK, backoff_s=BACKOFF_S) as client:
        client.get(server.url, verify=body_of)
    assert time.monotonic() - started >= 0.9


def test_the_budget_of_waiting_ends_retries(serve: Callable[..., ScriptedServer]) -> None:
    server = serve(answer_with(503, Retry_After="3600"))
    with (
        HttpClient(replace(QUICK, retry_budget_s=10), backoff_s=BACKOFF_S) as client,
        pytest.raises(TransferError, match="HTTP 503; compute"),
    ):
        client.get(server.url, verify=body_of)
    assert client.traffic.waited_s == 0


def test_connections_are_bounded_and_kept_alive(serve: Callable[..., ScriptedServer]) -> None:
    server = serve()
    server.delay_s = 0.01
    with HttpClient(replace(QUICK, connections=3), backoff_s=BACKOFF_S) as client:
        threads = [threading.Thread(target=client.get, args=(server.url,), kwargs={"verify": body_of}) for _ in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(server.paths) == 30
    assert server.most_in_flight <= 3
    assert len(server.ports) <= 3


def test_the_rate_holds_after_the_first_burst(serve: Callable[..., ScriptedServer]) -> None:
    server = serve()
    with HttpClient(replace(QUICK, requests_per_second=20), backoff_s=BACKOFF_S) as client:
        started = time.monotonic()
        for _ in range(30):
            client.get(server.url, verify=body_of)
    assert time.monotonic() - started >= 0.95 * (30 - 20) / 20


def test_redirects_stay_on_the_host(serve: Callable[..., ScriptedServer]) -> None:
    other = serve()
    server = serve(answer_with(302, Location="/b"), answer_with(200), answer_with(302, Location=f"{other.url}/c?token=hush"))
    with HttpClient(QUICK, backoff_s=BACKOFF_S) as client:
        assert client.get(f"{server.url}/a", verify=body_of) == BODY
        assert server.paths == ["/a", "/b"]
        with pytest.raises(TransferError, match="redirected elsewhere, to ") as raised:
            client.get(f"{server.url}/a", verify=body_of)
    assert "hush" not in str(raised.value)
    assert other.paths == []


@pytest.mark.parametrize("target", ["http://127.0.0.1:99999/", "http://[::1/", "http://127.0.0.1:abc/"])
def test_a_redirect_to_what_is_no_url_is_refused(serve: Callable[..., ScriptedServer], target: str) -> None:
    server = serve(answer_with(302, Location=target))
    with HttpClient(QUICK, backoff_s=BACKOFF_S) as client, pytest.raises(TransferError, match="redirected"):
        client.get(f"{server.url}/a", verify=body_of)


def test_a_circle_of_redirects_ends(serve: Callable[..., ScriptedServer]) -> None:
    server = serve(*[answer_with(302, Location="/a")] * 100)
    with HttpClient(replace(QUICK, retries=1), backoff_s=BACKOFF_S) as client, pytest.raises(TransferError, match="redirected in a circle"):
        client.get(f"{server.url}/a", verify=body_of)


def test_a_body_beyond_the_limit_is_refused(serve: Callable[..., ScriptedServer]) -> None:
    server = serve()
    with (
        HttpClient(QUICK, backoff_s=BACKOFF_S) as client,
        pytest.raises(TransferError, match="body larger than"),
    ):
        client.get(server.url, verify=body_of, max_body_bytes=len(BODY) - 1)


def test_requests_wait_where_their_answers_might_fill_the_memory_of_all(serve: Callable[..., ScriptedServer]) -> None:
    server = serve()
    server.delay_s = 0.02
    room = 2 * len(BODY)
    with HttpClient(replace(QUICK, connections=8), backoff_s=BACKOFF_S, max_held_bytes=room) as client, ThreadPoolExecutor(8) as pool:
        small = [pool.submit(client.get, server.url, verify=body_of, max_body_bytes=len(BODY)) for _ in range(12)]
        large = pool.submit(client.get, server.url, verify=body_of, max_body_bytes=10 * room)  # more than there is: alone
        assert [future.result() for future in (*small, large)] == [BODY] * 13
    assert server.most_in_flight == 2


def test_closing_wakes_requests_that_wait(serve: Callable[..., ScriptedServer]) -> None:
    server = serve(answer_with(503, Retry_After="600"))
    client = HttpClient(QUICK, backoff_s=BACKOFF_S)
    threading.Timer(0.2, client.close).start()
    started = time.monotonic()
    with pytest.raises(TransferError, match="closed"):
        client.get(server.url, verify=body_of)
    assert time.monotonic() - started < 5


def test_closing_ends_requests_that_are_under_way(serve: Callable[..., ScriptedServer]) -> None:
    silent = threading.Event()
    server = serve(answer_with(200), *[lambda handler: silent.wait(30)] * 4)
    client = HttpClient(replace(QUICK, timeout_s=60), backoff_s=BACKOFF_S)
    assert client.get(server.url, verify=body_of) == BODY  # so that one of the connections is a kept one
    started = time.monotonic()
    threading.Timer(0.5, client.close).start()
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(client.get, server.url, verify=body_of) for _ in range(4)]
    try:
        assert time.monotonic() - started < 10
        assert all("closed" in str(future.exception()) for future in asked)
        with pytest.raises(TransferError, match="closed"):
            client.get(server.url, verify=body_of)
    finally:
        silent.set()


def test_nobody_listening_is_an_error_with_a_reason() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with (
        HttpClient(replace(QUICK, retries=1), backoff_s=BACKOFF_S) as client,
        pytest.raises(TransferError, match=r"could not connect \(2 attempts\)"),
    ):
        client.get(f"http://127.0.0.1:{port}", verify=body_of)


@given(secret=st.text("abcdef0123456789", min_size=8), name=st.sampled_from(["token", "X-Amz-Signature", "sig", "access_key", "Password"]))
def test_messages_carry_no_credentials(secret: str, name: str) -> None:
    shown = public_url(f"https://user:{secret}@host/path?left=1&{name}={secret}&top=2")
    assert secret not in shown
    assert shown == "https://host/path?left=1&...&top=2"
