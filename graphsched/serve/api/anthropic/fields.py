"""The fields of Anthropic's messages."""

from typing import Final

from graphsched.serve.api.fields import Field, table
from graphsched.serve.api.kinds import AnyObject, Choice, Either, Flag, ListOf, Text, integer
from graphsched.serve.api.messages import MAX_MESSAGES
from graphsched.serve.api.sampling import SAMPLING

MAX_TOOLS: Final = 1024
_STOPS: Final = ListOf(Text(1024), 64)
_PART: Final = table(Field("type", Text(64), required=True), Field("text", Text()))
_PARTS: Final = Either((Text(), ListOf(_PART)))
_BLOCK: Final = table(
    Field("type", Text(64), required=True),
    Field("text", Text()),
    Field("thinking", Text()),
    Field("id", Text(256)),
    Field("name", Text(256)),
    Field("input", AnyObject()),
    Field("tool_use_id", Text(256)),
    Field("content", _PARTS),
    Field("is_error", Flag()),
)
_MESSAGE: Final = table(
    Field("role", Choice(("user", "assistant")), required=True),
    Field("content", Either((Text(), ListOf(_BLOCK))), required=True),
)
_TOOL: Final = table(
    Field("name", Text(256), required=True),
    Field("type", Text(64)),
    Field("description", Text()),
    Field("input_schema", AnyObject()),
)
_CHOICE: Final = table(
    Field("type", Choice(("auto", "any", "tool", "none")), required=True),
    Field("name", Text(256)),
    Field("disable_parallel_tool_use", Flag()),
)
_THINKING: Final = table(
    Field("type", Choice(("enabled", "disabled", "adaptive")), required=True),
    Field("budget_tokens", integer(0, 1 << 31)),
)
_FORMAT: Final = table(
    Field("type", Choice(("json_schema",)), required=True), Field("schema", AnyObject(), required=True)
)
_OUTPUT: Final = table(Field("format", _FORMAT))
_CONVERSATION: Final = (
    Field("messages", ListOf(_MESSAGE, MAX_MESSAGES, 1), required=True, help="the conversation"),
    Field("system", _PARTS, help="what holds for all of it"),
    Field("tools", ListOf(_TOOL, MAX_TOOLS), help="what the model may call"),
    Field("tool_choice", _CHOICE, help="whether it has to"),
    Field("thinking", _THINKING, help="whether it thinks first, and how many tokens of thoughts"),
    Field("chat_template_kwargs", AnyObject(), help="further values for the template"),
)
COUNTED: Final = table(Field("model", Text(), help="any"), _CONVERSATION)
FIELDS: Final = table(
    Field("model", Text(), help="any"),
    Field("max_tokens", integer(1, 1 << 31), "n_predict", required=True, help="tokens of the answer at most"),
    _CONVERSATION,
    SAMPLING,
    Field("stop_sequences", _STOPS, "stop", help="texts that end an answer"),
    Field("output_config", _OUTPUT, help="a JSON schema that the answer follows"),
    Field("stream", Flag(), help="send the answer as it comes, as server-sent events"),
)
