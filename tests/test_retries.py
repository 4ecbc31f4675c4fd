"""What is tried again, when, and how often: a real API that says no, hangs, asks for a pause or is not there at all."""

import asyncio
import contextlib
import math
import os
import selectors
import signal
import sqlite3
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Api, Server, free_port, until
from receiver import receiving
from test_trouble import child_of

from rowcast.jobs import Jobs
from rowcast.tables.database import close_databases
from rowcast.tables.schema import prepare
from rowcast.tasks.clock import steady
from rowcast.tasks.encoding import shown_text, unpack
from rowcast.tasks.records import Job
from rowcast.tasks.registry import task
from rowcast.tasks.steps import Call, Retry, current_call
from rowcast.tasks.work import CHUNK, Claimed, Hold, Result
from rowcast.worker.attempt import (
    LONGEST_AFTER,
    TimeLimit,
    asked_for,
    attempt,
    back_off,
    caller,
    outcome,
)
from rowcast.worker.clients import LONGEST_HOLD, retry_after
from rowcast.worker.failures import describe, failure_of

FILES = {
    "mine.py": """
import asyncio, pathlib, time
import httpx
from rowcast import Retry, step, task

@task(concurrency=4, max_attempts=3, backoff=0.1, backoff_max=0.2)
async def post(item: str, api: httpx.AsyncClient):
    (await api.post(f"/update-user/{item}")).raise_for_status()

@task(max_attempts=2)
async def post_and_wait(item: str, api: httpx.AsyncClient):
    "Its task alone is held back by a long pause."
    await post.function(item, api)

@task(max_attempts=2)
async def post_and_sleep(item: str, api: httpx.AsyncClient):
    "And so is this one's."
    await post.function(item, api)

@task(max_attempts=3, backoff=0.05, retry_codes=[404])
async def insist(item: str, api: httpx.AsyncClient):
    (await api.post(f"/update-user/{item}")).raise_for_status()

@task(max_attempts=2, backoff=600)
def ask_again(item: str, after: float):
    mark = pathlib.Path(item)
    if not mark.exists():
        mark.write_text(str(time.time()))
        raise Retry("the printer is warm", after=after)
    return time.time() - float(mark.read_text())

@task(max_attempts=2, backoff=600)
def ask_again_once(name: str, after: float):
    return step("print", ask_again.function, name, after)

@task(concurrency=4, timeout=2)
async def wait(item: str):
    await asyncio.sleep(600 if item.startswith("hang") else 0)

@task(concurrency=4, timeout=2)
def hang(item: str):
    time.sleep(600 if item.startswith("hang") else 0)

@task(concurrency=100, max_attempts=1)
async def switched(item: str):
    if not pathlib.Path("on").exists():
        raise ValueError("it is off")

@task(max_attempts=10_000, backoff=0.1, backoff_max=0.3)
async def knock(item: str, port: int):
    async with httpx.AsyncClient() as own:
        (await own.post(f"http://127.0.0.1:{port}/update-user/{item}")).raise_for_status()
"""
}
FLAGS = ("--tasks", "mine")


@pytest.fixture(autouse=True)
def cleared(api: Api) -> None:
    """Each test starts with an empty log."""


def keys_of(api: Api, item: str) -> list[str]:
    """The Idempotency-Key of each post for an item, in order."""
    return [key for path, key, *_ in api.log() if path.endswith(f"/{item}")]


# ---- an API that says no -------------------------------------------------------------------------------------------


def test_a_503_is_tried_again_with_the_same_key(shared: Server, api: Api):
    job = shared.begin("post", items=["once-1"])
    shared.ended(job)
    (item,) = shared.items(job)
    assert (item["status"], item["code"], item["attempt"], item["error"]) == ("completed", 200, 2, None)
    assert keys_of(api, "once-1") == [f"{job}-{item['id']}"] * 2


def test_after_the_last_try_an_item_has_failed_with_its_code(shared: Server, api: Api):
    job = shared.begin("post", items=["busy-1", "fine"])
    done = shared.ended(job)
    assert (done["status"], done["failed"], done["completed"]) == ("completed", 1, 1)
    item = shared.items(job)[0]
    assert (item["status"], item["code"], item["attempt"]) == ("failed", 503, 3)
    assert item["error"] == "Service Unavailable: service unavailable"
    assert len(keys_of(api, "busy-1")) == 3 and len(set(keys_of(api, "busy-1"))) == 1


