"""Whatever is sent, and however slowly: an answer, no traceback, and no more work or memory than it is worth."""

import asyncio
import contextlib
import gzip
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.responses import Response

from rowcast.dashboard import create
from rowcast.tasks.settings import Settings
from rowcast.tasks.work import CLOCK_HEADER, VERSION, VERSION_HEADER
from rowcast.web import guard, wire
from rowcast.web.guard import Guard
from rowcast.web.routes import ROUTES
from rowcast.web.wire import HEAD, Wire
from rowcast.web.worker_api import CALLS
from tests.conftest import PATIENCE, Server, free_port

FLAGS = ("--worker-token", "known", "--tasks", "work")
FILES = {
    "work.py": """
from typing import Any
from rowcast import task

@task
def take(item: Any, more: Any = None, numbers: list[int] = [], amount: float = 0.5):
    return item
"""
}


@pytest.fixture(autouse=True)
def no_traceback(shared: Server):
    """Whatever a test here sends, the server's log shows no traceback."""
    before = shared.log.stat().st_size
    yield
    assert "Traceback" not in shared.log.read_bytes()[before:].decode(errors="replace")


def raw(server: Server, *parts: bytes) -> bytes:
    """The first line of the answer to these bytes, one part after the other, without waiting for more."""
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as s:
        with contextlib.suppress(ConnectionError):  # it may hang up before it has seen all
            for part in parts:
                s.sendall(part)
        with contextlib.suppress(ConnectionError):
            return s.recv(65536).partition(b"\r\n")[0]
    return b""


def head(line: str, **headers: str) -> bytes:
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}\r\n".encode("latin-1")


# ---- who may come in is asked before the body is read --------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "headers", "code"),
    [
        ("POST /api/ledger/hello", {}, 401),
        ("POST /api/ledger/hello", {"Authorization": "Bearer wrong", "Content_Encoding": "gzip"}, 401),
        ("POST /api/ledger/exchange", {"Authorization": "Bearer known"}, 409),
        ("POST /api/ledger/hello", {"Content_Length": "2300000000"}, 413),
        ("POST /users", {"Content_Length": "2300000000", "Content_Type": "application/json"}, 413),
        ("POST /users", {"Content_Length": "1000001", "Content_Type": "application/json"}, 413),
        ("POST /users", {"Content_Length": "1000001", "Content_Type": "application/x-www-form-urlencoded"}, 413),
        ("POST /users", {"Content_Length": "100000001", "Content_Type": "multipart/form-data; boundary=x"}, 413),
        ("POST /api/jobs", {"Content_Length": "1000001", "Content_Type": "application/json"}, 413),
        ("POST /users", {"Origin": "http://evil.example", "Content_Type": "multipart/form-data; boundary=x"}, 403),
        ("GET /", {}, 200),
        ("GET /users", {"Content_Type": "application/json"}, 200),
        ("PUT /users", {}, 405),
        ("POST /nothing", {}, 404),
    ],
)  # fmt: skip
def test_who_is_not_let_in_is_told_before_the_body_comes(
    shared: Server, line: str, headers: dict[str, str], code: int
):
    """The answer is there although not one byte of the body is."""
    answer = raw(shared, head(line, **({"Content_Length": "900000"} | headers)))
    assert answer.startswith(f"HTTP/1.1 {code} ".encode())


