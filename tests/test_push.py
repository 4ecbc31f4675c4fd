"""Web Push: a message sealed for one browser arrives at the push service of its maker, and opens with the browser's keys.

Here the push service is this test's own: the real ones cannot be had. What it gets is opened as a browser opens it.
"""

import base64
import http.server
import json
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import http_ece
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from on_page import Opens, start_of
from playwright.sync_api import BrowserContext, expect
from py_vapid import Vapid02
from servers import Api, Server, until

CONTACT = "mailto:ops@example.com"
FLAGS = ("--push", CONTACT, "--notify-hosts", "localhost")


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class Service(http.server.ThreadingHTTPServer):
    """A push service, and the keys of one browser that listens there."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taken)
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers = [201]  # the last one again and again
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.secret = os.urandom(16)

    @property
    def yes(self) -> dict[str, Any]:
        """What the browser says that lets itself be told."""
        point = self.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        keys = {"p256dh": b64(point), "auth": b64(self.secret)}
        return {
            "endpoint": f"http://localhost:{self.server_port}/push/1",
            "expirationTime": None,
            "keys": keys,
        }

    def opened(self, body: bytes) -> dict[str, str]:
        text = http_ece.decrypt(body, private_key=self.key, auth_secret=self.secret, version="aes128gcm")
        return msgspec.json.decode(text)


class Taken(http.server.BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
        answers = self.server.answers
        code = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(code)
        if code == 429:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """The tests read `got`."""


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    thread = threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def said_yes(server: Server, service: Service) -> str:
    answer = server.client.post("/api/push", json=service.yes)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["to"])


def tell(server: Server, to: str, **given: Any) -> int:
    body = {"task": "counter", "args": {"loops": 1}, "notify": [{"channel": "push", "to": to}]} | given
    answer = server.client.post("/api/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def delivery(server: Server, job: int, status: str) -> dict[str, Any]:
    """What came of a job's message, once it is that."""

    def found() -> dict[str, Any] | None:
        log = server.client.get(f"/api/jobs/{job}/deliveries").json()
        return log[0] if log and log[0]["status"] == status else None

    return until(found)


