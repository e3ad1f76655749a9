"""The application: all endpoints of a service, with what holds for each of them."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from graphsched.serve.api import (
    chat,
    completions,
    embeddings,
    health,
    llama,
    metrics,
    models,
    openapi,
    page,
    props,
    slots,
    tokens,
)
from graphsched.serve.api.anthropic import endpoints as anthropic
from graphsched.serve.api.endpoint import Endpoint, Handler, told
from graphsched.serve.api.failures import Failure, not_found, openai_form
from graphsched.serve.api.responses import endpoints as responses
from graphsched.serve.api.served import Defaults, Served, served
from graphsched.serve.http_options import ServerOptions

if TYPE_CHECKING:
    from graphsched.serve.service import Service

_MODULES: Final = (
    chat,
    completions,
    responses,
    anthropic,
    llama,
    embeddings,
    models,
    tokens,
    health,
    slots,
    props,
    metrics,
    page,
)
ENDPOINTS: Final[tuple[Endpoint, ...]] = tuple(e for module in _MODULES for e in module.ENDPOINTS)
_DEFAULTS: Final = Defaults()


def make_app(
    service: "Service",
    options: ServerOptions,
    defaults: Defaults = _DEFAULTS,
    more: Iterable[Endpoint] = (),
) -> Starlette:
    """The application of a service that has started. OptionError for keys that cannot be read."""
    what = served(service, options, defaults)
    endpoints = (*ENDPOINTS, *more)
    endpoints = (*endpoints, openapi.endpoint_of(endpoints))
    app = Starlette(
        routes=[_route(path, endpoints, what) for path in _paths(endpoints)],
        middleware=_cors(options),
        exception_handlers={HTTPException: _told},
    )
    app.state.served = what
    return app


def _paths(endpoints: Iterable[Endpoint]) -> list[str]:
    return list(dict.fromkeys(path for endpoint in endpoints for path in endpoint.paths))


def _route(path: str, endpoints: Iterable[Endpoint], what: Served) -> Route:
    """All methods of a path."""
    here = {e.method: Handler(e, what) for e in endpoints if path in e.paths}

    class ByMethod:
        """Hands a request to the endpoint of its method."""

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            await here[method](scope, receive, send)

    return Route(path, ByMethod(), methods=list(here))


def _cors(options: ServerOptions) -> list[Middleware]:
    if not options.cors:
        return []
    methods, headers = ["GET", "POST"], ["*"]
    return [
        Middleware(CORSMiddleware, allow_origins=options.cors, allow_methods=methods, allow_headers=headers)
    ]


async def _told(request: Request, error: Exception) -> Response:
    """What the router found out: there is no such path, or it has other methods."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    failure = not_found(f"there is nothing at {path}, /openapi.json lists what there is")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        failure = Failure(405, f"{path} takes {allowed}, not {request.method}", code="method_not_allowed")
    response = told(failure, openai_form)
    response.headers.update(error.headers or {})
    return response
