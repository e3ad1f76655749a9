"""Official clients against whole servers, of a model with attention and of a recurrent one."""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import anthropic
import httpx
import openai
import pytest
from http_servers import GREEDY, Running, serving_http
from serving import opened
from test_serve_command import needs_signals, started
from waiting import until

N: Final = 16
OPTIONS: Final[dict[str, Any]] = {"deterministic": True, "n_ctx": 1024}
MODELS: Final = {"attention": None, "recurrent": "qwen35moe"}
HI: Final[list[Any]] = [{"role": "user", "content": "Tell me about Lily."}]


@pytest.fixture(scope="module", params=MODELS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("slots")
    with serving_http(MODELS[request.param], service={"slot_save_path": folder}, **OPTIONS) as found:
        yield found


@pytest.fixture(scope="module")
def claude(server: Running) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="k", max_retries=0, timeout=60) as found:
        yield found


def rendered(server: Running, messages: list[Any]) -> str:
    found: str = server.http.post("/apply-template", json={"messages": messages}).json()["prompt"]
    return found


@pytest.fixture(scope="module")
def alone(server: Running) -> str:
    """What the model answers by itself, without a server."""
    name = MODELS["recurrent"] if "qwen" in server.service.model.name else None
    session = opened(name, **OPTIONS | {"n_parallel": 1})
    try:
        tokenizer = session.tokenizer
        ids = tokenizer.encode(rendered(server, HI), add_special=False, parse_special=True)
        ids = ids if ids[:1] == [tokenizer.bos] else [tokenizer.bos or 0, *ids]
        return "".join(session.generate(ids, n_predict=N, sampling=GREEDY))
    finally:
        session.close()


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content)


def test_all_dialects_say_what_the_model_says(
    server: Running, claude: anthropic.Anthropic, alone: str
) -> None:
    message = claude.messages.create(model="x", max_tokens=N, messages=HI)
    assert text_of(message) == alone
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", N)
    response = server.openai.responses.create(model="x", input="Tell me about Lily.", max_output_tokens=N)
    assert response.output_text == alone
    chat = server.openai.chat.completions.create(model="x", messages=HI, max_tokens=N)
    assert chat.choices[0].message.content == alone


def test_streams_say_the_same(server: Running, claude: anthropic.Anthropic, alone: str) -> None:
    with claude.messages.stream(model="x", max_tokens=N, messages=HI) as stream:
        assert "".join(stream.text_stream) == alone
        message = stream.get_final_message()
    n_prompt = message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
    assert claude.messages.count_tokens(model="x", messages=HI).input_tokens == n_prompt
    asked = {"model": "x", "input": "Tell me about Lily.", "max_output_tokens": N}
    with server.openai.responses.stream(**asked) as events:
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == alone


def test_many_at_once_of_both_clients(server: Running, alone: str) -> None:
    async def main() -> None:
        async with (
            anthropic.AsyncAnthropic(base_url=server.url, api_key="k", max_retries=0) as claude,
            openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as gpt,
        ):

            async def streamed() -> str:
                async with claude.messages.stream(model="x", max_tokens=N, messages=HI) as stream:
                    return "".join([text async for text in stream.text_stream])

            async def message() -> str:
                return text_of(await claude.messages.create(model="x", max_tokens=N, messages=HI))

            async def response() -> str:
                asked: Any = {"model": "x", "input": "Tell me about Lily.", "max_output_tokens": N}
                found: Any = await gpt.responses.create(**asked)
                return str(found.output_text)

            each = [ask() for ask in (streamed, message, response) for _ in range(3)]
            assert await asyncio.gather(*each) == [alone] * 9

    asyncio.run(asyncio.wait_for(main(), 120))


CITY: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Bern", "Oslo"]},
        "days": {"type": "integer", "maximum": 9, "minimum": 1},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
OF_CLAUDE: Final[Any] = {"name": "weather", "description": "tells it", "input_schema": CITY}
OF_RESPONSES: Final[Any] = {"type": "function", "name": "weather", "parameters": CITY, "strict": True}
OF_CHATS: Final[Any] = {"type": "function", "function": {"name": "weather", "parameters": CITY}}


