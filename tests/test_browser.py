"""The page in a real Chromium, as a person uses it: what moves, what holds still, and what every tab learns of."""

import contextlib
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.conftest import Api, Server, until

expect.set_options(timeout=15_000)
PHONE_RULES = ["color-contrast", "scrollable-region-focusable", "target-size", "list", "aria-hidden-focus"]
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
Opens = Callable[..., Page]
FLAGS = ("--tasks", "chores")
FILES = {
    "chores.py": """
import asyncio
import random
import httpx
from rowcast import Retry, task

tried = set()

@task(concurrency=4, max_attempts=2)
async def chores(item: str, api: httpx.AsyncClient, seconds: float = 0.0):
    "Do each of the things that are given, one per line."
    if item.startswith(("later", "much later")) and item not in tried:
        tried.add(item)
        raise Retry("it is too early", after=4 if item.startswith("later") else 60)
    if item.startswith("stalled"):
        await api.get("/turn")
    await asyncio.sleep(seconds * random.uniform(0.5, 1.5))
    if item.startswith("lost"):
        raise LookupError("nobody knows where it is " * 30)
    if item.startswith("broken"):
        raise ValueError("it is broken")
    return {"done": item}
"""
}


@pytest.fixture
def app(shared: Server, api: Api) -> Iterator[Server]:
    """The module's server, with an API that forgets what was before; what still runs at the end is cancelled."""
    yield shared
    for status in ("queued", "running", "paused"):
        for job in shared.client.get("/api/jobs", params={"status": status}).json()["jobs"]:
            shared.client.post(f"/api/jobs/{job['id']}/cancel")


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Opens]:
    """Open pages as `open_page` does, for tests in which the browser has something to complain of."""
    contexts = []

    def make(url: str, **options: Any) -> Page:
        contexts.append(chromium.new_context(**options))
        page = contexts[-1].new_page()
        page.goto(url)
        return page

    yield make
    for context in contexts:
        context.close()


# ---- what the tests see on a page ----------------------------------------------------------------------------------


def people(number: int, kind: str = "user") -> list[str]:
    return [f"{kind}-{n:04}@example.com" for n in range(number)]


def watch(opens: Opens, server: Server, job: int, query: str = "", **options: Any) -> Page:
    """A job's page, its stream connected."""
    page = opens(f"{server.url}/jobs/{job}{query}", **options)
    expect(page.locator("body")).to_have_attribute("data-live", "live")
    return page


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name)


def status(page: Page) -> Locator:
    return page.locator("#job-status")


def done(page: Page) -> int:
    return int(page.locator("#head").get_by_role("progressbar").get_attribute("aria-valuenow") or 0)


def rows(page: Page) -> list[list[str]]:
    """[id, status] of each item's row, from the top."""
    found: list[list[str]] = page.evaluate(
        "[...document.querySelectorAll('#items > tr')].map(row => [row.id, row.dataset.status])"
    )
    return found


def live(page: Page) -> Locator:
    return page.locator("#live-word")


def note_what_it_says(page: Page, place: str) -> None:
    """Each text that the place has from now on, also for a moment, is noted in the page: `window.said`."""
    page.evaluate(
        """place => { window.said = []; new MutationObserver(() => {
            for (const found of document.querySelectorAll(place))
                if (said.at(-1) !== found.textContent) said.push(found.textContent);
        }).observe(document.querySelector('main'), {childList: true, subtree: true, characterData: true}) }""",
        place,
    )


