"""The processes of a bench: the API, the bare loops, the dashboard
as a user starts it, and a reader of its streams.
"""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import apsw
import httpx

ROOT = Path(__file__).parent.parent
PATIENCE = 90.0  # seconds after which a bench gives up on what it waits for


class GaveUp(Exception):
    """A bench could not be measured; the message says why."""


@contextlib.contextmanager
def api(milliseconds: float = 0, faults: int = 0) -> Iterator[str]:
    """The URL of an API that answers after so many milliseconds, so many in a hundred with 503."""
    with listening("bench.api", str(milliseconds), str(faults)) as port:
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def listening(module: str, *given: str) -> Iterator[int]:
    """The port of a process that prints it, and ends with its standard input."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *given], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin and process.stdout
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def bare(kind: str, url: str, runners: int, requests: int) -> float:
    """Requests per second of a bare loop, in a process of its own."""
    command = [sys.executable, "-m", "bench.bare", kind, url, str(runners), str(requests)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return float(done.stdout)


class Dashboard:
    """A running `rowcast`, of this checkout or of the one at
    `root`, with its own database of so many users.
    """

    def __init__(self, directory: Path, api_url: str, users: int, *flags: str, root: Path = ROOT):
        self.flags = flags
        self.root = root
        self.path = str(directory / "rowcast.db")
        self.log = directory / "server.log"
        fill_users(self.path, users)
        self.url = f"http://127.0.0.1:{free_port()}"
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE)
        self.process = self._start(api_url)
        until(self._is_up)

    def _start(self, api_url: str, *more: str) -> subprocess.Popen[bytes]:
        flags = ["--port", str(self.port), "--database", self.path, "--api-url", api_url, *self.flags, *more]
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [self.python, "-m", "rowcast.dashboard", "--tasks", "bench.tasks", *flags],
                cwd=self.root, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def python(self) -> str:
        return sys.executable if self.root == ROOT else str(self.root / ".venv" / "bin" / "python")

    @property
    def port(self) -> int:
        return int(urlsplit(self.url).port or 0)

    def _is_up(self) -> bool:
        if self.process.poll() is not None:
            raise GaveUp(f"The dashboard ended with {self.process.returncode}: {self.log.read_text()}")
        with contextlib.suppress(httpx.TransportError):
            return self.client.get("/healthz").is_success
        return False

    def restart(self, api_url: str) -> float:
        """Stop it and start it again; the milliseconds from the start to its first answer."""
        self.stop()
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE)
        began = time.perf_counter()
        self.process = self._start(api_url)
        until(self._is_up, every=0.005)
        return (time.perf_counter() - began) * 1000

    def begin(
        self, task: str, concurrency: int | str | None = None, rate: str | None = None, **args: Any
    ) -> int:
        """Start a job over the API; returns its number."""
        body = {"task": task, "args": args, "concurrency": concurrency, "rate": rate}
        answer = self.client.post("/api/jobs", json=body)
        if answer.status_code != 201:
            raise GaveUp(answer.text)
        return int(answer.json()["id"])

    def act(self, job: int, action: str) -> None:
        self.client.post(f"/api/jobs/{job}/{action}").raise_for_status()

    def job(self, job: int) -> dict[str, Any]:
        return self.client.get(f"/api/jobs/{job}").raise_for_status().json()

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def dashboard(api_url: str, users: int, *flags: str, root: Path = ROOT) -> Iterator[Dashboard]:
    """A dashboard that posts to the API, in a directory that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="rowcast-bench-", ignore_cleanup_errors=True) as directory:
        made = Dashboard(Path(directory), api_url, users, *flags, root=root)
        try:
            yield made
        finally:
            made.stop()


def fill_users(path: str, number: int) -> None:
    """A database with so many users and nothing else, which any Rowcast makes its own."""
    conn = apsw.Connection(path)
    with conn:
        conn.execute("create table users (email text primary key, account_updated integer)")
        conn.executemany(
            "insert into users (email) values (?)", ((f"user{n}@example.com",) for n in range(number))
        )
    conn.close()


class Crowd:
    """Many viewers in a process of their own, and what they have seen once it ends."""

    def __init__(self, port: int, path: str, viewers: int, seconds: float, database: str = ""):
        command = [sys.executable, "-m", "bench.crowd", str(port), path, str(viewers), str(seconds), database]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)

    def seen(self) -> dict[str, float]:
        said, _ = self.process.communicate(timeout=PATIENCE)
        if self.process.returncode:
            raise GaveUp("the viewers ended early")
        return json.loads(said)


def resident(*pids: int) -> float:
    """The memory of processes, in megabytes."""
    texts = (Path(f"/proc/{pid}/status").read_text() for pid in pids)
    return sum(int(text.partition("VmRSS:")[2].split()[0]) for text in texts) / 1024


def seconds_of_processor(*pids: int) -> float:
    """What processes have taken of a processor."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process, and all that it and they have started."""
    found = [pid]
    for one in found:
        for thread in Path(f"/proc/{one}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Reader(threading.Thread):
    """A reader of a stream until its `done` or its end; it counts the item events as they come."""

    def __init__(self, dashboard: Dashboard, path: str):
        super().__init__(daemon=True)
        self.host = urlsplit(dashboard.url).netloc
        self.path = path
        self.items = 0
        self.done = False

    def run(self) -> None:
        connection = http.client.HTTPConnection(self.host, timeout=PATIENCE)
        connection.request("GET", self.path)
        answer = connection.getresponse()
        rest = b""
        while not self.done and (data := answer.read1(1 << 16)):
            whole, _, rest = (rest + data).rpartition(b"\r\n\r\n")
            self.items += whole.count(b"event: item\r\n")
            self.done = b"event: done\r\n" in whole
        connection.close()


def seconds_of(job: dict[str, Any]) -> float:
    """How long an ended job took, from its started_at to its finished_at."""
    started, finished = (datetime.fromisoformat(job[name]) for name in ("started_at", "finished_at"))
    return (finished - started).total_seconds()


def until(condition: Callable[[], Any], every: float = 0.05) -> Any:
    """The condition's first true value. Raises GaveUp when it stays false for too long."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(every)
    raise GaveUp(f"nothing came of it in {PATIENCE:g} s")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
