"""A task that blocks the event loop, and so all jobs that run beside it, is named: in the log and on its page."""

import asyncio
import os
import re
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import Server, until
from place import OWNER, Place, seen
from test_components import a_job

from rowcast.tables.database import close_databases
from rowcast.tasks.held import stall_sentence
from rowcast.worker import stall
from rowcast.worker.context import Context
from rowcast.worker.stall import STALLED, StallWatch, place_in

FILES = {
    "blocks.py": """
import asyncio, time
from rowcast import task


@task
async def bad(item: str, pipe: str):
    helper(pipe)


def helper(pipe):
    open(pipe).close()  # line 12: until somebody writes there


@task
def good(item: str, seconds: float = 1.8):
    time.sleep(seconds)


@task
async def good_too(item: str, seconds: float = 1.8):
    await asyncio.sleep(seconds)


@task
async def bad_body(pipe: str):
    open(pipe).close()
"""
}
FLAGS = ("--tasks", "blocks")
SAID = "held up all jobs for"


def page(server: Server, job: int) -> str:
    return server.client.get(f"/jobs/{job}").text


def seconds_in(page: str, task: str) -> float:
    """For how long it has held up all jobs, as a page says."""
    found = re.search(rf"`{task}` {SAID} ([\d.]+) s", page)
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize("task", ["bad", "bad_body"])
def test_a_task_that_blocks_is_named_while_it_does_and_afterwards(server: Server, tmp_path: Path, task: str):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    items = {"items": ["a"]} if task == "bad" else {}
    job = server.begin(task, pipe=str(pipe), **items)
    until(lambda: f"`{task}` {SAID}" in page(server, job))
    named = time.monotonic()
    assert server.job(job)["finished_at"] is None  # nobody has waited for its end
    time.sleep(STALLED)
    held = time.monotonic() - named + STALLED
    os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    assert server.ended(job)["completed"] == 1
    until(lambda: seconds_in(page(server, job), task) >= held - 0.1)
    text = page(server, job)
    assert "it blocks in an `async def`; make it a plain `def`." in text
    assert ("helper (blocks.py, line 12)" if task == "bad" else "bad_body (blocks.py, line 27)") in text
    # after a second, and how long it was in the end
    until(lambda: server.log.read_text().count(f"job {job}: `{task}` {SAID}") == 2)


@pytest.mark.parametrize("task", ["good", "good_too"])
def test_a_task_that_holds_up_nobody_is_not_named(server: Server, task: str):
    before = server.log.read_text().count(SAID)
    job = server.begin(task, items=["a"])
    server.ended(job)
    assert SAID not in page(server, job)
    assert server.log.read_text().count(SAID) == before


def test_the_sentence_says_what_to_do():
    assert stall_sentence("bad", 5.0, "") == (
        "`bad` held up all jobs for 5.0 s: it blocks in an `async def`; make it a plain `def`."
    )


@pytest.fixture
def place(tmp_path: Path):
    yield Place(str(tmp_path / "rowcast.db"))
    close_databases()


async def waits(item: str) -> None:
    await asyncio.sleep(0)


def hold_up(seconds: float) -> None:
    time.sleep(seconds)


def test_a_loop_that_only_starts_late_accuses_nobody(place: Place):
    """What holds the loop up is not in a try: nobody is named."""
    told: list[tuple[int, float, str]] = []
    job = place.begin(waits, items=["a"])

    async def meanwhile(context: Context) -> None:
        watch = StallWatch(lambda *stall: told.append(stall))
        hold_up(STALLED * 2)
        await seen(lambda: place.jobs.job(job.id, OWNER).ended)
        watch.end()

    place.run(job, meanwhile=meanwhile)
    assert told == []


@pytest.mark.parametrize(
    ("others", "named"),
    [
        (0.1, {1: pytest.approx(3.0, abs=0.3)}),
        (2.0, {1: pytest.approx(3.0, abs=0.3), 2: pytest.approx(2.0, abs=0.3)}),
    ],
)
def test_each_try_of_one_turn_is_named_for_what_is_its_own(
    monkeypatch: pytest.MonkeyPatch, others: float, named: dict[int, float]
):
    """One holds up the loop for three seconds, and then, before the loop is heard of, another has its turn."""
    now = 100.0
    told = dict[int, float]()
    watch = StallWatch.__new__(StallWatch)
    watch.thread = 0
    watch.heard = now
    watch.note = lambda job, seconds, _: told.update({job: seconds})
    monkeypatch.setattr(watch, "_waited", lambda: 0.0, raising=False)

    class Ended:
        def wait(self, seconds: float) -> bool:
            nonlocal now
            now += seconds
            if now > 103 + others:
                watch.heard = now
            return False

    def whose(_: object) -> stall.Culprit:
        number = 1 if now < 103 else 2
        return stall.Culprit(number, a_job(id=number), "bad", "bad (blocks.py, line 7)")

    watch.ended = Ended()
    monkeypatch.setattr(stall, "culprit", whose)
    monkeypatch.setattr(stall, "time", SimpleNamespace(monotonic=lambda: now))
    watch._follow()
    assert told == named


def test_the_place_is_in_the_code_of_the_task_and_not_in_what_is_installed():
    frame = sys._current_frames()[threading.get_ident()]
    assert place_in(frame).startswith(
        "test_the_place_is_in_the_code_of_the_task_and_not_in_what_is_installed (test_stall.py, line "
    )
