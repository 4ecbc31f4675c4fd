"""A retry of very many failed items: how long it holds others up, and what they do meanwhile.

`python -m bench.retry [--items N] [--checkout FOLDER]` measures this checkout, or another one of any age: it
uses only what a user can, and columns that were always there. The items are written as failed by SQL.
"""

import argparse
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import apsw
import httpx

from bench.processes import ROOT, Dashboard, GaveUp, api, dashboard, until
from bench.table import Row, lines

ITEMS = 1_000_000
QUICK = 50_000
USERS = 500_000  # of the job that runs beside it: more than are done meanwhile
FAILED_AT_ONCE = 20_000  # items that are written as failed in one transaction
PAUSE = 0.05  # seconds between two looks at the page, so that it is one person who looks
LONGEST = 600.0  # seconds that a retry may take
BEFORE = 5.0  # seconds for which all is measured without the retry
ERROR = "HTTP 503: Service Unavailable"


def retry(quick: bool) -> Iterator[Row]:
    """The retry of a job, with another one that runs beside it."""
    yield from measure(QUICK if quick else ITEMS, ROOT)


def measure(items: int, root: Path) -> Iterator[Row]:
    """The rows of one retry, in the checkout at `root`."""
    with api() as url, dashboard(url, USERS, root=root) as ours:
        job = failed_job(ours, items)
        other = ours.begin("update_users", 50)
        until(lambda: ours.job(other)["total"] == USERS)
        without = Meanwhile(ours, job, other)
        without.during(lambda: time.sleep(BEFORE))
        took: list[float] = []
        meanwhile = Meanwhile(ours, job, other)
        meanwhile.during(lambda: took.extend(press(ours, job, items)))
        if ours.job(other)["status"] != "running":
            raise GaveUp(f"job {other} ended too early")
        answered, queued = took
    name = f"retry of {items:,} items"
    yield Row(f"{name}: its answer", answered * 1000, None, "ms", None, "< 1000")
    yield Row(f"{name}: all are queued", queued, None, "s", None, "")
    yield Row(
        f"{name}: longest wait to write", max(meanwhile.waits), max(without.waits), "ms", None, "< 1000"
    )
    pages = (meanwhile.looks, without.looks)
    yield Row(f"{name}: the job's page meanwhile, median", *map(median, pages), "ms", None, "< 100")
    yield Row(f"{name}: the job's page meanwhile, slowest", *map(max, pages), "ms", None, "< 1000")
    speeds = (meanwhile.speed, without.speed)
    ratio = meanwhile.speed / without.speed
    yield Row(f"{name}: another job meanwhile", *speeds, "items/s", ratio, ">= 0.9")


def failed_job(ours: Dashboard, items: int) -> int:
    """A job whose items have all failed, which would go on at one item a second."""
    job = ours.begin("moment", rate="1/s", count=items)
    until(lambda: ours.job(job)["total"] == items)
    ours.act(job, "pause")
    until(lambda: not ours.job(job)["running"])
    conn = apsw.Connection(ours.path)
    conn.set_busy_timeout(60_000)
    (first, last) = conn.execute("select min(id), max(id) from items where job = ?", (job,)).fetchone()
    while first <= last:
        with conn:
            fail(conn, job, first, first + FAILED_AT_ONCE)
        first += FAILED_AT_ONCE
    conn.close()
    return job


def fail(conn: apsw.Connection, job: int, first: int, end: int) -> None:
    """Write the items of a job that are queued, those from `first` and before `end`, as failed."""
    now = time.time()
    conn.execute("update rowcast set seq = seq + ?", (FAILED_AT_ONCE + 1,))
    conn.execute(
        """update items set status = 'failed', attempt = 1, code = 503, error = ?1, fingerprint = '503 …',
               updated_at = ?2, seq = (select seq from rowcast) - ?3 + id - ?4
           where id >= ?4 and id < ?5 and job = ?6 and status = 'queued'""",
        (ERROR, now, FAILED_AT_ONCE, first, end, job),
    )
    changed = conn.changes()
    conn.execute(
        """update jobs set queued = queued - ?1, failed = failed + ?1, seq = (select seq from rowcast)
           where id = ?2""",
        (changed, job),
    )
    conn.execute(
        """insert into error_groups (job, fingerprint, code, message, items, first_at, last_at, sample)
               values (?1, '503 …', 503, ?2, ?3, ?4, ?4, ?2)
           on conflict (job, fingerprint) do update set items = items + ?3""",
        (job, ERROR, changed, now),
    )


def press(ours: Dashboard, job: int, items: int) -> tuple[float, float]:
    """Retry all: seconds until the answer, and until no item is left as it was."""
    before = ours.job(job)
    if before["failed"] < items - 100:
        raise GaveUp(f"job {job} has only {before['failed']:,} failed items")
    pressed = time.perf_counter()
    with httpx.Client(base_url=ours.url, timeout=LONGEST) as client:
        client.post(f"/api/jobs/{job}/retry").raise_for_status()
    answered = time.perf_counter() - pressed
    while ours.job(job)["failed"]:
        if time.perf_counter() - pressed > LONGEST:
            raise GaveUp(f"after {LONGEST:g} s job {job} still has failed items")
        time.sleep(0.02)
    return answered, time.perf_counter() - pressed


class Meanwhile:
    """What others see while something is done: waits for the writer and for a page, and a job's speed."""

    def __init__(self, ours: Dashboard, job: int, other: int):
        self.ours = ours
        self.job = job
        self.other = other
        self.over = threading.Event()
        self.waits: list[float] = []  # milliseconds until another process could begin to write
        self.looks: list[float] = []  # milliseconds until the page was there
        self.speed = 0.0  # items of the other job per second

    def during(self, done: Callable[[], object]) -> None:
        """Look on while it is done."""
        others = [threading.Thread(target=look) for look in (self._write, self._look)]
        for thread in others:
            thread.start()
        try:
            began = time.perf_counter()
            before = self._completed()
            done()
            self.speed = (self._completed() - before) / (time.perf_counter() - began)
        finally:
            self.over.set()
            for thread in others:
                thread.join()

    def _completed(self) -> int:
        return int(self.ours.job(self.other)["completed"])

    def _write(self) -> None:
        """Begin to write, again and again, and write nothing.

        It asks every millisecond: SQLite's own patience would sleep for ever longer times.
        """
        conn = apsw.Connection(self.ours.path)
        while not self.over.is_set():
            asked = time.perf_counter()
            while not began(conn) and not self.over.is_set():
                time.sleep(0.001)
            self.waits.append((time.perf_counter() - asked) * 1000)
            if conn.in_transaction:
                conn.execute("rollback")
            self.over.wait(PAUSE)
        conn.close()

    def _look(self) -> None:
        """Look at the page of the job that is retried."""
        with httpx.Client(base_url=self.ours.url, timeout=LONGEST) as client:
            while not self.over.is_set():
                asked = time.perf_counter()
                client.get(f"/jobs/{self.job}").raise_for_status()
                self.looks.append((time.perf_counter() - asked) * 1000)
                self.over.wait(PAUSE)


def began(conn: apsw.Connection) -> bool:
    """Whether a transaction that writes could begin."""
    with contextlib.suppress(apsw.BusyError):
        conn.execute("begin immediate")
    return bool(conn.in_transaction)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.retry", description="Measure a retry of many items."
    )
    parser.add_argument("--items", type=int, default=ITEMS, help="how many have failed")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="another one, with its own environment")
    given = parser.parse_args()
    print("\n".join(lines(list(measure(given.items, given.checkout.absolute())))))


if __name__ == "__main__":
    main()
