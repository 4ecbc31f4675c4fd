"""The jobs of one task in one worker share its places: never more at once than its concurrency, each its part, and small ones in few rounds."""

import asyncio
import collections
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from place import OWNER, Place, seen

from rowcast.engines.local import LocalLedger
from rowcast.tables.database import close_databases, connection
from rowcast.tasks.records import Job, Options
from rowcast.tasks.registry import Task, task
from rowcast.tasks.work import Chunk
from rowcast.worker import places
from rowcast.worker.clients import Clients
from rowcast.worker.context import Context
from rowcast.worker.runner import run

now: collections.Counter[str] = collections.Counter()  # tries in flight
most: collections.Counter[str] = collections.Counter()  # the highest of it
ended: list[str] = []
may_end = asyncio.Semaphore(40)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    global may_end  # it belongs to the loop in which it was waited for
    may_end = asyncio.Semaphore(40)
    for noted in (now, most, ended):
        noted.clear()
    yield Place(str(tmp_path / "rowcast.db"))
    close_databases()


async def quick(item: str) -> None:
    ended.append(item)


async def briefly(item: str) -> None:
    """An item that takes a moment; how many of all and of its job's are at once is noted."""
    job = item.partition(" ")[0]
    for name in ("all", job):
        now[name] += 1
        most[name] = max(most[name], now[name])
    await asyncio.sleep(0.01)
    for name in ("all", job):
        now[name] -= 1
    ended.append(item)


async def until_it_may(item: str) -> None:
    """The first forty end at once, the others as they are let."""
    now["all"] += 1
    most["all"] = max(most["all"], now["all"])
    await may_end.acquire()
    now["all"] -= 1
    ended.append(item)


def begin(place: Place, made: Task, name: str, items: int, owner: str = OWNER, **options: Any) -> Job:
    job, _ = place.jobs.submit(made, {}, owner, "background", Options(**options))
    place.jobs.start(job.id)
    place.jobs.add_items(job.id, Chunk.of([(f"{name} {n}", None) for n in range(items)], last=True))
    return place.jobs.job(job.id, owner)


def run_all(
    place: Place,
    made: Task,
    jobs: list[Job],
    meanwhile: Callable[[Context], Awaitable[None]] | None = None,
) -> int:
    """Run them side by side in one worker, until all have ended; returns in how many transactions."""
    written = list[str]()

    def count() -> None:
        connection(place.path).set_commit_hook(lambda: bool(written.append("")))

    async def all_of_it() -> None:
        local = LocalLedger(place.path)
        await local.do(count)
        context = Context("one", local, Clients(lambda: "").open)
        place.ledger.heartbeat("one", "here", 1, "background", "1")
        runs = [run(job, made, context) for job in jobs]
        await asyncio.gather(*runs, *([meanwhile(context)] if meanwhile else []))
        assert all(not one.taken and not one.runs for one in context.places.values())

    asyncio.run(all_of_it())
    return len(written)


def test_many_small_jobs_end_in_few_transactions(place: Place):
    made = task(name="places_quick", concurrency=4)(quick)
    jobs = [begin(place, made, f"job{n}", 20) for n in range(40)]
    written = run_all(place, made, jobs)
    assert {place.job(job).status for job in jobs} == {"completed"}
    assert len(ended) == len(set(ended)) == 800
    assert written < 80  # two for each would be the least of one alone


def test_jobs_of_one_task_that_claim_ahead_keep_its_concurrency_together(place: Place):
    made = task(name="places_briefly", concurrency=6)(briefly)
    jobs = [begin(place, made, f"job{n}", 60) for n in range(3)]
    run_all(place, made, jobs)
    assert {place.job(job).completed for job in jobs} == {60}
    assert most["all"] <= 6
    assert len(ended) == len(set(ended)) == 180


def test_more_jobs_than_places_take_turns(place: Place):
    made = task(name="places_turns", concurrency=1)(briefly)
    jobs = [begin(place, made, f"job{n}", 30) for n in range(3)]
    run_all(place, made, jobs)
    assert most["all"] == 1
    firsts = [next(n for n, item in enumerate(ended) if item.startswith(f"job{job}")) for job in range(3)]
    assert max(firsts) < 60  # the last to begin does so before two of them have ended
    assert len(ended) == 90


def test_an_owner_with_many_jobs_leaves_another_half_of_the_places(place: Place):
    made = task(name="places_owners", concurrency=8)(briefly)
    jobs = [begin(place, made, "ann", 80, "ann") for _ in range(4)]
    jobs.append(begin(place, made, "ben", 80, "ben"))
    run_all(place, made, jobs)
    assert most["all"] <= 8
    last_of_ben = max(n for n, item in enumerate(ended) if item.startswith("ben"))
    assert last_of_ben < 300  # of 400: with a fifth of the places it would be among the last


