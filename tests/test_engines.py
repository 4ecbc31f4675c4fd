"""One contract for all engines: the same tests over inline, background, celery and dramatiq, with real workers and a real
Valkey; over RabbitMQ too where it is installed."""

import collections
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Api, Server, until
from fleet import Background, Broker, Fleet, Inline, adds_up, ended_well, queue_flags, under_way
from rabbit import EPMD, SERVER, Rabbit

TESTS = str(Path(__file__).parent)
RABBITS = ["celery amqp", "dramatiq amqp"]


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    """One RabbitMQ for both engines: what is in it from one must not be in the other's way."""
    made = Rabbit(tmp_path_factory.mktemp("rabbit"))
    yield made
    made.end()


@pytest.fixture(scope="module", params=["inline", "background", "celery", "dramatiq", *RABBITS])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, api_process: str) -> Iterator[Any]:
    """Where jobs are run: one of each engine for all tests."""
    directory, (engine, _, amqp) = tmp_path_factory.mktemp("place"), request.param.partition(" ")
    if amqp and not (SERVER and EPMD):
        pytest.skip("RabbitMQ is not installed")
    if engine == "inline":
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", TESTS)
            made: Any = Inline(str(directory / "rowcast.db"), api_process)
            yield made
            made.stop()
        return
    env, failed_before = {"PYTHONPATH": TESTS}, request.session.testsfailed
    flags = ["--api-url", api_process, "--tasks", "contract_tasks"]
    if engine == "background":
        made = Background(Server(directory, *flags, env=env))
        yield made
    else:
        broker = request.getfixturevalue("rabbit") if amqp else Broker(directory / "broker.log")
        made = Fleet(engine, Server(directory, *flags, *queue_flags(engine, broker.url), env=env), broker)
        yield made
        made.workers.stop()
        if not amqp:
            broker.stop()
    made.stop()
    if request.session.testsfailed > failed_before:
        for log in directory.glob("*.log"):
            print(log.name, log.read_text(), sep="\n")


def test_every_user_is_posted_once_and_the_job_says_on_which_engine(place, api: Api):
    place.users(*(f"user-{n}@example.com" for n in range(200)))
    done = place.ended(place.begin(concurrency=20))
    assert (done["completed"], done["total"], done["status"]) == (200, 200, "completed")
    assert adds_up(done)
    assert len(api.log()) == len({path for path, *_ in api.log()}) == 200
    assert done["engine"] == place.engine


def test_what_fails_is_tried_again_with_the_same_key_or_has_failed(place, api: Api):
    place.users("once-1@example.com", "gone-1@example.com", "a@example.com")
    done = place.ended(place.begin())
    items = {item["key"]: item for item in place.items(done["id"])}
    assert [(i["status"], i["attempt"], i["code"]) for i in items.values()] == [
        ("completed", 2, 200), ("failed", 1, 404), ("completed", 1, 200),
    ]  # fmt: skip
    keys = collections.defaultdict(set)
    for path, key, *_ in api.log():
        keys[path].add(key)
    assert len(api.log()) == 4 and all(len(k) == 1 for k in keys.values())


def test_a_retry_after_is_kept_to_by_the_whole_task(place, api: Api):
    place.users("limit-1@example.com", "a@example.com", "b@example.com")
    done = place.ended(place.begin(concurrency=1))
    assert done["completed"] == 3
    first, second, *_ = [at for *_, at in api.log()]
    assert second - first >= 0.95


def test_a_rate_holds_across_all_workers(place, api: Api):
    place.users(*(f"user-{n}@example.com" for n in range(40)))
    assert place.ended(place.begin(concurrency=20, rate="20/s"))["completed"] == 40
    moments = [at for *_, at in api.log()]
    assert max(moments) - min(moments) > 36 / 20


def test_a_concurrency_holds_across_all_workers(place, api: Api):
    place.users(*(f"user-{n}@example.com" for n in range(80)))
    api.latency(30)
    left_over = httpx.get(f"{api.url}/peak").json()  # posts of workers that other tests have lost
    assert place.ended(place.begin(concurrency=4))["completed"] == 80
    assert httpx.get(f"{api.url}/peak").json() - left_over <= 4


def test_pause_resume_and_cancel_reach_the_workers(place, api: Api):
    place.users(*(f"user-{n}@example.com" for n in range(300)))
    api.latency(100)
    job = place.begin(concurrency=5)
    until(lambda: place.job(job)["completed"] > 5)
    assert place.act(job, "pause")["status"] == "paused"
    until(lambda: place.job(job)["running"] == 0)
    before = len(api.log())
    time.sleep(0.6)
    assert len(api.log()) == before and place.job(job)["status"] == "paused"
    place.act(job, "resume")
    until(lambda: len(api.log()) > before + 5)
    place.act(job, "cancel")
    done = place.ended(job)
    assert done["status"] == "cancelled" and adds_up(done) and done["running"] == 0
    time.sleep(0.4)
    assert place.job(job)["completed"] == done["completed"], "a result that came later was refused"


def test_a_stop_rule_pauses_the_job(place, api: Api):
    place.users(*(f"gone-{n}@example.com" for n in range(60)))
    job = place.begin(concurrency=1, stop_after="3")
    paused = until(lambda: (j := place.job(job))["status"] == "paused" and j)
    assert "3 failures in a row" in paused["reason"]
    until(lambda: place.job(job)["running"] == 0)
    assert 3 <= place.job(job)["failed"] <= 6
    place.act(job, "cancel")


def test_a_function_that_is_called_once_reports_its_steps(place):
    done = place.ended(place.begin("contract_set_up", name="ada"))
    assert [(i["key"], i["status"], i["result"]) for i in place.items(done["id"])] == [
        ("create", "completed", "ADA"), ("copy", "completed", 3),
    ]  # fmt: skip


def test_results_of_any_size_arrive(place):
    done = place.ended(place.begin("contract_large", items=["a", "é", "b"]))
    assert [i["result"] for i in place.items(done["id"])] == ["a" * 1000, "é" * 1000, "b" * 1000]


def test_what_may_not_be_repeated_is_unknown_when_its_worker_is_lost(place, api: Api):
    place.users("hang-1@example.com", "hang-2@example.com", "a@example.com")
    job = place.begin("contract_once")
    until(lambda: (j := place.job(job))["completed"] == 1 and j["running"] == 2)
    place.lose_workers()
    done = place.ended(job)
    assert (done["completed"], done["unknown"]) == (1, 2) and adds_up(done)
    assert len(api.log()) == 3, "nothing was sent again"


@pytest.mark.parametrize("place", RABBITS, indirect=True)
def test_a_rabbitmq_that_is_restarted_holds_nothing_up_for_long(place, api: Api):
    job, total = under_way(place, api, latency=200, concurrency=5, done=5)
    place.broker.stop()
    until(lambda: place.job(job)["running"] == 0)  # the slices are over, and cannot send themselves again
    place.broker.start()
    api.latency(20)
    items = ended_well(place, job, api, total)
    assert {item["attempt"] for item in items.values()} == {1}
