"""A hold, the pause that an API asks for: it is shown, counts down, and a person may lift it."""

import re
from typing import Any

import pytest
from conftest import Api, Server, until

FILES = {
    "posts.py": """
import httpx
from rowcast import task


@task(concurrency=2, max_attempts=3, retry_codes={403, 429}, backoff=0.01)
async def post_403(item: str, api: httpx.AsyncClient):
    (await api.post(f"/update-user/{item}")).raise_for_status()


@task(concurrency=2, max_attempts=3, backoff=0.01)
async def post(item: str, api: httpx.AsyncClient):
    (await api.post(f"/update-user/{item}")).raise_for_status()


@task(concurrency=2, max_attempts=3, backoff=0.01)
async def post_too(item: str, api: httpx.AsyncClient):
    (await api.post(f"/update-user/{item}")).raise_for_status()
"""
}
FLAGS = ("--tasks", "posts")


def held(server: Server, job: int, cause: str) -> dict[str, Any]:
    """What holds the job, once it is held so."""

    def found() -> Any:
        by = server.job(job)["held_by"]
        return by and by["cause"] == cause and by

    return until(found)


def keys(number: int, first: str) -> list[str]:
    return [f"{first}-a@example.com", *(f"user-{n}@example.com" for n in range(number))]


@pytest.mark.parametrize("how", ["button", "json"])
def test_a_pause_of_a_day_is_shown_in_hours_and_lifted_by_resume(server: Server, api: Api, how: str):
    job = server.begin("post", items=keys(20, "day"))
    by = held(server, job, "retry_after")
    assert by["sentence"] == "The API asked for a pause (429, Retry-After)." and by["until"]
    told = server.job(job)
    assert told["status"] == "running" and told["eta_range"][0] > 86_000
    page = server.client.get(f"/jobs/{job}").text
    assert re.search("in (23 h 59|24 h 0) min", page) and "Resume now" in page
    if how == "button":
        form = {"HX-Request": "true", "Content-Type": "application/x-www-form-urlencoded"}
        assert server.client.post(f"/jobs/{job}/resume", headers=form).status_code == 204
    else:
        assert server.client.post(f"/api/jobs/{job}/resume").json()["held_by"] != by
    ended = server.ended(job)
    assert (ended["completed"], ended["failed"]) == (21, 0)
    assert {item["attempt"] for item in server.items(job)} == {1, 2}


def test_a_pause_is_lifted_for_all_jobs_of_the_task(server: Server, api: Api):
    first = server.begin("post", items=keys(5, "nap"))
    held(server, first, "retry_after")
    second = server.begin("post", items=keys(5, "user"))
    held(server, second, "retry_after")
    server.act(second, "resume")
    assert server.ended(first)["completed"] == server.ended(second)["completed"] == 6


def test_what_the_api_asks_for_after_a_lift_holds_again(server: Server, api: Api):
    api.stall()
    api.answer(2)
    job = server.begin("post", items=["nap-a@example.com", "nap-b@example.com", "nap-c@example.com"])

    def were_asked(*naps: str) -> bool:
        return {item["code"] for item in server.items(job) if item["key"][4] in naps} == {429}

    for naps in ("ab", "c"):  # two at once, then the third
        until(lambda naps=naps: were_asked(*naps))
        held(server, job, "retry_after")
        api.answer()  # whoever asks after the lift
        server.act(job, "resume")
    assert server.ended(job)["completed"] == 3


def test_a_403_holds_where_the_task_lists_it_and_fails_where_not(server: Server, api: Api):
    job = server.begin("post_403", items=keys(3, "forbid"))
    by = held(server, job, "retry_after")
    assert by["sentence"] == "The API asked for a pause (403, Retry-After)."
    server.act(job, "resume")
    assert server.ended(job)["completed"] == 4
    other = server.ended(server.begin("post_too", items=keys(3, "forbid")))
    assert (other["completed"], other["failed"]) == (3, 1)


def test_a_running_job_that_nothing_holds_cannot_be_resumed(server: Server, api: Api):
    api.stall()
    job = server.begin("post_too", items=keys(3, "user"))
    until(lambda: server.job(job)["running"])
    refused = server.client.post(f"/api/jobs/{job}/resume")
    assert (
        refused.status_code == 409
        and refused.json()["error"] == f"Job {job} is running: it cannot be resumed."
    )
    api.answer()
    server.ended(job)


def test_a_job_that_a_person_paused_goes_on_at_one_press_also_where_its_api_had_asked_for_a_pause(
    server: Server, api: Api
):
    job = server.begin("post", items=keys(5, "nap"))
    held(server, job, "retry_after")
    server.act(job, "pause")
    assert held(server, job, "paused")["until"] is None
    server.act(job, "resume")
    assert server.ended(job)["completed"] == 6
