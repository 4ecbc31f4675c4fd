"""The stream in the world: many tabs, proxies, restarts, caps, other clients, several processes."""

import collections
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import httpx_sse
import pytest
from conftest import ROOT, free_port, told_while_it_runs, until
from on_page import but_its_icon
from playwright.sync_api import expect
from proxies import run_proxy
from websockets.sync.client import connect

from rowcast.components import job_frame

# ---- tabs ----------------------------------------------------------------------------------------------------------


def moves(page, server, job: int, api) -> Callable[[], bool]:
    """Whether the job has moved on its page since now; a few more posts are answered until it has on the server."""
    bar = page.get_by_role("progressbar")
    before = bar.get_attribute("aria-valuenow")

    def moved() -> bool:
        if server.job(job)["completed"] <= int(before):
            api.answer(2)
        return bar.get_attribute("aria-valuenow") != before

    return moved


def hurry(context, ping: float) -> None:
    """The pages of this browser expect so short a time between two pings, as their server does; it is five seconds."""
    script = (ROOT / "static" / "stream.js").read_text()
    hurried = script.replace("const PING = 5000;", f"const PING = {ping * 1000};")
    assert hurried != script
    context.route(
        "**/static/stream.js*", lambda route: route.fulfill(body=hurried, content_type="text/javascript")
    )


def test_seven_tabs_of_seven_jobs_share_one_stream_and_all_stay_usable(server, api, open_page):
    api.stall()
    jobs = [server.begin(limit=500, concurrency=2) for _ in range(7)]  # more than are answered in any case
    first = open_page(f"{server.url}/jobs/{jobs[0]}")
    tabs = [first, *(open_page(f"{server.url}/jobs/{job}", context=first.context) for job in jobs[1:])]
    for tab in tabs:
        tab.locator("body[data-live=live]").wait_for()
    until(lambda: server.streams() == 1)
    for tab, job in zip(tabs, jobs, strict=True):
        until(moves(tab, server, job, api))
    assert tabs[3].evaluate("fetch('/healthz').then((answer) => answer.status)") == 200
    first.close()
    for job in jobs[1:]:
        server.client.post(f"/api/jobs/{job}/cancel")
    for tab in tabs[1:]:
        tab.locator("#job-status[data-status=cancelled]").wait_for()


def test_a_tab_that_hears_nothing_of_the_one_with_the_stream_goes_alone(serve, api, open_page, own_context):
    server = serve("--api-url", api.url, waits={"PING": 2})
    api.stall()
    job = server.begin(limit=150, concurrency=1)
    context = own_context()
    hurry(context, 2)
    first = open_page(f"{server.url}/jobs/{job}", context=context)
    first.locator("body[data-live=live]").wait_for()
    second = open_page(f"{server.url}/jobs/{job}", context=first.context)
    second.locator("body[data-live=live]").wait_for()
    until(lambda: server.streams() == 1)
    first.evaluate("BroadcastChannel.prototype.postMessage = () => {}")
    until(lambda: server.streams() == 2)
    second.locator("body[data-live=live]").wait_for()
    server.client.post(f"/api/jobs/{job}/cancel")
    second.locator("#job-status[data-status=cancelled]").wait_for()


def test_over_the_cap_the_page_polls_instead_and_says_why(serve, api, visit):
    server = serve("--api-url", api.url, "--streams", "1")
    api.stall()
    job = server.begin(limit=60, concurrency=2)
    with server.client.stream("GET", "/api/events") as held:
        chunks = held.iter_bytes()
        next(chunks)
        assert server.client.get(f"/api/jobs/{job}/events").status_code == 429
        # the refused stream is an error in the console of every browser, so this page is opened without that check
        page = visit(f"{server.url}/jobs/{job}")
        page.locator("body[data-live=polling]").wait_for()
        assert "too many streams" in page.locator("#live").get_attribute("title")
        api.answer()
        page.locator("#job-status[data-status=completed]").wait_for()
        expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "60")