def overflow(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


# ---- the main thing: rows that move --------------------------------------------------------------------------------


def test_a_job_started_with_the_form_moves_on_its_page_without_a_reload(
    app: Server, api: Api, open_page: Opens
) -> None:
    app.users(*people(60))
    api.stall()
    page = open_page(app.url)
    page.get_by_label("Limit").fill("50")
    page.get_by_role("form", name="Start update_users").get_by_role("button", name="Start").click()
    page.wait_for_url(re.compile(r"/jobs/\d+$"))
    page.evaluate("window.same = true")
    expect(page.locator("#items > tr[data-status=running]").first).to_contain_text("Sending")
    api.answer(10)
    first = until(lambda: done(page))
    api.answer(10)
    until(lambda: done(page) > first)
    expect(page).to_have_title(re.compile(r"^\d+ % · update_users"))
    api.answer()
    expect(status(page)).to_have_text("Completed")
    expect(page.locator("#items > tr[data-status=completed]")).to_have_count(50)
    assert done(page) == 50
    assert page.title().startswith("✓ update_users")
    expect(page.locator("#favicon")).to_have_attribute("href", "/static/icon-completed.svg")
    expect(button(page, "Pause")).to_have_count(0)
    expect(page.get_by_role("link", name="Results")).to_be_visible()
    assert page.evaluate("window.same")


WATCH_THE_ROWS = """() => {
  const shown = () => [...document.querySelectorAll('#items > tr')].map(row => row.id);
  let before = shown();
  window.seen = 0;
  window.wrong = [];
  document.addEventListener('htmx-after-swap', () => {
    const now = shown(), places = new Map(before.map((id, n) => [id, n]));
    const known = now.filter(id => places.has(id)).map(id => places.get(id));
    if (known.some((place, n) => n && place < known[n - 1])) window.wrong.push('a row that stood below has gone above');
    if (now.length > 100) window.wrong.push(`${now.length} rows`);
    if (new Set(now).size < now.length) window.wrong.push('a row stands twice');
    before = now;
    window.seen += 1;
  });
}"""


def test_rows_are_changed_in_place_and_none_stands_twice(app: Server, api: Api, open_page: Opens) -> None:
    app.users(*people(400), *people(5, "gone"))
    api.stall()
    api.latency(40)
    job = app.begin(concurrency=20)
    page = watch(open_page, app, job)
    page.evaluate(WATCH_THE_ROWS)
    api.answer(120)
    until(lambda: done(page) == 120)
    api.answer()
    expect(status(page)).to_have_text("Completed with failures")
    last = {f"item-{item['id']}": item["status"] for item in app.items(job)}
    until(lambda: len(rows(page)) == 100 and all(last[ident] == shown for ident, shown in rows(page)))
    assert page.evaluate("[window.seen > 1, window.wrong]") == [True, []]


def test_new_rows_come_in_at_the_top(app: Server, api: Api, open_page: Opens) -> None:
    app.users(*people(80))
    api.stall()
    page = watch(open_page, app, app.begin(concurrency=4))
    top = until(lambda: rows(page))[0][0]
    api.answer(20)
    until(lambda: top in [ident for ident, _ in rows(page)[1:]])


def test_a_reload_in_the_middle_goes_on_with_the_same_page(app: Server, api: Api, open_page: Opens) -> None:
    app.users(*people(60))
    api.stall()
    page = watch(open_page, app, app.begin(concurrency=10))
    api.answer(20)
    before = until(lambda: done(page))
    page.reload()
    assert before <= done(page) < 60
    api.answer()
    expect(status(page)).to_have_text("Completed")
    expect(page.locator("#items > tr[data-status=completed]")).to_have_count(60)


def test_rows_leave_the_queued_filter_as_they_start(app: Server, api: Api, open_page: Opens) -> None:
    app.users(*people(40))
    api.stall()
    page = watch(open_page, app, app.begin(concurrency=5))
    page.get_by_role("link", name="Queued").click()
    page.wait_for_url(re.compile("view=queued"))
    expect(page.get_by_role("link", name="Queued")).to_have_attribute("aria-current", "true")
    expect(page.locator("#items > tr")).to_have_count(35)
    api.answer(20)
    until(lambda: len(rows(page)) < 35)
    api.answer()
    expect(page.locator("#items > tr")).to_have_count(0)
    expect(page.locator("#empty")).to_contain_text("Nothing waits.")


def test_rows_come_into_the_failed_filter_and_its_count_follows(
    app: Server, api: Api, open_page: Opens
) -> None:
    app.users(*people(10), *people(3, "gone"), *people(10, "more"))
    api.stall()
    page = watch(open_page, app, app.begin(concurrency=5), "?view=failed")
    expect(page.locator("#items > tr")).to_have_count(0)
    api.answer()
    expect(page.locator("#items > tr")).to_have_count(3)
    expect(page.locator("#items > tr").first).to_contain_text("no such account")
    expect(page.locator("#tab-failed")).to_have_text("Failed 3")
    expect(page.locator("#errors")).to_contain_text("404 Not Found: no such account")
    page.get_by_role("link", name="Show these").click()
    expect(page.locator("#items > tr")).to_have_count(3)


def test_all_items_stand_by_position_and_change_where_they_are(
    app: Server, api: Api, open_page: Opens
) -> None:
    app.users(*people(120))
    api.stall()
    page = watch(open_page, app, app.begin(concurrency=10), "?view=all")
    expect(page.locator("#items > tr")).to_have_count(100)
    order = [ident for ident, _ in rows(page)]
    api.answer()
    expect(status(page)).to_have_text("Completed")
    assert [ident for ident, _ in rows(page)] == order
    page.get_by_role("link", name="Later →").click()
    expect(page.locator("#items > tr")).to_have_count(20)
    page.get_by_role("link", name="← Earlier").click()
    expect(page.locator("#items > tr").first).to_contain_text("user-0000@example.com")


def test_what_was_searched_for_goes_on_moving(app: Server, api: Api, open_page: Opens) -> None:
    app.users(*people(30), *people(4, "other"), *people(200, "more"))
    api.stall()
    page = watch(open_page, app, app.begin(concurrency=4))
    page.get_by_label("Find items by key").fill("OTHER")
    page.keyboard.press("Enter")
    expect(page.locator("#items > tr[data-status=queued]")).to_have_count(4)
    api.answer(60)
    expect(page.locator("#items > tr[data-status=completed]")).to_have_count(4)
    expect(status(page)).to_have_text("Running")


def test_what_is_typed_stays_while_frames_come(app: Server, api: Api, open_page: Opens) -> None:
    app.users(*people(200))
    api.stall()
    page = watch(open_page, app, app.begin(concurrency=4))
    field = page.get_by_label("Find items by key")
    field.click()
    for letter in "otter":
        field.press(letter)
        before = done(page)
        api.answer(4)
        until(lambda before=before: done(page) > before)
    expect(field).to_be_focused()
    expect(field).to_have_value("otter")


def test_a_retry_counts_down(app: Server, open_page: Opens) -> None:
    job = app.waiting("chores", items=["first", "later"])
    page = watch(open_page, app, job)
    note_what_it_says(page, "#items .is:has([data-until])")
    app.act(job, "resume")
    expect(page.locator("#items > tr[data-status=completed]")).to_have_count(2)
    texts = [
        text for text in page.evaluate("said") if text != "Again when resumed"
    ]  # it may come with the head's frame
    assert all(re.fullmatch(r"Again in \d s", text) for text in texts), texts
    seen = [int(text.split()[2]) for text in texts]
    assert len(seen) > 1 and seen == sorted(seen, reverse=True), seen


def test_a_retry_of_a_paused_job_waits_for_its_resume(app: Server, open_page: Opens) -> None:
    job = app.begin("chores", items=["much later"])
    page = watch(open_page, app, job)
    again = page.locator("#items > tr .is", has_text="Again")
    expect(again).to_have_text(re.compile(r"Again in \d\d s"))
    button(page, "Pause").click()
    expect(again).to_have_text("Again when resumed")
    with contextlib.closing(sqlite3.connect(app.directory / "data" / "rowcast.db", timeout=10)) as conn, conn:
        conn.execute(
            "update items set run_at = run_at - 60 where job = ?", (job,)
        )  # as if it had been paused for so long
    assert [item["status"] for item in app.items(job)] == ["queued"]
    button(page, "Resume").click()
    expect(status(page)).to_have_text("Completed")


def test_the_head_says_that_the_api_asked_for_a_pause(app: Server, api: Api, open_page: Opens) -> None:
    app.users(*people(1, "date"))
    api.stall()
    page = watch(open_page, app, app.begin(concurrency=1))
    note_what_it_says(page, "#note")
    api.answer()
    expect(status(page)).to_have_text("Completed")
    expect(page.locator("#note")).to_be_hidden()
    said = "\n".join(page.evaluate("said"))
    assert re.search(r"The API asked for a pause \(429, Retry-After\)\. Sending goes on in \d s\.", said), (
        said
    )


def test_the_bar_and_the_facts_show_every_kind_of_end(app: Server, api: Api, open_page: Opens) -> None:
    app.users(*people(5), *people(3, "gone"))
    page = watch(open_page, app, app.begin())
    expect(status(page)).to_have_text("Completed with failures")
    widths = page.locator("#head .bar rect").evaluate_all(
        "all => all.map(r => [r.classList[0], r.getAttribute('width')])"
    )
    assert dict(widths)["c-completed"] == "62.50%" and dict(widths)["c-failed"] == "37.50%"
    expect(page.locator(".fact", has_text="done").locator("dd")).to_have_text("8 of 8")
    expect(page.locator(".fact", has_text="failed").locator("dd")).to_have_text("3")


# ---- what a person does, and every tab -----------------------------------------------------------------------------


def test_two_tabs_follow_pause_resume_and_cancel(app: Server, api: Api, open_page: Opens) -> None:
    app.users(*people(200))
    api.stall()
    job = app.begin(concurrency=4)
    one = watch(open_page, app, job)
    other = watch(open_page, app, job, context=one.context)
    button(one, "Pause").click()
    for page in (one, other):
        expect(status(page)).to_have_text("Paused")
        expect(page.locator("#note")).to_contain_text("nothing new starts until you resume it")
    until(lambda: api.answer(4) or app.job(job)["running"] == 0)
    button(other, "Resume").click()
    for page in (one, other):
        expect(status(page)).to_have_text("Running")
    button(one, "Cancel").click()
    for page in (one, other):
        expect(status(page)).to_have_text("Cancelled")
        expect(page.locator(".facts")).to_contain_text("cancelled")
        expect(live(page)).to_have_text("Up to date")


def test_a_retry_in_one_tab_wakes_the_others_that_are_at_rest(app: Server, open_page: Opens) -> None:
    job = app.begin("chores", items=["lost one", "lost two", "fine"])
    one = watch(open_page, app, job)
    other = watch(open_page, app, job, context=one.context)
    for page in (one, other):
        expect(live(page)).to_have_text("Up to date")
    button(one, "Retry failed (2)").click()
    for page in (one, other):
        expect(page.locator("#items > tr[data-status=failed] .try").first).to_have_text("2")
        expect(live(page)).to_have_text("Up to date")


def test_retrying_one_group_of_errors_leaves_the_others(app: Server, open_page: Opens) -> None:
    job = app.begin("chores", items=["lost one", "lost two", "broken one", "fine"])
    app.ended(job)
    page = watch(open_page, app, job)
    page.locator(".grp", has_text="nobody knows").get_by_role("button", name="Retry these").click()
    until(lambda: sorted(item["attempt"] for item in app.items(job)) == [1, 1, 2, 2])
    expect(page.locator("#items > tr", has_text="lost one").locator(".try")).to_have_text("2")
    expect(page.locator("#items > tr", has_text="broken one").locator(".try")).to_have_text("1")


def test_a_double_click_or_a_key_held_down_acts_once(app: Server, api: Api, open_page: Opens) -> None:
    app.users(*people(100))
    api.stall()
    page = watch(open_page, app, app.begin(concurrency=2))
    posts: list[str] = []
    page.on("request", lambda r: posts.append(r.url) if r.method == "POST" else None)
    button(page, "Pause").dblclick(delay=60)
    expect(button(page, "Resume")).to_be_visible()
    assert [url.rpartition("/")[2] for url in posts] == ["pause"]
    button(page, "Resume").focus()
    for _ in range(4):
        page.keyboard.down("Enter")  # held down
    page.keyboard.up("Enter")
    expect(button(page, "Pause")).to_be_visible()
    assert [url.rpartition("/")[2] for url in posts] == ["pause", "resume"]


def test_resume_is_not_lost_when_the_frame_came_before_the_answer_to_pause(
    app: Server, api: Api, open_page: Opens
) -> None:
    app.users(*people(100))
    api.stall()
    page = watch(open_page, app, app.begin(concurrency=2))

    def answer_late(route: Route) -> None:
        answer = route.fetch()
        page.wait_for_timeout(1000)
        route.fulfill(response=answer)

    page.route("**/pause", answer_late)
    button(page, "Pause").focus()
    page.keyboard.press("Enter")
    button(page, "Resume").press("Enter")
    expect(status(page)).to_have_text("Running")


def test_the_list_of_jobs_is_live(app: Server, api: Api, open_page: Opens) -> None:
    app.users(*people(24))
    api.stall()
    page = open_page(app.url)
    expect(live(page)).to_have_text("Live")
    job = app.begin(concurrency=4)
    row = page.locator(f"#job-{job}")
    expect(row).to_contain_text("Running")
    expect(page.locator("#jobs > tr").first).to_have_id(f"job-{job}")
    bar = row.get_by_role("progressbar")
    first = int(bar.get_attribute("aria-valuenow") or 0)
    api.answer(8)
    until(lambda: int(bar.get_attribute("aria-valuenow") or 0) > first)
    api.answer()
    expect(row).to_contain_text("Completed")
    expect(row).to_contain_text("24 of 24")
    row.get_by_role("link", name="update_users").click()
    expect(status(page)).to_have_text("Completed")


def test_a_job_leaves_the_list_of_running_ones_when_it_ends(app: Server, api: Api, open_page: Opens) -> None:
    app.users(*people(20))
    api.stall()
    page = open_page(f"{app.url}/?status=running")
    expect(page.get_by_text("No job is running.")).to_be_visible()
    row = page.locator(f"#job-{app.begin(concurrency=4)}")
    expect(row).to_be_visible()
    api.answer()
    expect(row).to_have_count(0)
    expect(page.get_by_text("No job is running.")).to_be_visible()


def test_a_job_with_failed_items_is_listed_with_failures_until_they_are_retried(
    app: Server, open_page: Opens
) -> None:
    app.users(*people(3), *people(1, "heals"))
    page = open_page(f"{app.url}/")
    page.get_by_role("link", name="With failures").click()
    job = app.begin()
    expect(page.locator(f"#job-{job}")).to_contain_text("Completed with failures")
    page.reload()
    expect(page.locator(f"#job-{job}")).to_be_visible()
    app.client.post(f"/api/jobs/{job}/retry").raise_for_status()
    expect(page.locator(f"#job-{job}")).to_have_count(0)


def test_a_refused_start_is_said_at_its_form(app: Server, visit: Opens) -> None:
    page = visit(app.url)
    form = page.get_by_role("form", name="Start update_users")
    form.get_by_label("Limit").fill("0")
    form.get_by_role("button", name="Start").click()
    expect(form.get_by_role("alert")).to_have_text("limit is a number from 1, or empty for all users.")
    assert page.url == f"{app.url}/"


# ---- calm: what frames must not disturb ----------------------------------------------------------------------------


def test_the_focus_stays_on_the_button_and_on_the_list_while_frames_come(
    app: Server, api: Api, open_page: Opens
) -> None:
    app.users(*people(200))
    api.stall()
    job = app.begin(concurrency=4)
    page = watch(open_page, app, job)
    button(page, "Cancel").focus()
    before = done(page)
    api.answer(20)
    until(lambda: done(page) > before + 8)
    expect(button(page, "Cancel")).to_be_focused()
    button(page, "Pause").focus()
    page.keyboard.press("Enter")
    expect(button(page, "Resume")).to_be_focused()
    page.keyboard.press("Enter")
    expect(button(page, "Pause")).to_be_focused()
    listed = open_page(app.url, context=page.context)
    link = listed.locator(f"#job-{job} a")
    link.focus()
    bar = listed.locator(f"#job-{job}").get_by_role("progressbar")
    first = int(bar.get_attribute("aria-valuenow") or 0)
    api.answer(40)
    until(lambda: int(bar.get_attribute("aria-valuenow") or 0) > first + 8)
    expect(link).to_be_focused()
    button(page, "Cancel").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="update_users")).to_be_focused()


