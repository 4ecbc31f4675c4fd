"""Failures: what an exception says, whatever client raised it.

Each becomes a Failure: an answer with its code, or something that broke before, or after, the request may
have arrived. Exceptions are known by the names of their classes, so that no client has to be imported for it.
An exception that says nothing itself, a group, or one raised from another or while another was handled, is
looked into: the row shows the first real reason.
"""

import dataclasses
import errno
import io
import ssl
from typing import Any

import msgspec

from rowcast.tasks.masking import masked_text
from rowcast.tasks.records import decode
from rowcast.tasks.sentences import worded

SAID = 64_000  # letters of an error or of a body that are looked at
TOLD = 2_000  # letters of it that are told, before the ledger cuts it
MOST = 100  # exceptions inside one that are looked at
HEADER = 200  # letters of a header that are kept
# What a class of exception stands for, by the first part of its module and the names of it and its bases: the
# first that fits. NEVER: the request was not sent; LOST: it may have arrived; ANSWER: it was answered with a
# code; WRONG: it is no request at all; AROUND: look at what is inside.
NEVER = "never sent"
LOST = "may have arrived"
ANSWER = "answer"
WRONG = "no request"
AROUND = "around another"
KNOWN: dict[str, dict[str, str]] = {
    "httpx": {
        "HTTPStatusError": ANSWER,
        "ConnectError": NEVER,
        "ConnectTimeout": NEVER,
        "PoolTimeout": NEVER,
        "UnsupportedProtocol": WRONG,
        "InvalidURL": WRONG,
        "LocalProtocolError": WRONG,
        "TransportError": LOST,
        "DecodingError": LOST,
        "TooManyRedirects": LOST,
        "StreamError": LOST,
    },
    "aiohttp": {
        "ContentTypeError": LOST,
        "ClientResponseError": ANSWER,
        "ClientConnectorError": NEVER,
        "ConnectionTimeoutError": NEVER,
        "InvalidURL": WRONG,
        "ClientConnectionError": LOST,
        "ClientPayloadError": LOST,
        "ClientError": LOST,
    },
    "requests": {
        "HTTPError": ANSWER,
        "ConnectTimeout": NEVER,
        "ProxyError": NEVER,
        "InvalidURL": WRONG,
        "MissingSchema": WRONG,
        "InvalidSchema": WRONG,
        "InvalidHeader": WRONG,
        "ConnectionError": AROUND,
        "RequestException": LOST,
    },
    "urllib3": {
        "NewConnectionError": NEVER,
        "ConnectTimeoutError": NEVER,
        "ProxyError": NEVER,
        "LocationValueError": WRONG,
        "MaxRetryError": AROUND,
        "HTTPError": LOST,
    },
    "urllib": {"HTTPError": ANSWER, "URLError": AROUND},
    "http": {
        "NotConnected": NEVER,
        "InvalidURL": WRONG,
        "ImproperConnectionState": WRONG,
        "HTTPException": LOST,
    },
    "pyreqwest": {
        "StatusError": ANSWER,
        "ConnectError": NEVER,
        "ConnectTimeoutError": NEVER,
        "PoolTimeoutError": NEVER,
        "BuilderError": WRONG,
        "ClientClosedError": NEVER,
        "RequestError": LOST,
    },
    "smtplib": {
        "SMTPConnectError": NEVER,
        "SMTPHeloError": NEVER,
        "SMTPNotSupportedError": WRONG,
        "SMTPServerDisconnected": LOST,
        "SMTPResponseException": ANSWER,
        "SMTPRecipientsRefused": ANSWER,
        "SMTPException": LOST,
    },
    "aiosmtplib": {
        "SMTPConnectError": NEVER,
        "SMTPHeloError": NEVER,
        "SMTPNotSupported": WRONG,
        "SMTPServerDisconnected": LOST,
        "SMTPTimeoutError": LOST,
        "SMTPResponseException": ANSWER,
        "SMTPRecipientsRefused": ANSWER,
        "SMTPException": LOST,
    },
    "rowcast": {"MailNotSent": NEVER, "MailRefused": ANSWER, "MailLost": LOST, "BadMail": WRONG},
    "ftplib": {"error_temp": LOST, "error_proto": LOST},
    "imaplib": {"abort": LOST},
    "poplib": {"error_proto": LOST},
    "subprocess": {"TimeoutExpired": LOST},  # who knows what it has done
    "concurrent": {"BrokenExecutor": LOST},
    "socket": {"gaierror": NEVER, "herror": NEVER},
    "ssl": {"SSLCertVerificationError": NEVER, "SSLError": LOST},
    "asyncio": {"IncompleteReadError": LOST, "LimitOverrunError": LOST, "CancelledError": LOST},
    "json": {"JSONDecodeError": LOST},
    "msgspec": {"DecodeError": LOST},
    "zlib": {"error": LOST},
    "builtins": {
        "ConnectionRefusedError": NEVER,
        "ConnectionError": LOST,
        "TimeoutError": LOST,
        "UnicodeDecodeError": LOST,
    },
}
KNOWN["httpx2"] = KNOWN["httpcore"] = KNOWN["httpx"]
NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.EADDRNOTAVAIL)
# what is no better at another try: an answer that cannot be read
FOR_GOOD = {
    "JSONDecodeError",
    "DecodeError",
    "DecodingError",
    "ContentDecodingError",
    "UnicodeDecodeError",
    "ContentTypeError",
    "error",
    "TooManyRedirects",
    "RedirectError",
    "StreamError",
    "InvalidHeader",
    "RequestPanicError",
    "SMTPNotSupportedError",
    "SMTPNotSupported",
    "CancelledError",
}


