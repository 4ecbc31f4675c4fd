"""Clients that come, read, are cut and come back, again and again: nothing of them is left in the server."""

import asyncio
import time

from bench.processes import descriptors, resident
from bench.soak import Soaked, clients
from tests.conftest import Server, until

CLIENTS = 60
SECONDS = 6
USERS = 20_000


def enough(done: Soaked) -> bool:
    return done.connections > 3 * CLIENTS and done.bytes > 1_000_000


def loop_tasks(server: Server) -> int:
    return int(server.client.get("/healthz").json()["loop_tasks"])


def test_descriptors_streams_tasks_and_memory_return_to_where_they_were(server, api):
    server.users(*(f"user-{n:06}@example.com" for n in range(USERS)))
    api.latency(100)  # it is connections that might leave something, not rows
    job = server.begin(concurrency=10)
    pid = server.process.pid
    until(lambda: server.job(job)["total"] == USERS)
    asyncio.run(clients(server.port, job, 0, 3, CLIENTS, enough))  # what is opened and imported once
    until(lambda: server.streams() == 0)
    before = (descriptors(pid), resident(pid))
    tasks = loop_tasks(server)
    after = max(0, server.job(job)["seq"] - 500)  # so there is something to read, however slowly the job goes
    done = asyncio.run(clients(server.port, job, after, SECONDS, CLIENTS, enough))
    assert enough(done) and done.disordered == 0
    until(lambda: server.streams() == 0)
    until(lambda: descriptors(pid) <= before[0] + 2)
    until(lambda: loop_tasks(server) <= tasks + 2)
    assert resident(pid) < before[1] + 30
    server.client.post(f"/api/jobs/{job}/cancel")


def test_several_processes_end_at_once_though_streams_are_open(serve, api):
    server = serve("--api-url", api.url, "--workers", "2")
    with server.client.stream("GET", "/api/events", headers={"Accept-Encoding": "identity"}) as held:
        lines = held.iter_lines()
        next(lines)
        server.process.terminate()
        assert "event: shutdown" in list(lines)
    assert server.process.wait(60) == 0


def test_a_client_that_takes_deflate_reads_the_same_rows(server, api):
    job = server.begin(limit=150)
    server.ended(job)
    path = f"/api/jobs/{job}/events"
    answers = [server.client.get(path, headers={"Accept-Encoding": how}) for how in ("deflate", "identity")]
    assert [answer.headers.get("Content-Encoding") for answer in answers] == ["deflate", None]
    assert answers[0].text == answers[1].text and answers[0].text.count("event: item") == 150
    assert int(answers[0].num_bytes_downloaded) < len(answers[0].content) / 3


def test_head_answers_and_opens_nothing(server):
    answer = server.client.head("/api/events")
    assert answer.status_code == 200 and answer.headers["Content-Type"].startswith("text/event-stream")
    time.sleep(0.1)
    until(lambda: server.streams() == 0)
