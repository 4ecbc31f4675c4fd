"""The jobs table as workers and people use it, one sentence at a time: claims, fencing, rescue, actions,
migrations.
"""

import collections
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from conftest import until

from rowcast.jobs import Jobs, NotAllowed, NotFound
from rowcast.pages.job import sweep_line
from rowcast.pages.skeleton import to_html
from rowcast.tables import sweeps
from rowcast.tables.database import close_databases, connection, transaction
from rowcast.tables.ledger import Exchange, Ledger
from rowcast.tables.measures import spent_by
from rowcast.tables.rescue import HOST, LATELY
from rowcast.tables.schema import prepare
from rowcast.tables.turns import Turns
from rowcast.tasks import clock
from rowcast.tasks.clock import steady
from rowcast.tasks.records import ACTIONS, JOB_STATUSES, Job, Options, Swept, View, encode
from rowcast.tasks.registry import Task, task
from rowcast.tasks.work import ERROR_LENGTH, HOPELESS, SUSPECT, Chunk, Ended, Report, Result, Step

OWNER = "local"
SEGV = "The process running this died: SIGSEGV"


def work(item: str) -> None: ...


def loop() -> None: ...


WORK = task(name="ledger_work", concurrency=4)(work)
ONCE = task(name="ledger_once", idempotent=False)(work)
STAMPED = task(name="ledger_stamped", stamp="account_updated")(work)
LOOP = task(name="ledger_loop")(loop)
LOOP_ONCE = task(name="ledger_loop_once", idempotent=False)(loop)


class Book:
    """One database, seen by people (`jobs`) and by workers (`ledger`)."""

    def __init__(self, path: Path):
        self.path = str(path / "rowcast.db")
        prepare(self.path)
        self.jobs = Jobs(self.path)
        self.ledger = Ledger(self.path)

    @property
    def conn(self) -> Any:
        return connection(self.path)

    def begin(self, made: Task = WORK, items: int = 3, last: bool = True, **options: Any) -> int:
        """A running job with so many items, `item 0` and on."""
        job, _ = self.jobs.submit(made, {}, OWNER, "background", Options(**options))
        self.jobs.start(job.id)
        if made.shape == "items":
            self.jobs.add_items(job.id, Chunk.of([(f"item {n}", None) for n in range(items)], last))
        return job.id

    def live(self, worker: str, pid: int = 1, host: str = "elsewhere") -> None:
        self.ledger.heartbeat(worker, host, pid, "background", "1")

    def claim(self, job: int, worker: str = "one", limit: int = 100) -> list[int]:
        """Claim items; their numbers, in order of position."""
        return sorted(item.id for item in self.ledger.exchange(job, worker, Report(limit=limit)).items)

    def finish(
        self, job: int, items: list[int], status: str = "completed", worker: str = "one", **how: Any
    ) -> None:
        attempts = {item.id: item.attempt for item in self.jobs.items(job)}
        self.ledger.exchange(
            job, worker, Report([Result(item, attempts[item], status, **how) for item in items])
        )

    def job(self, job: int) -> Job:
        return self.jobs.job(job, OWNER)

    def statuses(self, job: int) -> str:
        return " ".join(item.status for item in self.jobs.items(job))


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    yield Book(tmp_path)
    close_databases()


# ---- what a person may do ----------------------------------------------------------------------------------


def in_status(book: Book, status: str) -> int:
    """A job in that status; all but a queued one have a failed and an unknown item."""
    job = book.begin(ONCE, 4)
    if status == "queued":
        return book.jobs.submit(ONCE, {}, OWNER, "background")[0].id
    first, _ = book.claim(job, limit=2)
    book.finish(job, [first], "failed", error="no")
    book.ledger.rescue("one")
    match status:
        case "paused":
            book.jobs.act(job, OWNER, "pause")
        case "completed":
            book.finish(job, book.claim(job))
        case "cancelled":
            book.jobs.act(job, OWNER, "cancel")
        case "failed":
            book.jobs.fail(job, "it could not run")
    return job


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("status", JOB_STATUSES)
def test_an_action_does_what_the_table_of_actions_says(book: Book, status: str, action: str):
    job = in_status(book, status)
    rule = ACTIONS[action]
    assert book.job(job).status == status
    if status in rule.leaves:
        assert book.jobs.act(job, OWNER, action).status == (rule.enters or status)
    else:
        before = book.jobs.seq()
        with pytest.raises(NotAllowed, match=f"Job {job} is {status}: it cannot be {rule.past}"):
            book.jobs.act(job, OWNER, action)
        assert book.jobs.seq() == before, "what was refused has changed nothing"


@pytest.mark.parametrize("action", ACTIONS)
def test_nobody_acts_on_a_job_of_another_owner(book: Book, action: str):
    job = book.begin()
    with pytest.raises(NotFound):
        book.jobs.act(job, "somebody else", action)
    assert book.job(job).status == "running"


@pytest.mark.parametrize("action", ["retry", "settle"])
def test_an_item_that_is_not_the_jobs_is_not_found(book: Book, action: str):
    job = in_status(book, "completed")
    other = in_status(book, "completed")
    with pytest.raises(NotFound, match="has no item"):
        book.jobs.act(job, OWNER, action, item=book.jobs.items(other)[0].id)


def test_a_retry_with_nothing_to_retry_is_refused_and_changes_nothing(book: Book):
    job = book.begin(items=1)
    book.finish(job, book.claim(job))
    with pytest.raises(NotAllowed, match="nothing to retry"):
        book.jobs.act(job, OWNER, "retry")
    assert book.job(job).status == "completed" and book.job(job).ended


def test_a_retry_of_a_job_that_could_not_run_takes_up_all_that_it_cancelled(book: Book):
    job = book.begin(items=3)
    book.finish(job, book.claim(job, limit=1))
    book.jobs.fail(job, "the disk of the API is on fire")
    assert book.statuses(job) == "completed cancelled cancelled"
    assert book.jobs.act(job, OWNER, "retry").reason == ""
    assert book.statuses(job) == "completed queued queued"


def test_a_job_that_failed_with_all_its_items_done_is_completed_by_a_retry(book: Book):
    job = book.begin(items=1, last=False)
    book.finish(job, book.claim(job))
    book.jobs.fail(job, "the source broke")
    book.jobs.act(job, OWNER, "retry")
    assert book.jobs.add_items(job, Chunk.of([], last=True), at=1)
    assert book.job(job).status == "completed"


def test_a_retry_gives_back_all_tries_and_forgets_the_crashes(book: Book):
    job = book.begin(items=1)
    book.claim(job)
    book.ledger.rescue("one")
    book.finish(job, book.claim(job), "failed", error="no")
    book.jobs.act(job, OWNER, "retry")
    (taken,) = book.ledger.exchange(job, "one", Report(limit=1)).items
    assert (taken.attempt, taken.spent, taken.crashes) == (3, 2, 0)


