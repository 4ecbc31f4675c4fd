"""Steps that may not be repeated from some point on: what a mailer says before a mail's text."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from place import OWNER, Place, seen

from rowcast import idempotency_key, step
from rowcast.tables.database import close_databases, connection
from rowcast.tasks.steps import count_mail, job_here, not_again
from rowcast.worker.context import Context

did: list[Any] = []  # what the tasks below have done, in order
may_go = asyncio.Event()


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    global may_go
    did.clear()
    may_go = asyncio.Event()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield Place(str(tmp_path / "rowcast.db"))
    close_databases()


def marked(place: Place) -> list[int]:
    return [once for (once,) in connection(place.path).execute("select once from items order by position")]


async def hand_over(what: str) -> str:
    await not_again()
    did.append(what)
    await may_go.wait()
    return f"{what} is there"


async def two_steps() -> None:
    await step("first", asyncio.sleep, 0)
    await step("second", hand_over, "letter")
    did.append("end")


def test_it_is_on_the_disk_before_it_begins_and_no_more_once_it_has_ended(place: Place):
    job = place.begin(two_steps)
    found = []

    async def look(context: Context) -> None:
        await seen(lambda: did)
        found.append(marked(place))
        may_go.set()

    place.run(job, "one", look)
    assert found == [[0, 1]] and marked(place) == [0, 0]
    assert place.found(job) == [("first", "completed"), ("second", "completed")] and did == ["letter", "end"]


def test_one_that_was_under_way_when_its_worker_died_is_unknown_and_the_job_over(place: Place):
    job = place.begin(two_steps)

    async def die(context: Context) -> None:
        await seen(lambda: did)
        place.ledger.rescue("one", None)  # as if it had
        may_go.set()

    place.run(job, "one", die)
    place.run(job, "two")
    assert did[0] == "letter" and did.count("letter") == 1
    assert place.found(job) == [("first", "completed"), ("second", "unknown")]
    assert place.job(job).status == "completed" and place.job(job).ended


def test_one_that_had_not_come_to_it_is_done_again(place: Place):
    job = place.begin(two_steps)
    place.ledger.heartbeat("gone", "elsewhere", 1, "background", "1")
    place.ledger.take_body(job.id, "gone")
    place.ledger.rescue("gone", None)
    may_go.set()
    place.run(job, "two")
    assert did == ["letter", "end"]


async def stays_away(what: str) -> None:
    await not_again()
    did.append(what)
    raise ConnectionResetError("it broke off")  # it may have arrived


async def breaks() -> None:
    await step("second", stays_away, "letter")


def test_what_may_have_arrived_is_unknown_also_where_the_task_may_be_repeated(place: Place):
    job = place.begin(breaks, max_attempts=3, backoff=0)
    place.run(job)
    assert did == ["letter"] and place.found(job) == [("second", "unknown")]


async def is_refused(what: str) -> None:
    await not_again()
    did.append(what)
    raise ConnectionRefusedError if len(did) == 1 else ValueError("no")


async def refused() -> None:
    await step("second", is_refused, "letter")


def test_what_has_certainly_not_arrived_is_tried_again_and_may_fail(place: Place):
    job = place.begin(refused, max_attempts=3, backoff=0)
    place.run(job)
    assert did == ["letter", "letter"] and place.found(job) == [("second", "failed")]


async def without_steps() -> None:
    await hand_over("letter")
    raise ConnectionRefusedError  # of something else


def test_a_call_without_steps_is_not_repeated_after_it_either(place: Place):
    may_go.set()
    job = place.begin(without_steps, max_attempts=3, backoff=0)
    place.run(job)
    assert did == ["letter"] and [status for _, status in place.found(job)] == ["unknown"]


def test_a_cancel_leaves_it_unknown(place: Place):
    job = place.begin(two_steps)

    async def cancel(context: Context) -> None:
        await seen(lambda: did)
        place.jobs.act(job.id, OWNER, "cancel")

    place.run(job, "one", cancel)
    assert place.found(job) == [("first", "completed"), ("second", "unknown")]
    assert place.job(job).status == "cancelled"


def test_a_worker_that_stops_before_it_begins_leaves_it_to_the_next(place: Place):
    job = place.begin(two_steps)

    async def stop(context: Context) -> None:
        exchange = context.ledger.exchange

        async def stopped(job: int, worker: str, report: Any, has: Any = None) -> Any:
            if any(step.once for step in report.steps):
                context.stopping.set()
            return await exchange(job, worker, report, has)

        context.ledger.exchange = stopped

    place.run(job, "one", stop)
    assert did == [] and marked(place) == [0, 0]
    may_go.set()
    place.run(job, "two")
    assert did == ["letter", "end"]


def test_outside_a_job_it_says_nothing():
    asyncio.run(not_again())
    assert job_here() is None
    with pytest.raises(LookupError, match="no item and no step"):
        count_mail()


# ---- a step's own key --------------------------------------------------------------------------------------


async def keys() -> None:
    for _ in range(2):
        did.append(await step("ask", key_of_step))
    did.append(await step("say", key_of_step))


async def key_of_step() -> str:
    return idempotency_key()


async def tells_again() -> None:
    await step("ask", asks)


async def asks() -> None:
    did.append(idempotency_key())
    if len(did) < 3:
        raise ConnectionRefusedError


def test_a_step_has_a_key_of_its_own_the_same_on_every_try(place: Place):
    job = place.begin(tells_again, max_attempts=3, backoff=0)
    place.run(job)
    assert len(did) == 3 and len(set(did)) == 1 and did[0].startswith(f"{job.id}-")


def test_the_second_of_two_equal_steps_has_another_key(place: Place):
    job = place.begin(keys)
    place.run(job)
    assert len(did) == 3 and len(set(did)) == 3


def test_another_job_has_other_keys(place: Place):
    for _ in range(2):
        place.run(place.begin(tells_again, max_attempts=3, backoff=0))
    assert len(did) == 4 and did[0] != did[3]


def test_a_step_may_take_arguments_by_any_name(place: Place):
    assert step("greet", lambda name, function: f"{name} {function}", name="ada", function="x") == "ada x"
