"""Code that was edited since it was imported is said, and `--reload` takes it up: with real processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forks
import pytest
from conftest import Server, nursery, rowcast, until
from test_trouble import child_of

from rowcast.tasks.edits import Edits, described, files_of
from rowcast.tasks.python_path import modules_in

pytestmark = pytest.mark.kills
Serve = Callable[..., Server]
MINE = """
import pathlib, time
from rowcast import task
import helper

@task
def note(item: str):
    import later
    return helper.WORD + later.WORD

@task(concurrency=2)
def waits(item: str):
    pathlib.Path(item).touch()
    while not pathlib.Path(f"{item} may end").exists():
        time.sleep(0.01)
    return "old"
"""
REMEDY = "since the worker imported it: restart Rowcast, or start it with --reload."


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    for name in ("helper", "later", "unrelated"):
        (tmp_path / f"{name}.py").write_text(f"WORD = '{name} 1 '\n")
    return tmp_path


def trouble(server: Server) -> str:
    return server.client.get("/healthz").json()["trouble"] or ""


def says(server: Server, sentence: str) -> None:
    """Wait until every page says so, and /healthz, which is well all the same."""
    until(lambda: trouble(server) == sentence)
    assert server.client.get("/healthz").json()["status"] == "ok"
    job = server.begin("counter", loops=1)
    for page in ("/", f"/jobs/{job}", "/workers"):
        banner = server.client.get(page).text.partition('id="banner"')[2][:400]
        assert sentence in banner.replace("&#x27;", "'").replace("&quot;", '"')


def noted(server: Server) -> str:
    """What the task says now."""
    job = server.begin("note", items=["a"])
    assert server.ended(job)["completed"] == 1
    (item,) = server.items(job)
    return str(item["result"])


# ---- said --------------------------------------------------------------------------------------------------


def test_an_edit_is_said_until_it_is_taken_back_or_rowcast_is_restarted(here: Path, serve: Serve):
    server = serve("--tasks", "mine")
    until(lambda: child_of(server))
    before = (here / "helper.py").read_bytes()
    (here / "helper.py").write_text("WORD = 'helper 2 '\n")
    says(server, f"helper.py has changed {REMEDY}")
    assert server.log.read_text().count(f"helper.py has changed {REMEDY}") == 1
    (here / "helper.py").write_bytes(before)
    until(lambda: not trouble(server))
    (here / "helper.py").write_text("WORD = 'helper 3 '\n")
    says(server, f"helper.py has changed {REMEDY}")
    server.stop()
    server.start()
    assert noted(server) == "helper 3 later 1 "
    assert trouble(server) == ""


def test_a_file_that_was_only_touched_or_is_not_imported_is_no_edit(here: Path, serve: Serve):
    server = serve("--tasks", "mine")
    for name in ("mine.py", "helper.py"):
        os.utime(here / name, (1, 1))
    (here / "unrelated.py").write_text("WORD = 'other'\n")
    (here / "later.py").write_text("WORD = 'what is imported while a task runs counts'\n")
    says(server, f"later.py has changed {REMEDY}")


def test_a_file_that_is_gone_is_said(here: Path, serve: Serve):
    server = serve("--tasks", "mine")
    (here / "helper.py").unlink()
    says(server, f"helper.py is gone {REMEDY}")


def test_a_page_that_stays_open_loses_the_sentence_when_rowcast_is_restarted(
    here: Path, serve: Serve, visit: Callable[..., Any]
):
    server = serve("--tasks", "mine")
    page = visit(server.url)
    (here / "mine.py").write_text(MINE + "\n# more\n")
    page.locator("#banner", has_text="mine.py has changed").wait_for()
    server.stop()
    server.start()
    until(lambda: page.locator("#banner").text_content() == "")


APP = """
from fasthtml.common import FastHTML
from rowcast import mount, task
import helper

@task
def note(item: str):
    return helper.WORD