@dataclasses.dataclass(frozen=True)
class Failure:
    """What an exception says of a try."""

    error: BaseException  # the first real reason
    kind: str = ""  # NEVER, LOST, ANSWER or WRONG; '' for what no request has raised
    code: int | None = None  # the HTTP status of an answer
    retry_after: tuple[str | None, str | None] = (None, None)  # the answer's Retry-After and Date
    again: bool = False  # it is of a connection, and another try may go better
    outer: BaseException | None = None  # what was raised, where that is another

    @property
    def may_have_arrived(self) -> bool:
        return self.kind == LOST


def failure_of(error: BaseException) -> Failure:
    """What an exception says: of a group, or of one that was raised from others, the first that says
    something.
    """
    around = None
    all_reasons = reasons(error)
    # a certificate is refused in the handshake, and for good
    refused = any(isinstance(one, ssl.SSLCertVerificationError) for one in all_reasons)
    for one in all_reasons:
        kind = kind_of(one)
        if kind == AROUND:
            around = around or one
        elif kind == ANSWER:
            return Failure(one, kind, code_of(one), wait_of(one), is_passing(one, kind), error)
        elif kind:
            return Failure(
                one, NEVER if refused else kind, again=is_passing(one, kind) and not refused, outer=error
            )
    if around is not None:
        return Failure(around, NEVER if refused else LOST, again=not refused, outer=error)
    return Failure(first_of(error), outer=error)


def reasons(error: BaseException) -> list[BaseException]:
    """An exception, what it holds and what it was raised from or beside, the outer before the inner, at most
    MOST of them.
    """
    found: list[BaseException] = []
    ahead: list[Any] = [error]
    while ahead and len(found) < MOST:
        one = ahead.pop(0)
        if not isinstance(one, BaseException) or any(one is known for known in found):
            continue
        found.append(one)
        inner: list[Any] = [one.__cause__ if one.__suppress_context__ else one.__context__]
        if isinstance(one, BaseExceptionGroup):
            inner = [*one.exceptions, *inner]
        elif kind_of(one):
            inner = [getattr(one, "reason", None), *one.args, *inner]
        ahead = inner + ahead
    return found


def first_of(error: BaseException) -> BaseException:
    """What is to be told of an exception: itself, or of a group the first that is in it."""
    return next((one for one in reasons(error) if not isinstance(one, BaseExceptionGroup)), error)


def kind_of(error: BaseException) -> str:
    """NEVER, LOST, ANSWER, WRONG or AROUND; '' for an exception that is of no request."""
    if type(error).__name__ == "ClientResponseError" and isinstance(error.__cause__, Exception):
        return LOST  # aiohttp's word for an answer that is no HTTP, with a code that nobody has sent
    if type(error).__name__.startswith("Connect") and type(error).__module__.startswith("pyreqwest"):
        # it calls so, too, a connection that was closed, or a time that was over, after the request was sent
        return NEVER if "(Connect)" in str(error) else LOST
    for kind in type(error).__mro__:
        found = KNOWN.get(kind.__module__.partition(".")[0].lstrip("_"), {}).get(kind.__name__)
        if found:
            return found
    if isinstance(error, OSError) and error.errno in NO_ROUTE:
        return NEVER
    return ""


def is_passing(error: BaseException, kind: str) -> bool:
    """Whether it is of a connection, which may be better the next time; not so an answer that cannot be
    read.
    """
    if kind == ANSWER:
        return is_mail(error) and all(400 <= code < 500 for code in smtp_codes(error))
    names = {of.__name__ for of in type(error).__mro__}
    if "BodyDecodeError" in names and "JSONDecodeError" not in names:
        return True  # pyreqwest's word for a body that was cut
    return kind in (NEVER, LOST) and not names & FOR_GOOD and type(error).__name__ != "SSLError"


