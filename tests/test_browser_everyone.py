"""The page is for everyone: by axe, on a phone, in the dark, by keyboard, without scripts; and what it shows is text."""

import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from on_page import FILES, FLAGS, PHONE, Opens, button, live, overflow, people, start_of, status, watch
from playwright.sync_api import Locator, expect
from servers import Api, Server, until

__all__ = ["FILES", "FLAGS"]  # of the module's server

PHONE_RULES = ["color-contrast", "scrollable-region-focusable", "target-size", "list", "aria-hidden-focus"]


@pytest.fixture
def every_page(server: Server, api: Api) -> dict[str, str]:
    """Each page in each of its states, by name: its path."""
    server.users(*people(12))
    long = f"broken {'a' * 60}.very.long.key@{'b' * 60}.example.com"
    told = [{"channel": "webhook", "to": f"http://2130706433/{'a' * 60}"}]  # is refused as this machine's
    finished = server.begin("chores", items=["lost", "broken", long, "fine", "good"], notify=told)
    server.ended(finished)
    server.ended(server.begin("bulk_email", limit=2))
    preview = server.client.post("/jobs", data={"task": "bulk_email", "option-preview": "1"}).headers[
        "Location"
    ]
    server.ended(int(preview.split("/")[2]))
    api.stall()
    running = server.begin("chores", items=people(12), seconds=600)
    paused = server.begin()
    until(lambda: server.job(running)["running"] and server.job(paused)["running"])
    server.act(paused, "pause")
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
        "tasks": "/tasks",
        "a task": "/tasks/chores",
        "schedules": "/schedules",
        "messages": "/messages",
        "mailbox": "/mailbox",
        "no mail of a job": "/mailbox?job=999999",
        "a mail": "/mailbox/1",
        "preview": preview,
        "workers": "/workers",
        "no such user": "/users?q=nobody",
        "error": "/jobs/999999",
    }


def test_axe_finds_nothing_on_any_page(server: Server, visit: Opens, every_page: dict[str, str]) -> None:
    page = visit(server.url, viewport={"width": 1240, "height": 900})
    script = Axe().axe_script
    run = """rules => axe.run(document, {resultTypes: ['violations'], ...(rules && {runOnly: rules})})
        .then(found => found.violations.map(v => [v.id, v.nodes.map(node => node.html)]))"""
    for name, path in every_page.items():
        page.set_viewport_size({"width": 1240, "height": 900})
        page.emulate_media(color_scheme="light")
        page.goto(server.url + path)
        page.evaluate(script)
        assert page.evaluate(run, None) == [], name
        page.emulate_media(color_scheme="dark")
        assert page.evaluate(run, ["color-contrast"]) == [], f"{name}, dark"
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate(run, PHONE_RULES) == [], f"{name}, on a phone"
    page.goto(server.url)
    start_of(page, "chores").get_by_text("Options").click()
    page.evaluate(script)
    assert page.evaluate(run, None) == [], "the picker"
    page.set_viewport_size({"width": 1240, "height": 900})
    assert page.evaluate(run, None) == [], "the picker beside the list"


def test_no_page_scrolls_sideways_or_cuts_anything_on_a_phone(
    server: Server, visit: Opens, every_page: dict[str, str]
) -> None:
    cut = """[...document.querySelectorAll('main *')].filter(e => !e.closest('.sr, thead, .bar, .chart svg, .key, .why')
        && (e.getBoundingClientRect().right > innerWidth + 1 || e.scrollWidth > e.clientWidth + 1 && e.clientWidth
        && getComputedStyle(e).overflowX === 'hidden')).map(e => e.outerHTML.slice(0, 120))"""
    page = visit("about:blank", **PHONE)
    for name, path in every_page.items():
        page.goto(server.url + path)
        for width in (390, 320):
            page.set_viewport_size({"width": width, "height": 844})
            assert overflow(page) <= 0, f"{name} at {width}"
            assert page.evaluate(cut) == [], f"{name} at {width}"


