"""With other values: an ended job's task is started once more, from a form that has what it was started with."""

import datetime
import html
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from conftest import Server

FILES = {
    "mine.py": """
import datetime, enum
from typing import Literal
from rowcast import Secret, task

class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"

def numbers(many: int = 3):
    yield from (f"number {n}" for n in range(many))

@task(items=numbers, concurrency=4, tags=["always"])
def painted(item: str, day: datetime.date, colour: Colour, key: Secret[str], words: list[str],
            size: Literal["small", "large"] = "small", loud: bool = True, note: str | None = "none", more: dict | None = None):
    assert key.reveal()
    return f"{colour.value} {size} {loud} {note} {day} {words} {more}"
"""
}
FLAGS = ("--tasks", "mine")
ARGS = {
    "day": "2026-11-29",
    "colour": "blue",
    "words": ["a b", "<i>c</i>"],
    "size": "large",
    "loud": False,
    "note": None,
    "more": {"deep": [1, "two"]},
    "many": 2,
}
HOW = {
    "concurrency": 2,
    "rate": "50/s",
    "priority": 3,
    "tags": ["always", "november"],
    "stop_after": "40%",
    "notify": [{"channel": "email", "to": "ann@example.com"}],
}


class Form(HTMLParser):
    """What a browser sends of the form that starts a task, untouched."""

    def __init__(self, page: str):
        super().__init__()
        self.sent: list[tuple[str, str]] = []
        self.inside = False
        self.naming = ""
        self.chosen = ""
        self.feed(page)

    def handle_starttag(self, tag: str, found: list[tuple[str, str | None]]) -> None:
        has = {name: value or "" for name, value in found}
        if tag == "form":
            self.inside = has.get("id", "").startswith("start-")
        if not self.inside or tag == "button":
            return
        if tag == "input" and "name" in has and (has.get("type") != "checkbox" or "checked" in has):
            self.sent.append((has["name"], has.get("value", "")))
        if tag in ("textarea", "select"):
            self.naming = has["name"]
            self.sent.append((self.naming, ""))
        if tag == "option" and "selected" in has:
            self.sent[-1] = (self.naming, has.get("value", ""))
        if tag == "textarea":
            self.chosen = tag

    def handle_data(self, data: str) -> None:
        if self.chosen:
            self.sent[-1] = (self.naming, self.sent[-1][1] + data.removeprefix("\n"))

    def handle_endtag(self, tag: str) -> None:
        self.chosen = ""
        self.inside = self.inside and tag != "form"


@pytest.fixture(scope="module")
def old(shared: Server) -> Iterator[int]:
    made = shared.client.post(
        "/api/jobs", json={"task": "painted", "args": ARGS | {"key": "open-sesame"}} | HOW
    )
    assert made.status_code == 201, made.text
    assert shared.ended(made.json()["id"])["completed"] == 2
    yield made.json()["id"]


def send(server: Server, sent: list[tuple[str, str]], **other: str) -> Any:
    form: dict[str, list[str]] = {}
    for name, value in sent:
        form.setdefault(name, []).append(value)
    return server.client.post("/jobs", data=form | other)


def test_the_form_has_all_that_the_job_was_started_with_but_its_secrets(shared: Server, old: int):
    page = shared.client.get(f"/jobs/{old}/again").text
    assert "open-sesame" not in page and "•••" not in page
    sent = Form(page).sent
    assert ("key", "") in sent and ("option-again_job", str(old)) in sent
    refused = send(shared, sent)
    assert refused.status_code == 422 and "missing argument `key`" in html.unescape(refused.text)
    answer = send(shared, sent, key="open-again", colour="RED", size="small")
    assert answer.status_code == 303, answer.text
    made = shared.ended(int(answer.headers["Location"].rpartition("/")[2]))
    before = shared.job(old)
    assert (made["again_job"], made["again_item"], before["again_job"]) == (old, None, None)
    for name in ("priority", "concurrency", "tags"):
        assert made[name] == before[name], name
    assert made["completed"] == 2
    known = made["args"] | {"key": ""}
    assert known == before["args"] | {"key": "", "colour": known["colour"], "size": "small"}
    assert "red" in str(known["colour"]).lower()
    said = [f"red small False None {datetime.date(2026, 11, 29)} {ARGS['words']} {ARGS['more']}"] * 2
    assert [one["result"] for one in shared.items(made["id"])] == said
    head = shared.client.get(f"/jobs/{made['id']}").text
    assert f'href="/jobs/{old}">again, from job #{old}</a>' in head and "ann@example.com" in head
    form = Form(shared.client.get(f"/jobs/{made['id']}/again").text).sent
    assert {("option-rate", "50/s"), ("option-stop_after", "40%"), ("option-tags", "november")} <= set(form)


def test_a_cancel_on_the_way_leads_back_and_nothing_has_changed(shared: Server, old: int):
    before = shared.client.get("/api/jobs").json()["jobs"]
    page = shared.client.get(f"/jobs/{old}").text
    assert f'href="/jobs/{old}/again"' in page
    assert f'href="/jobs/{old}" class="button">Cancel</a>' in shared.client.get(f"/jobs/{old}/again").text
    assert shared.client.get("/api/jobs").json()["jobs"] == before


def test_run_again_of_one_item_runs_that_item_and_its_values_are_on_its_own_page(shared: Server, old: int):
    item = shared.items(old)[1]
    once = shared.client.post(f"/jobs/{old}/items/{item['id']}/again", data={"payload": "number 77"})
    first = shared.ended(int(once.headers["Location"].rpartition("/")[2]))
    assert (first["again_job"], first["again_item"]) == (old, item["id"])
    twice = shared.client.post(f"/jobs/{first['id']}/again")
    second = shared.ended(int(twice.headers["Location"].rpartition("/")[2]))
    assert [one["key"] for one in shared.items(second["id"])] == ["number 77"]
    assert (second["again_job"], second["completed"]) == (first["id"], 1)
    its_item = f"/jobs/{second['id']}/items/{shared.items(second['id'])[0]['id']}"
    assert shared.client.get(f"/jobs/{second['id']}/again").headers["Location"] == its_item


def test_what_has_no_form_here_or_is_not_there_is_said(shared: Server, old: int):
    assert shared.client.get("/jobs/999999/again").status_code == 404
    asked = {"task": "counter", "args": {"loops": 1}, "again_job": 999999}
    assert shared.client.post("/api/jobs", json=asked).status_code == 404
    asked["again_job"] = old
    assert shared.client.post("/api/jobs", json=asked).json()["again_job"] == old
    assert shared.client.post("/api/schedules", json=asked | {"cron": "0 6 * * *"}).status_code == 422
