"""Another try, and when not: over real HTTP."""

import time

import pytest
from conftest import until

MINE = """
import time
import httpx
from rowcast import Retry, task

tried = {}

@task(concurrency=2, max_attempts=3, timeout=1)
def hangs(item: str):
    if item == "hang":
        time.sleep(60)
    return item

@task(max_attempts=3)
def asks(item: str):
    tried[item] = tried.get(item, 0) + 1
    if tried[item] < 2:
        raise Retry(after=0.2)
    return tried[item]

@task(max_attempts=3, backoff=0.1, retry_codes=[404])
async def own_codes(user: dict, api: httpx.AsyncClient):
    (await api.post(f"/update-user/{user['email']}")).raise_for_status()
"""


@pytest.fixture
def server(serve, api, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return serve("--api-url", api.url, "--tasks", "mine")


def test_a_503_is_tried_again_with_the_same_key(server, api):
    server.users("once-a@example.com")
    done = server.ended(server.begin())
    assert done["completed"] == 1
    keys = [key for _, key, *_ in api.log()]
    assert len(keys) == 2 and keys[0] == keys[1]


def test_tries_end_and_the_item_fails_with_its_code(server, api):
    server.users("busy-a@example.com")
    job = server.begin()
    assert server.ended(job, 60)["failed"] == 1
    (item,) = server.items(job)
    assert (item["code"], item["attempt"], item["error"]) == (503, 5, "Service Unavailable: service unavailable")


def test_a_404_is_not_tried_again_unless_the_task_says_so(server, api):
    server.users("gone-a@example.com")
    server.ended(server.begin())
    assert len(api.log()) == 1
    server.ended(server.begin("own_codes"))
    assert len(api.log()) == 4


def test_a_task_can_ask_for_another_try(server):
    job = server.begin("asks", items=["a"])
    assert server.ended(job)["completed"] == 1
    assert server.items(job)[0]["result"] == 2


@pytest.mark.parametrize("form", ["limit", "date"])
def test_retry_after_holds_the_whole_task_back(server, api, form):
    server.users(f"{form}-a@example.com", *(f"user-{n}@example.com" for n in range(40)))
    api.latency(20)
    job = server.begin(concurrency=2)
    until(lambda: "asked for a pause" in server.client.get(f"/jobs/{job}").text)
    assert server.ended(job)["completed"] == 41
    arrived = [at for *_, at in api.log()]
    first = next(at for path, *_, at in api.log() if form in path)
    inside = [at for at in arrived if first + 0.2 < at < first + 0.75]
    assert not inside, "what was in flight may arrive, and then nothing of the task does"


def test_a_plain_function_that_hangs_holds_up_neither_the_others_nor_the_exit(server):
    job = server.begin("hangs", items=["hang", *(f"fine {n}" for n in range(20))])
    until(lambda: server.job(job)["completed"] == 20)
    (hung,) = [i for i in server.items(job) if i["key"] == "hang"]
    assert hung["status"] != "completed"
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 8


def test_a_countdown_is_shown_as_run_at(server, api):
    server.users("busy-a@example.com")
    job = server.begin()
    item = until(lambda: next((i for i in server.items(job) if i["status"] == "queued" and i["attempt"]), None))
    assert item["run_at"] and item["error"].startswith("Service Unavailable")
    server.client.post(f"/api/jobs/{job}/cancel")
