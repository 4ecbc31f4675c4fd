"""Accounts, sessions, tokens, guesses, shares and the audit: what is kept, what is refused, and how fast lists are."""

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route

from rowcast import BackgroundTask, mount, progress
from rowcast.components import to_html
from rowcast.dashboard import Dashboard, create
from rowcast.jobs import Jobs
from rowcast.tables import guesses, sessions
from rowcast.tables.accounts import Accounts
from rowcast.tables.audit import Audit
from rowcast.tables.database import close_databases, connection, transaction
from rowcast.tables.guesses import Guesses
from rowcast.tables.maintenance import Keep, Maintenance
from rowcast.tables.schedules import Schedules
from rowcast.tables.schema import prepare
from rowcast.tables.sessions import Sessions, Tokens
from rowcast.tables.shares import Shares
from rowcast.tasks import clock, passwords
from rowcast.tasks.accounts import Account, Refused
from rowcast.tasks.built_in import counter
from rowcast.tasks.records import OWNER, BadArguments, NotFound
from rowcast.tasks.settings import Settings
from tests.conftest import ROOT, rowcast

PASSWORD = "a bicycle over twelve mountains"
EXAMPLE = "https://example.com/rowcast"


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    found = str(tmp_path / "rowcast.db")
    prepare(found)
    yield found
    close_databases()


# ---- the command ---------------------------------------------------------------------------------------------------


def test_the_command_makes_lists_disables_and_gives_tokens_with_exit_codes(tmp_path: Path):
    made = rowcast(
        "account", "add", "ann", "--role", "operator", "--password-stdin", stdin=f"{PASSWORD}\n", cwd=tmp_path
    )
    assert (made.returncode, made.stdout) == (0, "ann is there, as operator.\n")
    for name, role, password, said in (
        ("ann", "viewer", PASSWORD, "rowcast: There is an account ann already."),
        ("ANN", "viewer", PASSWORD, "rowcast: There is an account ANN already."),
        ("two words", "viewer", PASSWORD, "rowcast: 'two words' is no name for an account"),
        ("zoe", "viewer", "password12", "rowcast: This password is too easy to guess."),
        ("zoe", "viewer", "short", "rowcast: A password has from 10 to 200 letters"),
    ):
        no = rowcast("account", "add", name, "--role", role, "--password-stdin", stdin=password, cwd=tmp_path)
        assert no.returncode == 2 and no.stderr.startswith(said) and no.stdout == ""
    assert rowcast("account", "add", "zoe", "--role", "king", cwd=tmp_path).returncode == 2
    asks = rowcast("account", "add", "zoe", "--role", "viewer", cwd=tmp_path)
    assert asks.returncode == 2 and "give --password-stdin" in asks.stderr
    token = rowcast(
        "account", "token", "ann", "--scope", "read", "--days", "5", "--for", "a wall", cwd=tmp_path
    )
    assert token.returncode == 0 and re.fullmatch(r"rowcast_[\w-]{43}\n", token.stdout)
    listed = rowcast("account", "list", cwd=tmp_path).stdout.split()
    assert listed[:3] == ["ann", "operator", "password"]
    (line,) = rowcast("account", "list", "--json", cwd=tmp_path).stdout.splitlines()
    assert json.loads(line) == {"name": "ann", "role": "operator", "how": "password", "seen_at": None}
    assert (
        rowcast(
            "account", "password", "ann", "--password-stdin", stdin=PASSWORD[::-1], cwd=tmp_path
        ).returncode
        == 0
    )
    assert (
        rowcast("account", "disable", "Ann", cwd=tmp_path).stdout
        == "ann is signed out, and let in no more.\n"
    )
    assert "disabled" in rowcast("account", "list", cwd=tmp_path).stdout
    assert rowcast("account", "token", "ann", "--scope", "read", cwd=tmp_path).returncode == 2
    assert rowcast("account", "disable", "nobody", cwd=tmp_path).returncode == 2


