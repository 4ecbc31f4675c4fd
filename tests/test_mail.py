"""Mails, by a real SMTP server: what goes over the wire, and what became of it."""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import free_port
from post_office import PASSWORD, USER, PostOffice, certificate

from rowcast.tasks.addresses import BadMail, address_in
from rowcast.tasks.mail import Mail
from rowcast.tasks.records import BadArguments
from rowcast.tasks.registry import task
from rowcast.tasks.steps import Call
from rowcast.tasks.template import filled, filled_html
from rowcast.tasks.work import Claimed
from rowcast.worker import mail as mailers
from rowcast.worker.attempt import outcome
from rowcast.worker.mail import MailLost, MailNotSent, MailRefused, SmtpMailer
from rowcast.worker.mime import composed

SENDER = "Röwcast <news@example.org>"
Open = Callable[..., PostOffice]


@pytest.fixture
def office() -> Iterator[Open]:
    """Open post offices; each is closed at the end."""
    opened: list[PostOffice] = []

    def make(**options: Any) -> PostOffice:
        opened.append(PostOffice(**options))
        return opened[-1]

    yield make
    for one in opened:
        one.stop()


def mail(to: str = "ada@example.com", **more: Any) -> Mail:
    return Mail(
        **(
            {
                "to": to,
                "subject": "Hello",
                "text": "Hi Ada",
                "id": f"1-2.{to.encode().hex()[:40]}@example.org",
            }
            | more
        )
    )


def send(url: str, *mails: Mail, sender: str = SENDER) -> list[str | Exception]:
    """What became of each, sent one after the other by one mailer."""

    async def all_of_them() -> list[str | Exception]:
        mailer = SmtpMailer(url, sender)
        came = list[str | Exception]()
        for one in mails:
            try:
                came.append(await mailer.send(one))
            except Exception as error:
                came.append(error)
        await mailer.aclose()
        return came

    return asyncio.run(all_of_them())


# ---- what became of it -------------------------------------------------------------------------------------


