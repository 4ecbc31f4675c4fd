"""Items per second of a job while a receiver of messages hangs, against a dashboard that has nobody to tell."""

import socket
from collections.abc import Iterator
from statistics import median

from bench.processes import Dashboard, api, dashboard, until
from bench.speed import items_per_second
from bench.table import Row

AT_ONCE = 50
ITEMS = 10_000
RECEIVERS = 20  # addresses at it, each with messages that are under way


def messages(quick: bool) -> Iterator[Row]:
    """Pairs of runs that take turns in going first."""
    items = ITEMS // (4 if quick else 1)
    with (
        socket.create_server(
            ("127.0.0.1", 0), backlog=4096
        ) as hangs,  # it takes everybody in, and answers nobody
        api(20) as url,
        dashboard(url, items) as alone,
        dashboard(url, items, "--notify-hosts", "127.0.0.1") as tells,
    ):
        keep_sending(tells, hangs.getsockname()[1])
        found: list[tuple[float, float]] = []
        for n in range(3 if quick else 7):
            both = [tells, alone] if n % 2 else [alone, tells]
            came = {ours: items_per_second(ours, "update_users", AT_ONCE, items) for ours in both}
            found.append((came[tells], came[alone]))
    yield Row(
        f"update_users, {AT_ONCE} at once, 20 ms, while {RECEIVERS} receivers hang",
        median(with_them for with_them, _ in found),
        median(without for _, without in found),
        "items/s",
        median(with_them / without for with_them, without in found),
        ">= 0.99",
    )


def keep_sending(ours: Dashboard, port: int) -> None:
    """Have messages under way that are not answered: each is given up after a while, and tried again."""
    told = [{"channel": "webhook", "to": f"http://127.0.0.1:{port}/{n}"} for n in range(RECEIVERS)]
    body = {"task": "counter", "args": {"loops": 1}, "notify": told}
    job = ours.client.post("/api/jobs", json=body).raise_for_status().json()["id"]
    path = f"/api/jobs/{job}/deliveries"
    until(lambda: sum(one["status"] == "sending" for one in ours.client.get(path).json()) == RECEIVERS)
