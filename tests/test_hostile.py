"""What strangers wrote runs nowhere: all that may come from them is loaded in a browser, as CSV, in mails and a terminal."""

import contextlib
import csv
import io
import json
import re
import sqlite3
from typing import Any

import pytest
import requests
import schemathesis
from conftest import ROOT, Server, rowcast
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rowcast.web.files import NUMBER, harmless

RUNS = (
    "<img src=x onerror=\"document.title='owned'\">",
    "<script>document.title='owned'</script>",
    "<svg onload=\"document.title='owned'\"><style>*{display:none}</style>",
    "</script></textarea></title><iframe srcdoc=\"<script>parent.document.title='owned'</script>\">",
    "javascript:document.title='owned'",
    '" autofocus onfocus="document.title=\'owned\'" x="',
    "<template hx type=partial hx-target=body><b hx-get=/nowhere hx-trigger=load>x</b></template>",
    "<b hx-post=/jobs hx-trigger=load hx-vals='js:{a:document.title=1}'>x</b>",
    "x\n\nevent: done\ndata: {}\n\nid: 99999999\nretry: 1\ndata: <b id=injected>\r\rdata: <b id=injected>",
    "\x1b]0;owned\x07\x1b[2J\x9b31m\x00\x08 \u202efdp.exe\u2066\u200b\ufeff",
    '=HYPERLINK("http://evil.example")',
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "half \ud800 a pair",
)
LONG = "<b>1 MB</b> " * 87_000
FLAGS = ("--tasks", "hostile")
STREAMS = re.compile(r"/events$|/ws$|/ledger/")
REFUSED = {"400", "404", "405", "413", "415", "422"}
FILES = {
    "hostile.py": f"""
import logging
from rowcast import Mail, Mailer, task

RUNS = {RUNS!r}
LONG = "<b>1 MB</b> " * 87_000
log = logging.getLogger("hostile")

@task
async def say(item: str, mailer: Mailer, note: str = ""):
    "Says <script>document.title='owned'</script> what strangers wrote."
    n = int(item.split()[0])
    text = LONG if n == len(RUNS) else RUNS[n]
    print(text.encode(errors="replace").decode())
    log.warning("%s", text)
    if n < len(RUNS) - 1:
        await mailer.send(Mail(to=f"{{n}}@example.com", subject="About " + " ".join(text.split()), text=text, html="<p>" + text))
    if item.endswith("fails"):
        raise RuntimeError(text)
    return {{"said": text, text[:200]: [text[:200]]}}
"""
}


def keys() -> list[str]:
    """An item for each text, that returns it and that raises it."""
    return [
        f"{n} {text[:200]} {how}"
        for n, text in enumerate([*RUNS[:-1], "broken", LONG])
        for how in ("ends", "fails")
    ]


@pytest.fixture(scope="module")
def hostile(shared: Server) -> int:
    job = shared.begin("say", items=keys(), note=RUNS[1])
    done = shared.ended(job)
    assert done["completed"] == done["failed"] == len(RUNS) + 1, done
    bad = b"\xff\xfe\xf0\x28 <script>document.title='owned'</script>@example.com\n"
    shared.client.post("/users", files={"file": ("x.csv", b"email,<b>name</b>\n" + bad, "text/csv")})
    return job


def test_in_a_browser_nothing_of_it_runs(shared: Server, hostile: int, open_page: Any):
    items = {item["key"]: item["id"] for item in shared.items(hostile)}
    chosen = [
        found for key, found in items.items() if key.endswith("fails") or key.startswith(str(len(RUNS)))
    ]
    mails = re.findall(r'href="(/mailbox/\d+)"', shared.client.get("/mailbox").text)
    paths = [
        "/",
        f"/jobs/{hostile}?view=all",
        f"/jobs/{hostile}?view=failed",
        f"/jobs/{hostile}/results",
        "/users",
    ]
    paths += [
        "/messages",
        "/schedules",
        "/mailbox",
        f"/jobs/{hostile}?find=%3Cimg%20src%3Dx%20onerror%3Dx%3E",
        "/tasks/say",
    ]
    paths += [f"/jobs/{hostile}/items/{found}" for found in chosen] + mails[:3]
    page = open_page(f"{shared.url}/")
    for path in paths:
        page.goto(shared.url + path, wait_until="load")
        assert path in page.url.replace(shared.url, "")
        found = page.evaluate(
            """() => ({title: document.title, frames: document.querySelectorAll('iframe[srcdoc]').length,
                own: document.querySelectorAll('#injected, img[src=x], [onerror], [onload], [onfocus], body b b').length,
                links: [...document.links].filter((a) => !/^https?:$/.test(a.protocol)).length,
                scripts: [...document.scripts].filter((s) => !s.src).length})"""
        )
        assert found["title"] != "owned" and found["own"] == found["links"] == found["scripts"] == 0, (
            path,
            found,
        )
        assert page.evaluate("document.documentElement.outerHTML.length") < 3_000_000, path


