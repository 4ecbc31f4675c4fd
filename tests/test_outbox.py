"""The outbox: what is told of a job is a row from its end on, and nothing that dies, hangs or says no loses one."""

import asyncio
import contextlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from by_hand import OutboxByHand
from conftest import Server, free_port, until
from post_office import PostOffice
from receiver import Receiver, receiving

from rowcast.jobs import Jobs
from rowcast.messages import chat
from rowcast.messages.channels import CHANNELS, Means, Never
from rowcast.messages.sender import (
    CLOSEST,
    FARTHEST,
    FIRST,
    LIMIT,
    SLOWEST,
    SOON,
    TIMES,
    Sender,
    between_moments,
    wait_after,
    wait_after_look,
)
from rowcast.tables import database
from rowcast.tables.clock import move
from rowcast.tables.counts import change_job, close_if_done
from rowcast.tables.database import close_databases, connection, transaction
from rowcast.tables.maintenance import Keep, Maintenance
from rowcast.tables.outbox import ENDS, FIRST_OF, LANES, OTHERS, Came, Free
from rowcast.tables.schema import prepare
from rowcast.tables.webhooks import Webhooks
from rowcast.tasks import clock
from rowcast.tasks.notify import Notify, Usual, checked
from rowcast.tasks.records import OWNER, Delivery, NotAllowed, Options
from rowcast.tasks.registry import Task
from rowcast.tasks.settings import Settings
from rowcast.worker.started import parent_of, processes

Serve = Callable[..., Server]
TO = "https://hooks.example.com/jobs"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


# ---- written with the end ----------------------------------------------------------------------------------


class Book:
    """Jobs of one database, begun and ended by hand."""

    def __init__(self, path: Path):
        self.path = str(path)
        prepare(self.path)
        self.jobs = Jobs(self.path)
        self.outbox = OutboxByHand(self.path)

    def begin(self, on: tuple[str, ...], name: str = "work", to: str = TO, **options: Any) -> int:
        task = Task(function=print, name=name, entry="builtins:print")
        rules = checked([{"channel": "webhook", "to": to, "on": on}]) if on else ()
        job, _ = self.jobs.submit(task, {}, OWNER, "background", Options(notify=rules, **options))
        self.jobs.start(job.id)
        return job.id

    def do(self, job: int, action: str, **counts: int) -> None:
        with transaction(connection(self.path)) as conn:
            for status, number in counts.items():
                conn.execute(f"update jobs set {status} = ?, total = ? where id = ?", (number, number, job))
            conn.execute("delete from items where job = ?", (job,))
            conn.execute("update jobs set filled = 1, queued = 0 where id = ?", (job,))
            change_job(conn, job, action, "a reason")
            close_if_done(conn, job)

    def told(self, job: int) -> list[str]:
        return [one.event for one in self.outbox.of_job(job)]

    def run(self, on: tuple[str, ...], action: str, name: str = "work", **counts: int) -> list[str]:
        job = self.begin(on, name)
        self.do(job, action, **counts)
        return self.told(job)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    yield Book(tmp_path / "rowcast.db")
    close_databases()


@pytest.mark.parametrize(
    ("action", "event"),
    [
        ("complete", "completed"), ("fail", "failed"), ("cancel", "cancelled"),
        ("stop", "paused"), ("canary", "paused"), ("block", "paused"),
    ],
)  # fmt: skip
def test_whoever_wants_to_know_is_told_and_nobody_else(book: Book, action: str, event: str):
    everything = ("completed", "failed", "cancelled", "paused")
    assert book.run(everything, action) == [event]
    assert book.run((event,), action) == [event]
    assert book.run(tuple(one for one in everything if one != event), action) == []
    assert book.run((), action) == []


def test_a_pause_by_a_person_is_told_to_nobody(book: Book):
    job = book.begin(("paused",))
    book.jobs.act(job, OWNER, "pause")
    assert book.told(job) == []


def test_a_full_disk_that_comes_and_goes_is_told_once_an_hour(book: Book):
    job = book.begin(("paused",))
    for _ in range(3):
        book.do(job, "block")
        book.do(job, "unblock")
    assert book.told(job) == ["paused"]
    connection(book.path).execute("update deliveries set created_at = created_at - 3601")
    book.do(job, "block")
    assert book.told(job) == ["paused", "paused"]


