"""What records look like: escaping, widths, words and buttons, without a server or a browser."""

import re
import time
from collections.abc import Iterator
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fasthtml.components import P

from rowcast import components
from rowcast.components import error_page, job_page, jobs_page, results_page, to_html, users_page
from rowcast.feed.sse import plain
from rowcast.feed.streams import JobViewer
from rowcast.feed.watch import Feed, event
from rowcast.jobs import Jobs
from rowcast.pages import forms, values
from rowcast.pages.item import tries_text, wait_row
from rowcast.pages.job import (
    arguments_text,
    ends_line,
    hold_line,
    job_actions,
    job_facts,
    job_head,
    job_title,
    summary,
)
from rowcast.pages.jobs import bulk_question, find_form, job_row, jobs_table, what_is_meant
from rowcast.pages.rows import empty_text, error_group, filters, item_pager, item_row
from rowcast.pages.skeleton import ASKS
from rowcast.tables.ledger import Ledger
from rowcast.tables.schema import prepare
from rowcast.tasks.accounts import LOCAL, Account
from rowcast.tasks.filters import Counted, Filter
from rowcast.tasks.records import (
    ACTIONS,
    ACTIVE,
    ITEM_STATUSES,
    JOB_STATUSES,
    RATE_WINDOW,
    WITH_FAILURES,
    ErrorGroup,
    Held,
    Item,
    Job,
    JobView,
    View,
    encode,
    iso,
)
from rowcast.tasks.registry import REGISTRY, Task, task
from rowcast.tasks.tries import ItemNow, TryRow
from rowcast.tasks.work import Chunk, Report

MOVING = View()
EVIL = """<script>alert(1)</script>" onmouseover='x' &amp;"""


def tidy(item: str, seconds: float = 0.5, loops: int = 3, title: str = "x", dry: bool = True) -> None:
    "Tidy up.\n\nMore about it."


@pytest.fixture
def tidying() -> Iterator[Task]:
    """`tidy` as a task, for as long as the test lasts."""
    yield task(tidy)
    del REGISTRY["tidy"]


def a_job(**given: Any) -> Job:
    """A job of 100 items that runs, with `given` changed."""
    usual = {
        "id": 7,
        "task": "tidy",
        "shape": "items",
        "args": "{}",
        "tags": "[]",
        "owner": "local",
        "status": "running",
        "reason": "",
        "total": 100,
        "filled": 1,
        "started_at": time.time() - 20,
        "finished_at": None,
        "pace": None,
    }
    none = {"least": None, "found": None}
    none |= {"window": RATE_WINDOW, "held_by": None, "eta_range": None, "eta_why": "", "tuned_at": None}
    none |= {"paused_at": None, "resumed_at": None}
    return Job(**(dict.fromkeys(Job.__struct_fields__, 0) | none | usual | given))


def an_item(**given: Any) -> Item:
    usual = {
        "id": 3,
        "job": 7,
        "key": "ann@example.com",
        "status": "queued",
        "run_at": 0.0,
        "updated_at": time.time(),
    }
    return Item(
        **(dict.fromkeys(Item.__struct_fields__) | {"position": 0, "attempt": 0, "seq": 1} | usual | given)
    )


def a_look(job: Job, view: View = MOVING, *items: Item, **given: Any) -> JobView:
    """The job as its page shows it in a view."""
    usual = {"groups": [], "cursor": 1, "back": None}
    return JobView(job=job, view=view, items=list(items), **(usual | given))


