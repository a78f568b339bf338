"""The server's process: from a socket to an exit status of 0, whatever its clients do.

At the first signal nothing new is taken, and what is open has SHUTDOWN_SECONDS; it still listens, so that probes see
that it is not ready. Then all that is left ends, and is told so. A second signal does that at once, but for background
jobs, which have their time. Signals count from the first moment to the last: whoever starts also tidies up.
"""

import signal
import socket
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from app.api.main import create_app
from app.api.stopping import Stopping
from app.db.engine import connect
from app.settings import Settings

GRACE_SECONDS = 3  # for clients that have to read their last bytes
KEEP_ALIVE_SECONDS = 5  # for another request of the same client


async def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until a signal comes; `announce` gets the address once everything has started.

    Raises:
        OSError: somebody else has the port, or there is no such host.
        AppError: the application cannot start: a setting is wrong, or the database is not there.

    """
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = Server(config, app.state.stopping, settings.shutdown_seconds)
    with _bound(settings.host, settings.port) as bound, server.taking_signals():
        await _reach_database(settings)
        async with app.router.lifespan_context(app):
            bound.listen(config.backlog)
            announce(_url(bound))
            await server.serve(sockets=[bound])


class Server(uvicorn.Server):
    """Takes signals as above; uvicorn's own takes them while it serves alone, and ends by raising them again."""

    def __init__(self, config: uvicorn.Config, stopping: Stopping, seconds: float) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._seconds = seconds
        self._signals = 0
        self._ends = float("inf")

    @contextmanager
    def taking_signals(self) -> Iterator[None]:
        """Meanwhile no signal ends the process."""
        before = {sign: signal.signal(sign, self.handle_exit) for sign in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sign, handler in before.items():
                signal.signal(sign, handler)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave them as they are."""
        yield

    def handle_exit(self, _: int, __: FrameType | None) -> None:
        """Count it: Python calls this between any two instructions."""
        self._signals += 1

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to exit."""
        await super().on_tick(counter)
        if not self._signals:
            return False
        if not self._stopping.begun:
            self._ends = time.monotonic() + self._seconds
            self._stopping.begin()
        if self._signals == 1 and time.monotonic() < self._ends and self.server_state.tasks:
            return False
        self._stopping.cut_short()
        return True


async def _reach_database(settings: Settings) -> None:
    """One that is away is told now: parts that start would wait for it."""
    if settings.database_url is not None:
        async with connect(settings.database_url.get_secret_value()) as database:
            await database.is_migrated()  # whether it is or not


def _bound(host: str, port: int) -> socket.socket:
    """A socket that has the address and does not listen yet: nobody shall wait for what may not start."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    return bound


def _url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}"
