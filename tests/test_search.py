"""Search: jobs are found by words, task, tag, status and time, live on the list; indexes answer it, however many have ended."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.feed import lists
from rowcast.feed.lists import ListViewer
from rowcast.feed.watch import Feed
from rowcast.jobs import Jobs
from rowcast.tables import search
from rowcast.tables.clock import keep_clock
from rowcast.tables.counts import change_job
from rowcast.tables.database import close_databases, connection, transaction
from rowcast.tables.maintenance import Keep, Maintenance
from rowcast.tables.needs import needs_of
from rowcast.tables.schema import prepare
from rowcast.tables.shares import Shares
from rowcast.tasks.accounts import LOCAL, Account
from rowcast.tasks.built_in import counter
from rowcast.tasks.filters import STATUSES, Filter, checked_tags, filter_of
from rowcast.tasks.records import BadArguments, Options
from rowcast.tasks.registry import REGISTRY, task
from rowcast.tasks.work import Chunk
from tests.conftest import Server

MANY = 100_000
EACH = 100  # steps after which they are counted


@task(tags=["nightly"])
def tagged() -> None:
    """A task whose jobs are found by its tag."""


del REGISTRY["tagged"]
ANN, BEN, CY = (Account(name, "operator") for name in ("ann", "ben", "cy"))
FILTERS = [
    {},
    {"q": "customer7"},
    {"q": "an"},
    {"q": "customer update"},
    {"q": "nobody"},
    {"task": "counter"},
    {"tag": "crm"},
    {"tag": "crm", "q": "customer"},
    {"since": "1000"},
    {"until": "1000"},
    {"failures": "1"},
    {"failures": "1-", "q": "customer", "task": "counter"},
    {"failures": "9-"},
    {"failures": "9-", "task": "counter"},
    {"until": "1000", "q": "customer"},
    {"since": "500", "q": "nobody"},
    {"q": "update"},
    {"q": "update", "status": "failed"},
    {"q": "update", "status": "cancelled"},
    {"q": "Update", "status": "with-failures", "task": "counter"},
    *[{"status": status} for status in STATUSES],
    *[{"status": status, "task": "counter"} for status in STATUSES],
    *[{"status": status, "q": "customer"} for status in STATUSES],
]


def fill(path: str, number: int) -> None:
    """A database with so many jobs that have ended, and thirty that have not, of two owners."""
    prepare(path)
    ended = ("completed", "failed")
    columns = "task, entry, shape, args, owner, engine, status, tags, created_at, finished_at, failed, seq"
    rows = [
        (
            ("update_users", "bulk_email", "counter")[n % 3],
            "m:f",
            "items",
            f'{{"list": "customer{n % 977}", "to": "ann{n % 5000}@example.com"}}',
            "cy" if n % 10_000 == 1 else ("ben", "ann")[n % 2],
            "background",
            "running" if n >= number else ended[n % 50 == 0],
            '["crm"]' if n % 10 == 0 else "[]",
            float(n),
            None if n >= number else float(n),
            int(n % 50 == 0),
            n,
        )
        for n in range(number + 30)
    ]
    with transaction(connection(path)) as conn:
        conn.executemany(f"insert into jobs ({columns}) values ({', '.join('?' * 12)})", rows)


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Two databases: one with a thousand jobs, one with a hundred thousand."""
    directory = tmp_path_factory.mktemp("sizes")
    made = (str(directory / "few.db"), str(directory / "many.db"))
    fill(made[0], 1000)
    fill(made[1], MANY)
    yield made
    close_databases()


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    made = str(tmp_path / "rowcast.db")
    prepare(made)
    yield made
    close_databases()


def submit(path: str, owner: str = "ann", **options: Any) -> int:
    job, _ = Jobs(path).submit(counter, {"loops": 3}, owner, "background", Options(**options))
    return job.id


def ids(path: str, who: Any = LOCAL, **wanted: str) -> list[int]:
    return [job.id for job in Jobs(path).jobs(who, filter_of(wanted))]


# ---- what is found -------------------------------------------------------------------------------------------------


