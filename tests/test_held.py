"""What holds a job: thirteen constructed cases, with the real engine and a real API, each named right."""

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Api, Server, until
from place import OWNER, Place
from test_components import a_job

from rowcast.jobs import Known, lasting
from rowcast.tables import outlook
from rowcast.tables.database import close_databases
from rowcast.tasks import clock
from rowcast.tasks.accounts import LOCAL
from rowcast.tasks.concurrency import Found
from rowcast.tasks.held import CAUSES, Outlook, Rival, held_by, length, rate
from rowcast.tasks.records import Held, encode
from rowcast.tasks.work import Hold, Report, Result

FILES = {
    "held.py": """
import asyncio, time
from pathlib import Path
import httpx
from rowcast import Retry, task


def slowly(number: int = 30):
    yield from (f"user-{n}@example.com" for n in range(3))
    while not Path("written").exists():
        time.sleep(0.05)
    yield from (f"user-{n}@example.com" for n in range(3, number))


@task(concurrency=4, max_attempts=2, backoff=0.01)
async def post(item: str, api: httpx.AsyncClient):
    (await api.post(f"/update-user/{item}")).raise_for_status()


@task(concurrency=4)
async def post_fast(item: str, api: httpx.AsyncClient):
    (await api.post(f"/update-user/{item}")).raise_for_status()


@task(concurrency="auto 1-60")
async def post_found(item: str, api: httpx.AsyncClient):
    (await api.post(f"/update-user/{item}")).raise_for_status()


@task(concurrency=4)
async def post_slow(item: str, api: httpx.AsyncClient):
    (await api.post(f"/update-user/{item}")).raise_for_status()


@task(concurrency=4)
async def post_shared(item: str, api: httpx.AsyncClient):
    (await api.post(f"/update-user/{item}")).raise_for_status()


@task(concurrency=4, items=slowly)
async def post_written(user: str, api: httpx.AsyncClient):
    (await api.post(f"/update-user/{user}")).raise_for_status()


@task(concurrency=4, max_attempts=3)
async def post_later(item: str):
    if not Path("later").exists():
        raise Retry(after=600)


@task(concurrency=4)
async def wait_for(item: str):
    while item == "last" and not Path("go").exists():
        await asyncio.sleep(0.05)


@task(concurrency=1)
async def only_one():
    while not Path("one").exists():
        await asyncio.sleep(0.05)
"""
}
FLAGS = ("--tasks", "held")
SEEN: set[str] = set()  # the causes that the real engine has been seen to name


def held(server: Server, job: int, cause: str, begins: str = "") -> str:
    """The sentence, once the job is held by this cause, and says so."""

    def found() -> Any:
        by = server.job(job)["held_by"]
        return by and by["cause"] == cause and by["sentence"].startswith(begins) and by

    by = until(found)
    SEEN.add(cause)
    assert by["sentence"].endswith(".") and "\n" not in by["sentence"]
    return by["sentence"]


def shown(server: Server, job: int, cause: str, sentence: str) -> None:
    """That the page says it, too: it and the JSON are read a moment apart, and the figures move."""
    held(server, job, cause)
    until(
        lambda: (
            sentence in re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", server.client.get(f"/jobs/{job}").text))
        )
    )


def some(number: int, first: str = "user") -> list[str]:
    return [f"{first}-{n}@example.com" for n in range(number)]


@pytest.fixture
def cancelled(server: Server):
    """What a test leaves running, the next one does not find."""
    yield
    server.cancel_all()


pytestmark = pytest.mark.usefixtures("cancelled")


def test_a_pace(server: Server, api: Api):
    job = server.begin(
        "post_fast", items=some(600), rate="5/s"
    )  # which a busy machine keeps, too, and for long
    shown(server, job, "rate", "Its pace holds it: at most 5/s.")
    slow = server.begin("post", items=some(5), rate="1/m")
    shown(server, slow, "rate", "Its pace holds it: at most 1 a minute.")


