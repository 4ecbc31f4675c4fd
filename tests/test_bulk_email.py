"""The built-in task bulk_email: a template, its preview, and a real SMTP server that has bad days."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE, Server, until
from on_page import start_of
from post_office import PostOffice

TEMPLATE = {
    "subject": "News for {first_name|you}",
    "text": "Hello {first_name|there}, this is for {email}.",
    "html": "<p>Hello <b>{first_name|there}</b></p>",
    "unsubscribe": "https://example.org/off?who={email:url}",
}
OWN = '''
from rowcast import Mail, Mailer, task

@task(concurrency=1, idempotent=False, max_attempts=3, backoff=0)
async def remind(item: str, mailer: Mailer):
    """Bulk mail whose second try comes at once."""
    return await mailer.send(Mail(to=item, subject="Again", text="and again"))
'''


@pytest.fixture
def office() -> Iterator[PostOffice]:
    made = PostOffice()
    yield made
    made.stop()


@pytest.fixture
def sending(serve: Callable[..., Server], office: PostOffice, tmp_path: Path) -> Server:
    """A server that sends its mails to the post office."""
    (tmp_path / "own.py").write_text(OWN)
    return serve("--tasks", "own", "--smtp-url", office.url(), "--mail-from", "News <news@example.org>")


def people(server: Server, *rows: tuple[str, str | None]) -> None:
    """Put these into the table users, with their names."""
    path = server.directory / "data" / "rowcast.db"
    with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE)) as conn, conn:
        conn.execute("delete from users")
        with contextlib.suppress(sqlite3.OperationalError):
            conn.execute("alter table users add column first_name text")
        conn.executemany("insert into users (email, first_name) values (?, ?)", rows)


def statuses(server: Server, job: int) -> dict[str, tuple[str, int | None]]:
    return {item["key"]: (item["status"], item["code"]) for item in server.items(job)}


def test_each_user_gets_one_mail_of_the_template_over_one_connection(sending: Server, office: PostOffice):
    people(
        sending,
        ("ada@example.com", "Ada <3"),
        ("bob@example.com", None),
        ("eve@example.com", "Eve\r\nBcc: x@x"),
    )
    done = sending.ended(sending.begin("bulk_email", rate="1000/s", **TEMPLATE))
    assert (done["completed"], done["failed"], office.desk.connections) == (3, 0, 1)
    ada, bob, eve = sorted(office.mails, key=lambda mail: str(mail["To"]))
    assert (ada["Subject"], bob["Subject"]) == ("News for Ada <3", "News for you")
    assert ada.get_body(("html",)).get_content().strip() == "<p>Hello <b>Ada &lt;3</b></p>"
    assert bob.get_body(("plain",)).get_content().strip() == "Hello there, this is for bob@example.com."
    assert ada["List-Unsubscribe"] == "<https://example.org/off?who=ada%40example.com>"
    assert ada["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert eve["Subject"] == "News for Eve Bcc: x@x" and "Bcc" not in eve
    assert str(ada["From"]) == "News <news@example.org>"


def test_without_an_address_of_ones_own_who_wants_off_the_list_writes_to_the_sender(
    sending: Server, office: PostOffice
):
    people(sending, ("ada@example.com", "Ada"))
    sending.ended(sending.begin("bulk_email"))
    assert office.mails[0]["List-Unsubscribe"] == "<mailto:news@example.org?subject=unsubscribe>"


def test_each_row_says_what_became_of_its_mail(sending: Server, office: PostOffice):
    people(
        sending,
        *[(f"{kind}@example.com", None) for kind in ("ada", "gone-1", "full-1", "lost-1", "grey-1", "cut-1")],
    )
    job = sending.begin("bulk_email", rate="1000/s", **TEMPLATE)
    rows = until(lambda: (found := statuses(sending, job)) and not any(s == "running" for s, _ in found.values())
                 and sum(s == "queued" for s, _ in found.values()) == 2 and len(found) == 6 and found)  # fmt: skip
    assert rows == {
        "ada@example.com": ("completed", None), "gone-1@example.com": ("failed", 550),
        "full-1@example.com": ("failed", 552), "lost-1@example.com": ("unknown", None),
        "grey-1@example.com": ("queued", 451), "cut-1@example.com": ("queued", None),
    }  # fmt: skip
    sending.act(job, "cancel")
    assert sorted(office.to()) == ["ada@example.com", "lost-1@example.com"]


def test_a_mail_that_is_tried_again_has_the_same_message_id(sending: Server, office: PostOffice):
    job = sending.begin("remind", items=["later-1@example.com", "grey-1@example.com", "lost-1@example.com"])
    done = sending.ended(job)
    assert (done["completed"], done["unknown"]) == (2, 1)
    sending.act(job, "retry")  # by a person, who knows that it may come twice
    until(lambda: len(office.mails) == 4)
    sending.ended(job)
    lost = [str(mail["Message-ID"]) for mail in office.mails if "lost" in str(mail["To"])]
    assert len(lost) == 2 and len(set(lost)) == 1
    assert len({str(mail["Message-ID"]) for mail in office.mails}) == 3


@pytest.mark.kills
def test_a_mail_that_was_under_way_when_everything_died_is_unknown_and_not_sent_again(
    sending: Server, office: PostOffice
):
    people(sending, ("ada@example.com", None), ("wait-1@example.com", None), ("bob@example.com", None))
    job = sending.begin("bulk_email", rate="1000/s", **TEMPLATE)
    assert office.desk.waiting.wait(PATIENCE)
    sending.process.kill()
    sending.process.wait()
    sending.start()
    until(lambda: sending.job(job)["unknown"])
    office.desk.may_go.set()
    done = sending.ended(job)
    assert (done["completed"], done["unknown"]) == (2, 1)
    assert office.to() == ["ada@example.com", "wait-1@example.com", "bob@example.com"]


def test_a_column_that_is_not_there_fails_with_a_sentence_and_the_job_waits(
    sending: Server, office: PostOffice
):
    people(sending, *[(f"user{n}@example.com", None) for n in range(40)])
    job = sending.begin("bulk_email", rate="1000/s", **(TEMPLATE | {"text": "{nmae}"}))
    until(lambda: sending.job(job)["status"] == "paused")
    error = sending.items(job, status="failed")[0]["error"]
    assert "There is no column 'nmae' for {nmae}; there are email, account_updated, first_name." in error
    assert office.mails == []


# ---- the preview -------------------------------------------------------------------------------------------


def test_the_preview_shows_the_first_three_with_their_own_data_and_sends_nothing(
    sending: Server, office: PostOffice, open_page: Any
):
    people(sending, *[(f"user{n}@example.com", f"Name {n} <b>") for n in range(5)])
    page = open_page(sending.url)
    form = start_of(page, "bulk_email")
    form.get_by_label("Subject").fill("For {first_name}")
    form.get_by_role("button", name="Preview").click()
    page.wait_for_url("**/jobs/*/preview")
    page.locator("#preview iframe").nth(2).wait_for()
    shown = page.locator("#preview").inner_text()
    assert "user2@example.com" in shown and "user3@example.com" not in shown
    assert "For Name 1 <b>" in shown
    frame = page.frame_locator("#preview iframe >> nth=0")
    assert frame.locator("h1").inner_text() == "Hello Name 0 <b>"
    assert office.mails == []
    page.get_by_role("button", name="Start").click()
    page.wait_for_url(lambda url: not url.endswith("preview"))
    job = int(page.url.partition("?")[0].rpartition("/")[2])
    done = sending.ended(job)
    assert (done["total"], done["completed"], len(office.mails)) == (5, 5, 5)
    assert str(office.mails[0]["Subject"]) == "For Name 0 <b>"


def test_a_preview_comes_now_also_where_the_job_is_to_start_later(sending: Server, office: PostOffice):
    people(sending, ("ada@example.com", "Ada"))
    form = {
        "task": "bulk_email",
        "option-preview": "1",
        "option-run_at": "3600s",
        "option-canary": "1",
        **TEMPLATE,
    }
    answer = sending.client.post("/jobs", data=form)
    assert answer.status_code == 303 and answer.headers["Location"].endswith("/preview")
    job = int(answer.headers["Location"].split("/")[2])
    sending.ended(job)
    assert "News for Ada" in sending.client.get(f"/jobs/{job}/preview").text
    assert f'href="/jobs/{job}/preview"' in sending.client.get(f"/jobs/{job}").text
    assert office.mails == []


def test_a_long_mail_is_shown_as_far_as_a_preview_goes_which_says_so(sending: Server, office: PostOffice):
    people(sending, ("ada@example.com", "Ada"))
    form = {
        "task": "bulk_email",
        "option-preview": "1",
        **TEMPLATE,
        "html": '<p class="x">Hello</p>' * 10_000,
    }
    job = int(sending.client.post("/jobs", data=form).headers["Location"].split("/")[2])
    sending.ended(job)
    page = sending.client.get(f"/jobs/{job}/preview").text
    assert "It is longer than a preview shows; it is sent whole." in page
    item = sending.items(job)[0]["id"]
    html = sending.client.get(f"/jobs/{job}/preview/{item}").text
    assert html.startswith('<base target="_blank"><p class="x">Hello</p>') and 40_000 < len(html) < 50_000
