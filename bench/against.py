"""This checkout against another one, in turns: `python -m bench.against CHECKOUT [NAME ...]`.

The other one has an environment of its own (`make bench` there makes it). Each measure is the median of seven
pairs that take turns in going first; the ratio is of what is done in the same time, above 1 where this one is
faster.
"""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

from bench import filling, page, speed
from bench.processes import Crowd, Dashboard, api, dashboard, until
from bench.table import Row, lines

PAIRS = 7
USERS = 100_000
WATCHED = 500_000  # users of a job that is looked at while it runs: more than are done meanwhile
VIEWERS = 300
SECONDS = 4.0  # that a crowd of viewers is counted for
Sides = tuple[Dashboard, Dashboard]


def pairs(name: str, unit: str, measure: Callable[[Dashboard], float], sides: Sides) -> Row:
    """The row of one measure of ours and theirs."""
    found: list[tuple[float, float]] = []
    for n in range(PAIRS):
        first = n % 2
        one = measure(sides[first])
        other = measure(sides[1 - first])
        found.append((other, one) if first else (one, other))
    ratio = median(theirs / ours if unit == "ms" else ours / theirs for ours, theirs in found)
    return Row(name, median(o for o, _ in found), median(t for _, t in found), unit, ratio, ">= 0.97")


@contextlib.contextmanager
def both(other: Path, users: int, *flags: str, latency: float = 0) -> Iterator[Sides]:
    """A dashboard of each checkout, over one API."""
    with (
        api(latency) as url,
        dashboard(url, users, *flags) as ours,
        dashboard(url, users, *flags, root=other) as theirs,
    ):
        yield ours, theirs


def update_users(other: Path) -> Iterator[Row]:
    """Items per second of a job that is recorded row by row and watched."""
    for latency, at_once, items in ((0, 50, 10_000), (0, 100, 10_000), (20, 100, 5_000)):
        with both(other, items, latency=latency) as sides:
            for side in sides:
                speed.items_per_second(side, "update_users", at_once, 3 * at_once)  # opens the connections
            measure = partial(speed.items_per_second, task="update_users", at_once=at_once, items=items)
            yield pairs(f"update_users, {at_once} at once, {latency} ms", "items/s", measure, sides)


def looks(other: Path) -> Iterator[Row]:
    """A job's page while the job runs, and while it is paused."""
    with both(other, WATCHED) as sides:
        jobs = {side: side.begin("update_users", 50) for side in sides}
        for side in sides:
            until(lambda side=side: side.job(jobs[side])["total"] == WATCHED)
            rest(side, jobs[side])

        def look(side: Dashboard, running: bool) -> float:
            if running:
                side.act(jobs[side], "resume")
                time.sleep(0.5)
            found = median(page.looks(side, jobs[side]))
            if running:
                rest(side, jobs[side])
            return found

        for name, running in (("while the job runs", True), ("while it is paused", False)):
            yield pairs(f"page, {name}", "ms", partial(look, running=running), sides)


def rest(side: Dashboard, job: int) -> None:
    side.act(job, "pause")
    until(lambda: side.job(job)["running"] == 0)


def fillings(other: Path) -> Iterator[Row]:
    """Items written per second, alone and while their job runs."""
    with both(other, USERS) as sides:
        for name, pace in (("alone", "1/s"), ("while the job runs", None)):
            measure = partial(filling.items_per_second, users=USERS, pace=pace)
            yield pairs(f"filling {USERS:,} users, {name}", "items/s", measure, sides)


def watching(other: Path) -> Iterator[Row]:
    """Frames that reach many viewers of a running job, and what the job does meanwhile."""
    with both(other, WATCHED, "--streams-per-viewer", str(2 * VIEWERS)) as sides:
        jobs = {side: side.begin("update_users", 50) for side in sides}
        for side in sides:
            until(lambda side=side: side.job(jobs[side])["total"] == WATCHED)
            rest(side, jobs[side])
        items: dict[Dashboard, list[float]] = {side: [] for side in sides}

        def frames(side: Dashboard) -> float:
            job = jobs[side]
            side.act(job, "resume")
            path = f"/events?want=v{{n}}.{side.job(job)['seq']}.job%3D{job}"
            began = time.monotonic()
            before = side.job(job)["completed"]
            seen = Crowd(side.port, path, VIEWERS, SECONDS).seen()
            items[side].append((side.job(job)["completed"] - before) / (time.monotonic() - began))
            rest(side, job)
            return seen["frames"]

        yield pairs(f"{VIEWERS} viewers, frames received", "frames/s", frames, sides)
        ours, theirs = (items[side] for side in sides)
        ratio = median(o / t for o, t in zip(ours, theirs, strict=True))
        name = f"{VIEWERS} viewers, items of the job meanwhile"
        yield Row(name, median(ours), median(theirs), "items/s", ratio, ">= 0.97")


MEASURES: dict[str, Callable[[Path], Iterator[Row]]] = {
    "update_users": update_users,
    "page": looks,
    "filling": fillings,
    "viewers": watching,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.against", description="Measure this checkout against another one."
    )
    parser.add_argument("other", metavar="CHECKOUT", type=Path, help="its folder")
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help=f"of {', '.join(MEASURES)}; all if none is given"
    )
    given = parser.parse_args()
    rows = []
    for name in given.names or MEASURES:
        for row in MEASURES[name](given.other.absolute()):
            print(row.name, row.cells[4], row.cells[1], row.cells[2], flush=True)
            rows.append(row)
    print("\n".join(lines(rows)))


if __name__ == "__main__":
    main()
