"""The card: one job's progress in a small frame that other pages can embed, and that follows it.

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
from rowcast.feed.progress import ProgressViewer
from rowcast.tasks import answers
from rowcast.tasks.accounts import EVERYBODY, Account
from rowcast.tasks.records import BadArguments, NotFound, ProgressView, iso
from rowcast.web.access import AUTH
from rowcast.web.guard import HEADERS
from rowcast.web.proxies import address_of
from rowcast.web.requests import at, base_of, body_as, events, json_answer, owner_of, see

LINK_LIFE = 31 * 86_400  # seconds a link may live


def sign(secret: str, job: int, seconds: int, cards: int = 0) -> tuple[str, float]:
    """A token for one job's card, and until when it opens it, in unix seconds. `cards`: how often the job's
    links were taken back."""
    expires = int(time.time()) + seconds
    return str(URLSafeSerializer(secret, salt="card").dumps([job, expires, cards])), float(expires)


def opened(secret: str, token: str) -> tuple[int, int]:
    """The job that a token opens, and how often its links had been taken back. Raises NotFound for a token
    that is not ours, or has expired."""
    try:
        job, expires, cards = URLSafeSerializer(secret, salt="card").loads(token)
    except (BadData, ValueError, TypeError):
        raise NotFound("This link opens nothing.") from None
    if expires < time.time():
        raise NotFound("This link has expired.")
    return int(job), int(cards)


def job_of(req: Request) -> int:
    """The job that the link in a request opens. Raises NotFound, also where it was taken back."""
    job, cards = opened(at(req).secret, req.path_params["token"])
    if at(req).shares.taken_back(job) != cards:
        raise NotFound("This link was taken back.")
    return job


class Share(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /api/jobs/{job}/card: for how many hours the link opens the card."""

    hours: float = 24


async def share(req: Request) -> Response:
    """A signed link to one job's card, for pages of other origins."""
    body = await body_as(req, Share)
    if not 0 < body.hours * 3600 <= LINK_LIFE:
        raise BadArguments(f"hours is a number up to {LINK_LIFE // 3600}.")
    job = await run_in_threadpool(at(req).jobs.job_to_move, req.path_params["job"], owner_of(req))
    secret = await run_in_threadpool(lambda: at(req).secret)
    taken_back = await run_in_threadpool(at(req).shares.taken_back, job.id)
    token, expires = sign(secret, job.id, max(1, int(body.hours * 3600)), taken_back)
    origin = at(req).settings.public_url.rstrip("/") or f"{req.url.scheme}://{req.url.netloc}{base_of(req)}"
    return json_answer(answers.Link(f"{origin}/card/{token}", str(iso(expires))), 201)


async def take_back(req: Request) -> Response:
    """All links to the job's card open nothing from now on."""
    await run_in_threadpool(at(req).shares.take_back, req.path_params["job"], owner_of(req))
    return Response(status_code=204)


async def end_links(req: Request) -> Response:
    """The same by a button of the job's page."""
    await take_back(req)
    return see(req, f"/jobs/{req.path_params['job']}")


def show_card(req: Request) -> Response:
    """The job's progress for a frame in a page of this origin."""
    return card_answer(req, req.path_params["job"], owner_of(req), "'self'")


def show_signed_card(req: Request) -> Response:
    """The same for any origin, by a link that is signed, expires, and can be taken back."""
    return card_answer(req, job_of(req), EVERYBODY, "*", req.path_params["token"])


def card_answer(req: Request, job: int, owner: Account, ancestors: str, token: str = "") -> Response:
    html = to_html(card_page(base_of(req), at(req).jobs.job(job, owner), token))
    policy = HEADERS["Content-Security-Policy"].replace(
        "frame-ancestors 'none'", f"frame-ancestors {ancestors}"
    )
    return HTMLResponse(html, headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"})


async def signed_card_events(req: Request) -> Response:
    """What follows a card that a link opens, as long as it does."""
    job = await run_in_threadpool(job_of, req)
    reader = ProgressViewer(at(req).feed, base_of(req), EVERYBODY, job, ProgressView())

    def stays() -> bytes | None:
        try:
            job_of(req)
        except NotFound:
            return AUTH
        return None

    return events(req, reader, address_of(req.scope), stays)
