"""The sign-in, an account's own page and the audit as HTML.

Their forms are plain ones: they work without script, and what was wrong stands above the field on the page
that comes back.
"""

import math
from collections.abc import Iterable
from typing import Any

from fasthtml.components import (
    H1,
    H2,
    A,
    B,
    Br,
    Button,
    Code,
    Div,
    Form,
    Input,
    Label,
    Option,
    P,
    Section,
    Select,
    Small,
    Span,
    Td,
    Tr,
)

from rowcast.pages.shell import door, page
from rowcast.pages.skeleton import below, pager, table, url
from rowcast.pages.values import cell, day, in_words, visible
from rowcast.tasks.accounts import MAY, Account, AccountRow, AuditRow, SessionRow, TokenRow
from rowcast.tasks.clock import now
from rowcast.tasks.languages import Words, mark, tr
from rowcast.tasks.sentences import translated

SESSIONS = {mark("Device"): "who", mark("From"): "", mark("Last seen"): "", mark("Ends"): "", "": "act"}
TOKENS = {
    mark("For"): "who",
    mark("Begins with"): "",
    mark("May"): "",
    mark("Last used"): "",
    mark("Ends"): "",
    "": "act",
}
AUDIT = {
    mark("When"): "at",
    mark("Who"): "who",
    mark("What"): "",
    mark("Job"): "job",
    mark("Of what"): "",
    mark("From"): "",
}
SCOPES = Words({"read": mark("look only"), "write": mark("all that I may")})
YOURS = Words({"read": mark("look only"), "write": mark("all that you may")})
LIVES = Words({"90": mark("90 days"), "365": mark("a year"), "": mark("ever")})
OF_ADMINS = ((mark("Accounts"), "/accounts"), (mark("Audit"), "/audit"))
SOON = 7 * 86_400  # seconds before its end from which a token is shown to end soon


def plain_form(action: str, *content: Any, **attributes: Any) -> Any:
    return Form(*content, method="post", action=url(action), **attributes)


def field(word: str, ident: str, **how: Any) -> Any:
    return Div(Label(word, _for=ident), Input(id=ident, name=ident, **how))


# ---- the sign-in -------------------------------------------------------------------------------------------


def sign_in_form(place: str, name: str, then: str, wrong: str, others: Iterable[tuple[str, str]] = ()) -> Any:
    """`place`: where this is; `then`: the path to go on to; `others`: more ways to sign in, word and path."""
    ways = [A(translated(word), href=url(path), cls="button") for word, path in others]
    return Div(
        plain_form(
            "/sign-in",
            Div(H1(tr("Sign in")), P(tr("Rowcast at {place}", place=place), cls="soft")),
            *ways,
            Span(tr("or"), cls="or") if ways else "",
            P(translated(wrong), cls="error", role="alert"),
            field(tr("Name"), "name", type="text", autocomplete="username", value=name, required=True,
                  autocapitalize="none", spellcheck="false", autofocus=not name),
            field(tr("Password"), "password", type="password", autocomplete="current-password", required=True,
                  autofocus=bool(name)),
            Label(Input(type="checkbox", name="stay", value="1"), tr(" Stay signed in for 30 days"),
                  cls="check"),
            Input(type="hidden", name="next", value=then),
            Button(tr("Sign in"), type="submit", cls="primary"),
            cls="card",
        ),
        P(
            *((tr("Then on to "), B(in_words(then[:80])), ".", Br()) if then not in ("", "/") else ()),
            tr("No account? Ask who runs this."),
            cls="foot",
        ),
        cls="in",
    )  # fmt: skip


# ---- an account's own page ---------------------------------------------------------------------------------


def account_titles(account: Account, signs_out: bool) -> Any:
    may = translated(MAY.get(account.role, ""))
    return Div(
        H1(visible(account.name)),
        Span(f"{may[:1].upper()}{may[1:]}", cls="chip"),
        Span(cls="grow"),
        *(
            [A(tr(word), href=url(path), cls="button") for word, path in OF_ADMINS]
            if account.may("admin")
            else ()
        ),
        plain_form("/sign-out", Button(tr("Sign out"), type="submit")) if signs_out else "",
        cls="titles",
    )


