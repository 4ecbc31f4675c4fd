"""The description of the API is right: it is a valid one, and what the server answers is what it says."""

from typing import Any

import httpx_sse
import jsonschema
import pytest
from openapi_spec_validator import validate

from rowcast.web.routes import ROUTES
from tests.conftest import Server, until

FILES = {
    "work.py": '''
from pathlib import Path
from typing import Literal
from rowcast import task

@task
def each(item: str, kind: Literal["small", "large"] = "small", many: int | None = None):
    """Each of them."""
    if item.startswith("!"):
        raise RuntimeError(item)
    return {"item": item}

@task
def odd(where: Path = Path("x")):
    """A type that JSON does not know."""
'''
}
FLAGS = ("--tasks", "work")


@pytest.fixture(scope="module")
def description(shared: Server) -> dict[str, Any]:
    return shared.client.get("/api/openapi.json").json()


@pytest.fixture(scope="module")
def job(shared: Server) -> int:
    job = shared.begin("each", items=["one", "two", "!three"])
    shared.ended(job)
    return job


def holds(description: dict[str, Any], path: str, verb: str, answer: Any) -> None:
    """The answer's status is described, and its body is as the description says."""
    said = description["paths"][path][verb]["responses"][str(answer.status_code)]
    schema = said["content"]["application/json"]["schema"]
    jsonschema.Draft202012Validator(description | schema).validate(answer.json())


def test_the_description_is_valid(description: dict[str, Any]):
    validate(description)
    assert description["openapi"] == "3.1.0"


def test_every_route_of_the_api_is_described(description: dict[str, Any]):
    served = {(path.replace(":number", ""), verb) for path, verb, *_ in ROUTES if path.startswith("/api/")}
    described = {(path, verb) for path, verbs in description["paths"].items() for verb in verbs}
    assert served - described == {("/api/openapi.json", "get")}
    assert described - served == {("/healthz", "get")}


def test_a_job_is_as_described(shared: Server, description: dict[str, Any], job: int):
    holds(description, "/api/jobs/{job}", "get", shared.client.get(f"/api/jobs/{job}"))


def test_a_page_of_jobs_is_as_described(shared: Server, description: dict[str, Any], job: int):
    shared.ended(shared.begin("each", items=["one"]))
    for query in ("", "?limit=1", "?status=completed", "?status=paused"):
        holds(description, "/api/jobs", "get", shared.client.get(f"/api/jobs{query}"))


def test_a_page_of_items_is_as_described(shared: Server, description: dict[str, Any], job: int):
    for query in ("", "?limit=1", "?status=failed", "?after=1"):
        holds(description, "/api/jobs/{job}/items", "get", shared.client.get(f"/api/jobs/{job}/items{query}"))


def test_why_items_fail_is_as_described_and_names_what_can_be_retried(
    shared: Server, description: dict[str, Any], job: int
):
    answer = shared.client.get(f"/api/jobs/{job}/errors")
    holds(description, "/api/jobs/{job}/errors", "get", answer)
    (group,) = answer.json()["errors"]
    retried = shared.client.post(f"/api/jobs/{job}/retry", json={"group": group["fingerprint"]}).json()
    assert retried["queued"] + retried["running"] == group["items"]
    shared.ended(job)
    holds(description, "/api/jobs/{job}/errors", "get", shared.client.get("/api/jobs/999999/errors"))


def test_a_start_and_what_can_be_done_to_it_are_as_described(shared: Server, description: dict[str, Any]):
    started = shared.client.post("/api/jobs", json={"task": "counter", "args": {"loops": 30}})
    holds(description, "/api/jobs", "post", started)
    once = {"task": "each", "args": {"items": ["a"]}, "unique_key": "once"}
    for code in (201, 200):
        answer = shared.client.post("/api/jobs", json=once)
        assert answer.status_code == code
        holds(description, "/api/jobs", "post", answer)
    could = shared.client.post("/api/jobs/check", json={"task": "counter", "args": {"loops": 30}})
    holds(description, "/api/jobs/check", "post", could)
    assert "a job of counter" in could.json()["sentence"]
    known = shared.client.post("/api/jobs/check", json=once)
    assert known.json()["sentence"].startswith(f"It would be job {answer.json()['id']}, which has that key")
    first = {"task": "counter", "args": {"loops": 1}, "after": answer.json()["id"], "condition": "failed"}
    for code, other in (
        (409, once | {"args": {"items": ["b"]}}),
        (409, first),
        (404, first | {"after": 10**9}),
    ):
        shared.ended(answer.json()["id"])
        refused = shared.client.post("/api/jobs/check", json=other)
        assert refused.status_code == code == shared.client.post("/api/jobs", json=other).status_code
        holds(description, "/api/jobs/check", "post", refused)
    for action in ("pause", "resume", "cancel"):
        path = f"/api/jobs/{started.json()['id']}/check"
        holds(description, "/api/jobs/{job}/check", "post", shared.client.post(path, json={"action": action}))
        answer = shared.client.post(f"/api/jobs/{started.json()['id']}/{action}")
        assert answer.status_code == 200
        holds(description, "/api/jobs/{job}/{action}", "post", answer)


