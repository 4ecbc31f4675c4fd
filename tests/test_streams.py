"""The wire: server-sent events as bytes and as events, from a real server, cut and resumed."""

import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import httpx_sse
import pytest

from rowcast.feed.streams import CHARTS_EVERY
from rowcast.web import requests
from tests.conftest import Server, until

FILES = {
    "work.py": """
import asyncio
from rowcast import task

@task(concurrency=20)
async def nap(item: str, seconds: float = 0.01):
    await asyncio.sleep(seconds)
    if item.endswith("7"):
        raise RuntimeError("seven")
"""
}
FLAGS = ("--tasks", "work")
ENDED = ("completed", "failed", "cancelled", "unknown")


def events(
    server: Server, path: str, last: str | int = "", **params: Any
) -> Iterator[httpx_sse.ServerSentEvent]:
    """The events of one stream until the server ends it."""
    headers = {"Last-Event-ID": str(last)} if last != "" else {}
    with httpx.Client(base_url=server.url, timeout=60) as client:
        with httpx_sse.connect_sse(client, "GET", path, headers=headers, params=params) as source:
            assert source.response.status_code == 200, source.response.read()
            # httpx-sse gives also what has no data, like the opening's `retry`, and repeats the last id on what has none
            yield from (event for event in source.iter_sse() if event.data)


def naps(server: Server, number: int = 200, **args: Any) -> int:
    return server.begin("nap", items=[f"nap {n}" for n in range(number)], **args)


@pytest.fixture(scope="module")
def ended(shared: Server) -> int:
    """A job of fifty that has ended, five of them failed."""
    job = naps(shared, 50)
    shared.ended(job)
    return job


# ---- bytes ---------------------------------------------------------------------------------------------------------


def test_a_tab_whose_job_is_gone_ends_alone_and_the_others_of_its_browser_go_on(server, api):
    job = server.begin(limit=1)
    server.ended(job)
    wants = {"want": ["one.0.view=jobs", "two.0.job=4711", f"three.0.job={job}"]}
    said = {}
    with server.client.stream(
        "GET", "/events", params=wants, headers={"Accept-Encoding": "identity"}
    ) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: "):
                part = json.loads(line.removeprefix("data: "))
                said.setdefault(part["want"], []).append(part)
                if part["ended"] and "one" in said and len(said) == 3:
                    break
    assert [part["ended"] for part in said["two"]] == [True] and "event: done" in said["two"][0]["text"]
    assert said["three"][-1]["ended"] and not any(part["ended"] for part in said["one"])


def test_the_first_bytes_come_at_once_and_say_when_to_come_back(shared: Server):
    with socket.create_connection(("127.0.0.1", shared.port), 60) as s:
        s.sendall(
            f"GET /api/events?after={10**15} HTTP/1.1\r\nHost: 127.0.0.1:{shared.port}\r\n\r\n".encode()
        )
        said = b""
        while (
            b"\r\n\r\n" not in said.partition(b"\r\n\r\n")[2]
        ):  # nothing has happened, and yet the first event ends
            said += s.recv(65536)
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK") and b"content-type: text/event-stream; charset=utf-8" in head
    assert b"cache-control: no-store" in head and b"x-accel-buffering: no" in head
    assert b"retry: 1000\r\n:" in body and len(body) > 2048


def test_a_quiet_stream_is_kept_open_with_comments(serve):
    """The pause between two comments is made short here; how long it is, is said in the next test."""
    server = serve(waits={"PING": 1})
    with httpx.stream("GET", f"{server.url}/api/events", timeout=60) as answer:
        comments = (line for line in answer.iter_lines() if line.startswith(": ping"))
        assert next(comments) and next(comments)


def test_the_pause_between_two_comments_is_fifteen_seconds_at_most():
    assert requests.PING <= 15


# ---- one job -------------------------------------------------------------------------------------------------------


