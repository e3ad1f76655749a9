"""Whether the server takes requests."""

from typing import Final

from starlette.responses import JSONResponse, Response

from graphsched.serve.api.endpoint import Call, Endpoint
from graphsched.serve.api.failures import llama_form, unavailable


async def health(call: Call) -> Response:
    """ok, or 503 while the server ends."""
    if call.served.life.is_draining:
        raise unavailable("the server is ending")
    return JSONResponse({"status": "ok"})


ENDPOINTS: Final = (
    Endpoint(
        "GET",
        ("/health", "/v1/health"),
        health,
        "Whether the server takes requests",
        form=llama_form,
        is_public=True,
    ),
)
