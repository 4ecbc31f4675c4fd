"""The closed door: whose requests are answered, what every answer bears, and which files can be had."""

import asyncio
import re
import socket
from collections.abc import Callable
from typing import Any

import apsw
import httpx
import pytest
from starlette.applications import Starlette

from rowcast.dashboard import create, mount
from rowcast.tables.accounts import Accounts
from rowcast.tables.schema import prepare
from rowcast.tasks.settings import Settings
from tests.conftest import ROOT, Server

OWN = "http://127.0.0.1:{port}"


def raw(server: Server, request: bytes) -> bytes:
    """What the server says to these bytes, until it hangs up."""
    with socket.create_connection(("127.0.0.1", server.port), 60) as s:
        s.sendall(request)
        return b"".join(iter(lambda: s.recv(65536), b""))


# ---- who is answered -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1:{port}", "localhost:{port}", "[::1]:{port}", "127.0.0.1", "127.9.9.9:{port}"]
)
def test_a_loopback_host_is_answered(shared: Server, host: str):
    assert shared.client.get("/", headers={"Host": host.format(port=shared.port)}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example:{port}",
        "localhost.evil.example",
        "0.0.0.0:{port}",
        "10.0.0.7",
        "[",
    ],
)
def test_any_other_host_is_refused_with_a_sentence(shared: Server, host: str):
    answer = shared.client.get("/api/jobs", headers={"Host": host.format(port=shared.port)})
    assert answer.status_code == 403
    assert answer.json()["error"].startswith("This server does not answer for the host ")


def test_a_request_without_a_host_is_refused(shared: Server):
    assert raw(shared, b"GET /api/jobs HTTP/1.0\r\n\r\n").split(b"\r\n")[0].endswith(b"403 Forbidden")


@pytest.mark.parametrize(
    "path", ["/", "/users", "/jobs/1", "/api/jobs", "/events?view=jobs", "/healthz", "/static/app.js"]
)
def test_no_address_is_outside_the_guard(shared: Server, path: str):
    assert shared.client.get(path, headers={"Host": "evil.example"}).status_code == 403


ORIGINS = [
    "http://evil.example",
    "null",
    "http://127.0.0.1:1",
    "http://localhost:{port}",
    "http://[",
    "",
    "evil",
    "//127.0.0.1",
]


@pytest.mark.parametrize("origin", ORIGINS)
def test_a_request_from_another_origin_is_refused(shared: Server, origin: str):
    before = shared.client.get("/api/jobs").json()
    headers = {"Origin": origin.format(port=shared.port)}
    for answer in (
        shared.client.post("/jobs", data={"task": "counter"}, headers=headers),
        shared.client.post("/api/jobs", json={"task": "counter"}, headers=headers),
        shared.client.get("/api/jobs", headers=headers),
    ):
        assert answer.status_code == 403 and "This request comes from another origin." in answer.text
    assert shared.client.get("/api/jobs").json() == before


def test_a_pages_module_is_answered_behind_a_proxy_that_changes_the_host(shared: Server):
    headers = {"Origin": "http://jobs.example.com", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    assert shared.client.get("/static/hotkeys.js", headers=headers).is_success
    other = headers | {"Sec-Fetch-Site": "cross-site"}
    assert shared.client.get("/static/hotkeys.js", headers=other).status_code == 403
    assert shared.client.get("/", headers=headers).status_code == 403


def test_a_request_from_the_pages_own_origin_is_answered(shared: Server):
    headers = {
        "Origin": OWN.format(port=shared.port),
        "Sec-Fetch-Site": "same-origin",
        "Sec-Fetch-Mode": "navigate",
    }
    assert (
        shared.client.post("/jobs", data={"task": "counter", "loops": "1"}, headers=headers).status_code
        == 303
    )


@pytest.mark.parametrize(
    ("verb", "site", "mode", "code"),
    [
        ("GET", "same-origin", "cors", 200),
        ("GET", "none", "navigate", 200),
        ("GET", "cross-site", "navigate", 200),  # a link on somebody's page may lead here
        ("GET", "cross-site", "no-cors", 403),
        ("GET", "same-site", "cors", 403),
        ("POST", "cross-site", "navigate", 403),
        ("POST", "same-site", "navigate", 403),
    ],
)
def test_what_a_browser_says_of_the_request_is_believed(
    shared: Server, verb: str, site: str, mode: str, code: int
):
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
    assert shared.client.request(verb, "/" if verb == "GET" else "/jobs", headers=headers).status_code == code


def ask(app: Any, path: str, client: tuple[str, int] = ("127.0.0.1", 1), **headers: str) -> httpx.Response:
    """Ask an app directly, as if from another machine."""

    async def get() -> httpx.Response:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app, client=client), base_url="http://127.0.0.1"
        ) as c:
            return await c.get(path, headers=headers)

    return asyncio.run(get())


