"""A small shop: its users import their catalogues, and each sees their own import move on the shop's own page.

    python 08_shop.py
    http://127.0.0.1:5001/       sign in as anybody, and give it some lines: a name, a comma, a price
    http://127.0.0.1:5001/jobs/  the dashboard behind it: whoever has signed in sees their own jobs

Open it in two browsers. Bar and failures are in the shop's words, font and colours, and go on when the page is closed.
"""

import os
import time

import uvicorn
from fasthtml.common import (
    Button,
    FastHTML,
    Form,
    Input,
    P,
    RedirectResponse,
    Style,
    Textarea,
    Titled,
)

from rowcast import BackgroundTask, mount, progress, task

app = FastHTML(secret_key=os.environ.get("SECRET", "change me"), hdrs=[Style("""
    :root { color-scheme: light dark; --rowcast-accent: light-dark(#0f766e, #3fb8ac); --rowcast-radius: 2px; }
    body { font: 17px/1.55 Georgia, serif; background: light-dark(#fffdf8, #191713); color: light-dark(#2b2620, #f0ebe2); }
    main { max-width: 44rem; margin: 3rem auto; padding: 0 1.2rem; } form { margin-top: 1.6rem; } textarea { box-sizing: border-box; width: 100%; font: inherit; }
""")])  # fmt: skip
mount(app, "/jobs", owner=lambda req: req.session.get("user"))
imports: dict[str, BackgroundTask] = {}  # the newest of each user


@task(concurrency=2)
def read_product(item: str):
    "Read one line of a catalogue: a name and a price."
    name, _, price = item.partition(",")
    time.sleep(0.2)
    if not price.strip().replace(".", "", 1).isdecimal():
        raise ValueError(f"the price “{price.strip()}” is not a number")
    return {"name": name.strip(), "price": float(price)}


@app.get("/")
def shop(session):
    user = session.get("user")
    if not user:
        return Titled(
            "Sign in",
            Form(
                Input(name="user", placeholder="Your name"), Button("Sign in"), action="/enter", method="post"
            ),
        )
    mine = imports.get(user)
    return Titled(
        f"The catalogue of {user}",
        progress(mine, noun="products", problems=5, stop=True) if mine else P("Nothing was imported yet."),
        Form(Textarea(name="lines", rows=6, placeholder="Lamp, 12.50"), Button("Import"), action="/import", method="post"),
    )  # fmt: skip


@app.post("/enter")
def enter(session, user: str):
    session["user"] = user
    return RedirectResponse("/", 303)


@app.post("/import")
def import_lines(session, lines: str):
    if user := session.get("user"):
        imports[user] = BackgroundTask(
            read_product, items=[line for line in lines.splitlines() if line.strip()]
        )
    return RedirectResponse("/", 303, background=imports.get(user))


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "5001")))
