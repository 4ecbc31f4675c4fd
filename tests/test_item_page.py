"""One item's page, beside the rows: its tries, what it was given and said, and the way there and back."""

import json
import re
import sqlite3

import pytest
from on_page import PHONE, Opens, button, people
from playwright.sync_api import Locator, Page, expect
from servers import Api, Server, until

FLAGS = ("--tasks", "mine")
FILES = {
    "mine.py": """
import asyncio, httpx, logging
from rowcast import Retry, task

log = logging.getLogger("mine")
tried = set()

@task(concurrency=10, max_attempts=3, backoff=0.01)
async def post(user: dict, api: httpx.AsyncClient):
    "One post."
    log.warning("to %s", user["email"])
    (await api.post(f"/update-user/{user['email']}")).raise_for_status()
    return {"updated": True}

@task(max_attempts=2)
async def twice(item: dict, api: httpx.AsyncClient):
    "Waits for the API, says so, and fails the first time."
    print("asks for", item["name"])
    await api.get("/turn")
    if item["name"] not in tried:
        tried.add(item["name"])
        raise Retry("it was the first time", after=0.3)
    print("got", item["name"])

@task(idempotent=False, timeout=0.2)
async def once(item: str, api: httpx.AsyncClient):
    "Nobody knows whether it arrived."
    await api.get("/turn")

@task(max_attempts=2)
def not_yet(item: str):
    "One of its items is to wait."
    if item == "much later":
        raise Retry("not yet", after=600)

@task
def says_odd_things(item: str):
    print("<b>bold</b> \\u202e reversed")
    raise ValueError("<script>alert(1)</script>")
"""
}


def panel(page: Page) -> Locator:
    return page.locator("#item")


def item_id(server: Server, job: int, key: str) -> int:
    return int(server.items(job, find=key)[0]["id"])


@pytest.fixture(scope="module")
def ended(shared: Server) -> int:
    """A job of three hundred items that has ended, some of them in failure; who looks at it changes nothing of it."""
    shared.users(*people(140), "limit-1@example.com", "busy-1@example.com", *people(158, "other"))
    return int(shared.ended(shared.begin("post"))["id"])


def test_the_key_opens_the_item_beside_the_rows_with_all_there_is(
    server: Server, ended: int, open_page: Opens
) -> None:
    page = open_page(f"{server.url}/jobs/{ended}?find=limit-1")
    page.get_by_role("link", name="limit-1@example.com").click()
    page.wait_for_url(re.compile(r"/items/\d+\?"))
    expect(panel(page).get_by_role("heading", name="limit-1@example.com")).to_be_visible()
    expect(page.locator("#items > tr[aria-current=true]")).to_contain_text("limit-1@example.com")
    tries = panel(page).locator(".tries > li")
    expect(tries).to_have_count(3)
    expect(tries.nth(0)).to_contain_text("429 Too Many Requests")
    expect(tries.nth(1)).to_contain_text("the API asked for it (Retry-After: 1)")
    expect(tries.nth(2)).to_contain_text("200 OK")
    tries.nth(0).get_by_text("Its answer").click()
    expect(tries.nth(0)).to_contain_text('{"error":"too many requests"}')
    expect(panel(page).get_by_role("region", name="Payload")).to_contain_text(
        '"email": "limit-1@example.com"'
    )
    expect(panel(page).get_by_role("region", name="Result")).to_contain_text('"updated": true')
    expect(panel(page).locator("#log")).to_contain_text("to limit-1@example.com")
    expect(panel(page)).to_contain_text(f"Idempotency-Key {ended}-{item_id(server, ended, 'limit-1')}")
    expect(page).to_have_title(re.compile("limit-1@example.com"))


def test_the_way_back_leads_to_the_same_filter_page_and_place(
    server: Server, ended: int, open_page: Opens
) -> None:
    page = open_page(f"{server.url}/jobs/{ended}?view=completed&after=99")
    row = page.locator("#items > tr").nth(60)
    row.scroll_into_view_if_needed()
    place = page.evaluate("scrollY")
    assert place > 300
    key = row.locator(".key").inner_text()
    row.locator(".key a").click()
    expect(page.locator("#item-title")).to_have_text(key)
    until(lambda: page.evaluate("scrollY") == place)
    page.go_back()
    expect(panel(page)).to_have_count(0)
    until(lambda: page.evaluate("scrollY") == place)
    assert page.url.endswith("?view=completed&after=99")
    page.go_forward()
    expect(page.locator("#item-title")).to_have_text(key)
    page.keyboard.press("Escape")
    expect(panel(page)).to_have_count(0)
    until(lambda: page.evaluate("scrollY") == place)
    assert "view=completed&after=99" in page.url