def test_without_accounts_any_other_host_is_refused_with_the_command_that_makes_one(tmp_path: Path):
    no = rowcast("--host", "0.0.0.0", "--database", "here.db", cwd=tmp_path)
    assert no.returncode == 2 and no.stdout == ""
    command = re.search("`(.*)`", no.stderr)
    assert command and no.stderr.count("\n") == 1
    words = command[1].replace("NAME", "ann").split()[1:]
    assert rowcast(*words, "--password-stdin", stdin=PASSWORD, cwd=tmp_path).returncode == 0


# ---- what is kept --------------------------------------------------------------------------------------------------


def test_neither_passwords_nor_sessions_nor_tokens_are_in_the_database(
    path: str, monkeypatch: pytest.MonkeyPatch, real_hasher: Any
):
    monkeypatch.setattr(passwords, "hasher", real_hasher)
    Accounts(path).add("ann", "admin", PASSWORD)
    cookie = Sessions(path).begin("ann", "a browser", "192.0.2.7")
    token, _ = Tokens(path).add("ann", "deploy", "write")
    kept = "\n".join(
        str(row)
        for table in ("accounts", "sessions", "tokens")
        for row in connection(path).execute(f"select * from {table}")
    )
    assert PASSWORD not in kept and cookie not in kept and token not in kept
    assert "$argon2id$v=19$m=65536,t=3,p=4$" in kept and token[:14] in kept


def test_a_session_ends_when_it_is_idle_and_in_any_case_and_a_token_when_it_is_said_to(
    path: str, monkeypatch: pytest.MonkeyPatch
):
    Accounts(path).add("ann", "viewer", None)
    began = clock.now()
    moment = began
    monkeypatch.setattr(clock, "now", lambda: moment)
    used, idle, stays = (Sessions(path).begin("ann", "b", "a", stay) for stay in (False, False, True))
    token, _ = Tokens(path).add("ann", "deploy", "read", 10)
    lives = dict.fromkeys(("used", "idle", "stays", "token"), 0.0)
    while moment < began + 40 * sessions.DAY:
        moment += sessions.DAY / 4
        for name, there in (
            ("used", Sessions(path).find(used)),
            ("stays", Sessions(path).find(stays)),
            ("token", Tokens(path).find(token)),
        ):
            if there:
                lives[name] = moment - began
                (Tokens if name == "token" else Sessions)(path).seen(there[0], "a")
        lives["idle"] = moment - began if Sessions(path).find(idle) else lives["idle"]
    days = {name: seconds / sessions.DAY for name, seconds in lives.items()}
    assert days == {"used": 6.75, "idle": 0.25, "stays": 29.75, "token": 9.75}


def test_a_new_password_and_disabling_end_what_is_open_and_schedules_rest(path: str):
    accounts = Accounts(path)
    accounts.add("ann", "operator", PASSWORD)
    here, there = (Sessions(path).begin("ann", "b", "a") for _ in range(2))
    token, _ = Tokens(path).add("ann", "deploy", "write")
    schedule = Schedules(path).add(counter, {}, "ann", "0 6 * * *")
    found = Sessions(path).find(here)
    assert found
    accounts.set_password("ann", PASSWORD[::-1], found[0])
    assert Sessions(path).find(here) and not Sessions(path).find(there)
    accounts.set_disabled("ann")
    assert not Sessions(path).find(here) and not Tokens(path).find(token)
    assert Schedules(path).schedule(schedule.id, "ann").paused
    accounts.set_disabled("ann", False)
    assert Tokens(path).find(token) and not Sessions(path).find(here)
    Schedules(path).set_paused(schedule.id, "ann", False)
    accounts.set_role("ann", "admin")
    assert not Schedules(path).schedule(schedule.id, "ann").paused
    accounts.set_role("ann", "viewer")  # who may start nothing any more
    assert Schedules(path).schedule(schedule.id, "ann").paused


