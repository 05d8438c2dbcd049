"""The server of the page: its socket, its time limits for slow clients, its end by Ctrl-C."""

import asyncio
import errno
import socket
from collections.abc import Callable

from lift_jax.app.limits import Limits
from lift_jax.errors import UserError

TICK = 1.0  # seconds between two looks at a connection
GRACE = 3  # seconds that answers on their way have after Ctrl-C


def check_installed() -> None:
    """Raises UserError if a library is missing that the page needs."""
    try:
        import python_multipart  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as e:
        raise UserError(
            f"The page needs starlette, uvicorn and python-multipart ({e}): pip install "
            "'lift_jax[app]', or in a checkout pip install -r requirements-app.txt."
        ) from e


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket bound to an address; port 0 takes a free one.

    Raises UserError if the port is taken or not allowed, or if there is no such address here.
    """
    if not 0 <= port <= 65_535:
        raise UserError(f"--port is {port}; expected 0 (any free port) to 65535.")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host is {host!r}, which is no address of this machine.") from error
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(place)
        sock.listen()  # a port is taken for other programs only now
    except OSError as error:
        sock.close()
        raise UserError(_not_bound(error, host, port)) from error
    return sock


def _not_bound(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} of {host} is taken by another program: give another one "
            f"(--port={port + 1 if port < 65_535 else 8000}), or --port=0 for any that is free."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"Port {port} may not be used by this user: give one above 1023 (--port=8000)."
    return f"--host is {host!r}, which is no address of this machine ({error.strerror})."


def url(sock: socket.socket, host: str) -> str:
    """Returns the address of the page at a socket, as a browser takes it."""
    everywhere = sock.getsockname()[0] in ("0.0.0.0", "::")
    name = socket.gethostname() if everywhere else f"[{host}]" if ":" in host else host
    return f"http://{name}:{sock.getsockname()[1]}/"


def serve(app: Callable, sock: socket.socket, limits: Limits, ready: Callable[[], None]) -> None:
    """Serves an ASGI application until Ctrl-C, which it raises at its end."""
    server(app, limits, ready).run(sockets=[sock])


def server(app: Callable, limits: Limits, ready: Callable[[], None]):  # noqa: ANN201
    """Returns the uvicorn server of an application; it calls `ready` when it answers."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    return Server(
        uvicorn.Config(
            app, http=_protocol_with_limits(limits), ws="none", loop="asyncio", lifespan="off",
            log_config=None, log_level="critical", access_log=False, server_header=False,
            proxy_headers=False, limit_concurrency=limits.connections,
            timeout_graceful_shutdown=GRACE,
        )
    )  # fmt: skip


def _protocol_with_limits(limits: Limits) -> type[asyncio.Protocol]:
    """Returns uvicorn's protocol with time limits for connections.

    uvicorn itself has none for the headers of a request, and for a client that does not read.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Limited(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._phase, self._since = (None, False), self.loop.time()
            self._look()

        def _look(self) -> None:
            """Ends a connection that has been too long in a request, or between two of them."""
            busy = self.cycle is not None and not self.cycle.response_complete
            if (self.cycle, busy) != self._phase:
                self._phase, self._since = (self.cycle, busy), self.loop.time()
            most = limits.seconds if busy else limits.idle_seconds
            if self.loop.time() - self._since > most:
                self.transport.abort()
            else:
                self._timer = self.loop.call_later(min(TICK, most / 4), self._look)

        def connection_lost(self, exc: Exception | None) -> None:
            self._timer.cancel()
            super().connection_lost(exc)

    return Limited
