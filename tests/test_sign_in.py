"""Signing in and out in a real browser: the form, the account's page, and pages that are open meanwhile."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from on_page import FILES, FLAGS, PHONE, Opens, live
from playwright.sync_api import BrowserContext, Page, Route, expect
from servers import Api, Server, until

from rowcast.tables.accounts import Accounts
from rowcast.tables.database import close_databases, connection, transaction
from rowcast.tables.sessions import Sessions, Tokens
from tests.test_accounts import guessed

__all__ = ["FILES", "FLAGS"]  # of the module's server
PASSWORD = "a bicycle over twelve mountains"
ROLES = {"vera": "viewer", "olga": "operator", "anna": "admin"}
REFUSED = re.compile("status of (401|429)")


@pytest.fixture(scope="module")
def path(shared: Server) -> Iterator[str]:
    """The database of the module's server, with accounts."""
    found = str(shared.directory / "data" / "rowcast.db")
    for name, role in ROLES.items():
        Accounts(found).add(name, role, PASSWORD)
    token, _ = Tokens(found).add("anna", "the tests", "write")
    shared.client.headers["Authorization"] = f"Bearer {token}"
    yield found
    close_databases()


@pytest.fixture
def as_account(
    shared: Server, path: str, own_context: Callable[..., BrowserContext]
) -> Callable[..., BrowserContext]:
    """A browser in which somebody is signed in."""

    def signed_in(name: str, **options: Any) -> BrowserContext:
        context = own_context(**options)
        answer = context.request.post(f"{shared.url}/sign-in", form={"name": name, "password": PASSWORD})
        assert answer.ok
        return context

    return signed_in


def start(context: BrowserContext, server: Server, items: int, **options: Any) -> int:
    body = {"task": "chores", "args": {"items": [f"stalled {n}" for n in range(items)]}, **options}
    answer = context.request.post(f"{server.url}/api/jobs", data=body)
    assert answer.status == 201, answer.text()
    return int(answer.json()["id"])


def fill_in(page: Page, name: str, password: str) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def test_a_page_leads_to_the_sign_in_and_from_there_on_to_the_page(
    shared: Server, path: str, visit: Opens, as_account: Any, own_context: Any
):
    job = start(as_account("olga"), shared, 1, run_at="3600")
    page = visit(f"{shared.url}/jobs/{job}?view=all", context=own_context())
    expect(page).to_have_title("Sign in · Rowcast")
    expect(page.get_by_label("Name")).to_be_focused()
    assert page.get_by_text(f"Then on to /jobs/{job}?view=all").is_visible()
    fill_in(page, "olga", "not her password")
    expect(page.get_by_role("alert")).to_have_text("This name and password do not belong together.")
    expect(page.get_by_label("Name")).to_have_value("olga")
    expect(page.get_by_label("Password")).to_be_focused()
    fill_in(page, "olga", PASSWORD)
    expect(page).to_have_url(f"{shared.url}/jobs/{job}?view=all")
    expect(page.locator("body")).to_have_attribute("data-live", "live")
    expect(page.get_by_role("link", name="Account olga")).to_be_visible()


@pytest.mark.parametrize(
    "place", ["//evil.example", "/\\evil.example", "https://evil.example/", "javascript:alert(1)", "//["]
)
def test_a_sign_in_leads_to_no_other_site(shared: Server, path: str, own_context: Any, place: str):
    context = own_context()
    form = {"name": "olga", "password": PASSWORD, "next": place}
    answer = context.request.post(f"{shared.url}/sign-in", form=form, max_redirects=0)
    assert (answer.status, answer.headers["location"]) == (303, "/")
    answer = context.request.get(f"{shared.url}/sign-in", params={"next": place}, max_redirects=0)
    assert (answer.status, answer.headers["location"]) == (303, "/")


def test_the_cookie_is_for_no_script_and_for_this_site_alone(shared: Server, path: str, as_account: Any):
    (cookie,) = as_account("olga").cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Lax", "/")
    assert cookie["expires"] == -1  # until the browser is closed


def watch(open_it: Opens, server: Server, context: BrowserContext, path: str) -> Page:
    """A page that is live, and counts what it asks for."""
    page = open_it(f"{server.url}{path}", context=context)
    expect(page.locator("body")).to_have_attribute("data-live", "live")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    vars(page)["asked"] = asked
    return page


def sign_out_everywhere(path: str, name: str) -> None:
    Sessions(path).end_all(name)


def expire(path: str, name: str) -> None:
    with transaction(connection(path)) as conn:
        conn.execute("update sessions set ends_at = 1 where account = ?", (name,))


