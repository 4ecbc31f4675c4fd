"""Who was told "on its way" has a job: it is written before the answer is sent, or the answer is an error."""

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import PATIENCE, SHORT, free_port, python, until

APP = """
import asyncio, os, threading, time
from pathlib import Path
from fastapi import BackgroundTasks as FastApiTasks, FastAPI
from starlette.background import BackgroundTasks
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from sse_starlette import EventSourceResponse
from rowcast import BackgroundTask, mount
from rowcast.tables import database

database.BUSY_MS = int(os.environ["BUSY_MS"])

def welcome(name: str):
    print("to", name)
    Path(f"welcome-{name}").write_text(name)

def slow(number: int):
    with open("at-once", "a") as file:
        file.write("+")
    time.sleep(0.05)
    with open("at-once", "a") as file:
        file.write("-")

app = FastAPI()

@app.get("/one")
async def one():
    return PlainTextResponse("on its way", background=BackgroundTask(welcome, name="one"))

@app.get("/two")
async def two():
    tasks = BackgroundTasks([BackgroundTask(welcome, name="two"), BackgroundTask(welcome, name="three")])
    return JSONResponse("on its way", background=tasks)

@app.get("/added")
def added(tasks: FastApiTasks):
    tasks.add_task(BackgroundTask(welcome, name="added"))
    return "on its way"

@app.get("/streamed")
async def streamed():
    return StreamingResponse(iter(["on its ", "way"]), background=BackgroundTask(welcome, name="streamed"))

@app.get("/file")
async def file():
    return FileResponse(__file__, background=BackgroundTask(welcome, name="file"))

@app.get("/events")
async def events():
    async def told():
        yield {"data": "on its way"}

    return EventSourceResponse(told(), background=BackgroundTask(welcome, name="events"))

class Mine(PlainTextResponse):
    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"on its way"})
        await self.background()

@app.get("/mine")
async def mine():
    return Mine(background=BackgroundTask(welcome, name="mine"))

@app.get("/slow/{number}")
async def slowly(number: int):
    return PlainTextResponse("on its way", background=BackgroundTask(slow, number))

@app.get("/none")
async def none():
    BackgroundTask(welcome, name="nobody")
    return PlainTextResponse("nothing")

mount(app, "/jobs")
"""
WAYS = ["one", "two", "added", "streamed", "file", "events", "mine"]


