"""The schema: the tables as they are written down, and how a file of an earlier Rowcast comes to be one of today's."""

import os
import re
import sqlite3
import subprocess
from pathlib import Path

import forks
import pytest
from conftest import nursery

from rowcast.jobs import Jobs
from rowcast.tables import schema
from rowcast.tables.database import DatabaseRefused, close_databases, connection
from rowcast.tables.schema import OUR_TABLES, SCHEMA, TABLES, prepare
from rowcast.tasks.records import OWNER

LATER = [
    "alter table jobs add column colour text",
    "create table colours (name text)",
]  # of two releases to come


def made(path: Path) -> None:
    """A database as today's Rowcast leaves it, with one job."""
    prepare(str(path))
    connection(str(path)).execute(
        "insert into jobs (task, entry, shape, owner, engine, created_at, seq)"
        " values ('t', 'm:f', 'items', 'local', 'background', 1, 1)"
    )
    close_databases()


def later(monkeypatch: pytest.MonkeyPatch, *migrations: str) -> None:
    """From now on this is a Rowcast that knows more migrations."""
    monkeypatch.setattr(schema, "MIGRATIONS", list(migrations))
    monkeypatch.setattr(schema, "SCHEMA", SCHEMA + len(migrations))


def schema_of(path: str) -> int:
    conn = sqlite3.connect(path)
    (found,) = conn.execute("select schema from rowcast").fetchone()
    conn.close()
    return found


def dump(path: Path) -> list[str]:
    conn = sqlite3.connect(path)
    tables = conn.execute(
        "select name, sql from sqlite_schema where name not like 'sqlite_stat%' order by name"
    ).fetchall()
    # without the statistics that opening it may have noted; the index of words is in tables of its own
    plain = [
        name for name, sql in tables if sql and re.match("create table", sql, re.I) and "sqlite_" not in name
    ]
    lines = [
        repr(tables),
        *(repr((name, row)) for name in plain for row in conn.execute(f"select * from '{name}'")),
    ]
    conn.close()
    return lines


def test_every_column_says_what_it_is():
    lines = [line for line in TABLES.splitlines() if re.match(r"    \w+ (integer|text|real)", line)]
    assert len(lines) > 90
    assert [line for line in lines if not re.search(r" -- \S", line)] == []


def test_every_table_says_what_a_row_is():
    heads = [line for line in TABLES.splitlines() if line.startswith("create table")]
    found = {"words", "terms"}  # virtual: what a row is stands beside it
    assert {line.split()[2] for line in heads} | found == OUR_TABLES | {"rowcast"}
    assert "-- a row is the words of a job" in TABLES
    assert [line for line in heads if not re.search(r" -- \S", line)] == []


@pytest.mark.parametrize("older", range(1, 3))
def test_an_older_database_is_migrated_with_a_copy_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: int
):
    path = tmp_path / "rowcast.db"
    made(path)
    later(monkeypatch, *LATER[: older - 1])
    prepare(str(path))
    later(monkeypatch, *LATER)
    assert prepare(str(path)) is False
    assert connection(str(path)).execute("select colour from jobs").fetchall() == [(None,)]
    assert connection(str(path)).execute("select * from colours").fetchall() == []
    assert Jobs(str(path)).job(1, OWNER).task == "t"
    close_databases()
    assert schema_of(str(path)) == SCHEMA + 2
    copy = sqlite3.connect(f"{path}.schema-{older}")
    assert copy.execute("select task from jobs").fetchone() == ("t",)
    copy.close()
    assert schema_of(f"{path}.schema-{older}") == older


def test_a_copy_that_is_there_already_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "rowcast.db"
    made(path)
    later(monkeypatch, *LATER)
    (tmp_path / "rowcast.db.schema-1").write_text("of a start that was broken off")
    prepare(str(path))
    close_databases()
    assert (tmp_path / "rowcast.db.schema-1").read_text() == "of a start that was broken off"
    assert schema_of(str(path)) == SCHEMA + 2


def test_a_migration_that_breaks_leaves_the_database_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "rowcast.db"
    made(path)
    later(monkeypatch, *LATER, "create table half (x); select no_such_function()")
    with pytest.raises(DatabaseRefused, match="no such function"):
        prepare(str(path))
    close_databases()
    assert schema_of(str(path)) == SCHEMA
    old = sqlite3.connect(path)
    assert not old.execute("select 1 from sqlite_schema where name in ('half', 'colours')").fetchall()
    old.close()


def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "rowcast.db"
    made(path)
    old = sqlite3.connect(path)
    old.execute("update rowcast set schema = 99")
    old.commit()
    old.close()
    before = dump(path)
    with pytest.raises(DatabaseRefused, match=f"a newer Rowcast .schema 99, this one knows {SCHEMA}."):
        prepare(str(path))
    close_databases()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rowcast.db"]
    assert dump(path) == before


def test_two_processes_that_open_an_older_database_at_once_migrate_it_once(tmp_path: Path):
    path = tmp_path / "rowcast.db"
    made(path)
    code = f"""
from rowcast.tables import schema
schema.MIGRATIONS, schema.SCHEMA = {LATER!r}, {SCHEMA + 2}
input()
schema.prepare({str(path)!r})
"""
    both = [forks.Forked(nursery(), code, [], env=dict(os.environ), stdin=subprocess.PIPE) for _ in range(2)]
    for process in both:
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.close()
    assert [process.wait(120) for process in both] == [0, 0]
    assert (schema_of(str(path)), schema_of(f"{path}.schema-1")) == (SCHEMA + 2, 1)
