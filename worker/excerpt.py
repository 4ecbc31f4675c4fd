"""The excerpt of an API's answer that says no: what is kept of it with the try, whatever client received it.

Of its body 2 KB, what it is, its own number and its Retry-After; no other header, so no cookie and no
credential, and what the body itself says of secrets is masked.
"""

from typing import Any

from rowcast.tasks.encoding import to_json
from rowcast.tasks.masking import masked_text
from rowcast.tasks.tries import Excerpt
from rowcast.worker.failures import ANSWER, HEADER, Failure, body_of

KEPT = 2_000  # letters of a body
# by which an API calls an answer of its own, where people ask about it
NUMBERS = ("x-request-id", "request-id", "x-correlation-id", "x-amzn-requestid", "x-amz-request-id", "cf-ray")
TOLD = ("content-type", "retry-after", *NUMBERS)


def excerpt_of(failure: Failure, answer: Any = None) -> str | None:
    """The excerpt as JSON, of the answer that a failure stands for, else of the last that said no to our own
    client; None where there is neither. It never raises, whatever an answer is made of.
    """
    if failure.kind == ANSWER:
        answer = getattr(failure.error, "response", None)
        answer = failure.error if answer is None else answer
    if answer is None:
        return None
    try:
        body = masked_text(body_of(answer)[: 2 * KEPT])[:KEPT].encode(errors="replace").decode()
        told = headers_of(answer)
        number = next((told[name] for name in NUMBERS if name in told), None)
        made = Excerpt(body, told.get("content-type"), number, told.get("retry-after"))
        return None if made == Excerpt() else to_json(made).decode()
    except Exception:
        return None


def headers_of(answer: Any) -> dict[str, str]:
    """Those of an answer's headers that are told, cut where they are long."""
    headers = getattr(answer, "headers", None)
    found = {str(name).lower(): value for name, value in headers.items()} if headers else {}
    return {name: str(found[name])[:HEADER] for name in TOLD if name in found}
