"""Vocabularies in SentencePiece's manner, spaces as ▁ and bytes as tokens of their own.

`tokenizer.ggml.model = llama`: pairs merge by their union's score; `gemma4`: pairs that are listed merge, as in a BPE.
"""

import re
from functools import cached_property
from typing import Final

import numpy as np

from graphsched.text.merge import merge, per_word
from graphsched.text.vocab import Fields, TokenType, Vocab

_SPACE: Final = "▁"
_NORMAL, _BYTE_KIND = int(TokenType.NORMAL), int(TokenType.BYTE)
_WORDS: Final = re.compile(f"{_SPACE}*[^{_SPACE}]+|{_SPACE}+")
_JOINS_WORDS: Final = re.compile(f"[^{_SPACE}\0]{_SPACE}")
_LINES: Final = re.compile(r"[^\n]+|\n+")
_BYTE: Final = re.compile("<0x([0-9A-Fa-f]{2})>")


class SpmCoder:
    """Text between special tokens -> ids, id -> bytes."""

    notes: tuple[str, ...] = ()

    def __init__(self, vocab: Vocab, fields: Fields) -> None:
        self._vocab = vocab
        self._scores: list[float] = fields.numbers("ggml.scores", np.float64, len(vocab.tokens), 0.0).tolist()
        self.add_bos, self.add_space_prefix = True, fields.flag("ggml.add_space_prefix", True)
        self._squeeze = fields.flag("ggml.remove_extra_whitespaces", False)
        self._words = per_word(self._word)

    def encode(self, text: str, after_special: bool) -> list[int]:
        """Ids of a text; one that follows a special token, or nothing, gets the space that starts a word."""
        if self._squeeze:
            text = " ".join(filter(None, text.split(" ")))
        if not text:
            return []
        text = (" " + text if self.add_space_prefix and after_special else text).replace(" ", _SPACE)
        return self._words(_WORDS.findall(text) if self._words_are_apart else [text])

    def piece(self, token: int) -> bytes:
        """The bytes of a token, ▁ as a space."""
        text, kind = self._vocab.tokens[token], self._vocab.kinds[token]
        if kind == _BYTE_KIND and (match := _BYTE.fullmatch(text)):
            return bytes.fromhex(match[1])
        if kind == _NORMAL:
            text = text.replace(_SPACE, " ")
        return text.encode("utf-8", "surrogateescape")

    @cached_property
    def _ids(self) -> dict[str, int]:
        return self._vocab.plain_ids()

    @cached_property
    def _words_are_apart(self) -> bool:
        # then no merge crosses a space, and each word gives the same ids alone as in its text
        return _JOINS_WORDS.search("\0".join(self._vocab.tokens)) is None

    def _word(self, word: str) -> list[int]:
        return [i for symbol in merge(list(word), self._rank) for i in self._symbol(symbol)]

    def _rank(self, left: str, right: str) -> float | None:
        """What merges first has the least; None if it does not merge."""
        token = self._ids.get(left + right)
        return None if token is None else -self._scores[token]

    def _symbol(self, symbol: str) -> list[int]:
        if (token := self._ids.get(symbol)) is not None:
            return [token]
        found = [
            self._vocab.ids.get(f"<0x{b:02X}>", self._vocab.unk)
            for b in symbol.encode("utf-8", "surrogateescape")
        ]
        return [i for i in found if i is not None]


class ListedCoder(SpmCoder):
    """The same with a list of pairs, as Gemma 4 has it; lines are cut before."""

    def __init__(self, vocab: Vocab, fields: Fields) -> None:
        super().__init__(vocab, fields)
        self.add_bos, self.add_space_prefix = False, fields.flag("ggml.add_space_prefix", False)
        merges = fields.strings("ggml.merges")
        self._ranks = dict(zip(reversed(merges), range(len(merges) - 1, -1, -1), strict=True))

    def encode(self, text: str, after_special: bool) -> list[int]:
        """Ids of a text, line by line, runs of line ends apart."""
        lines = _LINES.findall(text)
        return [
            i
            for n, line in enumerate(lines)
            for i in super(ListedCoder, self).encode(line, after_special and not n)
        ]

    def _rank(self, left: str, right: str) -> float | None:
        return self._ranks.get(f"{left} {right}")