def test_turned_is_told_where_a_run_is_red_and_the_last_was_green_or_the_other_way_round(book: Book):
    on = ("turned",)
    assert book.run(on, "complete", completed=2) == []  # the first of all
    assert book.run(on, "complete", completed=2) == []
    assert book.run(on, "complete", failed=1) == ["turned"]  # completed, with failures
    assert book.run(on, "fail") == []
    assert book.run(on, "cancel") == []  # says nothing of the task
    assert book.run(on, "complete", "another task", completed=1) == []
    assert book.run(on, "complete", completed=2) == ["turned"]
    assert book.run(("completed", "turned"), "complete", unknown=1) == ["completed"]  # once
    assert set(ENDS) == {"completed", "failed"}


def test_a_dry_run_turns_nothing_and_tells_nobody(book: Book):
    assert book.run(("turned",), "complete", completed=1) == []
    dry = book.begin(("turned", "failed"), dry_run=5)
    book.do(dry, "fail")
    assert book.told(dry) == [] and book.outbox.receivers(dry) == []
    assert book.run(("turned",), "complete", completed=1) == []
    usual = Jobs(book.path, Usual((Notify("webhook", TO),), (Notify("webhook", TO),)))
    task = Task(function=print, name="work", entry="builtins:print")
    for named in (None, (Notify("webhook", TO),)):
        job, _ = usual.submit(task, {}, OWNER, "background", Options(dry_run=1, notify=named))
        assert job.notify is None


def test_what_is_told_is_the_job_as_it_was_then(book: Book):
    job = book.begin(("completed",))
    book.do(job, "complete", completed=3)
    (told,) = book.outbox.of_job(job)
    body = json.loads(told.body)
    assert body["type"] == "job.completed" and body["timestamp"].endswith("Z")
    data = body["data"]
    assert (data["id"], data["task"], data["status"], data["completed"]) == (job, "work", "completed", 3)
    assert data["finished_at"] and data["args"] == {} and "notify" not in data
    assert set(data) >= {
        "owner",
        "engine",
        "total",
        "queued",
        "running",
        "failed",
        "cancelled",
        "unknown",
        "rate",
        "seq",
    }


def test_large_arguments_are_left_out_of_a_message(book: Book):
    job = book.begin(("completed",))
    connection(book.path).execute("update jobs set args = ?", (json.dumps({"items": ["x" * 20_000]}),))
    book.do(job, "complete")
    (told,) = book.outbox.of_job(job)
    assert json.loads(told.body)["data"]["args"] is None


def test_a_transaction_that_is_broken_off_tells_nobody(book: Book):
    job = book.begin(("completed",))
    with contextlib.suppress(ZeroDivisionError), transaction(connection(book.path)) as conn:
        conn.execute("update jobs set filled = 1")
        change_job(conn, job, "complete")
        close_if_done(conn, job)
        raise ZeroDivisionError
    assert book.told(job) == [] and book.jobs.job(job, OWNER).status == "running"


def test_each_end_is_told_with_an_id_of_its_own(book: Book):
    job = book.begin(("completed", "failed"))
    book.do(job, "complete", failed=1)
    with transaction(connection(book.path)) as conn:
        conn.execute("update jobs set finished_at = null, status = 'running' where id = ?", (job,))
    book.do(job, "complete")
    told = book.outbox.of_job(job)
    assert len({one.id for one in told}) == 2 and all(one.id.startswith("msg_") for one in told)


def test_messages_are_pruned_with_their_job(book: Book):
    kept = [book.begin(("completed",)) for _ in range(2)]
    for job in kept:
        book.do(job, "complete")
    assert Maintenance(book.path).prune(Keep(jobs=1)) == 1
    rows = connection(book.path).execute("select job from deliveries").fetchall()
    assert rows == [(kept[1],)]


# ---- taken to be sent --------------------------------------------------------------------------------------


def queued(book: Book, to: str, number: int) -> None:
    """So many messages to an address, of one job."""
    job = book.begin(("completed",), to=to)
    book.do(job, "complete")
    conn = connection(book.path)
    columns = "job, task, owner, channel, receiver, trusted, event, body, created_at, asked_at, due_at"
    for n in range(number - 1):
        conn.execute(
            f"insert into deliveries (id, {columns}) select ?, {columns} from deliveries where job = ? limit 1",
            (f"msg_{job}_{n}", job),
        )