def test_a_mail_arrives_as_text_and_as_html(office: Open):
    there = office()
    (answer,) = send(
        there.url(), mail(html="<p>Hi <b>Ada</b></p>", unsubscribe="https://example.org/off?a=1")
    )
    assert answer == "250 OK: queued as 1"
    (got,) = there.mails
    assert (got["To"], got["From"], got["Subject"]) == ("ada@example.com", SENDER, "Hello")
    assert got["Message-ID"] == f"<1-2.{b'ada@example.com'.hex()}@example.org>"
    assert got.get_body(("plain",)).get_content().strip() == "Hi Ada"
    assert got.get_body(("html",)).get_content().strip() == "<p>Hi <b>Ada</b></p>"
    assert got["List-Unsubscribe"] == "<https://example.org/off?a=1>"
    assert got["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


def test_many_mails_go_over_one_connection_refused_ones_among_them(office: Open):
    there = office()
    came = send(
        there.url(), *[mail(to) for to in ("a@x.org", "gone-1@x.org", "full-1@x.org", "b@x.org", "c@x.org")]
    )
    assert [type(one) for one in came] == [str, MailRefused, MailRefused, str, str]
    assert (there.to(), there.desk.connections) == (["a@x.org", "b@x.org", "c@x.org"], 1)


def test_as_many_connections_are_open_as_mails_are_sent_at_once(office: Open):
    there = office()

    async def five_by_two() -> None:
        mailer = SmtpMailer(there.url(), SENDER)
        for turn in range(5):
            await asyncio.gather(*[mailer.send(mail(f"u{turn}{n}@x.org")) for n in range(2)])
        await mailer.aclose()

    asyncio.run(five_by_two())
    assert (len(there.mails), there.desk.connections) == (10, 2)


@pytest.mark.parametrize(
    ("to", "code"),
    [("gone-1@x.org", 550), ("full-1@x.org", 552), ("grey-1@x.org", 451), ("later-1@x.org", 451)],
)
def test_a_no_has_its_code(office: Open, to: str, code: int):
    there = office()
    (error,) = send(there.url(), mail(to))
    assert isinstance(error, MailRefused) and error.code == code and there.mails == []


def test_a_greylisted_mail_is_taken_at_its_second_try(office: Open):
    there = office()
    first, second = send(there.url(), mail("grey-1@x.org"), mail("grey-1@x.org"))
    assert isinstance(first, MailRefused) and second == "250 OK: queued as 1"


def test_a_line_that_breaks_before_the_text_has_sent_nothing(office: Open):
    there = office()
    (error,) = send(there.url(), mail("cut-1@x.org"))
    assert isinstance(error, MailNotSent) and there.mails == []


def test_a_line_that_breaks_after_the_text_leaves_it_open(office: Open):
    there = office()
    lost, after = send(there.url(), mail("lost-1@x.org"), mail("b@x.org"))
    assert isinstance(lost, MailLost) and len(there.mails) == 2
    assert after == "250 OK: queued as 2", "the next one has a connection of its own"


def test_where_nobody_answers_nothing_was_sent():
    port = free_port()
    (error,) = send(f"smtp://127.0.0.1:{port}", mail())
    assert isinstance(error, MailNotSent) and str(port) in str(error)


def test_a_server_that_has_hung_up_on_a_connection_that_rested_costs_no_mail(office: Open):
    there = office()

    async def with_a_rest() -> list[str]:
        mailer = SmtpMailer(there.url(), SENDER)
        first = await mailer.send(mail("a@x.org"))
        there.hang_up()
        while mailer.idle[0][0].is_connected:
            await asyncio.sleep(0.02)
        second = await mailer.send(mail("b@x.org"))
        await mailer.aclose()
        return [first, second]

    assert asyncio.run(with_a_rest()) == ["250 OK: queued as 1", "250 OK: queued as 2"]
    assert there.desk.connections == 2


def test_a_connection_that_has_rested_for_long_is_not_used_again(
    office: Open, monkeypatch: pytest.MonkeyPatch
):
    there = office()
    monkeypatch.setattr(mailers, "KEPT", 0.0)
    assert [type(one) for one in send(there.url(), mail("a@x.org"), mail("b@x.org"))] == [str, str]
    assert there.desk.connections == 2


def test_a_mail_that_is_broken_off_leaves_no_connection_behind(office: Open):
    there = office()

    async def give_up() -> int:
        mailer = SmtpMailer(there.url(), SENDER)
        sending = asyncio.create_task(mailer.send(mail("wait-1@x.org")))
        assert await asyncio.to_thread(there.desk.waiting.wait, 60)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        left = len(mailer.idle)
        await mailer.aclose()
        return left

    assert asyncio.run(give_up()) == 0


@task(name="mail_of_tests")
def one(item: str) -> None:
    """A task that sends."""


def became(error: BaseException, **settings: Any) -> tuple[str, int | None, str | None]:
    """The status, code and message of an item whose first try has raised this."""
    made = dataclasses.replace(one, **settings)
    result, _ = outcome(made, Claimed(1, "a@x.org", None, 1, 0, 0), Call(1, 1), error, time.perf_counter())
    return result.status, result.code, result.error


def test_what_a_mail_came_to_is_what_its_item_becomes():
    once = {"idempotent": False, "max_attempts": 3}
    assert became(MailRefused(451, "greylisted"), **once) == ("queued", 451, "greylisted")
    assert became(MailRefused(550, "no such user"), **once) == ("failed", 550, "no such user")
    assert became(MailNotSent("mx:25: refused"), **once) == ("queued", None, "mx:25: refused")
    status, _, said = became(MailLost("mx has hung up"), **once)
    assert status == "unknown" and said == "Connection lost: mx has hung up; it may or may not have arrived."
    assert became(BadMail("'x' is no e-mail address."), **once) == (
        "failed",
        None,
        "'x' is no e-mail address.",
    )


@pytest.mark.parametrize("code", [500, 502, 503, 504, 550])
def test_a_mail_servers_5xx_is_final_whatever_that_code_means_in_http(code: int):
    assert became(MailRefused(code, "no"), max_attempts=3)[0] == "failed"


# ---- login and TLS -----------------------------------------------------------------------------------------


def test_a_server_that_wants_a_login_gets_it(office: Open):
    there = office(login=True)
    (answer,) = send(there.url(f"{USER}:{quote(PASSWORD)}"), mail())
    assert answer == "250 OK: queued as 1"


@pytest.mark.parametrize("login", [f"{USER}:wrong", ""])
def test_a_login_that_is_wrong_or_missing_is_a_no_with_its_code(office: Open, login: str):
    there = office(login=True)
    (error,) = send(there.url(login), mail())
    assert isinstance(error, MailRefused) and error.code in (530, 535) and there.mails == []


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("at_once", [False, True], ids=["STARTTLS", "smtps"])
def test_tls_is_used_where_it_is_offered(
    office: Open, signed: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
):
    monkeypatch.setenv("SSL_CERT_FILE", str(signed))
    there = office(tls=signed, at_once=at_once, login=True)
    (answer,) = send(there.url(f"{USER}:{quote(PASSWORD)}", "localhost"), mail())
    assert (answer, there.desk.over_tls) == ("250 OK: queued as 1", [True])


@pytest.mark.parametrize("at_once", [False, True], ids=["STARTTLS", "smtps"])
def test_a_certificate_that_nobody_knows_is_refused_for_good(office: Open, signed: Path, at_once: bool):
    there = office(tls=signed, at_once=at_once)
    (error,) = send(there.url(host="localhost"), mail())
    assert isinstance(error, MailNotSent) and there.mails == []
    assert became(error, max_attempts=3)[0] == "failed"


def test_a_password_is_not_sent_to_another_machine_without_tls(office: Open, monkeypatch: pytest.MonkeyPatch):
    there = office(login=True)
    monkeypatch.setattr(mailers, "is_loopback", lambda host: False)  # as if it were one
    (error,) = send(there.url(f"{USER}:{quote(PASSWORD)}"), mail())
    assert isinstance(error, BadMail) and "offers no TLS" in str(error)


# ---- what stands in it -------------------------------------------------------------------------------------

EVIL = "x\r\nBcc: everybody@example.com\r\n\r\n<script>"


def test_nothing_in_a_mail_begins_another_header(office: Open):
    there = office()
    send(there.url(), mail(subject=EVIL, unsubscribe=f"https://example.org/{EVIL}", id=f"{EVIL}@x"))
    (got,) = there.mails
    assert "Bcc" not in got and got["Subject"] == "x Bcc: everybody@example.com <script>"
    assert there.desk.announced == ["ada@example.com"]
    assert got.get_body(("plain",)).get_content().strip() == "Hi Ada"


@pytest.mark.parametrize(
    "to",
    ["", "ada", "@example.com", "ada@", "a@b@c", "ada@example.com\r\nRCPT TO:<eve@x>", "Ada <ada@x.org>", "a b@x.org",
     "a,b@x.org", "a\x00@x.org", "x" * 260 + "@x.org", "ada@exa mple.com", "ada@x..org", "ada@-\u2028.org"],
)  # fmt: skip
def test_what_is_no_address_is_sent_nowhere(office: Open, to: str):
    there = office()
    (error,) = send(there.url(), mail(to))
    assert isinstance(error, BadMail) and there.desk.announced == []


@pytest.mark.parametrize(
    "sender", ["news@example.org", "Ann <news@example.org>", '"Ann, of X" <news@example.org>']
)
def test_whom_a_mail_comes_from_may_have_a_name(office: Open, sender: str):
    there = office()
    send(there.url(), mail(), sender=sender)
    assert there.mails[0]["From"].addresses[0].addr_spec == "news@example.org"


def test_letters_beyond_ascii_arrive(office: Open):
    there = office()
    send(there.url(), mail(subject="Grüße aus Zürich ☕ " * 8, text="日本語\nÄ" * 50, html="<p>日本語</p>"))
    (got,) = there.mails
    assert got["Subject"] == ("Grüße aus Zürich ☕ " * 8).strip()
    assert got.get_body(("plain",)).get_content().replace("\r", "").strip() == ("日本語\nÄ" * 50)


def test_an_address_beyond_ascii_needs_a_server_that_takes_it(office: Open):
    there = office()
    (answer,) = send(there.url(), mail("jörg@bücher.example"))
    assert answer == "250 OK: queued as 1" and there.desk.announced == ["jörg@bücher.example"]
    older = office(enable_SMTPUTF8=False)
    first, second = send(older.url(), mail("jörg@example.com"), mail("ada@bücher.example"))
    assert isinstance(first, BadMail) and "SMTPUTF8" in str(first)
    assert second == "250 OK: queued as 1" and older.desk.announced == ["ada@xn--bcher-kva.example"]


@pytest.mark.parametrize("letter", ["a", "ä", ".\n"])
def test_a_megabyte_arrives_whole(office: Open, letter: str):
    there = office()
    text = letter * (1_000_000 // len(letter))
    (answer,) = send(there.url(), mail(text=text, html=f"<p>{letter}</p>"))
    assert str(answer).startswith("250")
    assert there.mails[0].get_body(("plain",)).get_content().replace("\r\n", "\n").strip("\n") == text.strip(
        "\n"
    )
    assert max(map(len, there.desk.raw[0].split(b"\r\n"))) <= 998


def test_an_address_on_the_web_stays_one_word_however_long(office: Open):
    there = office()
    link = "https://example.org/off?who=" + "ä" * 100
    send(there.url(), mail(unsubscribe=link))
    assert there.mails[0]["List-Unsubscribe"] == f"<https://example.org/off?who={quote('ä' * 100)}>"


@pytest.mark.parametrize("link", ["javascript:alert(1)", "data:text/html,x", "example.org", "https://["])
def test_an_unsubscribe_that_is_no_address_is_refused(link: str):
    with pytest.raises(BadMail, match="unsubscribe is an https:// or mailto: address"):
        composed(mail(unsubscribe=link), SENDER, "1@x")


def test_one_click_is_for_https_alone():
    message = composed(mail(unsubscribe="mailto:off@example.org"), SENDER, "1@x")
    assert message["List-Unsubscribe"] and message["List-Unsubscribe-Post"] is None


@pytest.mark.parametrize(
    "address", ["ada@example.com", "o'hara+x@sub.example.co.uk", "jörg@bücher.example", "  a@b "]
)
def test_these_are_addresses(address: str):
    assert address_in(address) == address.strip()


# ---- templates ---------------------------------------------------------------------------------------------

ROW = {"email": "ada@example.com", "Name": "Ada <b>", "empty": "", "none": None, "n": 7, "Total Spent": 12.5}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Hi {Name}, {name}", "Hi Ada <b>, Ada <b>"), ("{n} of {Total Spent}", "7 of 12.5"),
        ("{empty|you}{none|, there}{missing|!}", "you, there!"), ("{empty}", ""),
        ("?u={email:url}", "?u=ada%40example.com"), ("p {color: red} a{b:c}", "p {color: red} a{b:c}"),
        ("{}{ n}{n!r}{n.real}{n[0]}{0}", "{}{ n}{n!r}{n.real}{n[0]}{0}"), ("@media x{p{margin:0}}", "@media x{p{margin:0}}"),
        ("{{n}}", "{7}"), ("{% for x in y %}{{ 7*7 }}", "{% for x in y %}{{ 7*7 }}"),
    ],
)  # fmt: skip
def test_blanks_are_filled_and_nothing_else_is_read(template: str, text: str):
    assert filled(template, ROW) == text


def test_a_value_is_text_in_html():
    assert filled_html("<p>{Name} {missing|<i>}</p>", ROW) == "<p>Ada &lt;b&gt; &lt;i&gt;</p>"


def test_a_value_that_looks_like_a_blank_is_not_filled_again():
    assert filled("{a}", {"a": "{b}", "b": "secret"}) == "{b}"


def test_a_blank_of_no_column_says_which_there_are():
    with pytest.raises(BadArguments, match=r"There is no column 'nmae' for \{nmae\}; there are email, Name,"):
        filled("{nmae}", ROW)


def test_a_long_template_of_braces_takes_no_time():
    assert filled("{a" * 300_000, ROW) == "{a" * 300_000
