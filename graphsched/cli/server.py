"""Runs the server: its socket, its signals, and what it says."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from graphsched.cli.screen import Screen
from graphsched.errors import OptionError
from graphsched.serve.api.auth import is_loopback
from graphsched.serve.api.served import Defaults
from graphsched.serve.app.make import make_app
from graphsched.serve.http_options import ServerOptions
from graphsched.serve.options import ServiceOptions
from graphsched.serve.service import Service

if TYPE_CHECKING:
    from graphsched.session.session import Session

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_IDLE: Final = 60  # seconds for which a connection without a request stays open


@dataclass(frozen=True)
class Asked:
    """What `serve` is asked for besides the options of the session."""

    server: ServerOptions
    service: ServiceOptions
    defaults: Defaults


def bound(options: ServerOptions) -> socket.socket:
    """The socket, which nobody can connect to yet. OptionError if the host is unknown, or the port is in use."""
    host, port = options.host, options.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise OptionError(f"is {host or 'empty'}, no address of this machine", "host") from None
    found = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it lets two servers have one port
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.set_inheritable(False)
        return found
    except OSError as e:
        found.close()
        raise OptionError(f"is {port}, on {host}: {(e.strerror or str(e)).lower()}", "port") from None


def url_of(options: ServerOptions, listening: socket.socket) -> str:
    """Where the server is."""
    host = f"[{options.host}]" if ":" in options.host else options.host
    return f"http://{host}:{listening.getsockname()[1]}"


class Server(uvicorn.Server):
    """Ends when it is told to: running requests have some time then, and a second time there is none."""

    def __init__(self, config: uvicorn.Config, ready: str, app: Any) -> None:
        super().__init__(config)
        self._ready, self._app = ready, app

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """While entered, signals end the server."""
        before = {number: signal.signal(number, self._heard) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(128 + number)  # at once: nothing that is kept is half written
        self._app.state.served.life.is_draining = True
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does, then says that the server is ready."""
        await super().startup(sockets)
        if not self.should_exit:
            print(self._ready, flush=True)


def serve(session: "Session", asked: Asked, listening: socket.socket, screen: Screen) -> None:
    """Serves until a signal comes, then closes everything."""
    service = Service(session, asked.service)
    try:
        app = make_app(service, asked.server, asked.defaults)
        say_notes(app, asked, screen)
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=screen.verbose,
            server_header=False,
            timeout_keep_alive=_IDLE,
            timeout_graceful_shutdown=asked.server.drain_timeout,  # type: ignore[arg-type]  # seconds
        )
        _log(screen)
        service.start()
        server = Server(config, ready_line(app.state.served, url_of(asked.server, listening)), app)
        asyncio.run(server.serve([listening]))
    finally:
        service.close()
        session.close()


def _log(screen: Screen) -> None:
    level = logging.CRITICAL if screen.quiet else logging.INFO if screen.verbose else logging.ERROR
    logging.basicConfig(stream=sys.stderr, level=level, format="%(asctime)s %(message)s")


def say_notes(app: Any, asked: Asked, screen: Screen) -> None:
    """Hints about the template, and about who may use the server."""
    for note in app.state.served.dialect.notes:
        screen.hint(f"hint: {note}")
    if not is_loopback(asked.server.host) and not app.state.served.guard.keys:
        who = f"whoever reaches {asked.server.host} may use this server"
        screen.hint(f"hint: {who}, --api-key KEY keeps others out")


def ready_line(served: Any, url: str) -> str:
    """Where the server listens, and what it serves."""
    from graphsched.predict.memory import megabytes
    from graphsched.session.summary import kv_bytes

    service = served.service
    model, options = service.model, service.session.options
    weights = sum(type.nbytes for type in model.types.values())
    caches = kv_bytes(model.graph(1, 1, service.n_ctx, options))
    slots = f"{service.n_slots} slot{'s' if service.n_slots > 1 else ''}"
    sizes = f"weights {megabytes(weights)}, cache {megabytes(caches)}"
    return f"listening on {url}: {served.name}, {slots}, context {service.n_ctx}, {sizes}"