@pytest.fixture
def mounted(tmp_path, monkeypatch) -> Callable[..., Starlette]:
    monkeypatch.chdir(tmp_path)

    def make(**values: Any) -> Starlette:
        app = Starlette()
        mount(app, "/jobs", database=str(tmp_path / "a.db"), **values)
        return app

    return make


def test_another_machine_is_refused_also_where_the_app_around_it_listens_to_the_network(mounted):
    answer = ask(mounted(), "/jobs/api/openapi.json", ("192.0.2.7", 4711))
    assert answer.status_code == 403
    assert answer.json()["error"].startswith("This dashboard is mounted without an owner and has no accounts")
    for client in (("127.0.0.1", 1), ("::1", 1), ("::ffff:127.0.0.1", 1)):
        assert ask(mounted(), "/jobs/api/openapi.json", client).status_code == 200


def test_a_full_disk_is_said_in_a_sentence(tmp_path, monkeypatch):
    dashboard = create(Settings(database=str(tmp_path / "a.db")))

    def full(*_: Any) -> None:
        raise apsw.FullError("database or disk is full")

    monkeypatch.setattr(dashboard.jobs, "jobs", full)
    answer = ask(dashboard.asgi, "/api/jobs")
    assert answer.status_code == 507 and answer.json()["error"].startswith("The disk is full")


@pytest.mark.parametrize(
    ("host", "origin", "code"),
    [
        ("jobs.example.org", "https://jobs.example.org", 401),  # answered: sign in
        ("jobs.example.org", None, 401),
        ("127.0.0.1", "https://jobs.example.org", 401),  # a proxy that says its own
        ("jobs.example.org", "http://jobs.example.org", 403),
        ("jobs.example.org", "https://jobs.example.org:8443", 403),
        ("jobs.example.org", "https://evil.example", 403),
        ("evil.example", None, 403),
        ("evil.example", "https://evil.example", 403),
    ],
)
def test_the_host_of_public_url_is_answered_and_its_origin_is_the_pages_own(
    tmp_path, mounted, host: str, origin: str | None, code: int
):
    app = mounted(public_url="https://jobs.example.org/")
    prepare(str(tmp_path / "a.db"))
    Accounts(str(tmp_path / "a.db")).add("ann", "admin", None)
    headers = {"Host": host} | ({"Origin": origin} if origin else {})
    assert ask(app, "/jobs/api/openapi.json", ("192.0.2.7", 1), **headers).status_code == code


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "192.0.2.7"}, {"X-Real-IP": "192.0.2.7"}, {"Host": "jobs.example.org"},
        {"CF-Connecting-IP": "192.0.2.7"}, {"Forwarded": "for=127.0.0.1, for=192.0.2.7;proto=https"},
        {"Forwarded": 'For="[2001:db8::7]:4711"'}, {"Forwarded": "for=_hidden"}, {"Forwarded": "by=10.0.0.1"},
    ],
)  # fmt: skip
def test_without_accounts_what_comes_by_way_of_a_proxy_is_not_this_machines_own(
    mounted, headers: dict[str, str]
):
    answer = ask(mounted(public_url="https://jobs.example.org/"), "/jobs/api/openapi.json", **headers)
    assert answer.status_code == 403 and "no accounts" in answer.json()["error"]
    near = ask(mounted(), "/jobs/api/openapi.json", **{"X-Forwarded-For": "127.0.0.1, ::1"})
    assert near.status_code == 200
    near = ask(mounted(), "/jobs/api/openapi.json", Forwarded='for=127.0.0.1:4711, for="[::1]"')
    assert near.status_code == 200


