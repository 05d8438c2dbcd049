"""The guard before the page: who may ask, and what a browser may do with the answers.

A page of another site in the same browser must not use this server. Such a page cannot read the
answers, but it can send requests, and it can reach the server under a name of its own (DNS
rebinding). So every request must name a host that is this machine, and a request that sends
something must come from the page itself.
"""

import ipaddress
import json
import re
import socket
import traceback
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lift_jax.output.lines import say_error

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
NOTHING = "default-src 'none'; frame-ancestors 'none'"  # the policy of all but the page
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:[0-9]{1,5})?")


class Guard:
    """An ASGI application that lets through what belongs to the page.

    Args:
        app: the application behind it.
        host: the address or name at which the server listens.
    """

    def __init__(self, app: ASGIApp, host: str):
        self._app, self._host = app, host.lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = False

        async def with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Content-Security-Policy", NOTHING)
            await send(message)

        try:
            headers = Headers(scope=scope)
            refused = self._refusal(headers, scope["method"])
            app = error_response(403, refused) if refused else self._app
            await app(scope, receive, with_headers)
        except Exception as error:  # a fault of ours ends one request, not the server
            say_error(f"error: a request failed.\n{traceback.format_exc()}")
            if not started:
                reason = f"This is a fault of lift_jax ({type(error).__name__}); see its terminal."
                await error_response(500, reason)(scope, receive, with_headers)

    def _refusal(self, headers: Headers, method: str) -> str:
        """Returns why a request is refused, else ""."""
        host = headers.get("host", "").lower()
        if not self._is_here(host):
            return "This server answers under its own address alone (the header Host is another's)."
        if method in ("GET", "HEAD"):
            return ""
        origin = headers.get("origin")  # browsers send it with every POST, other programs do not
        foreign = origin is not None and urlsplit(origin.lower()).netloc != host
        if foreign or headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return "A page of another site may not use this server."
        return ""

    def _is_here(self, host: str) -> bool:
        """Returns True if a Host header names this machine.

        DNS rebinding needs a name, so a server at an open address (0.0.0.0) takes any IP address.
        """
        found = HOST.fullmatch(host)
        if not found:
            return False
        name = found[1].strip("[]")
        if name in ("localhost", self._host):
            return True
        try:
            number = ipaddress.ip_address(name)
        except ValueError:
            own = socket.gethostname().lower()
            return not is_loopback(self._host) and name in (own, f"{own}.local")
        return number.is_loopback or not is_loopback(self._host)


def is_loopback(host: str) -> bool:
    """Returns True if only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def json_response(value: object, status: int = 200) -> Response:
    """Returns a response of JSON in ASCII, which can hold the lone surrogates of names as well."""
    return Response(json.dumps(value), status, media_type="application/json")


def error_response(status: int, reason: str) -> Response:
    """Returns the JSON of a request that is refused."""
    return json_response({"error": reason}, status)
