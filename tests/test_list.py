"""The list of jobs: what moves before what has ended, what needs a person on top, and one drawing for all who look."""

import asyncio
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from by_hand import OutboxByHand
from place import Place

from rowcast.components import to_html
from rowcast.dashboard import create
from rowcast.feed import lists
from rowcast.feed.lists import ListViewer
from rowcast.feed.watch import Feed
from rowcast.jobs import Jobs
from rowcast.pages.jobs import job_row
from rowcast.pages.needs import needs_part
from rowcast.pages.picker import form_of, picker
from rowcast.pages.results import results_table
from rowcast.pages.skeleton import ASKS
from rowcast.tables import search
from rowcast.tables.accounts import Accounts
from rowcast.tables.bulk import Bulk
from rowcast.tables.database import close_databases, connection, tick, transaction
from rowcast.tables.maintenance import Keep, Maintenance
from rowcast.tables.needs import needs_of
from rowcast.tables.schema import prepare
from rowcast.tables.shares import Shares
from rowcast.tasks import clock
from rowcast.tasks.accounts import LOCAL, Account
from rowcast.tasks.built_in import counter
from rowcast.tasks.filters import MOVES, STATUSES, Filter, filter_of, order_of
from rowcast.tasks.needs import NOTHING
from rowcast.tasks.notify import Notify, Usual, checked
from rowcast.tasks.records import Held, Options
from rowcast.tasks.registry import REGISTRY, task
from rowcast.tasks.settings import BadSetting, Settings
from rowcast.tasks.work import Report, Result
from tests.conftest import until
from tests.test_components import a_job, an_item


@task
def mine_alone() -> None:
    """A task of one's own."""


async def nothing(item: str) -> None: ...


MINE = REGISTRY.pop("mine_alone")
ANN = Account("ann", "operator")
BEN = Account("ben", "operator")
ADA = Account("ada", "admin")
EVE = Account("eve", "admin")


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    made = str(tmp_path / "rowcast.db")
    prepare(made)
    yield made
    close_databases()