def sessions_card(sessions: list[SessionRow], this: int | None) -> Any:
    """Where an account is signed in; `this`: the session that asks."""
    others = [session for session in sessions if session.id != this]
    all_others = plain_form(
        "/account/sessions/end", Button(tr("Sign out everywhere else"), type="submit", cls="small-button")
    )
    return Section(
        Div(H2(tr("Where you are signed in")), all_others if others else "", cls="head"),
        table(SESSIONS, [session_row(session, session.id == this) for session in sessions], cls="keys"),
        cls="card",
        aria_label=tr("Where you are signed in"),
    )


def session_row(session: SessionRow, is_this: bool) -> Any:
    end = plain_form(f"/account/sessions/{session.id}/end", Button(tr("Sign out"), type="submit", cls="link"))
    return Tr(
        Td(B(visible(session.device)), cls="who"),
        Td(visible(session.address), cls="soft"),
        Td(Span(tr("This one, now"), cls="st s-completed") if is_this else ago(session.seen_at)),
        Td(
            tr("in {ends_at}", ends_at=span_of(session.ends_at - now())),
            cls="soft ends",
            data_said=tr("ends "),
        ),
        Td("" if is_this else end, cls="num act"),
    )


def tokens_card(tokens: list[TokenRow], made: tuple[str, str] | None, wrong: str) -> Any:
    """The tokens of an account; `made`: what a new one is for and what it says, which is shown this once."""
    form = plain_form(
        "/account/tokens",
        Label(tr("New token for"), _for="label"),
        Input(id="label", name="label", placeholder=tr("what uses it"), required=True, maxlength="100"),
        Label(tr("it may"), _for="scope"),
        Select(*[Option(word, value=scope) for scope, word in SCOPES.items()], id="scope", name="scope"),
        Label(tr("for"), _for="days"),
        Select(*[Option(word, value=days) for days, word in LIVES.items()], id="days", name="days"),
        Button(tr("Make it"), type="submit", cls="primary"),
        P(translated(wrong), cls="error", role="alert"),
        cls="say",
    )
    once = ""
    if made:
        once = Div(
            Span(B(visible(made[0])), tr(": copy it now. It is not shown again.")),
            Code(made[1], id="token"),
            cls="once",
            role="status",
        )
    return Section(
        Div(H2(tr("Tokens for programs")), Small(tr("A token may never do more than you may.")), cls="head"),
        form,
        once,
        table(TOKENS, [token_row(token) for token in tokens], cls="keys"),
        cls="card",
        aria_label=tr("Tokens for programs"),
    )


def token_row(token: TokenRow) -> Any:
    left = None if token.ends_at is None else token.ends_at - now()
    ends = tr("never") if left is None else tr("in {ends_at}", ends_at=span_of(left))
    used = (
        (ago(token.seen_at), tr(", from {address}", address=token.address))
        if token.seen_at
        else (tr("never"),)
    )
    return Tr(
        Td(B(visible(token.label)), cls="who"),
        Td(f"{token.prefix}…", cls="key soft"),
        Td(YOURS[token.scope]),
        Td(*used, cls="soft used", data_said=tr("used ")),
        Td(
            Span(ends, cls="s-retrying" if left is not None and left < SOON else None),
            cls="ends",
            data_said=tr("ends "),
        ),
        Td(
            plain_form(
                f"/account/tokens/{token.id}/revoke",
                Button(tr("Revoke"), type="submit", cls="link"),
                data_ask=tr("Who shows this token is let in no more. This cannot be taken back. Do it?"),
            ),
            cls="num act",
        ),
    )


def password_card(name: str, wrong: str, done: str) -> Any:
    return Section(
        Div(
            H2(tr("Password")), Small(tr("All other devices are signed out when it changes.")), cls="head"
        ),
        plain_form(
            "/account/password",
            Input(type="text", name="username", value=name, autocomplete="username", hidden=True),
            P(translated(wrong), cls="error across", role="alert"),
            P(translated(done), cls="across", role="status") if done else "",
            Label(tr("The one now"), _for="now"),
            Div(Input(id="now", name="now", type="password", autocomplete="current-password", required=True)),
            Label(tr("A new one"), _for="new"),
            Div(
                Input(id="new", name="new", type="password", autocomplete="new-password", required=True),
                P(tr("10 letters or more; four words are good."), cls="hint"),
            ),
            Span(),
            Div(Button(tr("Change"), type="submit")),
            cls="form",
        ),
        cls="card",
        aria_label=tr("Password"),
    )  # fmt: skip


