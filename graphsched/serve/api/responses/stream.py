"""The events of a response as it comes, by OpenAI's names."""

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

from graphsched.serve.api.events import data
from graphsched.serve.api.failures import Failure
from graphsched.serve.api.passages import Begins, Change, Grows, Passage
from graphsched.serve.api.responses.items import item, item_id, part


class Numbered:
    """Events of one response, which are numbered."""

    def __init__(self, id: str) -> None:
        self._id = id
        self._numbers = count()

    def event(self, kind: str, /, **fields: Any) -> bytes:
        """One event."""
        return data({"type": kind, "sequence_number": next(self._numbers)} | fields, kind)

    def changed(self, changes: Iterable[Change]) -> Iterator[bytes]:
        """The events that tell how passages change."""
        for change in changes:
            if isinstance(change, Begins):
                yield from self._begins(change.passage)
            elif isinstance(change, Grows):
                yield self._grows(change)
            else:
                yield from self._ends(change.passage)

    def _begins(self, passage: Passage) -> Iterator[bytes]:
        added = item(self._id, passage, "in_progress")
        yield self.event("response.output_item.added", output_index=passage.index, item=added)
        if passage.kind != "call":
            yield self.event("response.content_part.added", **self._at(passage), part=part(passage, ""))

    def _grows(self, grows: Grows) -> bytes:
        more: dict[str, Any] = {"delta": grows.text} | (
            {"logprobs": []} if grows.passage.kind == "text" else {}
        )
        return self.event(f"{_name(grows.passage)}.delta", **self._at(grows.passage), **more)

    def _ends(self, passage: Passage) -> Iterator[bytes]:
        at, name = self._at(passage), f"{_name(passage)}.done"
        if passage.kind == "call":
            yield self.event(name, **at, name=passage.name, arguments=passage.text)
        else:
            more: dict[str, Any] = {"text": passage.text} | (
                {"logprobs": []} if passage.kind == "text" else {}
            )
            yield self.event(name, **at, **more)
            yield self.event("response.content_part.done", **at, part=part(passage, passage.text))
        done = item(self._id, passage, "completed")
        yield self.event("response.output_item.done", output_index=passage.index, item=done)

    def _at(self, passage: Passage) -> dict[str, Any]:
        where = {"item_id": item_id(self._id, passage), "output_index": passage.index}
        return where | ({} if passage.kind == "call" else {"content_index": 0})


def _name(passage: Passage) -> str:
    names = {"text": "output_text", "thoughts": "reasoning_text", "call": "function_call_arguments"}
    return f"response.{names[passage.kind]}"


def error_form(failure: Failure) -> dict[str, Any]:
    """The event of an error in a stream."""
    told = {"code": failure.code or failure.kind, "message": failure.what, "param": failure.param}
    return {"type": "error", "sequence_number": 0} | told
