"""Spans: what a worker tells OpenTelemetry, one trace for a job; and nothing where it is off."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rowcast.worker import tracing
from tests.conftest import Server, until

TASKS = """
import asyncio
import httpx
from opentelemetry import trace
from rowcast import Secret, task

@task
async def keyed(item: str, api: httpx.AsyncClient, key: Secret[str]):
    await api.post(f"/update-user/{item}?by={key.reveal()}")
    raise ValueError(f"no good: {key.reveal()}")

@task(max_attempts=2, backoff=0.01)
async def post(item: str, api: httpx.AsyncClient):
    (await api.post(f"/update-user/{item}?token=s3cret")).raise_for_status()
    if item.startswith("odd"):
        raise ValueError("password=s3cret")

@task
def plain(item: str):
    with trace.get_tracer("mine").start_as_current_span("mine"):
        return item

@task
async def once():
    await asyncio.sleep(0)
"""
Span = dict[str, Any]


def spans_in(log: Path) -> list[Span]:
    whole = log.read_text().rpartition("\n")[0]  # the last line may be half written
    return [json.loads(line) for line in whole.splitlines() if line.startswith('{"name"')]


def of(spans: list[Span], job: int, begins: str) -> list[Span]:
    return [s for s in spans if s["name"].startswith(begins) and s["attributes"]["rowcast.job"] == job]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, api_process: str) -> tuple[dict[str, int], list[Span]]:
    """The jobs that a server ran, and the spans that it told."""
    directory = tmp_path_factory.mktemp("spans")
    (directory / "work.py").write_text(TASKS)
    env = {"ROWCAST_OTEL": "1", "OTEL_TRACES_EXPORTER": "console"}
    server = Server(directory, "--tasks", "work", "--api-url", api_process, env=env)
    jobs = {
        "post": server.begin("post", items=["a@example.com", "b@example.com", "odd@example.com"]),
        "plain": server.begin("plain", items=["x"]),
        "once": server.begin("once"),
        "keyed": server.begin("keyed", items=["c@example.com"], key="hush-hush-4711"),
    }
    for job in jobs.values():
        server.ended(job)
    log = directory / "server.log"
    until(lambda: {name for name in jobs if of(spans_in(log), jobs[name], "job ")} == set(jobs))
    assert server.stop() == 0
    server.client.close()
    return jobs, spans_in(log)


def test_a_job_its_runs_its_tries_and_their_requests_are_one_trace(told: tuple[dict[str, int], list[Span]]):
    jobs, spans = told
    (job,) = of(spans, jobs["post"], "job post")
    runs = of(spans, jobs["post"], "slice post")
    tries = of(spans, jobs["post"], "try post")
    assert job["parent_id"] is None and job["status"]["status_code"] == "ERROR"
    assert {run["parent_id"] for run in runs} == {job["context"]["span_id"]}
    assert len(tries) == 3 and {t["parent_id"] for t in tries} <= {r["context"]["span_id"] for r in runs}
    requests = [s for s in spans if s["kind"] == "SpanKind.CLIENT"]
    requests = [r for r in requests if r["context"]["trace_id"] == job["context"]["trace_id"]]
    assert {r["parent_id"] for r in requests} == {t["context"]["span_id"] for t in tries}
    assert {s["context"]["trace_id"] for s in (*runs, *tries, *requests)} == {job["context"]["trace_id"]}
    assert {r["attributes"]["http.response.status_code"] for r in requests} == {200}
    assert job["start_time"] <= min(t["start_time"] for t in tries)
    (odd,) = [t for t in tries if t["status"]["status_code"] == "ERROR"]
    assert odd["status"]["description"] == "ValueError: password=•••"
    assert "s3cret" not in json.dumps(spans)


def test_no_span_has_a_secret_argument(told: tuple[dict[str, int], list[Span]]):
    jobs, spans = told
    (tried,) = of(spans, jobs["keyed"], "try keyed")
    assert tried["status"]["description"] == "ValueError: no good: •••"
    assert any("/update-user/c@example.com" in s["attributes"].get("url.full", "") for s in spans)
    assert "hush-hush" not in json.dumps(spans)


def test_what_a_task_traces_is_beneath_its_try_also_in_a_thread_and_a_body_is_one_try(
    told: tuple[dict[str, int], list[Span]],
):
    jobs, spans = told
    (tried,) = of(spans, jobs["plain"], "try plain")
    (mine,) = [s for s in spans if s["name"] == "mine"]
    assert mine["parent_id"] == tried["context"]["span_id"]
    (body,) = of(spans, jobs["once"], "try once")
    (run,) = of(spans, jobs["once"], "slice once")
    assert body["parent_id"] == run["context"]["span_id"]
    traces = {of(spans, job, "job ")[0]["context"]["trace_id"] for job in jobs.values()}
    assert len(traces) == 4


def test_switched_off_what_is_called_is_the_task_and_nothing_is_imported():
    call: Any = object()
    job: Any = object()  # which nothing looks at
    assert tracing.on is None and tracing.traced(job, call) is call
    code = (
        "import sys, rowcast.engines.child; print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_without_the_extra_it_is_one_line_and_code_2(tmp_path: Path):
    code = (
        "import sys; sys.modules['opentelemetry'] = None; from rowcast.__main__ import main; main(['--otel'])"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("ROWCAST_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env, check=False
    )
    assert done.returncode == 2 and "--otel needs `pip install 'rowcast[otel]'`." in done.stderr