def test_each_step_of_priority_doubles_the_places_of_a_job(place: Place):
    made = task(name="places_priority", concurrency=9)(briefly)
    jobs = [begin(place, made, "low", 150), begin(place, made, "high", 150, priority=1)]
    run_all(place, made, jobs)
    assert most["all"] <= 9
    assert len(ended) == len(set(ended)) == 300
    # two to one, low has 75 when high ends; as many each, they end together
    assert max(n for n, item in enumerate(ended) if item.startswith("high")) < 270


@pytest.mark.parametrize("starved", [60.0, 0.05])
def test_the_only_place_is_that_of_the_higher_priority_until_the_other_is_starved(
    place: Place, monkeypatch: pytest.MonkeyPatch, starved: float
):
    monkeypatch.setattr(places, "STARVED", starved)
    made = task(name="places_starved", concurrency=1)(briefly)
    jobs = [begin(place, made, "low", 40), begin(place, made, "high", 80, priority=5)]
    run_all(place, made, jobs)
    assert most["all"] == 1
    assert len(ended) == len(set(ended)) == 120
    lows = sum(item.startswith("low") for item in ended[:60])
    assert lows > 2 if starved < 1 else lows <= 2


def test_two_jobs_that_find_their_concurrency_do_not_take_what_the_other_has_found_for_the_whole(
    place: Place,
):
    made = task(name="places_auto", concurrency="auto 2-40")(briefly)
    jobs = [begin(place, made, f"job{n}", 900) for n in range(2)]
    run_all(place, made, jobs)
    assert {place.job(job).completed for job in jobs} == {900}
    assert most["all"] <= 40
    assert most["job0"] > 8 and most["job1"] > 8  # each has gone beyond what it begins with


def test_who_claims_nothing_ahead_is_not_starved_by_another_of_its_task_that_does(place: Place):
    made = task(name="places_mixed", concurrency=4)(briefly)
    ahead = begin(place, made, "ahead", 400)
    careful = begin(place, made, "careful", 8)
    connection(place.path).execute("update jobs set idempotent = 0 where id = ?", (careful.id,))
    run_all(place, made, [ahead, place.job(careful)])
    assert len(ended) == len(set(ended)) == 408 and most["all"] <= 4
    assert max(n for n, item in enumerate(ended) if item.startswith("careful")) < 300


def test_a_concurrency_that_was_made_smaller_is_kept_by_all_of_them_together(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    made = task(name="places_tuned", concurrency=8)(until_it_may)
    jobs = [begin(place, made, f"job{n}", 100) for n in range(2)]

    async def tune(context: Context) -> None:
        of_both = context.places[made.name]
        await seen(lambda: now["all"] == 8 and all(run.queue for run in list(of_both.runs)))
        while {len(run.runners) for run in of_both.runs} != {4}:
            may_end.release()
            await asyncio.sleep(places.TURN)
        monkeypatch.setattr(places, "TURN", 60.0)  # none leaves its place for another's turn
        for job in jobs:
            await asyncio.to_thread(place.jobs.tune, job.id, OWNER, 2, None)
        await seen(lambda: of_both.whole == 2)
        for _ in range(6):
            may_end.release()
        await seen(lambda: now["all"] == of_both.taken <= 2)
        most.clear()
        for n in range(200):
            may_end.release()
            if n < 30:  # one after the other
                await asyncio.sleep(0)

    run_all(place, made, jobs, tune)
    assert len(ended) == 200 and most["all"] == 2


def test_who_waits_for_another_try_leaves_its_places_to_the_others_until_it_goes_on(place: Place):
    made = task(name="places_rests", concurrency=8)(until_it_may)
    goes = begin(place, made, "goes", 200)
    waits = begin(place, made, "waits", 30)
    connection(place.path).execute("update items set run_at = 9e9 where job = ?", (waits.id,))

    async def follow(context: Context) -> None:
        of_both = context.places[made.name]
        await seen(lambda: len(of_both.runs) == 2 and len(of_both.resting) == 1)
        (resting,) = of_both.resting
        (other,) = of_both.runs.keys() - of_both.resting
        assert (resting.job.id, of_both.part(other), of_both.part(resting)) == (waits.id, 8, 4)
        await seen(lambda: now["all"] == 8)
        connection(place.path).execute("update items set run_at = 0 where job = ?", (waits.id,))
        for _ in range(260):
            may_end.release()
        await asyncio.sleep(0)

    run_all(place, made, [goes, place.job(waits)], follow)
    assert len(ended) == 230 and most["all"] == 8
