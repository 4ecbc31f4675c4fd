"""Rows that move, on the page in a real Chromium."""

import contextlib
import re
import sqlite3

from on_page import (
    FILES,
    FLAGS,
    Opens,
    button,
    done,
    note_what_it_says,
    people,
    rows,
    start_of,
    status,
    watch,
)
from playwright.sync_api import Page, expect
from servers import PATIENCE, Api, Server, until

__all__ = ["FILES", "FLAGS"]  # of the module's server


def test_a_job_started_with_the_form_moves_on_its_page_without_a_reload(
    server: Server, api: Api, open_page: Opens
) -> None:
    server.users(*people(60))
    api.stall()
    page = open_page(server.url)
    start_of(page, "update_users").get_by_label("Limit").fill("50")
    start_of(page, "update_users").get_by_role("button", name="Start").click()
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


def test_rows_are_changed_in_place_and_none_stands_twice(server: Server, api: Api, open_page: Opens) -> None:
    server.users(*people(400), *people(5, "gone"))
    api.stall()
    api.latency(40)
    job = server.begin(concurrency=20)
    page = watch(open_page, server, job)
    page.evaluate(WATCH_THE_ROWS)
    api.answer(120)
    until(lambda: done(page) == 120)
    api.answer()
    expect(status(page)).to_have_text("Completed with failures")
    last = {f"item-{item['id']}": item["status"] for item in server.items(job)}
    until(lambda: len(rows(page)) == 100 and all(last[ident] == shown for ident, shown in rows(page)))
    assert page.evaluate("[window.seen > 1, window.wrong]") == [True, []]


def test_new_rows_come_in_at_the_top(server: Server, api: Api, open_page: Opens) -> None:
    server.users(*people(80))
    api.stall()
    page = watch(open_page, server, server.begin(concurrency=4))
    top = until(lambda: rows(page))[0][0]
    api.answer(20)
    until(lambda: top in [ident for ident, _ in rows(page)[1:]])


def test_a_reload_in_the_middle_goes_on_with_the_same_page(
    server: Server, api: Api, open_page: Opens
) -> None:
    server.users(*people(60))
    api.stall()
    page = watch(open_page, server, server.begin(concurrency=10))
    api.answer(20)
    before = until(lambda: done(page))
    page.reload()
    assert before <= done(page) < 60
    api.answer()
    expect(status(page)).to_have_text("Completed")
    expect(page.locator("#items > tr[data-status=completed]")).to_have_count(60)


def test_rows_leave_the_queued_filter_as_they_start(server: Server, api: Api, open_page: Opens) -> None:
    server.users(*people(40))
    api.stall()
    page = watch(open_page, server, server.begin(concurrency=5))
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
    server: Server, api: Api, open_page: Opens
) -> None:
    server.users(*people(10), *people(3, "gone"), *people(10, "more"))
    api.stall()
    page = watch(open_page, server, server.begin(concurrency=5), "?view=failed")
    expect(page.locator("#items > tr")).to_have_count(0)
    api.answer()
    expect(page.locator("#items > tr")).to_have_count(3)
    expect(page.locator("#items > tr").first).to_contain_text("no such account")
    expect(page.locator("#tab-failed")).to_have_text("Failed 3")
    expect(page.locator("#errors")).to_contain_text("404 Not Found: no such account")
    page.get_by_role("link", name="Show these").click()
    expect(page.locator("#items > tr")).to_have_count(3)


def test_all_items_stand_by_position_and_change_where_they_are(
    server: Server, api: Api, open_page: Opens
) -> None:
    server.users(*people(120))
    api.stall()
    page = watch(open_page, server, server.begin(concurrency=10), "?view=all")
    expect(page.locator("#items > tr")).to_have_count(100)
    order = [ident for ident, _ in rows(page)]
    api.answer()
    expect(status(page)).to_have_text("Completed")
    assert [ident for ident, _ in rows(page)] == order
    page.get_by_role("link", name="Later →").click()
    expect(page.locator("#items > tr")).to_have_count(20)
    page.get_by_role("link", name="← Earlier").click()
    expect(page.locator("#items > tr").first).to_contain_text("user-0000@example.com")


def test_what_was_searched_for_goes_on_moving(server: Server, api: Api, open_page: Opens) -> None:
    server.users(*people(30), *people(4, "other"), *people(200, "more"))
    api.stall()
    page = watch(open_page, server, server.begin(concurrency=4))
    page.get_by_label("Find items by key").fill("OTHER")
    page.keyboard.press("Enter")
    expect(page.locator("#items > tr[data-status=queued]")).to_have_count(4)
    api.answer(60)
    expect(page.locator("#items > tr[data-status=completed]")).to_have_count(4)
    expect(status(page)).to_have_text("Running")


