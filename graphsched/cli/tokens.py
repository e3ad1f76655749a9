"""Tokens of a text as lines."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphsched.text.tokenizer import Tokenizer


def pieces(tokenizer: "Tokenizer", ids: Sequence[int]) -> list[str]:
    """What each token stands for; a piece that ends inside a character shows U+FFFD."""
    return [tokenizer.piece(i, special=True).decode("utf-8", "replace") for i in ids]


def listed(tokenizer: "Tokenizer", ids: Sequence[int]) -> str:
    """A line for each token, as llama.cpp has them."""
    texts = zip(ids, pieces(tokenizer, ids), strict=True)
    return "\n".join(f"{i:6} -> {json.dumps(text, ensure_ascii=False)}" for i, text in texts)
