"""Forms: a task's start made from its signature, how a job is to be run, its pace, its actions."""

import datetime
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fasthtml.components import (
    A,
    Button,
    Details,
    Div,
    Input,
    Label,
    Noscript,
    Option,
    P,
    Pre,
    Select,
    Small,
    Summary,
    Textarea,
)

from rowcast.pages.hotkeys import hotkey
from rowcast.pages.messages import tell_fields, usual_receivers
from rowcast.pages.skeleton import post_form, url
from rowcast.tasks.arguments import Argument
from rowcast.tasks.encoding import from_json
from rowcast.tasks.fields import choices_of, hint_of, input_of, text_of
from rowcast.tasks.languages import mark, tr, trn
from rowcast.tasks.notify import Receiver, Usual
from rowcast.tasks.records import Job, decode
from rowcast.tasks.registry import Task

WORDS = {"html": "HTML", "url": "URL", "id": "ID"}  # that are not written as they are named
NARROW = ("number", "date", "datetime-local", "time")  # fields that stand side by side
WRAPPED = re.compile(r"(?<=\S)\n(?=[\w(\"'`])")  # a line that goes on, and is no list
AT_ONCE = mark("A number, auto, or auto with bounds: auto 5-200")
STEPS = {int: "1", float: "any", datetime.datetime: "any", datetime.time: "any"}


def start_form(
    task: Task,
    users: int,
    usual: Usual = Usual(),
    words: bool = True,
    old: Job | None = None,
    told: Sequence[Receiver] | None = None,
) -> Any:
    """A task as a form made from its signature: types, defaults, and, with `words`, the docstring as help.
    Its last line is Start. With an `old` job it is filled with what that was started with, but for secrets,
    which nobody is shown and which go to no other values; `told`: who was told of it."""
    first, more = docstring(task) if words else ("", "")
    given = decode(old.args) if old else {}
    fields = [field(task, with_value(one, given), one.required) for one in task.arguments]
    return post_form(
        url("/jobs"),
        P(first) if first else "",
        Pre(more, cls="more") if more else "",
        Input(type="hidden", name="task", value=task.name),
        Input(type="hidden", name="option-again_job", value=str(old.id)) if old else "",
        Div(*fields, cls="fields") if fields else "",
        options(task, options_given(task, old) if old else {}),
        tell_fields(
            f"{task.name}-notify",
            usual_receivers((*task.notify, *usual.unless_said)) if told is None else told,
            usual_receivers(usual.always),
        ),
        Div(
            Button(tr("Start"), type="submit", cls="primary"),
            A(tr("Cancel"), href=url(f"/jobs/{old.id}"), cls="button") if old else "",
            preview_button(task),
            users_note(users) if task.item == "user" else "",
            cls="row",
        ),
        id=f"start-{task.name}",
        hx_sync="drop",
        cls="start",
        aria_label=tr("Start {name}", name=task.name),
    )


def users_note(users: int) -> Any:
    """How many users a task would run over."""
    if users:
        return Small(trn("{number:,} user", "{number:,} users", users))
    return Small(tr("No users yet: "), A(tr("add some"), href=url("/users")))


def docstring(task: Task) -> tuple[str, str]:
    """What a task says of itself: its first paragraph, and the others."""
    first, _, more = task.help.partition("\n\n")
    return " ".join(first.split("\n")), WRAPPED.sub(" ", more)


def needs_text(task: Task, users: int) -> str:
    """What is to be given for a start, in a few words."""
    required = [label_of(one.name).lower() for one in task.arguments if one.required]
    if required:
        if len(required) == 1:
            return tr("needs {name}", name=required[0])
        if len(required) == 2:
            return tr("needs {name} and {other}", name=required[0], other=required[1])
        return tr("needs {number} fields", number=len(required))
    if task.item == "user":
        return trn("{number:,} user", "{number:,} users", users) if users else tr("no users yet")
    number = len(task.arguments)
    return trn("{number} field", "{number} fields", number) if number else tr("no fields")


def once_field(form: str) -> Any:
    """A word of this page's own, by which its form of that id starts once, however often it is pressed. It
    stands beside the form, which is drawn once for many pages; with script the script sees to it (app.js)."""
    word = {"name": "option-once", "value": secrets.token_hex(8), "form": form}
    return Noscript(Input(type="hidden", **word))


def preview_button(task: Task) -> Any:
    """What shows the first mails of a task that sends some, and sends none."""
    if not task.mails:
        return ""
    return Button(
        tr("Preview"), type="submit", name="option-preview", value="1", title=tr("Show the first three mails")
    )


def field(task: Task, argument: Argument, required: bool = False) -> Any:
    """One argument of a task as a labelled field, with its default; `required` also where it has one."""
    name = argument.name
    required = required or argument.required
    how = input_of(argument)
    text = text_of(argument)
    common = {"name": name, "id": f"{task.name}-{name}", "required": required}
    if how == "check":
        box = Label(
            Input(type="hidden", name=name, value="false"),
            Input(type="checkbox", name=name, id=common["id"], value="true", checked=text == "true"),
            f" {label_of(name)}",
            cls="check",
        )
        return Div(box, cls="field")
    hint = tr("all") if name == "limit" and not text else hint_of(argument)
    if how == "choice":
        labels = choices_of(argument)
        shown = Select(*[Option(one or "–", value=one, selected=one == text) for one in labels], **common)
    elif how in ("lines", "json", "long"):
        # a browser takes one line break at the beginning for its own
        shown = Textarea(f"\n{text}" if text.startswith("\n") else text, rows=3, placeholder=hint, **common)
    elif how == "password":
        shown = Input(type=how, autocomplete="new-password", spellcheck="false", placeholder=text, **common)
    else:
        step = STEPS.get(argument.plain_type) if how != "text" else None
        shown = Input(type=how, step=step, value=text, placeholder=hint, **common)
    # the field itself says so to a screen reader
    sign = Small(tr("required"), aria_hidden="true") if required else ""
    labelled = Div(Label(label_of(name), _for=common["id"]), sign, cls="labelled")
    return Div(labelled, shown, cls="field" if how in NARROW else "field wide")


