"""The fields of OpenAI's chats, with llama.cpp's extensions, and the conversation that they make."""

from collections.abc import Mapping
from typing import Any, Final

from graphsched.serve.api.failures import refused
from graphsched.serve.api.fields import Field, table
from graphsched.serve.api.generation import GENERATION, LIMIT, MAX_ANSWERS
from graphsched.serve.api.kinds import AnyObject, Choice, Flag, integer
from graphsched.serve.api.messages import MESSAGES, plain_messages
from graphsched.serve.api.structure import RESPONSE_FORMAT, TOOLS, tools_of
from graphsched.serve.api.turns import Conversation
from graphsched.text.chat_templates import budget_values

MAX_TOP: Final = 20
EFFORTS: Final = Choice(("none", "minimal", "low", "medium", "high", "xhigh", "max"))
_FORMATS: Final = Choice(("auto", "none", "deepseek", "deepseek-legacy"))
_BUDGET: Final = integer(-1, 1 << 31)
TEMPLATE_FIELDS: Final = (
    Field("chat_template_kwargs", AnyObject(), help="further values for the template"),
    Field("reasoning_effort", EFFORTS, help="how much the template has the model think, none for not at all"),
)
FIELDS: Final = table(
    MESSAGES,
    GENERATION,
    Field("max_completion_tokens", LIMIT, "n_predict", help="tokens of an answer, thoughts included"),
    Field("n", integer(1, MAX_ANSWERS), help="answers"),
    Field("logprobs", Flag(), help="tell the log probability of each token"),
    Field("top_logprobs", integer(0, MAX_TOP), help="and so many of the likeliest ones"),
    Field("stream_options", table(Field("include_usage", Flag())), help="usage at the end of a stream"),
    TEMPLATE_FIELDS,
    TOOLS,
    RESPONSE_FORMAT,
    Field("reasoning_format", _FORMATS, help="none leaves thoughts in the text"),
    Field(
        "thinking_budget_tokens",
        _BUDGET,
        "reasoning_budget_tokens",
        help="tokens of thoughts, -1 for any number",
    ),
    Field("reasoning_budget_tokens", _BUDGET, help="the same"),
)
TEMPLATE: Final = table(MESSAGES, TEMPLATE_FIELDS, TOOLS)


def conversation(v: Mapping[str, Any]) -> Conversation:
    """What is to be answered. Failure for values that do not go together."""
    if v.get("top_logprobs") and not v.get("logprobs"):
        raise refused("top_logprobs", "needs logprobs: true")
    return Conversation(
        plain_messages(v["messages"]),
        v,
        v.get("n", 1),
        max(1, v.get("top_logprobs", 0)) if v.get("logprobs") else 0,
        template_values(v),
        v.get("reasoning_budget_tokens"),
        tools_of(v),
        v.get("reasoning_format", "auto") != "none",
    )


def template_values(v: Mapping[str, Any]) -> dict[str, Any]:
    """What the template is told; a value that is given by name counts."""
    effort = v.get("reasoning_effort")
    told = budget_values(0) if effort == "none" else {"reasoning_effort": effort} if effort else {}
    return told | dict(v.get("chat_template_kwargs", {}))
