"""Keeping house: prune, doctor, backup.

Each finding of the doctor's is shown by a database that has that fault.
"""

import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from conftest import until

from rowcast.jobs import Jobs, NotFound
from rowcast.tables import maintenance, sweeps
from rowcast.tables.bulk import Bulk
from rowcast.tables.database import (
    DatabaseRefused,
    back_up,
    close_databases,
    connection,
    current_seq,
    keep_reserve,
    transaction,
)
from rowcast.tables.ledger import Ledger
from rowcast.tables.maintenance import Finding, Keep, Maintenance
from rowcast.tables.schema import SCHEMA, prepare
from rowcast.tasks import built_in
from rowcast.tasks.records import Options
from rowcast.tasks.registry import task
from rowcast.tasks.work import Chunk, Report, Result

OWNER = "local"


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    made = str(tmp_path / "rowcast.db")
    prepare(made)
    yield made
    close_databases()


def nothing(item: str) -> None: ...


def ended_job(path: str, days_ago: float = 0) -> int:
    jobs = Jobs(path)
    job, _ = jobs.submit(built_in.update_users, {}, "local", "background")
    jobs.add_items(job.id, Chunk.of([("a@example.com", None)], last=True))
    jobs.act(job.id, "local", "cancel")
    with transaction(connection(path)) as conn:
        conn.execute(
            "update jobs set finished_at = ? where id = ?", (time.time() - days_ago * 86_400, job.id)
        )
    return job.id


def running_job(path: str, items: int) -> int:
    jobs = Jobs(path)
    job, _ = jobs.submit(built_in.update_users, {}, OWNER, "background")
    jobs.start(job.id)
    jobs.add_items(job.id, Chunk.of([(f"user-{n}@example.com", None) for n in range(items)], last=True))
    return job.id


def failed_job(path: str, items: int, days_ago: float = 0) -> int:
    """A job whose items have all failed, so that it has rows in every table."""
    job = running_job(path, items)
    ledger = Ledger(path)
    while taken := ledger.exchange(job, "one", Report(limit=1000)).items:
        ledger.exchange(job, "one", Report([Result(i.id, i.attempt, "failed", 500, "no") for i in taken]))
    with transaction(connection(path)) as conn:
        conn.execute("update jobs set finished_at = ? where id = ?", (time.time() - days_ago * 86_400, job))
    return job


def rows_of(path: str, table: str, job: int) -> list[tuple[object, ...]]:
    return connection(path).execute(f"select * from {table} where job = ?", (job,)).fetchall()


def test_prune_deletes_by_age_and_by_number_with_all_that_belongs_to_a_job(path: str):
    old = ended_job(path, 40)
    new = ended_job(path, 1)
    newest = ended_job(path)
    running, _ = Jobs(path).submit(built_in.update_users, {}, "local", "background")
    assert Maintenance(path).prune(Keep(days=30)) == 1
    with pytest.raises(NotFound):
        Jobs(path).job(old, "local")
    assert Maintenance(path).prune(Keep(jobs=1)) == 1
    assert [j.id for j in Jobs(path).jobs("local")] == [running.id, newest]
    left = (
        connection(path)
        .execute("select distinct job from items union select distinct job from keys")
        .fetchall()
    )
    assert left == [(newest,)]
    assert Jobs(path).pruned_seq() > 0
    assert new != newest


def test_what_was_deleted_is_none_of_the_jobs_that_a_prune_keeps(path: str):
    made = [ended_job(path) for _ in range(4)]
    assert Bulk(path).delete(made[2:]) == 2
    assert Maintenance(path).prune(Keep(jobs=2)) == 2
    assert [job.id for job in Jobs(path).jobs(OWNER)] == [made[1], made[0]]


def test_the_id_of_a_job_that_was_deleted_is_given_to_no_other(path: str):
    first = ended_job(path, 1)
    second = ended_job(path, 40)
    assert Maintenance(path).prune(Keep(days=30)) == 1
    third = ended_job(path, 40)
    assert third == second + 1, "an Idempotency-Key names a job and an item"
    assert Maintenance(path).prune(Keep(days=0.5)) == 2 and ended_job(path) == third + 1
    assert first < second


def test_prune_by_nothing_deletes_nothing(path: str):
    ended_job(path, 4000)
    assert Maintenance(path).prune(Keep()) == 0