@pytest.fixture
def proxy(request):
    """Start a proxy before a server; gives its address."""
    running = []

    def start(server, hold: bool) -> str:
        port = free_port()
        running.append(
            subprocess.Popen(
                [sys.executable, str(ROOT / "tests" / "buffering_proxy.py"), str(port), str(server.port)],
                env=os.environ | {"HOLD": str(int(hold))},
            )
        )
        until(lambda: can_connect(port))
        return f"http://127.0.0.1:{port}"

    yield start
    for process in running:
        process.terminate()
        process.wait()


def can_connect(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def test_behind_a_proxy_that_buffers_the_page_polls_the_same_rows_and_names_the_cause(
    server, api, proxy, open_page, own_context
):
    api.stall()
    job = server.begin(limit=200, concurrency=2)
    context = own_context()
    hurry(context, 1)
    page = open_page(f"{proxy(server, hold=True)}/jobs/{job}", context=context)
    page.locator("body[data-live=polling]").wait_for()
    assert "proxy that buffers" in page.locator("#live").get_attribute("title")
    until(moves(page, server, job, api))
    page.locator("#items > tr[data-status=running]").first.wait_for()


def test_polling_answers_304_when_nothing_has_changed(server, api):
    job = server.begin(limit=3)
    server.ended(job)
    fresh = server.client.get("/events", params={"job": job, "poll": 1, "cursor": 1})
    assert fresh.status_code == 200
    assert fresh.headers["Rowcast-Ended"] == "1"
    assert 'id="item-' in fresh.text and "event: done" in fresh.text
    seq = server.job(job)["seq"]
    assert server.client.get("/events", params={"job": job, "poll": 1, "cursor": seq}).status_code == 304


def test_a_page_comes_back_by_itself_after_a_restart_and_is_complete(server, api, visit):
    api.stall()
    job = server.begin(limit=40, concurrency=2)
    page = visit(f"{server.url}/jobs/{job}")  # a lost server is an error in the console
    page.locator("body[data-live=live]").wait_for()
    server.stop()
    page.locator("body[data-live=offline]").wait_for()
    server.start()
    page.locator("body[data-live=live]").wait_for()
    api.answer()
    page.locator("#job-status[data-status=completed]").wait_for()
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "40")


# ---- other clients -------------------------------------------------------------------------------------------------


def test_a_native_eventsource_sees_all_and_stops_at_204(server, api, open_page):
    api.stall()
    job = server.begin(limit=50, concurrency=5)
    page = open_page(f"{server.url}/users")
    page.evaluate(
        """(url) => { window.seen = new Promise((resolve) => {
            const state = {}, ids = [], source = new EventSource(url);
            source.addEventListener('item', (e) => {
                const item = JSON.parse(e.data);
                state[item.id] = item.status;
                ids.push(+e.lastEventId);
            });
            source.addEventListener('done', () => { source.onerror = () => {
                if (source.readyState === EventSource.CLOSED) resolve({ state, ids }); }; });
        }) }""",
        f"/api/jobs/{job}/events",
    )
    until(lambda: server.streams())
    api.answer()
    seen = page.evaluate("window.seen")
    assert collections.Counter(seen["state"].values()) == {"completed": 50}
    assert seen["ids"] == sorted(set(seen["ids"]))


def test_the_npm_package_eventsource_sees_all(server, api):
    node = shutil.which("node") or str(Path(sys.executable).parent / "node")
    api.stall()
    job = server.begin(limit=50, concurrency=5)
    client = [node, str(ROOT / "tests" / "eventsource_client.mjs"), f"{server.url}/api/jobs/{job}/events"]
    said = json.loads(told_while_it_runs(server, api, client))
    assert said["rising"] and said["statuses"] == ["completed"] * 50


def test_curl_sees_all(server, api):
    api.stall()
    url = f"{server.url}/api/jobs/{server.begin(limit=20)}/events"
    told = told_while_it_runs(server, api, ["curl", "-sN", "--max-time", "120", url])
    assert told.count('"status":"completed"') >= 20
    assert told.rstrip().endswith('data: {"status":"completed"}')


