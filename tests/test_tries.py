"""Every try is kept: with what the API said, over every engine, also of what was killed, cancelled or broken off."""

import asyncio
import collections
import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from conftest import Api, Server, until

from rowcast.jobs import Jobs
from rowcast.tables.ledger import Ledger
from rowcast.tables.maintenance import Keep, Maintenance
from rowcast.tables.schema import prepare
from rowcast.tasks.masking import masked, masked_text, unmasked
from rowcast.tasks.records import OWNER, Options
from rowcast.tasks.registry import Task, task
from rowcast.tasks.tries import ItemNow
from rowcast.tasks.work import Chunk, Ended, Report, Result, Step, in_doubt
from tests.test_components import a_job, an_item

FLAGS = ("--tasks", "mine")
FILES = {
    "mine.py": """
import asyncio, httpx, pathlib, time
from rowcast import Retry, step, task, track

@task(concurrency=20, max_attempts=5, backoff=0.02, backoff_max=0.1)
async def post(user: dict, api: httpx.AsyncClient):
    "One post; the API may be tired."
    (await api.post(f"/update-user/{user['email']}")).raise_for_status()

@task(max_attempts=2, backoff=0.01)
async def looks_itself(user: dict, api: httpx.AsyncClient):
    "Looks at the answer, and raises nothing of the client's."
    answer = await api.post(f"/update-user/{user['email']}")
    if answer.is_error:
        raise Retry("not now", after=0.01)

@task(timeout=0.2, max_attempts=2, backoff=0.01)
async def hangs(item: str):
    await asyncio.sleep(30)

@task(max_attempts=3, backoff=0.01)
def third_time(item: str):
    mark = pathlib.Path(f"{item}.tries")
    tries = mark.read_text() if mark.exists() else ""
    mark.write_text(tries + "x")
    if len(tries) < 2:
        raise Retry(f"try {len(tries) + 1}", after=0.01)

@task(concurrency=3)
async def waits(item: str):
    "Until there is a file of that name."
    while not pathlib.Path(item).exists():
        await asyncio.sleep(0.02)

@task(max_attempts=3, backoff=0.01)
def steps_of_one(name: str):
    "Its second step fails once."
    step("first", str.upper, name)
    step("second", fails_once, name)

def fails_once(name):
    mark = pathlib.Path(f"{name}.step")
    if not mark.exists():
        mark.touch()
        raise Retry("not yet", after=0.01)

@task
async def leaks(item: dict):
    "Its error bears an address with a secret in it."
    raise RuntimeError("POST https://ann:hunter2@example.com/x?token=abc123&page=2 with Bearer abcdef123456")
"""
}


def item_of(server: Server, job: int, number: int) -> dict[str, Any]:
    return server.client.get(f"/api/jobs/{job}/items/{number}").json()


def whole(server: Server, job: int) -> dict[str, dict[str, Any]]:
    """Each item with its tries, by key."""
    return {item["key"]: item_of(server, job, item["id"]) for item in server.items(job)}


def tries(item: dict[str, Any]) -> list[tuple[int, str, int | None]]:
    return [(one["attempt"], one["status"], one["code"]) for one in item["attempts"]]


def test_the_tries_are_the_posts_that_the_api_has_counted(server: Server, api: Api):
    kinds = ["once", "a", "b", "c", "gone", "d", "busy", "e", "f", "g"]  # three in ten are refused at first
    users = [f"{kinds[n % 10]}-{n}@example.com" for n in range(200)]
    server.users(*users[:100], "limit-1@example.com", "limit-2@example.com", *users[100:])
    done = server.ended(server.begin("post"))
    assert (done["completed"], done["failed"]) == (162, 40)
    posts = collections.Counter(key for _, key, *_ in api.log())
    counted = {}
    for item in server.items(done["id"]):
        found = item_of(server, done["id"], item["id"])
        counted[f"{done['id']}-{item['id']}"] = len(found["attempts"])
        numbers = [one["attempt"] for one in found["attempts"]]
        # what is given back before it begins, as the API has asked for a pause, uses a number up
        assert numbers == sorted(set(numbers)) and numbers[-1] == item["attempt"]
        *before, last = found["attempts"]
        assert all(one["status"] == "failed" and one["code"] in (429, 503) for one in before)
        assert (last["status"], last["code"]) == (item["status"], item["code"])
    assert counted == dict(posts)