def test_ids_rise_and_done_has_none_and_is_the_last(shared: Server):
    job = naps(shared)
    seen = list(events(shared, f"/api/jobs/{job}/events"))
    ids = [int(event.id) for event in seen if event.event in ("item", "job")]
    assert ids == sorted(set(ids))
    assert [event.event for event in seen].index("done") == len(seen) - 1
    assert json.loads(seen[-1].data) == {"status": "completed"}


def test_on_the_wire_every_change_has_its_id_and_control_events_have_none(shared: Server, ended: int):
    text = shared.client.get(f"/api/jobs/{ended}/events").text
    blocks = [block.splitlines() for block in text.split("\r\n\r\n") if block.strip()][1:]
    for block in blocks[:-1]:
        assert (
            block[0].startswith("id: ")
            and block[1] in ("event: item", "event: job")
            and block[2].startswith("data: {")
        )
    assert blocks[-1] == ["event: done", 'data: {"status":"completed"}']


def test_the_final_state_of_every_item_and_of_the_job_comes_before_done(shared: Server):
    job = naps(shared)
    items: dict[int, dict[str, Any]] = {}
    jobs = []
    for event in events(shared, f"/api/jobs/{job}/events"):
        data = json.loads(event.data)
        if event.event == "item":
            items[data["id"]] = data
        elif event.event == "job":
            jobs.append(data)
    assert [items[item["id"]] for item in shared.items(job)] == shared.items(job)
    assert {item["status"] for item in items.values()} <= set(ENDED) and len(items) == 200
    now = shared.job(job)
    assert jobs[-1] == now and now["failed"] == 20


def test_a_row_is_never_shown_out_of_order(shared: Server):
    job = naps(shared)
    rank = {"queued": 0, "running": 1, "completed": 2, "failed": 2}
    shown: dict[int, int] = {}
    done = 0
    for event in events(shared, f"/api/jobs/{job}/events"):
        data = json.loads(event.data)
        if event.event == "item":
            assert rank[data["status"]] >= shown.get(data["id"], 0)
            shown[data["id"]] = rank[data["status"]]
        elif event.event == "job":
            assert data["completed"] + data["failed"] >= done
            done = data["completed"] + data["failed"]
            assert (
                sum(data[status] for status in ("queued", "running", "completed", "failed")) == data["total"]
            )


def test_cut_at_random_places_and_resumed_nothing_is_lost(shared: Server):
    """Bytes are read and the connection is cut anywhere, also within an event; only whole events count."""
    chance = random.Random(7)
    job = naps(shared, 400)
    items: dict[int, dict[str, Any]] = {}
    last = ""
    cuts = 0
    done = False
    while not done:
        events_read, last = read_some(shared, job, last, chance.randint(2200, 30_000))
        cuts += 1
        for name, data in events_read:
            if name == "item":
                assert data["seq"] > items.get(data["id"], {"seq": -1})["seq"]
                items[data["id"]] = data
            done = done or name == "done"
    assert cuts > 3
    assert sorted(items.values(), key=lambda item: item["position"]) == shared.items(job)


def read_some(server: Server, job: int, last: str, size: int) -> tuple[list[tuple[str, dict[str, Any]]], str]:
    """Read `size` bytes of a job's stream and hang up: the whole events among them, and the last id."""
    head = f"GET /api/jobs/{job}/events HTTP/1.0\r\nHost: 127.0.0.1\r\n"
    with socket.create_connection(("127.0.0.1", server.port), 60) as s:
        s.sendall((head + (f"Last-Event-ID: {last}\r\n" if last else "") + "\r\n").encode())
        said = b""
        while len(said) < size and (part := s.recv(min(4096, size - len(said)))):
            said += part
    if said.split(b" ", 2)[1] == b"204":  # it has seen all but `done` itself
        return [("done", {})], last
    found = []
    for block in unchunked(said).split(b"\r\n\r\n")[1:-1]:
        fields = dict(line.split(b": ", 1) for line in block.split(b"\r\n") if not line.startswith(b":"))
        if b"data" in fields:
            last = fields.get(b"id", last.encode()).decode()
            found.append((fields[b"event"].decode(), json.loads(fields[b"data"])))
    return found, last


