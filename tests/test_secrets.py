"""Secret[str]: what is given for such an argument is the task's alone, wherever one looks for it."""

import contextlib
import re
import sqlite3
import stat
import sys
from collections.abc import Iterator
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from conftest import Api, Server, rowcast
from hypothesis import given, settings
from hypothesis import strategies as st

from rowcast import BackgroundTask, Secret
from rowcast.tables import seals
from rowcast.tasks.encoding import pack
from rowcast.tasks.masking import MASK
from rowcast.tasks.records import BadArguments, decode, encode
from rowcast.tasks.registry import made_of
from rowcast.tasks.secret import read_secret
from rowcast.tasks.work import Result
from rowcast.web.background_task import BackgroundTask as Background
from rowcast.worker.attempt import encode_result
from rowcast.worker.hiding import CUT, Hider, forms_of

KEY = 'sk_live "Ωß/+&%<k>" 4711'
PEM = "-----BEGIN KEY-----\nMIIBVQIBADANBgkqhkiG\n9w0BAQEFAASCAT8wggE7\n-----END KEY-----"
FILES = {
    "mine.py": """
import base64, json, logging, os
from urllib.parse import quote
import httpx
from rowcast import Mail, Mailer, Retry, Secret, step, task

log = logging.getLogger("mine")

def told(text):
    print("printed", text)
    log.warning("logged %s", text)
    log.info("as JSON %s, in an address %s", json.dumps(text), quote(text))

@task(concurrency=4)
async def each(item: str, api: httpx.AsyncClient, key: Secret[str], more: Secret[str] | None = None):
    assert more is None
    print("as it is", key, repr(key), f"{key:>20}")
    told(key.reveal())
    if item == "raises":
        raise ValueError(f"no good: {key.reveal()}")
    if item == "asks":
        raise httpx.HTTPStatusError(f"for {key.reveal()}", request=httpx.Request("GET", "http://x/"),
            response=httpx.Response(418, json={"your key": key.reveal()}, request=httpx.Request("GET", "http://x/")))
    return {"key": key.reveal(), key.reveal(): [base64.b64encode(f"me:{key.reveal()}".encode()).decode()],
            "bytes": key.reveal().encode(), "same": item}

def people(key: Secret[str], leak: bool = False):
    told(key.reveal())
    if leak:
        yield {"key": "a", "with": key.reveal()}
    yield {"key": f"{len(key.reveal())} letters"}

@task(items=people)
def from_source(item: dict):
    return item["key"]

@task
async def mails(item: str, mailer: Mailer, key: Secret[str]):
    said = key.reveal()
    await mailer.send(Mail(to=item, subject=f"Your key {said}", text=f"It is {said}.", html=f"<p>{quote(said)}</p>",
        unsubscribe="https://example.com/?" + quote(said)))

@task
def dies(item: str, key: Secret[str]):
    told(key.reveal())
    os._exit(3)

@task
def in_steps(key: Secret[str]):
    step(f"with {key.reveal()}", told, key.reveal())
    raise ValueError(f"no good: {key.reveal()}")
"""
}
FLAGS = ("--tasks", "mine")


def everything(server: Server, job: int) -> str:
    """All that can be read of a job: pages, JSON, streams, exports, the program's log, the database."""
    client = server.client
    paths = [
        f"/jobs/{job}",
        f"/jobs/{job}/results",
        f"/jobs/{job}/results.csv",
        f"/jobs/{job}/results.ndjson",
    ]
    paths += [
        f"/api/jobs/{job}",
        f"/api/jobs/{job}/items",
        f"/api/jobs/{job}/events",
        f"/api/jobs/{job}/errors",
    ]
    paths += ["/", "/api/jobs", "/api/openapi.json", "/tasks/each", "/schedules", "/audit", "/audit.ndjson"]
    for item in server.items(job):
        paths += [f"/jobs/{job}/items/{item['id']}", f"/api/jobs/{job}/items/{item['id']}"]
    said = [client.get(path, headers={"Accept": "text/html"}).text for path in paths]
    return "\n".join([*said, server.log.read_text(), *(rows_of(server))])


