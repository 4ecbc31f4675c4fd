"""What it costs to keep every try: items per second with it and without it, where nothing fails and at 30 % faults, and
items per second of a processor, which a machine that is busy otherwise changes less.
"""

from collections.abc import Iterator
from statistics import median

from bench.processes import (
    Dashboard,
    GaveUp,
    api,
    dashboard,
    family,
    seconds_of,
    seconds_of_processor,
    until,
)
from bench.table import Row

ITEMS = 20_000
AT_ONCE = 50
FAULTS = {0: 0.97, 30: 0.9}  # per cent of the answers, and the share of the speed that is to be left


def tries(quick: bool) -> Iterator[Row]:
    """Two dashboards that take turns, of which one keeps no tries."""
    items = ITEMS // (4 if quick else 1)
    for faults, least in FAULTS.items():
        with (
            api(0, faults) as url,
            dashboard(url, items) as ours,
            dashboard(url, items, "--tasks", "bench.tasks,bench.no_tries") as without,
        ):
            for side in (ours, without):
                speed(side, items // 10)  # opens the connections
            found = []
            for n in range(3 if quick else 9):
                sides = [ours, without] if n % 2 else [without, ours]
                taken = {side: speed(side, items) for side in sides}
                found.append((taken[ours], taken[without]))
            check(ours)
        for n, word in enumerate(("", ": of a processor")):
            with_them = [one[n] for one, _ in found]
            without_them = [other[n] for _, other in found]
            yield Row(
                f"every try is kept, {faults} % faults{word}",
                median(with_them),
                median(without_them),
                "items/s",
                median(one / other for one, other in zip(with_them, without_them, strict=True)),
                f">= {least}",
            )


def speed(side: Dashboard, items: int) -> tuple[float, float]:
    """Items per second of a job, and per second of a processor."""
    pids = family(side.process.pid)
    before = seconds_of_processor(*pids)
    job = side.begin("update_users_again", AT_ONCE, limit=items)
    ended = until(lambda: (found := side.job(job))["finished_at"] and found)
    if ended["completed"] != items:
        raise GaveUp(f"job {job}: {ended}")
    return items / seconds_of(ended), items / (seconds_of_processor(*pids) - before)


def check(ours: Dashboard) -> None:
    """The tries of the last job's first items are there."""
    job = ours.client.get("/api/jobs?limit=1").json()["jobs"][0]["id"]
    items = ours.client.get(f"/api/jobs/{job}/items?limit=50").json()["items"]
    for item in items:
        whole = ours.client.get(f"/api/jobs/{job}/items/{item['id']}").json()
        if len(whole["attempts"]) != item["attempt"]:
            raise GaveUp(f"item {item['id']} shows {len(whole['attempts'])} tries of {item['attempt']}")