def test_a_404_is_not_tried_again(shared: Server, api: Api):
    job = shared.begin("post", items=["gone-1"])
    shared.ended(job)
    assert [(i["status"], i["code"], i["attempt"]) for i in shared.items(job)] == [("failed", 404, 1)]
    assert len(keys_of(api, "gone-1")) == 1


def test_a_task_says_itself_which_codes_are_worth_another_try(shared: Server, api: Api):
    job = shared.begin("insist", items=["gone-1", "busy-1"])
    shared.ended(job)
    assert [(i["code"], i["attempt"]) for i in shared.items(job)] == [(404, 3), (503, 1)]


def test_a_retry_by_hand_gives_all_the_tries_again(shared: Server, api: Api):
    job = shared.begin("post", items=["busy-1"])
    shared.ended(job)
    shared.client.post(f"/api/jobs/{job}/retry").raise_for_status()
    until(lambda: len(keys_of(api, "busy-1")) == 6)
    assert shared.ended(job)["failed"] == 1


def test_a_retry_of_many_items_goes_on_after_a_kill_in_its_middle(
    serve: Callable[..., Server], tmp_path: Path
):
    (tmp_path / "mine.py").write_text(FILES["mine.py"])
    server = serve("--tasks", "mine")
    many = CHUNK + 100
    job = server.begin("switched", items=[f"item {n}" for n in range(many)])
    assert server.ended(job, 200)["failed"] == many
    (tmp_path / "on").touch()
    worker = halted(server)  # so that nobody goes on with it
    asked = server.client.post(f"/api/jobs/{job}/retry").json()
    assert (asked["queued"], asked["failed"], asked["finished_at"]) == (CHUNK, many - CHUNK, None)
    server.process.kill()
    os.kill(worker, signal.SIGKILL)
    server.process.wait()
    server.start()
    done = server.ended(job, 200)
    assert (done["status"], done["completed"], done["failed"]) == ("completed", many, 0)
    assert {item["attempt"] for item in server.items(job)} == {2}


def halted(server: Server) -> int:
    """The process id of the server's worker, which does nothing from now on.

    It is stopped while the test has the database's writer: in a transaction of its own it would keep it.
    """
    found = sqlite3.connect(server.directory / "data" / "rowcast.db", timeout=30, isolation_level=None)
    found.execute("begin immediate")
    worker = child_of(server)
    os.kill(worker, signal.SIGSTOP)
    until(lambda: all(" T " in task.read_text() for task in Path(f"/proc/{worker}/task").glob("*/stat")))
    found.execute("rollback")
    found.close()
    return worker


# ---- a task that asks for another try itself -----------------------------------------------------------------------


def test_retry_raised_in_a_task_is_kept_to_the_second(shared: Server):
    job = shared.begin("ask_again", items=["hot printer"], after=600)
    waiting = until(lambda: [i for i in shared.items(job) if i["status"] == "queued" and i["attempt"] == 1])
    assert waiting[0]["error"] == "Retry: the printer is warm" and waiting[0]["run_at"]
    shared.act(job, "cancel")
    job = shared.begin("ask_again", items=["printer"], after=1.5)
    shared.ended(job)
    (item,) = shared.items(job)
    assert (item["status"], item["attempt"]) == ("completed", 2)
    assert 1.5 <= item["result"] < 20


def test_retry_raised_in_a_step_is_kept_too(shared: Server):
    job = shared.begin("ask_again_once", name="once-printer", after=1.5)
    shared.ended(job)
    (item,) = shared.items(job)
    assert (item["key"], item["status"], item["attempt"]) == ("print", "completed", 2)
    assert 1.5 <= item["result"] < 20


# ---- an API that asks for a pause ----------------------------------------------------------------------------------


def held_until(server: Server, name: str) -> float:
    """Until when the task is held back, as its table says; 0 before there is a hold."""
    found = sqlite3.connect(server.directory / "data" / "rowcast.db")
    rows = found.execute("select hold_until from paces where task = ?", (name,)).fetchall()
    found.close()
    return float(max((at for (at,) in rows), default=0.0))


