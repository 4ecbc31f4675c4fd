"""What a person does on the page in a real Chromium, and what every tab learns of it."""

import sqlite3
import time

from on_page import FILES, FLAGS, Opens, button, live, people, start_of, status, watch
from playwright.sync_api import APIResponse, Route, expect
from servers import PATIENCE, Api, Server, until

__all__ = ["FILES", "FLAGS"]  # of the module's server


def test_two_tabs_follow_pause_resume_and_cancel(server: Server, api: Api, open_page: Opens) -> None:
    server.users(*people(200))
    api.stall()
    api.latency(100)  # so that nothing is claimed ahead
    job = server.begin(concurrency=4)
    one = watch(open_page, server, job)
    other = watch(open_page, server, job, context=one.context)
    button(one, "Pause").click()
    for page in (one, other):
        expect(status(page)).to_have_text("Paused")
        expect(page.locator("#note")).to_contain_text("nothing new starts until you resume it")
    until(lambda: api.answer_waiting() or server.job(job)["running"] == 0)
    button(other, "Resume").click()
    for page in (one, other):
        expect(status(page)).to_have_text("Running")
    button(one, "Cancel").click()
    for page in (one, other):
        expect(status(page)).to_have_text("Cancelled")
        expect(page.locator(".facts")).to_contain_text("cancelled")
        expect(live(page)).to_have_text("Up to date")


def test_a_retry_in_one_tab_wakes_the_others_that_are_at_rest(server: Server, open_page: Opens) -> None:
    job = server.begin("chores", items=["lost one", "lost two", "fine"])
    one = watch(open_page, server, job)
    other = watch(open_page, server, job, context=one.context)
    for page in (one, other):
        expect(live(page)).to_have_text("Up to date")
    button(one, "Retry failed (2)").click()
    for page in (one, other):
        expect(page.locator("#items > tr[data-status=failed] .try").first).to_have_text("2")
        expect(live(page)).to_have_text("Up to date")


def test_retrying_one_group_of_errors_leaves_the_others(server: Server, open_page: Opens) -> None:
    job = server.begin("chores", items=["lost one", "lost two", "broken one", "fine"])
    server.ended(job)
    page = watch(open_page, server, job)
    page.locator(".grp", has_text="nobody knows").get_by_role("button", name="Retry these").click()
    until(lambda: sorted(item["attempt"] for item in server.items(job)) == [1, 1, 2, 2])
    expect(page.locator("#items > tr", has_text="lost one").locator(".try")).to_have_text("2")
    expect(page.locator("#items > tr", has_text="broken one").locator(".try")).to_have_text("1")


def test_a_double_click_or_a_key_held_down_acts_once(server: Server, api: Api, open_page: Opens) -> None:
    server.users(*people(100))
    api.stall()
    page = watch(open_page, server, server.begin(concurrency=2))
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
    server: Server, api: Api, open_page: Opens
) -> None:
    server.users(*people(100))
    api.stall()
    page = watch(open_page, server, server.begin(concurrency=2))
    late: list[tuple[Route, APIResponse]] = []
    page.route("**/pause", lambda route: late.append((route, route.fetch())))
    button(page, "Pause").focus()
    page.keyboard.press("Enter")
    button(page, "Resume").press("Enter")
    until(lambda: page.title() and late)
    for route, answer in late:
        route.fulfill(response=answer)
    expect(status(page)).to_have_text("Running")


def test_the_list_of_jobs_is_live(server: Server, api: Api, open_page: Opens) -> None:
    server.users(*people(24))
    api.stall()
    page = open_page(server.url)
    expect(live(page)).to_have_text("Live")
    job = server.begin(concurrency=4)
    row = page.locator(f"#job-{job}")
    expect(row).to_contain_text("Running")
    expect(page.locator("#jobs > [id^=job-]").first).to_have_id(f"job-{job}")
    bar = row.get_by_role("progressbar")
    first = int(bar.get_attribute("aria-valuenow") or 0)
    api.answer(8)
    until(lambda: int(bar.get_attribute("aria-valuenow") or 0) > first)
    api.answer()
    expect(row).to_contain_text("Completed")
    expect(row).to_contain_text("24 of 24")
    row.get_by_role("link", name="update_users").click()
    expect(status(page)).to_have_text("Completed")


def test_a_job_leaves_the_list_of_running_ones_when_it_ends(
    server: Server, api: Api, open_page: Opens
) -> None:
    server.users(*people(20))
    api.stall()
    page = open_page(f"{server.url}/?status=running")
    expect(page.get_by_text("No job is running.")).to_be_visible()
    row = page.locator(f"#job-{server.begin(concurrency=4)}")
    expect(row).to_be_visible()
    api.answer()
    expect(row).to_have_count(0)
    expect(page.get_by_text("No job is running.")).to_be_visible()


def test_a_job_with_failed_items_is_listed_with_failures_until_they_are_retried(
    server: Server, open_page: Opens
) -> None:
    server.users(*people(3), *people(1, "heals"))
    page = open_page(f"{server.url}/")
    page.get_by_role("link", name="With failures").click()
    job = server.begin()
    expect(page.locator(f"#job-{job}")).to_contain_text("Completed with failures")
    page.reload()
    expect(page.locator(f"#job-{job}")).to_be_visible()
    server.client.post(f"/api/jobs/{job}/retry").raise_for_status()
    expect(page.locator(f"#job-{job}")).to_have_count(0)


def test_a_job_that_ends_moves_below_what_moves_and_takes_the_focus_with_it(
    server: Server, api: Api, open_page: Opens
) -> None:
    server.users(*people(8))
    api.stall()
    page = open_page(server.url)
    expect(live(page)).to_have_text("Live")
    long = server.begin(concurrency=4)
    short = server.begin("counter", loops=1)
    expect(page.locator("#part-over + [id^=job-]")).to_have_id(f"job-{short}")
    expect(page.locator("#part-now + [id^=job-]")).to_have_id(f"job-{long}")
    link = page.locator(f"#job-{long}").get_by_role("link", name="update_users")
    link.focus()
    api.answer()
    expect(page.locator("#part-over + [id^=job-]")).to_have_id(f"job-{long}")  # it was the last to end
    expect(page.locator(f"#job-{long} + [id^=job-]")).to_have_id(f"job-{short}")
    expect(link).to_be_focused()


def test_a_refused_start_is_said_at_its_form(server: Server, visit: Opens) -> None:
    page = visit(server.url)
    form = start_of(page, "update_users")
    form.get_by_label("Limit").fill("0")
    form.get_by_role("button", name="Start").click()
    expect(form.get_by_role("alert")).to_have_text("limit is a number from 1, or empty for all users.")
    assert page.url == f"{server.url}/"


def test_the_page_of_workers_follows_them_and_greys_the_dead(server: Server, visit: Opens) -> None:
    page = visit(f"{server.url}/workers")
    row = page.locator("#workers tbody tr").first
    expect(row).to_contain_text("Ready")
    job = server.begin("counter", loops=30)
    expect(row).to_contain_text("Working")
    server.client.post(f"/api/jobs/{job}/cancel")
    expect(row).to_contain_text("Ready")
    conn = sqlite3.connect(server.directory / "data" / "rowcast.db", timeout=PATIENCE)
    with conn:
        conn.execute(
            "insert into workers (id, host, pid, engine, version, started_at, lease, done)"
            " values ('lost', 'far', 1, 'background', '0', ?, ?, 7)",
            (time.time(), time.time() - 9),
        )
    conn.close()
    gone = page.locator("#worker-lost")
    expect(gone).to_contain_text("Gone")
    expect(gone).to_have_class("gone")
