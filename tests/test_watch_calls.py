"""A worker elsewhere is told of a pause by the answer that it waits for, and asks nothing meanwhile."""

import asyncio
import threading
from collections import Counter
from typing import Any

import httpx
from conftest import Server, until
from fleet import TOKEN, queue_flags

from rowcast.tables.database import connection
from rowcast.tasks.work import Beat, Report, Result
from rowcast.worker.remote import RemoteLedger, headers_of, open_client, open_ledger_client, say, watch


def slice_of(server: Server, job: int) -> tuple[int, str]:
    """The slice of a job that was sent to the queue: its slot and token."""
    conn = connection(str(server.directory / "data" / "rowcast.db"))
    return until(lambda: conn.execute("select slot, token from slots where job = ?", (job,)).fetchone())


def test_a_worker_that_has_its_hands_full_asks_nothing_until_it_is_told(serve: Any, broker: Any):
    server = serve(*queue_flags("celery", broker.url))
    job = server.begin("update_users", limit=20)
    slot, token = slice_of(server, job)
    beats = open_client(server.url, TOKEN)
    say(beats, Beat(worker="w", host="here", pid=1, engine="celery", version="1"))

    async def work() -> None:
        calls: Counter[str] = Counter()

        async def note(request: httpx.Request) -> None:
            calls[request.url.path.rpartition("/")[2]] += 1

        async with open_ledger_client(server.url, TOKEN) as client:
            client.event_hooks["request"].append(note)
            ledger = RemoteLedger(client, job, slot, token)
            assert (await ledger.begin("w")).job
            items = (await ledger.exchange(job, "w", Report(limit=5))).items
            assert (await ledger.look(job, "w")).status == "running" and calls["look"] == 1, (
                "nobody watches yet"
            )
            await asyncio.to_thread(watch, beats, "w", [ledger], 1.0)  # its first answer says how it stands
            await ledger.look(job, "w")
            told = threading.Event()

            def listen() -> None:
                while not told.is_set():
                    watch(beats, "w", [ledger], 1.0)

            listener = threading.Thread(target=listen)
            ledger.quiet_until = 0.0
            listener.start()
            await asyncio.to_thread(until, lambda: ledger.quiet_until)
            before = calls["look"]
            for _ in range(50):
                standing = await ledger.look(job, "w")
                assert sorted(standing.mine) == [item.id for item in items]
            done = [Result(items[0].id, items[0].attempt, "completed")]
            await ledger.exchange(job, "w", Report(done))
            assert sorted((await ledger.look(job, "w")).mine) == [item.id for item in items[1:]]
            assert calls["look"] == before
            for path in ("/api/halts", "/api/halts/lift"):  # of the task, by an admin
                server.client.post(path, json={"task": "update_users"}).raise_for_status()
                await asyncio.to_thread(until, lambda: ledger.standing is None)
                now = (await ledger.look(job, "w")).status
                assert now == ("running" if path.endswith("lift") else "paused")
            before = calls["look"]
            server.client.post(f"/api/jobs/{job}/pause").raise_for_status()
            await asyncio.to_thread(until, lambda: ledger.standing is None)
            assert (await ledger.look(job, "w")).status == "paused" and calls["look"] == before + 1
            told.set()
            server.client.post(f"/api/jobs/{job}/cancel").raise_for_status()
            await asyncio.to_thread(listener.join, 60)
            assert (await ledger.look(job, "w")).status == "cancelled" and not listener.is_alive()

    asyncio.run(work())
    beats.close()


def test_a_call_without_the_token_is_refused_whatever_its_body_is(serve: Any, broker: Any):
    server = serve(*queue_flags("celery", broker.url))
    others = (({}, 401), (headers_of("another"), 401), (headers_of(TOKEN) | {"Rowcast-Version": "0"}, 409))
    for headers, code in others:
        assert server.client.post("/api/ledger/exchange", headers=headers, content=b"[").status_code == code
    headers = headers_of(TOKEN)
    for body_of, code, says in (
        (b"[" * 100_000, 400, "cannot be read"),
        (b'{"worker": "w", "job": 99999999999999999999}', 400, "larger than SQLite"),
        (b'{"worker": "w", "slices": [[1, 0, "left over"]]}', 200, '[""]'),
    ):
        answer = server.client.post(
            "/api/ledger/watch" if code == 200 else "/api/ledger/look", headers=headers, content=body_of
        )
        assert answer.status_code == code and says in answer.text
    assert server.client.post("/api/ledger/nothing", headers=headers, content=b"{}").status_code == 404
    assert server.client.get("/api/ledger/look", headers=headers).status_code == 405
    assert (
        server.client.post(
            "/api/ledger/look", headers=headers | {"Origin": "https://evil.example"}, content=b"{}"
        ).status_code
        == 403
    )
