"""Webhooks: what arrives at a real receiver, signed, and what happens where one says no, hangs, or is where it may not be."""

import asyncio
import base64
import ipaddress
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from conftest import PATIENCE, Server, free_port, until
from receiver import Got, Receiver, receiving
from standardwebhooks import Webhook

from rowcast.messages.channels import Later
from rowcast.messages.guarded import Refused
from rowcast.messages.webhook import came_of as what_came_of
from rowcast.messages.webhook import client_with
from rowcast.tasks.reach import Reach

Serve = Callable[..., Server]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that may tell this machine."""
    made = Server(tmp_path_factory.mktemp("server"), "--notify-hosts", "127.0.0.1, hooks.test")
    yield made
    made.stop()
    made.client.close()


def tell(server: Server, *receivers: Any, task: str = "counter", **args: Any) -> int:
    """Start a job that tells these: addresses of webhooks, or rules."""
    rules = [one if isinstance(one, dict) else {"channel": "webhook", "to": one} for one in receivers]
    body = {"task": task, "args": args or {"loops": 1}, "notify": rules}
    answer = server.client.post("/api/jobs", json=body)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def deliveries(server: Server, job: int) -> list[dict[str, Any]]:
    return server.client.get(f"/api/jobs/{job}/deliveries").json()


def came_of(server: Server, job: int, status: str, seconds: float = PATIENCE) -> dict[str, Any]:
    """The job's only message, once it has this status."""
    return until(
        lambda: (found := deliveries(server, job)) and found[0]["status"] == status and found[0], seconds
    )


def arrived(receiver: Receiver, path: str, number: int = 1) -> list[Got]:
    return until(lambda: len(found := receiver.at(path)) >= number and found)


def test_a_job_that_ends_is_told_with_its_facts_and_a_signature_that_verifies(
    server: Server, receiver: Receiver
):
    made = server.client.post("/api/webhooks", json={"url": f"{receiver.url}/ok/facts"})
    assert made.status_code == 201 and made.headers["Cache-Control"] == "no-store"
    job = tell(server, f"{receiver.url}/ok/facts")
    told = came_of(server, job, "delivered")
    (got,) = arrived(receiver, "/ok/facts")
    verified = Webhook(made.json()["secret"]).verify(got.body, got.headers)
    assert verified["type"] == "job.completed" and verified["data"]["id"] == job
    shown = server.job(job)
    assert verified["data"] | {"seq": 0} == shown | {"seq": 0}
    assert (told["code"], told["attempts"], told["event"]) == (200, 1, "completed")
    assert told["id"] == got.ident and told["delivered_at"] and told["error"] is None


def test_each_try_bears_the_same_id_and_a_signature_of_its_own_time(server: Server, receiver: Receiver):
    job = tell(server, f"{receiver.url}/later/same")
    told = came_of(server, job, "delivered")
    first, second = arrived(receiver, "/later/same", 2)
    assert first.ident == second.ident == told["id"] and first.body == second.body
    assert (told["attempts"], told["code"], told["error"]) == (2, 200, None)


def test_a_receiver_that_asks_for_a_pause_gets_it_and_its_other_messages_wait_too(
    server: Server, receiver: Receiver
):
    job = tell(server, f"{receiver.url}/asks/pause")
    told = came_of(server, job, "delivered")
    first, second = arrived(receiver, "/asks/pause", 2)
    assert told["attempts"] == 2 and first.ident == second.ident and second.at >= first.at + 1.9


def test_an_answer_that_says_no_is_told_in_a_line_and_tried_again(server: Server, receiver: Receiver):
    job = tell(server, f"{receiver.url}/no/line")
    told = until(lambda: (found := deliveries(server, job)) and found[0]["error"] and found[0])
    assert told["status"] in ("queued", "sending") and told["code"] == 500
    assert told["error"] == "500 Internal Server Error: out of order \x1b[2Jplease call"
    page = server.client.get(f"/jobs/{job}").text
    assert "out of order" in page and "\x1b" not in page  # it steers nothing, and is shown by its name


