"""Anthropic's messages: conversions by themselves, and its own client against scripted answers."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import anthropic
import pytest
from scripted import scripted

from graphsched.serve.api.anthropic.conversation import chat_values
from graphsched.serve.api.anthropic.fields import FIELDS
from graphsched.serve.request import Busy
from graphsched.text.answer_stream import CallArguments, CallBegins
from graphsched.text.spoken import Text, Thought

HI: list[Any] = [{"role": "user", "content": "Hi"}]
WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "tells it",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = (
    [Thought("It is "), Thought("asked.")],
    [Text("Let me "), Text("look.")],
    [CallBegins(0, "toolu_1", "weather"), CallArguments(0, '{"city":')],
    [CallArguments(0, ' "Bern"}'), CallBegins(1, "toolu_2", "weather"), CallArguments(1, "{}")],
)


@pytest.fixture(scope="module")
def server() -> Iterator[SimpleNamespace]:
    with scripted() as found:
        yield found


@pytest.fixture(autouse=True)
def fresh(server: SimpleNamespace) -> None:
    server.script.said, server.script.reason, server.script.stopped_by = (
        ([Text("Hel")], [Text("lo")]),
        "eog",
        "",
    )


def ask(server: SimpleNamespace, **more: Any) -> Any:
    given = {"model": "x", "max_tokens": 9, "messages": HI}
    return server.anthropic.messages.create(**given | more)


def converted(**fields: Any) -> dict[str, Any]:
    return chat_values(FIELDS.read({"max_tokens": 9, "messages": HI} | fields))


def test_a_message(server: SimpleNamespace) -> None:
    sampling = {"temperature": 0.5, "top_k": 3, "top_p": 0.9}
    found = ask(server, extra_body=sampling, stop_sequences=["x"], system="Be kind.")
    assert [block.to_dict() for block in found.content] == [{"type": "text", "text": "Hello"}]
    assert (found.role, found.model, found.stop_reason, found.stop_sequence) == (
        "assistant",
        "tiny",
        "end_turn",
        None,
    )
    used = found.usage
    assert (used.input_tokens, used.cache_read_input_tokens, used.output_tokens) == (3, 4, 2)
    request = server.script.asked[-1]
    assert (request.n_predict, request.stop) == (9, ("x",))
    assert (request.sampling.temperature, request.sampling.top_k, request.sampling.top_p) == (0.5, 3, 0.9)
    assert [m["role"] for m in server.rendered[-1]] == ["system", "user"]


@pytest.mark.parametrize(
    ("reason", "stopped_by", "told"),
    [
        ("stop", "END", ("stop_sequence", "END")),
        ("limit", "", ("max_tokens", None)),
        ("context", "", ("model_context_window_exceeded", None)),
    ],
)
def test_why_it_stopped(server: SimpleNamespace, reason: str, stopped_by: str, told: Any) -> None:
    server.script.reason, server.script.stopped_by = reason, stopped_by
    found = ask(server)
    assert (found.stop_reason, found.stop_sequence) == told


def test_thoughts_text_and_calls(server: SimpleNamespace) -> None:
    server.script.said = CALL
    found = ask(server, tools=[WEATHER])
    thoughts, text, first, second = found.content
    assert (thoughts.type, thoughts.thinking, text.text) == ("thinking", "It is asked.", "Let me look.")
    assert (first.id, first.name, first.input, second.input) == ("toolu_1", "weather", {"city": "Bern"}, {})
    assert found.stop_reason == "tool_use"


def test_the_same_as_a_stream(server: SimpleNamespace) -> None:
    server.script.said = CALL
    whole = ask(server, tools=[WEATHER])
    with server.anthropic.messages.stream(model="x", max_tokens=9, messages=HI, tools=[WEATHER]) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert [b.to_dict() for b in streamed.content] == [b.to_dict() for b in whole.content]
    assert (streamed.stop_reason, streamed.usage.output_tokens) == ("tool_use", 2)
    assert (streamed.usage.input_tokens, streamed.usage.cache_read_input_tokens) == (3, 4)
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 4


def test_a_conversation_with_tools_as_templates_take_it() -> None:
    said = [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "Let me look."},
        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Bern"}},
        {"type": "tool_use", "id": "t2", "name": "weather", "input": {}},
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sunny"}]},
        {"type": "tool_result", "tool_use_id": "t2", "content": "no city", "is_error": True},
        {"type": "text", "text": "And now?"},
    ]
    turns = [*HI, {"role": "assistant", "content": said}, {"role": "user", "content": results}]
    found = converted(messages=turns, system=[{"type": "text", "text": "Be kind."}])["messages"]
    assert [m["role"] for m in found] == ["system", "user", "assistant", "tool", "tool", "user"]
    assert (found[2]["content"], found[2]["reasoning_content"]) == ("Let me look.", "Hm.")
    assert found[2]["tool_calls"][0] == {
        "id": "t1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Bern"}'},
    }
    assert [(m["tool_call_id"], m["content"]) for m in found[3:5]] == [
        ("t1", "sunny"),
        ("t2", "Error: no city"),
    ]
    assert found[5]["content"] == "And now?"


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "weather"}, {"type": "function", "function": {"name": "weather"}}),
    ],
)
def test_choices_of_tools(choice: Any, told: Any) -> None:
    found = converted(tools=[WEATHER], tool_choice=choice)
    assert found["tool_choice"] == told
    assert found["tools"][0]["function"]["parameters"] == WEATHER["input_schema"]
    assert "parallel_tool_calls" not in found
    one = converted(tools=[WEATHER], tool_choice=choice | {"disable_parallel_tool_use": True})
    assert one["parallel_tool_calls"] is False


def test_thinking_is_said_to_the_template_and_has_a_budget() -> None:
    on = converted(thinking={"type": "enabled", "budget_tokens": 64})
    assert on["chat_template_kwargs"]["enable_thinking"] is True
    assert on["reasoning_budget_tokens"] == 64
    assert converted(thinking={"type": "disabled"})["chat_template_kwargs"]["enable_thinking"] is False
    assert "chat_template_kwargs" not in converted()


def test_what_changes_with_each_request_of_claude_code_is_left_out() -> None:
    parts = ["x-anthropic-billing-header: cc_version=2; cch=a5145;", "You are Claude Code."]
    found = converted(system=[{"type": "text", "text": text} for text in parts])["messages"]
    assert found[0] == {"role": "system", "content": "You are Claude Code."}


def test_a_schema_of_the_answer() -> None:
    schema = {"type": "object"}
    found = converted(output_config={"format": {"type": "json_schema", "schema": schema}})
    assert found["response_format"]["json_schema"]["schema"] == schema


def test_tokens_are_counted(server: SimpleNamespace) -> None:
    n = server.anthropic.messages.count_tokens(model="x", messages=HI).input_tokens
    ask(server)
    assert n == len(server.script.asked[-1].prompt)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"max_tokens": None}, "max_tokens is missing"),
        ({"max_tokens": 0}, "max_tokens is 0, an integer from 1"),
        ({"messages": []}, "messages has 0 items, at least 1 are needed"),
        ({"messages": [{"role": "system", "content": "x"}]}, 'messages[0].role is "system", one of user'),
        ({"messages": [*HI, {"role": "assistant", "content": "x"}]}, "messages end with the assistant's"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            'messages[0].content[0].type is "image", which is not read here',
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
            "messages[0].content[0].tool_use_id is missing",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, 'tools[0].type is "web_search_20250305"'),
        ({"tools": [{"name": "w"}]}, "tools[0].input_schema is missing"),
        (
            {"tool_choice": {"type": "tool", "name": "w"}},
            'tool_choice.name is "w", which is no name in tools',
        ),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens is missing"),
    ],
)
def test_a_bad_field_is_one_sentence(server: SimpleNamespace, fields: Any, what: str) -> None:
    answer = server.http.post("/v1/messages", json={"max_tokens": 9, "messages": HI} | fields)
    assert answer.status_code == 400
    body = answer.json()
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert what in body["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_those_of_its_client(server: SimpleNamespace, stream: bool) -> None:
    server.script.said = [Busy("the queue of 2 requests is full", 3)]
    with pytest.raises(anthropic.RateLimitError, match="the queue of 2 requests is full"):
        ask(server, stream=stream)
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 1024 maximum"):
        ask(server, messages=[{"role": "user", "content": "Once upon a time " * 400}], stream=stream)


def test_an_error_in_a_stream_is_an_event(server: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    server.script.said = [[Text("Hel")], RuntimeError("secret")]
    with pytest.raises(anthropic.APIError, match="the server failed") as caught:
        list(ask(server, stream=True))
    assert "secret" not in str(caught.value)
    assert "secret" in caplog.text


def test_keys_are_those_of_its_client() -> None:
    with scripted(api_key=("k",)) as server:
        assert server.anthropic.messages.count_tokens(model="x", messages=HI).input_tokens
        with (
            anthropic.Anthropic(base_url=server.url, api_key="no", max_retries=0) as other,
            pytest.raises(anthropic.AuthenticationError, match="the API key is missing or wrong"),
        ):
            other.messages.count_tokens(model="x", messages=HI)
