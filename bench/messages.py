"""A job while receivers of messages hang, against a dashboard that has nobody to tell: items per second, and what
both take of a processor, which is the same however much else runs beside the bench.

Both have run the same jobs before, and each pair of runs is short: what disturbs one disturbs the other.
"""

import socket
from collections.abc import Iterator
from statistics import median

from bench.processes import Dashboard, api, dashboard, family, seconds_of_processor, until
from bench.speed import items_per_second
from bench.table import Row

AT_ONCE = 50
ITEMS = 2_500
PAIRS = 24
RECEIVERS = 20  # addresses at it, each with messages that are under way


def messages(quick: bool) -> Iterator[Row]:
    """Pairs of runs that take turns in going first."""
    with (
        socket.create_server(
            ("127.0.0.1", 0), backlog=4096
        ) as hangs,  # it takes everybody in, and answers nobody
        api(20) as url,
        dashboard(url, ITEMS) as alone,
        dashboard(url, ITEMS, "--notify-hosts", "127.0.0.1") as tells,
    ):
        told = [f"http://127.0.0.1:{hangs.getsockname()[1]}/{n}" for n in range(RECEIVERS)]
        for ours, receivers in ((alone, []), (tells, told)):
            tell(ours, receivers)
            run(ours)  # opens the connections
        found: list[tuple[tuple[float, float], tuple[float, float]]] = []
        for n in range(PAIRS // (4 if quick else 1)):
            both = [tells, alone] if n % 2 else [alone, tells]
            came = {ours: run(ours) for ours in both}
            found.append((came[tells], came[alone]))
    name = f"update_users, {AT_ONCE} at once, 20 ms, while {RECEIVERS} receivers hang"
    yield Row(
        name,
        median(with_them for (with_them, _), _ in found),
        median(without for _, (without, _) in found),
        "items/s",
        median(with_them / without for (with_them, _), (without, _) in found),
        ">= 0.99",
    )
    yield Row(
        f"{name}: of a processor",
        median(with_them for (_, with_them), _ in found),
        median(without for _, (_, without) in found),
        "items/s",
        median(with_them / without for (_, with_them), (_, without) in found),
        ">= 0.99",
    )


def run(ours: Dashboard) -> tuple[float, float]:
    """Items per second of a job, and per second of a processor."""
    pids = family(ours.process.pid)
    before = seconds_of_processor(*pids)
    speed = items_per_second(ours, "update_users", AT_ONCE, ITEMS)
    return speed, ITEMS / (seconds_of_processor(*pids) - before)


def tell(ours: Dashboard, receivers: list[str]) -> None:
    """A job that has ended, of which these are told: what is not answered is given up after a while, and tried
    again."""
    notify = [{"channel": "webhook", "to": to} for to in receivers]
    job = ours.client.post(
        "/api/jobs", json={"task": "counter", "args": {"loops": 1}, "notify": notify}
    ).raise_for_status().json()["id"]  # fmt: skip
    until(lambda: ours.job(job)["finished_at"])
    path = f"/api/jobs/{job}/deliveries"
    until(lambda: sum(one["attempts"] > 0 for one in ours.client.get(path).json()) == len(receivers))
