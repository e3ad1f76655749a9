"""Reads the JSON of a request's body within limits."""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from starlette.requests import ClientDisconnect, Request

from graphsched.serve.api.failures import Failure
from graphsched.text.depth import is_deeper

MAX_DEPTH: Final = 64  # objects and lists inside of each other
_MAYBE_HALF: Final = re.compile(rb"\\u[dD][89a-fA-F]")


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """The body. Failure 413 for more than `most` bytes, 408 if it does not come within so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            return await _read(request, most)
    except TimeoutError:
        raise Failure(408, f"the body did not come within {seconds:g} seconds") from None


async def _read(request: Request, most: int) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and len(announced) < 20 and int(announced) > most:
        raise _too_large(most)
    parts, size = [], 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > most:
            raise _too_large(most)
    return b"".join(parts)


def _too_large(most: int) -> Failure:
    return Failure(413, f"the body is larger than {most} bytes", code="request_too_large")


def parsed(body: bytes) -> Mapping[str, Any]:
    """The object that a body is. Failure if it is no JSON, another value, too deep, or has half a character."""
    try:
        found = json.loads(body, parse_constant=_no_number) if body.strip() else {}
    except RecursionError:
        raise _too_deep() from None
    except (ValueError, UnicodeDecodeError) as e:
        raise Failure(400, f"the body is no JSON: {_reason(e)}") from None
    if not isinstance(found, dict):
        raise Failure(400, "the body is no JSON object")
    if is_deeper(found, MAX_DEPTH):
        raise _too_deep()
    if _MAYBE_HALF.search(body) and _has_half(found):
        raise Failure(400, "the body has half of a surrogate pair, which is no character")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _reason(e: Exception) -> str:
    if isinstance(e, json.JSONDecodeError):
        return f"{e.msg[:1].lower()}{e.msg[1:]}, line {e.lineno}, column {e.colno}"
    return "it is not UTF-8" if isinstance(e, UnicodeDecodeError) else str(e).partition(";")[0]


def _too_deep() -> Failure:
    return Failure(400, f"the body has more than {MAX_DEPTH} objects and lists inside of each other")


def _has_half(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


__all__ = ["MAX_DEPTH", "ClientDisconnect", "parsed", "read_body"]
