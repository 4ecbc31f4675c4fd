"""The WebSocket: the frames of /api/events as messages, from a real server, cut and resumed."""

import base64
import json
import os
import random
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import Api, Server, until
from test_streams import events
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from bench.processes import descriptors
from rowcast.jobs import Jobs
from rowcast.tables.accounts import Accounts
from rowcast.tables.database import close_databases
from rowcast.tables.sessions import Tokens
from rowcast.tasks.built_in import counter
from rowcast.tasks.records import Options

Serve = Callable[..., Server]
FILES = {
    "work.py": """
import asyncio
from rowcast import task

@task(concurrency=20)
async def nap(item: str, seconds: float = 0.01):
    await asyncio.sleep(seconds)
    if item.endswith("7"):
        raise RuntimeError("seven")
"""
}
FLAGS = ("--tasks", "work")
PING = 0x9  # of the protocol's frames


def naps(server: Server, number: int = 200, **args: Any) -> int:
    return server.begin("nap", items=[f"nap {n}" for n in range(number)], **args)


def opened(server: Server, job: int | None = None, path: str = "/api/ws", **how: Any) -> ClientConnection:
    query = "" if job is None else f"?job={job}"
    return connect(f"ws://127.0.0.1:{server.port}{path}{query}", **({"open_timeout": 60} | how))


def begin(ws: ClientConnection, after: int = 0) -> ClientConnection:
    """Say from where on it goes."""
    ws.send(json.dumps({"after": after}))
    return ws


def told(ws: ClientConnection) -> tuple[list[dict[str, Any]], int, str]:
    """All messages until the server closes, and the code and reason with which it does."""
    found = []
    try:
        while True:
            found.append(json.loads(ws.recv(90)))
    except ConnectionClosed as closed:
        assert closed.rcvd
        return found, closed.rcvd.code, closed.rcvd.reason


def refusal(ws: ClientConnection) -> tuple[int, str]:
    messages, code, reason = told(ws)
    assert messages == []
    return code, reason


# ---- the frames ----------------------------------------------------------------------------------------------------


def test_its_messages_are_the_events_of_the_stream(shared: Server) -> None:
    job = naps(shared, 50)
    shared.ended(job)
    with opened(shared, job) as ws:
        messages, code, _ = told(begin(ws))
    streamed = [
        {"id": int(e.id) if e.event != "done" else None, "event": e.event, "data": e.json()}
        for e in events(shared, f"/api/jobs/{job}/events")
    ]
    assert messages == streamed and len(messages) == 52
    assert code == 1000


def test_of_all_jobs_it_tells_what_the_stream_of_all_jobs_tells(shared: Server) -> None:
    jobs = {naps(shared, 20), naps(shared, 20)}
    seen: dict[int, str] = {}
    with opened(shared) as ws:
        begin(ws)
        while jobs - seen.keys() or {seen[job] for job in jobs} != {"completed"}:
            message = json.loads(ws.recv(90))
            if message["event"] == "job":
                seen[message["data"]["id"]] = message["data"]["status"]
        assert message["data"] == shared.job(message["data"]["id"])


def test_it_goes_on_behind_the_number_that_the_first_message_names(shared: Server) -> None:
    job = naps(shared, 30)
    shared.ended(job)
    with opened(shared, job) as ws:
        everything, _, _ = told(begin(ws))
    middle = everything[15]["id"]
    with opened(shared, job) as ws:
        rest, _, _ = told(begin(ws, middle))
    assert rest == everything[16:]


