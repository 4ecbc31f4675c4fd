"""Bad input: each a clear sentence and the right code, nothing lost, nothing written, no traceback."""

import asyncio
import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rowcast.dashboard import create
from rowcast.tables import database
from rowcast.tables.schema import prepare
from rowcast.tasks.settings import Settings
from tests.conftest import Api, Server, free_port

HUGE = "9" * 5000


@pytest.fixture(autouse=True)
def no_traceback(shared: Server):
    """Whatever a test here sends, the server's log shows no traceback."""
    before = shared.log.stat().st_size
    yield
    assert b"Traceback" not in shared.log.read_bytes()[before:]


def newest(server: Server) -> list[int]:
    return [job["id"] for job in server.client.get("/api/jobs?limit=1").json()["jobs"]]


def refused(server: Server, code: int, verb: str, path: str, **options: Any) -> str:
    """Send it; it must be refused with this code and leave no job behind. Returns the sentence."""
    before = newest(server)
    answer = server.client.request(verb, path, **options)
    assert answer.status_code == code, answer.text
    assert newest(server) == before
    return answer.json()["error"] if answer.headers["Content-Type"] == "application/json" else answer.text


# ---- JSON ----------------------------------------------------------------------------------------------------------

BODIES = [
    (422, b"", "The body is not as it should be: Object missing required field `task`."),
    (400, b"{", "The body is not JSON"),
    (400, b'{"task": "counter", "args": {"loops": ' + b"[" * 500_000, "The body is not JSON"),
    (400, b'{"task": "\xff"}', "The body is not JSON"),
    (400, b'{"task": "\\ud800"}', "The body is not JSON"),
    (400, b'{"task": "counter", "args": {"loops": NaN}}', "The body is not JSON"),
    (422, b"[]", "The body is not as it should be"),
    (422, b"{}", "The body is not as it should be: Object missing required field `task`."),
    (422, b'{"task": 5}', "The body is not as it should be"),
    (422, b'{"task": "counter", "args": []}', "The body is not as it should be"),
    (
        422,
        b'{"task": "counter", "argz": {}}',
        "The body is not as it should be: Object contains unknown field `argz`.",
    ),
    (422, b'{"task": "explode"}', "There is no task 'explode'; there are bulk_email, counter,"),
    (
        422,
        b'{"task": "counter", "args": {"loops": "3"}}',
        "counter: argument `loops`: expected `int`, got `str`.",
    ),
    (
        422,
        b'{"task": "counter", "args": {"loops": 2.5}}',
        "counter: argument `loops`: expected `int`, got `float`.",
    ),
    (
        422,
        b'{"task": "counter", "args": {"loops": null}}',
        "counter: argument `loops`: expected `int`, got `null`.",
    ),
    (422, b'{"task": "counter", "args": {"loop": 3}}', "counter: unknown argument `loop`."),
    (
        422,
        b'{"task": "update_users", "args": {"limit": 0}}',
        "limit is a number from 1, or empty for all users.",
    ),
    (
        422,
        b'{"task": "update_users", "args": {"limit": -5}}',
        "limit is a number from 1, or empty for all users.",
    ),
    (
        422,
        b'{"task": "counter", "concurrency": 0}',
        "concurrency is a whole number from 1 to 1,000, auto, or auto with its bounds, like auto 5-200, not '0'.",
    ),
    (422, b'{"task": "counter", "concurrency": 1001}', "concurrency is a whole number from 1 to 1,000"),
    (422, b'{"task": "counter", "concurrency": [5]}', "The body is not as it should be"),
    (
        422,
        b'{"task": "counter", "concurrency": "auto"}',
        "concurrency auto is for tasks that are called per item",
    ),
    (
        422,
        b'{"task": "counter", "concurrency": "auto 9-5"}',
        "concurrency is a whole number from 1 to 1,000, auto",
    ),
    (422, b'{"task": "counter", "priority": 11}', "priority is a whole number from -10 to 10, not 11."),
    (422, b'{"task": "counter", "priority": -11}', "priority is a whole number from -10 to 10, not -11."),
    (422, b'{"task": "counter", "rate": "fast"}', "'fast' is no rate: write it like 100/s, 60/m or 1000/h."),
    (
        422,
        b'{"task": "counter", "run_at": "noon"}',
        "run_at is a time like 2026-12-31T06:00:00Z, or seconds from now",
    ),
    (422, b'{"task": "counter", "run_at": "' + b"9" * 400 + b'"}', "run_at is more than ten years away"),
    (422, b'{"task": "counter", "rate": 0}', "0.0 is no rate"),
    (422, b'{"task": "counter", "rate": -1}', "-1.0 is no rate"),
]


