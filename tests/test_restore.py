"""Backups put in place: by `rowcast restore`, and by hand beside what a crash has left; with real files and processes."""

import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from conftest import Server, rowcast, until
from test_trouble import child_of, database

from rowcast.tables.database import DatabaseRefused, back_up, close_databases, connection
from rowcast.tables.maintenance import CHECKED, Maintenance
from rowcast.tables.restore import restore
from rowcast.tables.schema import prepare
from rowcast.tasks.records import JOBS_PAGE

Serve = Callable[..., Server]


def command(server: Server, *words: str) -> subprocess.CompletedProcess[str]:
    return rowcast(*words, cwd=server.directory, env=server.env)


def jobs(server: Server) -> list[int]:
    return sorted(
        job["id"] for job in server.client.get("/api/jobs", params={"limit": JOBS_PAGE}).json()["jobs"]
    )


def crash(server: Server) -> None:
    """The server and its worker, killed at once: what was committed last is in the log."""
    child = child_of(server)
    server.process.send_signal(signal.SIGSTOP)
    subprocess.run(["kill", "-9", str(child)], check=True)
    server.process.kill()
    server.process.wait()
    until(lambda: not Path(f"/proc/{child}").exists())


@pytest.fixture
def crashed(serve: Serve) -> Server:
    """A server that has crashed with three jobs, of which a backup has the first."""
    server = serve()
    server.ended(server.begin("counter", loops=1))
    assert command(server, "backup", "copy.db").returncode == 0
    server.ended(server.begin("counter", loops=1))
    server.begin("update_users", limit=1000)
    crash(server)
    assert Path(f"{database(server)}-wal").stat().st_size > 0
    return server


def test_a_backup_that_was_copied_beside_a_crashs_log_is_not_mixed_with_it(crashed: Server):
    before = Path(f"{database(crashed)}-wal").read_bytes()
    shutil.copy(crashed.directory / "copy.db", database(crashed))
    for words in ((), ("doctor",), ("prune", "--keep", "1")):
        ran = command(crashed, *words)
        assert ran.returncode == 2 and "belongs to another database: they were not mixed." in ran.stderr
    assert Path(f"{database(crashed)}-wal").read_bytes() == before
    assert database(crashed).read_bytes() == (crashed.directory / "copy.db").read_bytes()


def test_restore_puts_the_backup_in_place_and_keeps_what_was_there_whole(crashed: Server):
    ran = command(crashed, "restore", "copy.db")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines()[1] == "What was there is data/rowcast.db.before-restore."
    crashed.start()
    assert jobs(crashed) == [1]
    assert crashed.ended(crashed.begin("counter", loops=1))["completed"] == 1
    crashed.stop()
    assert command(crashed, "restore", "data/rowcast.db.before-restore").returncode == 0
    crashed.start()
    assert jobs(crashed) == [1, 2, 3], "what was there had all that was committed"
    crashed.stop()
    kept = {path.name for path in database(crashed).parent.glob("*before-restore*")}
    assert {
        "rowcast.db.before-restore",
        "rowcast.db.before-restore-wal",
        "rowcast.db.before-restore-2",
    } <= kept
    assert "BAD" not in command(crashed, "doctor").stdout.replace("BAD  leases", "")


def test_no_number_is_given_twice_and_who_has_seen_what_is_lost_reads_again(crashed: Server):
    seen = newest(crashed.directory / "copy.db")
    log = Path(f"{database(crashed)}-wal").read_bytes()
    before = newest(database(crashed))
    assert before > seen
    assert command(crashed, "restore", "copy.db").returncode == 0
    kept = Path(f"{database(crashed)}.before-restore-wal")
    assert kept.read_bytes() == log, "looked at, and left as it was"
    conn = sqlite3.connect(database(crashed))
    assert conn.execute("select seq, pruned_seq from rowcast").fetchall() == [(before + 1, before + 1)]
    conn.close()


def newest(path: Path) -> int:
    conn = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return int(str(conn.execute("select seq from rowcast").fetchall()[0][0]))
    finally:
        conn.close()


def test_restore_does_nothing_while_the_database_is_in_use(serve: Serve):
    server = serve()
    server.ended(server.begin("counter", loops=1))
    assert command(server, "backup", "copy.db").returncode == 0
    ran = command(server, "restore", "copy.db")
    assert (ran.returncode, ran.stderr) == (
        2,
        "rowcast: The database data/rowcast.db is in use: stop Rowcast first.\n",
    )
    assert server.ended(server.begin("counter", loops=1))["completed"] == 1


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    made = str(tmp_path / "rowcast.db")
    prepare(made)
    yield made
    close_databases()