def test_a_full_lane_holds_up_no_other_and_few_are_taken_over_one(book: Book):
    queued(book, f"{TO}/slow", 550)
    queued(book, f"{TO}/fast", 2)
    first = book.outbox.claim(100, 4, {})
    assert sorted(one.to for one in first) == [f"{TO}/fast"] * 2 + [f"{TO}/slow"] * 4
    queued(book, f"{TO}/fast", 1)
    more = book.outbox.claim(100, 4, {f"{TO}/slow": 4})
    assert [one.to for one in more] == [f"{TO}/fast"]
    assert book.outbox.claim(100, 4, {f"{TO}/slow": 4}) == []
    assert book.outbox.claim(1, 4, {})[0].attempts == 1


def test_over_a_lane_that_nobody_has_answered_goes_one_at_once_and_all_of_them_leave_room_for_others(
    book: Book,
):
    hanging = [f"{TO}/{n}" for n in range(6)]
    for to in hanging:
        queued(book, to, 3)
    assert len(book.outbox.turn((), Free(8, 4, silent=hanging))[0]) == 4  # half of what is left
    queued(book, f"{TO}/well", 6)
    taken, due_at = book.outbox.turn((), Free(8, 4, {hanging[0]: 1}, hanging[:5]))
    to = Counter(one.to for one in taken)
    assert to[f"{TO}/well"] > 1 and not to[hanging[0]] and {to[one] for one in hanging[1:5]} <= {0, 1}
    assert due_at == math.inf, "what is due and has no room waits for the end of a try"


def test_what_came_of_many_tries_and_what_is_taken_then_is_one_transaction_and_a_look_in_vain_none(
    book: Book,
):
    for n in range(20):
        queued(book, f"{TO}/{n}", 50)
    conn = connection(book.path)
    commits = list[int]()
    conn.set_commit_hook(lambda: bool(commits.append(1)))
    tried, _ = book.outbox.turn((), Free(20, 1))
    assert len(commits) == 1 and len({one.to for one in tried}) == 20
    at = clock.steady() + 60
    later = clock.moment(at)
    came = [Came(one, "queued", None, "nobody", at, at) for one in tried[:19]]
    assert book.outbox.turn(came, Free(20, 1, {tried[19].to: 1})) == ([], later)
    assert len(commits) == 2 and book.outbox.lately(OWNER, 1)[0].due_at == later
    assert book.outbox.turn((), Free(20, 1, {tried[19].to: 1})) == ([], later) and len(commits) == 2
    conn.set_commit_hook(None)


@pytest.mark.parametrize(("sql", "values"), [(LANES, 0), (FIRST_OF, 3), (OTHERS, 4)])
def test_to_look_for_what_is_due_goes_through_no_lane(book: Book, sql: str, values: int):
    conn = connection(book.path)
    plan = [row[3] for row in conn.execute(f"explain query plan {sql}", (None,) * values)]
    looks = [line for line in plan if "deliveries" in line]
    assert looks and all("deliveries_to_send (<expr>" in line for line in looks if "SCAN" not in line)
    scans = [line for line in looks if "SCAN" in line]
    assert scans == (["SCAN deliveries USING INDEX deliveries_to_send"] if sql == LANES else [])  # of one row


def test_the_outboxs_number_rises_with_what_comes_in_and_what_leaves_it_and_with_nothing_else(book: Book):
    numbers = [book.outbox.moves()]

    def rose() -> bool:
        numbers.append(book.outbox.moves())
        return numbers[-1] > numbers[-2]

    assert not (book.run((), "complete") or rose())
    queued(book, TO, 1)
    assert rose()
    (one,) = book.outbox.claim(1, 1, {})
    book.outbox.put_off(one, 503, "busy", clock.steady())
    assert not rose()
    (one,) = book.outbox.claim(1, 1, {})
    assert not rose()
    book.outbox.give_up(one, 410, "gone")
    assert rose()
    book.outbox.send_again(one.job, one.id)
    assert rose()


