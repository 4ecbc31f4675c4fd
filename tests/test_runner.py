"""One run of a job with items: never the same item twice at once, never more in flight than allowed, whatever people do."""

import asyncio
import collections
import gc
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from place import OWNER, Place, it_has_looked, seen

from rowcast.engines import child, local
from rowcast.engines.local import LocalLedger
from rowcast.tables.database import close_databases, connection, together, transaction
from rowcast.tasks.records import Options
from rowcast.tasks.steps import current_call
from rowcast.tasks.work import Report, Result, Work
from rowcast.worker import runner
from rowcast.worker.clients import open_httpx
from rowcast.worker.context import Context, Has
from rowcast.worker.finder import Finder
from tests.conftest import Api

at_once: collections.Counter[str] = collections.Counter()  # tries in flight, by item
most: collections.Counter[str] = collections.Counter()  # the highest of it
begun: list[str] = []
open_gates: set[str] = set()


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    for noted in (at_once, most, begun, open_gates):
        noted.clear()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield Place(str(tmp_path / "rowcast.db"))
    close_databases()


async def through_a_gate(item: str) -> None:
    """An item in flight until its gate is opened; how many of them are at once is noted. Quick ones have no gate."""
    begun.append(item)
    if item.startswith("quick"):
        await asyncio.sleep(0.03)
        return
    for name in (item, "all"):
        at_once[name] += 1
        most[name] = max(most[name], at_once[name])
    try:
        while item not in open_gates and "all" not in open_gates:
            await asyncio.sleep(0.01)
    finally:
        for name in (item, "all"):
            at_once[name] -= 1


def test_what_was_cancelled_and_taken_up_again_at_once_is_never_in_flight_twice(place: Place):
    job = place.begin(through_a_gate, ["a", "b"], concurrency=4)

    async def change_ones_mind(context: Context) -> None:
        await seen(lambda: place.found(job) == [("a", "running"), ("b", "running")])
        with together(connection(place.path)):  # or the run may hear of the first alone, and end
            place.jobs.act(job.id, OWNER, "cancel")
            place.jobs.act(job.id, OWNER, "retry")
        await seen(lambda: len(begun) == 4)
        open_gates.add("all")

    place.run(job, "one", change_ones_mind)
    assert most == {"a": 1, "b": 1, "all": 2}
    assert place.found(job) == [("a", "completed"), ("b", "completed")]


def test_an_item_that_was_given_to_another_worker_is_broken_off_here(place: Place):
    job = place.begin(
        through_a_gate, ["a", "b"], concurrency=2
    )  # as many as there are: worker one claims no more

    async def lose(context: Context) -> None:
        await seen(lambda: place.found(job) == [("a", "running"), ("b", "running")])
        place.ledger.rescue("one")
        taken = place.ledger.exchange(job.id, "two", Report(limit=9)).items
        await seen(lambda: not at_once["all"])
        place.ledger.exchange(
            job.id, "two", Report([Result(item.id, item.attempt, "completed") for item in taken])
        )

    place.run(job, "one", lose)
    assert begun == ["a", "b"]
    assert place.found(job) == [("a", "completed"), ("b", "completed")]


@pytest.mark.parametrize("action", ["cancel", "pause"])
def test_an_action_is_seen_while_every_item_hangs(place: Place, action: str):
    job = place.begin(through_a_gate, [*"abcdef"], concurrency=2)

    async def act(context: Context) -> None:
        await seen(lambda: at_once["all"] == 2)
        place.jobs.act(job.id, OWNER, action)
        if action == "cancel":
            await seen(lambda: at_once["all"] == 0)
        else:
            await it_has_looked(context)
        open_gates.add("all")

    place.run(job, "one", act)
    assert begun == ["a", "b"]
    if action == "pause":
        assert [status for _, status in place.found(job)] == ["completed"] * 2 + ["queued"] * 4


def test_a_lower_concurrency_counts_at_once_and_the_job_goes_on(place: Place):
    # many quick ones first, so that the run claims ahead of what it can do
    job = place.begin(
        through_a_gate, [*(f"quick {n}" for n in range(2000)), *map(str, range(300))], concurrency=50
    )

    async def slow_down(context: Context) -> None:
        await seen(lambda: at_once["all"] == 50 and place.job(job).running > 50)
        place.jobs.tune(job.id, OWNER, 2, None)
        await it_has_looked(context)
        before = len(begun)
        open_gates.update(key for key in begun if key in at_once)
        await seen(lambda: len(begun) == before + 2)
        await asyncio.sleep(0.3)
        assert at_once["all"] <= 2
        open_gates.add("all")

    place.run(job, "one", slow_down)
    assert place.job(job).completed == 2300


