"""How a chat template takes a conversation, found out by rendering marked messages before the first real one."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

from graphsched.errors import Error
from graphsched.text import chat
from graphsched.text.answers import Answer, Marks, marks_of, parse_answer
from graphsched.text.tool_calls.families import HERMES, format_of, names_tools
from graphsched.text.tool_calls.formats import Format
from graphsched.text.tool_calls.told import told, with_texts, without_calls

Message = Mapping[str, Any]
_USER, _SYSTEM, _SAID, _AGAIN = "markuser", "marksystem", "marksaid", "markagain"
# What a template calls the thoughts of a message.
_THOUGHTS: Final = (
    ("reasoning_content", re.compile(r"\breasoning_content\b")),
    ("thinking", re.compile(r"message(?:\.thinking\b|\[['\"]thinking['\"]\])")),
    ("reasoning", re.compile(r"message(?:\.reasoning\b|\[['\"]reasoning['\"]\])")),
)
_NO_MARKS: Final = Marks()
_CHATML_MARKS: Final = ("<|im_start|>", "<|im_end|>")


class Vocabulary(Protocol):
    """What of a tokenizer is asked."""

    bos: int | None
    eos: int | None

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of a text."""

    def piece(self, token: int, special: bool = False) -> bytes:
        """The bytes of a token; of a special one only if asked for."""


@dataclass(frozen=True)
class Dialect:
    """A template and how it takes messages.

    lists: contents are lists of parts; tools: () where a template goes through them whether there are any or not;
    merges_system: the system's text goes in front of the first user's;
    thoughts_key: the field of a message for thoughts, None if the template has none; takes_empty: an answer may be
    empty. `notes` are sentences for the user, `more` further values for the template.
    """

    template: str | None
    bos: str
    eos: str
    lists: bool = False
    tools: tuple[()] | None = None
    merges_system: bool = False
    thoughts_key: str | None = None
    takes_empty: bool = True
    marks: Marks = _NO_MARKS
    more: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def format(self) -> Format:
        """How the model writes calls of tools."""
        return format_of(self.template or "") if self.knows_tools else HERMES

    @property
    def knows_tools(self) -> bool:
        """Whether the template itself tells the model about tools."""
        return names_tools(self.template or "")

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt for a conversation of plain messages; Error for what the template refuses.

        tools: functions that the model may call, as OpenAI's interface has them. Messages may have the role tool, and
        tool_calls, whose arguments are objects; what the template does not know of that is told as text.
        """
        if not self.knows_tools:
            has_any = tools or any(m["role"] == "tool" or m.get("tool_calls") for m in messages)
            messages, tools = (told(messages, tools, HERMES) if has_any else messages), ()
        elif "tool_calls" not in (self.template or ""):
            messages = [without_calls(m, self.format) for m in messages]
        try:
            return self._rendered(messages, tools, add_generation_prompt)
        except chat.TemplateFailure:
            if not any(m.get("tool_calls") for m in messages):
                raise
            return self._rendered(with_texts(messages), tools, add_generation_prompt)

    def _rendered(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], add_generation_prompt: bool
    ) -> str:
        adapted = [self._adapted(m) for m in (_merged(messages) if self.merges_system else messages)]
        return chat.render(
            self.template,
            adapted,
            bos=self.bos,
            eos=self.eos,
            add_generation_prompt=add_generation_prompt,
            tools=list(tools) or self.tools,
            more=self.more,
        )

    def remembered(self, said: str, prompt: str) -> dict[str, Any] | None:
        """The message that an answer becomes in a conversation, the prompt being what it was an answer to.

        None if the template would refuse it: then the turn had better be left out.
        """
        answer = parse_answer(said, self.marks, in_thoughts=self.marks.opens(prompt))
        if not (answer.text.strip() or answer.calls or self.takes_empty):
            return None
        return self.message(answer)

    def message(self, answer: Answer) -> dict[str, Any]:
        """An answer as a message; thoughts are left out where the template has no field for them."""
        found: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.thoughts and self.thoughts_key is not None:
            found[self.thoughts_key] = answer.thoughts
        return found | ({"tool_calls": list(answer.calls)} if answer.calls else {})

    def _adapted(self, message: Message) -> Message:
        content = message.get("content")
        if not self.lists or not isinstance(content, str):
            return message
        return {**message, "content": [{"type": "text", "text": content}]}


def dialect_of(
    template: str | None, vocabulary: Vocabulary, *, more: Mapping[str, Any] | None = None
) -> Dialect:
    """The dialect of a template, found by trying it. Error if it refuses a user's message, or never prints it."""
    bos, eos = (_text(vocabulary, token) for token in (vocabulary.bos, vocabulary.eos))
    template = template if template and template.strip() else None
    notes = _chatml_notes(vocabulary) if template is None else ()
    marks = marks_of(template or "", lambda text: _is_token(vocabulary, text))
    plain = Dialect(template, bos, eos, marks=marks, more=dict(more or {}), notes=notes)
    found = _heard(plain)
    found = _changed(found, merges_system=_lost(found, [_system(), _user()]) is not None)
    found = _changed(found, thoughts_key=_thoughts_key(found))
    return _changed(found, takes_empty=_takes(found, [_user(), _assistant(""), _user(_AGAIN)]))