@pytest.mark.parametrize(
    "weak", ["password1234", "qwertyuiop12", "ann@example.com1", "rowcastrowcast", "1111111111111", "short"]
)
def test_a_weak_password_is_refused_with_a_reason(path: str, weak: str):
    with pytest.raises(BadArguments, match=r"too easy to guess|from 10 to 200 letters"):
        Accounts(path).add("ann@example.com", "viewer", weak)
    assert not Accounts(path).every()


def test_the_audit_is_only_added_to_and_outlives_a_prune(path: str):
    job, _ = Jobs(path).submit(counter, {}, "ann", "background")
    Audit(path).note("ann", "start", "192.0.2.7", job.id)
    with transaction(connection(path)) as conn:
        conn.execute("update jobs set finished_at = 1, status = 'completed'")
    for sql in ("delete from audit", "update audit set account = 'nobody'"):
        with pytest.raises(apsw.ConstraintError, match="only added to"):
            connection(path).execute(sql)
    assert Maintenance(path).prune(Keep(days=1)) == 1
    (row,) = Audit(path).every()
    assert (row.account, row.action, row.job, row.address) == ("ann", "start", job.id, "192.0.2.7")


# ---- guesses -------------------------------------------------------------------------------------------------------


def test_guesses_get_slow_for_an_account_and_for_an_address_and_stay_so_in_another_process(
    path: str, monkeypatch: pytest.MonkeyPatch
):
    moment = clock.now()
    monkeypatch.setattr(clock, "now", lambda: moment)
    waits = []
    for n in range(10):
        wait = Guesses(path).begin("ann", f"192.0.2.{n}")
        waits.append(round(wait))
        moment += wait
        if wait:
            assert Guesses(path).begin("ann", f"192.0.2.{n}") == 0.0
    assert waits == [0, 0, 0, 0, 0, 1, 2, 4, 8, 16]
    assert Guesses(path).begin("ben", "192.0.2.1") == 0.0  # others are not kept waiting
    for n in range(guesses.FREE["address"] + 1):
        wait = Guesses(path).begin(f"somebody {n}", "198.51.100.9")
    assert wait == 1.0
    close_databases()
    conn = sqlite3.connect(path)
    rows = dict(conn.execute("select guesser, failures from guesses"))
    conn.close()
    assert rows["account ann"] == 10 and rows["address 198.51.100.9"] == guesses.FREE["address"]


def guessed(path: str) -> dict[str, int]:
    """How often each guesser was wrong."""
    return dict(connection(path).execute("select guesser, failures from guesses").fetchall())


def test_the_right_password_forgets_an_accounts_failures_and_not_those_of_the_address(path: str):
    for _ in range(3):
        Guesses(path).begin("ann", "192.0.2.7")
        Guesses(path).begin("ben", "192.0.2.7")
    Guesses(path).right("ann", "192.0.2.7")
    assert guessed(path) == {"account ben": 3, "address 192.0.2.7": 5}
    for _ in range(7):  # more than there were
        Guesses(path).right("ann", "192.0.2.7")
    assert guessed(path) == {"account ben": 3, "address 192.0.2.7": 0}


def test_an_address_that_nobody_knows_keeps_nobody_waiting(path: str):
    waits = [Guesses(path).begin(f"somebody {n}", "") for n in range(2 * guesses.FREE["address"])]
    assert set(waits) == {0.0}
    Guesses(path).right("somebody 0", "")
    assert "account somebody 0" not in guessed(path)


def test_many_guesses_at_once_are_counted_one_after_the_other(path: str, monkeypatch: pytest.MonkeyPatch):
    moment = clock.now()
    monkeypatch.setattr(clock, "now", lambda: moment)

    def guess(_: int) -> float:
        wait = Guesses(path).begin("ann", "192.0.2.7")
        close_databases()
        return wait

    with ThreadPoolExecutor(8) as threads:
        waits = list(threads.map(guess, range(40)))
    assert sum(wait == 0.0 for wait in waits) == guesses.FREE["account"]


