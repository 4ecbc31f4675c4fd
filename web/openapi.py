"""The JSON API described as OpenAPI 3.1, from the records themselves: what the tests hold the answers
against.
"""

from importlib.metadata import version
from typing import Any

import msgspec

from rowcast.tasks.records import ACTIONS, ITEM_STATUSES, JOB_STATUSES
from rowcast.tasks.registry import Task
from rowcast.web.start import Start

TIME = {"type": "string", "format": "date-time"}
COUNT = {"type": "integer", "minimum": 0}


def maybe(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(properties),
        "properties": properties,
        "additionalProperties": False,
    }


JOB = closed({
    "id": {"type": "integer"},
    "task": {"type": "string"},
    "args": {"type": "object"},
    "owner": {"type": "string"},
    "engine": {"type": "string"},
    "status": {"type": "string", "enum": list(JOB_STATUSES)},
    "reason": {"type": "string", "description": "why it is paused or has failed, else empty"},
    "total": COUNT,
    **dict.fromkeys(ITEM_STATUSES, COUNT),
    "rate": {"type": "number", "description": "items per second: of late, or on average once it has ended"},
    "eta": maybe({"type": "number", "description": "seconds left"}),
    "created_at": TIME,
    "started_at": maybe(TIME),
    "finished_at": maybe(TIME),
    "seq": {"type": "integer"},
})  # fmt: skip
ITEM = closed({
    "id": {"type": "integer"},
    "job": {"type": "integer"},
    "position": {"type": "integer"},
    "key": {"type": "string"},
    "status": {"type": "string", "enum": list(ITEM_STATUSES)},
    "attempt": COUNT,
    "code": maybe({"type": "integer"}),
    "error": maybe({"type": "string"}),
    "result": {"description": "what the task returned, any JSON"},
    "ms": maybe({"type": "number"}),
    "run_at": maybe(TIME),
    "updated_at": TIME,
    "seq": {"type": "integer"},
})  # fmt: skip
SCHEDULE = closed({
    "id": {"type": "integer"},
    "task": {"type": "string"},
    "args": {"type": "object"},
    "owner": {"type": "string"},
    "cron": {"type": "string", "description": "five fields, in `zone`"},
    "zone": {"type": "string", "description": "a name of the time zone database"},
    "paused": {"type": "boolean"},
    "next_at": TIME,
    "last_job": maybe({"type": "integer"}),
    "created_at": TIME,
})  # fmt: skip
ERROR_GROUP = closed({
    "fingerprint": {"type": "string", "description": "what `retry` takes as its group"},
    "code": maybe({"type": "integer"}), "message": {"type": "string"}, "items": {"type": "integer"},
    "first_at": TIME, "last_at": TIME, "sample": {"type": "string"},
})  # fmt: skip
WORKER = closed({
    "name": {"type": "string"},
    "host": {"type": "string"},
    "engine": {"type": "string"},
    "version": {"type": "string"},
    "in_flight": COUNT,
    "done": COUNT,
    "started_at": TIME,
    "seen_at": TIME,
    "alive": {"type": "boolean"},
})  # fmt: skip
ERROR = closed({"error": {"type": "string", "description": "one sentence"}, "detail": {}})


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def answer(description: str, schema: dict[str, Any], kind: str = "application/json") -> dict[str, Any]:
    return {"description": description, "content": {kind: {"schema": schema}}}


def errors(*codes: int) -> dict[str, Any]:
    words = {400: "not JSON", 401: "not the token", 403: "another origin or host", 404: "not there, or not yours",
             409: "not in this status, or another version", 413: "too large", 422: "arguments do not fit",
             429: "too many streams are open"}  # fmt: skip
    return {str(code): answer(words[code], ref("Error")) for code in codes}


def parameter(name: str, place: str, schema: dict[str, Any], about: str = "") -> dict[str, Any]:
    made = {"name": name, "in": place, "required": place == "path", "schema": schema}
    return made | ({"description": about} if about else {})


