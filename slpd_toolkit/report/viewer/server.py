"""The server of the viewer, on 127.0.0.1 only, in this thread or in another one."""

from __future__ import annotations

import secrets
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

from slpd_toolkit.core.closing import ClosedOnExit
from slpd_toolkit.core.errors import SlpdError, UsageError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

HOST = "127.0.0.1"
_TRIES = 10
_TOKEN_BYTES = 24
_START_S = 30.0


def bind(port: int) -> socket.socket:
    """Bind a port on 127.0.0.1, or one of the next ten if it is in use.

    Raises:
        UsageError: All of them are in use, or may not be used.
    """
    last = min(port + _TRIES, 65535) if port else 0
    for candidate in range(port, last + 1):
        found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((HOST, candidate))
        except OSError as error:
            found.close()
            if candidate == last:
                raise UsageError(
                    f"--port: {port} to {last} cannot be used ({error.strerror}).", hint="Use --port 0 for a free port."
                ) from error
            continue
        return found
    raise AssertionError  # the last candidate either was bound or raised


class ViewServer(ClosedOnExit):
    """A server of an application; every request needs the token.

    Args:
        app: The application.
        port: Wanted port; 0 for any.

    Raises:
        UsageError: The extra `view` is not installed, or no port is free.
    """

    def __init__(self, app: ASGIApp, port: int) -> None:
        import uvicorn

        from slpd_toolkit.report.viewer.access import Guard

        self._socket = bind(port)
        self.port: int = self._socket.getsockname()[1]
        self.token = secrets.token_urlsafe(_TOKEN_BYTES)
        self.app = Guard(app, self.token, f"slpd-view-{self.port}")
        settings = uvicorn.Config(
            self.app,
            log_level="warning",
            access_log=False,  # it would contain the token
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(settings)
        self._thread: threading.Thread | None = None

    def url(self, slide: str | None = None) -> str:
        """Return the address of the page, with the token."""
        return f"http://{HOST}:{self.port}/?token={self.token}" + (f"#slide={quote(slide, safe='')}" if slide else "")

    def run(self) -> None:
        """Serve until Ctrl-C."""
        with suppress(KeyboardInterrupt):
            self._server.run(sockets=[self._socket])

    def start(self) -> None:
        """Serve in another thread until `close`.

        Raises:
            SlpdError: The server does not start.
        """
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()
        waited = threading.Event()
        for _ in range(int(_START_S / 0.05)):
            if self._server.started:
                return
            waited.wait(0.05)
        raise SlpdError("The server did not start.", hint="Try another port.")

    def close(self) -> None:
        """Stop the server and close the port."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join()
        self._socket.close()
