"""Clients of a server with OpenAI's interface: they ask, read streams, some hang up, and note what they saw."""

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import httpx

_TEXT: Final = (
    "once upon a time there was little girl named Lily who loved to play in the park with her dog and one day "
    "they saw big tree it had red apple she said can we share mom smiled yes sun went down home was warm"
)
WORDS: Final = _TEXT.split()


@dataclass(frozen=True)
class Work:
    """What clients do. lengths: of prompts in words, and of answers in tokens, from and to. hang_up: part of requests.

    n_prompts: different ones, so that each answer can be compared with the same answer alone.
    """

    clients: int
    seconds: float
    words: tuple[int, int] = (4, 200)
    answers: tuple[int, int] = (4, 64)
    hang_up: float = 0.0
    n_prompts: int = 32
    seed: int = 1


@dataclass(frozen=True)
class Prompt:
    """A text and the tokens that its answer has at most."""

    text: str
    n: int


@dataclass
class Seen:
    """What a client saw of an answer; times in seconds. first: until the first text, None without any."""

    prompt: Prompt
    text: str = ""
    tokens: int = 0
    first: float | None = None
    total: float = 0.0
    hung_up: bool = False
    error: str = ""


def prompts(work: Work) -> list[Prompt]:
    """The prompts of a run, the same for each server."""
    chance = random.Random(work.seed)
    made = []
    for _ in range(work.n_prompts):
        words = chance.choices(WORDS, k=chance.randint(*work.words))
        made.append(Prompt(" ".join(words).capitalize(), chance.randint(*work.answers)))
    return made


def connected(url: str, key: str = "", clients: int = 1) -> httpx.AsyncClient:
    """A client for many requests at once."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=clients + 4, max_keepalive_connections=clients + 4)
    return httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=600)


async def ask(http: httpx.AsyncClient, prompt: Prompt, hang_up_after: int | None = None) -> Seen:
    """One request; after so many parts of its answer the client goes away."""
    seen, begin, parts = Seen(prompt), time.perf_counter(), 0
    body = {
        "model": "any",
        "prompt": prompt.text,
        "max_tokens": prompt.n,
        "temperature": 0,
        "ignore_eos": True,
    }
    more = {"stream": True, "stream_options": {"include_usage": True}}
    try:
        async with http.stream("POST", "/v1/completions", json=body | more) as answer:
            if answer.status_code != 200:
                seen.error = f"{answer.status_code}: {(await answer.aread()).decode()[:200]}"
                return seen
            async with aclosing(_events(answer)) as events:
                async for event in events:
                    parts += _add(seen, event, begin)
                    if hang_up_after is not None and parts >= hang_up_after:
                        seen.hung_up = True
                        break
    except httpx.HTTPError as e:
        seen.error = f"{type(e).__name__}: {e}"
    seen.total = time.perf_counter() - begin
    return seen


def _add(seen: Seen, event: dict[str, Any], begin: float) -> int:
    """Adds an event; the parts of text that it has."""
    if usage := event.get("usage"):
        seen.tokens = usage["completion_tokens"]
    text = "".join(choice.get("text") or "" for choice in event.get("choices", ()))
    seen.text += text
    if text and seen.first is None:
        seen.first = time.perf_counter() - begin
    if "error" in event:
        seen.error = str(event["error"])
    return bool(text)


async def _events(answer: httpx.Response) -> AsyncGenerator[dict[str, Any], None]:
    """Up to the last one: some servers keep the stream open behind it."""
    async for line in answer.aiter_lines():
        if line == "data: [DONE]":
            return
        if line.startswith("data: "):
            yield json.loads(line[6:])


async def load(url: str, work: Work, key: str = "") -> tuple[list[Seen], float]:
    """What all clients saw, each of which asks again as soon as it has its answer; seconds until the last one ended."""
    made, chance, seen = prompts(work), random.Random(work.seed + 1), list[Seen]()
    begin = time.perf_counter()

    async def client(http: httpx.AsyncClient) -> None:
        while time.perf_counter() - begin < work.seconds:
            prompt = chance.choice(made)
            after = chance.randint(1, max(prompt.n // 2, 1)) if chance.random() < work.hang_up else None
            seen.append(await ask(http, prompt, after))
            if seen[-1].error:
                await asyncio.sleep(0.05)

    async with connected(url, key, work.clients) as http:
        await asyncio.gather(*(client(http) for _ in range(work.clients)))
    return seen, time.perf_counter() - begin


async def alone(url: str, asked: Sequence[Prompt], key: str = "") -> dict[Prompt, str]:
    """The answer to each prompt when nothing else is asked, and nothing read before is used again."""
    async with connected(url, key) as http:
        return {prompt: (await ask(http, prompt)).text for prompt in asked}


async def first_beside_long(url: str, n_words: int, repetitions: int, key: str = "") -> list[float]:
    """Seconds to the first token of a short request that comes while a prompt of n_words is read."""
    found = []
    async with connected(url, key, 2) as http:
        for i in range(repetitions):
            words = random.Random(i).choices(WORDS, k=n_words)
            long = asyncio.create_task(ask(http, Prompt(" ".join(words), 1)))
            await asyncio.sleep(0.2)
            is_read = long.done()
            short = await ask(http, Prompt(f"One day, {WORDS[i % len(WORDS)]}", 1))
            await long
            if short.first is not None and not is_read:
                found.append(short.first)
    return found
