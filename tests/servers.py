"""What runs beside the tests: a real API, and `rowcast` as a user starts it; and how a test waits for them."""

import atexit
import contextlib
import functools
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forks
import httpx

ROOT = Path(__file__).parent.parent

# Of a connection that both ends give up after the same five seconds, one may just be doing so when it is used.
SHORT = httpx.Limits(keepalive_expiry=2)
PATIENCE = 120.0  # seconds that nothing takes, however busy the machine is
PORTS = 700  # of each test process
GIVEN = set[int]()  # ports that are somebody's, also while nobody listens there


@functools.cache
def own_ports() -> tuple[socket.socket, range]:
    """Each test process has ports of its own, whoever else tests on this machine, and below those that the system
    gives to connections: a port that is free when it is looked for is then free when somebody listens there. They
    are those behind one that this process has, and on which nobody listens."""
    for first in range(11_000, 32_000 - PORTS, PORTS):
        mark = socket.socket()
        try:
            mark.bind(("127.0.0.1", first))
        except OSError:
            mark.close()
            continue
        return mark, range(first + 1, first + PORTS)
    raise AssertionError("no ports are free")


def free_port() -> int:
    left = [port for port in own_ports()[1] if port not in GIVEN]
    for port in random.sample(left, len(left)):
        with contextlib.suppress(OSError), socket.socket() as s:
            s.bind(("127.0.0.1", port))
            GIVEN.add(port)
            return port
    raise AssertionError("no port is free")


def until(condition: Callable[[], Any], seconds: float = PATIENCE, every: float = 0.05) -> Any:
    """The condition's first true value; fails when it stays false for too long."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"still not so after {seconds} s: {condition}")
        time.sleep(every)
    return found


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """What happens in here takes so many seconds at most, where nobody else computes; else longer by as much as what
    computes does meanwhile, of which some is done every now and then."""
    over = threading.Event()
    spent = {"time": 0.0, "cpu": 0.0}

    def compute() -> None:
        while not over.wait(0.1):
            began = time.monotonic()
            cpu = time.thread_time()
            while time.thread_time() - cpu < 0.01:
                pass
            spent["time"] += time.monotonic() - began
            spent["cpu"] += time.thread_time() - cpu

    computing = threading.Thread(target=compute)
    computing.start()
    began = time.monotonic()
    try:
        yield
        took = time.monotonic() - began
    finally:
        over.set()
        computing.join()
    slower = spent["time"] / spent["cpu"] if spent["cpu"] else 1.0
    assert took < seconds * (2 * slower - 1), f"{took:.1f} s, on a machine that is {slower:.1f} times as slow"


@functools.cache
def nursery() -> forks.Nursery:
    """This test process's."""
    made = forks.nursery()
    atexit.register(made.close)
    return made


SHORTENED = """
from rowcast import __main__
from rowcast.web import requests
vars(requests).update({})
__main__.main()
"""
MAIN = "from rowcast.__main__ import main; main()"
PROGRAMS = {
    "rowcast": MAIN,
    "rowcast.dashboard": MAIN,
    "uvicorn": "import sys; sys.argv[0] = 'uvicorn'; from uvicorn.main import main; main()",
}


def python(words: list[str], **how: Any) -> forks.Forked:
    """A fork that does what `python -m WORDS` would, one of PROGRAMS; `how` as for subprocess.Popen."""
    module, *arguments = words
    return forks.Forked(nursery(), PROGRAMS[module], arguments, **how)