def test_a_job_that_has_not_ended_is_never_pruned(path: str):
    jobs = Jobs(path)
    jobs.submit(built_in.update_users, {}, OWNER, "background")
    running, _ = jobs.submit(built_in.update_users, {}, OWNER, "background")
    jobs.start(running.id)
    jobs.add_items(running.id, Chunk.of([("a", None)]))
    paused, _ = jobs.submit(built_in.update_users, {}, OWNER, "background")
    jobs.act(paused.id, OWNER, "pause")
    with transaction(connection(path)) as conn:
        conn.execute("update jobs set created_at = 1, started_at = 1")
    assert Maintenance(path).prune(Keep(days=1e-9, jobs=1)) == 0
    assert len(jobs.jobs(OWNER)) == 3 and len(jobs.items(running.id)) == 1


def test_a_job_whose_items_are_being_settled_is_pruned_when_they_are(
    path: str, monkeypatch: pytest.MonkeyPatch
):
    jobs = Jobs(path)
    ledger = Ledger(path)
    once = task(name="keeping_once", idempotent=False)(nothing)
    job, _ = jobs.submit(once, {}, OWNER, "background")
    jobs.start(job.id)
    jobs.add_items(job.id, Chunk.of([(str(n), None) for n in range(3)], last=True))
    ledger.exchange(job.id, "one", Report(limit=3))
    ledger.rescue("one")
    monkeypatch.setattr(sweeps, "CHUNK", 2)
    jobs.act(job.id, OWNER, "settle")
    assert Maintenance(path).prune(Keep(days=1e-9)) == 0
    while jobs.sweep(job.id):
        pass
    assert Maintenance(path).prune(Keep(days=1e-9)) == 1


