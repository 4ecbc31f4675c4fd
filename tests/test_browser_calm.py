"""What frames must not disturb on the page in a real Chromium, how fresh it is, and what it asks of the server."""

import re
from collections.abc import Callable

from on_page import FILES, FLAGS, Opens, but_its_icon, button, done, live, people, rows, status, watch
from playwright.sync_api import BrowserContext, Route, expect
from servers import Api, Server, until

__all__ = ["FILES", "FLAGS"]  # of the module's server


# ---- calm: what frames must not disturb ----------------------------------------------------------------------------


def test_the_focus_stays_on_the_button_and_on_the_list_while_frames_come(
    server: Server, api: Api, open_page: Opens
) -> None:
    server.users(*people(200))
    api.stall()
    job = server.begin(concurrency=4)
    page = watch(open_page, server, job)
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
    listed = open_page(server.url, context=page.context)
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


def test_selected_text_stays_selected_while_frames_come(server: Server, api: Api, open_page: Opens) -> None:
    server.users(*people(100))
    api.stall()
    page = watch(open_page, server, server.begin(concurrency=4))
    page.locator("#items > tr[data-status=running]").first.wait_for()
    row, key = page.evaluate(
        """() => { const row = document.querySelector('#items > tr[data-status=running]'), key = row.querySelector('.key');
        getSelection().selectAllChildren(key); return [row.id, key.textContent] }"""
    )
    api.answer()  # all: what is running here may be one that waits behind others in its worker
    expect(page.locator(f"#{row}")).to_have_attribute("data-status", "completed")
    assert page.evaluate("String(getSelection())") == key


def test_columns_and_rows_keep_their_sizes_while_rows_stream(
    server: Server, api: Api, open_page: Opens
) -> None:
    server.users(
        *people(30), *people(8, "once"), *people(30, "a-much-longer-name-than-anyone-would-expect-to-have")
    )
    api.stall()
    api.latency(100)
    page = watch(open_page, server, server.begin(concurrency=6))
    sizes = """[...document.querySelectorAll('.items th')].map(cell => Math.round(cell.getBoundingClientRect().width))
        .concat([...new Set([...document.querySelectorAll('#items > tr')].map(row => Math.round(row.offsetHeight)))])"""
    until(lambda: rows(page))
    seen = {tuple(page.evaluate(sizes))}
    api.answer()
    while page.locator("#summary").get_attribute("data-rest") == "false":
        seen.add(tuple(page.evaluate(sizes)))
    assert len(seen) == 1, seen