def is_mail(error: BaseException) -> bool:
    """Whether it is of mail: its codes are those of a mail server, and no HTTP's."""
    module = type(error).__module__.partition(".")[0]
    return module in ("smtplib", "aiosmtplib") or (
        module == "rowcast" and type(error).__name__ in KNOWN["rowcast"]
    )


def code_of(error: Any) -> int | None:
    """The status of the answer that an exception stands for: of HTTP, or the code of a mail server."""
    if is_mail(error):
        return max(smtp_codes(error), default=0) or None
    response = getattr(error, "response", None)
    details = getattr(error, "details", None)
    if isinstance(details, dict) and isinstance(details.get("status"), int):
        return int(details["status"])
    for holder, name in ((response, "status_code"), (error, "status"), (error, "code")):
        code = getattr(holder, name, None)
        if isinstance(code, int) and 100 <= code <= 999:
            return code
    return None


def smtp_codes(error: Any) -> list[int]:
    """What a mail server answered: its codes (RFC 5321, 4.2)."""
    refused = getattr(error, "recipients", None)
    if isinstance(refused, dict):
        return [code for code, _ in refused.values()]
    if isinstance(refused, list):
        return [code for one in refused for code in smtp_codes(one)]
    return [getattr(error, "smtp_code", None) or getattr(error, "code", None) or 0]


def wait_of(error: Any) -> tuple[str | None, str | None]:
    """The Retry-After and the Date of the answer that an exception stands for."""
    response = getattr(error, "response", None)
    headers: Any = getattr(error if response is None else response, "headers", None)
    try:
        return headers.get("Retry-After"), headers.get("Date")
    except Exception:  # it has none, or none of this kind
        return None, None


def describe(failure: Failure, timeout: float | None) -> str:
    """A failure as one line for a person; it never raises, whatever the exception is made of."""
    try:
        text = masked_text(_describe(failure.error, failure, timeout)[:TOLD])
        outer = failure.outer
        if outer is None or failure.error in (outer, first_of(outer)) or kind_of(outer):
            return one_line(text)
        said = one_line(masked_text(str(outer)))
        return one_line(f"{type(outer).__name__}: {said} ({text})" if said else text)
    except BaseException:  # an exception has code of its own, which may raise anything
        return type(failure.error).__name__


def _describe(error: BaseException, failure: Failure, timeout: float | None) -> str:
    if failure.kind == ANSWER:
        return told_by_answer(error)
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return worded(f"Timed out after {timeout:g} s") if timeout else worded("Timed out")
    text = one_line(str(error))
    if type(error).__name__ in ("MailNotSent", "BadMail"):
        return text
    if failure.kind == NEVER:
        return worded(f"Could not connect: {text}") if text else worded("Could not connect")
    if failure.kind == LOST and failure.again:
        return worded(f"Connection lost: {text or type(error).__name__}")
    if isinstance(error, SystemExit):
        code = "" if error.code is None else str(error.code)
        return worded(f"The task called exit({code})") if code else worded("The task called exit()")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def told_by_answer(error: Any) -> str:
    """The reason of an answer, and what its body says where that has been read."""
    if is_mail(error):
        name = type(error).__name__
        return one_line(str(error) if name == "MailRefused" else f"{name}: {error}")
    response = getattr(error, "response", None)
    reason = next(
        (
            text
            for text in (
                getattr(response, "reason_phrase", None),
                getattr(response, "reason", None),
                getattr(error, "reason", None),
                getattr(error, "message", None),
            )
            if isinstance(text, str) and text
        ),
        "Error",
    )
    said = excerpt(body_of(response if response is not None else error))
    return f"{reason}: {said}" if said else reason


def body_of(response: Any) -> str:
    """The text of an answer as far as it has been read already; '' where it has not."""
    kind = type(response).__module__.partition(".")[0]
    try:
        if kind == "requests":
            return response.text[:SAID] if response._content_consumed else ""
        if kind == "urllib" and isinstance(response.fp, io.BytesIO):
            return response.fp.getvalue()[:SAID].decode(errors="replace")
        return str(response.text)[:SAID] if kind in ("httpx", "httpx2") else ""
    except Exception:  # it was not read, or cannot be
        return ""


def excerpt(body: str) -> str:
    """What an error's body says, on one line: of a JSON object its error, message or detail, else its first
    200 letters.
    """
    try:
        said = decode(body) if len(body) < SAID else {}
        text = next((said[k] for k in ("error", "message", "detail") if isinstance(said.get(k), str)), body)
    except (msgspec.DecodeError, AttributeError, RecursionError):
        text = body
    return one_line(text)[:200]


def one_line(text: str) -> str:
    """A text on one line that a database takes, cut before it is looked at."""
    line = " ".join(text[:TOLD].split())
    return line.encode(errors="replace").decode()