def test_a_concurrency_and_what_more_of_it_would_do(server: Server, api: Api):
    api.latency(150)
    job = server.begin("post_fast", items=some(800))
    held(server, job, "concurrency")
    said = until(
        lambda: re.search(
            r"4 at once do (\d+)/s\. 20 at once would do (\d+)/s; the API answers in (\d+) ms\.",
            (server.job(job)["held_by"] or {"sentence": ""})["sentence"],
        )
    )
    does, would, ms = map(int, said.groups())
    assert would == pytest.approx(5 * does, rel=0.25) and would == pytest.approx(20_000 / ms, rel=0.1)


def test_the_apis_own_speed(server: Server, api: Api):
    api.latency(1200)
    job = server.begin("post_slow", items=some(400))
    held(server, job, "api")
    until(
        lambda: (
            "The API's own speed holds it: the API answers in 1."
            in server.client.get(f"/jobs/{job}").text.replace("&#x27;", "'")
        )
    )


def test_a_retry_after(server: Server, api: Api):
    job = server.begin("post", items=[*some(1, "nap"), *some(20)])
    assert held(server, job, "retry_after") == "The API asked for a pause (429, Retry-After)."
    server.act(job, "resume")
    server.ended(job)


def test_a_fair_share(server: Server, api: Api):
    api.stall()
    api.latency(100)
    first = server.begin("post_shared", items=some(100))
    until(lambda: server.job(first)["running"] == 4)
    second = server.begin("post_shared", items=some(100))
    assert f"with job #{first}" in held(server, second, "fair_share")
    api.answer()


def test_no_worker(tmp_path: Path):
    """The engine starts one at once, so this one is asked of the tables alone."""
    place = Place(str(tmp_path / "rowcast.db"))
    job = place.begin(nothing, ["a"])
    queued, _ = place.jobs.submit(place.made, {}, LOCAL.name, "celery")
    place.jobs.start(queued.id)
    assert place.job(job).held_by == Held(
        "no_worker", "No worker is alive: the dashboard starts one by itself."
    )
    told = "No worker of Celery is alive: start one, and the job goes on."
    assert place.job(queued).held_by == Held("no_worker", told)
    assert place.job(queued).eta_range is None
    place.ledger.heartbeat("one", "here", 1, "celery", "1")
    found = place.job(queued).held_by
    assert found and found.cause == "starting"
    close_databases()


def test_a_full_disk():
    """Like the one before; that `block` says so to the row is in test_durability.py and test_ledger.py."""
    job = a_job(status="paused", cause="disk", reason="The disk is full: the job goes on by itself.")
    by = held_by(job, Outlook(), 0.0)
    assert by and (by.cause, by.sentence) == ("disk", "The disk is full: the job goes on by itself.")


def test_a_canary_that_runs_and_one_that_is_over(server: Server, api: Api):
    api.stall()
    job = server.begin("post", items=some(10), canary=2)
    assert held(server, job, "canary") == "The canary: only its first 2 items run, then it waits for you."
    api.answer()
    until(lambda: server.job(job)["status"] == "paused")
    held(server, job, "canary", "The canary is over: 2 completed")


def test_a_stop_rule(server: Server, api: Api):
    job = server.begin("post", items=some(40, "gone"), stop_after="3")
    assert held(server, job, "stop_rule").startswith("Stopped by its rule (3 failures in a row)")


def test_a_persons_pause(server: Server, api: Api):
    api.stall()
    job = server.begin("post", items=some(10))
    until(lambda: server.job(job)["running"])
    server.act(job, "pause")
    assert held(server, job, "paused").startswith("Paused: what was in flight ends")
    assert server.job(job)["eta_range"] is None and server.job(job)["eta_why"] == "It is paused."
    api.answer()


def test_only_retries_that_wait(server: Server, api: Api):
    job = server.begin("post_later", items=some(3))
    held(server, job, "retries", "Only retries are left: 3 wait for another try.")
    assert server.job(job)["held_by"]["until"]


