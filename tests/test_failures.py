"""What broke, whatever client a task uses: never sent, answered with a code, or nobody knows whether it arrived."""

import asyncio
import contextlib
import ftplib
import gc
import http.client
import imaplib
import inspect
import json
import smtplib
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from typing import Any

import aiohttp
import httpx
import msgspec
import pyreqwest.client
import pytest
import requests
import urllib3
from conftest import PATIENCE

from rowcast.tasks import clock
from rowcast.tasks.records import Job
from rowcast.tasks.registry import Task
from rowcast.tasks.steps import Call, Retry, current_call
from rowcast.tasks.work import Claimed
from rowcast.worker.attempt import TimeLimit, attempt, caller, outcome
from rowcast.worker.clients import open_httpx
from rowcast.worker.failures import ANSWER, LOST, NEVER, WRONG, Failure, describe, failure_of

pytestmark = [
    pytest.mark.quick,
    # a client whose connection broke leaves its socket to the collector
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

ANSWERS = {
    "cut": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort",
    "garbled": b"\x00\x01\x02 this is no HTTP\r\n\r\n",
    "bad-chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    "nothing": b"",
    "refused": b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\nRetry-After: 7\r\n\r\nno",
    "fine": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "gone": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
}
HANGS = ("hangs", "hanging-body")


def patience(url: str) -> float:
    """Seconds that the clients below wait for an answer: few where none comes, and else as many as it takes."""
    return 0.5 if url.endswith(HANGS) else PATIENCE


class Broken:
    """A server that reads a request and gives the answer that its path names; `hangs` gives none."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.kept: list[socket.socket] = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError):  # a client that has hung up is none of the others' business
                self.answer(conn)

    def answer(self, conn: socket.socket) -> None:
        conn.settimeout(PATIENCE)
        text = b""
        while b"\r\n\r\n" not in text and (got := conn.recv(65536)):
            text += got
        name = text.split(b" ")[1].strip(b"/").decode() if b" " in text else ""
        if name == "hanging-body":
            conn.sendall(b"HTTP/1.1 500 Oh\r\nContent-Length: 10\r\n\r\nab")
        if name in ("hanging-body", "hangs", ""):
            self.kept.append(conn)
            return
        with conn:
            conn.sendall(ANSWERS[name])
            if name != "nothing":
                conn.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.listener.close()
        for conn in self.kept:
            conn.close()


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """A client whose connection broke leaves its socket to the collector: it is to complain here, and not in another's test."""
    gc.freeze()  # nothing of before is looked at
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture(scope="module")
def broken() -> Iterator[Broken]:
    server = Broken()
    yield server
    server.close()


async def by_ours(url: str) -> None:
    async with open_httpx(url.rsplit("/", 1)[0]) as api:
        api.timeout = httpx.Timeout(PATIENCE, read=patience(url))
        (await api.post("/" + url.rsplit("/", 1)[1])).raise_for_status()


async def by_httpx(url: str) -> None:
    async with httpx.AsyncClient(timeout=httpx.Timeout(PATIENCE, read=patience(url))) as api:
        (await api.post(url)).raise_for_status()


async def by_aiohttp(url: str) -> None:
    timeout = aiohttp.ClientTimeout(total=None, sock_read=patience(url), connect=PATIENCE)
    async with aiohttp.ClientSession(timeout=timeout) as api, api.post(url, json={}) as answer:
        answer.raise_for_status()
        await answer.read()


async def by_pyreqwest(url: str) -> None:
    async with (
        pyreqwest.client.ClientBuilder().timeout(timedelta(seconds=patience(url))).no_proxy().build() as api
    ):
        answer = await api.post(url).build().send()
        answer.error_for_status()
        await answer.bytes()


def by_requests(url: str) -> None:
    requests.post(url, timeout=patience(url)).raise_for_status()


def by_urllib3(url: str) -> None:
    with urllib3.PoolManager(retries=False, timeout=patience(url)) as pool:
        answer = pool.request("POST", url)
        if answer.status >= 400:
            raise urllib.error.HTTPError(
                url, answer.status, str(answer.reason), http.client.HTTPMessage(), None
            )


def by_urllib(url: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, data=b"x"), timeout=patience(url)) as answer:
        answer.read()