app = FastHTML()
mount(app, "/jobs", database="jobs.db")
"""


def test_under_an_app_it_is_the_app_that_is_to_be_restarted(here: Path, serve: Serve):
    (here / "app.py").write_text(APP)
    code = (
        "import sys, uvicorn; sys.path.insert(0, ''); sys.argv.pop(1)\n"
        "uvicorn.run('app:app', port=int(sys.argv[1]))"
    )
    server = serve(program=["-c", code], health="/jobs/healthz")
    (here / "helper.py").write_text("WORD = 'helper 2 '\n")
    sentence = "helper.py has changed since the worker imported it: restart this app."
    until(lambda: server.client.get("/jobs/healthz").json()["trouble"] == sentence)


def test_what_is_edited_before_the_first_look_is_seen(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(here))
    edits = Edits(["mine"])
    monkeypatch.setattr(edits, "_look_on", lambda: None)  # the thread that looks comes late
    edits.start()
    (here / "helper.py").write_text("WORD = 'helper 2 '\n")
    edits.look()
    edits.look()
    assert edits.trouble.startswith("helper.py has changed since the worker imported it")


def test_an_edit_with_the_time_and_the_size_of_what_was_there_is_seen(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(here))
    os.utime(here / "helper.py", (1, 1))
    edits = Edits(["mine"])
    edits.look()
    (here / "new").write_text("WORD = 'helper 2 '\n")
    os.utime(here / "new", (1, 1))
    (here / "new").rename(here / "helper.py")
    edits.look()
    edits.look()
    assert edits.trouble.startswith("helper.py has changed since the worker imported it")


# ---- which files -------------------------------------------------------------------------------------------


def test_the_files_are_those_that_are_imported_from_the_same_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, text in {
        "shop/__init__.py": "",
        "shop/tasks.py": "from . import prices\nfrom .deep.down import x\nfrom ..above import y\nimport json",
        "shop/prices.py": "import shop.prices\ndef f():\n    from outside import (z)",
        "shop/deep/__init__.py": "from ..sibling import w",
        "shop/deep/down.py": "this is no Python",
        "shop/sibling.py": "",
        "shop/alone.py": "",
        "outside.py": "import installed, rowcast, nothing",
        ".venv/lib/python3/site-packages/installed.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    installed = tmp_path / ".venv/lib/python3/site-packages"
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(installed), *sys.path])
    found = {
        str(file.relative_to(tmp_path)) for file in files_of(["shop.tasks", "installed", "msgspec", "json"])
    }
    assert found == {
        "shop/__init__.py", "shop/tasks.py", "shop/prices.py", "shop/deep/__init__.py", "shop/deep/down.py",
        "shop/sibling.py", "outside.py",
    }  # fmt: skip


def test_a_folder_that_may_not_be_looked_into_has_none_and_the_next_is_asked(
    here: Path, monkeypatch: pytest.MonkeyPatch
):
    shut = here / ("x" * 300)  # what is in it may not be asked for, whoever asks
    monkeypatch.setattr(sys, "path", [str(shut), str(here), *sys.path])
    assert files_of(["mine"]) >= {here / "mine.py", here / "helper.py"}
    assert modules_in([str(shut), str(here)])["mine"] == here / "mine.py"


def test_what_breaks_one_look_off_does_not_end_the_looking(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(here))
    edits = Edits(["mine"])
    with monkeypatch.context() as broken, pytest.raises(ZeroDivisionError):
        broken.setattr("rowcast.tasks.edits.files_of", lambda names: 1 / 0)
        edits.look()
    edits.look()
    assert edits.files >= {here / "mine.py", here / "helper.py"}


def test_the_files_are_named():
    def files(*names: str, digest: bytes | None = b"") -> dict[Path, bytes | None]:
        return {Path("/x", name): digest for name in names}

    assert described(files("a.py")) == "a.py has changed"
    assert described(files("a.py", "p/__init__.py")) == "a.py and p/__init__.py have changed"
    assert described(files("a.py", "b.py", digest=None)) == "a.py and b.py are gone"
    assert described(files(*"abcde")) == "a, b, c and 2 more have changed"


# ---- taken up ----------------------------------------------------------------------------------------------


def test_with_reload_worker_and_form_take_up_the_new_code(here: Path, serve: Serve):
    server = serve("--tasks", "mine", "--reload")
    assert noted(server) == "helper 1 later 1 "
    child = child_of(server)
    for word in ("2", "3"):  # as long as before, and in the same second: what was compiled does not count
        (here / "helper.py").write_text(f"WORD = 'helper {word} '\n")
        until(lambda word=word: noted(server) == f"helper {word} later 1 ")
    assert child_of(server) not in (0, child) and server.process.poll() is None
    (here / "mine.py").write_text(
        MINE.replace("def note(item: str)", "def note(item: str, colour: str = 'red')")
    )
    until(lambda: 'name="colour"' in server.client.get("/").text)
    (here / "later.py").unlink()
    (here / "mine.py").write_text(MINE.replace("import later", "").replace("later.WORD", "''"))
    until(lambda: 'name="colour"' not in server.client.get("/").text)
    assert noted(server) == "helper 3 "
    assert "Traceback" not in server.log.read_text()
    assert trouble(server) == ""


def test_what_is_in_flight_gets_its_grace_and_the_rest_goes_on_with_the_new_code(here: Path, serve: Serve):
    server = serve("--tasks", "mine", "--reload", "--grace", "30")
    names = [f"item-{n}" for n in range(6)]
    job = server.begin("waits", items=names)
    until(lambda: all((here / name).exists() for name in names[:2]))
    child = child_of(server)
    (here / "mine.py").write_text(MINE.replace('"old"', '"new"'))
    until(lambda: "mine.py has changed: the new code is taken up." in server.log.read_text())
    for name in names[:2]:
        (here / f"{name} may end").touch()
    until(lambda: child_of(server) not in (0, child))
    for name in names[2:]:
        (here / f"{name} may end").touch()
    assert server.ended(job)["completed"] == len(names)
    items = server.items(job)
    assert [(item["result"], item["attempt"]) for item in items][:2] == [("old", 1)] * 2
    assert [item["result"] for item in items[2:]] == ["new"] * 4


def test_code_that_cannot_be_imported_is_one_sentence_and_the_old_code_goes_on(here: Path, serve: Serve):
    server = serve("--tasks", "mine", "--reload")
    job = server.begin("waits", items=["a", "b", "c"])
    until(lambda: (here / "b").exists())
    child = child_of(server)
    (here / "mine.py").write_text(MINE.replace('return "old"', 'return "new'))
    line = MINE.splitlines().index('    return "old"') + 1
    sentence = (
        "mine.py has changed, and what was there before goes on: The tasks in 'mine' cannot be imported:"
        f" SyntaxError: unterminated string literal (detected at line {line}) (mine.py, line {line})."
    )
    says(server, sentence)
    assert server.log.read_text().count(sentence) == 1
    assert "Traceback" not in server.log.read_text()
    for name in "abc":
        (here / f"{name} may end").touch()
    assert server.ended(job)["completed"] == 3 and child_of(server) == child
    assert {(item["result"], item["attempt"]) for item in server.items(job)} == {("old", 1)}
    (here / "mine.py").write_text(MINE.replace('return "old"', 'return "new"'))
    until(lambda: child_of(server) not in (0, child))
    until(lambda: trouble(server) == "")
    again = server.begin("waits", items=["a"])
    assert server.ended(again)["completed"] == 1
    assert server.items(again)[0]["result"] == "new"


BREAKS = """
import pathlib, sys
if "{module}" in sys.modules and pathlib.Path("broken").exists():
    raise ValueError("half a line")