def test_cut_at_random_places_and_resumed_nothing_is_lost(shared: Server) -> None:
    chance = random.Random(7)
    job = naps(shared, 400)
    items: dict[int, dict[str, Any]] = {}
    last = 0
    cuts = 0
    done = False
    while not done:
        with opened(shared, job, close_timeout=0.2) as ws:  # it reads nothing more, not even a goodbye
            begin(ws, last)
            for _ in range(chance.randint(1, 120)):
                message = json.loads(ws.recv(90))
                done = message["event"] == "done"
                if done:
                    break
                assert message["id"] > last
                last = message["id"]
                if message["event"] == "item":
                    items[message["data"]["id"]] = message["data"]
        cuts += 1
    assert cuts > 3
    assert sorted(items.values(), key=lambda item: item["position"]) == shared.items(job)


def test_a_number_of_another_database_is_told_to_read_again(shared: Server) -> None:
    with opened(shared) as ws:
        message = json.loads(begin(ws, 10**12).recv(90))
    assert (message["id"], message["event"]) == (None, "resync")
    assert message["data"]["after"] <= shared.client.get("/healthz").json()["seq"]


def test_what_a_client_says_later_is_not_heeded(shared: Server) -> None:
    job = naps(shared, 10)
    with opened(shared, job) as ws:
        begin(ws)
        for _ in range(20):
            ws.send("are you there?")
        messages, code, _ = told(ws)
    assert messages[-1] == {"id": None, "event": "done", "data": {"status": "completed"}}
    assert code == 1000


# ---- who is refused, and how they are told -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    ["", "after", "[]", '{"after": "5"}', '{"after": -1}', '{"after": 1e30}', "{}", "[" * 2000, b"\xff"],
)
def test_a_first_message_that_says_no_number_is_refused(shared: Server, first: str | bytes) -> None:
    with opened(shared) as ws:
        ws.send(first)
        code, reason = refusal(ws)
    assert code == 4422
    assert "after" in reason


def test_whoever_says_nothing_is_not_waited_for(serve: Serve) -> None:
    server = serve(waits={"FIRST_WORD": 1})
    with opened(server) as ws:
        assert refusal(ws)[0] == 4408


@pytest.mark.parametrize(("job", "code"), [("4711", 4404), ("seven", 4422), ("-1", 4422), ("1" * 30, 4422)])
def test_a_job_that_is_not_there_is_refused(shared: Server, job: str, code: int) -> None:
    with connect(f"ws://127.0.0.1:{shared.port}/api/ws?job={job}") as ws:
        assert refusal(ws)[0] == code


def test_over_the_cap_the_code_says_so(serve: Serve) -> None:
    server = serve("--streams-per-viewer", "1")
    with opened(server) as first:
        begin(first)
        until(lambda: server.streams() == 1)
        with opened(server) as second:
            code, reason = refusal(second)
        assert code == 4429
        assert reason.startswith("Too many streams are open")
    until(lambda: server.streams() == 0)
    with opened(server) as third:
        begin(third)
        until(lambda: server.streams() == 1)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Host": "evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
    ids=str,
)
def test_another_origin_or_host_is_refused_before_anything_is_accepted(
    shared: Server, headers: dict[str, str]
) -> None:
    answer = shared.client.get("/api/ws", headers=shake() | headers)
    assert answer.status_code == 403
    assert answer.json()["error"]


def test_the_pages_own_origin_is_accepted(shared: Server) -> None:
    with opened(shared, additional_headers={"Origin": shared.url}) as ws:
        assert json.loads(begin(ws, 10**12).recv(90))["event"] == "resync"


def test_a_page_of_another_site_cannot_open_it(shared: Server, api: Api, visit: Callable[..., Any]) -> None:
    page = visit(f"{api.url}/peak")
    code = page.evaluate(
        """(url) => new Promise((resolve) => {
            const socket = new WebSocket(url);
            socket.onopen = () => socket.send('{"after": 0}');
            socket.onmessage = () => resolve("told");
            socket.onclose = (e) => resolve(e.code);
        })""",
        f"ws://127.0.0.1:{shared.port}/api/ws",
    )
    assert code == 1006


