"""The interface over HTTP by itself: a stand-in for the service says what it is told to."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
from http_servers import GREEDY, Running, clients

from graphsched.serve.api.served import Defaults
from graphsched.serve.http_options import ServerOptions
from graphsched.serve.request import Busy, Chosen, Done, Event, Likely, Piece, Request, RequestTimings
from graphsched.session.model import open_default_or

Events = Callable[[Request], AsyncGenerator[Event, None]]


class Fake:
    """A service that answers as it is told to, and notes what it was asked."""

    def __init__(self, said: Events) -> None:
        self.model = open_default_or(None)
        self.tokenizer, self.n_ctx, self.n_slots = self.model.tokenizer, 256, 4
        self._said = said
        self.asked: list[Request] = []
        self.ended = asyncio.Event()

    async def answers(self, request: Request) -> AsyncGenerator[Event, None]:
        self.asked.append(request)
        try:
            async for event in self._said(request):
                yield event
        finally:
            self.ended.set()


TIMINGS = RequestTimings(1.0, 7, 4, 30.0, 2, 20.0)


async def greeting(request: Request) -> AsyncGenerator[Event, None]:
    """Every answer is "Hello", in two pieces."""
    for text in ("Hel", "lo"):
        for i in range(request.n):
            chosen = (Chosen(403, -0.5, (Likely(403, -0.5), Likely(407, -math.inf))[: request.n_probs]),)
            yield Piece(i, text, (403,), chosen if request.n_probs else ())
            await asyncio.sleep(0)
    for i in range(request.n):
        yield Done(i, "eog", TIMINGS)


@contextmanager
def serving(said: Events = greeting, **options: Any) -> Iterator[Running]:
    """A server with such a service."""
    with clients(Fake(said), ServerOptions(alias="tiny,other", **options), Defaults(GREEDY)) as found:
        yield found


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving() as found:
        yield found


HI: list[Any] = [{"role": "user", "content": "Hi"}]


def test_health_and_models(server: Running) -> None:
    assert server.http.get("/health").json() == {"status": "ok"}
    assert [m.id for m in server.openai.models.list()] == ["tiny", "other"]
    assert server.openai.models.retrieve("other").id == "other"
    with pytest.raises(openai.NotFoundError, match="there is no model x, there is tiny, other"):
        server.openai.models.retrieve("x")


def test_a_chat(server: Running) -> None:
    answer = server.openai.chat.completions.create(model="any", messages=HI, seed=7, max_tokens=5)
    assert answer.choices[0].message.content == "Hello"
    assert (answer.choices[0].finish_reason, answer.model) == ("stop", "tiny")
    assert answer.usage.prompt_tokens_details.cached_tokens == 4
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 2)
    assert answer.timings["prompt_per_second"] == pytest.approx(100)
    asked = server.service.asked[-1]
    assert (asked.n_predict, asked.sampling.seed, asked.sampling.temperature) == (5, 7, 0.0)
    assert "Hi" in server.service.tokenizer.decode(asked.prompt)


def test_a_chat_as_a_stream(server: Running) -> None:
    chunks = list(
        server.openai.chat.completions.create(
            model="x", messages=HI, stream=True, n=2, stream_options={"include_usage": True}
        )
    )
    texts = [
        "".join(c.choices[0].delta.content or "" for c in chunks[:-1] if c.choices[0].index == i)
        for i in (0, 1)
    ]
    assert texts == ["Hello", "Hello"]
    assert [c.choices[0].finish_reason for c in chunks[-3:-1]] == ["stop", "stop"]
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 4)


def test_log_probabilities(server: Running) -> None:
    answer = server.openai.chat.completions.create(model="x", messages=HI, logprobs=True, top_logprobs=2)
    entries = answer.choices[0].logprobs.content
    assert [e.logprob for e in entries] == [-0.5, -0.5]
    assert entries[0].top_logprobs[1].logprob == -9999.0
    old = server.openai.completions.create(model="x", prompt="a", logprobs=1).choices[0].logprobs
    assert (old.token_logprobs, len(old.top_logprobs)) == ([-0.5, -0.5], 2)


def test_completions_of_several_prompts(server: Running) -> None:
    answer = server.openai.completions.create(model="x", prompt=["Lily", "Tom"], n=2, echo=True)
    assert [c.text for c in answer.choices] == ["LilyHello", "LilyHello", "TomHello", "TomHello"]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (14, 8)
    chunks = list(server.openai.completions.create(model="x", prompt=[[1, 403], [1, 407]], stream=True))
    assert {i: "".join(c.choices[0].text for c in chunks if c.choices[0].index == i) for i in (0, 1)} == {
        0: "Hello",
        1: "Hello",
    }


@pytest.mark.parametrize(
    ("path", "body", "param", "what"),
    [
        ("chat", {}, "messages", "messages is missing"),
        ("chat", {"messages": []}, "messages", "messages has 0 items, at least 1 are needed"),
        ("chat", {"messages": [{"role": "boss"}]}, "messages[0].role", 'is "boss", one of system, developer'),
        ("chat", {"messages": [{"role": "user"}]}, "messages[0].content", "messages[0].content is missing"),
        (
            "chat",
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
            'is "image_url", only text is read',
        ),
        ("chat", {"messages": HI, "temperature": "hot"}, "temperature", 'temperature is "hot", a number'),
        ("chat", {"messages": HI, "temperature": True}, "temperature", "temperature is true, a number"),
        ("chat", {"messages": HI, "top_p": 2}, "top_p", "top_p is 2, a number from 0 to 1 (off) is needed"),
        ("chat", {"messages": HI, "top_k": 1.5}, "top_k", "top_k is 1.5, an integer is needed"),
        (
            "chat",
            {"messages": HI, "stop": [1]},
            "stop",
            "stop is [1], a text or a list (a text each) is needed",
        ),
        ("chat", {"messages": HI, "n": 0}, "n", "n is 0, an integer from 1 to 64 is needed"),
        ("chat", {"messages": HI, "top_logprobs": 2}, "top_logprobs", "top_logprobs needs logprobs: true"),
        ("chat", {"messages": HI, "id_slot": 4}, "id_slot", "id_slot is 4, there are slots 0 to 3"),
        ("chat", {"messages": HI, "logit_bias": {"1": "x"}}, "logit_bias", "logit_bias has an entry"),
        ("", {"prompt": "a", "suffix": "b"}, "suffix", "suffix is given, text is only made behind a prompt"),
        ("", {"prompt": [1, 99999]}, "prompt", "prompt has token 99999, the vocabulary has tokens 0 to"),
        ("", {"prompt": []}, "prompt", "at least 1 are needed"),
    ],
)
def test_a_bad_field_is_one_sentence(server: Running, path: str, body: Any, param: str, what: str) -> None:
    name = "/v1/chat/completions" if path else "/v1/completions"
    answer = server.http.post(name, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert what in error["message"]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"{", "the body is no JSON: expecting property name enclosed in double quotes, line 1, column 2"),
        (b"[]", "the body is no JSON object"),
        (b'{"a": NaN}', "the body is no JSON: NaN is no number of JSON"),
        (b"\xff", "the body is no JSON: "),
        (b'{"a":' + b"[" * 100 + b"]" * 100 + b"}", "more than 64 objects and lists inside of each other"),
        (b'{"a":' + b"[" * 100_000, "more than 64 objects and lists inside of each other"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"a": ' + b"1" * 5000 + b"}", "the body is no JSON: "),
    ],
)
def test_a_bad_body_is_one_sentence(server: Running, body: bytes, what: str) -> None:
    answer = server.http.post("/v1/completions", content=body)
    assert answer.status_code == 400
    assert what in answer.json()["error"]["message"]


def test_a_prompt_that_does_not_fit(server: Running) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        server.openai.completions.create(model="x", prompt=[1] * 300)
    body = caught.value.response.json()["error"]
    assert (body["type"], body["n_prompt_tokens"], body["n_ctx"]) == ("exceed_context_size_error", 300, 256)


def test_paths_and_methods(server: Running) -> None:
    answer = server.http.get("/v2")
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
    answer = server.http.get("/v1/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert server.http.head("/health").status_code == 200


def test_a_large_body() -> None:
    with serving(body_limit=1) as server:
        answer = server.http.post("/v1/completions", content=b" " * (1 << 20) + b"{}")
        assert answer.status_code == 413
        parts = (b" " * (1 << 16) for _ in range(17))
        assert server.http.post("/v1/completions", content=parts).status_code == 413


def test_a_body_that_does_not_come() -> None:
    with (
        serving(timeout=0.1) as server,
        httpx.stream("POST", f"{server.url}/v1/completions", content=_slow()) as answer,
    ):
        assert answer.status_code == 408


def _slow() -> Iterator[bytes]:
    yield b"{"
    time.sleep(0.5)
    yield b"}"


def test_keys(tmp_path: Any) -> None:
    file = tmp_path / "keys"
    file.write_text("# of tests\nthird\n\n")
    with serving(api_key=("first,second",), api_key_file=file) as server:
        get = server.http.get
        assert get("/v1/models").status_code == 401
        assert get("/v1/models").headers["www-authenticate"] == "Bearer"
        assert get("/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 401
        for key in ("first", "second", "third"):
            assert get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
            assert get("/v1/models", headers={"X-Api-Key": key}).status_code == 200
        assert get("/health").status_code == 200
        with pytest.raises(openai.AuthenticationError):
            server.openai.models.list()


def test_strange_hosts_and_origins(server: Running) -> None:
    get = server.http.get
    assert get("/health", headers={"Host": "evil.example:80"}).status_code == 403
    assert get("/health", headers={"Host": "localhost:8080"}).status_code == 200
    assert get("/health", headers={"Host": "[::1]:8080"}).status_code == 200
    assert get("/health", headers={"Origin": "https://evil.example"}).status_code == 403
    assert get("/health", headers={"Origin": server.url}).status_code == 200
    assert "access-control-allow-origin" not in get("/health").headers


def test_origins_that_are_allowed() -> None:
    with serving(cors=("https://my.example",)) as server:
        found = server.http.get("/health", headers={"Origin": "https://my.example"})
        assert (found.status_code, found.headers["access-control-allow-origin"]) == (
            200,
            "https://my.example",
        )
        assert server.http.get("/health", headers={"Origin": "https://evil.example"}).status_code == 403


async def busy(request: Request) -> AsyncGenerator[Event, None]:
    raise Busy("the queue of 2 requests is full", 3)
    yield Done(0, "eog", TIMINGS)


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_queue(stream: bool) -> None:
    with serving(busy) as server:
        with pytest.raises(openai.RateLimitError, match="the queue of 2 requests is full") as caught:
            server.openai.completions.create(model="x", prompt="a", stream=stream)
        assert caught.value.response.headers["retry-after"] == "3"


async def failing(request: Request) -> AsyncGenerator[Event, None]:
    yield Piece(0, "Hel", (403,))
    raise RuntimeError("secret")


def test_a_bug_is_told_without_details(caplog: pytest.LogCaptureFixture) -> None:
    with serving(failing) as server:
        with pytest.raises(openai.InternalServerError) as caught:
            server.openai.chat.completions.create(model="x", messages=HI)
        assert "secret" not in str(caught.value)
        with pytest.raises(openai.APIError, match="the server failed"):
            list(server.openai.chat.completions.create(model="x", messages=HI, stream=True))
    assert "secret" in caplog.text


async def endless(request: Request) -> AsyncGenerator[Event, None]:
    yield Piece(0, "Hel", (403,))
    await asyncio.Event().wait()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_ends_its_request(stream: bool) -> None:
    with serving(endless) as server:
        body = {"messages": HI, "stream": stream}
        if stream:
            with server.http.stream("POST", "/v1/chat/completions", json=body) as answer:
                assert next(answer.iter_lines()).startswith("data: ")
        else:
            with pytest.raises(httpx.ReadTimeout):
                server.http.post("/v1/chat/completions", json=body, timeout=0.3)
        until(server.service.ended.is_set)


def until(holds: Callable[[], bool]) -> None:
    """Waits until something holds."""
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_pings_of_a_silent_stream() -> None:
    with serving(endless, sse_ping_interval=0.05) as server:
        body = {"messages": HI, "stream": True}
        with server.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            assert next(line for line in lines if line.startswith(":")) == ": ping"


TOOL: dict[str, Any] = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("more", "param", "what"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].function", "tools[0].function is missing"),
        ({"tools": [TOOL], "tool_choice": "must"}, "tool_choice", 'tool_choice is "must", one of auto, none'),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice.function.name",
            "is x, which is no name in tools",
        ),
        ({"tool_choice": "required"}, "tool_choice", "tool_choice is required, tools are needed"),
        ({"response_format": {"type": "xml"}}, "response_format.type", 'is "xml", one of text, json_object'),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema.schema",
            "response_format.json_schema.schema is missing",
        ),
        (
            {"grammar": 'root ::= "a"', "json_schema": {}},
            "grammar",
            "grammar and json_schema are both given, an answer is held to one of them",
        ),
        ({"grammar": "x" * 70_000}, "grammar", "grammar has 70000 characters, 65536 are possible"),
    ],
)
def test_what_an_answer_is_held_to_is_one_sentence(server: Running, more: Any, param: str, what: str) -> None:
    answer = server.http.post("/v1/chat/completions", json={"messages": HI, **more})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert what in error["message"]


def test_no_tools_and_any_text_are_nothing_to_be_held_to(server: Running) -> None:
    body = {"messages": HI, "tools": [TOOL], "tool_choice": "none", "response_format": {"type": "text"}}
    assert server.http.post("/v1/chat/completions", json=body).status_code == 200