def be_idle(path: str, name: str) -> None:
    with transaction(connection(path)) as conn:
        conn.execute("update sessions set seen_at = seen_at - idle - 1 where account = ?", (name,))


def disable(path: str, name: str) -> None:
    Accounts(path).set_disabled(name)


def lose_the_role(path: str, name: str) -> None:
    Accounts(path).set_role(name, "viewer")


@pytest.mark.parametrize("act", [sign_out_everywhere, expire, be_idle, disable, lose_the_role])
def test_a_page_that_is_open_says_that_one_is_signed_out_and_asks_no_more(
    server: Server, path: str, api: Api, visit: Opens, as_account: Any, act: Callable[[str, str], None]
):
    Accounts(path).set_disabled("olga", False)
    Accounts(path).set_role("olga", "operator")
    api.stall()
    context = as_account("olga")
    job = start(context, server, 5)
    pages = [watch(visit, server, context, where) for where in (f"/jobs/{job}", "/")]
    act(path, "olga")
    for page in pages:
        expect(page.locator("body")).to_have_attribute("data-live", "signed-out")
        expect(page.locator("#banner")).to_contain_text("You are signed out")
        expect(live(page)).to_have_text("Signed out")
    asked = [len(vars(page)["asked"]) for page in pages]
    pages[0].evaluate("new Promise(go => setTimeout(go, 7000))")  # three turns of any loop there was
    assert [len(vars(page)["asked"]) for page in pages] == asked
    Accounts(path).set_disabled("olga", False)
    Accounts(path).set_role("olga", "operator")
    pages[0].locator("#banner").get_by_role("link", name="Sign in").click()
    if act is not lose_the_role:
        fill_in(pages[0], "olga", PASSWORD)
    expect(pages[0]).to_have_url(f"{server.url}/jobs/{job}")
    expect(pages[0].locator("body")).to_have_attribute("data-live", "live")


def test_a_press_of_who_is_signed_out_says_so_at_its_button(
    server: Server, path: str, api: Api, visit: Opens, as_account: Any
):
    api.stall()
    context = as_account("anna")
    job = start(context, server, 5)
    page = watch(visit, server, context, f"/jobs/{job}")
    sign_out_everywhere(path, "anna")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#act-hold [role=alert]")).to_contain_text("You are signed out: nothing was done.")
    expect(page.locator("body")).to_have_attribute("data-live", "signed-out")


def test_a_page_of_who_has_signed_in_again_elsewhere_is_told_news_again(
    server: Server, path: str, api: Api, visit: Opens, as_account: Any
):
    api.stall()
    context = as_account("anna")
    job = start(context, server, 1)
    page = watch(visit, server, context, "/")
    sign_out_everywhere(path, "anna")
    expect(page.locator("body")).to_have_attribute("data-live", "signed-out")
    expect(page.locator("body")).to_have_attribute("data-news", "offline")
    context.request.post(f"{server.url}/sign-in", form={"name": "anna", "password": PASSWORD})
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("body")).to_have_attribute("data-live", "live")
    assert context.request.post(f"{server.url}/api/jobs/{job}/cancel").ok
    expect(page.locator("#toasts .toast")).to_contain_text(f"#{job}")
    expect(page.locator("body")).to_have_attribute("data-news", "live")


def test_a_table_that_asks_for_itself_stops_where_nobody_is_signed_in(
    server: Server, path: str, visit: Opens, as_account: Any
):
    context = as_account("anna")
    page = visit(f"{server.url}/workers", context=context)
    refused: list[str] = []
    page.on("response", lambda answer: refused.append(answer.url) if answer.status == 401 else None)
    sign_out_everywhere(path, "anna")
    expect(page.locator("#banner")).to_contain_text("You are signed out")
    page.evaluate("new Promise(go => setTimeout(go, 5000))")  # it asked every two seconds
    assert len(refused) == 1
    expect(page.locator("#toasts p")).to_have_count(0)


@pytest.mark.parametrize("how", ["a page", "a redirect"])
def test_a_sign_in_that_answers_in_the_streams_place_is_noticed_and_not_asked_again_and_again(
    server: Server, path: str, api: Api, visit: Opens, as_account: Any, how: str
):
    """As a proxy does whose own session is over: with its page, or by leading to one elsewhere."""
    api.stall()
    context = as_account("anna")
    job = start(context, server, 5)
    asked: list[str] = []

    def answer(route: Route) -> None:
        asked.append(route.request.url)
        if how == "a page":
            route.fulfill(status=200, content_type="text/html", body="<h1>Sign in to the company</h1>")
        else:
            route.fulfill(status=302, headers={"Location": "/static/icon-idle.svg"})

    context.route("**/events?**", answer)
    page = visit(f"{server.url}/jobs/{job}", context=context)
    expect(page.locator("body")).to_have_attribute("data-live", "signed-out")
    page.evaluate("new Promise(go => setTimeout(go, 2000))")  # the other thing that it wants is refused too
    before = len(asked)
    page.evaluate("new Promise(go => setTimeout(go, 5000))")
    assert len(asked) == before <= 2


