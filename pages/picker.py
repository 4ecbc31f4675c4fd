"""Picker: what a job is started by, as HTML. The tasks used lately come first, each with its form.

A word finds one among a hundred, and `s` opens it. Without script it is a list that opens and closes.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from fasthtml.common import Safe
from fasthtml.components import H2, A, Code, Details, Div, Input, Kbd, P, Small, Span, Summary

from rowcast.pages.forms import action_form, docstring, needs_text, once_field, start_form
from rowcast.pages.hotkeys import hotkey
from rowcast.pages.job import arguments_line
from rowcast.pages.skeleton import ASKS, BASE, to_html, url
from rowcast.pages.values import in_words, visible
from rowcast.tasks.languages import Words, language, mark, tr
from rowcast.tasks.notify import Usual
from rowcast.tasks.records import Job
from rowcast.tasks.registry import Task

_forms: OrderedDict[tuple[Any, ...], tuple[Task, str]] = OrderedDict()
MOST_FORMS = 500  # that are kept
FEW = 3  # tasks used lately that stand first
KEYS = Words({"↓ ↑": mark("choose"), "Enter": mark("open"), "Esc": mark("close")})
SEARCHED = 5  # tasks from which on a search is worth its line


def picker(
    tasks: Sequence[Task], users: int, usual: Usual, last: Mapping[str, Job], is_open: bool = False
) -> Any:
    """`last`: of each task the job that who asks has started last, where there is one."""
    by_age = sorted((job for job in last.values()), key=lambda job: -job.id)
    lately = [job.task for job in by_age[:FEW]]
    first = [task for name in lately for task in tasks if task.name == name]
    others = sorted((task for task in tasks if task.name not in lately), key=lambda task: task.name)
    groups = [(tr("Used lately"), first), (tr("All tasks") if not first else tr("The others"), others)]
    return Details(
        Summary(
            tr("Start a job "),
            Kbd("s", aria_hidden="true"),
            cls="button primary",
            data_hotkey=hotkey("start"),
        ),
        Div(
            find_field() if len(tasks) >= SEARCHED else "",
            *[
                Div(H2(word), *[pick(task, users, usual, last.get(task.name)) for task in group], cls="group")
                for word, group in groups
                if group
            ],
            P(tr("No task is like that."), cls="soft pad", id="no-pick", hidden=True),
            ""
            if tasks
            else P(tr("There are no tasks. "), Code("--tasks MODULE"), tr(" names yours."), cls="soft pad"),
            Div(
                Small(*[(Kbd(key), f" {word} ") for key, word in KEYS.items()], cls="keys-hint"),
                A(tr("All tasks as a page"), href=url("/tasks")),
                cls="row apart foot",
            ),
            cls="card picker-list",
        ),
        id="start",
        cls="picker",
        open=is_open or None,
    )


def find_field() -> Any:
    return Div(
        Input(
            type="search",
            id="find-pick",
            placeholder=tr("Find a task by its name or what it does"),
            aria_label=tr("Find a task by its name or what it does"),
            autocomplete="off",
        ),
        cls="find-pick",
    )


def pick(task: Task, users: int, usual: Usual, last: Job | None) -> Any:
    """One task: what it does and needs, and below it, once it is chosen, its form."""
    first, _ = docstring(task)
    return Details(
        Summary(
            Span(Code(task.name), Small(needs_text(task, users)), cls="row apart"),
            Small(first, cls="does") if first else "",
        ),
        Safe(form_of(task, users, usual)),
        once_field(f"start-{task.name}"),
        Div(
            as_last_time(last) if last else "",
            A(tr("More of this task"), href=url(f"/tasks/{task.name}")),
            cls="row apart",
        ),
        name="pick",
        cls="pick",
        id=f"pick-{task.name}",
        data_find=f"{task.name} {in_words(first)}".lower(),
    )


def form_of(task: Task, users: int, usual: Usual) -> str:
    """The task's form as text, drawn once for each who asks, until the task's code is taken up anew."""
    key = (BASE.get(), task.name, users if task.item == "user" else 0, repr(usual), ASKS.get(), language())
    known = _forms.get(key)
    if known is None or known[0] is not task:
        known = _forms[key] = (task, to_html(start_form(task, users, usual)))
        if len(_forms) > MOST_FORMS:
            _forms.popitem(last=False)
    return known[1]


def as_last_time(last: Job) -> Any:
    """Start it once more, as it was started last."""
    text = arguments_line(last)
    return Div(
        action_form(last, "again", tr("As last time"), ident=f"again-{last.task}"),
        once_field(f"again-{last.task}"),
        Small(f"#{last.id}", visible(f": {text}") if text else ""),
        cls="row",
    )