class Site:
    """The app above, as uvicorn serves it."""

    def __init__(self, directory: Path, busy_ms: int):
        self.directory = directory
        (directory / "app.py").write_text(APP)
        port = free_port()
        env = {k: v for k, v in os.environ.items() if not k.startswith("ROWCAST_")} | {
            "BUSY_MS": str(busy_ms)
        }
        self.log = directory / "app.log"
        with self.log.open("wb") as log:
            self.process = python(
                ["uvicorn", "app:app", "--port", str(port)],
                cwd=directory, env=env, stdout=log, stderr=log, workers=True,
            )  # fmt: skip
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=2 * PATIENCE, limits=SHORT)
        until(self.up)

    def up(self) -> bool:
        try:
            return self.client.get("/jobs/healthz").is_success
        except httpx.TransportError:
            return False

    def jobs(self) -> list[dict[str, Any]]:
        return self.client.get("/jobs/api/jobs", params={"limit": 1000}).json()["jobs"]

    def since(self, known: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The jobs that have come to those."""
        idents = {job["id"] for job in known}
        return [job for job in self.jobs() if job["id"] not in idents]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.client.close()


@contextlib.contextmanager
def served(directory: Path, seconds: float) -> Iterator[Site]:
    """It waits so long for a database in which others write."""
    made = Site(directory, round(1000 * seconds))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with served(tmp_path_factory.mktemp("site"), 2) as made:
        yield made


@pytest.fixture(scope="module")
def patient_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with served(tmp_path_factory.mktemp("patient"), PATIENCE) as made:
        yield made


def locked(site: Site) -> sqlite3.Connection:
    """Another process's write lock on the database."""
    conn = sqlite3.connect(
        site.directory / "data" / "rowcast.db", isolation_level=None, check_same_thread=False
    )
    until(lambda: lock(conn))
    return conn


def lock(conn: sqlite3.Connection) -> bool:
    try:
        conn.execute("begin immediate")
    except sqlite3.OperationalError:
        return False
    return True


@pytest.mark.parametrize("way", WAYS)
def test_no_answer_is_sent_before_the_job_is_written(patient_site: Site, way: str):
    known = patient_site.jobs()
    conn = locked(patient_site)
    answers: list[httpx.Response] = []
    asked = threading.Thread(target=lambda: answers.append(patient_site.client.get(f"/{way}")))
    asked.start()
    asked.join(0.25)
    assert not answers, "while nothing can be written nobody is told"
    conn.execute("rollback")
    conn.close()
    asked.join()
    assert answers[0].is_success
    names = {"two": ["two", "three"]}.get(way, [way])
    for name in names:
        until((patient_site.directory / f"welcome-{name}").exists)
    assert len(patient_site.since(known)) == len(names)


def test_where_it_cannot_be_written_the_answer_is_an_error_and_nothing_was_started(site: Site):
    known = site.jobs()
    conn = locked(site)
    with ThreadPoolExecutor(len(WAYS)) as pool:
        answers = list(pool.map(lambda way: site.client.get(f"/{way}"), WAYS))
    for way, answer in zip(WAYS, answers, strict=True):
        assert answer.status_code == 503, way
        assert "nothing was started" in answer.text
    conn.execute("rollback")
    conn.close()
    assert site.since(known) == []
    assert site.client.get("/one").is_success
    until((site.directory / "welcome-one").exists)
    assert [job["args"] for job in site.since(known)] == [{"name": "one"}]


def test_one_that_is_behind_no_response_is_no_job(site: Site):
    known = site.jobs()
    assert site.client.get("/none").text == "nothing"
    assert site.since(known) == []


def test_many_at_once_are_queued_and_so_many_run_as_the_concurrency_says(patient_site: Site):
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: patient_site.client.get(f"/slow/{n}").status_code, range(300)))
    assert answers == [200] * 300
    until(lambda: all(job["finished_at"] for job in patient_site.jobs()), every=0.3)
    jobs = [job for job in patient_site.jobs() if job["task"] == "slow"]
    assert len(jobs) == 300 and {job["status"] for job in jobs} == {"completed"}
    now = most = 0
    for mark in (patient_site.directory / "at-once").read_text():
        now += 1 if mark == "+" else -1
        most = max(most, now)
    assert 1 < most <= 10 and now == 0


def test_what_it_prints_is_in_the_log_of_its_item(site: Site):
    known = site.jobs()
    site.client.get("/one").raise_for_status()

    def said() -> list[str]:
        (job,) = site.since(known)
        (item,) = site.client.get(f"/jobs/api/jobs/{job['id']}/items").json()["items"]
        whole = site.client.get(f"/jobs/api/jobs/{job['id']}/items/{item['id']}").json()
        return [line["text"] for line in whole["log"]]

    assert until(lambda: site.since(known)[0]["finished_at"] and said()) == ["to one"]


def test_what_was_answered_is_there_after_kill_9(patient_site: Site):
    """It is the last: it kills the site.

    Those who come in the same moment are written in one transaction, and nobody is answered before it is on the disk."""
    answered: list[int] = []
    numbers = iter(range(1_000, 100_000))

    def ask() -> None:
        with contextlib.suppress(httpx.TransportError):
            for number in numbers:
                assert patient_site.client.get(f"/slow/{number}").is_success
                answered.append(number)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: len(answered) > 40)
    patient_site.process.kill()
    for thread in threads:
        thread.join()
    conn = sqlite3.connect(patient_site.directory / "data" / "rowcast.db")
    written = {
        json.loads(args)["*"][0] for (args,) in conn.execute("select args from jobs where task = 'slow'")
    }
    assert conn.execute("select count(*) from jobs where total <> 1 or not filled").fetchone() == (0,)
    conn.close()
    assert set(answered) - written == set()
