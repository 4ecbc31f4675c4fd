"""Schedules: when they start, in which zone, and that each start is one job, whoever looks and however late."""

import logging
import os
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import forks
import pytest
from conftest import Api, Server, nursery, until

from rowcast.jobs import Jobs, NotFound
from rowcast.tables.database import close_databases, connection, transaction
from rowcast.tables.maintenance import Keep, Maintenance
from rowcast.tables.schedules import Schedules, next_time
from rowcast.tables.schema import prepare
from rowcast.tables.users import Users
from rowcast.tasks import built_in
from rowcast.tasks.notify import Receiver
from rowcast.tasks.records import BadArguments, NotAllowed, Options, decode
from rowcast.tasks.schedules import Schedule

OWNER = "local"


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    made = str(tmp_path / "rowcast.db")
    prepare(made)
    Users(made).as_source()
    yield made
    close_databases()


def add(path: str, cron: str = "0 */6 * * *", zone: str = "UTC") -> Schedule:
    return Schedules(path).add(built_in.update_users, {"limit": None}, OWNER, cron, zone)


def make_due(path: str, schedule: Schedule, seconds: float = 100_000) -> float:
    """As if its moment had been so many seconds ago; the moment."""
    at = float(int(time.time() - seconds))
    with transaction(connection(path)) as conn:
        conn.execute("update schedules set next_at = ? where id = ?", (at, schedule.id))
    return at


def now_of(path: str, schedule: Schedule) -> Schedule:
    return Schedules(path).schedule(schedule.id, OWNER)


# ---- when ----------------------------------------------------------------------------------------------------------


