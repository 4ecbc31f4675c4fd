"""Who may do what: every route, asked by everybody. A route without its row fails.

A new route is one line in MATRIX: its verb and path, and how each of CALLERS fares. `in`: let in, whatever comes
of it; `sign`: led to the sign-in; else the status of the refusal.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from rowcast.jobs import Jobs
from rowcast.tables.accounts import Accounts
from rowcast.tables.bookmarks import Bookmarks
from rowcast.tables.browsers import Browsers
from rowcast.tables.bulk import Bulk
from rowcast.tables.database import close_databases, connection, transaction
from rowcast.tables.mailbox import Mailbox
from rowcast.tables.schedules import Schedules
from rowcast.tables.sessions import Sessions, Tokens, fingerprint
from rowcast.tables.shares import Shares
from rowcast.tables.webhooks import Webhooks
from rowcast.tasks.built_in import counter
from rowcast.tasks.filters import Filter
from rowcast.tasks.mail import Posted
from rowcast.tasks.notify import Notify
from rowcast.tasks.records import Options
from rowcast.web.routes import ROUTES
from tests.conftest import PATIENCE, SHORT, Server

FLAGS = ("--worker-token", "of-the-workers")
PASSWORD = "a bicycle over twelve mountains"
ROLES = {"stan": "operator", "vera": "viewer", "otto": "operator", "olga": "operator", "anna": "admin"}
# Nobody; an operator with whom nothing is shared; a viewer and an operator with whom the owner's job is shared; the
# owner; an admin; two tokens of the owner's; the workers' token; a session of the owner's that is over.
CALLERS = ("nobody", "stranger", "viewer", "operator", "owner", "admin", "read", "write", "worker", "expired")
NAMES = {"stranger": "stan", "viewer": "vera", "operator": "otto", "owner": "olga", "admin": "anna"}

#           nobody stranger viewer operator owner admin read write worker expired
OPEN = "    in     in       in     in       in    in    in   in    in     in"
PAGE = "    sign   in       in     in       in    in    in   in    401    sign"
ANSWER = "  401    in       in     in       in    in    in   in    401    401"
JOB_PAGE = "sign   404      in     in       in    in    in   in    401    sign"
JOB = "     401    404      in     in       in    in    in   in    401    401"
START = "   401    in       403    in       in    in    403  in    401    401"
START_PAGE = "sign in      403    in       in    in    in   in    401    sign"
ACT = "     401    404      403    403      in    in    403  in    401    401"
MINE = "    401    404      403    404      in    in    403  in    401    401"  # of what cannot be shared
MINE_PAGE = "sign  404      404    404      in    in    in   in    401    sign"
MINE_ALONE = "401  404      403    404      in    404   403  in    401    401"  # not even an admin's
SELF_PAGE = "sign  in       in     in       in    in    403  403   401    sign"
SELF = "    401    in       in     in       in    in    403  403   401    401"
SELF_ONE = "401    404      404    404      in    404   403  403   401    401"
ADMIN = "   sign   403      403    403      403   in    403  403   401    sign"
ADMIN_ACTS = "401  403     403    403      403   in    403  403   401    401"
PUSH = "    401    in       in     in       in    in    403  in   401    401"
PUSH_ONE = "401    404      404    404      in    404   403  in   401    401"
LEDGER = "  401    401      401    401      401   401   401  401   in     401"

MATRIX = {
    "get /": PAGE,
    "post /jobs": START,
    "post /jobs/act": START,
    "get /bulks/{bulk:number}": MINE_PAGE,
    "post /bookmarks": PUSH,
    "post /bookmarks/{bookmark:number}/forget": PUSH_ONE,
    "get /jobs/{job:number}": JOB_PAGE,
    "get /jobs/{job:number}/items/{item:number}": JOB_PAGE,
    "get /jobs/{job:number}/results": JOB_PAGE,
    "get /jobs/{job:number}/card": JOB_PAGE,
    "get /card/{token}": OPEN,
    "get /events/card/{token}": OPEN,
    "get /jobs/{job:number}/progress": JOB_PAGE,
    "get /events/progress/{job:number}": JOB,
    "get /jobs/{job:number}/results.csv": JOB_PAGE,
    "get /jobs/{job:number}/results.ndjson": JOB_PAGE,
    "get /jobs/{job:number}/then": "sign 404 403 in in in in in 401 sign",
    "post /jobs/{job:number}/tune": ACT,
    "post /jobs/{job:number}/items/{item:number}/again": "401 404 403 in in in 403 in 401 401",
    "get /jobs/{job:number}/again": "sign 404 403 in in in in in 401 sign",
    "post /jobs/{job:number}/again": "401 404 403 in in in 403 in 401 401",  # what one sees one may start oneself
    "post /jobs/{job:number}/notify": ACT,
    "post /jobs/{job:number}/deliveries/{delivery}/retry": ACT,
    "post /jobs/{job:number}/{action}": ACT,
    "get /tasks": PAGE,
    "get /tasks/{name}": PAGE,
    "post /jobs/{job:number}/card/end": ACT,
    "post /jobs/{job:number}/shares": ACT,
    "post /jobs/{job:number}/shares/end": ACT,
    "get /messages": PAGE,
    "get /jobs/{job:number}/preview": JOB_PAGE,
    "get /jobs/{job:number}/preview/{item:number}": JOB_PAGE,
    "get /mailbox": PAGE,
    "post /mailbox/clear": START,
    "get /mailbox/{mail:number}": MINE_PAGE,
    "get /mailbox/{mail:number}/html": MINE_PAGE,
    "post /webhooks": START,
    "post /webhooks/{webhook:number}/rotate": MINE_ALONE,
    "get /schedules": PAGE,
    "post /schedules": START,
    "get /schedules/{schedule:number}": "sign 404 403 404 in in in in 401 sign",
    "post /schedules/{schedule:number}/edit": MINE,
    "post /schedules/{schedule:number}/{action}": MINE,
    "get /halts": ADMIN,
    "post /halts": ADMIN_ACTS,
    "post /halts/lift": ADMIN_ACTS,
    "get /workers": PAGE,
    "get /users": START_PAGE,
    "post /users": START,
    "get /events": JOB,
    "get /sign-in": OPEN,
    "post /sign-in": OPEN,
    "get /sign-in/openid": "404 404 404 404 404 404 404 404 404 404",  # the settings name no provider
    "get /sign-in/openid/back": "404 404 404 404 404 404 404 404 404 404",
    "post /sign-out": OPEN,
    "get /account": SELF_PAGE,
    "post /account/password": SELF,
    "post /account/sessions/end": SELF,
    "post /account/sessions/{session:number}/end": SELF_ONE,
    "post /account/tokens": SELF,
    "post /account/tokens/{token:number}/revoke": SELF_ONE,
    "get /accounts": ADMIN,
    "post /accounts": ADMIN_ACTS,
    "post /accounts/role": ADMIN_ACTS,
    "post /accounts/disable": ADMIN_ACTS,
    "post /accounts/enable": ADMIN_ACTS,
    "post /accounts/reset": ADMIN_ACTS,
    "get /audit": ADMIN,
    "get /audit.ndjson": ADMIN,
    "get /static/{path:path}": OPEN,
    "get /api/jobs": ANSWER,
    "post /api/jobs": START,
    "post /api/jobs/act": START,
    "post /api/jobs/check": START,
    "post /api/jobs/{job:number}/check": ACT,
    "get /api/bookmarks": ANSWER,
    "post /api/bookmarks": PUSH,
    "delete /api/bookmarks/{bookmark:number}": PUSH_ONE,
    "get /api/bulks/{bulk:number}": "401 404 404 404 in in in in 401 401",
    "get /api/jobs/{job:number}": JOB,
    "patch /api/jobs/{job:number}": ACT,
    "get /api/jobs/{job:number}/items": JOB,
    "get /api/jobs/{job:number}/items/{item:number}": JOB,
    "get /api/jobs/{job:number}/errors": JOB,
    "post /api/jobs/{job:number}/card": ACT,
    "delete /api/jobs/{job:number}/card": ACT,
    "get /api/jobs/{job:number}/events": JOB,
    "get /api/jobs/{job:number}/notify": JOB,
    "put /api/jobs/{job:number}/notify": ACT,
    "get /api/jobs/{job:number}/deliveries": JOB,
    "post /api/jobs/{job:number}/deliveries/{delivery}/retry": ACT,
    "get /api/push": ANSWER,
    "post /api/push": PUSH,
    "delete /api/push/{browser}": PUSH_ONE,
    "get /api/webhooks": ANSWER,
    "post /api/webhooks": START,
    "post /api/webhooks/{webhook:number}/rotate": MINE_ALONE,
    "get /api/jobs/{job:number}/shares": JOB,
    "post /api/jobs/{job:number}/shares": ACT,
    "delete /api/jobs/{job:number}/shares": ACT,
    "post /api/jobs/{job:number}/{action}": ACT,
    "get /api/events": ANSWER,
    "get /api/ws": OPEN,  # what HTTP is told there; who may listen is asked of the WebSocket
    "get /api/schedules": ANSWER,
    "post /api/schedules": START,
    "put /api/schedules/{schedule:number}": MINE,
    "delete /api/schedules/{schedule:number}": MINE,
    "post /api/schedules/{schedule:number}/{action}": MINE,
    "get /api/halts": ANSWER,
    "post /api/halts": ADMIN_ACTS,
    "post /api/halts/lift": ADMIN_ACTS,
    "get /api/workers": ANSWER,
    "post /api/ledger/{call}": LEDGER,
    "get /healthz": OPEN,
    "get /metrics": "401 403 403 403 403 in 403 403 401 401",
    "get /api/openapi.json": ANSWER,
}
QUERIES = {"get /events": "?job={job}"}
# What is sent where a handler reads the body before it asks for the job; all else gets an empty form or {}.
BODIES: dict[str, Any] = {
    "post /api/halts": {"task": "counter"},
    "post /api/halts/lift": {"task": "counter"},
    "put /api/schedules/{schedule:number}": {"task": "counter", "cron": "0 7 * * *"},
    "put /api/jobs/{job:number}/notify": {"notify": []},
    "post /api/jobs/{job:number}/card": {"hours": 1},
    "post /api/jobs/{job:number}/check": {"action": "pause"},
    "post /api/jobs/{job:number}/shares": {"account": "vera"},
    "delete /api/jobs/{job:number}/shares": {"role": "viewer"},
}
FORMS = {
    "post /accounts": {"name": "dora", "role": "viewer", "signs_in": "elsewhere"},
    **{
        f"post /accounts/{act}": {"name": "dan", "role": "viewer"}
        for act in ("role", "disable", "enable", "reset")
    },
    "post /halts": {"task": "counter"},
    "post /halts/lift": {"task": "counter"},
    "post /schedules/{schedule:number}/edit": {"task": "counter", "cron": "0 7 * * *"},
    "post /sign-in": {"name": "olga", "password": PASSWORD},
    "post /jobs/{job:number}/shares": {"account": "vera"},
    "post /jobs/{job:number}/shares/end": {"role": "viewer"},
}
REFUSALS = ("401", "403", "404", "sign")


class Cast:
    """A server with accounts, and a client for each of CALLERS."""

    def __init__(self, server: Server):
        self.server = server
        self.path = str(server.directory / "data" / "rowcast.db")
        for name, role in ROLES.items():
            Accounts(self.path).add(name, role, PASSWORD)
        Accounts(self.path).add("dan", "viewer", None)
        self.clients = {
            caller: httpx.Client(base_url=server.url, timeout=PATIENCE, limits=SHORT) for caller in CALLERS
        }
        sign_in(self.clients["owner"], "olga")
        (self.cookie,) = self.clients["owner"].cookies
        tokens = {scope: Tokens(self.path).add("olga", scope, scope)[0] for scope in ("read", "write")}
        for caller, token in (*tokens.items(), ("worker", "of-the-workers")):
            self.clients[caller].headers["Authorization"] = f"Bearer {token}"
        self.made: dict[str, str] = {}
        self.begun: dict[str, str] = {}  # the session of each caller

    def has_changed(self) -> None:
        """Somebody was let in, and may have changed what there is: what is asked for next is made anew."""
        self.made = {}
        self.begun = {}

    def client(self, caller: str) -> httpx.Client:
        """Their client, those who sign in in a session of its own."""
        client = self.clients[caller]
        client.cookies.clear()
        if caller in NAMES or caller == "expired":
            token = self.begun.get(caller) or self.begin(caller)
            if caller != "expired":  # whose session may be deleted, once it has been shown
                self.begun[caller] = token
            client.cookies.set(self.cookie, token, domain="127.0.0.1")
        return client

    def begin(self, caller: str) -> str:
        token = Sessions(self.path).begin(NAMES.get(caller, "olga"), "a test", "127.0.0.1")
        if caller == "expired":
            with transaction(connection(self.path)) as conn:
                conn.execute("update sessions set ends_at = 1 where token = ?", (fingerprint(token),))
        return token

    def things(self) -> dict[str, str]:
        """What the owner has: a job that is not due and is shared with two, and more."""
        self.made = self.made or self.make()
        return self.made

    def make(self) -> dict[str, str]:
        job, _ = Jobs(self.path).submit(counter, {"loops": 1}, "olga", "background", Options(run_at=2e9))
        for name in ("vera", "otto"):
            Shares(self.path).add(job.id, "olga", "account", name)
        Sessions(self.path).begin("olga", "a browser", "127.0.0.1")
        session = max(row.id for row in Sessions(self.path).every("olga"))
        webhook, _ = Webhooks(self.path).add("olga", f"https://example.com/{job.id}")
        (item,) = Jobs(self.path).items(job.id)
        return {
            "job": str(job.id),
            "item": str(item.id),
            "bookmark": str(Bookmarks(self.path).keep("olga", "mine", Filter(tag="none")).id),
            "bulk": str(Bulk(self.path).begin("olga", Filter(tag="none"), "pause", 0, 0)),
            "schedule": str(Schedules(self.path).add(counter, {}, "olga", "0 6 * * *").id),
            "session": str(session),
            "token": str(Tokens(self.path).add("olga", "a program", "read")[1]),
            "webhook": str(webhook.id),
            "mail": str(mail_of(self.path, job.id)),
            "delivery": "none",
            "action": "pause",
            "name": "counter",
            "call": "hello",
            "browser": Browsers(self.path).add("olga", f"https://push.example.com/{job.id}", "key", "secret"),
            "path": "app.css",
        }


def mail_of(path: str, job: int) -> int:
    """A mail in the mailbox, of a job; returns its number."""
    raw = b"Subject: hello\r\nContent-Type: text/html\r\n\r\n<p>hello</p>\r\n"
    Mailbox(path).put(Posted(f"{job}@example.com", "ada@example.com", "hello", raw, job))
    return max(row.id for row in Mailbox(path).page("olga"))


def sign_in(client: httpx.Client, name: str, **more: str) -> httpx.Response:
    answer = client.post("/sign-in", data={"name": name, "password": PASSWORD, **more})
    assert answer.status_code == 303, answer.text
    return answer


@pytest.fixture(scope="module")
def cast(shared: Server) -> Iterator[Cast]:
    made = Cast(shared)
    yield made
    for client in made.clients.values():
        client.close()
    close_databases()


def fared(answer: httpx.Response) -> str:
    if answer.status_code == 303 and "/sign-in?next=" in answer.headers["Location"]:
        return "sign"
    return str(answer.status_code)


def test_every_route_has_its_row_and_no_other():
    assert sorted(MATRIX) == sorted(f"{verb} {path}" for path, verb, *_ in ROUTES)


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("route", MATRIX)
def test_who_may_do_what(cast: Cast, route: str, caller: str):
    expected = dict(zip(CALLERS, MATRIX[route].split(), strict=True))[caller]
    verb, path = route.split()
    things = cast.things()
    url = re.sub(r"{(\w+)[:\w]*}", lambda name: things.get(name[1], ""), path) + QUERIES.get(
        route, ""
    ).format(**things)
    if "/deliveries/" in route or "/preview" in route or path.endswith("/card/{token}"):
        expected = expected.replace("in", "404")  # there is none, which is said to who may know
    client = cast.client(caller)
    body = {"json": BODIES.get(route, {})} if path.startswith("/api/") and verb != "get" else {}
    is_refused = expected in REFUSALS
    before = state_of(cast, things) if is_refused else None
    if form := FORMS.get(route):
        body = {"data": form}
    with client.stream(verb.upper(), url, **body) as answer:
        came = fared(answer)
    assert came == expected if is_refused else came not in REFUSALS, f"{caller}: {came}"
    assert answer.status_code < 500
    if is_refused:
        assert state_of(cast, things) == before
    elif verb != "get":
        cast.has_changed()


def state_of(cast: Cast, things: dict[str, str]) -> list[Any]:
    """What there is of the owner's, to see that a refusal changed nothing."""
    conn = connection(cast.path)
    return [
        conn.execute(
            "select status, concurrency, notify from jobs where id = ?", (things["job"],)
        ).fetchall(),
        conn.execute("select paused, cron from schedules where id = ?", (things["schedule"],)).fetchall(),
        conn.execute("select count(*) from sessions where account = 'olga'").fetchall(),
        conn.execute("select count(*) from tokens where account = 'olga'").fetchall(),
        conn.execute("select count(*) from jobs where owner in ('stan', 'vera', 'otto')").fetchall(),
        conn.execute("select secret from webhooks where id = ?", (things["webhook"],)).fetchall(),
        conn.execute("select count(*) from mails where owner = 'olga'").fetchall(),
        conn.execute("select count(*) from users").fetchall(),
        conn.execute("select name, role, disabled, password from accounts").fetchall(),
    ]


