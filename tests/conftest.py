"""What the tests share: a real server process, a real API in another, a real Chromium; on loopback, on free ports."""

import contextlib
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import certifi
import httpx
import pytest

ROOT = Path(__file__).parent.parent
pytest.register_assert_rewrite("fleet")
CHROMIUM = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()

# Some three hundred processes are started: what they import is compiled once, even if the machine says no.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Nothing here speaks TLS, and to read all that a machine trusts takes each process and each client 40 ms:
# one certificate will do.
OUTSIDE = dict(os.environ)  # for what does ask another machine
TRUSTED = Path(tempfile.gettempdir()) / f"rowcast-tests-{os.getuid()}.pem"
if not TRUSTED.exists():
    written = TRUSTED.with_suffix(f".{os.getpid()}")
    written.write_text("".join(certifi.contents().partition("-----END CERTIFICATE-----\n")[:2]))
    written.replace(TRUSTED)
os.environ["SSL_CERT_FILE"] = str(TRUSTED)

# A shell's background job ignores Ctrl-C, and so would the programs that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Each test process has ports of its own, below those that the system gives to connections: a port that is free
# when it is looked for is then free when somebody listens there.
FIRST_PORT = 11_000 + 2_000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


GIVEN = set[int]()  # ports that are somebody's, also while nobody listens there


def free_port() -> int:
    for port in random.sample(sorted(set(range(FIRST_PORT, FIRST_PORT + 2_000)) - GIVEN), 2_000 - len(GIVEN)):
        with contextlib.suppress(OSError), socket.socket() as s:
            s.bind(("127.0.0.1", port))
            GIVEN.add(port)
            return port
    raise AssertionError("no port is free")


def until(condition: Callable[[], Any], seconds: float = 20, every: float = 0.05) -> Any:
    """The condition's first true value; fails when it stays false for too long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(every)
    raise AssertionError(f"still not so after {seconds} s: {condition}")


SHORTENED = """
from rowcast import __main__
from rowcast.web import requests
vars(requests).update({})
__main__.main()
"""
OPTIONS = ("concurrency", "rate", "stop_after", "canary", "dry_run", "run_at", "unique_key")


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


# Who asks for one of these starts a browser, a queue or a server of its own (as whoever kills it must), or builds.
LONG = {"chromium", "broker", "fleet", "place", "serve", "run", "big", "wheel"}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "quick: needs no browser, no queue and no server of its own (by its fixtures)"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not LONG.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("quick")


@pytest.fixture(scope="session")
def api_process() -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen([sys.executable, str(ROOT / "tests" / "api_server.py"), str(port)])
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/log").is_success
        return False

    until(up)
    yield url
    process.kill()  # it may still be about to answer somebody who has gone
    process.wait(10)


@pytest.fixture
def api(api_process: str) -> Iterator[Api]:
    """The API, with an empty log and no latency, which answers everything."""
    with httpx.Client(base_url=api_process, timeout=20) as client:
        client.post("/clear").raise_for_status()
        yield Api(client)
        client.post("/clear").raise_for_status()  # what it still holds would hold up the end of a server


class Server:
    """A running `rowcast`, as a user starts it. Its log is printed when a test fails.

    `waits` are constants of web/requests.py, shorter here, for tests of what happens after such a wait.
    """

    def __init__(
        self,
        directory: Path,
        *flags: str,
        port: int | None = None,
        env: dict[str, str] | None = None,
        waits: dict[str, float] | None = None,
        program: list[str] | None = None,
    ):
        self.directory, self.flags, self.port = directory, flags, port or free_port()
        usual = ["-c", SHORTENED.format(waits)] if waits else ["-m", "rowcast.dashboard"]
        self.program = program or usual
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("ROWCAST_")} | (env or {})
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = directory / "server.log"
        self.client = httpx.Client(base_url=self.url, timeout=20)
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.program, "--port", str(self.port), *self.flags],
                cwd=self.directory, stdout=log, stderr=log, env=self.env,
            )  # fmt: skip
        until(self.up)

    def up(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with {self.process.returncode}: {self.log.read_text()}")
        with contextlib.suppress(httpx.TransportError):
            return self.client.get("/healthz").is_success
        return False

    def stop(self, sig: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sig)
        return self.process.wait(15)

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

    def ended(self, job: int, seconds: float = 30) -> dict[str, Any]:
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
        conn = sqlite3.connect(self.directory / "data" / "rowcast.db", timeout=10)
        with conn:
            conn.execute("delete from users")
            conn.executemany("insert into users (email) values (?)", [(e,) for e in emails])
        conn.close()


def told_while_it_runs(server: Server, api: Api, command: list[str]) -> str:
    """What a client prints whose stream is open before the API, which stalls, lets the job go on."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        until(lambda: server.streams() or process.poll() is not None)
        api.answer()
        told, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return told