def test_what_arrives_opens_with_the_browsers_keys_and_is_signed_with_the_servers(
    server: Server, service: Service
) -> None:
    to = said_yes(server, service)
    job = tell(server, to)
    assert delivery(server, job, "delivered")["code"] == 201
    ((headers, body),) = service.got
    assert service.opened(body) == {
        "title": f"counter #{job} is done",
        "text": "1 completed of 1",
        "tag": f"rowcast {job}",
        "url": f"{server.url}/jobs/{job}",
    }
    assert headers["content-encoding"] == "aes128gcm" and int(headers["ttl"]) > 0
    assert Vapid02.verify(headers["authorization"])
    claims = headers["authorization"].split("t=")[1].split(".")[1]
    said = msgspec.json.decode(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    assert said["sub"] == CONTACT and said["aud"] == f"http://localhost:{service.server_port}"
    assert headers["authorization"].endswith(f"k={server.client.get('/api/push').json()['key']}")
    assert b"counter" not in body


def test_who_says_yes_twice_is_one_browser(server: Server, service: Service) -> None:
    assert said_yes(server, service) == said_yes(server, service)


@pytest.mark.parametrize("code", [404, 410])
def test_a_browser_that_took_its_yes_back_is_forgotten(server: Server, service: Service, code: int) -> None:
    to = said_yes(server, service)
    service.answers = [code]
    lost = delivery(server, tell(server, to), "failed")
    assert (lost["code"], lost["attempts"]) == (code, 1)
    assert delivery(server, tell(server, to), "failed")["error"] == "This browser is not told any more."
    assert len(service.got) == 1
    assert said_yes(server, service) != to


def test_what_may_arrive_later_is_sent_again(server: Server, service: Service) -> None:
    service.answers = [429, 201]
    job = tell(server, said_yes(server, service))
    assert delivery(server, job, "delivered")["attempts"] == 2
    assert [service.opened(body)["tag"] for _, body in service.got] == 2 * [f"rowcast {job}"]


def test_what_a_push_service_refuses_is_given_up(server: Server, service: Service) -> None:
    service.answers = [403]
    lost = delivery(server, tell(server, said_yes(server, service)), "failed")
    assert lost["error"] == "The push service refuses it: 403"


@pytest.mark.parametrize(
    ("address", "key", "says"),
    [
        ("https://127.0.0.1/1", None, "127.0.0.1 is at 127.0.0.1, which is not public; nothing was sent."),
        ("https://push.example.com/\x7f", None, "no address of a push service: "),
        ("https://push.example.com/1", b64(b"\x04" + 64 * b"\x01"), "The browser's key is none."),
    ],
)
def test_what_can_never_arrive_is_given_up_at_once(
    server: Server, service: Service, address: str, key: str | None, says: str
) -> None:
    to = said_yes(server, service)
    with closing(sqlite3.connect(server.directory / "data" / "rowcast.db", timeout=30)) as conn, conn:
        conn.execute(
            "update browsers set address = ?, key = coalesce(?, key) where name = ?", (address, key, to)
        )
    lost = delivery(server, tell(server, to), "failed")
    assert lost["error"].startswith(says) and lost["attempts"] == 1


def test_one_that_is_taken_off_is_told_nothing(server: Server, service: Service) -> None:
    to = said_yes(server, service)
    assert server.client.delete(f"/api/push/{to}").status_code == 204
    assert server.client.delete(f"/api/push/{to}").status_code == 404
    delivery(server, tell(server, to), "failed")
    assert service.got == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoint": "http://push.example.com/1"},
        {"endpoint": "ftp://127.0.0.1/1"},
        {"endpoint": "https://10.0.0.7/1"},
        {"endpoint": "https://[::1]/1"},
        {"endpoint": "https://127.0.0.1/1"},
        {"endpoint": f"https://push.example.com/{'x' * 2000}"},
        {"keys": {"p256dh": "short", "auth": "short"}},
        {"keys": {"p256dh": "%" * 87, "auth": "%" * 22}},
        {"keys": {"p256dh": b64(b"\x04" + 64 * b"\x01"), "auth": b64(16 * b"s")}},  # no point of the curve
        {"keys": {}},
        {"keys": None},
    ],
    ids=lambda wrong: str(wrong)[:60],
)
def test_what_no_browser_says_is_refused(server: Server, service: Service, wrong: dict[str, Any]) -> None:
    assert server.client.post("/api/push", json=service.yes | wrong).status_code == 422


def test_an_invented_browser_is_refused(server: Server) -> None:
    body = {"task": "counter", "args": {"loops": 0}, "notify": [{"channel": "push", "to": "browser-7"}]}
    assert server.client.post("/api/jobs", json=body).status_code == 422


def test_the_key_lies_beside_the_database_for_its_owner_alone_and_stays(
    server: Server, service: Service
) -> None:
    key = server.client.get("/api/push").json()["key"]
    path = Path(server.directory / "data" / "rowcast.db.push-key.pem")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    server.stop()
    server.start()
    assert server.client.get("/api/push").json()["key"] == key
    assert [one.name for one in path.parent.iterdir() if "push-key" in one.name] == [path.name]


def test_it_is_off_by_default(serve: Callable[..., Server], service: Service) -> None:
    server = serve()
    assert server.client.get("/api/push").json() == {"key": None}
    assert server.client.post("/api/push", json=service.yes).status_code == 404
    assert not list((server.directory / "data").glob("*push-key*"))
    lost = delivery(server, tell(server, "browser-0123456789abcdef"), "failed")
    assert lost["error"].startswith("Web Push is off here")


# ---- in a browser --------------------------------------------------------------------------------------------------

