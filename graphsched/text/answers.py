"""Splits a model's answer into thoughts, tool calls and text, by the marks of its template."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

# What opens and closes thoughts, likeliest first; the last ones only stand in templates.
_TAGS: Final = (
    ("<think>", "</think>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<think:opensource>", "</think:opensource>"),
    ("<mm:think>", "</mm:think>"),
    ("◁think▷", "◁/think▷"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("Here is my thought process:", "Here is my response:"),
    ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
)
# Around the text behind the thoughts, with some models.
WRAPPERS: Final = (
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ("<response>", "</response>"),
    ("[BEGIN FINAL RESPONSE]", "[END FINAL RESPONSE]"),
)
_CHANNEL, _MESSAGE = "<|channel|>", "<|message|>"
CHANNEL_OF_ANSWERS: Final = f"{_CHANNEL}final{_MESSAGE}"  # behind it is what a user reads
_PART: Final = re.compile(
    r"(?:<\|start\|>(?P<role>[^<]*))?<\|channel\|>(?P<head>.*?)<\|message\|>"
    r"(?P<body>.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.DOTALL,
)
_TO_TOOL: Final = re.compile(r"to=(?:functions\.)?([\w.-]+)")
_CALL: Final = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
_MISTRAL_CALLS: Final = "[TOOL_CALLS]"
_MISTRAL_CALL: Final = re.compile(r"([\w.-]+)(?:\[CALL_ID\]\w+)?\[ARGS\](\{.*\})", re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """An answer's parts; calls are as the OpenAI interface has them, with arguments as an object."""

    text: str
    thoughts: str = ""
    calls: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Marks:
    """How thoughts are marked: by a pair of tags, or by channels (gpt-oss); "" if a model shows no sign of them."""

    opening: str = ""
    closing: str = ""
    has_channels: bool = False

    @property
    def ending(self) -> str:
        """What is put behind unfinished thoughts so that the answer proper begins."""
        if self.has_channels:
            return f"<|end|><|start|>assistant{CHANNEL_OF_ANSWERS}"
        return f"\n{self.closing}\n\n" if self.closing else ""

    def opens(self, prompt: str) -> bool:
        """Whether a prompt ends inside of thoughts, so that an answer begins with them."""
        return bool(self.opening) and prompt.rstrip().endswith(self.opening.rstrip())


def marks_of(template: str, is_token: Callable[[str], bool]) -> Marks:
    """The marks of thoughts that a template names; if it names none, those that the vocabulary has as tokens."""
    if _CHANNEL in template or (is_token(_CHANNEL) and is_token(_MESSAGE)):
        return Marks(has_channels=True)
    in_template = [t for t in _TAGS if t[1].strip() in template]
    found = in_template or [t for t in _TAGS[:-2] if all(map(is_token, t))]
    return Marks(*found[0]) if found else Marks()


def parse_answer(said: str, marks: Marks, *, in_thoughts: bool = False) -> Answer:
    """Splits an answer into thoughts, calls and text; only marks are lost. in_thoughts: the prompt opened a thought."""
    if marks.has_channels:
        return _of_channels(said)
    thoughts, rest = _thoughts(said, marks, in_thoughts)
    text, calls = _calls(_unwrapped(rest))
    # an answer without parts stays as it was said: the cache holds it so
    return Answer(said) if text == said else Answer(text.strip(), thoughts.strip(), calls)


def _thoughts(said: str, marks: Marks, in_thoughts: bool) -> tuple[str, str]:
    """Thoughts and the rest; a closing mark alone has thoughts in front of it, an opening one alone behind it."""
    if not marks.closing:
        return "", said
    before, is_closed, after = said.partition(marks.closing)
    lead, is_open, inner = before.partition(marks.opening.rstrip())
    if is_closed:
        return (inner if is_open else before), (lead if is_open else "") + after
    if is_open:
        return inner, lead
    return (said, "") if in_thoughts else ("", said)


def _unwrapped(text: str) -> str:
    for opening, closing in WRAPPERS:
        text = text.replace(opening, "").replace(closing, "")
    return text


def _calls(text: str) -> tuple[str, tuple[dict[str, Any], ...]]:
    """The text without calls of tools, and these; what is no proper call stays text."""
    calls = []

    def taken(match: re.Match[str]) -> str:
        call = _call_of(match[1])
        calls.extend(call)
        return "" if call else match[0]

    text = _CALL.sub(taken, text)
    before, is_mistral, after = text.partition(_MISTRAL_CALLS)
    if is_mistral and (found := list(_mistral_calls(after.strip()))):
        text = before
        calls.extend(found)
    return text, tuple(calls)


def _call_of(text: str) -> list[dict[str, Any]]:
    """One call, or several in a list, as JSON; [] for anything else."""
    with suppress(ValueError, RecursionError):
        found = json.loads(text)
        given = found if isinstance(found, list) else [found]
        if given and all(isinstance(c, dict) and isinstance(c.get("name"), str) for c in given):
            return [_call(c["name"], c.get("arguments", c.get("parameters", {}))) for c in given]
    return []


def _mistral_calls(text: str) -> Iterator[dict[str, Any]]:
    match = _MISTRAL_CALL.fullmatch(text)
    if match is None:
        yield from _call_of(text)
        return
    with suppress(ValueError, RecursionError):
        yield _call(match[1], json.loads(match[2]))


def _call(name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _of_channels(said: str) -> Answer:
    """Channels: analysis is thoughts, commentary to a function a call, all else text."""
    thoughts, texts, calls = [], [], []
    parts = list(_PART.finditer(said))
    for part in parts:
        head, body = f"{part['role'] or ''} {part['head']}", part["body"]
        to = _TO_TOOL.search(head)
        if to is not None:
            calls.append(_call(to[1], _arguments(body)))
        elif "analysis" in head:
            thoughts.append(body.strip())
        else:
            texts.append(body.strip())
    if not parts:
        return Answer(re.sub(r"<\|(?:start|end|return|call|message|channel)\|>", "", said).strip())
    return Answer("\n\n".join(filter(None, texts)), "\n\n".join(filter(None, thoughts)), tuple(calls))


def _arguments(body: str) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(body)
    return body