@pytest.fixture
def serve(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Server]]:
    """Start servers in the test's own directory; each is stopped at the end."""
    servers: list[Server] = []
    failed_before = request.session.testsfailed

    def make(*flags: str, **options: Any) -> Server:
        servers.append(Server(tmp_path, *flags, **options))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()
        server.client.close()
        if request.session.testsfailed > failed_before:
            print(server.log.read_text())


@pytest.fixture(scope="module")
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, api_process: str
) -> Iterator[Server]:
    """One server for all tests of a module, which may name its FLAGS, and FILES to stand where it starts."""
    directory = tmp_path_factory.mktemp("shared")
    for name, text in getattr(request.module, "FILES", {}).items():
        (directory / name).write_text(text)
    failed_before = request.session.testsfailed
    server = Server(directory, "--api-url", api_process, *getattr(request.module, "FLAGS", ()))
    yield server
    server.stop()
    server.client.close()
    if request.session.testsfailed > failed_before:
        print(server.log.read_text())


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Any]:
    """A broker of the test's own."""
    from fleet import Broker

    made = Broker(tmp_path / "broker.log")
    yield made
    made.stop()


@pytest.fixture(scope="module", params=["celery", "dramatiq"])
def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, api_process: str
) -> Iterator[Any]:
    """A dashboard, a broker and two worker processes of each queue engine, for all tests of a module."""
    from fleet import Broker, Fleet, queue_flags

    directory, failed_before = tmp_path_factory.mktemp("fleet"), request.session.testsfailed
    broker = Broker(directory / "broker.log")
    flags = ["--api-url", api_process, "--tasks", getattr(request.module, "TASKS", "contract_tasks")]
    env = {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(directory / "dashboard_only")])}
    for name, text in getattr(request.module, "FILES", {}).items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    made = Fleet(
        request.param, Server(directory, *flags, *queue_flags(request.param, broker.url), env=env), broker
    )
    yield made
    made.stop()
    broker.stop()
    if request.session.testsfailed > failed_before:
        for log in directory.glob("*.log"):
            print(log.name, log.read_text(), sep="\n")


@pytest.fixture
def clear_fleet(fleet: Any) -> Iterator[None]:
    """Whatever became of one test, the next finds no job and workers that are awake."""
    yield
    fleet.workers.signal(signal.SIGCONT)
    for job in fleet.server.client.get("/api/jobs").json()["jobs"]:
        if not job["finished_at"]:
            fleet.act(job["id"], "cancel")


@pytest.fixture
def server(serve: Callable[..., Server], api: Api) -> Server:
    """A server that posts to the tests' API, with its thousand users."""
    return serve("--api-url", api.url)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A real Chromium. Ended with its module: while Playwright lives, no other test can run an event loop."""
    from playwright.sync_api import sync_playwright

    path = subprocess.run(
        [str(ROOT / "bin" / "find-chromium"), sys.executable], capture_output=True, text=True, check=True
    ).stdout.strip()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Open pages in one browser context; at the end no page may have logged an error."""
    errors: list[str] = []
    contexts: list[Any] = []

    def make(url: str, context: Any = None, **options: Any) -> Any:
        if context is None:
            contexts.append(chromium.new_context(**({"viewport": {"width": 1240, "height": 900}} | options)))
            context = contexts[-1]
        page = context.new_page()
        page.on("console", lambda m: errors.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.set_default_timeout(15_000)
        page.goto(url)
        return page

    yield make
    for context in contexts:
        context.close()
    assert not errors, errors
