"""The server with a real service on the embedded model: OpenAI's client, llama.cpp's endpoints, slots, metrics."""

import asyncio
import base64
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from http_servers import GREEDY, Running, serving_http
from serving import TEXT

from graphsched.session.session import load

CHAT: list[Any] = [{"role": "user", "content": "Tell me about Lily."}]
N = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slots")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Running]:
    options = {"alias": "stories", "metrics": True}
    with serving_http(server=options, service={"slot_save_path": folder}, deterministic=True) as found:
        yield found


@pytest.fixture(scope="module")
def alone() -> str:
    """What `run` makes of the text."""
    session = load(n_ctx=512, n_threads=2, n_ubatch=64, deterministic=True)
    try:
        return "".join(session.generate(TEXT, n_predict=N, sampling=GREEDY))
    finally:
        session.close()


def test_greedy_text_is_that_of_run(server: Running, alone: str) -> None:
    create = server.openai.completions.create
    whole = create(model="stories", prompt=TEXT, max_tokens=N)
    assert whole.choices[0].text == alone
    chunks = create(model="stories", prompt=TEXT, max_tokens=N, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == alone
    own = server.http.post("/completion", json={"prompt": TEXT, "n_predict": N}).json()
    assert (own["content"], own["stop_type"], own["tokens_predicted"]) == (alone, "limit", N)


def test_what_was_read_is_told(server: Running) -> None:
    body = {"prompt": "A long beginning that is read once only", "n_predict": 2, "id_slot": 1}
    first, second = (server.http.post("/completion", json=body).json() for _ in range(2))
    n = first["tokens_evaluated"]
    assert first["timings"]["cache_n"] + first["timings"]["prompt_n"] == n
    assert (second["timings"]["cache_n"], second["timings"]["prompt_n"]) == (n - 1, 1)
    fresh = server.http.post("/completion", json=body | {"cache_prompt": False}).json()
    assert fresh["timings"]["cache_n"] == 0
    usage = server.openai.completions.create(model="s", prompt=body["prompt"], max_tokens=2).usage
    assert usage.prompt_tokens_details.cached_tokens >= 0
    assert (usage.prompt_tokens, usage.completion_tokens) == (n, 2)


def test_a_chat_of_several_turns_reads_what_is_new(server: Running) -> None:
    messages, create = list(CHAT), server.openai.chat.completions.create
    before = 0
    for turn in range(3):
        answer = create(model="s", messages=messages, max_tokens=8)
        if turn:
            assert answer.usage.prompt_tokens_details.cached_tokens >= before
        before = answer.usage.prompt_tokens
        messages += [
            {"role": "assistant", "content": answer.choices[0].message.content},
            {"role": "user", "content": "And then?"},
        ]


def test_the_seed_decides(server: Running) -> None:
    def text(seed: int) -> str:
        create = server.openai.completions.create
        return create(model="s", prompt=TEXT, max_tokens=N, temperature=1.5, seed=seed).choices[0].text

    assert text(7) == text(7)
    assert len({text(seed) for seed in range(4)}) > 1


def test_several_answers(server: Running) -> None:
    create = server.openai.chat.completions.create
    answer = create(model="s", messages=CHAT, n=3, temperature=1.5, seed=3, max_tokens=N)
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) > 1
    assert answer.usage.completion_tokens <= 3 * N
    chunks = list(create(model="s", messages=CHAT, n=3, temperature=1.5, seed=3, max_tokens=N, stream=True))
    assert [
        "".join(c.choices[0].delta.content or "" for c in chunks if c.choices[0].index == i) for i in range(3)
    ] == texts


def test_stop_texts_across_tokens(server: Running, alone: str) -> None:
    stop = alone[10:17]
    answer = server.openai.completions.create(model="s", prompt=TEXT, max_tokens=N, stop=[stop, "never"])
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (alone[: alone.index(stop)], "stop")
    own = server.http.post("/completion", json={"prompt": TEXT, "n_predict": N, "stop": stop}).json()
    assert (own["stop_type"], own["stopping_word"]) == ("word", stop)


def test_log_probabilities_are_those_of_the_model(server: Running) -> None:
    create = server.openai.chat.completions.create
    entries = (
        create(model="s", messages=CHAT, max_tokens=4, logprobs=True, top_logprobs=3).choices[0].logprobs
    )
    assert entries is not None
    assert len(entries.content or ()) == 4
    for entry in entries.content or ():
        assert entry.logprob == max(top.logprob for top in entry.top_logprobs) <= 0
        assert sum(np.exp(top.logprob) for top in entry.top_logprobs) <= 1 + 1e-6
    chunks = create(model="s", messages=CHAT, max_tokens=4, logprobs=True, stream=True)
    told = [e.logprob for c in chunks if c.choices[0].logprobs for e in c.choices[0].logprobs.content or ()]
    assert told == [entry.logprob for entry in entries.content or ()]


