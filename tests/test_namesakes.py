"""A user's module that is named like one of Python's or of a package that Rowcast needs: with real processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import Server

Serve = Callable[..., Server]
PYTHONS = "email queue calendar json asyncio signal select http logging random argparse typing".split()
NEEDED = "click httpx typing_extensions aiosmtplib prometheus_client starlette anyio idna httpx_sse".split()
NOT_THIS = "raise ImportError('this is not the one')\n"


def namesakes(folder: Path, *others: str) -> None:
    """Modules of a user's, named like those of Python and of packages."""
    for name in (*PYTHONS, *NEEDED, *others):
        (folder / f"{name}.py").write_text(NOT_THIS)


def test_a_users_module_named_like_one_that_is_needed_does_not_take_its_place(serve: Serve, tmp_path: Path):
    namesakes(tmp_path, "rowcast")
    (tmp_path / "helpers.py").write_text("SAID = 'theirs'\n")
    (tmp_path / "mine.py").write_text(
        "from rowcast import task\nimport helpers\n@task\ndef note(item: str):\n"
        "    import queue, email, click, httpx\n    return [helpers.SAID, httpx.codes.OK]\n"
    )
    server = serve(
        "--tasks",
        "mine",
        program=["-c", "from rowcast.__main__ import main; main()"],
        env={"PYTHONSAFEPATH": "1"},
    )
    assert server.ended(server.begin("note", items=["a"]))["completed"] == 1
    assert server.ended(server.begin("update_users", limit=1))["completed"] == 1  # httpx
    assert server.ended(server.begin("bulk_email", limit=1, subject="a", text="b"))["completed"] == 1
    assert "rowcast_jobs" in server.client.get("/metrics").text
    log = server.log.read_text()
    assert "this is not the one" not in log
    assert "aiosmtplib.py is not imported: `import aiosmtplib` gives the package 'aiosmtplib'." in log


def ran(folder: Path, *words: str) -> tuple[int, str]:
    """What a Python says in a folder, which it looks through before all else, as it ends."""
    env = {**os.environ, "PYTHONPATH": "", "PYTHONSAFEPATH": ""}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def test_it_is_started_as_a_module_where_users_modules_have_names_of_pythons(tmp_path: Path):
    namesakes(tmp_path)
    code, said = ran(tmp_path, "-m", "rowcast", "--version")
    assert (code, said) == (0, f"rowcast {version('rowcast')}\n")


def test_whose_module_is_found_by_nobody_is_told_so_in_a_sentence(tmp_path: Path):
    (tmp_path / "email.py").write_text("def hello(): ...\n")
    (tmp_path / "mails.py").write_text("from email import hello\n")
    for tasks in ("email", "mails"):
        code, said = ran(tmp_path, "-m", "rowcast", "--tasks", tasks)
        assert (code, said.count("\n")) == (2, 1)
        hidden = f"{tmp_path / 'email.py'} is not imported: `import email` gives Python's own 'email'."
        assert f"The tasks in {tasks!r} cannot be imported: " in said and hidden in said


def test_a_module_that_was_imported_in_the_place_of_a_package_is_named(tmp_path: Path):
    (tmp_path / "msgspec.py").write_text("")
    (tmp_path / "app.py").write_text("import msgspec\nfrom rowcast import task\n")
    code, said = ran(tmp_path, "app.py")
    last = said.splitlines()[-1]
    assert (code, last) == (
        1,
        f"ImportError: {tmp_path / 'msgspec.py'} was imported in the place of the package 'msgspec',"
        " which Rowcast needs: rename it.",
    )


def test_a_queues_program_that_looks_in_the_working_directory_first_finds_what_is_needed(tmp_path: Path):
    for name in ("httpx", "msgspec", "tqdm", "cronsim"):
        (tmp_path / f"{name}.py").write_text(NOT_THIS)
    code = (
        "import rowcast.extras.engine_celery, sys; print(sys.modules['msgspec'].__file__, sys.path[0] == '')"
    )
    env = {"ROWCAST_BROKER_URL": "redis://127.0.0.1:1/0", "ROWCAST_WORKER_TOKEN": "a" * 32}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**env, "ROWCAST_DASHBOARD_URL": "http://127.0.0.1:1"}.items():
            patch.setenv(name, value)
        done, said = ran(tmp_path, "-c", code)
    assert done == 0 and "site-packages" in said and said.endswith(" True\n"), said