def database(server: Server) -> Path:
    return server.directory / "data" / "rowcast.db"


def sqlite_rows(server: Server, sql: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(database(server), timeout=5)) as conn:
        return conn.execute(sql).fetchall()


def rows_of(server: Server) -> Iterator[str]:
    """Every row of every table."""
    with contextlib.closing(sqlite3.connect(database(server), timeout=5)) as conn:
        for (name,) in conn.execute("select name from sqlite_schema where type = 'table'").fetchall():
            with contextlib.suppress(sqlite3.OperationalError):  # SQLite's own index of words
                yield from map(str, conn.execute(f"select * from {name}").fetchall())


def traces(text: str, secret: str) -> list[str]:
    """As what the secret is found in a text."""
    return [form for form in forms_of(secret) if form in text]


def test_what_a_task_says_of_its_secret_is_hidden_and_the_task_has_it(server: Server, api: Api):
    job = server.begin("each", items=["a", "raises", "asks"], key=KEY)
    server.ended(job)
    said = everything(server, job)
    assert traces(said, KEY) == [] and traces(said, f"me:{KEY}") == []
    assert not server.job(job)["reason"], server.job(job)["reason"]
    assert said.count(f"printed {MASK}") >= 3 and f"no good: {MASK}" in said
    items = {item["key"]: item for item in server.items(job)}
    result = items["a"]["result"]
    (said_in_base64,) = result[MASK]
    assert (
        result == {"key": MASK, MASK: [said_in_base64], "bytes": MASK, "same": "a"} and MASK in said_in_base64
    )
    assert items["raises"]["error"] == f"ValueError: no good: {MASK}"
    assert server.job(job)["args"]["key"] == MASK
    assert server.job(job)["args"]["more"] is None


def test_the_mailbox_shows_a_mail_without_it(server: Server):
    job = server.begin("mails", items=["ada@example.com"], key=KEY)
    assert server.ended(job)["completed"] == 1
    page = server.client.get("/mailbox").text
    (number,) = set(re.findall(r"/mailbox/(\d+)", page))
    said = [page, *(server.client.get(f"/mailbox/{number}{part}").text for part in ("", "/html"))]
    assert f"Your key {MASK}" in page and f"It is {MASK}." in said[1] and f"<p>{MASK}</p>" in said[2]
    (raw,) = sqlite_rows(server, "select raw from mails")
    mail = message_from_bytes(raw[0], policy=policy.default)
    assert traces("\n".join([*said, str(mail), str(mail.get_body(("plain",)))]), KEY) == []


def test_a_try_that_ends_its_process_says_nothing_of_it(server: Server):
    job = server.begin("dies", items=["a"], key=KEY)
    assert server.ended(job)["failed"] == 1
    said = everything(server, job)
    assert traces(said, KEY) == [] and f"printed {MASK}" in said


def test_so_are_steps_and_what_a_source_says(server: Server):
    for begun in (server.begin("in_steps", key=KEY), server.begin("from_source", key=PEM)):
        server.ended(begun)
        said = everything(server, begun)
        assert traces(said, KEY) == [] and traces(said, PEM) == [] and "9w0BAQEFAASCAT8wggE7" not in said
    assert [item["result"] for item in server.items(begun)] == [f"{len(PEM)} letters"]
    leaked = server.ended(server.begin("from_source", key=KEY, leak=True))
    assert leaked["status"] == "failed" and leaked["total"] == 0
    assert (
        leaked["reason"]
        == "The items could not be read: ValueError: an item has a secret in it, and items are shown"
    )


