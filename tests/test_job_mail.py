"""The mail that tells how a job has ended: what it says, and how it goes out."""

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import Server, until
from post_office import PostOffice

from rowcast.messages.mail_text import bar, html_of, outcome, subject_of, text_of
from rowcast.tasks.records import ErrorGroup

LINK = "https://jobs.example.com/jobs/7"
TO = "ann@example.com"


def job(**more: Any) -> dict[str, Any]:
    return {
        "id": 7, "task": "update_users", "status": "completed", "reason": "", "total": 1000, "completed": 970,
        "failed": 30, "unknown": 0, "cancelled": 0, "started_at": "2026-11-29T12:57:31.000Z",
        "finished_at": "2026-11-29T12:58:00.000Z",
    } | more  # fmt: skip


def group(message: str, items: int, code: int | None = 422) -> ErrorGroup:
    return ErrorGroup(f"{code} {message}", code, message, items, 0.0, 0.0, message)


# ---- what it says ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "event", "said"),
    [
        (job(), "completed", "970 done, 30 failed"),
        (job(completed=1000, failed=0), "completed", "1,000 done"),
        (job(completed=967, unknown=3), "completed", "967 done, 30 failed, 3 unknown"),
        (job(total=0, completed=0, failed=0), "completed", "nothing to do"),
        (job(status="failed", completed=0, failed=1000), "failed", "1,000 failed"),
        (job(status="failed", total=0, completed=0, failed=0, reason="No module"), "failed", "failed"),
        (
            job(status="cancelled", completed=400, failed=0, cancelled=600),
            "cancelled",
            "cancelled: 400 of 1,000 done",
        ),
        (job(status="paused", completed=5, failed=0), "paused", "paused: 5 of 1,000 done"),
        (job(), "turned", "no longer well: 970 done, 30 failed"),
        (job(completed=1000, failed=0), "turned", "well again: 1,000 done"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_subject_says_what_came_of_it(told: dict[str, Any], event: str, said: str):
    assert outcome(told, event) == said
    assert subject_of(told, event) == f"update_users #7: {said}"


def test_the_text_has_counts_errors_how_long_it_took_and_one_link():
    text = text_of(
        job(), "completed", [group("address is not valid", 9), group("Timed out", 3, None)], LINK, TO
    )
    assert text.splitlines()[:3] == [
        "update_users #7: 970 done, 30 failed",
        "",
        "Took 0:29 and ended at 12:58 UTC.",
    ]
    assert "      9  422 address is not valid" in text and "      3  Timed out" in text
    assert text.count("https://") == 1 and LINK in text
    assert f"You get this because {TO} was named" in text


def test_a_night_between_an_end_and_a_retry_is_not_told_as_work():
    text = text_of(job(started_at="2026-11-28T22:00:00.000Z", spent=29.0), "completed", [], LINK, TO)
    assert "Took 0:29 and ended at 12:58 UTC." in text


class Tags(HTMLParser):
    """What there is of tags in a text of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


EVIL = '<script>alert(1)</script>" onload="x'


def test_the_html_has_one_link_nothing_from_elsewhere_and_no_tag_of_others():
    html = html_of(job(task=EVIL, reason=EVIL), "completed", [group(EVIL, 9)], LINK, EVIL)
    tags = Tags(html)
    assert tags.open == [] and {tag for tag, _ in tags.seen} == {
        "html", "head", "meta", "title", "style", "body", "table", "tr", "td", "h1", "p", "a", "span", "b"
    }  # fmt: skip
    assert [attrs["href"] for tag, attrs in tags.seen if tag == "a"] == [LINK]
    assert not any(name.startswith("on") or name == "src" for _, attrs in tags.seen for name in attrs)
    assert "url(" not in html and "@import" not in html and "https://" in html
    assert html.count("https://") == 1
    assert "prefers-color-scheme: dark" in html and 'content="light dark"' in html


@pytest.mark.parametrize(
    ("told", "widths"),
    [
        (job(), [("completed", 97), ("failed", 3)]),
        (job(completed=999, failed=1), [("completed", 99), ("failed", 1)]),
        (job(total=1_000_000, completed=999_999, failed=1), [("completed", 99), ("failed", 1)]),
        (job(completed=0, failed=1000), [("failed", 100)]),
        (job(completed=333, failed=333, unknown=334), [("completed", 34), ("failed", 33), ("unknown", 33)]),
        (job(status="paused", completed=100, failed=0), [("completed", 10), ("left", 90)]),
    ],
    ids=str,
)
def test_the_bar_is_cells_of_a_table_with_colours_of_their_own(
    told: dict[str, Any], widths: list[tuple[str, int]]
):
    cells = [attrs for tag, attrs in Tags(bar(told)).seen if tag == "td"]
    assert [(cell["class"], int(str(cell["width"]).rstrip("%"))) for cell in cells] == widths
    assert all(re.fullmatch("#[0-9a-f]{6}", str(cell["bgcolor"])) for cell in cells)
    assert sum(width for _, width in widths) == 100


def test_of_a_job_without_items_there_is_no_bar():
    assert bar(job(total=0, completed=0, failed=0)) == ""


def test_five_kinds_of_error_are_told_and_that_there_are_more():
    groups = [group(f"kind {n}", 10 - n) for n in range(6)]
    text, html = (make(job(), "completed", groups, LINK, TO) for make in (text_of, html_of))
    for told in (text, html):
        assert told.count("kind ") == 5 and "nd other errors" in told


# ---- how it goes out ---------------------------------------------------------------------------------------


@pytest.fixture
def office() -> Iterator[PostOffice]:
    made = PostOffice()
    yield made
    made.stop()


TASKS = '''
from rowcast import task

@task
def some(item: str):
    """Fails for what begins with a !."""
    if item.startswith("!"):
        raise ValueError(f"{item[1:]} is not valid")
'''


def deliveries(server: Server, job: int) -> list[dict[str, Any]]:
    return server.client.get(f"/api/jobs/{job}/deliveries").json()


def begin(server: Server, to: str, **more: Any) -> int:
    body = {
        "task": "some",
        "args": {"items": ["a", "b", "!c"]},
        "notify": [{"channel": "email", "to": to}],
        **more,
    }
    answer = server.client.post("/api/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def settled(server: Server, job: int, status: str) -> dict[str, Any]:
    """The job's delivery, once it is so."""
    return until(lambda: next((one for one in deliveries(server, job) if one["status"] == status), None))


def test_who_is_named_gets_a_mail_when_the_job_has_ended(
    serve: Callable[..., Server], office: PostOffice, tmp_path: Path
):
    (tmp_path / "some.py").write_text(TASKS)
    server = serve(
        "--tasks", "some", "--smtp-url", office.url(), "--mail-from", "Rowcast <jobs@example.org>",
        "--public-url", "https://jobs.example.com/tools",
    )  # fmt: skip
    job = begin(server, TO)
    told = settled(server, job, "delivered")
    assert (told["code"], told["channel"], told["to"]) == (250, "email", TO)
    (mail,) = office.mails
    assert (mail["Subject"], mail["To"]) == (f"some #{job}: 2 done, 1 failed", TO)
    assert str(mail["From"]) == "Rowcast <jobs@example.org>"
    assert mail["Message-ID"] == f"<{told['id']}@example.org>" and mail["Auto-Submitted"] == "auto-generated"
    for part in ("plain", "html"):
        content = mail.get_body((part,)).get_content()
        assert f"https://jobs.example.com/tools/jobs/{job}" in content and "c is not valid" in content
    gone = begin(server, "gone-1@example.com")
    told = settled(server, gone, "failed")
    assert (told["code"], told["error"], told["attempts"]) == (550, "5.1.1 no such user", 1)
    # what was refused at first, or lost after its text, comes again under the same id
    for to, mails in (("grey-1@example.com", 1), ("lost-1@example.com", 2)):
        before = len(office.mails)
        again = begin(server, to)
        until(lambda again=again: any(one["attempts"] >= 2 for one in deliveries(server, again)))
        until(lambda before=before, mails=mails: len(office.mails) >= before + mails)
        assert len({str(mail["Message-ID"]) for mail in office.mails[before:]}) == 1


def test_without_a_mail_server_it_comes_into_the_mailbox(serve: Callable[..., Server], tmp_path: Path):
    (tmp_path / "some.py").write_text(TASKS)
    server = serve("--tasks", "some")
    job = begin(server, TO)
    settled(server, job, "delivered")
    page = server.client.get("/mailbox", params={"job": job}).text
    assert f">some #{job}: 2 done, 1 failed</a>" in page and TO in page
    number = re.search(r'href="/mailbox/(\d+)"', page)
    assert number
    html = server.client.get(f"/mailbox/{number[1]}/html").text
    assert "Open the job" in html and f"/jobs/{job}" in html
