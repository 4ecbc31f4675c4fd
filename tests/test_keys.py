"""An Idempotency-Key belongs to one database: another's item never has it, in a fresh one, a copy or a restored one."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Api, Server, rowcast

from rowcast.jobs import Jobs
from rowcast.tables.database import back_up, close_databases
from rowcast.tables.maintenance import Maintenance
from rowcast.tables.restore import restore
from rowcast.tables.schema import KEYS, prepare
from rowcast.tasks.registry import task
from rowcast.tasks.work import Chunk


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    close_databases()


def greet(item: str) -> None: ...


GREET = task(greet, name="greets_once")


def a_job(path: str, *names: str) -> list[str]:
    """The keys of a job's items."""
    jobs = Jobs(path)
    job, _ = jobs.submit(GREET, {"items": list(names)}, "local", "background")
    jobs.add_items(job.id, Chunk.of([(name, None) for name in names], last=True))
    return [f"{job.id}-{item.id}" for item in jobs.items(job.id)]


def made(path: Path) -> str:
    prepare(str(path))
    return str(path)


def keys_well(path: str) -> bool:
    return next(found.well for found in Maintenance(path).check() if found.what == "Idempotency-Keys")


def test_two_fresh_databases_give_other_keys(tmp_path: Path):
    first = a_job(made(tmp_path / "a.db"), "ada", "ben")
    second = a_job(made(tmp_path / "b.db"), "cleo", "dan")
    assert not set(first) & set(second)
    numbers = [int(key.split("-")[1]) for key in first]
    assert numbers[1] == numbers[0] + 1 and 0 < numbers[0] <= KEYS + 1


def test_a_number_is_not_given_twice_when_all_jobs_are_gone(tmp_path: Path):
    path = made(tmp_path / "a.db")
    (before,) = a_job(path, "ada")
    Jobs(path).conn.execute("delete from items")
    (after,) = a_job(path, "ben")
    assert int(after.split("-")[1]) == int(before.split("-")[1]) + 1


def test_a_copy_is_noticed_and_gives_its_own_keys_when_it_is_told(tmp_path: Path):
    path = made(tmp_path / "a.db")
    a_job(path, "ada")
    assert keys_well(path)
    back_up(path, str(tmp_path / "copy.db"))
    close_databases()
    copy = made(tmp_path / "copy.db")
    assert not keys_well(copy)
    Maintenance(copy).own_keys()
    assert keys_well(copy) and keys_well(path)
    assert not set(a_job(path, "ben", "cleo")) & set(a_job(copy, "dan", "eve"))


def test_a_file_that_was_renamed_is_no_copy(tmp_path: Path):
    path = made(tmp_path / "a.db")
    a_job(path, "ada")
    close_databases()
    shutil.move(path, tmp_path / "b.db")
    assert keys_well(made(tmp_path / "b.db"))


def test_after_a_restore_no_key_is_one_that_was_given_since_the_backup(tmp_path: Path):
    path = made(tmp_path / "a.db")
    a_job(path, "ada")
    back_up(path, str(tmp_path / "backup.db"))
    lost = a_job(path, "ben", "cleo")
    close_databases()
    restore(path, str(tmp_path / "backup.db"))
    again = a_job(made(tmp_path / "a.db"), "dan", "eve")
    assert not set(lost) & set(again)
    assert keys_well(path)


def command(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`rowcast ...` where the server has its data."""
    return rowcast(*arguments, cwd=server.directory, env=server.env)


def test_the_doctor_says_it_and_is_told(serve, api: Api, tmp_path: Path):
    server: Server = serve("--api-url", api.url)
    server.users("ada@example.com")
    job = server.begin("update_users")
    server.ended(job)
    (item,) = server.items(job)
    assert [key for _, key, _, _ in api.log()] == [f"{job}-{item['id']}"]
    server.stop()
    data = server.directory / "data"
    assert command(server, "backup", "data/copy.db").returncode == 0
    said = command(server, "--database", "data/copy.db", "doctor")
    assert said.returncode == 1 and "BAD  Idempotency-Keys: this file is a copy" in said.stdout
    assert "rowcast doctor --own-keys" in said.stdout
    told = command(server, "--database", "data/copy.db", "doctor", "--own-keys")
    assert told.returncode == 0 and "ok   Idempotency-Keys: its own" in told.stdout, told.stdout
    assert (data / "copy.db").exists()