def test_again_and_by_the_clock_it_is_the_same_and_other_values_get_it_too(server: Server):
    job = server.begin("each", items=["a"], key=KEY)
    server.ended(job)
    (item,) = server.items(job)
    client = server.client
    other = client.post(
        f"/jobs/{job}/items/{item['id']}/again", data={"payload": '"b"'}, follow_redirects=False
    )
    plan = {"task": "in_steps", "args": {"key": KEY}, "cron": "0 6 * * *"}
    schedule = client.post("/api/schedules", json=plan).json()
    assert schedule["args"] == {"key": MASK}
    form = client.get(f"/schedules/{schedule['id']}").text
    assert traces(form, KEY) == [] and f'placeholder="{MASK}"' in form
    said = {"task": "in_steps", "key": "", "cron": "0 7 * * *", "zone": "UTC"}
    assert (
        client.post(f"/schedules/{schedule['id']}/edit", data=said, follow_redirects=False).status_code == 303
    )
    run = client.post(f"/schedules/{schedule['id']}/run", follow_redirects=False)
    page = client.post(f"/jobs/{job}/again", follow_redirects=False)
    keyed = [
        client.post("/api/jobs", json={"task": "in_steps", "args": {"key": key}, "unique_key": "k"})
        for key in (KEY, KEY, PEM)
    ]
    assert [answer.status_code for answer in keyed] == [201, 200, 409] and keyed[0].json()["id"] == keyed[
        1
    ].json()["id"]
    for found in (int(answer.headers["Location"].rpartition("/")[2]) for answer in (other, page, run)):
        assert (done := server.ended(found))["completed"] == 1 or f"no good: {MASK}" in str(
            server.items(found)
        ), done
        assert traces(everything(server, found), KEY) == []


def test_a_form_never_has_it_and_the_mask_is_no_secret(server: Server):
    page = server.client.get("/").text
    assert 'type="password"' in page and 'autocomplete="new-password"' in page
    for args, why in (
        ({"key": MASK}, "is shown in place of the secret"),
        ({"key": "abc"}, "A secret has from 4 to 20,000 letters".lower()),
        ({"key": {"$rowcast": "secret", "value": "x"}}, "expected a text"),
        ({}, "missing argument `key`"),
    ):
        answer = server.client.post("/api/jobs", json={"task": "in_steps", "args": args})
        assert answer.status_code in (400, 422) and why in answer.json()["error"].lower()
    typed = server.client.post("/jobs", data={"task": "in_steps", "key": f" {KEY} "}, follow_redirects=False)
    job = int(typed.headers["Location"].rpartition("/")[2])
    server.ended(job)
    assert traces(everything(server, job), KEY) == []
    assert '"format":"password","writeOnly":true' in server.client.get("/api/openapi.json").text.replace(
        ": ", ":"
    ).replace(", ", ",")


def test_a_new_key_seals_all_again_and_a_lost_one_fails_the_job_in_a_sentence(server: Server):
    path = database(server)
    job = server.begin("in_steps", key=KEY, run_at="600s")
    file = seals.key_file(str(path))
    before = file.read_text()
    sealed = server_args(path, job)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and KEY not in before
    ran = rowcast("secrets", "rotate", "--database", str(path))
    assert ran.returncode == 0 and "A new key is in" in ran.stdout
    assert file.read_text() != before and len(file.read_text().split()) == 1
    assert server_args(path, job) != sealed
    assert [one.name for one in path.parent.glob("*-key*")] == [file.name]
    server.client.post(f"/api/jobs/{job}/cancel")
    kept = file.read_text()
    for lost in (lambda: file.unlink(), lambda: file.write_text(before), lambda: file.write_text("no key")):
        lost()
        again = server.client.post(f"/jobs/{job}/again", follow_redirects=False)
        failed = server.ended(int(again.headers["Location"].rpartition("/")[2]))
        assert failed["status"] == "failed" and failed["reason"].startswith("Its secrets cannot be opened: ")
        assert traces(everything(server, failed["id"]), KEY) == []
    refused = server.client.post("/api/jobs", json={"task": "in_steps", "args": {"key": KEY}})
    assert refused.status_code in (400, 422) and "is no key" in refused.json()["error"]
    file.write_text(kept)
    assert server.ended(server.begin("in_steps", key=KEY))["failed"] == 1