def test_a_row_has_room_for_two_minutes_in_ms_and_for_how_long_ago_it_was(
    server: Server, visit: Opens
) -> None:
    server.users(*people(1))
    job = server.ended(server.begin())["id"]
    for locale, ms, ago in (("en-GB", "120,012", "17 sec. ago"), ("de-DE", "120.012", "vor 17 Sek.")):
        page = visit(f"{server.url}/jobs/{job}", viewport={"width": 1240, "height": 900}, locale=locale)
        for cell, text in ((".ms", ms), (".when time", ago)):
            page.locator(f"#items {cell}").first.evaluate("(e, text) => { e.textContent = text }", text)
        room = """td => { const text = new Range(), look = getComputedStyle(td); text.selectNodeContents(td);
            return td.clientWidth - parseFloat(look.paddingLeft) - parseFloat(look.paddingRight)
                - text.getBoundingClientRect().width }"""
        assert [page.locator(f"#items {cell}").first.evaluate(room) >= 0 for cell in (".ms", ".when")] == [
            True
        ] * 2


def test_a_phone_shows_the_key_the_state_and_the_reason(server: Server, api: Api, open_page: Opens) -> None:
    server.users(*people(3), *people(2, "gone"))
    job = server.begin()
    server.ended(job)
    page = watch(open_page, server, job, **PHONE)
    row = page.locator("#items > tr[data-status=failed]").first
    for text in ("gone-000", "Failed", "404", "no such account"):
        expect(row.get_by_text(text).first).to_be_visible()
    assert row.locator(".key").evaluate("e => e.scrollWidth <= e.clientWidth")


def test_on_a_phone_the_list_has_what_failed_and_a_jobs_rows_begin_on_the_first_screen(
    server: Server, open_page: Opens
) -> None:
    job = server.begin("chores", items=["broken", "fine"])
    server.ended(job)
    page = open_page(server.url, **PHONE)
    expect(page.locator(f"#job-{job} .fails")).to_be_visible()
    page.goto(f"{server.url}/jobs/{job}")
    assert page.locator("#items > tr").first.bounding_box()["y"] < 800
    on_one_line = """row => { const line = place => { const mark = document.createElement('span');
        mark.style.cssText = 'display: inline-block; width: 0; height: 0'; place.append(mark);
        const { bottom } = mark.getBoundingClientRect(); mark.remove(); return bottom; };
        return Math.abs(line(row.querySelector('.key a')) - line(row.querySelector('.is .st'))); }"""
    page.set_viewport_size({"width": 1240, "height": 900})
    row = page.locator("#items > tr").first
    expect(row).to_be_visible()
    assert row.evaluate(on_one_line) < 1, "the key, and the word of its status"
    assert page.locator("th.key").evaluate("e => e.offsetWidth") < 200, (
        "a short key takes no more than it needs"
    )


def test_the_page_is_dark_when_the_system_is_and_a_choice_is_remembered(
    server: Server, open_page: Opens
) -> None:
    page = open_page(server.url, color_scheme="dark")
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_label("Theme").select_option("light")
    light = page.evaluate(ground)
    assert dark != light
    page.goto(f"{server.url}/users")
    assert page.evaluate(ground) == light
    expect(page.get_by_label("Theme")).to_have_value("light")
    other = open_page(server.url, context=page.context)
    page.get_by_label("Theme").select_option("auto")
    expect(other.get_by_label("Theme")).to_have_value("auto")
    assert other.evaluate(ground) == dark


def test_keys_and_answers_of_the_api_are_text_and_never_markup(
    server: Server, api: Api, open_page: Opens
) -> None:
    key = "html-<img/src=x/onerror=alert(1)>@example.com"
    server.users(key)
    job = server.begin()
    page = watch(open_page, server, job)
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
        page.goto(server.url + path)
        expect(page.locator("main")).to_contain_text(key)
        assert page.locator("main :is(img, b, td script)").count() == 0
    assert asked == []


def test_a_job_is_started_watched_and_cancelled_by_keyboard_alone(
    server: Server, api: Api, open_page: Opens
) -> None:
    server.users(*people(400))
    api.stall()
    page = open_page(server.url)

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
    tab_to(page.locator("#start > summary"))
    page.keyboard.press("Enter")
    expect(page.get_by_label("Find a task")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#start > summary")).to_be_focused()
    page.keyboard.press("s")
    page.keyboard.type("account updated")  # of what it does
    page.keyboard.press("ArrowDown")
    expect(page.locator("#pick-update_users > summary")).to_be_focused()
    expect(page.locator(".pick:visible")).to_have_count(1)
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.get_by_role("form", name="Start update_users").get_by_label("Limit")).to_be_focused()
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