def test_the_last_slow_items(server: Server, api: Api):
    job = server.begin("wait_for", items=[*some(5), "last"])
    held(server, job, "last_items", "The last item runs, the longest for")
    (server.directory / "go").touch()
    server.ended(job)


def test_a_task_that_is_stopped(server: Server, api: Api):
    server.client.post("/api/halts", json={"task": "post_shared"})
    job = server.begin("post_shared", items=some(1))
    assert held(server, job, "halted").startswith("The task post_shared was stopped by local: ")
    server.client.post("/api/halts/lift", json={"task": "post_shared"})
    server.ended(job)


def test_items_that_are_still_being_written(server: Server, api: Api):
    job = server.begin("post_written")
    held(server, job, "starting", "Its items are being written")
    until(lambda: server.job(job)["eta_why"] == "Its items are still being written.")
    (server.directory / "written").touch()
    assert server.ended(job)["completed"] == 30, [i for i in server.items(job) if i["status"] != "completed"]


def test_each_cause_was_seen_with_the_real_engine_or_stands_for_one_that_it_ends_itself():
    if not SEEN:
        pytest.skip("the tests before it did not run here")
    assert set(CAUSES) - SEEN == {"no_worker", "disk"}


def test_the_reference_names_every_cause():
    table = (ROOT / "docs" / "reference.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", table.partition("| cause |")[2].partition("\n\n")[0], re.M) == [
        *CAUSES
    ]


# ---- what is not among the fourteen --------------------------------------------------------------------------------


def test_a_function_that_is_called_once_waits_for_those_before_it(server: Server, api: Api):
    first = server.begin("only_one")
    until(lambda: server.job(first)["running"])
    second = server.begin("only_one")
    shown(server, second, "concurrency", "as many as may at once")
    (server.directory / "one").touch()
    server.ended(second)


def test_a_job_that_starts_later_says_when(server: Server, api: Api):
    job = server.begin("post", items=some(1), run_at="600s")
    assert held(server, job, "starting") == "It starts later."
    assert server.job(job)["held_by"]["until"]


def test_nothing_holds_a_job_that_has_ended_or_that_goes_as_fast_as_its_worker_can(server: Server, api: Api):
    job = server.begin("post", items=some(3))
    assert server.ended(job)["held_by"] is None
    fast = a_job(running=20, queued=500, concurrency=10)
    assert held_by(fast, Outlook(own_tries=3000, ms=0.2), 0.0) is None


def test_the_cause_that_stops_more_comes_first():
    job = a_job(engine="background", running=10, queued=500, concurrency=10, pace=50.0)
    busy = {"own_tries": 49.0, "all_tries": 49.0, "ms": 190.0, "rivals": [Rival(3, 10, 1.0)]}
    causes = []
    for more in (
        {"workers": 0, "hold_until": 9.0},
        {"hold_until": 9.0},
        {},
        {"own_tries": 30.0, "all_tries": 30.0},
    ):
        by = held_by(job, Outlook(**(busy | more)), 1.0)
        causes.append(by and by.cause)
    assert causes == ["no_worker", "retry_after", "rate", "concurrency"]


def test_of_two_jobs_that_have_one_place_each_neither_is_held_by_its_concurrency():
    """As many of its items may be out as there are places, which it has by turns."""
    job = a_job(running=2, queued=500, concurrency=2)
    by = held_by(job, Outlook(own_tries=3.3, ms=300.0, rivals=[Rival(3, 10, 1.0)]), 0.0)
    assert by == Held("fair_share", "It shares its task's places with job #3, and has 1 place of them.")
    by = held_by(job, Outlook(own_tries=6.6, ms=300.0, rivals=[Rival(3, 10, 1.0)]), 0.0)
    assert by and by.cause == "concurrency", "the other has none of them"


