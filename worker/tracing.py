"""Tracing: spans of what runs, where --otel switches it on, by extras/otel.py; where not, nothing at all.

Who is traced asks `tracing.on` once for a run, a job or a request, never for what is done again and again.
"""

import importlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import httpx

from rowcast.tasks.records import Job

Call = Callable[..., Awaitable[Any]]


class Tracing(Protocol):
    """What is told of a job as it runs. Spans of one job are of one trace, in whatever process they began."""

    def of_run(self, job: Job) -> AbstractContextManager[Any]:
        """A worker's run of a job, which is a slice of it, is under way as long as this is open."""

    def of_call(self, job: Job, call: Call) -> Call:
        """What is called for each try, with a span around it, which the task finds as the current one."""

    async def of_request(
        self, request: httpx.Request, send: Callable[[httpx.Request], Awaitable[httpx.Response]]
    ) -> httpx.Response:
        """Send a request of a try, which is told its span (traceparent)."""

    def of_job(self, job: Job) -> None:
        """A job has ended: its own span, from its beginning on."""

    def end(self) -> None:
        """Send what there is: this process ends."""


on: Tracing | None = None


def switch_on(wanted: bool) -> None:
    """At the start of a worker, before it runs anything."""
    global on
    if wanted and on is None:
        made: Any = importlib.import_module("rowcast.extras.otel")
        on = made.OpenTelemetry()


def run_of(job: Job) -> AbstractContextManager[Any]:
    return on.of_run(job) if on else nullcontext()


def traced(job: Job, call: Call) -> Call:
    return on.of_call(job, call) if on else call


def end() -> None:
    if on:
        on.end()
