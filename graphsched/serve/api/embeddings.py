"""Embeddings: hidden states of texts, pooled to one vector each."""

import asyncio
import base64
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from starlette.responses import JSONResponse, Response

from graphsched.serve.api.endpoint import Call, Endpoint
from graphsched.serve.api.failures import Failure, llama_form, refused, too_long
from graphsched.serve.api.fields import Field, table
from graphsched.serve.api.kinds import Choice, integer
from graphsched.serve.api.prompts import PROMPT, ids_of, prompts_of
from graphsched.serve.api.served import Served

Vector = NDArray[np.float32]
EUCLIDEAN: Final = 2
NORM: Final = Field(
    "embd_normalize", integer(-1, 64), help="-1 as they are, 0 the largest is 1, 1 taxicab, 2 Euclidean"
)
FIELDS: Final = table(
    Field("input", PROMPT, required=True, help="a text, tokens, or several of them"),
    Field("encoding_format", Choice(("float", "base64")), help="numbers, or float32 as base64"),
    Field("dimensions", integer(1), help="as many as the model has"),
    NORM,
)
OWN: Final = table(
    Field("content", PROMPT, help="a text, tokens, or several of them"),
    Field("input", PROMPT, "content", help="the same"),
    NORM,
)


async def embed(call: Call) -> Response:
    """Vectors, as OpenAI's interface has them."""
    v = call.values
    vectors, n_tokens = await _vectors(call.served, v["input"], "input", v)
    if vectors[0].ndim > 1:
        raise Failure(400, "embeddings are not pooled here, /embeddings has one for each token")
    if v.get("dimensions", len(vectors[0])) != len(vectors[0]):
        raise refused("dimensions", f"is {v['dimensions']}, the model has {len(vectors[0])}")
    is_base64 = v.get("encoding_format") == "base64"
    entries = [
        {"object": "embedding", "index": i, "embedding": _base64(x) if is_base64 else x.tolist()}
        for i, x in enumerate(vectors)
    ]
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return JSONResponse({"object": "list", "data": entries, "model": call.served.name, "usage": usage})


async def embed_as_llama(call: Call) -> Response:
    """Vectors, as llama.cpp's own interface has them."""
    if "content" not in call.values:
        raise refused("content", "is missing")
    vectors, _ = await _vectors(call.served, call.values["content"], "content", call.values)
    return JSONResponse([{"index": i, "embedding": np.atleast_2d(x).tolist()} for i, x in enumerate(vectors)])


async def _vectors(
    served: Served, given: Any, at: str, values: Mapping[str, Any]
) -> tuple[list[Vector], int]:
    """The vectors of all prompts, and how many tokens these have."""
    prompts = await asyncio.to_thread(lambda: [ids_of(served, p, at) for p in prompts_of(given)])
    for ids in prompts:
        if not ids:
            raise refused(at, "is empty and this model has no token that begins a text")
        if len(ids) > served.service.n_ctx:
            raise too_long(len(ids), served.service.n_ctx)
    norm = values.get("embd_normalize", EUCLIDEAN)
    found = await served.service.embed(prompts)
    return [x if x.ndim > 1 else normalised(x, norm) for x in found], sum(map(len, prompts))


def normalised(x: Vector, norm: int) -> Vector:
    """A vector of length 1, by the norm that llama.cpp has under this number."""
    if norm < 0:
        return x
    size = np.abs(x.astype(np.float64))
    length = size.max() if norm == 0 else (size**norm).sum() ** (1 / norm)
    scale = 32760.0 if norm == 0 else 1.0  # as integers of 16 bits would be
    return (x * (scale / length)).astype(np.float32) if length > 0 else x


def _base64(x: Vector) -> str:
    return base64.b64encode(x.astype("<f4").tobytes()).decode()


ENDPOINTS: Final = (
    Endpoint("POST", ("/v1/embeddings",), embed, "Vectors of texts", FIELDS, computes=True),
    Endpoint(
        "POST",
        ("/embedding", "/embeddings"),
        embed_as_llama,
        "Vectors of texts, as llama.cpp has them",
        OWN,
        form=llama_form,
        computes=True,
    ),
)