def by_http_client(url: str) -> None:
    conn = http.client.HTTPConnection(url.split("/")[2], timeout=patience(url))
    try:
        conn.request("POST", "/" + url.rsplit("/", 1)[1])
        answer = conn.getresponse()
        answer.read()
        if answer.status >= 400:
            raise urllib.error.HTTPError(url, answer.status, answer.reason, answer.headers, None)
    finally:
        conn.close()


CLIENTS = [by_ours, by_httpx, by_aiohttp, by_pyreqwest, by_requests, by_urllib3, by_urllib, by_http_client]


def raised(client: Callable[[str], Any], url: str) -> BaseException:
    with pytest.raises(Exception) as caught:
        asyncio.run(client(url)) if inspect.iscoroutinefunction(client) else client(url)
    return caught.value


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", ["cut", "garbled", "bad-chunks", "nothing", "hangs"])
def test_what_broke_after_the_request_was_sent_may_have_arrived(broken: Broken, client: Any, name: str):
    failure = failure_of(raised(client, f"{broken.url}/{name}"))
    assert failure.kind == LOST, failure
    assert describe(failure, None)


@pytest.mark.parametrize("client", CLIENTS)
def test_where_nobody_listens_nothing_was_sent(client: Any):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    failure = failure_of(raised(client, f"http://127.0.0.1:{port}/x"))
    assert failure.kind == NEVER and failure.again
    assert describe(failure, None).startswith("Could not connect")


@pytest.mark.parametrize("client", CLIENTS)
def test_an_answer_has_its_code(broken: Broken, client: Any):
    failure = failure_of(raised(client, f"{broken.url}/gone"))
    assert (failure.kind, failure.code) == (ANSWER, 404)


@pytest.mark.parametrize("client", [by_ours, by_httpx, by_aiohttp, by_requests, by_urllib])
def test_an_answers_retry_after_is_heeded_whoever_got_it(broken: Broken, client: Any):
    failure = failure_of(raised(client, f"{broken.url}/refused"))
    assert (failure.code, failure.retry_after[0]) == (503, "7")
    before = clock.steady()
    result, hold = outcome(a_task(max_attempts=3), ITEM, Call(1, 1), failure.error, time.perf_counter())
    assert result.status == "queued" and hold and before + 7 <= hold.until <= clock.steady() + 7


# ---- what becomes of the item -------------------------------------------------------------------------------------

ITEM = Claimed(1, "a", None, 1, 0, 0)


def a_task(**settings: Any) -> Task:
    return Task(function=lambda item: None, name="t", entry="m:t", item="item", **settings)


def became(error: BaseException, call: Call | None = None, **settings: Any) -> tuple[str, str]:
    result, _ = outcome(a_task(**settings), ITEM, call or Call(1, 1), error, time.perf_counter())
    return result.status, str(result.error)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("name", ["cut", "bad-chunks", "hangs", "hanging-body"])
def test_what_may_not_be_repeated_is_unknown_then_and_never_failed_or_queued(
    broken: Broken, client: Any, name: str
):
    error = raised(client, f"{broken.url}/{name}")
    if name == "hanging-body" and failure_of(error).kind == ANSWER:
        pytest.skip("this client gives the code without reading the body")
    status, said = became(error, idempotent=False, max_attempts=3)
    assert status == "unknown" and said.endswith("it may or may not have arrived.")
    assert became(error, max_attempts=3)[0] == "queued"


def test_the_code_that_was_noted_is_no_reason_to_send_it_again():
    """A 500 whose body hangs: the code is there, and nobody knows the rest."""
    lost = httpx.ReadTimeout("slow")
    assert became(lost, Call(1, 1, code=500), idempotent=False, max_attempts=3)[0] == "unknown"
    assert became(lost, Call(1, 1, code=500), max_attempts=3)[0] == "queued"


