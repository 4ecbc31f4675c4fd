"""A sign-up form: the answer comes at once, the account is set up behind it, and a mail says when it is ready.

    python 07_sign_up.py
    http://127.0.0.1:5001/               the form
    http://127.0.0.1:5001/jobs/          the dashboard: four steps for each account, each a row
    http://127.0.0.1:5001/jobs/mailbox   the mail, until ROWCAST_SMTP_URL and ROWCAST_MAIL_FROM name a server

Killed at any moment it goes on where it stopped, and mails once.
"""

import asyncio
import os

import uvicorn
from fasthtml.common import Button, Form, FtResponse, Input, P, Titled, fast_app

from rowcast import BackgroundTask, Mail, Mailer, mount, step, task

app, rt = fast_app()
mount(app, "/jobs")


@task(max_attempts=5)
async def set_up(email: str, mailer: Mailer):
    """Set an account up. What a step returns is kept: after a crash it is not run again."""
    account = await step("create the account", create, email)
    await step("copy the templates", asyncio.sleep, 0.2)
    await step("build the search index", asyncio.sleep, 0.2)
    text = f"Your account {account} is ready: http://127.0.0.1:5001/"
    await step("send the welcome mail", mailer.send, Mail(to=email, subject="Welcome", text=text))


async def create(email: str) -> str:
    await asyncio.sleep(0.2)
    return email.partition("@")[0]


@rt
def index():
    field = Input(name="email", type="email", placeholder="you@example.com", required=True)
    return Titled("Sign up", Form(field, Button("Sign up"), action="/sign-up", method="post"))


@rt("/sign-up", methods=["POST"])
def sign_up(email: str):
    page = Titled(
        "Welcome", P(f"We are setting your account up, and will write to {email} when it is ready.")
    )
    return FtResponse(page, background=BackgroundTask(set_up, email=email))


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "5001")))
