"""One contract for all engines: the same tests over inline, background, celery and dramatiq, with real workers and a real
Valkey; over RabbitMQ too where it is installed."""

import collections
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import Api, Server, until
from fleet import Background, Broker, Fleet, Inline, adds_up, ended_well, queue_flags, under_way
from rabbit import EPMD, SERVER, Rabbit

from rowcast.tasks.groups import fingerprint

TESTS = str(Path(__file__).parent)
RABBITS = ["celery amqp", "dramatiq amqp"]


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    """One RabbitMQ for both engines: what is in it from one must not be in the other's way."""
    made = Rabbit(tmp_path_factory.mktemp("rabbit"))
    yield made
    made.end()


@pytest.fixture(scope="module", params=["inline", "background", "celery", "dramatiq", *RABBITS])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, api_process: str
) -> Iterator[Any]:
    """Where jobs are run: one of each engine for all tests."""
    directory = tmp_path_factory.mktemp("place")
    (engine, _, amqp) = request.param.partition(" ")
    if amqp and not (SERVER and EPMD):
        pytest.skip("RabbitMQ is not installed")
    if engine == "inline":
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", TESTS)
            made: Any = Inline(str(directory / "rowcast.db"), api_process)
            yield made
            made.stop()
        return
    env = {"PYTHONPATH": TESTS}
    failed_before = request.session.testsfailed
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
    assert (done["status"], done["reason"], done["total"]) == ("completed", "", 3)
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
    *moments, last = sorted(at for *_, at in api.log())
    # any may be late on its way, the first most of all; of ten, one was not by four intervals
    assert max(last - at - (39 - n) / 20 for n, at in enumerate(moments[:10])) > -4 / 20


def test_a_concurrency_holds_across_all_workers(place, api: Api):
    place.users(*(f"user-{n}@example.com" for n in range(80)))
    api.latency(30)
    left_over = api.client.get("/peak").json()  # posts of workers that other tests have lost
    assert place.ended(place.begin(concurrency=4))["completed"] == 80
    assert api.client.get("/peak").json() - left_over <= 4


def test_pause_resume_and_cancel_reach_the_workers(place, api: Api):
    job, _ = under_way(place, api, 5, concurrency=5)
    assert place.act(job, "pause")["status"] == "paused"
    until(lambda: api.answer_waiting() or place.job(job)["running"] == 0)
    before = len(api.log())
    time.sleep(0.6)
    assert len(api.log()) == before and place.job(job)["status"] == "paused"
    place.act(job, "resume")
    until(lambda: api.answer_waiting() or len(api.log()) > before + 5)
    place.act(job, "cancel")
    done = place.ended(job)
    assert done["status"] == "cancelled" and adds_up(done) and done["running"] == 0
    api.answer()
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


def test_a_canary_pauses_the_job_and_resume_runs_the_rest(place, api: Api):
    place.users(*(f"user-{n}@example.com" for n in range(12)))
    job = place.begin(canary=3, concurrency=2)
    paused = until(lambda: (j := place.job(job))["status"] == "paused" and j["running"] == 0 and j)
    assert paused["reason"] == "The canary is over: 3 completed, 0 failed. Resume to run the other 9."
    assert len(api.log()) == 3
    place.act(job, "resume")
    assert place.ended(job)["completed"] == 12 == len(api.log())


def test_a_dry_run_shows_what_would_be_sent_and_sends_nothing(place, api: Api):
    place.users(*(f"user-{n}@example.com" for n in range(5)))
    done = place.ended(place.begin(dry_run=2))
    assert (done["status"], done["completed"], done["total"]) == ("completed", 2, 2)
    shown = [item["result"] for item in place.items(done["id"])]
    assert [(would["method"], urlsplit(would["url"]).path) for would in shown] == [
        ("POST", "/update-user/user-0%40example.com"), ("POST", "/update-user/user-1%40example.com"),
    ]  # fmt: skip
    assert api.log() == []


def test_a_task_that_blocks_its_worker_is_named_on_its_jobs_page(place, api: Api):
    if place.engine == "inline":
        pytest.skip("it has no worker that others wait for")
    job = place.begin("contract_blocks", items=["a"])
    said = "`contract_blocks` held up all jobs for "
    until(lambda: said in place.server.client.get(f"/jobs/{job}").text)
    assert "in hold_up (contract_tasks.py, line " in place.server.client.get(f"/jobs/{job}").text
    place.ended(job)


@pytest.mark.parametrize("task", ["contract_hangs", "contract_hangs_in_a_thread"])
def test_an_item_that_takes_too_long_has_failed_and_the_others_are_done(place, task: str):
    done = place.ended(place.begin(task, items=["a", "hangs", "b"]))
    assert [(i["status"], i["error"]) for i in place.items(done["id"])] == [
        ("completed", None), ("failed", "Timed out after 1.5 s"), ("completed", None),
    ]  # fmt: skip
    assert (done["status"], done["completed"], done["failed"]) == ("completed", 2, 1)


def test_an_item_that_ends_its_process_has_failed_and_the_others_are_done(place):
    job = place.begin("contract_fatal", items=["a", "fatal exit", "b", "fatal signal", "c"])
    until(lambda: place.attend() or place.job(job)["finished_at"])
    assert [(i["status"], i["result"], i["error"]) for i in place.items(job)] == [
        ("completed", "A", None), ("failed", None, "The process running this ended itself with code 7"),
        ("completed", "B", None), ("failed", None, "The process running this died: SIGSEGV"),
        ("completed", "C", None),
    ]  # fmt: skip
    assert adds_up(place.job(job))


