"""Faults of what is between: the broker restarted or emptied, the dashboard restarted, messages twice, another engine."""

import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from conftest import Api, until
from fleet import COMMANDS, Fleet, ended_well, queue_flags, worker_env


pytestmark = pytest.mark.usefixtures("clear_fleet")


def people(fleet: Fleet, number: int) -> int:
    fleet.users(*(f"user-{n}@example.com" for n in range(number)))
    return number


def test_a_broker_that_is_restarted_holds_nothing_up_for_long(fleet: Fleet, api: Api):
    total = people(fleet, 200)
    api.latency(200)
    job = fleet.begin(concurrency=5)
    until(lambda: fleet.job(job)["completed"] > 5)
    fleet.broker.stop()
    time.sleep(1)
    fleet.broker.start()
    api.latency(20)
    items = ended_well(fleet, job, api, total)
    assert {item["attempt"] for item in items.values()} == {1}


def test_a_broker_that_is_emptied_is_supplied_again(fleet: Fleet, api: Api):
    total = people(fleet, 30)
    fleet.workers.signal(signal.SIGSTOP)  # so that the messages lie in the queue
    job = fleet.begin()
    until(lambda: fleet.job(job)["queued"] == total)
    time.sleep(0.5)
    fleet.broker.do("flushall")
    fleet.workers.signal(signal.SIGCONT)
    ended_well(fleet, job, api, total)


def test_workers_wait_for_a_dashboard_that_is_restarted_and_report_late(fleet: Fleet, api: Api):
    total = people(fleet, 150)
    api.latency(100)
    job = fleet.begin(concurrency=10)
    until(lambda: fleet.job(job)["completed"] > 20)
    fleet.server.process.kill()
    fleet.server.process.wait()
    before = len(api.log())
    time.sleep(1.5)
    fleet.server.start()
    items = ended_well(fleet, job, api, total)
    assert {item["attempt"] for item in items.values()} == {1}, "what was done meanwhile has counted"
    assert len(api.log()) == total > before


def slots_of(fleet: Fleet, job: int) -> list[tuple[int, int, str]]:
    found = sqlite3.connect(fleet.server.directory / "data" / "rowcast.db")
    rows = found.execute("select job, slot, token from slots where job = ? and token <> ''", (job,)).fetchall()
    found.close()
    return rows


def send(fleet: Fleet, messages: list[tuple[int, int, str]]) -> None:
    """By the engine's own client, from a process of its own."""
    code = f"from rowcast.extras.engine_{fleet.engine} import send\nfor message in {messages!r}:\n    send(*message)"
    subprocess.run([sys.executable, "-c", code], env=worker_env(fleet.server, fleet.broker_url), check=True)


def test_messages_that_arrive_twice_do_nothing_twice(fleet: Fleet, api: Api):
    total = people(fleet, 150)
    api.latency(50)
    fleet.workers.signal(signal.SIGSTOP)
    job = fleet.begin(concurrency=10)
    sent = until(lambda: slots_of(fleet, job))
    send(fleet, sent * 3)
    fleet.workers.signal(signal.SIGCONT)
    until(lambda: fleet.job(job)["completed"] > 10)
    send(fleet, [*sent, *slots_of(fleet, job)] * 2)
    items = ended_well(fleet, job, api, total)
    assert {item["attempt"] for item in items.values()} == {1} and len(api.log()) == total


def test_a_job_that_is_half_done_goes_on_on_another_engine_and_back(fleet: Fleet, api: Api):
    total = people(fleet, 240)
    api.latency(50)
    job = fleet.begin(concurrency=5)
    until(lambda: fleet.job(job)["completed"] > 20)
    server, queue = fleet.server, (*fleet.server.flags[:4], *queue_flags(fleet.engine, fleet.broker_url))
    for flags, engine in ((queue[:4], "background"), (queue, fleet.engine)):
        before = fleet.job(job)["completed"]
        server.stop()
        if engine == "background":
            fleet.workers.stop()
        server.flags = flags
        server.start()
        if engine != "background":
            fleet.workers = fleet.more()
        until(lambda before=before: fleet.job(job)["completed"] > before + 20, 30)
        assert fleet.job(job)["engine"] == engine
    ended_well(fleet, job, api, total)


def test_without_a_token_the_dashboard_takes_no_workers_which_say_so_and_end(fleet: Fleet):
    server, flags = fleet.server, fleet.server.flags
    server.stop()
    server.flags = flags[:4]
    server.start()
    assert fleet.workers.process.wait(30) is not None
    assert "rowcast: This dashboard takes no workers: start it with --worker-token." in fleet.workers.log.read_text()
    server.stop()
    server.flags = flags
    server.start()
    fleet.workers = fleet.more()


def test_a_worker_with_a_wrong_token_says_so_once_and_ends(fleet: Fleet):
    before = fleet.workers.log.read_text()
    wrong = fleet.more(1, ROWCAST_WORKER_TOKEN="another")
    assert wrong.process.wait(30) is not None
    said = fleet.workers.log.read_text()[len(before) :]
    assert said.count("rowcast: The worker's token is not the dashboard's: give both the same --worker-token.") == 1
    assert len(fleet.living()) == 2


def test_a_worker_without_its_settings_says_which_and_ends(fleet: Fleet):
    env = {k: v for k, v in worker_env(fleet.server, "").items() if k != "ROWCAST_BROKER_URL"}
    ran = subprocess.run(COMMANDS[fleet.engine], env=env, capture_output=True, text=True, timeout=30)
    assert "rowcast: ROWCAST_BROKER_URL is not set: a worker cannot do without it." in ran.stderr
    assert ran.returncode == 2 and "Traceback" not in ran.stderr
