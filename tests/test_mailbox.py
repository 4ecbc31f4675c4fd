"""The built-in mailbox: mails without a mail server, seen as their receivers would see them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Server, until
from place import OWNER

from rowcast.tables import mailbox as tables
from rowcast.tables.database import close_databases, connection
from rowcast.tables.mailbox import Mailbox
from rowcast.tables.maintenance import Keep, Maintenance
from rowcast.tables.schema import prepare
from rowcast.tasks.addresses import BadMail
from rowcast.tasks.mail import Posted
from rowcast.tasks.records import NotFound

FILES = {
    "post.py": '''
from rowcast import Mail, Mailer, task

HTML = """<h1 style="color: rgb(1, 2, 3)">Hi</h1><script>document.title = "no"</script>
<img src="http://127.0.0.1:1/x.png"><img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">
<form action="/jobs" method="post"><button>Press</button></form><a href="/">away</a>"""

@task(concurrency=3)
async def post(item: str, mailer: Mailer):
    """Send each a mail."""
    return await mailer.send(Mail(to=item, subject=f"For {item} <b>", text="Hello \u202e there", html=HTML))

@task(concurrency=1)
async def plainly(item: str, mailer: Mailer):
    """Without HTML, and twice."""
    for n in (1, 2):
        await mailer.send(Mail(to="ada@example.com", subject=f"{item} {n}", text="Hello"))
'''
}
FLAGS = ("--tasks", "post", "--mail-from", "Rowcast <jobs@example.org>")


@pytest.fixture
def box(server: Server) -> Server:
    """The module's server, with an empty mailbox."""
    server.client.post("/mailbox/clear")
    return server


def mails(server: Server, **query: Any) -> list[tuple[str, str]]:
    """Number and subject of each, as the page lists them."""
    page = server.client.get("/mailbox", params=query).text
    return re.findall(r'href="/mailbox/(\d+)">([^<]*)</a>', page)


def test_without_a_mail_server_mails_come_into_the_mailbox_which_says_how_to_name_one(box: Server):
    assert "No mail yet" in box.client.get("/mailbox").text
    job = box.begin("post", items=["ada@example.com", "bob@example.com", "no address"])
    done = box.ended(job)
    assert (done["completed"], done["failed"]) == (2, 1)
    results = [(item["status"], item["result"], item["error"]) for item in box.items(job)]
    assert results[0] == ("completed", "250 kept in the mailbox", None)
    assert results[2] == ("failed", None, "'no address' is no e-mail address.")
    page = box.client.get("/mailbox").text
    assert "--smtp-url smtp://user:password@mail.example.com:587 --mail-from" in page
    assert {subject for _, subject in mails(box)} == {
        "For ada@example.com &lt;b&gt;",
        "For bob@example.com &lt;b&gt;",
    }
    assert len(mails(box, job=job)) == 2 and mails(box, job=job + 1) == []


def test_a_mail_is_seen_as_its_receiver_sees_it_and_as_it_is(box: Server):
    box.ended(box.begin("post", items=["ada@example.com"]))
    ((number, _),) = mails(box)
    answer = box.client.get(f"/mailbox/{number}")
    assert "frame-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    page = answer.text
    for part in ("Rowcast &lt;jobs@example.org&gt;", "For ada@example.com &lt;b&gt;", "U+202E", "Message-ID"):
        assert part in page, part
    assert f'<iframe src="/mailbox/{number}/html" sandbox' in page
    assert "document.title" not in page.partition("Source")[0]


def test_a_mails_own_html_can_do_nothing(box: Server):
    box.ended(box.begin("post", items=["ada@example.com"]))
    ((number, _),) = mails(box)
    answer = box.client.get(f"/mailbox/{number}/html")
    policy = dict(
        part.strip().partition(" ")[::2] for part in answer.headers["Content-Security-Policy"].split(";")
    )
    assert policy == {
        "default-src": "'none'", "style-src": "'unsafe-inline'", "img-src": "data:", "form-action": "'none'",
        "base-uri": "'none'", "frame-ancestors": "'self'", "sandbox": "",
    }  # fmt: skip
    assert "<h1 style" in answer.text


def test_two_mails_of_one_item_are_two_and_a_try_that_is_repeated_sends_them_no_second_time(box: Server):
    job = box.begin("plainly", items=["one"])
    box.ended(job)
    assert sorted(subject for _, subject in mails(box)) == ["one 1", "one 2"]
    first, second = (box.client.get(f"/mailbox/{number}").text for number, _ in mails(box))
    ids = re.findall(r"&lt;(\d+-\d+)\.(\d)@example\.org&gt;", first + second)
    assert len({key for key, _ in ids}) == 1 and {n for _, n in ids} == {"1", "2"}


