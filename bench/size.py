"""What does not grow with the job: its page, its filters, its search and the memory, at 1,000 items and at 1,000,000."""

import subprocess
import time
from collections.abc import Iterator
from statistics import median

from bench.processes import Crowd, Dashboard, GaveUp, api, dashboard, resident, until
from bench.table import Row, p99

SMALL = 1_000
LARGE = 1_000_000
FILTERS = ("moving", "all", "failed", "queued", "completed")
SEARCHES = ("user999", "user5555", "nobody")  # found early, found later, nowhere


def size(quick: bool) -> Iterator[Row]:
    """Opening the page, each filter, the search; then the memory while jobs of both sizes run."""
    times = 10 if quick else 40
    with api() as url, dashboard(url, LARGE) as ours:
        small, large = (filled(ours, items) for items in (SMALL, LARGE))
        opened: dict[int, list[tuple[float, int]]] = {small: [], large: []}
        for _ in range(times):
            for job in (small, large):
                opened[job].append(fetch(ours, f"/jobs/{job}"))
        milliseconds = [median(t for t, _ in opened[job]) for job in (large, small)]
        length = [float(opened[job][-1][1]) for job in (large, small)]
        name = f"the page of {LARGE:,} items, of {SMALL:,}"
        yield Row(f"{name}, time", *milliseconds, "ms", milliseconds[0] / milliseconds[1], "< 1.2")
        yield Row(f"{name}, bytes", *length, "bytes", length[0] / length[1], "< 1.2")
        for view in FILTERS:
            yield timed(ours, large, f"filter {view}", f"view={view}&after=-1", times)
        yield timed(ours, large, "filter queued, its middle", f"view=queued&after={LARGE // 2}", times)
        for text in SEARCHES:
            yield timed(ours, large, f"search for {text}", f"find={text}", times)
    grown = [memory(items, 6 if quick else 15) for items in (SMALL, LARGE)]
    name = f"memory of the serving process, job of {LARGE:,}, of {SMALL:,}"
    yield Row(name, grown[1][0], grown[0][0], "MB", None, "")
    yield Row(f"{name}: difference", grown[1][0] - grown[0][0], None, "MB", None, "< 50")
    yield Row(
        "the same of the worker's process: difference", grown[1][1] - grown[0][1], None, "MB", None, "< 50"
    )


def filled(ours: Dashboard, items: int) -> int:
    """A job of so many items, of which some hundreds are done, that waits."""
    job = ours.begin("update_users", 50, limit=items)
    until(lambda: (now := ours.job(job))["total"] == items and now["completed"] >= SMALL // 2)
    if ours.job(job)["status"] == "running":
        ours.client.post(f"/api/jobs/{job}/pause")
        until(lambda: ours.job(job)["running"] == 0)
    return job


def fetch(ours: Dashboard, path: str) -> tuple[float, int]:
    """The milliseconds and the bytes of an answer."""
    started = time.perf_counter()
    answer = ours.client.get(path).raise_for_status()
    return (time.perf_counter() - started) * 1000, len(answer.content)


def timed(ours: Dashboard, job: int, name: str, query: str, times: int) -> Row:
    found = [fetch(ours, f"/jobs/{job}?{query}")[0] for _ in range(times)]
    return Row(f"{name} of {LARGE:,} items, p99", p99(found), None, "ms", None, "< 100")


def memory(items: int, seconds: float) -> tuple[float, float]:
    """The megabytes of the serving process and of its worker, at most, while jobs of such a size run and are watched."""
    most = [0.0, 0.0]
    with api() as url, dashboard(url, items) as ours:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            job = ours.begin("update_users", 50)
            crowd = Crowd(ours.port, f"/events?want=v{{n}}.0.job%3D{job}", 5, 1)
            worker = workers(ours.process.pid)
            while ours.job(job)["status"] in ("queued", "running") and time.monotonic() < end + 1:
                ours.client.get(f"/jobs/{job}").raise_for_status()
                most = [
                    max(m, resident(*pids))
                    for m, pids in zip(most, ([ours.process.pid], worker), strict=True)
                ]
                time.sleep(0.1)
            crowd.process.kill()
            crowd.process.communicate()
            if not worker:
                raise GaveUp("there is no worker")
    return most[0], most[1]


def workers(pid: int) -> list[int]:
    """The processes that another one has started."""
    return [
        int(n)
        for n in subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    ]
