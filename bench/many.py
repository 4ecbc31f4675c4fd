"""Many jobs side by side in one worker: small ones against one of the same items, and slow ones with a viewer on each."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import apsw

from bench.processes import Crowd, Dashboard, GaveUp, api, dashboard, until
from bench.table import Row

ITEMS = 10_000
SPLITS = (10, 50, 200)
SLOW_JOBS = {300: 0.95, 1_000: 0.9}  # and what of the bound is to be reached
SLOW_ITEMS = 400  # of each: more than are done while the bench lasts
AT_ONCE = 1_000
SECONDS = 0.5  # that a slow item takes
DUE = 1.5  # seconds from the start of many jobs to the moment at which they may begin
TICK = os.sysconf("SC_CLK_TCK")


def many(quick: bool) -> Iterator[Row]:
    """Jobs of one task, which share its concurrency."""
    yield from split(quick)
    for jobs in SLOW_JOBS:
        yield from slow(quick, jobs)


def split(quick: bool) -> Iterator[Row]:
    """The same items as one job and as many, which all become due in the same moment."""
    with api() as url, dashboard(url, 1) as ours:
        measured(ours, 1)  # the worker has begun
        for jobs in SPLITS:
            found = []
            for n in range(1 if quick else 5):
                sides = (jobs, 1) if n % 2 else (1, jobs)
                taken = {side: measured(ours, side) for side in sides}
                found.append((taken[jobs], taken[1]))
            name = f"{ITEMS:,} instant items as {jobs} jobs, beside one job"
            speeds = [(many[0], one[0]) for many, one in found]
            ratio = median(a / b for a, b in speeds)
            yield Row(
                name, median(a for a, _ in speeds), median(b for _, b in speeds), "items/s", ratio, ">= 0.8"
            )
            cpu = [(many[1], one[1]) for many, one in found]
            ratio = median(a / b for a, b in cpu)
            yield Row(
                f"{name}, the worker's CPU",
                median(a for a, _ in cpu),
                median(b for _, b in cpu),
                "µs/item",
                ratio,
                "",
            )


def measured(ours: Dashboard, jobs: int) -> tuple[float, float]:
    """Items per second of so many jobs together, and what of the processor each took the worker, in µs."""
    due = time.time() + DUE + jobs / 20
    started = [begin_at(ours, due, ITEMS // jobs) for _ in range(jobs)]
    if time.time() > due:
        raise GaveUp("the jobs could not be started before they were due")
    worker = worker_of(ours)
    before = cpu_of(worker)
    ended = until(lambda: all_ended(ours, started))
    if sum(completed for completed, _ in ended) != ITEMS:
        raise GaveUp(f"{jobs} jobs: {ended}")
    return ITEMS / (max(at for _, at in ended) - due), (cpu_of(worker) - before) / ITEMS * 1e6


def begin_at(ours: Dashboard, due: float, items: int) -> int:
    body = {
        "task": "instant",
        "args": {"count": items},
        "run_at": datetime.fromtimestamp(due, UTC).isoformat(),
    }
    answer = ours.client.post("/api/jobs", json=body)
    if answer.status_code != 201:
        raise GaveUp(answer.text)
    return int(answer.json()["id"])


def all_ended(ours: Dashboard, jobs: list[int]) -> list[tuple[int, float]]:
    """What each has completed and when it ended, once all have; [] before. Read from the file: the server has nothing to do."""
    rows = ask(ours, "select completed, finished_at from jobs where id between ? and ?", jobs[0], jobs[-1])
    return rows if all(at for _, at in rows) else []


def slow(quick: bool, jobs: int) -> Iterator[Row]:
    """Slow items of many jobs, as many at once as the task may have: what is done of what the bound allows."""
    seconds = 6.0 if quick else 15.0
    with api() as url, dashboard(url, 1, "--streams-per-viewer", str(2 * jobs)) as ours:
        for _ in range(jobs):
            ours.begin("moment", AT_ONCE, count=SLOW_ITEMS, milliseconds=int(SECONDS * 1000))
        until(lambda: ask(ours, "select min(filled) from jobs")[0][0])
        crowd = Crowd(ours.port, "/api/jobs/{job}/events", jobs, seconds, "")
        time.sleep(seconds / 2)
        worker = worker_of(ours)
        began = time.monotonic()
        before = cpu_of(worker)
        done = done_of(ours)
        time.sleep(seconds / 2)
        taken = time.monotonic() - began
        speed = (done_of(ours) - done) / taken
        core = (cpu_of(worker) - before) / taken
        seen = crowd.seen()
    bound = AT_ONCE / SECONDS
    name = f"{jobs:,} jobs of items of {SECONDS:g} s, {AT_ONCE:,} at once, a viewer on each"
    target = f">= {SLOW_JOBS[jobs]:g}"
    yield Row(f"{name}, of what the bound allows", speed, bound, "items/s", speed / bound, target)
    yield Row(f"{name}, of a core for the worker", core, None, "cores", None, "< 0.5")
    yield Row(f"{name}, from a change to the viewer, p99", seen["p99"], None, "ms", None, "< 200")


def worker_of(ours: Dashboard) -> int:
    return int(until(lambda: ask(ours, "select pid from workers order by lease desc limit 1"))[0][0])


def done_of(ours: Dashboard) -> int:
    return int(ask(ours, "select sum(completed) from jobs")[0][0])


def ask(ours: Dashboard, sql: str, *values: int) -> list[tuple]:
    conn = apsw.Connection(ours.path, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        conn.set_busy_timeout(10_000)
        return conn.execute(sql, values).fetchall()
    finally:
        conn.close()


def cpu_of(pid: int) -> float:
    """The processor's seconds that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK
