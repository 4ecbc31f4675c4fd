"""Items per second of a job that is recorded row by row and watched, against the bare loop over the same client."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from statistics import median

from bench.processes import Dashboard, GaveUp, Reader, api, bare, dashboard, seconds_of
from bench.table import Row

AT_ONCE = (50, 100)
EXAMPLE_AT_ONCE = 50
EXAMPLE_USERS = 25  # of FastHTML's example, which takes its time


@dataclass(frozen=True)
class Lane:
    """A task, the bare loop it is held against, and for how many items at which latency.

    Besides that one there may be others, of which nothing is asked, by what they are.
    """

    task: str
    kind: str
    items: dict[float, int]  # by the API's latency in milliseconds
    targets: dict[float, float]
    others: dict[str, str] = field(default_factory=dict)


HTTPX = Lane(
    "update_users",
    "httpx",
    {0: 10_000, 20: 10_000},
    {0: 0.95, 20: 0.95},
    {"client": "a bare loop over its own client"},
)
FAST = Lane("update_users_fast", "pyreqwest", {0: 20_000, 5: 20_000, 20: 10_000}, {0: 0.6, 5: 0.9, 20: 0.9})


def items_per_second(dashboard: Dashboard, task: str, at_once: int, items: int) -> float:
    """One job, recorded in full and read from its stream while it runs."""
    job = dashboard.begin(task, at_once, limit=items)
    reader = Reader(dashboard, f"/api/jobs/{job}/events")
    reader.start()
    reader.join(120)
    ended = dashboard.job(job)
    if not reader.done or ended["completed"] != items or reader.items < items:
        raise GaveUp(f"job {job}: {ended}, {reader.items} item events")
    return items / seconds_of(ended)


def turns(lane: Lane, latency: float, at_once: int, quick: bool, url: str, ours: Dashboard) -> Iterator[Row]:
    """The rows of one setting, from runs of each side that take turns in going first."""
    items = lane.items[latency] // (4 if quick else 1)
    sides = {"ours": partial(items_per_second, ours, lane.task, at_once, items)}
    for kind in (lane.kind, *lane.others):
        sides[kind] = partial(bare, kind, url, at_once, items)
    found: list[dict[str, float]] = []
    for n in range(3 if quick else 7):
        order = list(sides)[:: -1 if n % 2 else 1]
        found.append({side: sides[side]() for side in order})
    for kind in (lane.kind, *lane.others):
        about = f", beside {lane.others[kind]}" if kind in lane.others else ""
        yield Row(
            f"{lane.task}, {at_once} at once, {latency:g} ms{about}",
            median(one["ours"] for one in found),
            median(one[kind] for one in found),
            "items/s",
            median(one["ours"] / one[kind] for one in found),
            "" if about else f">= {lane.targets[latency]}",
        )


def _lane(lane: Lane, quick: bool) -> Iterator[Row]:
    for latency, items in lane.items.items():
        with api(latency) as url, dashboard(url, items) as ours:
            items_per_second(ours, lane.task, max(AT_ONCE), max(AT_ONCE) * 3)  # opens the connections
            for at_once in AT_ONCE:
                yield from turns(lane, latency, at_once, quick, url, ours)


def update_users(quick: bool) -> Iterator[Row]:
    """The built-in task over httpx; and FastHTML's example, which posts one user after the other."""
    yield from _lane(HTTPX, quick)
    yield example(quick)


def example(quick: bool) -> Row:
    """The same job against FastHTML's example."""
    found = []
    with api(20) as url, dashboard(url, 5_000) as ours:
        for _ in range(1 if quick else 3):
            peer = bare("example", url, 1, EXAMPLE_USERS)
            found.append((items_per_second(ours, "update_users", EXAMPLE_AT_ONCE, 2_500), peer))
    ratio = median(o / p for o, p in found)
    name = f"update_users, {EXAMPLE_AT_ONCE} at once, 20 ms, FastHTML's example"
    return Row(name, median(o for o, _ in found), median(p for _, p in found), "items/s", ratio, ">= 50")


def fast_lane(quick: bool) -> Iterator[Row]:
    """A task that asks for pyreqwest, against pyreqwest's bare loop."""
    yield from _lane(FAST, quick)
