"""A clock that jumps, of a machine that was set, kills no worker and delays nothing: real processes, with a clock of their own.

`time.time` of every process under test is the machine's plus what a file says, by a sitecustomize on their PYTHONPATH.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from by_hand import OutboxByHand
from conftest import PATIENCE, Server, until
from fleet import Broker, Workers, queue_flags, worker_env
from test_trouble import child_of

from rowcast.jobs import Jobs
from rowcast.tables import database
from rowcast.tables.clock import keep_clock, move
from rowcast.tables.database import close_databases, connection, transaction
from rowcast.tables.ledger import Ledger
from rowcast.tables.schema import prepare
from rowcast.tables.slots import Slots
from rowcast.tasks.built_in import update_users
from rowcast.tasks.clock import FAR, follow, measured, now, start, steady
from rowcast.tasks.work import Chunk, Hold, Report, Result

Serve = Callable[..., Server]
HOUR = 3600.0
MINE = """
import asyncio
from rowcast import Retry, idempotency_key, task

seen = set()

@task(concurrency=5, idempotent=False)
async def slow(item: str):
    await asyncio.sleep(0.7)

@task(concurrency=5, max_attempts=3)
async def again(item: str, after: float):
    if idempotency_key() not in seen:
        seen.add(idempotency_key())
        raise Retry("not yet", after=after)
"""
SITE = """
import os, time

real = time.time

def time_of_file():
    with open(os.environ["JUMPED"]) as file:
        return real() + float(file.read() or 0)

time.time = time_of_file
"""


class Clock:
    """The clock of the processes under test, apart from the machine's by `ahead` seconds."""

    def __init__(self, folder: Path):
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(SITE)
        (folder / "mine.py").write_text(MINE)
        self.file = folder / "jumped"
        self.env = {"PYTHONPATH": str(folder / "site"), "JUMPED": str(self.file)}
        self.ahead = 0.0
        self.jump(0.0)

    def jump(self, seconds: float) -> None:
        self.ahead += seconds
        written = self.file.with_suffix(".new")
        written.write_text(str(self.ahead))
        written.replace(self.file)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture
def server(clock: Clock, serve: Serve) -> Server:
    return serve("--tasks", "mine", env=clock.env)


def moments(server: Server, job: int, name: str = "run_at") -> list[float]:
    return [datetime.fromisoformat(item[name]).timestamp() for item in server.items(job) if item[name]]


@pytest.mark.parametrize("by", [HOUR, -HOUR])
def test_ten_jumps_kill_no_worker_and_make_nothing_unknown(server: Server, clock: Clock, by: float):
    child = until(lambda: child_of(server))
    job = server.begin("slow", items=[str(n) for n in range(60)])
    for n in range(1, 11):
        until(lambda n=n: server.job(job)["completed"] >= 5 * n)
        clock.jump(by)
    done = server.ended(job)
    assert (done["completed"], done["unknown"]) == (60, 0)
    assert {item["attempt"] for item in server.items(job)} == {1}
    assert child_of(server) == child and "hangs" not in server.log.read_text()
    took = [datetime.fromisoformat(done[name]).timestamp() for name in ("started_at", "finished_at")]
    assert 0 < took[1] - took[0] < HOUR, "how long it took is true"


@pytest.mark.parametrize("by", [HOUR, -HOUR])
def test_what_waits_for_another_try_waits_as_long_as_before(server: Server, clock: Clock, by: float):
    job = server.begin("again", items=["a", "b"], after=600.0)
    until(lambda: server.job(job)["queued"] == 2 and len(moments(server, job)) == 2)
    before = moments(server, job)
    clock.jump(by)
    until(lambda: abs(moments(server, job)[0] - before[0]) > HOUR / 2)
    assert [
        round((after - was - by) / 60) for was, after in zip(before, moments(server, job), strict=True)
    ] == [0, 0]
    soon = server.begin("again", items=["a"], after=0.5)
    assert server.ended(soon)["completed"] == 1
    assert [item["attempt"] for item in server.items(job)] == [1, 1]


