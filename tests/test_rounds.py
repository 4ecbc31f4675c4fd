"""A round: what waits of all jobs of a worker is one transaction, each job has its own answer, and none suffers for another."""

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from place import OWNER, seen

from rowcast.engines import local
from rowcast.engines.local import LocalLedger, fitting, rows_in
from rowcast.jobs import Jobs
from rowcast.tables.database import close_databases, connection, current_seq, together
from rowcast.tables.ledger import Exchange, Ledger
from rowcast.tables.schema import prepare
from rowcast.tasks import clock
from rowcast.tasks.concurrency import Found
from rowcast.tasks.groups import MOST_GROUPS
from rowcast.tasks.notify import Notify
from rowcast.tasks.records import Options
from rowcast.tasks.registry import Task, task
from rowcast.tasks.work import CHUNK, Chunk, Ended, Report, Result, Step, Work
from rowcast.worker.clients import Clients
from rowcast.worker.context import Context
from rowcast.worker.runner import run


async def work(item: str) -> None: ...


WIDE = task(name="rounds_wide", concurrency=100)(work)
OTHER = task(name="rounds_other", concurrency=100)(work)
BROAD = task(name="rounds_broad", concurrency=1_000)(work)
SINGLE = task(name="rounds_single", concurrency=1)(work)
NARROW = task(name="rounds_narrow", concurrency=2)(work)
PACED = task(name="rounds_paced", concurrency=100, rate="40/s")(work)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "rowcast.db")
    prepare(path)
    yield path
    close_databases()


def running(path: str, made: Task, items: int, **options: Any) -> int:
    jobs = Jobs(path)
    job, _ = jobs.submit(made, {}, OWNER, "background", Options(**options))
    jobs.start(job.id)
    jobs.add_items(job.id, Chunk.of([(f"item {n}", None) for n in range(items)], last=True))
    return job.id


def all_done(work: Work, status: str = "completed") -> list[Result]:
    return [Result(item.id, item.attempt, status, ms=3.0) for item in work.items]


def counts(path: str) -> list[tuple[Any, ...]]:
    sql = "select status, total, queued, running, completed, failed, cancelled, unknown from jobs order by id"
    return connection(path).execute(sql).fetchall()


def commits(conn: Any, of: Any) -> int:
    """In how many transactions that was done."""
    seen = list[str]()
    conn.set_commit_hook(lambda: bool(seen.append("")))
    of()
    conn.set_commit_hook(None)
    return len(seen)


def test_what_many_jobs_tell_and_ask_for_is_one_transaction(path: str):
    ledger = Ledger(path)
    jobs = [running(path, made, 4) for made in (WIDE, WIDE, OTHER)]
    first = ledger.exchange_all([Exchange(job, "one", Report(limit=3)) for job in jobs])
    assert [len(work.items) for work in first] == [3, 3, 3]
    told = [
        Exchange(job, "one", Report(all_done(work), limit=9)) for job, work in zip(jobs, first, strict=True)
    ]
    second: list[Any] = []
    assert commits(ledger.conn, lambda: second.extend(ledger.exchange_all(told))) == 1
    assert [len(work.items) for work in second] == [1, 1, 1]
    assert counts(path) == [("running", 4, 0, 1, 3, 0, 0, 0)] * 3
    last = [Exchange(job, "one", Report(all_done(work))) for job, work in zip(jobs, second, strict=True)]
    assert commits(ledger.conn, lambda: ledger.exchange_all(last)) == 1
    assert counts(path) == [("completed", 4, 0, 0, 4, 0, 0, 0)] * 3
    kept = "select sum(items), sum(tries) from throughput group by job"
    assert connection(path).execute(kept).fetchall() == [(4, 4)] * 3
    seqs = connection(path).execute("select count(distinct seq), count(*) from items").fetchall()
    assert seqs == [(12, 12)]