def test_on_a_phone_the_item_stands_in_place_of_the_rows(
    server: Server, ended: int, open_page: Opens
) -> None:
    page = open_page(f"{server.url}/jobs/{ended}?view=all&after=99", **PHONE)
    row = page.locator("#items > tr").nth(40)
    row.scroll_into_view_if_needed()
    place = page.evaluate("scrollY")
    key = row.locator(".key").inner_text()
    row.locator(".key a").click()
    expect(page.locator("#item-title")).to_have_text(key)
    expect(page.locator("#items")).to_be_hidden()
    expect(page.get_by_role("progressbar")).to_be_hidden()
    until(lambda: page.evaluate("[scrollY, document.documentElement.scrollWidth]") == [0, 390])
    page.get_by_role("link", name="Close").click()
    expect(page.locator("#items")).to_be_visible()
    until(lambda: abs(page.evaluate("scrollY") - place) < 2)


def test_those_that_wait_for_another_try_are_a_filter_of_a_job_that_runs(
    server: Server, open_page: Opens
) -> None:
    job = server.begin("not_yet", items=["one", "much later"])
    until(lambda: server.items(job, status="retrying"))
    page = open_page(f"{server.url}/jobs/{job}")
    page.get_by_role("link", name="Again", exact=True).click()
    expect(page.locator("#items > tr")).to_have_count(1)
    page.get_by_role("link", name="much later").click()
    expect(panel(page).locator(".tries > li.wait")).to_contain_text("the next one in")
    expect(panel(page).locator("#item-status")).to_contain_text("Again in")


def test_the_neighbours_of_an_item_are_a_click_away(server: Server, ended: int, open_page: Opens) -> None:
    page = open_page(f"{server.url}/jobs/{ended}/items/{item_id(server, ended, 'limit-1')}?view=all&after=99")
    page.get_by_role("link", name="After →").click()
    expect(page.locator("#item-title")).to_have_text("busy-1@example.com")
    expect(panel(page).locator(".tries > li[data-status=failed]")).to_have_count(3)
    page.get_by_role("link", name="← Before").click()
    expect(page.locator("#item-title")).to_have_text("limit-1@example.com")
    assert "view=all&after=99" in page.url


def test_an_item_is_followed_live_while_it_runs(server: Server, api: Api, open_page: Opens) -> None:
    api.stall()
    job = server.begin("twice", items=[{"name": "one", "token": "secret-1"}])
    until(lambda: server.job(job)["running"])
    page = open_page(f"{server.url}/jobs/{job}/items/{item_id(server, job, 'one')}")
    expect(page.locator("body")).to_have_attribute("data-live", "live")
    page.evaluate("window.same = true")
    expect(panel(page).locator(".tries > li")).to_have_attribute("data-status", "running")
    expect(panel(page).locator("#log")).to_contain_text("asks for one")
    expect(panel(page).get_by_role("region", name="Payload")).to_contain_text('"token": "•••"')
    api.answer(1)
    expect(panel(page).locator(".tries > li[data-status=failed]")).to_contain_text("it was the first time")
    expect(panel(page).locator(".tries > li[data-status=running]")).to_have_count(1)
    api.answer()
    expect(panel(page).locator("#item-status")).to_have_attribute("data-status", "completed")
    expect(panel(page).locator("#log")).to_contain_text("got one")
    assert page.evaluate("window.same") and "secret-1" not in page.content()


def test_what_somebody_has_opened_and_typed_outlives_the_frames(
    server: Server, api: Api, open_page: Opens
) -> None:
    api.stall()
    job = server.begin("twice", items=[{"name": "kept"}])
    until(lambda: server.job(job)["running"])
    page = open_page(f"{server.url}/jobs/{job}/items/{item_id(server, job, 'kept')}")
    expect(page.locator("body")).to_have_attribute("data-live", "live")
    panel(page).get_by_text("Run with other values").click()
    field = panel(page).get_by_label("What the task gets")
    field.fill('{"name": "typed"}')
    api.answer(1)
    expect(panel(page).locator(".tries > li[data-status=failed]")).to_have_count(1)
    expect(field).to_be_visible()
    expect(field).to_have_value('{"name": "typed"}')
    api.answer()
    expect(panel(page).locator("#item-status")).to_have_attribute("data-status", "completed")
    expect(field).to_have_value('{"name": "typed"}')


