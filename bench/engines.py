"""Slices against one message for each user on the same engine; and how the ledger carries many workers."""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import httpx
import httpx_sse
import msgspec

from bench.processes import (
    ROOT,
    Dashboard,
    GaveUp,
    Reader,
    api,
    dashboard,
    seconds_of_processor,
    until,
)
from bench.queues import RESULTS, TOKEN, QueueDashboard, broker, rowcast, workers
from bench.table import Row
from rowcast.tables.database import close_databases, connection, transaction
from rowcast.tasks.work import Beat, Report, Result
from rowcast.worker.plan import REPORT_EVERY
from rowcast.worker.remote import RemoteLedger, open_ledger_client, post
from rowcast.worker.rounds import Rounds

USERS = {
    "celery": {0: 8_000, 20: 2_000},
    "dramatiq": {0: 10_000, 20: 6_000},
}  # by the API's latency in milliseconds
TARGETS = {"celery": 4, "dramatiq": 2}
AT_ONCE = 200
WARM = 20
SIMULATED = (10, 50, 200)
SECONDS = 8.0  # that the simulated workers work
BATCH = 10  # items of one report, and of its answer
SLICES = 16  # of one process, each of a job of its own
PAUSE = 0.05  # seconds between two reports of a simulated worker: those of a runner are further apart


def slices(ours: Dashboard, users: int) -> float:
    """Users per second of one job, from the click to the last row on the stream."""
    started = time.monotonic()
    job = ours.begin("update_users", AT_ONCE, limit=users)
    reader = Reader(ours, f"/api/jobs/{job}/events")
    reader.start()
    reader.join(120)
    if not reader.done or ours.job(job)["completed"] != users:
        raise GaveUp(f"job {job}: {ours.job(job)}")
    return users / (time.monotonic() - started)


def messages(engine: str, api_url: str, broker_url: str, users: int) -> float:
    """Users per second with a message for each, from the first that is sent to the last result that is kept."""
    import valkey

    env = {"BENCH_BROKER": broker_url, "BENCH_API": api_url, "BENCH_ENGINE": engine}
    store = valkey.Valkey(port=urlsplit(broker_url).port, db=RESULTS)
    with contextlib.closing(store), workers(engine, "bench.queues", env):
        send(env, WARM)  # opens the connections
        until(lambda: store.dbsize() == WARM)
        started = time.monotonic()
        send(env, users)
        until(lambda: store.dbsize() == WARM + users, 0.01)
        taken = time.monotonic() - started
        store.flushall()
    return users / taken


def send(env: dict[str, str], users: int) -> None:
    subprocess.run(
        [sys.executable, "-m", "bench.queues", str(users)], cwd=ROOT, env=os.environ | env, check=True
    )


def against_messages(quick: bool) -> Iterator[Row]:
    """Each engine, its slices and its messages in turns; and the embedded engine, which needs no queue, against the same."""
    for engine, latencies in USERS.items():
        for latency, most in latencies.items():
            users = most // (2 if quick else 1)
            found = []
            with api(latency) as url, broker() as queue:
                for _ in range(1 if quick else 3):
                    peer = messages(engine, url, queue, users)
                    with rowcast(engine, url, queue, users) as ours:
                        slices(ours, AT_ONCE)  # opens the connections
                        on_queue = slices(ours, users)
                    with dashboard(url, users) as ours:
                        slices(ours, AT_ONCE)
                        found.append((on_queue, slices(ours, users), peer))
            peers = median(peer for *_, peer in found)
            ratios = [median(run[n] / run[2] for run in found) for n in (0, 1)]
            mine = [median(run[n] for run in found) for n in (0, 1)]
            name = f"{engine}, slices against messages, {latency} ms"
            yield Row(name, mine[0], peers, "users/s", ratios[0], f">= {TARGETS[engine]}")
            name = f"no queue, against {engine}'s messages, {latency} ms"
            yield Row(name, mine[1], peers, "users/s", ratios[1], ">= 1")


def until_seen(quick: bool) -> Iterator[Row]:
    """From the end of an item on a worker elsewhere until it is on the stream."""
    for engine in USERS:
        with api() as url, broker() as queue, rowcast(engine, url, queue, 1) as ours:
            job = ours.begin("moment", count=100 if quick else 500)
            late = []
            with httpx_sse.connect_sse(ours.client, "GET", f"/api/jobs/{job}/events") as source:
                for event in source.iter_sse():
                    if event.event == "done":
                        break
                    if event.event == "item" and (ended := event.json()["result"]):
                        late.append(time.time() - ended)
        late.sort()
        yield Row(
            f"{engine}, from an item's end to the stream, p50", median(late) * 1000, None, "ms", None, "< 300"
        )
        yield Row(f"{engine}, the same, p99", late[int(len(late) * 0.99)] * 1000, None, "ms", None, "< 300")