def test_a_higher_concurrency_counts_at_once(place: Place):
    job = place.begin(through_a_gate, [f"item {n}" for n in range(60)], concurrency=2)

    async def hurry(context: Context) -> None:
        await seen(lambda: at_once["all"] == 2)
        place.jobs.tune(job.id, OWNER, 30, None)
        await seen(lambda: at_once["all"] == 30)
        open_gates.add("all")

    place.run(job, "one", hurry)
    assert most["all"] == 30


async def quick(item: str) -> None:
    begun.append(item)
    if item == "the last":
        while "all" not in open_gates:
            await asyncio.sleep(0.01)


def sleep_all(seconds: float) -> None:
    """The whole process sleeps, its event loop too."""
    time.sleep(seconds)


def test_who_slept_while_others_took_over_begins_nothing_of_what_it_had_claimed(place: Place, monkeypatch):
    monkeypatch.setattr(runner, "LEASE", 0.4)
    job = place.begin(through_a_gate, [f"quick {n}" for n in range(3000)], concurrency=50)
    later: list[int] = []

    async def sleep(context: Context) -> None:
        await seen(lambda: place.job(job).running > 100)
        place.ledger.rescue("one")
        taken = place.ledger.exchange(job.id, "two", Report(limit=5000)).items
        sleep_all(0.3)
        later.append(len(begun))
        await asyncio.sleep(0.3)
        later.append(len(begun))
        place.ledger.exchange(
            job.id, "two", Report([Result(item.id, item.attempt, "completed") for item in taken])
        )

    place.run(job, "one", sleep)
    assert later[0] == later[1] == len(begun)
    assert place.job(job).completed == 3000


def test_a_suspect_that_cannot_be_run_apart_has_failed_and_the_job_ends(place: Place):
    job = place.begin(quick, ["a", "b"])
    with transaction(connection(place.path)) as conn:
        conn.execute("update items set crashes = 3 where key = 'a'")

    async def break_it(context: Context) -> None:
        async def no_process(*_: Any) -> Result:
            raise BlockingIOError("no process is left")

        context.run_alone = no_process

    place.run(job, "one", break_it)
    assert place.found(job) == [("a", "failed"), ("b", "completed")]
    assert "no process is left" in (place.jobs.items(job.id)[0].error or "")


def test_a_dry_run_of_which_nobody_asks_an_api_ends_where_its_concurrency_is_to_be_found(place: Place):
    items = [f"item {n}" for n in range(1000)]
    job = place.begin(quick, items, options=Options(dry_run=1000), concurrency="auto")
    assert job.least == 1
    place.run(job)
    assert begun == [] and place.job(job).completed == 1000 and place.job(job).status == "completed"


# ---- faults of ours: none of them loses an item ----


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_try_that_a_fault_of_ours_has_lost_is_said_with_its_item(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, idempotent: bool
):
    really = runner.attempt

    async def broken(*given: Any) -> Any:
        came = await really(*given)
        if given[3].key == "quick 1":
            raise ZeroDivisionError("a fault of ours")
        return came

    monkeypatch.setattr(runner, "attempt", broken)
    job = place.begin(through_a_gate, [f"quick {n}" for n in range(3)], concurrency=2, idempotent=idempotent)
    place.run(job)
    became = "failed" if idempotent else "unknown"
    assert [status for _, status in place.found(job)] == ["completed", became, "completed"]
    said = place.jobs.items(job.id, became)[0].error or ""
    assert "What came of this try was lost: ZeroDivisionError: a fault of ours" in said
    assert place.job(job).status == "completed" and "quick 1" in caplog.text


def test_what_is_known_of_a_try_counts_where_a_fault_comes_after_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Finder, "end", lambda *_: 1 / 0)
    job = place.begin(through_a_gate, [f"quick {n}" for n in range(20)], concurrency="auto")
    place.run(job)
    assert place.job(job).completed == 20


def test_a_fault_that_every_runner_meets_with_ends_the_run_by_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Finder, "begin", lambda *_: 1 / 0)
    job = place.begin(quick, ["a", "b"], concurrency="auto")
    with pytest.raises(ZeroDivisionError):  # of which the engine makes the reason to fail, and cancels them
        place.run(job)


class Wordless(BaseException):
    def __str__(self) -> str:
        raise Wordless