def test_the_asynchronous_client_and_a_cancelled_one(server: Running) -> None:
    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0) as client:
            create = client.chat.completions.create
            both = await asyncio.gather(*(create(model="s", messages=CHAT, max_tokens=8) for _ in range(6)))
            assert len({answer.choices[0].message.content for answer in both}) == 1
            endless = {"ignore_eos": True}
            async with await create(model="s", messages=CHAT, stream=True, extra_body=endless) as stream:
                async for _ in stream:
                    break
            with pytest.raises(openai.APITimeoutError):
                await client.with_options(timeout=0.05).chat.completions.create(
                    model="s", messages=CHAT, max_tokens=400, extra_body=endless
                )
            while any(slot["is_processing"] for slot in server.http.get("/slots").json()):
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_embeddings(server: Running) -> None:
    found = server.openai.embeddings.create(model="s", input=["Lily went out", "Lily went out", "Tom"])
    vectors = np.array([entry.embedding for entry in found.data], np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert vectors[0] @ vectors[2] < 0.999
    plain = server.http.post("/v1/embeddings", json={"input": "Tom", "encoding_format": "float"}).json()
    np.testing.assert_allclose(plain["data"][0]["embedding"], vectors[2], atol=1e-6)
    packed = server.http.post("/v1/embeddings", json={"input": "Tom", "encoding_format": "base64"}).json()
    raw = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(raw, vectors[2], atol=1e-6)
    own = server.http.post("/embeddings", json={"content": "Tom", "embd_normalize": -1}).json()
    assert abs(np.linalg.norm(own[0]["embedding"]) - 1) > 1e-3
    with pytest.raises(openai.BadRequestError, match="dimensions is 3, the model has"):
        server.openai.embeddings.create(model="s", input="Tom", dimensions=3)


def test_tokens_and_templates(server: Running) -> None:
    post = server.http.post
    ids = post("/tokenize", json={"content": "Lily wents"}).json()["tokens"]
    assert post("/detokenize", json={"tokens": ids}).json() == {"content": "Lily wents"}
    pieces = post("/tokenize", json={"content": "Lily wents", "with_pieces": True}).json()["tokens"]
    assert [piece["id"] for piece in pieces] == ids
    assert len(post("/tokenize", json={"content": "a", "add_special": True}).json()["tokens"]) == 2
    prompt = post("/apply-template", json={"messages": CHAT}).json()["prompt"]
    assert "Tell me about Lily." in prompt


def test_slots_are_saved_restored_and_erased(server: Running, folder: Path) -> None:
    post = server.http.post
    prompt = {"prompt": "The little dog ran to the park and", "n_predict": 1, "id_slot": 2}
    n = post("/completion", json=prompt).json()["tokens_evaluated"]
    saved = post("/slots/2?action=save", json={"filename": "dog.bin"}).json()
    assert saved["n_saved"] >= n
    assert (folder / "dog.bin").stat().st_size == saved["n_written"]
    assert post("/slots/2?action=erase", json={}).json() == {"id_slot": 2, "n_erased": saved["n_saved"]}
    restored = post("/slots/3?action=restore", json={"filename": "dog.bin"}).json()
    assert restored["n_restored"] == saved["n_saved"]
    again = post("/completion", json=prompt | {"id_slot": 3}).json()
    assert again["timings"]["prompt_n"] == 1


@pytest.mark.parametrize(
    ("path", "name", "status", "what"),
    [
        ("0?action=save", "../out.bin", 400, "filename is no plain name of a file"),
        ("0?action=save", "/tmp/out.bin", 400, "filename is no plain name of a file"),
        ("0?action=save", "..", 400, "filename is no plain name of a file"),
        ("0?action=save", "a\\b", 400, "filename is no plain name of a file"),
        ("0?action=save", "a\u0000b", 400, "filename is no plain name of a file"),
        ("0?action=save", "x" * 201, 400, "filename has 201 characters"),
        ("0?action=save", "é" * 150, 400, "filename is no plain name of a file"),
        ("0?action=save", "", 400, "filename is missing"),
        ("0?action=restore", "link", 400, "filename is a link"),
        ("0?action=restore", "none.bin", 404, "there is no saved slot none.bin"),
        ("4?action=erase", "x", 404, "there is no slot 4, there are slots 0 to 3"),
        ("-1?action=erase", "x", 404, "there is no slot -1"),
        ("0?action=eat", "x", 400, 'action is "eat", one of save, restore, erase'),
        ("0", "x", 400, "action is missing"),
    ],
)
def test_no_file_but_those_of_the_folder(
    server: Running, folder: Path, path: str, name: str, status: int, what: str
) -> None:
    if name == "link" and not (folder / "link").is_symlink():
        (folder / "link").symlink_to(folder / "elsewhere")
    answer = server.http.post(f"/slots/{path}", json={"filename": name})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, status)
    assert what in answer.json()["error"]["message"]


