"""Bookmarks as HTML: the filters that one has kept, beside the one that is looked at."""

from collections.abc import Sequence
from typing import Any

from fasthtml.components import A, Button, Div, Input, Span

from rowcast.pages.skeleton import post_form, url
from rowcast.pages.values import in_words, visible
from rowcast.tasks.filters import Bookmark, Filter
from rowcast.tasks.languages import tr


def bookmarks_part(bookmarks: Sequence[Bookmark], wanted: Filter) -> Any:
    """What is kept, and a field that keeps what is found now; nothing where neither is."""
    if not bookmarks and wanted.is_all:
        return ""
    return Div(
        *[kept(one, wanted) for one in bookmarks], keep_form(bookmarks, wanted), cls="row kept-filters"
    )


def kept(one: Bookmark, wanted: Filter) -> Any:
    is_here = one.wanted == wanted
    forget = post_form(
        url(f"/bookmarks/{one.id}/forget"),
        Button(
            "×", type="submit", cls="link", aria_label=tr("Forget the view {name}", name=in_words(one.name))
        ),
        cls="forget",
    )
    link = A(visible(one.name), href=url("/", **one.wanted.values), aria_current="true" if is_here else None)
    return Span(link, forget if is_here else "", cls="tag")


def keep_form(bookmarks: Sequence[Bookmark], wanted: Filter) -> Any:
    if wanted.is_all or any(one.wanted == wanted for one in bookmarks):
        return ""
    return post_form(
        url("/bookmarks"),
        *[Input(type="hidden", name=name, value=value) for name, value in wanted.values.items()],
        Input(
            type="text", name="name", required=True, maxlength="60", id="keep-name",
            placeholder=tr("Keep this view as …"), aria_label=tr("A name to keep this view by"),
        ),
        Button(tr("Keep"), type="submit"),
        cls="row",
    )  # fmt: skip
