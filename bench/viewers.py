"""A thousand viewers of one running job, ten frames a second, beside sse-starlette sending ready bytes as long as ours."""

import os
import time
from collections.abc import Iterator
from statistics import median

from bench.processes import Crowd, Dashboard, GaveUp, api, dashboard, listening, until
from bench.table import Row

VIEWERS = 1000
USERS = 1_000_000  # more than are done while the bench lasts
CONNECTING = 5.0  # seconds that viewers take to come, and to be counted from


def viewers(quick: bool) -> Iterator[Row]:
    """The frames that arrive, how late they are, and what the job loses."""
    seconds = 5.0 if quick else 10.0
    alone = []
    watched = []
    ours = []
    peer = []
    os.environ["BENCH_FRAMES"] = "yes"
    with api() as url, dashboard(url, USERS, "--streams-per-viewer", str(2 * VIEWERS)) as dash:
        del os.environ["BENCH_FRAMES"]
        job = dash.begin("update_users", 50)
        until(lambda: dash.job(job)["total"] == USERS)
        for _ in range(1 if quick else 3):
            alone.append(speed(dash, job, seconds / 2))
            path = f"/events?want=v{{n}}.{dash.job(job)['seq']}.job%3D{job}"
            crowd = Crowd(dash.port, path, VIEWERS, seconds, dash.path)
            time.sleep(CONNECTING)
            watched.append(speed(dash, job, seconds - 1))
            ours.append(crowd.seen())
            size = int(ours[-1]["bytes"] / ours[-1]["frames"])
            with listening("bench.peer", str(size)) as port:
                peer.append(Crowd(port, "/events", VIEWERS, seconds).seen())
        if dash.job(job)["status"] != "running" or any(found["open"] < VIEWERS for found in ours):
            raise GaveUp("the job ended, or viewers left, too early")
    name = f"{VIEWERS:,} viewers of a running job"
    frames = [found["frames"] for found in ours], [found["frames"] for found in peer]
    ratio = median(o / p for o, p in zip(*frames, strict=True))
    yield Row(f"{name}, frames received", median(frames[0]), median(frames[1]), "frames/s", ratio, ">= 1")
    for cut, target in (("p50", ""), ("p99", "< 100")):
        late = [median(found[cut] for found in side) for side in (ours, peer)]
        yield Row(
            f"{name}, from a frame's making to its last byte, {cut}", late[0], late[1], "ms", None, target
        )
        late = [median(found[f"{cut} committed"] for found in ours)]
        yield Row(
            f"{name}, from the database to a frame's last byte, {cut}", late[0], None, "ms", None, target
        )
    ratio = median(w / a for w, a in zip(watched, alone, strict=True))
    yield Row(
        f"{name}, items of the job, without viewers",
        median(watched),
        median(alone),
        "items/s",
        ratio,
        ">= 0.5",
    )
    yield Row(
        f"{name}, bytes of a frame on the wire",
        median(f["bytes"] / f["frames"] for f in ours),
        None,
        "bytes",
        None,
        "",
    )


def speed(dash: Dashboard, job: int, seconds: float) -> float:
    """The items per second that a running job does in so many seconds from now."""
    began = time.monotonic()
    before = dash.job(job)["completed"]
    time.sleep(seconds)
    return (dash.job(job)["completed"] - before) / (time.monotonic() - began)
