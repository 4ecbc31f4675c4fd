"""Keeping house: schedules, prune, doctor, backup, migrations."""

import sqlite3
import time
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from conftest import until

from rowcast import keeping, schedules, tasks
from rowcast.database import (
    DatabaseRefused,
    back_up,
    close_databases,
    connection,
    prepare,
    set_default_database,
    transaction,
)
from rowcast.jobs import Jobs, NotFound
from rowcast.keeping import Keep
from rowcast.registry import BadArguments


@pytest.fixture
def path(tmp_path):
    made = str(tmp_path / "rowcast.db")
    prepare(made)
    set_default_database(made)
    yield made
    close_databases()


def ended_job(path: str, days_ago: float = 0) -> int:
    jobs = Jobs(path)
    job, _ = jobs.submit(tasks.update_users, {}, "local", "background")
    jobs.add_items(job.id, [("a@example.com", None)], last=True)
    jobs.act(job.id, "local", "cancel")
    with transaction(connection(path)) as conn:
        conn.execute("update jobs set finished_at = ? where id = ?", (time.time() - days_ago * 86_400, job.id))
    return job.id


def test_prune_deletes_by_age_and_by_number_with_all_that_belongs_to_a_job(path):
    old, new, newest = ended_job(path, 40), ended_job(path, 1), ended_job(path)
    running, _ = Jobs(path).submit(tasks.update_users, {}, "local", "background")
    assert keeping.prune(path, Keep(days=30)) == 1
    with pytest.raises(NotFound):
        Jobs(path).job(old, "local")
    assert keeping.prune(path, Keep(jobs=1)) == 1
    assert [j.id for j in Jobs(path).jobs("local")] == [running.id, newest]
    left = connection(path).execute("select distinct job from items union select distinct job from keys").fetchall()
    assert left == [(newest,)]
    assert Jobs(path).pruned_seq() > 0
    assert new != newest


def test_the_doctor_finds_nothing_in_a_sound_database(path):
    ended_job(path)
    assert all(found.well for found in keeping.check(path))


def test_the_doctor_finds_counts_that_do_not_add_up_and_orphaned_leases(path):
    job = ended_job(path)
    with transaction(connection(path)) as conn:
        conn.execute("update jobs set completed = completed + 1 where id = ?", (job,))
        conn.execute("update items set status = 'running', worker = 'gone' where job = ?", (job,))
    bad = {found.what for found in keeping.check(path) if not found.well}
    assert bad == {"counts", "leases"}


def test_a_backup_is_whole_and_never_overwrites(path, tmp_path):
    ended_job(path)
    copy = tmp_path / "copy.db"
    assert back_up(path, str(copy)) == copy.stat().st_size
    found = sqlite3.connect(copy)
    assert found.execute("pragma integrity_check").fetchone() == ("ok",)
    assert found.execute("select count(*) from items").fetchone() == (1,)
    found.close()
    with pytest.raises(FileExistsError):
        back_up(path, str(copy))


def test_a_newer_database_is_refused_in_a_sentence(path):
    with transaction(connection(path)) as conn:
        conn.execute("update rowcast set schema = 99")
    with pytest.raises(DatabaseRefused, match="newer Rowcast"):
        prepare(path)


# ---- schedules -----------------------------------------------------------------------------------------------------


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def test_six_in_the_morning_stays_six_when_the_clocks_change():
    before = at("2026-10-24T12:00", "Europe/Rome")
    first = schedules.next_time("0 6 * * *", "Europe/Rome", before)
    assert first == at("2026-10-25T06:00", "Europe/Rome")
    assert first - at("2026-10-24T06:00", "Europe/Rome") == 25 * 3600


@pytest.mark.parametrize(("cron", "zone"), [("six o'clock", "UTC"), ("0 6 * * *", "Mars/Base"), ("61 6 * * *", "UTC")])
def test_a_time_that_is_none_is_refused(cron, zone):
    with pytest.raises(BadArguments):
        schedules.next_time(cron, zone, 0)


def make_due(path: str, schedule: int, seconds: float = 100_000) -> None:
    with transaction(connection(path)) as conn:
        conn.execute("update schedules set next_at = ? where id = ?", (time.time() - seconds, schedule))


def test_missed_runs_are_made_up_once(path):
    with transaction(connection(path)) as conn:
        conn.execute("insert into users (email) values ('a@example.com')")
    made = schedules.add(path, tasks.update_users, {"limit": None}, "local", "*/5 * * * *")
    make_due(path, made.id)
    assert len(schedules.start_due(Jobs(path))) == 1
    assert schedules.start_due(Jobs(path)) == []
    assert schedules.get(path, made.id, "local").next_at > time.time()


def test_a_schedule_has_one_run_at_a_time(path):
    made = schedules.add(path, tasks.update_users, {"limit": None}, "local", "*/5 * * * *")
    make_due(path, made.id)
    (job,) = schedules.start_due(Jobs(path))
    make_due(path, made.id, 90_000)
    assert schedules.start_due(Jobs(path)) == []
    Jobs(path).act(job, "local", "cancel")
    make_due(path, made.id, 80_000)
    assert len(schedules.start_due(Jobs(path))) == 1


def test_a_paused_schedule_starts_nothing(path):
    made = schedules.add(path, tasks.update_users, {"limit": None}, "local", "*/5 * * * *")
    schedules.set_paused(path, made.id, "local", True)
    make_due(path, made.id)
    assert schedules.start_due(Jobs(path)) == []


def test_a_schedule_starts_a_real_job_in_a_running_server(server, api):
    answer = server.client.post(
        "/api/schedules", json={"task": "update_users", "cron": "0 6 * * *", "zone": "Europe/Rome", "args": {"limit": 2}}
    )
    assert answer.status_code == 201
    found = sqlite3.connect(server.directory / "data" / "rowcast.db", timeout=10)
    with found:
        found.execute("update schedules set next_at = 1")
    found.close()
    job = until(lambda: server.client.get("/api/schedules").json()["schedules"][0]["last_job"])
    assert server.ended(job)["completed"] == 2
    assert f"#{job}" in server.client.get("/schedules").text