def test_selected_text_stays_selected_while_frames_come(app: Server, api: Api, open_page: Opens) -> None:
    app.users(*people(100))
    api.stall()
    page = watch(open_page, app, app.begin(concurrency=4))
    page.locator("#items > tr[data-status=running]").first.wait_for()
    row, key = page.evaluate(
        """() => { const row = document.querySelector('#items > tr[data-status=running]'), key = row.querySelector('.key');
        getSelection().selectAllChildren(key); return [row.id, key.textContent] }"""
    )
    api.answer(8)
    expect(page.locator(f"#{row}")).to_have_attribute("data-status", "completed")
    assert page.evaluate("String(getSelection())") == key


def test_columns_and_rows_keep_their_sizes_while_rows_stream(app: Server, api: Api, open_page: Opens) -> None:
    app.users(
        *people(30), *people(8, "once"), *people(30, "a-much-longer-name-than-anyone-would-expect-to-have")
    )
    api.stall()
    api.latency(100)
    page = watch(open_page, app, app.begin(concurrency=6))
    sizes = """[...document.querySelectorAll('.items th')].map(cell => Math.round(cell.getBoundingClientRect().width))
        .concat([...new Set([...document.querySelectorAll('#items > tr')].map(row => Math.round(row.offsetHeight)))])"""
    until(lambda: rows(page))
    seen = {tuple(page.evaluate(sizes))}
    api.answer()
    while page.locator("#summary").get_attribute("data-rest") == "false":
        seen.add(tuple(page.evaluate(sizes)))
    assert len(seen) == 1, seen


