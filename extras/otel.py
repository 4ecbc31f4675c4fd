"""Spans by OpenTelemetry's own SDK: of a job, of each worker's run of it, of each try, and of the requests in
it. Install with `pip install 'rowcast[otel]'`, and switch it on by --otel.

They go out over OTLP, to where the SDK's own variables say (OTEL_EXPORTER_OTLP_ENDPOINT and its kind), or to
stdout (OTEL_TRACES_EXPORTER=console). A job's trace and its span are known by its row alone, so that every
process that works on it, on whatever host, tells of the same; the job's own span is sent at its end.
"""

import contextlib
import functools
import os
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from hashlib import blake2b
from importlib.metadata import version
from typing import Any

import httpx
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import inject
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from rowcast.tasks.masking import masked_text
from rowcast.tasks.records import Job
from rowcast.tasks.steps import DryRun, current_call
from rowcast.worker.hiding import hidden

COUNTS = ("completed", "failed", "unknown")
LONGEST = 500  # letters of an error
_given: ContextVar[tuple[int, int] | None] = ContextVar("given", default=None)


class Sequence(RandomIdGenerator):
    """Random ids, but for a span whose ids are given."""

    def generate_span_id(self) -> int:
        given = _given.get()
        return given[1] if given else super().generate_span_id()

    def generate_trace_id(self) -> int:
        given = _given.get()
        return given[0] if given else super().generate_trace_id()


def ids_of(job: Job) -> tuple[int, int]:
    """The trace and the span of a job's last run: the same wherever its row is read."""
    text = f"{job.entry} {job.id} {job.created_at!r} {job.began!r}"
    raw = blake2b(text.encode(), digest_size=24).digest()
    return int.from_bytes(raw[:16], "big"), int.from_bytes(raw[16:], "big")


def exporter() -> SpanExporter:
    if os.environ.get("OTEL_TRACES_EXPORTER") == "console":
        return ConsoleSpanExporter(formatter=lambda span: f"{span.to_json(indent=None)}\n")
    return OTLPSpanExporter()


class OpenTelemetry:
    """What a worker tells of its jobs; for what it is told see worker/tracing.py."""

    def __init__(self) -> None:
        about = {"service.name": "rowcast", "service.version": version("rowcast")}
        named = {name: value for name, value in about.items() if name not in given_about()}
        self.provider = TracerProvider(resource=Resource.create(named), id_generator=Sequence())
        self.provider.add_span_processor(BatchSpanProcessor(exporter()))
        self.tracer = self.provider.get_tracer("rowcast", version("rowcast"))
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            trace.set_tracer_provider(self.provider)  # what tasks trace by themselves goes the same way

    def _beneath(self, job: Job) -> Context:
        """The job's own span as what the others are beneath, which is sampled or not as it will be."""
        trace_id, span_id = ids_of(job)
        sampled = self.provider.sampler.should_sample(Context(), trace_id, f"job {job.task}").decision
        flags = TraceFlags(TraceFlags.SAMPLED if sampled.is_sampled() else TraceFlags.DEFAULT)
        parent = NonRecordingSpan(SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags))
        return trace.set_span_in_context(parent, Context())

    @contextlib.contextmanager
    def of_run(self, job: Job) -> Iterator[None]:
        with self.tracer.start_as_current_span(
            f"slice {job.task}", self._beneath(job), attributes=about(job)
        ):
            yield

    def of_call(self, job: Job, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        name = f"try {job.task}"
        what = about(job)

        @functools.wraps(call)
        async def traced(*given: Any) -> Any:
            noted = current_call.get()
            more = {"rowcast.item": noted.item, "rowcast.attempt": noted.attempt} if noted else {}
            here = None if trace.get_current_span().get_span_context().is_valid else self._beneath(job)
            with self.tracer.start_as_current_span(
                name, here, attributes=what | more, record_exception=False, set_status_on_exception=False
            ) as span:
                with told(span):
                    return await call(*given)

        return traced

    async def of_request(
        self, request: httpx.Request, send: Callable[[httpx.Request], Awaitable[httpx.Response]]
    ) -> httpx.Response:
        what: dict[str, Any] = {
            "http.request.method": request.method,
            "server.address": request.url.host,
            "url.full": masked_text(hidden(str(request.url))),
        }
        if request.url.port:
            what["server.port"] = request.url.port
        with self.tracer.start_as_current_span(
            request.method,
            kind=SpanKind.CLIENT,
            attributes=what,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            inject(request.headers)
            with told(span):
                response = await send(request)
            span.set_attribute("http.response.status_code", response.status_code)
            if response.is_error:
                span.set_status(Status(StatusCode.ERROR))
            return response

    def of_job(self, job: Job) -> None:
        if job.began is None or job.finished_at is None:
            return  # it has ended before it began
        token = _given.set(ids_of(job))
        try:
            span = self.tracer.start_span(
                f"job {job.task}",
                Context(),
                attributes=about(job) | {name: getattr(job, name) for name in COUNTS},
                start_time=nanoseconds(job.began),
            )
        finally:
            _given.reset(token)
        if job.status == "failed" or job.failed:
            span.set_status(Status(StatusCode.ERROR, masked_text(job.reason)[:LONGEST]))
        span.end(nanoseconds(job.finished_at))

    def end(self) -> None:
        self.provider.shutdown()


@contextlib.contextmanager
def told(span: Span) -> Iterator[None]:
    """An exception is the span's error: what it says, without its secrets."""
    try:
        yield
    except DryRun:
        raise  # so it is shown what would be sent
    except BaseException as error:  # noted, and raised again: a cancelled request too
        said = masked_text(hidden(f"{type(error).__name__}: {error}"))[:LONGEST]
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(Status(StatusCode.ERROR, said))
        raise


def about(job: Job) -> dict[str, Any]:
    return {"rowcast.job": job.id, "rowcast.task": job.task, "rowcast.engine": job.engine}


def given_about() -> set[str]:
    """What of a resource the SDK's own variables say."""
    pairs = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",")
    named = {pair.partition("=")[0].strip() for pair in pairs}
    return named | ({"service.name"} if os.environ.get("OTEL_SERVICE_NAME") else set())


def nanoseconds(moment: float) -> int:
    return int(moment * 1e9)
