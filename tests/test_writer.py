"""The writer: those who come in the same moment are written in one transaction, and none suffers for another."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import apsw
import pytest

from rowcast import BackgroundTask
from rowcast.jobs import Jobs
from rowcast.tables.database import connection, current_seq, tick, together, transaction
from rowcast.tables.schema import prepare
from rowcast.tables.writer import Writer
from rowcast.tasks.records import Options
from rowcast.tasks.registry import task
from rowcast.tasks.settings import Settings
from rowcast.tasks.work import CHUNK
from rowcast.web import background_task
from rowcast.web.state import State


def work(item: str) -> None: ...


WORK = task(name="writer_work")(work)


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = str(tmp_path / "rowcast.db")
    prepare(path)
    return path


def start(path: str, key: str) -> int:
    return Jobs(path).submit(WORK, {}, "me", "background", Options(unique_key=key))[0].id


def keys(path: str) -> list[str]:
    return [key for (key,) in connection(path).execute("select unique_key from jobs order by id")]


def in_one_group(
    path: str, *asked: tuple[Any, ...], meanwhile: Any = None, rows: Sequence[int] = (), many: Any = None
) -> tuple[list[Any], int]:
    """What came of each of these, asked for in one moment, and in how many transactions they were written."""
    writer = Writer(path)
    commits = list[str]()
    held = threading.Event()
    go = threading.Event()

    def hold() -> None:
        connection(path).set_commit_hook(lambda: bool(commits.append("")))
        held.set()
        go.wait(120)

    async def ask() -> list[Any]:
        first = asyncio.create_task(writer.do(hold))
        await asyncio.to_thread(held.wait, 120)
        others = [
            asyncio.create_task(writer.do(*one, rows=n, many=many))
            for one, n in zip_longest(asked, rows, fillvalue=1)
        ]
        await asyncio.sleep(0)
        with meanwhile or contextlib.nullcontext():
            go.set()
            await first
            return await asyncio.gather(*others, return_exceptions=True)

    return asyncio.run(ask()), len(commits)


def test_who_comes_in_the_same_moment_is_written_in_one_transaction_and_answered_after_it(path: str):
    found, commits = in_one_group(path, *((start, path, f"key {n}") for n in range(20)))
    assert found == list(range(1, 21)) and commits == 1
    assert keys(path) == [f"key {n}" for n in range(20)]


def test_who_writes_little_waits_behind_no_more_than_one_who_writes_much(path: str):
    names = ["much 0", "much 1", "much 2", "little", "much 3", "few"]
    rows = [3000, 3000, 3000, 1, 9 * CHUNK, 1999]
    found, commits = in_one_group(path, *((start, path, name) for name in names), rows=rows)
    assert keys(path) == ["much 0", "little", "few", "much 1", "much 2", "much 3"] and commits == 4
    assert found == [1, 4, 5, 2, 6, 3]


def test_one_that_fails_is_rolled_back_alone_and_hears_why(path: str):
    def half(key: str) -> None:
        with transaction(connection(path)) as conn:
            conn.execute("update rowcast set seq = seq + 1000000")
            raise LookupError(key)

    found, commits = in_one_group(
        path, (start, path, "a"), (half, "b"), (start, path, "c"), (start, path, "a")
    )
    assert [type(one) for one in found] == [int, LookupError, int, int] and commits == 1
    assert found[0] == found[3], "the unique key is seen by who comes later in the same transaction"
    assert keys(path) == ["a", "c"] and current_seq(connection(path)) < 1000


def flood(path: str) -> None:
    conn = connection(path)
    (pages,) = conn.execute("pragma page_count").fetchone()
    with transaction(conn):
        conn.execute(f"pragma max_page_count = {pages + 20}")
        try:
            conn.execute("create table flood as select randomblob(4000000) as much")
        finally:
            conn.execute("pragma max_page_count = 1000000000")
            if conn.in_transaction:  # as it is after other errors of the disk
                conn.execute("rollback")


def test_what_several_ask_in_one_moment_is_done_for_all_at_once_where_that_is_known(path: str):
    calls = list[int]()

    def start_all(asked: list[tuple[str, str]]) -> list[Any]:
        calls.append(len(asked))
        return [LookupError(key) if key == "b" else start(path, key) for path, key in asked]

    found, commits = in_one_group(path, *((start, path, key) for key in "abc"), many=start_all)
    assert [type(one) for one in found] == [int, LookupError, int] and commits == 1 and calls == [3]
    assert keys(path) == ["a", "c"]
    alone, _ = in_one_group(path, (start, path, "d"), many=start_all)
    assert [type(one) for one in alone] == [int] and calls == [3], "who comes alone is done by itself"


def test_where_nothing_comes_of_all_at_once_each_hears_why_or_is_done_again_alone(path: str):
    def fail(asked: list[Any]) -> list[Any]:
        raise LookupError(len(asked))

    found, _ = in_one_group(path, (start, path, "a"), (start, path, "b"), many=fail)
    assert [type(one) for one in found] == [LookupError] * 2 and keys(path) == []

    def lose(asked: list[Any]) -> list[Any]:
        flood(path)
        return [1] * len(asked)

    found, commits = in_one_group(path, (start, path, "a"), (start, path, "b"), many=lose)
    assert [type(one) for one in found] == [int, int] and commits == 2 and keys(path) == ["a", "b"]


def test_where_sqlite_rolls_back_all_each_is_done_again_alone(path: str):
    found, commits = in_one_group(path, (start, path, "a"), (flood, path), (start, path, "b"))
    assert [type(one) for one in found] == [int, apsw.FullError, int] and commits == 2
    assert keys(path) == ["a", "b"]


def test_who_goes_on_after_sqlite_has_rolled_back_all_writes_nothing_that_would_be_written_again(path: str):
    def goes_on() -> int:
        with contextlib.suppress(apsw.FullError):
            flood(path)
        return start(path, "c")

    found, _ = in_one_group(path, (start, path, "a"), (goes_on,), (start, path, "b"))
    assert [type(one) for one in found] == [int, apsw.FullError, int]
    assert keys(path) == ["a", "b"]


def test_one_that_is_written_by_itself_loses_nothing_of_what_it_has_written_where_it_goes_on(path: str):
    def goes_on() -> int:
        start(path, "a")
        with contextlib.suppress(LookupError), transaction(connection(path)) as conn:
            conn.execute("update rowcast set seq = seq + 1000000")
            raise LookupError
        return start(path, "b")

    found, commits = in_one_group(path, (goes_on,))
    assert found == [2] and commits == 1
    assert keys(path) == ["a", "b"] and current_seq(connection(path)) < 1000


def test_where_nobody_can_write_all_hear_it_after_one_wait(path: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rowcast.tables.database.BUSY_MS", 50)
    asked = [(start, path, f"key {n}") for n in range(300)]
    found, commits = in_one_group(path, *asked, meanwhile=transaction(connection(path)))
    assert {type(one) for one in found} == {apsw.BusyError} and not commits


def test_a_transaction_in_one_that_is_written_together_is_refused(path: str):
    conn = connection(path)
    with together(conn):
        with transaction(conn), pytest.raises(RuntimeError, match="under way"), transaction(conn):
            pass
        with pytest.raises(RuntimeError, match="under way"), together(conn):
            pass
        start(path, "a")
    assert keys(path) == ["a"]


def test_a_thread_without_an_event_loop_waits_for_its_answer(path: str):
    assert Writer(path).wait(start, path, "a") == 1
    with pytest.raises(ZeroDivisionError):
        Writer(path).wait(lambda: 1 // 0)


def test_an_idle_writer_ends_and_comes_back(path: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rowcast.tables.writer.IDLE", 0.01)
    writer = Writer(path)
    for n in range(3):
        writer.wait(start, path, f"key {n}")
        if thread := writer.thread:
            thread.join(120)
            assert not thread.is_alive()
    assert len(keys(path)) == 3


def test_behind_a_look_that_goes_on_nobody_writes_and_that_is_said_each_time(path: str):
    """SQLite says it only where another has written since, in thousands of times once, and does not wait then."""
    conn = connection(path)
    look = conn.execute("select seq from rowcast where seq >= 0")
    look.fetchone()
    with pytest.raises(RuntimeError, match="A look goes on"), transaction(conn):
        pass
    with pytest.raises(RuntimeError, match="A look goes on"), together(conn), transaction(conn):
        pass
    assert look.fetchall() == []
    with transaction(conn):
        tick(conn)


def test_a_background_task_whose_commit_failed_is_written_where_it_is_called_again(
    path: str, monkeypatch: pytest.MonkeyPatch
):
    state = State(Settings(database=path))
    full = [True]

    async def here() -> State:
        return state

    def no_room() -> bool:
        if full:
            raise apsw.FullError("the disk is full")
        return False

    monkeypatch.setattr(background_task, "here_now", here)
    one = BackgroundTask(json.dumps, 1)

    async def call_twice() -> None:
        await state.writer.do(lambda: connection(path).set_commit_hook(no_room))
        with pytest.raises(apsw.FullError):
            await one()
        assert one.job is None
        full.clear()
        await one()

    asyncio.run(call_twice())
    assert one.job and connection(path).execute("select id from jobs").fetchall() == [(one.job.id,)]
