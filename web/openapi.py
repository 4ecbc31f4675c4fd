"""The JSON API described as OpenAPI 3.1: from what stands beside its routes, and from the records that come
and go.

The tests hold the answers against it.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import msgspec
from starlette.requests import Request

from rowcast.tasks.filters import STATUSES
from rowcast.tasks.records import ACTIONS, ITEM_STATUSES, RETRYING
from rowcast.tasks.registry import Task
from rowcast.web.guard import Error
from rowcast.web.start import Start

REF = "#/components/schemas/{name}"
NUMBER = {"type": "integer"}
ERRORS = {
    400: "not JSON",
    401: "not the token",
    403: "another origin or host",
    404: "not there, or not yours",
    409: "not in this status, or another version",
    413: "too large",
    422: "arguments do not fit",
    426: "no WebSocket",
    429: "too many streams are open",
}
WRITES = (400, 403, 413, 422)  # how what has a body may be refused


@dataclass(frozen=True)
class Said:
    """What is said of a route, besides its path and verb."""

    summary: str
    gives: dict[int, tuple[str, Any]]  # by status: a few words, and the record; None where there is no body
    errors: tuple[int, ...] = ()
    query: tuple[dict[str, Any], ...] = ()  # parameters that are not in the path
    takes: Any = None  # the record of the body
    actions: tuple[str, ...] = tuple(ACTIONS)  # where the path has one


# a route: its path, its verb, the right that it takes, and its handler
Routed = tuple[str, str, str, Callable[[Request], Any]]
Described = tuple[str, str, str, Callable[[Request], Any], Said]  # and what is said of it


class Events(msgspec.Struct):
    """Server-sent events."""


def parameter(name: str, schema: dict[str, Any], about: str = "", place: str = "query") -> dict[str, Any]:
    made = {"name": name, "in": place, "required": place == "path", "schema": schema}
    return made | ({"description": about} if about else {})


def enum(words: Iterable[str]) -> dict[str, Any]:
    return {"type": "string", "enum": list(words)}


OF_JOBS = (
    parameter("q", {"type": "string"}, "the beginnings of words of name, arguments, tags, reason and owner"),
    parameter("task", {"type": "string"}),
    parameter("tag", {"type": "string"}),
    parameter("status", enum(STATUSES)),
    parameter("since", {"type": "string"}, "written then or later: a time, or 24h for so long ago"),
    parameter("until", {"type": "string"}, "written then or earlier"),
    parameter("failures", {"type": "string"}, "how many items have failed: 37, or 10-50, or 100-"),
)
ITEMS = (
    parameter("status", enum((*ITEM_STATUSES, RETRYING)), "retrying: queued for another try"),
    parameter("group", {"type": "string"}, "only those of an error group, by its fingerprint"),
    parameter("find", {"type": "string"}, "only those whose key has this in it"),
)
AFTER = parameter("after", NUMBER, "what `next` said")
LIMIT = parameter("limit", {"type": "integer", "minimum": 1, "maximum": 1000})
RESUME = (
    parameter("Last-Event-ID", NUMBER, "the id of the last event seen; before `after`", "header"),
    parameter("after", NUMBER, "only rows whose seq is greater"),
)
OF_JOB = parameter("job", NUMBER, "only this job and its items")
CREDENTIALS = (
    parameter("Authorization", {"type": "string"}, "Bearer, and the --worker-token", "header"),
    parameter("Rowcast-Version", {"type": "string"}, "the dashboard's own", "header"),
)
STREAM = ("server-sent events: item, job, done, resync, auth, shutdown", Events)


def openapi(base: str, tasks: list[Task], routes: Iterable[Described]) -> dict[str, Any]:
    """The description, with each registered task's arguments as a schema of its own."""
    starts, schemas = described_starts(tasks)
    records = {
        kind for *_, said in routes for kind in (said.takes, *(kind for _, kind in said.gives.values()))
    }
    kinds = [Error, *sorted(records - {None, Any, Start, Events}, key=lambda kind: str(kind))]
    refs, components = msgspec.json.schema_components(kinds, ref_template=REF)
    known: dict[Any, Any] = dict(zip(kinds, refs, strict=True)) | {Any: {}, Start: {"anyOf": starts}}
    paths: dict[str, dict[str, Any]] = {}
    for path, verb, _, _, said in routes:
        paths.setdefault(path.replace(":number", ""), {})[verb] = described(path, said, known)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Rowcast", "version": version("rowcast")},
        "servers": [{"url": base or "/"}],
        "paths": paths,
        "components": {"schemas": schemas | components},
    }


def described(path: str, said: Said, known: dict[Any, Any]) -> dict[str, Any]:
    """One route, with the schemas of its records."""
    in_path = [
        parameter(name, NUMBER if kind else in_path_of(said)[name], place="path")
        for name, kind in re.findall(r"\{(\w+)(:number)?\}", path)
    ]
    gives = {str(status): answer(words, kind, known) for status, (words, kind) in said.gives.items()}
    errors = {str(status): answer(ERRORS[status], Error, known) for status in said.errors}
    made = {
        "summary": said.summary,
        "parameters": [*in_path, *said.query],
        "responses": gives | errors,
    }
    if said.takes:
        body = {"application/json": {"schema": known[said.takes]}}
        made["requestBody"] = {"content": body, "required": is_required(said.takes)}
    return made


def in_path_of(said: Said) -> dict[str, dict[str, Any]]:
    """What stands in a path besides numbers."""
    words = {key: {"type": "string"} for key in ("call", "delivery", "browser")}
    return {"action": enum(said.actions), **words}


def is_required(kind: Any) -> bool:
    """Whether a body has a field that may not be left out."""
    return kind is not Any and any(field.required for field in msgspec.structs.fields(kind))


def answer(words: str, kind: Any, known: dict[Any, Any]) -> dict[str, Any]:
    if kind is None:
        return {"description": words}
    if kind is Events:
        return {"description": words, "content": {"text/event-stream": {"schema": {"type": "string"}}}}
    return {"description": words, "content": {"application/json": {"schema": known[kind]}}}


def described_starts(tasks: list[Task]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The body of a start for each task, and the schemas that they refer to."""
    starts = []
    _, schemas = msgspec.json.schema_components([Start], ref_template=REF)
    options = schemas.pop("Start")["properties"]
    for task in tasks:
        args: dict[str, Any] = {"type": "object"}
        try:
            (args,), more = msgspec.json.schema_components([task.form], ref_template=REF)
            schemas |= more
        except TypeError:
            pass  # a type or a default that JSON does not know; the other tasks are described all the same
        starts.append({
            "type": "object",
            "description": task.help,
            "required": ["task"],
            "properties": options | {"task": {"const": task.name}, "args": args},
            "additionalProperties": False,
        })  # fmt: skip
    return starts, schemas