def test_what_is_gone_is_given_up_and_sent_again_by_hand_under_its_id(server: Server, receiver: Receiver):
    job = tell(server, f"{receiver.url}/gone/hand")
    told = came_of(server, job, "failed")
    assert (told["code"], told["error"], told["attempts"]) == (410, "410 Gone", 1)
    again = server.client.post(f"/api/jobs/{job}/deliveries/{told['id']}/retry")
    assert again.status_code == 200 and again.json()["id"] == told["id"]
    both = arrived(receiver, "/gone/hand", 2)
    assert {one.ident for one in both} == {told["id"]}
    assert server.client.post(f"/api/jobs/{job}/deliveries/msg_none/retry").status_code == 404
    assert server.client.post(f"/api/jobs/999999/deliveries/{told['id']}/retry").status_code == 404


def test_a_redirect_is_not_followed(server: Server, receiver: Receiver):
    job = tell(server, f"{receiver.url}/moves/on")
    told = until(lambda: (found := deliveries(server, job)) and found[0]["error"] and found[0])
    assert told["code"] == 302 and "which is not followed" in told["error"]
    assert receiver.at("/ok") == []


@pytest.mark.parametrize(
    ("code", "location", "text", "said"),
    [
        (301, "https://other.example.com/T0/T0KEN", "", "301: it sends on to https://other.example.com/…, which is not followed"),
        (302, "/T0/T0KEN?key=T0KEN", "", "302: it sends on to https://hooks.example.com/…, which is not followed"),
        (302, "//[T0KEN", "", "302: it sends on to …, which is not followed"),
        (302, "T0KEN:T0KEN", "", "302: it sends on to …, which is not followed"),
        (404, None, "Cannot POST /T0/T0KEN", "404 Not Found: Cannot POST •••"),
        (500, None, "at /T0/T0KEN?key=T0KEN: no", "500 Internal Server Error: at •••: no"),
    ],
)  # fmt: skip
def test_an_answer_that_repeats_the_address_is_told_without_its_path(
    code: int, location: str | None, text: str, said: str
):
    request = httpx.Request("POST", "https://hooks.example.com/T0/T0KEN?key=T0KEN")
    headers = {"Location": location} if location else {}
    answer = httpx.Response(code, headers=headers, stream=httpx.ByteStream(text.encode()), request=request)
    with pytest.raises(Later) as error:
        asyncio.run(what_came_of(answer))
    assert str(error.value) == said


def test_a_receiver_that_hangs_slows_neither_another_nor_a_job(server: Server, receiver: Receiver):
    """Of one that hangs there are more messages than may be under way at once."""
    slow = [tell(server, f"{receiver.url}/held/slow") for _ in range(8)]
    until(lambda: len(receiver.at("/held/slow")) == 4)
    fast = tell(server, f"{receiver.url}/ok/fast")
    assert came_of(server, fast, "delivered")["attempts"] == 1
    assert all(deliveries(server, job)[0]["status"] in ("queued", "sending") for job in slow)
    assert receiver.under_way == 4  # few at once, and the job after them is done all the same
    receiver.let_go()
    for job in slow:
        came_of(server, job, "delivered")
    assert len({one.ident for one in receiver.at("/held/slow")}) == 8
    receiver.free.clear()


def test_one_who_is_told_by_two_rules_is_told_once(server: Server, receiver: Receiver):
    url = f"{receiver.url}/ok/once"
    job = tell(
        server, {"channel": "webhook", "to": url, "on": ["completed"]}, {"channel": "webhook", "to": url}
    )
    came_of(server, job, "delivered")
    assert len(deliveries(server, job)) == len(receiver.at("/ok/once")) == 1


