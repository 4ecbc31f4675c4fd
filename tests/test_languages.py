"""Languages: every text of the pages is in the catalogue, and a language is a file."""

import ast
import asyncio
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
import zxcvbn.feedback
from by_hand import OutboxByHand
from conftest import ROOT
from fastcore.xml import P
from place import OWNER, Place
from trees import TREES

from rowcast.dashboard import create
from rowcast.engines.local import FULL_REASON
from rowcast.messages import chat, mail
from rowcast.messages.channels import Means
from rowcast.pages.cron import cron_text
from rowcast.pages.jobs import no_jobs
from rowcast.pages.results import filter_note, not_complete
from rowcast.pages.skeleton import to_html
from rowcast.pages.values import WORDS, progress_text, status_icon
from rowcast.tables.bookmarks import Bookmarks
from rowcast.tables.counts import NOTHING_DONE
from rowcast.tables.database import close_databases, connection
from rowcast.tables.halts import Halts
from rowcast.tables.schedules import Schedules
from rowcast.tasks import languages
from rowcast.tasks.filters import Filter
from rowcast.tasks.languages import SPOKEN, Catalogue, chosen, parts_of, read, spoken, tr, trn, written
from rowcast.tasks.notify import Notify
from rowcast.tasks.passwords import WARNINGS, demand_strong
from rowcast.tasks.records import BadArguments, Options, View
from rowcast.tasks.registry import REGISTRY, task
from rowcast.tasks.sentences import translated, worded
from rowcast.tasks.settings import BadSetting, Settings
from rowcast.tasks.work import Chunk, LogPart, Report, Result, in_doubt
from tests.test_components import a_job, a_look

GERMAN = """
msgid ""
msgstr ""
"Plural-Forms: nplurals=2; plural=(n != 1);\\n"

#: pages/forms.py static/app.js
msgid "Start"
msgstr "Los "
"gehts"

msgid "{done:,} of {total:,} done"
msgstr "{total:,}, davon {done:,} fertig"

msgid "{number:,} job"
msgid_plural "{number:,} jobs"
msgstr[0] "{number:,} Lauf"
msgstr[1] "{number:,} Läufe"

#, fuzzy
msgid "Cancel"
msgstr "Abwählen"

msgid "Since {since}"
msgstr "Seit {when}"

msgid "{span} left"
msgstr "noch {span:zz}"

msgid " of {total:,}"
msgstr " von {}"

msgid "pace {pace}"
msgstr "Tempo {pace!r}"

msgid "1,000.5"
msgstr "1<000>5"

msgid "Retry"
msgstr ""

msgid "Say \\"so\\"\\n"
msgstr "Sag \\"so\\"\\n"
"""


class Brackets(dict[str, str]):
    """A language in which every text stands between brackets, and begins with what HTML has escaped."""

    def get(self, text: str, default: Any = None) -> Any:
        return f'⟦<"{text}⟧'


class Forms(dict[str, list[str]]):
    def get(self, text: str, default: Any = None) -> Any:
        return [f'⟦<"{text}⟧'] * 2


def kept() -> dict[str, str]:
    """All sentences that are kept, in that language: what stands in them is not."""
    said = {}
    for entry in (ROOT / "locale" / "rowcast.pot").read_text().split("\n\n"):
        parts, notes = parts_of(entry)
        if "kept" in notes:
            said[parts["msgid"]] = re.sub(r"(\{\w+\})", r"⟧\1⟦", f"⟦{parts['msgid']}⟧")
    return said


PSEUDO = Catalogue("zz", Brackets(), Forms(), lambda number: int(number != 1), kept=kept())


OF_STREAMS = re.compile(r"^(?:data: |event: \w+\s*$|id: \d+\s*$)", re.M)
VOID = "area br circle img input line link meta path rect".split()