def unchunked(said: bytes) -> bytes:
    """The body of an answer, its chunks' sizes taken out."""
    head, _, rest = said.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head:
        return rest
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body += rest[: int(size or b"0", 16)]
        rest = rest[int(size or b"0", 16) + 2 :]
    return body


def test_the_header_wins_over_the_address_which_a_reconnecting_page_repeats(shared: Server, ended: int):
    ids = [event.id for event in events(shared, f"/api/jobs/{ended}/events") if event.event != "done"]
    resumed = [
        event.id
        for event in events(shared, f"/api/jobs/{ended}/events", ids[-3], after=ids[0])
        if event.event != "done"
    ]
    assert resumed == ids[-2:]
    assert [
        e.id for e in events(shared, f"/api/jobs/{ended}/events", after=ids[-3]) if e.event != "done"
    ] == ids[-2:]


def test_an_ended_job_says_done_at_once_to_whoever_comes_later(shared: Server, ended: int):
    newest = shared.job(ended)["seq"]
    assert [event.event for event in events(shared, f"/api/jobs/{ended}/events", after=newest)] == ["done"]


def test_who_has_seen_everything_of_an_ended_job_is_told_204(shared: Server, ended: int):
    seen = str(shared.job(ended)["seq"])
    answer = shared.client.get(f"/api/jobs/{ended}/events", headers={"Last-Event-ID": seen})
    assert (answer.status_code, answer.content) == (204, b"")


def test_who_has_not_seen_everything_of_an_ended_job_is_told_the_rest(shared: Server, ended: int):
    before = shared.job(ended)["seq"] - 1
    assert [event.event for event in events(shared, f"/api/jobs/{ended}/events", before)] == ["job", "done"]


@pytest.mark.parametrize("path", ["/api/jobs/999999/events", "/events?job=999999", "/events"])
def test_the_stream_of_an_unknown_job_is_404_and_json(shared: Server, path: str):
    answer = shared.client.get(path)
    assert answer.status_code == 404 and answer.json()["error"].startswith("There is no job")


@pytest.mark.parametrize("last", ["-1", "abc", "1.5", "9" * 30, "9" * 5000])
def test_a_last_event_id_that_is_no_number_is_refused(shared: Server, ended: int, last: str):
    answer = shared.client.get(f"/api/jobs/{ended}/events", headers={"Last-Event-ID": last})
    assert answer.status_code == 422 and answer.json()["error"].startswith("Last-Event-ID is a whole number")


def test_a_job_retried_after_its_end_streams_on_from_the_last_id(shared: Server):
    job = naps(shared, 10)
    shared.ended(job)
    last = [event.id for event in events(shared, f"/api/jobs/{job}/events")][-1]
    shared.client.post(f"/api/jobs/{job}/retry")
    items = [json.loads(e.data) for e in events(shared, f"/api/jobs/{job}/events", last) if e.event == "item"]
    assert {item["key"] for item in items} == {"nap 7"} and items[-1]["attempt"] == 2


def test_a_cancelled_job_tells_of_every_item_that_was_not_run(shared: Server):
    job = naps(shared, 500, seconds=60)
    until(lambda: shared.job(job)["running"])
    shared.client.post(f"/api/jobs/{job}/cancel")
    seen = list(events(shared, f"/api/jobs/{job}/events"))
    items = {item["id"]: item["status"] for item in (json.loads(e.data) for e in seen if e.event == "item")}
    assert len(items) == 500 and set(items.values()) == {"cancelled"}
    assert json.loads(seen[-1].data) == {"status": "cancelled"}


# ---- all jobs ------------------------------------------------------------------------------------------------------


