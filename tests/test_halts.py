"""Stop the world: nothing new of a task, or of all, starts; what runs ends; all of it goes on where it was."""

from typing import Any

import pytest
from conftest import Api, Server, until
from place import OWNER, Place

from rowcast.tables.database import close_databases
from rowcast.tables.halts import Halts
from rowcast.tables.slots import Slots
from rowcast.tasks.records import Options
from rowcast.tasks.registry import task
from rowcast.tasks.work import Chunk, Report, Result

FLAGS = ("--tasks", "halted")
FILES = {
    "halted.py": """
import httpx
from rowcast import task

@task
async def post(item: str, api: httpx.AsyncClient):
    "Takes as long as the API does."
    (await api.post(f"/update-user/{item}")).raise_for_status()
"""
}


@task(name="halted_one", concurrency=10)
def one(item: str):
    pass


@task(name="halted_other", concurrency=10)
def other(item: str):
    pass


@task(name="halted_body")
def body():
    pass


@pytest.fixture
def place(tmp_path):
    yield Place(str(tmp_path / "rowcast.db"))
    close_databases()


def begin(place: Place, what: Any, engine: str = "background"):
    job, _ = place.jobs.submit(what, {}, OWNER, engine, Options())
    if what is not body:
        place.jobs.start(job.id)
        place.jobs.add_items(job.id, Chunk.of([(f"item {n}", None) for n in range(4)], last=True))
    return job


@pytest.mark.parametrize("what", ["halted_one", ""])
def test_nothing_new_starts_and_what_runs_ends(place: Place, what: str):
    first = begin(place, one)
    second = begin(place, other)
    (item,) = place.ledger.exchange(first.id, "w", Report(limit=1)).items
    Halts(place.path).stop(what, "ann", "the API burns")
    work = place.ledger.exchange(first.id, "w", Report([Result(item.id, item.attempt, "completed")], limit=5))
    assert (work.items, work.status) == ([], "paused"), "what ran is recorded, and nothing is given"
    stopped = place.job(first)
    assert (stopped.status, stopped.completed, stopped.queued) == ("running", 1, 3)
    assert (
        stopped.held_by and stopped.held_by.cause == "halted" and "the API burns" in stopped.held_by.sentence
    )
    assert stopped.eta_range is None and stopped.eta_why == "Its task is stopped."
    going = [] if what == "" else [second.id]
    assert [job.id for job in place.jobs.due()] == going
    assert len(place.ledger.exchange(second.id, "w", Report(limit=1)).items) == len(going)
    late = begin(place, one)
    assert place.ledger.exchange(late.id, "w", Report(limit=5)).items == [], (
        "nor of what is written meanwhile"
    )
    Halts(place.path).lift(what)
    assert {first.id, late.id} <= {job.id for job in place.jobs.due()}
    assert len(place.ledger.exchange(first.id, "w", Report(limit=5)).items) == 3


def test_what_is_called_once_is_not_called_and_a_queue_is_sent_nothing(place: Place):
    job = begin(place, body)
    sent = begin(place, one, "celery")
    place.ledger.heartbeat("far", "elsewhere", 1, "celery", "1")
    Halts(place.path).stop("", "ann")
    assert place.ledger.take_body(job.id, "w") is None
    assert Slots(place.path).supply("celery") == []
    Halts(place.path).lift("")
    assert place.ledger.take_body(job.id, "w") is not None
    assert [message[0] for message in Slots(place.path).supply("celery")] == [sent.id]


def test_a_halt_of_a_task_and_one_of_all_are_lifted_each_by_itself(place: Place):
    job = begin(place, one)
    halts = Halts(place.path)
    halts.stop("halted_one", "ann")
    halts.stop("", "ben")
    assert halts.stop("", "cay").account == "ben", "who was first is named"
    halts.lift("")
    assert [halt.task for halt in halts.every()] == ["halted_one"]
    assert place.jobs.due() == []
    halts.lift("halted_one")
    halts.lift("halted_one")
    assert [one.id for one in place.jobs.due()] == [job.id]


def test_an_admin_stops_everything_by_one_button_and_every_page_says_so(server: Server, api: Api):
    api.stall()
    running = server.begin("post", items=["ann@example.com"])
    until(lambda: server.job(running)["running"])
    page = server.client.get("/workers").text
    assert 'action="/halts"' in page
    assert server.client.post("/halts", data={}).status_code == 303
    for path in ("/", "/users", f"/jobs/{running}", "/halts"):
        assert "Everything was stopped by local" in server.client.get(path).text, path
    waits = server.client.post("/api/jobs", json={"task": "counter", "args": {"loops": 1}}).json()["id"]
    api.answer()
    assert server.ended(running)["completed"] == 1, "what runs ends"
    assert server.job(waits)["held_by"]["cause"] == "halted" and server.job(waits)["status"] == "queued"
    (halt,) = server.client.get("/api/halts").json()["halts"]
    assert (halt["task"], halt["account"]) == ("", "local")
    assert server.client.post("/halts/lift", data={"task": ""}).status_code == 303
    assert server.ended(waits)["completed"] == 1
    assert "was stopped" not in server.client.get("/workers").text


def test_a_task_is_stopped_on_its_page_with_a_reason_and_goes_on_there(server: Server):
    page = server.client.get("/tasks/counter").text
    assert 'name="reason"' in page and "Stopped since" not in page
    given = {"task": "counter", "reason": "it hurts", "at-task": "1"}
    assert server.client.post("/halts", data=given).headers["Location"] == "/tasks/counter"
    page = server.client.get("/tasks/counter").text
    assert "The task counter was stopped by local (it hurts)" in page and "Stopped since" in page
    assert "Stopped since" not in server.client.get("/tasks/update_users").text
    waits = server.client.post("/api/jobs", json={"task": "counter", "args": {"loops": 1}}).json()["id"]
    assert server.job(waits)["held_by"]["cause"] == "halted"
    assert server.client.post("/halts/lift", data=given).headers["Location"] == "/tasks/counter"
    assert server.ended(waits)["completed"] == 1
    assert "Stopped since" not in server.client.get("/tasks/counter").text


def test_one_task_is_stopped_by_a_program(server: Server, api: Api):
    made = server.client.post("/api/halts", json={"task": "counter", "reason": "it hurts"})
    assert (
        made.status_code == 200
        and "The task counter was stopped by local (it hurts)" in made.json()["sentence"]
    )
    waits = server.client.post("/api/jobs", json={"task": "counter", "args": {"loops": 1}}).json()["id"]
    other = server.begin(limit=1)
    assert server.ended(other)["completed"] == 1
    assert server.job(waits)["status"] == "queued"
    assert server.client.post("/api/halts/lift", json={"task": "counter"}).status_code == 204
    assert until(lambda: server.job(waits)["finished_at"])
    for given, said in (
        ({"task": "nothing"}, "There is no task 'nothing'"),
        ({"reason": "x" * 301}, "reason has"),
    ):
        refused = server.client.post("/api/halts", json=given)
        assert refused.status_code == 422 and refused.json()["error"].startswith(said)
    mistyped = server.client.post("/api/halts/lift", json={"task": "countr"})
    assert mistyped.status_code == 422 and mistyped.json()["error"].startswith("There is no task 'countr'")
    Halts(str(server.directory / "data" / "rowcast.db")).stop("gone", "ann")  # as before it was taken out
    for code in (204, 422):
        assert server.client.post("/api/halts/lift", json={"task": "gone"}).status_code == code
