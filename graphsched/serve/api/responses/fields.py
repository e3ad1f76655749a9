"""The fields of OpenAI's responses."""

from typing import Final

from graphsched.serve.api.chat_fields import EFFORTS
from graphsched.serve.api.fields import Field, table
from graphsched.serve.api.generation import LIMIT
from graphsched.serve.api.kinds import AnyObject, Choice, Either, Flag, ListOf, Text
from graphsched.serve.api.messages import MAX_MESSAGES
from graphsched.serve.api.sampling import SAMPLING

MAX_TOOLS: Final = 1024
_PART: Final = table(Field("type", Text(64), required=True), Field("text", Text()), Field("refusal", Text()))
_PARTS: Final = Either((Text(), ListOf(_PART)))
_ITEM: Final = table(
    Field("type", Text(64)),
    Field("role", Choice(("user", "assistant", "system", "developer"))),
    Field("content", _PARTS),
    Field("summary", ListOf(_PART)),
    Field("call_id", Text(256)),
    Field("name", Text(256)),
    Field("arguments", Text()),
    Field("output", _PARTS),
)
_TOOL: Final = table(
    Field("type", Text(64), required=True),
    Field("name", Text(256)),
    Field("description", Text()),
    Field("parameters", AnyObject()),
    Field("strict", Flag()),
)
_WORD: Final = Choice(("none", "auto", "required"))
_NAMED: Final = table(
    Field("type", Choice(("function",)), required=True), Field("name", Text(256), required=True)
)
_FORMAT: Final = table(
    Field("type", Choice(("text", "json_object", "json_schema")), required=True),
    Field("name", Text(256)),
    Field("schema", AnyObject()),
    Field("strict", Flag()),
)
FIELDS: Final = table(
    Field("model", Text(), help="any"),
    Field("input", Either((Text(), ListOf(_ITEM, MAX_MESSAGES))), required=True, help="a text, or items"),
    Field("instructions", Text(), help="what holds for this answer"),
    Field("max_output_tokens", LIMIT, "n_predict", help="tokens of the answer at most, thoughts included"),
    SAMPLING,
    Field("tools", ListOf(_TOOL, MAX_TOOLS), help="functions that the model may call"),
    Field("tool_choice", Either((_WORD, _NAMED)), help="whether it has to"),
    Field("parallel_tool_calls", Flag(), help="whether it may call several at once"),
    Field("text", table(Field("format", _FORMAT)), help="a text, any JSON object, or a JSON schema"),
    Field("reasoning", table(Field("effort", EFFORTS)), help="how much it thinks first"),
    Field("store", Flag(), help="keep it for previous_response_id; true if nothing is said"),
    Field("previous_response_id", Text(256), help="the response that this one goes on from"),
    Field("metadata", AnyObject(), help="comes back as it is"),
    Field("truncation", Choice(("auto", "disabled")), help="disabled"),
    Field("background", Flag(), help="false"),
    Field("stream", Flag(), help="send the answer as it comes, as server-sent events"),
)
