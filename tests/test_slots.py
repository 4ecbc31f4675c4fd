"""Slots and the dashboard's end of the ledger over HTTP, one sentence at a time."""

import gzip
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.exceptions import HTTPException

from rowcast.jobs import Jobs
from rowcast.tables import sweeps
from rowcast.tables.database import close_databases, connection, transaction
from rowcast.tables.ledger import Ledger
from rowcast.tables.schema import prepare
from rowcast.tables.slots import PATIENCE, Slot, Slots
from rowcast.tasks.clock import steady
from rowcast.tasks.concurrency import Found
from rowcast.tasks.records import Options, encode
from rowcast.tasks.registry import task
from rowcast.tasks.settings import Settings
from rowcast.tasks.steps import step
from rowcast.tasks.work import (
    CHUNK,
    SLICE_SECONDS,
    Beat,
    Chunk,
    Ended,
    Hold,
    LedgerCall,
    Report,
    ReportCall,
    Result,
    Step,
    Work,
)
from rowcast.web.guard import LEDGER_LIMIT
from rowcast.web.state import State
from rowcast.web.worker_api import LedgerCalls, translate, unpacked
from rowcast.worker.remote import PART, NotNow, Refused, answer_of, in_parts, packed


def work(item: str) -> None: ...


def body() -> None:
    step("one", str)


WORK = task(name="slots_work", concurrency=10)(work)
HELD = task(name="slots_held", concurrency=10)(work)
BODY = task(name="slots_body")(body)
FIRST = Step(0, "slots_body", "running")  # its own item
Message = tuple[int, int, str]


class Yard:
    """One database with a queue's engine, and what can be asked of it."""

    def __init__(self, path: Path):
        self.path = str(path / "rowcast.db")
        prepare(self.path)
        self.jobs = Jobs(self.path)
        self.ledger = Ledger(self.path)
        self.slots = Slots(self.path)
        self.calls = LedgerCalls(State(Settings(database=self.path)))

    def begin(self, made: Any = WORK, items: int = 30, engine: str = "celery", **options: Any) -> int:
        job, _ = self.jobs.submit(made, {}, "local", engine, Options(**options))
        if made.shape == "items":
            self.jobs.add_items(job.id, Chunk.of([(f"item {n}", None) for n in range(items)], last=True))
        return job.id

    def live(self, *names: str) -> None:
        for name in names:
            self.calls.heartbeat(Beat(worker=name, host="elsewhere", pid=1, engine="celery", version="1"))

    def supplied(self) -> list[Message]:
        return self.slots.supply("celery")

    def later(self, seconds: float) -> None:
        """So many seconds go by, for slots and leases."""
        with transaction(connection(self.path)) as conn:
            conn.execute("update slots set due_at = due_at - ?", (seconds,))
            conn.execute("update workers set lease = lease - ?", (seconds,))

    def take(self, message: Message, worker: str = "w") -> LedgerCall | None:
        """The slice that a message begins, None for one that is left over."""
        job, slot, token = message
        given = self.calls.begin(LedgerCall(worker=worker, job=job, slot=slot, token=token))
        return LedgerCall(worker=worker, job=job, slot=slot, token=given.token) if given.job else None

    def working(self, made: Any = WORK, **how: Any) -> LedgerCall:
        """A slice of a new job, which the worker `w` has begun."""
        self.begin(made, **how)
        self.live("w")
        call = self.take(self.supplied()[0])
        assert call
        return call


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    yield Yard(tmp_path)
    close_databases()


def asking(call: LedgerCall, **values: Any) -> LedgerCall:
    return LedgerCall(worker=call.worker, job=call.job, slot=call.slot, token=call.token, **values)


def telling(call: LedgerCall, has: list[tuple[int, int]] | None = None, **values: Any) -> ReportCall:
    return ReportCall(
        worker=call.worker, job=call.job, slot=call.slot, token=call.token, report=Report(**values), has=has
    )


