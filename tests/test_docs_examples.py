"""The reference's examples, each run as it stands against a real server; only the address and the numbers are others."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, told_while_it_runs, until

REFERENCE = (ROOT / "docs" / "reference.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", REFERENCE.split("## Streams")[1], re.S)
ITEMS = 40


def block(language: str, first: str = "") -> str:
    """The one block in this language that begins so."""
    (found,) = [text for name, text in BLOCKS if name == language and text.startswith(first)]
    return found


@pytest.fixture
def here(server, api) -> Callable[[str], str]:
    """An example's text with this server's address and its job, which waits for the API."""
    api.stall()
    job = server.begin(limit=ITEMS, concurrency=4)

    def put(text: str) -> str:
        seq = str(server.job(job)["seq"])
        return (
            text.replace("4711", seq)
            .replace("127.0.0.1:5001", f"127.0.0.1:{server.port}")
            .replace("jobs/1/", f"jobs/{job}/")
            .replace("job=1", f"job={job}")
        )

    return put


def test_there_is_an_example_in_each_language():
    assert sorted(name for name, _ in BLOCKS) == ["console", *3 * ["javascript"], "python", "python"]


@pytest.mark.parametrize("line", [line for line in block("console").splitlines() if line.startswith("$ ")])
def test_the_lines_with_curl_follow_a_job_to_its_end(here, server, api, line: str):
    command = shlex.split(here(line)[2:])
    assert command[0] == "curl"
    said = told_while_it_runs(server, api, command)
    assert said.startswith("retry: 1000") and "event: item" in said
    assert said.rstrip().endswith('event: done\ndata: {"status":"completed"}')


def test_the_browsers_example_follows_a_job_to_its_end(here, server, api, open_page):
    page = open_page(f"{server.url}/users")
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.evaluate(f"() => {{ {here(block('javascript', '// browser'))} }}")
    until(server.streams)
    api.answer()
    until(lambda: page.evaluate("1") and "done completed" in said)
    assert f"{ITEMS} of {ITEMS}" in said
    assert sum(line.endswith("completed 200") for line in said) == ITEMS


def test_the_websocket_in_a_page_follows_a_job_to_its_end(here, server, api, open_page):
    page = open_page(f"{server.url}/users")
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.evaluate(f"() => {{ {here(block('javascript', '// websocket'))} }}")
    api.answer()
    until(lambda: page.evaluate("1") and "done completed" in said)
    assert f"{ITEMS} of {ITEMS}" in said


def test_nodes_example_follows_a_job_to_its_end(here, server, api, tmp_path: Path):
    (tmp_path / "node_modules").symlink_to(ROOT / "static" / "node_modules")
    (tmp_path / "example.mjs").write_text(here(block("javascript", "// node")))
    node = shutil.which("node") or str(Path(sys.executable).parent / "node")
    said = told_while_it_runs(server, api, [node, str(tmp_path / "example.mjs")]).splitlines()
    assert said[-1] == "done completed"
    assert len({line.split()[1] for line in said[:-1] if line.endswith("completed")}) == ITEMS


@pytest.mark.parametrize("first", ["import time", "# websocket"])
def test_pythons_example_follows_a_job_through_a_restart_of_the_server(
    here, server, api, tmp_path: Path, first: str
):
    (tmp_path / "example.py").write_text(here(block("python", first)))
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "example.py")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        api.answer(ITEMS // 2)
        said = [process.stdout.readline() for _ in range(10)]
        server.stop()
        server.start()
        api.answer()
        said += process.stdout.read().splitlines()
    assert process.returncode == 0 and said[-1] == "done"
    lines = [line.split() for line in said[:-1]]
    idents = [int(ident) for ident, _, _ in lines]
    assert idents == sorted(set(idents))
    assert len({key for _, key, status in lines if status == "completed"}) == ITEMS
