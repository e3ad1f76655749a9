"""What a client wants computed and what it gets back: the values between the interfaces over HTTP and the engine."""

from dataclasses import dataclass, field
from typing import Literal

from graphsched.errors import Error
from graphsched.text.constrained import Rules
from graphsched.text.options import SamplingOptions
from graphsched.text.thinking import Budget

Reason = Literal["eog", "stop", "limit", "context", "abort"]  # why an answer ended


class Busy(Error):
    """The queue is full; retry_after: seconds after which there may be room."""

    def __init__(self, what: str, retry_after: int) -> None:
        super().__init__(what)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Request:
    """A prompt and how it is to be continued.

    n_predict: tokens at most, any number below 0. stop: texts that end an answer and are no part of it. n_probs: the
    likeliest tokens that are reported with each chosen one. n: answers, which share the prompt. slot: the one to use,
    None for any. keeps: whether what other requests have read may be used again. rules: a grammar that answers follow.
    """

    prompt: tuple[int, ...]
    n_predict: int = -1
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    n_probs: int = 0
    n: int = 1
    budget: Budget | None = None
    rules: Rules | None = None
    slot: int | None = None
    keeps: bool = True
    special: bool = False
    name: str = ""


@dataclass(frozen=True)
class Likely:
    """A token that could have been chosen, and the natural logarithm of its probability before the samplers."""

    token: int
    logprob: float


@dataclass(frozen=True)
class Chosen:
    """A chosen token, its log probability, and those of the likeliest ones."""

    token: int
    logprob: float
    likeliest: tuple[Likely, ...] = ()


@dataclass(frozen=True)
class Piece:
    """More of answer number `index`: whole characters, and the tokens behind them; a text may be empty."""

    index: int
    text: str
    tokens: tuple[int, ...]
    chosen: tuple[Chosen, ...] = ()  # of each token, if that was asked for


@dataclass(frozen=True)
class RequestTimings:
    """Where a request's time went, milliseconds and tokens."""

    queue_ms: float = 0.0
    prompt_tokens: int = 0  # all of the prompt
    cached_tokens: int = 0  # of those that were not read again
    prompt_ms: float = 0.0
    generated_tokens: int = 0
    generate_ms: float = 0.0
    sampling_ms: float = 0.0  # part of generate_ms


@dataclass(frozen=True)
class Done:
    """The end of answer number `index`; stopped_by: the text that ended it."""

    index: int
    reason: Reason
    timings: RequestTimings
    stopped_by: str = ""


Event = Piece | Done
