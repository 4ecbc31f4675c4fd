"""The card: one job's progress in a small frame that other pages can embed, with no script in it.

For pages of other origins a link is signed and expires: it opens the card of one job and nothing else.
"""

import base64
import hashlib
import hmac
import time

from rowcast.jobs import NotFound

LONGEST = 31 * 86_400  # seconds a link may live


def sign(secret: str, job: int, seconds: int) -> tuple[str, float]:
    """A token for one job's card (HMAC-SHA256), and until when it opens it, in unix seconds."""
    expires = int(time.time()) + seconds
    return f"{job}.{expires}.{_mac(secret, job, expires)}", float(expires)


def opened(secret: str, token: str) -> int:
    """The job that a token opens. Raises NotFound for a token that is not ours, or has expired."""
    job, _, rest = token.partition(".")
    expires, _, mac = rest.partition(".")
    if not (job.isdecimal() and expires.isdecimal() and len(job) + len(expires) < 36):
        raise NotFound("This link opens nothing.")
    if not hmac.compare_digest(mac.encode(), _mac(secret, int(job), int(expires)).encode()):
        raise NotFound("This link opens nothing.")
    if int(expires) < time.time():
        raise NotFound("This link has expired.")
    return int(job)


def _mac(secret: str, job: int, expires: int) -> str:
    digest = hmac.digest(secret.encode(), f"card {job} {expires}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