@pytest.mark.parametrize("first", ["rest-1", "until-1"])
def test_retry_after_holds_the_whole_task_back(shared: Server, api: Api, first: str):
    """Posts are answered one by one, each once all have arrived that may be under way: so none is on its way when the
    pause begins.
    """
    api.stall()
    other = shared.begin("post", items=[f"other-{n}" for n in range(60)])
    until(lambda: len(api.log()) == 4)
    job = shared.begin("post", items=[first, *(f"mine-{n}" for n in range(20))])
    until(lambda: shared.job(job)["total"] == 21)
    began = time.time()
    answered = 0
    while not api.log()[answered][0].endswith(first):
        answered += 1
        api.answer(1)
        until(lambda there=answered + 4: len(api.log()) == there)
    api.answer(1)
    held = until(lambda: (at := held_until(shared, "post")) > began and at)
    api.answer()
    assert [shared.ended(one)["completed"] for one in (job, other)] == [21, 60]
    assert [path for path, *_ in api.log()[answered + 4 :]].count(f"/update-user/{first}") == 1
    assert [path for path, _, _, at in api.log()[answered + 4 :] if at < held] == []


@pytest.mark.parametrize(
    ("name", "first", "code"), [("post_and_wait", "nap-1", 429), ("post_and_sleep", "sleep-1", 503)]
)
def test_every_job_of_a_task_says_that_the_api_asked_for_a_pause_and_another_task_goes_on(
    shared: Server, api: Api, name: str, first: str, code: int
):
    said = f"The API asked for a pause ({code}, Retry-After)"
    job = shared.begin(name, items=[first])
    until(lambda: said in shared.client.get(f"/jobs/{job}").text)
    held_too = shared.begin(name, items=["fine"])
    until(lambda: said in shared.client.get(f"/jobs/{held_too}").text)
    other = shared.begin("insist", items=["fine"])
    assert shared.ended(other)["completed"] == 1
    for waiting in (job, held_too):
        assert shared.job(waiting)["completed"] == 0
        shared.act(waiting, "cancel")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), (" 0 ", 0), (None, None), ("", None), ("soon", None), ("-3", None), ("1.5", None)],
)
def test_a_retry_after_in_seconds_is_read(header: str | None, seconds: float | None):
    assert retry_after(header) == seconds


def test_a_retry_after_as_a_date_is_read_and_one_that_is_past_is_now():
    ahead = retry_after(formatdate(time.time() + 60, usegmt=True))
    assert ahead is not None and 55 < ahead <= 60
    assert retry_after("Sun, 06 Nov 1994 08:49:37 GMT") == 0.0


async def nothing(item: str) -> None: ...


@pytest.mark.parametrize(("error", "known"), [
    (TimeoutError(), False), (httpx.ReadTimeout("late"), False), (httpx.RemoteProtocolError("gone"), False),
    (httpx.ConnectError("refused"), True), (ValueError("a bug"), True),
])  # fmt: skip
def test_what_may_have_arrived_of_what_may_not_be_repeated_is_unknown(error: Exception, known: bool):
    once = task(name=f"retries_once_{type(error).__name__}", idempotent=False, max_attempts=3)(nothing)
    result, _ = outcome(once, Claimed(1, "a", None, 1, 0, 0), Call(1, 1), error, time.perf_counter())
    assert (result.status != "unknown") == known
    again = task(name=f"retries_again_{type(error).__name__}", max_attempts=3)(nothing)
    assert (
        outcome(again, Claimed(1, "a", None, 1, 0, 0), Call(1, 1), error, time.perf_counter())[0].status
        != "unknown"
    )


@pytest.mark.parametrize("after", [math.inf, 1e300, 10**400])
def test_nobody_waits_longer_than_a_year_nor_for_an_api_longer_than_a_day(after: float):
    assert asked_for(Retry(after=after)) == LONGEST_AFTER
    assert retry_after("9" * 400) == LONGEST_HOLD and retry_after("²") is None
    assert asked_for(Retry(after=math.nan)) is None and asked_for(Retry(after=-3)) == 0


@pytest.mark.parametrize(("after", "seconds"), [("soon", None), ("3", 3.0), ([], None)])
def test_a_pause_that_is_no_number_is_the_tasks_own_backoff(after: Any, seconds: float | None):
    assert asked_for(Retry(after=after)) == seconds


@pytest.mark.parametrize(
    ("after", "seconds"), [(timedelta(minutes=2), 120.0), (timedelta.max, LONGEST_AFTER)]
)
def test_a_pause_may_be_a_timedelta(after: timedelta, seconds: float):
    assert asked_for(Retry(after=after)) == seconds


def test_a_retry_after_as_a_date_is_held_against_the_answers_own_date():
    assert retry_after("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:07 GMT") == 30.0
    assert retry_after("Sun, 06 Nov 1994 08:49:37 GMT", "yesterday") is None


