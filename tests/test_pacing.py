"""Pace and fair shares: what arrives at a real API from two real workers, and the two small rules behind it."""

import collections
import os
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import forks
import pytest
from conftest import Api, Server, nursery, until

from rowcast.jobs import Jobs
from rowcast.tables import pacing, places
from rowcast.tables.database import close_databases, connection, transaction
from rowcast.tables.ledger import Ledger
from rowcast.tables.pacing import Other, Rivals, burst, by_rate, own_of, parts_of, shares
from rowcast.tables.schema import prepare
from rowcast.tables.users import Users
from rowcast.tasks import clock
from rowcast.tasks.built_in import update_users
from rowcast.tasks.clock import told
from rowcast.tasks.python_path import command
from rowcast.tasks.records import Options
from rowcast.tasks.registry import Task, task
from rowcast.tasks.work import Chunk, Claimed, Hold, Report, Result

OWNER = "local"
FLAGS = ("--tasks", "posts")
FILES = {
    "posts.py": """
import httpx
from rowcast import task

async def post(item: str, api: httpx.AsyncClient):
    (await api.post(f"/update-user/{item}")).raise_for_status()

@task(concurrency=10)
async def post_one(item: str, api: httpx.AsyncClient):
    await post(item, api)

@task(concurrency=10)
async def post_two(item: str, api: httpx.AsyncClient):
    await post(item, api)

@task(concurrency=10)
async def post_three(item: str, api: httpx.AsyncClient):
    await post(item, api)
"""
}  # each test has a line of starts of its own
SIXTY = [f"user-{n}@example.com" for n in range(60)]


def peak(api: Api) -> int:
    """How many posts the API was answering at once, at most, since its log was cleared."""
    return int(api.client.get("/peak").json())


class Pair:
    """Two worker processes on one database, as two servers would have them."""

    def __init__(self, directory: Path, api: Api):
        self.path = str(directory / "rowcast.db")
        prepare(self.path)
        Users(self.path).as_source()
        self.jobs = Jobs(self.path)
        _, *_, code = command("rowcast.engines.child")
        self.processes = [
            forks.Forked(
                nursery(), code, ["--database", self.path, "--name", name, "--api-url", api.url],
                stdin=subprocess.PIPE, cwd=directory, env=dict(os.environ),
            )
            for name in ("one", "two")
        ]  # fmt: skip
        until(lambda: len(self.rows("select id from workers")) == 2)

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        return connection(self.path).execute(sql).fetchall()

    def begin(self, users: int, **options: Any) -> int:
        with transaction(connection(self.path)) as conn:
            conn.execute("delete from users")
            conn.executemany(
                "insert into users (email) values (?)", [(f"user-{n}@example.com",) for n in range(users)]
            )
        return self.jobs.submit(update_users, {"limit": None}, OWNER, "background", Options(**options))[0].id

    def run(self, *started: int) -> None:
        """Wait until the jobs have ended."""
        until(lambda: all(self.jobs.job(job, OWNER).ended for job in started))

    def stop(self) -> None:
        for process in self.processes:
            assert process.stdin
            process.stdin.close()
        for process in self.processes:
            process.wait(60)
        close_databases()


@pytest.fixture
def pair(tmp_path: Path, api: Api) -> Iterator[Pair]:
    made = Pair(tmp_path, api)
    yield made
    made.stop()


# ---- two processes -------------------------------------------------------------------------------------------------


NOTED = """
create table starts (at, arrival);
create trigger first_start after insert on paces begin
    insert into starts values (unixepoch('subsec'), new.arrival); end;
create trigger further_start after update on paces begin
    insert into starts values (unixepoch('subsec'), new.arrival); end;
create table given (path, at);
create trigger given_out after update of status on items when new.status = 'running' begin
    insert into given values ('/update-user/' || new.key, unixepoch('subsec')); end;
"""


