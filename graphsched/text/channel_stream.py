"""An answer in channels (gpt-oss) while it is written.

Analysis is thoughts, what goes to a function a call, all else text.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final

from graphsched.text.answer_stream import CallsSoFar, Delta, new_id
from graphsched.text.spoken import Spoken, first_mark, half
from graphsched.text.tool_calls.reading import Call

_CHANNEL, _MESSAGE, _START = "<|channel|>", "<|message|>", "<|start|>"
_ENDS: Final = ("<|end|>", "<|return|>", "<|call|>")
_TO_TOOL: Final = re.compile(r"to=(?:functions\.)?([\w.-]+)")


class ChannelStream:
    """Takes such an answer apart, as `AnswerStream` does others."""

    def __init__(self, make_id: Callable[[], str] = new_id) -> None:
        self._left, self._spoken = "", Spoken()
        self._mode = "text"  # head, or what a body is: thought, text, call, or nothing (between)
        self._name, self._arguments = "", ""
        self._calls = CallsSoFar(make_id)

    def push(self, text: str) -> list[Delta]:
        """The parts that more text makes."""
        self._left += text
        return list(self._steps(is_final=False))

    def finish(self) -> list[Delta]:
        """The parts that are left at the end."""
        return [*self._steps(is_final=True), *self._spoken.finish()]

    def _steps(self, *, is_final: bool) -> Iterator[Delta]:
        goes_on = True
        while goes_on:
            marks = (_MESSAGE,) if self._mode == "head" else (_CHANNEL, _START, *_ENDS)
            found = first_mark(self._left, marks)
            if goes_on := found is not None:
                at, mark = found
                text, self._left = self._left[:at], self._left[at + len(mark) :]
                yield from self._body(text)
                self._turn(mark, text)
            elif self._mode != "head":
                kept = 0 if is_final else half(self._left, marks)
                text, self._left = self._left[: len(self._left) - kept], self._left[len(self._left) - kept :]
                yield from self._body(text)

    def _body(self, text: str) -> Iterator[Delta]:
        if self._mode == "thought":
            yield from self._spoken.more("thought", text)
        elif self._mode == "text":
            yield from self._spoken.more("text", text)
        elif self._mode == "call":
            self._arguments += text
            yield from self._calls.more([Call(self._name, self._arguments)])

    def _turn(self, mark: str, head: str) -> None:
        """What begins behind a mark; a head says what kind of body follows."""
        if mark == _MESSAGE:
            self._spoken.begin()
            tool = _TO_TOOL.search(head)
            self._name, self._arguments = tool[1] if tool else "", ""
            self._mode = "call" if tool else "thought" if "analysis" in head else "text"
            return
        if self._mode == "call":
            self._calls.close()
        self._spoken.begin()
        self._mode = "head" if mark == _CHANNEL else "between"
