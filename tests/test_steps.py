"""Resume inside a job: what `track` and `step` report, and what is not run again when the job is taken up once more."""

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apsw
import httpx
import pytest
from conftest import Server, until
from place import OWNER, Place, it_has_looked, seen

from rowcast import Retry, step, track
from rowcast.tables.database import close_databases, connection
from rowcast.tasks.work import KEY_LENGTH, Ended, Report
from rowcast.worker import body
from rowcast.worker.body import BodyRun
from rowcast.worker.context import Context

did: list[Any] = []  # what the tasks below have done, in order
may_end = threading.Event()


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    did.clear()
    may_end.clear()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield Place(str(tmp_path / "rowcast.db"))
    close_databases()


# ---- what is a step, and what became of it -------------------------------------------------------------------------


def counts_far() -> None:
    for n in track(range(12)):
        did.append(n)


async def goes_on() -> None:
    try:
        while True:
            await step("a step", asyncio.sleep, 0.01)
    finally:
        did.append("over")


def goes_on_in_a_thread() -> None:
    try:
        for _ in track(itertools.count()):
            time.sleep(0.01)
    finally:
        did.append("over")


@pytest.mark.parametrize("function", [goes_on, goes_on_in_a_thread])
def test_a_call_whose_steps_cannot_be_written_does_not_go_on_beside_the_end_of_its_job(
    place: Place, function: Callable[[], Any]
):
    job = place.begin(function)

    async def refused(context: Context) -> None:
        await seen(lambda: len(place.found(job)) > 3)
        connection(place.path).execute(
            "create trigger no before insert on items begin select raise(abort, 'refused'); end"
        )
        await seen(lambda: did)

    with pytest.raises(apsw.ConstraintError, match="refused"):
        place.run(job, meanwhile=refused)
    assert did == ["over"]


async def is_told_to_come_again() -> None:
    did.append("tried")
    if did == ["tried"]:
        raise Retry("not now", after=0)


