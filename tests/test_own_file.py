"""Rowcast's file is opened by nothing else in its processes, and an application's own tables reach a job by its own library."""

import contextlib
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import httpx
import pytest
import sqlalchemy
from conftest import SHORT, free_port, until
from fastlite import database as fastlite_database

from rowcast import rows
from rowcast.jobs import Jobs
from rowcast.tables.database import DatabaseRefused, close_databases, connection, tick, transaction
from rowcast.tables.ledger import Ledger
from rowcast.tables.own_file import OpenedTwice
from rowcast.tables.schema import prepare
from rowcast.tasks.registry import task
from rowcast.tasks.work import Chunk, Report, Result


def work(item: str) -> None: ...


WORK = task(name="own_file_work", concurrency=1000)(work)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    made = str(tmp_path / "rowcast.db")
    prepare(made)
    yield made
    close_databases()


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """An application's own file."""
    made = tmp_path / "app.db"
    with contextlib.closing(sqlite3.connect(made)) as conn, conn:
        conn.execute("create table customers (id integer primary key, email text, spent real, photo blob)")
        conn.executemany(
            "insert into customers values (?, ?, ?, ?)",
            [(n, f"c{n}@example.com", n / 2, b"\xff") for n in range(5)],
        )
        conn.execute('create table "odd ""name" (x)')
        conn.execute('insert into "odd ""name" values (7)')
    return made


# ---- in one process ---------------------------------------------------------------------------------------------------


def by_uri(path: str) -> Any:
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True)


def by_alchemy(path: str) -> Any:
    return sqlalchemy.create_engine(f"sqlite:///{path}").connect()


def by_link(path: str) -> Any:
    link = Path(path).with_name("link.db")
    link.symlink_to(path)
    return sqlite3.connect(link)


def by_another_name(path: str) -> Any:
    return sqlite3.connect(Path(path).parent / "." / Path(path).name)


def by_reading(path: str) -> Any:
    return Path(path).read_bytes()


def by_bytes(path: str) -> Any:
    return sqlite3.connect(path.encode())


def its_locks(path: str) -> Any:
    return Path(f"{path}-shm").read_bytes()


@pytest.mark.parametrize(
    "opening",
    [sqlite3.connect, by_uri, by_alchemy, by_link, by_another_name, by_reading, by_bytes, its_locks],
)
def test_nothing_else_opens_it_while_it_is_open(path: str, opening: Any):
    with pytest.raises(
        OpenedTwice, match="is Rowcast's own file, and this process has it open: to open it otherwise"
    ):
        opening(path)
    assert Jobs(path).seq() == 0


@pytest.mark.parametrize(
    "statement", ["attach '{}' as r", 'attach database "{}" as r', "attach 'file:{}?mode=ro' as r"]
)
def test_nothing_attaches_it_while_it_is_open(path: str, tmp_path: Path, statement: str):
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as conn:
        with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
            conn.execute(statement.format(path))
        with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
            conn.execute("attach ? as r", (path,))
        conn.execute(f"attach '{tmp_path}/third.db' as r")
        conn.execute("create table r.t (x)")
        conn.execute("vacuum")
        assert conn.execute("select count(*) from r.t").fetchone() == (0,)
    assert Jobs(path).seq() == 0


