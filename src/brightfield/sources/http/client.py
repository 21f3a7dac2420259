"""A robust HTTP client: what it returns was asked for, arrived whole and was believed; everything else is retried or raised.

Bounded concurrency, a rate limit per host, keep-alive, timeouts, retries with backoff and jitter under one budget of waiting.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from brightfield.config.options import ComputeConfig
from brightfield.core.errors import TransferError
from brightfield.core.urls import public_url, same_origin
from brightfield.sources.http.curl import Broken, Connection, Reply

MAX_BODY_BYTES = 64 * 2**20
"""No table or file of the services that we know comes near; more than this is a mistake, ours or theirs."""

MAX_HELD_BYTES = 512 * 2**20
"""What the answers of all connections may take together; requests wait while others might fill it."""

_GONE = {404: 3, 410: 2}  # how often a server must say so: behind a load balancer it may say 404 for something it has
_TRANSIENT = frozenset({408, 425, 429})
BACKOFF_S = 0.25
"""Wait before the first further attempt at a request; doubled for each next one, up to `_BACKOFF_MAX_S`."""
_BACKOFF_MAX_S = 30.0
_MAX_REDIRECTS = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP 200 answer. content_type: the media type without parameters, lower case; empty where the server gave none."""

    content_type: str
    body: bytes


@dataclass(slots=True)
class Traffic:
    """What the client has done so far."""

    requests: int = 0
    retries: int = 0
    bytes: int = 0
    waited_s: float = 0.0


class _Failure(Exception):
    """One attempt failed.

    after_s: the server's own wish. gone: how often it must say that there is no such thing to be believed; 0 where it does not say so.
    final: no other attempt could succeed.
    """

    def __init__(self, reason: str, *, after_s: float = 0.0, gone: int = 0, final: bool = False) -> None:
        super().__init__(reason)
        self.after_s = after_s
        self.gone = gone
        self.final = final


