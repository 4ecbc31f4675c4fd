"""`progress(job)`: one job in a page of somebody else's, which follows it, for its owner alone; and the card."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import httpx_sse
import pytest
from axe_playwright_python.sync_playwright import Axe
from on_page import FILES, FLAGS, PHONE, Opens, overflow
from playwright.sync_api import BrowserContext, Locator, Page, expect
from servers import ROOT, Api, Server, until

from rowcast.components import progress_box, to_html
from rowcast.tasks.records import ProgressView

__all__ = ["FILES", "FLAGS"]  # of the module's server
Contexts = Callable[..., BrowserContext]
SHOP = (ROOT / "examples" / "08_shop.py").read_text()
RUN = """
import sys, uvicorn
sys.path.insert(0, "")
uvicorn.run("shop:app", port=int(sys.argv[sys.argv.index("--port") + 1]), log_level="warning")
"""


@pytest.fixture
def shop(serve: Callable[..., Server], tmp_path: Path) -> Server:
    """The example, as a user starts it; its lines are read when there is a file `go`."""
    (tmp_path / "shop.py").write_text(SHOP.replace("time.sleep(0.2)", WAITS))
    return serve(program=["-c", RUN], health="/")


WAITS = """while not os.path.exists("go"):
        time.sleep(0.05)"""


def go(shop: Server) -> None:
    (shop.directory / "go").touch()


def box(page: Page) -> Locator:
    return page.locator(".rowcast-progress")


def enter(page: Page, name: str) -> None:
    page.get_by_placeholder("Your name").fill(name)
    page.get_by_role("button", name="Sign in").click()


def bring(page: Page, *lines: str) -> None:
    page.get_by_placeholder("Lamp, 12.50").fill("\n".join(lines))
    page.get_by_role("button", name="Import").click()


def lines(number: int) -> list[str]:
    return [f"Lamp {n}, {n}.50" for n in range(number)]


# ---- in a shop -----------------------------------------------------------------------------------------------------


def test_two_users_of_a_shop_see_each_their_own_import_move_on_its_own_page(
    shop: Server, visit: Opens, own_context: Contexts
) -> None:
    lena, ben = (visit(f"{shop.url}/", own_context()) for _ in range(2))
    enter(lena, "lena")
    enter(ben, "ben")
    bring(lena, *lines(30), "Sofa, 12;50", "Desk, much")
    expect(box(lena)).to_contain_text("0 of 32 products")
    expect(ben.get_by_text("Nothing was imported yet.")).to_be_visible()
    bring(ben, *lines(12))
    expect(box(ben)).to_contain_text("0 of 12 products")
    for page in (lena, ben):
        expect(box(page)).to_have_attribute("data-live", "live")
    go(shop)
    expect(box(lena)).to_contain_text("30 of 32 products")
    expect(box(lena)).to_contain_text("2 failed")
    expect(box(lena).locator("li")).to_have_count(2)
    expect(box(lena).locator("li").first).to_contain_text("the price “12;50” is not a number")
    expect(box(lena).get_by_role("status")).to_contain_text("Done: 30 of 32 products, 2 failed.")
    expect(box(ben)).to_contain_text("12 of 12 products")
    for page in (lena, ben):
        expect(box(page)).to_have_attribute("data-live", "done")
    expect(box(ben).get_by_role("progressbar")).to_have_attribute("aria-valuenow", "12")


def test_it_has_the_font_and_the_colours_of_the_page_that_it_is_in(
    shop: Server, visit: Opens, own_context: Contexts
) -> None:
    for scheme, ink in (("light", "rgb(43, 38, 32)"), ("dark", "rgb(240, 235, 226)")):
        page = visit(f"{shop.url}/", own_context(color_scheme=scheme, **PHONE))
        enter(page, f"lena-{scheme}")
        bring(page, *lines(30))
        count = box(page).locator(".r-count")
        expect(count).to_contain_text("0 of 30 products")
        expect(count).to_have_css("font-family", re.compile("Georgia"))
        expect(count).to_have_css("color", ink)
        assert overflow(page) == 0
        page.evaluate(Axe().axe_script)
        assert (
            page.evaluate("axe.run('.rowcast-progress').then((found) => found.violations.map((v) => v.id))")
            == []
        )


def test_stop_cancels_it_and_the_page_stays(shop: Server, visit: Opens, own_context: Contexts) -> None:
    page = visit(f"{shop.url}/", own_context())
    enter(page, "lena")
    bring(page, *lines(40))
    expect(box(page)).to_contain_text("0 of 40 products")
    expect(box(page)).to_have_attribute("data-live", "live")
    box(page).get_by_role("button", name="Stop").click()
    go(shop)
    expect(box(page)).to_contain_text("stopped")
    expect(page).to_have_url(f"{shop.url}/")
    expect(box(page).get_by_role("button", name="Stop")).to_have_count(0)


def test_nobody_else_is_told_of_it(shop: Server, visit: Opens, own_context: Contexts) -> None:
    page = visit(f"{shop.url}/", own_context())
    enter(page, "lena")
    bring(page, *lines(10))
    source = box(page).get_attribute("data-source")
    assert source
    with httpx.Client(base_url=shop.url, timeout=60) as stranger:
        assert stranger.get(source).status_code == 401
        stranger.post("/enter", data={"user": "ben"})
        assert stranger.get(source).status_code == 404
        job = re.search(r"\d+", source)
        assert job
        assert stranger.get(f"/jobs/jobs/{job[0]}/progress").status_code == 404
        assert stranger.get("/jobs/api/jobs").json()["jobs"] == []
    go(shop)


APP = """
import os
from fasthtml.common import FastHTML
from rowcast import mount, progress

