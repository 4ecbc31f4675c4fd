"""The embedded worker reads the items of many jobs at once, and imports their tasks, and none waits for a slow one."""

import asyncio
import io
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE
from place import OWNER, Place, seen

from rowcast.engines import fills
from rowcast.engines.child import Worker
from rowcast.tables.database import close_databases, connection
from rowcast.tasks.records import Job
from rowcast.tasks.registry import task

go = threading.Event()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    go.clear()
    yield Place(str(tmp_path / "rowcast.db"))
    go.set()
    close_databases()


def worker(place: Place) -> Worker:
    return Worker(place.path, "one", "", io.BytesIO())


def slowly() -> Iterator[str]:
    go.wait(PATIENCE)
    yield "late"


async def work(item: str) -> None: ...


SLOW = task(name="fills_slow", items=slowly)(work)
QUICK = task(name="fills_quick", items=lambda: ["soon"])(work)


def test_a_job_is_written_though_many_others_wait_for_what_their_items_come_from(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fills, "LONG", 0.05)
    jobs: list[Job] = [place.jobs.submit(SLOW, {}, OWNER, "background")[0] for _ in range(fills.READERS)]
    small, _ = place.jobs.submit(QUICK, {}, OWNER, "background")

    async def fill() -> None:
        writing = worker(place).writing
        waiting = [asyncio.create_task(writing.write(job, SLOW, 0)) for job in jobs]
        await seen(lambda: writing.readers.borrowed_tokens == fills.READERS)
        assert await writing.write(small, QUICK, 0) == ""
        assert place.job(small).filled and not any(one.done() for one in waiting)
        go.set()
        assert await asyncio.gather(*waiting) == [""] * len(jobs)
        assert writing.readers.total_tokens == fills.READERS

    asyncio.run(fill())
    assert all(place.job(job).filled for job in jobs)


def test_a_module_that_is_being_imported_holds_up_no_other_job(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hook = types.ModuleType("fills_hook")
    heard = list[bool]()
    began = threading.Event()
    vars(hook).update(began=began, heard=lambda: heard.append(go.wait(PATIENCE)))
    monkeypatch.setitem(sys.modules, "fills_hook", hook)
    (tmp_path / "fills_slow_module.py").write_text(
        "import fills_hook\nfrom rowcast import task\n\nfills_hook.began.set()\nfills_hook.heard()\n\n\n"
        "@task(items=list)\nasync def theirs(item): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    jobs: list[Any] = [place.jobs.submit(QUICK, {}, OWNER, "background")[0] for _ in range(2)]
    connection(place.path).execute("update jobs set entry = 'fills_slow_module:theirs', task = 'theirs'")

    async def load() -> None:
        one = worker(place)
        first = asyncio.create_task(one._load(place.job(jobs[0])))
        await asyncio.to_thread(began.wait, PATIENCE)
        second = asyncio.create_task(one._load(place.job(jobs[1])))
        await asyncio.sleep(0)
        go.set()
        assert await first is await second is not None

    asyncio.run(load())
    assert heard == [True]
