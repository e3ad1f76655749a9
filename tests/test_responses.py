"""OpenAI's responses: conversions by themselves, and its own client against scripted answers."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from scripted import scripted

from graphsched.serve.api.kept_responses import Kept, Stored
from graphsched.serve.api.responses.conversation import asked, chat_values
from graphsched.serve.api.responses.fields import FIELDS
from graphsched.serve.request import Busy
from graphsched.text.answer_stream import CallArguments, CallBegins
from graphsched.text.spoken import Text, Thought

WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
CALL = (
    [Thought("It is asked.")],
    [Text("Let me "), Text("look.")],
    [CallBegins(0, "call_1", "weather"), CallArguments(0, '{"city":')],
    [CallArguments(0, ' "Bern"}')],
)


@pytest.fixture(scope="module")
def server() -> Iterator[SimpleNamespace]:
    with scripted() as found:
        yield found


@pytest.fixture(autouse=True)
def fresh(server: SimpleNamespace) -> None:
    server.script.said, server.script.reason = ([Text("Hel")], [Text("lo")]), "eog"


def ask(server: SimpleNamespace, **more: Any) -> Any:
    return server.openai.responses.create(**{"model": "x", "input": "Hi"} | more)


def converted(**fields: Any) -> dict[str, Any]:
    return chat_values(FIELDS.read({"input": "Hi"} | fields))


def test_a_response(server: SimpleNamespace) -> None:
    found = ask(server, instructions="Be kind.", max_output_tokens=9, temperature=0.5, top_p=0.9)
    assert (found.output_text, found.status, found.model) == ("Hello", "completed", "tiny")
    used = found.usage
    assert (used.input_tokens, used.input_tokens_details.cached_tokens, used.output_tokens) == (7, 4, 2)
    request = server.script.asked[-1]
    assert (request.n_predict, request.sampling.temperature, request.sampling.top_p) == (9, 0.5, 0.9)
    assert [m["content"] for m in server.rendered[-1]] == ["Be kind.", "Hi"]


def test_an_answer_that_was_cut_off(server: SimpleNamespace) -> None:
    server.script.reason = "limit"
    found = ask(server)
    assert (found.status, found.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert [event.type for event in ask(server, stream=True)][-1] == "response.incomplete"


def test_thoughts_text_and_calls(server: SimpleNamespace) -> None:
    server.script.said = CALL
    found = ask(server, tools=[WEATHER])
    thoughts, text, call = found.output
    assert (thoughts.type, thoughts.content[0].text) == ("reasoning", "It is asked.")
    assert (text.content[0].text, found.output_text) == ("Let me look.", "Let me look.")
    assert (call.call_id, call.name, call.arguments) == ("call_1", "weather", '{"city": "Bern"}')
    assert found.usage.output_tokens_details.reasoning_tokens == 1


def test_the_same_as_a_stream(server: SimpleNamespace) -> None:
    server.script.said = CALL
    whole = ask(server, tools=[WEATHER])
    with server.openai.responses.stream(model="x", input="Hi", tools=[WEATHER]) as stream:
        events = list(stream)
        last = stream.get_final_response()
    plain = {"created_at", "id", "output", "store"}
    assert last.to_dict().keys() - plain == whole.to_dict().keys() - plain
    assert last.output_text == whole.output_text
    assert [item.type for item in last.output] == ["reasoning", "message", "function_call"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    for item in ("output_text", "reasoning_text", "function_call_arguments"):
        assert kinds.count(f"response.{item}.done") == 1
    deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert deltas == ['{"city":', ' "Bern"}']


def test_a_conversation_goes_on(server: SimpleNamespace) -> None:
    server.script.said = CALL
    first = ask(server, tools=[WEATHER], instructions="Be kind.")
    server.script.said = [[Text("Sunny.")]]
    result: Any = [{"type": "function_call_output", "call_id": "call_1", "output": "sun"}]
    second = ask(server, input=result, previous_response_id=first.id)
    ask(server, input="Thanks", previous_response_id=second.id)
    messages = server.rendered[-1]
    assert [m["role"] for m in messages] == ["user", "assistant", "tool", "assistant", "user"]
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == {"city": "Bern"}
    assert messages[1]["reasoning_content"] == "It is asked."
    assert (messages[2]["tool_call_id"], messages[3]["content"]) == ("call_1", "Sunny.")
    assert server.openai.responses.retrieve(second.id).output_text == "Sunny."
    server.openai.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError, match=f"there is no response {second.id}"):
        ask(server, previous_response_id=second.id)


def test_what_is_not_to_be_stored_is_not(server: SimpleNamespace) -> None:
    found = ask(server, store=False)
    with pytest.raises(openai.NotFoundError):
        server.openai.responses.retrieve(found.id)


def test_the_store_is_bounded() -> None:
    kept = Kept(2, 1000)
    for id in "abc":
        kept.put(Stored({"id": id}, ()))
    assert [bool(kept.get(id)) for id in "abc"] == [False, True, True]
    kept.get("b")
    kept.put(Stored({"id": "d"}, ()))
    assert [bool(kept.get(id)) for id in "bcd"] == [True, False, True]
    kept.put(Stored({"id": "e", "text": "x" * 2000}, ()))
    assert len(kept) == 0
    kept.put(Stored({"id": "f"}, ()))
    assert kept.get("f")


def test_items_as_templates_take_them() -> None:
    items: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "1", "name": "weather", "arguments": "{}"},
        {"type": "function_call", "call_id": "2", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "sun"},
        {"type": "function_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "rain"}]},
        {"type": "function_call", "call_id": "3", "name": "weather", "arguments": "{}"},
    ]
    found = asked(items)
    assert [m["role"] for m in found] == ["developer", "user", "assistant", "tool", "tool", "assistant"]
    assert (found[2]["content"], found[2]["reasoning_content"]) == ("I look.", "Hm.")
    assert [call["id"] for call in found[2]["tool_calls"]] == ["1", "2"]
    assert (found[4]["content"], found[5]["tool_calls"][0]["id"]) == ("rain", "3")


def test_tools_formats_and_effort() -> None:
    found = converted(tools=[WEATHER], tool_choice={"type": "function", "name": "weather"})
    assert found["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert found["tools"][0]["function"] == {k: v for k, v in WEATHER.items() if k != "type"}
    assert converted(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}
    schema = {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True}
    assert converted(text={"format": schema})["response_format"]["json_schema"]["schema"] == {
        "type": "object"
    }
    assert converted(reasoning={"effort": "low"})["reasoning_effort"] == "low"


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"input": None}, "input is missing"),
        ({"input": ""}, "input is empty, a text or items are needed"),
        ({"input": [{"type": "item_reference"}]}, 'input[0].type is "item_reference", which is not read'),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            'input[0].content[0].type is "input_image", only text is read',
        ),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id is missing"),
        ({"tools": [{"type": "web_search"}]}, 'tools[0].type is "web_search", only functions of the client'),
        ({"tool_choice": {"type": "function", "name": "w"}}, 'tool_choice.name is "w", which is no name'),
        ({"truncation": "auto"}, "truncation is auto, conversations are never shortened"),
        ({"background": True}, "background is true, answers are made while their client waits"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema is missing"),
    ],
)
def test_a_bad_field_is_one_sentence(server: SimpleNamespace, fields: Any, what: str) -> None:
    answer = server.http.post("/v1/responses", json={"input": "Hi"} | fields)
    assert answer.status_code == 400
    assert what in answer.json()["error"]["message"]


def test_errors(server: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    server.script.said = [Busy("the queue of 2 requests is full", 3)]
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError, match="the queue of 2 requests is full"):
            ask(server, stream=stream)
    server.script.said = [[Text("Hel")], RuntimeError("secret")]
    last = list(ask(server, stream=True))[-1]
    assert (last.type, last.code) == ("error", "server_error")
    assert "secret" not in last.message
    assert "secret" in caplog.text
