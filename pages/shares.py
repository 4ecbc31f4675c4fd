"""With whom a job is shared, as HTML, for who may change that."""

from typing import Any

from fasthtml.components import Button, Details, Div, Input, Label, Li, Option, Select, Summary, Ul

from rowcast.pages.skeleton import post_form, url
from rowcast.pages.values import in_words
from rowcast.tasks.accounts import ShareRow

ROLES = {"viewer": "all viewers", "operator": "all operators"}


def share_form(job: int, shares: list[ShareRow]) -> Any:
    """Closed until it is wanted; its head says with how many it is shared."""
    head = f"Shared with {len(shares)}" if shares else "Share"
    return Details(
        Summary(head),
        Ul(*[share_line(job, row) for row in shares]) if shares else "",
        post_form(
            url(f"/jobs/{job}/shares"),
            Label("With ", Input(name="account", id="share-account", placeholder="an account's name")),
            Button("Share", type="submit"),
            cls="row",
        ),
        post_form(
            url(f"/jobs/{job}/shares"),
            Select(
                *[Option(word, value=role) for role, word in ROLES.items()], name="role", aria_label="Role"
            ),
            Button("Share", type="submit"),
            cls="row",
        ),
        id="shares",
        cls="more card",
    )


def share_line(job: int, row: ShareRow) -> Any:
    who = ROLES.get(row.name, row.name) if row.kind == "role" else row.name
    end = post_form(
        url(f"/jobs/{job}/shares/end"),
        Input(type="hidden", name=row.kind, value=row.name),
        Button("End", type="submit", cls="link", aria_label=f"End sharing with {in_words(who)}"),
    )
    return Li(Div(in_words(who), end, cls="row apart"))
