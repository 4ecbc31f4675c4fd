"""What a call returned is looked at to its ground: what is in a list, an answer that says no, and what nobody awaited."""

import asyncio
import concurrent.futures
import datetime
import http.client
import io
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import sqlalchemy
import urllib3
from conftest import PATIENCE, Server
from place import Place

from rowcast import step, track
from rowcast.tables.database import close_databases
from rowcast.tasks.records import decode
from rowcast.tasks.returned import demand_all_done, not_done, says_no
from rowcast.tasks.work import RESULT_LENGTH
from rowcast.worker.attempt import encode_result

did: list[Any] = []
may_end = threading.Event()
pool = concurrent.futures.ThreadPoolExecutor(1)
memory = sqlite3.connect(":memory:", check_same_thread=False)


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    did.clear()
    may_end.clear()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    yield Place(str(tmp_path / "rowcast.db"))
    close_databases()


async def send(item: str) -> str:
    await asyncio.sleep(0)
    did.append(item)
    return item


async def refuses(item: str) -> None:
    raise ValueError(f"no {item}")


# ---- what is in it -----------------------------------------------------------------------------------------


async def coroutines(item: str) -> Any:
    did.extend([send(item), send(item)])
    return did


async def coroutines_by_name(item: str) -> Any:
    did.append(send(item))
    return {"mails": (1, {"first": did[0]})}


async def tasks_that_run(item: str) -> Any:
    return [asyncio.create_task(asyncio.sleep(30))]


def futures(item: str) -> Any:
    return [pool.submit(may_end.wait, 200)]


def generators(item: str) -> Any:
    return [(did.append(one) for one in item)]


def requests_not_sent(item: str) -> Any:
    return [httpx.Request("POST", "http://127.0.0.1/")]


def a_stream_not_entered(item: str) -> Any:
    return httpx.stream("POST", "http://127.0.0.1:1/")


@asynccontextmanager
async def sending() -> AsyncIterator[None]:
    did.append("sent")
    yield


def a_context_not_entered(item: str) -> Any:
    return sending()


def a_statement_not_executed(item: str) -> Any:
    return sqlalchemy.insert(sqlalchemy.table("t", sqlalchemy.column("a"))).values(a=1)


@pytest.mark.filterwarnings("ignore:coroutine")
@pytest.mark.parametrize(
    ("function", "why"),
    [
        (coroutines, "a coroutine in it was not waited for"),
        (coroutines_by_name, "a coroutine in it was not waited for"),
        (tasks_that_run, "a Task in it was not waited for"),
        (futures, "a Future in it was not waited for"),
        (generators, "a generator does nothing until it is looped over"),
        (requests_not_sent, "a Request was made, and not sent or run"),
        (a_stream_not_entered, "a _GeneratorContextManager was made, and not sent or run"),
        (a_context_not_entered, "a _AsyncGeneratorContextManager was made, and not sent or run"),
        (a_statement_not_executed, "a Insert was made, and not sent or run"),
    ],
)
def test_work_that_was_only_made_is_a_failure_wherever_it_is(place: Place, function: Any, why: str):
    job = place.begin(function, ["a"])
    place.run(job)
    (item,) = place.jobs.items(job.id)
    assert (item.status, item.error) == ("failed", f"TypeError: What was returned is not done: {why}.")
    may_end.set()
    for coroutine in did:
        coroutine.close()


def test_a_process_of_asyncios_that_runs_is_not_done():
    async def found() -> list[str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE
        )
        runs = not_done(process)
        await process.communicate(b"\n")
        return [runs, not_done(process)]

    assert asyncio.run(found()) == ["a process was not waited for", ""]


def an_error(item: str) -> Any:
    return ValueError(f"no {item}")


async def gathered(item: str) -> Any:
    return await asyncio.gather(send(item), refuses(item), return_exceptions=True)


def ended_badly(item: str) -> Any:
    future = pool.submit(int, "x")
    concurrent.futures.wait([future])
    return {"number": future}


