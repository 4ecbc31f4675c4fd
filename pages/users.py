"""The users' page as HTML: search, a CSV to add more, what came of it, and the pages of the table."""

from typing import Any

from fasthtml.components import (
    H1,
    A,
    Button,
    Div,
    Form,
    Input,
    Label,
    Li,
    Option,
    P,
    Section,
    Select,
    Small,
    Span,
    Td,
    Tr,
    Ul,
)

from rowcast.pages.hotkeys import hotkey
from rowcast.pages.shell import page
from rowcast.pages.skeleton import below, pager, table, url
from rowcast.pages.values import cell, day, in_words, visible
from rowcast.tasks.languages import mark, tr, written
from rowcast.tasks.records import PAGE
from rowcast.tasks.sentences import translated
from rowcast.tasks.text import ENCODINGS
from rowcast.tasks.users import Imported, User

HEAD = {mark("E-mail"): "key", mark("Account updated"): "num when"}


def find_user(text: str) -> Any:
    return Form(
        Input(
            type="search",
            name="q",
            value=text,
            placeholder=tr("Find an address"),
            aria_label=tr("Find users"),
            data_hotkey=hotkey("find"),
        ),
        Button(tr("Find"), type="submit"),
        action=url("/users"),
        method="get",
        role="search",
        cls="row",
    )


def import_form() -> Any:
    return Form(
        Label(tr("Add from CSV"), _for="file"),
        Input(type="file", name="file", id="file", accept=".csv,text/csv", required=True),
        Select(
            Option(tr("Encoding: told from the file"), value=""),
            *[Option(name, value=name, lang="en") for name in ENCODINGS],
            name="encoding",
            aria_label=tr("Encoding of the file"),
        ),
        Label(Input(type="checkbox", name="dry_run", value="1"), tr(" Dry run")),
        Button(tr("Import"), type="submit"),
        action=url("/users"),
        method="post",
        enctype="multipart/form-data",
        cls="row",
    )


def imported_note(done: Imported) -> Any:
    """What came of a CSV: the good, and each of the first bad lines with its number and why."""
    bad = [
        Li(visible(tr("Line {line}: {why}.", line=line, why=translated(why)))) for line, why in done.refused
    ]
    if done.refusals > len(bad):
        bad.append(Li(tr("And {refusals:,} more.", refusals=done.refusals - len(bad))))
    return Div(
        P(visible(done.sentence)),
        Ul(*bad) if bad else "",
        cls="note",
        role="status",
    )


def users_table(rows: list[User]) -> Any:
    drawn = [Tr(cell(row.email, "key"), Td(day(row.account_updated), cls="num when")) for row in rows]
    return table(HEAD, drawn, cls="users", aria_label=tr("Users"))


def no_users(text: str) -> tuple[Any, ...]:
    """What stands in place of users where a search finds none, or there are none."""
    if text:
        everybody = A(tr("Show all users"), href=url("/users"))
        return (tr("Nobody's address has “{text}” in it. ", text=in_words(text)), everybody)
    return (tr("There are no users yet: add some from a CSV file with a column of addresses."),)


def users_pager(total: int, text: str, number: int) -> list[Any]:
    pages = max(1, -(-total // PAGE))
    return pager(
        url("/users", q=text, page=number - 1) if number > 1 else "",
        url("/users", q=text, page=number + 1) if number < pages else "",
        Span(tr("Page {number:,} of {pages:,}", number=number, pages=pages), cls="soft") if pages > 1 else "",
    )


# ---- the whole page ------------------------------------------------------------------------------------


@below
def users_page(rows: list[User], total: int, text: str, number: int, done: Imported | None = None) -> Any:
    """The users: search, pages, and a CSV to add more."""
    found = written(f"{total:,}")
    if text:
        found = tr("{total:,} with “{text}”", total=total, text=in_words(text))
    return page(
        tr("Users · Rowcast"),
        Div(H1(tr("Users")), Small(found), cls="titles"),
        imported_note(done) if done else "",
        Section(
            Div(find_user(text), import_form(), cls="tabs"),
            users_table(rows),
            P(*no_users(text), cls="empty"),
            Div(*users_pager(total, text, number), cls="pager"),
            cls="card",
            aria_label=tr("All users"),
        ),
        here="Users",
    )