def test_a_call_that_may_come_again_at_once_does_not_ask_without_a_rest_whether_its_job_is_still_paused(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    slept = list[float]()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(seconds)

    monkeypatch.setattr(body, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
    job = place.begin(is_told_to_come_again, max_attempts=2)

    async def pause(context: Context) -> None:
        take_body = context.ledger.take_body

        async def then_paused(*of: Any) -> Any:
            taken = await take_body(*of)
            place.jobs.act(job.id, OWNER, "pause")
            return taken

        context.ledger.take_body = then_paused
        await seen(lambda: len(slept) > 1)
        assert did == ["tried"]
        place.jobs.act(job.id, OWNER, "resume")

    place.run(job, meanwhile=pause)
    assert did == ["tried"] * 2 and set(slept) == {body.IDLE}


def hangs_at_first() -> None:
    for n in track(range(6)):
        did.append(n)
        time.sleep(5 if len(did) == 3 else 0.01)


def test_what_is_left_of_a_try_that_took_too_long_does_nothing_beside_the_next(place: Place):
    job = place.begin(hangs_at_first, timeout=4, max_attempts=3, backoff=0.1)
    place.run(job)
    assert did == [0, 1, 2, 2, 3, 4, 5]
    assert place.found(job) == [(str(n), "completed") for n in range(6)]


def test_a_long_loop_is_written_a_chunk_at_a_time(place: Place, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(body, "CHUNK", 5)
    job = place.begin(counts_far)
    written = []

    async def watch(context: Context) -> None:
        exchange = context.ledger.exchange

        async def noted(job: int, worker: str, report: Report) -> Any:
            written.append(len(report.steps))
            return await exchange(job, worker, report)

        context.ledger.exchange = noted

    place.run(job, "one", watch)
    assert max(written) <= 5 and sum(written) >= 12
    assert place.found(job) == [(str(n), "completed") for n in range(12)]


def breaks() -> None:
    for n in track(range(4)):
        did.append(n)
        if n == 1:
            break
    for word in track(["after", "that"]):
        did.append(word)


async def breaks_async() -> None:
    async for n in track(range(4)):
        did.append(n)
        if n == 1:
            break
    async for word in track(["after", "that"]):
        did.append(word)


@pytest.mark.parametrize("function", [breaks, breaks_async])
def test_a_loop_that_is_broken_out_of_ends_its_step_and_the_next_loop_has_its_own(
    place: Place, function: Any
):
    job = place.begin(function)
    place.run(job)
    assert did == [0, 1, "after", "that"]
    assert place.found(job) == [
        ("0", "completed"),
        ("1", "completed"),
        ("2", "cancelled"),
        ("3", "cancelled"),
        ("after", "completed"),
        ("that", "completed"),
    ]


def returns() -> int:
    for n in track(range(3)):
        if n == 1:
            return n
    return -1


def test_a_return_out_of_a_loop_leaves_the_rest_not_reached(place: Place):
    job = place.begin(returns)
    place.run(job)
    assert place.found(job) == [("0", "completed"), ("1", "completed"), ("2", "cancelled")]


def fail(message: str) -> None:
    raise ValueError(message)


async def fail_async(message: str) -> None:
    raise ValueError(message)


def swallows() -> None:
    with contextlib.suppress(ValueError):
        step("first", fail, "no")
    step("second", did.append, "second")


async def swallows_async() -> None:
    with contextlib.suppress(ValueError):
        await step("first", fail_async, "no")
    step("second", did.append, "second")


@pytest.mark.parametrize("function", [swallows, swallows_async])
def test_a_step_whose_error_the_task_gets_over_has_failed_and_the_next_is_a_step_too(
    place: Place, function: Any
):
    job = place.begin(function)
    place.run(job)
    assert place.found(job) == [("first", "failed"), ("second", "completed")]
    assert place.jobs.items(job.id)[0].error == "ValueError: no"
    assert (place.job(job).status, place.job(job).failed) == ("completed", 1)
    assert [g.message for g in place.jobs.error_groups(job.id)] == ["ValueError: no"]


def swallows_last() -> None:
    with contextlib.suppress(ValueError):
        step("only", fail, "no")


def test_so_has_the_last_one(place: Place):
    job = place.begin(swallows_last)
    place.run(job)
    assert place.found(job) == [("only", "failed")]


def loses_one_of_a_loop() -> None:
    with contextlib.suppress(ValueError):
        for n in track(range(3)):
            fail("no") if n == 1 else did.append(n)
    step("after", did.append, "after")


async def loses_one_async() -> None:
    try:
        async for n in track(range(3)):
            await fail_async("no") if n == 1 else did.append(n)
    except ValueError:
        await asyncio.sleep(0)
    step("after", did.append, "after")


def loop_alone() -> None:
    for n in track(range(3)):
        fail("no") if n == 1 else did.append(n)


def loses_it_in_another_function() -> None:
    with contextlib.suppress(ValueError):
        loop_alone()
    step("after", did.append, "after")


def tells_of_it() -> None:
    try:
        loop_alone()
    except ValueError:
        step("after", did.append, "after")


def tells_of_it_at_once() -> None:
    try:
        for n in track(range(3)):
            fail("no") if n == 1 else did.append(n)
    except ValueError:
        step("after", did.append, "after")


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (loses_one_of_a_loop, "The loop was left by an exception"),
        (loses_one_async, "The loop was left by an exception"),
        (loses_it_in_another_function, "The loop was left by an exception"),
        (tells_of_it, "ValueError: no"),
        (tells_of_it_at_once, "ValueError: no"),
    ],
)
def test_a_step_of_a_loop_that_an_exception_has_left_has_failed(place: Place, function: Any, error: str):
    job = place.begin(function)
    place.run(job)
    assert place.found(job) == [
        ("0", "completed"),
        ("1", "failed"),
        ("2", "cancelled"),
        ("after", "completed"),
    ]
    assert place.jobs.items(job.id)[1].error == error
    assert (did, place.job(job).status) == ([0, "after"], "completed")


def passes_on() -> Iterator[int]:
    yield from track(range(3))


def loops_inside(words: list[str]) -> Iterator[str]:
    for word in track(words):
        yield word.lower()


def breaks_out_of_a_generator() -> None:
    for n in passes_on():
        if n == 1:
            break
    for word in loops_inside(["a", "b"]):
        did.append(word)
        break
    steps = iter(track(["x", "y"]))
    did.append(next(steps))


def breaks_within() -> None:
    for n in track(range(2)):
        with contextlib.suppress(ValueError):
            try:
                fail("caught inside")
            except ValueError:
                step("inner", did.append, n)
                raise
    for n in track(range(2, 4)):
        try:
            with contextlib.nullcontext():
                break
        finally:
            did.append(n)


def ends_with_another() -> None:
    for n, word in zip(track(range(3)), "ab", strict=False):
        did.append((n, word))
    for word in itertools.islice(track(["x", "y"]), 1):
        did.append(word)


def keeps_what_it_loops_over() -> str:
    steps = iter(track(["a", "b"]))
    for _ in steps:
        break
    del steps
    others = iter(track(["x", "y"]))
    for word in others:
        return word
    return ""


async def asks_for_one() -> int:
    steps = aiter(track(range(3)))
    return await anext(steps)


@pytest.mark.parametrize(
    ("function", "ends"),
    [
        (breaks_out_of_a_generator, {"0", "1", "a", "x"}),
        (breaks_within, {"0", "1", "2"}),
        (ends_with_another, {"0", "1", "2", "x"}),
        (keeps_what_it_loops_over, {"a", "x"}),
        (asks_for_one, {"0"}),
    ],
)
def test_a_break_is_no_failure_whatever_is_around_it(place: Place, function: Any, ends: set[str]):
    job = place.begin(function)
    place.run(job)
    assert {key for key, status in place.found(job) if status == "completed"} == ends
    assert place.job(job).failed == 0


def fails_between() -> None:
    step("first", did.append, 1)
    fail("between")


def test_an_error_between_two_steps_is_a_step_of_its_own(place: Place):
    job = place.begin(fails_between)
    place.run(job)
    assert place.found(job) == [("first", "completed"), (place.made.name, "failed")]


def nested() -> None:
    for n in track(range(2)):
        step("inner", did.append, n)
        for word in track(["x"]):
            did.append(word)


def test_what_is_reported_inside_a_step_is_no_step(place: Place):
    job = place.begin(nested)
    place.run(job)
    assert did == [0, "x", 1, "x"]
    assert place.found(job) == [("0", "completed"), ("1", "completed")]


def long_keys() -> None:
    for _ in track(["x" * 100_000]):
        pass
    step("y" * 100_000, int)


def test_a_very_long_key_is_cut(place: Place):
    job = place.begin(long_keys)
    place.run(job)
    assert [(len(key), key[-1], status) for key, status in place.found(job)] == [
        (KEY_LENGTH, "…", "completed")
    ] * 2


def keyed() -> None:
    key: Any = int  # as a careless caller gives it
    for _ in track([1, 2], key=key):
        pass


def test_a_key_that_is_no_text_is_given_as_its_text(place: Place):
    job = place.begin(keyed)
    place.run(job)
    assert place.found(job) == [("1", "completed"), ("2", "completed")]


# ---- taken up again ------------------------------------------------------------------------------------------------


def walks(elements: list[str], until: str = "") -> list[str]:
    results = []
    for element in track(elements):
        did.append(element)
        if element == until and len(did) < 10:
            raise Retry("here it stops", after=0)
    results.append(step("sum up", lambda: len(did)))
    return results


WALK = {"elements": ["a", "b", "c", "d"], "until": "c"}


def test_completed_steps_are_not_run_again_at_the_next_try(place: Place):
    job = place.begin(walks, max_attempts=3, args=WALK)
    place.run(job)
    assert did == ["a", "b", "c", "c", "c"]
    assert [status for _, status in place.found(job)] == ["completed", "completed", "failed", "cancelled"]
    assert place.jobs.items(job.id)[2].attempt == 3


def test_completed_steps_are_not_run_again_when_the_job_is_retried(place: Place):
    job = place.begin(walks, args=WALK)
    place.run(job)
    did.extend("-" * 10)
    place.jobs.act(job.id, OWNER, "retry")
    place.run(job)
    assert did == ["a", "b", "c", *"-" * 10, "c", "d"]
    assert place.found(job) == [*((key, "completed") for key in "abcd"), ("sum up", "completed")]


def test_a_step_is_known_by_its_key_so_one_that_has_come_in_between_is_not_taken_for_done(place: Place):
    job = place.begin(walks, args=WALK)
    place.run(job)
    did.extend("-" * 10)
    place.jobs.conn.execute(
        "update jobs set args = json_set(args, '$.elements', json_array('a', 'new', 'c', 'd'))"
    )
    place.jobs.act(job.id, OWNER, "retry")
    place.run(job)
    assert did[13:] == ["new", "c", "d"]


class Thing:
    """Its text has an address in memory, which is another one in the next process."""


def things() -> None:
    for thing in track([Thing(), Thing(), Thing()]):
        did.append(thing)
        if len(did) == 2:
            raise ValueError("here it stops")


def test_an_address_in_memory_is_no_part_of_a_key(place: Place):
    job = place.begin(things)
    place.run(job)
    place.jobs.act(job.id, OWNER, "retry")
    kept = list(did)  # so that the new ones are elsewhere
    place.run(job)
    assert len(kept) == 2 and len(did) == 4


def recalls() -> dict[str, Any]:
    first = step("first", lambda: did.append("first") or {"number": 17})
    step("second", fail, "no") if len(did) < 2 else None
    return first


def test_a_step_that_is_done_gives_its_recorded_result(place: Place):
    job = place.begin(recalls)
    place.run(job)
    did.append("again")
    place.jobs.act(job.id, OWNER, "retry")
    place.run(job)
    assert did == ["first", "again"]
    assert place.jobs.items(job.id)[0].result == '{"number":17}'


# ---- stopped, paused, cancelled ------------------------------------------------------------------------------------


def waits() -> None:
    for n in track(range(3)):
        did.append(n)
        if n == 1:
            may_end.wait(200)


async def waits_async() -> None:
    async for n in track(range(3)):
        did.append(n)
        while n == 1 and not may_end.is_set():
            await asyncio.sleep(0.01)


async def stop_in_the_second_step(context: Context) -> None:
    await seen(lambda: did == [0, 1])
    context.stopping.set()
    await asyncio.sleep(0.2)
    may_end.set()


@pytest.mark.parametrize("function", [waits, waits_async])
def test_a_step_in_flight_may_end_when_the_worker_stops_and_is_not_run_again(place: Place, function: Any):
    job = place.begin(function)
    place.run(job, "one", stop_in_the_second_step)
    assert did == [0, 1]
    assert place.found(job) == [("0", "completed"), ("1", "completed"), ("2", "queued")]
    assert place.job(job).status == "running"
    place.run(job, "two")
    assert did == [0, 1, 2]
    assert place.job(job).status == "completed"


async def stop_for_good(context: Context) -> None:
    await seen(lambda: did == [0, 1])
    context.stopping.set()


def test_a_step_that_does_not_end_in_time_is_put_back(place: Place):
    job = place.begin(waits_async)
    place.run(job, "one", stop_for_good)
    assert place.found(job) == [("0", "completed"), ("1", "queued"), ("2", "queued")]
    may_end.set()
    place.run(job, "two")
    assert did == [0, 1, 1, 2]


def test_one_that_may_not_be_repeated_is_unknown_then(place: Place):
    job = place.begin(waits_async, idempotent=False)
    place.run(job, "one", stop_for_good)
    assert place.found(job) == [("0", "completed"), ("1", "unknown"), ("2", "cancelled")]
    assert "The worker stopped while this ran" in str(place.jobs.items(job.id)[1].error)


@pytest.mark.parametrize("function", [waits, waits_async])
def test_a_paused_job_begins_no_step_until_it_is_resumed(place: Place, function: Any):
    job = place.begin(function)

    async def pause(context: Context) -> None:
        await seen(lambda: did == [0, 1])
        place.jobs.act(job.id, OWNER, "pause")
        await it_has_looked(context)
        may_end.set()
        await seen(lambda: place.found(job)[1] == ("1", "completed"))
        await asyncio.sleep(0.2)
        assert did == [0, 1]
        place.jobs.act(job.id, OWNER, "resume")

    place.run(job, "one", pause)
    assert did == [0, 1, 2]


@pytest.mark.parametrize("function", [waits, waits_async])
def test_a_pause_takes_nothing_of_the_time_limit(place: Place, function: Any):
    job = place.begin(function, timeout=2)

    async def pause(context: Context) -> None:
        await seen(lambda: did == [0, 1])
        place.jobs.act(job.id, OWNER, "pause")
        await it_has_looked(context)
        may_end.set()
        await asyncio.sleep(2)
        assert place.job(job).status == "paused" and did == [0, 1]
        place.jobs.act(job.id, OWNER, "resume")

    place.run(job, "one", pause)
    assert place.job(job).status == "completed" and did == [0, 1, 2]


@pytest.mark.parametrize("function", [waits, waits_async])
def test_a_cancelled_job_begins_no_further_step(place: Place, function: Any):
    job = place.begin(function)

    async def cancel(context: Context) -> None:
        await seen(lambda: ("1", "running") in place.found(job))
        place.jobs.act(job.id, OWNER, "cancel")

    place.run(job, "one", cancel)
    may_end.set()
    time.sleep(0.2)
    assert did == [0, 1]
    assert place.found(job) == [("0", "completed"), ("1", "cancelled"), ("2", "cancelled")]


def test_a_job_that_another_worker_has_taken_over_is_left_to_it(place: Place):
    job = place.begin(waits_async)

    async def lose(context: Context) -> None:
        await seen(lambda: ("1", "running") in place.found(job))
        place.ledger.rescue("one")
        assert place.ledger.take_body(job.id, "two") is not None

    place.run(job, "one", lose)
    assert did == [0, 1]
    assert place.found(job)[1] == ("1", "queued") and place.job(job).worker == "two"


def is_told_to_wait(code: int) -> None:
    answer = httpx.Response(code, headers={"Retry-After": "7"}, request=httpx.Request("POST", "http://api/"))
    answer.raise_for_status()


@pytest.mark.parametrize(("code", "after"), [(429, 7.0), (503, 7.0), (500, None)])
def test_a_function_that_is_called_again_waits_as_long_as_the_api_has_asked_for(
    place: Place, monkeypatch: pytest.MonkeyPatch, code: int, after: float | None
):
    waits = list[float | None]()

    async def note(run: BodyRun, left: Any, tries: int, ended: Ended) -> None:
        waits.append(ended.after)

    monkeypatch.setattr(BodyRun, "_back_off", note)
    job = place.begin(is_told_to_wait, args={"code": code}, max_attempts=2)
    place.run(job)
    assert waits == [after] and place.job(job).status == "failed"


def warms() -> None:
    did.append("called")
    raise Retry("the printer is warm", after=2 if len(did) == 1 else 0)


@pytest.mark.parametrize("action", ["cancel", "pause"])
def test_a_task_that_waits_for_its_next_try_is_not_called_when_it_is_stopped_by_a_person(
    place: Place, action: str
):
    job = place.begin(warms, max_attempts=3)

    async def act(context: Context) -> None:
        await seen(lambda: did and place.found(job) == [(place.made.name, "queued")])
        place.jobs.act(job.id, OWNER, action)
        await asyncio.sleep(2.4)
        assert did == ["called"]
        if action == "pause":
            place.jobs.act(job.id, OWNER, "resume")

    place.run(job, "one", act)
    assert did == (["called"] if action == "cancel" else ["called"] * 3)


# ---- a real server, a real kill ------------------------------------------------------------------------------------

TASKS = """
import pathlib, time
from rowcast import step, task, track

def note(word):
    with open("done.txt", "a") as file:
        file.write(word + "\\n")
    return word.upper()

@task
def several():
    heard = step("prepare", note, "prepare")
    for n in track(range(3)):
        note(f"begin {n}")
        while n == 1 and not pathlib.Path("go").exists():
            time.sleep(0.02)
        note(f"end {n}")
    step("sum up", note, heard)
"""


def test_after_a_kill_a_task_goes_on_in_the_step_that_was_open(serve: Callable[..., Server], tmp_path: Path):
    (tmp_path / "mine.py").write_text(TASKS)
    server = serve("--tasks", "mine")
    job = server.begin("several")
    until(lambda: (tmp_path / "done.txt").exists() and "begin 1" in (tmp_path / "done.txt").read_text())
    until(lambda: [i["status"] for i in server.items(job)] == ["completed", "completed", "running", "queued"])
    server.process.kill()
    server.process.wait()
    server.start()
    until(lambda: (tmp_path / "done.txt").read_text().count("begin 1") == 2)
    (tmp_path / "go").touch()
    assert server.ended(job)["completed"] == 5
    lines = (tmp_path / "done.txt").read_text().split("\n")[:-1]
    assert lines == [
        "prepare",
        "begin 0",
        "end 0",
        "begin 1",
        "begin 1",
        "end 1",
        "begin 2",
        "end 2",
        "PREPARE",
    ]


begun: list[int] = []


async def fails_at_first() -> None:
    begun.append(len(begun))
    if len(begun) == 1:
        raise Retry("not now", after=0.01)
    await asyncio.Event().wait()


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_call_that_is_tried_again_runs_and_is_not_repeated_where_its_worker_dies(
    place: Place, idempotent: bool
):
    """Where it may not be repeated nobody knows what became of it: it is neither queued again nor 'not reached'."""
    begun.clear()
    job = place.begin(fails_at_first, idempotent=idempotent, max_attempts=3)

    async def died(context: Context) -> None:
        await seen(lambda: len(begun) == 2)
        assert place.found(job) == [(place.made.name, "running")]
        assert place.jobs.items(job.id)[0].attempt == 2
        place.ledger.rescue("one")
        context.stopping.set()

    place.run(job, "one", died)
    now = place.job(job)
    assert (now.queued, now.unknown, now.cancelled) == ((1, 0, 0) if idempotent else (0, 1, 0))


@pytest.mark.parametrize("name", [1, None, b"a", Path("a")])
def test_a_step_with_a_name_that_is_no_text_is_refused_in_one_sentence(name: Any):
    with pytest.raises(TypeError, match=r"^A step's name is a text, not .{1,80}\.$"):
        step(name, did.append, 1)
    assert did == []
