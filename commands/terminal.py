"""`rowcast start`, `act`, `jobs` and `top` and `mcp`: a dashboard asked from a terminal, over its API.

Exit 0 where it was done, 1 where a job did not end well or its status did not allow it, 2 where the dashboard
cannot be reached or does not let one. With --json what is printed is the API's answer, one JSON a line.
"""

import argparse
import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from rowcast.tasks.filters import STATUSES
from rowcast.tasks.followers import CONDITIONS, USUAL
from rowcast.tasks.records import ACTIONS
from rowcast.tasks.settings import BadSetting, Settings, add_flags, address
from rowcast.tasks.text import printable, printable_json, say

LONG = 30.0  # seconds that an answer may take


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    starting = commands.add_parser(
        "start", help="start a job; with --follow exit as of tail, else 0, or 2 where it was not started"
    )
    starting.add_argument("task", metavar="TASK")
    starting.add_argument(
        "--arg", metavar="NAME=VALUE", action="append", default=[], help="an argument; JSON, or text"
    )
    starting.add_argument("--tag", metavar="TAG", action="append", default=[], help="a tag")
    starting.add_argument("--after", metavar="JOB", type=int, help="start it when this job has ended,")
    starting.add_argument(
        "--if",
        metavar="HOW",
        dest="condition",
        choices=list(CONDITIONS),
        help=f"if that ended so: {', '.join(CONDITIONS)} (default {USUAL})",
    )
    starting.add_argument("--unique-key", metavar="KEY", help="a second start with it is the same job")
    starting.add_argument("--unique-for", metavar="TIME", help="how long it is that job's own: 90s, 24h")
    starting.add_argument(
        "--concurrency", metavar="N", help="items at once: a number, auto, or auto with bounds: 'auto 5-200'"
    )
    starting.add_argument(
        "--priority",
        metavar="P",
        type=int,
        default=0,
        help="from -10 to 10: the higher one first (default 0)",
    )
    starting.add_argument("--follow", action="store_true", help="follow it to its end")
    add_asking(starting, start)

    acting = commands.add_parser(
        "act", help="pause, resume, cancel, retry or settle jobs; exit 1 if one is not"
    )
    acting.add_argument("action", metavar="ACTION", choices=list(ACTIONS), help=", ".join(ACTIONS))
    acting.add_argument("jobs", metavar="JOB", type=int, nargs="+", help="the number of a job")
    add_asking(acting, act)

    for name, about, does in (
        ("halt", "stop a task, or everything: what runs ends, and nothing new starts", halt),
        ("lift", "let it go on", lift),
    ):
        halting = commands.add_parser(name, help=about)
        halting.add_argument("task", metavar="TASK", nargs="?", default="", help="without it: everything")
        if name == "halt":
            halting.add_argument("--reason", metavar="TEXT", default="", help="for the others, who see it")
        add_asking(halting, does)

    listing = commands.add_parser("jobs", help="find jobs, the newest first")
    listing.add_argument("--status", metavar="S", choices=STATUSES, default="", help=", ".join(STATUSES))
    listing.add_argument(
        "--q", metavar="WORDS", default="", help="words of name, arguments, tags, reason, owner"
    )
    for name, about in (
        ("task", "of this task"),
        ("tag", "with this tag"),
        ("since", "written then or later: a time, or 24h"),
        ("until", "written then or earlier"),
        ("failures", "with so many failed items: 37, or 10-50, or 100-"),
    ):
        listing.add_argument(f"--{name}", metavar=name.upper(), default="", help=about)
    listing.add_argument("--limit", metavar="N", type=int, default=50, help="how many at most (default 50)")
    add_asking(listing, jobs)

    watching = commands.add_parser("top", help="the jobs in the terminal, as they move; Ctrl-C ends it")
    watching.add_argument("--task", metavar="TASK", default="", help="of this task")
    add_dashboard(watching)
    watching.set_defaults(act=top)

    speaking = commands.add_parser("mcp", help="let an agent ask, over the Model Context Protocol on stdin")
    speaking.add_argument("--write", action="store_true", help="let it also act, start and retry")
    add_dashboard(speaking)
    speaking.set_defaults(act=mcp)


def add_asking(parser: argparse.ArgumentParser, act: Callable[[Settings, argparse.Namespace], int]) -> None:
    """What each command that asks a dashboard takes besides."""
    add_json(parser)
    add_dashboard(parser)
    parser.set_defaults(act=act)


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_dashboard(parser: argparse.ArgumentParser) -> None:
    """Which dashboard, and the token that it is shown."""
    parser.add_argument("--url", metavar="URL", default="", help="the dashboard (default: --host and --port)")
    parser.add_argument(
        "--token",
        metavar="TOKEN",
        default="",
        help="of an account; better in the environment: ROWCAST_TOKEN",
    )
    add_flags(parser, "host", "port")


def place_of(settings: Settings, given: argparse.Namespace) -> str:
    """The dashboard's address; a token that is given takes its place in the environment."""
    if given.token:
        os.environ["ROWCAST_TOKEN"] = given.token
    return (given.url or address(settings)).rstrip("/")


class Unheard(BadSetting):
    """The dashboard cannot be reached, or does not let one; the message is one sentence."""


class Refused(Unheard):
    """It says no to this one thing that it is asked."""


