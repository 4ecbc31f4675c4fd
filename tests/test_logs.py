"""What a task logs or prints is kept for the item and the try that said it, and still goes to the terminal."""

import asyncio
import contextlib
import io
import json
import logging
import os
import sys
import threading
from pathlib import Path
from typing import Any

import apsw
import pytest
from conftest import Server, until

from rowcast.tables.logs import keep_lines
from rowcast.tasks.accounts import LOCAL
from rowcast.tasks.registry import load
from rowcast.tasks.steps import Call, current_call
from rowcast.tasks.work import SUSPECT, Claimed, LogPart, Result
from rowcast.worker.capture import FIRST_LINES, LAST_LINES, RunLog, TryLog, capture, end_log
from rowcast.worker.isolated import run_alone
from tests.test_tries import Book

FLAGS = ("--tasks", "mine")
FILES = {
    "mine.py": """
import asyncio, logging, pathlib, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from rowcast import Retry, step, task, track

log = logging.getLogger("mine")
pool = ThreadPoolExecutor(2)

@task(concurrency=50)
async def chatters(item: str):
    "Says its own name from wherever it is."
    log.info("info %s", item)
    print("printed", item)
    print("error", item, file=sys.stderr)
    await asyncio.sleep(0.001)
    await asyncio.to_thread(print, "thread", item)
    await asyncio.get_running_loop().run_in_executor(pool, log.warning, "pool %s", item)
    await asyncio.create_task(deeper(item))
    started = threading.Thread(target=log.error, args=("started %s", item))
    started.start()
    while started.is_alive():
        await asyncio.sleep(0.001)

async def deeper(item):
    await asyncio.sleep(0.001)
    print("deeper", item)

@task(concurrency=50)
def chatters_in_threads(item: str):
    "The same as a plain function."
    log.info("info %s", item)
    time.sleep(0.002)
    print("printed", item)
    list(pool.map(print, ["pool"], [item]))

@task(max_attempts=2)
def tries_twice(item: str):
    print("try of", item)
    mark = pathlib.Path(f"{item}.said")
    if not mark.exists():
        mark.touch()
        raise Retry("again", after=0.01)

@task
def has_a_bug(item: str):
    print("before")
    return inner({})

def inner(values):
    return values["nothing"]

@task(concurrency=2)
def says_much(item: str):
    "One says much, and goes on until there is a file `others`."
    for n in range(3 if item != "much" else 200_000):
        print("line", n)
    while item == "much" and not pathlib.Path("others").exists():
        for _ in range(1000):
            print("more")
    for n in range(100 if item == "much" else 0):
        print("last", n)

@task
async def waits_for(item: str):
    print("begun", item)
    while not pathlib.Path(item).exists():
        await asyncio.sleep(0.02)
    print("over", item)

@task
def in_steps(names: list[str]):
    print("outside")
    for name in track(names):
        print("in", name)
    step("last", log.warning, "of the last")

@task
def breaks_in_a_step(how: str):
    caught = None
    for name in track(["a", "b", "c"]) if how == "loop" else ["a", "b", "c"]:
        if how == "loop" and name == "b":
            raise KeyError(name)
        try:
            how == "step" and step(name, inner, {} if name == "b" else {"values": 1, "nothing": 1})
        except KeyError as error:
            caught = error
    raise caught or ValueError("between")

def plain(word: str):
    print("plain", word)
    log.warning("warned %s", word)
"""
}


def said(server: Server, job: int) -> dict[str, list[tuple[int, str, str]]]:
    """What each item's tries have said: (attempt, level, text), by key."""
    found = {}
    for item in server.items(job):
        log = server.client.get(f"/api/jobs/{job}/items/{item['id']}").json()["log"]
        found[item["key"]] = [(line["attempt"], line["level"], line["text"]) for line in log]
    return found


def test_fifty_items_at_once_never_mix_what_they_say(server: Server):
    keys = [f"item-{n}" for n in range(200)]
    job = server.ended(server.begin("chatters", items=keys))["id"]
    found = said(server, job)
    for key in keys:
        assert sorted(found[key]) == sorted([
            (1, "INFO", f"info {key}"),
            (1, "stdout", f"printed {key}"),
            (1, "stderr", f"error {key}"),
            (1, "stdout", f"thread {key}"),
            (1, "WARNING", f"pool {key}"),
            (1, "stdout", f"deeper {key}"),
            (1, "ERROR", f"started {key}"),
        ])  # fmt: skip


