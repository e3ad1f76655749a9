"""Text to tokens and back, and conversations to prompts: nothing is computed."""

import asyncio
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from graphsched.serve.api.endpoint import Call, Endpoint
from graphsched.serve.api.failures import llama_form
from graphsched.serve.api.fields import Field, table
from graphsched.serve.api.kinds import Flag, ListOf, Text
from graphsched.serve.api.prompts import TOKEN, checked

TOKENIZE: Final = table(
    Field("content", Text(), required=True, help="the text"),
    Field("add_special", Flag(), help="with what the model wants in front and behind"),
    Field("parse_special", Flag(), help="texts of control tokens are these tokens (default: true)"),
    Field("with_pieces", Flag(), help="tell the text of each token"),
)
DETOKENIZE: Final = table(Field("tokens", ListOf(TOKEN, 1 << 24), required=True, help="ids of tokens"))


async def tokenize(call: Call) -> Response:
    """The tokens of a text."""
    v, tokenizer = call.values, call.served.service.tokenizer
    how = {"add_special": v.get("add_special", False), "parse_special": v.get("parse_special", True)}
    ids = await asyncio.to_thread(tokenizer.encode, v["content"], **how)
    if not v.get("with_pieces"):
        return JSONResponse({"tokens": ids})
    return JSONResponse({"tokens": [{"id": id, "piece": _piece(tokenizer.piece(id, True))} for id in ids]})


def _piece(data: bytes) -> Any:
    """A text, or bytes where that is half a character."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


async def detokenize(call: Call) -> Response:
    """The text of tokens."""
    ids = checked(call.served, call.values["tokens"], "tokens")
    tokenizer = call.served.service.tokenizer
    return JSONResponse({"content": await asyncio.to_thread(tokenizer.decode, ids)})


ENDPOINTS: Final = (
    Endpoint("POST", ("/tokenize",), tokenize, "The tokens of a text", TOKENIZE, form=llama_form),
    Endpoint("POST", ("/detokenize",), detokenize, "The text of tokens", DETOKENIZE, form=llama_form),
)