def test_times_are_the_viewers_own(server: Server, api: Api, open_page: Opens) -> None:
    server.users(*people(40))
    api.stall()
    page = watch(open_page, server, server.begin(concurrency=4), timezone_id="Asia/Tokyo")
    page.evaluate(
        """() => { window.wrong = []; new MutationObserver(() => {
            for (const time of document.querySelectorAll('main time')) {
                const tokyo = new Date(time.dateTime).toLocaleTimeString('en-GB', {timeZone: 'Asia/Tokyo'});
                const shown = 'minute' in time.dataset ? tokyo.slice(0, 5) : tokyo;
                if (time.textContent !== shown) wrong.push([time.textContent, shown]);
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
    server: Server, api: Api, open_page: Opens
) -> None:
    server.users(*people(110), *people(2, "gone"))
    api.stall()
    page = watch(open_page, server, server.begin(concurrency=4))
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


def test_reduced_motion_is_kept(server: Server, api: Api, open_page: Opens) -> None:
    server.users(*people(20))
    api.stall()
    page = watch(open_page, server, server.begin(concurrency=2), reduced_motion="reduce")
    page.locator("#items .s-running svg").first.wait_for()
    style = "(place, name) => getComputedStyle(document.querySelector(place))[name]"
    assert page.evaluate(f"({style})('#items .s-running svg', 'animationName')") == "none"
    assert page.evaluate(f"({style})('#head .bar rect', 'transitionDuration')") == "0s"
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(f"({style})('#items .s-running svg', 'animationName')") == "turn"


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


def test_a_first_connection_that_fails_is_tried_again(server: Server, api: Api, visit: Opens) -> None:
    server.users(*people(80))
    api.stall()
    page = visit("about:blank")
    tried = 0

    def refuse_twice(route: Route) -> None:
        nonlocal tried
        tried += 1
        if tried == 1:
            route.abort()
        elif tried == 2:
            route.fulfill(status=503)
        else:
            route.continue_()

    page.route("**/events?*", refuse_twice)
    page.add_init_script(
        """window.said = []; new MutationObserver(() => {
            const word = document.querySelector('#live-word')?.textContent;
            if (word && said.at(-1) !== word) said.push(word);
        }).observe(document, {childList: true, subtree: true, characterData: true})"""
    )
    page.goto(f"{server.url}/jobs/{server.begin(concurrency=4)}")
    expect(live(page)).to_have_text("Live")
    *before, last = page.evaluate("said")
    assert "Offline" in before and last == "Live"
    assert tried == 3


def test_scripts_that_come_late_still_start_the_stream(server: Server, api: Api, visit: Opens) -> None:
    server.users(*people(60))
    api.stall()
    page = visit("about:blank")
    page.route("**/hx-*.js", lambda route: (page.wait_for_timeout(700), route.continue_()))
    page.goto(f"{server.url}/jobs/{server.begin(concurrency=4)}")
    expect(live(page)).to_have_text("Live")


def is_of_news(url: str) -> bool:
    """Whether a request is of the stream by which each page is told news, and of nothing else."""
    return "/events?" in url and "news" in url and "job" not in url


def test_after_the_end_the_page_asks_for_nothing_more_but_news(
    server: Server, api: Api, open_page: Opens, own_context: Callable[..., BrowserContext]
) -> None:
    server.users(*people(20))
    api.stall()
    page = open_page("about:blank", own_context())
    page.clock.install()
    page.goto(f"{server.url}/jobs/{server.begin(concurrency=4)}")
    expect(live(page)).to_have_text("Live")
    requests: list[str] = []
    page.on("request", lambda r: requests.append(r.url))
    api.answer()
    expect(live(page)).to_have_text("Up to date")
    expect(page.locator("#favicon")).to_have_attribute("href", "/static/icon-completed.svg")
    requests.clear()
    page.clock.run_for(60_000)
    assert [url for url in but_its_icon(requests) if not is_of_news(url)] == []


def test_a_finished_jobs_page_opens_no_stream_but_that_of_the_news(
    server: Server, api: Api, open_page: Opens
) -> None:
    server.users(*people(3))
    job = server.begin()
    server.ended(job)
    page = watch(open_page, server, job)
    expect(live(page)).to_have_text("Up to date")
    assert page.locator("#feed").count() == 0


def test_no_request_goes_to_another_host(server: Server, api: Api, open_page: Opens) -> None:
    server.users(*people(10), *people(2, "gone"))
    page = open_page(server.url)
    hosts: set[str] = set()
    page.context.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    job = server.begin()
    for path in ("/", f"/jobs/{job}", f"/jobs/{job}?view=failed", f"/jobs/{job}/results", "/users"):
        page.goto(server.url + path)
        page.wait_for_load_state("load")
    assert hosts == {server.url.removeprefix("http://")}


def test_a_hidden_tabs_title_and_icon_follow_without_a_stream_of_its_own(
    server: Server, api: Api, open_page: Opens
) -> None:
    server.users(*people(40))
    api.stall()
    page = watch(open_page, server, server.begin(concurrency=4))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate(
        "() => { Object.defineProperty(document, 'hidden', {get: () => window.away ?? true, configurable: true});"
        " document.dispatchEvent(new Event('visibilitychange')) }"
    )
    expect(page.locator("body")).to_have_attribute("data-live", "polling")
    until(lambda: page.title() and any(is_of_news(url) for url in asked))
    api.answer()
    expect(page).to_have_title(re.compile("^✓"))
    assert done(page) < 40
    page.evaluate("() => { window.away = false; document.dispatchEvent(new Event('visibilitychange')) }")
    expect(live(page)).to_have_text("Up to date")
    assert done(page) == 40