def test_a_rate_is_kept_by_two_processes_together(pair: Pair, api: Api):
    """However late a busy machine does what it was let: each start is counted, and none before its time."""
    api.latency(100)
    connection(pair.path).execute(NOTED)
    job = pair.begin(160, pace=40.0, concurrency=20)
    pair.run(job)
    assert set(pair.rows("select distinct worker from items")) == {("one",), ("two",)}
    counted = [(float(str(at)), float(str(arrival))) for at, arrival in pair.rows("select * from starts")]
    assert max(arrival - at for at, arrival in counted) < 0.5  # a burst is four, a tenth of a second's worth
    assert counted[-1][1] - counted[0][1] > (160 - 4) / 40 - 0.001
    times = {unquote(path): at for path, *_, at in api.log()}
    assert len(api.log()) == len(times) == 160
    late = max(times[str(path)] - float(str(at)) for path, at in pair.rows("select * from given"))
    most = max(sum(at <= other < at + 2 for other in times.values()) for at in times.values())
    assert most <= (2 + late) * 40 + 4 + 30


def test_concurrency_is_kept_by_two_processes_together(pair: Pair, api: Api):
    api.stall()
    api.latency(100)  # so that nothing is claimed ahead
    job = pair.begin(300, concurrency=3)

    def both_hold() -> bool:
        """Whoever looks first has what more may run: most often the one that has nothing yet."""
        pair.jobs.tune(job, OWNER, 3, None)
        until(lambda: pair.jobs.job(job, OWNER).running <= 4 or api.answer(1))
        pair.jobs.tune(job, OWNER, 6, None)
        until(lambda: pair.jobs.job(job, OWNER).running >= 6)
        return len(pair.rows("select distinct worker from items where status = 'running'")) == 2

    until(both_hold)
    until(lambda: peak(api) == 6)
    api.latency(30)
    api.answer()
    pair.run(job)
    assert peak(api) == 6
    assert len(api.log()) == len({path for path, *_ in api.log()}) == 300


def test_two_jobs_of_one_task_have_its_concurrency_together(pair: Pair, api: Api):
    api.stall()
    first = pair.begin(240, concurrency=6)
    until(lambda: peak(api) == 6)
    second = pair.begin(240, concurrency=6)
    until(lambda: pair.jobs.job(second, OWNER).filled and pair.jobs.job(second, OWNER).status == "running")

    def both_run() -> bool:
        """The second gets what the first is done with."""
        api.answer(1)
        return bool(pair.jobs.job(first, OWNER).running and pair.jobs.job(second, OWNER).running)

    until(both_run, every=0.1)
    api.latency(20)
    api.answer()
    pair.run(first, second)
    assert peak(api) == 6


def test_two_processes_write_a_jobs_items_once(pair: Pair):
    job = pair.begin(30_000, canary=1)
    until(lambda: pair.jobs.job(job, OWNER).filled)
    assert pair.rows("select count(*), count(distinct key), max(position) from items") == [
        (30_000, 30_000, 29_999)
    ]


# ---- on the page ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "rate"), [("post_one", "100/s"), ("post_two", 0)])
def test_a_rate_can_be_changed_while_the_job_runs_and_counts_at_once(
    server: Server, api: Api, task: str, rate: str | int
):
    job = server.begin(task, items=SIXTY, rate="1/h")
    until(lambda: len(api.log()) == 1)
    time.sleep(0.7)
    assert len(api.log()) == 1
    server.client.patch(f"/api/jobs/{job}", json={"rate": rate}).raise_for_status()
    assert server.ended(job)["completed"] == 60


def test_a_concurrency_can_be_changed_while_the_job_runs_and_counts_at_once(server: Server, api: Api):
    api.stall()
    api.latency(100)  # so that nothing is claimed ahead
    job = server.begin(concurrency=40)
    until(lambda: peak(api) == 40)
    server.client.patch(f"/api/jobs/{job}", json={"concurrency": 3}).raise_for_status()
    until(lambda: api.answer(2) or server.job(job)["running"] <= 3)
    api.client.post("/clear")
    api.latency(20)
    until(lambda: len(api.log()) > 60)
    assert peak(api) <= 3
    server.client.post(f"/api/jobs/{job}/cancel")