def test_who_is_told_can_be_changed_while_a_job_waits_and_a_pause_by_its_canary_is_told(
    server: Server, receiver: Receiver
):
    first, second = (f"{receiver.url}/ok/{name}" for name in ("canary", "after"))
    body = {
        "task": "update_users",
        "args": {"limit": 2},
        "canary": 1,
        "notify": [{"channel": "webhook", "to": first}],
    }
    job = server.client.post("/api/jobs", json=body).json()["id"]
    assert came_of(server, job, "delivered")["event"] == "paused"
    assert arrived(receiver, "/ok/canary")[0].json["data"]["status"] == "paused"
    path = f"/api/jobs/{job}/notify"
    assert [one["to"] for one in server.client.get(path).json()["notify"]] == [first]
    changed = server.client.put(
        path, json={"notify": [{"channel": "webhook", "to": second, "on": ["completed"]}]}
    )
    assert changed.json() == {"notify": [{"channel": "webhook", "to": second, "on": ["completed"]}]}
    assert server.client.put(path, json={"notify": [{"channel": "fax", "to": "1"}]}).status_code == 422
    server.act(job, "resume")
    assert arrived(receiver, "/ok/after")[0].json["type"] == "job.completed"
    assert len(receiver.at("/ok/canary")) == 1
    server.ended(job)
    assert server.client.put(path, json={"notify": []}).status_code == 409


def test_a_form_of_a_job_that_is_not_there_is_answered_so(server: Server):
    assert server.client.post("/jobs/999999/notify", data={"notify-asked": "1"}).status_code == 404
    job = tell(server, "https://hooks.example.com/x")
    answer = server.client.post(f"/jobs/{job}/notify", data={"notify-asked": "1", "notify-keep": "0" * 16})
    assert answer.status_code == 422 and "was changed since this page was loaded" in answer.text


# ---- secrets -----------------------------------------------------------------------------------------------


def test_a_secret_is_shown_once_and_exchanged_with_two_valid_at_a_time(server: Server, receiver: Receiver):
    url = f"{receiver.url}/ok/secret"
    job = tell(server, url)
    came_of(server, job, "delivered")
    (kept,) = [one for one in server.client.get("/api/webhooks").json() if one["url"] == url]
    assert kept["shown_at"] is None and "secret" not in kept
    first = server.client.post(f"/api/webhooks/{kept['id']}/rotate").json()
    assert first["retired_at"] is None  # the one before, nobody knew: it is the same
    (got,) = receiver.at("/ok/secret")
    Webhook(first["secret"]).verify(got.body, got.headers)
    assert server.client.post("/api/webhooks", json={"url": url}).status_code == 409
    second = server.client.post(f"/api/webhooks/{kept['id']}/rotate").json()
    assert second["secret"] != first["secret"] and second["retired_at"]
    tell(server, url)
    got = arrived(receiver, "/ok/secret", 2)[1]
    assert len(got.headers["webhook-signature"].split()) == 2
    for secret in (first["secret"], second["secret"]):
        Webhook(secret).verify(got.body, got.headers)
    for path in ("/api/webhooks", "/messages"):
        assert "whsec_" not in server.client.get(path).text


def test_the_webhook_of_the_settings_is_told_of_every_job_with_the_settings_secrets(
    serve: Serve, receiver: Receiver
):
    new, old = (f"whsec_{base64.b64encode(letter * 32).decode()}" for letter in (b"a", b"b"))
    url = f"{receiver.url}/ok/all"
    server = serve("--webhook-url", url, "--webhook-secret", f"{new} {old}")
    job = server.begin("counter", loops=1, notify=[])
    came_of(server, job, "delivered")
    (got,) = receiver.at("/ok/all")
    for secret in (new, old):
        Webhook(secret).verify(got.body, got.headers)
    assert server.client.get("/api/webhooks").json() == []
    page = server.client.get("/").text
    assert "Told of every job: 127.0.0.1" in page and "whsec_" not in page