def test_a_client_that_is_cut_at_every_turn_misses_nothing(server, api):
    api.latency(30)
    job = server.begin(limit=150, concurrency=10)
    state: dict[int, str] = {}
    last = ""
    done = False
    cuts = 0
    with httpx.Client(timeout=60) as client:
        while not done:
            headers = {"Last-Event-ID": last} if last else {}
            url = f"{server.url}/api/jobs/{job}/events?after=0"
            with httpx_sse.connect_sse(client, "GET", url, headers=headers) as source:
                if source.response.status_code == 204:
                    break  # cut after the last row and before `done`: nothing is left to say
                for n, event in enumerate(source.iter_sse()):
                    if event.event == "message":
                        continue  # the opening, which says only how soon to come back
                    if event.event == "done":
                        done = True
                        break
                    assert int(event.id) > int(last or 0)
                    last = event.id
                    if event.event == "item":
                        state[event.json()["id"]] = event.json()["status"]
                    if n == 3 + cuts % 7:
                        cuts += 1
                        break
    assert cuts > 10
    assert collections.Counter(state.values()) == {"completed": 150}


def test_a_cursor_from_another_database_is_told_to_read_again(server, api):
    server.ended(server.begin(limit=2))
    before = server.client.get("/healthz").json()["seq"]
    with httpx_sse.connect_sse(server.client, "GET", "/api/events", params={"after": 10**9}) as source:
        event = next(event for event in source.iter_sse() if event.event != "message")
    assert event.event == "resync" and event.json().keys() == {"after"}
    assert 0 < before <= event.json()["after"] <= server.client.get("/healthz").json()["seq"]


