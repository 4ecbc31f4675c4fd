"""The clients that tasks get: certificates are checked, proxies are heeded, and no answer fills the memory."""

import asyncio
import functools
import gzip
import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rowcast.tasks.groups import LOOKED_AT, fingerprint, message_of
from rowcast.tasks.steps import Call, current_call
from rowcast.worker.clients import ERROR_BODY, Client, header_value, open_httpx, proxy_for
from rowcast.worker.remote import open_client

pytestmark = pytest.mark.quick


SENT = {"/cookies": "Cookie", "/login": "Authorization"}  # paths that say what was sent in a header


class Answers(http.server.BaseHTTPRequestHandler):
    """Says which path it was asked for, and how it was reached; /huge and /packed are errors with a body of a gigabyte."""

    protocol_version = "HTTP/1.1"
    sent = 0  # bytes of bodies that were taken

    def do_GET(self) -> None:
        if self.path == "/huge":
            self.send_response(500)
            self.send_header("Content-Length", str(1 << 30))
            self.end_headers()
            try:
                for _ in range(1 << 14):
                    Answers.sent += self.wfile.write(b"x" * (1 << 16))
            except OSError:
                pass
            self.close_connection = True
            return
        body = packed() if self.path == "/packed" else f"{self.command} {self.path}".encode()
        if self.path in SENT:
            body = (self.headers[SENT[self.path]] or "none").encode()
        self.send_response({"/packed": 500, "/busy": 429}.get(self.path, 200))
        self.send_header("Content-Length", str(len(body)))
        if self.path == "/packed":
            self.send_header("Content-Encoding", "gzip")
        if self.path == "/set":
            self.send_header("Set-Cookie", "a=1; Path=/")
        if self.path == "/busy":
            self.send_header("X-Why", "grün")
            self.send_header("Retry-After", "7")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


@functools.cache
def packed() -> bytes:
    """256 MB in 260 kB."""
    return gzip.compress(b"\0" * (1 << 28), 9)


class Quiet(http.server.ThreadingHTTPServer):
    """Whoever has read enough of a body hangs up, and that is no fault."""

    def handle_error(self, *_: Any) -> None: ...


def serve(context: ssl.SSLContext | None = None) -> tuple[http.server.ThreadingHTTPServer, int]:
    server = Quiet(("127.0.0.1", 0), Answers)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server, server.server_address[1]


@pytest.fixture
def plain() -> Iterator[str]:
    server, port = serve()
    yield f"http://127.0.0.1:{port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that nobody has signed."""
    made = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", made / "key.pem", "-out", made / "cert.pem",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return made


@pytest.fixture
def secret(certificate: Path) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server, port = serve(context)
    yield f"https://localhost:{port}"
    server.shutdown()
    server.server_close()


