"""The documentation held against the code."""

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import yaml
from conftest import ROOT, pytest_configure

from rowcast.__main__ import parser
from rowcast.tasks import answers
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


COMMANDS = REFERENCE.partition("\n## Commands\n")[2].partition("\n## ")[0]
FLAGS = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Settings)}


def commands(
    top: argparse.ArgumentParser, name: str = "rowcast"
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Each command that does something, as it is written."""
    inner = [action for action in top._actions if isinstance(action, argparse._SubParsersAction)]
    for action in inner:
        for word, below in action.choices.items():
            yield from commands(below, f"{name} {word}")
    if not inner:
        yield name, top


@pytest.mark.parametrize(("name", "command"), [*commands(parser())], ids=lambda given: str(given)[:30])
def test_every_command_is_in_the_reference_with_its_options(name, command):
    family, _, last = name.rpartition(" ")
    rows = [row for row in COMMANDS.splitlines() if row.startswith("| ") and f"`{family} " in row]
    said = " ".join(row for row in rows if re.search(rf"[` ]{last}[` ]", row))
    assert said
    for_all = COMMANDS.rpartition("\n| ")[2].partition("\n\n")[2]
    options = {
        option for action in command._actions for option in action.option_strings if option[:2] == "--"
    }
    asked = {option for option in options - FLAGS - {"--help"} if option not in re.findall(r"--[\w-]+", said)}
    assert asked <= set(re.findall(r"--[\w-]+", for_all))


@pytest.mark.parametrize(("what", "answer"), [("A job", answers.Job), ("An item", answers.Item)])
def test_the_fields_of_an_answer_are_those_in_the_reference(what, answer):
    (said,) = re.findall(rf"^{what}: `([^`]+)`", REFERENCE, re.MULTILINE)
    assert said.split() == list(answer.__struct_fields__)


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