def test_a_try_says_when_it_began_how_long_it_took_and_what_the_api_answered(server: Server, api: Api):
    server.users("limit-1@example.com", "gone-1@example.com", "a@example.com")
    found = whole(server, server.ended(server.begin("post"))["id"])
    limited = found["limit-1@example.com"]
    assert tries(limited) == [(1, "failed", 429), (2, "completed", 200)]
    first, second = limited["attempts"]
    assert first["answer"] == {
        "text": '{"error":"too many requests"}',
        "content_type": "application/json",
        "request_id": None,
        "retry_after": "1",
    }
    assert first["error"] == "Too Many Requests: too many requests"
    assert second["answer"] is None and second["error"] is None
    assert first["started_at"] < second["started_at"] <= limited["updated_at"]
    assert all(one["ms"] > 0 and one["worker"] for one in limited["attempts"])
    assert tries(found["gone-1@example.com"]) == [(1, "failed", 404)]
    assert tries(found["a@example.com"]) == [(1, "completed", 200)]
    assert found["a@example.com"]["attempts"][0]["worker"]


def test_a_first_try_that_succeeds_is_the_items_own_record(server: Server, api: Api):
    server.users("a@example.com", "b@example.com")
    job = server.ended(server.begin("post"))["id"]
    with sqlite3.connect(server.directory / "data" / "rowcast.db") as found:
        assert found.execute("select count(*) from tries where job = ?", (job,)).fetchone() == (0,)
    found.close()


def test_the_answer_is_kept_of_a_task_that_looks_at_it_itself(server: Server, api: Api):
    server.users("busy-1@example.com")
    job = server.ended(server.begin("looks_itself"))["id"]
    (item,) = whole(server, job).values()
    assert tries(item) == [(1, "failed", 503), (2, "failed", 503)]
    assert [one["answer"]["text"] for one in item["attempts"]] == ['{"error":"service unavailable"}'] * 2
    assert item["attempts"][0]["error"] == "Retry: not now"


def test_a_try_that_takes_too_long_is_kept_as_what_it_was(server: Server):
    job = server.ended(server.begin("hangs", items=["one"]))["id"]
    (item,) = whole(server, job).values()
    assert [(one["status"], one["error"]) for one in item["attempts"]] == [
        ("failed", "Timed out after 0.2 s"),
        ("failed", "Timed out after 0.2 s"),
    ]


def test_a_try_that_runs_is_shown_and_one_that_is_cancelled_is_kept(server: Server):
    job = server.begin("waits", items=["never"])
    until(lambda: server.job(job)["running"])
    (item,) = whole(server, job).values()
    assert tries(item) == [(1, "running", None)]
    server.act(job, "cancel")
    server.ended(job)
    (item,) = whole(server, job).values()
    assert [(one["status"], one["error"]) for one in item["attempts"]] == [
        ("cancelled", "Cancelled while this ran")
    ]


def test_what_a_killed_worker_had_is_a_try_of_which_nobody_knows_what_became(server: Server):
    job = server.begin("waits", items=["go"])
    until(lambda: server.job(job)["running"])
    (before,) = whole(server, job).values()
    worker = server.client.get("/api/workers").json()["workers"][0]["name"]
    with sqlite3.connect(server.directory / "data" / "rowcast.db") as found:
        ((pid,),) = found.execute("select pid from workers where id = ?", (worker,)).fetchall()
    found.close()
    os.kill(pid, signal.SIGKILL)
    (server.directory / "go").touch()
    server.ended(job)
    (item,) = whole(server, job).values()
    assert [(one["status"], one["error"]) for one in item["attempts"]] == [
        ("unknown", "The worker died while this ran"),
        ("completed", None),
    ]
    assert item["attempts"][0]["worker"] == before["attempts"][0]["worker"] == worker
    assert item["attempts"][1]["worker"] not in (None, worker)


