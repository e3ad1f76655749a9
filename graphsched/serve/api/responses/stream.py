"""The events of a response as it comes, by OpenAI's names."""

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

from graphsched.serve.api.blocks import Begins, Block, Change, Grows
from graphsched.serve.api.events import data
from graphsched.serve.api.failures import Failure
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
        """The events that tell how blocks change."""
        for change in changes:
            if isinstance(change, Begins):
                yield from self._begins(change.block)
            elif isinstance(change, Grows):
                yield self._grows(change)
            else:
                yield from self._ends(change.block)

    def _begins(self, block: Block) -> Iterator[bytes]:
        added = item(self._id, block, "in_progress")
        yield self.event("response.output_item.added", output_index=block.index, item=added)
        if block.kind != "call":
            yield self.event("response.content_part.added", **self._at(block), part=part(block, ""))

    def _grows(self, grows: Grows) -> bytes:
        more: dict[str, Any] = {"delta": grows.text} | (
            {"logprobs": []} if grows.block.kind == "text" else {}
        )
        return self.event(f"{_name(grows.block)}.delta", **self._at(grows.block), **more)

    def _ends(self, block: Block) -> Iterator[bytes]:
        at, name = self._at(block), f"{_name(block)}.done"
        if block.kind == "call":
            yield self.event(name, **at, name=block.name, arguments=block.text)
        else:
            more: dict[str, Any] = {"text": block.text} | ({"logprobs": []} if block.kind == "text" else {})
            yield self.event(name, **at, **more)
            yield self.event("response.content_part.done", **at, part=part(block, block.text))
        done = item(self._id, block, "completed")
        yield self.event("response.output_item.done", output_index=block.index, item=done)

    def _at(self, block: Block) -> dict[str, Any]:
        where = {"item_id": item_id(self._id, block), "output_index": block.index}
        return where | ({} if block.kind == "call" else {"content_index": 0})


def _name(block: Block) -> str:
    names = {"text": "output_text", "thoughts": "reasoning_text", "call": "function_call_arguments"}
    return f"response.{names[block.kind]}"


def error_form(failure: Failure) -> dict[str, Any]:
    """The event of an error in a stream."""
    told = {"code": failure.code or failure.kind, "message": failure.what, "param": failure.param}
    return {"type": "error", "sequence_number": 0} | told