def chunked(line: str, kind: str, size: int) -> Iterator[bytes]:
    yield head(line, Content_Type=kind, Transfer_Encoding="chunked")
    for _ in range(size // 50_000):
        yield b"c350\r\n" + b"[" * 50_000 + b"\r\n"
    yield b"0\r\n\r\n"


@pytest.mark.parametrize(
    "line", [f"{verb.upper()} {path}" for path, verb, *_ in ROUTES if verb in ("post", "patch")]
)
def test_a_body_without_a_length_is_read_up_to_the_limit(shared: Server, line: str):
    line = line.replace("{job:number}", "1").replace("{schedule:number}", "1").replace("{action}", "retry")
    answer = raw(shared, *chunked(line.replace("{call}", "hello"), "application/json", 5_000_000))
    assert answer.split()[1] in (b"401", b"404", b"413", b"422")
    assert shared.client.get("/healthz").is_success


def test_a_large_field_of_a_form_is_no_file(shared: Server):
    field = {"file": "x" * 5_000_000}
    answer = shared.client.post("/users", data=field, files={"other": ("a.txt", b"1")})
    assert answer.status_code == 400


# ---- never 500 -----------------------------------------------------------------------------------------------

DIGITS = "9" * 5_000


def as_body(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


DEEP = {  # by name, so that a failing request can be shown
    "arrays": b"[" * 100_000,
    "objects": b'{"a":' * 100_000,
    "closed": b"[" * 900 + b"]" * 900,
    "an argument": b'{"task": "take", "args": {"items": ' + b"[" * 500_000,
    "a cron": as_body({"task": "counter", "cron": "9" * 100_000 + " * * * *"}),
    "a zone": as_body({"task": "counter", "cron": "* * * * *", "zone": "A" * 100_000}),
}
ODD_REQUESTS = {
    "Content-Length of 5,000 digits": [head("POST /api/jobs", Content_Length=DIGITS)],
    "Content-Length of other digits": [head("POST /api/jobs", Content_Length="\xb2")],
    "two Content-Lengths": [head("POST /api/jobs", Content_Length="1\r\nContent-Length: 2"), b"{}"],
    "a want of 21,000 letters": [head(f"GET /events?want={'a' * 21_000}")],
    "a want with a query of 21,000 letters": [head(f"GET /events?want=a.0.{'a%26' * 5_000}")],
    "a want with a cursor of 5,000 digits": [head(f"GET /events?want=a.{DIGITS}.job=1")],
    "a want for a job of 5,000 digits": [head(f"GET /events?want=a.0.job%3D{DIGITS}")],
    "Last-Event-ID": [head("GET /api/events", Last_Event_ID="\xb2")],
    "a range of 5,000 digits": [head("GET /static/app.css", Range=f"bytes={DIGITS}-")],
    "many ranges": [head("GET /static/app.css", Range="bytes=" + "0-1," * 2_000 + "0-1")],
    "a date": [head("GET /static/app.css", If_Modified_Since=DIGITS)],
    "a boundary that is none": [head("POST /users", Content_Type="multipart/form-data; boundary=", Content_Length="3"), b"abc"],
    "a boundary of 60,000 letters": [head("POST /users", Content_Type=f"multipart/form-data; boundary={'x' * 60_000}", Content_Length="3"), b"abc"],
    "letters that are none": [head("POST /jobs", Content_Type="application/x-www-form-urlencoded; charset=nothing", Content_Length="6"), b"task=\xff"],
    "a type that is none": [head("POST /jobs", Content_Type="\xff/;;=", Content_Length="3"), b"abc"],
    "a surrogate in the query": [head("GET /users?q=%ed%a0%80")],
    "a NUL in the path": [head("GET /static/%00")],
    "a long path": [head(f"GET /static/{'a' * 5_000}")],
    "a card of 5,000 letters": [head(f"GET /card/{'a' * 5_000}")],
    "an absolute address": [head("GET http://127.0.0.1/users")],
    "an asterisk": [head("OPTIONS *")],
    "a token of other letters": [head("POST /api/ledger/hello", Authorization="Bearer \xff", Content_Length="0")],
}  # fmt: skip


@pytest.mark.parametrize("parts", ODD_REQUESTS.values(), ids=ODD_REQUESTS)
def test_no_odd_request_is_answered_with_500(shared: Server, parts: list[bytes]):
    assert raw(shared, *parts).split()[1] < b"500"


NUMBERS = st.sampled_from(
    [0, -1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**40, -(2**63) - 1, 1e308, 5e-324, 0.1]
)
WORDS = st.sampled_from([
    "", "a", "\x00", "\u202e", "\ud7ff\ue000", "%", "0", "1", "-1", DIGITS, f"{DIGITS} * * * *", "* * * * *", "0 0 31 2 *",
    "1/s", f"{DIGITS}/s", "UTC", "Europe", "../../etc", "A" * 300, "9999-12-31T23:59:59Z", "0001-01-01T00:00:00+14:00",
    "1e309", "NaN", "null", "[", "{", "update_users", "take", "counter", "failed", "all", "moving", "jobs", "\xb2", "٣",
])  # fmt: skip


def inside(inner: Any) -> Any:
    return st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=8), inner, max_size=3)


def as_query(fields: dict[str, str]) -> bytes:
    return str(httpx.QueryParams(fields)).encode()


def is_no_head_alone(word: str) -> bool:
    return len(word) < 60_000


