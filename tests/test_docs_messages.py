"""The receivers of docs/messages.md, each run as it stands; only the port is another."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from conftest import ROOT, Server, free_port, until

FLAGS = ("--notify-hosts", "127.0.0.1")
TEXT = (ROOT / "docs" / "messages.md").read_text()
BLOCKS = {
    re.sub(r"\W", "", text.partition("\n")[0]): text
    for text in re.findall(r"```(?:python|javascript)\n(.*?)```", TEXT, re.DOTALL)
}


def test_there_is_a_receiver_for_each():
    assert sorted(BLOCKS) == ["fastapi", "fasthtml", "node"]


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_the_receiver_takes_what_is_signed_and_refuses_what_is_not(name: str, shared: Server, tmp_path: Path):
    server = shared
    port = free_port()
    url = f"http://127.0.0.1:{port}/jobs"
    secret = server.client.post("/api/webhooks", json={"url": url}).json()["secret"]
    file = tmp_path / ("told.mjs" if name == "node" else "told.py")
    file.write_text(BLOCKS[name].replace("8000", str(port)))
    program = sys.executable
    if name == "node":
        (tmp_path / "node_modules").symlink_to(ROOT / "static" / "node_modules")
        program = shutil.which("node") or str(Path(sys.executable).parent / "node")
    env = os.environ | {"SECRET": secret}
    with subprocess.Popen([program, str(file)], stdout=subprocess.PIPE, text=True, env=env) as process:
        try:

            def refused() -> bool:
                try:
                    return httpx.post(url, content=b"{}").status_code == 401
                except httpx.TransportError:
                    assert process.poll() is None
                    return False

            until(refused)
            rule = {"channel": "webhook", "to": url}
            job = server.begin("counter", loops=1, notify=[rule])
            assert process.stdout
            said = [process.stdout.readline()]
            while said[-1] and not said[-1].startswith("job."):
                said.append(process.stdout.readline())
            assert said[-1] == f"job.completed {job}\n", said
            path = f"/api/jobs/{job}/deliveries"
            until(lambda: server.client.get(path).json()[0]["status"] == "delivered")
        finally:
            process.terminate()