def test_fifty_threads_at_once_never_mix_what_they_say(server: Server):
    keys = [f"item-{n}" for n in range(100)]
    job = server.ended(server.begin("chatters_in_threads", items=keys))["id"]
    for key, lines in said(server, job).items():
        assert [text for *_, text in lines] == [f"info {key}", f"printed {key}", f"pool {key}"]


def test_the_terminal_gets_what_it_got(server: Server):
    server.ended(server.begin("chatters", items=["for-the-terminal"]))
    lines = (server.directory / "server.log").read_text().splitlines()
    about = [line for line in lines if line.endswith("for-the-terminal")]
    # without a handler of one's own, logging tells from WARNING on
    assert sorted(about) == sorted(
        f"{what} for-the-terminal" for what in ("printed", "error", "thread", "pool", "deeper", "started")
    )


def test_each_try_has_its_own_lines(server: Server):
    job = server.ended(server.begin("tries_twice", items=["one"]))["id"]
    assert said(server, job) == {"one": [(1, "stdout", "try of one"), (2, "stdout", "try of one")]}


def test_the_traceback_of_a_bug_is_in_the_log_of_every_item_that_has_met_it(server: Server):
    job = server.ended(server.begin("has_a_bug", items=["one", "two"]))["id"]
    for before, (_, level, text) in said(server, job).values():
        assert before == (1, "stdout", "before")
        assert level == "ERROR" and text.endswith("KeyError: 'nothing'")
        assert "in inner" in text and "anyio" not in text and "attempt.py" not in text


def test_of_very_many_lines_the_first_and_the_last_are_kept_and_no_other_item_waits(server: Server):
    job = server.begin("says_much", items=["much", *(f"other-{n}" for n in range(20))])
    until(lambda: server.job(job)["completed"] == 20)
    (server.directory / "others").touch()
    server.ended(job)
    found = said(server, job)
    assert all(len(found[f"other-{n}"]) == 3 for n in range(20))
    texts = [text for *_, text in found["much"]]
    assert texts[:FIRST_LINES] == [f"line {n}" for n in range(FIRST_LINES)]
    assert texts[-LAST_LINES:] == [f"last {n}" for n in range(100 - LAST_LINES, 100)]
    cut = int(texts[FIRST_LINES].partition(" lines were cut here")[0].replace(",", ""))
    assert cut % 1000 == 1100 - FIRST_LINES - LAST_LINES and cut >= 199_900 and len(texts) == 201


def test_what_is_said_is_there_while_the_item_still_runs(server: Server):
    job = server.begin("waits_for", items=["go"])
    until(lambda: said(server, job).get("go") == [(1, "stdout", "begun go")])
    assert server.job(job)["running"] == 1
    (server.directory / "go").touch()
    server.ended(job)
    assert [text for *_, text in said(server, job)["go"]] == ["begun go", "over go"]


def test_a_step_has_what_was_said_in_it_and_the_first_what_was_said_outside(server: Server):
    job = server.ended(server.begin("in_steps", names=["a", "b"]))["id"]
    assert said(server, job) == {
        "a": [(1, "stdout", "outside"), (1, "stdout", "in a")],
        "b": [(1, "stdout", "in b")],
        "last": [(1, "WARNING", "of the last")],
    }


@pytest.mark.parametrize(
    ("how", "keys"), [("loop", "abc"), ("step", "abc"), ("outside", ["breaks_in_a_step"])]
)
def test_the_traceback_of_a_function_that_is_called_once_is_with_the_step_that_shows_its_error(
    server: Server, how: str, keys: Any
):
    job = server.ended(server.begin("breaks_in_a_step", how=how))["id"]
    found = said(server, job)
    failed = [item["key"] for item in server.items(job) if item["status"] == "failed"]
    assert list(found) == list(keys) and len(failed) == 1
    assert [key for key, lines in found.items() if any(level == "ERROR" for _, level, _ in lines)] == failed