class Seen(HTMLParser):
    """What somebody sees of a page, or hears of it: its texts, and what attributes say."""

    def __init__(self, page: str):
        super().__init__()
        self.said: list[str] = []
        self.above: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, found: list[tuple[str, str | None]]) -> None:
        has = dict(found)
        if tag not in VOID:
            self.above.append("" if has.get("lang") or tag in ("script", "style", "code", "kbd") else tag)
        told = ("title", "placeholder", "aria-label", "aria-valuetext", "data-ask", "data-text")
        self.said += [value for name in told if (value := has.get(name))]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            self.above.pop()

    def handle_data(self, data: str) -> None:
        if "" not in self.above[1:]:  # what has a language of its own, or is none
            self.said.append(data)


# names, addresses, units, and the argument that a task with `item` has
OF_NO_LANGUAGE = re.compile(
    r"\b(?:local|Rowcast|UTC|ms|Items?|items|x\d+\S*|ann@example.com|https|example|com|webhook|stop_after|background|item|bulk_email|counter|setup_account|update_users|results.(?:csv|ndjson))\b"
)


def unmarked(page: str) -> list[str]:
    """The words of a page that have not gone through the catalogue."""
    found = []
    for said in Seen(page).said:
        left = said
        count = 1
        while count:  # one text may stand in another
            left, count = re.subn(r"⟦[^⟦⟧]*⟧", " ", left)
        if re.search(r"[A-Za-z]{2,}", OF_NO_LANGUAGE.sub("", left)):
            found.append(said)
    return found


@task(name="x1", concurrency=9, rate="9/s", max_attempts=3, stop_after="50%")
def one(item: str, x2: int = 3, x3: str | None = None) -> None:
    pass


@task(name="x4")
def other() -> None:
    pass


MINE = [REGISTRY.pop("x1"), REGISTRY.pop("x4")]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    for other in list(REGISTRY):  # of tests that ran before in this process
        monkeypatch.delitem(REGISTRY, other)
    for made in MINE:
        monkeypatch.setitem(REGISTRY, made.name, made)
    yield Place(str(tmp_path / "rowcast.db"))
    close_databases()


def begun(place: Place, error: str = "x7", **options: Any) -> int:
    """A job of which something has failed, something is unknown, runs, waits for another try, and waits."""
    job, _ = place.jobs.submit(
        MINE[0], {"item": [], "x2": 4}, OWNER, "background", Options(**{"pace": 0.0} | options)
    )
    place.jobs.start(job.id)
    place.jobs.add_items(job.id, Chunk.of([(f"x{n}", None) for n in range(60)], last=True))
    worker = f"x9{job.id}"  # whose places are nobody else's
    place.ledger.heartbeat(worker, "x8", 1, "background", "1")
    items = place.ledger.exchange(job.id, worker, Report(limit=6)).items
    kinds = ("completed", "failed", "unknown", "queued", "failed")
    results = [
        Result(item.id, item.attempt, kind, error=None if kind == "completed" else error, ms=5.0)
        for item, kind in zip(items, kinds, strict=False)
    ]
    place.ledger.exchange(job.id, worker, Report(results))
    return job.id


def without_engine(settings: Settings) -> Any:
    """A dashboard whose jobs stay as they are."""
    made = create(settings)
    made.prepare()
    made.is_begun = True
    return made