def test_what_was_under_way_when_a_sender_died_is_due_again_and_its_late_word_counts_no_more(book: Book):
    queued(book, TO, 1)
    (first,) = book.outbox.claim(10, 4, {})
    assert book.outbox.claim(10, 4, {}) == []
    assert book.outbox.take_back() == 1
    (second,) = book.outbox.claim(10, 4, {})
    assert (second.id, second.attempts) == (first.id, 2)
    book.outbox.give_up(first, 410, "gone")
    assert book.outbox.of_job(first.job)[0].status == "sending"
    book.outbox.deliver(second, 200)
    (done,) = book.outbox.of_job(first.job)
    assert (done.status, done.code, done.error) == ("delivered", 200, None) and done.delivered_at


def test_what_was_taken_is_due_again_where_a_look_fails_meanwhile(
    book: Book, monkeypatch: pytest.MonkeyPatch
):
    queued(book, TO, 1)
    looks = book.outbox._lanes
    answers = iter([looks, looks, failing])
    monkeypatch.setattr(book.outbox, "_lanes", lambda: next(answers, looks)())
    with pytest.raises(apsw.IOError):
        book.outbox.claim(1, 1, {})
    assert [one.attempts for one in book.outbox.claim(1, 1, {})] == [1]


def failing() -> None:
    raise apsw.IOError("disk I/O error")


def test_what_a_receiver_asks_for_holds_all_of_its_messages_and_no_other_receivers(book: Book):
    queued(book, f"{TO}/a", 2)
    queued(book, f"{TO}/b", 1)
    (first,) = [one for one in book.outbox.claim(10, 1, {}) if one.to.endswith("/a")]
    book.outbox.put_off(first, 429, "too many", *[clock.steady() + 60] * 2)
    book.outbox.take_back()
    assert {one.to for one in book.outbox.claim(10, 4, {})} == {f"{TO}/b"}


@pytest.mark.parametrize("by", [-7200.0, 7200.0])
def test_a_clock_that_is_set_moves_no_wait_of_a_message_nor_of_a_secret(book: Book, by: float):
    queued(book, TO, 2)
    first, second = book.outbox.claim(2, 2, {})
    book.outbox.put_off(first, 500, "no", clock.steady() + 60)
    book.outbox.deliver(second, 200)
    webhooks = Webhooks(book.path)
    made, _ = webhooks.add(OWNER, TO)
    until_then = webhooks.rotate(made.id, OWNER)[0].retired_at
    before = {one.id: one for one in book.outbox.of_job(first.job)}
    with transaction(connection(book.path)) as conn:
        move(conn, by)
    after = {one.id: one for one in book.outbox.of_job(first.job)}
    waits = after[first.id]
    assert waits.due_at == pytest.approx(before[first.id].due_at + by)
    assert waits.asked_at == pytest.approx(before[first.id].asked_at + by)
    assert after[second.id] == before[second.id]
    assert webhooks.webhook(made.id, OWNER).retired_at == pytest.approx(until_then + by)


def test_a_message_is_sent_again_under_its_id_but_not_while_it_is_being_sent(book: Book):
    queued(book, TO, 1)
    (taken,) = book.outbox.claim(1, 1, {})
    with pytest.raises(NotAllowed):
        book.outbox.send_again(taken.job, taken.id)
    book.outbox.give_up(taken, 410, "gone")
    again = book.outbox.send_again(taken.job, taken.id)
    assert (again.id, again.status, again.attempts) == (taken.id, "queued", 1)
    assert book.outbox.claim(1, 1, {})[0].id == taken.id


def test_a_page_says_so_when_the_last_messages_did_not_arrive(book: Book):
    def came_of(*statuses: str) -> list[Delivery]:
        for status in statuses:
            queued(book, TO, 1)
            (one,) = book.outbox.claim(1, 1, {})
            act = book.outbox.deliver if status == "delivered" else book.outbox.give_up
            act(one, *((200,) if status == "delivered" else (500, "out of order")))
        return book.outbox.failing(OWNER)

    assert came_of() == [] and came_of("delivered") == []
    assert came_of("failed", "failed") == []  # of the last three one arrived
    assert len(came_of("failed")) == 3
    assert book.outbox.failing("somebody else") == []
    assert came_of("delivered") == []


# ---- the sender ----------------------------------------------------------------------------------------------


LOCK = """
import sqlite3, sys
conn = sqlite3.connect(sys.argv[1], timeout=20, isolation_level=None)
conn.execute("begin immediate")
print("locked", flush=True)
input()
"""