def test_the_pace_of_a_job_can_be_changed_as_described(shared: Server, description: dict[str, Any]):
    job = shared.begin("counter", loops=30)
    answer = shared.client.patch(f"/api/jobs/{job}", json={"concurrency": 3, "rate": "5/s"})
    assert answer.status_code == 200
    holds(description, "/api/jobs/{job}", "patch", answer)
    shared.client.post(f"/api/jobs/{job}/cancel")


def test_messages_and_webhooks_are_as_described(shared: Server, description: dict[str, Any]):
    refused = {"channel": "webhook", "to": "http://2130706433/"}
    start = {"task": "counter", "args": {"loops": 1}, "notify": [refused]}
    job = shared.client.post("/api/jobs", json=start).json()["id"]
    path = f"/api/jobs/{job}"
    holds(description, "/api/jobs/{job}/notify", "get", shared.client.get(f"{path}/notify"))
    found = until(lambda: (told := shared.client.get(f"{path}/deliveries")).json() and told)
    holds(description, "/api/jobs/{job}/deliveries", "get", found)
    until(lambda: shared.client.get(f"{path}/deliveries").json()[0]["status"] == "failed")
    again = shared.client.post(f"{path}/deliveries/{found.json()[0]['id']}/retry")
    holds(description, "/api/jobs/{job}/deliveries/{delivery}/retry", "post", again)
    ended = shared.client.put(f"{path}/notify", json={"notify": []})
    assert ended.status_code == 409
    holds(description, "/api/jobs/{job}/notify", "put", ended)
    url = {"url": "https://hooks.example.com/described"}
    for code in (201, 409):
        made = shared.client.post("/api/webhooks", json=url)
        assert made.status_code == code
        holds(description, "/api/webhooks", "post", made)
    listed = shared.client.get("/api/webhooks")
    holds(description, "/api/webhooks", "get", listed)
    one = next(one["id"] for one in listed.json() if one["url"] == url["url"])
    for which, code in ((one, 200), (999_999, 404)):
        rotated = shared.client.post(f"/api/webhooks/{which}/rotate")
        assert rotated.status_code == code
        holds(description, "/api/webhooks/{webhook}/rotate", "post", rotated)


def test_what_is_stopped_kept_and_done_to_many_is_as_described(shared: Server, description: dict[str, Any]):
    for verb, path, body in (
        ("post", "/api/halts", {"task": "counter"}),
        ("get", "/api/halts", None),
        ("post", "/api/halts/lift", {"task": "counter"}),
        ("post", "/api/bookmarks", {"name": "mine", "filter": {"q": "a"}}),
        ("get", "/api/bookmarks", None),
        ("post", "/api/jobs/act", {"action": "pause", "filter": {"tag": "no such"}}),
    ):
        answer = shared.client.request(verb, path, json=body)
        assert answer.status_code < 300, answer.text
        if answer.status_code != 204:
            holds(description, path, verb, answer)
    missing = shared.client.get("/api/bulks/999")
    assert missing.status_code == 404
    holds(description, "/api/bulks/{bulk}", "get", missing)


def test_a_schedule_is_as_described(shared: Server, description: dict[str, Any]):
    made = shared.client.post(
        "/api/schedules", json={"task": "counter", "cron": "0 6 * * *", "zone": "Europe/Rome"}
    )
    assert made.status_code == 201
    holds(description, "/api/schedules", "post", made)
    holds(description, "/api/schedules", "get", shared.client.get("/api/schedules"))
    path = f"/api/schedules/{made.json()['id']}"
    said = {
        "task": "counter",
        "args": {"loops": 30},
        "cron": "0 7 * * *",
        "name": "each morning",
        "concurrency": 2,
        "tags": ["dawn"],
        "notify": [{"channel": "email", "to": "ann@example.com"}],
    }
    edited = shared.client.put(path, json=said)
    assert edited.status_code == 200
    holds(description, "/api/schedules/{schedule}", "put", edited)
    ran = [shared.client.post(f"{path}/run") for _ in range(2)]
    assert [one.status_code for one in ran] == [201, 409]
    for one in (*ran, shared.client.post(f"{path}/pause"), shared.client.post(f"{path}/resume")):
        holds(description, "/api/schedules/{schedule}/{action}", "post", one)
    holds(description, "/api/schedules", "get", shared.client.get("/api/schedules"))
    shared.client.post(f"/api/jobs/{ran[0].json()['id']}/cancel")
    assert shared.client.delete(path).status_code == 204
    gone = shared.client.delete(path)
    assert gone.status_code == 404
    holds(description, "/api/schedules/{schedule}", "delete", gone)