def test_a_plain_request_is_told_what_is_spoken_there(shared: Server) -> None:
    answer = shared.client.get("/api/ws")
    assert answer.status_code == 426
    assert answer.headers["Upgrade"] == "websocket"
    assert answer.json()["error"] == "This address speaks WebSocket."


def test_at_no_other_address_a_websocket_is_accepted(shared: Server) -> None:
    for path in ("/api/events", "/events", "/", "/api/ws/"):
        with pytest.raises(InvalidStatus), opened(shared, path=path):
            pass


PASSWORD = "a bicycle over twelve mountains"


def test_with_accounts_each_is_told_of_their_own_until_their_right_ends(serve: Serve) -> None:
    server = serve(waits={"PING": 1})
    path = str(server.directory / "data" / "rowcast.db")
    shown: dict[str, dict[str, str]] = {}
    numbers: dict[str, int] = {}
    for name in ("olga", "stan"):
        Accounts(path).add(name, "operator", PASSWORD)
        token, numbers[name] = Tokens(path).add(name, "a program", "read")
        shown[name] = {"Authorization": f"Bearer {token}"}
    job, _ = Jobs(path).submit(counter, {"loops": 1}, "olga", "background", Options(run_at=2e9))
    with opened(server) as ws:
        assert refusal(ws)[0] == 4401
    with opened(server, additional_headers={"Authorization": "Bearer nothing"}) as ws:
        assert refusal(ws)[0] == 4401
    with opened(server, job.id, additional_headers=shown["stan"]) as ws:
        assert refusal(ws)[0] == 4404
    with opened(server, additional_headers=shown["olga"]) as ws:
        begin(ws)
        seen = [json.loads(ws.recv(90)) for _ in range(2)]
        assert {one["event"]: one["data"].get("job", job.id) for one in seen} == dict.fromkeys(
            ("job", "item"), job.id
        )
        Tokens(path).revoke("olga", numbers["olga"])
        messages, code, _ = told(ws)
    assert messages[-1] == {"id": None, "event": "auth", "data": {}}
    assert code == 4401
    close_databases()


# ---- the connection ------------------------------------------------------------------------------------------------


def shake() -> dict[str, str]:
    key = base64.b64encode(os.urandom(16)).decode()
    return {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
    }


def bare(server: Server, path: str, after: int, buffer: int | None = None) -> socket.socket:
    """A connection that has said its first message, and of which nothing is read by itself."""
    s = socket.socket()
    if buffer:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    s.settimeout(90)
    s.connect(("127.0.0.1", server.port))
    head = "".join(f"{name}: {value}\r\n" for name, value in shake().items())
    s.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n{head}\r\n".encode())
    said = b""
    while not said.endswith(b"\r\n\r\n"):
        said += s.recv(1)
    assert said.startswith(b"HTTP/1.1 101 ")
    message = json.dumps({"after": after}).encode()
    s.sendall(bytes([0x81, 0x80 | len(message), 0, 0, 0, 0]) + message)  # masked by zeros
    return s


def frame(s: socket.socket) -> tuple[int, bytes]:
    """The next frame: its kind, and what is in it."""
    first, length = read(s, 2)
    size = int.from_bytes(read(s, {126: 2, 127: 8}[length])) if length > 125 else length
    return first & 0xF, read(s, size)


def read(s: socket.socket, size: int) -> bytes:
    said = b""
    while len(said) < size:
        part = s.recv(size - len(said))
        assert part
        said += part
    return said


def test_a_quiet_socket_is_pinged(shared: Server) -> None:
    seq = shared.client.get("/healthz").json()["seq"]
    with closing(bare(shared, "/api/ws", seq)) as s:
        kinds = [frame(s)[0]]
        while kinds[-1] != PING:
            kinds.append(frame(s)[0])