class _Bucket:
    """A token bucket: `rate` requests per second, with bursts of at most one second's worth."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._tokens = max(1.0, rate)
        self._filled = time.monotonic()
        self._lock = threading.Lock()

    def take(self) -> float:
        """Take a token and say how many seconds to wait before using it."""
        if not self._rate:
            return 0.0
        with self._lock:
            now = time.monotonic()
            self._tokens = min(max(1.0, self._rate), self._tokens + (now - self._filled) * self._rate) - 1
            self._filled = now
            return max(0.0, -self._tokens / self._rate)


class _Room:
    """Memory that requests hold while they are under way, in the order in which they ask."""

    def __init__(self, n_bytes: int) -> None:
        self._total = self._free = n_bytes
        self._turn = threading.Lock()  # so that small requests never keep a large one waiting for ever
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, n_bytes: int) -> Iterator[None]:
        n_bytes = min(n_bytes, self._total)
        with self._turn, self._changed:
            self._changed.wait_for(lambda: self._free >= n_bytes)
            self._free -= n_bytes
        try:
            yield
        finally:
            with self._changed:
                self._free += n_bytes
                self._changed.notify_all()


class HttpClient:
    """Fetch URLs from any number of threads; close it (or use `with`) to release connections and stop waiting threads.

    options: `connections` (requests in flight at once), `requests_per_second` (per host, 0 for no limit), `timeout_s` (for connecting, and
    of silence, in whole seconds, rounded up), `retries` (per request), `retry_budget_s` (waiting between attempts, all requests together).
    max_held_bytes: of all answers together.
    """

    def __init__(self, options: ComputeConfig | None = None, *, backoff_s: float = BACKOFF_S, max_held_bytes: int = MAX_HELD_BYTES) -> None:
        self.options = options or ComputeConfig()
        self._backoff_s = backoff_s
        self.traffic = Traffic()
        self._room = _Room(max_held_bytes)
        self._slots = threading.BoundedSemaphore(self.options.connections)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._buckets: dict[str, _Bucket] = {}
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        # Jitter spreads retries over time; it decides when bytes are asked for, never which.
        self._jitter = random.Random()  # noqa: S311

    def __enter__(self) -> HttpClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop all connections; requests that are under way or wait for a retry fail at once."""
        self._closed.set()
        with self._lock:
            while self._idle:
                self._idle.pop().close()
            for connection in self._busy:
                connection.abort()

    def get[T](self, url: str, *, verify: Callable[[Answer], T], max_body_bytes: int = MAX_BODY_BYTES) -> T:
        """What `verify` makes of the answer to a GET of `url`.

        verify: looks at a complete HTTP 200 answer and returns what it is good for (the decoded pixels, the parsed JSON, `answer.body`);
        it raises TransferError for an answer that is not to be believed, which then counts as a failed attempt and is retried.
        max_body_bytes: a larger answer is refused, and one that takes longer than so much would over a slow line is given up.

        Raises TransferError with the URL (credentials removed), the attempts made and the last reason; `absent` is set when the server
        insisted that the resource does not exist.
        """
        attempt, gone = 0, 0
        while True:
            attempt += 1
            try:
                with self._room.hold(max_body_bytes):
                    return verify(self._fetch(url, max_body_bytes))
            except TransferError as unbelievable:
                failure = _Failure(unbelievable.reason)
            except _Failure as error:
                failure = error
            gone += bool(failure.gone)
            if failure.final or 0 < failure.gone <= gone or attempt > self.options.retries:
                raise _given_up(url, attempt, str(failure), absent=bool(failure.gone))
            self._pause(url, attempt, failure)

    def _fetch(self, url: str, max_body_bytes: int) -> Answer:
        """One attempt, following redirects within the host."""
        for _ in range(_MAX_REDIRECTS):
            answer = self._ask(url, max_body_bytes)
            if isinstance(answer, Answer):
                return answer
            url = answer
        raise _Failure("redirected in a circle")

    def _ask(self, url: str, max_body_bytes: int) -> Answer | str:
        """The answer, or the URL of the same host that the server redirects to."""
        self._sleep(self._bucket(urlsplit(url).netloc).take())
        with self._connection() as connection:
            self._count(requests=1)
            try:
                reply = connection.get(url, max_body_bytes)
            except Broken as broken:
                raise _Failure(str(broken), final=broken.final) from broken
        self._count(received=len(reply.body))
        if 300 <= reply.status < 400:
            return _redirect(url, reply.redirect_url)
        if reply.status != 200:
            raise _refusal(reply)
        return Answer(reply.content_type.partition(";")[0].strip().lower(), reply.body)

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        """One of the connections, the last one that was used first; waits while all are in use."""
        with self._slots:
            with self._lock:
                connection = self._idle.pop() if self._idle else Connection(self.options.timeout_s)
                self._busy.add(connection)
            try:
                self._sleep(0)
                yield connection
            finally:
                with self._lock:
                    self._busy.remove(connection)
                    if self._closed.is_set() or connection.aborted:
                        connection.close()
                    else:
                        self._idle.append(connection)

    def _pause(self, url: str, attempt: int, failure: _Failure) -> None:
        backoff_s = min(_BACKOFF_MAX_S, self._backoff_s * 2 ** (attempt - 1))
        wait_s = max(failure.after_s, backoff_s * (0.5 + 0.5 * self._jitter.random()))
        with self._lock:
            spent = self.traffic.waited_s + wait_s > self.options.retry_budget_s
            if not spent:
                self.traffic.waited_s += wait_s
                self.traffic.retries += 1
        if spent:
            raise _given_up(url, attempt, f"{failure}; compute.retry_budget_s is used up", reason=str(failure))
        self._sleep(wait_s)

    def _sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds) if seconds else self._closed.is_set():
            raise TransferError("the client was closed while requests were under way")

    def _count(self, *, requests: int = 0, received: int = 0) -> None:
        with self._lock:
            self.traffic.requests += requests
            self.traffic.bytes += received

    def _bucket(self, host: str) -> _Bucket:
        with self._lock:
            return self._buckets.setdefault(host, _Bucket(self.options.requests_per_second))


def _given_up(url: str, attempts: int, what: str, *, reason: str | None = None, absent: bool = False) -> TransferError:
    tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    return TransferError(f"{public_url(url)}: {what} ({tries})", reason=what if reason is None else reason, absent=absent)


def _refusal(reply: Reply) -> _Failure:
    gone = _GONE.get(reply.status, 0)
    final = not (gone or reply.status in _TRANSIENT or reply.status >= 500)
    return _Failure(f"HTTP {reply.status}", after_s=reply.retry_after_s, gone=gone, final=final)


def _redirect(url: str, target: str) -> str:
    """Where to go next: only to the same host, and never from https back to http."""
    if not same_origin(url, target):
        elsewhere = public_url(target) if target else "nowhere"
        raise _Failure(f"redirected elsewhere, to {elsewhere}; if that is right, set source.base_url to it", final=True)
    return target