def test_workers_that_claim_of_one_job_in_the_same_moment_get_items_of_their_own(path: str):
    ledger = Ledger(path)
    job = running(path, WIDE, 80)
    other = running(path, OTHER, 9)
    asked = [(job, "one", 3), (other, "one", 4), (job, "two", 60), (job, "three", 5), (job, "four", 20)]
    works = ledger.exchange_all([Exchange(its, worker, Report(limit=n)) for its, worker, n in asked])
    assert [len(work.items) for work in works] == [3, 4, 60, 5, 12]
    sql = "select worker from items where id = ? and status = 'running' and job = ?"
    for (its, worker, _), work in zip(asked, works, strict=True):
        holders = [connection(path).execute(sql, (item.id, its)).get for item in work.items]
        assert holders == [worker] * len(work.items)
    assert counts(path) == [("running", 80, 0, 80, 0, 0, 0, 0), ("running", 9, 5, 4, 0, 0, 0, 0)]
    seqs = connection(path).execute("select count(distinct seq), count(*) from items where attempt = 1").get
    assert seqs == (84, 84)
    told = [
        Exchange(its, worker, Report(all_done(work), limit=9))
        for (its, worker, _), work in zip(asked, works, strict=True)
    ]
    assert [len(work.items) for work in ledger.exchange_all(told)] == [0, 5, 0, 0, 0]
    assert counts(path) == [("completed", 80, 0, 0, 80, 0, 0, 0), ("running", 9, 0, 5, 4, 0, 0, 0)]
    assert connection(path).execute("select max(seq) from items").get < current_seq(connection(path))


def test_two_workers_of_a_job_are_counted_both_in_one_transaction(path: str):
    ledger = Ledger(path)
    job = running(path, WIDE, 6)
    one, two = (ledger.exchange(job, worker, Report(limit=3)) for worker in ("one", "two"))
    stolen = [Result(item.id, item.attempt, "failed", 500, "no") for item in two.items]
    ledger.exchange_all([
        Exchange(job, "one", Report([*all_done(one), *stolen])),  # the second half is not its own
        Exchange(job, "two", Report(all_done(two)[:2])),
    ])  # fmt: skip
    assert counts(path) == [("running", 6, 0, 1, 5, 0, 0, 0)]
    assert connection(path).execute("select count(*) from error_groups").get == 0


def test_what_cannot_be_written_of_one_job_is_no_others_trouble(path: str):
    ledger = Ledger(path)
    jobs = [running(path, WIDE, 2) for _ in range(3)]
    given = ledger.exchange_all([Exchange(job, "one", Report(limit=2)) for job in jobs])
    reports = [Report(all_done(work)) for work in given]
    reports[1].results[0].result = "\ud800"  # no text that could be written
    found = ledger.exchange_all(
        [Exchange(job, "one", report) for job, report in zip(jobs, reports, strict=True)]
    )
    assert [type(one) for one in found] == [Work, UnicodeEncodeError, Work]
    assert [row[0] for row in counts(path)] == ["completed", "running", "completed"]


def test_a_job_that_is_gone_is_cancelled_and_the_others_go_on(path: str):
    ledger = Ledger(path)
    job = running(path, WIDE, 2)
    given = ledger.exchange(job, "one", Report(limit=2))
    gone, there = ledger.exchange_all([
        Exchange(99, "one", Report([Result(1, 1, "completed")], limit=5)),
        Exchange(job, "one", Report(all_done(given))),
    ])  # fmt: skip
    assert isinstance(gone, Work) and gone.status == "cancelled" and gone.items == []
    assert isinstance(there, Work) and there.status == "completed"


def test_who_has_nothing_comes_first_whoever_asked_first(path: str):
    ledger = Ledger(path)
    first = running(path, NARROW, 9)
    second = 0
    given = ledger.exchange(first, "one", Report(limit=2))
    second = running(path, NARROW, 9)
    one, two = ledger.exchange_all([
        Exchange(first, "one", Report(all_done(given)[:1], limit=2, in_flight=1)),
        Exchange(second, "one", Report(limit=2)),
    ])  # fmt: skip
    assert isinstance(one, Work) and isinstance(two, Work)
    assert (len(one.items), len(two.items)) == (0, 1)


@pytest.mark.parametrize("backward", [False, True])
def test_of_those_that_ask_in_one_round_the_higher_priority_is_first_and_who_is_starved_before_it(
    path: str, backward: bool
):
    ledger = Ledger(path)
    low = running(path, SINGLE, 9)
    high = running(path, SINGLE, 9, priority=3)

    def turn(has: dict[int, Work]) -> dict[int, Work]:
        asked = sorted((low, high), reverse=backward)
        told = {job: all_done(has[job]) if job in has else [] for job in asked}
        found = ledger.exchange_all([Exchange(job, "one", Report(told[job], limit=2)) for job in asked])
        return {job: work for job, work in zip(asked, found, strict=True) if isinstance(work, Work)}

    has = turn({})
    for _ in range(3):
        assert (len(has[low].items), len(has[high].items)) == (0, 1)
        has = turn(has)
    connection(path).execute("update jobs set created_at = created_at - 11 where id = ?", (low,))
    has = turn(has)
    assert (len(has[low].items), len(has[high].items)) == (1, 0)
    has = turn(has)
    assert (len(has[low].items), len(has[high].items)) == (0, 1)