def until_heard(quick: bool) -> Iterator[Row]:
    """From a pause until workers elsewhere have nothing in flight and have given back what they held, over and over."""
    for engine in USERS:
        with api(20) as url, broker() as queue, rowcast(engine, url, queue, 100_000) as ours:
            job = ours.begin("update_users", AT_ONCE)
            late = []
            for _ in range(5 if quick else 20):
                done = ours.job(job)["completed"]
                until(lambda done=done, job=job: ours.job(job)["completed"] > done + AT_ONCE, 0.01)
                began = time.monotonic()
                ours.act(job, "pause")
                until(lambda job=job: ours.job(job)["running"] == 0, 0.01)
                late.append((time.monotonic() - began) * 1000)
                ours.act(job, "resume")
            ours.act(job, "cancel")
        yield Row(
            f"{engine}, from a pause until nothing is in flight, median",
            median(late),
            None,
            "ms",
            None,
            "< 1000",
        )
        yield Row(f"{engine}, the same, longest", max(late), None, "ms", None, "< 1000")


@dataclass
class Load:
    """What simulated workers have measured."""

    calls: list[float] = field(
        default_factory=list
    )  # seconds of each report, whose answer brings the next items
    items: int = 0
    asked: int = 0  # calls over HTTP


async def simulate(ours: QueueDashboard, job: int, number: int) -> Load:
    """So many workers, each of which reports and gets the next items as often as a runner does, for some seconds."""
    load = Load()
    client = open_ledger_client(ours.url, TOKEN)
    end = 0.0

    async def worker(n: int) -> None:
        name = f"simulated-{n}"
        ledger = RemoteLedger(client, job, n, f"token-{n}")
        await asyncio.sleep(PAUSE * n / number)
        work = await ledger.exchange(job, name, Report(limit=BATCH))
        while time.monotonic() < end:
            await asyncio.sleep(PAUSE)
            done = [Result(item.id, item.attempt, "completed", 200, ms=20.0) for item in work.items]
            began = time.perf_counter()
            work = await ledger.exchange(job, name, Report(done, limit=BATCH))
            load.calls.append(time.perf_counter() - began)
            load.items += len(done)

    async def beat() -> None:
        for n in range(number):
            said = Beat(worker=f"simulated-{n}", host="bench", pid=n, engine="celery", version="1")
            await client.post("/api/ledger/heartbeat", content=msgspec.json.encode(said))

    async def go_on_beating() -> None:
        while True:
            await asyncio.sleep(2)
            await beat()

    async with client:
        await beat()
        end = time.monotonic() + SECONDS
        beating = asyncio.create_task(go_on_beating())
        await asyncio.gather(*map(worker, range(number)))
        beating.cancel()
    return load


def ledger(quick: bool) -> Iterator[Row]:
    """One dashboard and 10, 50, 200 workers, all in one process beside it; a page of it is read meanwhile."""
    for number in SIMULATED:
        with api() as url, broker() as queue, simulated_dashboard(url, queue, 200_000) as ours:
            job = ours.begin("update_users", 1000)
            until(lambda ours=ours, job=job: ours.job(job)["total"] >= 50_000)
            hold_slots(ours.path, job, number)
            page = Pages(ours, job)
            page.start()
            used = seconds_of_processor(ours.process.pid)
            load = asyncio.run(simulate(ours, job, number))
            used = seconds_of_processor(ours.process.pid) - used
            page.over.set()
            page.join()
            ours.act(job, "cancel")
        calls = sorted(load.calls)
        p99 = calls[int(len(calls) * 0.99)] * 1000
        yield Row(
            f"ledger, {number} workers, reports",
            len(calls) / SECONDS,
            None,
            "reports/s",
            None,
            ">= 1885" if number == 200 else ">= 100",
        )
        yield Row(f"ledger, {number} workers, items", load.items / SECONDS, None, "items/s", None, ">= 1000")
        yield Row(f"ledger, {number} workers, a report, p50", median(calls) * 1000, None, "ms", None, "< 100")
        took = used / (len(calls) + number) * 1000
        yield Row(
            f"ledger, {number} workers, a report, the dashboard's processor", took, None, "ms", None, ""
        )
        yield Row(f"ledger, {number} workers, a report, p99", p99, None, "ms", None, "< 1000")
        yield Row(
            f"ledger, {number} workers, a page meanwhile",
            median(page.times) * 1000,
            None,
            "ms",
            None,
            "< 200",
        )


