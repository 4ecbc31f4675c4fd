"""The page when it cannot know: a server that is frozen, a press that nobody hears, more windows than connections."""

import re
import signal
from collections.abc import Callable, Iterator

import pytest
from on_page import (
    FILES,
    FLAGS,
    PHONE,
    Opens,
    button,
    done,
    live,
    note_what_it_says,
    start_of,
    status,
    watch,
)
from playwright.sync_api import BrowserContext, Locator, Page, Route, expect
from servers import PATIENCE, Api, Server, until

from rowcast.tables.accounts import Accounts
from rowcast.tables.database import close_databases
from rowcast.tables.sessions import Tokens

__all__ = ["FILES", "FLAGS"]  # of the module's server

WITHIN = 1000 * PATIENCE  # milliseconds in which a page notices that the server is silent
UNHEARD = re.compile("did not answer")


@pytest.fixture
def frozen(server: Server) -> Iterator[Callable[[], None]]:
    """Stop the server where it stands: its connections stay open, and nothing is sent. It goes on by `thaw`."""
    yield lambda: server.process.send_signal(signal.SIGSTOP)
    thaw(server)
    until(server.up)


def thaw(server: Server) -> None:
    server.process.send_signal(signal.SIGCONT)


def alert(form: Locator) -> Locator:
    """Where a form says what its press came to."""
    return form.locator("> .error[role=alert]")


def test_a_frozen_server_is_offline_in_all_tabs_no_proxy_is_blamed_and_it_goes_on_when_it_wakes(
    server: Server,
    api: Api,
    frozen: Callable[[], None],
    visit: Opens,
    own_context: Callable[..., BrowserContext],
) -> None:
    api.stall()
    job = server.begin(limit=40, concurrency=2)
    context = own_context()
    pages = [watch(visit, server, job, context=context) for _ in range(3)]
    for page in pages:
        note_all_toasts(page)
    frozen()
    for page in pages:
        expect(page.locator("body")).to_have_attribute("data-live", "offline", timeout=WITHIN)
        expect(live(page)).to_have_text("Offline")
    assert "not answer" in (pages[0].locator("#live").get_attribute("title") or "")
    note_what_it_says(pages[1], "#live-word")
    thaw(server)
    api.answer()
    for page in pages:
        expect(status(page)).to_have_text("Completed", timeout=WITHIN)
        assert done(page) == 40
        assert not [text for text in page.evaluate("window.toasted") if "proxy" in text]


def note_all_toasts(page: Page) -> None:
    page.evaluate(
        """() => { window.toasted = []; new MutationObserver((changes) => {
            for (const change of changes) for (const box of change.addedNodes) toasted.push(box.textContent);
        }).observe(document.getElementById('toasts'), {childList: true}) }"""
    )


def test_a_page_opened_on_a_server_that_freezes_before_its_stream_is_offline_and_blames_no_proxy(
    server: Server,
    api: Api,
    frozen: Callable[[], None],
    visit: Opens,
    own_context: Callable[..., BrowserContext],
) -> None:
    api.stall()
    job = server.begin(limit=10, concurrency=2)
    context = own_context()

    def freeze_first(route: Route) -> None:
        frozen()
        route.continue_()

    context.route("**/events?*", freeze_first, times=1)
    page = visit(f"{server.url}/jobs/{job}", context=context)
    note_all_toasts(page)
    expect(live(page)).to_have_text("Offline", timeout=WITHIN)
    assert page.evaluate("window.toasted") == []
    thaw(server)
    expect(page.locator("body")).to_have_attribute("data-live", "live", timeout=WITHIN)


def test_a_press_that_a_frozen_server_does_not_hear_says_so_at_the_button_and_can_be_made_again(
    server: Server, api: Api, frozen: Callable[[], None], visit: Opens
) -> None:
    api.stall()
    job = server.begin(limit=40, concurrency=2)
    page = watch(visit, server, job)
    frozen()
    form = page.locator("#act-hold")
    note_what_it_says(page, "#act-hold > .error[role=alert]")

    def said_to_wait() -> int:
        return sum("No answer yet" in text for text in page.evaluate("window.said"))

    button(page, "Pause").click()
    expect(alert(form)).to_have_text(UNHEARD)
    assert said_to_wait() == 1
    expect(button(page, "Pause")).to_be_enabled()
    button(page, "Pause").click()
    until(lambda: said_to_wait() == 2)
    thaw(server)  # it hears what was sent meanwhile, and the button is for something else: no word is left
    expect(status(page)).to_have_text("Paused")
    expect(alert(form)).to_be_empty()
    button(page, "Resume").click()
    expect(status(page)).to_have_text("Running")