def page_of(name: str, record: str) -> dict[str, Any]:
    return closed({name: {"type": "array", "items": ref(record)}, "next": maybe({"type": "integer"})})


def openapi(base: str, tasks: list[Task]) -> dict[str, Any]:
    """The description, with each registered task's arguments as a schema of its own."""
    job = parameter("job", "path", {"type": "integer"})
    limit = parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": 1000})
    after = parameter("after", "query", {"type": "integer"}, "what `next` said")
    resume = [
        parameter(
            "Last-Event-ID", "header", {"type": "integer"}, "the id of the last event seen; before `after`"
        ),
        parameter("after", "query", {"type": "integer"}, "only rows whose seq is greater"),
    ]
    stream = answer(
        "server-sent events: item, job, done, resync, auth, shutdown", {"type": "string"}, "text/event-stream"
    )
    schemas: dict[str, Any] = {
        "Job": JOB,
        "Item": ITEM,
        "Schedule": SCHEDULE,
        "Worker": WORKER,
        "ErrorGroup": ERROR_GROUP,
        "Error": ERROR,
    }
    starts = []
    for task in tasks:
        try:
            made, extra = msgspec.json.schema_components(
                [task.form], ref_template="#/components/schemas/{name}"
            )
        except (
            TypeError
        ):  # a type or a default that JSON does not know; the other tasks have their description
            made, extra = ({"type": "object"},), {}
        schemas |= extra
        starts.append(closed_start(task, made[0]))
    return {
        "openapi": "3.1.0",
        "info": {"title": "Rowcast", "version": version("rowcast")},
        "servers": [{"url": base or "/"}],
        "paths": {
            "/api/jobs": {
                "get": {
                    "summary": "Jobs, newest first",
                    "parameters": [
                        parameter("status", "query", {"type": "string", "enum": list(JOB_STATUSES)}), after, limit],
                    "responses": {"200": answer("a page of jobs", page_of("jobs", "Job")), **errors(422)},
                },
                "post": {
                    "summary": "Start a job",
                    "requestBody": {"required": True, "content": {"application/json": {"schema": {"anyOf": starts}}}},
                    "responses": {
                        "200": answer("the job that bears this unique_key already", ref("Job")),
                        "201": answer("the job", ref("Job")),
                        **errors(400, 403, 413, 422),
                    },
                },
            },
            "/api/jobs/{job}": {
                "get": {"summary": "One job", "parameters": [job],
                        "responses": {"200": answer("the job", ref("Job")), **errors(404)}},
                "patch": {
                    "summary": "Change how fast a job may go while it runs",
                    "parameters": [job],
                    "requestBody": {"content": {"application/json": {"schema": {
                        "type": "object",
                        "properties": {
                            "concurrency": maybe({"type": "integer", "minimum": 1, "maximum": 1000}),
                            "rate": maybe({"type": ["number", "string"], "description": "0 takes the limit away"}),
                        },
                        "additionalProperties": False,
                    }}}},
                    "responses": {"200": answer("the job", ref("Job")), **errors(400, 403, 404, 409, 413, 422)},
                },
            },
            "/api/jobs/{job}/{action}": {
                "post": {
                    "summary": "Pause, resume, cancel, or retry what failed",
                    "parameters": [job, parameter("action", "path", {"type": "string", "enum": list(ACTIONS)})],
                    "requestBody": {"content": {"application/json": {"schema": {
                        "type": "object",
                        "properties": {"item": {"type": "integer"}, "group": {"type": "string"}},
                        "additionalProperties": False,
                        "description": "one item, for retry and settle; the fingerprint of an error group, for retry",
                    }}}},
                    "responses": {"200": answer("the job", ref("Job")), **errors(400, 403, 404, 409, 413, 422)},
                },
            },
            "/api/jobs/{job}/items": {
                "get": {
                    "summary": "A job's items, by position",
                    "parameters": [job, parameter("status", "query", {"type": "string", "enum": list(ITEM_STATUSES)}),
                                   after, limit],
                    "responses": {"200": answer("a page of items", page_of("items", "Item")), **errors(404, 422)},
                },
            },
            "/api/jobs/{job}/errors": {
                "get": {"summary": "A job's failures in groups of those that are alike, the largest first",
                        "parameters": [job],
                        "responses": {"200": answer("the groups", closed({
                            "errors": {"type": "array", "items": ref("ErrorGroup")}})), **errors(404)}},
            },
            "/api/jobs/{job}/events": {
                "get": {"summary": "One job and its items, as they change", "parameters": [job, *resume],
                        "responses": {"200": stream, "204": {"description": "ended, and all of it was seen"},
                                      **errors(404, 422, 429)}},
            },
            "/api/events": {
                "get": {"summary": "All jobs and items, as they change", "parameters": resume,
                        "responses": {"200": stream, **errors(422, 429)}},
            },
            "/api/jobs/{job}/card": {
                "post": {
                    "summary": "A signed link to the job's progress card, for frames in pages of other origins",
                    "parameters": [job],
                    "requestBody": {"content": {"application/json": {"schema": {
                        "type": "object", "properties": {"hours": {"type": "number", "default": 24}},
                        "additionalProperties": False}}}},
                    "responses": {"201": answer("the link", closed({"url": {"type": "string"}, "expires_at": TIME})),
                                  **errors(400, 403, 404, 422)},
                },
            },
            "/api/schedules": {
                "get": {"summary": "Schedules, the next to start first",
                        "responses": {"200": answer("all of them", closed({
                            "schedules": {"type": "array", "items": ref("Schedule")}}))}},
                "post": {
                    "summary": "Start a task again and again",
                    "requestBody": {"required": True, "content": {"application/json": {"schema": {
                        "type": "object",
                        "required": ["task", "cron"],
                        "properties": {"task": {"type": "string"}, "cron": {"type": "string"},
                                       "zone": {"type": "string", "default": "UTC"}, "args": {"type": "object"}},
                        "additionalProperties": False,
                    }}}},
                    "responses": {"201": answer("the schedule", ref("Schedule")), **errors(400, 403, 413, 422)},
                },
            },
            "/api/schedules/{schedule}": {
                "delete": {"summary": "End a schedule",
                           "parameters": [parameter("schedule", "path", {"type": "integer"})],
                           "responses": {"204": {"description": "it is gone"}, **errors(403, 404)}},
            },
            "/api/workers": {
                "get": {"summary": "Who does the work, the dead last",
                        "responses": {"200": answer("all of them", closed({
                            "workers": {"type": "array", "items": ref("Worker")}}))}},
            },
            "/api/ledger/{call}": {
                "post": {
                    "summary": "For the workers of a queue, with their token and their version: what they take and report",
                    "parameters": [
                        parameter("call", "path", {"type": "string"}),
                        parameter("Authorization", "header", {"type": "string"}, "Bearer, and the --worker-token"),
                        parameter("Rowcast-Version", "header", {"type": "string"}, "the dashboard's own")],
                    "requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}},
                    "responses": {"200": answer("of its own for each call", {}), **errors(400, 401, 403, 404, 409, 413)},
                },
            },
            "/healthz": {
                "get": {"summary": "Whether the process serves",
                        "responses": {"200": answer("it does", {"type": "object"})}},
            },
        },
        "components": {"schemas": schemas},
    }  # fmt: skip


def closed_start(task: Task, args: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": task.help,
        "required": ["task"],
        "properties": msgspec.json.schema(Start)["$defs"]["Start"]["properties"]
        | {
            "task": {"const": task.name},
            "args": args,
            "concurrency": maybe({"type": "integer", "minimum": 1, "maximum": 1000}),
        },
        "additionalProperties": False,
    }
