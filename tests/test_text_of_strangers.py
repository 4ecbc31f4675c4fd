"""What strangers wrote steers no terminal, forges no line of a log, and hides on no page."""

import contextlib
import json
import logging
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowcast.tables.users import Users
from rowcast.tasks.log_format import JsonLines
from rowcast.tasks.text import BREAKS, ODD, Readable, printable, printable_json, reveal, tidy
from tests.conftest import Server, free_port, rowcast, until

FLAGS = ("--tasks", "work")
FILES = {
    "work.py": """
import time
from rowcast import Retry, task

@task(concurrency=1)
def say(item: str, seconds: float = 0.0):
    time.sleep(seconds)
    if item.startswith("!"):
        raise RuntimeError(item)
    return item
"""
}
COMMAND = [sys.executable, "-m", "rowcast.dashboard"]
# A title for the terminal, colours, a line of its own, text from right to left, what is not seen, and half a letter.
EVIL = "\x1b]0;owned\x07\x1b[31m\x9b2J\r\nERROR all is lost\x00 \u202efdp.exe\u2066 a\u200bb\u00ad\u2028\ufeff\U000e0041 end"
KEYS = [f"{EVIL} of {name}" for name in ("ada", "!ben")] + [f"!{EVIL}", "plain"]


def odd(text: str) -> set[str]:
    """The characters of a text that nobody sees, or that steer; line breaks and tabs apart."""
    return set("".join(re.findall(ODD, text))) - set(BREAKS)


def seen(text: str) -> str:
    """A text as a terminal and a log show it."""
    return printable(text)


@pytest.fixture(scope="module")
def evil(shared: Server) -> int:
    """A job that has ended, whose keys, results and errors are all like that."""
    job = shared.begin("say", items=KEYS)
    shared.ended(job)
    return job


# ---- the function --------------------------------------------------------------------------------------------


@given(st.text() | st.text("\x1b\x00\u202e\u200d\u200c\ud800a é👨"))
def test_a_printable_text_is_one_line_of_what_is_seen(text: str):
    shown = printable(text)
    assert not ODD.search(shown) and len(shown.splitlines()) <= 1
    shown.encode()
    assert printable(shown) == shown
    if not ODD.search(text):
        assert shown == text


@given(st.text() | st.text("\x9b\x7f\x00\u202e\u200d\U000e0041a é👨"))
def test_json_for_a_terminal_is_read_as_what_it_is_and_steers_nothing(text: str):
    shown = printable_json(json.dumps([text], ensure_ascii=False))
    assert not ODD.search(shown) and json.loads(shown) == [text]


@given(st.text())
def test_a_page_shows_the_name_of_what_is_not_seen(text: str):
    assert odd(reveal(text, lambda name: f"<{name}>")) == set()
    assert tidy(tidy(text)) == tidy(text)


@pytest.mark.parametrize("text", ["jürgen", "日本", "می‌خواهم", "👩‍👩‍👧", "1️⃣", "नमस्ते", "a\nb"])
def test_what_belongs_to_a_script_stays(text: str):
    assert reveal(text, lambda name: name) == text


# ---- pages ---------------------------------------------------------------------------------------------------


def test_no_page_and_no_frame_has_a_character_that_hides(shared: Server, evil: int):
    upload = {
        "file": ("x.csv", f"{EVIL.replace(chr(13) + chr(10), ' ')}\nada@example.com".encode(), "text/csv")
    }
    shown = {
        "items": shared.client.get(f"/jobs/{evil}?view=all").text,
        "failed": shared.client.get(f"/jobs/{evil}?view=failed").text,
        "found": shared.client.get(f"/jobs/{evil}", params={"find": "\u202efdp"}).text,
        "nothing found": shared.client.get(f"/jobs/{evil}", params={"find": "\u202enobody"}).text,
        "frame": shared.client.get(f"/events?job={evil}&view=all&cursor=0&poll=1").text,
        "results": shared.client.get(f"/jobs/{evil}/results").text,
        "jobs": shared.client.get("/").text,
        "users": shared.client.get("/users", params={"q": EVIL}).text,
        "imported": shared.client.post("/users", files=upload).text,
        "refused": shared.client.get("/", params={"status": EVIL}).text,
        "a task": shared.client.post("/jobs", data={"task": EVIL}).text,
        "schedules": shared.client.post("/schedules", data={"task": "say", "cron": EVIL}).text,
    }
    # a field for a search holds what was looked for as it was typed
    fields = {name: re.sub(r'<input type="search"[^>]*>', "", text) for name, text in shown.items()}
    assert {name: odd(text) for name, text in fields.items() if odd(text)} == {}
    named = '<small class="odd">U+202E</small>fdp.exe'
    assert {name for name, text in shown.items() if named in text} >= {"items", "failed", "frame", "results"}
    assert "U+0000" in shown["items"] and "U+001B" in shown["frame"]