VALUES = st.recursive(st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=8), inside, max_leaves=6)
FIELDS = (
    "task args concurrency rate stop_after canary dry_run run_at unique_key unique_for cron zone item group hours loops limit items"
    " more numbers amount job slot token worker report has alive slices host pid"
).split()
NAMES = "status after limit page q view find group before cursor job want poll".split()
OBJECTS = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6)
STARTS = st.fixed_dictionaries(
    {"task": st.sampled_from(["take", "update_users"])},
    optional={
        "args": st.dictionaries(st.sampled_from(["items", "more", "numbers", "amount", "limit"]), VALUES),
        **dict.fromkeys(
            ("concurrency", "rate", "stop_after", "canary", "dry_run", "run_at", "unique_key", "unique_for"),
            VALUES,
        ),
        "cron": WORDS,
        "zone": WORDS,
    },
)
TYPES = (
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "multipart/form-data",
    "text/plain",
)


BODIES = st.one_of(
    OBJECTS.map(as_body),
    STARTS.map(as_body),
    VALUES.map(as_body),
    st.binary(max_size=60),
    st.dictionaries(st.sampled_from(FIELDS), WORDS, max_size=5).map(as_query),
    st.lists(st.sampled_from([b"--x", b"--x--", b"\r\n", b'Content-Disposition: form-data; name="file"; filename="a"',
                              b'Content-Disposition: form-data; name="task"', b"Content-Type: x", b"counter", b"\xff",
                              b"a@example.com,\"", b"PK\x03\x04"]), max_size=12).map(b"\r\n".join),
)  # fmt: skip
PATHS = sorted({path for path, *_ in ROUTES})
PARTS = {
    "{job:number}": ["1", "2", "999999", "9" * 18, str(2**63), DIGITS, "-1", "x"],
    "{schedule:number}": ["1", "9" * 18, DIGITS],
    "{action}": ["pause", "resume", "cancel", "retry", "settle", "delete", "\u202e", "a" * 3_000],
    "{call}": sorted(CALLS),
    "{token}": ["x", "WzEsMV0.x", "a" * 3_000],
    "{path:path}": ["app.css", "vendor/htmx.min.js", "../dashboard.py", "a" * 3_000, "%00"],
}


@st.composite
def requests(draw: Callable[..., Any]) -> dict[str, Any]:
    """A request to a route, with whatever may stand in its places."""
    path = draw(st.sampled_from(PATHS))
    for place, values in PARTS.items():
        if place in path:
            path = path.replace(place, draw(st.sampled_from(values)))
    headers = {"Content-Type": draw(st.sampled_from(TYPES))}
    if path.startswith("/api/ledger"):
        headers |= {"Authorization": "Bearer known", VERSION_HEADER: VERSION}
        headers[CLOCK_HEADER] = draw(st.sampled_from(["", "0", "nan", "1e400", "1e300", "x", DIGITS[:300]]))
    if draw(st.booleans()):
        headers["HX-Request"] = "true"
    body = draw(BODIES | st.sampled_from(sorted(DEEP)))
    if draw(st.integers(0, 9)) == 0:
        headers["Content-Encoding"] = "gzip"
        body = gzip.compress(body) if isinstance(body, bytes) and draw(st.booleans()) else body
    return {
        "method": draw(st.sampled_from(["GET", "POST", "PATCH", "DELETE", "HEAD"])),
        "url": path,
        "params": draw(st.dictionaries(st.sampled_from(NAMES), WORDS.filter(is_no_head_alone), max_size=3)),
        "headers": headers,
        "content": body,
    }


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests())
@example(
    {
        "method": "POST",
        "url": "/api/ledger/begin",
        "headers": {"Authorization": "Bearer known", VERSION_HEADER: VERSION},
        "content": as_body({"job": 2**63, "slot": 2**63, "token": "x", "worker": "x"}),
    }
)
@example({"method": "POST", "url": "/api/schedules", "content": "a cron"})
@example({"method": "POST", "url": "/api/schedules", "content": "a zone"})
def test_no_request_at_all_is_answered_with_500(shared: Server, request: dict[str, Any]):
    content = DEEP.get(request["content"], request["content"])
    with shared.client.stream(**request | {"content": content}) as answer:
        assert answer.status_code < 500