@pytest.fixture(autouse=True)
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The looks for rows that are no longer so, which come as a test says."""
    made = [lists.this_look()]
    monkeypatch.setattr(lists, "this_look", lambda: made[-1])
    return made


def submit(path: str, owner: str = "ann", task: Any = counter, **options: Any) -> int:
    job, _ = Jobs(path).submit(task, {"loops": 3}, owner, "background", Options(**options))
    return job.id


def change(path: str, job: int, **values: Any) -> None:
    """Have the job as an engine would leave it."""
    with transaction(connection(path)) as conn:
        sets = ", ".join(f"{name} = ?" for name in values)
        conn.execute(f"update jobs set {sets}, seq = ? where id = ?", (*values.values(), tick(conn), job))


# ---- the order -----------------------------------------------------------------------------------------------------


def test_what_moves_stands_before_what_has_ended_on_every_page_of_every_filter(path: str):
    jobs = Jobs(path)
    for n in range(40):
        job = submit(path, "ann" if n % 3 else "ben", tags=("crm",) if n % 4 == 0 else ())
        if n % 5 == 1:
            jobs.start(job)
        if n % 2:
            jobs.fail(job, "customer is gone") if n % 7 else jobs.act(job, LOCAL, "cancel")
    shared = submit(path, "ben")
    jobs_of_all = jobs.jobs(LOCAL, limit=100)
    Shares(path).add(shared, LOCAL, "role", "operator")
    for who in (LOCAL, ANN, BEN):
        for query in (
            {}, {"q": "customer"}, {"q": "counter"}, {"tag": "crm"}, {"task": "counter"}, {"since": "1h"},
            *[{"status": status} for status in STATUSES],
        ):  # fmt: skip
            wanted = filter_of(query)
            meant = {job.id for job in jobs.jobs(who, wanted, limit=100)}
            expected = sorted(
                (order_of(job, wanted.by_end) for job in jobs_of_all if job.id in meant), reverse=True
            )
            seen: list[int] = []
            while page := jobs.orders(who, wanted, 7, *seen[-1:]):
                assert [order_of(job, wanted.by_end) for job in jobs.listed(page, wanted)] == page
                seen += page
            assert seen == expected, (who.name, query)


def two_rows(path: str, monkeypatch: Any, wanted: Filter) -> tuple[Feed, ListViewer, int, list[int]]:
    """A list of two rows, of which the first moves, and what has ended behind it."""
    monkeypatch.setattr(lists, "JOBS_PAGE", 2)
    long, *short = [submit(path) for _ in range(4)]
    for job in short:
        Jobs(path).fail(job, "so")
    feed = Feed(Jobs(path))
    feed.look()
    viewer = ListViewer(feed, "", ANN, wanted, feed.seq)
    feed.jobs.start(long)
    feed.look()
    assert rows_in(viewer) == [f"job-{long}"]
    feed.jobs.fail(long, "so")
    feed.look()
    return feed, viewer, long, short


def test_a_long_job_that_ends_stands_before_what_had_ended_before(path: str, monkeypatch: Any):
    feed, viewer, long, short = two_rows(path, monkeypatch, Filter())
    over = feed.jobs.job(long, ANN)
    assert feed.jobs.orders(ANN, Filter(), 2) == [over.news, feed.jobs.job(short[-1], ANN).news]
    sent = text_of(viewer)
    assert f'id="job-{long}" data-status="failed" data-order="{over.news}"' in sent
    assert [job.id for job in feed.jobs.listed(feed.jobs.orders(ANN, Filter(task="counter"), 9))] == [
        long,
        *short[::-1],
    ]


def test_where_words_find_the_jobs_what_has_ended_stands_by_its_number_and_others_come_up(
    path: str, monkeypatch: Any
):
    wanted = Filter(q="counter")
    feed, viewer, long, short = two_rows(path, monkeypatch, wanted)
    assert feed.jobs.orders(ANN, wanted, 2) == short[:0:-1]
    sent = text_of(viewer)
    assert f'hx-target="#job-{long}" hx-swap="delete"' in sent
    assert re.findall(r'<tr [^>]*id="(job-\d+)"', sent) == [f"job-{short[-1]}", f"job-{short[-2]}"]


def test_a_row_says_what_holds_its_job_and_when_it_is_done_until_it_has_ended():
    held = Held("rate", "Its own pace holds it <b>.")
    row = to_html(job_row(a_job(held_by=held, eta_range=(60.0, 200.0))))
    assert "Its own pace holds it &lt;b" in row and "left" in row and str(MOVES + 7) in row
    over = to_html(
        job_row(a_job(held_by=held, eta_range=(60.0, 200.0), status="completed", finished_at=9.0, news=44))
    )
    assert "pace holds it" not in over and 'data-order="44"' in over


def test_jobs_that_are_deleted_leave_the_list_of_who_looks_and_its_counts(path: str, monkeypatch: Any):
    slots = count(1)
    monkeypatch.setattr(lists, "this_slot", lambda: next(slots))  # each look is in another moment
    monkeypatch.setattr(lists, "JOBS_PAGE", 2)
    first, second, third, moves = jobs = [submit(path) for _ in range(4)]
    for job in jobs[:3]:
        Jobs(path).fail(job, "so")
    feed = Feed(Jobs(path))
    feed.look()
    viewers = [ListViewer(feed, "", who, Filter(), feed.seq) for who in (ANN, ADA)]
    for deleted, failed, left in (
        (third, 2, [moves, second]),
        (second, 1, [moves, first]),
        (first, 0, [moves]),
    ):
        assert Bulk(path).delete([deleted]) == 1
        Maintenance(path).prune(Keep())
        feed.look()
        for viewer in viewers:
            sent = text_of(viewer)
            assert re.search(r'<a [^>]*id="jobs-failed"[^>]*>Failed<span class="n"> (\d)', sent)[1] == str(
                failed
            )
            assert re.findall(r'<tr [^>]*id="(job-\d+)"', sent) == [f"job-{job}" for job in left]
            assert ("Earlier jobs" in sent) == (len(left) == 2)
            assert text_of(viewer) == ""
    monkeypatch.setattr(lists, "list_frame", lambda *a: pytest.fail("drawn whole"))
    change(path, moves, status="running")
    feed.look()
    assert [rows_in(viewer) for viewer in viewers] == [[f"job-{moves}"]] * 2


def test_a_job_comes_into_the_list_of_whom_it_is_shared_with_and_leaves_it(path: str):
    Accounts(path).add("ben", "operator", "a bicycle over twelve mountains")
    job = submit(path)
    own = submit(path, "ben")
    feed = Feed(Jobs(path))
    feed.look()
    viewer = ListViewer(feed, "", BEN, Filter(), feed.seq)
    for change_it, seen in (Shares(path).add, [job, own]), (Shares(path).remove, [own]):
        change_it(job, ANN, "account", "ben")
        feed.look()
        assert sorted(rows_in(viewer)) == sorted(f"job-{one}" for one in seen)
        change_it(job, ANN, "account", "ben")
        feed.look()
        assert rows_in(viewer) == [], "nothing has changed by that"


def test_a_row_says_what_holds_its_job_by_now_and_how_fast_slow_work_goes(path: str, monkeypatch: Any):
    second = [int(time.monotonic())]
    monkeypatch.setattr(lists, "this_second", lambda: second[0])
    place = Place(path)
    job, other = (place.begin(nothing, [str(n) for n in range(50)], concurrency=2) for _ in range(2))
    place.ledger.heartbeat("one", "here", 1, "background", "1")
    place.ledger.exchange(job.id, "one", Report(limit=2))
    change(path, job.id, started_at=clock.now() - 100, begun_at=None)
    with transaction(connection(path)) as conn:
        conn.execute(
            "insert into throughput (job, second, items) values (?, ?, 3)", (job.id, int(clock.now() - 30))
        )
    feed = Feed(place.jobs)
    viewer, beside = viewers = [ListViewer(feed, "", LOCAL, Filter(), feed.jobs.seq() - 1) for _ in range(2)]

    def said(html: str) -> dict[str, list[str]]:
        """What the rows say of what holds their jobs, and how fast they go."""
        rows = re.findall(r'<tr id="job-(\d+)".*?"is">(.*?)</td>.*?num rate">(.*?)</td>', html)
        return {job: [re.sub("<.*?>", "", held), rate] for job, held, rate in rows}

    def anew() -> dict[str, list[str]]:
        return said(to_html(*map(job_row, place.jobs.listed([MOVES + job.id]))))

    feed.look()
    first = [said(text_of(viewer)) for viewer in viewers]
    assert first == [anew()] * 2 and first[0][str(job.id)][1] != "–"
    place.jobs.tune(job.id, LOCAL, 40, 0.01)
    feed.look()
    assert [said(text_of(viewer)) for viewer in viewers] == first != [anew()] * 2, "asked for once a second"
    assert text_of(viewer) == "" and 0 <= viewer.patience() <= 1
    second[0] += 1
    place.ledger.exchange(other.id, "one", Report(limit=1))
    feed.look()
    sent = said(text_of(viewer))
    assert sent.keys() == {str(job.id), str(other.id)} and sent | anew() == sent
    assert text_of(viewer) == "" and viewer.late == lists.NOBODY
    assert said(text_of(beside)) == sent
    place.jobs.tune(job.id, LOCAL, 41, None)
    place.jobs.tune(job.id, LOCAL, 42, None)
    feed.look()
    text_of(viewer)
    second[0] += 1
    assert said(text_of(viewer)) == {} and text_of(viewer) == ""
    close_databases()


def test_a_row_says_nothing_of_now_that_is_no_longer_so(path: str, monkeypatch: Any, looks: list[int]):
    place = Place(path)
    job = place.begin(nothing, [str(n) for n in range(50)], concurrency=40)
    place.ledger.heartbeat("one", "here", 1, "background", "1")
    given = place.ledger.exchange(job.id, "one", Report(limit=40)).items
    place.ledger.exchange(job.id, "one", Report([Result(item.id, 1, "completed") for item in given[:30]]))
    feed = Feed(place.jobs)
    feed.look()
    followed, beside = viewers = [ListViewer(feed, "", LOCAL, Filter(), feed.seq - 1) for _ in range(2)]
    opened = ListViewer(feed, "", LOCAL, Filter(), feed.seq)
    assert '"num rate">–' not in text_of(followed) and text_of(beside) and not text_of(opened)

    def pass_by() -> list[str]:
        """What each page is sent at the next look."""
        looks.append(looks[-1] + 1)
        return [text_of(viewer) for viewer in (*viewers, opened)]

    with transaction(connection(path)) as conn:  # time goes by, and nothing is heard of the worker
        conn.execute("update throughput set second = second - 100000")
        conn.execute("update workers set lease = 0")
    monkeypatch.setattr(lists, "this_second", lambda: 1)
    drawn: list[Any] = []
    draw = lists.jobs_frame
    monkeypatch.setattr(lists, "jobs_frame", lambda *a: drawn.append(a) or draw(*a))
    sent = pass_by()
    assert sent[0] == sent[1] == sent[2] and '"num rate">–' in sent[0] and "No worker" in sent[0]
    assert len(drawn) == 1, "once for all"
    assert pass_by() == [""] * 3 and followed.patience() is not None
    place.jobs.act(job.id, LOCAL, "cancel")
    feed.look()
    assert all(text_of(viewer) for viewer in (*viewers, opened))
    assert pass_by() == [""] * 3 and not followed.shown


# ---- one drawing for all -------------------------------------------------------------------------------------------


def test_all_who_see_the_same_are_sent_one_drawing_and_who_sees_other_jobs_has_their_own(
    path: str, monkeypatch: Any
):
    drawn: list[str] = []
    for name in ("jobs_frame", "counts_frame"):
        draw = getattr(lists, name)
        monkeypatch.setattr(lists, name, lambda *a, n=name, draw=draw: drawn.append(n) or draw(*a))
    monkeypatch.setattr(lists, "this_slot", lambda: 1)  # all in one moment
    job = submit(path)
    feed = Feed(Jobs(path))
    viewers = [ListViewer(feed, "", who, Filter(), 0) for who in [ADA, EVE] * 20]
    others = [ListViewer(feed, "", BEN, Filter(), 0), ListViewer(feed, "", ADA, Filter(status="failed"), 0)]
    feed.look()
    first, *rest = [viewer.next() for viewer in viewers]
    assert all(a is b for sent in rest for a, b in zip(sent, first, strict=True))
    assert drawn == ["jobs_frame", "counts_frame"]
    frame = b"".join(piece.plain for piece in first).decode()
    assert f'id="job-{job}"' in frame and "ann" in frame, "whose it is, for who sees the jobs of all"
    assert [f'id="job-{job}"' in text_of(viewer) for viewer in others] == [False, False]


def test_a_message_that_is_given_up_after_its_job_has_ended_is_told_of_by_the_list_of_jobs(
    path: str, monkeypatch: Any
):
    slots = count(1)
    monkeypatch.setattr(lists, "this_slot", lambda: next(slots))  # each look is in another moment
    job = submit(path, notify=checked([{"channel": "webhook", "to": "https://example.com/gone"}]))
    feed = Feed(Jobs(path))
    viewer = ListViewer(feed, "", ANN, Filter(), 0)
    feed.jobs.fail(job, "so")
    (message,) = OutboxByHand(path).claim(1, 1, {})
    feed.look()
    assert f'id="job-{job}"' in text_of(viewer) and text_of(viewer) == ""
    OutboxByHand(path).give_up(message, 410, "gone")
    feed.look()
    assert 'id="failing"' in text_of(viewer) and text_of(viewer) == ""


def test_who_may_only_look_shares_no_drawing_with_who_may_act(path: str):
    job = submit(path)
    change(path, job, status="paused", reason="Stopped by its rule")
    feed = Feed(Jobs(path))
    reads = Account("eve", "admin", "read")
    assert lists.alike(ADA) == lists.alike(EVE) != lists.alike(reads)
    assert lists.alike(ANN) != lists.alike(BEN)
    feed.look()


def test_what_others_do_costs_a_viewer_no_counting(path: str, monkeypatch: Any, looks: list[int]):
    feed = Feed(Jobs(path))
    viewer = ListViewer(feed, "", BEN, Filter(), feed.jobs.seq())
    submit(path, "ann")
    feed.look()
    looks.append(looks[-1] + 1)
    viewer.next()  # once: nobody knows whether messages, or its rows, have moved since its page was drawn
    monkeypatch.setattr(lists, "counts_frame", lambda *a: pytest.fail("counted"))
    submit(path, "ann")
    feed.look()
    assert viewer.next() == () and viewer.cursor == feed.seq and viewer.patience() is None


# ---- what needs a person -------------------------------------------------------------------------------------------


def ids_of(path: str, who: Account) -> list[int]:
    return [job.id for job in Jobs(path).needs(who).jobs]


def test_what_waits_for_a_person_is_found_and_nothing_else(path: str):
    by_rule, by_hand, unknown, running, gone, bens = [submit(path) for _ in range(5)] + [submit(path, "ben")]
    change(
        path, by_rule, status="paused", reason="Stopped by its rule (5% failed): 30 of 600 items have failed."
    )
    Jobs(path).act(by_hand, ANN, "pause")
    change(path, unknown, status="completed", unknown=3, completed=4, started_at=1.0, finished_at=2.0)
    change(path, running, status="running")
    change(path, gone, owner="", unknown=2)
    change(path, bens, status="paused", reason="The canary is over", canary=5)
    assert ids_of(path, ANN) == [unknown, by_rule]
    assert ids_of(path, BEN) == [bens] and ids_of(path, LOCAL) == [bens, unknown, by_rule]
    Shares(path).add(bens, LOCAL, "role", "operator")
    assert ids_of(path, ANN) == [bens, unknown, by_rule], "what is shared with one, too"
    Jobs(path).act(by_rule, ANN, "resume")
    assert ids_of(path, ANN) == [bens, unknown]


def test_needs_are_read_by_the_indexes_of_their_own(path: str):
    conn = connection(path)
    plans: list[str] = []
    read = conn.execute

    class Explaining:
        def execute(self, sql: str, values: Any = ()) -> Any:
            plans.extend(row[3] for row in read(f"explain query plan {sql}", values))
            return read(sql, values)

    for who in (LOCAL, ANN):
        needs_of(Explaining(), who)
    of_jobs = [plan for plan in plans if re.match(r"(SCAN|SEARCH) jobs", plan)]
    assert of_jobs and all(re.search("jobs_active|jobs_unknown|jobs_by_owner_unknown", p) for p in of_jobs), (
        plans
    )
    assert not [p for p in plans if "TEMP B-TREE" in p or p.startswith("SCAN deliveries")], plans


def test_messages_that_were_given_up_are_a_need(path: str):
    job = submit(path)
    values = {
        "job": job, "task": "counter", "owner": "ann", "channel": "webhook", "receiver": "https://h.example.com/x",
        "trusted": 0, "event": "completed", "body": "{}", "attempts": 1, "created_at": 1.0, "asked_at": 1.0,
        "due_at": 1.0,
    }  # fmt: skip
    with transaction(connection(path)) as conn:
        for n, (status, error) in enumerate(
            [("delivered", None), ("failed", "410 Gone"), ("delivered", None)]
        ):
            row = values | {"id": f"msg_{n}", "status": status, "error": error, "tried_at": clock.now() + n}
            conn.execute(
                f"insert into deliveries ({', '.join(row)}) values ({', '.join('?' * len(row))})",
                tuple(row.values()),
            )
    found = Jobs(path).needs(ANN)
    assert [one.error for one in found.lost] == ["410 Gone"] and found.failing == []
    said = to_html(*needs_part(found))
    assert "A message was not delivered" in said and "410 Gone" in said and "/messages?status=failed" in said
    assert Jobs(path).needs(BEN) == NOTHING and Jobs(path).needs(LOCAL).lost == found.lost


def test_a_need_comes_and_goes_live_with_what_can_be_done_about_it(path: str):
    feed = Feed(Jobs(path))
    viewer = ListViewer(feed, "", LOCAL, Filter(), feed.jobs.seq())
    job = submit(path, "local")
    feed.jobs.start(job)
    change(path, job, status="paused", reason="Stopped by its rule: <i>", failed=2, total=9)
    feed.look()
    said = until(lambda: (text := text_of(viewer)) and "need-" in text and text)
    assert "Stopped by its rule: &lt;i&gt;" in said and f'action="/jobs/{job}/resume"' in said
    assert "Look at the 2" in said
    feed.jobs.act(job, LOCAL, "cancel")
    feed.look()
    gone = until(lambda: (text := text_of(viewer)) and "#needs" in text and text)
    assert "need-" not in gone


# ---- the picker ----------------------------------------------------------------------------------------------------


def test_the_picker_has_the_form_of_each_task_and_those_used_lately_first():
    tasks = list(REGISTRY.values())
    last = {"counter": a_job(id=4, task="counter", args='{"loops":3}')}
    html = to_html(picker(tasks, 5, Usual(), last))
    picks = re.findall(r'id="pick-([^"]+)"', html)
    assert picks[0] == "counter" and sorted(picks) == sorted(one.name for one in tasks)
    for one in tasks:
        assert f'aria-label="Start {one.name}"' in html
    assert 'action="/jobs/4/again"' in html and "loops=3" in html
    assert (
        "<details open" not in html and "open" not in re.findall(r"<details[^>]*id=\"start\"[^>]*>", html)[0]
    )
    assert " open" in re.findall(r"<details[^>]*>", to_html(picker(tasks, 5, Usual(), {}, True)))[0]


def test_a_form_is_drawn_anew_for_other_users_another_account_and_code_that_was_taken_up():
    def drawn(task: Any, users: int = 5, usual: Usual = Usual(), who: Account = LOCAL) -> str:
        before = ASKS.set(who)
        try:
            return form_of(task, users, usual)
        finally:
            ASKS.reset(before)

    task = REGISTRY["update_users"]
    assert drawn(task) is drawn(task)
    assert "6 users" in drawn(task, users=6) and "5 users" in drawn(task)
    told = Usual((Notify("webhook", "https://hooks.example.com/secret"),))
    settings_own = [drawn(task, usual=told, who=who) for who in (ADA, ANN)]
    assert settings_own[0] != settings_own[1], "an operator sees less of the settings' own address"
    edited = replace(task, concurrency=77)
    assert 'placeholder="77"' in drawn(edited) and 'placeholder="77"' not in drawn(task)


@pytest.mark.parametrize(
    ("items", "columns"),
    [
        ([an_item(result=None), an_item(result="null")], 2),
        ([an_item(code=200, result=None)], 3),
        ([an_item(error="no <b>", code=404), an_item()], 4),
    ],
)
def test_a_column_of_the_results_in_which_nothing_stands_is_left_out(items: list[Any], columns: int):
    html = to_html(results_table(items))
    assert html.count("<th") - html.count("<thead") == columns
    assert html.count("<td") == columns * len(items)


# ---- built-in tasks ------------------------------------------------------------------------------------------------


def test_built_in_tasks_can_be_hidden_from_everything_that_starts_one(tmp_path: Path):
    REGISTRY["mine_alone"] = MINE
    made = create(Settings(database=str(tmp_path / "r.db"), built_in="none"))

    async def all_of_it() -> None:
        transport = httpx.ASGITransport(made.asgi, client=("127.0.0.1", 5))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:5001") as client:
            for page in ("/", "/tasks", "/schedules", "/halts", "/api/openapi.json"):
                text = (await client.get(page)).text
                assert "mine_alone" in text and "bulk_email" not in text, page
            assert (await client.get("/tasks/counter")).status_code == 404
            refused = await client.post("/api/jobs", json={"task": "counter"})
            assert refused.status_code == 422 and "There is no task 'counter'" in refused.json()["error"]
            assert (await client.post("/jobs", data={"task": "counter"})).status_code == 422
            refused = await client.post("/api/halts", json={"task": "countr"})
            assert refused.status_code == 422 and "counter" not in refused.json()["error"]
            cron = {"task": "counter", "cron": "0 6 * * *"}
            assert (await client.post("/api/schedules", json=cron)).status_code == 422

    try:
        made.prepare()
        asyncio.run(all_of_it())
    finally:
        made.engine.stop()
        del REGISTRY["mine_alone"]
        close_databases()


def test_what_else_is_said_of_built_in_tasks_is_refused():
    with pytest.raises(BadSetting, match="--built-in is all or none, not 'some'"):
        Settings(built_in="some")


def rows_in(viewer: ListViewer) -> list[str]:
    return re.findall(r'<tr [^>]*id="(job-\d+)"', text_of(viewer))


def text_of(viewer: ListViewer) -> str:
    return "".join((piece if isinstance(piece, bytes) else piece.plain).decode() for piece in viewer.next())


@pytest.mark.parametrize("who", [LOCAL, ANN], ids=["admin", "operator"])
@pytest.mark.parametrize("wanted", [Filter(), Filter(task="counter")], ids=["all", "of a task"])
def test_the_list_by_end_is_read_from_an_index_in_its_order(path: str, who: Account, wanted: Filter):
    conn = connection(path)
    plan: list[str] = []

    class Noted:
        def execute(self, sql: str, values: Any = ()) -> Any:
            plan.extend(row[3] for row in conn.execute(f"explain query plan {sql}", values) if "news" in sql)
            return conn.execute(sql, values)

    assert search.ended_of(Noted(), who, wanted, MOVES, 51, search.OVER) == []
    assert plan and all(line.startswith("SEARCH jobs USING INDEX jobs_") for line in plan), plan
