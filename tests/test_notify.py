"""Who is told of a job: rules as they are read, and whom a job tells of those that are named for it."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from rowcast.components import messages_page, to_html
from rowcast.dashboard import create
from rowcast.jobs import Jobs
from rowcast.messages.channels import Means
from rowcast.messages.webhook import secrets_of
from rowcast.pages.messages import message_log, tell_fields
from rowcast.pages.skeleton import ASKS
from rowcast.tables.accounts import Accounts
from rowcast.tables.database import close_databases, connection
from rowcast.tables.schedules import Schedules
from rowcast.tables.schema import prepare
from rowcast.tasks.accounts import Account
from rowcast.tasks.notify import (
    USUAL,
    Notify,
    Receiver,
    Usual,
    as_text,
    checked,
    chosen,
    masked,
    of_text,
    read,
)
from rowcast.tasks.records import OWNER, Delivery
from rowcast.tasks.registry import REGISTRY, load, task
from rowcast.tasks.settings import Settings
from rowcast.web.background_task import BackgroundTask

TO = "https://hooks.example.com/jobs"


def test_rules_are_read_from_json_and_those_of_one_address_are_one():
    found = read(
        json.dumps(
            [
                {"channel": "webhook", "to": TO, "on": ["turned", "failed"]},
                {"channel": "webhook", "to": TO, "on": ["completed"]},
                {"channel": "email", "to": "ann@example.com"},
            ]
        )
    )
    assert found == (
        Notify("webhook", TO, ("completed", "failed", "turned")),
        Notify("email", "ann@example.com", ("completed", "failed", "cancelled", "paused")),
    )
    assert read("") == read("[]") == ()


def test_addresses_of_all_the_world_are_taken():
    hosts = [
        "exämple.de",
        "xn--exmple-cua.de",
        "my_service:8080",
        "[2001:db8::1]",
        "a.example.com.",
        "10.1.2.3",
    ]
    mails = ["müller@exämple.de", "o'hara+x=y/z@example.co.uk", "用户@例え.jp", "ann@intra_net"]
    given = [{"channel": "webhook", "to": f"https://{host}/x"} for host in hosts]
    assert len(checked(given + [{"channel": "email", "to": to} for to in mails])) == len(hosts) + len(mails)


@pytest.mark.parametrize(
    "given",
    [
        "no JSON", "{}", '"ann@example.com"', "[1]", '[{"channel": "fax", "to": "1"}]',
        '[{"channel": "email"}]', '[{"channel": "email", "to": "ann"}]', '[{"channel": "email", "to": "a@b c"}]',
        '[{"channel": "email", "to": "a@b\\nBcc: c@d"}]', '[{"channel": "email", "to": "ann@example.com", "on": []}]',
        '[{"channel": "email", "to": "ann@example.com", "on": ["never"]}]',
        '[{"channel": "email", "to": "ann@example.com", "trusted": true}]',
        '[{"channel": "email", "to": "a..b@example.com"}]', '[{"channel": "email", "to": ".a@example.com"}]',
        '[{"channel": "email", "to": "a@-example-.com"}]', '[{"channel": "email", "to": "a@b..c"}]',
        '[{"channel": "email", "to": "a@ex\u00a1mple..com"}]', '[{"channel": "webhook", "to": "https://xn--/"}]',
        '[{"channel": "webhook", "to": "https://.com/"}]', '[{"channel": "webhook", "to": "https://\u2460.0.0.1/"}]',
        '[{"channel": "webhook", "to": "hooks.example.com"}]', '[{"channel": "webhook", "to": "ftp://example.com"}]',
        '[{"channel": "webhook", "to": "https://"}]', '[{"channel": "webhook", "to": "https://a:b@example.com"}]',
        '[{"channel": "webhook", "to": "https://example.com:99999"}]', '[{"channel": "webhook", "to": "http://[::1"}]',
        '[{"channel": "webhook", "to": "https://a%31.example.com/"}]',
        json.dumps([{"channel": "webhook", "to": f"https://{'a' * 64}.example.com/"}]),
        '[{"channel": "apprise", "to": "slack"}]',
        json.dumps([{"channel": "email", "to": f"a{n}@example.com"} for n in range(21)]),
        json.dumps([{"channel": "webhook", "to": f"https://example.com/{'a' * 2000}"}]),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_is_refused_in_a_sentence(given: str):
    with pytest.raises(ValueError, match=r"^notify.*\.$") as error:
        read(given)
    assert "\n" not in str(error.value)


def test_a_job_tells_whom_it_names_or_else_those_of_task_and_server_and_whom_every_job_tells():
    task, server, all_of_them = (Notify("webhook", f"{TO}/{name}") for name in ("task", "server", "all"))
    usual = Usual((server,), (all_of_them,))
    own = chosen([task], usual, None)
    assert [one.to for one in own] == [task.to, server.to, all_of_them.to]
    assert all(one.trusted for one in own) and [one.always for one in own] == [False, False, True]
    typed = Receiver("webhook", "http://10.0.0.1/")
    old = Receiver("webhook", f"{TO}/old", trusted=True)  # which task or server have named before
    given = chosen([task], usual, [typed, Receiver("webhook", task.to), old])
    assert [(one.to, one.trusted) for one in given] == [
        (typed.to, False), (task.to, True), (old.to, True), (all_of_them.to, True),
    ]  # fmt: skip
    assert [one.to for one in chosen([task], usual, [])] == [all_of_them.to]
    assert of_text(as_text(given)) == list(given) and as_text([]) is None


def test_a_tasks_own_receivers_are_checked_where_it_is_written():
    made = task(notify=[{"channel": "email", "to": "ann@example.com", "on": ["failed"]}])(one_that_tells)
    assert made.notify == (Notify("email", "ann@example.com", ("failed",)),)
    REGISTRY.pop(made.name)
    with pytest.raises(ValueError, match="no mailbox"):
        task(notify=[{"channel": "email", "to": "ann"}])(one_that_tells)


def one_that_tells() -> None:
    """Stands for a user's task."""


