"""What a mail says of a job that has ended or waits: subject, text and HTML, from the job as it was then.

Mail programs draw little: tables, colours as attributes and in the tags themselves, no picture from
elsewhere. The style sheet only says what differs in the dark, and a program that drops it shows the light.
"""

import datetime
from collections.abc import Sequence
from html import escape
from typing import Any

from rowcast.tasks.languages import Words, language, mark, tr, written
from rowcast.tasks.records import ErrorGroup
from rowcast.tasks.sentences import translated
from rowcast.tasks.text import ODD

INK = "#1b1e21"
SOFT = "#5a6067"
LINE = "#e2e2de"
CARD = "#ffffff"
GROUND = "#f6f6f4"
# what a bar is made of: the count's name, its colour, and that of its word
SEGMENTS = (
    ("completed", "#2a9a5d", INK),
    ("failed", "#cf4339", "#b42c23"),
    ("unknown", "#9a5cc0", "#7a3d9e"),
    ("cancelled", "#9aa1a8", SOFT),
    ("left", "#dcdedf", SOFT),
)
WORDS = Words(
    {
        "completed": mark("done"),
        "failed": mark("failed"),
        "unknown": mark("unknown"),
        "cancelled": mark("cancelled"),
        "left": mark("to do"),
    }
)
DARK = """
@media (prefers-color-scheme: dark) {
  .ground { background: #121416 !important; }
  .sheet { background: #1a1d20 !important; border-color: #2d3237 !important; }
  .ink { color: #e8eaec !important; }
  .soft, .foot, .foot a { color: #a0a7ae !important; }
  .c-failed { color: #ff8a80 !important; }
  .c-unknown { color: #cf9af0 !important; }
  .line { border-color: #2d3237 !important; }
  .button { background: #2f66c9 !important; }
  .left { background: #343a40 !important; }
}
"""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
LEAST = 1  # per cent of the bar that even one item gets
GROUPS = 5  # kinds of error that are told
LONGEST = 160  # letters of one
Told = dict[str, Any]  # a job as programs are given it (tasks/answers.py)


def subject_of(job: Told, event: str) -> str:
    return f"{job['task']} #{job['id']}: {outcome(job, event)}"


def outcome(job: Told, event: str) -> str:
    """What came of it, in a few words: `970 done, 30 failed`."""
    status = job["status"]
    counts = ", ".join(
        f"{written(f'{n:,}')} {WORDS[name]}"
        for name, _, _ in SEGMENTS
        if (n := number(job, name)) and name != "left"
    )
    before = {"cancelled": tr("cancelled"), "paused": tr("paused")}.get(status, "")
    if status == "failed" and not job["completed"]:
        before = tr("failed") if not job["failed"] else ""
    if event == "turned":
        well = status == "completed" and not (job["failed"] or job["unknown"])
        before = tr("well again") if well else tr("no longer well")
    if status in ("paused", "cancelled"):
        counts = tr("{completed:,} of {total:,} done", completed=job["completed"], total=job["total"])
    return ": ".join(filter(None, [before, counts])) or tr("nothing to do")


def number(job: Told, name: str) -> int:
    if name == "left":
        return int(job["total"] - job["completed"] - job["failed"] - job["unknown"] - job["cancelled"])
    return int(job[name])


def took(job: Told) -> str:
    """How long it took, and when that was over: `took 0:29 and ended at 12:58 UTC`. Of one that was retried
    `spent` is what its runs took, without what lay between them."""
    if not (job["started_at"] and job["finished_at"]):
        return tr("it waits") if job["status"] == "paused" else ""
    began, ended = (datetime.datetime.fromisoformat(job[name]) for name in ("started_at", "finished_at"))
    spent = job.get("spent")
    seconds = int((ended - began).total_seconds() if spent is None else spent)
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    said = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
    at = ended.strftime("%H:%M")
    return tr("took {spent} and ended at {at} UTC", spent=said, at=at)


def text_of(job: Told, event: str, groups: Sequence[ErrorGroup], link: str, to: str) -> str:
    lines = [f"{job['task']} #{job['id']}: {outcome(job, event)}", ""]
    if spent := took(job):
        lines.append(f"{spent[:1].upper()}{spent[1:]}.")
    if job["reason"]:
        lines.append(clean(translated(job["reason"])))
    lines += ["", *(f"{group.items:>7,}  {said(group)}" for group in groups[:GROUPS])]
    if len(groups) > GROUPS:
        lines.append("         " + tr("And other errors."))
    lines += ["", link, "", "--", why(to)]
    return "\n".join(lines) + "\n"