@pytest.mark.parametrize(
    ("code", "body", "says"), BODIES, ids=[f"{b[0]} {b[1][:60].decode(errors='replace')}" for b in BODIES]
)
def test_a_start_that_is_not_right_is_refused_with_the_reason(
    shared: Server, code: int, body: bytes, says: str
):
    assert refused(shared, code, "POST", "/api/jobs", content=body).startswith(says)


ACTIONS = [
    (400, b"{", "The body is not JSON"),
    (422, b"[1]", "The body is not as it should be: Expected `object`, got `array`."),
    (
        422,
        b'{"item": ' + b"[" * 500_000,
        "The body is not as it should be: Expected `int | null`, got `array`",
    ),
    (422, b'{"item": "x"}', "The body is not as it should be: Expected `int | null`, got `str`"),
    (422, b'{"item": -1}', "item is a whole number from 0, not '-1'."),
    (422, b'{"item": 1' + b"0" * 30 + b"}", "item is a whole number from 0, not '1000"),
    (422, b'{"itme": 5}', "The body is not as it should be: Object contains unknown field `itme`."),
    (422, b'{"item": 1, "group": "x"}', "group is for retry alone, and without item."),
]


@pytest.mark.parametrize(
    ("code", "body", "says"), ACTIONS, ids=[f"{b[0]} {b[1][:60].decode()}" for b in ACTIONS]
)
def test_an_action_that_is_not_right_is_refused_with_the_reason(
    shared: Server, code: int, body: bytes, says: str
):
    assert refused(shared, code, "POST", "/api/jobs/1/retry", content=body).startswith(says)


@pytest.mark.parametrize(
    ("action", "body"), [("cancel", b'{"item": 5}'), ("settle", b'{"group": "x"}'), ("pause", b'{"item": 1}')]
)
def test_an_action_that_is_for_the_whole_job_takes_no_part_of_it(shared: Server, action: str, body: bytes):
    assert "item" in refused(shared, 422, "POST", f"/api/jobs/1/{action}", content=body)


# ---- addresses -----------------------------------------------------------------------------------------------------

WRONG = [
    (404, f"/api/jobs/{10**18}"), (404, f"/api/jobs/{2**63}"), (404, f"/api/jobs/{HUGE}"), (404, "/api/jobs/-1"),
    (404, "/api/jobs/0"), (404, f"/api/jobs/{2**63}/items"), (404, f"/api/jobs/{HUGE}/events"), (404, "/api/jobs/abc"),
    (422, "/api/jobs?limit=0"), (422, "/api/jobs?limit=1001"), (422, "/api/jobs?limit=x"), (422, f"/api/jobs?after={HUGE}"),
    (422, "/api/jobs?status=happy"), (422, f"/api/events?after={2**63}"), (422, "/api/events?after=-1"),
    (422, "/api/events?after=%00"), (422, "/events?want=a.x.job=1"), (422, f"/events?want=a.{HUGE}.job=1"),
    (422, "/api/jobs?limit=%C2%B2"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "path"), WRONG, ids=[f"{code} {path[:40]}" for code, path in WRONG])
def test_an_address_that_cannot_be_is_refused(shared: Server, code: int, path: str):
    assert refused(shared, code, "GET", path)


