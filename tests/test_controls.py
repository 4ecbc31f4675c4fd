"""What a person does to one row, to a job's pace, to its start and by the clock, on the page in a real Chromium."""

import re

from on_page import FILES as CHORES
from on_page import FLAGS, Opens, button, people, start_of, status, watch
from playwright.sync_api import Dialog, expect
from servers import Api, Server, until

__all__ = ["FLAGS"]  # of the module's server

FILES = {
    "chores.py": CHORES["chores.py"]
    + """
import os

@task(idempotent=False, max_attempts=1)
async def once(item: str):
    "What may not be repeated."
    if item == "fatal":
        await asyncio.sleep(0.3)
        os._exit(1)
    await asyncio.sleep(60)
"""
}


def test_one_row_is_tried_again_and_the_others_are_left_alone(server: Server, open_page: Opens) -> None:
    job = server.begin("chores", items=["lost one", "lost two", "fine"])
    server.ended(job)
    page = watch(open_page, server, job)
    button(page, "Retry lost one").click()
    expect(page.locator("#items > tr", has_text="lost one").locator(".try")).to_have_text("2")
    expect(page.locator("#items > tr", has_text="lost two").locator(".try")).to_have_text("1")
    expect(status(page)).to_have_text("Completed with failures")
    assert sorted(item["attempt"] for item in server.items(job)) == [1, 1, 2]


def test_a_person_is_asked_before_what_may_have_arrived_is_sent_again(
    server: Server, open_page: Opens
) -> None:
    job = server.begin("once", items=["fatal", "slow"])
    page = watch(open_page, server, job)
    asked = []
    answers = ["dismiss", "accept"]

    def answer(dialog: Dialog) -> None:
        asked.append(dialog.message)
        getattr(dialog, answers[len(asked) - 1])()

    page.on("dialog", answer)
    button(page, "Retry unknown (2)").click()
    until(lambda: page.title() and asked)
    assert server.items(job)[0]["attempt"] == 1
    button(page, "Retry unknown (2)").click()
    until(lambda: page.title() and server.items(job)[0]["attempt"] == 2)
    assert asked == ["2 of these items may have arrived, and this would send them once more. Do it?"] * 2


def test_what_may_have_arrived_is_shown_as_such_and_marked_done_by_a_person(
    server: Server, open_page: Opens
) -> None:
    job = server.begin("once", items=["fatal", "slow"])
    page = watch(open_page, server, job)
    unknown = page.locator("#items > tr[data-status=unknown]")
    expect(unknown).to_have_count(2)
    expect(unknown.first).to_contain_text("may or may not have arrived")
    page.once("dialog", lambda question: question.accept())
    button(page, "Mark unknown as done (2)").click()
    expect(page.locator("#items > tr[data-status=completed]")).to_have_count(2)
    done = server.job(job)
    assert (done["completed"], done["unknown"]) == (2, 0)


def test_the_pace_is_changed_while_the_job_runs_and_a_wrong_one_is_refused_in_place(
    server: Server, api: Api, open_page: Opens, visit: Opens
) -> None:
    server.users(*people(200))
    api.latency(20)
    job = server.begin(concurrency=2, rate="2/s")
    wrong = visit(f"{server.url}/jobs/{job}")  # the browser notes each answer that is no success
    wrong.locator("#pace summary").click()
    wrong.get_by_role("textbox", name="at most").fill("fast")
    button(wrong, "Change").click()
    expect(wrong.locator("#pace .error")).to_contain_text("'fast'")
    page = open_page(f"{server.url}/jobs/{job}")
    page.locator("#pace summary").click()
    page.get_by_label("At once").fill("20")
    page.get_by_role("textbox", name="at most").fill("")
    button(page, "Change").click()
    expect(status(page)).to_have_text("Completed")  # at two in a second it would take 100 seconds
    assert server.ended(job)["completed"] == 200


def test_a_canary_set_in_the_forms_options_waits_for_a_go(server: Server, open_page: Opens) -> None:
    page = open_page(server.url)
    form = start_of(page, "chores")
    form.get_by_label("Items").fill("a\nb\nc\nd\ne")
    form.get_by_text("Options").click()
    form.get_by_label("Canary").fill("2")
    form.get_by_role("button", name="Start").click()
    expect(page).to_have_url(re.compile(r"/jobs/\d+"))
    expect(status(page)).to_have_text("Paused")
    expect(page.locator("#head")).to_contain_text("The canary is over: 2 completed")
    button(page, "Resume").click()
    expect(status(page)).to_have_text("Completed")


def test_the_same_job_is_started_again_with_a_button(server: Server, open_page: Opens) -> None:
    job = server.begin("chores", items=["fine", "finer"], concurrency=2)
    server.ended(job)
    page = watch(open_page, server, job)
    button(page, "Run again").click()
    expect(page).to_have_url(re.compile(rf"/jobs/(?!{job}\b)\d+"))
    expect(status(page)).to_have_text("Completed")
    again = server.job(int(page.url.rpartition("/")[2].partition("?")[0]))
    assert (again["args"], again["completed"]) == (server.job(job)["args"], 2)


def test_a_schedule_is_added_paused_and_deleted_on_its_page(server: Server, open_page: Opens) -> None:
    page = open_page(f"{server.url}/schedules")
    page.get_by_label("Task").select_option("counter")
    page.get_by_label("Cron").fill("0 6 * * *")
    page.get_by_label("Time zone").fill("Europe/Berlin")
    button(page, "Add").click()
    row = page.locator("tr[id^=schedule-]")
    expect(row).to_contain_text("Europe/Berlin")
    row.get_by_role("button", name="Pause").click()
    expect(row).to_contain_text("Paused")
    row.get_by_role("button", name="Resume").click()
    expect(row.get_by_role("button", name="Pause")).to_be_visible()
    page.once("dialog", lambda question: question.dismiss())
    row.get_by_role("button", name="Delete").click()
    assert len(server.client.get("/api/schedules").json()["schedules"]) == 1
    page.once("dialog", lambda question: question.accept())
    row.get_by_role("button", name="Delete").click()
    expect(row).to_have_count(0)
    until(lambda: server.client.get("/api/schedules").json()["schedules"] == [])


def test_a_form_that_htmx_does_not_know_yet_asks_too(server: Server, open_page: Opens) -> None:
    page = open_page(f"{server.url}/schedules")
    page.get_by_label("Task").select_option("counter")
    page.get_by_label("Cron").fill("0 6 * * *")
    button(page, "Add").click()
    row = page.locator("tr[id^=schedule-]")
    expect(row).to_have_count(1)
    row.evaluate("row => row.replaceWith(row.cloneNode(true))")  # as it stands there in the moment before
    asked = list[str]()
    page.once("dialog", lambda question: (asked.append(question.message), question.dismiss()))
    row.get_by_role("button", name="Delete").click()
    until(lambda: asked or page.wait_for_timeout(50))
    (left,) = server.client.get("/api/schedules").json()["schedules"]
    assert server.client.delete(f"/api/schedules/{left['id']}").is_success
