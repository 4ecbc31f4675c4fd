"""A user's own tasks, end to end: the four shapes, and everything that a task can do to the process it runs in."""

import contextlib
import itertools
import json
import os
import re
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Api, Server, until

FILES = {
    "work.py": '''
import asyncio, ctypes, os, pathlib, signal, sys, threading, time
from dataclasses import dataclass
from typing import Literal

import httpx
from rowcast import Retry, idempotency_key, step, task, track

together = threading.Barrier(4, timeout=100)
tries = {}


@task(concurrency=4)
async def each(item: str, suffix: str = "!"):
    """Say it louder.

    The long story.
    """
    await asyncio.sleep(0)
    return item.upper() + suffix


@task(concurrency=4)
def meet(item: str):
    """Four threads wait for each other: none gets on alone."""
    together.wait()
    return threading.current_thread() is not threading.main_thread()


async def exits(code: int):
    sys.exit(code)


@task(concurrency=2)
async def gathers_an_exit(item: str):
    """The others are in flight or to come when a part of the first wants the process to end."""
    if item != "a":
        return await asyncio.sleep(0.05, os.getpid())
    await asyncio.gather(exits(3))


@task
def loop(steps: int = 3, fail_at: int = -1, word: str = ""):
    for n in track(range(steps), key=lambda n: f"step {n}"):
        while word and not pathlib.Path(word).exists():
            time.sleep(0.02)
        if n == fail_at:
            raise ValueError(f"not {n}")
    return steps


@task
async def async_loop(steps: int = 3):
    async for n in track(range(steps)):
        await asyncio.sleep(0)


def generate():
    yield from ("a", "b")


@task
def endless_loop():
    for letter in track(generate()):
        pass


async def welcome(name: str):
    return f"hello {name}"


@task
async def setup(name: str, broken: bool = False):
    """Set up an account."""
    number = step("create", len, name)
    said = await step("welcome", welcome, name)
    if broken:
        step("break", int, "x")
    step("settle", lambda: [number, said])


@task
def once(text: str = "done"):
    return {"text": text}


def numbers(upto: int):
    for n in range(upto):
        yield {"name": f"number {n}", "n": n}


@task(items=numbers)
def square(row: dict, add: int = 0):
    return row["n"] ** 2 + add


@task(items=numbers)
def key_of(row: dict):
    return idempotency_key()


@task(max_attempts=3, backoff=0)
def unsteady(item: str):
    tries[item] = tries.get(item, 0) + 1
    if tries[item] < 3:
        raise Retry("not yet", after=0)
    return tries[item]


@task(timeout=0.1)
async def too_slow(item: str):
    await asyncio.sleep(30)


@task
async def ask(item: str, api: httpx.AsyncClient):
    answer = await api.post(f"/update-user/{item}")
    return answer.json()


class OfAnApi(Exception):
    def __getattr__(self, name):
        return vars(self)["answer"][name]


@task(concurrency=1)
async def die(item: str):
    match item:
        case "exception": raise KeyError("gone")
        case "markup": raise ValueError("<b>bold</b>")
        case "wordless": raise OfAnApi("said no")
        case "exit": sys.exit(3)
        case "interrupt": raise KeyboardInterrupt
        case "generator": raise GeneratorExit
        case "cancelled": raise asyncio.CancelledError
        case "os._exit 0": os._exit(0)
        case "segfault": ctypes.string_at(0)
        case "not json": return {1, 2}
        case "bytes": return b"\\xff"
        case "nan": return float("nan")
        case "recursion": return (lambda f: f(f))(lambda f: f(f))
    return "fine"


@task(concurrency=8)
def die_in_thread(item: str):
    match item:
        case "exit": sys.exit("enough")
        case "os._exit": os._exit(7)
        case "abort": os.abort()
    return "fine"


def ends_all_at(word: str):
    while not pathlib.Path(word).exists():
        time.sleep(0.01)
    os._exit(7)


@task(timeout=2)
def outlive(item: str, word: str):
    ends_all_at(word)


@task
def outlive_a_cancel(item: str, word: str):
    ends_all_at(word)


@task
async def swallow_a_cancel(item: str, word: str):
    while not pathlib.Path(word).exists():
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            pass
    os._exit(7)


def wait_for(word: str):
    """At the first time until the process is ended by somebody else."""
    if not pathlib.Path(word).exists():
        pathlib.Path(word).touch()
        time.sleep(60)


@task
def innocent(item: str, word: str):
    wait_for(word)


def read_from(word: str):
    wait_for(word)
    yield "first"


@task(items=read_from)
def readable(item: str):
    pass


@task
def die_in_loop(how: str, url: str):
    for n in track(range(3)):
        if n == 1:  # what it did before has been recorded by now
            items = f"{url}/api/jobs/{idempotency_key().partition('-')[0]}/items"
            while [one["status"] for one in httpx.get(items).json()["items"][:2]] != ["completed", "running"]:
                time.sleep(0.02)
            {"segfault": lambda: ctypes.string_at(0), "exit": sys.exit}[how]()


@task
def choose(kind: Literal["small", "large"] = "small", many: int | None = None, deep: bool = False, share: float = 0.5,
           tags: list[str] = [], note: str = ""):
    """All the kinds of fields."""
    return [kind, many, deep, share, tags, note]


def fails():
    yield "first"
    raise OSError("no such list")


@task(items=fails)
def unreadable(item: str): ...
'''
}
FLAGS = ("--tasks", "work")