def test_properties_and_metrics(server: Running) -> None:
    server.http.post("/completion", json={"prompt": "Once", "n_predict": 2})
    props = server.http.get("/props").json()
    assert (props["total_slots"], props["model_alias"]) == (4, "stories")
    assert props["default_generation_settings"]["params"]["temperature"] == 0
    answer = server.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = dict(line.split(" ") for line in answer.text.splitlines() if not line.startswith("#"))
    assert float(lines["graphsched:tokens_predicted_total"]) > 0
    assert float(lines["graphsched:slots"]) == 4
    assert lines["graphsched:requests_processing"] == "0"


def test_what_is_not_offered_is_said() -> None:
    with serving_http(server={"slots": False}) as plain:
        for answer in (
            plain.http.get("/slots"),
            plain.http.get("/metrics"),
            plain.http.post("/slots/0?action=save", json={"filename": "x"}),
        ):
            assert (answer.status_code, answer.json()["error"]["type"]) == (501, "not_supported_error")
        plain.app.state.served.life.is_draining = True
        assert plain.http.get("/health").status_code == 503
        answer = plain.http.post("/completion", json={"prompt": "a"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_too_many_answers_and_a_long_prompt(server: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="n is 5, a request can have 1 to 4 answers"):
        server.openai.completions.create(model="s", prompt=TEXT, n=5)
    with pytest.raises(openai.BadRequestError, match="do not fit the context of 512"):
        server.openai.completions.create(model="s", prompt=TEXT * 200)
    answer = server.openai.completions.create(model="s", prompt=[1, *[403] * 509], max_tokens=50)
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens <= 3) == ("length", True)
    empty: dict[str, Any] = {"prompt": "", "max_tokens": 0}
    assert server.http.post("/v1/completions", json=empty).json()["choices"][0]["text"] == ""


def test_the_document_names_every_endpoint(server: Running) -> None:
    document = server.http.get("/openapi.json").json()
    assert {"/v1/chat/completions", "/completion", "/slots/{id_slot}", "/v1/models/{model}"} <= set(
        document["paths"]
    )
    schema = document["paths"]["/completion"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["top_p"]["maximum"] == 1
    assert json.dumps(document)


def test_a_connection_that_is_cut_while_the_body_comes(server: Running) -> None:
    host, port = httpx.URL(server.url).host, httpx.URL(server.url).port
    with socket.create_connection((host, port or 0)) as raw:
        raw.sendall(b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    assert server.http.get("/health").status_code == 200


THINKING: str = (
    "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}brief {% endif %}"
    "{% if reasoning_effort is defined %}{{ reasoning_effort }} {% endif %}{% if x is defined %}{{ x }} {% endif %}"
    "{% if add_generation_prompt %}<think>{% endif %}{# </think> #}"
)


def test_what_the_template_is_told_and_the_budget_of_thoughts() -> None:
    with serving_http(chat={"chat_template": THINKING, "reasoning_budget": 3}) as server:

        def prompt(**more: Any) -> str:
            body = {"messages": [{"role": "user", "content": "Hi"}], **more}
            return str(server.http.post("/apply-template", json=body).json()["prompt"])

        assert prompt() == "Hi\n<think>"
        assert prompt(reasoning_effort="low") == "Hi\nlow <think>"
        assert prompt(reasoning_effort="none") == "Hi\nbrief <think>"
        assert prompt(chat_template_kwargs={"x": 1, "enable_thinking": False}) == "Hi\nbrief 1 <think>"

        def text(**more: Any) -> str:
            body = {"messages": CHAT, "max_tokens": 20, **more}
            message = server.http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
            return str(message.get("reasoning_content", "")) + str(message["content"])

        free = text(reasoning_budget_tokens=-1)
        assert "</think>" not in free
        assert text() != free


def test_timings_of_each_part(server: Running) -> None:
    body = {"messages": CHAT, "max_tokens": 5, "stream": True, "timings_per_token": True}
    lines = server.http.post("/v1/chat/completions", json=body).text.splitlines()
    parts = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    told = [part["timings"]["predicted_n"] for part in parts if "timings" in part]
    assert told == sorted(told)
    assert told[-1] == 5
    assert parts[-1]["timings"]["prompt_n"] >= 1
    own = server.http.post("/completion", json={"prompt": TEXT, "n_predict": 3, "stream": True}).text
    assert [json.loads(line[6:]).get("timings", {}).get("predicted_n") for line in own.splitlines() if line][
        -1
    ] == 3


def test_thoughts_are_apart() -> None:
    with serving_http(chat={"chat_template": THINKING, "reasoning_budget": 4}) as server:
        create = server.openai.chat.completions.create
        message = create(model="s", messages=CHAT, max_tokens=24).choices[0].message
        assert message.reasoning_content
        assert message.content
        assert "</think>" not in message.reasoning_content + message.content
        chunks = list(create(model="s", messages=CHAT, max_tokens=24, stream=True))
        deltas = [chunk.choices[0].delta for chunk in chunks]
        thoughts = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
        assert (thoughts, "".join(delta.content or "" for delta in deltas)) == (
            message.reasoning_content,
            message.content,
        )
        raw = create(model="s", messages=CHAT, max_tokens=24, extra_body={"reasoning_format": "none"})
        assert "</think>" in raw.choices[0].message.content
