"""Starting: what a person or a program gives, made into a task's arguments and a job's options, or refused in
a sentence.

The form of the page and the body of POST /api/jobs come in here as text and JSON; what goes out has been
checked.
"""

import hashlib
import re
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from rowcast.tasks.concurrency import MOST_AT_ONCE, parse_concurrency
from rowcast.tasks.entries import demand_itself
from rowcast.tasks.fields import LEFT_OUT, value_of
from rowcast.tasks.filters import SECONDS, checked_tags
from rowcast.tasks.followers import CONDITIONS, USUAL
from rowcast.tasks.languages import ENGLISH, language
from rowcast.tasks.mail import PREVIEWED
from rowcast.tasks.notify import Notify, Receiver, Usual, of_text
from rowcast.tasks.records import PRIORITIES, BadArguments, Job, Options
from rowcast.tasks.registry import REGISTRY, Task, parse_rate, parse_stop_rule
from rowcast.tasks.settings import Settings
from rowcast.web.receivers import receivers_of, receivers_of_form
from rowcast.web.requests import at, form_as, number, owner_of

ONCE = "option-once"  # the field that has a page's own word, where it has no script
PRESSED_AGAIN = 60.0  # seconds within which the same form of the same page is the same start
DRY_RUN = 5  # items shown by a dry run that does not say how many
MOST_SHOWN = 1_000  # items of a dry run
MOST_IN_CANARY = 1_000_000  # items
LENGTH = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([smhd]?)")  # of time, with its unit
LATEST = 10 * 366 * 86_400  # seconds from now


AtOnce = (
    Annotated[int, msgspec.Meta(extra_json_schema={"minimum": 1, "maximum": MOST_AT_ONCE})]
    | Annotated[str, msgspec.Meta(description="auto, or auto 5-200: found by what the API bears")]
)
Priority = Annotated[
    int,
    msgspec.Meta(
        description="of an owner's jobs those with a higher one come first",
        extra_json_schema={"minimum": PRIORITIES[0], "maximum": PRIORITIES[1]},
    ),
]


