"""Tries and what they say on the queues: they travel with the reports, bounded, also from workers that are killed."""

import collections
from typing import Any

import pytest
from conftest import Api, until
from fleet import Fleet

from rowcast.tasks.masking import MASK

TASKS = "mine"
FILES = {
    "mine.py": """
import asyncio, httpx, logging, os, subprocess
from rowcast import Secret, task, track

log = logging.getLogger("mine")

@task(concurrency=10, max_attempts=4, backoff=0.02, backoff_max=0.1)
async def post(user: dict, api: httpx.AsyncClient):
    "One post; the API may be tired."
    log.info("to %s", user["email"])
    await asyncio.to_thread(print, "thread", user["email"])
    (await api.post(f"/update-user/{user['email']}")).raise_for_status()

@task
def in_steps(names: list[str]):
    for name in track(names):
        print("in", name)
        subprocess.run(["echo", "a program in", name])

@task
def with_secret(item: str, key: Secret[str]):
    print(key, key.reveal())
    return [len(key.reveal()), key.reveal(), any(key.reveal() in one for one in os.environ.values())]
"""
}
pytestmark = pytest.mark.usefixtures("clear_fleet")


def whole(fleet: Fleet, job: int) -> dict[str, dict[str, Any]]:
    """Each item with its tries, by key."""
    client = fleet.server.client
    return {
        item["key"]: client.get(f"/api/jobs/{job}/items/{item['id']}").json() for item in fleet.items(job)
    }


def test_the_tries_are_the_posts_and_each_has_said_its_own(fleet: Fleet, api: Api):
    kinds = ["once", "a", "busy", "b", "c", "gone"]
    fleet.users(*(f"{kinds[n % 6]}-{n}@example.com" for n in range(120)))
    done = fleet.ended(fleet.begin("post"))
    assert (done["completed"], done["failed"]) == (80, 40)
    posts = collections.Counter(key for _, key, *_ in api.log())
    for key, item in whole(fleet, done["id"]).items():
        assert len(item["attempts"]) == posts[f"{done['id']}-{item['id']}"]
        assert all(one["worker"] for one in item["attempts"])
        numbers = [one["attempt"] for one in item["attempts"]]
        assert sorted((line["attempt"], line["text"]) for line in item["log"]) == sorted(
            (number, text) for number in numbers for text in (f"to {key}", f"thread {key}")
        )
        if key.startswith("busy"):
            assert [one["answer"]["text"] for one in item["attempts"]] == [
                '{"error":"service unavailable"}'
            ] * 4
        moments = [one["started_at"] for one in item["attempts"]]
        assert moments == sorted(moments)


def test_of_what_killed_workers_had_no_try_that_was_answered_is_missing(fleet: Fleet, api: Api):
    fleet.users(*(f"user-{n}@example.com" for n in range(60)))
    api.stall()
    job = fleet.begin("post", concurrency=5)
    for n in range(2):
        api.answer(10)
        until(lambda n=n: len(api.log()) >= 10 * (n + 1), 150)
        fleet.lose_workers()
    api.answer()
    fleet.ended(job, 200)
    posts = collections.Counter(key for _, key, *_ in api.log())
    for item in whole(fleet, job).values():
        assert len(item["attempts"]) >= posts[f"{job}-{item['id']}"] >= 1
        assert item["attempts"][-1]["status"] == "completed"
        assert all(one["status"] == "unknown" for one in item["attempts"][:-1])


def test_a_step_has_what_was_said_in_it(fleet: Fleet):
    job = fleet.ended(fleet.begin("in_steps", names=["a", "b"]))["id"]
    found = {key: [line["text"] for line in item["log"]] for key, item in whole(fleet, job).items()}
    assert found == {name: [f"in {name}", f"a program in {name}"] for name in "ab"}


def test_a_secret_is_opened_by_the_dashboard_alone_and_lies_in_no_queue(fleet: Fleet):
    secret = "sk_live_of-the-queue"
    job = fleet.begin("with_secret", items=["a"], key=secret)
    fleet.ended(job)
    (item,) = whole(fleet, job).values()
    assert item["result"] == [len(secret), MASK, False]
    assert [line["text"] for line in item["log"]] == [f"{MASK} {MASK}"]
    files = [file for file in fleet.server.directory.rglob("*") if file.is_file()]
    assert [file.name for file in files if secret.encode() in file.read_bytes()] == []
    (key,) = fleet.server.directory.rglob("*.secrets-key")
    kept = key.read_bytes()
    key.unlink()
    try:
        again = fleet.server.client.post(f"/jobs/{job}/again", follow_redirects=False)
        lost = fleet.ended(int(again.headers["Location"].rpartition("/")[2]))
    finally:
        key.write_bytes(kept)
    assert lost["status"] == "failed" and lost["reason"].startswith("Its secrets cannot be opened: ")