def get(base_url: str, url: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with open_httpx(base_url) as api:
            return await api.get(url)

    return asyncio.run(ask())


@pytest.mark.parametrize("base_url", ["http://127.0.0.1:1", "https://localhost:1", ""])
def test_a_certificate_is_checked_whatever_the_address_of_the_api(secret: str, base_url: str):
    with pytest.raises(httpx.ConnectError, match=r"certificate verify failed"):
        get(base_url, f"{secret}/x")


def test_a_certificate_that_the_environment_trusts_is_taken(
    secret: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    assert get("http://127.0.0.1:1", f"{secret}/x").text == "GET /x"


@pytest.fixture
def proxied(plain: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("http_proxy", plain)
    monkeypatch.setenv("no_proxy", "direct.example.com")
    proxy_for.cache_clear()
    yield plain
    proxy_for.cache_clear()


def test_the_environments_proxy_is_asked(proxied: str):
    assert get("", "http://api.example.com/x").text == "GET http://api.example.com/x"
    with open_client("http://jobs.example.com", "token") as client:
        assert client.get("/y").text == "GET http://jobs.example.com/y"


def test_no_proxy_is_asked_for_this_machine_or_for_what_the_environment_names(proxied: str):
    assert get("", f"{proxied}/x").text == "GET /x"
    with open_client(proxied, "token") as client:
        assert client.get("/y").text == "GET /y"
    for host in ("127.0.0.1", "localhost", "::1", "app.localhost", "127.8.9.1", "direct.example.com"):
        assert proxy_for("http", host) == (None, {})
    assert proxy_for("http", "other.example.com")[0] is not None


def test_a_proxys_password_is_no_part_of_its_address(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("https_proxy", "proxy.example.com:3128")
    proxy_for.cache_clear()
    assert str(proxy_for("https", "a.example.com")[0]) == "http://proxy.example.com:3128"
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy.example.com:3128")
    proxy_for.cache_clear()
    proxy, headers = proxy_for("https", "a.example.com")
    assert str(proxy) == "http://proxy.example.com:3128"
    assert headers == {"Proxy-Authorization": "Basic bWU6c2VjcmV0"}
    proxy_for.cache_clear()


@pytest.mark.parametrize("path", ["/huge", "/packed"])
def test_of_an_errors_body_only_so_much_is_read(plain: str, path: str):
    Answers.sent = 0
    token = current_call.set(Call(1, 1))
    answer = get(plain, path)
    current_call.reset(token)
    assert answer.status_code == 500 and len(answer.content) == ERROR_BODY
    assert Answers.sent < 1 << 26, "the rest was not taken"
    with pytest.raises(httpx.HTTPStatusError):
        answer.raise_for_status()


def test_an_error_is_the_answer_that_httpx_would_give_and_noted_with_the_try(plain: str):
    async def ask() -> None:
        async with open_httpx(plain) as api:
            answer = await api.get("/busy")
            assert (answer.status_code, answer.headers["X-Why"], answer.text) == (429, "grün", "GET /busy")
            assert answer.elapsed.total_seconds() > 0
            async with api.stream("GET", "/busy") as streamed:
                noted = call.answer
                assert (call.code, call.retry_after, noted.text) == (429, 7.0, "GET /busy")
                assert [piece async for piece in streamed.aiter_raw()] == [b"GET /busy"]

    call = Call(1, 1)
    token = current_call.set(call)
    asyncio.run(ask())
    current_call.reset(token)


def test_who_is_named_in_the_address_signs_in(plain: str):
    named = plain.replace("http://", "http://me:p%40@")
    for base_url, path in ((named, "/login"), ("", f"{named}/login")):
        assert get(base_url, path).text == "Basic bWU6cEA="


def test_a_client_has_the_cookies_that_it_was_given():
    client = Client(cookies={"a": "1"})
    assert dict(client.cookies) == {"a": "1"}


BASES = (
    "http://127.0.0.1:80",
    "https://API.example.com:444/v1",
    "https://u:p%40@example.com/a/b/",
    "http://[::1]:9/",
    "http://bücher.example/x",
    "",
    "http://example.com/x?y=1",
    "http://example.com/#f",
)
PATHS = (
    "/x", "/", "", "x", "/../x", "/a/./b/../c", "//x", "///x", "/x?a=b&c=%20 d", "/?q", "/x#f", "/é/ü?ö=ä", "/%zz/%41",
    "/a b", "/a%2Fb", "/a;b", "/a\\b", "/[x]", "/x?a=[1]", "http://other.example/x", "/x?", "/x??", "/x\ny", "/:80/x",
    "/@x", "/a:b", "?q=1", "/" + "y" * 70_000, "/" + "y" * 65_530, "/x%", " /x", "/\u00a0x", "/a|b^c`d{e}<f>\"g'",
)  # fmt: skip


@pytest.mark.parametrize("base_url", BASES)
def test_an_address_is_what_httpx_makes_of_it(base_url: str):
    def made_by(client: httpx.AsyncClient, path: str) -> str:
        try:
            return str(client.build_request("GET", path).url)
        except httpx.InvalidURL as error:
            return str(error)

    theirs = httpx.AsyncClient(base_url=base_url)
    ours = open_httpx(base_url)
    assert {path: made_by(ours, path) for path in PATHS} == {path: made_by(theirs, path) for path in PATHS}


def test_the_cookies_that_an_api_sets_are_sent_and_can_be_taken_back(plain: str):
    async def ask() -> list[str]:
        async with open_httpx(plain) as api:
            said = [(await api.get("/cookies")).text]
            await api.get("/set")
            said.append((await api.get("/cookies")).text)
            assert dict(api.cookies) == {"a": "1"}
            api.cookies.clear()
            said.append((await api.get("/cookies")).text)
        return said

    assert asyncio.run(ask()) == ["none", "a=1", "none"]


@pytest.mark.parametrize("value", ["plain", "grün", "naïve".encode("latin-1"), "€".encode(), b"\xff\xfe", ""])
def test_a_header_goes_out_as_the_task_has_written_it(value: str | bytes):
    headers = httpx.Headers([(b"x-y", value.encode() if isinstance(value, str) else value)])
    assert header_value(headers.raw[0][1]) == headers["x-y"]


# ---- texts of strangers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("letter", ["a", "@", "a@", "1", "0x", " ", "f-", "\n", "1.", "ä"])
def test_an_error_is_told_from_others_by_its_first_letters(letter: str):
    """What is looked at is bounded, so that what is done with it is."""
    text = letter * 5_000_000
    assert message_of(text) == message_of(text[:LOOKED_AT])
    assert len(fingerprint(None, text)) <= 210


def test_what_differs_from_item_to_item_is_no_part_of_a_group():
    assert message_of("no user a@example.com (17)") == message_of("no user b.c@example.org (4.5)")
    assert message_of("  \n") == message_of(None) == "failed"
    assert message_of("first\nsecond") == "first"