def test_a_clock_that_was_set_while_nothing_ran_is_heeded_at_the_start(server: Server, clock: Clock):
    job = server.begin("again", items=["a"], after=600.0)
    until(lambda: len(moments(server, job)) == 1)
    (before,) = moments(server, job)
    server.stop()
    clock.jump(-HOUR)
    server.start()
    assert abs(until(lambda: moments(server, job))[0] - before + HOUR) < 60


@pytest.fixture(params=["celery", "dramatiq"])
def queue(
    request: pytest.FixtureRequest, clock: Clock, serve: Serve, broker: Broker, tmp_path: Path
) -> Iterator[Server]:
    server = serve("--tasks", "mine", *queue_flags(request.param, broker.url), env=clock.env)
    env = {name: value for name, value in worker_env(server, broker.url).items() if name not in clock.env}
    workers = Workers(request.param, tmp_path, 2, env)
    yield server
    workers.kill()


def test_a_dashboard_whose_clock_jumps_keeps_the_workers_of_its_queue(queue: Server, clock: Clock):
    job = queue.begin("slow", items=[str(n) for n in range(60)])
    for n in range(1, 11):
        until(lambda n=n: queue.job(job)["completed"] >= 5 * n)
        clock.jump(HOUR if n % 3 else -HOUR)
    done = queue.ended(job)
    assert (done["completed"], done["unknown"]) == (60, 0)
    assert {item["attempt"] for item in queue.items(job)} == {1}
    assert [worker for worker in queue.client.get("/api/workers").json()["workers"] if worker["alive"]]


# ---- the move itself ---------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    made = str(tmp_path / "rowcast.db")
    prepare(made)
    yield made
    close_databases()
    follow(measured())


def waiting_job(path: str) -> int:
    """A job with an item that waits, seconds of a plot that lie side by side, and a pause that the API asked for."""
    jobs = Jobs(path)
    ledger = Ledger(path)
    job, _ = jobs.submit(update_users, {}, "local", "background")
    jobs.start(job.id)
    jobs.add_items(job.id, Chunk.of([("a", None), ("b", None)], last=True))
    ledger.heartbeat("one", "here", 1, "background", "1")
    (item,) = ledger.exchange(job.id, "one", Report(limit=1)).items
    again = Result(item.id, item.attempt, "queued", run_at=steady() + 600)
    ledger.exchange(job.id, "one", Report([again], hold=Hold(steady() + 300, "asked")))
    with transaction(connection(path)) as conn:
        conn.executemany(
            "insert into throughput (job, second, items) values (?, ?, 1)",
            [(job.id, 1_000_000 + n) for n in range(5)],
        )
        conn.executemany(
            "insert into growth (job, fingerprint, second, items) values (?, '', ?, 1)",
            [(job.id, 1_000_000 + n) for n in range(5)],
        )
    return job.id


def state(path: str, job: int) -> list[Any]:
    """All that the move is about, as numbers."""
    questions = (
        "select run_at from items where job = ? and run_at > 0", "select started_at from jobs where id = ?",
        "select hold_until from paces where ? > 0 and hold_until > 0", "select lease from workers where ? > 0",
        "select second from throughput where job = ? order by second limit 5",
        "select second from growth where job = ? order by second limit 5",
    )  # fmt: skip
    return [row[0] for question in questions for row in connection(path).execute(question, (job,))]


@pytest.mark.parametrize("by", [5.0, HOUR, -HOUR])
def test_all_that_waits_is_moved_once_and_stamped(path: str, by: float):
    job = waiting_job(path)
    before = state(path, job)
    seq = Jobs(path).seq()
    with transaction(connection(path)) as conn:
        conn.execute(
            "update rowcast set clock = clock - ?", (by,)
        )  # as if the machine's had been set ahead by so much
    assert Jobs(path).seq() == seq
    keep_clock(path)
    keep_clock(path)
    assert [round(after - was) for was, after in zip(before, state(path, job), strict=True)] == [by] * len(
        before
    )
    assert abs(now() - measured() - steady()) < FAR
    (item,) = [item for item in Jobs(path).items(job) if item.run_at]
    assert item.seq > seq and Jobs(path).job(job, "local").seq >= item.seq