def test_one_customers_ipv6_network_is_one_address():
    one, other, third = (
        guesses.guessers_of("ann", f"2001:db8:0:{net}::{n}") for net, n in ((1, 1), (1, 2), (2, 1))
    )
    assert one == other != third
    assert guesses.guessers_of("a", "::ffff:192.0.2.7") == guesses.guessers_of("a", "192.0.2.7")


def test_who_is_seen_is_noted_though_another_has_written_since_that_was_looked_up(path: str):
    Accounts(path).add("ann", "admin", None)
    session = Sessions(path).find(Sessions(path).begin("ann", "", "here"))
    token, number = Tokens(path).add("ann", "a program", "read")
    conn = connection(path)
    other = apsw.Connection(path)
    with transaction(conn):
        conn.execute("update sessions set seen_at = 0")
    written = []

    def between(_: Any, sql: str, __: Any) -> bool:
        if sql == "begin immediate":
            other.execute("update rowcast set seq = seq + 1")
            written.append(sql)
        return True

    conn.set_exec_trace(between)
    assert session and Tokens(path).find(token)
    Sessions(path).seen(session[0], "there")
    Tokens(path).seen(number, "there")
    conn.set_exec_trace(None)
    other.close()
    assert len(written) == 2
    assert [row.address for row in (*Sessions(path).every("ann"), *Tokens(path).every("ann"))] == [
        "there"
    ] * 2


# ---- whose jobs ----------------------------------------------------------------------------------------------------


def steps_of(conn: Any, look: Callable[[], Any]) -> tuple[int, list[tuple[str, Any]]]:
    """How many hundreds of its steps SQLite takes, and what it is asked."""
    statements: list[tuple[str, Any]] = []
    taken: list[int] = []
    conn.set_exec_trace(lambda _, sql, bindings: statements.append((sql, bindings)) or True)
    conn.set_progress_handler(lambda: bool(taken.append(1)), 100)
    look()
    conn.set_exec_trace(None)
    conn.set_progress_handler(None)
    return len(taken), statements


@pytest.mark.parametrize("pace", [None, 5.0])
def test_a_list_of_one_among_a_thousand_owners_looks_once_at_what_others_run(path: str, pace: float | None):
    """1,000 owners with ten jobs of one task each, all between each other."""
    conn = connection(path)
    with transaction(conn):
        conn.execute(
            """insert into jobs (task, entry, shape, owner, engine, created_at, seq, status, started_at, filled,
                   total, queued, running, concurrency, pace)
               select 't', 'm:f', 'items', 'owner ' || (value % 1000), 'background', unixepoch(), value, 'running',
                   unixepoch(), 1, 50, 40, value % 3, 10, ?
               from (with recursive n (value) as (select 0 union all select value + 1 from n where value < 9999)
                     select value from n)""",
            (pace,),
        )
    jobs = Jobs(path)
    mine = jobs.jobs("owner 7")
    assert [job.owner for job in mine] == ["owner 7"] * 10
    one, _ = steps_of(conn, lambda: jobs.jobs("owner 7", limit=1))
    ten, statements = steps_of(conn, lambda: jobs.jobs("owner 7"))
    assert one < 10_000, "all others are looked at by SQLite alone, once: a hundred of its steps for each"
    assert ten - one < 100, "each row costs a few thousand steps, and none of them looks at all others"
    assert max(Counter(sql for sql, _ in statements).values()) <= 2 * len(mine)
    sql, bindings = next(one for one in statements if "order by jobs.id desc limit" in one[0])
    plan = " ".join(str(row) for row in conn.execute(f"explain query plan {sql}", bindings))
    assert re.search(r"USING (COVERING )?INDEX jobs_by_owner \(owner=\?", plan) and "TEMP B-TREE" not in plan
    Shares(path).add(mine[0].id, "owner 7", "role", "viewer")
    shared = jobs.jobs(Account("owner 8", "viewer"))
    assert mine[0].id in {job.id for job in shared} and len(shared) == 11


