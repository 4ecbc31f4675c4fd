"""The documentation held against the code."""

import dataclasses
import os
import re
import sys
from types import SimpleNamespace

import pytest
import yaml
from conftest import ROOT, pytest_configure

from rowcast.tasks.settings import Settings, variable
from rowcast.web.routes import ROUTES

REFERENCE = (ROOT / "docs" / "reference.md").read_text()


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Settings)])
def test_every_setting_is_in_the_reference_with_its_variable(name):
    assert f"`--{name.replace('_', '-')}` | `{variable(name)}`" in REFERENCE


@pytest.mark.parametrize(("path", "verb"), [(path, verb) for path, verb, *_ in ROUTES])
def test_every_route_is_in_the_reference(path, verb):
    plain = re.sub(r":\w+}", "}", path)
    assert re.search(rf"`{verb.upper()} {re.escape(plain)}[`?]", REFERENCE)


@pytest.mark.parametrize(("platform", "machine"), [("darwin", "arm64"), ("linux", "riscv64")])
def test_where_the_tests_cannot_run_they_say_so(platform, machine, monkeypatch, pytestconfig):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=machine))
    with pytest.raises(
        pytest.UsageError, match=r"^The tests need Linux, on x86_64 or aarch64: see \S+, Tests\.$"
    ):
        pytest_configure(pytestconfig)


def test_ci_runs_the_tests_where_they_can_run():
    (job,) = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"].values()
    (tests,) = [step for step in job["steps"] if step.get("run") == "make test"]
    others = [system for system in job["strategy"]["matrix"]["os"] if not system.startswith("ubuntu")]
    assert not others or tests["if"] == "runner.os == 'Linux'"


ROOMS = sorted(
    [p.name for p in ROOT.glob("*.py")]
    + [f"{p.parent.name}/" for p in ROOT.glob("*/__init__.py") if p.parent.name not in ("tests", "bench")]
)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_in_the_architecture(room):
    assert f"\n{room} " in (ROOT / "CONTRIBUTING.md").read_text()