def test_every_text_of_the_main_pages_is_in_the_catalogue(place: Place, monkeypatch: pytest.MonkeyPatch):
    runs = begun(place, tags=("x5",))
    paced = begun(place, pace=9.0)
    ended = begun(place)
    place.jobs.act(ended, OWNER, "cancel")
    begun(place, dry_run=3)
    paused = begun(place)
    place.jobs.act(paused, OWNER, "pause")
    once, _ = place.jobs.submit(MINE[1], {}, OWNER, "background", Options(after_job=runs, condition="green"))
    schedules = Schedules(place.path)
    schedule = schedules.add(MINE[0], {"item": ["x1"]}, OWNER, "0 6 * * *", name="x3")
    schedules.set_paused(schedules.add(MINE[1], {}, OWNER, "0 7 * * *").id, OWNER, True)
    Bookmarks(place.path).keep(OWNER, "x6", Filter(task="x1"))
    items = place.jobs.items(runs)
    monkeypatch.setattr(languages, "catalogue", lambda name: PSEUDO)
    made = without_engine(Settings(database=place.path, built_in="none"))
    pages = [
        "/", "/?q=x1&since=24h&tag=x5", "/?status=failed&task=x4", "/tasks", "/tasks/x1", "/tasks/x4", "/schedules",
        f"/schedules/{schedule.id}", "/workers", "/messages", "/halts", "/account", "/users", "/mailbox",
        f"/jobs/{runs}", f"/jobs/{runs}?view=all", f"/jobs/{runs}?view=retrying", f"/jobs/{ended}", f"/jobs/{paused}",
        f"/jobs/{once.id}", f"/jobs/{paced}", f"/jobs/{runs}/results", f"/jobs/{runs}/then", f"/jobs/{ended}/again", f"/jobs/{runs}?find=x9",
        *[f"/jobs/{runs}/items/{item.id}" for item in items[:6]],
    ]  # fmt: skip

    async def all_of_it() -> dict[str, list[str]]:
        transport = httpx.ASGITransport(made.asgi, client=("127.0.0.1", 5))
        found = {}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:5001") as client:
            for page in pages:
                answer = await client.get(page)
                assert answer.status_code == 200, page
                assert '<html lang="zz">' in answer.text, page
                assert "⟦<" not in answer.text, page
                found[page] = unmarked(answer.text)
        return found

    found = asyncio.run(all_of_it())
    left = sorted({said for page in found.values() for said in page})
    assert not left, "\n".join(map(repr, left))


def test_numbers_stand_as_the_language_writes_them(place: Place, monkeypatch: pytest.MonkeyPatch):
    path = languages.there()["de"]
    assert path is not None
    german = read("xx", path.read_text())  # by another name: what is drawn once is no other test's
    monkeypatch.setattr(languages, "catalogue", lambda name: german)
    place.jobs.act(begun(place), OWNER, "cancel")
    job = begun(place)
    for tried in (1, 2):
        place.ledger.heartbeat("x8", "x8", 1, "background", "1")
        items = place.ledger.exchange(job, "x8", Report(limit=3)).items
        lines = [LogPart(item.id, item.attempt, tried, 9.0, '[[0.0,"INFO","x7"]]') for item in items]
        results = [
            Result(item.id, item.attempt, "queued" if tried == 1 else "failed", error="x7", ms=1234.5)
            for item in items
        ]
        place.ledger.exchange(job, "x8", Report(results, log=lines))
    with connection(place.path) as conn:
        conn.execute("update jobs set total = 19876, completed = 12345, failed = 1234, unknown = 1111")
        conn.execute("update error_groups set items = 1234")
        conn.execute("update workers set done = 12345")
    failed = next(one for one in place.jobs.items(job) if one.status == "failed" and one.ms == 1234.5)
    pages = {
        "/": ("13.579", "19.876"), f"/jobs/{job}": ("13.579", "1.234"), "/workers": ("12.345",),
        f"/jobs/{job}?view=failed": ("1.234",), f"/jobs/{job}/items/{failed.id}": ("1,2 s", "Zeile"),
        f"/jobs/{job}/results": ("12.345",), "/tasks/x1": ("1.234",),
    }  # fmt: skip
    made = without_engine(Settings(database=place.path, built_in="none"))

    async def all_of_it() -> None:
        transport = httpx.ASGITransport(made.asgi, client=("127.0.0.1", 5))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:5001") as client:
            for page, numbers in pages.items():
                said = Seen((await client.get(page)).text).said
                for number in numbers:
                    assert any(number in one for one in said), (page, number)
                english = [one for one in said if re.search(r"\d,\d{3}\b|\d\.\d (s|ms)|\btr(y|ies)\b", one)]
                assert not english, (page, english)

    asyncio.run(all_of_it())


