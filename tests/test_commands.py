"""The command line, as a shell sees it: what it prints, how it ends, and with which code."""

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from test_trouble import child_of

from rowcast import __main__ as commands
from rowcast.tables import database
from rowcast.tables.rescue import is_running
from rowcast.tables.schema import prepare
from rowcast.tables.users import Users
from rowcast.tasks.settings import BadSetting, Settings
from tests.conftest import PATIENCE, Server, free_port, until

FILES = {
    "work.py": """
import time
from rowcast import task

@task(concurrency=2)
def each(item: str, seconds: float = 0.0):
    time.sleep(seconds)
    if item.startswith("!"):
        raise RuntimeError(item)
"""
}
FLAGS = ("--tasks", "work")


COMMAND = [sys.executable, "-m", "rowcast.dashboard"]


class Ran(NamedTuple):
    """How a command ended, and what it printed."""

    code: int | str | None
    out: str
    err: str


@pytest.fixture
def rowcast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Ran]]:
    """Run the command to its end, in this process and a directory of its own: most end before they have begun."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in os.environ if name.startswith("ROWCAST_")]:
        monkeypatch.delenv(name)
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> Ran:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            commands.main(list(arguments))
        return Ran(end.value.code, *capfd.readouterr())

    yield run
    signal.signal(signal.SIGTERM, before)
    database.close_databases()


def refused(ran: Ran) -> str:
    """The one line in which the command said why it would not; it ended with 2."""
    assert (ran.code, ran.out) == (2, ""), ran
    assert ran.err.startswith("rowcast: ") and ran.err.count("\n") == 1, ran.err
    return ran.err.removeprefix("rowcast: ").strip()


# ---- what it will not do -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (
            ["--host", "0.0.0.0"],
            "--host 0.0.0.0 lets others in, and there are no accounts: make one with `rowcast account add NAME --role admin`.",
        ),
        (["--host", "example.com"], "--host example.com lets others in, and there are no accounts"),
        (["--host", "two words"], "--host is an address or a name of this machine, not 'two words'."),
        (["--port", "many"], "--port takes a number, not 'many'."),
        (["--port", "9" * 5000], "--port takes a number, not '9999"),
        (["--workers", "0"], "--workers is a number from 1 to 999, not 0."),
        (["--streams", "-1"], "--streams is a number from 0, not -1."),
        (["--streams-per-viewer", "1.5"], "--streams-per-viewer takes a number, not '1.5'."),
        (["--port", "65536"], "--port is a number from 0 to 65535, not 65536."),
        (
            ["--tasks", "no_such_module"],
            "The tasks in 'no_such_module' cannot be imported: ModuleNotFoundError",
        ),
        (["--api-url", "example.com"], "--api-url is an http:// or https:// address, not 'example.com'."),
        (["--database", ":memory:"], "--database is the name of a file, not ':memory:'."),
        (["--database", "x" * 300], "--database cannot be looked at: File name too long."),
        (["--engine", "steam"], "--engine is "),
    ],
)
def test_a_wrong_flag_is_one_line_and_code_2(rowcast, flags: list[str], says: str):
    assert refused(rowcast(*flags)).startswith(says)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("def f(:", "SyntaxError"),
        ("raise ValueError('one\\ntwo')", "ValueError: one two"),
        ("from rowcast import task\n@task(rate='fast')\ndef f(): ...", "'fast' is no rate"),
        (
            "from rowcast import task\n@task(concurrency=0)\ndef f(): ...",
            "concurrency is a whole number from 1 to 1,000, auto, or auto with its bounds",
        ),
    ],
)
def test_a_module_of_tasks_that_cannot_be_imported_is_one_line_and_code_2(
    rowcast, tmp_path: Path, code: str, says: str
):
    (tmp_path / "mine.py").write_text(code)
    said = refused(rowcast("--tasks", "mine"))
    assert said.startswith("The tasks in 'mine' cannot be imported: ") and says in said


def test_a_port_in_use_is_one_line_and_code_2(rowcast, shared: Server):
    said = refused(rowcast("--port", str(shared.port)))
    assert (
        said
        == f"Port {shared.port} on 127.0.0.1 cannot be had (Address already in use); give another with --port."
    )


def other_database(path: Path, *statements: str) -> Path:
    with contextlib.closing(sqlite3.connect(path)) as conn, conn:
        for statement in statements:
            conn.execute(statement)
    return path


def test_a_file_that_is_no_database_is_left_alone(rowcast, tmp_path: Path):
    (tmp_path / "notes.db").write_text("Dear diary, today I was not a database.\n" * 100)
    before = (tmp_path / "notes.db").read_bytes()
    said = refused(rowcast("--database", "notes.db"))
    assert said == "Cannot open the database notes.db: it is not a SQLite database."
    assert (tmp_path / "notes.db").read_bytes() == before


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        (
            ["create table songs (title)"],
            "belongs to another program: it has tables (songs) and no `users` among them.",
        ),
        (
            ["create table users (email)", "create table jobs (x)"],
            "it has a table `jobs` that is not Rowcast's.",
        ),
        (["create table users (id integer, name text)"], "has no column `email`, which Rowcast reads."),
        (["create table items (x)"], "it has a table `items` that is not Rowcast's."),
    ],
)
def test_the_database_of_another_program_is_left_alone(rowcast, tmp_path: Path, tables: list[str], says: str):
    path = other_database(tmp_path / "other.db", *tables)
    before = path.read_bytes()
    assert says in refused(rowcast("--database", "other.db"))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_database_of_a_newer_version_is_left_alone(rowcast, tmp_path: Path):
    other_database(
        tmp_path / "new.db",
        "create table rowcast (schema integer, seq integer)",
        "insert into rowcast values (999, 0)",
    )
    said = refused(rowcast("--database", "new.db"))
    assert said.startswith("The database new.db was written by a newer Rowcast (schema 999,")


@pytest.mark.parametrize("path", ["file/rowcast.db", ".", "/dev/null/rowcast.db"])
def test_a_database_that_cannot_be_written_is_one_line_and_code_2(rowcast, tmp_path: Path, path: str):
    (tmp_path / "file").write_text("no directory")
    assert refused(rowcast("--database", path)).startswith(f"Cannot open the database {path}: ")


def test_a_flag_goes_before_its_environment_variable(rowcast, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ROWCAST_PORT", "y")
    assert refused(rowcast("--port", "x")) == "--port takes a number, not 'x'."
    assert refused(rowcast()) == "ROWCAST_PORT takes a number, not 'y'."


def test_from_a_shell_it_is_the_same(tmp_path: Path):
    (tmp_path / "notes.db").write_text("Dear diary" * 1000)
    ran = subprocess.run([*COMMAND, "--database", "notes.db"], cwd=tmp_path, capture_output=True, text=True)
    assert "it is not a SQLite database" in refused(Ran(ran.returncode, ran.stdout, ran.stderr))


# ---- help ----------------------------------------------------------------------------------------------------------


def test_help_lists_every_flag_with_its_environment_variable(rowcast):
    ran = rowcast("--help")
    assert (ran.code, ran.err) == (0, "")
    for field in fields(Settings):
        flag = f"--{field.name.replace('_', '-')}"
        variable = f"ROWCAST_{field.name.upper()}"
        assert re.search(rf"\n  {flag} [^\n]*(?:\n {{10,}}[^\n]*)*environment:\s+{variable}\n", ran.out), flag
    assert "tail" in ran.out and "users" in ran.out


def test_the_version_is_that_of_the_package(rowcast):
    assert rowcast("--version").out == f"rowcast {version('rowcast')}\n"


# ---- serve ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_cleanly_in_the_middle_of_its_work(
    serve, tmp_path: Path, sig: signal.Signals
):
    """A job is running and a reader follows it: the end is quick, its code is 0, and the log says nothing."""
    server = serve("--grace", "20")  # what is in flight ends in any case
    job = server.begin(concurrency=1)  # a minute's work
    until(lambda: server.job(job)["running"])
    with httpx.stream("GET", f"{server.url}/api/events", timeout=PATIENCE) as answer:
        next(answer.iter_lines())
        assert server.stop(sig) == 0
    log = server.log.read_text()
    assert "Traceback" not in log and "ERROR" not in log
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "rowcast.db")) as conn:
        assert conn.execute("select count(*) from items where status = 'running'").fetchone() == (0,)


def test_no_child_is_left_behind(serve):
    server = serve()
    worker = until(lambda: child_of(server))
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(server.process.pid)], capture_output=True, text=True
    )
    pids = [int(pid) for pid in children.stdout.split()]
    assert worker in pids
    server.stop(signal.SIGINT)
    until(lambda: not any(is_running(pid) for pid in pids))


def test_the_start_says_where_it_is_and_what_it_posts_to(shared: Server):
    log = shared.log.read_text()
    assert f"on http://127.0.0.1:{shared.port}\n" in log
    assert re.search(r"posting to http://127\.0\.0\.1:\d+\n", log) and "Ctrl-C ends it" in log


def test_the_port_is_taken_from_the_first_moment_on():
    """Two servers started in the same moment do not both believe that they have the port."""
    first = commands.listen(Settings(port=0))
    with pytest.raises(BadSetting, match="cannot be had"):
        commands.listen(Settings(port=first.getsockname()[1]))
    first.close()


def test_port_0_takes_a_free_one_and_says_which(tmp_path: Path):
    process = subprocess.Popen([*COMMAND, "--port", "0"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        url = process.stdout.readline().split()[-1]
        assert httpx.get(f"{url}/healthz", timeout=PATIENCE).is_success
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0
        process.stdout.close()


def test_the_other_loopback_works_too(rowcast, tmp_path: Path):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no ::1")
    port = free_port()
    process = subprocess.Popen([*COMMAND, "--host", "::1", "--port", str(port)], cwd=tmp_path)
    try:
        until(lambda: answers(f"http://[::1]:{port}/healthz"))
        httpx.post(
            f"http://[::1]:{port}/api/jobs", json={"task": "counter", "args": {"loops": 1}}, timeout=PATIENCE
        )
        assert rowcast("tail", "1", "--host", "::1", "--port", str(port)).code == 0
    finally:
        process.terminate()
        process.wait(PATIENCE)


def answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


# ---- users import --------------------------------------------------------------------------------------------------


def test_users_import_adds_good_lines_and_names_bad_ones(rowcast, tmp_path: Path):
    (tmp_path / "people.csv").write_text("ada@example.com\nben@example.com\nnobody\n", encoding="utf-8-sig")
    ran = rowcast("users", "import", "people.csv", "--database", "mine.db")
    assert ran.code == 1
    assert ran.err == "line 3: 'nobody' is not an e-mail address\n"
    assert ran.out == "2 added, 0 were there already, 1 line refused.\n"
    assert [row.email for row in Users("mine.db").search()] == ["ada@example.com", "ben@example.com"]
    again = rowcast("--database", "mine.db", "users", "import", "people.csv")
    assert again.out == "0 added, 2 were there already, 1 line refused.\n"


def test_what_is_done_to_a_database_is_json_for_who_asks_for_that(rowcast, tmp_path: Path):
    (tmp_path / "people.csv").write_text("ada@example.com\nnobody\n")

    def told(code: int, *command: str) -> list[dict[str, Any]]:
        ran = rowcast("--database", "mine.db", *command, "--json")
        assert (ran.code, ran.err) == (code, ""), ran
        return [json.loads(line) for line in ran.out.splitlines()]

    (done,) = told(1, "users", "import", "people.csv")
    assert (done["added"], done["known"], done["refusals"], done["dry_run"]) == (1, 0, 1, False)
    assert done["refused"] == [{"line": 2, "why": "'nobody' is not an e-mail address"}]
    findings = told(0, "doctor")
    assert len(findings) > 2 and all(one["well"] and one["what"] and one["seen"] for one in findings)
    assert told(0, "prune", "--keep", "1") == [{"deleted": 0, "given_back": 0}]
    (copied,) = told(0, "backup", "copy.db")
    assert copied == {"database": "mine.db", "file": "copy.db", "size": (tmp_path / "copy.db").stat().st_size}
    (restored,) = told(0, "--database", "other.db", "restore", "copy.db")
    assert restored == copied | {"database": "other.db", "kept": None}


def test_users_import_of_good_lines_alone_ends_with_0(
    rowcast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "people.csv").write_text("ada@example.com\n")
    monkeypatch.setenv("ROWCAST_DATABASE", "e.db")
    assert rowcast("users", "import", "people.csv").code == 0
    assert (tmp_path / "e.db").is_file()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_such.csv", "no_such.csv cannot be read: No such file or directory."),
        (".", ". cannot be read: Is a directory."),
        ("book.csv", "The file is a workbook, not CSV: save it as CSV first."),
    ],
)
def test_users_import_of_what_cannot_be_read_is_one_line_and_code_2(
    rowcast, tmp_path: Path, name: str, says: str
):
    (tmp_path / "book.csv").write_bytes(b"PK\x03\x04")
    assert refused(rowcast("users", "import", name)) == says


def test_users_import_says_in_a_dry_run_what_would_come_of_it_and_writes_nothing(rowcast, tmp_path: Path):
    (tmp_path / "people.csv").write_text("Name;E-Mail\nAda;ada@example.com\nBen;nobody\n")
    assert refused(rowcast("users", "import", "people.csv", "--dry-run", "--database", "mine.db")) == (
        "There is no database mine.db; say where it is with --database."
    )
    prepare("mine.db")
    ran = rowcast("users", "import", "people.csv", "--dry-run", "--database", "mine.db")
    assert (ran.code, ran.err) == (1, "line 3: 'nobody' is not an e-mail address\n")
    assert ran.out == (
        "1 would be added, 0 are there already, 1 line would be refused. The table users would get the new"
        " column Name. This was a dry run: nothing was written.\n"
    )
    assert Users("mine.db").count() == 0


def test_users_import_reads_a_pipe(rowcast, tmp_path: Path):
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as pipe:
        pipe.write("ada@example.com\nben@example.com\n")
    ran = rowcast("users", "import", f"/dev/fd/{reading}", "--database", "mine.db")
    os.close(reading)
    assert (ran.code, ran.out) == (0, "2 added, 0 were there already, 0 lines refused.\n")


def test_users_import_adds_to_a_running_dashboard(rowcast, shared: Server, tmp_path: Path):
    (tmp_path / "people.csv").write_text("zz.new@example.com\n")
    assert (
        rowcast(
            "users", "import", "people.csv", "--database", str(shared.directory / "data" / "rowcast.db")
        ).code
        == 0
    )
    assert "zz.new@example.com" in shared.client.get("/users?q=zz.new").text


# ---- tail ----------------------------------------------------------------------------------------------------------


def test_tail_of_a_job_that_completes_tells_each_item_and_ends_with_0(rowcast, shared: Server):
    job = shared.begin("each", items=["one", "two", "three", "four"], seconds=0.2)
    ran = rowcast("tail", str(job), "--port", str(shared.port))
    assert ran.code == 0, ran
    assert sorted(ran.out.splitlines()) == [f"completed  {key}" for key in ("four", "one", "three", "two")]
    assert "4/4" in ran.err and f"each #{job}" in ran.err


def test_tail_of_a_job_with_failures_tells_why_and_ends_with_1(rowcast, shared: Server):
    job = shared.begin("each", items=["one", "!two"])
    shared.ended(job)
    ran = rowcast("tail", str(job), "--url", f"{shared.url}/")
    assert ran.code == 1
    assert "failed     !two  RuntimeError: !two" in ran.out


def test_tail_of_one_item_tells_its_tries_and_what_they_say(rowcast, shared: Server):
    job = shared.begin("each", items=["one", "!two"])
    shared.ended(job)
    ran = rowcast("tail", str(job), "--item", "two", "--url", shared.url)
    assert ran.code == 1
    begins, *traceback, ends = ran.out.splitlines()
    assert begins.endswith("  try 1") and any("RuntimeError: !two" in line for line in traceback)
    assert re.fullmatch(r"try 1 failed after \d+ ms: RuntimeError: !two", ends)
    assert rowcast("tail", str(job), "--item", "one", "--url", shared.url).code == 0


def test_tail_as_json_is_a_line_for_each_event(rowcast, shared: Server):
    job = shared.begin("each", items=["one", "!two"])
    ran = rowcast("tail", str(job), "--json", "--url", shared.url)
    assert ran.code == 1 and ran.err == ""
    told = [json.loads(line) for line in ran.out.splitlines()]
    assert told[-1] == {"id": None, "event": "done", "data": {"status": "completed"}}
    assert {one["event"] for one in told} == {"job", "item", "done"}
    last = {one["data"]["key"]: one["data"]["status"] for one in told if one["event"] == "item"}
    assert last == {"one": "completed", "!two": "failed"}
    numbers = [one["id"] for one in told if one["id"] is not None]
    assert numbers == sorted(numbers)
    ran = rowcast("tail", str(job), "--item", "two", "--json", "--url", shared.url)
    assert ran.code == 1 and json.loads(ran.out.splitlines()[-1])["attempts"][0]["status"] == "failed"


def test_tail_of_an_item_that_is_not_there_or_not_the_only_one_is_one_line(rowcast, shared: Server):
    job = shared.ended(shared.begin("each", items=["one", "once"]))["id"]
    several = refused(rowcast("tail", str(job), "--item", "on", "--url", shared.url))
    assert several == f"Several items of job {job} fit 'on': one, once."
    nobody = refused(rowcast("tail", str(job), "--item", "nobody", "--url", shared.url))
    assert nobody == f"Job {job} has no item 'nobody'."
    assert (
        refused(rowcast("tail", "999999", "--item", "one", "--url", shared.url)) == "There is no job 999999."
    )


def test_tail_of_a_cancelled_job_ends_with_1(rowcast, shared: Server):
    job = shared.waiting("each", items=["one", "two", "three"])
    shared.client.post(f"/api/jobs/{job}/cancel")
    assert rowcast("tail", str(job), "--url", shared.url).code == 1


def test_tail_of_an_unknown_job_is_one_line_and_code_2(rowcast, shared: Server):
    assert refused(rowcast("tail", "999999", "--url", shared.url)) == "There is no job 999999."


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}", "http://[", "http://a:b", "nowhere", "ftp://127.0.0.1"]
)
def test_tail_of_a_server_that_is_not_there_is_one_line_and_code_2(rowcast, url: str):
    assert "cannot be reached (" in refused(rowcast("tail", "1", "--url", url.format(port=free_port())))


def test_tail_of_something_else_than_a_dashboard_is_one_line_and_code_2(rowcast, api_process: str):
    assert refused(rowcast("tail", "1", "--url", api_process)) == "the server answered 404."


def test_tail_goes_on_when_the_server_comes_back(serve, tmp_path: Path):
    (tmp_path / "work.py").write_text(FILES["work.py"])
    server = serve("--tasks", "work")
    job = server.waiting("each", items=[f"n{n}" for n in range(12)])
    said = tmp_path / "said"
    with said.open("w") as out:
        process = subprocess.Popen(
            [*COMMAND, "tail", str(job), "--url", server.url], cwd=tmp_path, stdout=out, stderr=out
        )
    until(lambda: "completed" in said.read_text())
    server.stop()
    server.start()
    server.act(job, "resume")
    assert process.wait(PATIENCE) == 0, said.read_text()
    told = re.findall(r"completed  (n\d+)", said.read_text())
    assert sorted(told) == sorted(f"n{n}" for n in range(12))


def test_tail_ends_at_ctrl_c_without_a_traceback(shared: Server, tmp_path: Path):
    job = shared.waiting("each", items=["one", "two"])
    said = tmp_path / "said"
    with said.open("w") as out:
        process = subprocess.Popen(
            [*COMMAND, "tail", str(job), "--url", shared.url], cwd=tmp_path, stdout=out, stderr=out
        )
    until(lambda: "completed" in said.read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    assert "Traceback" not in said.read_text()
    shared.client.post(f"/api/jobs/{job}/cancel")
