"""Nothing lost, nothing sent twice unknowingly: real servers, killed at the worst moments."""

import asyncio
import collections
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import time

import httpx
import pytest
from conftest import PATIENCE, until, within

from rowcast.engines.local import FULL_REASON
from rowcast.jobs import Jobs
from rowcast.tables.database import close_databases
from rowcast.tables.rescue import is_running
from rowcast.tables.schema import prepare
from rowcast.tasks.built_in import update_users
from rowcast.tasks.records import Options
from rowcast.tasks.registry import load
from rowcast.tasks.work import SUSPECT, Claimed
from rowcast.worker.isolated import run_alone

pytestmark = pytest.mark.kills
FLAGS = ("--tasks", "mine")
FILES = {
    "mine.py": """
import os, pathlib, signal, sys, time
import httpx
from rowcast import task

@task
async def hold_up_the_loop():
    pathlib.Path("holding").touch()
    time.sleep(60)

@task
def read_stdin(item: str):
    return sys.stdin.read()

@task(concurrency=4, idempotent=False)
async def once(user: dict, api: httpx.AsyncClient):
    (await api.post(f"/update-user/{user['email']}")).raise_for_status()

def slowly(number: int, pause: float, enough: str):
    for n in range(number):
        time.sleep(pause)
        if pathlib.Path(enough).exists():
            return
        yield f"item {n}"

@task(items=slowly)
def note(item: str):
    with open("done.txt", "a") as file:
        file.write(item + "\\n")

def deadly(how: str):
    yield "first"
    if how == "exit":
        sys.exit("no more")
    if how == "break":
        raise RuntimeError("the source is dry")
    signal.raise_signal(getattr(signal, how))

@task(items=deadly)
def never(item: str):
    time.sleep(0.5)

@task(concurrency=2)
def kill_once(item: str):
    me = pathlib.Path(item)
    if not me.exists():
        me.touch()
        time.sleep(0.3)
        signal.raise_signal(signal.SIGSEGV)
    if item == "stays":
        pathlib.Path("pid").write_text(str(os.getpid()))
        time.sleep(60)
    return '"' * 40_000
"""
}


def child_of(server) -> int:
    """The process id of the server's living worker process, 0 while there is none."""
    found = sqlite3.connect(server.directory / "data" / "rowcast.db")
    rows = found.execute(f"select pid from workers where id like '%-{server.process.pid}-%'").fetchall()
    found.close()
    return next((pid for (pid,) in reversed(rows) if is_running(pid)), 0)


def kill_all(server) -> None:
    child = child_of(server)
    server.process.kill()
    if child:
        os.kill(child, signal.SIGKILL)
    server.process.wait()


def adds_up(job) -> bool:
    return job["total"] == sum(
        job[s] for s in ("queued", "running", "completed", "failed", "cancelled", "unknown")
    )


def keys_by_path(api) -> dict[str, set[str]]:
    keys = collections.defaultdict(set)
    for path, key, *_ in api.log():
        keys[path].add(key)
    return keys


def test_twenty_kills_in_one_job_lose_no_item_and_change_no_key(serve, api):
    server = serve("--api-url", api.url)
    api.latency(20)
    api.stall()
    job = server.begin(concurrency=10)
    chance = random.Random(7)
    for n in range(20):
        api.answer(30)  # and no more: the job is not over before the last kill
        time.sleep(chance.uniform(0.02, 0.25))
        match n % 3:
            case 0:
                server.process.kill()
                server.process.wait()
            case 1 if child := child_of(server):
                os.kill(child, signal.SIGKILL)
            case _:
                kill_all(server)
        if server.process.poll() is not None:
            server.start()
    assert not server.job(job)["finished_at"]
    api.answer()
    done = server.ended(job)
    assert adds_up(done)
    assert done["completed"] == done["total"] == 1000
    posts = keys_by_path(api)
    assert len(posts) == 1000
    assert all(len(keys) == 1 for keys in posts.values())
    sent = collections.Counter(key for _, key, *_ in api.log())
    for key, number in sent.items():
        if number > 1:
            path = f"/api/jobs/{job}/items/{key.partition('-')[2]}"
            assert len(server.client.get(path).json()["attempts"]) >= number, (
                "none that was answered is missing"
            )
    repeated = len(api.log()) - 1000
    assert repeated <= 20 * 20, "only what was in flight at a kill is sent again"