def test_each_form_says_what_was_not_heard(server: Server, visit: Opens) -> None:
    lost = server.begin("chores", items=["lost one", "lost two", "fine"])
    server.ended(lost)
    server.client.post("/api/schedules", json={"task": "counter", "cron": "0 6 * * *"})
    page = watch(visit, server, lost)
    starts = visit(server.url)
    schedules = visit(f"{server.url}/schedules")
    for one in (page, starts, schedules):
        one.route(
            "**/*", lambda route: route.abort() if route.request.method == "POST" else route.continue_()
        )
    row = page.locator("#items > tr", has_text="lost one")
    row.get_by_role("button", name="Retry").click()
    expect(row.get_by_role("alert")).to_contain_text("cannot be reached")
    again = page.locator("#act-again")
    again.get_by_role("button").click()
    expect(alert(again)).to_contain_text("cannot be reached")
    group = page.locator(".grp form").first
    group.get_by_role("button").click()
    expect(alert(group)).to_contain_text("cannot be reached")
    form = start_of(starts, "counter")
    form.get_by_role("button", name="Start").click()
    expect(alert(form)).to_contain_text("cannot be reached")
    schedules.on("dialog", lambda asked: asked.accept())
    delete = schedules.locator("tr[id^=schedule-] form").last
    delete.get_by_role("button").click()
    expect(alert(delete)).to_contain_text("cannot be reached")
    page.unroute_all()
    again.get_by_role("button").click()
    expect(page).to_have_url(re.compile(rf"/jobs/(?!{lost}\b)\d+"))


@pytest.mark.parametrize(
    ("status_code", "body", "kind", "said"),
    [
        (502, "<html><h1>Bad Gateway</h1></html>", "text/html", "The server answered 502."),
        (503, "The database is busy; try again in a moment.", "text/plain", "The database is busy"),
        (200, "<html>Sign in</html>", "text/html", "Something else answered"),
    ],
)
def test_an_answer_that_is_not_the_servers_yes_is_said_and_outlives_the_frames(
    server: Server, api: Api, visit: Opens, status_code: int, body: str, kind: str, said: str
) -> None:
    api.stall()
    job = server.begin(limit=40, concurrency=2)
    page = watch(visit, server, job)
    page.route("**/pause", lambda route: route.fulfill(status=status_code, body=body, content_type=kind))
    button(page, "Pause").click()
    form = page.locator("#act-hold")
    expect(alert(form)).to_contain_text(said)
    expect(alert(form)).not_to_contain_text("<html>")
    api.answer(6)
    until(lambda: done(page) >= 6)
    expect(alert(form)).to_contain_text(said)
    page.unroute_all()
    button(page, "Pause").click()
    expect(status(page)).to_have_text("Paused")
    expect(alert(form)).to_be_empty()


@pytest.mark.parametrize(
    "secure", [True, False], ids=["loopback", "a name, where a browser has no Web Locks"]
)
def test_seven_windows_over_plain_http_share_a_stream_and_hear_their_presses(
    serve: Callable[..., Server],
    api: Api,
    visit: Opens,
    own_context: Callable[..., BrowserContext],
    secure: bool,
) -> None:
    server = serve("--api-url", api.url, "--public-url", "http://rowcast.test")
    api.stall()
    jobs = [server.begin(limit=60, concurrency=1) for _ in range(7)]
    # asked as a proxy is, the server answers for the name
    context = own_context() if secure else own_context(proxy={"server": server.url})
    base = server.url if secure else "http://rowcast.test"
    if not secure:  # by a name others might ask, too: who is it?
        sign_in_as_admin(server, context, base)
    # Chromium notes at a name without TLS that it heeds one header less
    pages = [visit(f"{base}/jobs/{job}", context=context) for job in jobs]
    assert pages[0].evaluate("isSecureContext") is secure
    for page in pages:
        expect(page.locator("body")).to_have_attribute("data-live", "live")
    until(lambda: server.streams() == 1)
    for page in pages:
        button(page, "Pause").click()
        expect(status(page)).to_have_text("Paused")
    pages[0].close(run_before_unload=True)  # as a person closes it
    for page in pages[1:]:
        button(page, "Cancel").click()
        expect(status(page)).to_have_text("Cancelled")


