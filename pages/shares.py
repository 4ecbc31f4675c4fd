"""With whom a job is shared, as HTML, for who may change that."""

from typing import Any

from fasthtml.components import Button, Details, Div, Input, Label, Li, Option, Select, Span, Summary, Ul

from rowcast.pages.skeleton import post_form, url
from rowcast.pages.values import in_words
from rowcast.tasks.accounts import ShareRow
from rowcast.tasks.languages import Words, mark, tr

ROLES = Words({"viewer": mark("all viewers"), "operator": mark("all operators")})


def share_form(job: int, shares: list[ShareRow] | None) -> Any:
    """Closed until it is wanted; its head says with how many it is shared. None: there are no accounts, and
    what is left are the links to its card.
    """
    head = tr("Shared with {number}", number=len(shares)) if shares else tr("Share")
    with_accounts = [] if shares is None else account_forms(job, shares)
    return Details(Summary(head), *with_accounts, card_links(job), id="shares", cls="more card")


def card_links(job: int) -> Any:
    """What takes back every signed link to the job's card that there is."""
    return post_form(
        url(f"/jobs/{job}/card/end"),
        Span(tr("Links to its card"), cls="soft"),
        Button(tr("Take all back"), type="submit"),
        cls="row",
        data_ask=tr("Every link to this job's card that was made until now opens nothing any more. Do it?"),
    )


def account_forms(job: int, shares: list[ShareRow]) -> list[Any]:
    return [
        Ul(*[share_line(job, row) for row in shares]) if shares else "",
        post_form(
            url(f"/jobs/{job}/shares"),
            Label(
                tr("With "), Input(name="account", id="share-account", placeholder=tr("an account's name"))
            ),
            Button(tr("Share"), type="submit"),
            cls="row",
        ),
        post_form(
            url(f"/jobs/{job}/shares"),
            Select(
                *[Option(word, value=role) for role, word in ROLES.items()],
                name="role",
                aria_label=tr("Role"),
            ),
            Button(tr("Share"), type="submit"),
            cls="row",
        ),
    ]


def share_line(job: int, row: ShareRow) -> Any:
    who = ROLES.get(row.name, row.name) if row.kind == "role" else row.name
    end = post_form(
        url(f"/jobs/{job}/shares/end"),
        Input(type="hidden", name=row.kind, value=row.name),
        Button(
            tr("End"), type="submit", cls="link", aria_label=tr("End sharing with {who}", who=in_words(who))
        ),
    )
    return Li(Div(in_words(who), end, cls="row apart"))