def ask(url: str, verb: str, path: str, **sent: Any) -> Any:
    """The API's answer. Raises Unheard, LookupError with what a 409 says."""
    import httpx  # without which a server starts sooner

    from rowcast.feed.tail import CUT, credentials, is_near

    try:
        with httpx.Client(timeout=LONG, trust_env=not is_near(url), headers=credentials()) as client:
            answer = client.request(verb, f"{url}{path}", **sent)
    except CUT as error:
        why = str(error) or type(error).__name__
        raise Unheard(f"{url} cannot be reached ({why}): give --port or --url.") from None
    if answer.status_code == 204:
        return None
    try:
        said = answer.json()
    except ValueError:
        raise Unheard(f"{url} answered {answer.status_code}, and no JSON: it is no dashboard.") from None
    if answer.status_code == 409:
        raise LookupError(said["error"])
    if answer.is_error:
        raise (Refused if answer.status_code in (403, 404) else Unheard)(
            str(said.get("error", f"the server answered {answer.status_code}."))
        )
    return said


def arguments_of(pairs: Iterable[str]) -> dict[str, Any]:
    """Each NAME=VALUE as an argument: JSON where it is some, else text. Raises BadSetting."""
    made = {}
    for pair in pairs:
        name, is_there, text = pair.partition("=")
        if not is_there or not name:
            raise BadSetting(f"--arg is NAME=VALUE, not {pair[:80]!r}.")
        try:
            made[name] = json.loads(text)
        except ValueError:
            made[name] = text
    return made


def number_or_text(text: str) -> int | str:
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else text


def start(settings: Settings, given: argparse.Namespace) -> int:
    url = place_of(settings, given)
    body = {"task": given.task, "args": arguments_of(given.arg), "tags": given.tag}
    body["priority"] = given.priority
    if given.concurrency:
        body["concurrency"] = number_or_text(given.concurrency)
    names = ("after", "condition", "unique_key", "unique_for")
    body |= {name: value for name in names if (value := getattr(given, name)) is not None}
    try:
        job = ask(url, "POST", "/api/jobs", json=body)
    except LookupError as error:
        raise Unheard(error.args[0]) from None
    if given.json:
        print_json(job)
    else:
        say(f"Job {job['id']} is {job['status']}: {url}/jobs/{job['id']}")
    if not given.follow:
        return 0
    from rowcast.feed.tail import follow_job, tail

    sys.stdout.flush()
    return tail(follow_job(url, job["id"], given.json))


def act(settings: Settings, given: argparse.Namespace) -> int:
    url = place_of(settings, given)
    code = 0
    for number in given.jobs:
        try:
            job = ask(url, "POST", f"/api/jobs/{number}/{given.action}", json={})
        except LookupError as error:
            say(f"rowcast: {error.args[0]}", sys.stderr)
            code = code or 1
            continue
        except Refused as error:  # the others may be there
            say(f"rowcast: {error}", sys.stderr)
            code = 2
            continue
        if given.json:
            print_json(job)
        else:
            say(f"Job {number} is {job['status']}.")
    return code


def halt(settings: Settings, given: argparse.Namespace) -> int:
    body = {"task": given.task, "reason": given.reason}
    made = ask(place_of(settings, given), "POST", "/api/halts", json=body)
    if given.json:
        print_json(made)
    else:
        say(made["sentence"])
    return 0


def lift(settings: Settings, given: argparse.Namespace) -> int:
    ask(place_of(settings, given), "POST", "/api/halts/lift", json={"task": given.task})
    if given.json:
        print_json({"task": given.task, "halted": False})
    else:
        say(f"{f'The task {printable(given.task)}' if given.task else 'Everything'} goes on.")
    return 0


def jobs(settings: Settings, given: argparse.Namespace) -> int:
    names = ("status", "q", "task", "tag", "since", "until", "failures", "limit")
    query = {name: value for name in names if (value := getattr(given, name)) != ""}
    found = ask(place_of(settings, given), "GET", "/api/jobs", params=query)
    for job in found["jobs"]:
        if given.json:
            print_json(job)
        else:
            say(line_of(job))
    if found["next"] and not given.json:
        say("There are more: give --limit, or narrow it.", sys.stderr)
    return 0


def mcp(settings: Settings, given: argparse.Namespace) -> int:
    """Answer an agent until it hangs up."""
    serve = extra("mcp").serve
    serve(partial(ask, place_of(settings, given)), given.write)
    return 0


def top(settings: Settings, given: argparse.Namespace) -> int:
    """The jobs, those that move first, drawn again each second; once, where nobody looks on."""
    shown = extra("top")
    url = place_of(settings, given)
    wanted = {"task": given.task} if given.task else {}

    def look(most: int) -> list[dict[str, Any]]:
        limit = {"limit": max(1, most)}
        moving = ask(url, "GET", "/api/jobs", params=wanted | limit | {"status": "active"})["jobs"]
        latest = ask(url, "GET", "/api/jobs", params=wanted | limit)["jobs"]
        ids = {job["id"] for job in moving}
        return [*moving, *(job for job in latest if job["id"] not in ids)][:most]

    shown.show(url, look)
    return 0


def extra(name: str) -> Any:
    """The file of an optional package. Raises BadSetting where that is not installed."""
    try:
        return importlib.import_module(f"rowcast.extras.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("rowcast"):
            raise
        raise BadSetting(f"`rowcast {name}` needs `pip install 'rowcast[{name}]'` ({error}).") from None


def line_of(job: dict[str, Any]) -> str:
    """A job as one line."""
    done = job["completed"] + job["failed"] + job["cancelled"] + job["unknown"]
    failed = f"{job['failed']:,} failed" if job["failed"] else ""
    tags = " ".join(job["tags"])
    name = printable(job["task"])
    number = f"{done:>9,} of {job['total']:<9,}"
    return f"{job['id']:>7}  {job['status']:<9}  {name:<24}  {number}  {failed:<14}  {tags}".rstrip()


def print_json(value: Any) -> None:
    print(printable_json(json.dumps(value, ensure_ascii=False)))