def waits_for_people(place: Place) -> dict[str, int]:
    """Jobs that have stopped, failed, been cancelled or been put off by themselves, by why; a halt, schedules
    that cannot start, and messages that did not arrive."""
    rule = begun(place, stop_after="1")
    canary = begun(place, canary=4)
    place.ledger.exchange(canary, f"x9{canary}", Report(limit=2))
    broken = begun(place)
    place.jobs.fail(broken, worded(f"The task x1:x1 cannot be imported: {'x1'}"))
    first = begun(place)
    cut, _ = place.jobs.submit(MINE[1], {}, OWNER, "background", Options(after_job=first, condition="green"))
    place.jobs.act(first, OWNER, "cancel")
    told = (Notify("webhook", "https://example.com/x5", ("failed",)),)
    lost = begun(place, notify=told)
    place.jobs.fail(lost, NOTHING_DONE)
    outbox = OutboxByHand(place.path)
    (message,) = outbox.claim(9, 9, {})
    outbox.give_up(message, 410, "no answer in time")
    died = begun(place, in_doubt(worded(f"Timed out after {9} s")))
    schedules = Schedules(place.path)
    late = schedules.add(MINE[1], {}, OWNER, "*/15 9-17 1,15 * MON-FRI", name="x3").id
    with connection(place.path) as conn:
        conn.execute("update jobs set status = 'paused', reason = ? where id = ?", (FULL_REASON, died))
        conn.execute("update schedules set last_job = ?, next_at = 1 where id = ?", (died, late))
    assert schedules.start_due() == []
    Halts(place.path).stop("x4", "x9", "x5")
    return {
        "rule": rule,
        "canary": canary,
        "broken": broken,
        "cut": cut.id,
        "died": died,
        "lost": lost,
        "late": late,
    }


def test_what_is_kept_is_told_and_what_is_refused_in_the_language_of_who_looks(
    place: Place, monkeypatch: pytest.MonkeyPatch
):
    jobs = waits_for_people(place)
    monkeypatch.setattr(languages, "catalogue", lambda name: PSEUDO)
    made = without_engine(Settings(database=place.path, built_in="none"))
    job = jobs["died"]
    late = jobs.pop("late")
    failed = next(one for one in place.jobs.items(job) if one.status == "failed")
    pages = [
        "/", "/?status=failed", "/messages", "/schedules", f"/schedules/{late}", "/tasks/x4", "/halts", "/jobs/99",
        "/tasks/x9", "/x9", *[f"/jobs/{number}" for number in jobs.values()], f"/jobs/{job}/items/{failed.id}",
        f"/jobs/{job}?view=failed", f"/events?job={job}&poll=1&said=&cursor=0",
        "/events?view=jobs&poll=1&said=&cursor=0", f"/progress/{job}", "/users?find=x5",
    ]  # fmt: skip
    ended = jobs["broken"]
    refused: list[tuple[int, str, dict[str, str]]] = [
        (422, "/jobs", {"task": "x1", "item": ""}),
        (422, "/jobs", {"task": "x1", "item": "x5", "x2": "x7"}),
        (422, "/jobs", {"task": "x9"}),
        (422, "/jobs", {"task": "x4", "option-stop_after": "5"}),
        (422, "/jobs", {"task": "x4", "option-priority": "99"}),
        (422, "/jobs", {"task": "x4", "notify-to": "", "option-run_at": "x7"}),
        (409, f"/jobs/{ended}/pause", {}),
        (404, "/jobs/99/pause", {}),
        (422, "/schedules", {"task": "x4", "cron": "x7", "zone": "UTC"}),
        (422, "/schedules", {"task": "x4", "cron": "0 6 * * *", "zone": "x7"}),
        (409, f"/schedules/{late}/run", {}),
        (422, "/halts", {"task": "x9"}),
        (422, "/users", {}),
        (404, f"/jobs/{ended}/deliveries/x9/retry", {}),
    ]

    async def all_of_it() -> dict[str, list[str]]:
        transport = httpx.ASGITransport(made.asgi, client=("127.0.0.1", 5))
        found = {}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:5001") as client:
            for page in pages:
                answer = await client.get(page)
                assert answer.status_code in (200, 404), page
                found[page] = unmarked(OF_STREAMS.sub("", answer.text))
            news = (await client.get("/events?view=news&poll=1&said=&cursor=0")).text
            toasts = re.findall(r'"text":"((?:[^"\\]|\\.)*)"', news)
            assert len(toasts) >= 4 and all(unmarked(to_html(P(toast))) == [] for toast in toasts), toasts
            for status, path, form in refused:
                answer = await client.post(path, data=form, headers={"HX-Request": "true"})
                assert answer.status_code == status, (path, form, answer.text)
                found[f"{path} {form}"] = unmarked(to_html(P(answer.text)))
                plain = await client.post(path, data=form)
                assert plain.status_code == status and "⟦" in plain.text
            wrong = {"task": "x9", "args": {}}
            told = await client.post("/api/jobs", json=wrong, headers={"Accept-Language": "zz"})
            assert told.status_code == 422 and "⟦" not in told.text, "programs are told in English"
        return found

    found = asyncio.run(all_of_it())
    left = [f"{page}: {said!r}" for page, all_said in found.items() for said in all_said]
    assert not left, "\n".join(left)


