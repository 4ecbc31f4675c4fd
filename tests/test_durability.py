"""Nothing lost, nothing sent twice unknowingly: real servers, killed at the worst moments."""

import collections
import os
import random
import signal
import sqlite3
import subprocess
import time

import httpx
import pytest
from conftest import until


def child_of(server) -> int:
    """The process id of the server's living worker process, 0 while there is none."""
    found = sqlite3.connect(server.directory / "data" / "rowcast.db")
    rows = found.execute(f"select pid from workers where id like '%-{server.process.pid}-%'").fetchall()
    found.close()
    return next((pid for (pid,) in reversed(rows) if alive(pid)), 0)


def kill_all(server) -> None:
    child = child_of(server)
    server.process.kill()
    if child:
        os.kill(child, signal.SIGKILL)
    server.process.wait()


def adds_up(job) -> bool:
    return job["total"] == sum(job[s] for s in ("queued", "running", "completed", "failed", "cancelled", "unknown"))


def keys_by_path(api) -> dict[str, set[str]]:
    keys = collections.defaultdict(set)
    for path, key, *_ in api.log():
        keys[path].add(key)
    return keys


def test_twenty_kills_in_one_job_lose_no_item_and_change_no_key(serve, api):
    server = serve("--api-url", api.url)
    api.latency(20)
    job = server.begin(concurrency=10)
    chance = random.Random(7)
    for n in range(20):
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
    done = server.ended(job, 60)
    assert adds_up(done)
    assert done["completed"] == done["total"] == 1000
    posts = keys_by_path(api)
    assert len(posts) == 1000
    assert all(len(keys) == 1 for keys in posts.values())
    repeated = len(api.log()) - 1000
    assert repeated <= 20 * 20, "only what was in flight at a kill is sent again"


def test_a_job_goes_on_by_itself_within_ten_seconds_of_the_start(serve, api):
    server = serve("--api-url", api.url)
    api.latency(50)
    job = server.begin(concurrency=5)
    until(lambda: server.job(job)["completed"] > 20)
    kill_all(server)
    before = len(api.log())
    server.start()
    until(lambda: len(api.log()) > before + 10, 10)


def test_a_kill_while_the_items_are_being_written_leaves_none_out_and_none_twice(serve, api):
    server = serve("--api-url", api.url)
    server.users(*(f"user-{n:06}@example.com" for n in range(150_000)))
    job = server.begin(concurrency=1, canary=1)
    until(lambda: server.job(job)["total"] > 5_000, every=0.01)
    kill_all(server)
    found = sqlite3.connect(server.directory / "data" / "rowcast.db")
    assert found.execute("select total, filled from jobs").fetchone()[1] == 0, "killed too late to show anything"
    found.close()
    server.start()
    until(lambda: server.job(job)["total"] == 150_000, 30)
    found = sqlite3.connect(server.directory / "data" / "rowcast.db")
    assert found.execute("select count(*), count(distinct key), max(position) from items").fetchone() == (
        150_000,
        150_000,
        149_999,
    )
    found.close()


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
    assert server.client.post(f"/api/jobs/{job}/retry", json={"item": second["id"]}).json()["status"] == "running"
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


def test_the_worker_ends_with_its_server_however_that_ended(serve, api):
    server = serve("--api-url", api.url)
    child = until(lambda: child_of(server))
    server.process.kill()
    server.process.wait()
    until(lambda: not alive(child))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_that_dies_is_started_again(serve, api):
    server = serve("--api-url", api.url)
    child = until(lambda: child_of(server))
    os.kill(child, signal.SIGKILL)
    assert until(lambda: (c := child_of(server)) != child and c)
    assert server.ended(server.begin(limit=3))["completed"] == 3


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_with_fifty_streams_open_is_orderly(serve, api, sig):
    server = serve("--api-url", api.url)
    api.latency(100)
    job = server.begin(concurrency=10)
    until(lambda: server.job(job)["completed"] > 5)
    streams = [httpx.Client(timeout=20) for _ in range(50)]
    opened = [c.send(c.build_request("GET", f"{server.url}/api/jobs/{job}/events"), stream=True) for c in streams]
    readers = [answer.iter_bytes() for answer in opened]
    for reader in readers:
        next(reader)
    began = time.monotonic()
    server.stop(sig)
    assert time.monotonic() - began < 6
    assert all(b"event: shutdown" in b"".join(reader) for reader in readers)
    assert "Traceback" not in server.log.read_text()
    found = sqlite3.connect(server.directory / "data" / "rowcast.db")
    assert found.execute("select count(*) from items where status = 'running'").fetchone() == (0,)
    found.close()
    server.start()
    done = server.ended(job)
    assert done["completed"] == 1000
    assert all(len(keys) == 1 for keys in keys_by_path(api).values())
    for client in streams:
        client.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of six megabytes; asked for before `serve`, so that the servers have ended when it goes."""
    disk = tmp_path / "small"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_pauses_the_job_and_it_goes_on_when_there_is_room(small_disk, serve, api):
    server = serve("--api-url", api.url, "--database", str(small_disk / "rowcast.db"))
    api.latency(3)
    job = server.begin(concurrency=10)
    until(lambda: server.job(job)["completed"] > 50)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    until(lambda: "the disk is full" in server.log.read_text().lower() or "is full" in server.log.read_text())
    assert server.client.get(f"/jobs/{job}").status_code == 200
    ballast.unlink()
    done = server.ended(job, 40)
    assert adds_up(done)
    assert done["completed"] == 1000
    assert all(len(keys) == 1 for keys in keys_by_path(api).values())
    server.stop()
    check = sqlite3.connect(small_disk / "rowcast.db")
    assert check.execute("pragma integrity_check").fetchone() == ("ok",)
    check.close()
