"""A turn of a chat: the prompt of a conversation, and the answers to it in parts. All interfaces to chats share it."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from graphsched.serve.api.failures import unavailable
from graphsched.serve.api.generation import events, request_of
from graphsched.serve.api.grammars import chat_rules
from graphsched.serve.api.reading import Parts, Reading, has_control_tokens, reading_of
from graphsched.serve.api.served import Served
from graphsched.serve.api.structure import Tools, structure_of
from graphsched.serve.request import Chosen, Done, Request
from graphsched.text.answer_stream import CallArguments, CallBegins, Delta
from graphsched.text.spoken import Text, Thought
from graphsched.text.thinking import Budget

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Conversation:
    """What is to be answered, as templates take it, whatever interface it came by.

    messages: with `role` and `content`, a text; of assistants also `reasoning_content` and `tool_calls`, whose
    arguments are objects; of tools `tool_call_id`. values: the fields of `GENERATION`. template_values: what the
    template is told besides. budget: tokens of thoughts, -1 for any number, None for as many as the server gives.
    splits: thoughts are apart from the text.
    """

    messages: Sequence[Message]
    values: Mapping[str, Any] = field(default_factory=dict)
    n: int = 1
    n_probs: int = 0
    template_values: Mapping[str, Any] = field(default_factory=dict)
    budget: int | None = None
    tools: Tools | None = None
    splits: bool = True


@dataclass(frozen=True)
class Turn:
    """A conversation that became a request."""

    request: Request
    reading: Reading

    def stream(self) -> Parts:
        """What takes an answer apart; each answer needs its own."""
        return self.reading.parts()


def prompt_of(served: Served, asked: Conversation) -> str:
    """The prompt that the template makes of a conversation. Error if it refuses."""
    dialect = served.dialect
    if asked.template_values:
        dialect = replace(dialect, more={**dialect.more, **asked.template_values})
    return dialect.render(asked.messages, tools=asked.tools.functions if asked.tools else ())


async def turn_of(served: Served, asked: Conversation, name: str = "") -> Turn:
    """The request for a conversation. Error if the template refuses it, Failure for values that cannot be used."""
    return await asyncio.to_thread(_turn, served, asked, name)  # of a long one others need not wait


def _turn(served: Served, asked: Conversation, name: str) -> Turn:
    prompt = prompt_of(served, asked)
    tokenizer, in_thoughts = served.service.tokenizer, served.dialect.marks.opens(prompt)
    ids = tuple(tokenizer.encode_prompt(prompt))
    reading = reading_of(served.dialect, tokenizer, asked.tools, in_thoughts=in_thoughts, splits=asked.splits)
    request = request_of(
        asked.values,
        served,
        ids,
        chat_rules(structure_of(asked.values), asked.tools, reading, tokenizer),
        name=name,
        n=asked.n,
        n_probs=asked.n_probs,
        budget=_budget(served, asked, in_thoughts),
        special=has_control_tokens(reading, tokenizer),
    )
    return Turn(request, reading)


def _budget(served: Served, asked: Conversation, in_thoughts: bool) -> Budget | None:
    """How long the answer may think, if there is a limit and the model marks its thoughts."""
    limit = served.defaults.chat.reasoning_budget if asked.budget is None else asked.budget
    marks = served.dialect.marks
    return Budget(limit, marks, in_thoughts) if limit >= 0 and marks.ending else None


@dataclass(frozen=True)
class Said:
    """More of answer number `index`: its parts, and the tokens behind them."""

    index: int
    parts: tuple[Delta, ...]
    chosen: tuple[Chosen, ...] = ()
    n_tokens: int = 0


@dataclass(frozen=True)
class Ended:
    """The end of answer number `index`; has_calls: whether it called tools."""

    index: int
    done: Done
    has_calls: bool = False


async def answered(served: Served, turn: Turn) -> AsyncGenerator[Said | Ended, None]:
    """The answers in parts as they come. Failure 503 for one that the server had to end."""
    streams = [turn.stream() for _ in range(turn.request.n)]
    calling: set[int] = set()
    async with aclosing(events(served, turn.request)) as found:
        async for event in found:
            stream, is_end = streams[event.index], isinstance(event, Done)
            parts = tuple(stream.finish() if isinstance(event, Done) else stream.push(event.text))
            calling |= {event.index for part in parts if isinstance(part, CallBegins)}
            if not isinstance(event, Done):
                yield Said(event.index, parts, event.chosen, len(event.tokens))
                continue
            if parts:
                yield Said(event.index, parts)
            if is_end and event.reason == "abort":
                raise unavailable("the server ended the answer")
            yield Ended(event.index, event, event.index in calling)


@dataclass
class Whole:
    """An answer of which all parts have come."""

    text: str = ""
    thoughts: str = ""
    calls: list[dict[str, str]] = field(default_factory=list)  # id, name, arguments as JSON text
    chosen: list[Chosen] = field(default_factory=list)
    done: Done | None = None

    def add(self, part: Delta) -> None:
        """Adds a part."""
        if isinstance(part, Text):
            self.text += part.text
        elif isinstance(part, Thought):
            self.thoughts += part.text
        elif isinstance(part, CallBegins):
            self.calls.append({"id": part.id, "name": part.name, "arguments": ""})
        elif isinstance(part, CallArguments):
            self.calls[part.index]["arguments"] += part.text


async def whole(served: Served, turn: Turn) -> list[Whole]:
    """All answers once they have ended."""
    found = [Whole() for _ in range(turn.request.n)]
    async with aclosing(answered(served, turn)) as parts:
        async for said in parts:
            if isinstance(said, Ended):
                found[said.index].done = said.done
                continue
            found[said.index].chosen.extend(said.chosen)
            for part in said.parts:
                found[said.index].add(part)
    return found
