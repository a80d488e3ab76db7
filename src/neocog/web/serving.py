"""Running the server."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from neocog.errors import UsageError
from neocog.web.app import make_app
from neocog.web.guard import AT_ONCE
from neocog.web.served import Served


def serve(
    libraries: Sequence[str | Path] = (),
    runs: Sequence[str | Path] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    say: Callable[[str], object] = print,
) -> None:
    """Serve the page and its API until Ctrl-C.

    Beyond this machine every request needs a token, which is made for each start and is part of the address that
    `say` gets.

    Raises:
        LibraryError, RunError: one of them is none. UsageError: the port is taken.
    """
    import numpy  # noqa: F401  # whose library is told below
    import uvicorn
    from threadpoolctl import threadpool_limits

    served = Served(libraries, runs, Path("runs").absolute())
    token = "" if is_loopback(host) else secrets.token_urlsafe(24)
    config = uvicorn.Config(
        make_app(served, host=host, token=token), host=host, port=port, log_level="warning", access_log=False,
        server_header=False, ws="none", lifespan="off", backlog=256, limit_concurrency=2 * AT_ONCE,
        timeout_keep_alive=15, h11_max_incomplete_event_size=32_768, timeout_graceful_shutdown=2,
    )  # fmt: skip
    try:
        socket = config.bind_socket()
    except SystemExit:
        raise UsageError(f"port {port} of {host} cannot be had; choose another: --port {port + 1}") from None
    shown = f"[{host}]" if ":" in host else host
    say(f"http://{shown}:{socket.getsockname()[1]}/{f'?token={token}' if token else ''}")
    threadpool_limits(1, user_api="blas")  # several requests are answered at once: more threads would only wait
    uvicorn.Server(config).run([socket])


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches what is bound to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
