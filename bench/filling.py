"""How long a start takes, and how fast the items are written behind it, for few users and for very many."""

import time
from collections.abc import Iterator
from statistics import median

from bench.processes import Dashboard, GaveUp, api, dashboard, until
from bench.table import Row

FEW = 10
RATE = 100_000  # items per second


def filling(quick: bool) -> Iterator[Row]:
    """POST /jobs, and the items written per second while the job has begun to run."""
    sizes = (100_000,) if quick else (100_000, 1_000_000)
    with api() as url, dashboard(url, sizes[-1]) as ours:
        few, many = starts(ours, sizes[-1], 10 if quick else 30)
        ratio = median(m / f for m, f in zip(many, few, strict=True))
        yield Row(
            f"POST /jobs for {sizes[-1]:,} users, for {FEW}", median(many), median(few), "ms", ratio, "< 2"
        )
        for size in sizes:
            for name, pace in (("alone", "1/s"), ("while the job runs", None)):
                found = [
                    items_per_second(ours, size, pace) for _ in range(1 if quick or size > 100_000 else 3)
                ]
                yield Row(
                    f"filling {size:,} users, {name}", median(found), None, "items/s", None, f">= {RATE}"
                )


def starts(ours: Dashboard, users: int, times: int) -> tuple[list[float], list[float]]:
    """The milliseconds until the form's answer, for few users and for many, in turns."""
    few = []
    many = []
    for _ in range(times):
        few.append(start(ours, FEW))
        many.append(start(ours, users))
    return few, many


def start(ours: Dashboard, users: int) -> float:
    """One start with the page's form; the job is then put away. Returns milliseconds."""
    started = time.perf_counter()
    answer = ours.client.post("/jobs", data={"task": "update_users", "limit": str(users)})
    taken = (time.perf_counter() - started) * 1000
    if answer.status_code != 303:
        raise GaveUp(answer.text)
    put_away(ours, int(answer.headers["location"].rpartition("/")[2]))
    return taken


def items_per_second(ours: Dashboard, users: int, pace: str | None) -> float:
    """From the start to the last item in the table, as the API shows it."""
    started = time.perf_counter()
    job = ours.begin("update_users", 50, pace, limit=users)
    until(lambda: ours.job(job)["total"] == users, every=0.01)
    taken = time.perf_counter() - started
    put_away(ours, job)
    return users / taken


def put_away(ours: Dashboard, job: int) -> None:
    """Cancel a job that has not ended, and wait until all its items are cancelled."""
    ours.client.post(f"/api/jobs/{job}/cancel")
    until(lambda: ours.job(job)["finished_at"])