def test_why_a_password_is_too_easy_is_said_in_the_language_of_who_asks():
    tree = ast.parse(inspect.getsource(zxcvbn.feedback))
    warnings = {
        ast.literal_eval(node.value.args[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and getattr(node.targets[0], "id", "") == "warning"
        and isinstance(node.value, ast.Call)
    }
    assert len(warnings) > 9 and warnings < set(WARNINGS)
    with spoken("de"):
        for password, why in (
            ("2021-01-05", "Daten sind oft leicht zu erraten."),
            ("aaaaaaaaaaaaaa", "Wiederholungen wie „aaa“ sind leicht zu erraten."),
            ("correcthors", ""),
        ):
            with pytest.raises(BadArguments) as refused:
                demand_strong(password, "ann")
            said = translated(str(refused.value))
            assert said.startswith(f"Dieses Passwort ist zu leicht zu erraten. {why}"), said
            assert said.endswith("Vier Wörter, die nicht zusammengehören, sind gut."), said


def test_a_status_in_a_sentence_is_said_as_it_is_elsewhere():
    look = a_look(a_job(), View("failed"))
    drawn = (not_complete(a_job()), filter_note(look), *no_jobs(Filter(status="running")))
    english = re.sub("<.*?>", "", to_html(*drawn))
    assert "The job is running: " in english and "with the status “Failed”" in english
    with spoken("de"):
        drawn = (not_complete(a_job()), filter_note(look), *no_jobs(Filter(status="running")))
        german = re.sub("<.*?>", "", to_html(*drawn))
    assert "Der Status des Jobs ist „läuft“: " in german and "mit dem Status „Fehlgeschlagen“" in german
    assert "Kein Job hat den Status „läuft“." in german


AT_THE_DOOR = [
    (403, "10.0.0.9", {}, "hat keine Konten, also antwortet es nur dem Rechner, auf dem es läuft"),
    (403, "127.0.0.1", {"Host": "evil.example"}, "Dieser Server antwortet nicht für den Host"),
    (403, "127.0.0.1", {"Origin": "https://evil.example"}, "Diese Anfrage kommt von einer anderen Herkunft"),
    (413, "127.0.0.1", {"Content-Length": "999999999999"}, "Die Anfrage ist größer als die"),
    (431, "127.0.0.1", {"X-Long": "x" * 100_000}, "Die Adresse und die Kopfzeilen haben mehr als"),
]


@pytest.mark.parametrize(("status", "machine", "headers", "said"), AT_THE_DOOR)
def test_what_is_refused_at_the_door_is_said_in_the_language_of_who_asks(
    place: Place, status: int, machine: str, headers: dict[str, str], said: str
):
    made = without_engine(Settings(database=place.path))

    async def asked() -> None:
        transport = httpx.ASGITransport(made.asgi, client=(machine, 5))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:5001") as client:
            for path, is_said in (("/jobs", True), ("/api/jobs", False)):
                answer = await client.post(path, headers=headers | {"Accept-Language": "de"})
                assert (answer.status_code, said in answer.text) == (status, is_said), answer.text

    asyncio.run(asked())


def test_mails_and_messages_are_told_in_the_language_of_who_started_the_job(place: Place):
    told = (Notify("email", "ann@example.com", ("failed", "paused")),)
    for language, how in (("de", {"language": "de"}), ("", {})):
        job = begun(place, in_doubt(worded(f"Timed out after {9} s")), notify=told, stop_after="1", **how)
        place.jobs.fail(job, NOTHING_DONE)
        failed, waits = sorted(OutboxByHand(place.path).claim(9, 9, {}), key=lambda one: one.event)
        assert (waits.event, failed.event, failed.language) == ("paused", "failed", language)
    english = Means(place.path, Settings())
    german = Means(place.path, Settings(language="de"))
    for means, started, said in ((english, "", "en"), (english, "de", "de"), (german, "", "de")):
        failed.language = started
        groups, spent = mail.told_besides(place.path, failed)
        assert spent is not None and 0 <= spent < 60
        with spoken(means.language(failed)):
            letter = mail.letter(failed, "https://example.com/jobs/1", groups)
        title, text = chat.text_of(failed, means)
        body = json.loads(failed.body)
        assert body["type"] == "job.failed" and body["data"]["reason"] == NOTHING_DONE, (
            "programs read English"
        )
        if said == "en":
            assert "1 done, 2 failed, 1 unknown" in letter.subject and NOTHING_DONE in letter.text
            assert title == f"x1 #{job} has failed" and NOTHING_DONE in text
        else:
            assert "1 fertig, 2 fehlgeschlagen, 1 unbekannt" in letter.subject
            assert '<html lang="de">' in letter.html and "Job öffnen" in letter.html
            for part in (letter.text, letter.html, text):
                assert "Keine seiner Einheiten wurde fertig." in part and "None of" not in part
            assert "Nach … s abgelaufen; vielleicht ist es angekommen" in letter.text
            assert title == f"x1 #{job} ist gescheitert"


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ("Stopped by its rule (50% failed): 3,000 of 6,123 items have failed.", "Regel erreicht (50% fehlgeschlagen): 3.000 von 6.123 Einheiten sind fehlgeschlagen."),
        ("Job 5 is running: it cannot be resumed.", "Job 5 hat den Status „Läuft“: er kann nicht fortgesetzt werden."),
        ("Stopped by its rule (50% failed): 3 of 60 items have failed.", "Regel erreicht (50% fehlgeschlagen): 3 von 60 Einheiten sind fehlgeschlagen."),
        ("Its last run, job 5, was paused (None of its items completed). Another one can start when that has ended.", "Der letzte Lauf, Job 5, war angehalten (Keine seiner Einheiten wurde fertig). Ein weiterer kann starten, wenn er zu Ende ist."),
        ("mail: argument `limit`: expected `int`, got `str`.", "mail: Argument `limit`: erwartet wird `int`, nicht `str`."),
        ("The job could not run: ValueError: 1 < 2 {and} more", "Der Job konnte nicht laufen: ValueError: 1 < 2 {and} more"),
        ("ValueError: a customer is gone", None), ("customer is gone", None), ("failed", None), ("", None),
        ("Job  is : it cannot be .", None), ("." * 3_000, None), ("notify: " * 200, None), ("Job 5 is a b: it cannot be c d.", None),
    ],
)  # fmt: skip
def test_a_kept_sentence_is_found_by_its_words_and_what_is_nobodys_of_ours_stays(kept: str, said: str | None):
    assert translated(kept) == kept
    with spoken("de"):
        assert translated(kept) == (kept if said is None else said)