def rowcast(
    *words: str, cwd: Path | None = None, env: dict[str, str] | None = None, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """`rowcast WORDS`, which has ended: with these variables, where none are given without any that name settings."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("ROWCAST_")}
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as errors,
    ):
        given.write(stdin.encode())
        given.seek(0)
        process = forks.Forked(
            nursery(),
            MAIN,
            words,
            cwd=cwd,
            env=plain if env is None else env,
            stdin=given,
            stdout=out,
            stderr=errors,
        )
        code = process.wait(PATIENCE)
        told: list[str] = []
        for file in (out, errors):
            file.seek(0)
            told.append(file.read().decode().replace("\r\n", "\n"))
    return subprocess.CompletedProcess(["rowcast", *words], code, *told)


OPTIONS = (
    "concurrency",
    "priority",
    "rate",
    "stop_after",
    "canary",
    "dry_run",
    "run_at",
    "unique_key",
    "unique_for",
    "notify",
    "tags",
)


class Api:
    """The tests' API: where it is, and what arrived there."""

    def __init__(self, client: httpx.Client):
        self.client = client
        self.url = str(client.base_url).rstrip("/")

    def log(self) -> list[list[Any]]:
        return self.client.get("/log").json()

    def latency(self, ms: float) -> None:
        self.client.post("/latency", params={"ms": ms})

    def stall(self) -> None:
        """Answer no post from now on: a job that posts cannot be over before `answer`."""
        self.client.post("/stall")

    def answer(self, posts: int | None = None) -> None:
        """Answer so many of those that came or will come, or all from now on."""
        self.client.post("/answer", params={} if posts is None else {"posts": posts})

    def answer_waiting(self) -> None:
        """Answer those that have come, and none that will."""
        self.client.post("/answer", params={"posts": "waiting"})


class Patient(httpx.HTTPTransport):
    """Asks again where a server that begins anew has ended the connection."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        def answer() -> httpx.Response | None:
            with contextlib.suppress(httpx.TransportError):
                response = super(Patient, self).handle_request(request)
                response.read()
                return response
            return None

        answered: httpx.Response = until(answer)
        return answered


class Server:
    """A running `rowcast`, as a user starts it. Its log is printed when a test fails.

    `waits` are constants of web/requests.py, shorter here, for tests of what happens after such a wait. It is forked
    (forks.py), except where Python is to start as it does for a user.
    """

    def __init__(
        self,
        directory: Path,
        *flags: str,
        port: int | None = None,
        env: dict[str, str] | None = None,
        waits: dict[str, float] | None = None,
        program: list[str] | None = None,
        health: str = "/healthz",
        forked: bool = True,
    ):
        self.directory = directory
        self.flags = flags
        self.port = port or free_port()
        begins_anew = {"--workers", "--reload"}.intersection(flags)
        self.forked = forked and not (forks.must_start_python(env or {}) or begins_anew)
        shortened = ["-c", SHORTENED.format(waits or {})]
        self.program = program or (shortened if self.forked or waits else ["-m", "rowcast.dashboard"])
        self.health = health
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("ROWCAST_")} | (env or {})
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = directory / "server.log"
        again = Patient(limits=SHORT) if "--reload" in flags else None
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE, limits=SHORT, transport=again)
        self.first_users: list[str] = []  # before a test gave it others
        self.start()

    def start(self) -> None:
        arguments = ["--port", str(self.port), *self.flags]
        self.process: subprocess.Popen[bytes] | forks.Forked
        with self.log.open("ab") as log:
            if self.forked:
                self.process = forks.Forked(
                    nursery(), self.program[1], [*self.program[2:], *arguments], workers=True,
                    cwd=self.directory, stdout=log, stderr=log, env=self.env,
                )  # fmt: skip
            else:
                self.process = subprocess.Popen(
                    [sys.executable, *self.program, *arguments],
                    cwd=self.directory, stdout=log, stderr=log, env=self.env,
                )  # fmt: skip
        until(self.up)

    def up(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}: {self.log.read_text()}")
        with contextlib.suppress(httpx.TransportError):
            return self.client.get(self.health).is_success
        return False

    def stop(self, sig: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(PATIENCE)

    # ---- what tests do with it ----

    def begin(self, task: str = "update_users", **given: Any) -> int:
        """Start a job over the API, options and arguments by name; returns its number."""
        body: dict[str, Any] = {"task": task, "args": {}}
        for name, value in given.items():
            (body if name in OPTIONS else body["args"])[name] = value
        answer = self.client.post("/api/jobs", json=body)
        assert answer.status_code in (200, 201), answer.text
        return int(answer.json()["id"])

    def job(self, job: int) -> dict[str, Any]:
        return self.client.get(f"/api/jobs/{job}").json()

    def act(self, job: int, action: str, **which: int | str) -> dict[str, Any]:
        return self.client.post(f"/api/jobs/{job}/{action}", json=which).json()

    def waiting(self, task: str, **given: Any) -> int:
        """A job that waits after its first item for a `resume`: it cannot be over before."""
        job = self.begin(task, canary=1, **given)
        until(lambda: self.job(job)["status"] == "paused" and not self.job(job)["running"])
        return job

    def ended(self, job: int, seconds: float = PATIENCE) -> dict[str, Any]:
        """The job, once it has ended."""
        return until(lambda: (j := self.job(job))["finished_at"] and j, seconds)

    def items(self, job: int, **query: Any) -> list[dict[str, Any]]:
        """All items of a job, over as many pages as it takes."""
        found: list[dict[str, Any]] = []
        after: int | None = -1
        while after is not None:
            page = self.client.get(
                f"/api/jobs/{job}/items", params={"limit": 1000, "after": after, **query}
            ).json()
            found += page["items"]
            after = page["next"]
        return found

    def streams(self) -> int:
        """How many are open."""
        return int(self.client.get("/healthz").json()["streams"])

    def users(self, *emails: str) -> None:
        """Put these users into the table, instead of those that are there."""
        path = self.directory / "data" / "rowcast.db"
        with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE)) as conn, conn:
            there = conn.execute("select email from users order by rowid").fetchall()
            self.first_users = self.first_users or [email for (email,) in there]
            conn.execute("delete from users")
            conn.executemany("insert into users (email) values (?)", [(e,) for e in emails])

    def cancel_all(self) -> None:
        """Cancel what still runs, and wait a while until it has ended: what a worker does until it hears of that is
        no affair of the next test's."""
        cancelled: list[int] = []
        for status in ("queued", "running", "paused"):
            for job in self.client.get("/api/jobs", params={"status": status}).json()["jobs"]:
                self.act(job["id"], "cancel")
                cancelled.append(job["id"])
        with contextlib.suppress(AssertionError):  # of a thread that heeds nothing
            until(lambda: all(self.job(job).get("finished_at", True) for job in cancelled), 10)


def told_while_it_runs(server: Server, api: Api, command: list[str]) -> str:
    """What a client prints whose stream is open before the API, which stalls, lets the job go on."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        until(lambda: server.streams() or process.poll() is not None)
        api.answer()
        told, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    return told
