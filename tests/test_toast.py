"""News on every page: the toast of a job that has ended or waits, once, and the browser's own notification."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from on_page import FILES, FLAGS, PHONE, Opens, button, overflow, people, start_of
from playwright.sync_api import BrowserContext, Locator, Page, expect
from servers import Api, Server, until
from test_live import hurry, proxy

from rowcast.feed.sse import plain
from rowcast.feed.streams import News
from rowcast.feed.watch import Feed
from rowcast.jobs import Jobs
from rowcast.tables.database import close_databases
from rowcast.tables.schema import prepare
from rowcast.tasks.accounts import Account
from rowcast.tasks.built_in import counter
from rowcast.tasks.records import PAGE

__all__ = ["FILES", "FLAGS", "proxy"]  # of the module's server, and for its fixtures
Contexts = Callable[..., BrowserContext]


def toasts(page: Page) -> Locator:
    return page.locator("#toasts .toast")


def toast(page: Page, job: int) -> Locator:
    return page.locator(f'#toasts .toast[data-job="{job}"]')


def told(opens: Opens, server: Server, path: str = "/users", **how: Any) -> Page:
    """A page that is told news from now on."""
    page = opens(server.url + path, **how)
    expect(page.locator("body")).to_have_attribute("data-news", "live")
    return page


def end(server: Server, task: str = "counter", **given: Any) -> int:
    """A job that has ended."""
    job = server.begin(task, **(given or {"loops": 0}))
    server.ended(job)
    return job


def chores(server: Server, *items: str, **given: Any) -> int:
    return server.begin("chores", items=list(items), **given)


# ---- what is told, and where ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/users", "/schedules", "/workers", "/jobs/{other}", "/jobs/{other}/results"]
)
def test_every_page_says_that_another_job_has_ended_with_a_link_to_it(
    server: Server, open_page: Opens, path: str
) -> None:
    other = end(server)
    page = told(open_page, server, path.format(other=other))
    job = end(server, "counter", loops=2)
    expect(toast(page, job)).to_have_count(1)
    expect(toast(page, job)).to_contain_text(f"counter #{job} Ended: 2 of 2 done.")
    assert page.locator("#toasts").get_attribute("aria-live") == "polite"
    toast(page, job).get_by_role("link").click()
    expect(page).to_have_url(f"{server.url}/jobs/{job}")
    expect(toasts(page)).to_have_count(0)


def test_a_page_says_nothing_of_the_job_that_it_shows_nor_of_what_ended_before(
    server: Server, api: Api, open_page: Opens
) -> None:
    end(server)
    api.stall()
    job = server.begin(limit=5)
    page = told(open_page, server, f"/jobs/{job}")
    api.answer()
    expect(page.locator("#job-status")).to_have_text("Completed")
    later = end(server, "chores", items=["broken 1"])
    expect(toast(page, later)).to_have_count(1)
    expect(toasts(page)).to_have_count(1)


def test_what_is_done_to_a_job_after_its_end_is_no_news(server: Server, open_page: Opens) -> None:
    job = chores(server, "broken 1", "fine 1")
    server.ended(job)
    page = told(open_page, server)
    server.act(job, "settle")  # it changes, and has ended as before
    later = end(server)
    expect(toast(page, later)).to_have_count(1)
    expect(toast(page, job)).to_have_count(0)
    server.act(job, "retry")  # it ends once more
    expect(toast(page, job)).to_have_count(1)


def test_the_words_say_what_came_of_it(server: Server, api: Api, open_page: Opens) -> None:
    page = told(open_page, server)
    mixed = chores(server, "broken 1", "fine 1", "fine 2")
    expect(toast(page, mixed)).to_contain_text("Ended: 2 of 3 done, 1 failed.")
    failed = chores(server, "broken 1", "broken 2")
    expect(toast(page, failed)).to_contain_text("Failed: None of its items completed.")
    api.stall()
    cancelled = server.begin(limit=4)
    server.act(cancelled, "cancel")
    expect(toast(page, cancelled)).to_contain_text("Cancelled: 0 of ")


def test_a_job_that_waits_for_a_person_is_news_and_one_that_a_person_has_paused_is_none(
    server: Server, open_page: Opens
) -> None:
    page = told(open_page, server)
    by_hand = chores(server, *(f"fine {n}" for n in range(40)), seconds=1)
    server.act(by_hand, "pause")
    waits = server.waiting("chores", items=["fine 1", "fine 2", "fine 3"])
    expect(toast(page, waits)).to_contain_text(re.compile("Waits for you: .*canary", re.IGNORECASE))
    server.act(waits, "resume")  # what it comes to takes the place of what it was
    expect(toast(page, waits)).to_contain_text("Ended: 3 of 3 done.")
    expect(toast(page, waits)).to_have_count(1)
    expect(toast(page, by_hand)).to_have_count(0)


def test_names_and_reasons_of_others_are_text(server: Server, open_page: Opens) -> None:
    page = told(open_page, server)
    text = page.evaluate(
        """() => {
            const title = "<img src=x onerror=alert(1)>";
            const box = document.querySelector("#toast").content.firstElementChild.cloneNode(true);
            box.querySelector("a").textContent = title;
            return box.querySelector("a").innerHTML;
        }"""
    )
    assert text.startswith("&lt;img")


def test_each_is_told_of_their_own_alone_also_who_may_see_all(tmp_path: Path) -> None:
    path = str(tmp_path / "rowcast.db")
    prepare(path)
    jobs = Jobs(path)
    feed = Feed(jobs)
    hers, his = (jobs.submit(counter, {}, name, "background")[0].id for name in ("lena", "ben"))
    feed.look()
    readers = {
        name: News(feed, "", Account(name, role), feed.seq)
        for name, role in (("lena", "operator"), ("ben", "viewer"), ("anna", "admin"))
    }
    jobs.fail(hers, "no time")
    feed.look()
    told = {name: plain(reader.next()).decode() for name, reader in readers.items()}
    assert "counter #1" in told["lena"] and "Failed: no time" in told["lena"]
    assert told["ben"] == told["anna"] == ""
    jobs.fail(his, "no time")
    feed.look()
    assert plain(readers["lena"].next()) == b"" and b"counter #2" in plain(readers["ben"].next())
    close_databases()


def test_many_ends_at_once_are_all_told_in_their_order(tmp_path: Path) -> None:
    path = str(tmp_path / "rowcast.db")
    prepare(path)
    jobs = Jobs(path)
    feed = Feed(jobs)
    for _ in range(PAGE + 20):
        jobs.fail(jobs.submit(counter, {}, "local", "background")[0].id, "no time")
    feed.look()
    reader = News(feed, "", "local", 0)
    text = plain(reader.next())
    while reader.patience() == 0.0:
        text += plain(reader.next())
    assert re.findall(rb'"job":(\d+)', text) == [b"%d" % (n + 1) for n in range(PAGE + 20)]
    assert plain(reader.next()) == b""
    close_databases()


# ---- once ----------------------------------------------------------------------------------------------------------


def test_all_tabs_say_it_over_one_stream_and_a_toast_closed_in_one_is_closed_in_all(
    server: Server, open_page: Opens, own_context: Contexts
) -> None:
    context = own_context()
    pages = [told(open_page, server, path, context=context) for path in ("/", "/users", "/workers")]
    until(lambda: server.streams() == 1)
    job = end(server, "chores", items=["broken 1"])  # of which the toast stays
    for page in pages:
        expect(toast(page, job)).to_have_count(1)
    toast(pages[1], job).get_by_role("button", name="Close").click()
    for page in pages:
        expect(toasts(page)).to_have_count(0)


def test_after_a_restart_nothing_is_said_twice_and_what_ended_meanwhile_once(
    serve: Any, visit: Opens, tmp_path: Path
) -> None:
    (tmp_path / "chores.py").write_text(FILES["chores.py"])
    server = serve(*FLAGS)
    page = told(visit, server)
    before = end(server, "chores", items=["broken 1"])  # of which the toast stays
    expect(toast(page, before)).to_have_count(1)
    toast(page, before).get_by_role("button").click()
    server.stop()
    server.start()
    meanwhile = end(server, "chores", items=["broken 1"])
    expect(toast(page, meanwhile)).to_have_count(1)
    later = end(server, "chores", items=["broken 1"])
    expect(toast(page, later)).to_have_count(1)
    expect(toast(page, before)).to_have_count(0)
    expect(toasts(page)).to_have_count(2)


def test_where_the_page_polls_it_says_the_same(
    server: Server, proxy: Callable[..., str], open_page: Opens, own_context: Contexts
) -> None:  # the proxy is there until the page, which asks it, is closed
    context = own_context()
    hurry(context, 1)
    page = open_page(f"{proxy(server, hold=True)}/", context=context)
    expect(page.locator("body")).to_have_attribute("data-live", "polling")
    job = end(server)
    expect(toast(page, job)).to_have_count(1)


def test_a_page_at_rest_asks_for_nothing_but_news(server: Server, open_page: Opens) -> None:
    job = end(server)
    page = open_page("about:blank")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{server.url}/jobs/{job}")
    expect(page.locator("body")).to_have_attribute("data-news", "live")
    expect(page.locator("#live-word")).to_have_text("Up to date")
    streams = [url for url in asked if "/events" in url]
    assert len(streams) == 1 and "job%3D" not in streams[0]
    other = end(server)
    expect(toast(page, other)).to_have_count(1)
    expect(page.locator("#live-word")).to_have_text("Up to date")


# ---- how long ------------------------------------------------------------------------------------------------------


def test_what_went_well_goes_away_by_itself_and_what_failed_stays(
    server: Server, open_page: Opens, own_context: Contexts
) -> None:
    context = own_context()
    page = told(open_page, server, context=context)
    failed = end(server, "chores", items=["broken 1"])
    expect(toast(page, failed)).to_have_count(1)
    well = end(server)
    expect(toast(page, well)).to_have_count(1)
    expect(toast(page, well)).to_have_count(0)
    expect(toast(page, failed)).to_have_count(1)
    button(page, "Close").click()
    expect(toasts(page)).to_have_count(0)


def test_a_toast_that_has_the_focus_waits_and_is_closed_by_the_keyboard(
    server: Server, open_page: Opens
) -> None:
    page = told(open_page, server)
    job = end(server)
    close = toast(page, job).get_by_role("button", name="Close")
    close.focus()
    other = end(server)
    expect(toast(page, other)).to_have_count(1)
    expect(toast(page, other)).to_have_count(0)  # it came later, and has gone
    expect(close).to_be_focused()
    page.keyboard.press("Shift+Tab")
    expect(toast(page, job).get_by_role("link")).to_be_focused()
    page.keyboard.press("Escape")
    expect(toasts(page)).to_have_count(0)
    expect(page.locator("#main")).to_be_focused()


def test_there_are_a_few_at_once_and_the_others_are_counted(server: Server, open_page: Opens) -> None:
    page = told(open_page, server)
    german = told(open_page, server, locale="de-DE")
    jobs = [end(server, "chores", items=["broken 1"]) for _ in range(7)]
    expect(page.locator("#toasts .toast").first).to_contain_text("5 more have ended, or wait for you.")
    expect(toasts(german).first).to_contain_text("5 weitere sind zu Ende oder warten auf dich.")
    expect(toasts(page)).to_have_count(3)
    for job in jobs[-2:]:
        expect(toast(page, job)).to_have_count(1)
    toasts(page).first.get_by_role("link").click()
    expect(page).to_have_url(f"{server.url}/")


def test_on_a_phone_nothing_is_wider_than_the_screen(server: Server, open_page: Opens) -> None:
    page = told(open_page, server, **PHONE)
    server.users(*people(3))
    for _ in range(4):
        end(server, "chores", items=["lost 1"])
    expect(toasts(page)).to_have_count(3)
    assert overflow(page) == 0


AXE = "() => axe.run().then(found => found.violations.map(v => [v.id, v.nodes.map(node => node.html)]))"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_at_toasts_and_at_the_box(
    server: Server, api: Api, visit: Opens, own_context: Contexts, scheme: str
) -> None:
    api.stall()
    context = own_context(color_scheme=scheme)
    context.grant_permissions(["notifications"], origin=server.url)
    page = told(visit, server, f"/jobs/{server.begin(limit=5)}", context=context)
    tick(page).check()
    expect(page.locator(".tell-here [role=status]")).to_contain_text("This browser tells you")
    end(server, "chores", items=["broken 1"])
    server.waiting("chores", items=["fine 1", "fine 2"])
    expect(toasts(page)).to_have_count(2)
    page.evaluate(Axe().axe_script)
    assert page.evaluate(AXE) == []


# ---- the browser's own notification --------------------------------------------------------------------------------

SHOWN = """async () => {
    const found = await navigator.serviceWorker.getRegistrations();
    const shown = (await Promise.all(found.map((one) => one.getNotifications()))).flat();
    return shown.map(({ title, body, tag }) => ({ title, body, tag }));
}"""


def looks_away(page: Page) -> None:
    """Its user looks at another window; each page of a test has the focus."""
    page.evaluate("Object.defineProperty(document, 'hasFocus', {value: () => false})")


def tick(page: Page | Locator) -> Locator:
    """The box, once what it stands in is open."""
    page.get_by_text("Tell me when this is done").click()
    return page.get_by_label("Tell me on this computer")


def test_a_job_with_a_tick_is_told_once_for_all_tabs_and_others_are_not(
    server: Server, api: Api, open_page: Opens, granted: BrowserContext
) -> None:
    api.stall()
    job = server.begin(limit=5)
    page = told(open_page, server, f"/jobs/{job}", context=granted)
    tick(page).check()
    expect(page.locator(".tell-here [role=status]")).to_contain_text("This browser tells you")
    others = [told(open_page, server, path, context=granted) for path in ("/users", "/workers")]
    looks_away(page)
    others[-1].bring_to_front()
    api.answer()
    server.ended(job)
    expect(toast(others[0], job)).to_have_count(1)
    shown = until(lambda: page.evaluate(SHOWN))
    expect(toast(others[0], end(server))).to_have_count(1)
    assert page.evaluate(SHOWN) == shown
    assert [one["title"] for one in shown] == [f"update_users #{job}"]
    assert shown[0]["body"] == "Ended: 5 of 5 done."


def test_whoever_looks_at_the_job_is_not_told_besides(
    server: Server, api: Api, open_page: Opens, granted: BrowserContext
) -> None:
    api.stall()
    job = server.begin(limit=5)
    other = told(open_page, server, context=granted)
    page = told(open_page, server, f"/jobs/{job}", context=granted)
    tick(page).check()
    expect(page.locator(".tell-here [role=status]")).to_contain_text("This browser tells you")
    api.answer()
    expect(page.locator("#job-status")).to_have_text("Completed")
    expect(toast(other, job)).to_have_count(1)
    later = server.waiting("chores", items=["fine 1", "fine 2"])
    other.goto(f"{server.url}/jobs/{later}")
    tick(other).check()
    expect(other.locator(".tell-here [role=status]")).to_contain_text("This browser tells you")
    other.goto(f"{server.url}/users")
    server.act(later, "resume")
    shown = until(lambda: page.evaluate(SHOWN))
    assert [one["title"] for one in shown] == [f"chores #{later}"]


def test_a_tick_in_the_form_is_for_the_job_that_it_starts(
    server: Server, open_page: Opens, granted: BrowserContext
) -> None:
    page = told(open_page, server, "/", context=granted)
    form = start_of(page, "counter")
    tick(form).check()
    expect(form.locator(".tell-here [role=status]")).to_contain_text("This browser tells you")
    form.get_by_label("Loops").fill("3")
    form.get_by_role("button", name="Start").click()
    expect(page).to_have_url(re.compile(r"/jobs/\d+$"))
    expect(tick(page)).to_be_checked()


def test_where_the_browser_is_told_not_to_the_page_says_so(
    server: Server, api: Api, open_page: Opens, own_context: Contexts
) -> None:
    api.stall()
    job = server.begin(limit=5)
    context = own_context()
    context.grant_permissions([], origin=server.url)
    page = told(open_page, server, f"/jobs/{job}", context=context)
    assert page.evaluate("Notification.permission") == "denied"
    tick(page).click()
    expect(page.locator(".tell-here [role=status]")).to_contain_text("is told not to show notifications")
    expect(tick(page)).not_to_be_checked()


def test_nobody_is_asked_before_they_have_ticked(
    server: Server, api: Api, open_page: Opens, own_context: Contexts
) -> None:
    context = own_context()
    context.add_init_script(
        "window.asked = 0;"
        "const ask = Notification.requestPermission.bind(Notification);"
        "Notification.requestPermission = () => { window.asked += 1; return ask(); };"
    )
    api.stall()
    job = server.begin(limit=5)
    page = told(open_page, server, f"/jobs/{job}", context=context)
    other = end(server)
    expect(toast(page, other)).to_have_count(1)
    assert page.evaluate("window.asked") == 0
    assert page.evaluate("navigator.serviceWorker.getRegistrations().then((all) => all.length)") == 0
    tick(page).click()
    until(lambda: page.evaluate("window.asked") == 1)


def test_a_click_finds_the_jobs_tab(
    server: Server, api: Api, open_page: Opens, granted: BrowserContext
) -> None:
    """A click that a program makes may bring no tab to the front: which one it would, is looked at."""
    api.stall()
    job = server.begin(limit=5)
    page = told(open_page, server, f"/jobs/{job}", context=granted)
    tick(page).check()
    expect(page.locator(".tell-here [role=status]")).to_contain_text("This browser tells you")
    told(open_page, server, context=granted)
    (service,) = granted.service_workers
    find = "async (url) => (await tabOf(url))?.url"
    assert service.evaluate(find, f"{server.url}/jobs/{job}") == f"{server.url}/jobs/{job}"
    assert service.evaluate(find, f"{server.url}/jobs/{job}0") is None


def test_without_script_there_is_no_box(server: Server, api: Api, open_page: Opens) -> None:
    api.stall()
    page = open_page(f"{server.url}/jobs/{server.begin(limit=5)}", java_script_enabled=False)
    expect(page.locator(".tell-here")).to_be_hidden()


AT_ONCE = """
const { set } = Object.getOwnPropertyDescriptor(BroadcastChannel.prototype, "onmessage");
Object.defineProperty(BroadcastChannel.prototype, "onmessage", {
  set(hear) { set.call(this, hear); hear.call(this, { data: { closed: "1", looked: "2" } }); },
});
"""


def test_what_another_tab_says_while_a_page_has_no_body_yet_is_no_error(server: Server, open_page: Opens):
    page = told(open_page, server)
    page.add_init_script(AT_ONCE)
    page.reload()
    expect(page.locator("body")).to_have_attribute("data-news", "live")
    expect(toast(page, end(server))).to_be_visible()