def test_a_later_request_that_was_not_sent_is_no_reason_to_send_the_first_again():
    never = httpx.ConnectError("refused")
    assert became(never, Call(1, 1, code=200), idempotent=False, max_attempts=3)[0] == "failed"
    assert became(never, arrived(), idempotent=False, max_attempts=3)[0] == "unknown"
    assert became(never, Call(1, 1), idempotent=False, max_attempts=3)[0] == "queued"


def arrived() -> Call:
    """A call whose post was answered with yes."""
    return Call(1, 1, code=200, has_arrived=True)


@pytest.mark.parametrize(
    "error", [KeyError("id"), ValueError("x"), SystemExit(1), httpx.UnsupportedProtocol("x")]
)
def test_what_breaks_after_a_post_was_answered_is_no_failure_that_may_be_sent_again(error: BaseException):
    assert became(error, arrived(), idempotent=False, max_attempts=3)[0] == "unknown"
    assert became(error, arrived())[0] == "failed"
    assert became(Retry("not yet"), arrived(), idempotent=False, max_attempts=3)[0] == "queued"


def test_an_answer_that_asks_for_a_pause_gets_it_also_where_an_earlier_post_was_answered():
    answer = httpx.Response(429, headers={"Retry-After": "60"}, request=httpx.Request("POST", "http://x"))
    error = httpx.HTTPStatusError("x", request=answer.request, response=answer)
    call = Call(1, 1, code=429, retry_after=60.0, has_arrived=True)
    result, hold = outcome(a_task(idempotent=False), ITEM, call, error, time.perf_counter())
    assert result.status == "unknown" and hold and hold.reason == "429, Retry-After"


@pytest.mark.parametrize(
    ("method", "path", "has_arrived"),
    [("POST", "/fine", True), ("GET", "/fine", False), ("POST", "/gone", False)],
)
def test_a_post_that_was_answered_is_noted(broken: Broken, method: str, path: str, has_arrived: bool):
    call = Call(1, 1)

    async def ask() -> None:
        token = current_call.set(call)
        async with open_httpx(broken.url) as api:
            await api.request(method, path)
        current_call.reset(token)

    asyncio.run(ask())
    assert call.has_arrived == has_arrived and call.code in (200, 404)


