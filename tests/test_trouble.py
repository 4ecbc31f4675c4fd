"""What keeps Rowcast from working is said on every page and in /healthz, and nothing ends for good: with real processes."""

import contextlib
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import forks
import httpx
import pytest
from conftest import PATIENCE, Server, free_port, until

from rowcast.tables.rescue import is_running
from rowcast.worker.started import parent_of, processes

pytestmark = pytest.mark.kills

Serve = Callable[..., Server]


def child_of(server: Server) -> int:
    """The process id of the server's worker process, 0 while there is none."""
    children = (process for process in processes() if parent_of(process) == server.process.pid)
    return next((child for child in children if not forks.is_nursery(child)), 0)


def health(server: Server) -> dict[str, Any]:
    return server.client.get("/healthz").json()


def says(server: Server, text: str, seconds: float = PATIENCE) -> httpx.Response:
    """Wait until /healthz, and with it every page, says so."""
    until(lambda: text in (health(server)["trouble"] or ""), seconds)
    answer = server.client.get("/healthz")
    assert answer.json()["status"] != "ok"
    page = server.client.get("/").text
    assert 'id="banner"' in page and text in page.partition('id="banner"')[2][:400].replace("&#x27;", "'")
    return answer


def well(server: Server, seconds: float = PATIENCE) -> None:
    until(lambda: health(server)["status"] == "ok", seconds)
    assert 'role="alert" id="banner"></div>' in server.client.get("/").text


def a_job_runs(server: Server) -> None:
    assert server.ended(server.begin("counter", loops=1))["completed"] == 1


def database(server: Server) -> Path:
    return server.directory / "data" / "rowcast.db"


def test_while_all_is_well_nothing_is_said(serve: Serve):
    server = serve()
    a_job_runs(server)
    assert health(server)["trouble"] is None
    well(server)


# ---- kill, lock and starve ---------------------------------------------------------------------------------


def test_a_database_that_is_locked_when_the_worker_dies_only_holds_it_up(serve: Serve):
    server = serve()
    dead = until(lambda: child_of(server))
    with closing(sqlite3.connect(database(server), timeout=20, isolation_level=None)) as other:
        other.execute("begin immediate")
        os.kill(dead, signal.SIGKILL)
        says(server, "another program holds it")
        other.execute("rollback")
    assert until(lambda: (child := child_of(server)) != dead and child)
    a_job_runs(server)
    well(server)


def test_without_a_descriptor_left_no_worker_is_started_and_then_one_is(serve: Serve):
    server = serve(forked=False)  # which has no descriptors but its own
    dead = until(lambda: child_of(server))
    before = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    os.kill(dead, signal.SIGSTOP)
    says_so = httpx.Client(base_url=server.url, timeout=60)  # whose connection is there already
    says_so.get("/healthz")
    opened = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (opened, before[1]))
    os.kill(dead, signal.SIGKILL)
    until(lambda: "Too many open files" in (says_so.get("/healthz").json()["trouble"] or ""))
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, before)
    a_job_runs(server)
    well(server)
    says_so.close()


def test_a_worker_without_a_descriptor_left_goes_on_when_it_has_some(serve: Serve):
    server = serve(forked=False)
    child = until(lambda: child_of(server))
    a_job_runs(server)
    before = resource.prlimit(child, resource.RLIMIT_NOFILE)
    resource.prlimit(child, resource.RLIMIT_NOFILE, (1, before[1]))
    job = server.begin("update_users", limit=3)
    until(lambda: "held up" in server.log.read_text() or "Too many open files" in server.log.read_text())
    resource.prlimit(child, resource.RLIMIT_NOFILE, before)
    a_job_runs(server)
    assert server.ended(job)["finished_at"] and child_of(server) == child


def test_a_worker_that_hangs_is_ended_and_another_started(serve: Serve):
    server = serve()
    hung = until(lambda: child_of(server))
    a_job_runs(server)
    os.kill(hung, signal.SIGSTOP)
    until(lambda: not is_running(hung), 120)
    a_job_runs(server)


