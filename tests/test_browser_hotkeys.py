"""The keys of a page, in a real Chromium: the map, the way to what failed, and what a key does not do."""

import re

from on_page import FILES, FLAGS, Opens, button, live, people, status, watch
from playwright.sync_api import Page, expect
from servers import Api, Server

__all__ = ["FILES", "FLAGS"]  # of the module's server


def focused(page: Page) -> str:
    """The row that has the focus, by its key."""
    return str(page.evaluate("document.activeElement.closest('tr')?.querySelector('.key').textContent ?? ''"))


def test_the_map_shows_what_the_page_has_and_the_keys_do_it(server: Server, open_page: Opens) -> None:
    job = server.begin("chores", items=["fine", "broken one", "fine too", "broken two"])
    server.ended(job)
    page = watch(open_page, server, job, "?view=all")
    expect(live(page)).to_have_text("Up to date")
    keys = page.locator("#keys")
    page.keyboard.press("Shift+?")
    expect(keys).to_be_visible()
    expect(keys).to_contain_text("Go to the list of jobs")
    expect(keys.get_by_text("Pause the job")).to_be_hidden()  # it has ended
    page.keyboard.press("r")  # a key of the page under it
    expect(keys).to_be_visible()
    page.keyboard.press("Escape")
    expect(keys).to_be_hidden()
    for key, row in (
        ("n", "broken one"),
        ("n", "broken two"),
        ("n", "broken two"),
        ("Shift+N", "broken one"),
    ):
        page.keyboard.press(key)
        assert focused(page) == row
    expect(page.locator("#toasts")).to_contain_text("no other that has failed")
    page.keyboard.press("r")
    expect(button(page, "Retry failed (2)")).to_be_focused()
    page.keyboard.press("/")
    page.keyboard.type("r?n")
    expect(page.locator("#find")).to_have_value("r?n")
    assert [item["attempt"] for item in server.items(job, status="failed")] == [1, 1]
    page.locator("#job-title").focus()
    page.keyboard.press("g")
    page.keyboard.press("j")
    expect(page).to_have_url(f"{server.url}/")
    expect(page.locator("body")).to_have_attribute("data-live", "live")
    page.keyboard.press("n")
    assert page.evaluate("document.activeElement.closest('tr').id") == f"job-{job}"


def test_p_pauses_and_goes_on_whatever_the_frames_have_exchanged(
    server: Server, api: Api, open_page: Opens
) -> None:
    server.users(*people(50))
    api.stall()
    page = watch(open_page, server, server.begin(concurrency=2))
    expect(status(page)).to_have_text("Running")
    for word in ("Paused", "Running", "Paused"):
        page.keyboard.press("p")
        expect(status(page)).to_have_text(word)
    page.get_by_role("button", name="Keys", exact=True).click()
    page.get_by_label("Keys act in this browser").uncheck()
    page.get_by_role("button", name="Close").click()
    page.keyboard.press("p")
    page.keyboard.press("/")
    expect(page.locator("#find")).not_to_be_focused()
    expect(status(page)).to_have_text("Paused")


def test_times_are_the_clocks_or_how_long_ago_in_the_viewers_zone(server: Server, open_page: Opens) -> None:
    job = server.begin("chores", items=["fine"])
    server.ended(job)
    page = watch(open_page, server, job, timezone_id="Asia/Tokyo", locale="en-GB")
    time = page.locator("#items time").first
    expect(time).to_have_text(re.compile(r"^\d\d:\d\d:\d\d$"))
    time.hover()
    expect(time).to_have_attribute("title", re.compile(r"20\d\d.*(GMT\+9|JST), (now|.* ago)$"))
    page.keyboard.press("t")
    expect(time).to_have_text(re.compile(r"now|ago$"))
    page.reload()
    expect(time).to_have_text(re.compile(r"now|ago$"))
    page.keyboard.press("t")
    expect(time).to_have_text(re.compile(r"^\d\d:\d\d:\d\d$"))