class Reader(HTMLParser):
    """The tags with their attributes, and the text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        """What can be read, with one space between the texts of two tags."""
        return " ".join(" ".join(self.words).split())


def buttons(job: Job) -> list[str]:
    return re.findall(r"<button[^>]*>([^<]*)</button>", to_html(job_actions(job)))


def text_of(*parts: Any) -> str:
    return Reader(to_html(*parts)).text


# ---- what comes from others is text --------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["key", "error", "result"])
def test_what_users_and_apis_say_stands_in_a_row_as_text(field: str) -> None:
    row = Reader(to_html(item_row(an_item(**{field: EVIL}), True)))
    assert {tag for tag, _ in row.tags} <= {"tr", "td", "span", "svg", "circle", "path", "time"}
    assert not [name for _, attrs in row.tags for name in attrs if name.startswith("on")]
    assert EVIL in "".join(row.words)


def test_error_groups_arguments_reasons_and_searches_are_text() -> None:
    job = a_job(task=EVIL, owner=EVIL, reason=EVIL, args='{"word": "<b>x</b>"}', failed=1)
    groups = [ErrorGroup(EVIL, 404, EVIL, 1, 0.0, 0.0, f"{EVIL} 1")]
    view = View("failed", fingerprint=EVIL, find=EVIL)
    page = Reader(to_html(job_page("", a_look(job, view, an_item(key=EVIL), groups=groups))))
    assert not {tag for tag, _ in page.tags} & {"b", "img"}
    assert all((attrs.get("src") or "").startswith("/static/") for tag, attrs in page.tags if tag == "script")
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on") or name == "style"]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("view", [View("failed", fingerprint=EVIL), View(find=EVIL), View(after=3)])
def test_they_are_text_in_frames_too(view: View, whole: bool) -> None:
    job = a_job(task=EVIL, owner=EVIL, reason=EVIL, args='{"word": "<b>x</b>"}', failed=1)
    groups = [ErrorGroup(EVIL, 404, EVIL, 1, 0.0, 0.0, f"{EVIL} 1")]
    for items in ([an_item(key=EVIL, error=EVIL)], []):
        drawn = components.job_frame("", a_look(job, view, *items, groups=groups), whole)
        drawn += components.banner_frame(EVIL)
        page = Reader(drawn)
        assert not {tag for tag, _ in page.tags} & {"b", "img", "script"}
        assert not [
            name for _, attrs in page.tags for name in attrs if name.startswith("on") or name == "style"
        ]
    assert to_html(EVIL, P(EVIL)).count("<") == 2


def test_what_an_api_asks_for_between_two_tries_is_seen_and_is_text() -> None:
    row = TryRow(1, "failed", 429, "x", encode({"retry_after": "<b>9\u202e"}).decode(), 1.0, 10.0, "one")
    shown = Reader(to_html(wait_row(row, 5.0)))
    assert [tag for tag, _ in shown.tags] == ["li", "span", "span", "small"]
    assert "(Retry-After: <b>9 U+202E )" in shown.text


def test_an_error_group_says_when_it_was_seen_and_shows_one_error_as_it_was() -> None:
    group = ErrorGroup("503 no room for …", 503, "no room for …", 2, 1.0, 62.0, "no room for 17")
    shown = Reader(to_html(error_group(a_look(a_job(failed=2)), group)))
    assert [attrs["datetime"] for tag, attrs in shown.tags if tag == "time"] == [iso(1.0), iso(62.0)]
    assert "no room for 17" in shown.words


def test_line_breaks_in_an_error_do_not_end_a_frame_early() -> None:
    look = a_look(a_job(), View(), an_item(error="one\n\ntwo\r\nthree"))
    frame = event(components.job_frame("", look))
    assert all(line.startswith(b"data: ") for line in frame.splitlines()[:-1])
    assert frame.count(b"\r\n\r\n") == 1


@pytest.mark.parametrize(("claimed", "first"), [(20, 0), (120, 20)])
def test_of_more_rows_than_a_page_holds_the_newest_are_sent(
    tidying: Task, tmp_path: Path, claimed: int, first: int
) -> None:
    path = str(tmp_path / "a.db")
    prepare(path)
    jobs = Jobs(path)
    job, _ = jobs.submit(tidying, {}, "local", "background")
    jobs.add_items(job.id, Chunk.of([(f"item {n}", None) for n in range(150)], last=True))
    jobs.start(job.id)
    Ledger(path).exchange(job.id, "me", Report(limit=claimed))

    frame = plain(JobViewer(Feed(jobs), "", "local", job.id, View(), 0).next())
    sent = re.findall(rb'<hx-upsert hx-target="#items".*</hx-upsert>', frame, re.S)[0]
    assert re.findall(rb">item (\d+)<", sent) == [b"%d" % n for n in range(first, claimed)]


def test_every_page_stays_under_the_path_where_it_is_mounted() -> None:
    look = a_look(a_job(failed=1), groups=[ErrorGroup("x", 404, "x", 1, 0.0, 0.0, "x")])
    tasks = list(REGISTRY.values())
    whole = [
        job_page("/in", look),
        jobs_page("/in", [look.job], tasks, 5, Filter(), Counted({}), False, 1),
        results_page("/in", look),
        users_page("/in", [], 0, "", 1),
        error_page("/in", 404, "There is no such page."),
    ]
    for page in whole:
        links = [
            attrs[name]
            for _, attrs in Reader(to_html(page)).tags
            for name in ("href", "src", "action", "hx-post", "hx-sse-connect")
            if attrs.get(name)
        ]
        assert [link for link in links if not (link or "").startswith(("/in/", "#"))] == []


@pytest.mark.parametrize(("days", "said"), [(14.0, "14 days"), (0.5, "0.5 days"), (1.0, "1 day"), (0.0, "")])
def test_the_list_of_jobs_says_for_how_long_background_tasks_are_kept(days: float, said: str) -> None:
    page = to_html(
        jobs_page("", [a_job()], list(REGISTRY.values()), 5, Filter(), Counted({}), False, 1, days)
    )
    assert re.findall("deleted (.*?) after they have ended", page) == [said] * bool(said)


# ---- the bar -------------------------------------------------------------------------------------------------------


def test_the_bar_is_divided_as_the_items_are() -> None:
    widths = values.segments(a_job(completed=50, failed=20, running=10, queued=20), least=0.4)
    assert {s: w for s, w in widths.items() if w} == {
        "completed": 50,
        "failed": 20,
        "running": 10,
        "queued": 20,
    }


def test_one_failure_in_a_million_can_be_seen() -> None:
    job = a_job(total=1_000_000, completed=500_000, failed=1, running=1, queued=499_998)
    widths = values.segments(job, least=0.4)
    assert widths["failed"] == widths["running"] == 0.4
    assert sum(widths.values()) == pytest.approx(100)


def test_the_bar_is_full_only_when_all_is_done() -> None:
    widths = values.segments(a_job(total=1_000_000, completed=999_999, queued=1), least=0.4)
    assert widths["completed"] == pytest.approx(99.6)
    assert values.percent(a_job(total=1_000_000, completed=999_999, queued=1)) == 99
    assert values.segments(a_job(completed=100), least=0.4)["completed"] == 100


def test_a_job_without_items_has_an_empty_bar() -> None:
    bar = to_html(values.bar(a_job(total=0)))
    assert 'aria-valuenow="0"' in bar and 'aria-valuemax="1"' in bar
    assert set(re.findall(r' width="([^"]+)"', bar)) == {"0.00%"}


def test_the_bar_says_how_far_to_who_cannot_see_it() -> None:
    bar = to_html(values.bar(a_job(total=2000, completed=1200, cancelled=300, queued=500)))
    assert 'aria-valuenow="1500"' in bar and 'aria-valuetext="1,200 of 2,000 done"' in bar


# ---- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (3.44, "3.4 s"),
        (9.99, "9.9 s"),
        (10, "0:10"),
        (61, "1:01"),
        (3599, "59:59"),
        (3723, "1:02:03"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert values.duration(seconds) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.2, 0.9, "0 to 1 s"),
        (11.2, 18.5, "11 to 19 s"),
        (41, 58, "40 to 60 s"),
        (725, 1601, "12 to 27 min"),
        (9_000, 12_000, "2 to 4 h"),
        (100_000, 400_000, "1 to 5 days"),
        (60, 119, "1 to 2 min"),
    ],
)
def test_a_guess_is_a_span_rounded_outward(low: float, high: float, text: str) -> None:
    assert values.span_text(low, high) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.2, "in 4 s"), (99, "in 99 s"), (725, "in 12 min 5 s"), (86_399, "in 23 h 59 min")],
)
def test_a_wait_is_told_in_the_unit_that_reads_well(seconds: float, text: str) -> None:
    assert values.wait_text(seconds) == text
    assert values.wait_text(seconds, in_row=True) == " ".join(text.split()[:3])


def test_every_status_has_a_word_an_icon_and_a_colour() -> None:
    for status in {*JOB_STATUSES, *ITEM_STATUSES}:
        icon = to_html(values.status_icon(status))
        assert f"s-{status}" in icon and "<svg" in icon and values.WORDS[status] in icon


@pytest.mark.parametrize(
    ("given", "title"),
    [
        ({"completed": 74}, "74 % · tidy #7 · Rowcast"),
        ({"status": "paused"}, "Paused · tidy #7 · Rowcast"),
        ({"status": "completed", "finished_at": 1.0}, "✓ tidy #7 · Rowcast"),
        ({"status": "completed", "finished_at": 1.0, "failed": 1200}, "✗ 1,200 failed · tidy #7 · Rowcast"),
        ({"status": "cancelled", "finished_at": 1.0}, "Cancelled · tidy #7 · Rowcast"),
    ],
)
def test_the_title_says_how_far_or_how_it_ended(given: dict[str, Any], title: str) -> None:
    assert job_title(a_job(**given)) == title


def test_cancelled_items_are_not_called_done() -> None:
    job = a_job(status="cancelled", finished_at=time.time(), completed=30, cancelled=70)
    assert summary(job) == "Cancelled: 30 of 100 done."
    facts = text_of(*job_facts(job))
    assert "30 of 100" in facts and "cancelled 70" in facts and "on average 1.5/s" in facts


def test_an_item_that_waits_for_another_try_says_how_long() -> None:
    row = text_of(item_row(an_item(attempt=1, run_at=time.time() + 4.45, code=503, error="busy"), True))
    assert "Again in 4 s 1 503 busy" in row


def test_an_item_is_at_no_try_of_fewer_than_it_had(tidying: Task) -> None:
    task(name="tidy", max_attempts=2)(tidy)
    tries = [TryRow(n, "failed", 500, "no", None, float(n), 1.0, "one") for n in (1, 2, 3)]
    looks = [ItemNow(a_job(), an_item(), None, tries[:n], []) for n in (1, 2, 3)]
    assert [tries_text(look) for look in looks] == ["on try 1 of 2", "on try 2 of 2", "on try 3"]


def test_a_row_is_sorted_by_its_change_or_by_its_position() -> None:
    item = an_item(position=12, seq=345)
    assert 'data-order="345"' in to_html(item_row(item, True))
    assert 'data-order="12"' in to_html(item_row(item, False))


def test_a_text_that_may_be_cut_is_its_own_tooltip() -> None:
    assert 'title="' not in to_html(values.cell("ann@example.com", "key"))
    assert f'title="{"a" * 40}"' in to_html(values.cell("a" * 40, "key"))


def test_only_arguments_that_are_not_the_defaults_are_shown(tidying: Task) -> None:
    job = a_job(args='{"items": ["a", "b"], "seconds": 0.5, "loops": 4}')
    assert text_of(arguments_text(job)) == "items=2 given, loops=4"


@pytest.mark.parametrize(
    ("given", "note"),
    [
        ({"concurrency": 10, "pace": 40.0}, "10 at a time, at most 40 a second."),
        ({"held_by": Held("starting", "Its items are being written.")}, "Its items are being written."),
        (
            {"status": "queued", "run_at": 9.0, "held_by": Held("starting", "It starts soon.")},
            "It starts soon.",
        ),
        ({"status": "paused", "held_by": Held("disk", "The disk is full.")}, "The disk is full."),
        ({"dry_run": 1}, "A dry run: what would be sent for the first item, and nothing is sent."),
        ({"dry_run": 5}, "A dry run: what would be sent for the first 5 items, and nothing is sent."),
        (
            {"dry_run": 5, "status": "completed", "finished_at": 1.0},
            "A dry run: the rows show what would have been sent. Nothing was sent.",
        ),
        (
            {"status": "completed", "finished_at": 1.0, "total": 0},
            "There was nothing to do: the task found no items.",
        ),
        ({"status": "failed", "finished_at": 1.0, "reason": "It broke."}, "It broke."),
    ],
)
def test_the_note_says_what_there_is_to_know(given: dict[str, Any], note: str) -> None:
    assert text_of(hold_line(a_job(**given))) == note


def test_the_note_keeps_its_place_until_the_job_ends_well() -> None:
    for status in ("queued", "running", "paused"):
        assert "hidden" not in to_html(hold_line(a_job(status=status)))
    assert "hidden" in to_html(hold_line(a_job(status="completed", finished_at=1.0)))


def test_the_note_counts_down_to_when_sending_goes_on_and_lets_it_go_on_now() -> None:
    held = Held("retry_after", "The API asked for a pause (429, Retry-After).", time.time() + 86_395)
    note = text_of(hold_line(a_job(held_by=held)))
    assert note.startswith("The API asked for a pause (429, Retry-After). Sending goes on in 23 h 59 min .")
    assert 'action="/jobs/7/resume"' in to_html(hold_line(a_job(held_by=held)))


def test_who_may_not_let_it_go_on_is_shown_why_it_waits_and_no_button() -> None:
    held = Held("retry_after", "The API asked for a pause.", time.time() + 60)
    before = ASKS.set(Account("ben", "viewer"))
    try:
        note = to_html(hold_line(a_job(held_by=held, owner="ann")))
    finally:
        ASKS.reset(before)
    assert "The API asked for a pause." in note and 'id="note"' in note and "<form" not in note


def test_the_page_says_between_which_moments_it_is_done_or_why_nobody_can_say() -> None:
    soon = text_of(ends_line(a_job(eta_range=(21.0, 29.5))))
    assert soon == "Done in 21 to 30 s."
    later = text_of(ends_line(a_job(eta_range=(725.0, 1601.0))))
    assert re.fullmatch(r"Done between \d\d:\d\d UTC and \d\d:\d\d UTC \(in 12 to 27 min\).", later)
    unknown = text_of(ends_line(a_job(eta_why="Its items are still being written.")))
    assert unknown == "When it is done nobody can say: its items are still being written."
    assert text_of(ends_line(a_job(status="completed", finished_at=1.0, eta_why="x"))) == ""


@pytest.mark.parametrize(
    ("recent", "window", "text"),
    [(480, 10, "48/s"), (42, 10, "4.2/s"), (20, 600, "2 a minute"), (3, 6000, "1.8 an hour"), (0, 10, "–")],
)
def test_slow_work_has_a_rate_that_reads_well(recent: int, window: int, text: str) -> None:
    job = a_job(recent=recent, window=window, started_at=time.time() - 100_000)
    assert values.rate_text(job) == text


def test_a_dry_run_is_marked_as_one_on_its_page_and_in_the_list() -> None:
    dry = a_look(a_job(dry_run=5))
    assert "Dry run" in text_of(*job_head(dry))
    assert "dry run" in text_of(job_row(dry.job))
    real = a_look(a_job())
    assert "ry run" not in text_of(*job_head(real), job_row(real.job))


def test_the_rate_of_a_job_that_has_ended_is_the_same_for_people_and_programs() -> None:
    job = a_job(status="completed", completed=30, failed=10, unknown=40, cancelled=20, started_at=1000.0)
    job.finished_at = 1010.0
    assert job.rate == 4.0 and values.rate_text(job) == "4/s"


def test_a_job_that_is_paused_and_has_nothing_in_flight_has_no_rate() -> None:
    assert a_job(status="paused", recent=200).rate == 0.0
    assert a_job(status="paused", recent=200, running=3).rate == 20.0


# ---- buttons -------------------------------------------------------------------------------------------------------


def test_a_job_has_the_buttons_that_the_table_of_actions_allows() -> None:
    for status in JOB_STATUSES:
        job = a_job(
            status=status, completed=97, failed=2, unknown=1, finished_at=None if status in ACTIVE else 1.0
        )
        words = {
            "retry": "Retry",
            "settle": "Mark unknown",
            "pause": "Pause",
            "resume": "Resume",
            "cancel": "Cancel",
        }
        shown = {name for name, word in words.items() if any(b.startswith(word) for b in buttons(job))}
        if "Run the rest (3, of them 1 unknown)" in buttons(job):
            shown.add("retry")
        assert shown == {name for name, action in ACTIONS.items() if status in action.leaves}, status


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"failed": 37}, ["Retry failed (37)", "Pause", "Cancel"]),
        ({}, ["Pause", "Cancel"]),
        ({"status": "paused"}, ["Resume", "Cancel"]),
        ({"status": "completed"}, ["Run again"]),
        (
            {"status": "completed", "unknown": 2},
            ["Retry unknown (2)", "Mark unknown as done (2)", "Run again"],
        ),
        ({"status": "cancelled", "cancelled": 1779}, ["Run the rest (1,779)", "Run again"]),
        ({"status": "cancelled", "completed": 100}, ["Run again"]),
        ({"status": "failed", "filled": 0, "total": 0}, ["Run the rest", "Run again"]),
    ],
)
def test_a_button_stands_where_it_has_something_to_do(given: dict[str, Any], words: list[str]) -> None:
    ended = given.get("status", "running") not in ACTIVE
    assert buttons(a_job(**given, finished_at=1.0 if ended else None)) == words


def test_what_cannot_be_taken_back_is_asked_for_first() -> None:
    job = a_job(status="completed", unknown=2, failed=1, idempotent=0, finished_at=1.0)
    asked = re.findall(r'<form[^>]*data-ask="[^"]+"[^>]*id="(act-\w+)"', to_html(job_actions(job)))
    asked += re.findall(r'<form[^>]*id="(act-\w+)"[^>]*data-ask="[^"]+"', to_html(job_actions(job)))
    assert sorted(asked) == ["act-retry", "act-settle"]
    plain_form = to_html(job_actions(a_job(failed=1)))
    assert "act-retry" in plain_form and "data-ask" not in plain_form


def test_pause_and_resume_are_one_form_so_that_the_focus_stays() -> None:
    forms = [to_html(job_actions(a_job(status=status))) for status in ("running", "paused")]
    assert all('id="act-hold"' in form for form in forms)


def test_results_are_linked_when_there_are_all_of_them() -> None:
    assert "/jobs/7/results" not in to_html(job_actions(a_job()))
    assert "/jobs/7/results" in to_html(job_actions(a_job(status="completed", finished_at=1.0)))


# ---- filters, pages and what an empty table says -------------------------------------------------------------------


def test_the_counts_are_filters_and_the_one_in_use_is_marked() -> None:
    links = Reader(to_html(*filters(a_look(a_job(failed=3, completed=40, queued=57), View("failed")))))
    marked = [attrs["href"] for _, attrs in links.tags if attrs.get("aria-current")]
    assert marked == ["/jobs/7?view=failed"]
    assert links.text == "Moving All 100 Failed 3 Queued 57 Completed 40"


def test_a_view_is_its_url() -> None:
    assert View("failed", 99, "404 gone").query(cursor=5) == "view=failed&after=99&group=404+gone&cursor=5"
    assert View().query() == "view=moving"


def test_only_views_that_rows_leave_or_that_search_are_drawn_anew() -> None:
    assert not View().redrawn and not View("all").redrawn
    assert (
        View("queued").redrawn and View("all", find="x").redrawn and View("failed", fingerprint="404").redrawn
    )


def test_there_is_a_next_page_only_where_there_is_more() -> None:
    items = [an_item(id=n, position=n) for n in range(100)]
    assert "Later" not in to_html(*item_pager(a_look(a_job(total=100), View("all"), *items)))
    assert "after=99" in to_html(*item_pager(a_look(a_job(total=101), View("all"), *items)))
    assert "Earlier" in to_html(*item_pager(a_look(a_job(total=300), View("all", after=99), *items, back=-1)))


class Still(HTMLParser):
    """The tags of a page that no frame draws, and that are not of its stream."""

    def __init__(self, page: str, drawn: set[str]):
        super().__init__()
        self.drawn = drawn
        self.above: list[bool] = [True]
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = dict(attrs)
        if has.get("name") == "option-once":  # each page its own
            del has["value"]
        if self.above[-1] and has.get("id") not in ("live-word", "live", "favicon", "feed") and tag != "body":
            self.tags.append((tag, has))
        if tag not in ("input", "link", "meta"):
            self.above.append(self.above[-1] and has.get("id") not in self.drawn)

    def handle_endtag(self, tag: str) -> None:
        self.above.pop()


@pytest.mark.parametrize("who", [LOCAL, Account("ann", "viewer")])
@pytest.mark.parametrize("view", [View(), View("failed"), View("all")])
def test_a_page_that_is_open_has_what_one_drawn_anew_has_whatever_became_of_the_job(
    who: Account, view: View
) -> None:
    """Also of one that was at rest and whose job is retried: what a frame draws aside."""
    before = components.note_account(who)
    try:
        ends: tuple[dict[str, Any], ...] = (
            {}, {"status": "paused"}, {"status": "queued", "started_at": None}, {"status": "completed", "finished_at": 1.0},
            {"status": "failed", "finished_at": 1.0, "failed": 3}, {"status": "cancelled"},
        )  # fmt: skip
        looks = [a_look(a_job(filled=1, **how), view) for how in ends]
        frames = [
            components.job_frame("", look, True) + components.charts_frame("", look.job, None)
            for look in looks
        ]
        drawn = {target for frame in frames for target in re.findall(r'hx-target="#([^"]*)"', frame)}
        still = [Still(to_html(job_page("", look)), drawn).tags for look in looks]
        for tags in still[1:]:
            assert tags == still[0]
    finally:
        components.ASKS.reset(before)


@pytest.mark.parametrize(
    ("left", "said"), [(0, ""), (1, " The other one stays as it is."), (2, " The other 2 stay as they are.")]
)
def test_an_act_on_some_of_many_jobs_says_how_many_stay(left: int, said: str) -> None:
    asked, _ = bulk_question("pause", Filter(), 3 + left, 3)
    assert text_of(asked) == f"3 jobs of {3 + left} will be paused.{said}"


def test_all_that_a_filter_says_goes_with_its_form_and_is_said_of_an_act_on_its_jobs() -> None:
    wanted = Filter(**{one.name: f"{one.name}-7" for one in fields(Filter)}).but(status="failed")
    tags = Reader(to_html(find_form(wanted, []))).tags
    sent = {attrs.get("value") for tag, attrs in tags if tag == "input" or "selected" in attrs}
    assert sent == set(wanted.values.values())
    said = what_is_meant(wanted)
    assert said.startswith("Failed jobs, ") and all(
        f"{name}-7" in said for name in wanted.but(status="").values
    )


def test_an_empty_table_says_what_to_do_next() -> None:
    ended = a_job(status="completed", finished_at=1.0)
    said = [
        text_of(*empty_text(a_look(job, view)))
        for job, view in [
            (a_job(), View()),
            (a_job(), View("failed")),
            (ended, View()),
            (a_job(), View("all", find="bob")),
            (a_job(status="completed", finished_at=1.0, total=0), View()),
        ]
    ]
    assert said == [
        "Nothing has moved yet; rows appear here as they do.",
        "Nothing has failed. Show all items",
        "Nothing moved. Show all items",
        "No item's key has “bob” in it. Show all items",
        "This job had no items. Start another",
    ]


@pytest.mark.parametrize(
    ("total", "after", "link"), [(100, -1, False), (101, -1, True), (101, 99, False), (250, 99, True)]
)
def test_a_frame_of_all_items_links_to_a_page_that_has_come_meanwhile(
    total: int, after: int, link: bool
) -> None:
    frame = components.job_frame("", a_look(a_job(total=total, filled=0), View("all", after), an_item()))
    assert (f"after={after + 100}" in frame) == link


def test_a_list_frame_takes_out_the_rows_that_its_filter_has_no_longer() -> None:
    frame = components.jobs_frame(
        "", [a_job(id=2)], [a_job(id=1, status="completed", finished_at=1.0)], 0, Filter(status="running")
    )
    assert '<hx-partial hx-target="#job-1" hx-swap="delete">' in frame
    assert 'id="job-2"' in frame and 'id="job-1"' not in frame


def test_an_empty_list_says_what_is_not_in_it() -> None:
    said = {
        name: to_html(*jobs_table([], Filter(status=name)))
        for name in ("", "running", "failed", WITH_FAILURES)
    }
    assert "No jobs yet: start one above" in said[""] and "No job is running." in said["running"]
    assert (
        "listed under With failures" in said["failed"] and "No job has failed items." in said[WITH_FAILURES]
    )


# ---- forms ---------------------------------------------------------------------------------------------------------


def test_a_tasks_signature_makes_its_form(tidying: Task) -> None:
    form = Reader(to_html(forms.start_form(tidying, 0)))
    fields = {attrs.get("name"): (tag, attrs.get("type"), attrs.get("value")) for tag, attrs in form.tags}
    assert fields["seconds"] == ("input", "number", "0.5")
    assert fields["loops"] == ("input", "number", "3")
    assert fields["title"] == ("input", "text", "x")
    assert fields["dry"] == ("input", "checkbox", "true")
    assert fields["items"][0] == "textarea"
    assert "Tidy up." in form.text and "More about it." in form.text


def test_a_task_over_users_says_how_many_there_are() -> None:
    assert text_of(forms.users_note(1000)) == "1,000 users"
    assert text_of(forms.users_note(0)) == "No users yet: add some"


@pytest.mark.parametrize(
    ("counts", "word", "look", "progress"),
    [
        ({"completed": 100}, "Completed", "completed", "100 of 100 done"),
        ({"completed": 98, "unknown": 2}, "Completed, partly unknown", "unknown", "98 of 100 done"),
        ({"unknown": 100}, "Unknown", "unknown", "0 of 100 done"),
        ({"completed": 97, "unknown": 2, "failed": 1}, "Completed with failures", "failed", "98 of 100 done"),
    ],
)
def test_a_job_of_which_something_is_unknown_is_not_green(
    counts: dict[str, int], word: str, look: str, progress: str
):
    job = a_job(status="completed", finished_at=time.time(), **counts)
    assert (values.word_of(job), values.look_of(job), values.progress_text(job)) == (word, look, progress)
    assert job_title(job).startswith({"completed": "✓ tidy", "failed": "✗ 1 failed"}.get(look, "? "))
    assert ("unknown" in summary(job)) == bool(job.unknown)