def test_what_is_typed_stays_while_frames_come(server: Server, api: Api, open_page: Opens) -> None:
    server.users(*people(200))
    api.stall()
    page = watch(open_page, server, server.begin(concurrency=4))
    field = page.get_by_label("Find items by key")
    field.click()
    for letter in "otter":
        field.press(letter)
        before = done(page)
        api.answer(4)
        until(lambda before=before: done(page) > before)
    expect(field).to_be_focused()
    expect(field).to_have_value("otter")


def test_a_retry_counts_down(server: Server, open_page: Opens) -> None:
    job = server.waiting("chores", items=["first", "later"])
    page = watch(open_page, server, job)
    note_what_it_says(page, "#items .is:has([data-until])")
    server.act(job, "resume")
    expect(page.locator("#items > tr[data-status=completed]")).to_have_count(2)
    texts = [
        text for text in page.evaluate("said") if text != "Again when resumed"
    ]  # it may come with the head's frame
    assert all(re.fullmatch(r"Again in \d s", text) for text in texts), texts
    seen = [int(text.split()[2]) for text in texts]
    assert len(seen) > 1 and seen == sorted(seen, reverse=True), seen


def test_a_retry_of_a_paused_job_waits_for_its_resume(server: Server, open_page: Opens) -> None:
    job = server.begin("chores", items=["much later"])
    page = watch(open_page, server, job)
    again = page.locator("#items > tr .is", has_text="Again")
    expect(again).to_have_text(re.compile(r"Again in \d\d s"))
    button(page, "Pause").click()
    expect(again).to_have_text("Again when resumed")
    with (
        contextlib.closing(
            sqlite3.connect(server.directory / "data" / "rowcast.db", timeout=PATIENCE)
        ) as conn,
        conn,
    ):
        conn.execute(
            "update items set run_at = run_at - 60 where job = ?", (job,)
        )  # as if it had been paused for so long
    assert [item["status"] for item in server.items(job)] == ["queued"]
    button(page, "Resume").click()
    expect(status(page)).to_have_text("Completed")


def test_the_head_says_that_the_api_asked_for_a_pause(server: Server, api: Api, open_page: Opens) -> None:
    server.users(*people(1, "nap"))
    api.stall()
    job = server.begin(concurrency=1)
    page = watch(open_page, server, job)
    api.answer()
    note = page.locator("#note")
    until_then = r"The API asked for a pause \(429, Retry-After\)\. Sending goes on in \d+ min \d+ s\."
    expect(note).to_have_text(re.compile(until_then))
    server.act(job, "resume")
    expect(status(page)).to_have_text("Completed")
    expect(note).to_be_hidden()


def test_the_bar_and_the_facts_show_every_kind_of_end(server: Server, api: Api, open_page: Opens) -> None:
    server.users(*people(5), *people(3, "gone"))
    page = watch(open_page, server, server.begin())
    expect(status(page)).to_have_text("Completed with failures")
    widths = page.locator("#head .bar rect").evaluate_all(
        "all => all.map(r => [r.classList[0], r.getAttribute('width')])"
    )
    assert dict(widths)["c-completed"] == "62.50%" and dict(widths)["c-failed"] == "37.50%"
    expect(page.locator(".fact", has_text="done").locator("dd")).to_have_text("8 of 8")
    expect(page.locator(".fact", has_text="failed").locator("dd")).to_have_text("3")


def has_the_newest(page: Page, server: Server, job: int) -> None:
    """At its end the page has the hundred items that changed last."""
    expect(status(page)).to_have_text("Completed")
    newest = sorted(server.items(job), key=lambda item: -item["seq"])[:100]
    shown = sorted([f"item-{item['id']}", "completed"] for item in newest)
    until(lambda: sorted(rows(page)) == shown)  # a frame's head is in its place a moment before its rows


def test_a_flood_of_rows_leaves_none_behind(server: Server, api: Api, open_page: Opens) -> None:
    api.stall()
    items = [*people(1250), "stalled", *people(1250, "more")]
    job = server.waiting("chores", items=items, seconds=0.4, concurrency=500)
    page = watch(open_page, server, job)
    page.evaluate(WATCH_THE_ROWS)
    server.act(job, "resume")
    until(lambda: done(page) == 2500)
    api.answer()
    has_the_newest(page, server, job)
    assert page.evaluate("[window.seen > 1, window.wrong]") == [True, []]


def test_a_row_that_changes_where_it_stands_counts_as_new(server: Server, api: Api, open_page: Opens) -> None:
    api.stall()
    job = server.begin("chores", items=["stalled", *people(120)], seconds=0.05)
    page = watch(open_page, server, job)
    until(lambda: done(page) == 120)
    api.answer()
    has_the_newest(page, server, job)