def test_a_job_has_as_many_slots_as_workers_live_and_no_more_than_it_can_use(yard: Yard):
    job = yard.begin()
    assert [(j, slot) for j, slot, _ in yard.supplied()] == [(job, 0)], (
        "nobody has been heard of: one that finds somebody"
    )
    yard.live("a", "b", "c")
    assert [slot for _, slot, _ in yard.supplied()] == [1, 2]
    assert yard.supplied() == []
    few = yard.begin(items=2)
    narrow = yard.begin(concurrency=1)
    once = yard.begin(BODY)
    assert sorted((j, slot) for j, slot, _ in yard.supplied()) == [(few, 0), (few, 1), (narrow, 0), (once, 0)]


def test_the_job_of_the_higher_priority_is_sent_first_and_yields_only_to_its_like(yard: Yard):
    low = yard.begin(concurrency=1)
    high = yard.begin(concurrency=1, priority=4)
    yard.live("w")
    first, second = yard.supplied()
    assert [first[0], second[0]] == [high, low]
    call = yard.take(first)
    assert call and not yard.calls.look(asking(call)).waiting  # its slice goes on for its five seconds
    same = yard.begin(concurrency=1, priority=4)
    yard.later(6)  # for the messages that nobody took
    messages = {job: (job, slot, token) for job, slot, token in (second, *yard.supplied())}
    assert same in messages and yard.calls.look(asking(call)).waiting
    low_call = yard.take(messages[low])
    assert low_call and yard.calls.look(asking(low_call)).waiting  # a lower one yields soon, as all did


def test_the_slices_of_a_job_have_a_part_of_its_places_by_its_priority(yard: Yard):
    yard.begin()
    high = yard.begin(priority=2)
    yard.live("w")
    call = yard.take(next(message for message in yard.supplied() if message[0] == high))
    assert call and len(yard.calls.exchange(telling(call, limit=10)).items) == 8


def test_each_slice_finds_its_share_and_they_are_told_as_one(yard: Yard):
    job = yard.begin(concurrency="auto 2-100", items=300)
    yard.live("one", "two")
    messages = yard.supplied()
    one = yard.take(messages[0], "one")
    two = yard.take(messages[1], "two")
    assert one and two
    given = yard.calls.exchange(telling(one, limit=5))
    assert (given.concurrency, given.least) == (50, 1)
    done = [Result(item.id, item.attempt, "completed") for item in given.items]
    yard.calls.exchange(telling(one, results=done, found=Found(12, True, 15, 0.0, 0.1)))
    yard.calls.exchange(telling(two, found=Found(10, True, 13, 0.0, 0.1)))
    whole = yard.jobs.job(job, "local")
    assert whole.found_read == Found(22, True, 28, 0.0, 0.1) and whole.places == 22
    # the next slice of the slot goes on from there, and one of a worker that has joined takes a part
    assert yard.calls.end(asking(one))
    again = yard.calls.begin(LedgerCall(worker="one", job=job, slot=one.slot, token=one.token)).job
    assert again and again.found_read == Found(12, True, 15, 0.0, 0.1)
    yard.live("three")
    (message,) = [message for message in yard.supplied() if message[1] == 2]
    joined = yard.calls.begin(LedgerCall(worker="three", job=job, slot=2, token=message[2])).job
    assert joined and joined.found_read and 7 <= joined.found_read.limit <= 11
    late = LedgerCall(worker="one", job=job, slot=one.slot, token="an old one")
    yard.calls.exchange(telling(late, found=Found(90)))  # a slice that is not the slot's says nothing
    assert yard.jobs.job(job, "local").places == 22