async def simulate_slices(ours: QueueDashboard, jobs: list[int], together: bool, seconds: float) -> Load:
    """One process of a worker with a slice of each job, which report and ask at the same moments, as runs do."""
    load = Load()
    client = open_ledger_client(ours.url, TOKEN)
    slices: dict[int, RemoteLedger] = {}
    rounds = Rounds(client, slices) if together else None

    async def note(request: httpx.Request) -> None:
        load.asked += 1

    async def work_on(ledger: RemoteLedger) -> None:
        work = await ledger.exchange(ledger.job, "simulated-0", Report(limit=BATCH))
        while time.monotonic() < end:
            await asyncio.sleep(-time.monotonic() % REPORT_EVERY)
            done = [Result(item.id, item.attempt, "completed", 200, ms=20.0) for item in work.items]
            began = time.perf_counter()
            work = await ledger.exchange(ledger.job, "simulated-0", Report(done, limit=BATCH))
            load.calls.append(time.perf_counter() - began)
            load.items += len(done)

    async with client:
        await post(
            client,
            "heartbeat",
            Beat(worker="simulated-0", host="bench", pid=0, engine="celery", version="1"),
            Any,
        )
        client.event_hooks["request"].append(note)
        slices |= {job: RemoteLedger(client, job, 0, "token-0", rounds) for job in jobs}
        end = time.monotonic() + seconds
        await asyncio.gather(*map(work_on, slices.values()))
    return load


def rounds(quick: bool) -> Iterator[Row]:
    """A process with a slice of each of many jobs: its reports in rounds, and each by a call of its own."""
    seconds = 3.0 if quick else 6.0  # within a lease
    with api() as url, broker() as queue, simulated_dashboard(url, queue, 1) as ours:
        found = []
        for together in (True, False):
            jobs = [ours.begin("instant", count=20_000) for _ in range(SLICES)]
            until(lambda jobs=jobs: all(ours.job(job)["total"] == 20_000 for job in jobs))
            for job in jobs:
                hold_slots(ours.path, job, 1)
            used = seconds_of_processor(ours.process.pid)
            load = asyncio.run(simulate_slices(ours, jobs, together, seconds))
            used = seconds_of_processor(ours.process.pid) - used
            found.append(
                (load.asked / load.items * 1000, used / len(load.calls) * 1000, median(load.calls) * 1000)
            )
            for job in jobs:
                ours.act(job, "cancel")
    name = f"a process with {SLICES} slices, in rounds, beside a call each"
    for n, (what, unit) in enumerate(
        (("calls", "/1,000 items"), ("a report, the dashboard's processor", "ms"), ("a report, p50", "ms"))
    ):
        mine = found[0][n]
        others = found[1][n]
        yield Row(f"{name}: {what}", mine, others, unit, mine / others, "")


class Pages(threading.Thread):
    """Somebody who reads the job's page again and again."""

    def __init__(self, ours: QueueDashboard, job: int):
        super().__init__(daemon=True)
        self.url = f"{ours.url}/jobs/{job}"
        self.times = [0.0]
        self.over = threading.Event()

    def run(self) -> None:
        with httpx.Client(timeout=30) as client:
            while not self.over.wait(0.2):
                began = time.perf_counter()
                client.get(self.url)
                self.times.append(time.perf_counter() - began)


@contextlib.contextmanager
def simulated_dashboard(api_url: str, queue: str, users: int) -> Iterator[QueueDashboard]:
    with tempfile.TemporaryDirectory(prefix="rowcast-bench-", ignore_cleanup_errors=True) as directory:
        made = QueueDashboard(Path(directory), api_url, users, "celery", queue)
        try:
            yield made
        finally:
            made.stop()


def hold_slots(path: str, job: int, number: int) -> None:
    """The simulated workers' slices, as if they had begun."""
    with transaction(connection(path)) as conn:
        conn.execute("update jobs set status = 'running', started_at = unixepoch() where id = ?", (job,))
        conn.executemany(
            "insert or replace into slots (job, slot, token, due_at) values (?, ?, ?, ?)",
            [(job, n, f"token-{n}", time.time() + 60) for n in range(number)],
        )
    close_databases()


def engines(quick: bool) -> Iterator[Row]:
    """All of it."""
    yield from until_seen(quick)
    yield from until_heard(quick)
    yield from against_messages(quick)
    yield from ledger(quick)
    yield from rounds(quick)
