"""What came of a job, as HTML: the counts by status, the files, and each item with what it returned."""

from typing import Any

from fasthtml.components import A, Dd, Div, Dl, Dt, P, Span, Td, Tr

from rowcast.pages.skeleton import pager, table, url
from rowcast.pages.values import WORDS, in_words, status_icon, visible
from rowcast.tasks.languages import mark, tr, written
from rowcast.tasks.records import ITEM_STATUSES, PAGE, Item, Job, JobView, View
from rowcast.tasks.sentences import translated

HEAD = {mark("Item"): "key", mark("Status"): "is", mark("Code"): "num code", mark("Result or error"): "why"}
KEY_STEPS = (8, 16, 24)  # letters of keys, for which the column has a width of its own
RESULT_SHOWN = 300  # letters
RESULT_FILES = ("results.csv", "results.ndjson")  # for spreadsheets, and for programs


def not_complete(job: Job) -> Any:
    """Says that there is more to come; nothing for a job that has ended."""
    if job.ended:
        return ""
    return P(
        tr(
            "The job is {status}: {done:,} of {total:,} items have ended so far, ",
            status=WORDS[job.status].lower(),
            done=job.done,
            total=job.total,
        ),
        tr("and these results are not complete. "),
        A(tr("Load them again"), href=""),
        cls="note quiet",
    )


def by_status(job: Job) -> Any:
    counts = {s: getattr(job, s) for s in ITEM_STATUSES}
    return Dl(
        *[Div(Dt(status_icon(s)), Dd(written(f"{n:,}"), cls="num")) for s, n in counts.items() if n],
        cls="pairs",
    )


def file_links(job: Job, view: View, cls: str = "button") -> list[Any]:
    """The results as files: those of the view alone."""
    links = [(name, url(f"/jobs/{job.id}/{name}", **filter_of(view))) for name in RESULT_FILES]
    return [A(name, href=href, cls=cls, download=True) for name, href in links]


def filter_of(view: View) -> dict[str, str]:
    """What a view has of all items, as a query; nothing where it has them all."""
    return {"status": view.status or "", "group": view.fingerprint, "find": view.find}


def filter_note(look: JobView) -> Any:
    """Says of which items these results are, where it is not all."""
    view = look.view
    if not any(filter_of(view).values()):
        return ""
    said = [tr("with the status “{status}”", status=WORDS[view.status])] if view.status else []
    said += [tr("of one kind of failure")] if view.fingerprint else []
    said += [tr("whose key has “{find}” in it", find=in_words(view.find))] if view.find else []
    everything = A(tr("Show all"), href=url(f"/jobs/{look.job.id}/results"))
    return P(tr("Only items {said}. ", said=tr(" and ").join(said)), everything, cls="note quiet")


def results_table(items: list[Item]) -> Any:
    """The items of a page; a column in which none of them has anything is left out."""
    given = {"code": any(item.code for item in items), "why": any(said_of(item) for item in items)}
    head = {word: cls for word, cls in HEAD.items() if given.get(cls.split()[-1], True)}
    rows = [result_row(item, given) for item in items]
    return table(head, rows, cls="items whole", data_keys=key_width(items), aria_label=tr("Results"))


def said_of(item: Item) -> str:
    """What came of an item, in words: nothing of one that returned nothing."""
    return translated(item.error or "") or ("" if item.result == "null" else item.result or "")


def key_width(items: list[Item]) -> str | None:
    """How wide the column of these keys is, for app.css; app.js does the same for rows that come later."""
    longest = max((len(item.key) for item in items), default=0)
    return next((str(step) for step, most in enumerate(KEY_STEPS, 1) if longest <= most), None)


def result_row(item: Item, given: dict[str, bool]) -> Any:
    return Tr(
        Td(
            A(visible(item.key), href=url(f"/jobs/{item.job}/items/{item.id}")),
            cls="key",
            title=in_words(item.key),
        ),
        Td(status_icon(item.status), cls="is"),
        Td(str(item.code or ""), cls="num code") if given["code"] else "",
        Td(visible(said_of(item)[:RESULT_SHOWN]), cls="why") if given["why"] else "",
    )


def results_pager(look: JobView) -> list[Any]:
    path = f"/jobs/{look.job.id}/results"
    only = filter_of(look.view)
    if look.view.find:
        return (
            [Span(tr("The first {PAGE} that were found; the files have all.", PAGE=PAGE), cls="soft")]
            if len(look.items) == PAGE
            else []
        )
    last = look.items[-1].position if len(look.items) == PAGE else look.job.total
    first = [A(tr("← First"), href=url(path, **only))] if look.view.after >= 0 else []
    return first + pager("", url(path, after=last, **only) if last < look.job.total - 1 else "")