def test_times_are_the_viewers_own(app: Server, api: Api, open_page: Opens) -> None:
    app.users(*people(40))
    api.stall()
    page = watch(open_page, app, app.begin(concurrency=4), timezone_id="Asia/Tokyo")
    page.evaluate(
        """() => { window.wrong = []; new MutationObserver(() => {
            for (const time of document.querySelectorAll('main time')) {
                const tokyo = new Date(time.dateTime).toLocaleTimeString('en-GB', {timeZone: 'Asia/Tokyo'});
                if (time.textContent !== tokyo) wrong.push([time.textContent, tokyo]);
            }
        }).observe(document.querySelector('main'), {childList: true, subtree: true, characterData: true}) }"""
    )
    api.answer(20)
    until(lambda: done(page) == 20)
    api.answer()
    expect(status(page)).to_have_text("Completed")
    assert page.evaluate("document.querySelectorAll('main time').length") > 30
    assert page.evaluate("wrong") == []


def test_a_screen_reader_hears_a_summary_now_and_then_and_not_each_row(
    app: Server, api: Api, open_page: Opens
) -> None:
    app.users(*people(110), *people(2, "gone"))
    api.stall()
    page = watch(open_page, app, app.begin(concurrency=4))
    page.evaluate(
        """() => { window.heard = []; const all = [...document.querySelectorAll('[aria-live], [role=status], [role=alert]')];
        for (const place of all) new MutationObserver(() => heard.push([Date.now(), place.textContent]))
            .observe(place, {childList: true, subtree: true, characterData: true}) }"""
    )
    for more in range(20):
        api.answer(4)
        until(lambda more=more: done(page) == 4 * more + 4)
    expect(page.locator("#spoken")).to_have_text(re.compile(r"^Running: \d+ of 112 done"))
    api.answer()
    expect(status(page)).to_have_text("Completed with failures")
    expect(page.locator("#spoken")).to_have_text("Completed: 112 of 112 done, 2 failed.")
    heard = page.evaluate("heard")
    assert len(heard) <= 3 + (heard[-1][0] - heard[0][0]) / 4000