def test_the_time_between_an_end_and_a_retry_is_not_counted(book: Book):
    job = book.begin(items=4)
    book.finish(job, book.claim(job), "failed", error="no")
    book.conn.execute(
        "update jobs set started_at = started_at - 1000, finished_at = started_at - 990 where id = ?", (job,)
    )
    before = book.jobs.job(job, OWNER)
    assert 9 < before.elapsed < 11 and before.rate == pytest.approx(4 / before.elapsed)
    again = book.jobs.act(job, OWNER, "retry")
    assert 9 < again.elapsed < 60 and again.started_at == before.started_at
    assert spent_by(book.jobs.conn, job) is None
    book.finish(job, book.claim(job), "completed")
    over = book.jobs.job(job, OWNER)
    assert 9 < over.elapsed < 60 and over.rate == pytest.approx(4 / over.elapsed)
    assert spent_by(book.jobs.conn, job) == (over.finished_at, pytest.approx(over.elapsed))
    pictures = book.jobs.pictures(over)
    assert pictures and (pictures.began, pictures.end) == (over.began, over.finished_at)  # of the last run


@pytest.mark.parametrize("action", ["resume", "retry"])
def test_a_job_that_is_not_due_waits_on_when_it_is_taken_up_again(book: Book, action: str):
    job, _ = book.jobs.submit(WORK, {}, OWNER, "background", Options(run_at=time.time() + 900))
    book.jobs.act(job.id, OWNER, "pause" if action == "resume" else "cancel")
    again = book.jobs.act(job.id, OWNER, action)
    assert (again.status, again.started_at, again.ended) == ("queued", None, False)
    assert job.id not in [j.id for j in book.jobs.due()]


def test_retry_one_item_and_one_error_group_leave_the_others(book: Book):
    job = book.begin(items=4)
    a, b, c, d = book.claim(job)
    book.finish(job, [a, b], "failed", code=404, error="no account 17")
    book.finish(job, [c, d], "failed", code=500, error="broken")
    (group,) = [g for g in book.jobs.error_groups(job) if g.code == 404]
    book.jobs.act(job, OWNER, "retry", item=d)
    assert book.statuses(job) == "failed failed failed queued"
    book.jobs.act(job, OWNER, "retry", fingerprint=group.fingerprint)
    assert book.statuses(job) == "queued queued failed queued"
    assert [(g.code, g.items) for g in book.jobs.error_groups(job)] == [(500, 1)]


def test_an_error_group_says_when_it_was_last_seen_and_no_retry_changes_that(book: Book):
    job = book.begin(items=2)
    items = book.claim(job)
    book.finish(job, items, "failed", error="no")
    (before,) = book.jobs.error_groups(job)
    time.sleep(0.01)
    book.jobs.act(job, OWNER, "retry", item=items[0])
    (after,) = book.jobs.error_groups(job)
    assert (after.items, after.last_at) == (1, before.last_at)


def test_an_error_group_keeps_the_first_of_its_errors_as_it_was(book: Book):
    job = book.begin(items=2)
    for item, error in zip(book.claim(job), ("no \0 room for 17", "no \0 room for 23"), strict=True):
        book.finish(job, [item], "failed", error=error)
    (group,) = book.jobs.error_groups(job)
    assert (group.items, group.sample) == (2, "no \0 room for 17") and group.first_at <= group.last_at


# ---- many items, chunk by chunk ----------------------------------------------------------------------------