def run(server: Server, task: str, **args: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    job = server.ended(server.begin(task, **args), 200)
    return job, server.items(job["id"])


# ---- the four shapes -----------------------------------------------------------------------------------------------


def test_an_async_task_is_called_once_for_each_item(shared: Server):
    job, items = run(shared, "each", items=["a", "b", "c"], suffix="?")
    assert [(item["key"], item["result"], item["status"]) for item in items] == [
        ("a", "A?", "completed"), ("b", "B?", "completed"), ("c", "C?", "completed"),
    ]  # fmt: skip
    assert job["status"] == "completed" and job["completed"] == job["total"] == 3


def test_a_part_of_a_task_that_wants_the_process_to_end_ends_that_task_alone(shared: Server):
    _, items = run(shared, "gathers_an_exit", items=["a", "b", "c"])
    assert [(item["status"], item["error"]) for item in items] == [
        ("failed", "The task called exit(3)"), ("completed", None), ("completed", None),
    ]  # fmt: skip
    assert {item["attempt"] for item in items} == {1}, "nothing died, and nothing was tried again"


def test_a_plain_task_runs_in_threads_several_at_once(shared: Server):
    _, items = run(shared, "meet", items=[f"guest {n}" for n in range(8)])
    assert Counter((item["status"], item["result"]) for item in items) == {("completed", True): 8}


def test_a_loop_reports_its_steps(shared: Server):
    job, items = run(shared, "loop", steps=3)
    assert [(item["position"], item["key"], item["status"]) for item in items] == [
        (0, "step 0", "completed"), (1, "step 1", "completed"), (2, "step 2", "completed"),
    ]  # fmt: skip
    assert job["total"] == job["completed"] == 3


def test_the_steps_of_a_loop_are_there_before_they_begin(shared: Server, tmp_path: Path):
    word = tmp_path / "word"
    job = shared.begin("loop", steps=4, word=str(word))
    statuses = until(
        lambda: (found := [item["status"] for item in shared.items(job)])[1:2] == ["queued"] and found
    )
    assert statuses == ["running", "queued", "queued", "queued"]
    word.touch()
    assert shared.ended(job)["completed"] == 4


def test_a_loop_that_fails_completes_what_it_did_and_cancels_what_it_never_reached(shared: Server):
    job, items = run(shared, "loop", steps=4, fail_at=2)
    assert [(item["status"], item["error"]) for item in items] == [
        ("completed", None), ("completed", None), ("failed", "ValueError: not 2"), ("cancelled", "not reached"),
    ]  # fmt: skip
    assert (job["status"], job["completed"], job["failed"], job["cancelled"]) == ("failed", 2, 1, 1)


def test_a_coroutine_loops_with_async_for(shared: Server):
    _, items = run(shared, "async_loop", steps=3)
    assert [(item["key"], item["status"]) for item in items] == [(str(n), "completed") for n in range(3)]


def test_a_loop_over_what_has_no_length_reports_each_step_as_it_begins(shared: Server):
    _, items = run(shared, "endless_loop")
    assert [(item["key"], item["status"]) for item in items] == [("a", "completed"), ("b", "completed")]


def test_steps_by_name_are_items_with_their_results(shared: Server):
    _, items = run(shared, "setup", name="ada")
    assert [(item["key"], item["result"]) for item in items] == [
        ("create", 3), ("welcome", "hello ada"), ("settle", [3, "hello ada"]),
    ]  # fmt: skip


def test_a_step_that_fails_is_the_one_that_says_so(shared: Server):
    _, items = run(shared, "setup", name="ada", broken=True)
    assert [(item["key"], item["status"]) for item in items][2:] == [("break", "failed")]
    assert items[2]["error"].startswith("ValueError: invalid literal for int()")


def test_a_task_without_items_or_steps_is_one_item_its_own(shared: Server):
    job, items = run(shared, "once", text="hi")
    assert [(item["key"], item["status"], item["result"]) for item in items] == [
        ("once", "completed", {"text": "hi"})
    ]
    assert job["total"] == 1


# ---- items, arguments, clients -------------------------------------------------------------------------------------


def test_items_come_from_a_function_whose_parameters_are_arguments_of_the_job(shared: Server):
    _, items = run(shared, "square", upto=3, add=10)
    assert [(item["key"], item["result"]) for item in items] == [
        ("number 0", 10),
        ("number 1", 11),
        ("number 2", 14),
    ]


def test_a_task_can_know_the_idempotency_key_of_its_item(shared: Server):
    job, items = run(shared, "key_of", upto=2)
    assert [item["result"] for item in items] == [f"{job['id']}-{item['id']}" for item in items]


def test_a_task_that_asks_for_another_try_gets_it(shared: Server):
    _, items = run(shared, "unsteady", items=["x"])
    assert (items[0]["status"], items[0]["attempt"], items[0]["result"]) == ("completed", 3, 3)


def test_a_try_that_takes_too_long_is_ended(shared: Server):
    _, items = run(shared, "too_slow", items=["x"])
    assert (items[0]["status"], items[0]["error"]) == ("failed", "Timed out after 0.1 s")


def test_a_task_gets_the_client_it_annotates(shared: Server, api: Api):
    _, items = run(shared, "ask", items=["ada@example.com"])
    assert items[0]["result"] == {"email": "ada@example.com"} and items[0]["code"] == 200


def test_items_that_cannot_be_read_fail_the_job_with_the_reason(shared: Server):
    job, _ = run(shared, "unreadable")
    assert job["status"] == "failed"
    assert job["reason"] == "The items could not be read: OSError: no such list"


# ---- the form ------------------------------------------------------------------------------------------------------


def form_of(server: Server, task: str) -> str:
    return re.search(rf'<form[^>]*aria-label="Start {task}".*?</form>', server.client.get("/").text, re.S)[0]


def test_the_docstring_is_the_forms_help(shared: Server):
    form = form_of(shared, "each")
    assert "Say it louder." in form and "The long story." in form


def test_a_field_for_each_argument_with_its_type_and_default(shared: Server):
    form = form_of(shared, "choose")
    fields = re.findall(r"<(?:input|select|textarea)[^>]*>", form)
    by_name = {re.search(r'name="([^"]+)"', field)[1]: field for field in fields if 'name="' in field}
    assert 'type="number"' in by_name["many"] and 'step="1"' in by_name["many"]
    assert 'type="number"' in by_name["share"] and 'value="0.5"' in by_name["share"]
    assert 'type="checkbox"' in by_name["deep"] and "checked" not in by_name["deep"]
    assert by_name["kind"].startswith("<select") and re.search(r'<option value="small" selected', form)
    assert by_name["tags"].startswith("<textarea") and 'type="text"' in by_name["note"]
    assert "required" in re.search(r'<input[^>]*name="name"[^>]*>', form_of(shared, "setup"))[0]


def test_what_the_form_sends_arrives_with_its_types(shared: Server):
    fields = {
        "kind": "large",
        "many": "7",
        "deep": ["false", "true"],
        "share": "0.25",
        "tags": "a\r\nb",
        "note": "  spaces  ",
    }
    answer = shared.client.post("/jobs", data={"task": "choose", **fields})
    job = shared.ended(int(answer.headers["Location"].rsplit("/", 1)[1]))
    assert shared.items(job["id"])[0]["result"] == ["large", 7, True, 0.25, ["a", "b"], "  spaces  "]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "huge"}, "argument `kind`"),
        ({"many": "lots"}, "argument `many`"),
        ({"deep": "perhaps"}, "argument `deep`"),
        ({"tags": "[1, 2"}, "argument tags is not JSON"),
        ({"tags": "[" * 100_000}, "argument tags is not JSON"),
        ({"tags": "[1, 2]"}, "argument `tags[0]`"),
    ],
)
def test_what_does_not_fit_the_signature_is_refused_by_name(
    shared: Server, fields: dict[str, str], says: str
):
    answer = shared.client.post("/jobs", data={"task": "choose", **fields}, headers={"HX-Request": "true"})
    assert answer.status_code == 422 and says in answer.text