def test_a_client_that_reads_nothing_is_dropped_and_the_others_do_not_wait(serve: Serve, api: Api) -> None:
    server = serve("--api-url", api.url, waits={"SEND_TIMEOUT": 5})
    server.users(*(f"user-{n:05}@example.com" for n in range(20_000)))
    api.stall()
    job = server.begin(concurrency=1)
    until(lambda: server.job(job)["total"] == 20_000)
    before = descriptors(server.process.pid)
    with closing(bare(server, f"/api/ws?job={job}", 0, 4096)):
        until(lambda: server.streams() == 1)
        with opened(server, job) as ws:
            begin(ws)
            assert all(json.loads(ws.recv(90))["event"] in ("item", "job") for _ in range(20_000))
        until(lambda: server.streams() == 0)
        until(
            lambda: descriptors(server.process.pid) <= before
        )  # it is hung up on, and nothing is kept for it


def test_a_client_that_leaves_is_forgotten(shared: Server) -> None:
    with opened(shared) as ws:
        begin(ws)
        until(lambda: shared.streams() == 1)
    until(lambda: shared.streams() == 0)


def test_one_that_is_cut_off_without_a_word_is_forgotten(shared: Server) -> None:
    s = bare(shared, "/api/ws", 0)
    until(lambda: shared.streams() == 1)
    s.close()
    until(lambda: shared.streams() == 0)


@pytest.mark.parametrize("workers", [1, 2])
def test_at_a_stop_it_says_so_closes_as_restarting_and_goes_on_afterwards(serve: Serve, workers: int) -> None:
    server = serve("--workers", str(workers))
    server.ended(server.begin("counter", loops=2))
    with opened(server) as ws:
        last = json.loads(begin(ws).recv(90))["id"]
        threading.Thread(target=server.stop).start()
        messages, code, _ = told(ws)
    assert messages[-1] == {"id": None, "event": "shutdown", "data": {}}
    assert code == 1012
    last = max([last, *(message["id"] or 0 for message in messages)])
    server.process.wait(60)
    server.start()
    server.begin("counter", loops=1)
    with opened(server) as ws:
        assert json.loads(begin(ws, last).recv(90))["id"] > last


def test_a_client_that_heeds_no_close_does_not_hold_up_a_stop(serve: Serve) -> None:
    server = serve()
    with closing(bare(server, "/api/ws", 0)):
        until(lambda: server.streams() == 1)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    assert "Traceback" not in server.log.read_text()


def test_any_process_serves_any_socket(serve: Serve, api: Api) -> None:
    server = serve("--api-url", api.url, "--workers", "3")
    api.stall()
    job = server.begin(limit=40, concurrency=4)
    with ExitStack() as all_of_them:
        sockets = [all_of_them.enter_context(opened(server, job)) for _ in range(6)]
        for ws in sockets:
            begin(ws)
            assert json.loads(ws.recv(90))["event"] in ("item", "job")
        api.answer()
        for ws in sockets:
            messages, code, _ = told(ws)
            assert code == 1000
            assert messages[-1]["event"] == "done"


APP = """
from fasthtml.common import FastHTML
from rowcast import mount

app = FastHTML()
mount(app, "/jobs", database="jobs.db")
"""
RUN = """
import sys, uvicorn
sys.path.insert(0, "")
uvicorn.run("app:app", port=int(sys.argv[sys.argv.index("--port") + 1]), log_level="warning")
"""


def test_under_an_app_it_is_below_its_path(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    server = serve(program=["-c", RUN], health="/jobs/healthz")
    made = httpx.post(
        f"{server.url}/jobs/api/jobs", json={"task": "counter", "args": {"loops": 2}}, timeout=120
    )
    with opened(server, made.json()["id"], "/jobs/api/ws") as ws:
        messages, code, _ = told(begin(ws))
    assert [message["event"] for message in messages][-1] == "done"
    assert sum(message["event"] == "item" for message in messages) >= 2
    assert code == 1000
    assert httpx.get(f"{server.url}/jobs/api/ws", headers=shake() | {"Origin": "null"}).status_code == 403