def label_of(name: str) -> str:
    return WORDS.get(name) or name.replace("_", " ").capitalize()


def with_value(argument: Argument, given: dict[str, Any]) -> Argument:
    """An argument whose field shows what was given for it, where that can be read still. Of a secret nothing
    is."""
    if argument.is_secret or argument.name not in given:
        return argument
    try:
        return replace(argument, default=argument.reader(from_json(given[argument.name]), True))
    except Exception:  # of a class that has gone, say
        return argument


def options_given(task: Task, old: Job) -> dict[str, str]:
    """The options of a job by which it differs from its task, as they are typed; but for what is once, its
    delay and its key."""
    found: dict[str, Any] = {
        "concurrency": old.concurrency_given if old.concurrency_given != task.concurrency else "",
        "rate": rate_of(old.pace) if old.pace != task.pace else "",
        "priority": old.priority or "",
        "tags": " ".join(tag for tag in decode(old.tags) if tag not in task.tags),
        "stop_after": old.stop_after if old.stop_after != task.stop_after else "",
        "canary": old.canary,
        "dry_run": old.dry_run or "",
    }
    return {name: str(value) for name, value in found.items() if value}


def options(task: Task, given: Mapping[str, str]) -> Any:
    """How this one job is to be run, where it differs from its task: closed until it is wanted."""

    def option(name: str, label: str, hint: str, **extra: Any) -> Any:
        ident = f"{task.name}-option-{name}"
        how = {"type": "text"} | extra
        shown = Input(name=f"option-{name}", id=ident, placeholder=hint, value=given.get(name) or None, **how)
        return Div(Label(label, _for=ident), shown, cls="field")

    first = {"type": "number", "min": "-10", "max": "10", "title": tr("The higher one first")}
    moment = {"title": tr("Seconds, or a time like 2026-12-31T06:00Z")}
    fields = [
        option("concurrency", tr("At once"), str(task.concurrency), title=tr(AT_ONCE)),
        option("rate", tr("At most"), rate_of(task.pace) or "100/s"),
        option("priority", tr("Priority"), "0", **first),
        option("tags", tr("Tags"), tr("crm, november"), title=tr("Words by which the job is found")),
        option("run_at", tr("Start in"), tr("90s, or a time"), **moment),
    ]
    if task.shape == "items":
        whole = {"type": "number", "min": "1"}
        rule = {"title": tr("A share, or failures in a row")}
        fields += [
            option("stop_after", tr("Stop after"), task.stop_after or tr("5% or 20"), **rule),
            option("canary", tr("Canary"), "5", title=tr("Run so many, then wait for a go"), **whole),
            option("dry_run", tr("Dry run"), "5", title=tr("Show what would be sent, send nothing"), **whole),
        ]
    return Details(Summary(tr("Options")), Div(*fields, cls="fields"), open=bool(given) or None)


def rate_of(pace: float | None) -> str:
    return f"{pace:g}/s" if pace else ""


def pace_form(job: Job) -> Any:
    """The pace of a job, to be changed while it runs.

    Where it has ended app.css hides this, and what else can be said before alone: a retry brings them back,
    on pages that have seen the end and on others.
    """
    if job.shape == "body":
        return ""
    at_once = {"type": "text", "name": "concurrency", "value": job.concurrency_given, "title": tr(AT_ONCE)}
    rate = {"type": "text", "name": "rate", "value": rate_of(job.pace), "placeholder": tr("no limit")}
    return Details(
        Summary(tr("Pace")),
        post_form(
            url(f"/jobs/{job.id}/tune"),
            Label(tr("At once "), Input(**at_once, id="tune-concurrency", size="12")),
            Label(tr("at most "), Input(**rate, id="tune-rate", size="8")),
            Button(tr("Change"), type="submit"),
            cls="row",
        ),
        id="pace",
        cls="card",
    )


TO_SETTLE = mark("Nobody knows whether this has arrived. To say that it has cannot be taken back. Do it?")
# the keys of a job's own buttons, by their forms: what may be taken back is pressed, a retry is only aimed at
OF_ACTS: dict[str, dict[str, Any]] = {
    "act-hold": {"data_hotkey": hotkey("pause")},
    "act-retry": {"data_hotkey": hotkey("retry"), "data_aim": True},
}


def action_form(job: Job, action: str, word: str, cls: str = "", ident: str = "", **fields: Any) -> Any:
    """A button that posts an action.

    Where a retry would do again what may not be repeated and may have been done, a person is asked first, and
    before what cannot be taken back.
    """
    question = None
    if action == "retry" and job.unknown and not job.idempotent and "group" not in fields:
        question = tr(
            "{unknown:,} of these items may have arrived, and this would send them once more. Do it?",
            unknown=job.unknown,
        )
    if action == "settle":
        question = tr(TO_SETTLE)
    return post_form(
        url(f"/jobs/{job.id}/{action}"),
        *[Input(type="hidden", name=name, value=str(value)) for name, value in fields.items()],
        Button(word, type="submit", cls=cls, **OF_ACTS.get(ident, {})),
        id=ident or None,
        data_ask=question,
    )
