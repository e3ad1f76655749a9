"""Causes of placement in words; the short names are ggml's."""

from collections.abc import Mapping
from typing import Final

MEANINGS: Final[Mapping[str, str]] = {
    "1.off": "weight in host memory, which the policy uploads",
    "1.dst": "the layer's cache is there",
    "1.kv": "the layer's cache is there",
    "2.sup": "as its neighbours",
    "3.best": "most of its sources are there",
    "traffic": "fewer bytes cross than on the device",
}


def meaning(cause: str) -> str:
    """A cause with what it means, where a table says it."""
    return f"{cause}: {MEANINGS[cause]}" if cause in MEANINGS else cause