def test_a_moment_of_before_a_restart_of_the_machine_is_left_as_it_is(path: str):
    job = waiting_job(path)
    before = state(path, job)
    with transaction(connection(path)) as conn:
        conn.execute("update rowcast set clock = clock - 100000, boot = 'another'")
    prepare(path)
    assert state(path, job) == before
    assert abs(now() - measured() - steady()) < FAR


def test_a_clock_that_is_off_by_less_than_anybody_sets_it_is_left_alone(path: str):
    job = waiting_job(path)
    before = state(path, job)
    with transaction(connection(path)) as conn:
        conn.execute("update rowcast set clock = clock - ?", (FAR / 2,))
    keep_clock(path)
    assert state(path, job) == before


@pytest.mark.parametrize("by", [HOUR, -HOUR])
def test_who_waits_to_write_while_the_clock_is_set_goes_by_the_new_one(
    path: str, by: float, monkeypatch: pytest.MonkeyPatch
):
    """A lease, another try, a pause that an API asked for and when a message is due are as far off as they would be:
    else who has just spoken would be dead."""
    job = waiting_job(path)
    ledger = Ledger(path)
    slots = Slots(path)
    conn = connection(path)
    with transaction(conn):
        conn.execute("update workers set lease = lease - 10")  # it is late: `live` has something to write
        conn.execute(
            "insert into slots (job, slot, token, due_at, tries) values (?, 1, 'x', 1, 1), (?, 2, 'x', 1, 1)",
            (job, job),
        )
    with transaction(conn):
        conn.execute("update paces set hold_until = 0")
    (item,) = ledger.exchange(job, "one", Report(limit=1)).items
    again = Result(item.id, item.attempt, "queued", run_at=steady() + 600)
    outbox = OutboxByHand(path)
    with transaction(conn):
        conn.execute(
            """insert into deliveries (id, job, task, owner, channel, receiver, trusted, event, body, due_at,
                   asked_at, created_at)
               values ('m', ?, 'x', 'local', 'webhook', 'x', 1, 'completed', '', 1, ?2 - 10, ?2)""",
            (job, now()),
        )
    (message,) = outbox.claim(1, 1, {})
    writers = [
        partial(ledger.heartbeat, "one", "here", 1, "background", "1"),
        partial(slots.live, "one"),
        partial(slots.hear, job, 1, "x"),
        partial(slots.end, job, 2, "x", 0.0),
        partial(ledger.exchange, job, "one", Report([again], hold=Hold(steady() + 600, "asked again"))),
        partial(outbox.put_off, message, 503, "not now", steady() + 600),
    ]
    begin = database._begin
    waiting = threading.Semaphore(0)

    def told(conn: Any) -> Any:
        waiting.release()
        return begin(conn)

    with ThreadPoolExecutor(len(writers)) as pool:
        with transaction(conn):
            monkeypatch.setattr(database, "_begin", told)
            asked = [pool.submit(write) for write in writers]
            for _ in writers:
                assert waiting.acquire(timeout=PATIENCE)
            set_to = measured() + by
            conn.execute("update rowcast set clock = ?", (set_to,))
            move(conn, set_to - start())
        for one in asked:
            one.result(PATIENCE)
        pool.submit(close_databases).result()
    off = [
        row[0] - now()
        for row in conn.execute(
            """select lease from workers union all select due_at from slots union all
               select run_at from items where run_at > 0 union all select hold_until from paces
               union all select due_at from deliveries where status = 'queued'"""
        )
    ]
    assert len(off) == 7
    assert all(0 < seconds < HOUR / 2 for seconds in off), off