def server_args(path: Path, job: int) -> str:
    with contextlib.closing(sqlite3.connect(path, timeout=5)) as conn:
        return conn.execute("select args from jobs where id = ?", (job,)).fetchone()[0]


# ---- by itself -----------------------------------------------------------------------------------------------------


def test_a_secret_says_nothing_of_itself():
    secret = Secret(KEY)
    assert {str(secret), f"{secret}", f"{secret:>20}"} == {MASK} and repr(secret) == f"Secret('{MASK}')"
    assert (
        encode({"a": secret}).decode() == f'{{"a":"{MASK}"}}'
        and encode_result([secret]) == f'"[Secret({MASK!r})]"'
    )
    assert secret == Secret(KEY) != Secret("other") and secret != KEY and len({secret, Secret(KEY)}) == 1
    with pytest.raises(TypeError, match="not pickled"):
        secret.__reduce__()


TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=f"{MASK}{CUT}"), min_size=4, max_size=60
)


@settings(deadline=None, max_examples=60)
@given(TEXT, TEXT, st.data())
def test_no_form_of_a_secret_is_left_in_any_text(secret: str, around: str, data: st.DataObject):
    hide = Hider([secret])
    form = data.draw(st.sampled_from(sorted(one for one in forms_of(secret) if len(one) >= 4)))
    said = hide(f"{around}{form}{around}")
    assert MASK in said and not hide.is_in(said)
    assert hide.in_json(pack([form])) != pack([form])
    for length in range(4, len(secret)):  # where a text was cut
        assert not hide(f"{around}{secret[:length]}").endswith(secret[:length])
        assert not hide(f"{secret[:length]}{CUT} (cut)").startswith(secret[:length])


def test_numbers_and_values_of_a_class_are_hidden_whole_and_json_stays_json():
    hide = Hider(["471100"])
    assert decode(hide.in_json('{"n":1471100,"d":{"$rowcast":"date","value":"471100"},"ok":12}')) == {
        "n": MASK,
        "d": MASK,
        "ok": 12,
    }
    (same,) = hide.in_results(
        [Result(1, 1, "failed", 500, "no 471100", None, 1.0, excerpt='{"text":"4711"}')]
    )
    assert same.error == f"no {MASK}"
    assert not Hider() and Hider()("471100") == "471100"


def nested(keys: list[Secret[str]]): ...
def number(key: Secret[int]): ...
def with_default(key: Secret[str] = "abcdef"): ...
def as_item(item: Secret[str]): ...


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (nested, r"a secret is written Secret\[str\]"),
        (number, r"a secret is written Secret\[str\]"),
        (with_default, "would be in the code"),
        (as_item, "cannot be a secret"),
    ],
)
def test_what_cannot_be_a_secret_is_said_where_it_is_written(function: Any, why: str):
    with pytest.raises(TypeError, match=why):
        made_of(function, {})


def plainly(name: str, key: Secret[str]) -> None:
    print(name, key.reveal())


def test_a_background_task_seals_what_its_function_annotates(tmp_path: Path):
    for made in (
        Background(plainly, "a", KEY),
        Background(plainly, "a", key=KEY),
        Background(plainly, "a", Secret(KEY)),
    ):
        text = seals.as_sealed(str(tmp_path / "x.db"), made.job_args)
        assert seals.SIGN in text and traces(text, KEY) == []
    assert BackgroundTask is Background
    with pytest.raises(TypeError, match="A secret has from 4"):
        Background(plainly, "a", "abc")


def test_without_the_extra_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    with pytest.raises(BadArguments, match=r"pip install 'rowcast\[secrets\]'"):
        seals.as_sealed(str(tmp_path / "x.db"), {"key": read_secret(KEY)})
    assert seals.as_sealed(str(tmp_path / "x.db"), {"key": MASK}) == f'{{"key":"{MASK}"}}'
    assert list(tmp_path.iterdir()) == []