def test_on_a_queue_messages_go_out_as_well_and_no_worker_is_needed_for_that(
    serve: Serve, receiver: Receiver
):
    server = serve(
        "--engine", "celery", "--broker-url", f"redis://127.0.0.1:{free_port()}/0", "--worker-token", "t",
        "--notify-hosts", "127.0.0.1",
    )  # fmt: skip
    job = tell(server, f"{receiver.url}/ok/queue")
    server.act(job, "cancel")
    assert came_of(server, job, "delivered")["event"] == "cancelled"
    assert arrived(receiver, "/ok/queue")[0].json["data"]["engine"] == "celery"


# ---- chat --------------------------------------------------------------------------------------------------


def test_a_message_by_apprise_arrives_with_the_counts_and_a_link(serve: Serve, receiver: Receiver):
    to = receiver.url.replace("http://", "json://") + "/ok/chat"
    usual = json.dumps([{"channel": "apprise", "to": to}])
    server = serve("--notify", usual, "--public-url", "https://jobs.example.com/at/")
    job = server.begin("counter", loops=2)
    came_of(server, job, "delivered")
    (got,) = receiver.at("/ok/chat")
    assert got.json["title"] == f"counter #{job} is done"
    assert "2 completed of 2" in got.json["message"]
    assert f"https://jobs.example.com/at/jobs/{job}" in got.json["message"]
    again = tell(server, {"channel": "apprise", "to": to, "on": ["completed"]})  # one of the settings' own
    assert came_of(server, again, "delivered")["channel"] == "apprise"


# ---- where a message may not go ----------------------------------------------------------------------------

LOCAL = [
    "localhost",
    "127.0.0.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "0.0.0.0",
    "[::]",
    "api.localhost",
    "localhost.",
]
PRIVATE = ["10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "[fe80::1]", "[fd00::1]", "[::ffff:10.0.0.1]",
           "100.64.0.1", "[64:ff9b::a00:1]", "[2002:a00:1::]", "224.0.0.1", "[ff02::1]", "[fec0::1]", "[::127.0.0.1]",
           "[64:ff9b:1::a00:1]", "[::ffff:0:10.0.0.1]"]  # fmt: skip


@pytest.mark.parametrize("host", LOCAL + PRIVATE)
def test_an_address_that_is_not_public_is_refused_at_the_start(serve_plain: Server, host: str):
    body = {
        "task": "counter",
        "args": {"loops": 1},
        "notify": [{"channel": "webhook", "to": f"http://{host}/"}],
    }
    answer = serve_plain.client.post("/api/jobs", json=body)
    assert answer.status_code == 422 and "is not public; --notify-hosts" in answer.json()["error"]


@pytest.fixture(scope="module")
def serve_plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that may tell nobody who is not public."""
    made = Server(tmp_path_factory.mktemp("plain"))
    yield made
    made.stop()
    made.client.close()


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "127.0.1"])
def test_another_way_to_write_this_machines_address_is_seen_where_it_is_connected_to(
    serve_plain: Server, receiver: Receiver, host: str
):
    job = tell(serve_plain, f"http://{host}:{receiver.port}/ok/inside")
    told = came_of(serve_plain, job, "failed")
    refused = ("which is not public; nothing was sent", "no address of a webhook")
    assert any(why in told["error"] for why in refused) and told["code"] is None
    assert receiver.at("/ok/inside") == []


def test_addresses_of_apprise_are_not_for_who_only_starts_a_job(serve_plain: Server):
    body = {"task": "counter", "notify": [{"channel": "apprise", "to": "json://127.0.0.1/"}]}
    answer = serve_plain.client.post("/api/jobs", json=body)
    assert answer.status_code == 422 and "for whoever runs Rowcast" in answer.json()["error"]


class Names:
    """A name server of the test's own: what it says of a name, one answer after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: list[str]):
        self.answers = list(answers)
        self.asked = 0
        self.real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self.look_up)

    def look_up(self, host: Any, port: Any, *how: Any, **named: Any) -> Any:
        if host not in ("hooks.test", b"hooks.test"):
            return self.real(host, port, *how, **named)
        self.asked += 1
        found = self.answers.pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]


