"""The slices of one process of a queue's worker ask together: one call, one transaction, an answer for each."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import httpx
import pytest

from rowcast.dashboard import Dashboard
from rowcast.tables import writer
from rowcast.tables.database import close_databases, connection, together, transaction
from rowcast.tables.writer import Writer
from rowcast.tasks.records import OWNER, Options
from rowcast.tasks.registry import Task, task
from rowcast.tasks.settings import Settings
from rowcast.tasks.steps import step
from rowcast.tasks.work import Beat, Chunk, LedgerCall, Report, ReportCall, Result, RoundCall, Work
from rowcast.web import worker_api
from rowcast.web.worker_api import LedgerCalls
from rowcast.worker import remote
from rowcast.worker.clients import Clients
from rowcast.worker.context import Context
from rowcast.worker.remote import Away, NextTry, Refused, RemoteLedger, headers_of
from rowcast.worker.rounds import Rounds
from rowcast.worker.runner import run

TOKEN = "a-token"
ME = "one"


async def work(item: str) -> None: ...


WORK = task(name="rounds_over_http", concurrency=1000)(work)
STAMPS = task(name="rounds_over_http_stamps", concurrency=1000, stamp="account_updated")(work)


open_none = Clients(lambda: "").open


class Wire(httpx.ASGITransport):
    """The dashboard's answers to a worker, counted; the first of some calls are lost on their way back."""

    def __init__(self, dashboard: Dashboard):
        super().__init__(dashboard._answer_worker)
        self.calls: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.before: Callable[[], None] | None = None  # is done before an answer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        name = request.url.path.rpartition("/")[2]
        self.calls[name] += 1
        if self.before:
            self.before()
        answer = await super().handle_async_request(request)
        if self.lost[name]:
            self.lost[name] -= 1
            raise httpx.ReadError("lost")
        return answer


class Elsewhere:
    """A dashboard of a queue, and a worker of it that has a slice of each of some jobs."""

    def __init__(self, path: Path, jobs: int):
        self.dashboard = Dashboard(
            Settings(
                database=str(path), worker_token=TOKEN, engine="celery", broker_url="redis://127.0.0.1:1"
            )
        )
        self.dashboard.prepare()
        self.conn = connection(str(path))
        self.jobs = [self.begin(20) for _ in range(jobs)]
        LedgerCalls(self.dashboard).heartbeat(
            Beat(worker=ME, host="here", pid=1, engine="celery", version="1")
        )
        self.wire = Wire(self.dashboard)

    def begin(self, items: int, made: Task = WORK) -> int:
        job, _ = self.dashboard.jobs.submit(made, {}, OWNER, "celery", Options())
        self.dashboard.jobs.start(job.id)
        self.dashboard.jobs.add_items(
            job.id, Chunk.of([(f"item {n}", None) for n in range(items)], last=True)
        )
        with transaction(self.conn) as conn:
            conn.execute(
                "insert into slots (job, slot, token, due_at) values (?, 0, 'mine', ?)",
                (job.id, time.time() + 1000),
            )
        return job.id

    def work(self, of: Callable[[list[RemoteLedger]], Any], token: str = TOKEN) -> Any:
        """What comes of it, with the slices of all jobs."""

        async def run() -> Any:
            url = "http://dashboard"
            async with httpx.AsyncClient(
                transport=self.wire, base_url=url, headers=headers_of(token)
            ) as client:
                slices: dict[int, RemoteLedger] = {}
                rounds = Rounds(client, slices)
                for job in self.jobs:
                    slices[job] = RemoteLedger(client, job, 0, "mine", rounds)
                return await of(list(slices.values()))

        return asyncio.run(run())

    def counts(self) -> list[tuple[int, int, int]]:
        sql = "select completed, running, queued from jobs order by id"
        return self.conn.execute(sql).fetchall()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Callable[[int], Elsewhere]]:
    yield lambda jobs: Elsewhere(tmp_path / "rowcast.db", jobs)
    close_databases()


def done(work: Work) -> list[Result]:
    return [Result(item.id, item.attempt, "completed", ms=3.0) for item in work.items]