def test_a_job_is_found_by_the_beginnings_of_words_of_all_that_is_said_of_it(path: str):
    job = submit(path, tags=("November", "crm"))
    other = submit(path, owner="ben")
    Jobs(path).fail(job, "The disk is füll of mails")
    for words in ("count", "loop", "novem", "ann", "disk mail", "full", "FÜLL", "crm counter ann"):
        assert ids(path, q=words) == [job] or words in ("count", "loop"), words
    assert ids(path, q="count") == ids(path, q="loops") == [other, job]
    assert ids(path, q="counter ben crm") == []


def test_what_has_no_letter_hides_nothing_of_what_the_others_find(path: str):
    job = submit(path, owner="_")
    assert ids(path, q="counter _ -") == ids(path, Account("_", "operator"), q="counter") == [job]
    assert ids(path, q="_") == []


def test_words_of_arguments_are_parted_by_tabs_lines_and_backslashes(path: str):
    job, _ = Jobs(path).submit(
        counter, {"text": "left\tright\r\nbelow\nlast C:\\new\\table\\report"}, "ann", "background"
    )
    for word in ("left", "right", "below", "last", "new", "table", "report"):
        assert ids(path, q=word) == [job.id], word
    assert ids(path, q="tright") == ids(path, q="ew") == []
    Jobs(path).fail(job.id, "so")
    Maintenance(path).prune(Keep(jobs=0, days=1e-9))
    left = "select count(*) from words where words match 'right OR new OR report OR left OR so'"
    assert connection(path).execute(left).fetchone() == (0,)


@given(text=st.text(max_size=40))
def test_no_search_breaks(sizes: tuple[str, str], text: str):
    assert isinstance(ids(sizes[0], q=text), list)
    assert isinstance(ids(sizes[0], tag=text, task=text), list)


@pytest.mark.parametrize(
    "text",
    ['"', "a AND", "NEAR(", "*", "task:", "-", "^a", "a OR b", "{x}", "(", "\x00", "'; drop table jobs"],
)
def test_the_signs_of_the_index_are_letters_like_others(sizes: tuple[str, str], text: str):
    assert len(ids(sizes[0], q=text)) <= 50


def test_words_are_kept_as_a_job_changes_and_is_pruned(path: str):
    job = submit(path, tags=("once",))
    assert ids(path, q="cancelled") == []
    Jobs(path).fail(job, "no such module")
    assert ids(path, q="module") == [job]
    Maintenance(path).prune(Keep(jobs=0, days=1e-9))
    assert ids(path, q="module") == ids(path, tag="once") == []
    left = connection(path).execute("select count(*) from words where words match 'once'").fetchone()
    assert left == (0,)


def test_a_tag_finds_those_that_bear_it_as_it_is_written(path: str):
    job = submit(path, tags=("C++", "a/b"))
    other = submit(path, tags=("C", "a"))
    assert ids(path, tag="C++") == [job] and ids(path, tag="C") == [other]
    assert ids(path, tag="a/b") == [job] and ids(path, tag="++") == []
    assert ids(path, q="C") == [other, job]


def test_a_task_tags_its_jobs(path: str):
    job, _ = Jobs(path).submit(tagged, {}, "ann", "background", Options(tags=("extra", "nightly")))
    assert job.tags == '["nightly","extra"]'
    for none in ("two words", "__", "a\x01b"):
        with pytest.raises(BadArguments, match="A tag is a word"):
            checked_tags([none])
    with pytest.raises(BadArguments, match="at most 20"):
        checked_tags(" ".join(f"t{n}" for n in range(21)))


def test_each_sees_what_is_its_own_and_what_is_shared_with_it(path: str):
    mine = submit(path)
    theirs = submit(path, "ben")
    shared = submit(path, "ben", tags=("crm",))
    connection(path).execute(
        "insert into accounts (name, role, created_at) values ('ann', 'operator', 0), ('ben', 'operator', 0)"
    )
    assert ids(path, ANN, q="counter") == [mine]
    Shares(path).add(shared, BEN, "account", "ann")
    for query in ({}, {"q": "counter"}, {"task": "counter"}, {"status": "active"}):
        assert ids(path, ANN, **query) == [shared, mine]
    assert ids(path, ANN, tag="crm") == [shared]
    assert ids(path, BEN, q="counter") == [shared, theirs]
    assert Jobs(path).counted(ANN, Filter()).jobs[""] == 2