def test_reduced_motion_is_kept(app: Server, api: Api, open_page: Opens) -> None:
    app.users(*people(20))
    api.stall()
    page = watch(open_page, app, app.begin(concurrency=2), reduced_motion="reduce")
    page.locator("#items .s-running svg").first.wait_for()
    style = "(place, name) => getComputedStyle(document.querySelector(place))[name]"
    assert page.evaluate(f"({style})('#items .s-running svg', 'animationName')") == "none"
    assert page.evaluate(f"({style})('#head .bar rect', 'transitionDuration')") == "0s"


# ---- what is fresh, and what is asked of the server ----------------------------------------------------------------


def test_the_page_says_offline_and_is_live_again_by_itself(
    serve: Callable[..., Server], api: Api, visit: Opens
) -> None:
    server = serve("--api-url", api.url)
    server.users(*people(40))
    api.stall()
    job = server.begin(concurrency=4)
    page = watch(visit, server, job)
    page.evaluate("window.same = true")
    api.answer(8)
    until(lambda: done(page))
    server.stop()
    expect(page.locator("body")).to_have_attribute("data-live", "offline")
    server.start()
    expect(page.locator("body")).to_have_attribute("data-live", "live")
    assert done(page) < 40
    api.answer()
    expect(status(page)).to_have_text("Completed")
    assert done(page) == 40
    assert dict(rows(page)) == {f"item-{item['id']}": "completed" for item in server.items(job)}
    assert page.evaluate("window.same")