@pytest.mark.parametrize(
    ("cron", "english", "german"),
    [
        ("0 6 * * *", "At 06:00 every day", "Um 06:00, täglich"),
        ("*/15 9-17 * * 1-5", "Every 15 minutes from 09:00 through 17:59 on Monday through Friday", "Alle 15 Minuten von 09:00 bis 17:59, Montag bis Freitag"),
        ("0 0 1,15 5 *", "At 00:00 on day 1, 15 of the month in May", "Um 00:00, am Tag 1, 15 des Monats im Mai"),
        ("0 * * * *", "At the start of every hour", "Zu Beginn jeder Stunde"),
        ("* * * * *", "Every minute", "Jede Minute"),
        ("7-9,30 */6 * * *", "At minute 7–9, 30 of the hours 0, 6, 12, 18", "Zur Minute 7–9, 30 der Stunden 0, 6, 12, 18"),
        ("0 8 L * *", "At 08:00 on the last day of the month", "Um 08:00, am letzten Tag des Monats"),
        ("0 8 * * 5L", "At 08:00 on the last Friday of the month", "Um 08:00, letzter Freitag des Monats"),
        ("0 8 * * 0", "At 08:00 on Sunday", "Um 08:00, Sonntag"),
        ("0 8 1 * 1", "At 08:00 on day 1 of the month, and on Monday", "Um 08:00, am Tag 1 des Monats, und Montag"),
        ("x", "", ""),
    ],
)  # fmt: skip
def test_when_a_schedule_starts_is_said_in_words(cron: str, english: str, german: str):
    assert cron_text(cron) == english
    with spoken("de"):
        assert cron_text(cron) == german


