"""The shell of a whole page: its head with style and scripts, the line above, and what asks for its updates.

No inline style or script: the Content-Security-Policy allows neither. What a page does beyond htmx is in
static/app.js.
"""

from functools import lru_cache
from typing import Any

from fasthtml.common import Safe
from fasthtml.components import (
    A,
    B,
    Body,
    Button,
    Div,
    Head,
    Header,
    Html,
    I,
    Link,
    Main,
    Meta,
    Nav,
    Option,
    P,
    Script,
    Select,
    Span,
    Title,
)

from rowcast.pages.hotkeys import key_button, key_map, page_key
from rowcast.pages.news import toasts
from rowcast.pages.skeleton import ASKS, BASE, NEWEST, TROUBLE, post_form, to_html, url
from rowcast.pages.values import icon_of, in_words, visible
from rowcast.tasks.accounts import LOCAL, Account
from rowcast.tasks.languages import SPOKEN, Words, in_each_language, language, mark, tr
from rowcast.tasks.records import encode
from rowcast.tasks.sentences import translated

HTMX = {
    "metaCharacter": "-",
    "includeIndicatorCSS": False,
    "history": False,
    "noSwap": [204, 304, "4xx", "5xx"],
    "morphSkipChildren": "form > [role=alert]",  # what a press came to outlives the frames
    "defaultTimeout": 15_000,  # milliseconds for an answer: the server waits up to 10 s for its database
    "sse": {"reconnectDelay": 500, "reconnectMaxDelay": 4000, "connectTimeout": 30000},
}
# not deferred: htmx would then start before an extension that comes later, and never connect the stream
LAST_SCRIPTS = ("htmx.min", "hx-sse.min", "hx-upsert.min")
THEMES = Words({"auto": mark("◐ Auto"), "light": mark("○ Light"), "dark": mark("● Dark")})
# the pages, each with the right that it takes to see it
PAGES = {
    mark("Jobs"): ("/", "look"),
    mark("Tasks"): ("/tasks", "look"),
    mark("Users"): ("/users", "start"),
    mark("Schedules"): ("/schedules", "look"),
    mark("Messages"): ("/messages", "look"),
    mark("Workers"): ("/workers", "look"),
    mark("Mail"): ("/mailbox", "look"),
}


def page(
    title: str, *content: Any, here: str = "", stream: str = "", at_rest: str = "", status: str = ""
) -> Any:
    """A whole page. `here`: the page of PAGES that it belongs to; `stream`: the URL of its live updates, ''
    for a page at rest; `at_rest`: what a page at rest says of how fresh it is; `status`: what the favicon
    shows."""
    return Html(
        head(title, icon_of(status)),
        Body(
            Safe(above(BASE.get(), ASKS.get(), here, mark("Not live") if stream else at_rest)),
            Div(*banner(TROUBLE.get()), id="banner", role="alert"),
            Main(
                *content,
                P(cls="sr", role="status", aria_live="polite", id="spoken"),
                feed(stream) if stream else "",
                id="main",
                tabindex="-1",
            ),
            Safe(toasts()),
            Safe(key_map(BASE.get())),
            Safe(scripts(BASE.get())),
            data_live="offline" if stream else "live",
            data_base=url(""),
            data_seq=newest(),
        ),
        lang=language(),
    )


def newest() -> str | None:
    """From where on a page is told news: the counter as the page is drawn; nobody who is unknown is."""
    seq = NEWEST.get()() if ASKS.get() else None
    return None if seq is None else str(seq)


def banner(trouble: str) -> list[Any]:
    """What keeps the dashboard from working now, above all else; nothing while all is well."""
    return [P(visible(translated(one))) for one in trouble.splitlines()]


def feed(stream: str) -> Any:
    """What asks for the stream; app.js triggers it again."""
    return Div(
        id="feed",
        hidden=True,
        hx_sse_connect=stream,
        hx_sse_close="done",
        hx_swap="none",
        hx_trigger="load, again",
    )


def head(title: str, icon: str) -> Any:
    """What a page is made with: its title, icon, style and first script, all from this server."""
    return Head(
        Title(title),
        Safe(made_with(BASE.get(), icon)),
    )