def test_the_states_in_place_of_a_status(path: str):
    active = submit(path)
    failing = submit(path)
    again = submit(path)
    jobs = Jobs(path)
    for job in (failing, again):
        jobs.add_items(job, Chunk.of([("a", None)], last=True))
    conn = connection(path)
    conn.execute("update items set attempt = 1, run_at = unixepoch() + 60 where job = ?", (again,))
    conn.execute("update jobs set failed = 1, queued = 0 where id = ?", (failing,))
    assert ids(path, status="active") == [again, failing, active]
    assert ids(path, status="with-failures") == [failing]
    assert ids(path, status="retrying") == [again]
    counted = jobs.counted(LOCAL, Filter()).jobs
    assert {name: n for name, n in counted.items() if n} == {
        "": 3, "active": 3, "queued": 3, "with-failures": 1, "retrying": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "finds"), [("24h", "new"), ("7d", "new"), ("2000-01-01", "both"), ("0", "both")]
)
def test_jobs_are_found_since_a_time(path: str, text: str, finds: str):
    old = submit(path)
    new = submit(path)
    connection(path).execute("update jobs set created_at = ? where id = ?", (time.time() - 30 * 86_400, old))
    assert ids(path, since=text) == ([new, old] if finds == "both" else [new])
    assert ids(path, until="20d") == [old]


def be_off(path: str, by: float) -> None:
    """From now on the clock is off by so many seconds, until it is kept."""
    with transaction(connection(path)) as conn:
        conn.execute("update rowcast set clock = clock + ?", (by,))


def test_a_job_of_when_the_clock_was_ahead_is_found_since_a_time(path: str):
    be_off(path, 86_400)
    ended = submit(path)
    Jobs(path).fail(ended, "so")
    keep_clock(path)
    new = submit(path)
    assert ids(path, since="1h") == [new, ended]


def test_a_job_of_when_the_clock_was_behind_is_found_until_a_time(path: str):
    be_off(path, -86_400)
    goes = submit(path)  # and is moved with the clock
    ended = submit(path)
    Jobs(path).fail(ended, "so")
    keep_clock(path)
    assert ids(path, until=str(time.time() + 3600)) == [ended, goes]


def test_a_filter_that_is_none_is_refused_in_a_sentence():
    for query in ({"status": "odd"}, {"since": "yesterday"}, {"until": "1x"}):
        with pytest.raises(BadArguments, match=r"(status|since|until) is"):
            filter_of(query)


# ---- what it costs -------------------------------------------------------------------------------------------------


def steps(path: str, who: Account, wanted: Filter) -> int:
    """How many of SQLite's steps the list with a filter takes: its page, its counts and what needs a person."""
    conn = connection(path)

    def look() -> None:
        search.listed(conn, who, wanted, 10**18 - 1, 51)
        search.counted(conn, who, wanted)
        needs_of(conn, who)

    return steps_of(path, look)


def steps_of(path: str, act: Callable[[], Any]) -> int:
    """How many of SQLite's steps something takes."""
    conn = connection(path)
    taken = 0

    def add() -> bool:
        nonlocal taken
        taken += EACH
        return False

    conn.set_progress_handler(add, EACH)
    try:
        act()
    finally:
        conn.set_progress_handler(None)
    return taken


@pytest.mark.parametrize("who", [LOCAL, ANN], ids=["admin", "operator"])
@pytest.mark.parametrize("query", [query for query in FILTERS if {*query} <= {"task", "status"}], ids=str)
def test_the_list_costs_the_same_at_a_thousand_and_at_a_hundred_thousand_jobs(
    sizes: tuple[str, str], who: Account, query: dict[str, str]
):
    few, many = (steps(path, who, filter_of(query)) for path in sizes)
    assert many < 2 * few + 6000, (few, many)


@pytest.mark.parametrize("who", [LOCAL, ANN], ids=["admin", "operator"])
@pytest.mark.parametrize("query", FILTERS, ids=str)
def test_no_filter_scans_or_sorts(sizes: tuple[str, str], who: Account, query: dict[str, str]):
    conn = connection(sizes[1])
    plan: list[str] = []
    for half in ("", search.NOW, search.OVER):
        (found,) = search.each_found(conn, who, filter_of(query), half)
        sql = found.select("jobs.id", f" and {found.ident} < ? order by {found.ident} desc limit ?")
        plan += [row[3] for row in conn.execute(f"explain query plan {sql}", (*found.values, 10**18, 51))]
    by_rowid = ["SCAN jobs"] if not query else []  # the newest first, until the page is full
    assert not [line for line in plan if line.startswith("SCAN jobs") and line not in by_rowid], plan
    few_are_sorted = any("jobs_by_failures" in line for line in plan)
    assert few_are_sorted or not [line for line in plan if "TEMP B-TREE" in line], plan


