"""The work itself: the first file to edit. Each task is one function with one decorator; see
docs/tasks.md.
"""

import time
from html import escape
from typing import Any
from urllib.parse import quote

import httpx

from rowcast.tasks.languages import mark
from rowcast.tasks.mail import Mail, Mailer
from rowcast.tasks.registry import task
from rowcast.tasks.steps import step, track
from rowcast.tasks.template import filled, filled_html

SUBJECT = "News for {first_name|you}"
TEXT = """Hello {first_name|there},

this is what a mail to {email} looks like. Change it as you like: a word in
braces is the value of that column of the table users, and what stands behind
a | is said where there is none.
"""
HTML = """<h1 style="font-size: 20px">Hello {first_name|there}</h1>
<p>This is what a mail to <b>{email}</b> looks like. Change it as you like.</p>
"""


@task(concurrency=10, max_attempts=5, backoff=0.5, timeout=10, stamp="account_updated", doing=mark("Sending"))
async def update_users(user: dict[str, Any], api: httpx.AsyncClient) -> None:
    """Post each user to the API and note when the account was updated."""
    (await api.post(f"/update-user/{quote(user['email'], safe='')}")).raise_for_status()


@task
def counter(loops: int = 5) -> None:
    """Slowly print integers to the terminal, as in FastHTML's example of a background task."""
    for i in track(range(loops)):
        print(i, flush=True)
        time.sleep(i)


# One mail after the other, over one connection. No mail is sent twice: where nobody knows whether it has
# arrived, its row is unknown. Greylisting servers want to be asked again after some minutes.
@task(
    concurrency=1,
    rate="10/s",
    idempotent=False,
    max_attempts=6,
    backoff=30,
    backoff_max=900,
    stop_after=20,
    doing=mark("Sending"),
)
async def bulk_email(
    user: dict[str, Any],
    mailer: Mailer,
    subject: str = SUBJECT,
    text: str = TEXT,
    html: str = HTML,
    unsubscribe: str = "",
) -> str:
    """Send each user one mail from a template. Preview shows the first three.

    {column} stands for what a user's row has in that column, {column|other} for the other where it has
    nothing, {column:url} for the same within a web address. Leave the HTML empty to send text alone.
    Unsubscribe is the address for the button with which mail programs let people off a list, like
    https://example.com/off?who={email:url}; empty, it is a mail to whom the mails come from.
    """
    off = filled(unsubscribe, user) or f"mailto:{mailer.address}?subject=unsubscribe"
    return await mailer.send(
        Mail(
            to=user["email"],
            subject=filled(subject, user),
            text=filled(text, user),
            html=filled_html(html, user),
            unsubscribe=off,
        )
    )


@task(max_attempts=5, doing=mark("Setting up"))
async def setup_account(
    api: httpx.AsyncClient, mailer: Mailer, email: str = "ada@example.com", name: str = "Ada"
) -> str:
    """Set an account up at the API in three steps, then mail its owner that it is ready."""
    account = await step("Create the record", asked_for, api, "POST", "/accounts", email=email, name=name)
    number = account["account"]
    place = await step("Provision the workspace", asked_for, api, "POST", f"/accounts/{number}/workspace")
    await step("Fill the profile", asked_for, api, "PUT", f"/accounts/{number}/profile", name=name)
    return str(await step("Send the welcome mail", mailer.send, welcome(email, name, place["workspace"])))


async def asked_for(api: httpx.AsyncClient, verb: str, path: str, **fields: str) -> Any:
    """What the API answers, which is asked with the step's `Idempotency-Key`."""
    return (await api.request(verb, path, json=fields)).raise_for_status().json()


def welcome(email: str, name: str, address: str) -> Mail:
    """The mail that an account is ready, and where it is."""
    hello = f"Hello {name}" if name else "Hello"
    return Mail(
        to=email,
        subject="Your account is ready",
        text=f"{hello},\n\nyour account is ready: {address}\n",
        html=f'<p>{escape(hello)},</p>\n<p>your account is <a href="{escape(address)}">ready</a>.</p>\n',
    )