def one_with_notify(notify: str) -> None:
    """Has an argument of that name itself."""


def test_a_background_task_says_who_is_told_unless_its_function_has_such_an_argument():
    rules = [{"channel": "email", "to": "ann@example.com"}]
    (told,) = BackgroundTask(one_that_tells, notify=rules).options.notify or ()
    assert (told.given,) == checked(rules) and not told.trusted
    assert BackgroundTask(one_that_tells).options.notify is None
    own = BackgroundTask(one_with_notify, notify="yes")
    assert own.options.notify is None and own.job_args == {"notify": "yes"}
    with pytest.raises(TypeError, match="no mailbox"):
        BackgroundTask(one_that_tells, notify=[{"channel": "email", "to": "ann"}])


def test_what_a_schedule_starts_tells_whom_task_and_server_tell(tmp_path: Path):
    usual = Usual((Notify("webhook", TO),))
    path = str(tmp_path / "rowcast.db")
    prepare(path)
    jobs = Jobs(path, usual)
    schedules = Schedules(path, usual)
    made = schedules.add(load("rowcast.tasks.built_in:counter"), {"loops": 1}, OWNER, "* * * * *")
    connection(path).execute("update schedules set next_at = 1 where id = ?", (made.id,))
    (job,) = schedules.start_due()
    assert [one.to for one in of_text(jobs.job(job, OWNER).notify)] == [TO]
    close_databases()


# ---- who only looks ----------------------------------------------------------------------------------------