def test_a_job_of_ten_beside_one_of_thousands_is_done_long_before(server: Server, api: Api):
    server.users(*(f"user-{n}@example.com" for n in range(3000)))
    api.stall()
    api.latency(100)  # so that little is claimed ahead
    api.answer(30)
    large = server.begin(concurrency=8)
    until(lambda: server.job(large)["completed"] > 20)
    before = server.job(large)["completed"]
    small = server.begin(limit=10, concurrency=8)
    until(lambda: (job := server.job(small))["status"] == "running" and job["total"] == 10)
    until(lambda: api.answer(2) or server.job(small)["finished_at"])  # so many posts, of whichever job
    assert server.job(small)["completed"] == 10
    assert server.job(large)["completed"] < before + 200
    server.client.post(f"/api/jobs/{large}/cancel")


def test_a_slow_job_does_not_slow_down_a_fast_one_of_its_task(server: Server, api: Api):
    slow = server.begin("post_three", items=SIXTY, rate="1/h")
    until(lambda: server.job(slow)["completed"] == 1)
    fast = server.begin("post_three", items=SIXTY, rate="200/s")
    assert server.ended(fast)["completed"] == 60
    assert server.job(slow)["completed"] == 1
    server.client.post(f"/api/jobs/{slow}/cancel")
    again = server.begin("post_three", items=SIXTY, rate="200/s")
    assert server.ended(again)["completed"] == 60


# ---- GCRA ----------------------------------------------------------------------------------------------------------


def test_the_first_may_start_at_once_and_the_next_after_the_spacing():
    assert by_rate(2.0, 0.0, 10, 1000.0) == (1, 0.0)
    starts, wait = by_rate(2.0, 1000.5, 10, 1000.0)
    assert starts == 0 and wait == pytest.approx(0.5)
    assert by_rate(2.0, 1000.5, 10, 1000.5) == (1, 0.0)


@pytest.mark.parametrize(("pace", "most"), [(0.01, 1), (1, 1), (10, 1), (50, 5), (100, 10), (1000, 100)])
def test_a_tenth_of_a_seconds_worth_may_start_together(pace: float, most: int):
    assert by_rate(pace, 0.0, 10_000, 1000.0) == (most, 0.0)
    assert burst(pace) == most


def test_no_more_start_than_are_wanted():
    assert by_rate(100.0, 0.0, 3, 1000.0) == (3, 0.0)


@pytest.mark.parametrize("pace", [0.5, 7, 40, 150])
def test_over_any_time_no_more_than_the_pace_and_one_burst_start_and_not_much_less(
    tmp_path: Path, pace: float
):
    """The real rows of `paces`, asked at random moments by two workers."""
    path = str(tmp_path / "rowcast.db")
    prepare(path)
    job = running_job(path, WORK, 5000, pace=pace)
    chance = random.Random(3)
    now = 1000.0
    started = []
    ledger_conn = connection(path)
    ledger_conn.execute("pragma synchronous = off")
    while now < 1020.0:
        now += chance.uniform(0, 2.5 / pace)
        with transaction(ledger_conn) as conn:
            row = places.rows_of(conn, [job])[job]
            rivals = places.TaskPlaces.of(conn, row.task, now)
            starts, wait = places.allowed(conn, row, chance.randint(1, 20), 0, now, rivals)
            assert starts or 0 < wait <= 1 / pace + 1e-6
            pacing.spend(conn, job, starts, now)
        started += [now] * starts
    for at in started:
        for seconds in (1.0, 5.0):
            assert sum(at <= other < at + seconds for other in started) <= pace * seconds + burst(pace) + 1
    assert len(started) >= pace * 20 * 0.35
    close_databases()


# ---- shares --------------------------------------------------------------------------------------------------------


NOBODY = Rivals()


def may_start(mine: Other, own: Sequence[Other] = (), rivals: Rivals = NOBODY) -> int:
    """How many more items a job may start beside the others of its owner, and its rivals."""
    return shares(dict(enumerate([mine, *own])), rivals)[0]


