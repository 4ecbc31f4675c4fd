"""A stop: what ends within its grace is completed, and what tasks have started ends with their worker; by real processes."""

import contextlib
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Server, free_port, python, until
from fleet import Broker, Workers, queue_flags, worker_env
from forks import Forked
from test_trouble import child_of

from rowcast.engines import background
from rowcast.tables.rescue import is_running
from rowcast.tables.schema import prepare
from rowcast.tasks.settings import Settings

pytestmark = pytest.mark.kills

Serve = Callable[..., Server]
MINE = """
import asyncio, multiprocessing, os, pathlib, subprocess, sys, time
from concurrent.futures import ProcessPoolExecutor
from rowcast import step, task

@task(concurrency=4)
async def waits(item: str):
    pathlib.Path(item).touch()
    while not pathlib.Path("go").exists():
        await asyncio.sleep(0.02)

@task(concurrency=4)
def waits_in_a_thread(item: str):
    pathlib.Path(item).touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.02)

@task
def waits_in_a_step(name: str):
    step("first", waits_in_a_thread.function, name)

def sleep(seconds):
    time.sleep(seconds)

@task
def starts(item: str):
    with open("pids", "a") as pids:
        programs = [subprocess.Popen(["sleep", "300"]), subprocess.Popen(["sh", "-c", "sleep 300; true"])]
        if item == "pools":
            pool = ProcessPoolExecutor(2)
            pool.submit(sleep, 0).result()
            forked = multiprocessing.Process(target=sleep, args=(300,))
            forked.start()
            programs += [*pool._processes.values(), forked]
        pids.write("".join(f"{program.pid}\\n" for program in programs))
    pathlib.Path("started").touch()
    if item == "dies":
        os._exit(9)
    time.sleep(300)
"""
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture
def mine(tmp_path: Path, serve: Serve) -> Callable[..., Server]:
    (tmp_path / "mine.py").write_text(MINE)

    def make(*flags: str, **options: Any) -> Server:
        return serve("--tasks", "mine", *flags, **options)

    return make


def stopped(server: Server, sig: int = signal.SIGTERM) -> None:
    """Stop it, and let what waits for that go on once it has heard."""
    server.process.send_signal(sig)
    time.sleep(0.5)  # until its worker has heard of it too
    (server.directory / "go").touch()
    assert server.stop() == 0


def tries(server: Server, job: int) -> list[tuple[str, int]]:
    """Of the items of a job, of a server that has ended: their status, and how often they were tried."""
    with closing(sqlite3.connect(server.directory / "data" / "rowcast.db")) as found:
        rows: list[tuple[str, int]] = found.execute(
            "select status, attempt from items where job = ? order by position", (job,)
        ).fetchall()
    return rows


@pytest.mark.parametrize("task", ["waits", "waits_in_a_thread", "waits_in_a_step"])
@pytest.mark.parametrize("grace", ["50", "0"])
def test_what_ends_within_the_grace_is_completed(mine: Serve, tmp_path: Path, task: str, grace: str):
    server = mine("--grace", grace)
    job = server.begin(task, name="a") if task == "waits_in_a_step" else server.begin(task, items=["a"])
    until((tmp_path / "a").exists)
    if grace != "0":
        stopped(server)
        assert tries(server, job) == [("completed", 1)]
    else:
        assert server.stop() == 0
        (tmp_path / "go").touch()
        server.start()
        assert server.ended(job)["completed"] == 1
        assert server.items(job)[0]["attempt"] == 2, "it was broken off, and tried again"


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("flags", [(), ("--workers", "2")])
def test_every_signal_that_stops_leaves_what_is_in_flight_its_grace(
    mine: Serve, tmp_path: Path, stop: int, flags: tuple[str, ...]
):
    server = mine("--grace", "50", *flags)
    job = server.begin("waits", items=["a", "b"])
    until(lambda: all((tmp_path / name).exists() for name in "ab"))
    stopped(server, stop)
    assert "Traceback" not in server.log.read_text()
    assert tries(server, job) == [("completed", 1)] * 2


def test_a_worker_that_is_just_being_started_is_told_of_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    starting = threading.Event()
    children: list[background.Child] = []

    class Slow(background.Child):
        def __init__(self, *how: Any):
            super().__init__(*how)
            children.append(self)
            starting.set()
            engine.stopping.wait(200)

    monkeypatch.setattr(background, "Child", Slow)
    database = str(tmp_path / "rowcast.db")
    prepare(database)
    engine = background.Engine(Settings(database=database, grace=100))
    engine.start()
    assert starting.wait(200)
    engine.stop()
    (child,) = children
    assert child.process.returncode == 0, "it was killed when its grace was over"


def test_a_terminal_that_closes_does_not_kill_the_worker(mine: Serve, tmp_path: Path):
    server = mine("--grace", "20")
    job = server.begin("waits", items=["a"])
    until((tmp_path / "a").exists)
    child = child_of(server)
    for stop in STOPS:
        os.kill(child, stop)
    (tmp_path / "go").touch()
    assert server.ended(job)["completed"] == 1 and child_of(server) == child