def test_a_database_whose_log_does_not_fit_it_is_refused(path: str, tmp_path: Path):
    """A file that was copied while nobody used it does not say of itself that it has no log."""
    people = [(f"user-{n:04}@example.com",) for n in range(5000)]
    connection(path).executemany("insert into users (email) values (?)", people)
    close_databases()
    older = Path(path).read_bytes()
    conn = connection(path)
    conn.execute("delete from users")
    conn.executemany("insert into users (email) values (?)", reversed(people))
    conn.execute("pragma wal_checkpoint(truncate)")
    conn.execute("update users set email = 'b' || email where rowid % 500 = 0")
    log = Path(f"{path}-wal").read_bytes()
    mixed = tmp_path / "mixed.db"
    mixed.write_bytes(older)
    Path(f"{mixed}-wal").write_bytes(log)
    with pytest.raises(
        DatabaseRefused, match="do not fit together, or are damaged: `rowcast restore` a backup"
    ):
        prepare(str(mixed))
    assert (mixed.read_bytes(), Path(f"{mixed}-wal").read_bytes()) == (older, log), "nothing was mixed"


def test_restore_does_nothing_while_another_program_reads_the_database(path: str, tmp_path: Path):
    back_up(path, str(tmp_path / "copy.db"))
    close_databases()
    code = (
        "import sqlite3, sys\nconn = sqlite3.connect(sys.argv[1])\nconn.execute('select * from jobs').fetchall()\n"
        "print('open', flush=True)\nsys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout and other.stdin
    other.stdout.readline()
    with pytest.raises(DatabaseRefused, match="is in use"):
        restore(path, str(tmp_path / "copy.db"))
    other.communicate()
    assert restore(path, str(tmp_path / "copy.db")).kept


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda file: None, "There is no file"),
        (lambda file: file.write_text("nothing"), "is no backup of a Rowcast database"),
        (lambda file: file.write_bytes(b""), "is no backup of a Rowcast database"),
    ],
)
def test_what_is_no_backup_is_not_restored(path: str, tmp_path: Path, make: Any, says: str):
    make(tmp_path / "other.db")
    close_databases()
    before = Path(path).read_bytes()
    with pytest.raises(DatabaseRefused, match=says):
        restore(path, str(tmp_path / "other.db"))
    assert Path(path).read_bytes() == before


def test_a_damaged_backup_is_not_restored(path: str, tmp_path: Path):
    (root,) = (
        connection(path).execute("select rootpage from sqlite_schema where name = 'jobs_by_seq'").fetchone()
    )
    copy = tmp_path / "copy.db"
    back_up(path, str(copy))
    with copy.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 100)
    close_databases()
    with pytest.raises(DatabaseRefused, match=r"is damaged|is no backup"):
        restore(path, str(copy))


def test_a_database_is_no_backup_of_itself(path: str):
    close_databases()
    with pytest.raises(DatabaseRefused, match="is the database itself"):
        restore(path, path)


def test_the_doctor_compares_indexes_with_their_tables_and_says_where_it_does_not(
    path: str, monkeypatch: pytest.MonkeyPatch
):
    conn = connection(path)
    conn.execute("insert into users (email) values ('a@example.com'), ('b@example.com')")
    conn.execute("pragma writable_schema = on")
    conn.execute(
        "update sqlite_schema set sql = replace(sql, 'finished_at is null', 'id > 0') where name = 'jobs_active'"
    )
    conn.execute("insert into jobs (id, seq, task, entry, shape, owner, engine, created_at, finished_at)"
                 " values (1, 1, 't', 'e', 'items', 'local', 'background', 1, 2)")  # fmt: skip
    close_databases()
    (integrity,) = [finding for finding in Maintenance(path).check() if finding.what == "integrity"]
    assert not integrity.well and "jobs_active" in integrity.seen
    monkeypatch.setattr("rowcast.tables.maintenance.CHECKED", 1)
    (integrity,) = [finding for finding in Maintenance(path).check() if finding.what == "integrity"]
    assert (
        integrity.well
        and "indexes were not compared with their tables, as the file has 0.0 GB" in integrity.seen
    )
    assert CHECKED > 1