async def exchange(ledger: RemoteLedger, *results: Result, limit: int = 5) -> Work:
    return await ledger.exchange(ledger.job, ME, Report(list(results), limit=limit), lambda: [])


def test_what_all_slices_tell_and_ask_for_is_one_call(elsewhere: Any):
    place = elsewhere(8)

    async def of(ledgers: list[RemoteLedger]) -> None:
        first = await asyncio.gather(*map(exchange, ledgers))
        assert [len(work.items) for work in first] == [5] * 8 and place.wire.calls == {"round": 1}
        assert len({item.id for work in first for item in work.items}) == 40
        looks = [ledger.look(ledger.job, ME) for ledger in ledgers[:3]]
        for ledger in ledgers:
            ledger.standing = None  # there is news
        told = [exchange(ledger, *done(work)) for ledger, work in zip(ledgers[3:], first[3:], strict=True)]
        found = await asyncio.gather(*looks, *told)
        assert place.wire.calls == {"round": 2}
        for standing, before in zip(found[:3], first, strict=False):
            assert sorted(standing.mine) == [item.id for item in before.items]
        assert [len(work.items) for work in found[3:]] == [5] * 5

    place.work(of)
    assert place.counts() == [(0, 5, 15)] * 3 + [(5, 5, 10)] * 5


def test_slices_that_only_look_do_so_in_one_call(elsewhere: Any):
    place = elsewhere(4)

    async def of(ledgers: list[RemoteLedger]) -> list[Any]:
        return await asyncio.gather(*[ledger.look(ledger.job, ME) for ledger in ledgers])

    assert [standing.queued for standing in place.work(of)] == [20] * 4
    assert place.wire.calls == {"round": 1}


def test_a_slice_that_is_alone_asks_for_itself(elsewhere: Any):
    place = elsewhere(1)
    assert len(place.work(lambda ledgers: exchange(*ledgers)).items) == 5
    assert place.wire.calls == {"exchange": 1}


def test_a_round_is_one_transaction(elsewhere: Any):
    place = elsewhere(5)
    commits = list[int]()
    calls = LedgerCalls(place.dashboard)
    about = {"worker": ME, "slot": 0, "token": "mine"}
    reports = [ReportCall(job=job, report=Report(limit=3), **about) for job in place.jobs]
    place.conn.set_commit_hook(lambda: bool(commits.append(1)))
    with together(place.conn):
        answers = calls.round(RoundCall(reports=reports, looks=[LedgerCall(job=place.jobs[0], **about)]))
    place.conn.set_commit_hook(None)
    assert len(commits) == 1 and [len(one.work.items) for one in answers[:5] if one.work] == [3] * 5
    assert answers[5].standing and len(answers[5].standing.mine) == 3


def test_what_workers_tell_in_the_same_moment_is_written_together_and_none_suffers_for_another(
    elsewhere: Any, monkeypatch: pytest.MonkeyPatch
):
    place = elsewhere(2)
    sizes = list[int]()
    exchange_all = worker_api.exchange_all
    monkeypatch.setattr(
        worker_api, "exchange_all", lambda asked: sizes.append(len(asked)) or exchange_all(asked)
    )
    monkeypatch.setattr(writer, "GATHER", 0.3)  # so long that all have come
    LedgerCalls(place.dashboard).heartbeat(
        Beat(worker="two", host="here", pid=2, engine="celery", version="1")
    )

    async def of(ledgers: list[RemoteLedger]) -> list[Any]:
        first, second = ledgers
        third = RemoteLedger(first.client, second.job, 0, "mine")
        fourth = RemoteLedger(first.client, 10**18, 0, "mine")
        for ledger in (first, second, third, fourth):
            ledger.rounds = None  # as those of different processes
            ledger.patient = False
        return await asyncio.gather(
            exchange(first),
            second.exchange(second.job, "two", Report(limit=5)),
            third.exchange(third.job, "nobody knows it", Report(limit=5)),
            fourth.exchange(fourth.job, ME, Report()),
            return_exceptions=True,
        )

    first, second, third, fourth = place.work(of)
    assert [len(one.items) for one in (first, second)] == [5, 5]
    assert isinstance(third, Away) and fourth.status == "cancelled"
    assert sizes == [4]
    assert place.counts() == [(0, 5, 15), (0, 5, 15)]