def test_a_row_is_the_same_on_the_page_and_in_a_frame(shared: Server, evil: int):
    page = shared.client.get(f"/jobs/{evil}?view=all").text
    frame = shared.client.get(f"/events?job={evil}&view=all&cursor=0&poll=1").text
    rows = re.findall(r"<tr id=\"item-.*?</tr>", page, re.DOTALL)
    text = re.sub(r"\r?\ndata: ", "\n", frame)
    assert len(rows) == len(KEYS) and all(row.replace("\r\n", "\n") in text for row in rows)


# ---- terminals and logs --------------------------------------------------------------------------------------


def run(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return rowcast(*arguments, cwd=cwd, env=os.environ | env)


def test_tail_prints_a_line_an_item_and_nothing_that_steers(shared: Server, evil: int, tmp_path: Path):
    ran = run("tail", str(evil), "--url", shared.url, cwd=tmp_path)
    assert ran.returncode == 1 and odd(ran.stdout) == set()
    lines = ran.stdout.splitlines()
    assert len(lines) == len(KEYS)
    assert {line.partition("  ")[0].split()[0] for line in lines} == {"completed", "failed"}
    assert any(seen(EVIL)[:60] in line for line in lines) and "\\x1b]0;owned" in ran.stdout


def test_users_import_prints_nothing_that_steers(tmp_path: Path):
    text = (
        "email,\x1b[31mname\u202e\n"
        + EVIL.replace("\r\n", " ")
        + ',1\nada@example.com,1\n"a\x1b@example.com",2\n'
    )
    (tmp_path / "people.csv").write_text(text)
    ran = run("users", "import", "people.csv", "--database", "x.db", cwd=tmp_path)
    assert ran.returncode == 1 and odd(ran.stdout + ran.stderr) == set()
    assert len(ran.stderr.splitlines()) == 2 and len(ran.stdout.splitlines()) == 1
    with contextlib.chdir(tmp_path):
        assert Users("x.db").count() == 1


def test_the_log_of_server_and_worker_has_nothing_that_steers(shared: Server, evil: int):
    def told() -> str:
        text = shared.log.read_bytes().decode()
        return text if text.count("RuntimeError") >= 2 else ""

    text = until(told)
    assert odd(text) == set() and "\r" not in text
    assert "\\x1b]0;owned" in text and "\\u202e" in text


def test_a_record_is_readable_whatever_handler_it_goes_to():
    try:
        raise ValueError(EVIL)
    except ValueError:
        record = logging.LogRecord("x", 40, "x", 1, "%s: %s", ("a", EVIL), sys.exc_info())
    assert Readable().filter(record)
    text = logging.Formatter().format(record)
    assert odd(text) == set() and text.startswith(f"a: {seen(EVIL)}\nTraceback (most recent call last):\n")


class Wordless(BaseException):
    def __str__(self) -> str:
        raise Wordless

    def __getattr__(self, name: str) -> None:
        raise KeyError(name)


def test_a_record_is_readable_also_where_python_cannot_put_its_exception_in_words():
    try:
        raise Wordless
    except Wordless as error:
        record = logging.LogRecord("x", 40, "x", 1, "of %s", (error,), sys.exc_info())
    assert JsonLines().format(record).count("Wordless") == 2
    assert Readable().filter(record)
    text = logging.Formatter().format(record)
    assert text.startswith("of %s\nTraceback (most recent call last):\n") and text.endswith("\nWordless")
    assert "in test_a_record_is_readable" in text


# ---- pipes, files and proxies --------------------------------------------------------------------------------


def test_tail_into_a_pipe_that_is_closed_ends_quietly(shared: Server, tmp_path: Path):
    job = shared.begin("say", items=[f"item {n}" for n in range(200)], seconds=0.3)
    script = f'set -o pipefail; "$0" -m rowcast.dashboard tail {job} --url {shared.url} 2> err | head -n 1'
    ran = subprocess.run(["bash", "-c", script, sys.executable], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.stdout, ran.returncode) == ("completed  item 0\n", 141)
    assert "Error" not in (tmp_path / "err").read_text() and "Exception" not in (tmp_path / "err").read_text()
    shared.client.post(f"/api/jobs/{job}/cancel")
    shared.ended(job)


@pytest.mark.parametrize("command", [["users", "import", "people.csv"], ["doctor"], ["prune", "--keep", "5"]])
def test_no_command_minds_a_pipe_that_is_closed(tmp_path: Path, command: list[str]):
    (tmp_path / "people.csv").write_text("ada@example.com\n")
    assert run("users", "import", "people.csv", cwd=tmp_path).returncode == 0
    reading, writing = os.pipe()
    os.close(reading)
    ran = subprocess.run(
        [*COMMAND, *command], cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, timeout=200
    )
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (141, b"")


def test_a_file_has_every_line_while_the_bar_is_on_the_terminal(shared: Server, tmp_path: Path):
    job = shared.begin("say", items=[f"item {n}" for n in range(50)])
    shared.ended(job)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    try:
        with (tmp_path / "out").open("w") as out:
            command = [*COMMAND, "tail", str(job), "--url", shared.url]
            assert (
                subprocess.run(command, cwd=tmp_path, stdout=out, stderr=theirs, timeout=200).returncode == 0
            )
        shown = b""
        while select.select([ours], [], [], 60)[0]:
            shown += os.read(ours, 65536)
            if b"50/50" in shown:
                break
        assert b"50/50" in shown
    finally:
        os.close(ours)
        os.close(theirs)
    assert (tmp_path / "out").read_text() == "".join(f"completed  item {n}\n" for n in range(50))


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_file_has_every_line_when_tail_is_ended_by_a_signal(shared: Server, tmp_path: Path, sig: int):
    job = shared.begin("say", items=[f"item {n}" for n in range(200)], seconds=0.3)
    with (tmp_path / "out").open("w") as out:
        tail = subprocess.Popen(
            [*COMMAND, "tail", str(job), "--url", shared.url], cwd=tmp_path, stdout=out, stderr=out
        )
        until(lambda: "item 5\n" in (tmp_path / "out").read_text())
        tail.send_signal(sig)
        tail.wait(90)
    shared.client.post(f"/api/jobs/{job}/cancel")
    text = (tmp_path / "out").read_text()
    lines = re.findall(r"completed  item (\d+)", text)
    assert lines[:6] == [str(n) for n in range(6)] and "Traceback" not in text
    shared.ended(job)


def test_what_is_near_is_not_asked_by_way_of_a_proxy(shared: Server, evil: int, tmp_path: Path):
    nobody = f"http://127.0.0.1:{free_port()}"
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"), nobody)
    ran = run("tail", str(evil), "--url", shared.url, cwd=tmp_path, **proxies)
    assert ran.returncode == 1 and len(ran.stdout.splitlines()) == len(KEYS)
    far = run("tail", "1", "--url", "http://jobs.example.com", cwd=tmp_path, **proxies)
    assert far.returncode == 2 and "cannot be reached (All connection attempts failed)" in far.stderr


@pytest.mark.parametrize("where", ["a pipe that is closed", "a disk that is full"])
def test_what_nobody_can_read_is_no_failure_of_who_prints(where: str):
    code = (
        "import sys; from rowcast.worker.isolated import keep_printing; keep_printing()\n"
        "print('some'); print('more' * 100_000); print('errors', file=sys.stderr); sys.exit(3)"
    )
    end, out = os.pipe()
    os.close(end)
    if where == "a disk that is full":
        os.close(out)
        out = os.open("/dev/full", os.O_WRONLY)
    try:
        assert subprocess.run([sys.executable, "-u", "-c", code], stdout=out, stderr=out).returncode == 3
    finally:
        os.close(out)
