"""What pages are built of: addresses below the path where the dashboard is mounted, and shapes that recur.

Where each frame draws them, elements that know nothing of htmx are made by fastcore itself, at half the cost.
A page or a frame is drawn `below` a base; whatever it is made of asks `url` for addresses and need not be
told.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from contextvars import ContextVar
from functools import wraps
from html import escape
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import urlencode

from fasthtml.common import Safe, to_xml
from fasthtml.components import A, Form, P, Table, Tbody, Th, Thead, Tr

from rowcast.tasks.accounts import LOCAL, Account
from rowcast.tasks.languages import language, tr

BASE = ContextVar("base", default="")
TROUBLE = ContextVar("trouble", default="")  # what keeps the dashboard from working now: every page says it
ASKS: ContextVar[Account | None] = ContextVar("asks", default=LOCAL)  # who asks; None for nobody who is known
NEWEST: ContextVar[Callable[[], int | None]] = ContextVar("newest", default=lambda: None)  # asks the counter
MOST_KEPT = 2000
_kept: dict[Hashable, Safe] = {}
Taken = ParamSpec("Taken")
Drawn = TypeVar("Drawn")


def below(draw: Callable[Taken, Drawn]) -> Callable[Concatenate[str, Taken], Drawn]:
    """A drawing that is given first the path where the dashboard is mounted: there its `url`s begin."""

    @wraps(draw)
    def drawn(base: str, /, *args: Taken.args, **named: Taken.kwargs) -> Drawn:
        before = BASE.set(base)
        try:
            return draw(*args, **named)
        finally:
            BASE.reset(before)

    return drawn


def may(right: str) -> bool:
    """Whether who asks may do what takes that right."""
    asks = ASKS.get()
    return asks is not None and asks.may(right, "POST")


def may_move(owner: str) -> bool:
    """Whether who asks may change what is that owner's."""
    asks = ASKS.get()
    return asks is not None and asks.moves(owner)


def url(path: str, **query: Any) -> str:
    """An address of the dashboard, as the browser asks for it; what is empty in the query is left out."""
    text = urlencode({name: value for name, value in query.items() if value})
    return f"{BASE.get()}{path}{'?' if text else ''}{text}"


def to_html(*parts: Any) -> Safe:
    """Parts of a page as text: a text that is not HTML already is escaped, as it is inside of an element."""
    return Safe("".join([to_xml(part, indent=False) if is_html(part) else escape(part) for part in parts]))


def kept(of: tuple[Hashable, ...], draw: Callable[[], Any]) -> Safe:
    """What is drawn of these values alone, below this path and in this language: as text, which the frames
    that come have too."""
    key = (BASE.get(), language(), *of)
    found = _kept.get(key)
    if found is None:
        if len(_kept) >= MOST_KEPT:
            _kept.clear()
        found = _kept[key] = to_html(draw())
    return found


def is_html(part: Any) -> bool:
    return isinstance(part, Safe) or not isinstance(part, str)


def post_form(action: str, *content: Any, **attributes: Any) -> Any:
    """A form that works without script; with it the page stays where it is, and its last line says what the
    server refused or did not hear. What it has become meanwhile is asked when the answer has come. What is to
    be asked before is `data_ask`: the page heeds it also of a form that htmx does not know yet."""
    said = P(cls="error", role="alert")
    how = {"method": "post", "hx_swap": "none", "hx_sync": "queue last"} | attributes
    return Form(*content, said, action=action, hx_post=action, **how)


def table(
    columns: Mapping[str, str], rows: Iterable[Any], body: Mapping[str, Any] | None = None, **attributes: Any
) -> Any:
    """A table. `columns`: the words of its head, each with its class; `body`: attributes of its tbody."""
    head = Tr(*[Th(tr(word) if word else "", cls=cls or None) for word, cls in columns.items()])
    return Table(Thead(head), Tbody(*rows, **(body or {})), **attributes)


def pager(earlier: str, later: str, between: Any = "") -> list[Any]:
    """The links to the pages before and after, where there are such."""
    links = [A(tr("← Earlier"), href=earlier, rel="prev", id="earlier")] if earlier else []
    if between:
        links.append(between)
    if later:
        links.append(A(tr("Later →"), href=later, rel="next", id="later"))
    return links
