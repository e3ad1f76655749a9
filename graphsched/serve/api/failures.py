"""What goes wrong with a request: one value, which each interface writes in its own form."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from graphsched.errors import ContextError, Error, OptionError, StoreError
from graphsched.serve.request import Busy

LOG: Final = logging.getLogger("graphsched.serve")
INVALID: Final = "invalid_request_error"


class Failure(Error):
    """One sentence about a request, with its HTTP status.

    kind: the type as OpenAI and llama.cpp name it. param: the field. code: OpenAI's word for it. more: further fields
    of the error, as n_ctx. retry_after: seconds after which it may be sent again.
    """

    def __init__(
        self,
        status: int,
        what: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(what)
        self.status, self.what, self.kind, self.param, self.code = status, what, kind, param, code
        self.retry_after, self.more = retry_after, dict(more or {})

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response that tells it."""
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


Form = Callable[[Failure], dict[str, Any]]


def openai_form(failure: Failure) -> dict[str, Any]:
    """The JSON of an error as OpenAI's clients read it."""
    f = failure
    return {"error": {"message": f.what, "type": f.kind, "param": f.param, "code": f.code, **f.more}}


def llama_form(failure: Failure) -> dict[str, Any]:
    """The JSON of an error as llama.cpp's own endpoints have it: the code is the status."""
    f = failure
    return {"error": {"code": f.status, "message": f.what, "type": f.kind, **f.more}}


def refused(at: str, what: str) -> Failure:
    """A bad value: the sentence begins with the field."""
    return Failure(400, f"{at} {what}" if at else what, param=at or None)


def needed(values: Mapping[str, Any], name: str, at: str) -> Any:
    """A field of an object at a place. Failure if it is not there."""
    if name not in values:
        raise refused(f"{at}.{name}", "is missing")
    return values[name]


def not_found(what: str) -> Failure:
    """There is no such thing here."""
    return Failure(404, what, kind="not_found_error", code="not_found")


def unavailable(what: str, retry_after: int = 1) -> Failure:
    """Not now: the server begins or ends."""
    return Failure(503, what, kind="unavailable_error", code="unavailable", retry_after=retry_after)


def too_long(n_prompt: int, n_ctx: int) -> Failure:
    """A prompt that does not fit the context, with llama.cpp's fields."""
    what = f"the prompt has {n_prompt} tokens, which do not fit the context of {n_ctx}"
    more = {"n_prompt_tokens": n_prompt, "n_ctx": n_ctx}
    return Failure(400, what, kind="exceed_context_size_error", code="context_length_exceeded", more=more)


def failure_of(error: Exception) -> Failure:
    """The failure that an exception is to a client; what nobody foresaw is logged, and told without details."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, Busy):
        kind, code = "rate_limit_error", "rate_limit_exceeded"
        return Failure(429, str(error), kind=kind, code=code, retry_after=error.retry_after)
    if isinstance(error, ContextError):
        return Failure(400, str(error), kind="exceed_context_size_error", code="context_length_exceeded")
    if isinstance(error, StoreError):
        return Failure(507, str(error), kind="server_error", code="insufficient_storage")
    if isinstance(error, OptionError):
        return refused(error.option, error.what)
    if isinstance(error, Error):
        return Failure(400, str(error))
    LOG.error("a request failed, which is a bug", exc_info=error)
    return Failure(500, "the server failed, its log says why", kind="server_error", code="server_error")