def test_a_first_connection_that_fails_is_tried_again(app: Server, api: Api, chromium: Browser) -> None:
    app.users(*people(80))
    api.stall()
    context = chromium.new_context()
    page, tried = context.new_page(), 0

    def refuse_twice(route: Route) -> None:
        nonlocal tried
        tried += 1
        route.abort() if tried == 1 else route.fulfill(status=503) if tried == 2 else route.continue_()

    page.route("**/events?*", refuse_twice)
    page.goto(f"{app.url}/jobs/{app.begin(concurrency=4)}")
    expect(live(page)).to_have_text("Offline")
    expect(live(page)).to_have_text("Live")
    assert tried == 3
    context.close()


def test_scripts_that_come_late_still_start_the_stream(app: Server, api: Api, chromium: Browser) -> None:
    app.users(*people(60))
    api.stall()
    context = chromium.new_context()
    page = context.new_page()
    page.route("**/hx-*.js", lambda route: (page.wait_for_timeout(700), route.continue_()))
    page.goto(f"{app.url}/jobs/{app.begin(concurrency=4)}")
    expect(live(page)).to_have_text("Live")
    context.close()


def test_after_the_end_the_page_asks_for_nothing_more(app: Server, api: Api, open_page: Opens) -> None:
    app.users(*people(20))
    api.stall()
    page = open_page("about:blank")
    page.clock.install()
    page.goto(f"{app.url}/jobs/{app.begin(concurrency=4)}")
    expect(live(page)).to_have_text("Live")
    requests: list[str] = []
    page.on("request", lambda r: requests.append(r.url))
    api.answer()
    expect(live(page)).to_have_text("Up to date")
    expect(page.locator("#favicon")).to_have_attribute("href", "/static/icon-completed.svg")
    until(
        lambda: page.title() and any("icon-completed" in url for url in requests)
    )  # the icon itself is fetched once
    requests.clear()
    page.clock.run_for(60_000)
    assert requests == []


def test_a_finished_jobs_page_opens_no_stream(app: Server, api: Api, open_page: Opens) -> None:
    app.users(*people(3))
    job = app.begin()
    app.ended(job)
    streams = app.streams()
    page = watch(open_page, app, job)
    expect(live(page)).to_have_text("Up to date")
    assert page.locator("#feed").count() == 0
    assert app.streams() <= streams


def test_no_request_goes_to_another_host(app: Server, api: Api, open_page: Opens) -> None:
    app.users(*people(10), *people(2, "gone"))
    page = open_page(app.url)
    hosts: set[str] = set()
    page.context.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    job = app.begin()
    for path in ("/", f"/jobs/{job}", f"/jobs/{job}?view=failed", f"/jobs/{job}/results", "/users"):
        page.goto(app.url + path)
        page.wait_for_load_state("load")
    assert hosts == {app.url.removeprefix("http://")}


def test_a_hidden_tabs_title_and_icon_follow_without_a_stream(
    app: Server, api: Api, open_page: Opens
) -> None:
    app.users(*people(40))
    api.stall()
    page = watch(open_page, app, app.begin(concurrency=4))
    page.evaluate(
        "() => { Object.defineProperty(document, 'hidden', {get: () => window.away ?? true, configurable: true});"
        " document.dispatchEvent(new Event('visibilitychange')) }"
    )
    expect(page.locator("body")).to_have_attribute("data-live", "polling")
    until(lambda: app.streams() == 0)
    api.answer()
    expect(page).to_have_title(re.compile("^✓"))
    assert done(page) < 40
    page.evaluate("() => { window.away = false; document.dispatchEvent(new Event('visibilitychange')) }")
    expect(live(page)).to_have_text("Up to date")
    assert done(page) == 40


# ---- everyone ------------------------------------------------------------------------------------------------------


@pytest.fixture
def every_page(app: Server) -> dict[str, str]:
    """Each page in each of its states, by name: its path."""
    long = f"broken {'a' * 60}.very.long.key@{'b' * 60}.example.com"
    finished = app.begin("chores", items=["lost", "broken", long, "fine", "good"])
    running, paused = (app.begin("chores", items=people(30), seconds=600) for _ in range(2))
    app.client.post(f"/api/jobs/{paused}/pause")
    app.ended(finished)
    until(lambda: app.job(running)["running"])
    return {
        "list": "/",
        "no such job in the list": "/?status=failed",
        "running": f"/jobs/{running}",
        "queued": f"/jobs/{running}?view=queued",
        "paused": f"/jobs/{paused}",
        "finished": f"/jobs/{finished}",
        "failed": f"/jobs/{finished}?view=failed",
        "nothing found": f"/jobs/{finished}?find=nobody",
        "results": f"/jobs/{finished}/results",
        "results so far": f"/jobs/{running}/results",
        "users": "/users",
        "schedules": "/schedules",
        "workers": "/workers",
        "no such user": "/users?q=nobody",
        "error": "/jobs/999999",
    }