@pytest.mark.parametrize("how", ["pause", "hold"])
def test_what_holds_a_job_and_its_rate_are_true_as_soon_as_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
):
    place = Place(str(tmp_path / "rowcast.db"))
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now)
    monkeypatch.setattr(clock, "steady", lambda: now - clock.start())
    place.ledger.heartbeat("one", "here", 1, "background", "1")
    job = place.begin(nothing, [f"item {n}" for n in range(100)], concurrency=2)
    given: Any = []

    def goes(seconds: int) -> Any:
        """Two at once, each for half a second; the job as it is then."""
        nonlocal now, given
        for _ in range(2 * seconds):
            given = given or place.ledger.exchange(job.id, "one", Report(limit=2)).items
            now += 0.5
            results = [Result(item.id, item.attempt, "completed", ms=500.0) for item in given]
            given = place.ledger.exchange(job.id, "one", Report(results, limit=2)).items
        place.ledger.heartbeat("one", "here", 1, "background", "1")
        return place.job(job)

    goes(5)
    if how == "pause":
        place.jobs.act(job.id, OWNER, "pause")
        now += 20
        place.jobs.act(job.id, OWNER, "resume")
    else:
        place.ledger.exchange(job.id, "one", Report(hold=Hold(clock.steady() + 20, "429")))
        now += 20
    place.ledger.heartbeat("one", "here", 1, "background", "1")
    told = goes(1)
    assert told.held_by and told.held_by.cause == "concurrency"
    assert 3 <= told.rate <= 6
    close_databases()


def test_an_api_that_has_more_to_do_than_it_can_is_not_helped_by_more_at_once():
    job = a_job(running=50, queued=500, concurrency=50)
    by = held_by(job, Outlook(own_tries=100.0, ms=500.0, usual_ms=90.0), 0.0)
    assert by and by.cause == "api"
    assert by.sentence.endswith("500 ms, and did in 90 ms: more at once would not help.")


FOUND = [
    (None, "8 at once so far: it is being found how many it bears.", "concurrency"),
    (Found(16), "16 at once so far: it is being found how many it bears.", "concurrency"),
    (Found(32, True, 40), "32 at once, found; it slows from 40 on.", "api"),
    (Found(9, True, 0, 97.3), "9 at once, found; it refuses more than 97/s.", "api"),
    (Found(50, True), "50 at once, found, the most that it may; an item takes 20 ms.", "concurrency"),
    (Found(20, True), "20 at once, found, and more is tried; an item takes 20 ms.", "concurrency"),
]


@pytest.mark.parametrize(("found", "sentence", "cause"), FOUND)
def test_where_a_concurrency_is_found_it_says_what_was_found(found: Found | None, sentence: str, cause: str):
    text = found and encode(found).decode()
    job = a_job(running=8, queued=500, concurrency=50, least=1, found=text)
    by = held_by(job, Outlook(own_tries=400.0, ms=20.0), 0.0)
    assert by == Held(cause, sentence)