def sending(book: Book, **settings: Any) -> Sender:
    sender = Sender(book.path, Settings(notify_hosts="127.0.0.1", **settings))
    sender.start()
    return sender


@pytest.fixture
def senders() -> Iterator[list[Sender]]:
    made: list[Sender] = []
    yield made
    for one in made:
        one.stop()
        one.thread.join(60)


def test_waits_grow_are_random_and_have_a_limit():
    assert all(SOON <= wait_after(0.0) <= FIRST for _ in range(200))
    assert max(wait_after(60.0) for _ in range(200)) > FIRST  # full jitter: anything from nothing up
    assert min(wait_after(60.0) for _ in range(1000)) < FIRST
    assert all(wait_after(60.0) <= 60.0 * TIMES for _ in range(200))
    assert all(wait_after(tried) <= SLOWEST for tried in (1e4, 1e9))


def test_what_is_tried_again_becomes_due_at_few_moments(book: Book):
    sender = Sender(book.path, Settings())
    at = clock.now()
    for tried in (0.0, 3.0, 15.0, 100.0, 1e6):
        apart = between_moments(tried)
        assert CLOSEST <= apart <= max(CLOSEST, tried / 2) and apart <= FARTHEST
        moments = [sender._moment(at + wait_after(tried), tried) for _ in range(200)]
        assert min(moments) >= at
        if tried < 200:
            assert len({round(moment, 3) for moment in moments}) <= max(FIRST, TIMES * tried) / apart + 2
    assert all(math.log2(between_moments(tried)).is_integer() for tried in range(200)), (
        "so they fall together"
    )


def test_to_look_for_what_is_due_takes_a_hundredth_of_a_processor_however_much_waits():
    assert wait_after_look(0.0001) == wait_after_look(0.0) < 1
    assert all(wait_after_look(took) >= 100 * took for took in (0.004, 0.01, 0.04))


def test_what_does_not_arrive_is_given_up_when_its_time_is_over(
    book: Book, senders: list[Sender], receiver: Receiver
):
    queued(book, f"{receiver.url}/no/long", 1)
    senders.append(sending(book, notify_for=600.0))
    until(lambda: book.outbox.lately(OWNER, 1)[0].code)
    with transaction(connection(book.path)) as conn:  # it was asked for as long ago
        conn.execute("update deliveries set asked_at = asked_at - 600")
    told = until(lambda: (one := book.outbox.lately(OWNER, 1)[0]).status == "failed" and one)
    assert told.attempts >= 2 and told.code == 500 and "out of order" in (told.error or "")
    assert len({got.ident for got in receiver.at("/no/long")}) == 1


def test_of_a_receiver_that_is_not_there_not_every_message_has_to_find_out(
    book: Book, senders: list[Sender], receiver: Receiver
):
    queued(book, f"http://127.0.0.1:{free_port()}/", 50)
    queued(book, f"{receiver.url}/ok/there", 1)
    senders.append(sending(book))
    until(lambda: receiver.at("/ok/there"))
    until(lambda: any(one.error for one in book.outbox.lately(OWNER, 100)))
    until(lambda: all(due_at > clock.now() for _, due_at in connection(book.path).execute(LANES).fetchall()))
    assert sum(one.attempts == 0 for one in book.outbox.lately(OWNER, 100)) > 30