def test_axe_finds_nothing_on_any_page(app: Server, visit: Opens, every_page: dict[str, str]) -> None:
    page, script = visit(app.url, viewport={"width": 1240, "height": 900}), Axe().axe_script
    run = """rules => axe.run(document, {resultTypes: ['violations'], ...(rules && {runOnly: rules})})
        .then(found => found.violations.map(v => [v.id, v.nodes.map(node => node.html)]))"""
    for name, path in every_page.items():
        page.set_viewport_size({"width": 1240, "height": 900})
        page.emulate_media(color_scheme="light")
        page.goto(app.url + path)
        page.evaluate(script)
        assert page.evaluate(run, None) == [], name
        page.emulate_media(color_scheme="dark")
        assert page.evaluate(run, ["color-contrast"]) == [], f"{name}, dark"
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate(run, PHONE_RULES) == [], f"{name}, on a phone"


def test_no_page_scrolls_sideways_or_cuts_anything_on_a_phone(
    app: Server, visit: Opens, every_page: dict[str, str]
) -> None:
    cut = """[...document.querySelectorAll('main *')].filter(e => !e.closest('.sr, thead, .bar, .plot svg, .key, .why')
        && (e.getBoundingClientRect().right > innerWidth + 1 || e.scrollWidth > e.clientWidth + 1 && e.clientWidth
        && getComputedStyle(e).overflowX === 'hidden')).map(e => e.outerHTML.slice(0, 120))"""
    for width in (390, 320):
        page = visit(app.url, **(PHONE | {"viewport": {"width": width, "height": 844}}))
        for name, path in every_page.items():
            page.goto(app.url + path)
            assert overflow(page) <= 0, f"{name} at {width}"
            assert page.evaluate(cut) == [], f"{name} at {width}"


def test_a_phone_shows_the_key_the_state_and_the_reason(app: Server, api: Api, open_page: Opens) -> None:
    app.users(*people(3), *people(2, "gone"))
    job = app.begin()
    app.ended(job)
    page = watch(open_page, app, job, **PHONE)
    row = page.locator("#items > tr[data-status=failed]").first
    for text in ("gone-000", "Failed", "404", "no such account"):
        expect(row.get_by_text(text).first).to_be_visible()
    assert row.locator(".key").evaluate("e => e.scrollWidth <= e.clientWidth")


def test_the_page_is_dark_when_the_system_is_and_a_choice_is_remembered(
    app: Server, open_page: Opens
) -> None:
    page = open_page(app.url, color_scheme="dark")
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_label("Theme").select_option("light")
    light = page.evaluate(ground)
    assert dark != light
    page.goto(f"{app.url}/users")
    assert page.evaluate(ground) == light
    expect(page.get_by_label("Theme")).to_have_value("light")
    other = open_page(app.url, context=page.context)
    page.get_by_label("Theme").select_option("auto")
    expect(other.get_by_label("Theme")).to_have_value("auto")
    assert other.evaluate(ground) == dark


def test_keys_and_answers_of_the_api_are_text_and_never_markup(
    app: Server, api: Api, open_page: Opens
) -> None:
    key = "html-<img/src=x/onerror=alert(1)>@example.com"
    app.users(key)
    job = app.begin()
    page = watch(open_page, app, job)
    asked: list[Any] = []
    page.on("dialog", lambda dialog: (asked.append(dialog), dialog.dismiss()))
    expect(page.locator("#items")).to_contain_text(
        "<b>broken</b>"
    )  # it came in a frame: the API is asked again and again
    for path in (
        f"/jobs/{job}",
        f"/jobs/{job}/results",
        f"/jobs/{job}?find=<img",
        "/users",
        f"/users?q={key}",
    ):
        page.goto(app.url + path)
        expect(page.locator("main")).to_contain_text(key)
        assert page.locator("main :is(img, b, td script)").count() == 0
    assert asked == []


def test_a_job_is_started_watched_and_cancelled_by_keyboard_alone(
    app: Server, api: Api, open_page: Opens
) -> None:
    app.users(*people(400))
    api.stall()
    page = open_page(app.url)

    def tab_to(place: Locator) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if place.evaluate("e => e === document.activeElement"):
                outline = place.evaluate("e => getComputedStyle(e).outlineStyle")
                assert outline != "none", "the focus cannot be seen"
                return
        raise AssertionError(f"Tab does not reach {place}")

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    tab_to(page.get_by_label("Limit"))
    page.keyboard.type("350")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/jobs/\d+$"))
    tab_to(button(page, "Pause"))
    page.keyboard.press("Enter")
    expect(status(page)).to_have_text("Paused")
    page.keyboard.press("Enter")
    expect(status(page)).to_have_text("Running")
    tab_to(page.get_by_role("link", name="All 350"))
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("view=all"))
    expect(page.locator("#items > tr")).to_have_count(100)
    tab_to(button(page, "Cancel"))
    page.keyboard.press("Enter")
    expect(status(page)).to_have_text("Cancelled")