def test_a_job_that_is_cancelled_is_found_as_such_before_all_its_items_are(tmp_path: Path):
    path = str(tmp_path / "jobs.db")
    prepare(path)
    jobs = Jobs(path)
    job, _ = jobs.submit(REGISTRY["update_users"], {}, "ann", "background", Options())
    with transaction(jobs.conn) as conn:
        change_job(conn, job.id, "cancel")
    assert jobs.job(job.id, "ann").finished_at is None
    for half in ("", search.NOW):
        for who in (LOCAL, ANN):
            asked = filter_of({"status": "cancelled"})
            assert search.page_of(jobs.conn, who, asked, 10**18, 51, half) == [job.id]
            of_task = asked.but(task="update_users")
            assert search.page_of(jobs.conn, who, of_task, 10**18, 51, half) == [job.id]
    for wanted in (Filter(), Filter(task="update_users"), Filter(q="update"), Filter(since="1h")):
        counted = jobs.counted(LOCAL, wanted).jobs
        assert (counted["active"], counted["cancelled"], counted[""]) == (1, 1, 1), "as it is in both lists"
    close_databases()


LATELY = 5  # changes


@pytest.mark.parametrize("who", [LOCAL, ANN], ids=["admin", "operator"])
def test_what_each_change_and_each_second_ask_costs_the_same_beside_a_hundred_thousand_jobs(
    sizes: tuple[str, str], who: Account
):
    def asked(path: str) -> dict[str, int]:
        jobs = Jobs(path)
        after = connection(path).execute("select max(seq) from jobs").fetchone()[0] - LATELY
        acts: dict[str, Callable[[], Any]] = {
            "changes": lambda: jobs.changes(who, after),
            "changed_jobs": lambda: jobs.changed_jobs(who, after, 51),
            "news": lambda: jobs.news(who.name, after, 51),
            "is_far": lambda: jobs.is_far(who, after),
            "unswept": jobs.unswept,
            "has_background": jobs.has_background,
            "due": jobs.due,
            "runs of a task": lambda: jobs.runs("counter", who, 30),
            "runs of no task": lambda: jobs.runs("nothing", who, 30),
            "the last run of each": lambda: jobs.lately(who.name, ["counter", "nothing"]),
            "prune of what was deleted": lambda: Maintenance(path).prune(Keep()),
            "prune of background tasks": lambda: Maintenance(path).prune(Keep(background=14)),
        }
        return {name: steps_of(path, act) for name, act in acts.items()}

    few, many = map(asked, sizes)
    assert not {name: (few[name], many[name]) for name in few if many[name] > few[name] + 2000}


@pytest.mark.parametrize("who", [LOCAL, ANN, CY], ids=["admin", "operator", "of few jobs"])
@pytest.mark.parametrize("query", [query for query in FILTERS if not {*query} <= {"task", "status"}], ids=str)
def test_words_are_found_among_a_hundred_thousand_in_few_steps(
    sizes: tuple[str, str], who: Account, query: dict[str, str]
):
    beginnings = query.get("q", "").startswith("customer")  # of a thousand words, of which a list is made
    most = 4 * MANY if beginnings and who != CY else 120_000
    assert steps(sizes[1], who, filter_of(query)) < (most if who != CY else 40_000)


@pytest.mark.parametrize("who", [LOCAL, ANN, CY], ids=["admin", "operator", "of few jobs"])
def test_which_of_some_jobs_a_filter_has_is_what_the_list_shows_of_them(sizes: tuple[str, str], who: Account):
    conn = connection(sizes[0])
    shown = [job for (job,) in conn.execute("select id from jobs where id % 97 = 3 order by id")]
    for query in FILTERS:
        wanted = filter_of(query)
        has = set(search.page_of(conn, who, wanted, 10**18, 2000))
        for some in (shown, shown[:1], shown[1:2], shown[-1:]):
            assert search.matching(conn, who, wanted, some) == has.intersection(some), query
        few = steps_of(sizes[1], partial(search.matching, connection(sizes[1]), who, wanted, shown))
        assert few < 20_000, query