def follows(arguments: Any) -> bool:
    """Whether arguments are those of the schema."""
    return arguments.keys() == CITY["properties"].keys() and arguments["city"] in ("Bern", "Oslo")


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_a_tool_is_called_and_its_result_is_read(
    server: Running, claude: anthropic.Anthropic, choice: Any
) -> None:
    other: Any = {"name": "other", "input_schema": CITY}
    choice = choice | {"disable_parallel_tool_use": True}
    tools = [OF_CLAUDE, other] if "name" in choice else [OF_CLAUDE]
    asked: Any = {"model": "x", "max_tokens": 200, "messages": HI, "tools": tools, "tool_choice": choice}
    message: Any = claude.messages.create(**asked)
    (call,) = message.content
    assert (message.stop_reason, call.type, call.name) == ("tool_use", "tool_use", "weather")
    assert follows(call.input)
    with claude.messages.stream(**asked) as stream:
        deltas = [event.partial_json for event in stream if event.type == "input_json"]
        final: Any = stream.get_final_message()
    assert len(deltas) > 1
    assert json.loads("".join(deltas)) == final.content[0].input == call.input
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    turns = [*HI, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    auto: Any = {"messages": turns, "max_tokens": 4, "tool_choice": {"type": "auto"}}
    cached = claude.messages.create(**asked | auto).usage.cache_read_input_tokens or 0
    used = message.usage
    assert cached >= used.input_tokens + (used.cache_read_input_tokens or 0) - 1


def test_tools_of_openais_interfaces(server: Running) -> None:
    asked: Any = {"model": "x", "messages": HI, "tools": [OF_CHATS], "tool_choice": "required"}
    chat = server.openai.chat.completions.create(**asked, max_tokens=300, parallel_tool_calls=False)
    (call,) = chat.choices[0].message.tool_calls
    assert chat.choices[0].finish_reason == "tool_calls"
    assert follows(json.loads(call.function.arguments))
    given: Any = {"tools": [OF_RESPONSES], "tool_choice": {"type": "function", "name": "weather"}}
    response = server.openai.responses.create(model="x", input="Hi", max_output_tokens=300, **given)
    (item,) = response.output
    assert (item.type, item.name) == ("function_call", "weather")
    assert follows(json.loads(item.arguments))


def test_tools_that_are_not_called_change_nothing_of_the_form(
    server: Running, claude: anthropic.Anthropic
) -> None:
    message: Any = claude.messages.create(model="x", max_tokens=N, messages=HI, tools=[OF_CLAUDE])
    assert [block.type for block in message.content] == ["text"]
    n = claude.messages.count_tokens(model="x", messages=HI, tools=[OF_CLAUDE]).input_tokens
    assert n == message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)


def test_answers_follow_a_schema(server: Running, claude: anthropic.Anthropic) -> None:
    form: Any = {"format": {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}}
    response = server.openai.responses.create(model="x", input="Hi", max_output_tokens=200, text=form)
    assert follows(json.loads(response.output_text))
    body = {"output_config": {"format": {"type": "json_schema", "schema": CITY}}}
    message = claude.messages.create(model="x", max_tokens=200, messages=HI, extra_body=body)
    assert follows(json.loads(text_of(message)))


@pytest.mark.parametrize(
    "held", [{"grammar": 'root ::= "Lily" | "Tom"'}, {"json_schema": {"enum": ["Lily"]}}]
)
def test_completions_follow_grammars(server: Running, held: Any) -> None:
    found = server.http.post("/completion", json={"prompt": "Her name was", "n_predict": 20} | held).json()
    assert found["content"] in ("Lily", "Tom", '"Lily"')
    assert found["stop_type"] == "eos"
    bad = server.http.post("/completion", json={"prompt": "Hi", "grammar": "root ::= ("})
    assert bad.status_code == 400
    assert bad.json()["error"]["message"].startswith("the grammar cannot be used")


def test_what_no_grammar_can_follow_is_one_sentence(server: Running, claude: anthropic.Anthropic) -> None:
    bad: Any = {"name": "w", "input_schema": {"type": "nothing"}}
    asked: Any = {"model": "x", "max_tokens": 4, "messages": HI, "tools": [bad]}
    with pytest.raises(anthropic.BadRequestError, match="cannot be used"):
        claude.messages.create(**asked, tool_choice={"type": "any"})
    assert claude.messages.create(**asked).role == "assistant"  # it may be called, and need not
    form: Any = {"format": {"type": "json_schema", "name": "c", "schema": CITY}}
    with pytest.raises(openai.BadRequestError, match="and tools are both given"):
        server.openai.responses.create(model="x", input="Hi", text=form, tools=[OF_RESPONSES])


def is_idle(server: Running) -> bool:
    return not any(slot.is_processing for slot in server.service.slots())


def test_whoever_goes_away_frees_the_slot(server: Running, claude: anthropic.Anthropic) -> None:
    endless: Any = {"ignore_eos": True, "logit_bias": {str(server.service.tokenizer.eos): -100}}
    with claude.messages.stream(model="x", max_tokens=900, messages=HI, extra_body=endless) as stream:
        next(iter(stream.text_stream))
        assert not is_idle(server)
    until(lambda: is_idle(server))
    with pytest.raises(anthropic.APITimeoutError):
        claude.with_options(timeout=0.05).messages.create(
            model="x", max_tokens=900, messages=HI, extra_body=endless
        )
    until(lambda: is_idle(server))