NINES = "9" * 20


@pytest.mark.parametrize(
    "date",
    [f"Sun, {NINES} Nov 1994 08:49:37 GMT", f"Sun, 06 Nov {NINES} 08:49:37 GMT", f"Sun, 06 Nov 1994 08:49:37 +{NINES}"],
)  # fmt: skip
def test_a_retry_after_of_no_day_that_there_is_asks_for_nothing_and_breaks_nothing(date: str):
    assert retry_after(date) is None
    assert retry_after("Sun, 06 Nov 1994 08:49:37 GMT", date) is None


# ---- an API that is not there --------------------------------------------------------------------------------------


def test_a_connection_that_is_refused_is_tried_again_until_somebody_answers(shared: Server):
    port = free_port()
    job = shared.begin("knock", items=["a", "b"], port=port)
    until(lambda: all(i["attempt"] > 1 for i in shared.items(job)))
    waiting = until(lambda: [i for i in shared.items(job) if i["error"]])
    assert waiting[0]["error"].startswith("Could not connect: ") and waiting[0]["code"] is None
    with receiving(port=port):
        assert shared.ended(job)["completed"] == 2


def test_the_injected_client_says_why_it_could_not_connect(serve: Callable[..., Server], tmp_path: Any):
    (tmp_path / "mine.py").write_text(FILES["mine.py"])
    server = serve("--api-url", f"http://127.0.0.1:{free_port()}", "--tasks", "mine")
    job = server.begin("post", items=["a"])
    assert server.ended(job)["failed"] == 1
    (item,) = server.items(job)
    assert item["attempt"] == 3 and item["error"].endswith("Connection refused")


# ---- what hangs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("wait", "failed", "Timed out after 2 s"),
        ("hang", "unknown", "Timed out after 2 s, and still runs; it may or may not have arrived."),
    ],
)
def test_an_item_that_hangs_is_given_up_and_the_others_go_on(
    serve: Callable[..., Server], tmp_path: Any, name: str, status: str, said: str
):
    (tmp_path / "mine.py").write_text(FILES["mine.py"])
    server = serve("--tasks", "mine", "--grace", "100")  # which nothing that is over gets
    job = server.begin(name, items=["hang-1", "hang-2", "hang-3", *(f"item-{n}" for n in range(20))])
    done = server.ended(job)
    assert (done[status], done["completed"]) == (3, 20)
    assert {i["error"] for i in server.items(job, status=status)} == {said}
    assert server.stop() == 0, "a thread that hangs does not hold the exit"
    assert "Traceback" not in server.log.read_text()


# ---- one try -------------------------------------------------------------------------------------------------------


async def work(item: str) -> None:
    """What it does is for the test to say."""


may_end = threading.Event()


def sleep(item: str) -> None:
    if item == "slow":
        may_end.wait(200)


MADE = task(name="retries_work", max_attempts=3, backoff=10)(work)
SLEEP = task(name="retries_sleep")(sleep)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    path = str(tmp_path / "rowcast.db")
    prepare(path)
    yield Jobs(path).submit(MADE, {}, "local", "background")[0]
    close_databases()


def run(job: Job, call: Callable[[Any], Any], tries: int = 1) -> tuple[Result, Hold | None]:
    """What becomes of an item at its n-th try if this is called."""
    return asyncio.run(attempt(job, MADE, call, Claimed(1, "a", None, tries, 0, 0), TimeLimit(MADE.timeout)))