def test_a_run_that_ends_by_what_cannot_be_put_in_words_is_why_its_job_has_failed(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    async def broken(*given: Any) -> None:
        raise Wordless

    async def loaded(*given: Any) -> Any:
        return place.made

    monkeypatch.setattr(child, "run", broken)
    monkeypatch.setattr(child.Worker, "_load", loaded)
    job = place.begin(quick, ["a"])

    async def run_it() -> None:
        (due,) = place.jobs.due()
        await child.Worker(place.path, "one", "", io.BytesIO())._run(due)

    asyncio.run(run_it())
    assert place.job(job).reason == "The job could not run: Wordless: a Wordless"


@pytest.mark.parametrize("idempotent", [True, False])
def test_what_may_not_be_repeated_is_not_claimed_ahead_of_its_turn(place: Place, idempotent: bool):
    items = [f"item {n}" for n in range(3000)]
    job = place.begin(quick, items, concurrency=4, idempotent=idempotent)
    claimed: list[int] = []

    async def watch(context: Context) -> None:
        exchange = context.ledger.exchange

        async def note(*asked: Any) -> Work:
            work = await exchange(*asked)
            claimed.append(len(work.items))
            return work

        context.ledger.exchange = note

    place.run(job, "one", watch)
    assert (max(claimed) > 4) == idempotent


def test_a_run_says_of_every_item_that_it_holds_that_it_has_it(place: Place):
    items = [f"quick {n}" for n in range(400)]
    job = place.begin(asks_for_a_pause, [*items, "0.1", *items], concurrency=4, max_attempts=2)
    said: list[int] = []

    async def watch(context: Context) -> None:
        exchange = context.ledger.exchange

        def held() -> list[tuple[int, int]]:
            sql = "select id, attempt from items where worker = 'one' and status = 'running' order by id"
            return place.jobs.conn.execute(sql).fetchall()

        async def note(job: int, worker: str, report: Report, has: Has) -> Work:
            before = held()
            said.append(len(before))
            assert sorted(has()) == before
            await asyncio.sleep(0.05)  # some end meanwhile
            assert sorted(has()) == before
            return await exchange(job, worker, report, has)

        context.ledger.exchange = note

    place.run(job, "one", watch)
    assert max(said) > 4 and place.job(job).done == 801


def test_a_stop_lets_what_is_in_flight_end_and_gives_back_the_rest(place: Place):
    job = place.begin(through_a_gate, [*"abcdef"], concurrency=2)

    async def stop(context: Context) -> None:
        await seen(lambda: at_once["all"] == 2)
        context.stopping.set()
        await asyncio.sleep(0.2)
        open_gates.add("a")

    place.run(job, "one", stop)
    assert place.found(job) == [("a", "completed"), *((key, "queued") for key in "bcdef")]
    tries = place.jobs.conn.execute("select attempt - spent from items order by position").fetchall()
    assert tries == [(1,), *[(0,)] * 5], "what was given back has not used a try"


def test_what_may_not_be_repeated_is_unknown_when_the_stop_breaks_it_off(place: Place):
    job = place.begin(through_a_gate, ["a", "b", "c"], concurrency=2, idempotent=False)

    async def stop(context: Context) -> None:
        await seen(lambda: at_once["all"] == 2)
        context.stopping.set()

    place.run(job, "one", stop)
    assert [status for _, status in place.found(job)] == ["unknown", "unknown", "queued"]


async def will_not_be_broken_off(item: str) -> None:
    begun.append(item)
    end = time.monotonic() + 20
    while time.monotonic() < end and "all" not in open_gates:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            begun.append("asked to end")


def test_a_call_that_will_not_be_broken_off_does_not_hold_up_the_others_of_its_job(place: Place):
    job = place.begin(will_not_be_broken_off, ["a", "b"], concurrency=2)

    async def cancel(context: Context) -> None:
        await seen(lambda: place.found(job) == [("a", "running"), ("b", "running")])
        place.jobs.act(job.id, OWNER, "cancel")
        await seen(lambda: begun.count("asked to end") >= 4)  # so it is asked again, and the run is not stuck
        open_gates.add("all")

    place.run(job, "one", cancel)
    assert place.found(job) == [("a", "cancelled"), ("b", "cancelled")]


def test_a_run_claims_no_more_after_its_time_and_returns(place: Place):
    job = place.begin(through_a_gate, [*"abcd"], concurrency=2)

    async def slice_of_it(context: Context) -> None:
        await seen(lambda: at_once["all"] == 2)
        context.until = time.monotonic()
        await asyncio.sleep(0.2)
        open_gates.add("all")

    place.run(job, "one", slice_of_it)
    assert [status for _, status in place.found(job)] == ["completed", "completed", "queued", "queued"]


def test_a_hold_that_another_process_noted_counts_here_too(place: Place):
    job = place.begin(through_a_gate, [f"item {n}" for n in range(40)], concurrency=2)

    async def hold(context: Context) -> None:
        await seen(lambda: at_once["all"] == 2)
        with transaction(place.jobs.conn) as conn:
            conn.execute(
                "insert into paces (task, hold_until) values (?, ?) on conflict (task) do update set hold_until = ?2",
                (job.task, time.time() + 600),
            )
        await it_has_looked(context)
        before = len(begun)
        open_gates.add("all")
        await seen(lambda: not at_once["all"])
        await asyncio.sleep(0.3)
        assert len(begun) == before
        with transaction(place.jobs.conn) as conn:
            conn.execute("update paces set hold_until = 0")

    place.run(job, "one", hold)
    assert place.job(job).completed == 40


async def asks_for_a_pause(item: str) -> None:
    begun.append(item)
    if item.startswith("quick"):
        await asyncio.sleep(0.001)
        return
    await asyncio.sleep(0.05)  # until all of them are in flight
    noted = current_call.get()
    assert noted
    noted.code = 429
    noted.retry_after = float(item)
    raise RuntimeError("too many requests")


def test_what_was_claimed_ahead_does_not_begin_in_a_pause(place: Place):
    items = [*(f"quick {n}" for n in range(400)), "600", *(f"quick {n}" for n in range(400, 800))]
    job = place.begin(asks_for_a_pause, items, concurrency=1, max_attempts=2)

    async def look(context: Context) -> None:
        await seen(lambda: place.jobs.hold(job.task)[0])
        await asyncio.sleep(0.3)
        assert begun[-1] == "600"
        context.stopping.set()

    place.run(job, "one", look)


def test_the_longest_of_several_pauses_counts(place: Place):
    job = place.begin(asks_for_a_pause, ["100", "300", "200"], concurrency=3, max_attempts=2)

    async def look(context: Context) -> None:
        await seen(lambda: len(begun) == 3 and not place.job(job).running)
        assert place.jobs.hold(job.task)[0] - time.time() > 200
        context.stopping.set()

    place.run(job, "one", look)


def test_a_database_that_is_held_for_long_is_waited_for_and_the_job_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    job = place.begin(through_a_gate, ["a"], concurrency=2)
    monkeypatch.setattr(
        "rowcast.tables.database.BUSY_MS", 100
    )  # of the connections that are opened from here on

    async def hold_it(context: Context) -> None:
        await seen(lambda: at_once["all"] == 1)
        holder = apsw.Connection(place.path)
        holder.set_busy_timeout(5000)
        holder.execute("begin immediate")
        open_gates.add("all")
        await asyncio.sleep(1)
        holder.execute("commit")
        holder.close()

    place.run(job, "one", hold_it)
    assert place.found(job) == [("a", "completed")]


def test_a_job_that_waits_for_room_says_so_and_goes_on(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "PAUSE", 0.02)
    job = place.begin(through_a_gate, ["a"], concurrency=1)

    async def fill_the_disk() -> list[str]:
        ledger = LocalLedger(place.path)
        seen_as = list[str]()

        def write() -> str:
            if not seen_as:
                raise apsw.FullError("database or disk is full")
            return "written"

        async def look() -> None:
            await seen(lambda: place.job(job).status == "paused")
            seen_as.append(place.job(job).status)

        looking = asyncio.create_task(look())
        seen_as.append(await ledger.insist(job.id, write))
        await looking
        await ledger.unblock()
        return [*seen_as, place.job(job).status]

    assert asyncio.run(fill_the_disk()) == ["paused", "written", "running"]


def test_a_request_leaves_nothing_that_only_a_look_for_garbage_would_free(api: Api):
    async def garbage_of(requests: int) -> int:
        async with open_httpx(api.url) as client:
            await client.post("/update-user/ada")
            gc.collect()
            gc.disable()
            try:
                for _ in range(requests):
                    (await client.post("/update-user/ada")).raise_for_status()
                return gc.collect()
            finally:
                gc.enable()

    # what a connection leaves that had to be opened anew, or another thread, is not there three times
    assert min(asyncio.run(garbage_of(30)) for _ in range(3)) < 30
