"""Web Push by pywebpush: the key by which push services know this server, and messages that one browser alone
can read. Install with `pip install 'rowcast[push]'`.

The key (VAPID, RFC 8292) lies beside the database. A browser that has said yes to it hears of no other, so it
is kept: without it all have to be asked again.
"""

import base64
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from py_vapid import Vapid02
from pywebpush import WebPusher

KEY = ".push-key.pem"  # behind the database's name
TOKEN_LIFE = 12 * 3600  # seconds that one may hold of us; a push service takes a day at most
TTL = 4 * 7 * 86_400  # seconds that a push service keeps a message for a browser that is not there


def key_of(database: str) -> Vapid02:
    """The server's own key, made at first use. Whoever comes second takes the first one's."""
    path = Path(f"{database}{KEY}")
    if not path.exists():
        made = Vapid02()
        made.generate_keys()
        mine = path.with_suffix(f".{os.getpid()}")
        mine.touch(0o600)
        mine.write_bytes(made.private_pem())
        try:
            os.link(mine, path)
        except FileExistsError:
            pass
        finally:
            mine.unlink()
    return Vapid02.from_pem(path.read_bytes())


def public_key(database: str) -> str:
    """What a browser is asked to hear of, as it wants it."""
    raw = key_of(database).public_key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def is_point(key: str) -> bool:
    """Whether a message can be sealed with a browser's key: a point of P-256 (RFC 8291)."""
    try:
        raw = base64.urlsafe_b64decode(key + "=" * (-len(key) % 4))
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), raw)
    except ValueError:
        return False
    return True


def sealed(
    database: str, contact: str, address: str, key: str, secret: str, text: bytes
) -> tuple[bytes, dict[str, str]]:
    """A message for one browser, as it is posted to its `address`: the body and the headers.

    `key` and `secret` are the browser's own (p256dh and auth). Raises ValueError for such as are none.
    """
    browser = WebPusher({"endpoint": address, "keys": {"p256dh": key, "auth": secret}})
    body = browser.encode(text, "aes128gcm")["body"]
    parts = urlsplit(address)
    claims = {
        "sub": contact,
        "aud": f"{parts.scheme}://{parts.netloc}",
        "exp": str(int(time.time()) + TOKEN_LIFE),
    }
    headers = key_of(database).sign(claims)
    return body, {**headers, "Content-Encoding": "aes128gcm", "TTL": str(TTL), "Urgency": "normal"}