def test_what_an_item_says_that_kills_its_process_is_kept_up_to_its_end(tmp_path: Path, monkeypatch):
    (tmp_path / "deadly.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    book = Book(tmp_path, load("deadly:deadly"))
    job = book.jobs.job(book.job, LOCAL)
    run_log = RunLog()
    call = Call(job.id, 1, attempt=1, run_log=run_log)
    token = current_call.set(call)

    async def alone() -> Result:
        running = asyncio.create_task(run_alone(job, Claimed(1, "one", None, 1, 0, SUSPECT), ""))
        await asyncio.to_thread(until, lambda: len(run_log.lines) == 2)
        (tmp_path / "told").touch()
        return await running

    try:
        result = asyncio.run(alone())
    finally:
        current_call.reset(token)
        end_log(call)
    assert result.error == "The process running this died: SIGSEGV"
    assert lines(run_log) == [("stdout", "about to die"), ("WARNING", "now")]


DEADLY = """
import logging, pathlib, signal, time
from rowcast import task

@task
def deadly(item: str):
    print("about to die")
    logging.getLogger("deadly").warning("now")
    while not pathlib.Path(__file__).with_name("told").exists():
        time.sleep(0.02)
    signal.raise_signal(signal.SIGSEGV)
"""


# ---- the capture itself ------------------------------------------------------------------------------------


@pytest.fixture
def run_log() -> RunLog:
    capture()
    return RunLog()


def lines(log: RunLog) -> list[tuple[str, str]]:
    return [(level, text) for *_, level, text in log.lines]


def in_a_try(run_log: RunLog, work: Any) -> Call:
    call = Call(1, 2, attempt=3, run_log=run_log)
    token = current_call.set(call)
    try:
        work()
    finally:
        current_call.reset(token)
        end_log(call)
    return call


def test_a_logger_whose_level_somebody_has_set_keeps_to_it(run_log: RunLog):
    quiet = logging.getLogger("tests.quiet")
    own = logging.getLogger("tests.debugs")
    quiet.setLevel(logging.WARNING)
    own.setLevel(logging.DEBUG)

    def work() -> None:
        quiet.info("not this")
        quiet.warning("this")
        own.debug("and this")
        logging.getLogger("tests.nobody").debug("nor this")
        logging.getLogger("httpx").info("nor a client's own")

    in_a_try(run_log, work)
    assert lines(run_log) == [("WARNING", "this"), ("DEBUG", "and this")]


def test_a_handler_gets_no_more_than_before(run_log: RunLog):
    got: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            got.append(record.getMessage())

    logger = logging.getLogger("tests.handled")
    handler = Kept()
    logger.addHandler(handler)
    try:
        in_a_try(run_log, lambda: (logger.info("kept alone"), logger.warning("both")))
    finally:
        logger.removeHandler(handler)
    assert got == ["both"]
    assert [text for _, text in lines(run_log)] == ["kept alone", "both"]


def test_a_handler_that_prints_says_nothing_twice(run_log: RunLog):
    logger = logging.getLogger("tests.prints")
    out = io.StringIO()

    def work() -> None:
        capture()  # as at the beginning of each run
        handler = logging.StreamHandler(sys.stdout)
        logger.addHandler(handler)
        logger.warning("once")
        logger.removeHandler(handler)

    with contextlib.redirect_stdout(out):
        in_a_try(run_log, work)
    assert lines(run_log) == [("WARNING", "once")]
    assert out.getvalue() == "once\n"


def test_who_closes_stdout_closes_it_for_nobody(run_log: RunLog):
    out = io.StringIO()

    def work() -> None:
        capture()
        sys.stdout.close()
        print("on")

    with contextlib.redirect_stdout(out):
        in_a_try(run_log, work)
    assert lines(run_log) == [("stdout", "on")] and out.getvalue() == "on\n"


def test_a_line_is_kept_once_it_has_its_end_and_of_a_bar_the_last_state(run_log: RunLog):
    log = TryLog(run_log, 1, 1)
    log.write("stdout", "half ")
    assert lines(run_log) == []
    log.write("stdout", "a line\nand a bar:\r 10 %\r 100 %\n")
    log.write("stdout", "the rest")
    log.close()
    assert [text for _, text in lines(run_log)] == ["half a line", " 100 %", "the rest"]


def test_a_long_line_is_cut_and_a_log_has_64_kb_at_most(run_log: RunLog):
    log = TryLog(run_log, 1, 1)
    for _ in range(100):
        log.add("INFO", "x" * 20_000)
    log.close()
    kept = [text for level, text in lines(run_log) if level != "note"]
    assert all(text.endswith("(cut: it has 20,000 letters)") for text in kept)
    assert sum(map(len, kept)) <= 64_000
    assert len(kept) + int(next(text for level, text in lines(run_log) if level == "note").split()[0]) == 100


def test_of_lines_that_are_larger_than_all_that_is_kept_at_the_end_the_last_is_kept(run_log: RunLog):
    long = "漢" * 9000
    log = TryLog(run_log, 1, 1)
    for n in range(4):
        log.write("stdout", f"{n} {long}\n")
    log.close()
    said = lines(run_log)
    assert [level for level, _ in said] == ["stdout", "note", "stdout"]
    assert said[0][1].startswith("0 漢") and said[1][1].startswith("2 lines were cut here")
    assert said[2][1].startswith("3 漢")


def test_a_fault_of_ours_at_the_end_of_a_log_is_none_of_the_trys(run_log: RunLog, monkeypatch):
    def fails(log: TryLog) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(TryLog, "_close", fails)
    log = TryLog(run_log, 1, 1)
    log.write("stdout", "one\n")
    log.close()
    log.write("stdout", "late\n")
    assert lines(run_log) == [("stdout", "one")]


def test_what_is_said_after_the_end_of_a_try_is_nobodys(run_log: RunLog):
    held = threading.Event()

    def late() -> None:
        held.wait(60)
        logging.getLogger("tests.late").warning("too late")

    call = in_a_try(run_log, lambda: threading.Thread(target=late, name="late").start())
    held.set()
    until(lambda: not any(thread.name == "late" for thread in threading.enumerate()))
    assert lines(run_log) == [] and call.log is None


def test_letters_that_no_encoding_takes_are_told_all_the_same(run_log: RunLog):
    TryLog(run_log, 1, 1).add("WARNING", "half \ud800 of a pair")
    (part,) = run_log.take()
    assert json.loads(part.lines) == [[0.0, "WARNING", "half ? of a pair"]]


def test_arguments_that_do_not_fit_a_message_are_no_error_of_the_tasks(
    run_log: RunLog, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    in_a_try(run_log, lambda: logging.getLogger("tests.misfit").warning("%d", "no number"))
    assert lines(run_log) == [("WARNING", "%d")]


def test_a_part_that_is_told_twice_is_there_once(tmp_path: Path):
    book = Book(tmp_path)
    ((item, attempt),) = book.claim()
    part = LogPart(item, attempt, 7, 100.0, '[[0.0,"INFO","once"]]')
    for _ in range(2):
        keep_lines(book.jobs.conn, book.job, [part])
    assert [line.text for line in book.jobs.item_now(book.job, "local", item).log] == ["once"]


def test_lines_of_many_items_are_kept_without_looking_through_the_job_for_each(tmp_path: Path):
    book = Book(tmp_path, items=2_000)
    taken = 0
    parts = [LogPart(item, attempt, 7, 100.0, "[]") for item, attempt in book.claim()]

    def count(event: dict[str, Any]) -> None:
        nonlocal taken
        taken += event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"]

    book.jobs.conn.trace_v2(apsw.SQLITE_TRACE_PROFILE, count)
    keep_lines(book.jobs.conn, book.job, parts)
    book.jobs.conn.trace_v2(0, None)
    assert len(parts) == 100 and 0 < taken < 200 * len(parts)


def test_lines_of_another_jobs_item_are_not_kept(tmp_path: Path):
    book = Book(tmp_path)
    ((item, attempt),) = book.claim()
    keep_lines(book.jobs.conn, book.job + 1, [LogPart(item, attempt, 7, 100.0, '[[0.0,"INFO","no"]]')])
    assert book.jobs.conn.execute("select count(*) from item_log").fetchone() == (0,)


# ---- the program's own log ---------------------------------------------------------------------------------


def test_the_programs_own_log_is_json_with_job_item_and_attempt_where_that_is_wanted(serve, tmp_path: Path):
    (tmp_path / "mine.py").write_text(FILES["mine.py"])
    server = serve("--tasks", "mine", "--log-format", "json")
    job = server.ended(server.begin("has_a_bug", items=["one"]))["id"]
    (item,) = server.items(job)

    def told() -> dict[str, Any] | None:
        whole = server.log.read_text().rpartition("\n")[0]  # the last line may be half written
        found = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
        return next((line for line in found if line["logger"] == "rowcast" and line["job"]), None)

    line = until(told)
    assert (line["job"], line["item"], line["attempt"], line["level"]) == (job, item["id"], 1, "ERROR")
    assert line["traceback"].endswith("KeyError: 'nothing'\n") and line["text"] == f"has_a_bug #{job}, one:"