def test_only_what_a_worker_could_do_something_for_is_sent(yard: Yard):
    yard.begin(engine="background")
    yard.begin(run_at=time.time() + 60)
    waits, behind, held = yard.begin(), yard.begin(canary=2), yard.begin(HELD)
    conn = connection(yard.path)
    conn.execute("update items set run_at = 9e9 where job = ? or job = ? and position < 2", (waits, behind))
    conn.execute("insert into paces (task, hold_until) values (?, 9e9)", (HELD.name,))
    conn.execute(
        "update jobs set status = 'running', started_at = 1 where id in (?, ?, ?)", (waits, behind, held)
    )
    paused = yard.begin()
    cancelled = yard.begin()
    yard.jobs.act(paused, "local", "pause")
    yard.jobs.act(cancelled, "local", "cancel")
    assert yard.supplied() == []
    yard.jobs.act(paused, "local", "resume")
    assert [job for job, *_ in yard.supplied()] == [paused]
    conn.execute("update items set run_at = 1 where job in (?, ?) and position = 1", (waits, behind))
    conn.execute("update paces set hold_until = 0")
    assert [job for job, *_ in yard.supplied()] == [waits, behind, held]


def test_a_job_without_items_is_sent_once_and_completes(yard: Yard):
    job = yard.begin(items=0)
    (message,) = yard.supplied()
    assert yard.take(message) is None
    assert yard.jobs.job(job, "local").status == "completed"
    assert yard.supplied() == []


def test_a_message_is_good_once(yard: Yard):
    yard.begin()
    (message,) = yard.supplied()
    call = yard.take(message)
    assert call is not None and call.token != message[2]
    assert yard.take(message) is None
    assert yard.take((message[0], message[1], "")) is None
    again = yard.take((call.job, call.slot, call.token))
    assert again is not None and yard.take((call.job, call.slot, call.token)) is None


def test_a_slice_whose_slot_is_anothers_gets_nothing_more_and_may_report(yard: Yard):
    call = yard.working()
    (item,) = yard.calls.exchange(telling(call, limit=1)).items
    yard.later(PATIENCE + 1)
    (message,) = yard.supplied()
    yard.live("other")
    other = yard.take(message, "other")
    assert other
    refused = yard.calls.exchange(telling(call, limit=1))
    assert (refused.items, refused.queued, refused.filled) == ([], 0, True), (
        "there is nothing more to wait for"
    )
    told = yard.calls.exchange(telling(call, results=[Result(item.id, item.attempt, "completed")]))
    assert (told.items, told.queued, told.filled) == ([], 0, True)
    assert yard.jobs.job(call.job, "local").completed == 1
    assert yard.calls.exchange(telling(other, limit=1)).items


def test_a_slot_that_is_not_heard_of_is_sent_again_and_then_more_seldom(yard: Yard):
    yard.begin()
    (first,) = yard.supplied()
    yard.later(PATIENCE + 1)
    (second,) = yard.supplied()
    assert yard.take(first) is None
    yard.later(PATIENCE + 1)
    assert yard.supplied() == [], "twice in vain"
    yard.later(PATIENCE + 1)
    (third,) = yard.supplied()
    assert yard.take(second) is None and yard.take(third) is not None


def test_a_slice_that_is_heard_of_is_not_sent_again(yard: Yard):
    yard.begin()
    call = yard.take(yard.supplied()[0])
    assert call
    for _ in range(3):
        yard.later(PATIENCE - 1)
        yard.calls.heartbeat(Beat(worker="w", host="h", pid=1, engine="celery", version="1",
                                 slices=[(call.job, call.slot, call.token)]))  # fmt: skip
        assert yard.supplied() == []


def test_where_many_jobs_wait_in_line_a_message_may_take_its_time(yard: Yard):
    for _ in range(3):
        yard.begin()
    assert len(yard.supplied()) == 3
    yard.later(PATIENCE + SLICE_SECONDS)
    assert yard.supplied() == []
    yard.later(SLICE_SECONDS + 1)
    assert len(yard.supplied()) == 3