def test_a_step_that_fails_and_is_called_again_shows_both_tries(server: Server):
    job = server.ended(server.begin("steps_of_one", name="x"))["id"]
    found = whole(server, job)
    assert tries(found["first"]) == [(1, "completed", None)]
    assert [(one["status"], one["error"]) for one in found["second"]["attempts"]] == [
        ("failed", "Retry: not yet"),
        ("completed", None),
    ]


def test_no_try_shows_a_secret(server: Server):
    secrets = {
        "email": "a@example.com",
        "password": "hunter2",
        "api_key": "k-1",
        "nested": [{"authToken": "t"}],
    }
    job = server.ended(server.begin("leaks", items=[secrets]))["id"]
    (item,) = whole(server, job).values()
    assert item["payload"] == {
        "email": "a@example.com", "password": "•••", "api_key": "•••", "nested": [{"authToken": "•••"}],
    }  # fmt: skip
    (one,) = item["attempts"]
    for secret in ("hunter2", "abc123", "abcdef123456"):
        assert secret not in one["error"] and secret not in item["error"]
    assert "page=2" in one["error"]


def test_an_item_of_another_job_is_not_there(server: Server):
    one, other = (server.ended(server.begin("third_time", items=[key]))["id"] for key in ("p", "q"))
    (item,) = server.items(one)
    assert server.client.get(f"/api/jobs/{other}/items/{item['id']}").status_code == 404
    assert server.client.get(f"/api/jobs/{one}/items/{item['id'] + 10**6}").status_code == 404


def test_items_are_found_by_status_group_and_key(server: Server, api: Api):
    server.users(*(f"{kind}-{n}@example.com" for n in range(6) for kind in ("gone", "nap", "user")))
    api.stall()  # or the pause for which the first ones ask would hold back the last
    job = server.begin("post")
    until(lambda: len(api.log()) == 18)
    api.answer()
    until(lambda: len(server.items(job, status="retrying")) == 6 or server.job(job)["finished_at"])
    assert {item["key"].partition("-")[0] for item in server.items(job, status="retrying")} == {"nap"}
    until(lambda: server.job(job)["failed"] == 6)
    (group,) = server.client.get(f"/api/jobs/{job}/errors").json()["errors"]
    assert len(server.items(job, group=group["fingerprint"])) == 6
    assert [i["key"] for i in server.items(job, find="GONE-3")] == ["gone-3@example.com"]
    assert [i["key"] for i in server.items(job, find="-3", status="failed")] == ["gone-3@example.com"]
    pages = []
    after: int | None = -1
    while after is not None:
        query = {"find": "gone", "limit": 2, "after": after}
        page = server.client.get(f"/api/jobs/{job}/items", params=query).json()
        pages.append([item["key"] for item in page["items"]])
        after = page["next"]
    assert pages == [[f"gone-{n}@example.com", f"gone-{n + 1}@example.com"] for n in (0, 2, 4)]
    server.act(job, "cancel")


# ---- the ledger, one sentence at a time --------------------------------------------------------------------


def work(item: str) -> None: ...


def loop() -> None: ...


WORK = task(name="tries_work", concurrency=4)(work)
ONCE = task(name="tries_once", idempotent=False)(work)
LOOP = task(name="tries_loop")(loop)