def test_a_share_lets_look_and_not_touch_and_is_taken_back(path: str):
    Accounts(path).add("ben", "operator", None)
    jobs = Jobs(path)
    ben = Account("ben", "operator")
    job, _ = jobs.submit(counter, {}, "ann", "background")
    with pytest.raises(NotFound):
        jobs.job(job.id, ben)
    with pytest.raises(NotFound):
        Shares(path).add(job.id, ben, "account", "ben")
    Shares(path).add(job.id, "ann", "account", "BEN")
    assert jobs.job(job.id, ben).id == job.id and [j.id for j in jobs.changed_jobs(ben, 0, 9)] == [job.id]
    with pytest.raises(Refused, match="ann may change it"):
        jobs.act(job.id, ben, "cancel")
    with pytest.raises(Refused):
        Shares(path).add(job.id, ben, "role", "viewer")
    with pytest.raises(BadArguments, match="There is no account 'zoe'"):
        Shares(path).add(job.id, "ann", "account", "zoe")
    Shares(path).remove(job.id, "ann", "account", "ben")
    with pytest.raises(NotFound):
        jobs.job(job.id, ben)


# ---- in an app, and behind a proxy -----------------------------------------------------------------------------------


async def ask(
    app: Any, path: str, address: str = "192.0.2.7", host: str = "shop.example.com", **more: Any
) -> httpx.Response:
    transport = httpx.ASGITransport(app, client=(address, 4711))
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
        return await client.request(more.pop("method", "GET"), path, **more)


def shop(tmp_path: Path, owner: Any) -> Starlette:
    """An app with a sign-in of its own: a header says who it is."""

    async def begin(req: Request) -> JSONResponse:
        return JSONResponse({}, background=BackgroundTask(len, "abc"))

    def drawn(req: Request) -> HTMLResponse:
        return HTMLResponse(to_html(progress(1)))

    app = Starlette(routes=[Route("/begin", begin, methods=["POST"]), Route("/drawn", drawn)])
    mount(app, "/jobs", owner=owner, database=str(tmp_path / "shop.db"))
    return app


def by_header(req: Request) -> str | None:
    return req.headers.get("X-User")


async def by_header_later(req: Request) -> str | None:
    return req.headers.get("X-User")


@pytest.mark.parametrize("owner", [by_header, by_header_later])
def test_the_users_of_an_app_own_their_jobs_and_see_no_others(tmp_path: Path, owner: Any):
    import anyio

    app = shop(tmp_path, owner)

    async def story() -> None:
        assert (await ask(app, "/jobs/api/jobs")).status_code == 401
        page = await ask(app, "/jobs/")
        assert page.status_code == 401 and "You are not signed in." in page.text
        assert (await ask(app, "/jobs/sign-in")).status_code == 404
        ann, ben = ({"headers": {"X-User": name}} for name in ("ann", "ben"))
        begun = await ask(
            app, "/jobs/api/jobs", method="POST", json={"task": "counter", "args": {"loops": 1}}, **ann
        )
        assert begun.status_code == 201 and begun.json()["owner"] == "ann"
        assert (await ask(app, "/begin", method="POST", **ben)).status_code == 200
        lists = [(await ask(app, "/jobs/api/jobs", **user)).json()["jobs"] for user in (ann, ben)]
        assert [[job["owner"] for job in jobs] for jobs in lists] == [["ann"], ["ben"]]
        assert (await ask(app, f"/jobs/api/jobs/{begun.json()['id']}", **ben)).status_code == 404
        assert (await ask(app, "/jobs/audit", **ann)).status_code == 403

    anyio.run(story)
    with connection(str(tmp_path / "shop.db")) as conn:
        assert {row[0] for row in conn.execute("select account from audit")} == {"ann"}
    close_databases()