def test_a_slice_goes_on_while_there_is_more_and_rests_when_there_is_not(yard: Yard):
    call = yard.working(items=2)
    job = call.job
    assert yard.calls.end(asking(call)) is True
    assert yard.calls.end(asking(call, wait=0.5)) is False, "it has to wait, and so does its slot"
    assert yard.calls.exchange(telling(call, limit=1)).items == [], "at rest"
    assert yard.supplied() == []
    yard.later(1)
    (message,) = yard.supplied()
    call = yard.take(message)
    assert call
    items = yard.calls.exchange(telling(call, limit=9)).items
    assert yard.calls.end(asking(call)) is False
    assert yard.supplied() == []
    yard.calls.exchange(telling(call, results=[Result(i.id, i.attempt, "failed", error="no") for i in items]))
    yard.jobs.act(job, "local", "retry")
    assert len(yard.supplied()) == 1, "at once, when there is something to do"


def test_slices_share_the_concurrency(yard: Yard):
    job = yard.begin()
    yard.live("a", "b", "c")
    calls = [yard.take(message, name) for message, name in zip(yard.supplied(), "abc", strict=True)]
    given = [yard.calls.exchange(telling(call, limit=1)) for call in calls if call]
    assert [work.concurrency for work in given] == [4, 3, 3]
    assert yard.jobs.job(job, "local").running == 3


def test_who_claims_ahead_leaves_their_part_to_those_who_come_later(yard: Yard):
    job = yard.begin(items=100)
    yard.live("a")
    first = yard.take(yard.supplied()[0], "a")
    assert first
    held = [item.id for item in yard.calls.exchange(telling(first, limit=30)).items]
    assert len(held) == 30, "alone it may claim more than the ten that it may have in flight"
    yard.live("b")
    second = yard.take(yard.supplied()[0], "b")
    assert second
    assert yard.calls.exchange(telling(second, limit=20)).items == [], "the first may have ten in flight"
    done = [Result(item, 1, "completed") for item in held[:22]]
    work = yard.calls.exchange(telling(first, results=done, limit=22, in_flight=8))
    assert (work.items, work.concurrency) == ([], 5), "it has more in flight than its part, maybe"
    assert len(yard.calls.exchange(telling(second, limit=20)).items) == 2, "ten, less the eight of the first"
    done = [Result(item, 1, "completed") for item in held[22:25]]
    work = yard.calls.exchange(telling(first, results=done, limit=25, in_flight=5))
    assert len(work.items) == 25, "down to its part, it claims ahead again"
    assert len(yard.calls.exchange(telling(second, limit=20, in_flight=2)).items) == 20
    assert yard.jobs.job(job, "local").completed == 25


def test_jobs_of_one_task_share_it_and_each_slice_has_its_part_of_that(yard: Yard):
    jobs = [yard.begin(items=50), yard.begin(items=50)]
    yard.live("a", "b")
    calls = [call for message in yard.supplied() if (call := yard.take(message, "ab"[message[1]]))]
    assert len(calls) == 4
    given = {(call.job, call.slot): len(yard.calls.exchange(telling(call, limit=9)).items) for call in calls}
    assert [sum(n for (of, _), n in given.items() if of == job) for job in jobs] == [5, 5]
    assert min(given.values()) >= 2


def test_a_job_whose_items_wait_takes_no_part_from_another_of_its_task(yard: Yard):
    """One that waits for other tries, one behind its canary, one that wants two of ten, and one with much."""
    waits = yard.begin()
    few = yard.begin(items=2)
    much = yard.begin(items=50)
    yard.begin(canary=1)
    connection(yard.path).execute("update items set run_at = 9e9 where job = ?", (waits,))
    yard.live("a", "b")
    calls = {call.job: call for one in yard.supplied() if one[1] == 0 and (call := yard.take(one, "a"))}
    assert [len(yard.calls.exchange(telling(calls[job], limit=9)).items) for job in (much, few, waits)] == [
        7, 2, 0
    ]  # fmt: skip


@pytest.mark.parametrize("whole", [0, 1, 2, 3, 7, 10])
@pytest.mark.parametrize("slots", [1, 2, 4])
def test_the_parts_of_all_slots_make_the_whole(whole: int, slots: int):
    parts = [Slot(slots - 1, before, 0, 0).part(whole) for before in range(slots)]
    assert sum(parts) == whole and max(parts) - min(parts) <= 1


