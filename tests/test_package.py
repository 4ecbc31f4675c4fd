"""The package that people install: the wheel in an environment of its own serves the page with all its files."""

import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import OUTSIDE, ROOT, free_port, until


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what belongs to the project: building leaves its traces where it is done."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(
        ROOT, source, dirs_exist_ok=True, symlinks=True,
        ignore=shutil.ignore_patterns(".*", "build", "dist", "data", "*.egg-info", "node_modules", "__pycache__"),
    )  # fmt: skip
    made = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--wheel-dir", str(made), str(source))
    return next(made.glob("rowcast-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what it depends on, and without the source; its `bin`."""
    home = tmp_path_factory.mktemp("home")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    pip("--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    # the dependencies are those of the tests: downloading them again would prove nothing about this package
    paths = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
    )
    (Path(paths.stdout.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return home / "bin"


def pip(*arguments: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        env=OUTSIDE, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert all(name.startswith("rowcast/") for name in names)
    modules = {f"rowcast/{path.name}" for path in ROOT.glob("*.py")} | {
        f"rowcast/extras/{path.name}" for path in ROOT.glob("extras/*.py")
    }
    assert modules <= set(names)
    assert "rowcast/py.typed" in names
    wrong = [
        name
        for name in names
        if re.search(r"node_modules|\.json$|/tests?/|/bench/|/examples/|/build/|\.db", name)
    ]
    assert wrong == []


def test_the_wheel_has_every_file_that_the_page_needs(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    needed = {
        path
        for pattern in ("*.css", "*.js", "*.svg", "vendor/*.js")
        for path in (ROOT / "static").glob(pattern)
    }
    needed |= set((ROOT / "locale").glob("*.po"))
    assert {f"rowcast/{path.relative_to(ROOT)}" for path in needed} <= names and len(needed) > 5


@pytest.fixture(scope="module")
def url(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A dashboard started by the command that was installed, in an empty directory."""
    port = free_port()
    directory = tmp_path_factory.mktemp("run")
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            [installed / "rowcast", "--port", str(port)], cwd=directory, stdout=log, stderr=log, env={}
        )

    def up() -> bool:
        assert process.poll() is None, (directory / "log").read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{port}/healthz").is_success
        except httpx.TransportError:
            return False

    until(up)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    assert process.wait(60) == 0
    assert "Traceback" not in (directory / "log").read_text()


def test_what_is_installed_is_not_the_source(installed: Path):
    code = "import rowcast, rowcast.dashboard; print(rowcast.__file__)"
    ran = subprocess.run(
        [installed / "python", "-c", code], capture_output=True, text=True, cwd=installed, check=True, env={}
    )
    assert Path(ran.stdout.strip()).is_relative_to(installed.parent)


def test_the_installed_command_serves_the_page_and_every_file_that_it_names(url: str):
    page = httpx.get(url, timeout=30)
    assert page.status_code == 200 and "Start update_users" in page.text
    paths = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
    assert len(paths) >= 5
    for path in paths:
        assert httpx.get(url + path, timeout=30).status_code == 200, path


def test_the_installed_command_runs_a_job(url: str):
    job = httpx.post(
        f"{url}/api/jobs", json={"task": "update_users", "args": {"limit": 5}}, timeout=30
    ).json()["id"]
    done = until(
        lambda: (job_now := httpx.get(f"{url}/api/jobs/{job}", timeout=30).json())["finished_at"] and job_now
    )
    assert done["total"] == 5 and done["status"] == "completed"


def test_the_installed_command_knows_its_version(installed: Path, wheel: Path):
    ran = subprocess.run([installed / "rowcast", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.split()[1] == wheel.name.split("-")[1]