@pytest.mark.parametrize("line", sorted({f"{verb.upper()} {path}" for path, verb, *_ in ROUTES}))
def test_no_depth_of_json_is_answered_with_500(shared: Server, line: str):
    verb, path = line.split()
    for place, values in PARTS.items():
        path = path.replace(place, values[0])
    for kind, depth in itertools.product(TYPES, (500, 5_000, 100_000)):
        headers = {"Content-Type": kind, "Authorization": "Bearer known", VERSION_HEADER: VERSION}
        deep = "[" * depth + "]" * depth
        body = '{"task": "take", "job": 1, "args": {"items": ["a"], "more": ' + deep + "}}"
        with shared.client.stream(verb, path, content=body, headers=headers) as answer:
            assert answer.status_code < 500, (kind, depth)
    assert shared.client.get("/").status_code == 200


# ---- slow bodies ---------------------------------------------------------------------------------------------


def asked(tmp_path: Any, path: str, *bodies: bytes, kind: str = "application/json") -> list[Any]:
    """What the dashboard sends to one who begins a body, and never ends it."""
    made = create(Settings(database=str(tmp_path / "x.db")))
    headers = [(b"host", b"127.0.0.1"), (b"content-type", kind.encode())]
    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "scheme": "http", "http_version": "1.1", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1), "headers": headers,
    }  # fmt: skip
    waiting = list(bodies)
    sent: list[Any] = []

    async def receive() -> Any:
        if not waiting:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": waiting.pop(0), "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(made.asgi(scope, receive, send))
    return sent


@pytest.mark.parametrize("path", ["/api/jobs", "/users", "/jobs", "/schedules"])
def test_a_body_that_does_not_come_is_not_waited_for(tmp_path, monkeypatch: pytest.MonkeyPatch, path: str):
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.05)
    kind = "application/json" if path.startswith("/api") else "multipart/form-data; boundary=x"
    answer = asked(tmp_path, path, b"--x\r\n", kind=kind)
    assert answer[0]["status"] == 408
    assert b"did not come in time" in answer[1]["body"]


def test_a_long_body_has_time_by_its_length(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.0)
    monkeypatch.setattr(guard, "SLOWEST", 1e9)
    assert asked(tmp_path, "/api/jobs", b"{")[0]["status"] == 408
    monkeypatch.setattr(guard, "BODY_SECONDS", 10.0)
    assert asked(tmp_path, "/api/jobs", b"x" * 1_000_001)[0]["status"] == 413


@pytest.mark.parametrize(
    ("headers", "comes", "taken"),
    [
        ([(b"content-length", b"9")], True, 3),
        ([(b"transfer-encoding", b"chunked")], True, 3),
        ([(b"content-length", b"9")], False, 2),
        ([(b"content-length", b"9"), (b"expect", b"100-continue")], True, 0),
        ([(b"content-length", b"900000")], True, 0),
        ([(b"content-length", b"0")], True, 0),
        ([], True, 0),
    ],
)
def test_a_short_body_is_taken_before_who_is_not_let_in_is_told(
    monkeypatch: pytest.MonkeyPatch, headers: list[tuple[bytes, bytes]], comes: bool, taken: int
):
    """So that no proxy is still sending it; one that does not come is not waited for."""
    monkeypatch.setattr(guard, "SHORT_SECONDS", 10.0 if comes else 0.05)
    happened: list[str] = []
    parts = [True, True, False] if comes else [True, True]

    async def receive() -> Any:
        if not parts:
            await asyncio.Event().wait()
        happened.append("taken")
        return {"type": "http.request", "body": b"abc", "more_body": parts.pop(0)}

    async def send(message: Any) -> None:
        happened.append(message["type"])

    async def inner(*asgi: Any) -> None:
        await Response("no", 401)(*asgi)

    scope = {
        "type": "http", "method": "POST", "path": "/", "scheme": "http", "query_string": b"", "root_path": "",
        "headers": [(b"host", b"localhost"), *headers],
    }  # fmt: skip
    asyncio.run(Guard(inner, "", lambda scope, code, why: Response(why, code))(scope, receive, send))
    assert happened == ["taken"] * taken + ["http.response.start", "http.response.body"]