def test_without_javascript_the_page_shows_the_job_and_its_buttons_work(
    app: Server, api: Api, open_page: Opens
) -> None:
    app.users(*people(40))
    api.stall()
    page = open_page(app.url, java_script_enabled=False)
    page.get_by_role("form", name="Start update_users").get_by_role("button", name="Start").click()
    page.wait_for_url(re.compile(r"/jobs/\d+$"))
    expect(live(page)).to_have_text("Not live")
    until(lambda: page.reload() and page.locator("#items > tr").count())
    expect(page.locator("#items time").first).to_contain_text("UTC")
    button(page, "Pause").click()
    expect(status(page)).to_have_text("Paused")
    button(page, "Cancel").click()
    expect(status(page)).to_have_text("Cancelled")


def test_users_are_found_and_added_from_a_file(app: Server, open_page: Opens) -> None:
    app.users(*people(3))
    page = open_page(f"{app.url}/users")
    page.get_by_label("Add from CSV").set_input_files(
        {"name": "more.csv", "mimeType": "text/csv", "buffer": b"email\nnew.user@example.com\nnobody\n"}
    )
    button(page, "Import").click()
    expect(page.get_by_role("status").filter(has_text="added")).to_contain_text(
        "1 added, 0 were there already, 1 line refused."
    )
    expect(page.locator("main")).to_contain_text("Line 3")
    page.get_by_label("Find users").fill("NEW.")
    button(page, "Find").click()
    expect(page.locator(".users tbody tr")).to_have_count(1)
    page.goto(f"{app.url}/users?q=nobody")
    page.get_by_role("link", name="Show all users").click()
    expect(page.locator(".users tbody tr")).to_have_count(4)


def test_results_say_that_they_are_not_complete_until_they_are(
    app: Server, api: Api, open_page: Opens
) -> None:
    app.users(*people(20), *people(1, "gone"))
    api.stall()
    job = app.begin(concurrency=4)
    page = open_page(f"{app.url}/jobs/{job}/results")
    expect(page.locator(".note")).to_contain_text("these results are not complete")
    api.answer()
    app.ended(job)
    page.get_by_role("link", name="Load them again").click()
    expect(page.locator(".note")).to_have_count(0)
    expect(page.locator(".pairs")).to_contain_text(re.compile("Completed.*20", re.S))
    with page.expect_download() as download:
        page.get_by_role("link", name="results.csv").click()
    assert download.value.suggested_filename == f"job-{job}-results.csv"


def has_the_newest(page: Page, server: Server, job: int) -> None:
    """At its end the page has the hundred items that changed last."""
    expect(status(page)).to_have_text("Completed")
    newest = sorted(server.items(job), key=lambda item: -item["seq"])[:100]
    shown = sorted([f"item-{item['id']}", "completed"] for item in newest)
    until(lambda: sorted(rows(page)) == shown)  # a frame's head is in its place a moment before its rows


def test_a_flood_of_rows_leaves_none_behind(app: Server, api: Api, open_page: Opens) -> None:
    api.stall()
    items = [*people(1250), "stalled", *people(1250, "more")]
    job = app.waiting("chores", items=items, seconds=0.4, concurrency=500)
    page = watch(open_page, app, job)
    page.evaluate(WATCH_THE_ROWS)
    app.act(job, "resume")
    until(lambda: done(page) == 2500)
    api.answer()
    has_the_newest(page, app, job)
    assert page.evaluate("[window.seen > 1, window.wrong]") == [True, []]


def test_a_row_that_changes_where_it_stands_counts_as_new(app: Server, api: Api, open_page: Opens) -> None:
    api.stall()
    job = app.begin("chores", items=["stalled", *people(120)], seconds=0.05)
    page = watch(open_page, app, job)
    until(lambda: done(page) == 120)
    api.answer()
    has_the_newest(page, app, job)


# ---- the workers -----------------------------------------------------------------------------------------------------


def test_the_page_of_workers_follows_them_and_greys_the_dead(app: Server, visit: Opens) -> None:
    page = visit(f"{app.url}/workers")
    row = page.locator("#workers tbody tr").first
    expect(row).to_contain_text("Ready")
    job = app.begin("counter", loops=30)
    expect(row).to_contain_text("Working")
    app.client.post(f"/api/jobs/{job}/cancel")
    expect(row).to_contain_text("Ready")
    conn = sqlite3.connect(app.directory / "data" / "rowcast.db", timeout=10)
    with conn:
        conn.execute(
            "insert into workers values ('lost', 'far', 1, 'background', '0', ?, ?, 7)",
            (time.time(), time.time() - 9),
        )
    conn.close()
    gone = page.locator("#worker-lost")
    expect(gone).to_contain_text("Gone")
    expect(gone).to_have_class("gone")