app = FastHTML()
{owner}
mount(app, "/jobs", database="jobs.db"{given})

@app.get("/at/{{job}}")
def at(job: int):
    return progress(job, noun="lines")

@app.get("/on-the-loop/{{job}}")
async def on_the_loop(job: int):
    return progress(job, noun="lines")
"""
KINDS = {
    "nobody": ("", ""),
    "plain": ("def who(req): return req.headers.get('x-user')", ", owner=who"),
    "coroutine": ("async def who(req): return req.headers.get('x-user')", ", owner=who"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_at_first_is_the_owners_alone(
    serve: Callable[..., Server], tmp_path: Path, kind: str
) -> None:
    owner, given = KINDS[kind]
    (tmp_path / "shop.py").write_text(APP.format(owner=owner, given=given))
    server = serve(program=["-c", RUN], health="/jobs/healthz")
    lena = {"x-user": "lena"}
    ben = {"x-user": "ben"}
    made = server.client.post("/jobs/api/jobs", json={"task": "counter", "args": {"loops": 2}}, headers=lena)
    job = made.json()["id"]
    until(lambda: server.client.get(f"/jobs/api/jobs/{job}", headers=lena).json()["finished_at"])
    for place in ("at", "on-the-loop"):
        mine = server.client.get(f"/{place}/{job}", headers=lena).text
        theirs = server.client.get(f"/{place}/{job}", headers=ben).text
        cannot_ask = kind == "coroutine" and place == "on-the-loop"
        if cannot_ask:
            assert "2 of 2" not in mine and f'data-source="/jobs/events/progress/{job}?noun=lines"' in mine
        else:
            assert "2 of 2 lines" in mine
        if kind != "nobody":
            assert "2 of 2" not in theirs
        nothing = server.client.get(f"/{place}/4711", headers=lena).text
        assert ("There is no job 4711" in nothing) != cannot_ask


# ---- its address ---------------------------------------------------------------------------------------------------


def test_any_page_of_this_origin_can_hold_it_by_its_address(
    server: Server, api: Api, open_page: Opens
) -> None:
    api.stall()
    job = server.begin(limit=40, concurrency=2)
    until(lambda: server.job(job)["total"] == 40)
    page = open_page("about:blank")
    html = server.client.get(f"/jobs/{job}/progress", params={"noun": "letters", "problems": 3}).text
    assert "0 of 40 letters" in html
    page.route(
        f"{server.url}/theirs",
        lambda route: route.fulfill(
            body=f"<title>x</title><link rel=icon href=data:,>{html}", content_type="text/html"
        ),
    )
    page.goto(f"{server.url}/theirs")
    expect(box(page)).to_have_attribute("data-live", "live")
    api.answer()
    expect(box(page)).to_contain_text("40 of 40 letters")
    expect(box(page)).to_have_attribute("data-live", "done")


def test_where_its_stream_is_refused_before_anything_is_drawn_it_says_so(
    server: Server, visit: Opens
) -> None:
    job = server.begin("counter", loops=1)
    html = to_html(progress_box("", job, ProgressView(noun="letters"), None))
    page = visit("about:blank")
    body = f"<title>x</title><link rel=icon href=data:,>{html}"
    page.route(f"{server.url}/theirs", lambda route: route.fulfill(body=body, content_type="text/html"))
    page.route("**/events/progress/*", lambda route: route.fulfill(status=404))
    page.goto(f"{server.url}/theirs")
    expect(box(page)).to_have_text("This is not followed any more: reload the page.")
    page.unroute("**/events/progress/*")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(box(page)).to_contain_text("1 of 1 letters")
    expect(box(page)).not_to_contain_text("not followed")


def test_its_stream_draws_a_job_four_times_a_second_at_most_and_says_done(server: Server, api: Api) -> None:
    job = server.begin(limit=300, concurrency=20)
    began = time.monotonic()
    with httpx_sse.connect_sse(server.client, "GET", f"/events/progress/{job}") as source:
        seen = [event for event in source.iter_sse() if event.data]
    assert seen[-1].event == "done" and seen[-1].json() == {"status": "completed"}
    assert "300 of 300 items" in seen[-2].data
    assert len(seen) <= 4 * (time.monotonic() - began) + 4  # of a busy machine it draws more, for longer
    with httpx_sse.connect_sse(server.client, "GET", f"/events/progress/{job}") as source:
        assert [event.event for event in source.iter_sse() if event.data] == ["message", "done"]


def test_where_wanted_its_newest_rows_move(server: Server, api: Api, open_page: Opens) -> None:
    api.stall()
    job = server.begin(limit=30, concurrency=2)
    until(lambda: server.job(job)["running"] == 2)
    html = server.client.get(f"/jobs/{job}/progress", params={"rows": 5}).text
    page = open_page("about:blank")
    page.route(
        f"{server.url}/theirs",
        lambda route: route.fulfill(
            body=f"<title>x</title><link rel=icon href=data:,>{html}", content_type="text/html"
        ),
    )
    page.goto(f"{server.url}/theirs")
    rows = box(page).locator(".r-rows li")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("Running")
    api.answer()
    expect(box(page)).to_have_attribute("data-live", "done")
    expect(rows).to_have_count(5)
    newest = sorted(server.items(job), key=lambda item: -item["seq"])[:5]
    assert [row.split("Completed")[0].strip() for row in rows.all_inner_texts()] == [
        item["key"] for item in newest
    ]


@pytest.mark.parametrize("query", ["rows=101", "problems=-1", "problems=x", "problems=101"])
def test_what_it_cannot_show_is_refused(server: Server, query: str) -> None:
    job = server.begin("counter", loops=0)
    assert server.client.get(f"/jobs/{job}/progress?{query}").status_code == 422
    assert server.client.get(f"/events/progress/{job}?{query}").status_code == 422


def test_words_of_others_are_text(server: Server, open_page: Opens) -> None:
    evil = "<img src=x onerror=alert(1)>"
    job = server.begin("chores", items=[f"broken {evil}"])
    server.ended(job)
    html = server.client.get(f"/jobs/{job}/progress", params={"noun": evil, "problems": 1}).text
    assert "<img" not in html and "&lt;img" in html


# ---- the card ------------------------------------------------------------------------------------------------------


def test_a_link_to_a_card_can_be_taken_back_and_what_follows_it_ends(
    serve: Callable[..., Server], api: Api
) -> None:
    server = serve("--api-url", api.url, waits={"PING": 1})
    api.stall()
    job = server.begin(limit=40, concurrency=2)
    link = server.client.post(f"/api/jobs/{job}/card", json={}).json()["url"]
    source = link.replace("/card/", "/events/card/")
    until(lambda: server.job(job)["total"] == 40)
    with httpx_sse.connect_sse(server.client, "GET", source) as followed:
        events = (event for event in followed.iter_sse() if event.data)
        assert "0 of 40 items" in next(events).data
        assert httpx.delete(f"{server.url}/api/jobs/{job}/card", timeout=60).status_code == 204
        assert [event.event for event in events][-1] == "auth"
    assert httpx.get(link, timeout=60).status_code == 404
    assert httpx.get(source, timeout=60).status_code == 404
    again = server.client.post(f"/api/jobs/{job}/card", json={}).json()["url"]
    assert httpx.get(again, timeout=60).status_code == 200


def test_a_card_without_script_shows_what_there_is(server: Server, api: Api, visit: Opens) -> None:
    api.stall()
    job = server.begin(limit=40, concurrency=2)
    until(lambda: server.job(job)["total"] == 40)
    page = visit(f"{server.url}/jobs/{job}/card", java_script_enabled=False)
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuemax", "40")
    expect(page.get_by_role("button")).to_have_count(0)