class Hours(asyncio.SelectorEventLoop):
    """A loop whose clock goes on only while it has nothing to do, and at once: whatever else the machine does, in
    between nothing takes any time.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        super().__init__(Sleepless(self))
        monkeypatch.setattr("rowcast.worker.attempt.time.perf_counter", self.time)

    def time(self) -> float:
        return self.now


class Sleepless(selectors.DefaultSelector):
    def __init__(self, loop: Hours) -> None:
        super().__init__()
        self.loop = loop

    def select(self, timeout: float | None = None) -> Any:
        self.loop.now += timeout or 0.0
        return super().select(0)


def in_hours(monkeypatch: pytest.MonkeyPatch, what: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=lambda: Hours(monkeypatch)) as runner:
        return runner.run(what)


def test_each_try_has_the_whole_limit_whenever_it_began(job: Job, monkeypatch: pytest.MonkeyPatch):
    async def tries() -> list[Result]:
        limit = TimeLimit(0.2)

        async def one(wait: float, lasts: float) -> Result:
            await asyncio.sleep(wait)
            result, _ = await attempt(
                job, MADE, lambda _: asyncio.sleep(lasts), Claimed(1, "a", None, 9, 0, 0), limit
            )
            return result

        found = await asyncio.gather(one(0, 9), one(0.1, 9), one(0.15, 0.15), one(0.3, 9))
        assert not limit.began and not limit.late
        return found

    first, later, quick, last = in_hours(monkeypatch, tries())
    assert [r.status for r in (first, later, quick, last)] == ["failed", "failed", "completed", "failed"]
    assert all(r.ms and r.ms >= 199 for r in (first, later, last))


def test_a_try_is_broken_off_when_its_own_time_is_over(job: Job, monkeypatch: pytest.MonkeyPatch):
    ended: list[str] = []

    async def tries() -> None:
        limit = TimeLimit(1.0)

        async def one(name: str, wait: float) -> None:
            await asyncio.sleep(wait)
            await attempt(job, MADE, lambda _: asyncio.sleep(9), Claimed(1, name, None, 9, 0, 0), limit)
            ended.append(name)

        async def mark() -> None:
            await asyncio.sleep(1.3)
            ended.append("mark")

        await asyncio.gather(one("first", 0), one("second", 0.2), mark())

    in_hours(monkeypatch, tries())
    assert ended == ["first", "second", "mark"]


def test_a_stop_that_an_earlier_try_has_swallowed_is_not_taken_for_one_of_the_next(job: Job):
    async def tries() -> Result:
        this = asyncio.current_task()
        assert this
        this.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        assert this.cancelling() == 1
        limit = TimeLimit(0.05)
        result, _ = await attempt(
            job, MADE, lambda _: asyncio.sleep(9), Claimed(1, "a", None, 9, 0, 0), limit
        )
        return result

    result = asyncio.run(tries())
    assert result.status == "failed" and result.error and result.error.startswith("Timed out")


def test_a_task_that_will_not_be_broken_off_is_as_good_as_in_time_and_its_runner_goes_on(job: Job):
    async def stubborn(item: str) -> str:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            return "all the same"
        return ""

    async def tries() -> tuple[Result, int]:
        result, _ = await attempt(job, MADE, stubborn, Claimed(1, "a", None, 1, 0, 0), TimeLimit(0.05))
        await asyncio.sleep(0)
        this = asyncio.current_task()
        assert this
        return result, this.cancelling()

    result, cancelled = asyncio.run(tries())
    assert (result.status, result.result, cancelled) == ("completed", '"all the same"', 0)


def test_a_stop_counts_also_for_a_try_that_is_over_its_limit(job: Job):
    leaves = asyncio.Event()

    async def slow_to_go(item: str) -> None:
        try:
            await asyncio.sleep(900)
        finally:
            leaves.set()
            await asyncio.sleep(900)

    async def tries() -> None:
        limit = TimeLimit(0.05)
        this = asyncio.create_task(attempt(job, MADE, slow_to_go, Claimed(1, "a", None, 1, 0, 0), limit))
        await leaves.wait()  # two cancels before it has heard of one would be one
        assert set(limit.late) == {this}
        limit.stopped.add(this)  # as whoever stops it says
        this.cancel()
        with pytest.raises(asyncio.CancelledError):
            await this
        assert not limit.late

    asyncio.run(tries())


def test_a_bug_has_its_traceback_in_the_log_once_for_a_job_and_a_place(
    job: Job, caplog: pytest.LogCaptureFixture
):
    async def call(item: Any) -> None:
        if item == "a bug":
            raise ValueError(item)
        raise {"an answer": answered(500), "a pause": Retry(after=1), "late": TimeoutError()}[item]

    limit = TimeLimit(None)
    for key in ("a bug", "an answer", "a pause", "late", "a bug"):
        asyncio.run(attempt(job, MADE, call, Claimed(1, key, None, 1, 0, 0), limit))
    (record,) = caplog.records
    assert record.getMessage() == f"{job.task} #{job.id}, a bug:" and "ValueError: a bug" in caplog.text


def tried(job: Job, error: BaseException, tries: int = 1) -> str:
    """The status of an item after its n-th try has raised this."""

    async def call(_: Any) -> None:
        raise error

    return run(job, call, tries)[0].status


def answered(code: int, body: bytes = b"", **headers: str) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://api/")
    return httpx.HTTPStatusError(
        "no", request=request, response=httpx.Response(code, content=body, request=request)
    )


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504])
def test_codes_that_may_pass_are_worth_another_try_and_no_more_than_the_task_allows(job: Job, code: int):
    assert [tried(job, answered(code), tries) for tries in (1, 2, 3)] == ["queued", "queued", "failed"]


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 410, 413, 422, 501])
def test_codes_that_will_not_pass_are_not(job: Job, code: int):
    assert tried(job, answered(code)) == "failed"


LOST = [
    httpx.ConnectError("refused"), httpx.ReadError("reset"), httpx.RemoteProtocolError("gone"), httpx.ReadTimeout("slow"),
    httpx.PoolTimeout("full"), TimeoutError(), ConnectionResetError("reset"), Retry(),
]  # fmt: skip
BUGS = [
    ValueError("x"),
    KeyError("y"),
    httpx.UnsupportedProtocol("ftp"),
    ssl.SSLError("x"),
    RuntimeError(),
    SystemExit(3),
]


@pytest.mark.parametrize("error", LOST, ids=lambda e: type(e).__name__)
def test_a_connection_that_was_lost_is_worth_another_try(job: Job, error: BaseException):
    assert tried(job, error) == "queued"


@pytest.mark.parametrize("error", BUGS, ids=lambda e: type(e).__name__)
def test_a_bug_is_not(job: Job, error: BaseException):
    assert tried(job, error) == "failed"


def test_the_wait_grows_up_to_a_cap_and_is_anywhere_below_it():
    for tries, most in [(1, 20), (2, 40), (3, 60), (4, 60), (5000, 60)]:
        waits = [back_off(MADE, tries) for _ in range(400)]
        assert 0 <= min(waits) < most * 0.1 and most * 0.9 < max(waits) <= most


def test_another_try_waits(job: Job):
    async def call(_: Any) -> None:
        raise answered(503)

    waits = [run(job, call)[0].run_at - steady() for _ in range(20)]
    assert max(waits) > 3 and max(waits) <= 20


def test_no_try_begins_before_the_pause_that_the_api_asked_for(job: Job):
    async def call(_: Any) -> None:
        noted = current_call.get()
        assert noted
        noted.code = 429
        noted.retry_after = 100.0
        raise answered(429)

    result, hold = run(job, call)
    assert hold and hold.until - steady() > 90
    assert result.run_at >= hold.until


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Stream(httpx.AsyncByteStream):
    """A body that the task has not read."""


DEEP = b"[" * 100_000
ERRORS: list[tuple[BaseException, tuple[int | None, str]]] = [
    (Unprintable(), (None, "Unprintable")),
    (ValueError("half a pair: \ud800"), (None, "ValueError: half a pair: ?")),
    (ValueError("two\n  lines"), (None, "ValueError: two lines")),
    (answered(422, b'{"error": "no such account"}'), (422, "Unprocessable Entity: no such account")),
    (answered(500, b'{"detail": [1]}'), (500, 'Internal Server Error: {"detail": [1]}')),
    (answered(500, DEEP), (500, f"Internal Server Error: {'[' * 200}")),
    (
        httpx.HTTPStatusError(
            "no", request=httpx.Request("GET", "/"), response=httpx.Response(503, stream=Stream())
        ),
        (503, "Service Unavailable"),
    ),
]


@pytest.mark.parametrize(("error", "said"), ERRORS)
def test_whatever_is_raised_can_be_told_in_one_line(error: BaseException, said: tuple[int | None, str]):
    failure = failure_of(error)
    assert (failure.code, describe(failure, None)) == said


def test_a_result_that_is_no_text_for_a_database_is_kept_as_it_is(job: Job):
    async def call(_: Any) -> Any:
        return {"name": "\ud800"}

    result, _ = run(job, call)
    assert result.status == "completed"
    assert unpack(str(result.result)) == {"name": "\ud800"}
    assert shown_text(str(result.result)) == '{"name":"?"}'


def test_threads_that_hang_do_not_keep_the_next_item_from_running():
    call = caller(SLEEP, {})

    async def all_of_them() -> None:
        slow = [asyncio.create_task(call("slow")) for _ in range(60)]
        await call("quick")
        assert not any(one.done() for one in slow)
        may_end.set()
        await asyncio.gather(*slow)

    asyncio.run(all_of_them())