SHARES = [
    # (its concurrency, its running), others as (queued, running, concurrency): what it may start
    ((10, 0), [(100, 10, 10)], 0, "nobody goes over the whole"),
    ((10, 0), [(100, 8, 10)], 2, "what is free is had"),
    ((10, 5), [(100, 4, 10)], 0, "the last slot is kept for the one below its part"),
    ((10, 4), [(100, 5, 10)], 1, "up to its part"),
    ((10, 8), [(100, 1, 10)], 0, "over its part nothing, while the other wants its own"),
    ((10, 5), [(0, 1, 10)], 4, "what the other does not want is had"),
    ((10, 5), [(2, 1, 10)], 2, "but for what it wants"),
    ((5, 0), [(100, 25, 50)], 5, "the largest concurrency is the task's"),
    ((5, 3), [(100, 25, 50)], 2, "and its own is its limit"),
    ((2, 0), [(9, 0, 2), (9, 0, 2), (9, 1, 2)], 1, "more jobs than slots have one each while there is one"),
    ((2, 0), [(9, 1, 2), (9, 1, 2), (9, 0, 2)], 0, "and then wait"),
]


@pytest.mark.parametrize(("mine", "others", "may"), [s[:3] for s in SHARES], ids=[s[3] for s in SHARES])
def test_jobs_of_one_task_share_its_concurrency(
    mine: tuple[int, int], others: list[tuple[int, int, int]], may: int
):
    assert max(0, may_start(Other(100, mine[1], mine[0]), [Other(*one) for one in others])) == may


PARTS = [
    # the priorities of an owner's jobs, of which all want more than there is: what each has of ten places
    ((0, 0), [5, 5]),
    ((1, 0), [6, 3]),
    ((-5, -5, -5), [3, 3, 3]),
    ((2, 1, 0), [5, 2, 1]),
    ((10, 0), [9, 0]),
    ((10, -10, 10), [4, 0, 4]),
    ((0,) * 20, [1] * 20),
    ((3, *(0,) * 19), [2, *[0] * 19]),
]


@pytest.mark.parametrize(("priorities", "parts"), PARTS)
def test_each_step_of_priority_doubles_a_jobs_part(priorities: tuple[int, ...], parts: list[int]):
    jobs = [Other(100, 0, 10, priority) for priority in priorities]
    assert parts_of(10, jobs) == parts
    # and the lowest of all has a place while nothing of it has run for a while
    starved = [one._replace(starved=True) for one in jobs]
    assert parts_of(10, starved) == [max(1, part) for part in parts]


def test_a_priority_takes_nothing_from_another_owner():
    mine = Other(100, 0, 10, 10)
    assert may_start(mine, rivals=Rivals({"ben": (5, 5)}, 10)) == 5
    assert may_start(mine._replace(running=5), rivals=Rivals({"ben": (6, 4)}, 10)) == 0


def test_what_one_may_start_who_asks_with_others_is_what_it_may_where_it_asks_alone():
    chance = random.Random(11)
    for _ in range(300):
        jobs = {
            job: places.Rival(
                chance.choice("abc"),
                chance.randint(0, 9),
                chance.randint(0, 5),
                chance.randint(1, 12),
                chance.randint(-2, 2),
            )
            for job in range(chance.randint(1, 7))
        }
        together = places.TaskPlaces(jobs)
        for job, one in jobs.items():
            own = {n: other.as_other for n, other in jobs.items() if other.owner == one.owner}
            rest = [other for other in jobs.values() if other.owner != one.owner]
            wants = {
                owner: (
                    sum(other.as_other.wants for other in rest if other.owner == owner),
                    sum(other.running for other in rest if other.owner == owner),
                )
                for owner in {other.owner for other in rest}
            }
            rivals = Rivals(wants, max((other.concurrency for other in rest), default=0))
            assert together.share(job) == shares(own, rivals)[job]


def test_however_many_jobs_there_are_the_whole_is_kept_and_none_waits_for_ever():
    chance = random.Random(5)
    for whole in (1, 4, 10, 50):
        jobs = [[chance.randint(5, 300), 0, whole] for _ in range(6)]  # queued, running, concurrency
        turns: collections.Counter[int] = collections.Counter()
        for _ in range(4000):
            n = chance.randrange(6)
            job = jobs[n]
            if chance.random() < 0.5 and job[1]:
                job[1] -= 1
            elif job[0]:
                others = [Other(*other) for k, other in enumerate(jobs) if k != n and any(other[:2])]
                may = may_start(Other(*job), others)
                starts = max(0, min(may, job[0]))
                job[0] = job[0] - starts
                job[1] = job[1] + starts
                turns[n] += starts
            assert sum(r for _, r, _ in jobs) <= whole
        assert all(turns[n] > 4 for n in range(6))