def why(to: str) -> str:
    return tr("You get this because {to} was named to be told of this job.", to=to)


def said(group: ErrorGroup) -> str:
    text = f"{group.code or ''} {clean(translated(group.message))}".strip()
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def clean(text: str) -> str:
    """What others wrote, without what nobody sees."""
    return ODD.sub(" ", text)


def html_of(job: Told, event: str, groups: Sequence[ErrorGroup], link: str, to: str) -> str:
    """The same with the bar, for who reads HTML."""
    title = outcome(job, event)
    opens = tr("Open the job")
    name = f"{job['task']} #{job['id']}"
    about = ", ".join(filter(None, [name, took(job)]))
    reason = job["reason"] and p(clean(translated(job["reason"])), "soft", SOFT)
    return f"""<!doctype html>
<html lang="{language()}"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><meta name="supported-color-schemes" content="light dark">
<title>{escape(name)}: {escape(title)}</title><style>{DARK}</style></head>
<body class="ground" style="margin:0;padding:20px 10px;background:{GROUND};font:15px/1.45 {FONT}">
<table role="presentation" width="100%" cellspacing="0" cellpadding="0"><tr><td align="center">
<table class="sheet" role="presentation" width="100%" cellspacing="0" cellpadding="0"
 style="max-width:560px;background:{CARD};border:1px solid {LINE};border-radius:10px">
<tr><td style="padding:20px 24px 24px;text-align:left">
<h1 class="ink" style="margin:0;font-size:20px;line-height:1.3;color:{INK}">{escape(capital(title))}</h1>
{p(f"{about}.", "soft", SOFT)}{reason}{bar(job)}{counts(job)}{errors(groups)}
<a class="button" href="{escape(link)}" style="display:inline-block;padding:7px 15px;border-radius:7px;\
background:#1f57b8;color:#ffffff;font-weight:600;text-decoration:none">{escape(opens)}</a>
</td></tr></table>
<p class="foot" style="max-width:552px;margin:12px 4px;font-size:13px;text-align:left;color:{SOFT}">\
{escape(why(to))}</p>
</td></tr></table>
</body></html>
"""


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def p(text: str, cls: str, colour: str) -> str:
    return f'<p class="{cls}" style="margin:4px 0 0;color:{colour}">{escape(text)}</p>\n'


def bar(job: Told) -> str:
    """The job's progress as the cells of a table, which every mail program draws."""
    total = max(1, int(job["total"]))
    parts = {name: number(job, name) for name, *_ in SEGMENTS}
    widths = {name: max(LEAST, round(100 * n / total)) for name, n in parts.items() if n}
    if not widths:
        return ""
    widest = max(widths, key=lambda name: widths[name])
    widths[widest] -= sum(widths.values()) - 100
    cells = "".join(
        f'<td class="{name}" width="{widths[name]}%" height="12" bgcolor="{colour}"'
        f' style="background:{colour};font-size:0;line-height:0">&nbsp;</td>'
        for name, colour, _ in SEGMENTS
        if name in widths
    )
    return (
        '<table role="presentation" width="100%" cellspacing="0" cellpadding="0" style="margin:14px 0 8px;'
        f'border-collapse:collapse"><tr>{cells}</tr></table>\n'
    )


def counts(job: Told) -> str:
    shown = [
        f'<span class="{"ink" if name == "completed" else f"c-{name} soft"}" style="color:{colour}">'
        f"<b>{written(f'{n:,}')}</b> {escape(WORDS[name])}</span>"
        for name, _, colour in SEGMENTS
        if (n := number(job, name))
    ]
    return f'<p style="margin:0 0 16px">{" &nbsp; ".join(shown)}</p>\n' if shown else ""


def errors(groups: Sequence[ErrorGroup]) -> str:
    """Why items failed, the most frequent first."""
    if not groups:
        return ""
    rows = "".join(
        f'<tr><td class="c-failed line" valign="top" align="right" style="padding:7px 14px 7px 0;'
        f'border-top:1px solid {LINE};color:#b42c23;font-weight:600">{written(f"{group.items:,}")}</td>'
        f'<td class="ink line" width="100%" style="padding:7px 0;border-top:1px solid {LINE};color:{INK};'
        f'word-break:break-word">{escape(said(group))}</td></tr>\n'
        for group in groups[:GROUPS]
    )
    more = p(tr("And other errors."), "soft", SOFT) if len(groups) > GROUPS else ""
    return (
        '<table role="presentation" width="100%" cellspacing="0" cellpadding="0" style="margin:0 0 16px;'
        f'border-collapse:collapse;font-size:14px">{rows}</table>{more}'
    )
