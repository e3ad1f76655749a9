"""The model by its names."""

from math import prod
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from graphsched.serve.api.endpoint import Call, Endpoint
from graphsched.serve.api.failures import not_found
from graphsched.serve.api.served import Served


async def listed(call: Call) -> Response:
    """Every name of the model."""
    entries = [entry(call.served, name) for name in call.served.names]
    return JSONResponse({"object": "list", "data": entries})


async def one(call: Call) -> Response:
    """The model of a name. Failure 404 for another."""
    name = call.path["model"]
    if name not in call.served.names:
        raise not_found(f"there is no model {name}, there is {', '.join(call.served.names)}")
    return JSONResponse(entry(call.served, name))


def entry(served: Served, name: str) -> dict[str, Any]:
    """A model as OpenAI lists it, with llama.cpp's `meta`."""
    return {
        "id": name,
        "object": "model",
        "created": served.began,
        "owned_by": "graphsched",
        "meta": meta(served),
    }


def meta(served: Served) -> dict[str, Any]:
    """What llama.cpp tells of a model's size."""
    model = served.service.model
    return {
        "n_vocab": model.n_vocab,
        "n_ctx": served.service.n_ctx,
        "n_ctx_train": model.n_ctx_train,
        "n_params": sum(prod(type.shape) for type in model.types.values()),
        "size": sum(type.nbytes for type in model.types.values()),
    }


ENDPOINTS: Final = (
    Endpoint("GET", ("/v1/models", "/models"), listed, "Names of the model"),
    Endpoint("GET", ("/v1/models/{model:path}",), one, "The model of a name"),
)