# What many pages share is drawn once for each base that their addresses begin with (which `url` knows).


@in_each_language(32)
def made_with(base: str, icon: str) -> str:
    return to_html(
        *metas(),
        *texts(),
        Meta(name="htmx-config", content=encode(HTMX).decode()),
        Link(rel="icon", id="favicon", href=url(f"/static/icon-{icon}.svg"), type="image/svg+xml"),
        Link(rel="stylesheet", href=url("/static/app.css")),
        Script(src=url("/static/app.js")),
        Script(src=url("/static/charts.js")),
        Script(src=url("/static/stream.js")),
        Script(src=url("/static/news.js")),
        Script(src=url("/static/hotkeys.js"), type="module"),
        Script(src=url("/static/picker.js")),
    )


@lru_cache(32)
def scripts(base: str) -> str:
    """Those that come last."""
    return to_html(*[Script(src=url(f"/static/vendor/{name}.js")) for name in LAST_SCRIPTS])


def texts() -> tuple[Any, ...]:
    """What scripts say, in another language than theirs."""
    spoken = SPOKEN.get()
    return (Meta(name="texts", content=encode(spoken.scripts).decode()),) if spoken else ()


def metas() -> tuple[Any, ...]:
    return (
        Meta(charset="utf-8"),
        Meta(name="viewport", content="width=device-width, initial-scale=1"),
        Meta(name="color-scheme", content="light dark"),
    )


@in_each_language(64)
def above(base: str, asks: Account | None, here: str, live: str) -> str:
    """The line above every page: where one can go, and whether what is shown is fresh."""
    links = [
        A(tr(name), href=url(path), aria_current="page" if name == here else None, data_hotkey=page_key(name))
        for name, (path, right) in PAGES.items()
        if asks is None or asks.may(right)
    ]
    how = "live waiting" if live == "Not live" else "live"
    line = Header(
        A(tr("Rowcast"), href=url("/"), cls="brand"),
        Nav(*links, aria_label=tr("Pages")),
        Span(I(), Span(tr(live), id="live-word"), cls=how, id="live", role="status") if live else "",
        stop_all() if asks and asks.may("admin", "POST") else "",
        me(asks, here),
        key_button(),
        Select(
            *[Option(word, value=name) for name, word in THEMES.items()],
            id="theme",
            aria_label=tr("Theme"),
            title=tr("Light, dark, or as the system has it"),
        ),
        cls="top",
    )
    return to_html(A(tr("Skip to the content"), href="#main", cls="skip"), line)


def stop_all() -> Any:
    """The one button for an emergency; the page that it leads to lifts it again."""
    return post_form(
        url("/halts"),
        Button(tr("Stop all"), type="submit", cls="small-button danger"),
        data_ask=tr("Stop everything? What runs ends, and nothing new starts until you let it go on."),
        cls="stop-all",
    )


def me(asks: Account | None, here: str) -> Any:
    """Who is signed in, and the way to their account."""
    if asks is None or asks is LOCAL:
        return ""
    return A(
        B(asks.name[:1], aria_hidden="true"),
        Span(in_words(asks.name)),
        href=url("/account"),
        cls="me",
        title=f"{in_words(asks.name)}, {asks.role}",
        aria_label=tr("Account {name}", name=in_words(asks.name)),
        aria_current="page" if here == "Account" else None,
    )


def door(title: str, *content: Any) -> Any:
    """A page for who is not in yet: nothing but what it is for."""
    return Html(
        Head(
            *metas(),
            *texts(),
            Title(title),
            Link(rel="icon", href=url("/static/icon-idle.svg"), type="image/svg+xml"),
            Link(rel="stylesheet", href=url("/static/app.css")),
            Script(src=url("/static/app.js")),
        ),
        Body(Main(*content, cls="door", id="main"), data_base=url("")),
        lang=language(),
    )


def embedded(title: str, *content: Any) -> Any:
    """A page for a frame in another one."""
    return Html(
        Head(
            *metas(),
            Title(title),
            Link(rel="stylesheet", href=url("/static/app.css")),
        ),
        Body(Main(*content, cls="card embedded"), cls="embed"),
        lang=language(),
    )
