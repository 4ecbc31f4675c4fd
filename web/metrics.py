"""`GET /metrics`: what operators follow over time, as Prometheus reads it.

The collector asks the database at each scrape, so it is right with several processes, after a kill, and for
what workers elsewhere did; what belongs to this process alone says so in its help.
"""

import asyncio
import time
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from rowcast.tables.metrics import Metered, TaskMetrics
from rowcast.tasks.buckets import PER_DOUBLING
from rowcast.tasks.work import VERSION
from rowcast.web.requests import at
from rowcast.web.state import State
from rowcast.web.worker_api import CALLS

NAP = 0.01  # seconds: how much later than these a timer comes is the loop's lag
DOUBLINGS = range(0, 18)  # the histogram's bounds: 1 ms, 2 ms, ... 131 s
CONTENT = "text/plain; version=0.0.4; charset=utf-8"


async def show_metrics(req: Request) -> Response:
    from prometheus_client import CollectorRegistry, generate_latest  # at the first scrape: 20 ms

    began = time.perf_counter()
    await asyncio.sleep(NAP)
    lag = max(0.0, time.perf_counter() - began - NAP)
    state = at(req)
    read = await run_in_threadpool(state.metrics.read)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected(list(families(read, state, lag))))
    return Response(generate_latest(registry), media_type=CONTENT)


class Collected:
    """What a registry asks for the metrics."""

    def __init__(self, found: list[Any]):
        self.found = found

    def collect(self) -> Iterable[Any]:
        return self.found


def families(read: Metered, state: State, lag: float) -> Iterable[Any]:
    """All metrics, with their values."""
    from prometheus_client.core import CounterMetricFamily as Counter
    from prometheus_client.core import GaugeMetricFamily as Gauge
    from prometheus_client.core import HistogramMetricFamily as Histogram

    by_status = ["task", "status"]
    jobs = Gauge("rowcast_jobs", "Jobs that are kept, by task and status", labels=by_status)
    items = Gauge("rowcast_items", "Items of the jobs that are kept, by task and status", labels=by_status)
    failing = Gauge("rowcast_jobs_failing", "Jobs that have failed items", labels=["task"])
    waits = Gauge(
        "rowcast_queue_age_seconds", "How long the oldest job that is due waits to begin", labels=["task"]
    )
    hold = Gauge(
        "rowcast_hold_seconds", "What is left of the pause that an API has asked for", labels=["task"]
    )
    tries = Histogram("rowcast_try_seconds", "How long tries took", labels=["task"])
    for name, task in sorted(read.tasks.items()):
        for status, number in task.jobs.items():
            jobs.add_metric([name, status], number)
        for status, number in task.items.items():
            items.add_metric([name, status], number)
        failing.add_metric([name], task.failing)
        waits.add_metric([name], task.waits)
        hold.add_metric([name], task.hold)
        tries.add_metric([name], bounds_of(task), task.ms / 1000)
    yield from (jobs, items, failing, waits, hold, tries)
    workers = Gauge("rowcast_workers", "Workers that live, by engine", labels=["engine"])
    for engine, number in read.workers.items():
        workers.add_metric([engine], number)
    yield workers
    deliveries = Gauge("rowcast_deliveries", "Messages that have not arrived, by status", labels=["status"])
    for status, number in read.deliveries.items():
        deliveries.add_metric([status], number)
    yield deliveries
    yield Gauge("rowcast_delivery_late_seconds", "How long the oldest message is due", value=read.late)
    yield Counter("rowcast_changes", "Changes that were written: the counter seq", value=read.seq)
    streams = state.feed.streams.total()
    yield Gauge("rowcast_streams", "Open streams of this process", value=streams)
    calls = Counter("rowcast_ledger_calls", "Calls of workers elsewhere, answered here", labels=["call"])
    for name in CALLS:
        calls.add_metric([name], state.calls[name])
    yield calls
    yield Gauge("rowcast_loop_lag_seconds", "How late a timer of this process came just now", value=lag)
    ready = float(not why_not_ready(state))
    yield Gauge("rowcast_ready", "1: jobs can be started, as this process knows it", value=ready)
    info = Gauge("rowcast_info", "The version that answers", labels=["version", "engine"])
    info.add_metric([VERSION, state.engine.name], 1)
    yield info


def bounds_of(task: TaskMetrics) -> list[tuple[str, float]]:
    """The histogram, cumulative: its bounds in seconds, each with the tries that took no longer."""
    counted = [0] * (len(DOUBLINGS) + 1)
    for bucket, tries in task.latency.items():
        counted[min(max(0, bucket // PER_DOUBLING + 1), len(DOUBLINGS))] += tries
    bounds = [f"{2.0**n / 1000:g}" for n in DOUBLINGS]
    return list(zip([*bounds, "+Inf"], map(float, accumulate(counted)), strict=True))


def why_not_ready(state: State) -> str:
    """Why no job can be started, in a sentence; '' where they can."""
    health = state.health
    if health.lost or health.stuck or health.trouble:
        return health.trouble or "The database cannot be read."
    if state.engine.state in ("failing", "stopped"):
        return state.trouble or f"The engine is {state.engine.state}."
    return ""