def test_what_is_not_there_is_404(box: Server):
    for path in ("/mailbox/999999", "/mailbox/999999/html", "/jobs/999999/preview"):
        assert box.client.get(path).status_code == 404, path
    box.ended(job := box.begin("plainly", items=["one"]))
    number = mails(box)[0][0]
    assert box.client.get(f"/mailbox/{number}/html").status_code == 404, "a mail without HTML"
    assert box.client.get(f"/jobs/{job}/preview").status_code == 404, "no dry run"


def test_in_a_browser_the_mail_is_drawn_and_nothing_of_it_runs_or_is_fetched(box: Server, visit: Any):
    box.ended(box.begin("post", items=["ada@example.com"]))
    ((number, _),) = mails(box)
    page = visit(f"{box.url}/mailbox")
    page.click(f"#mail-{number} a")
    frame = page.frame_locator("iframe.mail-html")
    assert frame.locator("h1").evaluate("e => getComputedStyle(e).color") == "rgb(1, 2, 3)"
    assert page.frames[1].url.endswith(f"/mailbox/{number}/html")
    frame.locator("button").click()
    frame.locator("a").click()
    assert "For ada" in page.title() and page.url.endswith(f"/mailbox/{number}")
    assert page.frames[1].url.endswith(f"/mailbox/{number}/html"), "neither form nor link goes anywhere"


def test_the_list_moves_by_itself_and_is_emptied_by_a_press(box: Server, open_page: Any):
    page = open_page(f"{box.url}/mailbox")
    assert page.locator("#mailbox .empty").is_visible()
    box.ended(box.begin("post", items=["ada@example.com"]))
    page.wait_for_selector("#mailbox tr td.subject")
    page.reload()
    page.on("dialog", lambda dialog: dialog.accept())
    page.click("text=Empty the mailbox")
    page.wait_for_selector("#mailbox .empty", state="visible")
    assert mails(box) == []


# ---- the table ---------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Mailbox]:
    prepare(str(tmp_path / "rowcast.db"))
    yield Mailbox(str(tmp_path / "rowcast.db"))
    close_databases()


def posted(number: int, size: int = 10, job: int | None = None) -> Posted:
    return Posted(f"{number}@x", "ada@example.com", f"Mail {number}", b"x" * size, job)


def subjects(mailbox: Mailbox) -> list[str]:
    return [row.subject for row in mailbox.page(OWNER)]


def test_the_same_mail_comes_in_once(kept: Mailbox):
    for number in (1, 1, 2, 1):
        kept.put(posted(number))
    assert subjects(kept) == ["Mail 2", "Mail 1"]


def test_the_oldest_leave_where_there_are_too_many(kept: Mailbox, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tables, "KEPT", 3)
    for number in range(10):
        kept.put(posted(number))
    assert subjects(kept) == ["Mail 9", "Mail 8", "Mail 7"]


def test_the_oldest_leave_where_they_are_too_large_together(kept: Mailbox, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tables, "ROOM", 100)
    for number, size in enumerate([40, 40, 40, 10]):
        kept.put(posted(number, size))
    assert subjects(kept) == ["Mail 3", "Mail 2", "Mail 1"]
    kept.put(posted(5, 1000))
    assert subjects(kept) == ["Mail 5"], "the newest stays, however large"


def test_one_that_is_too_large_is_refused(kept: Mailbox):
    with pytest.raises(BadMail, match=r"The mail has 5.0 MB; the mailbox takes 5\."):
        kept.put(posted(1, tables.LARGEST + 1))
    assert subjects(kept) == []


def test_it_is_read_in_pages(kept: Mailbox):
    for number in range(tables.MAILS_PAGE + 5):
        kept.put(posted(number))
    first = kept.page(OWNER)
    rest = kept.page(OWNER, before=first[-1].id)
    assert (len(first), len(rest), kept.count(OWNER)) == (tables.MAILS_PAGE, 5, tables.MAILS_PAGE + 5)


def test_a_mail_is_its_jobs_owners_and_goes_with_the_job(kept: Mailbox):
    conn = connection(kept.path)
    for job, owner in ((1, "ann"), (2, "bob")):
        conn.execute(
            "insert into jobs (id, task, entry, shape, owner, engine, created_at, finished_at, seq, status)"
            " values (?, 't', 'm:f', 'items', ?, 'background', 1, ?, ?, 'completed')",
            (job, owner, job, job),
        )
        kept.put(posted(job, job=job))
    kept.put(posted(3, job=99))
    (anns,) = kept.page("ann")
    assert (anns.subject, anns.job) == ("Mail 1", 1)
    with pytest.raises(NotFound):
        kept.raw(anns.id, "bob")
    assert kept.clear("ann") == 1 and kept.count("bob") == 1
    Maintenance(kept.path).prune(Keep(jobs=1))
    assert Maintenance(kept.path).prune(Keep(days=0.0001)) == 1
    assert kept.count("bob") == 0 and subjects(kept) == ["Mail 3"]


def test_the_nav_leads_there(server: Server):
    page = server.client.get("/").text
    assert 'href="/mailbox"' in page
    until(lambda: server.client.get("/mailbox").is_success)