def test_a_body_is_sent_to_one_worker_and_again_when_that_is_lost(yard: Yard):
    job = yard.begin(BODY)
    yard.live("w", "v")
    (message,) = yard.supplied()
    call = yard.take(message)
    assert call and yard.calls.take_body(asking(call)) == [FIRST]
    yard.later(PATIENCE * 3)
    assert yard.supplied() == [], "it is held"
    assert yard.ledger.rescue() == 1
    assert [slot for _, slot, _ in yard.supplied()] == [0]
    assert yard.jobs.job(job, "local").status == "running"


def test_a_body_is_sent_when_a_retry_has_queued_all_its_steps(yard: Yard, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sweeps, "CHUNK", 2)
    call = yard.working(BODY)
    assert yard.calls.take_body(call) == [FIRST]
    steps = [Step(0, "a", "running"), *(Step(n, str(n), "queued") for n in range(1, 4))]
    over = Report(steps=steps, ended=Ended("it broke"))
    yard.calls.exchange(ReportCall(worker="w", job=call.job, slot=call.slot, token=call.token, report=over))
    yard.slots.end(call.job, call.slot, call.token, 0.0)
    yard.later(60)
    yard.live("w")
    yard.jobs.sweep(call.job)
    yard.jobs.act(call.job, "local", "retry")
    assert yard.supplied() == []
    while yard.jobs.sweep(call.job):
        pass
    assert [job for job, _, _ in yard.supplied()] == [call.job]


def test_what_cannot_run_here_is_paused_with_the_reason_and_held_no_longer(yard: Yard):
    call = yard.working(BODY)
    job = call.job
    assert yard.calls.take_body(asking(call)) == [FIRST]
    yard.calls.cannot(asking(call, reason="no such module"))
    paused = yard.jobs.job(job, "local")
    assert (paused.status, paused.reason) == ("paused", "no such module")
    yard.jobs.act(job, "local", "resume")
    assert len(yard.supplied()) == 1


def test_a_claim_that_is_repeated_gives_back_what_the_lost_answer_held(yard: Yard):
    call = yard.working()
    held = yard.calls.exchange(telling(call, limit=2)).items
    lost = yard.calls.exchange(telling(call, limit=3, in_flight=2)).items
    again = yard.calls.exchange(telling(call, limit=3, in_flight=2, has=[(item.id, 1) for item in held]))
    assert len(lost) == 3 and [item.id for item in again.items] == [item.id for item in lost]
    assert all(item.attempt - item.spent == 1 for item in again.items), (
        "a try that was not begun does not count"
    )
    assert yard.jobs.job(call.job, "local").running == 5


def test_a_report_that_is_repeated_gives_back_what_the_lost_answer_held_and_counts_once(yard: Yard):
    call = yard.working()
    first, second = yard.calls.exchange(telling(call, limit=2)).items
    done = [Result(first.id, 1, "completed"), Result(second.id, 1, "completed")]
    lost = yard.calls.exchange(telling(call, results=done, limit=3)).items
    again = yard.calls.exchange(telling(call, results=done, limit=3, has=[(first.id, 1), (second.id, 1)]))
    assert len(lost) == 3 and [item.id for item in again.items] == [item.id for item in lost]
    job = yard.jobs.job(call.job, "local")
    assert (job.completed, job.running) == (2, 3)


def test_a_report_that_comes_after_its_repetition_is_old_and_changes_nothing(yard: Yard):
    call = yard.working(items=20)

    def tell(number: int, **told: Any) -> Work:
        told_of = telling(call, **told)
        told_of.number = number
        return yard.calls.exchange(told_of)

    again = tell(2, limit=10, has=[])  # on the worker's new connection
    assert tell(1, limit=10).items == []  # what was on its way by the one that broke: nobody hears the answer
    assert tell(1, limit=10, has=[]).items == []  # nor is anything given back for it
    assert yard.jobs.job(call.job, "local").running == len(again.items) == 10
    done = [Result(item.id, item.attempt, "completed") for item in again.items]
    last = tell(3, results=done, limit=10).items
    tell(4, results=[Result(item.id, item.attempt, "completed") for item in last])
    assert yard.jobs.job(call.job, "local").status == "completed"