def test_a_folder_that_is_gone_and_back_again(serve: Serve):
    server = serve()
    dead = until(lambda: child_of(server))
    shutil.move(database(server).parent, server.directory / "elsewhere")
    os.kill(dead, signal.SIGKILL)
    assert says(server, "is gone with its folder").status_code == 503
    refused = server.client.post("/api/jobs", json={"task": "counter", "args": {"loops": 1}})
    assert refused.status_code == 503 and "is gone with its folder" in refused.json()["error"]
    assert not database(server).parent.exists(), "nothing is made in its place"
    shutil.move(server.directory / "elsewhere", database(server).parent)
    a_job_runs(server)
    well(server)


def test_a_ring_that_cannot_be_read_leaves_nobody_deaf_for_the_parents_end(serve: Serve, tmp_path: Path):
    code = (
        "import sys, time\nfrom rowcast.tasks.settings import Settings\nfrom rowcast.tables.schema import prepare\n"
        "from rowcast.engines.background import Engine\n"
        "prepare('rowcast.db')\nengine = Engine(Settings(database='rowcast.db'))\nengine.start()\n"
        "while not engine.child: time.sleep(0.01)\n"
        "for line in (b'no json', b'[1]', b'{}', bytes([255])): engine.child.tell(line)\n"
        "print(engine.child.process.pid, flush=True)\nsys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdout and parent.stdin
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    until(lambda: not is_running(child))


# ---- the truth ---------------------------------------------------------------------------------------------

DEADLY = """
import os, sys
from pathlib import Path

if "ROWCAST_WORKER" in os.environ and Path("deadly").exists():
    print("\\x1b[31mno licence was found", file=sys.stderr)
    os._exit(3)
"""


def test_a_worker_that_dies_at_every_start_is_said_with_its_last_line(serve: Serve, tmp_path: Path):
    (tmp_path / "mine.py").write_text(DEADLY)
    (tmp_path / "deadly").touch()
    server = serve("--tasks", "mine")
    answer = says(
        server, "Jobs do not run: the worker process dies at every start (it ended itself with code 3: "
    )
    assert answer.status_code == 200 and answer.json()["status"] == "engine"
    assert answer.json()["engine"] == "failing"
    assert answer.json()["trouble"].endswith("[31mno licence was found)."), "without what steers a terminal"
    (tmp_path / "deadly").unlink()
    a_job_runs(server)
    well(server)


def test_those_who_stand_by_say_what_keeps_the_worker_from_running(serve: Serve, tmp_path: Path):
    (tmp_path / "mine.py").write_text(DEADLY)
    (tmp_path / "deadly").touch()
    says(serve("--tasks", "mine"), "no licence was found")
    says(serve("--tasks", "mine"), "no licence was found")


def test_a_database_that_was_deleted_is_missed_and_not_made_anew(serve: Serve):
    server = serve()
    a_job_runs(server)
    database(server).unlink()
    assert says(server, "was deleted").status_code == 503
    refused = server.client.post("/api/jobs", json={"task": "counter", "args": {"loops": 1}})
    assert refused.status_code == 503 and "was deleted" in refused.json()["error"]
    os.kill(child_of(server), signal.SIGKILL)
    until(lambda: health(server)["engine"] == "failing")
    assert not database(server).exists()


def test_a_database_that_was_replaced_is_not_written(serve: Serve):
    server = serve()
    a_job_runs(server)
    other = server.directory / "other.db"
    with closing(sqlite3.connect(database(server))) as source, closing(sqlite3.connect(other)) as target:
        source.backup(target)
    before = other.read_bytes()
    other.replace(database(server))
    assert says(server, "was replaced by another file").status_code == 503
    assert server.client.post("/api/jobs", json={"task": "counter", "args": {"loops": 1}}).status_code == 503
    assert database(server).read_bytes() == before


def test_a_log_that_was_deleted_under_it_is_noticed(serve: Serve):
    server = serve()
    a_job_runs(server)
    Path(f"{database(server)}-wal").unlink()
    says(server, "Another program has deleted")
    assert server.client.post("/api/jobs", json={"task": "counter", "args": {"loops": 1}}).status_code == 503


@pytest.mark.parametrize("where", ["the header", "an index"])
def test_a_database_that_is_damaged_is_not_well(serve: Serve, where: str):
    server = serve()
    a_job_runs(server)
    server.users(*(f"user-{n:05}@example.com" for n in range(2000)))
    until(lambda: server.ended(server.begin("update_users", limit=300)))
    with closing(sqlite3.connect(database(server), timeout=20)) as other:
        (root,) = other.execute("select rootpage from sqlite_schema where name = 'items_recent'").fetchone()
        until(lambda: other.execute("pragma wal_checkpoint(truncate)").fetchone()[0] == 0)
    with database(server).open("r+b") as file:
        file.seek(0 if where == "the header" else (root - 1) * 4096)
        file.write(b"\xff" * 100)
    answer = says(server, "damaged" if where == "an index" else "The database")
    assert answer.status_code == 503


@pytest.fixture
def disk(tmp_path: Path):
    """A file system of six megabytes; asked for before `serve`, so that the servers have ended when it goes."""
    made = tmp_path / "small"
    made.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(made)], capture_output=True
    ).returncode:
        pytest.skip("only root can mount a small file system")
    yield made
    subprocess.run(["umount", "--lazy", str(made)], check=True)