def sign_in_as_admin(server: Server, context: BrowserContext, base: str) -> None:
    """In that browser, and for the tests' own client."""
    path = str(server.directory / "data" / "rowcast.db")
    password = "a bicycle over twelve mountains"
    Accounts(path).add("anna", "admin", password)
    server.client.headers["Authorization"] = f"Bearer {Tokens(path).add('anna', 'the tests', 'write')[0]}"
    close_databases()
    page = context.new_page()
    page.goto(f"{base}/sign-in")
    page.get_by_label("Name").fill("anna")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_title("Jobs · Rowcast")
    page.close()


def test_another_profile_has_its_own_stream_and_seven_windows_outlive_a_frozen_server(
    server: Server,
    api: Api,
    frozen: Callable[[], None],
    visit: Opens,
    own_context: Callable[..., BrowserContext],
) -> None:
    api.stall()
    job = server.begin(limit=60, concurrency=2)
    usual = own_context()
    incognito = own_context(**PHONE)
    pages = [watch(visit, server, job, context=usual) for _ in range(7)]
    pages.append(watch(visit, server, job, context=incognito))
    until(lambda: server.streams() == 2)
    frozen()
    for page in pages:
        expect(page.locator("body")).to_have_attribute("data-live", "offline", timeout=WITHIN)
    thaw(server)
    for page in pages:
        expect(page.locator("body")).to_have_attribute("data-live", "live", timeout=WITHIN)
    until(lambda: server.streams() == 2)
    button(pages[3], "Pause").click()
    for page in pages:
        expect(status(page)).to_have_text("Paused")


def lose_the_answer(route: Route) -> None:
    """The server hears it, and its answer does not arrive."""
    route.fetch(max_redirects=0)
    route.abort()


def number_of_jobs(server: Server) -> int:
    return len(server.client.get("/api/jobs", params={"limit": 1000}).json()["jobs"])


def test_a_start_whose_answer_was_lost_is_pressed_again_and_started_once(
    server: Server, visit: Opens
) -> None:
    page = visit(server.url)
    form = start_of(page, "counter")
    start = form.get_by_role("button", name="Start")
    before = number_of_jobs(server)
    page.route("**/jobs", lose_the_answer, times=1)
    start.click()
    expect(alert(form)).to_contain_text("cannot be reached")
    assert number_of_jobs(server) == before + 1
    start.click()
    expect(page).to_have_url(re.compile(r"/jobs/\d+"))
    first = page.url
    assert number_of_jobs(server) == before + 1
    page.go_back()
    start_of(page, "counter")
    start.click()
    expect(page).to_have_url(re.compile(r"/jobs/\d+"))
    assert page.url != first, "what was answered is over: this is another start"
    assert number_of_jobs(server) == before + 2
    again = page.locator("#act-again").get_by_role("button")
    page.route("**/again", lose_the_answer, times=1)
    again.click()
    expect(alert(page.locator("#act-again"))).to_contain_text("cannot be reached")
    second = page.url
    again.click()
    expect(page).not_to_have_url(second)
    assert number_of_jobs(server) == before + 3


def test_a_start_that_was_changed_since_is_another_one(server: Server, visit: Opens) -> None:
    page = visit(server.url)
    form = start_of(page, "counter")
    before = number_of_jobs(server)
    page.route("**/jobs", lose_the_answer, times=1)
    form.get_by_role("button", name="Start").click()
    expect(alert(form)).to_contain_text("cannot be reached")
    form.get_by_label("Loops").fill("2")
    form.get_by_role("button", name="Start").click()
    expect(page).to_have_url(re.compile(r"/jobs/\d+"))
    assert number_of_jobs(server) == before + 2


def test_the_frame_that_tells_of_a_resume_says_when_each_row_comes_again(
    server: Server, visit: Opens
) -> None:
    job = server.begin("chores", items=["tomorrow"])
    until(lambda: [one["attempt"] for one in server.items(job) if one["status"] == "queued"] == [1])
    server.act(job, "pause")
    page = watch(visit, server, job)
    row = page.locator("#items > tr")
    expect(row).to_contain_text("when resumed")
    page.evaluate(
        """() => { window.seen = []; document.addEventListener('htmx-after-swap', () => seen.push([
            document.getElementById('job-status').dataset.status,
            document.querySelector('#items > tr').textContent.includes('when resumed')])) }"""
    )
    button(page, "Resume").click()
    expect(status(page)).to_have_text("Running")
    expect(row).not_to_contain_text("when resumed")
    told = page.evaluate("window.seen")
    assert ["running", False] in told and ["running", True] not in told
    server.act(job, "cancel")