def test_under_nohup_a_terminal_that_closes_stops_nothing(mine: Serve, tmp_path: Path):
    server = mine(program=["-c", "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
                           "from rowcast.__main__ import main; main()"])  # fmt: skip
    server.process.send_signal(signal.SIGHUP)
    job = server.begin("waits", items=["a"])
    server.process.send_signal(signal.SIGHUP)
    (tmp_path / "go").touch()
    assert server.ended(job)["completed"] == 1


# ---- what tasks have started -------------------------------------------------------------------------------


def started(tmp_path: Path, server: Server, item: str = "pools") -> list[int]:
    server.begin("starts", items=[item])
    until((tmp_path / "started").exists)
    found = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(found) >= 2 and (item == "dies" or all(is_running(process) for process in found))
    return found


def none_runs(found: list[int]) -> None:
    until(lambda: not any(is_running(process) for process in found))


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL])
def test_what_a_task_has_started_ends_with_the_server(mine: Serve, tmp_path: Path, stop: int):
    server = mine("--grace", "0.2")
    found = started(tmp_path, server)
    server.stop(stop)
    none_runs(found)


def test_what_a_task_has_started_ends_with_a_worker_that_is_killed(mine: Serve, tmp_path: Path):
    server = mine()
    found = started(tmp_path, server)
    os.kill(child_of(server), signal.SIGKILL)
    none_runs(found)


def test_what_a_task_has_started_ends_with_a_worker_that_ends_itself(mine: Serve, tmp_path: Path):
    none_runs(started(tmp_path, mine(), "dies"))


def test_what_both_have_left_that_were_killed_at_once_ends_with_the_next_start(mine: Serve, tmp_path: Path):
    server = mine()
    found = started(tmp_path, server, "programs")
    child = child_of(server)
    server.process.send_signal(signal.SIGSTOP)  # it does not see the end of the other
    os.kill(child, signal.SIGKILL)
    until(lambda: not is_running(child))
    server.process.kill()
    server.process.wait()
    assert all(is_running(process) for process in found)
    server.start()
    none_runs(found)


def test_the_path_of_the_worker_is_not_told_to_what_its_tasks_start(mine: Serve, tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "import os, subprocess\nfrom rowcast import task\n@task\ndef tell(item: str):\n"
        "    return [os.environ.get('PYTHONPATH'), subprocess.check_output('echo ${PYTHONPATH-none}', shell=True, text=True)]\n"
    )
    server = mine(env={"PYTHONPATH": ""} if "PYTHONPATH" in os.environ else None)
    job = server.begin("tell", items=["a"])
    assert server.ended(job)["completed"] == 1
    (item,) = server.items(job)
    assert item["result"] in ([None, "none\n"], ["", "\n"])


@pytest.mark.parametrize("engine", ["celery", "dramatiq"])
def test_what_a_task_has_started_ends_with_a_queues_worker(
    mine: Serve, tmp_path: Path, broker: Broker, engine: str
):
    server = mine(*queue_flags(engine, broker.url))
    workers = Workers(
        engine,
        tmp_path,
        1,
        worker_env(server, broker.url) | {"ROWCAST_TASKS": "mine", "ROWCAST_GRACE": "0.2"},
    )
    try:
        found = started(tmp_path, server, "programs")
        workers.process.terminate()
        workers.process.wait(90)
        none_runs(found)
    finally:
        workers.kill()


# ---- a server that ends while pages are open ---------------------------------------------------------------

APP = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from rowcast import mount

app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("there"))])
mount(app, "/jobs")
"""


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., tuple[Forked, str]]]:
    (tmp_path / "main.py").write_text(APP)
    processes = []

    def start(*flags: str) -> tuple[Forked, str]:
        port = free_port()
        command = ["uvicorn", "main:app", "--port", str(port), "--log-level", "warning", *flags]
        processes.append(python(command, cwd=tmp_path, env=dict(os.environ), workers=True))
        url = f"http://127.0.0.1:{port}"

        def up() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(url).is_success
            return False

        until(up)
        return processes[-1], url

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("why", ["requests", "SIGTERM"])
def test_a_server_that_ends_does_not_wait_for_the_pages_that_are_open(mounted: Any, why: str):
    """uvicorn alone has no limit of its own to how long it waits."""
    server, url = mounted(*(["--limit-max-requests", "40"] if why == "requests" else []))
    with httpx.stream("GET", f"{url}/jobs/events?view=jobs", timeout=90) as page:
        told = page.iter_bytes()
        next(told)
        if why == "SIGTERM":
            server.terminate()
        for _ in range(50 if why == "requests" else 0):
            with contextlib.suppress(httpx.TransportError):
                httpx.get(url)
        assert b"event: shutdown" in b"".join(told)
    server.wait(90)
