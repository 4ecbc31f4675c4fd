"""The progress card: in a frame of this origin, or of any by a link that is signed and expires."""

import base64
import contextlib
import http.server
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from rowcast.jobs import NotFound
from rowcast.web import cards
from tests.conftest import PATIENCE, until


def test_a_card_shows_the_progress_and_is_followed_until_the_end(server, api):
    api.stall()
    job = server.begin(limit=40, concurrency=2)
    running = server.client.get(f"/jobs/{job}/card")
    assert f'data-source="/events/progress/{job}"' in running.text
    assert "frame-ancestors 'self'" in running.headers["Content-Security-Policy"]
    api.answer()
    server.ended(job)
    ended = server.client.get(f"/jobs/{job}/card").text
    assert "data-source" not in ended
    assert 'aria-valuenow="40"' in ended


def test_a_signed_link_opens_one_job_for_a_page_of_another_origin(server, api):
    one = server.begin(limit=1)
    other = server.begin(limit=2)
    made = server.client.post(f"/api/jobs/{one}/card", json={"hours": 1})
    assert made.status_code == 201
    url = made.json()["url"]
    embedded = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
    shown = httpx.get(url, headers=embedded, timeout=PATIENCE)
    assert shown.status_code == 200
    assert "frame-ancestors *" in shown.headers["Content-Security-Policy"]
    what, _, signature = url.rpartition("/")[2].partition(".")
    said = base64.urlsafe_b64decode(what + "=" * (-len(what) % 4)).replace(b"[%d," % one, b"[%d," % other)
    forged = url.replace(what, base64.urlsafe_b64encode(said).decode().rstrip("="))
    assert forged != url and signature in forged
    assert httpx.get(forged, headers=embedded, timeout=PATIENCE).status_code == 404


@contextlib.contextmanager
def other_site(html: str) -> Iterator[str]:
    """The address of one page of another site than the dashboard's."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as theirs:
        threading.Thread(target=theirs.serve_forever, daemon=True).start()
        yield f"http://localhost:{theirs.server_port}/"
        theirs.shutdown()


def test_a_page_of_another_origin_embeds_the_signed_card_and_it_moves(server, api, open_page):
    server.users(*(f"user-{n}@example.com" for n in range(400)))
    api.stall()
    job = server.begin(concurrency=2)
    link = server.client.post(f"/api/jobs/{job}/card", json={}).json()["url"]
    html = (
        f'<!doctype html><title>Theirs</title><link rel="icon" href="data:,"><iframe src="{link}"></iframe>'
    )
    with other_site(html) as url:
        page = open_page(url)
    bar = page.frame_locator("iframe").get_by_role("progressbar")
    bar.wait_for()
    before = bar.get_attribute("aria-valuenow")
    api.answer(20)
    until(lambda: bar.get_attribute("aria-valuenow") != before)
    server.client.post(f"/api/jobs/{job}/cancel")


def test_a_link_expires():
    token, expires = cards.sign("secret", 7, 60)
    assert cards.opened("secret", token) == (7, 0)
    assert expires <= time.time() + 60
    stale, _ = cards.sign("secret", 7, -1)
    with pytest.raises(NotFound, match="expired"):
        cards.opened("secret", stale)


def test_a_link_made_with_another_key_opens_nothing():
    token, _ = cards.sign("secret", 7, 60)
    with pytest.raises(NotFound, match="opens nothing"):
        cards.opened("other", token)


@pytest.mark.parametrize("token", ["", "7", "7.1", "x.y.z", "7.99999999999999999999999999999999999999.a"])
def test_a_broken_link_opens_nothing(token):
    with pytest.raises(NotFound):
        cards.opened("secret", token)


@pytest.mark.parametrize("hours", [0, -1, 10_000])
def test_a_link_lives_for_a_sensible_time(server, hours):
    job = server.begin(limit=1)
    assert server.client.post(f"/api/jobs/{job}/card", json={"hours": hours}).status_code == 422