async def body_gathered() -> Any:
    return await asyncio.gather(refuses("body"), return_exceptions=True)


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (an_error, "ValueError: no a"),
        (gathered, "ValueError: no a"),
        (ended_badly, "ValueError: invalid literal for int() with base 10: 'x'"),
        (body_gathered, "ValueError: no body"),
    ],
)
def test_an_error_that_is_returned_is_a_failure(place: Place, function: Any, why: str):
    job = place.begin(function, [] if function is body_gathered else ["a"])
    place.run(job)
    (item,) = place.jobs.items(job.id)
    assert (item.status, item.error) == ("failed", why)
    assert place.job(job).status == "failed"


def reads(item: str) -> Any:
    return memory.execute("select 1")


def opens(item: str) -> Any:
    did.append(io.StringIO(item))
    return did[0]


async def gathers_well(item: str) -> Any:
    return await asyncio.gather(send(item), send(item))


@pytest.mark.parametrize("function", [reads, opens, gathers_well])
def test_a_cursor_that_has_executed_and_a_file_that_is_open_are_no_work_that_is_left(
    place: Place, function: Any
):
    job = place.begin(function, ["a"])
    place.run(job)
    assert place.found(job) == [("a", "completed")]


# ---- an answer that says no --------------------------------------------------------------------------------

ANSWERS = """
import httpx, requests
from rowcast import task

@task(max_attempts=2, backoff=0, concurrency=1)
async def by_ours(item: str, api: httpx.AsyncClient):
    return await api.post(item)

@task
def by_requests(item: str):
    return requests.post(item)

@task
async def by_several(item: str, api: httpx.AsyncClient):
    return [await api.get("/none"), item]
"""


def test_an_answer_that_says_no_is_the_failure_that_it_is(serve: Any, tmp_path: Path):
    (tmp_path / "mine.py").write_text(ANSWERS)
    server: Server = serve("--tasks", "mine")
    base = server.url
    ours = server.ended(server.begin("by_ours", items=["/none/x", "/update-user/a@b.c"]))
    refused, taken = server.items(ours["id"])
    assert (refused["status"], refused["code"]) == ("failed", 404) and refused["error"].startswith(
        "Not Found"
    )
    assert (taken["status"], taken["code"]) == ("completed", 200)
    for task in ("by_requests", "by_several"):
        job = server.ended(server.begin(task, items=[f"{base}/none"]))
        (item,) = server.items(job["id"])
        assert (item["status"], item["code"]) == ("failed", 404)


def test_an_answer_that_was_not_asked_for_its_code_is_one_all_the_same():
    answer = requests.Response()
    answer.status_code = 503
    with pytest.raises(requests.HTTPError):
        demand_all_done([answer])
    answer.status_code = 200
    assert not says_no(answer)


def by_http_client(code: str) -> http.client.HTTPResponse:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(f"HTTP/1.1 {code}\r\nContent-Length: 0\r\n\r\n".encode())
        answer = http.client.HTTPResponse(ours, method="POST")
        answer.begin()
        answer.close()
    return answer


def test_an_answer_of_a_client_that_has_no_word_for_a_no_is_one_all_the_same():
    for answer in (urllib3.HTTPResponse(b"", status=503), by_http_client("503 Not Now")):
        with pytest.raises(urllib.error.HTTPError) as told:
            demand_all_done([answer])
        told.value.close()
        assert told.value.code == 503
    demand_all_done([urllib3.HTTPResponse(b"", status=204), by_http_client("200 OK")])


async def a_program(item: str) -> Any:
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", f"exit {item}")
    await process.wait()
    return process


def a_program_that_was_run(item: str) -> Any:
    return {"ran": subprocess.run(["/bin/sh", "-c", f"exit {item}"])}


def a_program_that_was_waited_for(item: str) -> Any:
    process = subprocess.Popen(["/bin/sh", "-c", f"exit {item}"])
    process.wait()
    return process


