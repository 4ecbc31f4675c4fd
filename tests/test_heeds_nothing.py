"""Calls that heed no end of their time: they hold up nobody for ever, and what they hold up is said."""

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Server, until
from place import Place

from rowcast import track
from rowcast.tables.database import close_databases
from rowcast.worker import body, threads
from rowcast.worker.context import Context
from rowcast.worker.stall import HELD, Stall

pytestmark = pytest.mark.kills

Serve = Callable[..., Server]
did: list[str] = []


@pytest.fixture(autouse=True)
def nothing_done(monkeypatch: pytest.MonkeyPatch) -> None:
    did.clear()
    for room in (body, threads):
        monkeypatch.setattr(room, "LET_GO", 0.3)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield Place(str(tmp_path / "rowcast.db"))
    close_databases()


async def holds_on(ends_by: float) -> None:
    """As a retry loop does that catches whatever comes; the second time the event loop ends."""
    while time.monotonic() < ends_by and did.count("caught") < 2:
        try:
            await asyncio.sleep(0.1)
        except BaseException:
            did.append("caught")


async def stubborn(item: str) -> None:
    did.append(item)
    if item == "a":
        await holds_on(time.monotonic() + 60)


async def stubborn_body() -> None:
    for item in track(["a", "b"]):
        did.append(item)
        await holds_on(time.monotonic() + 60)


STILL = "Timed out after 0.2 s, and still runs; it may or may not have arrived."


def test_an_item_that_catches_whatever_comes_is_unknown_and_the_others_go_on(place: Place):
    job = place.begin(stubborn, ["a", "b", "c"], timeout=0.2, concurrency=1, max_attempts=3)
    place.run(job)
    assert place.found(job) == [("a", "unknown"), ("b", "completed"), ("c", "completed")]
    assert place.jobs.items(job.id)[0].error == STILL
    assert did.count("a") == 1, "no second try has begun beside it"
    assert place.job(job).ended


def test_so_is_a_call_that_does(place: Place):
    job = place.begin(stubborn_body, timeout=0.2, max_attempts=3)
    place.run(job)
    assert place.found(job) == [("a", "unknown"), ("b", "cancelled")]
    assert place.jobs.items(job.id)[0].error == STILL
    assert "b" not in did and place.job(job).ended


def test_a_call_that_heeds_no_cancel_is_left_to_itself(place: Place):
    job = place.begin(stubborn_body)

    async def cancel(context: Context) -> None:
        while not did:
            await asyncio.sleep(0.02)
        place.jobs.act(job.id, "local", "cancel")

    place.run(job, "one", cancel)
    assert place.job(job).status == "cancelled" and place.job(job).ended


# ---- what is held up -----------------------------------------------------------------------------------------

HOLDS = """
import time
from pathlib import Path
from rowcast import task

def waits():
    while not Path("go").exists():
        time.sleep(0.05)

@task
async def holds(item: str):
    waits()
"""


def test_a_call_that_holds_up_the_worker_is_said_with_its_place_until_it_ends(serve: Serve, tmp_path: Path):
    (tmp_path / "mine.py").write_text(HOLDS)
    server = serve("--tasks", "mine")
    job = server.begin("holds", items=["a"])
    said = re.compile(r"Jobs wait: waits \(mine\.py, line 8\) has held up the worker for \d+ s\. ")
    health = until(lambda: (h := server.client.get("/healthz").json())["trouble"] and h)
    assert said.match(health["trouble"]) and health["status"] == "workers"
    assert said.search(server.client.get("/").text)
    (worker,) = server.client.get("/api/workers").json()["workers"]
    assert said.match(worker["trouble"]) and "Jobs wait" in server.client.get("/workers").text
    (tmp_path / "go").touch()
    assert server.ended(job)["completed"] == 1
    until(lambda: server.client.get("/healthz").json()["status"] == "ok")


def test_a_loop_that_comes_round_is_no_stall(monkeypatch: pytest.MonkeyPatch):
    async def turns() -> list[str]:
        stall = Stall(asyncio.get_running_loop())
        said = []
        for _ in range(5):
            await asyncio.sleep(0.01)
            said.append(await asyncio.to_thread(stall.look))
        return said

    assert HELD > 5
    assert asyncio.run(turns()) == [""] * 5


# ---- what the machine has not -------------------------------------------------------------------------------


def waits_in_a_thread(item: str) -> str:
    time.sleep(0.3)
    return item


def waits_once() -> int:
    return len(waits_in_a_thread("once"))


def test_nothing_fails_for_want_of_a_thread(place: Place, monkeypatch: pytest.MonkeyPatch):
    start = vars(threading)["_start_new_thread"]

    def start_few(bootstrap: Any, *rest: Any) -> Any:
        """As the system has it, of which Python asks with the thread among those that there are."""
        name = vars(bootstrap.__self__)["_name"]
        if "AnyIO" in name and sum("AnyIO" in one.name for one in threading.enumerate()) > 2:
            raise RuntimeError("can't start new thread")
        return start(bootstrap, *rest)

    monkeypatch.setattr(threading, "_start_new_thread", start_few)
    job = place.begin(waits_in_a_thread, [f"{n}" for n in range(8)], concurrency=8)
    place.run(job)
    assert {status for _, status in place.found(job)} == {"completed"}
    once = place.begin(waits_once)
    place.run(once)
    assert place.job(once).completed == 1