def test_what_a_run_has_found_is_written_in_its_round_and_how_few_it_may_try_is_answered(path: str):
    ledger = Ledger(path)
    jobs = [running(path, WIDE, 4, concurrency="auto 2-9") for _ in range(2)]
    given = ledger.exchange_all([Exchange(job, "one", Report(limit=2)) for job in jobs])
    told = [
        Exchange(job, "one", Report(all_done(work), found=Found(5 + n)))
        for n, (job, work) in enumerate(zip(jobs, given, strict=True))
    ]
    assert [
        (work.concurrency, work.least) for work in ledger.exchange_all(told) if isinstance(work, Work)
    ] == [(9, 2)] * 2
    assert [Jobs(path).job(job, OWNER).found_read for job in jobs] == [Found(5), Found(6)]
    Jobs(path).tune(jobs[1], OWNER, "auto 3-7", None, 4)
    assert [(one.least, one.concurrency, one.priority) for one in ledger.look_all("one", jobs)] == [
        (2, 9, 0),
        (3, 7, 4),
    ]


def test_no_statement_of_a_round_looks_through_all_items_or_jobs(path: str):
    """What SQLite makes of each, where json_each stands beside a table, is not what it looks like."""
    ledger = Ledger(path)
    jobs = [running(path, WIDE, 4) for _ in range(3)]
    given = ledger.exchange_all([Exchange(job, "one", Report(limit=3)) for job in jobs])
    statements = dict[str, Any]()

    def note(_: Any, sql: str, bindings: Any) -> bool:
        statements[sql] = bindings
        return True

    ledger.conn.set_exec_trace(note)
    told = [
        Exchange(job, "one", Report(all_done(work, status), limit=2))
        for job, work, status in zip(jobs, given, ("completed", "failed", "queued"), strict=True)
    ]
    ledger.exchange_all(told)
    ledger.look_all("one", jobs)
    ledger.conn.set_exec_trace(None)
    plans = {
        sql: [row[3] for row in ledger.conn.execute(f"explain query plan {sql}", values)]
        for sql, values in statements.items()
        if sql.lstrip().startswith(("select", "update", "insert", "with"))
    }
    assert len(plans) > 10
    through = [
        (sql, step) for sql, plan in plans.items() for step in plan if step in ("SCAN items", "SCAN jobs")
    ]
    assert through == []


def test_the_runs_of_a_worker_share_rounds_and_have_their_own_answers(path: str):
    jobs = [running(path, WIDE, 2) for _ in range(30)]

    async def ask() -> tuple[list[Any], list[Any], int]:
        ledger = LocalLedger(path)
        commits = list[str]()

        def count() -> None:
            connection(path).set_commit_hook(lambda: bool(commits.append("")))

        await ledger.do(count)
        works = await asyncio.gather(
            *[ledger.exchange(job, "one", Report(limit=job % 2 + 1)) for job in jobs]
        )
        standings = await asyncio.gather(*[ledger.look(job, "one") for job in jobs])
        return works, standings, len(commits)

    works, standings, written = asyncio.run(ask())
    assert [len(work.items) for work in works] == [job % 2 + 1 for job in jobs]
    assert [sorted(one.mine) for one in standings] == [sorted(i.id for i in work.items) for work in works]
    assert written <= 3


def test_jobs_of_one_pace_start_no_more_in_one_round_than_one_of_them_would(path: str):
    ledger = Ledger(path)
    waits, *jobs = [running(path, PACED, 9) for _ in range(4)]
    connection(path).execute(
        "update items set run_at = ? where job = ? and position > 1", (clock.now() + 60, waits)
    )

    def turn(asking: list[int]) -> list[Any]:
        return ledger.exchange_all([Exchange(job, "one", Report(limit=9)) for job in asking])

    first = turn([waits, *jobs])
    assert [len(work.items) for work in first] == [2, 0, 0, 0]  # of the four that may start at once
    assert all(0 < work.wait <= 1 / 40 for work in first if not work.items)
    assert sum(len(work.items) for work in turn(jobs)) >= 2  # those that did not
    connection(path).execute("delete from paces")
    assert [len(work.items) for work in turn([waits, jobs[0]])] == [0, 4]  # what waits takes no start