def test_prune_takes_with_a_job_all_that_is_its_own_and_nothing_of_others(
    path: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(maintenance, "CHUNK", 3)
    old = failed_job(path, 10, days_ago=40)
    new = failed_job(path, 10)
    tables = ("items", "error_groups", "throughput", "growth", "tallies", "keys")
    before = {table: rows_of(path, table, new) for table in tables}
    assert all(rows_of(path, table, old) for table in tables)
    assert Maintenance(path).prune(Keep(days=30)) == 1
    assert [rows_of(path, table, old) for table in tables] == [[]] * len(tables)
    assert {table: rows_of(path, table, new) for table in tables} == before
    assert all(found.well for found in Maintenance(path).check())


def test_small_jobs_are_deleted_together(path: str, monkeypatch: pytest.MonkeyPatch):
    old = [failed_job(path, 2, days_ago=40) for _ in range(12)]
    new = failed_job(path, 2)
    deletes: list[int] = []
    delete_chunk = maintenance._delete_chunk

    def note(conn: object, jobs: list[int], chunk: int) -> bool:
        deletes.append(len(jobs))
        return delete_chunk(conn, jobs, chunk)

    monkeypatch.setattr(maintenance, "_delete_chunk", note)
    assert Maintenance(path).prune(Keep(days=30)) == 12
    assert deletes == [12], "one transaction for all of them"
    assert not any(rows_of(path, table, job) for table in maintenance.ROWS for job in old)
    assert rows_of(path, "items", new) and all(found.well for found in Maintenance(path).check())


def test_nothing_of_a_job_stays_that_a_table_has_of_it(path: str):
    """Those that name a job and are not deleted with it: who did what, what is over with its end, or a line that it has
    left behind."""
    tables = connection(path).execute(
        """select t.name from pragma_table_list as t, pragma_table_info(t.name) as c
           where c.name = 'job' and t.type = 'table' and t.schema = 'main'"""
    )
    named = {name for (name,) in tables.fetchall()}
    assert named - set(maintenance.ROWS) == {"audit", "sweeps", "slots"}


def test_a_stream_older_than_a_delete_can_see_that_it_is(path: str):
    failed_job(path, 3, days_ago=40)
    failed_job(path, 3)
    before = Jobs(path).seq()
    Maintenance(path).prune(Keep(days=30))
    assert before < Jobs(path).pruned_seq() == Jobs(path).seq()
    Maintenance(path).prune(Keep(days=30))
    assert Jobs(path).pruned_seq() == Jobs(path).seq() == before + 1, "nothing more was deleted"


def test_a_job_that_is_being_deleted_cannot_be_taken_up_again(path: str, monkeypatch: pytest.MonkeyPatch):
    job = failed_job(path, 10, days_ago=40)
    monkeypatch.setattr(maintenance, "CHUNK", 3)
    deleted: list[int] = []

    def die(conn: object, jobs: list[int], shifts: object) -> None:
        deleted.extend(jobs)
        raise KeyboardInterrupt

    with monkeypatch.context() as broken_off, pytest.raises(KeyboardInterrupt):
        broken_off.setattr(maintenance, "_delete", die)
        Maintenance(path).prune(Keep(days=30))
    assert deleted == [job]
    with pytest.raises(NotFound):
        Jobs(path).act(job, OWNER, "retry")
    assert all(found.well for found in Maintenance(path).check()), "half a job is no fault"
    assert Maintenance(path).prune(Keep(days=30)) == 1, "the next prune ends what this one began"
    assert rows_of(path, "items", job) == []


@pytest.mark.parametrize(("shift", "sleeps"), [(-1.0, maintenance.REST), (1e9, maintenance.BREATH)])
def test_a_prune_rests_between_its_shifts(
    path: str, shift: float, sleeps: float, monkeypatch: pytest.MonkeyPatch
):
    failed_job(path, 10, days_ago=40)
    slept: list[float] = []
    monkeypatch.setattr(maintenance, "SHIFT", shift)
    monkeypatch.setattr(maintenance.time, "sleep", slept.append)
    assert Maintenance(path).prune(Keep(days=30)) == 1
    assert len(slept) >= 2 and set(slept) == {sleeps}


def test_a_key_is_free_again_when_its_job_is_deleted(path: str):
    jobs = Jobs(path)
    options = Options(unique_key="monday")
    first, _ = jobs.submit(built_in.update_users, {}, OWNER, "background", options)
    jobs.act(first.id, OWNER, "cancel")
    Maintenance(path).prune(Keep(days=1e-9))
    assert jobs.submit(built_in.update_users, {}, OWNER, "background", options)[1], "it is a new one"


# ---- the doctor --------------------------------------------------------------------------------------------


def found(path: str) -> dict[str, Finding]:
    return {finding.what: finding for finding in Maintenance(path).check()}


def bad(path: str) -> list[str]:
    return [what for what, finding in found(path).items() if not finding.well]


def test_what_is_committed_is_on_the_disk(path: str):
    assert connection(path).execute("pragma synchronous").fetchone() == (2,), "FULL"
    assert connection(path).execute("pragma journal_mode").fetchone() == ("wal",)


def test_the_doctor_changes_nothing_in_another_programs_database(tmp_path: Path):
    file = tmp_path / "theirs.db"
    with sqlite3.connect(file) as theirs:
        theirs.execute("create table jobs (id integer)")
    theirs.close()
    before = file.read_bytes()
    with pytest.raises(DatabaseRefused, match="another program"):
        Maintenance(str(file)).check()
    assert file.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["theirs.db"]


def test_the_doctor_finds_nothing_in_a_sound_database(path: str):
    failed_job(path, 5)
    assert list(found(path)) == [
        "integrity",
        "schema",
        "counts",
        "leases",
        "messages",
        "Idempotency-Keys",
        "write-ahead log",
        "writing",
        "room on the disk",
    ]
    assert bad(path) == []


def test_the_doctor_finds_messages_that_were_not_delivered(path: str):
    job = failed_job(path, 1)
    break_it(
        path,
        f"""insert into deliveries (id, job, task, owner, channel, receiver, trusted, event, body, status, error,
                created_at, asked_at, due_at, tried_at)
            values ('msg_1', {job}, 'work', 'local', 'webhook', 'https://hooks.example.com/', 0, 'failed', '{{}}', 'failed',
                '410 Gone', unixepoch(), unixepoch(), unixepoch(), unixepoch())""",
    )
    assert bad(path) == ["messages"]
    assert found(path)["messages"].seen == (
        "1 not delivered in seven days, to https://hooks.example.com/; the last one: 410 Gone"
    )
    break_it(path, "update deliveries set created_at = created_at - 8 * 86400")
    assert bad(path) == []


def test_every_finding_says_what_to_do(path: str):
    assert all(finding.todo.endswith((".", ")")) for finding in Maintenance(path).check())


def break_it(path: str, sql: str) -> None:
    with transaction(connection(path)) as conn:
        conn.execute(sql)


@pytest.mark.parametrize(
    "fault",
    [
        "update jobs set completed = completed + 1",
        "update jobs set total = total + 1",
        "update jobs set failed = failed - 1, completed = completed + 1",
        "update items set status = 'completed' where position = 0",
        "delete from items where position = 0",
        "update jobs set seq = 1",
        "update jobs set seq = 1000000",
    ],
)
def test_the_doctor_finds_counts_and_numbers_that_are_wrong(path: str, fault: str):
    job = failed_job(path, 5)
    break_it(path, fault)
    assert bad(path) == ["counts"]
    assert found(path)["counts"].seen == f"wrong on job {job} and 0 more"


def test_the_doctor_finds_items_whose_worker_is_gone(path: str):
    ledger = Ledger(path)
    job = running_job(path, 3)
    ledger.heartbeat("one", "elsewhere", 1, "background", "1")
    ledger.exchange(job, "one", Report(limit=2))
    assert bad(path) == []
    break_it(path, "update workers set lease = 1")
    assert found(path)["leases"] == Finding(
        False,
        "leases",
        "2 items are held by workers that are gone",
        "Start Rowcast: it takes them back within seconds.",
    )


@pytest.mark.parametrize(
    ("schema", "todo"), [(SCHEMA - 1, "Start Rowcast once"), (99, "Install the newer Rowcast")]
)
def test_the_doctor_finds_another_schema(path: str, schema: int, todo: str):
    break_it(path, f"update rowcast set schema = {schema}")
    assert bad(path) == ["schema"]
    assert found(path)["schema"].todo.startswith(todo)


def damage(path: str, name: str) -> None:
    """Overwrite the first page of a table or an index."""
    connection(path).execute("pragma wal_checkpoint(truncate)")
    (root,) = (
        connection(path).execute("select rootpage from sqlite_schema where name = ?", (name,)).fetchone()
    )
    close_databases()
    with Path(path).open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 100)


