"""Responses that are kept in memory, for those that go on from them: a bounded number, the oldest are forgotten."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MOST: Final = 1024
MOST_BYTES: Final = 64 << 20


@dataclass(frozen=True)
class Stored:
    """A response, and its conversation up to and with it, without instructions."""

    response: Mapping[str, Any]
    messages: tuple[dict[str, Any], ...]


class Kept:
    """The responses that were used last."""

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._all: OrderedDict[str, tuple[Stored, int]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._all)

    def put(self, stored: Stored) -> None:
        """Keeps a response; one that is larger than all that may be kept is not."""
        size = len(json.dumps([stored.response, stored.messages]))
        self._all[stored.response["id"]] = stored, size
        self._bytes += size
        while len(self._all) > self._most or self._bytes > self._most_bytes:
            self._bytes -= self._all.popitem(last=False)[1][1]

    def get(self, id: str) -> Stored | None:
        """The response of a name, None if it is not there any more."""
        if id not in self._all:
            return None
        self._all.move_to_end(id)
        return self._all[id][0]

    def remove(self, id: str) -> bool:
        """Forgets a response; whether it was there."""
        if id not in self._all:
            return False
        self._bytes -= self._all.pop(id)[1]
        return True