def test_an_account_of_an_apps_user_has_its_role_and_a_disabled_one_is_let_in_no_more(tmp_path: Path):
    import anyio

    app = shop(tmp_path, by_header)
    path = str(tmp_path / "shop.db")
    prepare(path)
    Accounts(path).add("boss", "admin", None)
    Accounts(path).add("gone", "admin", None)
    Accounts(path).set_disabled("gone")
    said = {
        name: anyio.run(lambda name=name: ask(app, "/jobs/audit", headers={"X-User": name}))
        for name in ("boss", "gone", "ann", "Boss")
    }
    assert {name: answer.status_code for name, answer in said.items()} == {
        "boss": 200,
        "gone": 401,
        "ann": 403,
        "Boss": 403,  # to the app another one
    }
    tokens = {name: Tokens(path).add(name, "a program", "read")[0] for name in ("boss", "Boss")}
    roles = {name: found[1].role for name, token in tokens.items() if (found := Tokens(path).find(token))}
    assert roles == {"boss": "admin", "Boss": "operator"}
    close_databases()


def test_nobody_is_called_as_what_nobody_owns_is(tmp_path: Path):
    import anyio

    app = shop(tmp_path, by_header)
    path = str(tmp_path / "shop.db")
    local = {"headers": {"X-User": OWNER}}

    async def story() -> None:
        assert (await ask(app, "/begin", method="POST")).status_code == 200
        for way in ("/jobs/", "/jobs/api/jobs", "/jobs/api/jobs/1"):
            answer = await ask(app, way, **local)
            assert (answer.status_code, "no name for a user" in answer.text) == (403, True)
        assert (await ask(app, "/jobs/healthz", **local)).status_code == 200
        assert (await ask(app, "/drawn", headers={"X-User": "ann"})).text == (
            await ask(app, "/drawn", **local)
        ).text

    anyio.run(story)
    assert Jobs(path).job(1, OWNER).owner == OWNER
    with pytest.raises(BadArguments, match="no name for an account"):
        Accounts(path).add(OWNER, "operator", None)
    close_databases()


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[Dashboard]:
    """A dashboard at a path of a public address, whose proxy is at 10.0.0.1 and signs people in."""
    path = str(tmp_path / "behind.db")
    prepare(path)
    Accounts(path).add("ann", "operator", PASSWORD)
    yield create(Settings(database=path, public_url=EXAMPLE, proxies="10.0.0.1"))
    close_databases()


def test_below_a_path_behind_a_proxy_pages_links_and_cookies_are_below_it(behind: Dashboard):
    import anyio

    async def story() -> None:
        headers = {
            "Origin": "https://example.com",
            "X-Forwarded-For": "203.0.113.5",
            "X-Forwarded-Proto": "https",
        }
        for path in ("/rowcast/", "/"):  # a proxy may take the path off
            led = await ask(behind.asgi, path, "10.0.0.1", "example.com", headers=headers)
            assert (led.status_code, led.headers["Location"]) == (303, "/rowcast/sign-in?next=%2F")
        assert led.headers["Strict-Transport-Security"] == "max-age=31536000"
        form = {"name": "ann", "password": PASSWORD, "next": "/users"}
        inside = await ask(
            behind.asgi,
            "/rowcast/sign-in",
            "10.0.0.1",
            "example.com",
            method="POST",
            data=form,
            headers=headers,
        )
        assert (inside.status_code, inside.headers["Location"]) == (303, "/rowcast/users")
        cookie = inside.headers["Set-Cookie"]
        assert re.fullmatch(
            r"__Secure-rowcast-\w{8}=[\w-]{43}; HttpOnly; Path=/rowcast; SameSite=Lax; Secure", cookie
        )
        page = await ask(
            behind.asgi,
            "/rowcast/",
            "10.0.0.1",
            "example.com",
            headers=headers | {"Cookie": cookie.partition(";")[0]},
        )
        assert page.status_code == 200
        assert set(re.findall(r'(?:src|href|action)="(/[^"/]*)', page.text)) == {"/rowcast"}
        (seen,) = behind.sessions.every("ann")
        assert seen.address == "203.0.113.5"
        lied = await ask(
            behind.asgi,
            "/rowcast/",
            "192.0.2.66",
            "example.com",
            headers=headers | {"Origin": "http://example.com"},
        )
        assert lied.status_code == 403

    anyio.run(story)