@pytest.mark.parametrize(
    "error",
    [
        json.JSONDecodeError("Expecting value", "<html>", 0), msgspec.DecodeError("no"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"),
        asyncio.IncompleteReadError(b"", 5), ssl.SSLEOFError("x"), smtplib.SMTPServerDisconnected("gone"), TimeoutError(),
        ConnectionResetError("x"), BrokenPipeError("x"), asyncio.CancelledError(), subprocess.TimeoutExpired("curl", 1),
        BrokenProcessPool("a process in it died"), ftplib.error_temp("421 closing"), imaplib.IMAP4.abort("bye"),
    ],
    ids=lambda e: type(e).__name__,
)  # fmt: skip
def test_so_is_what_cannot_be_read(error: BaseException):
    assert became(error, idempotent=False)[0] == "unknown"


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (smtplib.SMTPDataError(451, b"later"), True), (smtplib.SMTPDataError(550, b"no such user"), False),
        (smtplib.SMTPRecipientsRefused({"a@b.c": (450, b"busy")}), True),
        (smtplib.SMTPRecipientsRefused({"a@b.c": (450, b"busy"), "d@e.f": (550, b"no")}), False),
        (smtplib.SMTPConnectError(421, b"busy"), True), (OSError(113, "No route to host"), True),
        (socket.gaierror(-2, "Name or service not known"), True), (OSError(2, "No such file"), False), (ValueError("x"), False),
        (ssl.SSLCertVerificationError("self-signed"), False), (httpx.UnsupportedProtocol("ftp"), False),
        (requests.exceptions.MissingSchema("x"), False), (httpx.DecodingError("x"), False), (httpx.TooManyRedirects("x"), False),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_what_is_worth_another_try(error: BaseException, again: bool):
    assert became(error, max_attempts=2)[0] == ("queued" if again else "failed")


# ---- groups and causes -----------------------------------------------------------------------------------------------


def caused(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__cause__ = inner
    return outer


def beside(outer: Exception, inner: Exception, hidden: bool = False) -> Exception:
    """An error that was raised while another was handled, by `from None` where that one is to be hidden."""
    try:
        try:
            raise inner
        except Exception:
            if hidden:
                raise outer from None
            int_of("x", outer)
    except Exception as error:
        return error
    raise AssertionError


def int_of(text: str, otherwise: Exception) -> int:
    if text.isdecimal():
        return int(text)
    raise otherwise


GROUP = ExceptionGroup(
    "unhandled errors in a TaskGroup",
    [ExceptionGroup("inner", [httpx.ConnectError("refused")]), ValueError("y")],
)
CIRCLE = ValueError("round")
CIRCLE.__cause__ = CIRCLE


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (GROUP, "queued", "Could not connect: refused"),
        (ExceptionGroup("g", [ValueError("first"), KeyError("second")]), "failed", "ValueError: first"),
        (ExceptionGroup("g", [Retry("not yet", after=3)]), "queued", "Retry: not yet"),
        (caused(RuntimeError("user 3"), httpx.ReadError("reset")), "queued", "RuntimeError: user 3 (Connection lost: reset)"),
        (caused(RuntimeError("user 3"), ValueError("x")), "failed", "RuntimeError: user 3"),
        (caused(RuntimeError(""), TimeoutError()), "queued", "Timed out"),
        (CIRCLE, "failed", "ValueError: round"),
        (beside(ValueError("user 3"), httpx.ReadError("reset")), "queued", "ValueError: user 3 (Connection lost: reset)"),
        (beside(ValueError("user 3"), httpx.ReadError("reset"), hidden=True), "failed", "ValueError: user 3"),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_a_group_or_a_cause_is_looked_into_and_the_first_real_reason_is_told(
    error: BaseException, status: str, said: str
):
    assert became(error, max_attempts=2) == (status, said)


class Strange(BaseException):
    pass


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Wordless(BaseException):
    def __str__(self) -> str:
        raise Wordless

    __repr__ = __str__


class OfAnApi(Exception):
    """As those are that give what their answer has as attributes of theirs."""

    def __getattr__(self, name: str) -> Any:
        return vars(self)["answer"][name]


ODD = [
    GeneratorExit(), StopIteration(5), StopAsyncIteration(), KeyboardInterrupt(), SystemExit(3), Strange("x"), Unspeakable(),
    Wordless(), OfAnApi("no"),
    asyncio.CancelledError(), ValueError("x" * 10_000_000), MemoryError(), RecursionError("deep"),
]  # fmt: skip


@pytest.mark.parametrize("error", ODD, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("plain", [False, True])
def test_whatever_is_raised_ends_the_try_and_is_told_in_a_line(error: BaseException, plain: bool):
    async def raises(item: Any) -> None:
        raise error

    def raises_plainly(item: Any) -> None:
        raise error

    made = Task(function=raises_plainly if plain else raises, name="t", entry="m:t", item="item")
    job = Job(*[None] * len(Job.__struct_fields__))

    async def run() -> Any:  # by a coroutine that waits for it, as a runner is
        return await attempt(job, made, caller(made, {}), ITEM, TimeLimit(None))

    result, _ = asyncio.run(run())
    assert result.status == "failed" and 0 < len(str(result.error)) <= 2100


def test_a_wrong_address_is_no_request():
    assert failure_of(raised(by_httpx, "nowhere")).kind == WRONG
    assert failure_of(raised(by_requests, "nowhere")).kind == WRONG
    assert isinstance(failure_of(raised(by_urllib, "nowhere")), Failure)