# ---- what a task can do to its process -----------------------------------------------------------------------------

ERRORS = {
    "wordless": "OfAnApi: said no",
    "exception": "KeyError: 'gone'",
    "markup": "ValueError: <b>bold</b>",
    "exit": "The task called exit(3)",
    "interrupt": "KeyboardInterrupt",
    "generator": "GeneratorExit",
    "cancelled": "CancelledError",
    "recursion": "RecursionError: maximum recursion depth exceeded",
    "segfault": "The process running this died: SIGSEGV",
}


@pytest.mark.kills
def test_whatever_an_item_does_is_its_own_error_and_the_others_are_done(shared: Server):
    """One job of all of it: exceptions, exits, and what kills the process, in the middle of items that are fine."""
    job, items = run(shared, "die", items=[key for name in ERRORS for key in (name, f"fine after {name}")])
    assert {item["key"]: item["error"] for item in items if item["status"] == "failed"} == ERRORS
    assert all(item["result"] == "fine" for item in items if item["key"].startswith("fine"))
    assert job["status"] == "completed"
    assert shared.client.get("/healthz").json()["engine"] == "running"


@pytest.mark.kills
def test_an_item_that_ends_its_process_as_if_all_were_well_is_found_out_too(shared: Server):
    _, items = run(shared, "die", items=["os._exit 0", "fine"])
    assert [item["error"] for item in items] == ["The process running this ended itself with code 0", None]