def test_each_language_is_kept_by_itself_and_programs_are_told_in_english(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "locale"
    folder.mkdir()
    (folder / "de.po").write_text(GERMAN)
    monkeypatch.setattr(languages, "FOLDER", folder)
    for known in (languages.there, languages.catalogue, chosen):
        known.cache_clear()
    job = begun(place)
    made = without_engine(Settings(database=place.path, built_in="none"))
    fixed = without_engine(Settings(database=place.path, built_in="none", language="de"))

    async def all_of_it() -> None:
        def asks(app: Any) -> httpx.AsyncClient:
            transport = httpx.ASGITransport(app.asgi, client=("127.0.0.1", 5))
            return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:5001")

        async with asks(made) as client, asks(fixed) as german:
            for accepted, start in (
                ("de-AT,en;q=0.5", "Los gehts"),
                ("fr,en", "Start"),
                ("", "Start"),
                ("de", "Los gehts"),
            ):
                page = (await client.get("/", headers={"Accept-Language": accepted})).text
                assert f">{start}</button>" in page, accepted
                assert f'lang="{"de" if accepted.startswith("de") else "en"}"' in page
                assert ('meta name="texts"' in page) == (start == "Los gehts")
            polled = {}
            for language in ("de", "en", "de"):
                asked = f"/events?job={job}&poll=1&said=&cursor=0"
                answer = await client.get(asked, headers={"Accept-Language": language})
                polled.setdefault(language, []).append(answer.text)
            assert "60, davon" in polled["de"][0] and "60, davon" in polled["de"][1]
            assert "of 60 done" in polled["en"][0] and "davon" not in polled["en"][0]
            assert ">Los gehts</button>" in (await german.get("/", headers={"Accept-Language": "en"})).text
            told = (await german.get(f"/api/jobs/{job}", headers={"Accept-Language": "de"})).json()
            assert told["held_by"] is None or "⟦" not in told["held_by"]["sentence"]

    try:
        asyncio.run(all_of_it())
    finally:
        monkeypatch.undo()
        for known in (languages.there, languages.catalogue, chosen):
            known.cache_clear()


def test_a_file_is_read_as_it_is_and_what_it_leaves_out_or_has_wrong_stays_english(
    caplog: pytest.LogCaptureFixture,
):
    german = read("de", GERMAN)
    before = SPOKEN.set(german)
    try:
        assert tr("Start") == "Los gehts" and german.scripts == {"Start": "Los gehts"}
        assert (
            progress_text(a_job(total=1500, completed=1200, queued=300, running=0, failed=0))
            == "1,500, davon 1,200 fertig"
        )
        said = [trn("{number:,} job", "{number:,} jobs", number) for number in (0, 1, 1000)]
        assert said == ["0 Läufe", "1 Lauf", "1,000 Läufe"]
        assert [tr("Cancel"), tr("Retry"), tr("Unknown to it")] == ["Cancel", "Retry", "Unknown to it"]
        assert tr("Since {since}", since=3) == "Since 3" and "has other values" in caplog.text
        assert [tr("{span} left", span=3), tr(" of {total:,}", total=3)] == ["3 left", " of 3"]
        assert [tr("pace {pace}", pace="3/s"), written("1,234.5")] == ["pace 3/s", "1,234.5"]
        assert tr('Say "so"\n') == 'Sag "so"\n'
        assert "Completed" in to_html(status_icon("completed")) and dict(WORDS.items())["failed"] == "Failed"
    finally:
        SPOKEN.reset(before)
    assert trn("{number:,} job", "{number:,} jobs", 1) == "1 job" and tr("Start") == "Start"
    headless = read("de", GERMAN.partition("\n\n")[2])
    before = SPOKEN.set(headless)
    try:
        assert trn("{number:,} job", "{number:,} jobs", 1000) == "1,000 Läufe"
    finally:
        SPOKEN.reset(before)


def test_a_rule_of_plural_forms_that_fails_of_a_number_is_left_out(caplog: pytest.LogCaptureFixture):
    for rule in ("100/(n-3)", "n-5", "n n", "(" * 50):
        caplog.clear()
        made = read("xx", GERMAN.replace("(n != 1)", rule))
        assert [made.form(number) for number in (1, 3)] == [0, 1] and made.texts
        assert 'msgid ""' in caplog.text


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"), ("xx", "en"), ("*", "en"), ("nonsense;;q=5,\x00", "en"), ("en-GB,xx;q=0.9", "en"), ("xx;q=1,en;q=0", "en"),
    ],
)  # fmt: skip
def test_a_language_that_is_not_there_is_english(accepted: str, language: str):
    assert chosen(accepted) == language


