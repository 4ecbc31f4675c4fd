"""What an engine does beside its jobs: none of it waits for another that takes long."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE
from place import OWNER, Place, seen

from rowcast.engines.chores import Chores
from rowcast.engines.local import LocalLedger
from rowcast.tables import sweeps
from rowcast.tables.bulk import Bulk
from rowcast.tables.database import close_databases, transaction
from rowcast.tables.maintenance import Keep, Maintenance
from rowcast.tables.schedules import Schedules
from rowcast.tasks.accounts import LOCAL
from rowcast.tasks.built_in import counter
from rowcast.tasks.filters import Filter
from rowcast.tasks.records import Job
from rowcast.tasks.work import Report, Result

SMALL = 20  # items of a chunk


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(sweeps, "CHUNK", SMALL)
    yield Place(str(tmp_path / "rowcast.db"))
    close_databases()


async def post(item: str) -> None: ...


def all_failed(place: Place, items: int) -> Job:
    """A job that has ended, and of which all items have failed."""
    job = place.begin(post, [f"item {n}" for n in range(items)])
    place.ledger.heartbeat("one", "elsewhere", 1, "background", "1")
    work = place.ledger.exchange(job.id, "one", Report(limit=items))
    failed = [Result(item.id, item.attempt, "failed", 400) for item in work.items]
    place.ledger.exchange(job.id, "one", Report(failed))
    assert place.job(job).failed == items and place.job(job).ended
    return job


class Noting(LocalLedger):
    """The ledger of an engine, and of which jobs a chunk was swept; before one of them something happens."""

    def __init__(self, place: Place, before: Callable[[int], Awaitable[None]]):
        super().__init__(place.path)
        self.place = place
        self.before = before
        self.swept: list[int] = []

    async def do(self, function: Callable[..., Any], *args: Any, rows: int = 1) -> Any:
        if function == self.place.jobs.sweep:
            self.swept.append(args[0])
            await self.before(args[0])
        return await super().do(function, *args)


def keep_house(
    place: Place,
    until: Callable[[], Any],
    before: Callable[[int], Awaitable[None]] | None = None,
    keep: Keep = Keep(),
) -> list[int]:
    """Have an engine do its chores until it is so; of which jobs a chunk was swept, in order."""

    async def nothing(job: int) -> None: ...

    async def all_of_it() -> list[int]:
        local = Noting(place, before or nothing)
        chores = asyncio.create_task(Chores(place.path, "me", "background", keep, place.jobs, local).serve())
        waits = asyncio.create_task(seen(until))
        done, _ = await asyncio.wait({chores, waits}, return_when=asyncio.FIRST_COMPLETED)
        chores.cancel()
        await asyncio.gather(chores, return_exceptions=True)
        assert waits in done, "the chores have ended"
        await waits
        return local.swept

    return asyncio.run(all_of_it())


def test_who_asks_while_many_items_are_swept_waits_for_two_chunks_and_schedules_for_none(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    many = all_failed(place, 50 * SMALL)
    few = place.begin(post, [f"item {n}" for n in range(2 * SMALL)])
    held = place.begin(post, ["held by the dead"])
    place.ledger.exchange(held.id, "dead", Report(limit=1))  # whom nobody has heard of
    schedule = Schedules(place.path).add(counter, {"loops": 1}, OWNER, "0 6 * * *", "UTC")
    with transaction(place.jobs.conn) as conn:
        conn.execute("update schedules set next_at = ? where id = ?", (time.time() - 1, schedule.id))
    place.jobs.act(many.id, OWNER, "retry")
    stalls = threading.Event()
    began = threading.Event()

    def stalled(*_: Any) -> int:
        """A prune that takes as long as all of this."""
        began.set()
        stalls.wait(PATIENCE)
        return 0

    monkeypatch.setattr(Maintenance, "prune", stalled)
    asked: list[int] = []

    async def before(job: int) -> None:
        asked.append(job)
        if len(asked) == 5:
            await seen(
                lambda: (
                    place.jobs.lately(OWNER, ["counter"])
                    and place.found(held) == [("held by the dead", "queued")]
                )
            )
            place.jobs.act(few.id, OWNER, "cancel")

    try:
        swept = keep_house(place, lambda: is_retried(place, many, 50 * SMALL), before, Keep(days=1))
    finally:
        stalls.set()
    assert began.is_set()
    assert swept[:5] == [many.id] * 5 and few.id in swept[5:7]
    assert place.job(few).status == "cancelled" and place.job(few).ended and place.job(few).cancelled == 40
    assert swept.count(many.id) in (49, 50), (
        "the first chunk is the click's; after the last there may be a look"
    )


def is_retried(place: Place, job: Job, items: int) -> bool:
    found = place.job(job)
    return found.queued == items and not found.swept


def test_a_job_that_cannot_be_swept_holds_up_no_other(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    broken = all_failed(place, 3 * SMALL)
    well = all_failed(place, 3 * SMALL)
    for job in (broken, well):
        place.jobs.act(job.id, OWNER, "retry")
    really = sweeps.go_on

    def go_on(conn: Any, job: int) -> bool:
        if job == broken.id:
            raise ValueError("a fault of ours")
        return really(conn, job)

    monkeypatch.setattr("rowcast.jobs.go_on", go_on)
    said = "The sweep of jobs is held up"
    keep_house(place, lambda: is_retried(place, well, 3 * SMALL) and said in caplog.text)
    assert place.job(broken).queued == SMALL


def test_what_was_deleted_in_bulk_is_pruned_and_what_a_prune_has_left_at_the_start(place: Place):
    left = all_failed(place, 2)
    deleted = all_failed(place, 2)
    Bulk(place.path).delete([left.id])  # and nobody has pruned it
    Bulk(place.path).begin(LOCAL, Filter(), "delete", 1, 1)
    there = "select count(*) from jobs where id in (?, ?)"
    keep_house(place, lambda: place.jobs.conn.execute(there, (left.id, deleted.id)).fetchone() == (0,))