def test_who_may_only_look_sees_no_whole_address_of_a_webhook_and_no_button():
    token = ASKS.set(Account("ben", "viewer"))
    try:
        page = to_html(messages_page("", [a_delivery(TO + "/T0KEN")], {"failed": 1}, "", []))
        log = to_html(*message_log([a_delivery(TO + "/T0KEN")]))
    finally:
        ASKS.reset(token)
    for html in (page, log):
        assert "hooks.example.com/…" in html and "T0KEN" not in html and "Send again" not in html
    assert "Make its secret" not in page
    seen = to_html(messages_page("", [a_delivery(TO + "/T0KEN")], {"failed": 1}, "", []))
    assert "T0KEN" in seen and "Send again" in seen and "Make its secret" in seen


def test_an_address_of_the_settings_is_whole_for_admins_alone():
    usual = [Receiver("apprise", "slack://TokenA/TokenB/#jobs", trusted=True)]
    for role, whole in (("admin", True), ("operator", False)):
        token = ASKS.set(Account("ann", role))
        try:
            form = to_html(tell_fields("x", usual))
        finally:
            ASKS.reset(token)
        assert ("TokenA" in form) is whole and 'name="notify-keep"' in form


def a_delivery(to: str, owner: str = OWNER, trusted: int = 0) -> Delivery:
    return Delivery(
        id="msg_1", job=1, task="work", owner=owner, channel="webhook", to=to, trusted=trusted, event="failed", body="{}",
        status="failed", attempts=1, code=410, error="410 Gone", created_at=1.0, asked_at=1.0, due_at=1.0, tried_at=1.0,
        delivered_at=None,
    )  # fmt: skip


def test_addresses_are_masked_but_for_mail():
    assert masked("webhook", "https://ann:pass@hooks.example.com:8443/a?b") == "https://hooks.example.com/…"
    assert masked("apprise", "slack://TokenA/TokenB/#jobs") == "slack://…"
    assert masked("email", "ann@example.com") == "ann@example.com"


# ---- what settings and code name, asked over HTTP ----------------------------------------------------------

OF_SETTINGS = f"{TO}/SETTINGS"
OF_CODE = "slack://CODEA/CODEB/CODEC"


class Desk:
    """A dashboard in an app that says who asks: `boss` is an admin, anybody else an operator."""

    def __init__(self, path: str):
        self.path = path
        prepare(path)
        Accounts(path).add("boss", "admin", None)
        rules = json.dumps([{"channel": "webhook", "to": OF_SETTINGS}])
        self.settings = Settings(database=path, notify=rules)
        self.made = create(self.settings, owner=lambda req: req.headers.get("X-User"))

    def ask(self, who: str, path: str, method: str = "GET", **more: Any) -> httpx.Response:
        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self.made.asgi)
            headers = {"X-User": who}
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost", headers=headers
            ) as client:
                return await client.request(method, path, **more)

        return anyio.run(asked)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    task(name="nightly", notify=[{"channel": "apprise", "to": OF_CODE}])(one_that_tells)
    yield Desk(str(tmp_path / "rowcast.db"))
    REGISTRY.pop("nightly")
    close_databases()


def test_a_webhook_of_the_settings_has_one_secret_for_all_owners_which_admins_alone_see(desk: Desk):
    means = Means(desk.path, desk.settings)
    (secret,), other = (secrets_of(a_delivery(OF_SETTINGS, name, 1), means) for name in ("ann", "ben"))
    assert other == [secret]
    for path in ("/api/webhooks", "/messages"):
        assert OF_SETTINGS not in desk.ask("ann", path).text and "SETTINGS" in desk.ask("boss", path).text
    (row,) = desk.ask("boss", "/api/webhooks").json()
    assert desk.ask("ann", f"/api/webhooks/{row['id']}/rotate", "POST").status_code == 404
    shown = desk.ask("boss", "/api/webhooks", "POST", json={"url": OF_SETTINGS})
    assert (shown.status_code, shown.json()["secret"]) == (201, secret)
    turned = desk.ask("boss", f"/api/webhooks/{row['id']}/rotate", "POST").json()["secret"]
    assert secrets_of(a_delivery(OF_SETTINGS, "ann", 1), means) == [turned, secret]


