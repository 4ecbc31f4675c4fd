"""The two commands, wherever the project lies: what they call is here a list of who was called, and where."""

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

CALLED = '#!/bin/sh\necho "$(basename "$0") in $PWD: $* by $PATH" >> "$LOG"\n'
OURS = [
    "bin/find-chromium",
    "bin/find-nginx",
    "bin/find-caddy",
    ".venv/bin/pip",
    ".venv/bin/python",
    ".venv/bin/rowcast",
]
KEPT = ["static/node_modules/@github/hotkey/dist/index.js"]
KEPT += [
    f"static/node_modules/htmx.org/dist/{name}"
    for name in ("htmx.min.js", "ext/hx-sse.min.js", "ext/hx-upsert.min.js")
]


@pytest.mark.parametrize("folder", ["plain", "with blanks in it", "with 'marks' & more"])
def test_make_works_in_a_directory_of_any_name(folder: str, tmp_path: Path):
    here = tmp_path / folder
    log = tmp_path / "log"
    programs = [*(here / name for name in OURS), tmp_path / "npm" / "npm"]
    for file in (*programs, *(here / name for name in KEPT), here / ".venv/pyvenv.cfg"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(CALLED)
        file.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "static/package.json", "static/package-lock.json"):
        shutil.copy(ROOT / name, here / name)
    path = f"{programs[-1].parent}:/usr/bin:/bin"
    ran = subprocess.run(
        ["make", "run", "test"], cwd=here, env={"PATH": path, "LOG": str(log)}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    called = log.read_text().splitlines()
    by_npm = f"npm in {here / 'static'}: ci --silent --no-audit --no-fund --ignore-scripts by {path}:{here}/.venv/bin"
    assert by_npm in called
    others = [line for line in called if not line.startswith("npm ")]
    assert [line for line in others if f" in {here}: " not in line] == []
    tests = [line.partition(": ")[2].partition(" by ")[0] for line in others if "-m pytest" in line]
    assert tests == ["-m pytest --collect-only -qq", "-m pytest -n 8"]
    assert ran.stderr == ""