def test_what_would_make_elements_of_a_text_is_refused_by_the_browser_but_for_ours(
    shared: Server, visit: Any
):
    """Trusted Types: htmx and our own scripts go through one policy, and nothing else makes markup or scripts."""
    page = visit(f"{shared.url}/")
    done = page.evaluate(
        """() => [() => { document.body.innerHTML = "<b>x</b>"; }, () => trustedTypes.createPolicy("another", {}),
            () => { document.createElement("script").text = "1"; },
            () => { document.createElement("script").src = "https://evil.example/x.js"; },
            () => trusted.createScriptURL("https://evil.example/x.js")].map((does) => {
              try { does(); return "done"; } catch (error) { return error.name; }
            })"""
    )
    assert done == ["TypeError"] * 5
    page.evaluate(
        "htmx.swap({text: '<b id=swapped>x</b><script>document.title=1</script>', target: document.body, swap: 'beforeend'})"
    )
    page.wait_for_selector("#swapped")
    assert page.title() != "1"


def test_a_frame_has_each_text_on_lines_of_its_own_and_no_event_of_theirs(shared: Server, hostile: int):
    for path in (f"/api/jobs/{hostile}/events", f"/events?job={hostile}&view=all&cursor=0&poll=1"):
        text = shared.client.get(path).content.decode()
        ours = re.compile(r"(id|event|data|retry|):")
        assert [line[:80] for line in text.split("\n") if line.strip("\r") and not ours.match(line)] == []
        assert "\nid: 99999999\n" not in text and "retry: 1\n" not in text.replace("retry: 1000\n", "")


def test_a_spreadsheet_computes_nothing_of_it(shared: Server, hostile: int):
    text = shared.client.get(f"/jobs/{hostile}/results.csv", params={"view": "all"}).content.decode(
        "utf-8-sig"
    )
    rows = list(csv.reader(io.StringIO(text)))
    assert len(rows) == len(keys()) + 1
    assert [cell for row in rows for cell in row if cell[:1] in "=+@\t\r" and cell] == []


@settings(deadline=None, max_examples=200)
@given(st.text("=+-@＝＋－＠\t\r\n |;'\"aé1.e\ufeff") | st.text())
def test_no_cell_is_a_formula_whatever_the_spreadsheet_splits_at(text: str):
    cell = str(harmless(text))
    if not NUMBER.fullmatch(text):
        assert [part for part in re.split(r"[;|\t\r\n]", cell) if part[:1] in "=+-@＝＋－＠" and part] == []
    assert cell.replace("'", "") == text.replace("'", "")


def test_a_mail_has_no_header_of_theirs(shared: Server, hostile: int):
    with contextlib.closing(sqlite3.connect(shared.directory / "data" / "rowcast.db", timeout=10)) as conn:
        mails = [bytes(raw) for (raw,) in conn.execute("select raw from mails")]
    assert mails
    ours = r"Message-ID|From|To|Subject|Date|MIME|Content|List|X-Rowcast|Auto|[ \t]"
    for raw in mails:
        head = raw.replace(b"\r\n", b"\n").partition(b"\n\n")[0].decode("ascii")
        assert re.findall(rf"^(?!{ours}).*", head, re.M) == []


def test_a_terminal_is_told_what_it_would_have_done(shared: Server, hostile: int):
    for flags in ([], ["--json"]):
        ran = rowcast("tail", str(hostile), "--url", shared.url, *flags)
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", (ran.stdout + ran.stderr).replace("\r", ""))
        assert ran.returncode == 1


# ---- what the document says, answered by a program that tries all it allows ----------------------------------------


def test_no_request_that_the_document_allows_or_forbids_is_answered_with_500(shared: Server):
    """schemathesis makes them of /api/openapi.json, bounded: each operation some, in one process."""
    said = shared.client.get("/api/openapi.json").json()
    said["paths"] = {path: item for path, item in said["paths"].items() if not STREAMS.search(path)}
    schema = schemathesis.openapi.from_dict(said)
    tried: set[str] = set()

    def ask(case: Any) -> None:
        tried.add(case.operation.label)
        answer = case.call(base_url=shared.url, session=session, timeout=60)
        allowed = {str(code) for code in case.operation.definition.raw["responses"]} | REFUSED
        assert answer.status_code < 500, f"{case.as_curl_command()}: {answer.text[:300]}"
        assert str(answer.status_code) in allowed, f"{case.as_curl_command()}: {answer.status_code}"
        if answer.status_code >= 400:
            assert isinstance(answer.json()["error"], str)

    with requests.Session() as session:
        session.headers["Connection"] = "close"  # none that rests for as long as the server lets one
        for operation in schema.get_all_operations():
            strategy = operation.ok().as_strategy()
            bounds = settings(
                max_examples=5,
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            )
            bounds(given(strategy)(ask))()
    assert len(tried) == sum(len(item) for item in said["paths"].values())


def test_a_text_in_a_frame_is_no_id_of_the_stream(server: Server, open_page: Any):
    found = re.search(r"const lastId = (.*);", (ROOT / "static" / "stream.js").read_text())
    page = open_page(server.url)
    text = "data: x\u2028id: 5000\u2029id: 6000\r\nid: 12\r\n\r\n"
    assert found and [
        page.evaluate(f"({found[1]})({json.dumps(sent)}, 7)") for sent in (text, text[:24])
    ] == [12, 7]