def test_a_failed_item_is_retried_from_its_page(server: Server, api: Api, open_page: Opens) -> None:
    server.users("heals-1@example.com", "a@example.com")
    job = server.ended(server.begin("post"))["id"]
    page = open_page(f"{server.url}/jobs/{job}/items/{item_id(server, job, 'heals-1')}?view=all")
    button(panel(page), "Retry").click()
    expect(panel(page).locator("#item-status")).to_have_attribute("data-status", "completed")
    expect(panel(page).locator(".tries > li:not(.wait)")).to_have_count(2)
    assert page.url.endswith("?view=all")


def test_an_unknown_item_is_marked_as_done_on_its_page(server: Server, api: Api, open_page: Opens) -> None:
    api.stall()
    job = server.ended(server.begin("once", items=["one"]))["id"]
    page = open_page(f"{server.url}/jobs/{job}/items/{item_id(server, job, 'one')}")
    expect(panel(page).locator(".tries > li")).to_have_attribute("data-status", "unknown")
    page.once("dialog", lambda question: question.accept())
    button(panel(page), "Mark as done").click()
    expect(panel(page).locator("#item-status")).to_have_attribute("data-status", "completed")
    expect(button(panel(page), "Mark as done")).to_have_count(0)
    expect(panel(page).locator(".tries > li")).to_have_attribute("data-status", "unknown")


def test_an_item_is_run_once_more_with_other_values_as_a_job_that_says_from_where(
    server: Server, api: Api, open_page: Opens
) -> None:
    job = server.ended(server.begin("twice", items=[{"name": "wrong", "token": "secret-1"}]))["id"]
    item = item_id(server, job, "wrong")
    page = open_page(f"{server.url}/jobs/{job}/items/{item}")
    panel(page).get_by_text("Run with other values").click()
    field = panel(page).get_by_label("What the task gets")
    expect(field).to_have_value(re.compile('"token": "•••"'))
    field.fill('{"name": "right", "token": "•••"}')
    button(panel(page), "Run this").click()
    page.wait_for_url(lambda at: re.search(r"/jobs/(\d+)$", at) is not None)
    made = int(page.url.rpartition("/")[2])
    assert server.ended(made)["total"] == 1
    assert [one["key"] for one in server.items(made)] == ["right"]
    with sqlite3.connect(server.directory / "data" / "rowcast.db") as found:
        ((payload,),) = found.execute("select payload from items where job = ?", (made,)).fetchall()
    found.close()
    assert json.loads(payload) == {"name": "right", "token": "secret-1"}
    page.get_by_role("link", name="with other values", exact=True).click()
    expect(page.locator("#item-title")).to_have_text("wrong")


def test_values_that_are_not_json_are_refused_in_a_sentence(server: Server, ended: int) -> None:
    path = f"/jobs/{ended}/items/{item_id(server, ended, 'limit-1')}/again"
    refused = server.client.post(path, data={"payload": "{no JSON"}, headers={"HX-Request": "true"})
    assert refused.status_code == 422
    assert refused.text.startswith("The values are not JSON that a task can get: ")


def test_what_an_item_says_is_text_and_hides_nothing(server: Server, open_page: Opens) -> None:
    job = server.ended(server.begin("says_odd_things", items=["<i>one</i>"]))["id"]
    page = open_page(f"{server.url}/jobs/{job}/items/{server.items(job)[0]['id']}")
    expect(panel(page).locator("#log")).to_contain_text("<b>bold</b> U+202E reversed")
    expect(panel(page).locator(".tries")).to_contain_text("ValueError: <script>alert(1)</script>")
    expect(page.locator("#item-title")).to_have_text("<i>one</i>")


def test_an_item_that_is_not_there_is_a_404(server: Server, ended: int) -> None:
    assert server.client.get(f"/jobs/{ended}/items/1").status_code == 404
    assert (
        server.client.get(f"/jobs/{ended + 999}/items/{item_id(server, ended, 'limit-1')}").status_code == 404
    )