SUBSCRIBES = """(yes) => {
    const taken = { toJSON: () => yes };
    PushManager.prototype.getSubscription = async () => null;
    PushManager.prototype.subscribe = async (how) => { window.how = how; return taken; };
}"""


def test_a_tick_names_the_browser_for_the_job_and_says_who_passes_it_on(
    server: Server, service: Service, api: Api, open_page: Opens, granted: BrowserContext
) -> None:
    api.stall()
    job = server.begin(limit=3)
    granted.add_init_script(f"({SUBSCRIBES})({json.dumps(service.yes)})")  # its maker's cannot be had
    page = open_page(f"{server.url}/jobs/{job}", granted)
    page.get_by_text("Tell me when this is done").click()
    also = page.get_by_label("also when no page of Rowcast is open")
    expect(also).to_be_hidden()
    page.get_by_label("Tell me on this computer").check()
    also.check()
    expect(page.locator(".tell-here [role=status]")).to_contain_text(
        "maker of this browser passes the message on"
    )
    named = until(lambda: server.client.get(f"/api/jobs/{job}/notify").json()["notify"])
    assert [one["channel"] for one in named] == ["push"]
    assert page.evaluate("window.how.applicationServerKey") == server.client.get("/api/push").json()["key"]
    page.reload()
    expect(also).to_be_checked()
    page.get_by_text("Tell me when this is done").click()
    also.uncheck()
    until(lambda: not server.client.get(f"/api/jobs/{job}/notify").json()["notify"])
    also.check()
    until(lambda: server.client.get(f"/api/jobs/{job}/notify").json()["notify"])
    page.close()
    api.answer()
    assert service.opened(until(lambda: service.got)[0][1])["title"] == f"update_users #{job} is done"


def test_a_tick_in_the_form_names_the_browser_for_the_job_that_it_starts(
    server: Server, service: Service, open_page: Opens, granted: BrowserContext
) -> None:
    granted.add_init_script(f"({SUBSCRIBES})({json.dumps(service.yes)})")
    page = open_page(server.url, granted)
    form = start_of(page, "counter")
    form.get_by_text("Tell me when this is done").click()
    form.get_by_label("Tell me on this computer").check()
    form.get_by_label("also when no page of Rowcast is open").check()
    form.locator("input[name=notify-push]").wait_for(state="attached")
    form.get_by_role("button", name="Start").click()
    page.wait_for_url("**/jobs/*")
    until(lambda: service.got)


def test_what_is_pushed_is_shown_by_the_browser(
    server: Server, service: Service, open_page: Opens, granted: BrowserContext
) -> None:
    """The browser is handed what the push service got and its keys have opened, as its own maker's would hand it."""
    job = tell(server, said_yes(server, service))
    delivery(server, job, "delivered")
    page = open_page(f"{server.url}/users", granted)
    worker = granted.new_cdp_session(page)
    found: list[dict[str, Any]] = []
    worker.on("ServiceWorker.workerRegistrationUpdated", lambda said: found.extend(said["registrations"]))
    worker.send("ServiceWorker.enable")
    page.evaluate("navigator.serviceWorker.register(trusted.createScriptURL('/static/service.js'))")
    until(
        lambda: page.evaluate(
            "navigator.serviceWorker.getRegistration('/static/').then((one) => !!one?.active)"
        )
    )
    until(lambda: page.title() and found)
    (((_, body)),) = service.got
    worker.send(
        "ServiceWorker.deliverPushMessage",
        {
            "origin": server.url,
            "registrationId": found[-1]["registrationId"],
            "data": msgspec.json.encode(service.opened(body)).decode(),
        },
    )
    shown = until(
        lambda: page.evaluate(
            "navigator.serviceWorker.getRegistration('/static/').then((one) => one.getNotifications())"
            ".then((all) => all.map(({ title, data }) => [title, data.url]))"
        )
    )
    assert shown == [[f"counter #{job} is done", f"{server.url}/jobs/{job}"]]