def test_a_database_that_is_locked_only_holds_messages_up(
    book: Book,
    senders: list[Sender],
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    """Also where it cannot be written down that a message has arrived: it is not sent again for that."""
    monkeypatch.setattr(database, "BUSY_MS", 100)
    queued(book, f"{receiver.url}/held/locked", 1)
    senders.append(sending(book))
    until(lambda: receiver.at("/held/locked"))
    lock = [sys.executable, "-c", LOCK, book.path]
    with subprocess.Popen(lock, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "locked\n"
        receiver.let_go()
        until(lambda: "BusyError" in caplog.text)
        other.communicate("\n")
    until(lambda: book.outbox.lately(OWNER, 1)[0].status == "delivered")
    assert len(receiver.at("/held/locked")) == 1


def test_an_error_nobody_has_thought_of_is_tried_again_and_a_channel_that_is_not_there_is_given_up(
    book: Book, senders: list[Sender], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(CHANNELS, "webhook", "no_such_module")
    queued(book, TO, 1)
    senders.append(sending(book))
    told = until(lambda: (one := book.outbox.lately(OWNER, 1)[0]).status == "failed" and one)
    assert "cannot be sent by webhook here" in (told.error or "")
    monkeypatch.setitem(CHANNELS, "webhook", "json")  # has no `send`
    book.outbox.send_again(told.job, told.id)
    senders[0].look()
    until(lambda: "AttributeError" in (book.outbox.lately(OWNER, 1)[0].error or ""))
    assert book.outbox.lately(OWNER, 1)[0].status in ("queued", "sending")


def test_a_mail_whose_text_the_server_has_may_take_longer_than_any_other_try(
    book: Book, senders: list[Sender], monkeypatch: pytest.MonkeyPatch
):
    limits: list[asyncio.Timeout] = []
    begin = asyncio.timeout

    def noted(seconds: float | None) -> asyncio.Timeout:
        limits.append(begin(seconds))
        return limits[-1]

    office = PostOffice()
    try:
        queued(book, TO, 1)
        connection(book.path).execute(
            "update deliveries set channel = 'email', receiver = 'wait-1@example.com'"
        )
        monkeypatch.setattr(asyncio, "timeout", noted)
        senders.append(sending(book, smtp_url=office.url(), mail_from="jobs@example.org"))
        until(office.desk.waiting.is_set)
        loop = senders[0].loop
        at = limits[0].when()
        assert loop and at and at - loop.time() > LIMIT
        office.desk.may_go.set()
        until(lambda: book.outbox.lately(OWNER, 1)[0].status == "delivered")
        assert len(office.mails) == 1
    finally:
        office.stop()


def test_an_address_of_apprise_that_is_nobodys_of_the_settings_or_of_code_is_never_told(book: Book):
    queued(book, TO, 1)
    (one,) = book.outbox.claim(1, 1, {})
    one.to = "json://127.0.0.1/"
    one.channel = "apprise"
    with pytest.raises(Never, match="whoever runs Rowcast"):
        asyncio.run(chat.send(one, Means(book.path, Settings())))


# ---- kill, again and again -----------------------------------------------------------------------------------

KILLS = 20


@pytest.mark.kills
def test_whatever_is_killed_between_an_end_and_its_message_none_is_lost_and_none_repeated_under_another_id(
    serve: Callable[..., Server], receiver: Receiver
):
    """The receiver answers nobody until the last kill: each message is queued, or under way, when all are killed."""
    server = serve("--notify-hosts", "127.0.0.1")
    rule = {"channel": "webhook", "to": f"{receiver.url}/held/kill"}
    chance = random.Random(7)
    for _ in range(KILLS):
        job = server.begin("counter", loops=1, notify=[rule])
        server.ended(job)
        time.sleep(chance.uniform(0, 0.5))
        pids = [server.process.pid, *(one for one in processes() if parent_of(one) == server.process.pid)]
        for pid in pids if chance.random() < 0.5 else pids[::-1]:
            with contextlib.suppress(
                ProcessLookupError
            ):  # it ends by itself with the one that was killed before
                os.kill(pid, signal.SIGKILL)
        server.process.wait()
        server.start()
    receiver.let_go()

    jobs = [job["id"] for job in server.client.get("/api/jobs").json()["jobs"]]

    def deliveries() -> list[dict[str, Any]]:
        return [one for job in jobs for one in server.client.get(f"/api/jobs/{job}/deliveries").json()]

    for job in jobs:  # where all of this took long, a message may have been put off for as long
        for one in server.client.get(f"/api/jobs/{job}/deliveries").json():
            if one["status"] == "queued":
                server.client.post(f"/api/jobs/{job}/deliveries/{one['id']}/retry")
    told = until(lambda: all(one["status"] == "delivered" for one in deliveries()) and deliveries())
    assert len(told) == len({one["id"] for one in told}) == KILLS
    got = receiver.at("/held/kill")
    assert {one.ident for one in got} == {one["id"] for one in told}
    bodies: dict[str, set[bytes]] = {}
    for one in got:
        bodies.setdefault(one.ident, set()).add(one.body)
    assert all(len(same) == 1 for same in bodies.values())
    assert len({one.json["data"]["id"] for one in got}) == KILLS