def test_an_owners_many_jobs_do_not_starve_anothers_one():
    """Ann has twenty jobs of 5,000 items, Ben comes later with one of ten: half of what runs is his until he is done."""
    chance = random.Random(7)
    whole = 8
    jobs = [["ann", 5_000, 0] for _ in range(20)]  # owner, queued, running

    def turn(n: int) -> None:
        owner, queued, running = jobs[n]
        own = [Other(q, r, whole) for k, (o, q, r) in enumerate(jobs) if k != n and o == owner and (q or r)]
        its = [(q, r) for o, q, r in jobs if o != owner and (q or r)]
        wanted = sum(min(q, whole - r) for q, r in its)
        has = sum(r for _, r in its)
        rivals = Rivals({"the other": (wanted, has)} if its else {}, whole)
        starts = max(0, min(may_start(Other(queued, running, whole), own, rivals), queued))
        jobs[n] = [owner, queued - starts, running + starts]

    def end_one() -> None:
        (job,) = chance.choices(jobs, [job[2] for job in jobs])
        job[2] -= 1

    for _ in range(200):
        turn(chance.randrange(20))
    assert sum(running for _, _, running in jobs) == whole
    jobs.append(["ben", 100, 0])
    for _ in range(whole):
        end_one()
        for n in chance.sample(range(21), 21):
            turn(n)
        assert sum(running for _, _, running in jobs) == whole
    assert jobs[20][2] == whole // 2
    ended = 0
    while jobs[20][1]:
        end_one()
        ended += 1
        for n in chance.sample(range(21), 21):
            turn(n)
    assert ended < 2.5 * 100


async def work(item: str) -> None: ...


async def alone(item: str) -> None: ...


WORK = task(name="pacing_work", concurrency=4)(work)
ALONE = task(name="pacing_alone", concurrency=1)(alone)


def running_job(path: str, made: Task, items: int, **options: Any) -> int:
    jobs = Jobs(path)
    job, _ = jobs.submit(made, {}, OWNER, "background", Options(**options))
    jobs.start(job.id)
    jobs.add_items(job.id, Chunk.of([(f"item {n}", None) for n in range(items)], last=True))
    return job.id


def test_a_claim_gives_a_job_its_part(tmp_path: Path):
    path = str(tmp_path / "rowcast.db")
    prepare(path)
    first = running_job(path, WORK, 50)
    second = running_job(path, WORK, 50)
    ledger = Ledger(path)
    assert len(ledger.exchange(first, "one", Report(limit=10)).items) == 2
    assert len(ledger.exchange(second, "one", Report(limit=10)).items) == 2
    assert ledger.exchange(first, "one", Report(limit=10, in_flight=2)).items == []
    close_databases()


WIDE = task(name="pacing_wide", concurrency=100)(alone)


@pytest.mark.parametrize(
    ("waits", "options", "takes"),
    [("backs off", {}, 0), ("for a person", {"canary": 5}, 5), ("for its pace", {"pace": 20.0}, 2)],
)
def test_what_cannot_start_now_keeps_no_place_from_another_of_its_task(
    tmp_path: Path, waits: str, options: dict[str, Any], takes: int
):
    path = str(tmp_path / "rowcast.db")
    prepare(path)
    ledger = Ledger(path)
    slow = running_job(path, WIDE, 200, **options)
    if waits == "backs off":
        connection(path).execute("update items set run_at = 9e9")
    assert len(ledger.exchange(slow, "one", Report(limit=100)).items) == takes
    assert (own_of(connection(path), WIDE.name, OWNER, clock.now()).keys() == {slow}) == bool(takes)
    fast = running_job(path, WIDE, 1000)
    kept = 2 * takes if "pace" in options else takes  # what starts next at its pace has a place
    has = ledger.exchange(fast, "one", Report(limit=100)).items
    assert len(has) == 100 - kept
    for _ in range(3):
        done = [Result(item.id, item.attempt, "completed", ms=1.0) for item in has[:10]]
        work = ledger.exchange(fast, "one", Report(done, limit=10, in_flight=len(has) - 10))
        assert len(work.items) == 10
        has = has[10:] + work.items
    close_databases()


