"""Who may read the page: requests to this machine's own names, with the token that the address contains."""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?", re.IGNORECASE)
"""Names of this machine, with any port, which may be forwarded from another machine. A page of another site sends the
name of that site, even if it resolves to 127.0.0.1."""
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
_REFUSED = (
    "This page needs the token of the running server: open the complete address that `slpd view` printed, which "
    "contains ?token=..."
)


@dataclass(frozen=True)
class Guard:
    """ASGI middleware: checks the Host header, the method and the token, and sets security headers.

    The token is accepted in the address, which then sets a cookie and redirects to the address without it, so that it
    stays out of the history; in the cookie; or in the header `Authorization: token TOKEN`, for scripts.

    Args:
        app: The application.
        token: The token.
        cookie: Name of the cookie. Cookies are shared by all ports of a host, so the name contains the port.
    """

    app: ASGIApp
    token: str
    cookie: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no WebSockets
        headers = Headers(scope=scope)

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    sent.setdefault(name, value)
            await send(message)

        answer = self._refuse(scope, headers) or self._log_in(scope)
        await (answer or self.app)(scope, receive, send_secured)

    def _refuse(self, scope: Scope, headers: Headers) -> PlainTextResponse | None:
        host = headers.get("host", "")
        if not _HOST.fullmatch(host):
            return PlainTextResponse(f"Host {host!r} is not allowed; use 127.0.0.1.", 421)
        if scope["method"] not in {"GET", "HEAD"}:
            return PlainTextResponse("Only GET is allowed.", 405, {"Allow": "GET, HEAD"})
        given = (_cookie(headers, self.cookie), _of_header(headers), _of_query(scope))
        if not sum(self._is_token(each) for each in given):  # the sum takes the same time whichever is right
            return PlainTextResponse(_REFUSED, 403)
        return None

    def _log_in(self, scope: Scope) -> RedirectResponse | None:
        query = scope["query_string"].decode("latin-1")
        if not self._is_token(_of_query(scope)):
            return None
        rest = urlencode([(name, value) for name, value in parse_qsl(query) if name != "token"])
        path = "/" + scope["path"].lstrip("/\\")  # "//host" would lead to another site
        answer = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
        answer.set_cookie(self.cookie, self.token, httponly=True, samesite="lax", path="/")
        return answer

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())


def _cookie(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _of_header(headers: Headers) -> str:
    kind, _, value = headers.get("authorization", "").partition(" ")
    return value if kind.lower() == "token" else ""


def _of_query(scope: Scope) -> str:
    query: str = scope["query_string"].decode("latin-1")
    return dict(parse_qsl(query)).get("token", "")