def test_ten_turns_read_what_is_new(server: Running, claude: anthropic.Anthropic) -> None:
    """Digits are tokens of their own, so that the template gives back the tokens that were chosen."""
    encode = server.service.tokenizer.encode
    digits = {str(encode(f"x{d}", add_special=False)[-1]): 100 for d in range(10)}
    messages: list[Any] = []
    before = 0
    for turn in range(10):
        messages.append({"role": "user", "content": f"Now tell me of day {turn}, please."})
        asked: Any = {"model": "x", "max_tokens": 8, "messages": messages}
        if turn % 2:
            answer = claude.messages.create(**asked, extra_body={"logit_bias": digits})
            used, text = answer.usage, text_of(answer)
            cached = used.cache_read_input_tokens or 0
            n_prompt, n_said = used.input_tokens + cached, used.output_tokens
        else:
            chat = server.openai.chat.completions.create(**asked, logit_bias=digits)
            use, text = chat.usage, chat.choices[0].message.content
            n_prompt, n_said = use.prompt_tokens, use.completion_tokens
            cached = use.prompt_tokens_details.cached_tokens
        if turn:
            assert n_prompt - cached == n_prompt - before + 1  # the last chosen token was never read
        before = n_prompt + n_said
        messages.append({"role": "assistant", "content": text})


def full(part: Path) -> Any:
    """A file on a disk that is full."""
    return open("/dev/full", "w+b", buffering=0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_told_and_the_next_request_works(
    server: Running, claude: anthropic.Anthropic, monkeypatch: pytest.MonkeyPatch, alone: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("graphsched.gguf.atomic._nameless", full)
        answer = server.http.post("/slots/0?action=save", json={"filename": "chat"})
    assert answer.status_code == 507
    assert "no space left on device" in answer.json()["error"]["message"]
    assert text_of(claude.messages.create(model="x", max_tokens=N, messages=HI)) == alone
    assert server.http.post("/slots/0?action=save", json={"filename": "chat"}).status_code == 200


@needs_signals
def test_what_was_saved_outlives_a_kill(tmp_path: Path) -> None:
    args = ("--slot-save-path", str(tmp_path), "--temp", "0", "-np", "2")
    body: dict[str, Any] = {"prompt": "Once upon a time, in a big house", "n_predict": 8, "id_slot": 1}
    with started(*args) as (process, url, _), httpx.Client(base_url=url, timeout=60) as http:
        said = http.post("/completion", json=body).json()
        assert http.post("/slots/1?action=save", json={"filename": "house"}).json()["n_saved"] > 0
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert os.listdir(tmp_path) == ["house"]
    with started(*args) as (process, url, _), httpx.Client(base_url=url, timeout=60) as http:
        assert http.post("/slots/1?action=restore", json={"filename": "house"}).json()["n_restored"] > 0
        again = http.post("/completion", json=body).json()
        assert again["content"] == said["content"]
        assert (again["timings"]["prompt_n"], said["timings"]["cache_n"]) == (1, 0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


THINKS: Final = (
    "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<think>{% endif %}{# </think> #}"
)


def test_thoughts_have_a_budget() -> None:
    budget: Any = {"type": "enabled", "budget_tokens": 6}
    with (
        serving_http(chat={"chat_template": THINKS}) as server,
        anthropic.Anthropic(base_url=server.url, api_key="k", max_retries=0, timeout=60) as claude,
    ):
        message: Any = claude.messages.create(model="x", max_tokens=40, messages=HI, thinking=budget)
        thoughts, text = message.content
        assert (thoughts.type, text.type) == ("thinking", "text")
        assert 0 < len(server.service.tokenizer.encode(thoughts.thinking, add_special=False)) <= 8
        assert text.text
        assert "think" not in text.text + thoughts.thinking
        asked: Any = {"model": "x", "input": "Tell me about Lily.", "max_output_tokens": 4}
        response: Any = server.openai.responses.create(**asked)
        assert [item.type for item in response.output] == ["reasoning"]
        assert response.usage.output_tokens_details.reasoning_tokens == 4
        body: Any = {"output_config": {"format": {"type": "json_schema", "schema": CITY}}}
        message = claude.messages.create(
            model="x", max_tokens=200, messages=HI, thinking=budget, extra_body=body
        )
        thoughts, text = message.content
        assert (thoughts.type, follows(json.loads(text.text))) == ("thinking", True)