def test_a_call_that_was_broken_off_and_its_repetition_in_the_same_moment_leave_nothing_running(
    elsewhere: Any,
):
    place = elsewhere(2)
    calls = LedgerCalls(place.dashboard)

    def call(number: int, job: int = 0, **how: Any) -> tuple[LedgerCalls, ReportCall]:
        about = {"worker": ME, "job": place.jobs[job], "slot": 0, "token": "mine", "number": number}
        return calls, ReportCall(report=Report(limit=5), **about, **how)

    lost, other, again = worker_api.exchange_all([call(1), call(1, job=1), call(2, has=[])])
    assert len(lost.items) == len(other.items) == len(again.items) == 5
    assert place.counts() == [(0, 5, 15), (0, 5, 15)], "what the lost answer gave was given back"
    sql = "select count(*) from items where id = ? and attempt = ? and status = 'running'"
    assert all(place.conn.execute(sql, (item.id, item.attempt)).get for item in again.items)


def test_a_round_is_answered_by_what_is_on_the_disk_also_where_a_look_has_lost_the_transaction(
    elsewhere: Any, monkeypatch: pytest.MonkeyPatch
):
    place = elsewhere(2)
    hear = place.dashboard.slots.hear
    path = place.conn.filename

    def lose(job: int, slot: int, token: str) -> bool:
        if job == place.jobs[1]:
            connection(path).execute("rollback")  # as SQLite does where a disk fails
            raise apsw.FullError("full")
        return bool(hear(job, slot, token))

    monkeypatch.setattr(place.dashboard.slots, "hear", lose)
    calls = LedgerCalls(place.dashboard)
    about = {"worker": ME, "slot": 0, "token": "mine"}
    reports = [ReportCall(job=place.jobs[0], report=Report(limit=5), number=1, **about)]
    call = RoundCall(reports=reports, looks=[LedgerCall(job=place.jobs[1], **about)])
    with pytest.raises(apsw.FullError):
        asyncio.run(Writer(path).do(calls.round, call))
    assert place.counts() == [(0, 0, 20), (0, 0, 20)]


@pytest.mark.parametrize("times", [1, 2])
def test_a_round_whose_answer_was_lost_is_taken_once_and_what_it_gave_is_given_again(
    elsewhere: Any, times: int
):
    place = elsewhere(4)

    async def of(ledgers: list[RemoteLedger]) -> None:
        first = await asyncio.gather(*map(exchange, ledgers))
        place.wire.lost["round"] = times
        told = [exchange(ledger, *done(work)) for ledger, work in zip(ledgers, first, strict=True)]
        second = await asyncio.gather(*told)
        assert place.wire.calls == {"round": 2 + times}
        assert place.counts() == [(5, 5, 10)] * 4, "of what was given in vain nothing is left running"
        assert [ledger.done for ledger in ledgers] == [5] * 4
        await asyncio.gather(
            *[exchange(ledger, *done(it), limit=0) for ledger, it in zip(ledgers, second, strict=True)]
        )

    place.work(of)
    assert place.counts() == [(10, 0, 10)] * 4


@pytest.mark.parametrize("slices", [1, 3])
def test_a_call_that_is_repeated_has_a_higher_number(elsewhere: Any, slices: int):
    place = elsewhere(slices)
    numbers = list[int]()
    is_old = place.dashboard.slots.is_old

    def note(job: int, slot: int, token: str, number: int) -> bool:
        numbers.append(number)
        return is_old(job, slot, token, number)

    place.dashboard.slots.is_old = note
    place.wire.lost["exchange" if slices == 1 else "round"] = 2
    place.work(lambda ledgers: asyncio.gather(*map(exchange, ledgers)))
    assert len(numbers) == 3 * slices and len({*numbers}) == len(numbers)
    assert place.counts() == [(0, 5, 15)] * slices