def test_the_doctor_finds_a_file_that_is_damaged(path: str):
    failed_job(path, 2000)
    damage(path, "items_recent")
    assert bad(path) == ["integrity"] and "counts" not in found(path)
    assert "restore a backup" in found(path)["integrity"].todo


def test_a_file_that_is_damaged_where_every_start_looks_is_refused_with_what_to_do(path: str):
    failed_job(path, 2000)
    damage(path, "rowcast")
    with pytest.raises(DatabaseRefused, match="it is damaged; restore a backup"):
        prepare(path)


def test_the_doctor_finds_a_log_that_somebody_keeps_from_shrinking(
    path: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(maintenance, "WAL_LARGE", 500_000)
    failed_job(path, 10)
    connection(path).execute("pragma wal_checkpoint(truncate)")
    reader = apsw.Connection(path)
    reader.execute("begin")
    reader.execute("select count(*) from items").fetchone()
    assert bad(path) == []
    failed_job(path, 5000)
    assert bad(path) == ["write-ahead log"]
    reader.close()


def test_the_doctor_finds_a_disk_with_little_room(path: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(maintenance, "ROOM_SMALL", shutil.disk_usage(path).free * 2)
    assert bad(path) == ["room on the disk"]


def test_the_doctor_is_not_misled_by_a_job_that_moves(path: str):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdin=subprocess.PIPE)
    try:
        until(lambda: current_seq(connection(path)) > 100)
        for _ in range(30):
            assert bad(path) == []
    finally:
        writer.communicate()
    assert writer.returncode == 0


# ---- backup ------------------------------------------------------------------------------------------------

WRITER = """
import sys, threading
from rowcast.tables.database import close_databases
from rowcast.jobs import Jobs
from rowcast.tables.ledger import Ledger
from rowcast.tasks.work import Chunk, Report, Result
from rowcast.tasks.built_in import update_users

path = sys.argv[1]
jobs, ledger = Jobs(path), Ledger(path)
job, _ = jobs.submit(update_users, {}, "local", "background")
jobs.start(job.id)
jobs.add_items(job.id, Chunk.of([(f"user-{n}@example.com", None) for n in range(5000)]))
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
while not over.is_set():
    ledger.heartbeat("one", "elsewhere", 1, "background", "1")
    items = ledger.exchange(job.id, "one", Report(limit=20)).items
    results = [Result(i.id, i.attempt, "completed" if i.id % 3 else "failed", error="no") for i in items]
    ledger.exchange(job.id, "one", Report(results))
    if len(items) < 20:
        jobs.act(job.id, "local", "retry")
close_databases()
"""


def test_a_backup_of_a_database_that_is_written_is_whole_and_of_one_moment(path: str, tmp_path: Path):
    # large enough for many steps, between which others write
    break_it(path, "create table ballast (x)")
    break_it(path, f"insert into ballast select randomblob(1000000) from json_each('{[*range(15)]}')")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdin=subprocess.PIPE)
    try:
        until(lambda: current_seq(connection(path)) > 6000)
        for n in range(3):
            copy = tmp_path / f"copy-{n}.db"
            before = current_seq(connection(path))
            assert back_up(path, str(copy)) == copy.stat().st_size > 15_000_000
            assert before <= current_seq(connection(str(copy))) <= current_seq(connection(path))
            # it is a copy, and nobody's heart beats there
            assert bad(str(copy)) in (["Idempotency-Keys"], ["leases", "Idempotency-Keys"])
        assert writer.poll() is None
    finally:
        writer.communicate()