def at(text: str, zone: str = "Europe/Rome", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


@pytest.mark.parametrize(
    ("day_before", "day", "hours"),
    [("2026-10-24", "2026-10-25", 25), ("2026-03-28", "2026-03-29", 23), ("2026-06-01", "2026-06-02", 24)],
)
def test_six_in_the_morning_stays_six_when_the_clocks_change(day_before: str, day: str, hours: int):
    first = next_time("0 6 * * *", "Europe/Rome", at(f"{day_before}T05:00"))
    second = next_time("0 6 * * *", "Europe/Rome", first)
    assert (first, second) == (at(f"{day_before}T06:00"), at(f"{day}T06:00"))
    assert second - first == hours * 3600


def test_a_moment_that_the_clocks_skip_is_made_up_and_one_that_comes_twice_is_once():
    skipped = next_time("30 2 * * *", "Europe/Rome", at("2026-03-28T12:00"))
    assert at("2026-03-29T01:59") < skipped <= at("2026-03-29T03:30")
    first = next_time("30 2 * * *", "Europe/Rome", at("2026-10-24T12:00"))
    assert next_time("30 2 * * *", "Europe/Rome", first) == at("2026-10-26T02:30")
    again = at("2026-10-25T02:10", fold=1)
    assert next_time("30 2 * * *", "Europe/Rome", again) == at("2026-10-26T02:30")


def test_an_hour_that_comes_twice_has_its_every_hour_twice():
    first = next_time("0 * * * *", "Europe/Rome", at("2026-10-25T01:30"))
    assert next_time("0 * * * *", "Europe/Rome", first) - first == 3600


def test_the_same_clock_is_another_moment_in_another_zone():
    noon = at("2026-06-01T12:00", "UTC")
    assert next_time("0 6 * * *", "Asia/Tokyo", noon) == at("2026-06-02T06:00", "Asia/Tokyo")
    assert next_time("0 6 * * *", "America/New_York", noon) == at("2026-06-02T06:00", "America/New_York")


@pytest.mark.parametrize(
    "cron",
    [
        "six o'clock",
        "61 6 * * *",
        "",
        "@daily",
        "0 6 * *",
        "* * * * * *",
        "0 6 31 2 *",
        "0 6 * * 8",
        "0 6 * * * root",
    ],
)
def test_a_cron_expression_that_is_none_is_refused(path: str, cron: str):
    with pytest.raises(BadArguments, match="is no cron expression: five fields, like 0 6"):
        add(path, cron)
    assert Schedules(path).every(OWNER) == []


@pytest.mark.parametrize(
    "zone", ["", "Mars/Base", "Europe", "../etc/passwd", "/etc/passwd", "UTC\0", "x" * 300]
)
def test_a_zone_that_is_none_is_refused(path: str, zone: str):
    with pytest.raises(BadArguments, match="is no time zone: write one like Europe/Rome or UTC"):
        add(path, "0 6 * * *", zone)
    assert Schedules(path).every(OWNER) == []


# ---- starting ------------------------------------------------------------------------------------------------------


def test_what_is_not_due_is_not_started(path: str):
    add(path)
    assert Schedules(path).start_due() == []


def test_missed_runs_are_made_up_once(path: str):
    made = add(path)
    make_due(path, made)
    now = time.time()
    (job,) = Schedules(path).start_due()
    assert Schedules(path).start_due() == []
    after = now_of(path, made)
    assert after.next_at > now and after.last_job == job
    assert Jobs(path).job(job, OWNER).schedule == made.id


def test_a_clock_that_was_far_ahead_keeps_no_schedule_waiting(path: str, monkeypatch: pytest.MonkeyPatch):
    made = add(path)
    looks = Schedules(path)
    assert looks.start_due() == []
    far = time.time() + 10 * 365 * 86_400
    for again in (looks, Schedules(path)):  # while it looks on, and after a restart
        with monkeypatch.context() as ahead:
            ahead.setattr(time, "time", lambda: far)
            looks.start_due()
            assert now_of(path, made).next_at > far
        assert again.start_due() == []
        assert now_of(path, made).next_at < far
        make_due(path, made)


def test_a_schedule_has_one_run_at_a_time(path: str):
    made = add(path)
    make_due(path, made)
    (job,) = Schedules(path).start_due()
    make_due(path, made, 90_000)
    assert Schedules(path).start_due() == []
    assert now_of(path, made).next_at > time.time(), "the one that was left out is not made up"
    Jobs(path).act(job, OWNER, "cancel")
    make_due(path, made, 80_000)
    assert len(Schedules(path).start_due()) == 1


def test_a_schedule_whose_last_run_was_pruned_goes_on(path: str):
    made = add(path)
    make_due(path, made)
    (job,) = Schedules(path).start_due()
    Jobs(path).act(job, OWNER, "cancel")
    assert Maintenance(path).prune(Keep(days=1e-9)) == 1
    make_due(path, made, 90_000)
    assert len(Schedules(path).start_due()) == 1


LOOK = """
from rowcast.tables.users import Users
from rowcast.tables.schedules import Schedules
Users({path!r}).as_source()
input()
print(*Schedules({path!r}).start_due())
"""


def test_a_schedules_jobs_have_its_arguments_and_options(path: str):
    how = Options(concurrency=3, pace=5.0, tags=("dawn",), notify=(Receiver("email", "ann@example.com"),))
    made = Schedules(path).add(
        built_in.counter, {"loops": 7}, OWNER, "0 6 * * *", "Europe/Rome", "Each morning", how
    )
    assert made.name == "Each morning" and made.how == how
    assert len(made.moments) == 5 and made.moments == sorted(set(made.moments))
    assert {datetime.fromtimestamp(at, ZoneInfo("Europe/Rome")).hour for at in made.moments} == {6}
    make_due(path, made)
    (number,) = Schedules(path).start_due()
    job = Jobs(path).job(number, OWNER)
    assert (job.concurrency, job.pace, decode(job.tags), decode(job.args)) == (3, 5.0, ["dawn"], {"loops": 7})
    assert "ann@example.com" in (job.notify or "")
    assert [one.id for one in now_of(path, made).last_jobs] == [number]


def test_its_row_says_that_it_has_not_run_as_its_last_run_is_paused(path: str):
    made = add(path)
    assert made.sentence == ""
    make_due(path, made)
    (job,) = Schedules(path).start_due()
    Jobs(path).act(job, OWNER, "pause")
    assert (
        now_of(path, made).sentence
        == f"Its last run, job {job}, is paused: nothing starts until that has ended."
    )
    moment = make_due(path, made, 90_000)
    assert Schedules(path).start_due() == []
    missed = now_of(path, made)
    assert (missed.sentence, missed.missed_at) == (f"Its last run, job {job}, was paused.", moment)
    with pytest.raises(NotAllowed, match=f"Its last run, job {job}, is paused. Another one can start when"):
        Schedules(path).start_now(made.id, OWNER)
    Jobs(path).act(job, OWNER, "cancel")
    make_due(path, made, 80_000)
    (second,) = Schedules(path).start_due()
    well = now_of(path, made)
    assert (well.sentence, well.missed_at, [one.id for one in well.last_jobs]) == ("", None, [second, job])


def test_an_edit_is_heard_by_what_is_due_and_other_times_are_from_now_on(path: str):
    made = add(path)
    due = make_due(path, made)
    edit = (built_in.counter, {"loops": 3}, "0 */6 * * *", "UTC", "other", Options())
    assert Schedules(path).edit(made.id, OWNER, *edit).next_at == due
    (job,) = Schedules(path).start_due()
    assert (found := Jobs(path).job(job, OWNER)).task == "counter" and decode(found.args) == {"loops": 3}
    make_due(path, made)
    later = Schedules(path).edit(made.id, OWNER, *edit[:2], "0 6 * * *", *edit[3:])
    assert later.next_at > time.time()
    assert Schedules(path).start_due() == []
    with pytest.raises(NotFound):
        Schedules(path).edit(made.id, "somebody else", *edit)
    with pytest.raises(BadArguments):
        Schedules(path).edit(made.id, OWNER, *edit[:2], "at noon", *edit[3:])
    assert now_of(path, made) == later


def test_it_is_run_now_besides_its_times(path: str):
    made = add(path)
    job = Schedules(path).start_now(made.id, OWNER)
    assert Jobs(path).job(job, OWNER).schedule == made.id
    assert (found := now_of(path, made)).next_at == made.next_at and found.last_job == job
    with pytest.raises(NotAllowed, match="is queued"):
        Schedules(path).start_now(made.id, OWNER)
    Jobs(path).act(job, OWNER, "cancel")
    assert Schedules(path).start_now(made.id, OWNER) > job


def test_arguments_that_do_not_fit_any_more_are_said_on_its_row(path: str):
    made = Schedules(path).add(built_in.counter, {"loops": 7}, OWNER, "* * * * *")
    with transaction(connection(path)) as conn:
        conn.execute('update schedules set args = \'{"loops": "many", "old": 1}\'')
    make_due(path, made)
    assert Schedules(path).start_due() == []
    said = now_of(path, made)
    assert said.sentence.startswith("Its arguments do not fit the task any more: ") and not said.paused
    with pytest.raises(BadArguments, match="do not fit"):
        Schedules(path).start_now(made.id, OWNER)


def test_two_processes_that_look_at_once_start_each_due_schedule_once(path: str, tmp_path: Path):
    for schedule in [add(path) for _ in range(20)]:
        make_due(path, schedule)
    outs = [tmp_path / name for name in ("one", "two")]
    both = []
    for out in outs:
        with out.open("wb") as file:
            code = LOOK.format(path=path)
            env = dict(os.environ)
            both.append(
                forks.Forked(nursery(), code, [], env=env, stdin=subprocess.PIPE, stdout=file, stderr=file)
            )
    for process in both:
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.close()
    assert [process.wait(120) for process in both] == [0, 0], [out.read_text() for out in outs]
    said = [out.read_text().split() for out in outs]
    assert len(said[0] + said[1]) == len(set(said[0] + said[1])) == 20
    jobs = Jobs(path).jobs(OWNER, limit=100)
    assert sorted(job.schedule or 0 for job in jobs) == sorted(s.id for s in Schedules(path).every(OWNER))


def test_a_process_that_died_right_after_a_start_has_not_to_be_made_up(path: str):
    made = add(path)
    moment = make_due(path, made)
    (job,) = Schedules(path).start_due()
    with transaction(connection(path)) as conn:  # as it was between the two transactions
        conn.execute("update schedules set next_at = ?, last_job = null where id = ?", (moment, made.id))
    assert Schedules(path).start_due() == []
    assert now_of(path, made).last_job == job and now_of(path, made).next_at > time.time()


def test_a_paused_schedule_starts_nothing_and_goes_on_from_now(path: str):
    made = add(path)
    Schedules(path).set_paused(made.id, OWNER, True)
    make_due(path, made)
    assert Schedules(path).start_due() == []
    again = Schedules(path).set_paused(made.id, OWNER, False)
    assert not again.paused and again.next_at > time.time()
    assert Schedules(path).start_due() == []


def test_a_schedule_that_cannot_start_holds_up_no_other(path: str, caplog: pytest.LogCaptureFixture):
    gone = add(path)
    lost = add(path)
    fine = add(path)
    for schedule in (gone, lost, fine):
        make_due(path, schedule)
    with transaction(connection(path)) as conn:
        conn.execute("update schedules set entry = 'no_such_module:f' where id = ?", (gone.id,))
        conn.execute("update schedules set zone = 'Mars/Base' where id = ?", (lost.id,))
    with caplog.at_level(logging.ERROR, "rowcast"):
        assert len(Schedules(path).start_due()) == 1
    assert now_of(path, fine).last_job
    assert now_of(path, gone).next_at > time.time(), "it is tried again at its next moment"
    assert now_of(path, lost).paused and "is no time zone" in now_of(path, lost).sentence
    assert now_of(path, gone).sentence.startswith("The task no_such_module:f cannot be imported: ")
    assert "cannot start update_users" in caplog.text and "is no time zone" in caplog.text


def test_a_schedule_is_its_owners_own(path: str):
    made = add(path)
    for ask in (Schedules(path).schedule, Schedules(path).delete):
        with pytest.raises(NotFound):
            ask(made.id, "somebody else")
    assert Schedules(path).every("somebody else") == []
    Schedules(path).delete(made.id, OWNER)
    assert Schedules(path).every(OWNER) == []


def test_a_schedule_starts_a_real_job_in_a_running_server(server: Server, api: Api):
    answer = server.client.post(
        "/api/schedules",
        json={"task": "update_users", "cron": "0 6 * * *", "zone": "Europe/Rome", "args": {"limit": 2}},
    )
    assert answer.status_code == 201
    found = sqlite3.connect(server.directory / "data" / "rowcast.db", timeout=10)
    with found:
        found.execute("update schedules set next_at = 1")
    found.close()
    job = until(lambda: named(server, "")["last_job"])
    assert server.ended(job)["completed"] == 2
    assert f"#{job}" in server.client.get("/schedules").text


def named(server: Server, name: str) -> dict[str, Any]:
    (found,) = [one for one in server.client.get("/api/schedules").json()["schedules"] if one["name"] == name]
    return found


def test_a_schedule_is_made_and_edited_by_its_form(server: Server):
    form = {"task": "counter", "loops": "3", "cron": "0 6 * * *", "zone": "Europe/Rome", "name": "Dawn"}
    form |= {
        "option-concurrency": "2",
        "option-tags": "crm dawn",
        "notify-asked": "1",
        "notify-email": "a@example.com",
    }
    assert 'name="loops"' in server.client.get("/schedules", params={"task": "counter"}).text
    assert server.client.post("/schedules", data=form | {"notify-on": "failed"}).status_code == 303
    made = named(server, "Dawn")
    notify = [{"channel": "email", "to": "a@example.com", "on": ["failed"]}]
    assert (made["name"], made["args"]) == ("Dawn", {"loops": 3})
    assert made["options"] == {"concurrency": 2, "tags": ["crm", "dawn"], "notify": notify}
    page = server.client.get(f"/schedules/{made['id']}").text
    for shown in ('value="Dawn"', 'value="0 6 * * *"', 'value="crm dawn"', "a@example.com"):
        assert shown in page
    kept = re.findall(r'name="notify-keep" value="(\w+)"', page)
    form |= {"loops": "4", "notify-keep": kept, "notify-email": ""}
    assert server.client.post(f"/schedules/{made['id']}/edit", data=form).status_code == 303
    edited = named(server, "Dawn")
    assert (edited["args"], edited["options"]["notify"]) == ({"loops": 4}, notify)
    assert edited["next_at"] == made["next_at"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"run_at": "90s"}, "A schedule has no run_at"),
        ({"unique_key": "a"}, "A schedule has no unique_key"),
        ({"name": "x" * 101}, "name has at most 100 letters."),
        ({"concurrency": 0}, "concurrency is a whole number from 1"),
        ({"args": {"loops": "many"}}, "counter: argument `loops`"),
    ],
)
def test_what_a_schedule_cannot_have_is_refused(shared: Server, given: dict[str, Any], said: str):
    answer = shared.client.post("/api/schedules", json={"task": "counter", "cron": "0 6 * * *"} | given)
    assert answer.status_code == 422 and answer.json()["error"].startswith(said)
