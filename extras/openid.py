"""Signing in at an OpenID provider, by Authlib: discovery, state, nonce, PKCE and the check of the id_token
are its affair. Install with `pip install 'rowcast[openid]'`.

Any provider that has a discovery document will do: Google, Microsoft, Keycloak, GitLab, Authentik. GitHub has
none for people; put a proxy before Rowcast that knows it, and --user-header.
"""

from typing import Any

import httpx
import httpx2
from authlib.integrations.base_client import OAuthError
from authlib.integrations.starlette_client import OAuth
from joserfc.errors import JoseError
from starlette.requests import Request
from starlette.responses import Response

DISCOVERY = "/.well-known/openid-configuration"
FAILURES = (
    OAuthError,
    JoseError,
    ValueError,
    KeyError,
)  # what is wrong with an answer
AWAY = (httpx.HTTPError, httpx2.HTTPError)  # Authlib takes the one that is there
SECONDS = 10.0  # for an answer of the provider's


def provider(url: str, client: str, secret: str) -> Any:
    """The provider at that address, for a client that it knows."""
    return OAuth().register(
        "openid",
        client_id=client,
        client_secret=secret,
        server_metadata_url=f"{url.rstrip('/')}{DISCOVERY}",
        client_kwargs={"scope": "openid email", "code_challenge_method": "S256", "timeout": SECONDS},
    )


async def leave(provider: Any, req: Request, back: str) -> Response:
    """Send the browser to the provider; what it is to come back with is noted in the request's session."""
    answer: Response = await provider.authorize_redirect(req, back)
    return answer


async def come_back(provider: Any, req: Request) -> list[str]:
    """As whom the provider knows who has come back: by the address, if it vouches for that, and by its own
    name for them. Raises FAILURES, AWAY."""
    token = await provider.authorize_access_token(req)
    claims = token["userinfo"]
    address = [str(claims["email"])] if claims.get("email_verified") is True and claims.get("email") else []
    return [*address, str(claims["sub"])]