class Book:
    """One database, with a job that a worker has begun."""

    def __init__(self, path: Path, made: Task = WORK, items: int = 1, keep_tries: int = 0):
        self.path = str(path / "rowcast.db")
        prepare(self.path)
        self.jobs = Jobs(self.path)
        self.ledger = Ledger(self.path, keep_tries)
        self.job = self.jobs.submit(made, {}, OWNER, "background", Options())[0].id
        self.jobs.start(self.job)
        if made.shape == "items":
            self.jobs.add_items(self.job, Chunk.of([(f"item {n}", None) for n in range(items)], True))
        self.ledger.heartbeat("one", "elsewhere", 1, "background", "1")

    def claim(self, worker: str = "one") -> list[tuple[int, int]]:
        given = self.ledger.exchange(self.job, worker, Report(limit=100)).items
        return [(item.id, item.attempt) for item in given]

    def report(self, *results: Result, worker: str = "one") -> None:
        self.ledger.exchange(self.job, worker, Report(list(results)))

    def tries(self, position: int = 0) -> list[tuple[int, str, str | None]]:
        item = self.jobs.items(self.job)[position]
        found = self.jobs.item_now(self.job, OWNER, item.id).tries
        return [(one.attempt, one.status, one.error) for one in found]


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path)


def test_a_result_that_comes_too_late_counts_for_nothing_and_still_says_what_became_of_its_try(book: Book):
    ((item, _),) = book.claim()
    book.ledger.rescue("one")
    assert book.tries() == [(1, "unknown", "The worker died while this ran")]
    ((_, attempt),) = book.claim("two")
    book.report(Result(item, 1, "queued", 503, "busy", excerpt="{}", run_at=9.0))
    assert book.tries() == [(1, "failed", "busy"), (2, "running", None)]
    book.report(Result(item, attempt, "completed", 200), worker="two")
    book.report(Result(item, 1, "completed", 200))
    assert book.tries() == [(1, "completed", None), (2, "completed", None)]
    assert book.jobs.job(book.job, OWNER).completed == 1


def test_what_was_given_back_before_it_began_is_no_try(book: Book):
    ((item, attempt),) = book.claim()
    book.report(Result(item, attempt, "queued", begun=False))
    assert book.tries() == []
    ((_, attempt),) = book.claim()
    book.report(Result(item, attempt, "completed"))
    assert book.tries() == [(2, "completed", None)]


def test_of_what_was_cancelled_the_worker_says_what_it_had_not_begun(tmp_path: Path):
    book = Book(tmp_path, ONCE, items=2)
    (first, _), (second, _) = book.claim()
    book.jobs.act(book.job, OWNER, "cancel")
    cancelled = [(1, "unknown", in_doubt("Cancelled while this ran"))]
    assert book.tries(0) == book.tries(1) == cancelled
    book.report(Result(first, 1, "queued", begun=False), Result(second, 1, "queued"))
    assert (book.tries(0), book.tries(1)) == ([], cancelled)


def test_a_worker_that_stops_leaves_tries_and_what_it_was_given_back_is_told(book: Book):
    ((item, attempt),) = book.claim()
    book.report(Result(item, attempt, "queued"))
    book.claim()
    book.ledger.leave("one")
    assert book.tries() == [(n, "unknown", "The worker stopped while this ran") for n in (1, 2)]


def test_an_answer_that_was_lost_leaves_no_try_of_what_never_arrived(book: Book):
    book.claim()
    book.ledger.give_back(book.job, "one")
    assert book.tries() == []
    book.claim()
    book.ledger.give_back(book.job, "one", begun=True)
    assert book.tries() == [(2, "unknown", "The worker stopped while this ran")]


def test_a_report_that_is_repeated_changes_no_try(book: Book):
    ((item, attempt),) = book.claim()
    for _ in range(2):
        book.report(Result(item, attempt, "failed", 404, "gone", ms=5.0, started_at=100.0))
    assert book.tries() == [(1, "failed", "gone")]


def test_of_many_tries_the_newest_are_kept(tmp_path: Path):
    book = Book(tmp_path, keep_tries=3)
    for n in range(6):
        ((item, attempt),) = book.claim()
        book.report(Result(item, attempt, "queued", 503, f"no {n}", run_at=0.001))
    assert [error for *_, error in book.tries()] == ["no 3", "no 4", "no 5"]