@pytest.mark.kills
def test_of_several_threads_in_flight_when_the_process_dies_each_is_tried_apart(shared: Server):
    _, items = run(
        shared, "die_in_thread", items=["exit", "os._exit", "abort", *[f"fine {n}" for n in range(5)]]
    )
    assert [item["error"] for item in items] == [
        "The task called exit(enough)", "The process running this ended itself with code 7",
        "The process running this died: SIGABRT", *[None] * 5,
    ]  # fmt: skip


@pytest.mark.kills
@pytest.mark.parametrize(("name", "items"), [("innocent", {"items": ["alone"]}), ("readable", {})])
def test_what_its_time_is_over_of_ends_its_process_at_nobody_elses_cost(
    shared: Server, tmp_path: Path, name: str, items: dict[str, Any]
):
    """The thread that nobody can stop is what ends it, and who is alone beside it is not what the tables blame."""
    word = str(tmp_path / "word")
    job, (item,) = run(shared, "outlive", items=["hangs"], word=word)
    assert (item["status"], "still runs" in item["error"]) == ("unknown", True)
    job, _ = run(shared, name, word=word, **items)
    assert (job["status"], job["completed"], Path(word).exists()) == ("completed", 1, True)


@pytest.mark.kills
@pytest.mark.parametrize("name", ["outlive_a_cancel", "swallow_a_cancel"])
def test_so_does_what_was_cancelled_however_long_ago(shared: Server, tmp_path: Path, name: str):
    word = str(tmp_path / "word")
    hangs = shared.begin(name, items=["hangs"], word=word)
    until(lambda: shared.job(hangs)["running"])
    shared.act(hangs, "cancel")
    with contextlib.closing(sqlite3.connect(shared.directory / "data" / "rowcast.db")) as db:
        until(lambda: db.execute("select sum(leftovers) from workers").fetchone()[0])
        with db:
            db.execute("update jobs set finished_at = finished_at - 600 where status = 'cancelled'")
    job, _ = run(shared, "innocent", items=["alone"], word=word)
    assert (job["status"], job["completed"], Path(word).exists()) == ("completed", 1, True)


@pytest.mark.parametrize(("how", "says"), [("exit", "exit()"), ("segfault", "SIGSEGV")])
def test_a_loop_that_dies_fails_the_step_it_was_in(shared: Server, how: str, says: str):
    _, items = run(shared, "die_in_loop", how=how, url=shared.url)
    assert [item["status"] for item in items] == ["completed", "failed", "cancelled"]
    assert says in items[1]["error"]


def test_results_that_json_does_not_know_are_given_as_text(shared: Server):
    _, items = run(shared, "die", items=["not json", "nan"])
    assert [item["status"] for item in items] == ["completed", "completed"]
    json.dumps([item["result"] for item in items], allow_nan=False)


def test_the_server_is_the_same_process_after_all_of_this(shared: Server):
    run(shared, "loop", steps=2, fail_at=1)
    assert shared.process.poll() is None
    lines = shared.log.read_text().splitlines()
    heads = [before for before, line in itertools.pairwise(lines) if line.startswith("Traceback")]
    assert heads and all(re.fullmatch(r"\w+ #\d+, .+:", head) for head in heads), heads  # of tasks alone


# ---- the built-in counter ------------------------------------------------------------------------------------------


def test_the_counter_prints_to_the_terminal_and_moves_its_rows(shared: Server):
    before = shared.log.read_text().splitlines()
    _, items = run(shared, "counter", loops=2)
    assert [item["key"] for item in items] == ["0", "1"]

    def printed() -> list[str]:
        return [line for line in shared.log.read_text().splitlines()[len(before) :] if line.isdecimal()]

    until(lambda: printed() == ["0", "1"])


def test_a_module_that_stands_where_the_server_starts_is_found(shared: Server):
    assert (shared.directory / "work.py").is_file() and not os.environ.get("PYTHONPATH", "").startswith(
        str(shared.directory)
    )
    assert "Start each" in shared.client.get("/").text