# What is no number that SQLite can hold, though some languages would read it as one.
NO_NUMBERS = [
    HUGE,
    str(2**63),
    str(-(2**63)),
    "٣",
    "²",
    "１",
    "1e3",
    "0x10",
    "1_000",
    "1.0",
    "+1",
    "--1",
    "NaN",
    "-",
]
PLACES = [
    ("GET", "/api/jobs", "limit"), ("GET", "/api/jobs", "after"), ("GET", "/api/jobs/1/items", "after"),
    ("GET", "/api/events", "after"), ("GET", "/", "before"), ("GET", "/users", "page"), ("GET", "/jobs/1", "after"),
    ("GET", "/jobs/1/results", "after"), ("GET", "/events", "job"), ("GET", "/events", "cursor"),
    ("POST", "/jobs/1/retry", "item"), ("POST", "/jobs/1/tune", "concurrency"),
]  # fmt: skip


@pytest.mark.parametrize("text", NO_NUMBERS, ids=[text[:10] for text in NO_NUMBERS])
@pytest.mark.parametrize(("verb", "path", "name"), PLACES)
def test_what_is_no_number_is_refused_in_one_sentence(
    shared: Server, verb: str, path: str, name: str, text: str
):
    given = {"data" if verb == "POST" else "params": {name: text}}
    assert f"{name} is a whole number from " in refused(shared, 422, verb, path, **given)


@pytest.mark.parametrize("text", NO_NUMBERS, ids=[text[:10] for text in NO_NUMBERS])
def test_what_is_no_number_is_refused_also_in_a_header_or_an_address(shared: Server, text: str):
    said = refused(shared, 422, "GET", "/api/events", headers={"Last-Event-ID": text.encode()})
    assert said.startswith("Last-Event-ID is a whole number from 0, not ")
    for path in ("/jobs/{}", "/jobs/{}/results.csv", "/api/jobs/{}", "/api/jobs/{}/errors"):
        refused(shared, 404, "GET", path.format(quote(text)))


PAGES = [
    (404, f"/jobs/{2**63}"), (404, f"/jobs/{HUGE}"), (422, "/users?page=0"),
    (422, f"/users?page={10**18 - 1}"), (422, f"/users?page={10**18}"),
    (422, f"/users?page={HUGE}"), (422, f"/?before={HUGE}"), (422, "/?status=happy"), (422, "/jobs/1?view=nice"),
    (422, f"/jobs/1?after={HUGE}"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "path"), PAGES, ids=[f"{code} {path[:40]}" for code, path in PAGES])
def test_a_page_that_cannot_be_is_refused_with_a_page(shared: Server, code: int, path: str):
    assert refused(shared, code, "GET", path).startswith("<!doctype html>")


VALUES = st.one_of(
    st.text(max_size=20),
    st.integers().map(str),
    st.sampled_from(["%00", "'", '"', "[", "{", "=", "moving", "all", "failed"]),
)
GETS = ["/", "/users", "/jobs/1", "/jobs/1/results", "/api/jobs", "/api/jobs/1/items"]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from(GETS),
    query=st.dictionaries(
        st.sampled_from("status after limit page q view find group before cursor job".split()), VALUES
    ),
)
def test_no_query_makes_the_server_stumble(shared: Server, path: str, query: dict[str, str]):
    try:
        answer = shared.client.get(path, params=query)
    except (httpx.InvalidURL, UnicodeEncodeError):
        return
    assert answer.status_code in (200, 404, 422)


def inside(inner: Any) -> Any:
    return st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(max_value=3) | st.floats(allow_nan=False) | st.text(max_size=10),
    inside,
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    body=st.fixed_dictionaries(
        {"task": st.sampled_from(["counter", "update_users", ""]) | ANY},
        optional={
            "args": st.dictionaries(st.sampled_from(["loops", "limit", "x"]), ANY) | ANY,
            "concurrency": ANY,
            "rate": ANY,
        },
    )
)
def test_no_body_makes_the_server_stumble(shared: Server, body: dict[str, Any]):
    try:
        content = json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    answer = shared.client.post("/api/jobs", content=content)
    assert answer.status_code in (201, 400, 422)
    if answer.status_code == 201:
        shared.client.post(f"/api/jobs/{answer.json()['id']}/cancel")


# ---- forms ---------------------------------------------------------------------------------------------------------