def reads_in_a_fork(path: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as conn:
        conn.execute("select count(*) from jobs").fetchone()


def writes_in_a_fork(path: str) -> None:
    with transaction(connection(path)) as conn:
        tick(conn)


def is_told_in_a_fork(path: str) -> None:
    with pytest.raises(
        DatabaseRefused, match="was forked from one that has it open: start the process by 'spawn'"
    ):
        connection(path)


def ends_well(function: Any, path: str, how: str = "fork") -> bool:
    child = multiprocessing.get_context(how).Process(target=function, args=(path,))
    child.start()
    child.join()
    return child.exitcode == 0


def test_a_process_that_is_forked_while_it_is_open_is_refused_and_another_copy_of_sqlite_is_not(path: str):
    before = connection(path)
    assert ends_well(is_told_in_a_fork, path) and ends_well(reads_in_a_fork, path)
    assert ends_well(writes_in_a_fork, path, "spawn")
    with transaction(before) as conn:
        tick(conn)
    assert Jobs(path).seq() == 2 and connection(path) is before
    assert before.execute("pragma integrity_check").fetchone() == ("ok",)
    close_databases()
    assert ends_well(writes_in_a_fork, path), "nothing was open then"


ENDS = """
import sys, types
early = sys.modules["early"] = types.ModuleType("early")  # what is in it goes after what is imported later
from rowcast.tables import own_file
from rowcast.tables.schema import prepare

class Late:
    def __init__(self):
        self.open, self.path = open, sys.executable
    def __del__(self):
        self.open(self.path).close()

prepare(sys.argv[1])
early.late = Late()
sys.kept = early, own_file
del early
"""


def test_what_is_opened_as_python_ends_is_no_trouble(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", ENDS, str(tmp_path / "r.db")], capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""


def test_other_files_and_a_file_that_was_closed_are_opened_as_ever(path: str, tmp_path: Path):
    sqlite3.connect(tmp_path / "other.db").close()
    sqlite3.connect(":memory:").close()
    (tmp_path / "text").write_text("x")
    close_databases()
    sqlite3.connect(path).close()


def test_fastlites_connection_is_of_the_same_sqlite_and_fine(path: str):
    db = fastlite_database(path)
    assert db.q("select count(*) as n from jobs")[0]["n"] == 0
    db.conn.close()
    with pytest.raises(OpenedTwice):
        sqlite3.connect(path)


def running(path: str, items: int) -> int:
    job, _ = Jobs(path).submit(WORK, {}, "me", "background")
    Jobs(path).start(job.id)
    Jobs(path).add_items(job.id, Chunk.of([(str(n), None) for n in range(items)], last=True))
    return job.id


def opened_by_others(path: str) -> None:
    """While there is one item."""
    running(path, 1)
    threads = [threading.Thread(target=lambda: (connection(path), close_databases())) for _ in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    fastlite_database(path).conn.close()


def test_nothing_is_counted_of_its_tables_by_which_later_statements_would_be_planned(path: str):
    """apswutils has every connection do that."""
    conn = connection(path)

    def counts() -> list[tuple[str]]:
        return conn.execute("select name from sqlite_schema where name like 'sqlite_stat%'").fetchall()

    opened_by_others(path)
    assert counts() == []
    conn.execute("analyze")  # by hand: until the next start
    assert counts()
    prepare(path)
    assert counts() == []


def test_results_are_noted_without_looking_through_a_jobs_items(path: str):
    opened_by_others(path)
    close_databases()  # what was counted is known to who comes later
    ledger = Ledger(path)
    conn = connection(path)
    steps: list[int] = []

    def noted(number: int) -> int:
        job = running(path, number)
        taken = ledger.exchange(job, "w", Report(limit=50)).items
        results = [Result(one.id, one.attempt, "completed", 200, None, None, 1.0) for one in taken]
        steps.clear()
        conn.set_progress_handler(lambda: bool(steps.append(1)), 100)
        ledger.exchange(job, "w", Report(results))
        conn.set_progress_handler(None)
        assert len(results) == 50
        return len(steps)

    assert noted(4000) < 1.1 * noted(60)


def test_another_process_may_open_it(path: str):
    code = f"import sqlite3; print(sqlite3.connect({path!r}).execute('select count(*) from jobs').fetchone())"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "(0,)\n"
    )


# ---- another program's file --------------------------------------------------------------------------------------------


def test_a_file_that_holds_other_tables_is_refused_with_the_reason(theirs: Path):
    with contextlib.closing(sqlite3.connect(theirs)) as conn, conn:
        conn.execute("create table users (email text primary key)")
    before = theirs.read_bytes()
    with pytest.raises(
        DatabaseRefused, match="it has a table `customers`, and Rowcast keeps a file of its own"
    ):
        prepare(str(theirs))
    close_databases()
    assert theirs.read_bytes() == before


def test_a_file_that_this_process_has_open_already_is_refused(tmp_path: Path):
    file = tmp_path / "app.db"
    with contextlib.closing(sqlite3.connect(file)) as conn:
        conn.execute("create table users (email text primary key)")
        with pytest.raises(
            DatabaseRefused, match="is open in this process already, by other means than Rowcast's"
        ):
            prepare(str(file))
        conn.execute("insert into users values ('a@example.com')")
    prepare(str(file))
    close_databases()


def test_a_file_with_users_alone_is_taken_as_it_is(tmp_path: Path):
    file = str(tmp_path / "app.db")
    with contextlib.closing(sqlite3.connect(file)) as conn, conn:
        conn.execute("create table users (email text primary key, account_updated integer)")
        conn.execute("insert into users values ('a@example.com', null)")
    prepare(file)
    assert connection(file).execute("select email from users").fetchall() == [("a@example.com",)]
    close_databases()


# ---- rows of an application's own table --------------------------------------------------------------------------------

FIRST = {"id": 0, "email": "c0@example.com", "spent": 0.0, "photo": b"\xff"}


def sources(theirs: Path) -> dict[str, Any]:
    engine = sqlalchemy.create_engine(f"sqlite:///{theirs}")
    table = sqlalchemy.Table("customers", sqlalchemy.MetaData(), autoload_with=engine)
    return {
        "a path": rows(str(theirs), "customers"),
        "a Path": rows(theirs, "select * from customers order by id"),
        "an address": rows(f"sqlite:///{theirs}", "customers"),
        "an engine": rows(engine, "customers"),
        "a select": rows(engine, sqlalchemy.select(table).order_by(table.c.id)),
        "fastlite": rows(fastlite_database(str(theirs)).t.customers),
    }


@pytest.mark.parametrize("name", ["a path", "a Path", "an address", "an engine", "a select", "fastlite"])
def test_rows_of_a_table_are_items(theirs: Path, name: str):
    source = sources(theirs)[name]
    found = list(source())
    assert found[0] == FIRST and len(found) == 5
    assert list(source(limit=2)) == found[:2]


def test_a_tables_name_may_be_odd_and_a_file_that_is_not_there_is_no_new_one(theirs: Path):
    assert list(rows(theirs, 'odd "name')()) == [{"x": 7}]
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        list(rows(theirs.with_name("none.db"), "customers")())
    assert not theirs.with_name("none.db").exists()
    for nothing in (rows, lambda *given: rows(5, "x"), lambda *given: rows(theirs)):
        with pytest.raises(TypeError, match="rows takes the path of a SQLite file and a table"):
            nothing(None)


def test_the_job_of_such_a_task_has_a_limit(theirs: Path):
    def show(customer: dict) -> None: ...

    show.__qualname__ = "show"
    made = task(name="show_customers", items=rows(theirs, "customers"))(show)
    assert [argument.name for argument in made.arguments] == ["limit"]
    assert len(list(made.items(**made.source_values(made.check({"limit": 3}))))) == 3


# ---- the whole of it -----------------------------------------------------------------------------------------------------

APP = """
import sqlite3, threading, time
from pathlib import Path
import sqlalchemy
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from rowcast import BackgroundTask, mount, rows, task

OURS, ROWCAST = "data/app.db", "data/rowcast.db"
Path("data").mkdir(exist_ok=True)
with sqlite3.connect(OURS) as made:
    made.execute("create table if not exists customers (email text primary key, seen integer default 0)")
    made.executemany("insert or ignore into customers (email) values (?)", [(f"c{n}@example.com",) for n in range(100)])
made.close()
engine = sqlalchemy.create_engine(f"sqlite:///{OURS}")

def peek(path):
    "Read a file with both, as a careless application does; what is refused is noted."
    try:
        with sqlite3.connect(path, timeout=10) as conn:
            conn.execute("select count(*) from sqlite_schema").fetchone()
        conn.close()
        other = sqlalchemy.create_engine(f"sqlite:///{path}")
        with other.connect() as conn:
            conn.exec_driver_sql("select count(*) from sqlite_schema").fetchone()
        other.dispose()
        return "read"
    except RuntimeError as error:
        return type(error).__name__

@task(items=rows(OURS, "customers"), concurrency=8)
def greet(customer: dict):
    return [peek(OURS), peek(ROWCAST)]

def note(n: int):
    peek(ROWCAST)
    with sqlite3.connect(OURS, timeout=30) as conn:
        conn.execute("update customers set seen = seen + 1 where email = ?", (f"c{n % 100}@example.com",))
    conn.close()

async def visit(request):
    n = int(request.path_params["n"])
    peek(ROWCAST), peek(OURS)
    with engine.begin() as conn:
        conn.exec_driver_sql("select count(*) from customers").fetchone()
    return PlainTextResponse("on its way", background=BackgroundTask(note, n))

def look(request):
    return JSONResponse([peek(OURS), peek(ROWCAST)])

app = Starlette(routes=[Route("/visit/{n:int}", visit), Route("/look", look)])
mount(app, "/jobs")
"""


def test_with_sqlite3_and_sqlalchemy_in_the_app_and_in_tasks_nothing_is_lost_or_damaged(tmp_path: Path):
    (tmp_path / "app.py").write_text(APP)
    env = {k: v for k, v in os.environ.items() if not k.startswith("ROWCAST_")}
    accepted = 0
    for _ in range(2):
        port = free_port()
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "warning"],
                cwd=tmp_path, env=env, stdout=log, stderr=log,
            )  # fmt: skip
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, limits=SHORT) as client:

            def up(client: httpx.Client = client) -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return client.get("/jobs/healthz").is_success
                return False

            until(up)
            assert client.get("/look").json() == ["read", "OpenedTwice"]
            job = client.post("/jobs/api/jobs", json={"task": "greet"}).json()["id"]
            for n in range(60):
                assert client.get(f"/visit/{n}").text == "on its way"
            accepted += 61

            def ended(client: httpx.Client = client, accepted: int = accepted) -> bool:
                jobs = client.get("/jobs/api/jobs", params={"limit": 500}).json()["jobs"]
                return len(jobs) == accepted and all(one["finished_at"] for one in jobs)

            until(ended)
            items = client.get(f"/jobs/api/jobs/{job}/items", params={"limit": 200}).json()["items"]
            assert len(items) == 100 and all(item["result"] == ["read", "OpenedTwice"] for item in items)
        process.terminate()
        process.wait(60)
    for name, count in (
        ("rowcast.db", "select count(*) from jobs where status = 'completed'"),
        ("app.db", "select sum(seen) from customers"),
    ):
        with contextlib.closing(apsw.Connection(str(tmp_path / "data" / name))) as conn:
            assert conn.execute("pragma integrity_check").fetchall() == [("ok",)]
            assert conn.execute(count).fetchone()[0] == (accepted if name == "rowcast.db" else 120)
