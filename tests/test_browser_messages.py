"""Who is told, on the page: at the start, while a job runs, and what came of it, live."""

import json
from collections.abc import Callable, Iterator

import pytest
from conftest import Server, until
from on_page import Opens, button, live, start_of
from playwright.sync_api import Locator, Page, expect
from receiver import Receiver, receiving

ENTRY = "#messages .message"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Server]:
    usual = [{"channel": "webhook", "to": f"{receiver.url}/ok/usual", "on": ["completed"]}]
    directory = tmp_path_factory.mktemp("server")
    made = Server(directory, "--notify-hosts", "127.0.0.1", "--notify", json.dumps(usual))
    yield made
    made.stop()
    made.client.close()


def form_of(page: Page, task: str = "counter") -> Locator:
    form = start_of(page, task)
    form.get_by_text("Tell me when this is done").click()
    return form


def test_whom_the_server_tells_is_shown_and_can_be_taken_off_and_others_are_typed(
    server: Server, receiver: Receiver, open_page: Opens
):
    page = open_page(server.url)
    form = form_of(page)
    expect(form.get_by_text("Tell me when this is done (1)")).to_be_visible()
    form.get_by_label("/ok/usual").uncheck()
    form.get_by_label("Webhook", exact=True).fill(f"{receiver.url}/ok/typed, {receiver.url}/ok/also")
    form.get_by_label("was cancelled").uncheck()
    form.get_by_label("Loops").fill("1")
    button(form, "Start").click()
    expect(page.locator(ENTRY)).to_have_count(2)
    expect(page.locator(f"{ENTRY}[data-status=delivered]")).to_have_count(2)  # it came by the stream
    expect(live(page)).to_have_text("Up to date")
    assert receiver.at("/ok/usual") == []
    job = int(page.url.rsplit("/", 1)[1])
    (rule, _) = server.client.get(f"/api/jobs/{job}/notify").json()["notify"]
    assert rule["on"] == ["completed", "failed", "paused"]


def test_an_address_that_cannot_be_is_refused_beside_its_button(server: Server, visit: Opens):
    page = visit(server.url)
    form = form_of(page)
    form.get_by_label("Mail to").fill("ann at example.com")
    button(form, "Start").click()
    expect(form.get_by_role("alert")).to_have_text("notify: 'ann' is no mailbox, like ann@example.com.")
    form.get_by_label("Mail to").fill("")
    form.get_by_label("Webhook", exact=True).fill("http://10.0.0.1/")
    button(form, "Start").click()
    expect(form.get_by_role("alert")).to_contain_text("10.0.0.1 is not public")


def test_what_is_given_up_is_sent_again_from_the_page_at_rest(
    server: Server, receiver: Receiver, open_page: Opens
):
    job = server.begin("counter", loops=1, notify=[{"channel": "webhook", "to": f"{receiver.url}/gone/page"}])
    path = f"/api/jobs/{job}/deliveries"
    until(lambda: [one["status"] for one in server.client.get(path).json()] == ["failed"])
    page = open_page(f"{server.url}/jobs/{job}")
    expect(page.locator(ENTRY)).to_contain_text("Given up")
    expect(live(page)).to_have_text("Up to date")
    button(page, "Send again to").click()
    expect(page.locator(ENTRY)).to_contain_text("2 tries")
    assert len({got.ident for got in receiver.at("/gone/page")}) == 1


def test_who_is_told_is_changed_on_the_page_of_a_job_that_waits(
    server: Server, receiver: Receiver, open_page: Opens
):
    job = server.begin(limit=3, canary=1, notify=[])
    until(lambda: server.job(job)["status"] == "paused")
    page = open_page(f"{server.url}/jobs/{job}")
    page.locator("#tell").get_by_text("Tell me when this is done").click()
    page.locator("#tell").get_by_label("Webhook", exact=True).fill(f"{receiver.url}/ok/later")
    button(page, "Change").click()
    expect(page.locator("#tell")).to_contain_text("Tell me when this is done (1)")
    button(page, "Resume").click()
    expect(page.locator(f"{ENTRY}[data-status=delivered]")).to_have_count(1)
    expect(page.locator("#tell")).to_be_hidden()


def test_a_secret_is_shown_once_on_the_page_of_messages(server: Server, open_page: Opens):
    page = open_page(f"{server.url}/messages")
    page.get_by_label("Address").fill("https://hooks.example.com/one")
    button(page, "Make its secret").click()
    first = page.locator("#secret").inner_text()
    assert first.startswith("whsec_")
    page.goto(f"{server.url}/messages")
    expect(page.locator("#secret")).to_have_count(0)
    button(page, "Rotate: hooks.example.com/one").click()
    assert page.locator("#secret").inner_text() not in ("", first)
    expect(page.locator("#webhooks")).to_contain_text("the one before is valid until")


def test_the_list_of_jobs_says_that_the_last_messages_were_not_delivered(
    serve: Callable[..., Server], receiver: Receiver, open_page: Opens
):
    server = serve("--notify-hosts", "127.0.0.1")
    page = open_page(server.url)
    expect(page.locator("#failing")).to_have_count(0)
    rule = {"channel": "webhook", "to": f"{receiver.url}/gone/all"}
    for _ in range(3):
        server.ended(server.begin("counter", loops=1, notify=[rule]))
    until(lambda: "3 in the last seven days, 3 not delivered" in server.client.get("/messages").text)
    expect(page.locator("#failing")).to_contain_text("The last 3 messages were not delivered: 127.0.0.1")
    # the picker, which is open while there are no jobs, lies over it no longer
    expect(page.locator("#start")).not_to_have_attribute("open", "")
    page.locator("#failing").get_by_role("link").click()
    expect(page.locator("tr[data-status=failed]")).to_have_count(3)