def test_a_backup_can_be_started_from(path: str, tmp_path: Path):
    job = failed_job(path, 5)
    copy = str(tmp_path / "copy.db")
    back_up(path, copy)
    assert prepare(copy) is False
    assert Jobs(copy).act(job, OWNER, "retry").queued == 5


def test_a_backup_never_goes_over_a_file_that_is_there(path: str, tmp_path: Path):
    copy = tmp_path / "copy.db"
    copy.write_text("mine")
    with pytest.raises(FileExistsError, match="is there already"):
        back_up(path, str(copy))
    assert copy.read_text() == "mine"
    with pytest.raises(FileExistsError):
        back_up(path, path)


def test_a_backup_that_breaks_off_leaves_nothing_behind(path: str, tmp_path: Path):
    break_it(path, "create table ballast (x)")
    break_it(path, "insert into ballast values (randomblob(8000000))")
    disk = tmp_path / "small"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("only root can mount a small file system")
    try:
        with pytest.raises(OSError, match="there is no room for"):
            back_up(path, str(disk / "copy.db"))
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_newer_database_is_refused_in_a_sentence(path: str):
    break_it(path, "update rowcast set schema = 99")
    with pytest.raises(DatabaseRefused, match="newer Rowcast"):
        prepare(path)


# ---- room ----------------------------------------------------------------------------------------------------------


def test_what_is_deleted_is_given_back_to_the_disk(path: str):
    old = failed_job(path, 20_000, days_ago=40)
    new = failed_job(path, 100)
    connection(path).execute("pragma wal_checkpoint(truncate)")
    before = Path(path).stat().st_size
    kept = rows_of(path, "items", new)
    assert Maintenance(path).prune(Keep(days=30)) == 1
    assert Path(path).stat().st_size < before / 4
    assert rows_of(path, "items", new) == kept and rows_of(path, "items", old) == []
    assert all(finding.well for finding in Maintenance(path).check())


def test_a_full_disk_can_be_pruned_and_has_room_then(tmp_path: Path):
    disk = tmp_path / "small"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("only root can mount a small file system")
    made = str(disk / "rowcast.db")
    try:
        prepare(made)
        for _ in range(3):
            failed_job(made, 8_000, days_ago=40)
        keep_reserve(made)
        ballast = disk / "ballast"
        with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        assert shutil.disk_usage(disk).free == 0
        assert Maintenance(made).prune(Keep(days=30)) == 3
        assert shutil.disk_usage(disk).free > 4_000_000
        assert [finding.what for finding in Maintenance(made).check() if not finding.well] == [
            "room on the disk"
        ]
    finally:
        close_databases()
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_background_tasks_are_kept_for_some_days_and_other_jobs_for_as_long_as_they_are(path: str):
    jobs = Jobs(path)
    assert not jobs.has_background()
    calls = [(built_in.counter, {"loops": 1}, Options(background=True))]
    (background,) = jobs.write_all(calls, OWNER, "background")
    jobs.act(background.id, OWNER, "cancel")
    other = ended_job(path, 40)
    with transaction(connection(path)) as conn:
        conn.execute("update jobs set finished_at = finished_at - 40 * 86400 where id = ?", (background.id,))
    assert jobs.has_background()
    assert Maintenance(path).prune(Keep(background=50)) == 0
    assert Maintenance(path).prune(Keep(background=14)) == 1
    assert [job.id for job in jobs.jobs(OWNER)] == [other]