def test_what_one_slice_is_refused_with_is_no_others(elsewhere: Any):
    place = elsewhere(4)

    async def of(ledgers: list[RemoteLedger]) -> list[Any]:
        bad, gone, *others = ledgers
        asked = [
            exchange(bad, Result(2**70, 1, "completed")),
            gone.exchange(gone.job, "nobody", Report(limit=5)),
            *map(exchange, others),
        ]
        gone.patient = False
        return await asyncio.gather(*asked, return_exceptions=True)

    wrong, away, *works = place.work(of)
    assert isinstance(wrong, ValueError) and "larger than SQLite" in str(wrong)
    assert isinstance(away, Away), "who is not known to live takes nothing"
    assert [len(work.items) for work in works] == [5, 5]
    assert place.counts() == [(0, 0, 20)] * 2 + [(0, 5, 15)] * 2


def test_whoever_waits_for_a_dashboard_that_is_away_asks_again_with_what_others_ask_for_then(elsewhere: Any):
    place = elsewhere(4)

    async def of(ledgers: list[RemoteLedger]) -> None:
        *early, late = ledgers
        ledgers[0].patient = False
        place.wire.lost["round"] = 1
        tasks = [asyncio.create_task(exchange(ledger)) for ledger in early]
        with pytest.raises(Away):
            await tasks[0]
        works = await asyncio.gather(*tasks[1:], exchange(late))
        assert [len(work.items) for work in works] == [5] * 3
        assert place.wire.calls == {"round": 2}

    place.work(of)


def test_a_worker_that_is_not_let_in_is_told_so_in_all_its_slices(elsewhere: Any):
    place = elsewhere(3)

    async def of(ledgers: list[RemoteLedger]) -> list[Any]:
        return await asyncio.gather(*map(exchange, ledgers), return_exceptions=True)

    found = place.work(of, token="another")
    assert [type(one) for one in found] == [Refused] * 3 and place.wire.calls == {"round": 1}
    assert place.counts() == [(0, 0, 20)] * 3


def test_a_round_counts_with_the_rows_that_it_may_write(elsewhere: Any, monkeypatch: pytest.MonkeyPatch):
    place = elsewhere(3)
    rows = list[int]()
    do = Writer.do

    async def noted(writer: Writer, *of: Any, **how: Any) -> Any:
        rows.append(how.get("rows", 1))
        return await do(writer, *of, **how)

    monkeypatch.setattr(Writer, "do", noted)

    async def of(ledgers: list[RemoteLedger]) -> None:
        works = await asyncio.gather(*map(exchange, ledgers))
        for ledger in ledgers:
            ledger.standing = None
        told = [exchange(ledger, *done(work)) for ledger, work in zip(ledgers, works, strict=True)]
        await asyncio.gather(*told)
        await asyncio.gather(*(ledger.look(ledger.job, ME) for ledger in ledgers))

    place.work(of)
    assert rows[:2] == [15, 30] and {*rows[2:]} <= {1}


def test_a_round_is_no_larger_than_a_call_may_be(elsewhere: Any, monkeypatch: pytest.MonkeyPatch):
    place = elsewhere(4)
    monkeypatch.setattr("rowcast.worker.rounds.CHUNK", 12)
    works = place.work(lambda ledgers: asyncio.gather(*map(exchange, ledgers)))
    assert [len(work.items) for work in works] == [5] * 4 and place.wire.calls == {"round": 2}


@pytest.mark.parametrize("others", [0, 1])
def test_what_the_dashboard_cannot_write_of_one_slice_is_said_and_holds_up_no_other(
    elsewhere: Any, others: int
):
    place = elsewhere(others)
    place.jobs.append(place.begin(3, STAMPS))
    place.conn.execute("insert into users (email) values ('item 0')")
    place.conn.execute("create trigger no before update on users begin select raise(abort, 'frozen'); end")

    async def of(ledgers: list[RemoteLedger]) -> None:
        async def run_it(ledger: RemoteLedger) -> None:
            job = place.dashboard.jobs.find(ledger.job)
            try:
                await run(job, STAMPS if "stamps" in job.task else WORK, Context(ME, ledger, open_none))
            except ValueError as error:
                await ledger.cannot(ME, str(error))

        async with asyncio.timeout(20):
            await asyncio.gather(*map(run_it, ledgers))

    place.work(of)
    *fine, refused = (place.dashboard.jobs.job(job, OWNER) for job in place.jobs)
    assert [(job.status, job.completed) for job in fine] == [("completed", 20)] * others
    assert (refused.status, refused.completed, refused.running) == ("paused", 0, 0)
    assert "ConstraintError: frozen" in refused.reason