def without_accounts() -> Any:
    return Section(
        P(tr("There are no accounts: who sits at this machine may do all, and nobody else is answered.")),
        P(
            Code("rowcast account add NAME --role admin"),
            tr(" makes the first; from then on one signs in."),
        ),
        cls="card notice",
    )


# Up to how many of which unit a time is said in it.
UNITS = (
    (60, 90, (mark("{number} minute"), mark("{number} minutes"))),
    (3_600, 36, (mark("{number} hour"), mark("{number} hours"))),
    (86_400, 99, (mark("{number} day"), mark("{number} days"))),
    (30.4 * 86_400, 24, (mark("{number} month"), mark("{number} months"))),
    (365.25 * 86_400, math.inf, (mark("{number} year"), mark("{number} years"))),
)


def span_of(seconds: float) -> str:
    """A time that is left or has passed, in the unit that reads well."""
    size, words = next((size, words) for size, most, words in UNITS if seconds < most * size)
    count = max(1, round(seconds / size))
    return tr(words[count > 1], number=count)


def ago(at: float) -> str:
    """How long ago something was seen."""
    passed = now() - at
    return tr("now") if passed < 120 else tr("{span} ago", span=span_of(passed))


# ---- all accounts, for admins ------------------------------------------------------------------------------

ACCOUNTS = {mark("Name"): "who", mark("May"): "", mark("Signs in"): "", mark("Last seen"): "", "": "act"}
WAYS = Words(
    {
        "": mark("with a password, which is made now"),
        "elsewhere": mark("elsewhere: at a proxy, a provider, an app"),
    }
)


def role_choice(ident: str, role: str, label: str | None = None) -> Any:
    options = [Option(translated(word), value=one, selected=one == role) for one, word in MAY.items()]
    return Select(*options, id=ident, name="role", aria_label=label)


def accounts_card(rows: list[AccountRow], asks: str, made: tuple[str, str] | None, wrong: str) -> Any:
    """All accounts; `asks`: who looks at them, `made`: an account and its new password, which is shown this
    once.
    """
    form = plain_form(
        "/accounts",
        Label(tr("New account"), _for="name"),
        Input(id="name", name="name", required=True, maxlength="100", autocomplete="off",
              autocapitalize="none", spellcheck="false"),
        role_choice("role", "operator", tr("What it may do")),
        Label(tr("signs in"), _for="signs-in"),
        Select(*[Option(word, value=way) for way, word in WAYS.items()], id="signs-in", name="signs_in"),
        Button(tr("Add"), type="submit", cls="primary"),
        P(translated(wrong), cls="error", role="alert"),
        cls="say",
    )  # fmt: skip
    once = ""
    if made:
        once = Div(
            Span(
                B(visible(made[0])), tr(" signs in with this password. Copy it now: it is not shown again.")
            ),
            Code(made[1], id="password"),
            cls="once",
            role="status",
        )
    return Section(
        form,
        once,
        table(ACCOUNTS, [account_row(row, row.name == asks) for row in rows], cls="keys accounts"),
        cls="card",
        aria_label=tr("Accounts"),
    )


def account_row(row: AccountRow, is_own: bool) -> Any:
    """Nobody takes away what oneself may: then there might be no admin left."""
    name = Input(type="hidden", name="name", value=row.name)
    role = translated(MAY.get(row.role, row.role))
    if not is_own:
        choice = role_choice(f"role-{row.name}", row.role, tr("What {name} may do", name=in_words(row.name)))
        role = plain_form(
            "/accounts/role", name, choice, Button(tr("Change"), type="submit", cls="link"), cls="row"
        )
    signs_in = tr("with a password") if row.has_password else tr("elsewhere")
    signs_in = tr("disabled") if row.disabled else signs_in
    return Tr(
        Td(B(visible(row.name)), Small(tr(" you")) if is_own else "", cls="who"),
        Td(role),
        Td(signs_in, cls="soft s-failed" if row.disabled else "soft"),
        Td(ago(row.seen_at) if row.seen_at else tr("never"), cls="soft"),
        Td("" if is_own else account_acts(row, name), cls="num act"),
    )