def test_a_disk_that_is_full_before_a_job_takes_off_is_said(disk: Path, serve: Serve):
    server = serve("--database", str(disk / "rowcast.db"))
    a_job_runs(server)
    ballast = disk / "ballast"
    with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    assert says(server, "The disk is full").status_code == 200
    ballast.unlink()
    a_job_runs(server)
    well(server)


def test_a_disk_that_can_only_be_read_is_said(disk: Path, serve: Serve):
    server = serve("--database", str(disk / "rowcast.db"))
    a_job_runs(server)
    if subprocess.run(["mount", "-o", "remount,ro,force", str(disk)], capture_output=True).returncode:
        pytest.skip("a file system that is written is not made read-only here")
    assert says(server, "is read-only").status_code == 200
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    a_job_runs(server)
    well(server)


# without the right of root to write what it may not
SETPRIV = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]


@pytest.fixture
def bounded() -> list[str]:
    """What a command is started by, so that the modes of files hold for it too."""
    words = SETPRIV if os.getuid() == 0 else []
    if words and subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("for root every file is one that it may write, and here that is not taken away")
    return words


def test_files_that_may_only_be_read_are_named_at_the_start_by_the_doctor_and_on_every_page(
    bounded: list[str], tmp_path: Path
):
    def command(*words: str) -> subprocess.Popen[str]:
        program = [*bounded, sys.executable, "-m", "rowcast", *words]
        return subprocess.Popen(
            program, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    port = free_port()
    file = tmp_path / "data" / "rowcast.db"
    file.parent.mkdir()
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
    server = command("--port", str(port))

    def trouble() -> str | None:
        with contextlib.suppress(httpx.TransportError):
            return str(client.get("/healthz").json()["trouble"])
        return None

    until(lambda: trouble() == "None")
    for mode, path in ((0o444, file), (0o555, file.parent)):
        said = f"The database data/rowcast.db cannot be written: {path.relative_to(tmp_path)} is read-only."
        before = path.stat().st_mode
        path.chmod(mode)
        until(lambda said=said: trouble() == said)
        assert said in client.get("/").text
        path.chmod(before)
        until(lambda: trouble() == "None")
    server.terminate()
    server.communicate(timeout=120)
    file.parent.chmod(0o555)
    assert "data is read-only" in command("doctor").communicate(timeout=120)[0]
    server = command("--port", str(port))
    told = server.communicate(timeout=120)[0]
    file.parent.chmod(0o755)
    assert server.returncode == 2
    assert "the database data/rowcast.db: data is read-only." in told
    client.close()