def test_one_item_and_one_kind_of_failure_are_tried_again_by_hand(place, api: Api):
    place.users("once-1@example.com", "once-2@example.com", "gone-1@example.com", "once-3@example.com")
    job = place.begin("contract_once")
    assert place.ended(job)["failed"] == 4
    first = place.items(job)[0]
    place.act(job, "retry", item=first["id"])
    assert (place.ended(job)["completed"], len(api.log())) == (1, 5)
    place.act(job, "retry", group=fingerprint(first["code"], first["error"]))
    done = place.ended(job)
    assert (done["status"], done["completed"], done["failed"]) == ("completed", 3, 1) and adds_up(done)
    assert [(i["status"], i["attempt"]) for i in place.items(job)] == [
        ("completed", 2), ("completed", 2), ("failed", 1), ("completed", 2),
    ]  # fmt: skip
    assert len(api.log()) == 7


def test_the_pace_is_changed_while_the_job_runs(place, api: Api):
    place.users(*(f"user-{n}@example.com" for n in range(100)))
    api.latency(20)
    job = place.begin(concurrency=1, rate="1/s")
    until(lambda: place.job(job)["completed"])
    assert place.tune(job, 20, 0)["status"] == "running"
    assert place.ended(job)["completed"] == 100  # as it was begun it would take minutes
    assert api.client.get("/peak").json() > 1


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from run to run: of numbers and times only their kind is left."""
    differs = (
        "id",
        "job",
        "seq",
        "ms",
        "rate",
        "created_at",
        "started_at",
        "finished_at",
        "updated_at",
        "run_at",
    )
    return {name: type(value).__name__ if name in differs else value for name, value in row.items()}


JOB = {
    "id": "int", "task": "update_users", "args": {"limit": None}, "owner": "local", "engine": "", "status": "completed",
    "reason": "", "total": 3, "queued": 0, "running": 0, "completed": 2, "failed": 1, "cancelled": 0, "unknown": 0,
    "rate": "float", "eta": None, "eta_range": None, "eta_why": "", "held_by": None, "tags": [], "priority": 0, "concurrency": 10, "found": None, "after_job": None, "condition": "", "again_job": None, "again_item": None,
    "created_at": "str", "started_at": "str", "finished_at": "str", "seq": "int",
}  # fmt: skip
ITEM = {
    "id": "int", "job": "int", "position": 0, "key": "", "status": "completed", "attempt": 1, "code": 200, "error": None,
    "result": None, "ms": "float", "run_at": "NoneType", "updated_at": "str", "seq": "int",
}  # fmt: skip
GONE = "Not Found: no such account"
ITEMS = [
    ITEM | {"key": "once-1@example.com", "attempt": 2},
    ITEM | {"position": 1, "key": "gone-1@example.com", "status": "failed", "code": 404, "error": GONE},
    ITEM | {"position": 2, "key": "a@example.com"},
]


def test_the_json_and_the_stream_are_the_same_but_for_the_engines_name(place, api: Api):
    place.users("once-1@example.com", "gone-1@example.com", "a@example.com")
    job = place.begin()
    sent = [dict(line.split(": ", 1) for line in event.splitlines()) for event in place.stream(job).split("\r\n\r\n")
            if event.startswith(("id:", "event:"))]  # fmt: skip
    done = place.job(job)
    items = place.items(job)
    assert plain(done) == JOB | {"engine": place.engine}
    assert [plain(item) for item in items] == ITEMS
    assert {event["event"] for event in sent} == {"job", "item", "done"} and sent[-1]["event"] == "done"
    assert json.loads(sent[-1]["data"]) == {"status": "completed"}
    last = {(event["event"], (row := json.loads(event["data"]))["id"]): row for event in sent[:-1]}
    assert all(list(row) == list(done if kind == "job" else items[0]) for (kind, _), row in last.items())
    assert [last["item", item["id"]] for item in items] == items
    assert last["job", job] == done
    ids = [int(event["id"]) for event in sent[:-1]]
    assert ids == sorted(set(ids))


@pytest.mark.parametrize("place", RABBITS, indirect=True)
def test_a_rabbitmq_that_is_restarted_holds_nothing_up_for_long(place, api: Api):
    job, total = under_way(place, api, 5, "contract_once", concurrency=5)
    place.broker.stop()
    api.latency(200)
    api.answer()
    until(lambda: place.job(job)["running"] == 0)  # the slices are over, and cannot send themselves again
    place.broker.start()
    api.latency(20)
    items = ended_well(place, job, api, total)
    assert {item["attempt"] for item in items.values()} == {1}


@pytest.mark.parametrize("place", RABBITS, indirect=True)
def test_a_second_worker_on_the_same_host_gets_its_part(place, api: Api):
    crew = place.crew
    second = place.more(1)
    ours = place.crew
    place.crew = crew
    job, total = under_way(place, api, 5, "contract_once", concurrency=6)
    # the second gets what the first is done with
    until(
        lambda: (
            api.answer(1) or any(w["in_flight"] or w["done"] for w in place.living() if w["name"] in ours)
        ),
        every=0.2,
    )
    ended_well(place, job, api, total)
    assert second.stop() == 0
