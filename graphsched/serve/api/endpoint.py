"""An endpoint, declared once: where it is, what it takes, who answers, and in whose form it tells errors."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from graphsched.serve.api.body import parsed, read_body
from graphsched.serve.api.events import ended
from graphsched.serve.api.failures import Form, failure_of, openai_form, unavailable
from graphsched.serve.api.fields import Table
from graphsched.serve.api.served import Served

MIB: Final = 1 << 20


@dataclass(frozen=True)
class Call:
    """A request over HTTP that was let in: values of its fields, and of its query and path."""

    served: Served
    values: Mapping[str, Any]
    query: Mapping[str, Any]
    path: Mapping[str, Any]
    headers: Mapping[str, str]


Answer = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True)
class Endpoint:
    """One endpoint; paths: the first is its name, others are as good. fields: of its JSON body, None if it has none.

    query: of its query, whose values are texts. is_public: needs no key. computes: is refused while the server ends.
    """

    method: str
    paths: tuple[str, ...]
    answer: Answer
    summary: str
    fields: Table | None = None
    query: Table | None = None
    form: Form = openai_form
    is_public: bool = False
    computes: bool = False


class Handler:
    """An endpoint as an ASGI application."""

    def __init__(self, endpoint: Endpoint, served: Served) -> None:
        self.endpoint, self.served = endpoint, served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            self._check(request)
            body = await self._body(request)
        except ClientDisconnect:
            return
        except Exception as e:
            await told(e, self.endpoint.form)(scope, receive, send)
            return
        await while_connected(receive, self._answer(request, body, scope, send))

    def _check(self, request: Request) -> None:
        self.served.guard.check(request.headers, is_public=self.endpoint.is_public)
        if self.endpoint.computes and self.served.life.is_draining:
            raise unavailable("the server is ending")

    async def _body(self, request: Request) -> bytes:
        o = self.served.options
        return (
            b"" if self.endpoint.fields is None else await read_body(request, o.body_limit * MIB, o.timeout)
        )

    async def _answer(self, request: Request, body: bytes, scope: Scope, send: Send) -> None:
        try:
            response = await self.endpoint.answer(self._call(request, body))
        except Exception as e:
            response = told(e, self.endpoint.form)
        await response(scope, _nothing_more, send)

    def _call(self, request: Request, body: bytes) -> Call:
        fields, asked = self.endpoint.fields, self.endpoint.query
        query = {} if asked is None else asked.read(dict(request.query_params))
        values = {} if fields is None else fields.read(parsed(body))
        return Call(self.served, values, query, request.path_params, request.headers)


def told(error: Exception, form: Form) -> Response:
    """The response that tells an error."""
    failure = failure_of(error)
    return JSONResponse(form(failure), failure.status, failure.headers)


async def _nothing_more() -> Any:
    """The body was read, and that the client goes away is seen elsewhere."""
    await asyncio.Event().wait()


async def while_connected(receive: Receive, work: Any) -> None:
    """Does work for a client, and cancels it when the client goes away."""
    doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
    finally:
        await ended(doing, gone)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