def account_acts(row: AccountRow, name: Any) -> Any:
    who = in_words(row.name)
    question = tr("{who} is signed out everywhere, and gets a new password. Do it?", who=who)
    reset = plain_form(
        "/accounts/reset",
        name,
        Button(
            tr("New password"), type="submit", cls="link", aria_label=tr("New password for {who}", who=who)
        ),
        data_question=question,
    )
    word, act = (tr("Let in"), "enable") if row.disabled else (tr("Disable"), "disable")
    letting = plain_form(
        f"/accounts/{act}", name, Button(word, type="submit", cls="link", aria_label=f"{word} {who}")
    )
    return Div("" if row.disabled else reset, letting, cls="row")


# ---- the audit ---------------------------------------------------------------------------------------------


def audit_table(rows: list[AuditRow]) -> Any:
    return table(AUDIT, [audit_row(row) for row in rows], cls="audit", aria_label=tr("Audit"))


def audit_row(row: AuditRow) -> Any:
    return Tr(
        Td(day(row.at), cls="at"),
        cell(row.account or "nobody", "who"),
        cell(row.action, "what"),
        Td(A(f"#{row.job}", href=url(f"/jobs/{row.job}")) if row.job else "", cls="job"),
        cell(row.detail, "soft detail"),
        cell(row.address, "soft from"),
    )


def audit_pager(rows: list[AuditRow], limit: int, earlier: bool) -> list[Any]:
    older = url("/audit", before=rows[-1].id) if len(rows) == limit else ""
    return pager(url("/audit") if earlier else "", older)


# ---- whole pages ---------------------------------------------------------------------------------------


@below
def sign_in_page(place: str, name: str, then: str, wrong: str = "", others: Any = ()) -> Any:
    """Where one signs in; `then`: the path to go on to, `wrong`: why it did not work."""
    return door(tr("Sign in · Rowcast"), sign_in_form(place, name, then, wrong, others))


@below
def account_page(
    account: Account,
    sessions: list[SessionRow],
    this: int | None,
    tokens: list[TokenRow],
    has_password: bool,
    made: tuple[str, str] | None = None,
    wrong: tuple[str, str] = ("", ""),
    done: str = "",
) -> Any:
    """An account's own page. `this`: the session that asks; `made`: a new token, shown once; `wrong`: of
    which form (password, token), and why; `done`: that the password was changed."""
    why = {wrong[0]: wrong[1]}
    return page(
        tr("{name} · Rowcast", name=account.name),
        account_titles(account, this is not None),
        Div(
            sessions_card(sessions, this) if this is not None else "",
            tokens_card(tokens, made, why.get("token", "")),
            password_card(account.name, why.get("password", ""), done) if has_password else "",
            cls="stack",
        ),
        here="Account",
    )


@below
def no_accounts_page() -> Any:
    return page(tr("Account · Rowcast"), H1(tr("Account")), without_accounts(), here="Account")


@below
def accounts_page(
    rows: list[AccountRow], asks: str, made: tuple[str, str] | None = None, wrong: str = ""
) -> Any:
    """All accounts, for admins. `made`: an account and its new password, shown once; `wrong`: why not."""
    return page(
        tr("Accounts · Rowcast"),
        Div(
            H1(tr("Accounts")),
            Small(tr("None is deleted, so that the audit stays true: disable who is not to come in.")),
            cls="titles",
        ),
        accounts_card(rows, asks, made, wrong),
        here="Account",
    )


@below
def audit_page(rows: list[AuditRow], limit: int, earlier: bool) -> Any:
    """Who did what, the newest first, so many on a page."""
    return page(
        tr("Audit · Rowcast"),
        Div(H1(tr("Audit")), Small(A(tr("All of it as NDJSON"), href=url("/audit.ndjson"))), cls="titles"),
        Section(
            audit_table(rows),
            P(tr("Nothing has been done yet."), cls="empty"),
            Div(*audit_pager(rows, limit, earlier), cls="pager"),
            cls="card",
            aria_label=tr("Audit"),
        ),
        here="Audit",
    )