def test_a_setting_names_a_language_that_there_is():
    with pytest.raises(BadSetting, match="--language is one of en"):
        Settings(language="xx")


def test_the_catalogue_has_all_there_is_to_say_and_no_more(tmp_path: Path):
    lines = (ROOT / "Makefile").read_text().splitlines()
    flags, texts = (
        next(line for line in lines if line.startswith(f"{name} = ")).split()[2:]
        for name in ("EXTRACT", "TEXTS")
    )
    scripts = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("static/*.js"))
    asked = [*flags[3:], "-o", str(tmp_path / "now.pot"), *texts[:-1], *scripts]
    subprocess.run(
        [sys.executable, "-m", "babel.messages.frontend", *asked], cwd=ROOT, check=True, capture_output=True
    )
    assert (tmp_path / "now.pot").read_text() == (ROOT / "locale" / "rowcast.pot").read_text(), "make texts"
    for path, tree in TREES.items():  # Babel does not see what stands in an f-string
        for text in (node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)):
            called = [
                node.func.id
                for node in ast.walk(text)
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            ]
            assert not {"tr", "trn", "mark"} & set(called), f"{path}, line {text.lineno}"


def test_a_language_names_the_values_that_the_english_texts_have(caplog: pytest.LogCaptureFixture):
    for path in ROOT.glob("locale/*.po"):
        assert read(path.stem, path.read_text(encoding="utf-8")).texts
    assert caplog.text == ""


def test_what_scripts_say_is_noted_as_theirs_so_that_they_are_given_it():
    """The extraction sees no text in a template of a script."""
    noted = set()
    for entry in (ROOT / "locale" / "rowcast.pot").read_text().split("\n\n"):
        parts, notes = parts_of(entry)
        if "static/" in notes:
            noted.add(parts["msgid"])
    for script in (ROOT / "static").glob("*.js"):
        said = re.findall(r'\btr\(\s*("(?:[^"\\]|\\.)*")', script.read_text())
        assert {ast.literal_eval(text) for text in said} <= noted, script.name