def test_a_step_is_not_taken_back_by_an_old_report_of_its_beginning(yard: Yard):
    call = yard.working(BODY)
    assert yard.calls.take_body(asking(call)) == [FIRST]
    for number, status in ((2, "running"), (3, "completed"), (1, "running")):
        told = telling(call, steps=[Step(0, "one", status)])
        told.number = number
        yard.calls.exchange(told)
    assert [(item.key, item.status) for item in yard.jobs.items(call.job)] == [("one", "completed")]


def test_a_try_that_is_due_again_at_once_is_not_lost_with_the_answer_that_gave_it(yard: Yard):
    call = yard.working(items=1)
    job = call.job
    (item,) = yard.calls.exchange(telling(call, limit=1)).items
    again = [Result(item.id, 1, "queued", 503, run_at=steady() - 0.01)]
    (lost,) = yard.calls.exchange(telling(call, results=again, limit=1)).items
    (given,) = yard.calls.exchange(telling(call, results=again, limit=1, has=[(item.id, 1)])).items
    assert (lost.id, lost.attempt - lost.spent) == (given.id, given.attempt - given.spent) == (item.id, 2)
    yard.calls.exchange(telling(call, results=[Result(given.id, given.attempt, "completed")]))
    assert yard.jobs.job(job, "local").status == "completed"


def test_a_look_that_is_repeated_leaves_a_body_its_step(yard: Yard):
    call = yard.working(BODY)
    job = call.job
    assert yard.calls.take_body(asking(call)) == [FIRST]
    yard.calls.exchange(telling(call, has=[]))
    assert [item.status for item in yard.jobs.items(job)] == ["running"]


def test_who_is_not_known_to_live_takes_nothing(yard: Yard):
    yard.begin()
    call = yard.take(yard.supplied()[0])
    assert call
    with pytest.raises(HTTPException, match="503"):
        yard.calls.exchange(telling(call, limit=1))
    yard.live("w")
    assert yard.calls.exchange(telling(call, limit=1)).items


@pytest.mark.parametrize(("idempotent", "became"), [(True, "queued"), (False, "unknown")])
def test_a_worker_that_cannot_go_on_holds_nothing_any_more(yard: Yard, idempotent: bool, became: str):
    made = task(name=f"slots_cannot_{idempotent}", concurrency=3, idempotent=idempotent)(work)
    call = yard.working(made, items=3)
    job = call.job
    assert len(yard.calls.exchange(telling(call, limit=2)).items) == 2
    yard.calls.cannot(asking(call, reason="it broke"))
    assert [item.status for item in yard.jobs.items(job)] == [became, became, "queued"]
    assert yard.jobs.job(job, "local").running == 0


def test_with_many_jobs_a_message_that_is_lost_is_sent_again_as_soon_as_a_worker_has_nothing_to_do(
    yard: Yard,
):
    for _ in range(20):
        yard.begin()
    yard.live("w")
    first, *others = yard.supplied()
    call = yard.take(first)
    assert call and len(others) == 19
    yard.later(PATIENCE - 1)
    assert yard.calls.exchange(telling(call, limit=1)).items  # it is heard of
    yard.later(2)
    assert yard.supplied() == [], "they wait behind the one that is under way"
    yard.later(PATIENCE)
    yard.live("w")
    assert len(yard.supplied()) == 20, "nobody is heard of: the broker has lost them"


def test_a_message_that_the_broker_did_not_take_is_sent_soon_however_many_jobs_there_are(yard: Yard):
    for _ in range(20):
        yard.begin()
    yard.live("w")
    messages = yard.supplied()
    assert yard.take(messages[0])
    yard.slots.unsent(*messages[7])
    yard.later(1.5)
    assert [message[:2] for message in yard.supplied()] == [messages[7][:2]]


