"""Rows as HTML: items, their filters, error groups and pages.

A row is drawn by the same function at the first load, at a reconnect and in a frame. What comes from users
and APIs is passed as text and escaped.
"""

from html import escape
from typing import Any, NamedTuple
from zlib import crc32

from fastcore.xml import H2, A, Code, Div, P, Span
from fasthtml.common import Safe
from fasthtml.components import Button, Form, Input

from rowcast.pages.charts import growth_line
from rowcast.pages.forms import action_form
from rowcast.pages.hotkeys import hotkey
from rowcast.pages.results import file_links, key_width
from rowcast.pages.skeleton import kept, may_move, pager, post_form, table, to_html, url
from rowcast.pages.values import (
    WORDS,
    clock,
    countdown,
    in_words,
    status_icon,
    text_cell,
    text_icon,
    visible,
)
from rowcast.tasks.clock import now
from rowcast.tasks.languages import mark, tr, written
from rowcast.tasks.records import (
    ACTIONS,
    PAGE,
    RETRYING,
    ErrorGroup,
    Item,
    Job,
    JobView,
    View,
    iso,
)
from rowcast.tasks.registry import REGISTRY
from rowcast.tasks.sentences import translated

ITEMS_HEAD = {
    mark("Item"): "key",
    mark("Status"): "is",
    mark("Try"): "num try",
    mark("Code"): "num code",
    "ms": "num ms",
    mark("What happened"): "why",
    mark("When"): "num when",
}
RETRY_ONE = "retry-one"  # the form that the rows' buttons belong to


def retry_button(item: Item) -> str:
    """Another try for one item; it belongs to the page's form `retry-one`."""
    if item.status not in ("failed", "unknown"):
        return ""
    return to_html(
        Button(
            tr("Retry"),
            type="submit",
            name="item",
            value=str(item.id),
            form=RETRY_ONE,
            cls="link",
            aria_label=tr("Retry {key}", key=in_words(item.key)),
        )
    )


def retry_form(job: Job) -> Any:
    """What the rows' buttons send, each in its turn."""
    return post_form(url(f"/jobs/{job.id}/retry"), id=RETRY_ONE, hidden=True, hx_sync="queue all")


def filters(look: JobView) -> list[Any]:
    """The counts, which are filters."""
    job = look.job
    view = look.view
    counts = [("moving", tr("Latest") if job.ended else tr("Moving"), -1), ("all", tr("All"), job.total)]
    counts += [
        (s, WORDS[s], getattr(job, s))
        for s in ("failed", "unknown", "running", "queued", "completed", "cancelled")
        if getattr(job, s)
        or view.name == s
        or s in ("failed", "completed")
        or (s == "queued" and not job.ended)
    ]
    if view.name == RETRYING or (not job.ended and tries_of(job) > 1):
        counts.append((RETRYING, WORDS[RETRYING], -1))
    shown = "" if view.fingerprint or view.find else view.name
    return [filter_link(job, name, word, n, name == shown) for name, word, n in counts]


def filter_link(job: Job, name: str, word: str, number: int, is_shown: bool) -> Any:
    """Written as text, as `fact`."""
    current = ' aria-current="true"' if is_shown else ""
    count = f'<span class="n"> {written(f"{number:,}")}</span>' if number >= 0 else ""
    href = escape(view_url(job, View(name)))
    return Safe(f'<a href="{href}" id="tab-{name}"{current}>{escape(word)}{count}</a>')


def tries_of(job: Job) -> int:
    """How many tries an item of the job may have by itself."""
    return REGISTRY[job.task].max_attempts if job.task in REGISTRY and job.shape == "items" else 1


def view_url(job: Job, view: View, **changes: Any) -> str:
    return url(f"/jobs/{job.id}?{view.query(**changes)}")


def search_form(look: JobView) -> Any:
    return Form(
        Input(
            type="search",
            name="find",
            value=look.view.find,
            placeholder=tr("Find a key"),
            aria_label=tr("Find items by key"),
            id="find",
            autocomplete="off",
            data_hotkey=hotkey("find"),
        ),
        Button(tr("Find"), type="submit"),
        action=url(f"/jobs/{look.job.id}"),
        method="get",
        role="search",
        id="search",
    )


def items_table(look: JobView) -> Any:
    """The rows. Where rows come and go their height is fixed; a page of failures shows each error in full."""
    view = look.view
    return table(
        ITEMS_HEAD,
        item_rows(look),
        {"id": "items", "data_max": str(PAGE), "data_sort": view.sort},
        cls="items whole" if view.name in ("failed", "unknown") or view.find else "items",
        data_keys=key_width(look.items) if look.items else None,
        aria_label=tr("Items"),
    )


def empty_text(look: JobView) -> tuple[Any, ...]:
    """What stands in place of the rows where there are none (app.css shows it), and what to do next."""
    job = look.job
    view = look.view
    everything = A(tr("Show all items"), href=view_url(job, View("all")))
    if view.find:
        return (tr("No item's key has “{find}” in it. ", find=in_words(view.find)), everything)
    if not job.total and job.ended:
        return (tr("This job had no items. "), A(tr("Start another"), href=url("/")))
    if view.name == "moving" and job.ended:
        return (tr("Nothing moved. "), everything)
    if view.name == "moving":
        return (tr("Nothing has moved yet; rows appear here as they do."),)
    if not view.status:
        return (tr("The items come in a moment."),)
    said = {
        "failed": tr("Nothing has failed. "),
        "queued": tr("Nothing waits. "),
        "running": tr("Nothing runs at this moment. "),
    }
    return (said.get(view.name, tr("There are none. ")), everything)