def test_without_javascript_a_start_pressed_twice_is_started_once(server: Server) -> None:
    def word() -> str:
        page = server.client.get("/tasks/counter").text
        return re.findall(r'<noscript><input[^>]* name="option-once"[^>]* value="(\w+)"', page)[0]

    def start(once: str, loops: int = 0) -> str:
        return server.client.post(
            "/jobs", data={"task": "counter", "option-once": once, "loops": str(loops)}
        ).headers["Location"]

    first = word()
    pressed = start(first)
    assert start(first) == pressed
    assert start(first, 1) not in (pressed, start(word())), "changed since, and of another page"
    assert start(word()) != pressed


def test_without_javascript_whatever_starts_a_job_starts_it_once(server: Server) -> None:
    def word(path: str, form: str) -> str:
        page = server.client.get(path).text
        assert f'id="{form}"' in page
        words = re.findall(r'<noscript><input[^>]* name="option-once"[^>]*>', page)
        return re.findall(r' value="(\w+)"', next(one for one in words if f' form="{form}"' in one))[0]

    server.users(*people(2))
    job = server.ended(server.begin("counter", loops=1))["id"]
    item = server.items(job)[0]["id"]
    looped = server.ended(server.begin("update_users", limit=1))["id"]
    edited = f"/jobs/{looped}/items/{server.items(looped)[0]['id']}"
    shown = server.client.post("/jobs", data={"task": "bulk_email", "option-preview": "1"}).headers[
        "Location"
    ]
    preview = server.ended(int(shown.split("/")[2]))["id"]
    for path, form, where, sent in (
        ("/", "again-counter", f"/jobs/{job}/again", {}),
        (f"/jobs/{job}", "act-again", f"/jobs/{job}/again", {}),
        (f"/jobs/{job}/items/{item}", "act-again", f"/jobs/{job}/again", {}),
        (f"/jobs/{job}/again", "start-counter", "/jobs", {"task": "counter", "loops": "1"}),
        (edited, "run-edited", f"{edited}/again", {"payload": '{"email": "one@example.com"}'}),
        (f"/jobs/{preview}/preview", "start-for-real", f"/jobs/{preview}/again", {"real": "1"}),
        (
            f"/jobs/{job}/then?task=counter",
            "then-start",
            "/jobs",
            {"task": "counter", "option-after": str(job)},
        ),
    ):
        first = word(path, form)
        second = word(path, form)
        pressed = [
            server.client.post(where, data={"option-once": once} | sent).headers["Location"]
            for once in (first, first, second)
        ]
        assert pressed[0] == pressed[1] != pressed[2], where


def test_without_javascript_the_page_shows_the_job_and_its_buttons_work(
    server: Server, api: Api, open_page: Opens
) -> None:
    server.users(*people(40))
    api.stall()
    page = open_page(server.url, java_script_enabled=False)
    before = server.client.get("/api/jobs?limit=1").json()["jobs"]
    start_of(page, "update_users").get_by_role("button", name="Start").dblclick()
    expect(page).to_have_url(re.compile(r"/jobs/\d+$"))  # by either click: the second may break off the first
    newest, *last = server.client.get("/api/jobs?limit=2").json()["jobs"]
    assert page.url.endswith(f"/jobs/{newest['id']}")
    assert [job["id"] for job in last] == [job["id"] for job in before]
    expect(live(page)).to_have_text("Not live")
    until(lambda: page.reload() and page.locator("#items > tr").count())
    expect(page.locator("#items time").first).to_contain_text("UTC")
    button(page, "Pause").click()
    expect(status(page)).to_have_text("Paused")
    button(page, "Cancel").click()
    expect(status(page)).to_have_text("Cancelled")


def test_users_are_found_and_added_from_a_file(server: Server, open_page: Opens) -> None:
    server.users(*people(3))
    page = open_page(f"{server.url}/users")
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
    page.goto(f"{server.url}/users?q=nobody")
    page.get_by_role("link", name="Show all users").click()
    expect(page.locator(".users tbody tr")).to_have_count(4)


def test_results_say_that_they_are_not_complete_until_they_are(
    server: Server, api: Api, open_page: Opens
) -> None:
    server.users(*people(20), *people(1, "gone"))
    api.stall()
    job = server.begin(concurrency=4)
    page = open_page(f"{server.url}/jobs/{job}/results")
    expect(page.locator(".note")).to_contain_text("these results are not complete")
    api.answer()
    server.ended(job)
    page.get_by_role("link", name="Load them again").click()
    expect(page.locator(".note")).to_have_count(0)
    expect(page.locator(".pairs")).to_contain_text(re.compile("Completed.*20", re.S))
    with page.expect_download() as download:
        page.get_by_role("link", name="results.csv").click()
    assert download.value.suggested_filename == f"job-{job}-results.csv"