"""


def test_code_that_breaks_between_its_trial_and_its_import_is_waited_for(here: Path, serve: Serve):
    server = serve("--tasks", "mine", "--reload")
    (here / "broken").touch()
    (here / "mine.py").write_text(MINE + BREAKS.format(module="rowcast.__main__"))
    until(lambda: "rowcast: The tasks in 'mine' cannot be imported: ValueError" in server.log.read_text())
    (here / "broken").unlink()
    assert noted(server) == "helper 1 later 1 "
    assert server.process.poll() is None


def test_jobs_wait_while_a_new_worker_cannot_import_the_code(here: Path, serve: Serve):
    (here / "mine.py").write_text(MINE + BREAKS.format(module="rowcast.engines.child"))
    (here / "broken").touch()
    server = serve("--tasks", "mine", "--reload")
    until(lambda: "The tasks in 'mine' cannot be imported: ValueError: half a line" in trouble(server))
    job = server.begin("note", items=["a"])
    (here / "broken").unlink()
    assert server.ended(job)["completed"] == 1


def test_a_stop_stays_a_stop(here: Path, serve: Serve):
    server = serve("--tasks", "mine", "--reload")
    (here / "helper.py").write_text("WORD = 'helper 2 '\n")
    until(lambda: noted(server) == "helper 2 later 1 ")
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("flags", "env", "sentence"),
    [
        (["--workers", "2"], "1", "--reload is for one process that serves: leave --workers out."),
        ([], "perhaps", "ROWCAST_RELOAD is 1 or 0, not 'perhaps'."),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, flags: list[str], env: str, sentence: str):
    ran = rowcast(*flags, cwd=tmp_path, env=os.environ | {"ROWCAST_RELOAD": env})
    assert (ran.returncode, ran.stderr) == (2, f"rowcast: {sentence}\n")


# ---- a queue's worker ----------------------------------------------------------------------------------------

WORKER = """
import os, sys
from rowcast.tasks.settings import worker_environment
from rowcast.worker import process
process.start("celery", worker_environment(), os.getpid())
sys.stdin.read()
process.leave()
"""


def test_a_queues_worker_says_that_its_own_code_was_edited(serve: Serve, tmp_path: Path):
    told = {"WORKER_TOKEN": "a-token-of-some-letters", "BROKER_URL": "redis://127.0.0.1:9/0"}
    server = serve(
        "--engine", "celery", "--worker-token", told["WORKER_TOKEN"], "--broker-url", told["BROKER_URL"]
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.py").write_text(MINE)
    for name in ("helper", "later"):
        (elsewhere / f"{name}.py").write_text("WORD = 'a'\n")
    told |= {"DASHBOARD_URL": server.url, "TASKS": "mine"}
    env = os.environ | {f"ROWCAST_{name}": value for name, value in told.items()}
    worker = forks.Forked(nursery(), WORKER, [], cwd=elsewhere, env=env, stdin=subprocess.PIPE)
    try:
        known = until(lambda: server.client.get("/api/workers").json()["workers"])
        name = known[0]["name"]
        (elsewhere / "helper.py").write_text("WORD = 'b'\n")
        said = f"Worker {name}: helper.py has changed since the worker imported it: restart this worker."
        until(lambda: trouble(server) == said)
        assert said in server.client.get("/").text.replace("&#x27;", "'")
        assert "helper.py has changed" in server.client.get("/workers").text
        assert server.client.get("/healthz").json()["status"] == "workers"
        worker.stdin.close()
        assert worker.wait(60) == 0
    finally:
        worker.kill()
    until(lambda: trouble(server) == "")