def test_who_may_start_nothing_yet_at_its_pace_is_not_the_first_of_those_that_have_nothing(tmp_path: Path):
    path = str(tmp_path / "rowcast.db")
    prepare(path)
    ledger = Ledger(path)
    slow = running_job(path, WIDE, 9, pace=1 / 3600)
    (item,) = ledger.exchange(slow, "one", Report(limit=5)).items
    ledger.exchange(slow, "one", Report([Result(item.id, item.attempt, "completed", ms=1.0)]))
    has = ledger.exchange(running_job(path, WIDE, 300), "two", Report(limit=100)).items
    assert len(has) == 99  # one is kept for the other's next
    fast = 2
    done = [Result(item.id, item.attempt, "completed", ms=1.0) for item in has]
    assert len(ledger.exchange(fast, "two", Report(done, limit=100)).items) == 99
    connection(path).execute("delete from paces")  # its hour is over
    assert ledger.exchange(fast, "two", Report([Result(0, 1, "completed")], limit=100)).items == []
    close_databases()


def test_of_two_jobs_the_one_of_the_higher_priority_gets_its_places_first_and_the_other_its_turn(
    tmp_path: Path,
):
    path = str(tmp_path / "rowcast.db")
    prepare(path)
    low = running_job(path, ALONE, 50)
    high = running_job(path, ALONE, 50, priority=3)
    ledger = Ledger(path)

    def turn(job: int, has: list[Claimed]) -> list[Claimed]:
        done = [Result(item.id, item.attempt, "completed") for item in has]
        return ledger.exchange(job, "one", Report(done, limit=1)).items

    assert [job.id for job in Jobs(path).due()] == [high, low]
    assert turn(low, []) == []  # the only place is the other's, which waits,
    has = turn(high, [])
    for _ in range(3):
        assert turn(low, []) == []
        assert len(has) == 1
        has = turn(high, has)  # and keeps it,
    with transaction(connection(path)) as conn:  # but for an item of the lower one, each ten seconds
        conn.execute("update jobs set created_at = created_at - 11 where id = ?", (low,))
    assert turn(high, has) == []
    has = turn(low, [])
    assert len(has) == 1
    assert turn(low, has) == [] and len(turn(high, [])) == 1
    close_databases()


def test_a_minute_of_waiting_counts_as_a_step_of_priority(tmp_path: Path):
    path = str(tmp_path / "rowcast.db")
    prepare(path)
    jobs = [running_job(path, WORK, 1, priority=priority) for priority in (0, 2, 0)]
    assert [job.id for job in Jobs(path).due()] == [jobs[1], jobs[0], jobs[2]]
    with transaction(connection(path)) as conn:
        conn.execute("update jobs set created_at = created_at - 130 where id = ?", (jobs[2],))
    assert [job.id for job in Jobs(path).due()] == [jobs[2], jobs[1], jobs[0]]
    close_databases()


def test_a_task_that_is_held_back_gives_nothing_and_says_for_how_long(tmp_path: Path):
    path = str(tmp_path / "rowcast.db")
    prepare(path)
    first = running_job(path, WORK, 5)
    second = running_job(path, WORK, 5)
    ledger = Ledger(path)
    until_then = time.time() + 60
    ledger.exchange(first, "one", Report(hold=Hold(told(until_then), "429, Retry-After")))
    ledger.exchange(first, "one", Report(hold=Hold(told(until_then - 30), "a shorter one")))
    work_given = ledger.exchange(second, "one", Report(limit=4))
    assert work_given.items == [] and 55 < work_given.wait <= 60
    assert work_given.hold_until == pytest.approx(told(until_then))
    assert Jobs(path).hold(WORK.name) == (pytest.approx(until_then), "429, Retry-After")
    close_databases()