def unprinted(rendered: str, messages: Iterable[Message]) -> tuple[int, ...]:
    """Which messages, by their numbers, have a text that does not appear in what a template made of them.

    White space does not count, as templates trim, and neither do messages without a text; a text may be in JSON.
    """
    shown = "".join(rendered.split())
    texts = {i: m["content"] for i, m in enumerate(messages) if isinstance(m.get("content"), str)}
    return tuple(i for i, text in texts.items() if not any(form in shown for form in _forms(text)))


def _forms(text: str) -> Iterator[str]:
    """A text without white space, as it is and as JSON writes it."""
    yield "".join(text.split())
    for ascii_only in (False, True):
        yield "".join(json.dumps(text.strip(), ensure_ascii=ascii_only)[1:-1].split())


def _changed(dialect: Dialect, **fields: Any) -> Dialect:
    return Dialect(**(vars(dialect) | fields))


def _text(vocabulary: Vocabulary, token: int | None) -> str:
    return "" if token is None else vocabulary.piece(token, special=True).decode("utf-8", "replace")


def _is_token(vocabulary: Vocabulary, text: str) -> bool:
    return len(vocabulary.encode(text, add_special=False, parse_special=True)) == 1


def _chatml_notes(vocabulary: Vocabulary) -> tuple[str, ...]:
    lacking = [m for m in _CHATML_MARKS if not _is_token(vocabulary, m)]
    if not lacking:
        return ("the file has no chat template, ChatML is used",)
    what = f"whose {' and '.join(lacking)} {'are' if lacking[1:] else 'is'} no token of this vocabulary"
    return (f"the file has no chat template, ChatML is used, {what}",)


def _heard(plain: Dialect) -> Dialect:
    """The plainest form in which what a user says gets into the prompt."""
    wider = {"functions": "", "datetime": f"{datetime.now():%b %d %Y}"} | dict(plain.more)
    values = (
        (None, plain.more),
        ((), plain.more),
        ((), wider),
    )  # llama.cpp has the last ones, for firefunction
    tried = [_changed(plain, lists=a, tools=b, more=c) for b, c in values for a in (False, True)]
    failures = []
    for dialect in tried:
        if (failure := _lost(dialect, [_user()])) is None:
            return dialect
        failures.append(failure)
    raise chat.TemplateFailure(failures[0])


def _lost(dialect: Dialect, messages: Sequence[Message]) -> str | None:
    """Why a conversation does not get into the prompt whole, None if it does."""
    try:
        rendered = dialect.render(messages)
    except Error as e:
        return str(e)
    lost = unprinted(rendered, messages)
    return f"the chat template never prints what the {messages[lost[0]]['role']} says" if lost else None


def _takes(dialect: Dialect, messages: Sequence[Message]) -> bool:
    try:
        dialect.render(messages)
    except Error:
        return False
    return True


def _thoughts_key(dialect: Dialect) -> str | None:
    """The field that the template names for thoughts, if it takes messages that have it."""
    named = [key for key, pattern in _THOUGHTS if pattern.search(dialect.template or "")]
    turn = [_user(), _assistant(_SAID), _user(_AGAIN)]
    takes = (k for k in named if _takes(dialect, [turn[0], {**turn[1], k: "x"}, turn[2]]))
    return next(takes, None)


def _user(text: str = _USER) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _system() -> dict[str, Any]:
    return {"role": "system", "content": _SYSTEM}


def _merged(messages: Sequence[Message]) -> list[Message]:
    """The conversation with the texts of leading system messages in front of the first user's."""
    n = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
    texts = [str(m["content"]) for m in messages[:n]]
    rest = list(messages[n:])
    if not texts:
        return rest
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": "\n\n".join(texts)}, *rest]
    first = {**rest[0], "content": "\n\n".join([*texts, str(rest[0]["content"])])}
    return [first, *rest[1:]]
