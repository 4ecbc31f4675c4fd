"""The page of all accounts, for admins: list, add, change a role, disable, make a new password; what is refused there."""

import re
from collections.abc import Iterator

import httpx
import pytest
from conftest import Server
from test_access import PASSWORD, sign_in

from rowcast.tables.accounts import Accounts
from rowcast.tables.audit import Audit
from rowcast.tables.database import close_databases
from rowcast.tables.sessions import Tokens
from rowcast.tasks.filters import LARGEST

ACTS = ("add account", "set role", "disable", "enable", "reset")


@pytest.fixture(scope="module")
def path(shared: Server) -> Iterator[str]:
    found = str(shared.directory / "data" / "rowcast.db")
    for name, role in {"anna": "admin", "olga": "operator"}.items():
        Accounts(found).add(name, role, PASSWORD)
    yield found
    close_databases()


@pytest.fixture
def anna(shared: Server, path: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shared.url, timeout=30) as client:
        sign_in(client, "anna")
        yield client


def shown_password(page: httpx.Response) -> str:
    return re.findall(r'<code id="password">([^<]+)</code>', page.text)[0]


def can_sign_in(shared: Server, name: str, password: str) -> bool:
    answer = httpx.post(f"{shared.url}/sign-in", data={"name": name, "password": password}, timeout=30)
    return answer.status_code == 303


def test_an_admin_adds_changes_disables_and_lets_in(shared: Server, path: str, anna: httpx.Client):
    added = anna.post("/accounts", data={"name": "Bea", "role": "viewer"})
    password = shown_password(added)
    assert can_sign_in(shared, "bea", password) and password not in anna.get("/accounts").text
    anna.post("/accounts/role", data={"name": "bea", "role": "operator"})
    anna.post("/accounts/disable", data={"name": "bea"})
    assert not can_sign_in(shared, "bea", password)
    anna.post("/accounts/enable", data={"name": "bea"})
    other = shown_password(anna.post("/accounts/reset", data={"name": "bea"}))
    assert can_sign_in(shared, "bea", other) and not can_sign_in(shared, "bea", password)
    elsewhere = anna.post("/accounts", data={"name": "cleo", "role": "viewer", "signs_in": "elsewhere"})
    assert 'id="password"' not in elsewhere.text
    found = {row.name: row for row in Accounts(path).every()}
    assert (found["Bea"].role, found["Bea"].disabled, found["cleo"].has_password) == ("operator", 0, 0)
    said = [
        (row.account, row.action, row.detail) for row in Audit(path).rows(LARGEST, 50) if row.action in ACTS
    ]
    assert said == [
        ("anna", "add account", "cleo, viewer"),
        ("anna", "reset", "bea"),
        ("anna", "enable", "bea"),
        ("anna", "disable", "bea"),
        ("anna", "set role", "bea, operator"),
        ("anna", "add account", "Bea, viewer"),
    ]
    assert not any(secret in str(said) for secret in (password, other))


def test_what_is_refused_is_said_in_a_sentence(shared: Server, path: str, anna: httpx.Client):
    before = Accounts(path).every()
    kept = Accounts(path).password_of("olga")
    for where, form, why in (
        ("", {"name": "anna", "role": "viewer"}, "There is an account anna already."),
        ("", {"name": "a b", "role": "viewer"}, "is no name for an account"),
        ("", {"name": "dora", "role": "owner"}, "A role is one of"),
        ("/role", {"name": "olga", "role": "owner"}, "A role is one of"),
        ("/role", {"name": "ANNA", "role": "viewer"}, "This is your own account"),
        ("/disable", {"name": "anna"}, "This is your own account"),
        ("/reset", {"name": "anna"}, "This is your own account"),
        ("/disable", {"name": "nobody"}, "There is no account"),
    ):
        assert why in anna.post(f"/accounts{where}", data=form).text, (where, form)
    token, _ = Tokens(path).add("anna", "a program", "write")
    shown = {"Authorization": f"Bearer {token}"}
    answer = httpx.post(f"{shared.url}/accounts/reset", data={"name": "olga"}, headers=shown, timeout=30)
    assert answer.status_code == 403 and "not for a token" in answer.text
    same = [(row.name, row.role, row.disabled, row.has_password) for row in Accounts(path).every()]
    assert same == [(row.name, row.role, row.disabled, row.has_password) for row in before]
    assert kept and Accounts(path).password_of("olga") == kept


def test_links_to_a_card_are_taken_back_by_a_button_of_the_jobs_page(shared: Server, anna: httpx.Client):
    job = anna.post("/api/jobs", json={"task": "counter", "args": {"loops": 1}, "run_at": "600s"}).json()[
        "id"
    ]
    link = anna.post(f"/api/jobs/{job}/card", json={"hours": 1}).json()["url"]
    page = anna.get(f"/jobs/{job}").text
    assert httpx.get(link, timeout=30).status_code == 200 and f'action="/jobs/{job}/card/end"' in page
    assert anna.post(f"/jobs/{job}/card/end").headers["Location"] == f"/jobs/{job}"
    assert httpx.get(link, timeout=30).status_code == 404
    anna.post(f"/api/jobs/{job}/cancel", json={})
