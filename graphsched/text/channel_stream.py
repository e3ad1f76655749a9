"""An answer in channels (gpt-oss) while it is written.

Analysis is thoughts, what goes to a function a call, all else text.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final

from graphsched.text.answer_stream import CallsSoFar, Delta, new_id
from graphsched.text.spoken import Spoken
from graphsched.text.tool_calls.reading import Call
from graphsched.text.unread import Unread

_CHANNEL, _MESSAGE, _START = "<|channel|>", "<|message|>", "<|start|>"
_ENDS: Final = ("<|end|>", "<|return|>", "<|call|>")
_TO: Final = "to="
_TO_TOOL: Final = re.compile(r"to=(?:functions\.)?([\w.-]+)")


class ChannelStream:
    """Takes such an answer apart, as `AnswerStream` does others."""

    def __init__(self, make_id: Callable[[], str] = new_id) -> None:
        self._unread, self._spoken = Unread(), Spoken()
        self._mode = "start"  # head, or what a body is: thought, text, call, or nothing (start, between)
        self._to = ""  # what stood in front of a channel: perhaps to whom it is
        self._name, self._arguments = "", ""
        self._calls = CallsSoFar(make_id)

    def push(self, text: str) -> list[Delta]:
        """The parts that more text makes."""
        self._unread.push(text)
        return list(self._steps(is_final=False))

    def finish(self) -> list[Delta]:
        """The parts that are left at the end."""
        return [*self._steps(is_final=True), *self._spoken.finish()]

    def _steps(self, *, is_final: bool) -> Iterator[Delta]:
        mark = _START
        if self._mode == "start" and not _may_be_addressed(self._unread.text, is_final):
            self._mode = "text"
        while mark and not self._is_in_head:
            marks = (_MESSAGE,) if self._mode == "head" else (_CHANNEL, _START, *_ENDS)
            text, mark = self._unread.until(marks, is_final=is_final)
            yield from self._body(text)
            if mark:
                self._turn(mark, text)

    @property
    def _is_in_head(self) -> bool:
        """Whether a head has not ended, which says nothing before."""
        ends = {"start": _CHANNEL, "head": _MESSAGE}
        return self._mode in ends and ends[self._mode] not in self._unread.text

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
            tool = _TO_TOOL.search(f"{self._to} {head}")
            self._name, self._arguments = tool[1] if tool else "", ""
            self._mode = "call" if tool else "thought" if "analysis" in head else "text"
            return
        if self._mode == "call":
            self._calls.close()
        self._spoken.begin()
        self._to = head if self._mode in ("start", "between") and mark == _CHANNEL else ""
        self._mode = "head" if mark == _CHANNEL else "between"


def _may_be_addressed(text: str, is_final: bool) -> bool:
    """Whether an answer begins, as far as it has come, with whom it is to, in front of its channel."""
    return _TO.startswith(text.lstrip()[: len(_TO)]) and (_CHANNEL in text or not is_final)