FORMS = [
    ({}, "There is no task ''; there are bulk_email, counter,"),
    ({"task": "explode"}, "There is no task 'explode'"),
    ({"task": "<script>"}, "There is no task &#39;&lt;script&gt;&#39;"),
    ({"task": "counter", "loops": "many"}, "argument `loops`"),
    ({"task": "counter", "loops": "3 or 4"}, "argument `loops`"),
    ({"task": "update_users", "limit": "0"}, "limit is a number from 1, or empty for all users."),
]


@pytest.mark.parametrize(("fields", "says"), FORMS)
def test_a_form_that_is_not_right_is_refused_with_a_page_that_says_why(
    shared: Server, fields: dict[str, str], says: str
):
    page = refused(shared, 422, "POST", "/jobs", data=fields)
    assert says in page.replace("'", "&#39;") or says in page
    assert "<script>'" not in page


def test_a_file_where_a_text_belongs_is_refused(shared: Server):
    file = {"loops": ("x.txt", b"5", "text/plain")}
    page = refused(shared, 422, "POST", "/jobs", data={"task": "counter"}, files=file)
    assert "argument loops is not a file" in page


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"task=counter"),
        ("multipart/form-data; boundary=x", b"no boundary at all"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: nonsense\r\n\r\n5\r\n--x--\r\n"),
        ("application/x-www-form-urlencoded", b"&".join(b"f%d=1" % n for n in range(5000))),
    ],
)
def test_a_form_that_is_broken_is_refused(shared: Server, kind: str, body: bytes):
    before = newest(shared)
    answer = shared.client.post("/jobs", content=body, headers={"Content-Type": kind})
    assert answer.status_code in (400, 422) and answer.text.startswith("<!doctype html>")
    assert newest(shared) == before


def test_a_form_of_ten_megabytes_is_too_large(shared: Server):
    page = refused(shared, 413, "POST", "/jobs", data={"task": "counter", "loops": "1" * 10_000_000})
    assert "The request is larger than the 1 MB that are allowed here." in page


# ---- no users, no API ----------------------------------------------------------------------------------------------


def test_with_no_users_there_is_nothing_to_start_and_the_pages_say_what_to_do(shared: Server):
    shared.users()
    assert "There are no users yet: add some on the page Users" in refused(
        shared, 422, "POST", "/jobs", data={"task": "update_users"}
    )
    assert refused(shared, 422, "POST", "/api/jobs", json={"task": "update_users"}).startswith(
        "There are no users yet"
    )
    assert "There are no users yet" in shared.client.get("/users").text
    assert "o users yet" in shared.client.get("/").text


def test_a_database_that_is_busy_for_too_long_is_told_as_that(tmp_path, monkeypatch):
    monkeypatch.setattr(database, "BUSY_MS", 50)
    path = str(tmp_path / "busy.db")
    prepare(path)
    made = create(Settings(database=path))

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(made.asgi, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post("/api/jobs", json={"task": "counter"})

    with database.transaction(database.connection(path)):
        answer = asyncio.run(post())
    assert answer.status_code == 503 and answer.headers["Retry-After"]
    assert answer.json()["error"] == "The database is busy; try again in a moment."
    database.close_databases()


def test_an_api_that_is_not_there_fails_each_item_with_a_sentence_and_a_retry_later_loses_nothing(
    serve, api: Api, tmp_path
):
    (tmp_path / "work.py").write_text(ONE_TRY)
    port = free_port()
    server = serve("--api-url", f"http://127.0.0.1:{port}", "--tasks", "work")
    server.users("ada@example.com", "ben@example.com")
    job = server.begin("post_once")
    assert server.ended(job)["failed"] == 2
    for item in server.items(job):
        assert (
            item["error"] == f"Could not connect: 127.0.0.1:{port}: Connection refused"
            and item["code"] is None
        )
    assert "Traceback" not in server.log.read_text()
    server.stop()
    server.flags = ("--api-url", api.url, "--tasks", "work")
    server.start()
    server.client.post(f"/api/jobs/{job}/retry")
    assert server.ended(job)["completed"] == 2


ONE_TRY = """
import httpx
from rowcast import task

@task
async def post_once(user: dict, api: httpx.AsyncClient):
    (await api.post(f"/update-user/{user['email']}")).raise_for_status()
"""
