"""The documentation held against the code."""

import dataclasses
import re

import pytest
from conftest import ROOT

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


ROOMS = sorted(
    [p.name for p in ROOT.glob("*.py")]
    + [f"{p.parent.name}/" for p in ROOT.glob("*/__init__.py") if p.parent.name not in ("tests", "bench")]
)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_in_the_architecture(room):
    assert f"\n{room} " in (ROOT / "CONTRIBUTING.md").read_text()
