"""Metrics: what Prometheus reads is what there is; it costs the same however many jobs have ended."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import httpx
import pytest
import yaml
from conftest import ROOT
from prometheus_client.parser import text_string_to_metric_families

from rowcast.dashboard import create
from rowcast.jobs import Jobs
from rowcast.tables.database import close_databases, connection
from rowcast.tables.metrics import MOST_TASKS, OTHER, Metrics, TaskMetrics
from rowcast.tables.outbox import Outbox
from rowcast.tables.schema import prepare
from rowcast.tasks.buckets import bounds_of, bucket_of
from rowcast.tasks.built_in import counter
from rowcast.tasks.notify import checked
from rowcast.tasks.records import Options
from rowcast.tasks.settings import Settings
from rowcast.tasks.work import VERSION, VERSION_HEADER
from rowcast.web.metrics import bounds_of as told
from rowcast.web.worker_api import CALLS
from tests.conftest import Server, until
from tests.test_search import fill

Labels = tuple[tuple[str, str], ...]


def scraped(server: Server) -> dict[tuple[str, Labels], float]:
    """Each sample by its name and labels, read by the official parser."""
    answer = server.client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["Content-Type"].startswith(
        "text/plain; version=0.0.4"
    )
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def of(task: str, status: str) -> Labels:
    return (("status", status), ("task", task))


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    made = str(tmp_path / "rowcast.db")
    prepare(made)
    yield made
    close_databases()


def test_what_has_ended_and_what_waits_is_told(server: Server):
    before = scraped(server)
    job = server.begin("counter", loops=2)
    server.ended(job)
    waits = server.begin("counter", loops=1, run_at="3600s")

    def grew(name: str, labels: Labels) -> float:
        return scraped(server).get((name, labels), 0) - before.get((name, labels), 0)

    assert grew("rowcast_jobs", of("counter", "completed")) == 1
    assert grew("rowcast_items", of("counter", "completed")) == 2
    assert grew("rowcast_jobs", of("counter", "queued")) == 1
    assert grew("rowcast_changes_total", ()) > 0
    found = scraped(server)
    assert found["rowcast_queue_age_seconds", (("task", "counter"),)] == 0  # it is not due
    assert found["rowcast_ready", ()] == 1 and found["rowcast_loop_lag_seconds", ()] >= 0
    assert found["rowcast_workers", (("engine", "background"),)] >= 1
    server.act(waits, "cancel")


def test_the_histogram_of_tries_adds_up_and_is_cumulative(server: Server):
    server.ended(server.begin("update_users", limit=3))
    found = scraped(server)
    tasks = {dict(labels)["task"] for name, labels in found if name == "rowcast_try_seconds_count"}
    for task in tasks:
        rows = [
            (float(dict(labels)["le"]), value)
            for (name, labels), value in found.items()
            if name == "rowcast_try_seconds_bucket" and dict(labels)["task"] == task
        ]
        values = [value for _, value in sorted(rows)]
        assert values == sorted(values)
        assert values[-1] == found["rowcast_try_seconds_count", (("task", task),)]
    assert any(found["rowcast_try_seconds_count", (("task", task),)] for task in tasks)


@pytest.mark.parametrize("ms", [0.0001, 0.9, 1.1, 100.0, 130_000.0, 10_000_000.0])
def test_a_try_is_in_every_bucket_that_is_no_shorter(ms: float):
    bounds = told(TaskMetrics({}, {}, latency={bucket_of(ms): 1}))
    ends = bounds_of(bucket_of(ms))[1] / 1000  # a bucket's tries are no longer than its end
    assert [name for name, tries in bounds if tries] == [
        name for name, _ in bounds if float(name) >= ends * 0.999999
    ]


def test_the_age_of_the_queue_is_that_of_the_oldest_job_that_is_due(path: str):
    jobs = Jobs(path)
    old, _ = jobs.submit(counter, {}, "ann", "background")
    jobs.submit(counter, {}, "ann", "background")
    connection(path).execute("update jobs set created_at = created_at - 120 where id = ?", (old.id,))
    assert 119 < Metrics(path).read().tasks["counter"].waits < 180
    jobs.start(old.id)
    assert Metrics(path).read().tasks["counter"].waits < 60


def test_a_deleted_job_is_counted_no_more_and_its_tries_still_are(path: str):
    conn = connection(path)
    conn.execute("insert into latencies values ('counter', 4, 7, 20.0)")
    job, _ = Jobs(path).submit(counter, {}, "ann", "background")
    Jobs(path).fail(job.id, "so")
    assert Metrics(path).read().tasks["counter"].jobs["failed"] == 1
    conn.execute("delete from jobs")
    found = Metrics(path).read().tasks["counter"]
    assert found.jobs["failed"] == 0 and found.latency == {4: 7}


def test_messages_that_were_given_up_are_counted_until_they_are_sent_again(path: str):
    jobs = Jobs(path)
    outbox = Outbox(path)
    rules = checked([{"channel": "webhook", "to": "https://hooks.example.com", "on": ["failed"]}])
    for _ in range(3):
        job, _ = jobs.submit(counter, {}, "ann", "background", Options(notify=rules))
        jobs.fail(job.id, "so")
    assert Metrics(path).read().deliveries == {"queued": 3, "sending": 0, "failed": 0}
    connection(path).execute("update deliveries set status = 'failed' where job < ?", (job.id,))
    assert Metrics(path).read().deliveries == {"queued": 1, "sending": 0, "failed": 2}
    (given_up,) = outbox.of_job(job.id - 1)
    outbox.send_again(job.id - 1, given_up.id)
    assert Metrics(path).read().deliveries == {"queued": 2, "sending": 0, "failed": 1}
    plan = connection(path).execute(
        "explain query plan select count(*) from deliveries where status = 'failed'"
    )
    assert "deliveries_failed" in str(plan.fetchall())


def test_calls_of_workers_elsewhere_are_counted(tmp_path: Path):
    made = create(Settings(database=str(tmp_path / "r.db"), worker_token="w"))
    known = {"Authorization": "Bearer w", VERSION_HEADER: VERSION}

    async def calls() -> dict[str, float]:
        transport = httpx.ASGITransport(made.asgi, client=("127.0.0.1", 5))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:5001") as client:
            for headers in (known, known, {}):
                await client.post("/api/ledger/hello", content=b'{"worker": "w"}', headers=headers)
            families = text_string_to_metric_families((await client.get("/metrics")).text)
            (found,) = [family for family in families if family.name == "rowcast_ledger_calls"]
            return {sample.labels["call"]: sample.value for sample in found.samples}

    try:
        made.prepare()
        found = asyncio.run(calls())
        assert found.keys() == CALLS.keys() and found["hello"] == 2 and sum(found.values()) == 2
    finally:
        made.engine.stop()
        close_databases()


def test_labels_are_bounded(path: str):
    conn = connection(path)
    conn.executemany(
        "insert into latencies values (?, 1, 1, 1.0)", [(f"task{n}",) for n in range(MOST_TASKS + 50)]
    )
    found = Metrics(path).read()
    assert len(found.tasks) == MOST_TASKS + 1 and found.tasks[OTHER].latency == {1: 50}


def test_a_scrape_costs_the_same_at_a_thousand_and_at_twenty_thousand_jobs(tmp_path: Path):
    taken = []
    for number in (1000, 20_000):
        path = str(tmp_path / f"{number}.db")
        fill(path, number)
        steps: list[int] = []
        conn = connection(path)
        conn.trace_v2(
            apsw.SQLITE_TRACE_PROFILE,
            lambda event, steps=steps: steps.append(event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"]),
        )
        Metrics(path).read()
        conn.trace_v2(0)
        taken.append(sum(steps))
    close_databases()
    assert taken[1] < 1.2 * taken[0] + 200, taken


def test_a_load_balancer_hears_that_no_job_can_be_started(server: Server, tmp_path: Path):
    assert until(lambda: server.client.get("/healthz?ready=1").status_code == 200)
    (tmp_path / "data" / "rowcast.db.engine").mkdir(parents=True)  # the engine cannot have its lock
    broken = Server(tmp_path)
    try:
        answer = until(lambda: (a := broken.client.get("/healthz?ready=1")).status_code == 503 and a)
        assert answer.json()["status"] == "engine" and "Jobs do not run" in answer.json()["trouble"]
        assert broken.client.get("/healthz").status_code == 200  # what it serves is true all the same
        assert scraped(broken)["rowcast_ready", ()] == 0
    finally:
        broken.stop()
        broken.client.close()


def named_in(text: str) -> set[str]:
    return set(re.findall(r"\browcast_[a-z_]+", text))


def test_the_alerts_and_the_dashboard_ask_for_metrics_that_there_are(server: Server):
    server.ended(server.begin("update_users", limit=1))
    there = {name for name, _ in scraped(server)}
    alerts = (ROOT / "docs" / "alerts.yml").read_text()
    rules = [rule for group in yaml.safe_load(alerts)["groups"] for rule in group["rules"]]
    assert len(rules) >= 5 and all({"alert", "expr", "annotations"} <= set(rule) for rule in rules)
    board: dict[str, Any] = json.loads((ROOT / "docs" / "grafana.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    for text in [*asked, *(rule["expr"] for rule in rules)]:
        assert named_in(text) and named_in(text) <= there, text


PROMTOOL = shutil.which("promtool")
if PROMTOOL:  # Prometheus's own, where it is installed

    def test_promtool_finds_nothing_to_say(server: Server):
        server.ended(server.begin("update_users", limit=1))
        text = server.client.get("/metrics").text
        for words, given in ((["metrics"], text), (["rules", str(ROOT / "docs" / "alerts.yml")], "")):
            done = subprocess.run(
                [str(PROMTOOL), "check", *words], input=given, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0 and "FAILED" not in done.stdout and not done.stderr, done