def test_a_reader_that_takes_nothing_is_dropped_and_the_others_do_not_wait(serve, api):
    server = serve("--api-url", api.url, waits={"SEND_TIMEOUT": 3})
    server.users(*(f"user-{n:05}@example.com" for n in range(30_000)))
    job = server.begin(concurrency=1)
    until(lambda: server.job(job)["total"] == 30_000)
    frozen = socket.create_connection(("127.0.0.1", server.port))
    frozen.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    frozen.sendall(f"GET /api/jobs/{job}/events HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
    frozen.settimeout(60)
    assert (
        frozen.recv(12) == b"HTTP/1.1 200"
    )  # its stream is open: once the rest has no room it is dropped soon
    with httpx_sse.connect_sse(server.client, "GET", f"/api/jobs/{job}/events") as source:
        assert (
            sum(1 for _, event in zip(range(2000), source.iter_sse(), strict=False) if event.event == "item")
            > 1000
        )
    until(lambda: server.streams() == 0)
    frozen.close()
    server.client.post(f"/api/jobs/{job}/cancel")


# ---- several processes, proxies ------------------------------------------------------------------------------------


def test_any_process_serves_any_stream_and_changes_made_in_one_reach_the_others(serve, api):
    server = serve("--api-url", api.url, "--workers", "3")
    until(lambda: server.client.get("/api/workers").json()["workers"])
    api.stall()
    job = server.begin(limit=60, concurrency=1)
    open_now = threading.Semaphore(0)

    def follow(_: int) -> list[httpx_sse.ServerSentEvent]:
        with (
            httpx.Client(timeout=60) as client,
            httpx_sse.connect_sse(client, "GET", f"{server.url}/api/jobs/{job}/events") as source,
        ):
            events = source.iter_sse()
            first = next(events)
            open_now.release()
            return [first, *events]

    with ThreadPoolExecutor(6) as pool:
        followed = pool.map(follow, range(6))
        assert all(open_now.acquire(timeout=60) for _ in range(6))
        api.answer()
        for events in followed:
            assert events[-1].event == "done"
            final = {e.json()["id"]: e.json()["status"] for e in events if e.event == "item"}
            assert collections.Counter(final.values()) == {"completed": 60}


def documented(name: str) -> str:
    """The block of docs/operating.md that is headed by the comment `# NAME`."""
    text = (ROOT / "docs" / "operating.md").read_text()
    return text.split(f"# {name}\n", 1)[1].split("```", 1)[0]


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
def test_the_documented_lines_of_a_proxy_let_the_stream_through(kind, serve, api, tmp_path, open_page):
    port = free_port()
    server = serve("--api-url", api.url, "--public-url", f"http://127.0.0.1:{port}")
    process = run_proxy(kind, documented(kind), port, server.port, tmp_path)
    try:
        until(lambda: can_connect(port))
        api.stall()
        job = server.begin(limit=60, concurrency=2)
        page = open_page(f"http://127.0.0.1:{port}/jobs/{job}")
        page.locator("body[data-live=live]").wait_for()
        until(lambda: page.locator("#items > tr[data-status=running]").count() == 2)
        socket_url = f"ws://127.0.0.1:{port}/api/ws?job={job}"
        # however much has come that nobody reads: else the end would not be read either, and be waited for
        with connect(socket_url, origin=f"http://127.0.0.1:{port}", max_queue=None) as ws:
            ws.send('{"after": 0}')
            assert json.loads(ws.recv(60))["event"] in ("item", "job")
        api.answer()
        page.locator("#job-status[data-status=completed]").wait_for()
        page.close()  # before the proxy goes, which would break its stream
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def test_all_who_look_at_one_place_are_sent_what_was_drawn_once(tmp_path, monkeypatch):
    from rowcast.feed import streams
    from rowcast.feed.sse import plain
    from rowcast.feed.streams import JobViewer
    from rowcast.feed.watch import Feed
    from rowcast.jobs import Jobs
    from rowcast.tables.database import close_databases
    from rowcast.tables.schema import prepare
    from rowcast.tables.users import Users
    from rowcast.tasks import built_in
    from rowcast.tasks.records import View
    from rowcast.tasks.work import Chunk

    path = str(tmp_path / "rowcast.db")
    prepare(path)
    Users(path).as_source()
    jobs = Jobs(path)
    job, _ = jobs.submit(built_in.update_users, {}, "local", "background")
    jobs.add_items(job.id, Chunk.of([(f"user-{n}@example.com", None) for n in range(200)], last=True))
    feed = Feed(jobs)
    drawn = []
    draw = job_frame
    monkeypatch.setattr(streams, "job_frame", lambda *given: drawn.append(1) or draw(*given))
    everyone = [JobViewer(feed, "", "local", job.id, View("all"), 0) for _ in range(100)]
    feed.look()
    frames = {plain(viewer.next()) for viewer in everyone}
    assert len(frames) == 1 and len(drawn) == 1
    close_databases()


def test_time_is_not_spent_on_a_page_that_nobody_changes(server, api, open_page, own_context):
    job = server.begin(limit=5)
    server.ended(job)
    page = open_page("about:blank", own_context())
    asked = []
    page.clock.install()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{server.url}/jobs/{job}")
    until(lambda: page.locator("#live-word").text_content() == "Up to date")
    asked.clear()
    page.clock.run_for(60_000)
    assert [
        url for url in but_its_icon(asked) if "/events?" not in url or "job" in url
    ] == []  # it is told news


def test_jobs_pushed_off_a_full_list_are_reached_by_the_link_that_appears(serve, api, open_page):
    server = serve("--api-url", api.url)
    for _ in range(49):
        server.ended(server.begin("counter", loops=0))
    page = open_page(server.url)
    page.locator("body[data-live=live]").wait_for()
    link = page.get_by_role("link", name="Earlier jobs")
    assert link.count() == 0
    for _ in range(3):
        server.begin("counter", loops=0)
    page.locator("#job-52").wait_for()
    page.locator("#job-2").wait_for(state="detached")
    link.click()
    page.locator("#job-1").wait_for()
    assert page.locator("#jobs > [id^=job-]").count() == 2
