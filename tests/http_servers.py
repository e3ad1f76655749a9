"""Servers of tests: on a port that the system chooses, in a thread with a loop of its own, ended with the block."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import uvicorn
from serving import opened

from graphsched.serve.api.served import Defaults
from graphsched.serve.app.make import make_app
from graphsched.serve.http_options import ServerOptions
from graphsched.serve.options import ServiceOptions
from graphsched.serve.service import Service
from graphsched.text.chat_options import ChatOptions
from graphsched.text.options import SamplingOptions

GREEDY = SamplingOptions(temperature=0)


@contextmanager
def running(app: Any) -> Iterator[str]:
    """An application on loopback; its address without a slash at the end."""
    config = uvicorn.Config(
        app, "127.0.0.1", 0, log_level="error", lifespan="off", timeout_graceful_shutdown=5
    )
    server, ready = uvicorn.Server(config), threading.Event()
    socket = config.bind_socket()
    failures: list[BaseException] = []

    async def serve() -> None:
        task = asyncio.ensure_future(server.serve([socket]))
        while not server.started and not task.done():
            await asyncio.sleep(0.005)
        ready.set()
        await task

    def work() -> None:
        try:
            asyncio.run(serve())
        except BaseException as e:
            failures.append(e)
        finally:
            ready.set()

    thread = threading.Thread(target=work, name="test server")
    thread.start()
    try:
        assert ready.wait(60)
        assert not failures
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        socket.close()
        assert not thread.is_alive()
        assert not failures


@dataclass(frozen=True)
class Running:
    """A server: its address, its service, a client for HTTP, and OpenAI's."""

    url: str
    service: Any
    http: httpx.Client
    openai: Any  # its client: every optional part of an answer would need a check
    app: Any


@contextmanager
def clients(service: Any, options: ServerOptions, defaults: Defaults) -> Iterator[Running]:
    """A server of a service, and clients."""
    app = make_app(service, options, defaults)
    with (
        running(app) as url,
        httpx.Client(base_url=url, timeout=60) as http,
        openai.OpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0, timeout=60) as client,
    ):
        yield Running(url, service, http, client, app)


@contextmanager
def serving_http(
    name: str | None = None,
    *,
    server: dict[str, Any] | None = None,
    service: dict[str, Any] | None = None,
    chat: dict[str, Any] | None = None,
    after: Callable[[Service], None] = lambda service: None,
    **session: Any,
) -> Iterator[Running]:
    """A server with a real service, greedy if a request does not say; no slot is in use at the end."""
    found = Service(opened(name, **session), ServiceOptions(**(service or {})))
    found.start()
    try:
        defaults = Defaults(GREEDY, ChatOptions(**(chat or {})))
        with clients(found, ServerOptions(**(server or {})), defaults) as what:
            yield what
        assert not any(slot.is_processing for slot in found.slots())
        after(found)
    finally:
        found.close()
        found.session.close()