def few_at_once(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(sweeps, "CHUNK", chunk)


def failed_items(book: Book, items: int, made: Task = WORK, **options: Any) -> int:
    """A job whose items have all failed, or are unknown where they may not be repeated."""
    job = book.begin(made, items, **options)
    while claimed := book.claim(job):
        if made.idempotent:
            book.finish(job, claimed, "failed", error="no")
        else:
            book.ledger.rescue("one")
    return job


def sweep(book: Book, job: int) -> None:
    while book.jobs.sweep(job):
        pass
    assert book.jobs.unswept() == []


def test_what_is_cancelled_in_bulk_is_cancelled_in_chunks(book: Book, monkeypatch: pytest.MonkeyPatch):
    few_at_once(monkeypatch, 4)
    job = book.begin(items=10)
    book.claim(job, limit=1)
    cancelled = book.jobs.act(job, OWNER, "cancel")
    assert (cancelled.status, cancelled.cancelled, cancelled.queued) == ("cancelled", 5, 5)
    assert not cancelled.ended and book.jobs.unswept() == [job]
    assert [book.jobs.sweep(job) for _ in range(3)] == [True, True, False]
    assert (book.job(job).cancelled, book.job(job).ended) == (10, True)


def test_what_fails_in_bulk_is_swept_too(book: Book, monkeypatch: pytest.MonkeyPatch):
    few_at_once(monkeypatch, 4)
    job = book.begin(items=9)
    book.jobs.fail(job, "no")
    sweep(book, job)
    assert (book.job(job).status, book.job(job).cancelled, book.job(job).ended) == ("failed", 9, True)


def test_how_far_a_retry_of_many_items_is_only_rises(book: Book, monkeypatch: pytest.MonkeyPatch):
    few_at_once(monkeypatch, 3)
    job = book.begin(items=8)
    while claimed := book.claim(job, limit=1):
        book.finish(job, claimed, "failed", error="no" if book.job(job).failed < 5 else "never")
    fingerprint = next(one.fingerprint for one in book.jobs.error_groups(job) if one.items == 5)
    assert book.jobs.now(job, OWNER, 0).swept is None
    book.jobs.act(job, OWNER, "retry", fingerprint=fingerprint)
    assert book.jobs.now(job, OWNER, 0).swept == Swept("queued", 5, 3)
    assert book.jobs.look(job, OWNER, View()).swept == Swept("queued", 5, 3), "as the page has it"
    book.jobs.act(job, OWNER, "retry")
    said = [book.jobs.now(job, OWNER, 0).swept]
    while book.jobs.sweep(job):
        said.append(book.jobs.now(job, OWNER, 0).swept)
    told = [(one.done, one.total) for one in said if one]
    assert told == sorted(told) and len({total for _, total in told}) == 1, told
    assert said[-1] is None and book.job(job).queued == 8
    assert "3 of 5 items are queued again so far." in to_html(sweep_line(Swept("queued", 5, 3)))
    assert "hidden" in to_html(sweep_line(None))


def test_a_cancelled_job_does_not_fail_afterwards(book: Book, monkeypatch: pytest.MonkeyPatch):
    few_at_once(monkeypatch, 1)
    job = book.begin(items=3)
    book.jobs.act(job, OWNER, "cancel")
    book.jobs.fail(job, "too late")
    assert (book.job(job).status, book.job(job).reason) == ("cancelled", "")


def test_what_is_retried_in_bulk_is_queued_in_chunks_and_the_job_waits_for_all_of_them(
    book: Book, monkeypatch: pytest.MonkeyPatch
):
    job = failed_items(book, 10)
    few_at_once(monkeypatch, 4)
    retried = book.jobs.act(job, OWNER, "retry")
    assert (retried.status, retried.queued, retried.failed, retried.ended) == ("running", 4, 6, False)
    book.finish(job, book.claim(job))
    assert (book.job(job).status, book.job(job).eta) == ("running", None), "there is more to come"
    sweep(book, job)
    assert (book.job(job).queued, book.jobs.error_groups(job)) == (6, [])
    book.finish(job, book.claim(job))
    assert (book.job(job).status, book.job(job).completed) == ("completed", 10)


def test_the_end_of_a_retry_with_nothing_left_to_queue_is_the_jobs_end(
    book: Book, monkeypatch: pytest.MonkeyPatch
):
    job = failed_items(book, 4)
    few_at_once(monkeypatch, 4)
    book.jobs.act(job, OWNER, "retry")
    book.finish(job, book.claim(job))
    assert book.job(job).status == "running", "nobody has looked yet whether there is more"
    seq = book.jobs.seq()
    assert book.jobs.sweep(job)
    assert book.job(job).status == "completed" and book.job(job).seq > seq


def test_what_fails_again_while_a_retry_goes_on_is_not_retried_by_it(
    book: Book, monkeypatch: pytest.MonkeyPatch
):
    job = failed_items(book, 6)
    few_at_once(monkeypatch, 3)
    book.jobs.act(job, OWNER, "retry")
    book.finish(job, book.claim(job), "failed", error="again")
    sweep(book, job)
    assert book.statuses(job) == "failed failed failed queued queued queued"
    book.jobs.act(job, OWNER, "retry")
    sweep(book, job)
    assert book.statuses(job) == " ".join(["queued"] * 6)


def test_an_item_whose_turn_was_still_to_come_and_that_failed_again_is_not_retried_twice(
    book: Book, monkeypatch: pytest.MonkeyPatch
):
    job = failed_items(book, 4)
    few_at_once(monkeypatch, 2)
    book.jobs.act(job, OWNER, "retry")
    last = book.jobs.items(job)[-1].id
    book.jobs.act(job, OWNER, "retry", item=last)
    while last not in (claimed := book.claim(job, limit=1)):
        book.finish(job, claimed)
    book.finish(job, [last], "failed", error="again")
    sweep(book, job)
    assert book.jobs.items(job)[-1].status == "failed"


def test_a_retry_pressed_twice_takes_what_has_failed_until_the_second(
    book: Book, monkeypatch: pytest.MonkeyPatch
):
    job = failed_items(book, 6)
    few_at_once(monkeypatch, 2)
    for _ in range(3):
        book.jobs.act(job, OWNER, "retry")
        book.finish(job, book.claim(job), "failed", error="again")
    sweep(book, job)
    statuses = collections.Counter(item.status for item in book.jobs.items(job))
    assert statuses == {"queued": 4, "failed": 2}, "those that the third has queued at once have failed since"


def test_a_cancel_in_the_middle_of_a_retry_leaves_the_rest_failed(
    book: Book, monkeypatch: pytest.MonkeyPatch
):
    job = failed_items(book, 6)
    few_at_once(monkeypatch, 2)
    book.jobs.act(job, OWNER, "retry")
    book.jobs.act(job, OWNER, "cancel")
    sweep(book, job)
    assert book.statuses(job) == "cancelled cancelled failed failed failed failed"
    assert book.job(job).ended and [group.items for group in book.jobs.error_groups(job)] == [4]


def test_a_retry_of_one_error_group_and_then_of_all_takes_each_item_once(
    book: Book, monkeypatch: pytest.MonkeyPatch
):
    job = book.begin(items=6)
    items = book.claim(job)
    book.finish(job, items[::2], "failed", error="no")
    book.finish(job, items[1::2], "failed", error="never")
    few_at_once(monkeypatch, 1)
    book.jobs.act(job, OWNER, "retry", fingerprint="never")
    assert book.statuses(job) == "failed queued failed failed failed failed"
    book.jobs.act(job, OWNER, "retry")
    assert book.statuses(job) == "failed queued failed queued failed failed", "one after the other"
    sweep(book, job)
    assert (book.job(job).queued, book.jobs.error_groups(job)) == (6, [])
    assert [item.attempt for item in book.ledger.exchange(job, "one", Report(limit=9)).items] == [2] * 6


def test_what_is_settled_in_bulk_of_a_job_that_has_ended_leaves_its_end_as_it_is(
    book: Book, monkeypatch: pytest.MonkeyPatch
):
    job = failed_items(book, 5, ONCE)
    before = book.job(job)
    few_at_once(monkeypatch, 2)
    settled = book.jobs.act(job, OWNER, "settle")
    assert (settled.status, settled.completed, settled.ended) == ("completed", 2, False), "streams go on"
    sweep(book, job)
    after = book.job(job)
    assert (after.completed, after.unknown, after.ended) == (5, 0, True)
    assert (after.finished_at, after.elapsed) == (before.finished_at, before.elapsed)


@pytest.mark.parametrize("later", ["retry", "cancel"])
def test_what_was_settled_is_settled_whatever_is_asked_later(
    book: Book, monkeypatch: pytest.MonkeyPatch, later: str
):
    job = book.begin(ONCE, 6)
    book.claim(job, limit=5)
    book.ledger.rescue("one")
    few_at_once(monkeypatch, 2)
    book.jobs.act(job, OWNER, "settle")
    book.jobs.act(job, OWNER, later)
    sweep(book, job)
    last = "queued" if later == "retry" else "cancelled"
    assert book.statuses(job) == f"completed completed completed completed completed {last}"


def test_a_stop_rule_counts_no_failure_that_a_retry_has_still_to_queue(
    book: Book, monkeypatch: pytest.MonkeyPatch
):
    job = failed_items(book, 10, stop_after="30%")
    while book.job(job).failed < 10:
        book.jobs.act(job, OWNER, "resume")
        book.finish(job, book.claim(job), "failed", error="no")
    few_at_once(monkeypatch, 4)
    book.jobs.act(job, OWNER, "retry")
    items = book.claim(job)
    book.finish(job, items[:2], "failed", error="again")
    assert book.job(job).status == "running", "two of ten have failed since"
    sweep(book, job)
    book.finish(job, items[2:3], "failed", error="again")
    assert book.job(job).reason.startswith("Stopped by its rule"), "three have"


def test_a_paused_job_gives_nothing_and_takes_what_is_in_flight(book: Book):
    job = book.begin()
    items = book.claim(job, limit=1)
    book.jobs.act(job, OWNER, "pause")
    assert book.claim(job) == []
    book.finish(job, items)
    assert book.statuses(job) == "completed queued queued"


def test_a_cancel_refuses_what_comes_later(book: Book):
    job = book.begin()
    items = book.claim(job)
    book.jobs.act(job, OWNER, "cancel")
    book.finish(job, items)
    assert book.statuses(job) == "cancelled cancelled cancelled"


def test_a_job_whose_source_yields_nothing_is_completed(book: Book):
    assert book.job(book.begin(items=0)).status == "completed"


def test_a_job_that_was_filled_with_nothing_before_it_was_taken_up_is_completed_then(book: Book):
    job, _ = book.jobs.submit(WORK, {}, OWNER, "background")
    book.jobs.add_items(job.id, Chunk.of([], last=True))
    started = book.jobs.start(job.id)
    assert started and started.status == "completed"


# ---- claims ------------------------------------------------------------------------------------------------


def test_items_are_claimed_in_order_and_due_retries_before_them(book: Book):
    job = book.begin(items=4)
    first, second = book.claim(job, limit=2)
    book.finish(job, [first], "queued", run_at=steady() - 1)
    book.finish(job, [second], "queued", run_at=steady() - 2)
    claimed = [book.claim(job, limit=1)[0] for _ in range(4)]
    assert claimed[:2] == [second, first]
    assert claimed[2:] == [item.id for item in book.jobs.items(job)][2:]


def test_an_item_is_not_claimed_before_its_time_and_the_claim_says_how_long(book: Book):
    job = book.begin(items=1)
    book.finish(job, book.claim(job), "queued", run_at=steady() + 60)
    work = book.ledger.exchange(job, "one", Report(limit=1))
    assert work.items == [] and 50 < work.wait <= 60


def test_a_report_brings_the_next_items_within_what_is_allowed_after_it(book: Book):
    job = book.begin(items=9, concurrency=2)
    items = book.claim(job, limit=2)
    done = [Result(item, 1, "completed") for item in items[:1]]
    work = book.ledger.exchange(job, "one", Report(done, limit=5, in_flight=1))
    assert len(work.items) == 5, "one worker's queue is its own"
    others = book.ledger.exchange(job, "two", Report(limit=5))
    assert others.items == [], "another worker starts nothing above the concurrency"
    book.jobs.act(job, OWNER, "pause")
    assert (
        book.ledger.exchange(
            job, "one", Report([Result(items[1], 1, "completed")], limit=1, in_flight=5)
        ).items
        == []
    )


def test_a_report_brings_nothing_while_another_job_of_the_task_waits_for_its_first_item(book: Book):
    many = [book.begin(items=3, concurrency=1) for _ in range(2)]
    items = book.claim(many[0], limit=1)
    assert (
        book.ledger.exchange(many[0], "one", Report([Result(items[0], 1, "completed")], limit=1)).items == []
    )
    assert len(book.claim(many[1], "two", limit=1)) == 1


def test_a_claim_counts_the_try_and_names_the_holder(book: Book):
    job = book.begin(items=1)
    (taken,) = book.ledger.exchange(job, "one", Report(limit=1)).items
    assert (taken.key, taken.attempt) == ("item 0", 1)
    assert book.ledger.look(job, "one").mine == [taken.id]
    assert book.ledger.look(job, "two").mine == []


def test_two_connections_that_claim_at_once_never_get_the_same_item(book: Book):
    job = book.begin(task(name="ledger_wide", concurrency=1000)(work), 600)
    claimed: dict[str, list[int]] = collections.defaultdict(list)
    ready = threading.Barrier(4)

    def claim(worker: str) -> None:
        connection(book.path)
        ready.wait()
        while len(claimed[worker]) < 150:  # each its part, so that the first to come does not take all
            asked = Report(limit=5, in_flight=len(claimed[worker]))
            claimed[worker] += [item.id for item in Ledger(book.path).exchange(job, worker, asked).items]
        close_databases()

    threads = [threading.Thread(target=claim, args=(f"worker {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = [item for items in claimed.values() for item in items]
    assert len(every) == len(set(every)) == 600


@pytest.mark.parametrize(
    ("worker", "attempt"),
    [("two", 1), ("one", 0), ("one", 2)],
    ids=["another worker", "an older try", "a try to come"],
)
def test_a_result_counts_only_for_the_worker_and_the_try_that_hold_the_item(
    book: Book, worker: str, attempt: int
):
    job = book.begin(items=1)
    (item,) = book.claim(job)
    book.ledger.exchange(job, worker, Report([Result(item, attempt, "completed")]))
    assert book.statuses(job) == "running"


def test_a_result_counts_for_its_own_job_only(book: Book):
    job = book.begin(items=1)
    other = book.begin(items=1)
    (item,) = book.claim(job)
    book.ledger.exchange(other, "one", Report([Result(item, 1, "completed")]))
    assert (book.statuses(job), book.job(other).completed) == ("running", 0)


def test_a_result_of_a_try_that_was_given_up_is_refused(book: Book):
    job = book.begin(items=1)
    book.claim(job, "one")
    book.ledger.rescue("one")
    book.claim(job, "two")
    book.finish(job, [book.jobs.items(job)[0].id], "failed", "one", error="late")
    assert book.statuses(job) == "running"
    book.finish(job, [book.jobs.items(job)[0].id], "completed", "two")
    assert book.statuses(job) == "completed"


def test_what_was_given_back_unstarted_has_not_used_a_try(book: Book):
    job = book.begin(items=1)
    book.finish(job, book.claim(job), "queued")
    (taken,) = book.ledger.exchange(job, "one", Report(limit=1)).items
    assert taken.attempt - taken.spent == 1


def test_a_finish_for_a_job_that_is_gone_says_so(book: Book):
    assert book.ledger.exchange(4711, "one", Report([Result(1, 1, "completed")])).status == "cancelled"


def test_the_stamp_is_written_with_the_result(book: Book):
    book.conn.execute("insert into users (email) values ('item 0'), ('item 1'), ('item 2')")
    job = book.begin(STAMPED)
    first, *_ = items = book.claim(job)
    book.finish(job, [first])
    book.finish(job, items[1:], "failed", error="no")
    stamps = book.conn.execute("select account_updated from users order by email").fetchall()
    assert abs(stamps[0][0] - time.time()) < 60 and stamps[1:] == [(None,), (None,)]


def test_a_column_that_the_users_do_not_have_is_not_stamped(book: Book):
    book.conn.execute("alter table users drop column account_updated")
    job = book.begin(STAMPED)
    book.finish(job, book.claim(job))
    assert book.job(job).status == "completed"


# ---- the writing of a job's items --------------------------------------------------------------------------


def test_one_worker_at_a_time_writes_a_jobs_items(book: Book):
    job = book.begin(items=2, last=False)
    assert book.ledger.take_fill(job, "one") == 2
    assert book.ledger.take_fill(job, "two") is None
    book.ledger.rescue("one")
    assert book.ledger.take_fill(job, "two") == 2


def test_many_jobs_are_taken_up_at_once_each_as_it_is(book: Book):
    kinds = ("queued", "running", "paused", "cancelled", "completed")
    jobs = [0, *(in_status(book, status) for status in kinds)]
    held = book.jobs.submit(WORK, {}, OWNER, "background")[0].id
    book.ledger.take_fill(held, "another")
    jobs.append(held)
    assert book.ledger.take_fills("one", jobs) == [None, 0, None, None, None, None, None]
    started = book.ledger.start_all("one", jobs)
    assert started[0] is None
    assert [job.id for job in started if job] == jobs[1:]
    assert [job.status for job in started if job] == ["running", *kinds[1:], "running"]
    assert started[1] and started[1].started_at and started[1].news == 0


def test_many_small_claims_get_what_each_would_have_got_alone(book: Book):
    jobs = [book.begin(items=5, concurrency=100)]
    first, second = book.claim(jobs[0], limit=2)
    book.finish(jobs[0], [second], "queued", run_at=clock.told(clock.now() + 0.01))
    book.finish(jobs[0], [first], "queued", run_at=clock.told(clock.now() + 100))
    jobs += [book.begin(items=5, concurrency=100) for _ in range(3)]
    until(lambda: clock.now() > book.jobs.items(jobs[0])[1].run_at)
    asked = [Exchange(job, f"worker {n}", Report(limit=n)) for n, job in enumerate(jobs, 1)]
    works = book.ledger.exchange_all(asked)
    given = [[(item.id - first, item.attempt) for item in work.items] for work in works]
    assert given == [[(1, 2)], [(5, 1), (6, 1)], [(10, 1), (11, 1), (12, 1)], [(n, 1) for n in range(15, 19)]]
    assert [book.job(job).queued for job in jobs] == [4, 3, 2, 1]
    holders = book.conn.execute(
        "select job, worker, count(*) from items where status = 'running' group by 1, 2"
    )
    assert holders.fetchall() == [(job, f"worker {n}", n) for n, job in enumerate(jobs, 1)]
    assert len({seq for (seq,) in book.conn.execute("select seq from items")}) == 20


def test_items_are_written_where_the_writer_believes_the_end_to_be_or_not_at_all(book: Book):
    job = book.begin(items=2, last=False)
    assert not book.jobs.add_items(job, Chunk.of([("late", None)]), at=1)
    assert book.jobs.add_items(job, Chunk.of([("next", None)], last=True), at=2)
    assert not book.jobs.add_items(job, Chunk.of([("after the end", None)]))
    assert [item.key for item in book.jobs.items(job)] == ["item 0", "item 1", "next"]


def test_a_cancelled_job_is_not_filled_any_more_and_a_retry_fills_it_on(book: Book):
    job = book.begin(items=2, last=False)
    book.jobs.act(job, OWNER, "cancel")
    assert not book.jobs.add_items(job, Chunk.of([("more", None)]), at=2)
    assert book.ledger.take_fill(job, "one") is None
    book.jobs.act(job, OWNER, "retry")
    assert book.ledger.take_fill(job, "one") == 2
    assert book.jobs.add_items(job, Chunk.of([("more", None)], last=True), at=2)
    assert book.statuses(job) == "queued queued queued"


def test_a_source_that_kills_its_worker_again_and_again_fails_its_job(book: Book):
    job = book.begin(items=0, last=False)
    other = book.begin()
    for _ in range(HOPELESS // SUSPECT):
        assert book.job(job).status == "running"
        book.ledger.take_fill(job, "one")
        book.claim(other, limit=1)
        book.ledger.rescue("one", SEGV)
    assert book.job(job).status == "failed" and "SIGSEGV" in book.job(job).reason
    assert book.job(other).status == "running"


def test_a_source_that_alone_can_have_killed_its_worker_fails_its_job_at_once(book: Book):
    job = book.begin(items=0, last=False)
    book.ledger.take_fill(job, "one")
    book.ledger.rescue("one", SEGV)
    assert book.job(job).status == "failed"


# ---- what a dead worker held -------------------------------------------------------------------------------


def test_items_of_a_worker_whose_lease_ran_out_are_queued_again(book: Book):
    job = book.begin()
    book.live("one")
    book.claim(job)
    assert book.ledger.rescue() == 0
    book.conn.execute("update workers set lease = unixepoch() - 1")
    assert book.ledger.rescue() == 3
    assert book.statuses(job) == "queued queued queued"


def test_a_heartbeat_moves_the_lease_on(book: Book):
    job = book.begin()
    book.live("one")
    book.claim(job)
    book.conn.execute("update workers set lease = unixepoch() - 1")
    book.live("one")
    assert book.ledger.rescue() == 0


def test_items_of_a_worker_that_leaves_are_taken_back_at_the_next_rescue(book: Book):
    job = book.begin()
    book.live("one")
    book.claim(job)
    book.ledger.heartbeat("one", "elsewhere", 1, "background", "1", alive=False)
    assert book.ledger.rescue() == 3


def test_a_worker_of_this_machine_is_dead_when_its_process_is(book: Book):
    job = book.begin()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    book.live("one", process.pid, HOST)
    book.live("two", process.pid, "elsewhere")
    book.claim(job, "one", 1)
    book.claim(job, "two", 1)
    assert book.ledger.rescue() == 0
    process.communicate()
    assert book.ledger.rescue() == 1
    assert book.statuses(job) == "queued running queued"


def test_the_worker_that_asks_is_alive(book: Book):
    job = book.begin()
    book.claim(job)
    assert book.ledger.rescue(me="one") == 0
    assert book.ledger.rescue(me="two") == 3


def test_what_may_not_be_repeated_becomes_unknown(book: Book):
    job = book.begin(ONCE, 1)
    book.claim(job)
    book.ledger.rescue("one")
    (item,) = book.jobs.items(job)
    assert (item.status, item.error) == (
        "unknown",
        "The worker died while this ran; it may or may not have arrived.",
    )
    assert book.job(job).status == "completed"


def test_an_item_that_its_worker_held_alone_is_what_killed_it(book: Book):
    job = book.begin(items=1)
    book.claim(job)
    book.ledger.rescue("one", SEGV)
    (item,) = book.jobs.items(job)
    assert (item.status, item.error, book.job(job).status) == ("failed", SEGV, "failed")
    assert [(g.message, g.items) for g in book.jobs.error_groups(job)] == [(SEGV, 1)]


@pytest.mark.parametrize("made", [ONCE, LOOP_ONCE])
def test_what_killed_its_worker_and_may_not_be_repeated_is_unknown(book: Book, made: Task):
    job = book.begin(made, items=1)
    take(book, job) if made is LOOP_ONCE else book.claim(job)
    book.ledger.rescue("one", SEGV)
    (item,) = book.jobs.items(job)
    assert (item.status, item.error) == ("unknown", f"{SEGV}; it may or may not have arrived.")
    assert book.job(job).status == "completed"


def test_what_was_alone_when_another_job_had_just_been_cancelled_is_tried_apart(book: Book):
    """A cancelled item may still run for a moment, and be what ends the worker: nobody else's is blamed for it."""
    cancelled = book.begin(items=1)
    source = book.begin(items=0, last=False)
    items = book.begin(items=1)
    book.claim(cancelled)
    book.jobs.act(cancelled, OWNER, "cancel")
    book.ledger.take_fill(source, "one")
    book.ledger.rescue("one", SEGV)
    assert book.job(source).status == "running" and not book.job(source).reason
    book.claim(items)
    book.ledger.rescue("one", SEGV)
    assert book.statuses(items) == "queued"
    assert [item.crashes for item in book.ledger.exchange(items, "two", Report(limit=9)).items] == [SUSPECT]
    book.conn.execute("update jobs set finished_at = finished_at - ?", (LATELY,))
    book.ledger.take_fill(source, "one")
    book.ledger.rescue("one", SEGV)
    assert book.job(source).status == "failed"


def test_what_was_alone_beside_a_leftover_of_its_worker_is_tried_apart(book: Book):
    """As long as that goes on: a report tells of it with the result of its try, a heartbeat of its end."""
    late = book.begin(items=1)
    other = book.begin(items=2)
    book.ledger.heartbeat("one", "elsewhere", 1, "background", "1")
    book.claim(late)
    book.claim(other, limit=1)
    item = book.jobs.items(late)[0]
    book.ledger.exchange(late, "one", Report([Result(item.id, 1, "unknown")], leftovers=1))
    book.ledger.rescue("one", SEGV)
    assert book.statuses(other) == "queued queued"
    book.claim(other, limit=1)
    book.ledger.heartbeat("one", "elsewhere", 1, "background", "1", leftovers=lambda: 0)
    book.ledger.rescue("one", SEGV)
    assert book.statuses(other) == "failed queued"


def test_of_several_items_each_is_a_suspect(book: Book):
    job = book.begin(items=2)
    book.claim(job)
    book.ledger.rescue("one", SEGV)
    assert [item.crashes for item in book.ledger.exchange(job, "two", Report(limit=9)).items] == [
        SUSPECT,
        SUSPECT,
    ]


def test_a_worker_that_was_killed_from_outside_makes_a_suspect_of_nothing_yet(book: Book):
    job = book.begin(items=1)
    for n in range(3):
        (taken,) = book.ledger.exchange(job, "one", Report(limit=9)).items
        assert taken.crashes == n < SUSPECT
        book.ledger.rescue("one")


def test_a_worker_that_leaves_in_good_order_makes_a_suspect_of_nothing(book: Book):
    job = book.begin(items=1)
    book.live("one")
    book.claim(job)
    book.ledger.leave("one")
    (taken,) = book.ledger.exchange(job, "two", Report(limit=9)).items
    assert taken.crashes == 0


def test_a_rescue_may_end_a_canary_and_hit_a_stop_rule(book: Book):
    canary = book.begin(ONCE, 3, canary=1)
    book.claim(canary)
    book.ledger.rescue("one")
    assert book.job(canary).reason.startswith("The canary is over")
    rule = book.begin(items=3, stop_after="1")
    book.claim(rule, limit=1)
    book.ledger.rescue("one", SEGV)
    assert book.job(rule).reason.startswith("Stopped by its rule (1 failures in a row)")


# ---- a task that is called once ----------------------------------------------------------------------------


@pytest.mark.parametrize(("idempotent", "in_flight"), [(True, "cancelled"), (False, "unknown")])
def test_what_had_not_begun_when_its_job_was_cancelled_is_just_cancelled(
    book: Book, idempotent: bool, in_flight: str
):
    job = book.begin(task(name=f"cancels_{idempotent}", idempotent=idempotent)(work), items=4)
    taken = book.ledger.exchange(job, "one", Report(limit=3)).items
    book.jobs.act(job, OWNER, "cancel")
    assert book.statuses(job) == f"{in_flight} {in_flight} {in_flight} cancelled"
    said = [
        Result(taken[0].id, taken[0].attempt, "queued"),
        Result(taken[1].id, taken[1].attempt, "queued", begun=False),
        Result(taken[2].id, taken[2].attempt + 1, "queued", begun=False),  # not its attempt
    ]
    book.ledger.exchange(job, "one", Report(said))
    assert book.statuses(job) == f"{in_flight} cancelled {in_flight} cancelled"
    errors = [item.error for item in book.jobs.items(job)]
    assert errors[1] is None and errors[3] is None
    assert all(str(error).startswith("Cancelled while this ran") for error in (errors[0], errors[2]))
    now = book.job(job)
    assert (now.cancelled, now.unknown) == ((4, 0) if idempotent else (2, 2))


def take(book: Book, job: int, worker: str = "one") -> list[int] | None:
    """Take up a body job; the positions of the steps that are completed."""
    held = book.ledger.take_body(job, worker)
    return None if held is None else [step.position for step in held if step.status == "completed"]


def test_one_worker_at_a_time_calls_a_task_that_is_called_once(book: Book):
    job = book.begin(LOOP)
    assert take(book, job) == []
    seq = book.jobs.seq()
    assert take(book, job, "two") is None
    assert book.jobs.seq() == seq, "asking in vain moves nothing"
    book.ledger.rescue("one")
    assert take(book, job, "two") == []


def test_whoever_has_lost_a_body_is_told_that_it_is_cancelled(book: Book):
    job = book.begin(LOOP)
    take(book, job)
    assert book.ledger.look(job, "one").status == "running"
    book.ledger.rescue("one")
    take(book, job, "two")
    assert book.ledger.look(job, "one").status == "cancelled"
    assert (
        book.ledger.exchange(job, "one", Report(steps=[Step(0, "mine", "completed")])).status == "cancelled"
    )
    assert book.statuses(job) == "running"


def test_steps_are_items_and_what_was_never_reached_is_cancelled(book: Book):
    job = book.begin(LOOP)
    take(book, job)
    steps = [Step(0, "a", "completed"), Step(1, "b", "running"), Step(2, "c", "queued")]
    book.ledger.exchange(job, "one", Report(steps=steps))
    book.ledger.exchange(job, "one", Report(ended=Ended("it broke")))
    found = [(item.key, item.status, item.error) for item in book.jobs.items(job)]
    assert found == [("a", "completed", None), ("b", "failed", "it broke"), ("c", "cancelled", "not reached")]
    assert (book.job(job).status, book.job(job).total, book.job(job).failed) == ("failed", 3, 1)


def test_a_body_whose_worker_died_goes_on_behind_its_completed_steps(book: Book):
    job = book.begin(LOOP)
    take(book, job)
    book.ledger.exchange(job, "one", Report(steps=[Step(0, "a", "completed"), Step(1, "b", "running")]))
    book.ledger.rescue("one")
    assert book.statuses(job) == "completed queued"
    assert take(book, job, "two") == [0]


def test_a_body_that_may_not_be_repeated_ends_with_its_open_step_unknown(book: Book):
    job = book.begin(LOOP_ONCE)
    take(book, job)
    steps = [Step(0, "a", "completed"), Step(1, "b", "running"), Step(2, "c", "queued")]
    book.ledger.exchange(job, "one", Report(steps=steps))
    book.ledger.rescue("one")
    assert (book.statuses(job), book.job(job).status) == ("completed unknown cancelled", "completed")


def test_a_body_that_alone_can_have_killed_its_worker_has_failed(book: Book):
    job = book.begin(LOOP)
    take(book, job)
    book.ledger.rescue("one", SEGV)
    assert (book.statuses(job), book.jobs.items(job)[0].error) == ("failed", SEGV)
    assert book.job(job).status == "failed"


def test_a_body_that_kills_its_worker_again_and_again_has_failed(book: Book):
    job = book.begin(LOOP)
    other = book.begin()
    for _ in range(HOPELESS // SUSPECT):
        assert book.job(job).status == "running"
        take(book, job)
        book.claim(other, limit=1)
        book.ledger.rescue("one", SEGV)
    assert (book.statuses(job), book.job(job).status) == ("failed", "failed")
    assert take(book, job) is None


def test_a_body_that_dies_between_two_steps_fails_the_job(book: Book):
    job = book.begin(LOOP)
    take(book, job)
    book.ledger.exchange(job, "one", Report(steps=[Step(0, "a", "completed")]))
    book.ledger.rescue("one", SEGV)
    assert (book.job(job).status, book.job(job).reason) == ("failed", f"{SEGV}.")
    assert book.jobs.act(job, OWNER, "retry").status == "running"


def test_a_failed_step_that_runs_again_leaves_its_error_group(book: Book):
    job = book.begin(LOOP)
    take(book, job)
    book.ledger.exchange(job, "one", Report(steps=[Step(0, "a", "failed", "no"), Step(1, "b", "running")]))
    book.ledger.exchange(job, "one", Report(ended=Ended("no")))
    assert [g.items for g in book.jobs.error_groups(job)] == [2]
    book.jobs.act(job, OWNER, "retry", item=book.jobs.items(job)[1].id)
    take(book, job)
    assert (book.statuses(job), book.jobs.error_groups(job)) == ("running queued", [])


def test_what_a_body_never_reached_is_cancelled_in_chunks_and_the_job_has_its_end_then(
    book: Book, monkeypatch: pytest.MonkeyPatch
):
    few_at_once(monkeypatch, 2)
    job = book.begin(LOOP)
    take(book, job)
    steps = [Step(0, "a", "running"), *(Step(n, str(n), "queued") for n in range(1, 6))]
    book.ledger.exchange(job, "one", Report(steps=steps))
    book.ledger.exchange(job, "one", Report(ended=Ended("it broke")))
    over = book.job(job)
    assert (over.status, over.queued, over.worker, over.ended) == ("failed", 3, None, False)
    sweep(book, job)
    assert book.statuses(job) == "failed cancelled cancelled cancelled cancelled cancelled"
    assert {item.error for item in book.jobs.items(job)[1:]} == {"not reached"}
    assert book.job(job).ended


def test_a_body_is_called_again_when_all_its_steps_are_queued_again(
    book: Book, monkeypatch: pytest.MonkeyPatch
):
    job = book.begin(LOOP)
    take(book, job)
    steps = [
        Step(0, "a", "completed"), Step(1, "b", "running"), *(Step(n, str(n), "queued") for n in range(2, 7)),
    ]  # fmt: skip
    book.ledger.exchange(job, "one", Report(steps=steps))
    book.ledger.exchange(job, "one", Report(ended=Ended("it broke")))
    few_at_once(monkeypatch, 2)
    assert book.jobs.act(job, OWNER, "retry").queued == 2
    assert take(book, job) is None, "what it reports would be queued again"
    sweep(book, job)
    assert book.statuses(job) == "completed queued queued queued queued queued queued"
    assert take(book, job) == [0]
    assert book.job(job).finished_at is None


@pytest.mark.parametrize("end", ["cancel", "fail"])
def test_what_runs_and_may_not_be_repeated_is_unknown_when_its_job_is_broken_off(book: Book, end: str):
    job = book.begin(ONCE, 3)
    (item,) = book.claim(job, limit=1)
    if end == "cancel":
        book.jobs.act(job, OWNER, "cancel")
    else:
        book.jobs.fail(job, "it could not go on")
    assert book.statuses(job) == "unknown cancelled cancelled"
    assert "may or may not have arrived" in (book.jobs.items(job)[0].error or "")
    book.finish(job, [item])
    assert book.statuses(job) == "unknown cancelled cancelled"
    book.jobs.act(job, OWNER, "settle", item)
    assert book.statuses(job) == "completed cancelled cancelled"


def test_a_step_that_is_reported_twice_counts_once(book: Book):
    job = book.begin(LOOP)
    book.ledger.take_body(job, "one")
    for _ in range(2):
        book.ledger.exchange(
            job, "one", Report(steps=[Step(0, "a", "completed"), Step(1, "b", "failed", "no")])
        )
    assert [item.attempt for item in book.jobs.items(job)] == [1, 1]
    assert book.conn.execute("select sum(items) from throughput where job = ?", (job,)).fetchone() == (2,)
    assert [group.items for group in book.jobs.error_groups(job)] == [1]


def test_a_body_is_retried_only_when_it_has_ended(book: Book):
    job = book.begin(LOOP)
    take(book, job)
    book.ledger.exchange(job, "one", Report(steps=[Step(0, "a", "failed", "no"), Step(1, "b", "running")]))
    with pytest.raises(NotAllowed, match="can be retried when it has ended"):
        book.jobs.act(job, OWNER, "retry")


# ---- the machine's troubles --------------------------------------------------------------------------------


def test_a_blocked_job_shows_as_paused_and_goes_on_also_without_its_worker(book: Book):
    job = book.begin()
    waiting = book.begin()
    mine = book.begin()
    book.jobs.act(mine, OWNER, "pause")
    for blocked in (job, waiting):
        book.ledger.block(blocked, "The disk is full.")
    book.ledger.unblock("The disk is full.", but={waiting})
    assert [book.job(j).status for j in (job, waiting, mine)] == ["running", "paused", "paused"]


# ---- changes -----------------------------------------------------------------------------------------------


def test_changes_of_more_jobs_than_are_given_at_once_are_all_given(book: Book):
    started = [book.begin(items=2) for _ in range(6)]
    for job in reversed(started):  # so that a job's items and its own row are far apart
        book.claim(job, limit=1)
    seen = []
    after = 0
    more = True
    while more:
        page = book.jobs.changes(OWNER, after, limit=2)
        seen += [row.seq for row in (*page.jobs, *page.items)]
        after = page.cursor
        more = page.more
    assert sorted(seen) == sorted(
        seq for (seq,) in book.conn.execute("select seq from jobs union all select seq from items").fetchall()
    )


def test_changes_are_the_owners_own(book: Book):
    book.begin()
    assert book.jobs.changes("somebody else", 0).jobs == []


# ---- two processes -----------------------------------------------------------------------------------------


def test_a_database_that_somebody_holds_is_waited_for_also_while_it_is_opened(book: Book):
    job = book.begin(items=600)
    taken = []

    def claim_on_a_connection_of_its_own() -> None:
        taken.extend(book.claim(job, limit=4))
        close_databases()

    thread = threading.Thread(target=claim_on_a_connection_of_its_own)
    with transaction(book.conn):
        thread.start()
        time.sleep(0.5)
    thread.join()
    assert len(taken) == 4


def test_the_threads_of_a_process_take_turns_each_database_for_itself(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = str(tmp_path / "other.db")
    said = []
    opened = threading.Event()
    held = threading.Event()
    prepare(other)

    def write() -> None:
        for path in (book.path, other):
            connection(path)  # to open one takes a look at the file
        opened.set()
        held.wait()
        for path in (book.path, other):
            try:
                with transaction(connection(path)):
                    said.append("written")
            except apsw.BusyError as error:
                said.append(str(error))
        close_databases()

    thread = threading.Thread(target=write)
    thread.start()
    opened.wait()
    monkeypatch.setattr("rowcast.tables.database.BUSY_MS", 50)
    with transaction(book.conn):
        held.set()
        thread.join()
        with pytest.raises(RuntimeError, match="under way"), transaction(book.conn):
            pass
    assert said == ["another thread writes", "written"]
    assert book.claim(book.begin())


def test_a_thread_that_writes_again_and_again_lets_those_who_wait_go_first():
    turns = Turns()
    order = list[str]()
    assert turns.take(1)

    def write(name: str) -> None:
        assert turns.take(60)
        order.append(name)
        turns.pass_on()

    threads = [threading.Thread(target=write, args=(name,)) for name in ("first", "second")]
    for number, thread in enumerate(threads, 1):
        thread.start()
        until(lambda n=number: len(turns.waiting) == n)
    turns.pass_on()
    write("the busy one")
    for thread in threads:
        thread.join()
    assert order == ["first", "second", "the busy one"]
    assert turns.take(0) and not turns.take(0.01) and not turns.waiting


def test_who_is_interrupted_while_waiting_to_write_takes_no_turn(monkeypatch: pytest.MonkeyPatch):
    class Interrupted:
        def __init__(self) -> None:
            self.lock = real()

        def acquire(self, timeout: float = -1) -> bool:
            if timeout != -1:
                raise KeyboardInterrupt
            return self.lock.acquire()

        def release(self) -> None:
            self.lock.release()

    turns = Turns()
    real = threading.Lock
    assert turns.take(1)
    monkeypatch.setattr("rowcast.tables.turns.threading.Lock", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        turns.take(1)
    turns.pass_on()
    assert turns.take(0)


def test_long_errors_that_differ_behind_what_is_kept_of_them_are_one_group(book: Book):
    job = book.begin()
    for item in book.claim(job):
        book.finish(
            job,
            [item],
            "failed",
            error=f"ValueError: unknown: {' '.join(str(uuid.uuid4()) for _ in range(20))}",
        )
    (group,) = book.jobs.error_groups(job)
    assert group.items == 3
    assert [len(item.error or "") for item in book.jobs.items(job)] == [ERROR_LENGTH] * 3


def test_items_too_large_for_one_text_are_claimed_one_by_one(book: Book):
    job = book.begin(items=0, last=False)
    payloads = [encode({"n": n, "note": "x" * 50_000}).decode() for n in range(8)]
    for payload in payloads:
        book.jobs.add_items(job, Chunk.of([("a", payload)]))
    before = book.conn.limit(apsw.SQLITE_LIMIT_LENGTH, 200_000)
    try:
        assert [item.payload for item in book.ledger.exchange(job, "one", Report(limit=8)).items] == payloads
    finally:
        book.conn.limit(apsw.SQLITE_LIMIT_LENGTH, before)


def test_a_fork_in_the_middle_of_a_transaction_may_write_to_a_database_of_its_own(book: Book, tmp_path: Path):
    code = f"""
import os, threading
from rowcast.tables import database
from rowcast.tables.database import connection, create, transaction
create({str(tmp_path / "own.db")!r})
database.BUSY_MS = 2000
inside, over = threading.Event(), threading.Event()
def hold():
    with transaction(connection({book.path!r})):
        inside.set()
        over.wait()
thread = threading.Thread(target=hold)
thread.start()
inside.wait()
child = os.fork()
if not child:
    try:
        with transaction(connection({str(tmp_path / "own.db")!r})):
            os._exit(0)
    except BaseException as error:
        print(error, flush=True)
        os._exit(1)
over.set()
thread.join()
print(os.waitpid(child, 0)[1])
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "0\n", (done.stdout, done.stderr)


def test_a_process_that_dies_in_the_middle_of_a_transaction_has_changed_nothing(book: Book):
    job = book.begin()
    code = f"""
import os, sys
from rowcast.tables.database import connection, transaction
from rowcast.tables.ledger import Ledger
with transaction(connection({book.path!r})) as conn:
    conn.execute("update items set status = 'completed'")
    print("inside", flush=True)
    input()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"inside\n"
    os.kill(process.pid, 9)
    process.communicate()
    until(lambda: book.statuses(job) == "queued queued queued")
    assert len(book.claim(job)) == 3