def test_what_is_found_is_told_while_the_job_runs_and_may_be_changed(server: Server, api: Api):
    api.stall()
    job = server.begin("post_fast", items=some(300), concurrency="auto 2-30", priority=3)
    until(lambda: server.job(job)["running"] == 8)
    told = server.job(job)
    assert (told["concurrency"], told["found"], told["priority"]) == ("auto 2-30", None, 3)
    sentence = "8 at once so far: it is being found how many the API bears."
    shown(server, job, "concurrency", sentence)
    assert 'value="auto 2-30"' in server.client.get(f"/jobs/{job}").text

    def tune(**values: Any) -> Any:
        return server.client.patch(f"/api/jobs/{job}", json=values).json()

    assert tune(concurrency=3)["concurrency"] == 3
    assert tune(priority=-4)["priority"] == -4
    assert tune(priority=11)["error"] == "priority is a whole number from -10 to 10, not 11."
    assert tune(concurrency="auto")["concurrency"] == "auto"
    assert tune(concurrency="auto 12-14")["concurrency"] == "auto 12-14"
    until(lambda: server.job(job)["running"] == 12)  # which is the fewest now
    api.latency(20)
    api.answer()
    page = server.client.get("/tasks/post_found").raise_for_status().text
    assert "As many at a time as its API bears" in page and 'placeholder="auto 1-60"' in page
    ended = server.ended(job)
    assert ended["completed"] == 300 and 12 <= ended["found"]["limit"] <= 14
    once = server.begin("only_one", run_at="600s")
    answer = server.client.patch(f"/api/jobs/{once}", json={"concurrency": "auto"})
    assert answer.status_code == 409 and "is called once" in answer.json()["error"]


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0.2, "0.2 ms"),
        (84.4, "84 ms"),
        (1400, "1.4 s"),
        (31_000, "31 s"),
        (720_000, "12 min"),
        (9e6, "2 h"),
    ],
)
def test_a_length_is_told_in_two_figures(ms: float, text: str):
    assert length(ms) == text


@pytest.mark.parametrize(
    ("per_second", "text"),
    [(12_345, "12,345/s"), (310.2, "310/s"), (4.25, "4.2/s"), (1, "1/s"), (2 / 60, "2 a minute"), (3 / 3600, "3 an hour"),
     (1 / 86_400, "1 a day")],
)  # fmt: skip
def test_a_rate_is_told_in_the_unit_that_reads_well(per_second: float, text: str):
    assert rate(per_second) == text


async def nothing(item: str) -> None: ...


def test_what_has_paused_a_job_is_known_until_it_goes_on(tmp_path: Path):
    place = Place(str(tmp_path / "rowcast.db"))
    job = place.begin(nothing, ["a", "b"], idempotent=False)
    for reason, cause in (("The disk is full.", "disk"), ("The worker w cannot import it.", "no_worker")):
        place.ledger.block(job.id, reason, cause)
        found = place.job(job)
        assert found.held_by == Held(cause, reason) and found.eta_why == "It is paused."
        place.ledger.unblock(reason)
        assert place.job(job).cause == ""
    place.ledger.heartbeat("one", "here", 1, "background", "1")
    place.ledger.exchange(job.id, "one", Report(limit=1))
    place.ledger.rescue("one")  # what it had is unknown
    place.jobs.act(job.id, LOCAL, "pause")
    place.jobs.act(job.id, LOCAL, "settle")
    assert place.job(job).cause == "paused" and place.job(job).unknown == 0
    close_databases()


def test_when_a_job_ends_is_reckoned_once_a_second_and_anew_where_something_else_is_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    place = Place(str(tmp_path / "rowcast.db"))
    place.ledger.heartbeat("one", "here", 1, "background", "1")
    job = place.begin(nothing, [f"item {n}" for n in range(100)], concurrency=50)
    monkeypatch.setattr(outlook, "eta_range", lambda job, *_: ((float(job.done), float(job.concurrency)), ""))
    known: Known = {}

    def when(items: int = 0) -> Any:
        """When it ends, in the same second, after so many items more."""
        nonlocal known
        given = place.ledger.exchange(job.id, "one", Report(limit=items)).items
        results = [Result(item.id, item.attempt, "completed", ms=50.0) for item in given]
        place.ledger.exchange(job.id, "one", Report(results))
        known = lasting(known)
        return place.jobs.job(job.id, OWNER, known).eta_range

    assert [when(5), when(4)] == [(5, 50), (9, 50)], "of which little ends, each item counts"
    assert [when(11), when(20), when()] == [(20, 50), (20, 50), (20, 50)]
    place.jobs.tune(job.id, OWNER, 40, None)
    assert [when(), when(1)] == [(40, 40), (40, 40)]
    place.ledger.leave("one")
    assert when(1) == (42, 40), "no worker is there any more"
    known = {}
    assert when(2) == (44, 40)
    close_databases()
