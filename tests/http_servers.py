"""Servers of tests: on a port that the system chooses, in a thread with a loop of its own, ended with the block."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn


@contextmanager
def running(app: Any) -> Iterator[str]:
    """An application on loopback; its address without a slash at the end."""
    config = uvicorn.Config(
        app, "127.0.0.1", 0, log_level="error", lifespan="off", timeout_graceful_shutdown=5
    )
    server, failed = uvicorn.Server(config), threading.Event()
    socket = config.bind_socket()
    ready = threading.Event()

    async def serve() -> None:
        task = asyncio.ensure_future(server.serve([socket]))
        while not server.started and not task.done():
            await asyncio.sleep(0.005)
        ready.set()
        await task

    def work() -> None:
        try:
            asyncio.run(serve())
        except BaseException:
            failed.set()
            raise
        finally:
            ready.set()

    thread = threading.Thread(target=work, name="test server")
    thread.start()
    try:
        assert ready.wait(30)
        assert not failed.is_set()
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        socket.close()
        assert not thread.is_alive()