def test_a_slice_hears_that_other_jobs_wait(yard: Yard):
    call = yard.working()
    assert not yard.calls.exchange(telling(call, limit=1)).waiting
    yard.begin()
    (message,) = yard.supplied()
    assert yard.calls.exchange(telling(call, limit=1)).waiting
    assert yard.take(message)
    assert not yard.calls.exchange(telling(call, limit=1)).waiting


def test_how_the_jobs_of_many_slices_stand_is_one_look_and_messages_that_wait_are_found_by_an_index(
    yard: Yard,
):
    yard.live("a", "b")
    jobs = [yard.begin() for _ in range(3)]
    calls = [call for message in yard.supplied() if (call := yard.take(message))]
    slices = [(call.job, call.slot, call.token) for call in calls] + [(jobs[0], 0, "another's"), (99, 0, "")]
    conn, statements = connection(yard.path), dict[str, Any]()

    def note(_: Any, sql: str, bindings: Any) -> bool:
        statements[sql] = bindings
        return True

    conn.set_exec_trace(note)
    before = yard.slots.versions(slices)
    conn.set_exec_trace(None)
    assert len(calls) == 6 and [bool(one) for one in before] == [True] * 6 + [False] * 2
    ((sql, values),) = statements.items()
    plan = [row[3] for row in conn.execute(f"explain query plan {sql}", values)]
    assert "SCAN slots USING INDEX slots_waiting" in plan and "SCAN slots" not in plan

    def changed() -> list[int]:
        """Of which of them something is new."""
        nonlocal before
        was, before = before, yard.slots.versions(slices)
        return [call.job for call, one, now in zip(calls, was, before, strict=False) if one != now]

    assert changed() == []
    yard.jobs.act(jobs[1], "local", "pause")
    assert changed() == [jobs[1]] * 2
    yard.begin(priority=-1)
    yard.supplied()
    assert changed() == [], "none yields to a lower one"
    other, _ = yard.jobs.submit(WORK, {}, "ann", "celery", Options())
    yard.jobs.add_items(other.id, Chunk.of([("item", None)], last=True))
    yard.supplied()
    assert sorted(changed()) == sorted([*jobs, *jobs])
    assert all(yard.slots.waiting(job) for job in jobs) and not yard.slots.waiting(99)


def test_what_waited_for_long_is_reported_in_parts():
    results = [Result(n, 1, "completed", result="x" * 60_000) for n in range(200)]
    parts = in_parts(results)
    assert [result for part in parts for result in part] == results and len(parts) > 2
    assert all(len(packed(encode(part))[0]) < LEDGER_LIMIT for part in parts)
    assert all(sum(len(r.result or "") for r in part) < 2 * PART for part in parts)
    assert in_parts(results[:0]) == [[]]
    steps = [Step(n, "a step", "completed", result="x" * 60_000) for n in range(200)]
    assert [len(part) for part in in_parts(steps)] == [len(part) for part in parts]
    small = [Result(n, 1, "completed") for n in range(CHUNK + 1)]
    assert [len(part) for part in in_parts(small)] == [CHUNK, 1]


@pytest.mark.parametrize(("reply", "error", "said"), [
    (httpx.Response(200, text="<html>"), NotNow, "cannot be read"),
    (httpx.Response(502), NotNow, "502"),
    (httpx.Response(401, json={"error": "The token is another."}), Refused, "The token is another."),
    (httpx.Response(400, json={"error": "The call cannot be read."}), ValueError, "The call cannot be read."),
])  # fmt: skip
def test_an_answer_says_whose_fault_it_is(reply: httpx.Response, error: type[Exception], said: str):
    reply.request = httpx.Request("POST", "http://127.0.0.1/api/ledger/exchange")
    with pytest.raises(error, match=said):
        answer_of(reply, Work)