def test_what_is_too_large_for_the_room_that_is_left_holds_up_its_own_job_alone(
    path: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(local, "PAUSE", 0.02)
    large, small = (running(path, WIDE, 1) for _ in range(2))

    def room(pages: int) -> None:
        conn = connection(path)
        conn.execute(f"pragma max_page_count = {conn.pragma('page_count') + pages}")

    async def report() -> None:
        ledger = LocalLedger(path)
        given = [await ledger.exchange(job, "one", Report(limit=1)) for job in (large, small)]
        await ledger.do(room, 20)
        told = [Report(all_done(work)) for work in given]
        told[0].results[0].result = '"' + "x" * 1_000_000 + '"'
        first, second = (
            asyncio.create_task(ledger.exchange(job, "one", report))
            for job, report in zip((large, small), told, strict=True)
        )
        await second
        assert [row[0] for row in counts(path)][1] == "completed" and not first.done()
        await seen(lambda: counts(path)[0][0] == "paused")
        await ledger.do(room, 1_000_000)
        await first
        await ledger.unblock()

    asyncio.run(report())
    assert [row[:6] for row in counts(path)] == [("completed", 1, 0, 0, 1, 0)] * 2
    tries = "select job, sum(items) from throughput group by job"
    assert connection(path).execute(tries).fetchall() == [(large, 1), (small, 1)]


def test_who_was_given_items_has_them_also_where_another_could_not_be_told_how_its_job_stands(path: str):
    asks, looks = (running(path, WIDE, 2) for _ in range(2))

    def refuse(_: Any, sql: str, __: Any) -> bool:
        if "json_array(job, items.id)" in sql:
            raise LookupError("refused")
        return True

    async def ask() -> list[Any]:
        ledger = LocalLedger(path)
        await ledger.do(lambda: connection(path).set_exec_trace(refuse))
        return await asyncio.gather(
            ledger.exchange(asks, "one", Report(limit=2)), ledger.look(looks, "one"), return_exceptions=True
        )

    given, error = asyncio.run(ask())
    assert len(given.items) == 2 and isinstance(error, LookupError)


def test_a_large_round_is_several_transactions_and_a_small_one_is_not_kept_waiting():
    assert fitting([CHUNK + 1, 1]) == 1
    assert fitting([CHUNK - 1, 1, 1]) == 2
    assert fitting([0] * 2_000) == 2_000
    asked = Exchange(1, "one", Report([Result(1, 1, "completed")], limit=3, steps=[Step(0, "a", "running")]))
    assert (rows_in(asked), rows_in((1, "one"))) == (5, 0)


def test_who_comes_later_in_a_round_finds_no_more_waiting_than_the_others_have_left(path: str):
    job = running(path, WIDE, 10)
    first, second = Ledger(path).exchange_all([Exchange(job, name, Report(limit=9)) for name in ("a", "b")])
    assert [len(work.items) for work in (first, second)] == [9, 1] and second.queued == 1
    third, fourth = Ledger(path).exchange_all([Exchange(job, name, Report(limit=9)) for name in ("a", "b")])
    assert not third.items and not third.queued and not fourth.queued


def test_failures_in_a_row_stop_a_job_also_where_another_worker_tells_of_a_success_in_the_same_moment(
    path: str,
):
    ledger = Ledger(path)
    job = running(path, WIDE, 50, stop_after="20")
    first, second = (ledger.exchange(job, name, Report(limit=20)) for name in ("a", "b"))
    told = [("a", all_done(first, "failed")), ("b", all_done(second)[:1])]
    works = ledger.exchange_all([Exchange(job, name, Report(some, limit=20)) for name, some in told])
    assert [(work.status, len(work.items)) for work in works] == [("paused", 0)] * 2


def test_kinds_of_failures_have_their_bound_however_many_workers_tell_of_them_at_once(path: str):
    ledger = Ledger(path)
    job = running(path, BROAD, 3 * MOST_GROUPS)
    given = [ledger.exchange(job, name, Report(limit=MOST_GROUPS)) for name in ("a", "b", "c")]
    told = [all_done(work, "failed") for work in given]
    words = map("".join, itertools.product("abcdefghijklm", repeat=3))
    for result in itertools.chain(*told):
        result.error = f"wrong {next(words)}"
    ledger.exchange_all([Exchange(job, name, Report(told[n])) for n, name in enumerate("abc")])
    assert connection(path).execute("select count(*), sum(items) from error_groups").fetchone() == (
        MOST_GROUPS + 1,
        3 * MOST_GROUPS,
    )


def test_a_report_that_is_too_large_for_the_room_that_is_left_is_no_other_workers_trouble(path: str):
    ledger = Ledger(path)
    jobs = [running(path, WIDE, 1) for _ in range(2)]
    given = ledger.exchange_all([Exchange(job, "one", Report(limit=1)) for job in jobs])
    told = [all_done(work) for work in given if isinstance(work, Work)]
    told[0][0].result = '"' + "x" * 1_000_000 + '"'
    asked = [Exchange(job, "one", Report(told[n])) for n, job in enumerate(jobs)]
    conn = connection(path)
    conn.execute(f"pragma max_page_count = {conn.pragma('page_count') + 20}")
    with together(conn):
        found = ledger.exchange_all(asked)
    assert [type(one) for one in found] == [apsw.FullError, Work]
    assert [row[0] for row in counts(path)] == ["running", "completed"]


# ---- functions that are called once --------------------------------------------------------------------------


def call() -> None: ...


CALL = task(name="rounds_call", concurrency=3)(call)
FRAIL = task(name="rounds_frail", idempotent=False)(call)
TABLES = {
    "jobs": "id, status, reason, worker, total, queued, running, completed, failed, cancelled, unknown, filled,"
    " started_at is null, finished_at is null",
    "items": "job, position, key, status, attempt, error, result, ms, worker, once",
    "tries": "job, attempt, status, error, ms is null, worker",
    "error_groups": "job, message, items",
    "tallies": "*",
    "outcomes": "*",
    "deliveries": "job, receiver, event",
    "throughput": "job, sum(items), sum(tries), sum(ms) from throughput group by job --",
}
REPORTS: tuple[tuple[list[Step], Ended | None], ...] = (
    ([Step(0, "rounds_call", "completed", ms=3.0)], Ended()),
    ([Step(0, "rounds_call", "completed", result='"fine"')], None),
    ([Step(0, "a", "failed", "no 1"), Step(1, "b", "running")], Ended("it broke")),
    ([Step(0, "a", "failed", "no 2"), Step(1, "b", "queued", "again", ms=2.0)], None),
    ([Step(0, "a", "running", once=True)], Ended("timed out", unknown=True)),
    ([], Ended("it broke at once")),
    ([Step(n, f"step {n}", "completed") for n in range(4)] + [Step(4, "not reached", "queued")], Ended()),
)


def test_many_calls_in_one_transaction_are_what_each_is_by_itself(tmp_path: Path):
    """Of jobs of two tasks, some cancelled, paused or another's, one with a follower, some told of: two times."""
    told = (Notify("webhook", "http://127.0.0.1/x", ("completed", "failed", "turned")),)
    found = []
    for name, at_once in (("one", False), ("many", True)):
        prepare(path := str(tmp_path / f"{name}.db"))
        jobs = Jobs(path)
        ledger = Ledger(path)
        ids = []
        for n in range(30):
            how = Options(notify=told if n % 4 == 0 else (), dry_run=n == 8)
            ids.append(jobs.submit((CALL, FRAIL)[n % 3 == 0], {}, OWNER, "background", how)[0].id)
        follows = Options(after_job=ids[0], condition="completed")
        jobs.submit(CALL, {}, OWNER, "background", follows)
        jobs.act(ids[3], OWNER, "cancel")
        jobs.act(ids[4], OWNER, "pause")
        ledger.take_body(ids[5], "another")
        if at_once:
            taken = ledger.take_bodies("one", [*ids, 999])
        else:
            taken = [ledger.take_body(job, "one") for job in [*ids, 999]]
        assert [steps is None for steps in taken] == [n in (3, 4, 5, 30) for n in range(31)]
        jobs.act(ids[6], OWNER, "cancel")
        for turn in range(2):
            reports = [
                Exchange(job, "one", Report(steps=steps, ended=ended))
                for n, job in enumerate(ids)
                for steps, ended in [REPORTS[(n + turn) % len(REPORTS)]]
            ]
            if at_once:
                works = ledger.exchange_all(reports)
            else:
                works = [ledger.exchange(*report[:3]) for report in reports]
            found.append([getattr(work, "status", work) for work in works])
        rows = {
            table: connection(path).execute(f"select {columns} from {table}").fetchall()
            for table, columns in TABLES.items()
        }
        for each in rows.values():
            each.sort(key=repr)
        found.append(rows)
        seqs = connection(path).execute("select seq from items union all select seq from jobs").fetchall()
        assert len(set(seqs)) == len(seqs)
    assert found[:2] == found[3:5]
    for table in TABLES:
        assert found[2][table] == found[5][table], table


def test_what_many_calls_have_to_write_is_one_transaction(path: str):
    jobs = Jobs(path)
    ledger = Ledger(path)
    ids = [jobs.submit(CALL, {}, OWNER, "background")[0].id for _ in range(5)]
    assert commits(ledger.conn, lambda: ledger.take_bodies("one", ids)) == 1
    done = [Exchange(job, "one", Report(steps=[Step(0, "call", "completed")], ended=Ended())) for job in ids]
    assert commits(ledger.conn, lambda: ledger.exchange_all(done)) == 1
    assert counts(path) == [("completed", 1, 0, 0, 1, 0, 0, 0)] * 5


def test_the_next_call_begins_with_the_end_of_the_one_before_and_not_ahead_of_it(path: str):
    """The room of a call is the next one's as soon as it has ended; at no moment more run than may."""
    jobs = Jobs(path)
    first, second = [jobs.submit(CALL, {}, OWNER, "background")[0].id for _ in range(2)]
    Ledger(path).take_body(first, "one")
    connection(path).execute("""create table seen (running);
        create trigger see after update of status on jobs begin
            insert into seen select count(*) from jobs where status = 'running'; end""")
    ended = Report(steps=[Step(0, "rounds_call", "completed")], ended=Ended())

    async def both() -> None:
        local = LocalLedger(path)
        await asyncio.gather(local.take_body(second, "one"), local.exchange(first, "one", ended))

    asyncio.run(both())
    assert [row[0] for row in counts(path)] == ["completed", "running"]
    assert connection(path).execute("select running from seen").fetchall() == [(0,), (1,)]


def test_a_round_waits_for_nobody_where_all_have_asked_who_may(path: str, monkeypatch: pytest.MonkeyPatch):
    jobs = Jobs(path)
    ids = [jobs.submit(CALL, {}, OWNER, "background")[0].id for _ in range(4)]
    monkeypatch.setattr(local, "SOON", 1e9)

    async def rounds() -> None:
        ledger = LocalLedger(path)
        await asyncio.gather(*[ledger.take_body(job, "one") for job in ids[:2]])  # then it waits for others
        asked = asyncio.gather(*[ledger.take_body(job, "one") for job in ids[2:]])
        await asyncio.sleep(0.05)
        assert not asked.done()
        ledger.full.set()
        await asked

    asyncio.run(rounds())
    assert [row[0] for row in counts(path)] == ["running"] * 4


def test_a_call_that_cannot_be_begun_is_no_trouble_of_the_others(path: str):
    jobs = Jobs(path)
    ids = [jobs.submit(CALL, {}, OWNER, "background")[0].id for _ in range(3)]
    connection(path).execute(
        "create trigger no before update on jobs when new.id = 2 begin select raise(abort, 'no'); end"
    )

    async def taken() -> list[Any]:
        local = LocalLedger(path)
        return await asyncio.gather(*(local.take_body(job, "one") for job in ids), return_exceptions=True)

    found = asyncio.run(taken())
    assert [type(one).__name__ for one in found] == ["list", "ConstraintError", "list"]
    assert [row[0] for row in counts(path)] == ["running", "queued", "running"]


@pytest.mark.parametrize("made", [CALL, FRAIL])
def test_a_call_that_was_held_and_never_begun_is_queued_again_when_its_worker_stops(path: str, made: Task):
    jobs = Jobs(path)
    ledger = Ledger(path)
    job = jobs.submit(made, {}, OWNER, "background")[0].id

    async def stopped() -> None:
        local = LocalLedger(path)
        context = Context("one", local, Clients(lambda: "").open)
        context.stopping.set()  # while it is being taken, say
        running = jobs.find(job)
        assert running
        await run(running, made, context)
        await local.do(local.ledger.leave, "one")

    asyncio.run(stopped())
    assert counts(path) == [("running", 1, 1, 0, 0, 0, 0, 0)]
    assert ledger.take_body(job, "two") is not None