def posted(client: Any, url: str) -> int:
    """The code of the answer to a post."""

    async def post() -> int:
        async with client:
            return int((await client.post(url, content=b"{}", headers={"webhook-id": "1"})).status_code)

    return asyncio.run(post())


MAY = Reach("127.0.0.2")  # what stands here for all that is public


@pytest.fixture
def two() -> Iterator[tuple[Receiver, Receiver]]:
    """Receivers at one port of two addresses: only the second may be told."""
    with receiving() as inside, receiving("127.0.0.2", inside.port) as outside:
        yield inside, outside


def test_a_name_is_looked_up_once_and_what_was_looked_at_is_what_is_connected_to(
    monkeypatch: pytest.MonkeyPatch, two: tuple[Receiver, Receiver]
):
    inside, outside = two
    names = Names(monkeypatch, ["127.0.0.2"], ["127.0.0.1"])
    assert posted(client_with(MAY), f"http://hooks.test:{inside.port}/ok") == 200
    assert names.asked == 1 and [got.headers["host"] for got in outside.got] == [f"hooks.test:{inside.port}"]
    with pytest.raises(Refused, match=r"hooks\.test is at 127\.0\.0\.1, which is not public"):
        posted(client_with(MAY), f"http://hooks.test:{inside.port}/ok")
    assert inside.got == []


def test_of_several_addresses_only_those_that_may_be_reached_are_tried(
    monkeypatch: pytest.MonkeyPatch, two: tuple[Receiver, Receiver]
):
    inside, outside = two
    Names(monkeypatch, ["127.0.0.1", "10.0.0.1", "127.0.0.2"])
    assert posted(client_with(MAY), f"http://hooks.test:{inside.port}/ok") == 200
    assert (len(inside.got), len(outside.got)) == (0, 1)


def test_of_a_port_inside_nothing_is_said_whether_somebody_listens(monkeypatch: pytest.MonkeyPatch):
    """Else who types names could look for what runs here."""
    said = set()
    with receiving() as listens:
        for port in (listens.port, free_port()):
            Names(monkeypatch, ["127.0.0.1"])
            with pytest.raises(Refused) as error:
                posted(client_with(MAY), f"http://hooks.test:{port}/ok")
            said.add(str(error.value))
    assert len(said) == 1


@pytest.mark.parametrize(
    ("hosts", "host", "address", "may"),
    [
        ("", "example.com", "93.184.216.34", True),
        ("", "example.com", "2606:2800:220:1::", True),
        ("", "example.com", "::ffff:93.184.216.34", True),
        ("", "example.com", "64:ff9b::5db8:d822", True),
        ("hooks.test", "hooks.test", "10.0.0.1", True),
        ("hooks.test", "HOOKS.test.", "10.0.0.1", True),
        ("hooks.test", "x.hooks.test", "10.0.0.1", False),
        ("*.test", "hooks.test", "10.0.0.1", True),
        ("*.test", "test", "10.0.0.1", False),
        ("10.0.0.0/8", "hooks.test", "10.255.0.1", True),
        ("10.0.0.0/8", "hooks.test", "::ffff:10.0.0.1", True),
        ("10.0.0.0/8", "hooks.test", "192.168.0.1", False),
        ("[::1], 127.0.0.1", "hooks.test", "::1", True),
        ("64:ff9b:1::/48", "hooks.test", "64:ff9b:1::5db8:d822", True),
    ],
)  # fmt: skip
def test_hosts_that_are_not_public_are_reached_where_the_settings_say_so(
    hosts: str, host: str, address: str, may: bool
):
    assert Reach(hosts).allows(host, ipaddress.ip_address(address)) is may
