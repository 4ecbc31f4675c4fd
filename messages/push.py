"""Web Push: a message to a browser in which no page of Rowcast is open, by its maker's push service.

Only the browser can read it; its maker sees when one is sent, and how long it is. The address is what a
browser has said, so it goes where an address that was typed may go.
"""

import importlib
from typing import Any

import httpx
import msgspec

from rowcast.messages.channels import Later, Means, Never
from rowcast.messages.chat import text_of
from rowcast.messages.guarded import Refused
from rowcast.messages.webhook import came_of, open_guarded
from rowcast.tables.browsers import Browsers
from rowcast.tasks.records import Delivery

GONE = (404, 410)  # the browser has taken its yes back (RFC 8030)
REFUSED = (400, 401, 403, 413)  # the push service does not take such a message
LONGEST = 300  # letters of a text


async def send(delivery: Delivery, means: Means) -> int:
    """Post a message. Raises Later, Never."""
    if not means.settings.push:
        raise Never("Web Push is off here: --push says whom a push service may write to.")
    try:
        push: Any = importlib.import_module("rowcast.extras.push")
    except ImportError as error:
        raise Never("This needs pywebpush: pip install 'rowcast[push]'.") from error
    browsers = Browsers(means.path)
    browser = browsers.find(delivery.owner, delivery.to)
    if browser is None:
        raise Never("This browser is not told any more.")
    if not push.is_point(browser.key):
        raise Never("The browser's key is none.")
    text = text_for(delivery, means)
    body, headers = push.sealed(
        means.path, means.settings.push, browser.address, browser.key, browser.secret, text
    )
    client = await means.keep(open_guarded)
    try:
        async with client.stream("POST", browser.address, content=body, headers=headers) as response:
            if response.status_code in GONE:
                browsers.forget(delivery.owner, delivery.to)
                raise Never("The browser has taken its yes back.", response.status_code)
            if response.status_code in REFUSED:
                raise Never(f"The push service refuses it: {response.status_code}", response.status_code)
            return await came_of(response)
    except Refused as error:
        raise Never(str(error)) from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise Never(f"no address of a push service: {error}") from error
    except httpx.TimeoutException as error:
        raise Later("no answer in time") from error
    except httpx.HTTPError as error:
        raise Later(f"{type(error).__name__}: {error}") from error


def text_for(delivery: Delivery, means: Means) -> bytes:
    """What the browser shows, as static/service.js wants it. The tag is that of a page's own notification, so
    one takes the place of the other.
    """
    title, text = text_of(delivery, means)
    link = means.link(delivery.job)
    shown = text.removesuffix(link).strip()[:LONGEST]
    return msgspec.json.encode({"title": title, "text": shown, "tag": f"rowcast {delivery.job}", "url": link})
