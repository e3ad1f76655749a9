"""What a response tells of a request besides its text: usage, timings, log probabilities, and why it ended."""

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from time import perf_counter
from typing import Any, Final

from graphsched.serve.request import Chosen, Done, Likely, Reason, Request, RequestTimings
from graphsched.text.tokenizer import Tokenizer

FINISH: Final[dict[Reason, str]] = {
    "eog": "stop",
    "stop": "stop",
    "limit": "length",
    "context": "length",
    "abort": "length",
}
NO_CHANCE: Final = -9999.0  # OpenAI's value for the log of nothing; JSON has no infinity


def summed(ends: Iterable[Done]) -> RequestTimings:
    """The times of all answers to one prompt, which was read once."""
    timings = [end.timings for end in ends]
    if not timings:
        return RequestTimings()
    generated = sum(t.generated_tokens for t in timings)
    longest = max(t.generate_ms for t in timings)
    return replace(timings[0], generated_tokens=generated, generate_ms=longest)


def totals(requests: Sequence[Request], ends: Sequence[Done]) -> RequestTimings:
    """The times of the answers to several prompts, which were computed beside each other."""
    n = requests[0].n
    each = [summed(ends[i : i + n]) for i in range(0, len(ends), n)]
    values = {f.name: [getattr(t, f.name) for t in each] for f in fields(RequestTimings)}
    return RequestTimings(
        **{k: max(v, default=0) if k.endswith("_ms") else sum(v) for k, v in values.items()}
    )


def usage(t: RequestTimings) -> dict[str, Any]:
    """Tokens as OpenAI counts them."""
    return {
        "prompt_tokens": t.prompt_tokens,
        "completion_tokens": t.generated_tokens,
        "total_tokens": t.prompt_tokens + t.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": t.cached_tokens},
    }


def timings(t: RequestTimings) -> dict[str, Any]:
    """Times as llama.cpp tells them; prompt_n are tokens that were read, cache_n those that need not be."""
    read = t.prompt_tokens - t.cached_tokens
    return {
        "cache_n": t.cached_tokens,
        **_rates("prompt", read, t.prompt_ms),
        **_rates("predicted", t.generated_tokens, t.generate_ms),
        "queue_ms": t.queue_ms,
    }


def _rates(name: str, n: int, ms: float) -> dict[str, Any]:
    return {
        f"{name}_n": n,
        f"{name}_ms": ms,
        f"{name}_per_token_ms": ms / n if n else 0.0,
        f"{name}_per_second": n / ms * 1e3 if ms > 0 else 0.0,
    }


class Pace:
    """What has been generated so far, for timings in each part of a stream: the clock begins with the first part."""

    def __init__(self) -> None:
        self._n, self._begin = 0, 0.0

    def after(self, n_tokens: int) -> dict[str, Any]:
        """The timings once so many more tokens have come."""
        self._begin = self._begin or perf_counter()
        self._n += n_tokens
        return _rates("predicted", self._n, (perf_counter() - self._begin) * 1e3)


def token_text(tokenizer: Tokenizer, token: int) -> tuple[str, list[int]]:
    """The text of a token, and its bytes, which may be half a character."""
    data = tokenizer.piece(token, special=True)
    return data.decode("utf-8", "replace"), list(data)


def _entry(tokenizer: Tokenizer, one: Chosen | Likely) -> dict[str, Any]:
    text, data = token_text(tokenizer, one.token)
    return {"id": one.token, "token": text, "logprob": max(one.logprob, NO_CHANCE), "bytes": data}


def logprobs(tokenizer: Tokenizer, chosen: Sequence[Chosen]) -> list[dict[str, Any]]:
    """Log probabilities as OpenAI's chats have them, and llama.cpp with its `id`."""
    return [
        _entry(tokenizer, one) | {"top_logprobs": [_entry(tokenizer, likely) for likely in one.likeliest]}
        for one in chosen
    ]