def test_of_a_steps_many_tries_the_newest_are_kept(tmp_path: Path):
    book = Book(tmp_path, LOOP, keep_tries=2)
    assert book.ledger.take_body(book.job, "one") is not None
    for n in range(4):
        book.ledger.exchange(book.job, "one", Report(steps=[Step(0, "a", "running")]))
        book.ledger.exchange(book.job, "one", Report(steps=[Step(0, "a", "queued", f"no {n}", run_at=1.0)]))
    assert [error for *_, error in book.tries()] == ["no 2", "no 3"]


def test_a_body_that_raises_ends_the_try_of_its_open_step(tmp_path: Path):
    book = Book(tmp_path, LOOP)
    book.ledger.take_body(book.job, "one")
    book.ledger.exchange(book.job, "one", Report(steps=[Step(0, "a", "running")]))
    book.ledger.exchange(book.job, "one", Report(ended=Ended("broken")))
    assert book.tries() == [(1, "failed", "broken")]


def test_tries_are_deleted_with_their_job(book: Book):
    for _ in range(3):
        ((item, attempt),) = book.claim()
        book.report(Result(item, attempt, "queued", 503, "busy", run_at=0.001))
    ((item, attempt),) = book.claim()
    book.report(Result(item, attempt, "completed"))
    until(lambda: Maintenance(book.path).prune(Keep(days=0.000001)))
    assert book.jobs.conn.execute("select count(*) from tries").fetchone() == (0,)


def test_an_items_tries_are_read_by_their_key_in_a_large_job(book: Book):
    plan = book.jobs.conn.execute(
        "explain query plan select * from tries where job = 1 and item = 2 order by attempt"
    ).fetchall()
    assert [row[3] for row in plan] == ["SEARCH tries USING PRIMARY KEY (job=? AND item=?)"]


def test_the_worker_says_no_more_of_a_first_success_than_before():
    from rowcast.tasks.records import Job
    from rowcast.tasks.work import Claimed
    from rowcast.worker.attempt import TimeLimit, attempt, caller

    job = Job(*[None] * len(Job.__struct_fields__))  # an attempt asks it for its number alone
    item = Claimed(7, "a", None, 1, 0, 0)
    result, _ = asyncio.run(attempt(job, WORK, caller(WORK, {}), item, TimeLimit(None)))
    assert (result.status, result.excerpt, result.started_at) == ("completed", None, 0.0)


# ---- what is masked ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "GET https://ann:pw@example.com/x?access_token=abc&page=2",
            "GET https://•••@example.com/x?access_token=•••&page=2",
        ),
        ('{"api_key": "k-1", "authToken":"t", "n": 1}', '{"api_key": "•••", "authToken":"•••", "n": 1}'),
        ("Authorization: Bearer abcdef", "Authorization: •••"),
        ("set-cookie: id=1; Path=/\nnext", "set-cookie: •••\nnext"),
        ("it used Bearer abcdefgh", "it used Bearer •••"),
        ("Invalid token: it has expired", "Invalid token: it has expired"),
        ("the key is monkey", "the key is monkey"),
    ],
)
def test_what_opens_something_is_masked_in_a_text_and_nothing_else(text: str, shown: str):
    assert masked_text(text) == shown


def test_a_value_is_masked_by_the_names_of_its_fields():
    value = {"password": "x", "max_tokens": 100, "secret": None, "is_token": True, "list": [{"pwd": 1234}]}
    assert masked(value) == value | {"password": "•••", "list": [{"pwd": "•••"}]}


def test_what_was_masked_comes_back_where_it_was_left_alone():
    before = {"email": "a", "password": "x", "more": [{"token": "t"}]}
    edited = masked(before) | {"email": "b"}
    assert unmasked(edited, before) == before | {"email": "b"}


@pytest.mark.parametrize("payload", [None, '"  a\\r\\nb\\n"'], ids=["its key", "too long for a key"])
def test_a_text_that_was_left_alone_is_as_it_was_with_its_spaces_and_line_breaks(payload: str | None):
    look = ItemNow(a_job(), an_item(key="  a\r\nb\n"), payload, [], [])
    for sent in ("  a\r\nb\r\n", "a\r\nb", "a\nb"):
        assert look.edited(sent) == "  a\r\nb\n"