# ---- the wire ------------------------------------------------------------------------------------------------


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers /early at once, and anything else once it has the whole body."""
    assert scope["type"] == "http"
    while scope["path"] != "/early" and (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    """Its times are short; not so short that an answer that is expected before they are over would not come."""
    monkeypatch.setattr(wire, "HEAD_SECONDS", 1.5 if answer else 0.3)
    monkeypatch.setattr(wire, "LINGER_SECONDS", 0.3)


@pytest.fixture
def wired() -> Iterator[int]:
    """The port of a server on our wire."""
    config = uvicorn.Config(
        echo, port=free_port(), http=Wire, log_level="critical", lifespan="off", timeout_keep_alive=30
    )
    server = uvicorn.Server(config)
    started = threading.Event()
    plain = server.startup

    async def startup(**given: Any) -> None:
        await plain(**given)
        started.set()

    vars(server)["startup"] = startup
    thread = threading.Thread(target=server.run)
    thread.start()
    assert started.wait(PATIENCE)
    yield config.port
    server.should_exit = True
    thread.join()


def until_it_hangs_up(port: int, *parts: bytes, more: bytes = b"") -> bytes:
    """All that is answered until the other side hangs up, while `more` is sent without an end."""
    answer = b""
    give_up = time.monotonic() + PATIENCE
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as s, contextlib.suppress(ConnectionError):
        for part in parts:
            s.sendall(part)
        s.settimeout(0.02)
        while time.monotonic() < give_up:
            with contextlib.suppress(TimeoutError):
                if not (got := s.recv(65536)):
                    return answer
                answer += got
            s.sendall(more)
        raise AssertionError("it never hangs up")
    return answer


GET = head("GET /")
POST = head("POST /", Transfer_Encoding="chunked")
SLOW = {
    "says nothing": (b"", b"", b""),
    "a head that never ends": (GET[:-2], b"", b""),
    "a head that trickles": (GET[:-2], b"X: y\r\n", b""),
    "the first line trickles": (b"GET /", b"a", b""),
    "empty lines": (b"", b"\r\n", b""),
    "empty lines behind an answer": (GET, b"\r\n", b"ok"),
    "a second head that never ends": (GET + GET[:-2], b"", b"ok"),
    "a body that nobody reads": (head("POST /early", Content_Length="1000000"), b"x", b"ok"),
}
LARGE = {
    "a header": GET[:-2] + b"X: " + b"a" * 500_000,
    "an address": b"GET /" + b"a" * 500_000,
    "headers": GET[:-2] + b"X: y\r\n" * 100_000,
    "the size of a chunk": POST + b"5;x=" + b"a" * 500_000,
    "trailers": POST + b"1\r\nx\r\n0\r\n" + b"X: y\r\n" * 100_000,
    "a second header": GET + GET[:-2] + b"X: " + b"a" * 500_000,
}


@pytest.mark.parametrize(("first", "more", "answer"), SLOW.values(), ids=SLOW)
@pytest.mark.usefixtures("hasty")
def test_what_does_not_come_to_an_end_is_hung_up_on(wired: int, first: bytes, more: bytes, answer: bytes):
    got = until_it_hangs_up(wired, first, more=more)
    assert got.endswith(answer) and got.count(b"200 OK") == bool(answer)


@pytest.mark.parametrize("request_", LARGE.values(), ids=LARGE)
def test_what_has_too_large_a_head_is_hung_up_on(
    wired: int, request_: bytes, monkeypatch: pytest.MonkeyPatch
):
    """For its size, and long before its time is over."""
    monkeypatch.setattr(wire, "HEAD_SECONDS", 2 * PATIENCE)
    got = until_it_hangs_up(wired, request_)
    assert got.count(b"200 OK") <= request_.startswith(GET)
    assert len(got) < 1_000


@pytest.mark.parametrize("size", [0, 1, 100_000, 3_000_000])
def test_what_is_in_order_is_answered_over_one_connection(wired: int, size: int):
    with httpx.Client(base_url=f"http://127.0.0.1:{wired}") as client:
        for n in range(3):
            assert (
                client.post("/", content=b"x" * size, headers={"X": "y" * (HEAD // 4) * (n % 2)}).text == "ok"
            )
            parts = (b"x" * 1_000 for _ in range(size // 1_000))
            assert client.post("/", content=parts).text == "ok"
            assert client.post("/early", content=b"x" * size).text == "ok"


def test_a_head_that_is_whole_and_too_large_is_told_so(shared: Server):
    answer = shared.client.get("/api/jobs", headers={"X": "y" * 65_000, "Z": "y" * 1_000})
    assert (answer.status_code, answer.json()["error"]) == (
        431,
        "The address and the headers have more than 65,536 bytes.",
    )