@pytest.mark.parametrize("caller", CALLERS)
def test_lists_have_what_one_sees_and_nothing_else(cast: Cast, caller: str):
    things = cast.things()
    theirs, _ = Jobs(cast.path).submit(counter, {}, "stan", "background", Options(run_at=2e9))
    client = cast.client(caller)
    answer = client.get("/api/jobs", params={"limit": 1000})
    if caller in ("nobody", "worker", "expired"):
        assert answer.status_code == 401
        return
    seen = {job["id"] for job in answer.json()["jobs"]}
    page = client.get("/").text
    for job, owners in (
        (int(things["job"]), {"viewer", "operator", "owner", "read", "write"}),
        (theirs.id, {"stranger"}),
    ):
        assert (job in seen) == (caller in owners | {"admin"})
        assert (f'id="job-{job}"' in page) == (job in seen)


def test_with_whom_a_job_is_shared_gets_by_no_way_its_secrets_or_who_is_told_of_it(cast: Cast):
    told = Notify("webhook", "https://chat.example.com/of-olga")
    how = Options(run_at=2e9, notify=(told,))
    job, _ = Jobs(cast.path).submit(counter, {"loops": 1}, "olga", "background", how)
    (item,) = Jobs(cast.path).items(job.id)
    Shares(cast.path).add(job.id, "olga", "account", "otto")
    client = cast.client("operator")
    made = client.post(f"/jobs/{job.id}/again").headers["Location"]
    assert client.get(f"/api{made}/notify").json() == {"notify": []}
    sealed = '{"loops":1,"key":{"$rowcast":"secret","value":"sealed"}}'
    for args, payload in ((sealed, None), ('{"password":"hunter2"}', None), ("{}", '{"token":"hunter2"}')):
        with transaction(connection(cast.path)) as conn:
            conn.execute("update jobs set args = ? where id = ?", (args, job.id))
            conn.execute("update items set payload = ? where id = ?", (payload, item.id))
        for path in (f"items/{item.id}/again", "again")[: 1 if payload else 2]:
            answer = client.post(
                f"/jobs/{job.id}/{path}", data={"payload": '{"url": "https://evil.example"}'}
            )
            assert answer.status_code == 403 and "has secrets of olga's" in answer.text
    job, _ = Jobs(cast.path).submit(counter, {}, "stan", "background", how)
    form = {"notify-asked": "1", "notify-keep": told.digest}
    for path in (f"/jobs/{job.id}/notify", "/jobs/999999/notify"):  # whatever is guessed
        assert client.post(path, data=form | {"notify-keep": "another"}).status_code == 404
        assert client.post(path, data=form).status_code == 404


