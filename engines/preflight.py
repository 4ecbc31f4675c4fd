"""Moving to a queue: what `rowcast doctor --engine celery` looks at before anything is moved.

What runs on workers elsewhere is called by its name, with arguments that have been JSON, by processes that
reach the broker and the dashboard. Each finding is a sentence, and what to do about it.
"""

import json
import os
import subprocess
import sys
from typing import Any

import httpx
import msgspec

from rowcast.engines.dispatch import engine_module
from rowcast.jobs import Jobs
from rowcast.tables.maintenance import Finding
from rowcast.tasks.records import encode
from rowcast.tasks.registry import Task
from rowcast.tasks.settings import Settings, address_for_workers, for_workers, variable
from rowcast.tasks.work import LedgerCall
from rowcast.worker.remote import NotNow, Refused, answer_of, open_client

# In a process of its own, as a worker would: what this one has imported already proves nothing.
IMPORTER = """
import json, sys
from rowcast.tasks.python_path import see_working_directory
see_working_directory()
import rowcast.tasks.built_in
from rowcast.tasks.registry import load_or_say
found = {entry: load_or_say(entry) for entry in json.loads(sys.argv[1])}
said = {entry: what if isinstance(what, str) else "" for entry, what in found.items()}
sys.stdout.write("\\n" + json.dumps(said))
"""


def check(settings: Settings, tasks: list[Task]) -> list[Finding]:
    """What would not survive the move of this database and these tasks to the engine of the settings."""
    installed = _installed(settings)
    broker = [_broker(settings)] if installed.well else []
    return [installed, *_arguments(tasks), *_names(settings, tasks), *broker, _dashboard(settings)]


def _installed(settings: Settings) -> Finding:
    missing = [name for name in ("broker_url", "worker_token") if not getattr(settings, name)]
    if missing:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in missing)
        names = " and ".join(map(variable, missing))
        return Finding(
            False, "settings", f"{flags} not given", f"Give it, or set {names}; the workers need the same."
        )
    os.environ.update(for_workers(settings))
    try:
        engine_module(settings.engine)
    except ImportError as error:
        return Finding(False, "engine", str(error), "Install it, here and where the workers run.")
    return Finding(True, "engine", f"{settings.engine} is installed")


def _arguments(tasks: list[Task]) -> list[Finding]:
    """Arguments whose type or default JSON does not know: a worker would get something else than the page
    was given.
    """
    wrong = []
    for task in tasks:
        for argument in task.arguments:
            try:
                msgspec.json.schema(argument.type)
                if not argument.required:
                    msgspec.json.encode(argument.default)
            except TypeError:
                kind = getattr(argument.type, "__name__", str(argument.type))
                wrong.append(f"argument `{argument.name}` of {task.name} is a {kind}, which is not JSON")
    todo = "Take text or a number, and make of it what the task needs inside of it."
    return [Finding(False, "arguments", text, todo) for text in wrong] or [
        Finding(True, "arguments", "all are JSON")
    ]


def _names(settings: Settings, tasks: list[Task]) -> list[Finding]:
    """Tasks that cannot be imported by name: those that are registered, and those of jobs and schedules in
    the database.
    """
    entries = sorted({task.entry for task in tasks} | set(Jobs(settings.database).entries()))
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTER, json.dumps(entries)], capture_output=True, text=True
    )
    try:
        found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return [
            Finding(
                False, "tasks", f"a process that imports them ends with {ran.returncode}", "See what they do."
            )
        ]
    todo = "Put it into a module that workers can import too, and name that module in --tasks."
    wrong = [
        Finding(False, "tasks", f"{entry} cannot be imported by name: {why}", todo)
        for entry, why in found.items()
        if why
    ]
    return wrong or [Finding(True, "tasks", f"all {len(entries)} can be imported by name")]


def _broker(settings: Settings) -> Finding:
    try:
        engine_module(settings.engine).reach()
    except Exception as error:  # each broker has its own
        why = f"it cannot be reached: {' '.join(str(error).split()) or type(error).__name__}"
        return Finding(False, "broker", why, "Start it, or give another --broker-url.")
    return Finding(True, "broker", "it answers")


def _dashboard(settings: Settings) -> Finding:
    """As a worker sees it: whether it is there, and takes this token and this version."""
    url = address_for_workers(settings)
    try:
        with open_client(url, settings.worker_token) as client:
            answer_of(client.post("/api/ledger/hello", content=encode(LedgerCall(worker="doctor"))), Any)
    except (httpx.TransportError, NotNow) as error:
        why = f"{url} cannot be reached: {str(error) or type(error).__name__}"
        return Finding(
            False, "dashboard", why, "Start it, or say with --dashboard-url where workers reach it."
        )
    except Refused as error:
        return Finding(
            False, "dashboard", str(error).rstrip("."), "Start the dashboard with what the workers are given."
        )
    return Finding(True, "dashboard", f"{url} takes workers with this token")