def test_counts_are_kept_with_each_end_and_each_delete(path: str):
    jobs = Jobs(path)
    done = [submit(path) for _ in range(3)]
    for job in done:
        jobs.fail(job, "so")
    submit(path)
    assert jobs.counted(ANN, Filter()).jobs["failed"] == 3
    assert jobs.counted(ANN, Filter(task="counter", status="queued")).jobs["queued"] == 1
    Maintenance(path).prune(Keep(jobs=1))
    assert jobs.counted(ANN, Filter()).jobs["failed"] == 1
    assert jobs.counted(BEN, Filter()).jobs[""] == 0
    totals = connection(path).execute("select owner, task, status, jobs from totals").fetchall()
    assert totals == [("ann", "counter", "failed", 1)]


def test_of_very_many_it_says_only_that_there_are_more(sizes: tuple[str, str]):
    counted = Jobs(sizes[1]).counted(LOCAL, Filter(q="customer"))
    assert counted.over and not counted.jobs


# ---- as it is served -----------------------------------------------------------------------------------------------


def test_a_program_finds_jobs_and_reads_them_page_by_page(server: Server):
    mark = f"m{time.time_ns()}"
    jobs = [server.begin("counter", loops=1, tags=[mark, "crm"]) for _ in range(3)]
    other = server.begin("counter", loops=1, tags=[mark])
    for job in [*jobs, other]:
        server.ended(job)
    page = server.client.get(
        "/api/jobs", params={"q": f"{mark} crm", "limit": 2, "status": "completed"}
    ).json()
    assert [job["id"] for job in page["jobs"]] == jobs[:0:-1] and page["next"] == jobs[1]
    assert page["jobs"][0]["tags"] == [mark, "crm"]
    rest = server.client.get("/api/jobs", params={"tag": mark, "after": page["next"]}).json()
    assert [job["id"] for job in rest["jobs"]] == [jobs[0]]
    assert server.client.get("/api/jobs", params={"tag": mark, "status": "active"}).json()["jobs"] == []
    assert server.client.get("/api/jobs?status=odd").status_code == 422


def test_the_page_filters_by_its_address_and_its_tags_are_links(server: Server):
    tag = f"t{time.time_ns()}/ä+b"
    job = server.begin("counter", loops=1, tags=[tag])
    other = server.begin("counter", loops=2)
    for one in (job, other):
        server.ended(one)
    page = server.client.get("/", params={"tag": tag, "status": "completed", "since": "1h"}).text
    assert f'id="job-{job}"' in page and f'id="job-{other}"' not in page
    assert f"tag={quote(tag, safe='').replace('%20', '+')}" in page
    assert 'name="status" value="completed"' in page and 'value="1h" selected' in page


def test_the_form_gives_tags(server: Server):
    form = {"task": "counter", "loops": "1", "option-tags": "one, two one"}
    job = int(server.client.post("/jobs", data=form).headers["Location"].rpartition("/")[2])
    assert server.job(job)["tags"] == ["one", "two"]
    refused = server.client.post("/jobs", data=form | {"option-tags": "<b>"})
    assert refused.status_code == 422 and "A tag is a word" in refused.text


def test_the_list_follows_its_filter_live(path: str, monkeypatch: pytest.MonkeyPatch):
    slots = [7]
    monkeypatch.setattr(lists, "this_slot", lambda: slots[-1])
    feed = Feed(Jobs(path))
    wanted = Filter(tag="crm", status="active")
    viewer = ListViewer(feed, "", LOCAL, wanted, feed.jobs.seq())
    mine = submit(path, tags=("crm",))
    other = submit(path)
    feed.look()
    first = text_of(viewer)
    assert f'id="job-{mine}"' in first and f'id="job-{other}"' not in first
    assert 'hx-target="#jobs-filter"' in first and "Active<span" in first.replace("\n", "")
    feed.jobs.fail(mine, "so")
    feed.look()
    second = text_of(viewer)
    assert f'<hx-partial hx-target="#job-{mine}" hx-swap="delete">' in second
    assert "jobs-filter" not in second and viewer.patience() is not None
    slots.append(8)
    assert "jobs-filter" in text_of(viewer)


def text_of(viewer: ListViewer) -> str:
    return "".join((piece if isinstance(piece, bytes) else piece.plain).decode() for piece in viewer.next())