def test_the_cookie_at_the_root_under_https_is_the_hosts_alone_and_two_dashboards_do_not_share_one(
    tmp_path: Path,
):
    import anyio

    names = []
    for database, url in (
        ("a.db", "https://example.com"),
        ("b.db", "https://example.com"),
        ("a.db", "https://example.com/a"),
        ("a.db", ""),
    ):
        path = str(tmp_path / database)
        prepare(path)
        if not Accounts(path).any():
            Accounts(path).add("ann", "viewer", PASSWORD)
        made = create(Settings(database=path, public_url=url))
        form = {"name": "ann", "password": PASSWORD}
        host = "example.com" if url else "127.0.0.1"
        answer = anyio.run(
            lambda made=made, form=form, host=host: ask(
                made.asgi, "/sign-in", "127.0.0.1", host, method="POST", data=form
            )
        )
        cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith("__Host-") == (url == "https://example.com")
        assert ("; Secure" in cookie) == bool(url)
        names.append(cookie.partition("=")[0])
    assert len({name.removeprefix("__Host-").removeprefix("__Secure-") for name in names}) == 3
    close_databases()


@pytest.mark.parametrize(
    ("peer", "said", "code"),
    [
        ("10.0.0.1", "ann", 200),
        ("10.0.0.1", "ANN", 200),
        ("10.0.0.1", "nobody", 401),
        ("10.0.0.1", None, 401),
        ("10.0.0.2", "ann", 401),  # no proxy of ours
        ("127.0.0.1", "ann", 401),
    ],
)
def test_a_header_says_who_asks_where_a_listed_proxy_sends_it(
    tmp_path: Path, peer: str, said: str | None, code: int
):
    import anyio

    path = str(tmp_path / "header.db")
    prepare(path)
    Accounts(path).add("ann", "operator", None)
    made = create(
        Settings(
            database=path, public_url="https://example.com", proxies="10.0.0.1", user_header="Remote-User"
        )
    )
    headers = {"Remote-User": said} if said else {}
    answer = anyio.run(lambda: ask(made.asgi, "/api/jobs", peer, "example.com", headers=headers))
    assert answer.status_code == code
    page = anyio.run(lambda: ask(made.asgi, "/", peer, "example.com", headers=headers))
    assert page.status_code == code  # no sign-in of ours
    close_databases()


def test_a_forwarded_address_of_who_is_no_listed_proxy_is_not_believed(behind: Dashboard):
    import anyio

    headers = {"X-Forwarded-For": "203.0.113.5"}
    form = {"name": "ann", "password": "wrong"}
    for peer in ("192.0.2.66", "10.0.0.1"):
        anyio.run(
            lambda peer=peer: ask(
                behind.asgi, "/sign-in", peer, "example.com", method="POST", data=form, headers=headers
            )
        )
    rows = {guesser for (guesser,) in behind.jobs.conn.execute("select guesser from guesses")}
    assert rows == {"account ann", "address 192.0.2.66", "address 203.0.113.5"}


def test_the_documentation_of_accounts_names_what_there_is():
    text = (ROOT / "docs" / "accounts.md").read_text()
    for word in (
        "viewer",
        "operator",
        "admin",
        "--password-stdin",
        "--user-header",
        "--proxies",
        "owner=",
        "Authorization: Bearer",
    ):
        assert word in text