def item_rows(look: JobView) -> list[Any]:
    task = look.job.task
    doing = tr(REGISTRY[task].doing) if task in REGISTRY else WORDS["running"]
    by_change = look.view.name == "moving"
    query = escape(look.view.query(item=None))
    links = ItemLinks(url(f"/jobs/{look.job.id}/items/"), f"?{query}" if query else "", look.view.item)
    return [item_row(item, by_change, doing, links) for item in look.items]


class ItemLinks(NamedTuple):
    """The pages of the items of a view: what their addresses begin and end with, and which one is open."""

    begins: str = ""
    ends: str = ""
    opened: int = 0

    def to(self, item: int) -> str:
        return f"{self.begins}{item}{self.ends}" if self.begins else ""


NO_LINKS = ItemLinks()


def item_row(item: Item, by_change: bool, doing: str = "Running", links: ItemLinks = NO_LINKS) -> Any:
    """One item. data-order is what the table is sorted by: the change in the moving view, else the position.

    Written as text, the only place where that is so: a frame has a hundred rows, ten times a second.
    """
    at = iso(item.updated_at) or ""
    order = item.seq if by_change else item.position
    ms = "" if item.ms is None else written(f"{item.ms:,.0f}")
    current = ' aria-current="true"' if item.id == links.opened else ""
    return Safe(
        f'<tr id="item-{item.id}" data-status="{item.status}" data-order="{order}"{current}>'
        f"{text_cell(item.key, 'key', links.to(item.id))}"
        f'<td class="is">{item_status(item, doing)}{retry_button(item)}</td>'
        f'<td class="num try">{item.attempt or ""}</td><td class="num code">{item.code or ""}</td>'
        f'<td class="num ms">{ms}</td>{text_cell(what_happened(item), "why")}'
        f'<td class="num when"><time datetime="{at}">{at[11:19]} UTC</time></td></tr>'
    )


def item_status(item: Item, doing: str) -> str:
    if item.retrying:
        return to_html(status_icon("retrying", tr("Again "), countdown(item.run_at, in_row=True)))
    return text_icon(item.status, doing if item.status == "running" else WORDS[item.status])


def what_happened(item: Item) -> str:
    if item.error:
        return translated(item.error)
    if item.status in ("completed", "running") and item.attempt > 1:
        return (
            tr("on try {attempt}", attempt=item.attempt)
            if item.status == "completed"
            else tr("try {attempt}", attempt=item.attempt)
        )
    return item.result[:120] if item.result and item.result != "null" else ""


def error_list(look: JobView) -> tuple[Any, ...]:
    """Failures that are alike, each with what can be done about it."""
    groups = [error_group(look, group) for group in look.groups]
    if not groups:
        return (H2(tr("Why items fail")), P(tr("Nothing has failed."), cls="soft pad"))
    rest = look.job.failed - sum(group.items for group in look.groups)
    more = [P(tr("{rest:,} more, of other kinds.", rest=rest), cls="soft pad")] if rest > 0 else []
    return (H2(tr("Why items fail")), *groups, *more)


def error_group(look: JobView, group: ErrorGroup) -> Any:
    """One kind of failure. Its id keeps a focused button at its own group when another one overtakes it."""
    job = look.job
    these = view_url(job, View("failed", fingerprint=group.fingerprint))
    may_retry = job.status in ACTIONS["retry"].leaves and may_move(job.owner)
    sample = translated(group.sample)
    return Div(
        P(
            Span(written(f"{group.items:,}"), cls="count"),
            " ",
            f"{group.code} " if group.code else "",
            visible(translated(group.message)),
        ),
        P(tr("First "), clock(group.first_at), tr(", last "), clock(group.last_at), cls="soft when"),
        Safe(growth_line(group.growth, job.began, job.finished_at or now()))
        if job.began and group.growth
        else "",
        P(Code(visible(sample)), cls="sample") if group.sample not in ("", group.message) else "",
        Div(
            A(
                tr("Show these"),
                href=these,
                aria_current="true" if look.view.fingerprint == group.fingerprint else None,
            ),
            kept(("retry these", job.id, group.fingerprint), lambda: retry_group(job, group))
            if may_retry
            else "",
            cls="row",
        ),
        cls="grp",
        id=f"group-{crc32(group.fingerprint.encode())}",
    )


def retry_group(job: Job, group: ErrorGroup) -> Any:
    return action_form(job, "retry", tr("Retry these"), "link", group=group.fingerprint)


def item_pager(look: JobView) -> list[Any]:
    """Links to the pages before and after, which the moving view has not; and what is filtered, as files."""
    view = look.view
    is_part = view.status or view.fingerprint or view.find
    saved = file_links(look.job, view, "link") if is_part and look.items else []
    if view.find:
        cut = len(look.items) == PAGE
        return [
            *([Span(tr("The first {PAGE} that were found.", PAGE=PAGE), cls="soft")] if cut else []),
            *saved,
        ]
    return [] if view.name == "moving" else [*pages_around(look), *saved]


def pages_around(look: JobView) -> list[Any]:
    job = look.job
    view = look.view
    items = look.items
    last = job.total
    if view.name == "all":  # all items stand without a gap, so there it is known without them
        last = view.after + PAGE
    elif len(items) == PAGE:
        last = items[-1].position
    return pager(
        "" if look.back is None else view_url(job, view, after=look.back),
        view_url(job, view, after=last) if last < job.total - 1 else "",
    )
