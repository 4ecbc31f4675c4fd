"""The keys by which a page is used, and the map of them, which `?` opens.

A key stands in the HTML, as `data-hotkey` of what it presses; static/hotkeys.js installs it from there. The
map shows those alone that its page has.
"""

from typing import Any

from fasthtml.components import H2, Button, Dd, Dialog, Div, Dl, Dt, Form, Input, Kbd, Label, P

from rowcast.pages.skeleton import to_html
from rowcast.tasks.languages import in_each_language, mark, tr

MAP = "?"
# what a key is for: the key as one types it, what it does, and the group that the map shows it in
KEYS = {
    "jobs": ("g j", mark("Go to the list of jobs")),
    "schedules": ("g s", mark("Go to the schedules")),
    "messages": ("g m", mark("Go to the messages")),
    "workers": ("g w", mark("Go to the workers")),
    "start": ("s", mark("Start a job")),
    "find": ("/", mark("Find")),
    "next": ("n", mark("The next that has failed")),
    "previous": ("N", mark("The one before that has failed")),
    "pause": ("p", mark("Pause the job, or let it go on")),
    "retry": ("r", mark("Go to the button that retries what failed; Enter presses it")),
    "ago": ("t", mark("Show times as the clock has them, or how long ago")),
    "map": (MAP, mark("Show these keys")),
}
# where the next and the one before are looked for: rows of items, else of jobs
FAILED = "#items > tr:is([data-status=failed], [data-status=unknown]), tr[id^='job-']:has(.fails:not(:empty))"


def hotkey(name: str) -> str:
    """A key as the script knows it: with Shift too, where most keyboards take that for it."""
    key, _ = KEYS[name]
    return f"{key},Shift+{key}" if key == MAP or key.isupper() else key


def key_button() -> Any:
    """What opens the map for who does not know its key."""
    return Button(
        "⌨",
        type="button",
        id="keys-open",
        aria_label=tr("Keys"),
        title=tr("Keys (?)"),
        data_hotkey=hotkey("map"),
    )


@in_each_language(8)
def key_map(base: str) -> str:
    """The map, which a script opens, and what its keys press that is nowhere else on a page."""
    rows = [
        Div(Dt(*[Kbd(one) for one in key.split()]), Dd(tr(does)), data_key=hotkey(name))
        for name, (key, does) in KEYS.items()
    ]
    steps = [
        Button(tr(KEYS[name][1]), type="button", data_hotkey=hotkey(name), data_step=step, data_to=FAILED)
        for name, step in (("next", "1"), ("previous", "-1"))
    ]
    return to_html(
        Dialog(
            Form(
                Div(H2(tr("Keys"), id="keys-title"), Button(tr("Close"), cls="link"), cls="row apart"),
                Dl(*rows),
                Label(Input(type="checkbox", id="keys-on", checked=True), tr(" Keys act in this browser")),
                P(tr("Where you write, a key is a letter."), cls="soft"),
                method="dialog",
            ),
            id="keys",
            aria_labelledby="keys-title",
        ),
        Div(
            *steps,
            Button(tr(KEYS["ago"][1]), type="button", id="ago", data_hotkey=hotkey("ago")),
            id="key-steps",
            hidden=True,
        ),
    )


def page_key(name: str) -> str | None:
    """The key of a page that the line above leads to, where it has one."""
    return hotkey(name.lower()) if name.lower() in KEYS else None