def test_strangers_are_not_told_what_troubles_the_dashboard(cast: Cast):
    said = {"task": "counter", "reason": "the bill was not paid"}
    try:
        assert cast.client("admin").post("/api/halts", json=said).status_code == 200
        assert said["reason"] in cast.client("viewer").get("/").text
        for path in ("/nothing", "/card/nothing", "/sign-in"):
            assert said["reason"] not in cast.client("nobody").get(path).text
    finally:
        cast.client("admin").post("/api/halts/lift", json={"task": "counter"})


def test_the_demo_api_is_this_machines_alone(cast: Cast):
    for headers, codes in (({}, (200, 404, 429, 503)), ({"X-Forwarded-For": "192.0.2.7"}, (404,))):
        answer = httpx.post(
            f"{cast.server.url}/demo/update-user/ada@example.com", headers=headers, timeout=PATIENCE
        )
        assert answer.status_code in codes
        assert ("There is no such page." in answer.text) == bool(headers)


def test_what_people_are_not_let_into_is_said_in_a_sentence(cast: Cast):
    client = cast.client("viewer")
    answer = client.post("/api/jobs", json={"task": "counter"})
    assert answer.json()["error"] == "This takes more than your role: as viewer you may look."
    answer = cast.clients["read"].post("/api/jobs", json={"task": "counter"})
    assert answer.json()["error"] == "This token is for reading: it changes nothing."
    job = cast.things()["job"]
    client = cast.client("operator")
    answer = client.post(f"/api/jobs/{job}/pause", json={})
    assert answer.json()["error"] == f"Job {job} is shared with you to look at: olga may change it."