def test_the_stream_of_all_jobs_follows_new_ones(shared: Server):
    after = shared.client.get("/healthz").json()["seq"]
    stream = events(shared, "/api/events", after=after)
    job = naps(shared, 20)
    finals: dict[int, str] = {}
    for event in stream:
        data = json.loads(event.data)
        assert int(event.id) > after
        if event.event == "item" and data["job"] == job:
            finals[data["position"]] = data["status"]
        elif event.event == "job" and data["id"] == job and data["finished_at"]:
            break
    stream.close()
    assert sorted(finals) == list(range(20)) and set(finals.values()) == {"completed", "failed"}


# ---- the page's own stream -----------------------------------------------------------------------------------------


def test_the_pages_stream_sends_rows_to_put_in_place_and_then_done(shared: Server):
    job = naps(shared, 30)
    seen = list(events(shared, "/events", job=job))
    assert seen[-1].event == "done"
    html = "".join(event.data for event in seen)
    for item in shared.items(job):
        assert f'id="item-{item["id"]}"' in html
    assert 'data-status="completed"' in html and 'aria-valuenow="30"' in html


def test_the_pages_stream_sends_at_most_ten_frames_a_second(shared: Server):
    job = naps(shared, 300)
    began = time.monotonic()
    seen = [event.data for event in events(shared, "/events", job=job) if event.event != "done"]
    took = time.monotonic() - began
    pictures = [data for data in seen if 'hx-target="#charts"' in data]
    assert 1 <= len(pictures) <= took / CHARTS_EVERY + 3
    assert len(seen) - len(pictures) <= 10 * took + 2


def test_a_page_that_comes_to_an_ended_job_is_told_done(shared: Server, ended: int):
    assert [event.event for event in events(shared, "/events", job=ended)][-1] == "done"


def test_the_list_of_jobs_is_told_of_each_change(shared: Server):
    stream = events(shared, "/events", view="jobs", cursor=shared.client.get("/healthz").json()["seq"])
    job = naps(shared, 10)
    for event in stream:
        if f'id="job-{job}"' in event.data and 'data-status="completed"' in event.data:
            break
    stream.close()


# ---- many readers, slow readers, leaving ---------------------------------------------------------------------------


def test_twenty_readers_see_the_same_end(shared: Server):
    job = naps(shared, 100)
    finals: list[dict[int, str]] = []

    def read() -> None:
        items = {}
        for event in events(shared, f"/api/jobs/{job}/events"):
            if event.event == "item":
                items[json.loads(event.data)["id"]] = json.loads(event.data)["status"]
        finals.append(items)

    readers = [threading.Thread(target=read) for _ in range(20)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(120)
    assert len(finals) == 20 and all(items == finals[0] for items in finals) and len(finals[0]) == 100


def test_a_reader_that_has_slept_gets_each_row_once_in_its_latest_state(shared: Server):
    job = naps(shared, 100)
    shared.ended(job)
    rows = [json.loads(e.data)["id"] for e in events(shared, f"/api/jobs/{job}/events") if e.event == "item"]
    assert len(rows) == len(set(rows)) == 100


def test_a_reader_who_leaves_is_forgotten(shared: Server):
    stream = events(shared, "/api/events")
    next(stream)
    until(lambda: shared.streams() == 1)
    stream.close()
    until(lambda: shared.streams() == 0)


def test_when_the_server_goes_down_the_stream_says_so_and_goes_on_after_the_restart(serve):
    server = serve()
    server.users("one@example.com")
    job = server.begin("counter", loops=2)
    server.ended(job)
    stream = events(server, "/api/events")
    names = []
    for event in stream:
        names.append(event.event)
        last = event.id
        if len(names) == 1:
            threading.Thread(target=server.stop).start()
    assert names[-1] == "shutdown"
    server.process.wait(60)
    server.start()
    server.begin("counter", loops=1)
    assert int(next(events(server, "/api/events", last)).id) > int(last)