# ---- what every answer bears ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "path", "headers"),
    [
        ("GET", "/", {}), ("GET", "/nothing", {}), ("GET", "/api/jobs", {}), ("GET", "/api/nothing", {}),
        ("GET", "/static/app.css", {}), ("GET", "/static/nothing", {}), ("DELETE", "/", {}), ("HEAD", "/", {}),
        ("POST", "/jobs", {}), ("GET", "/", {"Host": "evil.example"}), ("POST", "/jobs", {"Origin": "null"}),
        ("POST", "/jobs", {"HX-Request": "true"}), ("GET", "/events?job=1x", {}), ("POST", "/demo/update-user/a@b", {}),
    ],
)  # fmt: skip
def test_every_answer_bears_the_policy(shared: Server, verb: str, path: str, headers: dict[str, str]):
    bears = shared.client.request(verb, path, headers=headers).headers
    policy = dict(part.strip().split(" ", 1) for part in bears["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {
        policy[kind] for kind in ("script-src", "style-src", "img-src", "connect-src", "form-action")
    } == {"'self'"}
    assert {policy[kind] for kind in ("base-uri", "frame-ancestors")} == {"'none'"}
    assert bears["X-Content-Type-Options"] == "nosniff"
    assert bears["Referrer-Policy"] == "same-origin"
    assert bears["Cross-Origin-Resource-Policy"] == bears["Cross-Origin-Opener-Policy"] == "same-origin"


def test_a_stream_bears_the_policy_too(shared: Server):
    with shared.client.stream("GET", "/events?view=jobs") as answer:
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_also_an_error_of_our_own_bears_the_policy_and_shows_no_traceback(tmp_path):
    """There are no tables: not even then does a page say more than one sentence."""
    (tmp_path / "empty.db").touch()
    made = create(Settings(database=str(tmp_path / "empty.db")))
    made.is_begun = True  # and its tables are lost since
    app = httpx.ASGITransport(made.asgi, raise_app_exceptions=False)

    async def get(path: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=app, base_url="http://127.0.0.1") as client:
            return await client.get(path)

    for path in ("/", "/api/jobs"):
        answer = asyncio.run(get(path))
        assert answer.status_code == 500
        assert "Something went wrong here; the server's log says what." in answer.text
        assert "Traceback" not in answer.text and "no such table" not in answer.text
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_no_page_has_an_inline_script_or_style_or_anything_of_another_host(shared: Server):
    job = shared.begin("counter", loops=1)
    shared.ended(job)
    for path in ("/", "/users", f"/jobs/{job}", f"/jobs/{job}/results", "/nothing"):
        # what stands in a field is text: a mail that is to be sent may have styles
        page = re.sub(r"(<textarea[^>]*>).*?(?=</textarea>)", r"\1", shared.client.get(path).text, flags=re.S)
        assert not re.search(
            r"<style|\sstyle=|<script(?![^>]*\ssrc=)|\son[a-z]+=|\shx-on|javascript:", page
        ), path
        assert not re.search(r'(?:src|href|action)="(?:https?:)?//', page), path


# ---- how much is taken ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/jobs", "/api/jobs", "/api/jobs/1/cancel", "/nothing"])
def test_ten_megabytes_are_refused_with_413(shared: Server, path: str):
    answer = shared.client.post(path, content=b"task=counter&x=" + b"y" * 10_000_000)
    assert answer.status_code == 413
    assert "The request is larger than the 1 MB that are allowed here." in answer.text


@pytest.mark.parametrize("path", ["/jobs", "/api/jobs"])
def test_a_body_that_does_not_say_how_long_it_is_is_counted(shared: Server, path: str):
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = shared.client.post(path, content=(b"y" * 100_000 for _ in range(100)), headers=headers)
    assert answer.status_code == 413


def test_a_csv_may_be_larger_than_a_form(shared: Server):
    lines = b"email\n" + b"# a comment that is no address\n" * 100_000
    answer = shared.client.post("/users", files={"file": ("big.csv", lines, "text/csv")})
    assert answer.status_code == 200 and "100,000 lines refused" in answer.text


# ---- which files can be had ----------------------------------------------------------------------------------------

HIDDEN = """/pyproject.toml /README.md /tasks.py /dashboard.py /data/rowcast.db /server.log /.git/config /static/
/static/package.json /static/package-lock.json /static/node_modules/htmx.org/package.json
/static/node_modules/htmx.org/dist/htmx.min.js /static/node_modules/.package-lock.json /static/vendor
/static/../pyproject.toml /static/%2e%2e/pyproject.toml /static/..%2fpyproject.toml /static/..%5cpyproject.toml
/static/vendor/../../dashboard.py /static/vendor/../package.json /static//etc/passwd /static/%2fetc%2fpasswd
/static/vendor/%00 /static/app.css%00 /static/NODE_MODULES/htmx.org/dist/htmx.min.js /static/Package.JSON""".split()


@pytest.mark.parametrize("path", HIDDEN)
def test_no_file_but_what_the_page_is_made_of_is_served(shared: Server, path: str):
    # raw, for a client would tidy the dots away
    said = raw(shared, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    assert said.split(b"\r\n")[0] == b"HTTP/1.1 404 Not Found"
    assert b"There is no such page." in said


def test_those_files_are_there_to_be_hidden():
    assert (ROOT / "static" / "package.json").is_file() and (ROOT / "pyproject.toml").is_file()
