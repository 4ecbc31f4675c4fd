"""A real SMTP server for the tests (aiosmtpd), which does to a mail what the first word of its address says."""

import asyncio
import datetime
import email
import email.policy
import ssl
import threading
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from servers import free_port

USER = "ann"
PASSWORD = "s3cret & söme"


class Desk:
    """What aiosmtpd asks. `gone-`: 550. `grey-`: 451 at its first try. `cut-`: the line is dropped at RCPT.
    `lost-`: it is dropped once the text is here. `full-`: 552 to the text. `later-`: 451 to it, once.
    `wait-`: no answer to the text until `let`."""

    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.raw: list[bytes] = []
        self.tries: Counter[str] = Counter()
        self.peers = set[Any]()  # who has connected
        self.servers: list[SMTP] = []  # of each of them
        self.announced: list[str] = []  # receivers that were named
        self.over_tls: list[bool] = []
        self.waiting = threading.Event()
        self.may_go = threading.Event()

    @property
    def connections(self) -> int:
        return len(self.peers)

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, name: str, answers: list[str]
    ) -> list[str]:
        session.host_name = name
        self.peers.add(session.peer)
        self.servers.append(server)
        return answers

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.announced.append(address)
        kind = address.partition("-")[0]
        self.tries[address] += 1
        if kind == "gone":
            return "550 5.1.1 no such user"
        if kind == "odd":
            return "503 5.5.1 not like this"
        if kind == "grey" and self.tries[address] == 1:
            return "451 4.7.1 greylisted, come back later"
        if kind == "cut":
            hang_up(server)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        kind = envelope.rcpt_tos[0].partition("-")[0]
        if kind == "full":
            return "552 5.2.2 mailbox is full"
        if kind == "later" and self.tries[envelope.rcpt_tos[0]] == 1:
            return "451 4.3.0 try again"
        raw = bytes(envelope.original_content or b"")
        self.raw.append(raw)
        self.mails.append(email.message_from_bytes(raw, policy=email.policy.default))
        assert server.transport
        self.over_tls.append(server.transport.get_extra_info("sslcontext") is not None)
        if kind == "lost":
            hang_up(server)
        while kind == "wait" and not self.may_go.is_set():
            self.waiting.set()
            await asyncio.sleep(0.02)
        return f"250 OK: queued as {len(self.mails)}"


def hang_up(server: SMTP) -> None:
    """Drop the line, as a machine does that is switched off."""
    assert server.transport
    server.transport.abort()


class Office(Controller):
    """aiosmtpd on a free port."""

    def __init__(self, desk: Desk, **options: Any):
        super().__init__(desk, hostname="127.0.0.1", port=free_port(), ready_timeout=60, **options)

    def factory(self) -> SMTP:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of a login without TLS, which is what is tested
            return super().factory()


class PostOffice:
    """A mail server and what came to it. `tls`: its certificate, offered by STARTTLS; with `at_once` it
    speaks nothing else."""

    def __init__(self, login: bool = False, tls: Path | None = None, at_once: bool = False, **options: Any):
        self.desk = Desk()
        if login:
            options |= {
                "authenticator": self._authenticate, "auth_required": True, "auth_require_tls": bool(tls) and not at_once,
            }  # fmt: skip
        if tls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(tls)
            options["ssl_context" if at_once else "tls_context"] = context
        self.office = Office(self.desk, **options)
        self.office.start()
        self.scheme = "smtps" if at_once else "smtp"

    def url(self, login: str = "", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{login}{'@' if login else ''}{host}:{self.office.port}"

    @staticmethod
    def _authenticate(
        server: SMTP, session: Session, envelope: Envelope, mechanism: str, given: LoginPassword
    ) -> AuthResult:
        well = (given.login.decode(), given.password.decode()) == (USER, PASSWORD)
        return AuthResult(success=well, handled=well)

    @property
    def mails(self) -> list[Any]:
        return self.desk.mails

    def hang_up(self) -> None:
        """On all who have connected, as a server does where a connection rests."""
        for server in self.desk.servers:
            assert server.transport
            self.office.loop.call_soon_threadsafe(server.transport.close)

    def to(self) -> list[str]:
        return [str(mail["To"]) for mail in self.mails]

    def stop(self) -> None:
        self.desk.may_go.set()
        self.office.stop()


def certificate(folder: Path) -> Path:
    """A certificate of `localhost` that signs itself, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    kind = serialization.PrivateFormat.PKCS8
    file = folder / "localhost.pem"
    file.write_bytes(
        key.private_bytes(encoding, kind, serialization.NoEncryption()) + made.public_bytes(encoding)
    )
    return file