def test_a_page_asks_to_sign_in_and_a_press_a_stream_and_a_program_are_told_so(cast: Cast):
    with httpx.Client(base_url=cast.server.url, timeout=PATIENCE, limits=SHORT) as nobody:
        led = nobody.get("/jobs/7?view=failed")
        assert (
            led.status_code == 303 and led.headers["Location"] == "/sign-in?next=%2Fjobs%2F7%3Fview%3Dfailed"
        )
        for path, headers in (
            ("/events?view=jobs", {}),
            ("/", {"HX-Request": "true"}),
            ("/", {"Sec-Fetch-Mode": "cors"}),
            ("/api/jobs", {}),
        ):
            answer = nobody.get(path, headers=headers)
            assert answer.status_code == 401 and "You are not signed in." in answer.text, path
        assert (
            nobody.post("/jobs", data={"task": "counter"}, headers={"HX-Request": "true"}).text
            == "You are not signed in."
        )


def test_every_answer_to_who_is_signed_in_is_kept_by_nobody(cast: Cast):
    client = cast.client("owner")
    for path in ("/", "/api/jobs", "/account"):
        assert client.get(path).headers["Cache-Control"] == "no-store"


def test_healthz_tells_strangers_nothing_but_whether_it_serves(cast: Cast):
    with contextlib.closing(httpx.Client(base_url=cast.server.url, timeout=PATIENCE, limits=SHORT)) as nobody:
        assert nobody.get("/healthz").json() == {"status": "ok"}
    assert {"engine", "streams"} <= set(cast.clients["write"].get("/healthz").json())