@pytest.mark.parametrize("behind", [-120.0, 120.0])
def test_moments_are_moved_by_how_far_the_workers_clock_is_off(yard: Yard, behind: float):
    call = yard.working()
    calls = LedgerCalls(State(Settings(database=yard.path)), behind)
    theirs = steady() - behind
    first, second = calls.exchange(telling(call, limit=2)).items
    told = telling(
        call, results=[Result(first.id, 1, "queued", 503, run_at=theirs + 5), Result(second.id, 1, "queued")],
        hold=Hold(theirs + 9, "503"),
    )  # fmt: skip
    translate(told.report, behind)  # as each call is, before the writer has it
    work = calls.exchange(told)
    assert work.hold_until == pytest.approx(theirs + 9, abs=2), "told in its own time"
    rows = {item.id: item.run_at for item in yard.jobs.items(call.job)}
    assert rows[first.id] == pytest.approx(time.time() + 5, abs=2)
    assert rows[second.id] == 0


def test_another_engine_takes_over_what_has_not_ended(yard: Yard):
    job = yard.begin()
    done = yard.begin(items=0)
    yard.jobs.start(done)
    yard.live("w")
    call = yard.take(yard.supplied()[0])
    assert call
    seq = yard.jobs.seq()
    yard.slots.adopt("background")
    assert yard.jobs.job(job, "local").engine == "background" and yard.jobs.job(job, "local").seq > seq
    assert yard.jobs.job(done, "local").engine == "celery"
    assert yard.calls.exchange(telling(call, limit=1)).items == []
    seq = yard.jobs.seq()
    yard.slots.adopt("background")
    assert yard.jobs.seq() == seq, "nothing to do"


def test_while_the_dashboard_was_away_nobody_could_say_a_word(yard: Yard):
    yard.begin()
    yard.live("w", "idle")
    call = yard.take(yard.supplied()[0])
    assert call and yard.calls.exchange(telling(call, limit=2)).items
    yard.later(60)
    yard.slots.believe()
    assert yard.ledger.rescue() == 0
    yard.later(60)
    assert yard.ledger.rescue() == 2


def test_a_worker_that_asks_for_work_lives(yard: Yard):
    call = yard.working()
    yard.later(60)
    assert [worker.alive for worker in yard.slots.workers("celery")] == [False]
    assert len(yard.calls.exchange(telling(call, limit=2)).items) == 2
    assert [worker.alive for worker in yard.slots.workers("celery")] == [True] and yard.ledger.rescue() == 0


def test_the_dead_are_shown_last_and_those_who_left_are_not(yard: Yard):
    yard.live("first", "second", "third")
    with transaction(connection(yard.path)) as conn:
        conn.execute("update workers set lease = lease - 60 where id = 'first'")
    yard.calls.heartbeat(Beat(worker="second", host="h", pid=1, engine="celery", version="1", alive=False))
    assert [(worker.name, worker.alive) for worker in yard.slots.workers("celery")] == [
        ("third", True),
        ("first", False),
    ]
    assert yard.slots.workers("background") == []


def test_a_worker_elsewhere_is_judged_by_its_lease_whatever_its_host_is_called(yard: Yard):
    yard.begin()
    yard.live("w")
    with transaction(connection(yard.path)) as conn:
        conn.execute("update workers set host = ?, pid = 999999999", (platform.node(),))
    call = yard.take(yard.supplied()[0])
    assert call and yard.calls.exchange(telling(call, limit=2)).items
    assert yard.ledger.rescue() == 0


def test_a_large_body_is_packed_and_read_and_nonsense_is_refused():
    body = b'{"worker": "w"}' * 1000
    raw, headers = packed(body)
    assert headers == {"Content-Encoding": "gzip"} and len(raw) < 1000
    assert unpacked(raw, "gzip") == body
    assert packed(b"small") == (b"small", {}) and unpacked(b"small", "") == b"small"
    for wrong in (b"no gzip", raw[:-20], gzip.compress(bytes(LEDGER_LIMIT + 1), 1)):
        with pytest.raises(ValueError, match=r"body is (not gzip|too large or cut off)"):
            unpacked(wrong, "gzip")