@pytest.mark.parametrize(
    ("verb", "template", "path", "options"),
    [
        ("post", "/api/jobs", "/api/jobs", {"content": b"{"}),
        ("post", "/api/jobs", "/api/jobs", {"json": {"task": "counter"}, "headers": {"Origin": "null"}}),
        ("post", "/api/jobs", "/api/jobs", {"content": b" " * 2_000_000}),
        ("post", "/api/jobs", "/api/jobs", {"json": {"task": "explode"}}),
        ("post", "/api/schedules", "/api/schedules", {"json": {"task": "counter", "cron": "at noon"}}),
        (
            "post",
            "/api/schedules",
            "/api/schedules",
            {"json": {"task": "counter", "cron": "* * * * *", "zone": "Moon"}},
        ),
        ("patch", "/api/jobs/{job}", "/api/jobs/1", {"json": {"rate": "fast"}}),
        ("patch", "/api/jobs/{job}", "/api/jobs/1", {"json": {"rate": 5}}),
        ("get", "/api/jobs", "/api/jobs?limit=x", {}),
        ("get", "/api/jobs/{job}", "/api/jobs/999999", {}),
        ("get", "/api/jobs/{job}/items", "/api/jobs/999999/items", {}),
        ("get", "/api/jobs/{job}/items", "/api/jobs/1/items?status=happy", {}),
        ("get", "/api/jobs/{job}/events", "/api/jobs/999999/events", {}),
        ("get", "/api/jobs/{job}/events", "/api/jobs/1/events?after=x", {}),
        ("get", "/api/events", "/api/events?after=x", {}),
        ("post", "/api/jobs/{job}/{action}", "/api/jobs/1/pause", {"content": b"{"}),
        (
            "post",
            "/api/jobs/{job}/{action}",
            "/api/jobs/1/pause",
            {"headers": {"Sec-Fetch-Site": "cross-site"}},
        ),
        ("post", "/api/jobs/{job}/{action}", "/api/jobs/999999/pause", {}),
        ("post", "/api/jobs/{job}/{action}", "/api/jobs/1/pause", {}),
        ("post", "/api/jobs/{job}/{action}", "/api/jobs/1/pause", {"content": b" " * 2_000_000}),
        ("post", "/api/jobs/{job}/{action}", "/api/jobs/1/retry", {"json": {"item": "x"}}),
    ],
)
def test_every_error_is_as_described(
    shared, description, job, verb: str, template: str, path: str, options: dict[str, Any]
):
    answer = shared.client.request(verb.upper(), path, **options)
    assert answer.status_code >= 400
    holds(description, template, verb, answer)


def test_what_the_streams_send_is_as_described(shared: Server, description: dict[str, Any], job: int):
    kinds = set()
    with httpx_sse.connect_sse(shared.client, "GET", f"/api/jobs/{job}/events") as source:
        for event in source.iter_sse():
            if event.event in ("item", "job"):
                schema = {"$ref": f"#/components/schemas/{event.event.title()}"}
                jsonschema.Draft202012Validator(description | schema).validate(event.json())
                kinds.add(event.event)
    assert kinds == {"item", "job"}


def test_a_start_that_the_description_refuses_is_refused_and_one_that_it_takes_is_taken(
    shared, description: dict[str, Any]
):
    schema = description["paths"]["/api/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    validator = jsonschema.Draft202012Validator(description | schema)
    for body in (
        {"task": "each", "args": {"items": ["a"]}},
        {
            "task": "each",
            "args": {"items": ["a"], "kind": "large", "many": 5},
            "concurrency": 3,
            "rate": "10/s",
        },
        {"task": "counter"},
        {"task": "counter", "args": {"loops": 1}},
        {"task": "each", "args": {"items": ["a"], "kind": "huge"}},
        {"task": "each", "args": {"items": "a"}},
        {"task": "counter", "args": {"loops": "x"}},
        {"task": "counter", "args": {"steps": 1}},
        {"task": "counter", "speed": 1},
        {"task": "explode"},
        {},
    ):
        answer = shared.client.post("/api/jobs", json=body)
        assert (answer.status_code == 201) == validator.is_valid(body), (body, answer.text)
        if answer.status_code == 201:
            shared.client.post(f"/api/jobs/{answer.json()['id']}/cancel")


def test_a_task_with_a_type_that_json_does_not_know_does_not_break_the_description(
    description: dict[str, Any],
):
    starts = description["paths"]["/api/jobs"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]["anyOf"]
    assert {start["properties"]["task"]["const"] for start in starts} >= {
        "each",
        "odd",
        "counter",
        "update_users",
    }
