"""Official clients against whole servers, of a model with attention and of a recurrent one."""

import asyncio
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
    assert answer.status_code >= 400
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
