"""`/openapi.json`: the endpoints and their fields, from the tables that read them."""

import re
from collections.abc import Iterable
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from graphsched import __version__
from graphsched.serve.api.endpoint import Call, Endpoint

_PARAMETER: Final = re.compile(r"\{(\w+)(:\w+)?\}")
_ERROR: Final = {
    "description": "One sentence about what is wrong",
    "content": {
        "application/json": {
            "schema": {"type": "object", "properties": {"error": {"type": "object"}}, "required": ["error"]}
        }
    },
}


def endpoint_of(endpoints: Iterable[Endpoint]) -> Endpoint:
    """The endpoint that tells of all others."""
    found = document(endpoints)

    async def told(call: Call) -> Response:
        return JSONResponse(found)

    return Endpoint("GET", ("/openapi.json",), told, "This document")


def document(endpoints: Iterable[Endpoint]) -> dict[str, Any]:
    """The OpenAPI document."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        for path in endpoint.paths:
            here = paths.setdefault(_PARAMETER.sub(r"{\1}", path), {})
            here[endpoint.method.lower()] = _operation(endpoint, path)
    return {
        "openapi": "3.1.0",
        "info": {"title": "graphsched", "version": __version__},
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "paths": paths,
    }


def _operation(endpoint: Endpoint, path: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": endpoint.summary,
        "parameters": [*_of_path(path), *_of_query(endpoint)],
        "responses": {"200": {"description": "What was asked for"}, "4XX": _ERROR, "5XX": _ERROR},
        "security": [] if endpoint.is_public else [{}, {"key": []}],
    }
    if endpoint.fields is not None:
        content = {"application/json": {"schema": endpoint.fields.schema}}
        found["requestBody"] = {"required": True, "content": content}
    return found


def _of_path(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name, _ in _PARAMETER.findall(path)
    ]


def _of_query(endpoint: Endpoint) -> list[dict[str, Any]]:
    fields = endpoint.query.fields if endpoint.query else ()
    return [{"name": f.name, "in": "query", "required": f.required, "schema": f.schema} for f in fields]
