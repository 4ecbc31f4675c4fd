"""What a person waits for a job's page while the engine is at work, against the same page while the job is paused."""

import time
from collections.abc import Iterator
from statistics import median
from typing import Any

from bench.processes import Dashboard, GaveUp, Reader, api, dashboard, until
from bench.table import Row, p99

USERS = 100_000  # more than are done while the bench lasts
ROWS = 100
PAUSE = 0.01  # seconds between two looks, so that it is one person who looks


def page(quick: bool) -> Iterator[Row]:
    """A job at full speed, then a task that computes in a plain `def`."""
    with api() as url, dashboard(url, USERS) as ours:
        yield from _while_running(ours, "update_users", quick, concurrency=50)
    with api() as url, dashboard(url, 0) as ours:
        yield from _while_running(ours, "compute", quick, count=USERS)


def _while_running(ours: Dashboard, task: str, quick: bool, **how: Any) -> Iterator[Row]:
    job = ours.begin(task, **how)
    reader = Reader(ours, f"/events?job={job}")
    reader.start()
    until(lambda: (now := ours.job(job))["total"] == USERS and now["completed"] > ROWS)
    busy: list[float] = []
    idle: list[float] = []
    for _ in range(2 if quick else 6):
        busy += looks(ours, job)
        ours.act(job, "pause")
        until(lambda: ours.job(job)["running"] == 0)
        idle += looks(ours, job)
        ours.act(job, "resume")
    if ours.job(job)["status"] != "running":
        raise GaveUp(f"job {job} ended too early")
    ratio = median(busy) / median(idle)
    yield Row(
        f"page of {ROWS} rows while {task} runs, median", median(busy), median(idle), "ms", ratio, "< 2"
    )
    yield Row(f"page of {ROWS} rows while {task} runs, p99", p99(busy), p99(idle), "ms", None, "< 100")


def looks(ours: Dashboard, job: int, times: int = 50) -> list[float]:
    """The milliseconds of so many looks at the page, one after the other."""
    found = []
    for _ in range(times):
        started = time.perf_counter()
        answer = ours.client.get(f"/jobs/{job}")
        found.append((time.perf_counter() - started) * 1000)
        if answer.text.count('id="item-') != ROWS:
            raise GaveUp(f"the page of job {job} has not {ROWS} rows")
        time.sleep(PAUSE)
    return found