def test_a_job_goes_on_by_itself_within_ten_seconds_of_the_start(server, api):
    api.stall()
    api.answer(30)
    job = server.begin(concurrency=5)
    until(lambda: server.job(job)["completed"] > 20)
    kill_all(server)
    before = len(api.log())
    api.answer(30)
    server.start()
    with within(10):
        until(lambda: len(api.log()) > before + 10)
    for action, status in (("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        assert server.client.post(f"/api/jobs/{job}/{action}").json()["status"] == status
        if action == "pause":
            until(lambda: api.answer_waiting() or server.job(job)["running"] == 0)
            still = len(api.log())
        elif action == "resume":
            until(lambda still=still: api.answer_waiting() or len(api.log()) > still + 5)
    until(lambda: server.job(job)["finished_at"])
    server.stop()  # a worker that has not heard of the cancel yet posts nothing into another test's log


def test_a_kill_while_the_items_are_being_written_leaves_none_out_and_none_twice(serve, api):
    server = serve("--api-url", api.url)
    server.users(*(f"user-{n:06}@example.com" for n in range(100_000)))

    def killed_while_it_wrote() -> int:
        """A job whose items were not all there when all was killed; 0 where the kill came too late for that."""
        job = server.begin(concurrency=1, canary=1)
        until(lambda: server.job(job)["total"] > 5_000, every=0.01)
        kill_all(server)
        with contextlib.closing(sqlite3.connect(server.directory / "data" / "rowcast.db")) as found:
            (filled,) = found.execute("select filled from jobs where id = ?", (job,)).fetchone()
        server.start()
        return 0 if filled else job

    job = until(killed_while_it_wrote)
    until(lambda: server.job(job)["total"] == 100_000)
    counts = "select count(*), count(distinct key), max(position) from items where job = ?"
    with contextlib.closing(sqlite3.connect(server.directory / "data" / "rowcast.db")) as found:
        assert found.execute(counts, (job,)).fetchone() == (100_000, 100_000, 99_999)


ONCE = """
import httpx
from rowcast import task

@task(concurrency=4, idempotent=False)
async def once(user: dict, api: httpx.AsyncClient):
    "Must not be sent twice."
    (await api.post(f"/update-user/{user['email']}")).raise_for_status()
"""


def test_what_may_not_be_repeated_becomes_unknown_and_a_person_settles_it(serve, api, tmp_path):
    (tmp_path / "mine.py").write_text(ONCE)
    server = serve("--api-url", api.url, "--tasks", "mine")
    server.users("hang-1@example.com", "hang-2@example.com", "a@example.com")
    job = server.begin("once")
    until(lambda: server.job(job)["completed"] == 1 and server.job(job)["running"] == 2)
    kill_all(server)
    server.start()
    done = server.ended(job)
    assert (done["completed"], done["unknown"]) == (1, 2)
    first, second = server.items(job, status="unknown")
    assert "may or may not have arrived" in first["error"]
    assert len(api.log()) == 3, "nothing was sent again"
    answer = server.client.post(f"/api/jobs/{job}/settle", json={"item": first["id"]})
    assert answer.json()["unknown"] == 1 and answer.json()["completed"] == 2
    assert (
        server.client.post(f"/api/jobs/{job}/retry", json={"item": second["id"]}).json()["status"]
        == "running"
    )
    until(lambda: len(api.log()) == 4)


def test_two_servers_on_one_database_run_no_item_twice(serve, api):
    first = serve("--api-url", api.url)
    second = serve("--api-url", api.url)
    api.latency(5)
    job = first.begin(concurrency=20)
    done = second.ended(job)
    assert done["completed"] == 1000
    assert max(collections.Counter(path for path, *_ in api.log()).values()) == 1
    assert len({i["attempt"] for i in first.items(job)}) == 1


def test_a_second_server_on_a_database_says_who_runs_its_jobs_and_where_they_post(serve, api):
    first = serve("--api-url", api.url)
    second = serve(
        "--api-url", "http://127.0.0.1:9", "--database", str(first.directory / "data" / "rowcast.db")
    )
    until(lambda: f"Another Rowcast (process {first.process.pid}) runs the jobs of" in second.log.read_text())
    assert f"posts to {api.url}; this one takes over when it ends" in second.log.read_text()


def test_the_worker_ends_with_its_server_however_that_ended(server, api):
    child = until(lambda: child_of(server))
    server.process.kill()
    server.process.wait()
    until(lambda: not is_running(child))


def test_a_worker_that_dies_is_started_again(server, api):
    child = until(lambda: child_of(server))
    os.kill(child, signal.SIGKILL)
    assert until(lambda: (c := child_of(server)) != child and c)
    assert server.ended(server.begin(limit=3))["completed"] == 3


@pytest.mark.parametrize(
    ("sig", "flags"), [(signal.SIGTERM, ()), (signal.SIGINT, ()), (signal.SIGTERM, ("--workers", "2"))]
)
def test_a_stop_with_fifty_streams_open_is_orderly(serve, api, sig, flags):
    server = serve("--api-url", api.url, "--grace", "20", *flags)  # what is in flight ends in any case
    api.latency(300)
    job = server.begin(concurrency=5, limit=200)
    until(lambda: server.job(job)["completed"] > 5)
    server.client.post(
        f"/api/jobs/{job}/pause"
    )  # it is not over when the last stream is open, however long that takes
    streams = [httpx.Client(timeout=PATIENCE) for _ in range(50)]
    opened = [
        c.send(c.build_request("GET", f"{server.url}/api/jobs/{job}/events"), stream=True) for c in streams
    ]
    assert {answer.status_code for answer in opened} == {200}
    readers = [answer.iter_bytes() for answer in opened]
    for reader in readers:
        next(reader)
    server.client.post(f"/api/jobs/{job}/resume")
    until(lambda: server.job(job)["running"])
    with within(6):
        server.stop(sig)
    told = [b"".join(reader) for reader in readers]
    assert [text for text in told if b"event: shutdown" not in text] == []
    assert "Traceback" not in server.log.read_text()
    found = sqlite3.connect(server.directory / "data" / "rowcast.db")
    assert found.execute("select count(*) from items where status = 'running'").fetchone() == (0,)
    found.close()
    api.latency(20)
    server.start()
    done = server.ended(job)
    assert done["completed"] == 200
    assert all(len(keys) == 1 for keys in keys_by_path(api).values())
    for client in streams:
        client.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of six megabytes; asked for before `serve`, so that the servers have ended when it goes."""
    disk = tmp_path / "small"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("only root can mount a small file system")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_pauses_the_job_and_it_goes_on_when_there_is_room(small_disk, serve, api):
    server = serve("--api-url", api.url, "--database", str(small_disk / "rowcast.db"))
    api.stall()
    api.answer(60)
    job = server.begin(concurrency=10)
    until(lambda: server.job(job)["completed"] > 50)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    api.answer()
    until(lambda: "the disk is full" in server.log.read_text().lower() or "is full" in server.log.read_text())
    assert server.client.get(f"/jobs/{job}").status_code == 200
    ballast.unlink()
    done = server.ended(job)
    assert adds_up(done)
    assert done["completed"] == 1000
    assert all(len(keys) == 1 for keys in keys_by_path(api).values())
    server.stop()
    check = sqlite3.connect(small_disk / "rowcast.db")
    assert check.execute("pragma integrity_check").fetchone() == ("ok",)
    check.close()


def test_a_job_that_waited_for_room_when_its_worker_died_goes_on_too(server, api):
    api.stall()
    api.answer(10)
    job = server.begin(limit=100, concurrency=2)
    until(lambda: server.job(job)["completed"] > 5)
    found = sqlite3.connect(server.directory / "data" / "rowcast.db", timeout=PATIENCE)
    with found:
        found.execute("update jobs set status = 'paused', reason = ? where id = ?", (FULL_REASON, job))
    found.close()
    api.answer()
    assert server.ended(job)["completed"] == 100


# ---- what a task may do to its worker ------------------------------------------------------------------------------


@pytest.fixture
def mine(serve, api, tmp_path):
    (tmp_path / "mine.py").write_text(FILES["mine.py"])
    return serve("--api-url", api.url, "--tasks", "mine")


def test_a_worker_whose_task_holds_up_the_loop_ends_with_its_server_too(mine, tmp_path):
    mine.begin("hold_up_the_loop")
    until(lambda: (tmp_path / "holding").exists())
    child = child_of(mine)
    mine.process.kill()
    mine.process.wait()
    until(lambda: not is_running(child))


def test_a_stop_is_in_time_also_with_a_task_that_holds_up_the_loop(mine, tmp_path):
    mine.begin("hold_up_the_loop")
    until(lambda: (tmp_path / "holding").exists())
    with within(7):
        assert mine.stop() == 0


def test_a_task_that_reads_standard_input_finds_it_empty_and_takes_no_ring_away(server):
    job = server.begin("read_stdin", items=["a"])
    assert server.ended(job)["completed"] == 1
    assert server.items(job)[0]["result"] == ""
    assert server.ended(server.begin("read_stdin", items=["b"]))["completed"] == 1


def test_no_more_becomes_unknown_than_was_in_flight(mine, api):
    api.stall()
    api.answer(120)
    job = mine.begin("once")
    until(lambda: mine.job(job)["completed"] > 100)
    kill_all(mine)
    api.answer()
    mine.start()
    done = mine.ended(job)
    assert done["unknown"] <= 4
    assert done["completed"] + done["unknown"] == 1000
    assert len(api.log()) == len({key for _, key, *_ in api.log()}), "nothing was sent twice"


def test_a_suspect_runs_apart_and_its_result_may_be_larger_than_a_pipe(server):
    job = server.begin("kill_once", items=["a", "b"])
    done = server.ended(job)
    assert done["completed"] == 2
    assert min(len(i["result"]) for i in server.items(job)) > 60_000


def test_a_suspect_of_a_dry_run_sends_nothing_either(api, tmp_path):
    path = str(tmp_path / "rowcast.db")
    prepare(path)
    job, _ = Jobs(path).submit(update_users, {"limit": None}, "local", "background", Options(dry_run=1))
    item = Claimed(1, "a@example.com", '{"email": "a@example.com"}', 1, 0, SUSPECT)
    result = asyncio.run(run_alone(job, item, api.url))
    assert result.status == "completed" and '"method":"POST"' in result.result
    assert api.log() == []
    close_databases()


FORKING = """
import os, pathlib, time
from rowcast import task

@task
def fork(item: str):
    if os.fork() == 0:  # it holds all that was open
        for _ in range(3000):
            time.sleep(0.1)
            if pathlib.Path(item + "-may-go").exists():
                os._exit(0)
        pathlib.Path(item).touch()
        os._exit(0)
    os._exit(3)

@task(idempotent=False)
def fork_once(item: str):
    fork.function(item)
"""


@pytest.mark.parametrize(("name", "became"), [("fork", "failed"), ("fork_once", "unknown")])
def test_a_suspect_that_has_started_what_outlives_it_is_not_waited_for(tmp_path, monkeypatch, name, became):
    (tmp_path / "forking.py").write_text(FORKING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    path = str(tmp_path / "rowcast.db")
    prepare(path)
    job, _ = Jobs(path).submit(load(f"forking:{name}"), {}, "local", "background")
    result = asyncio.run(run_alone(job, Claimed(1, str(tmp_path / "over"), None, 1, 0, SUSPECT), ""))
    assert result.status == became
    assert result.error.startswith("The process running this ended itself with code 3")
    assert not (tmp_path / "over").exists()
    (tmp_path / "over-may-go").touch()
    close_databases()


HEEDLESS = """
import asyncio
from rowcast import task

@task(timeout=0.2)
async def heedless(item: str):
    while True:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            pass
"""


def test_a_suspect_that_heeds_no_end_of_its_time_is_ended_with_its_process(tmp_path, monkeypatch):
    (tmp_path / "heedless.py").write_text(HEEDLESS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    path = str(tmp_path / "rowcast.db")
    prepare(path)
    job, _ = Jobs(path).submit(load("heedless:heedless"), {}, "local", "background")

    async def alone() -> BaseException | None:
        one = asyncio.create_task(run_alone(job, Claimed(1, "a", None, 1, 0, SUSPECT), ""))
        done, _ = await asyncio.wait([one], timeout=PATIENCE)
        one.cancel()
        return one.exception() if done else None

    assert isinstance(asyncio.run(alone()), TimeoutError)  # a run makes of it what it makes of any other
    close_databases()


@pytest.mark.parametrize("killed", ["server", "worker"])
def test_a_suspect_that_runs_apart_ends_with_those_that_started_it(mine, tmp_path, killed):
    mine.begin("kill_once", items=["stays", "b"])
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    alone = int((tmp_path / "pid").read_text())
    worker = child_of(mine)
    assert alone != worker
    if killed == "server":
        mine.process.kill()
        mine.process.wait()
    else:
        os.kill(worker, signal.SIGKILL)
    until(lambda: not is_running(alone))


# ---- items that are being written ----------------------------------------------------------------------------------


def test_a_slow_source_is_run_as_it_yields_and_can_be_paused_meanwhile(server, tmp_path):
    (server.directory / "done.txt").unlink(missing_ok=True)
    enough = tmp_path / "enough"
    job = server.begin("note", number=10_000, pause=0.1, enough=str(enough))
    until(lambda: server.job(job)["completed"])
    assert server.act(job, "pause")["status"] == "paused"
    until(lambda: server.job(job)["running"] == 0)
    before = server.job(job)["completed"]
    written = server.job(job)["total"]
    until(lambda: server.job(job)["total"] > written)  # it is being written on
    assert server.job(job)["completed"] == before
    server.act(job, "resume")
    until(lambda: server.job(job)["completed"] > before)  # and does not wait for the end
    enough.touch()
    done = server.ended(job)
    assert written < done["completed"] == done["total"] < 10_000
    said = (server.directory / "done.txt").read_text().split("\n")[:-1]
    assert sorted(said) == sorted(f"item {n}" for n in range(done["total"]))


def test_a_cancel_meanwhile_ends_the_writing_and_a_retry_goes_on_with_it(server, tmp_path):
    enough = tmp_path / "enough"
    job = server.begin("note", number=10_000, pause=0.1, enough=str(enough))
    until(lambda: server.job(job)["completed"] > 5)
    cancelled = server.act(job, "cancel")
    assert cancelled["status"] == "cancelled"
    time.sleep(1.5)
    assert server.job(job)["total"] == cancelled["total"]
    server.act(job, "retry")
    until(lambda: server.job(job)["total"] > cancelled["total"])
    enough.touch()
    done = server.ended(job)
    assert done["completed"] == done["total"] < 10_000
    assert [i["key"] for i in server.items(job)] == [f"item {n}" for n in range(done["total"])]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("exit", "The items could not be read: SystemExit: no more"),
        ("break", "The items could not be read: RuntimeError: the source is dry"),
        ("SIGSEGV", "The items could not be read. The process running this died: SIGSEGV."),
    ],
)
def test_a_source_that_cannot_be_read_fails_its_job_and_no_other(serve, api, tmp_path, how, reason):
    (tmp_path / "mine.py").write_text(FILES["mine.py"])
    server = serve(
        "--api-url", api.url, "--tasks", "mine"
    )  # where nothing was cancelled, which is suspected too
    job = server.begin("never", how=how)
    done = server.ended(job)
    assert done["status"] == "failed"
    assert reason in server.client.get(f"/jobs/{job}").text
    assert server.ended(server.begin(limit=3))["completed"] == 3