def test_a_slice_that_has_no_answer_yet_asks_again_by_itself_while_others_are_answered(
    elsewhere: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(NextTry, "__init__", lambda self: vars(self).update(seconds=1e6, told=False))
    place = elsewhere(3)

    async def of(ledgers: list[RemoteLedger]) -> None:
        unheard, *others = ledgers  # who is not known to live takes nothing yet
        waits = asyncio.create_task(unheard.exchange(unheard.job, "nobody", Report(limit=5)))
        async with asyncio.timeout(20):
            for _ in range(3):
                works = await asyncio.gather(*map(exchange, others))
                assert [len(work.items) for work in works] == [5, 5]
        assert place.wire.calls == {"round": 3} and not waits.done()
        waits.cancel()

    place.work(of)


def test_a_look_that_cannot_be_answered_is_no_trouble_of_who_asks_with_it(
    elsewhere: Any, monkeypatch: pytest.MonkeyPatch
):
    place = elsewhere(3)

    def refuse(*_: Any) -> None:
        raise LookupError("refused")

    monkeypatch.setattr(place.dashboard.ledger, "look", refuse)

    async def of(ledgers: list[RemoteLedger]) -> list[Any]:
        first, *others = ledgers
        asked = asyncio.gather(first.look(first.job, ME), *map(exchange, others), return_exceptions=True)
        return await asyncio.wait_for(asked, 20)

    error, *works = place.work(of)
    assert isinstance(error, ValueError) and "LookupError: refused" in str(error)
    assert [len(work.items) for work in works] == [5, 5] and place.wire.calls == {"round": 1}


async def says_much() -> None:
    for n in range(60):
        await step(f"step {n}", much, n)
        if n == 59:
            said.set()


async def much(n: int) -> str:
    ran.append(n)
    return "x" * 10_000


MUCH = task(name="rounds_over_http_much")(says_much)
ran: list[int] = []
said = asyncio.Event()


def test_what_a_function_did_while_the_dashboard_was_away_is_told_in_parts_however_much_it_is(
    elsewhere: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(remote, "PART", 100_000)
    monkeypatch.setattr(worker_api, "LEDGER_LIMIT", 200_000)
    place = elsewhere(0)
    ran.clear()
    said.clear()
    job, _ = place.dashboard.jobs.submit(MUCH, {}, OWNER, "celery", Options())
    with transaction(place.conn) as conn:
        conn.execute("insert into slots (job, slot, token, due_at) values (?, 0, 'mine', 9e9)", (job.id,))
    place.jobs.append(job.id)

    def away() -> None:
        if place.wire.calls["exchange"] and not said.is_set():
            raise httpx.ConnectError("away")

    place.wire.before = away
    place.work(lambda ledgers: run(job, MUCH, Context(ME, *ledgers, open_none)))
    assert place.dashboard.jobs.job(job.id, OWNER).status == "completed" and ran == [*range(60)]
    rows = place.conn.execute("select status, length(result) from items order by position").fetchall()
    assert rows == [("completed", 10_002)] * 60


def test_a_slice_that_can_start_nothing_before_its_end_is_over_at_once(elsewhere: Any):
    place = elsewhere(1)
    place.conn.execute("update items set run_at = 9e9 where position > 4")

    async def of(ledgers: list[RemoteLedger]) -> bool:
        context = Context(ME, *ledgers, open_none)
        context.until = time.monotonic() + 1000
        async with asyncio.timeout(20):
            await run(place.dashboard.jobs.find(ledgers[0].job), WORK, context)
        return await ledgers[0].end(ME)

    assert place.work(of) is False
    assert place.counts() == [(5, 0, 15)]