def test_a_viewer_sees_no_button_that_would_be_refused(
    server: Server, path: str, api: Api, open_page: Opens, as_account: Any
):
    api.stall()
    job = start(as_account("olga"), server, 5)
    with transaction(connection(path)) as conn:
        conn.execute("insert into shares (job, kind, name) values (?, 'role', 'viewer')", (job,))
    context = as_account("vera")
    page = open_page(f"{server.url}/jobs/{job}", context=context)
    expect(page.locator("body")).to_have_attribute("data-live", "live")
    api.answer(2)
    expect(page.locator("[data-status=completed]")).to_have_count(2)  # and frames bring none
    for button in page.get_by_role("button").all():
        assert button.inner_text() in ("Find", "⌨", ""), button.inner_text()
    page.goto(server.url)
    expect(page.locator(f"#job-{job}")).to_be_visible()
    expect(page.get_by_role("button", name="Start")).to_have_count(0)
    expect(page.get_by_role("link", name="Users")).to_have_count(0)


def test_the_account_s_page_shows_a_token_once_and_ends_it_and_signs_out_elsewhere(
    server: Server, path: str, open_page: Opens, as_account: Any
):
    here = as_account("anna")
    elsewhere = as_account("anna")
    page = open_page(f"{server.url}/account", context=here)
    page.get_by_label("New token for").fill("<b>deploy</b>")
    page.get_by_label("it may").select_option("all that I may")
    page.get_by_role("button", name="Make it").click()
    token = page.locator("#token").inner_text()
    assert server.client.get("/api/jobs", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    page.goto(f"{server.url}/account")
    row = page.get_by_role("row", name="<b>deploy</b>")
    expect(row).to_contain_text(token[:14])
    assert token not in page.content()
    page.on("dialog", lambda asked: asked.accept())
    row.get_by_role("button", name="Revoke").click()
    expect(row).to_have_count(0)
    assert server.client.get("/api/jobs", headers={"Authorization": f"Bearer {token}"}).status_code == 401
    assert elsewhere.request.get(f"{server.url}/api/jobs").status == 200
    page.get_by_role("button", name="Sign out everywhere else").click()
    expect(page.get_by_role("row", name="This one, now")).to_have_count(1)
    until(lambda: elsewhere.request.get(f"{server.url}/api/jobs").status == 401)
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_title("Sign in · Rowcast")
    page.goto(f"{server.url}/account")
    expect(page).to_have_title("Sign in · Rowcast")


def test_another_password_is_for_who_knows_the_one_now_and_must_be_a_good_one(
    server: Server, path: str, visit: Opens, as_account: Any
):
    Accounts(path).add("paul", "viewer", PASSWORD)
    here = as_account("paul")
    elsewhere = as_account("paul")
    page = visit(f"{server.url}/account", context=here)
    better = "another twelve bicycles uphill"
    before = guessed(path)
    for old, new, said in (
        ("wrong", better, "This is not the one now."),
        (PASSWORD, "password12", "too easy to guess"),
        (PASSWORD, better, "The password is changed."),
    ):
        page.get_by_label("The one now").fill(old)
        page.get_by_label("A new one").fill(new)
        page.get_by_role("button", name="Change").click()
        expect(page.get_by_role("region", name="Password")).to_contain_text(said)
    assert here.request.get(f"{server.url}/api/jobs").status == 200
    assert elsewhere.request.get(f"{server.url}/api/jobs").status == 401
    assert guessed(path) == before | {"address 127.0.0.1": before["address 127.0.0.1"] + 1}  # the wrong one


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark"}, PHONE], ids=["light", "dark", "phone"])
def test_the_pages_of_accounts_are_for_everybody(
    server: Server, path: str, open_page: Opens, as_account: Any, own_context: Any, options: dict[str, Any]
):
    context = as_account("anna", **options)
    for where, page in (
        ("/sign-in", open_page(f"{server.url}/sign-in", context=own_context(**options))),
        ("/account", open_page(f"{server.url}/account", context=context)),
        ("/audit", open_page(f"{server.url}/audit", context=context)),
    ):
        found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21aa"]})
        assert found.violations_count == 0, (where, found.generate_report())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), where