def test_a_schedule_shows_of_what_settings_and_code_name_the_whole_to_admins_alone(desk: Desk):
    named = [{"channel": "apprise", "to": OF_CODE}, {"channel": "webhook", "to": OF_SETTINGS}]
    mine = {"channel": "webhook", "to": f"{TO}/MINE"}
    given = {"task": "nightly", "cron": "0 6 * * *", "notify": [*named, mine]}
    assert desk.ask("ann", "/api/schedules", "POST", json=given).status_code == 201
    (one,) = Schedules(desk.path).every("ann")
    assert [told.trusted for told in one.how.notify or ()] == [True, True, False]
    REGISTRY["nightly"] = replace(
        REGISTRY["nightly"], notify=()
    )  # they stay secrets when they are named no more
    desk.made.settings.notify = ""
    for who, whole in (("ann", False), ("boss", True)):
        for path in ("/api/schedules", "/schedules", f"/schedules/{one.id}"):
            html = desk.ask(who, path).text
            assert whole or ("CODEB" not in html and "SETTINGS" not in html)
        shown = desk.ask(who, "/api/schedules").json()["schedules"][0]["options"]["notify"]
        assert (named[0]["to"] == shown[0]["to"], named[1]["to"] == shown[1]["to"]) == (whole, whole)
        assert shown[2] == {**mine, "on": list(USUAL)}
    first = desk.ask("ann", f"/api/schedules/{one.id}/run", "POST").json()["id"]
    second = desk.ask("ann", f"/jobs/{first}/again", "POST").headers["Location"].rpartition("/")[2]
    keep = re.findall(
        r'name="notify-keep"[^>]*value="(\w{16})"', desk.ask("ann", f"/jobs/{first}/again").text
    )
    form = {"task": "nightly", "option-again_job": first, "notify-asked": "1", "notify-keep": keep}
    third = desk.ask("ann", "/jobs", "POST", data=form).headers["Location"].rpartition("/")[2]
    for job in (first, second, third):
        told = desk.ask("ann", f"/api/jobs/{job}/notify").json()["notify"]
        assert [one["to"] for one in told] == ["slack://…", "https://hooks.example.com/…", mine["to"]]


def test_what_is_masked_for_who_asks_is_kept_when_it_is_sent_back(desk: Desk):
    named = [{"channel": "apprise", "to": OF_CODE}, {"channel": "webhook", "to": OF_SETTINGS}]
    start = {"task": "nightly", "notify": named}
    made = desk.ask("ann", "/api/schedules", "POST", json={**start, "cron": "0 6 * * *"}).json()["id"]
    job = desk.ask("ann", "/api/jobs", "POST", json={**start, "run_at": "3600"}).json()["id"]

    def told() -> list[tuple[Receiver, ...]]:
        return [
            Schedules(desk.path).schedule(made, "ann").how.notify or (),
            tuple(desk.made.outbox.receivers(job)),
        ]

    before = told()
    page = desk.ask("ann", f"/schedules/{made}").text
    keep = re.findall(r'name="notify-keep"[^>]*value="(\w{16})"', page)
    form = {"task": "nightly", "cron": "0 7 * * *", "notify-asked": "1", "notify-keep": keep}
    assert desk.ask("ann", f"/schedules/{made}/edit", "POST", data=form).status_code == 303
    given = desk.ask("ann", f"/api/jobs/{job}/notify").json()
    assert desk.ask("ann", f"/api/jobs/{job}/notify", "PUT", json=given).json() == given
    edit = {"task": "nightly", "cron": "0 8 * * *", **given}
    assert desk.ask("ann", f"/api/schedules/{made}", "PUT", json=edit).status_code == 200
    assert told() == before
    given["notify"].append(given["notify"][-1])  # of which nothing is kept
    answer = desk.ask("ann", f"/api/jobs/{job}/notify", "PUT", json=given)
    assert (answer.status_code, "is not the whole address" in answer.text) == (422, True)
    assert told() == before