class Start(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /api/jobs; all but the task may be left out."""

    task: str
    args: dict[str, Any] = {}
    concurrency: AtOnce | None = None
    priority: Priority = 0
    rate: str | float | None = None
    stop_after: str | int | None = None
    canary: int | None = None
    dry_run: bool | int = False
    run_at: str | None = None
    unique_key: str | None = None
    unique_for: Annotated[
        str | float | None,
        msgspec.Meta(description="how long that key is this job's: seconds, or 24h; without it for ever"),
    ] = None
    after: Annotated[int | None, msgspec.Meta(description="start when this job has ended,")] = None
    condition: Annotated[
        str | None, msgspec.Meta(description=f"if it ended so: {', '.join(CONDITIONS)}; else {USUAL}")
    ] = None
    again_job: Annotated[int | None, msgspec.Meta(description="the job that this one runs once more")] = None
    notify: list[Notify] | None = None
    tags: Annotated[list[str] | str, msgspec.Meta(description="words, or a text that has them")] = []


def task_named(name: str, tasks: Iterable[Task] | None = None) -> Task:
    """The task of that name among these, or of all that are registered. Raises BadArguments."""
    known = REGISTRY if tasks is None else {task.name: task for task in tasks}
    if name not in known:
        if not known:
            raise BadArguments(f"There is no task {name[:80]!r}; there are none.")
        raise BadArguments(f"There is no task {name[:80]!r}; there are {', '.join(sorted(known))}.")
    return known[name]


async def submit(req: Request, start: Start, strict: bool = True) -> tuple[Job, bool]:
    """Write the job, with those that come in the same moment, and say whether it is new; whoever calls
    attaches the ring to the answer.

    Raises BadArguments.
    """
    dashboard = at(req)
    owner = owner_of(req)
    task, args, options = await run_in_threadpool(checked, req, start, strict)
    job, is_new = await dashboard.writer.do(
        dashboard.jobs.write, task, args, owner.name, dashboard.engine.name, options
    )
    return await run_in_threadpool(dashboard.jobs.job, job, owner), is_new


def checked(req: Request, start: Start, strict: bool = True) -> tuple[Task, dict[str, Any], Options]:
    """The task, its arguments and the options that a start means. Raises BadArguments, and NotFound for a job
    that it names and who asks does not see."""
    task = task_named(start.task, at(req).tasks)
    try:
        demand_itself(task.function)
    except TypeError as error:
        raise BadArguments(str(error)) from None
    args = task.check(start.args, strict)
    options = options_of(task, start, at(req).settings, told_of_again(req, start.again_job))
    for other in filter(None, (options.after_job, options.again_job)):
        at(req).jobs.job(other, owner_of(req))
    return task, args, options


def told_of_again(req: Request, given: Any) -> list[Receiver]:
    """Who is told of the job that is run once more, if that is one's own. Raises BadArguments, NotFound."""
    if not given:
        return []
    old = at(req).jobs.job(number(str(given), "again_job", 0, 1), owner_of(req))
    return of_text(old.notify) if owner_of(req).moves(old.owner) else []


def options_of(
    task: Task, start: Start, settings: Settings = Settings(), kept: Sequence[Receiver] = ()
) -> Options:
    """A start's options, checked. `kept`: who is told of what it is to be like. Raises BadArguments."""
    canary = number(start.canary, "canary", 0, 1, MOST_IN_CANARY)
    dry = number(DRY_RUN if start.dry_run is True else start.dry_run or None, "dry_run", 0, 1, MOST_SHOWN)
    for name in ("canary", "dry_run", "stop_after"):
        if getattr(start, name) and task.shape == "body":
            raise BadArguments(f"{name} is for tasks that are called per item; {task.name} is called once.")
    return Options(
        concurrency=concurrency_of(start.concurrency, task.shape),
        priority=priority_of(start.priority),
        pace=pace_of(start.rate),
        stop_after=_plainly(parse_stop_rule, start.stop_after),
        canary=canary or None,
        dry_run=dry,
        run_at=moment(start.run_at),
        notify=receivers_of(start.notify, task.notify, settings, kept),
        unique_key=unique_key_of(start.unique_key),
        unique_for=unique_for(start),
        after_job=start.after,
        condition=condition_of(start),
        again_job=number(start.again_job, "again_job", 0, 1) or None,
        tags=checked_tags(start.tags),
        language="" if language() == ENGLISH else language(),
    )


def unique_key_of(given: str | None) -> str | None:
    """Raises BadArguments."""
    if given is not None and not 0 < len(given) <= 200:
        raise BadArguments("unique_key has from 1 to 200 letters.")
    return given


def unique_for(start: Start) -> float:
    """For how many seconds the start's unique key is its own; 0 for ever. Raises BadArguments."""
    if start.unique_for is None:
        return 0.0
    if start.unique_key is None:
        raise BadArguments("unique_for says how long a unique_key is the job's own: there is none.")
    text = str(start.unique_for).strip()
    found = LENGTH.fullmatch(text)
    seconds = float(found[1]) * SECONDS[found[2] or "s"] if found else 0.0
    if not 1 <= seconds <= LATEST:
        raise BadArguments(f"unique_for is a time from 1s to ten years, like 90s or 24h, not {text[:40]!r}.")
    return seconds


def condition_of(start: Start) -> str:
    """How the job must have ended that is followed; '' where none is. Raises BadArguments."""
    if start.after is None:
        if start.condition is not None:
            raise BadArguments("condition says how the job `after` must have ended: there is none.")
        return ""
    number(start.after, "after", 0, 1)
    if start.run_at is not None:
        raise BadArguments("A job starts at run_at, or after another one: not both.")
    condition = start.condition or USUAL
    if condition not in CONDITIONS:
        raise BadArguments(f"condition is one of {', '.join(CONDITIONS)}, not {condition[:40]!r}.")
    return condition


def concurrency_of(given: int | str | None, shape: str = "items") -> int | str | None:
    """How many items may be in flight; None where nothing is given. Raises BadArguments."""
    found = _plainly(parse_concurrency, given)
    if isinstance(found, str) and shape == "body":
        raise BadArguments("concurrency auto is for tasks that are called per item; this one is called once.")
    return found


def priority_of(given: int) -> int:
    """Raises BadArguments."""
    lowest, highest = PRIORITIES
    if not lowest <= given <= highest:
        raise BadArguments(f"priority is a whole number from {lowest} to {highest}, not {given}.")
    return given


def pace_of(value: str | float | None) -> float | None:
    return _plainly(parse_rate, value)


def new_pace(value: str | float | None) -> float | None:
    """A pace to change to: 0, or "0", for no limit; None leaves it. Raises BadArguments."""
    return 0.0 if value is not None and str(value).strip() in ("0", "0.0") else pace_of(value)


def moment(text: str | None) -> float:
    """An ISO 8601 time (UTC unless it says otherwise), or "90" or "90s" for so many seconds from now; none is
    0.

    Raises BadArguments.
    """
    if not text:
        return 0.0
    seconds = text.strip().removesuffix("s")
    now = time.time()
    try:
        if seconds.isascii() and seconds.isdecimal():
            at = now + int(seconds[:12])
        else:
            given = datetime.fromisoformat(text.strip())
            at = (given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise BadArguments(
            f"run_at is a time like 2026-12-31T06:00:00Z, or seconds from now, not {text[:40]!r}."
        ) from None
    if at > now + LATEST:
        raise BadArguments(f"run_at is more than ten years away: {text[:40]!r}.")
    return at


def start_of_form(
    form: Any, usual: Usual, told: Iterable[Receiver] = (), tasks: Iterable[Task] | None = None
) -> Start:
    """The start that the page's form asks for; option fields are named `option-...`. `told`: for whom it had
    a box besides those of task and server. Raises BadArguments."""
    given = {name: str(form.get(f"option-{name}") or "").strip() for name in Start.__struct_fields__}
    task = task_named(str(next(iter(form.getlist("task")), "")), tasks)
    fields: dict[str, Any] = {name: value for name, value in given.items() if value}
    if form.get("option-preview"):  # of the first items, now: what would be sent
        fields = {name: value for name, value in fields.items() if name not in ("canary", "run_at")}
        fields["dry_run"] = str(PREVIEWED)
    made: Start = form_as(fields | {"task": task.name, "args": form_arguments(task, form)}, Start)
    made.notify = receivers_of_form(form, (*task.notify, *usual.unless_said, *(one.given for one in told)))
    if made.unique_key is None and (key := press_of(form)):
        made.unique_key = key
        made.unique_for = PRESSED_AGAIN
    return made


def once_of(form: Any) -> Options:
    """The unique key of what a page's form without arguments and options of its own starts, and for how long
    it has that. Raises BadArguments."""
    if key := str(form.get("option-unique_key") or ""):
        return Options(unique_key=unique_key_of(key))
    return Options(unique_key=press_of(form), unique_for=PRESSED_AGAIN)


def press_of(form: Any) -> str | None:
    """The unique key of a start that a page without script has sent: of the page's own word, and of all that
    is in its form, for what was changed since is another start. None where there is no such word."""
    word = str(form.get(ONCE) or "")
    if not word:
        return None
    sent = [(name, value) for name, value in form.multi_items() if name != ONCE and isinstance(value, str)]
    return f"press-{hashlib.sha256(repr((word, sent)).encode('utf-8', 'replace')).hexdigest()}"


def form_arguments(task: Task, form: Any) -> dict[str, Any]:
    """A form's fields as a task's arguments; one that is not there, or for which nothing was typed, is left
    out.
    """
    args: dict[str, Any] = {}
    for argument in task.arguments:
        # the form says first which task it is for
        values = form.getlist(argument.name)[1 if argument.name == "task" else 0 :]
        if not values:
            continue
        if not isinstance(values[-1], str):
            raise BadArguments(f"{task.name}: argument {argument.name} is not a file.")
        try:
            value = value_of(argument, values[-1])
        except BadArguments as error:
            raise BadArguments(f"{task.name}: {error}") from None
        if value is not LEFT_OUT:
            args[argument.name] = value
    return args


def _plainly(parse: Any, value: Any) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        raise BadArguments(str(error)) from None
