"""Signing in at an OpenID provider: a real one, in a process beside the test."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from rowcast.tables.accounts import Accounts
from rowcast.tables.audit import Audit
from rowcast.tables.database import close_databases
from rowcast.tables.guesses import Guesses
from tests.conftest import Server, free_port, until
from tests.test_accounts import guessed

PEOPLE = [
    {"sub": "17", "email": "ann@example.com", "email_verified": True},
    {"sub": "18", "email": "ben@example.com", "email_verified": False},  # for whom nobody vouches
    {"sub": "zoe", "email": "zoe@example.com", "email_verified": True},
]


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    port = free_port()
    people = [word for one in PEOPLE for word in ("--user-claims", json.dumps(one))]
    process = subprocess.Popen(
        [sys.executable, "-m", "oidc_provider_mock", "--port", str(port), "--require-nonce", *people],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def up() -> bool:
        try:
            return httpx.get(f"{url}/.well-known/openid-configuration", timeout=20).is_success
        except httpx.TransportError:
            return False

    until(up)
    yield url
    process.kill()
    process.wait(10)


@pytest.fixture
def door(serve: Callable[..., Server], provider: str) -> Iterator[Server]:
    """A dashboard with two accounts that sign in there."""
    server = serve(
        "--openid-url", provider, "--openid-client", "rowcast", env={"ROWCAST_OPENID_SECRET": "known"}
    )
    path = str(server.directory / "data" / "rowcast.db")
    for name in ("ann@example.com", "ben@example.com", "zoe"):
        Accounts(path).add(name, "operator", None)
    yield server
    close_databases()


def off(browser: httpx.Client, then: str = "/users") -> str:
    """To the provider: its address, with what it is asked."""
    answer = browser.get("/sign-in/openid", params={"next": then})
    assert answer.status_code == 302, answer.text
    return answer.headers["Location"]


def agreed(address: str, person: str) -> str:
    """The person signs in there: the address to which they are sent back."""
    return httpx.post(address, data={"sub": person}, timeout=20).headers["Location"]


def test_who_the_provider_vouches_for_is_let_in_and_goes_on(door: Server):
    path = str(door.directory / "data" / "rowcast.db")
    Guesses(path).begin("ann@example.com", "127.0.0.1")
    wrong = guessed(path)
    with httpx.Client(base_url=door.url, timeout=30) as browser:
        assert "Go on with your company" in browser.get("/sign-in?next=/users").text
        address = off(browser)
        asked = parse_qs(urlsplit(address).query)
        assert asked["code_challenge_method"] == ["S256"] and {"state", "nonce", "code_challenge"} <= set(
            asked
        )
        assert asked["redirect_uri"] == [f"{door.url}/sign-in/openid/back"]
        inside = browser.get(agreed(address, "17"))
        assert (inside.status_code, inside.headers["Location"]) == (303, "/users")
        begun = browser.post("/api/jobs", json={"task": "counter", "args": {"loops": 1}}).json()
        assert begun["owner"] == "ann@example.com"
    assert guessed(path) == wrong  # nobody has guessed a password


@pytest.mark.parametrize(("person", "code"), [("18", 403), ("19", 403), ("zoe", 303)])
def test_an_address_that_nobody_vouches_for_opens_no_account_and_the_providers_own_name_does(
    door: Server, person: str, code: int
):
    with httpx.Client(base_url=door.url, timeout=30) as browser:
        back = browser.get(agreed(off(browser), person))
        assert back.status_code == code
        assert ("There is no account for" in back.text) == (code == 403)
        assert browser.get("/api/jobs").status_code == (200 if code == 303 else 401)
    said = [row.action for row in Audit(str(door.directory / "data" / "rowcast.db")).every()]
    assert said[-1] == ("sign in" if code == 303 else "sign-in refused")


def test_a_way_back_that_this_browser_did_not_begin_opens_nothing(door: Server):
    with (
        httpx.Client(base_url=door.url, timeout=30) as browser,
        httpx.Client(base_url=door.url, timeout=30) as other,
    ):
        theirs = agreed(off(other), "17")
        assert browser.get(theirs).status_code == 401  # no cookie of a way
        off(browser)
        assert browser.get(theirs).status_code == 401  # of another way: its state is not this one's
        mine = agreed(off(browser), "17")
        assert browser.get(mine.replace("code=", "code=x")).status_code == 401
        assert browser.get("/api/jobs").status_code == 401


def test_a_provider_that_is_away_is_said_in_a_sentence(serve: Callable[..., Server]):
    server = serve("--openid-url", f"http://127.0.0.1:{free_port()}", "--openid-client", "rowcast")
    Accounts(str(server.directory / "data" / "rowcast.db")).add("ann", "viewer", None)
    answer = httpx.get(f"{server.url}/sign-in/openid", timeout=30)
    assert answer.status_code == 401 and "The sign-in there did not work" in answer.text
    close_databases()
