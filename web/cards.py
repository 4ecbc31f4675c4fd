"""The card: one job's progress in a small frame that other pages can embed, with no script in it.

For pages of other origins a link is signed (itsdangerous) and expires: it opens the card of one job and
nothing else.
"""

import time

import msgspec
from itsdangerous import BadData, URLSafeSerializer
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from rowcast.components import card_page, to_html
from rowcast.tasks import answers
from rowcast.tasks.accounts import EVERYBODY, Account
from rowcast.tasks.records import BadArguments, NotFound, iso
from rowcast.web.guard import HEADERS
from rowcast.web.requests import at, base_of, body_as, json_answer, owner_of

LINK_LIFE = 31 * 86_400  # seconds a link may live


def sign(secret: str, job: int, seconds: int) -> tuple[str, float]:
    """A token for one job's card, and until when it opens it, in unix seconds."""
    expires = int(time.time()) + seconds
    return str(URLSafeSerializer(secret, salt="card").dumps([job, expires])), float(expires)


def opened(secret: str, token: str) -> int:
    """The job that a token opens. Raises NotFound for a token that is not ours, or has expired."""
    try:
        job, expires = URLSafeSerializer(secret, salt="card").loads(token)
    except BadData:
        raise NotFound("This link opens nothing.") from None
    if expires < time.time():
        raise NotFound("This link has expired.")
    return int(job)


class Share(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /api/jobs/{job}/card: for how many hours the link opens the card."""

    hours: float = 24


async def share(req: Request) -> Response:
    """A signed link to one job's card, for pages of other origins."""
    body = await body_as(req, Share)
    if not 0 < body.hours * 3600 <= LINK_LIFE:
        raise BadArguments(f"hours is a number up to {LINK_LIFE // 3600}.")
    job = await run_in_threadpool(at(req).jobs.job_to_move, req.path_params["job"], owner_of(req))
    token, expires = sign(
        await run_in_threadpool(lambda: at(req).secret), job.id, max(1, int(body.hours * 3600))
    )
    origin = at(req).settings.public_url.rstrip("/") or f"{req.url.scheme}://{req.url.netloc}{base_of(req)}"
    return json_answer(answers.Link(f"{origin}/card/{token}", str(iso(expires))), 201)


def show_card(req: Request) -> Response:
    """The job's progress for a frame in a page of this origin."""
    return card_answer(req, req.path_params["job"], owner_of(req), "'self'")


def show_signed_card(req: Request) -> Response:
    """The same for any origin, by a link that is signed and expires."""
    return card_answer(req, opened(at(req).secret, req.path_params["token"]), EVERYBODY, "*")


def card_answer(req: Request, job: int, owner: Account, ancestors: str) -> Response:
    html = to_html(card_page(base_of(req), at(req).jobs.job(job, owner)))
    policy = HEADERS["Content-Security-Policy"].replace(
        "frame-ancestors 'none'", f"frame-ancestors {ancestors}"
    )
    return HTMLResponse(html, headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"})
