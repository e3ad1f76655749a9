"""`/props`: what a client may want to know about the server, by llama.cpp's names."""

from typing import Any, Final

from starlette.responses import JSONResponse, Response

from graphsched import __version__
from graphsched.serve.api.endpoint import Call, Endpoint
from graphsched.serve.api.failures import llama_form
from graphsched.serve.api.llama import settings
from graphsched.serve.api.served import Served
from graphsched.serve.request import Request


async def props(call: Call) -> Response:
    """What holds for all requests."""
    return JSONResponse(told(call.served))


def told(served: Served) -> dict[str, Any]:
    """The properties; of the model's file the name only."""
    service, defaults = served.service, served.defaults
    plain = Request((), defaults.n_predict, defaults.sampling, ignore_eos=defaults.ignore_eos)
    return {
        "default_generation_settings": {"n_ctx": service.n_ctx, "params": settings(served, plain)},
        "total_slots": service.n_slots,
        "model_alias": served.name,
        "model_path": service.model.source,
        "chat_template": served.dialect.template or "",
        "modalities": {"vision": False, "audio": False},
        "build_info": f"graphsched {__version__}",
        "is_sleeping": False,
    }


ENDPOINTS: Final = (Endpoint("GET", ("/props",), props, "What holds for all requests", form=llama_form),)