@pytest.mark.parametrize("function", [a_program, a_program_that_was_run, a_program_that_was_waited_for])
def test_a_process_that_is_returned_and_has_failed_is_a_failure(place: Place, function: Any):
    job = place.begin(function, ["0", "3"])
    place.run(job)
    found = [(item.status, item.error) for item in place.jobs.items(job.id)]
    assert found == [("completed", None), ("failed", "ChildProcessError: a process ended with code 3")]


def stops(item: str) -> Any:
    return pool.submit(next, iter(()))


def test_a_future_that_ends_by_a_stop_iteration_ends(place: Place):
    job = place.begin(stops, ["a"], timeout=PATIENCE)
    place.run(job)
    (item,) = place.jobs.items(job.id)
    assert (item.status, item.error) == ("failed", "RuntimeError: coroutine raised StopIteration")


# ---- what nobody awaited -----------------------------------------------------------------------------------


def drop(_: Any) -> None: ...


async def forgets(item: str) -> None:
    drop(send(item))


async def forgets_one_of_two(item: str) -> str:
    kept = send(item)
    await send("other")
    return "done" if kept else ""


async def forgets_and_hears_no_warnings(item: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drop(send(item))


async def forgets_and_has_warnings_raised(item: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drop(send(item))


def forgets_in_a_thread(item: str) -> None:
    drop(send(item))


async def forgets_in_to_thread(item: str) -> None:
    await asyncio.to_thread(send, item)


def forgets_in_a_pool(item: str) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as own:
        assert list(own.map(send, [item]))


def body_forgets() -> None:
    for item in track(["a"]):
        drop(send(item))
    step("b", forgets_in_a_thread, "b")


FORGET = [
    forgets,
    forgets_one_of_two,
    forgets_and_hears_no_warnings,
    forgets_and_has_warnings_raised,
    forgets_in_a_thread,
    forgets_in_to_thread,
    forgets_in_a_pool,
    body_forgets,
]


@pytest.mark.parametrize("function", FORGET)
@pytest.mark.parametrize("told", ["default", "ignore"])
def test_a_coroutine_that_nobody_awaits_is_a_failure_that_says_where(place: Place, function: Any, told: Any):
    with warnings.catch_warnings():
        warnings.simplefilter(told)
        job = place.begin(function, [] if function is body_forgets else ["a", "b"])
        place.run(job)
    assert [item for item in did if item != "other"] == []
    found = place.jobs.items(job.id)
    assert place.job(job).status == "failed" and place.job(job).failed
    errors = {str(item.error) for item in found if item.status == "failed"}
    assert len(errors) == 1
    said = errors.pop()
    assert said.startswith("TypeError: coroutine 'send' was never awaited")
    assert "(test_what_is_returned.py, line " in said or function is forgets_one_of_two


def test_outside_of_a_call_python_warns_of_it_as_ever(place: Place):
    place.run(place.begin(send, ["a"]))
    with pytest.warns(RuntimeWarning, match="coroutine 'send' was never awaited") as warned:
        drop(send("b"))
    assert warned[0].filename == __file__


@pytest.mark.parametrize(
    ("value", "begins", "letters"),
    [
        ("ä" * 100_000, "ää", 100_000),
        (b"\xff" + b"a" * 100_000, "\ufffda", 100_001),
        ([datetime.date(2026, 1, 2)] * 10_000, '["2026-01-02","2026-01-02"', 130_001),
        ("\ud800" * 100_000, "??", 100_000),
    ],
    ids=["text", "bytes", "values", "halves"],
)
def test_what_is_too_long_is_cut_as_people_read_it(value: Any, begins: str, letters: int):
    told = decode(encode_result(value))
    assert told.startswith(begins) and told.endswith(f"… (cut: it has {letters:,} letters)")
    assert len(told) < RESULT_LENGTH + 100
